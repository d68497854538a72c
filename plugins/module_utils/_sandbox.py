"""Where a restored copy is looked at: a room of its own, and a command in it that sees and reaches nothing else.

    <base>/<id>.lock     held (flock) by whoever uses the scratch; one that nobody holds was left by a killed process
    <base>/<id>/         root 0700, so that nobody outside gets in, whatever the modes inside
    <base>/<id>/open/    what the sandbox sees, at the same place or at `SystemdSandbox.INSIDE`

What a backup holds is not trusted: a database file can be made to attack whoever opens it, and the application's own
code would happily send the mails of the day again. So it is fetched outside, as root and with the network, and looked
at inside, as a user who is nobody else, without network, live data, sockets of servers, mail or secrets of ours.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pwd
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from . import _run
from ._environment import environment_file
from ._errors import BackstayError
from ._run import Completed, Runner
from ._storage import Storage

if TYPE_CHECKING:
    from ._application import Application

# What is left free on the file system beside a scratch, so that a proof never fills the disk of the live application.
SPARE_BYTES = 64 << 20
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z.-]{0,100}")
_KEPT_IN_RUN = frozenset({"systemd", "lock", "shm", "mount", "credentials", "utmp", "backstay-proof", "user"})
_STOP_SECONDS = 30.0
OUTSIDE = "/usr/bin/nsenter --target=1 --mount"
# What is /etc/passwd inside: a user of DynamicUser is in no file of the host, and PostgreSQL wants to know who it is.
USERS = "passwd"
_USERS = "root:x:0:0:root:/root:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"


@dataclass(frozen=True)
class Limits:
    """What the command inside may use; `seconds` end it."""

    memory_max_bytes: int = 1 << 30
    seconds: float = 7200.0
    file_max_bytes: int = 1 << 40
    tasks_max: int = 256


@dataclass(frozen=True)
class Task:
    """One command to run inside. `readable` are directories below /opt that it needs (a release, its environment);
    `environment` are its variables, secrets among them; `group` is one that may read a release and nothing else."""

    arguments: tuple[str, ...]
    limits: Limits = field(default_factory=Limits)
    readable: tuple[Path, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    group: str | None = None


class Sandbox(Protocol):
    """Runs a command in isolation."""

    def inside(self, scratch: Scratch) -> Path:
        """Where the open part of a scratch lies for the command."""

    def run(self, scratch: Scratch, task: Task) -> Completed:
        """Run it and wait; the exit code is the caller's affair. Raises BackstayError when it did not end by itself."""

    def stop(self, name: str) -> None:
        """End what still runs in the scratch of this name, whose caller was killed."""


class Scratch:
    """A room for one restored copy, gone afterwards; use it with `with`.

    Raises BackstayError where the file system has not `needed_bytes` free (and something beside).
    """

    def __init__(
        self,
        base: Path,
        name: str,
        *,
        needed_bytes: int = 0,
        storage: Storage | None = None,
        stop: Callable[[str], None] = lambda name: None,
    ) -> None:
        if not _NAME.fullmatch(name):
            raise BackstayError(f"{name!r} cannot name a scratch directory: use letters, digits, dots and hyphens.")
        self.base = base
        self.name = name
        self.needed_bytes = needed_bytes
        self._storage = storage or Storage()
        self._stop = stop
        self._lock: int | None = None

    @property
    def path(self) -> Path:
        return self.base / self.name

    @property
    def open(self) -> Path:
        """The only part that the sandbox sees."""
        return self.path / "open"

    @property
    def lock(self) -> Path:
        return self.base / f"{self.name}.lock"

    def __enter__(self) -> Self:
        self._storage.make_directory(self.base, mode=0o700)
        with _guard(self.base):
            _sweep(self.base, self._storage, self._stop)
            self._check_room()
            descriptor = _locked(self.lock)
            if descriptor is None:
                raise BackstayError(f"The scratch {self.path} is in use by another proof: wait for it, then try again.")
            self._lock = descriptor
            self._storage.remove_tree(self.path)
            self.path.mkdir(mode=0o700)
            self.open.mkdir(mode=0o755)
            self.open.chmod(0o755)
        return self

    def __exit__(self, *_ignored: object) -> None:
        try:
            self._storage.remove_tree(self.path)
            self._storage.remove(self.lock)
        finally:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def _check_room(self) -> None:
        seen = os.statvfs(self.base)
        free = seen.f_bavail * seen.f_frsize
        if free < self.needed_bytes + SPARE_BYTES:
            raise BackstayError(
                f"There is no room to restore into {self.base}: {free} bytes are free and "
                f"{self.needed_bytes + SPARE_BYTES} are needed; free some space, then try again."
            )

    def open_up(self, top: Path | None = None) -> None:
        """Let whoever is in the sandbox read and write what lies in the open part (or below `top`); no link is
        followed. The directory around it keeps everybody else out."""
        descriptor = os.open(top or self.open, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for _unused, folders, files, at in os.fwalk(".", dir_fd=descriptor, follow_symlinks=False):
                os.fchmod(at, 0o777)
                for name in (*folders, *files):
                    info = os.stat(name, dir_fd=at, follow_symlinks=False)
                    if info.st_mode & 0o170000 == 0o100000:
                        _open_file(name, at)
        finally:
            os.close(descriptor)


def open_for_reading(top: Path) -> None:
    """Let everybody read a tree that lies in a closed directory, and nobody but its owner write it."""
    for folder, _unused, files, at in os.fwalk(top, follow_symlinks=False):
        os.chmod(folder, 0o755)  # noqa: S103 - the directory above keeps everybody else out
        for name in files:
            mode = os.stat(name, dir_fd=at, follow_symlinks=False).st_mode
            if mode & 0o170000 == 0o100000:
                os.chmod(name, 0o755 if mode & 0o100 else 0o644, dir_fd=at)


def _open_file(name: str, at: int) -> None:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    try:
        os.fchmod(descriptor, 0o666)
    finally:
        os.close(descriptor)


def sweep(base: Path, *, storage: Storage | None = None, stop: Callable[[str], None] = lambda name: None) -> list[str]:
    """Remove the scratches of processes that were killed; returns their names. Those in use stay."""
    if not base.is_dir():
        return []
    with _guard(base):
        return _sweep(base, storage or Storage(), stop)


def _sweep(base: Path, storage: Storage, stop: Callable[[str], None]) -> list[str]:
    found = {path.stem for path in base.glob("*.lock") if not path.name.startswith(".")}
    found |= {path.name for path in base.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)}
    gone = []
    for name in sorted(found):
        lock = base / f"{name}.lock"
        descriptor = _locked(lock)
        if descriptor is None:
            continue
        try:
            stop(name)
            storage.remove_tree(base / name)
            storage.remove(lock)
        finally:
            os.close(descriptor)
        gone.append(name)
    storage.tidy(base)
    return gone


@contextlib.contextmanager
def _guard(base: Path) -> Iterator[None]:
    """One at a time makes and sweeps scratches, so that no lock is removed between its creation and its use."""
    descriptor = os.open(base / ".guard", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _locked(path: Path) -> int | None:
    """A descriptor that holds the lock; None where another process does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as held:
        os.close(descriptor)
        if held.errno in (errno.EAGAIN, errno.EACCES):
            return None
        raise
    return descriptor


def library_command(function: str) -> tuple[str, ...]:
    """How to run a `main(argv) -> int` of this very library in a process of its own: `_proof.inner_main`."""
    package = __package__ or ""
    root = Path(__file__).absolute().parents[len(package.split("."))]
    module, _unused, name = function.rpartition(".")
    text = (
        f"import sys; sys.path.insert(0, {json.dumps(str(root))}); "
        f"from {package}.{module} import {name}; sys.exit({name}(sys.argv[1:]))"
    )
    return (sys.executable, "-I", "-S", "-B", "-c", text)


def introduce(directory: Path) -> None:
    """Write down inside, in the list of users that SystemdSandbox has laid there, who this process runs as."""
    users = directory / USERS
    with contextlib.suppress(KeyError):
        pwd.getpwuid(os.geteuid())
        return
    if users.is_file():
        with users.open("a", encoding="utf-8") as file:
            file.write(f"backstay-proof:x:{os.geteuid()}:{os.getegid()}::{directory}:/usr/sbin/nologin\n")


@dataclass(frozen=True)
class DirectSandbox:
    """No isolation at all: the command as a plain child process. For tests, and for who has no systemd and says so."""

    runner: Runner = _run.run

    def inside(self, scratch: Scratch) -> Path:
        return scratch.open

    def run(self, scratch: Scratch, task: Task) -> Completed:
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": str(scratch.open)}
        return self.runner(
            task.arguments,
            cwd=scratch.open,
            environment={**environment, **task.environment},
            timeout_seconds=task.limits.seconds,
            check=False,
        )

    def stop(self, name: str) -> None:
        """Nothing outlives its caller by more than one look: the children notice the closed pipe."""


@dataclass(frozen=True)
class SystemdSandbox:
    """A transient unit of systemd as a user that exists only as long (DynamicUser).

    `hidden` are further paths that it must not see, such as the directory of a local repository. Raises BackstayError
    with systemd's reason (out of memory, out of time) when the command did not end by itself.
    """

    INSIDE = Path("/run/backstay-proof")

    application: Application
    hidden: tuple[Path, ...] = ()
    root: Path = Path("/")
    runner: Runner = _run.run

    def unit(self, name: str) -> str:
        return f"backstay-proof-{self.application.name}-{name}.service"

    def inside(self, scratch: Scratch) -> Path:
        return self.INSIDE

    def stop(self, name: str) -> None:
        """A unit that is not there is fine."""
        self.runner(["systemctl", "stop", self.unit(name)], timeout_seconds=_STOP_SECONDS * 2, check=False)

    def run(self, scratch: Scratch, task: Task) -> Completed:
        users = scratch.open / USERS
        users.write_text(_USERS, encoding="utf-8")
        users.chmod(0o666)  # whoever is inside is known only when it runs; nobody else gets there
        properties = list(self.properties(scratch, task))
        if task.environment:
            # systemd reads it as root; it lies beside the open part, and goes with the scratch.
            secret = scratch.path / "environment"
            Storage().write(secret, environment_file(task.environment).encode(), mode=0o600)
            properties.append(f"EnvironmentFile={secret}")
        done = self.runner(
            [
                "systemd-run",
                "--wait",
                "--pipe",
                "--collect",
                "--service-type=exec",
                f"--unit={self.unit(scratch.name)}",
                *(f"--property={line}" for line in properties),
                "--",
                *task.arguments,
            ],
            timeout_seconds=task.limits.seconds + _STOP_SECONDS * 2,
            check=False,
        )
        why = _ended(done.stderr)
        if why is not None:
            raise BackstayError(
                f"The check in the sandbox was ended before it was done ({why}): give `backup.proof` more of it "
                "(memory_max_bytes, seconds), or see `journalctl -u " + self.unit(scratch.name) + "`.",
                lines=done.last_lines(),
            )
        return done

    def properties(self, scratch: Scratch, task: Task) -> Iterator[str]:
        """What confines the command, as systemd.exec(5) calls it."""
        from ._units import sandbox

        limits = task.limits
        # The release's own confinement, without what names live data or opens the network.
        for line in sandbox(self.application).splitlines():
            if not line.startswith(
                ("ReadWritePaths=", "InaccessiblePaths=", "PrivateNetwork=", "RestrictAddressFamilies=")
            ) and not (line.startswith("MemoryDenyWriteExecute=") and self._has_server()):
                yield line
        yield from (
            "DynamicUser=yes",
            "PrivateNetwork=yes",
            # A private network has no way out, so an application that looks for one merely fails to connect.
            "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
            "UMask=0022",
            f"WorkingDirectory={self.INSIDE}",
            f"BindPaths={scratch.open}:{self.INSIDE}",
            f"BindReadOnlyPaths={scratch.open / USERS}:/etc/passwd",
            # Only what is named is there: no live data, no other application, no queue of mails, no server's socket.
            "TemporaryFileSystem=/opt:ro /var:ro",
            *(f"BindReadOnlyPaths={path}" for path in task.readable),
            f"InaccessiblePaths={' '.join(f'-{path}' for path in self._hidden())}",
            f"MemoryMax={limits.memory_max_bytes}",
            "MemorySwapMax=0",
            f"TasksMax={limits.tasks_max}",
            f"RuntimeMaxSec={limits.seconds:g}",
            f"LimitFSIZE={limits.file_max_bytes}",
            "LimitCORE=0",
            "OOMPolicy=kill",
            "KillMode=control-group",
            f"TimeoutStopSec={_STOP_SECONDS:g}",
            # A drill at night must not slow the visitors down: it has what they leave.
            "CPUWeight=20",
            "IOWeight=20",
            # As long as the caller lives it holds the lock and removes the scratch itself. Was it killed, this does,
            # and from outside: a command with full privileges still sees what the unit sees, where /var is empty.
            f"ExecStopPost=-+{OUTSIDE} /usr/bin/flock --nonblock {scratch.lock} /usr/bin/rm -rf {scratch.path}",
            f"SyslogIdentifier=backstay-proof-{self.application.name}",
        )
        if task.group is not None:
            yield f"SupplementaryGroups={task.group}"

    def _has_server(self) -> bool:
        """PostgreSQL may compile its queries, which needs memory that is both written and executed."""
        return any(database.engine == "postgresql" for database in self.application.databases)

    def _hidden(self) -> Iterable[Path]:
        names: tuple[str, ...] = (
            "etc/backstay",
            "etc/backstay-tls",
            "etc/ssl/private",
            "etc/ssh",
            "etc/postgresql",
            "etc/redis",
        )
        names += ("usr/sbin/sendmail", "usr/lib/sendmail", "usr/bin/mail", "usr/bin/mailx", "srv", "mnt", "media")
        yield from (self.root / name for name in names)
        runtime = self.root / "run"
        if runtime.is_dir():
            yield from (path for path in sorted(runtime.iterdir()) if path.name not in _KEPT_IN_RUN)
        covered = tuple(self.root / name for name in ("opt", "var", "srv", "mnt", "media", "run", "home", "root"))
        yield from (path for path in self.hidden if not any(path.is_relative_to(top) for top in covered))


def _ended(said: str) -> str | None:
    """systemd's word for how a command ended that did not exit by itself; None for one that did."""
    found = re.search(r"Finished with result: (\S+)", said)
    if found is None or found[1] in ("success", "exit-code"):
        return None
    words = {"oom-kill": "it needed more memory than it may have", "timeout": "it took longer than it may"}
    return words.get(found[1], found[1])
