"""The one-look page of a made-up fleet, as pictures for the documents: at a desk and on a phone.

    python tools/status_picture.py            writes docs/images/status-page.png and status-page-phone.png
    python tools/status_picture.py --html F   writes only the page, to look at in a browser

The facts are invented, and the page says so in its title; what is made of them is the library's own work.
"""

from __future__ import annotations

import datetime as dt
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.backstay.ops.plugins.module_utils._cells import Row, row, unreachable
from ansible_collections.backstay.ops.plugins.module_utils._page import page

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
NOW = dt.datetime(2026, 11, 21, 7, 5, tzinfo=dt.UTC)
DESK, PHONE = (1600, 2070), (390, 2140)


def ago(**length: float) -> str:
    """A time before the picture's now."""
    return (NOW - dt.timedelta(**length)).isoformat(timespec="seconds")


def well(application: str, host: str) -> dict[str, Any]:
    """Facts of an application where all is well, as `backstay status --json` has them."""
    live, warm = "0014-2.3.1", "0013-2.3.0"
    hours = [(NOW - dt.timedelta(hours=hour)).timestamp() for hour in range(72, 0, -1)]
    seed = sum(map(ord, application + host))
    latency = [
        [at, 0.21 + 0.08 * math.sin(place / 3.8 + seed) + 0.03 * ((place * 7 + seed) % 5)]
        for place, at in enumerate(hours)
    ]
    errors = [[at, 0.0004 * ((place * 5 + seed) % 4)] for place, at in enumerate(hours)]
    nights = [(NOW - dt.timedelta(days=day, hours=5)).timestamp() for day in range(29, -1, -1)]
    return {
        "application": application,
        "live": {"id": live, "version": "2.3.1", "commit": "b94cd5075c", "since": ago(days=9), "by": "ada"},
        "warm": {"id": warm},
        "rollback_target": warm,
        "last_failed": None,
        "processes": {f"{application}-{live}-web.service": "active", f"{application}-{live}-worker.service": "active"},
        "maintenance": False,
        "configuration_changed": False,
        "transaction_open": False,
        "watched": None,
        "backup": {
            "newest": {
                "run": "20261121T020500000-7",
                "at": ago(hours=5),
                "age_seconds": 5 * 3600.0,
                "size_bytes": 412_300_000,
                "repositories": ["disk", "offsite"],
                "rows": 90210,
                "level": 4,
            },
            "last_proven": {
                "proven_at": ago(hours=3.5),
                "proven_age_seconds": 3.5 * 3600,
                "proof_seconds": 41.0,
                "rows": 90210,
            },
            "points": 38,
            "repositories": {name: {"points": 19, "greatest_age_days": 35} for name in ("disk", "offsite")},
            "problems": [],
        },
        "look": {
            "at": NOW.isoformat(timespec="seconds"),
            "hostname": host,
            "host": {"memory_ratio": 0.46, "load": 0.3, "cores": 2, "cpu_ratio": 0.12, "failed_units": []},
            "mounts": [
                {"path": "/", "used_ratio": 0.38, "inodes_ratio": 0.11, "full_seconds": None},
                {"path": "/srv", "used_ratio": 0.52, "inodes_ratio": 0.07, "full_seconds": 86400 * 190.0},
            ],
            "forecast": True,
            "updates": {
                "at": ago(hours=4),
                "security": 0,
                "system": "Debian 12",
                "supported_until": "2028-06-30T00:00:00+00:00",
            },
            "exposure": {
                "open": [22, 80, 443],
                "unit": {"name": f"{application}-{live}-web.service", "score": 1.4},
                "warnings": [],
                "weak_secrets": [],
                "accounts": {"at": ago(hours=6), "of": 4, "tried": 4, "weak": []},
                "unknown": {},
            },
            "probe": {
                "ok": True,
                "failures": 0,
                "seconds": 0.031,
                "at": ago(seconds=20),
                "source": "the release and the front door",
            },
            "traffic": {
                "at": ago(seconds=40),
                "requests": 5120,
                "error_ratio": 0.0,
                "p95_seconds": 0.28,
                "objective_ratio": 0.999,
                "budget_left": 0.82,
                "burn": None,
            },
            "certificate": {
                "at": ago(seconds=5),
                "path": f"/etc/backstay-tls/{application}/bundle.pem",
                "not_before": ago(days=29),
                "not_after": ago(days=-61),
                "is_for": True,
            },
            "backup": {
                "max_age_seconds": 26 * 3600,
                "proof_max_age_seconds": 26 * 3600,
                "repositories": 2,
                "failures": 0,
                "median_bytes": 405_000_000,
                "recovery_point_seconds": 240.0,
            },
            "jobs": [
                {"job": name, "state": "ok"} for name in ("retention", "clearsessions", "media-size", "resources")
            ],
            "alerts": {"heartbeat_at": ago(seconds=40), "tested_at": ago(days=3), "routes": ["mail", "chat"]},
            "events": [
                {"at": ago(days=9), "kind": "release", "sentence": f"{live} went live by ada: faster search"},
                {"at": ago(days=23), "kind": "release", "sentence": f"{warm} went live by grace: new messages"},
            ],
            "series": {
                "latency": latency,
                "errors": errors,
                "backup": [[at, 3.9e8 + 8e5 * place + seed * 1e4] for place, at in enumerate(nights)],
                "recovery": [[at, 38 + (place * 3 + seed) % 7] for place, at in enumerate(nights)],
                "limits": {"p95_seconds": 2.0, "error_ratio": 0.01},
            },
        },
    }


def _with(facts: dict[str, Any], **changed: Any) -> dict[str, Any]:
    look: Mapping[str, Any] = changed.pop("look", {})
    return {**facts, **changed, "look": {**facts["look"], **look}}


def _event(facts: Mapping[str, Any], kind: str, sentence: str, **length: float) -> list[dict[str, Any]]:
    return [*facts["look"]["events"], {"at": ago(**length), "kind": kind, "sentence": sentence}]


def fleet() -> list[Row]:
    """Nine rows, of each colour one, and what leads to it."""
    portal = well("audit-portal", "app1")
    rows = [row(portal, now=NOW, host="app1")]
    slow = well("audit-portal", "app2")
    slow = _with(
        slow,
        look={
            "mounts": [{"path": "/srv", "used_ratio": 0.86, "inodes_ratio": 0.2, "full_seconds": 86400 * 6.0}],
            "events": _event(slow, "incident", "/srv on app2 is 86 % full, not over yet", hours=7),
        },
    )
    rows.append(row(slow, now=NOW, host="app2", memory={"disk": {"state": "yellow", "since": ago(hours=7)}}))
    shop = well("messenger", "app1")
    shop = _with(
        shop,
        live={"id": "0022-1.5.0", "version": "1.5.0", "since": ago(hours=7), "by": "grace"},
        processes={"messenger-0022-1.5.0-web.service": "active"},
        look={"events": _event(shop, "release", "0022-1.5.0 went live by grace: polls and reactions", hours=7)},
    )
    rows.append(row(shop, now=NOW, host="app1"))
    never = well("messenger", "app3")
    never = _with(
        never,
        backup={"newest": None, "points": 0, "repositories": {"disk": {}}, "problems": ["there is no restore point"]},
        look={
            "jobs": [
                {"job": "retention", "state": "missing", "why": "it did not run at 03:00 today, nor yesterday"},
                *shop["look"]["jobs"][1:],
            ],
            "backup": {"max_age_seconds": 26 * 3600, "repositories": 1},
            "series": {**never["look"]["series"], "backup": [], "recovery": []},
            "events": _event(never, "incident", "no restore point of messenger was ever made, not over yet", days=2),
        },
    )
    rows.append(row(never, now=NOW, host="app3", memory={"backup": {"state": "red", "since": ago(days=2)}}))
    closed = well("helpdesk", "app2")
    rows.append(row(_with(closed, maintenance=True, look={"maintenance_since": ago(minutes=25)}), now=NOW, host="app2"))
    young = well("helpdesk", "app4")
    young = _with(
        young,
        look={
            "alerts": None,
            "jobs": None,
            "events": _event(
                young, "restore", "the restore point 20261110T020000Z was brought back by ada: drill", days=11
            ),
        },
    )
    rows.append(row(young, now=NOW, host="app4"))
    late = well("archive", "app5")
    late = _with(
        late,
        look={
            "certificate": {**late["look"]["certificate"], "not_before": ago(days=84), "not_after": ago(days=-6)},
            "updates": {**late["look"]["updates"], "security": 3, "oldest_seconds": 86400 * 9, "reboot_required": True},
            "acknowledged": {"certificate": {"by": "ada", "until": "2026-11-23T08:00:00Z"}},
        },
    )
    rows.append(row(late, now=NOW, host="app5"))
    rows.append(row(well("archive", "app6"), now=NOW, host="app6"))
    rows.append(
        unreachable(
            "app7", "archive", "ssh: connect to host app7 port 22: No route to host", now=NOW, last_seen=ago(minutes=2)
        )
    )
    return rows


def shoot(file: Path, target: Path, width: int, height: int, *, dark: bool = False) -> None:
    """Draw a file with headless Chromium. Raises CalledProcessError when it fails."""
    with tempfile.TemporaryDirectory() as directory:
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += ["--blink-settings=preferredColorScheme=0"] if dark else []
        command += [f"--user-data-dir={directory}", f"--window-size={width},{height}", f"--screenshot={target}"]
        subprocess.run([*command, file.as_uri()], check=True, capture_output=True, timeout=120)


def main(arguments: list[str]) -> int:
    text = page(fleet(), now=NOW, title="a made-up fleet")
    if arguments[:1] == ["--html"]:
        Path(arguments[1]).write_text(text, encoding="utf-8")
        return 0
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "status.html")
        file.write_text(text, encoding="utf-8")
        shoot(file, IMAGES / "status-page.png", *DESK)
        shoot(file, IMAGES / "status-page-phone.png", *PHONE)
    print("wrote docs/images/status-page.png and docs/images/status-page-phone.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
