"""`make chaos`, several hosts: the controller or one of three hosts dies at every step of a run, under load.

Whatever dies, all hosts end on one release, at the end of the run or of `recover`, and visitors of another host see no
failed request meanwhile. One strike after the other: each also proves that the one before it left no lock. Bounded:
what was not reached then is a failure that says so.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from backstay_lab.layout import CHECKOUT
from strikes import KINDS, UNIT, Outcome, Strike, failpoint, stopped

from ansible_collections.backstay.ops.plugins.module_utils._steps import all_steps

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration" / "fleet"))

from fleet import AUDITS, HOSTS, Fleet

from .sweep import sweep

STRUCK, VISITED = "app3", "app2"
VERSION = "1.1.0"
# A release with maintenance is refused on several hosts: _fleet.py says why.
PLAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "configuration": ("release", {"again": True}),
    "rollback": ("rollback", {}),
    "release": ("release", {"again": True, "version": VERSION}),
}


def every_strike() -> list[Strike]:
    """Both die at each step of a configuration release and of a rollback; in a release of a version they take turns."""
    found = []
    for kind in PLAYS:
        for number, step in enumerate(all_steps(KINDS[kind])):
            for row, death in enumerate(("controller", "host")):
                if kind in ("configuration", "rollback") or (number + row) % 2 == 0:
                    found.append(Strike(death, kind, step, ("begin", "work")[(number // 2 + row) % 2]))
    return found


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Three hosts with 1.1.0 live, a database that they share, and some audits in it."""
    stage = Fleet(lambda line: print(line, flush=True), lab="chaosfleet")
    stage.remove()
    stage.stage()
    stage.release("1.0.0", why="the first")
    stage.manage("seed", "--audits", str(AUDITS))
    stage.release(VERSION, why="the second")
    yield stage
    stage.remove()


def test_whoever_dies_wherever_three_hosts_end_on_one_release(fleet: Fleet) -> None:
    sweep(every_strike(), lambda strike: carry_out(fleet, strike), fleet.at_rest)


def carry_out(fleet: Fleet, strike: Strike) -> Outcome:
    """Strike, recover, and ask every host what it serves. Raises AssertionError."""
    if strike.kind == "rollback" and any(fleet.settled(host)["rollback_target"] is None for host in HOSTS):
        fleet.release(again=True, why="to go back from")
    with fleet.visited(VISITED) as load:
        said = struck(fleet, strike)
        fleet.heal(STRUCK)
        recovered = fleet.play("recover", check=False)
        runs = fleet.runs()
        result = load.stop()
    assert len(set(runs.values())) == 1, f"the hosts differ: {runs}\n{said[-1500:]}\n{recovered.last_lines()}"
    assert recovered.ok, recovered.last_lines()
    assert result.failed == 0, f"visitors of {VISITED} saw {result.failures[:3]}\n{said[-1500:]}"
    return Outcome(f"all on {next(iter(runs.values()))[0][:12]}", result.requests)


def struck(fleet: Fleet, strike: Strike) -> str:
    """What the run said that somebody died in."""
    playbook, extra = PLAYS[strike.kind]
    limits = {"prepare_seconds": 60, "confirm_seconds": 10} if playbook == "release" else {}
    command = fleet.command(playbook, why=str(strike), backstay_build_hosts=HOSTS[-1], **extra, **limits)
    with failpoint(fleet, f"{strike.step}:{strike.moment}:STOP", STRUCK):
        run = subprocess.Popen(
            [*command, "-e", f"@{fleet.secrets}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            cwd=CHECKOUT,
            env={**os.environ, "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"), "ANSIBLE_TIMEOUT": "6"},
        )
        try:
            reached = stopped(fleet, STRUCK, run)
            if strike.death == "host":
                fleet.lab.kill(STRUCK)
                fleet.lab.start(STRUCK)
            else:
                with suppress(ProcessLookupError):
                    os.killpg(run.pid, signal.SIGKILL)
            fleet.lab.exec(STRUCK, "systemctl", "kill", "--signal=CONT", UNIT, check=False)
            said, _unused = run.communicate(timeout=180)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
    assert reached, f"{STRUCK} never came to that step; the run said:\n{said[-3000:]}"
    return said
