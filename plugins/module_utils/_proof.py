"""Whether a restore point is worth anything: five levels, each including those below it, never said
higher than reached.

    L1  listed and fresh            the point is in the repository, whole; the newest is not too old; the clocks agree
    L2  structure                   the engine's check; manifest and seal there, signed, chained, about these snapshots
    L3  read back                   every byte of it was read and decrypted
    L4  restored                    in isolation, and equal to the manifest: rows, hashes, files, canaries
    L5  alive                       the release that made it runs on the restored data and answers

A level that fails ends the proof with its reason. What says nothing about the point itself (too old, a wrong clock)
does not refute it. What hinders the proof (no route to the repository, no room) is an error and proves nothing.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import grp
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ._attestation import SIGNATURE, verify
from ._errors import BackstayError, GateRefused
from ._manifest import Manifest, digest, from_bytes
from ._repository import RepositoryError, Snapshot, look_into
from ._restored import ARTIFACTS, CONFIGURATION, DATABASES, LIMIT, MEDIA, check_restored, examine
from ._run import Completed, Runner, run
from ._sandbox import Limits, Sandbox, Scratch, Task, introduce, library_command, open_for_reading
from ._storage import Storage

if TYPE_CHECKING:
    from ._application import Application
    from ._layout import Layout

__all__ = ["Chain", "Finding", "Proof", "Refuted", "Store", "chain_of", "check_restored", "inner_main", "prove"]

LEVELS = (1, 2, 3, 4, 5)
MANIFEST, SEAL = "manifest.json", "seal.json"
MANIFEST_NAMESPACE, SEAL_NAMESPACE = "backstay-manifest", "backstay-seal"
SEAL_FORMAT = 1
JOB_FORMAT = 1

# How far two clocks may be apart before it is told: that of this host, and that of whoever made the newest point.
CLOCK_SECONDS = 300.0
# What lies in a scratch beside the data: the manifest, logs, and the room that a database needs while it is opened.
ROOM_FACTOR = 1.2

# Errors of a repository that say something about what is in it. All others hinder the proof and prove nothing.
_AGAINST = frozenset({"wrong key", "damaged", "no repository", "no snapshot", "incomplete"})
# Of these, a wrong password and a disk that is not mounted end the proof and speak against no point.
_AROUND = frozenset({"wrong key", "no repository"})

ReadBack = Literal["point", "repository"]


class Store(Protocol):
    """What a proof asks of a repository; `_repository.Repository` is one."""

    @property
    def name(self) -> str: ...
    def identity(self) -> str | None: ...
    def snapshots(self, *, damaged: Callable[[str], None] | None = None) -> tuple[Snapshot, ...]: ...
    def read_all(self, snapshot: str, paths: Sequence[str]) -> dict[str, bytes]: ...
    def restore(self, snapshot: str, target: Path, include: Sequence[str] = ()) -> object: ...
    def check(self, read_data: bool = False) -> None: ...


@dataclass(frozen=True)
class Finding:
    """Why a level does not hold, in a sentence. `refutes`: whether it speaks against the point, or only against what is
    around it (too old, a clock that is wrong)."""

    level: int
    sentence: str
    refutes: bool = True


@dataclass(frozen=True)
class Proof:
    """What was found out about one point in one repository. `level` is the highest that holds (0: none), `asked` the
    one that was wanted; `seconds` per level; recovery time is from asking to the last canary's right answer, the
    recovery point how old the newest row in the restored data is. `at` is UTC ISO 8601."""

    run: str
    repository: str
    level: int
    asked: int
    findings: tuple[Finding, ...]
    seconds: Mapping[int, float]
    at: str
    recovery_time_seconds: float | None = None
    recovery_point_seconds: float | None = None
    manifest_sha256: str = ""
    snapshots: Mapping[str, str] = field(default_factory=dict)
    release: str = ""

    @property
    def ok(self) -> bool:
        return self.level >= self.asked and not self.findings

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        what = f"The restore point {self.run or '(none)'} in {self.repository}"
        if self.ok:
            return f"{what} holds on level {self.level} of 5."
        reason = self.findings[0].sentence if self.findings else "no reason was found."
        reached = f"holds on level {self.level}" if self.level else "holds on no level"
        more = f" (and {len(self.findings) - 1} more)" if len(self.findings) > 1 else ""
        return f"{what} {reached} and was asked for {self.asked}: {reason}{more}"


@dataclass(frozen=True)
class Chain:
    """What this host's catalogue says of earlier manifests: their runs by digest, the runs that need not be in the
    repository (expired, or never stored there), and whether it knows them all. A host that lost everything knows none.
    """

    runs: Mapping[str, str] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()
    complete: bool = False


def chain_of(layout: Layout, storage: Storage, repository: str) -> Chain:
    """What this host's catalogue knows of one repository. Raises BackstayError when it cannot be trusted."""
    from ._catalogue import catalogue, fold

    entries = catalogue(layout, storage, lambda: "").read()
    found = fold(entries)
    return Chain(
        {point.manifest: point.run for point in found if point.manifest},
        frozenset(point.run for point in found if repository not in point.repositories),
        # One that was rebuilt from repositories does not know what had expired before.
        complete=bool(found) and not any(entry.data.get("rebuilt") for entry in entries),
    )


class Refuted(Exception):
    """A level does not hold; carries its findings."""

    def __init__(self, *findings: Finding) -> None:
        super().__init__(findings[0].sentence)
        self.findings = findings


def prove(
    run_id: str | None,
    repository: Store,
    level: int,
    *,
    layout: Layout,
    application: Application,
    sandbox: Sandbox,
    public_keys: Sequence[str],
    chain: Chain | None = None,
    max_age_seconds: float | None = None,
    read_back: ReadBack | None = None,
    limits: Limits | None = None,
    now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    clock: Callable[[], float] = time.monotonic,
    runner: Runner = run,
    say: Callable[[str], None] = lambda line: None,
    proof_id: str | None = None,
    alone: bool = False,
) -> Proof:
    """Prove one restore point of one repository up to `level`.

    `run_id` is a run, or None for the newest. `public_keys` are those by which manifests may be signed (the content of
    backup_key.pub). `max_age_seconds` is how old the newest point may be; None does not ask. `read_back` says what
    level 3 reads: all of the repository, or what this point needs (the default where it is restored anyway). With
    `alone` damage in the repository is told, and does not count: for whoever compares all that it takes of the point.

    Raises BackstayError where the proof could not be carried out: then nothing was proven, and nothing refuted.
    """
    if level not in LEVELS:
        raise BackstayError(f"There is no level {level!r}: ask for one of 1 to 5.", exit_code=2)
    proving = _Proving(
        run_id=run_id,
        repository=repository,
        asked=level,
        layout=layout,
        application=application,
        sandbox=sandbox,
        public_keys=tuple(public_keys),
        chain=chain or Chain(),
        max_age_seconds=max_age_seconds,
        read_back=read_back or ("point" if level >= 4 else "repository"),
        limits=limits or Limits(),
        now=now,
        clock=clock,
        runner=runner,
        proof_id=proof_id or f"{now():%Y%m%dT%H%M%S}-{os.getpid()}",
        beside=say if alone else None,
    )
    steps = {1: proving.listed, 2: proving.structure, 3: proving.read, 4: proving.restored, 5: proving.alive}
    seconds: dict[int, float] = {}
    findings: tuple[Finding, ...] = ()
    reached = 0
    with proving.stack:
        for number in range(1, level + 1):
            began = clock()
            try:
                steps[number]()
            except Refuted as refuted:
                findings = refuted.findings
            except RepositoryError as refused:
                if refused.kind not in _AGAINST:
                    raise
                findings = (Finding(number, refused.message, refutes=refused.kind not in _AROUND),)
            seconds[number] = proving.took.get(number, clock() - began)
            if findings:
                break
            reached = number
            say(f"L{number} holds ({seconds[number]:.1f} s)")
    return Proof(
        run=proving.run_id or "",
        repository=repository.name,
        level=reached,
        asked=level,
        findings=findings,
        seconds=seconds,
        at=f"{now():%Y-%m-%dT%H:%M:%SZ}",
        recovery_time_seconds=proving.recovery_time_seconds if not findings else None,
        recovery_point_seconds=proving.recovery_point_seconds,
        manifest_sha256=proving.manifest_sha256,
        snapshots={part: snapshot.id for part, snapshot in proving.snapshots.items()},
        release=proving.manifest.release if proving.manifest else "",
    )


@dataclass
class _Proving:
    """One proof while it is made."""

    run_id: str | None
    repository: Store
    asked: int
    layout: Layout
    application: Application
    sandbox: Sandbox
    public_keys: tuple[str, ...]
    chain: Chain
    max_age_seconds: float | None
    read_back: ReadBack
    limits: Limits
    now: Callable[[], dt.datetime]
    clock: Callable[[], float]
    runner: Runner
    proof_id: str
    beside: Callable[[str], None] | None = None  # who hears of damage that need not be this point's
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    whole: dict[str, dict[str, Snapshot]] = field(default_factory=dict)
    data: tuple[Snapshot, ...] = ()
    unreadable: list[str] = field(default_factory=list)
    identity: str = ""
    manifest: Manifest | None = None
    manifest_bytes: bytes = b""
    manifest_sha256: str = ""
    scratch: Scratch | None = None
    took: dict[int, float] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    recovery_time_seconds: float | None = None
    recovery_point_seconds: float | None = None

    def __post_init__(self) -> None:
        self.began = self.clock()

    # level 1

    def listed(self) -> None:
        unreadable = self.unreadable
        runs: dict[str, dict[str, list[Snapshot]]] = {}
        self.identity, snapshots = look_into(self.repository, unreadable.append)
        for snapshot in snapshots:
            runs.setdefault(snapshot.run, {}).setdefault(snapshot.part, []).append(snapshot)
        for run_id, parts in runs.items():
            if "data" in parts and "manifest" in parts:
                self.whole[run_id] = {part: found[-1] for part, found in parts.items()}
        if not runs and not unreadable:
            self._refute(1, f"{self._place()} was never backed up to: run `backstay backup`.")
        newest = max(self.whole, key=lambda each: _time_of_run(each, self.whole[each]["manifest"]), default=None)
        if self.run_id is None:
            if newest is None:
                self._refute(1, f"{self._place()} holds no whole restore point: {self._unfinished(runs, unreadable)}.")
            self.run_id = newest
        self._clocks(newest)
        if self.run_id not in self.whole:
            parts = runs.get(str(self.run_id), {})
            if parts:
                lacks = "its manifest" if "data" in parts else "its data"
                self._refute(
                    1,
                    f"The run {self.run_id} is unfinished in {self.repository.name}: {lacks} was never stored, so it "
                    f"does not count{self._and(unreadable)}; choose another point, or make one.",
                )
            self._refute(
                1,
                f"There is no restore point {self.run_id} in {self.repository.name}{self._and(unreadable)}: choose one "
                "that `backstay backups` names.",
            )
        self.snapshots = self.whole[str(self.run_id)]
        # A store that was tried twice left two snapshots of one part: the seal names the one that counts.
        self.data = tuple(runs[str(self.run_id)]["data"])
        self._fresh(newest)

    def _clocks(self, newest: str | None) -> None:
        if newest is None:
            return
        made = _time_of_run(newest, self.whole[newest]["manifest"])
        ahead = (made - self.now()).total_seconds()
        if ahead > CLOCK_SECONDS:
            self._refute(
                1,
                f"The newest point {newest} was made {_spoken(ahead)} in the future of this host's clock: one of the "
                "two clocks is wrong; correct it (`timedatectl`), and then prove again.",
                refutes=False,
            )

    def _fresh(self, newest: str | None) -> None:
        if self.max_age_seconds is None or newest is None:
            return
        age = (self.now() - _time_of_run(newest, self.whole[newest]["manifest"])).total_seconds()
        if age > self.max_age_seconds:
            self._refute(
                1,
                f"The newest restore point {newest} in {self.repository.name} is {_spoken(age)} old and may be "
                f"{_spoken(self.max_age_seconds)}: see `backstay status` and the backup's journal, and run one.",
                refutes=False,
            )

    def _unfinished(self, runs: Mapping[str, object], unreadable: Sequence[str]) -> str:
        if unreadable:
            return f"some of its snapshots cannot be read ({unreadable[0]})"
        return f"{len(runs)} runs are unfinished; see the backup's journal, and run `backstay backup`"

    @staticmethod
    def _and(unreadable: Sequence[str]) -> str:
        return f" (and snapshots there cannot be read: {unreadable[0]})" if unreadable else ""

    def _place(self) -> str:
        return f"The repository {self.repository.name} of {self.application.name}"

    def _refute(self, level: int, sentence: str, *, refutes: bool = True) -> None:
        raise Refuted(Finding(level, sentence, refutes))

    # level 2

    def structure(self) -> None:
        names = [name + ending for name in (MANIFEST, SEAL) for ending in ("", SIGNATURE)]
        with ThreadPoolExecutor(max_workers=1) as pool:  # each command tries the password for half a second, on purpose
            reading = pool.submit(self.repository.read_all, self.snapshots["manifest"].id, names)
            self._whole()
        found = reading.result()
        self._signed(found, MANIFEST, MANIFEST_NAMESPACE)
        self._signed(found, SEAL, SEAL_NAMESPACE)
        self.manifest_bytes = found[MANIFEST]
        self.manifest_sha256 = digest(self.manifest_bytes)
        self.manifest = from_bytes(self.manifest_bytes, origin=f"the manifest of {self.run_id}")
        seal = self._sealed(found[SEAL], self.identity)
        self._chained(seal.get("previous", self.manifest.previous))

    def _whole(self) -> None:
        """The engine's check of the repository."""
        if self.unreadable and self.beside is None:
            self._refute(2, self.unreadable[0])
        try:
            self.repository.check(read_data=False)
        except RepositoryError as refused:
            if self.beside is None or refused.kind != "damaged":
                raise
            self.beside(f"{refused.message} This point is looked at by itself.")

    def _signed(self, found: Mapping[str, bytes], name: str, namespace: str) -> None:
        what = f"the {name.partition('.')[0]} of {self.run_id}"
        with tempfile.NamedTemporaryFile("w", prefix="backstay-", suffix=".signers") as signers:
            for key in self.public_keys:
                signers.write(
                    f'backup namespaces="{MANIFEST_NAMESPACE},{SEAL_NAMESPACE}" {" ".join(key.split()[:2])}\n'
                )
            signers.flush()
            try:
                verify(
                    found[name],
                    found[name + SIGNATURE] or None,
                    Path(signers.name),
                    namespace,
                    what=what,
                    remedy="choose another restore point, and find out who wrote to the repository",
                    runner=self.runner,
                )
            except GateRefused as refused:
                # The sentence of a stranger's signature speaks of payloads' signers, which are others.
                said = refused.message
                if "stranger" in said:
                    said = (
                        f"{what[:1].upper()}{what[1:]} is signed by a stranger and not by this host's backup key: "
                        "choose another restore point, and find out who wrote to the repository."
                    )
                self._refute(2, said)

    def _sealed(self, content: bytes, identity: str) -> dict[str, Any]:
        what = f"The seal of {self.run_id} in {self.repository.name}"
        try:
            seal: dict[str, Any] = json.loads(content)
            number = int(seal["format"])
        except (ValueError, KeyError, TypeError) as broken:
            raise Refuted(Finding(2, f"{what} cannot be read ({broken}): choose another restore point.")) from broken
        if number > SEAL_FORMAT:
            raise BackstayError(
                f"{what} has format {number} and this backstay knows {SEAL_FORMAT}: update the host's command with "
                "playbooks/site.yml."
            )
        data = next((each for each in self.data if each.id == seal.get("snapshot")), self.snapshots["data"])
        self.snapshots = {**self.snapshots, "data": data}
        facts = (
            ("run", "the run", str(self.run_id)),
            ("manifest", "the manifest", self.manifest_sha256),
            ("repository", "the repository", identity),
            ("snapshot", "the data snapshot", data.id),
            ("tree", "the data's tree", data.tree),
        )
        for key, name, there in facts:
            if seal.get(key) != there:
                self._refute(
                    2,
                    f"{what} is about {name} {str(seal.get(key))[:24]} and this is {there[:24]}: somebody swapped "
                    "them; choose another restore point.",
                )
        written = next((sha for sha, each in self.chain.runs.items() if each == self.run_id), self.manifest_sha256)
        if written != self.manifest_sha256:
            self._refute(
                2,
                f"The manifest of {self.run_id} in {self.repository.name} is not the one that this host wrote "
                f"({self.manifest_sha256[:16]}…, the catalogue has {written[:16]}…): choose another restore point.",
            )
        manifest = self.manifest
        if manifest is not None:
            for name, said, wanted in (
                ("run", manifest.run, str(self.run_id)),
                ("application", manifest.application, self.application.name),
            ):
                if said != wanted:
                    self._refute(
                        2,
                        f"The manifest of {self.run_id} is about the {name} {said} and not {wanted}: choose another "
                        "restore point.",
                    )
        return seal

    def _chained(self, previous: str | None) -> None:
        """The manifest before this one in this repository must be known: there still, or expired as the catalogue says.

        A host that lost its catalogue cannot tell what expired from what somebody took away, and does not pretend to.
        """
        if not previous:
            return
        before = self.chain.runs.get(previous)
        if before is None and not self.chain.complete:
            return
        if before is not None and (before in self.whole or before in self.chain.gone):
            return
        named = f" ({before})" if before else ""
        self._refute(
            2,
            f"The manifest of {self.run_id} follows {previous[:16]}…{named}, which is not in {self.repository.name} "
            "and never expired there: the chain is broken, somebody removed a restore point.",
        )

    # level 3

    def read(self) -> None:
        if self.read_back == "repository":
            self.repository.check(read_data=True)
        else:
            self._fetch()

    def _fetch(self) -> Scratch:
        """Restore into the scratch: as root and with the network, which what is inside never has."""
        if self.scratch is not None:
            return self.scratch
        needed = int(self._manifest().size_bytes * ROOM_FACTOR)
        scratch = Scratch(
            self.layout.proof_scratch, self.proof_id, needed_bytes=needed, stop=self.sandbox.stop, storage=Storage()
        )
        self.stack.enter_context(scratch)
        stage = scratch.path / "stage"
        stage.mkdir(mode=0o700)
        self.repository.restore(self.snapshots["data"].id, stage)
        self.scratch = scratch
        return scratch

    def _manifest(self) -> Manifest:
        if self.manifest is None:
            raise BackstayError("A level was looked at before those below it: this is a mistake in backstay.")
        return self.manifest

    # level 4

    def restored(self) -> None:
        manifest, scratch = self._manifest(), self._fetch()
        stage = scratch.path / "stage"
        # Plain files are hashed out here, so that the secrets among them never come into the sandbox.
        outside = examine(stage, manifest, self.application, parts=(CONFIGURATION, ARTIFACTS), runner=self.runner)
        application = self._application_of(stage)
        for part in (DATABASES, MEDIA):
            if (stage / part).is_dir() and not (stage / part).is_symlink():
                os.rename(stage / part, scratch.open / part)
        (scratch.open / MANIFEST).write_bytes(self.manifest_bytes)
        release: _Release | None = None
        late: Refuted | None = None
        if self.asked >= 5:
            try:
                release = _prepare_release(self, stage, scratch, application, manifest)
            except Refuted as refuted:
                late = refuted
        self.answers = self._inside(scratch, application, release)
        if late is not None:
            self.answers["alive"] = {"findings": [finding.sentence for finding in late.findings], "seconds": 0.0}
        self.took[5] = float(self.answers.get("alive", {}).get("seconds", 0.0))
        seen = self.answers["restored"]
        differences = [found.sentence for found in outside.differences] + [
            each["sentence"] for each in seen["differences"]
        ]
        count = outside.count + int(seen["count"])
        self._measure(seen["newest"])
        if differences:
            shown = [Finding(4, sentence) for sentence in differences[:LIMIT]]
            if count > len(shown):
                shown.append(Finding(4, f"There are {count - len(shown)} more differences from the manifest."))
            raise Refuted(*shown)

    def _measure(self, newest: Mapping[str, str]) -> None:
        """Recovery time (till now) and point."""
        self.recovery_time_seconds = self.clock() - self.began
        times = [dt.datetime.fromisoformat(each) for each in newest.values()]
        if times:
            self.recovery_point_seconds = (self.now() - max(times)).total_seconds()

    def _application_of(self, stage: Path) -> Application:
        """The application as it was when the point was made: the manifest answers the queries of then."""
        from ._application import from_dict

        path = stage / CONFIGURATION / "application.json"
        if path.is_symlink() or not path.is_file():
            return self.application
        try:
            return from_dict(json.loads(path.read_bytes()), file=f"the application's file of {self.run_id}")
        except (ValueError, BackstayError):
            return self.application

    def _inside(self, scratch: Scratch, application: Application, release: _Release | None) -> dict[str, Any]:
        from ._application import to_dict

        inside = self.sandbox.inside(scratch)
        job = {
            "format": JOB_FORMAT,
            "directory": str(inside),
            "application": to_dict(application),
            "release": None if release is None else {"directory": str(release.directory), "id": release.id},
        }
        (scratch.open / "job.json").write_text(json.dumps(job), encoding="utf-8")
        scratch.open_up()
        task = Task(
            (*library_command("_proof.inner_main"), str(inside / "job.json")),
            limits=self.limits,
            readable=() if release is None else release.readable,
            environment={} if release is None else release.environment,
            group=None if release is None else _group_of(application),
        )
        done = self.sandbox.run(scratch, task)
        answers = _answers(done)
        if "hindered" in answers:
            raise BackstayError(str(answers["hindered"]["sentence"]), lines=tuple(answers["hindered"]["lines"]))
        if "restored" not in answers:
            last = done.last_lines(1)
            raise BackstayError(
                f"The check in the sandbox ended with exit code {done.returncode} and no answer "
                f"({last[0] if last else 'it said nothing'}): see its journal, then prove again.",
                lines=done.last_lines(),
            )
        return answers

    # level 5

    def alive(self) -> None:
        answer = self.answers.get("alive")
        if answer is None:
            raise BackstayError(
                "The release was not started in the sandbox, and nothing says why: see the journal, then prove again."
            )
        if answer["findings"]:
            raise Refuted(*(Finding(5, str(sentence)) for sentence in answer["findings"][:LIMIT]))
        self.recovery_time_seconds = self.clock() - self.began


def _answers(done: Completed) -> dict[str, Any]:
    """The events that the command inside printed, by name; whatever else was printed is passed over."""
    found: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        try:
            event = json.loads(line)
            if event["format"] == JOB_FORMAT:
                found[str(event["event"])] = event
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _time_of_run(run_id: str, snapshot: Snapshot) -> dt.datetime:
    """When a run was made: its id says so; one that does not, is as old as its snapshot."""
    try:
        stamp = run_id.partition("-")[0]
        return dt.datetime.strptime(f"{stamp[:15]}{stamp[15:18] or '000'}000+0000", "%Y%m%dT%H%M%S%f%z")
    except ValueError:
        return iso_time(snapshot.time)


def iso_time(text: str) -> dt.datetime:
    """A time as restic writes it (nanoseconds, any zone)."""
    shortened = text.replace("Z", "+00:00")
    head, dot, tail = shortened.partition(".")
    if dot:
        digits = len(tail) - len(tail.lstrip("0123456789"))
        shortened = f"{head}.{tail[:digits][:6]:0<6}{tail[digits:]}"
    parsed = dt.datetime.fromisoformat(shortened)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=dt.UTC)


def _spoken(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours" if seconds < 172800 else f"{seconds / 86400:.0f} days"


# the release that made a point


@dataclass(frozen=True)
class _Release:
    """A release that can be started: its directory, what the sandbox must let it read, and its environment."""

    id: str
    directory: Path
    readable: tuple[Path, ...]
    environment: Mapping[str, str] = field(repr=False)


def _prepare_release(
    proving: _Proving, stage: Path, scratch: Scratch, application: Application, manifest: Manifest
) -> _Release:
    """Verify the payload that lies in the point itself, and make what is missing on this host to run it.

    Raises Refuted (level 5) where the point does not hold what it takes.
    """
    payload = _verified_payload(proving, stage, application, manifest)
    environment = environment_of(proving.layout, stage, manifest)
    inside = proving.sandbox.inside(scratch)
    directory, readable = _release_on_host(proving.layout, manifest)
    if directory is None:
        directory, readable = _release_anew(proving, scratch, payload, application)
    for name in ("data", "log"):
        (scratch.open / name).mkdir(exist_ok=True)
    overrides = {
        "BACKSTAY_RELEASE_ID": manifest.release,
        "BACKSTAY_DATA_DIR": str(inside / "data"),
        "BACKSTAY_LOG_DIR": str(inside / "log"),
        "BACKSTAY_STATIC_DIR": str(directory / "static"),
        "BACKSTAY_PROCESS": "web",
    }
    return _Release(manifest.release, directory, readable, {**environment, **overrides})


def _verified_payload(proving: _Proving, stage: Path, application: Application, manifest: Manifest) -> Path:
    from ._artifact import host_facts
    from ._artifact import verify as verify_payload
    from ._attestation import ATTESTATION_NAME, check_attestation

    artifacts = stage / ARTIFACTS
    payload = artifacts / f"{manifest.payload}.tar"
    attested = artifacts / f"{manifest.payload}.{ATTESTATION_NAME}"
    signature = attested.with_name(attested.name + SIGNATURE)
    # By the list that lies in the point, which is the one that the host took the release by; else by this host's.
    own = stage / CONFIGURATION / "allowed_signers"
    signers = own if own.is_file() and not own.is_symlink() else proving.layout.allowed_signers
    storage = Storage()
    try:
        check_attestation(
            storage.read(attested),
            storage.read(signature),
            signers,
            application=application.name,
            version=manifest.version,
            payload=manifest.payload,
            runner=proving.runner,
        )
        facts = host_facts()
        verify_payload(
            payload,
            sha256=manifest.payload,
            application=application.name,
            system=facts.system,
            python=facts.python,
            architecture=facts.architecture,
        )
    except BackstayError as refused:
        raise Refuted(Finding(5, f"The release {manifest.release} in the point: {refused.message}")) from refused
    return payload


def environment_of(layout: Layout, stage: Path, manifest: Manifest) -> dict[str, str]:
    """The environment that the release had, from the point; else the one that it has on this host."""
    from ._environment import parse

    storage = Storage()
    own = stage / CONFIGURATION / "releases" / manifest.release / "environment"
    for path in (own, layout.environment_file(manifest.release)):
        content = None if path.is_symlink() else storage.read(path)
        if content is not None:
            return parse(content.decode("utf-8", errors="replace"), file=f"the environment of {manifest.release}")
    raise Refuted(
        Finding(
            5, f"The point holds no environment of the release {manifest.release}, so it cannot be started from it."
        )
    )


def _release_on_host(layout: Layout, manifest: Manifest) -> tuple[Path | None, tuple[Path, ...]]:
    """The release's directory and what it needs, where this host still has it whole. Another host's release of the same
    name, which a drill brings, may be of another payload."""
    from ._ledger import Ledger
    from ._releases import fold
    from ._runtime import UNFINISHED

    known = fold(Ledger(layout.ledger, Storage(), lambda: "").read()).get(manifest.release)
    if known is None or known.data.get("payload") != manifest.payload:
        return None, ()
    directory = layout.release(manifest.release)
    environment = (directory / "venv").resolve()
    whole = (directory / "code").is_dir() and (environment / "bin" / "python").exists()
    if not whole or (environment / UNFINISHED).exists():
        return None, ()
    return directory, (directory, environment)


def _group_of(application: Application) -> str | None:
    """The group that may read a release of this host; a host that never had the application has no such group, and
    reads what was made anew for it."""
    try:
        return grp.getgrnam(application.name).gr_name
    except KeyError:
        return None


def _release_anew(
    proving: _Proving, scratch: Scratch, payload: Path, application: Application
) -> tuple[Path, tuple[Path, ...]]:
    """Unpack the release and make its environment from its own wheels, offline, in the scratch."""
    from ._artifact import read_manifest, unpack
    from ._preparation import GUNICORN_CONFIGURATION
    from ._runtime import runtime_of

    directory, environment = scratch.path / "release", scratch.path / "environment.d"
    runtime = runtime_of(application)
    try:
        directory.mkdir(mode=0o755)
        unpack(payload, directory)
        (directory / "gunicorn.conf.py").write_bytes(GUNICORN_CONFIGURATION.read_bytes())
        runtime.create_environment(payload, read_manifest(payload), environment, proving.runner)
        (directory / "venv").symlink_to(environment)
        runtime.compile_code(directory, proving.runner)
        open_for_reading(directory)
    except OSError as refused:
        raise BackstayError(
            f"The release could not be made in {scratch.path} ({refused.strerror or refused}): free some space, then "
            "prove again; nothing was proven."
        ) from refused
    return directory, (directory, environment)


# inside the sandbox


def inner_main(argv: Sequence[str]) -> int:
    """The command that runs inside: `argv` is the path of a job. Prints one JSON object per line; 0 when it came to an
    end, whatever it found."""
    import sys

    try:
        job = json.loads(Path(argv[0]).read_bytes())
        if job["format"] > JOB_FORMAT:
            raise BackstayError("The job was written by a newer backstay: start both from the same installation.")
        introduce(Path(job["directory"]))
        _work(job, lambda event: _print(sys.stdout, event))
    except BackstayError as wrong:
        _print(sys.stdout, {"event": "hindered", "sentence": wrong.message, "lines": list(wrong.lines)})
        sys.stderr.write(f"{wrong.message}\n")
        return wrong.exit_code
    return 0


def _print(stream: Any, event: Mapping[str, Any]) -> None:
    stream.write(json.dumps({"format": JOB_FORMAT, **event}) + "\n")
    stream.flush()


def _work(job: Mapping[str, Any], tell: Callable[[Mapping[str, Any]], None]) -> None:
    from ._application import from_dict

    directory = Path(job["directory"])
    application = from_dict(job["application"], file="the application's file of the point")
    manifest = from_bytes((directory / MANIFEST).read_bytes(), origin="the manifest of the point")
    seen = examine(directory, manifest, application, parts=(DATABASES, MEDIA), scratch=directory, whole=True)
    differences = [{"where": each.where, "sentence": each.sentence} for each in seen.differences]
    tell(
        {
            "event": "restored",
            "differences": differences,
            "count": seen.count,
            "newest": dict(seen.newest),
        }
    )
    if differences or job["release"] is None:
        return
    from ._proof_release import run_release

    began = time.monotonic()
    findings = run_release(directory, manifest, application, Path(job["release"]["directory"]), job["release"]["id"])
    tell({"event": "alive", "findings": list(findings), "seconds": time.monotonic() - began})
