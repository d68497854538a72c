"""`make chaos`: everything that can die, at every step of every kind of run, under load.

One after the other on one host, in the order of the kinds, so that each strike is also the proof that the one before it
left no lock. The counts are printed; what failed is printed at once and at the end. Bounded by BUDGET_SECONDS: what was
not reached then is a failure that says so.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pytest
from backstay_lab.errors import LabError
from backstay_lab.scene import Scene
from strikes import BEFORE, CHANGING, ORDINARY, carry_out, every_strike

BUDGET_SECONDS = 36 * 60.0


@pytest.fixture(scope="module")
def stage() -> Iterator[Scene]:
    """A host with 1.0.0 and 1.1.0 released, and all its audits."""
    scene = Scene("chaos", lambda line: print(line, flush=True))
    scene.remove()
    scene.prepare(("app1", "build1"))
    scene.play("site")
    for version in (ORDINARY, BEFORE, CHANGING):
        scene.build(version)
    scene.release(ORDINARY, why="the first")
    scene.manage("seed", "--audits", "10000")
    scene.release(BEFORE, why="the second")
    yield scene
    scene.remove()


def test_whatever_dies_wherever_one_whole_release_answers_and_recovery_heals(stage: Scene) -> None:
    began = time.monotonic()
    strikes = every_strike()
    wrong: list[str] = []
    done: Counter[str] = Counter()
    requests = 0
    for number, strike in enumerate(strikes, start=1):
        if time.monotonic() - began > BUDGET_SECONDS:
            wrong.append(f"the sweep was cut off after {number - 1} of {len(strikes)} strikes: the machine is too slow")
            break
        at = time.monotonic()
        try:
            found = carry_out(stage, strike)
        except (AssertionError, LabError) as failed:
            wrong.append(str(failed))
            print(f"{number}/{len(strikes)} FAILED {failed}", flush=True)
            stage.backstay("recover", "audit-portal", check=False)
            continue
        done[f"{strike.death} in {strike.kind}"] += 1
        requests += found.requests
        print(f"{number}/{len(strikes)} {strike} {time.monotonic() - at:.1f} s; {found.said}", flush=True)
    table = "\n".join(f"  {count:4} {what}" for what, count in sorted(done.items()))
    print(f"{sum(done.values())} strikes healed, {requests} requests were answered meanwhile:\n{table}", flush=True)
    assert not wrong, f"{len(wrong)} strikes did not end well:\n" + "\n\n".join(wrong)
