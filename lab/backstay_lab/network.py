"""The network of a lab: its own bridge and subnet."""

from __future__ import annotations

import json

from .addresses import Addresses
from .commands import podman
from .errors import LabError

LABEL_LAB = "backstay.lab"


def _networks() -> list[dict[str, object]]:
    names = podman("network", "ls", "--format", "{{.Name}}").stdout.split()
    found = json.loads(podman("network", "inspect", *names).stdout) if names else []
    return [entry for entry in found if isinstance(entry, dict)]


def network_of(entry: dict[str, object]) -> tuple[str, set[str]]:
    """Name and subnets of what `podman network inspect` tells of one network."""
    subnets = entry.get("subnets") or []
    assert isinstance(subnets, list)
    return str(entry.get("name")), {str(subnet["subnet"]) for subnet in subnets}


def ensure_network(addresses: Addresses) -> None:
    """Create the lab's network unless it is there. Raises `LabError` when its subnet belongs to another one."""
    for entry in _networks():
        name, subnets = network_of(entry)
        if name == addresses.network:
            return
        if addresses.subnet in subnets:
            raise LabError(
                f"The subnet {addresses.subnet} of the lab {addresses.lab!r} is taken by the network {name!r}: "
                "choose another name for this lab, or remove that network."
            )
    podman(
        "network", "create", "--disable-dns", "--label", f"{LABEL_LAB}={addresses.lab}",
        "--subnet", addresses.subnet, "--gateway", addresses.gateway, addresses.network,
    )  # fmt: skip


def remove_network(addresses: Addresses) -> bool:
    """Remove the lab's network; false when it was not there."""
    if not podman("network", "exists", addresses.network, check=False).ok:
        return False
    podman("network", "rm", addresses.network)
    return True
