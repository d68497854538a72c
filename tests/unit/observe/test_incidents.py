"""One message when it begins, one when it is over: whoever dies in between, whatever somebody acknowledged."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _incidents
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, InputError
from ansible_collections.backstay.ops.plugins.module_utils._house import House
from ansible_collections.backstay.ops.plugins.module_utils._incidents import Told
from ansible_collections.backstay.ops.plugins.module_utils._thresholds import Severity

from .world import START, Disk, incident

KEY = incident().key


class Book:
    """The incidents of a host, and what was put out about them; by id, as the outbox has it."""

    def __init__(self, root: Path, disk: Disk | None = None) -> None:
        self.house, self.disk, self.now = House(root), disk or Disk(), START
        self.out: dict[str, Told] = {}
        self.held = False

    def put_out(self, due: Sequence[Told]) -> None:
        self.out |= {each.id: each for each in due}

    def tell(self, minutes: float = 1) -> list[str]:
        self.now += dt.timedelta(minutes=minutes)
        told = _incidents.tell(self.house, self.disk, self.now, held=lambda _incident: self.held, put_out=self.put_out)
        return [each.moment for each in told]

    def begin(self, sentence: str = "It failed", severity: Severity = "warn") -> bool:
        wrong = replace(incident(sentence=sentence), severity=severity)
        return _incidents.raise_(self.house, self.disk, wrong, self.now)

    def end(self) -> bool:
        return _incidents.settle(self.house, self.disk, KEY, self.now)

    def acknowledge(self, hours: float) -> None:
        until = self.now + dt.timedelta(hours=hours)
        _incidents.acknowledge(self.house, self.disk, KEY, by="ada", until=until, why="known", now=self.now)


def test_it_is_told_when_it_begins_and_when_it_is_over_and_never_again(tmp_path: Path) -> None:
    book = Book(tmp_path)
    assert book.begin()
    assert not book.begin("It failed again")
    assert book.tell() == ["begin"]
    book.begin("It failed once more")
    assert book.tell() == []
    assert book.end()
    assert not book.end()
    assert book.tell() == ["over"]
    assert book.tell() == []
    assert book.begin(), "what comes back is a new one"
    assert book.tell() == ["begin"]


def test_what_was_over_before_it_could_be_told_is_told_to_nobody(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.held = True
    book.begin()
    assert book.tell() == []
    book.end()
    book.held = False
    assert book.tell() == []
    assert _incidents.opened(book.house, book.disk) == ()


def test_what_is_held_back_is_told_afterwards(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.begin()
    book.tell()
    book.held = True
    book.end()
    assert book.tell() == []
    assert _incidents.opened(book.house, book.disk) == (), "it is over, whoever was told of it"
    book.held = False
    assert book.tell() == ["over"]


def test_what_ends_and_begins_again_while_nothing_may_be_sent_never_ended(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.begin()
    book.tell()
    book.held = True
    book.end()
    book.tell()
    book.begin()
    book.held = False
    assert book.tell() == []
    assert [each.since for each in _incidents.opened(book.house, book.disk)] == ["2026-11-21T08:00:00Z"]


def test_an_acknowledgement_silences_messages_and_changes_nothing_else(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.begin()
    book.acknowledge(hours=1)
    assert book.tell() == []
    shown = _incidents.opened(book.house, book.disk)[0]
    assert (shown.incident.severity, shown.acknowledged_by, shown.over) == ("warn", "ada", None)
    book.end()
    assert book.tell() == []
    book.now += dt.timedelta(hours=2)
    assert book.tell() == [], "it is over, and nobody was told that it was"


def test_what_is_still_so_when_the_acknowledgement_ends_is_told_once(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.begin()
    book.tell()
    book.acknowledge(hours=1)
    assert book.tell(minutes=59) == []
    assert book.tell(minutes=2) == ["still"]
    assert book.tell() == []
    book.end()
    assert book.tell() == ["over"]


def test_what_becomes_worse_is_told_once_however_it_goes_to_and_fro(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.begin(severity="advice")
    assert book.tell() == ["begin"]
    course: list[tuple[Severity, list[str]]] = [("warn", ["worse"]), ("page", ["worse"]), ("warn", []), ("page", [])]
    for severity, told in [*course, ("advice", [])]:
        book.begin(severity=severity)
        assert book.tell() == told, severity
    book.end()
    assert book.tell() == ["over"]
    assert [each.sentence for each in book.out.values()][:1] == ["It failed"]
    assert len(book.out) == 4, "each message has a name of its own"


def test_an_acknowledgement_is_of_what_was_known_and_not_of_what_becomes_worse(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.begin()
    book.tell()
    book.acknowledge(hours=4)
    assert book.tell() == []
    book.begin(severity="page")
    assert book.tell() == ["worse"]
    assert book.tell() == []
    book.acknowledge(hours=4)
    assert book.tell() == [], "somebody knows of this too"
    book.begin(severity="warn")
    assert book.tell() == []
    assert book.tell(minutes=241) == ["still"]


def test_what_became_worse_while_nothing_may_be_sent_is_told_afterwards(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.begin()
    book.tell()
    book.held = True
    book.begin(severity="page")
    assert book.tell() == []
    book.held = False
    assert book.tell() == ["worse"]


def test_what_an_older_command_told_of_is_not_told_again(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.begin()
    book.tell()
    content = json.loads(book.house.incidents.read_text())
    del content["open"][KEY]["told_as"]
    book.house.incidents.write_text(json.dumps(content))
    assert book.tell() == []
    book.begin(severity="page")
    assert book.tell() == ["worse"]


def test_nothing_but_what_is_open_can_be_acknowledged(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.begin()
    with pytest.raises(InputError, match=f"open is: {KEY}"):
        _incidents.acknowledge(book.house, book.disk, "host/cpu", by="", until=START, why="", now=START)


def test_a_damaged_file_is_told_and_nothing_is_lost_over_it(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.begin()
    book.house.incidents.write_text("{")
    with pytest.raises(BackstayError, match="move it away"):
        book.begin()
    assert book.house.incidents.read_text() == "{"


class Killed(BaseException):
    """The process is gone."""


class Dying(Disk):
    """A disk whose writer is killed before or after its n-th write."""

    left = 10**9
    after = False

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed

    def _rename(self, source: Path, target: Path) -> None:
        if not self.after:
            self._count()
        super()._rename(source, target)
        if self.after:
            self._count()

    def _append(self, path: Path, content: bytes, mode: int) -> None:
        if not self.after:
            self._count()
        super()._append(path, content, mode)
        if self.after:
            self._count()


@pytest.mark.parametrize("after", [False, True], ids=["before a write", "after a write"])
def test_whoever_is_killed_at_any_write_tells_each_moment_once(tmp_path: Path, after: bool) -> None:
    for left in range(12):
        disk = Dying()
        book = Book(tmp_path / str(left), disk)
        disk.left, disk.after = left, after
        for step in (book.begin, book.tell, book.end, book.tell):
            try:
                step()
            except Killed:
                disk.left = 10**9
                step()
        told = sorted(each.moment for each in book.out.values())
        assert told == ["begin", "over"], f"killed at write {left}"
        events = [row["event"] for row in _incidents.history(book.house, disk, 1, book.now)]
        assert set(events) <= {"begin", "over"}, events
