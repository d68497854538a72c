"""The verbs `job` and `jobs`: what a person types, and what systemd and cron type."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _cli_jobs as verbs
from ansible_collections.backstay.ops.plugins.module_utils._errors import (
    BackstayError,
    Busy,
    GateRefused,
    InputError,
)
from ansible_collections.backstay.ops.plugins.module_utils._host import Host
from ansible_collections.backstay.ops.plugins.module_utils._lock import Lock
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed

from .house import House, shell

Service = Callable[[], None]


class Desk:
    """A person at the host; `service` is what happens when the unit of the job is started."""

    def __init__(self, root: Path, service: Service | None = None, **jobs: Any) -> None:
        self.house = House(root, jobs or {"tidy": shell("echo done"), "bad": shell("echo no; exit 3")})
        self.service = service
        self.started: list[str] = []
        self.state = "failed"
        self.host = Host(self.house.layout, storage=self.house.storage, runner=self.systemctl)
        self.told: dict[str, Any] = {}
        self.text = ""

    def systemctl(self, arguments: Sequence[str], **_options: Any) -> Completed:
        if arguments[:2] == ["systemctl", "is-active"]:
            return Completed(tuple(arguments), 3, f"{self.state}\n", "")
        if arguments[:2] == ["systemctl", "start"]:
            self.started += [word for word in arguments[2:] if not word.startswith("-")]
            if self.service is not None:
                self.service()
        return Completed(tuple(arguments), 0, "", "")

    def tell(self, _options: argparse.Namespace, value: dict[str, Any], text: str) -> None:
        self.told, self.text = value, text

    def job(self, name: str, **options: Any) -> int:
        given = argparse.Namespace(**{"scheduled": False, "json": False, "job": name, "application": None} | options)
        verbs.instance(given)
        return verbs.job(given, self.host, self.tell)

    def jobs(self, *, catch_up: bool = False) -> int:
        return verbs.jobs(argparse.Namespace(catch_up=catch_up, json=False), self.host, self.tell)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """One where the unit does what it does on a host."""
    found = Desk(tmp_path)

    def service() -> None:
        name = found.started[-1].partition(":")[2].removesuffix(".service")
        found.house.run(name).go()

    found.service = service
    found.house.run("tidy").go()  # so that none is due any more
    found.house.run("bad").go()
    return found


def test_a_person_starts_the_very_unit_that_a_timer_starts(desk: Desk) -> None:
    desk.house.now = desk.house.now.replace(hour=2, minute=30)
    assert desk.job("tidy") == 0
    assert desk.started == ["backstay-job@portal:tidy.service"]
    assert "ran in" in desk.text
    assert desk.text.endswith("  done")


def test_a_job_that_fails_ends_the_verb_with_1_and_its_last_words(desk: Desk) -> None:
    desk.house.now = desk.house.now.replace(hour=2, minute=30)
    assert desk.job("bad") == 1
    assert (desk.told["exit"], desk.told["ok"]) == (3, False)
    assert "exit code 3" in desk.text


def test_an_instance_of_systemd_names_application_and_job() -> None:
    given = argparse.Namespace(job="portal:tidy", application=None)
    verbs.instance(given)
    assert (given.application, given.job) == ("portal", "tidy")


def test_an_unknown_job_is_refused_with_those_there_are(desk: Desk) -> None:
    with pytest.raises(InputError, match="it has: tidy, bad"):
        desk.job("tydi")


@pytest.mark.parametrize(("why", "said"), [("isolated", "is isolated"), ("rebuilding", "its data are still to come")])
def test_on_data_that_are_a_copy_or_still_to_come_no_job_runs_and_none_is_missed(
    desk: Desk, why: str, said: str
) -> None:
    getattr(desk.house.layout, why).touch()
    with pytest.raises(GateRefused, match=said):
        desk.job("tidy")
    assert desk.jobs() == 0
    assert desk.told["jobs"] == []
    assert desk.jobs(catch_up=True) == 0
    assert desk.started == []


def test_two_at_once_are_refused(desk: Desk) -> None:
    lock = Lock(desk.house.layout.job_lock("tidy"))
    assert lock.take(what="job tidy")
    with pytest.raises(Busy, match="under way"):
        desk.job("tidy")
    lock.release()
    assert not desk.house.layout.job_asked("tidy").exists()


def test_a_job_that_waits_for_a_release_says_so(tmp_path: Path) -> None:
    desk = Desk(tmp_path)  # the unit ends with 4 and is tried again, so nothing is written down
    desk.state = "activating"
    with pytest.raises(Busy, match="then begins by itself"):
        desk.job("tidy")
    assert desk.house.layout.job_asked("tidy").exists()


def test_a_job_that_does_not_begin_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BackstayError, match="did not begin"):
        Desk(tmp_path).job("tidy")


def test_the_table_names_each_job_and_its_state(desk: Desk) -> None:
    assert desk.jobs() == 1
    lines = desk.text.splitlines()
    assert lines[0] == "portal: by systemd, times in UTC"
    assert [line.split()[0] for line in lines[1:]] == ["JOB", "tidy", "bad"]
    assert {each["job"] for each in desk.told["jobs"]} == {"tidy", "bad"}


def test_a_job_that_never_ran_is_no_good_news(tmp_path: Path) -> None:
    desk = Desk(tmp_path, tidy=shell("echo"))
    assert desk.jobs() == 1
    assert "never" in desk.text


def test_what_was_missed_is_started_once(tmp_path: Path) -> None:
    desk = Desk(tmp_path, tidy=shell("echo"), idle=shell("echo", catch_up=False))
    assert desk.jobs(catch_up=True) == 0
    assert desk.started == ["backstay-job@portal:tidy.service"]
    assert desk.told["started"] == ["tidy"]


def test_without_catching_up_a_time_that_the_clock_skipped_is_made_up_for_within_its_grace(tmp_path: Path) -> None:
    """systemd passes over a time that a change of the clock skips; to the hour it was ten minutes ago."""
    due = datetime.now(UTC) - timedelta(minutes=10)
    late = shell("echo", when=f"daily {due:%H:%M}", catch_up=False)
    desk = Desk(tmp_path, tidy=late | {"grace_seconds": 3600}, idle=late | {"grace_seconds": 360})
    assert desk.jobs(catch_up=True) == 0
    assert desk.told["started"] == ["tidy"]


def test_nothing_is_started_where_nothing_was_missed(tmp_path: Path) -> None:
    desk = Desk(tmp_path, tidy=shell("echo", when="2199-01-01 03:00"))
    assert desk.jobs(catch_up=True) == 0
    assert (desk.started, desk.told["changed"]) == ([], False)
