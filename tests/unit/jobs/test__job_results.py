"""What is known of runs survives every kill, stays bounded, and says what is late, missing, failed or never ran."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _job_results as results
from ansible_collections.backstay.ops.plugins.module_utils._job_results import Run, closed, pending, stamp, verdict
from ansible_collections.backstay.ops.plugins.module_utils._job_settings import Job
from ansible_collections.backstay.ops.plugins.module_utils._lock import Lock

from .house import DECLARED, House, job

BERLIN = ZoneInfo("Europe/Berlin")
NIGHTLY = Job(("true",), "daily 03:00")
SINCE = datetime(2026, 11, 1, 12, tzinfo=UTC)


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-{text}").replace(tzinfo=UTC)


def run(start: str, *, minutes: float | None = 1, code: int | None = 0, why: str = "") -> Run:
    begun = Run("tidy", stamp(at(start)))
    return begun if minutes is None else closed(begun, at(start) + timedelta(minutes=minutes), code=code, why=why)


def judged(*known: Run, now: str = "11-21 12:00", job: Job = NIGHTLY, running: bool = False) -> str:
    return verdict(job, known, SINCE, at(now), UTC, running=running)[0]


def test_a_job_that_never_ran_has_failed_from_the_first_day() -> None:
    assert judged(now="11-01 12:01") == "never"
    assert judged() == "never"


def test_a_job_that_ran_when_it_was_due_is_ok() -> None:
    assert judged(run("11-21 03:00:01")) == "ok"


def test_a_job_has_its_grace() -> None:
    assert judged(run("11-20 03:00:01"), now="11-21 03:29") == "ok"
    assert judged(run("11-20 03:00:01"), now="11-21 03:30") == "late"


def test_a_job_that_missed_twice_is_missing() -> None:
    assert judged(run("11-19 03:00:01"), now="11-21 03:30") == "missing"
    assert judged(run("11-20 09:00"), now="11-21 03:30") == "late", "a run in between counts for the time before it"


def test_a_job_that_was_run_by_hand_is_not_late_for_what_was_due_before() -> None:
    assert judged(run("11-21 09:00")) == "ok"


@pytest.mark.parametrize(("code", "why"), [(3, ""), (None, "it took longer than 5 s"), (0, "something")])
def test_a_run_that_did_not_end_well_is_a_failure(code: int | None, why: str) -> None:
    assert judged(run("11-21 03:00:01", code=code, why=why)) == "failed"


def test_a_run_without_an_end_was_killed_unless_somebody_runs_it() -> None:
    assert judged(run("11-21 03:00:01", minutes=None)) == "failed"
    assert verdict(NIGHTLY, [run("11-21 03:00:01", minutes=None)], SINCE, at("11-21 12:00"), UTC)[1] == results.KILLED
    assert judged(run("11-21 03:00:01", minutes=None), running=True) == "running"


def test_the_failure_of_yesterday_is_over_when_today_was_well() -> None:
    assert judged(run("11-20 03:00:01", code=1), run("11-21 03:00:01")) == "ok"


def test_a_run_dated_far_ahead_proves_nothing() -> None:
    assert judged(run("11-20 03:00:01"), run("12-24 03:00:01")) == "late"


def test_what_was_due_before_the_job_was_declared_is_not_missed() -> None:
    assert pending(NIGHTLY, (), SINCE, at("11-01 13:00"), UTC) is None
    assert pending(NIGHTLY, (), None, at("11-21 13:00"), UTC) is None, "nobody knows since when"
    assert pending(NIGHTLY, (), SINCE, at("11-02 03:00"), UTC) == at("11-02 03:00")


def test_nothing_is_due_twice() -> None:
    assert pending(NIGHTLY, [run("11-21 03:00:01")], SINCE, at("11-21 03:00:30"), UTC) is None
    assert pending(NIGHTLY, [run("11-21 03:00:01", code=1)], SINCE, at("11-21 04:00"), UTC) is None, (
        "nor after a failure"
    )


def test_without_catching_up_a_run_begins_within_its_grace_or_not_at_all() -> None:
    job = Job(("true",), "daily 03:00", catch_up=False)
    assert pending(job, (), SINCE, at("11-21 03:20"), UTC) is not None
    assert pending(job, (), SINCE, at("11-21 04:00"), UTC) is None
    assert pending(NIGHTLY, (), SINCE, at("11-21 04:00"), UTC) is not None


def test_a_time_that_comes_during_a_run_is_passed_over_or_follows() -> None:
    long = run("11-21 02:50", minutes=20)
    assert pending(NIGHTLY, [long], SINCE, at("11-21 03:11"), UTC) is None
    waiting = Job(("true",), "daily 03:00", overlap="wait")
    assert pending(waiting, [long], SINCE, at("11-21 03:11"), UTC) == at("11-21 03:00")
    assert judged(long) == "ok", "what is passed over by its own rule is not missing"


@pytest.mark.parametrize("when", ["daily 02:30", "daily 03:00", "hourly", "weekly sun 02:30", "*:0/15"])
@pytest.mark.parametrize("day", ["2026-03-28", "2026-10-24"])
def test_over_a_change_of_the_clock_nothing_is_missed_and_nothing_comes_twice(when: str, day: str) -> None:
    """Somebody asks each five minutes, as timers and the hourly question do together; each due time gets one run."""
    job = Job(("true",), when)
    now = datetime.fromisoformat(f"{day}T20:00").replace(tzinfo=BERLIN).astimezone(UTC)
    since, until = now, now + timedelta(days=1, hours=20)
    known: list[Run] = []
    states = set()
    while now < until:
        if pending(job, known, since, now, BERLIN) is not None:
            known.append(closed(Run("tidy", stamp(now)), now + timedelta(seconds=20), code=0))
        states.add(verdict(job, known, since, now, BERLIN)[0])
        now += timedelta(minutes=5)
    due = []
    moment: datetime | None = since - timedelta(seconds=1)
    while (moment := job.calendar.after(moment or since, BERLIN)) is not None and moment < until:
        due.append(stamp(moment))
    assert [each.start for each in known] == due
    assert states <= {"ok", "never"}


def test_runs_are_read_back_in_their_order(tmp_path: Path) -> None:
    house = House(tmp_path, {"tidy": job()})
    for day in (20, 21):
        begun = run(f"11-{day} 03:00", minutes=None)
        results.record(house.layout, house.storage, begun)
        done = closed(begun, at(f"11-{day} 03:01"), code=0, lines=["gone", '{"messages": 3}', "bye"])
        results.record(house.layout, house.storage, done)
    known = results.runs(house.layout, house.storage, "tidy")
    assert [each.start[:10] for each in known] == ["2026-11-20", "2026-11-21"]
    assert (known[-1].ok, known[-1].counts, known[-1].lines[0]) == (True, {"messages": 3}, "gone")
    assert house.layout.job_results("tidy").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("cut", range(1, 140, 23))
def test_a_torn_end_is_no_end_and_the_next_run_is_read(tmp_path: Path, cut: int) -> None:
    house = House(tmp_path, {"tidy": job()})
    begun = run("11-20 03:00", minutes=None)
    results.record(house.layout, house.storage, begun)
    whole = house.layout.job_results("tidy").read_bytes()
    results.record(house.layout, house.storage, closed(begun, at("11-20 03:01"), code=0))
    path = house.layout.job_results("tidy")
    path.write_bytes(path.read_bytes()[: len(whole) + cut])
    assert [each.end for each in results.runs(house.layout, house.storage, "tidy")] == [None]
    results.record(house.layout, house.storage, run("11-21 03:00"))
    assert [each.ok for each in results.runs(house.layout, house.storage, "tidy")] == [False, True]
    assert all(json.loads(line) for line in path.read_text().splitlines()), "no torn line stays"


def test_the_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "KEEP_RUNS", 5)
    monkeypatch.setattr(results, "_ROOM_BYTES", 2000)
    house = House(tmp_path, {"tidy": job()})
    moment = at("11-01 00:00")
    for number in range(40):
        begun = Run("tidy", stamp(moment + timedelta(hours=number)))
        results.record(house.layout, house.storage, begun)
        results.record(house.layout, house.storage, closed(begun, moment + timedelta(hours=number), code=0))
    assert house.layout.job_results("tidy").stat().st_size < 5000
    known = results.runs(house.layout, house.storage, "tidy")
    assert len(known) >= 5
    assert known[-1].start == stamp(moment + timedelta(hours=39))


def test_facts_tell_of_each_job_and_of_when_it_is_due(tmp_path: Path) -> None:
    house = House(tmp_path, {"tidy": job(), "count": job(when="weekly sun 04:30")})
    fact = house.fact("tidy")
    assert (fact["state"], fact["next_due"], fact["last_start"]) == ("never", "2026-11-21T03:00:00.000Z", None)
    assert house.fact("count")["next_due"] == "2026-11-22T04:30:00.000Z"


def test_a_job_that_somebody_holds_is_running_and_asking_takes_nothing(tmp_path: Path) -> None:
    house = House(tmp_path, {"tidy": job()})
    results.record(house.layout, house.storage, Run("tidy", stamp(house.now)))
    mine = Lock(house.layout.job_lock("tidy"))
    assert mine.take()
    assert house.state("tidy") == "running"
    mine.release()
    assert house.state("tidy") == "failed"
    assert Lock(house.layout.job_lock("tidy")).take()


def test_a_job_whose_time_changes_counts_anew_and_others_do_not(tmp_path: Path) -> None:
    house = House(tmp_path, {"tidy": job(), "count": job()})
    before = house.layout.declared_jobs.read_bytes()
    later = House(tmp_path / "later", {"tidy": job(), "count": job(when="daily 05:00"), "fresh": job()})
    since = results.declared_since(results.declaration(later.schedules, before, house.now))
    assert since["tidy"] == ("daily 03:00", DECLARED)
    assert since["count"] == ("daily 05:00", house.now)
    assert since["fresh"][1] == house.now


def test_the_servers_zone_is_that_of_etc_localtime(tmp_path: Path) -> None:
    assert results.server_zone(tmp_path)[1] == "UTC"
    (tmp_path / "etc").mkdir()
    link = tmp_path / "etc" / "localtime"
    link.symlink_to("/usr/share/zoneinfo/Europe/Berlin")
    zone, name = results.server_zone(tmp_path)
    assert name == "Europe/Berlin"
    assert at("07-01 12:00").astimezone(zone).hour == 14
    link.unlink()
    link.symlink_to("/usr/share/zoneinfo/Nowhere/Atall")
    assert results.server_zone(tmp_path)[1] == "UTC"
