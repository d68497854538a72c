"""A host that others are reached through keeps on forwarding their connections: role hardening asks the inventory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HOSTS = """
all:
  hosts:
    gate: {{ansible_host: gate.example.org, ansible_connection: local}}
    web1: {{{web1}}}
    web2: {{ansible_ssh_common_args: "-o ServerAliveInterval=15"}}
"""


@pytest.mark.parametrize(
    ("web1", "refused"),
    [
        ("ansible_ssh_common_args: '-J ada@gate.example.org'", True),
        ("ansible_ssh_common_args: '-o ProxyJump=gate'", True),
        ("ansible_ssh_extra_args: '-o ProxyCommand=\"ssh -W %h:%p -q gate.example.org\"'", True),
        ("ansible_ssh_args: '-o ProxyJump=ada@gate:22,other'", True),
        ("ansible_ssh_common_args: '-J gate2.example.org'", False),
        ("ansible_ssh_common_args: '-o ProxyJump=gateway'", False),
        ("", False),
    ],
)
def test_whoever_is_jumped_over_is_not_closed_to_them(tmp_path: Path, web1: str, refused: bool) -> None:
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(HOSTS.format(web1=web1))
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible")),
            *("gate", "-i", str(inventory), "-m", "include_role"),
            *("-a", "name=backstay.ops.hardening tasks_from=preflight"),
        ],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    said = " ".join((done.stdout + done.stderr).split())
    assert (done.returncode != 0) is refused, said
    assert ("web1 is reached through gate" in said) is refused, said
    assert not refused or "set hardening_ssh_forwarding: true for gate" in said
