"""What a log got since somebody looked last, across processes: a place in it that survives rotation and half lines.

A place is an inode, an offset, and how the file begins: file systems give the number of a removed file to the next one.
The file that had the name before is followed too, because its writer keeps writing into it until it is told to open the
new one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

_CHUNK_BYTES = 1 << 18
_HEAD_BYTES = 96
_LONGEST_LINE_BYTES = 1 << 16


@dataclass(frozen=True)
class Place:
    """How far a file was read: up to the end of its last whole line."""

    inode: int
    offset: int
    head: str = ""  # a digest of its first bytes: a log may hold what nobody else is to read

    @classmethod
    def read(cls, value: Any) -> tuple[Place, ...]:
        """Places from JSON; what is damaged counts as none."""
        try:
            return tuple(cls(int(each["inode"]), int(each["offset"]), str(each["head"])) for each in value)
        except (TypeError, KeyError, ValueError):
            return ()

    def to_dict(self) -> Mapping[str, int | str]:
        return {"inode": self.inode, "offset": self.offset, "head": self.head}


_NOWHERE = Place(0, 0)  # no file has this number


class Since:
    """The whole lines that a log got since `places`, oldest first; then `places` is where to go on.

    At most `limit_bytes` of each file are read, the newest; `scale` is by how much what was read is to be multiplied
    to stand for all. Without places nothing is read: what was before is nobody's business now. A log that was not there
    at the first look has no before: all of it is read when it comes.
    """

    def __init__(self, path: Path, places: Sequence[Place], *, limit_bytes: int) -> None:
        self._path = path
        self._before = tuple(places)
        self._limit_bytes = limit_bytes
        self._read = self._skipped = 0
        self.places: tuple[Place, ...] = ()

    @property
    def scale(self) -> float:
        return (self._read + self._skipped) / self._read if self._read else 1.0

    def __iter__(self) -> Iterator[bytes]:
        known = {place.inode: place for place in self._before}
        found: list[Place] = []
        absent = False
        rotated = self._path.with_name(f"{self._path.name}.1")
        for path in (rotated, self._path):
            try:
                file = path.open("rb")
            except OSError as refused:  # nobody wrote yet, or it is compressed already
                absent = path is self._path and isinstance(refused, FileNotFoundError)
                continue
            with file:
                inode = os.fstat(file.fileno()).st_ino
                head = file.read(_HEAD_BYTES)
                place = known.get(inode)
                if place is not None and place.head != _digest(head[: place.offset]):
                    place = None  # another file that was given its number, or it was written anew
                if place is None and path is rotated:
                    continue
                if place is None and not self._before:
                    offset = self._end(file)  # the first look at all
                else:
                    offset = yield from self._lines(file, place.offset if place else 0)
                found.append(Place(inode, offset, _digest(head[:offset])))
        self.places = tuple(found) or self._before or ((_NOWHERE,) if absent else ())

    def _lines(self, file: BinaryIO, offset: int) -> Any:
        size = os.fstat(file.fileno()).st_size
        if size < offset:  # truncated in place
            offset = 0
        start = max(offset, size - self._limit_bytes)
        cut = start > offset
        self._skipped += start - offset
        file.seek(start)
        position, rest = start, b""
        while position < size:
            chunk = file.read(min(_CHUNK_BYTES, size - position))
            if not chunk:
                break
            position += len(chunk)
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            if cut and lines:
                lines, cut = lines[1:], False  # the first is the end of one
            for line in lines:
                self._read += len(line) + 1
                yield line
        # A half line is read when it is whole; what is longer than any line is passed over.
        return position - (len(rest) if len(rest) <= _LONGEST_LINE_BYTES else 0)

    def _end(self, file: BinaryIO) -> int:
        """The end of the last whole line."""
        size = os.fstat(file.fileno()).st_size
        start = max(0, size - _LONGEST_LINE_BYTES)
        file.seek(start)
        tail = file.read(size - start)
        return start + tail.rfind(b"\n") + 1


def _digest(head: bytes) -> str:
    return hashlib.sha256(head).hexdigest()[:16]
