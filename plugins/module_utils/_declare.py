"""Declares an application on a host: its user, its directories, its validated file, its secrets, its units.

Nothing here starts, stops or restarts the application: what changes its configuration is applied by a release.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ._application import Application, parse, to_dict
from ._environment import compose
from ._errors import InputError
from ._layout import Layout
from ._run import Runner, run
from ._storage import Storage, canonical

FORMAT = 1
FIRST_GENERATION = "0001"


@dataclass(frozen=True)
class Directory:
    """A directory with its owner, group and mode."""

    path: Path
    owner: str
    group: str
    mode: int


@dataclass(frozen=True)
class Desired:
    """What must be there. `files` are root-only JSON; `secrets` names those whose content is never shown."""

    application: Application
    directories: tuple[Directory, ...]
    files: Mapping[Path, bytes]
    secret_files: frozenset[Path]
    units: tuple[str, ...]


@dataclass(frozen=True)
class Current:
    """What is there, as far as it matters here."""

    user: bool
    directories: Mapping[Path, Directory | None]
    files: Mapping[Path, bytes | None]
    data_link: str | None
    enabled: frozenset[str]
    active: frozenset[str]


@dataclass(frozen=True)
class Plan:
    """What declaring would do."""

    user: bool = False
    directories: tuple[Directory, ...] = ()
    files: tuple[Path, ...] = ()
    data_link: bool = False
    enable: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    before: Mapping[Path, bytes | None] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        return bool(self.user or self.directories or self.files or self.data_link or self.enable or self.start)


def desired(layout: Layout, application: Application, secrets: Mapping[str, str]) -> Desired:
    """Pure: everything of one application on a host. Raises InputError for a required key missing or empty."""
    name = application.name
    compose(application, secrets, {})
    generation = layout.generations / FIRST_GENERATION
    directories = [
        Directory(layout.home, "root", "root", 0o755),
        Directory(layout.releases, "root", "root", 0o755),
        Directory(layout.environments, "root", "root", 0o755),
        Directory(layout.static, "root", "root", 0o755),
        Directory(layout.generations, "root", "root", 0o755),
        Directory(generation, name, "www-data", 0o710),
        Directory(layout.configuration.parent, "root", "root", 0o700),
        Directory(layout.configuration, "root", "root", 0o700),
        Directory(layout.configuration / "releases", "root", "root", 0o700),
        Directory(layout.state.parent, "root", "root", 0o700),
        Directory(layout.state, "root", "root", 0o700),
        Directory(layout.old_journals, "root", "root", 0o700),
        Directory(layout.artifacts, "root", "root", 0o700),
        Directory(layout.logs, name, "adm", 0o2750),
    ]
    directories += [
        Directory((generation / database.path).parent, name, name, 0o700)
        for database in application.databases
        if database.engine == "sqlite" and database.path
    ]
    if application.media:
        directories.append(Directory(generation / application.media, name, "www-data", 0o2750))
    files = {
        layout.application_file: canonical(to_dict(application)) + b"\n",
        layout.secrets_file: canonical({"format": FORMAT, "values": dict(secrets)}) + b"\n",
    }
    units = (layout.transaction_socket_unit, layout.recover_unit)
    return Desired(application, tuple(directories), files, frozenset({layout.secrets_file}), units)


def plan(current: Current, wanted: Desired, layout: Layout) -> Plan:
    """Pure: what differs. A data link that exists is left alone, wherever it points: restores move it."""
    first = layout.generations / FIRST_GENERATION
    skip_first = current.data_link not in (None, f"data.d/{FIRST_GENERATION}")
    return Plan(
        user=not current.user,
        directories=tuple(
            directory
            for directory in wanted.directories
            if current.directories.get(directory.path) != directory
            and not (skip_first and (directory.path == first or first in directory.path.parents))
        ),
        files=tuple(path for path, content in wanted.files.items() if current.files.get(path) != content),
        data_link=current.data_link is None,
        enable=tuple(unit for unit in wanted.units if unit not in current.enabled),
        # The socket listens from now on; recovery runs at boot, and when a transaction died.
        start=tuple(unit for unit in wanted.units if unit.endswith(".socket") and unit not in current.active),
        before=dict(current.files),
    )


class Declaration:
    """The adapter: reads the host, refuses what is not ours, and carries a plan out."""

    def __init__(
        self,
        application: Mapping[str, Any],
        secrets: Mapping[str, Any],
        *,
        adopt: bool = False,
        storage: Storage | None = None,
        runner: Runner = run,
    ) -> None:
        parsed = parse(application, file=f"applications/{application.get('name', '<name>')}.yml")
        texts = {key: str(value) for key, value in secrets.items()}
        self.layout = Layout(parsed.name)
        self.desired = desired(self.layout, parsed, texts)
        self._adopt = adopt
        self._storage = storage or Storage()
        self._run = runner

    def plan(self) -> Plan:
        """What would change. Raises InputError for anything in the way that is not ours."""
        self._refuse_foreign()
        return plan(self._current(), self.desired, self.layout)

    def _refuse_foreign(self) -> None:
        layout = self.layout
        ours = layout.application_file.exists()
        if ours or self._adopt:
            return
        if layout.home.exists() and any(layout.home.iterdir()):
            raise InputError(
                f"{layout.home} exists and was not made by backstay: move it away, or say adopt=keep to build "
                f"beside what "
                "is in it."
            )
        try:
            user = pwd.getpwnam(layout.name)
        except KeyError:
            return
        if not user.pw_shell.endswith(("nologin", "false")):
            raise InputError(
                f"The user {layout.name} exists with the shell {user.pw_shell}: name the application "
                f"differently, or say "
                "adopt=keep to run it as that user."
            )

    def _current(self) -> Current:
        wanted = self.desired
        try:
            pwd.getpwnam(self.layout.name)
            user = True
        except KeyError:
            user = False
        try:
            link: str | None = os.readlink(self.layout.data)
        except FileNotFoundError:
            link = None
        units = wanted.units
        enabled = self._run(["systemctl", "is-enabled", *units], check=False).stdout.split()
        active = self._run(["systemctl", "is-active", *units], check=False).stdout.split()
        return Current(
            user,
            {directory.path: _seen(directory.path) for directory in wanted.directories},
            {path: self._storage.read(path) for path in wanted.files},
            link,
            frozenset(unit for unit, word in zip(units, enabled, strict=False) if word == "enabled"),
            frozenset(unit for unit, word in zip(units, active, strict=False) if word == "active"),
        )

    def apply(self, planned: Plan) -> None:
        """Carry the plan out; each part can be done twice."""
        name = self.layout.name
        if planned.user:
            account = ["--system", "--user-group", "--home-dir", "/nonexistent", "--no-create-home"]
            self._run(["useradd", *account, "--shell", "/usr/sbin/nologin", "--comment", f"backstay {name}", name])
        for directory in planned.directories:
            directory.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.chown(directory.path, _uid(directory.owner), _gid(directory.group), follow_symlinks=False)
            directory.path.chmod(directory.mode)
        for path in planned.files:
            self._storage.write(path, self.desired.files[path], mode=0o600)
        if planned.data_link:
            self._storage.link(self.layout.data, f"data.d/{FIRST_GENERATION}")
        if planned.enable:
            self._run(["systemctl", "enable", "--quiet", *planned.enable])
        if planned.start:
            self._run(["systemctl", "start", *planned.start])

    def diff(self, planned: Plan) -> list[dict[str, str]]:
        """What changes, for people; of secrets only the names of the keys."""
        shown = [
            {
                "before_header": str(path),
                "after_header": str(path),
                "before": self._shown(path, planned.before.get(path)),
                "after": self._shown(path, self.desired.files[path]),
            }
            for path in planned.files
        ]
        lines = [f"user {self.layout.name}\n"] if planned.user else []
        lines += [f"{d.mode:04o} {d.owner}:{d.group} {d.path}\n" for d in planned.directories]
        lines += [f"{self.layout.data} -> data.d/{FIRST_GENERATION}\n"] if planned.data_link else []
        lines += [f"enabled {unit}\n" for unit in planned.enable] + [f"started {unit}\n" for unit in planned.start]
        return [*shown, {"before": "", "after": "".join(lines)}] if lines else shown

    def _shown(self, path: Path, content: bytes | None) -> str:
        if content is None:
            return ""
        value = json.loads(content)
        if path in self.desired.secret_files:
            return "".join(f"{key}: (secret)\n" for key in sorted(value["values"]))
        return json.dumps(value, indent=2, sort_keys=True) + "\n"

    def secrets_changed(self, planned: Plan) -> tuple[str, ...]:
        """Names of the secrets that are new, gone, or have another value."""
        if self.layout.secrets_file not in planned.files:
            return ()
        old = json.loads(planned.before.get(self.layout.secrets_file) or b'{"values": {}}')["values"]
        new = json.loads(self.desired.files[self.layout.secrets_file])["values"]
        return tuple(sorted(key for key in {*old, *new} if old.get(key) != new.get(key)))


def _seen(path: Path) -> Directory | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISDIR(found.st_mode):
        raise InputError(f"{path} is in the way and is no directory: move it away, then run this again.")
    return Directory(path, _user_name(found.st_uid), _group_name(found.st_gid), stat.S_IMODE(found.st_mode))


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _uid(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


def _gid(name: str) -> int:
    return grp.getgrnam(name).gr_gid
