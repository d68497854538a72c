"""A repository of restore points: restic at a directory, over SFTP or in an S3 bucket.

What restic says is turned into sentences here, and what it does not say is looked up: before 0.19 it ends with 0 where
a source is missing, and a snapshot that cannot be read is a line on standard error. So each snapshot is listed again
and held against what was to be stored. Only what restic 0.14 knows is used.

Secrets reach restic by files in a directory of its own below /run, root-only and gone with the command, or by the
environment of that one process; never by its arguments.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets as random
import shlex
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from ._backup_settings import RepositorySettings
from ._errors import BackstayError, InputError
from ._layout import Layout
from ._run import Completed, Runner, run
from ._storage import Storage

FORMAT = 1  # of backup.json
TAG = "backstay"
ID_LETTERS = 64
REACH_SECONDS = 10.0
CACHE_BYTES = 64 << 20  # with less room on its disk the cache is left alone: on a full one restic tries for minutes
ASK_SECONDS = 120.0  # restic tries for a quarter of an hour to read one small file; nobody waits that long
WAIT_SECONDS = 600.0  # for the lock of a living process; what holds one longer is told
LOOK_SECONDS = 5.0
_NONE: tuple[str, ...] = ()

Kind = Literal[
    "unreachable",
    "wrong key",
    "refused",
    "damaged",
    "locked",
    "full",
    "no repository",
    "no snapshot",
    "incomplete",
    "failed",
]


class RepositoryError(BackstayError):
    """What is wrong with a repository; `kind` is for those who go on with the others."""

    def __init__(self, kind: Kind, message: str, *, lines: tuple[str, ...] = ()) -> None:
        super().__init__(message, lines=lines)
        self.kind: Kind = kind


@dataclass(frozen=True)
class Snapshot:
    """One snapshot. `id` and `tree` are whole (64 hex digits), `time` is UTC ISO 8601 as restic wrote it; `run` and
    `part` are from its tags. `added_bytes` is what storing it added, where that was just done."""

    id: str
    tree: str
    time: str
    tags: tuple[str, ...]
    run: str
    part: str
    added_bytes: int = 0


@dataclass(frozen=True)
class Listed:
    """A file or directory in a snapshot, by its path from / on."""

    path: str
    kind: str  # file, dir, symlink ...
    size_bytes: int
    mtime: str


@dataclass(frozen=True)
class Repository:
    """One repository of one application, as `settings` say, opened with `secrets` (never shown).

    `private` is the directory below which files with secrets appear for the time of a command, `data` the live data,
    which a local repository must not share a disk with, `seconds` the deadline of one command, `wait_seconds` how long
    one waits for others that hold the repository; `say` hears whom it waits for.
    """

    name: str
    application: str
    settings: RepositorySettings
    secrets: Mapping[str, Any] = field(repr=False)
    private: Path
    runner: Runner = run
    cache: Path | None = None
    data: Path | None = None
    seconds: float = 14400.0
    wait_seconds: float = WAIT_SECONDS
    say: Callable[[str], None] = lambda line: None
    sleep: Callable[[float], None] = time.sleep

    # what is there

    def identity(self) -> str | None:
        """The id of the repository; None where there is none.

        Raises RepositoryError: unreachable, refused, wrong key, damaged.
        """
        try:
            done = self._restic(["cat", "config", "--no-lock"], seconds=ASK_SECONDS)  # nobody ever changes it
        except RepositoryError as refused:
            if refused.kind == "no repository":
                return None
            raise
        try:
            return str(json.loads(done.stdout)["id"])
        except (ValueError, KeyError, TypeError) as broken:
            raise self._error("damaged", "its configuration cannot be read") from broken

    def initialize(self, expected: str | None = None) -> bool:
        """Make the repository where there is none; whether it was made now.

        `expected` is the id of the repository that was written to at this place before: when that is gone, nothing is
        made in its stead. Raises InputError for a place that must not hold one, RepositoryError for the rest.
        """
        self.check_place()
        found = self.identity()
        if found is not None:
            if expected not in (None, found):
                raise self._error(
                    "no repository",
                    f"it is another repository ({found[:8]}) than the one this host wrote to ({str(expected)[:8]}): "
                    "mount the right disk, or correct its location",
                )
            return False
        if expected is not None:
            raise self._error(
                "no repository",
                f"the repository {expected[:8]} that this host wrote to is gone from there, and none is made in its "
                "stead: mount its disk or correct its location, or give a new one another location",
            )
        if self._holds_something():
            raise self._error(
                "damaged",
                "there are files and no `config` of a repository, and none is made over them: bring the file back from "
                "a copy, or give an empty place",
            )
        self._restic(["init"])
        if self.identity() is None:
            raise self._error("failed", "it was made and cannot be found: look at the place")
        return True

    def check_place(self) -> None:
        """Raises InputError where a directory shares the disk with the data, which an unmounted one does as well."""
        if self.settings.kind != "local" or not self.settings.own_disk or self.data is None:
            return
        there, data = _existing(Path(self.settings.location)), _existing(self.data)
        if there.stat().st_dev == data.stat().st_dev:
            raise InputError(
                f"The repository {self.name} ({self.settings.location}) would be on the disk of the data, and would be "
                f"lost with it: mount its own disk (is it unmounted?), or set own_disk: false if that is meant."
            )

    def snapshots(self, *, damaged: Callable[[str], None] | None = None, lock: bool = True) -> tuple[Snapshot, ...]:
        """This application's snapshots, as restic lists them (by time).

        A snapshot that cannot be read raises RepositoryError (damaged), or is told to `damaged` where that is given.
        """
        tags = f"{TAG},application={self.application}"
        unlocked = () if lock else ("--no-lock",)
        done = self._restic(["snapshots", "--json", "--host", self.application, "--tag", tags, *unlocked])
        lost = [line for line in done.stderr.splitlines() if "could not load snapshot" in line]
        if lost:
            error = self._error("damaged", f"{len(lost)} of its snapshots cannot be read", lines=tuple(lost))
            if damaged is None:
                raise error
            damaged(error.message)
        return tuple(_snapshot(value) for value in self._json(done.stdout or "[]") or [])

    def listing(self, snapshot: str) -> tuple[Listed, ...]:
        """Every file and directory of a snapshot."""
        return self._listed(snapshot)[1]

    def size_bytes(self) -> int:
        """How much is stored: on the disk where it is local, else as restic's index has it."""
        if self.settings.kind == "local":
            total = 0
            for directory, _below, names in os.walk(self.settings.location):
                for name in names:
                    with contextlib.suppress(FileNotFoundError):  # a lock that went meanwhile
                        total += os.lstat(os.path.join(directory, name)).st_size
            return total
        done = self._restic(["stats", "--json", "--mode", "raw-data"])
        return int(self._json(done.stdout)["total_size"])

    # storing

    def store(
        self, directory: Path, paths: Sequence[str], tags: Sequence[str], *, parent: str | None = None
    ) -> Snapshot:
        """Store `paths` (relative to `directory`) as one snapshot, and list it again.

        It must hold each file that is there now, with its size. `parent` is the snapshot whose files need not be read
        again where time and size are the same. Raises RepositoryError (incomplete) where anything is missing.
        """
        expected = _files(directory, paths)
        summary = self._stored(directory, paths, tags, parent)
        snapshot, listing = self._listed(str(summary["snapshot_id"]))
        seen = {node.path.lstrip("/"): node.size_bytes for node in listing if node.kind == "file"}
        wrong = [path for path, size in expected.items() if seen.get(path) != size]
        if wrong:
            lines = tuple(
                f"{path}: {seen.get(path, 'no')} bytes are stored, {expected[path]} were there" for path in wrong[:20]
            )
            raise self._error(
                "incomplete",
                f"the snapshot {snapshot.id[:8]} lacks {len(wrong)} of {len(expected)} files as they were "
                f"({lines[0]}), so it does not count: run the backup again",
                lines=lines,
            )
        return replace(snapshot, added_bytes=int(summary.get("data_added_packed", summary.get("data_added", 0))))

    def store_counted(self, directory: Path, paths: Sequence[str], tags: Sequence[str]) -> str:
        """Store a few files as one snapshot, and return its id. restic's own count of files and bytes must be that of
        what is there: that saves a listing. Raises RepositoryError (incomplete) where it is not."""
        expected = _files(directory, paths)
        summary = self._stored(directory, paths, tags, None)
        told = (int(summary.get("total_files_processed", -1)), int(summary.get("total_bytes_processed", -1)))
        there = (len(expected), sum(expected.values()))
        if told != there:
            raise self._error(
                "incomplete",
                f"{told[0]} files of {told[1]} bytes are stored and {there[0]} of {there[1]} were there, so the "
                "snapshot does not count: run the backup again",
            )
        identifier = str(summary["snapshot_id"])
        return identifier if len(identifier) == ID_LETTERS else self._listed(identifier)[0].id  # older ones cut it off

    def _stored(self, directory: Path, paths: Sequence[str], tags: Sequence[str], parent: str | None) -> dict[str, Any]:
        """What restic says at the end of a backup."""
        command = ["backup", "--json", "--host", self.application, "--ignore-ctime"]
        for tag in (TAG, f"application={self.application}", *tags):
            command += ["--tag", tag]
        if parent is not None:
            command += ["--parent", parent]
        done = self._restic([*command, "--", *paths], cwd=directory)
        summary = _last_message(done.stdout, "summary")
        if not summary.get("snapshot_id"):
            raise self._error("failed", "restic ended without naming a snapshot", lines=done.last_lines())
        return summary

    # getting back

    def restore(self, snapshot: str, target: Path, include: Sequence[str] = _NONE) -> str:
        """Restore a snapshot, or the paths of it in `include` (from / on), into the directory `target`. What lies there
        under the same names becomes as it is in the snapshot.

        Only what was restored without any error returns, with how much of it was there unharmed, as restic says it
        (`19.1 MiB`; "" where it does not). Whether it equals the manifest is the caller's to ask.
        """
        command = ["restore", snapshot, "--target", str(target)]
        for path in include:
            command += ["--include", re.sub(r"([\\*?\[])", r"\\\1", path if path.startswith("/") else f"/{path}")]
        skipped = re.search(r"skipped \d+ files/dirs ([0-9.]+ [KMGT]?i?B)", self._restic(command).stdout)
        return skipped[1] if skipped else ""

    def fetches_what_differs(self) -> bool:
        """Whether restic compares what lies at a file's place with the snapshot, and fetches only the rest of it: since
        0.17. An earlier one fetches everything."""
        version = re.match(r"restic (\d+)\.(\d+)", self.runner(["restic", "version"], check=False).stdout)
        return version is not None and (int(version[1]), int(version[2])) >= (0, 17)

    def read_all(self, snapshot: str, paths: Sequence[str]) -> dict[str, bytes]:
        """The content of files of a snapshot, in one command. Raises RepositoryError where one is missing."""
        with self._private() as directory:
            target = directory / "out"
            target.mkdir(mode=0o700)
            self.restore(snapshot, target, paths)
            found = {}
            for path in paths:
                inner = target / path.lstrip("/")
                try:
                    descriptor = os.open(inner, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                except OSError as missing:
                    raise self._error(
                        "no snapshot", f"its snapshot {snapshot[:8]} has no file {path}: choose another restore point"
                    ) from missing
                with os.fdopen(descriptor, "rb") as file:
                    found[path] = file.read()
            return found

    def read(self, snapshot: str, path: str) -> bytes:
        """The content of one (small) file of a snapshot."""
        return self.read_all(snapshot, (path,))[path]

    # looking after it

    def check(self, read_data: bool = False) -> None:
        """Check the structure; with `read_data` read every byte back as well.

        A check that locks the repository for itself alone would shut out every backup and restore for its time, and
        they it. It needs no lock beside what only adds: since 0.13 it lists the snapshots before it loads the index, so
        it asks for nothing that is stored later. Who removes meanwhile may look to it like damage: therefore what it
        finds counts when it is found with the lock as well.

        Raises RepositoryError (damaged), whose lines are what restic found.
        """
        command = ["check", *(["--read-data"] if read_data else [])]
        try:
            self._restic([*command, "--no-lock"])
        except RepositoryError as found:
            if found.kind != "damaged":
                raise
            self._restic(command)

    def forget(self, ids: Sequence[str]) -> None:
        """Forget snapshots; their data stay until `prune`. Raises RepositoryError (refused) where the store says that
        it keeps them; what it does not say, `left_of` tells.

        Ids that are not there (any more) are fine.
        """
        kept = 0
        for start in range(0, len(ids), 100):
            done = self._restic(["forget", *ids[start : start + 100]])
            kept += sum("unable to remove" in line for line in (done.stderr + done.stdout).splitlines())
        if kept:
            raise self._keeps(kept, len(ids))

    def left_of(self, ids: Sequence[str]) -> None:
        """Raises RepositoryError (refused) where one of these snapshots is still there after it was forgotten. It asks
        for no lock: whoever prunes meanwhile touches no snapshot."""
        left = {snapshot.id for snapshot in self.snapshots(damaged=lambda sentence: None, lock=False)} & set(ids)
        if left:
            raise self._keeps(len(left), len(ids))

    def _keeps(self, kept: int, of: int) -> RepositoryError:
        return self._error("refused", f"the store refuses to remove {kept} of {of} snapshots")

    def prune(self) -> None:
        """Remove the data that no snapshot needs. Raises RepositoryError (refused) where the store keeps them."""
        done = self._restic(["prune"])
        if "unable to remove" in done.stderr or "unable to remove" in done.stdout:
            raise self._error("refused", "the store refuses to remove data", lines=done.last_lines())

    def unlock(self) -> None:
        """Remove the locks of processes that are gone. Those of living ones stay."""
        self._once(["unlock"])

    def for_pruning(self) -> Repository | None:
        """The repository with the credentials that may delete; None where it is append-only for this host."""
        prune = self.secrets.get("prune")
        if isinstance(prune, Mapping) and prune:
            return replace(self, secrets={**self.secrets, **prune})
        return None if self.settings.append_only else self

    # keys

    def listed_keys(self) -> tuple[tuple[str, bool], ...]:
        """(id, whether it is the one in use) of each key."""
        done = self._restic(["key", "list", "--json"])
        return tuple((str(key["id"]), bool(key["current"])) for key in self._json(done.stdout))

    def add_key(self, new_password: str) -> None:
        """Let a second password open the repository."""
        with self._private() as directory:
            path = _secret(directory, "new-password", new_password)
            self._restic(["key", "add", "--new-password-file", str(path)])

    def remove_key(self, identifier: str) -> None:
        """Remove a key; restic refuses to remove the one in use."""
        self._restic(["key", "remove", identifier])

    def with_password(self, password: str) -> Repository:
        """The same repository, opened with another password."""
        return replace(self, secrets={**self.secrets, "password": password})

    # restic

    def _restic(self, arguments: Sequence[str], *, cwd: Path | None = None, seconds: float | None = None) -> Completed:
        """Run restic. Where a lock stands in the way, those of dead processes are removed, and it is tried again till
        those of living ones are gone, or `wait_seconds` are over."""
        look = 0
        while True:
            try:
                return self._once(arguments, cwd=cwd, seconds=seconds)
            except RepositoryError as refused:
                if refused.kind != "locked" or (look - 1) * LOOK_SECONDS >= self.wait_seconds:
                    raise
                if look == 1:
                    self.say(f"{refused.message.rpartition(': ')[0]}: waiting up to {self.wait_seconds / 60:.0f} min")
            if look > 0:
                self.sleep(LOOK_SECONDS)
            self.unlock()
            look += 1

    def _once(self, arguments: Sequence[str], *, cwd: Path | None = None, seconds: float | None = None) -> Completed:
        self._reach()
        try:
            with self._private() as directory:
                command, environment = self._command(directory)
                try:
                    done = self.runner(
                        [*command, *arguments],
                        cwd=cwd,
                        environment=environment,
                        timeout_seconds=min(seconds or self.seconds, self.seconds),
                        check=False,
                    )
                except BackstayError:
                    self._reach()  # it had no end in time because the store is gone: that is what to say
                    raise
        except OSError as refused:
            raise self._error(
                "failed",
                f"restic could not be called with its secrets in {self.private} ({refused.strerror or refused}): make "
                "room there or see `dmesg`, then run it again",
            ) from refused
        if not done.ok:
            raise self._refusal(done)
        return done

    def _command(self, directory: Path) -> tuple[list[str], dict[str, str]]:
        """restic and its options, and its environment; files with secrets are put into `directory`.

        It gives way to the application (nice, idle disk time), takes what that leaves, and ends when we do.
        """
        command = ["setpriv", "--pdeathsig", "TERM", "nice", "-n", "10", "ionice", "-c", "3", "-t", "restic"]
        environment = {
            "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            "HOME": str(directory),
            "LC_ALL": "C.UTF-8",
            "TMPDIR": "/var/tmp",  # noqa: S108 - packs in the making: /tmp may be in memory
            "RESTIC_PROGRESS_FPS": "0.05",
            "RESTIC_PASSWORD_FILE": str(_secret(directory, "password", self._secret("password"))),
        }
        for name in ("http_proxy", "https_proxy", "no_proxy"):
            environment |= {key: os.environ[key] for key in (name, name.upper()) if key in os.environ}
        if self.cache is None or not _has_room(self.cache):
            command.append("--no-cache")
        else:
            command += ["--cache-dir", str(self.cache)]
        if self.settings.kind == "sftp":
            command += ["-o", f"sftp.command={shlex.join([*self._ssh(directory), '-s', 'sftp'])}"]
        elif self.settings.kind == "s3":
            environment["AWS_ACCESS_KEY_ID"] = self._secret("access_key_id")
            environment["AWS_SECRET_ACCESS_KEY"] = self._secret("secret_access_key")
            if self.secrets.get("region"):
                environment["AWS_DEFAULT_REGION"] = str(self.secrets["region"])
        if self.secrets.get("ca"):
            command += ["--cacert", str(_secret(directory, "ca.pem", str(self.secrets["ca"])))]
        command += ["-r", self.settings.location]
        return command, environment

    def _ssh(self, directory: Path) -> list[str]:
        """ssh to the host of an SFTP repository: only the key and the host keys that are declared count."""
        place = _sftp(self.settings.location)
        options = {
            "IdentityFile": str(_secret(directory, "key", self._secret("private_key").rstrip("\n") + "\n")),
            "UserKnownHostsFile": str(
                _secret(directory, "known_hosts", self._secret("known_hosts").rstrip("\n") + "\n")
            ),
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "BatchMode": "yes",
            "ConnectTimeout": f"{REACH_SECONDS:.0f}",
            "ServerAliveInterval": "15",
            "ServerAliveCountMax": "4",
        }
        flat = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
        port = ["-o", f"Port={place.port}"] if place.port else []
        return ["ssh", "-F", "none", *flat, *port, place.host if place.user is None else f"{place.user}@{place.host}"]

    def _secret(self, name: str) -> str:
        value = self.secrets.get(name)
        if not isinstance(value, str) or not value:
            raise InputError(
                f"The repository {self.name} of {self.application} has no `{name}` in "
                f"backstay_backup_secrets['{self.application}']['{self.name}']: put it into Vault and run "
                "playbooks/site.yml."
            )
        return value

    @contextlib.contextmanager
    def _private(self) -> Iterator[Path]:
        """A root-only directory for the time of one command. What killed processes left goes first."""
        self.private.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in self.private.glob("restic-*"):
            with contextlib.suppress(ValueError, IndexError):
                if not Path("/proc", str(int(left.name.split("-")[1]))).exists():
                    shutil.rmtree(left, ignore_errors=True)
        directory = self.private / f"restic-{os.getpid()}-{random.token_hex(6)}"
        directory.mkdir(mode=0o700)
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _reach(self) -> None:
        """restic tries for a quarter of an hour to reach a store that does not answer; whoever waits learns it now."""
        if self.settings.kind == "local":
            place = Path(self.settings.location)
            if place.exists() and not (place.is_dir() and os.access(place, os.R_OK | os.X_OK)):
                raise self._unreachable("it is no directory that can be read")
            return
        if self.settings.kind != "s3" or any(os.environ.get(name) for name in ("https_proxy", "HTTPS_PROXY")):
            return
        parts = urlsplit(self.settings.location.removeprefix("s3:"))
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((str(parts.hostname), port), timeout=REACH_SECONDS).close()
        except OSError as refused:
            raise self._unreachable(str(refused)) from refused

    def _holds_something(self) -> bool:
        """Whether anything of a repository lies at a place that has no configuration of one."""
        place = self.settings.location
        if self.settings.kind == "local":
            try:
                return any(Path(place).iterdir())
            except FileNotFoundError:
                return False
        if self.settings.kind == "s3":
            from ._s3 import holds_something

            return holds_something(place, self.secrets)
        return self._sftp_holds_something()

    def _sftp_holds_something(self) -> bool:
        done = self._sftp_batch(f"ls -1 {shlex.quote(_sftp(self.settings.location).path)}\n")
        if done.ok:
            return any(not line.startswith("sftp>") for line in done.stdout.splitlines() if line.strip())
        if re.search(r"not found|no such file", done.stdout + done.stderr, re.IGNORECASE):
            return False
        raise self._refusal(done)

    def _sftp_batch(self, lines: str) -> Completed:
        """The answer of the repository's SFTP server to some lines."""
        with self._private() as directory:
            command = ["sftp", "-q", "-b", "-", *self._ssh(directory)[1:]]
            return self.runner(command, stdin=lines, timeout_seconds=60, check=False)

    def _listed(self, snapshot: str) -> tuple[Snapshot, tuple[Listed, ...]]:
        done = self._restic(["ls", "--json", snapshot])
        found: Snapshot | None = None
        nodes = []
        for line in done.stdout.splitlines():
            value = self._json(line)
            if value.get("struct_type") == "snapshot":
                found = _snapshot(value)
            elif value.get("struct_type") == "node":
                nodes.append(
                    Listed(value["path"], str(value["type"]), int(value.get("size", 0)), str(value.get("mtime", "")))
                )
        if found is None:
            raise self._no_snapshot(snapshot)
        return found, tuple(nodes)

    def _json(self, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError as broken:
            raise self._error("failed", f"restic answered what is no JSON ({text[:60]!r})") from broken

    def _why_unreachable(self, reason: str) -> str:
        """restic ends before ssh has said all, so a session that did not start is asked for its reason once more."""
        silent = re.search("unable to start the sftp session|Connection closed", reason)
        if self.settings.kind != "sftp" or silent is None:
            return reason
        # ssh alone: sftp ends it as soon as nothing answers, often before it has said why.
        with self._private() as directory:
            done = self.runner([*self._ssh(directory), "-s", "sftp"], stdin="", timeout_seconds=60, check=False)
        return reason if done.ok else reason_of(done.returncode, done.stderr)[1]

    # sentences

    def _error(self, kind: Kind, what: str, *, lines: tuple[str, ...] = ()) -> RepositoryError:
        return RepositoryError(kind, f"The repository {self.name} ({self.settings.location}): {what}.", lines=lines)

    def _unreachable(self, reason: str) -> RepositoryError:
        remedy = "check the network, the disk's mount and the location"
        if re.search("host key|IDENTIFICATION", reason, re.IGNORECASE):
            remedy = "if its server was made anew, put the new key into `known_hosts`; else find out who answers there"
        elif "certificate" in reason:
            remedy = "put the authority that signed its certificate into `ca`, or correct the location"
        return self._error("unreachable", f"the store cannot be reached ({reason.strip().rstrip('.')}): {remedy}")

    def _no_snapshot(self, identifier: str) -> RepositoryError:
        return self._error(
            "no snapshot", f"it has no snapshot {identifier[:12]}: see `backstay backups` for those it has"
        )

    def _refusal(self, done: Completed) -> RepositoryError:
        """What restic said, as a sentence."""
        said = f"{done.stderr}\n{done.stdout}" if len(done.stdout) < 100_000 else done.stderr
        kind, reason = reason_of(done.returncode, said)
        lines = tuple(line for line in done.last_lines(60) if not _TRACE.match(line))[-20:]
        if kind == "unreachable":
            if self.settings.kind == "local" and not Path(self.settings.location).exists():
                kind = "no repository"
            else:
                return self._unreachable(self._why_unreachable(reason))
        if kind == "no snapshot":
            return self._no_snapshot(reason)
        here = _ON_THIS_HOST.search(said)  # not in the reason: that is cut where the path is long
        if kind == "full" and here is not None and self.settings.location not in here[0]:
            return self._error("failed", f"a disk of this host is full ({reason}): make room there, then run it again")
        sentences: dict[Kind, str] = {
            "wrong key": "its password does not open it, and nothing was changed: put the right one into "
            f"backstay_backup_secrets['{self.application}']['{self.name}'] (the offline key has it) and run "
            "playbooks/site.yml",
            "refused": f"the store refuses the credentials or the operation ({reason}): correct the credentials, or "
            "the rights that they have",
            "damaged": f"it is damaged ({reason}): keep it as it is, make a backup to another repository, and see "
            "`restic check` and docs/troubleshooting.md",
            "locked": f"it is locked {reason}: wait until that has ended, then run it again",
            "full": f"the store is full ({reason}): make room there, or keep fewer restore points, then run it again",
            "no repository": "there is no repository: run playbooks/site.yml, which makes it, or correct its location",
            "incomplete": f"not everything could be read ({reason}), so the snapshot does not count: run it again",
        }
        return self._error(kind, sentences.get(kind, f"restic failed ({reason}): see its lines"), lines=lines)


# what restic says


_ON_THIS_HOST = re.compile(r"\b(write|open|mkdir|create|truncate|fallocate) /\S+: no space left", re.IGNORECASE)
_TRACE = re.compile(r"\s|github\.com/|main\.|runtime\.|goroutine ")
_LOCKED = re.compile(
    r"already locked (?P<how>exclusively )?by PID (?P<pid>\d+) on (?P<host>\S+) by (?P<user>\S+)"
    r".*?lock was created at (?P<since>[0-9-]+ [0-9:]+)",
    re.DOTALL,
)
_STRONG = (
    "ciphertext verification failed",
    "invalid data returned",
    "config .*is damaged",
    "unexpected file size",
    "panic: runtime error",
    "hash mismatch",
    "wrong hash",
    "not found in (any )?index",
    "unable to load index",
    "invalid character",
    "Unmarshal",  # a key file or another one in JSON that is none any more
    "supported KDF is",
    r"crypto\.KDF",
    "zero-byte",
    "repository is damaged",
    "tree .* not found",
)
_KINDS: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    ("wrong key", ("wrong password or no key found",)),
    (
        "full",
        (
            "no space left on device",
            "disk quota exceeded",
            "XMinioStorageFull",
            "InsufficientStorage",
            "QuotaExceeded",
            "No writable volumes",
        ),
    ),
    ("no snapshot", ("no matching ID found", "no snapshot found")),
    (
        "refused",
        (
            r"Permission denied",
            "Access ?Denied",
            "access key Id you provided",
            "signature we calculated does not match",
            "SignatureDoesNotMatch",
            "InvalidAccessKeyId",
            "Forbidden",
            "ObjectLocked",
            "WORM protected",
        ),
    ),
    (
        "no repository",
        (
            "repository does not exist",
            "unable to open config file: (Stat: )?stat .*no such file",
            "unable to open config file: .*(file does not exist|key does not exist|bucket does not exist)",
        ),
    ),
    ("damaged", _STRONG),
    (
        "unreachable",
        (  # the sooner named the more it tells: ssh, and who called it, write their lines in any order
            "Host key verification failed",
            "REMOTE HOST IDENTIFICATION",
            "certificate",
            "connection refused",
            "no such host",
            "no route to host",
            "network is unreachable",
            "i/o timeout",
            "timed out",
            "connection reset",
            "Could not resolve hostname",
            "stale (NFS )?file handle",
            "transport endpoint",
            "unable to start the sftp session",
            "broken pipe",
            "Connection closed",
            "connection lost",  # an SFTP server's, in the middle
        ),
    ),
    # A check ends so too when its store was lost in the middle, and that is no damage. A disk that cannot be read is.
    ("damaged", ("repository contains errors",)),
    ("unreachable", ("input/output error",)),
    ("damaged", (r"There were \d+ errors", "could not load", "StreamPack", "unable to open config", "unexpected EOF")),
)
_CODES: dict[int, Kind] = {3: "incomplete", 10: "no repository", 11: "locked", 12: "wrong key"}  # 10 on: since 0.17


def reason_of(returncode: int, said: str) -> tuple[Kind, str]:
    """What kind of failure restic's words mean, and the words that tell it: the holder of the lock, the missing id."""
    locked = _LOCKED.search(said)
    if locked is not None:
        how = "for itself alone " if locked["how"] else ""
        who = f"by process {locked['pid']} of {locked['user']} on {locked['host']}"
        return "locked", f"{how}{who} since {locked['since']}"
    missing = re.search(r'no matching ID found for prefix "([0-9a-f]+)"', said)
    if missing is not None:
        return "no snapshot", missing[1]
    coded = _CODES.get(returncode)
    if coded is not None:
        return coded, _telling(said, r"(error|Fatal).*")
    for kind, patterns in _KINDS:
        if re.search("|".join(patterns), said, re.IGNORECASE):
            return kind, _telling(said, *patterns)
    return "failed", _telling(said, r"Fatal.*")


def _telling(said: str, *patterns: str) -> str:
    """The line that holds the first of what was looked for, short enough for a sentence."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    for pattern in patterns:
        for line in lines:
            if re.search(pattern, line, re.IGNORECASE):
                plain = re.sub(r"^(Fatal|error): ", "", line)
                return plain if len(plain) <= 200 else f"{plain[:197]}..."
    return lines[-1][:200] if lines else "it said nothing"


def _last_message(output: str, kind: str) -> dict[str, Any]:
    for line in reversed(output.splitlines()):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and value.get("message_type") == kind:
            return value
    return {}


def _snapshot(value: Mapping[str, Any]) -> Snapshot:
    tags = tuple(str(tag) for tag in value.get("tags") or ())
    said = dict(tag.split("=", 1) for tag in tags if "=" in tag)
    return Snapshot(
        str(value["id"]), str(value["tree"]), str(value["time"]), tags, said.get("run", ""), said.get("part", "")
    )


# places


def _has_room(cache: Path) -> bool:
    try:
        disk = os.statvfs(_existing(cache))
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize >= CACHE_BYTES


@dataclass(frozen=True)
class _Sftp:
    user: str | None
    host: str
    port: int | None
    path: str


def _sftp(location: str) -> _Sftp:
    """`sftp:user@host:/path` and `sftp://user@host:port//path`, as restic reads them."""
    if location.startswith("sftp://"):
        parts = urlsplit(location)
        return _Sftp(parts.username, str(parts.hostname), parts.port, parts.path.removeprefix("/"))
    host, _colon, path = location.removeprefix("sftp:").partition(":")
    user, at, name = host.rpartition("@")
    return _Sftp(user if at else None, name, None, path)


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _secret(directory: Path, name: str, value: str) -> Path:
    """A file that only root reads; the directory was made for one command."""
    path = directory / name
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(value)
    return path


def _files(directory: Path, paths: Sequence[str]) -> dict[str, int]:
    """Relative path and size of every regular file below `paths`; no link is followed. Raises BackstayError where one
    of the paths is missing: restic would leave it out and end well."""
    found: dict[str, int] = {}
    for path in paths:
        top = directory / path
        try:
            status = top.lstat()
        except FileNotFoundError as missing:
            raise BackstayError(
                f"{top} is to be stored and does not exist: nothing was stored; look at what should have made it."
            ) from missing
        if stat.S_ISREG(status.st_mode):
            found[path] = status.st_size
        waiting = [path] if stat.S_ISDIR(status.st_mode) else []
        while waiting:
            here = waiting.pop()
            with os.scandir(directory / here) as entries:
                for entry in entries:
                    inner = f"{here}/{entry.name}"
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(inner)
                    elif entry.is_file(follow_symlinks=False):
                        found[inner] = entry.stat(follow_symlinks=False).st_size
    return found


class _Opened(Protocol):
    """What can be asked who it is and what it holds."""

    def identity(self) -> str | None: ...
    def snapshots(self, *, damaged: Callable[[str], None] | None = None) -> tuple[Snapshot, ...]: ...


def look_into(store: _Opened, damaged: Callable[[str], None] | None) -> tuple[str, tuple[Snapshot, ...]]:
    """The id of a repository that must be there, and its snapshots, asked for at once: each command tries the password
    for half a second, on purpose. Raises RepositoryError as both do."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="identity") as pool:
        asked = pool.submit(store.identity)
        found = store.snapshots(damaged=damaged)
        return asked.result() or "", found


# the repositories of an application


def read_secrets(layout: Layout, storage: Storage) -> dict[str, dict[str, Any]]:
    """What the repositories are opened with, by name. Raises BackstayError where it cannot be read."""
    content = storage.read(layout.backup_secrets)
    if content is None:
        raise InputError(
            f"{layout.backup_secrets} is missing, so no repository can be opened: put backstay_backup_secrets into "
            "Vault and run playbooks/site.yml."
        )
    try:
        value = json.loads(content)
        number = int(value["format"])
        found = {str(name): dict(each) for name, each in value["repositories"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as broken:
        raise BackstayError(
            f"{layout.backup_secrets} cannot be read ({type(broken).__name__}): run playbooks/site.yml, which writes "
            "it."
        ) from broken
    if number > FORMAT:
        raise BackstayError(
            f"{layout.backup_secrets} has format {number} and this backstay knows {FORMAT}: update the host's command "
            "with playbooks/site.yml."
        )
    return found


def repositories_of(
    layout: Layout,
    repositories: Mapping[str, RepositorySettings],
    storage: Storage,
    *,
    runner: Runner = run,
    cached: bool = True,
    seconds: float = 14400.0,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Repository]:
    """The repositories of an application on this host, ready to be used. With `cached` false each command asks the
    store itself: what a proof must do."""
    known = read_secrets(layout, storage)
    return {
        name: Repository(
            name=name,
            application=layout.name,
            settings=settings,
            secrets=known.get(name, {}),
            private=layout.root / "run" / "backstay",
            runner=runner,
            cache=layout.repository_cache if cached else None,
            data=layout.generations,
            seconds=seconds,
            say=say,
        )
        for name, settings in repositories.items()
    }
