"""A disk of so many blocks, for all that the library writes through its storage: what does not fit is refused as a full
file system refuses it, and what is removed makes room."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from .host import Quick

BLOCK = 4096


class FullDisk(Quick):
    """`blocks` are free. Names cost nothing, as in a directory that has room for one more."""

    def __init__(self, blocks: int = 1 << 40) -> None:
        self.blocks = blocks
        self.before: Callable[[Path], None] = lambda path: None  # what happens before each write

    def _take(self, path: Path, before: int, after: int) -> None:
        self.before(path)
        needed = _blocks(after) - _blocks(before)
        if needed > self.blocks:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        self.blocks -= needed

    def _create(self, path: Path, content: bytes, mode: int) -> None:
        super()._create(path, b"", mode)
        self._take(path, 0, len(content))
        path.write_bytes(content)

    def _append(self, path: Path, content: bytes, mode: int) -> None:
        before = _size(path)
        self._take(path, before, before + len(content))
        super()._append(path, content, mode)

    def _rename(self, source: Path, target: Path) -> None:
        freed = _blocks(_size(target))
        super()._rename(source, target)
        self.blocks += freed

    def _unlink(self, path: Path) -> None:
        freed = _blocks(_size(path))
        super()._unlink(path)
        self.blocks += freed

    def _truncate(self, path: Path, size_bytes: int) -> None:
        freed = _blocks(_size(path)) - _blocks(size_bytes)
        super()._truncate(path, size_bytes)
        self.blocks += freed

    def remove_tree(self, path: Path) -> None:
        freed = sum(_blocks(_size(each)) for each in path.rglob("*"))
        super().remove_tree(path)
        self.blocks += freed


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() and not path.is_symlink() else 0


def _blocks(size_bytes: int) -> int:
    return -(-size_bytes // BLOCK)
