"""A disk that becomes full at any step of a backup, the host's or the repository's: the last good point stays good, the
run says which disk it was, `status` says it too, and the next run is whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from .full_disk import MOMENTS
from .small_disk import on_a_small_disk


@pytest.mark.parametrize(("function", "moments"), [("struck", MOMENTS), ("store_struck", ("store", "seal"))])
def test_a_full_disk_leaves_the_last_good_point_and_is_told(tmp_path: Path, function: str, moments: list[str]) -> None:
    told = on_a_small_disk(tmp_path, f"tests.unit.backup.full_disk:{function}")
    assert [each["moment"] for each in told] == list(moments)
    for each in told:
        assert each["last_is_good"], each
        assert each["clean"], each
        assert each["next"] == [0, 3, []], each
        assert each["unfinished"] == 0, each
        assert "make room" in each["said"] or "free some" in each["said"], each
        assert "OSError" not in each["said"], each
        if "was not read back" not in each["said"]:  # then it is stored
            assert any("the last backup" in problem and "failed" in problem for problem in each["problems"]), each
        elif function == "struck":
            # Of two commands at once, either the one that restores or the other's secrets find no room.
            assert "a disk of this host" in each["said"] or "/run/backstay (No space" in each["said"], each
    assert "reached no repository" in told[0]["said"] or function == "struck"


def test_a_full_disk_while_old_points_go_takes_no_kept_one_with_them(tmp_path: Path) -> None:
    for each in on_a_small_disk(tmp_path, "tests.unit.backup.full_disk:expiry_struck"):
        assert each["last_is_good"], each
        assert "is good, and nothing expired" in each["said"], each
        assert "make room there" in each["said"], each
        assert each["next"] == [0, 3, []], each
        assert each["unfinished"] == 0, each
