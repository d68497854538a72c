"""The two sides of the comparison, each on a host of its own: app1 with Backstay, app2 the usual way."""

from __future__ import annotations

import hashlib
import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "lab"))

from backstay_lab.errors import LabError
from backstay_lab.scene import APPLICATION, DOMAIN, Played, Scene

OURS, USUAL = "app1", "app2"


@dataclass(frozen=True)
class Cost:
    """Wall seconds, CPU seconds of the controller's processes, tasks that ran on hosts (0: no playbook)."""

    seconds: float
    cpu_seconds: float
    tasks: int = 0


def children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cost_of(action: Callable[[], Any]) -> Cost:
    """What an action costs; where it answers with a playbook's output, its tasks are counted.

    CPU is that of ended children: the load's own process must end outside; ssh's kept connection is not in it.
    """
    cpu, began = children_cpu(), time.monotonic()
    answer = action()
    seconds = time.monotonic() - began
    return Cost(seconds, children_cpu() - cpu, tasks_in(getattr(answer, "output", "")))


def tasks_in(output: str) -> int:
    """Tasks that ran, all hosts together, from the table that ends a play: ok and changed are its first columns."""
    _, _, recap = output.rpartition("unreachable  skipped\n")
    rows = re.findall(r"^\S+ +(\d+) +(\d+) +\d+ +\d+ +\d+$", recap, re.MULTILINE)
    return sum(int(ok) + int(changed) for ok, changed in rows)


def close_connections(lab: str) -> None:
    """End the ssh connections that Ansible keeps open to this lab: each verb then begins as in the morning."""
    for socket in (Path.home() / ".ansible" / "cp" / f"backstay-{lab}").glob("*"):
        with suppress(OSError):
            subprocess.run(
                ["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "host"], capture_output=True, check=False
            )


class Backstay:
    """The verbs on app1, as a user types them."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def set_up(self) -> None:
        scene = self.scene
        scene.say("provision app1 with Backstay, build 1.0.0 and 1.1.0, release 1.0.0")
        scene.play("site")
        for version in ("1.0.0", "1.1.0"):
            scene.build(version)
        scene.release("1.0.0", again=True, why="bench")
        scene.manage("seed", "--audits", "10000")
        self.rest()

    def rest(self) -> None:
        """Until nothing is under way and the transaction's service has ended, so that the next one starts it."""
        self.scene.settled()
        self.scene.lab.ssh(
            OURS,
            "for i in $(seq 100); do "
            f"systemctl is-active -q backstay-transaction@{APPLICATION}.service || exit 0; sleep 0.1; done",
        )
        close_connections(self.scene.name)

    def rollback_on_the_host(self) -> float:
        """Seconds, taken on the host around the command itself."""
        timed = (
            "import subprocess, time; began = time.monotonic(); "
            f"subprocess.run(['backstay', 'rollback', '{APPLICATION}'], check=True, stdout=subprocess.DEVNULL); "
            "print(time.monotonic() - began)"
        )
        return float(self.scene.lab.ssh(OURS, f'python3 -c "{timed}"').stdout)

    def steps(self) -> dict[str, Any]:
        """The last transaction, from its journal: what each step said, and its seconds."""
        newest = f"cat $(ls -t /var/lib/backstay/{APPLICATION}/journal.d/*.jsonl | head -1)"
        records = [json.loads(line) for line in self.scene.lab.ssh(OURS, newest).stdout.splitlines()]
        steps = {
            record["step"]: record["data"]["detail"]
            for record in records
            if record["state"] == "done" and "detail" in record["data"]
        }
        at = {(record["step"], record["state"]): datetime.fromisoformat(record["time"]) for record in records}
        took = {
            step: (at[step, "done"] - begun).total_seconds()
            for (step, state), begun in at.items()
            if state == "begin" and (step, "done") in at
        }
        return {"operation": records[0]["data"].get("operation", ""), "steps": steps, "seconds": took}

    def switch_ms(self) -> float:
        return float(str(self.steps()["steps"]["flip"]).split()[0])

    def reset(self) -> None:
        """The schema before 1.1.0 again and its payload gone, so that every round sends and migrates; 1.0.0 is live."""
        payload = self.scene.artifacts / APPLICATION / "1.1.0" / f"{APPLICATION}-1.1.0.tar"
        digest = hashlib.sha256(payload.read_bytes()).hexdigest()
        script = f"""
        set -eu
        cd /opt/{APPLICATION}/releases
        release=$(ls -d *-1.1.0 | tail -1)
        systemd-run -q --wait --pipe -p User={APPLICATION} -p WorkingDirectory=$PWD/$release/code \
            -p EnvironmentFile=/etc/backstay/{APPLICATION}/releases/$release/environment \
            $PWD/$release/venv/bin/python manage.py migrate -v 0 audits 0001
        rm /var/lib/backstay/{APPLICATION}/artifacts/{digest}.tar
        """
        self.scene.lab.ssh(OURS, script, timeout_seconds=120.0)


class TheUsualWay:
    """The same verbs on app2, by hand over ssh: usual.sh; and usual.yml for the host itself."""

    def __init__(self, scene: Scene, certificates: Path) -> None:
        self.scene = scene
        self.certificates = certificates
        self.config = str(scene.directory / "ssh_config")

    def set_up(self) -> None:
        self.scene.say("provision app2 the usual way")
        self._make_certificate()
        packed = subprocess.run(
            ["tar", "-C", str(ROOT / ".lab"), "-cf", "-", "portal.git"], stdout=subprocess.PIPE, check=True
        ).stdout
        self._ssh("rm -rf /srv/portal.git && tar -C /srv --no-same-owner -xf -", packed)
        self._ssh("apt-get update -qq", b"")  # the image has no lists, and they count as fresh
        self.site()

    def _make_certificate(self) -> None:
        """A certificate by the lab's authority, so that both sides speak TLS alike."""
        ca = self.scene.ca
        request = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
        request += ["-keyout", str(self.certificates / "key.pem"), "-subj", f"/CN={DOMAIN}"]
        asked = self._openssl(*request, "-addext", f"subjectAltName=DNS:{DOMAIN}").stdout
        sign = ["x509", "-req", "-CA", str(ca), "-CAkey", str(ca.with_suffix(".key")), "-days", "30"]
        self._openssl(
            *sign, "-copy_extensions", "copy", "-out", str(self.certificates / "certificate.pem"), given=asked
        )

    def _openssl(self, *arguments: str, given: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(["openssl", *arguments], input=given, capture_output=True, check=False)
        if done.returncode:
            raise LabError(f"openssl {arguments[0]} failed: {done.stderr.decode()[-500:]}")
        return done

    def _ssh(self, command: str, given: bytes) -> str:
        done = subprocess.run(
            ["ssh", "-F", self.config, USUAL, command], input=given, capture_output=True, check=False, timeout=300
        )
        if done.returncode:
            raise LabError(f"`{command}` failed on {USUAL}: {(done.stdout + done.stderr).decode()[-2000:]}")
        return done.stdout.decode()

    def _by_hand(self, action: str, version: str) -> None:
        self._ssh(f"sh -s {action} {version}", (HERE / "usual.sh").read_bytes())

    def release(self, version: str) -> None:
        self._by_hand("release", version)

    def rollback(self, version: str) -> None:
        self._by_hand("rollback", version)

    def reset(self, version: str) -> None:
        self._by_hand("reset", version)

    def site(self) -> Played:
        """usual.yml, with the very settings of Ansible that Backstay has (pipelining, a line per task)."""
        return self.scene.play(
            "tests/bench/usual.yml",
            "-i",
            f"{USUAL},",
            "--limit",
            USUAL,
            usual_tls=str(self.certificates),
            ansible_ssh_common_args=f"-F {self.config}",
        )
