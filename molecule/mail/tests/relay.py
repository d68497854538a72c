"""A relay that speaks SMTP and keeps each message as a file; with a certificate over TLS, and it wants a password.

relay.py PORT DIRECTORY [CERTIFICATE KEY USER PASSWORD]
"""

from __future__ import annotations

import base64
import json
import socket
import socketserver
import ssl
import sys
from pathlib import Path

PORT, DIRECTORY = sys.argv[1:3]
CERTIFICATE, KEY, USER, PASSWORD = sys.argv[3:] or [""] * 4
INBOX = Path(DIRECTORY)


class Session(socketserver.StreamRequestHandler):
    """One connection, as far as RFC 5321 and RFC 4954 ask of a relay that takes everything from whom it knows."""

    def answer(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())

    def line(self) -> str:
        return self.rfile.readline().decode().strip()

    def handle(self) -> None:
        self.answer("220 relay.test")
        known, to = not CERTIFICATE, []
        while line := self.line():
            verb, _space, rest = line.partition(" ")
            match verb.upper():
                case "EHLO":
                    self.answer("250-relay.test")
                    self.answer("250 AUTH PLAIN LOGIN")
                case "AUTH":
                    known = self.knows(rest)
                    self.answer("235 welcome" if known else "535 who is that")
                case "RCPT":
                    to.append(rest.partition("<")[2].partition(">")[0])
                    self.answer("250 ok" if known else "530 who is that")
                case "DATA":
                    self.answer("354 go on")
                    lines = []
                    while (part := self.rfile.readline()) != b".\r\n":
                        lines.append(part.decode())
                    self.keep(to, "".join(lines))
                    self.answer("250 taken")
                case "QUIT":
                    self.answer("221 bye")
                    return
                case _:
                    self.answer("250 ok")

    def knows(self, asked: str) -> bool:
        kind, _space, first = asked.partition(" ")
        if kind.upper() == "PLAIN":
            if not first:
                self.answer("334 ")
                first = self.line()
            given = base64.b64decode(first).decode().split("\0")[1:]
        else:
            given = []
            for question in ("Username:", "Password:"):
                self.answer(f"334 {base64.b64encode(question.encode()).decode()}")
                given.append(base64.b64decode(self.line()).decode())
        return given == [USER, PASSWORD]

    @staticmethod
    def keep(to: list[str], text: str) -> None:
        number = sum(1 for _each in INBOX.iterdir())
        (INBOX / f"{number:04}.json").write_text(json.dumps({"to": to, "text": text}))


class Relay(socketserver.ThreadingTCPServer):
    """With a certificate each connection is TLS from its beginning."""

    allow_reuse_address = True
    daemon_threads = True

    def get_request(self) -> tuple[socket.socket, object]:
        channel, address = super().get_request()
        if not CERTIFICATE:
            return channel, address
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE, KEY)
        return context.wrap_socket(channel, server_side=True), address


INBOX.mkdir(parents=True, exist_ok=True)
Relay(("", int(PORT)), Session).serve_forever()
