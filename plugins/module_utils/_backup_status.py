"""What is so about the restore points of an application: for `status`, for machines, and for metrics.

From the catalogue of restore points and of their proofs, never from a job's exit code: a job that says that all is well
and stored nothing changes no line of this.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ._application import Application
from ._backup_settings import BackupPolicy
from ._bucket_rules import Asked, old_versions, remembered
from ._bucket_rules import findings as bucket_findings
from ._catalogue import Point, held_since, points, restored, retention
from ._errors import BackstayError
from ._layout import Layout
from ._retention import greatest_age_days
from ._storage import Storage

REFUTED = "is refuted:"  # of a problem that is told as an event, a failed proof
RETENTION_DAYS = 7.0  # a store that is busy or away for a night or two is none of anybody's business
_LEVELS = ("not listed", "L1 listed", "L2 structure", "L3 read back", "L4 restored and compared", "L5 its release ran")


def backup_facts(
    layout: Layout, storage: Storage, application: Application, *, now: dt.datetime | None = None
) -> dict[str, Any] | None:
    """The facts; None where the application's file asks for no backups. Ages in seconds, sizes in bytes."""
    policy = application.backup
    if policy is None:
        return None
    from ._escrow import out_of_date

    found = points(layout, storage)
    return fold(
        found,
        policy,
        now or dt.datetime.now(dt.UTC),
        buckets=remembered(layout, storage),
        unpruned=_unpruned(layout, storage, policy),
        escrow=out_of_date(layout, storage),
    )


def _unpruned(layout: Layout, storage: Storage, policy: BackupPolicy) -> tuple[str, ...]:
    """The repositories that this host may not remove anything from."""
    if not any(settings.append_only for settings in policy.repositories.values()):
        return ()
    from ._repository import repositories_of

    try:
        stores = repositories_of(layout, policy.repositories, storage)
    except BackstayError:  # without its secrets it may remove nothing
        return tuple(name for name, settings in policy.repositories.items() if settings.append_only)
    return tuple(name for name, store in stores.items() if store.for_pruning() is None)


def fold(
    found: Sequence[Point],
    policy: BackupPolicy,
    now: dt.datetime,
    *,
    buckets: Mapping[str, Asked] | None = None,
    unpruned: Collection[str] = (),
    escrow: str | None = None,
) -> dict[str, Any]:
    """Pure: the facts from the points, in the order of the chain, from what the buckets answered last, from which
    repositories this host may not prune, and from what is wrong with the offline key. Where it may not prune and
    nothing ever expired, nobody else prunes either."""
    buckets = buckets or {}
    good = [point for point in found if point.good]
    newest = good[-1] if good else None
    proven = [point for point in good if point.level >= 4]
    last_proven = max(proven, key=lambda point: point.proven_at or "", default=None)
    full = max((point for point in good if point.level >= 5), key=lambda point: point.proven_at or "", default=None)
    oldest = {name: _age(point.at, now) / 86400 for point in reversed(found) for name in point.repositories}
    endless = [name for name in unpruned if not any(name in point.expired for point in found)]
    versions = {name: old_versions(buckets, name, settings) for name, settings in policy.repositories.items()}
    endless += [name for name, (kept, _days) in versions.items() if kept == "without end"]
    ages = greatest_age_days(policy, oldest, endless, {name: days for name, (_kept, days) in versions.items()})
    expiry = {name: retention(found, name) for name in policy.repositories}
    return {
        "newest": _point(newest, now),
        "last_proven": _point(last_proven, now),
        "last_drill": _point(full, now),
        "points": len(good),
        "repositories": {
            name: {
                "location_kind": settings.kind,
                "points": sum(1 for point in good if name in point.repositories and point.repositories[name].good),
                "newest": next((point.at for point in reversed(good) if name in point.repositories), None),
                "last_proven": _restored(found, name, now),
                "greatest_age_days": ages[name],
                "old_versions": versions[name][0],
                "retained_at": expiry[name][0],
                "kept_back": held.reason if (held := expiry[name][1]) else None,
            }
            for name, settings in policy.repositories.items()
        },
        "bucket_rules": {
            name: {
                "asked_at": asked.at,
                "rules": len(asked.rules),
                "problem": asked.problem,
                "versioned": asked.versioned,
            }
            for name, asked in buckets.items()
            if name in policy.repositories
        },
        "problems": [
            *problems(found, policy, now),
            *([escrow] if escrow else []),
            *bucket_findings(buckets, policy.repositories),
        ],
    }


def _point(point: Point | None, now: dt.datetime) -> dict[str, Any] | None:
    if point is None:
        return None
    return {
        "run": point.run,
        "at": point.at,
        "age_seconds": round(_age(point.at, now), 1),
        "release": point.release,
        "size_bytes": point.size_bytes,
        "rows": point.rows,
        "level": point.level,
        "proven_at": point.proven_at,
        "proven_age_seconds": None if point.proven_at is None else round(_age(point.proven_at, now), 1),
        "proof_seconds": point.proven_seconds,
        "repositories": sorted(point.repositories),
    }


def _restored(found: Sequence[Point], repository: str, now: dt.datetime) -> dict[str, Any] | None:
    """When a restore point was last restored from a repository and held, to which level."""
    last = restored(found, repository)
    if last.held_at is None:
        return None
    return {"level": last.level, "at": last.held_at, "age_seconds": round(_age(last.held_at, now), 1)}


def problems(found: Sequence[Point], policy: BackupPolicy, now: dt.datetime) -> tuple[str, ...]:
    """What somebody must look at, the worst first, each a sentence. Never backed up is one from the first day."""
    good = [point for point in found if point.good]
    if not good:
        refuted = [point for point in found if point.refuted or point.failed]
        why = f": the last run says: {refuted[-1].failed or refuted[-1].refuted}" if refuted else ""
        return (f"there is no restore point{why.rstrip('.')}: run `backstay backup`",)
    said: list[str] = []
    newest = good[-1]
    hours = _age(newest.at, now) / 3600
    if hours > policy.max_age_hours:
        said.append(
            f"the newest restore point is {hours:.0f} h old, allowed are {policy.max_age_hours} (backup.max_age_hours)"
        )
    elif hours < -0.1:
        said.append(f"the newest restore point is dated {newest.at}, which is to come: look at the clocks")
    last = found[-1]
    if last.failed:
        said.append(f"the last backup ({last.run}) failed: {last.failed.rstrip('.')}")
    elif not (last.repositories or last.expired or last.failed_in) and _age(last.at, now) > policy.seconds:
        said.append(f"the last backup ({last.run}) began and never said how it ended: killed, or the disk was full")
    for name in policy.repositories:
        if name not in newest.repositories:
            reason = newest.failed_in.get(name) or "it was not stored there"
            said.append(f"the repository {name} lacks the newest restore point: {reason.rstrip('.')}")
    said += [f"the restore point {point.run} {REFUTED} {point.refuted}" for point in found if point.refuted][-2:]
    said += _kept_back(found, policy, newest)
    if policy.proof.nightly is not None:
        proven = [_age(point.proven_at, now) / 3600 for point in good if point.level >= 4 and point.proven_at]
        if not proven:
            said.append("no restore point was ever restored and compared: run `backstay verify --level L4`")
        elif min(proven) > policy.proof.level4_max_age_hours:
            said.append(
                f"the last proof (L4) is {min(proven):.0f} h old, allowed are {policy.proof.level4_max_age_hours} h"
            )
        else:
            said += _unproven(found, policy, now)
    drilled = [_age(point.proven_at, now) / 86400 for point in good if point.level >= 5 and point.proven_at]
    days = min(drilled) if drilled else _age(found[0].at, now) / 86400
    if days > policy.proof.level5_max_age_days:
        what = f"the last drill (L5) is {days:.0f} d old" if drilled else f"in {days:.0f} d there was no drill (L5)"
        said.append(
            f"{what}, allowed are {policy.proof.level5_max_age_days} (backup.proof.level5_max_age_days): run "
            "playbooks/drill.yml"
        )
    return tuple(said)


def _unproven(found: Sequence[Point], policy: BackupPolicy, now: dt.datetime) -> list[str]:
    """The repositories whose turn has passed: each night one is proven, and a disk that holds says nothing of a bucket.
    Where points have been for less than a round, nothing is late yet."""
    said = []
    allowed = len(policy.repositories) * policy.proof.level4_max_age_hours
    for name in policy.repositories:
        held_at, since = restored(found, name).held_at, held_since(found, name)
        if since is None:
            continue
        hours = _age(held_at or since, now) / 3600
        if hours > allowed:
            # The page leaves "proof" out here: its own cell of that is green, since another repository was proven.
            what = f"the repository {name} was last proven (L4) {hours:.0f} h ago"
            if held_at is None:
                what = f"in {hours:.0f} h nothing in the repository {name} was proven (L4)"
            said.append(
                f"{what}, allowed are {allowed} h with {len(policy.repositories)} repositories: run "
                f"`backstay verify --level L4 --repository {name}`"
            )
    return said


def _kept_back(found: Sequence[Point], policy: BackupPolicy, newest: Point) -> list[str]:
    """An anomaly at once; retention that does not succeed, when backups have been made for days without it."""
    said = []
    for name in policy.repositories:
        succeeded, held = retention(found, name)
        if held is not None and not held.failed:
            said.append(f"{name}: {held.reason.rstrip('.')}")
            continue
        since = held.since if held else succeeded
        days = _age(since, dt.datetime.fromisoformat(newest.at)) / 86400 if since else 0.0
        if days > RETENTION_DAYS:
            why = f" ({held.reason.rstrip('.')})" if held else ""
            said.append(f"{name}: retention has not succeeded for {days:.0f} d{why}: see `backstay backup --prune`")
    return said


def _age(at: str, now: dt.datetime) -> float:
    return (now - dt.datetime.fromisoformat(at)).total_seconds()


def backup_lines(facts: Mapping[str, Any]) -> list[str]:
    """At most four lines for a person."""
    newest = facts["newest"]
    if newest is None:
        return [f"  backup   {facts['problems'][0]}"]
    size = newest["size_bytes"] / 1e6
    level = _LEVELS[newest["level"]]
    lines = [f"  backup   {newest['run']}  {_spoken(newest['age_seconds'])} ago, {size:.1f} MB, {level}"]
    proven = facts["last_proven"]
    if proven is not None and proven["proven_age_seconds"] is not None:
        took = f", took {proven['proof_seconds']:.0f} s" if proven["proof_seconds"] is not None else ""
        lines[0] += f"; last proof {_spoken(proven['proven_age_seconds'])} ago{took}"
    kept = ", ".join(
        f"{name}: {each['points']} points, deleted data {_surviving(each)}"
        for name, each in facts["repositories"].items()
    )
    lines.append(f"  kept     {kept}")
    return lines + [f"  backup!  {problem[:150]}" for problem in facts["problems"][:2]]


def _surviving(facts: Mapping[str, Any]) -> str:
    days, old_versions = facts["greatest_age_days"], facts.get("old_versions")
    if days is None:
        kept = old_versions == "without end"
        return f"without end: {'the bucket keeps all versions' if kept else 'nobody removes any'}"
    unknown = ", or longer: whether the bucket keeps versions is not known" if old_versions == "not known" else ""
    return f"up to {days} d{unknown}"


def _spoken(seconds: float) -> str:
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {name}"
    return f"{max(seconds, 0):.0f} s"


def metrics(application: str, facts: Mapping[str, Any] | None, now: dt.datetime) -> str:
    """The facts for the textfile collector of Prometheus's node exporter."""
    lines: list[str] = []

    def gauge(name: str, text: str, value: float | None, **labels: str) -> None:
        if value is None:
            return
        given = ",".join(f'{key}="{each}"' for key, each in {"application": application, **labels}.items())
        if f"# TYPE backstay_{name} gauge" not in lines:
            lines.extend((f"# HELP backstay_{name} {text}", f"# TYPE backstay_{name} gauge"))
        lines.append(
            f"backstay_{name}{{{given}}} {value:g}" if value < 1e6 else f"backstay_{name}{{{given}}} {value:.0f}"
        )

    gauge("facts_timestamp_seconds", "When these facts were looked at.", now.timestamp())
    gauge("backup_declared", "Whether the application's file asks for backups.", 0 if facts is None else 1)
    if facts is not None:
        newest, proven, drill = facts["newest"], facts["last_proven"], facts["last_drill"]
        gauge("backup_points", "Good restore points.", facts["points"])
        gauge("backup_problems", "What somebody must look at.", len(facts["problems"]))
        gauge(
            "backup_timestamp_seconds", "When the newest good restore point was begun.", newest and _stamp(newest["at"])
        )
        gauge("backup_size_bytes", "Size of the newest good restore point.", newest and newest["size_bytes"])
        gauge(
            "backup_level", "Level to which the newest good restore point is proven.", newest["level"] if newest else 0
        )
        gauge(
            "backup_proof_timestamp_seconds",
            "When a point was last proven to L4.",
            proven and _stamp(proven["proven_at"]),
        )
        gauge("backup_proof_seconds", "How long that proof took.", proven and proven["proof_seconds"])
        gauge(
            "backup_drill_timestamp_seconds",
            "When a point was last proven to L5.",
            drill and _stamp(drill["proven_at"]),
        )
        for name, each in facts["repositories"].items():
            gauge("backup_repository_points", "Good restore points in a repository.", each["points"], repository=name)
        for name, each in facts["repositories"].items():
            gauge(
                "backup_retention_timestamp_seconds",
                "When what may go last went from a repository.",
                _stamp(each["retained_at"]),
                repository=name,
            )
        for name, each in facts["repositories"].items():
            gauge(
                "backup_kept_back",
                "Whether nothing expires in a repository, though something may.",
                each["kept_back"] is not None,
                repository=name,
            )
        for name, each in facts["repositories"].items():
            days = each["greatest_age_days"]
            gauge(
                "backup_deleted_data_days",
                "How old deleted data can become in a repository.",
                float("inf") if days is None else days,
                repository=name,
            )
    return "\n".join(lines) + "\n"


def _stamp(at: str | None) -> float | None:
    return None if at is None else dt.datetime.fromisoformat(at).timestamp()
