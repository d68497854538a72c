"""One stage for all tests over several hosts: made once, removed at the end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fleet import AUDITS, Fleet


@pytest.fixture(scope="session")
def staged() -> Iterator[Fleet]:
    """Three hosts with 1.0.0 live, a database that they share, and some audits in it."""
    stage = Fleet(lambda line: print(line, flush=True))
    stage.remove()
    stage.stage()
    stage.release("1.0.0", why="the first")
    stage.manage("seed", "--audits", str(AUDITS))
    yield stage
    stage.remove()


@pytest.fixture
def fleet(staged: Fleet) -> Fleet:
    """All hosts reachable, nothing open, all on one release, whatever the test before did."""
    staged.at_rest()
    return staged
