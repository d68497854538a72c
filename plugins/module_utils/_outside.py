"""What one host sees of applications on other hosts: which it watches, minutes up and down, and what follows. Pure.

Minutes in which nobody looked are unknown, and never count as up. What never answered at all is no outage yet: nothing
was promised, and it is red on the page. A declared maintenance is counted apart.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

from ._alert_settings import AlertPolicy
from ._errors import InputError
from ._schema import At, build, domain, each, flag, fraction, host_name, optional, section, texts, url_path, whole
from ._thresholds import BUDGET_DAYS, Verdict, spent_share, uptime_verdict

FORMAT = 1
KEEP_DAYS = 40
WELL_ROUNDS = 2  # so often in a row it answers before it counts as back
COMMAND = "backstay probe"

State = Literal["up", "down", "maintenance", "unknown"]


# --- who is watched


@dataclass(frozen=True)
class Watched:
    """One application on one host, asked as a visitor asks. `ca_file` holds the authority that its certificate must be
    of, in the place of the system's; without `verify` any certificate will do. `uptime` is its objective."""

    application: Annotated[str, texts(r"[a-z][a-z0-9-]{0,62}", "the name of an application")]
    host: Annotated[str, texts(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", "the name of a host in the inventory")]
    address: Annotated[str, host_name]
    domain: Annotated[str, domain]
    path: Annotated[str, url_path]
    status: Annotated[int, whole(100, 599)] = 200
    port: Annotated[int, whole(1, 65535)] = 443
    verify: Annotated[bool, flag] = True
    ca_file: Annotated[str | None, optional(texts(r"/[!-~]+", "an absolute path"))] = None
    uptime: Annotated[float, fraction] = 0.999
    alerts: Annotated[AlertPolicy | None, optional(section(AlertPolicy))] = None

    @property
    def name(self) -> str:
        return f"{self.application}@{self.host}"


def _chats(value: Any, at: At) -> Any:
    """Addresses of chats by application. They are secrets, so no sentence shows one."""
    wanted = re.compile(r"https?://[!-~]+")
    if isinstance(value, Mapping) and all(isinstance(url, str) and wanted.fullmatch(url) for url in value.values()):
        return dict(value)
    return at.say(
        f"`{at.key}` in {at.file} is no mapping of applications to the URLs of their chats: correct it in Vault."
    )


@dataclass(frozen=True)
class Declared:
    """What /etc/backstay/probe.json says. `probe` is what the inventory calls this host."""

    format: Annotated[int, whole(FORMAT, FORMAT)]
    probe: Annotated[str, texts(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", "the name of this host in the inventory")]
    targets: Annotated[tuple[Watched, ...], each(section(Watched), of="target")] = ()
    chats: Annotated[Mapping[str, str], _chats] = field(default_factory=dict, repr=False)

    def policies(self, subject: str) -> dict[str, AlertPolicy]:
        """Who is told of `portal@app1`, of `app1`, or with `host` of all: by application."""
        mine = [found for found in self.targets if subject in ("host", found.host, found.name)]
        return {found.application: found.alerts for found in mine if found.alerts is not None}


def parse(content: bytes, file: str) -> Declared:
    """Raises InputError with every problem among its lines; none shows the address of a chat."""
    problems: list[str] = []
    try:
        value = json.loads(content)
    except ValueError:
        raise InputError(f"{file} is no JSON: run playbooks/site.yml, which writes it.") from None
    found = build(Declared, value, At(file, "", problems))
    if isinstance(found, Declared):
        names = [target.name for target in found.targets]
        problems += [f"{name} is in {file} twice: name it once." for name in sorted({*names}) if names.count(name) > 1]
        asked = {t.application: t.alerts.chat for t in found.targets if t.alerts is not None and t.alerts.chat}
        problems += [
            f"{name} is told of in a chat, and {file} has no address for it: put {key} into "
            f"backstay_secrets['{name}'] in Vault, and run playbooks/site.yml."
            for name, key in asked.items()
            if name not in found.chats
        ]
    if problems or not isinstance(found, Declared):
        raise InputError(problems[0], lines=tuple(problems))
    return found


# --- what is known of each


@dataclass(frozen=True)
class Seen:
    """What one round saw of one application. `answered`: it was HTTP that came back, whatever it said."""

    state: State
    why: str = ""
    seconds: float = 0.0
    answered: bool = False


@dataclass(frozen=True)
class Record:
    """What is known of one application on one host. `since` is when it first answered well, empty until then; `changed`
    since when it is in its state; `minute` the last one that was counted, in minutes since 1970; `well` in how many
    rounds in a row it answered; `days` its minutes by day (UTC): up, down, maintenance."""

    state: State = "unknown"
    why: str = ""
    at: str = ""
    seconds: float = 0.0
    since: str = ""
    changed: str = ""
    minute: int = 0
    well: int = 0
    days: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def _stamp(now: dt.datetime) -> str:
    return now.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _day(now: dt.datetime, before: int = 0) -> str:
    return (now.astimezone(dt.UTC).date() - dt.timedelta(days=before)).isoformat()


def noted(known: Record, seen: Seen, now: dt.datetime) -> Record:
    """The record after a round. A minute counts once, as the first round saw it."""
    stamp, minute = _stamp(now), int(now.timestamp() // 60)
    since = known.since or (stamp if seen.state == "up" else "")
    days = kept(known.days, now)
    counted = bool(since) and seen.state != "unknown" and minute != known.minute
    if counted:
        today = dict(days.get(_day(now), {}))
        days[_day(now)] = {**today, seen.state: today.get(seen.state, 0) + 1}
    return Record(
        state=seen.state,
        why=seen.why,
        at=stamp,
        seconds=seen.seconds,
        since=since,
        changed=known.changed if known.state == seen.state and known.changed else stamp,
        minute=minute if counted else known.minute,
        well=known.well + 1 if seen.state in ("up", "maintenance") else 0,
        days=days,
    )


def kept(days: Mapping[str, Mapping[str, int]], now: dt.datetime) -> dict[str, Mapping[str, int]]:
    """The days that are still of use."""
    return {day: counts for day, counts in days.items() if day > _day(now, KEEP_DAYS)}


def minutes(record: Record, now: dt.datetime, days: int = BUDGET_DAYS) -> dict[str, dict[str, int]]:
    """Of each of the last days, as far as it was watched then: minutes up, down, in maintenance, and unknown."""
    if not record.since:
        return {}
    first, last = (int(dt.datetime.fromisoformat(at).timestamp() // 60) for at in (record.since, _stamp(now)))
    found = {}
    for before in reversed(range(days)):
        day = _day(now, before)
        begins = int(dt.datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp() // 60)
        there = min(last, begins + 1439) - max(first, begins) + 1
        counts = {name: int(record.days.get(day, {}).get(name, 0)) for name in ("up", "down", "maintenance")}
        if there > 0 or any(counts.values()):
            found[day] = {**counts, "unknown": max(0, there - sum(counts.values()))}
    return found


def facts(watched: Watched, record: Record, now: dt.datetime) -> dict[str, Any]:
    """What is told about one application: for JSON, and for its cell on the page. `uptime` is of the minutes in which
    somebody looked, `spent` the share of the objective's budget that is gone; both are None where nothing is known."""
    days = minutes(record, now)
    total = {name: sum(counts[name] for counts in days.values()) for name in ("up", "down", "maintenance", "unknown")}
    looked = total["up"] + total["down"]
    spent = spent_share(days, watched.uptime)
    return {
        "application": watched.application,
        "host": watched.host,
        **{name: value for name, value in asdict(record).items() if name not in ("days", "minute", "well")},
        "objective": watched.uptime,
        "uptime": round(total["up"] / looked, 6) if looked else None,
        "spent": None if spent is None else round(spent, 4),
        "minutes": total,
    }


# --- what follows


def verdicts(
    declared: Declared, records: Mapping[str, Record], seen: Mapping[str, Seen], away: str, now: dt.datetime
) -> Iterator[Verdict]:
    """What is so after a round. `away` is why this host itself reaches nobody: then that is told, when it is so twice,
    and no outage. A host on which several applications are silent together is one trouble."""
    probe = declared.probe
    told = f"{probe} reaches nobody ({away}), so nobody watches the applications of other hosts"
    again = all(record.changed < record.at for record in (records[t.name] for t in declared.targets))
    crossed = again or None if away else False
    sentence = told if away else f"{probe} has its network back"
    yield Verdict("host/network", "page", None, sentence, "ip route; ip neigh", crossed)
    hosts: dict[str, list[Watched]] = defaultdict(list)
    for target in declared.targets:
        hosts[target.host].append(target)
    for host, mine in hosts.items():
        silent = len(mine) > 1 and all(_outage(records[t.name]) and not seen[t.name].answered for t in mine)
        if len(mine) > 1:
            called = f"{host} ({', '.join(target.application for target in mine)})"
            yield _answers(host, called, mine[0], [records[t.name] for t in mine], down=silent)
        for target in mine:
            record = records[target.name]
            answers = _answers(target.name, target.name, target, [record], down=_outage(record))
            yield replace(answers, crossed=None) if silent else answers
            spent = spent_share(minutes(record, now), target.uptime)
            if spent is not None:
                yield uptime_verdict(target.name, None, spent, target.uptime, COMMAND)


def _outage(record: Record) -> bool:
    return record.state == "down" and bool(record.since)


def _answers(subject: str, called: str, target: Watched, records: Sequence[Record], *, down: bool) -> Verdict:
    """Over when all of them answered so often in a row that it is no accident."""
    over = False if all(record.well >= WELL_ROUNDS for record in records) else None
    sentence = f"{called} is not there for visitors: {records[0].why}" if down else f"{called} answers again"
    command = f"ping -c3 {target.address}"
    return Verdict(f"{subject}/health:outside", "page", None, sentence, command, True if down else over)


def gone(key: str, declared: Declared) -> str:
    """What is said of an incident about something that is watched no more."""
    return f"{declared.probe} does not watch {key.partition('/')[0]} any more"


def lines(told: Sequence[Mapping[str, Any]], now: dt.datetime) -> tuple[str, list[str]]:
    """For people: the colour of the worst, and a line for each application, the worst first."""
    from ._cells import RANK, WORDS, uptime

    cells = [(uptime(each, now=now), f"{each['application']}@{each['host']}") for each in told]
    cells.sort(key=lambda each: (-RANK[each[0].state], each[1]))
    width = max((len(name) for _cell, name in cells), default=0)
    rows = [
        f"  {WORDS[cell.state]:<8} {name:<{width}}  {cell.value}{f'; {cell.why}' if cell.why else ''}"
        for cell, name in cells
    ]
    return (cells[0][0].state if cells else "green"), rows


# --- what is kept


def read_records(content: bytes | None) -> dict[str, Record]:
    """Raises ValueError, KeyError or TypeError for what is damaged."""
    if content is None:
        return {}
    value = json.loads(content)
    if value["format"] != FORMAT:
        raise ValueError(value["format"])
    return {name: Record(**each) for name, each in value["targets"].items()}


def records_to_dict(records: Mapping[str, Record], declared: Declared, now: dt.datetime) -> dict[str, Any]:
    """As it is written. Those who are watched no more stay until their days are over."""
    watched = {target.name for target in declared.targets}
    old = {name: replace(record, days=kept(record.days, now)) for name, record in records.items()}
    return {
        "format": FORMAT,
        "targets": {name: asdict(record) for name, record in sorted(old.items()) if name in watched or record.days},
    }
