"""The first word of a command of an application's file means the same program, whoever is told to run it."""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _backfill, _cli, _review
from ansible_collections.backstay.ops.plugins.module_utils._application import Application
from ansible_collections.backstay.ops.plugins.module_utils._engine import Engine
from ansible_collections.backstay.ops.plugins.module_utils._releases import Release
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed
from ansible_collections.backstay.ops.plugins.module_utils._runtime import program, runtime_of
from ansible_collections.backstay.ops.plugins.module_utils._transaction import Request, Transaction
from ansible_collections.backstay.ops.plugins.module_utils._units import one_off, unit_text
from tests.unit.jobs.house import LIVE, House, job

# What is in the virtualenv is there as `{venv}`; nothing else of the host is asked.
TABLE = [
    ("python", "{venv}/bin/python"),
    ("python3", "{venv}/bin/python3"),
    ("celery", "{venv}/bin/celery"),
    ("sh", "sh"),
    ("misspelt", "misspelt"),
    ("share", "share"),
    ("/usr/bin/env", "/usr/bin/env"),
    ("/usr/bin/python3", "/usr/bin/python3"),
    ("bin/celery", "bin/celery"),
]
REST = ("-c", "two words", "python")


@dataclass
class Place:
    """A live release that installed celery, and whose file has one command wherever it may have one."""

    house: House
    engine: Engine
    application: Application
    asked: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def venv(self) -> Path:
        return self.house.layout.release(LIVE) / "venv"

    def remember(self, arguments: Sequence[str], *_unused: Any, **_options: Any) -> Any:
        self.asked.append(tuple(arguments))
        return Completed(tuple(arguments), 0, "", "")


def place(root: Path, word: str) -> Place:
    command = [word, *REST]
    house = House(
        root,
        {"tidy": job(*command)},
        processes={"web": {}, "worker": {"command": command}},
        backfills={"floors": {"command": command}},
        hooks={"before_flip": [command], "on_review": [command]},
    )
    scripts = house.layout.release(LIVE) / "venv" / "bin"
    (scripts / "share").mkdir(parents=True)
    for name in ("python", "celery"):
        (scripts / name).touch()
    house.layout.environment_file(LIVE).touch()
    engine = Engine(house.layout, storage=house.storage, runner=house.systemctl)
    found = Place(house, engine, engine.application(LIVE))
    engine.runner = found.remember
    return found


def worker(at: Place) -> None:
    command = runtime_of(at.application).process_command(
        at.application, "worker", at.house.layout.release(LIVE), Path("/s"), Path("/g")
    )
    at.asked.append(tuple(command))


def hook(at: Place) -> None:
    at.engine.run_hooks(
        Transaction("t-1", "portal", "release", LIVE, None, "1.0.0", "abc", Request("release"), "now"), "before_flip"
    )


def review(at: Place) -> None:
    assert "hooks.on_review" in _review.deliver(at.engine, Release(LIVE, "1.0.0", "", "live"), "All was well.")


def scheduled(at: Place) -> None:
    def spawn(arguments: Sequence[str], on_line: Callable[[str], None], seconds: float) -> int:
        at.remember(arguments)
        return 0

    at.house.run("tidy", spawner=spawn).go(asked=True)


def backfill(at: Place) -> None:
    at.house.layout.state.mkdir(parents=True, exist_ok=True)
    assert _backfill.run(at.engine, "floors", say=lambda line: None, sleep=lambda seconds: None) == 1


def restore(at: Place) -> None:
    command = at.application.backfills["floors"].command
    at.engine.run_in(LIVE, command, unit="retention", seconds=1.0)


def by_hand(at: Place) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_cli, "_engine", lambda options: at.engine)
        patch.setattr(
            subprocess, "run", lambda arguments, **_: (at.remember(arguments), argparse.Namespace(returncode=0))[1]
        )
        assert _cli._run(argparse.Namespace(command=[*at.application.backfills["floors"].command])) == 0


@pytest.mark.parametrize("door", [worker, hook, review, scheduled, backfill, restore, by_hand])
@pytest.mark.parametrize(("word", "expected"), TABLE)
def test_it_is_what_the_release_installed_else_the_hosts(
    tmp_path: Path, door: Callable[[Place], None], word: str, expected: str
) -> None:
    at = place(tmp_path, word)
    door(at)
    assert at.asked[-1][-1 - len(REST) :] == (expected.format(venv=at.venv), *REST)


@pytest.mark.parametrize("word", ["python", "python3"])
def test_debians_python_never_stands_in_for_one_that_is_missing(tmp_path: Path, word: str) -> None:
    assert program([word, "manage.py"], tmp_path) == [f"{tmp_path}/bin/{word}", "manage.py"]


def test_its_programs_come_first_for_what_a_script_calls(tmp_path: Path) -> None:
    """Below the file of its environment, in which the application may say otherwise: systemd lets that one win."""
    application = place(tmp_path, "sh").application
    line = f"Environment=PATH=/opt/portal/releases/{LIVE}/venv/bin:/usr/local/sbin:"
    assert any(word.startswith(f"--property={line}") for word in one_off(application, LIVE))
    text = unit_text(application, LIVE, application.processes["worker"], ["sh"])
    assert f"\n{line}" in text
