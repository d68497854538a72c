"""What the tests of the example's versions need: each version in a directory, and a Python that has its packages."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PORTAL = ROOT / "examples" / "audit_portal"
LOCKS = (PORTAL / "requirements.lock", PORTAL / "requirements-dev.lock")


@pytest.fixture(scope="session")
def python() -> Path:
    """A Python with the packages of the portal's two locks: PORTAL_PYTHON, or a virtualenv kept in .cache."""
    if given := os.environ.get("PORTAL_PYTHON"):
        return Path(given)
    key = hashlib.sha256(sys.version.encode() + b"".join(lock.read_bytes() for lock in LOCKS)).hexdigest()[:16]
    environment = ROOT / ".cache" / f"portal-{key}"
    complete = environment / "complete"
    if not complete.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True)
        install = [environment / "bin" / "pip", "install", "--quiet", "--require-hashes"]
        subprocess.run([*install, "-r", LOCKS[0], "-r", LOCKS[1]], check=True)
        complete.touch()
    return environment / "bin" / "python"


@pytest.fixture(scope="session")
def versions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each version checked out: number to directory."""
    home = tmp_path_factory.mktemp("versions")
    repository = home / "repository"
    subprocess.run(
        [sys.executable, str(ROOT / "examples" / "make_repository.py"), str(repository)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    found = {}
    for number in ("1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0", "1.5.0"):
        found[number] = home / number
        subprocess.run(
            ["git", "-C", str(repository), "worktree", "add", "--quiet", "--detach", str(home / number), f"v{number}"],
            check=True,
        )
    return found
