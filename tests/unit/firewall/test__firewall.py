"""Only declared ports answer; whoever applies the rules cannot shut himself out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, GateRefused, InputError
from ansible_collections.backstay.ops.plugins.module_utils._file_set import Entry, FileSet, Outcome
from ansible_collections.backstay.ops.plugins.module_utils._firewall import (
    RULES,
    UNIT_FILE,
    Firewall,
    Live,
    marks,
    plan,
    policy,
    refusals,
    rules,
    sshd_ports,
)
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed
from ansible_collections.backstay.ops.plugins.module_utils._second_session import Doorkeeper, Session

WEB = [{"port": 80, "why": "http"}, {"port": 443, "why": "https"}]
WANTED = policy(WEB, [22])
OLD, NEW = Session(50.0, "ada", "203.0.113.7", 22), Session(150.0, "ada", "203.0.113.7", 22)


def accepted(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if "dport" in line and "DHCP" not in line]


def test_ssh_and_what_is_declared_answers_and_nothing_else() -> None:
    text = rules(WANTED)
    assert accepted(text) == [
        'tcp dport 22 accept comment "ssh"',
        'tcp dport 80 accept comment "http"',
        'tcp dport 443 accept comment "https"',
    ]
    declared = text.partition("chain declared {")[2].partition("}\n\n")[0].splitlines()
    assert declared[-2].strip() == "drop", "what is not declared gets no answer"
    assert "policy drop;" in text


def test_a_port_that_docker_publishes_is_asked_before_its_address_is_translated() -> None:
    chain = rules(WANTED).partition("chain before_translation {")[2].partition("}")[0]
    assert "hook prerouting priority mangle" in chain
    assert "fib daddr type local jump declared" in chain


def test_tables_of_others_are_left_alone() -> None:
    text = rules(WANTED)
    assert "flush ruleset" not in text
    assert [line for line in text.splitlines() if line.startswith(("table", "delete"))] == [
        "table inet backstay",
        "delete table inet backstay",
        "table inet backstay {",
    ]


def test_sources_are_asked_by_the_family_they_belong_to() -> None:
    given = [{"port": 5432, "sources": ["10.1.2.3/8", "2001:db8::/32", "192.0.2.1"]}, {"port": 53, "protocol": "udp"}]
    assert accepted(rules(policy(given, [2222], ["192.0.2.0/24"]))) == [
        'ip saddr { 192.0.2.0/24 } tcp dport 2222 accept comment "ssh"',
        "ip saddr { 10.0.0.0/8, 192.0.2.1/32 } tcp dport 5432 accept",
        "ip6 saddr { 2001:db8::/32 } tcp dport 5432 accept",
        "udp dport 53 accept",
    ]


@pytest.mark.parametrize(
    ("port", "said"),
    [
        ({"port": 0}, "0 is no port"),
        ({"port": 65536}, "65536 is no port"),
        ({"port": 80, "protocol": "icmp"}, "'icmp'"),
        ({"port": 80, "sources": ["everybody"]}, "port 80 has the source 'everybody'"),
        ({"port": 80, "why": 'x" accept\n'}, "`why` of port 80"),
    ],
)
def test_what_is_no_port_is_refused_by_name(port: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as refused:
        policy([port], [22])
    assert said in refused.value.message


def test_rules_that_would_shut_out_whoever_applies_them_are_refused() -> None:
    assert refusals(WANTED, OLD) == ()
    assert refusals(WANTED, None) == (), "on a console nobody is shut out"
    assert "port 2222" in refusals(WANTED, Session(1.0, "ada", "203.0.113.7", 2222))[0]
    elsewhere = policy(WEB, [22], ["192.0.2.0/24"])
    assert "comes from 203.0.113.7" in refusals(elsewhere, OLD)[0]
    assert refusals(policy(WEB, [22], ["203.0.113.0/24"]), OLD) == ()
    assert refusals(policy(WEB, [22], ["203.0.113.0/24"]), Session(1.0, "ada", "::ffff:203.0.113.7", 22)) == ()
    assert "could be found" in refusals(policy(WEB, []), None)[0]


def test_what_holds_already_is_left_and_what_somebody_altered_is_not() -> None:
    text, listing = rules(WANTED), "table inet backstay {}\n"
    live = Live(listing, marks(text, listing), text, enabled=True)
    assert plan(text, live, waits=False) == "nothing"
    assert plan(text, live, waits=True) == "confirm"
    assert plan(rules(policy([], [22])), live, waits=False) == "load"
    by_hand = Live(listing + "tcp dport 23 accept", live.loaded, text, enabled=True)
    assert plan(text, by_hand, waits=False) == "load"
    assert plan(text, Live(None, live.loaded, text, enabled=True), waits=False) == "load"
    assert plan(text, Live(listing, live.loaded, text, enabled=False), waits=False) == "load"
    assert plan(text, Live(listing, live.loaded, "", enabled=True), waits=False) == "load"


def test_the_ports_of_sshd_are_asked_of_sshd() -> None:
    assert sshd_ports("port 22\nport 2222\naddressfamily any\n") == (22, 2222)


class Host:
    """A kernel with one table, a systemd that remembers, and a person who comes in."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "etc/systemd/system").mkdir(parents=True)
        self.table: str | None = None
        self.enabled: set[str] = set()
        self.timers: set[str] = set()
        self.now = 100.0
        self.session: Session | None = OLD
        self.refuses = self.failing = ""
        host = self

        class Files(FileSet):
            def place(
                self,
                entries: Sequence[Entry],
                *,
                adopt: bool = False,
                validate: Sequence[str] = (),
                service: str = "",
                restart: str = "",
            ) -> Outcome:
                for entry in entries:
                    host.write(entry)
                if service:
                    host.enabled.add(service)
                return Outcome(changed=True, lines=("kept a copy",))

        door = Doorkeeper("firewall", root=root, runner=self, session=lambda: self.session, uptime=lambda: self.now)
        self.firewall = Firewall(root=root, runner=self, doorkeeper=door, file_set=Files())

    def write(self, entry: Entry) -> None:
        path = self.root / entry.path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if entry.kind == "absent":
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(entry.content)

    def __call__(self, arguments: Sequence[str], **options: Any) -> Completed:
        given = list(arguments)
        code, out = 0, ""
        if given[1] == self.failing:
            code = 1
        elif given[0].endswith("nft"):
            code, out = self.nft(given[1:])
        elif given[1] == "is-enabled":
            code = int(given[-1] not in self.enabled)
        elif given[1] in ("enable", "disable"):
            (self.enabled.add if given[1] == "enable" else self.enabled.discard)(given[2])
        elif given[1] == "is-active":
            states = ["active" if unit in self.timers else "inactive" for unit in given[3:]]
            code, out = (0 if "active" in states else 3), "\n".join(states)
        elif given[1:] == ["start", "backstay-undo-firewall.service"]:
            self.undo()
        elif given[1] in ("start", "restart"):
            self.timers.add(given[2])
        elif given[1] == "stop":
            self.timers.discard(given[2])
        if code and options.get("check", True):
            raise BackstayError(f"{given} failed")
        return Completed(tuple(given), code, out, "refused")

    def nft(self, arguments: list[str]) -> tuple[int, str]:
        if arguments[0] == "list":
            return (0, self.table) if self.table is not None else (1, "")
        if arguments[0] == "delete":
            self.table = None
            return 0, ""
        if arguments[0] == self.refuses:
            return 1, ""
        if arguments[0] == "--file":
            text = Path(arguments[1]).read_text()
            body = text.rpartition("delete table inet backstay\n")[2]
            self.table = body or None
        return 0, ""

    def undo(self) -> None:
        """What systemd does when the time is over, or at boot: it runs the steps of the unit."""
        unit = (self.root / "etc/systemd/system/backstay-undo-firewall.service").read_text()
        for line in unit.splitlines():
            if line.startswith("ExecStart="):
                step = [part.strip('"') for part in line.removeprefix("ExecStart=-").split('" "')]
                if step[0].endswith("nft"):
                    self.nft(step[1:])
                else:
                    for name in step[2:]:
                        path = self.root / name.lstrip("/")
                        (Path(name) if name.startswith(str(self.root)) else path).unlink(missing_ok=True)

    @property
    def boots_with(self) -> str | None:
        path = self.root / RULES.lstrip("/")
        return path.read_text() if path.exists() else None


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_new_rules_hold_in_the_kernel_alone_until_a_second_session_confirms_them(host: Host) -> None:
    assert host.firewall.planned(WANTED)[0] == "load"
    host.firewall.load(WANTED, seconds=60)
    assert host.table is not None
    assert "dport 443" in host.table
    assert host.boots_with is None, "a reboot would bring back what was before"
    assert host.timers == {"backstay-undo-firewall.timer"}
    assert "backstay-undo-firewall.service" in host.enabled, "a reboot undoes it too"
    assert host.firewall.planned(WANTED)[0] == "confirm"

    with pytest.raises(GateRefused, match="before the change"):
        host.firewall.confirm()
    assert host.timers, "still armed"

    host.session = NEW
    assert host.firewall.confirm() == ("kept a copy",), "what a person should know is passed on"
    assert host.boots_with == rules(WANTED)
    assert (host.root / UNIT_FILE.lstrip("/")).exists()
    assert host.timers == set()
    assert not list((host.root / "etc/systemd/system").glob("backstay-undo-*")), "nothing is left that could undo it"
    assert host.firewall.planned(WANTED)[0] == "nothing", "a second run changes nothing"


def test_what_nobody_confirms_undoes_itself(host: Host) -> None:
    host.firewall.load(WANTED, seconds=60)
    host.session = NEW
    host.firewall.confirm()
    before = host.table
    host.now, host.session = 200.0, NEW
    host.firewall.load(policy([], [22]), seconds=60)
    assert host.table != before
    host.undo()
    assert host.table == before
    assert host.boots_with == rules(WANTED)
    with pytest.raises(GateRefused, match="waits for a confirmation"):
        host.firewall.confirm()
    assert host.firewall.planned(policy([], [22]))[0] == "load", "and may be tried again"


def test_the_first_firewall_undone_leaves_no_table(host: Host) -> None:
    host.firewall.load(WANTED, seconds=60)
    host.undo()
    assert host.table is None


def test_one_change_at_a_time(host: Host) -> None:
    host.firewall.load(WANTED, seconds=60)
    state = host.root / "var/lib/backstay/.host"
    kept = {file.name: file.read_text() for file in state.iterdir()}
    with pytest.raises(BackstayError, match="waits for its confirmation already"):
        host.firewall.load(policy([], [22]), seconds=60)
    assert {file.name: file.read_text() for file in state.iterdir()} == kept, "the way back is kept"


@pytest.mark.parametrize("failing", ["daemon-reload", "enable", "restart"])
def test_a_change_whose_way_back_cannot_be_made_is_not_made_and_holds_nobody_up(host: Host, failing: str) -> None:
    host.failing = failing
    with pytest.raises(BackstayError, match=failing):
        host.firewall.load(WANTED, seconds=60)
    assert host.table is None
    host.failing = ""
    host.firewall.load(WANTED, seconds=60)
    assert host.table is not None


def test_a_change_that_nothing_would_undo_any_more_is_undone_by_the_next(host: Host) -> None:
    """Its run was cut off before the timer was started, or somebody stopped the timer."""
    host.firewall.load(WANTED, seconds=60)
    host.timers.clear()
    host.firewall.load(policy([], [22]), seconds=60)
    assert host.timers == {"backstay-undo-firewall.timer"}
    host.undo()
    assert host.table is None, "as before the first"


def test_rules_that_nft_refuses_change_nothing(host: Host) -> None:
    host.refuses = "--check"
    with pytest.raises(BackstayError, match="nothing was changed"):
        host.firewall.load(WANTED, seconds=60)
    assert host.table is None
    assert host.timers == set()


def test_a_change_that_fails_half_way_is_undone_at_once(host: Host) -> None:
    host.refuses = "--file"
    with pytest.raises(BackstayError):
        host.firewall.load(WANTED, seconds=60)
    assert host.timers == set()
    assert not (host.root / "var/lib/backstay/.host/firewall.unconfirmed.json").exists()


def test_a_session_that_would_be_shut_out_changes_nothing(host: Host) -> None:
    with pytest.raises(GateRefused, match="The firewall stays as it is"):
        host.firewall.planned(policy(WEB, [22], ["192.0.2.0/24"]))
    assert host.table is None


def test_it_can_be_taken_away_again(host: Host) -> None:
    assert host.firewall.remove() is False
    host.firewall.load(WANTED, seconds=60)
    host.session = NEW
    host.firewall.confirm()
    assert host.firewall.remove() is True
    assert host.table is None
    assert host.boots_with is None
    assert host.firewall.remove() is False


def test_the_moment_of_the_change_is_that_after_it_was_made(host: Host) -> None:
    host.firewall.load(WANTED, seconds=60)
    record = json.loads((host.root / "var/lib/backstay/.host/firewall.unconfirmed.json").read_text())
    assert record["seconds_since_boot"] == 100.0
