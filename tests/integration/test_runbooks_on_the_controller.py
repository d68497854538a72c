"""What the runbooks tell somebody to type on the controller is typed there: every line, word for word, on real hosts.

Behind a line stands only what a lab needs: its own inventory, and where the door is whose name nobody knows outside.
A line that is written into a runbook tomorrow is typed too: what has to be so around it, its playbook says.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from backstay_lab.layout import CHECKOUT
from backstay_lab.scene import APPLICATION, DOMAIN, Answer, Scene
from backstay_lab.stores import SftpStore
from runbook_commands import Typed, fenced, inline

from ansible_collections.backstay.ops.plugins.module_utils._attestation import ATTESTATION, sign

STATE = f"/var/lib/backstay/{APPLICATION}"
LAB = os.environ.get("BACKSTAY_LAB") or "test"
TYPED = sorted({Typed("", typed.command) for typed in (*fenced(), *inline()) if typed.on_controller})
LOOKING = [typed.command for typed in TYPED if typed.looks_only]
DOING = [typed.command for typed in TYPED if not typed.looks_only]
HOSTS = {"inventories/example": "app1", "inventories/staging": "app2"}
# What playbooks write where somebody types them, and what is a developer's alone.
WRITTEN = ("artifacts", "diagnoses", "status", ".git")
# Whatever a line that only looks could touch, but for the archives of `diagnose`.
WITNESS = (
    f"cat {STATE}/ledger.jsonl; ls {STATE}/artifacts /opt/{APPLICATION}/releases; readlink /opt/{APPLICATION}/active"
    "; find /etc/backstay /etc/nginx /etc/systemd/system /etc/cron.d /etc/logrotate.d -type f | sort | xargs sha256sum"
    f"; systemctl list-units --no-legend --plain '{APPLICATION}-*' | sort"
)


def short(line: str) -> str:
    return line.removeprefix("ansible-playbook playbooks/")


def playbook(line: str) -> str:
    return Path(shlex.split(line)[1]).stem


def variables(line: str) -> dict[str, str]:
    """What a line means to give with -e: quotes in quotes keep several words together for Ansible."""
    words = shlex.split(line)
    given = [after for word, after in itertools.pairwise(words) if word == "-e"]
    return {name: value.strip("\"'") for name, _, value in (each.partition("=") for each in given)}


def inventory(line: str) -> str:
    """Which inventory a line names; empty where it leaves that to whoever types it."""
    words = shlex.split(line)
    return words[words.index("-i") + 1] if "-i" in words else ""


class Desk:
    """A controller: a checkout in a directory of its own, where a key may lie and archives arrive."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.said = ""  # by the last line that was typed
        for entry in CHECKOUT.iterdir():
            if entry.name not in WRITTEN:
                (directory / entry.name).symlink_to(entry)

    @contextmanager
    def without_vault(self) -> Iterator[None]:
        """The inventories, but for the files of Vault."""
        inventories = self.directory / "inventories"
        inventories.unlink()
        shutil.copytree(CHECKOUT / "inventories", inventories, ignore=shutil.ignore_patterns("vault.yml"))
        try:
            yield
        finally:
            shutil.rmtree(inventories)
            inventories.symlink_to(CHECKOUT / "inventories")

    def type(self, line: str, scene: Scene, **extra: Any) -> None:
        """Type a line in a shell, as it stands there; it ends well."""
        if playbook(line) == "health":
            extra |= {"address": scene.address(HOSTS[scene.inventory]), "ca_file": str(scene.ca)}
        needed = scene.command("site", **extra)[2:]
        if inventory(line):
            assert needed[:2] == ["-i", inventory(line)], needed
            needed = needed[2:]
        environment = {name: value for name, value in os.environ.items() if name != "ANSIBLE_CONFIG"}
        done = subprocess.run(
            ["bash", "-c", f"{line} {shlex.join(needed)}"],
            cwd=self.directory,
            env={**environment, "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self.said = done.stdout
        if done.returncode:
            pytest.fail(f"{line}\nended with {done.returncode}:\n{self.said[-6000:]}")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("desk"))


# --- what only looks


@contextmanager
def only_built(scene: Scene, line: str) -> Iterator[None]:
    """The payload of a version that a line names was built, and not sent yet."""
    version = variables(line).get("version")
    if version is None:
        yield
        return
    sent = f"{STATE}/artifacts/{scene.payload(version)}.*"
    scene.lab.ssh("app1", f"install -d /root/sent; mv {sent} /root/sent 2>/dev/null", check=False)
    try:
        yield
    finally:
        scene.lab.ssh("app1", f"mv /root/sent/* {STATE}/artifacts 2>/dev/null; rmdir /root/sent", check=False)


def archives_are_kept_from_others(desk: Desk) -> None:
    room = desk.directory / "diagnoses"
    found = list(room.glob(f"{APPLICATION}-app1-*.tar.gz"))
    assert found, "no archive came"
    assert {path.stat().st_mode & 0o077 for path in (room, *found)} == {0}, "others can read it"


@pytest.mark.parametrize("line", LOOKING, ids=short)
def test_what_only_looks_ends_well_and_changes_nothing(at_1_0: Scene, desk: Desk, line: str) -> None:
    with only_built(at_1_0, line):
        before = at_1_0.lab.ssh("app1", WITNESS).stdout
        desk.type(line, at_1_0)
        assert at_1_0.lab.ssh("app1", WITNESS).stdout == before, f"it touched something:\n{desk.said}"
    tells = {
        "diagnose": "for the ticket: /var/lib/backstay",
        "health": "certificate",
        "release": "would release",
        "site": "(check mode: nothing is changed)",
    }
    assert tells.get(playbook(line), "") in desk.said, desk.said
    if playbook(line) == "diagnose":
        archives_are_kept_from_others(desk)
    assert at_1_0.get("/").status == 200


# --- what does something

PASSWORD = "for this test alone, and long enough"


class Staging(Scene):
    """The host of staging in the same lab, with an inventory and payloads of its own."""

    inventory = "inventories/staging"

    def __init__(self, name: str, directory: Path) -> None:
        super().__init__(name, print)
        self.directory = directory

    @property
    def ca(self) -> Path:
        return CHECKOUT / ".lab" / self.name / "ca" / "ca.crt"

    @property
    def artifacts(self) -> Path:
        return self.directory / "artifacts"


@dataclass(frozen=True)
class Place:
    """Where a line is typed, and whom it meets. `door` is the name under which visitors find the host."""

    desk: Desk
    scene: Scene
    host: str
    door: str

    def status(self) -> dict[str, Any]:
        return self.scene.status(self.host)

    def version(self) -> str | None:
        """The one that serves."""
        live = self.status()["live"]
        return None if live is None else str(live["version"])

    def ledger(self) -> str:
        return self.scene.lab.ssh(self.host, f"cat {STATE}/ledger.jsonl", check=False).stdout

    def visit(self) -> Answer:
        return self.scene.get("/", name=self.door, host=self.host)

    def audits(self) -> str:
        count = "from audits.models import Audit; print(Audit.objects.count())"
        return self.scene.manage("shell", "-v", "0", "-c", shlex.quote(count), host=self.host).strip()


def versions(named: str | None = None) -> list[str]:
    """The first, and all that the lines name, or those of them that name an inventory."""
    lines = [line for line in DOING if named in (None, inventory(line))]
    return sorted({"1.0.0", *(variables(line).get("version", "1.0.0") for line in lines)})


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, desk: Desk) -> Iterator[Mapping[str, Place]]:
    """The host that visitors use, whose restore points go to another host too, and the host of staging: by inventory.
    On the controller lies the key from the safe."""
    scene = Scene(f"{LAB}-runbooks", lambda line: print(line, flush=True))
    scene.remove()
    staging = Staging(scene.name, tmp_path_factory.mktemp("staging"))
    try:
        scene.prepare(("app1", "app2", "build1"), image="prepared")
        store = SftpStore(scene.lab, "build1")
        store.start()
        place = store.place("portal")
        disk = {"location": f"/srv/backup/{APPLICATION}", "own_disk": False}
        scene.declare(backup={"repositories": {"disk": disk, "offsite": {"location": place.location}}})
        scene.backup_secrets = {
            APPLICATION: {"disk": {"password": PASSWORD}, "offsite": {"password": PASSWORD, **place.secrets}}
        }
        scene.play("site")
        for version in versions():
            scene.build(version)
        scene.release("1.0.0", why="the first")
        scene.manage("seed", "--audits", "50")
        scene.backstay("backup", APPLICATION)
        scene.backstay("escrow", "--to=/root/portal.key", APPLICATION)
        key = desk.directory / "portal.key"
        key.touch(mode=0o600)
        key.write_text(scene.lab.ssh("app1", "cat /root/portal.key").stdout, encoding="utf-8")

        staging.prepare(("app2",), image="prepared")
        staging.play("site", "--limit", "app2,localhost")
        for version in versions(staging.inventory):
            room = staging.artifacts / APPLICATION / version
            room.mkdir(parents=True)
            for path, _name in scene.payload_files(version):
                shutil.copyfile(path, room / path.name)
            attestation = room / f"{APPLICATION}-{version}.attestation.json"
            sign(attestation, CHECKOUT / staging.inventory / "signing_key", ATTESTATION)  # who signs for staging
        staging.release("1.0.0", why="the first")
        yield {
            scene.inventory: Place(desk, scene, "app1", DOMAIN),
            staging.inventory: Place(desk, staging, "app2", f"staging.{DOMAIN}"),
        }
    finally:
        scene.remove()


@contextmanager
def build(place: Place, line: str) -> Iterator[None]:
    """Nobody has built it yet."""
    yield
    version = variables(line)["version"]
    names = {path.name for path in (place.desk.directory / "artifacts" / APPLICATION / version).iterdir()}
    stem = f"{APPLICATION}-{version}"
    assert {f"{stem}.tar", f"{stem}.attestation.json", f"{stem}.attestation.json.sig"} <= names, names


@contextmanager
def drill(place: Place, _line: str) -> Iterator[None]:
    yield
    assert "holds on level 5" in " ".join(place.desk.said.split()), place.desk.said


@contextmanager
def rebuild(place: Place, _line: str) -> Iterator[None]:
    """The host burned down, and Vault with it; a new host stands in its place, and the key was in the safe."""
    place.scene.backstay("backup", APPLICATION)
    before = (place.version(), place.audits())
    place.scene.lab.down((place.host,))
    place.scene.lab.up((place.host,), release="trixie", image="prepared")
    secrets, place.scene.backup_secrets = place.scene.backup_secrets, {}
    try:
        with place.desk.without_vault():
            yield
    finally:
        place.scene.backup_secrets = secrets
    assert (place.version(), place.audits()) == before


@contextmanager
def release(place: Place, line: str) -> Iterator[None]:
    """Another version serves than the one that is named; or what serves is to have another configuration."""
    given = variables(line)
    banner = given.get("why", "another")
    if "version" not in given:
        place.scene.declare(environment={"values": {"PORTAL_BANNER": banner}})
    elif place.version() == given["version"]:
        place.scene.release("1.0.0", why="so that there is something to release")
        place.scene.settled(place.host)
    before = place.version()
    yield
    if "version" not in given:
        assert banner in place.visit().body
    else:
        assert place.version() == given["version"]
    if "maintenance" in given:
        assert "Close the door" in place.desk.said, place.desk.said
        place.scene.rollback(reverse=True, why="releases before it cannot live with its migrations")
        assert place.version() == before


@contextmanager
def rollback(place: Place, _line: str) -> Iterator[None]:
    """An older release is warm."""
    while place.scene.settled(place.host)["warm"] is None:
        place.scene.release(again=True, why="so that there is something to go back to")
    warm = place.status()["warm"]["id"]
    yield
    assert place.status()["live"]["id"] == warm


@contextmanager
def site(place: Place, line: str) -> Iterator[None]:
    yield
    place.desk.type(f"{line} --check", place.scene)
    rows = place.desk.said.rpartition("\nhost ")[2].splitlines()[1:]
    changed = {row.split()[0]: int(row.split()[2]) for row in rows if len(row.split()) == 6}
    assert changed == dict.fromkeys(("app1", "build1"), 0), f"a second run changes something:\n{place.desk.said}"


# What has to be so before a line of a playbook is typed, and what is so after it.
AROUND: dict[str, Callable[[Place, str], AbstractContextManager[None]]] = {
    "build": build,
    "drill": drill,
    "rebuild": rebuild,
    "release": release,
    "rollback": rollback,
    "site": site,
}


@pytest.mark.long
@pytest.mark.parametrize("line", DOING, ids=short)
def test_what_does_something_does_it(places: Mapping[str, Place], line: str) -> None:
    named = inventory(line) or Scene.inventory
    assert named in places, f"no host of this lab stands for {named}"
    place = places[named]
    if place.version() is None:
        place.scene.release("1.0.0", why="a line before this one has left nothing")
    with AROUND[playbook(line)](place, line) if playbook(line) in AROUND else nullcontext():
        written = len(place.ledger())
        place.desk.type(line, place.scene, **({"backstay_artifacts": "artifacts"} if playbook(line) == "build" else {}))
        place.scene.settled(place.host)
        why = variables(line).get("why")
        assert why is None or json.dumps(why) in place.ledger()[written:], "the reason is not in the ledger"
    assert place.visit().status == 200, place.desk.said
    assert place.status()["maintenance"] is False
