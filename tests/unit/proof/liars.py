"""Repositories that lie: each kind changes one thing, where it hides best, and names the level that promises to see it.

Those who lie about content have the whole of restic at their disposal, and where they could have signed (the host
itself was wrong) a sound seal: then only a restore can see it.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from ansible_collections.backstay.ops.plugins.module_utils import _manifest
from ansible_collections.backstay.ops.plugins.module_utils._attestation import SIGNATURE, sign
from ansible_collections.backstay.ops.plugins.module_utils._proof import MANIFEST, MANIFEST_NAMESPACE, SEAL
from ansible_collections.backstay.ops.plugins.module_utils._repository import Snapshot

from .points import DAYS, NOW, PASSWORD, Place, make_key, restic

OLD, BEFORE, RUN = DAYS


@dataclass(frozen=True)
class Lie:
    """What the liar did, and what the one who proves is given."""

    what: str
    given: Mapping[str, Any] = field(default_factory=dict)


AnyPlace = TypeVar("AnyPlace", bound=Place)


@dataclass(frozen=True)
class Liar(Generic[AnyPlace]):
    """`level` promises to see it. `tell` changes a copy of the place."""

    kind: str
    level: int
    tell: Callable[[AnyPlace, random.Random], Lie]


def _snapshots(place: Place, run: str) -> dict[str, Snapshot]:
    return place.known[run]


def _forget(place: Place, *snapshots: Snapshot) -> None:
    for snapshot in snapshots:
        (place.repository_path / "snapshots" / snapshot.id).unlink()


def _files(place: Place, folder: str) -> list[Path]:
    return sorted(path for path in (place.repository_path / folder).rglob("*") if path.is_file())


def flip(path: Path, chance: random.Random, *, position: int | None = None, bits: int = 8) -> str:
    """One of the lowest `bits` of a byte."""
    content = bytearray(path.read_bytes())
    at = chance.randrange(len(content)) if position is None else position
    content[at] ^= 1 << chance.randrange(bits)
    path.chmod(0o600)
    path.write_bytes(content)
    return f"bit of byte {at} of {path.parent.name}/{path.name[:8]}"


def _packs(place: Place) -> list[Path]:
    """Those that hold data (trees are read by each check of the structure)."""
    return sorted(_files(place, "data"), key=lambda path: path.stat().st_size)


# the repository


def bit_in_pack(place: Place, chance: random.Random) -> Lie:
    return Lie(flip(chance.choice(_packs(place)), chance))


def bit_in_index(place: Place, chance: random.Random) -> Lie:
    return Lie(flip(chance.choice(_files(place, "index")), chance))


def bit_in_snapshot(place: Place, chance: random.Random) -> Lie:
    return Lie(flip(chance.choice(_files(place, "snapshots")), chance))


def bit_in_config(place: Place, chance: random.Random) -> Lie:
    return Lie(flip(place.repository_path / "config", chance))


def bit_in_key(place: Place, chance: random.Random) -> Lie:
    (path,) = _files(place, "keys")
    content = path.read_bytes()
    at = content.index(b'"data":') + 12 + chance.randrange(80)
    damaged = bytes([content[at] ^ 1]) if content[at : at + 1].isalnum() else b"A"
    path.chmod(0o600)
    path.write_bytes(content[:at] + damaged + content[at + 1 :])
    return Lie(f"byte {at} of the key")


def truncated_key(place: Place, chance: random.Random) -> Lie:
    (path,) = _files(place, "keys")
    size = path.stat().st_size
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.truncate(chance.randrange(size))
    return Lie(f"the key file cut from {size} to {path.stat().st_size}")


def truncated_pack(place: Place, chance: random.Random) -> Lie:
    path = chance.choice(_packs(place))
    size = path.stat().st_size
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.truncate(chance.randrange(size))
    return Lie(f"{path.name[:8]} cut from {size} to {path.stat().st_size}")


def missing_pack(place: Place, chance: random.Random) -> Lie:
    path = chance.choice(_packs(place))
    path.unlink()
    return Lie(f"{path.name[:8]} removed")


def missing_index(place: Place, chance: random.Random) -> Lie:
    path = chance.choice(_files(place, "index"))
    path.unlink()
    return Lie(f"index {path.name[:8]} removed")


def wrong_key(place: Place, chance: random.Random) -> Lie:
    return Lie("the password of another repository", {"password": f"{PASSWORD}{chance.randrange(9)}"})


# snapshots, seals, manifests


def swapped_data(place: Place, chance: random.Random) -> Lie:
    """The newest run's data are forgotten, and another day's are given its tags."""
    other = chance.choice([OLD, BEFORE])
    _forget(place, _snapshots(place, RUN)["data"])
    data = _snapshots(place, other)["data"]
    tags = f"backstay,application=portal,run={RUN},part=data"
    restic(place, "tag", "--set", tags, data.id)
    return Lie(f"data of {other}")


def yesterdays_manifest(place: Place, chance: random.Random) -> Lie:
    """With its own good seal and signatures, under today's run."""
    other = chance.choice([OLD, BEFORE])
    _forget(place, _snapshots(place, RUN)["manifest"])
    folder = place.layout.backup_run(other)
    place.add(folder, [path.name for path in sorted(folder.iterdir())], RUN, "manifest")
    return Lie(f"manifest and seal of {other}")


def yesterdays_manifest_sealed(place: Place, chance: random.Random) -> Lie:
    """An older manifest in a sound seal of today's: the host itself took the wrong file."""
    other = chance.choice([OLD, BEFORE])
    parts = _snapshots(place, RUN)
    _forget(place, parts["manifest"])
    content = (place.layout.backup_run(other) / MANIFEST).read_bytes()
    place.store_manifest(RUN, content, parts["data"])
    return Lie(f"manifest of {other}, sealed")


def _restored(place: Place, edit: Callable[[Path], None]) -> None:
    """Today's manifest snapshot is replaced by one whose files were edited."""
    parts = _snapshots(place, RUN)
    _forget(place, parts["manifest"])
    folder = place.layout.backup_run(RUN)
    edit(folder)
    place.add(folder, [path.name for path in sorted(folder.iterdir())], RUN, "manifest")


def manifest_edited(place: Place, chance: random.Random) -> Lie:
    def edit(folder: Path) -> None:
        path = folder / MANIFEST
        value = json.loads(path.read_bytes())
        name = chance.choice(sorted(value["media"]))
        del value["media"][name]
        path.write_bytes(json.dumps(value).encode())

    _restored(place, edit)
    return Lie("a photograph taken out of the manifest")


def manifest_unsigned(place: Place, chance: random.Random) -> Lie:
    name = chance.choice([MANIFEST, SEAL])
    _restored(place, lambda folder: (folder / f"{name}{SIGNATURE}").write_bytes(b"") and None)
    return Lie(f"the signature of {name} emptied")


def stranger_signed(place: Place, chance: random.Random) -> Lie:
    key = place.top / "stranger"
    make_key(key)

    def edit(folder: Path) -> None:
        sign(folder / MANIFEST, key, MANIFEST_NAMESPACE)

    _restored(place, edit)
    return Lie("the manifest signed by another key")


def seal_replaced(place: Place, chance: random.Random) -> Lie:
    """The seal of another day, signed as it was."""
    other = chance.choice([OLD, BEFORE])

    def edit(folder: Path) -> None:
        for name in (SEAL, SEAL + SIGNATURE):
            shutil.copyfile(place.layout.backup_run(other) / name, folder / name)

    _restored(place, edit)
    return Lie(f"the seal of {other}")


def unfinished(place: Place, chance: random.Random) -> Lie:
    _forget(place, _snapshots(place, RUN)["manifest"])
    return Lie("no manifest part")


def chain_broken(place: Place, chance: random.Random) -> Lie:
    _forget(place, *_snapshots(place, BEFORE).values())
    return Lie(f"{BEFORE} taken out of the middle", {"chain": place.chain()})


def clock_in_the_past(place: Place, chance: random.Random) -> Lie:
    back = dt.timedelta(hours=2, days=chance.randrange(4000))
    return Lie(f"clock {back} slow", {"now": lambda: NOW - back})


def empty_source(place: Place, chance: random.Random) -> Lie:
    """An unmounted directory: the host lists what it had, and stores what is not there."""

    def change(stage: Path) -> None:
        shutil.rmtree(stage / "databases")
        shutil.rmtree(stage / "media")
        (stage / "databases").mkdir()
        (stage / "media").mkdir()

    return changed(place, change, "empty directories")


# content: a snapshot of what was changed after the manifest, soundly sealed


def changed(place: Place, change: Callable[[Path], object], what: str, *, signed: bool = True) -> Lie:
    """With `signed` the host itself was wrong, and took what lies in its stage for what it had counted."""
    parts = _snapshots(place, RUN)
    _forget(place, *parts.values())
    said = change(place.stage)
    content = (place.layout.backup_run(RUN) / MANIFEST).read_bytes()
    place.store(RUN, place.sworn(content) if signed else content)
    return Lie(f"{what} {said if isinstance(said, str) else ''}".strip())


def _sql(statement: Callable[[random.Random], str]) -> Callable[[Place, random.Random], Lie]:
    def tell(place: Place, chance: random.Random) -> Lie:
        text = statement(chance)

        def change(stage: Path) -> None:
            connection = sqlite3.connect(stage / "databases" / "main.sqlite3")
            changed = connection.executescript(text)
            connection.commit()
            changed.close()
            connection.close()

        return changed(place, change, text)

    return tell


def _row(chance: random.Random) -> int:
    return chance.randrange(1, 43)


def one_row_changed(chance: random.Random) -> str:
    row = _row(chance)
    column, value = chance.choice(
        [("title", "title || ' '"), ("body", "x'00' || body"), ("made", "made || 'Z'"), ("author", "1 + author % 3")]
    )
    return f"UPDATE report SET {column} = {value} WHERE id = {row}"


def _photograph(change: Callable[[Path, random.Random], object], what: str) -> Callable[[Place, random.Random], Lie]:
    def tell(place: Place, chance: random.Random) -> Lie:
        def edit(stage: Path) -> str:
            path = chance.choice(sorted(path for path in (stage / "media").rglob("*") if path.is_file()))
            change(path, chance)
            return path.name

        return changed(place, edit, what)

    return tell


def _one_bit(path: Path, chance: random.Random) -> None:
    """Of the same size and time: nothing but the content tells."""
    before = path.stat()
    flip(path, chance)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _to_link(path: Path, chance: random.Random) -> None:
    """To a file with the very same content."""
    twin = path.with_name("twin")
    path.rename(twin)
    path.symlink_to(twin.name)


def stale_log(place: Place, chance: random.Random) -> Lie:
    """A real log, which SQLite would apply: it takes the rows away again, and the file alone is as it was."""

    def change(stage: Path) -> str:
        path = stage / "databases" / "main.sqlite3"
        twin = place.top / "twin.sqlite3"
        shutil.copyfile(path, twin)
        connection = sqlite3.connect(twin)
        connection.execute("PRAGMA wal_autocheckpoint=0")
        lost = connection.execute("DELETE FROM report WHERE id >= ?", (_row(chance),)).rowcount
        connection.commit()
        shutil.copyfile(f"{twin}-wal", f"{path}-wal")  # closing it would bring it into the file
        connection.close()
        return f"{lost} rows"

    return changed(place, change, "a log that takes away")


def canary_changed(place: Place, chance: random.Random) -> Lie:
    """The manifest itself is wrong, signed and sealed: everything is equal to it but the answer."""
    return _manifest_wrong(place, chance, lambda value: value["canaries"][0].update(answer='[[0, ""]]'), "a canary")


def named_file_missing(place: Place, chance: random.Random) -> Lie:
    """Neither stored nor in the manifest, and a row names it."""

    def change(stage: Path) -> None:
        path = chance.choice(sorted(path for path in (stage / "media").rglob("*") if path.is_file()))
        path.unlink()

    parts = _snapshots(place, RUN)
    _forget(place, *parts.values())
    change(place.stage)
    previous = json.loads((place.layout.backup_run(RUN) / MANIFEST).read_bytes())["previous"]
    place.store(RUN, _manifest.to_bytes(place.manifest(RUN, previous)))
    return Lie("a photograph that a row names")


def _manifest_wrong(place: Place, chance: random.Random, edit: Callable[[dict[str, Any]], object], what: str) -> Lie:
    parts = _snapshots(place, RUN)
    _forget(place, parts["manifest"])
    value = json.loads((place.layout.backup_run(RUN) / MANIFEST).read_bytes())
    edit(value)
    place.store_manifest(RUN, json.dumps(value, sort_keys=True).encode(), parts["data"])
    return Lie(what)


LIARS: tuple[Liar[Place], ...] = (
    Liar("a bit flipped in a pack", 3, bit_in_pack),
    Liar("a bit flipped in an index", 2, bit_in_index),
    Liar("a bit flipped in a snapshot", 2, bit_in_snapshot),
    Liar("a bit flipped in the config", 1, bit_in_config),
    Liar("a byte changed in the key file", 1, bit_in_key),
    Liar("the key file cut short", 1, truncated_key),
    Liar("a pack cut short", 2, truncated_pack),
    Liar("a pack missing", 2, missing_pack),
    Liar("an index missing", 2, missing_index),
    Liar("another key", 1, wrong_key),
    Liar("data snapshots swapped", 2, swapped_data),
    Liar("yesterday's manifest under today's run", 2, yesterdays_manifest),
    Liar("yesterday's manifest in today's seal", 2, yesterdays_manifest_sealed),
    Liar("a manifest edited", 2, manifest_edited),
    Liar("a manifest unsigned", 2, manifest_unsigned),
    Liar("signed by a stranger", 2, stranger_signed),
    Liar("a seal replaced", 2, seal_replaced),
    Liar("an unfinished run", 1, unfinished),
    Liar("a broken chain", 2, chain_broken),
    Liar("a clock in the past", 1, clock_in_the_past),
    Liar("an empty source", 4, empty_source),
    Liar("a table dropped", 4, _sql(lambda chance: f"DROP TABLE {chance.choice(['setting', 'report'])}")),
    Liar("one row changed", 4, _sql(one_row_changed)),
    Liar("one row deleted", 4, _sql(lambda chance: f"DELETE FROM report WHERE id = {_row(chance)}")),
    Liar(
        "a sequence changed",
        4,
        _sql(lambda chance: f"UPDATE sqlite_sequence SET seq = seq + {1 + _row(chance)} WHERE name = 'report'"),
    ),
    Liar("an index of a table dropped", 4, _sql(lambda chance: "DROP INDEX report_title")),
    Liar("a photograph missing", 4, _photograph(lambda path, chance: path.unlink(), "removed")),
    Liar("one bit of a photograph", 4, _photograph(_one_bit, "one bit of")),
    Liar("a photograph replaced by a link", 4, _photograph(_to_link, "a link for")),
    Liar("a photograph emptied", 4, _photograph(lambda path, chance: path.write_bytes(b""), "emptied")),
    Liar("a stale log beside the database", 4, stale_log),
    Liar("a canary's answer changed", 4, canary_changed),
    Liar("a named file missing", 4, named_file_missing),
)
