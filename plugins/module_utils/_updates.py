"""What the host lacks: updates that wait, security updates first, since when; whether a reboot is due; how long its
system is supported. apt is asked once a day, by a simulation that changes nothing and takes no lock.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._errors import BackstayError
from ._run import Runner
from ._storage import Storage, canonical

FORMAT = 1
AGAIN_SECONDS = 20 * 3600
_LISTS_SECONDS = 7 * 86400  # lists of packages that are older say nothing about what waits
_COMMAND = ["apt-get", "--simulate", "-o", "Debug::NoLocking=1", "-o", "APT::Get::Show-User-Simulation-Note=0"]
_INST = re.compile(r"^Inst (?P<name>\S+) (?:\[(?P<old>[^\]]*)\] )?\((?P<new>\S+) (?P<origin>[^)]*)\)", re.MULTILINE)
# Until when each system gets security updates, also from its long-term support.
SUPPORTED: Mapping[tuple[str, str], str] = {
    ("debian", "11"): "2026-08-31T00:00:00+00:00",
    ("debian", "12"): "2028-06-30T00:00:00+00:00",
    ("debian", "13"): "2030-06-30T00:00:00+00:00",
    ("ubuntu", "22.04"): "2027-04-30T00:00:00+00:00",
    ("ubuntu", "24.04"): "2029-04-30T00:00:00+00:00",
    ("ubuntu", "26.04"): "2031-04-30T00:00:00+00:00",
}


def waiting(simulated: str) -> dict[str, bool]:
    """From what `apt-get --simulate dist-upgrade` prints: package=version, and whether it is about security. Pure."""
    return {
        f"{found['name']}={found['new']}": "security" in found["origin"].lower()
        for found in _INST.finditer(simulated)
        if found["old"] is not None
    }


def folded(
    simulated: str, before: Mapping[str, Any], *, now: dt.datetime, lists_at: dt.datetime | None
) -> dict[str, Any]:
    """The facts to keep: each waiting package with the time at which it was first seen to wait. Pure."""
    known = before.get("waiting") if isinstance(before.get("waiting"), Mapping) else {}
    stamp = now.isoformat(timespec="seconds")
    found = waiting(simulated)
    return {
        "format": FORMAT,
        "at": stamp,
        "lists_at": lists_at.isoformat(timespec="seconds") if lists_at else None,
        "waiting": {
            package: {"security": security, "since": _since(known or {}, package, stamp)}
            for package, security in found.items()
        },
    }


def _since(known: Mapping[str, Any], package: str, stamp: str) -> str:
    """When some version of this package was first seen to wait: a newer fix does not make the host less late."""
    name = package.partition("=")[0]
    return min((str(each["since"]) for other, each in known.items() if other.partition("=")[0] == name), default=stamp)


def told(kept: Mapping[str, Any] | None, *, now: dt.datetime, system: tuple[str, str], reboot: bool) -> dict[str, Any]:
    """What the page is told: {"at","security","other","oldest_seconds","reboot_required","system","supported_until"};
    `security` is None with a `problem` where nothing can be said. Pure."""
    found: dict[str, Any] = {
        "at": None,
        "security": None,
        "reboot_required": reboot,
        "system": " ".join(system).title(),
        "supported_until": SUPPORTED.get(system),
    }
    if not kept:
        return found | {"problem": "nobody asked apt what waits yet"}
    lists_at = kept.get("lists_at")
    if lists_at is None or (now - dt.datetime.fromisoformat(lists_at)).total_seconds() > _LISTS_SECONDS:
        return found | {"problem": "the lists of packages are older than 7 days: run apt-get update"}
    security = [each for each in kept["waiting"].values() if each["security"]]
    oldest = min((dt.datetime.fromisoformat(each["since"]) for each in security), default=now)
    return found | {
        "at": kept["at"],
        "security": len(security),
        "other": len(kept["waiting"]) - len(security),
        "oldest_seconds": (now - oldest).total_seconds(),
    }


def system_of(root: Path) -> tuple[str, str]:
    """The system's name and version, as /etc/os-release has them."""
    try:
        lines = (root / "etc" / "os-release").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "an unknown system", ""
    values = {key: value.strip().strip('"') for key, _equals, value in (line.partition("=") for line in lines)}
    return values.get("ID", "an unknown system"), values.get("VERSION_ID", "")


def read(path: Path, storage: Storage) -> dict[str, Any] | None:
    """What was kept; None where nothing was, or what is there is no such thing."""
    try:
        value = json.loads(storage.read(path) or b"")
        return dict(value) if value["format"] == FORMAT else None
    except (ValueError, KeyError, TypeError):
        return None


def refresh(path: Path, storage: Storage, runner: Runner, *, now: dt.datetime, root: Path) -> None:
    """Ask apt again where it was asked long ago. What apt cannot say now is asked again next time."""
    before = read(path, storage) or {}
    lists_at = _lists_at(root)
    known = str(before.get("lists_at"))
    fresh = lists_at is not None and lists_at.isoformat(timespec="seconds") == known
    if fresh and (now - dt.datetime.fromisoformat(before["at"])).total_seconds() < AGAIN_SECONDS:
        return
    try:
        done = runner([*_COMMAND, "dist-upgrade"], timeout_seconds=120.0, check=False)
    except BackstayError:
        return
    if done.ok:
        storage.write(path, canonical(folded(done.stdout, before, now=now, lists_at=lists_at)), mode=0o600)


def _lists_at(root: Path) -> dt.datetime | None:
    """When the lists of packages were last brought up to date. `lists/partial` says nothing of that: it changes with
    every attempt, also with one that reached no mirror (and ended well)."""
    stamps = []
    for name in ("var/lib/apt/periodic/update-success-stamp", "var/lib/apt/lists"):
        try:
            stamps.append((root / name).stat().st_mtime)
        except OSError:
            continue
    return dt.datetime.fromtimestamp(int(max(stamps)), dt.UTC) if stamps else None
