"""What an application's file says about its scheduled commands, under the key `schedules`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Annotated, Any, Literal

from . import _calendar
from ._backup_settings import BackupPolicy
from ._errors import InputError
from ._schema import (
    At,
    flag,
    named,
    one_of,
    optional,
    seconds,
    shown,
    texts,
    whole,
    words,
)


def _when(value: Any, at: At) -> Any:
    if isinstance(value, (list, tuple)):
        return at.refuse(value, f"one time, for several would add up: {_calendar.EXPECTED}")
    if not isinstance(value, str):
        return at.refuse(value, _calendar.EXPECTED)
    try:
        _calendar.parse(value)
    except InputError as wrong:
        return at.say(f"`{at.key}` in {at.file} is {shown(value)}, which {wrong.message}.")
    return str(value)


@dataclass(frozen=True)
class Job:
    """One scheduled command, run as the application's own user in the live release's environment and confinement.

    `when` is in the server's zone. It counts as late when it did not begin within `grace_seconds` of its time. `ping`
    names the key of the application's secrets that holds the URL to tell of each run (healthchecks.io's protocol).
    Before `from_version` the application has no such command, and after a rollback to then the job rests.
    """

    command: Annotated[tuple[str, ...], words]
    when: Annotated[str, _when]
    timeout_seconds: Annotated[float, seconds(1, 86400)] = 3600.0
    memory_max_bytes: Annotated[int, whole(32 << 20, 1 << 50)] = 400 << 20
    overlap: Annotated[Literal["skip", "wait"], one_of("skip", "wait")] = "skip"
    catch_up: Annotated[bool, flag] = True
    grace_seconds: Annotated[float, seconds(60, 604800)] = 1800.0
    ping: Annotated[
        str | None, optional(texts(r"[A-Za-z_][A-Za-z0-9_]*", "the name of a key in Vault, such as PING_CLEANUP"))
    ] = None
    needs_proof_hours: Annotated[int | None, optional(whole(1, 10000))] = None
    from_version: Annotated[str | None, optional(texts(r"\d+\.\d+\.\d+", "a version in quotes, such as '1.5.0'"))] = (
        None
    )

    def applies(self, version: str) -> bool:
        """Whether a version has the command; one that says nothing has."""
        return self.from_version is None or not version or _numbers(version) >= _numbers(self.from_version)

    @property
    def calendar(self) -> _calendar.Calendar:
        """When it is due."""
        return _calendar.parse(self.when)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


@dataclass(frozen=True)
class Schedules:
    """The scheduled commands of an application, and what starts them."""

    scheduler: Annotated[Literal["systemd", "cron"], one_of("systemd", "cron")] = "systemd"
    jobs: Annotated[Mapping[str, Job], named(Job, of="jobs")] = field(default_factory=dict)

    @property
    def ping_keys(self) -> tuple[str, ...]:
        """The keys in Vault that hold URLs to be told."""
        return tuple(sorted({job.ping for job in self.jobs.values() if job.ping is not None}))


def problems(schedules: Schedules, backup: BackupPolicy | None) -> Iterator[tuple[str, str]]:
    """What no single key can know: (key, end of a sentence)."""
    for name, job in schedules.jobs.items():
        key = f"schedules.jobs.{name}"
        if schedules.scheduler == "cron":
            try:
                _unused = job.calendar.cron
            except InputError as wrong:
                yield f"{key}.when", wrong.message
        if job.needs_proof_hours is None:
            continue
        where = f"{key}.needs_proof_hours"
        if backup is None or backup.proof.nightly is None:
            nothing = "asks for a proven restore point, and nothing is backed up and proven here"
            yield where, f"{nothing}: set backup and backup.proof.nightly, or remove this"
            continue
        best = min(_age_hours(backup, hour, minute) for hour in job.calendar.hours for minute in job.calendar.minutes)
        if best >= job.needs_proof_hours:
            old = f"is {job.needs_proof_hours}, and the newest proven restore point is always {best:.0f} h old by then"
            yield where, f"{old}: prove it earlier (backup.proof.nightly is {backup.proof.nightly}), or begin later"


def _age_hours(backup: BackupPolicy, hour: int, minute: int) -> float:
    """How old the newest proven restore point is at a time of day, where everything runs when it should."""
    day = date(2000, 1, 10)
    begins = datetime(day.year, day.month, day.day, hour, minute)  # noqa: DTZ001 - times of day are compared
    made, proven = (_last(at, begins) for at in (backup.at, backup.proof.nightly or backup.at))
    if made >= proven:  # today's is not proven yet
        made = _last(backup.at, proven - timedelta(seconds=1))
    return (begins - made).total_seconds() / 3600


def _last(at: str, moment: datetime) -> datetime:
    hour, minute = map(int, at.split(":"))
    found = moment.replace(hour=hour, minute=minute, second=0)
    return found if found < moment else found - timedelta(days=1)
