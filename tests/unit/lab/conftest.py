"""A portal small enough to hold in one's head, over TLS with the lab's own authority."""

from __future__ import annotations

import re
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from backstay_lab.keys import ensure_ca
from backstay_lab.layout import LabLayout
from backstay_lab.load_profile import Profile, Target

PAGE = b'<link href="/static/site.1a2b.css"><script src="/static/site.3c4d.js"></script>'
FORM = b'<input type="hidden" name="csrfmiddlewaretoken" value="masked">'


@dataclass
class Portal:
    """What the server was asked, and how it misbehaves on demand."""

    target: Target
    tokens: list[str] = field(default_factory=list)
    sick_paths: dict[str, int] = field(default_factory=dict)
    release: str = "r1"
    stop_after: int = 0  # answers on one connection, then it is closed without a word
    announce: bool = False  # ... but for "Connection: close"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    portal: Portal

    def setup(self) -> None:
        super().setup()
        self.answers = 0

    def log_message(self, *_arguments: object) -> None:
        """Be quiet."""

    def do_GET(self) -> None:
        if self.path.endswith("/new/"):
            self.answer(200, FORM, {"Set-Cookie": "csrftoken=cookie; Path=/; Secure"})
        else:
            self.answer(200, PAGE)

    def do_POST(self) -> None:
        sent = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        origin = self.portal.target.origin
        honest = (
            self.headers["Cookie"] == "csrftoken=cookie"
            and self.headers["Origin"] == origin
            and self.headers["Referer"].startswith(origin + "/audits/")
            and sent["csrfmiddlewaretoken"] == ["masked"]
            and sent["severity"] == ["low"]
        )
        if not honest:
            self.answer(403, b"")
            return
        self.portal.tokens.append(sent["token"][0])
        self.answer(302, b"", {"Location": re.sub("findings/$", "", self.path)})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.answers += 1
        last = self.portal.stop_after and self.answers >= self.portal.stop_after
        self.send_response(self.portal.sick_paths.get(self.path, status))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("X-Release-Id", self.portal.release)
        self.send_header("Content-Length", str(len(body)))
        if last and self.portal.announce:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = self.close_connection or bool(last)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_arguments: object) -> None:
        """A client that hangs up is part of the tests."""


@pytest.fixture(scope="session")
def server_certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Authority, certificate and key of portal.lab."""
    place = tmp_path_factory.mktemp("tls")
    authority, authority_key = ensure_ca(LabLayout("unit", place))
    extensions = place / "extensions"
    extensions.write_text("subjectAltName=DNS:portal.lab\n")
    key, request, certificate = place / "server.key", place / "server.csr", place / "server.crt"
    new = [
        "openssl",
        "req",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-subj",
        "/CN=portal.lab",
    ]
    subprocess.run([*new, "-keyout", str(key), "-out", str(request)], check=True, capture_output=True)
    sign = ["openssl", "x509", "-req", "-in", str(request), "-CA", str(authority), "-CAkey", str(authority_key)]
    sign += ["-CAcreateserial", "-days", "30", "-extfile", str(extensions), "-out", str(certificate)]
    subprocess.run(sign, check=True, capture_output=True)
    return authority, certificate, key


@pytest.fixture
def portal(server_certificate: tuple[Path, Path, Path]) -> Iterator[Portal]:
    authority, certificate, key = server_certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    handler = type("Handler", (_Handler,), {})
    server = _Server(("127.0.0.1", 0), handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    port = server.server_address[1]
    target = Target.parse(f"https://portal.lab:{port}", connect="127.0.0.1", ca=authority)
    handler.portal = Portal(target)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield handler.portal
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def profile() -> Profile:
    return Profile(slow_path="/reports/slow/")
