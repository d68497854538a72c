"""What a release is refused for before anybody sees it, what closes the door, and what leads back over a migration."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest
from backstay_lab.layout import CHECKOUT
from backstay_lab.scene import APPLICATION, Scene

STATE = f"/var/lib/backstay/{APPLICATION}"
DATABASE = f"/opt/{APPLICATION}/data/db/portal.sqlite3"


def folded(text: str) -> str:
    return " ".join(text.split())


def columns(scene: Scene, table: str) -> set[str]:
    """The columns of a table, asked of the file itself."""
    program = (
        f"import sqlite3; c = sqlite3.connect('file:{DATABASE}?mode=ro', uri=True); "
        f"print(*(row[1] for row in c.execute('PRAGMA table_info({table})')))"
    )
    return set(scene.lab.ssh("app1", f"python3 -c {shlex.quote(program)}").stdout.split())


def ledger(scene: Scene) -> list[dict[str, object]]:
    return [json.loads(line) for line in scene.lab.ssh("app1", f"cat {STATE}/ledger.jsonl").stdout.splitlines()]


def writes_work(scene: Scene) -> None:
    """Visitors can add findings, and none that was acknowledged is missing."""
    with scene.load(rate=20.0, seconds=20.0) as load:
        time.sleep(3.0)
        result = load.stop()
    assert result.failed == 0, result.failures
    assert result.writes, "nobody wrote anything"
    assert scene.missing_writes([write.token for write in result.writes]) == []


@pytest.mark.parametrize(
    ("version", "table", "reason"),
    [
        ("1.4.0", "audits_lift", "drops the column manufacturer of audits_lift (360 rows"),
        ("1.6.0", "audits_finding", "priority is NOT NULL and only Django knows its default"),
    ],
)
def test_a_migration_that_breaks_what_serves_is_refused_and_maintenance_is_offered(
    at_1_1: Scene, version: str, table: str, reason: str
) -> None:
    before = at_1_1.status()
    schema = columns(at_1_1, table)
    refused = at_1_1.release(version, check=False)
    told = folded(refused.output)
    assert not refused.ok
    assert f"{version} cannot be released beside {before['live']['id']}" in told, refused.output
    assert reason in told, refused.output
    assert "maintenance=true" in told, refused.output
    after = at_1_1.settled()
    assert (after["live"], after["warm"]) == (before["live"], before["warm"])
    assert columns(at_1_1, table) == schema
    staged = [entry for entry in ledger(at_1_1) if entry["event"] == "schema"]
    assert staged[-1]["data"]["verdict"]["verdict"] == "breaking"  # type: ignore[index]  # JSON


def test_a_maintenance_release_turns_visitors_away_keeps_every_write_and_can_be_reversed(at_1_1: Scene) -> None:
    before = at_1_1.status()["live"]["id"]
    records = CHECKOUT / ".lab" / at_1_1.name / "records.jsonl"
    with at_1_1.load("--records", str(records), rate=20.0) as load:
        time.sleep(1.0)
        at_1_1.release("1.6.0", maintenance=True, why="a priority for each finding")
        time.sleep(1.0)
        result = load.stop()
    answers = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]
    wrong = [answer for answer in answers if answer["reason"] and answer["status"] != 503]
    assert wrong == [], wrong[:3]
    assert any(answer["status"] == 503 for answer in answers), "the door was never closed"
    assert at_1_1.missing_writes([write.token for write in result.writes]) == []
    status = at_1_1.settled()
    assert status["live"]["version"] == "1.6.0"
    assert "priority" in columns(at_1_1, "audits_finding")
    assert status["warm"] is None, "a release that cannot live with the schema must not be kept warm"
    points = at_1_1.lab.ssh("app1", f"ls {STATE}/restore-points").stdout.split()
    assert points, "no restore point was made"

    plan = at_1_1.backstay("rollback", "--plan", "--json", APPLICATION)
    assert plan["way_back"] == "reverse"
    assert plan["verdict"] == "needs reverse of audits.0003_priority (reversible)"
    refused = at_1_1.backstay("rollback", "--json", APPLICATION, check=False)
    assert not refused["ok"]
    assert "--reverse" in refused["message"]
    assert at_1_1.live() == status["live"]["id"]

    back = at_1_1.rollback(reverse=True, why="not yet")
    assert "1 reversed: audits.0003_priority" in back.output
    assert at_1_1.settled()["live"]["id"] == before
    assert "priority" not in columns(at_1_1, "audits_finding")
    writes_work(at_1_1)


def test_while_the_door_is_closed_visitors_are_told_when_to_come_back(at_1_1: Scene) -> None:
    at_1_1.backstay("maintenance", "on", APPLICATION)
    try:
        answer = at_1_1.get("/")
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) > 0
        assert "We will be right back" in answer.body
    finally:
        at_1_1.backstay("maintenance", "off", APPLICATION)


def test_over_a_migration_that_cannot_be_taken_back_a_rollback_names_the_restore_point_and_is_refused(
    at_1_1: Scene,
) -> None:
    before = at_1_1.status()["live"]["id"]
    at_1_1.release("1.4.0", maintenance=True, why="the register knows the manufacturers")
    try:
        plan = at_1_1.backstay("rollback", "--plan", "--json", APPLICATION)
        assert plan["way_back"] == "irreversible"
        assert plan["verdict"].startswith("irreversible (audits.0003_drop_manufacturer): restore point 20")
        assert plan["verdict"].endswith("losing 1 minute")
        for options in ((), ("--reverse",)):
            refused = at_1_1.backstay("rollback", "--json", *options, APPLICATION, check=False)
            assert not refused["ok"], refused
            assert "is not safe: irreversible" in refused["message"]
        assert at_1_1.status()["live"]["version"] == "1.4.0"
    finally:
        put_back(at_1_1)
    assert at_1_1.settled()["live"]["id"] == before
    assert "manufacturer" in columns(at_1_1, "audits_lift")
    writes_work(at_1_1)


def put_back(scene: Scene) -> None:
    """What docs/troubleshooting.md tells to do by hand until a restore is a verb."""
    point = scene.lab.ssh("app1", f"ls {STATE}/restore-points | tail -n 1").stdout.strip()
    scene.backstay("maintenance", "on", APPLICATION)
    scene.lab.ssh("app1", f"systemctl stop '{APPLICATION}-[0-9]*.service'")
    scene.lab.ssh(
        "app1",
        f"rm -f {DATABASE}-wal {DATABASE}-shm && cat {STATE}/restore-points/{point}/default.sqlite3 > {DATABASE}",
    )
    scene.backstay("rollback", "--json", "--force", APPLICATION)
    scene.backstay("maintenance", "off", APPLICATION)


@pytest.fixture(scope="module")
def failing(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A version whose second migration raises; built from a directory."""
    version = "1.1.8"
    tree = tmp_path_factory.mktemp("failing") / "portal"
    repository = CHECKOUT / ".lab" / "portal.git"
    subprocess.run(["git", "clone", "--quiet", "--branch", "v1.1.0", str(repository), str(tree)], check=True)
    shutil.rmtree(tree / ".git")
    (tree / "VERSION").write_text(f"{version}\n", encoding="utf-8")
    changelog = tree / "CHANGELOG.md"
    entry = f"## [{version}] - 2026-11-21\n\n- Fails.\n\n"
    text = changelog.read_text(encoding="utf-8").replace("## [1.1.0]", f"{entry}## [1.1.0]")
    changelog.write_text(text, encoding="utf-8")
    migrations = tree / "audits" / "migrations"
    head = "from django.db import migrations, models\n\n\n"
    (migrations / "0003_inspected_by.py").write_text(
        f"{head}class Migration(migrations.Migration):\n"
        '    dependencies = [("audits", "0002_risk_and_follow_up")]\n'
        "    operations = [\n"
        '        migrations.RunSQL(["CREATE INDEX by_note ON audits_finding (note)"], ["DROP INDEX by_note"]),\n'
        "    ]\n",
        encoding="utf-8",
    )
    (migrations / "0004_fails.py").write_text(
        f"{head}def fail(apps, schema_editor):\n"
        '    raise RuntimeError("a row is not as it should be")\n\n\n'
        "class Migration(migrations.Migration):\n"
        '    dependencies = [("audits", "0003_inspected_by")]\n'
        "    operations = [migrations.RunPython(fail, migrations.RunPython.noop)]\n",
        encoding="utf-8",
    )
    scene.declare(runtime={"checks": []})
    scene.play("build", version=version, source_directory=str(tree))
    scene.declare()
    yield version
    shutil.rmtree(scene.artifacts / APPLICATION / version)


def test_a_migration_that_fails_leaves_the_release_before_serving_and_says_what_remains(
    at_1_1: Scene, failing: str
) -> None:
    before = at_1_1.status()
    with at_1_1.load(rate=20.0) as load:
        time.sleep(1.0)
        refused = at_1_1.release(failing, check=False)
        time.sleep(1.0)
        result = load.stop()
    told = folded(refused.output)
    assert not refused.ok
    assert "audits.0004_fails" in told, refused.output
    assert "a row is not as it should be" in told, refused.output
    assert "audits.0003_inspected_by" in told, "it does not say what was applied before"
    assert result.failed == 0, result.failures
    after = at_1_1.settled()
    assert (after["live"], after["warm"]) == (before["live"], before["warm"])


def test_a_migration_that_fails_behind_the_closed_door_is_put_back_whole(at_1_1: Scene, failing: str) -> None:
    before = at_1_1.status()
    refused = at_1_1.release(failing, check=False, maintenance=True)
    assert not refused.ok
    assert "a row is not as it should be" in folded(refused.output), refused.output
    after = at_1_1.settled()
    assert after["live"] == before["live"]
    assert not after["maintenance"]
    assert at_1_1.get("/").status == 200
    writes_work(at_1_1)


def test_frozen_releases_are_refused_unless_a_reason_is_given_and_rollbacks_are_not(standing: Scene) -> None:
    before = standing.status()
    standing.play("freeze", until="2099-12-27", why="holidays", by="Ada")
    try:
        refused = standing.release(check=False, again=True)
        assert not refused.ok
        assert "frozen until 2099-12-27T00:00:00Z by Ada (holidays)" in folded(refused.output), refused.output
        assert "frozen until 2099-12-27" in standing.backstay("status", APPLICATION, check=False)
        standing.release(again=True, override_freeze="a hole must be closed", by="Grace", why="security")
        live = standing.settled()["live"]
        assert live["id"] != before["live"]["id"]
        staged = [e for e in ledger(standing) if e["event"] == "staged" and e["release"] == live["id"]]
        assert staged[0]["data"]["override_freeze"] == "a hole must be closed"  # type: ignore[index]  # JSON
        assert (staged[0]["data"]["by"], staged[0]["data"]["why"]) == ("Grace", "security")  # type: ignore[index]  # JSON
        standing.rollback()
        assert standing.settled()["live"]["id"] == before["live"]["id"]
    finally:
        standing.play("freeze", until="now")
    standing.release(again=True, why="after the freeze")
    standing.settled()


@pytest.mark.long
def test_hooks_run_around_the_phases_and_one_that_fails_undoes_the_release(standing: Scene) -> None:
    log = f"/var/log/{APPLICATION}/hooks"
    tell = ["sh", "-c", f'echo "$BACKSTAY_HOOK_WHEN $BACKSTAY_HOOK_RELEASE $BACKSTAY_RELEASE_ID" >> {log}']
    phases = ("before_prepare", "after_prepare", "before_flip", "after_flip", "before_confirm", "after_confirm")
    standing.lab.ssh("app1", f"rm -f {log}")
    try:
        was = standing.live()
        standing.declare(hooks={when: [tell] for when in phases})
        standing.release(why="with hooks")
        new = standing.settled()["live"]["id"]
        # The last one runs when nothing is open any more.
        awaited = f"for _ in $(seq 150); do grep -q after_confirm {log} && break; sleep 0.2; done; cat {log}"
        lines = standing.lab.ssh("app1", awaited).stdout.splitlines()
        assert [line.split()[0] for line in lines] == list(phases), lines
        assert {line.split()[1] for line in lines} == {new}
        # Before it is prepared a release has no environment; the live one lends its own.
        assert [line.split()[2] for line in lines] == [was, *[new] * (len(phases) - 1)]
        assert new != was

        failing = ["sh", "-c", "echo the cache is cold >&2; exit 3"]
        standing.declare(hooks={"before_flip": [failing], "on_failure": [tell]})
        refused = standing.release(check=False, why="a hook says no")
        told = folded(refused.output)
        assert not refused.ok
        assert "The hook before_flip" in told, refused.output
        assert "ended with exit code 3: the cache is cold" in told, refused.output
        after = standing.settled()
        assert after["live"]["id"] == new
        awaited = awaited.replace("after_confirm", "on_failure")  # as above
        lines = standing.lab.ssh("app1", awaited).stdout.splitlines()[len(phases) :]
        assert [line.split()[:2] for line in lines] == [["on_failure", after["last_failed"]["id"]]], lines
    finally:
        standing.declare()
        standing.release(why="without hooks")
    standing.settled()


@pytest.mark.long
def test_a_backfill_runs_after_the_release_in_batches_and_goes_on_when_it_was_killed(standing: Scene) -> None:
    count = f"/var/log/{APPLICATION}/batches"
    unit = f"backstay-backfill-{APPLICATION}-mend.service"
    script = f'echo x >> {count}; [ "$(wc -l < {count})" -ge 12 ] || exit 75'
    standing.lab.ssh("app1", f"rm -f {count} {STATE}/backfill-mend.json")
    try:
        standing.declare(backfills={"mend": {"command": ["sh", "-c", script], "pause_seconds": 0.5}})
        standing.release(why="with a backfill")
        standing.settled()
        deadline = time.monotonic() + 30
        while not standing.lab.ssh("app1", f"cat {count}", check=False).stdout and time.monotonic() < deadline:
            time.sleep(0.2)
        standing.lab.ssh("app1", f"systemctl kill --signal=KILL {unit}; systemctl stop {unit}", check=False)
        done = int(standing.lab.ssh("app1", f"wc -l < {count}").stdout)
        assert 0 < done < 12, done
        standing.backstay("recover", APPLICATION)
        deadline = time.monotonic() + 60
        told = {"batches": 0}
        while "done_at" not in told and time.monotonic() < deadline:
            time.sleep(0.5)
            told = json.loads(standing.lab.ssh("app1", f"cat {STATE}/backfill-mend.json", check=False).stdout or "{}")
        assert "done_at" in told, standing.lab.ssh("app1", f"journalctl --no-pager -n 20 -u {unit}").stdout
        assert int(standing.lab.ssh("app1", f"wc -l < {count}").stdout) == 12
        assert standing.backstay("backfill", "--json", APPLICATION, "mend")["ok"]
    finally:
        standing.declare()
        standing.release(why="without a backfill")
    standing.settled()


@pytest.mark.long
def test_the_day_after_a_release_is_watched_and_summed_up_for_who_released(at_1_1: Scene) -> None:
    at_1_1.release(again=True, by="Grace", why="to be watched")
    live = at_1_1.settled()["live"]
    day = at_1_1.status()["watched"]
    assert day["before"] < live["id"]
    assert day["until"] > live["since"]
    done = at_1_1.backstay("review", "--now", "--json", APPLICATION)
    while "replaced, after its release" in done["summary"]:  # those that went within their day come first
        done = at_1_1.backstay("review", "--now", "--json", APPLICATION)
    assert done["changed"]
    assert f"{live['id']}: 24 hours after its release by Grace" in done["summary"]
    assert "none of a new kind" in done["summary"]
    assert "requests during the release, 0 failed" in done["summary"], done["summary"]
    assert not at_1_1.backstay("review", "--now", "--json", APPLICATION)["changed"], "it is made once"
    timers = at_1_1.lab.ssh("app1", "systemctl list-timers --all --no-legend").stdout
    assert f"backstay-review@{APPLICATION}.timer" in timers
