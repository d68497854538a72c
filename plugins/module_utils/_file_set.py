"""A set of files placed together: all or none, and never over what is somebody else's.

`plan` is pure: from what is there, what should be and what we wrote before, it says what to do and what it refuses.
`FileSet` reads the host, places the set, has it validated, and puts everything back when it is refused. A journal on
the disk makes that hold through a power cut: the next run first puts back what was half placed.
"""

from __future__ import annotations

import base64
import fcntl
import grp
import hashlib
import json
import os
import pwd
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from ._errors import BackstayError, InputError
from ._run import Runner, run
from ._storage import Storage, canonical
from ._workers import refusal, workers

FORMAT = 1
STATE = Path("/var/lib/backstay")
UNITS = "/etc/systemd/system/"
VALIDATION_LINES = 12

Kind = Literal["absent", "file", "link", "directory", "other"]
Verb = Literal["create", "replace", "permissions", "remove"]


@dataclass(frozen=True)
class Told:
    """The units that use a set: `service` is reloaded, and says in `error_log` why it took none; `restart` cannot."""

    service: str = ""
    error_log: str = ""
    restart: str = ""


@dataclass(frozen=True)
class Entry:
    """What one path should be. `content` is for a file, `target` for a link; `owner` is (uid, gid).

    `reload`: whether the service must be told of a change, because it does not read the file at each use.
    `serves`: a directory that a site shows to visitors; with somebody's pages in it even a site as shipped is theirs.
    """

    path: str
    kind: Literal["file", "link", "directory", "absent"]
    content: bytes = b""
    target: str = ""
    mode: int = 0o644
    owner: tuple[int, int] = (0, 0)
    secret: bool = False
    reload: bool = True
    serves: str = ""


@dataclass(frozen=True)
class Seen:
    """What one path is now. `packaged`: exactly as its Debian package shipped it, so nobody's work. `page`: somebody's
    work that visitors are shown by it."""

    kind: Kind
    content: bytes = b""
    target: str = ""
    mode: int = 0
    owner: tuple[int, int] = (0, 0)
    packaged: bool = False
    page: str = ""


ABSENT = Seen("absent")


@dataclass(frozen=True)
class Change:
    """One thing to do; `kept`: why a copy of what was there is kept, or nothing."""

    entry: Entry
    before: Seen
    verb: Verb
    kept: str = ""


@dataclass(frozen=True)
class Plan:
    """What to do, what is refused (whole sentences), and what is ours once it is done."""

    changes: tuple[Change, ...] = ()
    refused: tuple[str, ...] = ()
    registry: Mapping[str, str] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        return bool(self.changes)


@dataclass(frozen=True)
class Outcome:
    """What was done: path and verb of each change, where copies were kept, what a person should know."""

    changed: bool
    changes: tuple[tuple[str, str], ...] = ()
    kept: Mapping[str, str] = field(default_factory=dict)
    lines: tuple[str, ...] = ()


def mark(kind: str, content: bytes, target: str) -> str:
    """How the registry remembers what was written: a file by its SHA-256, a link by its target."""
    if kind == "file":
        return hashlib.sha256(content).hexdigest()
    return f"link:{target}" if kind == "link" else kind


def plan(entries: Sequence[Entry], seen: Mapping[str, Seen], registry: Mapping[str, str], *, adopt: bool) -> Plan:
    """Compare what is with what should be.

    `registry` maps each path we ever wrote to what we wrote. What is in the way and is neither ours nor as its Debian
    package shipped it is refused, unless `adopt`: then it is replaced and a copy is kept.
    """
    changes: list[Change] = []
    refused: list[str] = []
    after = dict(registry)
    for entry in entries:
        before = seen.get(entry.path, ABSENT)
        verdict = _judge(entry, before, registry.get(entry.path), adopt=adopt)
        if isinstance(verdict, str):
            refused.append(verdict)
            continue
        if verdict is not None:
            changes.append(verdict)
        if entry.kind == "absent":
            after.pop(entry.path, None)
        else:
            after[entry.path] = mark(entry.kind, entry.content, entry.target)
    return Plan(tuple(changes), tuple(refused), after)


def _judge(entry: Entry, before: Seen, written: str | None, *, adopt: bool) -> Change | str | None:
    """One change, one refusal, or nothing to do."""
    if entry.kind == before.kind == "absent":
        return None
    if before.kind == "absent":
        return Change(entry, before, "create")
    now = mark(before.kind, before.content, before.target)
    if entry.kind != "absent" and now == mark(entry.kind, entry.content, entry.target):
        return _permissions(entry, before, ours=written is not None or adopt)
    if before.kind in ("directory", "other"):
        return f"{entry.path} is {_ARTICLE[before.kind]} where {_ARTICLE[entry.kind]} is to be: move it away first."
    verb: Verb = "remove" if entry.kind == "absent" else "replace"
    if entry.kind == "directory":
        return f"{entry.path} is {_ARTICLE[before.kind]} where a directory is to be: move it away first."
    if written == now:
        return Change(entry, before, verb)
    if written is not None:
        return Change(entry, before, verb, kept="it was ours and had been edited by hand")
    if before.packaged and not before.page:
        return Change(
            entry, before, verb, kept="" if before.kind == "link" else "it was as its Debian package shipped it"
        )
    if adopt:
        return Change(entry, before, verb, kept="it was there before Backstay and was taken over")
    if before.page:
        return (
            f"{entry.path} shows visitors what lies in {entry.serves} ({before.page}) and was not written by Backstay."
        )
    return f"{entry.path} exists and was not written by Backstay."


_ARTICLE = {
    "file": "a file",
    "link": "a link",
    "directory": "a directory",
    "absent": "nothing",
    "other": "a device, socket or pipe",
}


def _permissions(entry: Entry, before: Seen, *, ours: bool) -> Change | str | None:
    if entry.kind == "link" or (before.mode == entry.mode and before.owner == entry.owner):
        return None
    if entry.kind == "directory" and not ours:
        return f"The directory {entry.path} exists with other permissions ({before.mode:04o}, not {entry.mode:04o})."
    return Change(entry, before, "permissions")


def diff(planned: Plan) -> list[dict[str, str]]:
    """The changes in the form Ansible prints; the content of secret files is never in it."""
    return [
        {
            "before_header": f"{change.entry.path}{_permission_note(change.before)}",
            "after_header": f"{change.entry.path}{_permission_note(change.entry)}",
            "before": _shown(
                change.before.kind, change.before.content, change.before.target, secret=change.entry.secret
            ),
            "after": _shown(change.entry.kind, change.entry.content, change.entry.target, secret=change.entry.secret),
        }
        for change in planned.changes
    ]


def _permission_note(thing: Entry | Seen) -> str:
    if thing.kind in ("absent", "link"):
        return f" ({thing.kind})"
    return f" ({thing.mode:04o}, {thing.owner[0]}:{thing.owner[1]})"


def _shown(kind: str, content: bytes, target: str, *, secret: bool) -> str:
    if kind == "link":
        return f"-> {target}\n"
    if kind != "file":
        return "" if kind == "absent" else f"{kind}\n"
    if secret:
        return "(secret)\n"
    try:
        return content.decode()
    except UnicodeDecodeError:
        return f"({len(content)} bytes, not text)\n"


def ids(owner: str, group: str) -> tuple[int, int]:
    """The numbers of a user and a group. Raises InputError for one the host does not have."""
    try:
        uid = pwd.getpwnam(owner).pw_uid
    except KeyError as unknown:
        raise InputError(f"The host has no user {owner!r}: create it first, or correct `owner`.") from unknown
    try:
        return uid, grp.getgrnam(group).gr_gid
    except KeyError as unknown:
        raise InputError(f"The host has no group {group!r}: create it first, or correct `group`.") from unknown


class FileSet:
    """Places sets of files on a host; `state` is where it remembers what it wrote."""

    def __init__(
        self,
        *,
        state: Path = STATE,
        storage: Storage | None = None,
        runner: Runner = run,
        now: Callable[[], datetime] = lambda: datetime.now(tz=UTC),
    ) -> None:
        self._state = state
        self._storage = storage or Storage()
        self._run = runner
        self._now = now

    @property
    def _registry_file(self) -> Path:
        return self._state / "files.json"

    @property
    def _journal(self) -> Path:
        return self._state / "files.placing.json"

    def registry(self) -> dict[str, str]:
        """Path and mark of everything we wrote. Raises BackstayError for a file of a newer Backstay."""
        known = self._load(self._journal).get("registry", self._load(self._registry_file).get("files", {}))
        return {str(path): str(value) for path, value in known.items()}

    def see(self, paths: Sequence[str]) -> dict[str, Seen]:
        """What is at these paths now; where a run was cut off while placing, what was there before it, for that is put
        back before anything is placed."""
        found = {path: _look(Path(path)) for path in paths}
        interrupted = {item["path"]: item for item in self._load(self._journal).get("before", [])}
        found |= {path: _recorded(interrupted[path]) for path in paths if path in interrupted}
        known = self.registry()
        doubtful = [path for path, it in found.items() if it.kind in ("file", "link") and path not in known]
        shipped = self._shipped() if doubtful else {}
        for path in doubtful:
            if _is_packaged(Path(path), found[path], shipped):
                found[path] = replace(found[path], packaged=True)
        return found

    def plan(self, entries: Sequence[Entry], *, adopt: bool) -> Plan:
        """What placing this set would do. Raises InputError when it is not possible, naming every reason."""
        _check(entries)
        seen = self.see([entry.path for entry in entries])
        for entry in entries:
            if seen[entry.path].packaged:
                seen[entry.path] = replace(seen[entry.path], page=_somebodys_page(entry.serves))
        planned = plan(entries, seen, self.registry(), adopt=adopt)
        if planned.refused:
            remedy = (
                "Nothing was changed. Move them away, or take them over with adopt=keep: then a copy of each is kept "
                f"in {self._state / 'replaced'}."
            )
            raise InputError(f"{' '.join(planned.refused)} {remedy}")
        return planned

    def place(
        self,
        entries: Sequence[Entry],
        *,
        adopt: bool = False,
        validate: Sequence[str] = (),
        service: str = "",
        error_log: str = "",
        restart: str = "",
    ) -> Outcome:
        """Place a set: all or none.

        `validate` is run against the placed set and must end with 0. `service` is a unit that uses these files: it
        is enabled and started where it is not, and reloaded (never restarted) after a change that it must be told of.
        `error_log` is where a service that takes a reload with new workers says why it did not; with it, they are
        waited for. `restart` is a unit that cannot reload. Raises BackstayError; the host is then as it was before.
        """
        self._state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._locked():
            interrupted = self._put_back_interrupted()
            planned = self.plan(entries, adopt=adopt)
            kept = self._keep(planned)
            if planned.changed:
                started = self._place(planned, validate, Told(service, error_log, restart))
            else:
                if dict(planned.registry) != self.registry():
                    self._save(planned.registry)
                started = self._serve(Told(service), changed=False)
        lines = [*interrupted, *_told_of(planned, kept)]
        done = tuple((change.entry.path, change.verb) for change in planned.changes)
        return Outcome(planned.changed or started, done, kept, tuple(lines))

    def keep(self, entries: Sequence[Entry]) -> tuple[str, ...]:
        """Keep copies of what others wrote where `entries` are about to be written by somebody else's hand, such as one
        that can undo it. Returns lines for people. Raises InputError where `place` would refuse."""
        self._state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._locked():
            planned = self.plan(entries, adopt=False)
            return _told_of(planned, self._keep(planned))

    def _place(self, planned: Plan, validate: Sequence[str], told: Told) -> bool:
        self._begin(planned)
        try:
            for change in planned.changes:
                self._apply(change.entry, change.verb)
            self._validate(validate)
        except BackstayError:
            self._put_back()  # nothing has read the files yet: no unit is touched
            raise
        try:
            self._save(planned.registry)
            self._reload_units([change.entry.path for change in planned.changes])
            started = self._serve(told, changed=any(change.entry.reload for change in planned.changes))
        except BackstayError:
            self._put_back()
            for verb, unit in (("restart", told.restart), ("reload", told.service)):
                if unit and self._is(unit, "is-active"):
                    self._run(["systemctl", verb, unit], check=False)
            raise
        self._storage.remove(self._journal)
        return started

    # one at a time, and through power cuts

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._state / "files.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _load(self, path: Path) -> dict[str, Any]:
        content = self._storage.read(path)
        if content is None:
            return {}
        try:
            loaded = json.loads(content)
        except ValueError as broken:
            raise BackstayError(
                f"{path} is not JSON ({broken}): restore it from a backup, or move it away."
            ) from broken
        if not isinstance(loaded, dict) or loaded.get("format") != FORMAT:
            raise BackstayError(
                f"{path} has a format this Backstay does not know (it knows {FORMAT}): use the newer one that wrote it."
            )
        return loaded

    def _save(self, registry: Mapping[str, str]) -> None:
        content = canonical({"format": FORMAT, "files": dict(registry)}) + b"\n"
        self._storage.write(self._registry_file, content, mode=0o600)

    def _begin(self, planned: Plan) -> None:
        """What was there goes to the disk first, so that it can be put back whatever happens."""
        before = [
            {
                "path": change.entry.path,
                "kind": change.before.kind,
                "content": base64.b64encode(change.before.content).decode(),
                "target": change.before.target,
                "mode": change.before.mode,
                "owner": list(change.before.owner),
            }
            for change in planned.changes
        ]
        fresh = _missing_parents([Path(change.entry.path) for change in planned.changes])
        record = {"format": FORMAT, "before": before, "directories": fresh, "registry": self.registry()}
        self._storage.write(self._journal, canonical(record) + b"\n", mode=0o600)

    def _put_back(self) -> None:
        record = self._load(self._journal)
        for item in reversed(record.get("before", [])):
            was = _recorded(item)
            if was.kind == "other":
                raise BackstayError(f"{self._journal} is not one of ours: move it away, then run it again.")
            entry = Entry(item["path"], was.kind, was.content, target=was.target, mode=was.mode, owner=was.owner)
            self._apply(entry, "remove" if entry.kind == "absent" else "replace")
        for directory in reversed(record.get("directories", [])):
            path = Path(directory)
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        self._reload_units([item["path"] for item in record.get("before", [])], check=False)
        self._save(record.get("registry", {}))
        self._storage.remove(self._journal)

    def _put_back_interrupted(self) -> tuple[str, ...]:
        if not self._journal.exists():
            return ()
        self._put_back()
        return ("an earlier run was cut off while placing files: what it had placed was put back first",)

    # the disk

    def _keep(self, planned: Plan) -> dict[str, str]:
        """Copies of what others wrote, by path, in a directory named after the moment."""
        kept: dict[str, str] = {}
        root = self._state / "replaced" / self._now().strftime("%Y-%m-%dT%H%M%SZ")
        for change in planned.changes:
            if not change.kept:
                continue
            copy = root / change.entry.path.lstrip("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            (self._state / "replaced").chmod(0o700)
            if change.before.kind == "link":
                self._storage.link(copy, change.before.target)
            else:
                self._storage.write(copy, change.before.content, mode=change.before.mode, owner=change.before.owner)
            kept[change.entry.path] = str(copy)
        return kept

    def _apply(self, entry: Entry, verb: Verb) -> None:
        try:
            self._apply_one(entry, verb)
        except OSError as refused:
            raise BackstayError(
                f"Could not {verb} {entry.path}: {refused.strerror}; correct that, then run it again."
            ) from refused

    def _apply_one(self, entry: Entry, verb: Verb) -> None:
        path = Path(entry.path)
        if entry.kind == "absent" or verb == "remove":
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                self._storage.remove(path)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if entry.kind == "directory":
            path.mkdir(exist_ok=True, mode=0o700)
        elif entry.kind == "link":
            self._storage.link(path, entry.target)
            return
        elif verb != "permissions":
            self._storage.write(path, entry.content, mode=entry.mode, owner=entry.owner)
            return
        os.chown(path, *entry.owner, follow_symlinks=False)
        path.chmod(entry.mode)

    # what uses the files

    def _validate(self, command: Sequence[str]) -> None:
        if not command:
            return
        done = self._run(command, timeout_seconds=60.0, check=False)
        if not done.ok:
            last = done.last_lines(VALIDATION_LINES)
            said = " / ".join(last[-3:]) or "it printed nothing"
            raise BackstayError(
                f"`{' '.join(command)}` refused the new files, so all were put back as they were: {said}", lines=last
            )

    def _reload_units(self, paths: Sequence[str], *, check: bool = True) -> None:
        """systemd goes on with the units that it has read until it is told that they changed."""
        if any(path.startswith(UNITS) for path in paths):
            self._run(["systemctl", "daemon-reload"], check=check)

    def _serve(self, told: Told, *, changed: bool) -> bool:
        """Make the units use the files; True where a unit had to be enabled or started."""
        service = told.service
        if told.restart and changed:
            self._systemctl("restart", told.restart)
        if not service:
            return False
        enabled, active = self._is(service, "is-enabled"), self._is(service, "is-active")
        if not enabled:
            self._systemctl("enable", service)
        if not active:
            self._systemctl("start", service)
        elif changed:
            self._reload(told)
        return not (enabled and active)

    def _reload(self, told: Told) -> None:
        if not told.error_log:
            return self._systemctl("reload", told.service)
        before = workers(told.service, Path(told.error_log), self._run)
        self._systemctl("reload", told.service)
        said = refusal(before)
        if said:
            raise BackstayError(
                f"{told.service} goes on with the configuration that it had, so all files were put back as they were: "
                f"{said}",
                lines=(said,),
            )
        return None

    def _is(self, service: str, question: str) -> bool:
        return self._run(["systemctl", question, "--quiet", service], check=False).ok

    def _systemctl(self, verb: str, unit: str) -> None:
        done = self._run(["systemctl", verb, unit], timeout_seconds=120.0, check=False)
        if done.ok:
            return
        told = self._run(["systemctl", "status", "--no-pager", "--lines=10", unit], check=False)
        lines = tuple(told.stdout.strip().splitlines()[-10:]) or done.last_lines()
        said = lines[-1] if lines else f"exit code {done.returncode}"
        raise BackstayError(
            f"systemd could not {verb} {unit}, so all files were put back as they were: {said}", lines=lines
        )

    def _shipped(self) -> dict[str, str]:
        """Path and MD5 of every configuration file as its Debian package shipped it."""
        done = self._run(["dpkg-query", "--show", "--showformat=${Conffiles}\n"], check=False)
        fields = (line.split() for line in done.stdout.splitlines())
        return {parts[0]: parts[1] for parts in fields if len(parts) >= 2 and parts[0].startswith("/")}


def _told_of(planned: Plan, kept: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"kept {path} as {copy}: {_why(planned, path)}" for path, copy in kept.items())


def _why(planned: Plan, path: str) -> str:
    return next(change.kept for change in planned.changes if change.entry.path == path)


def _check(entries: Sequence[Entry]) -> None:
    seen: set[str] = set()
    for entry in entries:
        if not entry.path.startswith("/") or ".." in Path(entry.path).parts:
            raise InputError(f"The path {entry.path!r} is not absolute: write it from the root, without `..`.")
        if entry.path in seen:
            raise InputError(f"{entry.path} is in the set twice: a path can be one thing only.")
        seen.add(entry.path)


def _look(path: Path) -> Seen:
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return ABSENT
    mode, owner = stat.S_IMODE(found.st_mode), (found.st_uid, found.st_gid)
    if stat.S_ISLNK(found.st_mode):
        return Seen("link", target=str(path.readlink()), mode=mode, owner=owner)
    if stat.S_ISDIR(found.st_mode):
        return Seen("directory", mode=mode, owner=owner)
    if not stat.S_ISREG(found.st_mode):
        return Seen("other", mode=mode, owner=owner)
    return Seen("file", content=path.read_bytes(), mode=mode, owner=owner)


def _recorded(item: Mapping[str, Any]) -> Seen:
    """What a journal says was there."""
    uid, gid = item["owner"]
    return Seen(
        item["kind"],
        content=base64.b64decode(item["content"]),
        target=item["target"],
        mode=item["mode"],
        owner=(uid, gid),
    )


def _is_packaged(path: Path, found: Seen, shipped: Mapping[str, str]) -> bool:
    """A pristine configuration file, or a link to one (such as Debian's `sites-enabled/default`)."""
    real = path if found.kind == "file" else Path(os.path.normpath(path.parent / found.target))
    expected = shipped.get(str(real))
    if expected is None:
        return False
    there = found if found.kind == "file" else _look(real)
    return there.kind == "file" and hashlib.md5(there.content, usedforsecurity=False).hexdigest() == expected


def _somebodys_page(directory: str) -> str:
    """The first thing in a directory of pages that no web server's package put there; nothing, where there is none."""
    if not directory or not Path(directory).is_dir():
        return ""
    return next((path.name for path in sorted(Path(directory).iterdir()) if not _is_welcome(path)), "")


def _is_welcome(page: Path) -> bool:
    """What nginx and Apache greet with: nobody else uses the name of the one, everybody that of the other."""
    if page.name == "index.nginx-debian.html":
        return True
    return page.name == "index.html" and page.is_file() and b"<title>Apache2 Debian Default Page" in page.read_bytes()


def _missing_parents(paths: Sequence[Path]) -> list[str]:
    """Directories that placing these paths will create, outermost first."""
    missing = {str(parent) for path in paths for parent in path.parents if not parent.exists()}
    return sorted(missing, key=len)
