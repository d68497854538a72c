"""What the portal says about itself: /healthz/, /livez/ and /metrics."""

from __future__ import annotations

import errno
import os
import threading
import time
from datetime import UTC, datetime

from django.conf import settings
from django.db import DatabaseError, connection, models
from django.db.migrations.loader import MigrationLoader
from django.utils import timezone

Check = dict[str, object]
_known_lock = threading.Lock()
_known: dict[tuple[str, str], list[tuple[str, str]]] = {}


def known_migrations() -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Return the migrations this code brings, each with those it replaces. Read once for each process."""
    with _known_lock:
        if not _known:
            loader = MigrationLoader(None, ignore_no_migrations=True)
            _known.update(
                {key: list(migration.replaces) for key, migration in loader.disk_migrations.items()}
            )
    return _known


def pending_migrations(applied: set[tuple[str, str]]) -> list[str]:
    """Return this code's migrations that are not in `applied`.

    What only `applied` knows is none of our business: after a rollback the schema is newer than the code.
    """
    known = known_migrations()
    replaced_by = {old: key for key, olds in known.items() for old in olds}
    return sorted(
        f"{key[0]}.{key[1]}"
        for key, replaces in known.items()
        if key not in applied
        and replaced_by.get(key) not in applied
        and not (replaces and all(tuple(old) in applied for old in replaces))
    )


def check_database() -> tuple[Check, set[tuple[str, str]] | None]:
    """Read the table of migrations: the database answers, and we know its schema."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT app, name FROM django_migrations")
            return {"status": "pass"}, {(app, name) for app, name in cursor.fetchall()}
    except DatabaseError as error:
        return {"status": "fail", "output": f"The database does not answer: {error}"}, None


def check_migrations(applied: set[tuple[str, str]] | None) -> Check:
    if applied is None:
        return {"status": "fail", "output": "Unknown, because the database does not answer."}
    try:
        pending = pending_migrations(applied)
    except Exception as error:  # a migration is somebody's Python: importing it can raise anything
        return {
            "status": "fail",
            "output": f"A migration cannot be imported: {type(error).__name__}: {error}",
        }
    if pending:
        return {
            "status": "fail",
            "observedValue": len(pending),
            "output": f"Not applied: {', '.join(pending)}. Run manage.py migrate.",
        }
    return {"status": "pass", "observedValue": 0}


def check_media() -> Check:
    """Create a file without a name in media/ (nothing to clean up), and see that an upload would fit."""
    root = settings.MEDIA_ROOT
    try:
        try:
            os.close(os.open(root, os.O_TMPFILE | os.O_WRONLY, 0o600))
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.EISDIR}:  # filesystems without nameless files
                raise
            if not os.access(root, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(root)) from None
        room = os.statvfs(root)
    except OSError as error:
        return {"status": "fail", "output": f"{root} is not writable: {error.strerror}."}
    free = room.f_bavail * room.f_frsize
    found: Check = {"status": "pass", "observedValue": free, "observedUnit": "bytes free"}
    if free < settings.UPLOAD_LIMIT_BYTES:
        found |= {
            "status": "warn",
            "output": f"{free} bytes are free; one upload may have {settings.UPLOAD_LIMIT_BYTES}.",
        }
    return found


def timed(check: Check, started: float) -> Check:
    return check | {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "durationMs": round((time.perf_counter() - started) * 1000, 2),
    }


def healthz(*, details: bool) -> tuple[int, dict[str, object]]:
    """Return status code and body of /healthz/, in the shape of application/health+json."""
    started = time.perf_counter()
    database, applied = check_database()
    checks = {"database": [timed(database, started)]}
    started = time.perf_counter()
    checks["migrations"] = [timed(check_migrations(applied), started)]
    if settings.PHOTOS:
        started = time.perf_counter()
        checks["media:writable"] = [timed(check_media(), started)]

    found = {str(entry["status"]) for entries in checks.values() for entry in entries}
    status = "fail" if "fail" in found else "warn" if "warn" in found else "pass"
    body: dict[str, object] = {"status": status, "releaseId": settings.RELEASE_ID}
    if details:
        body |= {"version": settings.VERSION, "serviceId": "audit-portal", "checks": checks}
    return (503 if status == "fail" else 200), body


def metrics() -> str:
    """Return what can be measured from outside any one process, as Prometheus text.

    Counters of requests are left to nginx: a scrape reaches one of several workers and sees its share only.
    """
    from audits.models import Audit, Finding, Job, SchedulerTick, WorkerHeartbeat

    lines = [
        "# HELP portal_info Which release answers.",
        "# TYPE portal_info gauge",
        f'portal_info{{release_id="{settings.RELEASE_ID}",version="{settings.VERSION}"}} 1',
        "# HELP portal_audits Audits kept.",
        "# TYPE portal_audits gauge",
        f"portal_audits {Audit.objects.count()}",
        "# HELP portal_findings Findings kept, by severity.",
        "# TYPE portal_findings gauge",
    ]
    for row in Finding.objects.values("severity").annotate(n=models.Count("id")).order_by("severity"):
        lines.append(f'portal_findings{{severity="{row["severity"]}"}} {row["n"]}')
    lines += ["# HELP portal_jobs Jobs of the worker, by state.", "# TYPE portal_jobs gauge"]
    for row in Job.objects.values("state").annotate(n=models.Count("id")).order_by("state"):
        lines.append(f'portal_jobs{{state="{row["state"]}"}} {row["n"]}')
    for name, model in (("worker", WorkerHeartbeat), ("scheduler", SchedulerTick)):
        seen = model.objects.aggregate(seen=models.Max("last_seen"))["seen"]
        if seen is not None:
            lines += [
                f"# HELP portal_{name}_silence_seconds Seconds since the {name} was last seen.",
                f"# TYPE portal_{name}_silence_seconds gauge",
                f"portal_{name}_silence_seconds {(timezone.now() - seen).total_seconds():.3f}",
            ]
    return "\n".join(lines) + "\n"
