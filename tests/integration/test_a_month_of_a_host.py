"""What a host does by itself, over a month and both changes of daylight-saving time: nothing missed, nothing twice.

One real host of its own, with 1.5.0 of the example as its file has it. No clock is ever set: each service runs under
libfaketime at the time at which systemd would start it (month_on_host.py), and cron itself runs fast.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from backstay_lab.scene import APPLICATION, Scene

from ansible_collections.backstay.ops.plugins.module_utils import _jobs, _schedule
from ansible_collections.backstay.ops.plugins.module_utils._application import parse
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout

pytestmark = pytest.mark.long

LAB = os.environ.get("BACKSTAY_LAB") or "test"
ZONE = ZoneInfo("Europe/Berlin")
DRIVER = Path(__file__).with_name("month_on_host.py")
RESULTS = f"/var/lib/backstay/{APPLICATION}/jobs"
LOGS = f"/var/log/{APPLICATION}"
INBOX = "/var/mail/sink"
# What the example's file asks for, and two that both changes of the clock touch.
SCHEDULES = {
    "jobs": {
        "in_the_gap": {"command": ["true"], "when": "daily 02:30"},
        "each_hour": {"command": ["true"], "when": "hourly :30"},
        "slow": {"command": ["sleep", "120"], "when": "yearly"},
    }
}
SENDMAIL = f"""#!/bin/sh
umask 077
exec cat > {INBOX}/$(date +%s%N).$$
"""
# Each a message with all that goes with it, an entry of the audit log and a reset token, so many days old.
AGES = (800, 400, 366, 364, 181, 179, 91, 89, 8, 6, 1)
# As the example's file has them, before its retention at 03:00.
NIGHTS = {"at": "02:00", "proof": {"nightly": "02:30"}}
LIMITS = {"messages": 365, "read_receipts": 180, "audit_log": 90, "reset_tokens": 7}
PLANT = """
from datetime import timedelta
from django.contrib.auth.models import User
from django.core.files.base import ContentFile
from django.utils import timezone
from audits.models import *
ada, bo = (User.objects.get_or_create(username=name)[0] for name in ("ada", "bo"))
audit = Audit.objects.first()
for days in AGES:
    at = timezone.now() - timedelta(days=days)
    message = Message.objects.create(audit=audit, author=ada, text=f"walrus{days} was here", created_at=at)
    Attachment(message=message, name="a.txt", size=5).file.save(f"walrus{days}.txt", ContentFile(b"12345"))
    Reaction.objects.create(message=message, user=bo, kind="thanks")
    ReadReceipt.objects.create(message=message, user=bo, read_at=at)
    AuditLogEntry.objects.create(action=f"test{days}", at=at)
    ResetToken.objects.create(user=ada, digest=f"walrus{days}", created_at=at)
"""
LOOK = """
import json, pathlib
from audits import search
from audits.models import *
search.check()
def days(values):
    return sorted(int("".join(filter(str.isdigit, each))) for each in values)
stored = Attachment._meta.get_field("file").storage
files = [path.name for path in pathlib.Path(stored.location, "attachments").rglob("walrus*")]
print(json.dumps({
    "messages": days(Message.objects.filter(text__startswith="walrus").values_list("text", flat=True)),
    "files": sorted(int(name.removeprefix("walrus").split(".")[0].split("_")[0]) for name in files),
    "words": [each for each in AGES if search.matching(f"walrus{each}").exists()],
    "audit_log": days(AuditLogEntry.objects.filter(action__startswith="test").values_list("action", flat=True)),
    "reset_tokens": days(ResetToken.objects.filter(digest__startswith="walrus").values_list("digest", flat=True)),
    "read_receipts": days(ReadReceipt.objects.filter(message__text__startswith="walrus")
        .values_list("message__text", flat=True)),
    "reactions": Reaction.objects.filter(message__text__startswith="walrus").count(),
}))
"""


@pytest.fixture(scope="module")
def host() -> Iterator[Scene]:
    """The example's 1.5.0 on a host in Berlin that mails a digest to a sink."""
    stage = Scene(f"{LAB}-month", lambda line: print(line, flush=True))
    stage.remove()
    stage.prepare(("app1", "build1"), image="prepared")
    needed = "libfaketime msmtp-mta cron tzdata"
    install = f"apt-get -q update && apt-get -q install -y --no-install-recommends {needed}"
    stage.lab.ssh("app1", install, timeout_seconds=300.0)
    program = "/usr/sbin/sendmail"
    sink = f"install -d -m 1777 {INBOX}; rm -f {program}; cat > {program}; chmod 755 {program}"
    stage.lab.ssh("app1", f"printf %s {shlex.quote(SENDMAIL)} | sh -c {shlex.quote(sink)}")
    stage.lab.ssh("app1", f"ln -sf /usr/share/zoneinfo/{ZONE} /etc/localtime")
    stage.declare(schedules=SCHEDULES, backup=NIGHTS)
    stage.play("site", logwatch_recipients=["ada@example.org"])
    stage.build("1.5.0")
    stage.release("1.5.0", why="the month begins")
    stage.manage("seed", "--audits", "200")
    stage.settled()
    yield stage
    stage.remove()


def first_of(scene: Scene, first: date, close: date, *, old_runs: int = 0) -> None:
    """The host as if it had been set up before those days, and what is heavy before the last of them."""
    since = dict.fromkeys(("clearsessions", "media_size", "in_the_gap", "slow"), noon(first))
    since |= dict.fromkeys(("retention", "each_hour"), noon(close).replace(hour=0))
    scene.lab.copy("app1", DRIVER, "/root/month_on_host.py")
    rows = []
    for number in range(old_runs):
        at = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=number)).isoformat().replace("+00:00", ".000Z")
        rows.append(json.dumps({"job": "each_hour", "start": at, "end": at, "exit": 0, "lines": ["x" * 200]}))
    old = "\n".join([*rows, ""]) if rows else ""
    scene.lab.ssh("app1", f"rm -f {RESULTS}/*.jsonl {LOGS}/*.log.* {INBOX}/*")
    if old:
        with subprocess.Popen(
            scene.lab.ssh_command("app1", f"cat > {RESULTS}/each_hour.jsonl"), stdin=subprocess.PIPE, text=True
        ) as told:
            told.communicate(old)
    moments = json.dumps({job: moment.astimezone(UTC).isoformat() for job, moment in since.items()})
    scene.lab.ssh("app1", f"python3 /root/month_on_host.py prepare {APPLICATION} {shlex.quote(moments)}")


def live(scene: Scene, first: date, last: date, close: date) -> dict[str, Any]:
    """From noon to noon; what was found at the end."""
    command = scene.lab.ssh_command("app1", f"python3 /root/month_on_host.py {APPLICATION} {first} {last} {close}")
    found: dict[str, Any] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as days:
        for line in days.stdout or ():
            value = json.loads(line) if line.startswith("{") else {"said": line.rstrip()}
            found = value.get("told", found)
            if "told" not in value:
                print(json.dumps(value), flush=True)
    assert found, "it did not come to its end"
    return found


def noon(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 12, tzinfo=ZONE)


def each_once(runs: Sequence[dict[str, Any]], days: Sequence[date], since: datetime) -> None:
    """There is one good run for each of those days in Berlin, and no other since then."""
    bad = [run for run in runs if run["exit"] != 0 or run["why"]]
    assert bad == []
    starts = [datetime.fromisoformat(run["start"]) for run in runs]
    found = Counter(start.astimezone(ZONE).date() for start in starts if start >= since)
    assert found == Counter(days), "a day without a run, or with two"


def every_day(first: date, last: date) -> list[date]:
    return [first + timedelta(days=number) for number in range(1, (last - first).days + 1)]


def judge(scene: Scene, told: dict[str, Any], first: date, last: date, close: date) -> None:
    """Nothing was missed, nothing was done twice, and what is kept is bounded."""
    assert told["faults"] == []
    days, begin = every_day(first, last), noon(first)
    nights = [day for day in days if day >= close]
    each_once(told["runs"]["in_the_gap"], days, begin)
    each_once(told["runs"]["retention"], nights, begin)
    for job in ("clearsessions", "media_size"):
        each_once(told["runs"][job], [day for day in days if day.weekday() == 6], begin)
    hours = [datetime.fromisoformat(run["start"]) for run in told["runs"]["each_hour"]]
    hours = [moment for moment in hours if moment >= noon(close).replace(hour=0)]
    real = noon(last).astimezone(UTC) - noon(close).replace(hour=0).astimezone(UTC)
    assert len(hours) == real.total_seconds() // 3600, "by real hours: 23 on the one day, 25 on the other"
    assert {(moment + timedelta(seconds=1)).minute for moment in hours} == {30}
    assert max(told["sizes"].values()) < 600_000, "old results go"

    points = scene.backstay("backups", "--json", APPLICATION)["points"]
    made = [datetime.fromisoformat(point["at"]) for point in points]
    found = Counter(moment.astimezone(ZONE).date() for moment in made if begin <= moment < noon(last))
    assert found == Counter(nights), "one backup each night"
    assert all(point["good"] for point in points)
    there = [point for point in points if point["repositories"]]
    assert all(point["level"] >= 4 for point in there if point["at"] >= begin.astimezone(UTC).isoformat())
    assert len(there) <= 13, "the newest of seven days and of four weeks, and those of before"

    mail = re.sub(r"\n[ \t]+", " ", scene.lab.ssh("app1", f"cat {INBOX}/*").stdout)
    subjects = re.findall(r"(?mi)^subject: (.*\(digest of (\S+)\).*)$", mail)
    assert Counter(day for _subject, day in subjects) == Counter(map(str, days)), "one digest a day"
    assert not [subject for subject, _day in subjects if "INCOMPLETE" in subject]
    log = scene.lab.ssh("app1", "cat /var/lib/backstay/.host/incidents.jsonl 2>/dev/null || true").stdout
    assert not re.findall(r'"key":\s*"[^"]*/(?:jobs:|digest)[^"]*"', log), "no verdict of late, missing or failed"


def findings(lines: Sequence[str]) -> list[int]:
    """The findings that lines of the application say were kept."""
    rows = [json.loads(line[line.index("{") :]) for line in lines if '"finding kept"' in line]
    return sorted(int(row["data"]["finding"]) for row in rows)


def test_a_night_in_which_an_hour_is_skipped(host: Scene) -> None:
    first, last, close = date(2026, 3, 27), date(2026, 3, 30), date(2026, 3, 28)
    first_of(host, first, close)
    judge(host, live(host, first, last, close), first, last, close)


def test_a_month_in_which_an_hour_comes_twice(host: Scene) -> None:
    first, last, close = date(2026, 9, 26), date(2026, 10, 27), date(2026, 10, 25)
    first_of(host, first, close, old_runs=2500)
    began = host.lab.ssh("app1", f"date +%s; : > {LOGS}/app.log").stdout.strip()
    with host.load(rate=20.0, seconds=1800.0) as load:
        told = live(host, first, last, close)
        load.stop()
    judge(host, told, first, last, close)

    files = host.lab.ssh("app1", f"ls {LOGS}; zcat --force {LOGS}/app.log*").stdout.splitlines()
    names = {name for name in files if re.fullmatch(r"app\.log[.\dgz]*", name)}
    wanted = {"app.log", "app.log.1", *(f"app.log.{number}.gz" for number in range(2, 15))}
    assert names == wanted, "fourteen days, each in its file"
    assert max(told["kept"]) == 14
    journal = f"journalctl --no-pager --output=cat --since=@{began} SYSLOG_IDENTIFIER={APPLICATION}-web"
    said = findings(host.lab.ssh("app1", journal).stdout.splitlines())
    assert len(said) >= 20, "too few lines to show anything"
    assert findings(told["expired"]), "and some of them are older than fourteen days"
    assert sorted(findings(told["expired"]) + findings(files)) == said, "each line once, those that expired included"


def django(scene: Scene, program: str) -> str:
    text = program.replace("AGES", str(AGES))
    asked = f"backstay run -a {APPLICATION} python manage.py shell -v 0 -c {shlex.quote(text)}"
    return scene.lab.ssh("app1", asked).stdout


def look(scene: Scene) -> dict[str, Any]:
    """What is there of what was planted, by its age."""
    return dict(json.loads(django(scene, LOOK).splitlines()[-1]))


def expected(limits: dict[str, int]) -> dict[str, Any]:
    """What may be there after a retention."""
    kept = {kind: sorted(age for age in AGES if age < days) for kind, days in limits.items()}
    messages = kept["messages"]
    receipts = [age for age in kept["read_receipts"] if age in messages]
    return {
        **kept,
        "read_receipts": receipts,
        "files": messages,
        "words": [age for age in AGES if age in messages],
        "reactions": len(messages),
    }


def today(scene: Scene) -> None:
    """Nothing is under libfaketime any more, whatever the test before did."""
    scene.lab.ssh("app1", "rm -f /run/systemd/system/*.service.d/month.conf; systemctl daemon-reload")


def retention(scene: Scene) -> dict[str, Any]:
    return dict(scene.backstay("job", "--json", "retention", APPLICATION, check=False))


def incidents(scene: Scene) -> list[str]:
    """What the observer has open of that job, after it looked."""
    scene.lab.ssh("app1", "systemctl start backstay-observe.service")
    told = scene.backstay("incidents", "--json", APPLICATION, check=False)
    return [
        str(each["incident"]["key"])
        for each in told["open"]
        if each["incident"]["key"] == f"{APPLICATION}/jobs:retention"
    ]


def test_data_are_deleted_only_with_a_proven_restore_point_and_then_exactly_what_is_too_old(host: Scene) -> None:
    today(host)
    django(host, PLANT)
    everything = look(host)
    assert everything["messages"] == sorted(AGES)
    dry = json.loads(host.manage("retention", "--dry-run").splitlines()[-1])
    assert look(host) == everything, "a dry run deletes nothing"
    counts = {
        "messages": sum(age > 365 for age in AGES),
        "attachments": sum(age > 365 for age in AGES),
        "index_entries": sum(age > 365 for age in AGES),
        "reactions": sum(age > 365 for age in AGES),
        "read_receipts": sum(age > 180 for age in AGES),
        "reset_tokens": sum(age > 7 for age in AGES),
        "audit_log": sum(age > 90 for age in AGES),
    }
    assert {key: dry[key] for key in counts} == counts

    refused = retention(host)
    assert not refused["ok"]
    assert "so nothing was begun" in refused["why"], refused
    assert look(host) == everything, "without a proof nothing is deleted"
    assert incidents(host) == [f"{APPLICATION}/jobs:retention"], "and somebody is told"
    host.backstay("backup", APPLICATION)
    assert "so nothing was begun" in retention(host)["why"], "a backup alone proves nothing"
    assert look(host) == everything

    host.backstay("verify", "--level=L4", APPLICATION)
    done = retention(host)
    assert done["ok"], done
    assert {key: done["counts"][key] for key in counts} == counts, "the result says what was deleted"
    assert done["counts"]["dry_run"] is False
    assert look(host) == expected(LIMITS)
    assert incidents(host) == []
    states = host.backstay("jobs", "--json", APPLICATION, check=False)["jobs"]
    (state,) = [each for each in states if each["job"] == "retention"]
    assert (state["state"], state["counts"]["messages"]) == ("ok", counts["messages"])


def test_a_run_that_is_killed_is_told_and_the_next_one_works(host: Scene) -> None:
    today(host)
    unit, asked = f"backstay-job@{APPLICATION}:slow.service", f"/run/backstay/{APPLICATION}.slow.asked"
    for _round in range(2):
        host.lab.ssh("app1", f"touch {asked}; systemctl start --no-block {unit}")
        assert state_of(host, until="running") == "running", "also after the kill before"
        host.lab.ssh("app1", f"systemctl kill --kill-whom=main --signal=KILL {unit}")
        assert state_of(host, until="failed") == "failed"
        deadline = time.monotonic() + 20
        while sleeping(host) and time.monotonic() < deadline:
            time.sleep(0.3)
        assert sleeping(host) == "", "the command does not outlive who watches it"
    host.lab.ssh("app1", f"systemctl reset-failed {unit}")


def sleeping(scene: Scene) -> str:
    return scene.lab.ssh("app1", f"pgrep -u {APPLICATION} -a sleep", check=False).stdout.strip()


def state_of(scene: Scene, *, until: str, seconds: float = 20.0) -> str:
    """What is said of the slow job as soon as it is that, else at last."""
    deadline = time.monotonic() + seconds
    while True:
        told = scene.backstay("jobs", "--json", APPLICATION, check=False)["jobs"]
        state = next(str(each["state"]) for each in told if each["job"] == "slow")
        if state == until or time.monotonic() > deadline:
            return state
        time.sleep(0.3)


# cron


@pytest.mark.parametrize(
    ("begin", "hours"), [("2026-03-29 01:50:00", 2), ("2026-10-25 01:50:00", 4)], ids=["skipped", "twice"]
)
def test_cron_itself_runs_each_line_once_in_such_a_night(host: Scene, begin: str, hours: int) -> None:
    described = {
        "format": 1,
        "name": "portal",
        "domain": "portal.example.org",
        "source": {"repository": "/srv/portal.git"},
        "runtime": {"settings": "portal.settings", "wsgi": "portal.wsgi:application"},
        "processes": {"web": {"workers": 1, "threads": 2}},
        "backup": {
            "scheduler": "cron",
            "at": "02:00",
            "proof": {"nightly": "02:30"},
            "repositories": {"disk": {"location": "/srv/backup/portal"}},
        },
        "schedules": {
            "scheduler": "cron",
            "jobs": {"retention": {"command": ["true"], "when": "daily 03:00"}} | SCHEDULES["jobs"],
        },
    }
    application = parse(described, file="portal.yml")
    layout = Layout("portal")
    assert application.backup is not None
    text = _schedule.cron_text("portal", application.backup) + _jobs.cron_text(layout, application.schedules)
    lines, names = [], []
    for line in text.splitlines():
        found = re.match(r"((?:\S+ ){5})root (.*)", line)
        if found:
            names.append(re.sub(r".*/usr/bin/backstay |.*backstay-job@portal:| >/dev/null|\.service", "", found[2]))
            lines.append(f"{found[1]}root echo '{names[-1]}' >> /run/month/cron")
    speed = 240
    night = "\n".join(["SHELL=/bin/sh", *lines, ""])
    unit = "month-cron"
    setup = "systemctl stop cron; mkdir -p /run/month; : > /run/month/cron; cat > /etc/cron.d/month"
    host.lab.ssh("app1", f"printf %s {shlex.quote(night)} | sh -c {shlex.quote(setup)}")
    library = host.lab.ssh("app1", "ls /usr/lib/*/faketime/libfaketime.so.1").stdout.strip()
    faked = f"--setenv=LD_PRELOAD={library} '--setenv=FAKETIME=@{begin} x{speed}' --setenv=NO_FAKE_STAT=1"
    host.lab.ssh("app1", f"systemd-run --quiet --unit={unit} --setenv=TZ={ZONE} {faked} /usr/sbin/cron -f")
    time.sleep(hours * 3600 / speed)
    host.lab.ssh("app1", f"systemctl stop {unit}; rm /etc/cron.d/month", check=False)
    ran = Counter(host.lab.ssh("app1", "cat /run/month/cron").stdout.splitlines())
    once = ["backup portal", "verify --level L4 portal", "in_the_gap", "retention"]
    assert {name: ran[name] for name in once} == dict.fromkeys(once, 1), ran
    assert ran["each_hour"] == hours, "by real hours"
