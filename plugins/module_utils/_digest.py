"""The daily digest: what happened to the host and its applications, what somebody must look at, and what the logs say.

Pure. A digest that is empty, or part of which could not be read, is a failure: silence must not look like health.
"""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ._cells import WORDS
from ._events import Event

USED_RATIO = 0.8
LOG_LINES = 400
_BEGIN = re.compile(r"^ *-+ (.+?) Begin -+ *$", re.MULTILINE)
_ROTATED = re.compile(r'^"([^"]+)" (\d+)-(\d+)-(\d+)-(\d+):(\d+):(\d+)$', re.MULTILINE)
_ON_ITS_WAY_SECONDS = 120
# Which section tells more of what a cell of the page says.
_TOLD_BY: Mapping[str, str] = {
    "backup": "BACKUPS OF {}",
    "restore": "BACKUPS OF {}",
    "jobs": "JOBS OF {}",
    "disk": "DISK",
    "updates": "UPDATES",
    "host": "UNITS",
}
_NO_NEWS = frozenset({"Disk Space", "Fortune"})  # logwatch says these whatever happened


@dataclass(frozen=True)
class Section:
    """One part. `needs`: what somebody must look at, sentences; `unread`: why the part, or some of it, is missing."""

    title: str
    lines: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class Logs:
    """What logwatch made of the logs of one day. `entries`: how many lines it was given, None where it read files that
    were there; `young`: the journal began after that day, so nothing can be said about it."""

    day: str
    text: str = ""
    entries: int | None = None
    young: bool = False
    problem: str = ""


@dataclass(frozen=True)
class Digest:
    """The digest as it is sent; `problems`: why it counts as a failure, sentences."""

    subject: str
    lines: tuple[str, ...]
    needs: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def news(title: str, found: Iterable[tuple[str, str]], since: str) -> Section:
    """What happened after `since`, from (time, sentence); times are UTC ISO 8601."""
    lines = tuple(f"{at[:16]}Z  {sentence}" for at, sentence in sorted(found) if at >= since)
    return Section(title, lines or ("nothing",))


def events(found: Iterable[Event]) -> list[tuple[str, str]]:
    """Releases, restores and failed proofs as (time, sentence)."""
    return [(each.at, f"{each.subject}. {each.lines[0]}" if each.lines else each.subject) for each in found]


def backups(name: str, facts: Mapping[str, Any] | None) -> Section:
    """What is so about restore points, from the facts of `_backup_status`."""
    title = f"BACKUPS OF {name}"
    if facts is None:
        return Section(title, ("none: its file asks for no backups",))
    newest, proven = facts["newest"], facts["last_proven"]
    lines = []
    if newest:
        lines.append(
            f"newest {newest['run']}, {_spoken(newest['age_seconds'])} old, {newest['size_bytes'] / 1e6:.1f} MB"
        )
    if proven and proven["proven_age_seconds"] is not None:
        took = f", in {proven['proof_seconds']:.0f} s" if proven["proof_seconds"] is not None else ""
        lines.append(f"restored and compared {_spoken(proven['proven_age_seconds'])} ago ({proven['run']}){took}")
    problems = tuple(f"{name}: {problem}" for problem in facts["problems"])
    return Section(title, tuple(lines) or ("none",), problems)


def jobs(name: str, facts: Sequence[Mapping[str, Any]]) -> Section:
    """The state of each job, from the facts of `_job_results`."""
    lines, needs = [], []
    for each in facts:
        last = str(each.get("last_end") or each.get("last_start") or "")[:16]
        lines.append(f"{each['job']}: {each['state']}" + (f", last {last}Z" if last else ""))
        if each["state"] in ("failed", "late", "missing"):
            why = f" ({each['why']})" if each.get("why") else ""
            needs.append(f"{name}: the job {each['job']} is {each['state']}{why}: see `backstay jobs {name}`")
    return Section(f"JOBS OF {name}", tuple(lines) or ("none declared",), tuple(needs))


def page(found: Sequence[Mapping[str, Any]], others: Sequence[Section]) -> Section:
    """What the page says is not well, from its own needs. Somebody is asked for it once: where another section asks
    already, it is only named here."""
    asked = {section.title for section in others if section.needs or section.unread}
    lines, needs = [], []
    for each in found:
        said = f"{each['where']}: {each['title'].lower()}: {each['why']}"
        lines.append(f"{WORDS[each['state']]:<8} {said}")
        more = _TOLD_BY.get(each["cell"], "")
        if not asked.issuperset(more.format(name.partition("@")[0]) for name in each["rows"]):
            needs.append(said + (f": `{each['command']}`" if each["command"] else ""))
    return Section("THE PAGE", tuple(lines) or ("all is well",), tuple(needs))


def disk(mounts: Sequence[tuple[str, float, float, int]]) -> Section:
    """Each mount as (path, share used, share of inodes used, bytes free)."""
    lines = tuple(
        f"{path}: {used:.0%} used, {free / 1e9:.1f} GB free, {inodes:.0%} of inodes used"
        for path, used, inodes, free in mounts
    )
    needs = tuple(
        f"{path} is {max(used, inodes):.0%} full{' (inodes)' if inodes > used else ''}: "
        f"`du -xh --max-depth=2 {path} | sort -h | tail`"
        for path, used, inodes, _free in mounts
        if max(used, inodes) > USED_RATIO
    )
    return Section("DISK", lines, needs, () if lines else ("no mount could be looked at",))


def updates(told: Mapping[str, Any]) -> Section:
    """What waits, from the facts of `_updates`."""
    known = told.get("security") is not None
    lines = [f"{told['security']} for security and {told['other']} others wait ({told['system']})"] if known else []
    unread = () if known else (str(told.get("problem") or "nobody asked apt what waits"),)
    needs = []
    if known and told["security"] and told["oldest_seconds"] > 7 * 86400:
        needs.append(
            f"security updates wait for {_spoken(told['oldest_seconds'])}: `apt-get update && apt-get upgrade`"
        )
    if told.get("reboot_required"):
        needs.append("an update waits for a reboot: `systemctl reboot`, at a quiet hour")
    return Section("UPDATES", tuple(lines), tuple(needs), unread)


def units(failed: Sequence[str]) -> Section:
    """Failed units of systemd."""
    needs = tuple(f"{unit} has failed: `journalctl -u {unit}`" for unit in failed)
    return Section("UNITS", tuple(f"{unit}: failed" for unit in failed) or ("none failed",), needs)


def rotated(status: str) -> dict[str, float]:
    """When logrotate looked last at each log, seconds since 1970, from its state file; its times are the server's."""
    found = {}
    for path, *numbers in _ROTATED.findall(status):
        year, month, day, hour, minute, second = map(int, numbers)
        found[path] = time.mktime((year, month, day, hour, minute, second, 0, 0, -1))
    return found


def not_reopened(name: str, status: str, moved: Mapping[str, float]) -> Section:
    """Logs that were moved away and are written to all the same: their lines are lost when the file is compressed.

    `moved` maps the log's own path to when the file that it was moved to was written last, seconds since 1970.
    """
    at = rotated(status)
    needs = tuple(
        f"{name}: something goes on writing into {path}.1, which the next rotation compresses: let it open it with "
        "WatchedFileHandler, or write to the journal"
        for path, written in sorted(moved.items())
        if path in at and written > at[path] + _ON_ITS_WAY_SECONDS
    )
    return Section(f"ROTATED LOGS OF {name}", (f"{len(moved)} rotated, {len(needs)} still written to",), needs)


def sections_said(text: str) -> tuple[str, ...]:
    """The titles of what logwatch had to say, without what it always says."""
    return tuple(title for title in _BEGIN.findall(text) if title not in _NO_NEWS)


def logs(found: Logs) -> Section:
    """What logwatch made of the logs; nothing said about something is a failure."""
    title = f"LOGS OF {found.day} (logwatch)"
    if found.problem:
        return Section(title, unread=(found.problem,))
    if found.young:
        return Section(title, ("the journal began after that day",))
    if found.entries == 0:
        return Section(title, unread=(f"the journal has no line of {found.day}: is systemd-journald running?",))
    if not sections_said(found.text):
        given = "the logs" if found.entries is None else f"{found.entries} lines"
        return Section(title, unread=(f"logwatch made nothing of {given}: try `logwatch --detail High`",))
    lines = found.text.strip("\n").splitlines()
    more = (
        (f"... and {len(lines) - LOG_LINES} more lines: `logwatch --range {found.day}`",)
        if len(lines) > LOG_LINES
        else ()
    )
    return Section(title, (*lines[:LOG_LINES], *more))


def compose(host: str, now: dt.datetime, hours: float, sections: Sequence[Section]) -> Digest:
    """The whole digest, what needs somebody first."""
    needs = tuple(dict.fromkeys(need for section in sections for need in section.needs))
    problems = [f"{section.title}: {why}" for section in sections for why in section.unread]
    if not any(section.lines for section in sections):
        problems.insert(0, "the digest is empty: nothing could be read at all")
    state = f"{len(needs)} need you" if needs else "all is well"
    if problems:
        state = f"INCOMPLETE, {state}" if needs else "INCOMPLETE"
    lines = [f"{host}, the {hours:.0f} hours until {now.astimezone(dt.UTC):%Y-%m-%d %H:%M}Z", ""]
    lines += _block("THIS DIGEST IS INCOMPLETE", problems) if problems else []
    lines += _block(f"NEEDS YOU ({len(needs)})", needs) if needs else ["Nothing needs you.", ""]
    for section in sections:
        if section.lines:
            lines += _block(section.title, section.lines)
    return Digest(f"{host}: {state} (digest of {now:%Y-%m-%d})", tuple(lines), needs, tuple(problems))


def _block(title: str, lines: Iterable[str]) -> list[str]:
    return [title, *(f"  {line}".rstrip() for line in lines), ""]


def _spoken(seconds: float) -> str:
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {name}"
    return f"{max(seconds, 0):.0f} s"
