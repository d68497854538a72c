"""One HTTP(S) request over TCP or a unix socket, with a total time limit and errors that say what was seen.

The standard library's clients import e-mail and cost the emergency command 40 ms; none of them bounds the whole
request by one deadline, none speaks to a unix socket. This one does no redirects, no cookies, no keep-alive.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from ._errors import BackstayError, InputError

if TYPE_CHECKING:
    import ssl

BODY_BYTES = 1 << 20
_HEAD_BYTES = 1 << 16
_READ_BYTES = 1 << 16
_LINE_BYTES = 256


@dataclass(frozen=True)
class Target:
    """Where to ask. `host` goes into the Host header; `address` is where the connection really goes, if elsewhere."""

    host: str
    port: int = 0
    socket_path: str | None = None
    tls: bool = False
    ca_file: str | None = None
    verify: bool = True
    address: str | None = None

    @classmethod
    def unix(cls, path: object, host: str = "localhost") -> Target:
        """The unix socket at `path`, asked as `host`."""
        return cls(host=host, socket_path=str(path))

    @classmethod
    def tcp(
        cls,
        host: str,
        port: int | None = None,
        *,
        tls: bool = False,
        server_name: str | None = None,
        ca_file: str | None = None,
        verify: bool = True,
        address: str | None = None,
    ) -> Target:
        """A TCP port (default: 443 with TLS, else 80).

        `server_name` is the name asked for (Host header, SNI and certificate) where it is not `host`; `address` is
        connected to instead of looking the name up; `ca_file` replaces the system's authorities.
        """
        return cls(
            host=server_name or host,
            port=port or (443 if tls else 80),
            tls=tls,
            ca_file=ca_file,
            verify=verify,
            address=address or (host if server_name and server_name != host else None),
        )

    @property
    def peer(self) -> str:
        """The other end for people: unix:/run/x/web.sock, portal.test:443, portal.test:443 at 127.0.0.1."""
        if self.socket_path is not None:
            return f"unix:{self.socket_path}"
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"{name}:{self.port}" + (f" at {self.address}" if self.address else "")

    @property
    def host_header(self) -> str:
        name = f"[{self.host}]" if ":" in self.host else self.host
        usual = self.socket_path is not None or self.port == (443 if self.tls else 80)
        return name if usual else f"{name}:{self.port}"


@dataclass(frozen=True)
class Answer:
    """What came back. Header names are lower case; `body` holds at most the bytes asked for (`complete` says whether
    that is all of it); `seconds` count from before the connection to the last byte."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    seconds: float
    peer: str
    complete: bool = True

    @property
    def release_id(self) -> str | None:
        """The release that says it answered (X-Release-Id); None when none says so."""
        return self.headers.get("x-release-id")


def request(
    target: Target,
    path: str,
    *,
    timeout_seconds: float,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    body_bytes: int = BODY_BYTES,
) -> Answer:
    """Ask once; name lookup, connection, TLS and the whole answer together take at most `timeout_seconds`.

    At most `body_bytes` of the answer's body are read. Raises InputError for a request that must not be sent and
    BackstayError, as a clause without a capital ("no answer from unix:/run/x within 2 s"), when no whole answer came.
    """
    message = _message(target, path, method, headers or {}, body)
    with Connection(target, timeout_seconds) as connection:
        connection.send(message)
        status, answer_headers = connection.head()
        content, complete = connection.body(method, status, answer_headers, body_bytes)
        return Answer(status, answer_headers, content, connection.elapsed(), target.peer, complete)


def _message(target: Target, path: str, method: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    if not path.startswith("/") or any(character <= " " or character == "\x7f" for character in path):
        raise InputError("The path of a request must begin with / and hold no blanks: percent-encode them.")
    if not (method.isascii() and method.isalpha() and method.isupper()):
        raise InputError(f"{method!r} is not a method of HTTP: give one such as GET.")
    fields = {"Host": target.host_header, "User-Agent": "backstay-health", "Accept": "*/*"}
    for name, value in headers.items():
        known = next((old for old in fields if old.lower() == name.lower()), name)
        fields.pop(known, None)
        fields[name] = value
    fields["Connection"] = "close"
    if body is not None:
        fields["Content-Length"] = str(len(body))
    for name, value in fields.items():
        if not _is_token(name) or any(character in value for character in "\r\n\0"):
            raise InputError(f"The header {name!r} cannot be sent: its name or value holds a line break or a blank.")
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + "\r\n"
    return head.encode("utf-8") + (body or b"")


def _is_token(name: str) -> bool:
    return bool(name) and name.isascii() and all(c.isalnum() or c in "!#$%&'*+-.^_`|~" for c in name)


class Connection:
    """One connection under one deadline; used by `request`, and alone by checks of ports and certificates."""

    def __init__(self, target: Target, timeout_seconds: float) -> None:
        self.target = target
        self.timeout_seconds = timeout_seconds
        self._began = time.monotonic()
        self._buffer = bytearray()
        self._socket: socket.socket | None = None
        self._started = False  # the first byte of the answer came

    def __enter__(self) -> Self:
        try:
            self._socket = self._connect()
            if self.target.tls:
                self._socket = self._wrap(self._socket)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def elapsed(self) -> float:
        """Seconds since the connection was first tried."""
        return time.monotonic() - self._began

    def _remaining(self) -> float:
        left = self.timeout_seconds - self.elapsed()
        if left <= 0:
            raise self._late()
        return left

    def _late(self) -> BackstayError:
        what = "no whole answer from" if self._started else "no answer from"
        return BackstayError(f"{what} {self.target.peer} within {self.timeout_seconds:g} s")

    # connect

    def _connect(self) -> socket.socket:
        target = self.target
        if target.socket_path is not None:
            return self._try(socket.AF_UNIX, target.socket_path, 1)
        addresses = self._resolve(target.address or target.host, target.port)
        last: BackstayError | None = None
        for index, (family, address) in enumerate(addresses):
            try:
                return self._try(family, address, len(addresses) - index)
            except BackstayError as refused:
                last = last or refused
        raise last or BackstayError(f"the name {target.host!r} has no address: correct it, or give an address")

    def _try(self, family: int, address: tuple[str, int] | str, shares: int) -> socket.socket:
        channel = socket.socket(family, socket.SOCK_STREAM)
        try:
            channel.settimeout(self._remaining() / shares)
            channel.connect(address)
        except TimeoutError as late:
            channel.close()
            raise self._late() from late
        except OSError as refused:
            channel.close()
            raise BackstayError(_no_connection(self.target, refused)) from refused
        except BaseException:
            channel.close()
            raise
        return channel

    def _resolve(self, name: str, port: int) -> list[tuple[int, tuple[str, int]]]:
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                socket.inet_pton(family, name)
            except OSError:
                continue
            return [(family, (name, port))]
        # The system's resolver knows no time limit: it works in a thread that is left behind when it is late.
        import threading

        found: list[tuple[int, tuple[str, int]]] = []
        failure: list[OSError] = []

        def look_up() -> None:
            try:
                rows = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as unknown:
                failure.append(unknown if isinstance(unknown, OSError) else OSError(str(unknown)))
                return
            found.extend((row[0], (str(row[4][0]), port)) for row in rows)

        thread = threading.Thread(target=look_up, daemon=True)
        thread.start()
        thread.join(self._remaining())
        if failure:
            raise BackstayError(f"the name {name!r} has no address ({failure[0].strerror or failure[0]})")
        if thread.is_alive():
            raise BackstayError(f"the name {name!r} was not looked up within {self.timeout_seconds:g} s")
        return found

    def _wrap(self, channel: socket.socket) -> socket.socket:
        import ssl

        context = _context(self.target)
        try:
            channel.settimeout(self._remaining())
            return context.wrap_socket(channel, server_hostname=self.target.host)
        except ssl.SSLCertVerificationError as refused:
            raise BackstayError(self._distrust(refused.verify_code, refused.verify_message)) from refused
        except TimeoutError as late:
            raise BackstayError(f"no TLS handshake with {self.target.peer} within {self.timeout_seconds:g} s") from late
        except ssl.SSLError as refused:
            reason = (refused.reason or str(refused)).lower().replace("_", " ")
            raise BackstayError(f"no TLS at {self.target.peer}: {reason}") from refused
        except OSError as refused:
            raise BackstayError(f"{self.target.peer} closed the connection during the TLS handshake") from refused

    def _distrust(self, code: int, said: str) -> str:
        """Why a certificate was refused; its own words are read over a second, unverified handshake."""
        from ._certificate import read

        peer = self.target.peer
        try:
            shown = read(peer_certificate(self.target, max(0.5, self.timeout_seconds - self.elapsed())))
        except BackstayError:
            return f"the certificate of {peer} was refused: {said}"
        if code == 10:
            return f"the certificate of {peer} expired on {shown.not_after:%Y-%m-%d}: renew it"
        if code == 9:
            return f"the certificate of {peer} is valid from {shown.not_before:%Y-%m-%d} only: check both clocks"
        if code in (62, 64):
            names = ", ".join(shown.names) or "no name"
            return f"the certificate of {peer} is for {names}, not for {self.target.host}"
        if code in (18, 19, 20, 21):
            authorities = self.target.ca_file or "the system's store"
            return f"the certificate of {peer} was issued by {shown.issuer}, which {authorities} does not trust"
        return f"the certificate of {peer} was refused: {said}"

    # talk

    def certificate(self) -> bytes:
        """The other end's certificate (DER)."""
        import ssl

        if not isinstance(self._socket, ssl.SSLSocket):
            raise BackstayError(f"{self.target.peer} was not asked over TLS: it shows no certificate")
        return self._socket.getpeercert(binary_form=True) or b""

    def send(self, message: bytes) -> None:
        channel = self._open()
        try:
            channel.settimeout(self._remaining())
            channel.sendall(message)
        except TimeoutError as late:
            raise self._late() from late
        except (BrokenPipeError, ConnectionResetError):
            pass  # an early answer, such as 413, may wait to be read; if not, reading says so
        except OSError as broken:
            raise BackstayError(f"{self.target.peer} broke the connection ({broken.strerror or broken})") from broken

    def _open(self) -> socket.socket:
        if self._socket is None:
            raise BackstayError("the connection is used outside its `with`: this is a fault of Backstay")
        return self._socket

    def _read(self) -> bytes:
        channel = self._open()
        try:
            channel.settimeout(self._remaining())
            return channel.recv(_READ_BYTES)
        except TimeoutError as late:
            raise self._late() from late
        except ConnectionResetError:
            return b""
        except OSError as broken:
            if type(broken).__name__ in ("SSLEOFError", "SSLZeroReturnError"):
                return b""
            raise BackstayError(f"{self.target.peer} broke the connection ({broken.strerror or broken})") from broken

    def _fill(self) -> bool:
        data = self._read()
        self._started = self._started or bool(data)
        self._buffer += data
        return bool(data)

    def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the final answer; interim ones (100, 103) are read over."""
        while True:
            while (end := self._buffer.find(b"\r\n\r\n")) < 0:
                if len(self._buffer) > _HEAD_BYTES:
                    raise BackstayError(f"{self.target.peer} sent more than {_HEAD_BYTES} bytes of headers")
                if not self._fill():
                    what = "in the middle of its headers" if self._buffer else "without an answer"
                    raise BackstayError(f"{self.target.peer} closed the connection {what}")
            lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
            del self._buffer[: end + 4]
            status = self._status(lines[0])
            if status >= 200:
                return status, self._headers(lines[1:])

    def _status(self, line: str) -> int:
        version, _unused, rest = line.partition(" ")
        code = rest[:3]
        if version not in ("HTTP/1.1", "HTTP/1.0") or not (
            code.isascii() and code.isdigit() and rest[3:4] in ("", " ")
        ):
            raise BackstayError(f"{self.target.peer} does not speak HTTP/1.1: it began with {line[:40]!r}")
        return int(code)

    def _headers(self, lines: list[str]) -> dict[str, str]:
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or not _is_token(name):
                raise BackstayError(f"{self.target.peer} sent a header that is none: {name[:40]!r}")
            key, value = name.lower(), value.strip(" \t")
            if key == "content-length" and headers.get(key, value) != value:
                raise BackstayError(f"{self.target.peer} sent two different Content-Length headers")
            separator = "; " if key == "set-cookie" else ", "
            headers[key] = value if key == "content-length" or key not in headers else headers[key] + separator + value
        return headers

    def body(self, method: str, status: int, headers: Mapping[str, str], limit: int) -> tuple[bytes, bool]:
        """At most `limit` bytes of the body, and whether that is all of it."""
        if method == "HEAD" or status in (204, 304):
            return b"", True
        coding = headers.get("transfer-encoding", "").lower()
        if coding == "chunked":
            return self._chunked(limit)
        if coding:
            raise BackstayError(
                f"{self.target.peer} answered in the transfer coding {coding[:40]!r}, which was not asked for"
            )
        length = headers.get("content-length")
        if length is None:
            return self._until_close(limit)
        if not (length.isascii() and length.isdigit()):
            raise BackstayError(f"{self.target.peer} sent the Content-Length {length[:40]!r}, which is no number")
        wanted = min(int(length), limit)
        self._need(wanted, f"of {length} bytes")
        return bytes(self._buffer[:wanted]), int(length) <= limit

    def _need(self, count: int, of: str) -> None:
        while len(self._buffer) < count:
            if not self._fill():
                raise BackstayError(f"the answer of {self.target.peer} ended after {len(self._buffer)} {of}")

    def _until_close(self, limit: int) -> tuple[bytes, bool]:
        while len(self._buffer) <= limit and self._fill():
            pass
        return bytes(self._buffer[:limit]), len(self._buffer) <= limit

    def _chunked(self, limit: int) -> tuple[bytes, bool]:
        body = bytearray()
        while True:
            size_text = self._line().partition(b";")[0].strip()
            if not size_text or any(character not in b"0123456789abcdefABCDEF" for character in size_text):
                raise BackstayError(f"{self.target.peer} sent a chunk without a size")
            size = int(size_text, 16)
            if size == 0:
                while self._line():  # trailers
                    pass
                return bytes(body), True
            wanted = min(size, limit - len(body))
            self._need(wanted, f"bytes of a chunk of {size}")
            body += self._buffer[:wanted]
            if wanted < size:
                return bytes(body), False
            self._need(size + 2, f"bytes of a chunk of {size}")
            if self._buffer[size : size + 2] != b"\r\n":
                raise BackstayError(f"{self.target.peer} sent a chunk longer than the {size} bytes it announced")
            del self._buffer[: size + 2]

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > _HEAD_BYTES or not self._fill():
                raise BackstayError(f"the answer of {self.target.peer} ended before its last chunk")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line


def peer_certificate(target: Target, timeout_seconds: float) -> bytes:
    """The certificate (DER) that a TLS port shows, whether it can be trusted or not."""
    from dataclasses import replace

    with Connection(replace(target, tls=True, verify=False), timeout_seconds) as connection:
        return connection.certificate()


def _context(target: Target) -> ssl.SSLContext:
    import ssl

    if not target.verify:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        return ssl.create_default_context(cafile=target.ca_file)
    except (OSError, ssl.SSLError) as unreadable:
        reason = "it is missing" if isinstance(unreadable, FileNotFoundError) else "it holds no readable certificate"
        raise InputError(f"The CA file {target.ca_file} cannot be used: {reason}.") from unreadable


def _no_connection(target: Target, refused: OSError) -> str:
    peer = target.peer
    if target.socket_path is not None and refused.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"there is no socket at {peer}: what listens there is not running"
    if refused.errno == errno.ECONNREFUSED:
        return f"connection refused at {peer}: nothing listens there"
    if refused.errno in (errno.EACCES, errno.EPERM):
        return f"no permission to connect to {peer}: ask as root, or as a user its directory allows"
    if refused.errno == errno.EAGAIN:
        return f"the queue of {peer} is full: it accepts no connections"
    return f"no connection to {peer}: {refused.strerror or refused}"
