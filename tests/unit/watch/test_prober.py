"""The prober asks one question at a time, as many as allowed, and reckons what a visitor would have seen."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._http import Answer, Target
from ansible_collections.backstay.ops.plugins.module_utils._prober import Probe, Prober, summarise

TARGET = Target.tcp("127.0.0.1", 443)


def probes(text: str) -> list[Probe]:
    """One letter per second: `.` is a good answer and `x` a failure, each 0.1 s long."""
    return [Probe(float(at), letter == ".", "1", 0.1) for at, letter in enumerate(text)]


@pytest.mark.parametrize(
    ("seen", "failed", "gap"),
    [
        ("", 0, 0.0),
        ("....", 0, 0.0),
        ("..x...", 1, 2.0),  # from the answer before to the answer after
        ("..xxx.", 3, 4.0),
        ("..x..xx.", 3, 3.0),
        ("..xx", 2, 2.0),  # it is not over
        ("xx..", 2, 2.1),  # from the first question
    ],
)
def test_the_longest_gap_lies_between_good_answers(seen: str, failed: int, gap: float) -> None:
    summary = summarise(probes(seen))
    assert (summary.requests, summary.failed) == (len(seen), failed)
    assert summary.longest_gap_seconds == pytest.approx(gap)


def test_the_99th_percentile_is_of_all_answers() -> None:
    seen = [Probe(float(at), True, "1", at / 1000) for at in range(1, 201)]
    assert summarise(seen).p99_seconds == pytest.approx(0.198)
    assert summarise([]).p99_seconds == 0.0


class Door:
    """A front door that answers as told and remembers how it was asked."""

    def __init__(self, status: int | None = 200) -> None:
        self.status = status
        self.asked: list[dict[str, Any]] = []
        self.inside = 0
        self.most_inside = 0

    def __call__(self, target: Target, path: str, **options: Any) -> Answer:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        self.asked.append({"path": path, **options})
        self.inside -= 1
        if self.status is None:
            raise BackstayError("connection refused at 127.0.0.1:443: nothing listens there")
        return Answer(self.status, {"x-release-id": "0002-1.1.0"}, b"", 0.01, "x")


def test_a_probe_says_what_it_is() -> None:
    door = Door()
    probe = Prober(TARGET, "/healthz/", ask=door).probe()
    assert probe.ok
    assert probe.release == "0002-1.1.0"
    assert door.asked[0]["path"] == "/healthz/"
    assert door.asked[0]["headers"]["User-Agent"].startswith("backstay-probe/")


@pytest.mark.parametrize(("status", "reason"), [(503, "503 from 0002-1.1.0"), (None, "connection refused")])
def test_what_failed_first_is_kept(status: int | None, reason: str) -> None:
    prober = Prober(TARGET, "/healthz/", ask=Door(status))
    prober.probe()
    assert prober.summary().failed == 1
    assert reason in prober.summary().first_failure


def test_the_maintenance_page_is_a_failure_but_no_fault_of_a_release() -> None:
    def closed(*_: Any, **__: Any) -> Answer:
        return Answer(503, {"retry-after": "120"}, b"", 0.01, "x")

    prober = Prober(TARGET, "/healthz/", ask=closed)
    assert prober.probe().closed
    assert prober.summary().failed == 1
    assert not Prober(TARGET, "/healthz/", ask=Door(503)).probe().closed  # the application itself said so


def test_it_stops_at_the_most_it_may_ask() -> None:
    door = Door()
    prober = Prober(TARGET, "/", interval_seconds=0.0, most=25, ask=door)
    prober.start()
    prober.start()
    assert prober._thread is not None
    prober._thread.join(30.0)
    assert prober.summary().requests == len(door.asked) == 25
    assert door.most_inside == 1


def test_it_stops_after_the_time_it_may_take() -> None:
    ticks = iter(range(1000))
    prober = Prober(TARGET, "/", interval_seconds=0.0, most_seconds=20.0, ask=Door(), clock=lambda: float(next(ticks)))
    prober._work()
    assert 1 <= prober.summary().requests < 20


def test_it_ends_when_told() -> None:
    asked = threading.Event()

    def ask(*_: Any, **__: Any) -> Answer:
        asked.set()
        return Answer(200, {}, b"", 0.0, "x")

    prober = Prober(TARGET, "/", interval_seconds=3600.0, ask=ask)
    with prober:
        assert asked.wait(30.0)
    assert prober._thread is not None
    assert not prober._thread.is_alive()
    assert prober.summary().requests == 1


@pytest.mark.parametrize("expected", [204, 302])
def test_what_the_health_check_expects_is_no_failure(expected: int) -> None:
    assert Prober(TARGET, "/", ask=Door(expected), expected_status=expected).probe().ok
    assert not Prober(TARGET, "/", ask=Door(200), expected_status=expected).probe().ok
