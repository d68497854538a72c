"""One round of the probe: ask what other hosts serve, count the minute, and tell whoever is to know.

All are asked at once, each up to three times before it counts as down, and the whole takes less than twenty seconds. A
timer runs this each minute on whichever host of the inventory is to watch the others.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._errors import BackstayError, InputError
from ._house import ProbeHouse
from ._http import Answer, Target, request
from ._incidents import Incident, Told, history, opened, raise_, readable, settle, tell
from ._lock import LOOK_SECONDS, holding
from ._notify import Outcome, Secrets, deliver, destinations, send
from ._observe import incident_message
from ._outside import (
    Declared,
    Record,
    Seen,
    Watched,
    facts,
    gone,
    noted,
    parse,
    read_records,
    records_to_dict,
    verdicts,
)
from ._prober import USER_AGENT
from ._run import Runner
from ._run import run as run_program
from ._storage import Storage, canonical

ASKS = 3
ASK_SECONDS = 4.0
PAUSE_SECONDS = 1.5
ROUND_SECONDS = 15.0  # for one application, however often it is asked
GATEWAY_SECONDS = 3.0
EVENT_DAYS = 30

Ask = Callable[[Watched], Seen]


@dataclass(frozen=True)
class Round:
    """What one round did, for people and for tests. `away` is why this host itself reaches nobody."""

    targets: tuple[dict[str, Any], ...]
    away: str
    told: tuple[Told, ...]
    delivered: tuple[Outcome, ...]
    notes: tuple[str, ...] = ()


# --- asking


def look(
    watched: Watched,
    *,
    ask: Callable[..., Answer] = request,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Seen:
    """Ask one application as a visitor would; again before it counts as down: one answer that was lost is no outage."""
    end = clock() + ROUND_SECONDS
    seen = Seen("unknown")
    for attempt in range(ASKS):
        if attempt:
            sleep(PAUSE_SECONDS)
        seen = _once(watched, ask, lambda: max(0.1, min(ASK_SECONDS, end - clock())))
        if seen.state != "down":
            break
    return seen


def _once(watched: Watched, ask: Callable[..., Answer], seconds: Callable[[], float]) -> Seen:
    target = Target.tcp(
        watched.address,
        watched.port,
        tls=True,
        server_name=watched.domain,
        ca_file=watched.ca_file,
        verify=watched.verify,
    )

    def get(path: str) -> Answer:
        return ask(target, path, timeout_seconds=seconds(), headers={"User-Agent": USER_AGENT}, body_bytes=4096)

    try:
        answer = get(watched.path)
        if answer.status == watched.status:
            return Seen("up", seconds=round(answer.seconds, 3), answered=True)
        # Its health answers declared addresses through a maintenance; what visitors see then, its first page says.
        if _closed(answer) or (watched.path != "/" and _closed(get("/"))):
            return Seen("maintenance", "it answers with the maintenance page", round(answer.seconds, 3), answered=True)
    except BackstayError as failed:
        return Seen("down", failed.message[:300])
    why = f"{watched.path} answered {answer.status}, expected {watched.status}"
    return Seen("down", why, round(answer.seconds, 3), answered=True)


def _closed(answer: Answer) -> bool:
    """A declared maintenance: the front door's own 503, which no release has made and which says when to come back."""
    return answer.status == 503 and answer.release_id is None and "retry-after" in answer.headers


def own_network_away(root: Path = Path("/"), *, sleep: Callable[[float], None] = time.sleep) -> str:
    """Why this host reaches nobody, from the kernel's tables; empty where it has a network, or nobody can tell."""
    rows = [line.split() for line in _lines(root / "proc/net/route")[1:]]
    others = [line.split()[-1] for line in _lines(root / "proc/net/ipv6_route")]
    if not rows:
        return "" if any(name != "lo" for name in others) else "it has no route to anywhere"
    gateway = next((socket.inet_ntoa(bytes.fromhex(row[2])[::-1]) for row in rows if row[1] == "0" * 8), None)
    if gateway is None:
        return ""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.sendto(b"", (gateway, 9))  # so that the kernel asks who has this address
        sleep(GATEWAY_SECONDS)
    flags = next((row[2] for line in _lines(root / "proc/net/arp")[1:] if (row := line.split())[0] == gateway), "")
    return f"its gateway {gateway} does not answer" if flags and not int(flags, 16) & 2 else ""


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


# --- one round


class Probe:
    """What this host watches of others. Everything it asks of the world can be replaced by tests."""

    def __init__(
        self,
        house: ProbeHouse | None = None,
        storage: Storage | None = None,
        *,
        runner: Runner = run_program,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
        ask: Ask = look,
        away: Callable[[], str] = own_network_away,
        post: Callable[[str, bytes], object] | None = None,
    ) -> None:
        self.house = house or ProbeHouse()
        self.storage = storage or Storage()
        self._run = runner
        self.now = now
        self._ask = ask
        self._away = away
        self._post = post
        self._notes: list[str] = []

    def declared(self) -> Declared:
        """Raises InputError where this host watches nobody, or its file is wrong."""
        content = self.storage.read(self.house.targets)
        if content is None:
            raise InputError(
                f"There is no {self.house.targets}: this host watches no other. Name it in the inventory's group "
                "`probes`, and run playbooks/site.yml."
            )
        return parse(content, str(self.house.targets))

    def round(self) -> Round:
        """Ask, count, tell; after the timer's round, where that is at work. Raises Busy where it takes too long,
        BackstayError for a full disk."""
        declared = self.declared()
        self.storage.make_directory(self.house.state, mode=0o700)
        with holding(self.house.observer_lock, "round of the probe", wait_seconds=LOOK_SECONDS):
            return self._round(declared)

    def _round(self, declared: Declared) -> Round:
        now = self.now()
        seen = self._asked(declared.targets)
        away = ""
        if seen and all(each.state == "down" and not each.answered for each in seen.values()):
            away = self._away()
        if away:
            seen = {name: Seen("unknown", away) for name in seen}
        records = self._records()
        records |= {name: noted(records.get(name, Record()), each, now) for name, each in seen.items()}
        self._judge(declared, records, seen, away, now)
        secrets = Secrets(chats=declared.chats)
        told = self._tell(declared, secrets, now)
        # What was asked counts as watched once it was told: a minute counts once, however often it is written.
        self.storage.write(self.house.minutes, canonical(records_to_dict(records, declared, now)), mode=0o600)
        delivered = deliver(self.house, self.storage, secrets, now, runner=self._run, post=self._post)
        return Round(_told(declared, records, now), away, told, delivered, tuple(self._notes))

    def _asked(self, targets: Sequence[Watched]) -> dict[str, Seen]:
        """All of them at once: one that is silent keeps no other waiting."""
        if not targets:
            return {}
        with ThreadPoolExecutor(max_workers=len(targets)) as pool:
            return dict(zip([target.name for target in targets], pool.map(self._ask, targets), strict=True))

    def _records(self) -> dict[str, Record]:
        try:
            return read_records(self.storage.read(self.house.minutes))
        except (ValueError, KeyError, TypeError, AttributeError):
            self._notes.append(f"{self.house.minutes} could not be read: counting begins anew")
            return {}

    def _judge(
        self,
        declared: Declared,
        records: Mapping[str, Record],
        seen: Mapping[str, Seen],
        away: str,
        now: dt.datetime,
    ) -> None:
        found = [readable(self.house, self.storage), *verdicts(declared, records, seen, away, now)]
        known = {each.incident.key for each in opened(self.house, self.storage)}
        judged = set()
        for each in found:
            judged.add(each.key)
            if each.crossed:
                incident = Incident(each.key, each.severity, None, each.sentence, each.command)
                raise_(self.house, self.storage, incident, now)
            elif each.crossed is False and each.key in known:
                settle(self.house, self.storage, each.key, now, each.sentence)
        for key in known - judged:  # what is watched no more cannot be wrong
            settle(self.house, self.storage, key, now, gone(key, declared))

    def _tell(self, declared: Declared, secrets: Secrets, now: dt.datetime) -> tuple[Told, ...]:
        def put_out(due: Sequence[Told]) -> None:
            for each in due:
                incident = each.incident
                policies = declared.policies(incident.key.partition("/")[0])
                to = destinations(incident.kind, None, policies)
                send(self.house, self.storage, incident_message(each), to, secrets)

        return tell(self.house, self.storage, now, held=lambda _incident: False, put_out=put_out)

    # telling what is known

    def facts(self) -> list[dict[str, Any]]:
        """What is known of each application that is watched, with its incidents of 30 days, without asking any; empty
        where this host watches none."""
        if not self.house.targets.exists():
            return []
        from ._look import began_and_ended
        from ._notify import path_facts, relay_trouble

        declared, now = self.declared(), self.now()
        past = history(self.house, self.storage, EVENT_DAYS, now)
        stamp = now.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        silenced = {each.incident.key: each for each in opened(self.house, self.storage) if each.silenced(stamp)}
        found = []
        for each in _told(declared, self._records(), now):
            subjects = (f"{each['application']}@{each['host']}/", f"{each['host']}/")
            known = next((silenced[key] for key in silenced if key.startswith(subjects)), None)
            ways = path_facts(self.house, self.storage, declared.policies(subjects[0][:-1]))["destinations"]
            mine = [event for event in past if str(event["key"]).startswith(subjects)]
            found.append(
                {
                    **each,
                    "acknowledged": known and {"by": known.acknowledged_by, "until": known.acknowledged_until},
                    "events": began_and_ended(mine, each["application"]),
                    "stuck": next(
                        (f"{name}: {way['why']}" for name, way in ways.items() if way.get("failing_since")),
                        relay_trouble(self.house.root, now) if any("@" in name for name in ways) else "",
                    ),
                }
            )
        return found


def _told(declared: Declared, records: Mapping[str, Record], now: dt.datetime) -> tuple[dict[str, Any], ...]:
    return tuple(
        {**facts(target, records.get(target.name, Record()), now), "probe": declared.probe}
        for target in declared.targets
    )
