"""The example application on PostgreSQL: a server on its own host, backed up, proven, restored and undone."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from backstay_lab.scene import APPLICATION
from portal_on_postgresql import BUILDER, DATABASE, HOST, PASSWORD, Portal
from strikes import failpoint

pytestmark = pytest.mark.long

# Every command line of the host, as long as its file is there; where the password is, that is told.
WATCHER = f"""
import json, os, time
seen, told = set(), set()
while os.path.exists("/run/watched"):
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = open(f"/proc/{{name}}/cmdline", "rb").read().replace(bytes(1), b" ").decode(errors="replace")
        except OSError:
            continue
        seen |= {{each for each in ("psql", "pg_dump", "pg_restore", "initdb") if each in line}}
        if {PASSWORD!r} in line:
            told.add(line[:200])
    time.sleep(0.02)
print(json.dumps(sorted(seen)))
print(json.dumps(sorted(told)))
"""


@pytest.fixture(scope="module")
def portal() -> Iterator[Portal]:
    stage = Portal("pg", lambda line: print(line, flush=True))
    stage.remove()
    stage.stage()
    yield stage
    stage.remove()


@contextmanager
def watched(portal: Portal) -> Iterator[list[set[str]]]:
    """Which clients of the server were seen meanwhile, and which command lines had the password in them."""
    found: list[set[str]] = []
    portal.shell("touch /run/watched")
    command = portal.lab.ssh_command(HOST, "python3", "-")
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert watcher.stdin is not None
    watcher.stdin.write(WATCHER)
    watcher.stdin.close()
    watcher.stdin = None
    try:
        yield found
    finally:
        portal.shell("rm -f /run/watched")
        told, _nothing = watcher.communicate(timeout=30)
        found += [set(json.loads(line)) for line in told.splitlines()]


def left_over(portal: Portal) -> str:
    """What a proof or a restore may have left: rooms, clusters, processes."""
    rooms = f"ls -A /var/lib/backstay/{APPLICATION}/scratch 2>/dev/null | grep -v '^.guard$'"
    clusters = "ls -d /var/tmp/backstay-* /tmp/backstay-* 2>/dev/null"
    return portal.shell(f"{rooms}; {clusters}; pgrep -af '/[p]ostgresql/data'; true")


def test_a_second_run_changes_nothing(portal: Portal) -> None:
    played = portal.play("site")
    assert re.findall(rf".* changed (?:{HOST}|{BUILDER})", played.output) == []


def test_a_restore_point_holds_on_every_level_and_leaves_nothing_behind(portal: Portal) -> None:
    with watched(portal) as seen:
        portal.told("backup")
        found = portal.told("verify", "--level=L5")
    clients, told = seen
    assert {"psql", "pg_dump", "pg_restore", "initdb"} <= clients, "the watcher saw too little to say anything"
    assert told == set()
    assert found["level"] == 5, found
    assert left_over(portal) == ""


def test_nothing_is_left_of_a_proof_that_was_killed(portal: Portal) -> None:
    verify = f"backstay verify --level=L4 {APPLICATION}"
    portal.shell(
        f"{verify} >/dev/null 2>&1 & pid=$!; while ! pgrep -f '[r]un/backstay-proof/cluster' >/dev/null; do "
        "kill -0 $pid || exit 1; sleep 0.05; done; kill -KILL $pid; "
        # Its unit goes on and ends by itself; then it takes its room with it.
        "for unit in $(systemctl list-units --plain --no-legend 'backstay-proof-*' | cut -d' ' -f1); do "
        "while systemctl is-active --quiet $unit; do sleep 0.2; done; done"
    )
    deadline = time.monotonic() + 20
    while (
        left := "\n".join(each for each in left_over(portal).splitlines() if not each.endswith(".lock"))
    ) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left == ""
    assert portal.told("verify", "--level=L4")["level"] == 4
    assert left_over(portal) == ""


def test_every_acknowledged_row_is_in_the_point_and_back_after_the_undo_whoever_is_connected(portal: Portal) -> None:
    before = portal.written()
    # Somebody with a session of his own, and of a higher rank than the application's role.
    sleeper = portal.lab.ssh_command(
        HOST, "runuser", "-u", "postgres", "--", "psql", "-d", DATABASE, "-c", "'SELECT pg_sleep(600)'"
    )
    other = subprocess.Popen(sleeper, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/")
    with portal.visited() as visitors, watched(portal) as seen:
        time.sleep(6.0)
        asked = time.time()
        portal.told("backup")
        backed_up = time.time()
        time.sleep(6.0)
        planned = portal.backstay("restore", "--plan", "--json", APPLICATION)
        restoring = time.time()
        told = portal.told("restore", "--why=a-test")
        restored = time.time()
        assert before <= portal.tokens()
        kept = [name for name in portal.names() if name.startswith(f"{DATABASE}_g")]
        time.sleep(6.0)
        undoing = time.time()
        portal.told("restore", "--undo")
        undone = time.time()
        time.sleep(2.0)
        result = visitors.stop()
    said, _nothing = other.communicate(timeout=30)
    assert "terminating connection" in said
    assert seen[1] == set(), "the password is in a command line"
    assert "psql" in seen[0]
    assert any("audits_finding" in line for line in planned["lines"]), planned["lines"]

    live = portal.tokens()
    (aside,) = {name for name in portal.names() if name.startswith(f"{DATABASE}_g")} - set(kept) or {""}
    assert aside, "the data that were live between the restore and its undo are gone"
    between = portal.tokens(aside)
    acknowledged = [(write.at, write.token) for write in result.writes]
    point = {token for at, token in acknowledged if at < asked} | before
    assert point <= between, "a row that was acknowledged before the snapshot is not in the restored data"
    after = {token for at, token in acknowledged if backed_up < at < restoring}
    assert after, "nobody wrote between the backup and the restore, so nothing was shown"
    assert not after & between
    assert before | {token for at, token in acknowledged if at < restoring or at > undone} <= live
    since = {token for at, token in acknowledged if restored < at < undoing}
    assert since, f"nobody could write to the restored data: {result.failures[:3]}"
    assert since <= between
    assert {token for _at, token in acknowledged} <= live | between, "a row that was acknowledged is nowhere"
    assert {"place", "swap"} <= {step["step"] for step in told["steps"]}
    # What was restored belongs to the application, and to nobody else.
    owners = portal.ask("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'", aside)
    assert owners == [APPLICATION]
    (allowed,) = portal.ask(f"SELECT has_database_privilege('public', '{aside}', 'CONNECT')", "postgres")
    assert allowed == "f", "every role of the server may connect to the restored database"


@pytest.mark.parametrize("point", ["place:work:KILL", "swap:begin:KILL", "swap:work:KILL"])
def test_a_restore_that_is_killed_heals_itself_and_leaves_the_databases_as_they_were(
    portal: Portal, point: str
) -> None:
    names, tokens = portal.names(), portal.tokens()
    with failpoint(portal, point):
        died = portal.backstay("restore", "--json", APPLICATION, check=False)
    assert not died["ok"]
    portal.settled()
    assert portal.names() == names
    assert portal.tokens() == tokens
    assert portal.get("/").status == 200
    assert left_over(portal) == ""


def test_a_role_that_may_make_databases_and_extensions_of_the_administrator_are_no_obstacle(portal: Portal) -> None:
    portal.databases = ({"name": DATABASE, "owner": APPLICATION, "createdb": True},)
    portal.play("site")
    portal.ask("CREATE EXTENSION IF NOT EXISTS pg_stat_statements; CREATE EXTENSION IF NOT EXISTS citext")
    tokens = portal.tokens()
    portal.told("backup")
    assert portal.told("verify", "--level=L4")["level"] == 4
    portal.told("restore", "--only=database:default")
    assert portal.tokens() == tokens
    assert portal.ask("SELECT extname FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY 1") == [
        "citext",
        "pg_stat_statements",
    ]
    # The sequences stand where they stood: what is written next collides with nothing.
    assert portal.written()
    portal.told("restore", "--undo")
    assert portal.tokens() == tokens


def test_a_dump_is_exported_as_a_file_and_proven_where_no_server_is(portal: Portal, tmp_path: Path) -> None:
    portal.shell("rm -rf /root/exported; install -d -m 0700 /root/exported")
    portal.told("export", "--to=/root/exported")
    assert portal.shell("head -c 5 $(find /root/exported -name 'default*dump')") == "PGDMP"
    portal.backstay("escrow", "--to=/root/portal.key", APPLICATION)
    key = tmp_path / "portal.key"
    key.write_text(portal.shell("cat /root/portal.key"))
    drill = portal.play("drill", drill_host=BUILDER, key=str(key), app=APPLICATION, repository="offsite", check=False)
    assert drill.ok, drill.last_lines(30)
    assert "holds on level 5" in " ".join(drill.output.split())
    listed = portal.lab.ssh(BUILDER, "pg_lsclusters --no-header", check=False).stdout
    assert listed == "", f"a server was made where only its programs are needed: {listed}"
