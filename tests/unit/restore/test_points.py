"""Which restore point somebody means."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._catalogue import Copy, Point
from ansible_collections.backstay.ops.plugins.module_utils._errors import InputError
from ansible_collections.backstay.ops.plugins.module_utils._points import choose


def copy(repository: str = "disk", **other: Any) -> Copy:
    return Copy(repository, "id", f"s-{repository}", "tree", f"m-{repository}", "2026-11-21T02:01:00Z", **other)


def point(day: int, *copies: Copy, **other: Any) -> Point:
    run = f"202611{day:02}T020000000-1"
    found = {each.repository: each for each in copies or (copy(),)}
    return Point(run, f"2026-11-{day:02}T02:00:00Z", day, release="0001-1.0.0", repositories=found, **other)


POINTS = (point(18), point(19), point(20))


def chosen(points: tuple[Point, ...], wanted: str, **of_releases: str) -> str:
    named = {name.replace("_", "-").replace("v", ""): run for name, run in of_releases.items()}
    return choose(points, wanted, of_releases=named)[0].run


def test_the_latest_is_the_last_good_one_of_the_chain_whatever_its_time_says() -> None:
    ahead = replace(point(25), sequence=1)
    assert chosen((ahead, *POINTS), "latest") == POINTS[2].run
    refuted = point(21, copy(refuted="a flipped bit"))
    assert chosen((*POINTS, refuted), "latest") == POINTS[2].run
    unfinished = Point("20261121T030000000-1", "2026-11-21T03:00:00Z", 9)
    assert chosen((*POINTS, unfinished), "latest") == POINTS[2].run


def test_a_run_is_chosen_by_its_name() -> None:
    assert chosen(POINTS, POINTS[0].run) == POINTS[0].run


@pytest.mark.parametrize(
    ("wanted", "day"),
    [
        ("2026-11-19T02:00:00Z", 19),
        ("2026-11-19T23:00:00+00:00", 19),
        ("2026-11-20T03:30:00+02:00", 19),  # half past one in UTC: the point of the 20th is not made yet
        ("2027-01-01T00:00:00Z", 20),
    ],
)
def test_a_time_means_the_newest_point_not_after_it(wanted: str, day: int) -> None:
    assert chosen(POINTS, wanted) == point(day).run


def test_a_time_before_the_first_point_is_refused_with_the_oldest() -> None:
    with pytest.raises(InputError, match=f"the oldest is {POINTS[0].run}"):
        chosen(POINTS, "2026-11-18T01:00:00Z")


def test_a_release_means_the_point_that_was_made_before_it() -> None:
    named = {"0007-1.2.0": POINTS[1].run}
    assert choose(POINTS, "release:0007-1.2.0", of_releases=named)[0].run == POINTS[1].run
    with pytest.raises(InputError, match=r"No restore point was made before '0008-1.3.0'.*have one: 0007-1.2.0"):
        choose(POINTS, "release:0008-1.3.0", of_releases=named)


def test_a_point_that_speaks_against_itself_is_refused_with_its_reason() -> None:
    refuted = point(21, copy(refuted="a flipped bit"))
    with pytest.raises(InputError, match="a flipped bit"):
        chosen((*POINTS, refuted), refuted.run)
    failed = Point("20261122T020000000-1", "2026-11-22T02:00:00Z", 9, failed="the disk was full")
    with pytest.raises(InputError, match="the disk was full"):
        chosen((*POINTS, failed), failed.run)
    expired = Point("20261101T020000000-1", "2026-11-01T02:00:00Z", 1, expired=("disk",))
    with pytest.raises(InputError, match="it has expired"):
        chosen((expired, *POINTS), expired.run)


def test_what_is_no_point_is_refused_with_what_can_be_written() -> None:
    with pytest.raises(InputError, match=f"the newest are .*{POINTS[2].run}"):
        chosen(POINTS, "yesterday")
    with pytest.raises(InputError, match="There is no restore point"):
        chosen((), "latest")


def test_of_several_copies_the_one_that_is_proven_best_is_taken() -> None:
    proven = copy("offsite", level=4, proven_at="2026-11-20T03:00:00Z")
    found, best = choose((point(20, copy(), proven),), "latest", of_releases={})
    assert found.level == 4
    assert best.repository == "offsite"
    damaged = copy("offsite", level=4, refuted="a lost pack")
    assert choose((point(20, copy(), damaged),), "latest", of_releases={})[1].repository == "disk"
