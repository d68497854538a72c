"""Restore points: the databases as they were before a change that cannot simply be left in place.

Made and used only while the door is closed and every process of the application has stopped, so a copy is consistent
and a restore takes back no visitor's write. One directory per restore point, named after its transaction:

    restore-points/<transaction>/manifest.json, <database>.sqlite3 or <database>.pgdump

It appears under its name only when it is whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ._errors import BackstayError
from ._layout import Layout
from ._run import Runner
from ._storage import Storage, canonical

if TYPE_CHECKING:
    from ._application import Application, Database
    from ._postgresql import Server

FORMAT = 1
DUMP_SECONDS = 3600.0


@dataclass(frozen=True)
class RestorePoint:
    """What a restore point holds: `files` by database, `size_bytes` of all; `at` is UTC ISO 8601."""

    id: str
    release: str  # what was live
    at: str
    files: Mapping[str, str]
    size_bytes: int
    format: int = FORMAT


def points(layout: Layout, storage: Storage) -> tuple[RestorePoint, ...]:
    """All whole restore points of an application, oldest first."""
    found = []
    if not layout.restore_points.is_dir():
        return ()
    for directory in sorted(layout.restore_points.iterdir()):
        content = storage.read(directory / "manifest.json")
        if directory.name.startswith(".") or content is None:
            continue
        value = json.loads(content)
        if value["format"] > FORMAT:
            raise BackstayError(
                f"The restore point {directory} has format {value['format']} and this backstay knows {FORMAT}: "
                "update the host's command with playbooks/site.yml."
            )
        found.append(RestorePoint(**{name: value[name] for name in RestorePoint.__dataclass_fields__}))
    return tuple(found)


def size_needed(layout: Layout, application: Application) -> int:
    """Bytes that a restore point may take: each SQLite file with its write-ahead log. A server's dump is not known."""
    total = 0
    for database in application.databases:
        if database.path is not None:
            for path in _parts(layout.data / database.path):
                total += path.stat().st_size
    return total


def make(
    layout: Layout,
    storage: Storage,
    application: Application,
    *,
    identifier: str,
    release: str,
    at: str,
    environment: Mapping[str, str],
    runner: Runner,
) -> RestorePoint:
    """Copy every database of the application. `environment` is the release's, which names the servers' URLs.

    Raises BackstayError for a database that is missing, in use, damaged, or does not fit on the disk.
    """
    target = layout.restore_points / identifier
    partial = target.with_name(f".{identifier}.partial")
    storage.remove_tree(partial)
    storage.remove_tree(target)
    layout.restore_points.mkdir(mode=0o700, exist_ok=True)
    partial.mkdir(mode=0o700)
    files = {}
    try:
        for database in application.databases:
            files[database.name] = f"{database.name}.{'sqlite3' if database.engine == 'sqlite' else 'pgdump'}"
            if database.engine == "sqlite":
                _copy_sqlite(layout.data / str(database.path), partial / files[database.name])
            else:
                server = _server(application, database, environment, runner)
                server.dump(partial / files[database.name], seconds=DUMP_SECONDS)
    except OSError as refused:
        storage.remove_tree(partial)
        raise BackstayError(
            f"The restore point could not be made in {layout.restore_points} ({refused.strerror or refused}): free "
            "some space, then release again; nothing was changed."
        ) from refused
    size = sum(path.stat().st_size for path in partial.iterdir())
    point = RestorePoint(identifier, release, at, files, size)
    storage.write(partial / "manifest.json", canonical(asdict(point)) + b"\n", mode=0o600)
    storage.sync_tree(partial)
    storage.rename(partial, target)
    return point


def restore(
    layout: Layout,
    storage: Storage,
    application: Application,
    identifier: str,
    *,
    environment: Mapping[str, str],
    runner: Runner,
) -> None:
    """Bring every database back to a restore point. Can be repeated: each database changes in one atomic step.

    Raises BackstayError for a restore point that is not whole, and when the disk refuses.
    """
    directory = layout.restore_points / identifier
    content = storage.read(directory / "manifest.json")
    if content is None:
        raise BackstayError(f"The restore point {directory} is missing or not whole: see docs/troubleshooting.md.")
    for database in application.databases:
        source = directory / json.loads(content)["files"][database.name]
        if database.engine == "sqlite":
            target = layout.data / str(database.path)
            try:
                _put_back_sqlite(storage, source, target)
            except OSError as refused:
                raise BackstayError(
                    f"The database {target} could not be brought back from {directory} "
                    f"({refused.strerror or refused}): free some space, then run `backstay recover {layout.name}`."
                ) from refused
        else:
            # All of the restore point or nothing changed, in one transaction of the server.
            server = _server(application, database, environment, runner)
            server.replace(source, first=_DROP_OWN, seconds=DUMP_SECONDS)


def _server(application: Application, database: Database, environment: Mapping[str, str], runner: Runner) -> Server:
    from ._postgresql import Server  # a service that only rolls back starts without it

    return Server.of(database, environment, application.name, runner=runner)


def prune(layout: Layout, storage: Storage, keep: int, order: Sequence[str] = ()) -> tuple[str, ...]:
    """Remove all but the newest `keep`; returns the ids of those that went. `order` has ids as the ledger tells them,
    oldest first: the names are times, and a clock may have jumped since. One that is not in it counts as older."""
    rank = {identifier: number for number, identifier in enumerate(order, start=1)}
    known = sorted(points(layout, storage), key=lambda point: rank.get(point.id, 0))
    old = [point.id for point in known[:-keep]]
    for identifier in old:
        storage.remove_tree(layout.restore_points / identifier)
    return tuple(old)


# SQLite


def _parts(path: Path) -> Iterator[Path]:
    """A database's file and its write-ahead log, as far as they exist. The index (-shm) is made anew from the log."""
    for part in (path, path.with_name(f"{path.name}-wal")):
        if part.exists():
            yield part


def _copy_sqlite(source: Path, target: Path) -> None:
    """Copy a database that nobody has open, log included, then fold the log into the copy and check it.

    Nothing is opened through SQLite at the source: that would leave files of root's beside it.
    """
    if not source.exists():
        raise BackstayError(f"The database {source} is missing: look at the data directory before anything else.")
    users = opened_by(source)
    if users:
        raise BackstayError(
            f"The database {source} is still open in {users[0]}, so no restore point can be made: end that process, "
            "then release again."
        )
    for part in _parts(source):
        copy = target.with_name(target.name + part.name.removeprefix(source.name))
        shutil.copyfile(part, copy)
        copy.chmod(0o600)
    import sqlite3

    connection = sqlite3.connect(target, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=DELETE")
        found = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as damaged:
        raise BackstayError(
            f"The copy of {source} cannot be read ({damaged}): the database is damaged; restore a backup first."
        ) from damaged
    finally:
        connection.close()
    if found != ("ok",):
        raise BackstayError(f"The database {source} is damaged ({found[0]}): restore a backup before you release.")


def _put_back_sqlite(storage: Storage, source: Path, target: Path) -> None:
    """Replace a database whole. The old log goes first: laid over another file it would undo the restore."""
    kept = target.stat() if target.exists() else target.parent.stat()
    fresh = target.with_name(f".{target.name}.restored")
    try:
        shutil.copyfile(source, fresh)
    except OSError:
        fresh.unlink(missing_ok=True)  # what freed nothing must not fill the disk for the next try
        raise
    os.chown(fresh, kept.st_uid, kept.st_gid)
    fresh.chmod(0o640 if not target.exists() else kept.st_mode & 0o777)
    descriptor = os.open(fresh, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    for suffix in ("-wal", "-shm", "-journal"):
        storage.remove(target.with_name(f"{target.name}{suffix}"))
    storage.rename(fresh, target)


def opened_by(path: Path) -> list[str]:
    """Processes that have a file open, as `name (pid)`."""
    wanted = path.stat()
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            for descriptor in (process / "fd").iterdir():
                seen = descriptor.stat()
                if (seen.st_dev, seen.st_ino) == (wanted.st_dev, wanted.st_ino):
                    found.append(f"{(process / 'comm').read_text().strip()} ({process.name})")
                    break
        except OSError:
            continue
    return found


# PostgreSQL


# All that this role owns outside the system's schemas: what the dump brings back, and what was made since. The list is
# made before the first goes: an object that went with another has no name any more.
_DROP_OWN = """
DO $$
DECLARE command text;
BEGIN
  FOREACH command IN ARRAY coalesce((
    SELECT array_agg(format('DROP %s IF EXISTS %s CASCADE', kind, name) ORDER BY step) FROM (
      SELECT 1 AS step, CASE c.relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
             WHEN 'f' THEN 'FOREIGN TABLE' WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END AS kind,
             format('%I.%I', n.nspname, c.relname) AS name
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relowner = (SELECT oid FROM pg_roles WHERE rolname = current_user)
        AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')
        AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                        AND d.objsubid = 0 AND d.deptype IN ('e', 'i', 'a'))
      UNION ALL
      SELECT 2, 'ROUTINE', p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
      WHERE p.proowner = (SELECT oid FROM pg_roles WHERE rolname = current_user)
        AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype IN ('e', 'i', 'a'))
      UNION ALL
      SELECT 3, 'TYPE', format('%I.%I', n.nspname, t.typname)
      FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
      WHERE t.typowner = (SELECT oid FROM pg_roles WHERE rolname = current_user) AND t.typtype IN ('e', 'd', 'r')
        AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = t.oid AND d.deptype IN ('e', 'i', 'a'))
      UNION ALL
      SELECT 4, 'SCHEMA', quote_ident(n.nspname) FROM pg_namespace n
      WHERE n.nspowner = (SELECT oid FROM pg_roles WHERE rolname = current_user)
        AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'public')
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = n.oid AND d.deptype = 'e')
    ) items
  ), '{}') LOOP
    EXECUTE command;
  END LOOP;
  PERFORM lo_unlink(oid) FROM pg_largeobject_metadata
  WHERE lomowner = (SELECT oid FROM pg_roles WHERE rolname = current_user);
END $$;
"""
