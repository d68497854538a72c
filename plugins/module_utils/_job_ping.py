"""Tells somebody else of each run, in healthchecks.io's protocol, so that silence is noticed elsewhere.

    POST <url>/start    it begins            POST <url>          it ended well
    POST <url>/<code>   its exit code        POST <url>/fail     it failed without one

A receiver that is away changes nothing about the job. The URL is a secret: whoever has it can tell lies.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import urlsplit

from ._errors import BackstayError
from ._http import Target, request
from ._job_results import Run

SECONDS = 5.0
PAUSES = (1.0, 3.0)  # between tries


def suffix(run: Run) -> str:
    """What stands behind the URL for a run that ended."""
    if run.ok:
        return ""
    return f"/{run.exit}" if run.exit is not None and 0 < run.exit < 256 else "/fail"


def ping(
    url: str,
    what: str,
    *,
    tries: int = 3,
    timeout_seconds: float = SECONDS,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Tell it; `what` is a suffix such as `/start`. Returns why it was not told, empty where it was. Never raises for
    anything that the other end does."""
    why = ""
    for number in range(tries):
        if number:
            sleep(PAUSES[min(number, len(PAUSES)) - 1])
        try:
            parts = urlsplit(url.rstrip("/") + what)
            tls = parts.scheme == "https"
            target = Target.tcp(parts.hostname or "", parts.port, tls=tls)
            answer = request(target, parts.path or "/", timeout_seconds=timeout_seconds, method="POST", body=b"")
        except (BackstayError, ValueError) as refused:
            why = refused.message if isinstance(refused, BackstayError) else "its URL cannot be read"
            continue
        if 200 <= answer.status < 300:
            return ""
        why = f"it answered {answer.status}"
    return why
