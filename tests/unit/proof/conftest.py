"""One repository with three points, made once and copied for each test that changes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .points import Place, three_days


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Three sound days. Nobody changes it."""
    return three_days(tmp_path_factory.mktemp("original"))


@pytest.fixture
def place(original: Place, tmp_path: Path) -> Place:
    """A copy to be changed."""
    return original.copied(tmp_path / "place")


@pytest.fixture
def another(original: Place, tmp_path: Path) -> Callable[[str], Place]:
    return lambda name: original.copied(tmp_path / name)
