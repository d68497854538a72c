"""Backfills: old rows changed a batch at a time, after the release and outside of it.

The application's command does one batch and says by its exit code whether there is more (75, EX_TEMPFAIL) or not (0),
so it can be cut off and called again at any time. A unit of its own, `backstay-backfill-<app>-<name>`, calls it until
nothing is left; settling starts that unit where it is missing, at boot too. While a transaction is open no batch
begins.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ._environment import redact
from ._errors import BackstayError, InputError
from ._layout import Layout
from ._storage import Storage, canonical
from ._units import one_off

if TYPE_CHECKING:
    from ._host import Host

MORE = 75
REOPENS = ("withdrawn", "restored", "returned")
BATCH_SECONDS = 600.0
_POLITE = ("--property=Nice=10", "--property=CPUWeight=20", "--property=IOWeight=20")


def state(layout: Layout, storage: Storage, name: str) -> dict[str, Any]:
    """What is known of a backfill: how many batches it took, and `done_at` where nothing is left."""
    content = storage.read(layout.backfill(name))
    return {"batches": 0} if content is None else dict(json.loads(content))


def missing(engine: Host, declared: Mapping[str, Any]) -> list[str]:
    """Those that are declared and not done."""
    reopened = _reopened_at(engine) if declared else ""
    return [name for name in declared if not _done(state(engine.layout, engine.storage, name), reopened)]


def _reopened_at(engine: Host) -> str:
    """When rows were last written by an older release, or came back as they were: what was done before that may have
    to be done again. "" where that never was."""
    return max((entry.time for entry in engine.ledger.read() if entry.event in REOPENS), default="")


def _done(mine: Mapping[str, Any], reopened: str) -> bool:
    return str(mine.get("done_at") or "") > reopened


def unit(layout: Layout, name: str) -> str:
    return f"backstay-backfill-{layout.name}-{name}.service"


def start(engine: Host, names: list[str]) -> None:
    """Start the units of backfills, those that run already excepted; nothing is waited for."""
    states_now = engine.systemd.states([unit(engine.layout, name) for name in names])
    for name in names:
        if states_now.get(unit(engine.layout, name)) in ("active", "activating"):
            continue
        command = ["/usr/bin/backstay", "backfill", engine.layout.name, name]
        engine.runner(
            ["systemd-run", "--quiet", "--collect", f"--unit={unit(engine.layout, name)}", *_POLITE, "--", *command],
            check=False,
        )


def run(engine: Host, name: str, *, say: Callable[[str], None], sleep: Callable[[float], None] = time.sleep) -> int:
    """Call one backfill until nothing is left. Returns how many batches that took in all.

    Raises InputError when the live release declares no such backfill, BackstayError when a batch fails.
    """
    from ._runtime import program

    layout, storage = engine.layout, engine.storage
    while True:
        if layout.journal.exists():
            sleep(0.5)
            continue
        live = engine.live()
        application = engine.application(live)
        if live is None or name not in application.backfills:
            known = ", ".join(application.backfills) or "none"
            raise InputError(f"{live or 'Nothing'} is live and has no backfill {name!r}; it has: {known}.")
        declared = application.backfills[name]
        mine = state(layout, storage, name)
        if _done(mine, _reopened_at(engine)):
            return int(mine["batches"])
        done = engine.runner(
            [
                "systemd-run",
                "--quiet",
                "--wait",
                "--pipe",
                "--collect",
                f"--unit={layout.unit(live, 'backfill')}",
                *_POLITE,
                *one_off(application, live, seconds=BATCH_SECONDS),
                *program(declared.command, layout.release(live) / "venv"),
            ],
            timeout_seconds=BATCH_SECONDS + 30,
            check=False,
        )
        if done.returncode not in (0, MORE) and not layout.journal.exists() and engine.live() == live:
            secrets = tuple(engine.secrets().values())
            lines = tuple(redact(line, secrets)[:500] for line in done.last_lines(12))
            raise BackstayError(
                f"The backfill {name} of {live} ended with exit code {done.returncode}: "
                f"{lines[-1] if lines else 'it printed nothing'}; mend it, then run `backstay backfill "
                f"{layout.name} {name}`; it goes on where it was.",
                lines=lines,
            )
        if done.returncode in (0, MORE):
            mine = {**mine, "batches": int(mine["batches"]) + 1, "release": live}
            if done.returncode == 0:
                mine["done_at"] = engine.now()
            storage.write(layout.backfill(name), canonical(mine) + b"\n", mode=0o600)
            last = [redact(line, tuple(engine.secrets().values()))[:200] for line in done.last_lines(1)]
            say("; ".join([f"{name}: batch {mine['batches']}", *last]))
        sleep(declared.pause_seconds)
