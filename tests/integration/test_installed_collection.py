"""The collection as Galaxy would give it: built from a clean export, and run where no checkout is in sight."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from backstay_lab.layout import CHECKOUT
from backstay_lab.scene import Scene

BIN = Path(sys.executable).parent
# Files of applications lie beside the inventory and are no inventory: the pattern keeps Ansible from reading them.
CONFIGURATION = f"""\
[defaults]
collections_path = collections
inventory = {CHECKOUT / "inventories" / "example"}
vault_password_file = {CHECKOUT / "lab" / "vault-password"}
stdout_callback = backstay.ops.progress
[inventory]
ignore_patterns = ^applications$, ^signing_key, ^allowed_signers$
"""
# What a user gets; whatever else the tree holds stays here.
SHIPPED_ROOMS = ("changelogs", "docs", "meta", "playbooks", "plugins", "requirements", "roles")
SHIPPED_TOOLS = ("tools/import_environment.py", "tools/make_secrets.py")
SHIPPED_FILES = ("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "requirements.yml", *SHIPPED_TOOLS)


def run(command: Sequence[str], directory: Path) -> str:
    """What a command prints; it has to succeed. Nothing of this checkout's configuration reaches it."""
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=directory,
        env={name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "PYTHON"))},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-4000:]}"
    return done.stdout


def tree() -> list[str]:
    """The files of this checkout that are its own: what git knows, or would with the next commit."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [name for name in listed.split("\0") if name and (CHECKOUT / name).is_file()]


@dataclass(frozen=True)
class Installed:
    """A working directory that holds an ansible.cfg and the collection, nothing else."""

    directory: Path
    tarball: Path

    def play(self, playbook: str, scene: Scene, **extra: Any) -> str:
        values = json.dumps({"lab": scene.name, "backstay_artifacts": str(scene.artifacts), **extra})
        # The lab's own inventory says that it has no five minutes to watch a release.
        inventories = [CHECKOUT / "inventories" / "example", scene.directory / "inventory"]
        where = [word for directory in inventories for word in ("-i", str(directory))]
        return run(["ansible-playbook", f"backstay.ops.{playbook}", *where, "-e", values], self.directory)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    room = tmp_path_factory.mktemp("installed")
    export, directory = room / "export", room / "work"
    directory.mkdir()
    for name in tree():
        (export / name).parent.mkdir(parents=True, exist_ok=True)
        (export / name).write_bytes((CHECKOUT / name).read_bytes())
    run(["ansible-galaxy", "collection", "build", "--output-path", str(room)], export)
    [tarball] = room.glob("backstay-ops-*.tar.gz")
    (directory / "ansible.cfg").write_text(CONFIGURATION, encoding="utf-8")
    # Its dependency, community.crypto, came with the Python package "ansible".
    install = ["ansible-galaxy", "collection", "install", "--offline", "--no-deps", "-p", "collections", str(tarball)]
    run(install, directory)
    return Installed(directory, tarball)


def test_the_tarball_holds_what_users_need_and_nothing_else(installed: Installed) -> None:
    with tarfile.open(installed.tarball) as archive:
        shipped = {member.name for member in archive.getmembers() if member.isfile()}
        listed = json.load(archive.extractfile("FILES.json"))["files"]  # type: ignore[arg-type]  # it is a file
    assert {entry["name"] for entry in listed if entry["ftype"] == "file"} | {"FILES.json", "MANIFEST.json"} == shipped
    expected = {name for name in tree() if name.split("/")[0] in SHIPPED_ROOMS or name in SHIPPED_FILES} - {
        name for name in tree() if name.endswith(".gitkeep")
    }
    assert sorted(expected - shipped) == [], "missing: see `manifest:` in galaxy.yml"
    assert sorted(shipped - expected - {"FILES.json", "MANIFEST.json"}) == [], "shipped, and nobody asked for it"
    for room in ("playbooks/release.yml", "roles/nginx/tasks/main.yml", "plugins/modules/release.py", *SHIPPED_TOOLS):
        assert room in shipped


def test_it_is_the_installed_collection_that_is_found(installed: Installed) -> None:
    found = json.loads(
        run(["ansible-galaxy", "collection", "list", "--format", "json", "backstay.ops"], installed.directory)
    )
    assert list(found) == [str(installed.directory / "collections" / "ansible_collections")]


def test_every_module_and_plugin_is_documented_there(installed: Installed) -> None:
    for kind, room in (("module", "modules"), ("lookup", "lookup"), ("filter", "filter"), ("callback", "callback")):
        names = {
            f"backstay.ops.{Path(name).stem}"
            for name in tree()
            if name.startswith(f"plugins/{room}/") and name.endswith(".py") and not name.endswith("__init__.py")
        }
        listed = json.loads(run(["ansible-doc", "--json", "--list", "-t", kind, "backstay.ops"], installed.directory))
        assert set(listed) == names, f"{kind}: {sorted(names ^ set(listed))}"
        undocumented = [name for name, line in listed.items() if not line or line == "UNDOCUMENTED"]
        assert undocumented == []


def test_its_tools_run_where_no_checkout_is(installed: Installed) -> None:
    """What every build needs, a signing key and secrets, is made from what the documents tell people to type."""
    tools = Path("collections") / "ansible_collections" / "backstay" / "ops"
    (installed.directory / "mine" / "applications").mkdir(parents=True)
    (installed.directory / ".env.example").write_text("SECRET_KEY=change-me\nDEBUG=false\n")
    block = run(["python", str(tools / "tools/import_environment.py"), ".env.example"], installed.directory)
    (installed.directory / "mine" / "applications" / "shop.yml").write_text(block)
    said = run(["python", str(tools / "tools/make_secrets.py"), "mine"], installed.directory)
    assert "made shop: SECRET_KEY" in said
    assert {"allowed_signers", "signing_key"} <= {path.name for path in (installed.directory / "mine").iterdir()}
    vault = installed.directory / "mine" / "group_vars" / "app_servers" / "vault.yml"
    assert vault.read_text().startswith("$ANSIBLE_VAULT;"), "by the password of the caller's own ansible.cfg"


def test_it_releases_and_rolls_back(installed: Installed, at_1_0: Scene) -> None:
    before = at_1_0.live()
    with at_1_0.load(rate=20.0) as load:
        said = installed.play("release", at_1_0, version="1.1.0", why="from the installed collection")
        status = at_1_0.status()
        assert (status["live"]["version"], status["live"]["why"]) == ("1.1.0", "from the installed collection"), said
        installed.play("rollback", at_1_0, why="and back")
        result = load.stop()
    assert at_1_0.live() == before
    assert result.requests > 50
    assert result.failed == 0, result.failures


def test_a_second_run_of_site_changes_nothing(installed: Installed, at_1_0: Scene) -> None:
    """The library that the installed collection carries is the very one that the checkout's site.yml has installed."""
    library = at_1_0.lab.ssh("app1", "ls /usr/lib/backstay").stdout
    installed.play("site", at_1_0)  # what the tests before have declared otherwise is as it was
    assert at_1_0.lab.ssh("app1", "ls /usr/lib/backstay").stdout == library
    said = installed.play("site", at_1_0)
    counted = [line.split() for line in said.splitlines() if line.split()[:1] in (["app1"], ["build1"])]
    assert len([line for line in counted if len(line) > 4]) >= 2, said
    changed = {line[0]: line[2] for line in counted if len(line) > 4 and line[2].isdigit()}
    assert changed == {"app1": "0", "build1": "0"}, said
