"""A host in a directory: the real engine, conductor, recovery, units and files over a small systemd of our own.

Only what is outside the library is played: systemd, the migrations of the application (rows of a real SQLite file),
venv and pip, who vouches for a payload, a repository with one restore point, and health, which is always good. A power
cut is a new `Host` over what survived: nothing runs on it.
"""

from __future__ import annotations

import datetime as dt
import grp
import hashlib
import itertools
import json
import os
import pwd
import shutil
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import (
    _application,
    _artifact,
    _attestation,
    _health,
    _host,
    _preparation,
    _restore_point,
    _runtime,
)
from ansible_collections.backstay.ops.plugins.module_utils._application import Application
from ansible_collections.backstay.ops.plugins.module_utils._catalogue import catalogue
from ansible_collections.backstay.ops.plugins.module_utils._engine import Engine
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed
from ansible_collections.backstay.ops.plugins.module_utils._service import Conductor
from ansible_collections.backstay.ops.plugins.module_utils._steps import PHASES
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage, canonical
from ansible_collections.backstay.ops.plugins.module_utils._transaction import Request, Restoring, Transaction

from .lossy_storage import LossyStorage

NAME = "portal"
START = dt.datetime(2026, 11, 21, 6, tzinfo=dt.UTC)
FACTS = _artifact.HostFacts("debian-13", "3.13", "x86_64")
MIGRATIONS = {"1.0.0": 1, "1.1.0": 2, "1.2.0": 3}  # how many of them each version knows
LOCKS = {"1.0.0": b"django==5.1\n", "1.1.0": b"django==5.1\n", "1.2.0": b"django==5.2\n"}
DECLARED: dict[str, Any] = {
    "format": 1,
    "name": NAME,
    "domain": "portal.example.org",
    "source": {"repository": "https://git.example.org/portal.git"},
    "runtime": {"settings": "portal.settings", "wsgi": "portal.wsgi:application"},
    "processes": {"web": {}, "scheduler": {"command": ["python", "manage.py", "schedule"], "singleton": True}},
    "databases": [{"name": "default", "engine": "sqlite", "path": "db/portal.sqlite3"}],
    "media": "uploads/media",
    "backup": {
        "repositories": {"disk": {"location": "/srv/backup"}},
        "before_release": False,
        "retention": ["python", "manage.py", "expire"],
    },
    "environment": {"values": {"BANNER": "hello"}, "required": ["SECRET_KEY"], "secret": ["SECRET_KEY"]},
    "releases": {"keep": 2, "drain_seconds": 0, "watch": {"seconds": 0}},
}


# What a host holds that has a restore point, and what the point holds: it is older than the live code, and it has a row
# that the application's retention deletes.
SINCE = ["note: written since", "portal.0001", "portal.0002"]
POINT = ["note: in the point", "note: too old", "portal.0001"]
LIVE_MEDIA = {"2025/a.jpg": b"a, changed since\n", "2026/b.jpg": b"b\n", "2026/deep/c.jpg": b"c, made since\n"}
POINT_MEDIA = {"2025/a.jpg": b"a\n", "2026/b.jpg": b"b, as it was\n", "2026/gone.jpg": b"deleted since\n"}


class Quick(Storage):
    """A real disk that nobody waits for."""

    def sync_tree(self, path: Path) -> None:
        """Nothing is cut off here."""


class Payloads:
    """One payload for each version, made once."""

    def __init__(self, directory: Path) -> None:
        self.content: dict[str, bytes] = {}
        for version, lock in LOCKS.items():
            digest = hashlib.sha256(lock).hexdigest()
            manifest = _artifact.Manifest(
                NAME, version, "c" * 40, "d" * 64, "2026-09-21T14:13:20Z", "django", FACTS.python, FACTS.system,
                FACTS.architecture, digest, "First.",
            )  # fmt: skip
            asset = f"portal.{hashlib.sha256(version.encode()).hexdigest()[:8]}.css"
            files = {
                "manifest.json": manifest.to_json(),
                "code/manage.py": f"print({version!r})\n".encode(),
                "code/migrations.txt": str(MIGRATIONS[version]).encode(),
                "static/staticfiles.json": json.dumps({"paths": {"portal.css": f"css/{asset}"}}).encode(),
                f"static/css/{asset}": f"body {{}} /* {version} */\n".encode(),
                "wheels/requirements.txt": lock,
            }
            tree = directory / version
            for name, content in files.items():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                (tree / name).write_bytes(content)
            packed = _artifact.pack(tree, directory / f"{version}.tar", 1_790_000_000)
            self.content[version] = packed.path.read_bytes()

    def send(self, version: str, layout: Layout) -> str:
        """As role `app` sends it: whole, under its digest."""
        digest = hashlib.sha256(self.content[version]).hexdigest()
        layout.payload(digest).write_bytes(self.content[version])
        return digest


def declare(layout: Layout) -> None:
    """What playbooks/site.yml leaves on a host before the first release."""
    for directory in (
        layout.releases, layout.environments, layout.static, layout.generations / "0001" / "db",
        layout.configuration / "releases", layout.old_journals, layout.artifacts, layout.units, layout.runtime,
    ):  # fmt: skip
        directory.mkdir(parents=True, exist_ok=True)
    layout.data.symlink_to("data.d/0001")
    application = _application.from_dict(DECLARED, file="portal.yml")
    layout.application_file.write_bytes(canonical(_application.to_dict(application)))
    layout.secrets_file.write_bytes(canonical({"format": 1, "values": {"SECRET_KEY": "hidden"}}))
    database(layout, [])


def _database_path(layout: Layout) -> Path:
    return layout.data / "db" / "portal.sqlite3"


def database(layout: Layout, rows: Sequence[str] | None = None, *, generation: Path | None = None) -> list[str]:
    """The migrations that are applied, and notes; with `rows`, these and no others from now on."""
    return _rows((generation or layout.data) / "db" / "portal.sqlite3", rows)


def _rows(path: Path, rows: Sequence[str] | None = None) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        if rows is not None:
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute("CREATE TABLE IF NOT EXISTS applied (name TEXT PRIMARY KEY)")
            connection.execute("DELETE FROM applied")
            connection.executemany("INSERT INTO applied VALUES (?)", [(row,) for row in rows])
            connection.commit()
        return [row[0] for row in connection.execute("SELECT name FROM applied ORDER BY name")]
    finally:
        connection.close()


def media(layout: Layout) -> dict[str, bytes]:
    """The uploaded files, by path."""
    top = layout.data / "uploads" / "media"
    return {str(path.relative_to(top)): path.read_bytes() for path in sorted(top.rglob("*")) if path.is_file()}


def _lay(directory: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)


def live_for_a_while(layout: Layout) -> None:
    """What visitors have written, the last of it only in the database's log, as a process leaves it that was killed;
    and one restore point in the catalogue."""
    path = _database_path(layout).resolve()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute("INSERT INTO applied VALUES ('note: written since')")
    kept = {part: part.read_bytes() for part in (path, path.with_name(f"{path.name}-wal"))}
    connection.close()
    for part, content in kept.items():
        part.write_bytes(content)
    _lay(layout.data / "uploads" / "media", LIVE_MEDIA)
    ledger = catalogue(layout, Quick(), lambda: "2026-11-21T02:00:00.000Z")
    run = "20261121T020000000-1"
    ledger.append("made", run, at="2026-11-21T02:00:00.000Z", release="0001-1.0.0", manifest="e" * 64, size_bytes=1)
    ledger.append("stored", run, repository="disk", id="r", snapshot="s", tree="t", manifest_snapshot="m")


class OnePoint:
    """A repository that lays the files of its only restore point where it is asked to."""

    def fetches_what_differs(self) -> bool:
        return False

    def restore(self, snapshot: str, target: Path, include: Sequence[str] = ()) -> None:
        whole = target.with_name("whole")
        (whole / "databases").mkdir(parents=True)
        _rows(whole / "databases" / "default.sqlite3", POINT)
        _lay(whole / "media", POINT_MEDIA)
        for path in include:
            place = target / path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            (whole / path.lstrip("/")).rename(place)
        shutil.rmtree(whole)


class Host:
    """Runs the commands that the library runs; knows what runs."""

    def __init__(self, layout: Layout, storage: Storage) -> None:
        self.layout = layout
        self.storage = storage
        self.running: set[str] = set()

    def __call__(self, arguments: Sequence[str], *, check: bool = True, **_unused: Any) -> Completed:
        program, *rest = [str(argument) for argument in arguments]
        name = Path(program).name
        if name == "systemctl":
            code, output = self._systemctl(rest)
        elif name == "systemd-run":
            code, output = 0, self._expire() if "expire" in rest else self._agent(rest)
        elif name == "journalctl" or "compileall" in rest:
            code, output = 0, ""
        elif "venv" in rest:
            (Path(rest[-1]) / "bin").mkdir(exist_ok=True)
            (Path(rest[-1]) / "bin" / "python").write_bytes(b"an interpreter\n")
            code, output = 0, ""
        elif "install" in rest:
            (Path(program).parents[1] / "django.py").write_bytes(b"installed\n")
            code, output = 0, ""
        else:
            raise AssertionError(f"This host does not know the command {arguments}: teach it.")
        if check and code:
            raise BackstayError(f"{name} ended with exit code {code}")
        return Completed(tuple(arguments), code, output, "")

    def _systemctl(self, rest: Sequence[str]) -> tuple[int, str]:
        verb, *words = rest
        units = [word for word in words if not word.startswith("--")]
        if verb == "start":
            for unit in units:
                text = self.storage.read(self.layout.units / unit)
                if text is None or b"ExecStart=" not in text or not text.endswith(b"\n"):
                    return 5, ""
            self.running.update(units)
        elif verb == "stop":
            self.running.difference_update(units)
        elif verb == "is-active":
            return 0, "\n".join("active" if unit in self.running else "inactive" for unit in units)
        elif verb == "list-units":
            return 0, "\n".join(f"{unit} loaded active running" for unit in sorted(self.running))
        elif verb == "show":
            return 0, "ActiveState=active\nNRestarts=0\nMainPID=0\n"
        elif verb not in ("daemon-reload", "reset-failed"):
            raise AssertionError(f"This host does not know systemctl {verb}: teach it.")
        return 0, ""

    def _agent(self, words: Sequence[str]) -> str:
        release = next(Path(word).parents[2] for word in words if word.endswith("/venv/bin/python"))
        count = int((release / "code" / "migrations.txt").read_text())
        known = [f"portal.{number:04d}" for number in range(1, count + 1)]
        bound = next((word for word in words if word.startswith("--property=BindPaths=")), None)
        generation = Path(bound.rpartition("=")[2].partition(":")[0]) if bound else None
        applied = database(self.layout, generation=generation)
        events = []
        if "migrate" in words:
            fresh = [name for name in known if name not in applied]
            events = [{"event": "migration", "name": name, "seconds": 0.1} for name in fresh]
            applied = self.migrated(sorted({*applied, *known}), generation)
        pending = [name for name in known if name not in applied]
        unknown = [name for name in applied if name.startswith("portal.") and name not in known]
        state = {"event": "state", "applied": applied, "known": known, "pending": pending, "unknown": unknown}
        return "".join(json.dumps(event) + "\n" for event in (*events, state))

    def _expire(self) -> str:
        self.migrated([row for row in database(self.layout) if row != "note: too old"])
        return "1 deleted\n"

    def migrated(self, rows: list[str], generation: Path | None = None) -> list[str]:
        """The database has these migrations from now on; it has synced them by itself, as databases do."""
        found = database(self.layout, rows, generation=generation)
        if isinstance(self.storage, LossyStorage):
            self.storage.synced_elsewhere(((generation or self.layout.data) / "db" / "portal.sqlite3").resolve())
        return found


_PARSED: dict[bytes | None, Application] = {}


class CrashEngine(Engine):
    """The real engine, but for what lies outside the host's disk."""

    operation = ""  # conducts this one, whichever one a request would have led to

    def open(self, request: Request) -> Transaction:
        transaction = super().open(request)
        return replace(transaction, operation=self.operation or transaction.operation)

    def application(self, release: str | None = None) -> Application:
        """Parsed once for each content: thousands of hosts boot here."""
        path = self.layout.release_configuration(release) / "application.json" if release else None
        content = self.storage.read(path or self.layout.application_file)
        if content not in _PARSED:
            return (
                _PARSED.setdefault(content, super().application(release)) if content else super().application(release)
            )
        return _PARSED[content]

    def _check_room(self, *_unused: Any) -> None:
        """The machine of the tests is another one."""

    def _check_disk(self, *_unused: Any) -> None:
        """So is its disk."""

    _check_disks = _check_disk

    def free_bytes(self) -> int:
        """A disk of the tests says itself what is free."""
        blocks = getattr(self.storage, "blocks", None)
        return super().free_bytes() if blocks is None else int(blocks) * 4096

    def repository_of(self, restoring: Restoring) -> Any:
        return OnePoint()

    def do_prove(self, transaction: Transaction) -> str:
        """What came is what was stored: proofs have tests of their own."""
        return "equal"

    def manifest_of(self, restoring: Restoring, sha256: str = "") -> Any:
        return SimpleNamespace(canaries=())

    def _gid(self) -> int:
        return os.getgid()

    def do_judge(self, transaction: Transaction) -> str:
        """A verdict needs Django; what it leaves is a note in the ledger."""
        self.ledger.append("judged", transaction.candidate, remark="judged elsewhere")
        return "reversible"

    def do_reverse(self, transaction: Transaction) -> str:
        """A reverse needs Django; what it leaves is a database with what the target knows."""
        host = self.runner
        if not isinstance(host, Host):
            raise TypeError("an engine of these tests runs on a host of theirs")
        known = int((self.layout.release(transaction.candidate) / "code" / "migrations.txt").read_text())
        host.migrated(database(self.layout)[:known])
        return "reversed"


def engine_on(layout: Layout, storage: Storage) -> tuple[CrashEngine, Host]:
    """An engine on a host on which nothing runs yet."""
    host = Host(layout, storage)
    ticks = itertools.count()
    engine = CrashEngine(
        layout,
        storage,
        host,
        now=lambda: f"{START + dt.timedelta(milliseconds=next(ticks)):%Y-%m-%dT%H:%M:%S.%fZ}",
        sleep=lambda seconds: None,
        clock=lambda: 0.0,
    )
    return engine, host


def conduct(engine: CrashEngine, request: Request, *, operation: str = "") -> Transaction:
    """From begin to end, as the service does it with nobody in between."""

    def emit(event: dict[str, Any]) -> None:
        if event["event"] == "begin" and isinstance(engine.storage, LossyStorage):
            engine.storage.context = event["step"]

    engine.operation = operation
    conductor = Conductor(engine, emit)
    transaction = conductor.begin(request)
    for phase in PHASES:
        conductor.phase(phase)
    conductor.end("confirmed")
    engine.operation = ""
    return transaction


def play(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """Put the played parts in their places."""
    gunicorn = directory / "gunicorn.conf.py"
    gunicorn.write_bytes(b"preload_app = False\n")
    good = _health.Report(ok=True, attempts=1, results=(), reason="", seconds=0.0)
    monkeypatch.setattr(_preparation, "GUNICORN_CONFIGURATION", gunicorn)
    monkeypatch.setattr(_health, "run_until", lambda *_unused, **_options: good)
    monkeypatch.setattr(_attestation, "check_attestation", lambda *_unused, **_options: "somebody")
    monkeypatch.setattr(_artifact, "host_facts", lambda: FACTS)
    monkeypatch.setattr(_runtime, "pip_program", lambda: Path("pip"))
    monkeypatch.setattr(_host, "open_connections", lambda path: 0)
    monkeypatch.setattr(_restore_point, "opened_by", lambda path: [])
    monkeypatch.setattr(os, "chown", lambda *_unused, **_options: None)
    account = SimpleNamespace(pw_uid=os.getuid(), pw_gid=os.getgid())
    monkeypatch.setattr(pwd, "getpwnam", lambda name: account)
    monkeypatch.setattr(grp, "getgrnam", lambda name: SimpleNamespace(gr_gid=os.getgid()))
