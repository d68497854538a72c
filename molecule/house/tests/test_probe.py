"""A host asks for the applications of others. Here it is shown its own front door, which has nothing behind it, and one
of a host whose cable is pulled."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

FILE = "/etc/backstay/probe.json"
MINUTES = "/var/lib/backstay/.probe/minutes.json"
FLAG = "/opt/harbour/maintenance.on"
INBOX = "/var/mail/inbox"
PEER = "molecule-peer"
# It answers every visitor with 200, which is all that this host asks of others.
DOOR = (
    "cd /run && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=peer"
    " -keyout door.key -out door.crt && exec openssl s_server -accept 443 -cert door.crt -key door.key -www -quiet"
)


def test_it_is_told_of_every_other_host_and_root_alone_may_read_it(host: Host) -> None:
    told = json.loads(host.file(FILE).content_string)
    assert host.file(FILE).mode == 0o600
    assert [f"{each['application']}@{each['host']}" for each in told["targets"]] == ["audit-portal@molecule-full"]
    assert host.file("/etc/backstay/probe-ca.pem").contains("BEGIN CERTIFICATE")


def test_it_asks_each_minute(host: Host) -> None:
    assert host.service("backstay-probe.timer").is_enabled
    assert host.service("backstay-probe.timer").is_running


@contextmanager
def watching(probe: Host, **target: Any) -> Iterator[None]:
    """The host watches this and nothing else, and asks when it is told to."""
    told = json.loads(probe.file(FILE).content_string)
    told["targets"] = [{**told["targets"][0], **target}]
    probe.run(f"systemctl stop backstay-probe.timer backstay-probe.service; mv {FILE} {FILE}.kept")
    probe.run(f"umask 077; echo %s > {FILE}", json.dumps(told))
    try:
        yield
    finally:
        probe.run(f"mv {FILE}.kept {FILE}; systemctl start backstay-probe.timer")


@pytest.fixture
def mirror(host: Host) -> Iterator[Host]:
    """The host watches its own front door, under its own name."""
    with watching(host, application="harbour", host="mirror", address="127.0.0.1", domain="harbour.lab.test"):
        yield host
    host.run(f"rm -f {FLAG}")


def asked(host: Host) -> dict[str, Any]:
    done = host.run("backstay probe --json")
    assert done.rc == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def seen(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = asked(host)["targets"][0]
    return found


def test_it_tells_a_maintenance_from_an_outage(mirror: Host) -> None:
    ill = seen(mirror)
    assert (ill["state"], ill["why"]) == ("down", "/healthz/ answered 502, expected 200"), ill
    mirror.run(f"touch {FLAG}")
    assert seen(mirror)["state"] == "maintenance"
    assert "never answered" in mirror.run("backstay probe").stdout


def test_a_file_that_is_wrong_is_refused(mirror: Host) -> None:
    mirror.run(f"sed -i 's|/healthz/|healthz|' {FILE}")
    refused = mirror.run("backstay probe --check")
    assert refused.rc == 2, refused.stdout
    assert "`targets[0].path`" in refused.stderr


def lab(lab_directory: Path, verb: str, *arguments: str) -> str:
    """The tool of the lab, for this lab."""
    command = [str(lab_directory.parent.parent / "lab" / "lab"), "--lab", lab_directory.name, verb, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, f"lab {verb} failed: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def peer(lab_directory: Path) -> Iterator[str]:
    """The address of another host, with a front door."""
    debian = os.environ.get("BACKSTAY_DEBIAN") or "trixie"
    lab(lab_directory, "up", PEER, "--release", debian, "--image", "prepared")
    try:
        lab(lab_directory, "ssh", PEER, f"systemd-run --quiet --unit=door sh -c '{DOOR}'")
        yield str(json.loads((lab_directory / "hosts.json").read_text())["hosts"][PEER]["address"])
    finally:
        lab(lab_directory, "down", PEER)


def a_minute_passes(host: Host) -> None:
    """For the probe, which counts a minute once: as though its last round were longer ago."""
    known = json.loads(host.file(MINUTES).content_string)
    for record in known["targets"].values():
        record["minute"] -= 1
    host.run(f"umask 077; echo %s > {MINUTES}", json.dumps(known))


def messages(host: Host) -> list[str]:
    lines = host.run(f"cat {INBOX}").stdout.splitlines()
    return [line.removeprefix("Subject: ") for line in lines if line.startswith("Subject: ")]


def test_a_cut_network_is_told_once_and_spends_the_budget(
    host: Host, peer: str, lab_directory: Path, becomes: Callable[[Callable[[], bool], str], None]
) -> None:
    host.run(f": > {INBOX}")
    with watching(host, host=PEER, address=peer, domain="portal.lab.test", verify=False, ca_file=None):
        becomes(lambda: seen(host)["state"] == "up", "its door answers")
        a_minute_passes(host)

        lab(lab_directory, "cut", PEER)
        for _round in range(2):
            cut = asked(host)
            assert cut["away"] == "", "the cable of this host is in"
            assert cut["targets"][0]["state"] == "down", cut
        assert lab(lab_directory, "exec", PEER, "systemctl", "is-active", "door").strip() == "active", "its host lives"
        told = messages(host)
        assert len(told) == 1, told
        spent = cut["targets"][0]
        assert spent["minutes"]["down"] >= 1, spent
        assert spent["spent"] == pytest.approx(spent["minutes"]["down"] / 43.2, abs=0.001), spent

        lab(lab_directory, "heal", PEER)
        becomes(lambda: seen(host)["state"] == "up", "its door answers again")
        back = seen(host)
        told = messages(host)
        assert [subject.split()[0] for subject in told] == ["[PAGE]", "[OVER]"], told
        assert all(f"molecule-house: audit-portal@{PEER} is not there for visitors" in subject for subject in told), (
            told
        )
        assert back["minutes"]["down"] >= 1, "what was spent stays spent"
