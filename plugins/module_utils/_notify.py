"""Messages to people: by mail through the host's sendmail, and to a chat by a webhook as Slack has it.

A message is put into the outbox, a file for each destination, and leaves it when it was delivered: a relay or a chat
that is away costs time and no message. No secret is in any of these files: the address of a webhook is looked up when
it is used, and everything that is told passes through the redaction.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from ._alert_settings import AlertPolicy, Way
from ._environment import redact
from ._errors import BackstayError, InputError
from ._house import House
from ._run import Runner, run
from ._storage import Storage, canonical

FORMAT = 1
SPOOL = "var/spool/nullmailer"
RELAY_SECONDS = 900.0  # so long a relay may be away, or put somebody off (greylisting), before that is trouble
REFUSED_DAYS = 8.0  # as long as a test message is believed
KEEP_DAYS = 3
MOST_WAITING = 1000
MOST_AT_ONCE = 20
_LINE_LETTERS = 2000
_SECONDS = 8.0
_WAITS = (60, 120, 300, 600, 1800)  # seconds after each failed attempt; the last one again and again


@dataclass(frozen=True)
class Message:
    """What is to be told. The same id to the same destination is one message, however often it is put out."""

    id: str
    kind: str
    application: str | None
    subject: str
    lines: tuple[str, ...]
    at: str

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@dataclass(frozen=True)
class Destination:
    """Where one goes: an address, or the chat of an application."""

    way: Way
    address: str = ""  # of mail
    sender: str = ""
    application: str = ""  # whose chat

    @property
    def name(self) -> str:
        return self.address if self.way == "mail" else f"the chat of {self.application}"


@dataclass(frozen=True)
class Outcome:
    """What became of one message at one destination."""

    destination: str
    subject: str
    state: Literal["sent", "waits", "given up"]
    why: str = ""


@dataclass(frozen=True)
class Secrets:
    """What may be in no message: values, and the addresses of webhooks by application."""

    values: tuple[str, ...] = field(default=(), repr=False)
    chats: Mapping[str, str] = field(default_factory=dict, repr=False)
    named: Mapping[tuple[str, str], str] = field(default_factory=dict, repr=False)  # by application and key

    def redact(self, text: str) -> str:
        return redact(text, (*self.values, *self.chats.values()))


def destinations(kind: str, application: str | None, policies: Mapping[str, AlertPolicy]) -> tuple[Destination, ...]:
    """Who is told of a kind: whom the application names, and for what concerns the host, whom all of them name. Each
    address once."""
    asked = policies if application is None else {name: policies[name] for name in policies if name == application}
    found: dict[tuple[str, str], Destination] = {}
    for name, policy in asked.items():
        for way in policy.ways(kind):
            if way == "mail":
                for address in policy.mail:
                    found.setdefault(("mail", address), Destination("mail", address, policy.sender or ""))
            else:
                found[("chat", name)] = Destination("chat", application=name)
    return tuple(found.values())


def addressed(application: str | None, policies: Mapping[str, AlertPolicy]) -> bool:
    """Whether anybody is declared who could be told of an application, or of the host (None)."""
    asked = policies.values() if application is None else [policies[name] for name in policies if name == application]
    return any(policy.mail or policy.chat for policy in asked)


def send(house: House, storage: Storage, message: Message, to: Sequence[Destination], secrets: Secrets) -> None:
    """Put a message out for each of its destinations, once where two applications name one chat; `deliver` brings it
    there. Raises BackstayError when the disk refuses."""
    storage.make_directory(house.outbox, mode=0o700)
    hooks: set[str] = set()
    for destination in to:
        hook = secrets.chats.get(destination.application, "") if destination.way == "chat" else ""
        if hook and hook in hooks:
            continue
        hooks.add(hook)
        value = {
            "format": FORMAT,
            "to": asdict(destination),
            "id": message.id,
            "kind": message.kind,
            "application": message.application,
            "subject": _line(secrets.redact(message.subject)),
            "lines": [_line(secrets.redact(line)) for line in message.lines],
            "at": message.at,
            "tries": 0,
            "next": "",
        }
        storage.write(house.outbox / f"{message.id}-{_place(destination)}.json", canonical(value), mode=0o600)


def _place(destination: Destination) -> str:
    import hashlib

    return hashlib.sha256(f"{destination.way}\0{destination.name}".encode()).hexdigest()[:8]


def _line(text: str) -> str:
    return re.sub(r"[\r\n\0]+", " ", text)[:_LINE_LETTERS]


def waiting(house: House) -> list[Path]:
    """The files of what waits, the oldest first."""
    try:
        found = [path for path in house.outbox.iterdir() if path.suffix == ".json" and not path.name.startswith(".")]
        return sorted(found, key=lambda path: (path.stat().st_mtime, path.name))
    except OSError:
        return []


def deliver(
    house: House,
    storage: Storage,
    secrets: Secrets,
    now: dt.datetime,
    *,
    runner: Runner = run,
    post: Callable[[str, bytes], object] | None = None,
    at_once: bool = False,
) -> tuple[Outcome, ...]:
    """Bring what waits to where it goes, as far as it is due. What fails is tried again later, after three days no
    more. Raises nothing for a relay or a chat that is away."""
    found: list[Outcome] = []
    away: dict[str, str] = {}
    tried = 0
    for number, path in enumerate(waiting(house)):
        value = _read(storage, path)
        if value is None:
            storage.remove(path)
            continue
        destination = Destination(**value["to"])
        old = value["at"] < _stamp(now - dt.timedelta(days=KEEP_DAYS))
        if old or number >= MOST_WAITING:
            storage.remove(path)
            found.append(Outcome(destination.name, value["subject"], "given up", f"it waited since {value['at']}"))
            continue
        if (value["next"] > _stamp(now) and not at_once) or tried >= MOST_AT_ONCE:
            continue
        try:
            if destination.name in away:
                raise BackstayError(away[destination.name])  # one time limit for each destination and run
            tried += 1  # what waits for a chat that is away keeps no mail waiting
            if destination.way == "mail":
                subject, lines = value["subject"], value["lines"]
                mail(house.sendmail, destination, subject, lines, name=value["id"], now=now, runner=runner)
            else:
                _chat(destination, value, secrets, post or post_json)
        except BackstayError as failed:
            why = secrets.redact(failed.message)
            away[destination.name] = why
            if isinstance(failed, InputError) and failed.message.startswith("refused"):
                storage.remove(path)
                found.append(Outcome(destination.name, value["subject"], "given up", why))
                continue
            wait = _WAITS[min(value["tries"], len(_WAITS) - 1)]
            later = {**value, "tries": value["tries"] + 1, "next": _stamp(now + dt.timedelta(seconds=wait))}
            _rewrite(storage, path, later)
            found.append(Outcome(destination.name, value["subject"], "waits", why))
        else:
            storage.remove(path)
            found.append(Outcome(destination.name, value["subject"], "sent"))
    if found:
        _remember(house, storage, found, now)
    return tuple(found)


def _rewrite(storage: Storage, path: Path, value: Mapping[str, Any]) -> None:
    """With its old time, by which what waits is ordered."""
    stat = path.stat()
    storage.write(path, canonical(value), mode=0o600)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _read(storage: Storage, path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(storage.read(path) or b"")
        if value["format"] != FORMAT:
            return None
        Destination(**value["to"])
        return dict(value)
    except (ValueError, KeyError, TypeError):
        return None


def _chat(
    destination: Destination, value: Mapping[str, Any], secrets: Secrets, post: Callable[[str, bytes], object]
) -> None:
    url = secrets.chats.get(destination.application)
    if not url:
        raise BackstayError(
            f"there is no address for {destination.name}: put it into backstay_secrets['{destination.application}'] in "
            "Vault, under the key that `alerts.chat` names, and run playbooks/site.yml"
        )
    text = "\n".join([f"*{_escaped(value['subject'])}*", *(_escaped(line) for line in value["lines"])])
    post(url, json.dumps({"text": text}).encode())


def _escaped(text: str) -> str:
    """What Slack reads as markup: these three only."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def mail(
    sendmail: Path,
    destination: Destination,
    subject: str,
    lines: Sequence[str],
    *,
    name: str,
    now: dt.datetime,
    runner: Runner = run,
) -> None:
    """Hand a message to the host's sendmail, which queues it. Raises BackstayError when it does not take it."""
    if not sendmail.exists():
        raise BackstayError(f"there is no {sendmail}, so no mail can leave this host: play role mail")
    host = os.uname().nodename
    headers = [
        f"To: {destination.address}",
        f"Subject: {_encoded(subject)}",
        f"Date: {now.astimezone(dt.UTC).strftime('%a, %d %b %Y %H:%M:%S +0000')}",
        f"Message-ID: <{name}.{_place(destination)}@{host}>",
        "Auto-Submitted: auto-generated",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 8bit",
    ]
    arguments = [str(sendmail), "-t", "-i"]
    if destination.sender:
        headers.insert(0, f"From: Backstay on {host} <{destination.sender}>")
        arguments += ["-f", destination.sender]
    text = "\n".join([*headers, "", *lines, ""])
    sent = runner(arguments, stdin=text, timeout_seconds=20.0, check=False)
    if not sent.ok:
        said = " ".join(sent.last_lines(1)) or "no reason given"
        raise BackstayError(f"sendmail did not take it (exit code {sent.returncode}): {said}")


def _encoded(text: str) -> str:
    """A header as RFC 2047 has it, where it is not plain; never with a line break."""
    if text.isascii():
        return text[:400]
    import base64

    parts, part = [], ""
    for letter in text[:200]:
        if len((part + letter).encode()) > 45:
            parts.append(part)
            part = ""
        part += letter
    return "\n ".join(f"=?utf-8?b?{base64.b64encode(each.encode()).decode()}?=" for each in [*parts, part])


def post_json(url: str, body: bytes, *, headers: Mapping[str, str] | None = None) -> bytes:
    """Ask a webhook to take some JSON; returns its answer. Raises BackstayError where it is to be tried again, and
    InputError ("refused ...") where that is of no use. No sentence holds the address's path, which is the secret."""
    from ._http import Target, request

    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme not in ("https", "http") or not host:
        raise BackstayError("the webhook's address in Vault is no URL that begins with https://: correct it")
    target = Target.tcp(host, port, tls=parts.scheme == "https")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    given = {"Content-Type": "application/json", "User-Agent": "backstay-notify", **(headers or {})}
    answer = request(target, path, timeout_seconds=_SECONDS, method="POST", headers=given, body=body, body_bytes=65536)
    if 200 <= answer.status < 300:
        return answer.body
    if answer.status in (408, 409, 425, 429) or answer.status >= 500 or 300 <= answer.status < 400:
        raise BackstayError(f"{target.peer} answered {answer.status}")
    raise InputError(f"refused by {target.peer} with {answer.status}: look at the webhook's address in Vault")


def _remember(house: House, storage: Storage, outcomes: Iterable[Outcome], now: dt.datetime) -> None:
    """For each destination when something last came through, and since when nothing does."""
    known = _deliveries(house, storage)
    for outcome in outcomes:
        each = dict(known.get(outcome.destination, {}))
        if outcome.state == "sent":
            each |= {"sent_at": _stamp(now), "failing_since": "", "why": ""}
            if outcome.subject.startswith(TEST_SUBJECT):
                each["test_at"] = _stamp(now)
        else:
            each |= {"failing_since": each.get("failing_since") or _stamp(now), "why": outcome.why}
            if outcome.state == "given up":
                each["given_up"] = int(each.get("given_up") or 0) + 1
        known[outcome.destination] = each
    value = {"format": FORMAT, "destinations": dict(sorted(known.items()))}
    storage.write(house.deliveries, canonical(value), mode=0o600)


def _deliveries(house: House, storage: Storage) -> dict[str, Any]:
    try:
        value = json.loads(storage.read(house.deliveries) or b"")
        return dict(value["destinations"]) if value["format"] == FORMAT else {}
    except (ValueError, KeyError, TypeError):
        return {}


def path_facts(house: House, storage: Storage, policies: Mapping[str, AlertPolicy]) -> dict[str, Any]:
    """Whether messages reach people: {"declared", "waiting", "oldest_at", "destinations": {name: {"sent_at", "test_at",
    "failing_since", "why", "given_up"}}}; a destination that never got anything is there, with nothing in it."""
    known = _deliveries(house, storage)
    names = {
        each.name: known.get(each.name, {})
        for policy_name, policy in policies.items()
        for each in all_destinations(policy_name, policy)
    }
    found = waiting(house)
    oldest = min((value["at"] for path in found if (value := _read(storage, path))), default=None)
    return {"declared": bool(names), "waiting": len(found), "oldest_at": oldest, "destinations": names}


def queued(root: Path) -> tuple[list[float], list[float]]:
    """Of the mail that this host's sendmail has taken (nullmailer's queue, see role mail): when what waits for the
    relay was handed over, and when what the relay refused for good was put away; seconds since 1970, the oldest first.
    """
    spool, found = root / SPOOL, []
    for name in ("queue", "failed"):
        try:
            found.append(sorted(entry.stat().st_mtime for entry in os.scandir(spool / name) if entry.is_file()))
        except OSError:  # another sendmail, or one was sent meanwhile: that is asked again at the next look
            found.append([])
    return found[0], found[1]


def relay_trouble(root: Path, now: dt.datetime) -> str:
    """Why mail does not leave this host though its sendmail takes it, in a clause; empty where it does."""
    waits, refused = queued(root)
    refused = [at for at in refused if now.timestamp() - at < REFUSED_DAYS * 86400]
    if waits and now.timestamp() - waits[0] > RELAY_SECONDS:
        minutes = (now.timestamp() - waits[0]) / 60
        return f"mail waits {minutes:.0f} min for its relay ({len(waits)} in `mailq`): see `journalctl -u nullmailer`"
    if refused:
        return f"the relay refused mail for good: read and remove {len(refused)} in /{SPOOL}/failed"
    return ""


def all_destinations(name: str, policy: AlertPolicy) -> tuple[Destination, ...]:
    """Everybody an application names, whatever the kind."""
    chat = (Destination("chat", application=name),) if policy.chat else ()
    return (*(Destination("mail", address, policy.sender or "") for address in policy.mail), *chat)


TEST_SUBJECT = "Test of the messages"


def trial_message(application: str, by: str, now: dt.datetime) -> Message:
    host = os.uname().nodename
    lines = (
        f"{by} asked {host} to send this, to see whether messages about {application} reach you.",
        "They do. Nothing is wrong, and there is nothing to do.",
    )
    name = f"test-{now.strftime('%Y%m%d%H%M%S')}-{os.getpid()}"
    return Message(name, "test", application, f"{TEST_SUBJECT} of {application} on {host}", lines, _stamp(now))


def secrets_of(
    house: House, storage: Storage, names: Iterable[str], policies: Mapping[str, AlertPolicy | None] | None = None
) -> Secrets:
    """What must be in no message, and with the policies the addresses of chats, from root's own files. What cannot be
    read is left out: its chat then waits, and says why."""
    values: list[str] = []
    chats: dict[str, str] = {}
    named: dict[tuple[str, str], str] = {}
    for name in names:
        policy = (policies or {}).get(name)
        layout = house.layout(name)
        own = _json(storage, layout.secrets_file)
        values += [*_texts(own), *_texts(_json(storage, layout.backup_secrets))]
        given = own.get("values")
        chat = given.get(policy.chat) if policy and policy.chat and isinstance(given, dict) else None
        if isinstance(chat, str):
            chats[name] = chat
        if isinstance(given, dict):
            named |= {(name, key): value for key, value in given.items() if isinstance(value, str)}
    return Secrets(tuple(values), chats, named)


def _json(storage: Storage, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(storage.read(path) or b"{}")
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _texts(value: Any) -> list[str]:
    """All texts that are long enough to be secrets, wherever they stand."""
    if isinstance(value, dict):
        return [text for each in value.values() for text in _texts(each)]
    if isinstance(value, list):
        return [text for each in value for text in _texts(each)]
    return [value] if isinstance(value, str) and len(value) >= 4 else []


def _stamp(now: dt.datetime) -> str:
    return now.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
