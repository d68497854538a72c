"""One application on its host: what the steps of a transaction share."""

from __future__ import annotations

import json
import os
import pwd
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._errors import BackstayError, Busy, GateRefused, InputError
from ._journal import Journal
from ._layout import Layout
from ._ledger import Ledger
from ._lock import Lock
from ._releases import History, fold, must_run, running_part
from ._run import Runner, run
from ._steps import CLOSED, ROLLBACKS
from ._storage import Storage
from ._systemd import Systemd, memory_of, open_connections
from ._transaction import Transaction, utc_now
from ._units import one_off

if TYPE_CHECKING:
    from ._application import Application, Through
    from ._prober import Prober
    from ._runtime import MigrationState

BALLAST_BYTES = 1 << 20
DATA_SECONDS = 900.0  # how long a migration or a restore waits for a backup to end


@dataclass
class Host:
    """One application on its host: what is there, and what every step needs to ask or to do."""

    layout: Layout
    storage: Storage = field(default_factory=Storage)
    runner: Runner = run
    now: Callable[[], str] = utc_now
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    say: Callable[[str], None] = lambda line: None  # progress for people
    interrupted: Callable[[], bool] = lambda: False  # somebody waits for the lock: cut the settling short
    aborted: Callable[[], bool] = lambda: False  # somebody asked to undo it: cut the watch short
    afterwards: list[Callable[[], None]] = field(default_factory=list)  # what waits until the lock is free
    prober: Prober | None = None
    switched_at: float | None = None  # by the prober's clock

    def __post_init__(self) -> None:
        self.systemd = Systemd(self.runner)
        self.ledger = Ledger(self.layout.ledger, self.storage, self.now)
        self.data_lock = Lock(self.layout.data_lock)
        self.journal = Journal(self.layout.journal, self.layout.old_journals, self.storage, self.now)

    def due_afterwards(self) -> list[Callable[[], None]]:
        """What waited until the lock is free, handed over to whoever has just given it up."""
        due, self.afterwards = self.afterwards, []
        return due

    def history(self) -> History:
        return fold(self.ledger.read())

    def live(self) -> str | None:
        """The id of the live release, from the link and from nothing else."""
        try:
            target = os.readlink(self.layout.active)
        except FileNotFoundError:
            return None
        return Path(target).parent.name

    def application(self, release: str | None = None) -> Application:
        """The application as declared on this host, or as a release of it was configured."""
        from ._application import from_dict

        path = (
            self.layout.release_configuration(release) / "application.json" if release else self.layout.application_file
        )
        content = self.storage.read(path)
        if content is None:
            raise InputError(
                f"There is no application {self.layout.name!r} on this host ({path} is missing): run "
                f"playbooks/site.yml."
            )
        return from_dict(json.loads(content), file=str(path))

    def secrets(self) -> dict[str, str]:
        content = self.storage.read(self.layout.secrets_file)
        return {} if content is None else dict(json.loads(content)["values"])

    def declared_values(self) -> dict[str, str]:
        """The values and secrets that a release made now would run with: what there is before anything is live."""
        return {**self.application().environment.values, **self.secrets()}

    def manifest_keys(self) -> tuple[str, ...]:
        """The public keys by which manifests of restore points are believed: this host's, and those it was told of."""
        path = self.layout.backup_key.with_name(f"{self.layout.backup_key.name}.pub")
        found = [self.storage.read(each) for each in (path, self.layout.trusted_keys)]
        keys = tuple(line for content in found if content for line in content.decode().splitlines() if line.strip())
        if not keys:
            raise BackstayError(f"{path} is missing, so no manifest can be believed: run playbooks/site.yml.")
        return keys

    def notes(self, release: str) -> str:
        """What the changelog says about a release; empty where nobody wrote anything."""
        known = self.history().get(release)
        return str(known.data.get("notes") or "").strip() if known else ""

    def web_unit(self, release: str) -> str:
        return self.layout.unit(release, "web")

    def _units(self, release: str, *, web: bool) -> list[str]:
        """The units of a release: its web process, or all the others (workers and singletons); none of those where a
        copy of another environment's data must let nothing out, or the data are still to come."""
        if not web and self.layout.resting():
            return []
        try:
            application = self.application(release)
        except InputError:
            return []
        return [
            self.layout.unit(release, process.name)
            for process in application.processes.values()
            if (process.kind == "web") == web
        ]

    def _unit_files(self, release: str) -> list[Path]:
        return sorted(self.layout.units.glob(f"{self.layout.name}-{release}-*.service"))

    def _forget_units(self, release: str) -> None:
        files = self._unit_files(release)
        if files:
            self.systemd.stop([file.name for file in files])
            for file in files:
                self.storage.remove(file)
            self.systemd.reload()

    def _environment(self, application: Application, release: str, version: str, commit: str) -> dict[str, str]:
        """The environment of a release. Raises InputError naming each required key that is missing or empty."""
        from ._environment import compose

        provided = {
            "BACKSTAY_APPLICATION": application.name,
            "BACKSTAY_RELEASE_ID": release,
            "BACKSTAY_VERSION": version,
            "BACKSTAY_COMMIT": commit,
            "BACKSTAY_DATA_DIR": str(self.layout.data),
            "BACKSTAY_STATIC_DIR": str(self.layout.release(release) / "static"),
            "BACKSTAY_LOG_DIR": str(self.layout.logs),
            "BACKSTAY_LOG_LEVEL": application.log_level,
        }
        if self.layout.isolated.exists():
            provided["BACKSTAY_ISOLATED"] = "yes"
        return compose(application, self.secrets(), provided)

    def environment_of(self, release: str) -> dict[str, str]:
        """The environment that a release runs with, secrets included."""
        from ._environment import parse

        path = self.layout.environment_file(release)
        return parse((self.storage.read(path) or b"").decode(), file=str(path))

    def configuration_changed(self) -> bool:
        """Whether what is declared here differs from what the live release runs with; a configuration release applies
        it. The environment is compared whole, so that a changed secret counts."""
        from ._application import to_dict
        from ._environment import environment_file

        live = self.live()
        if live is None:
            return False
        try:
            declared = self.application()
            if running_part(to_dict(declared)) != running_part(to_dict(self.application(live))):
                return True
            known = self.history().get(live)
            version, commit = (known.version, str(known.data.get("commit", ""))) if known else ("", "")
            values = environment_file(self._environment(declared, live, version, commit))
        except InputError:
            return True
        return self.storage.read(self.layout.environment_file(live)) != values.encode()

    def _hashed(self, static: Path) -> list[str]:
        content = self.storage.read(static / "staticfiles.json")
        return [] if content is None else sorted(set(json.loads(content)["paths"].values()))

    def _gid(self) -> int:
        return pwd.getpwnam(self.layout.name).pw_gid

    def _clean(self, lines: tuple[str, ...]) -> tuple[str, ...]:
        from ._environment import redact

        secrets = tuple(self.secrets().values())
        return tuple(redact(line, secrets)[:500] for line in lines)

    def _memory_of_unit(self, unit: str) -> int:
        pid = int(self.systemd.properties(unit, "MainPID").get("MainPID") or 0)
        return memory_of(pid) if pid else 0

    def migrations(
        self,
        release: str,
        action: str,
        *,
        reverse: Sequence[str] = (),
        known: Sequence[str] = (),
        properties: Sequence[str] = (),
    ) -> MigrationState:
        """Ask about (`state`, `describe`), make (`migrate`) or take back (`reverse`) migrations, in the environment and
        sandbox of a release.

        It runs as a unit with a known name, so that recovery can find and stop it when the transaction was killed;
        `properties` are further ones of it.
        """
        from ._runtime import runtime_of

        application = self.application(release)
        runtime = runtime_of(application)
        command = runtime.agent_command(self.layout.release(release), action, reverse=reverse, known=known)
        seconds = application.releases.migrations.seconds

        def progress(line: str) -> None:
            said = runtime.agent_progress(line)
            if said:
                self.say(said)

        began = self.clock()
        done = self.runner(
            [
                "systemd-run",
                "--quiet",
                "--wait",
                "--pipe",
                "--collect",
                f"--unit={self._migration_unit(release)}",
                *one_off(application, release, seconds=seconds),
                *properties,
                *command,
            ],
            timeout_seconds=seconds + 30,
            check=False,
            on_line=progress,
        )
        if not done.ok:
            last = self._clean(done.last_lines(12))
            what = "could not be read" if action in ("state", "describe") else "failed"
            late = self.clock() - began >= seconds
            reason = (
                f"they took longer than {seconds:g} s (releases.migrations.seconds) and were stopped"
                if late
                else last[-1].rstrip(".")
                if last
                else "no reason was printed"
            )
            raise BackstayError(
                f"The migrations of {release} {what}: {reason}; what served before serves on; mend it, release again.",
                lines=last,
            )
        return runtime.parse_agent(done.stdout)

    def _migration_unit(self, release: str) -> str:
        return self.layout.unit(release, "migrate")

    def _stop_migrating(self, release: str) -> None:
        unit = self._migration_unit(release)
        if self.systemd.states([unit]).get(unit) not in ("inactive", "unknown", None):
            self.systemd.stop([unit])

    def _checks(self, application: Application, target: Any, through: Through, transaction: Transaction) -> list[Any]:
        """Health and smoke; for a rollback health alone, which names the release: what it goes to was proven before,
        and somebody is waiting."""
        from ._health import application_checks

        release = transaction.candidate
        # Health alone passes through a closed door, whoever has closed it.
        closed = transaction.operation in CLOSED or self.layout.maintenance_flag.exists()
        if transaction.operation in ROLLBACKS or (through == "front_door" and closed):
            return list(
                application_checks(
                    application, target, through=through, release_id=release, static_path=None, media_path=None
                )
            )[:1]
        static = self._hashed(self.layout.release(release) / "static")
        media = self.layout.data / application.media if application.media else None
        return list(
            application_checks(
                application,
                target,
                through=through,
                release_id=release,
                static_path=plain_asset(static) if static else None,
                media_path=any_media(media) if media else None,
            )
        )

    def _candidate_failed(self, transaction: Transaction, sentence: str) -> GateRefused:
        """A refusal with the candidate's own last words, secrets removed."""
        lines = self._clean(
            self.systemd.last_lines(self.web_unit(transaction.candidate), 15, since=local_time(transaction.began))
        )
        serving = f"{transaction.previous} still serves" if transaction.previous else "nothing serves yet"
        remedy = (
            "mend it and release again"
            if transaction.operation not in ROLLBACKS
            else "roll back to another (--to), or insist with --force"
        )
        return GateRefused(f"{sentence.rstrip('.')}; {serving}, {remedy}.", lines=lines)

    def take_data(self, what: str) -> None:
        """From here to the end of the transaction nobody else reads or changes the data as a whole. Raises Busy."""
        waited = self.data_lock.take(
            wait_seconds=DATA_SECONDS, what=what, waiting=lambda holder: self.say(f"waiting for {holder}")
        )
        if not waited:
            raise Busy(
                f"The {what} cannot begin: {self.data_lock.holder()} has had the data of {self.layout.name} for longer "
                f"than {DATA_SECONDS:g} s; wait for it, or end it, then run it again."
            )

    def drain(self, release: str, *, patient: bool = False) -> bool:
        """Wait until nobody is connected to a release's socket, or until the drain deadline (then reported).

        False when it was cut short because somebody waits for the lock; `patient` never is.
        """
        path = self.layout.socket(release)
        try:
            deadline_seconds = self.application(release).releases.drain_seconds
        except InputError:
            deadline_seconds = 0.0
        began = self.clock()
        quiet = 0
        while True:
            left = open_connections(path)
            quiet = quiet + 1 if left == 0 else 0
            if quiet >= 3:  # nginx may be between reading the link and connecting
                return True
            if self.clock() - began > deadline_seconds:
                self.ledger.append("undrained", release, connections=left, after_seconds=deadline_seconds)
                self.say(f"{release} still had {left} connections after {deadline_seconds:g} s and is stopped")
                return True
            if self.interrupted() and not patient:
                return False
            self.sleep(0.05)

    def _start_missing(self, units: list[str]) -> list[str]:
        """Start those that do not run, without waiting; returns them."""
        states = self.systemd.states(units)
        missing = [unit for unit in units if states.get(unit) not in ("active", "activating", "reloading")]
        self.systemd.start(missing, wait=False)
        return missing

    def _hand_over(self, old: str | None, new: str | None) -> str:
        leaving = self._units(old, web=False) if old else []
        coming = self._units(new, web=False) if new else []
        self.systemd.exchange(leaving, coming)
        return f"{len(leaving)} leave, {len(coming)} come"

    def settle(self) -> str:
        """Start what must run and does not, drain and stop what runs and need not. Derived, so it can be cut short:
        whoever settles next does the rest."""
        live = self.live()
        if live:
            # From the link alone: a ledger that cannot be read must never keep the site down at boot.
            self._start_missing([self.web_unit(live), *self._units(live, web=False)])
        history = self.history()
        running = must_run(history, live)
        wanted = set()
        for release, web_only in ((running.live, False), (running.warm, True)):
            if release:
                wanted.add(self.web_unit(release))
                wanted.update([] if web_only else self._units(release, web=False))
        missing = self._start_missing(sorted(wanted))
        surplus = [unit for unit in self.systemd.units_of(self.layout.name) if unit not in wanted]
        workers = [unit for unit in surplus if not unit.endswith("-web.service")]
        self.systemd.stop(workers)
        cut_short = 0
        for unit in surplus:
            if unit in workers:
                continue
            release = unit.removeprefix(f"{self.layout.name}-").removesuffix("-web.service")
            if self.drain(release):
                self.systemd.stop([unit])
            else:
                cut_short += 1
        self._start_backfills(live)
        self.take_ballast()
        told = [f"{len(missing)} started", f"{len(surplus) - cut_short} stopped"]
        return ", ".join(told + ([f"{cut_short} left for the next"] if cut_short else []))

    def _start_backfills(self, live: str | None) -> None:
        """What the live release declares and is not done; at boot too, and after a recovery. On data that are still to
        come it would be done at once, and never on those that come."""
        from . import _backfill

        if self.layout.rebuilding.exists():
            return
        try:
            declared = self.application(live).backfills if live else {}
        except InputError:
            return
        names = _backfill.missing(self, declared)
        if names:
            _backfill.start(self, names)

    def probed(self) -> dict[str, Any] | None:
        """What our own visitor saw of this release so far: requests, failed, longest gap, p99; None without one."""
        return self.prober.summary().to_dict() if self.prober else None

    def drop_ballast(self) -> bool:
        """Give back the room that was put by for a full disk; False when there is none."""
        was = self.layout.ballast.exists()
        self.storage.remove(self.layout.ballast)
        return was

    def make_room(self) -> None:
        """Give that room back at once where the disk is nearly full: not every write of a way back could ask for it."""
        if self.free_bytes() < BALLAST_BYTES:
            self.drop_ballast()

    def free_bytes(self) -> int:
        """What is free for journal, ledger and the flag of a closed door."""
        disk = os.statvfs(self.layout.state)
        return disk.f_bavail * disk.f_frsize

    def take_ballast(self) -> None:
        """Put some room by, where there is plenty: journal and ledger of a rollback need far less."""
        if self.layout.ballast.exists():
            return
        if self.free_bytes() > 8 * BALLAST_BYTES:
            # Random, so that no file system stores it in less.
            self.storage.write(self.layout.ballast, os.urandom(BALLAST_BYTES), mode=0o600)


def front_door(application: Application) -> Any:
    """The application's site as this host's own nginx serves it: TLS to the loopback, under the site's name.

    The certificate's chain is a check of its own (`health`), not a reason to refuse a release.
    """
    from ._http import Target

    return Target.tcp("127.0.0.1", 443, tls=True, server_name=application.domain, verify=False)


def plain_asset(names: list[str]) -> str:
    """The URL path of a style sheet where there is one: the asset whose absence a visitor sees first."""
    from ._checks import quoted

    return "/static/" + quoted(next((name for name in names if name.endswith(".css")), names[0]))


def any_media(directory: Path) -> str | None:
    """The URL path of one uploaded file, whatever it is called; None where there is none yet."""
    from ._checks import quoted

    for root, folders, files in os.walk(directory):
        folders.sort()
        for name in sorted(files):
            if not name.startswith("."):
                return "/media/" + quoted(str((Path(root) / name).relative_to(directory)))
    return None


def local_time(stamp: str) -> str:
    """A UTC stamp as journalctl understands it."""
    return stamp.replace("T", " ").partition(".")[0] + " UTC"
