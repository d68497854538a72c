"""A full-text index is data like any other: copied whole, told exactly, and asked as its application asks it."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._manifest import compare_database
from ansible_collections.backstay.ops.plugins.module_utils._sqlite_copy import answer, check, copy, facts
from ansible_collections.backstay.ops.plugins.module_utils._sqlite_live import ask

SHADOWS = {"search_config", "search_data", "search_docsize", "search_idx"}
SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE message (id INTEGER PRIMARY KEY, text TEXT NOT NULL);
CREATE VIRTUAL TABLE search USING fts5(text, content='message', content_rowid='id');
CREATE TRIGGER added AFTER INSERT ON message BEGIN
    INSERT INTO search (rowid, text) VALUES (new.id, new.text);
END;
CREATE TRIGGER deleted AFTER DELETE ON message BEGIN
    INSERT INTO search (search, rowid, text) VALUES ('delete', old.id, old.text);
END;
"""
FLOODS = "SELECT count(*) FROM search WHERE search MATCH 'flood'"


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Path]:
    """A database in use, whose index of messages holds no text of its own and is kept by triggers."""
    path = tmp_path / "live.sqlite3"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(SCHEMA)
        rows = [(f"flood in March {number}",) for number in range(300)]
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO message (text) VALUES (?)", rows)
        connection.execute("DELETE FROM message WHERE id % 3 = 0")
        connection.execute("COMMIT")
        yield path


def changed(path: Path, *statements: str) -> Path:
    """A copy in which something else was written since, folded in."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.execute("PRAGMA journal_mode = DELETE")
    return path


def test_the_copy_of_an_index_in_use_agrees_with_its_rows(tmp_path: Path, live: Path) -> None:
    stop = threading.Event()

    def write() -> None:
        with contextlib.closing(sqlite3.connect(live, timeout=30, isolation_level=None)) as connection:
            while not stop.is_set():
                connection.execute("INSERT INTO message (text) VALUES ('flood again')")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        copies = [tmp_path / f"copy-{number}" for number in range(3)]
        for each in copies:
            copy(live, each, account=None)
    finally:
        stop.set()
        writer.join()
    for each in copies:
        assert check(each) == ()
        rows = facts(each, name="portal").tables["message"].rows
        assert rows >= 200
        assert answer(each, FLOODS) == f"[[{rows}]]", "the index and the rows are of one moment"


def test_a_restored_copy_equals_its_manifest_and_another_index_does_not(tmp_path: Path, live: Path) -> None:
    kept, restored = tmp_path / "kept", tmp_path / "restored"
    copy(live, kept, account=None)
    manifest = facts(kept, name="portal", file="databases/portal.sqlite3")
    assert set(manifest.tables) == {"message", *SHADOWS}
    assert manifest.tables["message"].rows == manifest.tables["search_docsize"].rows == 200

    copy(kept, restored, account=None)
    assert compare_database(manifest, facts(restored, name="portal", with_file=False)) == ()

    changed(restored, "INSERT INTO search (search, rowid, text) VALUES ('delete', 1, 'flood in March 0')")
    seen = compare_database(manifest, facts(restored, name="portal", with_file=False))
    where = {difference.where for difference in seen}
    assert "databases/portal/search_docsize" in where, seen
    assert where <= {f"databases/portal/{name}" for name in SHADOWS}, "only the index differs"


def test_a_canary_may_ask_the_index_of_a_copy_and_of_a_live_database(tmp_path: Path, live: Path) -> None:
    copy(live, tmp_path / "copy", account=None)
    queries = {
        "floods": FLOODS,
        "best": "SELECT rowid, text FROM search WHERE search MATCH 'march' ORDER BY rank, rowid LIMIT 1",
        "all": "SELECT count(*) FROM search",
    }
    answers = {name: answer(tmp_path / "copy", query) for name, query in queries.items()}
    assert answers == {"floods": "[[200]]", "best": '[[1,"flood in March 0"]]', "all": "[[200]]"}
    told = ask(live, account=None, queries=queries, count=True)
    assert (told.problem, told.answers) == ("", answers)
    assert told.counts["search_docsize"] == 200


@pytest.mark.parametrize("command", ["optimize", "rebuild", "delete-all", "integrity-check"])
def test_a_query_gives_an_index_no_orders(tmp_path: Path, live: Path, command: str) -> None:
    copy(live, tmp_path / "copy", account=None)
    before = (tmp_path / "copy").read_bytes()
    order = f"INSERT INTO search (search) VALUES ('{command}')"
    with pytest.raises(BackstayError, match="was not answered"):
        answer(tmp_path / "copy", order)
    assert (tmp_path / "copy").read_bytes() == before
    assert ask(live, account=None, queries={"order": order}).problem
    assert ask(live, account=None, queries={"floods": FLOODS}).answers == {"floods": "[[200]]"}


def test_an_index_of_a_kind_that_is_unknown_here_stands_in_nobodys_way(tmp_path: Path, live: Path) -> None:
    copy(live, tmp_path / "copy", account=None)
    changed(
        tmp_path / "copy",
        "PRAGMA writable_schema = ON",
        "INSERT INTO sqlite_schema VALUES ('table', 'odd', 'odd', 0, 'CREATE VIRTUAL TABLE odd USING elsewhere(a)')",
    )
    assert facts(tmp_path / "copy", name="portal").tables["message"].rows == 200
    assert check(tmp_path / "copy") == ()
    assert answer(tmp_path / "copy", FLOODS) == "[[200]]"
    assert ask(tmp_path / "copy", account=None, queries={"floods": FLOODS}).answers == {"floods": "[[200]]"}
    with pytest.raises(BackstayError, match="no such module: elsewhere"):
        answer(tmp_path / "copy", "SELECT * FROM odd")
