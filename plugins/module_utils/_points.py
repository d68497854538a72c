"""Which restore point somebody means: `latest`, a run, a time, or `release:<id>`. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence

from ._catalogue import Copy, Point, restored
from ._errors import InputError


def choose(
    points: Sequence[Point], wanted: str, *, of_releases: Mapping[str, str], repository: str | None = None
) -> tuple[Point, Copy]:
    """The point, and the copy of it in `repository`; without a name, the one that is proven best. `points` are in the
    order of the chain; `of_releases` says by release which run was made before it.

    A time means the newest point not after it. Raises InputError, saying what there is.
    """
    point = _chosen(points, wanted, of_releases)
    if not repository:
        copy = point.best
        if copy is None:
            raise InputError(f"No repository has the restore point {point.run} any more: choose another.")
        return point, copy
    named = point.repositories.get(repository)
    if named is None or not named.good:
        there = [each.run for each in points if repository in each.repositories and each.repositories[repository].good]
        newest = f"the newest that counts there is {there[-1]}" if there else "none that counts is there"
        why = f" ({named.refuted.rstrip('.')})" if named and named.refuted else ""
        raise InputError(
            f"The repository {repository} does not hold the restore point {point.run}{why}, which is in "
            f"{', '.join(copy.repository for copy in point.good_copies)}: name that one, or another point; {newest}."
        )
    return point, named


def to_prove(points: Sequence[Point], wanted: str, repositories: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The run and the repository that a proof is about where nobody names one: of the repositories (in the order of the
    application's file) the one where any was restored and compared longest ago, the one where none ever was first. Then
    the others, for where that one is away. `latest` is the newest that the repository itself holds.

    Whether that proof held does not matter here: one that is rotten would else take every night, and the next one none.
    Raises InputError, saying what there is.
    """
    point = _chosen(points, wanted, {})
    among = points if wanted == "latest" else (point,)
    held = {name: each.run for each in among for name, copy in each.repositories.items() if copy.good}
    there = [name for name in repositories if name in held]
    if not there:
        raise InputError(
            f"The restore point {point.run} is in {', '.join(copy.repository for copy in point.good_copies)}, which "
            "the application's file does not name any more: declare it again, or choose another point "
            "(`backstay backups`)."
        )
    return tuple((held[name], name) for name in sorted(there, key=lambda name: restored(points, name).at))


def _chosen(points: Sequence[Point], wanted: str, of_releases: Mapping[str, str]) -> Point:
    good = [point for point in points if point.good]
    if not good:
        raise InputError("There is no restore point that could be restored: see `backstay status`, then back up.")
    if wanted == "latest":
        return good[-1]
    if wanted.startswith("release:"):
        release = wanted.partition(":")[2]
        run = of_releases.get(release)
        if run is None:
            known = ", ".join(of_releases) or "none"
            raise InputError(f"No restore point was made before {release!r}; releases that have one: {known}.")
        return _named(points, run)
    if any(point.run == wanted for point in points):
        return _named(points, wanted)
    moment = _moment(wanted)
    if moment is None:
        newest = ", ".join(point.run for point in good[-3:])
        raise InputError(
            f"{wanted!r} is no restore point: write latest, a run (the newest are {newest}), a time such as "
            "2026-11-21T02:00:00Z, or release:<id>."
        )
    earlier = [point for point in good if (_moment(point.at) or moment) <= moment]
    if not earlier:
        raise InputError(f"No restore point is as old as {wanted}: the oldest is {good[0].run} of {good[0].at}.")
    return max(earlier, key=lambda point: (point.at, point.sequence))


def _named(points: Sequence[Point], run: str) -> Point:
    point = next((each for each in points if each.run == run), None)
    if point is None or not point.good:
        why = (point.refuted or point.failed or "it has expired") if point else "the catalogue does not know it"
        raise InputError(f"The restore point {run} cannot be restored: {why}; choose another (`backstay backups`).")
    return point


def _moment(text: str) -> dt.datetime | None:
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.astimezone()
