"""What a restore would do, and what would be lost by it, found without touching anything.

Nothing that is live is opened by root: rows are counted by a process that has become the application's user, and only
as long as a person waits for a plan.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from . import _generations as generations
from ._catalogue import Point, points
from ._errors import BackstayError
from ._restore import aside, last_change, media_paths, part_of, restored_databases
from ._room import mib
from ._steps import PHASES, TITLES, steps_of
from ._transaction import Request, Restoring, Transaction

if TYPE_CHECKING:
    from ._application import Application, Database
    from ._engine import Engine
    from ._manifest import Manifest

COUNT_SECONDS = 10.0  # for all databases
_NAMED = 5  # so many tables and files are named, and how many more there are
_GUESS_BYTES_PER_SECOND = 50e6
TABLES = """
SELECT pg_catalog.to_json(pg_catalog.format('%I.%I', n.nspname, c.relname))
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
ORDER BY c.reltuples, n.nspname, c.relname;
"""
_LEVELS = (
    "nothing proven",
    "L1 listed",
    "L2 structure",
    "L3 read back",
    "L4 restored and compared",
    "L5 its release ran",
)


@dataclass(frozen=True)
class Rows:
    """One database: rows that are newer here (more than there) and older (fewer), by table. Rows that were changed and
    not added cannot be seen by counting. `problem` is why nothing, or not all, was counted."""

    newer: Mapping[str, int] = field(default_factory=dict)
    older: Mapping[str, int] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Files:
    """Media that only one side has, and those of another size: (path, bytes)."""

    only_here: tuple[tuple[str, int], ...] = ()
    only_there: tuple[tuple[str, int], ...] = ()
    changed: tuple[str, ...] = ()


# pure


def rows_lost(present: Mapping[str, int], there: Mapping[str, int], problem: str = "") -> Rows:
    """What counting shows, the largest table first. Tables that were not counted say nothing."""
    differences = {name: count - there.get(name, 0) for name, count in present.items()}
    if not problem:
        differences |= {name: -count for name, count in there.items() if name not in present}
    largest = sorted(differences.items(), key=lambda item: (-abs(item[1]), item[0]))
    newer = {name: more for name, more in largest if more > 0}
    return Rows(newer, {name: -less for name, less in largest if less < 0}, problem)


def files_lost(here: Iterable[tuple[str, int]], there: Mapping[str, int], paths: Sequence[PurePosixPath]) -> Files:
    """How the media below `paths` differ; by path and size, for nothing is read."""
    only_here, changed, seen = [], [], set()
    for path, size in here:
        if any(PurePosixPath(path).is_relative_to(each) for each in paths):
            seen.add(path)
            if path not in there:
                only_here.append((path, size))
            elif there[path] != size:
                changed.append(path)
    only_there = [
        (path, size)
        for path, size in there.items()
        if path not in seen and any(PurePosixPath(path).is_relative_to(each) for each in paths)
    ]
    return Files(tuple(sorted(only_here)), tuple(sorted(only_there)), tuple(sorted(changed)))


def expected_seconds(found: Sequence[Point], point: Point, size_bytes: int) -> tuple[float, str]:
    """(how long a restore takes, why one thinks so): as what the newest proof that restored a point did of it, by size.
    Proofs from before that was measured count whole."""
    proven = [
        each for each in found if each.level >= 4 and each.proven_seconds is not None and each.proven_at is not None
    ]
    if proven:
        last = point if point in proven else max(proven, key=lambda each: str(each.proven_at))
        ratio = size_bytes / last.size_bytes if last.size_bytes else 1.0
        if last.restoring_seconds is not None:
            return last.restoring_seconds * ratio, f"as restoring {last.run} took in its proof"
        return float(last.proven_seconds or 0.0) * ratio, f"as the proof of {last.run} took"
    return size_bytes / _GUESS_BYTES_PER_SECOND, "a guess at 50 MB/s: none was ever proven by restoring it"


def migration_lines(
    known: Sequence[str], applied: Sequence[str], restoring: Restoring, live: str
) -> tuple[list[str], list[str]]:
    """(lines, migrations that the copy gets). Both are what a release knows: `known` the live one, `applied` the one
    that made the point."""
    if not known or not applied:
        return [f"{live} migrates the copy where it is older"], []
    newer = [name for name in applied if name not in known]
    if newer:
        version = restoring.release.partition("-")[2]
        remedy = f"bring both back (--with-release), release {version} again first, or choose an older point"
        return [f"it would be refused: {restoring.release} knows {newer[0]} and {live} does not; {remedy}"], []
    pending = [name for name in known if name not in applied]
    if not pending:
        return ["the copy needs no migration"], []
    return [f"the copy gets {len(pending)} migrations that {live} needs: {_some(pending)}"], pending


def lost_lines(databases: Mapping[str, Rows], files: Files, since: str) -> list[str]:
    """For people, what counts most first."""
    lines = []
    newer = [(f"{count:,} {table}", count) for rows in databases.values() for table, count in rows.newer.items()]
    if files.only_here:
        newer.append((f"{len(files.only_here):,} media files ({_size(files.only_here)})", len(files.only_here)))
    if newer:
        lines.append(f"newer here: {_some([text for text, _unused in sorted(newer, key=_largest)])} since {since}")
    if files.only_here:
        lines.append(f"  not in the point: {_some([_shown(path) for path, _unused in files.only_here])}")
    older = [(f"{count:,} {table}", count) for rows in databases.values() for table, count in rows.older.items()]
    if files.only_there:
        older.append((f"{len(files.only_there):,} media files ({_size(files.only_there)})", len(files.only_there)))
    if older:
        lines.append(f"it brings back: {_some([text for text, _unused in sorted(older, key=_largest)])}")
    if files.only_there:
        lines.append(f"  not here: {_some([_shown(path) for path, _unused in files.only_there])}")
    if files.changed:
        lines.append(f"of another size here: {_some([_shown(path) for path in files.changed])}")
    lines += [f"{name}: {_not_counted(rows)}" for name, rows in databases.items() if rows.problem]
    if not lines:
        lines.append(f"by count nothing is newer here since {since}; rows that were changed are not seen by counting")
    return lines


def _not_counted(rows: Rows) -> str:
    if rows.problem == "late":
        return f"not {'all ' if rows.newer or rows.older else ''}counted within {COUNT_SECONDS:g} s"
    return f"not counted ({rows.problem.rstrip('.')})"


def _largest(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _size(files: Iterable[tuple[str, int]]) -> str:
    return f"{sum(size for _path, size in files) / 1e6:.1f} MB"


def _shown(path: str) -> str:
    """Whatever letters a file's name has, they are shown and not obeyed."""
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in path)
    return text if len(text) <= 80 else f"{text[:40]}…{text[-38:]}"


def _spoken(seconds: float) -> str:
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{max(seconds, 0):.0f} s"


# asking the host


def plan_restore(engine: Engine, request: Request) -> dict[str, Any]:
    """The plan of a restore, or of undoing one, as data with a sentence and lines for people.

    Raises what beginning it would raise: InputError for bad input, GateRefused where a gate says no.
    """
    transaction = engine.open_restore(request)
    restoring = transaction.restore
    if restoring is None:
        raise BackstayError("A restore was planned that restores nothing: this is a bug; please report it.")
    result: dict[str, Any] = {
        "event": "result",
        "ok": True,
        "changed": True,
        "operation": transaction.operation,
        "release": transaction.candidate,
        "version": transaction.version,
        "previous": transaction.previous,
        "live": transaction.previous,
        "generation": restoring.generation,
        "before": restoring.before,
        "only": list(restoring.only),
        "steps": [
            {"step": step, "phase": phase, "title": TITLES[step]}
            for phase in PHASES
            for step in steps_of(transaction.operation, phase)
        ],
    }
    return _undo(engine, restoring, result) if restoring.undo else _restore(engine, transaction, restoring, result)


def _restore(engine: Engine, transaction: Transaction, restoring: Restoring, result: dict[str, Any]) -> dict[str, Any]:
    application = engine.application()
    found = points(engine.layout, engine.storage)
    point = next(each for each in found if each.run == restoring.point)
    needed, free = engine.room(restoring, application, point)
    live_now = str(transaction.previous)
    age = (dt.datetime.fromisoformat(engine.now()) - dt.datetime.fromisoformat(point.at)).total_seconds()
    since = f"{point.at[:16].replace('T', ' ')}Z"
    rows: dict[str, Rows] = {}
    files = Files()
    size = point.size_bytes
    migrations: list[str] = []
    try:
        manifest = engine.manifest_of(restoring)
    except BackstayError as unknown:
        lines = [f"what would be lost is not known: {unknown.message}"]
    else:
        part = part_of(manifest, restoring, application)
        size = sum(facts.size_bytes for facts in part.databases.values())
        size += sum(file.size_bytes for file in part.media.values())
        rows, files = _lost(engine, restoring, application, part)
        lines = lost_lines(rows, files, since)
        live = engine.history().get(transaction.candidate)
        known = tuple(live.data.get("migrations_known", ())) if live else ()
        applied = manifest.migrations
        if manifest.payload and manifest.payload == (live.data.get("payload") if live else ""):
            applied = known  # made by the very code that is live: what an earlier one left there, it served on
        told, migrations = migration_lines(known, applied, restoring, transaction.candidate)
        lines += told if restored_databases(restoring, application) else []
    seconds, why = expected_seconds(found, point, size)
    if restoring.with_release:
        lines.append(
            f"the release changes with the data: {transaction.candidate} serves then, and {live_now} no longer"
        )
    copy = point.repositories[restoring.repository]
    lines += [f"{sentence.rstrip('.')}; {restoring.repository} is taken instead" for sentence in restoring.away]
    lines += [
        f"the point is {_spoken(age)} old, {_LEVELS[copy.level]}, of {restoring.release} in {restoring.repository}",
        f"it takes about {_spoken(seconds)} ({why}); visitors see the maintenance page only at its end",
        f"room: {mib(needed)} needed, {mib(free)} free",
        f"what is here stays as it is in {restoring.before}: `backstay restore --undo` goes back to it",
    ]
    what = ", ".join(restoring.only) or "everything"
    result["message"] = f"{engine.layout.name}: would restore {what} from {restoring.point} of {since}."
    result["lines"] = lines
    result |= {
        "point": {
            "run": point.run,
            "at": point.at,
            "age_seconds": round(age, 1),
            "level": copy.level,
            "proven_at": copy.proven_at,
            "release": restoring.release,
            "repository": restoring.repository,
            "size_bytes": size,
        },
        "lost": _lost_dict(rows, files),
        "migrations": migrations,
        "seconds_expected": round(seconds, 1),
        "seconds_why": why,
        "needed_bytes": needed,
        "free_bytes": free,
    }
    return result


def _undo(engine: Engine, restoring: Restoring, result: dict[str, Any]) -> dict[str, Any]:
    application = engine.application()
    last = last_change(engine.ledger.read())
    since = f"{last.time[:16].replace('T', ' ')}Z" if last else ""
    point = last.data["restored"].get("point") if last else ""
    rows = {}
    deadline = engine.clock() + COUNT_SECONDS
    for database in restored_databases(restoring, application):
        present, problem = _counts(engine, database, restoring.before, deadline, live=True)
        there, other = _counts(engine, database, restoring.generation, deadline, live=False)
        rows[database.name] = Rows(problem=problem or other) if problem or other else rows_lost(present, there)
    files = Files()
    paths = media_paths(restoring)
    if application.media and paths:
        here, old = (
            dict(generations.files_of(engine.layout.generation(name), application.media))
            for name in (restoring.before, restoring.generation)
        )
        files = files_lost(here.items(), old, paths)
    result["message"] = (
        f"{engine.layout.name}: would go back to the data of {restoring.generation}, from before the "
        f"{f'restore of {point}' if point else 'last undo'} at {since}."
    )
    result["lines"] = [
        *lost_lines(rows, files, since),
        f"what is here stays as it is in {restoring.before}: `backstay restore --undo` again goes back to it",
        "visitors see the maintenance page meanwhile; nothing is fetched",
    ]
    if restoring.only:
        result["lines"].append(f"only {', '.join(restoring.only)} goes back, as it came; all else stays as it is now")
    if application.backup is not None and application.backup.retention:
        # It is for data that come from a repository: these are as somebody left them, and wanted back as they are.
        result["lines"].append("what the application's retention has deleted since is there again until it runs next")
    result |= {"lost": _lost_dict(rows, files), "migrations": [], "seconds_expected": None}
    return result


def _lost(
    engine: Engine, restoring: Restoring, application: Application, part: Manifest
) -> tuple[dict[str, Rows], Files]:
    deadline = engine.clock() + COUNT_SECONDS
    rows = {}
    for database in restored_databases(restoring, application):
        facts = part.databases.get(database.name)
        there = {name: table.rows for name, table in facts.tables.items()} if facts else {}
        present, problem = _counts(engine, database, restoring.before, deadline, live=True)
        rows[database.name] = rows_lost(present, there, problem)
    files = Files()
    paths = media_paths(restoring)
    if application.media and paths:
        here = generations.files_of(engine.layout.generation(restoring.before), application.media)
        files = files_lost(here, {path: file.size_bytes for path, file in part.media.items()}, paths)
    return rows, files


def _counts(
    engine: Engine, database: Database, generation: str, deadline: float, *, live: bool
) -> tuple[Mapping[str, int], str]:
    """(rows by table, why that is not all)."""
    left = deadline - engine.clock()
    if left <= 0.1:
        return {}, "late"
    if database.path is None:
        return _counts_of_server(engine, database, generation, deadline, live=live)
    from ._sqlite_live import ask

    tree = engine.layout.generation(generation)
    kind = generations.kind_of(tree, database.path)
    if kind != "file":
        return {}, f"{tree / database.path} is {'missing' if kind == 'nothing' else 'no plain file'}"
    told = ask(tree / database.path, account=engine.account(), count=True, seconds=left, runner=engine.runner)
    return told.counts, told.problem


def _counts_of_server(
    engine: Engine, database: Database, generation: str, deadline: float, *, live: bool
) -> tuple[Mapping[str, int], str]:
    from ._postgresql import LARGE_OBJECTS

    counts: dict[str, int] = {}
    try:
        server = engine.server_of(database)
        name = None if live else aside(server.database, generation)
        listed = server.query(TABLES, name=name, seconds=deadline - engine.clock())
        relations = {str(table).removeprefix("public."): str(table) for table in map(json.loads, listed)}
        for table, relation in (relations | {LARGE_OBJECTS: "pg_catalog.pg_largeobject_metadata"}).items():
            left = deadline - engine.clock()
            if left <= 0.1:
                return counts, "late"
            # The name comes quoted from the server's own catalogue.
            sql = f"SET statement_timeout = {int(left * 1000)};\nSELECT count(*) FROM ONLY {relation};"
            counts[table] = int(server.query(sql, name=name, seconds=left + 1)[-1])
    except BackstayError as refused:
        late = "did not end" in refused.message or "statement timeout" in refused.message
        return counts, "late" if late else refused.message
    return counts, ""


def _lost_dict(rows: Mapping[str, Rows], files: Files) -> dict[str, Any]:
    return {
        "databases": {
            name: {"newer": dict(each.newer), "older": dict(each.older), "not_counted": each.problem}
            for name, each in rows.items()
        },
        "media": {
            side: {
                "count": len(found),
                "size_bytes": sum(size for _path, size in found),
                "names": [path for path, _size in found[:_NAMED]],
            }
            for side, found in (("only_here", files.only_here), ("only_in_point", files.only_there))
        }
        | {"changed": {"count": len(files.changed), "names": list(files.changed[:_NAMED])}},
    }
