"""A release over 1, 3 and 10 hosts: what it costs the controller for each, and how long the hosts differ."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING

from sides import ROOT, close_connections, cost_of

sys.path.insert(0, str(ROOT / "tests" / "integration" / "fleet"))

from backstay_lab.scene import APPLICATION
from fleet import Fleet

if TYPE_CHECKING:
    from run import Bench

SIZES = (1, 3, 10)


class SeveralHosts:
    """One lab that grows: the hosts share a database, and all of them share this machine's cores."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def run(self) -> None:
        """Release 1.1.0 over so many hosts, and go back to 1.0.0, at each size."""
        largest = Fleet(self.bench.say, lab="benchfleet", hosts=[f"app{number + 1}" for number in range(SIZES[-1])])
        largest.remove()
        try:
            for size in SIZES:
                fleet = Fleet(self.bench.say, lab="benchfleet", hosts=largest.hosts[:size])
                fleet.stage()
                # Ten candidates start at once on the cores of one machine.
                fleet.declare(health={"deadline_seconds": 300})
                fleet.play("site", "--limit", "app_servers")
                fleet.release("1.0.0", again=True, prepare_seconds=900, why="bench")
                self._released(fleet, size)
            self._collected(largest)
        finally:
            close_connections("benchfleet")
            largest.remove()

    def _released(self, fleet: Fleet, size: int) -> None:
        close_connections(fleet.name)
        cost = cost_of(lambda: fleet.release("1.1.0", prepare_seconds=900, why="bench"))
        apart = self._apart(fleet)
        what = f"release over {size} host{'s' if size > 1 else ''}"
        self.bench.note(
            what, "Backstay", seconds=cost.seconds, cpu_seconds=cost.cpu_seconds, tasks=cost.tasks, apart=apart
        )
        of = self.bench.figures.of
        of(f"{what}", "s").ours.append(cost.seconds)
        of(f"{what}: controller CPU per host", "s").ours.append(cost.cpu_seconds / size)
        of(f"{what}: module calls per host", "").ours.append(cost.tasks / size)
        of(f"{what}: from the first switch to the last", "s", 3.0, less=True).ours.append(apart)
        self.bench.say(
            f"{what}: {cost.seconds:.1f} s, {cost.cpu_seconds / size:.2f} s of CPU per host, {apart:.2f} s apart"
        )

    def _collected(self, fleet: Fleet) -> None:
        """The page of all hosts, as playbooks/status.yml makes it."""
        for _unused in range(3):
            close_connections(fleet.name)
            cost = cost_of(lambda: fleet.play("status", directory=str(fleet.directory / "status")))
            of = self.bench.figures.of
            what = f"status.yml over {len(fleet.hosts)} hosts"
            of(what, "s").ours.append(cost.seconds)
            of(f"{what}: controller CPU", "s", 10.0, less=True).ours.append(cost.cpu_seconds)

    def _apart(self, fleet: Fleet) -> float:
        """Seconds between the first host's switch and the last one's, from their journals; they share a clock."""
        newest = f"cat $(ls -t /var/lib/backstay/{APPLICATION}/journal.d/*.jsonl | head -1)"
        switched = []
        for host in fleet.hosts:
            fleet.settled(host)
            records = [json.loads(line) for line in fleet.lab.ssh(host, newest).stdout.splitlines()]
            flips = [each["time"] for each in records if (each["step"], each["state"]) == ("flip", "done")]
            switched.append(datetime.fromisoformat(flips[-1]).timestamp())
        return max(switched) - min(switched)
