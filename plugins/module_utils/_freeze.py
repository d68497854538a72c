"""A release freeze: until when nothing is released, why, and who said so. Rollbacks are never frozen."""

from __future__ import annotations

import datetime
import json
from dataclasses import asdict, dataclass

from ._errors import BackstayError, InputError
from ._layout import Layout
from ._storage import Storage, canonical

FORMAT = 1


@dataclass(frozen=True)
class Freeze:
    """Times are UTC ISO 8601."""

    until: str
    why: str
    by: str
    since: str
    format: int = FORMAT


def moment(text: str) -> str:
    """A date or time as a person writes it, as UTC ISO 8601; without a zone it is UTC. Raises InputError."""
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError as wrong:
        raise InputError(
            f"{text!r} is no date or time: write it as 2026-12-27 or 2026-12-27T08:00:00Z (UTC)."
        ) from wrong
    if found.tzinfo is None:
        found = found.replace(tzinfo=datetime.UTC)
    return found.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read(layout: Layout, storage: Storage) -> Freeze | None:
    """The freeze that was declared on this host, also one that is over. Raises BackstayError for an unreadable one."""
    content = storage.read(layout.freeze)
    if content is None:
        return None
    try:
        value = json.loads(content)
        return Freeze(str(value["until"]), str(value["why"]), str(value["by"]), str(value["since"]))
    except (ValueError, KeyError, TypeError) as broken:
        raise BackstayError(
            f"{layout.freeze} cannot be read, so nothing is released: declare the freeze again, or end it with "
            f"`backstay thaw {layout.name}`."
        ) from broken


def declare(layout: Layout, storage: Storage, freeze: Freeze) -> bool:
    """Write it down; False when the same one stands already."""
    before = read(layout, storage)
    if before and (before.until, before.why) == (freeze.until, freeze.why):
        return False
    storage.write(layout.freeze, canonical(asdict(freeze)) + b"\n", mode=0o600)
    return True


def end(layout: Layout, storage: Storage) -> bool:
    """Take it away; False when there was none."""
    was = layout.freeze.exists()
    storage.remove(layout.freeze)
    return was


def refusal(freeze: Freeze | None, *, now: str, name: str) -> str | None:
    """Why nothing is released now; None when nothing forbids it."""
    if freeze is None or freeze.until <= now:
        return None
    return (
        f"Releases of {name} are frozen until {freeze.until} by {freeze.by} ({freeze.why}): wait, or release with "
        'override_freeze="the reason" (--override-freeze), which goes into the ledger; a rollback is never frozen.'
    )
