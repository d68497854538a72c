"""Whoever asks what would be done keeps nobody else waiting, and hears of what was brought with the question."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _application, _declare, _runtime, _service
from ansible_collections.backstay.ops.plugins.module_utils._errors import GateRefused
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._service import Service
from ansible_collections.backstay.ops.plugins.module_utils._storage import canonical
from ansible_collections.backstay.ops.plugins.module_utils._transaction import Request
from ansible_collections.backstay.ops.plugins.module_utils._version import PROTOCOL

from ..crash.host import DECLARED, NAME, Payloads, Quick, conduct, declare, engine_on, play


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


def _asked(service: Service, message: dict[str, Any]) -> list[dict[str, Any]]:
    """Everything that the service answers to one message, before it ends by itself."""
    asking, answering = socket.socketpair()
    with asking:
        asking.settimeout(20)
        service._plan(_service._Peer(answering), message)
        with asking.makefile() as lines:
            return [json.loads(line) for line in lines]


def test_a_plan_is_made_as_if_what_comes_with_it_were_declared_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(monkeypatch, tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(_runtime, "Storage", Quick)
    layout = Layout(NAME, tmp_path / "host")
    declare(layout)
    engine, _host = engine_on(layout, Quick())
    payload = Payloads(tmp_path / "payloads").send("1.0.0", layout)
    live = conduct(engine, Request("release", by="tests", version="1.0.0", payload=payload)).candidate
    service = Service(engine, socket.socket(socket.AF_UNIX))

    def plan_with(banner: str) -> dict[str, Any]:
        environment = {**DECLARED["environment"], "values": {"BANNER": banner}}
        application = _application.from_dict({**DECLARED, "environment": environment}, file="portal.yml")
        files = {layout.application_file: canonical(_application.to_dict(application))}
        declared = SimpleNamespace(desired=SimpleNamespace(files=files), diff=lambda _planned: [], remarks=())
        monkeypatch.setattr(_declare, "declare", lambda *_unused, **_options: (declared, SimpleNamespace(changed=True)))
        message = {"request": {"operation": "release", "by": "tests"}, "declaration": {"application": {"name": NAME}}}
        return _asked(service, message)[-1]

    before = layout.application_file.read_bytes()
    told = plan_with("good evening")
    assert told["changed"], told["message"]
    assert told["message"].endswith(f"(the same payload, the configuration declared now); live is {live}.")
    assert layout.application_file.read_bytes() == before, "a plan writes nothing"
    same = plan_with("hello")
    assert not same["changed"], "nothing differs from what is live"
    assert same["configuration"] != told["configuration"] != "", "hosts are compared by it in check mode too"
