"""From what YAML gives to what the library uses: converters of single values, and mappings as dataclasses.

The dataclasses are the schema. A field that may stand in a file carries its converter (`Annotated[type, converter]`)
and its default; a field without a default must be given. Every problem of a file is found in one pass, so that a
person corrects it once.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from difflib import get_close_matches
from functools import cache
from pathlib import PurePosixPath
from typing import Any, get_type_hints


class Bad:
    """Stands for a value that was refused; the reason is among the problems."""


BAD = Bad()


@dataclass(frozen=True)
class At:
    """Where in which file a value stands, and where problems are collected."""

    file: str
    key: str
    problems: list[str]

    def below(self, part: str | int) -> At:
        if isinstance(part, int):
            return At(self.file, f"{self.key}[{part}]", self.problems)
        return At(self.file, f"{self.key}.{part}" if self.key else part, self.problems)

    def refuse(self, seen: Any, expected: str) -> Bad:
        return self.say(f"`{self.key}` in {self.file} is {shown(seen)}: write {expected}.")

    def say(self, sentence: str) -> Bad:
        self.problems.append(sentence)
        return BAD


Converter = Callable[[Any, At], Any]
_NAME = re.compile(r"[a-z][a-z0-9_]{0,29}")


def shown(value: Any) -> str:
    """A value as a person would recognise it, never longer than a line."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    text = repr(str(value)) if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def texts(pattern: str, expected: str) -> Converter:
    compiled = re.compile(pattern)

    def convert(value: Any, at: At) -> Any:
        if isinstance(value, str) and value.isprintable() and compiled.fullmatch(value):
            return str(value)
        return at.refuse(value, expected)

    return convert


def one_of(*choices: str) -> Converter:
    def convert(value: Any, at: At) -> Any:
        if isinstance(value, str) and value in choices:
            return str(value)
        near = get_close_matches(str(value), choices, n=1)
        return at.refuse(value, near[0] if near else f"one of {', '.join(choices)}")

    return convert


def whole(least: int, most: int) -> Converter:
    def convert(value: Any, at: At) -> Any:
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return int(value)
        return at.refuse(value, f"a whole number from {least} to {most}, without quotes")

    return convert


def seconds(least: float, most: float) -> Converter:
    def convert(value: Any, at: At) -> Any:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and math.isfinite(value) and least <= value <= most:
            return float(value)
        return at.refuse(value, f"a number of seconds from {least:g} to {most:g}, without quotes")

    return convert


def fraction(value: Any, at: At) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and math.isfinite(value) and 0 <= value <= 1:
        return float(value)
    return at.refuse(value, "a share from 0 to 1, such as 0.05, without quotes")


def factor(value: Any, at: At) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and math.isfinite(value) and 1 <= value <= 1000:
        return float(value)
    return at.refuse(value, "a factor from 1 to 1000, without quotes")


def flag(value: Any, at: At) -> Any:
    return value if isinstance(value, bool) else at.refuse(value, "true or false, without quotes")


def optional(converter: Converter) -> Converter:
    return lambda value, at: None if value is None else converter(value, at)


def relative_path(value: Any, at: At) -> Any:
    """A path below some directory, in its plain form."""
    good = isinstance(value, str) and value.isprintable() and value.strip() == value != ""
    if not good or "\\" in value or value.startswith(("/", "~")) or ".." in PurePosixPath(value).parts:
        return at.refuse(value, "a relative path without `..`")
    return str(PurePosixPath(value))


def inner_path(value: Any, at: At) -> Any:
    """A path below the data directory, never that directory itself."""
    path = relative_path(value, at) if value != "." else "."
    if path == ".":
        return at.refuse(value, "a path below the data directory")
    return path


def served_directory(value: Any, at: At) -> Any:
    """A path below the data directory whose name stands in nginx's configuration as it is."""
    path = inner_path(value, at)
    if isinstance(path, str) and re.search(r"""[\s;{}$"'#*]""", path):
        return at.refuse(value, "a path without blanks and without any of ; { } $ \" ' # *")
    return path


def location(value: Any, at: At) -> Any:
    """What is asked for at one place of nginx, which compares the path decoded and without its query."""
    if isinstance(value, str) and re.fullmatch(r"/[A-Za-z0-9._~/-]*([?][!-~]*)?", value) and "#" not in value:
        return str(value)
    return at.refuse(value, "a path that begins with /, of letters, digits and . _ ~ - / alone, and its query")


def url_path(value: Any, at: At) -> Any:
    if isinstance(value, str) and re.fullmatch(r"/[!-~]*", value) and "#" not in value:
        return str(value)
    return at.refuse(value, "a path that begins with / and is encoded as in a URL")


_LABEL = r"(?!-)[a-z0-9-]{1,63}(?<!-)"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")


def domain(value: Any, at: At) -> Any:
    if isinstance(value, str) and _HOST_NAME.fullmatch(value) and not re.fullmatch(r"[0-9.]+", value):
        return str(value)
    return at.refuse(value, "a host name in lower case, such as portal.example.org")


def address(value: Any, at: At) -> Any:
    """An IP address or network, in the form nginx reads."""
    try:
        network = ipaddress.ip_network(value, strict=True) if isinstance(value, str) else None
    except ValueError:
        network = None
    if network is None:
        return at.refuse(value, "an IP address or network in quotes, such as '192.0.2.7' or '10.0.0.0/8'")
    return str(network if "/" in value else network.network_address)


def host_name(value: Any, at: At) -> Any:
    """A host name, or an IP address."""
    if isinstance(value, str) and _HOST_NAME.fullmatch(value) and not re.fullmatch(r"[0-9.]+", value):
        return str(value)
    try:
        return str(ipaddress.ip_address(value if isinstance(value, str) else ""))
    except ValueError:
        return at.refuse(value, "a host name in lower case or an IP address in quotes")


def each(converter: Converter, *, least: int = 0, of: str = "value", unique: bool = False) -> Converter:
    """A list; with `unique`, nothing may be in it twice."""

    def convert(value: Any, at: At) -> Any:
        if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence):
            return at.refuse(value, f"a list, one {of} an item")
        if len(value) < least:
            return at.refuse(value, f"at least {least} {of}")
        found = [converter(item, at.below(number)) for number, item in enumerate(value)]
        if BAD in found:
            return BAD
        if unique:
            for number, item in enumerate(found):
                if item in found[:number]:
                    return at.say(f"`{at.key}` in {at.file} names {shown(item)} twice: remove one.")
        return tuple(found)

    return convert


def section(cls: Callable[..., Any]) -> Converter:
    return lambda value, at: build(cls, value, at)


def named(cls: Callable[..., Any], *, of: str, least: int = 0) -> Converter:
    """A mapping of names to sections, each `of` a kind, in the plural."""
    enough = ", at least one" if least else ""

    def convert(value: Any, at: At) -> Any:
        if not isinstance(value, Mapping) or len(value) < least:
            return at.refuse(value, f"a mapping of names to {of}{enough}")
        found = {}
        for name, given in value.items():
            here = at.below(str(name))
            good = isinstance(name, str) and _NAME.fullmatch(name)
            expected = "a name of lower-case letters, digits and underscores"
            found[str(name)] = build(cls, given, here) if good else here.refuse(name, expected)
        return BAD if BAD in found.values() else found

    return convert


words = each(texts(r".+", "a word of a command, in quotes where YAML would not read it as text"), least=1, of="word")
commands = each(words, of="command")


@cache
def keys_of(cls: Any) -> dict[str, tuple[Converter, Field[Any]]]:
    """The keys that may stand in the file for `cls`."""
    hints = get_type_hints(cls, include_extras=True)
    return {
        each.name: (hints[each.name].__metadata__[0], each)
        for each in fields(cls)
        if hasattr(hints[each.name], "__metadata__")
    }


def build(cls: Callable[..., Any], given: Any, at: At, **fixed: Any) -> Any:
    """An instance of a dataclass from a mapping; every problem of every key is collected.

    Where one value's default depends on another, the class has `completed(values) -> values`.
    """
    schema = keys_of(cls)
    if not isinstance(given, Mapping):
        return at.refuse(given, f"a mapping with the keys {', '.join(schema)}")
    good = True
    for key in given:
        if key not in schema:
            good = False
            at.say(unknown(str(key), at, tuple(schema)))
    values: dict[str, Any] = {}
    for name, (converter, declared) in schema.items():
        if name in given:
            values[name] = converter(given[name], at.below(name))
            good = good and values[name] is not BAD
        elif declared.default is MISSING and declared.default_factory is MISSING:
            good = False
            at.say(f"`{at.below(name).key}` is missing in {at.file}: add it.")
    if good and hasattr(cls, "completed"):
        values = cls.completed(values)
    return cls(**fixed, **values) if good else BAD


def unknown(key: str, at: At, known: tuple[str, ...]) -> str:
    near = get_close_matches(key, known, n=1, cutoff=0.6)
    remedy = f"did you mean `{at.below(near[0]).key}`?" if near else f"known here are {', '.join(known)}."
    return f"unknown key `{at.below(key).key}` in {at.file}: {remedy}"


def plain(value: Any) -> Any:
    """A value of a schema as JSON, every default written out. Keys that one is without stand in its `left_out`."""
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    cls: Any = type(value)
    left_out = getattr(value, "left_out", ())
    return {name: plain(getattr(value, name)) for name in keys_of(cls) if name not in left_out}
