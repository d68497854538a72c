"""Names and addresses: pure, the same on every machine, so that inventories can name them."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

from .errors import LabError

NETWORK_PREFIX = "10.89"
KNOWN_LABS = {"demo": 10, "test": 11, "molecule": 12, "bench": 13}
FIRST_DERIVED_LAB, LAST_DERIVED_LAB = 20, 200

_NUMBERED = {
    "app": (11, 10),
    "build": (21, 9),
    "db": (31, 9),
    "s3": (41, 9),
    "mail": (51, 9),
    "probe": (61, 9),
    "ctl": (71, 9),
}
_MOLECULE = ("base", "app", "gunicorn", "nginx", "full", "default", "controller", "peer")
_FIRST_MOLECULE, _FIRST_DERIVED_HOST, _LAST_DERIVED_HOST = 81, 100, 249


def fixed_hosts() -> dict[str, int]:
    """Every name with a place in the table, and the last number of its address."""
    table = {f"{kind}{n}": first + n - 1 for kind, (first, count) in _NUMBERED.items() for n in range(1, count + 1)}
    table["s3"] = table.pop("s31")  # the one store has no number; s32 and on keep theirs
    table.update({f"molecule-{name}": _FIRST_MOLECULE + n for n, name in enumerate(_MOLECULE)})
    return table


def host_number(name: str) -> int:
    """The last number of the host's address; names outside the table get theirs from a checksum of the name."""
    table = fixed_hosts()
    if name in table:
        return table[name]
    if re.fullmatch(r"molecule-[a-z0-9][a-z0-9-]{0,40}", name):
        return _FIRST_DERIVED_HOST + zlib.crc32(name.encode()) % (_LAST_DERIVED_HOST - _FIRST_DERIVED_HOST + 1)
    raise LabError(
        f"No address is set aside for a host named {name!r}: use app1-app10, build1-build9, db1-db9, s3, mail1-mail9, "
        "probe1-probe9, ctl1-ctl9 or molecule-<scenario>."
    )


def lab_number(name: str) -> int:
    """The third number of the lab's addresses."""
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,24}", name):
        raise LabError(
            f"A lab cannot be named {name!r}: use up to 25 small letters, digits and dashes, a letter first."
        )
    derived = FIRST_DERIVED_LAB + zlib.crc32(name.encode()) % (LAST_DERIVED_LAB - FIRST_DERIVED_LAB + 1)
    return KNOWN_LABS.get(name, derived)


@dataclass(frozen=True)
class Addresses:
    """Everything that follows from a lab's name."""

    lab: str

    @property
    def network(self) -> str:
        return f"backstay-{self.lab}"

    @property
    def subnet(self) -> str:
        return f"{NETWORK_PREFIX}.{lab_number(self.lab)}.0/24"

    @property
    def gateway(self) -> str:
        return f"{NETWORK_PREFIX}.{lab_number(self.lab)}.1"

    def container(self, host: str) -> str:
        return f"backstay-{self.lab}-{host}"

    def address(self, host: str) -> str:
        return f"{NETWORK_PREFIX}.{lab_number(self.lab)}.{host_number(host)}"

    def mac(self, host: str) -> str:
        """A hardware address that stays through restarts: a new one costs the neighbours many seconds to notice."""
        return f"0a:89:00:00:{lab_number(self.lab):02x}:{host_number(host):02x}"

    def neighbours(self, hosts: list[str]) -> dict[str, str]:
        """Name and address of every host of the table and of `hosts`: what each host finds in /etc/hosts.

        Raises `LabError` when two of them would share an address.
        """
        known = {name: self.address(name) for name in [*fixed_hosts(), *hosts]}
        by_address: dict[str, str] = {}
        for name, address in known.items():
            other = by_address.setdefault(address, name)
            if other != name:
                raise LabError(f"{name} and {other} would both have the address {address}: rename one of them.")
        return known
