"""The catalogue of restore points: events in a hash chain, folded into points; or read back from a repository alone.

Events, each about one run: `begun` (before anything is written), `made` (its manifest is signed), `stored` (whole and
sealed in one repository), `failed` (as a whole, or in one repository), `proven`, `refuted` and `unproven` (in one
repository: it came to no end), `expired` (from one repository), `expiring` (what is about to), `kept_back` (why
nothing expires there: an anomaly, or what went wrong), `retained` (what may go there has gone), `accepted` (a person
saw that it holds less). What reads it passes over events that it does not know.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import TYPE_CHECKING, Any

from ._errors import BackstayError
from ._layout import Layout
from ._ledger import Entry, Ledger
from ._retention import Candidate
from ._storage import Storage

if TYPE_CHECKING:
    from ._repository import Repository, Snapshot

LISTED, STRUCTURE, READ_BACK, RESTORED, RUNS = 1, 2, 3, 4, 5
SEAL, MANIFEST = "seal.json", "manifest.json"
FORMAT = 1
# What a repository says against one run of it; anything else (it is away, it refuses) is about all of them.
_OF_ONE_RUN = frozenset({"damaged", "no snapshot", "incomplete"})


@dataclass(frozen=True)
class Copy:
    """A restore point as one repository has it: the repository's id, the ids of its two snapshots and of the data's
    tree, and what is proven about it. `refuted` is why it no longer counts there; a later proof of that level ends it.
    """

    repository: str
    id: str
    snapshot: str
    tree: str
    manifest_snapshot: str
    stored_at: str
    level: int = LISTED
    proven_at: str | None = None
    proven_seconds: float | None = None
    restoring_seconds: float | None = None  # what of the last proof that restored it a restore does too
    refuted: str | None = None
    refuted_level: int = 0

    @property
    def good(self) -> bool:
        return self.refuted is None


@dataclass(frozen=True)
class Tried:
    """Of restoring from one repository and comparing (L4 and up): when that was last done, whatever came of it; to
    which level it last held, and when. It outlives the copy that it was done with."""

    at: str = ""
    level: int = 0
    held_at: str | None = None


@dataclass(frozen=True)
class KeptBack:
    """Since when and why nothing expires in a repository; `failed` where something went wrong, else it is an anomaly
    that a person must look at."""

    since: str
    reason: str
    failed: bool = False


@dataclass(frozen=True)
class Point:
    """A run and what became of it. `at` is when it began (UTC ISO 8601), `sequence` its place in the chain, `level` the
    highest that any of its copies was proven to, with when and how long that took; `refuted` is set when no copy is
    good any more. `manifest` is the SHA-256 of its manifest, None for a run that never came so far; `databases` and
    `files` say how many rows each database has and how many files the media, None where nobody wrote that down.
    `retained` says by repository when retention last succeeded there while this was the newest run, `kept_back` why it
    has not since; `tried` which of its copies were restored and compared. `known_at` is when the catalogue first heard
    of it: later than `at` where it was written anew."""

    run: str
    at: str
    sequence: int
    release: str = ""
    version: str = ""
    payload: str = ""
    manifest: str | None = None
    rows: int | None = None
    size_bytes: int = 0
    databases: Mapping[str, int] | None = None
    files: int | None = None
    repositories: Mapping[str, Copy] = field(default_factory=dict)
    expired: tuple[str, ...] = ()  # repositories that no longer have it
    failed: str | None = None
    failed_in: Mapping[str, str] = field(default_factory=dict)
    accepted: bool = False
    retained: Mapping[str, str] = field(default_factory=dict)
    kept_back: Mapping[str, KeptBack] = field(default_factory=dict)
    tried: Mapping[str, Tried] = field(default_factory=dict)
    known_at: str = ""

    @property
    def good(self) -> bool:
        """Whether a repository has it whole and nothing speaks against it."""
        return any(copy.good for copy in self.repositories.values())

    @property
    def good_copies(self) -> tuple[Copy, ...]:
        """Those that count, the one that is proven to the highest level first; of equals the one proven last."""
        good = [copy for copy in self.repositories.values() if copy.good]
        return tuple(sorted(good, key=lambda copy: (copy.level, copy.proven_at or ""), reverse=True))

    @property
    def best(self) -> Copy | None:
        return next(iter(self.good_copies), None)

    @property
    def level(self) -> int:
        return self.best.level if self.best else 0

    @property
    def proven_at(self) -> str | None:
        return self.best.proven_at if self.best else None

    @property
    def proven_seconds(self) -> float | None:
        return self.best.proven_seconds if self.best else None

    @property
    def restoring_seconds(self) -> float | None:
        return self.best.restoring_seconds if self.best else None

    @property
    def refuted(self) -> str | None:
        reasons = [copy.refuted for copy in self.repositories.values() if copy.refuted]
        return reasons[-1] if reasons and not self.good else None


def catalogue(layout: Layout, storage: Storage, now: Callable[[], str]) -> Ledger:
    """The chain itself, to append to."""
    return Ledger(layout.backups, storage, now)


def points(layout: Layout, storage: Storage) -> tuple[Point, ...]:
    """Every run, in the order of the chain. Raises BackstayError when the catalogue cannot be trusted."""
    return fold(Ledger(layout.backups, storage, lambda: "").read())


def fold(entries: Iterable[Entry]) -> tuple[Point, ...]:
    """Points from events. Pure."""
    found: dict[str, Point] = {}
    for entry in entries:
        data = entry.data
        if entry.event in ("begun", "made") and entry.release not in found:
            at = str(data.get("at") or entry.time)
            found[entry.release] = Point(entry.release, at, entry.number, known_at=entry.time)
        point = found.get(entry.release)
        change = _CHANGES.get(entry.event)
        if point is not None and change is not None:
            found[entry.release] = change(point, entry.time, data)
            if entry.event == "accepted":
                for run, earlier in found.items():
                    found[run] = replace(earlier, accepted=True, kept_back={})
    return tuple(found.values())


def _begun(point: Point, _time: str, data: Mapping[str, Any]) -> Point:
    return replace(
        point,
        release=str(data.get("release", point.release)),
        version=str(data.get("version", point.version)),
        payload=str(data.get("payload", point.payload)),
    )


def _made(point: Point, time: str, data: Mapping[str, Any]) -> Point:
    rows, databases, files = data.get("rows"), data.get("databases"), data.get("files")
    return replace(
        _begun(point, time, data),
        manifest=str(data["manifest"]),
        rows=None if rows is None else int(rows),
        size_bytes=int(data.get("size_bytes", 0)),
        databases=None if databases is None else {str(name): int(count) for name, count in databases.items()},
        files=None if files is None else int(files),
    )


def _stored(point: Point, time: str, data: Mapping[str, Any]) -> Point:
    name = str(data["repository"])
    copy = Copy(
        name,
        str(data["id"]),
        str(data["snapshot"]),
        str(data["tree"]),
        str(data["manifest_snapshot"]),
        str(data.get("at") or time),
    )
    failed_in = {where: why for where, why in point.failed_in.items() if where != name}
    expired = tuple(where for where in point.expired if where != name)
    return replace(
        point,
        repositories={**point.repositories, name: copy},
        failed=None,
        failed_in=failed_in,
        expired=expired,
    )


def _failed(point: Point, _time: str, data: Mapping[str, Any]) -> Point:
    reason, where = str(data.get("reason", "")), data.get("repository")
    if where is None:
        return replace(point, failed=reason)
    return replace(point, failed_in={**point.failed_in, str(where): reason})


def _tried(point: Point, time: str, data: Mapping[str, Any], *, level: int = 0) -> Point:
    """A proof that was to restore the point, in whichever way it ended; it held to `level`."""
    name, at = str(data.get("repository")), str(data.get("at") or time)
    if max(int(data.get("asked", 0)), level) < RESTORED:
        return point
    tried = _later(point.tried.get(name, Tried()), Tried(at, level, at) if level >= RESTORED else Tried(at))
    return replace(point, tried={**point.tried, name: tried})


def _later(one: Tried, other: Tried) -> Tried:
    held = max(one, other, key=lambda each: each.held_at or "")
    return replace(held, at=max(one.at, other.at))


def _proven(point: Point, time: str, data: Mapping[str, Any]) -> Point:
    point = _tried(point, time, data, level=int(data["level"]))
    copy = point.repositories.get(str(data.get("repository")))
    if copy is None:
        return point
    level = int(data["level"])
    if level >= copy.level:
        seconds = data.get("seconds")
        copy = replace(
            copy,
            level=level,
            proven_at=str(data.get("at") or time),
            proven_seconds=None if seconds is None else float(seconds),
        )
    restoring = data.get("restoring_seconds")
    if restoring is not None:
        copy = replace(copy, restoring_seconds=float(restoring))
    if level >= copy.refuted_level:
        copy = replace(copy, refuted=None, refuted_level=0)
    return replace(point, repositories={**point.repositories, copy.repository: copy})


def _refuted(point: Point, time: str, data: Mapping[str, Any]) -> Point:
    """In one repository, or wherever it is where the event names none."""
    point = _tried(point, time, data)
    where = data.get("repository")
    changed = dict(point.repositories)
    for name, copy in point.repositories.items():
        if where in (None, name):
            changed[name] = replace(
                copy, refuted=str(data.get("reason", "")), refuted_level=int(data.get("level", LISTED)), level=0
            )
    return replace(point, repositories=changed)


def _expired(point: Point, _time: str, data: Mapping[str, Any]) -> Point:
    name = str(data["repository"])
    left = {where: copy for where, copy in point.repositories.items() if where != name}
    return replace(point, repositories=left, expired=(*point.expired, name))


def _accepted(point: Point, _time: str, _data: Mapping[str, Any]) -> Point:
    return replace(point, accepted=True)


def _kept_back(point: Point, time: str, data: Mapping[str, Any]) -> Point:
    name = str(data["repository"])
    before = point.kept_back.get(name)
    held = KeptBack(before.since if before else time, str(data.get("reason", "")), bool(data.get("failed")))
    return replace(point, kept_back={**point.kept_back, name: held})


def _expiring(point: Point, time: str, data: Mapping[str, Any]) -> Point:
    """Till it says how it ended it is one that was cut short."""
    return _kept_back(point, time, {**data, "reason": "it was cut short", "failed": True})


def _retained(point: Point, time: str, data: Mapping[str, Any]) -> Point:
    name = str(data["repository"])
    kept_back = {where: why for where, why in point.kept_back.items() if where != name}
    return replace(point, retained={**point.retained, name: time}, kept_back=kept_back)


_Change = Callable[[Point, str, Mapping[str, Any]], Point]  # with the time of the event
_CHANGES: dict[str, _Change] = {
    "begun": _begun,
    "made": _made,
    "stored": _stored,
    "failed": _failed,
    "proven": _proven,
    "refuted": _refuted,
    "unproven": _tried,
    "expired": _expired,
    "accepted": _accepted,
    "expiring": _expiring,
    "kept_back": _kept_back,
    "retained": _retained,
}


def candidates(found: Sequence[Point], repository: str, needed: Mapping[str, str]) -> tuple[Candidate, ...]:
    """The points of one repository as retention judges them; `needed` says by run who needs it. Pure."""
    return tuple(
        Candidate(
            run=point.run,
            at=point.at,
            sequence=point.sequence,
            good=point.repositories[repository].good,
            level=point.repositories[repository].level,
            needed=needed.get(point.run),
            accepted=point.accepted,
            rows=point.rows,
            size_bytes=point.size_bytes,
            databases=point.databases,
            files=point.files,
        )
        for point in found
        if repository in point.repositories
    )


def retention(found: Sequence[Point], repository: str) -> tuple[str | None, KeptBack | None]:
    """When retention last succeeded in a repository, and what has kept it from that since. Pure."""
    succeeded: str | None = None
    held: KeptBack | None = None
    for point in found:
        if repository in point.retained:
            succeeded, held = point.retained[repository], None
        here = point.kept_back.get(repository)
        if here is not None:
            held = replace(here, since=held.since if held else here.since)
    return succeeded, held


def restored(found: Sequence[Point], repository: str) -> Tried:
    """When any restore point was last restored from a repository and compared. Pure."""
    return reduce(_later, (point.tried[repository] for point in found if repository in point.tried), Tried())


def held_since(found: Sequence[Point], repository: str) -> str | None:
    """Since when this catalogue knows of a restore point in a repository, also where that has expired. Pure."""
    there = (point for point in found if repository in point.repositories or repository in point.expired)
    return next((point.known_at or point.at for point in there), None)


def last_known(found: Sequence[Point], repository: str, entries: Iterable[Entry] = ()) -> str | None:
    """The id of the repository that was last written to under a name; also when all its points expired."""
    identifier = None
    for entry in entries:
        if entry.event == "stored" and entry.data.get("repository") == repository:
            identifier = str(entry.data["id"])
    if identifier is None:
        for point in found:
            if repository in point.repositories:
                identifier = point.repositories[repository].id
    return identifier


# from a repository alone


def by_run(snapshots: Iterable[Snapshot]) -> dict[str, dict[str, Snapshot]]:
    """The snapshots of each run by their part; of several with one part (a store that was tried twice) the last."""
    found: dict[str, dict[str, Snapshot]] = {}
    for snapshot in snapshots:
        if snapshot.run:
            found.setdefault(snapshot.run, {})[snapshot.part] = snapshot
    return found


def from_repository(repository: Repository, *, damaged: Callable[[str], None] | None = None) -> tuple[Point, ...]:
    """The restore points that a repository holds, from nothing but itself: those with data, manifest and seal.

    Their order is that of the manifests, each of which names the digest of the one before it. Signatures are not judged
    here: that is L2. A run that cannot be read is told to `damaged` and left out; without it, it raises BackstayError,
    as all does that says nothing about one run.
    """
    from ._repository import look_into

    identifier, snapshots = look_into(repository, damaged)
    found: dict[str, tuple[Point, str | None]] = {}
    for run, parts in by_run(snapshots).items():
        if "data" not in parts or "manifest" not in parts:
            continue
        try:
            found[run] = _read_point(repository, identifier, run, parts)
        except BackstayError as unreadable:
            if damaged is None or getattr(unreadable, "kind", "damaged") not in _OF_ONE_RUN:
                raise
            damaged(f"The restore point {run} in {repository.name} is left out: {unreadable.message}")
    return tuple(replace(point, sequence=number) for number, point in enumerate(_chained(found), start=1))


def _read_point(
    repository: Repository, identifier: str, run: str, parts: Mapping[str, Snapshot]
) -> tuple[Point, str | None]:
    """A run by its own manifest, and the digest of the manifest before it."""
    from ._manifest import from_bytes

    files = repository.read_all(parts["manifest"].id, (f"/{MANIFEST}", f"/{SEAL}"))
    try:
        seal = json.loads(files[f"/{SEAL}"])
        number, sealed = int(seal.get("format", 0)), str(seal["manifest"])
    except (ValueError, KeyError, TypeError, AttributeError) as broken:
        raise BackstayError(
            f"The seal of {run} in {repository.name} cannot be read ({type(broken).__name__}): find out who wrote to "
            "that repository."
        ) from broken
    if number > FORMAT:
        raise BackstayError(
            f"The seal of the restore point {run} has format {number} and this backstay knows {FORMAT}: "
            "update the host's command with playbooks/site.yml."
        )
    manifest = from_bytes(files[f"/{MANIFEST}"], origin=f"the manifest of {run} in {repository.name}")
    copy = Copy(
        repository.name,
        identifier,
        parts["data"].id,
        parts["data"].tree,
        parts["manifest"].id,
        parts["manifest"].time,
    )
    size, rows = sizes(manifest)
    point = Point(
        run=run,
        at=manifest.began,
        sequence=0,
        release=manifest.release,
        version=manifest.version,
        payload=manifest.payload,
        manifest=sealed,
        rows=rows,
        size_bytes=size,
        databases=rows_of(manifest),
        files=len(manifest.media),
        repositories={repository.name: copy},
    )
    return point, manifest.previous


def _chained(found: Mapping[str, tuple[Point, str | None]]) -> list[Point]:
    """Points in the order in which each manifest names the one before it; heads of chains by their time."""
    after: dict[str | None, list[Point]] = {}
    digests = {point.manifest for point, _previous in found.values()}
    for point, previous in sorted(found.values(), key=lambda each: (each[0].at, each[0].run)):
        after.setdefault(previous if previous in digests else None, []).append(point)
    ordered: list[Point] = []
    waiting = list(reversed(after.get(None, [])))
    while waiting:
        point = waiting.pop()
        ordered.append(point)
        waiting.extend(reversed(after.get(point.manifest, [])))
    return ordered


def sizes(manifest: Any) -> tuple[int, int]:
    """Bytes of databases and media, and rows of all tables, that a manifest names."""
    size = sum(facts.size_bytes for facts in manifest.databases.values())
    size += sum(file.size_bytes for file in manifest.media.values())
    return size, sum(table.rows for facts in manifest.databases.values() for table in facts.tables.values())


def rows_of(manifest: Any) -> dict[str, int]:
    """Rows of each database that a manifest names."""
    return {name: sum(table.rows for table in facts.tables.values()) for name, facts in manifest.databases.items()}


def rebuild(
    layout: Layout,
    storage: Storage,
    now: Callable[[], str],
    repositories: Sequence[Repository],
    *,
    damaged: Callable[[str], None] | None = None,
) -> tuple[Point, ...]:
    """Write the catalogue anew from repositories alone, where there is none. What was proven is not known any more.
    A run or a repository that cannot be read is told to `damaged`, and the others count; without it, it raises.

    Raises BackstayError where a catalogue is there: one that is damaged must be put aside by a person.
    """
    # What drills proved of other hosts' points, and runs that failed before anything was live, are no catalogue.
    if any(point.manifest for point in points(layout, storage)):
        raise BackstayError(
            f"There is a catalogue already ({layout.backups}): move it away together with its .head, then run it again."
        )
    merged: dict[str, Point] = {}
    for repository in repositories:
        try:
            there = from_repository(repository, damaged=damaged)
        except BackstayError as lost:
            if damaged is None:
                raise
            damaged(lost.message)
            continue
        for point in there:
            known = merged.get(point.run)
            both = {**known.repositories, **point.repositories} if known else point.repositories
            merged[point.run] = replace(known or point, repositories=both)
    chain = catalogue(layout, storage, now)
    for point in sorted(
        merged.values(), key=lambda each: (each.sequence, each.at) if len(repositories) == 1 else (0, each.at)
    ):
        chain.append(
            "made",
            point.run,
            at=point.at,
            release=point.release,
            version=point.version,
            payload=point.payload,
            manifest=point.manifest,
            rows=point.rows,
            size_bytes=point.size_bytes,
            databases=point.databases,
            files=point.files,
            rebuilt=True,
        )
        for copy in point.repositories.values():
            chain.append("stored", point.run, **stored_data(copy), at=copy.stored_at, rebuilt=True)
    return points(layout, storage)


def stored_data(copy: Copy) -> dict[str, Any]:
    """What a `stored` event says."""
    return {
        "repository": copy.repository,
        "id": copy.id,
        "snapshot": copy.snapshot,
        "tree": copy.tree,
        "manifest_snapshot": copy.manifest_snapshot,
    }
