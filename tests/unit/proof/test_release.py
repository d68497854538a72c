"""Level 5 inside: a release is started on restored data, asked, and ended. The release here is a stand-in that answers
as one does; the real thing, in systemd's sandbox, is in tests/integration."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _manifest, _proof
from ansible_collections.backstay.ops.plugins.module_utils._application import Application
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._ledger import Ledger
from ansible_collections.backstay.ops.plugins.module_utils._proof import MANIFEST
from ansible_collections.backstay.ops.plugins.module_utils._proof_release import run_release
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage

from .points import DAYS, Place, application_of

RELEASE = "0001-1.0.0"
# Called as `venv/bin/python -m gunicorn ... --bind=unix:<socket> ...`, like the real one.
SERVER = """#!{python}
import http.server, os, socketserver, sqlite3, sys
socket = next(word for word in sys.argv if word.startswith("--bind=unix:")).removeprefix("--bind=unix:")
data = os.environ["BACKSTAY_DATA_DIR"]
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        connection = sqlite3.connect(data + "/db/main.sqlite3")
        connection.execute("PRAGMA journal_mode=WAL")
        {statement}
        rows = connection.execute("SELECT count(*) FROM report").fetchone()[0]
        media = os.path.isdir(data + "/media")
        self.send_response({status} if rows and media else 503)
        self.send_header("X-Release-Id", os.environ["BACKSTAY_RELEASE_ID"])
        self.end_headers()
        self.wfile.write(b"{{}}")
    def address_string(self):
        return "unix"
    def log_message(self, *words):
        print("served", flush=True)
socketserver.ThreadingUnixStreamServer(socket, Answer).serve_forever()
"""


@pytest.fixture
def application() -> Application:
    health = {"consecutive": 2, "interval_seconds": 0.1, "deadline_seconds": 5.0}
    return application_of(health=health, smoke=[{"name": "home", "path": "/"}])


def prepared(
    place: Place, top: Path, monkeypatch: pytest.MonkeyPatch, *, status: int = 200, statement: str = "pass"
) -> tuple[Path, _manifest.Manifest, Path]:
    directory, release = top / "open", top / "release"
    directory.mkdir()
    for part in ("databases", "media"):
        shutil.copytree(place.stage / part, directory / part)
    (release / "code").mkdir(parents=True)
    python = release / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(SERVER.format(python=sys.executable, status=status, statement=statement))
    python.chmod(0o755)
    monkeypatch.setenv("BACKSTAY_RELEASE_ID", RELEASE)
    content = (place.layout.backup_run(DAYS[2]) / MANIFEST).read_bytes()
    return directory, _manifest.from_bytes(content, origin="the manifest"), release


def test_a_release_that_answers_on_the_restored_data_holds(
    place: Place, application: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, manifest, release = prepared(place, tmp_path, monkeypatch)
    assert run_release(directory, manifest, application, release, RELEASE) == ()
    assert (directory / "data" / "db" / "main.sqlite3").is_file()
    assert (directory / "data" / "media").is_dir()


def test_a_release_that_does_not_answer_is_refuted_with_its_last_words(
    place: Place, application: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, manifest, release = prepared(place, tmp_path, monkeypatch, status=500)
    (sentence,) = run_release(directory, manifest, application, release, RELEASE)
    assert sentence.startswith(f"The release {RELEASE} does not answer on the restored data: health:")
    assert sentence.endswith("(it said: served).")


def test_another_release_than_the_one_asked_for_is_refuted(
    place: Place, application: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, manifest, release = prepared(place, tmp_path, monkeypatch)
    (sentence,) = run_release(directory, manifest, application, release, "0002-1.1.0")
    assert "0001-1.0.0" in sentence


def test_a_release_that_changes_what_a_canary_asks_for_is_refuted(
    place: Place, application: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statement = "connection.execute('DELETE FROM report WHERE id = 3'); connection.commit()"
    directory, manifest, release = prepared(place, tmp_path, monkeypatch, statement=statement)
    (sentence,) = run_release(directory, manifest, application, release, RELEASE)
    assert "The canary 'reports'" in sentence


@pytest.mark.parametrize(("payload", "own"), [("a" * 64, True), ("b" * 64, False), (None, False)])
def test_the_tree_of_this_host_serves_where_it_is_of_the_same_payload(
    tmp_path: Path, payload: str | None, own: bool
) -> None:
    """A drill brings the points of other hosts, which count their releases by themselves."""
    layout = Layout("portal", tmp_path)
    layout.state.mkdir(parents=True)
    tree, environment = layout.release(RELEASE), tmp_path / "environment"
    for path in (tree / "code", environment / "bin"):
        path.mkdir(parents=True)
    (environment / "bin" / "python").touch()
    (tree / "venv").symlink_to(environment)
    if payload:
        Ledger(layout.ledger, Storage(), lambda: "now").append("staged", RELEASE, payload=payload)
    manifest: Any = SimpleNamespace(release=RELEASE, payload="a" * 64)
    assert _proof._release_on_host(layout, manifest) == ((tree, (tree, environment)) if own else (None, ()))
