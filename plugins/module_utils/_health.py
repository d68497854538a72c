"""Whether something is well: checks repeated until they pass often enough in a row, or a deadline has passed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from ._check_options import parse, parse_checks
from ._checks import Adapters, Check, Result, run_check
from ._errors import InputError
from ._http import Target

if TYPE_CHECKING:
    from ._application import Application
    from ._layout import Layout

__all__ = [
    "Adapters",
    "Attempt",
    "Check",
    "Report",
    "Result",
    "application_checks",
    "application_options",
    "decide",
    "health_command",
    "host_options",
    "outside_options",
    "parse",
    "parse_checks",
    "run_check",
    "run_until",
]

Through = Literal["candidate", "front_door"]


@dataclass(frozen=True)
class Attempt:
    """All checks, asked once: the `number`-th time, which made `streak` passes in a row."""

    number: int
    ok: bool
    streak: int
    results: tuple[Result, ...]


@dataclass(frozen=True)
class Report:
    """The verdict after `attempts` attempts; `results` are those of the last one, `reason` one clause."""

    ok: bool
    attempts: int
    results: tuple[Result, ...]
    reason: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people: a line per check."""
        width = max((len(result.name) for result in self.results), default=0)
        return [result.line(min(width, 60)) for result in self.results]


def decide(outcomes: Sequence[bool], *, consecutive: int, late: bool) -> Literal["well", "again", "late"]:
    """What to do after these attempts, the newest last: enough passes in a row are well, else again until `late`.

    An attempt that began in time counts, even when it ended late.
    """
    if streak_of(outcomes) >= consecutive:
        return "well"
    return "late" if late else "again"


def streak_of(outcomes: Sequence[bool]) -> int:
    """How many of the newest attempts passed in a row."""
    streak = 0
    for passed in reversed(outcomes):
        if not passed:
            break
        streak += 1
    return streak


def run_until(
    checks: Sequence[Check],
    *,
    consecutive: int = 1,
    interval_seconds: float = 1.0,
    deadline_seconds: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    on_attempt: Callable[[Attempt], None] = lambda _: None,
    adapters: Adapters | None = None,
) -> Report:
    """Ask all checks again and again until they pass `consecutive` times in a row, or the deadline has passed.

    A deadline of 0 means one attempt and no waiting. Otherwise no check is asked beyond the deadline, and those
    whose turn did not come are reported as such. `on_attempt` may raise to give up early.
    """
    if consecutive < 1 or interval_seconds < 0 or deadline_seconds < 0:
        raise InputError("consecutive must be at least 1, interval_seconds and deadline_seconds not negative.")
    if consecutive > 1 and deadline_seconds == 0:
        raise InputError("consecutive above 1 needs deadline_seconds: say how long to go on asking.")
    began = clock()
    outcomes: list[bool] = []
    failed: tuple[Result, ...] = ()
    while True:
        results = tuple(
            _each(checks, adapters, lambda: began + deadline_seconds - clock() if deadline_seconds else None)
        )
        passed = all(result.ok for result in results)
        outcomes.append(passed)
        failed = failed if passed else results
        on_attempt(Attempt(len(outcomes), passed, streak_of(outcomes), results))
        elapsed = clock() - began
        verdict = decide(outcomes, consecutive=consecutive, late=elapsed >= deadline_seconds)
        if verdict == "again":
            sleep(min(interval_seconds, deadline_seconds - elapsed))
            if clock() - began >= deadline_seconds:
                verdict = "late"
        if verdict != "again":
            reason = _reason(outcomes, results, failed, consecutive, deadline_seconds)
            return Report(verdict == "well", len(outcomes), results, reason, clock() - began)


def _each(checks: Sequence[Check], adapters: Adapters | None, left: Callable[[], float | None]) -> Iterator[Result]:
    for check in checks:
        limit = left()
        if limit is not None and limit <= 0:
            reason = "its turn did not come before the deadline"
            yield Result(check.name, check.kind, False, 0.0, "not asked", check.expected, reason, skipped=True)
        else:
            yield run_check(check, adapters, limit_seconds=limit)


def _reason(
    outcomes: Sequence[bool], last: Sequence[Result], failed: Sequence[Result], consecutive: int, deadline: float
) -> str:
    streak = streak_of(outcomes)
    if streak >= consecutive:
        times = f" {streak} times in a row" if streak > 1 else ""
        return (f"all {len(last)} checks passed" if len(last) != 1 else "the check passed") + times
    bad = [result for result in (last if streak == 0 else failed) if not result.ok]
    asked = [result for result in bad if not result.skipped] or bad
    said = f"{asked[0].name}: {asked[0].reason}" if asked else ""
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    tries = f"; asked {len(outcomes)} times in {deadline:g} s" if len(outcomes) > 1 else ""
    if streak:
        since = f"; before that, {said}{more}" if said else ""
        return f"passed {streak} times in a row within {deadline:g} s, {consecutive} are needed{since}"
    return f"{said}{more}{tries}"


# the checks of an application


def application_checks(
    application: Application,
    target: Target,
    *,
    through: Through,
    release_id: str | None,
    static_path: str | None,
    media_path: str | None,
) -> list[Check]:
    """The health and smoke checks of an application's file, against one target.

    With `release_id`, every answer of the application itself must carry it; nginx serves static and media files.
    Where `static_path` or `media_path` is None, the checks that need one are left out.
    """
    paths = {"auto:static": static_path, "auto:media": media_path}
    release = {} if release_id is None else {"release_id": release_id}
    found: list[Check] = []
    for options in application_options(application, target, through=through, release=release):
        automatic = options.pop("automatic", None)
        path = paths[automatic] if automatic is not None else None
        if automatic is not None and path is None:
            continue
        whole = options if path is None else _at_path(options, path)
        found.append(parse(whole, f"the checks of {application.name}"))
    return found


def application_options(
    application: Application,
    target: Target,
    *,
    through: Through,
    release: Mapping[str, str],
    prefix: str = "",
) -> list[dict[str, Any]]:
    """The same as dictionaries, as the module takes them. A file to be chosen has the key `automatic`."""
    health = application.health
    own: dict[str, Any] = dict(release)
    if through == "candidate":
        # What nginx would say: the visitor came over TLS, and the host itself may see the details.
        own["headers"] = {"X-Forwarded-Proto": "https", "X-Backstay-Internal": "yes"}
    found = [
        {
            **_at_path(_where(target), health.path),
            **own,
            "name": f"{prefix}health",
            "status": health.status,
            "latency_seconds": health.latency_seconds,
            "timeout_seconds": max(5.0, health.latency_seconds),
        }
    ]
    for smoke in application.smoke:
        if through not in smoke.through:
            continue
        served = smoke.path in ("auto:static", "auto:media")
        options = (
            {**_where(target), "automatic": smoke.path} if served else _at_path({**_where(target), **own}, smoke.path)
        )
        options |= {"name": f"{prefix}{smoke.name}", "status": smoke.status, "timeout_seconds": 10.0}
        if smoke.contains:
            options["contains"] = smoke.contains
        found.append(options)
    return found


def _where(target: Target) -> dict[str, Any]:
    if target.socket_path is not None:
        return {"type": "http", "socket": target.socket_path, "host": target.host}
    scheme = "https" if target.tls else "http"
    where: dict[str, Any] = {"type": "http", "url": f"{scheme}://{target.host_header}/", "verify": target.verify}
    where |= {"address": target.address} if target.address else {}
    where |= {"ca_file": target.ca_file} if target.ca_file else {}
    return where


def _at_path(options: Mapping[str, Any], path: str) -> dict[str, Any]:
    if "socket" in options:
        return {**options, "path": path}
    return {**options, "url": str(options["url"]).rstrip("/") + path}


def host_options(
    application: Application, layout: Layout, *, ca_file: str | None = None, prefix: str = ""
) -> list[dict[str, Any]]:
    """Checks of one application for its own host: the live release on its socket, then its front door.

    They name no release id: `release_link` reads what is live when asked. With `ca_file` the chain of the certificate
    must be trusted; else only its time and names are looked at. `prefix` begins the name of each.
    """
    release = {"release_link": str(layout.active)}
    trusted = ca_file is not None
    own = Target.unix(layout.active, application.domain)
    door = Target.tcp(application.domain, 443, tls=True, address="127.0.0.1", ca_file=ca_file, verify=trusted)
    found = application_options(application, own, through="candidate", release=release, prefix=f"{prefix}release: ")
    found += application_options(
        application, door, through="front_door", release=release, prefix=f"{prefix}front door: "
    )
    folders = {
        "auto:static": ("/static/", layout.static),
        "auto:media": ("/media/", layout.data / application.media if application.media else None),
    }
    checks: list[dict[str, Any]] = []
    for options in found:
        automatic = options.pop("automatic", None)
        if automatic is None:
            checks.append(options)
            continue
        path, folder = folders[automatic]
        if folder is not None and "url" in options:
            checks.append({**_at_path(options, path), "file_below": str(folder)})
    checks.append(_certificate(application, "127.0.0.1", ca_file, chain=trusted, prefix=prefix))
    return checks


def outside_options(
    application: Application, *, address: str | None = None, ca_file: str | None = None, prefix: str = ""
) -> list[dict[str, Any]]:
    """Checks of one application from anywhere: its front door under its name (or at `address`), and the certificate."""
    door = Target.tcp(application.domain, 443, tls=True, address=address, ca_file=ca_file)
    found = application_options(application, door, through="front_door", release={}, prefix=prefix)
    checks = [options for options in found if "automatic" not in options]
    return [*checks, _certificate(application, address, ca_file, chain=True, prefix=prefix)]


def _certificate(
    application: Application, address: str | None, ca_file: str | None, *, chain: bool, prefix: str
) -> dict[str, Any]:
    certificate = {"type": "certificate", "name": f"{prefix}certificate", "host": application.domain, "chain": chain}
    certificate |= {"address": address} if address else {}
    return certificate | ({"ca_file": ca_file} if ca_file else {})


def health_command(
    layout: Layout,
    application: Application,
    live_release_id: str | None,
    *,
    as_json: bool = False,
    adapters: Adapters | None = None,
) -> tuple[int, str]:
    """`backstay health`: (exit code, text). 0 when all is well, 1 when something is not."""
    if live_release_id is None:
        reason = f"nothing of {application.name} is live: release a version"
        text = json.dumps({"application": application.name, "ok": False, "release_id": None, "reason": reason})
        return 1, text if as_json else f"{application.name}: {reason}"
    checks = parse_checks(host_options(application, layout), f"the checks of {application.name}")
    report = run_until(checks, adapters=adapters)
    code = 0 if report.ok else 1
    if as_json:
        found = {"application": application.name, "release_id": live_release_id, **report.to_dict()}
        return code, json.dumps(found, indent=2, ensure_ascii=False)
    verdict = "well" if report.ok else "NOT WELL"
    head = f"{application.name} {live_release_id}: {verdict}: {report.reason} ({report.seconds:.2f} s)"
    return code, "\n".join([head, *(f"  {line}" for line in report.lines())])
