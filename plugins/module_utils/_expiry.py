"""What the policy no longer keeps leaves a repository, and what unfinished runs left there goes with it.

What may go is decided by `_retention.py` from the catalogue; here it is written down, forgotten and pruned. Cut short
at any point, the next run finishes it: what was meant to go is known from `expiring`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ._catalogue import Point, by_run, candidates, catalogue, points
from ._repository import Repository, RepositoryError, Snapshot
from ._retention import keep, policy_of

if TYPE_CHECKING:
    from ._backup import Source
    from ._ledger import Entry, Ledger

LEFTOVER_AGE = timedelta(days=1)  # an unsealed snapshot that this host's catalogue does not know: another host's run?


def retain(source: Source, repository: Repository, *, chain: Ledger | None = None) -> tuple[str, ...]:
    """Let go of what the policy no longer keeps in one repository, and of what unfinished runs left there; notes for
    people. The data lock is held.

    A store that refuses to delete is a note. Raises RepositoryError for other trouble.
    """
    layout, name = source.layout, repository.name
    events = chain or catalogue(layout, source.storage, source.now)
    pruning = repository.for_pruning()
    if pruning is None:
        return (f"{name}: nothing expires from here, it is append-only and has no credentials for pruning.",)
    found = points(layout, source.storage)
    snapshots = pruning.snapshots(damaged=lambda sentence: None)
    parts = by_run(snapshots)
    _reconcile(events, found, name, parts)
    found = points(layout, source.storage)
    policy = source.policy
    decision = keep(
        candidates(found, name, source.needed),
        policy_of(policy, name),
        source.now(),
        shrink_ratio=policy.shrink_ratio,
    )
    notes = []
    if decision.held_back:
        notes.append(f"{name}: {decision.held_back}")
        if _last_kept_back(events.read(), name) != decision.held_back:
            events.append("kept_back", found[-1].run, repository=name, reason=decision.held_back)
    leftovers = _leftovers(snapshots, found, source.now())
    if not decision.expire and not leftovers:
        return tuple(notes)
    try:
        if decision.expire:
            events.append("expiring", found[-1].run, repository=name, runs=list(decision.expire))
        doomed = [snapshot.id for run_id in decision.expire for snapshot in parts.get(run_id, {}).values()]
        pruning.forget([*doomed, *leftovers])
        for run_id in decision.expire:
            events.append("expired", run_id, repository=name)
        pruning.prune()
    except RepositoryError as refused:
        if refused.kind != "refused":
            raise
        notes.append(
            f"{name}: {len(decision.expire)} restore points may go, and the store keeps them: {refused.message}"
        )
    else:
        notes.append(f"{name}: {len(decision.expire)} restore points expired, {len(leftovers)} leftovers removed.")
    return tuple(notes)


def _last_kept_back(entries: Sequence[Entry], name: str) -> str | None:
    reasons = [
        entry.data.get("reason")
        for entry in entries
        if entry.event in ("kept_back", "accepted") and entry.data.get("repository", name) == name
    ]
    return str(reasons[-1]) if reasons and reasons[-1] else None


def _reconcile(events: Ledger, found: Sequence[Point], name: str, parts: Mapping[str, Mapping[str, Snapshot]]) -> None:
    """What the catalogue has and the repository has not: expired, where a retention that was cut short meant it to go;
    refuted otherwise, for then somebody else removed it."""
    doomed: set[str] = set()
    for entry in events.read():
        if entry.event == "expiring" and entry.data.get("repository") == name:
            doomed |= set(entry.data["runs"])
    for point in found:
        copy = point.repositories.get(name)
        there = parts.get(point.run, {})
        if copy is None or ("data" in there and "manifest" in there):
            continue
        if point.run in doomed:
            events.append("expired", point.run, repository=name)
        elif copy.refuted is None:
            reason = f"its snapshots are gone from {name}, and nothing of ours removed them"
            events.append("refuted", point.run, repository=name, level=1, reason=reason)


def _leftovers(snapshots: Sequence[Snapshot], found: Sequence[Point], now: str) -> list[str]:
    """Snapshots that never counted: data without a manifest, of runs that ended, and second tries."""
    known = {point.run: point for point in found}
    counted = {copy.snapshot for point in found for copy in point.repositories.values()}
    counted |= {copy.manifest_snapshot for point in found for copy in point.repositories.values()}
    sealed = {snapshot.run for snapshot in snapshots if snapshot.part == "manifest"}
    left = []
    for snapshot in snapshots:
        if not snapshot.run or snapshot.id in counted:
            continue
        point = known.get(snapshot.run)
        # The data lock is held, so what this host knows is no run that is under way.
        if point is not None or (snapshot.run not in sealed and _age(snapshot.time, now) > LEFTOVER_AGE):
            left.append(snapshot.id)
    return left


def _age(then: str, now: str) -> timedelta:
    whole = then.partition(".")[0].removesuffix("Z") + "+00:00"
    return datetime.fromisoformat(now) - datetime.fromisoformat(whole)
