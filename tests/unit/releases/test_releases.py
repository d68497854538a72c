"""Promise 3: rollback is instant and needs nothing; first it has to know where to go."""

from __future__ import annotations

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._application import ReleasePolicy
from ansible_collections.backstay.ops.plugins.module_utils._errors import InputError
from ansible_collections.backstay.ops.plugins.module_utils._ledger import Entry
from ansible_collections.backstay.ops.plugins.module_utils._migrations import MigrationVerdict, Verdict
from ansible_collections.backstay.ops.plugins.module_utils._releases import (
    check_version,
    fold,
    named_target,
    prunable,
    release_id,
    rollback_target,
    way_back,
    withdrawn_by,
)


def _history(*events: tuple[str, str]):
    return fold([Entry(n, f"t{n}", event, release) for n, (event, release) in enumerate(events, start=1)])


ONE, TWO, THREE, FOUR = "0001-1.0.0", "0002-1.1.0", "0003-1.2.0", "0004-1.1.0"


def _good(*releases: str) -> list[tuple[str, str]]:
    return [pair for release in releases for pair in (("staged", release), ("live", release))]


TARGETS = [
    ("nothing was ever live", [], None, None),
    ("the first release has nothing behind it", _good(ONE), ONE, None),
    ("the one before", _good(ONE, TWO), TWO, ONE),
    ("a refused candidate is passed over", [*_good(ONE, TWO), ("staged", THREE), ("failed", THREE)], TWO, ONE),
    (
        "a second rollback goes one further back",
        [*_good(ONE, TWO, THREE), ("withdrawn", THREE), ("live", TWO)],
        TWO,
        ONE,
    ),
    ("a withdrawn one is passed over", [*_good(ONE, TWO), ("withdrawn", TWO), ("live", ONE), *_good(FOUR)], FOUR, ONE),
    ("a pruned one is passed over", [*_good(ONE, TWO, THREE), ("pruned", TWO)], THREE, ONE),
    ("an unproven one is passed over", [*_good(ONE), ("staged", TWO), *_good(THREE)], THREE, ONE),
]


@pytest.mark.parametrize(("events", "live", "expected"), [row[1:] for row in TARGETS], ids=[row[0] for row in TARGETS])
def test_a_bare_rollback_goes_to_the_newest_good_release_before(events, live, expected):
    target = rollback_target(_history(*events), live)
    assert (target.id if target else None) == expected


def test_a_named_release_may_be_withdrawn_and_by_version_the_newest_usable_is_meant():
    history = _history(*_good(ONE, TWO), ("withdrawn", TWO), ("live", ONE))
    assert named_target(history, ONE, "1.1.0").id == TWO
    assert named_target(history, ONE, TWO).id == TWO


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("9.9.9", "There is no release '9.9.9' here; releases that can be gone back to: 0001-1.0.0."),
        (TWO, "Release 0002-1.1.0 is live already"),
        (THREE, "it failed; release that version again"),
    ],
)
def test_a_named_release_that_cannot_be_gone_back_to_is_refused_with_what_can(name, message):
    history = _history(*_good(ONE, TWO), ("staged", THREE), ("failed", THREE))
    with pytest.raises(InputError) as refused:
        named_target(history, TWO, name)
    assert message in refused.value.message


def test_going_back_withdraws_what_was_left_and_skipped_and_going_forward_withdraws_nothing():
    history = _history(*_good(ONE, TWO, THREE))
    assert withdrawn_by(history, THREE, ONE) == (TWO, THREE)
    assert withdrawn_by(_history(*_good(ONE, TWO), ("withdrawn", TWO), ("live", ONE)), ONE, TWO) == ()


def test_retention_counts_good_releases_and_spares_live_and_warm():
    ids = [release_id(n, f"1.{n}.0") for n in range(1, 9)]
    history = _history(*_good(*ids), ("staged", "0009-9.0.0"), ("failed", "0009-9.0.0"))
    assert prunable(history, ids[-1], keep=5) == tuple(ids[:3])
    assert prunable(history, ids[-1], keep=0) == tuple(ids[:6])
    assert prunable(history, ids[-1], keep=5, needed=frozenset({ids[0]})) == tuple(ids[1:3])


def test_of_withdrawn_releases_no_more_stay_than_of_good_ones():
    first, *ids = [release_id(n, f"1.{n}.0") for n in range(1, 9)]
    history = _history(*_good(first), *(event for each in ids for event in (*_good(each), ("withdrawn", each))))
    assert prunable(history, first, keep=5) == tuple(ids[:2])


def test_by_default_five_good_releases_stay():
    keep = ReleasePolicy().keep
    ids = [release_id(n, f"1.{n}.0") for n in range(1, 8)]
    assert keep == 5
    assert prunable(_history(*_good(*ids)), ids[-1], keep=keep) == tuple(ids[:2])


@pytest.mark.parametrize("version", ["1.0.0", "0.1.0", "2.0.0-rc.1"])
def test_versions_are_semver(version):
    assert check_version(version) == version


@pytest.mark.parametrize("version", ["", "1.0", "v1.0.0", "1.0.0+build", "01.0.0", "1.0.0 ", "../1.0.0"])
def test_anything_else_is_refused(version):
    with pytest.raises(InputError, match=r"MAJOR\.MINOR\.PATCH"):
        check_version(version)


@pytest.mark.parametrize(
    ("points", "said"),
    [
        (("p2", "p3"), "restore point t1, losing what was written since"),
        (("p3",), "there is no restore point to go back to"),
        ((), "there is no restore point to go back to"),
    ],
    ids=["it is there", "it was removed, and a later one knows another schema", "none"],
)
def test_only_a_restore_point_that_is_still_there_is_named_as_the_way_back(points, said):
    gone = Verdict((MigrationVerdict("portal.0002", "breaking", "irreversible", ("it drops a column",)),)).to_dict()
    entries = [
        Entry(1, "t1", "staged", ONE, {"migrations_known": ["portal.0001"]}),
        Entry(2, "t2", "live", ONE),
        Entry(3, "t3", "staged", TWO, {"migrations_known": ["portal.0001", "portal.0002"], "verdict": gone}),
        Entry(4, "t4", "kept", TWO, {"restore_point": "p2", "restore_point_at": "t1"}),
        Entry(5, "t5", "live", TWO),
        Entry(6, "t6", "staged", THREE, {"migrations_known": ["portal.0001", "portal.0002"]}),
        Entry(7, "t7", "kept", THREE, {"restore_point": "p3", "restore_point_at": "t5"}),
        Entry(8, "t8", "live", THREE),
    ]
    way = way_back(fold(entries), THREE, ONE, points=points)
    assert way.kind == "irreversible"
    assert said in way.sentence
