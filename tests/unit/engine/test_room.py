"""The gate on room: disk, inodes and memory, each refused in one sentence with its remedy."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._room import Room, disk_refusal

MIB = 1 << 20
ENOUGH = Room(
    inodes_needed=2000,
    inodes_free=2000,
    memory_needed=300 * MIB,
    memory_available=300 * MIB,
)


def test_what_just_fits_is_let_in() -> None:
    assert ENOUGH.refusal(warm="0001-1.0.0") is None


@pytest.mark.parametrize(
    ("short", "warm", "said"),
    [
        (
            {"inodes_free": 1999},
            "0001-1.0.0",
            ["needs 2000 inodes and 1999 are free", "remove small files"],
        ),
        (
            {"memory_available": 120 * MIB},
            "0001-1.0.0",
            [
                "Three releases do not fit in memory",
                "needs 300 MiB beside what runs and 120 MiB are available",
                "keep_warm=false (--without-warm), which stops 0001-1.0.0 first",
            ],
        ),
        (
            {"memory_available": 120 * MIB},
            None,
            ["free some memory, or lower processes.web.workers"],
        ),
    ],
    ids=["inodes", "memory, with a warm release", "memory, without one"],
)
def test_what_is_short_is_named_with_its_remedy(short: dict[str, int], warm: str | None, said: list[str]) -> None:
    sentence = replace(ENOUGH, **short).refusal(warm=warm)
    assert sentence is not None
    for part in said:
        assert part in sentence
    assert "\n" not in sentence
    assert sentence.endswith(".")


@pytest.mark.parametrize(
    ("opt_var_and_elsewhere", "spare", "refused"),
    [
        ((100, 50, 400), 0, ""),
        ((101, 50, 0), 0, "The release needs 151 MiB of disk in {opt} and {var}, and 150 MiB are free"),
        ((100, 0, 0), 51, "needs 151 MiB of disk in {opt}, and 150 MiB are free"),
        ((100, 0, 400), 1, "needs 401 MiB of disk in /proc, and 400 MiB are free"),
        ((0, 0, 0), 9999, ""),
    ],
    ids=["fits", "two places on one disk", "what must stay", "another disk", "nothing is needed"],
)
def test_each_disk_is_asked_for_what_comes_to_it(
    opt_var_and_elsewhere: tuple[int, int, int],
    spare: int,
    refused: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """/var may lie on a disk of its own: restore points are made there, and releases below /opt."""
    here = {name: tmp_path / name for name in ("opt", "var")}
    for place in here.values():
        place.mkdir()
    free = {Path("/proc"): 400}
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=free.get(path, 150), f_frsize=MIB))
    places = (*here.values(), Path("/proc"))
    needs = [(place, size * MIB) for place, size in zip(places, opt_var_and_elsewhere, strict=True)]
    sentence = disk_refusal("The release", needs, spare=spare * MIB)
    if not refused:
        assert sentence is None
        return
    assert sentence is not None
    assert refused.format(**here) in sentence
    assert "keep fewer releases (releases.keep)" in sentence
