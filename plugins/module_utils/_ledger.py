"""The ledger of releases: append-only JSON lines, each carrying the hash of the one before it.

The state of every release is folded from it and stored nowhere else. The head (number and hash of the last line) is
anchored in a file beside it, written after the line is on the disk: a ledger shorter than its anchor was truncated, one
that is a line longer was cut off by a crash between the two writes, and a last line without a newline is torn, not
tampered. Whoever appends brings the anchor up first, so no row of crashes leaves it more than one line behind. The
order is that of the lines, never that of their times: a clock may jump.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ._errors import BackstayError
from ._storage import Storage, canonical

FORMAT = 1
_GENESIS = "0" * 64
_LOOKS = 6  # how often a fault is looked at again, 20 ms apart


@dataclass(frozen=True)
class Entry:
    """One event in the life of a release. `event` is a state of `_releases.State`, or a note such as drained."""

    number: int
    time: str
    event: str
    release: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """What a ledger file says: entries, the hash of the last and of the one before it, bytes of whole lines, and what
    is wrong with it."""

    entries: tuple[Entry, ...]
    head: str
    before: str
    good_bytes: int
    torn: bool
    fault: str | None


def read_entries(content: bytes, *, path: str = "ledger") -> Reading:
    """Parse and check the chain; never raises for damage, which is told in `fault` and ends the reading there."""
    entries: list[Entry] = []
    head = before = _GENESIS
    good = 0
    lines = content.split(b"\n")
    torn = lines[-1] != b""
    for index, line in enumerate(lines[:-1]):
        where = f"line {index + 1} of {path}"
        try:
            value = json.loads(line)
            stated = value.pop("hash")
            previous = value["previous"]
            entry = Entry(value["number"], value["time"], value["event"], value["release"], value["data"])
            version = value["format"]
        except (ValueError, KeyError, TypeError, AttributeError):
            if index == len(lines) - 2 and not torn:
                return Reading(tuple(entries), head, before, good, True, None)
            return Reading(tuple(entries), head, before, good, torn, f"{where} is not a ledger entry")
        if version > FORMAT:
            return Reading(tuple(entries), head, before, good, torn, f"{where} has the newer format {version}")
        if previous != head or entry.number != index + 1:
            return Reading(tuple(entries), head, before, good, torn, f"{where} does not follow the line before it")
        if hashlib.sha256(canonical(value)).hexdigest() != stated:
            return Reading(tuple(entries), head, before, good, torn, f"{where} was changed after it was written")
        entries.append(entry)
        before, head = head, stated
        good += len(line) + 1
    return Reading(tuple(entries), head, before, good, torn, None)


class Ledger:
    """Reads and appends the ledger of one application."""

    def __init__(self, path: Path, storage: Storage, now: Callable[[], str]) -> None:
        self._path = path
        self._anchor = path.with_suffix(".head")
        self._storage = storage
        self._now = now
        self._synced = ""  # the head up to which all was synced by this very object

    def read(self) -> tuple[Entry, ...]:
        """All entries. Raises BackstayError when the ledger was tampered with or truncated."""
        reading, fault = self._settled()
        if fault:
            raise BackstayError(
                f"The ledger {self._path} cannot be trusted: {fault}; restore it from a backup, or see "
                "`backstay history --verify` and docs/troubleshooting.md."
            )
        return reading.entries

    def verify(self) -> tuple[str, str]:
        """(verdict, sentence): sound, torn (a crash cut the last line, harmless), or tampered."""
        reading, fault = self._settled()
        if fault:
            return "tampered", f"{fault[0].upper()}{fault[1:]}."
        if reading.torn:
            return "torn", "The last line was cut off by a crash; the next entry replaces it, nothing else is missing."
        count = f"{len(reading.entries)} entries, each following the one before it"
        if self._lags(reading):
            return "sound", f"{count}; a crash came before the last was anchored, and the next entry mends that."
        return "sound", f"{count}."

    def append(self, event: str, release: str, /, **data: Any) -> Entry:
        """Append one event; when this returns it is on the disk. One writer at a time: a proof tells of itself while a
        backup does. Raises BackstayError where the ledger cannot be trusted."""
        with _alone(self._path.parent):
            return self._append(event, release, data)

    def _append(self, event: str, release: str, data: dict[str, Any]) -> Entry:
        reading = self._reading()
        fault = reading.fault or self._anchor_fault(reading)
        if fault:
            raise BackstayError(f"The ledger {self._path} cannot be trusted, nothing is added to it: {fault}.")
        if reading.torn:
            self._storage.truncate(self._path, reading.good_bytes)
        if self._synced != reading.head and reading.entries:
            # Whoever wrote before may have been killed before its sync. What was read may be in memory alone, and no
            # anchor may be on the disk before what it names, nor an entry after one that is not anchored there.
            self._storage.sync(self._path)
        self._synced = ""
        if self._lags(reading):
            self._write_anchor(len(reading.entries), reading.head)
        entry = Entry(len(reading.entries) + 1, self._now(), event, release, data)
        value: dict[str, Any] = {"format": FORMAT, "previous": reading.head, **entry.__dict__}
        digest = hashlib.sha256(canonical(value)).hexdigest()
        self._storage.append(self._path, canonical({**value, "hash": digest}))
        self._write_anchor(entry.number, digest)
        self._synced = digest
        return entry

    def _write_anchor(self, number: int, digest: str) -> None:
        content = canonical({"format": FORMAT, "number": number, "hash": digest})
        self._storage.write(self._anchor, content, mode=0o600)

    def _settled(self) -> tuple[Reading, str | None]:
        """The reading, and what is wrong with it. Whoever only looks holds no lock: between the reading of the ledger
        and of its anchor a transaction may have added entries, so a fault counts when it stays."""
        looks = 1
        while True:
            reading = self._reading()
            fault = reading.fault or self._anchor_fault(reading)
            if fault is None or looks == _LOOKS:
                return reading, fault
            looks += 1
            time.sleep(0.02)

    def _reading(self) -> Reading:
        return read_entries(self._storage.read(self._path) or b"", path=self._path.name)

    def _anchored(self) -> tuple[int, str] | None:
        """(number, hash) of the entry that the anchor names, 0 where there is none; None when it cannot be read."""
        content = self._storage.read(self._anchor)
        if content is None:
            return 0, _GENESIS
        try:
            anchor = json.loads(content)
            return int(anchor["number"]), str(anchor["hash"])
        except (ValueError, KeyError, TypeError):
            return None

    def _lags(self, reading: Reading) -> bool:
        """Whether the last entry is not anchored yet."""
        return self._anchored() != (len(reading.entries), reading.head)

    def _anchor_fault(self, reading: Reading) -> str | None:
        anchored = self._anchored()
        if anchored is None:
            return f"its anchor {self._anchor.name} cannot be read"
        number, digest = anchored
        count = len(reading.entries)
        if number > count:
            return f"it ends after entry {count} and its anchor names entry {number}: it was truncated"
        if number < count - 1:
            if number == 0:
                return f"its anchor {self._anchor.name} is missing"
            return f"its anchor names entry {number} of {count}: the anchor is old or the ledger was added to"
        if digest != (reading.head if number == count else reading.before):
            which = "last entry" if number == count else "last entry but one"
            return f"its {which} is not the one that its anchor names"
        return None


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """The directory itself is locked: on a full disk no file could be made for that."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield  # nothing was ever written there; whoever writes says what is missing
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # held for one entry, and gone with its holder
        yield
    finally:
        os.close(descriptor)
