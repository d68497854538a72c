"""`python -m smoke`: exit code 0 when all is well, 1 when a check failed, 2 when it was called wrongly."""

from __future__ import annotations

import argparse
import json
import sys
from urllib.parse import urlsplit

from smoke.checks import Visit, report, run
from smoke.client import Target


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="smoke", description="Look at a deployed audit portal; read only.")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--base", metavar="URL", help="the front door, https://host[:port]")
    where.add_argument("--unix", metavar="PATH", help="the socket of one release; needs --host")
    parser.add_argument("--host", metavar="NAME", help="the Host to ask for (default: the one in --base)")
    parser.add_argument(
        "--ca", metavar="FILE", default="", help="certificates to trust instead of the system's"
    )
    parser.add_argument(
        "--connect", metavar="ADDRESS[:PORT]", default="", help="connect there, verify the name in --base"
    )
    parser.add_argument("--release-id", metavar="ID", default="", help="the release that must answer")
    parser.add_argument("--version", metavar="X.Y.Z", default="", help="the version the page must show")
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=float, default=10.0, help="for each request (10)"
    )
    given = parser.parse_args(arguments)
    if given.unix and not given.host:
        parser.error("--unix needs --host: the portal answers to its own name only")
    if given.base and urlsplit(given.base).scheme not in {"http", "https"}:
        parser.error(f"--base {given.base!r} is no address: write https://host")
    target = Target(
        host=given.host or urlsplit(given.base).netloc,
        base=given.base or "",
        ca=given.ca,
        connect=given.connect,
        unix=given.unix or "",
        timeout_seconds=given.timeout,
    )
    visit = Visit(target, release_id=given.release_id, version=given.version)
    answer = report(visit, run(visit))
    print(json.dumps(answer, indent=2))
    return 0 if answer["status"] == "pass" else 1


if __name__ == "__main__":
    sys.exit(main())
