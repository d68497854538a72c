"""Commands, always as lists, always with a time limit."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ._errors import BackstayError


@dataclass(frozen=True)
class Completed:
    """What a command left behind; `output` is standard output and error as they came, in one text."""

    arguments: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        return self.returncode == 0

    def last_lines(self, count: int = 20) -> tuple[str, ...]:
        """The last `count` lines of standard error and, where that is empty, of standard output."""
        text = self.stderr.strip() or self.stdout.strip()
        return tuple(text.splitlines()[-count:])


class Runner(Protocol):
    """Runs a command; tests pass their own."""

    def __call__(
        self,
        arguments: Sequence[str],
        *,
        timeout_seconds: float = 60.0,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        stdin: str | None = None,
        check: bool = True,
    ) -> Completed: ...


def run(
    arguments: Sequence[str],
    *,
    timeout_seconds: float = 60.0,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: str | None = None,
    check: bool = True,
) -> Completed:
    """Run one command and wait for it.

    `environment` replaces the whole environment where given. With `check`, a non-zero exit, a missing program and
    a time-out raise BackstayError; without, only the last two do.
    """
    try:
        done = subprocess.run(
            list(arguments),
            cwd=cwd,
            env=None if environment is None else dict(environment),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_seconds,
            check=False,
        )
    except FileNotFoundError as missing:
        raise BackstayError(
            f"The program {missing.filename!r} was not found: install it, or correct its path."
        ) from missing
    except subprocess.TimeoutExpired as late:
        raise BackstayError(f"`{arguments[0]}` did not end within {timeout_seconds:g} s and was killed.") from late
    completed = Completed(tuple(arguments), done.returncode, done.stdout, done.stderr)
    if check and not completed.ok:
        name = " ".join(arguments[:3])
        last = completed.last_lines(1)
        raise BackstayError(
            f"`{name}` ended with exit code {completed.returncode}: {last[0] if last else 'it printed nothing'}",
            lines=completed.last_lines(),
        )
    return completed
