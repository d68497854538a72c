"""Backups that are struck by a full disk at each of their steps; called on a small disk by test_full_disk.py."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from ansible_collections.backstay.ops.plugins.module_utils import _backup
from ansible_collections.backstay.ops.plugins.module_utils._backup_status import backup_facts
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed, run
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage

from .host import Host, is_clean
from .small_disk import empty, fill

HOOKS = ("during", "late", "hashing")
EXPIRY = ("forget", "prune")
MOMENTS = ("during", "late", "store", "check")


def struck(directory: Path) -> list[dict[str, Any]]:
    """The host's own disk is full: its data, the stage, the catalogue. The repository is on another."""
    small = directory / "small"
    return _struck(small, Host(small, _places(directory / "disk")).build(), MOMENTS)


def store_struck(directory: Path) -> list[dict[str, Any]]:
    """The disk of the repository is full, and of nothing else."""
    small = directory / "small"
    return _struck(small, Host(directory / "host", _places(small / "disk")).build(), ("store", "seal"))


def expiry_struck(directory: Path) -> list[dict[str, Any]]:
    """The disk of the repository is full when what is not kept any more is to leave it."""
    small = directory / "small"
    host = Host(directory / "host", _places(small / "disk", daily=2)).build()
    return _struck(small, host, EXPIRY, before=3)


def _places(disk: Path, *, daily: int = 30) -> dict[str, Any]:
    keep = {"daily": daily, "weekly": 0}
    return {"repositories": {"disk": {"location": str(disk), "own_disk": False}}, "keep": keep}


def _struck(small: Path, host: Host, moments: Sequence[str], *, before: int = 1) -> list[dict[str, Any]]:
    with mock.patch.object(_backup, "SPARE_BYTES", 0):
        for _unused in range(before):
            host.run()
        return [_one(small, host, moment) for moment in moments]


def _one(small: Path, host: Host, moment: str) -> dict[str, Any]:
    """A run that meets a full disk at one moment, what is then, and the run after it."""
    stored, newest = 0, host.points()[-1].run

    def runner(arguments: Sequence[str], **given: Any) -> Completed:
        nonlocal stored
        stored += "backup" in arguments
        now = next((verb for verb in ("check", *EXPIRY) if verb in arguments), "")
        now = ("store" if stored == 1 else "seal") if "backup" in arguments else now
        if now == moment:
            fill(small)
        return run(arguments, **given)

    host.runner = runner
    (host.media / f"{moment}.jpg").write_bytes(moment.encode() * 20_000)
    said = ""
    try:
        outcome = host.run(**{moment: lambda stage: fill(small)} if moment in HOOKS else {})
        said = " ".join(outcome.problems)
    except (BackstayError, OSError) as failed:
        said = f"{type(failed).__name__}: {failed}"
    clean = is_clean(host)
    empty(small)
    host.runner = run
    now = dt.datetime.fromisoformat(host.now()) + dt.timedelta(hours=6)
    facts = backup_facts(host.layout, Storage(), host.application, now=now)
    good = [point.run for point in host.points() if point.good]
    following = host.run()
    ended = [each for each in host.points() if each.good or each.expired or each.failed or each.failed_in]
    return {
        "moment": moment,
        "said": said,
        "clean": clean,
        "last_is_good": newest in good,
        "problems": facts["problems"] if facts else [],
        "next": [following.exit_code, following.point.level, list(following.problems)],
        "unfinished": len(host.points()) - len(ended),
    }
