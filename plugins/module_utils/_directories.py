"""Directories with their owners and modes: those of an application's data, and how root makes any without following a
link that somebody else put there."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ._errors import BackstayError

if TYPE_CHECKING:
    from ._application import Application


@dataclass(frozen=True)
class Directory:
    """A directory with its owner, group and mode."""

    path: Path
    owner: str
    group: str
    mode: int


def data_directories(application: Application, generation: Path) -> tuple[Directory, ...]:
    """Pure: the directories of one generation of the data, outermost first.

    nginx's group passes through to the media and to nothing else; databases are the application's alone.
    """
    name = application.name
    found = {generation: Directory(generation, name, "www-data", 0o710)}
    if application.media:
        media = PurePosixPath(application.media)
        for passage in _above(media):
            found[generation / passage] = Directory(generation / passage, name, "www-data", 0o710)
        found[generation / media] = Directory(generation / media, name, "www-data", 0o2750)
    for database in application.databases:
        if database.path is None:
            continue
        for parent in _above(PurePosixPath(database.path)):
            found.setdefault(generation / parent, Directory(generation / parent, name, name, 0o700))
    return tuple(found.values())


def _above(path: PurePosixPath) -> list[PurePosixPath]:
    """The directories that a relative path lies in, outermost first."""
    return [parent for parent in reversed(path.parents) if parent.parts]


def make_directory(directory: Directory, *, trusted: Path) -> None:
    """Make a directory and give it its owner and mode. Raises BackstayError, naming it.

    Below `trusted`, which is root's, the application itself may put links in the way: there no link is followed.
    """
    path = directory.path
    base = trusted if trusted in path.parents else path.parent
    try:
        base.mkdir(parents=True, exist_ok=True, mode=0o755)
        with _opened(base, path.relative_to(base).parts) as descriptor:
            os.fchown(descriptor, pwd.getpwnam(directory.owner).pw_uid, grp.getgrnam(directory.group).gr_gid)
            os.fchmod(descriptor, directory.mode)
    except OSError as refused:
        raise BackstayError(
            f"The directory {path} could not be made ({refused.strerror}): move away what is there, then run this "
            "again."
        ) from refused
    except KeyError as unknown:
        raise BackstayError(
            f"The directory {path} needs a user or group that this host lacks ({unknown.args[0]}): create it."
        ) from unknown


@contextlib.contextmanager
def _opened(base: Path, parts: tuple[str, ...]) -> Iterator[int]:
    """A directory below `base`, made where it is missing, opened without following any link on the way."""
    descriptor = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o700, dir_fd=descriptor)
                os.fsync(descriptor)
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)
