"""What is so on this host: the facts behind `status`, `history` and `release_info`, and their text for people."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from typing import Any

from . import _freeze
from ._cells import STATES, TITLES, WORDS, Row, needs
from ._engine import Engine
from ._errors import BackstayError
from ._fleet_host import facts as fleet_facts
from ._ledger import Entry
from ._releases import History, Release, must_run, rollback_target

FORMAT = 1
_RESTORED = ("point", "generation", "before", "by", "why")


def role_of(release: Release, live: str | None, warm: str | None) -> str:
    """What a release is now: live and warm follow from the link, the rest from the ledger."""
    if release.id == live:
        return "live"
    if release.id == warm:
        return "warm"
    return "retained" if release.state == "live" else release.state


def describe(release: Release, live: str | None, warm: str | None) -> dict[str, Any]:
    """One release as a plain dictionary, for --json and for modules."""
    data = release.data
    return {
        "id": release.id,
        "version": release.version,
        "state": role_of(release, live, warm),
        "since": release.since,
        "by": data.get("live_by") or data.get("by", ""),
        "why": data.get("live_why") or data.get("why", ""),
        "commit": data.get("commit", ""),
        "payload": data.get("payload", ""),
        "signed_by": data.get("signed_by", ""),
        "reason": data.get("reason", "") if release.state in ("failed", "withdrawn") else "",
        "notes": data.get("notes", ""),
        "overridden": {
            gate: data[f"override_{gate}"] for gate in ("promotion", "freeze", "backup") if data.get(f"override_{gate}")
        },
        "verdict": (data.get("verdict") or {}).get("verdict", ""),
        "probes": data.get("probes"),
        "configuration_only": bool(data.get("configuration_only")),
        "migrations": list(data.get("migrations_applied", [])),
    }


def facts(engine: Engine) -> dict[str, Any]:
    """Everything `status` says about one application."""
    live = engine.live()
    history = engine.history()
    running = must_run(history, live)
    units = list(engine.systemd.units_of(engine.layout.name))
    states = engine.systemd.states(units)
    wanted = {engine.web_unit(release): release for release in (live, running.warm) if release}
    target = rollback_target(history, live)
    warm_unit = engine.web_unit(running.warm) if running.warm else ""
    failed = [release for release in history.ordered() if release.state == "failed"]
    return {
        "format": FORMAT,
        "application": engine.layout.name,
        "live": _described(history, live, running.warm),
        "warm": _described(history, running.warm, running.warm),
        "warm_running": states.get(warm_unit) == "active",
        "rollback_target": target.id if target else None,
        "last_failed": describe(failed[-1], live, running.warm) if failed else None,
        "processes": {unit: states.get(unit, "unknown") for unit in sorted({*units, *wanted})},
        "maintenance": engine.layout.maintenance_flag.exists(),
        "rebuilding": (engine.storage.read(engine.layout.rebuilding) or b"").decode().strip(),  # what ends that
        "configuration_changed": engine.configuration_changed(),
        "freeze": _freeze_of(engine),
        "transaction_open": engine.layout.journal.exists(),
        "backup": _backup_of(engine),
        "fleet": fleet_facts(engine),
        "releases": [describe(release, live, running.warm) for release in history.ordered()],
        "restores": restores(engine.ledger.read()),
    }


def restores(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """Each time that data were brought back, or those from before that, oldest first; from the ledger. Pure."""
    return [
        {
            "at": entry.time,
            "event": entry.event,
            "release": entry.release,
            **{key: (entry.data.get("restored") or {}).get(key, "") for key in _RESTORED},
        }
        for entry in entries
        if entry.event in ("restored", "returned")
    ]


def _backup_of(engine: Engine) -> dict[str, Any] | None:
    """What is so about restore points; a catalogue that cannot be read must not hide the rest."""
    try:
        declared = engine.application()
        if declared.backup is None:
            return None
        from ._backup_status import backup_facts

        return backup_facts(engine.layout, engine.storage, declared)
    except BackstayError as broken:
        return {"newest": None, "points": 0, "repositories": {}, "problems": [broken.message]}


def _freeze_of(engine: Engine) -> dict[str, str] | None:
    """The freeze that holds now; None where there is none, or it is over."""
    freeze = _freeze.read(engine.layout, engine.storage)
    if freeze is None or freeze.until <= engine.now():
        return None
    return {"until": freeze.until, "why": freeze.why, "by": freeze.by}


def _described(history: History, release: str | None, warm: str | None) -> dict[str, Any] | None:
    if release is None:
        return None
    # What the link names serves, whether or not the ledger still knows it.
    known = history.get(release) or Release(release, release.partition("-")[2], "live", "")
    return describe(known, release if release != warm else None, warm)


def sentence(found: dict[str, Any], row: Row) -> str:
    """What is so about an application, in one sentence with the command that helps: the worst of its row."""
    live, coming = found["live"], found.get("rebuilding")
    if live is None and coming:
        return (
            "its rebuild ended before anything was live: mend what it said, then run it again (`backstay rebuild "
            "--offline-key FILE`)"
        )
    if live is None:
        return "nothing is live yet: release a version"
    web = next(
        (state for unit, state in found["processes"].items() if unit.endswith(f"-{live['id']}-web.service")), "gone"
    )
    if web != "active":
        return f"{live['id']} is live and its web process is {web}: `backstay rollback`, or `backstay recover`"
    if coming:
        return f"it is being rebuilt and its data are still to come: `{coming}` brings them and opens the door"
    if found["maintenance"]:
        return "maintenance is on: `backstay maintenance off` opens the door again"
    bad = [unit for unit, state in found["processes"].items() if state in ("failed", "gone", "inactive")]
    if bad:
        return f"{bad[0]} is {found['processes'][bad[0]]}: `journalctl -u {bad[0]}`, then `backstay recover`"
    if found["transaction_open"]:
        return "a transaction is open: see `backstay history`, or wait for it"
    if found["configuration_changed"]:
        return "the configuration declared here differs from the live release's: release it"
    if found["backup"] and found["backup"]["problems"]:
        return str(found["backup"]["problems"][0])
    return row.why or "all is well"


def status_text(found: dict[str, Any], row: Row, *, now: datetime.datetime | None = None) -> str:
    """At most twenty lines for a person: the verdict, what needs somebody, the releases, and every cell in a word."""
    word = "" if row.state == "green" else f"{WORDS[row.state]}: "
    lines = [f"{found['application']}: {word}{sentence(found, row)}"]
    lines += [
        f"  {WORDS[need['state']] + '!':<8} {need['title'].lower()}: {need['why'][:110]}"
        + (f"; {need['command']}" if need["command"] else "")
        for need in needs([row])
    ]
    lines += _releases_text(found, now)
    if found["backup"]:
        from ._backup_status import backup_lines

        lines += backup_lines(found["backup"])[:2]
    if found["freeze"]:
        freeze = found["freeze"]
        lines.append(f"  releases are frozen until {freeze['until']} by {freeze['by']}: {freeze['why']}")
    if found["last_failed"]:
        failed = found["last_failed"]
        lines.append(f"  failed   {failed['id']}  {failed['since'][:19]}Z: {failed['reason'][:160]}")
    states = list(found["processes"].items())
    idle = [f"{unit} is {state}" for unit, state in states if state != "active"]
    lines.append(
        f"  run      {len(states) - len(idle)} of {len(states)} processes" + "".join(f"; {each}" for each in idle[:2])
    )
    for state in STATES:
        cells = [cell for cell in row.cells if cell.state == state]
        if cells:
            told = ", ".join(
                TITLES[cell.name].lower() + (f" {cell.value}" if state == "green" else "") for cell in cells
            )
            lines.append(f"  {WORDS[state]:<8} {told}")
    return "\n".join(lines[:20])


def _releases_text(found: dict[str, Any], now: datetime.datetime | None) -> list[str]:
    lines = []
    for title in ("live", "warm"):
        release = found[title]
        if release is None:
            lines.append(f"  {title:<8} none")
            continue
        commit = f", commit {release['commit'][:10]}" if release["commit"] else ""
        who = f" by {release['by']}" if release["by"] else ""
        lines.append(
            f"  {title:<8} {release['id']}  since {release['since'][:19]}Z ({_ago(release['since'], now)}){who}{commit}"
        )
    target = found["rollback_target"]
    lines.append(f"  rollback {'goes to ' + target if target else 'has nothing to go to'}")
    day = found.get("watched")
    if day:
        fresh = day["new_errors"]
        told = f"{len(fresh)} kinds of error that {day['before']} did not have:" if fresh else "no new kinds of error"
        lines.append(f"  watched  until {day['until']} beside {day['before']}; {told}")
        lines += [f"    {kind['sentence'][:150]}" for kind in fresh[:3]]
    return lines


def _ago(stamp: str, now: datetime.datetime | None) -> str:
    if not stamp:
        return "the ledger does not say"
    moment = datetime.datetime.fromisoformat(stamp)
    seconds = int(((now or datetime.datetime.now(datetime.UTC)) - moment).total_seconds())
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {name} ago"
    return f"{max(seconds, 0)} s ago"


def history_text(found: dict[str, Any]) -> str:
    """A table of all releases, the newest first; and one of the restores, where there were any."""
    rows = [("RELEASE", "STATE", "SINCE", "BY", "WHY, OR WHAT WENT WRONG")]
    for release in reversed(found["releases"]):
        note = release["reason"] or release["why"] or ("configuration" if release["configuration_only"] else "")
        rows.append((release["id"], release["state"], release["since"][:19] + "Z", release["by"], note[:100]))
    if not found.get("restores"):
        return _table(rows)
    restored = [("DATA", "CAME FROM", "SINCE", "BY", "WHY")]
    for each in reversed(found["restores"]):
        origin = f"back from {each['before']}" if each["event"] == "returned" else each["point"]
        restored.append((each["generation"], origin, each["at"][:19] + "Z", each["by"], each["why"][:100]))
    return f"{_table(rows)}\n\n{_table(restored)}"


def _table(rows: Sequence[tuple[str, str, str, str, str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join("  ".join([*(row[i].ljust(widths[i]) for i in range(4)), row[4]]).rstrip() for row in rows)
