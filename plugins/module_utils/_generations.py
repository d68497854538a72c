"""Generations of an application's data: the directories below `data.d`, of which one link names the live one.

Nothing is restored in place. The next generation is made beside the live one, under a name that no process sees, and a
rename of the link makes it live; the one before stays whole, with every row that was written until then.

Root walks trees here that the application's own user can write to, so nothing is opened by a path of more than one
step below a directory of root's, and no symbolic link is ever followed.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ._declare import data_directories, make_directory
from ._errors import BackstayError
from ._layout import Layout
from ._storage import Storage

if TYPE_CHECKING:
    from ._application import Application

_NAME = re.compile(r"\d{4,}")
_CHUNK = 1 << 20


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
    """The name of the next generation: above every one that is there, so that none is ever written over."""
    return f"{max((int(name) for name in known(layout)), default=0) + 1:04}"


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

    files: int
    size_bytes: int


def carry(
    source: Path, target: Path, parts: tuple[str, ...], *, leave: Callable[[PurePosixPath], bool] = lambda path: False
) -> Carried:
    """Make `parts` (relative paths) of `target` equal to those of `source`: files that differ in size or time are
    copied, those that vanished are removed. Called while the application runs, and again when it has stopped, it costs
    little the second time. `leave` says which paths are restored and stay as they are.

    Symbolic links and special files are not carried: nothing that Backstay serves or stores is one.
    """
    files = size = 0
    for part in parts:
        before, after = source / part, target / part
        if before.is_symlink() or not os.path.lexists(before):
            continue
        if before.is_dir():
            done = _carry_directory(before, after, PurePosixPath(part), leave)
        else:
            # A directory of the application's own may hold a link under this name: it is opened as what it is.
            with _opened(before.parent) as here, _opened(after.parent) as there:
                done = _carry_file(here, there, before.name)
        files, size = files + done.files, size + done.size_bytes
    return Carried(files, size)


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _carry_directory(
    source: Path, target: Path, part: PurePosixPath, leave: Callable[[PurePosixPath], bool]
) -> Carried:
    files = size = 0
    for directory, folders, names, here in os.fwalk(source, follow_symlinks=False):
        relative = PurePosixPath(directory).relative_to(source)
        folders[:] = [name for name in folders if not leave(part / relative / name)]
        after = target / relative
        after.mkdir(mode=0o700, exist_ok=True)
        with _opened(after) as there:
            wanted = {name for name in names if not leave(part / relative / name)}
            for name in sorted(wanted):
                done = _carry_file(here, there, name)
                files, size = files + done.files, size + done.size_bytes
            present = set(folders) | wanted
            for entry in os.scandir(there):
                if entry.name not in present and not leave(part / relative / entry.name):
                    _remove(there, entry.name)
            _same_owner(here, there)
    return Carried(files, size)


def _carry_file(here: int, there: int, name: str) -> Carried:
    try:
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=here)
    except OSError:
        return Carried(0, 0)  # gone meanwhile, or a link
    try:
        seen = os.fstat(opened)
        if not stat.S_ISREG(seen.st_mode):
            return Carried(0, 0)
        with contextlib.suppress(FileNotFoundError):
            was = os.stat(name, dir_fd=there, follow_symlinks=False)
            if stat.S_ISREG(was.st_mode) and (was.st_size, was.st_mtime_ns) == (seen.st_size, seen.st_mtime_ns):
                return Carried(0, 0)
        fresh = f".{name}.carried"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(fresh, dir_fd=there)
        written = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=there)
        try:
            while os.copy_file_range(opened, written, _CHUNK * 64):
                pass
            os.fchown(written, seen.st_uid, seen.st_gid)
            os.fchmod(written, stat.S_IMODE(seen.st_mode))
            os.utime(written, ns=(seen.st_atime_ns, seen.st_mtime_ns))
        finally:
            os.close(written)
        os.rename(fresh, name, src_dir_fd=there, dst_dir_fd=there)
        return Carried(1, seen.st_size)
    finally:
        os.close(opened)


def _same_owner(here: int, there: int) -> None:
    seen = os.fstat(here)
    os.fchown(there, seen.st_uid, seen.st_gid)
    os.fchmod(there, stat.S_IMODE(seen.st_mode))


def _remove(directory: int, name: str) -> None:
    """Remove an entry of a directory, with everything in it; follows no link."""
    if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            for entry in os.scandir(inner):
                _remove(inner, entry.name)
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=directory)
    else:
        os.unlink(name, dir_fd=directory)


# the switch


def switch(layout: Layout, storage: Storage, name: str) -> None:
    """Make a generation the live one: one rename of the link."""
    storage.link(layout.data, f"{layout.generations.name}/{name}")


def prune(layout: Layout, storage: Storage, keep: int, *, needed: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """Remove all earlier generations but the newest `keep`; never the live one nor one in `needed`."""
    present = live(layout)
    earlier = [name for name in known(layout) if name != present and name not in needed]
    doomed = earlier[:-keep] if keep else earlier
    for name in doomed:
        # Under another name first: half a generation must never look like a whole one.
        doomed_path = partial(layout, name)
        storage.remove_tree(doomed_path)
        storage.rename(layout.generation(name), doomed_path)
        storage.remove_tree(doomed_path)
    return tuple(doomed)
