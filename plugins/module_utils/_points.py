"""Which restore point somebody means: `latest`, a run, a time, or `release:<id>`. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence

from ._catalogue import Copy, Point
from ._errors import InputError


def choose(points: Sequence[Point], wanted: str, *, of_releases: Mapping[str, str]) -> tuple[Point, Copy]:
    """The point, and the copy of it that is proven best. `points` are in the order of the chain; `of_releases` says by
    release which run was made before it.

    A time means the newest point not after it. Raises InputError, saying what there is.
    """
    good = [point for point in points if point.good]
    if not good:
        raise InputError("There is no restore point that could be restored: see `backstay status`, then back up.")
    if wanted == "latest":
        return _with_copy(good[-1])
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
    return _with_copy(max(earlier, key=lambda point: (point.at, point.sequence)))


def _named(points: Sequence[Point], run: str) -> tuple[Point, Copy]:
    point = next((each for each in points if each.run == run), None)
    if point is None or not point.good:
        why = (point.refuted or point.failed or "it has expired") if point else "the catalogue does not know it"
        raise InputError(f"The restore point {run} cannot be restored: {why}; choose another (`backstay backups`).")
    return _with_copy(point)


def _with_copy(point: Point) -> tuple[Point, Copy]:
    copy = point.best
    if copy is None:
        raise InputError(f"No repository has the restore point {point.run} any more: choose another.")
    return point, copy


def _moment(text: str) -> dt.datetime | None:
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.astimezone()
