"""The verbs about watching: observe, probe, incidents, notify, heal, and what monit asks."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ._application import Application, from_dict
from ._errors import BackstayError, InputError
from ._house import House, ProbeHouse
from ._storage import Storage

if TYPE_CHECKING:
    from ._alert_settings import AlertPolicy
    from ._notify import Secrets

Tell = Callable[[argparse.Namespace, dict[str, Any], str], None]
MAIL_SECONDS = 20.0
_UNITS = {"m": 60, "h": 3600, "d": 86400}


def _root(what: str) -> None:
    if os.geteuid() != 0:
        raise BackstayError(f"Only root may {what}: run it with sudo.")


def observe(options: argparse.Namespace, tell: Tell) -> int:
    """Look once: a sample, what follows from it, and who is told."""
    from ._observe import Observer

    _root("observe the host")
    done = Observer(House()).run()
    crossed = [each.sentence for each in done.crossed]
    failed = [f"{each.destination}: {each.why}" for each in done.delivered if each.state != "sent"]
    lines = [f"  {line}" for line in (*crossed, *done.notes, *failed)]
    result = {
        "ok": True,
        "at": done.sample.at,
        "crossed": [{"key": each.key, "severity": each.severity, "sentence": each.sentence} for each in done.crossed],
        "told": len(done.told),
        "delivered": sum(1 for each in done.delivered if each.state == "sent"),
        "waiting": failed,
        "notes": list(done.notes),
    }
    told = f"{len(crossed)} objectives are missed" if crossed else "all objectives are met"
    tell(options, result, "\n".join([f"{done.sample.at}: {told}", *lines]))
    return 0


def probe(options: argparse.Namespace, tell: Tell) -> int:
    """Ask once what this host watches on others; or only whether what it was told is well said."""
    from ._outside import lines
    from ._probe import Probe

    _root("ask for the applications of other hosts")
    watcher = Probe()
    if options.check:
        count = len(watcher.declared().targets)
        tell(options, {"ok": True, "targets": count}, f"to be watched on other hosts: {count}")
        return 0
    done = watcher.round()
    state, rows = lines(done.targets, watcher.now())
    failed = [f"{each.destination}: {each.why}" for each in done.delivered if each.state != "sent"]
    up = sum(1 for each in done.targets if each["state"] == "up")
    text = f"{up} of {len(done.targets)} applications on other hosts answer" + (f"; {done.away}" if done.away else "")
    result = {
        "ok": state == "green",
        "state": state,
        "away": done.away,
        "targets": list(done.targets),
        "told": len(done.told),
        "delivered": sum(1 for each in done.delivered if each.state == "sent"),
        "waiting": failed,
        "notes": list(done.notes),
    }
    tell(options, result, "\n".join([text, *rows, *(f"  {line}" for line in (*done.notes, *failed))]))
    return 0


def incidents(options: argparse.Namespace, tell: Tell) -> int:
    """What is open; or acknowledge one."""
    from ._incidents import acknowledge, history, opened
    from ._tickets import counted, line_of

    _root("look at incidents")
    house, storage, now = House(), Storage(), dt.datetime.now(dt.UTC)
    others = ProbeHouse()
    if options.ack:
        if any(each.incident.key == options.ack for each in opened(others, storage)):
            house = others
        if not options.why:
            raise InputError("Say why nobody needs to hear of it, with --why.")
        until = now + dt.timedelta(seconds=duration(options.duration))
        done = acknowledge(house, storage, options.ack, by=options.by, until=until, why=options.why, now=now)
        text = f"{options.ack}: no messages until {done.acknowledged_until}; it stays open, and is shown as it is."
        tell(options, {"ok": True, "changed": True, "until": done.acknowledged_until}, text)
        return 0
    wanted = [
        each
        for each in (*opened(house, storage), *opened(others, storage))
        if not options.application or re.split("[@/]", each.incident.key)[0] in ("host", options.application)
    ]
    past = (*history(house, storage, options.days, now), *history(others, storage, options.days, now))
    past = tuple(sorted(past, key=lambda row: str(row["at"]))) if options.days else ()
    lines = [
        f"  {each.incident.severity:<7} {each.since}  {each.incident.key}: {each.incident.sentence}"
        + (f" (known to {each.acknowledged_by} until {each.acknowledged_until})" if each.acknowledged_until else "")
        for each in wanted
    ]
    lines += [f"  {row['at']}  {row['event']:<12} {row['key']}" for row in past]
    causes = counted(house, storage, options.application)
    lines += [f"  {line_of(cause)}" for cause in causes]
    title = f"{len(wanted)} open" if wanted else "nothing is open"
    found = {"ok": not wanted, "open": [each.to_dict() for each in wanted], "history": list(past), "causes": causes}
    tell(options, found, "\n".join([title, *lines]))
    return 1 if wanted else 0


def duration(text: str) -> float:
    """Seconds of a text such as 30m, 4h or 2d. Raises InputError."""
    found = re.fullmatch(r"(\d{1,4})([mhd])", text)
    if found is None or not 60 <= int(found[1]) * _UNITS[found[2]] <= 30 * 86400:
        raise InputError(f"{text!r} is no duration: write 30m, 4h or 2d, at most 30d.")
    return float(int(found[1]) * _UNITS[found[2]])


def notify(options: argparse.Namespace, tell: Tell) -> int:
    """A test message to everybody an application names, now; the exit code says whether all of them took it."""
    from ._lock import LOOK_SECONDS, holding
    from ._notify import all_destinations, deliver, send, trial_message

    _root("send messages")
    storage, now = Storage(), dt.datetime.now(dt.UTC)
    house, name, policies, secrets = _whom(options.application, storage)
    policy = policies.get(name)
    if policy is None:
        raise InputError(f"The file of {name} has no `alerts`: there is nobody to tell.")
    message = trial_message(name, options.by, now)
    to = all_destinations(name, policy)
    storage.make_directory(house.state, mode=0o700)
    with holding(house.observer_lock, "test of the messages", wait_seconds=LOOK_SECONDS):  # which delivers, too
        send(house, storage, message, to, secrets)
        delivered = deliver(house, storage, secrets, now, at_once=True)
    outcomes = [each for each in delivered if each.subject == message.subject]
    if any(each.way == "mail" for each in to) and not _left(house, now):
        why = "this host took it, and its relay has not within 20 s: see `mailq` and `journalctl -u nullmailer`"
        mailed = {each.name for each in to if each.way == "mail"}
        outcomes = [replace(each, state="waits", why=why) if each.destination in mailed else each for each in outcomes]
    lines = [f"  {each.state:<8} {each.destination}{f': {each.why}' if each.why else ''}" for each in outcomes]
    good = len(outcomes) == len(to) and all(each.state == "sent" for each in outcomes)
    text = f"{name}: {'everybody was told' if good else 'not everybody was told'}"
    result = {"ok": good, "changed": True, "message": text, "lines": [line.strip() for line in lines]}
    tell(options, result, "\n".join([text, *lines]))
    return 0 if good else 1


def _left(house: House, since: dt.datetime) -> bool:
    """Whether the mail that was handed over since then has left this host."""
    from ._notify import queued

    until = time.monotonic() + MAIL_SECONDS
    while any(at >= since.timestamp() - 0.1 for at in queued(house.root)[0]):
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def _whom(name: str | None, storage: Storage) -> tuple[House, str, Mapping[str, AlertPolicy | None], Secrets]:
    """Who is told of an application of this host, or else of one that it watches on others. What waits for others goes
    too, so the addresses of all of them are there. Raises InputError where it is not clear which is meant."""
    from ._notify import Secrets, secrets_of
    from ._probe import Probe

    house, watcher = House(), Probe()
    own = house.applications()
    if name not in own and (name or len(own) != 1) and watcher.house.targets.exists():
        declared = watcher.declared()
        others = declared.policies("host")
        if name in others or (not name and not own and len(others) == 1):
            return watcher.house, name or next(iter(others)), others, Secrets(chats=declared.chats)
    application = described(house, storage, name)
    policies = {each: described(house, storage, each).alerts for each in own}
    return house, application.name, policies, secrets_of(house, storage, policies, policies)


def heal(options: argparse.Namespace, tell: Tell) -> int:
    """Restart what hangs, unless something speaks against it."""
    from ._heal import heal as restart

    _root("restart services")
    house, storage = House(), Storage()
    done = restart(house, storage, described(house, storage, options.application), dt.datetime.now(dt.UTC))
    result = {"ok": True, "changed": bool(done.unit), "unit": done.unit, "message": done.sentence}
    tell(options, result, done.sentence)
    return 0


def described(house: House, storage: Storage, name: str | None) -> Application:
    """The application of that name, or the only one. Raises InputError where that is not clear."""
    known = house.applications()
    if not name and len(known) == 1:
        name = known[0]
    if name not in known:
        there = ", ".join(known) or "none yet (run playbooks/site.yml)"
        raise InputError(f"Name the application; on this host there is: {there}.")
    path = house.layout(str(name)).application_file
    try:
        return from_dict(json.loads(storage.read(path) or b""), file=str(path))
    except ValueError as broken:
        raise BackstayError(f"{path} is no JSON: run playbooks/site.yml, which writes it.") from broken
