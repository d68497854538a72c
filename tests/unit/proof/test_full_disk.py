"""A full disk says nothing about a restore point: it is neither refuted nor called proven, and nothing stays."""

from __future__ import annotations

from pathlib import Path

from ..backup.small_disk import on_a_small_disk


def test_a_proof_that_meets_a_full_disk_refutes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    told = on_a_small_disk(tmp_path, "tests.unit.proof.full_disk:struck")
    assert [each["moment"] for each in told] == ["fetch", "look"]
    for each in told:
        assert not each["refutes"], each
        assert each["left"] in ([], [".guard"]), each
        assert each["then"] == 4, "when there is room again"
    assert "full" in told[0]["said"], told[0]
    assert told[0]["level"] < 4
