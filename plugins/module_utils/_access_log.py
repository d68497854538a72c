"""The front door's access log: one JSON object per line, with the release that answered; read in bounded memory.

Nothing here asks what time it is: who answered and where a line lies say more than clocks, which may differ.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple

PROBE_AGENT = "backstay-probe/"
OURS = "ours"  # the route of our own questions: they tell who was in front, and count for nothing else
_OUR_AGENTS = ("backstay-probe/", "backstay-health")
TAIL_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 18
_LINE_BYTES = 1 << 16
_GIVEN_UP = 499  # nginx: the client closed the connection before the answer
_UPGRADED = 101
_NUMBERS = re.compile(r"^\d+$|^[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}$|^(?=[^/]*\d)[0-9A-Za-z_=-]{16,}$|^[0-9a-f]{8,}$")


class Hit(NamedTuple):
    """One request that reached the application. `seconds` are the application's own, None where they say nothing
    (an upgraded connection lasts as long as somebody listens); `second` is that of the log line, since 1970."""

    second: int
    release: str  # "" when the application did not say, as when it did not answer at all
    route: str
    status: int
    seconds: float | None
    client: str

    @property
    def failed(self) -> bool:
        return self.status >= 500


def route_of(method: str, path: str) -> str:
    """A path without what names one thing of many: `GET /audits/#/findings/`."""
    parts = ["#" if _NUMBERS.match(part) else part for part in path[:400].split("/")]
    return f"{method[:12]} {'/'.join(parts)[:120]}"


def parse_hit(line: bytes, times: dict[bytes, int] | None = None) -> Hit | None:
    """A line of the log; None for what nginx answered itself, and for what is no such line.

    `times` remembers what the last stamp meant: thousands of lines share one.
    """
    try:
        row = json.loads(line)
        agent = row["user_agent"]
        if not row["upstream_addr"] or row["upstream_addr"] == "-":
            return None
        stamp = row["time"]
        second = None if times is None else times.get(stamp)
        if second is None:
            second = int(datetime.fromisoformat(stamp).timestamp())
            if times is not None:
                times.clear()
                times[stamp] = second
        status = int(row["status"])
        return Hit(
            second,
            row["release"],
            OURS if agent.startswith(_OUR_AGENTS) else route_of(row["method"], row["uri"]),
            status,
            None if status == _UPGRADED else _seconds(row["upstream_seconds"]),
            row["remote_addr"],
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _seconds(text: str) -> float | None:
    """nginx writes one number per attempt: "0.004", "0.000, 0.120", "0.000 : 0.120", "-"."""
    found = [float(part) for part in re.split(r"[,:]", text) if part.strip() not in ("", "-")]
    return sum(found) if found else None


class Follower:
    """Reads what a log gets, through rotation and truncation; at most `tail_bytes` at once, the newest of them."""

    def __init__(self, path: Path, *, tail_bytes: int = TAIL_BYTES) -> None:
        self.path = path
        self.tail_bytes = tail_bytes
        self.skipped_bytes = 0
        self._file: BinaryIO | None = None
        self._rest = b""
        self._times: dict[bytes, int] = {}

    def past(self) -> Iterator[Hit]:
        """What lies in the log now, and in the one before it (`.1`) where there is room left; then it is followed."""
        self._open()
        size = os.fstat(self._file.fileno()).st_size if self._file else 0
        room = self.tail_bytes - size
        rotated = self.path.with_name(self.path.name + ".1")
        if room > 0:
            try:
                with rotated.open("rb") as before:
                    yield from self._hits(self._tail(before, room))
            except OSError:
                pass  # never rotated yet, or just now: what there is is enough
        self._rest = b""
        yield from self.fresh()

    def fresh(self) -> Iterator[Hit]:
        """What was written since the last call."""
        if self._file is None:
            self._open()
        if self._file is not None:
            yield from self._hits(self._tail(self._file, self.tail_bytes))
            if self._replaced():
                # What nginx still writes into the old file until it is told, it has written by the next call.
                yield from self._hits(self._tail(self._file, self.tail_bytes))
                self.close()
                self._open()
                if self._file is not None:
                    yield from self._hits(self._tail(self._file, self.tail_bytes))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        self._rest = b""

    def _open(self) -> None:
        if self._file is None:
            try:
                self._file = self.path.open("rb")
            except OSError:
                return  # nobody asked anything yet

    def _replaced(self) -> bool:
        """Whether another file has this name now, and nginx writes there."""
        if self._file is None:
            return False
        here = os.fstat(self._file.fileno())
        try:
            named = self.path.stat()
        except OSError:
            return False
        return (here.st_ino, here.st_dev) != (named.st_ino, named.st_dev) and named.st_size > 0

    def _tail(self, file: BinaryIO, limit: int) -> Iterator[bytes]:
        """Whole lines from the file's position on; what is more than `limit` before its end is passed over."""
        size, position = os.fstat(file.fileno()).st_size, file.tell()
        if size < position:  # truncated in place
            file.seek(0)
            position, self._rest = 0, b""
        cut = size - position > limit
        if cut:
            self.skipped_bytes += size - position - limit
            file.seek(size - limit)
            self._rest = b""
        left = size - file.tell()
        while left > 0:
            chunk = file.read(min(_CHUNK_BYTES, left))
            if not chunk:
                return
            left -= len(chunk)
            lines = (self._rest + chunk).split(b"\n")
            self._rest = lines.pop()[-_LINE_BYTES:]
            if cut:
                lines, cut = lines[1:], False  # the first is the end of one
            yield from lines

    def _hits(self, lines: Iterator[bytes]) -> Iterator[Hit]:
        for line in lines:
            hit = parse_hit(line, self._times)
            if hit is not None:
                yield hit


def access_log(root: Path, application: str) -> Path:
    """Where the front door writes it (role nginx)."""
    return root / "var" / "log" / "nginx" / f"{application}.access.log"
