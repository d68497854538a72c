"""Promise 3: rollback is instant and needs nothing: no network, no build, no controller."""

from __future__ import annotations

import json

from backstay_lab.scene import APPLICATION, Scene


def test_after_a_refused_candidate_a_rollback_is_one_rename(at_1_1: Scene) -> None:
    """Spike (a): 1.0 -> 1.1 -> refused 1.2 -> rollback, with the warm release running all the while."""
    warm = at_1_1.status()["warm"]["id"]
    started = at_1_1.lab.ssh(
        "app1", f"systemctl show -P ExecMainStartTimestampMonotonic {APPLICATION}-{warm}-web.service"
    ).stdout
    assert not at_1_1.release("1.2.0", check=False).ok
    result = at_1_1.backstay("rollback", "--json", APPLICATION)
    assert result["release"] == warm
    assert [step["detail"] for step in result["steps"] if step["step"] == "start"] == ["runs already"]
    now = at_1_1.lab.ssh(
        "app1", f"systemctl show -P ExecMainStartTimestampMonotonic {APPLICATION}-{warm}-web.service"
    ).stdout
    assert now == started, "the warm release was restarted"


def test_a_host_cut_off_from_everything_rolls_back(at_1_1: Scene) -> None:
    warm = at_1_1.status()["warm"]["id"]
    at_1_1.lab.cut("app1")
    try:
        done = at_1_1.lab.exec("app1", "backstay", "rollback", "--json", APPLICATION)
    finally:
        at_1_1.lab.heal("app1")
    assert json.loads(done.stdout)["release"] == warm
    assert at_1_1.live() == warm


def test_a_second_rollback_goes_one_further_back_and_the_end_says_so(at_1_0: Scene) -> None:
    at_1_0.release(again=True, why="one")
    one = at_1_0.live()
    at_1_0.release("1.1.0", why="two")
    at_1_0.release(again=True, why="three")
    two = at_1_0.status()["warm"]["id"]
    assert at_1_0.backstay("rollback", "--json", APPLICATION)["release"] == two
    assert at_1_0.backstay("rollback", "--json", APPLICATION)["release"] == one
    states = {release["id"]: release["state"] for release in at_1_0.status()["releases"]}
    assert states[two] == "withdrawn"


def test_a_named_release_and_the_plan_of_it(at_1_1: Scene) -> None:
    live, warm = at_1_1.status()["live"]["id"], at_1_1.status()["warm"]["id"]
    plan = at_1_1.play("rollback", "--check", "--diff", to=warm)
    assert f"would go from {live} to {warm}" in plan.output.replace("\n", " "), plan.output
    assert at_1_1.live() == live, "a plan changes nothing"
    told = at_1_1.backstay("rollback", "--plan", "--json", APPLICATION)
    assert (told["release"], told["withdraws"]) == (warm, [live])
    at_1_1.backstay("rollback", "--to", "1.0.0", APPLICATION)
    assert at_1_1.status()["live"]["version"] == "1.0.0"
    at_1_1.backstay("rollback", "--to", live, APPLICATION)
    assert at_1_1.live() == live, "going forward again to a withdrawn release by its name is allowed"


def test_an_unknown_release_is_refused_with_those_there_are(at_1_1: Scene) -> None:
    warm = at_1_1.status()["warm"]["id"]
    refused = at_1_1.backstay("rollback", "--to", "7.7.7", "--json", APPLICATION, check=False)
    assert not refused["ok"]
    assert "There is no release '7.7.7' here" in refused["message"]
    assert warm in refused["message"]
