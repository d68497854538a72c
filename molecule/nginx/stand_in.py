"""A release that answers with what it was asked: its id in a header, the request's headers as JSON."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import socketserver
import sys
import time
from pathlib import Path


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.startswith("/slow"):
            time.sleep(2)
        answer = json.dumps({"path": self.path, "headers": dict(self.headers), "received": len(body)}).encode()
        self.send_response(503 if self.path.startswith("/sick") else 200)
        self.send_header("X-Release-Id", sys.argv[1])
        self.send_header("X-Frame-Options", "SAMEORIGIN")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET  # noqa: N815 - the name http.server calls

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        pass


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 512


path = Path("/run/harbour", sys.argv[1], "web.sock")
path.parent.mkdir(parents=True, exist_ok=True)
path.unlink(missing_ok=True)
server = Server(str(path), Handler)
path.chmod(0o666)
shutil.chown(path.parent, "root", "www-data")
path.parent.chmod(0o2710)
os.umask(0o027)
server.serve_forever()
