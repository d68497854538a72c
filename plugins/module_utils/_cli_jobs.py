"""The verbs of the `backstay` command that are about scheduled commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ._errors import BackstayError, Busy, GateRefused, InputError
from ._job_results import Run, counts_from, declared_since, facts, live_version, pending, runs, server_zone
from ._lock import Lock

if TYPE_CHECKING:
    from ._host import Host
    from ._job_settings import Job

Tell = Callable[[argparse.Namespace, dict[str, Any], str], None]

BAD = frozenset({"late", "missing", "failed", "never"})
_GRACE = timedelta(minutes=5)  # what a timer or cron itself gets before the hourly question steps in


def instance(options: argparse.Namespace) -> None:
    """`<app>:<job>`, as systemd's instances are called, also names the application."""
    name, colon, job = options.job.partition(":")
    if colon:
        options.application, options.job = name, job


def job(options: argparse.Namespace, host: Host, tell: Tell) -> int:
    """Run a job now, as a timer would; or, inside of the service that does it, where it is due."""
    if options.scheduled:
        return _scheduled(options, host, tell)
    declared = host.application().schedules.jobs
    name = options.job
    if name not in declared:
        raise InputError(f"{host.layout.name} has no job {name!r}; it has: {', '.join(declared) or 'none'}.")
    resting = host.layout.resting()
    if resting:
        raise GateRefused(f"{host.layout.name} {resting}: no job of it runs here.")
    version = live_version(host.layout)
    if not declared[name].applies(version):
        raise InputError(
            f"The job {name} of {host.layout.name} is for {declared[name].from_version} or newer: {version} is live."
        )
    unit = host.layout.job_unit(name)
    lock = Lock(host.layout.job_lock(name))
    if host.layout.job_lock(name).exists():
        if not lock.take(shared=True):
            raise Busy(f"The job {name} of {host.layout.name} is under way ({lock.holder()}): wait for it to end.")
        lock.release()
    before = runs(host.layout, host.storage, name)
    host.storage.make_directory(host.layout.job_asked(name).parent)
    host.storage.write(host.layout.job_asked(name), b"", mode=0o600)
    seconds = declared[name].timeout_seconds + 300
    done = host.runner(["systemctl", "start", unit], timeout_seconds=seconds, check=False)
    after = runs(host.layout, host.storage, name)
    if len(after) == len(before) and (not after or after[-1].start == before[-1].start):
        if host.layout.job_asked(name).exists() and host.systemd.states([unit]).get(unit) == "activating":
            raise Busy(
                f"The job {name} of {host.layout.name} waits for a release, a rollback, a restore or a backup to end, "
                "and then begins by itself: see `backstay jobs`."
            )
        last = host.systemd.last_lines(unit, 3) or done.last_lines(3)
        raise BackstayError(
            f"The job {name} of {host.layout.name} did not begin: {last[-1] if last else 'nothing says why'}",
            lines=last,
        )
    return _told(options, host, after[-1], tell)


def _scheduled(options: argparse.Namespace, host: Host, tell: Tell) -> int:
    from ._job_run import JobRun

    host.say = lambda line: _line(line, sys.stderr)
    last = JobRun(host, options.job).go()
    if last is None:
        text = f"{host.layout.name}: {options.job} is not due."
        tell(options, {"ok": True, "changed": False, "message": text}, text)
        return 0
    return _told(options, host, last, tell)


def _told(options: argparse.Namespace, host: Host, last: Run, tell: Tell) -> int:
    took = (last.ended - last.started).total_seconds() if last.ended else 0.0
    said = f"ran in {took:.1f} s" if last.ok else f"failed: {last.why or 'it was killed'}"
    text = f"{host.layout.name}: {last.job} {said}"
    tell(
        options,
        {"ok": last.ok, "changed": True, "message": text, **last.to_dict()},
        "\n".join([text, *(f"  {line}" for line in last.lines)]),
    )
    return 0 if last.ok else 1


def jobs(options: argparse.Namespace, host: Host, tell: Tell) -> int:
    """The state of each job; or with `--catch-up`, start those that were missed."""
    settings = host.application().schedules
    now = datetime.now(UTC)
    zone, zone_name = server_zone(host.layout.root)
    name = host.layout.name
    if options.catch_up:
        missed = [each for each, job in settings.jobs.items() if _missed(host, each, job, now)]
        host.systemd.start([host.layout.job_unit(each) for each in missed], wait=False)
        text = f"{name}: {'started ' + ', '.join(missed) if missed else 'no job was missed'}."
        tell(options, {"ok": True, "changed": bool(missed), "started": missed, "message": text}, text)
        return 0
    found = facts(host.layout, settings, host.storage, now)
    if not found:
        tell(
            options,
            {"ok": True, "jobs": [], "zone": zone_name},
            f"{name}: no jobs are declared (`schedules`), or all rest.",
        )
        return 0
    rows = [("JOB", "STATE", "LAST RUN", "EXIT", "NEXT", "WHY")]
    for each in found:
        code = "-" if each["exit"] is None else str(each["exit"])
        last, following = (_local(each[key], zone) for key in ("last_start", "next_due"))
        rows.append((each["job"], each["state"], last, code, following, each["why"][:100]))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [f"{name}: by {settings.scheduler}, times in {zone_name}"]
    lines += ["  ".join([*(row[i].ljust(widths[i]) for i in range(5)), row[5]]).rstrip() for row in rows]
    good = not any(each["state"] in BAD for each in found)
    tell(options, {"ok": good, "jobs": found, "scheduler": settings.scheduler, "zone": zone_name}, "\n".join(lines))
    return 0 if good else 1


def _missed(host: Host, name: str, job: Job, now: datetime) -> bool:
    if host.layout.resting() or not job.applies(live_version(host.layout)):
        return False
    declared = declared_since(host.storage.read(host.layout.declared_jobs)).get(name, ("", None))[1]
    known = runs(host.layout, host.storage, name)
    due = pending(job, known, counts_from(host.layout, job, known, declared), now, server_zone(host.layout.root)[0])
    if due is None or now - due < _GRACE:
        return False
    from ._job_run import again_refused

    return not again_refused(job, known, due, layout=host.layout, storage=host.storage, now=now)


def _local(moment: str | None, zone: Any) -> str:
    if moment is None:
        return "-"
    return datetime.fromisoformat(moment).astimezone(zone).strftime("%Y-%m-%d %H:%M")


def _line(text: str, stream: Any) -> None:
    stream.write(f"{text}\n")
    stream.flush()
