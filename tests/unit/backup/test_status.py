"""What `status` calls a problem about backups, and how a drill on another host becomes known on the one that made the
restore point."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _evidence
from ansible_collections.backstay.ops.plugins.module_utils._backup_settings import BackupPolicy, ProofPolicy
from ansible_collections.backstay.ops.plugins.module_utils._backup_settings import RepositorySettings as Settings
from ansible_collections.backstay.ops.plugins.module_utils._backup_status import fold, metrics
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
