"""The client of the transaction's service: one JSON line there, a stream of events back."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

from ._errors import BackstayError
from ._layout import Layout
from ._version import PROTOCOL

Event = dict[str, Any]


def _lines(connection: socket.socket) -> Iterator[bytes]:
    buffer = b""
    while True:
        data = connection.recv(65536)
        if not data:
            return
        buffer += data
        *whole, buffer = buffer.split(b"\n")
        yield from whole


def call(
    layout: Layout,
    command: str,
    *,
    on_event: Callable[[Event], None] = lambda event: None,
    timeout_seconds: float = 3600.0,
    **arguments: Any,
) -> Event:
    """Send one command and follow it to its result.

    Returns the result's object. Raises BackstayError with the service's own sentence and exit code when it refuses or
    fails, and when the service died meanwhile (its recovery is started by systemd).
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(timeout_seconds)
        try:
            connection.connect(str(layout.control_socket))
        except (FileNotFoundError, ConnectionRefusedError) as missing:
            raise BackstayError(
                f"The transaction's service of {layout.name} does not listen at {layout.control_socket}: run "
                f"playbooks/site.yml, or `systemctl start {layout.transaction_socket_unit}`."
            ) from missing
        except PermissionError as denied:
            raise BackstayError(f"Only root may change {layout.name}: run it with sudo.") from denied
        message = {"protocol": PROTOCOL, "command": command, **arguments}
        connection.sendall(json.dumps(message).encode() + b"\n")
        try:
            for line in _lines(connection):
                event: Event = json.loads(line)
                if event.get("event") != "result":
                    on_event(event)
                    continue
                if event.get("ok"):
                    return event
                raise BackstayError(
                    event["message"], exit_code=int(event.get("exit_code", 1)), lines=tuple(event.get("lines") or ())
                )
        except TimeoutError as late:
            raise BackstayError(
                f"The transaction's service of {layout.name} did not answer within {timeout_seconds:g} s: see "
                f"`journalctl -u {layout.transaction_unit}`."
            ) from late
        except ConnectionResetError:
            pass  # the same as an end without a result
    raise BackstayError(
        f"The transaction's service of {layout.name} died before it answered; recovery is under way: see "
        f"`backstay status "
        f"{layout.name}` and `journalctl -u {layout.recover_unit}`, then run it again."
    )
