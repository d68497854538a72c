"""A host in a directory, with one application whose data are backed up."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import sqlite3
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ansible_collections.backstay.ops.plugins.module_utils import _sqlite_copy
from ansible_collections.backstay.ops.plugins.module_utils._application import Application, parse
from ansible_collections.backstay.ops.plugins.module_utils._backup import Outcome, Source, backup
from ansible_collections.backstay.ops.plugins.module_utils._catalogue import Point, points
from ansible_collections.backstay.ops.plugins.module_utils._host_collector import HostCollector
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._manifest import Manifest, MediaFile, from_bytes
from ansible_collections.backstay.ops.plugins.module_utils._repository import Repository, repositories_of
from ansible_collections.backstay.ops.plugins.module_utils._run import Runner, run
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage

from .stores import PASSWORD, made

PAYLOAD = hashlib.sha256(b"payload").hexdigest()
RELEASE = "0001-1.0.0"


def application(home: Path, **backup: Any) -> Application:
    declared = {
        "format": 1,
        "name": "portal",
        "domain": "portal.example",
        "source": {"repository": "https://git.example/portal.git"},
        "runtime": {"settings": "portal.settings", "wsgi": "portal.wsgi:application"},
        "processes": {"web": {}},
        "databases": [{"name": "main", "engine": "sqlite", "path": "db/main.sqlite3"}],
        "media": "media",
        "backup": {
            "repositories": {
                "disk": {"location": str(home / "disk"), "own_disk": False},
                "second": {"location": str(home / "second"), "own_disk": False},
            },
            "canaries": [{"name": "rows", "database": "main", "query": "SELECT count(*) FROM audit"}],
            "newest": [{"database": "main", "query": "SELECT max(at) FROM audit"}],
            "keep": {"daily": 3, "weekly": 0},
            **backup,
        },
    }
    return parse(declared, file="portal.yml")


class Collector(HostCollector):
    """The host's, as whoever runs the tests; `during` happens after the media are linked, `copied` after the
    databases are, `late` when the media were linked once more."""

    def __init__(self, source: Source, **hooks: Callable[[Path], None]) -> None:
        super().__init__(source, account=None)
        self.hooks = hooks

    def freeze(self, stage: Path, *, first: bool) -> tuple[str, ...]:
        found = super().freeze(stage, first=first)
        self._happen("during" if first else "late", stage)
        return found

    def copy(self, stage: Path) -> None:
        super().copy(stage)
        self._happen("copied", stage)

    def media(
        self, stage: Path, known: Mapping[str, MediaFile], stop: Callable[[], bool] | None = None
    ) -> Mapping[str, MediaFile]:
        """`hashing` is what happens while everything is stored, `early` while the database is copied."""
        if stop is not None:
            self._happen("early", stage)
            return super().media(stage, known, stop)
        self._happen("hashing", stage)
        return super().media(stage, known)

    def _happen(self, when: str, stage: Path) -> None:
        if when in self.hooks:
            self.hooks[when](stage)


@dataclass
class Host:
    """`day` is how many days after the first of January the next run is made."""

    home: Path
    backup: dict[str, Any] = field(default_factory=dict)
    runner: Runner = run
    needed: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    day: float = 0.0

    def __post_init__(self) -> None:
        self.layout = Layout("portal", self.home / "host")
        self.application = application(self.home, **self.backup)
        self._ticks = itertools.count()

    def build(self) -> Host:
        layout = self.layout
        for directory in (layout.configuration / "releases" / RELEASE, layout.state, layout.artifacts):
            directory.mkdir(parents=True)
        generation = layout.generation("0001")
        (generation / "db").mkdir(parents=True)
        (generation / "media" / "a").mkdir(parents=True)
        layout.data.symlink_to("data.d/0001")
        with sqlite3.connect(self.database) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("CREATE TABLE audit (id INTEGER PRIMARY KEY, name TEXT, at TEXT)")
            connection.executemany(
                "INSERT INTO audit (name, at) VALUES (?, ?)",
                [(f"audit {number}", f"2026-01-01T00:{number % 60:02}:00Z") for number in range(200)],
            )
        connection.close()
        for name in ("a/one.jpg", "two.jpg", "Käse.jpg"):
            (self.media / name).write_bytes(f"photograph {name}".encode() * 50)
        repositories = {name: {"password": PASSWORD} for name in self.repositories_settings}
        layout.backup_secrets.write_text(json.dumps({"format": 1, "repositories": repositories}))
        layout.application_file.write_text(json.dumps({"name": "portal"}))
        layout.secrets_file.write_text(json.dumps({"format": 1, "values": {"KEY": "s"}}))
        layout.environment_file(RELEASE).write_text("KEY=s\n")
        layout.payload(PAYLOAD).write_bytes(b"payload")
        layout.proof(PAYLOAD, "attestation.json").write_text("{}")
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "host", "-f", str(layout.backup_key)], check=True
        )
        for name, settings in self.repositories_settings.items():
            if settings.kind == "local":
                made(self.home, settings.location, name=name)
        return self

    @property
    def repositories_settings(self) -> Mapping[str, Any]:
        assert self.application.backup is not None
        return self.application.backup.repositories

    @property
    def media(self) -> Path:
        return self.layout.generation("0001") / "media"

    @property
    def database(self) -> Path:
        return self.layout.generation("0001") / "db" / "main.sqlite3"

    def now(self) -> str:
        at = datetime(2026, 1, 1, 2, tzinfo=UTC) + timedelta(days=self.day, milliseconds=next(self._ticks))
        return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"

    def source(self, **changed: Any) -> Source:
        given: dict[str, Any] = {
            "layout": self.layout,
            "application": self.application,
            "release": RELEASE,
            "version": "1.0.0",
            "payload": PAYLOAD,
            "migrations": ("portal.0001_initial",),
            "environment": {},
            "now": self.now,
            "runner": self.runner,
            "storage": Storage(),
            "say": self.said.append,
            "needed": self.needed,
        }
        return Source(**{**given, **changed})

    def repositories(self) -> dict[str, Repository]:
        return repositories_of(self.layout, self.repositories_settings, Storage(), runner=self.runner)

    def run(self, *, accept_shrink: bool = False, changed: Mapping[str, Any] | None = None, **hooks: Any) -> Outcome:
        """One backup; a day later the next."""
        source = self.source(**(changed or {}))
        try:
            return backup(source, collector=Collector(source, **hooks), accept_shrink=accept_shrink)
        finally:
            self.day += 1

    def points(self) -> tuple[Point, ...]:
        return points(self.layout, Storage())

    def manifest(self, run_id: str) -> Manifest:
        return from_bytes((self.layout.backup_run(run_id) / "manifest.json").read_bytes(), origin=f"that of {run_id}")

    def write(self, name: str, at: str = "2026-01-02T00:00:00Z") -> None:
        connection = sqlite3.connect(self.database)
        with connection:
            connection.execute("INSERT INTO audit (name, at) VALUES (?, ?)", (name, at))
        connection.close()


def rows(path: Path) -> int:
    connection = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    try:
        return int(connection.execute("SELECT count(*) FROM audit").fetchone()[0])
    finally:
        connection.close()


def facts(path: Path) -> Any:
    return _sqlite_copy.facts(path, name="main", file="databases/main.sqlite3")


def is_clean(host: Host) -> bool:
    """Nothing of a run is left beside the data or on /run."""
    private = host.layout.root / "run" / "backstay"
    return not os.path.lexists(host.layout.backup_stage) and not (private.is_dir() and list(private.iterdir()))
