"""Runs inside the application's own interpreter and tells about migrations, one JSON object per line.

    <release>/venv/bin/python _django_agent.py <settings module> <action> ['{"databases": ["default"], ...}']

Actions: `state` (what is applied, known, pending, unknown), `describe` (that, each pending migration's operations as
facts, where data are kept, and what `check --deploy` warns about), `operations` (the same facts of every migration,
without any database), `migrate`, `reverse`, and `accounts` (which administrators have a default password).
Options: `databases`; `reverse`, the migrations to take back; `known`, those that the release before knows: `describe`
then tells of all others, also where another host has applied them already; `lock_seconds` and `statement_seconds`, how
long one statement may wait for a lock and may take; `wait_seconds`, how long another host may migrate the same database
before this one gives up; `engine`, for `operations` alone; `tried` and `seconds`, for `accounts` alone: what was tried
before, as digests, and how long the rest may be.

The working directory is the release's code/. Standard output belongs to the agent alone: whatever the application
prints goes to standard error, whose last line is the reason when the exit code is not 0. Exit codes: 0 done, 1 a
migration failed, 2 the application or a database could not be reached, 3 refused before anything was touched. It needs
Django 4.2 or newer and nothing of the library, because it runs where the library is not installed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from textwrap import shorten
from typing import IO, Any

ACTIONS = ("state", "describe", "operations", "migrate", "reverse", "accounts")

# What PostgreSQL's advisory lock is called in every database: "backstay" in ASCII, as a number.
LOCK = int.from_bytes(b"backstay", "big")

_SIZING_SECONDS = 5.0  # how long the size of one SQLite table may take before it is estimated
_LOCK_STATES = {"55P03", "40P01"}  # lock_not_available, deadlock_detected
_LET_GO_SECONDS = 0.2  # between two tries of a migration, for those who waited behind it
_CANCELLED = {"57014"}  # query_canceled, which statement_timeout does
_OURS = re.compile(r"django\.(db\.migrations|contrib\.postgres)\.operations(\.|$)")
# What a database does row by row while nobody can write, as a rewrite of a table or as an index of it. SQLite copies to
# new__..., and takes columns out. PostgreSQL computes a column, also by a default that is another one for each row;
# what a new type rewrites is judged by the types. It builds an index for what is to be unique, too.
_WORK = {
    "sqlite": (
        re.compile(r'\s*(?:CREATE TABLE "new__(?P<copied>[^"]+)"|ALTER TABLE "(?P<table>[^"]+)" DROP COLUMN)'),
        re.compile(r'\s*CREATE (?:UNIQUE )?INDEX "[^"]+" ON "(?P<table>[^"]+)"'),
    ),
    "postgresql": (
        re.compile(
            r'\s*ALTER TABLE "(?P<table>[^"]+)" ADD COLUMN .*(?: STORED\b| DEFAULT .*\b(?:random|\w*uuid\w*|'
            r"clock_timestamp|timeofday|nextval)\(|\bSERIAL\b|\bIDENTITY\b)",
            re.IGNORECASE | re.DOTALL,
        ),
        re.compile(
            r'\s*(?:CREATE (?:UNIQUE )?INDEX (?:IF NOT EXISTS )?"[^"]+" ON "(?P<table>[^"]+)"|'
            r'ALTER TABLE "(?P<altered>[^"]+)" ADD (?:COLUMN .* UNIQUE\b|CONSTRAINT "[^"]+" (?:UNIQUE|EXCLUDE)\b))',
            re.DOTALL,
        ),
    ),
}
_READING = re.compile(r"\s*(SELECT|WITH|EXPLAIN|PRAGMA\s+\w+\s*(\(|;|$))", re.IGNORECASE)
# Where Django's own editor cannot say what the database would be told, these count as a rewrite, or as an index.
_REBUILDING = {
    "AddField",
    "AlterField",
    "RemoveField",
    "AddConstraint",
    "RemoveConstraint",
    "AlterUniqueTogether",
    "AlterOrderWithRespectTo",
}
_INDEXING = {"AddIndex", "AddConstraint", "AlterUniqueTogether"}

# What `check --deploy` may take; a release does not wait longer for what it warns about.
_CHECK_SECONDS = 10.0
_WARNINGS = 20
_WORDS = 100  # letters of each
_ACCOUNTS = 100
_TRYING_SECONDS = 40.0  # by the clock on the wall, where the host has no time for this
# What an administrator's password is tried to be, beside the account's own name.
DEFAULT_PASSWORDS = ("admin", "password", "changeme", "admin123", "123456", "12345678", "test", "secret")

Tell = Callable[[dict[str, Any]], None]


class Refusal(Exception):
    """The sentence that ends standard error."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Options:
    """What the command line asks besides the action; None is no limit."""

    databases: tuple[str, ...] = ("default",)
    reverse: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    lock_seconds: float | None = None
    statement_seconds: float | None = None
    wait_seconds: float = 0.0
    engine: str | None = None
    tried: tuple[str, ...] = ()
    seconds: float = 0.0


def parse_options(text: str) -> Options:
    """Options from one JSON object. Raises Refusal for one that cannot be read."""
    try:
        given = json.loads(text)
        for name in ("databases", "reverse", "known", "tried"):
            given[name] = tuple(given.get(name) or ()) or getattr(Options, name)
        return Options(**given)
    except (ValueError, TypeError, AttributeError) as wrong:
        raise Refusal(f"the options {text[:80]!r} cannot be read: {sentence(wrong)}", exit_code=2) from wrong


def take_output() -> IO[str]:
    """Keep standard output for the agent, and point the application's at standard error."""
    sys.stdout.flush()
    ours = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return ours


def sentence(error: BaseException) -> str:
    """An error in one line, with its kind."""
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no reason was given'}"


def start(settings: str) -> None:
    """Import the settings and the applications, as `manage.py` would."""
    sys.path[0] = str(Path.cwd())  # not the directory of this file
    os.environ["DJANGO_SETTINGS_MODULE"] = settings
    try:
        import_module("django").setup()
    except Exception as error:
        raise Refusal(f"the application does not start: {sentence(error)}", exit_code=2) from error


# state


def state(databases: Sequence[str]) -> dict[str, Any]:
    """What is applied, what this code knows, what is pending, and what is applied but unknown to this code."""
    found: dict[str, list[str]] = {"applied": [], "known": [], "pending": [], "unknown": []}
    for alias in databases:
        executor = _executor(alias)
        loader = executor.loader
        recorded = set(executor.recorder.applied_migrations())
        disk = dict(loader.disk_migrations)
        replaced = {old for migration in disk.values() for old in migration.replaces}
        plan = executor.migration_plan(loader.graph.leaf_nodes())
        for kind, keys in (
            ("applied", sorted(recorded)),
            ("known", sorted(disk)),
            ("pending", [(migration.app_label, migration.name) for migration, _unused in plan]),
            ("unknown", sorted(recorded - set(disk) - replaced)),
        ):
            found[kind] += [_name(alias, f"{label}.{name}") for label, name in keys]
    return found


def places() -> dict[str, Any]:
    """Where this code keeps what cannot be made again: its SQLite files by alias, and what is uploaded."""
    files = {}
    for alias in import_module("django.db").connections:
        connection = _connection(alias)
        if connection.vendor == "sqlite" and not connection.is_in_memory_db():
            name = str(connection.settings_dict["NAME"])
            files[alias] = os.path.abspath(name.removeprefix("file:").partition("?")[0])  # it may be a URI
    media = str(import_module("django.conf").settings.MEDIA_ROOT or "")
    return {"files": files, "media": os.path.abspath(media) if media else ""}


def _connection(alias: str) -> Any:
    return import_module("django.db").connections[alias]


def _executor(alias: str) -> Any:
    """Django's migration executor of one database; refuses a database it cannot read and migrations that fork."""
    try:
        connection = _connection(alias)
        connection.prepare_database()
        executor = import_module("django.db.migrations.executor").MigrationExecutor(connection)
    except Exception as error:
        raise Refusal(f"the database {alias!r} cannot be read: {sentence(error)}", exit_code=2) from error
    _refuse_forks(executor.loader)
    return executor


def _refuse_forks(loader: Any) -> None:
    for label, names in loader.detect_conflicts().items():
        raise Refusal(
            f"{label} has two last migrations ({', '.join(sorted(names))}): merge them with makemigrations --merge",
            exit_code=2,
        )


def _name(alias: str, migration: str) -> str:
    return migration if alias == "default" else f"{alias}:{migration}"


# what is open to others


@contextlib.contextmanager
def checking() -> Iterator[Callable[[], dict[str, Any]]]:
    """Ask what `check --deploy` warns about, beside what the caller does meanwhile; what is given waits for the answer.

    A child asks, and the caller has no database open yet: checks are the application's own code, and whatever they do,
    however long it takes, is no matter of a release.
    """
    until = time.monotonic() + _CHECK_SECONDS
    try:
        reading, writing = os.pipe()
        child = os.fork()
    except OSError as error:
        failed = {"warnings": None, "failed": sentence(error)}
        yield lambda: failed
        return
    if child == 0:
        with contextlib.suppress(BaseException):
            os.write(writing, json.dumps(_warnings()).encode())
        os._exit(0)
    os.close(writing)
    try:
        yield lambda: _answered(reading, until)
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)  # it is still there, or a zombie
        os.waitpid(child, 0)


def _answered(reading: int, until: float) -> dict[str, Any]:
    """{"warnings": [{"id", "said"}], "failed": ""}; `warnings` is None where nobody knows, and `failed` says why."""
    content = b""
    while select.select([reading], [], [], max(0.0, until - time.monotonic()))[0]:
        part = os.read(reading, 65536)
        if not part:
            break
        content += part
    try:
        return {"failed": "", **json.loads(content)}
    except ValueError:
        return {"warnings": None, "failed": f"the checks did not end within {_CHECK_SECONDS:g} s, or died"}


def _warnings() -> dict[str, Any]:
    try:
        checks = import_module("django.core.checks")
        found = checks.run_checks(include_deployment_checks=True)
        loud = [each for each in found if each.level >= checks.WARNING and not each.is_silenced()]
        words = [shorten(str(each.msg).partition(". ")[0].rstrip("."), _WORDS, placeholder=" …") for each in loud]
    except BaseException as error:  # noqa: BLE001 - the application's code may raise anything; the fact is that it did
        return {"warnings": None, "failed": sentence(error)}
    told = {each.id or said: said for each, said in zip(loud, words, strict=True)}
    return {"warnings": [{"id": name, "said": said} for name, said in list(told.items())[:_WARNINGS]]}


def accounts(options: Options, tell: Tell) -> None:
    """Tell which accounts there are that may do most, as digests of their passwords' hashes; then try some passwords
    that everybody knows on each that was not `tried`, and tell of it at once. Nothing is written, no connection is held
    meanwhile, and neither hash nor password is told."""
    rows = _administrators()
    digests = [_digest(name, encoded) for name, encoded in rows[:_ACCOUNTS]]
    tell({"event": "accounts", "present": digests, "more": len(rows) > _ACCOUNTS})
    # Between accounts only: however slow a hash is, one a day is tried.
    wall, busy = time.monotonic() + _TRYING_SECONDS, time.process_time() + options.seconds
    for digest, (name, encoded) in zip(digests, rows, strict=False):
        if digest not in options.tried and time.monotonic() < wall and time.process_time() < busy:
            is_default = _has_default(name, encoded)
            if is_default is not None:
                tell({"event": "tried", "account": digest, "weak": name if is_default else ""})


def _administrators() -> list[tuple[str, str]]:
    """Name and hash of all who can log in by a password and are superusers or staff, superusers first; at most one more
    than are looked at. Raises Refusal where nobody knows who they are."""
    if not import_module("django.apps").apps.is_installed("django.contrib.auth"):
        return []
    try:
        model = import_module("django.contrib.auth").get_user_model()
        names = {each.name for each in model._meta.concrete_fields}
        powers = [name for name in ("is_superuser", "is_staff") if name in names]
        if not powers:
            raise Refusal(f"{model.__name__} knows neither superusers nor staff", exit_code=2)
        alias = import_module("django.db").router.db_for_read(model)
        any_of = import_module("django.db.models").Q(*((power, True) for power in powers), _connector="OR")
        rows = model._base_manager.using(alias).filter(any_of).exclude(password="")
        rows = rows.exclude(password__startswith="!")  # noqa: S106 - it marks an account without a password
        rows = rows.filter(is_active=True) if "is_active" in names else rows
        rows = rows.order_by(*(f"-{power}" for power in powers), "pk").values_list(model.USERNAME_FIELD, "password")
        connection = _connection(alias)
        connection.ensure_connection()  # which is given its limits
        with connection.execute_wrapper(_only_reading):
            found = list(rows[: _ACCOUNTS + 1])
        connection.close()
    except Refusal:
        raise
    except Exception as error:
        raise Refusal(f"the accounts cannot be read: {sentence(error)}", exit_code=2) from error
    return [(str(name), str(encoded)) for name, encoded in found if encoded]


def _digest(name: str, encoded: str) -> str:
    """What a password that was tried is remembered by: of account, hash and what it was compared with."""
    return hashlib.sha256(json.dumps([name, encoded, DEFAULT_PASSWORDS]).encode()).hexdigest()[:16]


def _has_default(name: str, encoded: str) -> bool | None:
    """Whether a hash is of a default password; None where nobody can tell. Django's `check_password` would hash again
    where it finds an old hash."""
    own = dict.fromkeys(each for each in (name, name.partition("@")[0]) if each)
    tries = dict.fromkeys([*own, *(f"{each}123" for each in own), *DEFAULT_PASSWORDS])
    try:
        hasher = import_module("django.contrib.auth.hashers").identify_hasher(encoded)
        return any(hasher.verify(each, encoded) for each in tries)
    except Exception as error:  # noqa: BLE001 - a hasher of the application's, or one whose library is missing
        sys.stderr.write(f"one password cannot be tried: {type(error).__name__}\n")  # no more: it may name the hash
        return None


# facts about operations


def describe(databases: Sequence[str], known: Sequence[str]) -> list[dict[str, Any]]:
    """Each pending migration, in the order in which it would be applied, with its operations as facts; with `known`,
    also those applied that are not among them."""
    found = []
    for alias in databases:
        executor = _executor(alias)
        leaves = executor.loader.graph.leaf_nodes()
        pending = {migration for migration, _unused in executor.migration_plan(leaves)}
        plan = [migration for migration, _unused in executor.migration_plan(leaves, clean_start=True)]
        unnamed = [each for each in plan if known and _name(alias, str(each)) not in known]
        renamed = [each for each in unnamed if each not in pending and _replaces_known(alias, each, known)]
        found += [_replacement(alias, each) for each in renamed]
        new = set(unnamed) - set(renamed)
        if not pending and not new:
            continue
        survey = Survey(alias, _connection(alias), pending=pending)
        survey.look()
        ordered = _told_last(plan, pending | new)
        found += survey.migrations(ordered, _empty_state(executor.loader), told=pending | new)
    return found


def _replaces_known(alias: str, migration: Any, known: Sequence[str]) -> bool:
    """Whether a migration stands, squashed, for some that a release knows."""
    names = [_name(alias, f"{app}.{name}") for app, name in migration.replaces]
    return bool(names) and all(name in known for name in names)


def _replacement(alias: str, migration: Any) -> dict[str, Any]:
    """The facts of a migration that does nothing, because what it stands for was applied."""
    name, engine = _name(alias, str(migration)), _connection(alias).vendor
    common = {"name": name, "database": alias, "engine": engine, "after": [], "operations": []}
    return common | {"atomic": True, "pending": False}


def _told_last(plan: Sequence[Any], told: Collection[Any]) -> Sequence[Any]:
    """The plan with what is not told of first, where nothing of that depends on what is: models are made only for
    migrations that are told of, and each later change of the state would make them again."""
    first = [each for each in plan if each not in told]
    keys = {(each.app_label, each.name) for each in told}
    if any(tuple(dependency) in keys for each in first for dependency in each.dependencies):
        return plan
    return [*first, *(each for each in plan if each in told)]


def _empty_state(loader: Any) -> Any:
    return import_module("django.db.migrations.state").ProjectState(real_apps=loader.unmigrated_apps)


def operations(databases: Sequence[str], engine: str | None) -> list[dict[str, Any]]:
    """Every migration that this code knows, each judged by itself and without any database, so without sizes."""
    loader_of = import_module("django.db.migrations.loader").MigrationLoader
    found = []
    for alias in databases:
        loader = loader_of(None)
        _refuse_forks(loader)
        plan: dict[tuple[str, str], None] = {}
        for leaf in sorted(loader.graph.leaf_nodes()):
            plan |= dict.fromkeys(loader.graph.forwards_plan(leaf))
        survey = Survey(alias, _connection(alias), engine=engine)
        found += survey.migrations([loader.graph.nodes[key] for key in plan], _empty_state(loader))
    return found


class Survey:
    """Turns Django's operations into facts, by what the models are before and after each of them.

    `look` reads which tables there are; without it nothing is asked of the database, and sizes are unknown (None).
    """

    def __init__(
        self, alias: str, connection: Any, *, engine: str | None = None, pending: Collection[Any] = ()
    ) -> None:
        self.pending = pending
        self.alias = alias
        self.connection = connection
        self.engine: str = engine or connection.vendor
        self.tables: set[str] | None = None
        self.sizes: dict[str, tuple[int | None, int | None]] = {}
        self.new_tables: set[str] = set()
        self.new_columns: set[tuple[str, str]] = set()
        self.is_pending = False  # the migration at hand

    def look(self) -> None:
        try:
            self.tables = set(self.connection.introspection.table_names())
        except Exception as error:
            raise Refusal(f"the database {self.alias!r} cannot be read: {sentence(error)}", exit_code=2) from error

    def migrations(
        self, plan: Sequence[Any], state: Any, *, told: Collection[Any] | None = None
    ) -> list[dict[str, Any]]:
        """The facts of a plan's migrations, from the state before the first of them.

        Those `told` of are one release: what one of them creates is unknown to the release before, and the next one
        cannot take it away from anybody. None is all, each by itself.
        """
        found = []
        for migration in plan:
            if told is None:
                self.new_tables, self.new_columns = set(), set()
            elif migration not in told:
                migration.mutate_state(state, preserve=False)
                continue
            self.is_pending = migration in self.pending
            facts: list[dict[str, Any]] = []
            for operation in migration.operations:
                before = state.clone()
                facts += self._advance(operation, migration.app_label, before, state)
            found.append(
                {
                    "name": _name(self.alias, f"{migration.app_label}.{migration.name}"),
                    "database": self.alias,
                    "engine": self.engine,
                    "atomic": bool(migration.atomic),
                    "pending": self.is_pending,
                    "after": [_name(self.alias, f"{app}.{name}") for app, name in migration.dependencies],
                    "operations": facts,
                }
            )
        return found

    def _advance(self, operation: Any, app: str, before: Any, state: Any) -> list[dict[str, Any]]:
        operation.state_forwards(app, state)
        return self._facts(operation, app, before, state)

    def _facts(self, operation: Any, app: str, before: Any, after: Any) -> list[dict[str, Any]]:
        """One operation as facts; those inside SeparateDatabaseAndState that touch the database, one by one."""
        kind = type(operation).__name__
        if kind == "SeparateDatabaseAndState" and _is_djangos(operation):
            state, found = before.clone(), []
            for inner in operation.database_operations:
                earlier = state.clone()
                found += self._advance(inner, app, earlier, state)
            found += [
                {"kind": type(inner).__name__, "app": app, "state_only": True, "reversible": True}
                for inner in operation.state_operations
            ]
            return found
        facts: dict[str, Any] = {
            "kind": kind if _is_djangos(operation) else f"{type(operation).__module__}.{type(operation).__qualname__}",
            "app": app,
            "reversible": bool(operation.reversible),
            "elidable": bool(operation.elidable),
            "state_only": False,
        }
        try:
            if _is_djangos(operation):
                facts |= getattr(self, f"_{kind.lower()}", self._nothing)(operation, app, before, after)
        except Exception as error:  # noqa: BLE001 - the application's code may raise anything; the fact is that it did
            return [{**facts, "unreadable": sentence(error)}]
        if "table" in facts and not facts["state_only"]:
            facts["new_table"] = facts["table"] in self.new_tables
            facts["rows"], facts["bytes"] = self._size(facts["table"])
            rewritten, indexed = self._long_work(operation, app, before, after, facts)
            facts["rebuild"] = bool(rewritten)
            facts["rebuilds"] = [self._sized(table) for table in rewritten]
            facts["indexes"] = [self._sized(table) for table in indexed if table not in rewritten]
        self._remember(facts)
        return [facts]

    def _remember(self, facts: Mapping[str, Any]) -> None:
        """What the release before cannot know, because an operation of this release made it."""
        self.new_tables |= set(facts.get("creates", ()))
        table = facts.get("table")
        if table is None or facts["state_only"]:
            return
        if facts["kind"] == "AddField" or facts.get("new_column"):
            if facts.get("new", {}).get("column"):
                self.new_columns.add((table, facts["new"]["column"]))
        elif facts["kind"] in ("RenameModel", "AlterModelTable"):
            if table in self.new_tables:
                self.new_tables.add(facts["new_table_name"])
            for name, column in list(self.new_columns):
                if name == table:
                    self.new_columns.add((facts["new_table_name"], column))

    # one method per kind, called by its name

    def _nothing(self, operation: Any, app: str, before: Any, after: Any) -> dict[str, Any]:
        return {}

    def _model(self, operation: Any, state: Any, app: str, name: str) -> tuple[Any, dict[str, Any]]:
        """A model in a state, and the facts that name it; `state_only` where this database has no such table."""
        model = state.apps.get_model(app, name)
        here = operation.allow_migrate_model(self.alias, model)
        return model, {
            "model": f"{app}.{model._meta.object_name}",
            "table": model._meta.db_table,
            "state_only": not here,
        }

    def _createmodel(self, operation: Any, app: str, before: Any, after: Any) -> dict[str, Any]:
        model, facts = self._model(operation, after, app, operation.name)
        tables = [model._meta.db_table, *(_through(each) for each in model._meta.local_many_to_many)]
        facts["creates"] = [] if facts["state_only"] else [table for table in tables if table]
        facts["refers_to"] = sorted({table for each in model._meta.local_fields if (table := _referred(each))})
        self.new_tables |= set(facts["creates"])
        return facts

    def _deletemodel(self, operation: Any, app: str, before: Any, after: Any) -> dict[str, Any]:
        return self._model(operation, before, app, operation.name)[1]

    def _renamemodel(self, operation: Any, app: str, before: Any, after: Any) -> dict[str, Any]:
        facts = self._model(operation, before, app, operation.old_name)[1]
        return facts | {"new_table_name": after.apps.get_model(app, operation.new_name)._meta.db_table}

    def _altermodeltable(self, operation: Any, app: str, before: Any, after: Any) -> dict[str, Any]:
        facts = self._model(operation, before, app, operation.name)[1]
        return facts | {"new_table_name": after.apps.get_model(app, operation.name)._meta.db_table}

    def _together(self, operation: Any, app: str, before: Any, after: Any) -> dict[str, Any]:
        _model, facts = self._model(operation, after, app, operation.name)
        name = operation.option_name
        old = set(before.models[app, operation.name_lower].options.get(name) or ())
        new = set(after.models[app, operation.name_lower].options.get(name) or ())
        return facts | {"added": sorted(map(list, new - old)), "removed": sorted(map(list, old - new))}

    _alteruniquetogether = _together
    _alterindextogether = _together

    def _alterorderwithrespectto(self, operation: Any, app: str, before: Any, after: Any) -> dict[str, Any]:
        _model, facts = self._model(operation, after, app, operation.name)
        had = before.models[app, operation.name_lower].options.get("order_with_respect_to")
        return facts | {"had": bool(had), "has": bool(operation.order_with_respect_to)}

    def _addfield(self, operation: Any, app: str, before: Any, after: Any) -> dict[str, Any]:
        model, facts = self._model(operation, after, app, operation.model_name)
        new = model._meta.get_field(operation.name)
        through = _through(new) if new.many_to_many else None
        creates = [through] if through and not facts["state_only"] else []
        return facts | {"field": operation.name, "new": self._column(new), "creates": creates}

    def _removefield(self, operation: Any, app: str, before: Any, after: Any) -> dict[str, Any]:
        model, facts = self._model(operation, before, app, operation.model_name)
        old = model._meta.get_field(operation.name)
        return facts | {"field": operation.name, "old": self._column(old), **self._known(facts["table"], old)}

    def _alterfield(self, operation: Any, app: str, before: Any, after: Any) -> dict[str, Any]:
        model, facts = self._model(operation, after, app, operation.model_name)
        new = model._meta.get_field(operation.name)
        old = before.apps.get_model(app, operation.model_name)._meta.get_field(operation.name)
        editor = self.connection.schema_editor(collect_sql=True, atomic=False)
        if not old.many_to_many and not new.many_to_many and not editor._field_should_be_altered(old, new):
            facts["state_only"] = True
        if old.null and not new.null and not facts["state_only"]:
            facts["nulls"] = self._nulls(facts["table"], old.column)
        return facts | {
            "field": operation.name,
            "old": self._column(old),
            "new": self._column(new),
            **self._known(facts["table"], old),
        }

    def _renamefield(self, operation: Any, app: str, before: Any, after: Any) -> dict[str, Any]:
        model, facts = self._model(operation, before, app, operation.model_name)
        old = model._meta.get_field(operation.old_name)
        new = after.apps.get_model(app, operation.model_name)._meta.get_field(operation.new_name)
        return facts | {
            "field": operation.old_name,
            "old": self._column(old),
            "new": self._column(new),
            **self._known(facts["table"], old),
        }

    def _index(self, operation: Any, app: str, before: Any, after: Any) -> dict[str, Any]:
        _model, facts = self._model(operation, after, app, operation.model_name)
        index = getattr(operation, "index", None)
        name = index.name if index is not None else getattr(operation, "name", None) or operation.new_name
        return facts | {"index": name}

    _addindex = _index
    _removeindex = _index
    _renameindex = _index
    _addindexconcurrently = _index
    _removeindexconcurrently = _index

    def _constraint(self, operation: Any, app: str, before: Any, after: Any) -> dict[str, Any]:
        model, facts = self._model(operation, after, app, operation.model_name)
        constraint = getattr(operation, "constraint", None)
        facts["constraint"] = operation.name if constraint is None else constraint.name
        facts["constraint_kind"] = "" if constraint is None else type(constraint).__name__
        # NULL is equal to nothing: a new column that the release before leaves empty cannot violate uniqueness.
        names = getattr(constraint, "fields", ()) if getattr(constraint, "nulls_distinct", None) is not False else ()
        fields = [model._meta.get_field(name) for name in names]
        facts["left_empty"] = any(
            each.null and not _has(each, "db_default") and (facts["table"], each.column) in self.new_columns
            for each in fields
        )
        return facts

    _addconstraint = _constraint
    _addconstraintnotvalid = _constraint
    _removeconstraint = _constraint
    _alterconstraint = _constraint
    _validateconstraint = _constraint

    def _runsql(self, operation: Any, app: str, before: Any, after: Any) -> dict[str, Any]:
        return self._here(operation, app) | {
            "verbs": self._verbs(operation.sql),
            "reverse_verbs": None if operation.reverse_sql is None else self._verbs(operation.reverse_sql),
        }

    def _runpython(self, operation: Any, app: str, before: Any, after: Any) -> dict[str, Any]:
        reverse = operation.reverse_code
        return self._here(operation, app) | {
            "code": getattr(operation.code, "__name__", "code"),
            "noop": operation.code is type(operation).noop,
            "reverse_noop": reverse is type(operation).noop,
        }

    def _here(self, operation: Any, app: str) -> dict[str, Any]:
        router = import_module("django.db").router
        return {"state_only": not router.allow_migrate(self.alias, app, **operation.hints)}

    def _verbs(self, sql: Any) -> list[str]:
        """The first two words of each statement: what it does, and to what kind of thing."""
        if isinstance(sql, str):
            statements = [] if not sql else self.connection.ops.prepare_sql_script(sql)
        else:
            statements = [each if isinstance(each, str) else each[0] for each in sql]
        plain = [re.sub(r"--[^\n]*|/\*.*?\*/", " ", each, flags=re.DOTALL).upper() for each in statements]
        return [" ".join(words[:2]) for each in plain if (words := re.findall(r"\w+", each))]

    def _known(self, table: str, old: Any) -> dict[str, Any]:
        return {"new_column": (table, old.column) in self.new_columns}

    def _nulls(self, table: str, column: str | None) -> bool | None:
        """Whether a column holds a NULL now; None where nobody knows."""
        new = table in self.new_tables or (table, column) in self.new_columns
        if not self.is_pending or new or column is None or self.tables is None or table not in self.tables:
            return None
        names = [self.connection.ops.quote_name(name) for name in (table, column)]
        with self.connection.cursor() as cursor:
            cursor.execute(f"SELECT EXISTS (SELECT 1 FROM {names[0]} WHERE {names[1]} IS NULL)")  # noqa: S608 - quoted
            return bool(cursor.fetchone()[0])

    def _column(self, each: Any) -> dict[str, Any]:
        """One field as facts about its column."""
        parameters = each.db_parameters(connection=self.connection)
        return {
            "column": each.column if parameters["type"] is not None else None,
            "type": parameters["type"],
            "check": parameters.get("check"),
            "collation": parameters.get("collation"),
            "null": bool(each.null),
            "unique": bool(each.unique),
            "primary_key": bool(each.primary_key),
            "default": bool(each.has_default()),
            "db_default": _has(each, "db_default"),
            "generated": bool(getattr(each, "generated", False)),
            "many_to_many": _through(each) if each.many_to_many else None,
            "refers_to": _referred(each),
        }

    # the database as it is

    def _size(self, table: str) -> tuple[int | None, int | None]:
        """Rows and bytes (with indexes) of a table; None where nobody knows, 0 where there is no such table yet."""
        if self.tables is None:
            return None, None
        if table not in self.tables or table in self.new_tables:
            return 0, 0
        if table not in self.sizes:
            measure = _size_postgresql if self.engine == "postgresql" else _size_sqlite
            self.sizes[table] = measure(self.connection, table)
        return self.sizes[table]

    def _sized(self, table: str) -> dict[str, Any]:
        rows, size = self._size(table)
        return {"table": table, "rows": rows, "bytes": size}

    def _long_work(
        self, operation: Any, app: str, before: Any, after: Any, facts: Mapping[str, Any]
    ) -> tuple[list[str], list[str]]:
        """The tables that the database would rewrite row by row, and those that it would index (one entry an index), by
        the statements of Django's own editor; nothing is executed."""
        if self.engine not in _WORK or self.tables is None or facts["table"] not in self.tables:
            return [], []
        if facts["new_table"] or not self.is_pending:
            return [], []
        editor = self.connection.schema_editor(collect_sql=True, atomic=False)
        editor.deferred_sql = []  # as if it was entered, which would write
        try:
            with self.connection.execute_wrapper(_only_reading):
                operation.database_forwards(app, editor, before, after)
        except Exception as error:  # noqa: BLE001 - Django's editor may miss what an earlier migration of the plan makes
            sys.stderr.write(f"{facts['kind']} of {facts['table']} counts as long work: {sentence(error)}\n")
            found = [facts["table"]]
            if self.engine == "sqlite":
                return found if facts["kind"] in _REBUILDING else [], []
            return [], found if facts["kind"] in _INDEXING else []
        said = [str(sql) for sql in (*editor.collected_sql, *editor.deferred_sql)]
        rewritten, indexed = (
            [table for sql in said if (match := work.match(sql)) for table in match.groups() if table in self.tables]
            for work in _WORK[self.engine]
        )
        return rewritten, indexed


def _only_reading(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
    if not _READING.match(sql):
        raise RuntimeError(f"looking at a migration wanted to execute {sql[:60]!r}")
    return execute(sql, params, many, context)


def _is_djangos(operation: Any) -> bool:
    return _OURS.match(type(operation).__module__) is not None


def _has(each: Any, name: str) -> bool:
    """Whether a field was given `db_default`, which Django has since 5.0."""
    missing = import_module("django.db.models.fields").NOT_PROVIDED
    return getattr(each, name, missing) is not missing


def _through(each: Any) -> str | None:
    """The table of a many-to-many field that Django makes for it."""
    through = each.remote_field.through
    return str(through._meta.db_table) if through._meta.auto_created else None


def _referred(each: Any) -> str | None:
    """The table that the database itself checks a field against."""
    related = each.remote_field
    if each.many_to_many or related is None or not getattr(each, "db_constraint", False):
        return None
    return str(related.model._meta.db_table)


def _size_postgresql(connection: Any, table: str) -> tuple[int | None, int | None]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.reltuples::bigint, pg_total_relation_size(c.oid) FROM pg_class c WHERE c.oid = to_regclass(%s)",
            [connection.ops.quote_name(table)],
        )
        rows, size = cursor.fetchone() or (None, None)
        if rows is not None and rows < 0:  # never analysed
            rows = None
            if size is not None and size < 1 << 26:
                cursor.execute(f"SELECT count(*) FROM {connection.ops.quote_name(table)}")  # noqa: S608 - a quoted name
                rows = cursor.fetchone()[0]
        return rows, size


def _size_sqlite(connection: Any, table: str) -> tuple[int | None, int | None]:
    quoted = connection.ops.quote_name(table)
    connection.ensure_connection()
    raw = connection.connection
    until = time.monotonic() + _SIZING_SECONDS
    raw.set_progress_handler(lambda: int(time.monotonic() > until), 10_000)
    rows = size = None
    try:
        with connection.cursor() as cursor:
            with contextlib.suppress(import_module("django.db").DatabaseError):
                cursor.execute(f"SELECT count(*) FROM {quoted}")  # noqa: S608 - a quoted name
                rows = cursor.fetchone()[0]
            try:
                cursor.execute(
                    "SELECT sum(pgsize) FROM dbstat WHERE aggregate = 1 AND name IN "
                    "(SELECT name FROM sqlite_master WHERE tbl_name = %s)",
                    [table],
                )
                size = cursor.fetchone()[0] or 0
            except import_module("django.db").DatabaseError:  # no dbstat, or it took too long: at most the whole file
                raw.set_progress_handler(None, 0)
                cursor.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
                size = cursor.fetchone()[0]
    finally:
        raw.set_progress_handler(None, 0)
    return rows, size


# limits


def limit(options: Options) -> None:
    """Give every connection that will be opened its limits on waiting for a lock and on one statement."""
    signal = import_module("django.db.backends.signals").connection_created

    def apply(connection: Any, **_unused: Any) -> None:
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                for name, seconds in (
                    ("lock_timeout", options.lock_seconds),
                    ("statement_timeout", options.statement_seconds),
                ):
                    if seconds is not None:
                        cursor.execute(f"SET {name} = {max(1, round(seconds * 1000))}")
        elif connection.vendor == "sqlite":
            _limit_sqlite(connection, options)

    signal.connect(apply, weak=False)
    for connection in import_module("django.db").connections.all(initialized_only=True):
        connection.close()


def _limit_sqlite(connection: Any, options: Options) -> None:
    if options.lock_seconds is not None:
        with connection.cursor() as cursor:
            cursor.execute(f"PRAGMA busy_timeout = {round(options.lock_seconds * 1000)}")
    # A transaction that reads first and then writes is told "locked" at once, whatever it may wait: begin as a writer.
    connection._start_transaction_under_autocommit = lambda: connection.cursor().execute("BEGIN IMMEDIATE")
    if options.statement_seconds is None:
        return
    seconds, until = options.statement_seconds, [float("inf")]

    def timed(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        until[0] = time.monotonic() + seconds
        return execute(sql, params, many, context)

    connection.connection.set_progress_handler(lambda: int(time.monotonic() > until[0]), 100_000)
    connection.execute_wrappers[:] = [timed]


@contextlib.contextmanager
def alone(alias: str, options: Options, tell: Tell) -> Iterator[None]:
    """Hold the database's advisory lock, so that hosts that share a database migrate it one after another.

    On a connection of its own: a migration may close the one that it was given. SQLite is one host's alone.
    """
    if _connection(alias).vendor != "postgresql":
        yield
        return
    connection = _connection(alias).copy()
    began = time.monotonic()
    try:
        with connection.cursor() as cursor:
            told = False
            while True:
                cursor.execute("SELECT pg_try_advisory_lock(%s)", [LOCK])
                if cursor.fetchone()[0]:
                    break
                waited = time.monotonic() - began
                if waited >= options.wait_seconds:
                    raise Refusal(
                        f"another host has been migrating the database {alias!r} for {waited:.0f} s, which is all that "
                        "this one may wait: nothing was touched; the row of pg_locks with locktype 'advisory' says who "
                        "it is",
                        exit_code=3,
                    )
                if not told:
                    tell({"event": "waiting", "database": alias, "seconds": options.wait_seconds})
                    told = True
                time.sleep(0.2)
        yield
    finally:
        connection.close()  # which gives the lock back


# migrating


@dataclass
class Progress:
    """Tells each migration as it begins and ends, and remembers where it is."""

    alias: str
    tell: Tell
    of: int
    atomic: Mapping[str, bool] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    current: str = ""
    began: float = 0.0

    def __call__(self, action: str, migration: Any = None, _fake: bool = False) -> None:
        if action in ("apply_start", "unapply_start"):
            self.current = _name(self.alias, str(migration))
            self.began = time.monotonic()
            self.tell({"event": "begin", "name": self.current, "number": len(self.done) + 1, "of": self.of})
        elif action in ("apply_success", "unapply_success"):
            self.tell({"event": "migration", "name": self.current, "seconds": round(time.monotonic() - self.began, 3)})
            self.done.append(self.current)
            self.current = ""


def migrate(options: Options, tell: Tell) -> None:
    """Apply what is pending with Django's own command, telling each migration and its seconds."""
    call_command = import_module("django.core.management").call_command
    django_command = import_module("django.core.management.commands.migrate").Command
    for alias in options.databases:
        _executor(alias)  # refuses what cannot be read
        with alone(alias, options, tell):
            executor = _executor(alias)
            plan = [migration for migration, _unused in executor.migration_plan(executor.loader.graph.leaf_nodes())]
            command = django_command(stdout=sys.stderr, stderr=sys.stderr)
            progress = Progress(alias, tell, len(plan), _atomicity(alias, plan))
            command.migration_progress_callback = progress
            brief = _waits_briefly(alias, options, progress)
            waited: dict[str, float] = {}  # seconds, of each migration
            while True:
                try:
                    call_command(command, database=alias, interactive=False, verbosity=1, skip_checks=True)
                    break
                except Exception as error:
                    waited[progress.current] = waited.get(progress.current, 0.0) + brief + _LET_GO_SECONDS
                    lock = brief and _reason(error, options)[1] == "lock"
                    if not lock or waited[progress.current] >= (options.lock_seconds or 0.0):
                        names = [_name(alias, str(migration)) for migration in plan]
                        raise _failure("applied", progress, names, error, options) from error
                time.sleep(_LET_GO_SECONDS)


def _waits_briefly(alias: str, options: Options, progress: Progress) -> float:
    """Have PostgreSQL end each wait for a lock soon, where what was done until then is undone and can be tried again.
    Returns how soon, in seconds; 0 where it waits as it always does.

    A migration of two tables and a visitor who writes both may wait for each other. The server ends one of the two
    after its `deadlock_timeout`, perhaps the visitor; so the migration lets go in half of that time, and whoever waits
    behind it never waits longer.
    """
    connection = _connection(alias)
    if connection.vendor != "postgresql" or options.lock_seconds is None or not all(progress.atomic.values()):
        return 0.0
    with connection.cursor() as cursor:
        cursor.execute("SELECT setting::float / 2000 FROM pg_settings WHERE name = 'deadlock_timeout'")
        brief = min(cursor.fetchone()[0], options.lock_seconds)
        cursor.execute(f"SET lock_timeout = {max(1, round(brief * 1000))}")
    return float(brief)


def reverse(options: Options, tell: Tell) -> None:
    """Take back the given migrations and what depends on them, newest first; irreversible ones are refused before any
    is touched. What is not applied any more is left alone, so that it can be asked twice."""
    plans: list[tuple[str, Any, list[Any]]] = []
    for alias in options.databases:
        executor = _executor(alias)
        plans.append((alias, executor, _backwards(alias, executor, options.reverse)))
    for alias, _unused, plan in plans:
        _refuse_irreversible(alias, plan)
    for alias, _unused, expected in plans:
        if not expected:
            continue
        with alone(alias, options, tell):
            executor = _executor(alias)  # as it is now that nobody else migrates
            plan = _backwards(alias, executor, options.reverse)
            progress = Progress(alias, tell, len(plan), _atomicity(alias, plan))
            executor.progress_callback = progress
            try:
                if plan:
                    executor.migrate([], plan=[(migration, True) for migration in plan])
            except Exception as error:
                names = [_name(alias, str(migration)) for migration in plan]
                raise _failure("taken back", progress, names, error, options) from error


def _backwards(alias: str, executor: Any, names: Sequence[str]) -> list[Any]:
    """The applied migrations among `names` with all applied ones that depend on them, in the order to take them back.

    Raises Refusal for one that this code does not know: only the release that knows it can take it back.
    """
    graph, applied = executor.loader.graph, executor.loader.applied_migrations
    wanted: dict[tuple[str, str], None] = {}
    for name in names:
        database, _unused, rest = name.rpartition(":")
        if (database or "default") != alias:
            continue
        key = _key(rest)
        if key not in graph.nodes:
            if key in executor.recorder.applied_migrations():
                raise Refusal(
                    f"{name} cannot be taken back: this release does not know it, only the one that applied it does",
                    exit_code=3,
                )
            continue
        wanted[key] = None
    found: dict[tuple[str, str], None] = {}
    for key in wanted:
        found |= dict.fromkeys(each for each in graph.backwards_plan(key) if each in applied)
    # Dependents first, over all of them: the reverse of the order in which they would be applied.
    order = [key for leaf in sorted(graph.leaf_nodes()) for key in graph.forwards_plan(leaf)]
    position = {key: number for number, key in reversed(list(enumerate(order)))}
    return [graph.nodes[key] for key in sorted(found, key=position.__getitem__, reverse=True)]


def _key(name: str) -> tuple[str, str]:
    app, _unused, migration = name.partition(".")
    return app, migration


def _refuse_irreversible(alias: str, plan: Sequence[Any]) -> None:
    for migration in plan:
        stuck = [type(each).__name__ for each in _flat(migration.operations) if not each.reversible]
        if stuck:
            raise Refusal(
                f"{_name(alias, str(migration))} cannot be taken back: its {stuck[0]} has no reverse; "
                "nothing was touched",
                exit_code=3,
            )


def _flat(operations: Sequence[Any]) -> Iterator[Any]:
    for operation in operations:
        yield operation
        yield from _flat(getattr(operation, "database_operations", ()))


def _atomicity(alias: str, plan: Sequence[Any]) -> dict[str, bool]:
    """Which migrations the database undoes by itself when they fail."""
    whole = _connection(alias).features.can_rollback_ddl
    return {_name(alias, str(migration)): bool(whole and migration.atomic) for migration in plan}


def _failure(what: str, progress: Progress, plan: Sequence[str], error: Exception, options: Options) -> Refusal:
    """What failed and why, what was done before it in this run, what remains; told as an event and as the sentence."""
    left = [name for name in plan if name not in progress.done]
    failed = progress.current
    seconds = round(time.monotonic() - progress.began, 1) if failed else 0.0
    reason, kind = _reason(error, options)
    progress.tell(
        {
            "event": "failed",
            "name": failed,
            "kind": kind,
            "reason": reason,
            "seconds": seconds,
            "done": list(progress.done),
            "left": left,
        }
    )
    verb = "migrate" if what == "applied" else "reverse"
    parts = [f"the migration {failed} failed after {seconds:g} s: {reason}" if failed else f"{verb} failed: {reason}"]
    if failed:
        whole = progress.atomic.get(failed, False)
        parts.append(
            f"nothing of it was {what}"
            if whole
            else f"it is not atomic, so parts of it may have been {what}: look at the database before the next attempt"
        )
    parts.append(f"{what} before it in this run: {', '.join(progress.done) or 'nothing'}")
    parts.append(f"{'still pending' if what == 'applied' else 'still applied'}: {', '.join(left) or 'nothing'}")
    return Refusal("; ".join(parts), exit_code=1)


def _reason(error: Exception, options: Options) -> tuple[str, str]:
    """Why the database refused, as people say it, and whether it is `lock`, `statement` or any other `error`."""
    cause = error.__cause__ or error
    code = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    said = sentence(error)
    if code in _LOCK_STATES or re.search(r"database( table)? is locked", said):
        waited = "" if options.lock_seconds is None else f" for {options.lock_seconds:g} s"
        return f"it waited{waited} for a lock that somebody else holds, and gave up ({said})", "lock"
    if code in _CANCELLED or "OperationalError: interrupted" in said:
        limit_text = "" if options.statement_seconds is None else f" of {options.statement_seconds:g} s"
        return f"one of its statements took longer than the limit{limit_text} ({said})", "statement"
    return said, "error"


def work(arguments: Sequence[str], tell: Tell) -> None:
    """Do what the command line asks. Raises Refusal."""
    if len(arguments) not in (2, 3) or arguments[1] not in ACTIONS:
        raise Refusal(f"the agent wants a settings module, one of {', '.join(ACTIONS)}, and options", exit_code=2)
    settings, action = arguments[:2]
    options = parse_options(arguments[2] if len(arguments) > 2 else "{}")
    start(settings)
    if action == "operations":
        tell({"event": "operations", "migrations": operations(options.databases, options.engine)})
        return
    limit(options)
    if action == "accounts":
        accounts(options, tell)
        return
    if action == "migrate":
        migrate(options, tell)
    elif action == "reverse":
        reverse(options, tell)
    elif action == "describe":
        with checking() as warnings:
            tell({"event": "describe", "migrations": describe(options.databases, options.known), **places()})
            tell({"event": "checks", **warnings()})
    tell({"event": "state", **state(options.databases)})


def main(arguments: Sequence[str]) -> int:
    ours = take_output()

    def tell(event: dict[str, Any]) -> None:
        ours.write(json.dumps(event) + "\n")
        ours.flush()

    try:
        work(arguments, tell)
    except Refusal as refusal:
        if refusal.__cause__ is not None:
            traceback.print_exception(refusal.__cause__)
        sys.stderr.write(f"{refusal}\n")
        return refusal.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
