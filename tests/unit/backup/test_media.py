"""Photographs are held still by hard links: what a database's copy names is there, whatever the application does."""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _media
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._manifest import MediaFile
from ansible_collections.backstay.ops.plugins.module_utils._media import changed_since, freeze, hash_tree


@pytest.fixture
def media(tmp_path: Path) -> Path:
    directory = tmp_path / "media"
    for path in ("a.jpg", "2026/11/b.jpg", "2026/11/c.jpg", "empty.jpg"):
        write(directory / path, "" if path == "empty.jpg" else path)
    return directory


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    return tmp_path / "stage" / "media"


def write(path: Path, content: str, *, age_seconds: float = 3600) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    os.utime(path, (time.time() - age_seconds,) * 2)


def held(stage: Path) -> dict[str, str]:
    return {str(path.relative_to(stage)): path.read_text() for path in sorted(stage.rglob("*")) if path.is_file()}


def test_every_file_is_linked_and_none_is_copied(media: Path, stage: Path) -> None:
    found = freeze(media, stage, first=True)
    assert (found.files, found.linked, found.dropped, found.skipped) == (4, 4, 0, ())
    assert held(stage) == held(media)
    for path in held(media):
        assert (media / path).samefile(stage / path)


def test_a_photograph_deleted_meanwhile_is_in_the_backup(media: Path, stage: Path) -> None:
    freeze(media, stage, first=True)
    (media / "2026/11/b.jpg").unlink()
    write(media / "2026/12/new.jpg", "new")
    found = freeze(media, stage, first=False)
    assert (found.files, found.linked, found.dropped) == (5, 1, 0)
    assert {"2026/11/b.jpg", "2026/12/new.jpg"} <= set(held(stage))


def test_a_whole_directory_deleted_meanwhile_is_in_the_backup(media: Path, stage: Path) -> None:
    freeze(media, stage, first=True)
    for path in ("b.jpg", "c.jpg"):
        (media / "2026/11" / path).unlink()
    (media / "2026/11").rmdir()
    assert freeze(media, stage, first=False).files == 4
    assert "2026/11/c.jpg" in held(stage)


def test_the_next_run_drops_what_is_gone_and_links_only_what_is_new(media: Path, stage: Path) -> None:
    freeze(media, stage, first=True)
    (media / "a.jpg").unlink()
    freeze(media, stage, first=False)
    write(media / "d.jpg", "d")
    found = freeze(media, stage, first=True)
    assert (found.files, found.linked, found.dropped) == (4, 1, 1)
    assert held(stage) == held(media)


def test_a_file_replaced_meanwhile_is_the_new_one(media: Path, stage: Path) -> None:
    freeze(media, stage, first=True)
    write(media / "fresh", "replaced")
    (media / "fresh").rename(media / "a.jpg")
    freeze(media, stage, first=False)
    assert held(stage)["a.jpg"] == "replaced"


@pytest.mark.parametrize("first", [True, False])
def test_a_file_where_a_directory_was_and_the_other_way_round(media: Path, stage: Path, first: bool) -> None:
    freeze(media, stage, first=True)
    (media / "a.jpg").unlink()
    write(media / "a.jpg" / "inner.jpg", "inner")
    for path in ("b.jpg", "c.jpg"):
        (media / "2026/11" / path).unlink()
    (media / "2026/11").rmdir()
    write(media / "2026/11", "a file")
    freeze(media, stage, first=first)
    assert held(stage) == held(media)


def test_links_and_special_files_are_told_and_never_followed(media: Path, stage: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("root only")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "key").write_text("root only")
    (media / "link.jpg").symlink_to(tmp_path / "secret")
    (media / "2026" / "links").symlink_to(tmp_path / "secrets")
    (media / "broken").symlink_to("nowhere")
    os.mkfifo(media / "2026" / "pipe")
    found = freeze(media, stage, first=True)
    assert found.skipped == (
        ("2026/links", "symlink"),
        ("2026/pipe", "special file"),
        ("broken", "symlink"),
        ("link.jpg", "symlink"),
    )
    assert "root only" not in held(stage).values()
    assert set(hash_tree(media)) == {"a.jpg", "2026/11/b.jpg", "2026/11/c.jpg", "empty.jpg"}


def test_a_file_exchanged_for_a_link_at_the_last_moment_brings_nothing(
    media: Path, stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("root only")
    link = os.link

    def late(source: str, *arguments: object, **options: object) -> None:
        if source == "a.jpg":
            (media / "a.jpg").unlink()
            (media / "a.jpg").symlink_to(tmp_path / "secret")
        if source == "b.jpg":
            (media / "2026/11/b.jpg").unlink()
        link(source, *arguments, **options)  # type: ignore[arg-type]  # as the real one is called

    monkeypatch.setattr(os, "link", late)
    found = freeze(media, stage, first=True)
    assert found.skipped == (("a.jpg", "symlink"),)
    assert set(held(stage)) == {"2026/11/c.jpg", "empty.jpg"}
    assert not os.path.lexists(stage / "a.jpg")


@pytest.mark.parametrize("link", ["store", "store/inner", "store/inner/media"])
def test_a_link_in_place_of_the_media_or_of_a_directory_above_is_refused_and_named(tmp_path, link):
    """The generation is the application's: it could turn there to what only root can read."""
    secrets = tmp_path / "secrets"
    (secrets / "inner" / "media" / "media").mkdir(parents=True)
    (secrets / "inner" / "media" / "key").write_text("secret")
    generation = tmp_path / "data.d" / "0001"
    (generation / link).parent.mkdir(parents=True)
    (generation / link).symlink_to(secrets / link.replace("store", "."))
    data = tmp_path / "data"
    data.symlink_to("data.d/0001")  # root's own
    with pytest.raises(BackstayError, match=rf"{data / link} is a link, .* find out who made it"):
        freeze(data / "store/inner/media", tmp_path / "stage", first=True, data=data)
    assert not (tmp_path / "stage").exists()


def test_roots_own_link_to_the_live_data_is_followed(tmp_path):
    (tmp_path / "data.d" / "0001" / "media").mkdir(parents=True)
    (tmp_path / "data.d" / "0001" / "media" / "a.jpg").write_text("a")
    (tmp_path / "data").symlink_to("data.d/0001")
    assert freeze(tmp_path / "data" / "media", tmp_path / "stage", first=True).files == 1


def test_directories_keep_their_mode_and_owner_also_when_they_are_empty(media: Path, stage: Path) -> None:
    (media / "waiting").mkdir()
    (media / "waiting").chmod(0o2750)
    os.chown(media / "waiting", 65534, 65534)
    (media / "waiting").chmod(0o2750)
    freeze(media, stage, first=True)
    found = (stage / "waiting").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o2750, 65534, 65534)


def test_names_that_are_no_utf8_are_files_like_others(media: Path, stage: Path) -> None:
    name = os.fsdecode(b"\xff\n.jpg")
    write(media / name, "odd")
    freeze(media, stage, first=True)
    assert hash_tree(stage)[name].size_bytes == 3


def test_media_on_another_file_system_are_refused_with_what_to_do(stage: Path) -> None:
    elsewhere = Path("/dev/shm") / f"backstay-{os.getpid()}"
    write(elsewhere / "a.jpg", "a")
    try:
        with pytest.raises(BackstayError, match=r"is on another file system than the backup's stage.*move it"):
            freeze(elsewhere, stage, first=True)
    finally:
        (elsewhere / "a.jpg").unlink()
        elsewhere.rmdir()


def test_media_that_are_missing_are_refused_and_the_stage_keeps_what_it_has(media: Path, stage: Path) -> None:
    freeze(media, stage, first=True)
    before = held(stage)
    media.rename(media.with_name("moved"))
    with pytest.raises(BackstayError, match=r"cannot be opened \(No such file or directory\)"):
        freeze(media, stage, first=True)
    assert held(stage) == before


def test_directories_without_an_end_are_refused(media: Path, stage: Path) -> None:
    deep = media
    for _level in range(110):
        deep /= "d"
        deep.mkdir()
    with pytest.raises(BackstayError, match="more than 100 directories deep"):
        freeze(media, stage, first=True)


@pytest.fixture
def busy(media: Path) -> Iterator[threading.Event]:
    """An application that writes, replaces and deletes photographs all the time."""
    stop = threading.Event()

    def work() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            write(media / f"busy/{number % 7}/{number % 50}.jpg", str(number))
            (media / f"busy/{(number + 3) % 7}/{number % 50}.jpg").unlink(missing_ok=True)

    thread = threading.Thread(target=work)
    thread.start()
    yield stop
    stop.set()
    thread.join()


def test_what_was_there_before_is_there_whatever_an_application_does_meanwhile(
    media: Path, stage: Path, busy: threading.Event
) -> None:
    for _round in range(20):
        freeze(media, stage, first=True)
        first = set(held(stage))
        freeze(media, stage, first=False)
        assert first <= set(held(stage))
        assert {"a.jpg", "2026/11/b.jpg"} <= first


def test_a_file_that_goes_while_its_successor_is_linked_leaves_what_was_held(
    media: Path, stage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    freeze(media, stage, first=True)
    before = held(stage)
    (media / "a.jpg").rename(media / "old.jpg")
    write(media / "a.jpg", "its successor")
    link = os.link

    def deleted_at_this_moment(name: str, *arguments: Any, **options: Any) -> None:
        (media / "a.jpg").unlink(missing_ok=True)
        link(name, *arguments, **options)

    monkeypatch.setattr(os, "link", deleted_at_this_moment)
    found = freeze(media, stage, first=False)
    assert held(stage) == before | {"old.jpg": held(media)["old.jpg"]}
    assert found.files == len(before) + 1


# digests


def test_digests_are_of_the_content_and_in_the_order_of_the_paths(media: Path) -> None:
    found = hash_tree(media)
    assert list(found) == ["2026/11/b.jpg", "2026/11/c.jpg", "a.jpg", "empty.jpg"]
    for path, file in found.items():
        content = (media / path).read_bytes()
        assert file == MediaFile(len(content), hashlib.sha256(content).hexdigest(), (media / path).stat().st_mtime_ns)


def test_what_did_not_change_keeps_the_digest_that_is_known(media: Path) -> None:
    known = {path: MediaFile(file.size_bytes, "k" * 64, file.mtime_ns) for path, file in hash_tree(media).items()}
    write(media / "a.jpg", "A.JPG", age_seconds=1800)
    write(media / "empty.jpg", "no more")
    found = hash_tree(media, known)
    assert [path for path, file in found.items() if file.sha256 == "k" * 64] == ["2026/11/b.jpg", "2026/11/c.jpg"]


def test_what_is_stopped_returns_the_digests_that_it_has(tmp_path: Path) -> None:
    media = tmp_path / "many"
    media.mkdir()
    for number in range(1000):
        (media / f"{number:04}.jpg").write_bytes(b"%d" % number)
    asked = itertools.count()
    found = hash_tree(media, stop=lambda: next(asked) > 300)
    whole = hash_tree(media)
    assert 0 < len(found) < 1000
    assert all(whole[path] == file for path, file in found.items())
    assert hash_tree(media, stop=lambda: True) == {}


def test_thousands_of_files_are_linked_and_hashed_the_same_each_time(tmp_path: Path, stage: Path) -> None:
    media = tmp_path / "many"
    for number in range(5000):
        path = media / str(number % 50) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number)
    assert freeze(media, stage, first=True).linked == 5000
    found = hash_tree(stage)
    assert len(found) == 5000
    assert list(found.items()) == list(hash_tree(stage, workers=1).items())


def test_memory_stays_flat_over_large_files(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(300 << 20)
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from ansible_collections.backstay.ops.plugins.module_utils._media import hash_tree\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "hash_tree(Path(sys.argv[1]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    top = next(each for each in Path(_media.__file__).parents if each.name == "ansible_collections").parent
    environment = {"PYTHONPATH": str(top), "PATH": "/usr/bin"}
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20_000  # KiB


def test_what_changed_since_a_manifest_is_told_without_reading(media: Path) -> None:
    known = hash_tree(media)
    (media / "a.jpg").unlink()
    write(media / "2026/11/b.jpg", "another")
    write(media / "d.jpg", "d")
    found = changed_since(media, known)
    assert (found.added, found.changed, found.missing) == (("d.jpg",), ("2026/11/b.jpg",), ("a.jpg",))
