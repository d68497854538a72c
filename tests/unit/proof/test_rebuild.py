"""The worst day: what a new host learns from repositories that are not all whole, and by which keys it believes it."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _cli_data as verbs
from ansible_collections.backstay.ops.plugins.module_utils import _client, _escrow, _manifest
from ansible_collections.backstay.ops.plugins.module_utils._application import to_dict
from ansible_collections.backstay.ops.plugins.module_utils._backup import backup as back_up
from ansible_collections.backstay.ops.plugins.module_utils._backup_settings import RepositorySettings
from ansible_collections.backstay.ops.plugins.module_utils._backup_source import source_of
from ansible_collections.backstay.ops.plugins.module_utils._catalogue import catalogue, from_repository, points
from ansible_collections.backstay.ops.plugins.module_utils._drill import open_with
from ansible_collections.backstay.ops.plugins.module_utils._engine import Engine
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, GateRefused, InputError
from ansible_collections.backstay.ops.plugins.module_utils._host import Host
from ansible_collections.backstay.ops.plugins.module_utils._http import Target
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._rebuild import Learnt, learn, recall
from ansible_collections.backstay.ops.plugins.module_utils._repository import read_secrets
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage, canonical
from ansible_collections.backstay.ops.plugins.module_utils._transaction import Request, Restoring, Transaction

from .points import DAYS, NAME, PASSWORD, Place, Shape, application_of, make_key

DAMAGED, NEWEST = "20260304T020000000-14", "20260305T020000000-15"


@pytest.fixture(autouse=True)
def mine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is root's on a host belongs to whoever runs the tests."""
    monkeypatch.setattr(os, "chown", lambda *given, **options: None)


def packs(place: Place) -> set[Path]:
    return {path for path in (place.repository_path / "data").rglob("*") if path.is_file()}


def cut_off(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:40])


def flip(path: Path) -> None:
    """Bits of each file in a pack, and none of its header. (On one that was cut off restic 0.14 tries for a minute.)"""
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    for place in range(20, len(content) - 300, 50):
        content[place] ^= 1
    path.write_bytes(content)


def one_more(place: Place, run: str, *, key: Path | None = None) -> Path:
    """A sound point more; returns the pack in which its manifest is."""
    previous = _manifest.digest((place.layout.backup_run(list(place.known)[-1]) / "manifest.json").read_bytes())
    place.write_stage(Shape(), 7, int(run[7]))
    values = {"format": 1, "values": {"SECRET_KEY": run}}
    (place.stage / "configuration" / "secrets.json").write_text(json.dumps(values))
    content = _manifest.to_bytes(place.manifest(run, previous))
    data = place.add(place.stage, place.parts(), run, "data")
    before = packs(place)
    place.store_manifest(run, content, data, key=key)
    return max(packs(place) - before, key=lambda path: path.stat().st_size)


@pytest.fixture
def torn(place: Place) -> Place:
    """Of its points one has a snapshot that was cut off, one a manifest that was; the newest is sound."""
    pack = one_more(place, DAMAGED)
    one_more(place, NEWEST)
    flip(pack)
    cut_off(place.repository_path / "snapshots" / place.known[DAYS[0]]["data"].id)
    return place


def keep(place: Place, *names: str) -> Path:
    """An offline key that names these directories beside the place's repository."""
    repositories = {
        name: {
            "location": str(place.top / name),
            "settings": {"own_disk": False},
            "secrets": {"password": PASSWORD},
        }
        for name in names
    }
    key = {"format": 1, "application": NAME, "at": "t", "manifest_key": place.public_key.strip()}
    path = place.top / "portal.key"
    path.write_text(json.dumps({**key, "repositories": repositories}))
    return path


def new_host(place: Place, name: str, *repositories: str) -> Host:
    """A host on which the application was declared, with a signing key of its own."""
    layout = Layout(NAME, place.top / name)
    for directory in (layout.configuration, layout.artifacts):
        directory.mkdir(parents=True)
    located = {each: {"location": str(place.top / each), "own_disk": False} for each in repositories}
    layout.application_file.write_bytes(canonical(to_dict(application_of(backup={"repositories": located}))))
    make_key(layout.backup_key)
    return Host(layout)


def learnt(host: Host, key: Path, **given: Any) -> tuple[Learnt, list[str]]:
    said: list[str] = []
    return learn(host, key, say=said.append, **given), said


def test_what_cannot_be_read_is_told_and_keeps_nobody_from_the_sound_newest_point(torn: Place) -> None:
    host = new_host(torn, "new", "repository")
    found, said = learnt(host, keep(torn, "repository"))
    assert (found.run, found.repository) == (NEWEST, "repository")
    known = [point.run for point in points(host.layout, Storage())]
    assert known == [DAYS[1], DAYS[2], NEWEST]
    told = " ".join(said)
    assert f"The restore point {DAMAGED} in repository is left out" in told
    assert "1 of its snapshots cannot be read" in told
    assert host.layout.payload("a" * 64).read_bytes() == b"a payload"


def test_whoever_opens_it_with_the_key_alone_goes_on_too(torn: Place) -> None:
    key = keep(torn, "repository")
    said: list[str] = []
    opened = open_with(key, wanted="latest", say=said.append, root=torn.top / "another")
    assert opened.point.run == NEWEST
    assert any(DAMAGED in line for line in said)
    assert recall(key, NAME, say=said.append, root=torn.top / "another").secrets == {"SECRET_KEY": NEWEST}


def test_who_removes_by_what_the_repository_says_is_held_back(torn: Place) -> None:
    with pytest.raises(BackstayError, match="1 of its snapshots cannot be read"):
        from_repository(torn.repository)
    (torn.repository_path / "snapshots" / torn.known[DAYS[0]]["data"].id).unlink()
    with pytest.raises(BackstayError, match="it is damaged"):
        from_repository(torn.repository)


def test_a_repository_that_is_whole_is_taken_where_another_has_lost_the_newest_point(place: Place) -> None:
    pack = one_more(place, NEWEST)
    shutil.copytree(place.repository_path, place.top / "second")
    flip(pack)
    found, said = learnt(new_host(place, "new", "repository", "second"), keep(place, "repository", "second"))
    assert (found.run, found.repository) == (NEWEST, "second")
    assert any(f"{NEWEST} in repository is left out" in line for line in said)


def test_a_repository_whose_listing_cannot_be_had_is_told_and_the_other_one_counts(place: Place) -> None:
    shutil.copytree(place.repository_path, place.top / "second")
    for path in (place.repository_path / "index").iterdir():
        cut_off(path)
    found, said = learnt(new_host(place, "new", "repository", "second"), keep(place, "repository", "second"))
    assert (found.run, found.repository) == (DAYS[2], "second")
    assert any("The repository repository" in line for line in said)


def test_a_backup_that_failed_before_the_rebuild_keeps_nobody_from_the_points(place: Place) -> None:
    """Its timer struck on a host that had nothing yet."""
    host = new_host(place, "new", "repository")
    host.storage.make_directory(host.layout.state, mode=0o700)
    early = catalogue(host.layout, host.storage, lambda: "2026-11-23T02:00:00.000Z")
    early.append("begun", "20261123T020000000-1", at="2026-11-23T02:00:00.000Z", release="")
    early.append("failed", "20261123T020000000-1", reason="The database default has no URL.")
    assert learnt(host, keep(place, "repository"))[0].run == DAYS[2]


def test_a_repository_that_is_named_is_learnt_from(place: Place) -> None:
    shutil.copytree(place.repository_path, place.top / "second")
    key = keep(place, "repository", "second")
    host = new_host(place, "new", "repository", "second")
    assert learnt(host, key, repository="second")[0].repository == "second"
    with pytest.raises(InputError, match="no repository 'bucket' to learn from; there is: repository, second"):
        learnt(host, key, repository="bucket")


def test_after_a_second_fire_a_fresh_key_vouches_for_the_points_of_both_hosts(place: Place) -> None:
    old = keep(place, "repository")
    second = new_host(place, "second", "repository")
    learnt(second, old)
    unescrowed = _escrow.out_of_date(second.layout, Storage())
    assert unescrowed is not None
    assert "`backstay escrow --to FILE`" in unescrowed
    one_more(place, NEWEST, key=second.layout.backup_key)
    fresh = place.top / "fresh.key"
    settings = {"repository": RepositorySettings(location=str(place.repository_path), own_disk=False)}
    keys = second.manifest_keys()
    _escrow.write(fresh, second.layout, settings, Storage(), at="2026-03-05T03:00:00Z", trusted=keys)
    assert _escrow.out_of_date(second.layout, Storage()) is None

    assert learnt(new_host(place, "third", "repository"), fresh)[0].run == NEWEST
    fourth = new_host(place, "fourth", "repository")
    assert learnt(fourth, fresh, wanted=DAYS[2])[0].run == DAYS[2]
    assert set(keys) < set(fourth.manifest_keys()), "its own key, and those of both hosts before it"
    assert recall(fresh, NAME, say=lambda line: None, root=place.top / "another").run == NEWEST
    with pytest.raises(GateRefused, match="signed by a stranger"):
        learnt(new_host(place, "fifth", "repository"), old)


def test_vaults_secrets_of_repositories_stay_where_they_open_them(place: Place) -> None:
    host = new_host(place, "new", "repository")
    mine = {"repository": {"password": PASSWORD, "region": "newer"}, "bucket": {"password": "of no key"}}
    host.storage.write(host.layout.backup_secrets, canonical({"format": 1, "repositories": mine}))
    assert learnt(host, keep(place, "repository", "second"))[0].repository == "repository"
    assert read_secrets(host.layout, Storage()) == {**mine, "second": {"password": PASSWORD}}


def test_what_vault_has_told_is_newer_than_the_key(place: Place) -> None:
    """Not only where the key's own password still opens the repository."""
    host = new_host(place, "new", "repository")
    host.storage.write(
        host.layout.backup_secrets, canonical({"format": 1, "repositories": {"repository": {"password": PASSWORD}}})
    )
    key = keep(place, "repository")
    kept = json.loads(key.read_text())
    kept["repositories"]["repository"]["secrets"] = {"password": "of last year"}
    key.write_text(json.dumps(kept))
    assert learnt(host, key)[0].repository == "repository"
    assert read_secrets(host.layout, Storage()) == {"repository": {"password": PASSWORD}}


def test_a_password_that_vault_did_not_learn_of_gives_way_to_the_one_that_opens(place: Place) -> None:
    host = new_host(place, "new", "repository")
    stale = {"repository": {"password": "from before it was changed"}}
    host.storage.write(host.layout.backup_secrets, canonical({"format": 1, "repositories": stale}))
    assert learnt(host, keep(place, "repository"))[0].run == DAYS[2]
    assert read_secrets(host.layout, Storage()) == {"repository": {"password": PASSWORD}}


# until the data are there


@pytest.fixture
def burned(place: Place, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A new host on which `rebuild` is run, and what its transaction's service sees of it."""
    layout = new_host(place, "new", "repository").layout
    layout.maintenance_flag.parent.mkdir(parents=True, exist_ok=True)
    found = SimpleNamespace(engine=Engine(layout), layout=layout, asked=[], fails="")
    key = keep(place, "repository")

    def call(_layout: Layout, _command: str, *, request: dict[str, Any], **_options: Any) -> dict[str, Any]:
        operation = request["operation"]
        found.asked.append((operation, layout.maintenance_flag.exists(), bool(layout.resting())))
        if operation == found.fails:
            raise BackstayError(f"The {operation} failed.", exit_code=3)
        if operation == "release":
            layout.active.symlink_to(layout.socket("0001-1.0.0"))
        return {"release": "0001-1.0.0"}

    def go() -> int:
        given = {"offline_key": str(key), "point": "latest", "repository": None, "isolated": False}
        options = argparse.Namespace(**given, by="ada", why="", json=True)
        return verbs.rebuild(options, found.engine, lambda *_told: None)

    monkeypatch.setattr(_client, "call", call)
    found.go = go
    return found


def restored(*only: str, undo: bool = False) -> Transaction:
    what = Restoring(generation="0002", before="0001", only=only, undo=undo)
    return Transaction(
        "t1", NAME, "restore", "0001-1.0.0", "0001-1.0.0", "1", "", Request("restore"), "now", restore=what
    )


def test_no_visitor_and_no_worker_meets_the_empty_application(burned: SimpleNamespace) -> None:
    assert burned.go() == 0
    assert burned.asked == [("release", True, True), ("restore", True, True)]
    with pytest.raises(GateRefused, match="is being rebuilt, and what is here is empty"):
        back_up(source_of(burned.engine))
    assert burned.engine._units("0001-1.0.0", web=False) == []
    for part in (restored("media:"), restored(undo=True)):
        assert burned.engine.do_open(part) == "left closed, until all data are restored"
    assert burned.layout.maintenance_flag.exists()
    for _twice in range(2):
        assert burned.engine.do_open(restored()) == "open"
        assert not burned.layout.maintenance_flag.exists()
        assert burned.layout.resting() == ""


def test_a_release_behind_a_closed_door_is_asked_for_its_health_alone(burned: SimpleNamespace) -> None:
    """nginx lets nothing else through it, so the front page would refuse every rebuild."""
    application = application_of(smoke=[{"name": "front", "path": "/"}])
    release = Transaction("t1", NAME, "release", "0001-1.0.0", None, "1", "", Request("release"), "now")

    def asked(through: Any) -> int:
        burned.layout.release("0001-1.0.0").mkdir(parents=True, exist_ok=True)
        return len(burned.engine._checks(application, Target.tcp("127.0.0.1", 443), through, release))

    assert asked("front_door") > 1
    burned.engine.close_for_rebuild("backstay restore")
    assert (asked("front_door"), asked("candidate") > 1) == (1, True)


def test_a_rebuild_that_fails_half_way_stays_closed_and_says_how_to_go_on(burned: SimpleNamespace) -> None:
    burned.fails = "release"
    with pytest.raises(BackstayError, match="the door stays closed: see to that, then run this again") as failed:
        burned.go()
    assert failed.value.exit_code == 3
    burned.fails = "restore"
    goes_on = f"backstay restore --point={DAYS[2]} --repository=repository {NAME}"
    with pytest.raises(BackstayError, match=re.escape(f"then run `{goes_on}`, which opens it")):
        burned.go()
    assert burned.layout.maintenance_flag.exists()
    with pytest.raises(InputError, match=re.escape(f"its data are still to come: run `{goes_on}`")):
        burned.go()


def test_a_door_that_a_person_closed_stays_closed_after_a_rebuild(burned: SimpleNamespace) -> None:
    burned.layout.maintenance_flag.write_text("ada, ticket 12\n")
    burned.go()
    assert burned.engine.do_open(restored()) == "left closed, as somebody wants it"
    assert burned.layout.resting() == "", "its workers come"
