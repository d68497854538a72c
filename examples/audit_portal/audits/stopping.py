"""Stopping when asked to."""

from __future__ import annotations

import os
import select
import signal


class Stop:
    """Set by SIGTERM and SIGINT; waiting for it returns at once then.

    Not a threading.Event: that takes a lock to be set, and a signal that comes while the same thread has it,
    on its way into `wait`, would wait for it for ever.
    """

    def __init__(self) -> None:
        self._asked = False
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)

    def set(self, *_signal: object) -> None:
        if not self._asked:
            self._asked = True
            os.write(self._write, b".")

    def is_set(self) -> bool:
        return self._asked

    def wait(self, seconds: float) -> bool:
        select.select([self._read], [], [], seconds)
        return self._asked


def stop_event() -> Stop:
    """Return what SIGTERM and SIGINT set."""
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop.set)
    return stop
