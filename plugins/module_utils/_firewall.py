"""Only declared ports answer: the rules of nftables as text, and how they come to hold without locking anybody out.

The rules are one table of our own, replaced in one step; the tables of others stay. They are asked before a packet's
address is translated, so that a port that Docker publishes is closed as well unless it is declared. What is loaded
holds in the kernel alone until a second session has confirmed it: only then does the file change that boot loads.
"""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ._errors import BackstayError, GateRefused, InputError
from ._file_set import Entry, FileSet
from ._own_units import Opening, confined
from ._run import Runner, run
from ._second_session import Doorkeeper, Session
from ._storage import Storage, canonical

FORMAT = 1
TABLE = "inet backstay"
NAME = "firewall"
NFT = "/usr/sbin/nft"
RULES = "/etc/backstay-firewall.nft"
UNIT = "backstay-firewall.service"
UNIT_FILE = f"/etc/systemd/system/{UNIT}"
CLEAR = f"table {TABLE}\ndelete table {TABLE}\n"
_CONFINED = confined(
    Opening("CapabilityBoundingSet", "CAP_NET_ADMIN", "It changes the rules of the kernel."),
    Opening("RestrictAddressFamilies", "AF_NETLINK", "That is how the kernel is told."),
    Opening("PrivateTmp", "no", "It runs while the host starts, before there is a place for temporary files."),
)
UNIT_TEXT = f"""\
# Written by Backstay.
[Unit]
Description=Only declared ports answer
DefaultDependencies=no
Wants=network-pre.target
After=local-fs.target nftables.service
Before=network-pre.target shutdown.target
Conflicts=shutdown.target
# Debian's own unit begins with an empty rule set: whoever restarts it gets these rules again.
PartOf=nftables.service
ReloadPropagatedFrom=nftables.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={NFT} --file {RULES}
ExecReload={NFT} --file {RULES}
{_CONFINED}
[Install]
WantedBy=sysinit.target
"""
Protocol = Literal["tcp", "udp"]
_PROTOCOLS: dict[str, Protocol] = {"tcp": "tcp", "udp": "udp"}
_WHY = re.compile(r"[A-Za-z0-9 .,_/@-]{0,80}")


@dataclass(frozen=True)
class Port:
    """A port that answers. `sources`: networks that it answers to; none: everybody."""

    number: int
    protocol: Protocol = "tcp"
    sources: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Policy:
    """What answers. `ssh` are the ports of sshd: they are always open, to `ssh_sources` or to everybody."""

    ports: tuple[Port, ...]
    ssh: tuple[int, ...]
    ssh_sources: tuple[str, ...] = ()


def policy(ports: Sequence[Mapping[str, Any]], ssh: Sequence[int], ssh_sources: Sequence[str] = ()) -> Policy:
    """A policy from what was declared. Raises InputError, naming what is wrong."""
    declared = []
    for given in ports:
        number, why = given["port"], given.get("why") or ""
        protocol: Protocol | None = _PROTOCOLS.get(given.get("protocol") or "tcp")
        if not 1 <= number <= 65535:
            raise InputError(f"firewall: {number} is no port: give a number from 1 to 65535.")
        if protocol is None:
            raise InputError(f"firewall: port {number} has the protocol {given['protocol']!r}: give tcp or udp.")
        if not _WHY.fullmatch(why):
            raise InputError(f"firewall: `why` of port {number} may hold 80 letters, digits, blanks and . , _ / @ -.")
        declared.append(Port(number, protocol, networks(given.get("sources") or (), f"port {number}"), why))
    return Policy(tuple(declared), tuple(sorted(set(ssh))), networks(ssh_sources, "ssh"))


def networks(given: Sequence[str], place: str) -> tuple[str, ...]:
    """Addresses and networks in their one form. Raises InputError for what is neither."""
    found = []
    for text in given:
        try:
            found.append(str(ipaddress.ip_network(text, strict=False)))
        except ValueError as wrong:
            raise InputError(
                f"firewall: {place} has the source {text!r}, which is no network: write it as 10.0.0.0/8."
            ) from wrong
    return tuple(found)


def rules(wanted: Policy) -> str:
    """The text that nft loads: it replaces our table, and no other, in one step. Pure."""
    lines = [
        "ct state established,related accept",
        "ct state invalid drop",
        'iifname "lo" accept',
        "meta l4proto { icmp, ipv6-icmp } accept",
        'udp sport 67 udp dport 68 accept comment "addresses by DHCP"',
        'udp sport 547 udp dport 546 accept comment "addresses by DHCP"',
    ]
    lines += _answer([Port(number, "tcp", wanted.ssh_sources, "ssh") for number in wanted.ssh])
    lines += _answer(wanted.ports)
    body = "".join(f"\t\t{line}\n" for line in [*lines, "drop"])
    return (
        "# Written by Backstay: only these ports answer.\n"
        f"{CLEAR}"
        f"table {TABLE} {{\n"
        f"\tchain declared {{\n{body}\t}}\n\n"
        "\t# Before addresses are translated, so that what Docker publishes is asked as well.\n"
        "\tchain before_translation {\n"
        "\t\ttype filter hook prerouting priority mangle; policy accept;\n"
        "\t\tfib daddr type local jump declared\n"
        "\t}\n\n"
        "\tchain input {\n"
        "\t\ttype filter hook input priority filter; policy drop;\n"
        "\t\tjump declared\n"
        "\t}\n"
        "}\n"
    )


def _answer(ports: Sequence[Port]) -> list[str]:
    lines = []
    for port in ports:
        note = f' comment "{port.why}"' if port.why else ""
        matched = f"{port.protocol} dport {port.number} accept{note}"
        if not port.sources:
            lines.append(matched)
            continue
        for family, version in (("ip", 4), ("ip6", 6)):
            sources = [each for each in port.sources if ipaddress.ip_network(each).version == version]
            if sources:
                lines.append(f"{family} saddr {{ {', '.join(sources)} }} {matched}")
    return lines


def refusals(wanted: Policy, session: Session | None) -> tuple[str, ...]:
    """Why these rules would shut out whoever applies them, each a sentence; nothing where they would not. Pure."""
    said = []
    if not wanted.ssh:
        said.append("sshd listens on no port that could be found, so nobody could come in.")
    if session is None:
        return tuple(said)
    if session.port and session.port not in wanted.ssh:
        said.append(
            f"your own session came in by port {session.port}, which is none of sshd's ({_listed(wanted.ssh)})."
        )
    if session.client and wanted.ssh_sources and not _within(session.client, wanted.ssh_sources):
        said.append(
            f"your own session comes from {session.client}; ssh would answer to {', '.join(wanted.ssh_sources)} alone."
        )
    return tuple(said)


def _within(client: str, sources: Sequence[str]) -> bool:
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return any(
        address in network for network in map(ipaddress.ip_network, sources) if network.version == address.version
    )


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"


@dataclass(frozen=True)
class Live:
    """What holds now. `listing`: our table as the kernel tells it, or None; `loaded`: what we loaded last and how the
    kernel told it then; `file`: what is loaded at boot; `enabled`: whether it is."""

    listing: str | None
    loaded: Mapping[str, str]
    file: str | None
    enabled: bool

    def holds(self, text: str) -> bool:
        """Whether the kernel holds these rules, unaltered by anybody."""
        return self.listing is not None and dict(self.loaded) == marks(text, self.listing)


def marks(text: str, listing: str) -> dict[str, str]:
    """Digests of what was loaded, and of how the kernel tells it."""
    return {"rules": _digest(text), "listing": _digest(listing)}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


Verb = Literal["nothing", "confirm", "load"]


def plan(text: str, live: Live, *, waits: bool) -> Verb:
    """What is to be done so that the rules `text` hold, now and at boot; `waits`: for a confirmation. Pure."""
    if live.holds(text):
        if waits:
            return "confirm"
        if live.file == text and live.enabled:
            return "nothing"
    return "load"


def sshd_ports(effective: str) -> tuple[int, ...]:
    """The ports in what `sshd -T` prints. Pure."""
    return tuple(int(found) for found in re.findall(r"^port (\d+)$", effective, re.MULTILINE))


class Firewall:
    """The firewall of this host. `root` is moved by tests."""

    def __init__(
        self,
        *,
        root: Path = Path("/"),
        runner: Runner = run,
        storage: Storage | None = None,
        doorkeeper: Doorkeeper | None = None,
        file_set: FileSet | None = None,
    ) -> None:
        self._root = root
        self._run = runner
        self._storage = storage or Storage()
        self._door = doorkeeper or Doorkeeper(NAME, root=root, storage=self._storage, runner=runner)
        self._file_set = file_set or FileSet()

    @property
    def _loaded_file(self) -> Path:
        return self._door.state / "firewall.json"

    def ssh_ports(self) -> tuple[int, ...]:
        """The ports that sshd listens on by its configuration."""
        return sshd_ports(self._run(["/usr/sbin/sshd", "-T"], check=False).stdout)

    def live(self) -> Live:
        """What holds now."""
        content = self._storage.read(self._loaded_file)
        loaded = json.loads(content) if content else {}
        file = self._storage.read(self._root / RULES.lstrip("/"))
        enabled = self._run(["systemctl", "is-enabled", "--quiet", UNIT], check=False).ok
        return Live(
            self._listing(), loaded.get("marks", {}), None if file is None else file.decode(errors="replace"), enabled
        )

    def _listing(self) -> str | None:
        listed = self._run([NFT, "list", "table", *TABLE.split()], check=False)
        return listed.stdout if listed.ok else None

    def planned(self, wanted: Policy) -> tuple[Verb, str]:
        """What there is to do, and a diff of the rules. Raises GateRefused when it would shut out whoever asks."""
        refused = refusals(wanted, self._door.session())
        if refused:
            raise GateRefused(f"The firewall stays as it is: {' '.join(refused)} Correct firewall_ssh_sources.")
        live, text = self.live(), rules(wanted)
        before = (live.file or "").splitlines(keepends=True)
        shown = difflib.unified_diff(before, text.splitlines(keepends=True), RULES, RULES)
        return plan(text, live, waits=self._door.waits), "".join(shown)

    def load(self, wanted: Policy, *, seconds: int) -> None:
        """Let the rules hold in the kernel, until they are confirmed or `seconds` are over. Raises BackstayError."""
        self._door.require_none_waits()
        self._storage.make_directory(self._door.state, mode=0o700)
        new, former = self._door.state / "firewall.new.nft", self._door.state / "firewall.former.nft"
        text = rules(wanted)
        self._storage.write(new, text.encode(), mode=0o600)
        checked = self._run([NFT, "--check", "--file", str(new)], check=False)
        if not checked.ok:
            raise BackstayError(
                f"nft refuses the rules, so nothing was changed: {' '.join(checked.last_lines(2))}",
                lines=checked.last_lines(),
            )
        self._storage.write(former, (CLEAR + (self._listing() or "")).encode(), mode=0o600)
        self._door.arm([[NFT, "--file", str(former)]], seconds=seconds)
        try:
            self._run([NFT, "--file", str(new)])
            value = {"format": FORMAT, "marks": marks(text, self._listing() or "")}
            self._storage.write(self._loaded_file, canonical(value) + b"\n", mode=0o600)
            self._door.changed()
        except BackstayError:
            self._door.undo()
            raise

    def confirm(self) -> tuple[str, ...]:
        """Keep the rules that wait, and load them at boot. Returns lines for people. Raises GateRefused for a session
        that proves nothing."""
        self._door.require_second_session()
        text = self._storage.read(self._door.state / "firewall.new.nft") or b""
        if not self.live().holds(text.decode()):
            raise BackstayError("The rules in the kernel are not those that wait: run playbooks/site.yml again.")
        placed = self._file_set.place(
            [Entry(RULES, "file", text, mode=0o600), Entry(UNIT_FILE, "file", UNIT_TEXT.encode())], service=UNIT
        )
        self._run(["systemctl", "daemon-reload"])
        self._door.disarm()
        return placed.lines

    def remove(self) -> bool:
        """Let every port answer again, now and at boot; whether there was anything to remove."""
        if self._door.waits:
            self._door.undo()
        live = self.live()
        if live.listing is None and live.file is None:
            return False
        self._run(["systemctl", "disable", UNIT], check=False)
        self._run(["systemctl", "stop", UNIT], check=False)
        if live.listing is not None:
            self._run([NFT, "delete", "table", *TABLE.split()])
        self._file_set.place([Entry(RULES, "absent"), Entry(UNIT_FILE, "absent")])
        self._storage.remove(self._loaded_file)
        self._run(["systemctl", "daemon-reload"])
        return True
