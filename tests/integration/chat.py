"""What the tests of messages need on a host: a chat that keeps what it is told, and slow and broken pages for nginx.

chat.py PORT FILE     POST keeps the text, a line of JSON each; GET /broken answers 500, GET /slow?1.3 after 1.3 s
"""

from __future__ import annotations

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PORT, KEPT = int(sys.argv[1]), Path(sys.argv[2])


class Handler(BaseHTTPRequestHandler):
    """Any path."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with KEPT.open("a", encoding="utf-8") as file:
            file.write(json.dumps(body["text"]) + "\n")
        self._say(200)

    def do_GET(self) -> None:
        path, _mark, rest = self.path.rpartition("/")[2].partition("?")
        time.sleep(float(rest.partition("&")[0]) if path == "slow" else 0)
        self._say(500 if path == "broken" else 200)

    def _say(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_unused: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Which keeps many waiting, as visitors come."""

    request_queue_size = 128


KEPT.touch()
Server(("127.0.0.1", PORT), Handler).serve_forever()
