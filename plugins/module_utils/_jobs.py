"""Timers or cron for the scheduled commands of an application, from their declaration. Pure.

systemd: an instance `<app>:<job>` of a template that role base installs, with a drop-in for its time.
cron: /etc/cron.d/backstay-jobs-<app>, whose lines start the very same services.
With both, each hour somebody asks for what was missed: cron forgets it while the host is off, and systemd passes over a
time that the clock skips in spring.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection
from datetime import UTC, tzinfo
from pathlib import Path

from ._job_settings import Schedules
from ._layout import Layout
from ._schedule import CRON, Schedule

_HEADER = "# Written by Backstay from the application's file."


def drop_in(layout: Layout, job: str) -> Path:
    """The file that gives a job's timer its time."""
    return layout.units / f"{layout.job_timer(job)}.d" / "time.conf"


def cron_file(layout: Layout) -> Path:
    """The application's file for cron."""
    return layout.root / "etc" / "cron.d" / f"backstay-jobs-{layout.name}"


def job_of(layout: Layout, timer: str) -> str | None:
    """The job whose timer this is; None where it is that of another application, or of none."""
    begin, end = layout.job_timer("\0").split("\0")
    inside = timer.startswith(begin) and timer.endswith(end)
    return timer[len(begin) : -len(end)] if inside else None


def timer_text(on_calendar: str, *, catch_up: bool) -> str:
    """The drop-in. The empty line takes away the template's own time: two of them would add up."""
    return f"{_HEADER}\n[Timer]\nOnCalendar=\nOnCalendar={on_calendar}\nPersistent={'true' if catch_up else 'false'}\n"


def cron_text(layout: Layout, settings: Schedules) -> str:
    """The file for cron. Raises InputError for what cron cannot say."""
    lines = [_HEADER, "SHELL=/bin/sh", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "MAILTO=root"]
    for name, job in settings.jobs.items():
        lines.append(f"{job.calendar.cron} root systemctl start --no-block {layout.job_unit(name)}")
    lines.append("# What was missed while the host was off; does nothing where nothing was.")
    # Another minute for each application, so that several do not all look at once.
    minute = zlib.crc32(layout.name.encode()) % 60
    lines.append(f"{minute} * * * * root /usr/bin/backstay jobs --catch-up {layout.name} >/dev/null")
    return "\n".join(lines) + "\n"


def schedule(layout: Layout, settings: Schedules, known: Collection[str], zone: tzinfo = UTC) -> Schedule:
    """What the application's file asks for. `known` are jobs that have a timer on the host; those that the file no
    longer has lose it; `zone` is the server's. Raises InputError for what cron cannot say."""
    names = [*settings.jobs, *sorted(set(known) - set(settings.jobs))]
    files: dict[Path, str | None] = {drop_in(layout, name): None for name in names}
    read_by = {drop_in(layout, name): layout.job_timer(name) for name in names}
    files[cron_file(layout)] = None
    timers = [layout.job_timer(name) for name in names]
    if not settings.jobs:
        return Schedule(files, (), (*timers, layout.jobs_timer), read_by)
    if settings.scheduler == "cron":
        files[cron_file(layout)] = cron_text(layout, settings)
        return Schedule(files, (CRON,), (*timers, layout.jobs_timer), read_by)
    for name, job in settings.jobs.items():
        files[drop_in(layout, name)] = timer_text(job.calendar.systemd_in(zone), catch_up=job.catch_up)
    on = [layout.job_timer(name) for name in settings.jobs]
    off = [timer for timer in timers if timer not in on]
    return Schedule(files, (*on, layout.jobs_timer), tuple(off), read_by)
