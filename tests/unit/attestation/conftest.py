"""Keys, made once: what is signed here is signed by real OpenSSH."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Signer:
    """A key pair, and the line that lets it in."""

    key: Path

    @property
    def public(self) -> str:
        return " ".join(self.key.with_suffix(".pub").read_text().split()[:2])

    def line(self, name: str = "", options: str = "") -> str:
        return f"{name or self.key.name} {options} {self.public}\n"


def make(directory: Path, name: str) -> Signer:
    key = directory / name
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(key)], check=True)
    return Signer(key)


@pytest.fixture(scope="session")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return make(tmp_path_factory.mktemp("keys"), "builder")


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return make(tmp_path_factory.mktemp("keys"), "stranger")
