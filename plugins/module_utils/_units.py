"""The systemd units of one release, as text. Pure.

They have no [Install] section: what starts at boot follows from the link `active`, through `backstay-recover@`.

Why these lines (measured, see docs/architecture.md): gunicorn says READY before its workers have loaded, so Type=notify
proves nothing and the gate asks over the socket; TimeoutStopSec lies above the graceful time (the application's file
sees to that), or systemd would kill requests in flight; `@chown` is allowed because gunicorn chowns its own socket; the
runtime directory belongs to this release alone, so that stopping one release cannot remove the socket of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ._layout import Layout

if TYPE_CHECKING:
    from ._application import Application, Process

_HARDENING = """\
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
PrivateUsers=yes
ProtectProc=invisible
ProcSubset=pid
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RemoveIPC=yes
KeyringMode=private
CapabilityBoundingSet=
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallFilter=@chown
SystemCallErrorNumber=EPERM
"""
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # systemd's own


def quote(argument: str) -> str:
    """One argument of ExecStart=, as systemd reads it: quoted, with `%` and `$` taken literally."""
    escaped = argument.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def sandbox(application: Application) -> str:
    """The directives that confine every process of an application, also its migrations and one-off commands."""
    lines = [_HARDENING.rstrip()]
    if application.runtime.type == "django":
        lines.append("MemoryDenyWriteExecute=yes")  # CPython needs no writable code; a JIT would
    if application.network:
        lines.append("RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6")
    else:
        lines += ["PrivateNetwork=yes", "RestrictAddressFamilies=AF_UNIX"]
    layout = Layout(application.name)
    lines.append(f"ReadWritePaths={layout.generations} {layout.logs}")
    lines.append(f"InaccessiblePaths=-/etc/backstay -{layout.state.parent}")
    return "\n".join(lines) + "\n"


def _path(layout: Layout, release_id: str) -> str:
    """The directive that puts the release's own programs before the host's, also for what a script calls or begins with
    (`#!/usr/bin/env python3`). A PATH that the application's file sets is in the environment's file, which wins."""
    return f"Environment=PATH={layout.release(release_id) / 'venv' / 'bin'}:{_SYSTEM_PATH}"


def unit_text(application: Application, release_id: str, process: Process, command: Sequence[str]) -> str:
    """The unit of one process of one release; `command` is what the runtime says to execute."""
    layout = Layout(application.name)
    web = process.kind == "web"
    singleton = process.singleton
    start = " ".join(quote(argument) for argument in command)
    service = [
        f"Type={'notify' if web else 'exec'}",
        f"User={application.name}",
        f"Group={application.name}",
        "UMask=0027",
        f"WorkingDirectory={layout.release(release_id) / 'code'}",
        f"EnvironmentFile={layout.environment_file(release_id)}",
        _path(layout, release_id),
        f"Environment=BACKSTAY_PROCESS={process.name}",
    ]
    if web:
        directory = layout.socket(release_id).parent
        service += [
            # nginx's group may pass through the directory; no other application's user is in it. RuntimeDirectory=
            # cannot say that: systemd gives such a directory to the unit's own group before each command.
            f"ExecStartPre=+/usr/bin/install -d -o {application.name} -g www-data -m 2710 {directory}",
            # What cannot be removed while a start is under way is an empty directory, which the next start takes.
            f"ExecStopPost=-+/usr/bin/rm -rf {directory}",
            f"ReadWritePaths=-{directory}",
        ]
    if singleton:
        # Two releases never run it at once, whatever systemd is asked to start: the second waits for the first.
        service += [f"RuntimeDirectory={application.name}/singletons", "RuntimeDirectoryPreserve=yes"]
        lock = layout.runtime / "singletons" / process.name
        start = f"/usr/bin/flock --exclusive --no-fork {lock} {start}"
    service += [
        f"ExecStart={start}",
        "KillMode=mixed",
        "Restart=always",
        f"RestartSec={'500ms' if web else '3s'}",
        "TimeoutStartSec=90",
        f"TimeoutStopSec={process.stop_seconds:g}",
        f"MemoryMax={process.memory_max_bytes}",
        "TasksMax=512",
        f"SyslogIdentifier={application.name}-{process.name}",
    ]
    return (
        "# Written by backstay with the release; a change of configuration is a release of its own.\n"
        "[Unit]\n"
        f"Description={application.name} {release_id} {process.name}\n"
        "After=network.target\n"
        # A database may be away for longer than any limit of starts lasts, and nobody would start it again.
        "StartLimitIntervalSec=0\n"
        "\n"
        "[Service]\n" + "\n".join(service) + "\n\n" + sandbox(application)
    )


def one_off(application: Application, release_id: str, *, seconds: float | None = None) -> list[str]:
    """The properties that make `systemd-run` give a one-off command the environment and confinement of a release.

    The environment comes from a root-only file that systemd reads, never from the command line.
    """
    layout = Layout(application.name)
    properties = [
        f"User={application.name}",
        f"Group={application.name}",
        "UMask=0027",
        f"WorkingDirectory={layout.release(release_id) / 'code'}",
        f"EnvironmentFile={layout.environment_file(release_id)}",
        _path(layout, release_id),
        *(line for line in sandbox(application).splitlines() if line),
    ]
    if seconds is not None:
        properties.append(f"RuntimeMaxSec={seconds:g}")
    return [f"--property={line}" for line in properties]
