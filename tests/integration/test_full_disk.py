"""A disk that fills up while a release is being staged: it fails in one sentence, and nothing else is harmed.

The host has one small disk for everything that Backstay writes, as a rented server has: the journal's disk is full too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from backstay_lab.scene import APPLICATION, DOMAIN, Played, Scene

UNIT = f"backstay-transaction@{APPLICATION}.service"
HOME = f"/opt/{APPLICATION}"
DISK = "/opt"
ON_IT = ("--limit", "app1,localhost")  # it has no build host: the payloads are there


@pytest.fixture(scope="module")
def small(scene: Scene) -> Iterator[Scene]:
    """A host in a lab of its own, with little room, to which nothing was released; `scene` has built the payloads."""
    stage = Scene(f"{scene.name}-disk", print)
    stage.remove()
    stage.prepare(("app1",), image="prepared", disks=(f"{DISK}:500m",))
    stage.lab.ssh("app1", f"mkdir -p {DISK}/state /var/lib/backstay && mount --bind {DISK}/state /var/lib/backstay")
    stage.declare(releases={"free_bytes": 1 << 20, "free_memory_bytes": 0})
    stage.play("site", *ON_IT)
    yield stage
    stage.remove()


@pytest.fixture
def serving(small: Scene) -> Scene:
    """That host with a live and a warm release."""
    if small.live() is None:
        small.release("1.0.0", why="the first")
    if small.status()["warm"] is None:
        small.backstay("release", "--again", APPLICATION)
    return small


@contextmanager
def released_onto_a_full_disk(scene: Scene, version: str, step: str, *, leave_bytes: int = 0) -> Iterator[Played]:
    """A release whose disk is full from the beginning of a step on; there is room again when this ends.

    The service stops itself at the record of that step, and is let go on when the disk is full.
    """
    directory = f"/run/systemd/system/{UNIT}.d"
    text = f"[Service]\\nEnvironment=BACKSTAY_FAILPOINT={step}:begin:STOP\\n"
    write = f"mkdir -p {directory} && printf '{text}' > {directory}/failpoint.conf && systemctl daemon-reload"
    scene.lab.ssh("app1", write)
    try:
        with ThreadPoolExecutor(1) as pool:
            release = pool.submit(scene.release, version, check=False, why=f"the disk fills at {step}")
            try:
                _until_stopped(scene)
                assert scene.lab.fill("app1", DISK, leave_bytes=leave_bytes) > 0
            finally:  # or the release would never end
                scene.lab.ssh("app1", f"systemctl kill --signal=CONT {UNIT}", check=False)
            played = release.result()
        yield played
    finally:
        scene.lab.unfill("app1", DISK)
        scene.lab.ssh("app1", f"rm -rf {directory} && systemctl daemon-reload")


def _until_stopped(scene: Scene, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    asked = f"ps -o stat= -p $(systemctl show -P MainPID {UNIT})"
    state = ""
    while time.monotonic() < deadline:
        state = scene.lab.ssh("app1", asked, check=False).stdout.strip()
        if state.startswith("T"):
            return
        time.sleep(0.1)
    raise AssertionError(f"the service did not stop at its failpoint within {seconds:g} s; its state is {state!r}")


def free_bytes(scene: Scene) -> int:
    return int(scene.lab.ssh("app1", f"df --output=avail -B1 {DISK} | tail -n 1").stdout)


def listed(scene: Scene, directory: str) -> list[str]:
    """What is in a directory, hidden entries included."""
    return sorted(scene.lab.ssh("app1", "ls", "-A", f"{HOME}/{directory}").stdout.split())


def one_sentence(played: Played) -> str:
    """The reason that a failed playbook ended with, its line breaks folded."""
    return " ".join(played.output.split())


def recovered(scene: Scene, seconds: float = 60.0) -> dict[str, object]:
    """The status when no transaction is open any more: room was made, and nobody did anything else."""
    deadline = time.monotonic() + seconds
    status = scene.status()
    while status["transaction_open"] and time.monotonic() < deadline:
        time.sleep(0.3)
        status = scene.status()
    assert not status["transaction_open"], status
    return status


def test_a_disk_that_fills_while_the_virtualenv_is_made_leaves_nothing_behind(small: Scene) -> None:
    before = small.live()
    with released_onto_a_full_disk(small, "1.0.0", "environment", leave_bytes=3_000_000) as played:
        assert not played.ok
        sentence = one_sentence(played)
        assert f"could not be made in {HOME}/environments: No space left on device; free some space" in sentence
    status = recovered(small)
    assert status["live"] == before is None
    assert listed(small, "environments") == []
    assert listed(small, "releases") == []


def test_a_rollback_needs_no_room(serving: Scene) -> None:
    before = serving.status()
    assert before["warm"] is not None
    serving.lab.fill("app1", DISK)
    try:
        told = serving.backstay("rollback", "--json", "--why=full", APPLICATION, check=False)
        assert told["ok"], told
        assert free_bytes(serving) < 4 << 20, "the disk was not full"
        assert serving.live() == before["warm"]["id"]
    finally:
        serving.lab.unfill("app1", DISK)
    recovered(serving)


def test_a_disk_that_fills_while_staging_harms_nothing_that_serves(serving: Scene) -> None:
    before = serving.status()
    releases = listed(serving, "releases")
    room = free_bytes(serving)
    page = f"curl -ks -o /dev/null -w '%{{http_code}}' --resolve {DOMAIN}:443:127.0.0.1 https://{DOMAIN}/"
    warm = f"curl -s -o /dev/null -w '%{{http_code}}' --unix-socket /run/{APPLICATION}/{before['warm']['id']}/web.sock"
    with released_onto_a_full_disk(serving, "1.1.0", "stage") as played:
        assert not played.ok
        sentence = one_sentence(played)
        assert f"could not be unpacked into {HOME}/releases: No space left on device; free some space" in sentence
        assert serving.lab.ssh("app1", page).stdout == "200", "the live release does not answer on a full disk"
        assert serving.lab.ssh("app1", f"{warm} http://x/livez/").stdout == "200", "the warm release does not answer"
        assert listed(serving, "releases") == releases
        assert serving.status()["live"] == before["live"]
    status = recovered(serving)
    assert status["live"] == before["live"]
    assert status["warm"] == before["warm"]
    assert status["warm_running"]
    assert "No space left on device" in status["last_failed"]["reason"]  # type: ignore[index]  # JSON
    # All but the payload, which a second attempt need not send again, is given back.
    payload = 30 << 20
    assert free_bytes(serving) > room - payload
    assert listed(serving, "releases") == releases
    serving.release("1.1.0", why="with room again")
    assert serving.status()["live"]["version"] == "1.1.0"
