"""A backup as a whole, with the real restic: what it holds, what it refuses, and what is left when it is cut short."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _backup, _media
from ansible_collections.backstay.ops.plugins.module_utils._attestation import is_whole
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, Busy, GateRefused, InputError
from ansible_collections.backstay.ops.plugins.module_utils._expiry import retain
from ansible_collections.backstay.ops.plugins.module_utils._lock import holding
from ansible_collections.backstay.ops.plugins.module_utils._manifest import digest
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed, run

from .host import PAYLOAD, RELEASE, Host, application, facts, is_clean, rows
from .stores import PASSWORD, all_bytes


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path).build()


@pytest.fixture
def one(tmp_path: Path) -> Host:
    """With one repository alone: for what is about the run and not about several of them."""
    return Host(tmp_path, {"repositories": {"disk": {"location": str(tmp_path / "disk"), "own_disk": False}}}).build()


def _restored(host: Host, name: str, run_id: str, target: Path) -> Path:
    point = next(point for point in host.points() if point.run == run_id)
    host.repositories()[name].restore(point.repositories[name].snapshot, target)
    return target


def test_a_run_is_whole_in_every_repository(host, tmp_path):
    outcome = host.run()
    assert (outcome.exit_code, outcome.problems) == (0, ())
    manifest = host.manifest(outcome.point.run)
    for name in ("disk", "second"):
        out = _restored(host, name, outcome.point.run, tmp_path / f"out-{name}")
        assert facts(out / "databases" / "main.sqlite3") == manifest.databases["main"]
        for path, file in manifest.media.items():
            assert digest((out / "media" / path).read_bytes()) == file.sha256
        assert set(manifest.media) == {"a/one.jpg", "two.jpg", "Käse.jpg"}
        assert (out / "artifacts" / f"{PAYLOAD}.tar").read_bytes() == b"payload"
        for path in ("secrets.json", "backup.json", f"releases/{RELEASE}/environment"):
            assert path in manifest.configuration
            assert (out / "configuration" / path).stat().st_mode & 0o777 == 0o600
    assert [canary.answer for canary in manifest.canaries] == ["[[200]]"]
    assert manifest.newest == {"main": "2026-01-01T00:59:00+00:00"}
    assert is_clean(host)


def test_manifest_and_seals_are_signed_and_bind_what_was_stored(one):
    outcome = one.run()
    directory = one.layout.backup_run(outcome.point.run)
    copy = outcome.point.repositories["disk"]
    for name, namespace in (("manifest.json", "backstay-manifest"), ("disk.seal.json", "backstay-seal")):
        content, signature = (directory / name).read_bytes(), (directory / f"{name}.sig").read_bytes()
        assert is_whole(content, signature, namespace)
        assert (directory / name).stat().st_mode & 0o777 == 0o600
        assert (directory / f"{name}.sig").stat().st_mode & 0o777 == 0o600
    seal = json.loads((directory / "disk.seal.json").read_bytes())
    assert (seal["run"], seal["repository"], seal["snapshot"]) == (outcome.point.run, copy.id, copy.snapshot)
    assert (seal["tree"], seal["manifest"]) == (copy.tree, outcome.point.manifest)
    found = one.repositories()["disk"].read_all(copy.manifest_snapshot, ("/manifest.json", "/seal.json"))
    assert found["/manifest.json"] == (directory / "manifest.json").read_bytes()
    assert found["/seal.json"] == (directory / "disk.seal.json").read_bytes()


def test_a_local_repository_is_read_back_after_the_run(one):
    outcome = one.run()
    assert outcome.point.level == 3
    assert [path.name for path in one.layout.proofs.iterdir()] == [f"{outcome.point.run}.disk.1.json"]


def test_each_manifest_names_the_one_before_it(one):
    first, second = one.run().point, one.run().point
    assert one.manifest(first.run).previous is None
    assert one.manifest(second.run).previous == first.manifest
    assert second.level == 3  # the chain holds


def test_a_photograph_deleted_meanwhile_is_in_the_backup(one):
    outcome = one.run(during=lambda stage: (one.media / "two.jpg").unlink())
    assert "two.jpg" in one.manifest(outcome.point.run).media


def test_a_photograph_uploaded_while_the_database_is_copied_is_in_the_backup(one):
    def upload(stage: Path) -> None:
        (one.media / "new.jpg").write_bytes(b"new")
        one.write("with a photograph")

    outcome = one.run(during=upload)
    manifest = one.manifest(outcome.point.run)
    assert "new.jpg" in manifest.media
    assert manifest.databases["main"].tables["audit"].rows == 201


def test_rows_written_after_the_copy_are_not_in_it_and_the_digests_are_of_the_copy(one, tmp_path):
    outcome = one.run(late=lambda stage: one.write("too late"))
    out = _restored(one, "disk", outcome.point.run, tmp_path / "out")
    assert rows(out / "databases" / "main.sqlite3") == 200
    assert facts(out / "databases" / "main.sqlite3") == one.manifest(outcome.point.run).databases["main"]


def test_a_file_changed_in_place_while_it_is_stored_is_as_its_digest_says(one, tmp_path):
    _age(one)

    def scribble(stage: Path) -> None:
        if not done:
            done.append(True)
            with (one.media / "two.jpg").open("r+b") as file:
                file.write(b"SCRIBBLE")

    done: list[bool] = []
    outcome = one.run(hashing=scribble)
    assert outcome.exit_code == 0
    assert any("changed in place" in note for note in outcome.notes)
    out = _restored(one, "disk", outcome.point.run, tmp_path / "out")
    assert digest((out / "media" / "two.jpg").read_bytes()) == one.manifest(outcome.point.run).media["two.jpg"].sha256


def test_a_digest_made_while_the_database_is_copied_is_of_what_is_stored(one, tmp_path):
    """Two files are replaced after they were looked at: one old, and one of a moment ago in the very same tick."""
    _age(one)
    (one.media / "young.jpg").write_bytes(b"AAAA")

    def meanwhile(stage: Path) -> None:
        """The first look is over, and so is the copy."""
        told = (one.media / "young.jpg").stat()
        with (one.media / "young.jpg").open("r+b") as file:
            file.write(b"BBBB")
        os.utime(one.media / "young.jpg", ns=(told.st_atime_ns, told.st_mtime_ns))
        (one.media / "next.jpg").write_bytes(b"another photograph")
        (one.media / "next.jpg").rename(one.media / "two.jpg")

    outcome = one.run(copied=meanwhile)
    assert (outcome.exit_code, outcome.problems) == (0, ())
    out = _restored(one, "disk", outcome.point.run, tmp_path / "out")
    media = one.manifest(outcome.point.run).media
    for path, content in (("young.jpg", b"BBBB"), ("two.jpg", b"another photograph")):
        assert (out / "media" / path).read_bytes() == content
        assert media[path].sha256 == digest(content)


def test_what_was_looked_at_while_the_database_was_copied_is_not_read_again(one, monkeypatch):
    _age(one)
    (one.media / "young.jpg").write_bytes(b"a moment ago")
    known: list[set[str]] = []
    hash_tree = _media.hash_tree

    def noting(directory: Path, **given: Any) -> Any:
        known.append(set(given["known"]))
        return hash_tree(directory, **given)

    monkeypatch.setattr(_media, "hash_tree", noting)
    assert one.run(copied=lambda stage: time.sleep(0.3)).exit_code == 0
    assert known == [set(), {"a/one.jpg", "two.jpg", "Käse.jpg"}]


def test_a_file_that_grows_while_it_is_stored_loses_no_repository(one):
    _age(one)
    grown: list[int] = []

    def growing(arguments: Sequence[str], **given: Any) -> Completed:
        if "backup" in arguments and "part=data" in arguments and not grown:
            grown.append(1)
            with (one.media / "two.jpg").open("ab") as file:
                file.write(b"more" * 1000)
        return run(arguments, **given)

    one.runner = growing
    outcome = one.run()
    assert (outcome.exit_code, outcome.problems) == (0, ())
    assert outcome.point.level == 3


def _age(host: Host) -> None:
    """The media were uploaded long ago."""
    for path in host.media.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))


# what is refused


def test_a_missing_database_is_an_error_and_nothing_is_stored(one):
    one.run()
    one.database.unlink()
    with pytest.raises(BackstayError, match=r"database main .* is missing"):
        one.run()
    assert len(one.repositories()["disk"].snapshots()) == 2


def test_a_question_that_no_proof_could_ask_is_told_by_the_backup(one):
    wrong = [{"database": "main", "query": "SELECT photograph FROM audits"}]
    one.application = application(one.home, files=wrong)
    with pytest.raises(BackstayError, match="no such table: audits"):
        one.run()


def test_a_missing_media_directory_is_an_error(one):
    shutil.rmtree(one.media)
    with pytest.raises(BackstayError, match="is it mounted"):
        one.run()


def test_an_empty_mount_is_no_backup_of_nothing(one):
    one.run()
    shutil.rmtree(one.media)
    one.media.mkdir()
    with pytest.raises(BackstayError, match=r"is empty and 3 files were in the restore point"):
        one.run()
    assert len(one.points()) == 1


def test_a_first_backup_without_any_media_is_fine(one):
    shutil.rmtree(one.media)
    one.media.mkdir()
    assert one.run().exit_code == 0


def test_without_room_nothing_is_touched_and_the_numbers_are_told(one, monkeypatch):
    monkeypatch.setattr(_backup.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 5 << 20))  # type: ignore[attr-defined]  # a module as it is imported
    with pytest.raises(GateRefused, match=r"needs \d+ MiB .* 5 MiB are free"):
        one.run()
    assert one.points() == ()
    assert is_clean(one)
    assert one.repositories()["disk"].snapshots() == ()


def test_a_repository_without_room_leaves_the_other_done(host, monkeypatch):
    real = shutil.disk_usage

    def small(path: Path) -> Any:
        found = real(path)
        return found._replace(free=5 << 20) if path.name == "second" else found

    monkeypatch.setattr(_backup.shutil, "disk_usage", small)
    outcome = host.run()
    assert outcome.exit_code == 1
    assert "second" in outcome.problems[0]
    assert "5 MiB" in outcome.problems[0]
    assert set(outcome.point.repositories) == {"disk"}


def test_the_second_of_two_runs_is_told_who_runs(one):
    with holding(one.layout.data_lock, "backup"), pytest.raises(Busy, match=rf"backup \(process {os.getpid()}\)"):
        one.run()


def test_an_application_without_a_backup_is_refused(one):
    with pytest.raises(InputError, match="no `backup`"):
        one.run(changed={"application": replace(one.application, backup=None)})


# several repositories


def test_one_repository_lost_in_the_middle_leaves_the_others_done(host):
    def losing(arguments: Sequence[str], **given: Any) -> Completed:
        if "backup" in arguments and str(host.home / "second") in arguments:
            shutil.rmtree(host.home / "second", ignore_errors=True)
        return run(arguments, **given)

    host.runner = losing
    outcome = host.run()
    assert outcome.exit_code == 1
    assert "The repository second" in outcome.problems[0]
    assert set(outcome.point.repositories) == {"disk"}
    assert outcome.point.level == 3
    assert "second" in host.points()[0].failed_in
    assert is_clean(host)


def test_the_next_run_fills_a_repository_that_was_away(host):
    (host.home / "second").rename(host.home / "away")
    (host.home / "second").write_text("a file where the mount was")
    first = host.run()
    assert first.exit_code == 1
    (host.home / "second").unlink()
    (host.home / "away").rename(host.home / "second")
    second = host.run()
    assert (second.exit_code, set(second.point.repositories)) == (0, {"disk", "second"})
    assert second.point.level == 3


def test_a_repository_that_vanished_is_not_made_anew(host):
    host.run()
    shutil.rmtree(host.home / "second")
    outcome = host.run()
    assert outcome.exit_code == 1
    assert "gone from there" in outcome.problems[0]
    assert not (host.home / "second").exists()


def test_a_new_repository_is_made_by_the_first_run(one):
    shutil.rmtree(one.home / "disk")
    assert one.run().exit_code == 0
    assert "disk: a new repository was made" in one.said


def test_a_run_that_reaches_nobody_fails_and_the_catalogue_tells_it(one):
    first = one.run()
    shutil.rmtree(one.home / "disk")
    with pytest.raises(BackstayError, match="reached no repository"):
        one.run()
    assert one.points()[0] == first.point
    assert "reached no repository" in str(one.points()[1].failed)
    assert not one.points()[1].good
    assert is_clean(one)


# cut short

_RUN_AND_DIE = """
import os, signal, sys
sys.path[:0] = [{collections!r}, {root!r}]
from pathlib import Path
from tests.unit.backup.host import Host
from ansible_collections.backstay.ops.plugins.module_utils._run import run

count = 0

def step(arguments, **given):
    global count
    count += 1
    if count == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return run(arguments, **given)

host = Host(Path(sys.argv[1]), {backup!r}, runner=step, day=float(sys.argv[3]))
host.run()
"""


def _killed_at(one: Host, command: int) -> int:
    """A run that is killed before its command of this number; its exit code."""
    root = Path(_backup.__file__).parents[2]
    collections = Path(__file__).parents[3] / ".ansible" / "collections"
    script = _RUN_AND_DIE.format(collections=str(collections), root=str(root), backup=one.backup)
    done = subprocess.run(
        [sys.executable, "-c", script, str(one.home), str(command), str(one.day)], capture_output=True, check=False
    )
    one.day += 1
    return done.returncode


@pytest.mark.parametrize("command", [1, 4, 5, 7, 9, 10])
def test_a_killed_run_leaves_the_last_good_point_and_the_next_one_cleans_up(one, command):
    first = one.run().point
    assert _killed_at(one, command) == -signal.SIGKILL
    assert [point.run for point in one.points() if point.good][:1] == [first.run]
    outcome = one.run()
    assert (outcome.exit_code, outcome.point.level) == (0, 3)
    assert is_clean(one)
    there = {snapshot.run for snapshot in one.repositories()["disk"].snapshots()}
    assert there == {point.run for point in one.points() if point.good}
    assert all(point.good or point.failed for point in one.points())


def test_a_writer_that_is_never_still_does_not_keep_a_backup_from_ending(one, tmp_path):
    """Whatever a run holds, the digests are those of its copy."""
    stop = threading.Event()

    def write() -> None:
        connection = sqlite3.connect(one.database, timeout=30)
        while not stop.is_set():
            with connection:
                connection.execute("INSERT INTO audit (name, at) VALUES ('busy', '2026-01-01T00:00:00Z')")
            time.sleep(0.002)
        connection.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        outcome = one.run()
    finally:
        stop.set()
        writer.join()
    out = _restored(one, "disk", outcome.point.run, tmp_path / "out")
    assert facts(out / "databases" / "main.sqlite3") == one.manifest(outcome.point.run).databases["main"]


# what goes


@pytest.fixture
def unread(one: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Nothing is read back here: that is half of a small run's time."""
    monkeypatch.setattr(_backup, "CHEAP_SECONDS", -1.0)
    return one


def test_old_points_go_and_the_repository_with_them(unread):
    first = unread.run().point
    rest = [unread.run().point for _day in range(3)]
    found = {point.run: point for point in unread.points()}
    assert found[first.run].expired == ("disk",)
    assert {snapshot.run for snapshot in unread.repositories()["disk"].snapshots()} == {point.run for point in rest}


def test_what_somebody_needs_stays(unread):
    first = unread.run().point
    unread.needed = {first.run: "release 0002-1.1.0"}
    for _day in range(3):
        unread.run()
    assert first.run in {snapshot.run for snapshot in unread.repositories()["disk"].snapshots()}


def test_after_a_shrink_nothing_goes_until_a_person_accepts_it(unread):
    for _day in range(3):
        unread.run()
    connection = sqlite3.connect(unread.database)
    with connection:
        connection.execute("DELETE FROM audit WHERE id > 20")
    connection.close()
    held = unread.run()
    assert held.exit_code == 0
    assert any("--accept-shrink" in note for note in held.notes)
    assert not any(point.expired for point in unread.points())
    assert any(entry["event"] == "kept_back" for entry in _events(unread))
    accepted = unread.run(accept_shrink=True)
    assert not any("--accept-shrink" in note for note in accepted.notes)
    assert sum(bool(point.expired) for point in unread.points()) == 2


def test_a_store_that_refuses_to_delete_is_no_failure_of_the_backup(unread):
    for _day in range(3):
        unread.run()

    def keeping(arguments: Sequence[str], **given: Any) -> Completed:
        if "forget" in arguments:
            return Completed(tuple(arguments), 1, "", "unable to remove: client.RemoveObject: Access Denied.")
        return run(arguments, **given)

    unread.runner = keeping
    outcome = unread.run()
    assert outcome.exit_code == 0
    assert any("the store keeps them" in note for note in outcome.notes)
    assert not any(point.expired for point in unread.points())
    unread.runner = run
    unread.run()
    assert sum(bool(point.expired) for point in unread.points()) == 2


def test_an_append_only_repository_is_not_pruned_with_what_writes_to_it(tmp_path):
    place = {"location": str(tmp_path / "disk"), "own_disk": False, "append_only": True}
    host = Host(tmp_path, {"repositories": {"disk": place}}).build()
    for _day in range(4):
        outcome = host.run()
    assert any("append-only" in note for note in outcome.notes)
    assert not any(point.expired for point in host.points())


def test_a_point_that_somebody_removed_is_refuted(unread):
    first = unread.run().point
    repository = unread.repositories()["disk"]
    repository.forget([first.repositories["disk"].manifest_snapshot])
    retain(unread.source(), repository)
    assert "nothing of ours removed them" in str(unread.points()[0].refuted)


def test_a_retention_that_was_cut_short_is_finished(unread):
    points = [unread.run().point for _day in range(3)]
    forgotten: list[int] = []

    def dying(arguments: Sequence[str], **given: Any) -> Completed:
        done = run(arguments, **given)
        if "forget" in arguments:
            forgotten.append(1)
            raise KeyboardInterrupt
        return done

    unread.runner = dying
    with pytest.raises(KeyboardInterrupt):
        unread.run()
    assert forgotten
    unread.runner = run
    unread.run()
    found = {point.run: point for point in unread.points()}
    assert found[points[0].run].expired == ("disk",)
    assert found[points[0].run].refuted is None


def _events(host: Host) -> list[dict[str, Any]]:
    return [json.loads(line) for line in host.layout.backups.read_text().splitlines()]


# damage and secrets


def test_a_repository_that_is_damaged_is_found_by_the_next_run(one):
    one.run()
    (pack, *_rest) = sorted(
        (path for path in (one.home / "disk" / "data").rglob("*") if path.is_file()),
        key=lambda path: -path.stat().st_size,
    )
    content = bytearray(pack.read_bytes())
    content[len(content) // 3] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(content)
    outcome = one.run()
    assert outcome.exit_code == 1
    assert "damaged" in " ".join(outcome.problems)
    assert outcome.point.level < 3
    assert any("damaged" in str(point.refuted) for point in one.points())


def test_no_secret_is_said_or_left_in_the_clear(host):
    arguments_seen: list[str] = []

    def watching(arguments: Sequence[str], **given: Any) -> Completed:
        arguments_seen.extend(arguments)
        return run(arguments, **given)

    host.runner = watching
    host.run()
    said = " ".join([*arguments_seen, *host.said]) + host.layout.backups.read_text()
    assert PASSWORD not in said
    assert PASSWORD.encode() not in all_bytes(host.home / "disk")
    assert PASSWORD.encode() not in all_bytes(host.layout.state)


def test_a_clock_that_fell_back_evicts_nothing_good(unread):
    runs = [unread.run().point.run for _day in range(3)]
    unread.day = -4000
    unread.run()
    kept = {snapshot.run for snapshot in unread.repositories()["disk"].snapshots()}
    assert set(runs) <= kept
