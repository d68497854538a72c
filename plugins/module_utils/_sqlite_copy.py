"""Copies of SQLite databases that others write to, and what is in such a copy.

A live database is one state in two files (the log is the other), so it is copied by SQLite itself, in one step: a copy
in many steps begins anew whenever somebody writes, and need never end. That is done by a process that has become the
application's user: root opens no live database, follows no link of the application's, and leaves no log of its own
beside one. Everything else here opens the copy, read-only and as it lies there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import marshal
import os
import pwd
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ._errors import BackstayError, InputError
from ._manifest import DatabaseFacts, TableFacts
from ._run import Runner, run
from ._storage import Storage, canonical

COPY_SECONDS = 900.0
ANSWER_SECONDS = 30.0
ANSWER_ROWS = 1000
ANSWER_BYTES = 1 << 20
FINDINGS = 20

_ROWS_AT_ONCE = 64
_BATCH_BYTES = 4 << 20
_BLOCK_BYTES = 1 << 20
_COLUMNS_PER_MASK = 50
_ROWID_NAMES = ("rowid", "_rowid_", "oid")
_INNER_TABLES = "sqlite_"  # sequences are told apart; statistics are no data


@dataclass(frozen=True)
class Account:
    """Whom a process becomes."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    @classmethod
    def of(cls, name: str) -> Account:
        """The account of a user of this host. Raises BackstayError where there is none."""
        try:
            entry = pwd.getpwnam(name)
        except KeyError as missing:
            raise BackstayError(f"The user {name} is missing on this host: declare the application first.") from missing
        return cls(entry.pw_uid, entry.pw_gid, tuple(os.getgrouplist(name, entry.pw_gid)))


# copying

# How a process begins that works as the application's user: with nothing but Python, because that user may not be able
# to read this library. It ends with whoever started it.
BECOME = """
import ctypes, json, os, sqlite3, sys, time
job = json.load(sys.stdin)
os.umask(0o077)
if job["account"]:
    uid, gid, groups = job["account"]
    os.setgroups(groups); os.setgid(gid); os.setuid(uid)
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != job["parent"]:
    sys.exit(1)
"""
# What went wrong is told on standard output as {"fault": kind, "text": ...}.
_CHILD = """\
def end(fault, text):
    print(json.dumps({"fault": fault, "text": text}))
    sys.exit(0)
try:
    os.chdir("/")
    if not os.path.isfile(job["source"]):
        os.stat(job["source"])
        end("kind", "")
except OSError as error:
    end("missing" if error.errno in (2, 20) else "refused", error.strerror or "")
copy = None
try:
    live = sqlite3.connect(job["uri"], uri=True, timeout=job["seconds"], isolation_level=None)
    try:
        if live.execute("PRAGMA page_count").fetchone()[0] == 0:
            end("empty", "")
        copy = sqlite3.connect(job["target"], isolation_level=None)
        # A copy that is cut short is thrown away: it needs no journal, and no page of it is read again.
        for pragma in ("synchronous=OFF", "journal_mode=OFF", "cache_size=-256"):
            copy.execute("PRAGMA " + pragma)
        live.backup(copy, pages=-1, sleep=0.05)
    finally:
        if copy is not None:
            copy.close()
        live.close()
except (sqlite3.Error, OSError) as error:
    end("refused", str(error))
print(json.dumps({"fault": None, "text": sqlite3.sqlite_version}))
"""


def copy(
    source: Path,
    target: Path,
    *,
    account: Account | None,
    deadline_seconds: float = COPY_SECONDS,
    exchange: Path | None = None,
    storage: Storage | None = None,
    runner: Runner = run,
    say: Callable[[str], None] = lambda sentence: None,
) -> int:
    """Copy a live database, whole and as of one moment; returns the size of the copy in bytes.

    The copy is made by a process that has become `account` (None: that stays who this is), in a directory of that
    account's below `exchange`; then it is taken over: a regular file with one name, root's, 0600. `exchange` must be on
    the file system of `target` and the account must be able to reach it; None takes the nearest directory above
    `target` for which both hold. Nothing is synced: a copy is gone after a power cut, with the backup that it was for,
    and everybody who writes to that disk would wait for a gigabyte to be on it.

    Raises BackstayError when the database is missing, empty, none at all or damaged, when it was not copied within
    `deadline_seconds`, and when what was made is not a plain file. `target` is then as it was.
    """
    storage = storage or Storage()
    place = exchange or _reachable(target.parent, account)
    box = place / f".copying-{target.name}"
    say(f"Copying the database {source}.")
    try:
        storage.remove_tree(box)  # of a copy that was cut short
        os.mkdir(box, 0o700)
        if account is not None:
            os.chown(box, account.uid, account.gid)
    except OSError as refused:
        raise _no_copy(source, f"{box} could not be made ({refused.strerror})") from refused
    try:
        _copied_by_child(source, box / "copy", account, deadline_seconds, runner)
        return _take_over(source, box, target, account)
    except OSError as refused:
        raise _no_copy(source, refused.strerror or str(refused)) from refused
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(box)


def _no_copy(
    source: Path, reason: str, remedy: str = "free some space or see `dmesg`, then run it again"
) -> BackstayError:
    return BackstayError(f"The database {source} could not be copied: {reason}; {remedy}.")


def _copied_by_child(
    source: Path, target: Path, account: Account | None, deadline_seconds: float, runner: Runner
) -> None:
    job = {
        "source": str(source),
        "uri": f"file:{quote(str(source.absolute()))}?mode=rw",  # never makes a file
        "target": str(target.absolute()),
        "account": None if account is None else [account.uid, account.gid, list(account.groups)],
        "seconds": deadline_seconds,
        "parent": os.getpid(),
    }
    try:
        done = runner(
            [sys.executable, "-I", "-S", "-c", BECOME + _CHILD],
            stdin=json.dumps({**job, "source": str(source.absolute())}),
            timeout_seconds=deadline_seconds,
            environment={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            check=False,
        )
    except BackstayError as failed:
        if not isinstance(failed.__cause__, subprocess.TimeoutExpired):
            raise
        raise _no_copy(
            source,
            f"it took longer than {deadline_seconds:g} s and was ended",
            "see who holds it locked or how slow the disk is, or set backup.copy_seconds higher",
        ) from failed
    try:
        fault, text = (str(json.loads(done.stdout)[key] or "") for key in ("fault", "text"))
    except (ValueError, KeyError, TypeError) as broken:
        last = done.last_lines(1)
        raise _no_copy(source, f"the process that copies it ended ({last[0] if last else done.returncode})") from broken
    if not fault:
        return
    remedies = {
        "missing": ("it is missing", "look at the data directory and at `databases` in the application's file"),
        "kind": ("it is no regular file", "look at the data directory and at `databases` in the application's file"),
        "empty": ("it is empty", "restore it, or correct `databases` in the application's file"),
    }
    if fault in remedies:
        raise _no_copy(source, *remedies[fault])
    if "not a database" in text:
        raise _no_copy(source, "it is no SQLite database", "restore it, or correct its path in the application's file")
    if "malformed" in text:
        raise _no_copy(source, f"it is damaged ({text})", "restore it from a backup")
    raise _no_copy(source, text or "the reason is unknown")


def _reachable(directory: Path, account: Account | None) -> Path:
    """The nearest directory, from this one upwards, to which every directory on the way lets the account through."""
    if account is None or account.uid == 0:
        return directory
    wanted = directory.stat().st_dev
    chain = [directory.absolute(), *directory.absolute().parents]
    closed = max((number for number, each in enumerate(chain) if not _passes(each, account)), default=-1)
    place = chain[closed + 1] if closed + 1 < len(chain) else Path("/")
    if place.stat().st_dev != wanted:
        raise BackstayError(
            f"No directory above {directory} on the same file system lets the application's user through: give the "
            "copy of its database another place."
        )
    return place


def _passes(directory: Path, account: Account) -> bool:
    found = directory.stat()
    if found.st_uid == account.uid:
        return bool(found.st_mode & stat.S_IXUSR)
    if found.st_gid in {account.gid, *account.groups}:
        return bool(found.st_mode & stat.S_IXGRP)
    return bool(found.st_mode & stat.S_IXOTH)


def _take_over(source: Path, box: Path, target: Path, account: Account | None) -> int:
    """What the application's user made becomes root's: nothing of it is trusted but the bytes of a plain file."""
    directory = os.open(box, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if account is not None:
            os.fchown(directory, os.geteuid(), os.getegid())  # from here on nobody else changes names in it
        extra = sorted(set(os.listdir(directory)) - {"copy"})
        if extra:
            raise _no_copy(source, f"{extra[0]!r} lies beside the copy", "nothing else may be there; run it again")
        descriptor = _plain(source, directory)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                reason = f"what was made is no regular file with one name (it has {found.st_nlink})"
                raise _no_copy(source, reason, "see what the application does, then run it again")
            os.fchown(descriptor, os.geteuid(), os.getegid())
            os.fchmod(descriptor, 0o600)
            os.rename("copy", target, src_dir_fd=directory)
            return found.st_size
        finally:
            os.close(descriptor)
    finally:
        os.close(directory)


def _plain(source: Path, directory: int) -> int:
    try:
        return os.open("copy", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError as refused:
        reason = f"what was made is no regular file ({refused.strerror})"
        raise _no_copy(source, reason, "see what the application does, then run it again") from refused


# reading a copy


def _open(path: Path) -> sqlite3.Connection:
    """A copy as it lies there: no lock, no log, nothing left beside it. What is in it is not trusted."""
    try:
        found = path.lstat()
    except FileNotFoundError as missing:
        raise BackstayError(f"The copy {path} is missing: make another backup, or choose another point.") from missing
    if not stat.S_ISREG(found.st_mode):
        raise BackstayError(f"The copy {path} is no regular file: make another backup, or choose another point.")
    if found.st_size == 0:
        raise BackstayError(f"The copy {path} is empty: make another backup, or choose another point.")
    for suffix in ("-wal", "-journal"):
        beside = path.with_name(path.name + suffix)
        if os.path.lexists(beside) and beside.lstat().st_size:
            raise InputError(f"{beside} belongs to an open database, or to another one: copy the database first.")
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
    )
    for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "query_only=ON", "cache_size=-8192", "temp_store=FILE"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    connection = None
    try:
        connection = _open(path)
        yield connection
    except sqlite3.Error as damaged:
        raise BackstayError(
            f"The copy {path} cannot be read ({damaged}): it is damaged; choose another point."
        ) from damaged
    finally:
        if connection is not None:
            connection.close()


def facts(
    path: Path,
    *,
    name: str,
    file: str = "",
    with_file: bool = True,
    say: Callable[[str], None] = lambda sentence: None,
) -> DatabaseFacts:
    """What is in a copy: rows and content of every table, schema, sequences, properties; with `with_file` also the size
    and digest of the file itself. `file` is how the manifest calls it.

    A table's digest is SHA-256 over its rows in the order of their keys, each value with its type and its exact bytes;
    it is the same for every version of Python and SQLite. Columns that are computed when read are not data. A virtual
    table counts by the tables in which it keeps its content. Raises BackstayError for what is no sound database.
    """
    size_bytes, sha256 = _file_digest(path) if with_file else (0, "")
    with _reading(path) as connection:
        schema = connection.execute("SELECT type, name, tbl_name, sql, rootpage FROM sqlite_schema").fetchall()
        tables = {}
        for kind, table, _table, _sql, rootpage in sorted(schema, key=lambda row: str(row[1])):
            if kind == "table" and rootpage and not str(table).lower().startswith(_INNER_TABLES):
                say(f"Hashing the table {table} of the database {name}.")
                tables[str(table)] = _table_facts(connection, str(table))
        described = sorted(
            [list(row[:4]) for row in schema if not str(row[1]).lower().startswith("sqlite_stat")], key=str
        )
        sequences = {}
        if any(row[1] == "sqlite_sequence" for row in schema):
            found = connection.execute("SELECT name, seq FROM sqlite_sequence ORDER BY name")
            sequences = {str(key): str(value) for key, value in found}
        asked = ("user_version", "application_id", "encoding", "page_count", "page_size")
        properties = {each: connection.execute(f"PRAGMA {each}").fetchone()[0] for each in asked}
    schema_sha256 = hashlib.sha256(canonical(described)).hexdigest()
    return DatabaseFacts(name, "sqlite", file, size_bytes, sha256, schema_sha256, tables, sequences, properties)


def _file_digest(path: Path) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as refused:
        raise BackstayError(
            f"The copy {path} cannot be opened ({refused.strerror}): choose another point."
        ) from refused
    with os.fdopen(descriptor, "rb", buffering=0) as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()


def _table_facts(connection: sqlite3.Connection, table: str) -> TableFacts:
    """Rows and digest of one table, in one pass and in flat memory.

    Text comes as its bytes, because text that is no UTF-8 would have no other form, and because that is fastest. What
    tells it from a blob is one more column: which of the row's values are blobs. `marshal` writes every value with its
    type in a fixed form (version 2: floats as their eight bytes, nothing shared, nothing interned), a row with its
    length; the header of each batch is left out, so the batches do not matter.
    """
    query = _rows_query(connection, table)
    factory, connection.text_factory = connection.text_factory, bytes
    try:
        cursor = _with_collations(connection, query)
        digest, count, at_once = hashlib.sha256(b"backstay rows 1\n"), 0, _ROWS_AT_ONCE
        while rows := cursor.fetchmany(at_once):
            content = memoryview(marshal.dumps(rows, 2))[5:]
            digest.update(content)
            count += len(rows)
            large = len(content) > _BATCH_BYTES
            at_once = max(1, at_once // 8) if large else min(_ROWS_AT_ONCE, at_once * 2)
    finally:
        connection.text_factory = factory
    return TableFacts(count, digest.hexdigest())


def _rows_query(connection: sqlite3.Connection, table: str) -> str:
    """Every stored value of a table in the order of its key, and which values are blobs."""
    columns, key = [], False
    for row in connection.execute(f"PRAGMA table_xinfo({_quoted(table)})"):
        if row[6] in (0, 3):  # neither hidden nor computed when read
            columns.append(str(row[1]))
        key = key or row[5] > 0
    order = _order(connection, table, columns, with_key=key)
    masks = []
    for start in range(0, len(columns), _COLUMNS_PER_MASK):
        some = [_quoted(column) for column in columns[start : start + _COLUMNS_PER_MASK]]
        # A blob is above every text and number, so a comparison, which is quick, finds the rows that have any.
        any_blob = " OR ".join(f"{column} COLLATE BINARY >= x''" for column in some)
        bits = " | ".join(f"((typeof({column}) = 'blob') << {bit})" for bit, column in enumerate(some))
        masks.append(f"CASE WHEN {any_blob} THEN {bits} END")
    selected = ", ".join([*map(_quoted, columns), *masks])
    return f"SELECT {selected} FROM {_quoted(table)} NOT INDEXED ORDER BY {order}"  # noqa: S608 - names come from the catalogue, quoted


def _order(connection: sqlite3.Connection, table: str, columns: Sequence[str], *, with_key: bool) -> str:
    without_rowid = any(
        row[4] for row in connection.execute(f"PRAGMA table_list({_quoted(table)})") if row[0] == "main"
    )
    if without_rowid and with_key:
        for index in connection.execute(f"PRAGMA index_list({_quoted(table)})"):
            if index[3] == "pk":
                return ", ".join(
                    f"{_quoted(str(row[2]))} COLLATE {_quoted(str(row[4]))}{' DESC' if row[3] else ''}"
                    for row in connection.execute(f"PRAGMA index_xinfo({_quoted(str(index[1]))})")
                    if row[5] and row[2] is not None
                )
    taken = {column.lower() for column in columns}
    for name in _ROWID_NAMES:
        if name not in taken:
            return name
    return ", ".join(map(_quoted, columns))  # all names of the row's number are taken by columns


def _with_collations(connection: sqlite3.Connection, query: str) -> sqlite3.Cursor:
    """Run a query; an order that the application itself defined is stood in for: rows come in the order of the tree
    that was built with it, and nothing is compared."""
    for _attempt in range(FINDINGS):
        try:
            return connection.execute(query)
        except sqlite3.OperationalError as unknown:
            before, found, name = str(unknown).partition("no such collation sequence: ")
            if not found or before:
                raise
            connection.create_collation(name, lambda one, other: (one > other) - (one < other))
    return connection.execute(query)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def check(path: Path) -> tuple[str, ...]:
    """What SQLite finds wrong with a copy, as sentences; empty where nothing is: its structure, every index against its
    table, NOT NULL and UNIQUE, every foreign key. (SQLite knows no CHECK of a database that it opens to read only.)
    Nothing is left beside the copy."""
    findings: list[str] = []
    try:
        with _reading(path) as connection:
            findings += [
                f"The database {path.name} is damaged: {found.replace(chr(10), '; ')}."
                for found in _integrity(connection)
                if found != "ok"
            ]
            # One row per violation: they are counted by table, and nothing is held.
            broken: dict[tuple[str, str], int] = {}
            for table, _rowid, parent, _number in connection.execute("PRAGMA foreign_key_check"):
                pair = (str(table), str(parent))
                broken[pair] = broken.get(pair, 0) + 1
            findings += [
                f"In the database {path.name}, {count:,} {'row' if count == 1 else 'rows'} of {table} "
                f"{'refers' if count == 1 else 'refer'} to rows of {parent} that do not exist."
                for (table, parent), count in broken.items()
            ]
    except InputError:
        raise
    except BackstayError as refused:
        findings.append(refused.message)
    return tuple(findings[: FINDINGS * 2])


def _integrity(connection: sqlite3.Connection) -> list[str]:
    """What integrity_check says. An index may be of a function that only the application has: then the indexes of that
    table are left out, and everything else is still checked."""

    def ask(pragma: str) -> list[str]:
        return [str(row[0]) for row in _with_collations(connection, f"PRAGMA {pragma}")]

    def unknown(error: sqlite3.Error) -> bool:
        return "function" in str(error) and ("no such" in str(error) or "unknown" in str(error))

    try:
        return ask(f"integrity_check({FINDINGS})")
    except sqlite3.OperationalError as refused:
        if not unknown(refused):
            raise
    found = []
    tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0").fetchall()
    for (table,) in tables:
        try:
            found += ask(f"integrity_check({_quoted(str(table))})")
        except sqlite3.OperationalError as refused:
            if not unknown(refused):
                raise
            found += ask(f"quick_check({_quoted(str(table))})")
    return found[:FINDINGS]


_READS = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE, sqlite3.SQLITE_FUNCTION})
_FORBIDDEN_FUNCTIONS = frozenset({"load_extension", "fts3_tokenizer", "writefile", "readfile", "edit"})
_READ_PRAGMAS = frozenset({"data_version", "page_size"})  # the search indexes FTS5 and FTS4 ask them whenever they read


def _authorizer(action: int, *words: str | None) -> int:
    if action == sqlite3.SQLITE_PRAGMA and words[0] in _READ_PRAGMAS and words[1] is None:
        return sqlite3.SQLITE_OK
    if action not in _READS:
        return sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_FUNCTION and str(words[1]).lower() in _FORBIDDEN_FUNCTIONS:
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


def _meet_virtual_tables(connection: sqlite3.Connection) -> None:
    """Let SQLite look at the virtual tables (search indexes) once: it declares their columns by statements that would
    be refused afterwards. One of a kind that is unknown here is left to the query that asks for it."""
    virtual = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage = 0").fetchall()
    for (table,) in virtual:
        with contextlib.suppress(sqlite3.Error):
            connection.execute(f"PRAGMA table_info({_quoted(str(table))})")


def answer(path: Path, query: str, *, seconds: float = ANSWER_SECONDS, rows: int = ANSWER_ROWS) -> str:
    """What a query of a copy answers: its rows as JSON, a list of lists, in the one form in which answers are compared.

    A blob is {"blob": hexadecimal}, a number without an end {"real": "inf"}; letters that are no UTF-8 are written as
    \\xNN. The query can only read. Raises BackstayError when it does anything else, is wrong, takes longer than
    `seconds` or answers with more than `rows` rows.
    """
    ended = time.monotonic() + seconds
    with contextlib.closing(_open(path)) as connection:
        connection.text_factory = lambda content: content.decode(errors="backslashreplace")
        connection.set_progress_handler(lambda: int(time.monotonic() > ended), 10_000)
        found: list[list[Any]] = []
        size = 0
        try:
            _meet_virtual_tables(connection)
            connection.set_authorizer(_authorizer)
            for row in connection.execute(query):
                found.append([_value(each) for each in row])
                size += sum(len(each) for each in row if isinstance(each, (str, bytes)))
                if len(found) > rows or size > ANSWER_BYTES:
                    limit = f"{rows} rows or {ANSWER_BYTES} bytes"
                    raise BackstayError(f"The query {_short(query)} answers with more than {limit}: ask for less.")
        except (sqlite3.Error, sqlite3.Warning) as refused:
            reason = f"it took longer than {seconds:g} s" if "interrupted" in str(refused) else str(refused)
            raise BackstayError(
                f"The query {_short(query)} of {path.name} was not answered: {reason}; correct it in `backup`."
            ) from refused
    return canonical(found).decode()


def _value(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"blob": value.hex()}
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return {"real": repr(value)}
    return value


def _short(query: str) -> str:
    text = " ".join(query.split())
    return f"`{text if len(text) <= 100 else text[:97] + '...'}`"
