"""Which objectives are missed: from a window of samples to verdicts. Pure.

A verdict is yes, no, or neither: neither is where too little was seen, or where a value lies between the limit and the
mark below it at which the trouble counts as over. Nothing is asked of time: a window ends at its newest sample. What
was sampled while a transaction was open or maintenance declared says nothing about the application.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ._alert_settings import Objectives
from ._samples import ApplicationSample, Sample, Times

Severity = Literal["page", "warn", "advice"]

FEWEST_ANSWERS = 20
FEWEST_ERRORS = 3
GAP_MINUTES = 10
QUIET_MINUTES = 30  # with too few answers for so long, slow or failing ones are over
FULL = 0.95
NOTHING_FREE = 1 << 20  # bytes; more than the observer keeps back for itself
DIED_MINUTES = 10  # for so long what was started again has to run until its death is over
DIGEST_HOURS = 26.0  # a day, and what a busy host may be late by
BUDGET_DAYS = 30
_SPENT, _RECOVERED = 0.75, 0.6


@dataclass(frozen=True)
class Verdict:
    """What is so about one objective. `key` is the incident's, such as `host/disk:/srv` or `portal/p95`; `crossed` is
    None where nothing can be said; `command` is what a person types first."""

    key: str
    severity: Severity
    application: str | None
    sentence: str
    command: str
    crossed: bool | None

    @property
    def kind(self) -> str:
        return kind_of(self.key)


def kind_of(key: str) -> str:
    """`portal/jobs:retention` is of the kind `jobs`."""
    return key.partition("/")[2].partition(":")[0]


def _window(samples: Sequence[Sample], minutes: float) -> list[Sample]:
    if not samples:
        return []
    after = samples[-1].time - dt.timedelta(minutes=minutes, seconds=-5)  # a timer is never exact
    return [sample for sample in samples if sample.time > after]


def _newest_two(samples: Sequence[Sample]) -> list[Sample]:
    """In a row, also where one look was missed or all come slowly; what is older than that says nothing of now."""
    return _window(samples, GAP_MINUTES)[-2:]


def _covered(samples: Sequence[Sample], minutes: float) -> bool:
    """Whether they tell of more than half of so many minutes, however often somebody looked."""
    return len(samples) > 1 and samples[-1].time - samples[0].time > dt.timedelta(minutes=minutes / 2)


def _above(value: float | None, limit: float, over: float) -> bool | None:
    if value is None:
        return None
    return True if value > limit else (False if value < over else None)


def digest_verdict(asked: dt.datetime | None, sent: dt.datetime | None, now: dt.datetime) -> Verdict:
    """About the daily digest: asked for since then (None: not asked for), and last sent then (None: never)."""
    hours = 0.0 if asked is None else (now - (sent or asked)).total_seconds() / 3600
    late = hours > DIGEST_HOURS
    sentence = "The daily digest comes as it should"
    if late:
        sentence = f"The last daily digest is {hours:.0f} h old" if sent else "No daily digest was ever sent"
    return Verdict("host/digest:late", "warn", None, sentence, "systemctl status backstay-digest.timer", late)


def host_verdicts(samples: Sequence[Sample], objectives: Objectives) -> Iterator[Verdict]:
    """About the host, from samples in the order of time."""
    if not samples:
        return
    for name, title, limit in (
        ("cpu", "The processors are", objectives.cpu),
        ("memory", "Memory is", objectives.memory),
    ):
        measured = [each for each in _window(samples, 5) if getattr(each.host, name) is not None]
        values = [getattr(each.host, name) for each in measured]
        mean = sum(values) / len(values) if _covered(measured, 5) else None
        shown = f"{title} {mean:.0%} in use over 5 minutes" if mean is not None else f"{title} not measured"
        command = "ps aux --sort=-%cpu | head" if name == "cpu" else "ps aux --sort=-rss | head"
        yield Verdict(
            f"host/{name}",
            "warn",
            None,
            f"{shown}, the limit is {limit:.0%}",
            command,
            _above(mean, limit, limit - 0.05),
        )
    ten = _window(samples, 10)
    load = sum(each.host.load / max(1, each.host.cores) for each in ten) / len(ten) if _covered(ten, 10) else None
    limit = objectives.load_per_core
    sentence = f"The load of each core is {load or 0:.1f} over 10 minutes, the limit is {limit:g}"
    yield Verdict(
        "host/load", "warn", None, sentence, "uptime; ps aux --sort=-%cpu | head", _above(load, limit, limit * 0.8)
    )
    yield from _disks(samples, objectives)
    yield from _units(samples)


def _disks(samples: Sequence[Sample], objectives: Objectives) -> Iterator[Verdict]:
    """Two samples in a row, so that a file that comes and goes is no incident; one where nothing at all is free."""
    last = _newest_two(samples)
    for mount in samples[-1].host.mounts:
        seen = [(each.used, each.inodes) for sample in last for each in sample.host.mounts if each.path == mount.path]
        if mount.free_bytes < NOTHING_FREE:
            seen = seen[-1:]
        alone = len(seen) < 2 and mount.free_bytes >= NOTHING_FREE
        for what, place in (("", 0), (" of inodes", 1)):
            low, high = min(each[place] for each in seen), max(each[place] for each in seen)
            label = f"{mount.path}{':inodes' if place else ''}"
            limit = objectives.disk
            free = f", {mount.free_bytes / 1e9:.1f} GB are free" if not place else ""
            sentence = f"{mount.path} is {high:.0%} full{what}{free}, the limit is {limit:.0%}"
            crossed = True if low > limit else (False if high < limit - 0.02 else None)
            command = f"du -xh --max-depth=2 {mount.path} | sort -h | tail" if not place else f"df -i {mount.path}"
            severity: Severity = "warn"
            if low > FULL:
                severity, crossed, sentence = "page", True, f"{sentence}: soon nothing can be written"
            yield Verdict(f"host/disk:{label}", severity, None, sentence, command, None if alone else crossed)


def _units(samples: Sequence[Sample]) -> Iterator[Verdict]:
    """What failed in two samples, and for some minutes what died and was started again: it may die once more."""
    last = [set(each.host.failed_units) for each in _newest_two(samples) if each.host.failed_units is not None]
    failed = set.intersection(*last) if len(last) >= 2 else set()
    died = {unit for each in _window(samples, DIED_MINUTES) for unit in each.host.died}
    for unit in sorted(died.union(*last)):
        again = f"The unit {unit} died and was started again"
        sentence = again if unit in died - failed else f"The unit {unit} has failed"
        if unit.endswith(".timer"):
            sentence = f"{unit} does not run: nothing starts what it is to start"
        crossed = True if unit in failed | died else None
        yield Verdict(f"host/units:{unit}", "warn", None, sentence, f"journalctl -u {unit} -n 50", crossed)


def application_verdicts(
    name: str, samples: Sequence[Sample], objectives: Objectives, *, spent: float | None = None
) -> Iterator[Verdict]:
    """About one application. `spent` is the share of its uptime's budget that is gone."""
    known = [sample for sample in samples if name in sample.applications]
    if not known:
        return
    now = known[-1].applications[name]
    yield from _health(name, known)
    if not now.held:
        yield from _answers(name, [each for each in known if not each.applications[name].held], objectives)
    yield from _certificate(name, known[-1].time, now, objectives)
    yield from _backup(name, now, objectives)
    for job, sentence in now.job_problems:
        yield Verdict(f"{name}/jobs:{job}", "warn", name, sentence, f"backstay jobs {name}", bool(sentence) or None)
    if spent is not None:
        yield uptime_verdict(name, name, spent, objectives.uptime, f"backstay incidents {name}")


def uptime_verdict(subject: str, application: str | None, spent: float, objective: float, command: str) -> Verdict:
    """About the share of the uptime's budget that is gone: three quarters of it warn, all of it is a page."""
    allowed = (1 - objective) * BUDGET_DAYS * 1440
    sentence = (
        f"{spent:.0%} of the time that {subject} may be away in {BUDGET_DAYS} days ({allowed:.0f} minutes, objective "
        f"{objective:.4g}) is spent"
    )
    severity: Severity = "page" if spent >= 1 else "warn"
    return Verdict(f"{subject}/uptime", severity, application, sentence, command, _above(spent, _SPENT, _RECOVERED))


def burn_verdict(name: str, said: str | None, objective: float, *, told: bool, quiet: bool) -> Verdict:
    """About errors that keep within all limits and spend the budget all the same. `said` is what the page says: `page`,
    `ticket`. `told`: people know of these errors by another verdict; `quiet`: nothing was said for long enough."""
    sentence = f"{name} spends its budget of {BUDGET_DAYS} days no faster than it may"
    if said:
        sentence = f"{name} has errors that spend its budget of {BUDGET_DAYS} days (objective {objective:.4g}) too fast"
    severity: Severity = "page" if said == "page" else "warn"
    crossed = True if said and not told else (False if quiet else None)
    return Verdict(f"{name}/uptime:burn", severity, name, sentence, f"backstay logs {name} --lines 100", crossed)


def _health(name: str, known: Sequence[Sample]) -> Iterator[Verdict]:
    now = known[-1].applications[name]
    if now.healthy is None or now.held:
        return
    well = [each.applications[name].healthy for each in _newest_two(known)]
    crossed = True if now.healthy is False else (False if len(well) >= 2 and all(well) else None)
    sentence = f"{name} is not well: {now.why}" if now.healthy is False else f"{name} answers well again"
    yield Verdict(f"{name}/health", "page", name, sentence, f"backstay health {name}", crossed)


@dataclass(frozen=True)
class _Answered:
    requests: int
    errors: int
    minutes: float
    times: Times
    api: Times
    users: Sequence[int]

    @property
    def ratio(self) -> float | None:
        return self.errors / self.requests if self.requests >= FEWEST_ANSWERS else None


def _answered(name: str, samples: Sequence[Sample], minutes: float) -> _Answered:
    found = [each.applications[name] for each in _window(samples, minutes)]
    measured = sum(each.seconds or 60.0 for each in _window(samples, minutes)) / 60
    return _Answered(
        sum(each.requests for each in found),
        sum(each.errors for each in found),
        measured,
        sum((each.times for each in found), Times()),
        sum((each.api for each in found), Times()),
        [each.users for each in found],
    )


def _answers(name: str, samples: Sequence[Sample], objectives: Objectives) -> Iterator[Verdict]:
    five, ten, quiet = (_answered(name, samples, minutes) for minutes in (5, 10, QUIET_MINUTES))
    silent = quiet.requests < FEWEST_ANSWERS and len(quiet.users) >= QUIET_MINUTES - 2

    def verdict(kind: str, severity: Severity, sentence: str, crossed: bool | None) -> Verdict:
        over = False if crossed is None and silent else crossed
        return Verdict(f"{name}/{kind}", severity, name, sentence, f"backstay status {name}", over)

    enough = five.times.count >= FEWEST_ANSWERS
    mean = five.times.mean if enough else None
    limit = objectives.response_seconds
    sentence = f"{name} takes {mean or 0:.2f} s for an answer, mean of {five.times.count}, the limit is {limit:g} s"
    yield verdict("response", "warn", sentence, _above(mean, limit, limit * 0.9))
    p95 = five.times.quantile(0.95) if enough else None
    limit = objectives.p95_seconds
    sentence = f"5 of 100 answers of {name} take longer than {p95 or 0:.2f} s, the limit is {limit:g} s"
    yield verdict("p95", "warn", sentence, _above(p95, limit, limit * 0.9))
    yield from _errors(name, five, ten, samples, objectives)
    rate = ten.requests / ten.minutes if ten.minutes >= 4 else None
    per_minute = objectives.requests_per_minute
    sentence = f"{name} gets {rate or 0:.0f} requests a minute, more than {per_minute}: think of scaling it"
    yield verdict("requests", "advice", sentence, _above(rate, per_minute, per_minute * 0.8))
    if objectives.users is not None:
        most = sorted(five.users)[len(five.users) // 2] if len(five.users) >= 3 else None
        sentence = f"{most or 0} addresses use {name} within a minute, the limit is {objectives.users}"
        yield verdict("users", "advice", sentence, _above(most, objectives.users, objectives.users * 0.8))
    else:
        yield _dropped(name, "users", "users at once")
    if objectives.api_seconds is not None:
        mean = five.api.mean if five.api.count >= FEWEST_ANSWERS else None
        limit = objectives.api_seconds
        sentence = f"The API of {name} takes {mean or 0:.2f} s for an answer, the limit is {limit:g} s"
        yield verdict("api", "warn", sentence, _above(mean, limit, limit * 0.9))
    else:
        yield _dropped(name, "api", "answers of its API")


def _dropped(name: str, kind: str, what: str) -> Verdict:
    """What the application's file asks for no more is over, however it stands."""
    return Verdict(f"{name}/{kind}", "warn", name, f"{name} declares nothing about {what} any more", "", False)


def _errors(
    name: str, five: _Answered, ten: _Answered, samples: Sequence[Sample], objectives: Objectives
) -> Iterator[Verdict]:
    """One trouble, one message: as long as the page is open, or was within the window, the warning says nothing."""
    page, warn = objectives.server_error_ratio, objectives.error_ratio
    crossed = _above(five.ratio, page, page / 2)
    if crossed and five.errors < FEWEST_ERRORS:
        crossed = None
    told = f"of the answers of {name} were errors (5xx)"
    silent = _answered(name, samples, QUIET_MINUTES)
    if crossed is None and silent.requests < FEWEST_ANSWERS and len(silent.users) >= QUIET_MINUTES - 2:
        crossed = False
    command = f"backstay logs {name} --lines 100"
    yield Verdict(
        f"{name}/server_errors",
        "page",
        name,
        f"{five.ratio or 0:.1%} {told}, {five.errors} of {five.requests} in five minutes, the limit is {page:.0%}",
        command,
        crossed,
    )
    recent = _paged(name, samples, page)
    crossed = _above(ten.ratio, warn, warn / 2)
    # In three minutes at least: what is that bad at once soon is a page, and one trouble is one message.
    spread = sum(1 for each in _window(samples, 10) if each.applications[name].errors)
    if recent or (crossed and (ten.errors < FEWEST_ERRORS or spread < FEWEST_ERRORS)):
        crossed = None
    elif crossed is None and silent.requests < FEWEST_ANSWERS and len(silent.users) >= QUIET_MINUTES - 2:
        crossed = False
    yield Verdict(
        f"{name}/errors",
        "warn",
        name,
        f"{ten.ratio or 0:.1%} {told}, {ten.errors} of {ten.requests} in ten minutes, the limit is {warn:.1%}",
        command,
        crossed,
    )


def _paged(name: str, samples: Sequence[Sample], limit: float) -> bool:
    """Whether the share of errors was above the limit in any five minutes that lie within the last fifteen."""
    rows = [(each.time, each.applications[name]) for each in _window(samples, 15)]
    for place, (end, _unused) in enumerate(rows):
        part = [each for at, each in rows[: place + 1] if at > end - dt.timedelta(minutes=5, seconds=-5)]
        requests, errors = sum(each.requests for each in part), sum(each.errors for each in part)
        if requests >= FEWEST_ANSWERS and errors > limit * requests:
            return True
    return False


def _certificate(name: str, at: dt.datetime, now: ApplicationSample, objectives: Objectives) -> Iterator[Verdict]:
    if now.certificate_until is None or now.certificate_from is None:
        return
    ends, begins = dt.datetime.fromisoformat(now.certificate_until), dt.datetime.fromisoformat(now.certificate_from)
    left, whole = (ends - at).total_seconds(), max(1.0, (ends - begins).total_seconds())
    days = left / 86400
    told = (
        f"The certificate of {name} ends in {days:.0f} days"
        if days >= 2
        else f"The certificate of {name} ends on {ends:%Y-%m-%d %H:%M} UTC"
    )
    if left <= 0:
        told = f"The certificate of {name} ended on {ends:%Y-%m-%d %H:%M} UTC"
    command = f"backstay health {name}"
    # A certificate of a few days is renewed when a third of them is left: a tenth is late for it too.
    ending = (days <= 3 and left / whole <= 1 / 3) or (left / whole <= 0.1 and days <= objectives.certificate_days)
    late = days <= objectives.certificate_days and left / whole <= 1 / 3
    severity: Severity = "page" if ending else "warn"
    sentence = told if ending else f"{told}, its renewal is late"
    yield Verdict(f"{name}/certificate", severity, name, sentence, command, ending or late)


def _backup(name: str, now: ApplicationSample, objectives: Objectives) -> Iterator[Verdict]:
    if now.proof_level is None:
        yield _dropped(name, "backup", "backups")
        yield _dropped(name, "backup:share", "backups")
        return
    problems = now.backup_problems
    sentence = f"{name}: {problems[0]}" if problems else f"{name} is backed up and proven"
    yield Verdict(f"{name}/backup", "warn", name, sentence, f"backstay backups {name}", bool(problems))
    if objectives.backup_success is None:
        yield _dropped(name, "backup:share", "backups that succeed")
    elif now.backup_runs:
        share = 1 - now.backup_failed / now.backup_runs
        sentence = (
            f"{now.backup_failed} of {now.backup_runs} backups of {name} failed in 30 days, "
            f"{objectives.backup_success:.0%} are to succeed"
        )
        yield Verdict(
            f"{name}/backup:share",
            "warn",
            name,
            sentence,
            f"backstay backups {name}",
            share < objectives.backup_success,
        )


def spent_share(days: Mapping[str, Mapping[str, int]], objective: float) -> float | None:
    """The share of the uptime's budget that is gone, from minutes that were seen: {day: {"up": n, "down": n}}. The
    budget is that of thirty whole days, however many were seen; None where nothing was."""
    seen = sum(each.get("up", 0) + each.get("down", 0) for each in days.values())
    if not seen:
        return None
    allowed = (1 - objective) * BUDGET_DAYS * 1440
    down = sum(each.get("down", 0) for each in days.values())
    return down / allowed if allowed > 0 else (float(down > 0) * 2)
