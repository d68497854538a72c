"""Going forward by name, to a newer release: only onto data that have what it needs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _fleet_host, _runtime
from ansible_collections.backstay.ops.plugins.module_utils._errors import GateRefused
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._plan import plan
from ansible_collections.backstay.ops.plugins.module_utils._transaction import Request

from .host import NAME, CrashEngine, Payloads, Quick, conduct, database, declare, engine_on, play

FORWARD = Request("rollback", by="tests", target="1.1.0")


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CrashEngine:
    """1.0.0, then 1.1.0 with one more migration."""
    play(monkeypatch, tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(_runtime, "Storage", Quick)
    layout, payloads = Layout(NAME, tmp_path / "host"), Payloads(tmp_path / "payloads")
    declare(layout)
    made, _host = engine_on(layout, Quick())
    for version in ("1.0.0", "1.1.0"):
        conduct(made, Request("release", by="tests", version=version, payload=payloads.send(version, layout)))
    return made


def test_after_a_rollback_that_left_the_migrations_a_newer_release_is_gone_to(engine: CrashEngine) -> None:
    conduct(engine, Request("rollback", by="tests"))
    assert conduct(engine, FORWARD).candidate == engine.live() == "0002-1.1.0"


def test_after_its_migrations_were_taken_back_a_newer_release_is_to_be_released_again(engine: CrashEngine) -> None:
    conduct(engine, Request("rollback", by="tests"), operation="reversal")
    assert database(engine.layout) == ["portal.0001"]
    with pytest.raises(GateRefused) as refused:
        conduct(engine, FORWARD)
    assert "not in the database now: portal.0002; 0001-1.0.0 still serves" in refused.value.message
    assert "release 1.1.0 again" in refused.value.message
    assert engine.live() == "0001-1.0.0"
    told = plan(engine, FORWARD)
    assert (told["way_back"], told["release"]) == ("unmigrated", "0002-1.1.0")
    known = engine.history().get("0002-1.1.0")
    assert known is not None
    assert told["payload"] == known.data["payload"], "several hosts compare it, also in check mode"
    assert told["configuration"] == _fleet_host.digest(engine, "0002-1.1.0") != ""
    assert "portal.0002" in told["message"]


def test_who_insists_goes_without_asking_the_database(engine: CrashEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    conduct(engine, Request("rollback", by="tests"), operation="reversal")
    monkeypatch.setattr(engine, "migrations", lambda *_given, **_more: pytest.fail("it may be down"))
    insisting = Request("rollback", by="tests", target="1.1.0", force=True)
    assert conduct(engine, insisting).candidate == engine.live() == "0002-1.1.0"
