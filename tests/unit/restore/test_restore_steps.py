"""The steps of a restore on a real directory tree with real databases: what is live then, and what lies beside."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _application
from ansible_collections.backstay.ops.plugins.module_utils import _generations as generations
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, GateRefused, InputError
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._restore import Restore
from ansible_collections.backstay.ops.plugins.module_utils._runtime import MigrationState
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage, canonical
from ansible_collections.backstay.ops.plugins.module_utils._transaction import Request, Restoring, Transaction

from .conftest import declared, manifest_of, restoring

Become = Callable[..., None]


def write_row(path: Path, name: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("INSERT INTO notes VALUES (?)", (name,))
    connection.close()


class Quick(Storage):
    """A real disk that nobody waits for."""

    def sync_tree(self, path: Path) -> None:
        """Nothing is cut off here."""


def rows(path: Path) -> list[str]:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return [row[0] for row in connection.execute("SELECT name FROM notes ORDER BY name")]
    finally:
        connection.close()


def write(path: Path, *names: str, in_log: tuple[str, ...] = ()) -> None:
    """A database; `in_log` are rows that are only in its log, as a process leaves it that was killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE notes (name)")
    connection.executemany("INSERT INTO notes VALUES (?)", [(name,) for name in names])
    if in_log:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.executemany("INSERT INTO notes VALUES (?)", [(name,) for name in in_log])
        parts = [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm")]
        kept = {part: part.read_bytes() for part in parts}
        connection.close()
        for part, content in kept.items():
            part.write_bytes(content)
    else:
        connection.close()


@pytest.fixture
def host(tmp_path: Path, everybody: Become) -> Restore:
    everybody()
    layout = Layout("portal", tmp_path)
    for directory in (layout.generations / "0001", layout.configuration, layout.state, layout.runtime.parent):
        directory.mkdir(parents=True)
    layout.control_socket.parent.mkdir()
    layout.application_file.write_bytes(canonical(_application.to_dict(declared())))
    layout.data.symlink_to("data.d/0001")
    write(layout.data / "db/portal.sqlite3", "live", in_log=("the disaster",))
    write(layout.data / "var/old/archive.sqlite3", "old", in_log=("only in the log",))
    (layout.data / "media/2026").mkdir(parents=True)
    (layout.data / "media/2026/a.jpg").write_text("live")
    (layout.data / "media/top.jpg").write_text("live")
    return Restore(layout, Quick())


def transaction(*only: str, undo: bool = False) -> Transaction:
    what = restoring(*only)
    if undo:
        what = replace(what, generation="0001", before="0002", undo=True)
    request = Request("restore")
    return Transaction(
        "t-1", "portal", "restore", "0001-1.0.0", "0001-1.0.0", "1.0.0", "", request, "now", restore=what
    )


def fetch(host: Restore, only: tuple[str, ...] = ()) -> None:
    """What a repository leaves where a restore asked for it."""
    fetched = generations.partial(host.layout, "0002") / "fetched"
    if not only or "database:default" in only:
        write(fetched / "databases/default.sqlite3", "point")
    if not only or "database:archive" in only:
        write(fetched / "databases/archive.sqlite3", "point")
    (fetched / "media/2026").mkdir(parents=True)
    (fetched / "media/2026/a.jpg").write_text("point")


def go(host: Restore, *only: str) -> Path:
    fetch(host, only)
    asked = transaction(*only)
    for step in (host.do_place, host.do_carry, host.do_swap):
        step(asked)
        step(asked)  # each can be done twice
    host.data_lock.release()
    assert generations.live(host.layout) == "0002"
    return host.layout.data


def test_no_log_of_the_data_before_lies_beside_a_restored_database(host: Restore) -> None:
    """The trap: such a log is laid over the restored file at its first opening, and no check of SQLite's sees it."""
    data = go(host)
    assert sorted(path.name for path in (data / "db").iterdir()) == ["portal.sqlite3"]
    assert rows(data / "db/portal.sqlite3") == ["point"]
    assert rows(data / "var/old/archive.sqlite3") == ["point"]
    assert (data / "media/2026/a.jpg").read_text() == "point"
    assert not (data / "media/top.jpg").exists()


def test_the_data_before_stay_whole_with_what_was_only_in_the_log(host: Restore) -> None:
    go(host)
    before = host.layout.generation("0001")
    assert rows(before / "db/portal.sqlite3") == ["live", "the disaster"]
    assert (before / "media/top.jpg").read_text() == "live"


def test_a_database_that_is_not_restored_comes_with_its_log_and_without_its_index(host: Restore) -> None:
    data = go(host, "database:default")
    assert sorted(path.name for path in (data / "var/old").iterdir()) == ["archive.sqlite3", "archive.sqlite3-wal"]
    assert rows(data / "var/old/archive.sqlite3") == ["old", "only in the log"]
    assert rows(data / "db/portal.sqlite3") == ["point"]
    assert {path.name for path in (data / "media").rglob("*.jpg")} == {"a.jpg", "top.jpg"}
    assert (data / "media/2026/a.jpg").read_text() == "live"


def test_some_media_alone_leave_the_rest_as_it_was(host: Restore) -> None:
    data = go(host, "media:2026")
    assert (data / "media/2026/a.jpg").read_text() == "point"
    assert (data / "media/top.jpg").read_text() == "live"
    assert rows(data / "db/portal.sqlite3") == ["live", "the disaster"]
    assert rows(data / "var/old/archive.sqlite3") == ["old", "only in the log"]


def test_what_a_migration_made_under_the_name_of_a_database_that_is_not_restored_does_not_stay(host: Restore) -> None:
    """A migration of the copy knows all databases and makes those that are not there yet, with logs of their own."""
    fetch(host, ("database:default",))
    asked = transaction("database:default")
    host.do_place(asked)
    made = host.layout.generation("0002") / "var/old/archive.sqlite3"
    write(made, "made by a migration", in_log=("and its log",))
    journal = made.with_name("archive.sqlite3-journal")
    journal.write_text("")
    host.do_carry(asked)
    assert rows(made) == ["old", "only in the log"]
    assert not journal.exists()


def test_uploads_that_come_while_a_part_is_restored_are_not_lost(host: Restore) -> None:
    fetch(host, ("database:default",))
    asked = transaction("database:default")
    host.do_place(asked)
    (host.layout.data / "media/late.jpg").write_text("uploaded meanwhile")
    (host.layout.data / "media/top.jpg").unlink()
    host.do_carry(asked)
    media = host.layout.generation("0002") / "media"
    assert (media / "late.jpg").read_text() == "uploaded meanwhile"
    assert not (media / "top.jpg").exists()


@pytest.mark.parametrize("where", ["var/old/archive.sqlite3", "var/old", "var"])
def test_a_database_behind_a_link_is_not_carried_over_and_not_lost_in_silence(
    host: Restore, tmp_path: Path, where: str
) -> None:
    fetch(host, ("database:default",))
    asked = transaction("database:default")
    host.do_place(asked)
    path = host.layout.data / where
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BackstayError, match="is no file, or lies behind a link"):
        host.do_carry(asked)


def test_a_database_that_somebody_still_has_open_stops_it(host: Restore) -> None:
    fetch(host)
    asked = transaction()
    host.do_place(asked)
    with (host.layout.data / "db/portal.sqlite3").open("rb"), pytest.raises(BackstayError, match="is still open in"):
        host.do_carry(asked)


def test_going_back_before_the_point_of_no_return_leaves_nothing(host: Restore) -> None:
    go(host)
    asked = transaction()
    for undo in (host.undo_swap, host.undo_carry, host.undo_convert, host.undo_place, host.undo_fetch):
        undo(asked, "it failed")
        undo(asked, "once more")
    host.data_lock.release()
    assert generations.live(host.layout) == "0001"
    assert [path.name for path in host.layout.generations.iterdir()] == ["0001"]
    assert rows(host.layout.data / "db/portal.sqlite3") == ["live", "the disaster"]


def test_an_undo_goes_back_to_the_data_before_with_every_row(host: Restore) -> None:
    go(host)
    host.do_swap(transaction(undo=True))
    host.data_lock.release()
    assert generations.live(host.layout) == "0001"
    assert rows(host.layout.data / "db/portal.sqlite3") == ["live", "the disaster"]
    assert rows(host.layout.generation("0002") / "db/portal.sqlite3") == ["point"]


def test_undoing_a_part_leaves_all_else_as_it_is_now(host: Restore) -> None:
    data = go(host, "media:2026")
    write_row(data / "db/portal.sqlite3", "since")
    (data / "media/top.jpg").write_text("since")
    (data / "media/later.jpg").write_text("since")
    (data / "media/2026/b.jpg").write_text("since")
    asked = transaction("media:2026", undo=True)
    for step in (host.do_carry, host.do_swap):
        step(asked)
        step(asked)
    host.data_lock.release()
    assert generations.live(host.layout) == "0001"
    assert rows(data / "db/portal.sqlite3") == ["live", "since", "the disaster"]
    assert (data / "media/2026/a.jpg").read_text() == "live"
    assert not (data / "media/2026/b.jpg").exists(), "it came after the restore, and stays in what is left"
    assert (host.layout.generation("0002") / "media/2026/b.jpg").exists()
    assert ((data / "media/top.jpg").read_text(), (data / "media/later.jpg").read_text()) == ("since", "since")


def test_undoing_a_database_leaves_the_others_as_they_are_now(host: Restore) -> None:
    data = go(host, "database:default")
    write_row(data / "db/portal.sqlite3", "since")
    write_row(data / "var/old/archive.sqlite3", "since")
    asked = transaction("database:default", undo=True)
    host.do_carry(asked)
    host.do_swap(asked)
    host.data_lock.release()
    assert rows(data / "db/portal.sqlite3") == ["live", "the disaster"]
    assert rows(data / "var/old/archive.sqlite3") == ["old", "only in the log", "since"]


def test_an_undo_of_everything_is_in_nobodys_way(host: Restore) -> None:
    go(host)
    reader = sqlite3.connect(host.layout.data / "db/portal.sqlite3")
    reader.execute("SELECT name FROM notes").fetchone()
    try:
        host.do_carry(transaction(undo=True))
    finally:
        reader.close()


def test_an_undo_to_a_generation_that_is_gone_changes_nothing(host: Restore) -> None:
    go(host)
    Storage().remove_tree(host.layout.generation("0001"))
    with pytest.raises(BackstayError, match="The generation 0001 is gone"):
        host.do_swap(transaction(undo=True))
    assert generations.live(host.layout) == "0002"
    host.data_lock.release()


def test_what_was_written_down_as_undone_is_left_alone(host: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service before it may serve again by then, and a second recovery must not stop it."""
    go(host)
    host.undo_swap(transaction(), "it failed")
    host.layout.old_journals.mkdir()
    host.journal.write("begin", "begin")
    host.journal.write("swap", "undone")
    stopped: list[Any] = []
    monkeypatch.setattr(host.systemd, "stop", stopped.append)
    host.undo_swap(transaction(), "it failed")
    assert not stopped
    host.data_lock.release()


def test_a_link_in_what_was_fetched_is_refused_and_nothing_is_live(host: Restore, tmp_path: Path) -> None:
    fetch(host)
    (generations.partial(host.layout, "0002") / "fetched/media/link").symlink_to(tmp_path)
    with pytest.raises(BackstayError, match="neither a file nor a directory"):
        host.do_place(transaction())
    assert not host.layout.generation("0002").exists()


def test_the_canaries_are_asked_of_the_data_where_they_now_are(host: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    canaries = [{"name": "orders", "database": "default", "query": "SELECT count(*) FROM notes"}]
    backup = {"repositories": {"disk": {"location": "/srv/backup"}}, "canaries": canaries}
    host.layout.application_file.write_bytes(canonical(_application.to_dict(declared(backup=backup))))
    go(host)
    monkeypatch.setattr(host, "account", lambda: None)
    monkeypatch.setattr(host, "manifest_of", lambda what: manifest_of())
    said: list[str] = []
    monkeypatch.setattr(host, "say", said.append)
    assert host.do_ask(transaction()) == "1 answers"
    assert said == ["after its migrations the copy answers orders differently than when it was made"]
    assert sorted(path.name for path in (host.layout.data / "db").iterdir()) == ["portal.sqlite3"], "nothing is left"


def test_a_manifest_that_is_not_the_one_that_was_proven_is_not_used(
    host: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ansible_collections.backstay.ops.plugins.module_utils._manifest import digest, to_bytes

    class Remote:
        content = to_bytes(manifest_of(orders=2))

        def read(self, snapshot: str, path: str) -> bytes:
            return self.content

    monkeypatch.setattr(host, "repository_of", lambda what: Remote())
    what = restoring()
    kept = host.layout.backup_run(what.point) / "manifest.json"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(to_bytes(manifest_of(orders=999)))
    sha256 = digest(Remote.content)
    assert host.manifest_of(what, sha256).databases["default"].tables["orders"].rows == 2
    again = Restore(host.layout, Quick())
    monkeypatch.setattr(again, "repository_of", lambda what: Remote())
    with pytest.raises(GateRefused, match="is not the one that was proven"):
        again.manifest_of(what, "0" * 64)


def test_a_restore_that_does_not_fit_is_refused_before_anything_is_fetched(
    host: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from .test_points import point

    what, size = restoring("database:default"), 10 << 50
    with pytest.raises(GateRefused, match="free some, or keep fewer generations"):
        host._check_disk(what, declared(), replace(point(21), run=what.point, size_bytes=size))
    needed, _free = host.room(what, declared(), replace(point(21), run=what.point, size_bytes=1000))
    carried = sum(path.stat().st_size for path in (host.layout.data / "media").rglob("*.jpg"))
    carried += sum((host.layout.data / f"var/old/archive.sqlite3{suffix}").stat().st_size for suffix in ("", "-wal"))
    assert needed == 1200 + carried + declared().releases.free_bytes


def test_there_is_nothing_to_undo_where_the_live_data_were_not_restored(host: Restore) -> None:
    host.layout.active.symlink_to(host.layout.socket("0001-1.0.0"))
    host.ledger.append("live", "0001-1.0.0")
    with pytest.raises(InputError, match="There is no restore of portal to undo"):
        host.open_restore(Request("restore", undo=True))
    go(host)
    host.confirm_restore(transaction())
    host.confirm_restore(transaction())
    assert [entry.event for entry in host.ledger.read()] == ["live", "restored"], "written down once"
    opened = host.open_restore(Request("restore", undo=True)).restore
    assert opened is not None
    assert (opened.generation, opened.before, opened.undo) == ("0001", "0002", True)
    host.layout.active.unlink()
    host.layout.active.symlink_to(host.layout.socket("0002-1.1.0"))
    with pytest.raises(GateRefused, match=r"0002-1.1.0 was released since the restore.*0001-1.0.0"):
        host.open_restore(Request("restore", undo=True))


def test_an_undo_can_be_undone_so_that_nothing_written_in_between_is_out_of_reach(host: Restore) -> None:
    host.layout.active.symlink_to(host.layout.socket("0001-1.0.0"))
    host.ledger.append("live", "0001-1.0.0")
    go(host)
    host.confirm_restore(transaction())
    for there, back in (("0001", "0002"), ("0002", "0001"), ("0001", "0002")):
        opened = host.open_restore(Request("restore", undo=True))
        assert opened.restore is not None
        assert (opened.restore.generation, opened.restore.before) == (there, back)
        generations.switch(host.layout, Quick(), there)
        host.confirm_restore(replace(opened, id=f"t-to-{there}-{len(host.ledger.read())}"))
        assert generations.known(host.layout) == ("0001", "0002")
    assert [entry.event for entry in host.ledger.read()][1:] == ["restored", "returned", "returned", "returned"]


def test_the_generation_that_an_undo_needs_is_kept_although_newer_ones_lie_beside(host: Restore) -> None:
    """After an undo a restore leaves older data behind than the one before it did."""
    backup = {"repositories": {"disk": {"location": "/srv/backup"}}, "keep_generations": 1}
    host.layout.application_file.write_bytes(canonical(_application.to_dict(declared(backup=backup))))
    for name in ("0002", "0003", "0004"):
        (host.layout.generations / name).mkdir()
    generations.switch(host.layout, Quick(), "0004")
    assert host.prune_generations(transaction()) == 1  # it restored over 0001
    assert generations.known(host.layout) == ("0001", "0003", "0004")


# data with migrations that the code does not know


class Serving(Restore):
    """A host whose database is asked by nobody: `here` is what the live data have and the code does not know, `there`
    what the copy has."""

    here: tuple[str, ...] = ()
    there: tuple[str, ...] = ()
    gone = False

    def migrations(self, release: str, command: str, **given: Any) -> MigrationState:
        if self.gone and not given.get("properties"):
            raise BackstayError("The migrations could not be read: there is no such database.")
        unknown = self.there if given.get("properties") else self.here
        return MigrationState(applied=(), known=(), pending=(), unknown=unknown)

    def manifest_of(self, restoring: Restoring, sha256: str = "") -> Any:
        return SimpleNamespace(payload=restoring.release[-5:] * 12)


@pytest.fixture
def serving(host: Restore) -> Serving:
    for release in ("0001-1.0.0", "0002-1.1.0"):
        host.ledger.append("staged", release, version=release.partition("-")[2], payload=release[-5:] * 12)
    return Serving(host.layout, Quick())


def test_a_host_that_was_rebuilt_takes_the_data_of_the_payload_that_it_serves(serving: Serving) -> None:
    """It was rolled back before it burned: an additive migration stayed, and the new host counts its releases anew."""
    serving.there = ("audits.0003",)
    asked = transaction("database:default")
    elsewhere = replace(restoring("database:default"), release="0005-1.1.0")
    (serving.layout.generations / "0002").mkdir()
    assert serving.do_convert(replace(asked, candidate="0002-1.1.0", restore=elsewhere)) == "as new as the live code"


@pytest.mark.parametrize(
    ("here", "there", "live", "refused"),
    [
        # An additive migration stayed when its release was taken back: the release that made the point served on it.
        ((), ("audits.0003",), "0001-1.0.0", False),
        # What is live made no point yet, and serves on the same migrations.
        (("audits.0003",), ("audits.0003",), "0002-1.1.0", False),
        ((), ("audits.0003",), "0002-1.1.0", True),
        (("audits.0003",), ("audits.0003", "audits.0004"), "0002-1.1.0", True),
    ],
)
def test_only_migrations_that_a_release_never_served_on_stand_in_the_way(
    serving: Serving, here: tuple[str, ...], there: tuple[str, ...], live: str, refused: bool
) -> None:
    serving.here, serving.there = here, there
    asked = transaction("database:default")
    asked = replace(asked, candidate=live, restore=replace(restoring("database:default"), release="0001-1.0.0"))
    (serving.layout.generations / "0002").mkdir()
    if refused:
        with pytest.raises(GateRefused, match=rf"knows {there[-1]} and {live} does not"):
            serving.do_convert(asked)
    else:
        assert serving.do_convert(asked) == "as new as the live code"


def test_a_live_database_that_is_gone_is_not_asked_what_it_served_on(serving: Serving) -> None:
    """Nobody can tell then; and to say that its migrations could not be read would help nobody who restores it."""
    asked = transaction("database:default")
    asked = replace(asked, candidate="0002-1.1.0", restore=replace(restoring("database:default"), release="0001-1.0.0"))
    (serving.layout.generations / "0002").mkdir()
    serving.there, serving.gone = ("audits.0003",), True
    with pytest.raises(GateRefused, match=r"knows audits.0003 and 0002-1.1.0 does not: bring both back"):
        serving.do_convert(asked)
    serving.there = ()
    assert serving.do_convert(asked) == "as new as the live code"
