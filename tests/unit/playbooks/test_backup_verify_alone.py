"""The playbook that docs/backups.md gives to those who use nothing else of ours, word for word."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
from pathlib import Path

import pytest

from .test_hosts_are_meant import ROOT, play

PASSWORD = "the shop's own"
ROWS = 1000


def restic(directory: Path, *arguments: str) -> None:
    environment = {**os.environ, "RESTIC_PASSWORD": PASSWORD, "RESTIC_REPOSITORY": str(directory / "repository")}
    subprocess.run(["restic", "--no-cache", *arguments], cwd=directory, env=environment, check=True)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A repository as somebody else's script writes it, and the playbook beside it."""
    data = tmp_path / "srv" / "shop"
    (data / "media").mkdir(parents=True)
    (data / "media" / "chair.jpg").write_bytes(os.urandom(50_000))
    with sqlite3.connect(data / "shop.sqlite3") as connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, made TEXT)")
        connection.executemany("INSERT INTO orders (made) VALUES (datetime('now'))", [() for _order in range(ROWS)])
    connection.close()
    restic(tmp_path, "init")
    restic(tmp_path, "backup", "srv")
    text = (ROOT / "docs" / "backups.md").read_text(encoding="utf-8").partition("## A repository of your own")[2]
    block = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert block is not None
    (tmp_path / "prove.yml").write_text(block[1], encoding="utf-8")
    return tmp_path


def prove(shop: Path) -> tuple[int, str]:
    """The playbook on this machine, with all that Ansible can be made to say."""
    variables = shop / "variables.yml"
    variables.write_text(f"shop_repository: {shop}/repository\nshop_repository_password: {PASSWORD}\n")
    hosts = "backup_servers: {hosts: {here: {ansible_connection: local}}}\n"
    playbook = os.path.relpath(shop / "prove", ROOT / "playbooks")
    return play(playbook, hosts, shop, "-e", f"@{variables}", "-vvv", callback="ansible.builtin.default")


def test_a_sound_repository_is_proven_and_its_password_is_not_told(shop: Path) -> None:
    code, said = prove(shop)
    assert code == 0, said
    assert '"level": 4' in said
    assert PASSWORD not in said


def test_what_does_not_hold_is_told_in_one_sentence(shop: Path) -> None:
    with sqlite3.connect(shop / "srv" / "shop" / "shop.sqlite3") as connection:
        connection.execute("DELETE FROM orders WHERE id = 1")
    connection.close()
    restic(shop, "backup", "srv")
    code, said = prove(shop)
    assert code == 2, said
    sentence = f"The table orders of /srv/shop/shop.sqlite3 has {ROWS - 1} rows and {ROWS} were expected at least."
    assert f"Level 4 does not hold: {sentence}" in said
    assert sentence in (ROOT / "docs" / "backups.md").read_text(encoding="utf-8")
