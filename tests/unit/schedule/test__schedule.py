"""A backup is made at its time, by systemd or by cron and never by both, and one that was missed is made up for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._application import Application, parse
from ansible_collections.backstay.ops.plugins.module_utils._backup_settings import BackupPolicy
from ansible_collections.backstay.ops.plugins.module_utils._errors import InputError
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._schedule import (
    Schedule,
    cron_text,
    missed,
    passed_over,
    plan,
    schedule,
    time_of_day,
    timer_text,
)

from .portal import described

LAYOUT = Layout("portal")
BACKUP, VERIFY = "backstay-backup@portal.timer", "backstay-verify@portal.timer"
SKIPPED = "backstay-skipped@portal.timer"
CRON_FILE = Path("/etc/cron.d/backstay-backup-portal")
DROP_IN = {name: Path(f"/etc/systemd/system/{name}.d/time.conf") for name in (BACKUP, VERIFY)}


def portal(backup: dict[str, Any] | None = None) -> Application:
    repositories = {"repositories": {"disk": {"location": "/srv/backup/portal"}}}
    return parse(described(None if backup is None else repositories | backup), file="portal.yml")


def policy(**given: Any) -> BackupPolicy:
    found = portal(given).backup
    assert found is not None
    return found


def texts(wanted: Schedule) -> dict[Path, str]:
    return {path: text for path, text in wanted.files.items() if text is not None}


@pytest.mark.parametrize("text", ["24:00", "2:00", "02:60", "02:00 ", "0200", "", "noon", "02:00\n"])
def test_a_wrong_time_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(InputError, match="is no time of day: write one from 00:00 to 23:59"):
        time_of_day(text)


def test_a_wrong_time_in_the_applications_file_is_refused_before_anything() -> None:
    with pytest.raises(InputError, match=r"`backup\.at` in portal\.yml is '25:00': write a time of day"):
        portal({"at": "25:00"})


def test_systemd_is_told_the_time_alone() -> None:
    assert timer_text("04:05").splitlines()[1:] == ["[Timer]", "OnCalendar=", "OnCalendar=*-*-* 04:05:00"]


def test_by_default_systemd_backs_up_at_night_and_proves_it_afterwards() -> None:
    wanted = schedule(LAYOUT, policy())
    assert {path: text.splitlines()[-1] for path, text in texts(wanted).items()} == {
        DROP_IN[BACKUP]: "OnCalendar=*-*-* 02:00:00",
        DROP_IN[VERIFY]: "OnCalendar=*-*-* 03:30:00",
    }
    assert (wanted.on, wanted.off) == ((BACKUP, VERIFY, SKIPPED), ())


def test_cron_runs_the_same_commands_in_the_background_of_everything() -> None:
    lines = cron_text("portal", policy(at="23:07", scheduler="cron")).splitlines()
    jobs = [line.split(maxsplit=6) for line in lines if "/usr/bin/backstay" in line]
    assert [(job[:2], job[5]) for job in jobs] == [
        (["7", "23"], "root"),
        ([jobs[1][0], "*"], "root"),
        (["30", "3"], "root"),
        ([jobs[3][0], "*"], "root"),
    ]
    assert [job[6].removeprefix("nice -n 10 ionice -c 3 /usr/bin/backstay ") for job in jobs] == [
        "backup --scheduled portal >/dev/null",
        "backup --scheduled --if-missed portal >/dev/null",
        "verify --scheduled --level L4 portal >/dev/null",
        "verify --scheduled --if-missed portal >/dev/null",
    ]
    assert jobs[1][0] != jobs[3][0], "what proves comes after what makes"
    assert "MAILTO=root" in lines, "what goes wrong is mailed"


def test_several_applications_do_not_all_ask_in_the_same_minute() -> None:
    minutes = {
        next(line for line in cron_text(name, policy(scheduler="cron")).splitlines() if "--if-missed" in line).split()[
            0
        ]
        for name in ("portal", "harbour", "quay", "pier")
    }
    assert len(minutes) > 1


@pytest.mark.parametrize("scheduler", ["systemd", "cron"])
def test_exactly_one_scheduler_is_active(scheduler: str) -> None:
    wanted = schedule(LAYOUT, policy(scheduler=scheduler))
    by_cron = wanted.files[CRON_FILE] is not None
    by_systemd = BACKUP in wanted.on
    assert (by_cron, by_systemd) == (scheduler == "cron", scheduler == "systemd")
    assert by_systemd or (BACKUP in wanted.off and VERIFY in wanted.off)


def test_no_proof_at_night_means_no_timer_for_it() -> None:
    wanted = schedule(LAYOUT, policy(proof={"nightly": None}))
    assert (wanted.on, wanted.off) == ((BACKUP, SKIPPED), (VERIFY,))
    assert wanted.files[DROP_IN[VERIFY]] is None
    assert "verify" not in cron_text("portal", policy(scheduler="cron", proof={"nightly": None}))


def test_an_application_without_backups_is_taken_off_the_schedule() -> None:
    wanted = schedule(LAYOUT, portal().backup)
    assert texts(wanted) == {}
    assert (wanted.on, wanted.off) == ((), (BACKUP, VERIFY, SKIPPED))


def after(wanted: Schedule) -> tuple[dict[Path, str | None], frozenset[str], frozenset[str]]:
    """A host on which a schedule was carried out."""
    return dict(wanted.files), frozenset(wanted.on), frozenset(wanted.on)


@pytest.mark.parametrize("given", [{}, {"scheduler": "cron"}, {"proof": {"nightly": None}}])
def test_a_second_time_changes_nothing(given: dict[str, Any]) -> None:
    wanted = schedule(LAYOUT, policy(**given))
    assert not plan(wanted, *after(wanted)).changed


def test_switching_to_cron_removes_the_timers_and_back_again_the_file() -> None:
    by_systemd, by_cron = schedule(LAYOUT, policy()), schedule(LAYOUT, policy(scheduler="cron"))
    there = plan(by_cron, *after(by_systemd))
    assert there.disable == (BACKUP, VERIFY, SKIPPED)
    assert set(there.files) == {*DROP_IN.values(), CRON_FILE}
    assert there.enable == ("cron.service",)
    back = plan(by_systemd, *after(by_cron))
    assert (back.disable, back.enable, back.start) == ((), (BACKUP, VERIFY, SKIPPED), (BACKUP, VERIFY, SKIPPED))
    assert CRON_FILE in back.files


def test_a_timer_with_another_time_is_told_and_the_other_left_alone() -> None:
    planned = plan(schedule(LAYOUT, policy(at="05:00")), *after(schedule(LAYOUT, policy())))
    assert (planned.files, planned.restart, planned.enable) == ((DROP_IN[BACKUP],), (BACKUP,), ())


def test_a_timer_that_somebody_stopped_is_started_again() -> None:
    files, enabled, _active = after(schedule(LAYOUT, policy()))
    planned = plan(schedule(LAYOUT, policy()), files, enabled, frozenset({VERIFY, SKIPPED}))
    assert (planned.start, planned.enable, planned.files) == ((BACKUP,), (), ())


ZONE = timezone(timedelta(hours=2))
NOW = datetime(2026, 11, 21, 9, 0, tzinfo=ZONE)


@pytest.mark.parametrize(
    ("last", "now", "expected"),
    [
        (None, NOW, True),
        (datetime(2026, 11, 21, 2, 0, 5, tzinfo=ZONE), NOW, False),
        (datetime(2026, 11, 20, 2, 0, 5, tzinfo=ZONE), NOW, True),
        # A run that somebody asked for at three is as good as the one of two o'clock.
        (datetime(2026, 11, 21, 3, 0, tzinfo=ZONE), NOW, False),
        # Times of runs are UTC, the schedule is in the server's zone: this is 02:30 there.
        (datetime(2026, 11, 21, 0, 30, tzinfo=UTC), NOW, False),
        # The one of yesterday still counts before two o'clock, and the one of today has ten minutes to begin.
        (datetime(2026, 11, 20, 2, 0, 5, tzinfo=ZONE), datetime(2026, 11, 21, 1, 59, tzinfo=ZONE), False),
        (datetime(2026, 11, 20, 2, 0, 5, tzinfo=ZONE), datetime(2026, 11, 21, 2, 5, tzinfo=ZONE), False),
        (datetime(2026, 11, 20, 2, 0, 5, tzinfo=ZONE), datetime(2026, 11, 21, 2, 10, tzinfo=ZONE), True),
        # Written under a clock that was wrong: it proves nothing.
        (datetime(2031, 1, 1, 2, 0, tzinfo=ZONE), NOW, True),
    ],
)
def test_a_run_that_did_not_take_place_is_missed(last: datetime | None, now: datetime, expected: bool) -> None:
    assert missed("02:00", last, now) is expected


# The nights of 29 March and 25 October 2026 in Berlin: 02:00 becomes 03:00, and 03:00 becomes 02:00. Times are UTC.
BERLIN = ZoneInfo("Europe/Berlin")


def night(day: str, hour: str, zone: tzinfo = UTC) -> datetime:
    return datetime.fromisoformat(f"2026-{day}T{hour}:00").replace(tzinfo=zone)


@pytest.mark.parametrize(
    ("at", "last", "now", "expected"),
    [
        # Cron runs what the clock skipped right after the gap: that was the run of this night.
        ("02:00", night("03-29", "01:00"), night("03-29", "01:20"), False),
        ("02:30", night("03-29", "01:00"), night("03-29", "02:00"), False),
        ("02:30", night("03-28", "01:30"), night("03-29", "01:09"), False),
        ("02:30", night("03-28", "01:30"), night("03-29", "01:10"), True),
        ("03:00", night("03-29", "01:00"), night("03-29", "01:59"), False),
        # It ran when the clock showed that time first, and the second time is none of its own.
        ("02:00", night("10-25", "00:00"), night("10-25", "01:20"), False),
        ("02:30", night("10-25", "00:30"), night("10-25", "02:30"), False),
        ("02:30", night("10-24", "00:30"), night("10-25", "00:40"), True),
        ("02:30", night("10-24", "00:30"), night("10-25", "01:10"), True),
        ("03:30", night("10-24", "01:30"), night("10-25", "02:20"), False),
    ],
)
def test_neither_change_of_the_clock_makes_a_run_missed_or_due_twice(
    at: str, last: datetime, now: datetime, expected: bool
) -> None:
    assert missed(at, last, now.astimezone(BERLIN)) is expected


@pytest.mark.parametrize(
    ("at", "last", "now", "expected"),
    [
        ("02:00", night("03-28", "01:00"), night("03-29", "01:11"), True),
        ("02:30", night("03-28", "01:30"), night("03-29", "01:11"), True),
        ("02:30", night("03-29", "01:11"), night("03-29", "02:11"), False),
        # Whatever else was missed, systemd makes up for by itself.
        ("03:00", night("03-28", "02:00"), night("03-29", "01:11"), False),
        ("02:00", night("03-27", "01:00"), night("03-28", "05:11"), False),
        ("02:00", night("03-29", "01:11"), night("03-30", "05:11"), False),
    ],
)
def test_what_systemd_passes_over_is_what_the_clock_skipped(
    at: str, last: datetime, now: datetime, expected: bool
) -> None:
    assert passed_over(at, last, now.astimezone(BERLIN)) is expected
