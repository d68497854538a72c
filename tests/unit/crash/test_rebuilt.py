"""A host that is rebuilt has a release before it has data: until they are there nobody is let in and nothing works on
what is to be replaced."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import (
    _backfill,
    _cli,
    _client,
    _rebuild,
    _runtime,
    _schedule,
)
from ansible_collections.backstay.ops.plugins.module_utils import _cli_data as verbs
from ansible_collections.backstay.ops.plugins.module_utils._backup import Source, backup
from ansible_collections.backstay.ops.plugins.module_utils._cells import row
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, GateRefused
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._rebuild import Learnt
from ansible_collections.backstay.ops.plugins.module_utils._service import recover
from ansible_collections.backstay.ops.plugins.module_utils._status import facts, sentence
from ansible_collections.backstay.ops.plugins.module_utils._transaction import Request, Transaction

from .host import NAME, Payloads, Quick, conduct, database, declare, engine_on, live_for_a_while, play
from .test_isolated import APPLICATION


class Fire:
    """A bare host, and the point of another that burned down."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.layout = Layout(NAME, directory / "host")
        declare(self.layout)
        self.engine, self.host = engine_on(self.layout, Quick())
        payload = Payloads(directory / "payloads").send("1.0.0", self.layout)
        self.seen: list[tuple[str, bool, list[str]]] = []  # the operation, whether the door was closed, what ran
        self.told: dict[str, Any] = {}
        monkeypatch.setattr(
            _rebuild,
            "learn",
            lambda *_unused, **_options: Learnt(1, "latest", "0007-1.0.0", "1.0.0", payload, "disk"),
        )
        monkeypatch.setattr(_client, "call", self.call)

    def call(self, layout: Layout, verb: str, *, request: Mapping[str, Any], auto: bool) -> dict[str, Any]:
        wanted = {key: value for key, value in request.items() if key != "repository"}
        done = conduct(self.engine, Request(**wanted))
        self.seen.append((done.operation, self.layout.maintenance_flag.exists(), sorted(self.host.running)))
        if done.operation == "release":
            live_for_a_while(self.layout)
        return {"release": done.candidate}

    def rebuild(self) -> int:
        options = _cli._parser().parse_args(["rebuild", "--offline-key=/key", NAME])
        options.by = "ada"
        return verbs.rebuild(options, self.engine, lambda _options, result, _text: self.told.update(result))


@pytest.fixture
def fire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fire:
    play(monkeypatch, tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(_runtime, "Storage", Quick)
    return Fire(tmp_path, monkeypatch)


def test_nobody_is_let_in_and_nothing_works_until_the_data_are_there(fire: Fire) -> None:
    assert fire.rebuild() == 0
    live = fire.engine.live()
    assert live is not None
    web, scheduler = fire.engine.web_unit(live), fire.layout.unit(live, "scheduler")
    assert fire.seen == [("release", True, [web]), ("restore", False, sorted([scheduler, web]))]
    assert "note: written since" not in database(fire.layout)
    assert not fire.layout.resting()


def test_a_rebuild_that_fails_stays_closed_and_a_restore_goes_on(fire: Fire, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(_unused: Transaction) -> str:
        raise BackstayError("The disk is full.")

    with monkeypatch.context() as broken:
        broken.setattr(fire.engine, "do_swap", dies)
        with pytest.raises(
            BackstayError, match=r"The disk is full. Until .* door stays closed: .*restore --point=latest"
        ):
            fire.rebuild()
    recover(fire.engine)
    live = str(fire.engine.live())
    assert fire.host.running == {fire.engine.web_unit(live)}, "recovery starts no worker either"
    assert fire.layout.maintenance_flag.exists()
    conduct(fire.engine, Request("restore", by="tests", point="latest"))
    assert not fire.layout.maintenance_flag.exists()
    assert fire.layout.unit(live, "scheduler") in fire.host.running


def test_part_of_the_data_opens_no_door(fire: Fire, monkeypatch: pytest.MonkeyPatch) -> None:
    def part(layout: Layout, verb: str, *, request: Mapping[str, Any], auto: bool) -> dict[str, Any]:
        if request["operation"] == "restore":
            request = {**request, "only": ("media:",)}
        return fire.call(layout, verb, request=request, auto=auto)

    monkeypatch.setattr(_client, "call", part)
    assert fire.rebuild() == 0
    assert fire.seen[-1][1:] == (True, [fire.engine.web_unit(str(fire.engine.live()))])
    assert fire.layout.resting()


def test_what_was_closed_by_a_person_stays_closed(fire: Fire) -> None:
    fire.layout.maintenance_flag.write_text("ada\n")
    assert fire.rebuild() == 0
    assert fire.layout.maintenance_flag.read_text() == "ada\n"
    assert not fire.layout.resting()


def test_meanwhile_no_point_is_made_of_nothing_and_nobody_opens_the_door(
    fire: Fire, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fire.layout.rebuilding.write_text(f"backstay restore {NAME}\n")
    fire.layout.maintenance_flag.write_text("rebuild\n")
    source = Source(fire.layout, APPLICATION, "", "", "", (), {}, now=lambda: "2026-11-21T02:00:00.000Z")
    with pytest.raises(GateRefused, match="nothing is backed up until its data are back"):
        backup(source)
    assert verbs._nothing_yet(fire.engine), "a timer that strikes fails nothing"
    monkeypatch.setattr(_cli, "_engine", lambda _options: fire.engine)
    assert _cli.main(["maintenance", "off", NAME]) == 3
    said = " ".join(capsys.readouterr().err.split())
    assert f"would be replaced: run `backstay restore {NAME}`, which opens the door" in said
    assert f"remove {fire.layout.rebuilding}, then run this" in said
    assert fire.layout.maintenance_flag.exists()
    assert fire.layout.resting()
    fire.layout.rebuilding.unlink()
    assert _cli.main(["maintenance", "off", NAME]) == 0, "the way out that was named"
    assert not fire.layout.maintenance_flag.exists()


def test_what_waits_for_its_data_is_never_told_to_open_the_door(fire: Fire, monkeypatch: pytest.MonkeyPatch) -> None:
    """`maintenance off` would let visitors write into what is about to be replaced."""

    def dies(_unused: Transaction) -> str:
        raise BackstayError("The disk is full.")

    monkeypatch.setattr(fire.engine, "do_swap", dies)
    with pytest.raises(BackstayError):
        fire.rebuild()
    found = facts(fire.engine)
    live = found["live"]["id"]
    found["processes"] = {fire.engine.web_unit(live): "active"}
    how = f"backstay restore --point=latest --repository=disk {NAME}"
    assert found["rebuilding"] == how
    asked = row({**found, "look": {}}, now=dt.datetime.now(dt.UTC))
    health = next(cell for cell in asked.cells if cell.name == "health")
    assert (health.state, health.command) == ("yellow", how)
    for said in (sentence(found, asked), health.why):
        assert "still to come" in said
        assert "maintenance off" not in said
    _cli._parser().parse_args(how.split()[1:])
    assert "run it again" in sentence({**found, "live": None}, asked)


def test_a_person_who_wants_a_rebuilt_host_closed_is_heard(fire: Fire, monkeypatch: pytest.MonkeyPatch) -> None:
    """The restore opens the rebuild's own door; whoever says that it stays closed meanwhile finds it so afterwards."""
    monkeypatch.setattr(_cli, "_engine", lambda _options: fire.engine)

    def asks(layout: Layout, verb: str, *, request: Mapping[str, Any], auto: bool) -> dict[str, Any]:
        if request["operation"] == "restore":
            assert _cli.main(["maintenance", "on", NAME]) == 0
        return fire.call(layout, verb, request=request, auto=auto)

    monkeypatch.setattr(_client, "call", asks)
    assert fire.rebuild() == 0
    assert fire.layout.maintenance_flag.exists()
    assert not fire.layout.resting()


def test_the_hourly_question_starts_no_backup_of_what_is_still_to_come(
    fire: Fire, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    monkeypatch.setattr(fire.engine.systemd, "start", lambda units, wait=True: started.extend(units))
    monkeypatch.setattr(_schedule, "passed_over", lambda *_given: True)
    options = _cli._parser().parse_args(["backups", "--catch-up", NAME])
    fire.layout.rebuilding.write_text("latest\n")
    assert verbs.backups(options, fire.engine, lambda *_told: None) == 0
    assert started == []
    fire.layout.rebuilding.unlink()
    assert verbs.backups(options, fire.engine, lambda *_told: None) == 0
    assert started


def test_old_rows_are_changed_when_they_have_come(fire: Fire, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the empty data a backfill would be done at once, and count as done on those that come."""
    waited: list[bool] = []
    monkeypatch.setattr(_backfill, "missing", lambda *_unused: ["floors"])
    monkeypatch.setattr(_backfill, "start", lambda *_unused: waited.append(fire.layout.rebuilding.exists()))
    fire.rebuild()
    assert waited
    assert not any(waited)
