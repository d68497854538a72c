"""A disk that can be full: a small tmpfs in a mount namespace of its own, which goes with the process that lives in it.

`on_a_small_disk(directory, "tests.unit.backup.full_disk:struck")` calls that function there, with the directory, in a
process of its own; what it returns (JSON) comes back.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

MEBIBYTES = 12
ROOT = Path(__file__).parents[3]


def on_a_small_disk(directory: Path, function: str) -> Any:
    small = directory / "small"
    small.mkdir()
    names = ["--mount"] if os.geteuid() == 0 else ["--mount", "--user", "--map-root-user"]
    script = 'mount -t tmpfs -o "size=$1m" tmpfs "$2" && shift 2 && exec "$@"'
    child = [sys.executable, "-m", "tests.unit.backup.small_disk", str(directory), function]
    done = subprocess.run(
        ["unshare", *names, "sh", "-c", script, "sh", str(MEBIBYTES), str(small), *child],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / '.ansible' / 'collections'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{function} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def fill(directory: Path) -> None:
    """From now on nothing fits on the disk any more, to the last byte."""
    descriptor = os.open(directory / "filler", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for size in (1 << 20, 1 << 12, 1):
        try:
            while True:
                os.write(descriptor, bytes(size))
        except OSError:
            continue
    os.close(descriptor)


def empty(directory: Path) -> None:
    (directory / "filler").unlink(missing_ok=True)


if __name__ == "__main__":
    module, _colon, name = sys.argv[2].partition(":")
    told = getattr(importlib.import_module(module), name)(Path(sys.argv[1]))
    sys.stdout.write(f"\n{json.dumps(told)}\n")
