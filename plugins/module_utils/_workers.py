"""Whether a service took a reload: nginx answers at once that it will, and tells its error log alone when it did not.

`nginx -t` cannot know: a zone of shared memory with another key, a port that somebody else holds and limits of the
unit are found by the master that runs, which then goes on with the configuration that it had.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ._run import Runner
from ._systemd import children

# The master reads its configuration within milliseconds; names that it must look up take as long as resolvers do.
PATIENCE_SECONDS = 30.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Workers:
    """The worker processes of a unit before a reload, and how much its error log held: `log_bytes`."""

    main: int
    before: frozenset[int]
    log: Path
    log_bytes: int


def workers(unit: str, log: Path, run: Runner) -> Workers:
    """What is there before a reload. `log` need not exist."""
    asked = run(["systemctl", "show", "--property=MainPID", "--value", unit], check=False).stdout.strip()
    main = int(asked) if asked.isdigit() else 0
    return Workers(main, frozenset(children().get(main, ())), log, _size(log))


def refusal(seen: Workers, *, sleep: Callable[[float], None] = time.sleep) -> str:
    """Why no new worker came after a reload: the service's own words, where it has some; nothing, where one came."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        if frozenset(children().get(seen.main, ())) - seen.before:
            return ""
        said = [line for line in _written_since(seen).splitlines() if "[emerg]" in line]
        if said:
            return said[-1].strip()
        if time.monotonic() > deadline:
            return f"no new worker came within {PATIENCE_SECONDS:g} s, and {seen.log} does not say why"
        sleep(_POLL_SECONDS)


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def _written_since(seen: Workers) -> str:
    size = _size(seen.log)
    if not size:
        return ""
    with seen.log.open("rb") as stream:
        stream.seek(seen.log_bytes if size >= seen.log_bytes else 0)  # shorter than before: it was rotated meanwhile
        return stream.read().decode(errors="replace")
