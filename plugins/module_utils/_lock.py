"""Locks between processes: flock(2) on a file, gone with the process that holds it, so never stale.

An application has two: `Layout.lock` is held by its one transaction, `Layout.data_lock` by whoever reads or changes the
data as a whole. A backup must not keep a rollback waiting, so it holds the second only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ._errors import Busy

# Who looks at a host by hand waits so long for the look that a timer began: each takes less than twenty seconds, also
# where nothing answers, and it must be over before the next minute's.
LOOK_SECONDS = 25.0


class Lock:
    """One lock. Who holds it may say `what` it is doing, for those who are kept waiting."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def take(
        self,
        *,
        wait_seconds: float = 0.0,
        what: str = "",
        waiting: Callable[[str], None] = lambda holder: None,
        shared: bool = False,
    ) -> bool:
        """Whether it is ours now; also when it was before. `waiting` is told once who holds it. `shared`: beside others
        that hold it so, and beside nobody else."""
        if self._descriptor is not None:
            return True
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + wait_seconds
        told = False
        while True:
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    os.close(descriptor)
                    return False
                if not told:
                    told = True
                    waiting(self.holder())
                time.sleep(0.05)
                continue
            self._descriptor = descriptor
            if what:
                with contextlib.suppress(OSError):  # a full disk: the lock is ours all the same
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, f"{what} (process {os.getpid()})".encode(), 0)
            return True

    def holder(self) -> str:
        """What the holder said it is doing; only of use to people."""
        with contextlib.suppress(OSError):
            return self._path.read_text(encoding="utf-8", errors="replace")[:200] or "somebody"
        return "somebody"

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@contextlib.contextmanager
def holding(path: Path, what: str, *, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold a lock meanwhile. Raises Busy, naming the holder, when it is not free in time."""
    lock = Lock(path)
    if not lock.take(wait_seconds=wait_seconds, what=what):
        raise Busy(f"The {what} cannot begin while this is under way: {lock.holder()}; wait for it, then run it again.")
    try:
        yield
    finally:
        lock.release()
