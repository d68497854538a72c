"""Promise 2, where a person had closed the door before a transaction did: it owns the data all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._admission import Admission
from ansible_collections.backstay.ops.plugins.module_utils._closed_door import ClosedDoor
from ansible_collections.backstay.ops.plugins.module_utils._journal import Journal
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._lock import Lock
from ansible_collections.backstay.ops.plugins.module_utils._migrations import WayBack
from ansible_collections.backstay.ops.plugins.module_utils._transaction import Request, Transaction

MOVING = Transaction("t1", "portal", "maintenance", "0002-1.1.0", "0001-1.0.0", "1.1.0", "", Request("release"), "now")


class Door(ClosedDoor):
    """Tells what it would start."""

    started: bool = False

    def live(self) -> str | None:
        return "0001-1.0.0"

    def web_unit(self, release: str) -> str:
        return f"portal-{release}-web.service"

    def _units(self, release: str, **_which: Any) -> list[str]:
        return []

    def _start_missing(self, units: Any) -> None:
        self.started = bool(units)


@pytest.fixture
def door(tmp_path: Path) -> Door:
    found = Door(Layout("portal", tmp_path))
    found.layout.state.mkdir(parents=True)
    found.layout.maintenance_flag.parent.mkdir(parents=True, exist_ok=True)
    found.layout.maintenance_flag.write_text("ada, ticket 12\n")
    return found


def test_the_data_are_taken_behind_a_door_that_a_person_closed(door: Door) -> None:
    assert door.do_close(MOVING) == "closed already"
    assert not Lock(door.layout.data_lock).take(), "somebody else could change them"


def test_nothing_is_started_on_data_that_a_transaction_changes(door: Door) -> None:
    door.layout.journal.write_text("nobody\ncan know\n")
    door.serve()
    assert not door.started
    door.layout.journal.unlink()
    journal = Journal(door.layout.journal, door.layout.state, door.storage, lambda: "now")
    journal.write("transaction", "begin", **MOVING.to_dict())
    journal.write("close", "begin")
    door.serve()
    assert not door.started
    journal.write("close", "undone")
    door.serve()
    assert door.started, "maintenance alone stops no process"


@pytest.mark.parametrize(
    ("kind", "asked", "operation"),
    [
        ("reverse", {"reverse": True, "force": True}, "reversal"),
        ("reverse", {"reverse": True}, "reversal"),
        ("reverse", {"force": True}, "rollback"),
        ("code", {"reverse": True, "force": True}, "rollback"),
        ("irreversible", {"force": True}, "rollback"),
    ],
)
def test_force_skips_no_reversal_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, asked: dict[str, Any], operation: str
) -> None:
    monkeypatch.setattr(Admission, "_way_to", lambda *_given: WayBack(kind, "it needs that"))
    found = Admission(Layout("portal", tmp_path))
    nobody: Any = None
    assert found._way_back(Request("rollback", **asked), nobody, "0002-1.1.0", nobody) == operation
