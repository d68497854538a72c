"""The module on a repository that is none of ours: no tags, no manifest, plain `restic backup`."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._errors import InputError
from ansible_collections.backstay.ops.plugins.modules.backup_verify import prove

from .weak_key import weaken

PASSWORD = "somebody else's"


class Foreign:
    def __init__(self, top: Path) -> None:
        self.repository = top / "repository"
        self.source = top / "source"
        self.source.mkdir()
        connection = sqlite3.connect(self.source / "app.db")
        connection.executescript(
            "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT); INSERT INTO t(name) VALUES ('a'), ('b');"
        )
        connection.close()
        (self.source / "media").mkdir()
        (self.source / "media" / "photograph.jpg").write_bytes(random.Random(2).randbytes(50_000))
        self.restic("init")
        weaken(self.repository, PASSWORD)

    def restic(self, *arguments: str) -> None:
        environment = {**os.environ, "RESTIC_PASSWORD": PASSWORD, "RESTIC_REPOSITORY": str(self.repository)}
        subprocess.run(["restic", "--no-cache", *arguments], env=environment, check=True, capture_output=True)

    def backup(self) -> None:
        self.restic("backup", str(self.source))

    def ask(self, **changed: Any) -> Any:
        database = {
            "path": str(self.source / "app.db"),
            "least_rows": {"t": 2},
            "canaries": [{"query": "SELECT max(name) FROM t", "answer": "b"}],
        }
        options: dict[str, Any] = {
            "repository": str(self.repository),
            "password": PASSWORD,
            "environment": {},
            "snapshot": "latest",
            "level": 4,
            "max_age_hours": 1.0,
            "databases": [database],
            "paths": [str(self.source / "media")],
            "scratch": None,
            "timeout_seconds": 60.0,
        }
        return prove(options | changed)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Foreign:
    foreign = Foreign(tmp_path_factory.mktemp("foreign"))
    foreign.backup()
    return foreign


def test_a_foreign_repository_is_proven_on_every_level(sound: Foreign) -> None:
    verdict = sound.ask()
    assert (verdict.ok, verdict.level, verdict.findings) == (True, 4, ())
    assert sorted(verdict.seconds) == [1, 2, 3, 4]
    assert len(verdict.snapshot) == 64
    assert sound.ask(snapshot=verdict.snapshot[:8], level=1).snapshot == verdict.snapshot


@pytest.mark.parametrize(
    ("changed", "level", "sentence"),
    [
        ({"password": "wrong"}, 0, "the password does not open it"),
        ({"repository": "/nowhere/at/all"}, 0, "there is no repository at this place"),
        ({"max_age_hours": -1.0}, 0, "hours old and may be"),
        ({"snapshot": "ffffffff"}, 0, "0 snapshots have an id that begins with ffffffff"),
        ({"paths": ["/etc/passwd"]}, 0, "does not hold /etc/passwd"),
    ],
)
def test_each_failure_is_one_sentence(sound: Foreign, changed: dict[str, Any], level: int, sentence: str) -> None:
    verdict = sound.ask(**changed)
    assert (verdict.ok, verdict.level) == (False, level)
    assert len(verdict.findings) == 1
    assert sentence in verdict.findings[0]
    assert verdict.findings[0].endswith(".")


def test_rows_and_answers_are_asked_of_what_was_restored(sound: Foreign) -> None:
    path = str(sound.source / "app.db")
    canaries = [{"query": "SELECT max(name) FROM t", "answer": "z"}]
    verdict = sound.ask(databases=[{"path": path, "least_rows": {"t": 3}, "canaries": canaries}])
    assert verdict.level == 3
    assert "has 2 rows and 3 were expected" in verdict.findings[0]
    assert "answers 'b' to `SELECT max(name) FROM t` and 'z' was expected" in verdict.findings[1]


def test_a_query_may_only_read(sound: Foreign) -> None:
    path = str(sound.source / "app.db")
    canaries = [{"query": "DELETE FROM t RETURNING id", "answer": "1"}]
    verdict = sound.ask(databases=[{"path": path, "least_rows": {}, "canaries": canaries}])
    assert verdict.level == 3
    assert "was not answered" in verdict.findings[0]


def _copied_while_open(foreign: Foreign) -> None:
    (foreign.source / "app.db-wal").write_bytes(b"x" * 500)


def _damaged(foreign: Foreign) -> None:
    content = bytearray((foreign.source / "app.db").read_bytes())
    content[4096:4200] = b"\xff" * 104
    (foreign.source / "app.db").write_bytes(content)


def _flipped_pack(foreign: Foreign) -> None:
    path = max(foreign.repository.glob("data/*/*"), key=lambda each: each.stat().st_size)
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("lie", "level", "sentence"),
    [(_copied_while_open, 3, "Beside the database"), (_damaged, 3, "is damaged"), (_flipped_pack, 2, "it is damaged")],
)
def test_what_is_wrong_in_a_foreign_repository_is_seen(
    lie: Callable[[Foreign], None], level: int, sentence: str, tmp_path: Path
) -> None:
    foreign = Foreign(tmp_path)
    if lie is _flipped_pack:
        foreign.backup()
    lie(foreign)
    if lie is not _flipped_pack:
        foreign.backup()
    verdict = foreign.ask()
    assert (verdict.ok, verdict.level) == (False, level), verdict
    assert sentence in verdict.findings[0], verdict


def test_nothing_is_left_behind(sound: Foreign, tmp_path: Path) -> None:
    assert sound.ask(scratch=str(tmp_path)).ok
    assert list(tmp_path.iterdir()) == []


def test_options_that_make_no_sense_are_refused(sound: Foreign) -> None:
    with pytest.raises(InputError, match="write it from / on"):
        sound.ask(paths=["media"])
    with pytest.raises(InputError, match="whole numbers"):
        sound.ask(databases=[{"path": "/x", "least_rows": {"t": "many"}, "canaries": []}])


def test_restic_is_never_given_a_secret_by_its_arguments(sound: Foreign, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shutil.which("restic")
    seen: list[list[str]] = []
    real = subprocess.run

    def spy(arguments: Any, **given: Any) -> Any:
        seen.append([str(word) for word in arguments])
        return real(arguments, **given)

    monkeypatch.setattr(subprocess, "run", spy)
    sound.ask(level=1, environment={"AWS_SECRET_ACCESS_KEY": "hunter2"})
    assert seen
    assert not any(PASSWORD in word or "hunter2" in word for words in seen for word in words)
