"""One HTTP/1.1 connection, by hand: small, quick, and it knows who closed what and when."""

from __future__ import annotations

import select
import socket
import ssl
import time
from dataclasses import dataclass

from .load_profile import Target


class RequestFailedError(Exception):
    """No whole answer came: refused, timed out, cut short, not HTTP."""


class ClosedUnderUsError(Exception):
    """A connection used before was closed before any byte of this answer (RFC 9110, 9.3.1)."""


@dataclass(frozen=True)
class Answer:
    """Status, headers (small letters; of several, the last), cookies set, body, and whether the connection stays."""

    status: int
    headers: dict[str, str]
    cookies: dict[str, str]
    body: bytes
    keeps: bool


def trusting(target: Target) -> ssl.SSLContext | None:
    """Verification by the target's authority, and of the name; None for plain HTTP."""
    if not target.tls:
        return None
    context = ssl.create_default_context(cafile=str(target.ca) if target.ca else None)
    context.set_alpn_protocols(["http/1.1"])
    return context


class Connection:
    """A connection that is opened when first needed. Times are of `time.monotonic`."""

    def __init__(self, target: Target, context: ssl.SSLContext | None) -> None:
        self._target = target
        self._context = context
        self._socket: socket.socket | None = None
        self._answers = 0

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._answers = 0

    def was_closed_idle(self) -> bool:
        """Whether the other side closed this connection while nothing was asked; it is then given up."""
        connection = self._socket
        if connection is None:
            return False
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        if not poll.poll(0):
            return False
        connection.setblocking(False)
        try:
            connection.recv(1)
        except (ssl.SSLWantReadError, BlockingIOError):
            return False  # a session ticket, not an end
        except OSError:
            pass
        self.close()
        return True

    def ask(self, request: bytes, deadline: float) -> Answer:
        """Send a request and read its answer. Raises `RequestFailedError` or `ClosedUnderUsError`."""
        used_before = self._answers > 0
        received = bytearray()
        try:
            connection = self._open(deadline)
            connection.settimeout(_left(deadline))
            connection.sendall(request)
            answer = _read(connection, received, deadline)
        except TimeoutError:
            self.close()
            seen = f"only {len(received)} bytes" if received else "no answer"
            raise RequestFailedError(f"{seen} in time") from None
        except (OSError, ValueError) as error:
            self.close()
            if used_before and not received and isinstance(error, OSError):
                raise ClosedUnderUsError(_told(error)) from None
            raise RequestFailedError(_told(error)) from None
        self._answers += 1
        if not answer.keeps:
            self.close()
        return answer

    def _open(self, deadline: float) -> socket.socket:
        if self._socket is not None:
            return self._socket
        plain = socket.create_connection(self._target.endpoint, timeout=_left(deadline))
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                plain.settimeout(_left(deadline))
                self._socket = self._context.wrap_socket(plain, server_hostname=self._target.host)
            else:
                self._socket = plain
        except OSError:
            plain.close()
            raise
        return self._socket


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _told(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate refused: {error.verify_message}"
    return str(error) or type(error).__name__


def _more(connection: socket.socket, received: bytearray, deadline: float) -> bool:
    connection.settimeout(_left(deadline))
    piece = connection.recv(65536)
    received += piece
    return bool(piece)


def _read(connection: socket.socket, received: bytearray, deadline: float) -> Answer:
    while (end := received.find(b"\r\n\r\n")) < 0:
        if not _more(connection, received, deadline):
            said = f"after {len(received)} bytes" if received else "without an answer"
            raise ConnectionResetError(f"connection closed {said}")
    version, status, headers, cookies = parse_head(bytes(received[:end]))
    body = received[end + 4 :]
    keeps = headers.get("connection", "").lower() != "close" and version == "HTTP/1.1"
    if status in {204, 304}:
        return Answer(status, headers, cookies, b"", keeps)
    if headers.get("transfer-encoding", "").lower() == "chunked":
        while (whole := dechunk(body)) is None:
            if not _more(connection, body, deadline):
                raise ValueError("connection closed in the middle of the answer")
        return Answer(status, headers, cookies, whole, keeps)
    if "content-length" in headers:
        length = int(headers["content-length"])
        while len(body) < length:
            if not _more(connection, body, deadline):
                raise ValueError(f"connection closed after {len(body)} of {length} bytes")
        return Answer(status, headers, cookies, bytes(body[:length]), keeps)
    while _more(connection, body, deadline):
        pass
    return Answer(status, headers, cookies, bytes(body), False)


def parse_head(head: bytes) -> tuple[str, int, dict[str, str], dict[str, str]]:
    """Version, status, headers and cookies. Raises `ValueError` for what is not HTTP/1."""
    lines = head.decode("latin-1").split("\r\n")
    version, _, rest = lines[0].partition(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(f"not an HTTP/1 answer: {lines[0][:40]!r}")
    headers: dict[str, str] = {}
    cookies: dict[str, str] = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        name, value = name.strip().lower(), value.strip()
        headers[name] = value
        if name == "set-cookie":
            cookie, _, content = value.partition(";")[0].partition("=")
            cookies[cookie.strip()] = content.strip()
    return version, int(rest[:3]), headers, cookies


def dechunk(body: bytearray) -> bytes | None:
    """The content of a chunked body, None while it is not whole. Raises `ValueError` for a size that is none."""
    content, at = bytearray(), 0
    while True:
        line_end = body.find(b"\r\n", at)
        if line_end < 0:
            return None
        size = int(bytes(body[at:line_end]).partition(b";")[0], 16)
        begin = line_end + 2
        if size == 0:
            return bytes(content) if body.find(b"\r\n", begin) >= 0 else None
        if len(body) < begin + size + 2:
            return None
        content += body[begin : begin + size]
        at = begin + size + 2
