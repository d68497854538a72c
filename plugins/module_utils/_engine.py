"""Does and undoes each step of a transaction on the host.

The engine is an adapter: what to do is decided in `_steps.py` and `_releases.py`; here it is done, through storage,
systemd and the runtime. Every method `do_<step>` can be called twice, and `undo_<step>` from any point in it.
"""

from __future__ import annotations

import datetime
import json
import os
import pwd
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _freeze, _restore_point
from ._errors import BackstayError, GateRefused, InputError
from ._journal import Journal
from ._layout import Layout
from ._ledger import Ledger
from ._migrations import WayBack, judge
from ._releases import (
    History,
    Release,
    check_version,
    fold,
    is_release_id,
    must_run,
    named_target,
    prunable,
    release_id,
    rollback_target,
    sequence_of,
    way_back,
    withdrawn_by,
)
from ._run import Runner, run
from ._steps import CLOSED, ROLLBACKS, steps_of
from ._storage import Storage, canonical
from ._systemd import Systemd, is_release_unit, memory_of, open_connections
from ._units import one_off, unit_text

if TYPE_CHECKING:
    from ._application import Application, Through
    from ._prober import Prober
    from ._runtime import MigrationState

GUNICORN_CONFIGURATION = Path("/etc/backstay/gunicorn.conf.py")
FORMAT = 1
BALLAST_BYTES = 1 << 20


def utc_now() -> str:
    """The time as UTC ISO 8601 with milliseconds: 2026-11-21T06:14:23.123Z."""
    now = datetime.datetime.now(datetime.UTC)
    return now.strftime("%Y-%m-%dT%H:%M:%S.") + f"{now.microsecond // 1000:03d}Z"


@dataclass(frozen=True)
class Request:
    """What somebody asks for. `by` and `why` go into the ledger; sizes are bytes, times are seconds."""

    operation: str
    by: str = "unknown"
    why: str = ""
    version: str | None = None
    payload: str | None = None  # sha256 of a payload that lies in the artifacts directory
    target: str | None = None  # a rollback's named target: id or version
    keep_warm: bool = True
    force: bool = False
    again: bool = False  # release although this very payload and configuration are live
    strategy: str = "live"  # or maintenance: the door is closed while the data change
    reverse: bool = False  # a rollback may close the door and reverse migrations
    override_freeze: str = ""  # why a release is made although releases are frozen
    override_promotion: str = ""  # why a payload is released that was not proven live in the stage before
    run: str = ""  # what the hosts of one run of a playbook have in common, made by that run

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Request:
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise InputError(f"The request has the unknown key {unknown[0]!r}: use a client of this host's version.")
        return cls(**known)


@dataclass(frozen=True)
class Transaction:
    """All that the steps need to know, fixed before the first of them and written into the journal's first record."""

    id: str
    application: str
    operation: str
    candidate: str
    previous: str | None  # what was live when it began
    version: str
    payload: str
    request: Request
    began: str
    configuration_only: bool = False
    signed_by: str = ""  # who vouches for having built the payload; empty for a configuration release

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Transaction:
        if data["format"] > FORMAT:
            raise BackstayError(
                f"The open transaction has format {data['format']} and this backstay knows {FORMAT}: "
                "update the host's command with playbooks/site.yml."
            )
        fields = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        return cls(**{**fields, "request": Request(**fields["request"])})


@dataclass(frozen=True)
class Room:
    """What a candidate needs and what there is; memory and disk in bytes."""

    disk_needed: int
    disk_free: int
    inodes_needed: int
    inodes_free: int
    memory_needed: int
    memory_available: int

    def refusal(self, *, warm: str | None) -> str | None:
        """Why it does not fit, in one sentence with the remedy; None when it fits."""
        if self.disk_free < self.disk_needed:
            return (
                f"The release needs {_mib(self.disk_needed)} of disk and {_mib(self.disk_free)} are free: "
                "free some, or keep fewer releases (releases.keep)."
            )
        if self.inodes_free < self.inodes_needed:
            return (
                f"The release needs {self.inodes_needed} inodes and {self.inodes_free} are free: "
                "remove small files, or keep fewer releases (releases.keep)."
            )
        if self.memory_available < self.memory_needed:
            offer = (
                f"release with keep_warm=false (--without-warm), which stops {warm} first and makes a rollback "
                "start it again"
                if warm
                else "free some memory, or lower processes.web.workers"
            )
            return (
                f"Three releases do not fit in memory: the candidate needs {_mib(self.memory_needed)} beside what runs "
                f"and {_mib(self.memory_available)} are available: {offer}."
            )
        return None


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 1048576:.0f} MiB"


@dataclass
class Engine:
    """The host side of one application."""

    layout: Layout
    storage: Storage = field(default_factory=Storage)
    runner: Runner = run
    now: Callable[[], str] = utc_now
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    say: Callable[[str], None] = lambda line: None  # progress for people
    interrupted: Callable[[], bool] = lambda: False  # somebody waits for the lock: cut the settling short
    aborted: Callable[[], bool] = lambda: False  # somebody asked to undo it: cut the watch short
    prober: Prober | None = None
    switched_at: float | None = None  # by the prober's clock

    def __post_init__(self) -> None:
        self.systemd = Systemd(self.runner)
        self.ledger = Ledger(self.layout.ledger, self.storage, self.now)
        self.journal = Journal(self.layout.journal, self.layout.old_journals, self.storage, self.now)

    # what is there

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

    def notes(self, release: str) -> str:
        """What the changelog says about a release; empty where nobody wrote anything."""
        known = self.history().get(release)
        return str(known.data.get("notes") or "").strip() if known else ""

    def web_unit(self, release: str) -> str:
        return self.layout.unit(release, "web")

    def _units(self, release: str, *, web: bool) -> list[str]:
        """The units of a release: its web process, or all the others (workers and singletons)."""
        try:
            application = self.application(release)
        except InputError:
            return []
        return [
            self.layout.unit(release, process.name)
            for process in application.processes.values()
            if (process.kind == "web") == web
        ]

    # before anything is touched

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
            if canonical(to_dict(declared)) != canonical(to_dict(self.application(live))):
                return True
            known = self.history().get(live)
            version, commit = (known.version, str(known.data.get("commit", ""))) if known else ("", "")
            values = environment_file(self._environment(declared, live, version, commit))
        except InputError:
            return True
        return self.storage.read(self.layout.environment_file(live)) != values.encode()

    def is_live(self, request: Request) -> bool:
        """Whether a release asks for what is live already, payload and configuration alike."""
        if request.operation != "release" or request.again:
            return False
        current = self.history().get(self.live())
        if current is None or self.configuration_changed():
            return False
        return request.payload in (None, current.data.get("payload")) and request.version in (None, current.version)

    def open(self, request: Request) -> Transaction:
        """Check everything that can be checked without touching anything, and fix what the transaction will do.

        Raises InputError or GateRefused; nothing has changed then.
        """
        live = self.live()
        history = self.history()
        stamp = self.now()
        identifier = stamp.replace("-", "").replace(":", "").replace(".", "").rstrip("Z") + f"-{os.getpid()}"
        if request.operation == "rollback":
            target = self._target(request, history, live)
            return Transaction(
                identifier,
                self.layout.name,
                self._way_back(request, history, str(live), target),
                target.id,
                live,
                target.version,
                str(target.data.get("payload", "")),
                request,
                stamp,
            )
        application = self.application()
        self._environment(application, "0000-0.0.0", "", "")
        frozen = None if request.override_freeze else _freeze.read(self.layout, self.storage)
        refused = _freeze.refusal(frozen, now=stamp, name=self.layout.name)
        if refused:
            raise GateRefused(refused)
        version, payload, only = self._what(request, history, live)
        sequence = self._next_sequence(history, live)
        transaction = Transaction(
            identifier,
            self.layout.name,
            {"live": "release", "maintenance": "maintenance"}[request.strategy],
            release_id(sequence, version),
            live,
            version,
            payload,
            request,
            stamp,
            only,
        )
        transaction = replace(transaction, signed_by=self._check_payload(transaction))
        self._check_promotion(transaction, application)
        self._check_room(transaction, application, history)
        return transaction

    def _next_sequence(self, history: History, live: str | None) -> int:
        """The number of the next release: above every one in the ledger, and above those on the disk, so that a lost
        ledger cannot make a new release take the id of one that serves."""
        found = [path.name for path in self.layout.releases.iterdir()]
        taken = [sequence_of(name) for name in (*found, live) if name and is_release_id(name)]
        return max([history.next_sequence, *(number + 1 for number in taken)])

    def way_back(self, request: Request, history: History) -> WayBack:
        """What a rollback needs. Raises InputError where there is nothing to go back to."""
        live = self.live()
        return way_back(history, live, self._target(request, history, live).id, now=self.now())

    def _way_back(self, request: Request, history: History, live: str, target: Release) -> str:
        """Which operation leads back to a release. Raises GateRefused where it cannot live with migrations made since,
        unless it was asked to reverse them, or to go all the same."""
        way = way_back(history, live, target.id, now=self.now())
        if way.kind == "code" or request.force:
            return "rollback"
        if way.kind == "reverse" and request.reverse:
            return "reversal"
        remedy = (
            "run it with reverse=true (--reverse), which shows the maintenance page meanwhile"
            if way.kind == "reverse"
            else "mend forward with a new release, or insist with --force if you know that it can be served"
        )
        raise GateRefused(
            f"Going back to {target.id} is not safe: {way.sentence}; {live} still serves; {remedy}.", lines=way.reasons
        )

    def _target(self, request: Request, history: History, live: str | None) -> Release:
        if live is None:
            raise InputError(
                f"Nothing of {self.layout.name} is live: there is nothing to roll back; release a version."
            )
        if request.target:
            target = named_target(history, live, request.target)
        else:
            found = rollback_target(history, live)
            if found is None:
                raise InputError(
                    f"There is nothing to roll back to: {live} is live and no older release was proven and is still "
                    "good; see `backstay history`."
                )
            target = found
        if not (self.layout.release(target.id) / "manifest.json").exists():
            raise BackstayError(f"The files of {target.id} are missing from {self.layout.releases}: release it again.")
        return target

    def _what(self, request: Request, history: History, live: str | None) -> tuple[str, str, bool]:
        """(version, payload digest, whether this is the live payload with another configuration)."""
        if request.payload is None:
            current = history.get(live)
            if current is None:
                raise InputError("A configuration release needs a live release: release a version first.")
            version = request.version or current.version
            if version != current.version:
                raise InputError(
                    f"No payload was given for {version}, and {current.version} is live: give the payload of {version}."
                )
            return version, str(current.data["payload"]), True
        return check_version(request.version or ""), request.payload, False

    def _check_payload(self, transaction: Transaction) -> str:
        """Who vouches for the payload of a release. Raises InputError or GateRefused for one that may not run here."""
        from ._artifact import host_facts, verify
        from ._attestation import ATTESTATION_NAME, check_attestation

        path = self.layout.payload(transaction.payload)
        if not path.exists():
            raise InputError(
                f"The payload {transaction.payload[:12]} of {transaction.version} is not on this host ({path}): "
                f"send it first."
            )
        signer = ""
        if not transaction.configuration_only:  # what is live was vouched for when it came
            signer = check_attestation(
                *self._proof(transaction, ATTESTATION_NAME),
                self.layout.allowed_signers,
                application=transaction.application,
                version=transaction.version,
                payload=transaction.payload,
                runner=self.runner,
            )
        facts = host_facts()
        manifest = verify(
            path,
            sha256=transaction.payload,
            application=transaction.application,
            system=facts.system,
            python=facts.python,
            architecture=facts.architecture,
        )
        if manifest.version != transaction.version:
            raise InputError(
                f"The payload {transaction.payload[:12]} holds version {manifest.version} and "
                f"{transaction.version} was "
                "asked for: send the right payload."
            )
        return signer

    def _proof(self, transaction: Transaction, name: str) -> tuple[bytes | None, bytes | None]:
        """What lies beside the payload to vouch for it, and its signature."""
        path = self.layout.proof(transaction.payload, name)
        return self.storage.read(path), self.storage.read(path.with_name(f"{path.name}.sig"))

    def _check_promotion(self, transaction: Transaction, application: Application) -> None:
        """Only what was live and proven in the stage before, where the application's file asks for that."""
        from ._attestation import check_promotion, promotion_name

        stage = application.releases.promoted_from
        if stage is None or transaction.configuration_only or transaction.request.override_promotion:
            return
        check_promotion(
            *self._proof(transaction, promotion_name(stage)),
            self.layout.allowed_signers,
            application=transaction.application,
            version=transaction.version,
            payload=transaction.payload,
            stage=stage,
            runner=self.runner,
        )

    def _check_room(self, transaction: Transaction, application: Application, history: History) -> None:
        from ._artifact import read_manifest, unpacked_bytes
        from ._runtime import runtime_of

        payload = self.layout.payload(transaction.payload)
        size, inodes = unpacked_bytes(payload)
        key = runtime_of(application).environment_key(read_manifest(payload))
        if not (self.layout.environments / key).exists():
            # A virtualenv unpacks to about four times its wheels, bytecode included.
            size += 4 * payload.stat().st_size
            inodes += 12000
        if transaction.operation in CLOSED:
            size += _restore_point.size_needed(self.layout, application)
        disk = os.statvfs(self.layout.home)
        policy = application.releases
        room = Room(
            disk_needed=2 * size + policy.free_bytes,
            disk_free=disk.f_bavail * disk.f_frsize,
            inodes_needed=2 * inodes + policy.free_inodes,
            # A file system without a fixed number of inodes reports none at all.
            inodes_free=disk.f_favail if disk.f_files else 1 << 62,
            memory_needed=self._memory_estimate(application, transaction.previous) + policy.free_memory_bytes,
            memory_available=self._memory_available(),
        )
        warm = must_run(history, transaction.previous).warm
        if warm and not transaction.request.keep_warm:
            freed = self._memory_of_unit(self.web_unit(warm))
            room = Room(**{**asdict(room), "memory_available": room.memory_available + freed})
        refusal = room.refusal(warm=warm if transaction.request.keep_warm else None)
        if refusal:
            raise GateRefused(refusal)

    def _memory_of_unit(self, unit: str) -> int:
        pid = int(self.systemd.properties(unit, "MainPID").get("MainPID") or 0)
        return memory_of(pid) if pid else 0

    def _memory_estimate(self, application: Application, live: str | None) -> int:
        """What the live release's web process uses now; where none runs, the limit it was given."""
        measured = self._memory_of_unit(self.web_unit(live)) if live else 0
        return measured or application.processes["web"].memory_max_bytes

    def _memory_available(self) -> int:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        raise BackstayError(
            "The kernel does not tell the available memory (/proc/meminfo): check that /proc is mounted."
        )

    # prepare

    def do_reserve(self, transaction: Transaction) -> str:
        from ._artifact import read_manifest

        if self.history().get(transaction.candidate) is None:
            manifest = read_manifest(self.layout.payload(transaction.payload))
            self.ledger.append(
                "staged",
                transaction.candidate,
                version=transaction.version,
                commit=manifest.commit,
                payload=transaction.payload,
                notes=manifest.notes,
                by=transaction.request.by,
                why=transaction.request.why,
                run=transaction.request.run,
                transaction=transaction.id,
                configuration_only=transaction.configuration_only,
                override_promotion=transaction.request.override_promotion,
                override_freeze=transaction.request.override_freeze,
                signed_by=transaction.signed_by,
            )
        return transaction.candidate

    def undo_reserve(self, transaction: Transaction, reason: str) -> None:
        """The id stays, marked failed: nothing that was tried is forgotten."""
        known = self.history().get(transaction.candidate)
        if known and known.state == "staged":
            self.ledger.append("failed", transaction.candidate, reason=reason, transaction=transaction.id)

    def do_stage(self, transaction: Transaction) -> str:
        from ._artifact import unpack
        from ._runtime import runtime_of

        target = self.layout.release(transaction.candidate)
        partial = target.with_name(f".{target.name}.partial")
        self.storage.remove_tree(partial)
        self.storage.remove_tree(target)
        partial.mkdir(mode=0o750)
        os.chown(partial, 0, self._gid())
        try:
            unpack(self.layout.payload(transaction.payload), partial)
            shutil.copyfile(GUNICORN_CONFIGURATION, partial / "gunicorn.conf.py")
            self.storage.rename(partial, target)
            runtime_of(self.application()).compile_code(target, self.runner)
            self.storage.sync_tree(target)
        except OSError as refused:
            raise BackstayError(
                f"{transaction.candidate} could not be unpacked into {self.layout.releases}: "
                f"{refused.strerror or refused}; "
                "free some space, then release again."
            ) from refused
        return f"{sum(1 for _unused in target.rglob('*'))} files"

    def undo_stage(self, transaction: Transaction, reason: str) -> None:
        target = self.layout.release(transaction.candidate)
        self.storage.remove_tree(target.with_name(f".{target.name}.partial"))
        self.storage.remove_tree(target)

    def do_environment(self, transaction: Transaction) -> str:
        from ._artifact import read_manifest
        from ._runtime import UNFINISHED, runtime_of

        payload = self.layout.payload(transaction.payload)
        manifest = read_manifest(payload)
        runtime = runtime_of(self.application())
        key = runtime.environment_key(manifest)
        target = self.layout.environments / key
        made = not target.exists() or (target / UNFINISHED).exists()
        try:
            runtime.create_environment(payload, manifest, target, self.runner)
        except OSError as refused:
            raise BackstayError(
                f"The virtualenv of {transaction.candidate} could not be made in {self.layout.environments}: "
                f"{refused.strerror or refused}; free some space, then release again."
            ) from refused
        self.storage.link(self.layout.release(transaction.candidate) / "venv", f"../../environments/{key}")
        return f"{key[:8]} {'built' if made else 'shared'}"

    def undo_environment(self, transaction: Transaction, reason: str) -> None:
        """The link goes with the release's directory, a finished environment that nobody refers to when releases are
        pruned; a half-made one goes now: it may be what filled the disk."""
        from ._runtime import UNFINISHED

        for marker in self.layout.environments.glob(f"*/{UNFINISHED}"):
            self.storage.remove_tree(marker.parent)

    def do_configure(self, transaction: Transaction) -> str:
        from ._application import to_dict
        from ._environment import environment_file
        from ._runtime import runtime_of

        application = self.application()
        candidate = transaction.candidate
        target = self.layout.release_configuration(candidate)
        self.storage.make_directory(target, mode=0o700)
        commit = str((self.history().get(candidate) or Release(candidate, "", "", "")).data.get("commit", ""))
        values = self._environment(application, candidate, transaction.version, commit)
        self.storage.write(target / "application.json", canonical(to_dict(application)) + b"\n", mode=0o600)
        self.storage.write(target / "environment", environment_file(values).encode(), mode=0o600)
        runtime = runtime_of(application)
        release = self.layout.release(candidate)
        for process in application.processes.values():
            command = runtime.process_command(
                application, process.name, release, self.layout.socket(candidate), release / "gunicorn.conf.py"
            )
            text = unit_text(application, candidate, process, command)
            self.storage.write(self.layout.units / self.layout.unit(candidate, process.name), text.encode())
        self.systemd.reload()
        return f"{len(application.processes)} units"

    def undo_configure(self, transaction: Transaction, reason: str) -> None:
        self._forget_units(transaction.candidate)
        self.storage.remove_tree(self.layout.release_configuration(transaction.candidate))

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
        return compose(application, self.secrets(), provided)

    def do_publish(self, transaction: Transaction) -> str:
        """Copy the hashed files into the shared directory: only new names, so no page ever loses an asset."""
        source = self.layout.release(transaction.candidate) / "static"
        names = self._hashed(source)
        fresh = []
        for name in names:
            target = self.layout.static / name
            if target.exists() and target.stat().st_size == (source / name).stat().st_size:
                continue
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            temporary = target.with_name(f".{target.name}.new")
            temporary.unlink(missing_ok=True)
            shutil.copyfile(source / name, temporary)
            temporary.chmod(0o644)
            fresh.append((temporary, target))
        # The content is on the disk before its name is: every later release takes a name for the whole file.
        if fresh:
            self.storage.sync_tree(self.layout.static)
        for temporary, target in fresh:
            os.rename(temporary, target)
        self.storage.sync_tree(self.layout.static)  # also names from a transaction that was killed before this
        return f"{len(fresh)} new of {len(names)}"

    def undo_publish(self, transaction: Transaction, reason: str) -> None:
        """Added assets harm nobody and go when releases are pruned."""

    def _hashed(self, static: Path) -> list[str]:
        content = self.storage.read(static / "staticfiles.json")
        return [] if content is None else sorted(set(json.loads(content)["paths"].values()))

    def do_judge(self, transaction: Transaction) -> str:
        """Ask what the pending migrations would do to the release that serves, and refuse what it cannot live with."""
        candidate = transaction.candidate
        previous = self.history().get(transaction.previous)
        # Also those that another host of this database, or an earlier attempt, has applied since the release before.
        known = tuple(previous.data.get("migrations_known", ())) if previous else ()
        state = self.migrations(candidate, "describe", known=known)
        limit = self.application(candidate).releases.migrations.rebuild_seconds
        verdict = judge(state.facts, rebuild_seconds=limit)
        # What a release knows, and what it did, decide later what a rollback needs.
        self.ledger.append(
            "schema",
            candidate,
            migrations_known=list(state.known),
            migrations_pending=list(state.pending),
            verdict=verdict.to_dict(),
        )
        for each in verdict.migrations:
            self.say(f"{each.name} is {each.verdict}{': ' if each.reasons else ''}{'; '.join(each.reasons)}")
        needs = verdict.needs_maintenance
        if transaction.operation == "release" and transaction.previous and needs:
            raise GateRefused(
                f"{transaction.version} cannot be released beside {transaction.previous}: {needs[0]}; change the "
                "migration, or release with maintenance=true (--maintenance): visitors see the maintenance page "
                "meanwhile, and a restore point is made.",
                lines=needs,
            )
        return f"{len(state.pending)} pending, {verdict.verdict}" if state.pending else "none is pending"

    def undo_judge(self, transaction: Transaction, reason: str) -> None:
        """Judging changed nothing."""

    def do_reverse(self, transaction: Transaction) -> str:
        """Take back what the target cannot live with, in the code of the release being left, which knows how."""
        way = way_back(self.history(), transaction.previous, transaction.candidate)
        done = self.migrations(str(transaction.previous), "reverse", reverse=way.reverse)
        return f"{len(done.seconds)} reversed: {', '.join(name for name, _seconds in done.seconds) or 'none was left'}"

    def undo_reverse(self, transaction: Transaction, reason: str) -> None:
        self._stop_migrating(str(transaction.previous))
        self._put_back(transaction)

    def do_migrate(self, transaction: Transaction) -> str:
        known = self.history().get(transaction.candidate)
        if known is not None and known.data.get("migrations_pending") == []:
            return "nothing to migrate"
        state = self.migrations(transaction.candidate, "migrate")
        if state.pending:
            raise BackstayError(
                f"Migrations ended and {state.pending[0]} is still pending: see `journalctl -u "
                f"{self._migration_unit(transaction.candidate)}`."
            )
        applied = [name for name, _seconds in state.seconds]
        self.ledger.append("migrated", transaction.candidate, migrations_applied=applied)
        return f"{len(applied)} applied: {', '.join(applied)}" if applied else "nothing to migrate"

    def undo_migrate(self, transaction: Transaction, reason: str) -> None:
        """A migration that still runs is stopped. What was applied stays where the release before lives with it;
        behind a closed door the data are put back."""
        self._stop_migrating(transaction.candidate)
        if transaction.operation in CLOSED:
            self._put_back(transaction)

    def _stop_migrating(self, release: str) -> None:
        unit = self._migration_unit(release)
        if self.systemd.states([unit]).get(unit) not in ("inactive", "unknown", None):
            self.systemd.stop([unit])

    def _migration_unit(self, release: str) -> str:
        return self.layout.unit(release, "migrate")

    def migrations(
        self, release: str, action: str, *, reverse: Sequence[str] = (), known: Sequence[str] = ()
    ) -> MigrationState:
        """Ask about (`state`, `describe`), make (`migrate`) or take back (`reverse`) migrations, in the environment and
        sandbox of a release.

        It runs as a unit with a known name, so that recovery can find and stop it when the transaction was killed.
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

    def run_hooks(self, transaction: Transaction, when: str, *, error: str = "") -> None:
        """Run what the application declares for `when`, in the candidate's environment, or in the live one's as long as
        the candidate has none. Raises GateRefused when a command fails."""
        from ._hooks import run_hooks

        release = next(
            (
                each
                for each in (transaction.candidate, self.live())
                if each and self.layout.environment_file(each).exists() and self.layout.release(each).is_dir()
            ),
            None,
        )
        if release is None:
            return
        configured = self.layout.release_configuration(transaction.candidate).is_dir()
        application = self.application(transaction.candidate if configured else None)
        facts = {
            "operation": transaction.operation,
            "release": transaction.candidate,
            "version": transaction.version,
            "previous": transaction.previous or "",
            "transaction": transaction.id,
            "by": transaction.request.by,
            "notes": self.notes(transaction.candidate)[:2000],
            "error": " ".join(error.split())[:400],
        }
        run_hooks(
            application,
            when,
            release=release,
            facts=facts,
            runner=self.runner,
            secrets=tuple(self.secrets().values()),
            python=str(self.layout.release(release) / "venv" / "bin" / "python"),
            say=self.say,
        )

    def do_start(self, transaction: Transaction) -> str:
        unit = self.web_unit(transaction.candidate)
        if not transaction.request.keep_warm and transaction.operation == "release":
            warm = must_run(self.history(), transaction.previous).warm
            if warm:
                self.systemd.stop([self.web_unit(warm)])
        if self.systemd.states([unit]).get(unit) == "active":
            return "runs already"
        try:
            self.systemd.start([unit])
        except BackstayError as refused:
            raise self._candidate_failed(transaction, f"{transaction.candidate} did not start") from refused
        return unit

    def undo_start(self, transaction: Transaction, reason: str) -> None:
        """Stop the candidate once nobody is connected to it, unless it is to run anyway (a rollback's warm target)."""
        running = must_run(self.history(), self.live())
        if transaction.candidate in (running.live, running.warm):
            return
        self.drain(transaction.candidate)
        self.systemd.stop([self.web_unit(transaction.candidate)])

    def do_gate(self, transaction: Transaction) -> str:
        from ._health import run_until
        from ._http import Target

        application = self.application(transaction.candidate)
        target = Target.unix(self.layout.socket(transaction.candidate), application.domain)
        checks = self._checks(application, target, "candidate", transaction)
        health = application.health
        unit = self.web_unit(transaction.candidate)

        def died(_unused: object) -> None:
            seen = self.systemd.properties(unit, "ActiveState", "NRestarts")
            if seen.get("ActiveState") == "failed" or int(seen.get("NRestarts") or 0) > 1:
                raise self._candidate_failed(transaction, f"{transaction.candidate} died while it was starting")

        quick = transaction.operation in ROLLBACKS
        report = run_until(
            checks,
            consecutive=1 if quick else health.consecutive,
            interval_seconds=health.interval_seconds,
            deadline_seconds=min(5.0, health.deadline_seconds) if quick else health.deadline_seconds,
            clock=self.clock,
            sleep=self.sleep,
            on_attempt=died,
        )
        if not report.ok:
            if transaction.request.force and quick:
                return f"not well ({report.reason}), forced"
            raise self._candidate_failed(transaction, f"{transaction.candidate} is not well: {report.reason}")
        return f"well after {report.attempts} answers"

    def undo_gate(self, transaction: Transaction, reason: str) -> None:
        """Asking changed nothing."""

    def _checks(self, application: Application, target: Any, through: Through, transaction: Transaction) -> list[Any]:
        """Health and smoke; for a rollback health alone, which names the release: what it goes to was proven before,
        and somebody is waiting."""
        from ._health import application_checks

        release = transaction.candidate
        if transaction.operation in ROLLBACKS or (through == "front_door" and transaction.operation in CLOSED):
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
                static_path=f"/static/{_plain_asset(static)}" if static else None,
                media_path=_any_media(media) if media else None,
            )
        )

    def _candidate_failed(self, transaction: Transaction, sentence: str) -> GateRefused:
        """A refusal with the candidate's own last words, secrets removed."""
        lines = self._clean(
            self.systemd.last_lines(self.web_unit(transaction.candidate), 15, since=_local(transaction.began))
        )
        serving = f"{transaction.previous} still serves" if transaction.previous else "nothing serves yet"
        remedy = (
            "mend it and release again"
            if transaction.operation not in ROLLBACKS
            else "roll back to another (--to), or insist with --force"
        )
        return GateRefused(f"{sentence.rstrip('.')}; {serving}, {remedy}.", lines=lines)

    def _clean(self, lines: tuple[str, ...]) -> tuple[str, ...]:
        from ._environment import redact

        secrets = tuple(self.secrets().values())
        return tuple(redact(line, secrets)[:500] for line in lines)

    # flip

    def do_flip(self, transaction: Transaction) -> str:
        before = self.clock()
        self.switched_at = self.prober.now() if self.prober else None
        self.storage.link(self.layout.active, self.layout.socket(transaction.candidate))
        return f"{(self.clock() - before) * 1000:.1f} ms"

    def undo_flip(self, transaction: Transaction, reason: str) -> None:
        if transaction.previous is None:
            self.storage.remove(self.layout.active)
            return
        unit = self.web_unit(transaction.previous)
        # Behind a closed door nothing is asked of it yet, and it must not open data that are about to be put back.
        if transaction.operation not in CLOSED and self.systemd.states([unit]).get(unit) != "active":
            self.systemd.start([unit])
        self.storage.link(self.layout.active, self.layout.socket(transaction.previous))

    def do_verify(self, transaction: Transaction) -> str:
        """Ask through the front door until the right release answers: what nginx says, not what we believe."""
        from ._health import run_until

        application = self.application(transaction.candidate)
        report = run_until(
            self._checks(application, front_door(application), "front_door", transaction),
            consecutive=1 if transaction.operation in ROLLBACKS else application.health.consecutive,
            interval_seconds=application.health.interval_seconds,
            deadline_seconds=min(15.0, application.health.deadline_seconds),
            clock=self.clock,
            sleep=self.sleep,
            on_attempt=lambda _: None,
        )
        if not report.ok and not (transaction.request.force and transaction.operation in ROLLBACKS):
            raise self._candidate_failed(
                transaction, f"The front door does not answer well with {transaction.candidate}: {report.reason}"
            )
        return f"{transaction.candidate} answers" if report.ok else f"not well ({report.reason}), forced"

    def undo_verify(self, transaction: Transaction, reason: str) -> None:
        """Asking changed nothing."""

    def do_handover(self, transaction: Transaction) -> str:
        """The old release's workers stop and the new one's start; a singleton waits for the old one on its lock."""
        return self._hand_over(transaction.previous, transaction.candidate)

    def undo_handover(self, transaction: Transaction, reason: str) -> None:
        self._hand_over(transaction.candidate, transaction.previous)

    # behind a closed door

    def _our_door(self, transaction: Transaction) -> bytes:
        """What the maintenance flag holds when this transaction closed the door: another's stays closed after it."""
        return f"transaction {transaction.id}\n".encode()

    def do_close(self, transaction: Transaction) -> str:
        if self.layout.maintenance_flag.exists():
            return "closed already"
        self.storage.write(self.layout.maintenance_flag, self._our_door(transaction))
        return "visitors get 503 and when to come back"

    def undo_close(self, transaction: Transaction, reason: str) -> None:
        flag = self.storage.read(self.layout.maintenance_flag)
        if flag == self._our_door(transaction):
            self._wait_until_served(transaction.previous)
        if flag in (None, self._our_door(transaction)):
            self._open_door()

    def _open_door(self) -> None:
        """Also where no flag is seen: whoever removed it may have been killed before that was on the disk."""
        self.storage.remove(self.layout.maintenance_flag)

    def _wait_until_served(self, release: str | None) -> None:
        """The door opens when somebody is behind it; after 30 s anyhow, for then the page would say less than the
        error does."""
        if release is None:
            return
        from ._health import application_checks, run_until
        from ._http import Target

        application = self.application(release)
        checks = application_checks(
            application,
            Target.unix(self.layout.socket(release), application.domain),
            through="candidate",
            release_id=release,
            static_path=None,
            media_path=None,
        )
        report = run_until(
            list(checks)[:1],
            consecutive=1,
            interval_seconds=0.1,
            deadline_seconds=30.0,
            clock=self.clock,
            sleep=self.sleep,
            on_attempt=lambda _: None,
        )
        if not report.ok:
            self.say(f"{release} does not answer well behind the closed door ({report.reason}); the door opens anyhow")

    def do_open(self, transaction: Transaction) -> str:
        if self.storage.read(self.layout.maintenance_flag) not in (None, self._our_door(transaction)):
            return "left closed, as it was before"
        self._open_door()
        return "open"

    def undo_open(self, transaction: Transaction, reason: str) -> None:
        """Past the point of no return nothing is undone."""

    def do_halt(self, transaction: Transaction) -> str:
        """Requests that were begun end; then every process of the application stops, of whichever release."""
        units = self.systemd.units_of(self.layout.name)
        for unit in units:
            if unit.endswith("-web.service"):
                self.drain(unit.removeprefix(f"{self.layout.name}-").removesuffix("-web.service"), patient=True)
        self.systemd.stop(units)
        left = [unit for unit in self.systemd.units_of(self.layout.name) if unit in units]
        if left:
            raise BackstayError(
                f"{left[0]} did not stop, so the data cannot be changed safely: see `journalctl -u {left[0]}`, end it, "
                "then release again."
            )
        return f"{len(units)} units"

    def undo_halt(self, transaction: Transaction, reason: str) -> None:
        """Start what must run; the door opens after it."""
        live = self.live()
        if live:
            self._start_missing([self.web_unit(live), *self._units(live, web=False)])

    def do_snapshot(self, transaction: Transaction) -> str:
        previous = transaction.previous
        if previous is None:
            return "nothing was live: there is nothing to keep"
        point = _restore_point.make(
            self.layout,
            self.storage,
            self.application(previous),
            identifier=transaction.id,
            release=previous,
            at=self.now(),
            environment=self._environment_of(previous),
            runner=self.runner,
        )
        self.ledger.append("kept", transaction.candidate, restore_point=point.id, restore_point_at=point.at)
        return f"{point.id}, {_mib(point.size_bytes)}"

    def undo_snapshot(self, transaction: Transaction, reason: str) -> None:
        """What it held was put back, or never changed."""
        for name in (transaction.id, f".{transaction.id}.partial"):
            self.storage.remove_tree(self.layout.restore_points / name)

    def _put_back(self, transaction: Transaction) -> None:
        """Bring the data back to the restore point of this very transaction, once: when it is written that they are
        back, the release before it may serve again, and what visitors wrote since must stay."""
        put_back = any(r.step in ("migrate", "reverse") and r.state == "undone" for r in self.journal.read())
        if transaction.previous is None or put_back:
            return
        self.systemd.stop(self.systemd.units_of(self.layout.name))
        _restore_point.restore(
            self.layout,
            self.storage,
            self.application(transaction.previous),
            transaction.id,
            environment=self._environment_of(transaction.previous),
            runner=self.runner,
        )
        self.say(f"the data are as they were at the restore point {transaction.id}")

    def _environment_of(self, release: str) -> dict[str, str]:
        """The environment that a release runs with, secrets included."""
        from ._environment import parse

        path = self.layout.environment_file(release)
        return parse((self.storage.read(path) or b"").decode(), file=str(path))

    def _hand_over(self, old: str | None, new: str | None) -> str:
        leaving = self._units(old, web=False) if old else []
        coming = self._units(new, web=False) if new else []
        self.systemd.stop(leaving, wait=False)
        self.systemd.start(coming, wait=False)
        return f"{len(leaving)} leave, {len(coming)} come"

    # watch

    def watch_seconds(self, transaction: Transaction) -> float:
        """How long this transaction watches what it flipped to; 0 when it does not."""
        if transaction.previous is None or not steps_of(transaction.operation, "watch"):
            return 0.0
        return self.application(transaction.candidate).releases.watch.seconds

    def do_watch(self, transaction: Transaction) -> str:
        seconds = self.watch_seconds(transaction)
        if seconds == 0:
            return "nothing to compare with" if transaction.previous is None else "not asked for"
        from ._watch import watch

        policy = self.application(transaction.candidate).releases.watch
        judgement = watch(
            self.layout,
            candidate=transaction.candidate,
            previous=str(transaction.previous),
            policy=policy,
            prober=self.prober,
            switched_at=self.switched_at,
            runner=self.runner,
            secrets=tuple(self.secrets().values()),
            say=self.say,
            sleep=self.sleep,
            clock=self.clock,
            should_stop=self.aborted,
        )
        self.ledger.append("watched", transaction.candidate, watch=judgement.to_dict())
        if self.aborted():
            return "cut short"
        if not judgement.reverts(policy):
            return f"{judgement.outcome}: {judgement.sentence}"
        why = "is worse than" if judgement.outcome == "bad" else "could not be compared with"
        raise self._candidate_failed(
            transaction, f"{transaction.candidate} {why} {transaction.previous}: {judgement.sentence}"
        )

    def start_prober(self, transaction: Transaction) -> None:
        """One visitor of our own through a release, from its first step to its last."""
        if transaction.previous is None or not steps_of(transaction.operation, "watch"):
            return
        from ._prober import Prober

        application = self.application()
        self.prober = Prober(
            front_door(application),
            application.health.path,
            interval_seconds=application.releases.watch.probe_interval_seconds,
        )
        self.prober.start()

    def stop_prober(self) -> None:
        if self.prober is not None:
            self.prober.stop()
        self.prober = self.switched_at = None

    def undo_watch(self, transaction: Transaction, reason: str) -> None:
        """Looking changed nothing."""

    # confirm

    def do_confirm(self, transaction: Transaction) -> str:
        history = self.history()
        known = history.get(transaction.candidate)
        if transaction.operation in ROLLBACKS:
            for left in withdrawn_by(history, transaction.previous, transaction.candidate):
                self.ledger.append(
                    "withdrawn",
                    left,
                    reason=transaction.request.why or f"rolled back to {transaction.candidate}",
                    withdrawn_by=transaction.request.by,
                    transaction=transaction.id,
                )
        if known is None or known.state != "live" or known.data.get("transaction") != transaction.id:
            self.ledger.append(
                "live",
                transaction.candidate,
                live_by=transaction.request.by,
                live_why=transaction.request.why,
                run=transaction.request.run,
                transaction=transaction.id,
                before=transaction.previous,
                probes=self.prober.summary().to_dict() if self.prober else None,
            )
        return f"{transaction.candidate} is live"

    def do_settle(self, transaction: Transaction | None) -> str:
        """Make what runs be what must run."""
        return self.settle(keep_warm=transaction.request.keep_warm if transaction else True)

    def settle(self, *, keep_warm: bool = True) -> str:
        """Start what must run and does not, drain and stop what runs and need not. Derived, so it can be cut short:
        whoever settles next does the rest."""
        live = self.live()
        if live:
            # From the link alone: a ledger that cannot be read must never keep the site down at boot.
            self._start_missing([self.web_unit(live), *self._units(live, web=False)])
        history = self.history()
        running = must_run(history, live, keep_warm=keep_warm)
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
        """What the live release declares and is not done; at boot too, and after a recovery."""
        from . import _backfill

        try:
            declared = self.application(live).backfills if live else {}
        except InputError:
            return
        names = _backfill.missing(self.layout, self.storage, declared)
        if names:
            _backfill.start(self, names)

    # a full disk must not stand between a person and a rollback

    def drop_ballast(self) -> bool:
        """Give back the room that was put by for a full disk; False when there is none."""
        was = self.layout.ballast.exists()
        self.storage.remove(self.layout.ballast)
        return was

    def take_ballast(self) -> None:
        """Put some room by, where there is plenty: journal and ledger of a rollback need far less."""
        if self.layout.ballast.exists():
            return
        disk = os.statvfs(self.layout.state)
        if disk.f_bavail * disk.f_frsize > 8 * BALLAST_BYTES:
            # Random, so that no file system stores it in less.
            self.storage.write(self.layout.ballast, os.urandom(BALLAST_BYTES), mode=0o600)

    def _start_missing(self, units: list[str]) -> list[str]:
        """Start those that do not run, without waiting; returns them."""
        states = self.systemd.states(units)
        missing = [unit for unit in units if states.get(unit) not in ("active", "activating", "reloading")]
        self.systemd.start(missing, wait=False)
        return missing

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

    def do_prune(self, transaction: Transaction) -> str:
        application = self.application()
        history = self.history()
        made = [str(entry.data.get("restore_point")) for entry in self.ledger.read() if entry.event == "kept"]
        _restore_point.prune(self.layout, self.storage, application.releases.keep_restore_points, made)
        needed = frozenset(point.release for point in _restore_point.points(self.layout, self.storage))
        doomed = prunable(history, self.live(), keep=application.releases.keep, needed=needed)
        for release in doomed:
            self._forget_files(release)
            self.ledger.append("pruned", release, transaction=transaction.id)
        for past in history.ordered():
            if past.state in ("failed", "pruned") and self._files_of(past.id):
                self._forget_files(past.id)  # a power cut brought back what a killed transaction had removed
        self._sweep()
        return f"{len(doomed)} removed"

    def _files_of(self, release: str) -> bool:
        """Whether anything of a release lies on this host."""
        places = (self.layout.release(release), self.layout.release_configuration(release))
        return any(place.exists() for place in places) or bool(self._unit_files(release))

    def _forget_files(self, release: str) -> None:
        self._forget_units(release)
        self.storage.remove_tree(self.layout.release(release))
        self.storage.remove_tree(self.layout.release_configuration(release))

    def _sweep(self) -> None:
        """Remove environments, payloads and assets that no release on this host refers to any more."""
        kept = [path for path in self.layout.releases.iterdir() if not path.name.startswith(".")]
        environments = {os.readlink(path / "venv").rpartition("/")[2] for path in kept if (path / "venv").is_symlink()}
        for path in self.layout.environments.iterdir():
            if path.name not in environments:
                self.storage.remove_tree(path)
        history = self.history()
        payloads = {str(r.data.get("payload")) for r in history.ordered() if self.layout.release(r.id).exists()}
        for path in (each for kind in ("*.tar", "*.json", "*.sig") for each in self.layout.artifacts.glob(kind)):
            if path.name.partition(".")[0] not in payloads:
                self.storage.remove(path)
        assets = {name for path in kept for name in self._hashed(path / "static")}
        for path in list(self.layout.static.rglob("*")):
            if path.is_file() and str(path.relative_to(self.layout.static)) not in assets:
                path.unlink()
        self._tidy()

    def _tidy(self) -> None:
        """Remove what a power cut left of writes and removals; all of these are made under the application's lock."""
        layout = self.layout
        for directory in (layout.releases, layout.configuration / "releases", layout.restore_points):
            self.storage.tidy(directory)
        for path in (layout.active, layout.maintenance_flag, layout.ledger.with_suffix(".head"), layout.ballast):
            self.storage.tidy(path.parent, path.name.__eq__)
        self.storage.tidy(layout.units, lambda name: is_release_unit(layout.name, name))

    def _gid(self) -> int:
        return pwd.getpwnam(self.layout.name).pw_gid


def front_door(application: Application) -> Any:
    """The application's site as this host's own nginx serves it: TLS to the loopback, under the site's name.

    The certificate's chain is a check of its own (`health`), not a reason to refuse a release.
    """
    from ._http import Target

    return Target.tcp("127.0.0.1", 443, tls=True, server_name=application.domain, verify=False)


def _plain_asset(names: list[str]) -> str:
    """A style sheet where there is one: the asset whose absence a visitor sees first."""
    return next((name for name in names if name.endswith(".css")), names[0])


def _any_media(directory: Path) -> str | None:
    """The URL path of one uploaded file; None where there is none yet."""
    for root, folders, files in os.walk(directory):
        folders.sort()
        for name in sorted(files):
            if not name.startswith("."):
                return "/media/" + str((Path(root) / name).relative_to(directory))
    return None


def _local(stamp: str) -> str:
    """A UTC stamp as journalctl understands it."""
    return stamp.replace("T", " ").partition(".")[0] + " UTC"
