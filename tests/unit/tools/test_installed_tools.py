"""The tools that the collection ships find the library, the Vault password and the inventory where no checkout is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A directory with an ansible.cfg of its own, as whoever installed the collection has."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "password").write_text("not the lab's\n")
    (work / "ansible.cfg").write_text("[defaults]\nvault_password_file = password\n")
    installed = tmp_path / "collections" / "ansible_collections" / "backstay" / "ops"
    shutil.copytree(ROOT / "plugins" / "module_utils", installed / "plugins" / "module_utils")
    (installed / "tools").mkdir()
    for name in ("import_environment.py", "make_secrets.py"):
        shutil.copy(ROOT / "tools" / name, installed / "tools" / name)
    return work


def run(work: Path, tool: str, *words: str) -> subprocess.CompletedProcess[str]:
    file = work.parent / "collections" / "ansible_collections" / "backstay" / "ops" / "tools" / tool
    own = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "PYTHON"))}
    return subprocess.run(
        [sys.executable, str(file), *words], cwd=work, env=own, capture_output=True, text=True, check=False
    )


def test_the_environment_is_imported(work: Path) -> None:
    (work / ".env.example").write_text("SECRET_KEY=change-me\nDEBUG=false\n")
    done = run(work, "import_environment.py", ".env.example")
    assert yaml.safe_load(done.stdout)["environment"]["required"] == ["SECRET_KEY"], done.stderr


def test_secrets_are_made_with_the_callers_own_password(work: Path) -> None:
    (work / "mine" / "applications").mkdir(parents=True)
    (work / "mine" / "applications" / "shop.yml").write_text("environment: {secret: [SECRET_KEY]}\n")
    done = run(work, "make_secrets.py", "mine")
    assert "made shop: SECRET_KEY" in done.stdout, done.stderr
    assert (work / "mine" / "signing_key").is_file()
    vault = work / "mine" / "group_vars" / "app_servers" / "vault.yml"
    seen = subprocess.run(
        [str(Path(sys.executable).parent / "ansible-vault"), "view", "--vault-password-file=password", str(vault)],
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
    )
    assert len(yaml.safe_load(seen.stdout)["backstay_secrets"]["shop"]["SECRET_KEY"]) > 50, seen.stderr


def test_without_an_example_the_inventory_is_asked_for(work: Path) -> None:
    assert run(work, "make_secrets.py").stderr == "make_secrets: name the inventory, such as inventories/mine.\n"
