"""Health checks from dictionaries: the module's options, the checks of an application's file.

Every error names the entry, the key and what to do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ._checks import (
    CertificateCheck,
    Check,
    CommandCheck,
    DiskCheck,
    HttpCheck,
    ProcessCheck,
    TcpCheck,
    UnitCheck,
)
from ._errors import InputError
from ._http import Target

_SECRET_HEADERS = ("authorization", "proxy-authorization", "cookie")


def parse_checks(items: Sequence[Mapping[str, Any]], where: str = "checks") -> tuple[Check, ...]:
    """Checks from dictionaries. Raises InputError naming the entry, the key and what to do."""
    if isinstance(items, (str, Mapping)) or not isinstance(items, Sequence):
        raise InputError(f"{where} must be a list of checks.")
    return tuple(parse(item, f"{where}[{index}]") for index, item in enumerate(items))


def parse(item: Mapping[str, Any], where: str = "check") -> Check:
    """One check from a dictionary; its `type` says which kind. A value of None counts as absent."""
    if not isinstance(item, Mapping):
        raise InputError(f"{where} must be a mapping with the keys of a check, such as type and name.")
    options = _Options(item, where)
    kind = options.text("type")
    if kind not in _PARSERS:
        raise InputError(f"{options.where} has the unknown type {kind!r}: choose one of {', '.join(_PARSERS)}.")
    check = _PARSERS[kind](options)
    options.end(kind)
    return check


class _Options:
    """The keys of one check: each is taken once, with its type checked; what is left over at the end is unknown."""

    def __init__(self, item: Mapping[str, Any], where: str) -> None:
        self._left = {str(key): value for key, value in item.items() if value is not None}
        self._known: list[str] = []
        name = self._left.get("name")
        self.where = f"{where} ({name})" if isinstance(name, str) else where

    def _take(self, key: str) -> Any:
        self._known.append(key)
        return self._left.pop(key, None)

    def bad(self, key: str, remedy: str) -> InputError:
        return InputError(f"{self.where}: {key} {remedy}.")

    def peek(self, key: str) -> Any:
        return self._left.get(key)

    def has(self, key: str) -> bool:
        self._known.append(key)
        return key in self._left

    def end(self, kind: str) -> None:
        for key in self._left:
            import difflib

            close = difflib.get_close_matches(key, self._known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(set(self._known)))}."
            raise InputError(f"{self.where}: unknown key {key!r} for a check of type {kind}: {hint}")

    def text(self, key: str, default: str | None = None) -> str:
        value = self._take(key)
        value = default if value is None else value
        if not isinstance(value, str) or not value:
            raise self.bad(key, "is missing: give a text" if value is None else "must be a text that is not empty")
        return value

    def maybe_text(self, key: str) -> str | None:
        return self.text(key) if self.has(key) else self._take(key)

    def number(self, key: str, default: float, *, above: float = 0.0) -> float:
        value = self._take(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > above:
            raise self.bad(key, f"must be a number above {above:g}")
        return float(value)

    def maybe_number(self, key: str) -> float | None:
        return self.number(key, 1.0) if self.has(key) else self._take(key)

    def whole(self, key: str, default: int, *, least: int = 0, most: int | None = None) -> int:
        value = self._take(key)
        value = default if value is None else value
        right = isinstance(value, int) and not isinstance(value, bool) and value >= least
        if not right or (most is not None and value > most):
            raise self.bad(key, f"must be a whole number from {least}" + (f" to {most}" if most is not None else " up"))
        return int(value)

    def maybe_whole(self, key: str) -> int | None:
        return self.whole(key, 0) if self.has(key) else self._take(key)

    def flag(self, key: str, default: bool) -> bool:
        value = self._take(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self.bad(key, "must be true or false")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._take(key)
        values = [] if value is None else [value] if isinstance(value, str) else value
        if not isinstance(values, (list, tuple)) or not all(isinstance(text, str) and text for text in values):
            raise self.bad(key, "must be a text or a list of texts")
        return tuple(values)

    def wholes(self, key: str, default: int, least: int, most: int) -> tuple[int, ...]:
        value = self._take(key)
        values = [default] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]
        good = values and all(isinstance(v, int) and not isinstance(v, bool) and least <= v <= most for v in values)
        if not good:
            raise self.bad(key, f"must be a number from {least} to {most}, or a list of such")
        return tuple(values)

    def pairs(self, key: str) -> tuple[tuple[str, Any], ...]:
        value = self._take(key)
        if value is not None and not isinstance(value, Mapping):
            raise self.bad(key, "must be a mapping")
        return tuple((str(name), content) for name, content in (value or {}).items())

    def text_pairs(self, key: str) -> tuple[tuple[str, str], ...]:
        pairs = self.pairs(key)
        for name, value in pairs:
            if isinstance(value, (bool, Mapping, list)) or value is None:
                raise self.bad(f"{key}.{name}", "must be a text: quote it")
        return tuple((name, str(value)) for name, value in pairs)


def _http(options: _Options) -> HttpCheck:
    target, path = _http_target(options)
    headers = options.text_pairs("headers")
    for name, _unused in headers:
        if name.lower() in _SECRET_HEADERS:
            raise options.bad(f"headers.{name}", "is a secret: move it to secret_headers, which are never printed")
    matches = options.maybe_text("matches")
    if matches is not None:
        try:
            re.compile(matches)
        except re.error as wrong:
            raise options.bad("matches", f"is no regular expression ({wrong})") from wrong
    release_id, release_link = options.maybe_text("release_id"), options.maybe_text("release_link")
    if release_id and release_link:
        raise options.bad("release_id", "and release_link exclude each other: keep one")
    return HttpCheck(
        name=options.text("name", f"{target.peer}{path.partition('?')[0]}"),
        target=target,
        path=path,
        method=options.text("method", "GET").upper(),
        headers=headers,
        secret_headers=options.text_pairs("secret_headers"),
        status=options.wholes("status", 200, 100, 599),
        contains=options.texts("contains"),
        matches=matches,
        header_equals=options.text_pairs("header_equals"),
        json_equals=options.pairs("json_equals"),
        latency_seconds=options.maybe_number("latency_seconds"),
        release_id=release_id,
        release_link=release_link,
        file_below=options.maybe_text("file_below"),
        timeout_seconds=options.number("timeout_seconds", 5.0),
    )


def _http_target(options: _Options) -> tuple[Target, str]:
    if options.has("url") == options.has("socket"):
        raise options.bad("url", "or socket is needed, and not both: say where to ask")
    if options.has("socket"):
        path = options.text("path", "/")
        if not path.startswith("/"):
            raise options.bad("path", "must begin with /")
        return Target.unix(options.text("socket"), options.text("host", "localhost")), path
    url = options.text("url")
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    if "@" in authority:
        raise options.bad("url", "holds a user or password: move it to secret_headers as Authorization")
    host, port = _split_port(authority)
    if scheme not in ("http", "https") or not separator or not host or port is None or "#" in path or "?" in authority:
        raise options.bad("url", "must look like https://name:port/path, without a fragment")
    target = Target.tcp(
        host,
        port or None,
        tls=scheme == "https",
        address=options.maybe_text("address"),
        ca_file=options.maybe_text("ca_file"),
        verify=options.flag("verify", default=True),
    )
    return target, f"{slash or '/'}{path}"


def _split_port(authority: str) -> tuple[str, int | None]:
    """(host, port); port 0 where none is given, None where it is no port."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\s\[\]]+))(?::([0-9]{1,5}))?", authority)
    if match is None:
        return "", None
    port = int(match[3] or 0)
    return match[1] or match[2], port if port < 65536 else None


def _port_target(options: _Options, *, tls: bool) -> Target:
    return Target.tcp(
        options.text("host"),
        options.whole("port", 443 if tls else 0, least=1, most=65535),
        tls=tls,
        address=options.maybe_text("address"),
        ca_file=options.maybe_text("ca_file") if tls else None,
    )


def _tcp(options: _Options) -> TcpCheck:
    if options.has("socket") == options.has("host"):
        raise options.bad("host", "or socket is needed, and not both: say where to connect")
    target = Target.unix(options.text("socket")) if options.has("socket") else _port_target(options, tls=False)
    return TcpCheck(options.text("name", target.peer), target, options.number("timeout_seconds", 5.0))


def _unit(options: _Options) -> UnitCheck:
    unit = options.text("unit")
    unit += "" if "." in unit else ".service"
    return UnitCheck(
        name=options.text("name", unit),
        unit=unit,
        state=options.text("state", "active"),
        sub_state=options.maybe_text("sub_state"),
        restarts_max=options.maybe_whole("restarts_max"),
        up_seconds=options.maybe_number("up_seconds"),
        timeout_seconds=options.number("timeout_seconds", 5.0),
    )


def _process(options: _Options) -> ProcessCheck:
    given = [key for key in ("process", "pid_file", "cgroup") if options.has(key)]
    if len(given) != 1:
        raise options.bad("process", "or pid_file or cgroup is needed, and one of them only")
    name = options.text("name", str(options.peek(given[0])))
    check = ProcessCheck(
        name=name,
        process=options.maybe_text("process"),
        pid_file=options.maybe_text("pid_file"),
        cgroup=options.maybe_text("cgroup"),
        count_min=options.whole("count_min", 1),
        count_max=options.maybe_whole("count_max"),
        timeout_seconds=options.number("timeout_seconds", 5.0),
    )
    if check.count_max is not None and check.count_max < check.count_min:
        raise options.bad("count_max", "must not be below count_min")
    return check


def _disk(options: _Options) -> DiskCheck:
    path = options.text("path", "/")
    check = DiskCheck(
        name=options.text("name", path),
        path=path,
        free_bytes=options.maybe_whole("free_bytes"),
        free_percent=options.maybe_number("free_percent"),
        free_inodes=options.maybe_whole("free_inodes"),
        timeout_seconds=options.number("timeout_seconds", 5.0),
    )
    if check.free_bytes is None and check.free_percent is None and check.free_inodes is None:
        raise options.bad("free_bytes", "or free_percent or free_inodes is needed: say how much must be free")
    return check


def _certificate(options: _Options) -> CertificateCheck:
    if options.has("file") == options.has("host"):
        raise options.bad("host", "or file is needed, and not both: say where the certificate is")
    file = options.maybe_text("file")
    if file is not None and options.has("chain"):
        raise options.bad("chain", "can be checked where a host shows its certificate, not in a file: remove it")
    target = None if file is not None else _port_target(options, tls=True)
    names = options.texts("names")
    return CertificateCheck(
        name=options.text("name", target.peer if target is not None else str(file)),
        target=target,
        file=file,
        days_left=options.number("days_left", 14.0, above=-1.0),
        names=names or ((target.host,) if target is not None else ()),
        chain=options.flag("chain", default=True),
        timeout_seconds=options.number("timeout_seconds", 5.0),
    )


def _command(options: _Options) -> CommandCheck:
    if isinstance(options.peek("argv"), str):
        raise options.bad("argv", "must be a list, a word each: no shell reads it")
    arguments = options.texts("argv")
    if not arguments:
        raise options.bad("argv", "is missing: give the command as a list")
    return CommandCheck(
        name=options.text("name", Path(arguments[0]).name),
        arguments=arguments,
        exit_codes=options.wholes("exit_codes", 0, 0, 255),
        contains=options.texts("contains"),
        environment=options.text_pairs("environment"),
        secret_environment=options.text_pairs("secret_environment"),
        directory=options.maybe_text("directory"),
        timeout_seconds=options.number("timeout_seconds", 10.0),
    )


_PARSERS: dict[str, Callable[[_Options], Check]] = {
    "http": _http,
    "tcp": _tcp,
    "unit": _unit,
    "process": _process,
    "disk": _disk,
    "certificate": _certificate,
    "command": _command,
}
