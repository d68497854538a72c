"""A host whose applications are backed up: keys that sign, directories of local repositories, and a schedule.

`refusal` and `plan` are pure; `BackupHost` reads the host and carries a plan out, for all applications at once. Nothing
here makes a backup or opens a repository: that is the command's, which says what is wrong with a store that is away.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import _schedule_host
from ._application import Application, parse
from ._backup_settings import BackupPolicy, RepositorySettings
from ._errors import BackstayError, InputError
from ._file_set import Entry, FileSet, diff
from ._file_set import Plan as FilePlan
from ._layout import Layout
from ._run import Runner, run
from ._schedule import CRON, schedule
from ._schedule import Plan as SchedulePlan
from ._schedule import plan as plan_schedule
from ._storage import Storage
from ._systemd import Systemd

MODE = 0o700
_US = (os.geteuid(), os.getegid())  # root, on a host
# What the units of backup and proof cannot see or cannot write (_own_units.py).
_HIDDEN = ("/home", "/root", "/run", "/tmp", "/var/tmp", "/dev", "/proc", "/sys", "/usr", "/boot", "/efi", "/etc")  # noqa: S108 - a repository there is refused


@dataclass(frozen=True)
class Place:
    """What is at the directory of a local repository. `device` is that of it, or of the nearest directory above."""

    kind: str  # absent, directory, other
    private: bool  # root's, 0700
    foreign: bool  # something is in it, and it is no restic repository
    device: int


@dataclass(frozen=True)
class Plan:
    """What is to be done, for all applications. `keys` are private keys to be made."""

    keys: tuple[Path, ...]
    directories: tuple[Path, ...]
    files: FilePlan
    entries: tuple[Entry, ...]
    schedules: tuple[SchedulePlan, ...]

    @property
    def changed(self) -> bool:
        return bool(self.keys or self.directories or self.files.changed or any(each.changed for each in self.schedules))


def refusal(
    name: str, place: Path, settings: RepositorySettings, seen: Place, *, layout: Layout, data_device: int
) -> str | None:
    """Pure: why a directory cannot be the repository `name`, in a sentence; None where it can."""
    here = f"The repository {name} of {layout.name} is to lie in {place}"
    for hidden in map(Path, _HIDDEN):
        if place == hidden or hidden in place.parents:
            return f"{here}, and {hidden} is out of reach of a backup: choose another place, such as /srv/backup."
    for own in (layout.home, layout.state.parent, layout.repository_cache.parent):
        if place == own or own in place.parents or place in own.parents:
            return f"{here}, where the application's own data are: choose another place, such as /srv/backup."
    if seen.kind == "other":
        return f"{here}, where a file is: move it away, or choose another directory."
    if seen.foreign:
        return f"{here}, which holds files and is no repository of restic's: choose a directory of its own for it."
    if settings.own_disk and seen.device == data_device:
        return (
            f"{here}, on the same file system as the data, and would be lost with it: mount another disk there (is it "
            "mounted?), or say own_disk: false for this repository where that is meant."
        )
    return None


@dataclass(frozen=True)
class _Subject:
    """One application, as its file says it."""

    layout: Layout
    policy: BackupPolicy | None
    repositories: Mapping[str, RepositorySettings] = field(default_factory=dict)

    @property
    def has_bucket(self) -> bool:
        """Whether something of it is kept in a store that may have rules of its own."""
        return any(settings.kind == "s3" for settings in self.repositories.values())

    def places(self) -> dict[str, Path]:
        """The directories of its local repositories."""
        return {
            name: Path(settings.location).resolve()
            for name, settings in self.repositories.items()
            if settings.kind == "local"
        }


class BackupHost:
    """The adapter. `root` is moved by tests, for what Backstay itself lays out."""

    def __init__(
        self,
        applications: Sequence[Mapping[str, object]],
        *,
        adopt: bool = False,
        root: Path = Path("/"),
        storage: Storage | None = None,
        runner: Runner = run,
        files: FileSet | None = None,
    ) -> None:
        """Raises InputError for an application that is described wrongly."""
        self._subjects = [_subject(parse(given, file=_file_of(given)), root) for given in applications]
        self._schedules = [schedule(subject.layout, subject.policy) for subject in self._subjects]
        self._adopt = adopt
        self._storage = storage or Storage()
        self._run = runner
        self._files = files or FileSet(storage=self._storage, runner=runner)

    def plan(self) -> Plan:
        """What would change. Raises InputError, with every reason, where something cannot be."""
        refused = [sentence for subject in self._subjects for sentence in self._refusals(subject)]
        if refused:
            raise InputError(f"{' '.join(refused)} Nothing was changed.")
        entries = _schedule_host.entries(self._schedules)
        files = self._files.plan(entries, adopt=self._adopt)
        units = sorted({unit for wanted in self._schedules for unit in (*wanted.on, *wanted.off)})
        enabled, active = Systemd(self._run).enabled_and_active(units)
        return Plan(
            keys=tuple(key for subject in self._subjects if (key := self._missing_key(subject)) is not None),
            directories=tuple(
                place for subject in self._subjects for place in subject.places().values() if not _look(place).private
            ),
            files=files,
            entries=entries,
            schedules=tuple(
                plan_schedule(wanted, {path: self._text(path) for path in wanted.files}, enabled, active)
                for wanted in self._schedules
            ),
        )

    def apply(self, planned: Plan) -> tuple[str, ...]:
        """Carry the plan out; each part can be done twice. Returns lines for people. Raises BackstayError."""
        self._need_units(planned)
        for key in planned.keys:
            self._make_key(key)
        for place in planned.directories:
            self._make_directory(place)
        return _schedule_host.bring(planned.entries, planned.schedules, self._files, self._run, adopt=self._adopt)

    @property
    def has_buckets(self) -> bool:
        """Whether there is a store to be asked for its own rules."""
        return any(subject.has_bucket for subject in self._subjects)

    def ask_buckets(self, at: str) -> tuple[str, ...]:
        """Lines about buckets whose own rules would remove what restore points need; remembered for `status`.

        A store that is away, or secrets that are not there yet, hold up nobody. `at` is now, UTC ISO 8601.
        """
        from ._bucket_rules import look, sentences
        from ._repository import read_secrets

        lines: list[str] = []
        for subject in self._subjects:
            layout, repositories = subject.layout, subject.repositories
            if not subject.has_bucket:
                continue
            try:
                secrets = read_secrets(layout, self._storage)
                asked = {name: (repositories[name], secrets[name]) for name in repositories if name in secrets}
                known = look(layout, self._storage, asked, at=at)
            except BackstayError as failed:
                lines.append(f"{layout.name}: {failed.message}")
                continue
            lines += [f"{layout.name}: {sentence}" for sentence in sentences(known, repositories)]
        return tuple(lines)

    def diff(self, planned: Plan) -> list[dict[str, str]]:
        """What changes, for people. A key is named, never shown."""
        lines = [f"signing key {key}\n" for key in planned.keys]
        lines += [f"{MODE:04o} root:root {place}\n" for place in planned.directories]
        lines += _schedule_host.told(planned.schedules)
        shown = diff(planned.files)
        return [*shown, {"before": "", "after": "".join(lines)}] if lines else shown

    # reading

    def _refusals(self, subject: _Subject) -> list[str]:
        said = []
        device = _look(subject.layout.generations).device
        for name, place in subject.places().items():
            settings = subject.repositories[name]
            sentence = refusal(name, place, settings, _look(place), layout=subject.layout, data_device=device)
            said += [sentence] if sentence else []
        key = subject.layout.backup_key
        if subject.policy is not None and not key.exists() and _public(key).exists():
            said.append(
                f"{_public(key)} is there and its private half {key.name} is not: put that back from the offline copy, "
                "or move the public one away; then a new key signs, and what the old one signed is judged by the copy "
                "that you moved."
            )
        return said

    def _missing_key(self, subject: _Subject) -> Path | None:
        key = subject.layout.backup_key
        whole = key.exists() and _public(key).exists()
        return None if whole or subject.policy is None else key

    def _text(self, path: Path) -> str | None:
        content = self._storage.read(path)
        return None if content is None else content.decode(errors="replace")

    # doing

    def _need_units(self, planned: Plan) -> None:
        for subject in self._subjects:
            timer = subject.layout.units / "backstay-backup@.timer"
            if _schedule_host.units(planned.schedules, "start") not in ((), (CRON,)) and not timer.exists():
                raise BackstayError(
                    f"The backstay command is not installed on this host ({timer.name} is missing): run role base, or "
                    "the module host_command, first."
                )

    def _make_key(self, key: Path) -> None:
        """Make a pair, or the public half of a private one; the private half appears last, and means both are there."""
        try:
            self._storage.make_directory(key.parent, mode=MODE)
        except OSError as refused:
            raise BackstayError(
                f"{key.parent} could not be made ({refused.strerror}): correct that first."
            ) from refused
        if key.exists():
            public = self._run(["ssh-keygen", "-y", "-P", "", "-f", str(key)]).stdout
            self._storage.write(_public(key), public.encode(), mode=0o600)
            return
        room = Path(tempfile.mkdtemp(prefix=".backup_key.", dir=key.parent))
        try:
            fresh = room / "key"
            comment = f"backstay {key.parent.name} on {os.uname().nodename}"
            self._run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(fresh)])
            self._storage.write(_public(key), _public(fresh).read_bytes(), mode=0o600)
            self._storage.write(key, fresh.read_bytes(), mode=0o600)
        except BackstayError:
            if not key.exists():
                self._storage.remove(_public(key))
            raise
        finally:
            shutil.rmtree(room, ignore_errors=True)

    def _make_directory(self, place: Path) -> None:
        try:
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            self._storage.make_directory(place, mode=MODE)
            os.chown(place, *_US, follow_symlinks=False)
            place.chmod(MODE)
        except OSError as refused:
            raise BackstayError(
                f"The directory {place} of a repository could not be made ({refused.strerror}): look at the disk that "
                "it is on, then run this again."
            ) from refused


def _subject(application: Application, root: Path) -> _Subject:
    policy = application.backup
    return _Subject(Layout(application.name, root), policy, policy.repositories if policy else {})


def _file_of(given: Mapping[str, object]) -> str:
    return f"applications/{given.get('name', '<name>')}.yml"


def _public(key: Path) -> Path:
    return key.with_name(f"{key.name}.pub")


def _look(place: Path) -> Place:
    """What is at a directory, following no link at its end."""
    existing = next(path for path in (place, *place.parents) if path.exists())
    device = existing.stat().st_dev
    try:
        found = place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return Place("absent", private=False, foreign=False, device=device)
    if not stat.S_ISDIR(found.st_mode):
        return Place("other", private=False, foreign=False, device=device)
    private = stat.S_IMODE(found.st_mode) == MODE and found.st_uid == _US[0]
    names = {path.name for path in place.iterdir()} - {"lost+found"}
    return Place("directory", private, bool(names) and not {"config", "keys", "data"} <= names, device)
