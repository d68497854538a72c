"""Which restore point somebody means."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._catalogue import Copy, Point, fold
from ansible_collections.backstay.ops.plugins.module_utils._errors import InputError
from ansible_collections.backstay.ops.plugins.module_utils._ledger import Entry
from ansible_collections.backstay.ops.plugins.module_utils._points import choose, to_prove


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


# which one a proof is about

ORDER = ("disk", "bucket", "far")


def nights(
    *proofs: tuple[int, str, str], without: tuple[tuple[int, str], ...] = (), last: int = 4
) -> tuple[Point, ...]:
    """A point each night in three repositories, and the proofs: (night, event, repository)."""
    events: list[tuple[str, str, str, dict[str, Any]]] = []
    for night in range(1, last + 1):
        run = f"202611{night:02}T020000000-1"
        stored = {"id": "r", "snapshot": run, "tree": "t", "manifest_snapshot": "m"}
        events.append((f"2026-11-{night:02}T02:00:00Z", "made", run, {"manifest": run}))
        events += [
            (f"2026-11-{night:02}T02:01:00Z", "stored", run, {"repository": name, **stored})
            for name in ORDER
            if (night, name) not in without
        ]
        # What is read back after each run is no proof by restoring.
        events.append((f"2026-11-{night:02}T02:02:00Z", "proven", run, {"repository": "disk", "level": 3, "asked": 3}))
        for _night, event, name in (each for each in proofs if each[0] == night):
            said = {"repository": name, "asked": 4, "level": 4 if event == "proven" else 2, "reason": "it is torn"}
            events.append((f"2026-11-{night:02}T03:30:00Z", event, run, said))
    return fold(Entry(number, *event) for number, event in enumerate(events, start=1))


def turn(found: tuple[Point, ...], wanted: str = "latest") -> list[str]:
    return [name for _run, name in to_prove(found, wanted, ORDER)]


def test_each_night_the_repository_is_proven_where_that_was_done_longest_ago() -> None:
    assert turn(nights(last=1)) == ["disk", "bucket", "far"]
    proofs: list[tuple[int, str, str]] = []
    for night in range(1, 8):
        name = turn(nights(*proofs, last=night))[0]
        proofs.append((night, "proven", name))
    assert [name for _night, _event, name in proofs] == ["disk", "bucket", "far", "disk", "bucket", "far", "disk"]


@pytest.mark.parametrize("event", ["refuted", "unproven"])
def test_one_that_does_not_hold_has_had_its_turn(event: str) -> None:
    """Else a rotten bucket would be the first one every night, and nobody learnt about the others."""
    found = nights((1, "proven", "disk"), (2, event, "bucket"), (3, "proven", "far"))
    assert turn(found) == ["disk", "bucket", "far"]


def test_a_proof_counts_when_its_point_has_expired_there() -> None:
    found = nights((1, "proven", "disk"), (2, "proven", "bucket"), (3, "proven", "far"))
    gone = tuple(
        replace(each, repositories={}, expired=ORDER) if number < 3 else each for number, each in enumerate(found)
    )
    assert turn(gone) == ["disk", "bucket", "far"]
    never = nights((1, "proven", "disk"), (2, "proven", "bucket"), (3, "proven", "disk"))
    assert turn(never) == ["far", "bucket", "disk"]


def test_the_newest_that_the_repository_itself_holds_is_proven() -> None:
    found = nights((1, "proven", "disk"), (2, "proven", "far"), without=((3, "bucket"), (4, "bucket")))
    old, newest = "20261102T020000000-1", "20261104T020000000-1"
    assert to_prove(found, "latest", ORDER) == ((old, "bucket"), (newest, "disk"), (newest, "far"))


def test_a_point_that_is_named_is_proven_where_it_is_and_declared() -> None:
    found = nights((1, "proven", "disk"), without=((3, "bucket"),))
    assert turn(found, "20261103T020000000-1") == ["far", "disk"]
    assert {run for run, _name in to_prove(found, "20261103T020000000-1", ORDER)} == {"20261103T020000000-1"}
    with pytest.raises(InputError, match="is in disk, far, which the application's file does not name any more"):
        to_prove(found, "20261103T020000000-1", ("bucket",))
