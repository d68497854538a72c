"""Mail leaves the host by one relay, waits for it where it is away, and no password is seen on the way."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

RELAY = Path(__file__).with_name("relay.py")
ROOM, INBOX = "/srv/relay", "/srv/relay/inbox"
USER, PASSWORD = "app1", "not to be seen: 'any' $where*"  # as in the inventory
CERTIFICATE = (
    f"openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=molecule-mail -addext "
    f"subjectAltName=DNS:molecule-mail -keyout {ROOM}/key.pem -out {ROOM}/ca.pem"
)

Play = Callable[..., Any]


def relay(host: Host, verb: str) -> None:
    if verb == "stop":
        assert host.run("systemctl stop relay").rc in (0, 5)
        return
    words = [str(2465), INBOX, f"{ROOM}/ca.pem", f"{ROOM}/key.pem", USER]
    started = host.run(
        "systemd-run --quiet --collect --unit=relay python3 %s/relay.py " + "%s " * 6,
        ROOM,
        *words,
        PASSWORD,
    )
    assert started.rc == 0, started.stderr
    deadline = time.monotonic() + 20
    while not host.run("ss -H -ltn sport = :2465").stdout:  # a mail that comes before waits for a minute
        assert time.monotonic() < deadline, host.run("journalctl -u relay -n 20 --no-pager").stdout
        time.sleep(0.2)


@pytest.fixture(scope="module", autouse=True)
def relay_here(host: Host) -> Iterator[None]:
    script = base64.b64encode(RELAY.read_bytes()).decode()
    for command in (
        f"sh -c 'rm -rf {ROOM} /var/spool/nullmailer/queue/*'",
        f"install -d -m 0755 {ROOM}",
        f"sh -c 'echo {script} | base64 -d > {ROOM}/relay.py'",
        CERTIFICATE,
    ):
        done = host.run(command)
        assert done.rc == 0, done.stderr
    relay(host, "start")
    yield
    relay(host, "stop")


def inbox(host: Host) -> list[dict[str, Any]]:
    found = host.run(f"sh -c 'cat {INBOX}/*.json 2>/dev/null | sed \"s/}}{{/}}\\n{{/g\"'").stdout
    return [json.loads(line) for line in found.splitlines() if line]


def arrives(host: Host, subject: str, seconds: float = 40.0) -> list[dict[str, Any]]:
    """The messages with this subject, as soon as there is one."""
    deadline = time.monotonic() + seconds
    while True:
        found = [message for message in inbox(host) if f"Subject: {subject}\n" in message["text"].replace("\r", "")]
        if found or time.monotonic() >= deadline:
            return found
        time.sleep(0.5)


def send(host: Host, subject: str, *, to: str = "ops@example.org", user: str = "root") -> None:
    sent = host.run(
        "sh -c %s",
        f"printf 'To: {to}\\nSubject: {subject}\\n\\nhello\\n' | runuser -u {user} -- /usr/sbin/sendmail -t -i",
    )
    assert sent.rc == 0, sent.stderr


def test_mail_arrives_over_tls_with_the_password_from_vault(host: Host) -> None:
    send(host, "first")
    found = arrives(host, "first")
    assert [message["to"] for message in found] == [["ops@example.org"]], host.run(
        "journalctl -u nullmailer -n 30"
    ).stdout


def test_everybody_on_the_host_can_send_and_what_is_for_root_reaches_a_person(host: Host) -> None:
    send(host, "from nobody", to="root", user="nobody")
    assert [message["to"] for message in arrives(host, "from nobody")] == [["root@example.org"]]


def test_mail_waits_for_a_relay_that_is_away(host: Host) -> None:
    relay(host, "stop")
    send(host, "patient")
    assert arrives(host, "patient", seconds=3.0) == []
    assert "ops@example.org" in host.run("mailq").stdout + host.run("sh -c 'cat /var/spool/nullmailer/queue/*'").stdout
    assert host.run("systemctl restart nullmailer").rc == 0  # as a reboot does
    relay(host, "start")
    # It tries again by itself, after a minute; the trigger is what the next message pulls.
    assert host.run("sh -c 'echo 1 > /var/spool/nullmailer/trigger'").rc == 0
    assert len(arrives(host, "patient", seconds=75.0)) == 1
    # The relay has it a moment before nullmailer strikes it off.
    left = "find /var/spool/nullmailer/queue /var/spool/nullmailer/failed -type f"
    assert host.run(f"timeout 15 sh -c 'while {left} | grep .; do sleep 0.2; done'").rc == 0, host.run(left).stdout


def test_only_root_reads_the_password(host: Host) -> None:
    relay_file = host.file("/etc/backstay-mail/relay")
    assert (relay_file.user, relay_file.group, relay_file.mode) == ("root", "root", 0o600)
    words = PASSWORD.split(":", maxsplit=1)[0]
    assert host.run("grep -rlF -- %s /etc", words).stdout.split() == ["/etc/backstay-mail/relay"]
    for user in ("mail", "nobody"):
        seen = host.run(
            "runuser -u %s -- cat /etc/backstay-mail/relay /run/credentials/nullmailer.service/remotes", user
        )
        assert words not in seen.stdout if user == "nobody" else "relay: Permission denied" in seen.stderr
    assert words not in host.run("systemctl show nullmailer.service").stdout
    assert words not in host.run("journalctl -u nullmailer --no-pager").stdout


def test_an_upgrade_of_the_package_takes_nothing_apart(host: Host, play: Play) -> None:
    done = host.run("dpkg-reconfigure --frontend=noninteractive nullmailer")
    assert done.rc == 0, done.stderr
    send(host, "after it")
    assert len(arrives(host, "after it")) == 1
    again = play()
    assert again.returncode == 0, again.stdout
    told = next(line for line in again.stdout.splitlines() if "Tell the relay" in line)
    assert told.split()[-2] == "ok", again.stdout


def test_a_password_without_tls_is_refused_before_anything_is_touched(host: Host, play: Play) -> None:
    before = host.file("/etc/backstay-mail/relay").mtime
    refused = play("-e", "mail_security=none")
    assert refused.returncode != 0
    assert "in the clear" in refused.stdout
    assert host.file("/etc/backstay-mail/relay").mtime == before
