"""One host's part in a fleet: the facts it tells, and how it goes to where the fleet is to be."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from ._engine import Engine
from ._errors import BackstayError, InputError
from ._fleet import BACK, FORWARD, NOTHING, Goal, Seen, Step, configuration_digest, seen, step_towards
from ._journal import parse
from ._steps import POINT_OF_NO_RETURN
from ._transaction import Transaction

_RUNS = 100  # more than hosts of one application are ever apart
_STEPS = 6  # more than any host needs: end what is open, go there, and look again
_POLLS, _POLL_SECONDS = 240, 0.25
_LOCK_SECONDS = 3.0  # recovery after a crash holds the lock for a moment


def facts(engine: Engine) -> dict[str, Any]:
    """What hosts are compared by: the release confirmed last, what is open, and what could be gone back to.

    Reads only, also while the transaction's service is at work.
    """
    confirmed: dict[str, Any] | None = None
    runs: list[str] = []
    for entry in engine.ledger.read():
        if entry.event == "live":
            confirmed = {"release": entry.release, "run": str(entry.data.get("run", "")), "since": entry.time}
            runs.append(confirmed["run"])
    opened = None
    records, _unused = parse(engine.storage.read(engine.layout.journal) or b"", path=str(engine.layout.journal))
    states = {(record.step, record.state) for record in records}
    if records and records[0].step == "begin" and ("end", "done") not in states:
        transaction = Transaction.from_dict(records[0].data)
        undoing = any(state in ("undo", "undone") for _step, state in states)
        if (POINT_OF_NO_RETURN, "begin") in states and not undoing:
            # The journal decides, and recovery would go forward; the ledger may lack it for a moment.
            run = transaction.request.run
            confirmed = {"release": transaction.candidate, "run": run, "since": transaction.began}
        if (POINT_OF_NO_RETURN, "done") not in states:
            opened = {
                "transaction": transaction.id,
                "operation": transaction.operation,
                "release": transaction.candidate,
                "run": transaction.request.run,
                "flipped": ("handover", "done") in states and not undoing,
            }
    return {
        "confirmed": None if confirmed is None else _held(engine, **confirmed),
        "open": opened,
        "declared": digest(engine, None),
        "retained": _retained(engine),
        "runs": [run for run in runs if run][-_RUNS:],
    }


def _held(engine: Engine, release: str, run: str, since: str) -> dict[str, str]:
    known = engine.history().get(release)
    return {
        "release": release,
        "version": release.partition("-")[2],
        "payload": str(known.data.get("payload", "")) if known else "",
        "configuration": digest(engine, release),
        "run": run,
        "since": since,
    }


def digest(engine: Engine, release: str | None) -> str:
    """Of the application's file as declared, or as a release was configured; empty where none can be read: a release
    that is confirmed has to be answered for all the same."""
    from ._application import from_dict, to_dict

    if release is None:
        place = engine.layout.application_file
    else:
        place = engine.layout.release_configuration(release) / "application.json"
    content = engine.storage.read(place)
    if content is None:
        return ""
    try:
        told = json.loads(content)
        with contextlib.suppress(InputError):
            told = to_dict(from_dict(told, file=str(place)))  # what a release of before an update lacks has its default
        return configuration_digest(told)
    except (ValueError, AttributeError):
        return ""


def _retained(engine: Engine) -> list[dict[str, str]]:
    return [
        _held(engine, release.id, str(release.data.get("run", "")), release.since)
        for release in engine.history().ordered()
        if release.proven
        and release.state in ("live", "withdrawn")
        and (engine.layout.release(release.id) / "manifest.json").exists()
    ]


def look(engine: Engine) -> Seen:
    return seen({"live": engine.live(), "fleet": facts(engine)})


def go(engine: Engine, goal: Goal, *, by: str) -> dict[str, Any]:
    """Take this host to the goal: end what is open, forward or back, and release or roll back to what the others run.

    Returns what was found and done, and the facts afterwards. Raises BackstayError where the host cannot get there.
    """
    from ._lock import Lock
    from ._service import recover

    did: list[str] = []
    for _attempt in range(_STEPS):
        found = look(engine)
        step = step_towards(
            goal,
            found,
            application=engine.layout.name,
            has_payload=bool(goal.payload) and engine.layout.payload(goal.payload).exists(),
        )
        if step.action == NOTHING:
            break
        did.append(_take(engine, goal, step, by))
    else:
        raise BackstayError(f"{engine.layout.name} did not come to rest: {'; '.join(did)}; see `backstay history`.")
    message = f"{engine.layout.name}: {'; '.join(did)}"
    lock = Lock(engine.layout.lock)
    if not did and lock.take():
        try:
            message = str(recover(engine)["message"])  # what must run, runs
        finally:
            lock.release()
    live = engine.live()
    direction = FORWARD if did and goal.payload else BACK if did else NOTHING
    return {"found": direction, "did": did, "live": live, "fleet": facts(engine), "message": message}


def _take(engine: Engine, goal: Goal, step: Step, by: str) -> str:
    """Take one step; returns what was done, for people."""
    from ._client import call

    if step.action in (FORWARD, BACK):
        return _end(engine, step)
    request: dict[str, Any] = {"by": by, "why": f"the other hosts run {goal.version}", "run": goal.run}
    if step.action == "rollback":
        request |= {"operation": "rollback", "target": step.release}
    else:
        # What the others run was let through there: one release on all hosts comes before freeze and promotion.
        through = {f"override_{gate}": request["why"] for gate in ("promotion", "freeze", "backup")}
        request |= {"operation": "release", "version": goal.version, "payload": goal.payload, "again": True, **through}
    result = call(engine.layout, "begin", request=request, auto=True)
    return f"{result['release']} is live, as on the other hosts ({step.action})"


def _end(engine: Engine, step: Step) -> str:
    """End the open transaction: through the service that owns it, or in its place where it died."""
    from ._client import call
    from ._lock import Lock
    from ._service import recover

    forward = step.action == FORWARD
    lock = Lock(engine.layout.lock)
    if lock.take(wait_seconds=_LOCK_SECONDS):
        try:
            return str(recover(engine, forward=forward)["message"].removeprefix(f"{engine.layout.name}: "))
        finally:
            lock.release()
    try:
        call(engine.layout, "confirm" if forward else "abort", transaction=step.transaction)
    except BackstayError as refused:  # its deadline was faster, or the service died: the next look tells
        said = refused.message
    else:
        said = f"{step.release} was {'confirmed' if forward else 'undone'}"
    for _unused in range(_POLLS):  # one that was at work is undone after its present step
        opened = look(engine).opened
        if opened is None or opened.transaction != step.transaction:
            break
        engine.sleep(_POLL_SECONDS)
    return said
