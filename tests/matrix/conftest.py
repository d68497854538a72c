"""What else must work: another Debian, another ansible-core. Each has a lab of its own, removed when it is done.

.venv/bin/python -m pytest -v tests/matrix
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from backstay_lab.scene import APPLICATION, Scene

from tests.matrix.stage import CHECKOUT_THERE, BookwormScene, Controller, Step

Say = Callable[[str], None]


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> Say:
    """Prints at once, whatever pytest captures: minutes without a word look like a fault."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def tell(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n    {line}", end="", flush=True)

    return tell


@pytest.fixture(scope="session")
def step(say: Say) -> Step:
    """Says what begins, and how long it took."""

    @contextmanager
    def timed(title: str) -> Iterator[None]:
        say(f"{title} ...")
        began = time.monotonic()
        yield
        say(f"{title}: {time.monotonic() - began:.1f} s\n")

    return timed


@pytest.fixture(scope="session")
def bookworm(step: Step, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Two Debian 12 hosts that site.yml has seen to, and the payloads that one of them built for the other."""
    scene = BookwormScene("matrix12")
    scene.payloads = tmp_path_factory.mktemp("bookworm")
    scene.remove()
    try:
        with step("Debian 12: boot app1 and build1"):
            scene.prepare(release="bookworm")
        with step("Debian 12: site.yml"):
            scene.play("site")
        for version in ("1.0.0", "1.1.0"):
            with step(f"Debian 12: build {version}"):
                scene.build(version)
        yield scene
    finally:
        scene.remove()


@pytest.fixture(scope="session")
def controller(step: Step) -> Iterator[Controller]:
    """A fresh Debian 13 with git, make and python3 that became the controller of two other hosts by `make setup`."""
    scene = Scene("matrix13")
    scene.remove()
    try:
        with step("controller: boot ctl1, app1 and build1"):
            scene.prepare(("ctl1", "app1", "build1"))
        there = Controller(scene)
        with step("controller: install git and make, receive the checkout"):
            scene.lab.ssh(
                "ctl1",
                "apt-get update -qq && apt-get install -y -qq --no-install-recommends git make >/dev/null",
                timeout_seconds=300.0,
            )
            there.receive_checkout()
            there.receive_keys()
        with step("controller: make setup"):
            there.run("make setup")
        with step("controller: make the secrets and the repository of the example"):
            there.run(".venv/bin/python tools/make_secrets.py")
            there.run(".venv/bin/python examples/make_repository.py .lab/portal.git")
        yield there
    finally:
        scene.remove()


@pytest.fixture(scope="session")
def newer_payloads(controller: Controller, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of artifacts as the Debian 13 controller's build left it."""
    room = tmp_path_factory.mktemp("trixie")
    packed = subprocess.run(
        controller.scene.lab.ssh_command("ctl1", f"tar --create --directory {CHECKOUT_THERE}/artifacts {APPLICATION}"),
        capture_output=True,
        check=True,
    ).stdout
    subprocess.run(["tar", "--extract", "--no-same-owner", "--directory", str(room)], input=packed, check=True)
    return room
