"""The agent, in an interpreter with real Django, over real SQLite: what it tells, what it does, where it stops."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._migrations import judge
from tests.django_project import ROOT, Django, Project

THING = """
    migrations.CreateModel("Thing", [
        ("id", models.BigAutoField(primary_key=True)), ("label", models.CharField(max_length=20)),
    ]),
"""
NULL = 'migrations.AddField("thing", "{}", models.IntegerField(null=True)),'
FILL = "migrations.RunSQL(\"INSERT INTO shop_thing (label) VALUES ('a'), ('b'), ('c')\"),"
FAIL = "def fail(apps, editor):\n    raise ValueError('no price for thing 7')\n"
# Counting this far takes SQLite minutes.
ENDLESS = (
    'migrations.RunSQL("CREATE TABLE counted AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT '
    '2000000000) SELECT count(*) FROM n"),'
)


@pytest.fixture
def shop(project: Project) -> Project:
    """An application with a table of three rows, migrated."""
    project.migration("shop", "0001_initial", THING + FILL)
    assert project.agent("migrate").code == 0
    return project


def columns(project: Project, table: str = "shop_thing") -> set[str]:
    with contextlib.closing(sqlite3.connect(project.database)) as database:
        return {row[1] for row in database.execute(f"PRAGMA table_info({table})")}


@contextlib.contextmanager
def writing(database: Path) -> Iterator[None]:
    """Somebody who has begun to write and does not end."""
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


def test_one_call_tells_the_state_and_the_facts_of_what_is_pending_and_the_next_applies_it(shop: Project) -> None:
    shop.migration("shop", "0002_price", NULL.format("price"))
    shop.migration("shop", "0003_weight", 'migrations.AddField("thing", "weight", models.IntegerField(default=1)),')
    answer = shop.agent("describe")
    assert [event["event"] for event in answer.events] == ["describe", "checks", "state"]
    assert answer.only("state")["pending"] == ["shop.0002_price", "shop.0003_weight"]
    assert (answer.only("describe")["files"], answer.only("describe")["media"]) == ({"default": str(shop.database)}, "")
    first, second = answer.only("describe")["migrations"]
    (price,) = first["operations"]
    assert (first["name"], first["after"], first["engine"]) == ("shop.0002_price", ["shop.0001_initial"], "sqlite")
    assert (price["kind"], price["table"], price["rows"], price["rebuild"]) == ("AddField", "shop_thing", 3, False)
    assert [each["table"] for each in second["operations"][0]["rebuilds"]] == ["shop_thing"]
    assert columns(shop) == {"id", "label"}, "describing touched the database"
    verdict = judge([first, second], rebuild_seconds=10)
    assert verdict.verdict == "breaking"
    assert verdict.needs_maintenance[0].startswith(
        "shop.0003_weight: the release before cannot insert into shop_thing (3 rows, "
    )
    assert verdict.needs_maintenance[0].endswith(
        "weight is NOT NULL and only Django knows its default; use db_default or null=True"
    )

    answer = shop.agent("migrate", lock_seconds=1, statement_seconds=60)
    assert [(each["name"], each["number"], each["of"]) for each in answer.all("begin")] == [
        ("shop.0002_price", 1, 2),
        ("shop.0003_weight", 2, 2),
    ]
    assert [event["event"] for event in answer.events] == ["begin", "migration", "begin", "migration", "state"]
    assert answer.only("state")["pending"] == []
    assert columns(shop) == {"id", "label", "price", "weight"}
    again = shop.agent("migrate")
    assert [event["event"] for event in again.events] == ["state"], "what is applied was applied again"

    told = shop.agent("describe").only("describe")["migrations"]
    assert told == [], "nothing is pending"
    told = shop.agent("describe", known=["shop.0001_initial"]).only("describe")["migrations"]
    assert [(each["name"], each["pending"]) for each in told] == [
        ("shop.0002_price", False),
        ("shop.0003_weight", False),
    ]
    late = judge(told, rebuild_seconds=10)
    assert [(each.name, each.verdict, each.undo) for each in late.migrations] == [
        (each.name, each.verdict, each.undo) for each in verdict.migrations
    ], "a host that comes second knows less about the way back"
    assert late.needs_maintenance == ()


@pytest.mark.parametrize(
    ("atomic", "of_it"),
    [
        (True, "nothing of it was applied"),
        (False, "it is not atomic, so parts of it may have been applied: look at the database before the next attempt"),
    ],
)
def test_a_migration_that_fails_says_why_what_was_applied_and_what_remains(
    shop: Project, atomic: bool, of_it: str
) -> None:
    shop.migration("shop", "0002_price", NULL.format("price"))
    shop.migration("shop", "0003_fill", NULL.format("half") + "migrations.RunPython(fail),", code=FAIL, atomic=atomic)
    shop.migration("shop", "0004_more", NULL.format("more"))
    answer = shop.agent("migrate")
    assert answer.code == 1
    failed = answer.only("failed")
    assert (failed["name"], failed["kind"]) == ("shop.0003_fill", "error")
    assert (failed["done"], failed["left"]) == (["shop.0002_price"], ["shop.0003_fill", "shop.0004_more"])
    assert answer.reason == (
        f"the migration shop.0003_fill failed after {failed['seconds']:g} s: ValueError: no price for thing 7; "
        f"{of_it}; applied before it in this run: shop.0002_price; still pending: shop.0003_fill, shop.0004_more"
    )
    assert columns(shop) == {"id", "label", "price", *(() if atomic else ("half",))}, answer.reason


def test_a_lock_that_somebody_else_holds_is_waited_for_as_long_as_allowed_and_said(shop: Project) -> None:
    shop.migration("shop", "0002_price", NULL.format("price"))
    with writing(shop.database):
        answer = shop.agent("migrate", lock_seconds=0.3)
    assert answer.code == 1
    assert answer.only("failed")["kind"] == "lock"
    assert "it waited for 0.3 s for a lock that somebody else holds, and gave up" in answer.reason
    assert answer.reason.endswith("applied before it in this run: nothing; still pending: shop.0002_price")
    assert shop.agent("migrate", lock_seconds=0.3).only("state")["pending"] == [], "the next attempt did not succeed"


def test_a_migration_that_reads_before_it_writes_is_a_writer_from_the_start(shop: Project) -> None:
    """Else SQLite tells it that the database is locked, however long it may wait, when somebody wrote in between."""
    code = (
        "import sqlite3\n"
        "def fill(apps, editor):\n"
        "    Thing = apps.get_model('shop', 'Thing')\n"
        "    assert Thing.objects.count() == 3\n"
        f"    other = sqlite3.connect({str(shop.database)!r}, timeout=0)\n"
        "    try:\n"
        "        other.execute(\"INSERT INTO shop_thing (label) VALUES ('between')\")\n"
        "    except sqlite3.OperationalError as locked:\n"
        "        assert 'locked' in str(locked)\n"
        "    else:\n"
        "        raise RuntimeError('somebody wrote between the reading and the writing')\n"
        "    Thing.objects.update(label='z')\n"
    )
    shop.migration("shop", "0002_fill", "migrations.RunPython(fill),", code=code)
    answer = shop.agent("migrate", lock_seconds=1, statement_seconds=60)
    assert (answer.code, answer.only("state")["pending"]) == (0, []), answer.reason


def test_a_squashed_migration_is_nothing_new_to_a_release_that_knows_what_it_stands_for(shop: Project) -> None:
    shop.migration("shop", "0002_price", NULL.format("price"))
    known = shop.agent("migrate").only("state")["known"]
    shop.forget("shop", "0001_initial")
    shop.forget("shop", "0002_price")
    shop.migration("shop", "0001_squashed", THING + NULL.format("price"), after=[])
    path = shop.home / "shop" / "migrations" / "0001_squashed.py"
    replaces = "    replaces = [('shop', '0001_initial'), ('shop', '0002_price')]\n"
    path.write_text(path.read_text().replace("    atomic", replaces + "    atomic"))
    (told,) = shop.agent("describe", known=known).only("describe")["migrations"]
    assert (told["name"], told["operations"], told["pending"]) == ("shop.0001_squashed", [], False)
    (found,) = judge([told], rebuild_seconds=10).migrations
    assert (found.verdict, found.undo) == ("additive", "none")


def test_a_statement_that_takes_too_long_is_stopped(shop: Project) -> None:
    shop.migration("shop", "0002_endless", ENDLESS)
    answer = shop.agent("migrate", statement_seconds=0.3)
    assert answer.code == 1
    assert answer.only("failed")["kind"] == "statement"
    assert "one of its statements took longer than the limit of 0.3 s" in answer.reason


def test_what_is_taken_back_takes_what_depends_on_it_along_newest_first_and_twice_is_once(shop: Project) -> None:
    shop.migration("shop", "0002_price", NULL.format("price"))
    shop.migration("shop", "0003_weight", NULL.format("weight"))
    shop.migration("cart", "0001_initial", THING, after=[("shop", "0002_price")])
    shop.migration("other", "0001_initial", THING)
    assert shop.agent("migrate").code == 0
    answer = shop.agent("reverse", reverse=["shop.0002_price"], lock_seconds=1, statement_seconds=60)
    assert answer.code == 0, answer.stderr
    names = [event["name"] for event in answer.all("migration")]
    assert names[-1] == "shop.0002_price"
    assert sorted(names) == ["cart.0001_initial", "shop.0002_price", "shop.0003_weight"]
    assert all(event["seconds"] >= 0 for event in answer.all("migration"))
    assert sorted(answer.only("state")["applied"]) == ["other.0001_initial", "shop.0001_initial"]
    assert columns(shop) == {"id", "label"}
    again = shop.agent("reverse", reverse=["shop.0002_price", "shop.0003_weight"])
    assert (again.code, [event["event"] for event in again.events]) == (0, ["state"])


def test_what_cannot_be_taken_back_is_refused_before_anything_is_touched(shop: Project) -> None:
    hidden = "migrations.SeparateDatabaseAndState(database_operations=[migrations.RunPython(fill)]),"
    shop.migration("shop", "0002_fill", hidden, code="def fill(apps, editor): pass\n")
    shop.migration("shop", "0003_price", NULL.format("price"))
    shop.migration("shop", "0004_weight", NULL.format("weight"))
    assert shop.agent("migrate").code == 0
    answer = shop.agent("reverse", reverse=["shop.0003_price", "shop.0002_fill"])
    assert (answer.code, answer.events) == (3, ())
    assert answer.reason == "shop.0002_fill cannot be taken back: its RunPython has no reverse; nothing was touched"
    shop.forget("shop", "0004_weight")
    answer = shop.agent("reverse", reverse=["shop.0004_weight"])
    assert (answer.code, answer.events) == (3, ())
    assert answer.reason == (
        "shop.0004_weight cannot be taken back: this release does not know it, only the one that applied it does"
    )
    assert columns(shop) == {"id", "label", "price", "weight"}


def test_a_reverse_that_fails_says_what_was_taken_back_and_what_is_still_applied(shop: Project) -> None:
    shop.migration("shop", "0002_fill", "migrations.RunPython(migrations.RunPython.noop, fail),", code=FAIL)
    shop.migration("shop", "0003_price", NULL.format("price"))
    assert shop.agent("migrate").code == 0
    answer = shop.agent("reverse", reverse=["shop.0002_fill", "shop.0003_price"])
    assert answer.code == 1
    assert answer.reason.endswith(
        "ValueError: no price for thing 7; nothing of it was taken back; taken back before it in this run: "
        "shop.0003_price; still applied: shop.0002_fill"
    )


def test_each_database_is_told_by_its_name_and_migrations_that_it_does_not_get_are_of_the_state_alone(
    project: Project,
) -> None:
    sqlite = "django.db.backends.sqlite3"
    project.databases = {
        name: {"ENGINE": sqlite, "NAME": str(project.home / f"{name}.db")} for name in ("default", "archive")
    }
    project.migration("shop", "0001_initial", THING)
    (project.home / "routes.py").write_text(
        "class Router:\n    def allow_migrate(self, db, app_label, **hints):\n        return db == 'default'\n"
    )
    settings = project.home / "settings.py"
    settings.write_text(settings.read_text() + "DATABASE_ROUTERS = ['routes.Router']\n")
    found = project.agent("describe", databases=["default", "archive"])
    default, archive = found.only("describe")["migrations"]
    assert (default["name"], archive["name"]) == ("shop.0001_initial", "archive:shop.0001_initial")
    assert [operation["state_only"] for operation in (*default["operations"], *archive["operations"])] == [False, True]
    assert found.only("state")["pending"] == ["shop.0001_initial", "archive:shop.0001_initial"]


def test_what_it_cannot_read_it_says_and_touches_nothing(project: Project) -> None:
    project.migration("shop", "0001_initial", THING)
    for words, said in (
        (["settings", "destroy"], "the agent wants a settings module, one of state, describe, operations, migrate"),
        (["settings", "state", "[1]"], "the options '[1]' cannot be read"),
        (["settings", "state", '{"colour": 1}'], "unexpected keyword argument 'colour'"),
    ):
        command = [*project.command("state")[:2], *words]
        done = subprocess.run(command, cwd=project.home, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, ""), words
        assert said in done.stderr.splitlines()[-1]
    assert not project.database.exists()


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's versions, each tag in a directory of its own."""
    home = tmp_path_factory.mktemp("versions")
    make = [sys.executable, str(ROOT / "examples" / "make_repository.py"), str(home / "repository")]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    return home


@dataclass(frozen=True)
class Version:
    """One version of the example, and what its newest migration deserves."""

    number: str
    migration: str
    verdict: str
    undo: str
    why: str


VERSIONS = (
    Version("1.1.0", "audits.0002_risk_and_follow_up", "additive", "none", "risk_score, which may be NULL"),
    Version("1.4.0", "audits.0003_drop_manufacturer", "breaking", "irreversible", "drops the column manufacturer of"),
    Version("1.5.0", "audits.0003_messages", "additive", "none", "adds audits_finding.observed_at, which may be NULL"),
    Version("1.6.0", "audits.0003_priority", "breaking", "reverse", "priority is NOT NULL and only Django knows its"),
)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.number)
def test_the_examples_own_versions_without_any_database(versions: Path, django: Django, version: Version) -> None:
    home = versions / version.number
    tree = [
        "git",
        "-C",
        str(versions / "repository"),
        "worktree",
        "add",
        "--quiet",
        "--detach",
        str(home),
        f"v{version.number}",
    ]
    subprocess.run(tree, check=True)
    project = Project(home, django)
    command = project.command("operations")
    command[2] = "portal.settings"
    done = subprocess.run(
        command, cwd=home, env={"BACKSTAY_DATA_DIR": str(home / "nowhere")}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = {each.name: each for each in judge(json.loads(done.stdout)["migrations"], rebuild_seconds=10).migrations}
    assert (found[version.migration].verdict, found[version.migration].undo) == (version.verdict, version.undo)
    assert any(version.why in reason for reason in found[version.migration].reasons), found[version.migration].reasons
    assert not list(home.glob("nowhere/**/*.sqlite3")), "looking at operations made a database"
