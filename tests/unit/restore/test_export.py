"""A restore point as files that one can carry away."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _application
from ansible_collections.backstay.ops.plugins.module_utils._catalogue import catalogue
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, GateRefused, InputError
from ansible_collections.backstay.ops.plugins.module_utils._export import export
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._manifest import Manifest, from_bytes
from ansible_collections.backstay.ops.plugins.module_utils._restore import Restore
from ansible_collections.backstay.ops.plugins.module_utils._storage import canonical
from ansible_collections.backstay.ops.plugins.module_utils._transaction import Restoring

from .conftest import RUN, declared, manifest_of


class Disk:
    """A repository that lays files where it is asked to, open to everybody."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.link: Path | None = None

    def restore(self, snapshot: str, target: Path, include: Sequence[str] = ()) -> None:
        self.asked.append(tuple(include))
        for path in include:
            name = "media/2026/a.jpg" if path.startswith("/media") else path.lstrip("/")
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_text("content")
            (target / name).chmod(0o666)
        if self.link:
            (target / "media/link").symlink_to(self.link)


class Host(Restore):
    """A host whose proofs say what the test wants."""

    disk: Disk
    refuses = ""

    def repository_of(self, restoring: Restoring) -> Disk:  # type: ignore[override]  # a stand-in for restic
        return self.disk

    def check_fetched(self, restoring: Restoring, fetched: Path, *, scratch: Path) -> Manifest:
        assert stat.S_IMODE(fetched.stat().st_mode) == 0o700, "nobody may look before it is proven"
        if self.refuses:
            raise GateRefused(self.refuses)
        return manifest_of({"2026/a.jpg": 7}, orders=2)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    layout = Layout("portal", tmp_path / "root")
    for directory in (layout.configuration, layout.state, layout.home):
        directory.mkdir(parents=True)
    layout.application_file.write_bytes(canonical(_application.to_dict(declared())))
    host = Host(layout)
    host.disk = Disk()
    chain = catalogue(layout, host.storage, host.now)
    chain.append("made", RUN, at="2026-11-21T02:00:00.000Z", release="0001-1.0.0", manifest="e" * 64, size_bytes=1000)
    chain.append("stored", RUN, repository="disk", id="i", snapshot="s", tree="t", manifest_snapshot="m")
    return host


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / "exports"
    place.mkdir(mode=0o700)
    return place


def test_an_export_is_named_after_the_time_of_its_point_and_belongs_to_nobody_else(host: Host, place: Path) -> None:
    made = export(host, "latest", place)
    assert made == place / "20261121-020000"
    names = sorted(str(path.relative_to(made)) for path in made.rglob("*") if path.is_file())
    assert names == ["databases/archive.sqlite3", "databases/default.sqlite3", "manifest.json", "media/2026/a.jpg"]
    for path in (made, *made.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
        assert path.stat().st_uid == os.geteuid()
    assert from_bytes((made / "manifest.json").read_bytes(), origin="it").run == RUN
    assert [path.name for path in place.iterdir()] == ["20261121-020000"], "nothing is left beside it"


def test_parts_of_a_point_can_be_exported(host: Host, place: Path) -> None:
    made = export(host, RUN, place, ["database:archive"])
    assert host.disk.asked == [("/databases/archive.sqlite3",)]
    assert not (made / "media").exists()


def test_what_is_not_equal_to_its_manifest_never_gets_its_name(host: Host, place: Path) -> None:
    host.refuses = "The content of the table orders differs."
    with pytest.raises(GateRefused, match="orders differs"):
        export(host, "latest", place)
    assert list(place.iterdir()) == []


def test_a_link_in_the_repository_is_refused_and_not_followed(host: Host, place: Path, tmp_path: Path) -> None:
    (tmp_path / "shadow").write_text("secret")
    (tmp_path / "shadow").chmod(0o640)
    host.disk.link = tmp_path / "shadow"
    with pytest.raises(GateRefused, match="neither a file nor a directory"):
        export(host, "latest", place)
    assert list(place.iterdir()) == []
    assert stat.S_IMODE((tmp_path / "shadow").stat().st_mode) == 0o640


def test_an_export_that_is_there_already_is_not_written_over(host: Host, place: Path) -> None:
    made = export(host, "latest", place)
    (made / "mine").write_text("kept")
    with pytest.raises(InputError, match="is there already"):
        export(host, "latest", place)
    assert (made / "mine").read_text() == "kept"


def test_what_an_export_that_was_killed_has_left_goes_with_the_next(host: Host, place: Path) -> None:
    (place / ".20261121-020000.partial").mkdir()
    (place / ".20261121-020000.partial" / "half").write_text("half")
    made = export(host, "latest", place)
    assert not (made / "half").exists()
    assert [path.name for path in place.iterdir()] == [made.name]


@pytest.mark.parametrize("where", ["opt/portal", "var/lib/backstay/portal", "etc/backstay/portal", "opt/portal/data.d"])
def test_the_application_s_own_tree_is_refused_also_through_a_link(host: Host, place: Path, where: str) -> None:
    tree = host.layout.root / where
    tree.mkdir(exist_ok=True)
    (place / "link").symlink_to(tree)
    for directory in (tree, place / "link"):
        with pytest.raises(InputError, match="which is portal's own"):
            export(host, "latest", directory)
    assert host.disk.asked == []


def test_a_directory_that_is_not_there_or_that_everybody_may_write_to_is_refused(host: Host, place: Path) -> None:
    with pytest.raises(InputError, match="There is no directory"):
        export(host, "latest", place / "none")
    (place / "file").write_text("")
    with pytest.raises(InputError, match="is no directory"):
        export(host, "latest", place / "file")
    place.chmod(0o777)
    with pytest.raises(InputError, match="others could put their own files"):
        export(host, "latest", place)


def test_a_place_without_the_room_is_refused_before_anything_is_fetched(
    host: Host, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = os.statvfs(place)
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result([*full[:4], 3, *full[5:]]))
    with pytest.raises(GateRefused, match=r"needs 64 MiB in .* are free"):
        export(host, "latest", place)
    assert host.disk.asked == []


def test_a_disk_that_fills_up_meanwhile_leaves_nothing(
    host: Host, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_unused: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(host.disk, "restore", full)
    with pytest.raises(BackstayError, match=r"could not be exported .*No space left on device"):
        export(host, "latest", place)
    assert list(place.iterdir()) == []
