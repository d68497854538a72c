"""The liars' suite: whatever is wrong with a restore point, the level that promised to see it does, and no sound one is
ever called a liar. `BACKSTAY_ALL=1` tries them all, those of SQLite's files and those of a server's dumps."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from .liars import LIARS, AnyPlace, Liar, stale_log
from .points import DAYS, Place
from .server_liars import SERVER_LIARS, cut_short, data_begins
from .server_points import ServerPlace

ALL = os.environ.get("BACKSTAY_ALL") == "1"
CORRUPTIONS, SAMPLE = 300, 25
SERVER_CORRUPTIONS, SERVER_SAMPLE = 90, 4  # each makes a server that is thrown away


def _cases(
    liars: Sequence[Liar[AnyPlace]], corruptions: int, sample: int, seed: int
) -> list[tuple[Liar[AnyPlace], int]]:
    """Every kind as often as the others, seeded; ordinarily a sample that changes with no clock."""
    whole = [(liars[number % len(liars)], number) for number in range(corruptions)]
    return whole if ALL else random.Random(seed).sample(whole[: len(liars)], sample)


CASES = _cases(LIARS, CORRUPTIONS, SAMPLE, 4)
SERVER_CASES = _cases(SERVER_LIARS, SERVER_CORRUPTIONS, SERVER_SAMPLE, 1086)


def _named(value: object) -> str:
    return str(getattr(value, "kind", value))


@pytest.mark.parametrize(("liar", "seed"), CASES, ids=_named)
def test_a_liar_is_refuted_by_the_level_that_promised_it(liar: Liar[Place], seed: int, place: Place) -> None:
    _is_refuted(liar, seed, place)


@pytest.mark.parametrize(("liar", "seed"), SERVER_CASES, ids=_named)
def test_who_lies_about_a_dump_is_refuted_by_the_level_that_promised_it(
    liar: Liar[ServerPlace], seed: int, dumped: ServerPlace
) -> None:
    _is_refuted(liar, seed, dumped)


def _is_refuted(liar: Liar[AnyPlace], seed: int, place: AnyPlace) -> None:
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
    kinds = [*(liar.kind for liar in LIARS), *(liar.kind for liar in SERVER_LIARS)]
    assert len(set(kinds)) == len(kinds)
    assert len(CASES) == (CORRUPTIONS if ALL else SAMPLE)
    assert len(SERVER_CASES) == (SERVER_CORRUPTIONS if ALL else SERVER_SAMPLE)


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


def test_a_dump_that_a_liar_cut_short_still_lists_all_that_is_in_it(dumped: ServerPlace) -> None:
    """So who only lists it calls it whole."""

    def listed() -> list[str]:
        found = dumped.server._restore(dumped.dump, ["--list"], 60.0)
        assert found.ok, found.stderr
        return [line for line in found.stdout.splitlines() if not line.startswith(";")]

    before = listed()
    for seed in range(20):
        whole = dumped.dump.read_bytes()
        cut_short(dumped, random.Random(seed))
        assert dumped.dump.stat().st_size > data_begins(whole)
        dumped.dump.write_bytes(whole)
    cut_short(dumped, random.Random(1))
    assert listed() == before


def test_the_dump_that_the_liars_change_is_sound(dumped_original: ServerPlace) -> None:
    proof = dumped_original.prove()
    assert (proof.ok, proof.level) == (True, 4), proof.sentence


def test_the_place_that_the_liars_change_is_sound(original: Place, another: Callable[[str], Place]) -> None:
    proof = another("sound").prove()
    assert proof.ok, proof.sentence
    assert proof.level == 4
    assert Path(original.repository_path).is_dir()
    for run in DAYS[:2]:
        earlier = another(run).prove(run)
        assert earlier.ok, earlier.sentence
