"""What the units of the command give up, what they keep, and that each says why."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _firewall, _own_units
from ansible_collections.backstay.ops.plugins.module_utils._own_units import Opening, confined

DIGEST = Path(__file__).parents[3] / "roles/logwatch/templates/digest.service.j2"
SERVICES = {name: text for name, text in _own_units.UNIT_TEXTS.items() if name.endswith(".service")}
SERVICES[_firewall.UNIT] = _firewall.UNIT_TEXT
# From 0 (nothing to attack) to 10. The digest's devices are why it is above the others.
MOST = {**dict.fromkeys(SERVICES, 3.0), "backstay-digest.service": 3.3}


def test_a_unit_is_closed_where_nothing_opens_it() -> None:
    lines = confined().splitlines()
    assert {"NoNewPrivileges=yes", "ProtectSystem=full", "SystemCallFilter=@system-service"} <= set(lines)
    assert "RestrictAddressFamilies=AF_UNIX" in lines, "no network"
    assert "CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH" in lines, "it reads what is others', no more"
    assert not [line for line in lines if line.endswith(("=no", "=default"))]


def test_an_opening_takes_the_place_of_what_is_closed_and_says_why() -> None:
    lines = confined(Opening("ProtectHome", "no", "It looks at each disk.")).splitlines()
    assert lines[-2:] == ["# It looks at each disk.", "ProtectHome=no"]
    assert "ProtectHome=yes" not in lines


def test_what_adds_up_is_added() -> None:
    lines = confined(Opening("CapabilityBoundingSet", "CAP_KILL", "It ends what it began.")).splitlines()
    assert "CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH" in lines
    assert lines[-1] == "CapabilityBoundingSet=CAP_KILL"


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_closed_and_each_opening_has_its_reason(name: str) -> None:
    lines = SERVICES[name].partition("\n\n[Install]")[0].splitlines()
    closed = confined().splitlines()
    begin = lines.index(closed[0])
    kept = [line for line in closed if line in lines[begin:]]
    rest = lines[begin + len(kept) :]
    assert lines[begin : begin + len(kept)] == kept, "what is closed stands together"
    for reason, opening in zip(rest[::2], rest[1::2], strict=True):
        assert re.fullmatch(r"# \S.{10,}\.", reason), f"{opening} has no reason above it, but {reason!r}"
        assert re.fullmatch(r"[A-Z]\w+=\S.*", opening)
    open_names = {line.partition("=")[0] for line in rest[1::2]}
    assert {line.partition("=")[0] for line in closed[1:] if line not in kept} <= open_names, "nothing is left out"


@pytest.mark.parametrize("name", ["backstay-observe.service", "backstay-review@.service"])
def test_what_mails_may_run_a_set_user_id_sendmail(name: str) -> None:
    assert "\nNoNewPrivileges=no\n" in SERVICES[name]


@pytest.mark.parametrize("name", ["backstay-observe.service", "backstay-page.service"])
def test_what_watches_disks_sees_each_as_it_is_mounted(name: str) -> None:
    text = SERVICES[name]
    assert "\nProtectSystem=no\n" in text
    assert "\nProtectHome=no\n" in text
    assert "ReadWritePaths" not in text


@pytest.mark.parametrize("name", ["backstay-backup@.service", "backstay-verify@.service"])
def test_what_calls_restic_sees_the_processes_of_other_restics(name: str) -> None:
    """Or it would take the secrets of a restic that somebody else runs for what a killed one left behind."""
    assert "\nProtectProc=default\n" in SERVICES[name]


@pytest.mark.parametrize("name", ["backstay-transaction@.service", "backstay-recover@.service"])
def test_recovery_can_do_what_a_transaction_can(name: str) -> None:
    """What calls restic, reads the memory of others and asks who has a file open sees every process."""
    text = SERVICES[name]
    assert "\nCapabilityBoundingSet=CAP_SYS_PTRACE\n" in text
    assert _own_units.TRANSACTION in text


def test_the_digests_unit_is_closed_as_this_says() -> None:
    """Role logwatch writes it, for it knows to whom it goes."""
    assert DIGEST.read_text().endswith("\n" + _own_units.DIGEST)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, float]:
    """The exposure of each service, as systemd itself has it."""
    directory = tmp_path_factory.mktemp("units")
    digest = "[Service]\nType=oneshot\nExecStart=/usr/bin/backstay digest\n" + _own_units.DIGEST
    texts = {**SERVICES, "backstay-digest.service": digest}
    places = {name: directory / name.replace("@.", "@portal.") for name in MOST}
    for name, place in places.items():
        place.write_text(texts[name])
    asked = ["systemd-analyze", "security", "--offline=yes", "--no-pager", *map(str, places.values())]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    seen = dict(re.findall(r"exposure level for (\S+): (\d+\.\d)", done.stdout))
    assert len(seen) == len(places), f"systemd 250 or newer judges {len(places)} units, and this said: {done.stderr}"
    assert "Unknown" not in done.stderr, done.stderr
    return {name: float(seen[place.name]) for name, place in places.items()}


@pytest.mark.parametrize("name", MOST)
def test_no_service_is_more_exposed_than_it_must_be(judged: Mapping[str, float], name: str) -> None:
    assert judged[name] <= MOST[name]


def test_nothing_cuts_off_a_recovery_that_brings_a_large_database_back() -> None:
    """A dump may take an hour to load; recovery that is killed on the way begins anew at each boot, and never ends."""
    assert "\nTimeoutStartSec=infinity\n" in _own_units.UNIT_TEXTS["backstay-recover@.service"]
