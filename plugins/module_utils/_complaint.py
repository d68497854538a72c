"""What monit asks each half minute, so it is cheap: little is imported, and nothing is parsed that is not needed.

Whether the host is observed; and of an application whether the live release's web process, found through `active`, and
nginx run, and answer together.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Callable
from pathlib import Path

from ._errors import BackstayError, InputError
from ._house import House
from ._run import Runner, run

SILENT_SECONDS = 180.0
NGINX = "nginx.service"
_RUNS = ("active", "reloading", "activating")
_TAIL_BYTES = 1 << 16


def live_release(link: Path) -> str | None:
    """The id of the release that `active` points to."""
    try:
        return Path(os.readlink(link)).parent.name
    except OSError:
        return None


def of_the_observer(house: House, now: dt.datetime) -> tuple[bool, str]:
    """(well, sentence): whether somebody took a sample in the last minutes."""
    newest = max((at for at in map(_newest_in, _days(house)) if at is not None), default=None)
    if newest is None:
        return False, "nobody observes this host: there is no sample"
    age = (now - newest).total_seconds()
    if age > SILENT_SECONDS:
        return False, f"nobody observes this host: the last sample is {age:.0f} s old"
    return True, f"the last sample is {age:.0f} s old"


def _days(house: House) -> list[Path]:
    try:
        return sorted(path for path in house.samples.iterdir() if path.suffix == ".jsonl")[-2:]
    except OSError:
        return []


def _newest_in(path: Path) -> dt.datetime | None:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            return dt.datetime.fromisoformat(json.loads(line)["at"])
        except (ValueError, KeyError, TypeError):
            continue  # the first may be cut, and the last by a power cut
    return None


def ask_door(domain: str, path: str, status: int, seconds: float) -> str:
    """Why the front door does not answer well; "" where it does."""
    from ._http import Target, request

    try:
        door = Target.tcp("127.0.0.1", 443, tls=True, server_name=domain, verify=False)
        answer = request(door, path, timeout_seconds=seconds)
    except BackstayError as failed:
        return failed.message
    return "" if answer.status == status else f"{path} answered {answer.status}, expected {status}"


def of_an_application(
    house: House, name: str, *, runner: Runner = run, ask: Callable[[str, str, int, float], str] = ask_door
) -> tuple[bool, str]:
    """(well, sentence). Well is also what nothing may be said of: a transaction is open, or nothing is live."""
    layout = house.layout(name)
    try:
        described = json.loads(layout.application_file.read_bytes())
        health, domain = described["health"], str(described["domain"])
        question = (str(health["path"]), int(health["status"]), max(5.0, float(health["latency_seconds"])))
    except FileNotFoundError as unknown:
        there = ", ".join(house.applications()) or "none yet"
        raise InputError(f"There is no application {name!r} on this host; there is: {there}.") from unknown
    except (ValueError, KeyError, TypeError) as damaged:
        raise BackstayError(f"{layout.application_file} cannot be read: run playbooks/site.yml.") from damaged
    if layout.journal.exists() or layout.maintenance_flag.exists():
        return True, f"{name} is left alone: a transaction is open, or maintenance is on"
    live = live_release(layout.active)
    if live is None:
        return True, f"nothing of {name} is live"
    units = [layout.unit(live, "web"), NGINX]
    states = runner(["systemctl", "is-active", *units], check=False, timeout_seconds=10.0).stdout.split()
    bad = [f"{unit} is {state}" for unit, state in zip(units, states, strict=False) if state not in _RUNS]
    if bad or len(states) != len(units):
        return False, ", ".join(bad) or "systemd does not say what runs"
    why = ask(domain, *question)
    return not why, why or f"{units[0]} and nginx run, and {name} answers well"
