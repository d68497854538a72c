"""A digest comes each day, and one that says nothing is a failure."""

from __future__ import annotations

import json

from testinfra.host import Host

INBOX = "/var/mail/inbox"


def digest(host: Host) -> str:
    """Run the unit as its timer does, but over today: the host is a few minutes old."""
    host.run(f"rm -f {INBOX}")
    host.run("mkdir -p /run/systemd/system/backstay-digest.service.d")
    host.run(
        "sed -n 's/^ExecStart=\\(.*\\)/[Service]\\nExecStart=\\nExecStart=\\1 --logs today/p' "
        "/etc/systemd/system/backstay-digest.service > /run/systemd/system/backstay-digest.service.d/today.conf"
    )
    host.run("systemctl daemon-reload; systemctl start backstay-digest.service")
    return str(host.run(f"cat {INBOX}").stdout)


def test_the_digest_comes_by_mail(host: Host) -> None:
    host.run("apt-get update")
    host.run("logger -t harbour a line of today")
    sent = digest(host)
    assert "To: ada@example.org" in sent, host.run("journalctl -u backstay-digest --no-pager -n 20").stdout
    assert "digest of" in sent
    for title in ("RELEASES, RESTORES, FAILED PROOFS OF harbour", "BACKUPS OF harbour", "DISK", "UPDATES", "UNITS"):
        assert f"\n{title}\n" in sent, sent
    assert "LOGS OF today (logwatch)" in sent, sent
    assert "Logwatch" in sent.partition("LOGS OF today")[2]
    shown = host.run("systemctl show --value -p Result backstay-digest.service").stdout.strip()
    assert shown == "success", sent


def test_no_secret_is_in_it(host: Host) -> None:
    host.run("logger -p auth.warning -t sshd 'error: not-to-be-seen-anywhere is no user'")
    assert "not-to-be-seen-anywhere" not in digest(host)


def test_one_that_says_nothing_is_a_failure(host: Host) -> None:
    host.run("mv /usr/sbin/logwatch /usr/sbin/logwatch.kept; printf '#!/bin/sh\\n' > /usr/sbin/logwatch")
    host.run("chmod +x /usr/sbin/logwatch")
    sent = digest(host)
    host.run("mv /usr/sbin/logwatch.kept /usr/sbin/logwatch")
    assert "INCOMPLETE" in sent
    assert host.run("systemctl is-failed backstay-digest.service").stdout.strip() == "failed"
    opened = json.loads(host.run("backstay incidents --json").stdout)
    assert "host/digest" in json.dumps(opened), opened
    assert "INCOMPLETE" not in digest(host)
    assert host.run("systemctl is-failed backstay-digest.service").stdout.strip() == "inactive"


def test_it_comes_once_a_day(host: Host) -> None:
    assert host.service("backstay-digest.timer").is_enabled
    assert host.service("backstay-digest.timer").is_running
    assert "06:30" in host.run("systemctl list-timers backstay-digest.timer --no-pager").stdout
    assert not host.file("/etc/cron.daily/00logwatch").exists, "a second mail by Debian's own daily run"
