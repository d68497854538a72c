"""Which backfills are still to be run: rows that an older release wrote, or that came back, are old rows again."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _backfill
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._ledger import Entry
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage, canonical

DONE = "2026-11-20T10:00:00.000000Z"
BEFORE, AFTER = "2026-11-20T09:00:00.000000Z", "2026-11-20T11:00:00.000000Z"


def engine(root: Path, *events: tuple[str, str]) -> Any:
    layout, storage = Layout("portal", root), Storage()
    layout.state.mkdir(parents=True)
    storage.write(layout.backfill("floors"), canonical({"batches": 4, "done_at": DONE}), mode=0o600)
    entries = [Entry(number, at, event, "0002-1.1.0") for number, (at, event) in enumerate(events, start=1)]
    return SimpleNamespace(layout=layout, storage=storage, ledger=SimpleNamespace(read=lambda: entries))


@pytest.mark.parametrize(
    ("events", "missing"),
    [
        ([], ["lifts"]),
        ([(BEFORE, "withdrawn"), (AFTER, "live"), (AFTER, "watched")], ["lifts"]),
        ([(AFTER, "withdrawn")], ["floors", "lifts"]),
        ([(AFTER, "restored")], ["floors", "lifts"]),
        ([(BEFORE, "restored"), (AFTER, "returned")], ["floors", "lifts"]),
    ],
    ids=["done", "done since", "an older release served since", "data were restored since", "and taken back"],
)
def test_what_was_done_is_to_be_done_again_when_old_rows_came_since(
    tmp_path: Path, events: list[tuple[str, str]], missing: list[str]
) -> None:
    assert _backfill.missing(engine(tmp_path, *events), {"floors": None, "lifts": None}) == missing
