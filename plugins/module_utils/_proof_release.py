"""Starts a release on restored data, asks it, and ends it: the part of a proof that runs the application's own code.

It runs inside the sandbox, without network; only the web process is started, so no job of the application goes off.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ._errors import BackstayError
from ._health import application_checks, run_until
from ._http import Target
from ._restored import canary_differences, server_canary_differences, server_of
from ._runtime import runtime_of

if TYPE_CHECKING:
    from ._application import Application
    from ._manifest import Manifest
    from ._postgresql import Server

_STOP_SECONDS = 10.0
# The sandbox gets a fifth of what a release gets of a busy processor, and nobody is waiting: slow is not dead.
_PATIENCE = 5.0


def run_release(
    directory: Path, manifest: Manifest, application: Application, release: Path, release_id: str
) -> tuple[str, ...]:
    """Why the release does not live on the restored data, in sentences; none when it does.

    `directory` holds databases/ and media/ as they were restored and checked; the data are moved to data/. The
    environment of the release is that of this process.
    """
    data = directory / "data"
    with contextlib.ExitStack() as stack:
        servers = _place(directory, data, manifest, application, stack)
        urls = {str(each.url_key): servers[each.name].url for each in application.databases if each.name in servers}
        environment = {**os.environ, **urls, "BACKSTAY_DATA_DIR": str(data), "BACKSTAY_PROCESS": "web"}
        socket = directory / "web.sock"
        command = runtime_of(application).process_command(
            application, "web", release, socket, release / "gunicorn.conf.py"
        )
        log = directory / "web.log"
        with _running(command, environment, release / "code", log):
            failed = _ask(application, socket, release_id)
            if failed is not None:
                return (f"The release {release_id} does not answer on the restored data: {failed}{_said(log)}.",)
        differences = [*canary_differences(_databases(data, application), manifest, application)]
        for name, server in servers.items():
            differences += server_canary_differences(server, name, manifest, application)
        return tuple(each.sentence for each in differences)


def _place(
    directory: Path, data: Path, manifest: Manifest, application: Application, stack: contextlib.ExitStack
) -> Mapping[str, Server]:
    """Put the restored data where the release looks for them; returns the databases of servers by their names."""
    servers: dict[str, Server] = {}
    for database in application.databases:
        facts = manifest.databases[database.name]
        if database.path is not None:
            target = data / database.path
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(directory / facts.file, target)
        elif database.url_key is not None:
            servers[database.name] = server_of(directory, facts, directory, stack, application)
    if application.media is not None:
        target = data / application.media
        target.parent.mkdir(parents=True, exist_ok=True)
        if (directory / "media").is_dir():
            os.rename(directory / "media", target)
        else:
            target.mkdir(exist_ok=True)
    return servers


def _databases(data: Path, application: Application) -> Mapping[str, Path]:
    """The SQLite files as the release has them now, by the database's name."""
    return {database.name: data / database.path for database in application.databases if database.path is not None}


@contextlib.contextmanager
def _running(command: Sequence[str], environment: Mapping[str, str], cwd: Path, log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(command),
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _ask(application: Application, socket: Path, release_id: str) -> str | None:
    """Why health or smoke checks do not pass, in a clause; None when all do."""
    checks = application_checks(
        application,
        Target.unix(socket, application.domain),
        through="candidate",
        release_id=release_id,
        static_path=None,
        media_path=None,
    )
    health = application.health
    try:
        report = run_until(
            checks,
            consecutive=health.consecutive,
            interval_seconds=health.interval_seconds,
            deadline_seconds=health.deadline_seconds * _PATIENCE,
        )
    except BackstayError as refused:
        return refused.message
    return None if report.ok else report.reason


def _said(log: Path) -> str:
    """The last line that the release printed, for the sentence."""
    try:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    return f" (it said: {lines[-1][:200]})" if lines else ""
