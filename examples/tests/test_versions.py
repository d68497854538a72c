"""What each version of the example does on the schema of another: the story that demo and tests tell.

Needs the portal's packages (see conftest.py) and no host:  pytest examples/tests
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pytest

HOST = "portal.example.org"
ALL = ["1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0", "1.5.0", "1.6.0"]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(str(self.path))


class Server:
    """One release of the portal, answering on its own socket."""

    def __init__(self, path: Path) -> None:
        self.socket = path

    def listens(self) -> bool:
        with closing(UnixConnection(self.socket)) as connection, suppress(OSError):
            connection.connect()
            return True
        return False

    def request(self, method: str, path: str, body: str = "", **headers: str) -> Answer:
        with closing(UnixConnection(self.socket)) as connection:
            every = {"Host": HOST, "X-Forwarded-Proto": "https", "Connection": "close"}
            connection.request(method, path, body, every | headers)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode())

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def health(self) -> tuple[int, dict[str, object]]:
        answer = self.request("GET", "/healthz/", **{"X-Backstay-Internal": "yes"})
        return answer.status, json.loads(answer.text)

    def add_finding(self, audit: int, note: str) -> Answer:
        form = self.get(f"/audits/{audit}/findings/new/")
        cookie = form.headers["set-cookie"].split(";")[0]
        csrf = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form.text)
        assert csrf is not None, "the form has no CSRF token"
        fields = {"csrfmiddlewaretoken": csrf[1], "severity": "high", "note": note, "token": note}
        return self.request(
            "POST",
            f"/audits/{audit}/findings/",
            urlencode(fields),
            **{"Content-Type": "application/x-www-form-urlencoded", "Cookie": cookie, "Origin": f"https://{HOST}"},
        )


class Host:
    """One data directory, on which releases of any version work, together or in turn."""

    def __init__(self, home: Path, python: Path, versions: dict[str, Path]) -> None:
        self.home, self.python, self.versions = home, python, versions
        for name in ("data/db", "data/media", "static", "log"):
            (home / name).mkdir(parents=True)
        self.running: list[subprocess.Popen[str]] = []
        self.count = 0

    def environment(self, release_id: str) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
            "SECRET_KEY": "a key for tests only, long enough and known to everybody: 0123456789",
            "ALLOWED_HOSTS": HOST,
            "BACKSTAY_RELEASE_ID": release_id,
            "BACKSTAY_DATA_DIR": str(self.home / "data"),
            "BACKSTAY_STATIC_DIR": str(self.home / "static" / release_id),
            "BACKSTAY_LOG_DIR": str(self.home / "log"),
        }

    def manage(self, version: str, *arguments: str) -> str:
        done = subprocess.run(
            [str(self.python), "manage.py", *arguments],
            cwd=self.versions[version],
            env=self.environment(f"tool-{version}"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"manage.py {arguments[0]} of {version}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, version: str) -> tuple[Server, subprocess.Popen[str]]:
        self.count += 1
        release_id = f"{self.count:04d}-{version}"
        path = self.home / f"{release_id}.sock"
        environment = self.environment(release_id)
        subprocess.run(
            [str(self.python), "manage.py", "collectstatic", "--noinput", "--verbosity", "0"],
            cwd=self.versions[version],
            env=environment,
            check=True,
        )
        process = subprocess.Popen(
            [str(self.python), "-m", "gunicorn", "portal.wsgi", "--no-control-socket", f"--bind=unix:{path}"],
            cwd=self.versions[version],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.running.append(process)
        return Server(path), process

    def serve(self, version: str) -> Server:
        """Start a release and wait until it listens; what is asked before its worker has loaded waits in line."""
        server, process = self.start(version)
        deadline = time.monotonic() + 30
        while not server.listens():
            assert process.poll() is None, f"{version} did not start: {process.communicate()[0]}"
            assert time.monotonic() < deadline, f"{version} does not listen"
            time.sleep(0.05)
        return server

    def rows(self, query: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.home / "data" / "db" / "portal.sqlite3")) as connection:
            return connection.execute(query).fetchall()

    def close(self) -> None:
        for process in self.running:
            process.terminate()
        for process in self.running:
            process.communicate(timeout=60)


@pytest.fixture
def host(tmp_path: Path, python: Path, versions: dict[str, Path]) -> Iterator[Host]:
    host = Host(tmp_path, python, versions)
    host.manage("1.0.0", "migrate", "--verbosity", "0")
    host.manage("1.0.0", "seed", "--audits", "30")
    yield host
    host.close()


@pytest.mark.parametrize("version", ALL)
def test_every_version_passes_its_own_release_checks(version: str, python: Path, versions: dict[str, Path]) -> None:
    """Also the broken ones: their faults are such as tests do not see and gates must."""
    for check in (
        ["-m", "pytest", "-q", "-p", "no:cacheprovider"],
        ["-m", "ruff", "check", "--no-cache", "."],
        ["manage.py", "check", "--deploy", "--fail-level", "WARNING"],
        ["manage.py", "makemigrations", "--check", "--dry-run"],
    ):
        done = subprocess.run(
            [str(python), *check],
            cwd=versions[version],
            env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(check)}: {done.stdout}{done.stderr}"


def test_1_0_0_keeps_working_and_writing_on_the_schema_of_1_1_0(host: Host) -> None:
    old = host.serve("1.0.0")
    assert old.add_finding(1, "before").status == 302
    host.manage("1.1.0", "migrate", "--verbosity", "0")
    new = host.serve("1.1.0")

    written = old.add_finding(1, "after")
    assert written.status == 302
    assert (old.health()[0], new.health()[0]) == (200, 200)
    assert "Risk" not in old.get("/").text
    page = new.get("/").text
    assert "<th>Risk</th>" in page
    assert "<b>1.1.0</b>" in page
    assert "after" in new.get("/audits/1/").text

    # A new process of 1.0.0 too: that is what a rollback after a reboot starts.
    again = host.serve("1.0.0")
    assert again.health()[0] == 200
    assert again.add_finding(2, "again").status == 302
    host.manage("1.0.0", "seed", "--audits", "40")
    assert host.rows("SELECT count(*), count(risk_score) FROM audits_audit") == [(40, 0)]
    assert host.rows("SELECT note, follow_up_on FROM audits_finding WHERE note IN ('after', 'again')") == [
        ("after", None),
        ("again", None),
    ]


def test_1_1_0_adds_its_columns_without_copying_a_table(host: Host) -> None:
    sql = host.manage("1.1.0", "sqlmigrate", "audits", "0002")
    assert sql.count("ADD COLUMN") == 2
    assert "CREATE TABLE" not in sql


def test_1_1_0_before_its_migration_is_not_healthy(host: Host) -> None:
    status, body = host.serve("1.1.0").health()
    assert (status, body["status"]) == (503, "fail")
    assert "audits.0002_risk_and_follow_up" in json.dumps(body)


def test_1_2_0_starts_and_serves_but_is_not_healthy(host: Host) -> None:
    host.manage("1.2.0", "migrate", "--verbosity", "0")
    server = host.serve("1.2.0")
    assert server.get("/").status == 200
    assert server.get("/livez/").status == 200
    status, body = server.health()
    assert (status, body["status"]) == (503, "fail")
    failed = {name for name, found in body["checks"].items() if found[0]["status"] == "fail"}
    assert failed == {"exports:writable"}
    assert "data/exports is not writable" in json.dumps(body)
    assert json.loads(server.get("/healthz/").text) == {"status": "fail", "releaseId": "0001-1.2.0"}


def test_1_3_0_dies_at_import(host: Host) -> None:
    host.manage("1.3.0", "migrate", "--verbosity", "0")
    _, process = host.start("1.3.0")
    out, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "No module named 'opentelemetry'" in out


def test_1_4_0_works_and_leaves_1_1_0_broken(host: Host) -> None:
    host.manage("1.1.0", "migrate", "--verbosity", "0")
    live = host.serve("1.1.0")
    assert live.get("/").status == 200
    host.manage("1.4.0", "migrate", "--verbosity", "0")
    assert host.serve("1.4.0").get("/").status == 200
    broken = live.get("/")
    assert (broken.status, broken.headers["x-release-id"]) == (500, "0001-1.1.0")
    assert "Stuck between floors" in broken.text


def test_1_1_0_keeps_working_and_writing_on_the_schema_of_1_5_0(host: Host) -> None:
    host.manage("1.1.0", "migrate", "--verbosity", "0")
    old = host.serve("1.1.0")
    host.manage("1.5.0", "migrate", "--verbosity", "0")
    new = host.serve("1.5.0")
    host.manage("1.5.0", "seed", "--audits", "30", "--messages", "60")

    assert old.add_finding(1, "after").status == 302
    assert (old.health()[0], new.health()[0]) == (200, 200)
    assert "Messages" not in old.get("/").text
    assert "after" in new.get("/audits/1/").text
    assert "No message matches" in new.get("/messages/?q=nothing").text
    assert "fitter" in new.get("/messages/?q=thursday").text
    # A new process of 1.1.0 too, and what it deletes: the database does not hold it back for the messages.
    again = host.serve("1.1.0")
    assert again.add_finding(2, "again").status == 302
    host.manage("1.1.0", "seed", "--audits", "40")
    gone = "from audits.models import *; Finding.objects.all().delete(); Audit.objects.all().delete()"
    host.manage("1.1.0", "shell", "--no-imports", "--command", gone)
    assert host.rows("SELECT count(*) FROM audits_message") == [(60,)]
    assert (new.health()[0], new.get("/messages/").status) == (200, 200)
    counts = json.loads(host.manage("1.5.0", "retention").splitlines()[-1])
    assert (counts["messages"], counts["index_entries"]) == (60, 60)
    assert host.rows("PRAGMA integrity_check") == [("ok",)]


def test_1_6_0_works_and_1_1_0_reads_its_schema_but_cannot_write(host: Host) -> None:
    host.manage("1.1.0", "migrate", "--verbosity", "0")
    old = host.serve("1.1.0")
    assert old.add_finding(1, "before").status == 302
    host.manage("1.6.0", "migrate", "--verbosity", "0")
    assert host.serve("1.6.0").add_finding(1, "new").status == 302
    assert old.get("/audits/1/").status == 200
    assert old.add_finding(1, "lost").status == 500
    assert host.rows("SELECT note FROM audits_finding WHERE note IN ('before', 'new', 'lost') ORDER BY id") == [
        ("before",),
        ("new",),
    ]


def test_1_5_0_leaves_a_line_for_each_offline_package_that_fails(host: Host) -> None:
    host.manage("1.5.0", "migrate", "--verbosity", "0")
    server = host.serve("1.5.0")
    for reference, status in (("LA-000001", 201), ("LA-999999", 422)):
        package = {"format": 1, "package": f"t-{status}", "device": "tablet-7"}
        finding = {"audit": reference, "severity": "low", "note": "Lamp", "token": f"t-{status}-1"}
        answer = server.request(
            "POST",
            "/sync/packages/",
            json.dumps({**package, "findings": [finding]}),
            **{"Content-Type": "application/json"},
        )
        assert answer.status == status, answer.text
    lines = [json.loads(line) for line in (host.home / "log" / "app.log").read_text().splitlines()]
    failed = [line["data"] for line in lines if line["message"] == "offline package failed"]
    assert [(each["package"], each["device"], each["reason"]) for each in failed] == [
        ("t-422", "tablet-7", "unknown-audit")
    ]


def test_the_answer_names_the_release_in_every_version_that_answers(host: Host) -> None:
    host.manage("1.1.0", "migrate", "--verbosity", "0")
    for number, version in enumerate(("1.0.0", "1.1.0"), start=1):
        server = host.serve(version)
        for path in ("/", "/livez/", "/healthz/", "/nowhere/", "/reports/slow/?seconds=0", "/admin/login/"):
            assert server.get(path).headers["x-release-id"] == f"{number:04d}-{version}", path
