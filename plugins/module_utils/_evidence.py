"""What was proven, by whom, with what, and how it ended: one file per proof, anchored in the catalogue's chain.

    /var/lib/backstay/<app>/proofs/<run>.<repository>.<n>.json

The catalogue's event (`proven`, `refuted`, `unproven`) carries the file's digest. As each event carries the hash of the
one before it, no proof can be added, changed or taken away afterwards without `verify` seeing it. Nothing in it is
secret.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._environment import redact
from ._errors import BackstayError, InputError
from ._ledger import Entry, Ledger
from ._storage import Storage
from ._version import VERSION

if TYPE_CHECKING:
    from ._catalogue import Point
    from ._layout import Layout
    from ._proof import Proof

FORMAT = 1
EVENTS = frozenset({"proven", "refuted", "unproven"})
_LEVELS = {
    1: "listed and fresh",
    2: "structure, signature and chain",
    3: "all data read back",
    4: "restored in isolation, equal to the manifest",
    5: "the release runs on the restored data and answers",
}


@dataclass(frozen=True)
class Evidence:
    """One proof as it was written. `level` is the highest that was reached, `asked` the one that was wanted; `levels`
    has, for each that was looked at, whether it held, its seconds and its findings. `fault` says what is wrong with the
    file itself, where it was read again."""

    application: str
    run: str
    repository: str
    host: str
    by: str
    at: str
    asked: int
    level: int
    event: str
    tools: Mapping[str, str]
    manifest_sha256: str
    snapshots: Mapping[str, str]
    levels: tuple[Mapping[str, Any], ...]
    recovery_time_seconds: float | None = None
    recovery_point_seconds: float | None = None
    release: str = ""
    format: int = FORMAT
    fault: str = ""
    name: str = field(default="", compare=False)

    @property
    def ok(self) -> bool:
        return self.event == "proven"

    def findings(self) -> list[str]:
        return [str(sentence) for level in self.levels for sentence in level["findings"]]


def tools(restic: str = "") -> dict[str, str]:
    """The versions that did the work. `restic` is what it says of itself."""
    return {
        "backstay": VERSION,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "restic": restic.split(" compiled", maxsplit=1)[0].strip(),
        "system": f"{platform.system()} {platform.release()}",
    }


def event_of(proof: Proof) -> str:
    """`unproven` is a proof that did not come to an end through no fault of the point: it is too old, the clock is
    wrong. That says nothing against it, so retention must not hold it against it."""
    if proof.ok:
        return "proven"
    return "refuted" if any(finding.refutes for finding in proof.findings) else "unproven"


def record(
    layout: Layout,
    storage: Storage,
    proof: Proof,
    *,
    host: str,
    by: str,
    versions: Mapping[str, str],
    now: Callable[[], str],
    secrets: Iterable[str] = (),
) -> Path:
    """Write a proof's evidence and its event in the catalogue; returns the file.

    `secrets` are taken out of every sentence. Raises BackstayError when the disk refuses, or the catalogue cannot be
    trusted.
    """
    hidden = tuple(secrets)
    levels = tuple(
        {
            "level": level,
            "says": _LEVELS[level],
            "ok": level <= proof.level,
            "seconds": round(seconds, 3),
            "findings": [redact(found.sentence, hidden) for found in proof.findings if found.level == level],
        }
        for level, seconds in sorted(proof.seconds.items())
    )
    event = event_of(proof)
    evidence = Evidence(
        application=layout.name,
        run=proof.run,
        repository=proof.repository,
        host=host,
        by=by,
        at=proof.at,
        asked=proof.asked,
        level=proof.level,
        event=event,
        tools=dict(versions),
        manifest_sha256=proof.manifest_sha256,
        snapshots=dict(proof.snapshots),
        levels=levels,
        recovery_time_seconds=_rounded(proof.recovery_time_seconds),
        recovery_point_seconds=_rounded(proof.recovery_point_seconds),
        release=proof.release,
    )
    value = {name: item for name, item in asdict(evidence).items() if name not in ("fault", "name")}
    content = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=True).encode() + b"\n"
    storage.make_directory(layout.proofs, mode=0o700)
    target = _fresh(layout.proofs, f"{proof.run or 'none'}.{proof.repository}")
    storage.write(target, content, mode=0o600)
    Ledger(layout.backups, storage, now).append(
        event,
        proof.run,
        repository=proof.repository,
        # What was refuted is the level that failed: a later proof of that level ends it.
        level=proof.level if proof.ok else proof.findings[0].level,
        reached=proof.level,
        asked=proof.asked,
        seconds=round(sum(proof.seconds.values()), 3),
        restoring_seconds=_restoring_seconds(proof),
        evidence=target.name,
        sha256=hashlib.sha256(content).hexdigest(),
        recovery_time_seconds=evidence.recovery_time_seconds,
        recovery_point_seconds=evidence.recovery_point_seconds,
        reason=evidence.findings()[0] if evidence.findings() else "",
    )
    return target


def _restoring_seconds(proof: Proof) -> float | None:
    """What of a proof a restore does too: it looks at the point, fetches it and compares it, reads nothing back and
    starts no release on it for a trial. None where the point was not restored."""
    if proof.level < 4:
        return None
    return round(sum(seconds for level, seconds in proof.seconds.items() if level in (1, 2, 4)), 3)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _fresh(directory: Path, stem: str) -> Path:
    number = 1
    while (path := directory / f"{stem}.{number}.json").exists():
        number += 1
    return path


def read(layout: Layout, storage: Storage, entries: Sequence[Entry]) -> tuple[Evidence, ...]:
    """The evidence of each proof that the catalogue names, oldest first; `fault` where a file is gone or was changed.

    Raises BackstayError for one of a newer format.
    """
    return tuple(_read_one(layout, storage, entry) for entry in entries if entry.event in EVENTS)


def _read_one(layout: Layout, storage: Storage, entry: Entry) -> Evidence:
    name = str(entry.data.get("evidence", ""))
    content = storage.read(layout.proofs / Path(name).name) if name else None
    if content is None:
        return _without(layout, entry, name, f"the evidence {name or '(unnamed)'} is missing")
    if hashlib.sha256(content).hexdigest() != entry.data.get("sha256"):
        return _without(layout, entry, name, f"the evidence {name} was changed after it was written")
    return replace(_parsed(content, origin=str(layout.proofs / name)), name=name)


def _parsed(content: bytes, *, origin: str) -> Evidence:
    value = json.loads(content)
    if value["format"] > FORMAT:
        raise BackstayError(
            f"The evidence {origin} has format {value['format']} and this backstay knows {FORMAT}: update the host's "
            "command with playbooks/site.yml."
        )
    value["levels"] = tuple(value["levels"])
    return Evidence(**{key: item for key, item in value.items() if key in Evidence.__dataclass_fields__})


def adopt(
    layout: Layout, storage: Storage, content: bytes, known: Sequence[Point], *, now: Callable[[], str]
) -> tuple[Evidence, bool]:
    """Write down here what a drill on another host found about a restore point of this one, and whether that is new.

    Raises InputError for what is no evidence, or is about another restore point than the one of that name here.
    """
    try:
        found = _parsed(content, origin="of the drill")
        sane = found.event in EVENTS and all({"level", "ok", "seconds", "findings"} <= set(e) for e in found.levels)
    except (ValueError, KeyError, TypeError, AttributeError) as broken:
        raise InputError("That is no evidence of a proof: give the file that the drill has written.") from broken
    point = next((each for each in known if each.run == found.run), None)
    copy = point.repositories.get(found.repository) if point else None
    if not sane or found.application != layout.name or point is None:
        raise InputError(
            f"The evidence is about {found.run} of {found.application}, and {layout.name} knows no such restore point: "
            "give that of a drill of this application."
        )
    if copy is None or found.manifest_sha256 != point.manifest or found.snapshots.get("data") != copy.snapshot:
        raise InputError(
            f"The evidence about {found.run} is not about the one that this host has made and has in "
            f"{found.repository}: look at which repository the drill was given."
        )
    digest = hashlib.sha256(content).hexdigest()
    chain = Ledger(layout.backups, storage, now)
    if any(entry.data.get("sha256") == digest for entry in chain.read() if entry.event in EVENTS):
        return found, False
    storage.make_directory(layout.proofs, mode=0o700)
    target = _fresh(layout.proofs, f"{found.run}.{found.repository}")
    storage.write(target, content, mode=0o600)
    bad = [int(level["level"]) for level in found.levels if not level["ok"]]
    chain.append(
        found.event,
        found.run,
        repository=found.repository,
        level=found.level if found.ok else min(bad, default=1),
        reached=found.level,
        asked=found.asked,
        at=found.at,
        host=found.host,
        seconds=round(sum(float(level["seconds"]) for level in found.levels), 3),
        evidence=target.name,
        sha256=digest,
        recovery_time_seconds=found.recovery_time_seconds,
        recovery_point_seconds=found.recovery_point_seconds,
        reason=found.findings()[0] if found.findings() else "",
    )
    return found, True


def _without(layout: Layout, entry: Entry, name: str, fault: str) -> Evidence:
    data = entry.data
    return Evidence(
        application=layout.name,
        run=entry.release,
        repository=str(data.get("repository", "")),
        host="",
        by="",
        at=entry.time,
        asked=int(data.get("asked", 0)),
        level=int(data.get("reached", 0)),
        event=entry.event,
        tools={},
        manifest_sha256="",
        snapshots={},
        levels=(),
        recovery_time_seconds=data.get("recovery_time_seconds"),
        recovery_point_seconds=data.get("recovery_point_seconds"),
        fault=fault,
        name=name,
    )


def verify(found: Sequence[Evidence]) -> tuple[str, ...]:
    """What is wrong with the evidence, a sentence each; empty when all is as it was written."""
    return tuple(f"The proof of {each.run} in {each.repository}: {each.fault}." for each in found if each.fault)


def report(application: str, found: Sequence[Evidence], *, at: str, last: int = 30) -> str:
    """A report for people and auditors, in Markdown: the newest proofs, and how recovery time and point develop."""
    newest = list(found)[-last:]
    good = [each for each in newest if each.ok]
    lines = [f"# Proofs of the backups of {application}", "", f"As of {at}: {_count(newest)}.", ""]
    lines += [f"**{sentence}**" for sentence in verify(newest)]
    if not newest:
        return "\n".join([*lines, "No restore point was ever proven: run `backstay verify --level L4`.", ""])
    lines += [
        "| when (UTC) | run | repository | asked | reached | verdict | recovery time | recovery point |",
        "|--|--|--|--|--|--|--|--|",
    ]
    for each in newest:
        times = (spoken(each.recovery_time_seconds), spoken(each.recovery_point_seconds))
        cells = (each.at, each.run, each.repository, f"L{each.asked}", f"L{each.level}", each.event, *times)
        lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    lines += ["", "## Trend", ""]
    lines.append(_trend("Recovery time", [each.recovery_time_seconds for each in good]))
    lines.append(_trend("Recovery point", [each.recovery_point_seconds for each in good]))
    bad = [each for each in newest if not each.ok]
    if bad:
        lines += ["", "## What did not hold", ""]
        lines += [f"- {each.at} {each.run} in {each.repository}: {_cell(text)}" for each in bad for text in _why(each)]
    lines += ["", "## The newest proof in full", "", *_in_full(newest[-1]), ""]
    return "\n".join(lines)


def _why(each: Evidence) -> list[str]:
    return each.findings() or [each.fault or "no reason was written down"]


def _count(found: Sequence[Evidence]) -> str:
    good = sum(each.ok for each in found)
    return f"{len(found)} proofs, {good} held and {len(found) - good} did not"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _trend(what: str, values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return f"- {what}: never measured."
    middle = sorted(known)[len(known) // 2]
    sentence = f"- {what}: now {spoken(known[-1])}, middle {spoken(middle)}, worst {spoken(max(known))}"
    if len(known) < 4:
        return f"{sentence} (of {len(known)})."
    half = len(known) // 2
    before, after = sum(known[:half]) / half, sum(known[half:]) / (len(known) - half)
    change = (after - before) / before * 100 if before > 0 else 0.0
    way = "steady" if abs(change) < 10 else f"{change:+.0f} %"
    return f"{sentence}; the newer half against the older: {way} (of {len(known)})."


def _in_full(each: Evidence) -> list[str]:
    lines = [
        f"- run {each.run} of release {each.release or 'unknown'}, repository {each.repository}",
        f"- by {each.by or 'unknown'} on {each.host or 'unknown'}, at {each.at}",
        f"- manifest sha256 {each.manifest_sha256 or 'not read'}",
        *(f"- snapshot {part}: {identifier}" for part, identifier in sorted(each.snapshots.items())),
        f"- {', '.join(f'{name} {version}' for name, version in sorted(each.tools.items()) if version)}",
    ]
    for level in each.levels:
        verdict = "holds" if level["ok"] else "DOES NOT HOLD"
        lines.append(f"- L{level['level']} {level['says']}: {verdict} ({spoken(float(level['seconds']))})")
        lines += [f"    - {_cell(str(sentence))}" for sentence in level["findings"]]
    return lines


def spoken(seconds: float | None) -> str:
    """A duration for people."""
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} d"
