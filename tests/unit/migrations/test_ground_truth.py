"""What a verdict says is what really happens: the code of the release before works, or fails, on the new schema.

Each case is an application of its own in one project. The release before is Django's own model as it was before the
migration: its rows are written, the migration is applied, and then it inserts, selects and updates again. At the end
the migration is taken back, and it must find its own rows as it left them, unless the verdict says irreversible.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._migrations import MigrationVerdict, Verdict, judge
from tests.django_project import Django, Project

BASE = """
    migrations.CreateModel(
        "Owner", [("id", models.BigAutoField(primary_key=True)), ("name", models.CharField(max_length=20))]
    ),
    migrations.CreateModel(
        "Tag", [("id", models.BigAutoField(primary_key=True)), ("name", models.CharField(max_length=20))]
    ),
    migrations.CreateModel("Thing", [
        ("id", models.BigAutoField(primary_key=True)),
        ("label", models.CharField(max_length=20)),
        ("note", models.CharField(max_length=20, null=True)),
        ("memo", models.CharField(max_length=20, null=True)),
        ("count", models.IntegerField(default=0)),
        ("place", models.CharField(max_length=20, default="here")),
        ("owner", models.ForeignKey("Owner", deletion.CASCADE, null=True)),
        ("tags", models.ManyToManyField("Tag")),
    ]),
    migrations.AddIndex("thing", models.Index(fields=["place"], name="{app}_place")),
    migrations.AddConstraint("thing", models.UniqueConstraint(fields=["place", "id"], name="{app}_once")),
"""

# Runs as the project: for each application, what the release before can do after the migration, and after its reverse.
WITNESS = """
import json, sys, django
django.setup()
from django.db import connection, transaction
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
if connection.vendor == "sqlite":
    connection.cursor().execute("PRAGMA synchronous=OFF")
loader = MigrationLoader(connection)

def attempt(work):
    try:
        with transaction.atomic():
            return work() or "works"
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def change(app, name, backwards):
    before = loader.project_state([key for key in loader.graph.nodes if key[0] == app and key[1] < name])
    migration = loader.graph.nodes[app, name]
    with connection.schema_editor(atomic=True) as editor:
        (migration.unapply if backwards else migration.apply)(before, editor)

def rows(things):
    tags = [sorted(thing.tags.values_list("id", flat=True)) for thing in things.order_by("id")]
    return [json.dumps([row, tags], default=str) for row, tags in zip(things.order_by("id").values(), tags)]

answer = {}
for app, values in json.loads(sys.argv[1]).items():
    old = loader.project_state((app, "0001_initial")).apps
    Thing, Owner, Tag = (old.get_model(app, name) for name in ("Thing", "Owner", "Tag"))
    said = answer[app] = {}
    if sys.argv[2] == "before":
        change(app, "0001_initial", False)
        for number in range(2):
            owner = Owner.objects.create(name="o")
            thing = Thing.objects.create(label=f"old {number}", memo="m", count=number, owner=owner)
            thing.tags.add(Tag.objects.create(name="t"))
        MigrationRecorder(connection).record_applied(app, "0001_initial")
        continue
    known = rows(Thing.objects)
    change(app, "0002_change", False)

    def insert():
        for each in values or [{"label": "new 1"}, {"label": "new 2"}]:
            Thing.objects.create(**each)

    def use_tags():
        for thing in Thing.objects.all():
            if thing.label.startswith("new"):
                thing.tags.add(Tag.objects.create(name="u"))
            list(thing.tags.all())

    said["insert"] = attempt(insert)
    said["select"] = attempt(lambda: rows(Thing.objects) and None)
    said["update"] = attempt(lambda: Thing.objects.filter(label="new 1").update(count=7) and None)
    said["many to many"] = attempt(use_tags)
    said["owner"] = attempt(lambda: Owner.objects.create(name="p") and None)
    said["reverse"] = attempt(lambda: None)
    try:
        change(app, "0002_change", True)
    except Exception as error:
        said["reverse"] = f"{type(error).__name__}: {error}"
    said["insert after the reverse"] = attempt(insert)
    again = lambda: "the same" if rows(Thing.objects)[:2] == known else "others"
    said["rows after the reverse"] = attempt(again)
print(json.dumps(answer))
"""


@dataclass(frozen=True)
class Case:
    """One migration, the verdict it deserves, and what the release before inserts where that matters."""

    change: str
    verdict: str
    undo: str = "none"
    insert: tuple[dict[str, Any], ...] = ()
    rebuilds: bool = False
    code: str = ""
    offline_undo: str = ""


def thing(field: str, *, name: str = "extra", kind: str = "AddField", more: str = "") -> str:
    return f'migrations.{kind}("thing", "{name}", {field}{more}),'


DOUBLE = "def double(apps, editor): apps.get_model('{app}', 'Thing').objects.update(count=models.F('count') * 2)\n"
HALVE = "def halve(apps, editor): apps.get_model('{app}', 'Thing').objects.update(count=models.F('count') / 2)\n"
CONSTRAINT = 'migrations.AddConstraint("thing", models.{}),'

CASES = {
    # the release before does not notice
    "add_null": Case(thing("models.DateField(null=True)"), "additive"),
    "add_null_with_default": Case(thing("models.IntegerField(null=True, default=3)"), "additive", rebuilds=True),
    "add_db_default": Case(thing("models.IntegerField(db_default=3)"), "additive", rebuilds=True),
    "add_unique_null": Case(thing("models.CharField(max_length=5, null=True, unique=True)"), "additive", rebuilds=True),
    "add_key_null": Case(
        thing('models.ForeignKey("Owner", deletion.CASCADE, null=True, related_name="+")'), "additive"
    ),
    "add_many_to_many": Case(thing('models.ManyToManyField("Owner", related_name="+")'), "additive"),
    "add_generated": Case(
        thing(
            "models.GeneratedField(expression=models.F('count') * 2, output_field=models.IntegerField(), "
            "db_persist=PERSIST)"
        ),
        "additive",
        rebuilds=True,
    ),
    "add_unique_over_null": Case(
        thing("models.CharField(max_length=5, null=True)")
        + CONSTRAINT.format('UniqueConstraint(fields=["extra"], name="{app}_extra")'),
        "additive",
        rebuilds=True,
    ),
    "create": Case('migrations.CreateModel("New", [("id", models.BigAutoField(primary_key=True))]),', "additive"),
    "create_and_grow": Case(
        'migrations.CreateModel("New", [("id", models.BigAutoField(primary_key=True))]),'
        'migrations.AddField("new", "needed", models.IntegerField(default=1)),'
        'migrations.RenameField("new", "needed", "wanted"),'
        'migrations.RenameModel("New", "Newer"),'
        'migrations.AddField("newer", "more", models.IntegerField(default=1)),',
        "additive",
    ),
    "add_and_remove": Case(
        thing("models.IntegerField(null=True)") + 'migrations.RemoveField("thing", "extra"),', "additive", rebuilds=True
    ),
    "index": Case('migrations.AddIndex("thing", models.Index(fields=["count"], name="{app}_count")),', "additive"),
    "index_gone": Case('migrations.RemoveIndex("thing", "{app}_place"),', "additive"),
    "index_renamed": Case('migrations.RenameIndex("thing", "{app}_other", old_name="{app}_place"),', "additive"),
    "constraint_gone": Case('migrations.RemoveConstraint("thing", "{app}_once"),', "additive", rebuilds=True),
    "widen": Case(thing("models.CharField(max_length=90)", name="label", kind="AlterField"), "additive", rebuilds=True),
    "text": Case(thing("models.TextField()", name="label", kind="AlterField"), "additive", rebuilds=True),
    "bigger": Case(
        thing("models.BigIntegerField(default=0)", name="count", kind="AlterField"), "additive", rebuilds=True
    ),
    "may_be_null": Case(
        thing("models.CharField(max_length=20, null=True)", name="label", kind="AlterField"), "additive", rebuilds=True
    ),
    "help_text": Case(
        thing("models.CharField(max_length=20, help_text='H')", name="label", kind="AlterField"), "additive"
    ),
    "options": Case('migrations.AlterModelOptions("thing", {{"ordering": ["label"]}}),', "additive"),
    "rename_model_keep_table": Case(
        'migrations.AlterModelTable("owner", "{app}_owner"), migrations.RenameModel("Owner", "Keeper"),'
        'migrations.AlterModelTable("keeper", "{app}_owner"),',
        "additive",
    ),
    "rename_field_keep_column": Case(
        thing("models.CharField(max_length=20, db_column='label')", name="label", kind="AlterField")
        + 'migrations.RenameField("thing", "label", "title"),',
        "additive",
    ),
    "state_only": Case(
        'migrations.SeparateDatabaseAndState(state_operations=[migrations.RemoveField("thing", "note")]),', "additive"
    ),
    "data_left": Case(
        "migrations.RunPython(double, migrations.RunPython.noop),", "additive", code=DOUBLE, rebuilds=False
    ),
    "sql_index": Case(
        'migrations.RunSQL("CREATE INDEX {app}_by_hand ON {app}_thing (count)", "DROP INDEX {app}_by_hand"),',
        "additive",
    ),
    # data change, and change back
    "data": Case("migrations.RunPython(double, halve),", "reversible", "reverse", code=DOUBLE + HALVE),
    "sql_data": Case(
        'migrations.RunSQL("UPDATE {app}_thing SET count = count + 1", "UPDATE {app}_thing SET count = count - 1"),',
        "reversible",
        "reverse",
    ),
    # the release before fails, and works again after the reverse
    "add_not_null": Case(thing("models.IntegerField(default=3)"), "breaking", "reverse", rebuilds=True),
    "add_not_null_text": Case(
        thing("models.CharField(max_length=9, default='')"), "breaking", "reverse", rebuilds=True
    ),
    "add_not_null_once": Case(
        thing("models.IntegerField(default=3)", more=", preserve_default=False"), "breaking", "reverse", rebuilds=True
    ),
    "add_then_tighten": Case(
        thing("models.IntegerField(null=True)") + thing("models.IntegerField(default=1)", kind="AlterField"),
        "breaking",
        "reverse",
        rebuilds=True,
    ),
    "add_within_separate": Case(
        'migrations.SeparateDatabaseAndState(database_operations=[migrations.AddField("thing", "extra", '
        "models.IntegerField(default=3))]),",
        "breaking",
        "reverse",
        rebuilds=True,
    ),
    "rename_field": Case('migrations.RenameField("thing", "label", "title"),', "breaking", "reverse"),
    "rename_column": Case(
        thing("models.CharField(max_length=20, db_column='title')", name="label", kind="AlterField"),
        "breaking",
        "reverse",
    ),
    "rename_model": Case('migrations.RenameModel("Thing", "Object"),', "breaking", "reverse"),
    "rename_table": Case('migrations.AlterModelTable("thing", "{app}_objects"),', "breaking", "reverse"),
    "not_null": Case(
        thing("models.CharField(max_length=20, default='')", name="memo", kind="AlterField"),
        "breaking",
        "reverse",
        insert=({"label": "a", "memo": None},),
        rebuilds=True,
        offline_undo="irreversible",  # it takes the database to know that there is no NULL
    ),
    "not_null_over_nulls": Case(
        thing("models.CharField(max_length=20, default='')", name="note", kind="AlterField"),
        "breaking",
        "irreversible",
        insert=({"label": "a", "note": None},),
        rebuilds=True,
    ),
    "unique": Case(
        thing("models.CharField(max_length=20, unique=True)", name="label", kind="AlterField"),
        "breaking",
        "reverse",
        insert=({"label": "same", "count": 1}, {"label": "same", "count": 2}),
        rebuilds=True,
    ),
    "unique_constraint": Case(
        CONSTRAINT.format('UniqueConstraint(fields=["label"], name="{app}_unique")'),
        "breaking",
        "reverse",
        insert=({"label": "same", "count": 1}, {"label": "same", "count": 2}),
        rebuilds=True,
    ),
    "unique_together": Case(
        'migrations.AlterUniqueTogether("thing", {{("label", "note")}}),',
        "breaking",
        "reverse",
        insert=({"label": "same", "note": "a", "count": 1}, {"label": "same", "note": "a", "count": 2}),
    ),
    "check": Case(
        CONSTRAINT.format('CheckConstraint(CHECK=models.Q(count__gte=0), name="{app}_positive")'),
        "breaking",
        "reverse",
        insert=({"label": "a", "count": -1},),
        rebuilds=True,
    ),
    "positive": Case(
        thing("models.PositiveIntegerField(default=0)", name="count", kind="AlterField"),
        "breaking",
        "reverse",
        insert=({"label": "a", "count": -1},),
        rebuilds=True,
    ),
    "ordered": Case('migrations.AlterOrderWithRespectTo("thing", "owner"),', "breaking", "reverse", rebuilds=True),
    # the release before fails, and what it knew is gone
    "remove": Case('migrations.RemoveField("thing", "label"),', "breaking", "irreversible", rebuilds=True),
    "remove_null": Case('migrations.RemoveField("thing", "memo"),', "breaking", "irreversible", rebuilds=True),
    "remove_many_to_many": Case('migrations.RemoveField("thing", "tags"),', "breaking", "irreversible"),
    "delete": Case('migrations.DeleteModel("Thing"),', "breaking", "irreversible"),
    "sql_drop": Case('migrations.RunSQL("ALTER TABLE {app}_thing DROP COLUMN memo"),', "breaking", "irreversible"),
    "sql_rename": Case(
        'migrations.RunSQL("ALTER TABLE {app}_owner RENAME TO {app}_keeper", '
        '"ALTER TABLE {app}_keeper RENAME TO {app}_owner"),',
        "breaking",
        "reverse",
    ),
}
USES = ("insert", "select", "update", "many to many", "owner")


@dataclass(frozen=True)
class Happened:
    """All cases at once: the facts and verdicts, and what the release before met."""

    facts: dict[str, dict[str, Any]]
    verdicts: dict[str, MigrationVerdict]
    offline: dict[str, MigrationVerdict]
    witness: dict[str, dict[str, str]]


def find_out(project: Project, *, persist: bool = False) -> dict[str, Any]:
    """Write the project, let the release before work in it, ask the agent, migrate, and see what happens.

    `persist`: PostgreSQL stores what it generates.
    """
    newer = project.run("import django, json; print(json.dumps(django.VERSION >= (5, 1)))")
    for app, case in CASES.items():
        project.migration(app, "0001_initial", BASE.format(app=app))
        change = case.change.format(app=app).replace("CHECK=", "condition=" if newer else "check=")
        change = change.replace("PERSIST", str(persist))
        project.migration(app, "0002_change", change, code=case.code.format(app=app))
    inserts = json.dumps({app: case.insert for app, case in CASES.items()})
    offline = project.agent("operations").only("operations")["migrations"]
    project.run(WITNESS, inserts, "before")
    facts = project.agent("describe").only("describe")["migrations"]
    return {"facts": facts, "offline": offline, "witness": project.run(WITNESS, inserts, "after")}


def by_app(found: list[Any], name: Callable[[Any], str]) -> dict[str, Any]:
    return {name(each).partition(".")[0]: each for each in found}


@pytest.fixture(scope="module")
def happened(tmp_path_factory: pytest.TempPathFactory, django: Django) -> Happened:
    """Found out once, whichever worker of pytest-xdist comes first."""
    home = tmp_path_factory.getbasetemp()
    home = (home.parent if "PYTEST_XDIST_WORKER" in os.environ else home) / "ground_truth"
    home.mkdir(exist_ok=True)
    answer = home / "answer.json"
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not answer.exists():
            answer.write_text(json.dumps(find_out(Project(home, django))))
    found = json.loads(answer.read_text())
    offline = judge(found["offline"], rebuild_seconds=10).migrations
    return Happened(
        by_app(found["facts"], lambda each: str(each["name"])),
        by_app(list(judge(found["facts"], rebuild_seconds=10).migrations), lambda each: str(each.name)),
        by_app([each for each in offline if each.name.endswith("0002_change")], lambda each: str(each.name)),
        found["witness"],
    )


@pytest.mark.parametrize("name", CASES)
def test_the_verdict_is_what_happens_to_the_release_before(happened: Happened, name: str) -> None:
    case, found, met = CASES[name], happened.verdicts[name], happened.witness[name]
    assert (found.verdict, found.undo) == (case.verdict, case.undo), found
    worked = all(met[use] == "works" for use in USES)
    if case.verdict == "breaking":
        assert not worked, f"the verdict says breaking, and the release before works: {met}"
        assert found.needs_maintenance
        assert found.needs_maintenance in found.reasons
    else:
        assert worked, f"the verdict says {case.verdict}, and the release before fails: {met}"
        assert found.needs_maintenance is None


@pytest.mark.parametrize("name", CASES)
def test_the_reverse_gives_the_release_before_its_rows_back_or_the_verdict_says_irreversible(
    happened: Happened, name: str
) -> None:
    case, met = CASES[name], happened.witness[name]
    whole = (met["reverse"], met["rows after the reverse"], met["insert after the reverse"])
    if case.undo == "reverse":
        assert whole == ("works", "the same", "works")
    elif case.undo == "irreversible":
        assert whole != ("works", "the same", "works"), "the verdict says irreversible, and it was reversed"


@pytest.mark.parametrize("name", CASES)
def test_a_rewrite_of_the_table_is_found_in_what_django_would_tell_sqlite(happened: Happened, name: str) -> None:
    found = any(operation.get("rebuild") for operation in happened.facts[name]["operations"])
    assert found == CASES[name].rebuilds, happened.facts[name]


@pytest.mark.parametrize("name", CASES)
def test_the_verdict_without_a_database_is_the_same(happened: Happened, name: str) -> None:
    assert (happened.offline[name].verdict, happened.offline[name].undo) == (
        CASES[name].verdict,
        CASES[name].offline_undo or CASES[name].undo,
    )
    assert happened.offline[name].rebuild_seconds == 0


def test_looking_changes_nothing_and_knows_the_rows(happened: Happened) -> None:
    sized = {
        operation["rows"] for each in happened.facts.values() for operation in each["operations"] if "rows" in operation
    }
    assert sized == {0, 2}
    assert all(
        operation["bytes"] >= 4096
        for each in happened.facts.values()
        for operation in each["operations"]
        if operation.get("rows")
    )


def test_verdicts_survive_the_ledger(happened: Happened) -> None:
    verdict = Verdict(tuple(happened.verdicts.values()))
    assert Verdict.from_dict(json.loads(json.dumps(verdict.to_dict()))) == verdict
    assert verdict.verdict == "breaking"
    assert verdict.undo == "irreversible"
