"""What a release or a rollback would do, found by the very checks that it begins with; nothing is touched."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ._engine import Engine, Request
from ._releases import History, withdrawn_by
from ._steps import PHASES, TITLES, steps_of


def plan(engine: Engine, request: Request) -> dict[str, Any]:
    """The plan as data, with a sentence and lines for people.

    Raises what beginning it would raise: InputError for bad input, GateRefused where a gate says no.
    """
    if engine.is_live(request):
        return nothing_to_do(engine)
    transaction = engine.open(request)
    history = engine.history()
    live = transaction.previous
    result: dict[str, Any] = {
        "event": "result",
        "ok": True,
        "changed": True,
        "operation": transaction.operation,
        "release": transaction.candidate,
        "version": transaction.version,
        "previous": live,
        "live": live,
        "steps": [
            {"step": step, "phase": phase, "title": TITLES[step]}
            for phase in PHASES
            for step in steps_of(transaction.operation, phase)
        ],
    }
    if transaction.operation == "release":
        what = "the same payload, the configuration declared now" if transaction.configuration_only else "a new payload"
        result["message"] = (
            f"{engine.layout.name}: would release {transaction.candidate} ({what}); live is {live or 'nothing'}."
        )
        result["lines"] = [f"{step['phase']}: {step['title']}" for step in result["steps"]]
        return result
    unit = engine.web_unit(transaction.candidate)
    warm = engine.systemd.states([unit]).get(unit) == "active"
    left = withdrawn_by(history, live, transaction.candidate)
    stay = schema_ahead(history, left, transaction.candidate)
    result |= {"warm": warm, "withdraws": list(left), "migrations_stay": stay}
    result["message"] = f"{engine.layout.name}: would go from {live} to {transaction.candidate}."
    result["lines"] = [
        "it is warm: one rename" if warm else "it is not running: it is started first",
        f"withdrawn: {', '.join(left)}" if left else "nothing is withdrawn",
        f"migrations that stay in the database: {', '.join(stay)}" if stay else "code only: no migration lies between",
    ]
    return result


def schema_ahead(history: History, left: Iterable[str], target: str) -> list[str]:
    """Migrations that a release being left knows and the target does not: they stay in the database."""
    releases = history.releases
    known = set(releases[target].data.get("migrations_known", []))
    ahead = {name for release in left for name in releases[release].data.get("migrations_known", [])}
    return sorted(ahead - known)


def nothing_to_do(engine: Engine) -> dict[str, Any]:
    """The answer to a release of what is live already, with the configuration that it runs with."""
    live = engine.live()
    return {
        "event": "result",
        "ok": True,
        "changed": False,
        "operation": "release",
        "release": live,
        "previous": live,
        "live": live,
        "steps": [],
        "seconds": 0.0,
        "message": f"{engine.layout.name}: {live} is live already, with this payload and this configuration.",
        "lines": [],
    }
