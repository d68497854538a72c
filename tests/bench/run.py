"""`make bench`: how fast, measured against the usual way in the same run on the same machine.

Each figure stands beside its budget and, where the usual way has one, the ratio. Nothing here is asserted: a noisy
machine is no failure. Raw figures go to `.lab/bench.json`.

    python tests/bench/run.py [--rounds 3] [--requests 100000] [--only releases|site|long]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "lab"))

from backstay_lab.load import LoadProcess
from backstay_lab.scene import APPLICATION, DOMAIN, Scene

RESULT = ROOT / ".lab" / "bench.json"
BEGAN = time.monotonic()


@dataclass
class Figure:
    """One thing measured several times, in `unit`; `budget` is what the issue allows, None where it names none."""

    name: str
    unit: str
    budget: float | None = None
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def row(self) -> str:
        if not self.values:
            return f"| {self.name} | - | - | not measured |"
        low, high = min(self.values), max(self.values)
        spread = f"{low:.2f} / {self.median:.2f} / {high:.2f} {self.unit}"
        if self.budget is None:
            return f"| {self.name} | {spread} | - | - |"
        held = "met" if self.median <= self.budget else "missed"
        return f"| {self.name} | {spread} | {self.budget:g} {self.unit} | {held} |"


def say(line: str) -> None:
    print(f"{time.monotonic() - BEGAN:7.1f} s  {line}", flush=True)


def controller_cpu(action: Callable[[], Any]) -> tuple[float, float]:
    """(wall seconds, CPU seconds of the controller's own processes)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    action()
    seconds = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


class Bench:
    """Two hosts side by side: app1 with Backstay, app2 the usual way."""

    def __init__(self, rounds: int, requests: int) -> None:
        self.scene = Scene("bench", say)
        self.rounds = rounds
        self.requests = requests
        self.figures: dict[str, Figure] = {}
        self.loads: dict[str, dict[str, Any]] = {}

    def note(self, name: str, value: float, unit: str, budget: float | None = None) -> None:
        self.figures.setdefault(name, Figure(name, unit, budget)).values.append(value)

    def prepare(self) -> None:
        scene = self.scene
        scene.remove()
        say("booting three hosts")
        scene.prepare(("app1", "app2", "build1"))
        say("provisioning app1 with Backstay")
        scene.play("site")
        for version in ("1.0.0", "1.1.0"):
            say(f"building {version}")
            scene.build(version)
        scene.release("1.0.0")
        scene.manage("seed", "--audits", "10000")
        say("provisioning app2 the usual way")
        config = str(scene.directory / "ssh_config")
        archive = subprocess.run(
            ["tar", "-C", str(ROOT / ".lab"), "-cf", "-", "portal.git"], stdout=subprocess.PIPE, check=True
        ).stdout
        subprocess.run(
            ["ssh", "-F", config, "app2", "tar -C /srv -xf - && chown -R root: /srv/portal.git"],
            input=archive,
            check=True,
        )
        script = (Path(__file__).parent / "usual_setup.sh").read_bytes()
        subprocess.run(["ssh", "-F", config, "app2", "sh -s"], input=script, check=True)

    def usual(self, version: str) -> None:
        script = (Path(__file__).parent / "usual_release.sh").read_bytes()
        config = str(self.scene.directory / "ssh_config")
        done = subprocess.run(
            ["ssh", "-F", config, "app2", f"sh -s {version}"], input=script, capture_output=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"the usual way failed: {(done.stdout + done.stderr).decode()[-2000:]}")

    def usual_load(self) -> LoadProcess:
        address = self.scene.address("app2")
        return LoadProcess(
            ["--url", f"http://{DOMAIN}", "--connect", address, "--seconds", "600", "--rate", "20", "--slow", "0"]
        )

    def releases(self) -> None:
        """Release and rollback, both ways in turn, each under the same light load."""
        scene = self.scene
        for number in range(1, self.rounds + 1):
            say(f"round {number} of {self.rounds}: Backstay")
            with scene.load("--slow", "0", rate=20.0) as load:
                wall, cpu = controller_cpu(lambda: scene.release("1.1.0"))
                self.note("release of 1.1.0, command to verified answer", wall, "s", 10.0)
                self.note("controller CPU of a release", cpu, "s", 4.0)
                scene.settled()
                wall, _ = controller_cpu(scene.rollback)
                self.note("rollback from the controller", wall, "s", 3.0)
                scene.settled()
                self.lose("backstay", load)
            scene.release("1.1.0")
            scene.settled()
            time.sleep(4.0)  # the service has ended: the next one starts cold, as at 3 a.m.
            timed = "import subprocess,time;t=time.monotonic();"
            timed += f"subprocess.run(['backstay','rollback','{APPLICATION}'],check=True,capture_output=True);"
            timed += "print(time.monotonic()-t)"
            self.note(
                "backstay rollback on the host", float(scene.lab.ssh("app1", f'python3 -c "{timed}"').stdout), "s", 0.5
            )
            journal = f"cat $(ls -t /var/lib/backstay/{APPLICATION}/journal.d/*.jsonl | head -1)"
            scene.settled()
            for line in scene.lab.ssh("app1", journal).stdout.splitlines():
                record = json.loads(line)
                if (record["step"], record["state"]) == ("flip", "done"):
                    self.note("the switch itself", float(record["data"]["detail"].split()[0]), "ms", 10.0)
            say(f"round {number} of {self.rounds}: the usual way")
            with self.usual_load() as load:
                wall, _ = controller_cpu(lambda: self.usual("1.1.0"))
                self.note("the usual release of 1.1.0", wall, "s")
                wall, _ = controller_cpu(lambda: self.usual("1.0.0"))
                self.note("the usual rollback", wall, "s")
                self.lose("usual", load)

    def lose(self, who: str, load: LoadProcess) -> None:
        time.sleep(2.0)
        result = load.stop()
        self.note(f"failed requests, {who}, a release and a rollback", float(result.failed), "requests")
        self.note(f"longest gap, {who}", result.longest_gap_seconds, "s")

    def site(self) -> None:
        """A run of site.yml that changes nothing, on one host."""
        for _ in range(self.rounds):
            wall, cpu = controller_cpu(lambda: self.scene.play("site", "--limit", "app1,localhost"))
            self.note("site.yml that changes nothing, one host", wall, "s", 10.0)
            self.note("controller CPU of that", cpu, "s")
        say("site.yml measured")

    def long(self) -> None:
        """Many requests through ten releases and rollbacks."""
        scene = self.scene
        rate = 150.0
        with scene.load("--requests", str(self.requests), "--slow", "1", seconds=1500.0, rate=rate) as load:
            for number in range(1, 6):
                scene.release("1.1.0")
                say(f"long run: release {number} of 5, {load.snapshot()}")
                scene.rollback()
                say(f"long run: rollback {number} of 5, {load.snapshot()}")
            while load.running:
                time.sleep(5.0)
                say(f"long run: {load.snapshot()}")
            result = load.wait()
        self.note("long run: requests", float(result.requests), "requests")
        self.note("long run: failed", float(result.failed), "requests", 0.0)
        self.note(
            "long run: kept connections closed under a client", float(result.closed_keepalive), "connections", 0.0
        )
        self.note("long run: longest gap", result.longest_gap_seconds * 1000, "ms", 250.0)
        self.note("long run: p99", result.p99_ms, "ms")
        self.loads["long"] = {"failures": list(result.failures), "by_release": result.by_release}

    def memory(self) -> None:
        """What the services of app1 use: the application's own, and Backstay's (none runs between transactions)."""
        ask = "for u in $(systemctl list-units --plain --no-legend 'audit-portal-*' 'backstay-*' | cut -d' ' -f1); do "
        ask += 'p=$(systemctl show -P MainPID $u); [ "${p:-0}" != 0 ] && echo $u $p; done'
        for line in self.scene.lab.ssh("app1", ask, check=False).stdout.splitlines():
            say(f"runs between transactions: {line}")

    def told(self) -> str:
        rows = ["| what | min / median / max | budget | |", "|---|---|---|---|"]
        rows += [figure.row() for figure in self.figures.values()]
        for name, ours, usual in (
            ("release", "release of 1.1.0, command to verified answer", "the usual release of 1.1.0"),
            ("rollback", "rollback from the controller", "the usual rollback"),
            ("rollback on the host", "backstay rollback on the host", "the usual rollback"),
        ):
            if ours in self.figures and usual in self.figures:
                ratio = self.figures[usual].median / self.figures[ours].median
                rows.append(f"| {name}: the usual way / Backstay | {ratio:.1f} times | - | - |")
        return "\n".join(rows)

    def save(self) -> None:
        RESULT.write_text(
            json.dumps(
                {
                    "cores": os.cpu_count(),
                    "load_average": os.getloadavg(),
                    "python": platform.python_version(),
                    "rounds": self.rounds,
                    "figures": {
                        name: {"unit": f.unit, "budget": f.budget, "values": f.values}
                        for name, f in self.figures.items()
                    },
                    "loads": self.loads,
                },
                indent=2,
            )
            + "\n",
            encoding="utf-8",
        )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--only", choices=("releases", "site", "long"), action="append")
    options = parser.parse_args(arguments)
    bench = Bench(options.rounds, options.requests)
    bench.prepare()
    for part in options.only or ("site", "releases", "long"):
        getattr(bench, part)()
        bench.save()
    bench.memory()
    print(f"\n{bench.told()}\n\nraw figures: {RESULT}")
    bench.scene.remove()
    return 0


if __name__ == "__main__":
    sys.exit(main())
