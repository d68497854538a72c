"""Commands, always as lists, always with a time limit."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

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
        on_line: Callable[[str], None] | None = None,
    ) -> Completed: ...


def run(
    arguments: Sequence[str],
    *,
    timeout_seconds: float = 60.0,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: str | None = None,
    check: bool = True,
    on_line: Callable[[str], None] | None = None,
) -> Completed:
    """Run one command and wait for it.

    `environment` replaces the whole environment where given. With `check`, a non-zero exit, a missing program and
    a time-out raise BackstayError; without, only the last two do. `on_line` is given each line of standard output as
    it comes, for those who wait.
    """
    given: dict[str, Any] = {"cwd": cwd, "env": None if environment is None else dict(environment)}
    given |= {"text": True, "errors": "replace"}
    try:
        if on_line is not None:
            done = _followed(arguments, given, timeout_seconds, on_line)
        else:
            done = subprocess.run(
                list(arguments),
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                timeout=timeout_seconds,
                check=False,
                **given,
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


def _followed(
    arguments: Sequence[str], given: Mapping[str, Any], timeout_seconds: float, on_line: Callable[[str], None]
) -> subprocess.CompletedProcess[str]:
    """Run a command whose lines somebody waits for. Standard error goes to a file, so that neither stream waits."""
    import tempfile  # with its random numbers: most commands are not followed

    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(
            list(arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, **given
        )
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(timeout_seconds, end)
        timer.start()
        lines = []
        try:
            for line in process.stdout or ():
                lines.append(line)
                on_line(line.rstrip("\n"))
            code = process.wait()
        finally:
            timer.cancel()
            process.kill()
            process.wait()
        if late.is_set():
            raise subprocess.TimeoutExpired(list(arguments), timeout_seconds)
        errors.seek(0)
        return subprocess.CompletedProcess(list(arguments), code, "".join(lines), errors.read())
