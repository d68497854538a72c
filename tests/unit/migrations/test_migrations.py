"""Judging, from facts alone: what PostgreSQL and SQLite differ in, what nobody can tell, and what a rollback needs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._migrations import (
    MigrationVerdict,
    Verdict,
    judge,
    rebuild_estimate,
    rollback_verdict,
    wider,
)

COLUMN: dict[str, Any] = {
    "column": "code",
    "type": "varchar(10)",
    "check": None,
    "collation": None,
    "null": False,
    "unique": False,
    "primary_key": False,
    "default": False,
    "db_default": False,
    "generated": False,
    "many_to_many": None,
    "refers_to": None,
}


LARGE = {"table": "shop_thing", "rows": 1_000_000, "bytes": 236_000_000}


def operation(kind: str, **facts: Any) -> dict[str, Any]:
    base = {"kind": kind, "app": "shop", "reversible": True, "elidable": False, "state_only": False}
    return base | {"table": "shop_thing", "rows": 10, "bytes": 8192, "new_table": False} | facts


def migration(*operations: dict[str, Any], name: str = "shop.0002_x", **facts: Any) -> dict[str, Any]:
    return {"name": name, "database": "default", "engine": "sqlite", "after": [], "operations": operations} | facts


def one(*operations: dict[str, Any], engine: str | None = None, **facts: Any) -> MigrationVerdict:
    (found,) = judge([migration(*operations, **facts)], rebuild_seconds=10, engine=engine).migrations
    return found


def altered(old: dict[str, Any], new: dict[str, Any], **facts: Any) -> dict[str, Any]:
    return operation("AlterField", field="code", old=COLUMN | old, new=COLUMN | new, **facts)


@pytest.mark.parametrize(
    ("old", "new", "fits"),
    [
        ("varchar(10)", "varchar(10)", True),
        ("varchar(10)", "varchar(20)", True),
        ("varchar(20)", "varchar(10)", False),
        ("varchar(10)", "varchar", True),
        ("varchar", "varchar(10)", False),
        ("varchar(10)", "text", True),
        ("text", "varchar(10)", False),
        ("character varying(5)", "varchar(9)", True),
        ("smallint", "integer", True),
        ("integer", "bigint", True),
        ("bigint", "integer", False),
        ("integer unsigned", "bigint", True),
        ("serial", "bigint", True),
        ("integer", "varchar(10)", False),
        ("varchar(10)", "integer", False),
        ("numeric(8, 2)", "numeric(10, 2)", True),
        ("numeric(8, 2)", "numeric(10, 4)", True),
        ("numeric(8, 2)", "numeric(8, 4)", False),
        ("numeric(8, 2)", "numeric(8, 1)", False),
        ("numeric(8, 2)", "numeric", True),
        ("date", "timestamp with time zone", False),
        ("jsonb", "text", False),
    ],
)
def test_a_type_is_wider_when_every_value_of_the_old_one_fits(old: str, new: str, fits: bool) -> None:
    assert wider(old, new) is fits
    found = one(altered({"type": old}, {"type": new}))
    assert (found.verdict, found.undo) == (("additive", "none") if fits else ("breaking", "irreversible"))


@pytest.mark.parametrize(
    ("old", "new", "engine", "expected"),
    [
        ({"db_default": True}, {}, "postgresql", ("breaking", "reverse")),
        # Django writes the default into the INSERT itself.
        ({"db_default": True}, {}, "sqlite", ("additive", "none")),
        ({"db_default": True, "null": True}, {"null": True}, "postgresql", ("additive", "none")),
        ({}, {"db_default": True}, "postgresql", ("additive", "none")),
        ({}, {"primary_key": True, "unique": True}, "postgresql", ("breaking", "irreversible")),
        ({"unique": True}, {}, "postgresql", ("additive", "none")),
        ({}, {"refers_to": "shop_owner"}, "postgresql", ("breaking", "reverse")),
        ({"refers_to": "shop_owner"}, {"refers_to": "shop_keeper"}, "postgresql", ("breaking", "irreversible")),
        ({"refers_to": "shop_owner"}, {}, "postgresql", ("additive", "none")),
        ({}, {"collation": "C"}, "postgresql", ("breaking", "reverse")),
        ({"check": "x > 0"}, {}, "postgresql", ("additive", "none")),
        ({"many_to_many": "a"}, {"many_to_many": "a"}, "sqlite", ("additive", "none")),
        ({"many_to_many": "a"}, {"many_to_many": "b"}, "sqlite", ("breaking", "irreversible")),
        ({"column": None}, {"column": None}, "sqlite", ("additive", "none")),
        ({"column": None}, {}, "sqlite", ("breaking", "irreversible")),
    ],
)
def test_what_altering_a_column_does(
    old: dict[str, Any], new: dict[str, Any], engine: str, expected: tuple[str, str]
) -> None:
    found = one(altered(old, new), engine=engine)
    assert (found.verdict, found.undo) == expected, found.reasons


def test_the_worst_of_several_changes_of_a_column_decides_and_all_that_are_as_bad_are_named() -> None:
    found = one(altered({"null": True, "type": "varchar(5)"}, {"unique": True}, nulls=False))
    assert (found.verdict, found.undo) == ("breaking", "reverse")
    assert "becomes NOT NULL" in found.reasons[0]
    assert "becomes unique" in found.reasons[0]
    assert "widens" not in found.reasons[0]


def test_nulls_that_get_a_value_cannot_be_told_apart_afterwards() -> None:
    undo = [one(altered({"null": True}, {}, nulls=nulls)).undo for nulls in (False, True, None)]
    assert undo == ["reverse", "irreversible", "irreversible"]


def test_a_new_reference_says_that_the_release_before_cannot_delete_what_it_refers_to() -> None:
    new = COLUMN | {"column": "owner_id", "null": True, "refers_to": "shop_owner"}
    (reason,) = one(operation("AddField", field="owner", new=new)).reasons
    assert reason.startswith("adds shop_thing.owner_id, which may be NULL; where it refers to a row of shop_owner, ")
    assert reason.endswith("the release before cannot delete that row")


def test_what_nobody_knows_breaks() -> None:
    for facts in (operation("somebody.operations.Clever"), operation("AddField", unreadable="KeyError: 'x'")):
        found = one(facts)
        assert (found.verdict, found.undo) == ("breaking", "irreversible")
        assert found.needs_maintenance == found.reasons[0]
    assert (
        "somebody.operations.Clever is not an operation of Django's"
        in one(operation("somebody.operations.Clever")).reasons[0]
    )


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"reversible": False}, ("breaking", "irreversible")),
        ({"reversible": False, "noop": True}, ("additive", "none")),
        ({}, ("reversible", "reverse")),
        ({"reverse_noop": True}, ("additive", "none")),
        ({"state_only": True, "reversible": False}, ("additive", "none")),
    ],
)
def test_what_python_does_is_judged_by_its_reverse(facts: dict[str, Any], expected: tuple[str, str]) -> None:
    run = operation("RunPython", code="fill", noop=False, reverse_noop=False) | facts
    found = one(run)
    assert (found.verdict, found.undo) == expected


@pytest.mark.parametrize(
    ("verbs", "reverse", "expected"),
    [
        (["UPDATE SHOP_THING"], ["UPDATE SHOP_THING"], ("reversible", "reverse")),
        (["UPDATE SHOP_THING"], [], ("additive", "none")),
        (["UPDATE SHOP_THING"], None, ("breaking", "irreversible")),
        (["CREATE INDEX"], ["DROP INDEX"], ("additive", "none")),
        (["CREATE UNIQUE"], ["DROP INDEX"], ("breaking", "reverse")),
        (["ALTER TABLE"], ["ALTER TABLE"], ("breaking", "reverse")),
        (["CREATE INDEX", "DROP TABLE"], ["X Y"], ("breaking", "reverse")),
        (["CREATE TRIGGER"], ["DROP TRIGGER"], ("breaking", "reverse")),
        ([], None, ("additive", "none")),
    ],
)
def test_what_sql_does_is_judged_by_its_first_words(
    verbs: list[str], reverse: list[str] | None, expected: tuple[str, str]
) -> None:
    found = one(operation("RunSQL", verbs=verbs, reverse_verbs=reverse, reversible=reverse is not None))
    assert (found.verdict, found.undo) == expected, found.reasons


def test_a_rewrite_above_the_limit_needs_maintenance_and_says_how_long_and_how_large() -> None:
    table = LARGE
    widened = altered({}, {"type": "varchar(20)"}, rebuild=True, rebuilds=[table], indexes=[])
    found = one(widened)
    assert found.verdict == "additive"
    assert found.rebuild_seconds == pytest.approx(13.8)
    assert found.needs_maintenance == (
        "SQLite rewrites shop_thing (1,000,000 rows, 225.1 MiB) in about 13.8 s, while nobody can write, and "
        "no more than 10 s is allowed (releases.migrations.rebuild_seconds)"
    )
    assert judge([migration(widened)], rebuild_seconds=20).needs_maintenance == ()
    twice = one(widened, widened)
    assert twice.rebuild_seconds == pytest.approx(27.6), "each operation rewrites the table once more"
    indexed = operation("AddIndex", index="i", rebuild=False, rebuilds=[], indexes=[table])
    assert "SQLite indexes shop_thing" in one(indexed).reasons[-1]
    assert rebuild_estimate(None, None) == 0


@pytest.mark.parametrize(
    ("facts", "seconds"),
    [
        (altered({"type": "integer"}, {"type": "bigint"}), 13.8),
        (altered({"type": "varchar(10)"}, {"type": "varchar(20)"}), 0),
        (altered({"type": "varchar(10)"}, {"type": "text"}), 0),
        (altered({"type": "numeric(8, 2)"}, {"type": "numeric(9, 2)"}), 0),
        (altered({"type": "numeric(8, 2)"}, {"type": "numeric(9, 3)"}), 13.8),
        (altered({"type": "text"}, {"type": "varchar(20)"}), 13.8),
        (operation("AddIndex", index="i", indexes=[LARGE]), 6.7),
        (operation("AddField", new=COLUMN | {"null": True, "refers_to": "shop_owner"}, indexes=[LARGE]), 6.7),
        (operation("AddField", new=COLUMN | {"generated": True}, rebuilds=[LARGE]), 13.8),
        (operation("AddIndexConcurrently", index="i"), 0),
    ],
)
def test_how_long_postgresql_keeps_writers_out_is_told(facts: dict[str, Any], seconds: float) -> None:
    size = {"rows": 1_000_000, "bytes": 236_000_000}
    found = one(facts | size, engine="postgresql", pending=True)
    assert found.rebuild_seconds == pytest.approx(seconds)
    if seconds > 10:
        assert found.needs_maintenance
    elif seconds:
        assert found.reasons[-1] == (
            "PostgreSQL indexes shop_thing (1,000,000 rows, 225.1 MiB) in about 6.7 s, while nobody can write"
        )
    made_here = {"new_table": True, "rebuilds": [], "indexes": []}
    assert one(facts | size | made_here, engine="postgresql").rebuild_seconds == 0


def test_what_another_host_has_applied_already_needs_no_maintenance_here_and_keeps_its_verdict() -> None:
    gone = operation("DeleteModel")
    assert one(gone).needs_maintenance
    late = one(gone, pending=False)
    assert (late.verdict, late.undo, late.needs_maintenance) == ("breaking", "irreversible", None)


def test_the_whole_is_as_bad_as_its_worst_and_survives_json() -> None:
    index = operation("AddIndex", index="i")
    run = operation("RunPython", code="f", noop=False, reverse_noop=False)
    facts = [migration(index, name="shop.0002"), migration(run, name="shop.0003", after=["shop.0002"])]
    assert judge([], rebuild_seconds=1).verdict == "additive"
    assert judge(facts[:1], rebuild_seconds=1).verdict == "additive"
    verdict = judge(facts, rebuild_seconds=1)
    assert (verdict.verdict, verdict.undo) == ("reversible", "reverse")
    data = json.loads(json.dumps(verdict.to_dict()))
    assert data["migrations"][1] == {
        "name": "shop.0003",
        "verdict": "reversible",
        "undo": "reverse",
        "reasons": ["f() changes data; its reverse takes that back"],
        "rebuild_seconds": 0,
        "needs_maintenance": None,
        "creates": [],
        "breaks": [""],
        "after": ["shop.0002"],
    }
    assert Verdict.from_dict(data) == verdict


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "have format 2 and this backstay reads 1"),
        ({"migrations": [{"name": "a", "verdict": "fine", "undo": "none"}]}, "'fine' with undo 'none'"),
        ({"migrations": [{"verdict": "additive", "undo": "none"}]}, "cannot be read"),
        ({"migrations": [{"name": "a", "verdict": "additive", "undo": "none", "new": 1}]}, "cannot be read"),
        ({"migrations": None}, "cannot be read"),
    ],
)
def test_a_record_that_cannot_be_read_is_an_error_and_not_a_good_verdict(change: dict[str, Any], said: str) -> None:
    with pytest.raises(BackstayError, match=said):
        Verdict.from_dict(Verdict().to_dict() | change)


ADDITIVE = MigrationVerdict("shop.0002", "additive", "none", ("adds shop_thing.price, which may be NULL",))
TIGHT = MigrationVerdict(
    "shop.0003", "breaking", "reverse", ("code is NOT NULL",), breaks=("shop_thing",), after=("shop.0002",)
)
LATER = MigrationVerdict("cart.0002", "additive", "none", ("adds cart.x",), after=("cart.0001", "shop.0003"))
GONE = MigrationVerdict("shop.0004", "breaking", "irreversible", ("drops the column code",), breaks=("shop_thing",))
NEW = MigrationVerdict("shop.0002_new", "additive", "none", ("creates shop_new",), creates=("shop_new",))
NEWER = MigrationVerdict("shop.0005", "breaking", "irreversible", ("drops shop_new.x",), breaks=("shop_new",))
POINT = "2026-11-21T10:00:00Z"


def back(*verdicts: MigrationVerdict, **more: str | None) -> tuple[str, str, tuple[str, ...]]:
    way = rollback_verdict([each.name for each in verdicts], {each.name: each for each in verdicts}, **more)
    return way.kind, way.sentence, way.reverse


def test_the_way_back_is_code_only_where_the_target_lives_with_what_was_applied() -> None:
    assert back() == ("code", "code only, safe", ())
    assert back(ADDITIVE) == ("code", "code only, safe; shop.0002 stays", ())
    assert back(ADDITIVE, NEW) == ("code", "code only, safe; shop.0002, shop.0002_new stay", ())


def test_the_way_back_takes_along_what_depends_on_what_is_reversed_newest_first_and_leaves_the_rest() -> None:
    assert back(ADDITIVE, TIGHT) == ("reverse", "needs reverse of shop.0003 (reversible)", ("shop.0003",))
    assert back(ADDITIVE, TIGHT, LATER) == (
        "reverse",
        "needs reverse of cart.0002, shop.0003 (reversible)",
        ("cart.0002", "shop.0003"),
    )


def test_the_way_back_over_what_is_gone_names_the_restore_point_and_what_is_lost() -> None:
    assert back(TIGHT, GONE) == (
        "irreversible",
        "irreversible (shop.0004): there is no restore point to go back to",
        (),
    )
    assert back(GONE, restore_point=POINT, now="2026-11-21T10:42:10Z")[1] == (
        f"irreversible (shop.0004): restore point {POINT}, losing 42 minutes"
    )
    assert back(GONE, restore_point=POINT, now="2026-11-21T10:00:05+00:00")[1].endswith("losing 1 minute")
    assert back(GONE, restore_point=POINT)[1].endswith(f"restore point {POINT}, losing what was written since")


def test_what_broke_a_table_that_the_target_never_knew_is_no_obstacle() -> None:
    assert back(NEW, NEWER)[0] == "code"
    assert back(NEWER)[0] == "irreversible"


def test_a_migration_without_a_recorded_verdict_is_not_believed_to_be_harmless() -> None:
    way = rollback_verdict(["shop.0002", "shop.0009"], {"shop.0002": ADDITIVE})
    assert (way.kind, way.reverse) == ("irreversible", ())
    assert way.reasons == ("shop.0009: no verdict was recorded when it was applied",)
