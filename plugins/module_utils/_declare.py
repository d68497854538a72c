"""Declares an application on a host: its user, its directories, its validated file, its secrets, its units.

`desired` and `plan` are pure; `Declaration` reads the host and carries a plan out. Nothing here starts, stops or
restarts the application: what changes its configuration is applied by a release.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from . import _generations as generations
from ._application import FORMAT as APPLICATION_FORMAT
from ._application import Application, parse, to_dict
from ._attestation import check_allowed_signers
from ._backup_settings import BackupPolicy
from ._directories import Directory, data_directories, make_directory
from ._environment import Secrets, compose, unused
from ._errors import BackstayError, InputError
from ._layout import Layout
from ._releases import running_part
from ._run import Runner, run
from ._storage import Storage, canonical
from ._systemd import Systemd

PAGE_TIMER = "backstay-page.timer"  # the host's, whichever application is declared first
OBSERVE_TIMER = "backstay-observe.timer"  # so is this one

FORMAT = 1  # of secrets.json
FIRST_GENERATION = "0001"

NO_HOME = "/nonexistent"
NO_SHELLS = ("/usr/sbin/nologin", "/sbin/nologin", "/bin/false", "/usr/bin/false")


@dataclass(frozen=True)
class Account:
    """A user of the host, as far as it matters here."""

    uid: int
    home: str
    shell: str
    comment: str


@dataclass(frozen=True)
class Desired:
    """What must be there. `files` are root-only; `secret_files` are those whose content is never shown."""

    application: Application
    generation: str
    directories: tuple[Directory, ...]
    files: Mapping[Path, bytes]
    secret_files: frozenset[Path]
    units: tuple[str, ...]


@dataclass(frozen=True)
class Current:
    """What is there. `ours`: this application was declared here before, at least in part."""

    ours: bool
    account: Account | None
    home_in_use: bool
    foreign: tuple[Path, ...]  # directories that will be Backstay's own, with something in them
    directories: Mapping[Path, Directory | None]
    files: Mapping[Path, bytes | None]
    generation: str | None
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


def desired(
    layout: Layout,
    application: Application,
    secrets: Mapping[str, Any],
    generation: str,
    *,
    allowed_signers: str | None = None,
    backup_secrets: Mapping[str, Any] | None = None,
) -> Desired:
    """Pure: everything of one application on a host, with its data in `generation`.

    Only secrets that the application's file names are kept on the host. `allowed_signers` is the text that says who may
    vouch for payloads; None leaves what is there. `backup_secrets` are what the repositories are opened with, by name;
    None leaves what is there. Raises InputError for a required key that is missing or empty, and for signers that are
    none.
    """
    compose(application, secrets, {})
    pinged = application.schedules.ping_keys
    told = application.alerts.secret_keys if application.alerts else ()
    kept = {key: secrets[key] for key in (*application.environment.secret, *pinged, *told) if key in secrets}
    if application.alerts and application.alerts.chat:
        _check_webhook(application.name, application.alerts.chat, secrets.get(application.alerts.chat))
    for key in pinged:
        _check_ping(application.name, key, secrets.get(key))
    # The configuration comes first: from then on the application counts as ours, also where a run was cut off.
    directories = [
        Directory(layout.configuration.parent, "root", "root", 0o700),
        Directory(layout.configuration, "root", "root", 0o700),
        Directory(layout.configuration / "releases", "root", "root", 0o700),
        Directory(layout.state.parent, "root", "root", 0o700),
        Directory(layout.state, "root", "root", 0o700),
        Directory(layout.old_journals, "root", "root", 0o700),
        Directory(layout.artifacts, "root", "root", 0o700),
        Directory(layout.home, "root", "root", 0o755),
        Directory(layout.releases, "root", "root", 0o755),
        Directory(layout.environments, "root", "root", 0o755),
        Directory(layout.static, "root", "root", 0o755),
        Directory(layout.generations, "root", "root", 0o755),
        *data_directories(application, layout.generations / generation),
        Directory(layout.logs, application.name, "adm", 0o2750),
    ]
    files = {
        layout.secrets_file: canonical({"format": FORMAT, "values": kept}) + b"\n",
        layout.application_file: canonical(to_dict(application)) + b"\n",
    }
    if allowed_signers is not None:
        check_allowed_signers(allowed_signers, origin="The list of allowed signers (backstay_allowed_signers)")
        files[layout.allowed_signers] = allowed_signers.strip().encode() + b"\n"
    if backup_secrets is not None and application.backup is not None:
        given = _repository_secrets(application.backup, backup_secrets)
        files[layout.backup_secrets] = canonical({"format": FORMAT, "repositories": given}) + b"\n"
    secret_files = frozenset({layout.secrets_file, layout.backup_secrets})
    units = (layout.transaction_socket_unit, layout.recover_unit, layout.review_timer, PAGE_TIMER, OBSERVE_TIMER)
    return Desired(application, generation, tuple(directories), files, secret_files, units)


def _check_ping(name: str, key: str, url: Any) -> None:
    """Raises InputError for what is no URL to tell of runs, never showing it: whoever knows it can tell lies to it."""
    if not isinstance(url, str) or not re.fullmatch(r"https?://[!-~]+", url) or "?" in url or "#" in url:
        raise InputError(
            f"The Vault variable backstay_secrets['{name}']['{key}'], which a job names as its `ping`, holds "
            "no URL: give it one without ? and #, such as https://hc-ping.com/<uuid>."
        )


def _check_webhook(name: str, key: str, url: Any) -> None:
    """Raises InputError for what is no URL to tell people at, never showing it: whoever knows it can write there."""
    if not isinstance(url, str) or not re.fullmatch(r"https?://[!-~]+", url):
        raise InputError(
            f"The Vault variable backstay_secrets['{name}']['{key}'], which `alerts` names, holds no URL: give it the "
            "webhook's address, such as https://hooks.slack.com/services/..."
        )


# What a repository may be opened with, beside its password.
_OPENED_WITH = ("private_key", "known_hosts", "access_key_id", "secret_access_key", "region", "ca", "prune")


def _repository_secrets(policy: BackupPolicy, given: Mapping[str, Any]) -> dict[str, Any]:
    """The secrets of the repositories that the application's file names. Raises InputError, never showing a value."""
    found = {}
    for name in policy.repositories:
        secrets = given.get(name)
        where = f"backstay_backup_secrets of the repository {name!r}"
        if not isinstance(secrets, Mapping) or not str(secrets.get("password") or "").strip():
            raise InputError(f"{where} have no `password`: put one into Vault; without it nothing can be stored there.")
        unknown = sorted(set(secrets) - {"password", *_OPENED_WITH})
        if unknown:
            known = ", ".join(("password", *_OPENED_WITH))
            raise InputError(f"{where} hold the unknown key {unknown[0]!r}: known are {known}.")
        found[name] = dict(secrets)
    return found


def plan(current: Current, wanted: Desired) -> Plan:
    """Pure: what differs. A data link that exists stays, wherever it points: restores move it."""
    return Plan(
        user=current.account is None,
        directories=tuple(
            directory for directory in wanted.directories if current.directories.get(directory.path) != directory
        ),
        files=tuple(path for path, content in wanted.files.items() if current.files.get(path) != content),
        data_link=current.generation is None,
        enable=tuple(unit for unit in wanted.units if unit not in current.enabled),
        # The socket listens and the timer counts from now on; recovery runs at boot, and when a transaction died.
        start=tuple(
            unit for unit in wanted.units if unit.endswith((".socket", ".timer")) and unit not in current.active
        ),
        before=dict(current.files),
    )


def refusal(current: Current, layout: Layout, *, adopt: bool) -> str | None:
    """Pure: the sentence with which a host is refused whose directory or user is somebody else's; None to go on."""
    account = current.account
    if account is not None and account.uid == 0:
        return f"The user {layout.name} is root under another name: name the application differently."
    if current.ours:
        return None
    if adopt:
        if not current.foreign:
            return None
        # Nobody's file may go because no release refers to it.
        return (
            f"{' and '.join(map(str, current.foreign))} hold somebody's files, and there Backstay removes what no "
            "release refers to: move them away, then run this again."
        )
    if current.home_in_use:
        return (
            f"{layout.home} exists and was not made by backstay: move it away, or say adopt=keep to build beside what "
            "is in it."
        )
    if account is not None and (account.shell not in NO_SHELLS or account.home != NO_HOME):
        return (
            f"The user {layout.name} exists with the home {account.home} and the shell {account.shell}, and is "
            "somebody else's: name the application differently, or say adopt=keep to run it as that user."
        )
    if account is not None and account.comment != _comment(layout.name):
        return (
            f"The user {layout.name} exists and was not made by backstay: name the application differently, or say "
            "adopt=keep to run it as that user."
        )
    logs = current.directories.get(layout.logs)
    if logs is not None and logs.owner != layout.name:
        return (
            f"{layout.logs} exists and belongs to {logs.owner}: move it away, or say adopt=keep to give it to the user "
            f"{layout.name}."
        )
    return None


def _comment(name: str) -> str:
    """By what an account that Backstay made is recognised where the application has nothing else here yet."""
    return f"backstay {name}"


class Declaration:
    """The adapter: reads the host, refuses what is not ours, and carries a plan out."""

    def __init__(
        self,
        application: Mapping[str, Any],
        secrets: Mapping[str, Any],
        *,
        allowed_signers: str | None = None,
        backup_secrets: Mapping[str, Any] | None = None,
        adopt: bool = False,
        root: Path = Path("/"),
        storage: Storage | None = None,
        runner: Runner = run,
    ) -> None:
        """Raises InputError for a bad application, for a required key that is missing or empty, and for signers that
        are none."""
        parsed = parse(application, file=f"applications/{application.get('name', '<name>')}.yml")
        self.layout = Layout(parsed.name, root)
        self._adopt = adopt
        self._storage = storage or Storage()
        self._run = runner
        self._generation = self._read_generation()
        given = Secrets(secrets)
        self.desired = self._with_unfinished(
            desired(
                self.layout,
                parsed,
                given,
                self._generation or self._named_last(),
                allowed_signers=allowed_signers,
                backup_secrets=backup_secrets,
            )
        )
        useless = ", ".join(unused(parsed, given))
        remark = f"backstay_secrets holds {useless}, which environment.secret does not name: nobody gets it"
        self.remarks = (f"{parsed.name}: {remark}",) if useless else ()  # for people; nothing is wrong with the rest

    def plan(self) -> Plan:
        """What would change. Raises InputError for anything in the way that is not ours, or from a newer backstay."""
        current = self._current()
        refused = refusal(current, self.layout, adopt=self._adopt)
        if refused is not None:
            raise InputError(refused)
        self._check_passwords()
        return plan(current, self.desired)

    def _check_passwords(self) -> None:
        """Raises InputError where a repository would be locked out by what is declared."""
        from ._passwords import refusals

        backup, wanted = self.desired.application.backup, self.desired.files.get(self.layout.backup_secrets)
        if backup is None or wanted is None:
            return
        given = _json(wanted)["repositories"]
        found = refusals(self.layout, self._storage, backup.repositories, given, runner=self._run)
        if found:
            raise InputError(f"{' '.join(found)} Nothing was changed.")

    def _with_unfinished(self, wanted: Desired) -> Desired:
        """With what a change of a repository's password needs that was cut short."""
        from ._passwords import completed, present

        path = self.layout.backup_secrets
        if path not in wanted.files:
            return wanted
        given = completed(present(self.layout, self._storage), _json(wanted.files[path])["repositories"])
        content = canonical({"format": FORMAT, "repositories": given}) + b"\n"
        return replace(wanted, files={**wanted.files, path: content})

    # reading

    def _read_generation(self) -> str | None:
        """The generation that the data link names."""
        data = self.layout.data
        try:
            target = data.readlink()
        except FileNotFoundError:
            return None
        except OSError:
            target = Path()
        if target.parent != Path(self.layout.generations.name):
            raise InputError(
                f"{data} must be a link to {self.layout.generations.name}/<generation> and is not: move it to "
                f"{self.layout.generations / FIRST_GENERATION}, then run this again."
            )
        return target.name

    def _named_last(self) -> str:
        """The generation that a link which is gone named: the first, unless something was restored. Raises InputError
        where nobody can tell, for visitors must not be shown older data as if nothing had happened."""
        from ._ledger import Ledger
        from ._restore import last_change

        place = self.layout.generations
        there = generations.known(self.layout) if place.is_dir() else ()
        last = last_change(Ledger(self.layout.ledger, self._storage, lambda: "").read())
        named = str(last.data["restored"]["generation"]) if last else ""
        if not there or named in there:
            return named or FIRST_GENERATION
        if len(there) == 1 and not named:
            return there[0]
        why = f"the last one restored, {named}, is not there" if named else "nothing says which of them was live"
        raise InputError(
            f"{self.layout.data}, the link to the live data, is gone. {place} holds {', '.join(there)}, and {why}: "
            f"look, link the right one (`ln -s {place.name}/{there[-1]} {self.layout.data}`), then run it again."
        )

    def _current(self) -> Current:
        wanted, layout = self.desired, self.layout
        enabled, active = Systemd(self._run).enabled_and_active(wanted.units)
        return Current(
            ours=layout.configuration.is_dir(),
            account=_account(layout.name),
            home_in_use=_in_use(layout.home),
            foreign=tuple(
                path for path in (layout.releases, layout.environments, layout.static, layout.active) if _in_use(path)
            ),
            directories={directory.path: _seen(directory.path) for directory in wanted.directories},
            files={path: self._read(path) for path in wanted.files},
            generation=self._generation,
            enabled=enabled,
            active=active,
        )

    def _read(self, path: Path) -> bytes | None:
        """A file that this library wrote. What a newer one wrote is not ours to replace."""
        content = self._storage.read(path)
        known = FORMAT if path in self.desired.secret_files else APPLICATION_FORMAT
        found = _json(content).get("format")
        if isinstance(found, int) and found > known:
            raise InputError(
                f"{path} has format {found} and this backstay knows {known}: use the newer backstay that wrote it."
            )
        return content

    # doing

    def apply(self, planned: Plan) -> None:
        """Carry the plan out; each part can be done twice. Raises BackstayError."""
        if planned.enable or planned.start:
            self._need_command()
        root_owned = [directory for directory in planned.directories if directory.owner == "root"]
        for directory in root_owned:
            make_directory(directory, trusted=self.layout.generations)
        if planned.user:
            self._make_user()
        for directory in planned.directories:
            if directory not in root_owned:
                make_directory(directory, trusted=self.layout.generations)
        if planned.data_link:
            self._storage.link(self.layout.data, f"{self.layout.generations.name}/{self.desired.generation}")
        for path in planned.files:
            self._storage.write(path, self.desired.files[path], mode=0o600)
        if planned.enable:
            self._run(["systemctl", "enable", "--quiet", *planned.enable])
        if planned.start:
            self._run(["systemctl", "start", *planned.start])

    def _need_command(self) -> None:
        missing = [unit for unit in self.desired.units if not (self.layout.units / _template(unit)).exists()]
        if missing:
            raise BackstayError(
                f"The backstay command is not installed on this host ({_template(missing[0])} is missing): run role "
                "base, or the module host_command, first."
            )

    def _make_user(self) -> None:
        name = self.layout.name
        try:
            group = ["--gid", grp.getgrnam(name).gr_name]
        except KeyError:
            group = ["--user-group"]
        account = ["--system", *group, "--home-dir", NO_HOME, "--no-create-home", "--shell", NO_SHELLS[0]]
        try:
            self._run(["useradd", *account, "--comment", _comment(name), name])
        except BackstayError as refused:  # the service of a transaction, for one, may not write to /etc
            raise BackstayError(
                f"The user {name}, as whom the application runs, is missing on this host and could not be made here: "
                "run playbooks/site.yml, which makes it; where that says the same, see what useradd says.",
                lines=(refused.message, *refused.lines),
            ) from refused

    # telling

    def differs_from_live(self, live: str | None) -> bool:
        """Whether the application as desired differs from what the release `live` runs with, secrets left aside."""
        if live is None:
            return False
        ran = self._storage.read(self.layout.release_configuration(live) / "application.json")
        wanted = self.desired.files[self.layout.application_file]
        return ran is None or running_part(_json(ran)) != running_part(_json(wanted))

    def diff(self, planned: Plan) -> list[dict[str, str]]:
        """What changes, for people; of secrets only the names of their keys, and whether they change."""
        shown = [
            {
                "before_header": str(path),
                "after_header": str(path),
                "before": self._shown(path, planned.before.get(path), planned, after=False),
                "after": self._shown(path, self.desired.files[path], planned, after=True),
            }
            for path in planned.files
        ]
        lines = [f"user {self.layout.name}\n"] if planned.user else []
        lines += [f"{d.mode:04o} {d.owner}:{d.group} {d.path}\n" for d in planned.directories]
        lines += [f"{self.layout.data} -> data.d/{self.desired.generation}\n"] if planned.data_link else []
        lines += [f"enabled {unit}\n" for unit in planned.enable] + [f"started {unit}\n" for unit in planned.start]
        return [*shown, {"before": "", "after": "".join(lines)}] if lines else shown

    def _shown(self, path: Path, content: bytes | None, planned: Plan, *, after: bool) -> str:
        if content is None:
            return ""
        if path == self.layout.allowed_signers:
            return content.decode(errors="replace")
        if path not in self.desired.secret_files:
            return json.dumps(_json(content), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        if path == self.layout.backup_secrets:
            names = _json(content).get("repositories") or {}
            return "".join(f"{name}: (secret)\n" for name in sorted(names))
        changed = self.secrets_changed(planned) if after else ()
        return "".join(f"{key}: (secret{', changed' if key in changed else ''})\n" for key in sorted(_values(content)))

    def secrets_changed(self, planned: Plan) -> tuple[str, ...]:
        """Names of the secrets that are new, gone, or have another value."""
        path = self.layout.secrets_file
        if path not in planned.files:
            return ()
        old, new = _values(planned.before.get(path)), _values(self.desired.files[path])
        return tuple(sorted(key for key in {*old, *new} if old.get(key) != new.get(key)))


def declare(options: Mapping[str, Any], *, check_mode: bool) -> tuple[Declaration, Plan]:
    """Plan, and apply unless only asked what would happen. `options` are those of the module `application`.

    Raises BackstayError.
    """
    declaration = Declaration(
        options["application"],
        options.get("secrets") or {},
        allowed_signers=options.get("allowed_signers"),
        backup_secrets=options.get("backup_secrets"),
        adopt=options.get("adopt") == "keep",
    )
    planned = declaration.plan()
    if planned.changed and not check_mode:
        declaration.apply(planned)
    return declaration, planned


def _json(content: bytes | None) -> dict[str, Any]:
    """The object in a file; an empty one where there is none, or where it cannot be read."""
    try:
        value = json.loads(content or b"{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _values(content: bytes | None) -> dict[str, Any]:
    values = _json(content).get("values")
    return values if isinstance(values, dict) else {}


def _template(unit: str) -> str:
    """`backstay-recover@portal.service` comes from `backstay-recover@.service`; any other unit from itself."""
    name, at, instance = unit.partition("@")
    return f"{name}@.{instance.rpartition('.')[2]}" if at else unit


def _account(name: str) -> Account | None:
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        return None
    # useradd writes the comment whole; what chfn added behind it (room, telephone) makes the account nobody else's.
    return Account(found.pw_uid, found.pw_dir, found.pw_shell, found.pw_gecos.partition(",")[0])


def _in_use(home: Path) -> bool:
    """Whether something is there that is not an empty directory."""
    if not os.path.lexists(home):
        return False
    return not home.is_dir() or any(home.iterdir())


def _seen(path: Path) -> Directory | None:
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
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
