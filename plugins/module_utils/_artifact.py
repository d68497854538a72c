"""The payload: everything a release consists of, in one file whose bytes follow from the commit.

    <application>-<version>.tar                 deterministic, uncompressed
        manifest.json                           always the first member
        code/...                                the source as it was exported
        wheels/requirements.txt, wheels/*.whl   the dependencies, each with its digest
        static/...                              the hashed assets, with staticfiles.json
    <application>-<version>.attestation.json    who built it, when, with what, and what the checks said

A wheel is compressed already and code is small, so compressing the whole would cost time and gain little. Unpacking
does not rely on tarfile's data filter, which Debian 12's Python lacks: every member is checked here.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import json
import os
import platform
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self

from ._errors import BackstayError, InputError
from ._storage import canonical

FORMAT = 1
MANIFEST = "manifest.json"
UNPACKED = ("code", "static")
PACKED = (*UNPACKED, "wheels")

_CHUNK_BYTES = 1 << 20
_BLOCK_BYTES = 4096


@dataclass(frozen=True)
class Manifest:
    """What a payload says about itself. `commit` is empty when the source was a plain directory."""

    application: str
    version: str
    commit: str
    source_digest: str  # sha256 over names, modes and contents of the source
    source_time: str  # UTC ISO 8601: the commit's time, and the time of every member
    runtime: str
    python: str  # "3.13"
    system: str  # "debian-13"
    architecture: str  # "x86_64"
    lock_sha256: str  # of wheels/requirements.txt
    notes: str = ""  # the changelog's entry
    format: int = FORMAT

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def from_json(cls, content: bytes, *, origin: str) -> Manifest:
        """Raises BackstayError when this is not a manifest, or one of a newer format."""
        try:
            data = json.loads(content)
            number = int(data["format"])
        except (ValueError, KeyError, TypeError) as wrong:
            raise BackstayError(
                f"{origin} has no readable manifest: build it again with playbooks/build.yml."
            ) from wrong
        if number > FORMAT:
            raise BackstayError(
                f"{origin} has format {number} and this backstay knows {FORMAT}: "
                "update the host's command with playbooks/site.yml."
            )
        known = {field.name for field in fields(cls)}
        try:
            return cls(**{name: value for name, value in data.items() if name in known})
        except TypeError as wrong:
            raise BackstayError(
                f"The manifest of {origin} is incomplete ({wrong}): build it again with playbooks/build.yml."
            ) from wrong


@dataclass(frozen=True)
class Packed:
    """A payload that was written."""

    path: Path
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class HostFacts:
    """What a payload must have been built for to run here."""

    system: str
    python: str
    architecture: str


def host_facts(root: Path = Path("/")) -> HostFacts:
    """The operating system, the version of /usr/bin/python3, and the architecture of this host."""
    release: dict[str, str] = {}
    for line in (root / "etc/os-release").read_text().splitlines():
        name, _unused, value = line.partition("=")
        release[name] = value.strip().strip("\"'")
    system = f"{release.get('ID', 'unknown')}-{release.get('VERSION_ID', 'unknown')}"
    interpreter = root / "usr/bin/python3"
    try:
        target = interpreter.readlink().name
    except OSError as wrong:
        raise BackstayError(
            f"{interpreter} is not the link to an interpreter that Debian installs: install the package python3."
        ) from wrong
    return HostFacts(system, target.removeprefix("python"), platform.machine())


def iso_time(seconds: int) -> str:
    """Seconds since 1970 as UTC ISO 8601."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def sha256_of(path: Path) -> str:
    """The digest of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def tree_digest(tree: Path) -> str:
    """One digest for names, modes and contents of a tree; times and owners do not count."""
    digest = hashlib.sha256()
    for name, path in _entries(tree):
        info = path.lstat()
        if stat.S_ISLNK(info.st_mode):
            content, kind = hashlib.sha256(os.fsencode(path.readlink())).hexdigest(), "link"
        else:
            content, kind = sha256_of(path), f"{_mode(info.st_mode):o}"
        digest.update(canonical([name, kind, content]) + b"\n")
    return digest.hexdigest()


def _mode(mode: int) -> int:
    return 0o755 if mode & stat.S_IXUSR else 0o644


def _entries(tree: Path) -> list[tuple[str, Path]]:
    """Files and links below a tree as (name in the archive, path), sorted by name; links are not followed."""
    found: list[tuple[str, Path]] = []
    for folder, folders, files in os.walk(tree):
        here = Path(folder)
        links = [name for name in folders if (here / name).is_symlink()]
        found += [((here / name).relative_to(tree).as_posix(), here / name) for name in (*files, *links)]
    for name, _unused in found:
        if not name.isprintable():  # also what is not UTF-8
            raise BackstayError(f"The source holds the name {name!r}, which is not printable text: rename the file.")
    return sorted(found)


def pack(tree: Path, target: Path, source_time: int) -> Packed:
    """Write the payload of a tree that holds manifest.json, code/, wheels/ and static/.

    The same tree gives the same bytes: sorted members, one time (`source_time`, seconds since 1970), no owners, two
    modes. Raises BackstayError for what no payload may hold: sockets, devices, strange names, links that lead out.
    """
    entries = _entries(tree)
    entries.sort(key=lambda entry: (entry[0] != MANIFEST, entry[0]))
    if not entries or entries[0][0] != MANIFEST:
        raise BackstayError(f"{tree} has no {MANIFEST}: nothing was packed.")
    partial = target.with_name(f".{target.name}.partial")
    try:
        with partial.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for name, path in entries:
                _pack_one(archive, name, path, source_time)
            archive.close()
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except OSError as refused:
        raise BackstayError(
            f"{target} could not be written: {refused.strerror or refused}; free some space."
        ) from refused
    finally:
        partial.unlink(missing_ok=True)
    return Packed(target, sha256_of(target), target.stat().st_size)


def _pack_one(archive: tarfile.TarFile, name: str, path: Path, source_time: int) -> None:
    member = tarfile.TarInfo(name)
    member.mtime = source_time
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode):
        member.type = tarfile.SYMTYPE
        member.linkname = str(path.readlink())
        member.mode = 0o777
    elif stat.S_ISREG(info.st_mode):
        member.size = info.st_size
        member.mode = _mode(info.st_mode)
    else:
        raise BackstayError(f"{name} is neither a file nor a link, and a payload holds nothing else: remove it.")
    _check_member(member, origin="The source")
    if member.issym():
        archive.addfile(member)
        return
    with path.open("rb") as content:
        archive.addfile(member, content)


def _check_member(member: tarfile.TarInfo, *, origin: str) -> None:
    """Refuse a member that could touch anything outside the directory it is unpacked into."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or str(name) != member.name or "\0" in member.name:
        raise BackstayError(f"{origin} holds the unsafe name {member.name!r}: do not use it, and ask who built it.")
    if member.name != MANIFEST and (len(name.parts) < 2 or name.parts[0] not in PACKED):
        raise BackstayError(
            f"{origin} holds {member.name!r}, which belongs to none of {', '.join(PACKED)}: build it again."
        )
    if not (member.isreg() or member.issym()) or (member.issym() and member.name == MANIFEST):
        raise BackstayError(
            f"{origin} holds {member.name!r}, which is no plain file: do not use it, and ask who built it."
        )
    if member.issym():
        target = PurePosixPath(member.linkname)
        up = len([part for part in target.parts if part == ".."])
        # `..` only at the beginning: behind another link it would mean something else than it says.
        inside = ".." not in target.parts[up:] and up <= len(name.parts) - 2
        if not member.linkname or target.is_absolute() or not inside:
            raise BackstayError(
                f"{origin} holds the link {member.name!r}, which leads out of {name.parts[0]}/ to "
                f"{member.linkname!r}: replace it with the file."
            )


class _Members:
    """The members of a payload in order, checked; files can be read while iterating."""

    def __init__(self, payload: Path) -> None:
        self.payload = payload
        self.archive: tarfile.TarFile | None = None

    def __enter__(self) -> Self:
        try:
            self.archive = tarfile.open(self.payload, mode="r:")
        except FileNotFoundError as missing:
            raise InputError(f"There is no payload {self.payload}: build it, or send it first.") from missing
        except (tarfile.TarError, OSError) as wrong:
            raise self._broken(wrong) from wrong
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if self.archive is not None:
            self.archive.close()
        if isinstance(error, (tarfile.TarError, EOFError)):
            raise self._broken(error) from error

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        archive = self._opened()
        leaves: set[str] = set()  # files and links
        folders: set[str] = set()
        origin = f"The payload {self.payload.name}"
        for member in archive:
            _check_member(member, origin=origin)
            parents = {str(parent) for parent in PurePosixPath(member.name).parents}
            if member.name in leaves or member.name in folders or parents & leaves:
                raise BackstayError(f"{origin} holds {member.name!r} twice, or below a file: build it again.")
            leaves.add(member.name)
            folders |= parents
            yield member

    def read(self, member: tarfile.TarInfo) -> IO[bytes]:
        content = self._opened().extractfile(member)
        if content is None:
            raise BackstayError(f"{self.payload} holds {member.name}, which is no plain file: build it again.")
        return content

    def _opened(self) -> tarfile.TarFile:
        if self.archive is None:
            raise BackstayError(f"{self.payload} is read before it was opened: this is a fault of Backstay.")
        return self.archive

    def _broken(self, wrong: Exception) -> BackstayError:
        return BackstayError(f"The payload {self.payload} cannot be read ({wrong}): send it again.")


def read_manifest(payload: Path) -> Manifest:
    """The manifest of a payload: its first member, so this reads one block.

    Raises InputError when there is no such file, BackstayError when it is no payload or one of a newer format.
    """
    origin = f"The payload {payload}"
    with _Members(payload) as members:
        for member in members:
            if member.name != MANIFEST:
                break
            return Manifest.from_json(members.read(member).read(), origin=origin)
    raise BackstayError(f"{origin} does not begin with {MANIFEST}: build it again with playbooks/build.yml.")


def check_whole(payload: Path, sha256: str, *, remedy: str = "send it again") -> None:
    """Raises BackstayError where the content of a payload has another digest than this one."""
    actual = sha256_of(payload)
    if actual != sha256:
        size_bytes = payload.stat().st_size
        damage = "is cut short" if _cut_short(payload) else "is damaged"
        raise BackstayError(
            f"The payload {payload.name} {damage}: its digest is {actual[:16]}… ({size_bytes} bytes) "
            f"and {sha256[:16]}… was expected: {remedy}."
        )


def verify(payload: Path, *, sha256: str, application: str, system: str, python: str, architecture: str) -> Manifest:
    """Whether this is the payload that was asked for, whole, and built for this host.

    Raises InputError when there is no such file, BackstayError with the one reason otherwise.
    """
    if not payload.exists():
        raise InputError(f"There is no payload {payload}: build it, or send it first.")
    check_whole(payload, sha256)
    manifest = read_manifest(payload)
    if manifest.application != application:
        raise BackstayError(
            f"The payload {payload.name} is one of {manifest.application} and {application} was expected: "
            "send the right payload."
        )
    for what, built, here in (
        ("operating system", manifest.system, system),
        ("Python", manifest.python, python),
        ("architecture", manifest.architecture, architecture),
    ):
        if built != here:
            raise BackstayError(
                f"{application} {manifest.version} was built for the {what} {built} and this host has {here}: "
                f"build it on a host with {here}."
            )
    return manifest


def _cut_short(payload: Path) -> bool:
    """Whether the archive's closing blocks are missing."""
    size_bytes = payload.stat().st_size
    if size_bytes % tarfile.RECORDSIZE:
        return True
    with payload.open("rb") as file:
        file.seek(max(0, size_bytes - 2 * tarfile.BLOCKSIZE))
        return any(file.read())


def unpacked_bytes(payload: Path) -> tuple[int, int]:
    """(bytes, inodes) that `unpack` will take, byte code included, in whole blocks of 4096 bytes."""
    size = inodes = 0
    folders: set[str] = set()
    with _Members(payload) as members:
        for member in members:
            name = PurePosixPath(member.name)
            if name.parts[0] not in (*UNPACKED, MANIFEST):
                continue
            copies = 2 if name.suffix == ".py" else 1
            size += copies * -(-member.size // _BLOCK_BYTES) * _BLOCK_BYTES
            inodes += copies
            folders.update(str(parent) for parent in name.parents)
            if copies == 2:
                folders.add(str(name.parent / "__pycache__"))
    return size + len(folders) * _BLOCK_BYTES, inodes + len(folders)


def unpack(payload: Path, target: Path) -> Manifest:
    """Write code/, static/ and manifest.json below the existing, empty directory `target`.

    Files get 0644 or 0755 and directories 0755, whatever the umask; the directory above guards them. Nothing is
    synced: the caller syncs the tree once. Raises BackstayError for anything that would land outside `target`, and
    OSError as the disk raises it.
    """
    return _unpack(payload, target, UNPACKED)


def unpack_wheels(payload: Path, target: Path) -> None:
    """Write wheels/ below the existing directory `target`."""
    _unpack(payload, target, ("wheels",))


def _unpack(payload: Path, target: Path, parts: tuple[str, ...]) -> Manifest:
    if payload.exists() and _cut_short(payload):
        raise BackstayError(f"The payload {payload} is cut short: send it again.")
    manifest: Manifest | None = None
    links: list[tuple[Path, str]] = []
    folders: set[Path] = {target}
    with _Members(payload) as members:
        for member in members:
            path = target / member.name
            if member.name == MANIFEST:
                content = members.read(member).read()
                manifest = Manifest.from_json(content, origin=f"The payload {payload}")
                _write(path, io.BytesIO(content), 0o644)
            elif PurePosixPath(member.name).parts[0] in parts:
                _make_folders(path.parent, folders)
                if member.issym():
                    links.append((path, member.linkname))
                else:
                    _write(path, members.read(member), _mode(member.mode))
    for path, pointed in links:  # last, so that nothing is ever written through one
        path.symlink_to(pointed)
    if manifest is None:
        raise BackstayError(f"The payload {payload} has no {MANIFEST}: build it again with playbooks/build.yml.")
    return manifest


def unpack_source(archive: Path, target: Path) -> None:
    """Write an export of the source, a tar as `git archive` makes it, into the existing, empty directory `target`.

    Raises BackstayError for what no payload may hold, and for an export that cannot be read.
    """
    folders = {target}
    links: list[tuple[Path, str]] = []
    try:
        with tarfile.open(archive, mode="r:") as opened:
            for member in opened:
                if member.isdir():
                    continue
                path = target / member.name
                member.name = f"code/{member.name}"
                _check_member(member, origin="The source")
                _make_folders(path.parent, folders)
                if member.issym():
                    links.append((path, member.linkname))
                    continue
                content = opened.extractfile(member)
                if content is None:
                    raise BackstayError(f"{archive} holds {member.name}, which is no plain file: send it again.")
                _write(path, content, _mode(member.mode))
    except (tarfile.TarError, EOFError) as wrong:
        raise BackstayError(f"The exported source {archive} cannot be read ({wrong}): build again.") from wrong
    for path, pointed in links:
        path.symlink_to(pointed)


def _make_folders(folder: Path, made: set[Path]) -> None:
    if folder in made:
        return
    _make_folders(folder.parent, made)
    folder.mkdir()
    folder.chmod(0o755)
    made.add(folder)


def _write(path: Path, content: IO[bytes], mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        while chunk := content.read(_CHUNK_BYTES):
            file.write(chunk)
        os.fchmod(descriptor, mode)


def attestation(
    packed: Packed,
    manifest: Manifest,
    *,
    built_at: str,
    builder: str,
    tools: dict[str, str],
    checks: list[dict[str, Any]],
) -> dict[str, Any]:
    """What was seen while building: beside the payload, because times and hosts differ and the payload must not."""
    return {
        "format": FORMAT,
        "payload_sha256": packed.sha256,
        "payload_bytes": packed.size_bytes,
        "application": manifest.application,
        "version": manifest.version,
        "commit": manifest.commit,
        "source_digest": manifest.source_digest,
        "built_at": built_at,
        "builder": builder,
        "tools": tools,
        "checks": checks,
        "migrations": None,
    }
