"""Runs inside the application's own interpreter and tells about migrations, one JSON object per line.

    <release>/venv/bin/python _django_agent.py <settings module> <state|migrate> [database ...]

The working directory is the release's code/. Standard output belongs to the agent alone: whatever the application
prints goes to standard error, whose last line is the reason when the exit code is not 0. Exit codes: 0 done, 1 a
migration failed, 2 the application or a database could not be reached. It needs Django 4.2 or newer and nothing of the
library, because it runs where the library is not installed.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO, Any


class Refusal(Exception):
    """The sentence that ends standard error."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def take_output() -> IO[str]:
    """Keep standard output for the agent, and point the application's at standard error."""
    sys.stdout.flush()
    ours = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return ours


def sentence(error: BaseException) -> str:
    """An error in one line, with its kind."""
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no reason was given'}"


def start(settings: str) -> None:
    """Import the settings and the applications, as `manage.py` would."""
    sys.path[0] = str(Path.cwd())  # not the directory of this file
    os.environ["DJANGO_SETTINGS_MODULE"] = settings
    try:
        import_module("django").setup()
    except Exception as error:
        raise Refusal(f"the application does not start: {sentence(error)}", exit_code=2) from error


def state(databases: Sequence[str]) -> dict[str, Any]:
    """What is applied, what this code knows, what is pending, and what is applied but unknown to this code."""
    found: dict[str, list[str]] = {"applied": [], "known": [], "pending": [], "unknown": []}
    for alias in databases:
        executor = _executor(alias)
        loader = executor.loader
        recorded = set(executor.recorder.applied_migrations())
        disk = dict(loader.disk_migrations)
        replaced = {old for migration in disk.values() for old in migration.replaces}
        plan = executor.migration_plan(loader.graph.leaf_nodes())
        for kind, keys in (
            ("applied", sorted(recorded)),
            ("known", sorted(disk)),
            ("pending", [(migration.app_label, migration.name) for migration, _unused in plan]),
            ("unknown", sorted(recorded - set(disk) - replaced)),
        ):
            found[kind] += [_name(alias, f"{label}.{name}") for label, name in keys]
    return found


def _executor(alias: str) -> Any:
    """Django's migration executor of one database; refuses a database it cannot read and migrations that fork."""
    try:
        connection = import_module("django.db").connections[alias]
        connection.prepare_database()
        executor = import_module("django.db.migrations.executor").MigrationExecutor(connection)
    except Exception as error:
        raise Refusal(f"the database {alias!r} cannot be read: {sentence(error)}", exit_code=2) from error
    for label, names in executor.loader.detect_conflicts().items():
        raise Refusal(
            f"{label} has two last migrations ({', '.join(sorted(names))}): merge them with makemigrations --merge",
            exit_code=2,
        )
    return executor


def _name(alias: str, migration: str) -> str:
    return migration if alias == "default" else f"{alias}:{migration}"


class Progress:
    """Tells each migration that Django's own command applies, and remembers which one it is at."""

    def __init__(self, alias: str, tell: Callable[[dict[str, Any]], None]) -> None:
        self.alias = alias
        self.tell = tell
        self.current = ""
        self.began = 0.0

    def __call__(self, action: str, migration: Any = None, _fake: bool = False) -> None:
        if action == "apply_start":
            self.current = _name(self.alias, str(migration))
            self.began = time.monotonic()
        elif action == "apply_success":
            self.tell({"event": "migration", "name": self.current, "seconds": round(time.monotonic() - self.began, 3)})
            self.current = ""


def migrate(databases: Sequence[str], tell: Callable[[dict[str, Any]], None]) -> None:
    """Apply what is pending with Django's own command, telling each migration and its seconds."""
    call_command = import_module("django.core.management").call_command
    django_command = import_module("django.core.management.commands.migrate").Command
    for alias in databases:
        command = django_command(stdout=sys.stderr, stderr=sys.stderr)
        command.migration_progress_callback = progress = Progress(alias, tell)
        try:
            call_command(command, database=alias, interactive=False, verbosity=1, skip_checks=True)
        except Exception as error:
            what = f"the migration {progress.current}" if progress.current else "migrate"
            raise Refusal(f"{what} failed: {sentence(error)}", exit_code=1) from error


def work(arguments: Sequence[str], tell: Callable[[dict[str, Any]], None]) -> None:
    """Do what the command line asks. Raises Refusal."""
    settings, action, *databases = arguments
    if action not in ("state", "migrate"):
        raise Refusal(f"the agent knows `state` and `migrate`, not {action!r}", exit_code=2)
    start(settings)
    if action == "migrate":
        migrate(databases or ["default"], tell)
    tell({"event": "state", **state(databases or ["default"])})


def main(arguments: Sequence[str]) -> int:
    ours = take_output()

    def tell(event: dict[str, Any]) -> None:
        ours.write(json.dumps(event) + "\n")
        ours.flush()

    try:
        work(arguments, tell)
    except Refusal as refusal:
        if refusal.__cause__ is not None:
            traceback.print_exception(refusal.__cause__)
        sys.stderr.write(f"{refusal}\n")
        return refusal.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
