"""What a restore would do and what would be lost by it, before anything is touched."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _application, _restore_plan
from ansible_collections.backstay.ops.plugins.module_utils._catalogue import catalogue
from ansible_collections.backstay.ops.plugins.module_utils._engine import Engine
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, InputError
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._manifest import to_bytes
from ansible_collections.backstay.ops.plugins.module_utils._plan import plan
from ansible_collections.backstay.ops.plugins.module_utils._restore_plan import (
    Files,
    Rows,
    expected_seconds,
    files_lost,
    lost_lines,
    migration_lines,
    rows_lost,
)
from ansible_collections.backstay.ops.plugins.module_utils._storage import canonical
from ansible_collections.backstay.ops.plugins.module_utils._transaction import Request

from .conftest import RUN, declared, manifest_of, restoring
from .test_points import copy, point

Become = Callable[..., None]
SINCE = "2026-11-21 02:00Z"


# pure


def test_what_is_newer_here_is_told_by_table_the_largest_first() -> None:
    rows = rows_lost(
        {"audits_audit": 300, "notes": 10, "same": 5, "new": 2}, {"audits_audit": 86, "notes": 9, "same": 5}
    )
    assert list(rows.newer.items()) == [("audits_audit", 214), ("new", 2), ("notes", 1)]
    files = files_lost({"2026/a.jpg": 500_000, "b.jpg": 1}.items(), {"b.jpg": 1}, (PurePosixPath(),))
    assert lost_lines({"default": rows}, files, SINCE) == [
        "newer here: 214 audits_audit, 2 new, 1 media files (0.5 MB), 1 notes since 2026-11-21 02:00Z",
        "  not in the point: 2026/a.jpg",
    ]


def test_what_was_deleted_since_is_told_as_coming_back() -> None:
    rows = rows_lost({"orders": 1}, {"orders": 3, "dropped": 7})
    assert rows.older == {"dropped": 7, "orders": 2}
    files = files_lost((), {f"{number}.jpg": 1 for number in range(7)}, (PurePosixPath(),))
    assert lost_lines({"default": rows}, files, SINCE) == [
        "it brings back: 7 dropped, 7 media files (0.0 MB), 2 orders",
        "  not here: 0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg and 2 more",
    ]


def test_equal_counts_are_no_promise_that_nothing_changed() -> None:
    lines = lost_lines({"default": rows_lost({"orders": 3}, {"orders": 3})}, Files(), SINCE)
    assert lines == [f"by count nothing is newer here since {SINCE}; rows that were changed are not seen by counting"]


def test_a_table_that_was_not_counted_in_time_is_not_told_as_lost() -> None:
    rows = rows_lost({"a": 3}, {"a": 1, "z": 100}, "late")
    assert rows == Rows({"a": 2}, {}, "late")
    assert lost_lines({"default": rows}, Files(), SINCE)[-1] == "default: not all counted within 10 s"
    assert lost_lines({"default": Rows(problem="late")}, Files(), SINCE) == ["default: not counted within 10 s"]
    assert lost_lines({"default": Rows(problem="no server.")}, Files(), SINCE) == ["default: not counted (no server)"]


def test_only_media_below_what_is_restored_are_compared_and_a_changed_size_is_seen() -> None:
    here = {"2025/a": 1, "2026/b": 2, "2026/c": 3, "20261/d": 4}
    files = files_lost(here.items(), {"2026/b": 9}, (PurePosixPath("2026"),))
    assert files == Files((("2026/c", 3),), (), ("2026/b",))


def test_strange_letters_in_a_name_are_shown_and_not_obeyed() -> None:
    lines = lost_lines({}, Files(only_here=(("a\x1b[31m\nb", 1), ("n" * 300, 1))), SINCE)
    assert all(line.isprintable() for line in lines)
    assert all(len(line) < 200 for line in lines)


def test_how_long_it_takes_is_known_from_the_newest_proof_or_is_called_a_guess() -> None:
    proven = point(19, copy(level=4, proven_at="2026-11-20T03:00:00Z", proven_seconds=30.0), size_bytes=1000)
    older = point(18, copy(level=4, proven_at="2026-11-19T03:00:00Z", proven_seconds=99.0), size_bytes=1000)
    wanted = point(20, size_bytes=2000)
    seconds, why = expected_seconds((older, proven, wanted), wanted, 2000)
    assert (seconds, why) == (60.0, f"as the proof of {proven.run} took")
    measured = copy(level=5, proven_at="2026-11-20T05:00:00Z", proven_seconds=300.0, restoring_seconds=10.0)
    apart = point(19, measured, size_bytes=1000)
    seconds, why = expected_seconds((older, apart, wanted), wanted, 2000)
    assert (seconds, why) == (20.0, f"as restoring {apart.run} took in its proof"), "reading back and a trial are apart"
    seconds, why = expected_seconds((wanted,), wanted, 100_000_000)
    assert seconds == pytest.approx(2.0)
    assert "a guess" in why
    listed = point(21, copy(level=2, proven_at="2026-11-21T03:00:00Z", proven_seconds=1.0), size_bytes=1)
    assert "a guess" in expected_seconds((listed,), listed, 1)[1], "a proof that restored nothing says nothing"


def test_whether_the_copy_is_migrated_is_told() -> None:
    what = replace(restoring(), release="0003-1.2.0")
    lines, pending = migration_lines(("p.0001", "p.0002"), ("p.0001",), what, "0002-1.1.0")
    assert pending == ["p.0002"]
    assert lines == ["the copy gets 1 migrations that 0002-1.1.0 needs: p.0002"]
    assert migration_lines(("p.0001",), ("p.0001",), what, "0002-1.1.0") == (["the copy needs no migration"], [])
    lines, _pending = migration_lines(("p.0001",), ("p.0001", "p.0009"), what, "0002-1.1.0")
    assert lines[0].startswith("it would be refused: 0003-1.2.0 knows p.0009 and 0002-1.1.0 does not; bring both back")
    assert "--with-release" in lines[0]
    assert "release 1.2.0 again" in lines[0]


# on a host


@pytest.fixture
def engine(tmp_path: Path, everybody: Become, monkeypatch: pytest.MonkeyPatch) -> Engine:
    everybody()
    layout = Layout("portal", tmp_path)
    for directory in (layout.generations / "0001", layout.configuration, layout.state, layout.backup_run(RUN)):
        directory.mkdir(parents=True)
    layout.application_file.write_bytes(canonical(_application.to_dict(declared())))
    layout.data.symlink_to("data.d/0001")
    layout.active.symlink_to(layout.socket("0002-1.1.0"))
    for path, count in (("db/portal.sqlite3", 5), ("var/old/archive.sqlite3", 1)):
        (layout.data / path).parent.mkdir(parents=True)
        connection = sqlite3.connect(layout.data / path)
        connection.execute(f"CREATE TABLE {'orders' if count > 1 else 'kept'} (id INTEGER PRIMARY KEY)")
        connection.executemany(
            f"INSERT INTO {'orders' if count > 1 else 'kept'} VALUES (?)", [(n,) for n in range(count)]
        )
        connection.commit()
        connection.close()
    (layout.data / "media").mkdir()
    (layout.data / "media/new.jpg").write_text("new")
    layout.backup_run(RUN).joinpath("manifest.json").write_bytes(to_bytes(manifest_of({"gone.jpg": 7}, orders=2)))
    engine = Engine(layout, now=lambda: "2026-11-21T05:00:00.000Z")
    engine.ledger.append("live", "0002-1.1.0")
    engine.ledger.append("schema", "0002-1.1.0", migrations_known=["portal.0001", "portal.0002"])
    chain = catalogue(layout, engine.storage, engine.now)
    chain.append("made", RUN, at="2026-11-21T02:00:00Z", release="0001-1.0.0", manifest="e" * 64, size_bytes=1000)
    chain.append("stored", RUN, repository="disk", id="i", snapshot="s", tree="t", manifest_snapshot="m")
    monkeypatch.setattr(engine, "account", lambda: None)
    return engine


def test_the_plan_of_a_restore_names_what_would_be_lost_and_changes_nothing(engine: Engine) -> None:
    before = {path: path.lstat().st_mtime_ns for path in sorted(engine.layout.root.rglob("*"))}
    found = plan(engine, Request("restore", point="latest"))
    assert found["operation"] == "restore"
    assert found["message"] == f"portal: would restore everything from {RUN} of {SINCE}."
    assert found["lines"][:5] == [
        f"newer here: 3 orders, 1 media files (0.0 MB) since {SINCE}",
        "  not in the point: new.jpg",
        "it brings back: 1 media files (0.0 MB)",
        "  not here: gone.jpg",
        "the copy gets 1 migrations that 0002-1.1.0 needs: portal.0002",
    ]
    assert "the point is 3 h old, L1 listed, of 0001-1.0.0 in disk" in found["lines"]
    assert found["lost"]["databases"]["default"] == {"newer": {"orders": 3}, "older": {}, "not_counted": ""}
    assert found["lost"]["media"]["only_here"] == {"count": 1, "size_bytes": 3, "names": ["new.jpg"]}
    assert found["migrations"] == ["portal.0002"]
    assert found["seconds_expected"] == 0.0
    assert found["free_bytes"] > 0
    assert found["steps"][0] == {"step": "fetch", "phase": "prepare", "title": "fetch the restore point"}
    after = {path: path.lstat().st_mtime_ns for path in sorted(engine.layout.root.rglob("*"))}
    assert after == before


def test_a_point_of_the_very_payload_that_is_live_is_not_said_to_be_refused(engine: Engine) -> None:
    """A rebuilt host counts its releases anew, and additive migrations of a later one stay after a rollback."""
    made = replace(manifest_of(orders=2), payload="a" * 64, migrations=("portal.0001", "portal.0009"))
    engine.layout.backup_run(RUN).joinpath("manifest.json").write_bytes(to_bytes(made))
    found = plan(engine, Request("restore", point="latest"))
    assert any("it would be refused" in line for line in found["lines"])
    engine.ledger.append("staged", "0002-1.1.0", payload="a" * 64)
    found = plan(engine, Request("restore", point="latest"))
    assert "the copy needs no migration" in found["lines"]


def test_a_plan_of_one_database_says_nothing_about_the_rest(engine: Engine) -> None:
    found = plan(engine, Request("restore", point=RUN, only=("database:archive",)))
    assert list(found["lost"]["databases"]) == ["archive"]
    assert found["lost"]["media"]["only_here"]["count"] == 0
    assert found["lines"][0].startswith("by count nothing is newer here")


def test_a_database_that_takes_too_long_to_count_does_not_keep_anybody_waiting(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_restore_plan, "COUNT_SECONDS", 0.05)
    found = plan(engine, Request("restore", point="latest"))
    assert found["lost"]["databases"]["default"]["not_counted"] == "late"
    assert "default: not counted within 0.05 s" in found["lines"]


def test_a_live_database_behind_a_link_is_not_opened(engine: Engine, tmp_path: Path) -> None:
    path = engine.layout.data / "db/portal.sqlite3"
    path.rename(tmp_path / "elsewhere.sqlite3")
    path.symlink_to(tmp_path / "elsewhere.sqlite3")
    found = plan(engine, Request("restore", point="latest"))
    assert "is no plain file" in found["lost"]["databases"]["default"]["not_counted"]


class Server:
    """A server with two tables, which remembers what it was asked and when it becomes slow."""

    database = "portal"

    def __init__(self, slow: str = "") -> None:
        self.slow = slow
        self.asked: list[str | None] = []

    def query(self, sql: str, *, name: str | None = None, seconds: float = 0) -> list[str]:
        self.asked.append(name)
        if "pg_class" in sql:
            return ['"public.orders"', '"audit.\\"Odd\\""']
        if self.slow and self.slow in sql:
            raise BackstayError("A query was refused: canceling statement due to statement timeout; see its log.")
        assert "SET statement_timeout" in sql, "the server would go on counting"
        return ["7"]


def test_the_tables_of_a_server_are_counted_under_the_names_of_the_manifest(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = replace(declared().databases[0], engine="postgresql", path=None, url_key="DATABASE_URL")
    server = Server()
    monkeypatch.setattr(engine, "server_of", lambda asked: server)
    deadline = engine.clock() + 10
    counted = _restore_plan._counts(engine, database, "0001", deadline, live=True)
    assert counted == ({"orders": 7, 'audit."Odd"': 7, "pg_largeobject": 7}, "")
    _restore_plan._counts(engine, database, "0001", deadline, live=False)
    assert set(server.asked) == {None, "portal_g0001"}
    server.slow = "audit"
    assert _restore_plan._counts(engine, database, "0001", deadline, live=True) == ({"orders": 7}, "late")


def test_a_manifest_that_cannot_be_had_leaves_a_plan_that_says_so(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(_unused: Any) -> Any:
        raise BackstayError("The repository disk cannot be reached: mount it.")

    monkeypatch.setattr(engine, "manifest_of", unreachable)
    found = plan(engine, Request("restore", point="latest"))
    assert found["lines"][0] == "what would be lost is not known: The repository disk cannot be reached: mount it."


def test_the_plan_refuses_what_beginning_would_refuse(engine: Engine) -> None:
    with pytest.raises(InputError, match="is no restore point"):
        plan(engine, Request("restore", point="yesterday"))
    with pytest.raises(InputError, match="There is no restore of portal to undo"):
        plan(engine, Request("restore", undo=True))


def test_the_plan_of_a_restore_with_its_release_says_which_one_serves_then(engine: Engine) -> None:
    asked = Request("restore", point="latest", with_release=True)
    with pytest.raises(InputError, match=r"no release '0001-1\.0\.0' here"):
        plan(engine, asked)
    engine.ledger.append("live", "0001-1.0.0")
    engine.ledger.append("schema", "0001-1.0.0", migrations_known=["portal.0001"])
    with pytest.raises(InputError, match=r"files of 0001-1\.0\.0 are not on this host .* release 1\.0\.0 again"):
        plan(engine, asked)
    (engine.layout.release("0001-1.0.0")).mkdir(parents=True)
    (engine.layout.release("0001-1.0.0") / "manifest.json").touch()
    found = plan(engine, asked)
    assert (found["release"], found["previous"]) == ("0001-1.0.0", "0002-1.1.0")
    assert "the copy needs no migration" in found["lines"]
    assert "the release changes with the data: 0001-1.0.0 serves then, and 0002-1.1.0 no longer" in found["lines"]
    with pytest.raises(InputError, match="leave --only out"):
        plan(engine, Request("restore", point="latest", with_release=True, only=("database:default",)))


def test_the_plan_of_an_undo_names_what_was_written_since_the_restore(engine: Engine) -> None:
    layout = engine.layout
    (layout.generation("0002") / "db").mkdir(parents=True)
    (layout.data / "db/portal.sqlite3").rename(layout.generation("0002") / "db/portal.sqlite3")
    old = sqlite3.connect(layout.data / "db/portal.sqlite3")
    old.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
    old.commit()
    old.close()
    layout.data.unlink()
    layout.data.symlink_to("data.d/0002")
    engine.ledger.append(
        "restored",
        "0002-1.1.0",
        restored={"generation": "0002", "before": "0001", "point": RUN, "only": []},
    )
    found = plan(engine, Request("restore", undo=True))
    assert found["operation"] == "undo"
    assert f"would go back to the data of 0001, from before the restore of {RUN}" in found["message"]
    assert found["lost"]["databases"]["default"] == {"newer": {"orders": 5}, "older": {}, "not_counted": ""}
    assert found["lost"]["media"]["only_in_point"]["names"] == ["new.jpg"]


def test_the_plan_of_undoing_a_part_names_that_part_alone(engine: Engine) -> None:
    layout = engine.layout
    (layout.generation("0002") / "media/2026").mkdir(parents=True)
    (layout.generation("0002") / "media/2026/since.jpg").write_text("since")
    layout.data.unlink()
    layout.data.symlink_to("data.d/0002")
    engine.ledger.append(
        "restored",
        "0002-1.1.0",
        restored={"generation": "0002", "before": "0001", "point": RUN, "only": ["media:2026"]},
    )
    found = plan(engine, Request("restore", undo=True))
    assert found["lost"]["databases"] == {}
    assert found["lost"]["media"]["only_here"]["names"] == ["2026/since.jpg"]
    assert found["lost"]["media"]["only_in_point"]["count"] == 0, "new.jpg is not below what goes back"
    assert "only media:2026 goes back, as it came; all else stays as it is now" in found["lines"]
