"""The units of the command itself, as texts: what starts it, when, and what is out of its reach. Each is for every
application (`%i`), or for the host. What comes in every hour says UTC: of the hour that a clock shows twice, systemd
would pass over the second.
"""

from __future__ import annotations

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
OnCalendar=*-*-* *:00:00 UTC
RandomizedDelaySec=300
Persistent=yes

[Install]
WantedBy=timers.target
"""


def _looking(description: str, *, after: str, verb: str) -> str:
    """A unit that looks, and tells whoever is to know. It hands mail to the host's sendmail, which may be set-user-id:
    NoNewPrivileges= would make root of its queue's owner."""
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

# What they never need is out of their reach. ProtectSystem=strict is not possible, since a repository may lie in any
# directory, nor RestrictSUIDSGID=, since the media have the set-group-id bit.
_CLOSED = """\
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

# What both need: root, to read every file and to become the application's user.
_QUIET = f"""\
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
{_CLOSED}"""


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
{_QUIET}"""


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
SKIPPED_UNIT = """\
# Written by backstay.
[Unit]
Description=Start what of backup and proof of %i the clock skipped

[Service]
Type=oneshot
ExecStart=/usr/bin/backstay backups --catch-up %i
"""

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
UMask=0077
CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH
{_CLOSED}"""

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
OnCalendar=*-*-* *:20:00 UTC
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
    "backstay-backup@.service": _nightly(_BACKUP, after="postgresql.service", verb="backup", limit="backup.seconds"),
    "backstay-backup@.timer": _daily(_BACKUP, "02:00:00"),
    "backstay-verify@.service": _nightly(
        _PROOF, after="backstay-backup@%i.service", verb="verify --level L4", limit="backup.proof.seconds"
    ),
    "backstay-verify@.timer": _daily(_PROOF, "03:30:00"),
    "backstay-skipped@.service": SKIPPED_UNIT,
    "backstay-skipped@.timer": SKIPPED_TIMER,
    "backstay-observe.service": _looking(
        "Take a sample of the host, see what is wrong, tell whoever is to know",
        after="After=local-fs.target",
        verb="observe",
    ),
    "backstay-observe.timer": _minutely("Observe the host each minute"),
    "backstay-probe.service": _looking(
        "Ask for the applications of other hosts, as their visitors would",
        after="Wants=network-online.target\nAfter=local-fs.target network-online.target",
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
