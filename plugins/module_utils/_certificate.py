"""What a certificate says, read from its DER bytes: dates, names and issuer, even where it cannot be trusted.

Python's ssl module tells nothing of a certificate that it did not verify; this reads the few fields that people
are told about. It decides nothing about trust.
"""

from __future__ import annotations

import datetime as dt
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from ._errors import BackstayError

_COMMON_NAME = bytes.fromhex("550403")
_ORGANISATION = bytes.fromhex("55040a")
_ALTERNATIVE_NAMES = bytes.fromhex("551d11")


@dataclass(frozen=True)
class Certificate:
    """Dates are UTC; `names` are the DNS names and addresses it is valid for."""

    not_before: dt.datetime
    not_after: dt.datetime
    names: tuple[str, ...]
    subject: str
    issuer: str

    def is_for(self, name: str) -> bool:
        """Whether the certificate is for `name`, a DNS name or an address; * stands for one whole first label."""
        wanted = name.lower().rstrip(".")
        first, dot, rest = wanted.partition(".")
        return any(
            own == wanted or (own.startswith("*.") and bool(first) and bool(dot) and own[2:] == rest)
            for own in (own.lower() for own in self.names)
        )


def read(der: bytes) -> Certificate:
    """Read a certificate. Raises BackstayError when the bytes are none."""
    try:
        return _read(der)
    except (IndexError, ValueError, StopIteration) as damaged:
        raise BackstayError("the certificate cannot be read: it is not X.509 in DER") from damaged


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The (tag, content) pairs that follow one another in `data`."""
    position = 0
    while position < len(data):
        tag, length = data[position], data[position + 1]
        position += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[position : position + size], "big")
            position += size
        if position + length > len(data):
            raise ValueError("cut off")
        yield tag, data[position : position + length]
        position += length


def _read(der: bytes) -> Certificate:
    outer = next(_elements(der))[1]
    fields = list(_elements(next(_elements(outer))[1]))
    if fields[0][0] == 0xA0:  # the version, absent in version 1
        fields = fields[1:]
    issuer, validity, subject = fields[2][1], fields[3][1], fields[4][1]
    before, after = (_time(tag, value) for tag, value in _elements(validity))
    names: tuple[str, ...] = ()
    for tag, value in fields[6:]:
        if tag == 0xA3:
            names = _alternative_names(next(_elements(value))[1])
    return Certificate(before, after, names, _name(subject), _name(issuer))


def _time(tag: int, value: bytes) -> dt.datetime:
    text = value.decode("ascii")
    if tag == 0x17:  # UTCTime: two digits of the year, 1950 to 2049
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    return dt.datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=dt.UTC)


def _name(data: bytes) -> str:
    found: dict[bytes, str] = {}
    for _unused, group in _elements(data):
        for _unused, pair in _elements(group):
            (_unused, kind), (_unused, value) = _elements(pair)
            found[kind] = value.decode("utf-8", "replace")
    return found.get(_COMMON_NAME) or found.get(_ORGANISATION) or "an unnamed issuer"


def _alternative_names(data: bytes) -> tuple[str, ...]:
    names: list[str] = []
    for _unused, extension in _elements(data):
        parts = list(_elements(extension))
        if parts[0][1] != _ALTERNATIVE_NAMES:
            continue
        for tag, value in _elements(next(_elements(parts[-1][1]))[1]):
            if tag == 0x82:
                names.append(value.decode("ascii", "replace"))
            elif tag == 0x87 and len(value) in (4, 16):
                names.append(socket.inet_ntop(socket.AF_INET if len(value) == 4 else socket.AF_INET6, value))
    return tuple(names)
