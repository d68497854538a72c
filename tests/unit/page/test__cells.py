"""Facts become colours: each cell, each rule, and what all rows come to."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import status_picture
from status_picture import NOW, ago, well

from ansible_collections.backstay.ops.plugins.module_utils import _cells
from ansible_collections.backstay.ops.plugins.module_utils._cells import Cell, Limits, Row, needs, row, verdict

DAY = 86400
HERE = {"id": "0014-2.3.1", "version": "2.3.1"}


def facts(look: Mapping[str, Any] | None = None, **changed: Any) -> dict[str, Any]:
    found = well("portal", "app1")
    return {**found, **changed, "look": {**found["look"], **(look or {})}}


def cell(name: str, look: Mapping[str, Any] | None = None, **changed: Any) -> Cell:
    found = row(facts(look, **changed), now=NOW)
    return next(each for each in found.cells if each.name == name)


def changed(part: str, **values: Any) -> dict[str, Any]:
    return {part: {**well("portal", "app1")["look"][part], **values}}


def test_all_well_is_green_in_every_cell() -> None:
    found = row(facts(), now=NOW)
    assert {each.name: each.state for each in found.cells if each.state != "green"} == {}
    assert (found.state, found.why) == ("green", "")
    assert verdict([found]).exit_code == 0


def test_every_cell_says_what_was_seen_when_by_whom_and_what_would_be_well() -> None:
    for each in row(facts(), now=NOW).cells:
        assert each.value, each
        assert each.threshold, each
        assert each.observed_at, each
        assert each.max_age_seconds > 0, each
        assert each.source, each


FULL = {"path": "/srv", "used_ratio": 0.5, "inodes_ratio": 0.1, "full_seconds": None}
TABLE: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    # cell, colour, what the look found, what else status says
    ("host", "green", changed("host", memory_ratio=0.79), {}),
    ("host", "yellow", changed("host", memory_ratio=0.81), {}),
    ("host", "yellow", changed("host", cpu_ratio=0.9), {}),
    ("host", "yellow", changed("host", failed_units=["cron.service"]), {}),
    ("host", "red", changed("host", memory_ratio=0.96), {}),
    ("host", "yellow", changed("host", page_at=ago(minutes=16)), {}),
    ("host", "green", changed("host", page_at=ago(minutes=14)), {}),
    ("release", "red", {}, {"live": None}),
    ("release", "blue", {}, {"live": {**HERE, "since": ago(hours=23)}}),
    ("release", "green", {}, {"live": {**HERE, "since": ago(hours=25)}}),
    ("release", "yellow", {}, {"configuration_changed": True}),
    ("release", "yellow", {}, {"rollback_target": None}),
    ("release", "yellow", {}, {"watched": {"new_errors": [{"sentence": "KeyError"}], "before": "x", "until": "y"}}),
    ("release", "yellow", {"transaction_since": ago(minutes=1)}, {"transaction_open": True}),
    ("release", "red", {"transaction_since": ago(hours=2)}, {"transaction_open": True}),
    ("release", "red", {}, {"last_failed": {"id": "0015-2.4.0", "since": ago(hours=2), "reason": "it died"}}),
    ("release", "yellow", {}, {"last_failed": {"id": "0015-2.4.0", "since": ago(hours=30), "reason": "it died"}}),
    ("release", "green", {}, {"last_failed": {"id": "0012-2.2.9", "since": ago(days=30), "reason": "it died"}}),
    ("health", "yellow", changed("probe", ok=False, failures=1, reason="503"), {}),
    ("health", "yellow", changed("probe", ok=False, failures=2, for_seconds=60, reason="503"), {}),
    ("health", "red", changed("probe", ok=False, failures=3, reason="503"), {}),
    ("health", "red", changed("probe", ok=False, failures=2, for_seconds=120, reason="503"), {}),
    ("health", "yellow", changed("traffic", p95_seconds=2.5), {}),
    ("health", "red", {"outside": {"ok": False, "failures": 3, "reason": "no answer", "at": ago(seconds=9)}}, {}),
    ("health", "red", {}, {"processes": {"portal-0014-2.3.1-web.service": "failed"}}),
    ("health", "red", {}, {"processes": {}}),
    ("health", "red", {}, {"live": None}),
    ("health", "blue", {"maintenance_since": ago(hours=1)}, {"maintenance": True}),
    ("health", "yellow", {"maintenance_since": ago(hours=5)}, {"maintenance": True}),
    ("health", "grey", {"probe": None}, {}),
    ("objective", "yellow", changed("traffic", budget_left=0.25), {}),
    ("objective", "green", changed("traffic", budget_left=0.26), {}),
    ("objective", "red", changed("traffic", budget_left=0.0), {}),
    ("objective", "red", changed("traffic", burn="page"), {}),
    ("objective", "yellow", changed("traffic", burn="ticket"), {}),
    ("objective", "yellow", changed("traffic", error_ratio=0.02), {}),
    ("objective", "grey", {"traffic": None}, {}),
    ("objective", "grey", changed("traffic", budget_at=ago(minutes=76)), {}),
    ("objective", "red", changed("traffic", budget_at=ago(minutes=76), burn="page"), {}),
    ("objective", "green", changed("traffic", requests=0, p95_seconds=None), {}),
    ("certificate", "yellow", changed("certificate", not_before=ago(days=60), not_after=ago(days=-29)), {}),
    ("certificate", "red", changed("certificate", not_before=ago(days=84), not_after=ago(days=-6)), {}),
    ("certificate", "red", changed("certificate", not_before=ago(days=2), not_after=ago(days=-3)), {}),
    ("certificate", "red", changed("certificate", not_after=ago(days=1)), {}),
    ("certificate", "red", changed("certificate", is_for=False, domain="portal.test"), {}),
    ("certificate", "red", {"certificate": {"problem": "it is no certificate", "at": ago(seconds=1)}}, {}),
    ("certificate", "grey", {"certificate": None}, {}),
    ("disk", "yellow", {"mounts": [{**FULL, "used_ratio": 0.80}]}, {}),
    ("disk", "green", {"mounts": [{**FULL, "used_ratio": 0.79}]}, {}),
    ("disk", "red", {"mounts": [FULL, {**FULL, "used_ratio": 0.95}]}, {}),
    ("disk", "red", {"mounts": [{**FULL, "inodes_ratio": 0.96}]}, {}),
    ("disk", "yellow", {"mounts": [{**FULL, "full_seconds": 14.0 * DAY}]}, {}),
    ("disk", "green", {"mounts": [{**FULL, "full_seconds": 15.0 * DAY}]}, {}),
    ("disk", "red", {"mounts": [{**FULL, "full_seconds": 3600.0}]}, {}),
    ("updates", "yellow", changed("updates", security=2, oldest_seconds=8.0 * DAY), {}),
    ("updates", "green", changed("updates", security=2, oldest_seconds=6.0 * DAY), {}),
    ("updates", "red", changed("updates", security=2, oldest_seconds=31.0 * DAY), {}),
    ("updates", "yellow", changed("updates", reboot_required=True), {}),
    ("updates", "red", changed("updates", supported_until=ago(days=1)), {}),
    ("updates", "grey", changed("updates", security=None, problem="the lists are old"), {}),
    ("updates", "red", changed("updates", security=None, problem="x", supported_until=ago(days=1)), {}),
    ("updates", "yellow", changed("updates", security=None, problem="x", reboot_required=True), {}),
    ("updates", "yellow", changed("updates", at=ago(days=3), reboot_required=True), {}),
    ("updates", "grey", changed("updates", at=ago(days=3)), {}),
    ("jobs", "yellow", {"jobs": [{"job": "a", "state": "late"}, {"job": "b", "state": "ok"}]}, {}),
    ("jobs", "red", {"jobs": [{"job": "a", "state": "missing"}]}, {}),
    ("jobs", "red", {"jobs": [{"job": "a", "state": "failed"}]}, {}),
    ("jobs", "red", {"jobs": [{"job": "a", "state": "never"}]}, {}),
    ("jobs", "green", {"jobs": [{"job": "a", "state": "running"}]}, {}),
    ("jobs", "green", {"jobs": []}, {}),
    ("jobs", "grey", {"jobs": None}, {}),
    ("exposure", "red", {"exposure": {"open": [22, 443, 6379]}}, {}),
    ("exposure", "yellow", {"exposure": {"open": [22, 8080]}}, {}),
    ("exposure", "green", {"exposure": {"open": [22, 8080], "declared": [22, 8080]}}, {}),
    ("alerts", "yellow", changed("alerts", heartbeat_at=ago(minutes=6)), {}),
    ("alerts", "red", changed("alerts", heartbeat_at=ago(minutes=11)), {}),
    ("alerts", "red", changed("alerts", heartbeat_at=None), {}),
    ("alerts", "red", changed("alerts", tested_at=None), {}),
    ("alerts", "yellow", changed("alerts", tested_at=ago(days=9)), {}),
    ("alerts", "red", changed("alerts", routes=[]), {}),
    ("alerts", "red", changed("alerts", stuck="mail cannot be reached"), {}),
    ("alerts", "grey", {"alerts": None}, {}),
]


@pytest.mark.parametrize(
    ("name", "state", "look", "said"), TABLE, ids=[f"{n}-{s}-{i}" for i, (n, s, *_) in enumerate(TABLE)]
)
def test_the_table(name: str, state: str, look: dict[str, Any], said: dict[str, Any]) -> None:
    found = cell(name, look, **said)
    assert found.state == state, found
    assert found.why or state == "green", "what is not well says why"


@pytest.mark.parametrize(
    ("values", "command"),
    [
        ({"reboot_required": True}, "systemctl reboot"),
        ({"security": 2, "oldest_seconds": 8.0 * DAY, "reboot_required": True}, "apt-get update && apt-get upgrade"),
        ({"supported_until": ago(days=-60)}, ""),
        ({"supported_until": ago(days=1)}, ""),
    ],
)
def test_nobody_is_told_to_restart_a_host_that_a_restart_does_not_mend(values: dict[str, Any], command: str) -> None:
    found = cell("updates", changed("updates", **values))
    assert found.why
    assert found.command == command


# --- exposure: ports, the unit's score, warnings, default passwords

WARNED = {"id": "security.W004", "said": "You have not set SECURE_HSTS_SECONDS", "new": True}


def exposed(**values: Any) -> Cell:
    """The cell where all four are known and well, but for these."""
    return cell("exposure", changed("exposure", **values))


def scored(score: float) -> dict[str, Any]:
    return {"unit": {"name": "portal-0014-2.3.1-web.service", "score": score}}


def accounts(*weak: str, tried: int = 4) -> dict[str, Any]:
    return {"accounts": {"at": ago(hours=1), "of": 4, "tried": tried, "weak": list(weak)}}


@pytest.mark.parametrize(
    ("state", "values", "why", "command"),
    [
        ("green", {}, "", ""),
        ("green", scored(3.0), "", ""),
        (
            "yellow",
            scored(3.1),
            "systemd rates the exposure of its web unit 3.1",
            "systemd-analyze security portal-0014-2.3.1-web.service",
        ),
        ("green", {"warnings": [{**WARNED, "new": False}]}, "", ""),
        (
            "yellow",
            {"warnings": [{**WARNED, "id": "security.W001", "new": False}, WARNED, WARNED]},
            "check --deploy has 2 new warnings, such as security.W004: You have not set SECURE_HSTS_SECONDS",
            "backstay run -a portal python manage.py check --deploy",
        ),
        (
            "red",
            accounts("ada"),
            "the account ada has a default password",
            "backstay run -a portal python manage.py changepassword ada",
        ),
        (
            "red",
            accounts("-ada; reboot", "root"),
            "the account -ada; reboot and 1 more have a default password",
            "backstay run -a portal python manage.py changepassword -- '-ada; reboot'",
        ),
        (
            "red",
            {"weak_secrets": ["DB_PASSWORD"]},
            "DB_PASSWORD has a default value: change backstay_secrets['portal']['DB_PASSWORD'] and release",
            "ansible-vault edit inventories/mine/group_vars/app_servers/vault.yml",
        ),
    ],
)
def test_each_of_the_four_rules_has_its_colour_its_reason_and_what_to_type(
    state: str, values: dict[str, Any], why: str, command: str
) -> None:
    found = exposed(**values)
    assert (found.state, found.why, found.command) == (state, why, command)
    assert found.threshold == "only 22 80 443, unit ≤ 3.0"


def test_what_is_well_is_said_in_a_few_words() -> None:
    assert exposed().value == "22 80 443 open, unit 1.4"
    assert exposed(warnings=[{**WARNED, "new": False}] * 2).value == "22 80 443 open, unit 1.4, 2 warnings"


def test_the_worst_comes_first_and_gives_the_colour_and_the_command() -> None:
    found = exposed(open=[22, 6379, 8080], warnings=[WARNED], **scored(9.6), **accounts("ada"))
    assert found.state == "red"
    assert [each.partition(" ")[0] for each in found.why.split("; ")] == ["the", "Redis", "not", "systemd", "check"]
    assert found.command.endswith("changepassword ada")
    assert exposed(open=[22, 6379], warnings=[WARNED]).command == "ss -lntp"


@pytest.mark.parametrize(
    ("values", "unknown", "why"),
    [
        ({"unit": None, "unknown": {"unit": "it is away"}}, "unit", "the unit is not known: it is away"),
        ({"warnings": None}, "warnings", "the warnings are not known: nobody looked"),
        (
            {**accounts(tried=3), "unknown": {"accounts": "3 of 4 were tried"}},
            "accounts",
            "the accounts are not known: 3 of 4 were tried",
        ),
        (
            {"unit": None, "accounts": None},
            "unit and accounts",
            "the unit is not known: nobody looked; the accounts are not known: nobody looked",
        ),
    ],
)
def test_what_nobody_knows_is_named_and_the_colour_is_that_of_the_rest(
    values: dict[str, Any], unknown: str, why: str
) -> None:
    found = exposed(**values)
    assert (found.state, found.why) == ("green", why)
    assert found.value.endswith(f"{unknown} unknown")
    assert exposed(**{**values, "open": [8080]}).state == "yellow"
    assert exposed(**{**values, "weak_secrets": ["A"]}).state == "red"


def test_without_the_ports_the_cell_is_never_green() -> None:
    found = exposed(open=None)
    assert (found.state, found.why) == ("grey", "the ports are not known: nobody looked")
    assert exposed(open=None, weak_secrets=["A"]).state == "red"


def test_where_nothing_is_live_only_ports_are_looked_at() -> None:
    found = cell("exposure", {"exposure": {"open": [22], "weak_secrets": []}}, live=None)
    assert (found.state, found.value, found.why) == ("green", "22 open", "")


def backup(**values: Any) -> dict[str, Any]:
    known: dict[str, Any] = well("portal", "app1")["backup"]
    newest = {**known["newest"], **values.pop("newest", {})}
    return {"backup": {**known, "newest": newest, **values}}


@pytest.mark.parametrize(
    ("state", "look", "said"),
    [
        ("red", {}, {"backup": {"newest": None, "problems": ["there is no restore point"], "repositories": {}}}),
        ("green", {}, backup(newest={"at": ago(hours=26)})),
        ("yellow", {}, backup(newest={"at": ago(hours=27)})),
        ("red", {}, backup(newest={"at": ago(hours=53)})),
        ("yellow", changed("backup", failures=1), {}),
        ("red", changed("backup", failures=2), {}),
        ("yellow", {}, backup(newest={"size_bytes": 200_000_000})),
        ("yellow", {}, backup(newest={"repositories": ["disk"]})),
        ("yellow", {}, backup(problems=["the newest restore point is dated 2027-01-01, which is to come"])),
        ("green", {}, backup(problems=["no restore point was ever restored and compared"])),
        ("yellow", {}, backup(problems=["in 97 h nothing in the repository bucket was proven (L4), allowed are 78 h"])),
        ("grey", {}, {"backup": None}),
    ],
)
def test_backups(state: str, look: dict[str, Any], said: dict[str, Any]) -> None:
    assert cell("backup", look, **said).state == state


@pytest.mark.parametrize(
    ("state", "look", "said"),
    [
        ("red", {}, backup(last_proven=None)),
        ("yellow", {}, backup(last_proven={"proven_at": ago(hours=27), "proof_seconds": 3.0})),
        ("red", {}, backup(last_proven={"proven_at": ago(days=46), "proof_seconds": 3.0})),
        ("green", changed("backup", proof_max_age_seconds=35 * DAY), backup(last_proven={"proven_at": ago(days=34)})),
        ("red", changed("backup", refuted="a row is missing"), {}),
        ("grey", {}, {"backup": None}),
    ],
)
def test_proven_restores(state: str, look: dict[str, Any], said: dict[str, Any]) -> None:
    assert cell("restore", look, **said).state == state


def test_a_restore_that_takes_longer_than_it_may_is_told() -> None:
    found = row(facts(), now=NOW, limits=Limits(recovery_seconds=30.0))
    assert found.cells[5].state == "yellow", found.cells[5]


def test_thresholds_are_those_of_the_application_and_are_shown() -> None:
    found = row(facts(), now=NOW, limits=Limits(used_ratio=0.5)).cells[7]
    assert (found.name, found.state) == ("disk", "yellow")
    assert "< 50 %" in found.threshold


def test_what_was_seen_too_long_ago_is_grey_and_never_green() -> None:
    late = changed("traffic", at=ago(minutes=11))
    found = cell("objective", late)
    assert (found.state, found.was) == ("grey", "green")
    assert "11 min ago" in found.why
    assert row(facts(late), now=NOW).state == "yellow"


@pytest.mark.parametrize(("minutes", "state"), [(3, "yellow"), (5, "red")])
def test_health_that_stays_unknown_becomes_red(minutes: int, state: str) -> None:
    found = row(facts(changed("probe", at=ago(minutes=minutes))), now=NOW)
    assert found.cells[2].state == "grey"
    assert found.state == state


def test_a_row_looked_at_later_has_grown_old() -> None:
    fresh = row(facts(), now=NOW)
    assert _cells.refreshed(fresh, NOW + dt.timedelta(seconds=30)).state == "green"
    old = _cells.refreshed(fresh, NOW + dt.timedelta(hours=1))
    assert old.state == "red"
    assert old.cells[2].state == "grey"


def test_not_watched_is_grey_and_makes_the_row_yellow_not_red() -> None:
    found = row(facts({"jobs": None, "alerts": None}), now=NOW)
    assert found.state == "yellow"
    assert verdict([found]).exit_code == 1


def test_declared_maintenance_makes_the_row_blue_whatever_else_is_so() -> None:
    found = row(facts({"maintenance_since": ago(hours=1), "jobs": None}, maintenance=True), now=NOW)
    assert (found.state, verdict([found]).exit_code) == ("blue", 1)


def test_a_release_in_its_first_day_leaves_the_row_green() -> None:
    found = row(facts(live={**HERE, "since": ago(hours=1)}), now=NOW)
    assert found.cells[1].state == "blue"
    assert found.state == "green"


def test_red_is_left_after_two_good_looks() -> None:
    bad = row(facts(changed("probe", ok=False, failures=3, reason="503")), now=NOW)
    once = row(facts(), now=NOW + dt.timedelta(minutes=1), memory=bad.memory)
    assert once.cells[2].state == "red"
    assert once.cells[2].since == NOW.isoformat(timespec="seconds")
    twice = row(facts(), now=NOW + dt.timedelta(minutes=1), memory=once.memory)
    assert twice.cells[2].state == "green"


@pytest.mark.parametrize(
    ("well_at", "state"),
    [(None, "red"), (ago(minutes=1), "red"), ((NOW + dt.timedelta(seconds=50)).isoformat(), "green")],
    ids=["nobody looked", "it was well before", "it was well since"],
)
def test_the_observers_newest_sample_is_a_good_look_too(well_at: str | None, state: str) -> None:
    bad = row(facts(changed("probe", ok=False, failures=3, reason="503")), now=NOW)
    look = {"well_at": {"health": well_at}} if well_at else {}
    found = row(facts(look), now=NOW + dt.timedelta(seconds=55), memory=bad.memory)
    assert found.cells[2].state == state


def test_maintenance_says_since_when_and_that_nobody_said_until_when() -> None:
    found = cell("health", {"maintenance_since": ago(minutes=25)}, maintenance=True)
    assert (found.since, found.why) == (ago(minutes=25), "maintenance is on for 25 min, no end was declared")
    assert found.threshold == "to be looked at after 4 h"
    assert cell("health", maintenance=True).why == "maintenance is on, no end was declared"


def test_what_is_written_down_leaves_red_at_once() -> None:
    never = row(facts(backup={"newest": None, "problems": ["none"], "repositories": {}}), now=NOW)
    assert row(facts(), now=NOW, memory=never.memory).cells[4].state == "green"


def test_since_is_when_the_colour_began() -> None:
    full = {"mounts": [{**FULL, "used_ratio": 0.9}]}
    first = row(facts(full), now=NOW - dt.timedelta(hours=2))
    second = row(facts(full), now=NOW, memory=first.memory)
    assert second.cells[7].since == ago(hours=2)


@pytest.mark.parametrize(
    ("severity", "before", "after"),
    [("page", "green", "red"), ("warn", "green", "yellow"), ("advice", "green", "green"), ("warn", "red", "red")],
)
def test_what_people_were_told_of_is_on_the_page_until_it_is_over(severity: str, before: str, after: str) -> None:
    look: dict[str, Any] = {} if before == "green" else changed("traffic", budget_left=0.0, burning="page")
    assert cell("objective", look).state == before
    told = {"cell": "objective", "severity": severity, "sentence": "portal takes 1.31 s for an answer", "command": "x"}
    found = row(facts({**look, "incidents": [told]}), now=NOW)
    mine = next(each for each in found.cells if each.name == "objective")
    assert mine.state == after
    assert (mine.why == told["sentence"]) is (before != after)
    assert all(each.state == "green" for each in found.cells if each.name != "objective")


def test_a_declared_maintenance_stays_planned_though_it_was_told_before_that_nobody_is_answered() -> None:
    told = {"cell": "health", "severity": "page", "sentence": "portal is not well", "command": "x"}
    look = {"incidents": [told], "maintenance_since": ago(minutes=5)}
    assert cell("health", look, maintenance=True).state == "blue"
    assert cell("health", look).state == "red"


def test_acknowledged_keeps_its_colour() -> None:
    look = {"mounts": [{**FULL, "used_ratio": 0.99}], "acknowledged": {"disk": {"by": "ada", "until": "2026-11-22"}}}
    found = row(facts(look), now=NOW)
    assert (found.cells[7].state, found.state) == ("red", "red")
    assert found.cells[7].acknowledged == {"by": "ada", "until": "2026-11-22"}


def test_a_silent_host_is_unknown_then_red_and_its_cells_are_grey_because_of_it() -> None:
    first = _cells.unreachable("app9", "portal", "No route to host", now=NOW)
    assert (first.state, verdict([first]).exit_code) == ("grey", 3)
    assert {each.state for each in first.cells[1:]} == {"grey"}
    assert all("because app9" in each.why for each in first.cells[1:])
    again = _cells.unreachable("app9", "portal", "No route to host", now=NOW, looks=2)
    assert (again.state, verdict([again]).exit_code) == ("red", 2)
    assert _cells.unreachable("app9", "portal", "x", now=NOW, last_seen=ago(minutes=5)).state == "red"


def test_facts_that_cannot_be_read_are_red() -> None:
    found = _cells.broken("app1", "portal", "The ledger was changed.", now=NOW)
    assert (found.state, verdict([found]).exit_code) == ("red", 2)


def coloured(*states: str) -> list[Row]:
    base = row(facts(), now=NOW)
    return [replace(base, state=state, host=f"app{place}") for place, state in enumerate(states)]  # type: ignore[arg-type]  # any colour


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["green", "green"], 0),
        (["green", "yellow"], 1),
        (["blue", "green"], 1),
        (["yellow", "grey"], 3),
        (["grey", "red", "green"], 2),
        ([], 3),
    ],
)
def test_the_verdict_is_the_worst_row(states: list[str], code: int) -> None:
    assert verdict(coloured(*states)).exit_code == code


def test_the_verdict_counts() -> None:
    found = verdict(coloured("red", "red", "green"))
    assert "2 of 3 need somebody now" in found.sentence
    assert found.counts == {"red": 2, "grey": 0, "yellow": 0, "blue": 0, "green": 1}


def test_at_most_five_need_you_the_most_urgent_first_each_with_a_command_and_a_runbook() -> None:
    look = {
        **changed("probe", ok=False, failures=9, reason="503"),
        "mounts": [{**FULL, "used_ratio": 0.99}],
        "jobs": [{"job": "a", "state": "late"}],
        "exposure": {"open": [8080]},
        "alerts": None,
        **changed("traffic", burn="ticket"),
    }
    bad = row(
        facts(look, backup={"newest": None, "problems": ["there is no restore point"], "repositories": {}}), now=NOW
    )
    told = needs([bad])
    assert [each["cell"] for each in told] == ["health", "disk", "backup", "restore", "objective"]
    assert all(each["command"] and each["runbook"] and each["evidence"] for each in told), told


def test_the_same_need_on_many_hosts_is_one() -> None:
    full = {"mounts": [{**FULL, "used_ratio": 0.9}]}
    told = needs([row(facts(full), now=NOW, host=f"app{number}") for number in range(30)])
    assert len(told) == 1
    assert told[0]["where"] == "portal@app0 and 29 more"


def test_a_silent_host_needs_somebody_once_not_for_each_cell() -> None:
    assert len(needs([_cells.unreachable("app9", "portal", "No route", now=NOW)])) == 1


def test_what_is_acknowledged_comes_last() -> None:
    look = {
        "mounts": [{**FULL, "used_ratio": 0.99}],
        "acknowledged": {"disk": {"by": "ada", "until": "x"}},
        "jobs": [{"job": "a", "state": "late"}],
    }
    assert [each["cell"] for each in needs([row(facts(look), now=NOW)])] == ["jobs", "disk"]


def test_a_row_survives_its_json() -> None:
    for each in status_picture.fleet():
        again = _cells.from_dict(each.to_dict())
        assert again.to_dict() == each.to_dict()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.031, "31 ms"), (1.25, "1.2 s"), (40, "40 s"), (180, "3 min"), (7300, "2 h"), (3 * DAY, "3 d")],
)
def test_durations_are_spoken(seconds: float, said: str) -> None:
    assert _cells.spoken(seconds) == said


@pytest.mark.parametrize(
    ("ratio", "said"),
    [(0, "0 %"), (0.001, "0.1 %"), (0.0004, "0.04 %"), (0.46, "46 %"), (0.999, "99.9 %"), (1, "100 %")],
)
def test_ratios_are_spoken(ratio: float, said: str) -> None:
    assert _cells.percent(ratio) == said


def test_every_runbook_that_a_need_names_is_there() -> None:
    there = {path.name for path in (Path(__file__).parents[3] / "docs" / "runbooks").glob("*.md")}
    assert sorted(set(_cells.RUNBOOKS.values()) - there) == []
