"""A stage for demo, tests and bench alike: real hosts, the example application, and the verbs as a user types them."""

from __future__ import annotations

import datetime as dt
import fcntl
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import LabError
from .hosts import Lab
from .layout import CHECKOUT
from .load import LoadProcess

APPLICATION = "audit-portal"
DOMAIN = "portal.lab.test"
# Half a day away, at whatever hour a lab is made: a nightly backup or proof would stand in the way of a test's own.
_NIGHT = dt.datetime.now(dt.UTC) + dt.timedelta(hours=12)
NIGHTS = {"at": f"{_NIGHT:%H:%M}", "proof": {"nightly": f"{_NIGHT + dt.timedelta(minutes=30):%H:%M}"}}


@dataclass(frozen=True)
class Played:
    """How a playbook ended."""

    playbook: str
    exit_code: int
    seconds: float
    output: str

    @property
    def ok(self) -> bool:
        return self.exit_code == 0

    def last_lines(self, count: int = 25) -> str:
        return "\n".join(self.output.splitlines()[-count:])


@dataclass(frozen=True)
class Answer:
    """What the front door said, and the serial number of the certificate it showed."""

    status: int
    headers: dict[str, str]
    body: str
    certificate: str

    @property
    def release(self) -> str:
        return self.headers.get("x-release-id", "")


class Scene:
    """One lab with the example application on it; `say` is told what happens, for people who wait."""

    inventory = "inventories/example"  # which one of the checkout describes the hosts

    def __init__(self, name: str, say: Callable[[str], None] = lambda line: None) -> None:
        self.lab = Lab(name)
        self.name = name
        self.say = say
        self.directory = CHECKOUT / ".lab" / name
        # What repositories are opened with, by application and repository, in the place of the inventory's.
        self.backup_secrets: dict[str, dict[str, Any]] = {}

    # the stage

    def prepare(
        self,
        hosts: Sequence[str] = ("app1", "build1"),
        *,
        release: str = "trixie",
        image: str = "bare",
        disks: Sequence[str] = (),
    ) -> None:
        """Hosts, authority, secrets and the repository of the example; what is there already is left as it is.

        `disks` are small disks of the hosts' own, like `/opt:512m`.
        """
        small = [option for disk in disks for option in ("--disk", disk)]
        kind = ["--release", release, "--image", image, *small]
        self._command([str(CHECKOUT / "lab" / "lab"), "--lab", self.name, "up", *hosts, *kind])
        self._command([str(CHECKOUT / "lab" / "lab"), "--lab", self.name, "ca"])
        with self._alone():
            self._command([sys.executable, str(CHECKOUT / "tools" / "make_secrets.py"), self.inventory])
            repository = str(CHECKOUT / ".lab" / "portal.git")
            self._command([sys.executable, str(CHECKOUT / "examples" / "make_repository.py"), repository])
        if not (self.directory / "inventory").is_dir():
            self.declare()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """What all labs of this checkout share is made by one at a time."""
        (CHECKOUT / ".lab").mkdir(exist_ok=True)
        with (CHECKOUT / ".lab" / "shared.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _command(self, arguments: Sequence[str]) -> str:
        done = subprocess.run(arguments, cwd=CHECKOUT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"`{' '.join(arguments[:4])}` failed: {(done.stderr or done.stdout).strip()[-2000:]}")
        return done.stdout

    def remove(self) -> None:
        """Everything that this lab and this scene made, and nothing else."""
        self.lab.down()
        shutil.rmtree(self.directory / "inventory", ignore_errors=True)

    @property
    def ca(self) -> Path:
        return self.directory / "ca" / "ca.crt"

    def address(self, host: str = "app1") -> str:
        return self.lab.host(host).address

    def url(self, host: str = "app1") -> str:
        return f"https://{self.address(host)}"

    # the verbs

    def play(
        self,
        playbook: str,
        *arguments: str,
        check: bool = True,
        environment: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> Played:
        """Run a playbook as a user would, against this lab. Raises LabError, with its last lines, when `check`."""
        command = [*self.command(playbook, **extra), *arguments]
        began = time.monotonic()
        done = subprocess.run(
            command,
            cwd=CHECKOUT,
            env={**os.environ, "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        played = Played(playbook, done.returncode, time.monotonic() - began, done.stdout)
        if check and not played.ok:
            raise LabError(f"{playbook} failed with exit code {played.exit_code}:\n{played.last_lines(60)}")
        return played

    def command(self, playbook: str, **extra: Any) -> list[str]:
        """What a user types to run a playbook against this lab, in the checkout."""
        inventories = ["-i", self.inventory]
        if (self.directory / "inventory").is_dir():
            inventories += ["-i", str(self.directory / "inventory")]
        values = {"lab": self.name, "backstay_artifacts": str(self.artifacts), **extra}
        if self.backup_secrets:
            # By a file that only its owner reads: a command line is seen by everybody.
            given = self.directory / "backup_secrets.json"
            given.touch(mode=0o600)
            given.write_text(json.dumps({"backstay_backup_secrets": self.backup_secrets}), encoding="utf-8")
            inventories += ["-e", f"@{given}"]
        name = playbook if "." in playbook else f"playbooks/{playbook}.yml"
        return [
            str(Path(sys.executable).with_name("ansible-playbook")),
            name,
            *inventories,
            "-e",
            json.dumps(values),
        ]

    @property
    def artifacts(self) -> Path:
        return CHECKOUT / ".lab" / "artifacts"

    def payload_files(self, version: str) -> list[tuple[Path, str]]:
        """A version's payload, and what else a host needs to take it: each file with its name among the host's."""
        directory = self.artifacts / APPLICATION / version
        digest = self.payload(version)
        stem = f"{APPLICATION}-{version}"
        return [(path, digest + path.name.removeprefix(stem)) for path in sorted(directory.glob(f"{stem}.*"))]

    def payload(self, version: str) -> str:
        """The digest of a version that was built."""
        attestation = self.artifacts / APPLICATION / version / f"{APPLICATION}-{version}.attestation.json"
        return str(json.loads(attestation.read_text(encoding="utf-8"))["payload_sha256"])

    def build(self, version: str) -> Played:
        """Build a version unless its artifact is there; artifacts are shared by the labs of this checkout."""
        with self._alone():
            return self.play("build", version=version)

    def release(self, version: str | None = None, *, check: bool = True, **extra: Any) -> Played:
        given = {"version": version, **extra} if version else extra
        return self.play("release", check=check, **given)

    def rollback(self, *, check: bool = True, **extra: Any) -> Played:
        return self.play("rollback", check=check, **extra)

    def declare(self, **override: Any) -> None:
        """Change the application as this lab's environment declares it; a release applies it. Unless a test asks for
        it, nothing is watched after the switch, and no release makes a restore point: a lab has no five minutes."""
        override["releases"] = {"watch": {"seconds": 0}, **override.pop("releases", {})}
        override["backup"] = {"before_release": False, **NIGHTS, **override.pop("backup", {})}
        directory = self.directory / "inventory" / "applications"
        directory.mkdir(parents=True, exist_ok=True)
        # JSON is YAML; an inventory directory needs a source that Ansible can read.
        (directory / f"{APPLICATION}.override.yml").write_text(json.dumps(override, indent=2) + "\n", encoding="utf-8")
        (self.directory / "inventory" / "hosts.yml").write_text("all: {}\n", encoding="utf-8")

    # one host, as a person with a shell on it

    def backstay(self, *arguments: str, host: str = "app1", check: bool = True) -> Any:
        """The host's own command; JSON where `--json` is among the arguments, text otherwise."""
        done = self.lab.ssh(host, "backstay", *arguments, check=False, timeout_seconds=300.0)
        if check and not done.ok:
            raise LabError(f"`backstay {' '.join(arguments)}` failed on {host}: {done.stdout}{done.stderr}")
        if "--json" not in arguments:
            return done.stdout
        try:
            return json.loads(done.stdout)
        except ValueError as no_json:
            seen = (
                f"exit code {done.returncode}, {(done.stdout + done.stderr).strip()[-500:] or 'and it printed nothing'}"
            )
            raise LabError(f"`backstay {' '.join(arguments)}` on {host} gave no JSON: {seen}.") from no_json

    def status(self, host: str = "app1") -> dict[str, Any]:
        return dict(self.backstay("status", "--json", APPLICATION, host=host, check=False))

    def settled(self, host: str = "app1", seconds: float = 90.0) -> dict[str, Any]:
        """The status once no transaction is open: confirmed, drained, and old releases pruned, or healed by recovery.

        Raises LabError when that takes longer than `seconds`.
        """
        deadline = time.monotonic() + seconds
        # The shell waits, and Python is asked when there is something to say: hosts share the cores of one machine.
        journal = f"/var/lib/backstay/{APPLICATION}/journal.jsonl"
        waiting = f"timeout {seconds:g} sh -c 'while test -e {journal}; do sleep 0.1; done'"
        while True:
            self.lab.ssh(host, waiting, check=False, timeout_seconds=seconds + 30)
            status = self.status(host)
            if not status["transaction_open"]:
                return status
            if time.monotonic() > deadline:
                raise LabError(f"A transaction on {host} is still open after {seconds:g} s: {status['verdict']}.")
            time.sleep(0.5)

    def live(self, host: str = "app1") -> str | None:
        live = self.status(host)["live"]
        return None if live is None else str(live["id"])

    def manage(self, *arguments: str, host: str = "app1") -> str:
        """A management command in the live release's environment."""
        return str(self.backstay("run", "-a", APPLICATION, "python", "manage.py", *arguments, host=host))

    # visitors

    def get(self, path: str = "/", *, name: str = DOMAIN, host: str = "app1") -> Answer:
        """One request through the front door, trusting the lab's authority and nothing else."""
        context = ssl.create_default_context(cafile=str(self.ca))
        raw = socket.create_connection((self.address(host), 443), timeout=10.0)
        with context.wrap_socket(raw, server_hostname=name) as channel:
            serial = str((channel.getpeercert() or {}).get("serialNumber", ""))
            channel.sendall(f"GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
            answer = http.client.HTTPResponse(channel)
            answer.begin()
            body = answer.read().decode(errors="replace")
        headers = {key.lower(): value for key, value in answer.getheaders()}
        return Answer(answer.status, headers, body, serial)

    def load(self, *options: str, host: str = "app1", seconds: float = 900.0, rate: float = 60.0) -> LoadProcess:
        """Visitors of every kind, from now until `stop()`."""
        given = ["--url", f"https://{DOMAIN}", "--connect", self.address(host), "--ca", str(self.ca)]
        return LoadProcess([*given, "--seconds", str(seconds), "--rate", str(rate), *options])

    def missing_writes(self, tokens: Sequence[str], host: str = "app1") -> list[str]:
        """Of the writes that were acknowledged, those whose rows are not there."""
        count = "import sys\nfrom audits.models import Finding\nasked = sys.stdin.read().split()\n"
        count += (
            "print(*sorted(set(asked) - set(Finding.objects.filter(token__in=asked).values_list('token', flat=True))))"
        )
        lost: list[str] = []
        for start in range(0, len(tokens), 500):
            done = self.lab.ssh(
                host,
                f"printf '%s\\n' {' '.join(tokens[start : start + 500])} | "
                f'backstay run -a {APPLICATION} python manage.py shell -v 0 -c "{count}"',
            )
            lost += done.stdout.split()
        return lost
