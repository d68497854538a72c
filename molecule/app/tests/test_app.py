"""An application that is declared and not yet released: who may do what with what is there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest
from testinfra.host import Host

SECRET = "not-to-be-seen-anywhere"
Play = Callable[..., "subprocess.CompletedProcess[str]"]


def as_user(host: Host, user: str, command: str) -> int:
    return int(host.run(f"runuser --user {user} -- {command}").rc)


@pytest.fixture(scope="module", autouse=True)
def _stranger(host: Host) -> None:
    host.run("id stranger || useradd --system stranger")


def test_its_user_has_no_shell_and_no_sudo(host: Host) -> None:
    assert host.user("harbour").shell == "/usr/sbin/nologin"
    assert as_user(host, "harbour", "sudo -n true") != 0


@pytest.mark.parametrize(
    ("user", "command", "may"),
    [
        ("harbour", "touch /opt/harbour/data/db/proof", True),
        ("harbour", "touch /opt/harbour/data/media/proof", True),
        ("harbour", "touch /var/log/harbour/proof", True),
        ("harbour", "touch /opt/harbour/releases/proof", False),
        ("harbour", "touch /opt/harbour/static/proof", False),
        ("harbour", "ls /etc/backstay/harbour", False),
        ("harbour", "ls /var/lib/backstay/harbour", False),
        ("www-data", "ls /opt/harbour/data/media/", True),
        ("www-data", "ls /opt/harbour/data/db/", False),
        ("www-data", "touch /opt/harbour/data/media/proof", False),
        ("stranger", "ls /opt/harbour/data/media/", False),
        ("stranger", "ls /etc/backstay/harbour", False),
        ("stranger", "ls /var/log/harbour", False),
    ],
)
def test_who_may_do_what(host: Host, user: str, command: str, may: bool) -> None:
    done = host.run(f"runuser --user {user} -- {command}")
    assert (done.rc == 0) is may, f"{user}: {command}: {done.stdout}{done.stderr}"


def test_the_data_is_a_generation_behind_a_link(host: Host) -> None:
    assert host.file("/opt/harbour/data").is_symlink
    assert host.file("/opt/harbour/data").linked_to == "/opt/harbour/data.d/0001"


def test_the_validated_file_is_there_and_holds_no_secret(host: Host) -> None:
    text = host.file("/etc/backstay/harbour/application.json").content_string
    assert json.loads(text)["domain"] == "harbour.lab.test"
    assert SECRET not in text


def test_the_secret_is_in_one_file_that_only_root_reads(host: Host) -> None:
    places = host.run(f"grep -rlF {SECRET} /etc /opt /var/lib/backstay /var/log /run/systemd").stdout.split()
    assert places == ["/etc/backstay/harbour/secrets.json"]
    assert host.file(places[0]).mode == 0o600


def test_the_secret_is_not_in_the_journal(host: Host) -> None:
    host.run("journalctl --sync")
    assert host.run(f"journalctl --no-pager --output=cat | grep -cF {SECRET}").stdout.strip() == "0"


def test_the_transactions_socket_listens_for_root_alone(host: Host) -> None:
    assert host.service("backstay-transaction@harbour.socket").is_running
    assert host.service("backstay-recover@harbour.service").is_enabled
    assert host.file("/run/backstay/harbour.sock").mode == 0o600


def test_the_command_knows_the_application(host: Host) -> None:
    done = host.run("backstay status harbour --json")
    assert "nothing is live yet" in json.loads(done.stdout)["verdict"], done.stderr


@pytest.mark.parametrize("extra", [["-vvv"], ["--check", "--diff", "-vvv"]])
def test_the_secret_is_in_no_output(play: Play, extra: list[str]) -> None:
    done = play(*extra, "-e", '{"backstay_secrets": {"harbour": {"TOKEN": "another-one-not-to-be-seen"}}}')
    assert done.returncode == 0, done.stdout
    assert play().returncode == 0
    assert "not-to-be-seen" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ('{"backstay_secrets": {}}', "harbour requires TOKEN, missing or empty"),
        ('{"backstay_applications": ["nowhere"]}', "The application 'nowhere' has no file nowhere.yml"),
        ('{"backstay_applications": []}', "molecule-app has no list of applications"),
    ],
)
def test_wrong_input_is_refused_in_a_sentence(host: Host, play: Play, variables: str, said: str) -> None:
    before = host.run("find /etc/backstay /opt -printf '%p %T@\\n' | sort | sha256sum").stdout
    done = play("-e", variables)
    assert done.returncode != 0
    assert said in done.stdout
    after = host.run("find /etc/backstay /opt -printf '%p %T@\\n' | sort | sha256sum").stdout
    assert after == before


def test_a_directory_that_was_there_before_is_not_taken(host: Host, play: Play) -> None:
    host.run("mkdir -p /opt/quay && echo theirs > /opt/quay/file")
    done = play("--check", "-e", '{"backstay_applications": ["quay"], "backstay_secrets": {}}')
    assert done.returncode != 0
    assert "/opt/quay" in done.stdout
    assert host.file("/opt/quay/file").content_string == "theirs\n"
