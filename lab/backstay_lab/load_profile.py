"""What the load generator asks for: pure data, with the example application's portal as default."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .errors import LabError


@dataclass(frozen=True)
class Target:
    """Where requests go: the name asked for, the address connected to, the authority trusted."""

    host: str
    port: int
    address: str
    tls: bool
    ca: Path | None = None

    @classmethod
    def parse(cls, url: str, *, connect: str | None = None, ca: Path | None = None) -> Target:
        """`url` is `https://name[:port]`; `connect` an address or `address:port` where the name is not resolved.

        Raises `LabError` for anything else.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path not in {"", "/"}:
            raise LabError(f"A target is written https://name or https://name:port; {url!r} is not.")
        tls = parts.scheme == "https"
        port = parts.port or (443 if tls else 80)
        address = parts.hostname
        if connect:
            address, _, other_port = connect.partition(":")
            if other_port and not other_port.isdigit():
                raise LabError(f"An address to connect to is written 10.0.0.1 or 10.0.0.1:443; {connect!r} is not.")
            connect_port = int(other_port) if other_port else port
            return cls(parts.hostname, port, f"{address}:{connect_port}", tls, ca)
        return cls(parts.hostname, port, f"{address}:{port}", tls, ca)

    @property
    def endpoint(self) -> tuple[str, int]:
        name, _, port = self.address.rpartition(":")
        return name, int(port)

    @property
    def authority(self) -> str:
        """The Host header: the port only where it is not the scheme's own."""
        own = 443 if self.tls else 80
        return self.host if self.port == own else f"{self.host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}"


@dataclass(frozen=True)
class Profile:
    """The mix of requests.

    Paths may hold `{name}` of `ranges`, filled with a random number. Seconds are the limits after which a request
    has failed. A share of 0 leaves a kind out; so does an empty path.
    """

    reads: tuple[str, ...] = ("/", "/", "/audits/?page={page}", "/audits/{id}/", "/audits/{id}/", "/healthz/")
    read_share: float = 0.7
    write_share: float = 0.15
    asset_share: float = 0.15
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=lambda: {"id": (1, 10000), "page": (1, 40)})
    form_path: str = "/audits/{id}/findings/new/"
    post_path: str = "/audits/{id}/findings/"
    post_fields: Mapping[str, str] = field(default_factory=lambda: {"severity": "low", "note": "Seen by the load"})
    unique_field: str = "token"
    csrf_field: str = "csrfmiddlewaretoken"
    csrf_cookie: str = "csrftoken"
    posts_per_form: int = 3
    post_status: int = 302
    slow_path: str = "/reports/slow/?seconds=3"
    asset_prefix: str = "/static/"
    limit_seconds: float = 5.0
    slow_limit_seconds: float = 20.0
    release_header: str = "x-release-id"

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Profile:
        """A profile from JSON. Raises `LabError` for a key it does not know."""
        known = {entry.name for entry in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise LabError(f"A load profile has no key {unknown[0]!r}: choose from {', '.join(sorted(known))}.")
        chosen = dict(values)
        if "reads" in chosen:
            chosen["reads"] = tuple(chosen["reads"])
        if "ranges" in chosen:
            chosen["ranges"] = {name: (int(low), int(high)) for name, (low, high) in chosen["ranges"].items()}
        return cls(**chosen)

    @classmethod
    def read(cls, path: Path) -> Profile:
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise LabError(f"The load profile {path} cannot be read: {error}.") from None
        if not isinstance(values, dict):
            raise LabError(f"The load profile {path} is not a JSON object.")
        return cls.from_mapping(values)

    def numbers(self, dice: random.Random) -> dict[str, int]:
        return {name: dice.randint(low, high) for name, (low, high) in self.ranges.items()}

    def kind(self, dice: random.Random, *, assets_known: bool) -> str:
        """Which kind of request comes next; assets only once a page named some."""
        shares = {
            "read": self.read_share if self.reads else 0.0,
            "write": self.write_share if self.form_path and self.post_path else 0.0,
            "asset": self.asset_share if assets_known else 0.0,
        }
        total = sum(shares.values())
        if total <= 0:
            return "read"
        return dice.choices(list(shares), weights=list(shares.values()))[0]
