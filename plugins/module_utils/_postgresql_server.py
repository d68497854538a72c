"""The databases of a PostgreSQL server on this host: one role and one database for each application that asks.

`refusals` and `plan` are pure; `DatabaseServer` asks the server as its own user, over its socket, and carries a plan
out. Nothing here drops anything. A running server is restarted only while nobody can have data in it. Settings are
believed when a server started with them: many that can be read (a library that is not there, more memory than the host
gives) cannot be started with, and that would show at the next boot.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ._errors import BackstayError, InputError
from ._postgresql import ADMINISTRATOR, ThrowAway
from ._run import Runner, run

CLUSTER = "main"
OWN = frozenset({"postgres", "template0", "template1"})  # the databases that every server has
SETTINGS = Path("conf.d/backstay.conf")
SECONDS = 60.0

_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,62}")
_FACTS = """
SELECT json_build_object(
  'roles', (SELECT json_object_agg(rolname, json_build_object('superuser', rolsuper, 'createdb', rolcreatedb,
    'createrole', rolcreaterole, 'login', rolcanlogin)) FROM pg_roles),
  'databases', (SELECT json_object_agg(datname, json_build_object('owner', pg_get_userbyid(datdba),
    'encoding', pg_encoding_to_char(encoding), 'open', has_database_privilege('public', oid, 'CONNECT')))
    FROM pg_database),
  'waiting', (SELECT coalesce(json_agg(name ORDER BY name), '[]') FROM pg_settings WHERE pending_restart),
  'checksums', current_setting('data_checksums') = 'on');
"""


@dataclass(frozen=True)
class Wanted:
    """A database and the role that owns it, which is called like the user that connects (peer authentication)."""

    name: str
    owner: str
    createdb: bool = False  # may its owner make further databases


@dataclass(frozen=True)
class Role:
    superuser: bool = False
    createdb: bool = False
    createrole: bool = False
    login: bool = True


@dataclass(frozen=True)
class Existing:
    """A database that is there. `open`: every role of the server may connect to it."""

    owner: str
    encoding: str = "UTF8"
    open: bool = False


@dataclass(frozen=True)
class Seen:
    """What is there. `clusters`: all of the host, as version and name; `configured`: our settings are in place; `down`:
    the server does not run, so that nothing else is known of it."""

    clusters: tuple[tuple[str, str], ...] = ()
    configured: bool = False
    down: bool = False
    roles: Mapping[str, Role] = field(default_factory=dict)
    databases: Mapping[str, Existing] = field(default_factory=dict)
    waiting: tuple[str, ...] = ()  # settings that a restart would apply
    checksums: bool = True

    @property
    def foreign(self) -> tuple[str, ...]:
        """Databases of a server that somebody else set up; none where Backstay's settings are in place."""
        return () if self.configured else tuple(sorted(set(self.databases) - OWN))

    @property
    def empty(self) -> bool:
        return not set(self.databases) - OWN


@dataclass(frozen=True)
class Plan:
    """What is to be done: whether to start or restart first, the statements, and what a person should know."""

    start: bool = False
    restart: bool = False
    statements: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        return self.start or self.restart or bool(self.statements)


def unit_of(version: str) -> str:
    """The unit of the cluster `version`/main."""
    return f"postgresql@{version}-{CLUSTER}.service"


def refusals(wanted: Sequence[Wanted], seen: Seen, version: str, *, adopt: bool) -> tuple[str, ...]:
    """Pure: every reason to stop, each a sentence with its remedy."""
    said = [f"{name!r} is no name for a database or its owner: write small letters, digits, _ and -."
            for each in wanted for name in (each.name, each.owner) if not _NAME.fullmatch(name)]  # fmt: skip
    names = [each.name for each in wanted]
    said += [
        f"The database {name} is asked for twice: remove one."
        for name in sorted({n for n in names if names.count(n) > 1})
    ]
    for owner in sorted({each.owner for each in wanted}):
        if len({each.createdb for each in wanted if each.owner == owner}) > 1:
            said.append(f"{owner} owns several databases, and createdb is not the same for all: make it so.")
    if seen.clusters and (version, CLUSTER) not in seen.clusters:
        there = " and ".join("/".join(cluster) for cluster in seen.clusters)
        said.append(
            f"The host has PostgreSQL {there} and no {version}/{CLUSTER}: set postgresql_version to the one to use, or "
            f"make that one with `pg_createcluster {version} {CLUSTER}`."
        )
    if seen.down and not seen.configured:
        said.append(
            f"The server {version}/{CLUSTER} does not run and was not set up by Backstay, so nobody can say what it "
            f"holds: start it with `systemctl start {unit_of(version)}`, or remove it."
        )
    if seen.foreign and not adopt:
        said.append(
            f"The server {version}/{CLUSTER} holds {', '.join(seen.foreign)} and was not set up by Backstay: say "
            "postgresql_adopt: keep to use it as it is; then its settings stay, and what is missing of roles and "
            "databases is added."
        )
    return (*said, *(sentence for each in wanted for sentence in _clashes(each, seen)))


def _clashes(wanted: Wanted, seen: Seen) -> list[str]:
    said = []
    role = seen.roles.get(wanted.owner)
    if role is not None and (role.superuser or role.createrole):
        said.append(
            f"The role {wanted.owner} may do anything on the server (SUPERUSER or CREATEROLE), and an application must "
            "not: take that from it, or name another owner."
        )
    database = seen.databases.get(wanted.name)
    if wanted.name in OWN:
        said.append(f"The database {wanted.name} is the server's own: choose another name.")
    elif database is not None and database.owner != wanted.owner:
        said.append(
            f"The database {wanted.name} belongs to {database.owner} and not to {wanted.owner}: correct `owner`, or "
            f'give it away with `ALTER DATABASE "{wanted.name}" OWNER TO "{wanted.owner}"`.'
        )
    elif database is not None and database.encoding != "UTF8":
        said.append(
            f"The database {wanted.name} is in {database.encoding} and not in UTF8: dump it and load it into a new one."
        )
    return said


def plan(wanted: Sequence[Wanted], seen: Seen, version: str) -> Plan:
    """Pure: what is missing. What is there and not asked for stays. What a server that is down lacks shows once it
    was started."""
    if seen.down:
        return Plan(start=True)
    statements = []
    for owner in dict.fromkeys(each.owner for each in wanted):
        createdb = any(each.createdb for each in wanted if each.owner == owner)
        role = seen.roles.get(owner)
        may = "CREATEDB" if createdb else "NOCREATEDB"
        if role is None:
            statements.append(f'CREATE ROLE "{owner}" LOGIN NOSUPERUSER NOCREATEROLE {may};')
        elif role.createdb != createdb or not role.login:
            statements.append(f'ALTER ROLE "{owner}" LOGIN {may};')
    for each in wanted:
        database = seen.databases.get(each.name)
        if database is None:
            # template0: nothing that somebody put into template1. C.UTF-8: the same order on every host, for ever.
            statements.append(
                f'CREATE DATABASE "{each.name}" OWNER "{each.owner}" TEMPLATE template0 ENCODING \'UTF8\' '
                "LOCALE 'C.UTF-8';"
            )
        if database is None or database.open:
            statements.append(f'REVOKE ALL ON DATABASE "{each.name}" FROM PUBLIC;')
    restart = bool(seen.waiting) and seen.empty
    lines = []
    if seen.waiting and not restart:
        lines.append(
            f"PostgreSQL {version}/{CLUSTER}: {', '.join(seen.waiting)} wait for a restart, which only you decide on: "
            f"systemctl restart {unit_of(version)}"
        )
    if seen.clusters and not seen.checksums:
        lines.append(
            f"PostgreSQL {version}/{CLUSTER} has no data checksums, as it was made without: with the server stopped, "
            "`pg_checksums --enable` adds them"
        )
    return Plan(restart=restart, statements=tuple(statements), lines=tuple(lines))


def starts_with(version: str, configuration: Path) -> None:
    """Start a server that is thrown away with these settings. Raises BackstayError, with its words, if it does not."""
    if os.geteuid() == 0:
        for path in (configuration.parent, *configuration.parent.rglob("*")):
            shutil.chown(path, ADMINISTRATOR, ADMINISTRATOR)
    with tempfile.TemporaryDirectory(prefix="backstay-") as scratch:
        Path(scratch).chmod(0o711)  # the server's own user goes through it
        with ThrowAway(Path(scratch), version=int(version), configuration=configuration, seconds=SECONDS):
            pass


class DatabaseServer:
    """The adapter: the cluster `version`/main of this host. `trial` is how settings are tried."""

    def __init__(
        self,
        version: str,
        *,
        root: Path = Path("/"),
        runner: Runner = run,
        trial: Callable[[str, Path], None] = starts_with,
    ) -> None:
        self.version = version
        self._clusters = root / "etc" / "postgresql"
        self._configuration = self._clusters / version / CLUSTER
        self._run = runner
        self._trial = trial

    def see(self) -> Seen:
        """What is there; nothing where PostgreSQL is not installed. Raises BackstayError for a server that runs and
        does not answer."""
        found = sorted(path.parent for path in self._clusters.glob("*/*/postgresql.conf"))
        clusters = tuple((path.parent.name, path.name) for path in found)
        if (self.version, CLUSTER) not in clusters:
            return Seen(clusters)
        configured = (self._configuration / SETTINGS).exists()
        if not self._run(["systemctl", "is-active", "--quiet", unit_of(self.version)], check=False).ok:
            return Seen(clusters, configured=configured, down=True)
        facts = self._ask(_FACTS)
        return Seen(
            clusters,
            configured=configured,
            roles={name: Role(**facts["roles"][name]) for name in facts["roles"]},
            databases={name: Existing(**facts["databases"][name]) for name in facts["databases"]},
            waiting=tuple(facts["waiting"]),
            checksums=bool(facts["checksums"]),
        )

    def plan(self, wanted: Sequence[Wanted], *, adopt: bool, settings: str = "") -> tuple[Seen, Plan]:
        """What is there and what would change; `settings` that are not in place yet are tried. Raises InputError, with
        every reason, where something is refused."""
        seen = self.see()
        refused = refusals(wanted, seen, self.version, adopt=adopt)
        if refused:
            raise InputError(f"{' '.join(refused)} Nothing was changed.")
        if settings and seen.clusters and not seen.foreign:
            self._try(settings)
        return seen, plan(wanted, seen, self.version)

    def _try(self, settings: str) -> None:
        """Raises InputError for settings no server starts with."""
        placed = self._configuration / SETTINGS
        if placed.exists() and placed.read_text(encoding="utf-8") == settings:
            return
        with tempfile.TemporaryDirectory(prefix="backstay-") as scratch:
            Path(scratch).chmod(0o711)  # the server's own user goes through it
            # As it will be: in the place of our former settings, beside those of others.
            tried = Path(scratch) / "tried"
            shutil.copytree(self._configuration, tried)
            (tried / SETTINGS).parent.mkdir(exist_ok=True)
            (tried / SETTINGS).write_text(settings, encoding="utf-8")
            try:
                self._trial(self.version, tried / "postgresql.conf")
            except BackstayError as refused:
                raise InputError(
                    f"PostgreSQL {self.version}/{CLUSTER} would not start with the settings it is to have: "
                    f"{refused} Correct postgresql_settings or postgresql_memory_bytes. Nothing was changed.",
                    lines=refused.lines,
                ) from refused

    def bring(self, wanted: Sequence[Wanted], *, adopt: bool, settings: str = "") -> tuple[Seen, Plan]:
        """Carry the plan out; what was there before, and what was done. Raises BackstayError, with the server's own
        words."""
        seen, planned = self.plan(wanted, adopt=adopt, settings=settings)
        if planned.start:
            self._systemctl("start")
            seen, then = self.plan(wanted, adopt=adopt)
            planned = replace(then, start=True)
        if planned.restart:
            self._systemctl("restart")
        if planned.statements:
            self._psql("\n".join(planned.statements))
        return seen, planned

    def _systemctl(self, verb: str) -> None:
        unit = unit_of(self.version)
        if not self._run(["systemctl", verb, unit], check=False, timeout_seconds=SECONDS).ok:
            log = self._run(["journalctl", "--no-pager", "--lines=10", f"--unit={unit}"], check=False)
            raise BackstayError(
                f"PostgreSQL {self.version}/{CLUSTER} did not {verb}: see its lines and `systemctl status {unit}`, "
                "correct postgresql_settings, then run this again.",
                lines=log.last_lines(10),
            )

    def _ask(self, query: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._psql(query))
        return found

    def _psql(self, statements: str) -> str:
        """What statements print. They go in on standard input."""
        command = ["runuser", "-u", "postgres", "--", "psql", "--no-psqlrc", "--quiet", "--no-align", "--tuples-only"]
        command += ["--set=ON_ERROR_STOP=1", f"--cluster={self.version}/{CLUSTER}", "--dbname=postgres"]
        done = self._run(command, stdin=statements, check=False, timeout_seconds=SECONDS, cwd=Path("/"))
        if not done.ok:
            said = (done.last_lines(1) or ("it printed nothing",))[0]
            raise BackstayError(
                f"PostgreSQL {self.version}/{CLUSTER} did not do what it was asked ({said}): look at `systemctl status "
                f"{unit_of(self.version)}`, then run this again.",
                lines=done.last_lines(5),
            )
        return done.stdout
