"""Lines of an application's log that somebody must look into: counted, and made a ticket once for each cause.

A cause is a line without what varies in it (numbers, ids, addresses). The ticket has the line and what stood around it,
secrets removed. What could not be opened is tried again each minute, and is itself told after ten; what was opened is
not opened again until its cause was silent for a month.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ._alert_settings import LogPattern, Tickets
from ._error_kinds import clean, normalise
from ._errors import BackstayError
from ._house import House
from ._log_cursor import Place, Since
from ._notify import Destination, Secrets, mail, post_json
from ._run import Runner, run
from ._storage import Storage, canonical
from ._thresholds import Verdict

FORMAT = 1
LOG_BYTES = 4 << 20
AROUND = 5  # lines before the first one
MOST_OPEN = 5  # new tickets in one look: a storm is one trouble
SILENT_DAYS = 30
STUCK_LOOKS = 10  # so often in a row something was not opened until people are told
_LETTERS = 500  # of a line that is shown
_LINE_LETTERS = 1 << 16
_TITLE_LETTERS = 150

Post = Callable[..., bytes]


@dataclass(frozen=True)
class Found:
    """One cause in what was read: what its first line says, how often, and the excerpt around it."""

    pattern: str
    cause: str
    line: str
    count: int
    excerpt: tuple[str, ...]


@dataclass(frozen=True)
class Known:
    """What is known of a cause. `ticket` is where it was opened, "" until it was."""

    pattern: str
    line: str
    first: str
    last: str
    count: int
    excerpt: tuple[str, ...]
    ticket: str = ""
    opened: str = ""
    why: str = ""  # why it could not be opened


def look(lines: Iterable[str], patterns: Sequence[LogPattern], secrets: Sequence[str]) -> list[Found]:
    """Pure: the causes in lines of one log, in the order in which they came."""
    compiled = [(each, re.compile(each.match)) for each in patterns]
    before: deque[str] = deque(maxlen=AROUND)
    found: dict[str, Found] = {}
    for raw in lines:
        line = raw[:_LINE_LETTERS]
        for pattern, wanted in compiled:
            if not wanted.search(line):
                continue
            said = clean(message_of(line), secrets)
            cause = hashlib.sha256(f"{pattern.name}\0{normalise(said)}".encode()).hexdigest()[:12]
            if cause in found:
                found[cause] = replace(found[cause], count=found[cause].count + 1)
            else:
                excerpt = tuple(clean(each, secrets)[:_LETTERS] for each in (*before, line))
                found[cause] = Found(pattern.name, cause, said[:_LETTERS], 1, excerpt)
            break
        before.append(line)
    return list(found.values())


def message_of(line: str) -> str:
    """What a line says; of a JSON object what varies least: its logger, its message, the reason that it gives by
    itself or among its data, and what was raised."""
    if line.startswith("{"):
        try:
            row = json.loads(line)
        except ValueError:
            return line
        if isinstance(row, dict) and "message" in row:
            data = row.get("data")
            reason = (data if isinstance(data, dict) else row).get("reason")
            given = {**row, "reason": reason if isinstance(reason, (str, int, float)) else ""}
            parts = [str(given.get(key, "")) for key in ("logger", "message", "reason", "exception", "error")]
            return " ".join(part.strip().splitlines()[-1] for part in parts if part.strip())
    return line


def title_of(application: str, known: Known) -> str:
    return f"{application}: {known.pattern}: {known.line}"[:_TITLE_LETTERS]


def text_of(application: str, cause: str, known: Known) -> str:
    """The ticket's text."""
    here = os.uname().nodename
    lines = (
        f"{known.count} times in the log of {application} on {here}, first {known.first}, last {known.last}.",
        "",
        *(f"    {line}" for line in known.excerpt),
        "",
        f"Pattern {known.pattern}, cause {cause}. Secrets were removed. Opened once for each cause by backstay.",
    )
    return "\n".join(lines)


def request_of(settings: Tickets, title: str, text: str, token: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Pure: body and headers that the tracker wants."""
    if settings.kind == "github":
        headers = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
        body: dict[str, Any] = {"title": title, "body": text, "labels": list(settings.labels)}
        return body, headers | ({"Authorization": f"Bearer {token}"} if token else {})
    if settings.kind == "gitlab":
        body = {"title": title, "description": text, "labels": ",".join(settings.labels)}
        return body, {"PRIVATE-TOKEN": token} if token else {}
    if settings.kind == "jira":
        fields = {
            "project": {"key": settings.project},
            "issuetype": {"name": settings.issue_type},
            "summary": title,
            "description": text,
            "labels": list(settings.labels),
        }
        return {"fields": fields}, {"Authorization": f"Bearer {token}"} if token else {}
    return {"title": title, "text": text}, {"Authorization": f"Bearer {token}"} if token else {}


def opened_as(kind: str, answer: bytes) -> str:
    """Where the tracker says that the ticket is."""
    try:
        value = json.loads(answer)
        found = {"github": "html_url", "gitlab": "web_url", "jira": "key"}.get(kind, "url")
        return str(value[found])[:300]
    except (ValueError, KeyError, TypeError):
        return "opened"


class Desk:
    """Reads the logs of one application since the last look, and opens what is new."""

    def __init__(
        self,
        house: House,
        application: str,
        storage: Storage,
        secrets: Secrets,
        *,
        runner: Runner = run,
        post: Post = post_json,
    ) -> None:
        self._house = house
        self._name = application
        self._storage = storage
        self._secrets = secrets
        self._run = runner
        self._post = post

    def look(
        self, patterns: Sequence[LogPattern], settings: Tickets, state: dict[str, Any], now: dt.datetime
    ) -> list[Known]:
        """Count and open. `state` is this application's, as it was left. Returns what was opened now."""
        at = now.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        causes = _read(state)
        for found in self._found(patterns, state):
            known = causes.get(found.cause)
            if known is None:
                known = Known(found.pattern, found.line, at, at, 0, found.excerpt)
            causes[found.cause] = replace(known, last=at, count=known.count + found.count)
        oldest = (now - dt.timedelta(days=SILENT_DAYS)).strftime("%Y-%m-%dT%H:%M:%SZ")
        causes = {cause: known for cause, known in causes.items() if known.last > oldest}
        # After what was not taken the last time: a ticket that the tracker refuses keeps no other from being opened.
        last = str(state.get("last", ""))
        waiting = [cause for cause, known in causes.items() if not known.opened]
        opened: list[Known] = []
        failed = 0
        for cause in sorted(waiting, key=lambda cause: (cause <= last, cause))[:MOST_OPEN]:
            causes[cause] = self._open(cause, causes[cause], settings, at, now)
            if not causes[cause].opened:
                # The tracker may be away, and the others would wait for it too.
                failed = int(state.get("failed") or 0) + 1
                state |= {"last": cause, "why": causes[cause].why}
                break
            opened.append(causes[cause])
        state["failed"] = failed
        state["causes"] = {cause: known.__dict__ for cause, known in causes.items()}
        return opened

    def _found(self, patterns: Sequence[LogPattern], state: dict[str, Any]) -> Iterator[Found]:
        places = state.setdefault("places", {})
        for file in dict.fromkeys(each.file for each in patterns):
            path = self._house.layout(self._name).logs / file
            since = Since(path, Place.read(places.get(file) or ()), limit_bytes=LOG_BYTES)
            lines = (line.decode(errors="replace") for line in since)
            mine = [each for each in patterns if each.file == file]
            yield from look(lines, mine, self._secrets.values)
            places[file] = [place.to_dict() for place in since.places]

    def _open(self, cause: str, known: Known, settings: Tickets, at: str, now: dt.datetime) -> Known:
        title = self._secrets.redact(title_of(self._name, known))
        text = self._secrets.redact(text_of(self._name, cause, known))
        try:
            if settings.kind == "mail":
                to = Destination("mail", settings.mail or "")
                mail(
                    self._house.sendmail,
                    to,
                    title,
                    text.splitlines(),
                    name=f"ticket-{cause}",
                    now=now,
                    runner=self._run,
                )
                where = settings.mail or ""
            else:
                token = self._secrets.named.get((self._name, settings.token or ""), "")
                body, headers = request_of(settings, title, text, token)
                answer = self._post(settings.url or "", canonical(body), headers=headers)
                where = opened_as(settings.kind, answer)
        except BackstayError as failed:
            return replace(known, why=self._secrets.redact(failed.message)[:300])
        return replace(known, opened=at, ticket=where, why="")


def stuck(application: str, state: Mapping[str, Any], *, wanted: bool) -> Verdict:
    """Whether tickets are opened, by what the looks until now left; where none are `wanted` any more, nothing waits."""
    failed = int(state.get("failed") or 0) if wanted else 0
    crossed = True if failed >= STUCK_LOOKS else (None if failed else False)
    sentence = f"No ticket of {application} waits to be opened"
    if failed:
        sentence = f"Tickets of {application} cannot be opened: {state['why']}"
    command = f"backstay incidents {application}"
    return Verdict(f"{application}/tickets", "warn", application, sentence, command, crossed)


def counted(house: House, storage: Storage, application: str | None = None) -> list[dict[str, Any]]:
    """The causes of all applications or of one, the commonest first: how often, from when until when, and where the
    ticket is or why there is none. For people and for JSON."""
    try:
        kept = json.loads(storage.read(house.observed) or b"{}").get("tickets") or {}
    except (ValueError, AttributeError):
        return []
    found = [
        {"application": name, "cause": cause, **asdict(known)}
        for name, state in kept.items()
        if application in (None, "", name)
        for cause, known in _read(state).items()
    ]
    return sorted(found, key=lambda each: (-each["count"], each["application"], each["cause"]))


def line_of(counted: Mapping[str, Any]) -> str:
    """One of those for people."""
    where = counted["ticket"] or counted["why"] or "no ticket yet"
    return f"{counted['count']} times until {counted['last']}  {counted['application']}: {counted['line']} ({where})"


def _read(state: Mapping[str, Any]) -> dict[str, Known]:
    try:
        return {
            str(cause): Known(**{**value, "excerpt": tuple(value["excerpt"])})
            for cause, value in (state.get("causes") or {}).items()
        }
    except (TypeError, KeyError, AttributeError):
        return {}
