"""Several application hosts that share a PostgreSQL database, and the verbs as a user types them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from backstay_lab.database import ask_database, make_database
from backstay_lab.layout import CHECKOUT
from backstay_lab.load import LoadProcess
from backstay_lab.scene import APPLICATION, Played, Scene

LAB = "fleet"
HOSTS = ("app1", "app2", "app3")
CANARY, DATABASE = "app1", "db1"
VERSIONS = ("1.0.0", "1.1.0")
AUDITS = 300
# A connection that was cut is given up after ten seconds, so that tests need not wait for the minute of ansible.cfg.
IMPATIENT = "-o ControlMaster=auto -o ControlPersist=120s -o ServerAliveInterval=2 -o ServerAliveCountMax=5"

# Everything that a host would have for itself is left out: the file of a database, photographs, a singleton.
SHARED: dict[str, Any] = {
    "network": True,
    "media": None,
    "databases": [{"name": "default", "engine": "postgresql", "url_key": "DATABASE_URL"}],
    "processes": {"web": {"workers": 1}, "scheduler": {"singleton": False}},
    "health": {"deadline_seconds": 60},  # three candidates start on the same two cores
    "environment": {
        "values": {"PORTAL_PHOTOS": "false"},
        "required": ["SECRET_KEY", "ALLOWED_HOSTS", "DATABASE_URL"],
        "secret": ["SECRET_KEY", "DATABASE_URL"],
    },
    "smoke": [
        {"name": "portal", "path": "/", "contains": "Audits"},
        {"name": "a static file", "path": "auto:static", "through": ["front_door"]},
    ],
    "releases": {"drain_seconds": 2, "watch": {"seconds": 0}},
    "backup": {"before_release": False},
}


class Fleet(Scene):
    """The stage: hosts, database, and what differs in this inventory. The last host builds."""

    def __init__(
        self, say: Callable[[str], None] = lambda line: None, *, lab: str = LAB, hosts: Sequence[str] = HOSTS
    ) -> None:
        super().__init__(lab, say)
        self.hosts = tuple(hosts)

    @property
    def secrets(self) -> Path:
        return self.directory / "secrets.json"

    def stage(self) -> None:
        """From nothing to hosts that are provisioned, with every version built and a database that they share."""
        inventory = self.directory / "inventory"
        (inventory / "applications").mkdir(parents=True, exist_ok=True)
        # The example says these by its own directory, and these hosts have another one too.
        values = {
            "ansible_ssh_common_args": f"-F {self.directory / 'ssh_config'}",
            "nginx_certificate_directory": str(self.directory / "certificates"),
            "nginx_ca_certificate": str(self.ca),
            "nginx_ca_key": str(self.ca.with_suffix(".key")),
            "backstay_signing_key": str(CHECKOUT / "inventories" / "example" / "signing_key"),
            "backstay_allowed_signers": str(CHECKOUT / "inventories" / "example" / "allowed_signers"),
        }
        groups = {
            "app_servers": {"hosts": dict.fromkeys(self.hosts)},
            "canary": {"hosts": {CANARY: None}},
            "build_hosts": {"hosts": {self.hosts[-1]: None}},
        }
        (inventory / "hosts.yml").write_text(json.dumps(groups) + "\n", encoding="utf-8")
        (inventory / "group_vars").mkdir(exist_ok=True)
        (inventory / "group_vars" / "app_servers.yml").write_text(json.dumps(values) + "\n", encoding="utf-8")
        self.share(SECRET_KEY=secrets.token_urlsafe(48))
        self.prepare(self.hosts, image="prepared")
        self.prepare((DATABASE,), image="database")
        for version in VERSIONS:  # as the example describes it: an artifact is no host's
            self.build(version)
        url = make_database(self.lab, DATABASE, "portal", secrets.token_urlsafe(24))
        self.share(SECRET_KEY=secrets.token_urlsafe(48), DATABASE_URL=url)
        self.declare()
        self.play("site", "--limit", "app_servers")

    def share(self, **values: str) -> None:
        """The secrets of the application, the same on every host."""
        self.secrets.touch(mode=0o600)
        self.secrets.write_text(json.dumps({"backstay_secrets": {APPLICATION: values}}), encoding="utf-8")

    def declare(self, **override: Any) -> None:
        file = self.directory / "inventory" / "applications" / f"{APPLICATION}.override.yml"
        file.write_text(json.dumps({**SHARED, **override}) + "\n", encoding="utf-8")

    def play(
        self,
        playbook: str,
        *arguments: str,
        check: bool = True,
        environment: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> Played:
        given = {"ANSIBLE_SSH_ARGS": IMPATIENT, "ANSIBLE_TIMEOUT": "6", **(environment or {})}
        extra.setdefault("backstay_build_hosts", self.hosts[-1])
        return super().play(playbook, "-e", f"@{self.secrets}", *arguments, check=check, environment=given, **extra)

    def struck(self, playbook: str, before: str, host: str, **extra: Any) -> Played:
        """A playbook that loses a host right before it would send it a task."""
        strike = {"before": before, "command": [str(CHECKOUT / "lab" / "lab"), "--lab", self.name, "cut", host]}
        environment = {
            "FLEET_STRIKE": json.dumps(strike),
            "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).parent / "callbacks"),
            "ANSIBLE_CALLBACKS_ENABLED": "strike",
        }
        return self.play(playbook, check=False, environment=environment, **extra)

    def heal(self, host: str) -> None:
        self.lab.heal(host)
        self.lab.wait(host)

    def at_rest(self) -> None:
        """Every host reachable, nothing open, one release on all of them."""
        for host in self.hosts:
            self.heal(host)
        if not self.play("recover", check=False).ok:
            self.release(VERSIONS[0], again=True, why="so that all hosts are on one release")

    def visited(self, host: str) -> LoadProcess:
        """Visitors of one host, for as many audits as there are. How long they wait says nothing here: three candidates
        start on two cores, beside the tests of one host."""
        file = self.directory / "profile.json"
        profile = {"ranges": {"id": [1, AUDITS], "page": [1, 5]}, "limit_seconds": 20}
        file.write_text(json.dumps(profile), encoding="utf-8")
        return self.load("--slow", "0", "--profile", str(file), host=host, rate=20.0)

    def ask(self, sql: str) -> list[str]:
        """Rows of the shared database."""
        return ask_database(self.lab, DATABASE, "portal", sql)

    def runs(self) -> dict[str, tuple[str, str]]:
        """What each host serves: payload and configuration of its live release, read from the host alone."""
        return {host: self.run_by(self.settled(host)) for host in self.hosts}

    def run_by(self, status: dict[str, Any]) -> tuple[str, str]:
        confirmed = status["fleet"]["confirmed"]
        assert status["live"]["id"] == confirmed["release"], status
        return confirmed["payload"], confirmed["configuration"]

    def each(self, what: Callable[[str], Any]) -> dict[str, Any]:
        return {host: what(host) for host in self.hosts}

    def ids(self) -> dict[str, list[str]]:
        """Every release that each host's ledger knows."""
        return {host: [release["id"] for release in self.status(host)["releases"]] for host in self.hosts}
