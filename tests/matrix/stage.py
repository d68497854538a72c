"""The machines of the matrix, and what their tests ask of a run."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from backstay_lab.errors import LabError
from backstay_lab.layout import CHECKOUT
from backstay_lab.scene import Scene

Step = Callable[[str], AbstractContextManager[None]]
CHECKOUT_THERE = "/root/backstay"


class BookwormScene(Scene):
    """Its payloads are its own: those of the other labs are built for another Debian."""

    payloads: Path

    @property
    def artifacts(self) -> Path:
        return self.payloads


class Controller:
    """A Debian 13 machine with a checkout and what `make setup` made of it, apart from this machine."""

    host = "ctl1"

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def run(self, command: str, *, check: bool = True, seconds: float = 590.0) -> str:
        """A command typed in the checkout. Returns what it printed; raises LabError with it when it failed."""
        done = self.scene.lab.ssh(
            self.host, f"cd {CHECKOUT_THERE} && {command} 2>&1", check=False, timeout_seconds=seconds
        )
        if check and not done.ok:
            raise LabError(f"`{command}` failed on {self.host}:\n{done.stdout[-4000:]}{done.stderr}")
        return done.stdout

    def play(self, playbook: str, **extra: Any) -> str:
        values = json.dumps({"lab": self.scene.name, **extra})
        return self.run(
            f".venv/bin/ansible-playbook playbooks/{playbook}.yml -i inventories/example -e {shlex.quote(values)}"
        )

    def receive_checkout(self) -> None:
        """What git knows of this checkout, as a clone would bring it."""
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=CHECKOUT,
            capture_output=True,
            check=True,
        ).stdout
        there = b"\0".join(name for name in listed.split(b"\0") if name and (CHECKOUT / name.decode()).exists())
        self._send(["tar", "--create", "--null", "--files-from=-"], there, CHECKOUT, CHECKOUT_THERE)

    def receive_keys(self) -> None:
        """How the hosts of its lab are reached, the lab's authority, and the key that signs payloads."""
        signer = b"\0".join(
            f"inventories/example/{name}".encode() for name in ("signing_key", "signing_key.pub", "allowed_signers")
        )
        self._send(["tar", "--create", "--null", "--files-from=-"], signer, CHECKOUT, CHECKOUT_THERE)
        there = f"{CHECKOUT_THERE}/.lab/{self.scene.name}"
        names = b"\0".join(name.encode() for name in ("ssh/id_ed25519", "ssh/id_ed25519.pub", "known_hosts", "ca"))
        self._send(["tar", "--create", "--null", "--files-from=-"], names, self.scene.directory, there)
        written = (self.scene.directory / "ssh_config").read_text(encoding="utf-8")
        moved = written.replace(str(CHECKOUT), CHECKOUT_THERE)
        subprocess.run(
            self.scene.lab.ssh_command(self.host, f"cat > {there}/ssh_config"), input=moved, text=True, check=True
        )

    def _send(self, pack: list[str], names: bytes, source: Path, target: str) -> None:
        packed = subprocess.run(pack, cwd=source, input=names, capture_output=True, check=True).stdout
        unpack = f"mkdir -p {target} && tar --extract --no-same-owner --directory {target}"
        subprocess.run(self.scene.lab.ssh_command(self.host, unpack), input=packed, capture_output=True, check=True)


def changed(output: str) -> dict[str, int]:
    """How many tasks changed something, by host, from the table that the progress callback ends with."""
    found: dict[str, int] = {}
    for words in (line.split() for line in output.splitlines()):
        if len(words) == 6 and all(word.isdigit() for word in words[1:]):
            found[words[0]] = int(words[2])
    return found
