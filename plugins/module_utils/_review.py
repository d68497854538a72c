"""The 24 hours after a release, in which people watch it: what `status` tells of them, and the summary at their end.

An hourly timer asks whether they are over; one that another release has replaced is summed up at once. The summary goes
into the ledger, once, from where it is told like a release, and to who released: by mail where they gave an address and
the host can send, and to the application's own commands (`hooks.on_review`).
"""

from __future__ import annotations

import contextlib
import datetime
import json
import time
from pathlib import Path
from typing import Any

from ._error_kinds import ErrorKind, closing_summary, kinds_since, new_kinds, units_of_release
from ._errors import BackstayError
from ._hooks import run_hooks
from ._host import Host
from ._releases import Release
from ._run import run

SECONDS = 86400.0
SENDMAIL = Path("/usr/sbin/sendmail")
RECENT_SECONDS = 60.0


def over_at(release: Release, seconds: float = SECONDS) -> str:
    """When a release is no longer watched, UTC ISO 8601."""
    end = datetime.datetime.fromisoformat(release.since) + datetime.timedelta(seconds=seconds)
    return end.strftime("%Y-%m-%dT%H:%M:%SZ")


def watched(engine: Host) -> dict[str, Any] | None:
    """What `status` tells of a release that is younger than a day; None for an older one and for the first."""
    release = engine.history().get(engine.live())
    if release is None or not release.data.get("before") or over_at(release) <= engine.now():
        return None
    return {
        "until": over_at(release),
        "before": release.data["before"],
        "watch": (release.data.get("watch") or {}).get("outcome", ""),
        "new_errors": _recent_errors(engine, release),
    }


def _recent_errors(engine: Host, release: Release) -> list[dict[str, Any]]:
    """The new kinds of error, looked for at most once a minute: reading journal and log takes seconds where many come,
    and whoever asks again and again must not wait for it each time."""
    path = engine.layout.seen_errors
    try:
        seen = json.loads(engine.storage.read(path) or b"")
        age = time.time() - float(seen["at"])
        if seen["release"] == release.id and 0 <= age < RECENT_SECONDS:
            return list(seen["errors"])
    except (ValueError, KeyError, TypeError):
        pass
    fresh, _known = _errors(engine, release)
    errors = [{**kind.to_dict(), "sentence": kind.sentence} for kind in fresh]
    found = {"at": time.time(), "release": release.id, "errors": errors}
    with contextlib.suppress(BackstayError):  # a full or missing /run costs speed alone
        engine.storage.write(path, json.dumps(found).encode(), mode=0o600)
    return errors


def _errors(engine: Host, release: Release) -> tuple[tuple[ErrorKind, ...], int]:
    """The kinds of error that the release before did not have, and how many others there are."""
    secrets = tuple(engine.secrets().values())
    before = kinds_since(engine.layout, str(release.data.get("before")), runner=engine.runner, secrets=secrets)
    staged = str(release.data.get("staged_at") or release.since)
    now = kinds_since(engine.layout, release.id, staged, engine.runner, secrets=secrets)
    fresh = new_kinds(before, now)
    return fresh, len(now) - len(fresh)


def review(engine: Host, *, after_seconds: float = SECONDS) -> dict[str, Any]:
    """Write the closing summary of the live release when its day is over and there is none yet; before that, of one
    that went within its day. The caller holds the review's lock. Returns `changed`, a message, and the summary."""
    name = engine.layout.name
    live = engine.history().get(engine.live())
    release = _left(engine, live) or live
    left = release is not live
    if release is None or (not left and release.data.get("reviewed") == release.since):
        told = "nothing is live" if release is None else f"{release.id} was reviewed"
        return {"changed": False, "message": f"{name}: {told}.", "summary": ""}
    if not left and over_at(release, after_seconds) > engine.now():
        told = f"{release.id} is watched until {over_at(release, after_seconds)}"
        return {"changed": False, "message": f"{name}: {told}.", "summary": ""}
    data = release.data
    fresh, known = _errors(engine, release)
    summary = closing_summary(
        name,
        release.id,
        data.get("before"),
        by=str(data.get("live_by", "")),
        why=str(data.get("live_why", "")),
        since=str(data.get("staged_at") or release.since) if left else release.since,
        left=left,
        verdict="; ".join((data.get("watch") or {}).get("reasons", [])),
        probes=data.get("probes"),
        restarts=_restarts(engine, release.id),
        fresh=fresh,
        known=known,
    )
    told = deliver(engine, release, summary)
    engine.ledger.append("reviewed", release.id, reviewed=release.since, summary=summary, delivered=told)
    return {"changed": True, "message": f"{name}: the review of {release.id} went to {told}.", "summary": summary}


def _left(engine: Host, live: Release | None) -> Release | None:
    """The oldest of those that another release replaced, in the last two days, before anything was summed up."""
    now = datetime.datetime.fromisoformat(engine.now())

    def due(release: Release) -> bool:
        age = (now - datetime.datetime.fromisoformat(release.since)).total_seconds()
        here = release.proven and release.state in ("live", "withdrawn") and release != live
        return here and bool(release.data.get("before")) and "reviewed" not in release.data and age < 2 * SECONDS

    return next(filter(due, engine.history().ordered()), None)


def _restarts(engine: Host, release: str) -> dict[str, int]:
    found = {}
    for unit in units_of_release(engine.layout, release):
        count = int(engine.systemd.properties(unit, "NRestarts").get("NRestarts") or 0)
        if count:
            found[unit] = count
    return found


def deliver(engine: Host, release: Release, summary: str) -> str:
    """Send the summary; returns to whom. What cannot be delivered is told and stays in the ledger."""
    told = ["the ledger"]
    to = str(release.data.get("live_by", ""))
    first = summary.splitlines()[0]
    if "@" in to and "\n" not in to and SENDMAIL.exists():
        text = f"To: {to}\nSubject: {first}\nContent-Type: text/plain; charset=utf-8\n\n{summary}\n"
        sent = run([str(SENDMAIL), "-t", "-i"], stdin=text, timeout_seconds=60.0, check=False)
        if sent.ok:
            told.append(to)
        else:
            engine.say(f"the review could not be mailed to {to}: {' '.join(sent.last_lines(1)) or 'no reason given'}")
    application = engine.application(release.id)
    if application.hooks.on_review:
        try:
            run_hooks(
                application,
                "on_review",
                release=release.id,
                unit=f"backstay-hook-{engine.layout.name}-review.service",
                facts={"release": release.id, "by": to, "summary": summary},
                runner=engine.runner,
                secrets=tuple(engine.secrets().values()),
                environment=engine.layout.release(release.id) / "venv",
                say=engine.say,
            )
            told.append("hooks.on_review")
        except BackstayError as failed:
            engine.say(failed.message)
    return ", ".join(told)
