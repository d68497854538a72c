"""A backup as a whole, with the real restic: what it holds, what it refuses, and what is left when it is cut short."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _backup, _media
from ansible_collections.backstay.ops.plugins.module_utils._attestation import is_whole
from ansible_collections.backstay.ops.plugins.module_utils._catalogue import by_run, retention
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, Busy, GateRefused, InputError
from ansible_collections.backstay.ops.plugins.module_utils._expiry import retain
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._ledger import Ledger
from ansible_collections.backstay.ops.plugins.module_utils._lock import holding
from ansible_collections.backstay.ops.plugins.module_utils._manifest import digest
from ansible_collections.backstay.ops.plugins.module_utils._repository import Repository
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed, run
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage

from .host import PAYLOAD, RELEASE, Collector, Host, application, facts, is_clean, rows
from .kills import Dying, killed, locks, strikes
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


def _linked(path: Path, to: Path) -> None:
    """What a hostile application does to a path of its own."""
    path.rename(to)
    path.symlink_to(to)


def test_media_that_became_a_link_are_refused_and_nothing_is_stored(one):
    _linked(one.media, one.home / "elsewhere")
    with pytest.raises(BackstayError, match=rf"{one.layout.data / 'media'} is a link, .* nothing was backed up"):
        one.run()
    assert one.points() == ()


def test_media_that_become_a_link_meanwhile_are_not_followed(one):
    (one.home / "secrets").mkdir()
    (one.home / "secrets" / "key").write_text("secret")

    def turn(stage: Path) -> None:
        one.media.rename(one.home / "was")
        one.media.symlink_to(one.home / "secrets")

    with pytest.raises(BackstayError, match="is a link"):
        one.run(during=turn)
    assert one.repositories()["disk"].snapshots() == ()


def test_a_link_above_a_database_is_not_followed_by_root(one):
    _linked(one.database.parent, one.home / "elsewhere")
    with pytest.raises(BackstayError, match=r"database main .* behind a link"):
        one.run()


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


@pytest.mark.parametrize("log_mib", [0, 1, 9])
def test_room_is_kept_for_what_a_log_grows_by_while_its_database_is_copied(one, monkeypatch, log_mib):
    """The copy of file and log, and beside the live file a log as large as it: to the byte."""
    log = one.database.with_name(one.database.name + "-wal")
    os.truncate(one.database, 4 << 20)
    log.write_bytes(b"")
    os.truncate(log, log_mib << 20)
    needed = (4 + log_mib << 20) + (max(0, 4 - log_mib) << 20) + _backup.SPARE_BYTES
    free = needed - 1
    monkeypatch.setattr(
        _backup.shutil,
        "disk_usage",
        lambda path: shutil._ntuple_diskusage(10**9, 10**9, free),  # type: ignore[attr-defined]  # a module as it is imported
    )
    running = _backup._Run(one.source(), {}, Collector(one.source()))
    with pytest.raises(GateRefused, match=rf"needs {needed >> 20} MiB .*\({max(0, 4 - log_mib)} MiB of it for"):
        running.check_room(None)
    free = needed
    running.check_room(None)


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


def test_a_run_that_is_killed_at_any_of_its_commands_leaves_the_last_good_point_and_the_next_one_cleans_up(tmp_path):
    """From the first question to the last removal of what expired: nothing that was good is lost, no lock stays that a
    person would have to take away."""
    place = {"repositories": {"disk": {"location": str(tmp_path / "disk"), "own_disk": False}}}
    one = Host(tmp_path, {**place, "keep": {"daily": 1, "weekly": 0}}).build()
    one.run()
    counted = one.runner = Dying()
    newest = one.run().point.run
    one.runner = run
    for strike in strikes(counted.commands, 5):
        killed("tests.unit.backup.kills:backup_once", tmp_path, strike, backup=one.backup, day=one.day)
        one.day += 1
        last = [point.run for point in one.points() if point.good][-1]
        assert last >= newest, strike
        assert set(by_run(one.repositories()["disk"].snapshots())[last]) == {"data", "manifest"}, strike
        outcome = one.run()
        newest = outcome.point.run
        assert (outcome.exit_code, outcome.point.level, outcome.problems) == (0, 3, ()), strike
        assert is_clean(one), strike
        there = {snapshot.run for snapshot in one.repositories()["disk"].snapshots()}
        assert there == {point.run for point in one.points() if point.good}, strike
        assert all(point.good or point.failed or point.expired for point in one.points()), strike
        assert not any(point.refuted for point in one.points()), strike
        assert locks(tmp_path / "disk") == [], strike


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
    assert any("rows in the database main" in note and "--accept-shrink" in note for note in held.notes)
    assert held.point.files == len(unread.manifest(held.point.run).media) > 0
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


def test_a_store_that_keeps_snapshots_and_says_nothing_is_found_out(unread):
    """restic ends well and the snapshots are still there: nothing counts as expired."""
    for _day in range(3):
        unread.run()

    def keeping(arguments: Sequence[str], **given: Any) -> Completed:
        return Completed(tuple(arguments), 0, "", "") if "forget" in arguments else run(arguments, **given)

    unread.runner = keeping
    outcome = unread.run()
    assert any("refuses to remove 2 of 2 snapshots" in note for note in outcome.notes)
    assert not any(point.expired for point in unread.points())


def test_a_run_asks_the_engine_no_more_often_than_it_must(unread):
    """Each command tries the password for half a second, on purpose: that is most of a small backup."""
    asked: list[str] = []

    def counting(arguments: Sequence[str], **given: Any) -> Completed:
        words = ("cat", "snapshots", "backup", "ls", "version", "forget", "prune", "init")
        asked.extend(word for word in words if word in arguments)
        return run(arguments, **given)

    for _day in range(3):
        unread.run()
    unread.runner = counting
    assert unread.run().exit_code == 0
    stored = ["backup", "ls", "version", "backup"]
    if asked[6] == "ls":
        del asked[6]  # an old engine cuts the id off, which is then looked up
    assert sorted(asked[:2]) == ["cat", "snapshots"]
    assert asked[2:7] == [*stored, "forget"]
    assert sorted(asked[7:]) == ["prune", "snapshots"]


def test_an_append_only_repository_is_not_pruned_with_what_writes_to_it(tmp_path):
    place = {"location": str(tmp_path / "disk"), "own_disk": False, "append_only": True}
    host = Host(tmp_path, {"repositories": {"disk": place}}).build()
    for _day in range(4):
        outcome = host.run()
    assert any("append-only" in note for note in outcome.notes)
    assert not any(point.expired for point in host.points())


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host that may only add to its repository."""
    monkeypatch.setattr(_backup, "CHEAP_SECONDS", -1.0)
    place = {"location": str(tmp_path / "disk"), "own_disk": False, "append_only": True}
    return Host(tmp_path, {"repositories": {"disk": place}}).build()


def _mighty(host: Host) -> Repository:
    return replace(host.repositories()["disk"], secrets={"password": PASSWORD, "prune": {"password": PASSWORD}})


def test_what_is_gone_from_an_append_only_repository_is_not_called_good(bucket):
    """The policy lets the oldest go, so whoever removed it did what it says; the next one somebody took away."""
    first, second, *_rest = [bucket.run().point for _day in range(4)]
    away = [first.repositories["disk"].snapshot, second.repositories["disk"].manifest_snapshot]
    replace(_mighty(bucket), settings=replace(_mighty(bucket).settings, append_only=False)).forget(away)
    assert bucket.run().exit_code == 0
    found = {point.run: point for point in bucket.points()}
    assert (found[first.run].expired, found[first.run].refuted) == (("disk",), None)
    assert found[second.run].expired == ("disk",)  # four days on, the policy lets go of that too
    third = _rest[0]
    bucket.repositories()["disk"].forget([third.repositories["disk"].snapshot])
    retain(bucket.source(), bucket.repositories()["disk"])
    assert "nothing of ours removed them" in str({point.run: point for point in bucket.points()}[third.run].refuted)


def _elsewhere(host: Host) -> Host:
    """Another host of the application, which may remove and has made no restore point."""
    other = Host(host.home, host.backup, day=host.day, runner=host.runner)
    other.layout = Layout("portal", host.home / "pruner")
    for directory in (other.layout.configuration, other.layout.state):
        directory.mkdir(parents=True)
    return other


def test_the_host_that_may_remove_goes_by_what_the_repository_says(bucket):
    ledger = Ledger(bucket.layout.ledger, Storage(), bucket.now)
    runs = [bucket.run().point.run for _day in range(4)]
    ledger.append("live", RELEASE, backup_run=runs[1])
    runs += [bucket.run().point.run for _day in range(2)]
    other = _elsewhere(bucket)
    shared = replace(_mighty(bucket), settings=replace(_mighty(bucket).settings, append_only=False))
    assert retain(other.source(), shared) == (), "whoever made them removes them, and knows what is proven"
    other.layout.isolated.touch()
    assert "isolated" in retain(other.source(), _mighty(bucket))[0]
    other.layout.isolated.unlink()
    (note,) = retain(other.source(), _mighty(bucket))
    assert note == "disk: 2 restore points expired, 0 leftovers removed."
    kept = {snapshot.run for snapshot in bucket.repositories()["disk"].snapshots()}
    assert kept == {runs[1], *runs[3:]}, "what a release of the other host needs stays"
    assert retain(other.source(), _mighty(bucket)) == ()
    assert other.points() == (), "its own catalogue is about what it made"
    assert bucket.run().exit_code == 0
    assert [point.expired for point in bucket.points()][:3] == [("disk",), (), ("disk",)]
    assert not any(point.refuted for point in bucket.points())


def test_the_host_that_may_remove_is_held_back_until_a_person_there_has_looked(bucket):
    for _day in range(4):
        bucket.run()
    with contextlib.closing(sqlite3.connect(bucket.database)) as connection, connection:
        connection.execute("DELETE FROM audit WHERE id > 20")
    bucket.run()
    other = _elsewhere(bucket)
    (note,) = retain(other.source(), _mighty(bucket))
    assert "--accept-shrink" in note
    (note,) = retain(other.source(), _mighty(bucket), accept_shrink=True)
    assert "2 restore points expired" in note
    assert retain(other.source(), _mighty(bucket)) == (), "it was accepted once and for all"


def test_who_reads_in_a_repository_holds_up_neither_retention_nor_the_backup(unread):
    for _day in range(3):
        unread.run()

    def reading(arguments: Sequence[str], **given: Any) -> Completed:
        if "forget" in arguments:
            said = "unable to create lock in backend: repository is already locked by PID 77 on web1 by root (UID 0, "
            return Completed(tuple(arguments), 1, "", f"{said}GID 0)\nlock was created at 2026-11-21 13:34:03 (1s ago)")
        return run(arguments, **given)

    unread.runner = reading
    began = time.monotonic()
    outcome = unread.run()
    assert time.monotonic() - began < 30
    assert (outcome.exit_code, outcome.problems) == (0, ())
    assert any("locked by process 77" in note for note in outcome.notes)
    assert retention(unread.points(), "disk")[1] is not None
    unread.runner = run
    unread.run()
    assert sum(bool(point.expired) for point in unread.points()) == 2
    assert retention(unread.points(), "disk")[1] is None


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


def test_the_manifest_of_a_point_that_is_gone_goes_with_the_next_run(unread):
    """It names what people uploaded; also what they have had deleted since."""
    for _day in range(4):
        unread.run()
    held = {point.run for point in unread.points() if point.repositories}
    outcome = unread.run()
    newest = outcome.point.run
    assert {path.name for path in unread.layout.backup_runs.iterdir()} == {*held, newest}
    assert len(held) < 4
    assert not [note for note in outcome.notes if "missing or altered" in note]


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


def test_a_repository_that_was_given_another_place_begins_a_chain_of_its_own(tmp_path):
    """Its disk died; what came before it is nobody's to miss there."""
    place = {"location": str(tmp_path / "disk"), "own_disk": False, "read_back": True}
    host = Host(tmp_path, {"repositories": {"disk": place}}).build()
    old = host.run().point
    host.backup = {"repositories": {"disk": {**place, "location": str(tmp_path / "new")}}}
    host.application = application(tmp_path, **host.backup)
    outcome = host.run()
    assert (outcome.exit_code, outcome.problems) == (0, ())
    assert outcome.point.level == 3
    (refuted,) = (event["data"]["reason"] for event in _events(host) if event["event"] == "refuted")
    assert refuted.startswith(f"it is in the repository {old.repositories['disk'].id[:8]}, and disk is another one now")


def test_what_was_forgotten_and_not_pruned_is_pruned_by_the_next_run(unread):
    for _day in range(3):
        unread.run()

    def away(arguments: Sequence[str], **given: Any) -> Completed:
        if "prune" in arguments:
            return Completed(tuple(arguments), 1, "", "Fatal: unable to open config file: i/o timeout")
        return run(arguments, **given)

    unread.runner = away
    unread.run()
    pruned: list[bool] = []

    def counting(arguments: Sequence[str], **given: Any) -> Completed:
        pruned.extend(word == "prune" for word in arguments if word == "prune")
        return run(arguments, **given)

    unread.runner = counting
    for _unused in range(2):
        retain(unread.source(), unread.repositories()["disk"])
    assert pruned == [True], "once, and then it is done"
