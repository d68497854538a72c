"""Lines of an application's log that somebody must look into: counted, and made a ticket once for each cause.

A cause is a line without what varies in it (numbers, ids, addresses). The ticket has the line and what stood around it,
secrets removed. What could not be opened is tried again each minute; what was opened is not opened again until its
cause was silent for a month.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ._alert_settings import LogPattern, Tickets
from ._error_kinds import clean, normalise
from ._errors import BackstayError
from ._house import House
from ._log_cursor import Place, Since
from ._notify import Destination, Secrets, mail, post_json
from ._run import Runner, run
from ._storage import Storage, canonical

FORMAT = 1
LOG_BYTES = 4 << 20
AROUND = 5  # lines before the first one
MOST_OPEN = 5  # new tickets in one look: a storm is one trouble
SILENT_DAYS = 30
_LETTERS = 500
_TITLE_LETTERS = 150

Post = Callable[..., bytes]


@dataclass(frozen=True)
class Found:
    """One cause in what was read: how often, and the excerpt around its first line."""

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
        line = raw[:_LETTERS]
        for pattern, wanted in compiled:
            if not wanted.search(line):
                continue
            shown = clean(line, secrets)
            cause = hashlib.sha256(f"{pattern.name}\0{normalise(message_of(shown))}".encode()).hexdigest()[:12]
            known = found.get(cause)
            excerpt = (*(clean(each, secrets) for each in before), shown)
            found[cause] = (
                replace(known, count=known.count + 1) if known else Found(pattern.name, cause, shown, 1, excerpt)
            )
            break
        before.append(line)
    return list(found.values())


def message_of(line: str) -> str:
    """What a line says; of a JSON object what varies least: its message, logger and exception."""
    if line.startswith("{"):
        try:
            row = json.loads(line)
        except ValueError:
            return line
        if isinstance(row, dict) and "message" in row:
            parts = [str(row.get(key, "")) for key in ("logger", "message", "exception", "error")]
            return " ".join(part.strip().splitlines()[-1] for part in parts if part.strip())
    return line


def title_of(application: str, known: Known) -> str:
    return f"{application}: {known.pattern}: {message_of(known.line)}"[:_TITLE_LETTERS]


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
        opened: list[Known] = []
        for cause, known in causes.items():
            if known.opened or len(opened) == MOST_OPEN:
                continue
            causes[cause] = self._open(cause, known, settings, at, now)
            if causes[cause].opened:
                opened.append(causes[cause])
            else:
                break  # the tracker is away: the others would wait for it too
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


def _read(state: Mapping[str, Any]) -> dict[str, Known]:
    try:
        return {
            str(cause): Known(**{**value, "excerpt": tuple(value["excerpt"])})
            for cause, value in (state.get("causes") or {}).items()
        }
    except (TypeError, KeyError, AttributeError):
        return {}
