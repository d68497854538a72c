"""How light a look is: what a host's own watching takes, `backstay status`, and the page of fifty hosts from facts."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

from sides import OURS, ROOT

if TYPE_CHECKING:
    from run import Bench

# Fifty hosts with two applications each, of which some are ill; from their facts to the files, in a process of its own.
_FIFTY = """
import json, sys, time
sys.path[:0] = ["tools", ".ansible/collections"]
import status_picture
from ansible_collections.backstay.ops.plugins.module_utils._page_hosts import document_of, rows_of
from ansible_collections.backstay.ops.plugins.module_utils._page import page, text
rows = [each for each in status_picture.fleet() if each.cells[0].state != "grey"]
said = {
    f"app{number}": {"rows": [rows[(2 * number + which) % len(rows)].to_dict() | {"application": f"shop{which}"}
                              for which in (0, 1)], "problem": ""}
    for number in range(50)
}
collected = json.dumps(said)
began = time.monotonic()
found, silent = rows_of(json.loads(collected), {}, {}, now=status_picture.NOW)
shown = page(found, now=status_picture.NOW)
json.dumps(document_of(found, silent, status_picture.NOW)), text(found)
seconds = time.monotonic() - began
assert len(found) == 100
print(json.dumps([seconds, len(shown)]))
"""

_TIMED = """
import json, resource, subprocess, sys, time
found = []
for _ in range({times}):
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run({command!r}, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found.append([time.monotonic() - began, cpu, after.ru_maxrss])
print(json.dumps(found))
"""


def fifty_hosts() -> tuple[float, int]:
    """Seconds from the collected facts of fifty hosts with two applications each to page, JSON and text; its bytes."""
    done = subprocess.run([sys.executable, "-c", _FIFTY], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, size = json.loads(done.stdout)
    return float(seconds), int(size)


def timed(bench: Bench, command: list[str], times: int = 5) -> list[tuple[float, float, int]]:
    """Seconds, seconds of CPU, and the largest memory in kB, of a command on the host."""
    script = _TIMED.format(times=times, command=command).encode()
    done = subprocess.run(
        bench.scene.lab.ssh_command(OURS, "python3", "-"), input=script, capture_output=True, check=True
    )
    return [(float(seconds), float(cpu), int(memory)) for seconds, cpu, memory in json.loads(done.stdout)]


class LookBench:
    """The figures of the one-look page."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def run(self) -> None:
        of = self.bench.figures.of
        sizes = []
        for _unused in range(max(self.bench.rounds, 3)):
            seconds, size = fifty_hosts()
            of("page of 50 hosts with 2 applications each", "s", 5.0, less=True).ours.append(seconds)
            sizes.append(size)
        of("its size", "MB").ours.append(statistics.median(sizes) / 1e6)
        self.bench.ours.rest()
        for seconds, cpu, _memory in timed(self.bench, ["backstay", "status", "--json"]):
            of("backstay status, on the host", "s", 0.5, less=True).ours.append(seconds)
            of("backstay status: CPU", "s").ours.append(cpu)
        looks = timed(self.bench, ["backstay", "observe"])
        pages = timed(self.bench, ["backstay", "status", "--page"])
        for (_seconds, look, looked), (_seconds, page, paged) in zip(looks, pages, strict=True):
            of("backstay observe, each minute: CPU", "s").ours.append(look)
            of("the host's own page, each 5 minutes: CPU", "s").ours.append(page)
            of("the host's own watching: share of one core", "%", 1.0, less=True).ours.append(look / 0.6 + page / 3)
            # Their units wait for each other, and between looks nothing runs.
            of("the host's own watching: memory", "MB", 60.0).ours.append(max(looked, paged) / 1e3)
        self.bench.note("a look", "Backstay", page_bytes=sizes)
