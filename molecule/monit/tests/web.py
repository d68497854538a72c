"""What a release answers, as far as the watch needs it: well; 503 where the file `unwell` lies beside it; and nothing,
to whoever connects, as long as the file `hung` does.

web.py SOCKET
"""

from __future__ import annotations

import contextlib
import socketserver
import sys
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

SOCKET = Path(sys.argv[1])
UNWELL, HUNG = (Path(__file__).with_name(name) for name in ("unwell", "hung"))


class Handler(BaseHTTPRequestHandler):
    """Any path."""

    def do_GET(self) -> None:
        while HUNG.exists():
            time.sleep(0.1)
        self.send_response(503 if UNWELL.exists() else 200)
        self.send_header("X-Release-Id", "0001-1.0.0")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def address_string(self) -> str:
        return "nginx"


class Server(socketserver.ThreadingUnixStreamServer):
    """On a unix socket that everybody who may enter its directory may use."""

    daemon_threads = True


with contextlib.suppress(FileNotFoundError):
    SOCKET.unlink()
server = Server(str(SOCKET), Handler)
SOCKET.chmod(0o666)
server.serve_forever()
