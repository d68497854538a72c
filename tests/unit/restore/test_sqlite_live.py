"""Questions to a database that somebody is writing to, and what they must never do to it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _sqlite_copy
from ansible_collections.backstay.ops.plugins.module_utils._sqlite_live import ask


@pytest.fixture
def live(tmp_path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(tmp_path / "live.sqlite3", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, note)")
    connection.execute('CREATE TABLE "of ""odd"" name" (id INTEGER PRIMARY KEY AUTOINCREMENT)')
    connection.executemany("INSERT INTO orders (note) VALUES (?)", [("one",), (b"\xff",), (float("inf"),)])
    return connection


def test_rows_that_are_only_in_the_log_are_counted(tmp_path: Path, live: sqlite3.Connection) -> None:
    assert (tmp_path / "live.sqlite3-wal").stat().st_size
    told = ask(tmp_path / "live.sqlite3", account=None, count=True)
    assert told.counts == {"orders": 3, 'of "odd" name': 0}
    assert told.problem == ""


def test_answers_have_the_form_in_which_a_backup_keeps_them(tmp_path: Path, live: sqlite3.Connection) -> None:
    query = "SELECT id, note FROM orders ORDER BY id"
    told = ask(tmp_path / "live.sqlite3", account=None, queries={"all": query})
    live.close()
    assert told.answers == {"all": _sqlite_copy.answer(tmp_path / "live.sqlite3", query)}


@pytest.mark.parametrize("query", ["DELETE FROM orders", "PRAGMA user_version=7", "ATTACH '/tmp/x' AS x", "no query"])
def test_a_question_can_only_read(tmp_path: Path, live: sqlite3.Connection, query: str) -> None:
    told = ask(tmp_path / "live.sqlite3", account=None, queries={"bad": query})
    assert told.problem
    assert told.answers == {}
    assert live.execute("SELECT count(*) FROM orders").fetchone() == (3,)


def test_what_takes_too_long_is_ended_and_what_was_counted_until_then_is_told(
    tmp_path: Path, live: sqlite3.Connection
) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    told = ask(tmp_path / "live.sqlite3", account=None, queries={"first": "SELECT 1", "never": endless}, seconds=0.5)
    assert told.problem == "late"
    assert told.answers == {"first": "[[1]]"}


def test_a_database_that_is_not_there_is_told_and_not_made(tmp_path: Path) -> None:
    told = ask(tmp_path / "none.sqlite3", account=None, count=True)
    assert "unable to open" in told.problem
    assert not (tmp_path / "none.sqlite3").exists()
    (tmp_path / "text").write_text("no database at all, but long enough to look like the header of one" * 20)
    assert "not a database" in ask(tmp_path / "text", account=None, count=True).problem
