"""Installs the library as the host's command: the very files that this collection is made of.

    /usr/lib/backstay/<version>+<digest>/backstay/*.py    immutable; the digest is of the files
    /usr/lib/backstay/current                             -> <version>+<digest>
    /usr/bin/backstay                                     the launcher, which knows only `current`
    /etc/systemd/system/backstay-*@.*                     the units of every application, as templates

A new version lies complete beside the old one before the link moves, so the command works at every moment. It never
moves while a transaction is open: its steps must be undone by the code that did them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ._errors import BackstayError
from ._own_units import UNIT_TEXTS
from ._run import Runner, run
from ._storage import Storage
from ._version import ROOM, VERSION

LAUNCHER = Path("usr/bin/backstay")
UNITS = Path("etc/systemd/system")
STATE = Path("var/lib/backstay")
KEEP = 3  # this version and two before it

LAUNCHER_TEXT = """\
#!/usr/bin/python3 -IS
# Written by backstay. It sees only its own library: no site-packages, no environment, no current directory. The link is
# resolved once, so that a service that outlives an upgrade never loads half of the new library.
# What starting makes, stays: looking through it for garbage again and again is a fifth of the time of a short command.
import gc
import os
import sys
gc.set_threshold(20_000)
sys.path.insert(0, os.path.realpath("/usr/lib/backstay/current"))
if sys.argv[1:2] == ["phase"]:
    from backstay._release_client import main
else:
    from backstay._wake import wake
    wake(sys.argv[1:])
    from backstay._cli import main
sys.exit(main())
"""


def library() -> dict[str, bytes]:
    """The library's files by name, where this one lies: on the controller, or where it is installed."""
    files = _files(Path(__file__).parent)
    if "_cli.py" not in files:
        raise BackstayError(f"{Path(__file__).parent} has no whole library (no _cli.py): install the collection again.")
    return files


def pack(files: Mapping[str, bytes]) -> bytes:
    """The files as one archive for a host."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(name, files[name])
    return content.getvalue()


def unpack(archive: str | Path, name: str) -> dict[str, bytes]:
    """The files of an archive. Raises BackstayError where they are not those of the release `name`."""
    try:
        with zipfile.ZipFile(archive) as packed:
            files = {entry: packed.read(entry) for entry in packed.namelist()}
    except (OSError, zipfile.BadZipFile) as broken:
        raise BackstayError(f"The library did not arrive whole ({broken}): run it again.") from broken
    if release_name(files) != name:
        raise BackstayError(f"The library that arrived is {release_name(files)} and {name} was sent: run it again.")
    return files


def release_name(files: Mapping[str, bytes]) -> str:
    """`<version>+<digest of the files>`: two builds that differ in a byte differ in name."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode())
        digest.update(files[name])
    return f"{VERSION}+{digest.hexdigest()[:8]}"


@dataclass(frozen=True)
class Installed:
    """What is on the host: the current release's name, and the texts of launcher and units by path."""

    current: str | None
    texts: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What installing would do."""

    name: str
    before: str | None
    texts: tuple[str, ...]  # paths of launcher and units to be written

    @property
    def renewed(self) -> bool:
        """Whether the library itself is another."""
        return self.name != self.before

    @property
    def changed(self) -> bool:
        return self.renewed or bool(self.texts)


def wanted_texts() -> dict[str, str]:
    """Launcher and units by their path."""
    return {str(LAUNCHER): LAUNCHER_TEXT, **{str(UNITS / name): text for name, text in UNIT_TEXTS.items()}}


def plan(name: str, installed: Installed) -> Plan:
    """Pure: what must change to have the release `name`."""
    missing = tuple(path for path, text in wanted_texts().items() if installed.texts.get(path) != text)
    return Plan(name, installed.current, missing)


class HostCommand:
    """The adapter: reads what is installed below `root` and carries a plan out."""

    def __init__(
        self,
        files: Mapping[str, bytes],
        *,
        name: str = "",
        root: Path = Path("/"),
        storage: Storage | None = None,
        runner: Runner = run,
    ) -> None:
        """`files` are needed only where the library is renewed; without them, `name` says which it should be."""
        self._root = root
        self._storage = storage or Storage()
        self._run = runner
        self._files = files
        self.name = name or release_name(files)

    def installed(self) -> Installed:
        room = self._root / ROOM
        try:
            current: str | None = os.readlink(room / "current")
        except FileNotFoundError:
            current = None
        # What was damaged or cut off does not count as installed, whatever its name says.
        if current is not None and release_name(_files(room / current / "backstay")) != current:
            current = None
        texts = {path: self._text(self._root / path) for path in wanted_texts()}
        return Installed(current, texts)

    def _text(self, path: Path) -> str | None:
        content = self._storage.read(path)
        return None if content is None else content.decode(errors="replace")

    def plan(self) -> Plan:
        return plan(self.name, self.installed())

    def apply(self, planned: Plan) -> None:
        """Carry the plan out. Raises BackstayError while a transaction is open, of any application: nothing changed."""
        with self._no_transaction():
            if planned.renewed:
                self._install(planned.name)
            for path in planned.texts:
                target = self._root / path
                target.parent.mkdir(parents=True, exist_ok=True)
                mode = 0o755 if path == str(LAUNCHER) else 0o644
                self._storage.write(target, wanted_texts()[path].encode(), mode=mode)
            if any(path.startswith(str(UNITS)) for path in planned.texts):
                self._run(["systemctl", "daemon-reload"])
            self._prune(planned)

    def _install(self, name: str) -> None:
        room = self._root / ROOM
        room.mkdir(parents=True, exist_ok=True, mode=0o755)
        target = room / name
        partial = room / f".{name}.partial"
        self._storage.remove_tree(partial)
        package = partial / "backstay"
        package.mkdir(parents=True)
        for directory in (room, partial, package):
            directory.chmod(0o755)
        for name_of_file, content in {"__init__.py": b"", **self._files}.items():
            file = package / name_of_file
            file.write_bytes(content)
            file.chmod(0o644)
        self._storage.remove_tree(target)
        self._storage.rename(partial, target)
        # Compiled at its final path and by content: the command starts fast, and a copied clock cannot spoil it.
        self._run(["/usr/bin/python3", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(target)])
        self._storage.sync_tree(target)
        self._storage.link(room / "current", name)

    @contextlib.contextmanager
    def _no_transaction(self) -> Iterator[None]:
        """Hold the lock of every application meanwhile."""
        with contextlib.ExitStack() as held:
            for lock in sorted((self._root / STATE).glob("*/lock")):
                application = lock.parent.name
                file = held.enter_context(lock.open("r+b"))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as busy:
                    raise BackstayError(
                        f"A transaction of {application} is open and belongs to the backstay that began it: wait for "
                        f"`backstay status {application}`, or undo it with `backstay abort {application}`, then run "
                        "this again."
                    ) from busy
                if (lock.parent / "journal.jsonl").exists():
                    raise BackstayError(
                        f"A transaction of {application} was left unfinished: run `backstay recover {application}` "
                        "on the host, then run this again."
                    )
            yield

    def _prune(self, planned: Plan) -> None:
        room = self._root / ROOM
        found = [path for path in room.iterdir() if path.is_dir() and not path.is_symlink()]
        for cut_off in (path for path in found if path.name.startswith(".")):
            self._storage.remove_tree(cut_off)
        others = [path for path in found if not path.name.startswith(".") and path.name != planned.name]
        others.sort(key=lambda path: path.stat().st_mtime)
        for old in others[: max(0, len(others) - (KEEP - 1))]:
            self._storage.remove_tree(old)


def _files(package: Path) -> dict[str, bytes]:
    """The library's files in a directory, by name; none where there is no such directory."""
    return {file.name: file.read_bytes() for file in package.glob("_*.py") if file.name != "__init__.py"}


def running_name() -> str:
    """The name of the release of the library that this process runs; the plain version outside an installation."""
    parent = Path(sys.modules[__name__].__file__ or "").resolve().parent.parent.name
    return parent if parent.startswith(VERSION) else VERSION
