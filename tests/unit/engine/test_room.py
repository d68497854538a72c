"""The gate on room: disk, inodes and memory, each refused in one sentence with its remedy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._room import Room

MIB = 1 << 20
ENOUGH = Room(
    disk_needed=100 * MIB,
    disk_free=100 * MIB,
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
            {"disk_free": 99 * MIB},
            "0001-1.0.0",
            ["needs 100 MiB of disk and 99 MiB are free", "keep fewer releases (releases.keep)"],
        ),
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
    ids=["disk", "inodes", "memory, with a warm release", "memory, without one"],
)
def test_what_is_short_is_named_with_its_remedy(short: dict[str, int], warm: str | None, said: list[str]) -> None:
    sentence = replace(ENOUGH, **short).refusal(warm=warm)
    assert sentence is not None
    for part in said:
        assert part in sentence
    assert "\n" not in sentence
    assert sentence.endswith(".")


def test_the_disk_is_named_before_what_else_is_short() -> None:
    nothing = replace(ENOUGH, disk_free=0, inodes_free=0, memory_available=0)
    assert "of disk" in (nothing.refusal(warm=None) or "")
