"""A host in a directory: its /proc, its log, its applications, and a clock that tests move; receivers that are real."""

from __future__ import annotations

import datetime as dt
import json
import os
import socketserver
import stat
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from ansible_collections.backstay.ops.plugins.module_utils._application import Application, parse, to_dict
from ansible_collections.backstay.ops.plugins.module_utils._house import House
from ansible_collections.backstay.ops.plugins.module_utils._incidents import Incident
from ansible_collections.backstay.ops.plugins.module_utils._ledger import Ledger
from ansible_collections.backstay.ops.plugins.module_utils._observe import Answered, Observer, Outline
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed, run
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage

START = dt.datetime(2026, 11, 21, 8, 0, tzinfo=dt.UTC)
GIB = 1 << 30
SECRET = "s3cr3t-of-the-portal"
ALERTS = {"mail": ["ops@example.org"], "chat": "CHAT_URL"}

# What sendmail is on a host: here a program that hands everything to an SMTP server, as a relay's client does.
SENDMAIL = """#!{python} -IS
import smtplib, sys
from email import message_from_bytes
from email.policy import default
content = sys.stdin.buffer.read()
message = message_from_bytes(content, policy=default)
with smtplib.SMTP("127.0.0.1", {port}, timeout=5) as server:
    server.sendmail("root@host.test", [str(message["To"])], content)
"""


class Disk(Storage):
    """A disk that syncs nothing: these tests are about what is written, and power cuts have tests of their own."""

    def _create(self, path: Path, content: bytes, mode: int) -> None:
        path.write_bytes(content)
        path.chmod(mode)

    def _append(self, path: Path, content: bytes, mode: int) -> None:
        with path.open("ab") as file:
            file.write(content)
        path.chmod(mode)

    def _sync_file(self, path: Path) -> None:
        pass

    def _sync_directory(self, path: Path) -> None:
        pass


def described(**more: Any) -> dict[str, Any]:
    return {
        "format": 1,
        "name": "portal",
        "domain": "portal.example.org",
        "source": {"repository": "/srv/portal.git"},
        "runtime": {"settings": "portal.settings", "wsgi": "portal.wsgi:application"},
        "processes": {"web": {}},
        "alerts": ALERTS,
        **more,
    }


class World:
    """One host with the application `portal`, that is well until a test says otherwise."""

    def __init__(self, root: Path, **more: Any) -> None:
        self.root = root
        self.house = House(root)
        self.storage = Disk()
        self.now = START
        self.why = ""  # why the front door does not answer
        self.failed: list[str] = []
        self.restarts = {"nginx.service": 0, "portal-0001-1.0.0-web.service": 0}
        self.page_timer = "LoadState=loaded\nActiveState=active"
        self.used = 0.4
        self.until = START + dt.timedelta(days=60)
        self.busy = self.total = 1000
        self.cpu = 0.1
        self.pace = 60  # seconds from look to look
        self.asked = 0
        self.posted: list[tuple[str, str]] = []
        self.mailed: list[str] = []  # where no test put a real sendmail in its place
        self.chat: Callable[[str, bytes], object] = self._post
        self.tracker: Any = None
        self.layout = self.house.layout("portal")
        self.describe(**more)
        self.layout.home.mkdir(parents=True)
        self.layout.state.mkdir(parents=True)
        self.layout.active.symlink_to("/run/portal/0001-1.0.0/web.sock")
        self.know("https://chat.example.org/hook/T0P")
        self._place("usr/sbin/sendmail", "")
        self._place("proc/loadavg", "0.20 0.10 0.05 1/200 4242\n")
        self._place("proc/meminfo", "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 700 kB\n")
        self._place("proc/self/mountinfo", "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n")
        self.log = self._place("var/log/nginx/portal.access.log", "")
        self.ledger = Ledger(self.layout.ledger, self.storage, lambda: f"{self.now.isoformat()}")

    def describe(self, **more: Any) -> Application:
        self.application = parse(described(**more), file="portal.yml")
        self._place("etc/backstay/portal/application.json", json.dumps(to_dict(self.application)))
        return self.application

    def neighbour(self, name: str) -> None:
        """Another application of this host, live and as well as the first."""
        other = parse(described(name=name, domain=f"{name}.example.org"), file=f"{name}.yml")
        self._place(f"etc/backstay/{name}/application.json", json.dumps(to_dict(other)))
        layout = self.house.layout(name)
        layout.home.mkdir(parents=True)
        layout.state.mkdir(parents=True)
        layout.active.symlink_to(f"/run/{name}/0001-1.0.0/web.sock")
        self._place(f"var/log/nginx/{name}.access.log", "")

    def know(self, chat: str) -> None:
        """The secrets from Vault, with the address of the chat."""
        values = {"KEY": SECRET, "CHAT_URL": chat}
        self.layout.secrets_file.write_text(json.dumps({"format": 1, "values": values}))

    def _place(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def _post(self, url: str, body: bytes) -> None:
        self.posted.append((url, json.loads(body)["text"]))

    def texts(self) -> list[str]:
        return [text for _url, text in self.posted]

    def visit(
        self, count: int, *, status: int = 200, seconds: float = 0.05, path: str = "/", agent: str = "Firefox"
    ) -> None:
        """Lines of nginx's log, as role nginx writes them."""
        with self.log.open("a") as log:
            for number in range(count):
                row = {
                    "time": self.now.isoformat(),
                    "remote_addr": f"192.0.2.{number % 250}",
                    "method": "GET",
                    "uri": path,
                    "status": status,
                    "upstream_seconds": f"{seconds}",
                    "upstream_addr": "unix:/opt/portal/active",
                    "release": "0001-1.0.0",
                    "user_agent": agent,
                }
                log.write(json.dumps(row) + "\n")

    def run(self, arguments: Sequence[str], **given: Any) -> Completed:
        if arguments[:2] == ["systemctl", "show"]:
            text = "\n".join(f"Id={unit}\nNRestarts={count}\n" for unit, count in self.restarts.items())
            text += f"\nId=backstay-page.timer\n{self.page_timer}\n"
            return Completed(tuple(arguments), 0, text, "")
        if arguments[0] == "systemctl":
            text = "".join(f"{unit} loaded failed failed {unit}\n" for unit in self.failed)
            return Completed(tuple(arguments), 0, text, "")
        if self.house.sendmail.stat().st_size == 0:
            self.mailed.append(given["stdin"])
            return Completed(tuple(arguments), 0, "", "")
        return run(arguments, **given)

    def subjects(self) -> list[str]:
        return [_subject(text) for text in self.mailed]

    def ask(self, _unused: Application) -> Answered:
        self.asked += 1
        return Answered(0.01, self.why)

    def certificate(self, _unused: Application) -> tuple[str, str]:
        return (self.until - dt.timedelta(days=90)).isoformat(), self.until.isoformat()

    def statvfs(self, _unused: str) -> os.statvfs_result:
        blocks = 100 * GIB // 4096
        free = int(blocks * (1 - self.used))
        return os.statvfs_result((4096, 4096, blocks, free, free, 1000, 900, 900, 0, 255))

    def observe(self) -> Outline:
        """The next minute, or whenever somebody looks next."""
        self.now += dt.timedelta(seconds=self.pace)
        self.total += 100 * self.pace
        self.busy += round(100 * self.pace * self.cpu)
        idle = self.total - self.busy
        self._place("proc/stat", f"cpu {self.busy} 0 0 {idle} 0 0 0 0 0 0\n")
        observer = Observer(
            self.house,
            self.storage,
            runner=self.run,
            now=lambda: self.now,
            ask=self.ask,
            certificate=self.certificate,
            sleep=lambda _seconds: None,
            statvfs=self.statvfs,
            post=self.chat,
            post_ticket=self.tracker,
        )
        return observer.run()

    def minutes(self, count: int, each: Callable[[], None] = lambda: None) -> list[str]:
        """So many minutes; the keys that were crossed in the last one."""
        done = None
        for _unused in range(count):
            each()
            done = self.observe()
        return [verdict.key for verdict in done.crossed] if done else []


def _subject(text: str) -> str:
    return next(line for line in text.splitlines() if line.startswith("Subject: ")).removeprefix("Subject: ")


def incident(key: str = "portal/jobs:retention", sentence: str = "It failed") -> Incident:
    return Incident(key, "warn", "portal", sentence, "backstay jobs portal")


class MailServer:
    """A real SMTP server on the loopback, as far as RFC 5321 asks of one that takes everything."""

    def __init__(self) -> None:
        self.messages: list[tuple[list[str], str]] = []
        self.refuses = False
        outer = self

        class Session(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                outer.session(self)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Session)
        self.port = int(self._server.server_address[1])

    def session(self, channel: socketserver.StreamRequestHandler) -> None:
        def answer(text: str) -> None:
            channel.wfile.write(f"{text}\r\n".encode())

        answer("220 mail.test")
        to: list[str] = []
        for raw in iter(channel.rfile.readline, b""):
            line = raw.decode().strip()
            verb = line[:4].upper()
            if verb == "RCPT":
                to.append(line.partition("<")[2].partition(">")[0])
                answer("451 not now" if self.refuses else "250 ok")
            elif verb == "DATA":
                answer("354 go on")
                body = [part.decode() for part in iter(channel.rfile.readline, b".\r\n")]
                self.messages.append((to, "".join(body).replace("\r\n", "\n")))
                answer("250 taken")
            elif verb == "QUIT":
                answer("221 bye")
                return
            else:
                answer("250 ok")

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_unused: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def sendmail(self, house: House, python: str) -> None:
        """Put a sendmail onto the host that hands mail to this server."""
        house.sendmail.parent.mkdir(parents=True, exist_ok=True)
        house.sendmail.write_text(SENDMAIL.format(python=python, port=self.port))
        house.sendmail.chmod(stat.S_IRWXU)

    def subjects(self) -> list[str]:
        return [_subject(text) for _to, text in self.messages]


class Webhook:
    """A real receiver of webhooks."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, Any]]] = []
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if outer.status == 200:
                    outer.got.append((self.path, json.loads(body)))
                self.send_response(outer.status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_unused: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/services/T0/B0/very-secret-path"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_unused: object) -> None:
        self._server.shutdown()
        self._server.server_close()
