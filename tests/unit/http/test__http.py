"""One request, one deadline: against real sockets that answer well, badly, slowly, or not at all."""

from __future__ import annotations

import contextlib
import datetime as dt
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _certificate, _http
from ansible_collections.backstay.ops.plugins.module_utils._check_options import parse
from ansible_collections.backstay.ops.plugins.module_utils._checks import run_check
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, InputError
from ansible_collections.backstay.ops.plugins.module_utils._http import Target, request

Handler = Callable[[socket.socket], None]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Release-Id: 0007-1.1.0\r\n\r\nhello"


def read_head(channel: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        part = channel.recv(4096)
        if not part:
            break
        data += part
    return data


def saying(*parts: bytes, pause: float = 0.0) -> Handler:
    def handle(channel: socket.socket) -> None:
        read_head(channel)
        for part in parts:
            channel.sendall(part)
            time.sleep(pause)

    return handle


@contextlib.contextmanager
def serving(listener: socket.socket, handle: Handler, context: ssl.SSLContext | None = None) -> Iterator[None]:
    def loop() -> None:
        while True:
            try:
                channel, _ = listener.accept()
            except OSError:
                return
            channel.settimeout(10)
            with contextlib.suppress(OSError), channel:
                if context is None:
                    handle(channel)
                else:
                    with context.wrap_socket(channel, server_side=True) as wrapped:
                        handle(wrapped)

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


@contextlib.contextmanager
def tcp_server(handle: Handler, context: ssl.SSLContext | None = None) -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    with serving(listener, handle, context):
        yield listener.getsockname()[1]


@contextlib.contextmanager
def unix_server(path: Path, handle: Handler) -> Iterator[Target]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    with serving(listener, handle):
        yield Target.unix(path, "portal.test")


def openssl(*arguments: str, cwd: Path) -> None:
    done = subprocess.run(["openssl", *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"openssl {arguments[0]} failed: {done.stderr}"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, a certificate by it for portal.test, *.wild.test and 127.0.0.1, and one that expired in 2021."""
    folder = tmp_path_factory.mktemp("keys")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
    ca = ["-subj", "/CN=Test CA", "-addext", "basicConstraints=critical,CA:TRUE", "-keyout", "ca.key", "-out", "ca.pem"]
    openssl("req", "-x509", *curve, *ca, "-addext", "keyUsage=critical,keyCertSign", "-days", "30", cwd=folder)
    (folder / "names").write_text("subjectAltName=DNS:portal.test,DNS:*.wild.test,IP:127.0.0.1\n")
    for name, dates in (
        ("good", []),
        ("expired", ["-not_before", "20200101000000Z", "-not_after", "20210203000000Z"]),
    ):
        openssl("req", *curve, "-subj", "/CN=portal.test", "-keyout", f"{name}.key", "-out", f"{name}.csr", cwd=folder)
        if not dates:
            openssl(
                *["x509", "-req", "-in", "good.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "20"],
                *["-extfile", "names", "-out", "good.pem"],
                cwd=folder,
            )
            continue
        # Older than `x509 -not_after`: openssl ca knows fixed dates everywhere.
        (folder / "index").write_text("")
        (folder / "serial").write_text("02\n")
        (folder / "ca.cnf").write_text(
            "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\n"
            "policy=p\n[p]\ncommonName=supplied\n"
        )
        openssl(
            *["ca", "-batch", "-notext", "-config", "ca.cnf", "-cert", "ca.pem", "-keyfile", "ca.key"],
            *["-in", "expired.csr", "-out", "expired.pem", "-extfile", "names"],
            *["-startdate", "20200101000000Z", "-enddate", "20210203000000Z"],
            cwd=folder,
        )
    return folder


def tls(keys: Path, name: str = "good") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys / f"{name}.pem", keys / f"{name}.key")
    return context


def failure(target: Target, path: str = "/", timeout_seconds: float = 3.0) -> str:
    with pytest.raises(BackstayError) as caught:
        request(target, path, timeout_seconds=timeout_seconds)
    return caught.value.message


# what is sent


def test_a_unix_socket_is_asked_in_the_name_of_the_site(tmp_path: Path) -> None:
    asked: list[bytes] = []

    def handle(channel: socket.socket) -> None:
        asked.append(read_head(channel))
        channel.sendall(OK)

    with unix_server(tmp_path / "web.sock", handle) as target:
        answer = request(target, "/healthz/?a=1", timeout_seconds=3, headers={"accept": "text/plain"})
    assert (answer.status, answer.body, answer.release_id, answer.complete) == (200, b"hello", "0007-1.1.0", True)
    assert answer.peer == f"unix:{tmp_path}/web.sock"
    assert 0 < answer.seconds < 3
    lines = asked[0].decode().split("\r\n")
    assert lines[0] == "GET /healthz/?a=1 HTTP/1.1"
    assert "Host: portal.test" in lines
    assert "Connection: close" in lines
    assert "accept: text/plain" in lines
    assert "Accept: */*" not in lines, "a given header did not replace ours"


@pytest.mark.parametrize(
    ("target", "peer", "host"),
    [
        (Target.unix("/run/x/web.sock", "a.test"), "unix:/run/x/web.sock", "a.test"),
        (Target.tcp("a.test"), "a.test:80", "a.test"),
        (Target.tcp("a.test", tls=True), "a.test:443", "a.test"),
        (Target.tcp("a.test", 8443, tls=True), "a.test:8443", "a.test:8443"),
        (Target.tcp("127.0.0.1", 443, tls=True, server_name="a.test"), "a.test:443 at 127.0.0.1", "a.test"),
        (Target.tcp("a.test", 443, tls=True, address="::1"), "a.test:443 at ::1", "a.test"),
        (Target.tcp("::1", 81), "[::1]:81", "[::1]:81"),
    ],
)
def test_a_target_says_where_it_is_and_what_it_is_called(target: Target, peer: str, host: str) -> None:
    assert (target.peer, target.host_header) == (peer, host)


@pytest.mark.parametrize(
    ("path", "method", "headers", "message"),
    [
        ("healthz", "GET", {}, "The path of a request must begin with / and hold no blanks: percent-encode them."),
        ("/a b", "GET", {}, "The path of a request must begin with / and hold no blanks: percent-encode them."),
        ("/\r\nX: y", "GET", {}, "The path of a request must begin with / and hold no blanks: percent-encode them."),
        ("/", "GET /x", {}, "'GET /x' is not a method of HTTP: give one such as GET."),
        (
            "/",
            "GET",
            {"X-A": "secret\r\nX-B: c"},
            "The header 'X-A' cannot be sent: its name or value holds a line break or a blank.",
        ),
        ("/", "GET", {"X A": "b"}, "The header 'X A' cannot be sent: its name or value holds a line break or a blank."),
    ],
)
def test_a_request_that_would_smuggle_is_never_sent(
    path: str, method: str, headers: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        request(Target.tcp("127.0.0.1", 1), path, timeout_seconds=1, method=method, headers=headers)
    assert caught.value.message == message


def test_a_body_is_sent_with_its_length() -> None:
    got: list[bytes] = []

    def handle(channel: socket.socket) -> None:
        data = read_head(channel)
        got.append(data)
        channel.sendall(OK)

    with tcp_server(handle) as port:
        request(Target.tcp("127.0.0.1", port), "/", timeout_seconds=3, method="POST", body=b"a=1")
    assert b"Content-Length: 3\r\n" in got[0]


# what comes back


@pytest.mark.parametrize(
    ("raw", "status", "body", "complete"),
    [
        (OK, 200, b"hello", True),
        (b"HTTP/1.0 404 Not Found\r\n\r\ngone", 404, b"gone", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
        (b"HTTP/1.1 304\r\nContent-Length: 9\r\n\r\n", 304, b"", True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK, 200, b"hello", True),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nT: 1\r\n\r\n",
            200,
            b"hello",
            True,
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n" + b"x" * 30, 200, b"x" * 16, False),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 30, 200, b"x" * 16, False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1e\r\n" + b"x" * 30, 200, b"x" * 16, False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n" + b"x" * 16, 200, b"x" * 16, True),
    ],
)
def test_answers_are_read_to_their_end_and_no_further(raw: bytes, status: int, body: bytes, complete: bool) -> None:
    with tcp_server(saying(*(raw[index : index + 7] for index in range(0, len(raw), 7)))) as port:
        answer = request(Target.tcp("127.0.0.1", port), "/", timeout_seconds=5, body_bytes=16)
    assert (answer.status, answer.body, answer.complete) == (status, body, complete)


def test_headers_are_lower_case_and_repeated_ones_joined() -> None:
    raw = b"HTTP/1.1 200 OK\r\nVary: a\r\nVARY:  b \r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n"
    with tcp_server(saying(raw)) as port:
        answer = request(Target.tcp("127.0.0.1", port), "/", timeout_seconds=3)
    assert answer.headers == {"vary": "a, b", "content-length": "0"}
    assert answer.release_id is None


def test_head_has_no_body() -> None:
    with tcp_server(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")) as port:
        answer = request(Target.tcp("127.0.0.1", port), "/", timeout_seconds=3, method="HEAD")
    assert (answer.status, answer.body) == (200, b"")


def test_an_answer_does_not_print_its_headers_and_body() -> None:
    raw = b"HTTP/1.1 200 OK\r\nSet-Cookie: sessionid=hush\r\nContent-Length: 4\r\n\r\nhush"
    with tcp_server(saying(raw)) as port:
        answer = request(Target.tcp("127.0.0.1", port), "/", timeout_seconds=3)
    assert "hush" not in repr(answer)


# what is said when nothing good comes back


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "{peer} closed the connection without an answer"),
        (b"HTTP/1.1 200 OK\r\nConten", "{peer} closed the connection in the middle of its headers"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + b"x" * 120,
            "the answer of {peer} ended after 120 of 500 bytes",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
            "the answer of {peer} ended after 3 bytes of a chunk of 5",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "the answer of {peer} ended before its last chunk",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n",
            "{peer} sent a chunk longer than the 2 bytes it announced",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n",
            "{peer} sent a chunk without a size",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "{peer} answered in the transfer coding 'gzip', which was not asked for",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "{peer} sent the Content-Length '-1', which is no number",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "{peer} sent two different Content-Length headers",
        ),
        (b"HTTP/1.1 200 OK\r\nno header\r\n\r\n", "{peer} sent a header that is none: 'no header'"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "{peer} does not speak HTTP/1.1: it began with 'SSH-2.0-OpenSSH_9.2'"),
        (b"HTTP/1.1 2xx OK\r\n\r\n", "{peer} does not speak HTTP/1.1: it began with 'HTTP/1.1 2xx OK'"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70000, "{peer} sent more than 65536 bytes of headers"),
    ],
)
def test_a_broken_answer_is_an_error_that_says_what_was_seen(raw: bytes, message: str) -> None:
    with tcp_server(saying(raw)) as port:
        target = Target.tcp("127.0.0.1", port)
        assert failure(target) == message.format(peer=target.peer)


def test_refused_and_missing_say_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert failure(Target.tcp("127.0.0.1", port)) == f"connection refused at 127.0.0.1:{port}: nothing listens there"
    path = tmp_path / "web.sock"
    missing = f"there is no socket at unix:{path}: what listens there is not running"
    assert failure(Target.unix(path)) == missing
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert failure(Target.unix(path)) == f"connection refused at unix:{path}: nothing listens there"


def test_a_socket_path_that_is_too_long_is_said() -> None:
    path = "/" + "x" * 200
    assert failure(Target.unix(path)) == f"no connection to unix:{path}: AF_UNIX path too long"


def test_an_unknown_name_is_said() -> None:
    assert failure(Target.tcp("no-such-name.invalid", 80)).startswith(
        "the name 'no-such-name.invalid' has no address ("
    )


def test_a_server_that_says_nothing_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    let_go = threading.Event()
    with unix_server(tmp_path / "web.sock", lambda channel: let_go.wait(10) and None) as target:
        assert failure(target, timeout_seconds=0.2) == f"no answer from {target.peer} within 0.2 s"
        let_go.set()


def test_a_server_that_drips_is_given_up_at_the_deadline_of_the_whole_request(tmp_path: Path) -> None:
    drips = saying(b"HTTP/1.1 200 OK\r\n", *[b"X: y\r\n"] * 40, pause=0.05)
    with unix_server(tmp_path / "web.sock", drips) as target:
        assert failure(target, timeout_seconds=0.3) == f"no whole answer from {target.peer} within 0.3 s"


def test_a_full_queue_is_said(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as held:
        listener.bind(str(path))
        listener.listen(0)
        client = held.enter_context(socket.socket(socket.AF_UNIX))
        client.connect(str(path))
        said = failure(Target.unix(path), timeout_seconds=0.2)
    assert said in (
        f"no answer from unix:{path} within 0.2 s",
        f"the queue of unix:{path} is full: it accepts no connections",
    )


# TLS


def test_tls_is_asked_by_name_at_another_address(keys: Path) -> None:
    names: list[str | None] = []
    context = tls(keys)
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    with tcp_server(saying(OK), context) as port:
        target = Target.tcp("portal.test", port, tls=True, address="127.0.0.1", ca_file=str(keys / "ca.pem"))
        answer = request(target, "/", timeout_seconds=5)
    assert (answer.status, answer.body) == (200, b"hello")
    assert names == ["portal.test"]


def test_an_address_can_be_the_name_in_a_certificate(keys: Path) -> None:
    with tcp_server(saying(OK), tls(keys)) as port:
        target = Target.tcp("127.0.0.1", port, tls=True, ca_file=str(keys / "ca.pem"))
        assert request(target, "/", timeout_seconds=5).status == 200


@pytest.mark.parametrize(
    ("certificate", "name", "with_ca", "message"),
    [
        (
            "good",
            "portal.test",
            False,
            "the certificate of {peer} was issued by Test CA, which the system's store does not trust",
        ),
        (
            "good",
            "other.test",
            True,
            "the certificate of {peer} is for portal.test, *.wild.test, 127.0.0.1, not for other.test",
        ),
        ("expired", "portal.test", True, "the certificate of {peer} expired on 2021-02-03: renew it"),
    ],
)
def test_a_certificate_that_cannot_be_trusted_is_refused_with_its_own_words(
    keys: Path, certificate: str, name: str, with_ca: bool, message: str
) -> None:
    with tcp_server(saying(OK), tls(keys, certificate)) as port:
        ca_file = str(keys / "ca.pem") if with_ca else None
        target = Target.tcp(name, port, tls=True, address="127.0.0.1", ca_file=ca_file)
        assert failure(target, timeout_seconds=5) == message.format(peer=target.peer)


def test_without_verification_any_certificate_will_do(keys: Path) -> None:
    with tcp_server(saying(OK), tls(keys, "expired")) as port:
        target = Target.tcp("127.0.0.1", port, tls=True, server_name="other.test", verify=False)
        assert request(target, "/", timeout_seconds=5).status == 200


def test_a_port_that_speaks_no_tls_is_said() -> None:
    def greet(channel: socket.socket) -> None:
        channel.sendall(b"SSH-2.0-x\r\n")
        channel.recv(4096)

    with tcp_server(greet) as port:
        said = failure(Target.tcp("127.0.0.1", port, tls=True, verify=False))
    assert said == f"no TLS at 127.0.0.1:{port}: wrong version number"


def test_a_tls_port_that_hangs_is_given_up_at_the_deadline() -> None:
    let_go = threading.Event()
    with tcp_server(lambda channel: let_go.wait(10) and None) as port:
        said = failure(Target.tcp("127.0.0.1", port, tls=True, verify=False), timeout_seconds=0.2)
        let_go.set()
    assert said == f"no TLS handshake with 127.0.0.1:{port} within 0.2 s"


def test_a_ca_file_that_is_none_is_said(keys: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    with tcp_server(saying(OK), tls(keys)) as port:
        for file, why in ((tmp_path / "none.pem", "it is missing"), (empty, "it holds no readable certificate")):
            said = failure(Target.tcp("127.0.0.1", port, tls=True, ca_file=str(file)))
            assert said == f"The CA file {file} cannot be used: {why}."


def test_a_certificate_is_read_whole(keys: Path) -> None:
    with tcp_server(saying(OK), tls(keys, "expired")) as port:
        der = _http.peer_certificate(Target.tcp("127.0.0.1", port), 5)
    read = _certificate.read(der)
    assert read.names == ("portal.test", "*.wild.test", "127.0.0.1")
    assert (read.subject, read.issuer) == ("portal.test", "Test CA")
    assert read.not_before == dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    assert read.not_after == dt.datetime(2021, 2, 3, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("name", "covered"),
    [
        ("portal.test", True),
        ("PORTAL.test", True),
        ("a.wild.test", True),
        ("127.0.0.1", True),
        ("a.b.wild.test", False),
        ("wild.test", False),
        (".wild.test", False),
        ("other.test", False),
    ],
)
def test_names_match_as_browsers_match_them(name: str, covered: bool) -> None:
    day = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    own = _certificate.Certificate(day, day, ("portal.test", "*.wild.test", "127.0.0.1"), "s", "i")
    assert own.is_for(name) is covered


def test_bytes_that_are_no_certificate_are_refused(keys: Path) -> None:
    good = ssl.PEM_cert_to_DER_cert((keys / "good.pem").read_text())
    for damaged in (b"", b"hello", b"\x30\x84\xff\xff\xff\xff", good[:200], good[:-1]):
        with pytest.raises(BackstayError, match=r"it is not X\.509 in DER"):
            _certificate.read(damaged)


def test_asking_a_unix_socket_imports_neither_ssl_nor_mail() -> None:
    code = (
        "import sys\n"
        "from ansible_collections.backstay.ops.plugins.module_utils._http import Target, request\n"
        "try:\n    request(Target.unix('/nonexistent'), '/', timeout_seconds=1)\nexcept Exception: pass\n"
        "print([name for name in ('ssl', 'email', 'http.client', 'urllib.request', 'asyncio') if name in sys.modules])"
    )
    root = Path(_http.__file__).resolve().parents[2] / ".ansible" / "collections"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=False
    )
    assert done.stdout == "[]\n", f"heavy modules were imported: {done.stdout}{done.stderr}"


# the check of a certificate, which looks with and without trust


@pytest.mark.parametrize(
    ("certificate", "options", "reason"),
    [
        ("good", {}, ""),
        ("good", {"names": ["portal.test", "a.wild.test"], "days_left": 19}, ""),
        ("good", {"names": ["other.test"]}, "the certificate of {peer} is for {all}, not for other.test"),
        ("good", {"ca_file": None}, "the certificate of {peer} was issued by Test CA, {trust}"),
        ("good", {"ca_file": None, "chain": False}, ""),
        ("expired", {}, "the certificate of {peer} expired on 2021-02-03: renew it"),
    ],
)
def test_a_certificate_is_checked_where_it_is_shown(
    keys: Path, certificate: str, options: dict[str, Any], reason: str
) -> None:
    with tcp_server(saying(OK), tls(keys, certificate)) as port:
        asked = {"type": "certificate", "host": "portal.test", "port": port, "address": "127.0.0.1"}
        result = run_check(parse({**asked, "ca_file": str(keys / "ca.pem"), **options}))
    told = {
        "peer": f"portal.test:{port} at 127.0.0.1",
        "all": "portal.test, *.wild.test, 127.0.0.1",
        "trust": "which the system's store does not trust",
    }
    assert result.reason == reason.format(**told)
    assert result.ok is not bool(reason)


def test_a_port_without_tls_shows_no_certificate() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    result = run_check(parse({"type": "certificate", "host": "127.0.0.1", "port": port}))
    assert result.reason == f"connection refused at 127.0.0.1:{port}: nothing listens there"
