"""Installs the library as the host's command: the very files that a module was carried with.

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
import importlib.resources
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ._errors import BackstayError, InputError
from ._run import Runner, run
from ._storage import Storage
from ._version import PROTOCOL, VERSION

ROOM = Path("usr/lib/backstay")
LAUNCHER = Path("usr/bin/backstay")
UNITS = Path("etc/systemd/system")
STATE = Path("var/lib/backstay")
KEEP = 3  # this version and two before it

LAUNCHER_TEXT = """\
#!/usr/bin/python3 -IS
# Written by backstay. It sees only its own library: no site-packages, no environment, no current directory. The link is
# resolved once, so that a service that outlives an upgrade never loads half of the new library.
import os
import sys
sys.path.insert(0, os.path.realpath("/usr/lib/backstay/current"))
from backstay._cli import main
sys.exit(main())
"""

SOCKET_UNIT = """\
# Written by backstay.
[Unit]
Description=Transactions of %i: connecting here is starting one

[Socket]
ListenStream=/run/backstay/%i.sock
SocketMode=0600
DirectoryMode=0755
RemoveOnStop=yes
# A sweep that kills the service again and again must not close the door.
TriggerLimitIntervalSec=0

[Install]
WantedBy=sockets.target
"""

SERVICE_UNIT = """\
# Written by backstay.
[Unit]
Description=The transaction of %i, from prepare to confirm
OnFailure=backstay-recover@%i.service
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart=/usr/bin/backstay transaction serve %i
KillMode=mixed
TimeoutStopSec=30
# It starts units, moves links and makes virtualenvs as root; what it never needs is taken away.
NoNewPrivileges=yes
ProtectHome=yes
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectClock=yes
ProtectHostname=yes
RestrictRealtime=yes
RestrictNamespaces=yes
LockPersonality=yes
SystemCallArchitectures=native
"""

RECOVER_UNIT = """\
# Written by backstay.
[Unit]
Description=Finish or undo an unfinished transaction of %i, and run what must run
After=local-fs.target network.target systemd-tmpfiles-setup.service
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart=/usr/bin/backstay recover %i --boot
TimeoutStartSec=300

[Install]
WantedBy=multi-user.target
"""

REVIEW_UNIT = """\
# Written by backstay.
[Unit]
Description=Sum up the day after a release of %i

[Service]
Type=oneshot
ExecStart=/usr/bin/backstay review %i
"""

REVIEW_TIMER = """\
# Written by backstay.
[Unit]
Description=Ask each hour whether the day after a release of %i is over

[Timer]
OnCalendar=hourly
RandomizedDelaySec=300
Persistent=yes

[Install]
WantedBy=timers.target
"""

# It hands mail to the host's sendmail, which may be set-user-id: NoNewPrivileges= would make root of its queue's owner.
OBSERVE_UNIT = """\
# Written by backstay.
[Unit]
Description=Take a sample of the host, see what is wrong, tell whoever is to know
After=local-fs.target

[Service]
Type=oneshot
ExecStart=/usr/bin/backstay observe
# Nothing it asks may keep it longer than the next minute.
TimeoutStartSec=55
UMask=0077
Nice=5
CPUWeight=50
ProtectHome=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectClock=yes
RestrictRealtime=yes
LockPersonality=yes
"""

OBSERVE_TIMER = """\
# Written by backstay.
[Unit]
Description=Observe the host each minute

[Timer]
OnCalendar=minutely
AccuracySec=1s

[Install]
WantedBy=timers.target
"""

HEAL_UNIT = """\
# Written by backstay. monit starts it; its own unit lets no service be restarted from within.
[Unit]
Description=Restart what serves %i, where it runs and answers nobody
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart=/usr/bin/backstay heal %i
TimeoutStartSec=120
UMask=0077
"""

# What both need: root, to read every file and to become the application's user; what they never need is taken away.
# ProtectSystem=strict is not possible, since a repository may lie in any directory, nor RestrictSUIDSGID=, since the
# media have the set-group-id bit.
_QUIET = """\
# Visitors come first, for the processor, for the disk and for memory.
Nice=10
CPUWeight=20
IOSchedulingClass=idle
IOWeight=20
OOMScoreAdjust=500
UMask=0077
CacheDirectory=backstay/%i
CacheDirectoryMode=0700
CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID
CapabilityBoundingSet=CAP_KILL CAP_SETGID CAP_SETUID
NoNewPrivileges=yes
ProtectSystem=full
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictRealtime=yes
RestrictNamespaces=yes
LockPersonality=yes
SystemCallArchitectures=native
"""

# Exit code 4 is Busy, a release or a restore has the data: tried again, as after a signal. 1 to 3 are answers.
BACKUP_UNIT = f"""\
# Written by backstay.
[Unit]
Description=Back up %i
Wants=network-online.target
After=local-fs.target network-online.target backstay-recover@%i.service postgresql.service
StartLimitIntervalSec=4h
StartLimitBurst=24

[Service]
Type=oneshot
ExecStart=/usr/bin/backstay backup %i
Restart=on-failure
RestartPreventExitStatus=1 2 3
RestartSec=5min
# It ends itself after backup.seconds of the application's file; this is for where that did not help.
TimeoutStartSec=25h
{_QUIET}"""

# When: a drop-in for each application names the time (_schedule.py).
BACKUP_TIMER = """\
# Written by backstay. The time is in a drop-in for each application.
[Unit]
Description=Back up %i once a day

[Timer]
OnCalendar=*-*-* 02:00:00
RandomizedDelaySec=60
AccuracySec=1s
Persistent=true

[Install]
WantedBy=timers.target
"""

VERIFY_UNIT = f"""\
# Written by backstay.
[Unit]
Description=Prove the newest restore point of %i
Wants=network-online.target
After=local-fs.target network-online.target backstay-recover@%i.service backstay-backup@%i.service
StartLimitIntervalSec=4h
StartLimitBurst=24

[Service]
Type=oneshot
ExecStart=/usr/bin/backstay verify --level L4 %i
Restart=on-failure
RestartPreventExitStatus=1 2 3
RestartSec=5min
# It ends itself after backup.proof.seconds of the application's file; this is for where that did not help.
TimeoutStartSec=25h
{_QUIET}"""

VERIFY_TIMER = """\
# Written by backstay. The time is in a drop-in for each application.
[Unit]
Description=Prove the newest restore point of %i once a day

[Timer]
OnCalendar=*-*-* 03:30:00
RandomizedDelaySec=60
AccuracySec=1s
Persistent=true

[Install]
WantedBy=timers.target
"""

# The instance is <app>:<job>. The command itself is a unit of its own, in the confinement of a release; this one only
# decides, waits and writes down. Exit code 4 is Busy, tried again each minute; everything else is an answer.
JOB_UNIT = """\
# Written by backstay.
[Unit]
Description=The job %i
Wants=network-online.target
After=local-fs.target network-online.target
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart=/usr/bin/backstay job --scheduled %i
# Whatever becomes of this process, the command does not outlive it.
ExecStopPost=-/usr/bin/systemctl stop --quiet backstay-running-%i.service
Restart=on-failure
RestartPreventExitStatus=1 2 3 SIGHUP SIGINT SIGQUIT SIGABRT SIGBUS SIGSEGV SIGKILL SIGTERM
RestartSec=1min
# It ends the command after timeout_seconds of the application's file; this is for where that did not help.
TimeoutStartSec=26h
UMask=0077
CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH
NoNewPrivileges=yes
ProtectSystem=full
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictRealtime=yes
RestrictNamespaces=yes
LockPersonality=yes
SystemCallArchitectures=native
"""

JOB_TIMER = """\
# Written by backstay. The time is in a drop-in for each job.
[Unit]
Description=The job %i at its time

[Timer]
OnCalendar=*-*-* 03:00:00
AccuracySec=1s
Persistent=true

[Install]
WantedBy=timers.target
"""

JOBS_UNIT = """\
# Written by backstay.
[Unit]
Description=Start what was missed of the jobs of %i

[Service]
Type=oneshot
ExecStart=/usr/bin/backstay jobs --catch-up %i
"""

JOBS_TIMER = """\
# Written by backstay.
[Unit]
Description=Ask each hour whether a job of %i was missed

[Timer]
OnCalendar=*-*-* *:20:00
RandomizedDelaySec=300
Persistent=true

[Install]
WantedBy=timers.target
"""

PAGE_UNIT = """\
# Written by backstay.
[Unit]
Description=Write the one-look page of this host
After=local-fs.target

[Service]
Type=oneshot
ExecStart=/usr/bin/backstay status --page
TimeoutStartSec=240
UMask=0077
Nice=10
CPUWeight=20
IOSchedulingClass=idle
NoNewPrivileges=yes
ProtectHome=yes
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectClock=yes
RestrictRealtime=yes
LockPersonality=yes
"""

PAGE_TIMER = """\
# Written by backstay.
[Unit]
Description=Write the one-look page of this host each five minutes

[Timer]
OnCalendar=*:0/5
RandomizedDelaySec=20
AccuracySec=10s
Persistent=true

[Install]
WantedBy=timers.target
"""

UNIT_TEXTS = {
    "backstay-page.service": PAGE_UNIT,
    "backstay-page.timer": PAGE_TIMER,
    "backstay-job@.service": JOB_UNIT,
    "backstay-job@.timer": JOB_TIMER,
    "backstay-jobs@.service": JOBS_UNIT,
    "backstay-jobs@.timer": JOBS_TIMER,
    "backstay-backup@.service": BACKUP_UNIT,
    "backstay-backup@.timer": BACKUP_TIMER,
    "backstay-verify@.service": VERIFY_UNIT,
    "backstay-verify@.timer": VERIFY_TIMER,
    "backstay-observe.service": OBSERVE_UNIT,
    "backstay-observe.timer": OBSERVE_TIMER,
    "backstay-heal@.service": HEAL_UNIT,
    "backstay-review@.service": REVIEW_UNIT,
    "backstay-review@.timer": REVIEW_TIMER,
    "backstay-transaction@.socket": SOCKET_UNIT,
    "backstay-transaction@.service": SERVICE_UNIT,
    "backstay-recover@.service": RECOVER_UNIT,
}


_PROTOCOL = re.compile(rb"^PROTOCOL = (\d+)$", re.MULTILINE)


def check_protocol(root: Path = Path("/")) -> None:
    """Raises InputError where the installed command is of another protocol: it could not read what is declared by this
    library, and a person alone on the host would find that out at the worst moment."""
    try:
        content = (root / ROOM / "current" / "backstay" / "_version.py").read_bytes()
    except OSError:
        return  # nothing is installed yet, so nothing can misread it
    found = _PROTOCOL.search(content)
    if found is None or int(found[1]) != PROTOCOL:
        raise InputError(
            f"The backstay on this host speaks protocol {int(found[1]) if found else 'unknown'} and this collection "
            f"{PROTOCOL}: bring the host to this version with playbooks/site.yml first; nothing was changed."
        )


def library() -> dict[str, bytes]:
    """The library's files by name, from wherever this module was imported: a directory, or the zip Ansible sent."""
    package = __package__ or ""
    files = {
        entry.name: entry.read_bytes()
        for entry in importlib.resources.files(package).iterdir()
        if entry.name.endswith(".py") and entry.name.startswith("_") and entry.name != "__init__.py"
    }
    if "_cli.py" not in files:
        raise BackstayError(
            "The library was carried here without its command (_cli.py): this is a fault of the module."
        )
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
    def changed(self) -> bool:
        return self.name != self.before or bool(self.texts)


def wanted_texts() -> dict[str, str]:
    """Launcher and units by their path."""
    return {str(LAUNCHER): LAUNCHER_TEXT, **{str(UNITS / name): text for name, text in UNIT_TEXTS.items()}}


def plan(name: str, installed: Installed) -> Plan:
    """Pure: what must change to have the release `name`."""
    missing = tuple(path for path, text in wanted_texts().items() if installed.texts.get(path) != text)
    return Plan(name, installed.current, missing)


class HostCommand:
    """The adapter: reads what is installed below `root` and carries a plan out."""

    def __init__(self, root: Path = Path("/"), storage: Storage | None = None, runner: Runner = run) -> None:
        self._root = root
        self._storage = storage or Storage()
        self._run = runner
        self._files = library()
        self.name = release_name(self._files)

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
            if planned.name != planned.before:
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
