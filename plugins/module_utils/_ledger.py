"""The ledger of releases: append-only JSON lines, each carrying the hash of the one before it.

The state of every release is folded from it and stored nowhere else. The head (number and hash of the last line) is
anchored in a file beside it, written after the line: a ledger shorter than its anchor was truncated, one that is a
line longer was cut off by a crash between the two writes, and a last line without a newline is torn, not tampered.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
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
    """What a ledger file says: entries, the hash of the last, bytes of whole lines, and what is wrong with it."""

    entries: tuple[Entry, ...]
    head: str
    good_bytes: int
    torn: bool
    fault: str | None


def read_entries(content: bytes, *, path: str = "ledger") -> Reading:
    """Parse and check the chain; never raises for damage, which is told in `fault` and ends the reading there."""
    entries: list[Entry] = []
    head = _GENESIS
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
                return Reading(tuple(entries), head, good, True, None)
            return Reading(tuple(entries), head, good, torn, f"{where} is not a ledger entry")
        if version > FORMAT:
            return Reading(tuple(entries), head, good, torn, f"{where} has the newer format {version}")
        if previous != head or entry.number != index + 1:
            return Reading(tuple(entries), head, good, torn, f"{where} does not follow the line before it")
        if hashlib.sha256(canonical(value)).hexdigest() != stated:
            return Reading(tuple(entries), head, good, torn, f"{where} was changed after it was written")
        entries.append(entry)
        head = stated
        good += len(line) + 1
    return Reading(tuple(entries), head, good, torn, None)


class Ledger:
    """Reads and appends the ledger of one application."""

    def __init__(self, path: Path, storage: Storage, now: Callable[[], str]) -> None:
        self._path = path
        self._anchor = path.with_suffix(".head")
        self._storage = storage
        self._now = now

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
        return "sound", f"{len(reading.entries)} entries, each following the one before it."

    def append(self, event: str, release: str, **data: Any) -> Entry:
        """Append one event; when this returns it is on the disk."""
        reading = self._reading()
        fault = reading.fault or self._anchor_fault(reading)
        if fault:
            raise BackstayError(f"The ledger {self._path} cannot be trusted, nothing is added to it: {fault}.")
        if reading.torn:
            self._storage.truncate(self._path, reading.good_bytes)
        entry = Entry(len(reading.entries) + 1, self._now(), event, release, data)
        value: dict[str, Any] = {"format": FORMAT, "previous": reading.head, **entry.__dict__}
        digest = hashlib.sha256(canonical(value)).hexdigest()
        self._storage.append(self._path, canonical({**value, "hash": digest}))
        self._storage.write(
            self._anchor, canonical({"format": FORMAT, "number": entry.number, "hash": digest}), mode=0o600
        )
        return entry

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

    def _anchor_fault(self, reading: Reading) -> str | None:
        content = self._storage.read(self._anchor)
        if content is None:
            return None if len(reading.entries) <= 1 else f"its anchor {self._anchor.name} is missing"
        try:
            anchor = json.loads(content)
            number, digest = int(anchor["number"]), str(anchor["hash"])
        except (ValueError, KeyError, TypeError):
            return f"its anchor {self._anchor.name} cannot be read"
        if number > len(reading.entries):
            return f"it ends after entry {len(reading.entries)} and its anchor names entry {number}: it was truncated"
        if number < len(reading.entries) - 1:
            count = len(reading.entries)
            return f"its anchor names entry {number} of {count}: the anchor is old or the ledger was added to"
        if number == len(reading.entries) and digest != reading.head:
            return "its last entry is not the one that its anchor names"
        return None
