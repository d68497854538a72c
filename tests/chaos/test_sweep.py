"""`make chaos`: everything that can die, at every step of every kind of run, under load.

One after the other on one host, in the order of the kinds, so that each strike is also the proof that the one before it
left no lock. The counts are printed; what failed is printed at once and at the end. Bounded: what was not reached then
is a failure that says so.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from backstay_lab.scene import Scene
from strikes import BEFORE, CHANGING, ORDINARY, carry_out, every_strike

from .sweep import ROUNDS, of_round, sweep


@pytest.fixture(scope="module")
def stage() -> Iterator[Scene]:
    """A host with 1.0.0 and 1.1.0 released, and all its audits."""
    scene = Scene("strikes", lambda line: print(line, flush=True))
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
    sweep(
        every_strike(),
        lambda strike: carry_out(stage, strike),
        lambda: stage.backstay("recover", "audit-portal", check=False),
    )


def test_in_all_rounds_together_everything_is_struck_and_in_each_every_kind_of_run() -> None:
    everything = every_strike()
    rounds = [of_round(everything, number + 1) for number in range(ROUNDS)]
    assert sorted(map(str, everything)) == sorted(str(strike) for each in rounds for strike in each)
    for each in rounds:
        assert {strike.kind for strike in each} == {strike.kind for strike in everything}
        assert {strike.death for strike in each} == {strike.death for strike in everything}
        assert {strike.moment for strike in each} == {"begin", "work"}
