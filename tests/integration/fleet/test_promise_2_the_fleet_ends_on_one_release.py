"""Promise 2 over several hosts: whichever host is lost in whichever phase, all end on one release, at the end of the
run or of `recover`; the table at the end tells the truth of each host; migrations run once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from backstay_lab.scene import APPLICATION
from fleet import CANARY, HOSTS, SHARED, Fleet

LOST = "app3"  # neither the canary nor the first of the inventory
STATE = f"/var/lib/backstay/{APPLICATION}"
REACHED = tuple(host for host in HOSTS if host != LOST)


def told(output: str) -> dict[str, str]:
    """What the table says of each host: everything behind its name. (What Ansible counts comes after it.)"""
    rows: dict[str, str] = {}
    _, _, table = output.partition("WHAT HAPPENED")
    for line in table.splitlines():
        host, _, rest = line.strip().partition("  ")
        if host in HOSTS:
            rows.setdefault(host, " ".join(rest.split()))
    return rows


def declared(fleet: Fleet) -> Callable[[str], str]:
    """The application's file on a host, as the next release would take it."""
    return lambda host: str(fleet.status(host)["fleet"]["declared"])


def flat(output: str) -> str:
    return " ".join(output.split())


def banner(fleet: Fleet, text: str) -> None:
    """Another configuration, which a release without a version brings: quick, and told apart by its digest."""
    values = {**SHARED["environment"]["values"], "PORTAL_BANNER": text}
    fleet.declare(environment={**SHARED["environment"], "values": values})


@pytest.fixture
def changed(fleet: Fleet, request: pytest.FixtureRequest) -> Fleet:
    """All hosts on one release, and another configuration to release."""
    banner(fleet, f"for {request.node.name}")
    return fleet


def test_three_hosts_release_together_canaries_first_and_migrate_once(fleet: Fleet) -> None:
    with fleet.visited("app2") as load:
        time.sleep(1.0)
        played = fleet.release("1.1.0", why="together")
        result = load.stop()
    assert result.failed == 0, result.failures
    statuses = {host: fleet.settled(host) for host in HOSTS}
    assert {status["live"]["version"] for status in statuses.values()} == {"1.1.0"}
    assert len(set(map(fleet.run_by, statuses.values()))) == 1
    assert len({status["fleet"]["confirmed"]["run"] for status in statuses.values()}) == 1
    rows = told(played.output)
    assert set(rows) == set(HOSTS), played.output
    assert all(row.endswith("released") for row in rows.values()), rows
    applied = {host: status["releases"][-1]["migrations"] for host, status in statuses.items()}
    assert [bool(names) for names in applied.values()].count(True) == 1, f"each migration runs once: {applied}"
    plans = [fleet.backstay("rollback", "--plan", "--json", APPLICATION, host=host) for host in HOSTS]
    assert len({(plan["operation"], *plan["lines"]) for plan in plans}) == 1, "each knows what the migrations need"
    assert not any("no verdict" in line for plan in plans for line in plan["lines"]), plans
    flips = {host: when(fleet, host, "flip") for host in HOSTS}
    assert min(flips.values()) == flips[CANARY], flips
    assert when(fleet, CANARY, "verify", "done") < min(flips[host] for host in HOSTS if host != CANARY), flips


def journal(fleet: Fleet, host: str) -> str:
    """The journal of the newest transaction that a host has ended."""
    name = f"{STATE}/journal.d"
    return fleet.lab.exec(host, "sh", "-c", f"cat {name}/$(ls -t {name} | head -n 1)").stdout


def when(fleet: Fleet, host: str, step: str, state: str = "begin") -> str:
    """When the newest transaction of a host came to a step."""
    records = [json.loads(line) for line in journal(fleet, host).splitlines()]
    return next(str(record["time"]) for record in records if (record["step"], record["state"]) == (step, state))


def test_a_host_that_is_not_there_stops_the_release_before_anything_is_touched(changed: Fleet) -> None:
    before, was = changed.ids(), changed.each(declared(changed))
    changed.lab.cut(LOST)
    played = changed.release(check=False)
    changed.heal(LOST)
    assert not played.ok
    rows = told(played.output)
    assert rows[LOST].startswith("? unreachable: before anything was touched"), played.output
    assert all("untouched" in rows[host] for host in REACHED), rows
    assert changed.ids() == before
    assert changed.each(declared(changed)) == was, "it was declared on some"


@pytest.mark.parametrize(
    ("task", "words", "lost"),
    [
        pytest.param("Prepare it beside the live release", "while it prepared", LOST, marks=pytest.mark.long),
        pytest.param("Close the door", "between prepare and flip", LOST, marks=pytest.mark.long),
        pytest.param("Flip to it where it goes first", "while the first hosts flipped", CANARY, marks=pytest.mark.long),
        ("Flip to it", "while it flipped", LOST),
        pytest.param("Watch it", "between flip and confirm", LOST, marks=pytest.mark.long),
    ],
)
def test_a_host_lost_before_anybody_confirmed_takes_all_back(changed: Fleet, task: str, words: str, lost: str) -> None:
    before = changed.runs()
    reached = [host for host in HOSTS if host != lost]
    played = changed.struck("release", task, lost)
    assert not played.ok
    rows = told(played.output)
    assert rows[lost].startswith(f"? unreachable: {words}"), played.output
    assert all("undone" in rows[host] for host in reached), rows
    assert {host: changed.run_by(changed.settled(host)) for host in reached} == {host: before[host] for host in reached}
    if task not in ("Flip to it", "Watch it"):
        moved = [host for host in reached if '"step":"flip"' in journal(changed, host)]
        assert moved == [], "somebody flipped although a host was lost before"
    changed.heal(lost)
    recovered = changed.play("recover")
    assert changed.runs() == before, recovered.output
    assert set(told(recovered.output)) == set(HOSTS), recovered.output


def test_a_host_lost_when_the_others_confirm_goes_forward_with_recover(changed: Fleet) -> None:
    before = changed.runs()
    played = changed.struck("release", "Confirm it", LOST)
    confirmed_by_the_others(changed, played, before)
    changed.heal(LOST)
    recovered = changed.play("recover")
    assert "was confirmed" in told(recovered.output)[LOST], recovered.output
    after = changed.runs()
    assert len(set(after.values())) == 1, after
    assert after[LOST] != before[LOST]
    again = changed.play("recover")
    assert "changed=1" not in again.output
    assert changed.runs() == after


@pytest.mark.long
def test_a_host_that_went_back_by_itself_meanwhile_is_released_to_again_by_recover(changed: Fleet) -> None:
    before = changed.runs()
    played = changed.struck("release", "Confirm it", LOST)
    confirmed_by_the_others(changed, played, before)
    # As at its deadline, and without waiting for it: whoever is alone goes back.
    changed.lab.exec(LOST, "systemctl", "kill", "--signal=KILL", f"backstay-transaction@{APPLICATION}.service")
    deadline = time.monotonic() + 90
    while changed.lab.exec(LOST, "test", "-e", f"{STATE}/journal.jsonl", check=False).ok:
        assert time.monotonic() < deadline, "it never flipped back"
        time.sleep(0.3)
    changed.heal(LOST)
    assert changed.run_by(changed.status(LOST)) == before[LOST], "it flipped back by itself"
    recovered = changed.play("recover")
    assert "is live, as on the other hosts" in told(recovered.output)[LOST], recovered.output
    after = changed.runs()
    assert len(set(after.values())) == 1, after
    assert after[LOST] != before[LOST]


def confirmed_by_the_others(fleet: Fleet, played: Any, before: dict[str, tuple[str, str]]) -> None:
    assert not played.ok, "a run that left a host behind is no success"
    rows = told(played.output)
    assert rows[LOST].startswith("? unreachable: while it confirmed"), played.output
    assert all("released" in rows[host] for host in REACHED), rows
    assert f"{LOST} did not: run playbooks/recover.yml" in flat(played.output), played.output
    assert all(fleet.run_by(fleet.settled(host)) != before[host] for host in REACHED)


def test_three_hosts_roll_back_together_or_not_at_all(changed: Fleet) -> None:
    before = changed.runs()
    changed.release(why="to go back from")
    ahead = changed.runs()
    assert ahead != before
    struck = changed.struck("rollback", "Flip to it", LOST)
    assert not struck.ok
    rows = told(struck.output)
    assert rows[LOST].startswith("? unreachable: while it flipped"), struck.output
    assert all("undone" in rows[host] for host in REACHED), rows
    changed.heal(LOST)
    changed.play("recover")
    assert changed.runs() == ahead
    played = changed.rollback()
    assert all("rolled back" in row for row in told(played.output).values()), played.output
    assert changed.runs() == before
    assert len(set(before.values())) == 1


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (
        "SQLite",
        {"databases": [{"name": "default", "engine": "sqlite", "path": "db/portal.sqlite3"}]},
        "is an SQLite file, of which each host would have its own: use PostgreSQL",
    ),
    ("media", {"media": "media"}, "`media` is a directory of one host"),
    ("a singleton", {"processes": {"scheduler": {"singleton": True}}}, "it would run 3 times"),
]


@pytest.mark.parametrize(("override", "reason"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_belongs_to_one_host_is_refused_on_three(fleet: Fleet, override: dict[str, Any], reason: str) -> None:
    before, was = fleet.ids(), fleet.each(declared(fleet))
    fleet.declare(**override)
    try:
        played = [fleet.play("site", "--limit", "app_servers", check=False), fleet.release("1.1.0", check=False)]
    finally:
        fleet.declare()
    for refused in played:
        assert not refused.ok, refused.output
        assert reason in flat(refused.output), refused.output
        assert "(app1, app2, app3)" in flat(refused.output), refused.output
    assert fleet.ids() == before
    assert fleet.each(declared(fleet)) == was
