"""Promise 4: a backup counts when it was restored and compared."""

from __future__ import annotations

import json
import shlex
import time
from typing import Any

import pytest
from backstay_lab.scene import APPLICATION, Scene

DISK = f"/srv/backup/{APPLICATION}"
STATE = f"/var/lib/backstay/{APPLICATION}"


def shell(scene: Scene, command: str, *, check: bool = True) -> str:
    """What a command prints on the host."""
    return scene.lab.ssh("app1", command, check=check).stdout.strip()


def point(scene: Scene) -> dict[str, Any]:
    """A restore point made now."""
    return dict(scene.backstay("backup", "--json", APPLICATION))


def proof(scene: Scene, level: str = "L4", *, check: bool = True) -> dict[str, Any]:
    return dict(scene.backstay("verify", f"--level={level}", "--json", APPLICATION, check=check))


def photographs(scene: Scene) -> list[str]:
    found = shell(scene, f"cd /opt/{APPLICATION}/data/media && find . -type f | sort")
    return [line.removeprefix("./") for line in found.splitlines()]


# What code in a restored copy might do: each a place that it must not see, or somebody whom it must not reach.
TRIES = """
import json, os, socket, sys
def connect(host, port):
    socket.create_connection((host, port), timeout=3).close()
def call(path):
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(path)
application, address, live = sys.argv[1:]
found = {}
for name, what in {
    "the front door": lambda: connect("127.0.0.1", 443),
    "the network": lambda: connect(address, 22),
    "the live data": lambda: open(f"/opt/{application}/data/db/portal.sqlite3").close(),
    "the secrets": lambda: open(f"/etc/backstay/{application}/secrets.json").close(),
    "the catalogue": lambda: open(f"/var/lib/backstay/{application}/backups.jsonl").close(),
    "the repository": lambda: os.listdir(f"/srv/backup/{application}"),
    "the live release": lambda: call(live),
    "mail": lambda: open("/usr/sbin/sendmail").close(),
}.items():
    try:
        what()
        found[name] = "reached"
    except OSError as refused:
        found[name] = f"no: {refused.strerror}"
print(json.dumps(found))
"""
# The sandbox of a proof with a command of our own in it; then one that does not end.
INSIDE = """
import glob, json, sys
from pathlib import Path
sys.path.insert(0, sorted(glob.glob("/usr/lib/backstay/*/"))[-1])
from backstay._application import from_dict
from backstay._errors import BackstayError
from backstay._sandbox import Limits, Scratch, SystemdSandbox, Task
application = from_dict(json.load(open(f"/etc/backstay/{sys.argv[2]}/application.json")), file="application.json")
sandbox = SystemdSandbox(application)
with Scratch(Path("/var/lib/backstay/trial"), "trial") as scratch:
    done = sandbox.run(scratch, Task(("/usr/bin/python3", "-c", *sys.argv[1:]), Limits(seconds=60)))
    print(done.stdout.strip() or json.dumps(done.stderr))
    try:
        sandbox.run(scratch, Task(("/usr/bin/sleep", "60"), Limits(seconds=2)))
    except BackstayError as ended:
        print(json.dumps(ended.message))
"""


@pytest.fixture
def kept(at_1_1: Scene) -> Scene:
    """The host with 1.1.0 live and at least one restore point."""
    if not at_1_1.backstay("backups", "--json", APPLICATION)["points"]:
        point(at_1_1)
    return at_1_1


def test_never_backed_up_is_a_failure_from_the_first_day(at_1_1: Scene) -> None:
    catalogue = shell(at_1_1, f"cd {STATE} && ls backups.jsonl backups.head 2>/dev/null", check=False).split()
    for name in catalogue:
        shell(at_1_1, f"mv {STATE}/{name} {STATE}/{name}.aside")
    try:
        status = at_1_1.status()
        assert (status["exit_code"], status["state"]) == (2, "red")
        assert "there is no restore point" in status["verdict"]
    finally:
        for name in catalogue:
            shell(at_1_1, f"mv {STATE}/{name}.aside {STATE}/{name}")


def test_a_restored_copy_is_looked_at_where_it_sees_and_reaches_nothing_that_is_live(kept: Scene) -> None:
    live = shell(kept, f"readlink /opt/{APPLICATION}/active")
    given = shlex.join([TRIES, APPLICATION, kept.address(), live])
    mail = "/usr/sbin/sendmail"
    shell(kept, f"test -e {mail} || install -m 0755 /dev/null {mail}")
    outside = json.loads(shell(kept, f"python3 -c {given}"))
    assert set(outside.values()) == {"reached"}, f"what is tried is not there at all: {outside}"
    inside, ended = shell(kept, f"python3 -c {shlex.quote(INSIDE)} {given}").splitlines()
    assert all(told.startswith("no: ") for told in json.loads(inside).values()), inside
    assert set(json.loads(inside)) == set(outside)
    assert "it took longer than it may" in ended
    shell(kept, f"test -s {mail} || rm {mail}; rm -r /var/lib/backstay/trial")


def test_every_row_acknowledged_before_a_backup_is_in_it(kept: Scene) -> None:
    with kept.load(rate=25.0, seconds=60.0) as visitors:
        time.sleep(3.0)
        began = time.time()
        made = point(kept)
        result = visitors.stop()
    assert made["ok"], made
    assert result.failed == 0, result.failures
    acknowledged = [write.token for write in result.writes if write.at < began]
    assert acknowledged, "nobody wrote anything before the backup"
    shell(kept, "install -d -m 700 /srv/export")
    told = kept.backstay("export", "--to=/srv/export", f"--point={made['run']}", "--json", APPLICATION)
    copy = f"{told['directory']}/databases/default.sqlite3"
    program = (
        f"import sqlite3; c = sqlite3.connect('file:{copy}?mode=ro', uri=True); "
        "print(*(row[0] for row in c.execute(\"SELECT token FROM audits_finding WHERE token <> ''\")))"
    )
    there = set(shell(kept, f"python3 -c {shlex.quote(program)}").split())
    assert [token for token in acknowledged if token not in there] == []
    shell(kept, "rm -rf /srv/export")


def test_the_newest_point_is_restored_in_isolation_and_equals_its_manifest(kept: Scene) -> None:
    made = point(kept)
    found = proof(kept)
    assert found["ok"], found
    assert (found["run"], found["level"]) == (made["run"], 4)
    assert set(found["seconds"]) == {"L1", "L2", "L3", "L4"}
    status = kept.status()["backup"]
    assert status["newest"]["level"] == 4
    assert status["problems"] == []
    assert shell(kept, f"ls {STATE}/scratch", check=False) == "", "the proof left something behind"
    evidence = json.loads(shell(kept, f"cat {found['evidence']}"))
    assert evidence["level"] == 4
    assert kept.backstay("backups", "--evidence", "--json", APPLICATION)["faults"] == []


def test_a_release_runs_on_what_was_restored(kept: Scene) -> None:
    point(kept)
    found = proof(kept, "L5", check=False)
    assert found["ok"], found
    assert found["level"] == 5
    assert found["recovery_time_seconds"] > 0


def test_what_is_altered_in_the_repository_is_refuted(kept: Scene) -> None:
    point(kept)
    pack = shell(kept, f"ls -S {DISK}/data/*/* | head -1")
    shell(kept, f"cp -p {pack} /root/pack && printf x | dd of={pack} bs=1 seek=4000 conv=notrunc status=none")
    try:
        found = proof(kept, "L3", check=False)
        assert not found["ok"]
        assert found["level"] == 2, "a bit in a pack is found when all data are read back, and not before"
        refuted = {cell["name"]: cell for cell in kept.status()["cells"]}["restore"]
        assert refuted["state"] == "red", refuted
    finally:
        shell(kept, f"cp -p /root/pack {pack} && rm /root/pack")
    made = point(kept)
    assert proof(kept)["run"] == made["run"]


def test_the_applications_user_can_neither_read_nor_remove_what_is_kept(kept: Scene) -> None:
    for command in (f"ls {DISK}", f"rm -rf {DISK}/data", f"cat /etc/backstay/{APPLICATION}/backup.json", f"ls {STATE}"):
        done = kept.lab.ssh("app1", f"runuser -u {APPLICATION} -- {command}", check=False)
        assert not done.ok
        assert "Permission denied" in done.stderr, done.stderr


def test_a_backup_that_is_killed_at_any_moment_leaves_the_last_good_one(kept: Scene) -> None:
    good = point(kept)["run"]
    generations = shell(kept, f"ls -A /opt/{APPLICATION}/data.d")
    for delay in (0.2, 0.5, 0.9, 1.4, 2.0):
        kill = f"backstay backup --json {APPLICATION} >/dev/null 2>&1 & sleep {delay}; kill -KILL $! 2>/dev/null; wait"
        shell(kept, f"sh -c {shlex.quote(kill)}", check=False)
        points = kept.backstay("backups", "--json", APPLICATION)["points"]
        assert next(each for each in points if each["run"] == good)["good"]
    shell(kept, "pkill -KILL -x restic", check=False)
    made = point(kept)
    assert made["ok"], made
    assert proof(kept)["run"] == made["run"]
    assert shell(kept, f"ls -A /opt/{APPLICATION}/data.d") == generations, "a killed run left something beside the data"


def test_two_at_once_are_told_of_each_other(kept: Scene) -> None:
    both = (
        f"backstay backup --json {APPLICATION} > /tmp/one & sleep 0.6; "
        f"backstay backup --json {APPLICATION} > /tmp/two; wait; cat /tmp/one /tmp/two"
    )
    told = [json.loads(line) for line in shell(kept, f"sh -c {shlex.quote(both)}", check=False).splitlines()]
    assert [each["ok"] for each in told] == [True, False]
    assert "under way: backup" in told[1]["message"]


def test_a_release_names_the_restore_point_that_was_made_before_it(kept: Scene) -> None:
    kept.declare(backup={"before_release": True})
    try:
        kept.release(again=True, why="with a restore point")
        ledger = [json.loads(line) for line in shell(kept, f"cat {STATE}/ledger.jsonl").splitlines()]
        named = [each for each in ledger if each["event"] == "backed_up"][-1]
        live = kept.settled()["live"]["id"]
        assert named["release"] == live
        planned = kept.backstay("restore", "--plan", f"--point=release:{live}", "--json", APPLICATION)
        assert planned["point"]["run"] == named["data"]["backup_run"]
    finally:
        kept.declare()


def test_a_release_that_writes_where_no_backup_looks_is_refused(kept: Scene) -> None:
    """The trap of a backup that is green for years and holds another file than the one that is used."""
    before = kept.live()
    kept.declare(databases=[{"name": "default", "engine": "sqlite", "path": "db/other.sqlite3"}])
    try:
        refused = kept.release(again=True, check=False)
    finally:
        kept.declare()
    told = " ".join(refused.output.split())
    assert not refused.ok
    assert "keeps data that no backup would hold: its database 'default' is " in told, refused.output
    assert "portal.sqlite3, which `databases` does not name" in told, refused.output
    assert kept.settled()["live"]["id"] == before


def test_a_release_without_a_restore_point_is_refused_and_can_be_insisted_on(kept: Scene) -> None:
    kept.declare(backup={"before_release": True})
    before = kept.live()
    shell(kept, f"mv {DISK} {DISK}.away && touch {DISK}")
    try:
        refused = kept.release(again=True, check=False)
        assert not refused.ok
        assert "No restore point could be made before" in " ".join(refused.output.split())
        assert kept.settled()["live"]["id"] == before
        assert kept.release(again=True, override_backup="the lift at the hospital stands still").ok
    finally:
        shell(kept, f"rm {DISK} && mv {DISK}.away {DISK}")
        kept.declare()


def test_what_a_schedule_starts_is_what_a_person_starts(kept: Scene) -> None:
    timers = shell(kept, "systemctl list-timers --all --no-legend 'backstay-*'")
    for name in ("backup", "verify"):
        assert f"backstay-{name}@{APPLICATION}.timer" in timers
    before = len(kept.backstay("backups", "--json", APPLICATION)["points"])
    shell(kept, f"systemctl start backstay-backup@{APPLICATION}.service backstay-verify@{APPLICATION}.service")
    points = kept.backstay("backups", "--json", APPLICATION)["points"]
    assert len(points) == before + 1
    assert points[-1]["level"] == 4


def test_no_secret_of_a_repository_is_seen_by_others_while_it_is_used(kept: Scene) -> None:
    password = json.loads(shell(kept, f"cat /etc/backstay/{APPLICATION}/backup.json"))["repositories"]["disk"][
        "password"
    ]
    watch = (
        f"backstay backup {APPLICATION} > /tmp/said 2>&1 & "
        "while kill -0 $! 2>/dev/null; do "
        "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; sleep 0.05; done > /tmp/seen; "
        f"journalctl -u 'backstay-*' --no-pager >> /tmp/seen; cat /tmp/said {STATE}/backups.jsonl >> /tmp/seen"
    )
    shell(kept, f"bash -c {shlex.quote(watch)}", check=False)
    assert "restic" in shell(kept, "cat /tmp/seen")
    assert kept.lab.ssh("app1", f"grep -cF {shlex.quote(password)} /tmp/seen", check=False).stdout.strip() == "0"
