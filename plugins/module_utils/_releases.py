"""Releases as data: ids, states, what is live, what must run, where a rollback goes, what may be pruned. All pure.

A release is known by its id `<seq>-<version>` (`0007-1.1.0`). What became of it is folded from the ledger:

    staged      reserved and being prepared
    live        serves, or served until something else went live (then: warm or retained, by derivation)
    failed      refused by a gate, or flipped back because it was bad or never confirmed
    withdrawn   left behind by a rollback; a bare rollback never returns to it
    pruned      its files are gone
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ._errors import InputError
from ._ledger import Entry
from ._migrations import MigrationVerdict, Verdict, WayBack, rollback_verdict

_ID = re.compile(r"(?P<seq>[0-9]{4,})-(?P<version>[0-9A-Za-z][0-9A-Za-z.~_-]*)")
# SemVer 2.0.0 without build metadata: a `+` has no place in a unit's name.
_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?")

EVENTS = ("staged", "live", "failed", "withdrawn", "pruned")


def check_version(version: str) -> str:
    """The version itself. Raises InputError unless it is SemVer without build metadata."""
    if not _VERSION.fullmatch(version):
        raise InputError(f"The version {version!r} is not MAJOR.MINOR.PATCH (such as 1.1.0 or 2.0.0-rc.1): correct it.")
    return version


def release_id(sequence: int, version: str) -> str:
    return f"{sequence:04d}-{version}"


def is_release_id(name: str) -> bool:
    return _ID.fullmatch(name) is not None


def sequence_of(identifier: str) -> int:
    """The number in a release id. Raises InputError for anything that is not one."""
    match = _ID.fullmatch(identifier)
    if not match:
        raise InputError(f"{identifier!r} is not a release id such as 0007-1.1.0: see `backstay history`.")
    return int(match["seq"])


@dataclass(frozen=True)
class Release:
    """One release as the ledger tells it. `proven` means that it was live and confirmed at least once."""

    id: str
    version: str
    state: str
    since: str
    proven: bool = False
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sequence(self) -> int:
        return sequence_of(self.id)


@dataclass(frozen=True)
class History:
    """All releases of an application, by id, in the order of their numbers."""

    releases: Mapping[str, Release] = field(default_factory=dict)

    def get(self, identifier: str | None) -> Release | None:
        return self.releases.get(identifier) if identifier else None

    @property
    def next_sequence(self) -> int:
        return max((release.sequence for release in self.releases.values()), default=0) + 1

    def ordered(self) -> tuple[Release, ...]:
        return tuple(sorted(self.releases.values(), key=lambda release: release.sequence))


def fold(entries: Iterable[Entry]) -> History:
    """What the ledger's entries say about each release; notes (events that are no state) only add their data."""
    releases: dict[str, Release] = {}
    for entry in entries:
        known = releases.get(entry.release)
        if known is None:
            version = entry.release.split("-", 1)[1] if "-" in entry.release else entry.release
            known = Release(entry.release, version, "staged", entry.time)
        data = {**known.data, **entry.data}
        if entry.event in EVENTS:
            proven = known.proven or entry.event == "live"
            known = replace(known, state=entry.event, since=entry.time, proven=proven, data=data)
        else:
            known = replace(known, data=data)
        releases[entry.release] = known
    return History(releases)


def running_part(application: Mapping[str, Any]) -> dict[str, Any]:
    """What of a declared application (as JSON) a running release depends on: how it is backed up and watched, and
    what it does at which time, is none of it."""
    apart = ("backup", "objectives", "alerts", "schedules")
    return {key: value for key, value in application.items() if key not in apart}


def rollback_target(history: History, live: str | None) -> Release | None:
    """Where a bare rollback goes: the newest release older than the live one that was live and proven and is neither
    failed nor withdrawn (nor pruned); None where there is none."""
    if live is None:
        return None
    here = sequence_of(live)
    eligible = [
        release
        for release in history.ordered()
        if release.sequence < here and release.proven and release.state == "live"
    ]
    return eligible[-1] if eligible else None


def named_target(history: History, live: str | None, name: str) -> Release:
    """The release that a person named by id or by version (then the newest of that version that can be gone to).

    Raises InputError, saying what there is, for a release unknown, live already, pruned, failed, or never proven.
    """
    choices = [r for r in history.ordered() if name in (r.id, r.version)]
    known = ", ".join(r.id for r in history.ordered() if _usable(r) and r.id != live) or "none"
    if not choices:
        raise InputError(f"There is no release {name!r} here; releases that can be gone back to: {known}.")
    usable = [r for r in choices if _usable(r) and r.id != live]
    if usable:
        return usable[-1]
    last = choices[-1]
    if last.id == live:
        raise InputError(f"Release {last.id} is live already; releases that can be gone back to: {known}.")
    why = {
        "pruned": "its files were pruned; release that version again",
        "failed": "it failed; release that version again when it is mended",
        "staged": "it was never live",
    }.get(last.state, "it was never proven live")
    raise InputError(f"Release {last.id} cannot be gone back to: {why}; releases that can: {known}.")


def _usable(release: Release) -> bool:
    return release.proven and release.state in ("live", "withdrawn")


def withdrawn_by(history: History, live: str | None, target: str) -> tuple[str, ...]:
    """The releases that going from `live` back to `target` withdraws: the one left behind and whatever was skipped.

    Going forward (to a newer release by name) withdraws nothing.
    """
    if live is None or sequence_of(target) >= sequence_of(live):
        return ()
    low, high = sequence_of(target), sequence_of(live)
    return tuple(r.id for r in history.ordered() if low < r.sequence <= high and r.state == "live")


def schema_ahead(history: History, left: Iterable[str], target: str) -> list[str]:
    """Migrations that a release being left knows and the target does not, in their order: they are in the database."""
    releases = history.releases
    known = set(releases[target].data.get("migrations_known", []))
    ahead = {name: None for release in left for name in releases[release].data.get("migrations_known", [])}
    return [name for name in sorted(ahead) if name not in known]


def way_back(
    history: History, live: str | None, target: str, *, now: str | None = None, points: Collection[str] = ()
) -> WayBack:
    """What going from `live` back to `target` needs, by the verdicts recorded when the migrations were applied.
    `points` are the ids of the restore points that are still on the host.

    A release of before verdicts were recorded counts as code only, as it did then.
    """
    left = withdrawn_by(history, live, target)
    recorded: dict[str, MigrationVerdict] = {}
    for release in history.ordered():
        for each in Verdict.from_dict(release.data["verdict"]).migrations if release.data.get("verdict") else ():
            recorded.setdefault(each.name, each)
    ahead = schema_ahead(history, left, target)
    order = [*(name for name in recorded if name in ahead), *(name for name in ahead if name not in recorded)]
    # Only the oldest has the data as the target knew them: a later one was taken when the schema had moved on.
    made = [history.releases[release].data for release in left if history.releases[release].data.get("restore_point")]
    at, point = min(((str(each["restore_point_at"]), str(each["restore_point"])) for each in made), default=("", ""))
    return rollback_verdict(order, recorded, restore_point=at if point in points else None, now=now)


@dataclass(frozen=True)
class Running:
    """What must run: the live release with all its processes, the warm one with its web process only."""

    live: str | None
    warm: str | None


def must_run(history: History, live: str | None) -> Running:
    """Derived from the link and the ledger, at the end of each transaction and at boot alike; never remembered."""
    target = rollback_target(history, live)
    # One that cannot live with the present schema would only fail: it is started when that is taken back.
    fits = target is not None and way_back(history, live, target.id).kind == "code"
    return Running(live, target.id if target and fits else None)


def prunable(history: History, live: str | None, *, keep: int, needed: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """Releases whose files may go, oldest first.

    The newest `keep` good releases (proven, neither failed nor withdrawn) stay; so do the live one, the warm one, and
    those in `needed` (a kept restore point). Failed, never finished and withdrawn releases do not count as good: a
    failed one lost its files when it was undone; a withdrawn one goes when it is older than every good one that stays,
    or than `keep` other withdrawn ones: whoever releases and rolls back all day must not fill the disk.
    """
    running = must_run(history, live)
    protected = {running.live, running.warm} | needed
    good = [r for r in history.ordered() if r.proven and r.state == "live"]
    kept = {r.id for r in good[-keep:]} if keep > 0 else set()
    oldest_kept = min((r.sequence for r in good if r.id in kept), default=0)
    withdrawn = [r for r in history.ordered() if r.state == "withdrawn" and r.sequence > oldest_kept]
    kept |= {r.id for r in withdrawn[-keep:]} if keep > 0 else set()
    gone = ("pruned", "failed")
    return tuple(r.id for r in history.ordered() if r.id not in protected | kept and r.state not in gone)
