"""Hosts of the scenarios, over the lab's ssh; plays run as an operator runs them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import testinfra
from testinfra.host import Host

ROOT = Path(__file__).resolve().parent.parent
LAB = ROOT / ".lab" / "molecule"


@pytest.fixture(scope="session")
def lab_directory() -> Path:
    return LAB


@pytest.fixture(scope="module")
def host(request: pytest.FixtureRequest) -> Host:
    """The host of the scenario whose tests run."""
    scenario = Path(str(request.node.path)).parent.parent.name
    return testinfra.get_host(f"ssh://molecule-{scenario}", ssh_config=str(LAB / "ssh_config"))


@pytest.fixture(scope="module")
def play(request: pytest.FixtureRequest) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the scenario's converge.yml once more, with extra variables or options."""
    converge = Path(str(request.node.path)).parent.parent / "converge.yml"

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["ansible-playbook", "-i", str(ROOT / "molecule" / "inventory"), str(converge), *options],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run
