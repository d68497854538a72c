"""One visitor of our own through a release: asks the front door for the health path and counts what it sees."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

from ._errors import BackstayError
from ._http import Answer, Target, request
from ._version import VERSION

USER_AGENT = f"backstay-probe/{VERSION}"
TIMEOUT_SECONDS = 5.0
MOST_PROBES = 20_000
MOST_SECONDS = 90_000.0


class Probe(NamedTuple):
    """One question: when it was asked (of the prober's clock), whether the expected status came, which release said so,
    how long.

    `closed` is the maintenance page: a failure for a visitor, and no fault of a release.
    """

    at: float
    ok: bool
    release: str
    seconds: float
    closed: bool = False


@dataclass(frozen=True)
class ProbeSummary:
    """What a visitor would have seen. `longest_gap_seconds` lie between two good answers with a failure between them,
    0 when nothing failed; `first_failure` says what the first one was."""

    requests: int
    failed: int
    longest_gap_seconds: float
    p99_seconds: float
    first_failure: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def summarise(probes: list[Probe], first_failure: str = "") -> ProbeSummary:
    """Pure: the numbers of `summary`."""
    gap, left_at, broken = 0.0, probes[0].at if probes else 0.0, False
    for probe in probes:
        if not probe.ok:
            broken = True
            gap = max(gap, probe.at + probe.seconds - left_at)
            continue
        if broken:
            gap = max(gap, probe.at + probe.seconds - left_at)
        left_at, broken = probe.at + probe.seconds, False
    times = sorted(probe.seconds for probe in probes)
    p99 = times[max(0, math.ceil(0.99 * len(times)) - 1)] if times else 0.0
    failed = sum(not probe.ok for probe in probes)
    return ProbeSummary(len(probes), failed, round(gap, 3), round(p99, 3), first_failure)


class Prober:
    """A thread that asks once each interval, never twice at once, and at most `most` times in `most_seconds`."""

    def __init__(
        self,
        target: Target,
        path: str,
        *,
        interval_seconds: float = 0.5,
        expected_status: int = 200,
        timeout_seconds: float = TIMEOUT_SECONDS,
        most: int = MOST_PROBES,
        most_seconds: float = MOST_SECONDS,
        ask: Callable[..., Answer] = request,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.interval_seconds = interval_seconds
        self._target, self._path, self._timeout_seconds = target, path, timeout_seconds
        self._expected_status = expected_status
        self._most, self._most_seconds = most, most_seconds
        self._ask, self._clock = ask, clock
        self._probes: deque[Probe] = deque(maxlen=most)
        self._first_failure = ""
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to ask; doing it twice changes nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="prober", daemon=True)
            self._thread.start()

    def stop(self) -> ProbeSummary:
        """Ask no more, wait for the last answer (at most its time limit), and say what was seen."""
        self._end.set()
        if self._thread is not None:
            self._thread.join(self._timeout_seconds + 1.0)
        return self.summary()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _work(self) -> None:
        began = due = self._clock()
        while len(self._probes) < self._most and self._clock() - began < self._most_seconds:
            self.probe()
            due = max(due + self.interval_seconds, self._clock())  # what is late is left out, never caught up
            if self._end.wait(max(0.0, due - self._clock())):
                return

    def probe(self) -> Probe:
        """Ask once, now."""
        began = self._clock()
        release, reason, closed = "", "", False
        try:
            answer = self._ask(
                self._target,
                self._path,
                timeout_seconds=self._timeout_seconds,
                headers={"User-Agent": USER_AGENT},
                body_bytes=4096,
            )
            release = answer.release_id or ""
            closed = answer.status == 503 and not release
            if answer.status != self._expected_status:
                reason = f"{answer.status} from {release or 'the front door'}"
        except BackstayError as refused:
            reason = refused.message
        probe = Probe(began, not reason, release, self._clock() - began, closed)
        with self._lock:
            self._probes.append(probe)
            self._first_failure = self._first_failure or reason
        return probe

    def now(self) -> float:
        """The clock by which probes are stamped."""
        return self._clock()

    def probes(self, since: float | None = None) -> list[Probe]:
        """All, or those asked since a moment of its clock."""
        with self._lock:
            return [probe for probe in self._probes if since is None or probe.at >= since]

    def summary(self) -> ProbeSummary:
        """Of all so far: requests, failed, longest gap, 99th percentile of the time an answer took."""
        with self._lock:
            return summarise(list(self._probes), self._first_failure)
