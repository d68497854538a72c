"""What became of each run of a job, and what that says about the job: on time, late, missing, failed, or never.

    /var/lib/backstay/<app>/jobs/<job>.jsonl    a line when a run begins, a line when it ends; the oldest go

A run that has no end and that nobody runs any more was killed. So no kill, at no moment, leaves a run that looks good.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ._job_settings import Job, Schedules
from ._layout import Layout
from ._lock import Lock
from ._storage import Storage, canonical

FORMAT = 1
KEEP_RUNS = 200
_ROOM_BYTES = 512 << 10  # after that the oldest runs go
KILLED = "it was killed: it began and nothing tells of its end"
# A start that is further ahead was written under a wrong clock, and proves nothing.
_AHEAD = timedelta(minutes=5)


@dataclass(frozen=True)
class Run:
    """One run. Times are UTC ISO 8601; `exit` is the command's exit code, None where it never ended by itself; `lines`
    are the last that it printed, secrets removed, and `counts` the JSON object among them that came last; `why` says
    what went wrong, and is empty where nothing did; `refused`: for want of a proven restore point nothing was begun."""

    job: str
    start: str
    end: str | None = None
    exit: int | None = None
    why: str = ""
    release: str = ""
    lines: tuple[str, ...] = ()
    counts: Mapping[str, Any] | None = None
    refused: bool = False

    @property
    def ok(self) -> bool:
        return self.end is not None and self.exit == 0 and not self.why

    @property
    def started(self) -> datetime:
        return datetime.fromisoformat(self.start)

    @property
    def ended(self) -> datetime | None:
        return None if self.end is None else datetime.fromisoformat(self.end)

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "job": self.job,
            "start": self.start,
            "end": self.end,
            "exit": self.exit,
            "why": self.why,
            "release": self.release,
            "lines": list(self.lines),
            "counts": None if self.counts is None else dict(self.counts),
            "refused": self.refused,
        }


def stamp(moment: datetime) -> str:
    """A moment as it is written: UTC ISO 8601 with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def fold(content: bytes) -> tuple[Run, ...]:
    """Runs from the lines of a file, in the order in which they began. A torn line is what a kill left of an end: the
    run then has none."""
    found: dict[str, Run] = {}
    for line in content.splitlines():
        try:
            value = json.loads(line)
            run = Run(
                job=str(value["job"]),
                start=str(value["start"]),
                end=value.get("end"),
                exit=value.get("exit"),
                why=str(value.get("why", "")),
                release=str(value.get("release", "")),
                lines=tuple(map(str, value.get("lines", ()))),
                counts=value.get("counts"),
                refused=value.get("refused") is True,
            )
            _unused = run.started, run.ended
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        found[run.start] = run
    return tuple(found.values())


def runs(layout: Layout, storage: Storage, job: str) -> tuple[Run, ...]:
    """What is known of a job's runs, the oldest first."""
    return fold(storage.read(layout.job_results(job)) or b"")


def record(layout: Layout, storage: Storage, run: Run) -> None:
    """Write down that a run began, or how it ended; it is on the disk afterwards. Only who holds the job's lock may."""
    path = layout.job_results(run.job)
    content = storage.read(path) or b""
    line = canonical(run.to_dict())
    whole = not content or content.endswith(b"\n")
    if whole and len(content) < _ROOM_BYTES:
        storage.append(path, line)
        return
    # Either a kill tore the last line, or the file is long enough: what counts is written anew, as a whole.
    kept = [*fold(content), run]
    newest = {each.start: each for each in kept}
    lines = [canonical(each.to_dict()) for each in list(newest.values())[-KEEP_RUNS:]]
    storage.write(path, b"\n".join(lines) + b"\n", mode=0o600)


def declared_since(content: bytes | None) -> dict[str, tuple[str, datetime]]:
    """For each job the time that it is declared for, and since when: nothing was due before that."""
    try:
        known = json.loads(content or b"{}").get("jobs", {})
        return {name: (str(each["when"]), datetime.fromisoformat(each["since"])) for name, each in known.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def declaration(schedules: Schedules, content: bytes | None, now: datetime) -> bytes:
    """The same for what is declared now: a job whose time did not change keeps its moment."""
    known = declared_since(content)
    jobs = {}
    for name, job in schedules.jobs.items():
        when, since = known.get(name, ("", now))
        jobs[name] = {"when": job.when, "since": stamp(since if when == job.when else now)}
    return canonical({"format": FORMAT, "jobs": jobs}) + b"\n"


def live_version(layout: Layout) -> str:
    """The version of the live release, from the link alone; empty where nothing is live."""
    try:
        return layout.active.readlink().parent.name.partition("-")[2]
    except OSError:
        return ""


def counts_from(layout: Layout, job: Job, known: Sequence[Run], declared: datetime | None) -> datetime | None:
    """Since when a job is due: since it is declared; if it waited for a version and never ran, since that is live."""
    if declared is None or job.from_version is None or known:
        return declared
    try:
        flipped = datetime.fromtimestamp(layout.active.lstat().st_mtime, UTC)
    except OSError:
        return declared
    return max(declared, flipped)


def due_since(job: Job, since: datetime | None, now: datetime, zone: tzinfo) -> datetime | None:
    """The last moment until `now` at which the job was due; None where it was not since it is declared."""
    due = job.calendar.before(now, zone)
    return due if due is not None and since is not None and due >= since else None


def covered(job: Job, known: Sequence[Run], due: datetime, now: datetime, *, refusals: bool = True) -> bool:
    """Whether a run began when it was due, or later; with `overlap: skip` one that was still under way then counts.
    Without `refusals`, one that was refused does not."""
    for run in reversed(known):
        if run.started > now + _AHEAD or (run.refused and not refusals):
            continue
        if run.started >= due:
            return True
        if job.overlap == "skip" and run.ended is not None and run.ended > due:
            return True
    return False


def pending(job: Job, known: Sequence[Run], since: datetime | None, now: datetime, zone: tzinfo) -> datetime | None:
    """The moment of the run that should begin now; None where none should. What was missed is made up for with
    `catch_up`, and else only within its grace. What was refused was not done: whoever asks sees first whether it would
    be refused again (`again_refused`)."""
    due = due_since(job, since, now, zone)
    if due is None or covered(job, known, due, now, refusals=False):
        return None
    return due if job.catch_up or now - due <= timedelta(seconds=job.grace_seconds) else None


def verdict(
    job: Job, known: Sequence[Run], since: datetime | None, now: datetime, zone: tzinfo, *, running: bool = False
) -> tuple[str, str]:
    """(state, why) of a job: ok, late (its last time passed without a run), missing (two did), failed, running, never.

    `running`: somebody holds the job's lock. That it never ran is a failure from the first day.
    """
    last = known[-1] if known else None
    if running and last is not None and last.end is None:
        return "running", f"since {last.start}"
    missed: list[datetime] = []
    moment = now - timedelta(seconds=job.grace_seconds)
    while len(missed) < 2:
        due = due_since(job, since, moment, zone)
        if due is None or covered(job, known, due, now):
            break
        missed.append(due)
        moment = due - timedelta(seconds=1)
    if last is None:
        return "never", f"it was due at {stamp(missed[0])}" if missed else "it never ran"
    if len(missed) > 1:
        return "missing", f"it did not run at {stamp(missed[1])}, nor at {stamp(missed[0])}"
    if not last.ok:
        return "failed", last.why or (KILLED if last.end is None else f"exit code {last.exit}")
    if missed:
        return "late", f"it did not run at {stamp(missed[0])}"
    return "ok", ""


def facts(layout: Layout, settings: Schedules, storage: Storage, now: datetime) -> list[dict[str, Any]]:
    """The state of each job, in the order of the application's file, without those that rest: an older version is
    live, or the application is isolated or being rebuilt here. `now` has a zone; the server's is read here."""
    zone, _name = server_zone(layout.root)
    since = declared_since(storage.read(layout.declared_jobs))
    version = live_version(layout)
    told: list[dict[str, Any]] = []
    if layout.resting():
        return told
    for name, job in settings.jobs.items():
        if not job.applies(version):
            continue
        known = runs(layout, storage, name)
        begun = counts_from(layout, job, known, since.get(name, ("", None))[1])
        last = known[-1] if known else None
        state, why = verdict(job, known, begun, now, zone, running=_held(layout.job_lock(name)))
        following = job.calendar.after(now, zone)
        told.append(
            {
                "job": name,
                "state": state,
                "why": why,
                "last_start": last.start if last else None,
                "last_end": last.end if last else None,
                "exit": last.exit if last else None,
                "lines": list(last.lines) if last else [],
                "counts": last.counts if last else None,
                "next_due": None if following is None else stamp(following),
                "when": job.when,
                "grace_seconds": job.grace_seconds,
            }
        )
    return told


def _held(path: Path) -> bool:
    """Whether somebody runs the job. The lock is only asked for as one that shares, and let go at once."""
    if not path.exists():
        return False
    lock = Lock(path)
    free = lock.take(shared=True)
    lock.release()
    return not free


def server_zone(root: Path = Path("/")) -> tuple[tzinfo, str]:
    """The server's zone, as systemd and cron take it from /etc/localtime, and its name; UTC where there is none."""
    path = root / "etc" / "localtime"
    try:
        target = str(path.readlink())
    except OSError:
        target = ""
    name = target.rpartition("zoneinfo/")[2] if "zoneinfo/" in target else ""
    try:
        return (ZoneInfo(name), name) if name else _zone_of(path)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC, "UTC"


def _zone_of(path: Path) -> tuple[tzinfo, str]:
    with path.open("rb") as file:
        return ZoneInfo.from_file(file, key="localtime"), "the server's zone"


def closed(
    run: Run, end: datetime, *, code: int | None, why: str = "", lines: Sequence[str] = (), refused: bool = False
) -> Run:
    """A run as it ended."""
    return replace(run, end=stamp(end), exit=code, why=why, lines=tuple(lines), counts=_counts(lines), refused=refused)


def _counts(lines: Sequence[str]) -> Mapping[str, Any] | None:
    """The last line that is a JSON object."""
    for line in reversed(lines):
        if line.lstrip().startswith("{"):
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                return value
    return None
