"""The door belongs to one at a time: a person and a transaction that closed it undo each other nothing; and whatever
recovery cannot do, visitors are served by what the link names."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _cli, _runtime, _service
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._service import recover
from ansible_collections.backstay.ops.plugins.module_utils._transaction import Request, Transaction

from .host import NAME, Payloads, Quick, conduct, database, declare, engine_on, play


class Door:
    """A host on which 1.0.0 is live, and somebody at a shell of it."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.layout = Layout(NAME, directory / "host")
        self.flag = self.layout.maintenance_flag
        self.payloads = Payloads(directory / "payloads")
        declare(self.layout)
        self.engine, self.host = engine_on(self.layout, Quick())
        self.release("1.0.0", "release")
        monkeypatch.setattr(_cli, "_engine", lambda _options: engine_on(self.layout, Quick())[0])
        monkeypatch.setattr(_cli, "_who", lambda: "ada")

    def release(self, version: str, operation: str) -> str:
        request = Request("release", by="tests", version=version, payload=self.payloads.send(version, self.layout))
        return conduct(self.engine, request, operation=operation).candidate

    def says(self, switch: str) -> int:
        return _cli.main(["maintenance", switch, NAME])

    def at(self, step: str, act: Callable[[], object]) -> None:
        """Do something while a step is done."""
        work = getattr(self.engine, f"do_{step}")

        def both(transaction: Transaction) -> str:
            act()
            return str(work(transaction))

        self.monkeypatch.setattr(self.engine, f"do_{step}", both)


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Door:
    play(monkeypatch, tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(_runtime, "Storage", Quick)
    return Door(tmp_path, monkeypatch)


@pytest.mark.parametrize("step", ["halt", "migrate", "verify", "confirm"])
def test_nobody_opens_the_door_behind_which_data_change(
    door: Door, step: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[tuple[int, bool]] = []
    door.at(step, lambda: said.append((door.says("off"), door.flag.exists())))
    door.release("1.1.0", "maintenance")
    assert said == [(4, True)]
    assert f"backstay abort {NAME}" in capsys.readouterr().err
    assert not door.flag.exists()
    assert door.says("off") == 0


@pytest.mark.parametrize(
    ("step", "fails"),
    [("halt", False), ("migrate", False), ("confirm", False), ("halt", True), ("migrate", True), ("verify", True)],
)
def test_a_door_that_a_person_wants_closed_stays_closed_after_the_transaction(
    door: Door, step: str, fails: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    def act() -> None:
        assert door.says("on") == 0
        if fails:
            raise BackstayError("it was not to be.")

    door.at(step, act)
    with pytest.raises(BackstayError, match="not to be") if fails else contextlib.nullcontext():
        door.release("1.1.0", "maintenance")
    assert door.flag.read_text() == "ada\n"
    assert "also after the maintenance that is under way" in capsys.readouterr().out
    assert door.says("off") == 0
    assert not door.flag.exists()


@pytest.mark.parametrize("fails", [False, True])
def test_no_worker_runs_on_data_that_may_still_be_put_back(door: Door, fails: bool) -> None:
    """What it wrote to them would be lost."""
    began: list[tuple[str, bool, int]] = []  # who, whether the door was closed, and on how many migrations
    systemctl = door.host._systemctl

    def watched(rest: Sequence[str]) -> tuple[int, str]:
        workers = [word for word in rest if word.endswith("-scheduler.service") and rest[0] == "start"]
        applied = len([row for row in database(door.layout) if row.startswith("portal.")])
        began.extend((unit, door.flag.exists(), applied) for unit in workers if unit not in door.host.running)
        return systemctl(rest)

    def hooks(_transaction: Transaction, when: str, **_given: Any) -> None:
        if fails and when == "after_flip":
            raise BackstayError("it was not to be.")

    door.monkeypatch.setattr(door.host, "_systemctl", watched)
    door.monkeypatch.setattr(door.engine, "run_hooks", hooks)
    with pytest.raises(BackstayError, match="not to be") if fails else contextlib.nullcontext():
        door.release("1.1.0", "maintenance")
    old, new = (door.layout.unit(release, "scheduler") for release in ("0001-1.0.0", "0002-1.1.0"))
    assert began == ([(old, True, 1)] if fails else [(new, False, 2)])
    assert {old, new} & door.host.running == {old if fails else new}


def test_a_release_beside_visitors_takes_no_door_from_anybody(door: Door) -> None:
    assert door.says("on") == 0
    door.at("gate", lambda: door.says("off"))
    door.release("1.1.0", "release")
    assert not door.flag.exists()


DAMAGED = b'{"format":1}\nnothing that could be read\n{}\n'


def test_a_recovery_that_cannot_go_on_runs_what_the_link_names(door: Door) -> None:
    door.host.running.clear()  # the host was off
    door.layout.journal.write_bytes(DAMAGED)
    for _twice in range(2):
        with pytest.raises(BackstayError, match=r"cannot be read at line 1"):
            recover(door.engine)
        assert door.layout.unit("0001-1.0.0", "web") in door.host.running
    assert door.layout.journal.read_bytes() == DAMAGED, "it is evidence"


def test_nothing_runs_behind_a_door_that_a_transaction_has_closed(door: Door) -> None:
    door.host.running.clear()
    door.layout.journal.write_bytes(DAMAGED)
    door.flag.write_text("transaction t-1\n")
    with pytest.raises(BackstayError):
        recover(door.engine)
    assert door.host.running == set()


def test_recovery_at_boot_waits_for_what_comes_up_later(door: Door) -> None:
    """A database that plays back its log after a power cut refuses everybody meanwhile."""
    door.layout.journal.write_bytes(DAMAGED)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        door.layout.journal.unlink()

    door.monkeypatch.setattr(_service.time, "sleep", sleep)
    assert _cli.main(["recover", NAME, "--boot"]) == 0
    assert slept == [_service.RECOVER_PAUSE_SECONDS]


def test_who_types_that_something_be_recovered_is_told_at_once(door: Door) -> None:
    door.layout.journal.write_bytes(DAMAGED)
    door.monkeypatch.setattr(_service.time, "sleep", lambda _seconds: pytest.fail("nobody waits at a shell"))
    assert _cli.main(["recover", NAME]) == 1
