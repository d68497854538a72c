"""The lifecycle rules of buckets that hold repositories, and whether they keep versions: asked when a backup runs,
remembered for `status`.

A bucket that removes objects by itself takes pieces out of restore points that are kept, and restic would tell only
when they are read. One that keeps versions keeps what a repository lets go of, too. What is remembered are the
rules and not a verdict, so that a changed declaration is judged at once. Asking never fails: that a store is away, or
may not be asked, is remembered as such.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ._errors import BackstayError
from ._s3 import Rule, lifecycle, lifecycle_findings, old_version_days, versioning
from ._storage import Storage, canonical

if TYPE_CHECKING:
    from ._backup_settings import RepositorySettings
    from ._layout import Layout

FORMAT = 1
Versions = Literal["none", "for a time", "without end", "not known"]

_Answer = TypeVar("_Answer")
Ask = Callable[[str, Mapping[str, Any]], tuple[Rule, ...]]
AskVersions = Callable[[str, Mapping[str, Any]], bool]


@dataclass(frozen=True)
class Asked:
    """What one bucket answered last. `at` is UTC ISO 8601; `problem` is why it did not answer when it was last asked:
    then the rules are those of the time before. `versioned` says whether it keeps versions, None where it never said;
    `versions_problem` why not."""

    location: str
    at: str
    rules: tuple[Rule, ...] = ()
    problem: str = ""
    versioned: bool | None = None
    versions_problem: str = ""


def look(
    layout: Layout,
    storage: Storage,
    repositories: Mapping[str, tuple[RepositorySettings, Mapping[str, Any]]],
    *,
    at: str,
    ask: Ask = lifecycle,
    ask_versions: AskVersions = versioning,
) -> dict[str, Asked]:
    """Ask every bucket among the repositories (settings and secrets by name), remember the answers and return them.

    Raises BackstayError only where they cannot be written down.
    """
    before = remembered(layout, storage)
    found = {
        name: _asked(
            before.get(name),
            settings.location,
            at,
            _of_either(settings.location, secrets, ask),
            _of_either(settings.location, secrets, ask_versions),
        )
        for name, (settings, secrets) in repositories.items()
        if settings.kind == "s3"
    }
    if found:
        everything = {**before, **found}  # also those of a store that is away, whom nobody asks now
        content = {"format": FORMAT, "repositories": {name: asdict(each) for name, each in everything.items()}}
        storage.write(layout.bucket_rules, canonical(content) + b"\n", mode=0o600)
    return found


def _asked(
    before: Asked | None,
    location: str,
    at: str,
    rules: tuple[tuple[Rule, ...] | None, str],
    versioned: tuple[bool | None, str],
) -> Asked:
    """What was answered now (or why not), and of what was not, what was answered before."""
    known = before if before is not None and before.location == location else Asked(location, at)
    return Asked(
        location,
        at,
        known.rules if rules[0] is None else rules[0],
        rules[1],
        known.versioned if versioned[0] is None else versioned[0],
        versioned[1],
    )


def _of_either(
    location: str, secrets: Mapping[str, Any], ask: Callable[[str, Mapping[str, Any]], _Answer]
) -> tuple[_Answer | None, str]:
    """Who may only write may often not ask a bucket about itself; who may prune often may."""
    prune = secrets.get("prune")
    problem = ""
    for given in (secrets, {**secrets, **prune}) if isinstance(prune, Mapping) else (secrets,):
        try:
            return ask(location, given), ""
        except BackstayError as refused:
            problem = refused.message
    return None, problem


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
                each.get("versioned"),
                str(each.get("versions_problem", "")),
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


def old_versions(known: Mapping[str, Asked], name: str, settings: RepositorySettings) -> tuple[Versions, int]:
    """What becomes of what a repository lets go of, and for how many days its bucket keeps that. Pure."""
    if settings.kind != "s3":
        return "none", 0
    asked = known.get(name)
    if asked is None or asked.location != settings.location or asked.versioned is None:
        return "not known", 0
    if not asked.versioned:
        return "none", 0
    if not _answered(asked):
        return "not known", 0
    days = old_version_days(settings.location, asked.rules)
    return ("without end", 0) if days is None else ("for a time", days)


def unknown(known: Mapping[str, Asked]) -> tuple[str, ...]:
    """A sentence for each thing that a bucket did not say about itself. Pure."""
    rules = tuple(
        f"{name}: whether the bucket removes objects by itself is not known: {asked.problem}"
        for name, asked in known.items()
        if asked.problem
    )
    return rules + tuple(
        f"{name}: whether the bucket keeps versions, and with them what was deleted, is not known: "
        f"{asked.versions_problem}"
        for name, asked in known.items()
        if asked.versions_problem
    )


def sentences(known: Mapping[str, Asked], repositories: Mapping[str, RepositorySettings]) -> Sequence[str]:
    """All that a person should know after the buckets were asked."""
    return (*findings(known, repositories), *unknown(known))
