"""What a release, a rollback or a restore would do, found by the checks that it begins with; nothing is touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ._engine import Engine
from ._fleet_host import digest
from ._releases import schema_ahead, withdrawn_by
from ._steps import PHASES, TITLES, steps_of
from ._transaction import Request

_REFUSED = ("irreversible", "unmigrated")
# What a person adds to the command for each kind of way back.
_NEEDED = {
    "code": (),
    "reverse": ("asked for with reverse=true (--reverse); the maintenance page is shown meanwhile",),
    **dict.fromkeys(_REFUSED, ("refused, unless insisted upon with --force",)),
}
_NOT_SENT = "its payload is not on this host yet: whether it fits this host, and has room, is judged once it was sent"


def plan(engine: Engine, request: Request, proofs: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The plan as data, with a sentence and lines for people. `proofs` are what would come with a payload that need not
    be here yet.

    Raises what beginning it would raise: InputError for bad input, GateRefused where a gate says no.
    """
    if request.operation == "restore":
        from ._restore_plan import plan_restore

        return plan_restore(engine, request)
    if engine.is_live(request):
        return nothing_to_do(engine)
    history = engine.history()
    way = None
    if request.operation == "rollback":
        way = engine.way_back(request, history)
        # What it would need is told, not refused.
        request = replace(request, reverse=way.kind == "reverse", force=request.force or way.kind in _REFUSED)
    transaction = engine.open_release(request, proofs)
    live = transaction.previous
    result: dict[str, Any] = {
        "event": "result",
        "ok": True,
        "changed": True,
        "operation": transaction.operation,
        "release": transaction.candidate,
        "version": transaction.version,
        "payload": transaction.payload,
        "configuration": digest(engine, None if way is None else transaction.candidate),
        "previous": live,
        "live": live,
        "steps": [
            {"step": step, "phase": phase, "title": TITLES[step]}
            for phase in PHASES
            for step in steps_of(transaction.operation, phase)
        ],
    }
    if way is None:
        what = "the same payload, the configuration declared now" if transaction.configuration_only else "a new payload"
        result["message"] = (
            f"{engine.layout.name}: would release {transaction.candidate} ({what}); live is {live or 'nothing'}."
        )
        result["lines"] = [f"{step['phase']}: {step['title']}" for step in result["steps"]]
        if not engine.layout.payload(transaction.payload).exists():
            result["lines"].insert(0, _NOT_SENT)
        return result
    unit = engine.web_unit(transaction.candidate)
    warm = engine.systemd.states([unit]).get(unit) == "active"
    left = withdrawn_by(history, live, transaction.candidate)
    stay = [name for name in schema_ahead(history, left, transaction.candidate) if name not in way.reverse]
    result |= {"warm": warm, "withdraws": list(left), "migrations_stay": stay, "way_back": way.kind}
    result |= {"verdict": way.sentence, "reverses": list(way.reverse)}
    result["message"] = f"{engine.layout.name}: would go from {live} to {transaction.candidate}: {way.sentence}."
    result["lines"] = [
        "it is warm: one rename" if warm else "it is not running: it is started first",
        f"withdrawn: {', '.join(left)}" if left else "nothing is withdrawn",
        *_NEEDED[way.kind],
        *way.reasons,
    ]
    return result


def nothing_to_do(engine: Engine) -> dict[str, Any]:
    """The answer to a release of what is live already, with the configuration that it runs with."""
    live = engine.live()
    known = engine.history().get(live)
    return {
        "event": "result",
        "ok": True,
        "changed": False,
        "operation": "release",
        "release": live,
        "previous": live,
        "live": live,
        "version": known.version if known else "",
        "payload": str(known.data.get("payload", "")) if known else "",
        "configuration": digest(engine, live),
        "steps": [],
        "seconds": 0.0,
        "message": f"{engine.layout.name}: {live} is live already, with this payload and this configuration.",
        "lines": [],
    }
