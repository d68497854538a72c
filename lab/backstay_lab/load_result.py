"""What came back, folded into numbers: pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

FIRST_FAILURES = 20


class Record(NamedTuple):
    """One request. `at` and `latency` are seconds, `at` since the epoch and when it ended; status 0: no answer.

    `reason` is empty for the expected answer, `closed` marks a keep-alive connection closed under the client.
    """

    at: float
    kind: str
    path: str
    status: int
    latency: float
    release: str
    reason: str = ""
    closed: bool = False

    @property
    def ok(self) -> bool:
        return not self.reason and not self.closed


class Write(NamedTuple):
    """A write that was sent; `at` is when its answer came, in seconds since the epoch."""

    at: float
    token: str
    path: str
    release: str


@dataclass(frozen=True)
class LoadResult:
    """The verdict. Times in seconds since the epoch, durations in seconds or, where named so, milliseconds.

    `requests` = `succeeded` + `failed` + `closed_racing`. `closed_keepalive` counts connections closed under a client:
    `closed_racing` after the request was sent and before any byte of the answer (that request is neither a
    success nor a failure), `closed_idle` before it was sent (nothing was lost, a new connection took it).
    Percentiles are of successful requests, slow ones apart in `by_kind`.
    """

    began_at: float
    seconds: float
    requests: int
    succeeded: int
    failed: int
    failures: tuple[dict[str, Any], ...]
    closed_keepalive: int
    closed_idle: int
    closed_racing: int
    longest_gap_seconds: float
    longest_gap_at: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    requests_per_second: float
    by_release: dict[str, int]
    by_kind: dict[str, dict[str, float]]
    writes: tuple[Write, ...]
    writes_in_doubt: tuple[Write, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values; writes as objects with `at`, `token`, `path` and `release`."""
        plain = asdict(self)
        plain["writes"] = [write._asdict() for write in self.writes]
        plain["writes_in_doubt"] = [write._asdict() for write in self.writes_in_doubt]
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> LoadResult:
        values = dict(plain)
        values["failures"] = tuple(values["failures"])
        for key in ("writes", "writes_in_doubt"):
            values[key] = tuple(Write(**write) for write in values[key])
        return cls(**values)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` (0 to 1) of the values do not exceed; 0 for none. `values` are sorted."""
    if not values:
        return 0.0
    return values[max(0, math.ceil(share * len(values)) - 1)]


def longest_gap(successes: Iterable[float], began: float, ended: float) -> tuple[float, float]:
    """The longest time without a success between `began` and `ended`, and when it began."""
    longest, since, last = 0.0, began, began
    for at in [*sorted(success for success in successes if began <= success <= ended), ended]:
        if at - last > longest:
            longest, since = at - last, last
        last = at
    return longest, since


def fold(
    records: Iterable[Record],
    *,
    began: float,
    asking_ended: float,
    closed_idle: int = 0,
    writes: Iterable[Write] = (),
    writes_in_doubt: Iterable[Write] = (),
) -> LoadResult:
    """All records as one result. `asking_ended` is when the last request was due: what slow answers came after it
    count, but the wait for them is no gap."""
    ordered = sorted(records, key=lambda record: record.at)
    good = [record for record in ordered if record.ok]
    bad = [record for record in ordered if record.reason]
    racing = sum(record.closed for record in ordered)
    quick = sorted(record.latency for record in good if record.kind != "slow")
    gap, gap_at = longest_gap((record.at for record in good), began, asking_ended)
    ended = max([asking_ended, *(record.at for record in ordered[-1:])])
    return LoadResult(
        began_at=round(began, 3),
        seconds=round(ended - began, 3),
        requests=len(ordered),
        succeeded=len(good),
        failed=len(bad),
        failures=tuple(_failure(record) for record in bad[:FIRST_FAILURES]),
        closed_keepalive=closed_idle + racing,
        closed_idle=closed_idle,
        closed_racing=racing,
        longest_gap_seconds=round(gap, 4),
        longest_gap_at=round(gap_at, 3),
        p50_ms=_ms(percentile(quick, 0.5)),
        p99_ms=_ms(percentile(quick, 0.99)),
        max_ms=_ms(quick[-1] if quick else 0.0),
        requests_per_second=round(len(ordered) / max(ended - began, 0.001), 1),
        by_release=dict(sorted(Counter(record.release or "-" for record in good).items())),
        by_kind={kind: _of_kind(ordered, kind) for kind in sorted({record.kind for record in ordered})},
        writes=tuple(sorted(writes)),
        writes_in_doubt=tuple(sorted(writes_in_doubt)),
    )


def _failure(record: Record) -> dict[str, Any]:
    return {
        "at": round(record.at, 3),
        "kind": record.kind,
        "path": record.path,
        "status": record.status,
        "latency_ms": _ms(record.latency),
        "release": record.release,
        "reason": record.reason,
    }


def _of_kind(records: Sequence[Record], kind: str) -> dict[str, float]:
    own = [record for record in records if record.kind == kind]
    latencies = sorted(record.latency for record in own if record.ok)
    return {
        "requests": len(own),
        "failed": sum(bool(record.reason) for record in own),
        "p50_ms": _ms(percentile(latencies, 0.5)),
        "p99_ms": _ms(percentile(latencies, 0.99)),
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
