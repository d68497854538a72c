"""`make bench`: how fast, measured against the usual way in the same run, on the same machine, under the same load.

    .venv/bin/python tests/bench/run.py [--rounds 3] [--requests 100000] [--only site|releases|...] [--keep] [--strict]

Two hosts side by side: Backstay on one, and on the other the usual way (usual.sh: stop, check out, pip install,
migrate, collectstatic, start; usual.yml for the host itself). A missed budget is printed; it ends with 1 for one with
--strict, and always when in the long run a request failed or an acknowledged write was lost.
Every raw figure goes to .lab/bench.json, a summary in Markdown to standard output. The lab `bench` is removed at the
end, unless --keep is given: then the next run with --keep finds it as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "lab"))

from backstay_lab.errors import LabError
from backstay_lab.load import LoadProcess
from backstay_lab.load_result import LoadResult
from backstay_lab.scene import Scene
from data import DataBench
from figures import Figures, number
from look import LookBench
from postgresql import PostgresqlBench
from several import SeveralHosts
from sides import OURS, ROOT, USUAL, Backstay, Cost, TheUsualWay, close_connections, cost_of

HERE = Path(__file__).resolve().parent
RESULT = ROOT / ".lab" / "bench.json"
PARTS = ("site", "releases", "memory", "look", "long", "data", "postgresql", "several")
LIGHT = 20.0  # requests a second, while a release or rollback is measured
HEAVY = 150.0  # and in the long run
PAIRS = 10  # releases and rollbacks of the long run, each
BEGAN = time.monotonic()

# Names of figures, as they are printed.
RELEASE = "release of 1.1.0, built, same requirements"
ROLLBACK = "rollback, from the controller"
LONG_FAILED, LONG_LOST = "long run: failed requests", "long run: acknowledged writes missing"


def say(line: str) -> None:
    """Progress, to standard error: standard output is the summary."""
    print(f"{time.monotonic() - BEGAN:7.1f} s  {line}", file=sys.stderr, flush=True)


class Bench:
    """Measures part by part; what was found so far is always in the file."""

    def __init__(self, options: argparse.Namespace, certificates: Path) -> None:
        self.scene = Scene("bench", say)
        self.ours = Backstay(self.scene)
        self.usual = TheUsualWay(self.scene, certificates)
        self.rounds: int = options.rounds
        self.requests: int = options.requests
        self.rate: float = options.rate
        self.figures = Figures()
        self.raw: list[dict[str, Any]] = []
        self.facts: dict[str, Any] = {}

    # the stage

    def set_up(self) -> None:
        say("boot app1, app2 and build1")
        self.scene.prepare((OURS, USUAL, "build1"))
        self.ours.set_up()
        self.usual.set_up()
        self.facts = self._facts()

    def _facts(self) -> dict[str, Any]:
        asked = "import platform, sqlite3; print(platform.python_version(), sqlite3.sqlite_version)"
        python, sqlite = self.scene.lab.ssh(OURS, f'python3 -c "{asked}"').stdout.split()
        nginx = self.scene.lab.ssh(OURS, "nginx -v 2>&1").stdout.strip().rpartition("/")[2]
        ansible = subprocess.run(
            [str(Path(sys.executable).with_name("ansible")), "--version"], capture_output=True, text=True, check=True
        ).stdout.splitlines()[0]
        commit = subprocess.run(
            ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip()
        models = [
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ]
        return {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": commit,
            "cores": os.cpu_count(),
            "processor": models[0] if models else platform.machine(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "kernel": platform.release(),
            "load_average_at_start": os.getloadavg(),
            "controller": {"python": platform.python_version(), "ansible": ansible},
            "host": {"python": python, "sqlite": sqlite, "nginx": nginx},
            "light_load_per_second": LIGHT,
            "heavy_load_per_second": self.rate,
            "rounds": self.rounds,
        }

    def say(self, line: str) -> None:
        say(line)

    def note(self, what: str, side: str, **found: Any) -> None:
        self.raw.append(
            {
                "what": what,
                "side": side,
                "at": round(time.monotonic() - BEGAN, 1),
                "load_average": os.getloadavg()[0],
                **found,
            }
        )
        self.save()

    # measuring

    def visited(self, host: str, what: str, side: str, action: Callable[[], Any]) -> tuple[Cost, LoadResult]:
        """The cost of an action while visitors come, and what they saw, from 2 s before it to 3 s after it."""
        say(f"{what}, {side}")
        if host == OURS:
            self.ours.rest()
        with self.scene.load("--slow", "0", host=host, rate=LIGHT) as load:
            time.sleep(2.0)
            cost = cost_of(action)
            time.sleep(3.0)
            result = load.stop()
        self.note(
            what,
            side,
            seconds=cost.seconds,
            cpu_seconds=cost.cpu_seconds,
            tasks=cost.tasks,
            load=brief(result),
            **({"steps": self.ours.steps()} if host == OURS else {}),
        )
        say(f"    {cost.seconds:.1f} s, {result.failed} of {result.requests} requests failed")
        return cost, result

    def both(self, name: str, budget: float, ours: Callable[[], Any], usual: Callable[[], Any], *, first: bool) -> None:
        """The same thing on both sides, one after the other; which goes first alternates with the rounds."""

        def one() -> None:
            cost, result = self.visited(OURS, name, "Backstay", ours)
            self.figures.of(name, "s", budget).ours.append(cost.seconds)
            self._note_visit(name, cost, result, ours=True)

        def other() -> None:
            cost, result = self.visited(USUAL, name, "the usual way", usual)
            self.figures.of(name, "s", budget).usual.append(cost.seconds)
            self._note_visit(name, cost, result, ours=False)

        for act in (one, other) if first else (other, one):
            act()

    def _note_visit(self, name: str, cost: Cost, result: LoadResult, *, ours: bool) -> None:
        short = name.partition(",")[0].split()[0]
        for figure, value in (
            (self.figures.of(f"{short}: failed requests", "", 0.0), float(result.failed)),
            (self.figures.of(f"{short}: longest gap", "s"), result.longest_gap_seconds),
            (self.figures.of(f"{short}: controller CPU", "s", 4.0 if short == "release" else None), cost.cpu_seconds),
        ):
            (figure.ours if ours else figure.usual).append(value)
        if ours:
            self.figures.of(f"{short}: tasks", "").ours.append(float(cost.tasks))

    # the parts

    def site(self) -> None:
        """A run that changes nothing, on one host: site.yml, and a usual playbook of thirty tasks."""
        self.scene.play("site", "--limit", f"{OURS},localhost")
        self.usual.site()
        name = "site.yml that changes nothing, one host"
        for number_ in range(self.rounds):
            sides: list[tuple[str, Callable[[], Any]]] = [
                ("Backstay", partial(self.scene.play, "site", "--limit", f"{OURS},localhost")),
                ("the usual way", self.usual.site),
            ]
            for side, play in sides if number_ % 2 == 0 else reversed(sides):
                self.ours.rest()
                cost = cost_of(play)
                say(f"{name}, {side}: {cost.seconds:.1f} s, {cost.tasks} tasks")
                self.note(name, side, seconds=cost.seconds, cpu_seconds=cost.cpu_seconds, tasks=cost.tasks)
                for figure, value in (
                    (self.figures.of(name, "s", 10.0), cost.seconds),
                    (self.figures.of("site.yml: controller CPU", "s"), cost.cpu_seconds),
                    (self.figures.of("site.yml: tasks", ""), float(cost.tasks)),
                ):
                    (figure.ours if side == "Backstay" else figure.usual).append(value)

    def releases(self) -> None:
        """Release and rollback, both ways, each under the same light load; then the rollback on the host alone."""
        scene = self.scene
        for round_ in range(self.rounds):
            first = round_ % 2 == 0
            say(f"round {round_ + 1} of {self.rounds}")
            self.both(
                RELEASE,
                10.0,
                partial(scene.release, "1.1.0", why="bench"),
                partial(self.usual.release, "1.1.0"),
                first=first,
            )
            self._switch()
            self.both(
                ROLLBACK, 3.0, partial(scene.rollback, why="bench"), partial(self.usual.rollback, "1.0.0"), first=first
            )
            self._switch()
            self._on_the_host()
            self.ours.rest()
            self.ours.reset()
            self.usual.reset("1.1.0")

    def _switch(self) -> None:
        self.figures.of("the switch itself", "ms", 10.0, less=True).ours.append(self.ours.switch_ms())

    def _on_the_host(self) -> None:
        """`backstay rollback` typed on the host: ssh is not in it. The usual rollback is the same as before."""
        self.scene.release("1.1.0", why="bench")
        found: list[float] = []
        name = "backstay rollback, on the host"
        _, result = self.visited(OURS, name, "Backstay", lambda: found.append(self.ours.rollback_on_the_host()))
        self.note(f"{name}, seconds on the host", "Backstay", seconds=found[0])
        figure = self.figures.of(name, "s", 0.5)
        figure.ours.append(found[0])
        figure.usual = list(self.figures.of(ROLLBACK, "s").usual)
        self.figures.of(f"{name}: failed requests", "", 0.0).ours.append(float(result.failed))
        self._switch()

    def memory(self) -> None:
        """What the services of both hosts hold at rest, as proportional set size."""
        self.ours.rest()
        found: dict[str, dict[str, dict[str, int]]] = {}
        for host in (OURS, USUAL):
            script = (HERE / "memory.py").read_bytes()
            asked = subprocess.run(
                self.scene.lab.ssh_command(host, "python3", "-"), input=script, capture_output=True, check=True
            )
            found[host] = json.loads(asked.stdout)
        self.note("memory at rest", "both", services=found)
        live = self.scene.status()["live"]["id"]
        for service, size in sorted(found[OURS].items()):
            if service.startswith(("audit-portal-", "backstay")):
                role = "live" if f"-{live}-" in service else "warm"
                process = service.removesuffix(".service").rpartition("-")[2]
                own = "backstay's own services" if service.startswith("backstay") else f"{process}, {role} release"
                self.figures.of(f"memory: {own}", "MB").ours.append(size["bytes"] / 1e6)
        daemons = [size["bytes"] for service, size in found[OURS].items() if service.startswith("backstay")]
        if not daemons:
            self.figures.of("memory: backstay's own services", "MB").ours.append(0.0)
        usual = found[USUAL].get("usual.service")
        if usual:
            self.figures.of("memory: web, live release", "MB").usual.append(usual["bytes"] / 1e6)
        for host in (OURS, USUAL):
            say(f"memory of {host}: {found[host]}")

    def look(self) -> None:
        """How light a look at a host is, and the page of many."""
        LookBench(self).run()

    def long(self) -> None:
        """Many visitors through ten releases and ten rollbacks, spread over the time that their requests take."""
        self.ours.rest()
        scene = self.scene
        expected = self.requests / self.rate
        bound = 1.3 * expected + 60.0 * PAIRS
        say(f"long run: {self.requests} requests at {self.rate:g} a second, at most {bound / 60:.0f} minutes")
        began = time.monotonic()
        took: list[float] = []

        def until(seconds: float, wanted: int = 0) -> None:
            shown = time.monotonic()
            while load.running and (
                time.monotonic() - began < seconds
                or (load.snapshot().get("requests", 0) < wanted and time.monotonic() - began < bound)
            ):
                time.sleep(0.5)
                if time.monotonic() - shown >= 30.0:
                    shown = time.monotonic()
                    say(f"    {told(load)}")

        with scene.load("--requests", "100000000", "--slow", "1", seconds=bound + 600.0, rate=self.rate) as load:
            for pair in range(PAIRS):
                until(pair * expected / PAIRS + 2.0)
                for what, act in (("release", partial(scene.release, "1.1.0")), ("rollback", scene.rollback)):
                    cost = cost_of(partial(act, why="bench"))
                    took.append(cost.seconds)
                    self.note(f"long run: {what} {pair + 1}", "Backstay", seconds=cost.seconds)
                    say(f"    {what} {pair + 1} of {PAIRS} in {cost.seconds:.1f} s; {told(load)}")
            until(0.0, wanted=self.requests)
            result = load.stop()
        self.note("long run", "Backstay", load=brief(result))
        lost = scene.missing_writes([write.token for write in result.writes])
        of = self.figures.of
        of("long run: requests", "").ours.append(float(result.requests))
        of(LONG_FAILED, "", 0.0).ours.append(float(result.failed))
        of("long run: kept connections closed under a client", "", 0.0).ours.append(float(result.closed_keepalive))
        of(LONG_LOST, "", 0.0).ours.append(float(len(lost)))
        of("long run: longest gap between two successes", "ms", 250.0, less=True).ours.append(
            result.longest_gap_seconds * 1000
        )
        of("long run: requests a second", "").ours.append(result.requests_per_second)
        of("long run: p50", "ms").ours.append(result.p50_ms)
        of("long run: p99", "ms").ours.append(result.p99_ms)
        of("long run: one release or rollback", "s").ours.extend(took)

    def data(self) -> None:
        """Backup, proof and restore of two gigabytes, against the engine alone."""
        self.ours.rest()
        DataBench(self).run()

    def postgresql(self) -> None:
        """The same of a database in PostgreSQL, against its own tools, when the others have gone."""
        self.scene.remove()
        PostgresqlBench(self).run()

    def several(self) -> None:
        """A release over 1, 3 and 10 hosts, when the others have gone."""
        self.scene.remove()
        SeveralHosts(self).run()

    # what is told

    def save(self) -> None:
        whole = {"facts": self.facts, "figures": self.figures.as_json(), "raw": self.raw}
        fresh = RESULT.with_suffix(".tmp")
        fresh.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        fresh.rename(RESULT)

    def summary(self) -> str:
        facts = self.facts
        loads = [entry["load_average"] for entry in self.raw] or [os.getloadavg()[0]]
        return (
            f"{self.figures.table()}\n\n"
            f"Minimum / median / maximum of {self.rounds} rounds in turn, under {LIGHT:g} requests a second "
            f"(the long run: {self.rate:g}). Hosts, load and controller share {facts['cores']} cores of "
            f"{facts['processor']} (load average {number(min(loads))} to {number(max(loads))}, median "
            f"{number(statistics.median(loads))}); {facts['controller']['ansible']} on Python "
            f"{facts['controller']['python']}; hosts with Python {facts['host']['python']} and nginx "
            f"{facts['host']['nginx']}; commit {facts['commit']}, {facts['at'][:10]}.\n"
        )


def brief(result: LoadResult) -> dict[str, Any]:
    """A result without its writes, of which there are many."""
    plain = result.as_json()
    plain["writes"] = len(result.writes)
    plain["writes_in_doubt"] = len(result.writes_in_doubt)
    return plain


def told(load: LoadProcess) -> str:
    seen = load.snapshot()
    return f"{seen.get('requests', 0)} requests, {seen.get('failed', 0)} failed"


def broken(figures: Mapping[str, Mapping[str, Any]], *, strict: bool) -> list[str]:
    """The figures for which the run ends with 1: what a machine can be too slow for counts when `strict`."""
    return [
        name
        for name, figure in figures.items()
        if figure["met"] is False and (strict or name in (LONG_FAILED, LONG_LOST))
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="of everything but the long run (3)")
    parser.add_argument("--requests", type=int, default=100_000, help="of the long run, at least (100000)")
    parser.add_argument("--rate", type=float, default=HEAVY, help=f"of the long run, requests a second ({HEAVY:g})")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part; can be given several times")
    parser.add_argument("--keep", action="store_true", help="leave the lab `bench` for the next run with --keep")
    parser.add_argument("--strict", action="store_true", help="end with 1 when a budget is missed")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was begun is removed then too
    with tempfile.TemporaryDirectory(prefix="backstay-bench-") as certificates:
        bench = Bench(options, Path(certificates))
        if not options.keep:
            bench.scene.remove()
        try:
            bench.set_up()
            for part in options.only or PARTS:
                getattr(bench, part)()
                bench.save()
        except LabError as error:
            print(f"The bench stopped: {error}", file=sys.stderr)
            return 1
        finally:
            close_connections("bench")
            if not options.keep:
                say("remove the lab bench")
                bench.scene.remove()
        summary = bench.summary()
        RESULT.with_suffix(".md").write_text(f"{summary}\n", encoding="utf-8")
        print(summary)
        say(f"all figures: {RESULT}")
        missed = broken(bench.figures.as_json(), strict=options.strict)
    for name in missed:
        say(f"missed: {name}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
