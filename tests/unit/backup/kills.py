"""Processes that are killed at one of the commands that they call: before it begins, or while it runs.

`killed("tests.unit.backup.kills:backup_once", directory, (7, "during"))` calls that function with the directory and a
runner, in a process of its own that dies at its seventh command. `strikes` says which ones are tried: by default one of
each stretch, by a seed; with `BACKSTAY_ALL=1` every command at both moments.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.backstay.ops.plugins.module_utils._run import Completed, run

from .host import Host

ALL = os.environ.get("BACKSTAY_ALL") == "1"
MOMENTS = ("before", "during")
DURING_SECONDS = 0.03  # the shortest commands take as long
ROOT = Path(__file__).parents[3]

Strike = tuple[int, str]


def strikes(commands: int, sample: int, *, seed: int = 4) -> list[Strike]:
    every = list(itertools.product(range(1, commands + 1), MOMENTS))
    if ALL:
        return every
    chance = random.Random(seed)
    return [chance.choice(every[len(every) * n // sample : len(every) * (n + 1) // sample]) for n in range(sample)]


class Dying:
    """A runner whose process is killed at the command of a number; never where that is 0. It counts in any case."""

    def __init__(self, strike: Strike = (0, "before")) -> None:
        self.number, self.moment = strike
        self.commands = 0
        self._guard = threading.Lock()

    def __call__(self, arguments: Sequence[str], **given: Any) -> Completed:
        with self._guard:
            self.commands += 1
            struck = self.commands == self.number
        if struck and self.moment == "before":
            _die()
        if struck:
            threading.Timer(DURING_SECONDS, _die).start()
        return run(arguments, **given)


def _die() -> None:
    """With whatever it has begun, as systemd ends a unit."""
    os.killpg(0, signal.SIGKILL)


def killed(function: str, directory: Path, strike: Strike, **given: Any) -> None:
    child = [sys.executable, "-m", "tests.unit.backup.kills", function, str(directory), json.dumps([strike, given])]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / '.ansible' / 'collections'}"}
    done = subprocess.run(
        child, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, start_new_session=True
    )
    if done.returncode != -signal.SIGKILL:
        raise RuntimeError(f"{function} was to be killed at {strike} and ended with {done.returncode}: {done.stderr}")


def locks(repository: Path) -> list[str]:
    """What keeps others out of a local repository; restic passes over a lock whose writing was cut short."""
    return [path.name for path in (repository / "locks").iterdir() if "-tmp-" not in path.name]


def backup_once(directory: Path, runner: Dying, *, backup: dict[str, Any], day: float) -> None:
    Host(directory, backup, runner=runner, day=day).run()


if __name__ == "__main__":
    module, _colon, name = sys.argv[1].partition(":")
    (number, moment), more = json.loads(sys.argv[3])
    called: Callable[..., None] = getattr(importlib.import_module(module), name)
    called(Path(sys.argv[2]), Dying((number, moment)), **more)
