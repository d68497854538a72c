"""The liars' suite: whatever is wrong with a restore point, the level that promised to see it does, and no sound one is
ever called a liar. `BACKSTAY_ALL=1` tries them all."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from .liars import LIARS, Liar, stale_log
from .points import DAYS, Place

ALL = os.environ.get("BACKSTAY_ALL") == "1"
CORRUPTIONS = 300
SAMPLE = 25


def _cases() -> list[tuple[Liar, int]]:
    """Every kind as often as the others, seeded; ordinarily a sample that changes with no clock."""
    whole = [(LIARS[number % len(LIARS)], number) for number in range(CORRUPTIONS)]
    return whole if ALL else random.Random(4).sample(whole[: len(LIARS)], SAMPLE)


@pytest.mark.parametrize(("liar", "seed"), _cases(), ids=lambda value: getattr(value, "kind", str(value)))
def test_a_liar_is_refuted_by_the_level_that_promised_it(liar: Liar, seed: int, place: Place) -> None:
    lie = liar.tell(place, random.Random(seed))
    given = dict(lie.given)
    password = given.pop("password", None)
    proof = place.prove(password=password, **given)
    told = f"{liar.kind} ({lie.what}): {proof.sentence}"
    assert not proof.ok, f"nobody saw it: {told}"
    levels = {finding.level for finding in proof.findings}
    assert max(levels) <= liar.level, f"seen too late: {told}"
    assert min(levels) == proof.level + 1, f"said a higher level than reached: {told}"
    assert all(finding.sentence.endswith(".") and len(finding.sentence) > 30 for finding in proof.findings), told
    assert proof.recovery_time_seconds is None


def test_every_kind_is_there_and_the_sample_is_large_enough() -> None:
    assert len({liar.kind for liar in LIARS}) == len(LIARS)
    assert len(_cases()) == (CORRUPTIONS if ALL else SAMPLE)


def test_the_log_of_a_liar_is_one_that_sqlite_applies(place: Place) -> None:
    """And calls what is left sound."""
    path = place.stage / "databases" / "main.sqlite3"
    before = path.read_bytes()

    def rows(uri: str) -> int:
        with contextlib.closing(sqlite3.connect(f"file:{path}{uri}", uri=True)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            return int(connection.execute("SELECT count(*) FROM report").fetchone()[0])

    stale_log(place, random.Random(1))
    assert path.read_bytes() == before
    assert rows("?immutable=1") > rows("")


def test_the_place_that_the_liars_change_is_sound(original: Place, another: Callable[[str], Place]) -> None:
    proof = another("sound").prove()
    assert proof.ok, proof.sentence
    assert proof.level == 4
    assert Path(original.repository_path).is_dir()
    for run in DAYS[:2]:
        earlier = another(run).prove(run)
        assert earlier.ok, earlier.sentence
