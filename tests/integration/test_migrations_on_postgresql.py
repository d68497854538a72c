"""Migrations on a real PostgreSQL: locks, time limits, several hosts at once, and the ground truth of the verdicts.

BACKSTAY_TEST_POSTGRESQL (postgresql://user:password@host:port/postgres) names a server where databases may be made;
without it, a host of the lab is booted for one.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from backstay_lab.database import make_database
from backstay_lab.hosts import Lab

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ansible_collections.backstay.ops.plugins.module_utils._migrations import MigrationVerdict, judge
from tests.django_project import Django, Project, django, python
from tests.unit.migrations.test_ground_truth import CASES, USES, find_out

__all__ = ["django", "python"]

LAB, HOST = "migrations", "db1"
THING = """
    migrations.CreateModel("Thing", [
        ("id", models.BigAutoField(primary_key=True)), ("label", models.CharField(max_length=20)),
    ]),
    migrations.RunSQL("INSERT INTO shop_thing (label) SELECT 'a' FROM generate_series(1, 5000)"),
    migrations.RunSQL("ANALYZE shop_thing"),
"""
NULL = 'migrations.AddField("thing", "{}", models.IntegerField(null=True)),'
# A migration that ends when the test says so.
HELD = (
    "import os\n"
    "def held(apps, editor):\n"
    "    editor.execute(\"INSERT INTO shop_thing (label) VALUES ('once')\")\n"
    "    while not os.path.exists('go'):\n"
    "        time.sleep(0.05)\n"
)
# Somebody who reads in a transaction that stays open: enough to keep ALTER TABLE waiting. Ends with its standard input.
READER = """
import json, sys, django
django.setup()
from django.db import connection, transaction
with transaction.atomic():
    connection.cursor().execute(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.read()
"""
# A visitor: writes one table, waits until somebody else has the other, and writes that.
WRITER = """
import time, django
django.setup()
from django.db import connection, transaction
with transaction.atomic():
    cursor = connection.cursor()
    cursor.execute("INSERT INTO shop_other DEFAULT VALUES")
    print("ready", flush=True)
    held = 0
    while not held:
        time.sleep(0.01)
        cursor.execute(
            "SELECT count(*) FROM pg_locks WHERE granted AND mode = 'AccessExclusiveLock' "
            "AND relation = 'shop_thing'::regclass"
        )
        held = cursor.fetchone()[0]
    cursor.execute("INSERT INTO shop_thing (label) VALUES ('visitor')")
print("written", flush=True)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, Any]]:
    """How to reach a PostgreSQL, as Django wants to be told."""
    lab = None
    url = os.environ.get("BACKSTAY_TEST_POSTGRESQL")
    if url is None:
        lab = Lab(LAB)
        lab.down()
        lab.up([HOST], release="trixie", image="database")
        url = make_database(lab, HOST, "tests", secrets.token_urlsafe(24))
    parts = urlsplit(url)
    yield {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": dict(parse_qsl(parts.query)).get("host", parts.hostname or ""),
        "PORT": str(parts.port or ""),
    }
    if lab is not None:
        lab.down()


def fresh(home: Path, django: Django, server: dict[str, Any], schema: str) -> Project:
    """A project with an empty schema of its own in the server's database."""
    project = Project(home, django, {"default": {**server, "OPTIONS": {"options": f"-c search_path={schema}"}}})
    project.write_settings()
    project.run(
        "import django; django.setup()\n"
        "from django.db import connection\n"
        f"connection.cursor().execute('DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema}')\n"
        "print(1)"
    )
    return project


@pytest.fixture
def shop(tmp_path: Path, django: Django, server: dict[str, Any]) -> Project:
    """An application with a table of 5,000 rows, migrated."""
    project = fresh(tmp_path, django, server, "shop")
    project.migration("shop", "0001_initial", THING)
    done = project.agent("migrate")
    assert done.code == 0, done.stderr
    return project


def begin(project: Project, *words: str) -> subprocess.Popen[str]:
    """A process of the project, running beside the test."""
    pipe = subprocess.PIPE
    environment = {"PATH": "/usr/bin:/bin", "DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": "."}
    return subprocess.Popen(words, cwd=project.home, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def first_event(process: subprocess.Popen[str], kind: str) -> dict[str, Any]:
    """Wait until a process of the agent tells of something."""
    assert process.stdout is not None
    for line in process.stdout:
        event: dict[str, Any] = json.loads(line)
        if event["event"] == kind:
            return event
    raise AssertionError(f"it ended without {kind}: {process.communicate()[1]}")


def migrate(project: Project, **options: Any) -> subprocess.Popen[str]:
    return begin(project, *project.command("migrate", **options))


def ended(process: subprocess.Popen[str]) -> tuple[int, list[dict[str, Any]], str]:
    output, error = process.communicate(timeout=60)
    return process.returncode, [json.loads(line) for line in output.splitlines()], error.strip()


def go(project: Project) -> None:
    """Let migrations that are held end."""
    (project.home / "go").touch()


def labels(project: Project, label: str) -> int:
    return int(
        project.run(
            "import django; django.setup()\n"
            "from django.db import connection\n"
            "cursor = connection.cursor()\n"
            f"cursor.execute(\"SELECT count(*) FROM shop_thing WHERE label = '{label}'\")\n"
            "print(cursor.fetchone()[0])"
        )
    )


def test_facts_have_the_sizes_of_the_catalogue_and_an_index_says_that_it_stops_writers(shop: Project) -> None:
    plain = 'migrations.AddIndex("thing", models.Index(fields=["label"], name="plain")),'
    beside = 'AddIndexConcurrently("thing", models.Index(fields=["label"], name="beside")),'
    shop.migration("shop", "0002_plain", plain)
    shop.migration(
        "shop",
        "0003_beside",
        beside,
        code="from django.contrib.postgres.operations import AddIndexConcurrently",
        atomic=False,
    )
    answer = shop.agent("describe", lock_seconds=1, statement_seconds=10)
    found = answer.only("describe")["migrations"]
    assert [operation["rows"] for each in found for operation in each["operations"]] == [5000, 5000]
    assert all(operation["bytes"] > 100_000 for each in found for operation in each["operations"])
    first, second = judge(found, rebuild_seconds=10).migrations
    assert (first.verdict, second.verdict) == ("additive", "additive")
    assert "nobody can write to shop_thing (5,000 rows, " in first.reasons[0]
    assert second.reasons == ("adds the index beside to shop_thing",)
    assert shop.agent("migrate").only("state")["pending"] == []


FIELD = 'migrations.AddField("thing", "{}", models.{}),'
GENERATED = "GeneratedField(expression=models.F('id') * 2, output_field=models.BigIntegerField(), db_persist=True)"
LONG = {
    "a foreign key": ("indexes", FIELD.format("parent", 'ForeignKey("Thing", models.CASCADE, null=True)')),
    "one to one": ("indexes", FIELD.format("twin", 'OneToOneField("Thing", models.CASCADE, null=True)')),
    "unique": ("indexes", FIELD.format("code", "IntegerField(null=True, unique=True)")),
    "a column that is indexed": ("indexes", FIELD.format("code", "IntegerField(null=True, db_index=True)")),
    "computed": ("rewrites", FIELD.format("twice", GENERATED)),
    "another default for each": ("rewrites", FIELD.format("key", "UUIDField(db_default=RandomUUID(), null=True)")),
    "one default for all": ("", FIELD.format("state", "IntegerField(db_default=3)")),
    "a plain column": ("", FIELD.format("state", "IntegerField(null=True)")),
    "an index on what is there": (
        "indexes",
        'migrations.AlterField("thing", "label", models.CharField(max_length=20, db_index=True)),',
    ),
    "unique together": (
        "indexes",
        'migrations.AddConstraint("thing", models.UniqueConstraint(fields=["id", "label"], name="one_each")),',
    ),
    "a longer text": ("", 'migrations.AlterField("thing", "label", models.CharField(max_length=40)),'),
    "another type": ("rewrites", 'migrations.AlterField("thing", "label", models.CharField(max_length=10)),'),
}


@pytest.mark.parametrize("what", LONG)
def test_what_is_said_to_rewrite_or_index_a_table_does(shop: Project, what: str) -> None:
    """PostgreSQL gives a table another file when it writes it anew."""
    expected, operations = LONG[what]
    more = "INSERT INTO shop_thing (label) SELECT 'b' FROM generate_series(1, 45000)"
    _asked(shop, more, "ANALYZE shop_thing", "SELECT 1")
    shop.migration("shop", "0002_long", operations, code="from django.contrib.postgres.functions import RandomUUID")
    told = shop.agent("describe", lock_seconds=1).only("describe")["migrations"]
    (found,) = judge(told, rebuild_seconds=10).migrations
    said = [reason.split()[1] for reason in found.reasons if reason.startswith("PostgreSQL ")]
    assert said == ([expected] if expected else []), found
    before = _asked(shop, STORED)
    done = shop.agent("migrate")
    assert done.code == 0, done.stderr
    after = _asked(shop, STORED)
    assert {"rewrites": after[0] != before[0], "indexes": after[1] > before[1], "": after == before}[expected]


# The file of the table, and how many indexes it has.
STORED = "SELECT pg_relation_filenode('shop_thing'), count(*) FROM pg_index WHERE indrelid = 'shop_thing'::regclass"


def _asked(project: Project, *statements: str) -> list[int]:
    """The first row of what the last statement answers."""
    found: list[int] = project.run(
        "import django, json; django.setup()\n"
        "from django.db import connection\n"
        "cursor = connection.cursor()\n"
        f"for statement in {statements!r}:\n"
        "    cursor.execute(statement)\n"
        "print(json.dumps(cursor.fetchone()))"
    )
    return found


def test_a_lock_that_somebody_holds_is_waited_for_as_long_as_allowed_and_nobody_queues_behind_it_longer(
    shop: Project,
) -> None:
    shop.migration("shop", "0002_price", NULL.format("price"))
    reader = begin(shop, str(shop.django.python), "-c", READER, "SELECT * FROM shop_thing LIMIT 1")
    assert reader.stdout is not None
    assert reader.stdout.readline() == "ready\n"
    answer = shop.agent("migrate", lock_seconds=0.5, statement_seconds=60)
    reader.communicate()
    assert answer.code == 1
    assert answer.only("failed")["kind"] == "lock", answer.reason
    assert "the migration shop.0002_price failed after " in answer.reason
    assert "it waited for 0.5 s for a lock that somebody else holds, and gave up" in answer.reason
    assert answer.reason.endswith(
        "nothing of it was applied; applied before it in this run: nothing; still pending: shop.0002_price"
    )
    assert shop.agent("migrate", lock_seconds=0.5).only("state")["pending"] == []


def test_a_visitor_who_writes_what_a_migration_alters_is_never_the_one_that_is_ended(shop: Project) -> None:
    """It wrote the second table and wants the first, the migration has the first and wants the second."""
    shop.migration(
        "shop", "0002_other", 'migrations.CreateModel("other", [("id", models.AutoField(primary_key=True))]),'
    )
    assert shop.agent("migrate", lock_seconds=5).code == 0
    both = f"{NULL.format('price')} {NULL.format('price').replace('thing', 'other')}"
    shop.migration("shop", "0003_both", both)
    writer = begin(shop, str(shop.django.python), "-c", WRITER)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    migrating = migrate(shop, lock_seconds=20, statement_seconds=60)
    first_event(migrating, "begin")
    told, error = writer.communicate()
    assert (writer.returncode, told) == (0, "written\n"), error
    code, events, error = ended(migrating)
    assert (code, events[-1]["pending"]) == (0, []), error


def test_a_statement_that_takes_too_long_is_stopped(shop: Project) -> None:
    shop.migration("shop", "0002_price", NULL.format("price"))
    shop.migration("shop", "0003_sleep", 'migrations.RunSQL("SELECT pg_sleep(60)"),')
    answer = shop.agent("migrate", lock_seconds=5, statement_seconds=0.5)
    assert answer.code == 1
    assert answer.only("failed")["kind"] == "statement", answer.reason
    assert "one of its statements took longer than the limit of 0.5 s" in answer.reason
    assert "applied before it in this run: shop.0002_price; still pending: shop.0003_sleep" in answer.reason


def test_hosts_that_share_a_database_migrate_it_once_and_the_second_waits_and_finds_nothing_pending(
    shop: Project,
) -> None:
    shop.migration("shop", "0002_held", "migrations.RunPython(held),", code=HELD)
    first = migrate(shop, wait_seconds=30)
    first_event(first, "begin")
    second = migrate(shop, wait_seconds=30)
    first_event(second, "waiting")
    go(shop)
    code, events, error = ended(second)
    assert (code, [event["event"] for event in events]) == (0, ["state"]), error
    assert events[-1]["pending"] == []
    code, events, error = ended(first)
    assert (code, events[-1]["pending"]) == (0, []), error
    assert labels(shop, "once") == 1, "the migration ran twice"


def test_a_host_that_may_not_wait_longer_says_so_and_touches_nothing(shop: Project) -> None:
    shop.migration("shop", "0002_held", "migrations.RunPython(held),", code=HELD)
    first = migrate(shop, wait_seconds=30)
    first_event(first, "begin")
    answer = shop.agent("migrate", wait_seconds=0.3)
    assert answer.code == 3
    assert "another host has been migrating the database 'default' for" in answer.reason
    assert "nothing was touched" in answer.reason
    go(shop)
    assert ended(first)[0] == 0
    assert labels(shop, "once") == 1


def test_a_host_that_is_killed_while_it_migrates_holds_nobody_up(shop: Project) -> None:
    shop.migration("shop", "0002_held", "migrations.RunPython(held),", code=HELD)
    first = migrate(shop, wait_seconds=30)
    first_event(first, "begin")
    first.kill()
    first.wait()
    go(shop)
    answer = shop.agent("migrate", wait_seconds=30, lock_seconds=30)
    assert answer.code == 0, answer.reason
    assert answer.only("state")["pending"] == []
    assert labels(shop, "once") == 1


def test_two_hosts_that_take_the_same_back_take_it_back_once(shop: Project) -> None:
    shop.migration("shop", "0002_price", NULL.format("price"))
    shop.migration("shop", "0003_held", "migrations.RunPython(migrations.RunPython.noop, held),", code=HELD)
    assert shop.agent("migrate").code == 0
    command = shop.command("reverse", reverse=["shop.0002_price"], wait_seconds=30)
    first = begin(shop, *command)
    first_event(first, "begin")
    second = begin(shop, *command)
    first_event(second, "waiting")
    go(shop)
    code, events, error = ended(second)
    assert (code, [event["event"] for event in events]) == (0, ["state"]), error
    code, events, error = ended(first)
    assert code == 0, error
    assert [event["name"] for event in events if event["event"] == "migration"] == ["shop.0003_held", "shop.0002_price"]
    assert events[-1]["applied"] == ["shop.0001_initial"]


@pytest.fixture(scope="module")
def happened(tmp_path_factory: pytest.TempPathFactory, django: Django, server: dict[str, Any]) -> dict[str, Any]:
    return find_out(fresh(tmp_path_factory.mktemp("truth"), django, server, "truth"), persist=True)


@pytest.mark.parametrize("name", CASES)
def test_the_verdict_is_what_happens_to_the_release_before(happened: dict[str, Any], name: str) -> None:
    case, met = CASES[name], happened["witness"][name]
    (found,) = (each for each in judge(happened["facts"], rebuild_seconds=10).migrations if _app(each) == name)
    assert (found.verdict, found.undo) == (case.verdict, case.undo), found
    worked = all(met[use] == "works" for use in USES)
    assert worked == (case.verdict != "breaking"), met
    whole = (met["reverse"], met["rows after the reverse"], met["insert after the reverse"])
    if case.undo == "reverse":
        assert whole == ("works", "the same", "works")
    elif case.undo == "irreversible":
        assert whole != ("works", "the same", "works"), "the verdict says irreversible, and it was reversed"


def _app(verdict: MigrationVerdict) -> str:
    return verdict.name.partition(".")[0]
