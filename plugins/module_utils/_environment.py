"""Environments: reading `.env` files, composing what a release runs with, and writing it so that systemd reads it back.

Values of secrets never appear in an error, a representation or a log: errors name keys and places only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, urlsplit

from ._application import PROVIDED, Application, carried
from ._errors import InputError

REDACTED = "[secret]"

# A shorter text is found everywhere by chance, and is no secret.
_SHORTEST_SECRET = 4

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ASSIGNMENT = re.compile(
    r"""
    [^\S\n]* (?:export[^\S\n]+)? (?P<key>[A-Za-z_][A-Za-z0-9_]*) [^\S\n]*
    (?: = [^\S\n]*
        (?: '(?P<single>[^']*)'
        |   "(?P<double>(?:[^"\\]|\\.)*)"
        |   (?P<plain>(?!(?<=\s)\#)[^'"\n][^\n]*?)?
        )
    )?
    [^\S\n]* (?:(?<=\s)\#[^\n]*)? (?:\n|\Z)
    """,
    re.VERBOSE | re.DOTALL,
)
_BLANK = re.compile(r"[^\S\n]*(?:\#[^\n]*)?(?:\n|\Z)")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


class Secrets(dict[str, str]):
    """Secret values by key; printed, it shows the keys only."""

    def __repr__(self) -> str:
        return f"Secrets({', '.join(sorted(self))})"

    __str__ = __repr__

    def __format__(self, _spec: str) -> str:
        return repr(self)


def parse(text: str, *, file: str) -> dict[str, str]:
    """Keys and values of an `.env` or `.env.example`: quotes, comments, `export`; nothing is interpolated.

    A key without a value counts as empty; of a key that is there twice the last counts. Raises InputError naming the
    line that cannot be read, never its content.
    """
    found: dict[str, str] = {}
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    position = 0
    while position < len(text):
        blank = _BLANK.match(text, position)
        if blank is not None:
            position = blank.end()
            continue
        assignment = _ASSIGNMENT.match(text, position)
        if assignment is None:
            line = text.count("\n", 0, position) + 1
            raise InputError(
                f"Line {line} of {file} is neither KEY=value nor a comment: correct it, or close its quotes."
            )
        found[assignment["key"]] = _value(assignment)
        position = assignment.end()
    return found


def _value(assignment: re.Match[str]) -> str:
    if assignment["single"] is not None:
        return assignment["single"]
    if assignment["double"] is not None:
        return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), assignment["double"], flags=re.DOTALL)
    return assignment["plain"] or ""


def environment_file(values: Mapping[str, str]) -> str:
    """The text of a systemd EnvironmentFile that gives exactly these values; keys are sorted.

    Every value is in double quotes, in which systemd takes all but four characters as they are. Raises InputError
    naming each key that systemd would drop or change.
    """
    for key, value in values.items():
        if not _KEY.fullmatch(key):
            raise InputError(
                f"The environment's key {key!r} is no name systemd takes: use letters, digits, underscores."
            )
        if not carried(value):
            raise InputError(
                f"The value of {key} holds a byte zero or a broken letter, or is longer than 128 KB, and systemd would "
                "refuse it: mend it, or put it into a file."
            )
    return "".join(f"{key}={_quoted(values[key])}\n" for key in sorted(values))


def _quoted(value: str) -> str:
    return '"' + re.sub(r'(["\\`$])', r"\\\1", value) + '"'


def compose(application: Application, secrets: Mapping[str, str], provided: Mapping[str, str]) -> dict[str, str]:
    """The environment of a release: what Backstay provides, the file's values, and the secrets that the file names.

    Raises InputError naming every required key that is missing or empty and where its value belongs, and every secret
    that no environment can carry.
    """
    name, settings = application.name, application.environment
    wrong = [key for key in settings.secret if not isinstance(secrets.get(key, ""), str)]
    if wrong:
        raise InputError(f"{_places(name, wrong)} is not text: write it in quotes, with `ansible-vault edit`.")
    composed = {
        **settings.values,
        **{key: secrets[key] for key in settings.secret if key in secrets},
        **(settings.isolated if provided.get("BACKSTAY_ISOLATED") else {}),
        **provided,
    }
    missing = [
        key
        for key in settings.required
        if not composed.get(key, "").strip() and key not in provided and key not in PROVIDED
    ]
    if missing:
        raise InputError(
            f"{name} requires {_listed(missing)}, missing or empty: "
            + "; ".join(f"set {_place(application, key)}" for key in missing)
            + "."
        )
    wrong = [key for key in settings.secret if not carried(composed.get(key, ""))]
    if wrong:
        raise InputError(
            f"{_places(name, wrong)} holds a byte zero or a broken letter, or is longer than 128 KB, which no "
            "environment can carry: mend it, or put it into a file."
        )
    return composed


def _listed(keys: list[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{', '.join(keys[:-1])} and {keys[-1]}"


def _place(application: Application, key: str) -> str:
    if key in application.environment.secret:
        return f"the Vault variable backstay_secrets['{application.name}']['{key}']"
    return f"environment.values.{key} in applications/{application.name}.yml"


def _places(name: str, keys: list[str]) -> str:
    return _listed([f"backstay_secrets['{name}']['{key}']" for key in keys])


def unused(application: Application, secrets: Mapping[str, str]) -> tuple[str, ...]:
    """Secrets that nobody gets, because the application's file does not name them: usually a misspelt key."""
    told = application.alerts.secret_keys if application.alerts else ()
    return tuple(sorted({*secrets} - {*application.environment.secret, *application.schedules.ping_keys, *told}))


def missing_from_example(application: Application, example_text: str, *, file: str = ".env.example") -> tuple[str, ...]:
    """The keys that an `.env.example` names and the application's file does not know, in the example's order.

    Raises InputError when the example cannot be read.
    """
    known = {*application.environment.values, *application.environment.secret, *PROVIDED}
    return tuple(key for key in parse(example_text, file=file) if key not in known)


def redact(text: str, secrets: Iterable[str]) -> str:
    """`text` without any of the secrets, also where they are escaped, in a URL, or only one line of them is there."""
    shapes = {shape for secret in secrets for shape in _shapes(secret) if len(shape) >= _SHORTEST_SECRET}
    for shape in sorted(shapes, key=len, reverse=True):
        text = text.replace(shape, REDACTED)
    return text


def _shapes(secret: str) -> Iterable[str]:
    whole = secret.strip()
    yield secret
    yield whole
    yield json.dumps(whole)[1:-1]
    yield json.dumps(whole, ensure_ascii=False)[1:-1]
    yield repr(whole)[1:-1]
    yield quote(whole, safe="", errors="replace")
    if "\n" in whole:
        yield from (line.strip() for line in whole.splitlines() if len(line.strip()) >= 2 * _SHORTEST_SECRET)
    if "://" in whole:
        yield _password(whole)


def _password(url: str) -> str:
    try:
        return urlsplit(url).password or ""
    except ValueError:
        return ""
