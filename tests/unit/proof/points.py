"""Restore points for the tests: data of many shapes, stored by the real restic, signed by a real key."""

from __future__ import annotations

import copy
import datetime as dt
import json
import os
import random
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from ansible_collections.backstay.ops.plugins.module_utils import _manifest, _media, _sqlite_copy
from ansible_collections.backstay.ops.plugins.module_utils._application import Application, from_dict, to_dict
from ansible_collections.backstay.ops.plugins.module_utils._attestation import SIGNATURE, sign
from ansible_collections.backstay.ops.plugins.module_utils._backup_settings import RepositorySettings
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._manifest import CanaryAnswer, DatabaseFacts, Manifest
from ansible_collections.backstay.ops.plugins.module_utils._proof import (
    MANIFEST,
    MANIFEST_NAMESPACE,
    SEAL,
    SEAL_NAMESPACE,
    Chain,
    Proof,
    prove,
)
from ansible_collections.backstay.ops.plugins.module_utils._repository import Repository, Snapshot
from ansible_collections.backstay.ops.plugins.module_utils._sandbox import DirectSandbox

from .weak_key import weaken

NAME = "portal"
PASSWORD = "the tests' own, and no secret"
CANARY = "SELECT count(*), coalesce(max(title), '') FROM report"
FILES = "SELECT photograph FROM report WHERE photograph IS NOT NULL"
NEWEST = "SELECT max(made) FROM report"
DAYS = ("20260301T020000000-11", "20260302T020000000-12", "20260303T020000000-13")
NOW = dt.datetime(2026, 3, 3, 3, 0, tzinfo=dt.UTC)


def application_of(**changed: Any) -> Application:
    """The application's file of the tests, with other top-level keys where given."""
    data: dict[str, Any] = {
        "format": 1,
        "name": NAME,
        "domain": "portal.example.org",
        "source": {"repository": "https://example.org/portal.git"},
        "runtime": {"settings": "portal.settings", "wsgi": "portal.wsgi:application"},
        "processes": {"web": {}},
        "databases": [{"name": "main", "engine": "sqlite", "path": "db/main.sqlite3"}],
        "media": "media",
        "backup": {
            "repositories": {"disk": {"location": "/backup/portal", "own_disk": False}},
            "canaries": [{"name": "reports", "database": "main", "query": CANARY}],
            "files": [{"database": "main", "query": FILES}],
            "newest": [{"database": "main", "query": NEWEST}],
        },
    }
    return from_dict(data | changed, file="portal.yml")


@dataclass(frozen=True)
class Shape:
    """What the data of a point look like."""

    reports: int = 40
    media: Mapping[str, bytes] = field(default_factory=dict)
    statements: tuple[str, ...] = ()


def photographs(seed: int, count: int = 12) -> dict[str, bytes]:
    chance = random.Random(seed)
    return {
        f"2026/0{1 + n % 3}/photograph-{n}.jpg": chance.randbytes(chance.randrange(1, 40_000)) for n in range(count)
    }


# What every engine understands.
CONTENT = """
CREATE INDEX report_title ON report(title);
INSERT INTO author(name) VALUES ('Ada'), ('Émile'), ('Łucja');
INSERT INTO setting VALUES ('colour', 'blue'), ('größe', 'Ω');
"""


def reports_of(shape: Shape, seed: int, day: int) -> Iterator[tuple[int, str, str | None, str, bytes]]:
    """Author, title, photograph, time and body of each."""
    chance = random.Random(seed)
    names = sorted(shape.media)
    for number in range(shape.reports):
        photograph = names[number % len(names)] if names else None
        made = f"2026-03-0{day}T01:{number % 60:02}:00+00:00"
        yield 1 + number % 3, f"Report {number}", photograph, made, chance.randbytes(chance.randrange(1, 900))


def write_database(path: Path, shape: Shape, seed: int, day: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")  # as most live ones are: what lies beside such a file is applied
    connection.execute("PRAGMA foreign_keys=ON")
    connection.executescript(
        """
        CREATE TABLE author(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL);
        CREATE TABLE report(id INTEGER PRIMARY KEY AUTOINCREMENT, author INTEGER REFERENCES author, title TEXT,
            photograph TEXT, made TEXT, body BLOB);
        CREATE TABLE setting(key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
        """
    )
    connection.executescript(CONTENT)
    rows = reports_of(shape, seed, day)
    connection.executemany("INSERT INTO report(author, title, photograph, made, body) VALUES (?, ?, ?, ?, ?)", rows)
    for statement in shape.statements:
        connection.executescript(statement)
    connection.commit()
    connection.close()


class Place:
    """One host of one application with one repository, below a directory of the test's own."""

    def __init__(self, top: Path) -> None:
        self.application = application_of()
        self.known: dict[str, dict[str, Snapshot]] = {}  # what was stored, so that no liar has to ask
        self._settle(top)

    def _settle(self, top: Path) -> None:
        self.top = top
        self.layout = Layout(NAME, top / "host")
        self.repository_path = top / "repository"
        self.stage = self.layout.backup_stage

    @property
    def repository(self) -> Repository:
        return Repository(
            name="disk",
            application=NAME,
            settings=RepositorySettings(location=str(self.repository_path), own_disk=False),
            secrets={"password": PASSWORD},
            private=self.top / "private",
        )

    @property
    def public_key(self) -> str:
        return Path(f"{self.layout.backup_key}.pub").read_text()

    def begin(self) -> None:
        self.layout.configuration.mkdir(parents=True)
        self.layout.state.mkdir(parents=True)
        (self.top / "private").mkdir(mode=0o700, exist_ok=True)
        make_key(self.layout.backup_key)
        self.repository.initialize()
        weaken(self.repository_path, PASSWORD)

    def copied(self, top: Path) -> Self:
        """The same place once more: hard links would let one test damage another's, so everything is copied."""
        shutil.copytree(self.top, top, symlinks=True, dirs_exist_ok=True)
        twin = copy.copy(self)
        twin.known = {run: dict(parts) for run, parts in self.known.items()}
        twin._settle(top)
        return twin

    # what a run does

    def write_stage(self, shape: Shape, seed: int, day: int) -> None:
        shutil.rmtree(self.stage, ignore_errors=True)
        (self.stage / "databases").mkdir(parents=True)
        self.write_database(shape, seed, day)
        (self.stage / "media").mkdir()
        for name, content in shape.media.items():
            path = self.stage / "media" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        configuration = self.stage / "configuration"
        configuration.mkdir()
        (configuration / "application.json").write_text(json.dumps(to_dict(self.application)))
        (configuration / "secrets.json").write_text('{"SECRET_KEY": "hunter2"}')
        (self.stage / "artifacts").mkdir()
        (self.stage / "artifacts" / f"{'a' * 64}.tar").write_bytes(b"a payload")

    def write_database(self, shape: Shape, seed: int, day: int) -> None:
        """Put the database into the stage."""
        write_database(self.stage / "databases" / "main.sqlite3", shape, seed, day)

    def database(self) -> tuple[DatabaseFacts, str]:
        """What is in the stage's database, and what it answers to the canary."""
        path = self.stage / "databases" / "main.sqlite3"
        return _sqlite_copy.facts(path, name="main", file="databases/main.sqlite3"), _sqlite_copy.answer(path, CANARY)

    def sworn(self, content: bytes) -> bytes:
        """A manifest as a host writes it that takes what lies in the stage for what it copied and counted."""
        return content

    def manifest(self, run: str, previous: str | None) -> Manifest:
        """What is true of the stage as it lies there."""
        facts, answer = self.database()
        return Manifest(
            run=run,
            application=NAME,
            host="host.example.org",
            release="0001-1.0.0",
            version="1.0.0",
            payload="a" * 64,
            migrations=("portal.0001_initial",),
            began=f"{run[:4]}-{run[4:6]}-{run[6:8]}T02:00:00Z",
            ended=f"{run[:4]}-{run[4:6]}-{run[6:8]}T02:00:09Z",
            tools={"backstay": "test"},
            databases={"main": facts},
            media=_media.hash_tree(self.stage / "media"),
            configuration=_media.hash_tree(self.stage / "configuration"),
            artifacts=_media.hash_tree(self.stage / "artifacts"),
            canaries=(CanaryAnswer("reports", "main", answer),),
            newest={"main": None},
            previous=previous,
        )

    def store(self, run: str, content: bytes, **changed: Any) -> tuple[Snapshot, Snapshot]:
        """Both snapshots of a run, from the stage as it lies there. `changed` are other words of the seal."""
        data = self.add(self.stage, self.parts(), run, "data")
        return data, self.store_manifest(run, content, data, **changed)

    def parts(self) -> list[str]:
        return sorted(path.name for path in self.stage.iterdir())

    def store_manifest(
        self,
        run: str,
        content: bytes,
        data: Snapshot,
        *,
        key: Path | None = None,
        edit: Callable[[Path], None] = lambda folder: None,
        **changed: Any,
    ) -> Snapshot:
        folder = self.layout.backup_run(run)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).write_bytes(content)
        seal = {
            "format": 1,
            "run": run,
            "repository": self.repository.identity(),
            "snapshot": data.id,
            "tree": data.tree,
            "manifest": _manifest.digest(content),
            "previous": json.loads(content)["previous"],
            **changed,
        }
        (folder / SEAL).write_text(json.dumps(seal, sort_keys=True))
        for name, namespace in ((MANIFEST, MANIFEST_NAMESPACE), (SEAL, SEAL_NAMESPACE)):
            sign(folder / name, key or self.layout.backup_key, namespace)
        edit(folder)
        names = [name + ending for name in (MANIFEST, SEAL) for ending in ("", SIGNATURE)]
        return self.add(folder, names, run, "manifest")

    def add(self, folder: Path, names: list[str], run: str, part: str) -> Snapshot:
        """One snapshot. (`Repository.store` lists it again, which the tests of that do.)"""
        tags = ("backstay", f"application={NAME}", f"run={run}", f"part={part}")
        options = [word for tag in tags for word in ("--tag", tag)]
        said = restic(self, "backup", "--json", "--host", NAME, *options, "--", *names, cwd=folder)
        identifier = json.loads(said.splitlines()[-1])["snapshot_id"]
        value = json.loads(restic(self, "--no-lock", "cat", "snapshot", identifier))
        (path,) = (self.repository_path / "snapshots").glob(f"{identifier}*")
        snapshot = Snapshot(path.name, value["tree"], value["time"], tags, run, part)
        self.known.setdefault(run, {})[part] = snapshot
        return snapshot

    def run(self, run: str, shape: Shape, seed: int, day: int, previous: str | None) -> str:
        """A whole sound run; returns its manifest's digest."""
        self.write_stage(shape, seed, day)
        content = _manifest.to_bytes(self.manifest(run, previous))
        self.store(run, content)
        return _manifest.digest(content)

    def chain(self) -> Chain:
        """What the host that made the points knows."""
        contents = {run: (self.layout.backup_run(run) / MANIFEST).read_bytes() for run in self.known}
        return Chain({_manifest.digest(content): run for run, content in contents.items()}, complete=True)

    def prove(self, run: str | None = DAYS[2], level: int = 4, **given: Any) -> Proof:
        options: dict[str, Any] = {
            "layout": self.layout,
            "application": self.application,
            "sandbox": DirectSandbox(),
            "public_keys": [self.public_key],
            "max_age_seconds": 26 * 3600.0,
            "read_back": "repository",
            "now": lambda: NOW,
        }
        password = given.pop("password", None)
        repository = given.pop("repository", self.repository)
        repository = repository if password is None else repository.with_password(password)
        return prove(run, repository, level, **{**options, **given})


def make_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def three_days(top: Path, shape: Shape | None = None) -> Place:
    """A place with three sound points, a day apart."""
    place = Place(top)
    place.begin()
    previous = None
    for number, run in enumerate(DAYS, start=1):
        given = shape or Shape(media=photographs(7, 8 + number))
        previous = place.run(run, replace(given, reports=given.reports + number), 7, number, previous)
    return place


def restic(place: Place, *arguments: str, cwd: Path | None = None) -> str:
    environment = {**os.environ, "RESTIC_PASSWORD": PASSWORD, "RESTIC_REPOSITORY": str(place.repository_path)}
    done = subprocess.run(
        ["restic", "--no-cache", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout
