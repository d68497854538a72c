"""One module on the host, as its role calls it, without the rest of the role: what nobody confirms."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
INVENTORY = ROOT / "molecule" / "inventory"

Module = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def module() -> Module:
    """Runs one module on the host; with `anew`, through a connection of its own."""

    def run(name: str, anew: bool = False, **options: Any) -> subprocess.CompletedProcess[str]:
        arguments = ["ansible", "molecule-house", "-i", str(INVENTORY), "-b", "-m", f"backstay.ops.{name}"]
        environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0"}
        if anew:
            environment["ANSIBLE_SSH_ARGS"] = "-o ControlPath=none"
        return subprocess.run(
            [*arguments, "-a", json.dumps(options)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture
def play() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Applies one role to the host, with extra variables or options."""

    def run(role: str, *options: str) -> subprocess.CompletedProcess[str]:
        only = ROOT / "molecule" / "house" / "only.yml"
        return subprocess.run(
            ["ansible-playbook", "-i", str(INVENTORY), str(only), "-e", f"only={role}", *options],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    return run


@pytest.fixture
def becomes() -> Callable[[Callable[[], bool], str], None]:
    """Waits until something is so."""

    def wait(so: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 90
        while not so():
            assert time.monotonic() < deadline, f"not yet, after a minute and a half: {what}"
            time.sleep(0.5)

    return wait
