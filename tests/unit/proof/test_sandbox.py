"""The room in which a restored copy is looked at, and what confines whoever looks."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed
from ansible_collections.backstay.ops.plugins.module_utils._sandbox import (
    OUTSIDE,
    DirectSandbox,
    Limits,
    Scratch,
    SystemdSandbox,
    Task,
    introduce,
    library_command,
    sweep,
)

from .points import application_of

USER = """
import sys, time
from pathlib import Path
sys.path[:0] = {path!r}
from ansible_collections.backstay.ops.plugins.module_utils._sandbox import Scratch
with Scratch(Path({base!r}), "killed") as scratch:
    (scratch.open / "data").write_text("restored")
    print("ready", flush=True)
    time.sleep(60)
"""


def left_in(base: Path) -> list[str]:
    return sorted(path.name for path in base.iterdir() if path.name != ".guard")


def test_a_scratch_is_gone_afterwards_also_after_an_error(tmp_path: Path) -> None:
    base = tmp_path / "scratch"

    def use() -> None:
        with Scratch(base, "one") as scratch:
            (scratch.open / "file").write_text("restored")
            assert scratch.path.stat().st_mode & 0o777 == 0o700
            assert base.stat().st_mode & 0o777 == 0o700
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use()
    assert left_in(base) == []


def test_a_scratch_is_refused_where_there_is_no_room(tmp_path: Path) -> None:
    with (
        pytest.raises(BackstayError, match=r"bytes are free and \d+ are needed"),
        Scratch(tmp_path, "one", needed_bytes=1 << 60),
    ):
        pass
    assert left_in(tmp_path) == []


def test_what_a_killed_proof_left_is_removed_by_the_next_one_and_its_unit_is_stopped(tmp_path: Path) -> None:
    script = USER.format(path=sys.path, base=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    stopped: list[str] = []
    assert sweep(tmp_path, stop=stopped.append) == []  # it is in use
    assert (tmp_path / "killed" / "open" / "data").exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with Scratch(tmp_path, "next", stop=stopped.append):
        assert left_in(tmp_path) == ["next", "next.lock"]
    assert stopped == ["killed"]
    assert left_in(tmp_path) == []


def test_the_unit_itself_removes_the_scratch_once_its_caller_is_dead(tmp_path: Path) -> None:
    """ExecStopPost, as systemd would run it (but for stepping out of the unit, which needs one): nothing while the
    caller lives, all when it does not."""
    with Scratch(tmp_path, "one") as scratch:
        line = next(
            line
            for line in SystemdSandbox(application_of(), root=tmp_path).properties(scratch, Task(("true",)))
            if line.startswith("ExecStopPost=")
        )
        assert line.startswith(f"ExecStopPost=-+{OUTSIDE} ")
        command = line.removeprefix(f"ExecStopPost=-+{OUTSIDE} ").split()
        subprocess.run(command, check=False)
        assert scratch.open.is_dir()
        os.close(scratch._lock or -1)  # what a SIGKILL does
        subprocess.run(command, check=True)
        assert not scratch.path.exists()
        scratch._lock = None


def test_whoever_is_inside_can_read_and_write_and_no_link_is_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)
    with Scratch(tmp_path / "base", "one") as scratch:
        (scratch.open / "media").mkdir(mode=0o700)
        (scratch.open / "media" / "a").write_text("x")
        (scratch.open / "media" / "a").chmod(0o400)
        (scratch.open / "media" / "link").symlink_to(secret)
        os.mkfifo(scratch.open / "media" / "pipe")
        scratch.open_up()
        assert (scratch.open / "media" / "a").stat().st_mode & 0o777 == 0o666
        assert (scratch.open / "media").stat().st_mode & 0o777 == 0o777
    assert secret.stat().st_mode & 0o777 == 0o600


def test_whoever_is_inside_has_a_name_there_though_no_file_of_the_host_knows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """initdb ends where nobody can say who it runs as, and a user of DynamicUser is in no list."""
    asked: list[str] = []

    def runner(arguments: list[str], **given: object) -> Completed:
        asked.extend(arguments)
        return Completed(tuple(arguments), 0, "", "")

    def nobody_knows(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody_knows)
    monkeypatch.setattr(os, "geteuid", lambda: 61708)
    with Scratch(tmp_path / "base", "one") as scratch:
        SystemdSandbox(application_of(), root=tmp_path, runner=runner).run(scratch, Task(("check",)))
        users = scratch.open / "passwd"
        assert f"--property=BindReadOnlyPaths={users}:/etc/passwd" in asked
        assert users.stat().st_mode & 0o777 == 0o666
        introduce(scratch.open)
        lines = [line.split(":") for line in users.read_text().splitlines()]
        assert [(line[0], line[2]) for line in lines] == [
            ("root", "0"),
            ("nobody", "65534"),
            ("backstay-proof", "61708"),
        ]
        users.unlink()
        introduce(scratch.open)  # not in such a room: nothing to do
        assert not users.exists()


def test_the_unit_sees_no_network_no_live_data_no_secret_and_no_mail(tmp_path: Path) -> None:
    for name in ("run/postgresql", "run/redis-server", "run/systemd", "run/portal", "opt"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "run/docker.sock").touch()
    asked: list[list[str]] = []

    def runner(arguments: list[str], **given: object) -> Completed:
        asked.append(list(arguments))
        return Completed(tuple(arguments), 0, "", "")

    sandbox = SystemdSandbox(application_of(), hidden=(Path("/backup"),), root=tmp_path, runner=runner)
    task = Task(("check",), Limits(memory_max_bytes=1 << 28, seconds=60), environment={"SECRET_KEY": "hunter2"})
    with Scratch(tmp_path / "base", "one") as scratch:
        sandbox.run(scratch, task)
        environment = scratch.path / "environment"
        assert environment.stat().st_mode & 0o777 == 0o600
        assert "hunter2" in environment.read_text()
    given = asked[0]
    properties = [word.removeprefix("--property=") for word in given if word.startswith("--property=")]
    assert {
        "DynamicUser=yes",
        "PrivateNetwork=yes",
        "PrivateTmp=yes",
        "PrivateDevices=yes",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "TemporaryFileSystem=/opt:ro /var:ro",
        "MemoryMax=268435456",
        "RuntimeMaxSec=60",
        "TasksMax=256",
    } <= set(properties)
    hidden = next(line for line in properties if line.startswith("InaccessiblePaths="))
    for path in ("etc/backstay", "usr/sbin/sendmail", "run/postgresql", "run/redis-server", "run/portal"):
        assert f"-{tmp_path / path}" in hidden
    assert f"-{tmp_path / 'run/docker.sock'}" in hidden
    assert "-/backup" in hidden
    assert f"-{tmp_path / 'run/systemd'} " not in f"{hidden} "
    assert not any("ReadWritePaths" in line for line in properties)
    assert "hunter2" not in " ".join(given)
    assert "hunter2" not in repr(task)
    assert given[-1] == "check"


def test_a_unit_that_ran_out_of_memory_proves_nothing_and_says_so(tmp_path: Path) -> None:
    def runner(arguments: list[str], **given: object) -> Completed:
        return Completed(tuple(arguments), 1, "", "Running as unit: x\nFinished with result: oom-kill\n")

    sandbox = SystemdSandbox(application_of(), root=tmp_path, runner=runner)
    with Scratch(tmp_path / "base", "one") as scratch, pytest.raises(BackstayError, match="more memory than it may"):
        sandbox.run(scratch, Task(("check",)))


def test_the_inner_command_is_the_library_itself(tmp_path: Path) -> None:
    with Scratch(tmp_path, "one") as scratch:
        began = time.monotonic()
        done = DirectSandbox().run(scratch, Task((*library_command("_proof.inner_main"), "/does/not/exist")))
    assert done.returncode != 0
    assert "/does/not/exist" in done.stderr
    assert time.monotonic() - began < 30
