"""Generations of an application's data: the directories below `data.d`, of which one link names the live one.

Nothing is restored in place. The next generation is made beside the live one, under a name that no process sees, and a
rename of the link makes it live; the one before stays whole, with every row that was written until then.

Root walks trees here that the application's own user can write to, so nothing is opened by a path of more than one
step below a directory of root's, and no symbolic link is ever followed.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ._directories import data_directories, make_directory
from ._errors import BackstayError
from ._layout import Layout
from ._storage import Storage

if TYPE_CHECKING:
    from ._application import Application

_NAME = re.compile(r"\d{4,}")
_OURS = re.compile(r"\d{4,}|\.\d{4,}\.partial")
_CHUNK = 64 << 20
_DEEPEST = 100
_UNFOLLOWED = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def live(layout: Layout) -> str:
    """The generation that the link names. Raises BackstayError where it names none."""
    try:
        target = Path(os.readlink(layout.data))
    except OSError as missing:
        raise BackstayError(
            f"{layout.data} is not the link to the live data that it must be: run playbooks/site.yml, then try again."
        ) from missing
    if target.parent != Path(layout.generations.name) or not _NAME.fullmatch(target.name):
        raise BackstayError(f"{layout.data} points to {target}, and not to a generation in {layout.generations}.")
    return target.name


def known(layout: Layout) -> tuple[str, ...]:
    """All whole generations, oldest first."""
    return tuple(sorted((p.name for p in layout.generations.iterdir() if _NAME.fullmatch(p.name)), key=int))


def following(layout: Layout) -> str:
    """The name of the next generation: above every one that is there, so that none is ever written over, and above the
    one that the link names, also where somebody has removed that."""
    return f"{max(int(name) for name in (*known(layout), live(layout))) + 1:04}"


def partial(layout: Layout, name: str) -> Path:
    """Where a generation is made: of root's alone, until it is whole."""
    return layout.generations / f".{name}.partial"


def give_away(application: Application, tree: Path) -> int:
    """Give a restored tree to the application as its layout says, whatever owners and modes it was stored with (the
    numbers of users differ between hosts). Returns how many files there are.

    The tree is below a directory of root's that nobody else may enter. Raises BackstayError for what is neither a file
    nor a directory: nothing of that kind was ever stored.
    """
    account = pwd.getpwnam(application.name)
    readers = grp.getgrnam("www-data").gr_gid
    wanted = {entry.path: entry for entry in data_directories(application, tree)}
    media = PurePosixPath(application.media) if application.media else None
    count = 0
    for directory, folders, files, descriptor in os.fwalk(tree, follow_symlinks=False):
        here = PurePosixPath(directory).relative_to(tree)
        public = media is not None and (here == media or here.is_relative_to(media))
        group = readers if public else account.pw_gid
        for name in folders:
            # fwalk descends into no link, but it lists one among the folders.
            if stat.S_ISLNK(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
                raise _strange(tree, here / name)
        for name in files:
            seen = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            if not stat.S_ISREG(seen.st_mode):
                raise _strange(tree, here / name)
            os.chown(name, account.pw_uid, group, dir_fd=descriptor, follow_symlinks=False)
            opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
            try:
                os.fchmod(opened, 0o640)
            finally:
                os.close(opened)
            count += 1
        asked = wanted.get(Path(directory))
        if asked is not None:
            os.fchown(descriptor, pwd.getpwnam(asked.owner).pw_uid, grp.getgrnam(asked.group).gr_gid)
            os.fchmod(descriptor, asked.mode)
        else:
            os.fchown(descriptor, account.pw_uid, group)
            os.fchmod(descriptor, 0o2750 if public else 0o700)
    return count


def prepare(application: Application, tree: Path) -> None:
    """Make the directories that every generation has, where a restored one lacks them."""
    for directory in data_directories(application, tree):
        make_directory(directory, trusted=tree.parent)


def wrong_owners(application: Application, tree: Path, *, most: int = 5) -> tuple[str, ...]:
    """What of a tree does not belong to the application as it must, as sentences."""
    account = pwd.getpwnam(application.name)
    wanted = {entry.path: entry for entry in data_directories(application, tree)}
    found: list[str] = []
    for directory, _folders, files, descriptor in os.fwalk(tree, follow_symlinks=False):
        asked = wanted.get(Path(directory))
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if asked is not None and mode != asked.mode:
            found.append(f"{directory} has mode {mode:04o} and must have {asked.mode:04o}")
        found += [
            f"{directory}/{name} does not belong to {application.name}"
            for name in files
            if os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_uid != account.pw_uid
        ]
        if len(found) >= most:
            break
    return tuple(found[:most])


def _strange(tree: Path, path: PurePosixPath) -> BackstayError:
    return BackstayError(
        f"{path} in {tree} is neither a file nor a directory, and no backup stores such: choose another restore point."
    )


# carrying over what is not restored


@dataclass(frozen=True)
class Carried:
    """What was copied from one generation to the next."""

    files: int = 0
    size_bytes: int = 0

    def __add__(self, other: Carried) -> Carried:
        return Carried(self.files + other.files, self.size_bytes + other.size_bytes)


def carry(source: Path, target: Path, parts: tuple[str, ...], *, leave: tuple[PurePosixPath, ...] = ()) -> Carried:
    """Make `parts` (relative paths) of `target` equal to those of `source`: files that differ in size or time are
    copied, those that vanished are removed. Called while the application runs, and again when it has stopped, it costs
    little the second time. `leave` are the paths that are restored: they, and all in them, stay as they are.

    Symbolic links and special files are not carried: nothing that Backstay serves or stores is one. Each step of a path
    is opened from the directory before it, so that no link that the application puts there is ever followed. Raises
    BackstayError for directories in each other beyond all measure.
    """
    done = Carried()
    carrier = _Carrier(leave, f".{os.urandom(8).hex()}.carried")
    with _opened(source) as before, _opened(target) as after:
        for part in parts:
            done += carrier.part(before, after, PurePosixPath(part))
    return done


@dataclass(frozen=True)
class Loan:
    """A file of a generation that may serve where one is restored: its path there, the path below the target, and what
    it must be, as (size in bytes, time of change in nanoseconds); None takes it as it is. Of one that is longer than
    `most` only so many bytes are lent: it takes no more room than what is restored."""

    path: str
    to: str
    facts: tuple[int, int] | None = None
    most: int = sys.maxsize

    @property
    def folders(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return PurePosixPath(self.path).parts[:-1], PurePosixPath(self.to).parts[:-1]


def lend(source: Path, target: Path, loans: Iterable[Loan]) -> Carried:
    """Copy those files of a generation to where a restore will write the same ones, as far as they are as they must be.
    Called while the application runs. It promises nothing of their content: whoever restores over them looks at it.

    No symbolic link is followed. What is gone, is another, or cannot be read from its disk is left out; so is all,
    where the generation itself is gone.
    """
    done = Carried()
    carrier = _Carrier((), f".{os.urandom(8).hex()}.lent")
    with contextlib.ExitStack() as opened:
        try:
            before = opened.enter_context(_opened(source))
        except FileNotFoundError:
            return done
        after = opened.enter_context(_opened(target))
        for (from_there, to), each in groupby(sorted(loans, key=lambda loan: loan.folders), lambda loan: loan.folders):
            with contextlib.ExitStack() as stack:
                here, there = before, after
                try:
                    for folder in from_there:
                        here = stack.enter_context(_opened(folder, here))
                except OSError:
                    continue
                for folder in to:
                    there = stack.enter_context(carrier.made(there, folder))
                for loan in each:
                    done += carrier.loan(here, there, loan)
    return done


def discard(target: Path, part: str) -> None:
    """Remove one path of a generation, if it is there; no link is followed."""
    carrier = _Carrier((), "")
    *above, name = PurePosixPath(part).parts
    with contextlib.ExitStack() as stack:
        try:
            at = stack.enter_context(_opened(target))
            for folder in above:
                at = stack.enter_context(_opened(folder, at))
        except OSError:
            return
        carrier.drop(at, name, PurePosixPath(part))


@contextlib.contextmanager
def _opened(directory: Path | str, at: int | None = None) -> Iterator[int]:
    """A directory, never through a link. Raises OSError for anything else."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _kind(name: str, at: int) -> str:
    """What lies under a name: a directory, a file, something else, or nothing."""
    try:
        mode = os.stat(name, dir_fd=at, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return "nothing"
    return "directory" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"


@dataclass(frozen=True)
class _Carrier:
    """`here` is always a directory of the source and `there` the same one of the target, by their descriptors."""

    leave: tuple[PurePosixPath, ...]
    fresh: str  # what a file is called until it is whole

    def part(self, here: int, there: int, path: PurePosixPath) -> Carried:
        *above, name = path.parts
        with contextlib.ExitStack() as stack:
            for number, folder in enumerate(above, start=1):
                try:
                    here = stack.enter_context(_opened(folder, here))
                except OSError:
                    self.drop(there, folder, PurePosixPath(*path.parts[:number]))
                    return Carried()
                there = stack.enter_context(self.made(there, folder))
            return self.entry(here, there, name, path)

    def entry(self, here: int, there: int, name: str, path: PurePosixPath) -> Carried:
        if self._left(path):
            return Carried()
        kind = _kind(name, here)
        try:
            if kind == "directory":
                with _opened(name, here) as inner, self.made(there, name) as target:
                    return self._directory(inner, target, path)
            if kind == "file":
                opened = os.open(name, _UNFOLLOWED, dir_fd=here)
                try:
                    return self._file(opened, there, name, path)
                finally:
                    os.close(opened)
        except OSError as gone:
            # Gone meanwhile, or another kind of thing now: then it is as if it had not been there.
            if gone.errno not in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
                raise
        self.drop(there, name, path)
        return Carried()

    def _directory(self, here: int, there: int, path: PurePosixPath) -> Carried:
        if len(path.parts) > _DEEPEST:
            raise BackstayError(
                f"Directories lie more than {_DEEPEST} deep in each other ({str(path)[:60]}...): look at what the "
                "application does there, and remove them."
            )
        done = Carried()
        names = os.listdir(here)
        for name in sorted(names):
            done += self.entry(here, there, name, path / name)
        for name in set(os.listdir(there)).difference(names):
            self.drop(there, name, path / name)
        seen = os.fstat(here)
        os.fchown(there, seen.st_uid, seen.st_gid)
        os.fchmod(there, stat.S_IMODE(seen.st_mode))
        return done

    def _file(self, opened: int, there: int, name: str, path: PurePosixPath, *, most: int = sys.maxsize) -> Carried:
        seen = os.fstat(opened)
        if not stat.S_ISREG(seen.st_mode):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        present = _kind(name, there)
        if present == "file":
            was = os.stat(name, dir_fd=there, follow_symlinks=False)
            if (was.st_size, was.st_mtime_ns) == (seen.st_size, seen.st_mtime_ns):
                return Carried()
        elif present == "directory":
            self.drop(there, name, path)
            if _kind(name, there) != "nothing":
                return Carried()  # what is restored lies in it
        written = os.open(
            self.fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=there
        )
        try:
            try:
                _copy(opened, written, most)
                os.fchown(written, seen.st_uid, seen.st_gid)
                os.fchmod(written, seen.st_mode & 0o777)
                os.utime(written, ns=(seen.st_atime_ns, seen.st_mtime_ns))
            finally:
                os.close(written)
            os.rename(self.fresh, name, src_dir_fd=there, dst_dir_fd=there)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(self.fresh, dir_fd=there)
            raise
        return Carried(1, min(seen.st_size, most))

    def loan(self, here: int, there: int, loan: Loan) -> Carried:
        path = PurePosixPath(loan.to)
        try:
            opened = os.open(PurePosixPath(loan.path).name, _UNFOLLOWED, dir_fd=here)
        except OSError:
            return Carried()
        try:
            seen = os.fstat(opened)
            if stat.S_ISREG(seen.st_mode) and loan.facts in (None, (seen.st_size, seen.st_mtime_ns)):
                return self._file(opened, there, path.name, path, most=loan.most)
        except OSError as unreadable:
            if unreadable.errno != errno.EIO:  # a bad disk may be why somebody restores
                raise
        finally:
            os.close(opened)
        return Carried()

    @contextlib.contextmanager
    def made(self, there: int, name: str) -> Iterator[int]:
        """A directory of the target, made where it is missing; whatever else has its name goes."""
        present = _kind(name, there)
        if present in ("file", "other"):
            os.unlink(name, dir_fd=there)
        if present != "directory":
            os.mkdir(name, 0o700, dir_fd=there)
        with _opened(name, there) as descriptor:
            yield descriptor

    def drop(self, there: int, name: str, path: PurePosixPath) -> None:
        """Remove what the source does not have, but nothing that is restored."""
        kind = _kind(name, there)
        if kind == "nothing" or self._left(path):
            return
        if kind == "directory" and self._holds_left(path):
            with _opened(name, there) as inner:
                for each in os.listdir(inner):
                    self.drop(inner, each, path / each)
                if os.listdir(inner):
                    return
        _remove(there, name)

    def _left(self, path: PurePosixPath) -> bool:
        return any(path.is_relative_to(each) for each in self.leave)

    def _holds_left(self, path: PurePosixPath) -> bool:
        return any(each.is_relative_to(path) for each in self.leave)


def _copy(opened: int, written: int, most: int) -> None:
    """The bytes of one file into another, which share them where the file system can; of a longer one the first."""

    def move(some: Callable[[int], int]) -> None:
        left = most
        while left and (moved := some(min(_CHUNK, left))):
            left -= moved

    try:
        move(lambda size: os.copy_file_range(opened, written, size))
    except OSError as unable:
        if unable.errno not in (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        os.lseek(opened, 0, os.SEEK_SET)
        os.ftruncate(written, 0)
        os.lseek(written, 0, os.SEEK_SET)
        move(lambda size: os.sendfile(written, opened, None, size))


def _remove(directory: int, name: str) -> None:
    """Remove an entry of a directory, with everything in it; follows no link."""
    if _kind(name, directory) == "directory":
        shutil.rmtree(name, dir_fd=directory)
    else:
        os.unlink(name, dir_fd=directory)


def files_of(generation: Path, part: str) -> Iterator[tuple[str, int]]:
    """(path below `part`, size in bytes) of every regular file there; no link is followed, nothing is opened."""
    with contextlib.ExitStack() as stack:
        try:
            at = stack.enter_context(_opened(generation))
            for folder in PurePosixPath(part).parts:
                at = stack.enter_context(_opened(folder, at))
        except OSError:
            return
        for directory, _folders, names, here in os.fwalk(".", dir_fd=at, follow_symlinks=False):
            for name in names:
                try:
                    seen = os.stat(name, dir_fd=here, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(seen.st_mode):
                    yield str(PurePosixPath(directory) / name), seen.st_size


def kind_of(generation: Path, part: str) -> str:
    """What lies at a path of a generation: file, directory, nothing, or other (a link, or what is behind one)."""
    *above, name = PurePosixPath(part).parts
    with contextlib.ExitStack() as stack:
        try:
            at = stack.enter_context(_opened(generation))
        except FileNotFoundError:
            return "nothing"
        for folder in above:
            kind = _kind(folder, at)
            if kind != "directory":
                return kind if kind == "nothing" else "other"
            at = stack.enter_context(_opened(folder, at))
        return _kind(name, at)


def size_of(generation: Path, part: str) -> int:
    """Bytes of one file of a generation; 0 where there is none."""
    path = PurePosixPath(part)
    return sum(size for name, size in files_of(generation, str(path.parent)) if name == path.name)


# the switch


def switch(layout: Layout, storage: Storage, name: str) -> None:
    """Make a generation the live one: one rename of the link."""
    storage.link(layout.data, f"{layout.generations.name}/{name}")


def doomed(layout: Layout, keep: int, *, needed: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """All earlier generations but the newest `keep`; never the live one nor one in `needed`."""
    present = live(layout)
    earlier = [name for name in known(layout) if name != present and name not in needed]
    return tuple(earlier[:-keep] if keep else earlier)


def remove(layout: Layout, storage: Storage, name: str) -> None:
    """Remove a generation, whole or unfinished, with what an earlier removal that was cut short has left."""
    tidy(layout, storage)  # before the removals: they sync the directory, and with it that this is gone
    if live(layout) != name:
        storage.remove_tree(layout.generation(name))
    storage.remove_tree(partial(layout, name))


def tidy(layout: Layout, storage: Storage) -> None:
    """Remove what a removal of a generation that was cut short has left. What a backup lays out there has a lock of its
    own, and is not ours."""
    storage.tidy(layout.generations, lambda name: _OURS.fullmatch(name) is not None)
