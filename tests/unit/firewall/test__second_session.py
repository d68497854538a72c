"""A change of the door undoes itself, and only somebody who came in after it may keep it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._second_session import (
    Process,
    Session,
    read_process,
    session_of,
    undo_units,
    verdict,
)

CONNECTION = "203.0.113.7 51000 198.51.100.1 22"
# Ansible over ssh with sudo: a python, its sudo, the user's shell, the session's process, its monitor, the listener.
TREE = {
    90: Process("python3", 80, 500.0, 0),
    80: Process("sudo", 70, 500.0, 0),
    70: Process("sh", 60, 500.0, 0, CONNECTION),
    60: Process("sshd-session", 50, 499.0, 0),
    50: Process("sshd-session", 40, 498.0, 0),
    40: Process("sshd", 1, 10.0, 0),
    1: Process("systemd", 0, 0.0, 0),
    30: Process("bash", 20, 400.0, 0),
    20: Process("tmux: server", 1, 300.0, 0),
}


def test_the_session_is_that_of_the_connection_not_of_the_listener() -> None:
    assert session_of(90, TREE.get) == Session(499.0, "root", "203.0.113.7", 22)


def test_debian_12_names_it_otherwise() -> None:
    tree = {**TREE, 60: Process("sshd", 50, 499.0, 0), 50: Process("sshd", 40, 498.0, 0)}
    assert session_of(90, tree.get) == Session(499.0, "root", "203.0.113.7", 22)


@pytest.mark.parametrize("pid", [30, 1, 12345])
def test_a_console_a_detached_terminal_and_what_is_gone_are_no_sessions(pid: int) -> None:
    assert session_of(pid, TREE.get) is None


def test_a_process_of_this_machine_is_read() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"SSH_CONNECTION": CONNECTION, "PATH": "/usr/bin:/bin"},
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        found = read_process(child.pid)
        child.stdin.close()
    assert found is not None
    assert found.connection == CONNECTION
    assert found.began > 0
    assert read_process(child.pid) is None, "a process that is gone is not there"


def test_only_a_session_after_the_change_confirms_it() -> None:
    assert verdict(100.0, Session(100.1, "ada")) is None
    assert "before the change" in str(verdict(100.0, Session(99.9, "ada")))
    assert "before the change" in str(verdict(100.0, Session(100.0, "ada")))
    assert "no session over ssh" in str(verdict(100.0, None))


def test_the_undoing_needs_nothing_of_ours_and_ends_by_forgetting_itself() -> None:
    units = undo_units("sshd", [["/usr/bin/rm", "-f", "/etc/ssh/a b%c"]], seconds=60, state=Path("/state"))
    service, timer = units["backstay-undo-sshd.service"], units["backstay-undo-sshd.timer"]
    steps = [line for line in service.splitlines() if line.startswith("ExecStart=")]
    assert steps[0] == 'ExecStart=-"/usr/bin/rm" "-f" "/etc/ssh/a b%%c"', "quoted as systemd reads it"
    assert all(text in steps[-1] for text in ("/state/sshd.unconfirmed.json", "multi-user.target.wants"))
    assert "python" not in service
    for line in ("Before=ssh.service ssh.socket", "WantedBy=multi-user.target"):
        assert line in service.splitlines(), "a reboot undoes it as well"
    assert {"OnActiveSec=60", "Unit=backstay-undo-sshd.service"} <= set(timer.splitlines())
