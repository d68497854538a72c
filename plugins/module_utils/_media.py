"""The media of an application, held still for a backup by hard links, and what is in them.

Uploads are written before the rows that name them, and rows go before their files do; so the files are linked before
the databases are copied and once more after it: what a copy names is then among the links, whatever was deleted
meanwhile. The application owns what is looked at here, so every directory is opened below its parent and no link is
followed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ._errors import BackstayError
from ._manifest import MediaFile

WORKERS = 2
DEPTH = 100
_FILES_AT_ONCE = 64
_BLOCK_BYTES = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_GONE = (FileNotFoundError, NotADirectoryError)


@dataclass(frozen=True)
class Frozen:
    """What a freeze did: how many files the stage holds, how many were linked now and removed from it, and what was
    left out, as (path, kind): symlinks and special files."""

    files: int
    linked: int
    dropped: int
    skipped: tuple[tuple[str, str], ...] = ()


def freeze(
    media: Path,
    stage: Path,
    *,
    first: bool,
    data: Path | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Frozen:
    """Link every regular file below `media` to the same place below `stage`. `data` is the directory above `media`
    whose name is root's own, and may be a link; below it all is the application's. None: that right above the media.

    With `first` the stage becomes as the media are: what it holds of an earlier run and is there no more goes. Without,
    everything that the stage holds stays, and what is new comes in addition; a file that was replaced meanwhile is the
    new one. Directories are made with the mode and owner that they have.

    Raises BackstayError where the media are missing, are a link or behind one, lie on another file system than the
    stage (as a whole or in part), or are deeper than 100 directories, and when the disk refuses.
    """
    say(f"Linking the files below {media}.")
    data = data or media.parent
    source = open_media(data, PurePosixPath(media.relative_to(data)))
    work = _Freeze(media, first=first)
    try:
        stage.mkdir(mode=0o700, parents=True, exist_ok=True)
        target = os.open(stage, _DIRECTORY)
        try:
            work.device = os.fstat(target).st_dev
            work.directory(source, target, "", 0)
        finally:
            os.close(target)
    except OSError as refused:
        raise BackstayError(
            f"The media {media} could not be linked to {stage} ({refused.strerror or refused}): see the disk and "
            "`dmesg`, then run it again."
        ) from refused
    finally:
        os.close(source)
    return Frozen(work.files, work.linked, work.dropped, tuple(sorted(work.skipped)))


def open_media(data: Path, media: PurePosixPath) -> int:
    """The directory of the media, opened step by step below `data`: the name of `data` may be a link, which is root's,
    and nothing below it, which the application could turn to the files of another. Raises BackstayError."""
    try:
        root = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return _open_below(root, str(media), _DIRECTORY)
        finally:
            os.close(root)
    except OSError as refused:
        steps = (data.joinpath(*media.parts[: number + 1]) for number in range(len(media.parts)))
        link = next((step for step in steps if step.is_symlink()), None)
        if link is not None:
            raise BackstayError(
                f"{link} is a link, and none of the application's is followed, so nothing was backed up: find out who "
                "made it, and put the directory itself there."
            ) from refused
        raise BackstayError(
            f"The media {data / media} cannot be opened ({refused.strerror}), so nothing was backed up: is it mounted? "
            "Look at the data directory, and at `media` in the application's file."
        ) from refused


class _Freeze:
    """One walk over the media and the stage at once."""

    def __init__(self, media: Path, *, first: bool) -> None:
        self.media = media
        self.first = first
        self.device = 0
        self.files = self.linked = self.dropped = 0
        self.skipped: list[tuple[str, str]] = []

    def directory(self, source: int, target: int, path: str, depth: int) -> None:
        """Bring one directory of the stage up; `path` is "" or ends with a slash."""
        self._check(source, path, depth)
        found = os.fstat(source)
        os.fchown(target, found.st_uid, found.st_gid)
        os.fchmod(target, stat.S_IMODE(found.st_mode) | stat.S_IRWXU)
        held = {entry.name: entry for entry in _entries(target)}
        inner = []
        for entry in _entries(source):
            if entry.is_symlink():
                self.skipped.append((path + entry.name, "symlink"))
            elif entry.is_dir(follow_symlinks=False):
                inner.append(entry.name)
            elif entry.is_file(follow_symlinks=False):
                before = held.pop(entry.name, None)
                if before is not None and before.inode() == entry.inode() and before.is_file(follow_symlinks=False):
                    self.files += 1
                else:
                    self._link(source, target, path, entry.name, replaces=before is not None)
            else:
                self.skipped.append((path + entry.name, "special file"))
        for name in inner:
            before = held.pop(name, None)
            self._inner(source, target, path, name, depth, replaces=before)
        for name, entry in held.items():
            self._left(target, name, entry)

    def _check(self, source: int, path: str, depth: int) -> None:
        if os.fstat(source).st_dev != self.device:
            where = self.media / path if path else self.media
            raise BackstayError(
                f"{where} is on another file system than the backup's stage, so its files cannot be held still by hard "
                "links: move it to the file system of the data, or unmount it."
            )
        if depth > DEPTH:
            raise BackstayError(f"{self.media / path} is more than {DEPTH} directories deep: look at what makes them.")

    def _link(self, source: int, target: int, path: str, name: str, *, replaces: bool) -> None:
        # Under another name first: a file that goes at this moment must not take the one with it that is held already.
        beside = f".{secrets.token_hex(16)}" if replaces else name
        try:
            os.link(name, beside, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        except _GONE:
            self.files += replaces
            return  # deleted at this moment
        except OSError as refused:
            if refused.errno != errno.EXDEV:
                raise
            raise BackstayError(
                f"{self.media / path / name} is on another file system than the backup's stage, so it cannot be held "
                "still by a hard link: move it to the file system of the data, or unmount it."
            ) from refused
        made = os.stat(beside, dir_fd=target, follow_symlinks=False)
        if not stat.S_ISREG(made.st_mode):  # it was exchanged at this moment
            os.unlink(beside, dir_fd=target)
            self.skipped.append((path + name, "symlink" if stat.S_ISLNK(made.st_mode) else "special file"))
            self.files += replaces
            return
        if replaces:
            _exchange(target, beside, name)
        self.files += 1
        self.linked += 1

    def _inner(
        self, source: int, target: int, path: str, name: str, depth: int, *, replaces: os.DirEntry[str] | None
    ) -> None:
        try:
            below = os.open(name, _DIRECTORY, dir_fd=source)
        except (*_GONE, OSError) as gone:
            if gone.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            return  # deleted or exchanged at this moment
        try:
            if replaces is not None and not replaces.is_dir(follow_symlinks=False):
                _remove(target, name)
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=target)
            here = os.open(name, _DIRECTORY, dir_fd=target)
            try:
                self.directory(below, here, f"{path}{name}/", depth + 1)
            finally:
                os.close(here)
        finally:
            os.close(below)

    def _left(self, target: int, name: str, entry: os.DirEntry[str]) -> None:
        """What the stage holds and the media no longer do."""
        inside = _count(target, name) if entry.is_dir(follow_symlinks=False) else 1
        if self.first:
            _remove(target, name)
            self.dropped += inside
        else:
            self.files += inside


def _entries(directory: int) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as stream:
        return list(stream)


def _count(directory: int, name: str) -> int:
    with contextlib.suppress(*_GONE):
        return sum(len(files) for _path, _inner, files, _at in os.fwalk(name, dir_fd=directory, follow_symlinks=False))
    return 0


def _exchange(directory: int, beside: str, name: str) -> None:
    """Put a file in the place of what the stage has there."""
    try:
        os.rename(beside, name, src_dir_fd=directory, dst_dir_fd=directory)
    except IsADirectoryError:
        _remove(directory, name)
        os.rename(beside, name, src_dir_fd=directory, dst_dir_fd=directory)
    with contextlib.suppress(FileNotFoundError):  # a rename onto the same file, which came back meanwhile, does nothing
        os.unlink(beside, dir_fd=directory)


def _remove(directory: int, name: str) -> None:
    """Remove a file or a tree of the stage. Following no link, although nobody but root can get there."""
    try:
        os.unlink(name, dir_fd=directory)
    except IsADirectoryError:
        shutil.rmtree(name, dir_fd=directory)


# what is in them


def hash_tree(
    directory: Path,
    known: Mapping[str, MediaFile] | None = None,
    *,
    workers: int = WORKERS,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda sentence: None,
) -> dict[str, MediaFile]:
    """Size and SHA-256 of every regular file below a directory, by path, in an order that depends on the paths alone.

    A file that has the size and the time of change that `known` says keeps the digest that it says. Once `stop` says
    so, only what was found till then returns. Raises BackstayError when one cannot be read.
    """
    say(f"Hashing the files below {directory}.")
    known = known or {}
    found: dict[str, MediaFile] = {}
    try:
        root = os.open(directory, _DIRECTORY)
    except OSError as refused:
        raise BackstayError(f"{directory} cannot be read ({refused.strerror}): see the disk and `dmesg`.") from refused
    waiting: list[Future[list[tuple[str, MediaFile]]]] = []
    try:
        with ThreadPoolExecutor(workers) as pool:
            for batch in _batches(root):
                if stop():
                    break
                waiting.append(pool.submit(_hash_batch, root, batch, known, stop))
                if len(waiting) > workers * 4:
                    found.update(waiting.pop(0).result())
            for future in waiting:
                found.update(future.result())
    except OSError as refused:
        name = f" {refused.filename}" if refused.filename else ""
        raise BackstayError(
            f"A file{name} below {directory} could not be read ({refused.strerror}): see the disk and `dmesg`."
        ) from refused
    finally:
        os.close(root)
    return found


def _batches(root: int) -> Iterator[list[str]]:
    batch: list[str] = []
    for path in _files(root, "", 0):
        batch.append(path)
        if len(batch) == _FILES_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _files(directory: int, path: str, depth: int) -> Iterator[str]:
    """Paths of regular files below an open directory, sorted name by name within each directory."""
    if depth > DEPTH:
        raise BackstayError(f"{path} is more than {DEPTH} directories deep: look at what makes them.")
    for entry in sorted(_entries(directory), key=lambda each: each.name):
        if entry.is_file(follow_symlinks=False):
            yield path + entry.name
        elif entry.is_dir(follow_symlinks=False):
            try:
                below = os.open(entry.name, _DIRECTORY, dir_fd=directory)
            except OSError as refused:
                if refused.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue
                raise
            try:
                yield from _files(below, f"{path}{entry.name}/", depth + 1)
            finally:
                os.close(below)


def _hash_batch(
    root: int, paths: list[str], known: Mapping[str, MediaFile], stop: Callable[[], bool]
) -> list[tuple[str, MediaFile]]:
    found = []
    for path in paths:
        if stop():
            break
        file = _hash(root, path, known.get(path), stop)
        if file is not None:
            found.append((path, file))
    return found


def _hash(root: int, path: str, known: MediaFile | None, stop: Callable[[], bool]) -> MediaFile | None:
    try:
        descriptor = _open_below(root, path)
    except OSError as refused:
        if refused.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None  # deleted or exchanged at this moment; never so in a stage
        raise
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            return None
        if known is not None and (known.size_bytes, known.mtime_ns) == (before.st_size, before.st_mtime_ns):
            return known
        digest = hashlib.sha256()
        size = 0
        while block := file.read(_BLOCK_BYTES):
            if stop():
                return None
            digest.update(block)
            size += len(block)
        # The time is that of before: what changed while it was read is another file to the next run.
        return MediaFile(size, digest.hexdigest(), before.st_mtime_ns)


def _open_below(root: int, path: str, flags: int = _FILE) -> int:
    """Open a file (or what `flags` say) below a directory, following no link on the way."""
    *above, name = path.split("/")
    if not above:
        return os.open(name, flags, dir_fd=root)
    opened: list[int] = []
    try:
        for each in above:
            opened.append(os.open(each, _DIRECTORY, dir_fd=opened[-1] if opened else root))
        return os.open(name, flags, dir_fd=opened[-1])
    finally:
        for directory in opened:
            os.close(directory)


@dataclass(frozen=True)
class Changes:
    """Paths that are new, that have another size or time, and that are gone."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    missing: tuple[str, ...]


def changed_since(directory: Path, known: Mapping[str, MediaFile]) -> Changes:
    """What changed below a directory since a manifest, by size and time; nothing is read but names and their facts."""
    added, changed, seen = [], [], set()
    root = os.open(directory, _DIRECTORY)
    try:
        for path in _files(root, "", 0):
            try:
                found = os.stat(path, dir_fd=root, follow_symlinks=False)
            except _GONE:
                continue
            seen.add(path)
            before = known.get(path)
            if before is None:
                added.append(path)
            elif (before.size_bytes, before.mtime_ns) != (found.st_size, found.st_mtime_ns):
                changed.append(path)
    finally:
        os.close(root)
    return Changes(tuple(added), tuple(changed), tuple(path for path in known if path not in seen))
