"""What the tests of the example's versions need: each version in a directory, and a Python that has its packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.django_project import python

__all__ = ["python"]

ROOT = Path(__file__).resolve().parents[2]


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
    for number in ("1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0", "1.5.0", "1.6.0"):
        found[number] = home / number
        subprocess.run(
            ["git", "-C", str(repository), "worktree", "add", "--quiet", "--detach", str(home / number), f"v{number}"],
            check=True,
        )
    return found
