"""One lab for all integration tests: provisioned once, released to under load, and asked from outside.

A failing test prints the units, the journal and the ledger of its host: a red test must say why.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from backstay_lab.errors import LabError
from backstay_lab.scene import APPLICATION, Scene

LAB = os.environ.get("BACKSTAY_LAB") or "test"  # two stages of the suite have one each
VERSIONS = ("1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0", "1.6.0")


def _say(line: str) -> None:
    print(line, flush=True)


@pytest.fixture(scope="session")
def scene() -> Iterator[Scene]:
    """A host with the example application 1.0.0, its 10,000 audits, and payloads of all versions built."""
    stage = Scene(LAB, _say)
    stage.remove()
    stage.prepare(("app1", "build1"), image="prepared")  # Molecule and the demo begin with bare ones
    stage.play("site")
    for version in VERSIONS:
        stage.build(version)
    stage.release("1.0.0", why="the first")
    stage.manage("seed", "--audits", "10000")
    yield stage
    stage.remove()


@pytest.fixture
def at_1_0(scene: Scene) -> Scene:
    """The host with 1.0.0 live and nothing open, whatever the test before did."""
    return _at(scene, "1.0.0")


@pytest.fixture
def at_1_1(scene: Scene) -> Scene:
    """The host with 1.1.0 live, 1.0.0 warm, and nothing open."""
    status = _quiet(scene)
    if (status["warm"] or {}).get("version") == "1.0.0" and status["live"]["version"] == "1.1.0":
        return scene
    return _at(_at(scene, "1.0.0"), "1.1.0")


@pytest.fixture
def standing(scene: Scene) -> Scene:
    """The host with some release live, an older one warm, and nothing open."""
    while _quiet(scene)["warm"] is None:
        scene.release(again=True, why="so that the next test finds one live and one warm")
    return scene


def _at(scene: Scene, version: str) -> Scene:
    if _quiet(scene)["live"]["version"] != version:
        scene.release(version, why="where the next test begins")
        _quiet(scene)
    return scene


def _quiet(scene: Scene) -> dict[str, Any]:
    """The status once nothing is open and the configuration is the one of the inventory."""
    scene.backstay("recover", APPLICATION, check=False)
    status = scene.settled()
    if status["configuration_changed"]:
        scene.release(why="the test before declared something else")
        status = scene.settled()
    return status


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Add what the host says to the report of a test that failed."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]  # pluggy gives the wrapper its result this way
    if report.when == "call" and report.failed and "scene" in getattr(item, "fixturenames", ()):
        report.sections.append(("what the host says", _testimony()))


def _testimony() -> str:
    """Status, history, journals and the last lines of the units; never raises."""
    asked = (
        f"backstay status {APPLICATION}",
        f"backstay history {APPLICATION}",
        f"cat /var/lib/backstay/{APPLICATION}/journal.jsonl",
        f"journalctl --no-pager -n 40 -u 'backstay-*@{APPLICATION}.service'",
        f"journalctl --no-pager -n 30 -u '{APPLICATION}-[0-9]*.service'",
        "tail -n 5 /var/log/nginx/error.log",
    )
    told = []
    for command in asked:
        try:
            done = Scene(LAB).lab.exec("app1", "sh", "-c", command, check=False, timeout_seconds=30.0)
            told.append(f"$ {command}\n{done.stdout}{done.stderr}")
        except (LabError, OSError, subprocess.SubprocessError) as failed:
            told.append(f"$ {command}\n({failed})")
    return "\n".join(told)
