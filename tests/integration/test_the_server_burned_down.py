"""The worst day: a host is gone with everything on it; a repository elsewhere and the offline key bring it back."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from backstay_lab.layout import CHECKOUT
from backstay_lab.scene import APPLICATION, Scene
from backstay_lab.stores import SftpStore

LAB = os.environ.get("BACKSTAY_LAB") or "test"
NO_VAULT = CHECKOUT / ".lab" / f"{LAB}-without-vault"  # as deep as an inventory of the checkout: it names paths
PASSWORD = "for this test alone, and long enough"


@pytest.fixture
def burning(tmp_path: Path) -> Iterator[Scene]:
    """A host whose restore points go to an SFTP server on another host."""
    stage = Scene(f"{LAB}-burned", lambda line: print(line, flush=True))
    stage.remove()
    shutil.rmtree(NO_VAULT, ignore_errors=True)
    stage.prepare(("app1", "build1"), image="prepared")
    store = SftpStore(stage.lab, "build1")
    store.start()
    place = store.place("portal")
    repositories = {"offsite": {"location": place.location}, "disk": {"location": "/srv/backup/own", "own_disk": False}}
    stage.declare(backup={"repositories": repositories})
    secrets = {"offsite": {"password": PASSWORD, **place.secrets}, "disk": {"password": PASSWORD}}
    stage.backup_secrets = {APPLICATION: secrets}
    stage.play("site")
    stage.build("1.1.0")
    stage.release("1.1.0", why="the first")
    stage.manage("seed", "--audits", "10000")
    yield stage
    stage.remove()
    shutil.rmtree(NO_VAULT, ignore_errors=True)


@pytest.mark.long
def test_a_new_host_is_rebuilt_by_one_command_and_nothing_of_the_last_backup_is_missing(
    burning: Scene, tmp_path: Path
) -> None:
    with burning.load(rate=40.0, seconds=60.0) as visitors:
        time.sleep(8.0)
        result = visitors.stop()
    tokens = [write.token for write in result.writes]
    assert tokens
    made = burning.backstay("backup", "--json", APPLICATION)
    assert made["repositories"] == ["disk", "offsite"]
    burning.backstay("escrow", "--to=/root/portal.key", APPLICATION)
    key = tmp_path / "portal.key"
    key.write_text(burning.lab.ssh("app1", "cat /root/portal.key").stdout)

    drill = burning.play("drill", drill_host="build1", key=str(key), app=APPLICATION, repository="offsite", check=False)
    assert drill.ok, drill.last_lines(30)
    assert "holds on level 5" in " ".join(drill.output.split())

    burning.lab.down(("app1",))
    burning.lab.up(("app1",), release="trixie", image="prepared")
    # Vault is lost, too: of secrets there is nothing left but what the key opens.
    known = burning.lab.ssh("app1", f"ls /etc/backstay/{APPLICATION}/secrets.json", check=False)
    assert not known.ok
    burning.backup_secrets = {}
    shutil.copytree(CHECKOUT / burning.inventory, NO_VAULT, ignore=shutil.ignore_patterns("vault.yml"))
    burning.inventory = str(NO_VAULT)
    gone = burning.play("rebuild", key=str(key), repository="disk", check=False)
    assert not gone.ok, "the repository that is named burned with the host"
    assert "holds on level 2" not in gone.output, "another one was asked"
    assert burning.lab.ssh("app1", f"ls -d /etc/backstay/{APPLICATION} 2>/dev/null", check=False).stdout == ""
    began = time.monotonic()
    played = burning.play("rebuild", key=str(key), why="the server burned down", check=False)
    assert played.ok, played.last_lines(40)
    print(f"rebuilt in {time.monotonic() - began:.0f} s, the host's own provisioning included")

    assert PASSWORD not in played.output
    assert burning.get("/").status == 200
    assert burning.missing_writes(tokens) == []
    status = burning.status()
    assert status["live"]["version"] == "1.1.0"
    timers = burning.lab.ssh("app1", f"systemctl is-enabled backstay-backup@{APPLICATION}.timer").stdout
    assert timers.strip() == "enabled", "it is backed up at its time again"
    points = burning.backstay("backups", "--json", APPLICATION)["points"]
    assert points[0]["run"] == made["run"]
    # And it goes on from there: the next point is chained to those of the host before it, and can be proven.
    again = burning.backstay("backup", "--json", APPLICATION, check=False)
    assert "offsite" in again["repositories"], again
    found = burning.backstay("verify", "--level=L4", "--repository=offsite", "--json", APPLICATION, check=False)
    assert found["ok"], json.dumps(found)
    lent = "ls -d /run/backstay-key-* /run/backstay-recalled-* 2>/dev/null"
    assert burning.lab.ssh("app1", lent, check=False).stdout == ""
