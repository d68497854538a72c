"""Several hosts of one application, without a host: what is refused, where all must end, what the table says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.backstay.ops.plugins.action import fleet as action
from ansible_collections.backstay.ops.plugins.module_utils import _fleet
from ansible_collections.backstay.ops.plugins.module_utils._application import parse
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, InputError
from ansible_collections.backstay.ops.plugins.module_utils._fleet import Goal, Held, Open, Phase, Seen

SHARED: dict[str, Any] = {
    "format": 1,
    "name": "portal",
    "domain": "portal.example.org",
    "source": {"repository": "https://git.example.org/portal.git"},
    "runtime": {"type": "django", "settings": "portal.settings", "wsgi": "portal.wsgi:application"},
    "processes": {"web": {}, "clock": {"command": ["python", "clock.py"]}},
    "databases": [{"name": "default", "engine": "postgresql", "url_key": "DATABASE_URL"}],
    "environment": {"secret": ["DATABASE_URL"]},
}
THREE = ("app1", "app2", "app3")


def refusal(hosts: tuple[str, ...], **changed: Any) -> str | None:
    return _fleet.refusal(parse({**SHARED, **changed}, file="portal.yml"), hosts)


# --- what is refused

OWN: list[tuple[dict[str, Any], str]] = [
    ({"databases": [{"name": "main", "engine": "sqlite", "path": "db/x.sqlite3"}]}, "use PostgreSQL"),
    ({"media": "media"}, "remove `media`"),
    ({"processes": {"web": {}, "clock": {"command": ["x"], "singleton": True}}}, "processes.clock is a singleton"),
]


@pytest.mark.parametrize(("changed", "reason"), OWN)
def test_what_a_host_has_for_itself_is_refused_on_several_and_not_on_one(changed: dict[str, Any], reason: str) -> None:
    told = refusal(THREE, **changed)
    assert told is not None
    assert reason in told
    assert "app1, app2, app3" in told
    assert "--limit" in told
    assert refusal(("app1",), **changed) is None


def test_what_is_shared_may_be_on_several() -> None:
    assert refusal(THREE) is None


def test_a_strategy_that_restores_data_is_for_one_host() -> None:
    assert _fleet.strategy_refusal("live", THREE) is None
    assert _fleet.strategy_refusal("maintenance", ("app1",)) is None
    assert "--limit" in str(_fleet.strategy_refusal("maintenance", THREE))


@pytest.mark.parametrize(
    ("hosts", "forks", "watch", "confirm", "refused"),
    [
        (10, 10, 300.0, 300.0, False),
        (11, 10, 300.0, 300.0, True),
        (11, 10, 5.0, 60.0, False),
        (50, 5, 5.0, 60.0, True),  # the tenth turn begins after 45 s, and something is between
        (50, 5, 0.0, 60.0, False),  # nobody is watched
        (3, 0, 300.0, 300.0, True),
    ],
)
def test_hosts_that_are_watched_in_turns_must_be_there_when_their_turn_comes(
    hosts: int, forks: int, watch: float, confirm: float, refused: bool
) -> None:
    said = _fleet.forks_refusal([f"app{number}" for number in range(hosts)], forks, watch, confirm)
    assert (said is not None) is refused
    assert said is None or f"run it with --forks {hosts}" in said


def test_where_the_source_lies_is_no_difference_between_hosts() -> None:
    one = {**SHARED, "source": {"repository": "/home/ada/portal"}}
    other = {**SHARED, "source": {"repository": "/home/bram/portal"}}
    assert _fleet.configuration_digest(one) == _fleet.configuration_digest(other)
    assert _fleet.configuration_digest(one) != _fleet.configuration_digest({**one, "domain": "other.example.org"})


def test_canaries_are_those_of_the_run_and_never_all_of_it() -> None:
    assert _fleet.canaries(THREE, ["app3", "elsewhere"]) == ("app3",)
    assert _fleet.canaries(THREE, []) == ()
    assert _fleet.canaries(THREE, THREE) == ()


def test_hosts_that_prepared_different_payloads_are_told_apart() -> None:
    _fleet.agreed({"app1": {"payload": "aa", "version": "1.0.0"}, "app2": {"payload": "aa"}, "app3": {}})
    with pytest.raises(InputError, match=r"app1, app3 on 1\.0\.0 .*; app2 on 1\.1\.0 .*recover"):
        _fleet.agreed(
            {
                "app1": {"payload": "aa", "version": "1.0.0"},
                "app2": {"payload": "bb", "version": "1.1.0"},
                "app3": {"payload": "aa", "version": "1.0.0"},
            }
        )


def test_hosts_that_prepared_one_payload_with_different_configurations_are_told_apart() -> None:
    one = {"payload": "aa", "version": "1.0.0", "configuration": "c1"}
    _fleet.agreed({"app1": one, "app2": one})
    _fleet.agreed({"app1": one, "app2": {"payload": "aa", "version": "1.0.0"}})  # an older backstay does not say it
    apart = r"app1, app3 on 1\.0\.0 \(configuration c1\); app2 on 1\.0\.0 \(configuration c2\); .*--limit"
    with pytest.raises(InputError, match=f"the same payload with different configurations: {apart}"):
        _fleet.agreed({"app1": one, "app2": {**one, "configuration": "c2"}, "app3": one})


def test_what_no_release_runs_with_is_no_difference_between_hosts() -> None:
    """A host where this version is live already may have an earlier policy of backups in its release."""
    other = {**SHARED, "backup": {"keep": 3}, "alerts": {"mail": ["a@example.org"]}, "schedules": {"jobs": []}}
    assert _fleet.configuration_digest(SHARED) == _fleet.configuration_digest(other)


# --- where all must end

OLD = Held("0001-1.0.0", "1.0.0", "old", "c1", "20261121T100000Z-aaa", "2026-11-21T10:00:05.000Z")
NEW = Held("0002-1.1.0", "1.1.0", "new", "c2", "20261121T110000Z-bbb", "2026-11-21T11:00:05.000Z")
FLIPPED = Open("t2", "release", NEW.release, NEW.run, flipped=True)
PREPARED = replace(FLIPPED, flipped=False)

STATES = {
    "untouched": Seen(OLD.release, OLD, None, "c2", (OLD,)),
    "prepared": Seen(OLD.release, OLD, PREPARED, "c2", (OLD,)),
    "flipped": Seen(NEW.release, OLD, FLIPPED, "c2", (OLD,)),
    "confirmed": Seen(NEW.release, NEW, None, "c2", (OLD, NEW)),
    "dying after its confirmation was begun": Seen(NEW.release, NEW, FLIPPED, "c2", (OLD,)),
}


def end(goal: Goal, found: Seen, *, has_payload: bool = True) -> Seen:
    """A host that does what it is told, step after step."""
    for _attempt in range(5):
        step = _fleet.step_towards(goal, found, application="portal", has_payload=has_payload)
        if step.action == _fleet.NOTHING:
            return found
        if step.action == _fleet.FORWARD:
            found = Seen(NEW.release, NEW, None, found.declared, (*found.retained, NEW))
        elif step.action == _fleet.BACK:
            assert found.confirmed is not None
            found = replace(found, live=found.confirmed.release, opened=None)
        elif step.action == "rollback":
            held = next(held for held in found.retained if held.release == step.release)
            found = replace(found, live=held.release, confirmed=replace(held, run=goal.run))
        else:
            made = Held("0009-x", goal.version, goal.payload, found.declared, goal.run, "")
            found = replace(found, live=made.release, confirmed=made, retained=(*found.retained, made))
    raise AssertionError(f"it never came to rest: {found}")


@given(st.lists(st.sampled_from(sorted(STATES)), min_size=1, max_size=6))
def test_whatever_became_of_each_host_all_end_on_one_release(states: list[str]) -> None:
    hosts: dict[str, Seen | None] = {f"app{number}": STATES[state] for number, state in enumerate(states)}
    goal = _fleet.decide(hosts)
    ended = [end(goal, found) for found in hosts.values() if found]
    forward = any(found is not None and found.confirmed == NEW for found in hosts.values())
    wanted = NEW if forward else OLD
    assert {found.confirmed.same_as for found in ended if found.confirmed} == {wanted.same_as}, (states, goal)
    assert all(found.opened is None for found in ended)
    again = _fleet.decide({f"app{number}": found for number, found in enumerate(ended)})
    assert [end(again, found) for found in ended] == ended, "a second run changes nothing"


def test_a_host_that_says_nothing_does_not_hold_the_others_up() -> None:
    hosts = {"app1": STATES["confirmed"], "app2": STATES["flipped"], "app3": None}
    goal = _fleet.decide(hosts)
    assert end(goal, STATES["flipped"]).confirmed == NEW
    late = end(goal, STATES["untouched"])
    assert late.confirmed is not None
    assert late.confirmed.same_as == NEW.same_as


def test_the_newest_run_counts_by_the_controllers_clock() -> None:
    fast = replace(OLD, since="2026-11-21T12:59:00.000Z")  # a host whose clock runs ahead, and that missed the run
    goal = _fleet.decide({"app1": STATES["confirmed"], "app3": replace(STATES["untouched"], confirmed=fast)})
    assert goal.payload == NEW.payload


def test_what_a_host_went_on_from_is_older_whatever_two_controllers_clocks_say() -> None:
    """The second controller's clock is an hour behind: by the clocks its run came first."""
    behind = replace(NEW, run="20261121T093000Z-ccc")
    went_on = Seen(NEW.release, behind, None, "c2", (OLD, behind))
    missed = STATES["untouched"]
    for hosts in ({"app1": went_on, "app2": missed}, {"app1": missed, "app2": went_on}):
        goal = _fleet.decide(hosts)
        assert (goal.run, goal.payload) == (behind.run, NEW.payload)
    back = replace(OLD, run="20261121T080000Z-ddd")  # and a rollback by a clock that is further behind
    returned = Seen(OLD.release, back, None, "c1", (back, behind))
    assert _fleet.decide({"app1": returned, "app2": went_on}).run == back.run


def test_hosts_that_contradict_each_other_are_judged_by_the_clock() -> None:
    one, other = replace(OLD, run="20261121T100000Z-aaa"), replace(NEW, run="20261121T110000Z-bbb")
    hosts = {
        "app1": Seen(one.release, one, None, "c1", (other, one)),
        "app2": Seen(other.release, other, None, "c2", (one, other)),
    }
    assert _fleet.decide(hosts).run == other.run


def test_a_run_is_older_also_where_nothing_is_kept_of_it() -> None:
    """A rollback made the first run's release live again, under its own name; then came a third release."""
    first = replace(OLD, run="20261121T150000Z-aaa")  # by a clock that is hours ahead
    back, now = replace(OLD, run="20261121T113000Z-ccc"), replace(NEW, release="0003-1.2.0", payload="newer")
    went_on = Seen(now.release, now, None, "c2", (back, now), runs=(first.run, back.run, now.run))
    assert _fleet.decide({"app1": went_on, "app2": Seen(first.release, first, None, "c1", (first,))}).run == now.run


def test_what_a_host_had_before_it_began_a_run_is_older_than_that_run() -> None:
    """Else it would go back from what others have confirmed, because its own clock is ahead."""
    for run in ("", "20261121T150000Z-aaa"):
        ahead = replace(OLD, run=run, since="2026-11-21T15:00:00.000Z")
        waiting = Seen(NEW.release, ahead, FLIPPED, "c2", (ahead,))
        goal = _fleet.decide({"app1": waiting, "app2": Seen(NEW.release, NEW, None, "c2", (NEW,))})
        assert goal.run == NEW.run, goal
        assert end(goal, waiting).confirmed == NEW


def test_hosts_that_contradict_each_other_say_nothing_of_a_third() -> None:
    third = Held("0001-0.9.0", "0.9.0", "third", "c3", "20261121T080000Z-eee", "2026-11-21T08:00:00.000Z")
    hosts: dict[str, Seen | None] = {
        "app1": Seen(OLD.release, OLD, None, "c1", (NEW, OLD)),
        "app2": Seen(NEW.release, NEW, None, "c2", (OLD, NEW)),
        "app3": Seen(third.release, third, None, "c3", (third,)),
    }
    assert _fleet.decide(hosts).run == NEW.run


def test_it_is_said_where_clocks_alone_decide() -> None:
    apart: dict[str, Seen | None] = {
        "app1": Seen(NEW.release, NEW, None, "c2", (NEW,)),
        "app2": Seen(OLD.release, OLD, None, "c1", (OLD,)),
    }
    why = _fleet.decide(apart).why
    assert why == "app1 confirmed 1.1.0: all go forward to it; newer than 1.0.0 on app2 by the clocks alone"
    known = {**apart, "app1": replace(apart["app1"] or STATES["confirmed"], runs=(OLD.run, NEW.run))}
    assert "clocks" not in _fleet.decide(known).why


def test_a_release_made_by_hand_on_one_host_is_not_spread() -> None:
    alone = replace(NEW, run="", since="2026-11-21T11:30:00.000Z")
    goal = _fleet.decide({"app1": replace(STATES["confirmed"], confirmed=alone), "app2": STATES["prepared"]})
    assert goal.payload == ""
    assert "app1 alone, by hand" in goal.why
    assert end(goal, STATES["prepared"]).confirmed == OLD


def test_going_where_a_host_was_before_is_a_rollback_and_needs_no_payload() -> None:
    back = replace(OLD, run="20261121T120000Z-ccc")
    hosts = {"app1": replace(STATES["confirmed"], live=OLD.release, confirmed=back), "app3": STATES["confirmed"]}
    goal = _fleet.decide(hosts)
    step = _fleet.step_towards(goal, STATES["confirmed"], application="portal", has_payload=False)
    assert (step.action, step.release) == ("rollback", OLD.release)


@pytest.mark.parametrize(("declared", "has_payload"), [("c2", False), ("c1", True)])
def test_a_host_that_cannot_get_there_alone_names_the_command(declared: str, has_payload: bool) -> None:
    goal = _fleet.decide({"app1": STATES["confirmed"]})
    behind = replace(STATES["untouched"], declared=declared)
    with pytest.raises(BackstayError, match=r"release\.yml -e version=1\.1\.0 --limit"):
        _fleet.step_towards(goal, behind, application="portal", has_payload=has_payload)


def test_what_recovery_would_do_is_told_of_each_host_without_doing_it() -> None:
    hosts = {
        "app1": STATES["confirmed"],
        "app2": STATES["flipped"],
        "app3": STATES["prepared"],
        "app4": replace(STATES["untouched"], retained=(OLD, NEW)),
        "app5": replace(STATES["untouched"], declared="c9"),
        "app6": None,
    }
    asked = {host: {"__asked": GONE if found is None else facts(found)} for host, found in hosts.items()}
    known = action.Variables(asked, "__")
    told = action.wanted(list(hosts), known, {"application": "portal", "check_mode": True})["backstay_lines"]
    assert told[1:6] == [
        "app6 said nothing: decided without",
        "app1: would stay on 0002-1.1.0",
        "app2: would confirm 0002-1.1.0",
        "app3: would undo 0002-1.1.0; would release 1.1.0, where its payload is here",
        "app4: would go to 0002-1.1.0",
    ]
    assert "release.yml -e version=1.1.0 --limit" in told[6]
    assert len(action.wanted(list(hosts), known, {})["backstay_lines"]) == 2, "what is done is told when it is done"


def test_what_died_past_its_confirmation_would_be_confirmed_also_where_it_is_of_no_run() -> None:
    """The journal goes forward from there, whoever asked for it."""
    by_hand, opened = replace(NEW, run=""), replace(FLIPPED, run="")
    dying = Seen(NEW.release, by_hand, opened, "c2", (OLD,))
    goal = _fleet.decide({"app1": dying})
    assert _fleet.would(goal, dying, application="portal") == "would confirm 0002-1.1.0"
    restoring = replace(dying, opened=replace(opened, operation="restore"))  # of data: the release stays what it is
    told = "would finish or undo the restore of 0002-1.1.0, as its journal says"
    assert _fleet.would(goal, restoring, application="portal").startswith(told)
    unconfirmed = replace(dying, confirmed=replace(OLD, run=""))
    assert _fleet.would(goal, unconfirmed, application="portal") == "would undo 0002-1.1.0"


def test_a_goal_survives_its_way_to_the_host() -> None:
    goal = _fleet.decide({"app1": STATES["confirmed"]})
    assert Goal.from_dict(goal.to_dict()) == goal


def test_facts_of_an_older_backstay_are_refused_with_the_remedy() -> None:
    with pytest.raises(InputError, match=r"site\.yml"):
        _fleet.seen({"live": None})


# --- what the table says


def facts(found: Seen) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        return None if value is None else dict(value.__dict__)

    fleet = {
        "confirmed": plain(found.confirmed),
        "open": plain(found.opened),
        "declared": found.declared,
        "retained": [plain(held) for held in found.retained],
    }
    return {"live": {"id": found.live}, "fleet": fleet}


PREPARE = Phase.of("prepared", {"transaction": "t2", "payload": "new", "live": OLD.release, "changed": True})
CONFIRM = Phase.of("confirmed", {"live": NEW.release, "changed": True})
GONE = {"unreachable": True, "msg": "no route"}


def end_of_run(hosts: dict[str, list[Phase]], after: dict[str, Any] | None = None) -> _fleet.Outcome:
    return _fleet.outcome(application="portal", verb="release", run=NEW.run, hosts=hosts, after=after or {})


def test_all_well() -> None:
    ended = end_of_run({host: [PREPARE, CONFIRM] for host in THREE})
    assert ended.ok
    assert ended.one_release is True
    assert [row.happened for row in ended.rows] == ["released"] * 3
    assert ended.lines[1].split() == ["HOST", "LIVE", "WHAT", "HAPPENED"]


def test_one_payload_with_different_configurations_is_not_one_release() -> None:
    went = Phase.of("prepared", {"transaction": "t2", "payload": "old", "configuration": "c1", "changed": True})
    other = Phase.of("prepared", {"transaction": "t2", "payload": "old", "configuration": "c9", "changed": True})
    back = Phase.of("confirmed", {"live": OLD.release, "changed": True})
    hosts = {"app1": [went, back], "app2": [other, back]}
    ended = _fleet.outcome(application="portal", verb="rollback", run="r", hosts=hosts, after={})
    assert (ended.ok, ended.one_release) == (False, False)
    assert [row.happened for row in ended.rows] == ["rolled back"] * 2
    assert [row.why for row in ended.rows] == ["same payload, configuration c1", "same payload, configuration c9"]
    assert "one payload with different configurations: run playbooks/release.yml" in ended.message
    alike = {"app1": [went, back], "app2": [went, back]}
    assert _fleet.outcome(application="portal", verb="rollback", run="r", hosts=alike, after={}).ok


def test_a_host_that_vanished_is_unknown_and_the_run_has_failed() -> None:
    lost = Phase.of("confirmed", GONE)
    ended = end_of_run({"app1": [PREPARE, CONFIRM], "app3": [PREPARE, lost]}, {"app3": GONE})
    assert not ended.ok
    assert ended.one_release is None
    row = ended.rows[1]
    assert (row.live, row.happened) == (None, "unreachable")
    assert "while it confirmed" in row.why
    assert "app1 ended there, app3 did not: run playbooks/recover.yml" in ended.message


def test_an_answer_that_was_lost_is_found_when_the_host_is_asked_again() -> None:
    lost = Phase.of("confirmed", GONE)
    hosts = {"app1": [PREPARE, CONFIRM], "app3": [PREPARE, lost]}
    ended = end_of_run(hosts, {"app3": facts(STATES["confirmed"])})
    assert [row.happened for row in ended.rows] == ["released", "released"]
    assert (ended.ok, ended.message) == (True, "portal: 2 hosts run one release.")


def test_one_that_failed_takes_all_back_and_its_reason_is_told_once() -> None:
    failed = Phase.of("flipped", {"failed": True, "msg": "The front door does not answer."})
    undone = facts(replace(STATES["untouched"]))
    ended = end_of_run({"app1": [PREPARE], "app3": [PREPARE, failed]}, {"app1": undone, "app3": undone})
    assert [row.happened for row in ended.rows] == ["undone", "undone"]
    assert [row.live for row in ended.rows] == [OLD.release] * 2
    assert ended.message.count("The front door does not answer.") == 1
    assert ended.message.endswith("Nothing was released.")


def test_a_host_whose_undoing_did_not_end_is_told_as_such() -> None:
    failed = Phase.of("flipped", {"failed": True, "msg": "no"})
    open_still = facts(STATES["flipped"])
    ended = end_of_run({"app1": [PREPARE], "app3": [PREPARE, failed]}, {"app1": open_still, "app3": open_still})
    assert {row.happened for row in ended.rows} == {"not ended"}


def test_on_a_single_host_the_reason_is_all_that_is_told() -> None:
    failed = Phase.of("prepared", {"failed": True, "msg": "The payload is damaged."})
    ended = end_of_run({"app1": [failed]})
    assert not ended.ok
    assert ended.message == "The payload is damaged."
    assert ended.lines == []


def test_recover_fails_while_a_host_is_missing_or_they_differ() -> None:
    def recovered(second: Phase) -> _fleet.Outcome:
        first = Phase.of("done", {"live": NEW.release, "did": [], **facts(STATES["confirmed"])})
        return _fleet.outcome(
            application="portal", verb="recover", run="", hosts={"app1": [first], "app3": [second]}, after={}
        )

    assert recovered(Phase.of("done", {"live": NEW.release, "did": ["x"], **facts(STATES["confirmed"])})).ok
    missing = recovered(Phase.of("asked", GONE))
    assert not missing.ok
    assert missing.rows[1].live is None
    differs = recovered(Phase.of("done", {"live": OLD.release, "did": [], **facts(STATES["untouched"])}))
    assert (differs.ok, differs.one_release) == (False, False)
    assert "different releases" in differs.message
