"""What the one-look page says, cell by cell: facts of one application on one host become colours. Pure.

A cell is never a mere colour: it says what was seen, when and by whom, what would be well, and since when it is so.

    green   well                         what was seen is within its threshold, and fresh
    blue    meant to be so               a release in its first day, a declared maintenance
    yellow  to be looked at today
    red     somebody is needed now
    grey    nobody knows                 not watched, or seen too long ago. Grey is never green

What never happened (a backup, a proof, a scheduled job) is red from the first day: no missing figure, but a failure.
"""

from __future__ import annotations

import datetime as dt
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

State = Literal["green", "blue", "yellow", "red", "grey"]
Facts = Mapping[str, Any]

STATES = ("red", "grey", "yellow", "blue", "green")  # the worst first
RANK: Mapping[str, int] = {"green": 0, "blue": 1, "yellow": 2, "grey": 3, "red": 4}
EXIT_CODES: Mapping[str, int] = {"green": 0, "blue": 1, "yellow": 1, "red": 2, "grey": 3}
WORDS: Mapping[str, str] = {"green": "well", "blue": "planned", "yellow": "look", "red": "act now", "grey": "unknown"}
MINUTE, HOUR, DAY = 60, 3600, 86400
PAGE_SECONDS = 15 * MINUTE  # after three that were missed, the page is not to be believed
NEEDS = 5  # what one tired person can hold

# Name, title, how old what was seen may be (seconds), runbook.
COLUMNS: tuple[tuple[str, str, int, str], ...] = (
    ("host", "Host", 2 * MINUTE, "site-down.md"),
    ("release", "Release", 15 * MINUTE, "rollback.md"),
    ("health", "Health", 2 * MINUTE, "site-down.md"),
    ("objective", "Objective", 10 * MINUTE, "errors.md"),
    ("backup", "Backup", 15 * MINUTE, "backup-failed.md"),
    ("restore", "Proven restore", 15 * MINUTE, "backup-failed.md"),
    ("certificate", "Certificate", 6 * HOUR, "certificate.md"),
    ("disk", "Disk", 15 * MINUTE, "disk.md"),
    ("updates", "Updates", DAY, "security-checklist.md"),
    ("jobs", "Jobs", 15 * MINUTE, "care.md"),
    ("exposure", "Exposure", 15 * MINUTE, "security-checklist.md"),
    ("alerts", "Alert path", 10 * MINUTE, "on-call.md"),
)
# Beside the health, there where another host of the inventory watches this one (`backstay probe`).
OUTSIDE = ("uptime", "Uptime from outside", 3 * MINUTE, "site-down.md")
WITH_OUTSIDE = (*COLUMNS[:3], OUTSIDE, *COLUMNS[3:])
TITLES: Mapping[str, str] = {name: title for name, title, _age, _book in WITH_OUTSIDE}
RUNBOOKS: Mapping[str, str] = {name: book for name, _title, _age, book in WITH_OUTSIDE}
MAX_AGES: Mapping[str, int] = {name: age for name, _title, age, _book in WITH_OUTSIDE}
# What is asked again and again, so that one answer may be an accident: red is left after two good looks in a row, of
# which the observer's newest sample may be one (`well_at`): the page alone looks too seldom.
PROBED = frozenset({"host", "health", "objective", "disk", "alerts"})
# Whose silence is itself an alarm, once it lasts for twice what is allowed.
VITAL = frozenset({"health", "backup", "alerts"})
# What comes first among equals: what visitors meet, then what data could be lost by, then the rest.
_URGENCY = (
    "health",
    "uptime",
    "host",
    "objective",
    "release",
    "disk",
    "backup",
    "restore",
    "alerts",
    "certificate",
    "jobs",
)


@dataclass(frozen=True)
class Limits:
    """The thresholds, as the application's file may set them. Ratios from 0 to 1, times in seconds."""

    response_seconds: float = 2.0  # p95
    error_ratio: float = 0.01
    used_ratio: float = 0.80
    used_ratio_red: float = 0.95
    full_seconds: float = 14 * DAY
    full_seconds_red: float = DAY
    budget_left: float = 0.25
    shrink_ratio: float = 0.5
    recovery_seconds: float | None = None
    maintenance_seconds: float = 4 * HOUR
    memory_ratio: float = 0.80
    cpu_ratio: float = 0.80
    load_per_core: float = 4.0
    ports: tuple[int, ...] = (22, 80, 443)
    unit_score: float = 3.0  # of systemd-analyze security, from 0 to 10


@dataclass(frozen=True)
class Cell:
    """One cell. `value` is what is shown, `threshold` what would be well, `why` a clause where it is not; `command` is
    the one thing to type. `due_seconds` is how long there is until it becomes worse, where that is known. `asked` is
    False for what nobody watches yet. `was` is the colour before what was seen grew old."""

    name: str
    state: State
    value: str
    threshold: str = ""
    since: str | None = None
    observed_at: str | None = None
    max_age_seconds: int = 0
    source: str = ""
    why: str = ""
    command: str = ""
    due_seconds: float | None = None
    acknowledged: Mapping[str, str] | None = None
    was: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Look:
    """What every judgement is given."""

    facts: Facts
    limits: Limits
    now: dt.datetime
    memory: Facts

    @property
    def look(self) -> Facts:
        return _mapping(self.facts.get("look"))

    @property
    def application(self) -> str:
        return str(self.facts.get("application") or "")

    def age(self, stamp: Any) -> float:
        """Seconds since a time; raises nothing for one that is not there: that is for ever ago."""
        return age(stamp, self.now)


# --- words


def age(stamp: Any, now: dt.datetime) -> float:
    """Seconds since an ISO 8601 time; infinite where there is none."""
    if not stamp:
        return float("inf")
    moment = dt.datetime.fromisoformat(str(stamp))
    return (now - (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC))).total_seconds()


def spoken(seconds: float) -> str:
    """A duration in its largest fitting unit: `26 h`, `3 d`, `40 s`."""
    if seconds == float("inf"):
        return "for ever"
    for size, name, enough in ((DAY, "d", 2 * DAY), (HOUR, "h", 2 * HOUR), (MINUTE, "min", 2 * MINUTE)):
        if abs(seconds) >= enough:
            return f"{seconds / size:.0f} {name}"
    if abs(seconds) >= 10 or seconds == 0:
        return f"{seconds:.0f} s"
    return f"{seconds:.1f} s" if abs(seconds) >= 1 else f"{seconds * 1000:.0f} ms"


def size(number: float) -> str:
    """Bytes for people."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number:.0f} B"


def percent(ratio: float) -> str:
    """A ratio as a percentage with as many digits as say something."""
    value = ratio * 100
    if value == 0 or 10 <= value < 99 or value >= 99.995:
        return f"{value:.0f} %"
    return f"{value:.{1 if 1 <= value < 10 else 2}f}".rstrip("0").rstrip(".") + " %"


def share(ratio: float) -> str:
    """A share of something that is used, for which whole percents are enough."""
    return f"{ratio * 100:.0f} %"


def _mapping(value: Any) -> Facts:
    return value if isinstance(value, Mapping) else {}


def unwatched(name: str, why: str, command: str = "") -> Cell:
    """A cell nobody watches: grey, and says so."""
    return Cell(name, "grey", "not watched", why=why, command=command)


# --- what each cell says


def _host(at: _Look) -> Cell:
    seen = _mapping(at.look.get("host"))
    if not seen:
        return unwatched("host", "the host's memory and load were not looked at")
    limits, memory, load = at.limits, float(seen["memory_ratio"]), float(seen["load"])
    cores, cpu = int(seen["cores"]), seen.get("cpu_ratio")
    value = f"memory {share(memory)}, " + (f"CPU {share(float(cpu))}" if cpu is not None else f"load {load:.1f}")
    most = f"< {share(limits.memory_ratio)}" + ("" if cpu is not None else f", load < {limits.load_per_core * cores:g}")
    reasons = [f"memory is {share(memory)} used"] if memory > limits.memory_ratio else []
    reasons += [f"the load is {load:.1f} on {cores} cores"] if load > limits.load_per_core * cores else []
    reasons += [f"the CPU is {share(float(cpu))} busy"] if cpu is not None and float(cpu) > limits.cpu_ratio else []
    failed = [str(unit) for unit in seen.get("failed_units") or ()]
    died = [str(unit) for unit in seen.get("died_units") or () if unit not in failed]
    for units, what in ((failed, "has failed"), (died, "died and was started again")):
        reasons += [f"{units[0]} {what}" + (f", and {len(units) - 1} more" if units[1:] else "")] if units else []
    failed += died
    command = f"journalctl -u {failed[0]}" if failed else "systemd-cgtop -m" if reasons else ""
    silent = at.age(seen.get("page_at")) if seen.get("page_at") else 0.0
    if silent > PAGE_SECONDS:
        reasons.append(f"its page was not written for {spoken(silent)}")
        command = command or "systemctl status backstay-page.timer"
    state: State = "red" if memory > at.limits.used_ratio_red else "yellow" if reasons else "green"
    return Cell("host", state, value, most, source="/proc", why="; ".join(reasons), command=command)


def _release(at: _Look) -> Cell:
    live = _mapping(at.facts.get("live"))
    if not live:
        return Cell("release", "red", "none", "one is live", why="nothing is live yet: release a version")
    since, facts = str(live.get("since") or ""), at.facts
    target = facts.get("rollback_target")
    cell = Cell(
        "release",
        "green",
        f"{live.get('version') or live['id']}, {spoken(at.age(since))}" if since else str(live["id"]),
        f"way back: {str(target).partition('-')[2]}" if target else "as declared, with a way back",
        since or None,
        source="ledger",
    )
    failed = _mapping(facts.get("last_failed"))
    opened = at.age(at.look.get("transaction_since")) if at.look.get("transaction_since") else 0.0
    history = f"backstay history {at.application}"
    if facts.get("transaction_open"):
        state: State = "red" if opened > HOUR else "yellow"
        why = "a transaction is open" + (f" for {spoken(opened)}" if opened > HOUR else "")
        return replace(cell, state=state, why=why, command=f"backstay recover {at.application}")
    if failed and str(failed.get("since")) > since:
        fresh = at.age(failed["since"]) <= DAY
        why = f"{failed['id']} failed {spoken(at.age(failed['since']))} ago: {str(failed.get('reason'))[:160]}"
        limit = f"{cell.threshold}; a failed release is red for a day"
        return replace(cell, state="red" if fresh else "yellow", why=why, command=history, threshold=limit)
    if facts.get("configuration_changed"):
        why = "the configuration declared here differs from the live release's"
        return replace(cell, state="yellow", why=why, command=f"backstay release {at.application}")
    fresh_errors = _mapping(facts.get("watched")).get("new_errors") or ()
    if fresh_errors:
        why = f"{len(fresh_errors)} kinds of error that the release before did not have"
        return replace(cell, state="yellow", why=why, command=f"backstay status {at.application}")
    if not target:
        return replace(cell, state="yellow", why="there is no release to roll back to", command=history)
    if at.age(since) < DAY:
        return replace(cell, state="blue", why="watched for its first day")
    return cell


def web_state(facts: Facts) -> str:
    """What systemd says of the live release's web process; `gone` where it knows none."""
    live = _mapping(facts.get("live"))
    wanted = f"-{live.get('id')}-web.service"
    return next(
        (str(state) for unit, state in _mapping(facts.get("processes")).items() if unit.endswith(wanted)), "gone"
    )


def _health(at: _Look) -> Cell:
    most = f"< 3 failures, < {spoken(at.limits.response_seconds)}"
    if not at.facts.get("live"):
        return Cell("health", "red", "nothing served", most, why="nothing is live, so nobody is answered")
    web = web_state(at.facts)
    if web != "active":
        why = f"{_mapping(at.facts['live'])['id']} is live and its web process is {web}"
        return Cell(
            "health", "red", web, most, source="systemd", why=why, command=f"backstay rollback {at.application}"
        )
    if at.facts.get("rebuilding"):
        why = "it is being rebuilt and its data are still to come; the door is closed until then"
        return Cell("health", "yellow", "no data yet", most, why=why, command=str(at.facts["rebuilding"]))
    if at.facts.get("maintenance"):
        return _maintenance(at)
    bad = [
        unit for unit, state in _mapping(at.facts.get("processes")).items() if state in ("failed", "gone", "inactive")
    ]
    if bad:
        why = f"{bad[0]} is {_mapping(at.facts['processes'])[bad[0]]}"
        command = f"backstay recover {at.application}"
        return Cell("health", "yellow", "a process is down", most, source="systemd", why=why, command=command)
    return _probed(at, most)


def _maintenance(at: _Look) -> Cell:
    since = at.look.get("maintenance_since")
    length = at.age(since) if since else 0.0
    over = length > at.limits.maintenance_seconds
    most = f"to be looked at after {spoken(at.limits.maintenance_seconds)}"
    why = f"maintenance is on{f' for {spoken(length)}' if since else ''}, no end was declared"
    command = f"backstay maintenance off {at.application}"
    return Cell("health", "yellow" if over else "blue", "maintenance", most, since, why=why, command=command)


def _probed(at: _Look, most: str) -> Cell:
    """What the last requests said: from inside, and where another host asks too, from outside."""
    probes = [_mapping(at.look.get(name)) for name in ("probe", "outside")]
    probes = [probe for probe in probes if probe]
    if not probes:
        return unwatched("health", "nobody asked the application whether it is well")
    worst = max(probes, key=lambda probe: (not probe["ok"], int(probe.get("failures") or 0)))
    cell = Cell(
        "health",
        "green",
        f"well in {spoken(float(worst.get('seconds') or 0))}",
        most,
        observed_at=min(str(probe["at"]) for probe in probes),
        source=" and ".join(str(probe.get("source") or "a request") for probe in probes),
    )
    if worst["ok"]:
        p95 = _mapping(at.look.get("traffic")).get("p95_seconds")
        if p95 is not None and float(p95) > at.limits.response_seconds:
            slow = f"95 of 100 requests take up to {spoken(float(p95))}"
            return replace(cell, state="yellow", why=slow, command=f"backstay logs {at.application}")
        return cell
    failures, length = int(worst.get("failures") or 1), float(worst.get("for_seconds") or 0)
    state: State = "red" if failures >= 3 or length >= 120 else "yellow"
    why = f"{worst.get('reason') or 'no answer'} ({failures} times in a row)"
    return replace(cell, state=state, value="not well", why=why, command=f"backstay health {at.application}")


def _objective(at: _Look) -> Cell:
    seen = _mapping(at.look.get("traffic"))
    if not seen:
        return unwatched("objective", "nobody reads the front door's log yet")
    limits, errors, p95 = at.limits, float(seen.get("error_ratio") or 0), seen.get("p95_seconds")
    objective, left = seen.get("objective_ratio"), seen.get("budget_left")
    parts = [f"{int(seen.get('requests') or 0)} requests", f"{percent(errors)} errors"]
    parts += [f"p95 {spoken(float(p95))}"] if p95 is not None else []
    parts += [f"{percent(max(float(left), 0.0))} budget left"] if left is not None else []
    most = f"< {percent(limits.error_ratio)}, < {spoken(limits.response_seconds)}"
    most += f", budget > {percent(limits.budget_left)}" if objective else ""
    bad, look = [], []
    if left is not None and float(left) <= 0:
        bad.append("the error budget of 30 days is used up")
    elif left is not None and float(left) <= limits.budget_left:
        look.append(f"{percent(float(left))} of the error budget is left")
    burn = seen.get("burn")
    (bad if burn == "page" else look).extend([f"the budget burns fast ({burn})"] if burn else [])
    if errors > limits.error_ratio:
        look.append(f"{percent(errors)} of the requests fail")
    if p95 is not None and float(p95) > limits.response_seconds:
        look.append(f"95 of 100 requests take up to {spoken(float(p95))}")
    state: State = "red" if bad else "yellow" if look else "green"
    # A budget that nobody reckoned lately makes nothing green, and hides nothing that is known to be wrong.
    observed = seen.get("at") if bad or look else seen.get("budget_at") or seen.get("at")
    command = f"backstay logs {at.application}" if bad or look else ""
    return Cell(
        "objective",
        state,
        ", ".join(parts[1:]) if parts[0] != "0 requests" else "no visits",
        most,
        observed_at=observed,
        source="nginx's log",
        why="; ".join(bad + look),
        command=command,
    )


def _backup(at: _Look) -> Cell:
    seen = at.facts.get("backup")
    if not isinstance(seen, Mapping):
        return unwatched("backup", "the application's file asks for no backups: declare `backup`")
    look = _mapping(at.look.get("backup"))
    rpo = float(look.get("max_age_seconds") or 26 * HOUR)
    run = f"backstay backup {at.application}"
    most = f"≤ {spoken(rpo)}"
    newest = _mapping(seen.get("newest"))
    if not newest:
        why = str((seen.get("problems") or ["there is no restore point"])[0]).partition(": run ")[0]
        return Cell("backup", "red", "never", most, source="catalogue", why=why, command=run)
    length, copies = at.age(newest["at"]), len(newest.get("repositories") or ())
    wanted = int(look.get("repositories") or len(_mapping(seen.get("repositories"))) or 1)
    value = f"{spoken(length)} ago, {size(float(newest['size_bytes']))}"
    most = f"{most}, {wanted} {'copy' if wanted == 1 else 'copies'}"
    failures, median = int(look.get("failures") or 0), float(look.get("median_bytes") or 0)
    bad, less = [], []
    if length > 2 * rpo:
        bad.append(f"the newest restore point is {spoken(length)} old")
    elif length > rpo:
        less.append(f"the newest restore point is {spoken(length)} old")
    if failures:
        (bad if failures >= 2 else less).append(f"{failures} backups in a row failed" if failures > 1 else "one failed")
    if copies < wanted:
        less.append(f"{wanted - copies} of {wanted} repositories lack it")
    if median and float(newest["size_bytes"]) < median * (1 - at.limits.shrink_ratio):
        less.append(f"it is less than half of the usual {size(median)}")
    others = [] if bad or less else [str(said) for said in seen.get("problems") or () if "proof" not in said]
    others = [said for said in others if "restored and compared" not in said]
    state: State = "red" if bad else "yellow" if less or others else "green"
    why = "; ".join(bad + less + others[:1])
    due = 2 * rpo - length if state == "yellow" else rpo - length
    return Cell(
        "backup",
        state,
        value,
        most,
        source="catalogue",
        why=why,
        command=run if why else "",
        due_seconds=max(due, 0.0),
    )


def _restore(at: _Look) -> Cell:
    seen = at.facts.get("backup")
    if not isinstance(seen, Mapping):
        return unwatched("restore", "without backups there is nothing to prove")
    look = _mapping(at.look.get("backup"))
    good = float(look.get("proof_max_age_seconds") or 35 * DAY)
    most = f"≤ {spoken(good)}"
    verify = f"backstay verify --level L4 {at.application}"
    proven = _mapping(seen.get("last_proven"))
    refuted = look.get("refuted")
    if refuted:
        return Cell("restore", "red", "refuted", most, source="catalogue", why=str(refuted), command=verify)
    if not proven:
        why = "no restore point was ever restored and compared"
        return Cell("restore", "red", "never", most, source="catalogue", why=why, command=verify)
    length, took = at.age(proven.get("proven_at")), proven.get("proof_seconds")
    value = f"{spoken(length)} ago" + (f", back in {spoken(float(took))}" if took is not None else "")
    lost = look.get("recovery_point_seconds")
    value += f", {spoken(float(lost))} lost" if lost is not None else ""
    target = at.limits.recovery_seconds
    most += f", back in < {spoken(target)}" if target else ""
    late = f"the last proof is {spoken(length)} old"
    slow = bool(target and took is not None and float(took) > target)
    why = late if length > good else "the restore takes longer than it may" if slow else ""
    state: State = "red" if length > 45 * DAY else "yellow" if why else "green"
    due = 45 * DAY - length
    return Cell(
        "restore",
        state,
        value,
        most,
        source="catalogue",
        why=why,
        command=verify if why else "",
        due_seconds=max(due, 0.0),
    )


def _certificate(at: _Look) -> Cell:
    seen = _mapping(at.look.get("certificate"))
    most = "> 1/3 of its life"
    if not seen:
        return unwatched("certificate", "no certificate of this application lies where nginx reads it")
    observed = seen.get("at")
    if seen.get("problem"):
        return Cell("certificate", "red", "invalid", most, observed_at=observed, why=str(seen["problem"]))
    left = -at.age(seen["not_after"])
    life = at.age(seen["not_before"]) + left
    command = f"openssl x509 -enddate -noout -in {seen['path']}" if seen.get("path") else ""
    cell = Cell(
        "certificate",
        "green",
        f"{spoken(left)} left",
        most,
        observed_at=observed,
        source="nginx's file",
        due_seconds=max(left, 0.0),
    )
    if left <= 0:
        why = f"it is out of date since {spoken(-left)}"
        return replace(cell, state="red", value="expired", why=why, command=command)
    if not seen.get("is_for", True):
        return replace(cell, state="red", why=f"it is not for {seen.get('domain')}", command=command)
    if left <= 3 * DAY or left <= life / 10:
        return replace(cell, state="red", why=f"{spoken(left)} left and it was not renewed", command=command)
    if left <= life / 3:
        return replace(cell, state="yellow", why="its renewal is late", command=command)
    return cell


def _disk(at: _Look) -> Cell:
    mounts = [_mapping(mount) for mount in at.look.get("mounts") or ()]
    if not mounts:
        return unwatched("disk", "no mount was looked at")

    def fullness(mount: Facts) -> float:
        return max(float(mount["used_ratio"]), float(mount.get("inodes_ratio") or 0))

    limits = at.limits
    worst = max(mounts, key=fullness)
    used, inodes = float(worst["used_ratio"]), float(worst.get("inodes_ratio") or 0)
    soonest = min(
        (m for m in mounts if m.get("full_seconds") is not None), key=lambda m: m["full_seconds"], default=None
    )
    value = f"{worst['path']} {share(max(used, inodes))}" + (" of inodes" if inodes > used else "")
    most = f"< {share(limits.used_ratio)}, > {spoken(limits.full_seconds)}"
    left = float(soonest["full_seconds"]) if soonest else None
    if soonest is not None and left is not None and left < 365 * DAY:
        value += f", {spoken(left)} until full" if soonest is worst else f", {soonest['path']} full in {spoken(left)}"
    elif at.look.get("forecast") is False:
        value += ", no forecast yet"
    red = fullness(worst) >= limits.used_ratio_red or (left is not None and left <= limits.full_seconds_red)
    yellow = fullness(worst) >= limits.used_ratio or (left is not None and left <= limits.full_seconds)
    state: State = "red" if red else "yellow" if yellow else "green"
    which = worst if fullness(worst) >= limits.used_ratio or soonest is None else soonest
    why = "" if state == "green" else f"{which['path']} is {share(fullness(which))} full"
    if state != "green" and left is not None and soonest is not None and left <= limits.full_seconds:
        why += f"; {soonest['path']} will be full in {spoken(left)}"
    command = f"du -xh --max-depth=2 {which['path']} | sort -h | tail" if why else ""
    return Cell("disk", state, value, most, source="statvfs", why=why, command=command, due_seconds=left)


def _updates(at: _Look) -> Cell:
    seen = _mapping(at.look.get("updates"))
    most = "security ≤ 7 d"
    # What is so without asking apt: where a system's time is over, its mirrors go, and apt can say nothing any more.
    bad, less = [], []
    supported = seen.get("supported_until")
    if supported and at.age(supported) > 0:
        bad.append(f"{seen.get('system')} gets no security updates any more")
    elif supported and -at.age(supported) < 90 * DAY:
        less.append(f"{seen.get('system')} gets security updates for {spoken(-at.age(supported))} more")
    if seen.get("reboot_required"):
        less.append("a reboot is due")
    observed = None if bad + less else seen.get("at")
    unknown = str(seen.get("problem") or "nobody asked apt what waits") if seen.get("security") is None else ""
    if unknown and not bad + less:
        return unwatched("updates", unknown)
    less += [unknown] if unknown else []
    count, length = int(seen.get("security") or 0), float(seen.get("oldest_seconds") or 0)
    value = f"{count} for security wait" if count != 1 else "1 for security waits"
    value = "unknown" if unknown else value if count else "up to date"
    value += ", reboot due" if seen.get("reboot_required") else ""
    if count and length > 7 * DAY:
        (bad if length > 30 * DAY else less).append(f"security updates wait for {spoken(length)}")
    state: State = "red" if bad else "yellow" if less else "green"
    command = "apt-get update && apt-get upgrade" if count or unknown else ""
    command = command or ("systemctl reboot" if seen.get("reboot_required") else "")
    return Cell(
        "updates",
        state,
        value,
        most,
        observed_at=observed,
        source="apt",
        why="; ".join(bad + less),
        command=command if bad + less else "",
    )


def _jobs(at: _Look) -> Cell:
    jobs = at.look.get("jobs")
    most = "each on its schedule"
    if jobs is None:
        return unwatched("jobs", "nobody keeps the results of scheduled jobs yet")
    if not jobs:
        return Cell("jobs", "green", "none declared", most, source="results of jobs")
    by: dict[str, list[str]] = {}
    for job in jobs:
        by.setdefault(str(job["state"]), []).append(str(job["job"]))
    words = {"failed": "failed", "missing": "did not run", "never": "never ran", "late": "is late"}
    bad = [(name, words[state]) for state in ("failed", "missing", "never") for name in by.get(state, ())]
    late = [(name, words["late"]) for name in by.get("late", ())]
    told = bad + late
    reasons = {str(job["job"]): str(job.get("why") or "") for job in jobs}
    state: State = "red" if bad else "yellow" if late else "green"
    value = f"{len(jobs) - len(told)} of {len(jobs)} on schedule"
    why = "; ".join(f"{name}: {reasons[name] or what}" for name, what in told[:3])
    why += f" and {len(told) - 3} more" if told[3:] else ""
    command = f"backstay job {told[0][0]} {at.application}" if told else ""
    return Cell("jobs", state, value, most, source="results of jobs", why=why, command=command)


_NEVER_OPEN = {6379: "Redis", 9090: "Prometheus", 9093: "Alertmanager", 5432: "PostgreSQL", 3306: "MySQL"}


@dataclass(frozen=True)
class _Finding:
    """Something that is open to others and ought not to be, and what to type."""

    state: State
    why: str
    command: str


def _exposure(at: _Look) -> Cell:
    seen = _mapping(at.look.get("exposure"))
    if not seen:
        return unwatched("exposure", "nobody looked which ports are open")
    declared = tuple(int(port) for port in seen.get("declared") or at.limits.ports)
    most = f"only {' '.join(map(str, declared))}, unit ≤ {at.limits.unit_score:.1f}"
    parts = [_ports_of(seen)] if seen.get("open") is not None else []
    unit, warned = _mapping(seen.get("unit")), seen.get("warnings")
    parts += [f"unit {float(unit['score']):.1f}"] if unit else []
    parts += [f"{len(warned)} {'warning' if len(warned) == 1 else 'warnings'}"] if warned else []
    lacking = _lacking(at, seen)
    parts += [f"{' and '.join(lacking)} unknown"] if lacking else []  # a comma would part it on the page
    found = [*_passwords(at, seen), *_open_ports(seen, declared), *_unit(at, unit), *_warned(at, warned or ())]
    found.sort(key=lambda each: -RANK[each.state])
    # Of what nobody knows nothing is concluded; and without the ports too little is known to call it well.
    state = found[0].state if found else "green" if seen.get("open") is not None else "grey"
    why = "; ".join(each.why for each in found)
    why = why or "; ".join(f"the {what} {_are(what)} not known: {reason}" for what, reason in lacking.items())
    command = found[0].command if found else ""
    source = "/proc/net, nftables, systemd, the application"
    return Cell("exposure", state, ", ".join(parts), most, source=source, why=why, command=command)


def _ports_of(seen: Facts) -> str:
    opened, shut = (" ".join(str(int(port)) for port in seen.get(kind) or ()) for kind in ("open", "closed"))
    return (f"{opened} open" if opened else "nothing open") + (f", {shut} closed by the firewall" if shut else "")


def _are(what: str) -> str:
    return "are" if what.endswith("s") else "is"


def _lacking(at: _Look, seen: Facts) -> dict[str, str]:
    """What of the four nobody knows, and why. Where nothing is live there is nothing to know but ports."""
    reasons = _mapping(seen.get("unknown"))
    found = {} if seen.get("open") is not None else {"ports": "nobody looked"}
    for what in ("unit", "warnings", "accounts") if at.facts.get("live") else ():
        if seen.get(what) is None or what in reasons:
            found[what] = str(reasons.get(what) or "nobody looked")
    return found


def _passwords(at: _Look, seen: Facts) -> Iterable[_Finding]:
    name = at.application
    weak = [str(each) for each in _mapping(seen.get("accounts")).get("weak") or ()]
    if weak:
        more = f" and {len(weak) - 1} more have" if weak[1:] else " has"
        dashes = "-- " if weak[0].startswith("-") else ""
        command = f"backstay run -a {name} python manage.py changepassword {dashes}{shlex.quote(weak[0])}"
        yield _Finding("red", f"the account {weak[0]}{more} a default password", command)
    for key in (str(each) for each in seen.get("weak_secrets") or ()):
        why = f"{key} has a default value: change backstay_secrets['{name}']['{key}'] and release"
        yield _Finding("red", why, "ansible-vault edit inventories/mine/group_vars/app_servers/vault.yml")


def _open_ports(seen: Facts, declared: Sequence[int]) -> Iterable[_Finding]:
    problems = [str(said) for said in seen.get("problems") or ()]
    command = "systemctl restart backstay-firewall.service" if problems else "ss -lntp"
    extra = [int(port) for port in seen.get("open") or () if int(port) not in declared]
    rest = [port for port in extra if port not in _NEVER_OPEN]
    for port in extra:
        if port in _NEVER_OPEN:
            yield _Finding("red", f"{_NEVER_OPEN[port]} listens to the world on {port}", command)
    for port in (int(each) for each in seen.get("everybody") or ()):
        if port in _NEVER_OPEN:
            why = f"{_NEVER_OPEN[port]} answers everybody on {port}: name its `sources` in firewall_ports"
            yield _Finding("red", why, "ansible-playbook playbooks/site.yml")
    for said in [f"not declared: {', '.join(map(str, rest))}"] * bool(rest) + problems:
        yield _Finding("yellow", said, command)


def _unit(at: _Look, unit: Facts) -> Iterable[_Finding]:
    if unit and float(unit["score"]) > at.limits.unit_score:
        why = f"systemd rates the exposure of its web unit {float(unit['score']):.1f}"
        yield _Finding("yellow", why, f"systemd-analyze security {unit['name']}")


def _warned(at: _Look, warned: Sequence[Facts]) -> Iterable[_Finding]:
    new = [each for each in warned if each.get("new")]
    if new:
        first, said = str(new[0]["id"]), str(new[0]["said"])
        many = f"{len(new)} new warnings, such as" if new[1:] else "a new warning,"
        why = f"check --deploy has {many} {first}" + (f": {said}" if said != first else "")
        yield _Finding("yellow", why, f"backstay run -a {at.application} python manage.py check --deploy")


def _alerts(at: _Look) -> Cell:
    seen = _mapping(at.look.get("alerts"))
    most = "≤ 5 min, test ≤ 8 d"
    if not seen:
        return unwatched("alerts", "no alert goes anywhere yet")
    beat = at.age(seen.get("heartbeat_at"))
    tested = at.age(seen.get("tested_at"))
    test = f"backstay notify test {at.application}"
    cell = Cell("alerts", "green", f"watched {spoken(max(beat, 0))} ago", most, source="the watcher")
    if beat > 10 * MINUTE:
        why = f"the watcher is silent for {spoken(beat)}" if beat != float("inf") else "the watcher never ran"
        return replace(cell, state="red", value="silent", why=why, command="systemctl status backstay-observe.timer")
    if not seen.get("routes", True):
        return replace(
            cell, state="red", value="no route", why="alerts have nowhere to go: declare a route", command=test
        )
    if seen.get("stuck"):
        return replace(cell, state="red", value="stuck", why=str(seen["stuck"]), command=test)
    if tested == float("inf"):
        return replace(cell, state="red", value="never tested", why="no test message ever arrived", command=test)
    cell = replace(cell, value=f"{cell.value}, tested {spoken(tested)} ago")
    if tested > 8 * DAY:
        return replace(cell, state="yellow", why=f"the last test message is {spoken(tested)} old", command=test)
    if beat > 5 * MINUTE:
        return replace(cell, state="yellow", why=f"the watcher is silent for {spoken(beat)}", command=test)
    return cell


def uptime(seen: Facts, *, now: dt.datetime) -> Cell:
    """What another host saw of one application, from the facts of `backstay probe`."""
    spent, allowed = seen.get("spent"), (1 - float(seen["objective"])) * 30 * DAY
    left = None if spent is None else 1 - float(spent)
    values = [f"{percent(float(seen['uptime']))} of 30 d"] if seen.get("uptime") is not None else []
    values += [f"{percent(max(left, 0.0))} of {spoken(allowed)} left"] if left is not None else []
    cell = Cell(
        "uptime",
        "green",
        ", ".join(values) or "nothing yet",
        f"≥ {percent(float(seen['objective']))} of 30 d",
        seen.get("changed") or None,
        seen.get("at") or None,
        MAX_AGES["uptime"],
        source=str(seen["probe"]),
        acknowledged=seen.get("acknowledged"),
    )
    why, state = str(seen.get("why") or ""), seen["state"]
    if not cell.observed_at:
        command = "systemctl status backstay-probe.timer"
        return replace(cell, state="red", value="never looked", why=f"{cell.source} never looked", command=command)
    if not seen.get("since") and state != "unknown":
        cell = replace(cell, state="red", value="never answered", why=why or "it never answered well", command="")
    elif state == "down":
        value = f"down for {spoken(max(age(seen['changed'], now), 0))}"
        command = f"backstay diagnose {seen['application']}"
        cell = replace(cell, state="red", value=", ".join([value, *values[1:]]), why=why, command=command)
    elif state == "unknown":
        cell = replace(cell, state="grey", why=why)
    elif state == "maintenance":
        cell = replace(cell, state="blue", why="maintenance is on")
    elif left is not None and left <= 0:
        cell = replace(cell, state="red", why="the time that it may be away in 30 days is used up")
    elif left is not None and left <= Limits.budget_left:
        cell = replace(cell, state="yellow", why=f"{percent(left)} of the time that it may be away in 30 days is left")
    elif seen.get("stuck"):
        cell = replace(cell, state="yellow", why=f"messages from {cell.source} do not arrive: {seen['stuck']}")
    return _aged(cell, now)


def unseen(probe: str, *, silent: bool) -> Cell:
    """The cell of what a probe of the inventory ought to watch and does not tell of."""
    if silent:
        return Cell("uptime", "grey", "unknown", why=f"because {probe} does not answer", source=probe)
    why = f"{probe} was never told to watch it: run playbooks/site.yml"
    return Cell("uptime", "red", "never looked", why=why, command="ansible-playbook playbooks/site.yml", source=probe)


def with_uptime(old: Row, cell: Cell, events: Iterable[Facts] = ()) -> Row:
    """The row with what another host saw. It can make a row worse and no better."""
    state: State = "yellow" if cell.state == "grey" else cell.state
    state = state if RANK[state] > RANK[old.state] else old.state
    why = f"{TITLES['uptime'].lower()}: {cell.why or cell.value}" if state != old.state else old.why
    told = sorted((*old.events, *events), key=lambda event: str(event["at"]))
    place = [each.name for each in old.cells].index("health") + 1
    cells = (*old.cells[:place], cell, *old.cells[place:])
    return replace(old, state=state, why=why, cells=cells, events=tuple(told))


_JUDGES: tuple[Callable[[_Look], Cell], ...] = (
    _host, _release, _health, _objective, _backup, _restore, _certificate, _disk, _updates, _jobs, _exposure, _alerts,
)  # fmt: skip


# --- rules that hold for all cells


def _aged(cell: Cell, now: dt.datetime) -> Cell:
    """What was seen too long ago is known no more."""
    length = age(cell.observed_at, now)
    if cell.observed_at is None or length <= cell.max_age_seconds:
        return cell
    why = f"last seen {spoken(length)} ago, allowed are {spoken(cell.max_age_seconds)}"
    return replace(cell, state="grey", was=cell.state, why=why)


def _remembered(cell: Cell, at: _Look) -> tuple[Cell, dict[str, Any]]:
    """The cell with its `since`; red is left after two good looks where one may be an accident."""
    before, now = _mapping(at.memory.get(cell.name)), at.now.isoformat(timespec="seconds")
    good = 0
    if before.get("state") == "red" and cell.name in PROBED and cell.state in ("green", "yellow"):
        well_since = at.age(_mapping(at.look.get("well_at")).get(cell.name)) < at.age(before.get("at"))
        good = int(before.get("good") or 0) + 1 + well_since
        if good < 2:
            cell = replace(cell, state="red", why=cell.why or "well again, once so far: it stays red until it is twice")
    same = before.get("state") == cell.state
    since = str(before.get("since") or now) if same else now
    if cell.since is None and before:
        cell = replace(cell, since=since)
    good = good if cell.state == "red" else 0
    return cell, {"state": cell.state, "since": cell.since or since, "good": good, "at": now}


def _with_incidents(cell: Cell, at: _Look) -> Cell:
    """What people were told of and what is not over is not well, whatever else is seen; advice is no trouble."""
    if cell.state == "blue" and cell.name == "health":
        return cell  # a declared maintenance
    colours: Mapping[str, State] = {"page": "red", "warn": "yellow"}
    for each in at.look.get("incidents") or ():
        state = colours.get(str(each["severity"]), "green")
        if each["cell"] == cell.name and RANK[state] > RANK[cell.state]:
            cell = replace(cell, state=state, why=str(each["sentence"]), command=str(each["command"]))
    return cell


def cells(facts: Facts, *, now: dt.datetime, limits: Limits | None = None, memory: Facts | None = None) -> list[Cell]:
    """All cells of one application on one host, in the order of the columns."""
    return _cells_and_memory(facts, now, limits or Limits(), memory or {})[0]


def _cells_and_memory(
    facts: Facts, now: dt.datetime, limits: Limits, memory: Facts
) -> tuple[list[Cell], dict[str, Any]]:
    at = _Look(facts, limits, now, memory)
    observed = str(at.look.get("at") or now.isoformat())
    acknowledged = _mapping(at.look.get("acknowledged"))
    found, kept = [], {}
    for judge in _JUDGES:
        cell = judge(at)
        watched = not (cell.state == "grey" and cell.observed_at is None)
        cell = replace(
            cell,
            observed_at=cell.observed_at or (observed if watched else None),
            max_age_seconds=MAX_AGES[cell.name],
            acknowledged=acknowledged.get(cell.name),
        )
        cell, kept[cell.name] = _remembered(_with_incidents(_aged(cell, now), at), at)
        found.append(cell)
    return found, kept


def _row_state(found: Sequence[Cell], now: dt.datetime) -> State:
    """The worst cell; grey is at least yellow, and red where what is vital stays unknown; maintenance makes it blue."""
    health = next(cell for cell in found if cell.name == "health")
    if health.state == "blue":
        return "blue"
    for cell in found:
        silent = cell.observed_at is not None and cell.state == "grey" and cell.name in VITAL
        if silent and age(cell.observed_at, now) > 2 * cell.max_age_seconds:
            return "red"
    states = {cell.state for cell in found}
    if "red" in states:
        return "red"
    return "yellow" if states & {"yellow", "grey"} else "green"


@dataclass(frozen=True)
class Row:
    """One application on one host: what the page shows in a row, and `memory` for the next look."""

    application: str
    host: str
    state: State
    why: str
    cells: tuple[Cell, ...]
    observed_at: str
    release: Facts
    events: tuple[Facts, ...] = ()
    series: Facts = field(
        default_factory=dict
    )  # latency, errors, backup, recovery: (time, figure) each; and their `limits`
    memory: Facts | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON; without what is only for the next look."""
        found = asdict(self)
        found.pop("memory")
        return found

    @property
    def name(self) -> str:
        return f"{self.application}@{self.host}" if self.application else self.host


def from_dict(found: Facts) -> Row:
    """A row from its JSON."""
    made = tuple(Cell(**cell) for cell in found["cells"])
    rest = {key: found[key] for key in ("application", "host", "state", "why", "observed_at")}
    return Row(
        cells=made,
        release=_mapping(found.get("release")),
        events=tuple(found.get("events") or ()),
        series=_mapping(found.get("series")),
        **rest,
    )


def row(
    facts: Facts, *, now: dt.datetime, limits: Limits | None = None, memory: Facts | None = None, host: str = ""
) -> Row:
    """The row of one application on one host, from the facts of `backstay status` with what `_look` found."""
    found, kept = _cells_and_memory(facts, now, limits or Limits(), memory or {})
    look = _mapping(facts.get("look"))
    state = _row_state(found, now)
    worst = max(found, key=lambda cell: (RANK[cell.state] if cell.state != "grey" else 1.5, -_place(cell.name)))
    live = _mapping(facts.get("live"))
    return Row(
        application=str(facts.get("application") or ""),
        host=host or str(look.get("hostname") or "this host"),
        state=state,
        why="" if state == "green" else f"{TITLES[worst.name].lower()}: {worst.why or worst.value}",
        cells=tuple(found),
        observed_at=str(look.get("at") or now.isoformat(timespec="seconds")),
        release={
            "id": live.get("id", ""),
            "version": live.get("version", ""),
            "commit": live.get("commit", ""),
            "since": live.get("since", ""),
            "by": live.get("by", ""),
            "rollback_target": facts.get("rollback_target") or "",
        },
        events=tuple(look.get("events") or ()),
        series=_mapping(look.get("series")),
        memory=kept,
    )


def refreshed(old: Row, now: dt.datetime) -> Row:
    """The same row looked at later: what was seen meanwhile has grown old."""
    found = tuple(_aged(cell, now) if cell.state != "grey" else cell for cell in old.cells)
    if found == old.cells:
        return old
    state = _row_state(found, now)
    worst = max(found, key=lambda cell: (RANK[cell.state] if cell.state != "grey" else 1.5, -_place(cell.name)))
    return replace(old, cells=found, state=state, why=f"{TITLES[worst.name].lower()}: {worst.why or worst.value}")


def unreachable(
    host: str, application: str, reason: str, *, now: dt.datetime, looks: int = 1, last_seen: str | None = None
) -> Row:
    """The row of a host that said nothing: unknown at first, red when it stays so. Its cells are grey because of it."""
    silent = age(last_seen, now) if last_seen else 0.0
    red = looks >= 2 or silent > 2 * MAX_AGES["health"]
    state: State = "red" if red else "grey"
    seen = f", last seen {spoken(silent)} ago" if last_seen else ", never seen"
    why = f"{host} did not answer: {' '.join(reason.split())[:200]}"
    first = Cell(
        "host",
        state,
        f"no answer{seen}",
        "it answers",
        observed_at=last_seen,
        max_age_seconds=MAX_AGES["host"],
        source="ssh",
        why=why,
        command=f"ping -c3 {host}",
    )
    rest = [Cell(name, "grey", "unknown", why=f"because {host} does not answer") for name, *_rest in COLUMNS[1:]]
    stamp = last_seen or now.isoformat(timespec="seconds")
    return Row(application, host, state, f"host: {why}", (first, *rest), stamp, {})


def broken(host: str, application: str, reason: str, *, now: dt.datetime) -> Row:
    """The row of an application whose facts cannot be read: somebody is needed, and nothing else is known."""
    why = " ".join(reason.split())[:300]
    stamp = now.isoformat(timespec="seconds")
    cells = tuple(
        Cell("release", "red", "unreadable", observed_at=stamp, max_age_seconds=MAX_AGES[name], why=why)
        if name == "release"
        else Cell(name, "grey", "unknown", why="because the facts of this application cannot be read")
        for name, *_rest in COLUMNS
    )
    return Row(application, host, "red", f"release: {why}", cells, stamp, {})


def _place(name: str) -> int:
    return _URGENCY.index(name) if name in _URGENCY else len(_URGENCY)


# --- all rows together


def worst_first(rows: Iterable[Row]) -> list[Row]:
    """The worst first; of equals the one with the most bad cells, then by name."""

    def badness(found: Row) -> tuple[int, int, str, str]:
        return (-RANK[found.state], -sum(RANK[cell.state] for cell in found.cells), found.application, found.host)

    return sorted(rows, key=badness)


@dataclass(frozen=True)
class Verdict:
    """The worst row, as a colour, a sentence and an exit code: 0 well, 1 look, 2 somebody is needed, 3 unknown."""

    state: State
    exit_code: int
    sentence: str
    counts: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def verdict(rows: Sequence[Row]) -> Verdict:
    """What all rows come to."""
    counts = {state: sum(1 for found in rows if found.state == state) for state in STATES}
    if not rows:
        return Verdict("grey", 3, "nothing is declared here, so nothing is known", counts)
    first = worst_first(rows)[0]
    state = first.state
    same, all_of_them = counts[state], len(rows)
    of = f"{same} of {all_of_them}" if all_of_them > 1 else first.name
    many = same > 1
    said = {
        "green": "all is well" if all_of_them == 1 else f"all is well, {all_of_them} of {all_of_them}",
        "blue": f"{of} {'are' if many else 'is'} in maintenance",
        "yellow": f"{of} {'are' if many else 'is'} to be looked at today",
        "grey": f"{of} {'are' if many else 'is'} unknown",
        "red": f"{of} {'need' if many else 'needs'} somebody now",
    }[state]
    return Verdict(state, EXIT_CODES[state], said, counts)


def needs(rows: Sequence[Row], most: int | None = NEEDS) -> list[dict[str, Any]]:
    """What somebody must do, the most urgent first, at most five; the same thing on several hosts is one of them.
    With `most` None all of it."""
    grouped: dict[tuple[str, str, str], list[tuple[Row, Cell]]] = {}
    for found in rows:
        for cell in found.cells:
            if cell.state in ("red", "yellow", "grey") and not cell.why.startswith("because "):
                command = cell.command.replace(found.host, "").replace(found.application, "", 1)
                key = (cell.name, cell.state, command if cell.state != "grey" else cell.why.replace(found.host, ""))
                grouped.setdefault(key, []).append((found, cell))

    def urgency(members: list[tuple[Row, Cell]]) -> tuple[float, ...]:
        cell = members[0][1]
        # What was never watched can wait for what is known to be wrong; what fell silent cannot.
        silent = cell.state == "grey" and cell.observed_at is None
        kind = {"red": 0, "grey": 3 if silent else 1, "yellow": 2}[cell.state]
        acknowledged = 1 if all(each.acknowledged for _row, each in members) else 0
        due = min((each.due_seconds for _row, each in members if each.due_seconds is not None), default=10 * DAY)
        return (acknowledged, kind, _place(cell.name), due, -len(members))

    told = []
    for members in sorted(grouped.values(), key=urgency)[:most]:
        first, cell = members[0]
        told.append(
            {
                "cell": cell.name,
                "state": cell.state,
                "title": TITLES[cell.name],
                "where": first.name + (f" and {len(members) - 1} more" if members[1:] else ""),
                "rows": [each.name for each, _cell in members],
                "host": first.host,
                "why": cell.why or cell.value,
                "evidence": f"{cell.value}; well is {cell.threshold}" if cell.threshold else cell.value,
                "since": cell.since,
                "command": cell.command,
                "runbook": RUNBOOKS[cell.name],
                "acknowledged": cell.acknowledged,
            }
        )
    return told
