"""What a release needs of a host beside what runs there: disk, inodes, memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Room:
    """What a candidate needs and what there is; memory and disk in bytes."""

    disk_needed: int
    disk_free: int
    inodes_needed: int
    inodes_free: int
    memory_needed: int
    memory_available: int

    def refusal(self, *, warm: str | None) -> str | None:
        """Why it does not fit, in one sentence with the remedy; None when it fits."""
        if self.disk_free < self.disk_needed:
            return (
                f"The release needs {mib(self.disk_needed)} of disk and {mib(self.disk_free)} are free: "
                "free some, or keep fewer releases (releases.keep)."
            )
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
