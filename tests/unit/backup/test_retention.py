"""What stays in a repository; and that neither a clock nor a shrink nor an attacker evicts a good restore point."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.backstay.ops.plugins.module_utils._backup_settings import (
    BackupPolicy,
    Keep,
    RepositorySettings,
)
from ansible_collections.backstay.ops.plugins.module_utils._retention import (
    Candidate,
    Decision,
    greatest_age_days,
    keep,
)

START = datetime(2026, 1, 1, 2, tzinfo=UTC)


def at(day: float) -> str:
    return (START + timedelta(days=day)).isoformat()


def point(day: float, sequence: int | None = None, **changed: object) -> Candidate:
    number = int(day * 100) if sequence is None else sequence
    made = Candidate(run=f"r{number}", at=at(day), sequence=number, rows=1000, size_bytes=10**6)
    return replace(made, **changed)  # type: ignore[arg-type]  # fields by name


def days(decision: Decision) -> list[int]:
    return sorted(int(run[1:]) // 100 for run in decision.keep)


def test_the_newest_of_so_many_days_weeks_and_months_stay():
    points = [point(day + hour) for day in range(120) for hour in (0, 0.5)]
    decision = keep(points, Keep(daily=7, weekly=4, monthly=3), at(120))
    assert days(decision) == [58, 89, 101, 108, 113, 114, 115, 116, 117, 118, 119]
    assert all(run.endswith("50") for run in decision.keep)  # the later one of each day
    assert set(decision.expire) == {each.run for each in points} - set(decision.keep)


def test_days_without_a_good_point_do_not_count():
    points = [point(day) for day in (0, 20, 40, 60, 61, 62)]
    points[3] = replace(points[3], good=False)
    assert days(keep(points, Keep(daily=4, weekly=0), at(90))) == [20, 40, 61, 62]


def test_what_is_younger_than_so_many_days_stays():
    points = [point(day) for day in range(100)]
    assert days(keep(points, Keep(daily=1, weekly=0, within_days=30), at(99.1))) == list(range(70, 100))


def test_the_last_one_proven_to_the_highest_level_stays():
    points = [point(day, level=level) for day, level in ((0, 5), (1, 5), (2, 4), (3, 1), (30, 1), (31, 1))]
    decision = keep(points, Keep(daily=1, weekly=0), at(32))
    assert days(decision) == [1, 31]
    assert decision.keep["r100"] == "the last one proven to level 5"


def test_what_a_release_needs_stays():
    points = [point(day) for day in range(20)]
    points[2] = replace(points[2], needed="release 0003-1.2.0")
    decision = keep(points, Keep(daily=2, weekly=0), at(20))
    assert days(decision) == [2, 18, 19]
    assert decision.keep["r200"] == "needed by release 0003-1.2.0"


def test_a_refuted_one_never_counts_and_goes_when_a_good_one_follows():
    refuted = [point(10, good=False), point(11, good=False)]
    assert keep(refuted, Keep(), at(12)).expire == ()
    decision = keep([point(9), *refuted], Keep(daily=2, weekly=0), at(12))
    assert decision.expire == ()
    decision = keep([point(9), *refuted, point(12)], Keep(daily=2, weekly=0), at(12))
    assert decision.expire == ("r1000", "r1100")


def test_a_shrink_holds_everything_back_until_somebody_accepts_it():
    points = [*(point(day) for day in range(10)), *(point(day, rows=100) for day in range(10, 20))]
    decision = keep(points, Keep(daily=2, weekly=0), at(20))
    assert decision.expire == ()
    assert decision.held_back is not None
    assert "100 rows" in decision.held_back
    assert "--accept-shrink" in decision.held_back
    accepted = [replace(each, accepted=True) for each in points]
    assert days(keep(accepted, Keep(daily=2, weekly=0), at(20))) == [18, 19]


def test_fewer_bytes_hold_back_as_well_and_a_slow_decline_does_not():
    fewer = [point(0), point(1), point(2, size_bytes=400_000)]
    assert "bytes" in (keep(fewer, Keep(daily=1, weekly=0), at(3)).held_back or "")
    slow = [point(day, rows=1000 - 100 * day) for day in range(5)]
    assert keep(slow, Keep(daily=1, weekly=0), at(6)).held_back is None


def _pair(**second: object) -> list[Candidate]:
    """A large database beside a small one, and media; and the point after it."""
    first = point(0, rows=10_020_000, databases={"default": 20_000, "events": 10_000_000}, files=300)
    return [first, replace(first, run="r100", sequence=100, at=at(1), **second)]  # type: ignore[arg-type]  # fields by name


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"rows": 10_000_000, "databases": {"default": 0, "events": 10_000_000}}, "0 rows in the database default"),
        (
            {"rows": 10_009_000, "databases": {"default": 9_000, "events": 10_000_000}},
            "9000 rows in the database default",
        ),
        ({"rows": 10_000_000, "databases": {"events": 10_000_000}}, "0 rows in the database default"),
        ({"rows": 30_000, "databases": {"default": 20_000, "events": 10_000}}, "10000 rows in the database events"),
        ({"files": 0}, "0 files of media"),
        ({"files": 149}, "149 files of media"),
    ],
)
def test_one_database_or_the_media_hold_back_that_shrink_beside_larger_ones(second, said):
    pair = _pair(**second)
    held = keep(pair, Keep(daily=1, weekly=0), at(2)).held_back or ""
    assert f"The restore point r100 has {said} and the one before it, r0, has " in held
    assert "--accept-shrink" in held
    accepted = [pair[0], replace(pair[1], accepted=True)]
    assert keep(accepted, Keep(daily=1, weekly=0), at(2)).held_back is None


@pytest.mark.parametrize(
    "second",
    [
        {"rows": 10_011_000, "databases": {"default": 11_000, "events": 10_000_000}, "files": 200},
        {"databases": {"default": 20_000, "events": 10_000_000, "fresh": 0}},
        {"databases": None, "files": None},  # one that was made before these were counted
    ],
)
def test_a_database_that_declines_slowly_or_was_not_counted_holds_nothing_back(second):
    assert keep(_pair(**second), Keep(daily=1, weekly=0), at(2)).held_back is None


def test_an_emptied_database_holds_back_whatever_share_may_be_lost():
    none_left = {"databases": {"default": 0, "events": 10_000_000}}
    assert "default" in (keep(_pair(**none_left), Keep(), at(2), shrink_ratio=0.0).held_back or "")
    few = {"databases": {"default": 1, "events": 10_000_000}}
    assert keep(_pair(**few), Keep(), at(2), shrink_ratio=0.0).held_back is None


def test_a_clock_that_ran_ahead_for_good_does_not_make_all_old():
    points = [*(point(day) for day in range(90)), point(4000)]
    decision = keep(points, Keep(daily=1, weekly=0, within_days=90), at(4000.1))
    assert decision.expire == ()
    assert "clock" in (decision.held_back or "")


def test_without_any_good_point_nothing_is_chosen_and_nothing_breaks():
    assert keep([], Keep(), at(0)) == Decision({}, ())
    only = [point(1, good=False)]
    assert keep(only, Keep(), at(2)).expire == ()


# properties

_policies = st.builds(
    Keep,
    daily=st.integers(1, 8),
    weekly=st.integers(0, 5),
    monthly=st.integers(0, 5),
    within_days=st.sampled_from((0, 0, 10, 40)),
)


@st.composite
def _honest(draw: st.DrawFn) -> list[Candidate]:
    """A chain whose dates never go back."""
    gaps = draw(st.lists(st.floats(0.05, 9), min_size=1, max_size=40))
    day, found = 0.0, []
    for number, gap in enumerate(gaps):
        day += gap
        found.append(
            point(
                day,
                sequence=10 * (number + 1),
                good=draw(st.booleans()) or draw(st.booleans()),
                level=draw(st.sampled_from((1, 1, 2, 3, 4))),
                needed=draw(st.sampled_from((None, None, None, "release 0001-1.0.0"))),
            )
        )
    return found


def _end(points: list[Candidate]) -> datetime:
    return max(datetime.fromisoformat(each.at) for each in points)


@given(_honest(), _policies, st.floats(-20, 5000))
def test_whatever_the_clock_says_what_must_stay_stays(points, policy, now):
    decision = keep(points, policy, at(now))
    assert set(decision.keep) | set(decision.expire) == {each.run for each in points}
    assert not set(decision.keep) & set(decision.expire)
    good = [each for each in points if each.good]
    if good:
        assert good[-1].run in decision.keep
        best = max(each.level for each in good)
        assert [each for each in good if each.level == best][-1].run in decision.keep
    assert all(each.run in decision.keep for each in points if each.needed)
    assert len(good) == 0 or any(each.good for each in points if each.run in decision.keep)


@given(_honest(), _policies, st.floats(0, 400))
def test_a_clock_that_is_behind_evicts_nothing_that_the_right_one_keeps(points, policy, behind):
    right = keep(points, policy, _end(points).isoformat())
    wrong = keep(points, policy, (_end(points) - timedelta(days=behind)).isoformat())
    assert {each.run for each in points if each.good and each.run in right.keep} <= set(wrong.keep)


def test_a_clock_that_is_behind_the_newest_point_holds_everything_back():
    """A month without backups is asked about; a clock that does not see its end yet must not answer for somebody."""
    points = [point(day, sequence=day) for day in (1, 2, 15, 46, 47)]
    policy = Keep(daily=1, weekly=0, within_days=10)
    assert keep(points, policy, at(47)).expire == ()
    behind = keep(points, policy, at(44))
    assert behind.expire == ()
    assert "one of them is wrong" in str(behind.held_back)


@given(_honest(), _policies, st.floats(0, 9000))
def test_a_clock_that_is_ahead_evicts_nothing(points, policy, ahead):
    right = keep(points, policy, _end(points).isoformat())
    wrong = keep(points, policy, (_end(points) + timedelta(days=ahead)).isoformat())
    assert set(right.keep) == set(wrong.keep)


@given(_honest(), _policies, st.data())
def test_points_dated_back_evict_no_good_one(points, policy, data):
    """An attacker, or a clock without its battery, adds good points with old dates: the honest ones stay."""
    now = _end(points)
    before = keep(points, policy, now.isoformat())
    forged = []
    for number in range(data.draw(st.integers(1, 12))):
        place = data.draw(st.integers(0, len(points) - 1))
        honest = [each for each in points[: place + 1] if each.good]
        if not honest:
            continue
        back = data.draw(st.floats(0.01, 500))
        when = datetime.fromisoformat(honest[-1].at) - timedelta(days=back)
        forged.append(
            Candidate(
                f"forged{number}",
                when.isoformat(),
                points[place].sequence + 1 + number % 9,
                rows=1000,
                size_bytes=10**6,
            )
        )
    after = keep([*points, *forged], policy, now.isoformat())
    kept_good = {each.run for each in points if each.good and each.run in before.keep}
    assert kept_good <= set(after.keep)


@given(_honest(), _policies, st.data())
def test_points_dated_ahead_evict_no_good_one(points, policy, data):
    now = _end(points)
    before = keep(points, policy, now.isoformat())
    forged = [
        Candidate(
            f"forged{number}",
            (now + timedelta(days=data.draw(st.floats(0.01, 900)))).isoformat(),
            10 * data.draw(st.integers(1, len(points))) + 1 + number % 9,
            rows=1000,
            size_bytes=10**6,
        )
        for number in range(data.draw(st.integers(1, 12)))
    ]
    after = keep([*points, *forged], policy, now.isoformat())
    assert {each.run for each in points if each.good and each.run in before.keep} <= set(after.keep)


def test_one_run_with_a_clock_ahead_evicts_nobody_when_its_date_has_passed():
    honest = [point(day) for day in range(30)]
    ahead = Candidate("ahead", at(20), 250, rows=1000, size_bytes=10**6)
    policy = Keep(daily=5, weekly=3)
    assert set(keep(honest, policy, at(30)).keep) <= set(keep([*honest, ahead], policy, at(30)).keep)


@given(_honest(), st.integers(1, 10))
def test_days_are_bounded_by_the_policy(points, daily):
    """Where dates fit, nothing is proven and nothing needed, no more stay than were asked for."""
    plain = [replace(each, level=0, needed=None) for each in points]
    decision = keep(plain, Keep(daily=daily, weekly=0), at(5000))
    assert sum(each.good for each in plain if each.run in decision.keep) <= daily


# how long deleted data survive


def test_the_greatest_age_is_told_per_repository():
    policy = BackupPolicy(
        repositories={
            "disk": RepositorySettings(location="/backup/portal"),
            "bucket": RepositorySettings(location="s3:https://h/b/p", keep=Keep(daily=1, weekly=0, within_days=90)),
            "years": RepositorySettings(location="/b", keep=Keep(daily=7, weekly=4, monthly=12)),
        }
    )
    assert greatest_age_days(policy) == {"disk": 29, "bucket": 91, "years": 373}


@given(st.integers(1, 20), st.integers(0, 8), st.integers(0, 6), st.integers(0, 60))
def test_no_point_of_a_daily_backup_outlives_the_greatest_age(daily, weekly, monthly, within):
    kept = Keep(daily=daily, weekly=weekly, monthly=monthly, within_days=within)
    policy = BackupPolicy(repositories={"disk": RepositorySettings(location="/b", keep=kept)})
    (most,) = greatest_age_days(policy).values()
    decision = keep([point(day) for day in range(300)], kept, at(299))
    # A point that is kept now may stay until the next run.
    assert 299 - min(days(decision)) + 1 <= most
