"""The watch against releases whose worth is known: good ones with ordinary noise stay, bad ones are taken back.

Each runs through the file reader, with lines in nginx's format, the journal's and systemd's answers, on a clock of its
own. The dice are seeded; `test_no_seed_was_chosen` throws others.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from .world import Behaviour, Scenario, Visit, World, django_error


def fails(share: float, *, kinds: tuple[str, ...] = (), since: float = -math.inf, status: int = 500) -> Behaviour:
    """A share of requests (of some kinds, from some second on) answered 5xx; 502 and 504 are nginx's own."""

    def behave(visit: Visit) -> None:
        if (not kinds or visit.kind in kinds) and visit.at >= since and visit.dice.random() < share:
            visit.status, visit.seconds, visit.answered = status, min(visit.seconds, 0.1), status in (500, 503)

    return behave


def slower(factor: float, *, kinds: tuple[str, ...] = (), plus: float = 0.0) -> Behaviour:
    def behave(visit: Visit) -> None:
        if not kinds or visit.kind in kinds:
            visit.seconds = visit.seconds * factor + plus

    return behave


def both(*behaviours: Behaviour) -> Behaviour:
    def behave(visit: Visit) -> None:
        for one in behaviours:
            one(visit)

    return behave


def cold(visit: Visit) -> None:
    """The first seconds of a cold start: everything waits, some of it in vain."""
    if visit.at < 3:
        visit.seconds += 2.0
        fails(0.15, status=502)(visit)


def hiccup(visit: Visit) -> None:
    """The database is away for four seconds."""
    if 20 <= visit.at < 24:
        fails(1.0)(visit)


def impatient(visit: Visit) -> None:
    """A monitor that waits a second and no longer."""
    if visit.kind == "report" or visit.dice.random() < 0.05:
        visit.client, visit.status, visit.seconds, visit.answered = "10.9.9.9", 499, min(visit.seconds, 1.0), False


def robots(visit: Visit) -> None:
    if visit.at > 5 and visit.dice.random() < 0.6:
        visit.path, visit.status, visit.client = f"/wp-{visit.dice.randint(1, 999)}/login.php", 404, "203.0.113.7"


def odd_client(visit: Visit) -> None:
    """One client sends what nobody else sends, and meets a fault that was there before."""
    if visit.at > 0 and visit.kind == "list" and visit.dice.random() < 0.5:
        visit.client, visit.status = "203.0.113.9", 500


def more_reports(visit: Visit) -> None:
    """The end of the month: everybody wants the report."""
    if visit.kind in ("portal", "list") and visit.dice.random() < 0.5:
        visit.kind, visit.path, visit.seconds = "report", "/reports/slow/", 3.0 * visit.dice.lognormvariate(0, 0.35)


def new_page(visit: Visit) -> None:
    if visit.kind == "portal" and visit.dice.random() < 0.5:
        visit.path, visit.seconds = "/statistics/", 1.5


def sockets(visit: Visit) -> None:
    if visit.kind == "form":
        visit.path, visit.status, visit.seconds = "/live/", 101, 25.0


def heavy_tail(visit: Visit) -> None:
    visit.seconds *= visit.dice.lognormvariate(0.0, 1.0)


def by_nginx(visit: Visit) -> None:
    """Refused at the front door, before the application: not its answer."""
    if visit.dice.random() < 0.2:
        visit.kind, visit.status = "nginx", 503


KNOWN = "django.db.utils.OperationalError: database is locked"
FRESH = "KeyError: 'risk'"


def errors(exception: str, moments: range, process: str = "web") -> tuple[tuple[float, str, str], ...]:
    return tuple(
        (float(at), process, django_error("django.request", f"Internal Server Error: /audits/{at + 999}/", exception))
        for at in moments
    )


GOOD = (
    Scenario("nothing happens"),
    Scenario("one in a hundred fails, before and after", fails(0.01), fails(0.01)),
    Scenario("a handful of 5xx that were not there before", fails(0.012)),
    Scenario("a night with three visitors, one of whom meets a 500", fails(0.4), rate=lambda at: 0.05),
    Scenario("nobody comes", rate=lambda at: 0.0),
    Scenario("visitors come five times as often", fails(0.004), fails(0.004), rate=lambda at: 3 if at < 0 else 15),
    Scenario("visitors stay away", fails(0.01), fails(0.01), rate=lambda at: 6 if at < 0 else 0.5),
    Scenario("an impatient monitor", impatient, impatient),
    Scenario("an impatient monitor that comes with the release", impatient),
    Scenario("a storm of robots and 404", both(robots, fails(0.01)), fails(0.01)),
    Scenario("a cold start", cold),
    Scenario("the database is away for four seconds", hiccup),
    Scenario("the cure of a sick release", fails(0.1), fails(0.4)),
    Scenario("as sick as before", fails(0.25), fails(0.25)),
    Scenario("one route as broken as before", fails(1.0, kinds=("post",)), fails(1.0, kinds=("post",))),
    Scenario("one client meets what nobody else meets", odd_client),
    Scenario("everybody wants the slow report", more_reports),
    Scenario("the log is rotated in the middle", fails(0.01), fails(0.01), rotate_at=20.0),
    Scenario("times scatter widely", heavy_tail, heavy_tail),
    Scenario("a fifth slower, as much as allowed", slower(1.2)),
    Scenario("a new page that takes its time", new_page),
    Scenario("websockets that last", sockets),
    Scenario("refused by nginx itself", by_nginx),
    Scenario("a new error, three times, that nobody sees", journal_after=errors(FRESH, range(5, 35, 10))),
    Scenario(
        "an old error, often",
        journal_before=errors(KNOWN, range(-100, -40)),
        journal_after=errors(KNOWN, range(50)),
    ),
    Scenario(
        "a worker that fails as it always did",
        restarts=lambda process, at: int(at / 10) if process == "worker" else 0,
        journal_before=tuple(
            (float(at), "worker", f"x.service: Scheduled restart job, restart counter is at {-at}.")
            for at in range(-90, 0, 10)
        ),
    ),
)

BAD = (
    Scenario("one in ten fails", fails(0.1), because="5xx"),
    Scenario("nobody is behind the front door", fails(1.0, status=502), because="5xx"),
    Scenario("one route is broken", fails(1.0, kinds=("post",)), because="POST /audits/#/findings/"),
    Scenario("three in ten forms are lost", fails(0.4, kinds=("post",)), rate=lambda at: 16, because="POST"),
    Scenario("three times as slow", slower(3, plus=0.9), slower(1, plus=0.3), because="95th percentile"),
    Scenario("one page is slow", slower(1, kinds=("detail",), plus=5.0), because="GET /audits/#/"),
    Scenario("slower every second", lambda v: slower(1, plus=v.at / 15)(v), because="95th percentile"),
    Scenario("it crashes again and again", restarts=lambda p, at: int(at / 7) if p == "web" else 0, because="web"),
    Scenario("its worker crashes", restarts=lambda p, at: int(at > 25) if p == "worker" else 0, because="worker"),
    Scenario("systemd gives it up", failed_unit=lambda at: at > 9, because="gave it up"),
    Scenario("errors leak in", lambda v: fails(min(0.4, v.at / 100))(v), because="5xx"),
    Scenario(
        "it fails under load only",
        lambda v: fails(0.3 if v.at > 30 else 0.0)(v),
        rate=lambda at: 20 if at > 30 else 5,
        because="5xx",
    ),
    Scenario("all is well for thirty seconds", fails(0.2, since=30), because="5xx"),
    Scenario(
        "it hangs",
        slower(1, plus=60),
        probe=lambda at: (200, 0.02) if at < 2 else (None, 5.0),
        because="probes",
    ),
    Scenario(
        "it is ill and nobody comes",
        rate=lambda at: 0.0,
        probe=lambda at: (200, 0.02) if at < 10 else (503, 0.02),
        because="probes",
    ),
    Scenario(
        "it is slow and nobody comes",
        rate=lambda at: 0.0,
        probe=lambda at: (200, 0.02) if at < 0 else (200, 1.5),
        because="probes",
    ),
    Scenario("sicker than the sick", fails(0.45), fails(0.1), because="before the switch"),
    Scenario(
        "its worker fails at every job",
        journal_after=errors(FRESH, range(2, 60), "worker"),
        because="KeyError",
    ),
    Scenario(
        "a new error that visitors see",
        fails(0.04, kinds=("portal", "list", "detail")),
        history_seconds=60,
        rate=lambda at: 40,
        journal_after=errors(FRESH, range(1, 60, 3)),
        because="KeyError",
    ),
    Scenario("every second worker is broken", fails(0.5), because="5xx"),
    Scenario("the log is rotated while it burns", fails(0.15), rotate_at=15.0, because="5xx"),
    Scenario("it does not answer one in five", fails(0.2, status=502), because="5xx"),
    Scenario("the first visitors of the day", fails(0.6), rate=lambda at: 0 if at < 0 else 5, because="5xx"),
    Scenario("all visitors come through one proxy", fails(0.15), clients=1, because="5xx"),
    Scenario("ill after a short watch", fails(0.5), seconds=8.0, rate=lambda at: 20, because="5xx"),
)


def names(scenarios: tuple[Scenario, ...]) -> list[str]:
    return [scenario.name for scenario in scenarios]


@pytest.mark.parametrize("scenario", GOOD, ids=names(GOOD))
def test_a_good_release_stays(scenario: Scenario, tmp_path: Path) -> None:
    judgement = World(scenario, tmp_path).watch()
    assert judgement.outcome == "good", judgement.sentence
    assert judgement.seconds >= scenario.seconds


@pytest.mark.parametrize("scenario", BAD, ids=names(BAD))
def test_a_bad_release_is_taken_back(scenario: Scenario, tmp_path: Path) -> None:
    judgement = World(scenario, tmp_path).watch()
    assert judgement.outcome == "bad", judgement.sentence
    assert scenario.because in judgement.sentence


def test_both_sets_are_as_large_as_promised() -> None:
    assert len(GOOD) >= 20
    assert len(BAD) >= 20
