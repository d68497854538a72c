"""What is read on a host, from the texts that its programs and files give."""

from __future__ import annotations

import fcntl
import grp
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _diagnose_facts as looks

SHOWN = """Id=nginx.service
ActiveState=active
Result=success
NRestarts=0
MemoryCurrent=[not set]
MemoryMax=infinity

Id=portal-0001-1.0.0-web.service
ActiveState=failed
Result=oom-kill
NRestarts=4
MemoryCurrent=18446744073709551615
MemoryMax=419430400

Id=other.service
ActiveState=active
"""


def test_units_as_systemctl_shows_them() -> None:
    names = {"nginx.service": "nginx", "portal-0001-1.0.0-web.service": "web"}
    nginx, web = looks.units(SHOWN, names)
    assert (nginx.process, nginx.state, nginx.memory_bytes, nginx.memory_max_bytes) == ("nginx", "active", None, None)
    assert (web.state, web.result, web.restarts) == ("failed", "oom-kill", 4)
    assert (web.memory_bytes, web.memory_max_bytes) == (None, 419430400)
    assert list(looks.units("", names)) == []


def test_what_the_logs_say_is_counted_and_the_last_line_kept() -> None:
    text = "a: No space left on device\nfine\nb: database or disk is full\nWORKER TIMEOUT (pid:7)\n"
    said = looks.said(text)
    assert said["no room"].count == 2
    assert said["no room"].last == "b: database or disk is full"
    assert said["worker timeout"].count == 1
    assert "locked" not in said


def test_traffic_is_that_of_the_last_requests() -> None:
    many = [(200, 0.1)] * 400 + [(500, 9.0)] * 100
    found = looks.traffic([(502, None)] * 1000 + many)
    assert (found.requests, found.failed, found.p95_seconds) == (500, 100, 9.0)
    assert looks.traffic([]).p95_seconds is None


@pytest.mark.parametrize("body", ["", "{", "[]", '{"checks": 3}', '{"checks": {"a": "b"}}', '{"status": "pass"}'])
def test_a_health_answer_of_another_shape_says_nothing(body: str) -> None:
    assert looks.failing_checks(body) == ()


def test_what_the_health_answer_says_is_not_well() -> None:
    checks = {"a": [{"status": "pass"}], "b": [{"status": "fail", "output": "away"}], "c": [{"status": "warn"}]}
    assert looks.failing_checks(json.dumps({"checks": checks})) == ("b: away",)


TABLE = """1: POSIX  ADVISORY  WRITE 77 00:2f:1000 1073741825 1073741825
2: POSIX  ADVISORY  READ  78 00:2f:1000 1073741826 1073742335
3: POSIX  ADVISORY  WRITE 79 00:2f:2000 120 120
4: POSIX  ADVISORY  WRITE 80 00:2f:2000 123 123
5: FLOCK  ADVISORY  WRITE 81 00:2f:3000 0 EOF
6: -> POSIX  ADVISORY  WRITE 82 00:2f:1000 1073741825 1073741825
7: POSIX  ADVISORY  WRITE -1 00:2f:1000 1073741825 1073741825
8: POSIX  ADVISORY  WRITE 83 00:2f:1000 5 5
"""


def test_who_keeps_others_from_writing_is_read_from_the_kernels_table() -> None:
    assert sorted(looks.writers(TABLE, {1000: True, 2000: False})) == [77, 79]
    assert list(looks.writers(TABLE, {4000: True})) == []


WRITER = """
import sqlite3, sys
held = sqlite3.connect(sys.argv[1], isolation_level=None)
held.execute(f"PRAGMA journal_mode={sys.argv[2]}")
held.execute("CREATE TABLE IF NOT EXISTS t (a)")
held.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_real_writer_is_found_and_a_reader_is_not(mode: str, tmp_path: Path) -> None:
    file = tmp_path / "x.sqlite3"
    looker = object.__new__(looks.Looker)
    looker.layout = SimpleNamespace(root=Path("/"))  # type: ignore[assignment]  # all that is asked of it here
    looker.sleep = lambda seconds: None
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(file), mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        holder = looker._holder(file)
        assert holder is not None, Path("/proc/locks").read_text()
        assert holder[1] == process.pid
        assert f"process {process.pid} ({sys.executable}" in holder[0]
    finally:
        process.communicate("\n", timeout=10)
    assert looker._holder(file) is None


@pytest.fixture
def media(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "media"
    (directory / "2026").mkdir(parents=True)
    (directory / "2026" / "a.jpg").write_bytes(b"a")
    (directory / "away").symlink_to("/nowhere")
    own = os.getgid()
    monkeypatch.setattr(grp, "getgrnam", lambda name: SimpleNamespace(gr_gid=own))
    for path in (directory, directory / "2026"):
        path.chmod(0o2750)
    (directory / "2026" / "a.jpg").chmod(0o640)
    return directory


def test_media_as_they_should_be_are_not_wrong(media: Path) -> None:
    assert looks.wrong_media(media, os.getuid(), "portal") == []


def test_media_that_nginx_cannot_read_or_somebody_else_owns_are_named(media: Path) -> None:
    (media / "2026" / "a.jpg").chmod(0o600)
    (only,) = looks.wrong_media(media, os.getuid(), "portal")
    assert only.startswith(f"{media}/2026/a.jpg is ")
    assert "0600, expected portal:www-data" in only
    assert len(looks.wrong_media(media, os.getuid() + 1, "portal")) == 3
    assert "is missing" in looks.wrong_media(media / "nowhere", 0, "portal")[0]


def test_many_wrong_files_are_not_all_named(media: Path) -> None:
    for number in range(60):
        (media / f"{number:02}").mkdir()
        (media / f"{number:02}").chmod(0o700)
    assert 20 <= len(looks.wrong_media(media, os.getuid(), "portal")) < 60


def test_the_tail_of_a_file_begins_with_a_whole_line(tmp_path: Path) -> None:
    file = tmp_path / "x.log"
    file.write_text("first\nsecond\nthird\n")
    assert looks.tail(file, 1000) == "first\nsecond\nthird\n"
    assert looks.tail(file, 9) == "third\n"
    assert looks.tail(tmp_path / "nothing", 10) == ""
    assert looks.tail(tmp_path, 10) == ""


def test_a_file_that_somebody_holds_locked_is_read_all_the_same(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    file.write_text("release\n")
    with file.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert looks.tail(file, 100) == "release\n"


def test_the_first_certificate_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no certificate"):
        looks.first_certificate("-----BEGIN PRIVATE KEY-----")
