"""Each kind of check against the real thing, or a copy of it, and the exact sentence when it is not well."""

from __future__ import annotations

import datetime as dt
import os
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._check_options import parse, parse_checks
from ansible_collections.backstay.ops.plugins.module_utils._checks import (
    Adapters,
    HttpCheck,
    Result,
    first_file,
    run_check,
)
from ansible_collections.backstay.ops.plugins.module_utils._errors import InputError
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed


def look(options: Mapping[str, Any], adapters: Adapters | None = None) -> Result:
    return run_check(parse(options), adapters)


# http: a small site that is well in some places


PAGES: dict[str, tuple[int, str, bytes]] = {
    "/": (200, "text/html", b"<h1>Audits</h1> 10,000 of them"),
    "/old": (302, "text/html", b""),
    "/healthz/": (
        200,
        "application/health+json",
        b'{"status": "pass", "checks": {"database": [{"status": "pass", "ms": 2}]}, "ready": true, "count": 1}',
    ),
    "/sick": (
        503,
        "application/health+json; charset=utf-8",
        (
            b'{"status": "fail", "checks": {"database": [{"status": "fail", "output": "no such table: audit"}],'
            b' "media": {"status": "pass"}, "queue": {"status": "fail", "output": "redis://app:hush@q:1 is gone"}}}'
        ),
    ),
    "/plain": (500, "text/plain", b"out of memory\nTraceback ..."),
    "/page": (500, "text/html", b"<html>a long page with SECRET_KEY</html>"),
    "/broken": (200, "application/json", b"{"),
    "/media/a%20b.jpg": (200, "image/jpeg", b"jpeg"),
}


class Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, kind, body = PAGES.get(self.path.partition("?")[0], (404, "text/html", b""))
        if self.headers.get("Authorization") == "Bearer hush":
            status, body = 200, b"welcome"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Release-Id", "0007-1.1.0")
        if status == 302:
            self.send_header("Location", "/login/?next=secret")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name it has in the standard library
        """Say nothing."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(10)
    server.server_close()


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("/", {}),
        ("/", {"status": [301, 200], "contains": ["Audits", "of them"], "matches": r"\d+,000"}),
        ("/", {"header_equals": {"content-type": "text/html"}, "release_id": "0007-1.1.0", "latency_seconds": 5}),
        ("/old", {"status": 302}),
        ("/healthz/", {"json_equals": {"status": "pass", "checks.database.0.status": "pass", "ready": True}}),
        ("/private", {"secret_headers": {"Authorization": "Bearer hush"}, "contains": "welcome"}),
    ],
)
def test_what_is_as_expected_passes(site: str, path: str, options: dict[str, Any]) -> None:
    result = look({"type": "http", "url": site + path, **options})
    assert result.ok, result.reason
    assert result.reason == ""
    assert result.observed.endswith(" ms from 0007-1.1.0")


@pytest.mark.parametrize(
    ("path", "options", "reason"),
    [
        ("/none?token=hush", {}, "/none answered 404, expected 200"),
        ("/none", {"status": [200, 301]}, "/none answered 404, expected 200 or 301"),
        ("/old", {}, "/old answered 302 to /login/, expected 200"),
        (
            "/sick",
            {},
            "/sick answered 503, expected 200 (database: no such table: audit; queue: redis://q:1 is gone)",
        ),
        ("/plain", {}, "/plain answered 500, expected 200 (out of memory)"),
        ("/page", {}, "/page answered 500, expected 200"),
        ("/", {"contains": ["Audits", "Lifts"]}, "/ does not contain 'Lifts'"),
        ("/", {"matches": "[0-9]{9}"}, "/ has nothing that matches '[0-9]{9}'"),
        (
            "/",
            {"header_equals": {"Content-Type": "text/plain"}},
            "/ has the header Content-Type: text/html, expected text/plain",
        ),
        ("/", {"header_equals": {"X-Frame-Options": "DENY"}}, "/ has the header X-Frame-Options: none, expected DENY"),
        ("/", {"release_id": "0008-1.2.0"}, "/ was answered by 0007-1.1.0, expected 0008-1.2.0"),
        (
            "/none",
            {"release_id": "0008-1.2.0", "contains": "x"},
            "/none answered 404, expected 200; /none was answered by 0007-1.1.0, expected 0008-1.2.0",
        ),
        ("/healthz/", {"json_equals": {"status": "warn"}}, '/healthz/ has status = "pass", expected "warn"'),
        ("/healthz/", {"json_equals": {"ready": 1}}, "/healthz/ has ready = true, expected 1"),
        ("/healthz/", {"json_equals": {"count": True}}, "/healthz/ has count = 1, expected true"),
        (
            "/healthz/",
            {"json_equals": {"checks.database.1.status": "pass"}},
            '/healthz/ has no checks.database.1.status, expected "pass"',
        ),
        ("/broken", {"json_equals": {"status": "pass"}}, "/broken did not answer JSON"),
    ],
)
def test_what_is_not_says_what_was_seen(site: str, path: str, options: dict[str, Any], reason: str) -> None:
    result = look({"type": "http", "url": site + path, **options})
    assert (result.ok, result.reason) == (False, reason)


def test_a_slow_answer_is_not_well(site: str) -> None:
    result = look({"type": "http", "url": f"{site}/", "latency_seconds": 0.0000001})
    assert not result.ok
    assert result.reason.endswith(" s, expected at most 1e-07 s"), result.reason


def test_the_release_is_read_from_the_link_when_it_is_asked(site: str, tmp_path: Path) -> None:
    link = tmp_path / "active"
    check = parse({"type": "http", "url": f"{site}/", "release_link": str(link)})
    assert run_check(check).reason == f"no release is live: the link {link} cannot be read (No such file or directory)"
    link.symlink_to("/run/portal/0007-1.1.0/web.sock")
    assert run_check(check).ok
    link.unlink()
    link.symlink_to("/run/portal/0008-1.2.0/web.sock")
    assert run_check(check).reason == "/ was answered by 0007-1.1.0, expected 0008-1.2.0"


def test_a_file_is_chosen_on_the_host_and_its_name_encoded(site: str, tmp_path: Path) -> None:
    check = parse({"type": "http", "url": f"{site}/media/", "file_below": str(tmp_path)})
    empty = run_check(check)
    assert (empty.ok, empty.skipped, empty.observed) == (True, True, f"there is no file below {tmp_path} yet")
    (tmp_path / "a b.jpg").write_text("jpeg")
    found = run_check(check)
    assert (found.ok, found.skipped) == (True, False), found.reason
    (tmp_path / "A.jpg").write_text("nginx does not serve it")
    assert run_check(check).reason == "/media/A.jpg answered 404, expected 200"


@pytest.mark.parametrize(
    ("names", "first"),
    [
        ([], None),
        ([".hidden", ".git/config"], None),
        (["b.js", "a.txt"], "a.txt"),
        (["a.js", "css/site.css", "z.css"], "z.css"),
        (["a.js", "css/site.css"], "css/site.css"),
        (["x/y/z.jpg"], "x/y/z.jpg"),
    ],
)
def test_a_style_sheet_is_asked_for_first(tmp_path: Path, names: list[str], first: str | None) -> None:
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    assert first_file(tmp_path) == first


def test_no_secret_is_printed() -> None:
    http = parse({"type": "http", "url": "http://x.test/?key=hush", "secret_headers": {"Authorization": "hush"}})
    command = parse({"type": "command", "argv": ["true"], "secret_environment": {"A": "hush"}})
    for check in (http, command):
        assert "hush" not in check.expected + check.name
        assert "'hush'" not in repr(check)


# the other kinds


def test_a_port_that_listens_and_one_that_does_not(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert look({"type": "tcp", "host": "127.0.0.1", "port": port}).ok
    result = look({"type": "tcp", "name": "db", "host": "127.0.0.1", "port": port})
    assert result.reason == f"connection refused at 127.0.0.1:{port}: nothing listens there"
    path = tmp_path / "s"
    assert look({"type": "tcp", "socket": str(path)}).reason.startswith(f"there is no socket at unix:{path}")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert look({"type": "tcp", "socket": str(path)}).ok


def systemctl(**seen: str) -> Adapters:
    def run(
        arguments: Sequence[str],
        *,
        timeout_seconds: float = 60.0,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        stdin: str | None = None,
        check: bool = True,
    ) -> Completed:
        assert arguments[-1] == "nginx.service"
        return Completed(tuple(arguments), 0, "".join(f"{name}={value}\n" for name, value in seen.items()), "")

    return Adapters(run=run, clock=lambda: 1000.0)


RUNNING = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "NRestarts": "2"}


@pytest.mark.parametrize(
    ("seen", "options", "reason"),
    [
        (RUNNING, {}, ""),
        (RUNNING, {"sub_state": "running", "restarts_max": 2}, ""),
        (RUNNING, {"restarts_max": 1}, "nginx.service was restarted 2 times, expected at most 1"),
        (
            RUNNING | {"ActiveEnterTimestampMonotonic": "997000000"},
            {"up_seconds": 10},
            "nginx.service is up for 3.0 s only, expected 10 s",
        ),
        (RUNNING | {"ActiveEnterTimestampMonotonic": "900000000"}, {"up_seconds": 10}, ""),
        (
            {
                "LoadState": "loaded",
                "ActiveState": "failed",
                "SubState": "failed",
                "NRestarts": "0",
                "Result": "signal",
            },
            {},
            (
                "nginx.service is failed (failed), its last run ended with 'signal', expected active; "
                "see journalctl -u nginx.service"
            ),
        ),
        (
            RUNNING
            | {"ActiveState": "activating", "SubState": "auto-restart", "NRestarts": "7", "Result": "exit-code"},
            {"sub_state": "running"},
            (
                "nginx.service is activating (auto-restart) after 7 restarts, its last run ended with 'exit-code', "
                "expected active (running); see journalctl -u nginx.service"
            ),
        ),
        (
            {"LoadState": "not-found", "ActiveState": "inactive", "SubState": "dead"},
            {},
            "systemd knows no unit nginx.service: correct the name, or install it",
        ),
        ({"LoadState": "loaded", "ActiveState": "inactive", "SubState": "dead"}, {"state": "inactive"}, ""),
    ],
)
def test_units(seen: dict[str, str], options: dict[str, Any], reason: str) -> None:
    result = look({"type": "unit", "unit": "nginx", **options}, systemctl(**seen))
    assert (result.reason, result.ok) == (reason, not reason)


def process(root: Path, pid: int, name: str, state: str = "S", command: str = "") -> None:
    folder = root / "proc" / str(pid)
    folder.mkdir(parents=True)
    (folder / "comm").write_text(f"{name[:15]}\n")
    (folder / "stat").write_text(f"{pid} ({name[:15]}) {state} 1 1 1")
    (folder / "cmdline").write_bytes((command or f"/usr/bin/{name}").encode() + b"\0-x\0")


def test_processes(tmp_path: Path) -> None:
    process(tmp_path, 10, "nginx")
    process(tmp_path, 11, "nginx")
    process(tmp_path, 12, "nginx", state="Z")
    process(tmp_path, 13, "a-name-longer-than-15")
    process(tmp_path, 14, "(odd) name")
    group = tmp_path / "sys/fs/cgroup/system.slice/nginx.service"
    (group / "inner").mkdir(parents=True)
    (group / "cgroup.procs").write_text("10\n")
    (group / "inner/cgroup.procs").write_text("11\n")
    pid_file = tmp_path / "nginx.pid"
    adapters = Adapters(root=tmp_path)

    def reason(**options: Any) -> str:
        return look({"type": "process", **options}, adapters).reason

    assert reason(process="nginx", count_min=2, count_max=2) == ""
    assert reason(process="nginx", count_min=3) == "2 processes named nginx, expected at least 3"
    assert reason(process="nginx", count_max=1) == "2 processes named nginx, expected at most 1"
    assert reason(process="a-name-longer-than-15") == ""
    assert reason(process="a-name-longer-than-others") == (
        "0 processes named a-name-longer-than-others, expected at least 1"
    )
    assert reason(process="(odd) name") == ""
    assert reason(process="cron", count_min=0) == ""
    assert reason(cgroup="system.slice/nginx.service", count_min=2) == ""
    assert reason(cgroup="/system.slice/x.service") == (
        "there is no control group /system.slice/x.service: nothing runs in it"
    )
    assert reason(pid_file=str(pid_file)) == f"{pid_file} cannot be read (No such file or directory): it does not run"
    pid_file.write_text("10\n")
    assert reason(pid_file=str(pid_file)) == "", "the named process runs"


def test_a_pid_file_of_a_process_that_is_gone(tmp_path: Path) -> None:
    process(tmp_path, 12, "nginx", state="Z")
    for text, reason in (
        ("12", "{} names process 12, which does not run"),
        ("99", "{} names process 99, which does not run"),
        ("", "{} holds '', which is no process id"),
        ("1; rm", "{} holds '1; rm', which is no process id"),
    ):
        file = tmp_path / "x.pid"
        file.write_text(text)
        assert look({"type": "process", "pid_file": str(file)}, Adapters(root=tmp_path)).reason == reason.format(file)


def disk(**changes: int) -> Adapters:
    block = {"bsize": 4096, "frsize": 4096, "blocks": 1000, "bfree": 300, "bavail": 250}
    inodes = {"files": 100, "ffree": 20, "favail": 20, "flag": 0, "namemax": 255}
    values = tuple((block | inodes | changes).values())
    return Adapters(statvfs=lambda _: os.statvfs_result(values))


@pytest.mark.parametrize(
    ("options", "changes", "reason"),
    [
        ({"free_bytes": 1000, "free_percent": 26, "free_inodes": 20}, {}, ""),
        ({"free_bytes": 2 << 30}, {}, "/opt has 1 MiB (26 %) free, expected at least 2.0 GiB"),
        ({"free_percent": 30.5}, {}, "/opt has 26.3 % free, expected at least 30.5 %"),
        ({"free_inodes": 21}, {}, "/opt has 20 inodes free, expected at least 21"),
        ({"free_inodes": 21}, {"files": 0, "ffree": 0, "favail": 0}, ""),
    ],
)
def test_disks(options: dict[str, Any], changes: dict[str, int], reason: str) -> None:
    result = look({"type": "disk", "path": "/opt", **options}, disk(**changes))
    assert (result.reason, result.ok) == (reason, not reason)


def test_a_disk_that_is_not_there() -> None:
    result = look({"type": "disk", "path": "/no/such/place", "free_bytes": 1})
    assert result.reason == "the room at /no/such/place cannot be read: No such file or directory"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for portal.test that is valid for 20 days from now."""
    folder = tmp_path_factory.mktemp("certificate")
    made = subprocess.run(
        [
            *["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"],
            *["-days", "20", "-subj", "/CN=portal.test", "-addext", "subjectAltName=DNS:portal.test"],
            *["-keyout", "key", "-out", "own.pem"],
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return folder / "own.pem"


@pytest.mark.parametrize(
    ("options", "days", "reason"),
    [
        ({}, 0, ""),
        ({"names": ["portal.test"], "days_left": 19}, 0, ""),
        ({"names": ["other.test"]}, 0, "the certificate of {file} is for portal.test, not for other.test"),
        ({}, 10, "the certificate of {file} expires on {until}, in 10 days, expected at least 14: renew it"),
        ({}, 30, "the certificate of {file} expired on {until}: renew it"),
        ({}, -2, "the certificate of {file} is valid from {since} only"),
    ],
)
def test_certificates_in_a_file(certificate: Path, options: dict[str, Any], days: int, reason: str) -> None:
    now = dt.datetime.now(dt.UTC)
    adapters = Adapters(now=lambda: now + dt.timedelta(days=days))
    result = look({"type": "certificate", "file": str(certificate), **options}, adapters)
    made = dt.datetime.fromtimestamp(certificate.stat().st_mtime, dt.UTC)
    dates = {"until": f"{made + dt.timedelta(days=20):%Y-%m-%d}", "since": f"{made:%Y-%m-%d}"}
    assert result.reason == reason.format(file=certificate, **dates)


def test_a_file_that_holds_no_certificate(tmp_path: Path) -> None:
    file = tmp_path / "x.pem"
    missing = look({"type": "certificate", "file": str(file)}).reason
    assert missing == f"the certificate {file} cannot be read: No such file or directory"
    file.write_text("hello")
    assert look({"type": "certificate", "file": str(file)}).reason == f"{file} holds no certificate in PEM"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"argv": ["sh", "-c", "echo hello; exit 3"], "exit_codes": [0, 3], "contains": ["hell"]}, ""),
        ({"argv": ["sh", "-c", "echo oh >&2; exit 3"]}, "sh ended with exit code 3, expected 0: oh"),
        ({"argv": ["false"], "exit_codes": [0, 3]}, "false ended with exit code 1, expected 0 or 3"),
        ({"argv": ["echo", "hello"], "contains": "ready"}, "echo did not print 'ready': hello"),
        ({"argv": ["sleep", "30"], "timeout_seconds": 0.1}, "`sleep` did not end within 0.1 s and was killed"),
        (
            {"argv": ["no-such-program"]},
            "The program 'no-such-program' was not found: install it, or correct its path",
        ),
        (
            {
                "argv": ["sh", "-c", "echo $A $B; exit 1"],
                "environment": {"A": "plain"},
                "secret_environment": {"B": "hush"},
            },
            "sh ended with exit code 1, expected 0: plain ***",
        ),
    ],
)
def test_commands(options: dict[str, Any], reason: str) -> None:
    result = look({"type": "command", **options})
    assert (result.reason, result.ok) == (reason, not reason)


# options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "check: type is missing: give a text."),
        (
            {"type": "ping"},
            "check has the unknown type 'ping': choose one of http, tcp, unit, process, disk, certificate, command.",
        ),
        (
            {"type": "http", "url": "http://x/", "statu": 200},
            "check: unknown key 'statu' for a check of type http: did you mean 'status'?",
        ),
        (
            {"type": "tcp", "name": "db", "host": "x", "port": 1, "status": 200},
            (
                "check (db): unknown key 'status' for a check of type tcp: "
                "known are address, host, name, port, socket, timeout_seconds, type."
            ),
        ),
        ({"type": "http"}, "check: url or socket is needed, and not both: say where to ask."),
        ({"type": "http", "url": "x"}, "check: url must look like https://name:port/path, without a fragment."),
        ({"type": "http", "url": "ftp://x/"}, "check: url must look like https://name:port/path, without a fragment."),
        (
            {"type": "http", "url": "http://x:99999/"},
            "check: url must look like https://name:port/path, without a fragment.",
        ),
        (
            {"type": "http", "url": "https://me:hush@x/"},
            "check: url holds a user or password: move it to secret_headers as Authorization.",
        ),
        (
            {"type": "http", "url": "http://x/", "headers": {"Cookie": "hush"}},
            "check: headers.Cookie is a secret: move it to secret_headers, which are never printed.",
        ),
        (
            {"type": "http", "url": "http://x/", "header_equals": {"X-On": True}},
            "check: header_equals.X-On must be a text: quote it.",
        ),
        (
            {"type": "http", "url": "http://x/", "status": 99},
            "check: status must be a number from 100 to 599, or a list of such.",
        ),
        (
            {"type": "http", "url": "http://x/", "matches": "("},
            "check: matches is no regular expression (missing ), unterminated subpattern at position 0).",
        ),
        (
            {"type": "http", "url": "http://x/", "release_id": "1", "release_link": "/x"},
            "check: release_id and release_link exclude each other: keep one.",
        ),
        ({"type": "http", "url": "http://x/", "verify": "no"}, "check: verify must be true or false."),
        (
            {"type": "http", "url": "http://x/", "timeout_seconds": 0},
            "check: timeout_seconds must be a number above 0.",
        ),
        ({"type": "http", "socket": "/s", "path": "x"}, "check: path must begin with /."),
        ({"type": "tcp", "host": "x"}, "check: port must be a whole number from 1 to 65535."),
        ({"type": "tcp"}, "check: host or socket is needed, and not both: say where to connect."),
        ({"type": "unit"}, "check: unit is missing: give a text."),
        ({"type": "process"}, "check: process or pid_file or cgroup is needed, and one of them only."),
        (
            {"type": "process", "process": "x", "count_min": 3, "count_max": 2},
            "check: count_max must not be below count_min.",
        ),
        ({"type": "disk"}, "check: free_bytes or free_percent or free_inodes is needed: say how much must be free."),
        ({"type": "certificate"}, "check: host or file is needed, and not both: say where the certificate is."),
        (
            {"type": "certificate", "file": "/x", "chain": True},
            "check: chain can be checked where a host shows its certificate, not in a file: remove it.",
        ),
        ({"type": "command"}, "check: argv is missing: give the command as a list."),
        ({"type": "command", "argv": "rm -rf /"}, "check: argv must be a list, a word each: no shell reads it."),
    ],
)
def test_wrong_options_are_refused_by_key_and_remedy(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(options)
    assert caught.value.message == message


def test_the_entry_is_named_and_none_counts_as_absent() -> None:
    good = {"type": "disk", "free_bytes": 1, "url": None}
    assert len(parse_checks([good, good])) == 2
    with pytest.raises(InputError) as caught:
        parse_checks([good, {"type": "disk", "name": "root", "free_bytes": -1}])
    assert caught.value.message == "checks[1] (root): free_bytes must be a whole number from 0 up."
    wrongs: list[Any] = [{"type": "disk"}, "disk"]
    for wrong in wrongs:
        with pytest.raises(InputError, match="checks must be a list of checks"):
            parse_checks(wrong)


@pytest.mark.parametrize(
    ("url", "peer", "path"),
    [
        ("http://x.test", "x.test:80", "/"),
        ("https://x.test", "x.test:443", "/"),
        ("https://x.test:8443/a/?b=c/d", "x.test:8443", "/a/?b=c/d"),
        ("http://[::1]:81/", "[::1]:81", "/"),
    ],
)
def test_urls(url: str, peer: str, path: str) -> None:
    check = parse({"type": "http", "url": url})
    assert isinstance(check, HttpCheck)
    assert (check.target.peer, check.path) == (peer, path)
