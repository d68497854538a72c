"""Proofs of anybody's restic repository: no manifest of ours is needed, so what must be true is said by who asks.

L1  listed, fresh, and every path there      L3  all data read back
L2  restic's check of the structure          L4  databases restored and sound, with rows enough and right answers
"""

from __future__ import annotations

import datetime as dt
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from . import _sqlite_copy
from ._errors import BackstayError, InputError
from ._repository import reason_of
from ._run import Completed, Runner, run

CLOCK_SECONDS = 300.0
_SIDES = ("-wal", "-journal")
_SENTENCES = {
    "wrong key": "the password does not open it: give the right one",
    "no repository": "there is no repository at this place: correct its location",
    "unreachable": "it cannot be reached: see the network and the location",
    "damaged": "it is damaged: keep it as it is, and make a new one from good data",
}


@dataclass(frozen=True)
class Expected:
    """What must be true of one SQLite database in the snapshot: the least rows by table, and answers by query."""

    path: str
    least_rows: Mapping[str, int] = field(default_factory=dict)
    answers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What was found out. `level` is the highest that holds, `seconds` by level, `findings` a sentence per failure."""

    ok: bool
    level: int
    asked: int
    snapshot: str
    made: str
    findings: tuple[str, ...]
    seconds: Mapping[int, float]


@dataclass(frozen=True)
class ForeignRepository:
    """A restic repository at `location`, opened with `password`; `environment` has what its store asks for."""

    location: str
    password: str = field(repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    seconds: float = 14400.0
    runner: Runner = run

    def restic(self, *arguments: str) -> Completed:
        """Raises BackstayError with a sentence where restic fails."""
        own = {"RESTIC_REPOSITORY": self.location, "RESTIC_PASSWORD": self.password}
        done = self.runner(
            ["restic", "--no-cache", *arguments],
            environment={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", **self.environment, **own},
            timeout_seconds=self.seconds,
            check=False,
        )
        if done.ok:
            return done
        kind, words = reason_of(done.returncode, done.stderr + done.stdout)
        said = self._hidden(words)
        raise BackstayError(
            f"The repository {self._hidden(self.location)}: {_SENTENCES.get(kind, 'restic failed')} ({said}).",
            lines=tuple(self._hidden(line) for line in done.last_lines()),
        )

    def _hidden(self, text: str) -> str:
        from ._environment import redact

        return redact(text, [self.password, *self.environment.values()])


def verify(
    repository: ForeignRepository,
    level: int,
    *,
    snapshot: str = "latest",
    max_age_seconds: float | None = None,
    databases: Sequence[Expected] = (),
    paths: Sequence[str] = (),
    scratch: Path | None = None,
    now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
) -> Verdict:
    """Prove one snapshot up to `level` (1 to 4); stops at the first that fails. Raises InputError for bad options."""
    if level not in (1, 2, 3, 4):
        raise InputError(f"There is no level {level}: ask for one of 1 to 4.")
    for path in (*paths, *(each.path for each in databases)):
        if not path.startswith("/"):
            raise InputError(f"{path!r} is no path of a snapshot: write it from / on, as `restic ls` shows it.")
    found: dict[str, str] = {"snapshot": "", "made": ""}
    steps: dict[int, Callable[[], list[str]]] = {
        1: lambda: _listed(repository, snapshot, max_age_seconds, contents=(paths, databases), now=now(), found=found),
        2: lambda: _plain(repository, "check"),
        3: lambda: _plain(repository, "check", "--read-data"),
        4: lambda: _restored(repository, found["snapshot"], databases, scratch),
    }
    seconds: dict[int, float] = {}
    findings: list[str] = []
    reached = 0
    for number in range(1, level + 1):
        began = time.monotonic()
        try:
            findings = steps[number]()
        except InputError:
            raise
        except BackstayError as refused:
            findings = [refused.message]
        seconds[number] = round(time.monotonic() - began, 3)
        if findings:
            break
        reached = number
    return Verdict(not findings, reached, level, found["snapshot"], found["made"], tuple(findings), seconds)


def _plain(repository: ForeignRepository, *arguments: str) -> list[str]:
    repository.restic(*arguments)
    return []


def _listed(
    repository: ForeignRepository,
    wanted: str,
    max_age_seconds: float | None,
    *,
    contents: tuple[Sequence[str], Sequence[Expected]],
    now: dt.datetime,
    found: dict[str, str],
) -> list[str]:
    done = repository.restic("snapshots", "--json")
    known = json.loads(done.stdout or "[]") or []
    newest = max(known, key=lambda each: _time(each["time"]), default=None)
    if newest is None:
        return ["The repository holds no snapshot: nothing was ever backed up to it."]
    if wanted == "latest":
        chosen = newest
    else:
        matching = [each for each in known if str(each["id"]).startswith(wanted)]
        if len(matching) != 1:
            return [f"{len(matching)} snapshots have an id that begins with {wanted}: name exactly one."]
        chosen = matching[0]
    made = _time(chosen["time"])
    found |= {"snapshot": str(chosen["id"]), "made": f"{made:%Y-%m-%dT%H:%M:%SZ}"}
    age = (now - _time(newest["time"])).total_seconds()
    if age < -CLOCK_SECONDS:
        when = f"{_time(newest['time']):%Y-%m-%d %H:%M} UTC"
        return [f"The newest snapshot is of {when}, which is yet to come: see the clocks of both hosts."]
    if max_age_seconds is not None and age > max_age_seconds:
        limit = max_age_seconds / 3600
        return [f"The newest snapshot is {age / 3600:.1f} hours old and may be {limit:.1f}: see the backup's log."]
    paths, databases = contents
    names = (*paths, *(each.path for each in databases))
    return [] if not names else _not_there(repository, str(chosen["id"]), names)


def _not_there(repository: ForeignRepository, snapshot: str, names: Sequence[str]) -> list[str]:
    listed = set()
    for line in repository.restic("ls", "--json", snapshot).stdout.splitlines():
        node = json.loads(line)
        if node.get("struct_type") == "node":
            listed.add(str(node["path"]))
    return [
        f"The snapshot {snapshot[:8]} does not hold {name}: it was not backed up, or its path changed."
        for name in names
        if (name.rstrip("/") or "/") not in listed
    ]


def _restored(
    repository: ForeignRepository, snapshot: str, databases: Sequence[Expected], scratch: Path | None
) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="backstay-verify-", dir=scratch) as directory:
        target = Path(directory)
        includes = [word for each in databases for word in _includes(each.path)]
        repository.restic("restore", snapshot, "--target", str(target), *includes)
        findings = []
        for each in databases:
            findings += _database(target / each.path.lstrip("/"), each)
        return findings


def _includes(path: str) -> list[str]:
    """restic reads patterns: what means something in them is escaped."""
    plain = "".join(f"\\{letter}" if letter in "\\*?[" else letter for letter in str(PurePosixPath(path)))
    return [word for ending in ("", *_SIDES) for word in ("--include", plain + ending)]


def _database(path: Path, expected: Expected) -> list[str]:
    name = expected.path
    if any(path.with_name(path.name + ending).exists() for ending in _SIDES):
        said = (
            f"Beside the database {name} lies its log: it was copied while it was open, and what is in it depends "
            "on which of the two was read first; back up a copy made by SQLite itself."
        )
        return [said]
    try:
        findings = [f"{name}: {sentence}" for sentence in _sqlite_copy.check(path)]
        if findings:
            return findings
        for table, least in expected.least_rows.items():
            query = 'SELECT count(*) FROM "{}"'.format(table.replace('"', '""'))  # noqa: S608 - it may only read
            rows = json.loads(_sqlite_copy.answer(path, query))[0][0]
            if rows < least:
                findings.append(f"The table {table} of {name} has {rows} rows and {least} were expected at least.")
        for query, answer in expected.answers.items():
            seen = plain(_sqlite_copy.answer(path, query))
            if seen != answer:
                findings.append(f"{name} answers {seen!r} to `{query}` and {answer!r} was expected.")
    except BackstayError as refused:
        findings = [f"{name}: {refused.message}"]
    return findings


def plain(answer: str) -> str:
    """An answer as people write it: one value as itself, all else as JSON."""
    rows: list[list[Any]] = json.loads(answer)
    if len(rows) == 1 and len(rows[0]) == 1 and isinstance(rows[0][0], (str, int, float)):
        return str(rows[0][0])
    return answer


def _time(text: str) -> dt.datetime:
    from ._proof import iso_time

    return iso_time(text).astimezone(dt.UTC)
