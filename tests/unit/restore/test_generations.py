"""Generations of the data on a real file system: nothing that the application put there leads root anywhere else."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.backstay.ops.plugins.module_utils import _generations as generations
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage

from .conftest import declared

Become = Callable[..., None]


def lay(top: Path, **files: str) -> None:
    """Files by path, `__` for a slash."""
    for name, content in files.items():
        path = top / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def found(top: Path) -> dict[str, str]:
    """What lies below a directory; links as what they point to, with an arrow."""
    return {
        str(path.relative_to(top)): f"-> {path.readlink()}" if path.is_symlink() else path.read_text()
        for path in sorted(top.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture
def place(tmp_path: Path) -> SimpleNamespace:
    """Two generations, and something outside that must stay as it is and where it is."""
    here = SimpleNamespace(source=tmp_path / "data.d/0001", target=tmp_path / "data.d/0002", outside=tmp_path / "etc")
    for directory in (here.source, here.target, here.outside):
        directory.mkdir(parents=True)
    lay(here.outside, shadow="secret")
    return here


def carry(place: SimpleNamespace, *parts: str, leave: tuple[str, ...] = ()) -> generations.Carried:
    left = tuple(PurePosixPath(path) for path in leave)
    done = generations.carry(place.source, place.target, parts or ("media",), leave=left)
    assert found(place.outside) == {"shadow": "secret"}, "something outside was touched"
    assert "secret" not in found(place.target).values(), "something outside was brought in"
    return done


# carrying over


def test_what_is_carried_is_equal_and_a_second_time_only_what_changed_is_copied(place: SimpleNamespace) -> None:
    lay(place.source, media__a="one", media__b__c="two", media__gone="three")
    (place.source / "media/b/c").chmod(0o640)
    assert carry(place) == generations.Carried(3, 11)
    assert found(place.target) == found(place.source)
    seen = (place.target / "media/b/c").stat()
    assert stat.S_IMODE(seen.st_mode) == 0o640
    assert seen.st_mtime_ns == (place.source / "media/b/c").stat().st_mtime_ns
    (place.source / "media/gone").unlink()
    lay(place.source, media__a="uno", media__new="four")
    os.utime(place.source / "media/a", ns=(1, 1))
    assert carry(place) == generations.Carried(2, 7)
    assert found(place.target) == found(place.source)


def test_what_is_carried_is_a_copy_that_changes_of_the_old_generation_do_not_reach(place: SimpleNamespace) -> None:
    lay(place.source, media__a="one")
    carry(place)
    (place.target / "media/a").write_text("two, and longer")
    assert found(place.source) == {"media/a": "one"}


def test_a_link_to_a_file_outside_is_not_followed_and_not_carried(place: SimpleNamespace) -> None:
    lay(place.source, media__a="one")
    (place.source / "media/link").symlink_to(place.outside / "shadow")
    (place.source / "media/folder").symlink_to(place.outside)
    carry(place)
    assert found(place.target) == {"media/a": "one"}


@pytest.mark.parametrize("part", ["uploads/media", "uploads", "uploads/media/shadow"])
def test_a_link_in_the_way_to_a_part_is_not_followed(place: SimpleNamespace, part: str) -> None:
    lay(place.outside.parent / "elsewhere", media__shadow="secret")
    (place.source / "uploads").symlink_to(place.outside.parent / "elsewhere")
    lay(place.target, uploads__media__old="carried before")
    carry(place, part)
    assert found(place.target) == {}, "and what was carried before is not there any more"


def test_a_directory_that_became_a_link_between_two_passes_is_gone_and_nothing_is_written_through_it(
    place: SimpleNamespace,
) -> None:
    lay(place.source, media__x__a="one")
    carry(place)
    shutil.rmtree(place.source / "media/x")
    (place.source / "media/x").symlink_to(place.outside)
    carry(place)
    assert found(place.target) == {}


@pytest.mark.parametrize("where", ["media", "media/x", "media/x/y"])
def test_a_link_planted_in_the_next_generation_is_replaced_and_not_written_through(
    place: SimpleNamespace, where: str
) -> None:
    lay(place.source, media__x__y__a="one")
    (place.target / where).parent.mkdir(parents=True, exist_ok=True)
    (place.target / where).symlink_to(place.outside)
    carry(place)
    assert found(place.target) == {"media/x/y/a": "one"}


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_directory_swapped_for_a_link_while_it_is_being_opened_leads_nowhere(
    place: SimpleNamespace, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moment between looking and opening, which only the application's user could hit."""
    lay(place.source, media__x__a="one")
    look = generations._kind

    def swapped(name: str, at: int) -> str:
        kind = look(name, at)
        path = getattr(place, side) / "media/x"
        if name == "x" and kind == "directory" and not path.is_symlink():
            shutil.rmtree(path)
            path.symlink_to(place.outside)
        return kind

    if side == "target":
        lay(place.target, media__x__b="old")
    monkeypatch.setattr(generations, "_kind", swapped)
    carry(place)
    assert found(place.target) in ({}, {"media/x/a": "one"})


def test_a_pipe_neither_hangs_nor_is_carried(place: SimpleNamespace) -> None:
    lay(place.source, media__a="one")
    os.mkfifo(place.source / "media/pipe")
    carry(place)
    assert found(place.target) == {"media/a": "one"}
    assert not (place.target / "media/pipe").exists()


def test_a_name_as_long_as_a_name_can_be_is_carried(place: SimpleNamespace) -> None:
    lay(place.source, **{f"media__{'n' * 255}": "one"})
    carry(place)
    assert found(place.target) == found(place.source)


def test_a_file_that_became_a_directory_and_the_reverse_are_carried(place: SimpleNamespace) -> None:
    lay(place.source, media__a="file", media__b__c="in a directory")
    carry(place)
    (place.source / "media/a").unlink()
    shutil.rmtree(place.source / "media/b")
    lay(place.source, media__a__d="in a directory now", media__b="a file now")
    carry(place)
    assert found(place.target) == found(place.source)


def test_the_right_to_run_as_its_owner_is_not_carried(place: SimpleNamespace) -> None:
    lay(place.source, media__a="one")
    (place.source / "media/a").chmod(0o4755)
    carry(place)
    assert stat.S_IMODE((place.target / "media/a").stat().st_mode) == 0o755


def test_directories_in_each_other_beyond_measure_are_refused(place: SimpleNamespace) -> None:
    deep = place.source / "media"
    for _unused in range(101):
        deep = deep / "d"
    deep.mkdir(parents=True)
    with pytest.raises(BackstayError, match="more than 100 deep"):
        carry(place)


def test_a_full_disk_leaves_no_half_file_under_its_name(
    place: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(place.source, media__a="one")

    def full(*_unused: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "copy_file_range", full)
    with pytest.raises(OSError, match="No space"):
        carry(place)
    assert list((place.target / "media").iterdir()) == []


def test_a_file_system_without_copy_file_range_is_copied_to_all_the_same(
    place: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(place.source, media__a="one" * 1000)

    def unable(*_unused: Any) -> int:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", unable)
    carry(place)
    assert found(place.target) == found(place.source)


# a restore of some media


# lending what is here to a restore


def lend(place: SimpleNamespace, *paths: str, **facts: tuple[int, int]) -> generations.Carried:
    loans = [
        *(generations.Loan(path, f"media/{path.partition('/')[2]}") for path in paths),
        *(generations.Loan(f"uploads/{name}", f"media/{name}", seen) for name, seen in facts.items()),
    ]
    done = generations.lend(place.source, place.target, loans)
    assert found(place.outside) == {"shadow": "secret"}, "something outside was touched"
    assert "secret" not in found(place.target).values(), "something outside was brought in"
    return done


def test_what_is_lent_is_a_copy_of_those_files_that_are_as_they_must_be(place: SimpleNamespace) -> None:
    lay(place.source, uploads__same="same", uploads__longer="longer", uploads__touched="other", uploads__new="new")
    seen = {name: (place.source / "uploads" / name).stat() for name in ("same", "longer", "touched")}
    wanted = {name: (each.st_size, each.st_mtime_ns) for name, each in seen.items()}
    wanted["longer"] = (5, wanted["longer"][1])
    os.utime(place.source / "uploads/touched", ns=(0, 1))
    assert lend(place, **wanted, gone=(4, 1)) == generations.Carried(1, 4)
    assert found(place.target) == {"media/same": "same"}
    assert (place.target / "media/same").stat().st_mtime_ns == wanted["same"][1]
    (place.target / "media/same").write_text("two, and longer")
    assert (place.source / "uploads/same").read_text() == "same"


def test_of_a_file_that_has_grown_only_as_much_is_lent_as_room_was_looked_for(
    place: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(place.source, db="rows, and more since")
    assert generations.lend(place.source, place.target, [generations.Loan("db", "one", most=4)]).size_bytes == 4

    def unable(*_given: object) -> int:
        raise OSError(errno.EXDEV, "another disk")

    monkeypatch.setattr(os, "copy_file_range", unable)
    generations.lend(place.source, place.target, [generations.Loan("db", "two", most=4), generations.Loan("db", "all")])
    assert found(place.target) == {"one": "rows", "two": "rows", "all": "rows, and more since"}


def test_a_generation_that_is_gone_lends_nothing(place: SimpleNamespace) -> None:
    gone = place.source.with_name("0009")
    assert generations.lend(gone, place.target, [generations.Loan("db", "one")]) == generations.Carried()
    assert generations.kind_of(gone, "db/portal.sqlite3") == "nothing"


def test_a_file_is_lent_under_another_name_and_from_several_directories(place: SimpleNamespace) -> None:
    lay(place.source, db__portal="rows", uploads__b__x="x", uploads__a__y="y", uploads__b__z="z")
    done = generations.lend(
        place.source,
        place.target,
        [
            generations.Loan("uploads/b/x", "media/b/x"),
            generations.Loan("db/portal", "databases/default.sqlite3"),
            generations.Loan("uploads/a/y", "media/a/y"),
            generations.Loan("uploads/b/z", "media/b/z"),
        ],
    )
    assert done.files == 4
    assert found(place.target) == {
        "databases/default.sqlite3": "rows",
        "media/a/y": "y",
        "media/b/x": "x",
        "media/b/z": "z",
    }


def test_nothing_is_lent_through_a_link_nor_from_a_pipe(place: SimpleNamespace) -> None:
    lay(place.source, uploads__real="real")
    (place.source / "uploads/shadow").symlink_to(place.outside / "shadow")
    (place.source / "folder").symlink_to(place.outside)
    (place.source / "uploads/folder").mkdir()
    os.mkfifo(place.source / "uploads/pipe")
    paths = ("uploads/real", "uploads/shadow", "folder/shadow", "uploads/folder", "uploads/pipe")
    assert lend(place, *paths) == generations.Carried(1, 4)
    assert found(place.target) == {"media/real": "real"}


def test_a_disk_that_cannot_be_read_lends_what_it_can_and_a_full_one_is_told(
    place: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(place.source, uploads__bad="bad", uploads__good="good")
    copy = generations._copy

    def refuses(number: int) -> None:
        def copied(opened: int, written: int, most: int) -> None:
            if os.fstat(opened).st_size == len("bad"):
                raise OSError(number, os.strerror(number))
            copy(opened, written, most)

        monkeypatch.setattr(generations, "_copy", copied)

    refuses(errno.EIO)
    assert lend(place, "uploads/bad", "uploads/good") == generations.Carried(1, 4)
    assert found(place.target) == {"media/good": "good"}, "and no half file is left"
    refuses(errno.ENOSPC)
    with pytest.raises(OSError, match="No space left"):
        lend(place, "uploads/bad")


# carrying, beside what is restored


def test_a_restored_path_stays_as_the_point_has_it_and_the_rest_is_as_it_was(place: SimpleNamespace) -> None:
    lay(place.source, media__2025__a="live", media__2026__b="live", media__2026__new="live", media__top="live")
    lay(place.target, media__2026__b="point", media__2026__gone="point")
    for _unused in range(2):
        carry(place, leave=("media/2026",))
        assert found(place.target) == {
            "media/2025/a": "live",
            "media/2026/b": "point",
            "media/2026/gone": "point",
            "media/top": "live",
        }


def test_a_restored_path_stays_although_nothing_above_it_lives_any_more(place: SimpleNamespace) -> None:
    lay(place.source, media__other="live")
    lay(place.target, media__p__2026__b="point", media__p__2025__a="carried before, and deleted since")
    carry(place, leave=("media/p/2026",))
    assert found(place.target) == {"media/other": "live", "media/p/2026/b": "point"}


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_restored_path_stays_although_something_else_lives_where_its_directory_was(
    place: SimpleNamespace, kind: str
) -> None:
    (place.source / "media").mkdir()
    if kind == "file":
        lay(place.source, media__p="a file now")
    else:
        (place.source / "media/p").symlink_to(place.outside)
    lay(place.target, media__p__2026__b="point")
    carry(place, leave=("media/p/2026",))
    assert found(place.target) == {"media/p/2026/b": "point"}


def test_a_single_file_can_be_restored(place: SimpleNamespace) -> None:
    lay(place.source, media__a="live", media__b="live")
    lay(place.target, media__a="point")
    carry(place, leave=("media/a",))
    assert found(place.target) == {"media/a": "point", "media/b": "live"}


_NAMES = st.sampled_from(["a", "b", "c"])
_TREES = st.dictionaries(st.lists(_NAMES, min_size=1, max_size=3).map(tuple), st.sampled_from(["x", "yy", "zzz"]))


def lay_tree(top: Path, tree: dict[tuple[str, ...], str]) -> None:
    for path, content in tree.items():
        file = top.joinpath("media", *path)
        if any(parent.is_file() for parent in file.parents) or file.is_dir():
            continue  # that name is taken by another kind of thing
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)


@given(_TREES, _TREES, _TREES, st.lists(_NAMES, min_size=1, max_size=2).map(tuple))
def test_whatever_lay_there_before_the_result_is_the_live_tree_with_the_restored_path_from_the_point(
    live: dict[tuple[str, ...], str],
    point: dict[tuple[str, ...], str],
    later: dict[tuple[str, ...], str],
    restored: tuple[str, ...],
) -> None:
    with TemporaryDirectory() as directory:
        here = SimpleNamespace(
            source=Path(directory, "0001"), target=Path(directory, "0002"), outside=Path(directory, "o")
        )
        here.outside.mkdir()
        lay(here.outside, shadow="secret")
        for top in (here.source, here.target):
            (top / "media").mkdir(parents=True)
        wanted = {path: content for path, content in point.items() if path[: len(restored)] == restored}
        lay_tree(here.target, wanted)
        kept = found(here.target)
        lay_tree(here.source, live)
        carry(here, leave=("/".join(("media", *restored)),))
        shutil.rmtree(here.source / "media")
        (here.source / "media").mkdir()
        lay_tree(here.source, later)
        for path in (here.source / "media").rglob("*"):
            os.utime(path, ns=(7, 7))  # a file of the same size that was written within one tick
        carry(here, leave=("/".join(("media", *restored)),))
        prefix = "/".join(("media", *restored))
        outside_of_it = {
            path: content
            for path, content in found(here.source).items()
            if not (path == prefix or path.startswith(f"{prefix}/")) and not any(k.startswith(f"{path}/") for k in kept)
        }
        assert found(here.target) == {**outside_of_it, **kept}


# owners and modes


def restored_tree(tmp_path: Path) -> Path:
    tree = tmp_path / ".0002.partial" / "tree"
    lay(tree, media__2026__a="one", db__portal_sqlite3="rows", var__old__archive_sqlite3="rows")
    (tree / "db/portal_sqlite3").rename(tree / "db/portal.sqlite3")
    (tree / "var/old/archive_sqlite3").rename(tree / "var/old/archive.sqlite3")
    for path in tree.rglob("*"):
        path.chmod(0o777)
    return tree


def test_a_restored_tree_gets_the_modes_of_the_layout_whatever_it_was_stored_with(
    tmp_path: Path, everybody: Become
) -> None:
    everybody()
    application, tree = declared(), restored_tree(tmp_path)
    assert generations.give_away(application, tree) == 3
    generations.prepare(application, tree)
    modes = {str(path.relative_to(tree)): oct(stat.S_IMODE(path.stat().st_mode)) for path in tree.rglob("*")}
    assert modes == {
        "media": "0o2750",
        "media/2026": "0o2750",
        "media/2026/a": "0o640",
        "db": "0o700",
        "db/portal.sqlite3": "0o640",
        "var": "0o700",
        "var/old": "0o700",
        "var/old/archive.sqlite3": "0o640",
    }
    assert stat.S_IMODE(tree.stat().st_mode) == 0o710
    assert generations.wrong_owners(application, tree) == ()


def test_the_numbers_of_users_are_those_of_this_host(
    tmp_path: Path, everybody: Become, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A point from another host brings that host's numbers; nothing is left of them."""
    everybody(uid=4711, gid=4712, readers=4713)
    given: dict[str, tuple[int, int]] = {}

    def chown(name: str, uid: int, gid: int, *, dir_fd: int, follow_symlinks: bool) -> None:
        assert not follow_symlinks
        given[f"{Path(f'/proc/self/fd/{dir_fd}').readlink()}/{name}"] = (uid, gid)

    def fchown(descriptor: int, uid: int, gid: int) -> None:
        given[str(Path(f"/proc/self/fd/{descriptor}").readlink())] = (uid, gid)

    monkeypatch.setattr(os, "chown", chown)
    monkeypatch.setattr(os, "fchown", fchown)
    tree = restored_tree(tmp_path)
    generations.give_away(declared(), tree)
    owners = {str(PurePosixPath(path).relative_to(tree)): numbers for path, numbers in given.items()}
    assert owners == {
        ".": (4711, 4713),
        "media": (4711, 4713),
        "media/2026": (4711, 4713),
        "media/2026/a": (4711, 4713),
        "db": (4711, 4712),
        "db/portal.sqlite3": (4711, 4712),
        "var": (4711, 4712),
        "var/old": (4711, 4712),
        "var/old/archive.sqlite3": (4711, 4712),
    }
    assert any("does not belong to portal" in line for line in generations.wrong_owners(declared(), tree))


@pytest.mark.parametrize("kind", ["link", "link to a directory", "pipe"])
def test_what_no_backup_stores_is_refused_and_not_given_away(tmp_path: Path, everybody: Become, kind: str) -> None:
    everybody()
    tree = restored_tree(tmp_path)
    lay(tmp_path / "etc", shadow="secret")
    (tmp_path / "etc/shadow").chmod(0o600)
    if kind == "pipe":
        os.mkfifo(tree / "media/strange")
    else:
        (tree / "media/strange").symlink_to(tmp_path / "etc" / ("shadow" if kind == "link" else ""))
    with pytest.raises(BackstayError, match="neither a file nor a directory"):
        generations.give_away(declared(), tree)
    assert stat.S_IMODE((tmp_path / "etc/shadow").stat().st_mode) == 0o600


# which there are


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout("portal", tmp_path)
    for name in ("0001", "0002", "0003", "0004"):
        (layout.generations / name / "db").mkdir(parents=True)
    layout.data.symlink_to("data.d/0003")
    return layout


def test_the_live_generation_is_what_the_link_says(layout: Layout) -> None:
    assert generations.live(layout) == "0003"
    assert generations.known(layout) == ("0001", "0002", "0003", "0004")
    generations.switch(layout, Storage(), "0004")
    assert generations.live(layout) == "0004"
    assert (layout.data / "db").is_dir()


@pytest.mark.parametrize("target", ["/srv/data", "data.d/.0005.partial", "data.d", "elsewhere/0001"])
def test_a_link_to_anything_else_is_refused(layout: Layout, target: str) -> None:
    layout.data.unlink()
    layout.data.symlink_to(target)
    with pytest.raises(BackstayError, match="not to a generation"):
        generations.live(layout)
    layout.data.unlink()
    with pytest.raises(BackstayError, match="is not the link to the live data"):
        generations.live(layout)


def test_the_next_generation_is_above_every_one_that_is_there_and_never_the_stage_of_a_backup(layout: Layout) -> None:
    (layout.generations / ".backup").mkdir()
    (layout.generations / ".0009.partial").mkdir()
    assert generations.following(layout) == "0005"
    (layout.generations / "10007").mkdir()
    assert generations.following(layout) == "10008"
    layout.data.unlink()
    layout.data.symlink_to("data.d/10009")  # which somebody has removed
    assert generations.following(layout) == "10010"
    assert generations.known(layout)[-1] == "10007"


def test_the_newest_earlier_generations_are_kept_and_the_live_one_in_any_case(layout: Layout) -> None:
    assert generations.doomed(layout, 2) == ("0001",)
    assert generations.doomed(layout, 1) == ("0001", "0002")
    assert generations.doomed(layout, 9) == ()
    assert generations.doomed(layout, 1, needed=frozenset({"0001"})) == ("0002",), "undo goes to 0001"


def test_a_generation_goes_with_what_an_earlier_removal_left_and_a_backup_at_work_is_let_be(layout: Layout) -> None:
    left = (".0001.0123abcd.new", "..0002.partial.0123abcd.new", ".0002.partial")
    theirs = ("..backup.0123abcd.new", ".backup")
    for name in (*left, *theirs):
        lay(layout.generations / name, db__file="rows")
    generations.remove(layout, Storage(), "0002")
    assert sorted(path.name for path in layout.generations.iterdir()) == sorted((*theirs, "0001", "0003", "0004"))
    generations.remove(layout, Storage(), "0003")
    assert (layout.data / "db").is_dir(), "the live one stays, whoever asks"


def test_a_part_of_a_generation_is_discarded_without_following_a_link(place: SimpleNamespace) -> None:
    lay(place.target, db__a="one", db__b="two")
    generations.discard(place.target, "db/a")
    generations.discard(place.target, "db/none")
    generations.discard(place.target, "none/none")
    assert found(place.target) == {"db/b": "two"}
    (place.target / "linked").symlink_to(place.outside)
    generations.discard(place.target, "linked/shadow")
    assert found(place.outside) == {"shadow": "secret"}


def test_what_lies_at_a_path_is_told_without_following_a_link(place: SimpleNamespace) -> None:
    lay(place.source, db__a="one", media__b="three")
    (place.source / "linked").symlink_to(place.source / "db")
    (place.source / "db/link").symlink_to(place.outside / "shadow")
    kinds = {
        path: generations.kind_of(place.source, path)
        for path in ("db/a", "db", "db/no", "no/no", "linked/a", "db/link")
    }
    assert list(kinds.values()) == ["file", "directory", "nothing", "nothing", "other", "other"], kinds
    assert dict(generations.files_of(place.source, "media")) == {"b": 5}
    assert dict(generations.files_of(place.source, "linked")) == {}
    assert generations.size_of(place.source, "db/a") == 3
    assert generations.size_of(place.source, "db/link") == 0
