"""Has systemd start the service of a rollback while the command itself is still being loaded: both take as long."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence

ROOM = "/run/backstay"  # where the sockets of the applications are; Layout.control_socket, without loading it


def wake(arguments: Sequence[str], room: str = ROOM) -> None:
    """Connect to the application that seems to be meant, and go. Whatever is wrong, the command says in a moment."""
    if arguments[:1] != ["rollback"] or "--plan" in arguments:
        return
    with contextlib.suppress(OSError):
        names = [name.removesuffix(".sock") for name in os.listdir(room) if name.endswith(".sock")]
        meant = [name for name in names if name in arguments] or names
        if len(meant) == 1:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
                connection.connect(f"{room}/{meant[0]}.sock")
