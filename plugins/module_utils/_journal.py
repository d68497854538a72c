"""The transaction's journal: one JSON line before each step and one after it, on the disk before the step begins.

A journal file exists exactly while a transaction is open. When it ends the file moves to `journal.d/`, so that its
presence alone says "unfinished".
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ._errors import BackstayError
from ._storage import Storage, canonical

FORMAT = 1
KEEP = 50  # finished journals kept for the curious


@dataclass(frozen=True)
class Record:
    """One line. `step` names what is about to be done or was; `state` is begin, done, failed, undo or undone."""

    number: int
    time: str
    step: str
    state: str
    data: dict[str, Any] = field(default_factory=dict)


def parse(content: bytes, *, path: str) -> tuple[tuple[Record, ...], int]:
    """The records of a journal and the size in bytes of its whole lines.

    A torn last line (the host died while it was written) is left out: its step never began. Raises BackstayError
    for a line in the middle that cannot be read, and for a newer format.
    """
    records: list[Record] = []
    good = 0
    lines = content.split(b"\n")
    for index, line in enumerate(lines[:-1]):
        try:
            value = json.loads(line)
            if value["format"] > FORMAT:
                raise BackstayError(
                    f"{path} has format {value['format']} and this backstay knows {FORMAT}: "
                    "update the host's command with playbooks/site.yml."
                )
            record = Record(value["number"], value["time"], value["step"], value["state"], value["data"])
        except (ValueError, KeyError, TypeError) as broken:
            if index == len(lines) - 2:  # a torn line that still got its newline from a later block
                break
            raise BackstayError(
                f"{path} cannot be read at line {index + 1}: keep a copy of it, look at `backstay status`, then "
                f"move it away."
            ) from broken
        records.append(record)
        good += len(line) + 1
    return tuple(records), good


class Journal:
    """Writes and reads the journal of one application."""

    def __init__(self, path: Path, archive: Path, storage: Storage, now: Callable[[], str]) -> None:
        self._path = path
        self._archive = archive
        self._storage = storage
        self._now = now
        self._next = 1

    def read(self) -> tuple[Record, ...]:
        """What is there, and on the disk: the writer may have been killed before its sync, and whoever recovers acts on
        what it reads. A torn last line is cut off, so that the next record begins on a line of its own."""
        content = self._storage.read(self._path)
        if content is None:
            return ()
        self._storage.sync(self._path)
        records, good = parse(content, path=str(self._path))
        if good != len(content):
            self._storage.truncate(self._path, good)
        self._next = len(records) + 1
        return records

    def write(self, step: str, state: str, **data: Any) -> Record:
        """Append a record; when this returns it is on the disk."""
        record = Record(self._next, self._now(), step, state, data)
        line = canonical({"format": FORMAT, **record.__dict__})
        self._storage.append(self._path, line)
        self._next += 1
        return record

    def close(self, name: str) -> None:
        """The transaction has ended: move the journal to the archive under its transaction's name."""
        if self._path.exists():
            self._storage.rename(self._path, self._archive / f"{name}.jsonl")
        self._next = 1
        # Their names are times, and a clock may have jumped back: the one just put away stays in any case.
        for old in sorted(self._archive.glob("*.jsonl"), key=lambda path: (path.stem == name, path.name))[:-KEEP]:
            self._storage.remove(old)
