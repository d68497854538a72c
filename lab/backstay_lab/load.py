"""The load generator: bounded, honest requests, never repeated, and what came back of them.

As a library: `with Load(Target.parse(url, ca=ca), seconds=60, rate=200) as load: ...` and `load.stop()` for the
`LoadResult`; `LoadProcess` is the same in a process of its own, so that it shares no lock with a busy test.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

from .errors import LabError
from .layout import CHECKOUT
from .load_connection import Answer, ClosedUnderUsError, Connection, RequestFailedError, trusting
from .load_profile import Profile, Target
from .load_result import LoadResult, Record, Write, fold

_MOST_ASSETS = 2000


@dataclass(frozen=True)
class Clients:
    """How many of each: connections kept, connections of one request, and clients of slow requests."""

    keepalive: int = 8
    single: int = 4
    slow: int = 2


class _Budget:
    """Hands out permission to ask: so many requests, until a time, evenly spread."""

    def __init__(self, requests: int, seconds: float, rate: float) -> None:
        self._lock = threading.Lock()
        self._left = requests
        self._interval = 1.0 / rate
        self._due = time.monotonic()
        self._last = self._due
        self._ends = self._due + seconds
        self._stopped = threading.Event()

    def take(self, *, paced: bool = True) -> bool:
        """Wait until the next request is due; false when there is none."""
        with self._lock:
            now = due = time.monotonic()
            if self._left <= 0 or self._stopped.is_set():
                return False
            if paced:
                due = max(self._due + self._interval, now - 0.5)  # catch up half a second, no more
            if due >= self._ends:
                return False
            self._left -= 1
            self._last = max(self._last, due)
            if paced:
                self._due = due
        return due <= now or not self._stopped.wait(due - now)

    def end(self) -> None:
        """No further request."""
        with self._lock:
            if not self._stopped.is_set():
                self._ends = min(self._ends, time.monotonic())
                self._stopped.set()

    @property
    def ended_at(self) -> float:
        """When the last request was due, or could have been."""
        return min(self._last, self._ends) if self._left <= 0 else self._ends


class _Assets:
    """Every asset named by a page that was served: it must be there for as long as the page may be open."""

    def __init__(self, prefix: str) -> None:
        self._pattern = re.compile(rb'(?:src|href)="(' + re.escape(prefix.encode()) + rb'[^"#?\s]+)')
        self._known: set[str] = set()
        self.paths: list[str] = []
        self._lock = threading.Lock()

    def learn(self, page: bytes) -> None:
        for found in self._pattern.findall(page):
            path = found.decode("latin-1")
            if path not in self._known and len(self.paths) < _MOST_ASSETS:
                with self._lock:
                    if path not in self._known:
                        self._known.add(path)
                        self.paths.append(path)


@dataclass
class _Form:
    path: str
    referer: str
    token: str
    cookie: str
    posts_left: int


class _Client:
    """One visitor. Its lists are its own until it has ended, so that no lock is in the way of a request."""

    def __init__(self, load: Load, number: int, *, keeps: bool, slow: bool) -> None:
        self._load = load
        self._profile = load.profile
        self._keeps = keeps
        self._slow = slow
        self._dice = random.Random(load.seed * 1000 + number)  # noqa: S311 - a mix of requests, not a secret
        self._connection = Connection(load.target, load.context)
        self._form: _Form | None = None
        self.records: list[Record] = []
        self.writes: list[Write] = []
        self.in_doubt: list[Write] = []
        self.closed_idle = 0
        self.failed = 0
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            while self._load.budget.take(paced=not self._slow):
                self._next()
        except Exception as error:  # noqa: BLE001 - kept for stop(), which raises it
            self.error = error
            self._load.budget.end()
        finally:
            self._connection.close()

    def _next(self) -> None:
        profile, assets = self._profile, self._load.assets
        if self._slow:
            self._ask("slow", self._fill(profile.slow_path), limit=profile.slow_limit_seconds)
            return
        kind = profile.kind(self._dice, assets_known=bool(assets.paths))
        if kind == "read":
            answer = self._ask("read", self._fill(self._dice.choice(profile.reads)))
            if answer is not None:
                assets.learn(answer.body)
        elif kind == "asset":
            self._ask("asset", self._dice.choice(assets.paths))
        elif self._form is None:
            self._open_form()
        else:
            self._post(self._form)

    def _fill(self, template: str) -> str:
        return template.format_map(self._profile.numbers(self._dice)) if "{" in template else template

    def _open_form(self) -> None:
        profile, numbers = self._profile, self._profile.numbers(self._dice)
        path = profile.form_path.format_map(numbers)
        answer = self._ask("form", path)
        if answer is None:
            return
        self._load.assets.learn(answer.body)
        field = re.escape(profile.csrf_field.encode())
        found = re.search(rb'name="' + field + rb'"[^>]*?value="([^"]+)"', answer.body)
        cookie = answer.cookies.get(profile.csrf_cookie, "")
        if found is None or not cookie:
            last = self.records[-1]
            self.failed += 1
            reason = f"the form has no {profile.csrf_field} or the answer no cookie {profile.csrf_cookie}"
            self.records[-1] = last._replace(reason=reason)
            return
        self._form = _Form(
            path=profile.post_path.format_map(numbers),
            referer=self._load.target.origin + path,
            token=found[1].decode("latin-1"),
            cookie=f"{profile.csrf_cookie}={cookie}",
            posts_left=max(1, profile.posts_per_form),
        )

    def _post(self, form: _Form) -> None:
        profile, token = self._profile, uuid.uuid4().hex
        values = {**profile.post_fields, profile.unique_field: token, profile.csrf_field: form.token}
        body = urlencode(values).encode()
        headers = (
            f"Cookie: {form.cookie}\r\nOrigin: {self._load.target.origin}\r\nReferer: {form.referer}\r\n"
            f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n"
        )
        form.posts_left -= 1
        answer = self._ask("write", form.path, method="POST", headers=headers, body=body, expected=profile.post_status)
        last = self.records[-1]
        write = Write(last.at, token, form.path, last.release)
        if answer is not None:
            self.writes.append(write)
        elif last.status == 0:
            self.in_doubt.append(write)
        if answer is None or form.posts_left <= 0:
            self._form = None

    def _ask(
        self,
        kind: str,
        path: str,
        *,
        method: str = "GET",
        headers: str = "",
        body: bytes = b"",
        expected: int = 200,
        limit: float | None = None,
    ) -> Answer | None:
        """One request, recorded; its answer when it is the expected one."""
        load, limit = self._load, limit or self._profile.limit_seconds
        if self._connection.was_closed_idle():
            self.closed_idle += 1
        head = f"{method} {path} HTTP/1.1\r\nHost: {load.target.authority}\r\n{load.common_headers}{headers}"
        head += "\r\n" if self._keeps else "Connection: close\r\n\r\n"
        answer, reason, closed = None, "", False
        began = time.monotonic()
        try:
            answer = self._connection.ask(head.encode("latin-1") + body, began + limit)
        except ClosedUnderUsError:
            closed = True
        except RequestFailedError as error:
            reason = f"{error} (limit {limit:g} s)"
        ended = time.monotonic()
        if not self._keeps:
            self._connection.close()
        if answer is not None and answer.status != expected:
            reason = f"{answer.status} instead of {expected}"
        status = answer.status if answer else 0
        release = answer.headers.get(self._profile.release_header, "") if answer else ""
        self.failed += bool(reason)
        at = load.epoch + ended
        self.records.append(Record(at, kind, path, status, ended - began, release, reason, closed))
        return None if reason else answer


class Load:
    """Requests of many clients from `start` until `stop`, or until the bounds are met.

    `requests`, `seconds` and `rate` (per second, of all but slow clients) are bounds, whichever comes first. Requests
    under way at the end are waited for. Raises `LabError` for bounds that leave nothing to do.
    """

    def __init__(
        self,
        target: Target,
        profile: Profile | None = None,
        *,
        requests: int = 1_000_000,
        seconds: float = 600.0,
        rate: float = 200.0,
        clients: Clients | None = None,
        seed: int = 1,
    ) -> None:
        if requests < 1 or seconds <= 0 or rate <= 0:
            raise LabError(
                f"The load needs at least one request, some time and a rate: got {requests}, {seconds}, {rate}."
            )
        self.target = target
        self.profile = profile or Profile()
        self.seed = seed
        self.context = trusting(target)
        self.assets = _Assets(self.profile.asset_prefix)
        self.common_headers = "User-Agent: backstay-lab-load\r\nAccept: text/html,*/*\r\n"
        self.epoch = 0.0
        self._bounds = (requests, seconds, rate)
        self._clients: list[_Client] = []
        self._threads: list[threading.Thread] = []
        self._began = 0.0
        chosen = clients or Clients()
        kinds = [(True, False)] * chosen.keepalive + [(False, False)] * chosen.single
        kinds += [(False, True)] * (chosen.slow if self.profile.slow_path else 0)
        self._kinds = kinds
        self.budget = _Budget(*self._bounds)

    def start(self) -> Self:
        self.epoch = time.time() - time.monotonic()
        self._began = time.monotonic()
        self.budget = _Budget(*self._bounds)
        for number, (keeps, slow) in enumerate(self._kinds):
            client = _Client(self, number, keeps=keeps, slow=slow)
            thread = threading.Thread(target=client.run, name=f"load-{number}", daemon=True)
            self._clients.append(client)
            self._threads.append(thread)
            thread.start()
        return self

    def request_stop(self) -> None:
        """No further request; does not wait."""
        self.budget.end()

    def stop(self) -> LoadResult:
        """No further request, and the result once those under way have ended."""
        self.request_stop()
        return self.wait()

    def wait(self) -> LoadResult:
        """The result when the bounds are met. Raises what a client could not handle."""
        for thread in self._threads:
            thread.join()
        for client in self._clients:
            if client.error is not None:
                raise client.error
        return fold(
            self.records(),
            began=self.epoch + self._began,
            asking_ended=self.epoch + self.budget.ended_at,
            closed_idle=sum(client.closed_idle for client in self._clients),
            writes=(write for client in self._clients for write in client.writes),
            writes_in_doubt=(write for client in self._clients for write in client.in_doubt),
        )

    @property
    def running(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def records(self) -> list[Record]:
        """Every request so far, by client."""
        return [record for client in self._clients for record in client.records]

    def snapshot(self) -> dict[str, Any]:
        """Cheap counters of the run so far."""
        return {
            "seconds": round(time.monotonic() - self._began, 1),
            "requests": sum(len(client.records) for client in self._clients),
            "failed": sum(client.failed for client in self._clients),
            "closed_idle": sum(client.closed_idle for client in self._clients),
        }

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.request_stop()
        for thread in self._threads:
            thread.join()


class LoadProcess:
    """`Load` in a process of its own; `options` are those of `lab/lab load`, such as `["--url", url]`."""

    def __init__(self, options: list[str]) -> None:
        self._options = options
        self._process: subprocess.Popen[str] | None = None
        self._latest: dict[str, Any] = {}
        self._result: LoadResult | None = None
        self._reader: threading.Thread | None = None

    def start(self) -> Self:
        command = [sys.executable, str(CHECKOUT / "lab" / "lab"), "load", *self._options, "--json", "--progress"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            if "result" in told:
                self._result = LoadResult.from_json(told["result"])
            else:
                self._latest = told["progress"]

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def snapshot(self) -> dict[str, Any]:
        """Counters, at most a second old."""
        return self._latest

    def stop(self) -> LoadResult:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> LoadResult:
        """The result. Raises `LabError` with the process's own words when it has none."""
        if self._process is None or self._reader is None:
            raise LabError("The load was never started.")
        self._reader.join()
        assert self._process.stderr is not None
        said = self._process.stderr.read().strip()
        self._process.wait()
        if self._result is None:
            raise LabError(f"The load ended without a result: {said or 'it said nothing'}.")
        return self._result

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
        if self._reader is not None:
            self._reader.join()


# The command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", required=True, help="what to ask, like https://portal.example")
    parser.add_argument("--connect", metavar="ADDRESS[:PORT]", help="connect there instead of resolving the name")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="the authority to trust (else the system's)")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="JSON with keys of Profile (else the portal's)")
    parser.add_argument("--requests", type=int, default=1_000_000, help="at most so many")
    parser.add_argument("--seconds", type=float, default=600.0, help="at most so long")
    parser.add_argument("--rate", type=float, default=200.0, help="at most so many a second")
    for kind, default in (("keepalive", 8), ("single", 4), ("slow", 2)):
        parser.add_argument(
            f"--{kind}", type=int, default=default, metavar="N", help=f"clients of this kind ({default})"
        )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--progress", action="store_true", help="a line every second")
    parser.add_argument("--records", type=Path, metavar="FILE", help="write every request there, as JSON lines")


def main(options: argparse.Namespace) -> int:
    """`lab/lab load`: 0 when no request failed, 1 otherwise."""
    target = Target.parse(options.url, connect=options.connect, ca=options.ca)
    load = Load(
        target,
        Profile.read(options.profile) if options.profile else None,
        requests=options.requests,
        seconds=options.seconds,
        rate=options.rate,
        clients=Clients(options.keepalive, options.single, options.slow),
        seed=options.seed,
    )
    asked_to_stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _frame: asked_to_stop.append(got))
    load.start()
    shown = time.monotonic()
    while load.running:
        time.sleep(0.05)
        if asked_to_stop:  # not in the handler, which may come while a lock is held
            load.request_stop()
        if options.progress and time.monotonic() - shown >= 1.0:
            shown += 1.0
            _show_progress(load.snapshot(), as_json=options.json)
    result = load.wait()
    if options.records:
        with options.records.open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(record._asdict()) + "\n" for record in sorted(load.records()))
    if options.json:
        whole = result.as_json()
        print(json.dumps({"result": whole}) if options.progress else json.dumps(whole), flush=True)
    else:
        print(summary(result))
    return 1 if result.failed else 0


def _show_progress(told: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"progress": told}), flush=True)
    else:
        print(f"{told['seconds']:6.1f} s  {told['requests']} requests, {told['failed']} failed", flush=True)


def summary(result: LoadResult) -> str:
    """The result for people."""
    releases = ", ".join(f"{name}: {count}" for name, count in result.by_release.items())
    asked = (
        f"{result.requests} requests in {result.seconds:.1f} s ({result.requests_per_second:.0f}/s): "
        f"{result.failed} failed, {result.closed_keepalive} keep-alive connections closed under a client "
        f"({result.closed_idle} idle, {result.closed_racing} asked)"
    )
    gap = f"longest gap {result.longest_gap_seconds * 1000:.0f} ms"
    lines = [
        asked,
        f"{gap}, p50 {result.p50_ms:.1f} ms, p99 {result.p99_ms:.1f} ms",
        f"{len(result.writes)} writes acknowledged, {len(result.writes_in_doubt)} in doubt",
        f"answered by {releases or 'nobody'}",
    ]
    lines += [f"  failed: {told['kind']} {told['path']}: {told['reason']}" for told in result.failures]
    return "\n".join(lines)
