"""What an application's file says about its objectives (key `objectives`) and who is told of what (key `alerts`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from ._schema import (
    At,
    each,
    factor,
    fraction,
    one_of,
    optional,
    relative_path,
    seconds,
    section,
    texts,
    url_path,
    whole,
)

Way = Literal["mail", "chat"]

_ADDRESS = texts(r"[^\s@<>,;:\"()\[\]\\]+@[A-Za-z0-9.-]+", "an address, such as ops@example.org")
_KEY = texts(r"[A-Za-z_][A-Za-z0-9_]*", "the name of a key in Vault, such as CHAT_URL")
_ways = each(one_of("mail", "chat"), of="way", unique=True)
_MAIL: tuple[Way, ...] = ("mail",)
_CHAT: tuple[Way, ...] = ("chat",)
_BOTH: tuple[Way, ...] = ("mail", "chat")


@dataclass(frozen=True)
class Objectives:
    """From what on somebody is told. Shares are 0 to 1; what is None is not watched.

    `error_ratio` and `server_error_ratio` are both about answers 5xx: the first warns, the second is a page.
    """

    cpu: Annotated[float, fraction] = 0.8
    memory: Annotated[float, fraction] = 0.8
    disk: Annotated[float, fraction] = 0.8
    load_per_core: Annotated[float, factor] = 4.0
    response_seconds: Annotated[float, seconds(0.001, 600)] = 1.0
    p95_seconds: Annotated[float, seconds(0.001, 600)] = 2.0
    error_ratio: Annotated[float, fraction] = 0.01
    server_error_ratio: Annotated[float, fraction] = 0.05
    requests_per_minute: Annotated[int, whole(1, 1 << 40)] = 1000
    uptime: Annotated[float, fraction] = 0.999
    certificate_days: Annotated[int, whole(1, 365)] = 14
    api_path: Annotated[str, url_path] = "/api/"
    api_seconds: Annotated[float | None, optional(seconds(0.001, 600))] = None
    users: Annotated[int | None, optional(whole(1, 1 << 40))] = None
    backup_success: Annotated[float | None, optional(fraction)] = None
    recovery_seconds: Annotated[float | None, optional(seconds(1, 86400))] = None


@dataclass(frozen=True)
class Routes:
    """Which way a message of each kind goes. Where the file declares only one of both ways, all go that way; an empty
    list keeps a kind quiet: it is still on the page."""

    cpu: Annotated[tuple[Way, ...], _ways] = _CHAT
    memory: Annotated[tuple[Way, ...], _ways] = _MAIL
    load: Annotated[tuple[Way, ...], _ways] = _MAIL
    disk: Annotated[tuple[Way, ...], _ways] = _MAIL
    units: Annotated[tuple[Way, ...], _ways] = _MAIL
    health: Annotated[tuple[Way, ...], _ways] = _BOTH
    response: Annotated[tuple[Way, ...], _ways] = _MAIL
    p95: Annotated[tuple[Way, ...], _ways] = _MAIL
    errors: Annotated[tuple[Way, ...], _ways] = _MAIL
    server_errors: Annotated[tuple[Way, ...], _ways] = _CHAT
    requests: Annotated[tuple[Way, ...], _ways] = _MAIL
    users: Annotated[tuple[Way, ...], _ways] = _MAIL
    api: Annotated[tuple[Way, ...], _ways] = _MAIL
    uptime: Annotated[tuple[Way, ...], _ways] = _MAIL
    certificate: Annotated[tuple[Way, ...], _ways] = _MAIL
    backup: Annotated[tuple[Way, ...], _ways] = _MAIL
    proof: Annotated[tuple[Way, ...], _ways] = _BOTH
    jobs: Annotated[tuple[Way, ...], _ways] = _MAIL
    release: Annotated[tuple[Way, ...], _ways] = _BOTH
    rollback: Annotated[tuple[Way, ...], _ways] = _BOTH
    restore: Annotated[tuple[Way, ...], _ways] = _BOTH


def _expression(value: Any, at: At) -> Any:
    wanted = "a regular expression of one line, in quotes"
    if not isinstance(value, str) or not value or not value.isprintable() or len(value) > 500:
        return at.refuse(value, wanted)
    try:
        re.compile(value)
    except re.error:
        return at.refuse(value, wanted)
    return str(value)


@dataclass(frozen=True)
class LogPattern:
    """Lines that somebody must look into, in a file below /var/log/<application>/."""

    name: Annotated[str, texts(r"[a-z][a-z0-9_-]{0,39}", "a name of lower-case letters, digits and hyphens")]
    match: Annotated[str, _expression]
    file: Annotated[str, relative_path] = "app.log"


@dataclass(frozen=True)
class Tickets:
    """Where tickets are opened: `url` is what the tracker's API makes issues at, `token` the key of its token in Vault;
    or by mail."""

    kind: Annotated[
        Literal["github", "gitlab", "jira", "webhook", "mail"], one_of("github", "gitlab", "jira", "webhook", "mail")
    ]
    url: Annotated[str | None, optional(texts(r"https?://[!-~]+", "a URL"))] = None
    token: Annotated[str | None, optional(_KEY)] = None
    mail: Annotated[str | None, optional(_ADDRESS)] = None
    project: Annotated[str, texts(r"[A-Z0-9_]{0,40}", "the key of a project in Jira, such as OPS")] = ""
    issue_type: Annotated[str, texts(r".{1,60}", "a kind of issue in Jira")] = "Bug"
    labels: Annotated[tuple[str, ...], each(texts(r"[^,\s]{1,60}", "a label without blanks"), of="label")] = (
        "backstay",
    )


@dataclass(frozen=True)
class AlertPolicy:
    """Who is told. `chat` names the key in Vault of the webhook of a chat, `backstay_secrets['<application>'][<chat>]`:
    whoever knows that can write there. No process of the application gets it."""

    mail: Annotated[tuple[str, ...], each(_ADDRESS, of="address", unique=True)] = ()
    chat: Annotated[str | None, optional(_KEY)] = None
    sender: Annotated[str | None, optional(_ADDRESS)] = None
    routes: Annotated[Routes, section(Routes)] = field(default_factory=Routes)
    patterns: Annotated[tuple[LogPattern, ...], each(section(LogPattern), of="pattern")] = ()
    tickets: Annotated[Tickets | None, optional(section(Tickets))] = None

    @property
    def secret_keys(self) -> tuple[str, ...]:
        """The keys whose values are in Vault."""
        token = self.tickets.token if self.tickets else None
        return tuple(key for key in (self.chat, token) if key is not None)

    def ways(self, kind: str) -> tuple[Way, ...]:
        """The ways of a kind, as far as they are declared; a kind nobody knows goes every way."""
        wanted: tuple[Way, ...] = getattr(self.routes, kind, _BOTH)
        there = tuple(way for way in _BOTH if (self.mail if way == "mail" else self.chat))
        return tuple(way for way in wanted if way in there) or (there if wanted else ())


def strictest(found: Iterable[Objectives]) -> Objectives:
    """What counts for the host, which all its applications share: of each limit the lowest."""
    given = list(found) or [Objectives()]
    return Objectives(
        cpu=min(each.cpu for each in given),
        memory=min(each.memory for each in given),
        disk=min(each.disk for each in given),
        load_per_core=min(each.load_per_core for each in given),
    )


def problems_of_tickets(policy: AlertPolicy) -> Iterator[tuple[str, str]]:
    """What no single key can know, each as (key, end of a sentence)."""
    tickets, names = policy.tickets, [pattern.name for pattern in policy.patterns]
    for number, name in enumerate(names):
        if name in names[:number]:
            yield f"alerts.patterns[{number}].name", f"is {name!r} for the second time: name each pattern once"
    if names and tickets is None:
        yield "alerts.patterns", "has nowhere to open a ticket: add `alerts.tickets`"
    if tickets is None:
        return
    wanted = "mail" if tickets.kind == "mail" else "url"
    if getattr(tickets, wanted) is None:
        yield "alerts.tickets", f"is of the kind {tickets.kind} and has no `{wanted}`: add it"
    if tickets.kind == "jira" and not tickets.project:
        yield "alerts.tickets.project", "is missing, and Jira asks for it: add the project's key"
