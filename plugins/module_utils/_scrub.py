"""Pure: a text that may leave the host. Known secrets go by their value, unknown ones by how they look.

Everything is taken out before anything is cut to size: half a secret is a secret too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ._environment import REDACTED, redact

_NAMES = (
    r"pass(?:word|wd|phrase)?|pwd|secret|token|credentials?|api[_-]?key|access[_-]?key(?:[_-]?id)?|private[_-]?key|"
    r"secret[_-]?key|session(?:id|[_-]key)?|csrf[a-z]*|signature|dsn"
)
_KEY = re.compile(rf"(?:^|[_\-.])(?:{_NAMES})(?:$|[_\-.])", re.IGNORECASE)

_BLOCK = re.compile(
    r"-----BEGIN (?P<what>[A-Z0-9 ]*PRIVATE KEY)(?: BLOCK)?-----.*?(?:-----END (?P=what)(?: BLOCK)?-----|\Z)", re.DOTALL
)
_END_OF_BLOCK = re.compile(r"-----END [A-Z0-9 ]*PRIVATE KEY")
_LETTERS = re.compile(r"[A-Za-z0-9+/=]{16,}[ \t\r\"\\n]*$")
# Every repetition has an end: a log line may be a megabyte long, and must not be tried again from each of its letters.
_URL = re.compile(
    r"(?P<scheme>(?<![a-z0-9+.-])[a-z][a-z0-9+.-]{0,20}://)[^\s/@:'\"<>]{0,128}:[^\s@'\"<>]{0,512}@", re.IGNORECASE
)
_URL_USER = re.compile(r"(?P<scheme>(?<![a-z])https?://)[^\s/@:'\"<>]{16,512}@", re.IGNORECASE)
_HEADER = re.compile(
    r"(?P<name>\b(?:proxy-)?authorization|\bx-api-key|\bx-auth-token|\b(?:set-)?cookie)(?P<between>[\"']?\s*[:=]\s*[\"']?)"
    r"(?P<value>[^\r\n\"']+)",
    re.IGNORECASE,
)
_BEARER = re.compile(r"(?P<word>\b(?:bearer|basic|token)\s+)[A-Za-z0-9+/._~=-]{12,}", re.IGNORECASE)
_ASSIGNED = re.compile(
    rf"(?P<name>(?:{_NAMES})(?:[_\-][A-Za-z0-9_\-]{{0,40}})?)"
    r"(?P<between>\\?[\"']?[ \t]*(?:=>?|:)[ \t]*)"
    r"(?:\\\"(?P<escaped>(?:(?!\\\").)*)\\\"|\"(?P<double>(?:[^\"\\\n]|\\.)*)\"|'(?P<single>(?:[^'\\\n]|\\.)*)'"
    r"|(?P<plain>[^\s\"',;&}\])]+))",
    re.IGNORECASE,
)
_OPTION = re.compile(rf"(?P<name>--(?:[a-z-]{{0,40}}-)?(?:{_NAMES})[ \t]+)(?P<value>[^\s-]\S*)", re.IGNORECASE)
_KNOWN_SHAPES = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{30,}\b|\bxox[abprs]-[A-Za-z0-9-]{10,}"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*|\$ANSIBLE_VAULT;[^\n]*(?:\n[0-9a-f]{20,})*"
    r"|https://hooks\.slack\.com/services/\S+"
)
# What follows such a name and is no secret: nothing, a yes or no, a number of seconds, what is blacked out already.
_HARMLESS = re.compile(r"\[secret\]|\[|\{|null|none|true|false|yes|no|on|off|\d{1,6}|\*+|<[^>]*>", re.IGNORECASE)


class Scrubber:
    """Takes secrets out of texts. `known` are the values themselves; they appear in nothing that this prints."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._known = tuple(sorted({value for value in known if value}, key=len, reverse=True))

    def __repr__(self) -> str:
        return f"Scrubber({len(self._known)} secrets)"

    def __call__(self, text: str) -> str:
        """`text` without secrets."""
        text = redact(text, self._known)
        text = _BLOCK.sub(f"{REDACTED} (a private key)", text)
        text = _without_ends(text)
        text = _URL.sub(rf"\g<scheme>{REDACTED}@", text)
        text = _URL_USER.sub(rf"\g<scheme>{REDACTED}@", text)
        text = _HEADER.sub(rf"\g<name>\g<between>{REDACTED}", text)
        text = _BEARER.sub(rf"\g<word>{REDACTED}", text)
        text = _ASSIGNED.sub(_blacked_out, text)
        text = _OPTION.sub(rf"\g<name>{REDACTED}", text)
        return _KNOWN_SHAPES.sub(REDACTED, text)

    def value(self, found: Any) -> Any:
        """The same for what JSON holds: texts by value and shape, and whatever stands under a telling key."""
        if isinstance(found, Mapping):
            return {
                self(str(key)): REDACTED
                if isinstance(each, str) and each and _KEY.search(str(key))
                else self.value(each)
                for key, each in found.items()
            }
        if isinstance(found, list | tuple):
            return [self.value(each) for each in found]
        return self(found) if isinstance(found, str) else found


def _without_ends(text: str) -> str:
    """Without the end of a private key whose beginning is not here: a log begins somewhere."""
    if not _END_OF_BLOCK.search(text):
        return text
    lines = text.split("\n")
    for index, line in enumerate(lines):
        if _END_OF_BLOCK.search(line):
            lines[index] = f"{REDACTED} (a private key)"
            before = index - 1
            while before >= 0 and _LETTERS.search(lines[before][-4000:]):
                lines[before] = REDACTED
                before -= 1
    return "\n".join(lines)


def _blacked_out(found: re.Match[str]) -> str:
    for kind, quote in (("escaped", '\\"'), ("double", '"'), ("single", "'"), ("plain", "")):
        value = found[kind]
        if value is not None:
            if not value or _HARMLESS.fullmatch(value):
                return found[0]
            return f"{found['name']}{found['between']}{quote}{REDACTED}{quote}"
    return found[0]


def values_of(document: Any) -> tuple[str, ...]:
    """Every text and number in a document of secrets: whatever is in such a file counts as one."""
    if isinstance(document, Mapping):
        return tuple(value for each in document.values() for value in values_of(each))
    if isinstance(document, list | tuple):
        return tuple(value for each in document for value in values_of(each))
    return (document,) if isinstance(document, str) else ()
