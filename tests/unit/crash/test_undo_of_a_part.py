"""Undoing a restore of some media, by the very steps that the service does: nothing else goes back with them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _generations as generations
from ansible_collections.backstay.ops.plugins.module_utils import _runtime
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._transaction import Request, Transaction

from .host import (
    LIVE_MEDIA,
    NAME,
    POINT_MEDIA,
    CrashEngine,
    Payloads,
    Quick,
    conduct,
    database,
    declare,
    engine_on,
    live_for_a_while,
    media,
    play,
)

WRITTEN = "note: written after the restore"
UNDO = Request("restore", by="tests", point="latest", undo=True)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CrashEngine:
    """Of the media those of 2026 were restored, and visitors have written since."""
    play(monkeypatch, tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(_runtime, "Storage", Quick)
    layout = Layout(NAME, tmp_path / "host")
    declare(layout)
    found, _host = engine_on(layout, Quick())
    for version in ("1.0.0", "1.1.0"):
        payload = Payloads(tmp_path / "payloads").send(version, layout)
        conduct(found, Request("release", by="tests", version=version, payload=payload))
    live_for_a_while(layout)
    conduct(found, Request("restore", by="tests", point="latest", only=("media:2026",)))
    assert media(layout)["2026/b.jpg"] == POINT_MEDIA["2026/b.jpg"]
    database(layout, [*database(layout), WRITTEN])
    return found


def test_what_visitors_wrote_since_stays_when_media_alone_go_back(engine: CrashEngine) -> None:
    before = database(engine.layout)
    conduct(engine, UNDO)
    assert generations.live(engine.layout) == "0001"
    assert media(engine.layout) == LIVE_MEDIA
    assert database(engine.layout) == before
    conduct(engine, UNDO)
    assert (generations.live(engine.layout), database(engine.layout)) == ("0002", before)


def test_it_stays_too_where_the_way_back_breaks_off(engine: CrashEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(_unused: Transaction) -> str:
        raise BackstayError("It does not answer.")

    before, had = database(engine.layout), media(engine.layout)
    with monkeypatch.context() as broken:
        broken.setattr(engine, "do_verify", dies)
        with pytest.raises(BackstayError, match="It does not answer"):
            conduct(engine, UNDO)
    assert (generations.live(engine.layout), database(engine.layout)) == ("0002", before)
    assert media(engine.layout) == had
    conduct(engine, UNDO)
    assert database(engine.layout) == before
