"""What the tests of restores share: an application, a manifest of it, and an account that every host has."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _application
from ansible_collections.backstay.ops.plugins.module_utils._application import Application
from ansible_collections.backstay.ops.plugins.module_utils._manifest import (
    CanaryAnswer,
    DatabaseFacts,
    Manifest,
    MediaFile,
    TableFacts,
)
from ansible_collections.backstay.ops.plugins.module_utils._transaction import Restoring

RUN = "20261121T020000000-1"
DECLARED: dict[str, Any] = {
    "format": 1,
    "name": "portal",
    "domain": "portal.example.org",
    "source": {"repository": "https://git.example.org/portal.git"},
    "runtime": {"settings": "portal.settings", "wsgi": "portal.wsgi:application"},
    "processes": {"web": {}},
    "databases": [
        {"name": "default", "engine": "sqlite", "path": "db/portal.sqlite3"},
        {"name": "archive", "engine": "sqlite", "path": "var/old/archive.sqlite3"},
    ],
    "media": "media",
    "environment": {"values": {}, "required": ["SECRET_KEY"], "secret": ["SECRET_KEY"]},
    "backup": {
        "repositories": {"disk": {"location": "/srv/backup"}},
        "canaries": [{"name": "orders", "database": "default", "query": "SELECT count(*) FROM orders"}],
        "files": [{"database": "default", "query": "SELECT path FROM photographs"}],
    },
}


def declared(**other: Any) -> Application:
    return _application.from_dict({**DECLARED, **other}, file="portal.yml")


@pytest.fixture
def application() -> Application:
    return declared()


def facts(name: str, **rows: int) -> DatabaseFacts:
    tables = {table: TableFacts(count, "0" * 64) for table, count in rows.items()}
    return DatabaseFacts(name, "sqlite", f"databases/{name}.sqlite3", 1000, "1" * 64, "2" * 64, tables)


def manifest_of(media: dict[str, int] | None = None, **rows: int) -> Manifest:
    return Manifest(
        run=RUN,
        application="portal",
        host="app1",
        release="0001-1.0.0",
        version="1.0.0",
        payload="",
        migrations=("portal.0001",),
        began="2026-11-21T02:00:00Z",
        ended="2026-11-21T02:00:10Z",
        tools={},
        databases={"default": facts("default", **rows), "archive": facts("archive", kept=1)},
        media={path: MediaFile(size, "3" * 64, 0) for path, size in (media or {}).items()},
        configuration={},
        artifacts={},
        canaries=(CanaryAnswer("orders", "default", "[[2]]"),),
    )


def restoring(*only: str, **other: Any) -> Restoring:
    return Restoring(generation="0002", before="0001", point=RUN, only=only, **other)


@pytest.fixture
def everybody(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Every user is this one, and every group; or, as root, the numbers that are given."""

    def become(uid: int = os.getuid(), gid: int = os.getgid(), readers: int = os.getgid()) -> None:
        account = SimpleNamespace(pw_uid=uid, pw_gid=gid)
        groups = {"www-data": readers}
        monkeypatch.setattr(pwd, "getpwnam", lambda name: account)
        monkeypatch.setattr(grp, "getgrnam", lambda name: SimpleNamespace(gr_gid=groups.get(name, gid)))

    return become
