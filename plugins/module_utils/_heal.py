"""What systemd cannot see: a service that runs and answers nobody. It is restarted, a few times and no more.

monit asks each half minute and calls `heal` when nobody answers. Nothing is done while a transaction is open, or
maintenance declared: whoever began that knows why nobody answers. The lock of the application is held, so that no
release begins between the look and the restart, and for no longer: systemd does the waiting.
"""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ._application import Application
from ._complaint import NGINX, live_release
from ._errors import BackstayError
from ._house import House
from ._incidents import Incident, raise_
from ._lock import Lock
from ._observe import Answered, ask_front_door
from ._run import Runner, run
from ._storage import Storage, canonical

FORMAT = 1
MOST_RESTARTS = 3
WITHIN_SECONDS = 3600.0
_PROBES = 3
_PAUSE_SECONDS = 2.0


@dataclass(frozen=True)
class Healed:
    """What was done. `unit` is what was restarted, "" where nothing was."""

    unit: str
    sentence: str


def ask_socket(house: House, application: Application, live: str) -> Answered:
    """The live release itself, past nginx."""
    from ._http import Target, request

    health = application.health
    began = time.monotonic()
    target = Target.unix(house.layout(application.name).socket(live), application.domain)
    try:
        answer = request(target, health.path, timeout_seconds=max(5.0, health.latency_seconds))
    except BackstayError as failed:
        return Answered(round(time.monotonic() - began, 3), failed.message)
    why = "" if answer.status == health.status else f"{health.path} answered {answer.status}"
    return Answered(round(answer.seconds, 3), why)


def heal(
    house: House,
    storage: Storage,
    application: Application,
    now: dt.datetime,
    *,
    runner: Runner = run,
    ask: Callable[[Application], Answered] = ask_front_door,
    ask_live: Callable[[House, Application, str], Answered] = ask_socket,
    sleep: Callable[[float], None] = time.sleep,
) -> Healed:
    """Restart what hangs, if something does and nothing speaks against it. Raises BackstayError when it was restarted
    often enough: then a person must look."""
    layout, name = house.layout(application.name), application.name
    lock = Lock(layout.lock)
    if not lock.take():
        return Healed("", f"{name} is left alone: a transaction is open")
    try:
        if layout.journal.exists():
            return Healed("", f"{name} is left alone: a transaction was not finished; see `backstay recover {name}`")
        if layout.maintenance_flag.exists():
            return Healed("", f"{name} is left alone: maintenance is on")
        live = live_release(layout.active)
        if live is None:
            return Healed("", f"nothing of {name} is live")
        why = ""
        for number in range(_PROBES):
            if number:
                sleep(_PAUSE_SECONDS)
            why = ask(application).why
            if not why:
                return Healed("", f"{name} answers: there is nothing to heal")
        inner = ask_live(house, application, live).why
        unit = layout.unit(live, "web") if inner else NGINX
        _limit(house, storage, name, now, unit=unit, why=inner or why)
        if unit == NGINX:
            runner(["nginx", "-t", "-q"], timeout_seconds=20.0)  # what it could not start with again is no cure
        runner(["systemctl", "reset-failed", unit], check=False)
        runner(["systemctl", "restart", "--no-block", unit])
        return Healed(unit, f"{unit} is restarted: {inner or why}")
    finally:
        lock.release()


def _limit(house: House, storage: Storage, name: str, now: dt.datetime, *, unit: str, why: str) -> None:
    """Write the restart down before it is done. Raises BackstayError where it would be one too many."""
    storage.make_directory(house.state, mode=0o700)
    after = (now - dt.timedelta(seconds=WITHIN_SECONDS)).isoformat()
    known = {each: [row for row in rows if row["at"] > after] for each, rows in restarts(house, storage).items()}
    mine = known.setdefault(name, [])
    if len(mine) >= MOST_RESTARTS:
        sentence = f"{name} was restarted {len(mine)} times within an hour and still hangs: {why}"
        incident = Incident(f"{name}/health:restarts", "page", name, sentence[:300], f"backstay diagnose {name}")
        raise_(house, storage, incident, now)
        raise BackstayError(f"{sentence}; it is restarted no more, so look at `backstay diagnose {name}`.")
    mine.append({"at": now.isoformat(), "unit": unit, "why": why[:300]})
    value = {"format": FORMAT, "restarts": {each: rows for each, rows in known.items() if rows}}
    storage.write(house.healed, canonical(value), mode=0o600)


def restarts(house: House, storage: Storage) -> dict[str, list[dict[str, Any]]]:
    """What was restarted within the last hour or so, by application: {"at","unit","why"}."""
    try:
        value = json.loads(storage.read(house.healed) or b"")
        return {str(name): [dict(row) for row in rows] for name, rows in value["restarts"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
