"""What a release needs of a host beside what runs there: disk, inodes, memory."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


def disk_refusal(what: str, needs: Sequence[tuple[Path, int]], *, spare: int) -> str | None:
    """Why `what` (such as "The release") does not fit on the disks, in one sentence with the remedy; None when it fits.
    `needs` are (place, bytes); places on one disk share what is free there, of which `spare` bytes must stay."""
    places: dict[int, list[tuple[Path, int]]] = defaultdict(list)
    for place, size in needs:
        if size:
            places[place.stat().st_dev].append((place, size))
    for on_it in places.values():
        disk = os.statvfs(on_it[0][0])
        needed, free = sum(size for _place, size in on_it) + spare, disk.f_bavail * disk.f_frsize
        if free < needed:
            return (
                f"{what} needs {mib(needed)} of disk in {' and '.join(str(place) for place, _size in on_it)}, and "
                f"{mib(free)} are free: free some, or keep fewer releases (releases.keep) or restore points "
                "(releases.keep_restore_points)."
            )
    return None


@dataclass(frozen=True)
class Room:
    """What a candidate needs and what there is; memory in bytes."""

    inodes_needed: int
    inodes_free: int
    memory_needed: int
    memory_available: int

    def refusal(self, *, warm: str | None) -> str | None:
        """Why it does not fit, in one sentence with the remedy; None when it fits."""
        if self.inodes_free < self.inodes_needed:
            return (
                f"The release needs {self.inodes_needed} inodes and {self.inodes_free} are free: "
                "remove small files, or keep fewer releases (releases.keep)."
            )
        if self.memory_available < self.memory_needed:
            offer = (
                f"release with keep_warm=false (--without-warm), which stops {warm} first and makes a rollback "
                "start it again"
                if warm
                else "free some memory, or lower processes.web.workers"
            )
            return (
                f"Three releases do not fit in memory: the candidate needs {mib(self.memory_needed)} beside what runs "
                f"and {mib(self.memory_available)} are available: {offer}."
            )
        return None


def mib(size_bytes: int) -> str:
    return f"{size_bytes / 1048576:.0f} MiB"
