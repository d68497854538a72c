"""What an application's file may say about its jobs."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._application import from_dict, parse, to_dict
from ansible_collections.backstay.ops.plugins.module_utils._declare import desired
from ansible_collections.backstay.ops.plugins.module_utils._environment import unused
from ansible_collections.backstay.ops.plugins.module_utils._errors import InputError
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._releases import running_part

from .house import described, job

BACKUP = {"repositories": {"offsite": {"location": "sftp:b@store:/portal"}}}


def refused(jobs: Any, **more: Any) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        parse(described(jobs, **more), file="portal.yml")
    return caught.value.lines


def test_an_application_without_jobs_has_none() -> None:
    assert parse(described(), file="portal.yml").schedules.jobs == {}


def test_what_is_written_is_read_back() -> None:
    application = parse(described({"tidy": job("python", "tidy", ping="PING_TIDY")}), file="portal.yml")
    assert from_dict(to_dict(application), file="portal.json") == application


def test_two_times_are_refused_because_they_would_add_up() -> None:
    (line,) = refused({"tidy": job() | {"when": ["daily", "daily 03:00"]}})
    assert "several would add up" in line


def test_a_time_that_yaml_reads_as_a_number_is_refused() -> None:
    (line,) = refused({"tidy": job() | {"when": 180}})
    assert "`schedules.jobs.tidy.when` in portal.yml is 180" in line


@pytest.mark.parametrize("name", ["Tidy", "tidy-up", "a:b", "9tidy", "tidy up"])
def test_a_name_that_could_confuse_a_unit_is_refused(name: str) -> None:
    (line,) = refused({name: job()})
    assert "lower-case letters" in line


def test_an_unknown_key_is_refused() -> None:
    (line,) = refused({"tidy": job(user="root")})
    assert "unknown key `schedules.jobs.tidy.user`" in line


def test_what_cron_cannot_say_is_refused_when_cron_is_to_run_it() -> None:
    (line,) = refused({"tidy": job(when="mon *-*-1..7 03:00")}, scheduler="cron")
    assert "cron would run it on either" in line


def test_a_job_that_needs_a_proof_needs_backups() -> None:
    (line,) = refused({"tidy": job(needs_proof_hours=24)})
    assert "nothing is backed up and proven here" in line


def test_a_job_that_could_never_find_a_proof_young_enough_is_refused() -> None:
    """Made at 02:00 and proven at 03:30: at 03:00 the newest that is proven is of yesterday, 25 hours old."""
    (line,) = refused({"tidy": job(when="daily 03:00", needs_proof_hours=24)}, backup=BACKUP)
    assert "always 25 h old" in line


@pytest.mark.parametrize(
    ("when", "nightly", "at"),
    [("daily 03:00", "02:30", "02:00"), ("daily 04:00", "03:30", "02:00"), ("daily 01:00", "00:30", "23:30")],
)
def test_a_job_after_the_proof_is_fine(when: str, nightly: str, at: str) -> None:
    backup = BACKUP | {"at": at, "proof": {"nightly": nightly}}
    jobs = {"tidy": job(when=when, needs_proof_hours=24)}
    assert parse(described(jobs, backup=backup), file="portal.yml").schedules.jobs["tidy"].needs_proof_hours == 24


def test_a_job_needs_no_release() -> None:
    before = to_dict(parse(described(), file="portal.yml"))
    after = to_dict(parse(described({"tidy": job()}), file="portal.yml"))
    assert before != after
    assert running_part(before) == running_part(after)


def test_the_url_to_tell_is_kept_from_the_application() -> None:
    application = parse(described({"tidy": job(ping="PING_TIDY")}), file="portal.yml")
    given = {"PING_TIDY": "https://hc-ping.com/abc"}
    wanted = desired(Layout("portal"), application, given, "0001")
    assert b"hc-ping.com" in wanted.files[Layout("portal").secrets_file]
    assert unused(application, given) == ()
    assert "PING_TIDY" not in application.environment.secret


@pytest.mark.parametrize("url", [None, "", "hc-ping.com/abc", "https://hc-ping.com/abc?x=1"])
def test_a_url_that_cannot_be_told_is_refused_and_not_shown(url: str | None) -> None:
    application = parse(described({"tidy": job(ping="PING_TIDY")}), file="portal.yml")
    given = {} if url is None else {"PING_TIDY": url}
    with pytest.raises(InputError, match=r"\['PING_TIDY'\]") as caught:
        desired(Layout("portal"), application, given, "0001")
    assert "hc-ping.com/abc" not in caught.value.message
