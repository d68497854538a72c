"""Pure: which restore points of a repository stay, and why; how long data that were deleted survive in them.

The order is that of the catalogue's chain, never that of the clock alone: a point whose date does not fit its place in
the chain (after now, or before the date of one that came earlier) takes no day, week or month away from any other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING

from ._backup_settings import BackupPolicy, Keep

if TYPE_CHECKING:
    from ._releases import History

JUMP_DAYS = 30  # between two points: more looks like a clock that jumped


@dataclass(frozen=True)
class Candidate:
    """A restore point as one repository has it. `at` is UTC ISO 8601, `sequence` its place in the catalogue's chain.

    `good`: stored whole, sealed and never refuted. `level`: the highest it was proven to. `needed`: who needs it, such
    as `release 0003-1.2.0`. `accepted`: a person saw that it holds less than the one before. `rows` and `size_bytes`
    are of all databases, and of databases and media, `databases` the rows of each, `files` the number of the media's
    files; None where that is not known.
    """

    run: str
    at: str
    sequence: int
    good: bool = True
    level: int = 0
    needed: str | None = None
    accepted: bool = False
    rows: int | None = None
    size_bytes: int | None = None
    databases: Mapping[str, int] | None = None
    files: int | None = None


@dataclass(frozen=True)
class Decision:
    """What stays (by run, with the reason), what may go, and why nothing goes where it is held back."""

    keep: Mapping[str, str]
    expire: tuple[str, ...]
    held_back: str | None = None


def keep(points: Sequence[Candidate], policy: Keep, now: str, *, shrink_ratio: float = 0.5) -> Decision:
    """What stays in a repository of what it has.

    Kept are the newest good point, the last one of the highest level proven, whatever is needed, all that are younger
    than `within_days`, and the newest good one of as many days, weeks (ISO) and months as the policy says; only days
    that have a good point count. What was refuted, or never finished, goes when a good one came after it. After an
    anomalous shrink, or a jump of the clock where age decides, nothing goes until a person accepts it; nor while the
    clock is behind the newest good point.
    """
    chain = sorted(points, key=lambda point: point.sequence)
    good = [point for point in chain if point.good]
    reasons: dict[str, str] = {}
    for point, reason in (*_always(chain, good), *_by_date(good, policy, now)):
        reasons.setdefault(point.run, reason)
    newest = good[-1].sequence if good else 0
    for point in chain:
        if not point.good and point.sequence > newest:
            reasons.setdefault(point.run, "not good, and no good one came after it")
    expire = tuple(point.run for point in chain if point.run not in reasons)
    held = _shrink(good, shrink_ratio) or _behind(good, now) or _jump(good, policy, now)
    if held is None:
        return Decision(reasons, expire)
    return Decision(reasons | dict.fromkeys(expire, "held back"), (), held)


def _always(chain: Sequence[Candidate], good: Sequence[Candidate]) -> Iterator[tuple[Candidate, str]]:
    if good:
        yield good[-1], "the newest good one"
        best = max(point.level for point in good)
        if best > 0:
            yield [point for point in good if point.level == best][-1], f"the last one proven to level {best}"
    for point in chain:
        if point.needed:
            yield point, f"needed by {point.needed}"


def _by_date(good: Sequence[Candidate], policy: Keep, now: str) -> Iterator[tuple[Candidate, str]]:
    kept: set[str] = set()
    dated: set[str] = set()
    for reading in _readings(good, now):
        dated |= {point.run for point in reading}
        for point, reason in _of_reading(reading, policy):
            kept.add(point.run)
            yield point, reason
    # A date that fits nowhere takes nobody's place; the point goes when all that came before it have gone.
    before = after_kept = False
    for point in good:
        if point.run in dated:
            before, after_kept = True, after_kept or point.run in kept
        elif after_kept or not before:
            yield point, "its date does not fit its place in the chain"


def _of_reading(reading: Sequence[Candidate], policy: Keep) -> Iterator[tuple[Candidate, str]]:
    if reading:
        yield reading[-1], "the newest good one with a date that fits"
        latest = _time(reading[-1].at)
        for point in reading:
            if latest - _time(point.at) < timedelta(days=policy.within_days):
                yield point, f"younger than {policy.within_days} days"
    for what, count, name in _PERIODS:
        newest = {name(_time(point.at)): point for point in reading}  # in the order of the chain: the last one stays
        for label in list(newest)[-getattr(policy, count) :] if getattr(policy, count) else ():
            yield newest[label], f"the newest of {what} {label}"


_PERIODS: tuple[tuple[str, str, Callable[[datetime], str]], ...] = (
    ("day", "daily", lambda at: at.strftime("%Y-%m-%d")),
    ("week", "weekly", lambda at: "{}-W{:02d}".format(*at.isocalendar()[:2])),
    ("month", "monthly", lambda at: at.strftime("%Y-%m")),
)


def _time(at: str) -> datetime:
    found = datetime.fromisoformat(at)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _readings(good: Sequence[Candidate], now: str) -> tuple[list[Candidate], ...]:
    """The good points whose dates fit one another, in one or two readings; what either keeps, stays.

    Of two points in the wrong order the earlier one may have been dated ahead, or the later one back. The first
    reading believes the earlier; the second leaves out whatever contradicts most others, which is what a clock that ran
    ahead for a while leaves.
    """
    past = [point for point in good if _time(point.at) <= _time(now)]
    first: list[Candidate] = []
    for point in past:
        if not first or _time(point.at) >= _time(first[-1].at):
            first.append(point)
    if len(first) == len(past):
        return (first,)
    return first, _voted(past)


def _voted(points: Sequence[Candidate]) -> list[Candidate]:
    times = {point.run: _time(point.at) for point in points}
    left = list(points)
    while True:
        against = [0] * len(left)
        for later, point in enumerate(left):
            for earlier in range(later):
                if times[left[earlier].run] > times[point.run]:
                    against[earlier] += 1
                    against[later] += 1
        worst = max(against, default=0)
        if worst == 0:
            return left
        del left[len(against) - 1 - against[::-1].index(worst)]  # of equals the later one


def _shrink(good: Sequence[Candidate], ratio: float) -> str | None:
    for before, after in pairwise(good):
        for what, seen, expected in () if after.accepted else _counted(before, after):
            if seen is not None and expected and (seen == 0 or seen < ratio * expected):
                return (
                    f"The restore point {after.run} has {seen} {what} and the one before it, {before.run}, has "
                    f"{expected}: nothing expires until somebody has looked; if that is right, run `backstay backup "
                    "--accept-shrink`."
                )
    return None


def _counted(before: Candidate, after: Candidate) -> Iterator[tuple[str, int | None, int | None]]:
    """What is in both: each database by itself, for one that was emptied is nothing beside the rows of a larger one."""
    if before.databases is not None and after.databases is not None:
        for name, rows in before.databases.items():
            yield f"rows in the database {name}", after.databases.get(name, 0), rows
    yield "files of media", after.files, before.files
    yield "rows", after.rows, before.rows
    yield "bytes", after.size_bytes, before.size_bytes


def _behind(good: Sequence[Candidate], now: str) -> str | None:
    """A clock before its own newest point would judge the others without it."""
    if not good or _time(good[-1].at) <= _time(now):
        return None
    return (
        f"The clock shows {now}, and the newest restore point {good[-1].run} is of {good[-1].at}: one of them is "
        "wrong, and nothing expires until they agree; see `timedatectl`, then make a backup."
    )


def _jump(good: Sequence[Candidate], policy: Keep, now: str) -> str | None:
    """Where age decides, a clock that ran ahead would make everything old."""
    if policy.within_days:
        for before, after in pairwise(_readings(good, now)[0]):
            days = (_time(after.at) - _time(before.at)).days
            if days > JUMP_DAYS and not after.accepted:
                return (
                    f"Between the restore points {before.run} and {after.run} are {days} days, as if a clock had "
                    "jumped: nothing expires until somebody has looked; if that is right, run `backstay backup "
                    "--accept-shrink`."
                )
    return None


# how long deleted data survive


def policy_of(policy: BackupPolicy, repository: str) -> Keep:
    """What counts for one repository: its own choice, or that of the application."""
    return policy.repositories[repository].keep or policy.keep


def needed_by(history: History) -> dict[str, str]:
    """Who needs which restore point, by run: a release that is still there can be gone back from."""
    return {
        str(release.data["backup_run"]): f"the release {release.id}"
        for release in history.ordered()
        if release.data.get("backup_run") and release.state not in ("pruned", "failed")
    }


def greatest_age_days(
    policy: BackupPolicy,
    oldest_days: Mapping[str, float] | None = None,
    endless: Collection[str] = (),
    versions_days: Mapping[str, int] | None = None,
) -> dict[str, int | None]:
    """How many days a deleted row can survive in the restore points of each repository, when a backup is made each day;
    None where nobody removes any (`endless`).

    The oldest point that the policy keeps is that of the last of so many days, weeks or months, or the oldest younger
    than `within_days`; it may be from the first day of its period's successor, and the row was deleted right after it.
    A point that is kept for longer (needed by a release, proven highest, held back, refused by the store) counts by how
    old it is: `oldest_days` says that of the oldest one in each repository. What has gone from a bucket that keeps
    versions is there for `versions_days` more.
    """
    found: dict[str, int | None] = {}
    for name in policy.repositories:
        kept = policy_of(policy, name)
        days = max(kept.daily, kept.weekly * 7, kept.monthly * 31, kept.within_days) + 1
        oldest = ceil((oldest_days or {}).get(name, 0.0))
        found[name] = None if name in endless else max(days, oldest) + (versions_days or {}).get(name, 0)
    return found
