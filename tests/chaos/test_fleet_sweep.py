"""`make chaos`, several hosts: the controller or one of three hosts dies at every step of a run, under load.

Whatever dies, all hosts end on one release, at the end of the run or of `recover`, and visitors of another host see no
failed request meanwhile. One strike after the other: each also proves that the one before it left no lock. Bounded by
BUDGET_SECONDS: what was not reached then is a failure that says so.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from backstay_lab.errors import LabError
from backstay_lab.layout import CHECKOUT
from strikes import UNIT, failpoint, stopped

from ansible_collections.backstay.ops.plugins.module_utils._steps import all_steps

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration" / "fleet"))

from fleet import AUDITS, HOSTS, Fleet

BUDGET_SECONDS = 36 * 60.0
STRUCK, VISITED = "app3", "app2"
VERSION = "1.1.0"
# A release with maintenance is refused on several hosts: _fleet.py says why.
PLAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "configuration": ("release", {"again": True}),
    "rollback": ("rollback", {}),
    "release": ("release", {"again": True, "version": VERSION}),
}
OPERATIONS = {"configuration": "release"}  # elsewhere of the same name


@dataclass(frozen=True)
class Strike:
    """Who dies in which kind of run, while one host is at which step and moment (begin: recorded; work: done)."""

    death: str
    kind: str
    step: str
    moment: str

    def __str__(self) -> str:
        return f"{self.death}-{self.kind}-{self.step}-{self.moment}"


def every_strike() -> list[Strike]:
    """Both die at each step of a configuration release and of a rollback; in a release of a version they take turns."""
    found = []
    for kind in PLAYS:
        for number, step in enumerate(all_steps(OPERATIONS.get(kind, kind))):
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
    began = time.monotonic()
    strikes = every_strike()
    wrong: list[str] = []
    done: Counter[str] = Counter()
    for number, strike in enumerate(strikes, start=1):
        if time.monotonic() - began > BUDGET_SECONDS:
            wrong.append(f"the sweep was cut off after {number - 1} of {len(strikes)} strikes: the machine is too slow")
            break
        at = time.monotonic()
        try:
            carry_out(fleet, strike)
        except (AssertionError, LabError) as failed:
            wrong.append(f"{strike}: {failed}")
            print(f"{number}/{len(strikes)} FAILED {strike}: {failed}", flush=True)
            fleet.at_rest()
            continue
        done[f"{strike.death} in {strike.kind}"] += 1
        print(f"{number}/{len(strikes)} {strike} {time.monotonic() - at:.1f} s", flush=True)
    table = "\n".join(f"  {count:4} {what}" for what, count in sorted(done.items()))
    print(f"{sum(done.values())} strikes on three hosts ended well:\n{table}", flush=True)
    assert not wrong, f"{len(wrong)} strikes did not end well:\n" + "\n\n".join(wrong)


def carry_out(fleet: Fleet, strike: Strike) -> None:
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
