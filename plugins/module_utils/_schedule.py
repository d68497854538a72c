"""When an application is backed up and proven: by systemd's timers or by cron, never by both. Pure.

systemd: the timers are templates that role base installs; a drop-in for each application names its time. systemd passes
over a time that the clock skips in spring, so it is asked each hour whether this was such a night (`passed_over`).
cron: /etc/cron.d/backstay-backup-<application> with the same commands. cron forgets what it missed while the host was
off, so it asks each hour for what is missing, and the command knows (`missed`) whether anything is.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from . import _calendar
from ._backup_settings import BackupPolicy
from ._errors import InputError
from ._layout import Layout

CRON = "cron.service"
# How late the scheduled run itself may begin before it counts as missed: cron wakes up once a minute.
GRACE = timedelta(minutes=10)

_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True)
class Schedule:
    """What must be there: `files` by path (None: no such file), the units that run and those that must not."""

    files: Mapping[Path, str | None]
    on: tuple[str, ...] = ()
    off: tuple[str, ...] = ()
    read_by: Mapping[Path, str] = field(default_factory=dict)  # the timer that a drop-in belongs to


@dataclass(frozen=True)
class Plan:
    """What differs, as systemctl's verbs. Files are placed first; then what must not run any more is stopped."""

    files: tuple[Path, ...] = ()
    disable: tuple[str, ...] = ()
    enable: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()  # timers whose time is another
    read_by: Mapping[Path, str] = field(default_factory=dict)  # the timer that a drop-in belongs to

    @property
    def changed(self) -> bool:
        return bool(self.files or self.disable or self.enable or self.start)


def time_of_day(text: str) -> tuple[int, int]:
    """Hour and minute of a time such as `02:00`. Raises InputError for anything else."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise InputError(f"{text!r} is no time of day: write one from 00:00 to 23:59, in quotes, such as '02:00'.")
    return int(found[1]), int(found[2])


def timer_text(at: str) -> str:
    """The drop-in that gives a timer its time. The empty line takes away the template's own. Raises InputError."""
    hour, minute = time_of_day(at)
    return (
        "# Written by Backstay from the application's file.\n"
        f"[Timer]\nOnCalendar=\nOnCalendar=*-*-* {hour:02}:{minute:02}:00\n"
    )


def cron_text(name: str, policy: BackupPolicy) -> str:
    """The file for cron. Only what goes wrong is mailed. Raises InputError for a wrong time."""
    hour, minute = time_of_day(policy.at)
    command = "root nice -n 10 ionice -c 3 /usr/bin/backstay"
    # Another minute for each application, so that several do not all look at once.
    asks = zlib.crc32(name.encode()) % 60
    lines = [
        "# Written by Backstay from the application's file.",
        "SHELL=/bin/sh",
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        "MAILTO=root",
        f"{minute} {hour} * * * {command} backup --scheduled {name} >/dev/null",
        "# What was missed while the host was off; does nothing where nothing was.",
        f"{asks} * * * * {command} backup --scheduled --if-missed {name} >/dev/null",
    ]
    if policy.proof.nightly is not None:
        hour, minute = time_of_day(policy.proof.nightly)
        lines.append(f"{minute} {hour} * * * {command} verify --scheduled --level L4 {name} >/dev/null")
        lines.append(f"{(asks + 5) % 60} * * * * {command} verify --scheduled --if-missed {name} >/dev/null")
    return "\n".join(lines) + "\n"


def schedule(layout: Layout, policy: BackupPolicy | None) -> Schedule:
    """What an application's file asks for; without a policy nothing is to run. Raises InputError for a wrong time."""
    backup, verify = layout.backup_timer, layout.verify_timer
    drop_ins = {timer: layout.units / f"{timer}.d" / "time.conf" for timer in (backup, verify)}
    cron = layout.root / "etc" / "cron.d" / f"backstay-backup-{layout.name}"
    files: dict[Path, str | None] = dict.fromkeys((*drop_ins.values(), cron))
    read_by = {path: timer for timer, path in drop_ins.items()}
    hourly = layout.skipped_timer
    if policy is None:
        return Schedule(files, (), (backup, verify, hourly), read_by)
    if policy.scheduler == "cron":
        files[cron] = cron_text(layout.name, policy)
        return Schedule(files, (CRON,), (backup, verify, hourly), read_by)
    files[drop_ins[backup]] = timer_text(policy.at)
    if policy.proof.nightly is None:
        return Schedule(files, (backup, hourly), (verify,), read_by)
    files[drop_ins[verify]] = timer_text(policy.proof.nightly)
    return Schedule(files, (backup, verify, hourly), (), read_by)


def plan(wanted: Schedule, files: Mapping[Path, str | None], enabled: frozenset[str], active: frozenset[str]) -> Plan:
    """What differs from what is there: texts by path, units that are enabled and those that are active."""
    changed = tuple(path for path, text in wanted.files.items() if files.get(path) != text)
    moved = {wanted.read_by[path] for path in changed if path in wanted.read_by}
    return Plan(
        files=changed,
        disable=tuple(unit for unit in wanted.off if unit in enabled or unit in active),
        enable=tuple(unit for unit in wanted.on if unit not in enabled),
        start=tuple(unit for unit in wanted.on if unit not in active),
        restart=tuple(unit for unit in wanted.on if unit in active and unit in moved),
        read_by=wanted.read_by,
    )


def last_due(at: str, now: datetime) -> datetime:
    """The last moment until `now` at which `at` was due, in UTC, in the zone of `now`: once a day, also on the days on
    which the clock shows it twice or not at all. Raises InputError."""
    hour, minute = time_of_day(at)
    found = _calendar.parse(f"daily {hour:02}:{minute:02}").before(now, now.tzinfo or UTC)
    return found or now


def missed(at: str, last: datetime | None, now: datetime) -> bool:
    """Whether the run of `at` did not take place: none has begun since it was due, and it had time to begin.

    `last` is when the last run began, whatever started it; both with a zone, `now` in the host's own. A `last` in the
    future was written under a wrong clock, and proves nothing. Raises InputError for a wrong time.
    """
    due = last_due(at, now)
    if now - due < GRACE:
        return False
    return last is None or last < due or last > now


def passed_over(at: str, last: datetime | None, now: datetime) -> bool:
    """Whether the run of `at` is missing because the clock skipped that time. Arguments as for `missed`."""
    due = last_due(at, now).astimezone(now.tzinfo)
    return (due.hour, due.minute) != time_of_day(at) and missed(at, last, now)
