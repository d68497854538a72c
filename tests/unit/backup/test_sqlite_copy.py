"""A copy of a database that others write to is whole; what is in it is told exactly; nobody's database is touched."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _sqlite_copy
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, InputError
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed
from ansible_collections.backstay.ops.plugins.module_utils._sqlite_copy import Account, answer, check, copy, facts

# Commits rows one by one, and tells of each commit after SQLite acknowledged it.
WRITER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
number = 0
while True:
    number += 1
    row = (int(sys.argv[2]), number, "x" * 300)
    connection.execute("INSERT INTO audit (writer, number, text) VALUES (?, ?, ?)", row)
    print(number, flush=True)
"""
# An application that has its database open, with a log that is not folded in.
HOLDER = """
import os, sqlite3, sys
os.setgid(65534); os.setuid(65534)
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("INSERT INTO audit (writer) VALUES (7)")
print("ready", flush=True)
sys.stdin.read()
"""
NOBODY = Account(65534, 65534)


def database(path: Path, *statements: str, wal: bool = True) -> Path:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA journal_mode={'wal' if wal else 'delete'}")
    for statement in statements:
        connection.execute(statement)
    connection.close()
    return path


def audits(path: Path, rows: int = 1000) -> Path:
    return database(
        path,
        "CREATE TABLE audit (id INTEGER PRIMARY KEY AUTOINCREMENT, writer INTEGER, number INTEGER, text TEXT)",
        "CREATE INDEX by_writer ON audit (writer, number)",
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) "
        "INSERT INTO audit (writer, number, text) SELECT 0, i, 'audit ' || i FROM n",
    )


@contextlib.contextmanager
def writers(path: Path, count: int) -> Iterator[list[subprocess.Popen[str]]]:
    found = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(number)],
            stdout=(path.parent / f"acknowledged-{number}").open("w"),
            text=True,
        )
        for number in range(1, count + 1)
    ]
    try:
        yield found
    finally:
        for process in found:
            process.kill()
            process.wait()


def acknowledged(path: Path, writer: int) -> int:
    lines = (path.parent / f"acknowledged-{writer}").read_text().split("\n")[:-1]
    return int(lines[-1]) if lines else 0


def open_to_all(directory: Path) -> Path:
    """A directory to which another user finds the way."""
    for each in (directory, *directory.parents):
        if each != Path("/tmp") and each.is_relative_to("/tmp"):
            each.chmod(0o755)
    return directory


def test_a_copy_under_four_writers_is_whole_and_has_every_row_that_was_acknowledged_before(tmp_path: Path) -> None:
    source = audits(tmp_path / "portal.sqlite3", 20_000)
    with writers(source, 4):
        deadline = time.monotonic() + 20
        while min(acknowledged(source, writer) for writer in range(1, 5)) < 20 and time.monotonic() < deadline:
            time.sleep(0.01)
        for number in range(3):
            before = {writer: acknowledged(source, writer) for writer in range(1, 5)}
            target = tmp_path / f"copy{number}.sqlite3"
            copy(source, target, account=None, deadline_seconds=60)
            assert check(target) == ()
            connection = sqlite3.connect(f"file:{target}?immutable=1", uri=True)
            for writer, least in before.items():
                assert least >= 20
                count, last = connection.execute(
                    "SELECT count(*), max(number) FROM audit WHERE writer = ?", (writer,)
                ).fetchone()
                assert count == last >= least
            connection.close()


def test_the_copy_is_made_by_the_application_and_belongs_to_root_alone(tmp_path: Path) -> None:
    open_to_all(tmp_path)
    live = tmp_path / "live"
    live.mkdir(mode=0o700)
    source = audits(live / "portal.sqlite3")
    for path in (live, source):
        os.chown(path, NOBODY.uid, NOBODY.gid)
    stage = tmp_path / "stage"
    (stage / "databases").mkdir(parents=True)
    stage.chmod(0o700)
    target = stage / "databases" / "portal.sqlite3"
    held = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(source)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert held.stdout is not None
        assert held.stdout.readline() == "ready\n"
        size = copy(source, target, account=NOBODY, deadline_seconds=60)
        beside = {path.name: path.stat().st_uid for path in live.iterdir()}
    finally:
        held.communicate()
    assert beside == {f"portal.sqlite3{suffix}": NOBODY.uid for suffix in ("", "-wal", "-shm")}
    found = target.stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode), found.st_nlink, found.st_size) == (0, 0o600, 1, size)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["live", "stage"]
    assert [path.name for path in (stage / "databases").iterdir()] == ["portal.sqlite3"]
    assert facts(target, name="portal").tables["audit"].rows == 1001


def test_the_process_that_copies_is_the_application_and_can_read_nothing_else(tmp_path: Path) -> None:
    open_to_all(tmp_path)
    source = audits(tmp_path / "of-root.sqlite3")
    source.chmod(0o600)
    with pytest.raises(BackstayError, match=r"could not be copied: unable to open database file; "):
        copy(source, tmp_path / "copy.sqlite3", account=NOBODY, deadline_seconds=30)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["of-root.sqlite3"]


def test_a_link_of_the_application_to_what_only_root_may_read_brings_nothing(tmp_path: Path) -> None:
    open_to_all(tmp_path)
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    link = tmp_path / "portal.sqlite3"
    link.symlink_to(audits(hidden / "secret.sqlite3"))
    with pytest.raises(BackstayError, match="could not be copied"):
        copy(link, tmp_path / "copy.sqlite3", account=NOBODY, deadline_seconds=30)
    assert not (tmp_path / "copy.sqlite3").exists()


def test_a_database_that_stays_locked_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    source = database(tmp_path / "portal.sqlite3", "CREATE TABLE t (a)", "INSERT INTO t VALUES (1)", wal=False)
    target = tmp_path / "copy.sqlite3"
    target.write_bytes(b"the copy before")
    writer = sqlite3.connect(source, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    with pytest.raises(BackstayError, match=r"it took longer than 1\.5 s and was ended; see who holds it locked"):
        copy(source, target, account=None, deadline_seconds=1.5)
    assert time.monotonic() - began < 5
    writer.close()
    assert target.read_bytes() == b"the copy before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.sqlite3", "portal.sqlite3"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "it is missing; look at the data directory"),
        (b"", "it is empty; restore it"),
        (b"no database " * 1000, "it is no SQLite database"),
    ],
)
def test_what_is_no_database_gives_a_sentence_and_no_empty_copy(
    tmp_path: Path, content: bytes | None, sentence: str
) -> None:
    source = tmp_path / "portal.sqlite3"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(BackstayError, match=sentence):
        copy(source, tmp_path / "copy.sqlite3", account=None, deadline_seconds=30)
    assert sorted(tmp_path.iterdir()) == ([source] if content is not None else [])


def test_a_directory_in_place_of_a_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "portal.sqlite3").mkdir()
    with pytest.raises(BackstayError, match="it is no regular file"):
        copy(tmp_path / "portal.sqlite3", tmp_path / "copy.sqlite3", account=None, deadline_seconds=30)


@pytest.mark.parametrize("trick", ["symlink", "second name", "pipe", "something beside"])
def test_a_copy_that_is_not_a_plain_file_is_refused(tmp_path: Path, trick: str) -> None:
    source = audits(tmp_path / "portal.sqlite3")
    passwords = tmp_path / "passwords"
    passwords.write_text("root only")

    def application(arguments: list[str], *, stdin: str, **options: object) -> Completed:
        made = Path(json.loads(stdin)["target"])
        if trick == "symlink":
            made.symlink_to(passwords)
        elif trick == "second name":
            os.link(passwords, made)
        elif trick == "pipe":
            os.mkfifo(made)
        else:
            made.write_bytes(source.read_bytes())
            made.with_name("copy-wal").write_bytes(b"x")
        return Completed(tuple(arguments), 0, '{"fault": null, "text": ""}', "")

    with pytest.raises(BackstayError, match=r"no regular file|lies beside the copy"):
        copy(source, tmp_path / "copy.sqlite3", account=None, deadline_seconds=30, runner=application)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["passwords", "portal.sqlite3"]
    assert passwords.read_text() == "root only"


def test_nobody_waits_until_a_copy_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, synced = audits(tmp_path / "portal.sqlite3"), []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_mode))
    copy(source, tmp_path / "copy.sqlite3", account=None, deadline_seconds=30)
    assert not any(map(stat.S_ISREG, synced))


def test_what_a_killed_copy_left_is_gone_after_the_next(tmp_path: Path) -> None:
    source = audits(tmp_path / "portal.sqlite3")
    (tmp_path / ".copying-copy.sqlite3").mkdir()
    (tmp_path / ".copying-copy.sqlite3" / "copy").write_bytes(b"half")
    copy(source, tmp_path / "copy.sqlite3", account=None, deadline_seconds=30)
    assert check(tmp_path / "copy.sqlite3") == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.sqlite3", "portal.sqlite3"]


# facts

# Each pair is something that a careless digest takes for the same.
ALIKE = [
    ("NULL", "''"),
    ("NULL", "0"),
    ("0", "'0'"),
    ("0", "0.0"),
    ("''", "x''"),
    ("'a'", "x'61'"),
    ("x'6100'", "x'61'"),
    ("CAST(x'6100ff' AS TEXT)", "CAST(x'6100fe' AS TEXT)"),
    ("CAST(x'610062' AS TEXT)", "CAST(x'610063' AS TEXT)"),
    ("CAST(x'ff' AS TEXT)", "x'ff'"),
    ("9e999", "-9e999"),
    ("9223372036854775807", "9223372036854775806"),
    ("9007199254740993", "9007199254740992.0"),
    ("0.1", "0.10000000000000002"),
    ("1e-320", "0.0"),
    ("'\u00e9'", "'e\u0301'"),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_values_that_look_alike_have_different_digests(tmp_path: Path, one: str, other: str) -> None:
    digests = []
    for number, value in enumerate((one, other)):
        path = database(tmp_path / f"{number}", "CREATE TABLE t (a, b)", f"INSERT INTO t VALUES ({value}, 'x')")
        digests.append(facts(path, name="d").tables["t"])
    assert digests[0] != digests[1]
    assert digests[0].rows == digests[1].rows == 1


def test_where_a_value_ends_and_in_which_column_it_is_matters(tmp_path: Path) -> None:
    rows = ["('ab', 'c')", "('a', 'bc')", "('abc', '')", "(x'6162', 'c')", "('ab', x'63')"]
    digests = set()
    for number, row in enumerate(rows):
        path = database(tmp_path / f"{number}", "CREATE TABLE t (a, b)", f"INSERT INTO t VALUES {row}")
        digests.add(facts(path, name="d").tables["t"].sha256)
    assert len(digests) == len(rows)


def test_digests_are_the_same_for_ever(tmp_path: Path) -> None:
    """Written down once: another version of Python or SQLite that gives others would condemn every restore point."""
    path = database(
        tmp_path / "d",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b REAL, c TEXT)",
        "INSERT INTO t VALUES (1, NULL, 0.1, ''), (2, x'00ff', 9e999, CAST(x'61ff00' AS TEXT)), "
        "(3, 9223372036854775807, -1.5e300, 'é'), (-4, -1, 3, 12)",
        "CREATE TABLE k (a TEXT, b TEXT, PRIMARY KEY (b DESC, a)) WITHOUT ROWID",
        "INSERT INTO k VALUES ('x', '1'), ('y', '2'), ('a', '2')",
    )
    found = facts(path, name="d")
    assert {name: (table.rows, table.sha256) for name, table in found.tables.items()} == {
        "k": (3, "bc86b0b2bda6b47da6004ba8f89277d35773ee0a3abbd155a5a805ff0d6dd163"),
        "t": (4, "1acdb7ec3e95249171197826042393245b662490c50a0212c97d890391728957"),
    }
    assert found.schema_sha256 == "49821bb2d0d0a360f7de7e7a64aadd50b3cbfd3784df06954e686bd122c03df5"


def test_the_order_in_which_rows_were_written_does_not_matter(tmp_path: Path) -> None:
    digests = []
    for number, rows in enumerate(["(1, 'a'), (2, 'b'), (3, 'c')", "(3, 'c'), (1, 'a'), (2, 'b')"]):
        path = database(
            tmp_path / f"{number}",
            "CREATE TABLE t (id INTEGER PRIMARY KEY, a)",
            f"INSERT INTO t VALUES {rows}",
            "CREATE TABLE k (id TEXT PRIMARY KEY, a) WITHOUT ROWID",
            f"INSERT INTO k VALUES {rows}",
            "CREATE INDEX narrow ON k (a)",
        )
        digests.append(facts(path, name="d").tables)
    assert digests[0] == digests[1]


def test_a_table_of_many_columns_or_of_hostile_names_is_told_as_well(tmp_path: Path) -> None:
    columns = ", ".join(f"c{number}" for number in range(1200))
    path = database(
        tmp_path / "d",
        f"CREATE TABLE wide ({columns})",
        "INSERT INTO wide (c1199) VALUES (x'00')",
        'CREATE TABLE "q""uote; --" ("a""b", rowid, oid)',
        'INSERT INTO "q""uote; --" VALUES (1, 2, 3)',
        'CREATE TABLE taken (rowid, oid, "_rowid_")',
        "INSERT INTO taken VALUES (1, 2, 3)",
        "CREATE TABLE computed (a, b AS (a * 2) VIRTUAL, c AS (a * 3) STORED)",
        "INSERT INTO computed (a) VALUES (7)",
    )
    tables = facts(path, name="d").tables
    assert {name: table.rows for name, table in tables.items()} == {
        "computed": 1,
        'q"uote; --': 1,
        "taken": 1,
        "wide": 1,
    }
    other = database(
        tmp_path / "e", f"CREATE TABLE wide ({columns})", "INSERT INTO wide (c1199) VALUES (CAST(x'00' AS TEXT))"
    )
    assert facts(other, name="d").tables["wide"] != tables["wide"]


def test_a_search_index_counts_by_the_tables_that_hold_it(tmp_path: Path) -> None:
    path = database(
        tmp_path / "d", "CREATE VIRTUAL TABLE s USING fts5(text)", "INSERT INTO s VALUES ('flood in March')"
    )
    tables = facts(path, name="d").tables
    assert "s" not in tables
    assert tables["s_content"].rows == 1
    assert {"s_data", "s_idx", "s_config", "s_docsize"} <= set(tables)


def test_an_order_that_only_the_application_knows_is_no_obstacle(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "d")
    connection.create_collation("backwards", lambda one, other: (one < other) - (one > other))
    connection.execute("CREATE TABLE k (a TEXT COLLATE backwards PRIMARY KEY) WITHOUT ROWID")
    connection.execute("CREATE TABLE t (a TEXT COLLATE backwards)")
    connection.executemany("INSERT INTO k VALUES (?)", [("b",), ("a",), ("c",)])
    connection.commit()
    connection.close()
    assert facts(tmp_path / "d", name="d").tables["k"].rows == 3


def test_facts_tell_sequences_versions_and_schema(tmp_path: Path) -> None:
    path = audits(tmp_path / "d", 5)
    database(path, "PRAGMA user_version=7", "PRAGMA application_id=42", "DELETE FROM audit WHERE id = 5")
    found = facts(path, name="portal", file="databases/portal.sqlite3")
    assert found.tables["audit"].rows == 4
    assert found.sequences == {"audit": "5"}
    assert found.properties["user_version"] == 7
    assert found.properties["application_id"] == 42
    assert found.properties["page_count"] * found.properties["page_size"] == path.stat().st_size == found.size_bytes
    assert (found.name, found.engine, found.file) == ("portal", "sqlite", "databases/portal.sqlite3")
    database(path, "DROP INDEX by_writer")
    assert facts(path, name="portal").schema_sha256 != found.schema_sha256


def test_a_database_of_utf16_and_one_that_was_vacuumed_keep_their_digests(tmp_path: Path) -> None:
    path = database(
        tmp_path / "d", "PRAGMA encoding='UTF-16le'", "CREATE TABLE t (a)", "INSERT INTO t VALUES ('é'), (x'e9'), (1.5)"
    )
    before = facts(path, name="d")
    database(path, "VACUUM")
    assert facts(path, name="d").tables == before.tables
    assert before.properties["encoding"] == "UTF-16le"


def test_reading_a_copy_leaves_nothing_beside_it_and_does_not_change_it(tmp_path: Path) -> None:
    path = audits(tmp_path / "d")
    copy(path, tmp_path / "copy", account=None, deadline_seconds=30)
    path.unlink()
    before = (tmp_path / "copy").read_bytes()
    facts(tmp_path / "copy", name="d")
    check(tmp_path / "copy")
    answer(tmp_path / "copy", "SELECT count(*) FROM audit")
    assert (tmp_path / "copy").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_file_with_a_log_beside_it_is_not_taken_for_a_copy(tmp_path: Path) -> None:
    path = audits(tmp_path / "d")
    (tmp_path / "d-wal").write_bytes(b"x" * 100)
    for look in (lambda: facts(path, name="d"), lambda: check(path), lambda: answer(path, "SELECT 1")):
        with pytest.raises(InputError, match="copy the database first"):
            look()


# checks


def test_a_sound_database_has_no_findings(tmp_path: Path) -> None:
    assert check(audits(tmp_path / "d")) == ()


def test_a_damaged_page_a_cut_file_and_what_is_no_database_are_told(tmp_path: Path) -> None:
    path = audits(tmp_path / "d", 5000)
    content = bytearray(path.read_bytes())
    content[4096 * 3 : 4096 * 3 + 200] = os.urandom(200)
    path.write_bytes(content)
    assert any("is damaged" in found for found in check(path))
    path.write_bytes(content[: len(content) // 2])
    assert check(path)
    path.write_bytes(b"nothing of the kind" * 300)
    assert "file is not a database" in check(path)[0]
    path.write_bytes(b"")
    assert "is empty" in check(path)[0]


def test_an_index_that_lacks_a_row_and_rows_that_refer_to_nothing_are_told(tmp_path: Path) -> None:
    path = database(
        tmp_path / "d",
        "CREATE TABLE audit (id INTEGER PRIMARY KEY)",
        "CREATE TABLE finding (id INTEGER PRIMARY KEY, audit REFERENCES audit (id), kind TEXT)",
        "CREATE INDEX by_kind ON finding (kind)",
        "INSERT INTO finding VALUES (1, 5, 'a'), (2, 6, 'b'), (3, NULL, 'c')",
    )
    rename = "UPDATE sqlite_schema SET sql = replace(sql, '(kind)', '(audit)') WHERE name = 'by_kind'"
    database(path, "PRAGMA writable_schema=ON", rename)
    found = check(path)
    assert "In the database d, 2 rows of finding refer to rows of audit that do not exist." in found
    assert any("missing from index by_kind" in each for each in found)


def test_functions_and_orders_of_the_application_do_not_stand_in_the_way_of_a_check(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "d")
    connection.create_function("django_thing", 1, lambda value: value, deterministic=True)
    connection.create_collation("own", lambda one, other: (one > other) - (one < other))
    connection.execute("CREATE TABLE t (a, b TEXT COLLATE own, CHECK (django_thing(a) > 0))")
    connection.execute("CREATE INDEX i ON t (django_thing(a))")
    connection.execute("CREATE INDEX j ON t (b)")
    connection.execute("CREATE TABLE u (a PRIMARY KEY)")
    connection.execute("INSERT INTO t VALUES (1, 'x')")
    connection.commit()
    connection.close()
    assert check(tmp_path / "d") == ()


# answers


def test_an_answer_is_the_rows_in_one_form(tmp_path: Path) -> None:
    path = audits(tmp_path / "d")
    assert answer(path, "SELECT count(*), max(text) FROM audit") == '[[1000,"audit 999"]]'
    assert answer(path, "SELECT x'ff', NULL, 9e999, 'é', 0.1, CAST(x'ff' AS TEXT)") == (
        '[[{"blob":"ff"},null,{"real":"inf"},"é",0.1,"\\\\xff"]]'
    )


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM audit",
        "ATTACH DATABASE '/tmp/other' AS other",
        "PRAGMA user_version=5",
        "CREATE TABLE t (a)",
        "SELECT load_extension('x')",
        "SELECT nothing FROM audit",
        "SELECT 1; DELETE FROM audit",
        "PRAGMA page_size=512",
        "VACUUM INTO '/tmp/elsewhere'",
    ],
)
def test_a_query_can_only_read(tmp_path: Path, query: str) -> None:
    path = audits(tmp_path / "d")
    before = path.read_bytes()
    with pytest.raises(BackstayError, match="was not answered"):
        answer(path, query)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["d"]


def test_a_query_without_an_end_is_ended(tmp_path: Path) -> None:
    path = audits(tmp_path / "d")
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    began = time.monotonic()
    with pytest.raises(BackstayError, match=r"it took longer than 0\.3 s"):
        answer(path, endless, seconds=0.3)
    assert time.monotonic() - began < 3
    with pytest.raises(BackstayError, match="more than 1000 rows"):
        answer(path, endless.replace("max(i)", "i"))


def test_memory_stays_flat_over_large_values(tmp_path: Path) -> None:
    path = tmp_path / "d"
    database(path, "CREATE TABLE t (a)", "INSERT INTO t VALUES (1)")
    connection = sqlite3.connect(path)
    connection.executemany("INSERT INTO t VALUES (zeroblob(?))", [(1 << 20,)] * 200)
    connection.commit()
    connection.close()
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from ansible_collections.backstay.ops.plugins.module_utils._sqlite_copy import facts\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert facts(Path(sys.argv[1]), name='d').tables['t'].rows == 201\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    tree = Path(_sqlite_copy.__file__)
    top = next(each for each in tree.parents if each.name == "ansible_collections").parent
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        env={"PYTHONPATH": str(top), "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 200_000  # KiB, where the table has 200 MiB
