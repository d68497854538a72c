"""Every durable write of Backstay.

A write has happened when it survives a power cut: content synced before the rename, directory synced after it. All
writes of the library pass through here, so that tests can put a disk beneath it that forgets what was not synced.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ._errors import BackstayError

_LEFT = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.new")  # what `_beside` names


class Storage:
    """A real disk. The methods with an underscore are the primitives that a test may replace."""

    # primitives

    def _create(self, path: Path, content: bytes, mode: int) -> None:
        """Create a new file with its content on the disk; fails where one exists."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            os.fchmod(descriptor, mode)  # the umask must not decide who may read a secret
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _append(self, path: Path, content: bytes, mode: int) -> None:
        """Append in one write and sync the file; what was only partly written (a full disk) is taken back."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            before = os.fstat(descriptor).st_size
            try:
                if os.write(descriptor, content) != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)

    def _rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)

    def _symlink(self, path: Path, target: str) -> None:
        os.symlink(target, path)

    def _unlink(self, path: Path) -> None:
        os.unlink(path)

    def _truncate(self, path: Path, size_bytes: int) -> None:
        with path.open("r+b") as file:
            file.truncate(size_bytes)
            os.fsync(file.fileno())

    def _make_directory(self, path: Path, mode: int) -> None:
        os.mkdir(path, mode)

    def _sync_file(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _sync_directory(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    # what the library uses

    def read(self, path: Path) -> bytes | None:
        """The content of a file, or None where there is none."""
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def write(self, path: Path, content: bytes, *, mode: int = 0o644, owner: tuple[int, int] | None = None) -> None:
        """Replace a file whole: whoever reads sees the old content or the new, also after a power cut.

        `owner` is (uid, gid). Raises BackstayError when the disk refuses (full, read-only, no permission).
        """
        temporary = self._beside(path)
        try:
            self._create(temporary, content, mode)
            if owner is not None:
                os.chown(temporary, *owner)
            self._rename(temporary, path)
            self._sync_directory(path.parent)
        except OSError as refused:
            self._forget(temporary)
            raise _refusal("write", path, refused) from refused

    def append(self, path: Path, line: bytes, *, mode: int = 0o600) -> None:
        """Append one line (the newline is added) and wait until it is on the disk."""
        # An empty file may be what a killed process left, before the sync of its name.
        fresh = not path.exists() or path.stat().st_size == 0
        try:
            self._append(path, line + b"\n", mode)
            if fresh:
                self._sync_directory(path.parent)
        except OSError as refused:
            if fresh:  # nothing was written: an empty file would look like the beginning of something
                self._forget(path)
            raise _refusal("append to", path, refused) from refused

    def truncate(self, path: Path, size_bytes: int) -> None:
        """Cut a file to a size: how a torn last line is dropped."""
        try:
            self._truncate(path, size_bytes)
        except OSError as refused:
            raise _refusal("truncate", path, refused) from refused

    def sync(self, path: Path) -> None:
        """Wait until a file and its name are on the disk, whoever wrote it: a process that was killed before its own
        sync left them where a power cut still takes them."""
        try:
            self._sync_file(path)
            self._sync_directory(path.parent)
        except OSError as refused:
            raise _refusal("sync", path, refused) from refused

    def link(self, path: Path, target: Path | str) -> None:
        """Point a symbolic link somewhere else in one rename(2): it exists, and is whole, at every moment."""
        temporary = self._beside(path)
        try:
            self._symlink(temporary, str(target))
            self._rename(temporary, path)
            self._sync_directory(path.parent)
        except OSError as refused:
            self._forget(temporary)
            raise _refusal("point the link", path, refused) from refused

    def rename(self, source: Path, target: Path) -> None:
        """Rename and sync both directories."""
        try:
            self._rename(source, target)
            self._sync_directory(target.parent)
            if source.parent != target.parent:
                self._sync_directory(source.parent)
        except OSError as refused:
            raise _refusal("rename to", target, refused) from refused

    def make_directory(self, path: Path, *, mode: int = 0o755) -> None:
        """Make a directory, and the ones above it, and sync their names: a sync of what is in a directory says nothing
        about its own name. One that is there keeps its mode, and its name is synced: whoever made it may have died."""
        missing = [path]
        while not missing[-1].parent.is_dir():
            missing.append(missing[-1].parent)
        try:
            for each in reversed(missing):
                with contextlib.suppress(FileExistsError):
                    self._make_directory(each, mode)
                self._sync_directory(each.parent)
        except OSError as refused:
            raise _refusal("make the directory", path, refused) from refused

    def remove(self, path: Path) -> None:
        """Remove a file or link, for good. One that is not there is fine, and stays away: whoever removed it may have
        been killed before that was on the disk."""
        try:
            with contextlib.suppress(FileNotFoundError):
                self._unlink(path)
            with contextlib.suppress(FileNotFoundError):
                self._sync_directory(path.parent)
        except OSError as refused:
            raise _refusal("remove", path, refused) from refused

    def remove_tree(self, path: Path) -> None:
        """Remove a directory with all that is in it, following no link; one that is not there is fine, and stays away.

        It is renamed first, and the rename is on the disk before anything in it goes, so that a removal that is cut
        short never leaves half a tree under the real name. What it leaves beside it then, `tidy` removes.
        """
        doomed = self._beside(path)
        try:
            with contextlib.suppress(FileNotFoundError):
                self._rename(path, doomed)
            with contextlib.suppress(FileNotFoundError):
                self._sync_directory(path.parent)
            if os.path.lexists(doomed):
                shutil.rmtree(doomed)
                self._sync_directory(path.parent)  # or a power cut brings back what nobody looks for any more
        except OSError as refused:
            raise _refusal("remove", path, refused) from refused

    def tidy(self, directory: Path, ours: Callable[[str], bool] = lambda name: True) -> None:
        """Remove what writes and removals that were cut short left in a directory, where `ours` says that the name they
        were for is one of the caller's. Only whoever holds the lock under which those are written may call it."""
        if not directory.is_dir():
            return
        for path in list(directory.iterdir()):
            found = _LEFT.fullmatch(path.name)
            if found is None or not ours(found["name"]):
                continue
            try:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    self._unlink(path)
            except FileNotFoundError:
                continue
            except OSError as refused:
                raise _refusal("remove", path, refused) from refused

    def sync_tree(self, path: Path) -> None:
        """Sync the file system that holds a freshly unpacked tree: far cheaper than a sync per file."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _syncfs(descriptor)
        finally:
            os.close(descriptor)

    def _beside(self, path: Path) -> Path:
        return path.with_name(f".{path.name}.{os.urandom(4).hex()}.new")

    def _forget(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            self._unlink(path)


def _syncfs(descriptor: int) -> None:
    """syncfs(2), which Python does not wrap; sync(2) where the C library has none."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    try:
        code = library.syncfs(descriptor)
    except AttributeError:
        os.sync()
        return
    if code != 0:
        number = ctypes.get_errno()
        raise BackstayError(
            f"The file system did not confirm a sync ({os.strerror(number)}): check the disk and `dmesg`."
        )


def _refusal(verb: str, path: Path, error: OSError) -> BackstayError:
    reason = error.strerror or str(error)
    remedy = {
        errno.ENOSPC: "free some space, then run it again",
        errno.EROFS: "the file system is read-only: check `dmesg` and the disk",
        errno.EACCES: "run it as root",
        errno.EPERM: "run it as root",
    }.get(error.errno or 0, "see `dmesg` and the mount of that path")
    return BackstayError(f"Could not {verb} {path}: {reason}; {remedy}.")


def canonical(value: Any) -> bytes:
    """JSON in the one form that is hashed and compared: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class Supposing(Storage):
    """A disk on which some files are read as if they had been written already; nothing else differs."""

    def __init__(self, files: Mapping[Path, bytes]) -> None:
        self._files = files

    def read(self, path: Path) -> bytes | None:
        return self._files[path] if path in self._files else super().read(path)
