"""A proof that is killed at any of its commands: nothing is proven or refuted by it, and the next one finds all as it
was and takes away what the dead one left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ansible_collections.backstay.ops.plugins.module_utils._proof import Proof
from ansible_collections.backstay.ops.plugins.module_utils._sandbox import DirectSandbox

from ..backup.kills import Dying, killed, locks, strikes
from .points import Place


def prove_once(directory: Path, runner: Dying) -> Proof:
    place = Place(directory)
    sandbox = DirectSandbox(runner=runner)
    return place.prove(repository=replace(place.repository, runner=runner), sandbox=sandbox, runner=runner)


def _left(place: Place) -> list[str]:
    """Scratches, secrets and locks."""
    places = (place.layout.proof_scratch, place.top / "private")
    found = [path.name for where in places if where.is_dir() for path in where.iterdir()]
    return [*(name for name in found if name != ".guard"), *locks(place.repository_path)]  # the guard stays


def test_a_proof_that_is_killed_at_any_of_its_commands_holds_up_no_other(place: Place) -> None:
    counted = Dying()
    assert prove_once(place.top, counted).ok
    assert _left(place) == []
    for strike in strikes(counted.commands, 5):
        killed("tests.unit.proof.test_kills:prove_once", place.top, strike)
        proof = prove_once(place.top, Dying())
        assert proof.ok, f"{strike}: {proof.sentence}"
        assert proof.level == 4
        place.repository.prune()  # needs the repository for itself alone
        assert _left(place) == [], strike
