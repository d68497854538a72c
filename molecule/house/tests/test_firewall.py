"""Only declared ports answer somebody outside; nobody is shut out by a change."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator

import pytest
from testinfra.host import Host

Module = Callable[..., "subprocess.CompletedProcess[str]"]
Becomes = Callable[[Callable[[], bool], str], None]
Play = Callable[..., "subprocess.CompletedProcess[str]"]
WEB = [{"port": 80, "why": "http"}, {"port": 443, "why": "https"}]
UNDECLARED = 8000


@pytest.fixture(scope="module")
def address(host: Host) -> str:
    return str(host.run("hostname --all-ip-addresses").stdout.split()[0])


@pytest.fixture(scope="module", autouse=True)
def listener(host: Host) -> Iterator[None]:
    """Somebody listens where nobody declared it, on all addresses."""
    host.run(f"systemd-run --quiet --collect --unit=undeclared python3 -m http.server {UNDECLARED}")
    yield
    host.run("systemctl stop undeclared")


def answers(address: str, port: int) -> bool:
    """Whether a port of the host answers from here, which is another machine to it."""
    try:
        with socket.create_connection((address, port), timeout=2):
            return True
    except OSError:
        return False


def test_declared_ports_answer_and_no_other(host: Host, address: str) -> None:
    here = host.run(f"curl --silent --output /dev/null --retry 5 --retry-connrefused http://127.0.0.1:{UNDECLARED}/")
    assert here.rc == 0, "it is there, and answers the host itself"
    assert {port: answers(address, port) for port in (22, 80, 443, UNDECLARED)} == {
        22: True,
        80: True,
        443: True,
        UNDECLARED: False,
    }


def test_a_change_that_nobody_confirms_undoes_itself(
    host: Host, address: str, module: Module, becomes: Becomes
) -> None:
    done = module("firewall", ports=WEB[:1], seconds=20)
    assert done.returncode == 0, done.stdout
    assert not answers(address, 443), "the change holds"
    refused = module("firewall", state="confirmed")
    assert refused.returncode != 0
    assert "before the change" in refused.stdout, "the connection that made it proves nothing"
    becomes(lambda: answers(address, 443), "port 443 answers again")
    late = module("firewall", anew=True, state="confirmed")
    assert "waits for a confirmation" in late.stdout
    assert host.run("systemctl is-failed backstay-undo-firewall.service").stdout.strip() == "inactive"
    assert "443" in host.file("/etc/backstay-firewall.nft").content_string, "what is loaded at boot never changed"


def test_a_second_session_keeps_it(host: Host, address: str, module: Module, play: Play) -> None:
    assert module("firewall", ports=[*WEB, {"port": UNDECLARED}], seconds=30).returncode == 0
    confirmed = module("firewall", anew=True, state="confirmed")
    assert confirmed.returncode == 0, confirmed.stdout
    assert answers(address, UNDECLARED)
    assert not host.run("ls /etc/systemd/system | grep backstay-undo-firewall").stdout, (
        "nothing is left that could undo it"
    )
    assert play("firewall").returncode == 0
    assert not answers(address, UNDECLARED), "the role brings back what is declared"


def test_who_cannot_come_in_again_finds_the_host_as_it_was(
    host: Host, address: str, play: Play, becomes: Becomes
) -> None:
    # As soon as the change waits for its confirmation, no new connection reaches sshd any more, for 30 seconds.
    watcher = (
        "until test -e /var/lib/backstay/.host/firewall.unconfirmed.json; do sleep 0.1; done; nft add table inet cut; "
        "nft add chain inet cut input '{ type filter hook input priority -10; }'; "
        "nft add rule inet cut input tcp dport 22 ct state new drop; sleep 30; nft delete table inet cut"
    )
    host.run(f'systemd-run --quiet --collect --unit=cut sh -c "{watcher}"')
    done = play("firewall", "-e", '{"firewall_ports": [{"port": 80}], "firewall_confirm_seconds": 8}')
    becomes(lambda: answers(address, 22), "the cut is over")
    assert done.returncode == 4, done.stdout
    assert "unreachable" in done.stdout.lower()
    assert answers(address, 443), "the change undid itself meanwhile"
    assert not host.file("/var/lib/backstay/.host/firewall.unconfirmed.json").exists
    assert play("firewall").returncode == 0


def test_rules_that_would_shut_us_out_change_nothing(address: str, module: Module) -> None:
    refused = module("firewall", ports=WEB, ssh_sources=["192.0.2.0/24"])
    assert refused.returncode != 0
    assert "your own session comes from" in refused.stdout
    assert answers(address, 443)


def test_it_holds_after_what_empties_all_rules(host: Host, address: str, becomes: Becomes) -> None:
    assert host.service("backstay-firewall.service").is_enabled
    host.run("systemctl start nftables.service && systemctl restart nftables.service")
    # Debian's own unit begins with an empty rule set; ours follows it, and systemctl does not wait for that.
    becomes(lambda: not answers(address, UNDECLARED), "the rules hold again")
    host.run("systemctl stop nftables.service; systemctl restart backstay-firewall.service")
    assert not answers(address, UNDECLARED)
    assert answers(address, 22)


def test_somebody_elses_table_stays(host: Host, play: Play) -> None:
    host.run("nft add table inet somebodys")
    host.run("nft add rule inet backstay declared tcp dport 23 accept")
    assert play("firewall").returncode == 0
    assert "table inet somebodys" in host.run("nft list tables").stdout
    assert "dport 23" not in host.run("nft list table inet backstay").stdout, "a rule by hand in our table is not kept"
    host.run("nft delete table inet somebodys")
