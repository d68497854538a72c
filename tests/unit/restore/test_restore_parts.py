"""What of a restore point is restored: everything, or the parts that somebody names. And databases of a server change
places in steps that can be cut off."""

from __future__ import annotations

import contextlib
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.backstay.ops.plugins.module_utils._application import Application
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, InputError
from ansible_collections.backstay.ops.plugins.module_utils._restore import (
    aside,
    checked_parts,
    exchange,
    fetched_paths,
    kept_media,
    loans,
    looked_at,
    missing_media,
    part_of,
    parts_of,
    placed,
)

from .conftest import declared, manifest_of, restoring


def test_nothing_named_means_everything(application: Application) -> None:
    everything = restoring()
    assert checked_parts((), application) == ()
    assert fetched_paths(everything, application) == (
        "/databases/default.sqlite3",
        "/databases/archive.sqlite3",
        "/media",
    )
    assert placed(everything, application) == (
        ("databases/default.sqlite3", "db/portal.sqlite3"),
        ("databases/archive.sqlite3", "var/old/archive.sqlite3"),
        ("media", "media"),
    )
    assert kept_media(everything, application) is None
    assert parts_of(everything) == ("databases", "media")
    manifest = manifest_of({"a.jpg": 1}, orders=2)
    assert part_of(manifest, everything, application) is manifest


@pytest.mark.parametrize("written", ["media", "media:", "media:.", "media:./"])
def test_all_media_can_be_written_in_every_way(application: Application, written: str) -> None:
    only = checked_parts((written,), application)
    assert only == ("media:",)
    assert fetched_paths(restoring(*only), application) == ("/media",)
    assert kept_media(restoring(*only), application) is None


def test_what_is_named_twice_or_lies_in_another_is_restored_once(application: Application) -> None:
    only = checked_parts(("media:a/b/", "media:a", "media:a", "database:default", "media:ab"), application)
    assert only == ("media:a/b", "media:a", "database:default", "media:ab")
    assert fetched_paths(restoring(*only), application) == ("/databases/default.sqlite3", "/media/a", "/media/ab")
    assert kept_media(restoring(*only), application) == (PurePosixPath("media/a"), PurePosixPath("media/ab"))


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("database:orders", "There is no database 'orders' here; there is: default, archive"),
        ("media:/etc", "is no path below the media"),
        ("media:../db", "is no path below the media"),
        ("media:a/../../db", "is no path below the media"),
        ("media:a\n", "is no path below the media"),
        ("configuration", "cannot be restored alone"),
        ("", "cannot be restored alone"),
    ],
)
def test_a_part_that_there_is_not_is_refused(application: Application, part: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        checked_parts((part,), application)


def test_media_of_an_application_without_any_are_refused() -> None:
    backup = {"repositories": {"disk": {"location": "/srv/backup"}}}
    with pytest.raises(InputError, match="has no media"):
        checked_parts(("media",), declared(media=None, backup=backup))


def test_one_database_alone_is_compared_with_its_own_part_of_the_manifest(application: Application) -> None:
    only = restoring("database:archive")
    part = part_of(manifest_of({"a.jpg": 1}, orders=2), only, application)
    assert list(part.databases) == ["archive"]
    assert part.media == {}
    assert part.canaries == (), "they speak about the other database"
    assert parts_of(only) == ("databases",)
    seen = looked_at(only, application)
    assert [database.name for database in seen.databases] == ["archive"], "the other one is not missing"


def test_some_media_are_compared_with_their_own_part_of_the_manifest(application: Application) -> None:
    only = restoring("media:2026", "database:default")
    part = part_of(manifest_of({"2026/a.jpg": 1, "2025/b.jpg": 1, "20261/c.jpg": 1}, orders=2), only, application)
    assert list(part.media) == ["2026/a.jpg"]
    seen = looked_at(only, application)
    assert seen.backup is not None
    assert application.backup is not None
    assert seen.backup.files == (), "the files that the database names lie partly where nothing is restored"
    whole = looked_at(restoring("media:", "database:default"), application)
    assert whole.backup is not None
    assert whole.backup.files == application.backup.files


def test_of_a_live_database_no_more_is_lent_than_the_point_holds(application: Application) -> None:
    """As much as the room was checked for: a database that has grown since would fill the disk."""
    part = part_of(manifest_of(orders=2), restoring("database:default"), application)
    (loan,) = loans(part, restoring("database:default"), application)
    assert (loan.path, loan.most) == ("db/portal.sqlite3", part.databases["default"].size_bytes)


def test_a_path_of_which_the_point_holds_nothing_is_found(application: Application) -> None:
    manifest = manifest_of({"2026/a.jpg": 1}, orders=2)
    for only, missing in (
        (("media:2026",), None),
        (("media:2062",), "2062"),
        ((), None),
        (("database:default",), None),
    ):
        wanted = restoring(*only)
        found = missing_media(part_of(manifest, wanted, application), wanted)
        assert (found and str(found)) == missing
    assert missing_media(manifest_of({}), restoring()) is None, "an application may have no files yet"


# databases of a server


class Cut(Exception):
    """The power failed."""


class Server:
    """Names of databases, and what is in each."""

    def __init__(self, **databases: str) -> None:
        self.content = databases
        self.renames_left = 99

    def databases(self) -> tuple[str, ...]:
        return tuple(self.content)

    def rename(self, old: str, new: str) -> None:
        if self.renames_left == 0:
            raise Cut
        self.renames_left -= 1
        assert new not in self.content, f"the server refuses a second {new}"
        self.content[new] = self.content.pop(old)


def restored(server: Server) -> None:
    exchange(server, "portal", aside("portal", "0002"), "0001")


def undone(server: Server) -> None:
    exchange(server, "portal", aside("portal", "0001"), "0002")


OLD = {"portal": "old", "portal_g0002": "new"}
NEW = {"portal": "new", "portal_g0001": "old"}


def test_the_fresh_database_takes_the_place_of_the_live_one_which_is_kept() -> None:
    server = Server(**OLD)
    restored(server)
    assert server.content == NEW
    restored(server)
    assert server.content == NEW, "a second time nothing happens"
    undone(server)
    assert server.content == OLD
    undone(server)
    assert server.content == OLD


@pytest.mark.parametrize("cut_after", [0, 1])
def test_an_exchange_that_was_cut_off_is_finished_or_undone_from_where_it_stopped(cut_after: int) -> None:
    for end, right in ((restored, NEW), (undone, OLD)):
        server = Server(**OLD)
        server.renames_left = cut_after
        with pytest.raises(Cut):
            restored(server)
        server.renames_left = 99
        end(server)
        assert server.content == right


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2)), max_size=6))
def test_whatever_was_cut_off_and_in_whichever_order_no_database_is_ever_lost(steps: list[tuple[bool, int]]) -> None:
    server = Server(**OLD)
    for forward, renames in steps:
        server.renames_left = renames
        with contextlib.suppress(Cut):
            (restored if forward else undone)(server)
        assert sorted(server.content.values()) == ["new", "old"]
    server.renames_left = 99
    undone(server)
    assert server.content == OLD


def test_three_databases_at_once_are_left_to_a_person() -> None:
    server = Server(portal="?", portal_g0001="?", portal_g0002="?")
    with pytest.raises(BackstayError, match="nobody can tell which of them was live"):
        restored(server)
    assert len(server.content) == 3
