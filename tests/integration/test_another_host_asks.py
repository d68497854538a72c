"""A host that died tells nobody: another one notices within two minutes, tells it once, and the minutes are spent."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from backstay_lab.scene import APPLICATION, Scene

PROBE, INBOX = "build1", "/var/mail/inbox"
NOTICED_SECONDS = 120.0
pytestmark = pytest.mark.long


@pytest.fixture
def watched(standing: Scene) -> Iterator[Scene]:
    """The build host watches the application server, and has a sendmail that keeps what it is given."""
    declared = standing.directory / "inventory" / "probes.yml"
    values = {
        # The example says this by its own directory, and this host has another one too.
        "ansible_ssh_common_args": f"-F {standing.directory / 'ssh_config'}",
        "probe_ca_certificate": str(standing.ca),
    }
    declared.write_text(json.dumps({"probes": {"hosts": {PROBE: None}, "vars": values}}), encoding="utf-8")
    sink = f"printf '#!/bin/sh\\ncat >> {INBOX}\\n' > /usr/sbin/sendmail; chmod 755 /usr/sbin/sendmail; : > {INBOX}"
    try:
        standing.play("site")
        standing.lab.ssh(PROBE, sink)
        yield standing
    finally:
        standing.lab.heal(PROBE)
        standing.lab.start("app1")
        declared.unlink()
        forget = "systemctl disable -q --now backstay-probe.timer; rm -rf /etc/backstay/probe* /var/lib/backstay/.probe"
        standing.lab.ssh(PROBE, f"{forget} /usr/sbin/sendmail")


def asked(scene: Scene) -> dict[str, Any]:
    """A round by hand, as the timer's unit makes it; works where the host has no network."""
    done = scene.lab.exec(PROBE, "backstay", "probe", "--json", check=False)
    assert done.ok, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def known(scene: Scene) -> dict[str, Any]:
    """What the probe knows, without asking."""
    found: dict[str, Any] = scene.backstay("status", "--json", host=PROBE, check=False)["outside"][0]
    return found


def subjects(scene: Scene) -> list[str]:
    lines = scene.lab.exec(PROBE, "cat", INBOX).stdout.splitlines()
    return [line.removeprefix("Subject: ") for line in lines if line.startswith("Subject: ")]


def becomes(good: Callable[[], Any], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not good():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(1.0)


def test_a_dead_host_is_noticed_by_another_and_told_once(watched: Scene, tmp_path: Path) -> None:
    becomes(lambda: known(watched)["state"] == "up", 75, "the timer asked, and was answered through TLS")
    assert known(watched)["minutes"]["down"] == 0

    # The timer alone.
    watched.lab.kill("app1")
    becomes(lambda: subjects(watched), NOTICED_SECONDS, "somebody is told that the host is dead")
    told = subjects(watched)
    assert len(told) == 1, told
    assert f"[PAGE] {PROBE}: {APPLICATION}@app1 is not there for visitors" in told[0]
    becomes(lambda: known(watched)["minutes"]["down"] >= 2, 90, "minutes that it was away are counted")
    spent = known(watched)["spent"]
    assert spent == pytest.approx(known(watched)["minutes"]["down"] / 43.2, abs=0.001)
    assert watched.backstay("incidents", "--json", host=PROBE, check=False)["open"][0]["incident"]["key"] == (
        f"{APPLICATION}@app1/health:outside"
    )

    # The page of all hosts.
    played = watched.play("status", directory=str(tmp_path))
    row = json.loads((tmp_path / "status.json").read_text(encoding="utf-8"))["rows"][0]
    assert (row["application"], row["host"], row["state"]) == (APPLICATION, "app1", "red"), played.output
    cell = {each["name"]: each for each in row["cells"]}["uptime"]
    assert (cell["state"], cell["source"]) == ("red", PROBE), cell
    assert any("is not there for visitors" in event["sentence"] for event in row["events"]), row["events"]

    # Rounds by hand from here on.
    watched.lab.exec(PROBE, "systemctl", "stop", "backstay-probe.timer", "backstay-probe.service")
    watched.lab.start("app1")
    becomes(lambda: asked(watched)["targets"][0]["state"] == "up", 90, "the host is back")
    asked(watched)
    told = subjects(watched)
    assert [subject.split()[0] for subject in told] == ["[PAGE]", "[OVER]"], told
    assert watched.backstay("incidents", "--json", host=PROBE)["open"] == []
    down = known(watched)["minutes"]["down"]

    # A declared maintenance is none of it.
    watched.backstay("maintenance", "on", APPLICATION)
    try:
        assert asked(watched)["targets"][0]["state"] == "maintenance"
    finally:
        watched.backstay("maintenance", "off", APPLICATION)

    # Nor is a probe without a network.
    watched.lab.cut(PROBE)
    try:
        asked(watched)
        alone = asked(watched)
    finally:
        watched.lab.heal(PROBE)
    assert alone["away"], alone
    assert alone["targets"][0]["state"] == "unknown"
    asked(watched)
    assert f"{PROBE} reaches nobody" in subjects(watched)[2]
    assert known(watched)["minutes"]["down"] == down
    assert not [subject for subject in subjects(watched)[2:] if f"{APPLICATION}@app1" in subject]
