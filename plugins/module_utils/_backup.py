"""One backup: everything of an application, as it was at one moment, in every repository.

    room, lock, begun       nothing is touched before there is room; a killed run is known by its `begun`
    freeze, copy, freeze    media are linked before and after the databases are copied: a superset of what they name
    store, hash             each repository gets the stage while its digests are made
    manifest, sign, seal    only what is sealed counts
    read back, retain       where that is cheap; what may go, goes

A repository that fails leaves the others done. Whatever ends this early leaves the last good restore point as it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from . import _generations as generations
from ._attestation import SIGNATURE, sign
from ._bucket_rules import findings, look, unknown
from ._catalogue import Copy, Point, catalogue, last_known, points, rows_of, sizes, stored_data
from ._errors import BackstayError, GateRefused, InputError
from ._expiry import retain
from ._layout import Layout
from ._lock import holding
from ._manifest import CanaryAnswer, DatabaseFacts, Manifest, MediaFile, digest, from_bytes, to_bytes
from ._media import open_media
from ._repository import Repository, RepositoryError, Snapshot, look_into, repositories_of
from ._room import mib
from ._run import Runner, run
from ._storage import Storage, canonical
from ._version import VERSION

if TYPE_CHECKING:
    from ._application import Application
    from ._backup_settings import BackupPolicy
    from ._ledger import Entry, Ledger

MANIFEST, SEAL = "manifest.json", "seal.json"
MANIFEST_NAMESPACE, SEAL_NAMESPACE = "backstay-manifest", "backstay-seal"
SEAL_FORMAT = 1
PARTS = ("databases", "media", "configuration", "artifacts")
SPARE_BYTES = 64 << 20
YOUNG_SECONDS = 60.0
CHEAP_SECONDS = 10.0  # a read-back that takes no longer is made after each run
READ_BYTES_A_SECOND = 50 << 20  # what is assumed where nobody has measured


@dataclass(frozen=True)
class Source:
    """What is backed up, and with what.

    `release`, `version` and `payload` (SHA-256) are the live release's, "" where none is; `migrations` are those that
    are applied; `environment` is its own, which names the servers' URLs. `needed` says by run who needs a restore
    point, `payloads` which further payloads those need. `now` is UTC ISO 8601.
    """

    layout: Layout
    application: Application
    release: str
    version: str
    payload: str
    migrations: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    now: Callable[[], str]
    runner: Runner = run
    storage: Storage = field(default_factory=Storage)
    say: Callable[[str], None] = lambda line: None
    needed: Mapping[str, str] = field(default_factory=dict)
    payloads: tuple[str, ...] = ()
    host: str = field(default_factory=socket.gethostname)

    @property
    def policy(self) -> BackupPolicy:
        """Raises InputError where the application declares no backup."""
        if self.application.backup is None:
            raise InputError(
                f"{self.application.name} has no `backup` in its file: declare where restore points go, then run "
                "playbooks/site.yml."
            )
        return self.application.backup


@dataclass(frozen=True)
class Outcome:
    """What a run came to: the point, and a sentence for each thing that went wrong (`notes` did not go wrong)."""

    point: Point
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        return 1 if self.problems else 0


class Collector(Protocol):
    """Copies and counts what is to be stored; `HostCollector` is the one of a host."""

    def freeze(self, stage: Path, *, first: bool) -> tuple[str, ...]:
        """Link the media into the stage, as they are now; sentences about what was left out. Not `first`: what is there
        stays, also what was deleted meanwhile."""

    def copy(self, stage: Path) -> None:
        """Copy every database into the stage."""

    def databases(self, stage: Path) -> Mapping[str, DatabaseFacts]:
        """What is in the copies."""

    def media(
        self, stage: Path, known: Mapping[str, MediaFile], stop: Callable[[], bool] = lambda: False
    ) -> Mapping[str, MediaFile]:
        """The digests of the linked media; of what `known` has with the same size and time they need not be made. Once
        `stop` says so, those that are there."""

    def answers(self, stage: Path) -> tuple[tuple[CanaryAnswer, ...], Mapping[str, str | None]]:
        """The canaries' answers, and the time of the newest row of each database, from the copies."""


# the run


def backup(
    source: Source,
    *,
    repositories: Mapping[str, Repository] | None = None,
    collector: Collector | None = None,
    accept_shrink: bool = False,
    wait_seconds: float = 0.0,
) -> Outcome:
    """Make a restore point in every repository of the application.

    Raises InputError and GateRefused before anything is touched, Busy when somebody else holds the data, BackstayError
    when nothing could be stored anywhere. What failed in one repository alone is among the outcome's problems.
    """
    policy = source.policy
    layout = source.layout
    if layout.isolated.exists():
        raise GateRefused(
            f"{layout.name} is isolated on this host, and its data belong to another: nothing is backed up from here; "
            f"if this is its host now, remove {layout.isolated} and release the configuration."
        )
    if layout.rebuilding.exists():
        raise GateRefused(
            f"{layout.name} is being rebuilt, and what is here is empty: nothing is backed up until its data are back "
            f"(`backstay restore {layout.name}`)."
        )
    found = repositories or repositories_of(
        layout, policy.repositories, source.storage, runner=source.runner, seconds=policy.seconds, say=source.say
    )
    source.storage.make_directory(layout.state, mode=0o700)
    with holding(layout.data_lock, "backup", wait_seconds=wait_seconds):
        from ._host_collector import HostCollector

        running = _Run(source, found, collector or HostCollector(source))
        return running.go(accept_shrink)


def _run_id(now: str) -> str:
    at = datetime.fromisoformat(now).astimezone(UTC)
    return f"{at:%Y%m%dT%H%M%S}{at.microsecond // 1000:03d}-{os.getpid()}"


class _Run:
    """One backup while it is made. The data lock is held."""

    def __init__(self, source: Source, repositories: Mapping[str, Repository], collector: Collector) -> None:
        self.source = source
        self.layout = source.layout
        self.storage = source.storage
        self.repositories = dict(repositories)
        self.collector = collector
        self.chain: Ledger = catalogue(self.layout, self.storage, source.now)
        self.stage = self.layout.backup_stage
        # It is the application's: nothing in it is followed.
        self.live = self.layout.generation(generations.live(self.layout))
        self.began = source.now()
        self.run = _run_id(self.began)
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.lost: dict[str, str] = {}  # repository: why
        self.listed: dict[str, tuple[Snapshot, ...]] = {}
        self.identities: dict[str, str] = {}

    def go(self, accept_shrink: bool) -> Outcome:
        self.sweep()
        earlier = points(self.layout, self.storage)
        previous = next((point for point in reversed(earlier) if point.manifest and point.repositories), None)
        known = self.manifest_of(previous)
        self.check_sources(known)
        self.check_room(known)
        begun = {"release": self.source.release, "version": self.source.version, "at": self.began}
        self.chain.append("begun", self.run, repositories=sorted(self.repositories), **begun)
        try:
            manifest, stored = self.make(known, previous)
        except BaseException as failed:
            told = _told(failed)
            self._failed(told.message if isinstance(told, BackstayError) else type(failed).__name__)
            raise told from failed
        finally:
            self.storage.remove_tree(self.stage)
        if accept_shrink:
            self.chain.append("accepted", self.run)
        self.read_back(manifest, stored)
        self.retain(stored)
        self.ask_buckets(stored)
        point = next(point for point in points(self.layout, self.storage) if point.run == self.run)
        return Outcome(point, tuple(self.problems), tuple(self.notes))

    def _failed(self, reason: str) -> None:
        """On a full disk there is room to write it down when the stage is gone; else the next run does."""
        try:
            self.storage.remove_tree(self.stage)
            self.chain.append("failed", self.run, reason=reason)
        except BackstayError as worse:
            self.source.say(f"that it failed is not written down: {worse.message}")

    # before anything is touched

    def sweep(self) -> None:
        """What a killed run left: its stage goes, and the catalogue tells that it failed. The manifests of those that
        no repository has any more go too: they name what people uploaded, and may have had deleted."""
        self.storage.remove_tree(self.stage)
        if self.layout.generations.is_dir():
            self.storage.tidy(self.layout.generations, lambda name: name == self.stage.name)
        found = points(self.layout, self.storage)
        kept = {point.run for point in found if point.repositories}
        for directory in sorted(self.layout.backup_runs.glob("*")):
            if directory.name not in kept:
                self.storage.remove_tree(directory)
        for point in found:
            if not point.repositories and not point.failed and not point.expired and not point.failed_in:
                self.chain.append("failed", point.run, reason="it ended without a word: killed, or the host went down")

    def manifest_of(self, point: Point | None) -> Manifest | None:
        """The manifest of a point, as it is kept outside of the repositories."""
        if point is None:
            return None
        content = self.storage.read(self.layout.backup_run(point.run) / MANIFEST)
        if content is None or digest(content) != point.manifest:
            self.notes.append(
                f"The manifest of {point.run} on this host is missing or altered: all media are read anew."
            )
            return None
        return from_bytes(content, origin=f"the manifest of {point.run} on this host")

    def check_sources(self, known: Manifest | None) -> None:
        """Raises BackstayError for data that are not there. An empty mount must never become an empty backup."""
        application = self.source.application
        for database in application.databases:
            if database.path is not None:
                self._check_file(database.path, f"The database {database.name}")
        if application.media is None:
            return
        os.close(open_media(self.layout.data, PurePosixPath(application.media)))
        if known is not None and known.media and not any(generations.files_of(self.live, application.media)):
            raise BackstayError(
                f"The media directory {self.layout.data / application.media} is empty and {len(known.media)} files "
                f"were in the restore point {known.run}, so nothing was backed up: is it mounted? If all were deleted "
                "on purpose, put one file there and run it again."
            )

    def _check_file(self, path: str, what: str) -> None:
        kind = generations.kind_of(self.live, path)
        if kind == "nothing":
            raise BackstayError(
                f"{what} ({self.layout.data / path}) is missing, so nothing was backed up: look at the data directory "
                "before anything else."
            )
        if kind != "file":
            raise BackstayError(
                f"{what} ({self.layout.data / path}) is no regular file, or behind a link, so nothing was backed up: "
                "look at who put it there."
            )

    def check_room(self, known: Manifest | None) -> None:
        """Raises GateRefused, with numbers, where the stage or every local repository has no room."""
        databases, growth = self._database_bytes(known)
        stage = _existing(self.stage)
        needed, free = databases + growth + SPARE_BYTES, shutil.disk_usage(stage).free
        if free < needed:
            raise GateRefused(
                f"The backup needs {mib(needed)} on the disk of {self.layout.generations} for copies of the databases "
                f"({mib(growth)} of it for what their logs may grow by meanwhile), and {mib(free)} are free: free "
                "some, then run it again; nothing was touched."
            )
        media = self._new_media_bytes(known)
        for name, repository in list(self.repositories.items()):
            if repository.settings.kind != "local":
                continue
            place = _existing(Path(repository.settings.location))
            needed, free = databases + media + SPARE_BYTES, shutil.disk_usage(place).free
            if free < needed:
                self._lose(
                    name,
                    f"The repository {name} ({repository.settings.location}) may need {mib(needed)} and {mib(free)} "
                    "are free: make room there, or keep fewer restore points, then run the backup again.",
                )
        if self.repositories and set(self.lost) == set(self.repositories):
            raise GateRefused(next(iter(self.lost.values())))

    def _database_bytes(self, known: Manifest | None) -> tuple[int, int]:
        """What the copies may take: each SQLite file with its write-ahead log; a server's as the last time. And by how
        much the logs may grow: while a copy is made, no room in them is used again. Beside a database of 549 MB, under
        writers that never paused, one came to 383 MB; so each may become as large as its file, which is enough for
        whoever writes no faster than a copy reads. Of what it is already it needs no more."""
        copies = growth = 0
        for database in self.source.application.databases:
            if database.path is not None:
                file, log = (generations.size_of(self.live, database.path + ending) for ending in ("", "-wal"))
                copies += file + log
                growth += max(0, file - log)
            elif known is not None and database.name in known.databases:
                copies += known.databases[database.name].size_bytes
        return copies, growth

    def _new_media_bytes(self, known: Manifest | None) -> int:
        media = self.source.application.media
        if media is None:
            return 0
        total = sum(size for _path, size in generations.files_of(self.live, media))
        return max(0, total - sum(file.size_bytes for file in known.media.values())) if known else total

    # making it

    def make(self, known: Manifest | None, previous: Point | None) -> tuple[bytes, dict[str, Copy]]:
        """Everything up to the seals: the manifest, and the copies by repository."""
        say = self.source.say
        digests = dict(known.media) if known else {}
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="open") as pool:
            opening = pool.submit(self.prepare_repositories)  # trying a password takes half a second, on purpose
            self.storage.make_directory(self.stage, mode=0o700)
            for part in PARTS:
                (self.stage / part).mkdir(mode=0o700)
            say("freeze: media are linked, databases copied")
            self.notes += self.collector.freeze(self.stage, first=True)
            with self.hashing_meanwhile(digests):
                self.collector.copy(self.stage)
            self.notes += [note for note in self.collector.freeze(self.stage, first=False) if note not in self.notes]
            opening.result()
        self.settle()
        configuration = self.copy_configuration()
        artifacts = self.link_artifacts()
        ended = self.source.now()
        say("store and hash")
        data, databases, media, answers = self.store_and_hash(digests)
        manifest = Manifest(
            run=self.run,
            application=self.layout.name,
            host=self.source.host,
            release=self.source.release,
            version=self.source.version,
            payload=self.source.payload,
            migrations=self.source.migrations,
            began=self.began,
            ended=ended,
            tools=self.tools(),
            databases=databases,
            media=media,
            configuration=configuration,
            artifacts=artifacts,
            canaries=answers[0],
            newest=answers[1],
            previous=previous.manifest if previous else None,
        )
        content = to_bytes(manifest)
        self.write_manifest(manifest, content)
        copies = self.seal(content, data)
        if not copies:
            raise BackstayError(
                f"The backup reached no repository: {next(iter(self.lost.values()), 'none is declared')}",
                lines=tuple(self.lost.values()),
            )
        return content, copies

    def prepare_repositories(self) -> None:
        """Open each; make those that never were. One that is lost is left out from here on."""
        entries = self.chain.read()
        known = points(self.layout, self.storage)
        for name, repository in self.repositories.items():
            if name in self.lost:
                continue
            try:
                self._open(name, repository, self._expected(name, repository, known, entries))
                repository.check_place()
            except BackstayError as failed:
                self._lose(name, failed.message)

    def _open(self, name: str, repository: Repository, expected: str | None) -> None:
        """Who it is and what it holds; one that was never written to is made, if need be."""
        if expected is None and repository.initialize():
            self.source.say(f"{name}: a new repository was made")
        try:
            self.identities[name], self.listed[name] = look_into(repository, self.problems.append)
            gone = expected not in (None, self.identities[name])
        except RepositoryError as refused:
            if expected is None or refused.kind != "no repository":
                raise
            gone = True
        if gone:
            repository.initialize(expected=expected)  # says which it is, and makes none in its stead

    def _expected(
        self, name: str, repository: Repository, known: Sequence[Point], entries: Sequence[Entry]
    ) -> str | None:
        """The id that a repository must have: what was written to at this very location before."""
        for entry in reversed(entries):
            if entry.event == "stored" and entry.data.get("repository") == name:
                if entry.data.get("location") not in (None, repository.settings.location):
                    return None  # moved: the next one may be another
                return last_known(known, name, entries)
        return None

    def _lose(self, name: str, reason: str) -> None:
        self.lost[name] = reason
        self.problems.append(reason)
        self.source.say(f"{name}: {reason}")

    def copy_configuration(self) -> dict[str, MediaFile]:
        """What a bare host needs: the declared application, its secrets, who may sign, the ledger, the certificate."""
        layout, target = self.layout, self.stage / "configuration"
        wanted = {
            "application.json": layout.application_file,
            "secrets.json": layout.secrets_file,
            "backup.json": layout.backup_secrets,
            "allowed_signers": layout.allowed_signers,
            "ledger.jsonl": layout.ledger,
            "ledger.head": layout.ledger.with_suffix(".head"),
            "certificates/bundle.pem": layout.root / "etc" / "backstay-tls" / layout.name / "bundle.pem",
        }
        releases = layout.configuration / "releases"
        for path in sorted(releases.rglob("*")) if releases.is_dir() else ():
            if path.is_file() and not path.is_symlink():
                wanted[f"releases/{path.relative_to(releases)}"] = path
        found = {}
        for name, path in wanted.items():
            content = self.storage.read(path)
            if content is not None:
                self.storage.make_directory((target / name).parent, mode=0o700)
                self.storage.write(target / name, content, mode=0o600)
                status = (target / name).lstat()
                found[name] = MediaFile(len(content), hashlib.sha256(content).hexdigest(), status.st_mtime_ns)
        return found

    def link_artifacts(self) -> dict[str, MediaFile]:
        """The payload of the live release and of those that kept restore points need, with what vouches for them."""
        found = {}
        for payload in dict.fromkeys((self.source.payload, *self.source.payloads)):
            if not payload:
                continue
            tar = self.layout.payload(payload)
            if not tar.is_file():
                self.problems.append(
                    f"The payload {payload[:12]}… is missing ({tar}), so this restore point alone cannot bring its "
                    "release back: release it again, which puts the payload there."
                )
                continue
            for path in sorted(self.layout.artifacts.glob(f"{payload}.*")):
                target = self.stage / "artifacts" / path.name
                try:
                    os.link(path, target, follow_symlinks=False)
                except OSError:  # another file system
                    shutil.copy2(path, target, follow_symlinks=False)
                with target.open("rb") as file:
                    found[path.name] = MediaFile(
                        target.stat().st_size,
                        hashlib.file_digest(file, "sha256").hexdigest(),
                        target.stat().st_mtime_ns,
                    )
        return found

    @contextlib.contextmanager
    def hashing_meanwhile(self, digests: dict[str, MediaFile]) -> Iterator[None]:
        """While a database is copied, a core has nothing to do: it makes digests of the media till then. Those of files
        that nobody writes to any more are added to `digests`; whatever changes later has another size or time."""
        copied = threading.Event()
        old = (time.time() - YOUNG_SECONDS) * 1e9
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="early") as pool:
            early = pool.submit(self.collector.media, self.stage, dict(digests), copied.is_set)
            try:
                yield
            finally:
                copied.set()
        digests |= {path: file for path, file in early.result().items() if file.mtime_ns < old}

    def store_and_hash(
        self, earlier: dict[str, MediaFile]
    ) -> tuple[
        dict[str, Snapshot],
        Mapping[str, DatabaseFacts],
        Mapping[str, MediaFile],
        tuple[tuple[CanaryAnswer, ...], Mapping[str, str | None]],
    ]:
        """Store to each repository while digests are made. A file that was changed in place meanwhile is copied, so
        that nobody can change it any more, and everything is stored once more. `earlier` are digests from before."""
        with ThreadPoolExecutor(max_workers=2, thread_name_prefix="hash") as pool:
            databases = pool.submit(self.collector.databases, self.stage)
            data: dict[str, Snapshot] = {}
            media: Mapping[str, MediaFile] = {}
            for attempt in (1, 2):
                before = _states(self.stage / "media")
                hashing = pool.submit(self.collector.media, self.stage, earlier)
                data, torn = self.store()
                media = hashing.result()
                changed = [path for path, state in _states(self.stage / "media").items() if before.get(path) != state]
                if not changed:
                    for name, reason in torn.items():
                        self._lose(name, reason)
                    break
                if attempt == 2:
                    raise BackstayError(
                        f"The media file {changed[0]} changed twice while it was backed up, though it is a copy: look "
                        f"at who writes to {self.stage}."
                    )
                self.notes.append(
                    f"{len(changed)} media files were changed in place meanwhile and are stored as copies."
                )
                for path in changed:
                    _separate(self.stage / "media" / path)
                earlier = {path: file for path, file in media.items() if path not in changed}
            facts = databases.result()
            answers = self.collector.answers(self.stage)
        return data, facts, media, answers

    def settle(self) -> None:
        """What was changed so lately that somebody may still write to it becomes a copy of our own."""
        young = (time.time() - YOUNG_SECONDS) * 1e9
        for path, (_size, changed_ns) in _states(self.stage / "media").items():
            if changed_ns > young:
                _separate(self.stage / "media" / path)

    def store(self) -> tuple[dict[str, Snapshot], dict[str, str]]:
        """What was stored by repository, and where the snapshot is not what the stage was, why."""
        found: dict[str, Snapshot] = {}
        torn: dict[str, str] = {}
        for name, repository in self.repositories.items():
            if name in self.lost:
                continue
            last = next((each for each in reversed(self.listed[name]) if each.part == "data"), None)
            began = time.monotonic()
            try:
                found[name] = repository.store(
                    self.stage, PARTS, (f"run={self.run}", "part=data"), parent=last.id if last else None
                )
            except BackstayError as failed:
                if isinstance(failed, RepositoryError) and failed.kind == "incomplete":
                    torn[name] = failed.message
                else:
                    self._lose(name, failed.message)
            else:
                seconds = time.monotonic() - began
                self.source.say(f"{name}: {mib(found[name].added_bytes)} added in {seconds:.1f} s")
        return found, torn

    def tools(self) -> dict[str, str]:
        import platform
        import sqlite3

        done = self.source.runner(["restic", "version"], check=False)
        return {
            "backstay": VERSION,
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "restic": done.stdout.split(" compiled", maxsplit=1)[0].removeprefix("restic ").strip() or "unknown",
        }

    def write_manifest(self, manifest: Manifest, content: bytes) -> None:
        """Signed and on the disk, outside of the repositories, before any seal names it."""
        directory = self.layout.backup_run(self.run)
        self.storage.make_directory(directory, mode=0o700)
        self.storage.write(directory / MANIFEST, content, mode=0o600)
        self._sign(directory / MANIFEST, MANIFEST_NAMESPACE)
        size, rows = sizes(manifest)
        self.chain.append(
            "made",
            self.run,
            at=self.began,
            release=manifest.release,
            version=manifest.version,
            payload=manifest.payload,
            manifest=digest(content),
            rows=rows,
            size_bytes=size,
            databases=rows_of(manifest),
            files=len(manifest.media),
        )

    def _sign(self, path: Path, namespace: str) -> None:
        signature = sign(path, self.layout.backup_key, namespace, runner=self.source.runner)
        signature.chmod(0o600)
        self.storage.sync(signature)

    def seal(self, content: bytes, data: Mapping[str, Snapshot]) -> dict[str, Copy]:
        """Bind manifest and data together in each repository: from here on the point counts there."""
        directory = self.layout.backup_run(self.run)
        found = {}
        for name, snapshot in data.items():
            repository = self.repositories[name]
            try:
                seal = directory / f"{name}.{SEAL}"
                self.storage.write(seal, canonical(self._seal(name, snapshot, content)) + b"\n", mode=0o600)
                self._sign(seal, SEAL_NAMESPACE)
                staged = self.stage / "manifest"
                self.storage.remove_tree(staged)
                staged.mkdir(mode=0o700)
                files = {MANIFEST: directory / MANIFEST, SEAL: seal}
                for target, path in files.items():
                    for ending in ("", SIGNATURE):
                        self.storage.write(
                            staged / (target + ending), path.with_name(path.name + ending).read_bytes(), mode=0o600
                        )
                names = tuple(name + ending for name in files for ending in ("", SIGNATURE))
                sealed = repository.store_counted(staged, names, (f"run={self.run}", "part=manifest"))
            except BackstayError as failed:
                self._lose(name, failed.message)
                continue
            found[name] = Copy(
                name, self.identities[name], snapshot.id, snapshot.tree, sealed, stored_at=self.source.now()
            )
            location = repository.settings.location
            self.chain.append("stored", self.run, **stored_data(found[name]), location=location)
            self.listed[name] += (snapshot, replace(snapshot, id=sealed, part="manifest"))
        for name, reason in self.lost.items():
            self.chain.append("failed", self.run, repository=name, reason=reason)
        return found

    def _seal(self, name: str, snapshot: Snapshot, content: bytes) -> dict[str, Any]:
        """`previous` is the manifest before this one in this very repository, which one may have missed a run."""
        # One of the same name elsewhere, whose disk died, has no part in this one's chain.
        before = [
            point.manifest
            for point in points(self.layout, self.storage)
            if name in point.repositories and point.repositories[name].id == self.identities[name]
        ]
        return {
            "format": SEAL_FORMAT,
            "run": self.run,
            "repository": self.identities[name],
            "snapshot": snapshot.id,
            "tree": snapshot.tree,
            "manifest": digest(content),
            "previous": before[-1] if before else None,
        }

    # afterwards

    def read_back(self, manifest: bytes, stored: Mapping[str, Copy]) -> None:
        """Level 3 where it is asked for, or is cheap."""
        entries = self.chain.read()
        for name in stored:
            repository = self.repositories[name]
            try:
                if repository.settings.read_back or self._cheap(name, repository, entries):
                    self._prove(name, repository)
            except BackstayError as failed:
                self.problems.append(f"The restore point {self.run} is stored and was not read back: {failed.message}")

    def _cheap(self, name: str, repository: Repository, entries: Sequence[Entry]) -> bool:
        if repository.settings.kind != "local":
            return False
        rate = float(READ_BYTES_A_SECOND)
        for entry in entries:
            if entry.event == "read_back" and entry.data.get("repository") == name:
                measured = max(1.0, entry.data["size_bytes"] / max(0.001, entry.data["seconds"]))
                # A short one was mostly opening the repository, and says little about how fast more would be read.
                short = entry.data["seconds"] <= CHEAP_SECONDS
                rate = max(float(READ_BYTES_A_SECOND), measured) if short else measured
        return repository.size_bytes() / rate < CHEAP_SECONDS

    def _prove(self, name: str, repository: Repository) -> None:
        from ._evidence import record
        from ._evidence import tools as versions
        from ._proof import chain_of, prove

        began = time.monotonic()
        proof = prove(
            self.run,
            repository,
            3,
            layout=self.layout,
            application=self.source.application,
            sandbox=_NoSandbox(),
            public_keys=((self.layout.backup_key.with_name(f"{self.layout.backup_key.name}.pub")).read_text(),),
            chain=chain_of(self.layout, self.storage, name),
            read_back="repository",
            runner=self.source.runner,
        )
        record(
            self.layout,
            self.storage,
            proof,
            host=self.source.host,
            by="backup",
            versions=versions(self.tools()["restic"]),
            now=self.source.now,
        )
        seconds = time.monotonic() - began
        self.chain.append(
            "read_back", self.run, repository=name, size_bytes=repository.size_bytes(), seconds=round(seconds, 3)
        )
        if not proof.ok:
            self.problems.append(proof.sentence)
        self.source.say(f"{name}: read back in {seconds:.1f} s")

    def ask_buckets(self, stored: Mapping[str, Copy]) -> None:
        """Whether a bucket removes by itself what the restore points need: that is a problem of each run."""
        try:
            known = look(
                self.layout,
                self.storage,
                {name: (each.settings, each.secrets) for name, each in self.repositories.items() if name in stored},
                at=self.source.now(),
            )
        except BackstayError as failed:
            self.problems.append(
                f"The restore point {self.run} is good, and what a bucket says is lost: {failed.message}"
            )
            return
        self.problems += findings(known, self.source.policy.repositories)
        self.notes += unknown(known)

    def retain(self, stored: Mapping[str, Copy]) -> None:
        """What may go, goes: in the repositories that have the new point. Trouble with that harms no backup, and who
        reads in a repository is not waited for, since others wait for the data: the next run is soon enough."""
        for name in stored:
            try:
                repository = replace(self.repositories[name], wait_seconds=0.0)
                self.notes += retain(self.source, repository, chain=self.chain, snapshots=self.listed[name])
            except BackstayError as failed:
                told = f"The restore point {self.run} is good, and nothing expired: {failed.message}"
                busy = isinstance(failed, RepositoryError) and failed.kind == "locked"
                (self.notes if busy else self.problems).append(told)


class _NoSandbox:
    """Reading back restores nothing, so nothing is looked at inside."""

    def inside(self, scratch: Any) -> Path:
        raise BackstayError("Reading back needs no sandbox; this is a defect: report it.")

    def run(self, scratch: Any, task: Any) -> Any:
        raise BackstayError("Reading back needs no sandbox; this is a defect: report it.")

    def stop(self, name: str) -> None:
        """Nothing runs."""


def _told(failed: BaseException) -> BaseException:
    """What a disk refuses, as a sentence; anything else as it is."""
    if not isinstance(failed, OSError):
        return failed
    where = f" at {failed.filename}" if failed.filename else ""
    return BackstayError(
        f"The backup stopped{where} ({failed.strerror or failed}): free some space or see `dmesg`, then run it again; "
        "the restore points from before are as they were."
    )


# files


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _states(directory: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of each file below a directory of ours."""
    return {path: (size, os.lstat(directory / path).st_mtime_ns) for path, size in generations.files_of(directory, "")}


def _separate(path: Path) -> None:
    """Make a linked file one of our own, which the application cannot change."""
    fresh = path.with_name(f".{path.name}.own")
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as old, fresh.open("xb") as new:
        shutil.copyfileobj(old, new, 1 << 20)
        status = os.fstat(old.fileno())
    os.chown(fresh, status.st_uid, status.st_gid)
    fresh.chmod(stat.S_IMODE(status.st_mode))
    os.utime(fresh, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.rename(fresh, path)
