"""GET over HTTPS or over the unix socket of a release, without following anything."""

from __future__ import annotations

import http.client
import socket
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


@dataclass(frozen=True)
class Target:
    """Where the portal is: the front door (base), or one release's own socket (unix)."""

    host: str
    base: str = ""
    ca: str = ""
    connect: str = ""  # address:port to connect to instead of the name in base
    unix: str = ""
    timeout_seconds: float = 10.0

    def connection(self) -> http.client.HTTPConnection:
        if self.unix:
            return UnixConnection(self.unix, self.timeout_seconds)
        url = urlsplit(self.base)
        context, port = None, url.port or 80
        if url.scheme == "https":
            context, port = ssl.create_default_context(cafile=self.ca or None), url.port or 443
        return RoutedConnection(url.hostname or "", port, self.connect, context, self.timeout_seconds)

    def get(self, path: str) -> Answer:
        connection = self.connection()
        headers = {"Host": self.host, "User-Agent": "portal-smoke", "Connection": "close"}
        if self.unix:
            headers["X-Forwarded-Proto"] = "https"  # as nginx would say; else the answer is a redirect
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_seconds: float) -> None:
        super().__init__("localhost", timeout=timeout_seconds)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class RoutedConnection(http.client.HTTPConnection):
    """A connection to a name that is reached at another address; the certificate is checked for the name."""

    def __init__(
        self, name: str, port: int, connect: str, context: ssl.SSLContext | None, timeout_seconds: float
    ) -> None:
        super().__init__(name, port, timeout=timeout_seconds)
        self.route = (name, port)
        self.context = context
        if connect:
            address, _, other = connect.rpartition(":")
            self.route = (address.strip("[]"), int(other)) if address else (connect, port)

    def connect(self) -> None:
        self.sock = socket.create_connection(self.route, self.timeout)
        if self.context is not None:
            self.sock = self.context.wrap_socket(self.sock, server_hostname=self.host)
