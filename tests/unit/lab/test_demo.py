"""`make demo` with a scene of paper: its verdict, what it writes for others, and what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import demo
import pytest
from backstay_lab.errors import LabError
from backstay_lab.load_result import LoadResult, Record, Write, fold
from backstay_lab.scene import Played

REFUSAL = "   app1: 0005-1.2.0 is not well: health: /healthz/ answered 503, expected 200; 0004-1.1.0 still serves"
VISIT = Record(at=1.0, kind="page", path="/", status=200, latency=0.01, release="0003-1.1.0")
WRITE = Write(1.0, "token", "/audits/1/", "0003-1.1.0")


@dataclass
class PaperScene:
    """Releases as a stack, and what goes wrong on demand. It outlives a run, as the lab does."""

    directory: Path
    stack: list[str] = field(default_factory=list)
    made: int = 0
    dies_at: str = ""
    breaks: str = ""
    refusal: str = REFUSAL

    @property
    def ca(self) -> Path:
        return self.directory / "ca" / "ca.crt"

    def url(self) -> str:
        return "https://10.89.10.11"

    def prepare(self) -> None:
        (self.directory / "certificates").mkdir(parents=True, exist_ok=True)
        (self.directory / "certificates" / "audit-portal.key").write_text("private")

    def play(self, playbook: str, check: bool = True) -> Played:
        if self.dies_at == playbook:
            raise LabError(f"{playbook} failed with exit code 2")
        return Played(playbook, 0, 1.0, "")

    def build(self, version: str) -> Played:
        return self.play("build")

    def manage(self, *arguments: str) -> str:
        return ""

    def declare(self, **override: Any) -> None:
        pass

    def release(self, version: str | None = None, *, check: bool = True, **extra: Any) -> Played:
        self.made += 1
        wanted = version or self.stack[-1].partition("-")[2]
        if wanted == "1.2.0" and self.breaks != "the gate":
            return Played("release", 2, 1.0, self.refusal)
        self.stack.append(f"{self.made:04}-{wanted}")
        return Played("release", 0, 6.5, "")

    def rollback(self, **extra: Any) -> Played:
        if self.breaks != "the rollback":
            self.stack.pop()
        return Played("rollback", 0, 2.5, "")

    def live(self) -> str | None:
        return self.stack[-1] if self.stack else None

    def status(self) -> dict[str, Any]:
        return {"live": {"id": self.stack[-1], "version": self.stack[-1].partition("-")[2]}}

    @contextlib.contextmanager
    def load(self) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(stop=self._visitors)

    def _visitors(self) -> LoadResult:
        visits = (
            [VISIT, VISIT._replace(status=502, reason="502, expected 200")] if self.breaks == "a visit" else [VISIT]
        )
        return fold(visits, began=0.0, asking_ended=2.0, writes=[WRITE])

    def missing_writes(self, tokens: list[str]) -> list[str]:
        return tokens if self.breaks == "a write" else []

    def remove(self) -> None:
        """What the lab itself takes away is its own tests' matter."""


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PaperScene:
    paper = PaperScene(tmp_path / "demo")
    monkeypatch.setattr(demo, "Scene", lambda name: paper)
    monkeypatch.setattr(demo, "RESULT", tmp_path / "demo.json")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return paper


def run(monkeypatch: pytest.MonkeyPatch, verb: str = "up") -> int:
    monkeypatch.setattr(demo.sys, "argv", ["demo.py", verb])
    return demo.main()


def written() -> dict[str, Any]:
    return dict(json.loads(demo.RESULT.read_text()))


def test_it_says_for_others_what_was_promised(scene: PaperScene, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch) == 0
    told = written()
    assert (told["url"], told["ca"], told["version"]) == ("https://10.89.10.11/", str(scene.ca), "1.1.0")
    assert (told["requests"], told["failed"], told["longest_gap_seconds"]) == (1, 0, 1.0)
    assert (told["release_seconds"], told["rollback_seconds"]) == ([6.5, 6.5, 6.5], [2.5, 2.5])
    assert (told["lost_writes"], told["broken_promises"]) == (0, [])


def test_running_it_twice_works(scene: PaperScene, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [run(monkeypatch), run(monkeypatch)] == [0, 0]


@pytest.mark.parametrize(
    ("breaks", "sentence"),
    [
        ("a visit", "1 of 2 requests failed."),
        ("a write", "1 of 1 acknowledged writes are missing."),
        ("the gate", "The broken 1.2.0 was released."),
        ("the rollback", "After the rollback release 0002-1.1.0 is live, and 1.0.0 was expected."),
    ],
)
def test_a_broken_promise_is_told_and_is_the_exit_code(
    scene: PaperScene, monkeypatch: pytest.MonkeyPatch, breaks: str, sentence: str
) -> None:
    scene.breaks = breaks
    assert run(monkeypatch) == 1
    assert sentence in written()["broken_promises"]


def test_another_failure_is_not_taken_for_the_refusal(scene: PaperScene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.refusal = "app1: unreachable"
    assert run(monkeypatch) == 1
    assert written()["broken_promises"] == ["The gate did not refuse 1.2.0; its release failed: app1: unreachable"]


def test_a_run_that_dies_leaves_no_verdict_of_the_one_before(
    scene: PaperScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo.RESULT.write_text('{"failed": 0}')
    scene.dies_at = "site"
    assert run(monkeypatch) == 1
    assert not demo.RESULT.exists()


def test_down_removes_what_it_made_and_nothing_else(scene: PaperScene, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = scene.directory.parent / "artifacts"
    shared.mkdir()
    assert run(monkeypatch) == 0
    assert run(monkeypatch, "down") == 0
    assert not scene.directory.exists(), "a private key was left behind"
    assert not demo.RESULT.exists()
    assert shared.is_dir()


def test_down_leaves_what_somebody_else_put_there(scene: PaperScene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.prepare()
    (scene.directory / "notes").write_text("mine")
    assert run(monkeypatch, "down") == 0
    assert [path.name for path in scene.directory.iterdir()] == ["notes"]
