"""A copy of another environment's data lets nothing out: only its web process runs, with the values that say so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _application, _runtime
from ansible_collections.backstay.ops.plugins.module_utils._backup import Source, backup
from ansible_collections.backstay.ops.plugins.module_utils._environment import compose, parse
from ansible_collections.backstay.ops.plugins.module_utils._errors import GateRefused
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._storage import canonical
from ansible_collections.backstay.ops.plugins.module_utils._transaction import Request

from .host import DECLARED, NAME, Payloads, Quick, conduct, declare, engine_on, live_for_a_while, play

ISOLATED = {"BANNER": "a copy", "SECRET_KEY": "nobody's"}
APPLICATION = _application.from_dict(
    {**DECLARED, "environment": {**DECLARED["environment"], "isolated": ISOLATED}}, file="portal.yml"
)


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    play(monkeypatch, tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(_runtime, "Storage", Quick)
    layout = Layout(NAME, tmp_path / "host")
    declare(layout)
    layout.application_file.write_bytes(canonical(_application.to_dict(APPLICATION)))
    return layout


def test_an_isolated_host_runs_the_web_process_alone_with_values_of_its_own(layout: Layout, tmp_path: Path) -> None:
    layout.isolated.write_text("somebody\n")
    engine, host = engine_on(layout, Quick())
    payload = Payloads(tmp_path / "payloads").send("1.0.0", layout)
    live = conduct(engine, Request("release", by="tests", version="1.0.0", payload=payload)).candidate
    assert host.running == {engine.web_unit(live)}
    found = parse(layout.environment_file(live).read_text(), file="environment")
    assert (found["BANNER"], found["SECRET_KEY"], found["BACKSTAY_ISOLATED"]) == ("a copy", "nobody's", "yes")
    live_for_a_while(layout)
    conduct(engine, Request("restore", by="tests", point="latest"))
    assert host.running == {engine.web_unit(live)}, "after a restore too"
    layout.isolated.unlink()
    ended = conduct(engine, Request("release", by="tests")).candidate
    assert layout.unit(ended, "scheduler") in host.running
    assert parse(layout.environment_file(ended).read_text(), file="environment")["BANNER"] == "hello"


def test_what_is_declared_for_a_copy_is_of_no_effect_anywhere_else() -> None:
    found = compose(APPLICATION, {"SECRET_KEY": "hidden"}, {})
    assert (found["BANNER"], found["SECRET_KEY"]) == ("hello", "hidden")


def test_nothing_is_backed_up_from_a_copy(layout: Layout) -> None:
    layout.isolated.write_text("somebody\n")
    source = Source(layout, APPLICATION, "", "", "", (), {}, now=lambda: "2026-11-21T02:00:00.000Z")
    with pytest.raises(GateRefused, match="its data belong to another"):
        backup(source)
    assert not layout.backups.exists()
