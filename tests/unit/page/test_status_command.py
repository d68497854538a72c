"""`backstay status`: its exit code is the page's, and its JSON keeps what modules read beside what the page needs."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from status_picture import NOW, well

from ansible_collections.backstay.ops.plugins.module_utils import _cells, _cli, _look
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError

ILL: dict[str, dict[str, Any]] = {
    "green": {},
    "yellow": {"jobs": [{"job": "a", "state": "late"}]},
    "red": {"exposure": {"open": [6379]}},
    "blue": {"maintenance_since": "2026-11-21T07:00:00+00:00"},
}


class Looker:
    """Looks at applications that are as their names say."""

    def __init__(self, house: object) -> None:
        self.house = house

    def facts(self, engine: Any) -> dict[str, Any]:
        name = engine.layout.name
        if name == "unknown":
            raise BackstayError("The ledger was changed.")
        found = well(name, "app1")
        live = {**found["live"], "id": "0014-2.3.1"}
        told = {"freeze": None, "warm": None, "maintenance": name == "blue", "live": live}
        return {**found, **told, "look": {**found["look"], **ILL[name]}}

    def row(self, engine: Any, found: dict[str, Any]) -> _cells.Row:
        return _cells.row(found, now=NOW)

    def rows(self) -> list[_cells.Row]:
        engines = [SimpleNamespace(layout=SimpleNamespace(name=name)) for name in _cli.applications()]
        return [self.row(engine, self.facts(engine)) for engine in engines]


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the applications on this host; a test fills the list."""
    names: list[str] = []
    monkeypatch.setattr(_look, "Looker", Looker)
    monkeypatch.setattr(_cli, "applications", lambda: tuple(names))
    monkeypatch.setattr(_cli.os, "geteuid", lambda: 0)
    monkeypatch.setattr(
        _cli, "_engine", lambda options: SimpleNamespace(layout=SimpleNamespace(name=options.application))
    )
    return names


@pytest.mark.parametrize(("name", "code"), [("green", 0), ("yellow", 1), ("blue", 1), ("red", 2), ("unknown", 3)])
def test_the_exit_code_is_the_colour(
    declared: list[str], capsys: pytest.CaptureFixture[str], name: str, code: int
) -> None:
    declared.append(name)
    assert _cli.main(["status", "--json", name]) == code
    assert json.loads(capsys.readouterr().out)["exit_code"] == code


@pytest.mark.parametrize(("names", "code"), [(["green", "yellow"], 1), (["red", "green"], 2), (["yellow", "blue"], 1)])
def test_of_several_applications_the_worst_counts(
    declared: list[str], capsys: pytest.CaptureFixture[str], names: list[str], code: int
) -> None:
    declared.extend(names)
    assert _cli.main(["status"]) == code
    capsys.readouterr()
    assert _cli.main(["status", "--json"]) == code
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["application"] for each in told] == names, "one object a line for each application"


def test_the_json_has_the_row_beside_the_facts(declared: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    declared.append("yellow")
    _cli.main(["status", "--json", "yellow"])
    told = json.loads(capsys.readouterr().out)
    assert {"live", "backup", "processes", "verdict", "exit_code"} <= set(told)
    assert {"state", "why", "cells", "events", "series", "observed_at"} <= set(told)
    assert told["verdict"] == "jobs: a: is late"
    assert _cells.from_dict(told).state == "yellow", "the page of many hosts is made of this"


def test_the_text_begins_with_the_verdict(declared: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    declared.append("red")
    _cli.main(["status", "red"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "red: act now: exposure: Redis listens to the world on 6379"
    assert "  act now! exposure: Redis listens to the world on 6379; ss -lntp" in lines
    assert len(lines) <= 20


def test_several_applications_are_one_text_of_at_most_twenty_lines(
    declared: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    declared.extend(["green", "red", "yellow"])
    _cli.main(["status"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ACT NOW: 1 of 3 needs somebody now"
    assert "exposure: Redis listens to the world on 6379; ss -lntp" in lines[1]
    assert [line.split("@")[0].split()[-1] for line in lines[-3:]] == ["red", "yellow", "green"], "the worst first"
    declared.extend(["green"] * 30)
    _cli.main(["status"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 20, lines
    assert lines[-1].startswith("  and "), lines
