"""What systemd cannot see: a service that runs and answers nobody. It is restarted, a few times and no more.

monit asks each half minute and calls `heal` when nobody answers well. What answers does not hang: a release that says
by itself that it is not well (its database is locked, its disk is full) is told of by the observer, and a restart would
only take the answers away that it still gives. Nothing is done while a transaction is open, or maintenance declared:
whoever began that knows why nobody answers. Asking takes long and holds no lock, so that no rollback waits for it; the
application's lock is held for one more short question and the restart, and systemd does the waiting.
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
from ._errors import GateRefused
from ._house import House
from ._incidents import Incident, raise_
from ._layout import Layout
from ._lock import Lock
from ._observe import Answered, ask_front_door, ask_health
from ._run import Runner, run
from ._storage import Storage, canonical

FORMAT = 1
MOST_RESTARTS = 3
WITHIN_SECONDS = 3600.0
_PROBES = 3
_PAUSE_SECONDS = 2.0
_SHORT_SECONDS = 2.0  # for the question that is asked with the lock held: a rollback may wait for it


@dataclass(frozen=True)
class Healed:
    """What was done. `unit` is what was restarted, "" where nothing was."""

    unit: str
    sentence: str


def ask_socket(house: House, application: Application, live: str, seconds: float = 0.0) -> Answered:
    """The live release itself, past nginx."""
    from ._http import Target

    target = Target.unix(house.layout(application.name).socket(live), application.domain)
    return ask_health(target, application, seconds)


def heal(
    house: House,
    storage: Storage,
    application: Application,
    now: dt.datetime,
    *,
    runner: Runner = run,
    ask: Callable[[Application, float], Answered] = ask_front_door,
    ask_live: Callable[[House, Application, str, float], Answered] = ask_socket,
    sleep: Callable[[float], None] = time.sleep,
) -> Healed:
    """Restart what hangs, if something does and nothing speaks against it. Raises GateRefused when it was restarted
    often enough: then a person must look. Raises BackstayError where nginx could not start again."""
    layout, name = house.layout(application.name), application.name
    lock = Lock(layout.lock)
    if not lock.take():
        return Healed("", f"{name} is left alone: a transaction is open")
    lock.release()
    if spared := _spared(layout):
        return Healed("", spared)
    live, before = live_release(layout.active), restarts(house, storage)
    if live is None:
        return Healed("", f"nothing of {name} is live")
    door = Answered(0.0)
    for number in range(_PROBES):
        if number:
            sleep(_PAUSE_SECONDS)
        door = ask(application, 0.0)
        if not door.why:
            return Healed("", f"{name} answers: there is nothing to heal")
    inner = ask_live(house, application, live, 0.0)
    hangs = inner if inner.silent else door
    if not hangs.silent:
        return Healed("", f"{name} answers, though not well, so a restart would mend nothing: {inner.why or door.why}")
    unit = layout.unit(live, "web") if inner.silent else NGINX
    _limit(house, storage, name, now, why=hangs.why)
    if unit == NGINX:
        runner(["nginx", "-t", "-q"], timeout_seconds=20.0)  # what it could not start with again is no cure
        if spared := _neighbour_spared(house, name):
            return Healed("", spared)
    if not lock.take():
        return Healed("", f"{name} is left alone: a transaction has begun")
    try:
        again = (
            ask(application, _SHORT_SECONDS) if unit == NGINX else ask_live(house, application, live, _SHORT_SECONDS)
        )
        moved = live_release(layout.active) != live or restarts(house, storage) != before
        if moved or _spared(layout) or not again.silent:
            return Healed("", f"{name} is left alone: it changed while it was asked")
        _note(house, storage, name, now, unit=unit, why=hangs.why)
        runner(["systemctl", "reset-failed", unit], check=False)
        runner(["systemctl", "restart", "--no-block", unit])
        return Healed(unit, f"{unit} is restarted: {hangs.why}")
    finally:
        lock.release()


def _spared(layout: Layout) -> str:
    """Why nobody may touch it, beside a transaction that holds the lock; empty where nothing speaks against it."""
    if layout.journal.exists():
        return f"{layout.name} is left alone: a transaction was not finished; see `backstay recover {layout.name}`"
    if layout.maintenance_flag.exists():
        return f"{layout.name} is left alone: maintenance is on"
    return ""


def _neighbour_spared(house: House, name: str) -> str:
    """Why nginx, which serves all of them, is not restarted for one now; empty where nothing speaks against it."""
    for other in house.applications():
        layout, lock = house.layout(other), Lock(house.layout(other).lock)
        if other == name or not layout.state.is_dir():
            continue
        free = lock.take()
        lock.release()
        if not free or layout.journal.exists():
            return f"{name} is left alone: nginx serves {other} as well, and a transaction of it is open"
    return ""


def _limit(house: House, storage: Storage, name: str, now: dt.datetime, *, why: str) -> None:
    """Raises GateRefused where one more restart would be one too many."""
    count = len(_lately(house, storage, now).get(name, ()))
    if count < MOST_RESTARTS:
        return
    sentence = f"{name} was restarted {count} times within an hour and still hangs: {why}"
    incident = Incident(f"{name}/health:restarts", "page", name, sentence[:300], f"backstay diagnose {name}")
    raise_(house, storage, incident, now)
    raise GateRefused(f"{sentence}; it is restarted no more, so look at `backstay diagnose {name}`.")


def _note(house: House, storage: Storage, name: str, now: dt.datetime, *, unit: str, why: str) -> None:
    """Write a restart down before it is done."""
    known = _lately(house, storage, now)
    known.setdefault(name, []).append({"at": now.isoformat(), "unit": unit, "why": why[:300]})
    storage.make_directory(house.state, mode=0o700)
    storage.write(house.healed, canonical({"format": FORMAT, "restarts": known}), mode=0o600)


def _lately(house: House, storage: Storage, now: dt.datetime) -> dict[str, list[dict[str, Any]]]:
    after = (now - dt.timedelta(seconds=WITHIN_SECONDS)).isoformat()
    found = {name: [row for row in rows if row["at"] > after] for name, rows in restarts(house, storage).items()}
    return {name: rows for name, rows in found.items() if rows}


def restarts(house: House, storage: Storage) -> dict[str, list[dict[str, Any]]]:
    """What was restarted within the last hour or so, by application: {"at","unit","why"}."""
    try:
        value = json.loads(storage.read(house.healed) or b"")
        return {str(name): [dict(row) for row in rows] for name, rows in value["restarts"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
