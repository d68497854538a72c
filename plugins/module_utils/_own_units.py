"""The units of the command itself, as texts: what starts it, when, and what is out of its reach. Each is for every
application (`%i`), or for the host. What comes in every hour says UTC: of the hour that a clock shows twice, systemd
would pass over the second.

What is out of reach stands once (`_CLOSED`). What a unit needs all the same is an `Opening`, whose reason stands in the
unit's text above the line: who looks at a host sees why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# systemd-analyze security judges these; no service may be above 3.0 without saying why (tests/unit/host_command).
_CLOSED: Mapping[str, str] = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "full",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "PrivateMounts": "yes",
    "ProtectProc": "invisible",
    "ProtectClock": "yes",
    "ProtectHostname": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectControlGroups": "yes",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "RestrictAddressFamilies": "AF_UNIX",
    "LockPersonality": "yes",
    "MemoryDenyWriteExecute": "yes",
    "KeyringMode": "private",
    "UMask": "0077",
    # root, to read what belongs to others, and no more
    "CapabilityBoundingSet": "CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH",
    "SystemCallArchitectures": "native",
    "SystemCallFilter": "@system-service",
    "SystemCallErrorNumber": "EPERM",
}
# Of these a further line adds to the one before; of the others it takes its place.
_ADDS = ("RestrictAddressFamilies", "CapabilityBoundingSet", "ReadWritePaths")


@dataclass(frozen=True)
class Opening:
    """A directive of systemd.exec(5) that a unit has otherwise than the others, and why."""

    directive: str
    value: str
    why: str


def confined(*openings: Opening) -> str:
    """The directives that close a unit, and below them what is open all the same, each with its reason."""
    replaced = {each.directive for each in openings if each.directive not in _ADDS}
    closed = [f"{name}={value}" for name, value in _CLOSED.items() if name not in replaced]
    opened = [f"# {each.why}\n{each.directive}={each.value}" for each in openings]
    return "\n".join(["# What it never needs is out of its reach.", *closed, *opened, ""])


_NETWORK = Opening(
    "RestrictAddressFamilies", "AF_INET AF_INET6", "It asks applications and their stores over the network."
)
_OTHER_USERS = Opening(
    "CapabilityBoundingSet",
    "CAP_CHOWN CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID CAP_SETUID",
    "It becomes the user of an application or a database, gives files to them, and ends what it began as them.",
)
# The media of an application belong to nginx's group, whoever puts a file there.
_GROUP_BIT = Opening("RestrictSUIDSGID", "no", "The directories of the media have the set-group-id bit.")
# A transaction makes, starts, links and removes releases; recovery takes one up where it was left.
TRANSACTION = confined(
    _NETWORK,
    _OTHER_USERS,
    Opening(
        "CapabilityBoundingSet", "CAP_SYS_PTRACE", "It reads how much memory a release has and who has a file open."
    ),
    _GROUP_BIT,
    Opening("UMask", "0022", "The application reads its release, and nginx the static files."),
    Opening(
        "ReadWritePaths", "/etc/systemd/system -/etc/backstay", "Units and environments of releases are made there."
    ),
)
# Role mail's own queue, and any other, is its owner's: a file of root's in it would never leave.
_MAIL = (
    Opening("NoNewPrivileges", "no", "sendmail may be set-user-id: without that its queue would get files of root's."),
    Opening(
        "CapabilityBoundingSet",
        "CAP_CHOWN CAP_FOWNER CAP_FSETID CAP_SETGID CAP_SETUID",
        "A sendmail that delivers by itself becomes its own user.",
    ),
    Opening(
        "RestrictAddressFamilies",
        "AF_INET AF_INET6 AF_NETLINK",
        "Messages go over the network; a sendmail that delivers by itself asks for the host's addresses.",
    ),
)
# A path that is hidden or read-only here would be missing in the table of mounts, and be full unseen.
_DISKS = (
    Opening("ProtectSystem", "no", "It watches each disk as it is mounted, also below /usr and /boot."),
    Opening("ProtectHome", "no", "It watches each disk as it is mounted, also /home."),
)
_FIREWALL = (
    Opening("CapabilityBoundingSet", "CAP_NET_ADMIN", "It asks the kernel which ports the firewall lets others ask."),
    Opening("RestrictAddressFamilies", "AF_NETLINK", "The kernel's firewall is asked over netlink."),
)
# The digest's unit is made by role logwatch, which knows to whom it goes; a test compares it with this.
DIGEST = confined(
    *_MAIL,
    *_DISKS,
    Opening("PrivateDevices", "no", "logwatch asks zpool and mdadm for the state of disks, and they ask the devices."),
)

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

SERVICE_UNIT = f"""\
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
{TRANSACTION}"""

RECOVER_UNIT = f"""\
# Written by backstay.
[Unit]
Description=Finish or undo an unfinished transaction of %i, and run what must run
After=local-fs.target network.target systemd-tmpfiles-setup.service postgresql.service
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart=/usr/bin/backstay recover %i --boot
# A large database may be on its way back, and everything that recovery calls has a limit of its own.
TimeoutStartSec=infinity
{TRANSACTION}
[Install]
WantedBy=multi-user.target
"""

REVIEW_UNIT = f"""\
# Written by backstay.
[Unit]
Description=Sum up the day after a release of %i

[Service]
Type=oneshot
ExecStart=/usr/bin/backstay review %i
{confined(*_MAIL)}"""

REVIEW_TIMER = """\
# Written by backstay.
[Unit]
Description=Ask each hour whether the day after a release of %i is over

[Timer]
OnCalendar=*-*-* *:00:00 UTC
RandomizedDelaySec=300
Persistent=yes

[Install]
WantedBy=timers.target
"""


def _looking(description: str, *openings: Opening, after: str, verb: str) -> str:
    """A unit that looks, and tells whoever is to know."""
    return f"""\
# Written by backstay.
[Unit]
Description={description}
{after}

[Service]
Type=oneshot
ExecStart=/usr/bin/backstay {verb}
# Nothing it asks may keep it longer than the next minute.
TimeoutStartSec=55
# Somebody else is looking at this moment: this one is not needed.
SuccessExitStatus=4
Nice=5
CPUWeight=50
{confined(*_MAIL, *openings)}"""


def _minutely(description: str) -> str:
    return f"""\
# Written by backstay.
[Unit]
Description={description}

[Timer]
OnCalendar=*-*-* *:*:00 UTC
AccuracySec=1s

[Install]
WantedBy=timers.target
"""


_NGINX = (
    _NETWORK,
    Opening(
        "CapabilityBoundingSet",
        "CAP_CHOWN CAP_FOWNER CAP_NET_BIND_SERVICE",
        "`nginx -t` binds the ports and makes the directories that a start would.",
    ),
    Opening("ProtectHome", "no", "`nginx -t` opens the logs of every site of this host, wherever they are."),
    Opening("MemoryDenyWriteExecute", "no", "`nginx -t` loads modules, and some of them compile."),
)
HEAL_UNIT = f"""\
# Written by backstay. monit starts it; its own unit lets no service be restarted from within.
[Unit]
Description=Restart what serves %i, where it runs and answers nobody
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart=/usr/bin/backstay heal %i
TimeoutStartSec=120
# Restarted often enough: that is told as what it is, and a failed unit would be a second message about it.
SuccessExitStatus=3
{confined(*_NGINX)}"""

_QUIET = """\
# Visitors come first, for the processor, for the disk and for memory.
Nice=10
CPUWeight=20
IOSchedulingClass=idle
IOWeight=20
OOMScoreAdjust=500
CacheDirectory=backstay/%i
CacheDirectoryMode=0700
"""
_DATA = (
    _NETWORK,
    _OTHER_USERS,
    _GROUP_BIT,
    Opening(
        "ProtectProc", "default", "Whether a restic that left its secrets behind still runs is looked up in /proc."
    ),
)


def _nightly(description: str, *, after: str, verb: str, limit: str) -> str:
    """A unit that reads all data. Exit code 4 is Busy, a release or a restore has them: tried again, as after a signal.
    1 to 3 are answers."""
    return f"""\
# Written by backstay.
[Unit]
Description={description}
Wants=network-online.target
After=local-fs.target network-online.target backstay-recover@%i.service {after}
StartLimitIntervalSec=4h
StartLimitBurst=24

[Service]
Type=oneshot
ExecStart=/usr/bin/backstay {verb} %i
Restart=on-failure
RestartPreventExitStatus=1 2 3
RestartSec=5min
# It ends itself after {limit} of the application's file; this is for where that did not help.
TimeoutStartSec=25h
{_QUIET}{confined(*_DATA)}"""


def _daily(description: str, time: str) -> str:
    """Its timer. A drop-in for each application names another time (_schedule.py)."""
    return f"""\
# Written by backstay. The time is in a drop-in for each application.
[Unit]
Description={description} once a day

[Timer]
OnCalendar=*-*-* {time}
RandomizedDelaySec=60
AccuracySec=1s
Persistent=true

[Install]
WantedBy=timers.target
"""


# systemd passes over a time that the clock skips when daylight-saving time begins, and backups are made at such times.
SKIPPED_UNIT = f"""\
# Written by backstay.
[Unit]
Description=Start what of backup and proof of %i the clock skipped

[Service]
Type=oneshot
ExecStart=/usr/bin/backstay backups --catch-up %i
{confined()}"""

SKIPPED_TIMER = """\
# Written by backstay.
[Unit]
Description=Ask each hour whether the clock skipped the backup or the proof of %i

[Timer]
OnCalendar=*-*-* *:11:00 UTC
RandomizedDelaySec=120

[Install]
WantedBy=timers.target
"""

_BACKUP, _PROOF = "Back up %i", "Prove the newest restore point of %i"

# The instance is <app>:<job>. The command itself is a unit of its own, in the confinement of a release; this one only
# decides, waits and writes down. Exit code 4 is Busy, tried again each minute; everything else is an answer.
JOB_UNIT = f"""\
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
{confined(_NETWORK)}"""

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

JOBS_UNIT = f"""\
# Written by backstay.
[Unit]
Description=Start what was missed of the jobs of %i

[Service]
Type=oneshot
ExecStart=/usr/bin/backstay jobs --catch-up %i
{confined()}"""

JOBS_TIMER = """\
# Written by backstay.
[Unit]
Description=Ask each hour whether a job of %i was missed

[Timer]
OnCalendar=*-*-* *:20:00 UTC
RandomizedDelaySec=300
Persistent=true

[Install]
WantedBy=timers.target
"""

PAGE_UNIT = f"""\
# Written by backstay.
[Unit]
Description=Write the one-look page of this host
# Never both at once: together they would take twice the memory that watching may.
After=local-fs.target backstay-observe.service backstay-probe.service

[Service]
Type=oneshot
ExecStart=/usr/bin/backstay status --page
TimeoutStartSec=240
Nice=10
CPUWeight=20
IOSchedulingClass=idle
{confined(_NETWORK, *_DISKS, *_FIREWALL)}"""

PAGE_TIMER = """\
# Written by backstay.
[Unit]
Description=Write the one-look page of this host each five minutes

[Timer]
OnCalendar=*-*-* *:00/5:00 UTC
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
    "backstay-backup@.service": _nightly(
        _BACKUP, after="postgresql.service", verb="backup --scheduled", limit="backup.seconds"
    ),
    "backstay-backup@.timer": _daily(_BACKUP, "02:00:00"),
    "backstay-verify@.service": _nightly(
        _PROOF, after="backstay-backup@%i.service", verb="verify --scheduled --level L4", limit="backup.proof.seconds"
    ),
    "backstay-verify@.timer": _daily(_PROOF, "03:30:00"),
    "backstay-skipped@.service": SKIPPED_UNIT,
    "backstay-skipped@.timer": SKIPPED_TIMER,
    "backstay-observe.service": _looking(
        "Take a sample of the host, see what is wrong, tell whoever is to know",
        *_DISKS,
        after="After=local-fs.target",
        verb="observe",
    ),
    "backstay-observe.timer": _minutely("Observe the host each minute"),
    "backstay-probe.service": _looking(
        "Ask for the applications of other hosts, as their visitors would",
        after="Wants=network-online.target\nAfter=local-fs.target network-online.target backstay-observe.service",
        verb="probe",
    ),
    "backstay-probe.timer": _minutely("Ask for the applications of other hosts each minute"),
    "backstay-heal@.service": HEAL_UNIT,
    "backstay-review@.service": REVIEW_UNIT,
    "backstay-review@.timer": REVIEW_TIMER,
    "backstay-transaction@.socket": SOCKET_UNIT,
    "backstay-transaction@.service": SERVICE_UNIT,
    "backstay-recover@.service": RECOVER_UNIT,
}
