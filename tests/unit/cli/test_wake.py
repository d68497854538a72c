"""Who rolls back is not kept waiting by what is loaded first; nobody else starts a service by asking something."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _wake
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._wake import wake


class Sockets:
    """Sockets of applications, as systemd has them."""

    def __init__(self, room: Path, stack: ExitStack) -> None:
        self.room = str(room)
        self._stack = stack
        self._listeners: dict[str, socket.socket] = {}

    def add(self, name: str) -> None:
        listener = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(f"{self.room}/{name}.sock")
        listener.listen()
        listener.setblocking(False)
        self._listeners[name] = listener

    def woken(self) -> list[str]:
        found = []
        for name, listener in self._listeners.items():
            try:
                listener.accept()[0].close()
            except BlockingIOError:
                continue
            found.append(name)
        return found


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    with TemporaryDirectory() as room, ExitStack() as stack:  # a socket's path may not be as long as pytest's
        (Path(room) / "portal.errors.json").touch()
        yield Sockets(Path(room), stack)


@pytest.mark.parametrize(
    ("applications", "arguments", "woken"),
    [
        (["portal"], ["rollback"], ["portal"]),
        (["portal"], ["rollback", "--to", "0001-1.0.0"], ["portal"]),
        (["portal", "chat"], ["rollback", "--why", "slow", "chat"], ["chat"]),
        (["portal", "chat"], ["rollback"], []),
        (["portal"], ["rollback", "--plan"], []),
        (["portal"], ["status"], []),
        (["portal"], [], []),
    ],
)
def test_only_the_service_that_a_rollback_needs_is_woken(sockets, applications, arguments, woken):
    for name in applications:
        sockets.add(name)
    wake(arguments, sockets.room)
    assert sockets.woken() == woken


def test_what_is_wrong_is_left_to_the_command(sockets):
    Path(sockets.room, "portal.sock").touch()
    wake(["rollback"], sockets.room)
    wake(["rollback"], f"{sockets.room}/absent")


def test_it_knows_where_the_sockets_are():
    assert Path(_wake.ROOM) == Layout("portal").control_socket.parent
