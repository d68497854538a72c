"""Logs are rotated while visitors come: no line is lost, nothing is restarted, and each rotated file has its owner."""

from __future__ import annotations

import json
import time
from typing import Any

from backstay_lab.scene import APPLICATION, Scene

ROTATIONS = 5
LOGS, ACCESS = f"/var/log/{APPLICATION}", f"/var/log/nginx/{APPLICATION}.access.log"
AGENT = "backstay-lab-load"


def processes(scene: Scene) -> str:
    """The processes that write: each of the application's units, and nginx's first."""
    units = f"systemctl list-units --plain --no-legend --state=running '{APPLICATION}-[0-9]*' | awk '{{print $1}}'"
    asked = f"for unit in $({units}) nginx.service; do systemctl show -p Id -p MainPID -p NRestarts $unit; done"
    return scene.lab.ssh("app1", asked).stdout


def kept(lines: list[str]) -> list[int]:
    """The findings that lines of the application say were kept, one line each."""
    found = []
    for line in lines:
        if '"finding kept"' in line:
            row: dict[str, Any] = json.loads(line[line.index("{") :])
            found.append(int(row["data"]["finding"]))
    return sorted(found)


def hits(scene: Scene) -> int:
    """The requests of the load in the front door's log, what was rotated included."""
    return int(scene.lab.ssh("app1", f"zcat --force {ACCESS}* | grep -c '{AGENT}' || true").stdout)


def test_no_line_is_lost_and_nothing_is_restarted(at_1_0: Scene) -> None:
    scene = at_1_0
    began = scene.lab.ssh("app1", "date +%s").stdout.strip()
    earlier, writers = hits(scene), processes(scene)
    files = f"zcat --force {LOGS}/app.log*"
    before = set(kept(scene.lab.ssh("app1", f"{files} || true").stdout.splitlines()))
    with scene.load(rate=120.0) as load:
        for _rotation in range(ROTATIONS):
            time.sleep(1.5)
            for rules in ("backstay", "nginx"):
                done = scene.lab.ssh("app1", f"logrotate --force /etc/logrotate.d/{rules}", check=False)
                assert done.returncode == 0, done.stderr
        time.sleep(1.5)
        result = load.stop()
    assert result.failed == 0, result.failures
    assert processes(scene) == writers, "the same processes, started once"

    in_files = [each for each in kept(scene.lab.ssh("app1", files).stdout.splitlines()) if each not in before]
    journal = f"journalctl --no-pager --output=cat --since=@{began} SYSLOG_IDENTIFIER={APPLICATION}-web"
    said = kept(scene.lab.ssh("app1", journal).stdout.splitlines())
    assert len(said) >= 20, "too few lines were written to show anything"
    assert in_files == said, "each line that the application said is in its files, once"
    assert hits(scene) - earlier == result.requests, "and each request is in the front door's log, once"

    moved = scene.lab.ssh("app1", f"stat -c '%n %U:%G %a' {LOGS}/app.log*").stdout.splitlines()
    names = {line.split()[0].rpartition("/")[2] for line in moved}
    assert {"app.log.1", "app.log.2.gz", f"app.log.{ROTATIONS}.gz"} <= names, names
    assert {tuple(line.split()[1:]) for line in moved} == {(f"{APPLICATION}:adm", "640")}, moved
