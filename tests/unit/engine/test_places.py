"""A trap of backups: what is backed up is not what the application writes to. A release says where its data are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _schema_changes
from ansible_collections.backstay.ops.plugins.module_utils._schema_changes import not_kept

DATABASES = tuple(SimpleNamespace(path=path) for path in ("db/portal.sqlite3", "db/archive.sqlite3", None))
APPLICATION: Any = SimpleNamespace(databases=DATABASES, media="media")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The link to the live generation, below a home that is a link itself."""
    (tmp_path / "disk/data.d/0001").mkdir(parents=True)
    (tmp_path / "disk/data").symlink_to("data.d/0001")
    (tmp_path / "home").symlink_to("disk")
    return tmp_path / "home" / "data"


@pytest.mark.parametrize(
    ("files", "media", "said"),
    [
        ({"default": "{data}/db/portal.sqlite3"}, "{data}/media", []),
        ({"default": "{home}/data.d/0001/db/portal.sqlite3"}, "{data}/media/", []),
        ({}, "", []),
        ({"default": "{data}/db/portal.sqlite3", "cache": "/var/cache/portal/cache.sqlite3"}, "{data}/media", []),
        ({"default": "{data}/db/production.sqlite3"}, "{data}/media", ["'default' is {data}/db/production.sqlite3"]),
        ({"default": "/srv/portal.sqlite3"}, "", ["which `databases` does not name"]),
        (
            {"default": "{data}/db/portal.sqlite3", "logs": "{data}/logs.sqlite3"},
            "{data}/uploads",
            ["its database 'logs'", "what is uploaded goes to {data}/uploads, and `media` names {data}/media"],
        ),
    ],
    ids=["as declared", "by another way", "nothing of its own", "a cache", "another file", "elsewhere", "uploads, too"],
)
def test_a_release_that_writes_where_no_backup_looks_is_found(
    data: Path, files: dict[str, str], media: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_schema_changes, "_PASSING", ("/var/cache/",))  # the tests' own directory is in /tmp
    told = {alias: path.format(data=data, home=data.parent) for alias, path in files.items()}
    found = not_kept(APPLICATION, data, told, media.format(data=data))
    assert len(found) == len(said), found
    for sentence, part in zip(found, said, strict=True):
        assert part.format(data=data) in sentence
