"""The portal as it runs on a host: real processes, a real database file, real signals."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


class Host:
    """One data directory and what runs in it."""

    def __init__(self, directory: Path) -> None:
        self.data, self.log = directory / "data", directory / "log"
        for path in (self.data / "db", self.data / "media", self.log):
            path.mkdir(parents=True)
        self.database = self.data / "db" / "portal.sqlite3"
        self.running: list[subprocess.Popen[str]] = []
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
            "SECRET_KEY": "a key for tests only, long enough and known to everybody: 0123456789",
            "ALLOWED_HOSTS": "portal.example.org",
            "BACKSTAY_RELEASE_ID": "0001-1.0.0",
            "BACKSTAY_DATA_DIR": str(self.data),
            "BACKSTAY_STATIC_DIR": str(directory / "static"),
            "BACKSTAY_LOG_DIR": str(self.log),
        }

    def run(
        self, *arguments: str, check: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.running.append(process)
        return process

    def rows(self, query: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.database)) as connection:
            return connection.execute(query).fetchall()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = Host(tmp_path_factory.mktemp("host"))
    host.run("manage.py", "migrate", "--verbosity", "0")
    yield host
    for process in host.running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for(process: subprocess.Popen[str], words: str) -> str:
    """Read the process's output until a line has these words."""
    assert process.stdout is not None
    said = ""
    # Not by readline: of lines that come together it keeps those where select does not see them.
    while select.select([process.stdout], [], [], 30)[0]:
        some = os.read(process.stdout.fileno(), 65536).decode(errors="replace")
        said += some
        for line in said.splitlines(keepends=True):
            if words in line and line.endswith("\n"):
                return line
        if not some:
            break
    raise AssertionError(f"{words!r} did not appear in: {said}")


@pytest.mark.parametrize(
    ("command", "words", "table"),
    [
        ("run_worker", "worker", "audits_workerheartbeat"),
        ("run_scheduler", "scheduler", "audits_schedulertick"),
    ],
)
def test_a_process_leaves_its_row_and_stops_when_asked(
    host: Host, command: str, words: str, table: str
) -> None:
    process = host.start("manage.py", command)
    line = json.loads(wait_for(process, f"{words} started"))
    assert (line["release_id"], line["pid"], line["level"]) == ("0001-1.0.0", process.pid, "info")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0, out
    assert f"{words} stopped" in out
    found = host.rows(f"SELECT release_id, pid FROM {table} WHERE last_seen >= started")
    assert found == [("0001-1.0.0", process.pid)]
    assert f"{words} stopped" in (host.log / "app.log").read_text()


# An alarm strikes at any moment of the way into waiting and out of it.
STRUCK = """
import random, signal
from audits.stopping import Stop
for _ in range(200):
    stop = Stop()
    signal.signal(signal.SIGALRM, stop.set)
    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 2e-4))
    while not stop.wait(1e-5):
        pass
print("stopped each time")
"""


def test_a_signal_stops_at_any_moment(host: Host) -> None:
    assert host.run("-c", STRUCK).stdout.strip() == "stopped each time"


def test_database_is_set_up_for_a_server(host: Host) -> None:
    script = (
        "import django; django.setup(); from django.db import connection as c, transaction as t\n"
        "names = 'journal_mode', 'synchronous', 'busy_timeout', 'foreign_keys'\n"
        "print([c.cursor().execute(f'PRAGMA {n}').fetchone()[0] for n in names])\n"
        "c.force_debug_cursor = True\n"
        "with t.atomic(): pass\n"
        "print(c.queries[0]['sql'])"
    )
    done = host.run("-c", script, DJANGO_SETTINGS_MODULE="portal.settings")
    assert done.stdout.splitlines() == ["['wal', 2, 20000, 1]", "BEGIN IMMEDIATE"]


def test_settings_pass_djangos_deployment_check(host: Host) -> None:
    host.run("manage.py", "check", "--deploy", "--fail-level", "WARNING")
    host.run("manage.py", "makemigrations", "--check", "--dry-run")


def test_a_release_without_a_secret_key_does_not_start(host: Host) -> None:
    done = host.run("manage.py", "check", check=False, SECRET_KEY="")
    assert done.returncode != 0
    assert "SECRET_KEY is empty in release 0001-1.0.0" in done.stderr


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:////srv/a%20b/x.sqlite3", {"NAME": "/srv/a b/x.sqlite3"}),
        (
            "postgres://me:p%40ss@db:6432/portal?sslmode=verify-full",
            {
                "NAME": "portal",
                "USER": "me",
                "PASSWORD": "p@ss",
                "HOST": "db",
                "PORT": "6432",
                "OPTIONS": {"sslmode": "verify-full"},
            },
        ),
        ("postgresql:///portal?host=/run/postgresql", {"HOST": "/run/postgresql", "USER": "", "OPTIONS": {}}),
    ],
)
def test_database_url(url: str, expected: dict[str, object]) -> None:
    from portal.environment import database

    found = database(url)
    assert {key: found[key] for key in expected} == expected


def test_a_wrong_database_url_is_refused_without_its_password() -> None:
    from django.core.exceptions import ImproperlyConfigured

    from portal.environment import database

    with pytest.raises(ImproperlyConfigured, match="DATABASE_URL begins with 'mysql'") as refused:
        database("mysql://me:hunter2@db/portal")
    assert "hunter2" not in str(refused.value)


def test_the_example_environment_names_every_variable() -> None:
    read = set()
    for path in (ROOT / "portal" / "settings.py", ROOT / "portal" / "environment.py"):
        read |= set(re.findall(r'environ\.get\(\s*"(\w+)"', path.read_text()))
    named = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.M))
    assert read - {"PORTAL_LOG_STREAM"} == named


def test_changelog_has_this_version() -> None:
    version = (ROOT / "VERSION").read_text().strip()
    assert re.search(
        rf"^## \[{re.escape(version)}\] - 2026-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.M
    )


def test_smoke_tests_find_a_running_portal_well_and_a_wrong_release_not(host: Host, tmp_path: Path) -> None:
    host.run("manage.py", "seed", "--audits", "250")
    host.run("manage.py", "collectstatic", "--noinput", "--verbosity", "0")
    socket = tmp_path / "web.sock"
    # Without portal.wsgi: how the host starts the portal is for the host to find out.
    server = host.start(
        "-m", "gunicorn", "--no-control-socket", "--threads", "2", "--bind", f"unix:{socket}",
        "--env", "DJANGO_SETTINGS_MODULE=portal.settings", "django.core.wsgi:get_wsgi_application()",
    )  # fmt: skip
    wait_for(server, "Booting worker")
    smoke = ["-m", "smoke", "--unix", str(socket), "--host", "portal.example.org"]
    done = host.run(*smoke, "--release-id", "0001-1.0.0")
    answer = json.loads(done.stdout)
    assert (answer["status"], answer["release_ids"]) == ("pass", ["0001-1.0.0"])
    assert {check["status"] for check in answer["checks"]} == {"pass"}

    done = host.run(*smoke, "--release-id", "0002-1.1.0", check=False)
    assert done.returncode == 1
    assert "expected '0002-1.1.0'" in done.stdout
    done = host.run("-m", "smoke", "--unix", f"{socket}.absent", "--host", "x", check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout)["failed"] > 5
