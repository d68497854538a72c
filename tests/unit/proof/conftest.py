"""One repository with three points, and one with the point of a server, made once and copied for each test that changes
it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _restored
from ansible_collections.backstay.ops.plugins.module_utils._postgresql import Server

from .points import Place, three_days
from .server_points import ServerPlace, one_day


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


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real PostgreSQL, which all tests share: each has databases of its own there."""
    with _restored._cluster(tmp_path_factory.mktemp("server"), "tests") as found:
        yield found


@pytest.fixture(scope="session")
def dumped_original(tmp_path_factory: pytest.TempPathFactory, server: Server) -> ServerPlace:
    """One sound day of a server. Nobody changes it."""
    return one_day(tmp_path_factory.mktemp("dumped"), server)


@pytest.fixture
def dumped(dumped_original: ServerPlace, tmp_path: Path) -> ServerPlace:
    """A copy to be changed; the database is the same, and is not changed."""
    return dumped_original.copied(tmp_path / "dumped")
