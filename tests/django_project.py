"""Projects of real Django in temporary directories, with real SQLite; the agent runs in their interpreter."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
AGENT = ROOT / "plugins" / "module_utils" / "_django_agent.py"
PORTAL = ROOT / "examples" / "audit_portal"
LOCKS = (PORTAL / "requirements.lock", PORTAL / "requirements-dev.lock")

SETTINGS = """
from pathlib import Path
SECRET_KEY = "tests"
INSTALLED_APPS = {apps!r}
DATABASES = {databases!r}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
"""

MIGRATION = """
import time
from django.db import migrations, models
from django.db.models import deletion

{code}

class Migration(migrations.Migration):
    atomic = {atomic}
    dependencies = {dependencies!r}
    operations = [{operations}]
"""


@pytest.fixture(scope="session")
def python() -> Path:
    """A Python with Django: PORTAL_PYTHON, or the virtualenv in .cache that the tests of the example use as well."""
    if given := os.environ.get("PORTAL_PYTHON"):
        return Path(given)
    key = hashlib.sha256(sys.version.encode() + b"".join(lock.read_bytes() for lock in LOCKS)).hexdigest()[:16]
    environment = ROOT / ".cache" / f"portal-{key}"
    environment.parent.mkdir(exist_ok=True)
    complete = environment / "complete"
    with environment.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True)
            install = [environment / "bin" / "pip", "install", "--quiet", "--require-hashes"]
            subprocess.run([*install, "-r", LOCKS[0], "-r", LOCKS[1]], check=True)
            complete.touch()
    return environment / "bin" / "python"


# Django is imported once; each command is a fork of that, so that it finds no trace of the one before.
SERVER = """
import json, os, runpy, sys, traceback
import django.core.management.commands.migrate, django.db.backends.sqlite3.base, django.db.migrations.executor
import django.db.migrations.autodetector, django.db.backends.sqlite3.introspection
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        code = 0
        try:
            os.chdir(order["cwd"])
            for number, name in enumerate((os.devnull, order["output"], order["error"])):
                os.dup2(os.open(name, (os.O_CREAT | os.O_TRUNC | os.O_WRONLY) if number else os.O_RDONLY), number)
            sys.argv = order["arguments"]
            sys.path[0] = os.path.dirname(sys.argv[0])
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
VARIABLES = {"PATH": "/usr/bin:/bin", "DJANGO_SETTINGS_MODULE": "settings", "PYTHONDONTWRITEBYTECODE": "1"}


class Django:
    """Runs scripts with Django, one after another, each as if it were the first."""

    def __init__(self, python: Path, scratch: Path) -> None:
        self.python = python
        self.scratch = scratch
        pipe = subprocess.PIPE
        self.server = subprocess.Popen([python, "-c", SERVER], stdin=pipe, stdout=pipe, text=True, env=VARIABLES)

    def run(self, arguments: list[str], cwd: Path) -> tuple[int, str, str]:
        """Exit code, standard output and standard error of one script."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        output, error = self.scratch / "output", self.scratch / "error"
        order = {"cwd": str(cwd), "arguments": arguments, "output": str(output), "error": str(error)}
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        code = self.server.stdout.readline().strip()
        assert code, "the server of the tests has ended"
        return int(code), output.read_text(), error.read_text()

    def end(self) -> None:
        self.server.communicate()


@pytest.fixture(scope="session")
def django(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Django]:
    server = Django(python, tmp_path_factory.mktemp("server"))
    yield server
    server.end()


@dataclass(frozen=True)
class Answer:
    """What the agent said: its events, its last line on standard error, its exit code."""

    events: tuple[dict[str, Any], ...]
    stderr: str
    code: int

    @property
    def reason(self) -> str:
        return self.stderr.strip().splitlines()[-1] if self.stderr.strip() else ""

    def only(self, kind: str) -> dict[str, Any]:
        found = [event for event in self.events if event["event"] == kind]
        assert len(found) == 1, f"{len(found)} events {kind}: {self.events}\n{self.stderr}"
        return found[0]

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]


@dataclass
class Project:
    """A Django project that is written as it is asked for."""

    home: Path
    django: Django
    databases: Mapping[str, Any] = field(default_factory=dict)
    apps: list[str] = field(default_factory=list)

    @property
    def database(self) -> Path:
        return self.home / "db.sqlite3"

    def migration(
        self,
        app: str,
        name: str,
        operations: str,
        *,
        code: str = "",
        atomic: bool = True,
        after: Iterable[tuple[str, str]] | None = None,
    ) -> None:
        folder = self.home / app / "migrations"
        if app not in self.apps:
            self.apps.append(app)
            folder.mkdir(parents=True)
            (self.home / app / "__init__.py").touch()
            (folder / "__init__.py").touch()
        earlier = sorted(path.stem for path in folder.glob("0*.py") if path.stem < name)
        dependencies = list(after) if after is not None else [(app, each) for each in earlier[-1:]]
        (folder / f"{name}.py").write_text(
            MIGRATION.format(code=code, atomic=atomic, dependencies=dependencies, operations=operations)
        )
        self.write_settings()

    def forget(self, app: str, name: str) -> None:
        (self.home / app / "migrations" / f"{name}.py").unlink()

    def write_settings(self) -> None:
        default = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(self.database)}
        databases = dict(self.databases) or {"default": default}
        (self.home / "settings.py").write_text(SETTINGS.format(apps=self.apps, databases=databases))

    def command(self, action: str, **options: Any) -> list[str]:
        return [str(self.django.python), str(AGENT), "settings", action, json.dumps(options)]

    def agent(self, action: str, **options: Any) -> Answer:
        code, output, error = self.django.run(self.command(action, **options)[1:], self.home)
        return Answer(tuple(json.loads(line) for line in output.splitlines()), error, code)

    def run(self, script: str, *arguments: str) -> Any:
        """Run a script in the project's interpreter; what it prints, from JSON."""
        path = self.home / f"script-{hashlib.sha256(script.encode()).hexdigest()[:8]}.py"
        path.write_text(script)
        code, output, error = self.django.run([str(path), *arguments], self.home)
        assert code == 0, error
        return json.loads(output)


@pytest.fixture
def project(tmp_path: Path, django: Django) -> Project:
    return Project(tmp_path, django)
