"""Runs on a host, from standard input: the proportional set size of every service, as JSON, in bytes.

PSS counts a page that n processes share as one nth, so that sums are true. Works with cgroups of both versions.
"""

import json
import re
from pathlib import Path

services: dict[str, dict[str, int]] = {}
for process in Path("/proc").glob("[0-9]*"):
    try:
        groups = (process / "cgroup").read_text()
        rollup = (process / "smaps_rollup").read_text()
    except OSError:  # it has ended, or it is the kernel's
        continue
    service = re.search(r"/([^/]+\.service)(?:/|$)", groups, re.MULTILINE)
    size = re.search(r"^Pss: +(\d+) kB$", rollup, re.MULTILINE)
    if service and size:
        found = services.setdefault(service[1].replace("\\x2d", "-"), {"bytes": 0, "processes": 0})
        found["bytes"] += int(size[1]) * 1024
        found["processes"] += 1
print(json.dumps(services))
