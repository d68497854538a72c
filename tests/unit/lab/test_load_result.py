from __future__ import annotations

import json

import pytest
from backstay_lab.load_result import FIRST_FAILURES, LoadResult, Record, Write, fold, longest_gap, percentile


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([], 0.99, 0.0),
        ([7.0], 0.5, 7.0),
        ([1.0, 2.0, 3.0, 4.0], 0.5, 2.0),
        ([1.0, 2.0, 3.0, 4.0], 0.99, 4.0),
        ([float(n) for n in range(1, 101)], 0.99, 99.0),
        ([float(n) for n in range(1, 101)], 0.0, 1.0),
    ],
)
def test_percentile(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected


@pytest.mark.parametrize(
    ("successes", "expected"),
    [
        ([], (10.0, 0.0)),
        ([5.0], (5.0, 0.0)),
        ([1.0, 2.0, 8.0, 9.5], (6.0, 2.0)),
        ([8.0, 2.0, 9.5, 1.0], (6.0, 2.0)),  # any order
        ([1.0, 3.0], (7.0, 3.0)),  # it never came back: the silence to the end counts
        ([0.5, 9.0, 14.0], (8.5, 0.5)),  # what came after the asking ended is no gap
    ],
)
def test_longest_gap(successes: list[float], expected: tuple[float, float]) -> None:
    assert longest_gap(successes, 0.0, 10.0) == expected


def _record(at: float, **values: object) -> Record:
    return Record(at=at, kind="read", path="/", status=200, latency=0.01, release="r1")._replace(**values)  # type: ignore[arg-type]  # a table of fields


def test_every_request_is_counted_exactly_once() -> None:
    records = [
        _record(1.0),
        _record(2.0, release="r2", latency=0.03),
        _record(3.0, status=502, reason="502 instead of 200", release=""),
        _record(4.0, status=0, closed=True, release=""),
        _record(5.0, kind="slow", latency=3.0),
        _record(6.0, kind="asset", release=""),
    ]
    result = fold(records, began=0.0, asking_ended=6.0, closed_idle=2)
    assert (result.requests, result.succeeded, result.failed, result.closed_racing) == (6, 4, 1, 1)
    assert result.closed_keepalive == 3
    assert result.by_release == {"-": 1, "r1": 2, "r2": 1}
    assert result.failures[0]["reason"] == "502 instead of 200"
    assert result.longest_gap_seconds == 3.0
    assert result.max_ms == 30.0, "a slow request has limits of its own and stays out of the percentiles"
    assert result.by_kind["slow"] == {"requests": 1, "failed": 0, "p50_ms": 3000.0, "p99_ms": 3000.0}


def test_only_the_first_failures_are_told() -> None:
    records = [_record(float(n), reason=f"failure {n}") for n in range(50, 0, -1)]
    result = fold(records, began=0.0, asking_ended=50.0)
    assert result.failed == 50
    assert [told["reason"] for told in result.failures] == [f"failure {n}" for n in range(1, FIRST_FAILURES + 1)]


def test_a_result_survives_json() -> None:
    write = Write(1.0, "token", "/audits/1/findings/", "r1")
    result = fold([_record(1.0)], began=0.0, asking_ended=2.0, writes=[write], writes_in_doubt=[write])
    assert LoadResult.from_json(json.loads(json.dumps(result.as_json()))) == result
