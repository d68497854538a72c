"""The manifest of a restore point: what was in every database, every file, and which answers the data gave.

It is written while the backup is made, signed, and kept both in the repository and outside of it. Each names the digest
of the one before it. What a repository returns is somebody else's word until its signature was judged, so reading one
refuses every field that is not exactly as it must be.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NoReturn, TypeVar

from ._errors import BackstayError

FORMAT = 1
LIMIT = 20  # so many differences are told in full, and how many more there are
SIZE_LIMIT_BYTES = 512 << 20
# Of a database's properties, these must survive a restore. The others (pages, versions of a server) tell how it was
# kept, and may differ after a restore that lost nothing.
LASTING = ("user_version", "application_id", "encoding")


@dataclass(frozen=True, slots=True)
class TableFacts:
    """One table: how many rows, and the digest of their content as the engine's `facts` makes it."""

    rows: int
    sha256: str


@dataclass(frozen=True)
class DatabaseFacts:
    """What is in one database. `file` is its copy, relative to the stage, with its size and digest (0 and "" where no
    file was looked at). `sequences` says where each counter stands. `engine` is sqlite or postgresql."""

    name: str
    engine: str
    file: str
    size_bytes: int
    sha256: str
    schema_sha256: str
    tables: Mapping[str, TableFacts]
    sequences: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MediaFile:
    """One file: its size, the digest of its content, and when it was last changed (nanoseconds since 1970)."""

    size_bytes: int
    sha256: str
    mtime_ns: int


@dataclass(frozen=True)
class CanaryAnswer:
    """What a canary's query answered: rows as JSON, in the one form in which answers are compared."""

    name: str
    database: str
    answer: str


@dataclass(frozen=True)
class Manifest:
    """One restore point. Times are UTC ISO 8601. `payload` is the digest of the live release's payload, "" where none
    was live; `previous` that of the manifest before this one; `newest` has, for each database whose newest row is asked
    for, the time of that row (None where it has none). Paths of files are relative to their part of the stage."""

    run: str
    application: str
    host: str
    release: str
    version: str
    payload: str
    migrations: tuple[str, ...]
    began: str
    ended: str
    tools: Mapping[str, str]
    databases: Mapping[str, DatabaseFacts]
    media: Mapping[str, MediaFile]
    configuration: Mapping[str, MediaFile]
    artifacts: Mapping[str, MediaFile]
    canaries: tuple[CanaryAnswer, ...] = ()
    newest: Mapping[str, str | None] = field(default_factory=dict)
    previous: str | None = None
    format: int = FORMAT

    @property
    def rows(self) -> int:
        """Rows of all tables of all databases."""
        return sum(table.rows for facts in self.databases.values() for table in facts.tables.values())

    @property
    def size_bytes(self) -> int:
        """Bytes of everything that the restore point holds."""
        files = (*self.media.values(), *self.configuration.values(), *self.artifacts.values())
        return sum(each.size_bytes for each in files) + sum(each.size_bytes for each in self.databases.values())


@dataclass(frozen=True)
class Difference:
    """One thing that is not as the manifest says, and the sentence that tells it."""

    where: str
    seen: str
    expected: str
    sentence: str


# as bytes


def digest(content: bytes) -> str:
    """The SHA-256 by which the next manifest, the seal and the catalogue name a manifest."""
    return hashlib.sha256(content).hexdigest()


def to_bytes(manifest: Manifest) -> bytes:
    """The canonical form, which is signed. Equal manifests give equal bytes."""
    value = {
        name: getattr(manifest, name)
        for name in Manifest.__dataclass_fields__
        if name not in ("databases", "media", "configuration", "artifacts", "canaries")
    }
    value["databases"] = {name: database_to_dict(facts) for name, facts in manifest.databases.items()}
    value["canaries"] = [
        {"name": canary.name, "database": canary.database, "answer": canary.answer} for canary in manifest.canaries
    ]
    for part in ("media", "configuration", "artifacts"):
        value |= _files_to_dict(part, getattr(manifest, part))
    # In ASCII, as all that is signed (`_attestation`): it reaches ssh-keygen byte for byte in every locale.
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"


def database_to_dict(facts: DatabaseFacts) -> dict[str, Any]:
    """Facts as they are in JSON; `database_from_dict` reads them."""
    tables = {name: {"rows": table.rows, "sha256": table.sha256} for name, table in facts.tables.items()}
    plain = {name: getattr(facts, name) for name in ("name", "engine", "file", "size_bytes", "sha256", "schema_sha256")}
    return {**plain, "tables": tables, "sequences": dict(facts.sequences), "properties": dict(facts.properties)}


def _files_to_dict(part: str, files: Mapping[str, MediaFile]) -> dict[str, Any]:
    """Files by path. Where a name is no UTF-8, JSON has no letters for it: those are in a mapping of their own, named
    by the hexadecimal form of their bytes."""
    plain: dict[str, Any] = {}
    raw: dict[str, Any] = {}
    for path, file in files.items():
        value = {"size_bytes": file.size_bytes, "sha256": file.sha256, "mtime_ns": file.mtime_ns}
        try:
            path.encode()
        except UnicodeEncodeError:
            raw[path.encode(errors="surrogateescape").hex()] = value
        else:
            plain[path] = value
    return {part: plain, **({f"{part}_raw": raw} if raw else {})}


def from_bytes(content: bytes, *, origin: str) -> Manifest:
    """A manifest from its bytes; `origin` names it in sentences, such as "the manifest of run ... in disk".

    Raises BackstayError for a newer format and for every field that is missing, unknown or not as it must be.
    """
    read = _Reader(origin)
    if len(content) > SIZE_LIMIT_BYTES:
        read.refuse("", f"{len(content)} bytes", f"at most {SIZE_LIMIT_BYTES}")
    try:
        value = json.loads(content.decode(), object_pairs_hook=read.once, parse_constant=read.no_constant)
    except (ValueError, RecursionError) as broken:
        raise BackstayError(
            f"{_upper(origin)} cannot be read as JSON ({_shown(str(broken), 80)}): it was cut off or is damaged; use "
            "another restore point, or the manifest that the host keeps of this run."
        ) from broken
    if isinstance(value, dict) and _is_whole(value.get("format")) and value["format"] > FORMAT:
        raise BackstayError(
            f"{_upper(origin)} has format {value['format']} and this backstay knows {FORMAT}: update the host's "
            "command with playbooks/site.yml, then run this again."
        )
    return read.manifest(value)


def database_from_dict(value: Any, *, origin: str) -> DatabaseFacts:
    """Facts of one database from JSON. Raises BackstayError like `from_bytes`."""
    read = _Reader(origin)
    return read.database(value, "facts")


_PATH = re.compile(r"(?!/)(?!.*(?:^|/)\.{0,2}(?:/|\Z))[^\0]{1,4096}", re.DOTALL)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|\+00:00)")
_RUN = re.compile(r"\d{8}T\d{9}-\d{1,10}")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_WORD = re.compile(r"[!-~]{1,200}")
_HEX = re.compile(r"([0-9a-f]{2}){1,4096}")
_FILE_KEYS = frozenset(("size_bytes", "sha256", "mtime_ns"))
_LARGEST = (1 << 63) - 1
_Value = TypeVar("_Value")


class _Reader:
    """Reads what nobody has vouched for."""

    def __init__(self, origin: str) -> None:
        self.origin = origin

    def refuse(self, where: str, seen: Any, expected: str) -> NoReturn:
        place = f"`{_shown(where)}` in " if where else ""
        text = seen if isinstance(seen, str) else json.dumps(seen, default=str)
        raise BackstayError(
            f"{_upper(place + self.origin)} is {_shown(text, 60) or 'empty'} and must be {expected}: it is damaged, or "
            "was not written by backstay; use another restore point."
        )

    def once(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key is there twice")
        return found

    def no_constant(self, name: str) -> NoReturn:
        raise ValueError(f"{name} is no number")

    def keys(self, value: Any, where: str, needed: Iterable[str], optional: Iterable[str] = ()) -> dict[str, Any]:
        needed = tuple(needed)
        if not isinstance(value, dict):
            self.refuse(where, value, "an object")
        found: dict[str, Any] = value
        for key in needed:
            if key not in found:
                self.refuse(f"{where}.{key}".lstrip("."), "missing", "there")
        for key in found:
            if key not in needed and key not in optional:
                self.refuse(f"{where}.{key}".lstrip("."), "unknown", "absent")
        return found

    def text(self, value: Any, where: str, pattern: re.Pattern[str], expected: str) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            self.refuse(where, value, expected)
        return value

    def free(self, value: Any, where: str, limit: int = 1 << 20) -> str:
        if not isinstance(value, str) or len(value) > limit:
            self.refuse(where, value, f"a text of at most {limit} letters")
        return value

    def whole(self, value: Any, where: str, least: int = 0) -> int:
        if not _is_whole(value) or not least <= value <= _LARGEST:
            self.refuse(where, value, f"a whole number from {least} on")
        return int(value)

    def sha256(self, value: Any, where: str) -> str:
        return self.text(value, where, _SHA256, "a SHA-256 in hexadecimal")

    def time(self, value: Any, where: str) -> str:
        return self.text(value, where, _TIME, "a time in UTC such as 2026-11-21T02:00:00Z")

    def mapping(
        self, value: Any, where: str, each: Callable[[Any, str], _Value], limit: int = 300
    ) -> dict[str, _Value]:
        if not isinstance(value, dict):
            self.refuse(where, value, "an object")
        return {self.free(key, f"a key of {where}", limit): each(item, f"{where}.{key}") for key, item in value.items()}

    def sequence(self, value: Any, where: str) -> Sequence[Any]:
        if not isinstance(value, list):
            self.refuse(where, value, "a list")
        return value

    def manifest(self, value: Any) -> Manifest:
        parts = ("media", "configuration", "artifacts")
        found = self.keys(value, "", Manifest.__dataclass_fields__, [f"{part}_raw" for part in parts])
        if found["format"] != FORMAT or not _is_whole(found["format"]):
            self.refuse("format", found["format"], str(FORMAT))
        databases = self.mapping(found["databases"], "databases", self.database)
        for name, facts in databases.items():
            if facts.name != name:
                self.refuse(f"databases.{name}.name", facts.name, name)
        return Manifest(
            run=self.text(found["run"], "run", _RUN, "a run such as 20261121T020000123-4711"),
            application=self.text(found["application"], "application", _WORD, "a word"),
            host=self.text(found["host"], "host", _WORD, "a word"),
            release=self.free(found["release"], "release", 200),
            version=self.free(found["version"], "version", 200),
            payload=found["payload"] if found["payload"] == "" else self.sha256(found["payload"], "payload"),
            migrations=tuple(
                self.free(each, "migrations", 500) for each in self.sequence(found["migrations"], "migrations")
            ),
            began=self.time(found["began"], "began"),
            ended=self.time(found["ended"], "ended"),
            tools=self.mapping(found["tools"], "tools", lambda item, where: self.free(item, where, 300)),
            databases=databases,
            media=self.files(found, "media"),
            configuration=self.files(found, "configuration"),
            artifacts=self.files(found, "artifacts"),
            canaries=tuple(self.canary(each) for each in self.sequence(found["canaries"], "canaries")),
            newest=self.mapping(
                found["newest"], "newest", lambda item, where: None if item is None else self.time(item, where)
            ),
            previous=None if found["previous"] is None else self.sha256(found["previous"], "previous"),
        )

    def canary(self, value: Any) -> CanaryAnswer:
        found = self.keys(value, "canaries", CanaryAnswer.__dataclass_fields__)
        return CanaryAnswer(**{name: self.free(found[name], f"canaries.{name}") for name in found})

    def database(self, value: Any, where: str) -> DatabaseFacts:
        found = self.keys(value, where, DatabaseFacts.__dataclass_fields__)
        engine = found["engine"]
        if engine not in ("sqlite", "postgresql"):
            self.refuse(f"{where}.engine", engine, "sqlite or postgresql")
        return DatabaseFacts(
            name=self.text(found["name"], f"{where}.name", _NAME, "a name"),
            engine=str(engine),
            file=self.text(found["file"], f"{where}.file", _PATH, "a relative path without .."),
            size_bytes=self.whole(found["size_bytes"], f"{where}.size_bytes"),
            sha256=found["sha256"] if found["sha256"] == "" else self.sha256(found["sha256"], f"{where}.sha256"),
            schema_sha256=self.sha256(found["schema_sha256"], f"{where}.schema_sha256"),
            tables=self.mapping(found["tables"], f"{where}.tables", self.table, 1000),
            sequences=self.mapping(
                found["sequences"], f"{where}.sequences", lambda item, at: self.free(item, at, 100), 1000
            ),
            properties=self.mapping(found["properties"], f"{where}.properties", self.property),
        )

    def table(self, value: Any, where: str) -> TableFacts:
        found = self.keys(value, where, TableFacts.__dataclass_fields__)
        return TableFacts(self.whole(found["rows"], f"{where}.rows"), self.sha256(found["sha256"], f"{where}.sha256"))

    def property(self, value: Any, where: str) -> int | str:
        if isinstance(value, str):
            return self.free(value, where, 300)
        return self.whole(value, where, least=-_LARGEST)

    def files(self, found: Mapping[str, Any], part: str) -> dict[str, MediaFile]:
        plain = self.keys(found[part], part, (), found[part] if isinstance(found[part], dict) else ())
        for path in plain:
            try:
                path.encode()
            except UnicodeEncodeError:
                self.refuse(f"{part}.{path}", path, "a path of whole letters")
        given = dict(plain)
        raw = found.get(f"{part}_raw", {})
        for key, value in self.keys(raw, f"{part}_raw", (), raw if isinstance(raw, dict) else ()).items():
            name = self.text(key, f"a key of {part}_raw", _HEX, "bytes in hexadecimal")
            given[bytes.fromhex(name).decode(errors="surrogateescape")] = value
        files = {}
        for path, value in given.items():
            if not _PATH.fullmatch(path):
                self.refuse(f"{part}.{path}", path, "a relative path without ..")
            if not isinstance(value, dict) or value.keys() != _FILE_KEYS:
                self.refuse(f"{part}.{path}", value, "an object with size_bytes, sha256 and mtime_ns")
            where = f"{part}.{path}"
            files[path] = MediaFile(
                self.whole(value["size_bytes"], where),
                self.sha256(value["sha256"], where),
                self.whole(value["mtime_ns"], where, least=-_LARGEST),
            )
        return files


def _is_whole(value: Any) -> bool:
    """Whether JSON gave a whole number: to Python, true and false are numbers too."""
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(text: str, limit: int = 120) -> str:
    """Somebody else's text in a sentence: nothing in it may steer a terminal, and it stays short."""
    safe = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[: limit * 2])
    return safe if len(safe) <= limit else f"{safe[: limit // 2]}…{safe[-limit // 3 :]}"


def _upper(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


# comparing


def compare(
    manifest: Manifest,
    *,
    databases: Mapping[str, DatabaseFacts] | None = None,
    media: Mapping[str, MediaFile] | None = None,
    configuration: Mapping[str, MediaFile] | None = None,
    artifacts: Mapping[str, MediaFile] | None = None,
    canaries: Sequence[CanaryAnswer] | None = None,
    limit: int = LIMIT,
) -> tuple[Difference, ...]:
    """How what was found differs from the manifest; what is None was not looked at. Empty: all is equal.

    At most `limit` differences are told, and one more that says how many there are beyond them.
    """
    parts = {"media": media, "configuration": configuration, "artifacts": artifacts}
    return limited(_all(manifest, databases, parts, canaries), limit)


def limited(differences: Iterable[Difference], limit: int = LIMIT) -> tuple[Difference, ...]:
    """The first `limit` of them, and one that counts the rest."""
    stream = iter(differences)
    first = tuple(islice(stream, limit))
    rest = sum(1 for each in stream)
    if not rest:
        return first
    what = "one more difference" if rest == 1 else f"{rest:,} more differences"
    verb = "is" if rest == 1 else "are"
    return (*first, Difference("", f"{limit + rest}", "0", f"There {verb} {what} beside these."))


def _all(
    manifest: Manifest,
    databases: Mapping[str, DatabaseFacts] | None,
    parts: Mapping[str, Mapping[str, MediaFile] | None],
    canaries: Sequence[CanaryAnswer] | None,
) -> Iterator[Difference]:
    if databases is not None:
        for name, expected in manifest.databases.items():
            if name in databases:
                yield from compare_database(expected, databases[name])
            else:
                yield Difference(f"databases/{name}", "missing", "there", f"The database {name} is missing.")
        for name in databases:
            if name not in manifest.databases:
                sentence = f"The database {_shown(name)} is there and the manifest does not know it."
                yield Difference(f"databases/{name}", "there", "nothing", sentence)
    if canaries is not None:
        yield from compare_canaries(manifest.canaries, canaries)
    for part, files in parts.items():
        if files is not None:
            yield from compare_files(part, getattr(manifest, part), files)


def compare_database(expected: DatabaseFacts, seen: DatabaseFacts) -> tuple[Difference, ...]:
    """How a database differs from what the manifest says of it: all differences, in the manifest's order.

    Its file is compared where both sides know its digest; a restored database that was opened since has another.
    """
    return tuple(_database(expected, seen))


def _database(expected: DatabaseFacts, seen: DatabaseFacts) -> Iterator[Difference]:
    name = expected.name
    where = f"databases/{name}"
    if expected.engine != seen.engine:
        yield Difference(
            where, seen.engine, expected.engine, f"The database {name} is {seen.engine} and was {expected.engine}."
        )
        return
    if expected.sha256 and seen.sha256 and expected.sha256 != seen.sha256:
        yield Difference(
            expected.file,
            seen.sha256,
            expected.sha256,
            f"The file {_shown(expected.file)} has {_bytes(seen.size_bytes)} with the digest {seen.sha256[:16]}… and "
            f"the manifest says {_bytes(expected.size_bytes)} with {expected.sha256[:16]}….",
        )
    if expected.schema_sha256 != seen.schema_sha256:
        yield Difference(
            f"{where}/schema",
            seen.schema_sha256,
            expected.schema_sha256,
            f"The schema of the database {name} is another than in the manifest: its tables, columns, indexes or "
            "triggers differ.",
        )
    yield from _tables(name, expected.tables, seen.tables)
    for what, wanted, found in (
        ("sequence", expected.sequences, seen.sequences),
        ("property", _lasting(expected), _lasting(seen)),
    ):
        for key in sorted({**wanted, **found}):
            before, now = wanted.get(key, "nothing"), found.get(key, "nothing")
            if before != now:
                verb = "stands at" if what == "sequence" else "is"
                yield Difference(
                    f"{where}/{what}/{key}",
                    str(now),
                    str(before),
                    f"The {what} {_shown(key)} of the database {name} {verb} {_shown(str(now))} and the manifest says "
                    f"{_shown(str(before))}.",
                )


def _lasting(facts: DatabaseFacts) -> dict[str, int | str]:
    return {key: value for key, value in facts.properties.items() if key in LASTING}


def _tables(database: str, expected: Mapping[str, TableFacts], seen: Mapping[str, TableFacts]) -> Iterator[Difference]:
    for table, wanted in expected.items():
        where, shown = f"databases/{database}/{table}", _shown(table)
        found = seen.get(table)
        if found is None:
            sentence = f"The table {shown} of the database {database} is missing and had {_rows(wanted.rows)}."
            yield Difference(where, "missing", _rows(wanted.rows), sentence)
        elif found.rows != wanted.rows:
            sentence = (
                f"The table {shown} of the database {database} has {_rows(found.rows)} and the manifest says "
                f"{wanted.rows:,}."
            )
            yield Difference(where, str(found.rows), str(wanted.rows), sentence)
        elif found.sha256 != wanted.sha256:
            sentence = (
                f"The content of the table {shown} of the database {database} differs from the manifest, though it has "
                f"the same {_rows(wanted.rows)}."
            )
            yield Difference(where, found.sha256, wanted.sha256, sentence)
    for table in seen:
        if table not in expected:
            sentence = (
                f"The table {_shown(table)} of the database {database} is there and the manifest does not know it."
            )
            yield Difference(f"databases/{database}/{table}", _rows(seen[table].rows), "nothing", sentence)


def compare_canaries(expected: Sequence[CanaryAnswer], seen: Sequence[CanaryAnswer]) -> Iterator[Difference]:
    """How answers differ. A canary that was not asked when the backup was made has nothing to be compared with."""
    answers = {(canary.database, canary.name): canary.answer for canary in seen}
    for canary in expected:
        answer = answers.get((canary.database, canary.name))
        if answer != canary.answer:
            now = "was not asked" if answer is None else f"answers {_shown(answer, 80)}"
            yield Difference(
                f"canaries/{canary.name}",
                answer or "",
                canary.answer,
                f"The canary {_shown(canary.name)} {now} and the manifest says {_shown(canary.answer, 80)}.",
            )


_KIND = {"media": "photograph", "configuration": "file", "artifacts": "payload"}


def compare_files(part: str, expected: Mapping[str, MediaFile], seen: Mapping[str, MediaFile]) -> Iterator[Difference]:
    """How the files of a part (media, configuration, artifacts) differ: size and content count, times do not."""
    kind = _KIND.get(part, "file")
    for path, wanted in expected.items():
        shown = f"{part}/{_shown(path)}"
        found = seen.get(path)
        if found is None:
            sentence = f"The {kind} {shown} is missing."
            yield Difference(f"{part}/{path}", "missing", _bytes(wanted.size_bytes), sentence)
        elif found.size_bytes != wanted.size_bytes:
            sentence = f"The {kind} {shown} has {_bytes(found.size_bytes)} and the manifest says {wanted.size_bytes:,}."
            yield Difference(f"{part}/{path}", str(found.size_bytes), str(wanted.size_bytes), sentence)
        elif found.sha256 != wanted.sha256:
            sentence = f"The content of the {kind} {shown} differs from the manifest, though its size is the same."
            yield Difference(f"{part}/{path}", found.sha256, wanted.sha256, sentence)
    for path in seen:
        if path not in expected:
            sentence = f"The {kind} {part}/{_shown(path)} is there and the manifest does not know it."
            yield Difference(f"{part}/{path}", _bytes(seen[path].size_bytes), "nothing", sentence)


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _bytes(count: int) -> str:
    return "1 byte" if count == 1 else f"{count:,} bytes"
