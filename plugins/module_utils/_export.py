"""A restore point written out as files that one can look at, carry away, or open with other tools.

It is proven like a restore, belongs to root alone, and has its name only when it is whole.
"""

from __future__ import annotations

import datetime as dt
import os
import pwd
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ._errors import BackstayError, GateRefused, InputError
from ._restore import MANIFEST, checked_parts, fetched_paths, part_of
from ._room import mib
from ._transaction import Restoring

if TYPE_CHECKING:
    from ._layout import Layout
    from ._restore import Restore

_SPARE_BYTES = 64 << 20


def export(engine: Restore, point: str, directory: Path, only: Sequence[str] = (), repository: str = "") -> Path:
    """Write a restore point to `<directory>/YYYYmmdd-HHMMSS/`, named after the time of the point (UTC); returns it.

    `point` is latest, a run, a time or release:<id>; `only` and `repository` as for a restore. It holds databases/,
    media/ and the manifest. Raises InputError for a bad place, GateRefused where it does not fit or is not what was
    backed up: then nothing is left there.
    """
    application = engine.application()
    parts = checked_parts(tuple(only), application)
    found, copy, away = engine.choose_point(point, repository)
    for sentence in away:
        engine.say(f"{sentence.rstrip('.')}; {copy.repository} is taken instead")
    restoring = Restoring(
        generation="",
        before="",
        point=found.run,
        at=found.at,
        repository=copy.repository,
        snapshot=copy.snapshot,
        manifest_snapshot=copy.manifest_snapshot,
        release=found.release,
        only=parts,
    )
    wanted = fetched_paths(restoring, application)
    if not wanted:
        raise InputError(f"{application.name} has neither databases nor media, so there is nothing to export.")
    place = checked_place(directory, engine.layout)
    at = dt.datetime.fromisoformat(found.at).astimezone(dt.UTC)
    target = place / f"{at:%Y%m%d-%H%M%S}"
    if os.path.lexists(target):
        raise InputError(f"{target} is there already: look at it, and move it away if it is to be written anew.")
    manifest = engine.known_manifest(found.run)
    size = found.size_bytes
    if manifest is not None:
        part = part_of(manifest, restoring, application)
        size = sum(facts.size_bytes for facts in part.databases.values())
        size += sum(file.size_bytes for file in part.media.values())
    disk = os.statvfs(place)
    free = disk.f_bavail * disk.f_frsize
    if free < size + _SPARE_BYTES:
        raise GateRefused(
            f"Exporting {found.run} needs {mib(size + _SPARE_BYTES)} in {place} and {mib(free)} are free: free some, "
            "or choose another directory (--to)."
        )
    partial = place / f".{target.name}.partial"
    storage = engine.storage
    storage.remove_tree(partial)
    try:
        partial.mkdir(mode=0o700)
        engine.repository_of(restoring).restore(restoring.snapshot, partial, wanted)
        own(partial)
        proven = engine.check_fetched(restoring, partial, scratch=partial)
        from ._manifest import to_bytes

        storage.write(partial / MANIFEST, to_bytes(proven), mode=0o600)
        storage.sync_tree(partial)
        storage.rename(partial, target)
    except OSError as refused:
        storage.remove_tree(partial)
        raise BackstayError(
            f"{found.run} could not be exported to {place} ({refused.strerror or refused}): free some space, or choose "
            "another directory (--to)."
        ) from refused
    except BaseException:
        storage.remove_tree(partial)
        raise
    return target


def checked_place(directory: Path, layout: Layout) -> Path:
    """The directory, with all links resolved. Raises InputError where an export must not lie."""
    try:
        place = directory.resolve(strict=True)
        found = place.stat()
    except OSError as missing:
        raise InputError(
            f"There is no directory {directory} ({missing.strerror}): make it first, root's and closed to others."
        ) from missing
    if not stat.S_ISDIR(found.st_mode):
        raise InputError(f"{directory} is no directory: name one that is there.")
    for own_tree in (layout.home, layout.state, layout.configuration, layout.logs, layout.runtime):
        tree = own_tree.resolve()
        if place == tree or place.is_relative_to(tree):
            raise InputError(
                f"{directory} lies in {own_tree}, which is {layout.name}'s own: an export there would be served, "
                "backed up or removed; choose another directory."
            )
    if found.st_uid not in (0, os.geteuid()) or (found.st_mode & 0o002 and not found.st_mode & stat.S_ISVTX):
        try:
            owner = pwd.getpwuid(found.st_uid).pw_name
        except KeyError:
            owner = str(found.st_uid)
        raise InputError(
            f"{directory} belongs to {owner} with mode {stat.S_IMODE(found.st_mode):04o}, so others could put "
            "their own files in the place of the export: choose a directory of root's."
        )
    return place


def own(tree: Path) -> None:
    """Everything in a tree belongs to whoever runs this, and to nobody else, whatever it was stored with. Raises
    GateRefused for what is neither a file nor a directory: nothing of that kind was ever stored."""
    uid, gid = os.geteuid(), os.getegid()
    for directory, folders, files, here in os.fwalk(tree, follow_symlinks=False):
        os.fchown(here, uid, gid)
        os.fchmod(here, 0o700)
        for name in (*folders, *files):
            mode = os.stat(name, dir_fd=here, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                continue
            if not stat.S_ISREG(mode):
                raise GateRefused(
                    f"{directory}/{name} is neither a file nor a directory, and no backup stores such: choose another "
                    "restore point."
                )
            opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            try:
                os.fchown(opened, uid, gid)
                os.fchmod(opened, 0o600)
            finally:
                os.close(opened)
