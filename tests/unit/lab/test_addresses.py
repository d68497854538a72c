from __future__ import annotations

import pytest
from backstay_lab.addresses import Addresses, fixed_hosts, host_number, lab_number
from backstay_lab.errors import LabError


@pytest.mark.parametrize(
    ("lab", "host", "address"),
    [
        ("demo", "app1", "10.89.10.11"),
        ("demo", "build1", "10.89.10.21"),
        ("test", "app9", "10.89.11.19"),
        ("test", "db1", "10.89.11.31"),
        ("test", "s3", "10.89.11.41"),
        ("molecule", "mail1", "10.89.12.51"),
        ("molecule", "molecule-base", "10.89.12.81"),
        ("bench", "probe1", "10.89.13.61"),
        ("bench", "ctl1", "10.89.13.71"),
    ],
)
def test_inventories_can_name_addresses(lab: str, host: str, address: str) -> None:
    assert Addresses(lab).address(host) == address


def test_no_two_hosts_of_the_table_share_an_address() -> None:
    numbers = list(fixed_hosts().values())
    assert len(numbers) == len(set(numbers))
    assert all(2 <= number <= 254 for number in numbers)


def test_a_derived_lab_is_stable_and_keeps_out_of_the_fixed_ones() -> None:
    assert lab_number("t-lab") == 182
    assert all(20 <= lab_number(f"dev{n}") <= 200 for n in range(500))


def test_a_molecule_host_outside_the_table_gets_a_stable_address_beyond_it() -> None:
    number = host_number("molecule-anything-else")
    assert number == host_number("molecule-anything-else")
    assert number > max(fixed_hosts().values())


@pytest.mark.parametrize("name", ["", "Demo", "1st", "a_b", "../x", "x" * 26])
def test_an_impossible_lab_is_refused(name: str) -> None:
    with pytest.raises(LabError, match="A lab cannot be named"):
        lab_number(name)


@pytest.mark.parametrize("name", ["web1", "app", "app0", "app11", "molecule-", "molecule-A", "s31"])
def test_a_host_without_a_place_is_refused(name: str) -> None:
    with pytest.raises(LabError, match="No address is set aside"):
        host_number(name)


def test_two_hosts_with_one_address_are_refused() -> None:
    numbers: dict[int, str] = {}
    for n in range(1000):
        name = f"molecule-x{n}"
        other = numbers.setdefault(host_number(name), name)
        if other != name:
            with pytest.raises(LabError, match="would both have the address"):
                Addresses("molecule").neighbours([other, name])
            return
    pytest.fail("a thousand names and no collision: the checksum is not what it was")


def test_a_hardware_address_is_local_and_follows_the_address() -> None:
    assert Addresses("demo").mac("app1") == "0a:89:00:00:0a:0b"
