"""What `status` calls a problem about backups, and how a drill on another host becomes known on the one that made the
restore point."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _evidence
from ansible_collections.backstay.ops.plugins.module_utils._application import Application
from ansible_collections.backstay.ops.plugins.module_utils._backup_settings import BackupPolicy, ProofPolicy
from ansible_collections.backstay.ops.plugins.module_utils._backup_settings import RepositorySettings as Settings
from ansible_collections.backstay.ops.plugins.module_utils._backup_status import (
    backup_facts,
    backup_lines,
    fold,
    metrics,
)
from ansible_collections.backstay.ops.plugins.module_utils._catalogue import catalogue, points
from ansible_collections.backstay.ops.plugins.module_utils._errors import InputError
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage

POLICY = BackupPolicy({"disk": Settings(location="/srv/backup")}, proof=ProofPolicy(nightly=None))
RUN, OLD = "20260201T020000000-1", "20260101T020000000-1"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A host with a point of the first of January, and one of the first of February."""
    layout = Layout("portal", tmp_path)
    layout.state.mkdir(parents=True)
    chain = catalogue(layout, Storage(), lambda: "2026-02-01T02:00:00Z")
    for run, at in ((OLD, "2026-01-01T02:00:00Z"), (RUN, "2026-02-01T02:00:00Z")):
        chain.append("made", run, at=at, release="0001-1.0.0", manifest=f"manifest of {run}", rows=1, size_bytes=1)
        chain.append("stored", run, repository="disk", id="r", snapshot=f"s-{run}", tree="t", manifest_snapshot="m")
    return layout


def _drills(layout: Layout, day: int) -> list[str]:
    now = dt.datetime(2026, 2, 1, 3, tzinfo=dt.UTC) + dt.timedelta(days=day)
    policy = BackupPolicy(POLICY.repositories, max_age_hours=10000, proof=POLICY.proof)
    return [each for each in fold(points(layout, Storage()), policy, now)["problems"] if "drill" in each]


def _about_the_key(layout: Layout) -> list[str]:
    facts = backup_facts(layout, Storage(), mock.Mock(spec=Application, backup=POLICY))
    assert facts is not None
    return [each for each in facts["problems"] if "offline key" in each]


def test_a_key_that_vouches_for_nothing_new_is_a_problem(layout: Layout) -> None:
    layout.configuration.mkdir(parents=True)
    layout.backup_key.with_name("backup_key.pub").write_text("ssh-ed25519 AAAA host\n")
    assert not _about_the_key(layout)
    layout.trusted_keys.write_text("ssh-ed25519 BBBB before\n")
    assert _about_the_key(layout)


# what does not go

SHRUNK = "The restore point has 20 rows and the one before it has 200: run `backstay backup --accept-shrink`."


def _told(layout: Layout, day: float = 0.0, **given: Any) -> dict[str, Any]:
    """The facts, so many days after the newest point."""
    now = dt.datetime(2026, 2, 1, 3, tzinfo=dt.UTC) + dt.timedelta(days=day)
    patient = replace(POLICY, max_age_hours=10000, proof=ProofPolicy(nightly=None, level5_max_age_days=3650))
    return fold(points(layout, Storage()), patient, now, **given)


def _append(layout: Layout, event: str, *, day: float = 0.0, run: str = RUN, **data: Any) -> None:
    at = dt.datetime(2026, 2, 1, 2, tzinfo=dt.UTC) + dt.timedelta(days=day)
    catalogue(layout, Storage(), lambda: f"{at:%Y-%m-%dT%H:%M:%SZ}").append(event, run, repository="disk", **data)


def _day(layout: Layout, day: int) -> str:
    """A run so many days after the newest point."""
    run = f"202602{day + 1:02}T020000000-1"
    at = f"2026-02-{day + 1:02}T02:00:00Z"
    chain = catalogue(layout, Storage(), lambda: at)
    chain.append("made", run, at=at, release="0001-1.0.0", manifest=f"manifest of {run}", rows=1, size_bytes=1)
    chain.append("stored", run, repository="disk", id="r", snapshot=f"s-{run}", tree="t", manifest_snapshot="m")
    return run


def test_an_anomaly_that_holds_retention_back_is_a_problem_until_a_person_has_looked(layout):
    now = dt.datetime(2026, 2, 1, 3, tzinfo=dt.UTC)
    _append(layout, "retained", run=OLD)
    assert _told(layout)["problems"] == []
    _append(layout, "kept_back", reason=SHRUNK)
    facts = _told(layout)
    assert facts["problems"] == [f"disk: {SHRUNK.rstrip('.')}"]
    assert facts["repositories"]["disk"]["kept_back"] == SHRUNK
    assert 'backstay_backup_kept_back{application="portal",repository="disk"} 1' in metrics("portal", facts, now)
    assert any("--accept-shrink" in line for line in backup_lines(facts))
    catalogue(layout, Storage(), lambda: "2026-02-01T03:00:00Z").append("accepted", RUN)
    assert _told(layout)["problems"] == []
    _append(layout, "retained")
    facts = _told(layout)
    assert facts["repositories"]["disk"]["retained_at"] == "2026-02-01T02:00:00Z"
    said = metrics("portal", facts, now)
    assert 'backstay_backup_kept_back{application="portal",repository="disk"} 0' in said
    assert 'backstay_backup_retention_timestamp_seconds{application="portal",repository="disk"} 1769911200' in said


@pytest.mark.parametrize("ends", [{"event": "kept_back", "reason": "It is locked.", "failed": True}, None])
def test_retention_that_has_not_succeeded_for_a_week_of_backups_is_a_problem(layout, ends):
    """A lock that nobody takes away, or a process that is killed each night, ends no backup; it must be told all the
    same."""
    _append(layout, "retained")
    for day in range(1, 9):
        run = _day(layout, day)
        _append(layout, "expiring", day=day, run=run, runs=[OLD])
        if ends is not None:
            _append(layout, day=day, run=run, **ends)
        assert _told(layout, day)["problems"] == []
    run = _day(layout, 9)
    (sentence,) = _told(layout, 9)["problems"]
    assert sentence.startswith("disk: retention has not succeeded for 8 d (")
    assert ("It is locked" if ends else "cut short") in sentence
    _append(layout, "retained", day=9, run=run)
    assert _told(layout, 9)["problems"] == []


def test_where_no_backup_is_made_retention_is_not_blamed_as_well(layout):
    _append(layout, "retained")
    assert _told(layout, 20)["problems"] == []


# each repository by itself

THREE = {name: Settings(location=f"/srv/{name}") for name in ("disk", "bucket", "far")}


def _nightly(layout: Layout, proofs: dict[int, str], last: int, *, first: int = 2, added: int = 0) -> dict[str, Any]:
    """A point each night, in `bucket` from the night `added` on, one proof, and the facts an hour after the last."""
    for night in range(first, last + 1):
        clock = f"2026-02-{night:02}T03:30:00Z"
        chain = catalogue(layout, Storage(), lambda at=clock: at)  # type: ignore[misc]  # the clock of that night
        run = f"202602{night:02}T020000000-1"
        at = f"2026-02-{night:02}T02:00:00Z"
        chain.append("made", run, at=at, release="0001-1.0.0", manifest=f"manifest of {run}", rows=1, size_bytes=1)
        for name in THREE:
            if name != "bucket" or night >= added:
                chain.append("stored", run, repository=name, id="r", snapshot=run, tree="t", manifest_snapshot="m")
        if night in proofs:
            chain.append("proven", run, repository=proofs[night], level=4, asked=4, seconds=1.0)
    policy = replace(POLICY, repositories=THREE, proof=ProofPolicy(level5_max_age_days=3650))
    return fold(points(layout, Storage()), policy, dt.datetime(2026, 2, last, 4, 30, tzinfo=dt.UTC))


def test_a_bucket_that_is_never_proven_is_a_problem_behind_a_good_disk(layout):
    turns = ("disk", "far")
    proofs = {night: turns[night % 2] for night in range(2, 20)}
    facts = _nightly(layout, proofs, 4)
    assert facts["problems"] == []
    assert facts["repositories"]["bucket"]["last_proven"] is None
    facts = _nightly(layout, proofs, 6, first=5)
    (sentence,) = facts["problems"]
    assert sentence.startswith("in 97 h nothing in the repository bucket was proven (L4), allowed are 78 h with 3 repo")
    assert sentence.endswith("run `backstay verify --level L4 --repository bucket`")
    assert facts["repositories"]["disk"]["last_proven"] == {
        "level": 4,
        "at": "2026-02-06T03:30:00Z",
        "age_seconds": 3600.0,
    }


def test_a_repository_whose_turn_has_passed_is_a_problem_and_one_whose_turn_comes_is_not(layout):
    in_turn = {night: ("disk", "bucket", "far")[night % 3] for night in range(2, 9)}
    assert _nightly(layout, in_turn, 8)["problems"] == []


def test_a_proof_that_is_older_than_a_round_is_a_problem_of_its_repository(layout):
    proofs = {2: "bucket", 3: "disk", 4: "far", 5: "disk", 6: "far"}
    (sentence,) = _nightly(layout, proofs, 6)["problems"]
    assert sentence.startswith("the repository bucket was last proven (L4) 97 h ago, allowed are 78 h with 3 repo")


def test_a_repository_that_holds_points_only_since_yesterday_is_not_late(layout):
    turns = {night: ("disk", "far")[night % 2] for night in range(2, 12)}
    assert _nightly(layout, turns, 9, added=7)["problems"] == []


def test_after_the_catalogue_was_written_anew_each_repository_has_its_turn_first(layout):
    """Its points are old, and who proved what is forgotten."""
    for name in THREE:
        stored = {"id": "r", "snapshot": f"s-{OLD}", "tree": "t", "manifest_snapshot": "m"}
        catalogue(layout, Storage(), lambda: "2026-02-01T02:00:00Z").append("stored", OLD, repository=name, **stored)
    assert _nightly(layout, {2: "disk", 3: "far"}, 3)["problems"] == []


# how long deleted data survive


def test_a_point_that_is_kept_for_longer_counts_by_how_old_it_is(layout):
    """One that was proven to L5 stays for as long as none is proven higher, whatever the policy's weeks are."""
    assert _told(layout)["repositories"]["disk"]["greatest_age_days"] == 32  # of the first of January
    catalogue(layout, Storage(), lambda: "t").append("expired", OLD, repository="disk")
    assert _told(layout)["repositories"]["disk"]["greatest_age_days"] == 29
    facts = _told(layout, 89)
    assert facts["repositories"]["disk"]["greatest_age_days"] == 90
    assert "disk: 1 points, deleted data up to 90 d" in backup_lines(facts)[1]


def test_where_nobody_removes_anything_deleted_data_survive_without_end(layout):
    facts = _told(layout, unpruned=("disk",))
    assert facts["repositories"]["disk"]["greatest_age_days"] is None
    assert "deleted data without end" in backup_lines(facts)[1]
    now = dt.datetime(2026, 2, 1, 3, tzinfo=dt.UTC)
    assert 'backstay_backup_deleted_data_days{application="portal",repository="disk"} inf' in metrics(
        "portal", facts, now
    )
    catalogue(layout, Storage(), lambda: "t").append("expired", OLD, repository="disk")
    assert _told(layout, unpruned=("disk",))["repositories"]["disk"]["greatest_age_days"] == 29  # somebody does


@pytest.mark.parametrize(("secrets", "days"), [({}, None), ({"prune": {"access_key_id": "k"}}, 32), (None, None)])
def test_without_credentials_for_pruning_an_append_only_repository_keeps_all(layout, secrets, days):
    settings = Settings(location="s3:https://h/b/p", append_only=True)
    application = mock.create_autospec(Application, instance=True)
    application.backup = replace(POLICY, repositories={"disk": settings})
    if secrets is not None:
        layout.configuration.mkdir(parents=True)
        layout.backup_secrets.write_text(json.dumps({"format": 1, "repositories": {"disk": secrets}}))
    facts = backup_facts(layout, Storage(), application, now=dt.datetime(2026, 2, 1, 3, tzinfo=dt.UTC))
    assert facts is not None
    assert facts["repositories"]["disk"]["greatest_age_days"] == days
    said = "up to 32 d, or longer: whether the bucket keeps versions is not known" if days else "nobody removes any"
    assert said in backup_lines(facts)[1]


def _evidence_of(**changed: Any) -> bytes:
    levels = tuple({"level": n, "says": "", "ok": True, "seconds": 2.0, "findings": []} for n in range(1, 6))
    found = _evidence.Evidence(
        application="portal",
        run=RUN,
        repository="disk",
        host="staging1",
        by="drill",
        at="2026-02-02T05:00:00Z",
        asked=5,
        level=5,
        event="proven",
        tools={},
        manifest_sha256=f"manifest of {RUN}",
        snapshots={"data": f"s-{RUN}", "manifest": "m"},
        levels=levels,
        release="0001-1.0.0",
    )
    value = {name: item for name, item in asdict(found).items() if name not in ("fault", "name")}
    return json.dumps({**value, **changed}).encode()


def _adopt(layout: Layout, content: bytes) -> bool:
    known = points(layout, Storage())
    return _evidence.adopt(layout, Storage(), content, known, now=lambda: "2026-02-02T06:00:00Z")[1]


def test_a_run_that_never_said_how_it_ended_is_a_problem_when_it_can_no_longer_be_under_way(layout):
    run = "20260202T020000000-1"
    catalogue(layout, Storage(), lambda: "2026-02-02T02:00:00Z").append("begun", run, at="2026-02-02T02:00:00Z")

    def told(hours: float) -> list[str]:
        now = dt.datetime(2026, 2, 2, 2, tzinfo=dt.UTC) + dt.timedelta(hours=hours)
        return [each for each in fold(points(layout, Storage()), POLICY, now)["problems"] if run in each]

    assert told(3) == []
    (sentence,) = told(5)
    assert "never said how it ended" in sentence


def test_no_drill_for_35_days_is_a_problem_counted_from_the_first_backup_on(layout):
    assert _drills(layout, 3) == []
    (sentence,) = _drills(layout, 5)
    assert "in 36 d there was no drill (L5), allowed are 35" in sentence
    assert "playbooks/drill.yml" in sentence


def test_a_drill_elsewhere_is_written_down_once_and_status_goes_by_it(layout):
    assert _adopt(layout, _evidence_of())
    assert not _adopt(layout, _evidence_of()), "it is known already"
    (point,) = (point for point in points(layout, Storage()) if point.run == RUN)
    assert (point.level, point.proven_at) == (5, "2026-02-02T05:00:00Z")
    assert _drills(layout, 35) == []
    assert "the last drill (L5) is 36 d old" in _drills(layout, 37)[0]
    entries = catalogue(layout, Storage(), lambda: "").read()
    assert _evidence.verify(_evidence.read(layout, Storage(), entries)) == ()
    now = dt.datetime(2026, 2, 3, tzinfo=dt.UTC)
    facts = fold(points(layout, Storage()), POLICY, now)
    assert 'backstay_backup_drill_timestamp_seconds{application="portal"} 1770008400' in metrics("portal", facts, now)


def test_a_drill_that_failed_refutes_the_point_here_too(layout):
    bad = [
        {"level": 1, "says": "", "ok": True, "seconds": 1.0, "findings": []},
        {"level": 2, "says": "", "ok": False, "seconds": 1.0, "findings": ["A pack is missing."]},
    ]
    _adopt(layout, _evidence_of(event="refuted", level=1, levels=bad))
    (point,) = (point for point in points(layout, Storage()) if point.run == RUN)
    assert point.refuted == "A pack is missing."
    assert point.repositories["disk"].refuted_level == 2


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"run": "20260301T020000000-1"}, "knows no such restore point"),
        ({"application": "another"}, "knows no such restore point"),
        ({"event": "deleted"}, "knows no such restore point"),
        ({"repository": "bucket"}, "not about the one that this host has made"),
        ({"manifest_sha256": "other"}, "not about the one that this host has made"),
        ({"snapshots": {"data": "other"}}, "not about the one that this host has made"),
        ({"levels": 5}, "no evidence of a proof"),
    ],
)
def test_evidence_about_anything_else_is_refused(layout, changed, said):
    before = layout.backups.read_bytes()
    with pytest.raises(InputError, match=said):
        _adopt(layout, _evidence_of(**changed))
    with pytest.raises(InputError, match="no evidence"):
        _adopt(layout, b"[]")
    assert layout.backups.read_bytes() == before
