"""Samples of a host and its applications: what a minute looked like, kept in a bounded series.

A file for each day with a line for each minute; days that are older than a week are folded to a line for each hour,
which stay for ninety days. A half line, as a power cut leaves it, is passed over.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ._house import House
from ._storage import Storage, canonical

FORMAT = 1
MINUTES_DAYS = 7
HOURS_DAYS = 90
PROBES = 3  # questions in a row that went wrong make an application unwell in a sample
_TAIL_BYTES = 1 << 20  # more than the longest window of a host with twenty applications
# Upper ends of the classes of times, in seconds; the last class has none.
BOUNDS = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)


@dataclass(frozen=True)
class Times:
    """Times of answers: how many, their sum in seconds, and how many in each class of BOUNDS."""

    count: int = 0
    seconds: float = 0.0
    classes: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Times:
        classes = [0] * (len(BOUNDS) + 1)
        count, total = 0, 0.0
        for each in seconds:
            classes[next((place for place, bound in enumerate(BOUNDS) if each <= bound), len(BOUNDS))] += 1
            count, total = count + 1, total + each
        return cls(count, round(total, 6), tuple(classes))

    def __add__(self, other: Times) -> Times:
        return Times(
            self.count + other.count,
            self.seconds + other.seconds,
            tuple(a + b for a, b in zip(self.classes, other.classes, strict=True)),
        )

    @property
    def mean(self) -> float | None:
        return self.seconds / self.count if self.count else None

    def quantile(self, share: float) -> float | None:
        """The time that `share` of the answers did not exceed, as exact as the classes are; None without any."""
        if not self.count:
            return None
        wanted, seen = share * self.count, 0
        for place, count in enumerate(self.classes):
            if count and seen + count >= wanted:
                lower = BOUNDS[place - 1] if place else 0.0
                upper = BOUNDS[place] if place < len(BOUNDS) else 2 * BOUNDS[-1]
                return lower + (upper - lower) * (wanted - seen) / count
            seen += count
        return BOUNDS[-1]


@dataclass(frozen=True)
class Mount:
    """One file system. `used` and `inodes` are shares of what an ordinary user may have."""

    path: str
    size_bytes: int
    free_bytes: int
    used: float
    inodes: float


@dataclass(frozen=True)
class HostSample:
    """The host. Shares are 0 to 1; `cpu` is of all cores since the sample before, None in the first one after boot.
    `failed_units` is None where systemd did not answer; `died` are units that ended by themselves since the sample
    before and that systemd started again."""

    cpu: float | None = None
    memory: float | None = None
    load: float = 0.0
    cores: int = 1
    mounts: tuple[Mount, ...] = ()
    failed_units: tuple[str, ...] | None = None
    reboot_required: bool = False
    died: tuple[str, ...] = ()


@dataclass(frozen=True)
class ApplicationSample:
    """One application, since the sample before. `errors` are answers 5xx, `refused` 4xx; `users` distinct addresses.
    `healthy` is None where nothing was ever live. Dates are UTC ISO 8601. `held`: a transaction or a declared
    maintenance."""

    requests: int = 0
    errors: int = 0
    refused: int = 0
    users: int = 0
    times: Times = field(default_factory=Times)
    api: Times = field(default_factory=Times)
    p50_seconds: float | None = None
    p95_seconds: float | None = None
    live: str | None = None
    healthy: bool | None = None
    health_seconds: float | None = None
    why: str = ""
    certificate_from: str | None = None
    certificate_until: str | None = None
    maintenance: bool = False
    transaction: bool = False
    backup_at: str | None = None
    proven_at: str | None = None
    proof_level: int | None = None
    backup_problems: tuple[str, ...] = ()
    backup_runs: int = 0  # of the last 30 days
    backup_failed: int = 0
    job_problems: tuple[tuple[str, str], ...] = ()  # (job, sentence; empty while it runs)
    unreadable: str = ""  # what could not be observed, in a sentence

    @property
    def held(self) -> bool:
        return self.maintenance or self.transaction


@dataclass(frozen=True)
class Sample:
    """What was so at `at` (UTC ISO 8601), and since the sample `seconds` before it."""

    at: str
    seconds: float | None
    host: HostSample
    applications: Mapping[str, ApplicationSample] = field(default_factory=dict)

    @property
    def time(self) -> dt.datetime:
        return dt.datetime.fromisoformat(self.at)


def to_line(sample: Sample) -> bytes:
    return canonical({"format": FORMAT, **asdict(sample)})


def from_line(line: bytes) -> Sample | None:
    """A sample from its line; None for what is none, or of a newer format."""
    try:
        value = json.loads(line)
        if value["format"] != FORMAT:
            return None
        host = dict(value["host"])
        host["mounts"] = tuple(Mount(**each) for each in host["mounts"])
        if host["failed_units"] is not None:
            host["failed_units"] = tuple(host["failed_units"])
        host["died"] = tuple(host.get("died") or ())
        return Sample(
            value["at"],
            value["seconds"],
            HostSample(**host),
            {name: _application(each) for name, each in value["applications"].items()},
        )
    except (ValueError, KeyError, TypeError):
        return None


def _application(value: Mapping[str, Any]) -> ApplicationSample:
    given = dict(value)
    for key in ("times", "api"):
        given[key] = Times(given[key]["count"], given[key]["seconds"], tuple(given[key]["classes"]))
    given["backup_problems"] = tuple(given["backup_problems"])
    given["job_problems"] = tuple((str(job), str(sentence)) for job, sentence in given["job_problems"])
    return ApplicationSample(**given)


def day_file(house: House, day: dt.date) -> Path:
    return house.samples / f"{day.isoformat()}.jsonl"


def append(house: House, storage: Storage, sample: Sample) -> None:
    """Add a sample to the series; one that a power cut cut off is closed first, so that only it is lost."""
    path = day_file(house, sample.time.date())
    line = to_line(sample)
    try:
        with path.open("rb") as file:
            file.seek(-1, 2)
            line = line if file.read(1) == b"\n" else b"\n" + line
    except OSError:
        pass  # a new or an empty file
    storage.append(path, line)


def recent(house: House, now: dt.datetime, minutes: int) -> list[Sample]:
    """The samples of the last minutes, oldest first, read from the ends of the files."""
    after = now - dt.timedelta(minutes=minutes)
    found: list[Sample] = []
    for day in sorted({after.date(), now.date()}):
        found += _samples(_tail(day_file(house, day)))
    return [sample for sample in found if after < sample.time <= now]


def series(house: House, application: str | None, hours: float, now: dt.datetime | None = None) -> list[Sample]:
    """The samples of so many hours up to now, oldest first: minutes of the last week, hours before. With an
    application, only samples that know it, and it alone in them."""
    now = now or dt.datetime.now(dt.UTC)
    after = now - dt.timedelta(hours=hours)
    found: list[Sample] = []
    if hours > (MINUTES_DAYS - 1) * 24:
        found += _samples(_lines(house.hours))
    found += _minutes(house, max(after, now - dt.timedelta(days=MINUTES_DAYS + 1)), now)
    chosen = [sample for sample in found if after < sample.time <= now]
    if application is None:
        return chosen
    return [
        replace(sample, applications={application: sample.applications[application]})
        for sample in chosen
        if application in sample.applications
    ]


def counts(house: House, hours: float, now: dt.datetime) -> dict[str, list[tuple[float, int, int]]]:
    """Of each application when, how many requests, how many errors: for each minute of so many hours in which neither a
    transaction was open nor maintenance declared. One sample at a time is in memory."""
    after = now - dt.timedelta(hours=hours)
    found: dict[str, list[tuple[float, int, int]]] = {}
    for each in _minutes(house, after, now):
        for name, seen in each.applications.items() if after < each.time <= now else ():
            if not seen.held:
                found.setdefault(name, []).append((each.time.timestamp(), seen.requests, seen.errors))
    return found


def _minutes(house: House, first: dt.datetime, last: dt.datetime) -> Iterator[Sample]:
    """Those of the days from one moment to another."""
    for day in range((last.date() - first.date()).days + 1):
        yield from _samples(_lines(day_file(house, first.date() + dt.timedelta(days=day))))


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except OSError:
        return


def _tail(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return
    yield from lines[1:] if size > _TAIL_BYTES else lines


def _samples(lines: Iterable[bytes]) -> Iterator[Sample]:
    for line in lines:
        sample = from_line(line)
        if sample is not None:
            yield sample


def fold(samples: Sequence[Sample]) -> Sample:
    """One sample for several, of at least one: sums of what is counted, means of shares, the worst health, and of what
    is a state the last."""
    last = samples[-1]
    cpus = [each.host.cpu for each in samples if each.host.cpu is not None]
    memories = [each.host.memory for each in samples if each.host.memory is not None]
    host = replace(
        last.host,
        cpu=round(sum(cpus) / len(cpus), 4) if cpus else None,
        memory=round(sum(memories) / len(memories), 4) if memories else None,
        load=round(sum(each.host.load for each in samples) / len(samples), 2),
        died=tuple(sorted({unit for each in samples for unit in each.host.died})),
    )
    names = dict.fromkeys(name for each in samples for name in each.applications)
    applications = {
        name: _fold_application([each.applications[name] for each in samples if name in each.applications])
        for name in names
    }
    return Sample(samples[0].at, sum(each.seconds or 0 for each in samples), host, applications)


def _fold_application(found: Sequence[ApplicationSample]) -> ApplicationSample:
    times, api = sum((each.times for each in found), Times()), sum((each.api for each in found), Times())
    unwell = next((each for each in found if each.healthy is False and not each.held), None)
    last = found[-1]
    return replace(
        last,
        requests=sum(each.requests for each in found),
        errors=sum(each.errors for each in found),
        refused=sum(each.refused for each in found),
        users=max(each.users for each in found),
        times=times,
        api=api,
        p50_seconds=times.quantile(0.5),
        p95_seconds=times.quantile(0.95),
        healthy=False if unwell else last.healthy,
        why=unwell.why if unwell else last.why,
    )


def fold_old_days(house: House, storage: Storage, now: dt.datetime) -> None:
    """Fold the days that are older than a week, and forget what is older than ninety days. Can be done twice."""
    oldest = (now - dt.timedelta(days=MINUTES_DAYS)).date()
    try:
        names = sorted(path for path in house.samples.iterdir() if path.suffix == ".jsonl")
    except OSError:
        return
    for path in names:
        try:
            day = dt.date.fromisoformat(path.stem)
        except ValueError:
            continue
        if day >= oldest:
            continue
        kept = [
            sample
            for sample in _samples(_lines(house.hours))
            if sample.time.date() != day and sample.time > now - dt.timedelta(days=HOURS_DAYS)
        ]
        groups: dict[int, list[Sample]] = {}
        for sample in _samples(_lines(path)):
            groups.setdefault(sample.time.hour, []).append(sample)
        kept += [fold(group) for _unused, group in sorted(groups.items())]
        content = b"".join(to_line(sample) + b"\n" for sample in sorted(kept, key=lambda each: each.at))
        storage.write(house.hours, content, mode=0o600)
        storage.remove(path)
