"""Promise 2: a phase that is asked of the host's command ends as the module would, and is never asked twice."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _release_client as client
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._host_command import LAUNCHER_TEXT
from ansible_collections.backstay.ops.plugins.plugin_utils.phase import reach

OPTIONS = {"application": "portal", "state": "flipped", "transaction": "20261121T081500123-814"}
FLIPPED = {"ok": True, "release": "0002-1.1.0", "previous": "0001-1.0.0", "message": "portal: 0002-1.1.0 is flipped."}


class Host:
    """An action's connection to a host, whose command answers as it would there."""

    def __init__(self, command: Any) -> None:
        self._task = SimpleNamespace(check_mode=False, args={"application": "portal", "state": "flipped"})
        self.command = command
        self.modules: list[str] = []

    def _low_level_execute_command(self, command: str, in_data: bytes) -> dict[str, Any]:
        assert command == client.PHASE_COMMAND
        return dict(zip(("rc", "stdout", "stderr"), self.command(in_data), strict=True))

    def _execute_module(self, module: str, _arguments: dict[str, Any], task_vars: Any) -> dict[str, Any]:
        self.modules.append(module)
        return {"changed": True, "msg": "by the module"}

    def reach(self) -> dict[str, Any]:
        return reach(self, "backstay.ops.release", OPTIONS, {}, {})


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """The command as it is installed; what it asked of the service is in `.asked`."""
    asked: list[tuple[str, dict[str, Any]]] = []

    def call(_layout: Any, command: str, **arguments: Any) -> dict[str, Any]:
        asked.append((command, arguments))
        if isinstance(installed.answer, BackstayError):
            raise installed.answer
        return dict(installed.answer)

    def run(content: bytes) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(content.decode()))
        code = client.main()
        said = capsys.readouterr()
        return code, said.out, said.err

    monkeypatch.setattr(client, "call", call)
    installed = SimpleNamespace(run=run, asked=asked, answer=FLIPPED)
    return installed


def test_the_command_answers_as_the_module_would(installed: Any) -> None:
    host = Host(installed.run)
    assert host.reach() == client.ask("portal", "flipped", {}, {}, check_mode=False, transaction=OPTIONS["transaction"])
    assert host.modules == []
    command, arguments = installed.asked[0]
    assert (command, arguments["transaction"]) == ("flip", OPTIONS["transaction"])


def test_a_refusal_comes_with_its_sentence_and_exit_code(installed: Any) -> None:
    installed.answer = BackstayError("The candidate does not answer.", exit_code=4, lines=("worker died",))
    result = Host(installed.run).reach()
    assert (result["failed"], result["msg"], result["exit_code"]) == (True, "The candidate does not answer.", 4)
    assert result["backstay_lines"] == ["| worker died"]


def test_what_a_login_prints_is_no_part_of_the_answer(installed: Any) -> None:
    def noisy(content: bytes) -> tuple[int, str, str]:
        code, said, complaint = installed.run(content)
        return code, f"Welcome to app1!\r\n{said}", f"sudo: unable to resolve host\n{complaint}"

    assert Host(noisy).reach()["release"] == "0002-1.1.0"


@pytest.mark.parametrize(
    "seen",
    [
        (127, "", "bash: /usr/bin/backstay: No such file or directory"),
        (2, "", "backstay: error: argument VERB: invalid choice: 'phase'"),
        (1, "", "sudo: sorry, you must have a tty to run sudo"),
    ],
    ids=["missing", "older", "no terminal"],
)
def test_where_the_command_was_never_reached_the_module_asks(seen: tuple[int, str, str]) -> None:
    host = Host(lambda _content: seen)
    assert host.reach()["msg"] == "by the module"
    assert host.modules == ["backstay.ops.release"]


def test_a_command_that_was_killed_after_it_asked_is_a_failure_and_is_not_asked_again() -> None:
    host = Host(lambda _content: (137, "backstay phase 1\n", "Killed"))
    result = host.reach()
    assert result["failed"]
    assert "ended before it answered (Killed)" in result["msg"]
    assert host.modules == []


def test_check_mode_says_so_to_the_command(installed: Any) -> None:
    host = Host(installed.run)
    host._task.check_mode = True
    assert host.reach()["msg"] == "portal: would be flipped."
    assert installed.asked == []


def test_whoever_speaks_another_protocol_is_answered_by_the_module(
    installed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def later(content: bytes) -> Any:
        monkeypatch.setattr(client, "PROTOCOL", client.PROTOCOL + 1)
        return installed.run(content)

    host = Host(later)
    assert host.reach()["msg"] == "by the module"
    assert installed.asked == []


def test_the_launcher_has_the_verb_and_answers_in_a_sentence(tmp_path: Path) -> None:
    """As it is installed, below a directory of the test's own."""
    (tmp_path / "backstay").symlink_to(Path(client.__file__).parent)
    launcher = LAUNCHER_TEXT.replace("/usr/lib/backstay/current", str(tmp_path))
    asked = {"application": "nowhere", "state": "live", "request": {}, "deadlines": {}, "check_mode": False}
    done = subprocess.run(
        [sys.executable, "-ISB", "-c", launcher, "phase"],
        input=client.phase_input(asked),
        capture_output=True,
        check=True,
    )
    result = client.phase_result(done.stdout.decode(), done.stderr.decode())
    assert result is not None
    assert result["failed"]
    assert "does not listen at /run/backstay/nowhere.sock: run playbooks/site.yml" in result["msg"]
