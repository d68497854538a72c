"""The file systems of this host that may fill up, and how full they are. Nothing that could let whoever asks wait for a
server is asked: neither what lies across the network, nor what is mounted below it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from ._samples import Mount

_TMPFS_PLACES = ("/run", "/dev", "/sys", "/proc")
_KINDS = frozenset(
    ("bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "fuseblk", "jfs", "ntfs3", "overlay", "reiserfs")
) | frozenset(("tmpfs", "vfat", "xfs", "zfs"))
# Of the kernel, or without a server: a path through these keeps nobody waiting.
_PSEUDO = ("bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs", "fusectl", "hugetlbfs")
_LOCAL = ("erofs", "iso9660", "mqueue", "nsfs", "proc", "pstore", "ramfs", "securityfs", "squashfs", "sysfs", "tracefs")
_PROMPT = _KINDS.union(_PSEUDO, _LOCAL)


def mount_points(text: str, is_directory: Callable[[str], bool] = os.path.isdir) -> list[str]:
    """The mounts that may fill up, from /proc/self/mountinfo: each file system once, by its shortest path that is a
    directory (containers mount single files). None of the kernel, none that cannot be written, none across the network,
    and none whose path leads through one of those: what is not known to answer at once is not asked."""
    table: dict[str, tuple[str, str, bool]] = {}  # by path: device, kind, whether it can be written
    for row in text.splitlines():
        before, _dash, after = row.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) < 6 or len(kinds) < 3:
            continue
        path = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
        written = "ro" not in fields[5].split(",") and "ro" not in kinds[2].split(",")
        table[path] = (fields[2], kinds[0], written)  # the last one at a path is what is seen there
    slow = tuple(f"{path}/" for path, (_device, kind, _written) in table.items() if kind not in _PROMPT and path != "/")
    found: dict[str, str] = {}
    for path, (device, kind, written) in sorted(table.items(), key=lambda each: (len(each[0]), each[0])):
        if kind not in _KINDS or not written or device in found or path.startswith(slow):
            continue
        if kind == "tmpfs" and any(path == top or path.startswith(f"{top}/") for top in _TMPFS_PLACES):
            continue
        if is_directory(path):
            found[device] = path
    return sorted(found.values())


def mount(path: str, statvfs: Callable[[str], os.statvfs_result] = os.statvfs) -> Mount | None:
    """How full a file system is for whoever is not root, as df has it; None where it cannot be asked."""
    try:
        disk = statvfs(path)
    except OSError:
        return None
    usable = disk.f_blocks - disk.f_bfree + disk.f_bavail
    used = (disk.f_blocks - disk.f_bfree) / usable if usable > 0 else 0.0
    inodes = (disk.f_files - disk.f_ffree) / disk.f_files if disk.f_files else 0.0
    return Mount(path, usable * disk.f_frsize, disk.f_bavail * disk.f_frsize, round(used, 4), round(inodes, 4))
