"""What the policy no longer keeps leaves a repository, and what unfinished runs left there goes with it.

What may go is decided by `_retention.py` from the catalogue; here it is written down, forgotten and pruned. Cut short
at any point, the next run finishes it: what was meant to go is known from `expiring`. A host that made none of the
points, and has the right to remove them, reads from the repository itself which there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ._catalogue import Point, by_run, candidates, catalogue, from_repository, points, retention
from ._errors import BackstayError
from ._ledger import read_entries
from ._releases import fold
from ._repository import Repository, RepositoryError, Snapshot
from ._retention import Decision, keep, needed_by, policy_of

if TYPE_CHECKING:
    from ._backup import Source
    from ._ledger import Ledger

LEFTOVER_AGE = timedelta(days=1)  # an unsealed snapshot that this host's catalogue does not know: another host's run?


def retain(
    source: Source,
    repository: Repository,
    *,
    chain: Ledger | None = None,
    snapshots: Sequence[Snapshot] | None = None,
    accept_shrink: bool = False,
) -> tuple[str, ...]:
    """Let go of what the policy no longer keeps in one repository, and of what unfinished runs left there; notes for
    people. The data lock is held. `snapshots` are those in the repository, where the caller knows them; any others are
    left to the next time. With `accept_shrink` a person says that the newest points hold what they should.

    A store that refuses to delete is a note. Raises RepositoryError for other trouble.
    """
    if source.layout.isolated.exists():
        return (f"{repository.name}: nothing expires from here, this host is isolated and it is another's.",)
    expiry = _Expiry(source, repository, chain or catalogue(source.layout, source.storage, source.now))
    found = points(source.layout, source.storage)
    if not any(repository.name in point.repositories or repository.name in point.expired for point in found):
        return expiry.of_others(accept_shrink)
    newest = found[-1].run
    if accept_shrink:
        expiry.events.append("accepted", newest)
    try:
        return expiry.of_ours(newest, snapshots)
    except RepositoryError as failed:
        expiry.keep_back(newest, failed.message, failed=True)
        raise


@dataclass(frozen=True)
class _Expiry:
    """What leaves one repository."""

    source: Source
    repository: Repository
    events: Ledger

    def of_ours(self, newest: str, snapshots: Sequence[Snapshot] | None) -> tuple[str, ...]:
        """By this host's catalogue, whose newest run is `newest`."""
        name, pruning = self.repository.name, self.repository.for_pruning()
        if snapshots is None:
            snapshots = (pruning or self.repository).snapshots(damaged=lambda sentence: None)
        parts = by_run(snapshots)
        found = self.points()
        # Where somebody else removes, nobody tells this host: what the policy lets go has gone by it.
        elsewhere = () if pruning else self.decide(found, self.source.needed).expire
        _reconcile(self.events, found, self.repository, parts, elsewhere)
        if pruning is None:
            return self.append_only()
        found = self.points()
        decision = self.decide(found, self.source.needed)
        if decision.expire:
            self.events.append("expiring", newest, repository=name, runs=list(decision.expire))
        notes, refused = self.remove(pruning, decision, snapshots, found, ours=True, unfinished=self.unfinished())
        if refused or decision.held_back:
            self.keep_back(newest, refused or decision.held_back or "", failed=bool(refused))
        else:
            self.events.append("retained", newest, repository=name)
        return notes

    def of_others(self, accept_shrink: bool) -> tuple[str, ...]:
        """By what the repository says, for none of it was made here: it knows no proofs, so whoever makes the points
        and may remove them is not forestalled."""
        name, pruning = self.repository.name, self.repository.for_pruning()
        if pruning is None:
            return self.append_only()
        if not self.repository.settings.append_only:
            return ()
        snapshots = pruning.snapshots(damaged=lambda sentence: None)
        found = from_repository(pruning)
        if not found:
            return ()
        if accept_shrink:
            self.events.append("accepted", found[-1].run)
        accepted = max((entry.time for entry in self.events.read() if entry.event == "accepted"), default="")
        found = tuple(replace(point, accepted=point.at <= accepted) for point in found)
        decision = self.decide(found, self.needed_there(pruning, found[-1].repositories[name].snapshot))
        return self.remove(pruning, decision, snapshots, found, ours=False)[0]

    def needed_there(self, pruning: Repository, snapshot: str) -> dict[str, str]:
        """Which points the releases of the host need that made them, by the ledger in its newest one."""
        try:
            reading = read_entries(pruning.read(snapshot, "/configuration/ledger.jsonl"))
        except RepositoryError as missing:
            if missing.kind != "no snapshot":
                raise
            return {}  # it has released nothing yet
        if reading.fault:
            raise BackstayError(
                f"The ledger in the newest restore point in {pruning.name} cannot be trusted ({reading.fault}), so "
                "nothing expires: look at the host that made it."
            )
        return needed_by(fold(reading.entries))

    def remove(
        self,
        pruning: Repository,
        decision: Decision,
        snapshots: Sequence[Snapshot],
        found: Sequence[Point],
        *,
        ours: bool,
        unfinished: bool = False,
    ) -> tuple[tuple[str, ...], str | None]:
        """Forget and prune; notes, and why the store refused, if it did. What is not `ours` is in no catalogue here;
        `unfinished`: what was forgotten before was not pruned."""
        name, expire = pruning.name, decision.expire
        notes = (f"{name}: {decision.held_back}",) if decision.held_back else ()
        leftovers = _leftovers(snapshots, found, self.source.now())
        if not expire and not leftovers:
            if unfinished:
                pruning.prune()
            return notes, None
        going = [*(each.id for each in snapshots if each.run in expire), *leftovers]
        try:
            pruning.forget(going)
            with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prune") as pool:
                pruned = pool.submit(pruning.prune)
                pruning.left_of(going)
                for run_id in expire if ours else ():
                    self.events.append("expired", run_id, repository=name)
            pruned.result()
        except RepositoryError as refused:
            if refused.kind != "refused":
                raise
            told = f"{name}: {len(expire)} restore points may go, and the store keeps them: {refused.message}"
            return (*notes, told), refused.message
        return (*notes, f"{name}: {len(expire)} restore points expired, {len(leftovers)} leftovers removed."), None

    def unfinished(self) -> bool:
        """Whether the last removal there was cut short: what it forgot may take its room still."""
        mine = [entry for entry in self.events.read() if entry.data.get("repository") == self.repository.name]
        last = [entry for entry in mine if entry.event in ("expiring", "retained", "kept_back")]
        return bool(last) and (last[-1].event == "expiring" or bool(last[-1].data.get("failed")))

    def points(self) -> tuple[Point, ...]:
        return points(self.source.layout, self.source.storage)

    def decide(self, found: Sequence[Point], needed: Mapping[str, str]) -> Decision:
        policy, name = self.source.policy, self.repository.name
        return keep(
            candidates(found, name, needed),
            policy_of(policy, name),
            self.source.now(),
            shrink_ratio=policy.shrink_ratio,
        )

    def append_only(self) -> tuple[str, ...]:
        name = self.repository.name
        return (f"{name}: nothing expires from here, it is append-only and has no credentials for pruning.",)

    def keep_back(self, newest: str, reason: str, *, failed: bool = False) -> None:
        """Write down, once, why nothing expires."""
        held = retention(self.points(), self.repository.name)[1]
        if held is None or held.reason != reason:
            self.events.append("kept_back", newest, repository=self.repository.name, reason=reason, failed=failed)


def _reconcile(
    events: Ledger,
    found: Sequence[Point],
    repository: Repository,
    parts: Mapping[str, Mapping[str, Snapshot]],
    elsewhere: Sequence[str],
) -> None:
    """What the catalogue has and the repository has not: expired, where a retention that was cut short meant it to go,
    or somebody else lets go of it (`elsewhere`); refuted otherwise, for then somebody took it away, or another
    repository has the name now."""
    name, doomed, here = repository.name, set(elsewhere), ""
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
            here = here or repository.identity() or "unknown"
            reason = f"its snapshots are gone from {name}, and nothing of ours removed them"
            if copy.id != here:
                reason = (
                    f"it is in the repository {copy.id[:8]}, and {name} is another one now ({here[:8]}): what the "
                    "old one holds no longer counts"
                )
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
