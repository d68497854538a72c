"""A change of the host's door that undoes itself unless a second session confirms it.

`Doorkeeper.arm` is called before the change: from then on two units know how to undo it, one at its time and one at the
next boot. `confirm` disarms them, for a session over ssh that began after the change: the one that made it goes on
through an open connection, whatever the door says by now, so it proves nothing.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ._errors import BackstayError, GateRefused
from ._run import Runner, run
from ._storage import Storage, canonical
from ._units import quote

FORMAT = 1
STATE = Path("/var/lib/backstay/.host")
_SESSION = re.compile(r"^sshd(-session)?$")
_ANCESTORS = 64


@dataclass(frozen=True)
class Session:
    """The ssh session that somebody came through. `began`: seconds since the host's boot, of its own process.

    `client` and `port` are those of SSH_CONNECTION: where it comes from, and the port of this host it came to.
    """

    began: float
    user: str
    client: str = ""
    port: int = 0


@dataclass(frozen=True)
class Process:
    """One process, as /proc tells. `began`: seconds since the host's boot."""

    name: str
    parent: int
    began: float
    uid: int
    connection: str = ""


def read_process(pid: int, proc: Path = Path("/proc")) -> Process | None:
    """A process of this host; None for one that is gone."""
    try:
        status = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        uid = (proc / str(pid)).stat().st_uid
        environment = (proc / str(pid) / "environ").read_bytes()
    except OSError:
        return None
    name = status[status.index("(") + 1 : status.rindex(")")]
    fields = status[status.rindex(")") + 2 :].split()
    began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    found = re.search(rb"(?:^|\0)SSH_CONNECTION=([^\0]*)", environment)
    return Process(name, int(fields[1]), began, uid, found[1].decode(errors="replace") if found else "")


def session_of(pid: int, look: Callable[[int], Process | None] = read_process) -> Session | None:
    """The session that a process belongs to: its nearest ancestor that serves ssh. None where there is none."""
    connection, uid = "", 0
    for _unused in range(_ANCESTORS):
        process = look(pid)
        if process is None or pid <= 1:
            return None
        if _SESSION.match(process.name):
            client, _other, port = _parts(connection)
            return Session(process.began, _user(uid), client, port)
        connection, uid, pid = connection or process.connection, process.uid, process.parent
    return None


def _parts(connection: str) -> tuple[str, str, int]:
    parts = connection.split()
    return (parts[0], parts[2], int(parts[3])) if len(parts) == 4 and parts[3].isdecimal() else ("", "", 0)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def verdict(began: float, session: Session | None) -> str | None:
    """Why a session does not confirm a change made at `began` (seconds since boot); None where it does. Pure."""
    if session is None:
        return "this is no session over ssh, so it does not show that one can still come in"
    if session.began <= began:
        return "this session was there before the change, so it does not show that a new one can come in"
    return None


def undo_units(name: str, commands: Sequence[Sequence[str]], *, seconds: int, state: Path = STATE) -> dict[str, str]:
    """The service that undoes a change, and its timer, by file name. Pure.

    At boot the service runs before sshd reads its configuration: a host that was restarted meanwhile is as before, too.
    """
    service = f"backstay-undo-{name}.service"
    paths = [str(path) for path in (record(name, state), *_links(name))]
    steps = [*commands, ["/usr/bin/rm", "-f", *paths]]
    lines = "".join(f"ExecStart=-{' '.join(quote(part) for part in step)}\n" for step in steps)
    unit = (
        "# Written by Backstay, and removed as soon as the change is confirmed or undone.\n"
        f"[Unit]\nDescription=Undo the change of {name} that no second session confirmed\n"
    )
    return {
        service: f"{unit}Before=ssh.service ssh.socket\n\n[Service]\nType=oneshot\n"
        f"# Nothing is out of its reach: it puts back whatever was changed, or nobody comes in again.\n{lines}\n"
        "[Install]\nWantedBy=multi-user.target\n",
        f"backstay-undo-{name}.timer": f"{unit}\n[Timer]\nOnActiveSec={seconds}\nAccuracySec=1s\nUnit={service}\n",
    }


def record(name: str, state: Path = STATE) -> Path:
    """The file that says that a change waits for its confirmation."""
    return state / f"{name}.unconfirmed.json"


def _links(name: str, units: Path = Path("/etc/systemd/system")) -> tuple[Path, ...]:
    """What makes the undoing run at boot; without it nothing is left to run."""
    return (units / "multi-user.target.wants" / f"backstay-undo-{name}.service",)


class Doorkeeper:
    """Arms, confirms and undoes the change `name` of this host. `root` is moved by tests."""

    def __init__(
        self,
        name: str,
        *,
        root: Path = Path("/"),
        storage: Storage | None = None,
        runner: Runner = run,
        session: Callable[[], Session | None] = lambda: session_of(os.getppid()),
        uptime: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self.name = name
        self._units = root / "etc/systemd/system"
        self.state = root / STATE.relative_to("/")
        self._storage = storage or Storage()
        self._run = runner
        self.session = session
        self._uptime = uptime

    @property
    def waits(self) -> bool:
        """Whether a change waits for its confirmation."""
        return record(self.name, self.state).exists()

    def require_none_waits(self) -> None:
        """Raises BackstayError while a change waits for its confirmation: one at a time. One whose timer was never
        started, or was stopped, would wait for ever: it is undone here."""
        if self.waits and not self._will_undo_itself():
            self.undo()
        if self.waits:
            raise BackstayError(
                f"A change of {self.name} waits for its confirmation already: wait until it has undone itself "
                f"(`systemctl list-timers backstay-undo-{self.name}.timer` says when), then run this again.",
                exit_code=4,
            )

    def _will_undo_itself(self) -> bool:
        units = [f"backstay-undo-{self.name}.{kind}" for kind in ("timer", "service")]
        states = self._run(["systemctl", "is-active", "--", *units], check=False).stdout.split()
        return bool({"active", "activating", "deactivating"} & set(states))

    def arm(self, commands: Sequence[Sequence[str]], *, seconds: int) -> None:
        """From now on the change undoes itself after `seconds`, or at the next boot. Raises BackstayError.

        Call `changed` once it is made: only sessions from then on may confirm it.
        """
        self.require_none_waits()
        self._storage.make_directory(self.state, mode=0o700)
        for file, text in undo_units(self.name, commands, seconds=seconds, state=self.state).items():
            self._storage.write(self._units / file, text.encode())
        self.changed()
        try:
            self._run(["systemctl", "daemon-reload"])
            self._run(["systemctl", "enable", f"backstay-undo-{self.name}.service"])
            # A timer that has run down stays active, and starting what is active does nothing.
            self._run(["systemctl", "restart", f"backstay-undo-{self.name}.timer"])
        except BackstayError:
            self._forget()  # nothing was changed yet
            raise

    def changed(self) -> None:
        """Remember this moment as that of the change."""
        value = {"format": FORMAT, "change": self.name, "seconds_since_boot": self._uptime()}
        self._storage.write(record(self.name, self.state), canonical(value) + b"\n", mode=0o600)

    def require_second_session(self) -> None:
        """Raises GateRefused unless a change waits and this session began after it."""
        content = self._storage.read(record(self.name, self.state))
        if content is None:
            raise GateRefused(
                f"No change of {self.name} waits for a confirmation: it has undone itself, or was confirmed before. "
                "Run playbooks/site.yml again."
            )
        why_not = verdict(float(json.loads(content)["seconds_since_boot"]), self.session())
        if why_not:
            raise GateRefused(
                f"The change of {self.name} is not confirmed: {why_not}. Open a new connection by ssh and run it "
                "there; otherwise the change undoes itself."
            )

    def disarm(self) -> None:
        """Keep the change: nothing undoes it any more. Raises BackstayError when the undoing has begun."""
        self._run(["systemctl", "stop", f"backstay-undo-{self.name}.timer"], check=False)
        if not self.waits:
            raise BackstayError(
                f"The change of {self.name} was undone while it was confirmed: run playbooks/site.yml again."
            )
        self._forget()

    def undo(self) -> None:
        """Undo the change at once, as when it turns out to be wrong by itself."""
        self._run(["systemctl", "start", f"backstay-undo-{self.name}.service"], check=False)
        self._run(["systemctl", "stop", f"backstay-undo-{self.name}.timer"], check=False)
        self._forget()

    def _forget(self) -> None:
        for path in (
            *_links(self.name, self._units),
            self._units / f"backstay-undo-{self.name}.timer",
            self._units / f"backstay-undo-{self.name}.service",
            record(self.name, self.state),
        ):
            self._storage.remove(path)
        self._run(["systemctl", "daemon-reload"], check=False)
