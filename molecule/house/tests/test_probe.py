"""A host asks for the applications of others. Here it is shown its own front door, which has nothing behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from testinfra.host import Host

FILE = "/etc/backstay/probe.json"
FLAG = "/opt/harbour/maintenance.on"


def test_it_is_told_of_every_other_host_and_root_alone_may_read_it(host: Host) -> None:
    told = json.loads(host.file(FILE).content_string)
    assert host.file(FILE).mode == 0o600
    assert [f"{each['application']}@{each['host']}" for each in told["targets"]] == ["audit-portal@molecule-full"]
    assert host.file("/etc/backstay/probe-ca.pem").contains("BEGIN CERTIFICATE")


def test_it_asks_each_minute(host: Host) -> None:
    assert host.service("backstay-probe.timer").is_enabled
    assert host.service("backstay-probe.timer").is_running


@pytest.fixture
def mirror(host: Host) -> Iterator[Host]:
    """The host watches its own front door, under its own name."""
    told = json.loads(host.file(FILE).content_string)
    itself = {"application": "harbour", "host": "mirror", "address": "127.0.0.1", "domain": "harbour.lab.test"}
    told["targets"] = [{**told["targets"][0], **itself}]
    host.run(f"systemctl stop backstay-probe.timer backstay-probe.service; mv {FILE} {FILE}.kept")
    host.run(f"umask 077; echo %s > {FILE}", json.dumps(told))
    yield host
    host.run(f"mv {FILE}.kept {FILE}; rm -f {FLAG}; systemctl start backstay-probe.timer")


def seen(host: Host) -> dict[str, Any]:
    done = host.run("backstay probe --json")
    assert done.rc == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["targets"][0]
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
