"""What is wrong, since when, and what was said about it: one message when it begins, one when it is over.

Whoever finds something says so (`raise_`, `settle`) and sends nothing. The observer tells: what is held back by a
declared maintenance or an open transaction waits, and is told after it if it is still so. The messages' names follow
from incident and moment, so that a process that dies between two writes tells nothing twice and forgets nothing.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from ._errors import BackstayError, InputError
from ._house import House
from ._lock import holding
from ._storage import Storage, canonical
from ._thresholds import Severity, Verdict, kind_of

FORMAT = 1
LOG_BYTES = 1 << 20
_RANK: Mapping[str, int] = {"page": 0, "warn": 1, "advice": 2}


Moment = Literal["begin", "worse", "still", "over"]


@dataclass(frozen=True)
class Incident:
    """Something that is wrong. `key` is `<application or host>/<kind>[:<what>]`, such as `portal/jobs:retention`; the
    kind decides which way messages go. `command` is the one to type first."""

    key: str
    severity: Severity
    application: str | None
    sentence: str
    command: str = ""

    @property
    def kind(self) -> str:
        return kind_of(self.key)


@dataclass(frozen=True)
class Open:
    """An incident as it stands. Times are UTC ISO 8601; `told` when its beginning was put out to be sent and `told_as`
    the worst severity that was told, `over` when it ended (it stays until that was told, where it has to be). An
    acknowledgement silences messages until its end."""

    incident: Incident
    since: str
    told: str | None = None
    told_as: str = ""  # empty in what an older command wrote
    over: str | None = None
    over_sentence: str = ""
    acknowledged_by: str = ""
    acknowledged_until: str = ""
    acknowledged_why: str = ""

    def silenced(self, now: str) -> bool:
        return bool(self.acknowledged_until) and now < self.acknowledged_until

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"kind": self.incident.kind}


@dataclass(frozen=True)
class Told:
    """A message that is due: the beginning of an incident, that it became worse, its end, or that it is still so after
    the time for which somebody had acknowledged it."""

    id: str
    moment: Moment
    incident: Incident
    since: str
    at: str
    sentence: str = ""


@dataclass
class _State:
    open: dict[str, Open] = field(default_factory=dict)


def _stamp(now: dt.datetime) -> str:
    return now.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _read(house: House, storage: Storage) -> _State:
    content = storage.read(house.incidents)
    if content is None:
        return _State()
    try:
        value = json.loads(content)
        if value["format"] != FORMAT:
            raise BackstayError(
                f"{house.incidents} has format {value['format']} and this backstay knows {FORMAT}: update the host's "
                "command with playbooks/site.yml."
            )
        found = {}
        for key, each in value["open"].items():
            found[key] = Open(**{**each, "incident": Incident(**each["incident"])})
        return _State(found)
    except (ValueError, KeyError, TypeError, AttributeError) as damaged:
        raise BackstayError(
            f"{house.incidents} cannot be read ({type(damaged).__name__}): move it away; what is wrong is found again."
        ) from damaged


def _write(house: House, storage: Storage, state: _State) -> None:
    value = {"format": FORMAT, "open": {key: asdict(each) for key, each in sorted(state.open.items())}}
    storage.write(house.incidents, canonical(value), mode=0o600)


def _note(house: House, storage: Storage, event: str, each: Open, at: str, **more: str) -> None:
    """A line in the log of incidents, which is cut to its newer half when it grew long."""
    line = {"format": FORMAT, "at": at, "event": event, "since": each.since, **asdict(each.incident), **more}
    path = house.incident_log
    content = storage.read(path) or b""
    if content and not content.endswith(b"\n"):
        storage.write(path, content + b"\n", mode=0o600)
    if len(content) > LOG_BYTES:
        half = content[len(content) // 2 :]
        storage.write(path, half[half.find(b"\n") + 1 :], mode=0o600)
    storage.append(path, canonical(line))


@contextmanager
def _changing(house: House, storage: Storage) -> Iterator[_State]:
    storage.make_directory(house.state, mode=0o700)
    with holding(house.incidents_lock, "change of what is known of incidents", wait_seconds=10.0):
        yield _read(house, storage)


def readable(house: House, storage: Storage) -> Verdict:
    """Put a list aside that cannot be read: it would keep everybody silent, and what is wrong is found again. What is
    said of that holds until somebody took away what was put aside."""
    aside = house.incidents.with_name("incidents.damaged.json")
    storage.make_directory(house.state, mode=0o700)
    with holding(house.incidents_lock, "look at what is known of incidents", wait_seconds=10.0):
        try:
            _read(house, storage)
        except BackstayError:
            storage.rename(house.incidents, aside)
    damaged = aside.exists()
    sentence = "What is known of incidents can be read"
    if damaged:
        sentence = f"The list of incidents could not be read and lies in {aside} now: what is wrong is told anew"
    return Verdict("host/incidents:damaged", "warn", None, sentence, f"backstay incidents; rm {aside}", damaged)


def raise_(house: House, storage: Storage, incident: Incident, now: dt.datetime) -> bool:
    """Something is wrong. Returns whether that is new; what is open already takes the newer sentence over."""
    at = _stamp(now)
    with _changing(house, storage) as state:
        known = state.open.get(incident.key)
        if known is None:
            state.open[incident.key] = Open(incident, at)
            _write(house, storage, state)
            _note(house, storage, "begin", state.open[incident.key], at)
            return True
        if known.over is not None or known.incident != incident:
            # Where its end was not told yet and it is so again, it never ended, as far as people know.
            state.open[incident.key] = replace(known, incident=incident, over=None, over_sentence="")
            _write(house, storage, state)
        return False


def settle(house: House, storage: Storage, key: str, now: dt.datetime, sentence: str = "") -> bool:
    """It is over. Returns whether it was open. What was never told of needs no message that it is over."""
    at = _stamp(now)
    with _changing(house, storage) as state:
        known = state.open.get(key)
        if known is None or known.over is not None:
            return False
        _note(house, storage, "over", known, at)
        if known.told is None:
            del state.open[key]
        else:
            state.open[key] = replace(known, over=at, over_sentence=sentence)
        _write(house, storage, state)
        return True


def acknowledge(
    house: House, storage: Storage, key: str, *, by: str, until: dt.datetime, why: str, now: dt.datetime
) -> Open:
    """Somebody knows: no more messages about it until then, unless it becomes worse. It stays open, and what shows it
    shows it as before. Raises InputError where nothing of that key is open."""
    with _changing(house, storage) as state:
        known = state.open.get(key)
        if known is None or known.over is not None:
            there = ", ".join(sorted(state.open)) or "nothing"
            raise InputError(f"There is no open incident {key!r}; open is: {there}.")
        changed = replace(
            known,
            acknowledged_by=by,
            acknowledged_until=_stamp(until),
            acknowledged_why=why,
            told_as=_worst(known),
        )
        state.open[key] = changed
        _write(house, storage, state)
        _note(house, storage, "acknowledged", changed, _stamp(now), by=by, until=_stamp(until), why=why)
        return changed


def opened(house: House, storage: Storage) -> tuple[Open, ...]:
    """What is open, pages first, the oldest first. Raises BackstayError where that cannot be read."""
    found = [each for each in _read(house, storage).open.values() if each.over is None]
    return tuple(sorted(found, key=lambda each: (_RANK[each.incident.severity], each.since, each.incident.key)))


def history(house: House, storage: Storage, days: float, now: dt.datetime) -> tuple[dict[str, Any], ...]:
    """The events of the last days, oldest first: {"at","event" (begin, over, acknowledged),"key","since",...}."""
    after = _stamp(now - dt.timedelta(days=days))
    found = []
    for line in (storage.read(house.incident_log) or b"").splitlines():
        try:
            value = json.loads(line)
            if value["at"] >= after:
                found.append(dict(value))
        except (ValueError, KeyError, TypeError):
            continue  # a line that a power cut cut off
    return tuple(found)


def tell(
    house: House,
    storage: Storage,
    now: dt.datetime,
    *,
    held: Callable[[Incident], bool],
    put_out: Callable[[Sequence[Told]], None],
) -> tuple[Told, ...]:
    """Put out what is due, and only then write down that it was. `held` says of which incidents nothing may be sent
    now; `put_out` stores messages by their ids, so that the same one put out twice is one."""
    at = _stamp(now)
    with _changing(house, storage) as state:
        due, after = _due(state.open, at, held)
        if due:
            put_out(due)
        if after != state.open:
            _write(house, storage, _State(after))
        return tuple(due)


def _due(found: dict[str, Open], at: str, held: Callable[[Incident], bool]) -> tuple[list[Told], dict[str, Open]]:
    """Pure: the messages that are due, and what is open after they were put out."""
    due: list[Told] = []
    after: dict[str, Open] = {}
    for key, each in found.items():
        # Whoever acknowledged something knew how bad it was: that it became worse is told all the same.
        worse = bool(each.told_as) and _worst(each) != each.told_as
        silenced = each.silenced(at) and not worse
        if silenced or held(each.incident):
            if each.over is None or not silenced:
                after[key] = each  # later
            continue  # acknowledged and over: nobody waits for a message
        if each.over is not None:
            due.append(Told(_id(each, "over"), "over", each.incident, each.since, each.over, each.over_sentence))
            continue
        moment: Moment | None = None
        name = ""
        if each.told is None:
            moment = name = "begin"
        elif worse:  # each severity is told once: what goes to and fro between two of them says nothing new
            moment, name = "worse", each.incident.severity
        elif each.acknowledged_until:  # whoever knew of it wanted to hear nothing until now
            moment, name = "still", each.acknowledged_until
        after[key] = replace(each, told=each.told or at, told_as=_worst(each))
        if moment:
            due.append(Told(_id(each, name), moment, each.incident, each.since, at, each.incident.sentence))
            after[key] = replace(after[key], acknowledged_until="", acknowledged_by="", acknowledged_why="")
    return due, after


def _worst(each: Open) -> str:
    """The worse of what it is and what was told."""
    return min(each.incident.severity, each.told_as or each.incident.severity, key=lambda severity: _RANK[severity])


def _id(each: Open, moment: str) -> str:
    text = f"{each.incident.key}\0{each.since}\0{moment}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
