"""Where a lab keeps what it made: `.lab/<lab>/` in the checkout."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class LabLayout:
    """Every path of one lab."""

    lab: str
    checkout: Path = CHECKOUT

    @property
    def root(self) -> Path:
        return self.checkout / ".lab" / self.lab

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def identity(self) -> Path:
        return self.root / "ssh" / "id_ed25519"

    def host_key(self, host: str) -> Path:
        return self.root / "ssh" / "host-keys" / host

    @property
    def known_hosts(self) -> Path:
        return self.root / "known_hosts"

    @property
    def ssh_config(self) -> Path:
        return self.root / "ssh_config"

    @property
    def hosts(self) -> Path:
        return self.root / "hosts.json"

    @property
    def stores(self) -> Path:
        """Keys and certificates of the stores for backups: of this authority, so they go with it."""
        return self.root / "stores"

    @property
    def disks(self) -> Path:
        return self.root / "disks"

    @property
    def ca(self) -> Path:
        return self.root / "ca"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One at a time: whoever comes second waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_RDONLY)  # the lock may have been made by another user
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
