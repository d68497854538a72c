"""Whether restored data equal the manifest of the restore point: every row, every file, every answer.

The databases are looked at in processes of their own (two at a time, beside the media): a damaged file can end the
process that opens it, and that is a finding and no accident. No symlink is followed; memory stays flat.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import hashlib
import json
import os
import pwd
import re
import sqlite3
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ._errors import BackstayError, InputError
from ._manifest import (
    DatabaseFacts,
    Difference,
    Manifest,
    MediaFile,
    compare_database,
    database_from_dict,
    database_to_dict,
)
from ._room import disk_refusal
from ._run import Runner, run
from ._sandbox import SPARE_BYTES, library_command

if TYPE_CHECKING:
    from ._application import Application
    from ._postgresql import Server

DATABASES, MEDIA, CONFIGURATION, ARTIFACTS = "databases", "media", "configuration", "artifacts"
ALL = (DATABASES, MEDIA, CONFIGURATION, ARTIFACTS)
LIMIT = 20
DISK = "/var/tmp"  # noqa: S108 - /tmp may be in memory; what is made there is made for us alone
_BLOCK_BYTES = 1 << 20
_SECONDS = 86400.0
_CANARY_SECONDS = 300.0  # ten times what it may take where it is backed up: nothing is in memory yet, and all gives way
_BESIDE = ("-wal", "-journal")
_NO_ROOM = os.strerror(errno.ENOSPC)  # as a server says it too


@dataclass(frozen=True)
class Restored:
    """What was found: at most `LIMIT` differences of `count`, and the time of the newest row of each database that the
    settings ask for (UTC ISO 8601)."""

    differences: tuple[Difference, ...] = ()
    count: int = 0
    newest: Mapping[str, str] = field(default_factory=dict)


def check_restored(
    directory: Path,
    manifest: Manifest,
    application: Application,
    *,
    parts: Sequence[str] = ALL,
    scratch: Path | None = None,
    runner: Runner = run,
) -> tuple[Difference, ...]:
    """How restored data differ from the manifest: at most 20 differences; none where they are equal.

    `directory` has the shape of the stage (databases/, media/, configuration/, artifacts/); `parts` says which of them
    are looked at. `scratch` is where a throw-away cluster of PostgreSQL may lie (default: `directory`).
    """
    return examine(directory, manifest, application, parts=parts, scratch=scratch, runner=runner).differences


def examine(
    directory: Path,
    manifest: Manifest,
    application: Application,
    *,
    parts: Sequence[str] = ALL,
    scratch: Path | None = None,
    runner: Runner = run,
    whole: bool = False,
) -> Restored:
    """The same, with what else was learnt. With `whole`, every database that the application declares must be in the
    manifest; without, that may be of a part. Raises BackstayError where it could not look."""
    found = _Found()
    with ThreadPoolExecutor(max_workers=2) as pool:
        databases: list[Future[_Answers]] = []
        if DATABASES in parts:
            if whole:
                found.add(_not_covered(manifest, application))
            databases = list(
                _look_at_databases(
                    directory, manifest, application, scratch=scratch or directory, runner=runner, pool=pool
                )
            )
        missing: set[str] = set()
        if MEDIA in parts:
            found.add(_files(directory / MEDIA, MEDIA, manifest.media, missing))
        for part, expected in ((CONFIGURATION, manifest.configuration), (ARTIFACTS, manifest.artifacts)):
            if part in parts:
                found.add(_files(directory / part, part, expected, set()))
        newest: dict[str, str] = {}
        refused: tuple[str, ...] = ()
        for future in databases:
            answers = future.result()
            found.add(answers.differences)
            refused += answers.refused
            newest |= answers.newest
            if MEDIA in parts:
                found.add(_named(answers, manifest, missing))
    if refused and not found.count:
        raise InputError(refused[0], lines=refused)
    return Restored(tuple(found.first), found.count, newest)


class _Found:
    """Differences in the order in which they were found, of which the first are kept and all are counted."""

    def __init__(self) -> None:
        self.first: list[Difference] = []
        self.count = 0

    def add(self, differences: Iterable[Difference]) -> None:
        for difference in differences:
            self.count += 1
            if len(self.first) < LIMIT:
                self.first.append(difference)


@dataclass(frozen=True)
class _Answers:
    """What the look at one database gave: `files` are the paths that it names, below the media. `refused` tells which
    queries of the settings are wrong: where all else is equal, that is no fault of the data."""

    database: str
    differences: tuple[Difference, ...] = ()
    files: tuple[str, ...] = ()
    newest: Mapping[str, str] = field(default_factory=dict)
    refused: tuple[str, ...] = ()


def _not_covered(manifest: Manifest, application: Application) -> Iterator[Difference]:
    for database in application.databases:
        if database.name not in manifest.databases:
            yield Difference(
                f"{DATABASES}/{database.name}",
                "nothing",
                "its facts in the manifest",
                f"The restore point {manifest.run} holds nothing of the database {database.name}, which the "
                "application declares: choose another point, and look at what made this one.",
            )


def _named(answers: _Answers, manifest: Manifest, missing: set[str]) -> Iterator[Difference]:
    for path in answers.files:
        if path not in manifest.media or path in missing:
            yield Difference(
                f"{MEDIA}/{path}",
                "missing",
                "a file",
                f"The database {answers.database} names the file {_short(path)}, and the restore point does not hold "
                "it: choose another point, or be prepared to lose that file.",
            )


# files


def file_difference(part: str, path: str, seen: str, expected: str, sentence: str) -> Difference:
    return Difference(f"{part}/{path}", seen, expected, sentence)


def _files(top: Path, part: str, expected: Mapping[str, MediaFile], missing: set[str]) -> Iterator[Difference]:
    """How the files below `top` differ from those of the manifest: first those it names, then those it does not.

    Paths that are not there as they should be are added to `missing`.
    """
    seen: set[str] = set()
    for path, kind, digest, size_bytes in _walk(top):
        wanted = expected.get(path)
        if wanted is None:
            if kind in ("file", "link"):
                yield file_difference(
                    part, path, kind, "nothing", f"{part}/{_short(path)} is there and the manifest does not know it."
                )
            continue
        seen.add(path)
        if kind != "file":
            missing.add(path)
            sentence = f"{part}/{_short(path)} is a {kind} and a file of {wanted.size_bytes} bytes was backed up."
            yield file_difference(part, path, kind, "file", sentence)
        elif size_bytes != wanted.size_bytes:
            missing.add(path)
            sentence = f"{part}/{_short(path)} has {size_bytes} bytes and {wanted.size_bytes} were backed up."
            yield file_difference(part, path, str(size_bytes), str(wanted.size_bytes), sentence)
        elif digest != wanted.sha256:
            missing.add(path)
            sentence = (
                f"{part}/{_short(path)} has the digest {digest[:16]}… and {wanted.sha256[:16]}… was backed up: its "
                "content is another."
            )
            yield file_difference(part, path, digest, wanted.sha256, sentence)
    for path in expected:
        if path not in seen:
            missing.add(path)
            sentence = f"{part}/{_short(path)} is missing and {expected[path].size_bytes} bytes were backed up."
            yield file_difference(part, path, "missing", "file", sentence)


def _walk(top: Path) -> Iterator[tuple[str, str, str, int]]:
    """(path below `top`, kind, sha256, size in bytes) of everything that is no directory; no link is followed."""
    try:
        root = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        for folder, folders, names, at in os.fwalk(".", dir_fd=root, follow_symlinks=False):
            below = PurePosixPath(folder)
            for name in sorted((*names, *(each for each in folders if _kind(each, at) == "link"))):
                yield str(below / name), *_look(name, at)
    finally:
        os.close(root)


def _kind(name: str, at: int) -> str:
    mode = os.stat(name, dir_fd=at, follow_symlinks=False).st_mode
    if stat.S_ISLNK(mode):
        return "link"
    return "file" if stat.S_ISREG(mode) else "directory" if stat.S_ISDIR(mode) else "special file"


def _look(name: str, at: int) -> tuple[str, str, int]:
    kind = _kind(name, at)
    if kind != "file":
        return kind, "", 0
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    digest, size = hashlib.sha256(), 0
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            size += len(block)
    return "file", digest.hexdigest(), size


def _short(path: str) -> str:
    """A path for a sentence: whatever strange letters it has, they are shown and not printed."""
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in path)
    return text if len(text) <= 120 else f"{text[:60]}…{text[-50:]}"


# databases


def _look_at_databases(
    directory: Path,
    manifest: Manifest,
    application: Application,
    *,
    scratch: Path,
    runner: Runner,
    pool: ThreadPoolExecutor,
) -> Iterator[Future[_Answers]]:
    """Two looks at each SQLite file (its soundness; its content), each in a process of its own; a server's dump is
    loaded into a cluster that is thrown away."""
    for name, facts in manifest.databases.items():
        path = directory / facts.file
        if facts.engine != "sqlite":
            yield pool.submit(_server_database, directory, manifest, application, name, scratch)
            continue
        wrong = (*_not_a_database(path, name, facts), *_beside(path, name))
        if wrong:
            yield pool.submit(_Answers, name, wrong)
            continue
        job = {
            "path": str(path),
            "name": name,
            "facts": database_to_dict(facts),
            "questions": _questions(name, manifest, application),
        }
        yield pool.submit(_in_process, {**job, "look": "soundness"}, name, runner)
        yield pool.submit(_in_process, {**job, "look": "content"}, name, runner)


def _not_a_database(path: Path, name: str, facts: DatabaseFacts) -> Iterator[Difference]:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        yield Difference(
            facts.file,
            "missing",
            "a database",
            f"The database {name} is missing ({facts.file}): choose another restore point.",
        )
        return
    if not stat.S_ISREG(mode):
        yield Difference(
            facts.file,
            "no file",
            "a database",
            f"The database {name} ({facts.file}) is no regular file: choose another restore point.",
        )


def _beside(path: Path, name: str) -> Iterator[Difference]:
    """A log of another file would be laid over this one at the first opening, and no check of SQLite's would see it."""
    for ending in _BESIDE:
        if os.path.lexists(path.with_name(path.name + ending)):
            yield Difference(
                f"{DATABASES}/{path.name}{ending}",
                "there",
                "nothing",
                f"Beside the database {name} lies a stale {path.name}{ending}, which SQLite would apply to it when it "
                "is opened: it must not be there; choose another restore point.",
            )


def _questions(name: str, manifest: Manifest, application: Application) -> dict[str, Any]:
    policy = application.backup
    if policy is None:
        return {"canaries": [], "files": [], "newest": []}
    expected = {canary.name: canary.answer for canary in manifest.canaries if canary.database == name}
    return {
        "canaries": [
            {"name": canary.name, "query": canary.query, "answer": expected[canary.name]}
            for canary in policy.canaries
            if canary.database == name and canary.name in expected
        ],
        "files": [question.query for question in policy.files if question.database == name],
        "newest": [question.query for question in policy.newest if question.database == name],
    }


def _in_process(job: Mapping[str, Any], name: str, runner: Runner) -> _Answers:
    """One look in a process of its own. One that dies of what it reads is a finding."""
    done = runner(
        [*library_command("_restored.look_main")],
        stdin=json.dumps(job),
        environment={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},  # not the secrets of the release
        timeout_seconds=_SECONDS,
        check=False,
    )
    try:
        value = json.loads(done.stdout)
        found = tuple(Difference(*each) for each in value["differences"])
        return _Answers(name, found, tuple(value["files"]), value["newest"], tuple(value["refused"]))
    except (ValueError, KeyError, TypeError):
        said = done.last_lines(1)
        file = str(job["facts"]["file"])
        sentence = (
            f"The database {name} cannot be read ({said[0] if said else f'exit code {done.returncode}'}): choose "
            "another restore point."
        )
        return _Answers(name, (Difference(file, "unreadable", "a database", sentence),))


def look_main(_argv: Sequence[str]) -> int:
    """The process that looks at one SQLite file: a job on standard input, its findings on standard output."""
    from . import _sqlite_copy

    job = json.load(sys.stdin)
    path, facts = Path(job["path"]), database_from_dict(job["facts"], origin="the facts of a database")
    differences: list[Difference] = []
    files: list[str] = []
    newest: dict[str, str] = {}
    refused: list[str] = []
    try:
        if job["look"] == "soundness":
            differences += _other_file(path, facts)
            differences += _unsound(facts, _sqlite_copy.check(path))
        else:
            seen = _sqlite_copy.facts(path, name=facts.name, file=facts.file, with_file=False)
            differences += compare_database(facts, seen)
            with contextlib.closing(_reading(path)) as connection:
                told, unanswered = _canaries(
                    job["questions"], facts, lambda query: _sqlite_copy.answer(path, query, seconds=_CANARY_SECONDS)
                )
                differences += told
                refused += unanswered
                try:
                    _ask(job["questions"], facts.name, connection.execute, files=files, newest=newest)
                except (sqlite3.OperationalError, InputError) as wrong:
                    refused.append(_wrong_question(facts.name, wrong))
    except (sqlite3.DatabaseError, BackstayError) as damaged:
        sentence = f"The database {facts.name} cannot be read ({damaged}): choose another restore point."
        differences.append(Difference(facts.file, "unreadable", "a database", sentence))
    found = [astuple(each) for each in differences]
    sys.stdout.write(json.dumps({"differences": found, "files": files, "newest": newest, "refused": refused}))
    return 0


def _other_file(path: Path, facts: DatabaseFacts) -> Iterator[Difference]:
    """The file itself, byte for byte: no database that was opened since is looked at here."""
    with path.open("rb", buffering=0) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if facts.sha256 and digest != facts.sha256:
        yield Difference(
            facts.file,
            digest,
            facts.sha256,
            f"The file {_short(facts.file)} has {path.stat().st_size} bytes with the digest {digest[:16]}… and the "
            f"manifest says {facts.size_bytes} with {facts.sha256[:16]}….",
        )


def _unsound(facts: DatabaseFacts, sentences: Sequence[str]) -> list[Difference]:
    return [
        Difference(facts.file, "unsound", "sound", f"{said.rstrip('.')}; choose another restore point.")
        for said in sentences[:LIMIT]
    ]


def _canaries(
    questions: Mapping[str, Any], facts: DatabaseFacts, answer: Callable[[str], str]
) -> tuple[list[Difference], list[str]]:
    """What their answers tell; and of which there is no answer, as there was one when it was backed up: rows and schema
    are compared beside it, so that says more of where it was asked than of the data."""
    differences: list[Difference] = []
    unanswered = []
    for canary in questions["canaries"]:
        try:
            differences += _canary(canary, facts, answer(canary["query"]))
        except BackstayError as refused:
            unanswered.append(
                f"The canary {canary['name']!r} of the database {facts.name} was not answered "
                f"({refused.message.rstrip('.')}): prove it again where there is time, or ask for less in "
                "`backup.canaries` and back up again; nothing was proven, and nothing refuted."
            )
    return differences, unanswered


def _ask(
    questions: Mapping[str, Any],
    name: str,
    execute: Callable[[str], Iterable[Sequence[Any]]],
    *,
    files: list[str],
    newest: dict[str, str],
) -> None:
    """Which files the database names, and of when its newest row is."""
    for query in questions["files"]:
        files += sorted({str(row[0]) for row in execute(query) if row[0] not in (None, "")})
    times = [when for query in questions["newest"] for row in execute(query) if (when := utc_of(row[0])) is not None]
    if times:
        newest[name] = max(times).isoformat()


def _wrong_question(name: str, refused: Exception) -> str:
    said = refused.message if isinstance(refused, BackstayError) else str(refused)
    return (
        f"A query of `backup.files` or `backup.newest` cannot be asked of the database {name} ({said.rstrip('.')}): "
        "correct it in the application's file and back up again; nothing was proven, and nothing refuted."
    )


def _canary(canary: Mapping[str, Any], facts: DatabaseFacts, seen: str) -> Iterator[Difference]:
    if seen != canary["answer"]:
        yield Difference(
            f"canary {canary['name']}",
            seen,
            canary["answer"],
            f"The canary {canary['name']!r} of the database {facts.name} is answered with {_short(str(seen))} and was "
            f"{_short(str(canary['answer']))} when it was backed up.",
        )


def utc_of(value: Any) -> dt.datetime | None:
    """The time of a row: ISO 8601 (without a zone: UTC), or seconds since 1970; None where there is none."""
    if value is None or value == "":
        return None
    if isinstance(value, str) and re.fullmatch(r"-?\d{9,}(\.\d+)?", value.strip()):
        value = float(value)  # as a server writes it; a date has no nine digits in a row
    if isinstance(value, (int, float)):
        return dt.datetime.fromtimestamp(value, dt.UTC)
    try:
        found = dt.datetime.fromisoformat(str(value).strip())
    except ValueError as wrong:
        raise InputError(
            f"A query of `backup.newest` answered {str(value)[:40]!r}, and a time is needed: let it answer ISO 8601 or "
            "seconds since 1970."
        ) from wrong
    return found.astimezone(dt.UTC) if found.tzinfo else found.replace(tzinfo=dt.UTC)


def _reading(path: Path) -> sqlite3.Connection:
    """Nothing is written, not even beside the file: what lies there is evidence."""
    connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1", uri=True)
    connection.text_factory = lambda content: content.decode(errors="surrogateescape")
    for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "query_only=ON"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def canary_differences(
    databases: Mapping[str, Path], manifest: Manifest, application: Application
) -> tuple[Difference, ...]:
    """The canaries asked once more, of SQLite files that a release has had open and has closed."""
    from ._sqlite_copy import answer

    found: list[Difference] = []
    for name, path in databases.items():
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the log belongs to it here: nobody else was there
        for canary in _questions(name, manifest, application)["canaries"]:
            found += _canary(canary, manifest.databases[name], answer(path, canary["query"], seconds=_CANARY_SECONDS))
    return tuple(found)


# PostgreSQL


def server_of(
    directory: Path, facts: DatabaseFacts, scratch: Path, stack: contextlib.ExitStack, application: Application
) -> Server:
    """A database in a cluster that lives as long as `stack`, loaded from the restored dump."""
    server = stack.enter_context(_cluster(scratch, f"{facts.name}-alive", application.name))
    server.load(directory / facts.file, facts.name, seconds=load_seconds(application))
    return replace(server, url=server.url_of(facts.name))


def server_canary_differences(
    server: Server, name: str, manifest: Manifest, application: Application
) -> tuple[Difference, ...]:
    """The canaries asked once more, of a server's database that a release was connected to."""
    facts = manifest.databases[name]
    found: list[Difference] = []
    for canary in _questions(name, manifest, application)["canaries"]:
        found += _canary(canary, facts, server.answer(canary["query"], seconds=_CANARY_SECONDS))
    return tuple(found)


@contextlib.contextmanager
def _cluster(scratch: Path, name: str, account: str = "") -> Iterator[Server]:
    """A cluster that is thrown away. Root starts it as `account`, the application's user: loading a dump runs functions
    that the application wrote, and the user postgres could do anything on the live server. Raises BackstayError."""
    from ._postgresql import ThrowAway

    with contextlib.ExitStack() as stack:
        if os.geteuid() == 0:
            made = tempfile.TemporaryDirectory(prefix="backstay-", dir=DISK)
            home = Path(stack.enter_context(made))
            home.chmod(0o711)
        else:
            home = scratch / f"cluster-{name}"
            home.mkdir(mode=0o700)
        yield stack.enter_context(ThrowAway(home, account=_least(account)))


def _least(account: str) -> str:
    """That user of this host, or the one who owns nothing."""
    with contextlib.suppress(KeyError):
        if account and pwd.getpwnam(account).pw_uid != 0:
            return account
    return "nobody"


def _server_database(
    directory: Path, manifest: Manifest, application: Application, name: str, scratch: Path
) -> _Answers:
    """Load a dump into a cluster of its own, without TCP, and look at what came of it there."""
    from ._postgresql import Unanswered

    facts = manifest.databases[name]
    dump = directory / facts.file
    wrong = tuple(_not_a_database(dump, name, facts)) or tuple(_other_file(dump, facts))
    if wrong:
        return _Answers(name, wrong)
    # A cluster that cannot be made says nothing about the dump; nor does one that would fill the disk of the live one.
    where = Path(DISK) if os.geteuid() == 0 else scratch
    full = disk_refusal(
        f"The database {name}, loaded to be looked at,", [(where, loaded_bytes(facts))], spare=SPARE_BYTES
    )
    if full:
        raise BackstayError(full)
    with _cluster(scratch, name, application.name) as server:
        seconds = load_seconds(application)
        try:
            server.load(dump, name, seconds=seconds)
            return _ask_server(server, facts, _questions(name, manifest, application), seconds)
        except BackstayError as refused:
            if isinstance(refused, Unanswered) or any(_NO_ROOM in line for line in (refused.message, *refused.lines)):
                raise
            sentence = f"The dump of the database {name} could not be looked at: {refused.message}"
            return _Answers(name, (Difference(facts.file, "unreadable", "a dump", sentence),))


def load_seconds(application: Application) -> float:
    """How long a dump may take to be loaded, and to be read again: as long as the whole proof, which is limited too."""
    from ._postgresql import LOAD_SECONDS

    return max(LOAD_SECONDS, application.backup.proof.seconds) if application.backup else LOAD_SECONDS


def loaded_bytes(facts: DatabaseFacts) -> int:
    """What a dump takes on a server's disk: as much as the database did when it was dumped; 0 where nobody knows."""
    return int(facts.properties.get("size_bytes") or 0)


def _ask_server(server: Server, facts: DatabaseFacts, questions: Mapping[str, Any], seconds: float) -> _Answers:
    name = facts.name
    seen = server.facts(name, of=name, file=facts.file, seconds=seconds)
    told, refused = _canaries(questions, facts, lambda query: server.answer(query, name=name, seconds=_CANARY_SECONDS))
    differences = (*compare_database(facts, seen), *told)

    def rows(query: str) -> Iterator[Sequence[Any]]:
        text = query.strip().rstrip(";")
        for line in server.query(f"SELECT pg_catalog.to_json(q) FROM ({text}) AS q", name=name):  # noqa: S608 - declared
            yield list(json.loads(line).values())

    files: list[str] = []
    newest: dict[str, str] = {}
    try:
        _ask(questions, name, rows, files=files, newest=newest)
    except BackstayError as wrong:
        refused.append(_wrong_question(name, wrong))
    return _Answers(name, differences, tuple(files), newest, tuple(refused))
