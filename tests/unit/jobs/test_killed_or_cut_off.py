"""The kill sweep over jobs: the runner is killed, or the power fails, after each single effect that a run has.

The moments are not listed here: a disk that tells of every write, sync and rename (tests/unit/crash) gives them, and
the pings and the command are moments too. A new write of the runner is swept without anyone remembering. Afterwards:
what `backstay jobs` says is true (never ok for a run that did not end well, never running), what was due and never
began is made up for at once, what began is not begun again, the next night works, and nothing is left behind.
"""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _job_results as results
from ansible_collections.backstay.ops.plugins.module_utils._job_results import Run, record, runs, stamp
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._lock import Lock
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage
from tests.unit.crash.lossy_storage import LossyStorage, Tree, fingerprint, lay

from .house import PING, House, shell

LATER = timedelta(minutes=40)  # more than the grace: whatever did not begin is late by then
NEVER, BEGUN, ENDED = "not written down", "begun", "ended"


@dataclass(frozen=True)
class Case:
    """A job before its run of this night."""

    name: str
    nights: int = 0  # how often it ran before
    torn: bool = False  # an earlier kill tore the last line
    room_bytes: int | None = None  # after which old results go
    exit: int = 0

    @property
    def ended(self) -> str:
        """What is to be said once the end is written down."""
        return "failed" if self.exit else "ok"

    @property
    def before(self) -> str:
        """What is to be said where nothing of this run is written down."""
        return "failed" if self.torn else "late" if self.nights else "never"


CASES = (
    Case("the first run"),
    Case("one of many", nights=3),
    Case("after a torn line", nights=2, torn=True),
    Case("when old results go", nights=4, room_bytes=600),
    Case("a command that fails", nights=1, exit=3),
)


@dataclass
class Progress:
    """How far a run was, at its least and at its most, by what the disk promised until then."""

    durable: str = NEVER
    written: str = NEVER


def house_of(root: Path, case: Case) -> House:
    house = House(root, {"tidy": shell("true", ping=PING)})
    house.secrets(**{PING: "https://ping.example.org/5d2a"})
    tonight = house.now + timedelta(hours=1, seconds=1)  # 03:00:01
    for night in range(case.nights, 0, -1):
        house.now = tonight - timedelta(days=night)
        begun = Run("tidy", start=stamp(house.now), release="0001-1.0.0")
        record(house.layout, house.storage, begun)
        if case.torn and night == 1:
            with house.layout.job_results("tidy").open("ab") as file:
                file.write(b'{"counts":null,"end":"2026-11-2')
        else:
            record(house.layout, house.storage, results.closed(begun, house.now, code=0))
    house.now = tonight
    return house


@dataclass
class Sweep:
    """One run of a case, and what may remain of the host at each of its moments."""

    case: Case
    house: House
    storage: LossyStorage
    progress: Progress = field(default_factory=Progress)

    def watch(self, at: Callable[[str], None]) -> None:
        """Run; `at` is told of each moment."""
        house, case = self.house, self.case

        def seen(label: str) -> None:
            # What is not on the disk yet may be there afterwards, or not.
            here = [run for run in runs(house.layout, Storage(), "tidy") if run.started >= house.now]
            if here:
                self.progress.written = ENDED if here[-1].end else BEGUN
                if not self.storage.on_its_way(house.layout.job_results("tidy")):
                    self.progress.durable = self.progress.written
            at(label)

        def spawn(arguments: Sequence[str], on_line: Callable[[str], None], seconds: float) -> int:
            seen("the command is about to begin")
            on_line("done")
            seen("the command is done")
            return case.exit

        def ping(url: str, what: str) -> str:
            seen(f"before the ping {what or 'of success'}")
            seen(f"after the ping {what or 'of success'}")
            return ""

        self.storage.at = seen
        house.storage = self.storage
        house.run("tidy", spawner=spawn, pinger=ping).go()

    def allowed(self) -> set[str]:
        """What may be said afterwards, once it is late."""
        said = {NEVER: self.case.before, BEGUN: "failed", ENDED: self.case.ended}
        order = (NEVER, BEGUN, ENDED)
        first, last = order.index(self.progress.durable), order.index(self.progress.written)
        return {said[each] for each in order[first : last + 1]}


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def sweep(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    case: Case = request.param
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # the model says what is on the disk
    house = house_of(tmp_path / "host", case)
    if case.room_bytes is not None:
        monkeypatch.setattr(results, "_ROOM_BYTES", case.room_bytes)
    return Sweep(case, house, LossyStorage(tmp_path / "host"))


def booted(house: House, root: Path) -> House:
    """The same host over what survived; nothing runs on it."""
    found = copy.copy(house)
    found.layout, found.storage = Layout("portal", root), Storage()
    return found


def judge(house: House, allowed: set[str], label: str) -> None:
    """What is to be true of a host on which a run was cut off."""
    began = house.now
    before = runs(house.layout, house.storage, "tidy")
    house.now = began + LATER
    said = house.state("tidy")
    assert said in allowed, f"{label}: `backstay jobs` says {said}, which is none of {sorted(allowed)}"

    def again() -> Run | None:
        return house.run("tidy", spawner=lambda *_given: 0, pinger=lambda url, what: "").go()

    known = bool(before) and before[-1].started >= began
    second = again()
    assert (second is None) is known, f"{label}: what began is not begun again, what did not is made up for"
    assert again() is None, label
    house.now = began + timedelta(days=1)
    third = again()
    assert third is not None, label
    assert third.ok, label
    assert house.state("tidy") == "ok", label
    found = [run.start for run in runs(house.layout, house.storage, "tidy")]
    assert len(found) == len(before) + (1 if known else 2), f"{label}: each run is there once"
    assert found[: len(before)] == [run.start for run in before], f"{label}: nothing of before is lost"
    left = sorted(path.name for path in house.layout.jobs.iterdir() if path.name.endswith(".new"))
    assert left == [], f"{label}: half a file is left behind"
    for path in (house.layout.data_lock, house.layout.job_lock("tidy")):
        lock = Lock(path)
        assert lock.take(), f"{label}: {path.name} is held by nobody who lives"
        lock.release()


def test_after_a_power_cut_at_any_moment_the_result_is_true_and_the_next_run_works(
    sweep: Sweep, tmp_path: Path
) -> None:
    kept: dict[int, tuple[str, set[str], Tree]] = {}

    def at(label: str) -> None:
        for tree in sweep.storage.survivors(thorough=True):
            # What a lock's file says of who held it is for people.
            number = fingerprint({path: content for path, content in tree.items() if not path.endswith(".lock")})
            allowed = sweep.allowed()
            kept[number] = (label, allowed & kept[number][1] if number in kept else allowed, tree)

    sweep.watch(at)
    moments = {label for label, _allowed, _tree in kept.values()}
    assert len(kept) >= 6, f"only {len(kept)} survivors, of {sorted(moments)}"
    assert sweep.progress.durable == ENDED, "the end of a run that ended is on the disk"
    for label, allowed, tree in kept.values():
        judge(booted(sweep.house, lay(tree, tmp_path / "survivor")), allowed, label)


class Moments:
    """Counts moments, and kills this process at one of them."""

    def __init__(self, deadly: int | None = None) -> None:
        self.labels: list[str] = []
        self.deadly = deadly

    def __call__(self, label: str) -> None:
        self.labels.append(label)
        if len(self.labels) - 1 == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)


def fresh(directory: Path, case: Case) -> Iterator[Sweep]:
    """One host after the other."""
    number = 0
    while True:
        root = directory / f"host{number}"
        yield Sweep(case, house_of(root, case), LossyStorage(root))
        number += 1


@pytest.mark.parametrize("case", [CASES[1], CASES[4]], ids=lambda case: case.name)
def test_killed_at_any_moment_the_result_is_true_and_no_lock_stays(tmp_path: Path, case: Case) -> None:
    hosts = fresh(tmp_path, case)
    whole = Moments()
    next(hosts).watch(whole)
    assert {"the command is about to begin", "before the ping /start"} <= set(whole.labels), whole.labels
    for number, label in enumerate(whole.labels):
        sweep = next(hosts)
        child = os.fork()
        if child == 0:
            sweep.watch(Moments(number))
            os._exit(1)  # it was not killed where it should have been
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert ended == -signal.SIGKILL, label
        mine = [run for run in runs(sweep.house.layout, Storage(), "tidy") if run.started >= sweep.house.now]
        seen = NEVER if not mine else ENDED if mine[-1].end else BEGUN
        sweep.progress = Progress(seen, seen)
        judge(booted(sweep.house, sweep.house.layout.root), sweep.allowed(), label)
