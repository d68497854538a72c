"""Each objective that an application can set: crossed, it is one message by its declared way; back, it is one; and what
goes to and fro around the mark is none."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _incidents
from ansible_collections.backstay.ops.plugins.module_utils._alert_settings import AlertPolicy, Objectives
from ansible_collections.backstay.ops.plugins.module_utils._house import House
from ansible_collections.backstay.ops.plugins.module_utils._incidents import Incident, Told
from ansible_collections.backstay.ops.plugins.module_utils._samples import (
    ApplicationSample,
    HostSample,
    Mount,
    Sample,
    Times,
)
from ansible_collections.backstay.ops.plugins.module_utils._thresholds import (
    application_verdicts,
    host_verdicts,
    spent_share,
)

from .world import START, Disk

POLICY = AlertPolicy(mail=("ops@example.org",), chat="CHAT_URL")
Given = dict[str, Any]


def host(**values: Any) -> Given:
    return {"host": values}


def portal(**values: Any) -> Given:
    return {"portal": values}


def mounted(used: float, inodes: float = 0.1) -> Given:
    return host(mounts=(Mount("/srv", 100 << 30, 1 << 30, used, inodes),))


def answers(count: int, errors: float) -> Given:
    return portal(requests=count, errors=round(count * errors))


def slowest(above: int, at_mark: int) -> Given:
    """100 answers, so many of which take 2.5 s and 1.9 s."""
    times = [0.1] * (100 - above - at_mark) + [1.9] * at_mark + [2.5] * above
    return portal(requests=100, times=Times.of(times))


def certificate(days: float) -> Given:
    """Of 90 days, so many are left at the test's beginning."""
    until = START + dt.timedelta(days=days)
    return portal(certificate_from=(until - dt.timedelta(days=90)).isoformat(), certificate_until=until.isoformat())


@dataclass(frozen=True)
class Mark:
    """One objective. `near` is on the good side of it and not yet where it counts as over; `minutes` how long it takes
    at most until it is told, either way."""

    objective: str
    key: str
    way: str
    level: Callable[..., Given]
    bad: Sequence[float]
    near: Sequence[float]
    good: Sequence[float]
    minutes: int
    given: Given = field(default_factory=dict)


def row(
    objective: str, key: str, way: str, level: Callable[..., Given], *levels: Any, minutes: int = 6, **given: Any
) -> Mark:
    bad, near, good = (each if isinstance(each, tuple) else (each,) for each in levels)
    return Mark(objective, key, way, level, bad, near, good, minutes, given)


MARKS = [
    row("cpu", "host/cpu", "chat", lambda at: host(cpu=at), 0.82, 0.78, 0.7),
    row("memory", "host/memory", "mail", lambda at: host(memory=at), 0.82, 0.78, 0.7),
    row("disk", "host/disk:/srv", "mail", mounted, 0.81, 0.79, 0.77, minutes=2),
    row("disk", "host/disk:/srv:inodes", "mail", mounted, (0.1, 0.81), (0.1, 0.79), (0.1, 0.77), minutes=2),
    row("load_per_core", "host/load", "mail", lambda at: host(load=4 * at, cores=4), 4.4, 3.6, 2.0, minutes=10),
    row(
        "response_seconds",
        "portal/response",
        "mail",
        lambda at: portal(requests=30, times=Times.of([at] * 30)),
        1.05,
        0.95,
        0.5,
    ),
    row("p95_seconds", "portal/p95", "mail", slowest, (10, 0), (5, 5), (0, 0)),
    row("error_ratio", "portal/errors", "mail", answers, (1000, 0.014), (1000, 0.007), (1000, 0), minutes=12),
    row(
        "error_ratio",
        "portal/errors",
        "mail",
        answers,
        (10000, 0.0014),
        (10000, 0.0007),
        (10000, 0),
        minutes=12,
        error_ratio=0.001,
        requests_per_minute=20000,
    ),
    row(
        "server_error_ratio",
        "portal/server_errors",
        "chat",
        answers,
        (100, 0.07),
        (100, 0.03),
        (100, 0),
        error_ratio=1.0,
    ),
    row(
        "requests_per_minute",
        "portal/requests",
        "mail",
        lambda at: portal(requests=at),
        1100,
        900,
        500,
        minutes=11,
    ),
    row("users", "portal/users", "mail", lambda at: portal(users=at, requests=100), 1001, 900, 500, users=1000),
    row(
        "api_seconds",
        "portal/api",
        "mail",
        lambda at: portal(requests=30, api=Times.of([at] * 30)),
        0.55,
        0.47,
        0.2,
        api_seconds=0.5,
    ),
    row("uptime", "portal/uptime", "mail", lambda at: {"down": at}, 33, 30, 20, minutes=1),
    row("uptime", "portal/uptime", "mail", lambda at: {"down": at}, 163, 150, 100, minutes=1, uptime=0.995),
    row("certificate_days", "portal/certificate", "mail", certificate, 13.9, 13.9, 14.1, minutes=1),
    row(
        "backup_success",
        "portal/backup:share",
        "mail",
        lambda at: portal(proof_level=4, backup_runs=30, backup_failed=at),
        1,
        1,
        0,
        minutes=1,
        backup_success=1.0,
    ),
]


class Minutes:
    """Minutes as their samples, judged and told as the observer does it."""

    def __init__(self, root: Path, objectives: Objectives) -> None:
        self.house, self.disk, self.objectives = House(root), Disk(), objectives
        self.now = START
        self.samples: list[Sample] = []
        self.told: list[tuple[str, str, str]] = []

    def put_out(self, due: Sequence[Told]) -> None:
        for each in due:
            self.told.append((each.incident.key, each.moment, "+".join(POLICY.ways(each.incident.kind))))

    def pass_(self, minutes: int, *levels: Given) -> list[tuple[str, str, str]]:
        """So many minutes, at these levels in turn; what was told in them."""
        before = len(self.told)
        for number in range(minutes):
            self.now += dt.timedelta(minutes=1)
            given = levels[number % len(levels)]
            application = ApplicationSample(**{"healthy": True, **given.get("portal", {})})
            seen = HostSample(**{"cpu": 0.1, "memory": 0.3, "failed_units": (), **given.get("host", {})})
            self.samples.append(Sample(self.now.isoformat(), 60.0, seen, {"portal": application}))
            self.judge(
                spent_share({"2026-11-21": {"up": 1, "down": int(given.get("down", 0))}}, self.objectives.uptime)
            )
        return self.told[before:]

    def judge(self, spent: float | None) -> None:
        recent = self.samples[-45:]
        verdicts = [
            *host_verdicts(recent, self.objectives),
            *application_verdicts("portal", recent, self.objectives, spent=spent),
        ]
        known = {each.incident.key for each in _incidents.opened(self.house, self.disk)}
        for each in verdicts:
            if each.crossed:
                wrong = Incident(each.key, each.severity, each.application, each.sentence, each.command)
                _incidents.raise_(self.house, self.disk, wrong, self.now)
            elif each.crossed is False and each.key in known:
                _incidents.settle(self.house, self.disk, each.key, self.now, each.sentence)
        _incidents.tell(self.house, self.disk, self.now, held=lambda _incident: False, put_out=self.put_out)


@pytest.mark.parametrize("mark", MARKS, ids=[f"{mark.key} {mark.given or ''}" for mark in MARKS])
def test_crossed_is_one_message_back_is_one_and_around_the_mark_is_none(mark: Mark, tmp_path: Path) -> None:
    watch = Minutes(tmp_path, Objectives(**mark.given))
    bad, near, good = (mark.level(*each) for each in (mark.bad, mark.near, mark.good))
    allowed = near if mark.near != mark.bad else good
    assert watch.pass_(12, allowed) == [], "what is just within the limit is nobody's news"
    assert watch.pass_(mark.minutes, bad) == [(mark.key, "begin", mark.way)]
    assert watch.pass_(12, bad, near) == [], "what goes to and fro around the limit is told already"
    assert watch.pass_(mark.minutes, good) == [(mark.key, "over", mark.way)]
    assert watch.pass_(6, good, allowed) == [], "it is over, and stays so"


def test_no_objective_is_without_a_mark() -> None:
    assert {mark.objective for mark in MARKS} == {each.name for each in fields(Objectives)} - {
        "api_path",
        "recovery_seconds",
    }, "the one is no limit, and the other is shown on the page alone"


def test_few_users_and_a_slow_api_are_nobodys_news_where_no_objective_says_so(tmp_path: Path) -> None:
    watch = Minutes(tmp_path, Objectives())
    many = {"users": 5000, "requests": 100, "api": Times.of([9.0] * 30), "backup_runs": 30, "backup_failed": 9}
    assert watch.pass_(12, portal(proof_level=4, **many)) == []


def test_a_certificate_that_ends_is_one_incident_which_becomes_worse(tmp_path: Path) -> None:
    watch = Minutes(tmp_path, Objectives())
    for days in (30, 13, 2, -1):
        watch.pass_(2, certificate(days))
    watch.pass_(2, certificate(89))
    assert [moment for _key, moment, _way in watch.told] == ["begin", "worse", "over"]
