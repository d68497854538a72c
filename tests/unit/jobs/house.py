"""A host with one application and its jobs, below a temporary directory; systemd is stood in for, commands are run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.backstay.ops.plugins.module_utils._application import parse, to_dict
from ansible_collections.backstay.ops.plugins.module_utils._host import Host
from ansible_collections.backstay.ops.plugins.module_utils._job_results import declaration, facts
from ansible_collections.backstay.ops.plugins.module_utils._job_run import JobRun, spawn
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage

LIVE = "0001-1.0.0"
PING = "PING_URL"
# Declared long before; the first time that any of these tests looks at is later.
DECLARED = datetime(2026, 1, 1, tzinfo=UTC)


def described(jobs: dict[str, Any] | None = None, *, scheduler: str = "systemd", **more: Any) -> dict[str, Any]:
    """The application's file as a mapping."""
    schedules = {} if jobs is None else {"schedules": {"scheduler": scheduler, "jobs": jobs}}
    return {
        "format": 1,
        "name": "portal",
        "domain": "portal.example.org",
        "source": {"repository": "/srv/portal.git"},
        "runtime": {"settings": "portal.settings", "wsgi": "portal.wsgi:application"},
        "processes": {"web": {"workers": 1, "threads": 2}},
        **schedules,
        **more,
    }


def job(*command: str, when: str = "daily 03:00", **settings: Any) -> dict[str, Any]:
    return {"command": list(command) or ["true"], "when": when, **settings}


def shell(text: str, **settings: Any) -> dict[str, Any]:
    return job("sh", "-c", text, **settings)


class House:
    """The host, with its clock where a test puts it."""

    def __init__(self, root: Path, jobs: dict[str, Any], **more: Any) -> None:
        self.layout = Layout("portal", root)
        self.storage = Storage()
        self.now = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
        self.properties: dict[str, str] = {}  # what systemd says of the command's unit
        self.ran: list[str] = []
        application = parse(described(jobs, **more), file="portal.yml")
        self.schedules = application.schedules
        told = json.dumps(to_dict(application)).encode()
        for path in (self.layout.application_file, self.layout.release_configuration(LIVE) / "application.json"):
            path.parent.mkdir(parents=True)
            path.write_bytes(told)
        for directory in (self.layout.jobs, self.layout.home, self.layout.job_asked("x").parent):
            directory.mkdir(parents=True)
        self.layout.active.symlink_to(self.layout.socket(LIVE))
        self.layout.declared_jobs.write_bytes(declaration(self.schedules, None, DECLARED))

    def systemctl(self, arguments: Sequence[str], **_options: Any) -> Completed:
        self.ran.append(" ".join(arguments))
        shown = "\n".join(f"{name}={value}" for name, value in self.properties.items())
        return Completed(tuple(arguments), 0, shown if arguments[1] == "show" else "", "")

    def secrets(self, **values: str) -> None:
        self.layout.secrets_file.write_text(json.dumps({"format": 1, "values": values}))

    def host(self, say: Callable[[str], None] = lambda line: None) -> Host:
        return Host(self.layout, storage=self.storage, runner=self.systemctl, say=say)

    def run(self, name: str, **given: Any) -> JobRun:
        """One run: the command runs as it is, without systemd's confinement."""
        options: dict[str, Any] = {"clock": lambda: self.now, "spawner": unconfined, "zone": UTC} | given
        return JobRun(options.pop("host", None) or self.host(), name, **options)

    def state(self, name: str) -> str:
        return str(self.fact(name)["state"])

    def facts(self) -> list[dict[str, Any]]:
        return facts(self.layout, self.schedules, self.storage, self.now)

    def fact(self, name: str) -> dict[str, Any]:
        return next(each for each in self.facts() if each["job"] == name)


def unconfined(arguments: Sequence[str], on_line: Callable[[str], None], seconds: float) -> int:
    """What systemd-run would start."""
    return spawn(arguments[arguments.index("--") + 1 :], on_line, seconds)
