"""The evidence of proofs: chained, readable, and without a secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _evidence
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._ledger import Entry, Ledger
from ansible_collections.backstay.ops.plugins.module_utils._proof import Finding, Proof
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage

STORAGE = Storage()
VERSIONS = _evidence.tools("restic 0.14.0 compiled with go1.19.8 on linux/amd64")


def proof(number: int, *findings: Finding, recovery: float = 10.0) -> Proof:
    level = findings[0].level - 1 if findings else 4
    return Proof(
        run=f"2026030{number}T020000000-1",
        repository="disk",
        level=level,
        asked=4,
        findings=findings,
        seconds=dict.fromkeys(range(1, (findings[0].level if findings else 4) + 1), 1.5),
        at=f"2026-03-0{number}T03:30:00Z",
        recovery_time_seconds=None if findings else recovery,
        recovery_point_seconds=3600.0,
        manifest_sha256="ab" * 32,
        snapshots={"data": "cd" * 32, "manifest": "ef" * 32},
        release="0001-1.0.0",
    )


def written(root: Path, *proofs: Proof, secrets: tuple[str, ...] = ()) -> tuple[Layout, list[Path]]:
    layout = Layout("portal", root)
    layout.state.mkdir(parents=True)
    paths = [
        _evidence.record(
            layout,
            STORAGE,
            each,
            host="web1",
            by="nightly",
            versions=VERSIONS,
            now=lambda: "2026-03-09T00:00:00Z",
            secrets=secrets,
        )
        for each in proofs
    ]
    return layout, paths


def entries(layout: Layout) -> tuple[Entry, ...]:
    return Ledger(layout.backups, STORAGE, lambda: "").read()


def test_evidence_says_who_when_with_what_and_how_it_ended(tmp_path: Path) -> None:
    layout, (path,) = written(tmp_path, proof(1))
    value = json.loads(path.read_bytes())
    assert path.name == "20260301T020000000-1.disk.1.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert value["format"] == 1
    assert (value["host"], value["by"], value["at"]) == ("web1", "nightly", "2026-03-01T03:30:00Z")
    assert set(value["tools"]) == {"backstay", "python", "sqlite", "restic", "system"}
    assert value["tools"]["restic"] == "restic 0.14.0"
    assert [level["ok"] for level in value["levels"]] == [True] * 4
    (entry,) = entries(layout)
    assert (entry.event, entry.release) == ("proven", "20260301T020000000-1")
    assert (entry.data["repository"], entry.data["level"]) == ("disk", 4)
    parts = proof(1).seconds
    assert entry.data["restoring_seconds"] == pytest.approx(parts[1] + parts[2] + parts[4])
    (found,) = _evidence.read(layout, STORAGE, entries(layout))
    assert found.ok
    assert _evidence.verify([found]) == ()


def test_evidence_that_was_changed_or_removed_is_seen(tmp_path: Path) -> None:
    layout, paths = written(tmp_path, proof(1), proof(2), proof(3))
    paths[0].write_bytes(paths[0].read_bytes().replace(b"web1", b"web2"))
    paths[2].unlink()
    found = _evidence.read(layout, STORAGE, entries(layout))
    assert [bool(each.fault) for each in found] == [True, False, True]
    said = _evidence.verify(found)
    assert "was changed after it was written" in said[0]
    assert "is missing" in said[1]
    assert said[0] in _evidence.report("portal", found, at="today")


def test_what_was_refuted_names_the_level_that_failed(tmp_path: Path) -> None:
    layout, _paths = written(tmp_path, proof(1, Finding(3, "A pack is damaged.")))
    (entry,) = entries(layout)
    assert (entry.event, entry.data["level"], entry.data["reason"]) == ("refuted", 3, "A pack is damaged.")
    assert _evidence.read(layout, STORAGE, [entry])[0].level == 2


def test_a_stale_repository_does_not_refute_the_point(tmp_path: Path) -> None:
    layout, _paths = written(tmp_path, proof(1, Finding(1, "It is too old.", refutes=False)))
    assert entries(layout)[0].event == "unproven"


def test_no_secret_is_in_the_evidence(tmp_path: Path) -> None:
    layout, (path,) = written(
        tmp_path, proof(1, Finding(5, "It said: no way, hunter2hunter2.")), secrets=("hunter2hunter2",)
    )
    assert b"hunter2hunter2" not in path.read_bytes() + layout.backups.read_bytes()


def test_the_report_tells_the_trend_of_recovery_time_and_point(tmp_path: Path) -> None:
    proofs = [proof(number, recovery=10.0 if number < 5 else 30.0) for number in range(1, 9)]
    layout, _paths = written(tmp_path, *proofs, proof(9, Finding(4, "The photograph a|b is missing.")))
    text = _evidence.report("portal", _evidence.read(layout, STORAGE, entries(layout)), at="2026-03-09T12:00:00Z")
    assert "9 proofs, 8 held and 1 did not" in text
    assert "Recovery time: now 30.0 s, middle 30.0 s, worst 30.0 s; the newer half against the older: +200 %" in text
    assert "Recovery point: now 60 min" in text
    assert "The photograph a\\|b is missing." in text
    assert "L4 restored in isolation, equal to the manifest: DOES NOT HOLD" in text


def test_a_report_without_proofs_says_what_to_do() -> None:
    assert "run `backstay verify --level L4`" in _evidence.report("portal", [], at="today")
