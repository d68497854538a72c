"""The application's own commands around the phases of a transaction, run as a release's processes are."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ._environment import redact
from ._errors import GateRefused
from ._run import Runner
from ._units import one_off

if TYPE_CHECKING:
    from ._application import Application

SECONDS = 600.0  # one command may take no longer


def run_hooks(
    application: Application,
    when: str,
    *,
    release: str,
    unit: str,
    facts: Mapping[str, str],
    runner: Runner,
    secrets: tuple[str, ...],
    environment: Path,
    say: Callable[[str], None],
) -> int:
    """Run the commands that the application declares for `when` (such as `before_flip`), one after the other.

    `release` is the one whose code and environment they run in; `unit` is the name of systemd's unit that they are, by
    which recovery finds and stops one whose transaction was killed; `facts` (no secret is among them) reach them as
    `BACKSTAY_HOOK_<NAME>`; programs are those of `environment`, the release's virtualenv, first. Returns how many ran.
    Raises GateRefused, with the last lines of the one that failed.
    """
    from ._runtime import program

    commands: tuple[tuple[str, ...], ...] = getattr(application.hooks, when)
    for command in commands:
        given = [f"--setenv=BACKSTAY_HOOK_{name.upper()}={value}" for name, value in {"when": when, **facts}.items()]
        began = time.monotonic()
        done = runner(
            [
                "systemd-run",
                "--quiet",
                "--wait",
                "--pipe",
                "--collect",
                f"--unit={unit}",
                *given,
                *one_off(application, release, seconds=SECONDS),
                *program(command, environment),
            ],
            timeout_seconds=SECONDS + 30,
            check=False,
        )
        what = f"The hook {when} ({' '.join(command)[:60]})"
        if not done.ok:
            lines = tuple(redact(line, secrets)[:500] for line in done.last_lines(12))
            last = lines[-1] if lines else "it printed nothing"
            raise GateRefused(f"{what} ended with exit code {done.returncode}: {last}", lines=lines)
        say(f"{what} ran in {time.monotonic() - began:.2f} s")
    return len(commands)
