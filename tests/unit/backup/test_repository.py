"""Repositories with the real restic: on a disk, over SFTP, in an S3 store; what goes wrong is a sentence of its own."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _repository
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, InputError
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._repository import (
    Repository,
    RepositoryError,
    reason_of,
    repositories_of,
)
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed, run
from ansible_collections.backstay.ops.plugins.module_utils._s3 import holds_something
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage

from .stores import PASSWORD, S3, Sftp, free_port, made, repository, s3_store, sftp_server, tree

TAGS = ("run=20260101T000000000-1", "part=data")
FILES = {
    "databases/main.sqlite3": random.Random(1).randbytes(200_000),
    "media/a/photo.jpg": b"\xff\xd8photo",
    "media/b.txt": b"text",
}


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with s3_store() as store:
        yield store


@pytest.fixture(scope="module")
def sftp() -> Iterator[Sftp]:
    with sftp_server() as server:
        yield server


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    return tree(tmp_path / "stage", FILES)


@pytest.fixture
def disk(tmp_path: Path) -> Repository:
    return made(tmp_path)


def _kind(caught: pytest.ExceptionInfo[RepositoryError]) -> str:
    assert PASSWORD not in caught.value.message + "".join(caught.value.lines)
    return caught.value.kind


def _round(found: Repository, stage: Path, tmp_path: Path) -> None:
    """Made once, stored, listed, restored byte for byte, read, forgotten."""
    assert found.identity() is None
    assert found.initialize() is True
    assert found.initialize() is False
    snapshot = found.store(stage, ("databases", "media"), TAGS)
    assert (snapshot.run, snapshot.part) == ("20260101T000000000-1", "data")
    assert [each.id for each in found.snapshots()] == [snapshot.id]
    found.restore(snapshot.id, tmp_path / "out")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in FILES} == FILES
    assert found.read(snapshot.id, "/media/a/photo.jpg") == FILES["media/a/photo.jpg"]
    found.check(read_data=True)
    assert found.size_bytes() > 0
    found.forget([snapshot.id, "0" * 64])
    found.prune()
    assert found.snapshots() == ()
    assert not list(found.private.iterdir())


@pytest.mark.parametrize(
    ("said", "differs"),
    [
        ("restic 0.14.0 compiled with go1.19.8 on linux/amd64\n", False),
        ("restic 0.16.5 compiled with go1.21.6 on linux/amd64\n", False),
        ("restic 0.17.0 compiled with go1.22.5 on linux/amd64\n", True),
        ("restic 0.18.0-dev (compiled manually) compiled with go1.24.4 on linux/amd64\n", True),
        ("restic 1.2 compiled with go1.30\n", True),
        ("", False),
    ],
)
def test_which_restic_fetches_only_what_differs(tmp_path, said, differs):
    found = replace(repository(tmp_path), runner=lambda arguments, **_given: Completed(tuple(arguments), 0, said, ""))
    assert found.fetches_what_differs() is differs


def test_what_lies_there_becomes_as_it_is_in_the_snapshot(tmp_path, stage):
    """Also where it has the same size and time: nothing is taken for granted."""
    disk = repository(tmp_path)
    disk.initialize()
    snapshot = disk.store(stage, ("databases", "media"), TAGS)
    out = tmp_path / "out"
    shutil.copytree(stage, out)
    photo = out / "media/a/photo.jpg"
    seen, content = photo.stat(), photo.read_bytes()
    photo.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(photo, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    disk.restore(snapshot.id, out, ("/databases", "/media"))
    assert {name: (out / name).read_bytes() for name in FILES} == FILES


def test_a_directory_is_a_repository(tmp_path, stage):
    _round(repository(tmp_path), stage, tmp_path)


def test_a_directory_on_an_sftp_server_is_a_repository(tmp_path, stage, sftp):
    place = tmp_path / "far" / "repository"
    place.parent.mkdir()
    _round(repository(tmp_path, sftp.location(place), secrets=sftp.secrets), stage, tmp_path)


def test_a_bucket_is_a_repository(tmp_path, stage, s3):
    _round(repository(tmp_path, s3.location("round"), secrets=s3.secrets), stage, tmp_path)


def test_a_store_with_its_own_authority_is_trusted_by_that_alone(tmp_path, s3):
    location = s3.location("authority", tls=True)
    assert repository(tmp_path, location, secrets={**s3.secrets, "ca": s3.ca}).initialize() is True
    with pytest.raises(RepositoryError, match="`ca`") as caught:
        repository(tmp_path, location, secrets=s3.secrets).initialize()
    assert _kind(caught) == "unreachable"


def test_wrong_credentials_of_a_bucket_are_refused_and_not_shown(tmp_path, s3):
    wrong = repository(tmp_path, s3.location("round"), secrets={**s3.secrets, "secret_access_key": "guessed-secret"})
    with pytest.raises(RepositoryError, match="refuses the credentials") as caught:
        wrong.initialize()
    assert _kind(caught) == "refused"
    assert "guessed-secret" not in caught.value.message


def test_an_sftp_server_with_another_key_is_not_talked_to(tmp_path, sftp):
    key = sftp.known_hosts.split()
    other = f"{key[0]} ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ9w5Kt3bBdmoXT4zW0PJUQvyx7TTXB+nyfYJbtCDPSD"
    with pytest.raises(RepositoryError, match="known_hosts") as caught:
        repository(tmp_path, sftp.location(tmp_path / "x"), secrets={**sftp.secrets, "known_hosts": other}).identity()
    assert _kind(caught) == "unreachable"


def test_a_store_that_does_not_answer_is_unreachable_at_once(tmp_path):
    keys = {"access_key_id": "a", "secret_access_key": "b"}
    began = time.monotonic()
    for location in (f"s3:http://127.0.0.1:{free_port()}/bucket/x", "s3:http://nobody.invalid/bucket/x"):
        with pytest.raises(RepositoryError, match="cannot be reached") as caught:
            repository(tmp_path, location, secrets=keys).initialize()
        assert _kind(caught) == "unreachable"
    secrets = {"private_key": "k", "known_hosts": "x ssh-ed25519 AAAA"}
    with pytest.raises(RepositoryError, match="cannot be reached"):
        repository(tmp_path, f"sftp://b@127.0.0.1:{free_port()}//srv", secrets=secrets).initialize()
    assert time.monotonic() - began < 30


def test_a_store_that_is_lost_while_restic_tries_on_is_what_is_told_at_its_deadline(tmp_path):
    """And a store that is there and slow is not called lost."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        location = f"s3:http://127.0.0.1:{listening.getsockname()[1]}/bucket/x"

        def losing(arguments: Sequence[str], **given: Any) -> Completed:
            if "check" in arguments:
                listening.close()
            raise BackstayError("`setpriv` did not end within 4 s and was killed.")

        there = repository(tmp_path, location, secrets={"access_key_id": "a", "secret_access_key": "b"}, runner=losing)
        with pytest.raises(BackstayError, match="did not end within 4 s"):
            there.snapshots()
        with pytest.raises(RepositoryError, match="cannot be reached") as caught:
            there.check()
        assert _kind(caught) == "unreachable"


def test_a_store_that_is_lost_in_both_looks_of_a_check_is_not_damaged(tmp_path):
    """restic ends such a check as it ends one that found damage."""
    looks: list[bool] = []

    def lost(arguments: Sequence[str], **given: Any) -> Completed:
        looks.append("--no-lock" in arguments)
        said = f"pack 98d4 failed to download: StreamPack: {REFUSED}\n\nFatal: repository contains errors"
        return Completed(tuple(arguments), 1, "read all data", said)

    with pytest.raises(RepositoryError, match="cannot be reached") as caught:
        replace(made(tmp_path), runner=lost).check(read_data=True)
    assert _kind(caught) == "unreachable"
    assert looks == [True]


def test_a_wrong_password_is_named_and_makes_nothing_new(tmp_path, disk):
    before = sorted(path.name for path in (tmp_path / "repository" / "keys").iterdir())
    with pytest.raises(RepositoryError, match="password does not open it") as caught:
        disk.with_password("another").initialize()
    assert _kind(caught) == "wrong key"
    assert before == sorted(path.name for path in (tmp_path / "repository" / "keys").iterdir())


def test_a_repository_that_was_there_is_not_made_anew(tmp_path, disk):
    identifier = disk.identity()
    (tmp_path / "repository").rename(tmp_path / "unmounted")
    with pytest.raises(RepositoryError, match="gone from there") as caught:
        disk.initialize(expected=identifier)
    assert _kind(caught) == "no repository"
    assert not (tmp_path / "repository").exists()


def test_another_repository_at_the_place_is_told(disk):
    with pytest.raises(RepositoryError, match="another repository"):
        disk.initialize(expected="0" * 64)


@pytest.mark.parametrize("where", ["disk", "sftp", "s3"])
def test_nothing_is_made_over_what_is_left_of_a_repository(where, tmp_path, stage, sftp, s3):
    """restic 0.14 would put a new configuration over the old data."""
    if where == "s3":
        there = repository(tmp_path, s3.location("left", "a"), secrets=s3.secrets)
        there.initialize()
        inner = replace(there, settings=replace(there.settings, location=s3.location("left", "")))
        assert holds_something(inner.settings.location.rstrip("/"), s3.secrets)
        with pytest.raises(RepositoryError, match="none is made over them"):
            replace(there, settings=replace(there.settings, location=s3.location("left", "").rstrip("/"))).initialize()
        return
    place = tmp_path / "left"
    location = str(place) if where == "disk" else sftp.location(place)
    there = repository(tmp_path, location, secrets=sftp.secrets)
    there.initialize()
    (place / "config").unlink()
    with pytest.raises(RepositoryError, match="none is made over them") as caught:
        there.initialize()
    assert _kind(caught) == "damaged"
    assert not (place / "config").exists()


def test_a_directory_on_the_disk_of_the_data_is_refused(tmp_path):
    there = repository(tmp_path, data=tmp_path / "data")
    own = replace(there, settings=replace(there.settings, own_disk=True))
    with pytest.raises(InputError, match="is it unmounted"):
        own.initialize()
    assert not (tmp_path / "repository").exists()


def test_a_missing_source_is_an_error(disk, stage):
    with pytest.raises(BackstayError, match="does not exist"):
        disk.store(stage, ("databases", "media", "artifacts"), TAGS)
    assert disk.snapshots() == ()


def test_a_snapshot_that_lacks_a_file_does_not_count(tmp_path, stage):
    def forgetful(arguments: Sequence[str], **given: Any) -> Completed:
        if "backup" in arguments:
            (stage / "media" / "b.txt").unlink()
        return run(arguments, **given)

    disk = made(tmp_path, runner=forgetful)
    with pytest.raises(RepositoryError, match=r"lacks 1 of 3 files.*media/b\.txt") as caught:
        disk.store(stage, ("databases", "media"), TAGS)
    assert _kind(caught) == "incomplete"


def test_a_few_files_are_stored_by_restics_own_count(tmp_path, stage):
    disk = made(tmp_path)
    identifier = disk.store_counted(stage, ("media",), TAGS)
    assert [snapshot.id for snapshot in disk.snapshots()] == [identifier]
    assert disk.read(identifier, "/media/b.txt") == (stage / "media" / "b.txt").read_bytes()


def test_a_few_files_of_which_one_is_cut_off_meanwhile_do_not_count(tmp_path, stage):
    def cutting(arguments: Sequence[str], **given: Any) -> Completed:
        if "backup" in arguments:
            (stage / "media" / "b.txt").write_bytes(b"")
        return run(arguments, **given)

    disk = made(tmp_path, runner=cutting)
    with pytest.raises(RepositoryError, match="does not count") as caught:
        disk.store_counted(stage, ("media",), TAGS)
    assert _kind(caught) == "incomplete"


def test_a_second_store_reads_only_what_changed(tmp_path, stage, disk):
    first = disk.store(stage, ("databases", "media"), TAGS)
    os.link(stage / "media" / "b.txt", tmp_path / "kept")  # the next run links anew: another time of change
    again = disk.store(stage, ("databases", "media"), TAGS, parent=first.id)
    assert again.tree == first.tree or again.added_bytes < first.added_bytes
    assert again.added_bytes < 2000


def test_secrets_are_in_private_files_of_one_command_and_nowhere_else(tmp_path, stage, sftp):
    seen: list[tuple[Sequence[str], dict[str, str], dict[str, int]]] = []

    def watching(arguments: Sequence[str], **given: Any) -> Completed:
        modes = {}
        for directory in (tmp_path / "run").iterdir():
            assert directory.stat().st_mode & 0o777 == 0o700
            modes |= {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir() if path.is_file()}
        seen.append((arguments, dict(given.get("environment") or {}), modes))
        return run(arguments, **given)

    place = sftp.location(tmp_path / "private")
    there = repository(tmp_path, place, secrets=sftp.secrets, runner=watching)
    there.initialize()
    there.store(stage, ("media",), TAGS)
    there.add_key("the next password")
    for arguments, environment, modes in seen:
        words = " ".join(arguments) + " ".join(environment.values())
        assert PASSWORD not in words
        assert "the next password" not in words
        assert "PRIVATE KEY" not in words
        assert set(modes.values()) == {0o600}
    assert not list((tmp_path / "run").iterdir())
    assert PASSWORD not in repr(there)


def test_what_a_killed_process_left_on_run_is_removed(tmp_path, disk):
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = tmp_path / "run" / f"restic-{dead.pid}-abc"
    left.mkdir(parents=True)
    (left / "password").write_text(PASSWORD)
    disk.identity()
    assert not left.exists()


def _locked_by(there: Repository) -> subprocess.Popen[bytes]:
    """A restic that holds the repository until it is ended."""
    environment = {**os.environ, "RESTIC_PASSWORD": PASSWORD}
    command = ["restic", "--no-cache", "-r", there.settings.location, "backup", "--stdin", "--host", "elsewhere"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    locks = Path(there.settings.location) / "locks"
    deadline = time.monotonic() + 120
    while not any(locks.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def test_a_lock_names_its_holder_and_outlives_him_by_nothing(disk):
    holder = _locked_by(disk)
    slept: list[float] = []
    said: list[str] = []
    waiting = replace(disk, wait_seconds=12.0, sleep=slept.append, say=said.append)
    try:
        with pytest.raises(RepositoryError, match=rf"locked by process {holder.pid} of root on \S+ since 20") as caught:
            waiting.prune()
        assert _kind(caught) == "locked"
        assert sum(slept) == pytest.approx(15.0)  # looked at for the last time when the twelve seconds are over
        (told,) = said
        assert f"locked by process {holder.pid}" in told
        assert told.endswith(": waiting up to 0 min")
    finally:
        holder.kill()
        holder.wait()
    slept.clear()
    waiting.prune()  # the lock of a dead process does not stand in the way
    assert slept == []


def test_who_ends_while_it_is_waited_for_holds_nobody_up(disk):
    holder = _locked_by(disk)

    def ends(_seconds: float) -> None:
        assert holder.stdin is not None
        holder.stdin.close()
        holder.wait()

    replace(disk, sleep=ends).prune()
    assert holder.returncode is not None


@pytest.mark.parametrize("read_data", [False, True])
def test_a_check_goes_beside_a_backup_and_neither_waits(disk, stage, read_data):
    stored = disk.store(stage, ("databases", "media"), TAGS)
    holder = _locked_by(disk)
    never = replace(disk, wait_seconds=0.0)
    try:
        never.check(read_data=read_data)
        checks: list[bool] = []

        def beside(arguments: Sequence[str], **given: Any) -> Completed:
            if "check" in arguments and not checks:
                checks.append(True)
                never.store(stage, ("databases", "media"), TAGS, parent=stored.id)
                (never_more,) = never.snapshots()[:1]
                never.restore(never_more.id, stage.parent / "out")
            return run(arguments, **given)

        replace(never, runner=beside).check(read_data=read_data)
        assert checks
    finally:
        holder.kill()
        holder.wait()


def test_who_asks_which_repository_it_is_needs_no_lock(disk):
    locks = Path(disk.settings.location) / "locks"
    locks.rmdir()
    locks.write_text("nobody can lock anything here")
    assert disk.identity() is not None


def test_what_a_check_finds_while_somebody_removes_counts_only_when_it_is_found_again(disk, stage):
    """As a prune does: packs go between two looks of the check, and come back in others."""
    disk.store(stage, ("databases", "media"), TAGS)
    pack = _pack(disk)
    away = stage.parent / "away"

    def pruning(arguments: Sequence[str], **given: Any) -> Completed:
        if "--no-lock" in arguments:
            pack.rename(away)
            try:
                return run(arguments, **given)
            finally:
                away.rename(pack)
        return run(arguments, **given)

    replace(disk, runner=pruning).check()
    pack.rename(away)
    with pytest.raises(RepositoryError, match="damaged"):
        disk.check()


def _pack(disk: Repository) -> Path:
    return max(
        (path for path in (Path(disk.settings.location) / "data").rglob("*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )


def test_a_flipped_bit_is_found_when_all_is_read_back(disk, stage):
    disk.store(stage, ("databases", "media"), TAGS)
    pack = _pack(disk)
    content = bytearray(pack.read_bytes())
    content[2000] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(content)
    disk.check()  # the structure is as it was: this is why level 3 exists
    with pytest.raises(RepositoryError, match="damaged") as caught:
        disk.check(read_data=True)
    assert _kind(caught) == "damaged"


def test_a_cut_pack_is_found_by_the_structure(disk, stage):
    disk.store(stage, ("databases", "media"), TAGS)
    pack = _pack(disk)
    pack.chmod(0o600)
    pack.write_bytes(pack.read_bytes()[:50])
    with pytest.raises(RepositoryError) as caught:
        disk.check()
    assert _kind(caught) == "damaged"


def test_a_snapshot_that_cannot_be_read_is_told(disk, stage):
    disk.store(stage, ("databases", "media"), TAGS)
    (path,) = (Path(disk.settings.location) / "snapshots").iterdir()
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(RepositoryError, match="1 of its snapshots cannot be read"):
        disk.snapshots()
    told: list[str] = []
    assert disk.snapshots(damaged=told.append) == ()
    assert len(told) == 1


def test_a_missing_snapshot_is_named(disk, tmp_path):
    with pytest.raises(RepositoryError, match="has no snapshot deadbeefdead") as caught:
        disk.restore("deadbeef" * 8, tmp_path / "out")
    assert _kind(caught) == "no snapshot"


def test_a_full_disk_is_told_as_such(tmp_path, stage):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)], check=True)
    try:
        there = repository(tmp_path, str(small / "repository"))
        (stage / "media" / "large").write_bytes(os.urandom(1 << 20))
        there.initialize()
        with pytest.raises(RepositoryError, match="the store is full") as caught:
            there.store(stage, ("media",), TAGS)
        assert _kind(caught) == "full"
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_store_that_keeps_snapshots_refuses(tmp_path, stage):
    """An append-only store: restic 0.14 says so on a line and ends well."""

    def keeping(arguments: Sequence[str], **given: Any) -> Completed:
        if "forget" in arguments:
            return Completed(tuple(arguments), 0, "", "unable to remove <snapshot/14a5f908e1> from the repository")
        return run(arguments, **given)

    disk = made(tmp_path, runner=keeping)
    snapshot = disk.store(stage, ("media",), TAGS)
    with pytest.raises(RepositoryError, match="refuses to remove 1 of 1") as caught:
        disk.forget([snapshot.id])
    assert _kind(caught) == "refused"


def test_only_the_credentials_for_pruning_prune_what_is_append_only(tmp_path):
    closed = repository(tmp_path, "s3:http://h/bucket", settings={"append_only": True})
    assert closed.for_pruning() is None
    split = replace(closed, secrets={**closed.secrets, "prune": {"access_key_id": "other"}})
    other = split.for_pruning()
    assert other is not None
    assert other.secrets["access_key_id"] == "other"
    plain = repository(tmp_path)
    assert plain.for_pruning() is plain


def test_restic_ends_with_the_process_that_asked(tmp_path, disk):
    """A run that was killed leaves no restic behind that stores on."""
    script = (
        "import sys; from pathlib import Path\n"
        "from ansible_collections.backstay.ops.plugins.module_utils._run import run\n"
        "run(['setpriv','--pdeathsig','TERM','nice','-n','10','ionice','-c','3','-t','sleep','60'], timeout_seconds=60)"
    )
    command, _environment = disk._command(tmp_path)
    assert command[:3] == ["setpriv", "--pdeathsig", "TERM"]
    root = str(Path(_repository.__file__).parents[5])
    parent = subprocess.Popen(["python3", "-c", script], env={**os.environ, "PYTHONPATH": root})
    children: list[str] = []
    deadline = time.monotonic() + 120
    # Its name, and not its arguments: those are there before setpriv has asked for the signal.
    while not (children and Path("/proc", children[0], "comm").read_text() == "sleep\n"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
        children = Path("/proc", str(parent.pid), "task", str(parent.pid), "children").read_text().split()
        children = [child for child in children if Path("/proc", child).exists()]
    parent.kill()
    parent.wait()
    while Path("/proc", children[0]).exists() and "Z" not in Path("/proc", children[0], "stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


# what restic says, in the words of 0.14 and of 0.18

REFUSED = 'Get "http://h/": dial tcp 10.0.0.1:80: connect: connection refused'
SAID = [
    ("no repository", 1, "Fatal: unable to open config file: stat /x/config: no such file or directory"),
    ("no repository", 10, "Fatal: repository does not exist: unable to open config file: stat /x/config: no such file"),
    ("no repository", 1, "Fatal: unable to open config file: Stat: The specified key does not exist."),
    ("no repository", 1, "Fatal: unable to open config file: Lstat: file does not exist"),
    ("wrong key", 1, "Fatal: wrong password or no key found"),
    ("wrong key", 12, "Fatal: wrong password or no key found"),
    ("unreachable", 1, 'Fatal: unable to open config file: Stat: Get "http://h/": dial tcp 10.0.0.1:80: i/o timeout'),
    ("unreachable", 1, "subprocess ssh: ssh: connect to host h port 22: No route to host"),
    ("refused", 1, "subprocess ssh: backup@h: Permission denied (publickey)."),
    ("refused", 1, "Fatal: unable to open config file: Stat: Access Denied."),
    ("full", 1, "Fatal: unable to save snapshot: write /x/tmp: no space left on device"),
    ("damaged", 1, "Fatal: repository contains errors"),
    ("damaged", 1, "pack 1234: unexpected file size: got 10, expected 204\nFatal: repository contains errors"),
    ("damaged", 1, "ignoring error for /a: ciphertext verification failed\nFatal: There were 2 errors"),
    ("damaged", 1, "pack 1234 failed to download: read /x: input/output error\nFatal: repository contains errors"),
    ("damaged", 1, "pack 1234: hash mismatch\nGet: connection refused\nFatal: repository contains errors"),
    ("unreachable", 1, f"pack 1234 failed to download: StreamPack: {REFUSED}\nFatal: repository contains errors"),
    ("unreachable", 1, "pack 1234 failed to download: StreamPack: connection lost\nFatal: repository contains errors"),
    ("unreachable", 1, "ignoring error for /a: StreamPack: connection lost\nFatal: There were 1 errors"),
    ("unreachable", 1, f"error: error loading index 1662: {REFUSED}\nFatal: LoadIndex returned errors"),
    ("unreachable", 1, f"Remove(<lock/957c>) returned error, retrying after 1s: {REFUSED}\nunable to create lock"),
    ("damaged", 1, "Fatal: Unmarshal: illegal base64 data at input byte 33"),
    ("damaged", 1, "Fatal: Unmarshal: unexpected end of JSON input"),
    ("damaged", 1, "Fatal: only supported KDF is scrypt()"),
    ("damaged", 1, "Fatal: crypto.KDF: Check: scrypt: the parameters provided are invalid"),
    ("no snapshot", 1, 'Fatal: failed to find snapshot: no matching ID found for prefix "deadbeef"'),
    ("incomplete", 3, "error: open /x: permission denied\nWarning: at least one source file could not be read"),
    ("failed", 1, "Fatal: something nobody has seen"),
]


@pytest.mark.parametrize(("kind", "code", "said"), SAID)
def test_what_restic_says_has_a_kind(kind, code, said):
    assert reason_of(code, said)[0] == kind


def test_a_lock_is_told_with_who_and_since_when():
    said = (
        "unable to create lock in backend: repository is already locked exclusively by PID 77 on web1 by root (UID 0, "
        "GID 0)\nlock was created at 2026-11-21 13:34:03 (1.9s ago)\nstorage ID 9989f0d8"
    )
    assert reason_of(1, said) == ("locked", "for itself alone by process 77 of root on web1 since 2026-11-21 13:34:03")
    assert reason_of(11, said)[0] == "locked"


# the repositories of an application


def test_an_applications_repositories_are_opened_with_what_is_declared(tmp_path):
    layout = Layout("portal", tmp_path)
    settings = {"disk": repository(tmp_path).settings}
    with pytest.raises(InputError, match="backstay_backup_secrets"):
        repositories_of(layout, settings, Storage())
    layout.configuration.mkdir(parents=True)
    layout.backup_secrets.write_text(json.dumps({"format": 1, "repositories": {"disk": {"password": PASSWORD}}}))
    found = repositories_of(layout, settings, Storage())
    assert found["disk"].initialize() is True
    assert found["disk"].cache == layout.repository_cache
    layout.backup_secrets.write_text(json.dumps({"format": 2, "repositories": {}}))
    with pytest.raises(BackstayError, match="format 2"):
        repositories_of(layout, settings, Storage())
    layout.backup_secrets.write_text(json.dumps({"format": 1, "repositories": {}}))
    with pytest.raises(InputError, match="has no `password`"):
        repositories_of(layout, settings, Storage())["disk"].identity()


def test_the_cache_is_of_no_consequence(tmp_path, stage):
    disk = made(tmp_path, cache=tmp_path / "cache")
    snapshot = disk.store(stage, ("media",), TAGS)
    shutil.rmtree(tmp_path / "cache")
    assert disk.read(snapshot.id, "/media/b.txt") == b"text"
