"""sshd lets in keys alone: its drop-in as text, whether somebody could still come in, and how it comes to hold.

sshd takes the first value that it reads, so the file sorts before those of others; what counts afterwards is what
`sshd -T` says, not what was written.
"""

from __future__ import annotations

import difflib
import pwd
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ._errors import BackstayError, GateRefused, InputError
from ._file_set import Entry, FileSet
from ._run import Runner, run
from ._second_session import Doorkeeper, Session
from ._storage import Storage

NAME = "sshd"
DROP_IN = "/etc/ssh/sshd_config.d/00-backstay.conf"
SSHD = "/usr/sbin/sshd"
RELOAD = ("try-reload-or-restart", "ssh.service")
RootLogin = Literal["no", "prohibit-password"]
_KEY = re.compile(
    r"(?:^|\s)(?:ssh-(?:ed25519|rsa)|ecdsa-sha2-nistp\d+|sk-[\w-]+@openssh\.com)\s+AAAA[0-9A-Za-z+/=]{20,}"
)


@dataclass(frozen=True)
class Door:
    """How people come in. `root_login`: whether root may, with a key; `forwarding`: whether sessions may carry others'
    connections."""

    root_login: RootLogin = "prohibit-password"
    forwarding: bool = False


def settings(door: Door) -> dict[str, str]:
    """The keywords of sshd_config and their values. Pure."""
    forwarding = "yes" if door.forwarding else "no"
    return {
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "PubkeyAuthentication": "yes",
        "PermitEmptyPasswords": "no",
        "PermitRootLogin": door.root_login,
        "X11Forwarding": "no",
        "AllowAgentForwarding": forwarding,
        "AllowTcpForwarding": forwarding,
        "LoginGraceTime": "30",
    }


def text(door: Door) -> str:
    """The drop-in. Pure."""
    lines = "".join(f"{keyword} {value}\n" for keyword, value in settings(door).items())
    return (
        f"# Written by Backstay: keys alone. It sorts first, because sshd keeps the first value that it reads.\n{lines}"
    )


def overridden(door: Door, effective: str) -> tuple[str, ...]:
    """What `sshd -T` says otherwise than asked, such as `passwordauthentication yes`; empty where all holds. Pure."""
    found = dict(line.partition(" ")[::2] for line in effective.splitlines())
    wanted = {keyword.lower(): value for keyword, value in settings(door).items()}
    aliases = {"without-password": "prohibit-password"}
    return tuple(
        f"{keyword} {found.get(keyword, 'not told')}"
        for keyword, value in wanted.items()
        if aliases.get(found.get(keyword, ""), found.get(keyword)) != value
    )


def has_key(authorized: str) -> bool:
    """Whether a text of authorized_keys lets anybody in. Pure."""
    lines = (line.strip() for line in authorized.splitlines())
    return any(_KEY.search(line) for line in lines if line and not line.startswith("#"))


def refusals(door: Door, session: Session | None, admins: Sequence[str], keys: Mapping[str, bool]) -> tuple[str, ...]:
    """Why nobody could come in afterwards, each a sentence; nothing where somebody could. `keys`: who has one. Pure."""
    people = [*([session.user] if session else []), *admins]
    allowed = [name for name in people if name != "root" or door.root_login != "no"]
    said = []
    if session and session.user not in allowed:
        said.append("your own session is root's, and hardening_root_login is no: come in as an administrator.")
    elif session and not keys.get(session.user):
        said.append(f"{session.user}, as whom you came in, has no key in authorized_keys.")
    if not any(keys.get(name) for name in allowed):
        named = ", ".join(dict.fromkeys(allowed)) or "nobody"
        said.append(f"no administrator has a key in authorized_keys (looked at: {named}).")
    return tuple(said)


Verb = Literal["nothing", "confirm", "place"]


def plan(wanted: str, present: str | None, *, waits: bool, holds: bool) -> Verb:
    """What is to be done; `holds`: whether `sshd -T` says what is wanted. Pure."""
    if present == wanted and holds:
        return "confirm" if waits else "nothing"
    return "place"


class Sshd:
    """sshd of this host. `root` is moved by tests."""

    def __init__(
        self,
        *,
        root: Path = Path("/"),
        runner: Runner = run,
        storage: Storage | None = None,
        doorkeeper: Doorkeeper | None = None,
        file_set: FileSet | None = None,
        home: Callable[[str], Path | None] | None = None,
    ) -> None:
        self._file = root / DROP_IN.lstrip("/")
        self._run = runner
        self._storage = storage or Storage()
        self._door = doorkeeper or Doorkeeper(NAME, root=root, storage=self._storage, runner=runner)
        self._file_set = file_set or FileSet()
        self._home = home or _home

    def effective(self) -> str:
        """What sshd makes of its configuration, for the session that asks. Raises BackstayError where it refuses it."""
        session = self._door.session()
        matched = ["-C", f"user={session.user},host=localhost,addr={session.client or '::1'}"] if session else []
        return self._run([SSHD, "-T", *matched]).stdout

    def planned(self, door: Door, admins: Sequence[str]) -> tuple[Verb, str]:
        """What there is to do, and a diff. Raises GateRefused when nobody could come in afterwards."""
        session, effective = self._door.session(), self.effective()
        people = {*admins, *([session.user] if session else [])}
        refused = refusals(door, session, admins, {name: self._has_key(name, effective) for name in people})
        if refused:
            raise GateRefused(f"sshd stays as it is: {' '.join(refused)} Add a key (base_admins), then run it again.")
        content = self._storage.read(self._file)
        present, wanted = (None if content is None else content.decode(errors="replace")), text(door)
        verb = plan(wanted, present, waits=self._door.waits, holds=not overridden(door, effective))
        if verb == "place":
            self._file_set.plan([self._entry(wanted)], adopt=False)
        shown = difflib.unified_diff(
            (present or "").splitlines(keepends=True), wanted.splitlines(keepends=True), DROP_IN, DROP_IN
        )
        return verb, "".join(shown)

    def _entry(self, wanted: str) -> Entry:
        return Entry(DROP_IN, "file", wanted.encode())

    def _has_key(self, name: str, effective: str) -> bool:
        home = self._home(name)
        if home is None:
            return False
        found = re.search(r"^authorizedkeysfile (.+)$", effective, re.MULTILINE)
        for pattern in (found[1] if found else ".ssh/authorized_keys").split():
            path = home / pattern.replace("%h", str(home)).replace("%u", name).replace("%%", "%")
            content = self._storage.read(path)
            if content and has_key(content.decode(errors="replace")):
                return True
        return False

    def place(self, door: Door, *, seconds: int) -> tuple[str, ...]:
        """Let sshd take keys alone, until it is confirmed or `seconds` are over. Returns lines for people. Raises
        BackstayError; sshd is then as it was."""
        self._door.require_none_waits()
        kept = self._file_set.keep([self._entry(text(door))])
        former, before = self._door.state / "sshd.former.conf", self._storage.read(self._file)
        self._storage.make_directory(self._door.state, mode=0o700)
        if before is None:
            back = ["/usr/bin/rm", "-f", DROP_IN]
        else:
            self._storage.write(former, before, mode=0o600)
            back = ["/usr/bin/install", "-m", "0644", str(former), DROP_IN]
        self._door.arm([back, ["/usr/bin/systemctl", "--no-block", *RELOAD]], seconds=seconds)
        try:
            self._storage.write(self._file, text(door).encode())
            self._run([SSHD, "-t"])
            wrong = overridden(door, self.effective())
            if wrong:
                raise InputError(
                    f"sshd does not do as {DROP_IN} says ({'; '.join(wrong)}): /etc/ssh/sshd_config must begin with "
                    "`Include /etc/ssh/sshd_config.d/*.conf`, and no file there may sort before ours or match better."
                )
            self._run(["systemctl", *RELOAD])
            self._door.changed()
        except BackstayError:
            self._door.undo()
            raise
        return kept

    def confirm(self) -> None:
        """Keep what waits. Raises GateRefused for a session that proves nothing."""
        self._door.require_second_session()
        content = self._storage.read(self._file) or b""
        self._file_set.place([self._entry(content.decode())])
        self._door.disarm()


def _home(name: str) -> Path | None:
    try:
        return Path(pwd.getpwnam(name).pw_dir)
    except KeyError:
        return None
