"""The lifecycle rules of buckets that hold repositories: asked when a backup runs, remembered for `status`.

A bucket that removes objects by itself takes pieces out of restore points that are kept, and restic would tell only
when they are read. What is remembered are the rules and not a verdict, so that a changed declaration is judged at once.
Asking never fails: that a store is away, or may not be asked, is remembered as such.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ._errors import BackstayError
from ._s3 import Rule, lifecycle, lifecycle_findings
from ._storage import Storage, canonical

if TYPE_CHECKING:
    from ._backup_settings import RepositorySettings
    from ._layout import Layout

FORMAT = 1

Ask = Callable[[str, Mapping[str, Any]], tuple[Rule, ...]]


@dataclass(frozen=True)
class Asked:
    """What one bucket answered last. `at` is UTC ISO 8601; `problem` is why it did not answer when it was last asked:
    then the rules are those of the time before."""

    location: str
    at: str
    rules: tuple[Rule, ...] = ()
    problem: str = ""


def look(
    layout: Layout,
    storage: Storage,
    repositories: Mapping[str, tuple[RepositorySettings, Mapping[str, Any]]],
    *,
    at: str,
    ask: Ask = lifecycle,
) -> dict[str, Asked]:
    """Ask every bucket among the repositories (settings and secrets by name), remember the answers and return them.

    Raises BackstayError only where they cannot be written down.
    """
    before = remembered(layout, storage)
    found = {
        name: _asked(settings.location, secrets, before.get(name), at, ask)
        for name, (settings, secrets) in repositories.items()
        if settings.kind == "s3"
    }
    if found:
        everything = {**before, **found}  # also those of a store that is away, whom nobody asks now
        content = {"format": FORMAT, "repositories": {name: asdict(each) for name, each in everything.items()}}
        storage.write(layout.bucket_rules, canonical(content) + b"\n", mode=0o600)
    return found


def _asked(location: str, secrets: Mapping[str, Any], before: Asked | None, at: str, ask: Ask) -> Asked:
    """Who may only write may often not ask for the rules; who may prune often may."""
    prune = secrets.get("prune")
    problem = ""
    for given in (secrets, {**secrets, **prune}) if isinstance(prune, Mapping) else (secrets,):
        try:
            return Asked(location, at, ask(location, given))
        except BackstayError as refused:
            problem = refused.message
    known = before.rules if before is not None and before.location == location else ()
    return Asked(location, at, known, problem)


def remembered(layout: Layout, storage: Storage) -> dict[str, Asked]:
    """What was answered last, by repository; nothing where nobody asked, or where it cannot be read."""
    try:
        value = json.loads(storage.read(layout.bucket_rules) or b"{}")
        if value.get("format") != FORMAT:
            return {}
        return {
            str(name): Asked(
                str(each["location"]),
                str(each["at"]),
                tuple(Rule(**rule) for rule in each["rules"]),
                str(each.get("problem", "")),
            )
            for name, each in value["repositories"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def findings(known: Mapping[str, Asked], repositories: Mapping[str, RepositorySettings]) -> tuple[str, ...]:
    """Sentences about rules that would remove what a repository needs, against what is declared now. Pure."""
    return tuple(
        sentence
        for name, settings in repositories.items()
        if name in known and known[name].location == settings.location and _answered(known[name])
        for sentence in lifecycle_findings(
            settings.location, known[name].rules, expire_uploads_days=settings.expire_uploads_days
        )
    )


def _answered(asked: Asked) -> bool:
    """Of a bucket that never answered nobody knows that it has no rule."""
    return not asked.problem or bool(asked.rules)


def unknown(known: Mapping[str, Asked]) -> tuple[str, ...]:
    """A sentence for each bucket that did not say which rules it has. Pure."""
    return tuple(
        f"{name}: whether the bucket removes objects by itself is not known: {asked.problem}"
        for name, asked in known.items()
        if asked.problem
    )


def sentences(known: Mapping[str, Asked], repositories: Mapping[str, RepositorySettings]) -> Sequence[str]:
    """All that a person should know after the buckets were asked."""
    return (*findings(known, repositories), *unknown(known))
