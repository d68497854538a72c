"""Databases of a PostgreSQL server: copied as of one moment, loaded beside the live one, compared, exchanged by name.

Everything goes through the server's own clients (psql, pg_dump, pg_restore), which run as the application's user: over
the local socket that is who the application is (peer authentication). What the role may not do, such as making a
database, the user postgres does where the socket is local. A password is in the environment of these clients alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from ._errors import BackstayError, InputError
from ._manifest import DatabaseFacts, TableFacts
from ._run import Completed, Runner, run
from ._storage import Storage, canonical

if TYPE_CHECKING:
    from ._application import Database

COPY_SECONDS = 3600.0
LOAD_SECONDS = 3600.0
NAME_BYTES = 63  # what a server keeps of a name
ADMIN_SECONDS = 120.0
ANSWER_SECONDS = 30.0
ANSWER_ROWS = 1000
ADMINISTRATOR = "postgres"
INSTALLED = Path("/usr/lib/postgresql")
_SOCKETS = "/var/run/postgresql"
_BLOCK_BYTES = 1 << 20
_SOCKET_LIMIT = 80  # letters of a directory; the kernel takes 107 with the name of the socket

# Where the server's version or the client's settings could change how a value is written, the form is fixed.
_FIXED = (
    "SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'iso_8601'; SET TimeZone = 'UTC'; SET extra_float_digits = 3; "
    "SET bytea_output = 'hex'; SET search_path = ''; SET client_encoding = 'UTF8'; SET row_security = off; "
    "SET standard_conforming_strings = on; SET lock_timeout = '60s'; SET statement_timeout = 0; "
    "SET idle_in_transaction_session_timeout = 0;"
)
_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"

# Objects of the application: not the system's, not an extension's own.
_OURS = """
  {namespace}.nspname !~ '^pg_' AND {namespace}.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.deptype = 'e' AND d.objid = {object}.oid
                  AND d.classid = '{catalogue}'::pg_catalog.regclass)
"""


def _ours(namespace: str, item: str, catalogue: str) -> str:
    return _OURS.format(namespace=namespace, object=item, catalogue=f"pg_catalog.{catalogue}")


_RELATIONS = "FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE " + _ours(
    "n", "c", "pg_class"
)
_NAME_OF = "pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname)"
_TABLES = f"SELECT pg_catalog.to_json({_NAME_OF}) {_RELATIONS} AND c.relkind = 'r' AND c.relpersistence <> 't'"
_SEQUENCES = f"SELECT pg_catalog.to_json({_NAME_OF}) {_RELATIONS} AND c.relkind = 'S' AND c.relpersistence <> 't'"
_PROPERTIES = """
SELECT pg_catalog.json_build_object(
  'encoding', pg_catalog.pg_encoding_to_char(encoding), 'collation', datcollate, 'character_type', datctype,
  'server', pg_catalog.current_setting('server_version'), 'size_bytes', pg_catalog.pg_database_size(oid))
FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()
"""

# What a database is made with that shall take the place of this one. The locale's column has two names by version.
# Of one that is gone, what the server makes databases like; and nobody else gets in, as role postgresql makes them.
_LIKE = """
SELECT pg_catalog.json_build_object(
  'encoding', pg_catalog.pg_encoding_to_char(encoding), 'collation', datcollate, 'character_type', datctype,
  'provider', datlocprovider,
  'locale', coalesce(pg_catalog.to_jsonb(d) ->> 'datlocale', pg_catalog.to_jsonb(d) ->> 'daticulocale'),
  'closed', datname <> {name} OR NOT pg_catalog.has_database_privilege('public', d.oid, 'CONNECT'),
  'settings', coalesce((SELECT pg_catalog.to_json(setconfig) FROM pg_catalog.pg_db_role_setting
                        WHERE setdatabase = d.oid AND setrole = 0 AND datname = {name}), '[]'))
FROM pg_catalog.pg_database d WHERE datname IN ({name}, 'template1') ORDER BY datname = {name} DESC LIMIT 1
"""
# Settings that are lists of names: the catalogue has them as they are written, quotes and all.
_LISTS = frozenset({"local_preload_libraries", "search_path", "session_preload_libraries", "temp_tablespaces"})

# The schema as lines of (kind, name, what it is). An expression that was loaded is not always written as the one that
# was dumped (casts move into arrays, brackets come and go), so casts, brackets and spaces of expressions do not count.
_SCHEMA = f"""
WITH lines(kind, name, what) AS (
  SELECT 'relation', {_NAME_OF}, c.relkind::text || c.relpersistence::text || ' ' ||
    coalesce(pg_catalog.pg_get_expr(c.relpartbound, c.oid), '') {_RELATIONS}
    AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.relpersistence <> 't'
  UNION ALL
  SELECT 'column', {_NAME_OF} || '.' || pg_catalog.quote_ident(a.attname),
    pg_catalog.rank() OVER (PARTITION BY c.oid ORDER BY a.attnum) || ' ' ||
    pg_catalog.format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull::text ||
    a.attidentity::text || a.attgenerated::text || ' ' ||
    coalesce((SELECT l.collname FROM pg_catalog.pg_collation l WHERE l.oid = a.attcollation), '') || ' ' ||
    coalesce((SELECT pg_catalog.pg_get_expr(e.adbin, e.adrelid) FROM pg_catalog.pg_attrdef e
              WHERE e.adrelid = a.attrelid AND e.adnum = a.attnum), '')
    FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE {_ours("n", "c", "pg_class")}
    AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c') AND c.relpersistence <> 't' AND a.attnum > 0 AND NOT a.attisdropped
  UNION ALL
  SELECT 'constraint', {_NAME_OF} || '.' || pg_catalog.quote_ident(k.conname),
    k.contype::text || ' ' || pg_catalog.pg_get_constraintdef(k.oid)
    FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE {_ours("n", "c", "pg_class")}
    AND k.contype IN ('c', 'f', 'p', 'u', 'x')
  UNION ALL
  SELECT 'index', {_NAME_OF}, i.indisvalid::text || ' ' || pg_catalog.pg_get_indexdef(i.indexrelid)
    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE {_ours("n", "c", "pg_class")}
    AND c.relpersistence <> 't' AND n.nspname <> 'pg_toast'
  UNION ALL
  SELECT 'view', {_NAME_OF}, pg_catalog.pg_get_viewdef(c.oid) {_RELATIONS} AND c.relkind IN ('v', 'm')
  UNION ALL
  SELECT 'trigger', {_NAME_OF} || '.' || pg_catalog.quote_ident(t.tgname),
    t.tgenabled::text || ' ' || pg_catalog.pg_get_triggerdef(t.oid)
    FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE {_ours("n", "c", "pg_class")} AND NOT t.tgisinternal
  UNION ALL
  SELECT 'policy', {_NAME_OF} || '.' || pg_catalog.quote_ident(p.polname), p.polcmd::text || p.polpermissive::text
    FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_class c ON c.oid = p.polrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE {_ours("n", "c", "pg_class")}
  UNION ALL
  SELECT 'function', pg_catalog.quote_ident(n.nspname) || '.' || f.proname || '(' ||
    pg_catalog.pg_get_function_identity_arguments(f.oid) || ')', f.prokind::text || f.provolatile::text || f.prosrc
    FROM pg_catalog.pg_proc f JOIN pg_catalog.pg_namespace n ON n.oid = f.pronamespace
    WHERE {_ours("n", "f", "pg_proc")}
  UNION ALL
  SELECT 'type', pg_catalog.quote_ident(n.nspname) || '.' || t.typname, t.typtype::text || ' ' || coalesce(
    (SELECT pg_catalog.string_agg(e.enumlabel, ',' ORDER BY e.enumsortorder) FROM pg_catalog.pg_enum e
     WHERE e.enumtypid = t.oid), '') || coalesce(pg_catalog.format_type(nullif(t.typbasetype, 0), t.typtypmod), '')
    FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
    WHERE {_ours("n", "t", "pg_type")} AND t.typtype IN ('e', 'd', 'r')
  UNION ALL
  SELECT 'sequence', {_NAME_OF}, pg_catalog.format_type(s.seqtypid, NULL) || ' ' || s.seqstart || ' ' ||
    s.seqincrement || ' ' || s.seqmin || ' ' || s.seqmax || ' ' || s.seqcycle::text
    FROM pg_catalog.pg_sequence s JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE {_ours("n", "c", "pg_class")}
  UNION ALL
  SELECT 'extension', e.extname, '' FROM pg_catalog.pg_extension e
  UNION ALL
  SELECT 'schema', n.nspname, '' FROM pg_catalog.pg_namespace n WHERE {_ours("n", "n", "pg_namespace")}
)
SELECT pg_catalog.json_build_array(kind, name, what) FROM lines
"""  # noqa: S608 - made of what is written here
_CAST = re.compile(
    r"::(character varying|double precision|bit varying|time(stamp)? with(out)? time zone|[\w.]+|\"[^\"]+\")"
    r"(\(\d+(,\d+)?\))?(\[\])*"
)
_EXPRESSIONS = ("column", "constraint", "index", "view", "trigger", "relation")
_SETVAL = re.compile(r"SELECT pg_catalog\.setval\(E?'((?:[^']|'')+)', (-?\d+), (true|false)\);")


_LOST = re.compile(
    "server closed the connection|terminating connection|could not connect|Connection refused|the database system is"
)


class Unanswered(BackstayError):
    """The server was too slow, or is gone: that says nothing of what it was asked about."""


# reaching a server


def connection_environment(url: str) -> dict[str, str]:
    """A database's URL as libpq's variables: a password has no place on a command line."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    login, _at, place = parts.netloc.rpartition("@")
    user, _colon, password = login.partition(":")
    host, port = (place, "")
    if found := re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(\d*))?", place):
        host, port = found[1].strip("[]"), found[2] or ""
    values = {
        "PGHOST": unquote(host) or query.get("host", ""),
        "PGPORT": port or query.get("port", ""),
        "PGUSER": unquote(user) or query.get("user", ""),
        "PGPASSWORD": unquote(password) or query.get("password", ""),
        "PGDATABASE": unquote(parts.path.lstrip("/")) or query.get("dbname", ""),
        "PGSSLMODE": query.get("sslmode", ""),
        "PGSSLROOTCERT": query.get("sslrootcert", ""),
        "PGSSLCERT": query.get("sslcert", ""),
        "PGSSLKEY": query.get("sslkey", ""),
        "PGOPTIONS": query.get("options", ""),
        "PGCONNECT_TIMEOUT": "10",
    }
    return {"PATH": "/usr/bin:/bin", **{name: value for name, value in values.items() if value}}


@dataclass(frozen=True)
class Copied:
    """What a copy gave: its facts, and the answers to the queries, all as of the copy's own moment."""

    facts: DatabaseFacts
    answers: Mapping[str, str]


@dataclass(frozen=True)
class Server:
    """A server, and the database of the application there, by the URL that the application uses.

    `account` is the user of this host as whom clients run (None: as who this is); `programs` the directory of the
    clients where it is not the usual one.
    """

    url: str = field(repr=False)  # it may have a password in it
    account: str | None = None
    programs: Path | None = None
    runner: Runner = field(default=run, repr=False, compare=False)

    @classmethod
    def of(
        cls, database: Database, environment: Mapping[str, str], application: str, *, runner: Runner = run
    ) -> Server:
        """The server of a declared database. Raises BackstayError when its URL is not set."""
        url = environment.get(str(database.url_key), "")
        if not url:
            raise BackstayError(f"The database {database.name} has no URL in {database.url_key}: set it.")
        return cls(url, account=_account(application, connection_environment(url).get("PGUSER", "")), runner=runner)

    @property
    def database(self) -> str:
        """The database's name; the one that libpq would take, where the URL names none."""
        given = connection_environment(self.url)
        return given.get("PGDATABASE") or given.get("PGUSER") or self.account or pwd.getpwuid(os.geteuid()).pw_name

    @property
    def role(self) -> str:
        return connection_environment(self.url).get("PGUSER") or self.account or pwd.getpwuid(os.geteuid()).pw_name

    @property
    def local(self) -> bool:
        """Whether it is reached over a socket of this host."""
        return connection_environment(self.url).get("PGHOST", "/").startswith("/")

    def url_of(self, name: str) -> str:
        """The URL of another database of this server."""
        parts = urlsplit(self.url)
        query = [(key, value) for key, value in parse_qsl(parts.query, keep_blank_values=True) if key != "dbname"]
        path = f"/{quote(name, safe='')}"
        text = urlunsplit((parts.scheme, "", path, "", ""))  # an empty place would be left out
        scheme, rest = text.split(":", 1)
        return f"{scheme}://{parts.netloc}{'/' + rest.lstrip('/')}" + (f"?{urlencode(query)}" if query else "")

    def environment(self, name: str | None = None) -> dict[str, str]:
        """libpq's variables for a database of this server."""
        return {**connection_environment(self.url), "PGDATABASE": name or self.database, "PGAPPNAME": "backstay"}

    def command(self, program: str, *arguments: str, account: str | None = None) -> list[str]:
        """A client's command line, as the user as whom it must run."""
        path = str(self.programs / program) if self.programs else program
        return [*become(account or self.account), path, *arguments]

    # questions

    def query(self, sql: str, *, name: str | None = None, seconds: float = ADMIN_SECONDS) -> list[str]:
        """The lines that a query of ours answers, as the application's role."""
        return self._psql(sql, self.environment(name), None, seconds)

    def _psql(self, sql: str, environment: Mapping[str, str], account: str | None, seconds: float) -> list[str]:
        done = self.runner(
            self.command("psql", *_PSQL, account=account),
            stdin=sql,
            environment=environment,
            timeout_seconds=seconds,
            check=False,
        )
        if not done.ok:
            raise self._refused("A query", done.stderr or done.stdout)
        return done.stdout.splitlines()

    def _refused(self, what: str, text: str) -> BackstayError:
        kind = Unanswered if _LOST.search(text) else BackstayError
        return kind(
            f"{what} was refused by the server of {self.database}: {_reason(text)}; see its log, and the URL and role "
            "of the application.",
            lines=tuple(_without_password(text, self.url).splitlines()[-20:]),
        )

    def databases(self) -> tuple[str, ...]:
        """The names of all databases of the server, but for its templates."""
        sql = "SELECT pg_catalog.to_json(datname) FROM pg_catalog.pg_database WHERE NOT datistemplate ORDER BY datname"
        return tuple(str(json.loads(line)) for line in self._maintenance(sql))

    def answer(self, query: str, *, name: str | None = None, seconds: float = ANSWER_SECONDS) -> str:
        """What a query of a database answers: its rows as JSON, a list of lists of texts, NULL as null.

        It can only read. Raises BackstayError when it is wrong, takes longer than `seconds` or answers with more than
        1,000 rows.
        """
        with _Session(self, name, seconds + 30) as session:
            session.ask(_BEGIN)
            return session.answer(query, seconds)

    def facts(
        self,
        name: str | None = None,
        *,
        of: str = "",
        file: str = "",
        seconds: float = COPY_SECONDS,
        say: Callable[[str], None] = lambda sentence: None,
    ) -> DatabaseFacts:
        """What is in a database of the server as of one moment. `of` is how the manifest calls it; no file is read.

        A table's digest is made of the number of its rows and of two sums over the hashes of all rows as text: the
        order of the rows does not matter, and it is not cryptographic (the digest of the dump itself is). Where there
        are large objects, they count as one more table, `pg_largeobject`, of a row for each. The schema's
        is of the catalogue: equal after a load into another database of the same major version. Among the properties is
        `size_bytes`, what the database takes on the server's disk: a dump is compressed, and has no indexes.
        """
        with _Session(self, name, seconds) as session:
            session.ask(_BEGIN)
            return self._facts(session, of or name or self.database, file, say)

    def _facts(self, session: _Session, of: str, file: str, say: Callable[[str], None]) -> DatabaseFacts:
        lines = sorted(_schema_line(*json.loads(line)) for line in session.ask(_SCHEMA))
        tables = {}
        for line in session.ask(_TABLES):
            table = str(json.loads(line))
            say(f"Hashing the table {table} of the database {of}.")
            tables[_plain(table)] = _table_facts(json.loads(session.ask(_ROWS.format(table=table))[0]))
        objects = _table_facts(json.loads(session.ask(_OBJECTS)[0]))
        if objects.rows:
            tables[LARGE_OBJECTS] = objects
        sequences = {}
        for line in sorted(session.ask(_SEQUENCES)):
            sequence = str(json.loads(line))
            found = session.ask(f"SELECT pg_catalog.json_build_array(last_value, is_called) FROM {sequence}")  # noqa: S608 - names come from the catalogue, quoted
            sequences[_plain(sequence)] = _stands(*json.loads(found[0]))
        properties = json.loads(session.ask(_PROPERTIES)[0])
        schema = hashlib.sha256(canonical(lines)).hexdigest()
        return DatabaseFacts(of, "postgresql", file, 0, "", schema, dict(sorted(tables.items())), sequences, properties)

    # copying

    def copy(
        self,
        target: Path,
        *,
        of: str = "",
        file: str = "",
        queries: Mapping[str, str] | None = None,
        seconds: float = COPY_SECONDS,
        storage: Storage | None = None,
        say: Callable[[str], None] = lambda sentence: None,
    ) -> Copied:
        """Dump the database to a file, and tell what is in the dump: facts and answers are of the dump's own moment.

        `of` and `file` are how the manifest calls the database and its dump. Writers are not kept waiting. `target` is
        replaced when the dump is whole and on the disk. Raises BackstayError when the server refuses or is gone, when
        the disk is full, and when all is not done within `seconds`.
        """
        storage = storage or Storage()
        of = of or self.database
        partial = target.with_name(f".{target.name}.partial")
        deadline = time.monotonic() + seconds
        try:
            with _Session(self, None, seconds) as session:
                session.ask(_BEGIN)
                snapshot = session.ask("SELECT pg_catalog.pg_export_snapshot()")[0]
                say(f"Dumping the database {self.database}.")
                with _Dump(self, snapshot, partial, seconds) as dump:
                    facts = self._facts(session, of, file, say)
                    answers = {name: session.answer(query) for name, query in (queries or {}).items()}
                    dump.wait()
            # A sequence is outside of any moment: what counts is what the dump says of it.
            sequences = dump_sequences(self, partial, seconds=max(1.0, deadline - time.monotonic()))
            size_bytes, sha256 = _digest(partial)
            storage.rename(partial, target)
        except OSError as refused:
            raise BackstayError(
                f"The database {self.database} could not be dumped to {target} ({refused.strerror or refused}): free "
                "some space or see `dmesg`, then run it again."
            ) from refused
        finally:
            partial.unlink(missing_ok=True)
        told = {**facts.__dict__, "size_bytes": size_bytes, "sha256": sha256, "sequences": sequences}
        return Copied(DatabaseFacts(**told), answers)

    def dump(self, target: Path, *, seconds: float = COPY_SECONDS) -> None:
        """Dump the database to a new file while nobody writes to it; it is whole and on the disk when this returns."""
        with _Dump(self, None, target, seconds) as dump:
            dump.wait()
        listed = self._restore(target, ["--list"], seconds)
        if not listed.ok:
            raise BackstayError(f"The dump {target} is not whole: {_reason(listed.stderr)}; run it again.")

    def replace(self, dump: Path, *, first: str, seconds: float = LOAD_SECONDS) -> None:
        """Run `first` and load a dump into the application's own database, in one transaction of the server: all of it,
        or nothing changed. Extensions, and the schemas of other roles, are left as they are."""
        listed = self._restore(dump, ["--list"], seconds)
        if not listed.ok:
            raise self._refused("The restore point", listed.stderr)
        entries = listed.stdout.splitlines()
        others = set(_entries(entries, "COMMENT - EXTENSION "))  # its own, which only its owner may say again
        for name in self.query(_SCHEMAS_OF_OTHERS):
            others |= set(_entries(entries, rf"(?:SCHEMA -|COMMENT - SCHEMA) {re.escape(name)} "))
        with tempfile.TemporaryFile() as script, _list_of([line for line in entries if line not in others]) as wanted:
            script.write(first.encode() + b"\n")
            script.flush()
            options = ["--no-owner", "--no-privileges", f"--use-list={wanted}", "--file=-"]
            done = self._restore(dump, options, seconds, output=script.fileno())
            if done.ok:
                script.seek(0)
                command = self.command("psql", *_PSQL, "--single-transaction", "--file=-")
                done = self._child(command, script.fileno(), None, seconds, self.database)
        if not done.ok:
            raise self._refused("The restore point", done.stderr)

    # changing what databases there are

    def load(
        self,
        dump: Path,
        name: str,
        *,
        seconds: float = LOAD_SECONDS,
        say: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        """Load a dump into a new database: all of it, or the new database is gone again.

        Raises BackstayError when the database exists, when the dump is damaged or cut off, when the server refuses any
        of it, and when it is not done within `seconds`.
        """
        if name in self.databases():
            raise BackstayError(
                f"The server has a database {name} already, and a dump is only ever loaded into a new one: drop or "
                "rename it first."
            )
        self.create(name)
        say(f"Loading {dump.name} into the database {name}.")
        whole = False
        try:
            listed = self._part(dump, ("--list",), name, seconds)
            schemas = _entries(listed, r"SCHEMA - ")
            extensions = _entries(listed, r"EXTENSION - ")
            if extensions:
                with _list_of(schemas) as wanted:
                    self._part(dump, (*_LOADING, f"--use-list={wanted}", f"--dbname={name}"), name, seconds)
                self._make_extensions(dump, name, extensions, seconds)
                # What is said of an extension is its own, and only its owner may say it again.
                done = (*schemas, *extensions, *_entries(listed, r"COMMENT - EXTENSION "))
                with _list_of([line for line in listed if line not in done]) as wanted:
                    self._part(dump, (*_LOADING, f"--use-list={wanted}", f"--dbname={name}"), name, seconds)
            else:
                self._part(dump, (*_LOADING, f"--dbname={name}"), name, seconds)
            self.query("ANALYZE", name=name, seconds=seconds)
            whole = True
        finally:
            if not whole:
                self.drop(name)

    def _part(self, dump: Path, options: Sequence[str], name: str, seconds: float) -> list[str]:
        """The lines that pg_restore prints while a dump is loaded into the new database `name`."""
        done = self._restore(dump, options, seconds, name)
        if not done.ok:
            kind = Unanswered if _LOST.search(done.stderr) else BackstayError
            raise kind(
                f"The dump {dump} could not be loaded: {_reason(done.stderr)}; the new database {name} was dropped "
                "again; choose another restore point, or see the server's log.",
                lines=tuple(_without_password(done.stderr, self.url).splitlines()[-20:]),
            )
        return done.stdout.splitlines()

    def _make_extensions(self, dump: Path, name: str, entries: Sequence[str], seconds: float) -> None:
        """Make the extensions that a dump asks for: as the role where it may, else as the administrator, who made them
        in the first place too."""
        with _list_of(entries) as wanted:
            script = "\n".join(self._part(dump, (f"--use-list={wanted}", "--file=-"), name, seconds))
        found = _EXTENSION.findall(script)
        if len(found) != len(entries):
            raise BackstayError(
                f"The dump {dump} names {len(entries)} extensions and makes {len(found)}: choose another restore point."
            )
        for statement in found:
            try:
                self.query(statement, name=name)
            except BackstayError as refused:
                if not self._administrable:
                    raise BackstayError(
                        f"The role {self.role} may not say `{statement}` on its server ({refused.message}), so the "
                        f"dump {dump} cannot be loaded: have the server's administrator mark that extension as "
                        "trusted, then run this again."
                    ) from refused
                self._as_administrator(statement, name)

    def _restore(
        self,
        dump: Path,
        options: Sequence[str],
        seconds: float,
        name: str | None = None,
        output: int | None = None,
    ) -> Completed:
        """pg_restore reading a file that its user may not be able to open; `output` is a file for what it prints."""
        try:
            descriptor = os.open(dump, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as refused:
            sentence = f"The dump {dump} cannot be opened ({refused.strerror}): choose another point."
            raise BackstayError(sentence) from refused
        try:
            return self._child(self.command("pg_restore", *options), descriptor, output, seconds, name)
        finally:
            os.close(descriptor)

    def _child(
        self, command: Sequence[str], standard_input: int, output: int | None, seconds: float, name: str | None
    ) -> Completed:
        try:
            done = subprocess.run(
                command,
                stdin=standard_input,
                stdout=subprocess.PIPE if output is None else output,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
                cwd="/",
                env=self.environment(name),
            )
        except subprocess.TimeoutExpired as late:
            raise Unanswered(
                f"A client of the server of {self.database} did not end within {seconds:g} s and was killed: see what "
                "keeps the server busy, then run it again."
            ) from late
        except FileNotFoundError as missing:
            raise _no_client(missing) from missing
        return Completed(tuple(command), done.returncode, done.stdout or "", done.stderr)

    def create(self, name: str) -> None:
        """Make an empty database like the application's: of its role, and as closed and as set up as that one, which
        may be gone: then one restores."""
        like = json.loads(self._maintenance(_LIKE.format(name=_literal(self.database)))[0])
        self._administer(
            f"CREATE DATABASE {_identifier(name)} OWNER {_identifier(self.role)} TEMPLATE template0 "
            f"ENCODING {_literal(like['encoding'])} LC_COLLATE {_literal(like['collation'])} "
            f"LC_CTYPE {_literal(like['character_type'])}{_provider(like['provider'], like['locale'])}",
            f"make the database {name}",
        )
        kept = [f"REVOKE ALL ON DATABASE {_identifier(name)} FROM PUBLIC"] if like["closed"] else []
        for setting in like["settings"]:
            key, _equals, value = setting.partition("=")
            said = value if key in _LISTS else _quoted(value)
            kept.append(f"ALTER DATABASE {_identifier(name)} SET {key} TO {said}")
        if kept:
            self._administer("; ".join(kept), f"set the database {name} up like {self.database}")

    def rename(self, old: str, new: str) -> None:
        """Give a database another name; whoever is connected to it is thrown out first."""
        end = (
            "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity "  # noqa: S608 - quoted
            # The server ends autovacuum itself, and lets nobody but an administrator do so.
            f"WHERE datname = {_literal(old)} AND pid <> pg_catalog.pg_backend_pid() "
            "AND backend_type <> 'autovacuum worker';\n"
        )
        attempts = 5
        for attempt in range(1, attempts + 1):
            try:
                self._administer(
                    f"{end} ALTER DATABASE {_identifier(old)} RENAME TO {_identifier(new)}",
                    f"rename the database {old} to {new}",
                )
            except BackstayError as refused:
                if attempt == attempts or "is being accessed" not in refused.message:
                    raise
            else:
                return

    def drop(self, name: str) -> None:
        """Drop a database, with whoever is connected to it. One that is not there is fine. Never the live one."""
        if name == self.database:
            raise BackstayError(f"The database {name} is the live one, which is never dropped: rename it first.")
        self._administer(f"DROP DATABASE IF EXISTS {_identifier(name)} WITH (FORCE)", f"drop the database {name}")

    def _maintenance(self, sql: str) -> list[str]:
        """Ask outside of the application's database, which may just have been renamed away."""
        try:
            return self.query(sql, name="postgres")
        except BackstayError:
            return self.query(sql, name="template1")

    def _administer(self, sql: str, what: str) -> None:
        may = "SELECT rolcreatedb OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user"
        try:
            if self._maintenance(may) == ["t"]:
                try:
                    self.query(sql, name="postgres")
                except BackstayError:
                    # Somebody of higher rank is connected, say: psql of the user postgres.
                    if not self._administrable:
                        raise
                else:
                    return
            elif not self._administrable:
                raise BackstayError(
                    f"The role {self.role} may not make databases on its server, so backstay cannot {what}: say "
                    f"`ALTER ROLE {_identifier(self.role)} CREATEDB` there, then run this again."
                )
            self._as_administrator(sql, "postgres")
        except BackstayError as refused:
            if "ALTER ROLE" in refused.message:
                raise
            raise BackstayError(f"Backstay could not {what}: {refused.message}", lines=refused.lines) from refused

    @property
    def _administrable(self) -> bool:
        """Whether the server's own administrator can be asked: root becomes any user of this host."""
        return self.local and os.geteuid() == 0 and _user(ADMINISTRATOR) is not None

    def _as_administrator(self, sql: str, name: str) -> None:
        given = connection_environment(self.url)
        administrator: dict[str, str] = {key: given[key] for key in ("PATH", "PGHOST", "PGPORT") if key in given}
        administrator |= {"PGUSER": ADMINISTRATOR, "PGDATABASE": name, "PGAPPNAME": "backstay"}
        self._psql(sql, administrator, ADMINISTRATOR, ADMIN_SECONDS)


_LOADING = ("--exit-on-error", "--no-owner", "--no-privileges")
_EXTENSION = re.compile(
    r"CREATE EXTENSION IF NOT EXISTS (?:\"(?:[^\"]|\"\")+\"|[a-z_][a-z0-9_$]*) WITH SCHEMA "
    r"(?:\"(?:[^\"]|\"\")+\"|[a-z_][a-z0-9_$]*);"
)


def _entries(listed: Sequence[str], kind: str) -> list[str]:
    """The lines of a dump's list that are of one kind."""
    return [line for line in listed if re.match(rf"\d+; \d+ \d+ {kind}", line)]


@contextlib.contextmanager
def _list_of(entries: Sequence[str]) -> Iterator[str]:
    """A file that tells pg_restore what to take; names of objects, which the client's user must be able to read."""
    with tempfile.NamedTemporaryFile("w", suffix=".list") as wanted:
        wanted.write("\n".join(entries) + "\n")
        wanted.flush()
        os.chmod(wanted.name, 0o644)
        yield wanted.name


_PSQL = ("--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--no-password", "--set=ON_ERROR_STOP=1")
_SCHEMAS_OF_OTHERS = """
SELECT nspname FROM pg_namespace WHERE nspowner <> (SELECT oid FROM pg_roles WHERE rolname = current_user)
"""
_ROWS = """
SELECT pg_catalog.json_build_array(count(*),
  coalesce(sum(pg_catalog.hashtextextended(r COLLATE "C", 0)::numeric), 0)::text,
  coalesce(sum(pg_catalog.hashtextextended(r COLLATE "C", 2718281828)::numeric), 0)::text)
FROM (SELECT ROW(x.*)::text AS r FROM ONLY {table} x OFFSET 0) y
"""
# Large objects lie in no table of the application's. They are read in pieces: one may be of terabytes.
LARGE_OBJECTS = "pg_largeobject"
_PIECE_BYTES = 16 << 20
_OBJECTS = f"""
WITH RECURSIVE piece(object, at, size, digest) AS (
  SELECT m.oid, 0::bigint, p.size, p.digest FROM pg_catalog.pg_largeobject_metadata m, LATERAL (
    SELECT pg_catalog.length(c) AS size, pg_catalog.md5(c) AS digest
    FROM (SELECT pg_catalog.lo_get(m.oid, 0, {_PIECE_BYTES}) AS c OFFSET 0) q) p
  UNION ALL
  SELECT b.object, b.at + {_PIECE_BYTES}, p.size, p.digest FROM piece b, LATERAL (
    SELECT pg_catalog.length(c) AS size, pg_catalog.md5(c) AS digest
    FROM (SELECT pg_catalog.lo_get(b.object, b.at + {_PIECE_BYTES}, {_PIECE_BYTES}) AS c OFFSET 0) q) p
  WHERE b.size = {_PIECE_BYTES}
)
SELECT pg_catalog.json_build_array((SELECT count(*) FROM pg_catalog.pg_largeobject_metadata),
  coalesce(sum(pg_catalog.hashtextextended(r COLLATE "C", 0)::numeric), 0)::text,
  coalesce(sum(pg_catalog.hashtextextended(r COLLATE "C", 2718281828)::numeric), 0)::text)
FROM (SELECT object || ' ' || at || ' ' || size || ' ' || digest AS r FROM piece) y
"""  # noqa: S608 - made of what is written here


def _table_facts(found: Sequence[Any]) -> TableFacts:
    return TableFacts(int(found[0]), hashlib.sha256(canonical(["backstay rows 1", *map(str, found)])).hexdigest())


def _schema_line(kind: str, name: str, what: str) -> list[str]:
    if kind in _EXPRESSIONS:
        what = re.sub(r"[()\s]", "", _CAST.sub("", what))
    return [kind, name, what]


def _plain(name: str) -> str:
    """A relation as people call it: those of the schema public without it."""
    return name.removeprefix("public.")


def _stands(last: int, called: bool) -> str:
    """Where a sequence stands: its last number; or the one that it will give, where it gave none yet."""
    return str(last) if called else f"{last} (not given yet)"


def dump_sequences(server: Server, dump: Path, *, seconds: float = LOAD_SECONDS) -> dict[str, str]:
    """Where the sequences stand that a dump will set."""
    listed = server._restore(dump, ["--list"], seconds)
    if not listed.ok:
        raise BackstayError(f"The dump {dump} is not whole: {_reason(listed.stderr)}; make another backup.")
    entries = [line for line in listed.stdout.splitlines() if " SEQUENCE SET " in line]
    if not entries:
        return {}
    with _list_of(entries) as wanted:
        told = server._restore(dump, [f"--use-list={wanted}", "--file=-"], seconds)
    if not told.ok:
        raise BackstayError(f"The dump {dump} is not whole: {_reason(told.stderr)}; make another backup.")
    found = {
        _plain(name.replace("''", "'")): _stands(int(last), called == "true")
        for name, last, called in _SETVAL.findall(told.stdout)
    }
    if len(found) != len(entries):
        raise BackstayError(
            f"The dump {dump} names {len(entries)} sequences and sets {len(found)}: make another backup."
        )
    return dict(sorted(found.items()))


def _digest(path: Path) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()


class _Session:
    """One connection, held by a psql of our own: queries in, lines out. It ends with the block, or at its deadline."""

    def __init__(self, server: Server, name: str | None, seconds: float) -> None:
        self._server = server
        self._name = name
        self._seconds = seconds
        self._late = threading.Event()

    def __enter__(self) -> Self:
        self._errors: IO[str] = tempfile.TemporaryFile("w+", errors="replace")
        try:
            self._process = subprocess.Popen(
                self._server.command("psql", *_PSQL),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                encoding="utf-8",
                errors="replace",
                cwd="/",
                env={**self._server.environment(self._name), "PGCLIENTENCODING": "UTF8"},
            )
        except FileNotFoundError as missing:
            self._errors.close()
            raise _no_client(missing) from missing
        self._timer = threading.Timer(self._seconds, self._end)
        self._timer.daemon = True
        self._timer.start()
        try:
            self.ask(_FIXED)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _end(self) -> None:
        self._late.set()
        self._process.kill()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        with contextlib.suppress(OSError):
            if self._process.stdin:
                self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._errors.close()

    def ask(self, sql: str, *, what: str = "A query") -> list[str]:
        """The lines that a statement answers."""
        mark = f"backstay-{secrets.token_hex(16)}"
        lines: list[str] = []
        standard_input, standard_output = self._process.stdin, self._process.stdout
        if standard_input is None or standard_output is None:
            raise BackstayError("A session has no pipes: this is a mistake in backstay.")
        with contextlib.suppress(BrokenPipeError):
            standard_input.write(f"{sql.rstrip().rstrip(';')};\n\\echo {mark}\n")
            standard_input.flush()
        for line in standard_output:
            text = line.rstrip("\n")
            if text == mark:
                return lines
            lines.append(text)
            if len(lines) > 1_000_000:
                break
        if self._late.is_set():
            raise Unanswered(
                f"The database {self._name or self._server.database} was not read within {self._seconds:g} s, so it "
                "was given up: see what keeps its server busy, or set the deadline higher."
            )
        self._process.wait(10)
        self._errors.seek(0)
        raise self._server._refused(what, self._errors.read())

    def answer(self, query: str, seconds: float = ANSWER_SECONDS) -> str:
        """The rows that a query of the settings answers, as JSON."""
        text = " ".join(query.split()).rstrip("; ")
        if ";" in text or "\\" in text:
            raise InputError(f"The query `{text[:100]}` has a semicolon or backslash inside: write it without.")
        self.ask(f"SET LOCAL statement_timeout = {int(seconds * 1000)}")
        self.ask("SET LOCAL search_path = public, pg_catalog")
        what = f"The query `{text[:100]}`"
        limited = f"SELECT * FROM ({text}) q LIMIT {ANSWER_ROWS + 1}"  # noqa: S608 - it is read-only, whatever it says
        lines = self.ask(f"COPY ({limited}) TO STDOUT", what=what)
        if len(lines) > ANSWER_ROWS:
            raise BackstayError(f"{what} answers with more than {ANSWER_ROWS} rows: ask for less.")
        self.ask("SET LOCAL search_path = ''; SET LOCAL statement_timeout = 0")
        return canonical([[_uncopied(each) for each in line.split("\t")] for line in lines]).decode()


_ESCAPED = re.compile(r"\\(.)")
_LETTERS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def _uncopied(text: str) -> str | None:
    """A value as COPY writes it."""
    if text == "\\N":
        return None
    return _ESCAPED.sub(lambda found: _LETTERS.get(found[1], found[1]), text)


class _Dump:
    """pg_dump under way, beside the session whose moment it dumps. It writes to the file itself: a pipe that breaks
    looks like an end."""

    def __init__(self, server: Server, snapshot: str | None, target: Path, seconds: float) -> None:
        self._server = server
        self._arguments = ["--format=custom", "--no-password", "--lock-wait-timeout=60000"]
        if snapshot is not None:
            self._arguments.append(f"--snapshot={snapshot}")
        self._target = target
        self._seconds = seconds

    def __enter__(self) -> Self:
        self._deadline = time.monotonic() + self._seconds
        self._target.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open(self._target, flags, 0o600)
        self._errors: IO[str] = tempfile.TemporaryFile("w+", errors="replace")
        try:
            self._process = subprocess.Popen(
                self._server.command("pg_dump", *self._arguments),
                stdin=subprocess.DEVNULL,
                stdout=self._file,
                stderr=self._errors,
                cwd="/",
                env=self._server.environment(),
            )
        except FileNotFoundError as missing:
            self._close()
            raise _no_client(missing) from missing
        return self

    def wait(self) -> None:
        """Until the dump is whole and on the disk."""
        try:
            code = self._process.wait(max(0.1, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired as late:
            raise BackstayError(
                f"The database {self._server.database} was not dumped within {self._seconds:g} s, so it was given up: "
                "see what keeps its server or the disk busy, or set backup.copy_seconds higher."
            ) from late
        if code != 0:
            self._errors.seek(0)
            raise self._server._refused("The dump", self._errors.read())
        os.fsync(self._file)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._close()

    def _close(self) -> None:
        os.close(self._file)
        self._errors.close()


def _reason(text: str) -> str:
    """The first error of a client's output, for a sentence."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\b(ERROR|FATAL|error|fatal|could not|PANIC)\b", line)]
    found = (errors or lines or ["it said nothing"])[0]
    return re.sub(r"^(psql|pg_dump|pg_restore)(:<stdin>:\d+)?: ", "", found)[:300].rstrip(".")


def _without_password(text: str, url: str) -> str:
    password = connection_environment(url).get("PGPASSWORD")
    return text.replace(password, "***") if password else text


def _identifier(name: str) -> str:
    if "\0" in name or "\\" in name:
        raise InputError(f"{name!r} is no name of a database or role.")
    if len(name.encode()) > NAME_BYTES:
        raise InputError(
            f"{name} has {len(name.encode())} bytes, and PostgreSQL takes {NAME_BYTES} and cuts the rest off, which "
            "would make it another one's name: give the database a shorter one."
        )
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    if "\0" in text or "\\" in text:
        raise InputError(f"{text!r} is no name of a database or role.")
    return "'" + text.replace("'", "''") + "'"


def _quoted(text: str) -> str:
    """Any text as a literal, whatever is in it."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _provider(kind: str, locale: str | None) -> str:
    """Who compares texts, where that is not the C library."""
    words = {"i": "icu ICU_LOCALE", "b": "builtin BUILTIN_LOCALE"}
    return f" LOCALE_PROVIDER {words[kind]} {_literal(locale)}" if kind in words and locale else ""


def _no_client(missing: FileNotFoundError) -> BackstayError:
    return BackstayError(f"The program {missing.filename!r} was not found: install postgresql-client on this host.")


def _user(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _account(application: str, role: str) -> str | None:
    """As whom clients run: the user that is called like the role (peer authentication), or the application's."""
    if os.geteuid() != 0:
        return None
    found = application if role in ("", application) or _user(role) is None or role == "root" else role
    return found if _user(found) is not None else None


def become(account: str | None) -> list[str]:
    """The beginning of a command line that runs as another user of this host; nothing where that is who this is."""
    entry = _user(account) if account else None
    if account and entry is None:
        raise BackstayError(
            f"The user {account} is missing on this host: create it, or correct the URL of the database."
        )
    if entry is None or entry.pw_uid == os.geteuid():
        return []
    return ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--init-groups"]


# a server that is thrown away

# Begins a command that ends at once when its parent does. setpriv could say so too, but not in a sandbox, where nobody
# may touch capabilities.
_DIES_TOO = (
    sys.executable,
    "-ISc",
    f"import ctypes, os, sys; ctypes.CDLL(None).prctl(1, {int(signal.SIGQUIT)}); os.execv(sys.argv[1], sys.argv[1:])",
)


_CHEAP = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "shared_buffers": "32MB",
    "maintenance_work_mem": "64MB",
    "max_connections": "10",
    "autovacuum": "off",
    "shared_memory_type": "mmap",
    "dynamic_shared_memory_type": "mmap",
}
# What a server with the settings of another one must leave alone: the other's files, its log, its archive.
_STANDING_IN = {
    "external_pid_file": "",
    "log_destination": "stderr",
    "logging_collector": "off",
    "archive_mode": "off",
    "fsync": "off",
}


class ThrowAway:
    """A cluster of our own below a scratch directory: no network, a socket that nobody else reaches, nothing synced; it
    is stopped and removed with the block, and dies with the process that made it.

    `account` runs it where this is root, which PostgreSQL refuses to be. `version` is a major version that is installed
    (None: the newest). With `configuration` it takes the settings of that file in place of the smallest that do: so it
    starts only where a server with them does. `server` reaches it, as its only role.
    """

    ROLE = "backstay"

    def __init__(
        self,
        scratch: Path,
        *,
        account: str | None = ADMINISTRATOR,
        version: int | None = None,
        configuration: Path | None = None,
        seconds: float = 120.0,
        runner: Runner = run,
    ) -> None:
        self._home = scratch / "postgresql"
        self._configuration = configuration
        self._account = account if os.geteuid() == 0 else None
        self._seconds = seconds
        self._runner = runner
        self._programs = programs(version)
        self._sockets = self._home / "socket"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def server(self) -> Server:
        query = urlencode({"host": str(self._sockets), "user": self.ROLE})
        return Server(f"postgresql:///postgres?{query}", self._account, self._programs, self._runner)

    def __enter__(self) -> Server:
        try:
            self._make()
            self._start()
        except BaseException:
            self._remove()
            raise
        return self.server

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _make(self) -> None:
        self._remove()
        self._directory(self._home)
        if len(str(self._sockets)) > _SOCKET_LIMIT:
            self._sockets = Path(tempfile.mkdtemp(prefix="backstay-"))
        self._directory(self._sockets)
        data = self._home / "data"
        options = ("--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions")
        command = [str(self._programs / "initdb"), f"--pgdata={data}", f"--username={self.ROLE}", *options]
        self._runner(
            [*become(self._account), *command],
            timeout_seconds=self._seconds,
            cwd=Path("/"),
            environment={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        )

    def _directory(self, path: Path) -> None:
        path.mkdir(mode=0o700, exist_ok=True)
        entry = _user(self._account) if self._account else None
        if entry is not None:
            os.chown(path, entry.pw_uid, entry.pw_gid)

    def _start(self) -> None:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._sockets),
            "unix_socket_permissions": "0700",
            **(_CHEAP if self._configuration is None else _STANDING_IN),
        }
        if self._configuration is not None:
            settings |= {"config_file": str(self._configuration), "data_directory": str(self._home / "data")}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(self._programs / "postgres"), "-D", str(self._home / "data"), *options]
        with (self._home / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*become(self._account), *_DIES_TOO, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
                start_new_session=True,
            )
        deadline = time.monotonic() + self._seconds
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                lines = (self._home / "log").read_text(errors="replace").splitlines()[-20:]
                why = next((line for line in lines if "FATAL:" in line), lines[-1] if lines else "it said nothing")
                raise BackstayError(
                    f"The throw-away PostgreSQL did not start: {why}; see its lines.", lines=tuple(lines)
                )
            time.sleep(0.02)

    def _ready(self) -> bool:
        with contextlib.suppress(OSError):
            lines = (self._home / "data" / "postmaster.pid").read_text().splitlines()
            return len(lines) >= 8 and lines[7].strip() == "ready"
        return False

    def _remove(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        for path in (self._sockets, self._home):
            if path.exists():
                shutil.rmtree(path, ignore_errors=True)


def programs(version: int | None = None) -> Path:
    """The directory with a server's programs. Raises BackstayError when that version, or any, is not installed."""
    found = {
        int(path.parent.parent.name): path.parent
        for path in INSTALLED.glob("*/bin/initdb")
        if path.parent.parent.name.isdigit()
    }
    wanted = version if version is not None else max(found, default=None)
    if wanted is None or wanted not in found:
        which = f"PostgreSQL {version}" if version is not None else "PostgreSQL"
        raise BackstayError(
            f"The server programs of {which} are not on this host, so a dump cannot be proven here: install postgresql."
        )
    return found[wanted]
