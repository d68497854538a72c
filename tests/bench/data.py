"""Backup, proof and restore of large data, against the engine alone on the same data: on app1, in turns."""

from __future__ import annotations

import json
import shlex
import statistics
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backstay_lab.scene import APPLICATION
from sides import OURS, cost_of

if TYPE_CHECKING:
    from backstay_lab.scene import Scene
    from run import Bench

GIGABYTE = 10**9
READY, BARE, PLAIN = "/srv/bench/ready", "/srv/bench/bare", "/srv/bench/plain"
PASSWORD = "/srv/bench/password"
REPOSITORY = f"/srv/backup/{APPLICATION}"
SCRIPT = (Path(__file__).resolve().parent / "on_host.py").read_bytes()
# As the engine is called by Backstay: gently, and with no cache that an earlier run left.
RESTIC = ("nice", "-n", "10", "restic", "--quiet", "--no-cache", "--password-file", PASSWORD, "-r", BARE)
WRITERS = 20.0  # requests a second, while a backup is made: as many writes as a small team makes


class OnHost:
    """The script of this directory, on a host of the lab."""

    def __init__(self, scene: Scene, name: str = OURS) -> None:
        self.scene = scene
        self.name = name

    def run(self, *words: str) -> dict[str, float]:
        """What commands say there is kept for the message of a failure."""
        command = self.scene.lab.ssh_command(self.name, shlex.join(("python3", "-", *words)))
        done = subprocess.run(command, input=SCRIPT, capture_output=True, timeout=1800, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{shlex.join(words)} failed on {self.name}: {done.stderr.decode()[-1500:]}")
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def time(self, *command: str) -> dict[str, float]:
        return self.run("time", *command)


class Against:
    """The same thing by Backstay and by the engine alone. The budget is a multiple of what that took: it is printed,
    never asserted."""

    def __init__(self, bench: Bench, host: OnHost) -> None:
        self.bench = bench
        self.host = host

    def both(
        self, name: str, ours: Callable[[], float], engine: Callable[[], float], *, first: bool, most: float
    ) -> None:
        took = {}
        for side in (ours, engine) if first else (engine, ours):
            self.host.time("sync")  # what one wrote is not written while the other is measured
            took[side] = side()
        mine, alone = took[ours], took[engine]
        self.bench.note(name, "both", backstay=mine, engine=alone, ratio=mine / alone)
        figure = self.bench.figures.of(f"{name}; engine alone", "s")
        figure.ours.append(mine)
        figure.usual.append(alone)
        self.bench.figures.of(f"{name}: times the engine alone", "", most).ours.append(mine / alone)
        self.bench.say(f"{name}: {mine:.1f} s, the engine alone {alone:.1f} s, {mine / alone:.2f} times")


class DataBench:
    """One gigabyte of rows and one of photographs, wholly new in each round; then four of each, for the memory."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.scene = bench.scene
        self.host = OnHost(self.scene)
        self.against = Against(bench, self.host)
        self.seed = 0

    def run(self) -> None:
        """Everything: time against the engine, what visitors notice, memory by size."""
        self.bench.say("a repository for the engine alone")
        self.scene.declare()
        self.host.time("sh", "-c", f"mkdir -p /srv/bench && head -c 24 /dev/urandom | base64 > {PASSWORD}")
        self.host.time(*RESTIC, "init")
        for round_ in range(self.bench.rounds):
            self.bench.say(f"round {round_ + 1} of {self.bench.rounds}: a gigabyte of rows, and one of photographs")
            self._fill(GIGABYTE)
            self._backups(first=round_ % 2 == 0)
            self._proofs(first=round_ % 2 == 0)
        self._restore()
        self._visitors()
        self._memory()
        self._fill(0)

    # the parts

    def _backups(self, *, first: bool) -> None:
        self.host.run("ready", READY)

        def ours() -> float:
            found = self.host.time("backstay", "backup", APPLICATION)
            self._figure("memory: backup of 2 GB, largest process", "MB").ours.append(found["memory_bytes"] / 1e6)
            return found["seconds"]

        def engine() -> float:
            return self.host.time("sh", "-c", f"cd {READY} && exec {shlex.join((*RESTIC, 'backup', '.'))}")["seconds"]

        self.against.both("backup of 1 GB of SQLite and 1 GB of media", ours, engine, first=first, most=1.3)

    def _proofs(self, *, first: bool) -> None:
        def ours() -> float:
            return self.host.time("backstay", "verify", "--level", "L4", APPLICATION)["seconds"]

        def engine() -> float:
            command = shlex.join((*RESTIC, "restore", "latest", "--target", PLAIN))
            seconds = self.host.time("sh", "-c", f"exec {command}")["seconds"]
            self.host.time("rm", "-rf", PLAIN)
            return seconds

        self.against.both("proof L4 of it", ours, engine, first=first, most=2.0)

    def _restore(self) -> None:
        """The whole transaction, and of it the step that brings the data back, against `cp -a` and a sync."""
        plain = []
        for _round in range(self.bench.rounds):
            copy = f"cp -a {READY} {PLAIN} && sync {PLAIN}"
            plain.append(self.host.time("sh", "-c", copy)["seconds"])
            self.host.time("rm", "-rf", PLAIN)
        began = self.host.time("backstay", "restore", APPLICATION, "--point", "latest", "--why", "bench")["seconds"]
        took = self.bench.ours.steps()["seconds"]
        self.bench.note("restore", "Backstay", seconds=began, steps=took)
        brought = sum(took[step] for step in ("fetch", "place", "carry"))
        moved = self._figure("restore: the data brought to their place", "s")
        moved.ours.append(brought)
        moved.usual.extend(plain)
        self._figure("restore: times a plain copy", "", 2.0).ours.append(brought / statistics.median(plain))
        whole = self._figure("restore of it, proof and switch included", "s")
        whole.ours.append(began)
        whole.usual.extend(plain)
        self.bench.ours.rest()

    def _visitors(self) -> None:
        """The 99th percentile of those who write, in quiet and while a backup is made; the same load."""
        found: dict[str, float] = {}
        for what in ("quiet", "backup"):
            self._fill(GIGABYTE)
            with self.scene.load("--slow", "0", host=OURS, rate=WRITERS) as load:
                if what == "backup":
                    cost = cost_of(partial(self.host.time, "backstay", "backup", APPLICATION))
                    self.bench.note("backup under writers", "Backstay", seconds=cost.seconds)
                else:
                    self.host.time("sleep", "30")
                result = load.stop()
            found[what] = result.by_kind["write"]["p99_ms"]
            self.bench.note(f"writers, {what}", "Backstay", p99_ms=found[what], failed=result.failed)
        figure = self._figure("p99 of writers while a backup is made, and in quiet", "ms", 3 * found["quiet"])
        figure.ours.append(found["backup"])
        figure.usual.append(found["quiet"])

    def _memory(self) -> None:
        self._fill(4 * GIGABYTE)
        found = self.host.time("backstay", "backup", APPLICATION)
        self._figure("memory: backup of 8 GB, largest process", "MB").ours.append(found["memory_bytes"] / 1e6)
        self.bench.note("backup of 8 GB", "Backstay", **found)

    # what they share

    def _fill(self, size_bytes: int) -> None:
        self.seed += 1
        self.host.run("fill", str(size_bytes), str(self.seed))

    def _figure(self, name: str, unit: str, budget: float | None = None) -> Any:
        return self.bench.figures.of(name, unit, budget)
