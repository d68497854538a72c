"""Whoever asks what a restore would do keeps nobody else waiting."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _service
from ansible_collections.backstay.ops.plugins.module_utils._errors import GateRefused
from ansible_collections.backstay.ops.plugins.module_utils._service import Service
from ansible_collections.backstay.ops.plugins.module_utils._version import PROTOCOL


class House:
    """A service on a socket of its own, with a plan that takes until it is told to end."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = directory / "s"
        self.counted = threading.Event()
        self.refuses = ""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen()
        layout = SimpleNamespace(name="portal", lock=directory / "lock", journal=directory / "journal.jsonl")
        engine: Any = SimpleNamespace(layout=layout, say=print)
        monkeypatch.setattr(_service, "plan", self._plan)
        monkeypatch.setattr(_service, "_IDLE_SECONDS", 20)
        self.service = Service(engine, listener)
        self.serving = threading.Thread(target=self.service.serve, daemon=True)

    def _plan(self, _engine: Any, _request: Any) -> dict[str, Any]:
        if not self.counted.wait(20):
            raise RuntimeError("nobody let the plan end")
        if self.refuses:
            raise GateRefused(self.refuses)
        return {"event": "result", "ok": True, "message": "planned"}

    def ask(self, command: str, **more: Any) -> socket.socket:
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(20)
        peer.connect(str(self.path))
        message = {"protocol": PROTOCOL, "command": command, "request": {"operation": "restore"}, **more}
        peer.sendall(json.dumps(message).encode() + b"\n")
        if self.serving.ident is None:  # like systemd, which starts it when somebody asks: it never ends before that
            self.serving.start()
        return peer


def _answer(peer: socket.socket) -> dict[str, Any]:
    with peer, peer.makefile() as lines:
        return dict(json.loads(lines.readline()))


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    return House(tmp_path, monkeypatch)


def test_while_a_plan_is_made_others_are_answered_and_the_service_does_not_end(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_service, "_IDLE_SECONDS", 0.05)
    planning = house.ask("plan")
    for _time in range(3):  # longer than the service stays without a reason
        assert _answer(house.ask("status"))["ok"], "asked while a plan is made"
        house.serving.join(0.06)
    assert house.serving.is_alive()
    house.counted.set()
    assert _answer(planning)["message"] == "planned"
    house.serving.join(20)
    assert not house.serving.is_alive(), "nothing is open any more"


def test_a_plan_that_is_refused_is_answered_with_the_reason(house: House) -> None:
    house.refuses = "There is no room."
    house.counted.set()
    told = _answer(house.ask("plan"))
    assert (told["ok"], told["message"], told["exit_code"]) == (False, "There is no room.", 3)


@pytest.mark.parametrize("command", ["plan", "begin"])
def test_what_is_declared_with_a_release_must_be_of_the_application_that_is_released(
    house: House, command: str
) -> None:
    house.counted.set()
    told = _answer(house.ask(command, declaration={"application": {"name": "chat"}}))
    assert not told["ok"]
    assert told["message"] == "What was declared with this release is not portal: run it again."
    assert _answer(house.ask("status"))["state"] == "idle", "it holds nothing"
