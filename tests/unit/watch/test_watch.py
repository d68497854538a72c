"""How the watch ends, and what it does with what it cannot see."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._access_log import Hit
from ansible_collections.backstay.ops.plugins.module_utils._application import Watch
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed
from ansible_collections.backstay.ops.plugins.module_utils._watch import (
    Evidence,
    Judgement,
    Sample,
    judge_watch,
    watch,
)

from .test_ground_truth import fails
from .world import CANDIDATE, PREVIOUS, Scenario, Visit, World


def hits(count: int, *, failed: int = 0, seconds: float = 0.1, route: str = "GET /", per_second: int = 5) -> list[Hit]:
    """Evenly spread requests of many clients, the failed ones evenly among them."""
    marked = {round(index * count / failed) for index in range(failed)} if failed else set()
    return [
        Hit(index // per_second, "", route, 500 if index in marked else 200, seconds, f"10.0.0.{index % 40}")
        for index in range(count)
    ]


def judge(candidate: list[Hit], previous: list[Hit], **policy: Any) -> Judgement:
    return judge_watch(Evidence(Sample(candidate), Sample(previous)), Watch(**policy))


@pytest.mark.parametrize("inconclusive", ["keep", "revert"])
def test_too_little_is_inconclusive_and_what_follows_is_declared(
    inconclusive: Literal["keep", "revert"], tmp_path: Path
) -> None:
    policy = {"inconclusive": inconclusive}
    judgement = World(Scenario("few", rate=lambda at: 0.5, seconds=10.0, policy=policy), tmp_path).watch()
    assert judgement.outcome == "inconclusive"
    assert "least_requests is 50" in judgement.sentence
    assert judgement.reverts(Watch(inconclusive=inconclusive)) == (inconclusive == "revert")


def test_bad_is_always_taken_back_and_good_never() -> None:
    for policy in (Watch(inconclusive="keep"), Watch(inconclusive="revert")):
        assert Judgement("bad", ("x",)).reverts(policy)
        assert not Judgement("good", ("x",)).reverts(policy)


def test_a_burning_site_does_not_wait_for_the_end(tmp_path: Path) -> None:
    judgement = World(Scenario("burning", fails(0.9), seconds=300.0), tmp_path).watch()
    assert judgement.outcome == "bad"
    assert judgement.seconds < 30


def test_who_waits_is_told_every_ten_seconds_with_numbers(tmp_path: Path) -> None:
    world = World(Scenario("told"), tmp_path)
    world.watch()
    assert 4 <= len(world.said) <= 6
    assert all("of 60 s" in line and "requests" in line and "p95" in line for line in world.said)


def test_a_person_may_end_it_early_and_gets_what_was_seen(tmp_path: Path) -> None:
    world = World(Scenario("stopped"), tmp_path)
    began = world.now
    judgement = watch(
        world.layout,
        candidate=CANDIDATE,
        previous=PREVIOUS,
        policy=Watch(seconds=300.0),
        runner=world.runner,
        sleep=world.sleep,
        clock=lambda: world.now,
        should_stop=lambda: world.now - began > 20,
    )
    assert judgement.outcome == "good"
    assert judgement.seconds < 25
    assert judgement.numbers["candidate"]["requests"] > 50


def test_what_cannot_be_read_is_said_and_condemns_nobody(tmp_path: Path) -> None:
    def refuses(arguments: Sequence[str], **_options: Any) -> Completed:
        raise BackstayError(f"{arguments[0]} is missing")

    world = World(Scenario("blind"), tmp_path)
    world.runner = refuses  # type: ignore[method-assign]  # the host that this world stands for lost its commands
    world.log.unlink()
    judgement = world.watch()
    assert judgement.outcome == "good"  # the probes see enough
    assert "journalctl is missing" in judgement.sentence
    assert "systemctl is missing" in judgement.sentence


def test_a_short_watch_ignores_no_more_than_it_must(tmp_path: Path) -> None:
    judgement = World(Scenario("short", fails(0.5), seconds=5.0, rate=lambda at: 20), tmp_path).watch()
    assert judgement.outcome == "bad"


def test_what_the_ledger_keeps_is_json_and_small(tmp_path: Path) -> None:
    kept = World(Scenario("kept", fails(0.3)), tmp_path).watch().to_dict()
    assert json.loads(json.dumps(kept)) == kept
    assert kept["outcome"] == "bad"
    assert kept["numbers"]["candidate"]["failed"] > 0
    assert len(json.dumps(kept)) < 8000


def test_a_closed_door_is_no_evidence_against_whoever_is_behind_it(tmp_path: Path) -> None:
    scenario = Scenario("closed", rate=lambda at: 0.0, probe=lambda at: (0, 0.02) if at < 12 else (200, 0.02))
    judgement = World(scenario, tmp_path).watch()
    assert judgement.outcome == "good", judgement.sentence
    assert judgement.numbers["probes"]["failed"] == 0


def test_what_names_no_release_is_of_whoever_was_in_front(tmp_path: Path) -> None:
    """A candidate that failed before, and this one's first failures, are no illness of the release before."""
    world = World(Scenario("nobody", fails(1.0, status=502)), tmp_path)
    lines = world.log.read_text(encoding="utf-8").splitlines(keepends=True)
    failed = World(Scenario("failed", fails(1.0, status=502)), tmp_path / "other")
    failed.sleep(20.0)
    told = failed.log.read_text(encoding="utf-8")
    attempt = [line for line in told.splitlines(keepends=True)[-100:] if '"status":502' in line]
    marker = world.line(Visit(-50.0, "GET", "/healthz/", "127.0.0.1", "health"), "0001-9.9.9", "backstay-health")
    back = world.line(Visit(-30.0, "GET", "/healthz/", "127.0.0.1", "health"), PREVIOUS, "backstay-probe/1")
    world.log.write_text("".join([*lines[:200], marker + "\n", *attempt, back + "\n", *lines[200:]]), encoding="utf-8")
    world.file.close()
    world.file = world.log.open("a", encoding="utf-8")
    world.sleep(10.0)  # between the switch and the watch
    judgement = world.watch()
    failed.file.close()
    assert len(attempt) > 50
    assert judgement.outcome == "bad", judgement.sentence
    assert judgement.numbers["previous"]["failed"] == 0, judgement.numbers


# the rule alone


def test_the_share_of_5xx_counts_above_the_one_before() -> None:
    assert judge(hits(1000, failed=40), hits(5000)).outcome == "good"  # 4 %, and 5 % is the limit
    assert judge(hits(1000, failed=80), hits(5000)).outcome == "bad"
    assert judge(hits(1000, failed=80), hits(5000, failed=250)).outcome == "good"  # 3 % above
    assert judge(hits(1000, failed=80), hits(5000), error_ratio=0.1).outcome == "good"


def test_a_slower_percentile_must_exceed_both_limits() -> None:
    fast, slow = hits(1000, seconds=0.1), hits(1000, seconds=0.4)
    assert judge(slow, fast).outcome == "good"  # four times, but not half a second more
    assert judge(slow, fast, slower_seconds=0.2).outcome == "bad"
    assert judge(hits(1000, seconds=3.7), hits(1000, seconds=3.0)).outcome == "good"  # more, but not twice
    assert judge(hits(1000, seconds=6.5), hits(1000, seconds=3.0)).outcome == "bad"


def test_few_requests_condemn_only_when_most_fail() -> None:
    few = hits(30, failed=10, per_second=1)
    assert judge(few, hits(5000)).outcome == "inconclusive"
    assert judge(hits(40, failed=38, per_second=1), hits(5000)).outcome == "bad"


def test_a_recent_illness_of_the_release_before_excuses_the_new_one() -> None:
    well = hits(15000)
    since = well[-1].second + 1
    ill = [replace_second(hit, hit.second + since) for hit in hits(600, failed=300)]
    assert judge(hits(300, failed=150), [*well, *ill]).outcome == "good"
    assert judge(hits(300, failed=150), well).outcome == "bad"


def replace_second(hit: Hit, second: int) -> Hit:
    return hit._replace(second=second)


def test_a_restart_condemns_unless_it_was_so_before() -> None:
    enough = Evidence(Sample(hits(100)), Sample(hits(100)), restarts={"worker": 1})
    assert judge_watch(enough, Watch()).outcome == "bad"
    assert "worker" in judge_watch(enough, Watch()).sentence
    assert judge_watch(replace(enough, previous_restarts={"worker": 5}), Watch()).outcome == "good"
    often = replace(enough, restarts={"worker": 50}, previous_restarts={"worker": 5})
    assert judge_watch(often, Watch()).outcome == "bad", "ten times as often in minutes as before in an hour"


def test_nothing_at_all_is_inconclusive() -> None:
    assert judge_watch(Evidence(Sample(), Sample()), Watch()).outcome == "inconclusive"
