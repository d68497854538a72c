"""What differs between Django and whatever comes after it: environment, processes, migrations, build.

`Runtime` is the whole interface. A second runtime is a second class here and one line in `runtime_of`.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ._artifact import Manifest, host_facts, sha256_of, unpack_wheels
from ._errors import BackstayError, InputError
from ._migrations import judge
from ._run import Completed, Runner
from ._storage import Storage, canonical

if TYPE_CHECKING:
    from ._application import Application

PYTHON = "/usr/bin/python3"
PIP_WHEELS = Path("/usr/share/python-wheels")  # Debian: a dependency of python3-venv
UNFINISHED = ".unfinished"
REQUIREMENTS = "requirements.txt"

# Raise it when the way an environment is made changes: hosts then make new ones instead of sharing the old.
_ENVIRONMENT_FORMAT = 1

_QUIET = ("--quiet", "--no-input", "--disable-pip-version-check")
_CLEAN = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "PIP_CONFIG_FILE": os.devnull}


@dataclass(frozen=True)
class MigrationState:
    """Migrations as `app.name`, or `database:app.name` where the database is not the default one.

    `unknown` are applied and not in this code: a newer release left them. `seconds` tells how long each migration took
    that this run applied or took back. `facts` are those of the pending migrations and of those that the release before
    does not know, where they were asked for (`describe`), or of all (`operations`); `_migrations.judge` reads them.
    `files` are the SQLite files that this code uses, by alias, `media` is where it puts uploads, and `warnings` is what
    the checks for a deployment warn about, (id, first words), None where that is not known; all as told by `describe`.
    """

    applied: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    seconds: tuple[tuple[str, float], ...] = ()
    facts: tuple[Mapping[str, Any], ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    media: str = ""
    warnings: tuple[tuple[str, str], ...] | None = None


@dataclass(frozen=True)
class Accounts:
    """The accounts that may do most in an application, each as a digest that changes with its password. `tried` are
    those whose password was compared with default ones just now: "", or the account's name where it is one of these.
    `more`: there are others, that nobody looked at."""

    present: tuple[str, ...]
    tried: Mapping[str, str]
    more: bool = False


class Workshop(Protocol):
    """What a runtime finds on the build host; `_build.py` has the real one."""

    @property
    def source(self) -> Path:
        """The application's source as it was exported. Nothing may write here."""

    def room(self, name: str) -> Path:
        """A fresh scratch copy of the source, which the application may write to.

        Beside it lie data/ and static/, the latter with the collected files once there are some.
        """

    def kept(self, kind: str, key: str, make: Callable[[Path], None]) -> Path:
        """A directory that is made once and found again by later builds with the same key."""

    def run(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        writable: Sequence[Path],
        environment: Path | None = None,
        network: bool = False,
    ) -> Completed:
        """Run a command confined, as a user who owns nothing but `writable`; the exit code is the caller's affair."""


@dataclass(frozen=True)
class Prepared:
    """What a build needs before anything of the application can run."""

    wheels: Path  # the locked dependencies, which go into the payload
    environment: Path  # where the checks run


class Runtime(Protocol):
    """How applications of one kind are built, installed, migrated and started."""

    def environment_key(self, manifest: Manifest) -> str:
        """The name of the environment that payloads with this manifest share: 16 hexadecimal digits."""

    def create_environment(self, payload: Path, manifest: Manifest, target: Path, runner: Runner) -> None:
        """Make the environment at its final path, offline; one that is there and finished is left alone."""

    def compile_code(self, release_dir: Path, runner: Runner) -> None:
        """Compile the release's code ahead, because the application may not write there."""

    def process_command(
        self, application: Application, process: str, release_dir: Path, socket: Path, gunicorn_config: Path
    ) -> list[str]:
        """What to execute for one process of a release."""

    def agent_command(
        self, release_dir: Path, action: str, *, reverse: Sequence[str] = (), known: Sequence[str] = ()
    ) -> list[str]:
        """What to execute in the release's code/ to learn about its migrations (`state`; `describe`, with the facts of
        those pending and of those that are not `known` to the release before), to apply them (`migrate`), or to take
        back those named in `reverse` (`reverse`)."""

    def parse_agent(self, output: str) -> MigrationState:
        """What the agent printed. Raises BackstayError when it did not finish."""

    def agent_progress(self, line: str) -> str | None:
        """One line that the agent printed while it works, as people say it; None where it is not about progress."""

    def accounts_command(self, release_dir: Path, *, tried: Sequence[str], seconds: float) -> list[str]:
        """What to execute in the release's code/ to compare the passwords of accounts that may do most with default
        ones, but those that were `tried`, for so many seconds of a processor."""

    def parse_accounts(self, output: str) -> Accounts | None:
        """What that printed, also where it was cut off; None where it told nothing."""

    def prepare(self, workshop: Workshop) -> Prepared:
        """On the build host: the locked dependencies, and an environment to run the checks in."""

    def assets(self, workshop: Workshop, prepared: Prepared) -> Path | None:
        """On the build host: the directory with the static files; None when the application has none."""

    def verdicts(self, workshop: Workshop, prepared: Prepared) -> dict[str, Any] | None:
        """On the build host: the verdict on each migration that the source knows, as `_migrations.Verdict` writes it,
        without a database and so without sizes; None when the application has no database."""


def runtime_of(application: Application) -> Runtime:
    """The runtime an application declares. Raises InputError for one that does not exist."""
    if application.runtime.type == "django":
        return DjangoRuntime(application)
    raise InputError(
        f"The application {application.name} declares the runtime {application.runtime.type!r}, and there is only "
        "'django': correct runtime.type in its file."
    )


@dataclass(frozen=True)
class DjangoRuntime:
    """Django on gunicorn, in a virtualenv made from locked wheels."""

    application: Application

    def environment_key(self, manifest: Manifest) -> str:
        platform = [manifest.system, manifest.python, manifest.architecture]
        return _key([_ENVIRONMENT_FORMAT, "django", *platform, manifest.lock_sha256])

    def create_environment(self, payload: Path, manifest: Manifest, target: Path, runner: Runner) -> None:
        """A virtualenv from the payload's wheels: offline, each digest checked, compiled, and never renamed.

        The marker `.unfinished` lies in it until the last byte is on the disk; with the marker, or without an
        interpreter, it is made again. Needs Debian's python3-venv. Raises BackstayError naming what failed.
        """
        marker = target / UNFINISHED
        if (target / "bin" / "python").exists() and not marker.exists():
            return
        storage = Storage()
        storage.remove_tree(target)
        target.mkdir(parents=True, mode=0o755)
        storage.write(marker, b"Being made; whoever finds this alone makes it again.\n")
        runner([PYTHON, "-m", "venv", "--without-pip", str(target)], environment=_CLEAN)
        scratch = target / ".wheels"
        scratch.mkdir()
        unpack_wheels(payload, scratch)
        wheels = scratch / "wheels"
        if sha256_of(wheels / REQUIREMENTS) != manifest.lock_sha256:
            raise BackstayError(f"The wheels of {payload.name} are not those of its manifest: build the payload again.")
        pip_install(
            target,
            ["--no-deps", "--no-index", f"--find-links={wheels}", f"--requirement={wheels / REQUIREMENTS}"],
            runner,
        )
        storage.remove_tree(scratch)
        _open_for_reading(target)
        storage.sync_tree(target)
        storage.remove(marker)

    def compile_code(self, release_dir: Path, runner: Runner) -> None:
        """A file that does not compile is the application's own affair: it may never be imported."""
        code = release_dir / "code"
        runner([PYTHON, "-m", "compileall", "-q", str(code)], environment=_CLEAN, cwd=Path("/"), check=False)
        for folder in code.rglob("__pycache__"):
            _open_for_reading(folder)

    def process_command(
        self, application: Application, process: str, release_dir: Path, socket: Path, gunicorn_config: Path
    ) -> list[str]:
        settings = application.processes[process]
        if settings.kind != "web":
            return program(settings.command, release_dir / "venv")
        wsgi = application.runtime.wsgi
        return [
            str(release_dir / "venv" / "bin" / "python"),
            "-m",
            "gunicorn",
            f"--config={gunicorn_config}",
            f"--workers={settings.workers}",
            f"--threads={settings.threads}",
            f"--timeout={settings.timeout_seconds:.0f}",
            f"--graceful-timeout={settings.graceful_seconds:.0f}",
            f"--bind=unix:{socket}",
            "--umask=0111",  # the socket becomes 0666: the directory above it is the guard
            "--no-control-socket",
            wsgi,
        ]

    def agent_command(
        self, release_dir: Path, action: str, *, reverse: Sequence[str] = (), known: Sequence[str] = ()
    ) -> list[str]:
        limits = self.application.releases.migrations
        options: dict[str, Any] = {
            "lock_seconds": limits.lock_seconds,
            "statement_seconds": limits.statement_seconds,
            # For another host that migrates the same database: shorter than the whole, so that its reason is told.
            "wait_seconds": max(limits.seconds / 2, limits.seconds - 30),
        }
        if reverse:
            options["reverse"] = list(reverse)
        if known:
            options["known"] = list(known)
        return self._agent(release_dir / "venv", action, options)

    def accounts_command(self, release_dir: Path, *, tried: Sequence[str], seconds: float) -> list[str]:
        limits = {"lock_seconds": 2.0, "statement_seconds": 5.0, "seconds": seconds}
        return self._agent(release_dir / "venv", "accounts", {"tried": list(tried), **limits})

    def parse_accounts(self, output: str) -> Accounts | None:
        found: Accounts | None = None
        for line in output.splitlines():
            try:
                event = json.loads(line)
                if event["event"] == "accounts":
                    found = Accounts(tuple(map(str, event["present"])), {}, bool(event["more"]))
                elif event["event"] == "tried" and found is not None:
                    tried = {**found.tried, str(event["account"]): str(event["weak"])}
                    found = replace(found, tried=tried)
            except (ValueError, KeyError, TypeError):
                break  # half a line
        return found

    def _agent(self, environment: Path, action: str, options: Mapping[str, Any]) -> list[str]:
        agent = Path(__file__).resolve().with_name("_django_agent.py")
        databases = [database.name for database in self.application.databases] or ["default"]
        words = json.dumps({"databases": databases, **options})
        return [str(environment / "bin" / "python"), str(agent), self.application.runtime.settings, action, words]

    def parse_agent(self, output: str) -> MigrationState:
        seconds: list[tuple[str, float]] = []
        described: dict[str, Any] = {}
        for line in output.splitlines():
            try:
                event = json.loads(line)
                if event["event"] == "migration":
                    seconds.append((event["name"], float(event["seconds"])))
                elif event["event"] == "describe":
                    places = {"files": dict(event.get("files") or {}), "media": str(event.get("media") or "")}
                    described = {"facts": tuple(event["migrations"]), **places}
                elif event["event"] == "checks":
                    described["warnings"] = _warned(event.get("warnings"))
                elif event["event"] == "operations":
                    return MigrationState(facts=tuple(event["migrations"]))
                elif event["event"] == "state":
                    kinds = {kind: tuple(event[kind]) for kind in ("applied", "known", "pending", "unknown")}
                    return MigrationState(seconds=tuple(seconds), **{**described, **kinds})
            except (ValueError, KeyError, TypeError) as wrong:
                raise BackstayError(
                    f"The migrations' answer cannot be read ({line[:80]!r}): see the journal of the migration's unit."
                ) from wrong
        raise BackstayError("The migrations ended without an answer: see the journal of the migration's unit.")

    def agent_progress(self, line: str) -> str | None:
        try:
            event = json.loads(line)
            kind = event["event"]
            if kind == "begin":
                return f"{event['name']} begins ({event['number']} of {event['of']})"
            if kind == "migration":
                return f"{event['name']} took {event['seconds']:g} s"
            if kind == "waiting":
                return f"another host migrates {event['database']}: waiting for {event['seconds']:g} s at most"
        except (ValueError, KeyError, TypeError):
            return None
        return None

    def prepare(self, workshop: Workshop) -> Prepared:
        settings = self.application.runtime
        lock = _lock(workshop.source, settings.requirements, "runtime.requirements")
        locks = [lock]
        if settings.checks_requirements:
            locks.append(_lock(workshop.source, settings.checks_requirements, "runtime.checks_requirements"))
        facts = host_facts()
        platform = [_ENVIRONMENT_FORMAT, facts.system, facts.python, facts.architecture]

        def fetch(folder: Path) -> None:
            pip = [PYTHON, str(pip_program()), "wheel", *_QUIET, "--require-hashes"]
            done = workshop.run(
                [*pip, f"--wheel-dir={folder}", f"--requirement={lock}"], cwd=folder, writable=[folder], network=True
            )
            _expect(done, f"The dependencies of {settings.requirements} could not be fetched")

        wheels = workshop.kept("wheels", _key([*platform, sha256_of(lock)]), fetch)

        def install(folder: Path) -> None:
            done = workshop.run([PYTHON, "-m", "venv", "--without-pip", str(folder)], cwd=folder, writable=[folder])
            _expect(done, "The environment of the checks could not be made")
            pip = [str(folder / "bin" / "python"), str(pip_program()), "install", *_QUIET, "--require-hashes"]
            options = [f"--find-links={wheels}", *(f"--requirement={path}" for path in locks)]
            done = workshop.run([*pip, *options], cwd=folder, writable=[folder], network=True)
            _expect(done, "The requirements of the checks could not be installed")

        environment = workshop.kept("environments", _key([*platform, *map(sha256_of, locks)]), install)
        return Prepared(wheels, environment)

    def assets(self, workshop: Workshop, prepared: Prepared) -> Path | None:
        room = workshop.room("assets")
        static = room.parent / "static"
        done = workshop.run(
            [
                str(prepared.environment / "bin" / "python"),
                "-m",
                "django",
                "collectstatic",
                "--noinput",
                "--verbosity=0",
                f"--settings={self.application.runtime.settings}",
            ],
            cwd=room,
            writable=[room.parent],
            environment=prepared.environment,
        )
        if not done.ok and "Unknown command: 'collectstatic'" in done.stderr:
            return None
        _expect(done, "The static files could not be collected")
        manifest = static / "staticfiles.json"
        if manifest.is_symlink() or not manifest.is_file():
            raise BackstayError(
                "collectstatic left no staticfiles.json in the directory of BACKSTAY_STATIC_DIR: set STATIC_ROOT from "
                "that variable, and the staticfiles storage to ManifestStaticFilesStorage."
            )
        # Django writes it in the order in which the file system lists the files.
        content = json.loads(manifest.read_text(encoding="utf-8"))
        manifest.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
        return static

    def verdicts(self, workshop: Workshop, prepared: Prepared) -> dict[str, Any] | None:
        if not self.application.databases:
            return None
        room = workshop.room("migrations")
        agent = room.parent / "agent.py"
        agent.write_text(agent_source(), encoding="utf-8")
        words = json.dumps({"databases": [self.application.databases[0].name]})
        done = workshop.run(
            [
                str(prepared.environment / "bin" / "python"),
                str(agent),
                self.application.runtime.settings,
                "operations",
                words,
            ],
            cwd=room,
            writable=[room.parent],
            environment=prepared.environment,
        )
        _expect(done, "The migrations could not be judged")
        # How long a table takes to rewrite is known where the table is, and which of them are pending as well: there
        # is no verdict on the whole.
        found = judge(self.parse_agent(done.stdout).facts, rebuild_seconds=math.inf).to_dict()
        return {key: found[key] for key in ("format", "migrations")}


def _warned(told: Any) -> tuple[tuple[str, str], ...] | None:
    """What the agent's checks warn about; they decide nothing about a release, so what cannot be read is not known."""
    try:
        return tuple((str(each["id"]), str(each["said"])) for each in told)
    except (KeyError, TypeError):
        return None


def agent_source() -> str:
    """The text of the agent, also where Ansible carries the library in an archive."""
    from . import _django_agent

    return inspect.getsource(_django_agent)


def program(command: Sequence[str], environment: Path) -> list[str]:
    """A declared command as where its release's virtualenv is active: the first word is the program of that name which
    is installed there, else the host's own (`sh`); one with a slash stays what it is.

    Workers, hooks, jobs, backfills, `backstay run`: all ask here, so that the same words do the same everywhere.
    """
    first, *rest = command
    own = environment / "bin" / first
    # Debian's Python never stands in for the release's, which knows its Django: without one the command fails by name.
    installed = first in ("python", "python3") or ("/" not in first and own.is_file())
    return [str(own) if installed else first, *rest]


def pip_install(environment: Path, options: Sequence[str], runner: Runner) -> None:
    """Install into a virtualenv that has no pip of its own, with Debian's; digests are required.

    Raises BackstayError with pip's last line when it refuses.
    """
    done = runner(
        [
            str(environment / "bin" / "python"),
            str(pip_program()),
            "install",
            *_QUIET,
            "--isolated",
            "--require-hashes",
            "--compile",
            "--no-cache-dir",
            *options,
        ],
        timeout_seconds=600,
        environment=_CLEAN,
        check=False,
    )
    if not done.ok:
        last = done.last_lines()
        raise BackstayError(
            f"The environment {environment} could not be made: {last[-1] if last else 'pip gave no reason'}; "
            "build the payload again, then release it again.",
            lines=last,
        )


def pip_program(wheels: Path = PIP_WHEELS) -> Path:
    """Debian's own pip, which runs from its wheel. Raises BackstayError when its package is missing."""
    found = sorted(wheels.glob("pip-*.whl"))
    if not found:
        raise BackstayError(
            f"pip is missing ({wheels}/pip-*.whl): install the package python3-venv, for example with base_packages."
        )
    return found[-1] / "pip"


def _key(identity: list[Any]) -> str:
    return hashlib.sha256(canonical(identity)).hexdigest()[:16]


def _lock(source: Path, name: str, setting: str) -> Path:
    """A file of locked requirements in the source. Raises InputError when it is not there."""
    path = source / name
    if not path.is_file():
        raise InputError(
            f"The source has no {name}, which {setting} names: lock the dependencies with hashes "
            "(pip-compile --generate-hashes), or correct the name in the application's file."
        )
    return path


def _expect(done: Completed, what: str) -> None:
    """Raise BackstayError with the command's last line when it failed."""
    if not done.ok:
        last = done.last_lines()
        reason = last[-1] if last else f"exit code {done.returncode} and no reason"
        raise BackstayError(f"{what}: {reason}.", lines=last)


def _open_for_reading(tree: Path) -> None:
    """Let everybody read a tree and nobody but its owner write it, whatever the umask was."""
    for folder, _unused, files in os.walk(tree):
        Path(folder).chmod(0o755)
        for name in files:
            path = Path(folder) / name
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                path.chmod(0o755 if mode & stat.S_IXUSR else 0o644)
