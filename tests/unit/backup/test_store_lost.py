"""A real S3 store that is gone in the middle of a proof, of a retention, of a restore: nothing good is lost or called
bad by it, one sentence says that the store cannot be reached, and when it is back the next run needs nobody's help.

(A backup that loses its store is in test_bucket_rules.py.) `BACKSTAY_ALL=1` loses it at a third of all requests.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _application, _backup, _runtime, _sandbox
from ansible_collections.backstay.ops.plugins.module_utils import _generations as generations
from ansible_collections.backstay.ops.plugins.module_utils._application import Application
from ansible_collections.backstay.ops.plugins.module_utils._backup import Outcome, Source, backup
from ansible_collections.backstay.ops.plugins.module_utils._catalogue import by_run
from ansible_collections.backstay.ops.plugins.module_utils._cli_data import prove_point
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._proof import Proof
from ansible_collections.backstay.ops.plugins.module_utils._repository import (
    Repository,
    RepositoryError,
    repositories_of,
)
from ansible_collections.backstay.ops.plugins.module_utils._restore import Restore
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed, Runner, run
from ansible_collections.backstay.ops.plugins.module_utils._sandbox import DirectSandbox
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage, canonical
from ansible_collections.backstay.ops.plugins.module_utils._transaction import Request

from ..crash.host import (
    DECLARED,
    CrashEngine,
    Payloads,
    Quick,
    conduct,
    database,
    declare,
    engine_on,
    media,
    play,
)
from .host import Collector, Host, is_clean
from .kills import ALL
from .lost_store import Door, Losing, strikes
from .stores import PASSWORD, made, s3_store

AWAY = r"bucket \(s3:http://127.0.0.1:\d+/portal-backups/\w+\): the store cannot be reached \(.+\): [^.]+\.$"


@pytest.fixture(scope="module")
def only_door() -> Iterator[Door]:
    with s3_store() as store:
        door = Door(store)
        yield door
        door.close()


@pytest.fixture
def door(only_door: Door) -> Iterator[Door]:
    """Whatever becomes of a test, the next one has a store."""
    yield only_door
    only_door.lose_at(0)
    if only_door.lost.is_set():
        only_door.back()


def no_lock_is_left(repository: Repository) -> None:
    """Nor is any in the way of what needs the repository for itself alone."""
    repository = replace(repository, runner=run, wait_seconds=0.0)
    repository.prune()
    assert repository._restic(["list", "locks"]).stdout == ""
    assert list(repository.private.iterdir()) == []


# a proof, and a retention


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """A host with two restore points in a directory, as many as it keeps. Nobody changes it."""
    host = _keeping_two(tmp_path_factory.mktemp("two"), -3000.0).build()
    with mock.patch.object(_backup, "CHEAP_SECONDS", -1.0):  # nothing is read back: that is half of a run's time
        for _day in range(2):
            assert host.run().exit_code == 0
    return host


@pytest.fixture
def moved(two_runs: Host, door: Door, tmp_path: Path) -> Callable[[str], Host]:
    """The same host once more, whose repository is in the bucket."""

    def move(path: str) -> Host:
        shutil.copytree(two_runs.home / "host", tmp_path / "host", symlinks=True)
        location = door.filled("portal-backups", two_runs.home / "bucket", path)
        host = _keeping_two(tmp_path, two_runs.day, location)
        host.layout.application_file.write_bytes(canonical(_application.to_dict(host.application)))
        host.layout.backup_secrets.write_bytes(secrets(door))
        return host

    return move


def _keeping_two(home: Path, day: float, location: str = "") -> Host:
    place = {"location": location or str(home / "bucket"), "own_disk": False}
    return Host(home, {"repositories": {"bucket": place}, "keep": {"daily": 2, "weekly": 0}}, day=day)


def secrets(door: Door) -> bytes:
    return json.dumps({"format": 1, "repositories": {"bucket": {"password": PASSWORD, **door.store.secrets}}}).encode()


def test_a_proof_whose_store_is_lost_refutes_nothing_and_the_next_one_holds(
    moved: Callable[[str], Host], door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sandbox, "SystemdSandbox", lambda _application, **_given: DirectSandbox())
    host = moved("proven")
    newest = host.points()[-1].run

    def prove(runner: Runner) -> Proof:
        restorer = Restore(host.layout, Storage(), runner)
        return prove_point(restorer, level=4, wanted=newest, repository=None, by="tests")[0]

    def evidence() -> tuple[bytes, list[str]]:
        proofs = host.layout.proofs
        return host.layout.backups.read_bytes(), [each.name for each in proofs.iterdir()] if proofs.is_dir() else []

    for strike in strikes([("check", 1, 30), ("restore", 2, 20)], prove, door):
        before = evidence()
        with pytest.raises(RepositoryError, match=AWAY) as caught:
            prove(Losing(door, strike))
        assert door.lost.is_set(), strike
        assert caught.value.kind == "unreachable", strike
        assert evidence() == before, strike
        assert all(point.good for point in host.points()), strike
        assert [path.name for path in host.layout.proof_scratch.iterdir() if path.name != ".guard"] == [], strike
        door.back()
        proof = prove(run)
        assert proof.ok, f"{strike}: {proof.sentence}"
        no_lock_is_left(host.repositories()["bucket"])


def test_a_retention_whose_store_is_lost_leaves_what_is_good_and_is_finished_by_the_next_run(
    moved: Callable[[str], Host], door: Door
) -> None:
    """Also where half of a point was gone, or new packs had come and the old ones were still there. The lock that it
    held, and could not remove any more, goes with the next run."""
    host = moved("pruned")
    repository = host.repositories()["bucket"]
    locked = []

    def back_up(runner: Runner) -> Outcome:
        host.runner = runner
        return host.run()

    for strike in strikes([("forget", 1, 13), ("prune", 1, 17)], back_up, door):
        if strike[0] not in ("forget", "prune"):
            continue  # a backup that loses its store has a test of its own
        outcome = back_up(Losing(door, strike))
        if ALL and not door.lost.is_set():
            door.lose_at(0)
            continue  # there was less to remove than when it was counted
        assert door.lost.is_set(), strike
        assert outcome.exit_code == 1, strike
        (told,) = [each for each in outcome.problems if "nothing expired" in each]
        assert told.startswith(f"The restore point {outcome.point.run} is good, and nothing expired"), strike
        assert "the store cannot be reached" in told, strike
        good = [point.run for point in host.points() if point.good]
        assert good[-1] == outcome.point.run, strike
        assert is_clean(host), strike
        door.back()
        locked.append(repository._restic(["list", "locks", "--no-lock"]).stdout)
        assert set(by_run(repository.snapshots())) >= set(good[-2:]), strike
        following = back_up(run)
        assert (following.exit_code, following.problems) == (0, ()), strike
        found = by_run(repository.snapshots())
        assert all(set(parts) == {"data", "manifest"} for parts in found.values()), strike
        assert sorted(found) == [outcome.point.run, following.point.run], strike
        assert [point.run for point in host.points() if not point.expired] == sorted(found), strike
        assert not any(point.refuted for point in host.points()), strike
        no_lock_is_left(repository)
    assert any(locked)


# a restore


class StoreEngine(CrashEngine):
    """An engine whose restore points are real ones."""

    repository_of = Restore.repository_of
    do_prove = Restore.do_prove
    manifest_of = Restore.manifest_of


class Outside:
    """What runs on the host is played; restic, signatures and looks at what was fetched are real."""

    def __init__(self, played: Runner, real: Runner = run) -> None:
        self.played = played
        self.real = real

    def __call__(self, arguments: Sequence[str], **given: Any) -> Completed:
        name = Path(arguments[0]).name
        played = name in ("systemctl", "systemd-run", "journalctl") or {"venv", "install", "compileall"} & {*arguments}
        return (self.played if played else self.real)(arguments, **given)


class Serving:
    """A host that serves 1.0.0, made a restore point, and was written to since."""

    def __init__(self, top: Path, door: Door) -> None:
        self.layout = Layout("portal", top / "host")
        declare(self.layout)
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.layout.backup_key)]
        subprocess.run(key, check=True)
        self.played = engine_on(self.layout, Quick())[1]
        self.uploads = self.layout.data / "uploads" / "media"
        self.uploads.mkdir(parents=True)
        payload = Payloads(top / "payloads").send("1.0.0", self.layout)
        self.layout.proof(payload, "attestation.json").write_text("{}")
        request = Request("release", by="tests", version="1.0.0", payload=payload)
        live = conduct(self.engine(run), request).candidate
        self.write("as it was")
        self.layout.backup_secrets.write_bytes(secrets(door))
        local = made(top, name="bucket").settings.location
        now = "2026-01-01T02:00:00.000Z"
        source = Source(self.layout, self.stored_in(local), live, "1.0.0", payload, (), {}, now=lambda: now)
        assert backup(source, collector=Collector(source)).exit_code == 0
        self.stored_in(door.filled("portal-backups", Path(local), "restored"))

    def engine(self, real: Runner) -> StoreEngine:
        return StoreEngine(self.layout, Quick(), Outside(self.played, real), sleep=lambda seconds: None)

    def restore(self, runner: Runner) -> None:
        conduct(self.engine(runner), Request("restore", by="tests", point="latest"))

    def repository(self) -> Repository:
        policy = self.engine(run).application().backup
        assert policy is not None
        return repositories_of(self.layout, policy.repositories, Storage())["bucket"]

    def stored_in(self, location: str) -> Application:
        """The application, with its repository at a place."""
        repositories = {"bucket": {"location": location, "own_disk": False}}
        declared = {**DECLARED, "backup": {"repositories": repositories, "before_release": False}}
        found = _application.from_dict(declared, file="portal.yml")
        self.layout.application_file.write_bytes(canonical(_application.to_dict(found)))
        return found

    def write(self, note: str) -> None:
        database(self.layout, [f"note: {note}", "portal.0001"])
        (self.uploads / "a.jpg").write_text(note)

    def read(self) -> tuple[list[str], dict[str, bytes]]:
        return database(self.layout), media(self.layout)

    def seen(self) -> tuple[Any, ...]:
        """All that a restore changes of a host."""
        beside = sorted(path.name for path in self.layout.generations.iterdir())
        return generations.live(self.layout), beside, self.read(), self.layout.ledger.read_bytes(), self.played.running


@pytest.fixture
def serving(door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serving:
    play(monkeypatch, tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(_runtime, "Storage", Quick)
    return Serving(tmp_path, door)


def test_a_restore_whose_store_is_lost_changes_nothing_of_what_is_live_and_the_next_one_restores(
    serving: Serving, door: Door
) -> None:
    for strike in strikes([("restore", 1, 10)], serving.restore, door):
        serving.write("written since")
        before = copy.deepcopy(serving.seen())
        with pytest.raises(BackstayError, match=AWAY):
            serving.restore(Losing(door, strike))
        assert door.lost.is_set(), strike
        assert serving.seen() == before, strike
        assert serving.engine(run).journal.read() == (), "no transaction is left open"
        assert not serving.layout.maintenance_flag.exists(), "the door was never closed"
        door.back()
        serving.restore(run)
        assert serving.read() == (["note: as it was", "portal.0001"], {"a.jpg": b"as it was"}), strike
        no_lock_is_left(serving.repository())
