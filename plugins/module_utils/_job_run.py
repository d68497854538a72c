"""One run of a job: when it may begin, what it runs in, how long it may take, and what is written down about it.

It runs inside `backstay-job@<app>:<job>.service`, whatever started that: a timer, cron, the hourly question for what
was missed, or a person. The service asks here whether a run is due, so nothing runs twice. The command itself is a unit
of its own, with the environment and confinement of the live release; when this process ends, however it does, systemd
ends that unit too (ExecStopPost of the service).
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, tzinfo
from typing import IO, TYPE_CHECKING

from ._environment import redact
from ._errors import BackstayError, Busy, GateRefused, InputError
from ._job_ping import ping, suffix
from ._job_results import (
    Run,
    closed,
    counts_from,
    declared_since,
    live_version,
    pending,
    record,
    runs,
    server_zone,
    stamp,
)
from ._lock import Lock
from ._units import one_off

if TYPE_CHECKING:
    from ._catalogue import Point
    from ._host import Host
    from ._job_settings import Job
    from ._layout import Layout
    from ._storage import Storage

LINES = 20
_LINE_BYTES = 2000
_STOP_SECONDS = 10.0  # what the command gets after SIGTERM
_POLITE = ("--property=Nice=10", "--property=CPUWeight=20", "--property=IOWeight=20")

# Runs a command, gives each line that it prints to the function, and returns its exit code.
Spawn = Callable[[Sequence[str], Callable[[str], None], float], int]
Ping = Callable[[str, str], str]


def spawn(arguments: Sequence[str], on_line: Callable[[str], None], seconds: float) -> int:
    """Run a command in bounded memory, standard output and error as one stream. It is killed after `seconds`.

    Raises BackstayError when it cannot be started.
    """
    try:
        process = subprocess.Popen(
            list(arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    except OSError as refused:
        raise BackstayError(f"`{arguments[0]}` could not be started ({refused.strerror}): install it.") from refused
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        if process.stdout is not None:
            _lines_of(process.stdout, on_line)
        return process.wait()
    finally:
        timer.cancel()
        process.kill()
        process.wait()


def _lines_of(stream: IO[bytes], on_line: Callable[[str], None]) -> None:
    """Each line; of one that is too long, its beginning."""
    fresh = True
    while part := stream.readline(_LINE_BYTES):
        if fresh:
            on_line(part.decode(errors="replace").rstrip("\r\n"))
        fresh = part.endswith(b"\n")


class JobRun:
    """The adapter. Its parts that reach outside are given: the clock, the spawner, the pinger."""

    def __init__(
        self,
        host: Host,
        name: str,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        spawner: Spawn = spawn,
        pinger: Ping = ping,
        zone: tzinfo | None = None,
    ) -> None:
        """Raises InputError for a job that the application's file does not have."""
        self._host = host
        self._name = name
        self._schedules = host.application().schedules
        self._clock = clock
        self._spawn = spawner
        self._ping = pinger
        self._zone = zone or server_zone(host.layout.root)[0]
        if name not in self._schedules.jobs:
            known = ", ".join(self._schedules.jobs) or "none"
            raise InputError(f"{host.layout.name} has no job {name!r}; it has: {known}.")

    @property
    def job(self) -> Job:
        return self._schedules.jobs[self._name]

    def go(self, *, asked: bool = False, wait_seconds: float = 20.0) -> Run | None:
        """Run it where it is due, or where somebody asked; returns the last run, None where none was due.

        Raises Busy while a release, a rollback or a restore has the application, or another run is under way, and
        GateRefused where the application is isolated or being rebuilt, and somebody asked.
        """
        layout = self._host.layout
        resting = layout.resting()
        if resting:
            # A copy of another environment's data lets nothing out; and on an empty database no job has anything to do.
            if not asked:
                return None
            raise GateRefused(f"{layout.name} {resting}: no job of it runs here.")
        self._host.storage.make_directory(layout.jobs, mode=0o700)
        mine = Lock(layout.job_lock(self._name))
        # A moment, for somebody may just be asking whether it runs.
        if not mine.take(wait_seconds=min(wait_seconds, 2.0), what=f"job {self._name}"):
            raise Busy(f"The job {self._name} of {layout.name} is under way ({mine.holder()}): wait for it to end.")
        last = None
        try:
            while asked or layout.job_asked(self._name).exists() or self._due():
                last = self._one(wait_seconds)
                asked = False
                if self.job.overlap == "skip":
                    break
        finally:
            mine.release()
        return last

    def _due(self) -> bool:
        layout, storage = self._host.layout, self._host.storage
        if not self.job.applies(live_version(layout)):
            return False
        declared = declared_since(storage.read(layout.declared_jobs)).get(self._name, ("", None))[1]
        known = runs(layout, storage, self._name)
        since = counts_from(layout, self.job, known, declared)
        due = pending(self.job, known, since, self._clock(), self._zone)
        return due is not None and not again_refused(
            self.job, known, due, layout=layout, storage=storage, now=self._clock()
        )

    def _one(self, wait_seconds: float) -> Run:
        """One run, from the locks to the last ping."""
        host, layout = self._host, self._host.layout
        process = layout.job_process(self._name)
        self._take_turn(wait_seconds)
        try:
            # What a run that was killed left behind: its command, where systemd did not end it, and half a file.
            host.systemd.stop([process])
            host.storage.tidy(layout.jobs, lambda name: name == layout.job_results(self._name).name)
            host.storage.remove(layout.job_asked(self._name))
            run = Run(self._name, start=stamp(self._clock()), release=host.live() or "")
            record(layout, host.storage, run)
            self._tell("/start", "begun")
            try:
                done = self._ended(run)
            except BackstayError as failed:
                done = closed(run, self._clock(), code=None, why=self._clean(failed.message))
            record(layout, host.storage, done)
        finally:
            host.data_lock.release()
        self._tell(suffix(done), "ended")
        return done

    def _take_turn(self, wait_seconds: float) -> None:
        """Nothing runs beside what changes the data as a whole. Raises Busy."""
        host, layout = self._host, self._host.layout
        what = f"The job {self._name} of {layout.name} cannot begin"
        deadline = host.clock() + wait_seconds
        while layout.journal.exists():
            if host.clock() >= deadline:
                raise Busy(f"{what} while a release, a rollback or a restore is open; it is tried again each minute.")
            host.sleep(0.2)
        left = max(0.0, deadline - host.clock())
        if not host.data_lock.take(wait_seconds=left, what=f"job {self._name}", shared=True):
            raise Busy(f"{what} beside this: {host.data_lock.holder()}; it is tried again each minute.")
        if layout.journal.exists():
            host.data_lock.release()
            raise Busy(f"{what}: a release, a rollback or a restore just began; it is tried again each minute.")

    def _ended(self, run: Run) -> Run:
        """Run the command and say how it ended."""
        from ._runtime import program

        host, layout, job = self._host, self._host.layout, self.job
        if not run.release:
            return closed(run, self._clock(), code=None, why="nothing is live, so there is no environment to run in")
        refused = unproven(self.job, layout, host.storage, self._clock())
        if refused:
            return closed(run, self._clock(), code=None, why=refused, refused=True)
        process = layout.job_process(self._name)
        properties = (
            f"MemoryMax={job.memory_max_bytes}",
            "TasksMax=512",
            f"TimeoutStopSec={_STOP_SECONDS:g}",
            f"SyslogIdentifier={layout.name}-job-{self._name}",
        )
        arguments = [
            "systemd-run",
            "--quiet",
            "--wait",
            "--pipe",
            f"--unit={process}",
            f"--setenv=BACKSTAY_PROCESS=job-{self._name}",
            *_POLITE,
            *one_off(host.application(run.release), run.release, seconds=job.timeout_seconds),
            *(f"--property={line}" for line in properties),
            "--",
            *program(job.command, layout.release(run.release) / "venv"),
        ]
        kept: deque[str] = deque(maxlen=LINES)
        began = time.monotonic()
        code = self._spawn(arguments, kept.append, job.timeout_seconds + _STOP_SECONDS + 30)
        late = time.monotonic() - began >= job.timeout_seconds
        exit_code, why = (0, "") if code == 0 else self._judge(process, code, late=late)
        return closed(run, self._clock(), code=exit_code, why=why, lines=[self._clean(line) for line in kept])

    def _judge(self, process: str, code: int, *, late: bool) -> tuple[int | None, str]:
        """(exit code, why) of a command that did not end well, from what systemd saw of its unit."""
        systemd, job = self._host.systemd, self.job
        seen = {}
        with contextlib.suppress(BackstayError):
            seen = systemd.properties(process, "Result", "ExecMainCode", "ExecMainStatus")
        systemd.stop([process])
        result, status = seen.get("Result", ""), seen.get("ExecMainStatus", "")
        if result == "timeout" or late:
            return None, f"it took longer than {job.timeout_seconds:g} s (timeout_seconds) and was ended"
        if result == "oom-kill":
            return None, f"it needed more than {job.memory_max_bytes} bytes of memory (memory_max_bytes) and was ended"
        if result in ("signal", "core-dump"):
            return None, f"it was ended by signal {status}"
        return code, f"it ended with exit code {code}"

    def _tell(self, what: str, said: str) -> None:
        key = self.job.ping
        if key is None:
            return
        url = self._host.secrets().get(key)
        why = self._ping(url, what) if url else f"{key} has no value here"
        if why:
            self._host.say(f"that {self._name} has {said} could not be told ({self._clean(why)}); it goes on")

    def _clean(self, text: str) -> str:
        return redact(text, tuple(self._host.secrets().values()))


def unproven(job: Job, layout: Layout, storage: Storage, now: datetime) -> str:
    """Why the data are not safe enough for a job; empty where they are, or where it does not ask. Raises BackstayError
    where the catalogue cannot be trusted."""
    hours = job.needs_proof_hours
    if hours is None:
        return ""
    from ._catalogue import points

    newest = newest_proof(points(layout, storage), now)
    asked = f"needed is one of less than {hours} h (needs_proof_hours), so nothing was begun; see `backstay backups`"
    if newest is None:
        return f"no restore point was ever proven (L4); {asked}"
    return "" if 0 <= newest < hours else f"the newest proven restore point is {newest:.1f} h old; {asked}"


def again_refused(
    job: Job, known: Sequence[Run], due: datetime, *, layout: Layout, storage: Storage, now: datetime
) -> bool:
    """Whether the run of `due` was refused, and would be again: told once, made up for when a proof comes."""
    if not (known and known[-1].refused and known[-1].started >= due):
        return False
    try:
        return unproven(job, layout, storage, now) != ""
    except BackstayError:
        return True


def newest_proof(known: Sequence[Point], now: datetime) -> float | None:
    """How old, in hours, the newest good restore point is that was restored and compared (L4); None without one."""
    moments = [datetime.fromisoformat(point.at) for point in known if point.good and point.level >= 4]
    return (now - max(moments)).total_seconds() / 3600 if moments else None
