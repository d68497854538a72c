"""systemd, as far as Backstay needs it: start, stop, ask, read the journal; and who is connected to a socket."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

from ._run import Runner, run

_LISTENING = 0x10000  # __SO_ACCEPTCON in the flags of /proc/net/unix


class Systemd:
    """systemctl and journalctl of one host."""

    def __init__(self, runner: Runner = run) -> None:
        self._run = runner

    def reload(self) -> None:
        """Make systemd read new unit files."""
        self._run(["systemctl", "daemon-reload"])

    def start(self, units: Sequence[str], *, wait: bool = True, timeout_seconds: float = 120.0) -> None:
        """Start units; with `wait`, until they say that they are up. Raises BackstayError when one does not."""
        if units:
            self._run(
                ["systemctl", "start", *([] if wait else ["--no-block"]), *units], timeout_seconds=timeout_seconds
            )

    def stop(self, units: Sequence[str], *, wait: bool = True, timeout_seconds: float = 180.0) -> None:
        """Stop units and forget a failure of theirs; one that is unknown is fine."""
        if units:
            arguments = ["systemctl", "stop", *([] if wait else ["--no-block"]), *units]
            self._run(arguments, timeout_seconds=timeout_seconds, check=False)
            if wait:
                self._run(["systemctl", "reset-failed", *units], check=False)

    def exchange(self, leaving: Sequence[str], coming: Sequence[str]) -> None:
        """Have systemd stop and start units, and wait for neither. Raises BackstayError when it does not take a start.

        The two questions are asked at once: each takes longer to ask than to answer.
        """
        asking = threading.Thread(target=self.stop, args=(leaving,), kwargs={"wait": False})
        asking.start()
        try:
            self.start(coming, wait=False)
        finally:
            asking.join()

    def properties(self, unit: str, *names: str) -> dict[str, str]:
        """Properties of a unit as text; an unknown unit has LoadState not-found."""
        answer = self._run(["systemctl", "show", f"--property={','.join(names)}", "--", unit])
        pairs = (line.partition("=") for line in answer.stdout.splitlines())
        return {name: value for name, _unused, value in pairs}

    def states(self, units: Sequence[str]) -> dict[str, str]:
        """ActiveState of each unit (active, activating, inactive, failed ...)."""
        if not units:
            return {}
        answer = self._run(["systemctl", "is-active", "--", *units], check=False)
        return dict(zip(units, answer.stdout.split(), strict=False))

    def enabled_and_active(self, units: Sequence[str]) -> tuple[frozenset[str], frozenset[str]]:
        """Those of the units that are enabled, and those that are active; one question for all."""
        asked = ["systemctl", "show", "--property=Id,UnitFileState,ActiveState", "--", *units]
        enabled, active = set(), set()
        for block in self._run(asked, check=False).stdout.split("\n\n") if units else ():
            seen = dict(line.partition("=")[::2] for line in block.splitlines())
            if seen.get("UnitFileState") == "enabled":
                enabled.add(seen.get("Id", ""))
            if seen.get("ActiveState") == "active":
                active.add(seen.get("Id", ""))
        return frozenset(enabled), frozenset(active)

    def units_of(self, application: str) -> tuple[str, ...]:
        """The units of an application's releases that systemd has loaded and that are not inactive."""
        answer = self._run(
            ["systemctl", "list-units", "--all", "--plain", "--no-legend", f"{application}-[0-9]*.service"], check=False
        )
        rows = (line.split() for line in answer.stdout.splitlines() if line.strip())
        return tuple(
            row[0] for row in rows if len(row) > 2 and row[2] != "inactive" and is_release_unit(application, row[0])
        )

    def last_lines(self, unit: str, count: int = 20, *, since: str | None = None) -> tuple[str, ...]:
        """The last lines a unit wrote to the journal; empty where there are none."""
        arguments = ["journalctl", "--no-pager", "--output=cat", f"--lines={count}", f"--unit={unit}"]
        if since:
            arguments.append(f"--since={since}")
        return tuple(self._run(arguments, check=False).stdout.splitlines())


def is_release_unit(application: str, unit: str) -> bool:
    """Whether a unit is of a release of this very application: `portal-2-0001-1.0.0-web` is none of `portal`."""
    rest = unit.removeprefix(f"{application}-")
    return rest != unit and re.match(r"\d{4,}-\d+\.\d+\.\d+", rest) is not None


def notify(state: str) -> None:
    """Tell systemd something about this service (sd_notify(3)); nothing happens where nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.sendto(state.encode(), address)


def connections(table: str, path: str) -> int:
    """Connections on a listening unix socket, accepted or still waiting to be, from the text of /proc/net/unix.

    The accepted end of a connection carries the listener's path (state 03); one that waits in the backlog is there
    too (state 02). The listener itself does not count.
    """
    count = 0
    for line in table.splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7] == path and not int(fields[3], 16) & _LISTENING:
            count += fields[5] in ("02", "03")
    return count


def open_connections(path: Path) -> int:
    """How many connections a unix socket of this host has now."""
    return connections(Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace"), str(path))


def children() -> dict[int, list[int]]:
    """Every process of this host that has some, with its children."""
    found: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
            found.setdefault(parent, []).append(int(entry.name))
    return found


def memory_of(pid: int) -> int:
    """Bytes of memory (proportional share) of a process and all its descendants; 0 when it is gone."""
    families = children()
    total, queue = 0, [pid]
    while queue:
        current = queue.pop()
        queue += families.get(current, [])
        try:
            text = Path(f"/proc/{current}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))
    return total
