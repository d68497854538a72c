"""An S3 store that is killed in the middle of a command, at a chosen request of it, and comes back with what it holds.

restic then tries again for minutes. Nobody here waits for that: it is killed when it has said why it tries again, which
it says at its end too.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ansible_collections.backstay.ops.plugins.module_utils._run import Completed, run

from .kills import ALL
from .stores import S3, free_port

SECONDS = 120.0  # restic says why it tries again within one
_REQUEST = re.compile(rb"(?:GET|HEAD|PUT|POST|DELETE) \S+ HTTP/1\.1\r\n")

Command = tuple[str, int]  # restic's verb, and how often it was called in this run
Strike = tuple[str, int, int]  # a command, and how many requests of it have come


class Door:
    """The only way to a store. It counts the requests that come; at one of them the store is killed."""

    def __init__(self, store: S3) -> None:
        self.store = store
        self.port = free_port()
        self.requests = 0
        self.lost = threading.Event()
        self._left = 0
        self._guard = threading.Lock()
        self._connected: set[socket.socket] = set()
        self.open()

    def filled(self, bucket: str, repository: Path, path: str) -> str:
        """The location of a copy of a local repository."""
        self.store.filled(bucket, repository, path)
        return f"s3:http://127.0.0.1:{self.port}/{bucket}/{path}"

    def open(self) -> None:
        self.lost.clear()
        self._left = 0
        self._listening = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def lose_at(self, request: int) -> None:
        """The store is killed when so many requests have come from now on; the last of them it never sees."""
        self._left = request

    def back(self) -> None:
        self.store.start()
        self.open()

    def close(self) -> None:
        with self._guard:
            for each in (self._listening, *self._connected):
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            self._connected.clear()
        self._listening.close()

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = listening.accept()[0]
                try:
                    server = socket.create_connection(("127.0.0.1", self.store.http))
                except OSError:
                    client.close()
                    continue
                with self._guard:
                    self._connected |= {client, server}
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=self._carry, args=(one, other, one is client), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket, asks: bool) -> None:
        with contextlib.suppress(OSError):
            while content := one.recv(1 << 16):
                if asks and _REQUEST.match(content) and self._is_the_last():
                    break
                other.sendall(content)
        for each in (one, other):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        one.close()
        with self._guard:
            self._connected.discard(one)

    def _is_the_last(self) -> bool:
        with self._guard:
            self.requests += 1
            last = self._left == 1
            self._left -= self._left > 0
        if last:
            self.store.stop()
            self.close()
            self.lost.set()
        return last


class Losing:
    """A runner for whom the store is lost at a strike; never where that is None. It counts in any case."""

    def __init__(self, door: Door, strike: Strike | None = None) -> None:
        self.door = door
        self.strike = strike
        self.counted: dict[Command, int] = {}  # the requests of each command of restic's, in their order
        self._calls: Counter[str] = Counter()
        self._guard = threading.Lock()

    def __call__(self, arguments: Sequence[str], **given: Any) -> Completed:
        if "-r" not in arguments:
            return run(arguments, **given)
        with self._guard:  # one at a time: of two nobody could say whose request it was
            verb = arguments[list(arguments).index("-r") + 2]
            self._calls[verb] += 1
            command = (verb, self._calls[verb])
            if self.strike and self.strike[:2] == command:
                self.door.lose_at(self.strike[2])
            before = self.door.requests
            try:
                return self._restic(arguments, **given)
            finally:
                self.counted[command] = self.door.requests - before

    def _restic(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        **_unused: Any,
    ) -> Completed:
        with tempfile.TemporaryFile("w+b") as output, tempfile.TemporaryFile("w+b") as errors:
            process = subprocess.Popen(
                list(arguments), cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=errors
            )
            said, deadline = "", time.monotonic() + SECONDS
            try:
                while process.poll() is None and not (self.door.lost.is_set() and "retrying after" in said):
                    if time.monotonic() > deadline:
                        raise RuntimeError(f"{arguments} neither ended nor said why it waits: {said}")
                    time.sleep(0.01)
                    said = _content(errors)
            finally:
                process.kill()
                process.wait()
            # Its code, had it not been killed: 1 at the end of its attempts.
            code = process.returncode if process.returncode >= 0 else 1
            return Completed(tuple(arguments), code, _content(output), _content(errors))


def _content(file: IO[bytes]) -> str:
    """restic writes on where it is: nobody may move it there."""
    return os.pread(file.fileno(), 1 << 24, 0).decode(errors="replace")


def strikes(sample: Sequence[Strike], count: Callable[[Losing], object], door: Door) -> list[Strike]:
    """The sample; with `BACKSTAY_ALL=1` every third request of every command of a run that `count` makes. Not the last
    ones: whoever is removing its lock has all that it came for."""
    if not ALL:
        return list(sample)
    counting = Losing(door)
    count(counting)
    return [
        (*command, number) for command, requests in counting.counted.items() for number in range(1, requests - 4, 3)
    ]
