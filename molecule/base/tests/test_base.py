"""A host that role base has seen to."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from testinfra.host import Host

Play = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def ada(host: Host) -> str:
    """What becomes user ada on the host."""
    assert host.user("ada").exists, "the inventory names ada as an administrator"
    return "runuser --user ada --"


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_virtualenvs_can_be_made(host: Host, module: str) -> None:
    done = host.run(f"python3 -c 'import {module}'")
    assert done.rc == 0, done.stderr


def test_extra_packages_are_there(host: Host) -> None:
    assert host.run("tree --version").rc == 0


def test_an_administrator_logs_in_with_her_key(lab_directory: Path) -> None:
    done = subprocess.run(
        ["ssh", "-F", f"{lab_directory}/ssh_config", "-o", "User=ada", "molecule-base", "sudo", "-n", "id", "-un"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout.strip() == "root", done.stderr


def test_others_have_no_sudo(host: Host) -> None:
    host.run("useradd --create-home eve")
    done = host.run("runuser --user eve -- sudo -n id")
    assert done.rc != 0, done.stdout


def test_keys_added_by_hand_survive(host: Host, ada: str, play: Play) -> None:
    host.run(f"{ada} sh -c 'echo ssh-ed25519 AAAAhand by-hand >> ~ada/.ssh/authorized_keys'")
    done = play()
    assert done.returncode == 0, done.stdout
    assert "by-hand" in host.file("/home/ada/.ssh/authorized_keys").content_string


def changes(done: subprocess.CompletedProcess[str]) -> int:
    """How many tasks changed something, from the table at the end."""
    found = re.search(r"^molecule-base +(\d+) +(\d+) ", done.stdout, re.MULTILINE)
    assert found is not None, done.stdout
    return int(found[2])


def test_who_had_a_user_before_keeps_shell_and_primary_group(host: Host, play: Play) -> None:
    host.run("useradd --create-home --no-user-group --gid users --shell /bin/dash bob")
    asked = json.dumps({"base_admins": [{"name": "bob", "keys": ["ssh-ed25519 AAAAbob bob"]}]})
    done = play("-e", asked)
    assert done.returncode == 0, done.stdout
    bob = host.user("bob")
    assert (bob.shell, bob.group) == ("/bin/dash", "users")
    assert "backstay-admin" in bob.groups
    keys = host.file("/home/bob/.ssh/authorized_keys")
    assert "ssh-ed25519 AAAAbob bob" in keys.content_string
    assert (keys.user, keys.group, keys.mode) == ("bob", "users", 0o600)
    assert host.user("ada").shell == "/bin/bash", "who had none gets the usual shell"
    again = play("-e", asked)
    assert changes(again) == 0, again.stdout


def test_a_name_that_cannot_be_a_users_is_refused_before_anything_is_touched(host: Host, play: Play) -> None:
    admins = [{"name": "carol", "keys": []}, {"name": "dave smith", "keys": []}]
    done = play("-e", json.dumps({"base_admins": admins, "base_packages": ["sl"]}))
    assert done.returncode != 0
    assert "The name 'dave smith' cannot be that of a user" in " ".join(done.stdout.split())
    assert not host.user("carol").exists
    assert not host.package("sl").is_installed


def test_packages_may_be_named_in_every_way_that_apt_knows_and_are_installed_once(host: Host, play: Play) -> None:
    architecture = host.run("dpkg --print-architecture").stdout.strip()
    named = ["awk", f"tree:{architecture}", "tree=2*"]  # awk is virtual
    done = play("-e", json.dumps({"base_packages": [*named, f"sl:{architecture}"]}))
    assert done.returncode == 0, done.stdout
    assert changes(done) == 1, done.stdout
    assert host.package("sl").is_installed
    again = play("-e", json.dumps({"base_packages": [*named, f"sl:{architecture}"]}))
    assert changes(again) == 0, again.stdout
    host.run("apt-get purge -y sl")


def test_the_journal_is_kept_and_bounded(host: Host) -> None:
    assert host.file("/var/log/journal").is_directory
    shown = host.run("journalctl --header | grep -c 'File path: /var/log/journal'").stdout
    assert int(shown) > 0, "journald writes to the disk"
    assert "SystemMaxUse=1073741824" in host.run("systemd-analyze cat-config systemd/journald.conf").stdout


def test_the_command_is_there(host: Host) -> None:
    done = host.run("backstay --version")
    assert done.rc == 0, done.stderr
    assert done.stdout.startswith("backstay ")


def test_sudoers_written_by_somebody_else_are_refused_and_kept(host: Host, play: Play) -> None:
    path = "/etc/systemd/journald.conf.d/backstay.conf"
    registry = host.file("/var/lib/backstay/files.json").content_string
    host.run(f"sed -i 's#{path}#/nowhere#' /var/lib/backstay/files.json; echo '# by hand' >> {path}")
    done = play()
    assert done.returncode != 0
    assert f"{path} exists and was not written by Backstay." in done.stdout
    assert "by hand" in host.file(path).content_string
    taken = play("-e", "base_adopt=keep")
    assert taken.returncode == 0, taken.stdout
    assert "by hand" not in host.file(path).content_string
    copies = host.run("find /var/lib/backstay/replaced -name backstay.conf").stdout.split()
    assert len(copies) == 1, f"a copy is kept; {registry=}"
    assert "by hand" in host.file(copies[0]).content_string


def test_check_mode_says_what_would_change_and_changes_nothing(host: Host, play: Play) -> None:
    done = play("--check", "--diff", "-e", "base_journal_max_days=3")
    assert done.returncode == 0, done.stdout
    assert "+MaxRetentionSec=3day" in done.stdout
    assert "MaxRetentionSec=14day" in host.file("/etc/systemd/journald.conf.d/backstay.conf").content_string


def test_an_unsupported_system_is_refused_before_anything_is_touched(host: Host, play: Play) -> None:
    other = 'ID=ubuntu\nVERSION_ID="24.04"\nPRETTY_NAME="Ubuntu 24.04"\n'
    host.run("cp /etc/os-release /root/os-release")
    host.run("printf %s > /etc/os-release", other)
    try:
        done = play("-e", '{"base_packages": ["sl"]}')
    finally:
        host.run("cat /root/os-release > /etc/os-release")
    assert done.returncode != 0
    assert "The host runs Ubuntu 24.04; Backstay supports Debian 12 and Debian 13" in done.stdout
    assert not host.package("sl").is_installed
