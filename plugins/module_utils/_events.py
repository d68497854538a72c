"""What happened to an application and is told once: releases, rollbacks, restores, proofs that failed. Pure.

From the ledger and the catalogue, never from the process that did it: no release waits for a mail server.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ._ledger import Entry

NOTES = 20  # lines of the changelog, at most


@dataclass(frozen=True)
class Event:
    """One thing that happened. `id` is the same however often it is found."""

    id: str
    kind: str
    at: str
    subject: str
    lines: tuple[str, ...]


def of_ledger(name: str, entries: Iterable[Entry]) -> Iterator[Event]:
    """From entries of the ledger, in their order."""
    notes: dict[str, str] = {}
    withdrawn: dict[str, list[str]] = {}
    restored: set[str] = set()
    for entry in entries:
        data, release = entry.data, entry.release
        identifier = f"{name}-ledger-{entry.number}"
        transaction = str(data.get("transaction") or "")
        notes[release] = str(data.get("notes") or notes.get(release, ""))
        if entry.event == "withdrawn":
            withdrawn.setdefault(transaction, []).append(release)
        elif entry.event in ("restored", "returned"):
            what = data.get("restored") or {}
            restored.add(str(what.get("transaction")))
            back = entry.event == "returned"
            told = f"went back to the data {what.get('generation')}" if back else f"was given {what.get('point')}"
            yield Event(
                identifier,
                "restore",
                entry.time,
                f"{name}: data {'of before the restore are back' if back else 'restored'}",
                (
                    f"{name} {told}; what was there before stays beside it as {what.get('before')}.",
                    *_who(str(what.get("by") or ""), str(what.get("why") or "")),
                    f"The way back: backstay restore --undo {name}",
                ),
            )
        elif entry.event == "live" and transaction not in restored:
            gone = withdrawn.get(transaction, [])
            who = _who(str(data.get("live_by") or ""), str(data.get("live_why") or ""))
            before = data.get("before")
            if gone:
                subject = f"{name}: rolled back to {release}"
                lines = (f"{release} is live again; withdrawn: {', '.join(gone)}.", *who)
                yield Event(identifier, "rollback", entry.time, subject, (*lines, f"See: backstay history {name}"))
            else:
                after = f" after {before}" if before else ""
                subject = f"{name}: {release} is live"
                way = (f"The way back: backstay rollback {name}",) if before else ()
                new = tuple(line for line in notes[release].splitlines() if line.strip())[:NOTES]
                lines = (f"{release} is live{after}.", *who, *new, *way)
                yield Event(identifier, "release", entry.time, subject, lines)
        elif entry.event == "failed":
            reason = str(data.get("reason") or "no reason given")
            lines = (f"{release} did not become live: {reason}", f"See: backstay history {name}")
            yield Event(identifier, "release", entry.time, f"{name}: the release of {release} failed", lines)

        elif entry.event == "reviewed":
            subject, *rest = str(data.get("summary") or f"{release}: its day is over").splitlines()
            yield Event(identifier, "release", entry.time, subject, (subject, *rest))


def of_catalogue(name: str, entries: Iterable[Entry]) -> Iterator[Event]:
    """Proofs that failed, from the catalogue of restore points."""
    for entry in entries:
        if entry.event in ("refuted", "unproven"):
            reason = str(entry.data.get("reason") or "no reason given")
            said = "does not hold what it should" if entry.event == "refuted" else "could not be proven"
            where = entry.data.get("repository") or "its repository"
            lines = (
                f"The restore point {entry.release} in {where} {said}: {reason}",
                f"See: backstay backups --evidence {name}; then: backstay verify {name}",
            )
            subject = f"{name}: a proof failed ({entry.release})"
            yield Event(f"{name}-catalogue-{entry.number}", "proof", entry.time, subject, lines)


def _who(by: str, why: str) -> tuple[str, ...]:
    said = (f"By {by}." if by else "") + (f" Why: {why}" if why else "")
    return (said.strip(),) if said else ()
