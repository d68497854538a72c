"""Days of a host's life in minutes, on the host itself: each timer's own service, under libfaketime, when it is due.

    python3 month_on_host.py APPLICATION FIRST LAST CLOSE      dates; all that is heavy only from CLOSE on

systemd says when each timer as it is installed is due (`systemd-analyze calendar`, in the server's zone), and runs the
service that the timer would start, sandbox and all; libfaketime, by a drop-in, is the only thing that is added. No
clock is set. Prints a line of JSON for each day and one with what was found at the end; needs only Python.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

ZONE = ZoneInfo("Europe/Berlin")
HERE = Path("/run/month")
OFFSET = HERE / "offset"
LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
FAKED = {
    "LD_PRELOAD": str(LIBRARY),
    "FAKETIME_TIMESTAMP_FILE": str(OFFSET),
    "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    "FAKETIME_DISABLE_SHM": "1",
    "NO_FAKE_STAT": "1",
}
UNITS = Path("/run/systemd/system")
# What waits for systemd does so by the real clock: under another one it may wait for ever.
REAL = Path("/usr/local/lib/month")
# Seconds after its time at which each begins, as the delays of the timers allow.
DELAYS = {"backstay-backup": 20, "backstay-verify": 20, "backstay-skipped": 60, "backstay-jobs": 150, "logrotate": 600}
HOURLY = ("backstay-jobs", "backstay-skipped")
# What is declared only from CLOSE on: days without it take a quarter of the time.
HEAVY = ("backstay-backup", "backstay-verify", ":each_hour.timer", ":retention.timer")


def run(*arguments: str, check: bool = True, faked: bool = False) -> str:
    environment = {**os.environ, "TZ": str(ZONE), **(FAKED if faked else {})}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    if check and done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: {done.returncode}\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
    return done.stdout


def timers(application: str) -> dict[str, str]:
    """The timers whose services are run, each with its one calendar."""
    asked = [f"backstay-{kind}@{application}.timer" for kind in ("backup", "verify", "jobs", "skipped")]
    asked += ["backstay-digest.timer", "logrotate.timer"]
    wanted = Path("/etc/systemd/system/timers.target.wants").glob(f"backstay-job@{application}:*.timer")
    asked += sorted(path.name for path in wanted)
    found = {}
    for timer in asked:
        shown = run("systemctl", "show", "--value", "-p", "TimersCalendar", timer)
        (found[timer],) = re.findall(r"OnCalendar=(.+?) ;", shown)
    return found


def due(calendar: str, first: datetime, last: datetime) -> Iterator[datetime]:
    """When systemd has it due, in UTC."""
    count = str(int((last - first).total_seconds() // 3600) + 2)
    base = f"--base-time=@{first.timestamp():.0f}"
    text = run("systemd-analyze", "calendar", base, f"--iterations={count}", calendar)
    for found in re.findall(r"\(in UTC\): \w+ (\S+ \S+) UTC", text):
        moment = datetime.fromisoformat(found).replace(tzinfo=UTC)
        if moment < last:
            yield moment


def kind(timer: str) -> str:
    return timer.partition("@")[0].removesuffix(".timer")


class Life:
    """The host, at a moment that a test puts it to."""

    def __init__(self, application: str) -> None:
        self.application = application
        self.jobs = Path("/var/lib/backstay") / application / "jobs"
        self.logs = Path("/var/log") / application
        self.expired: list[str] = []
        self.faults: list[str] = []
        self.kept: set[int] = set()
        self.took: dict[str, list[float]] = {}  # seconds of each kind of service

    def at(self, moment: datetime) -> None:
        OFFSET.write_text(f"{moment.timestamp() - time.time():.3f}\n")

    def start(self, unit: str) -> None:
        """As the timer would; what it starts in its turn has ended too."""
        began = time.monotonic()
        done = subprocess.run(["systemctl", "start", unit], capture_output=True, text=True, check=False)
        if done.returncode:
            said = run("journalctl", "--no-pager", "-o", "cat", "-n", "6", "-u", unit, check=False)
            self.faults.append(f"{unit}: {' / '.join(said.splitlines())[-600:]}")
        while kind(unit) in HOURLY and run(
            "systemctl", "list-units", "--plain", "--no-legend", "--state=activating", "backstay-*.service"
        ):
            time.sleep(0.1)
        self.took.setdefault(kind(unit), []).append(time.monotonic() - began)

    def rotate(self, moment: datetime) -> None:
        """The files' times are of the real clock; logrotate has to see those of this one."""
        for number in range(1, 15):
            for path in self.logs.glob(f"*.log.{number}*"):
                if path.stat().st_mtime > moment.timestamp():
                    os.utime(path, (moment.timestamp() - 86400,) * 2)
        for path in self.logs.glob("*.log.14.gz"):
            self.expired += gzip.decompress(path.read_bytes()).decode().splitlines()
        self.start("logrotate.service")
        for path in self.logs.glob("*.log.1"):
            os.utime(path, (moment.timestamp(),) * 2)
        self.kept.add(len(list(self.logs.glob("app.log.*"))))

    def look(self, day: date) -> dict[str, str]:
        """What is said of the jobs; the observer looks too."""
        self.start("backstay-observe.service")
        told = json.loads(run("backstay", "jobs", "--json", self.application, check=False, faked=True))
        for each in told["jobs"]:
            if each["state"] != "ok" and not (each["state"] == "never" and "due" not in each["why"]):
                self.faults.append(f"{day}: {each['job']} is {each['state']}: {each['why']}")
        return {each["job"]: each["state"] for each in told["jobs"]}

    def runs(self) -> dict[str, list[dict[str, Any]]]:
        """What is known of each job, by its results."""
        found = {}
        for path in sorted(self.jobs.glob("*.jsonl")):
            lines: dict[str, dict[str, Any]] = {}
            for line in path.read_text().splitlines():
                value = json.loads(line)
                lines[value["start"]] = value
            found[path.stem] = [
                {key: each[key] for key in ("start", "end", "exit", "why", "counts")} for each in lines.values()
            ]
        return found


def live(application: str, first: date, last: date, close: date) -> None:
    """Everything that is due from the noon of one day to the noon of another."""
    life = Life(application)
    begin, end = (datetime(day.year, day.month, day.day, 12, tzinfo=ZONE) for day in (first, last))
    events: list[tuple[datetime, str]] = []
    for timer, calendar in timers(application).items():
        for moment in due(calendar, begin, end):
            shown = moment.astimezone(ZONE)
            if kind(timer) in HOURLY and shown.hour != 9 and (shown.date() < close or shown.hour > 6):
                continue  # it would only say that nothing was missed
            if shown.date() < close and (kind(timer) in HEAVY or timer.endswith(HEAVY)):
                continue
            events.append((moment + timedelta(seconds=DELAYS.get(kind(timer), 0)), timer))
    noon = begin
    while (noon := noon + timedelta(days=1)) <= end:
        events.append((noon - timedelta(seconds=30), "noon"))
    began = time.monotonic()
    for moment, timer in sorted(events):
        life.at(moment)
        if timer == "noon":
            day = moment.astimezone(ZONE).date()
            print(json.dumps({"day": str(day), "states": life.look(day), "took": round(time.monotonic() - began, 1)}))
            sys.stdout.flush()
        elif timer == "logrotate.timer":
            life.rotate(moment)
        else:
            life.start(timer.replace(".timer", ".service"))
    told = {
        "faults": life.faults,
        "runs": life.runs(),
        "expired": life.expired,
        "kept": sorted(life.kept),
        "took": {name: [len(each), round(sum(each), 1)] for name, each in life.took.items()},
        "sizes": {path.name: path.stat().st_size for path in life.jobs.glob("*.jsonl")},
    }
    print(json.dumps({"told": told}))


def prepare(application: str, since: dict[str, str]) -> None:
    """The host as it would be if it had been set up before those days. `since`: from when each job is declared."""
    HERE.mkdir(exist_ok=True)
    OFFSET.write_text("0\n")
    listed = run("systemctl", "list-units", "--all", "--plain", "--no-legend", "--type=timer")
    run("systemctl", "stop", *(line.split()[0] for line in listed.splitlines()))
    REAL.mkdir(parents=True, exist_ok=True)
    for program in ("systemctl", "systemd-run"):
        (REAL / program).write_text(f'#!/bin/sh\nunset LD_PRELOAD\nexec /usr/bin/{program} "$@"\n')
        (REAL / program).chmod(0o755)
    given = {**FAKED, "PATH": f"{REAL}:/usr/sbin:/usr/bin:/sbin:/bin"}
    lines = ["[Unit]", "StartLimitIntervalSec=0", "[Service]", *(f"Environment={k}={v}" for k, v in given.items())]
    services = [f"backstay-{each}@" for each in ("backup", "verify", "jobs", "skipped", "job")]
    for service in (*services, "backstay-digest", "backstay-observe", "logrotate"):
        directory = UNITS / f"{service}.service.d"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "month.conf").write_text("\n".join(lines) + "\n")
    run("systemctl", "daemon-reload")
    first = min(datetime.fromisoformat(each) for each in since.values())
    home = Path("/var/lib/backstay") / application
    declared = home / "jobs" / "declared.json"
    value = json.loads(declared.read_text())
    for job, moment in since.items():
        value["jobs"][job]["since"] = moment
    declared.write_text(json.dumps(value))
    active = Path("/opt") / application / "active"
    os.utime(active, (first.timestamp() - 86400,) * 2, follow_symlinks=False)
    host = Path("/var/lib/backstay/.host")
    for path in (host / "observed.json", host / "incidents.json", host / "incidents.jsonl", host / "digest.json"):
        path.unlink(missing_ok=True)
    for path in (host / "samples").glob("*"):
        path.unlink()
    Path("/var/lib/logrotate/status").unlink(missing_ok=True)


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        prepare(sys.argv[2], json.loads(sys.argv[3]))
    else:
        live(sys.argv[1], *(date.fromisoformat(each) for each in sys.argv[2:5]))
