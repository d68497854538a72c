"""A host with visitors that never was: it writes the front door's log, the journal and the counters as time passes.

The log's lines come from the very format in the role's template, so a field that is renamed there fails here.
"""

from __future__ import annotations

import heapq
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from ansible_collections.backstay.ops.plugins.module_utils._application import Watch
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._http import Answer, Target
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._prober import Prober
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed
from ansible_collections.backstay.ops.plugins.module_utils._watch import Judgement, watch

TEMPLATE = Path(__file__).parents[3] / "roles" / "nginx" / "templates" / "http.conf.j2"
NAME = "portal"
PREVIOUS, CANDIDATE = "0001-1.0.0", "0002-1.1.0"
BEGAN = datetime(2026, 11, 21, 10, 0, tzinfo=UTC).timestamp()
PROCESSES = ("web", "worker")


@cache
def log_format() -> str:
    """The format of a line, from the template."""
    text = TEMPLATE.read_text(encoding="utf-8")
    declared = re.search(r"log_format backstay escape=json\s+(.*?);", text, re.DOTALL)
    assert declared, f"{TEMPLATE} declares no log_format backstay"
    return "".join(re.findall(r"'([^']*)'", declared[1]))


@cache
def template() -> tuple[str, dict[str, str]]:
    """The format for `%`, and every variable without a value."""
    names = re.findall(r"\$([a-z0-9_]+)", log_format())
    return re.sub(r"\$([a-z0-9_]+)", r"%(\1)s", log_format().replace("%", "%%")), dict.fromkeys(names, "")


def nginx_line(**values: Any) -> str:
    """One line as nginx writes it; empty where a variable has no value."""
    text, empty = template()
    unknown = set(values) - set(empty)
    assert not unknown, f"{TEMPLATE} has no ${unknown.pop()} in its log_format"
    return text % {**empty, **values}


@dataclass
class Visit:
    """One request on its way through a world: what the behaviour of a release may change."""

    at: float  # seconds since the switch; before it, less than 0
    method: str
    path: str
    client: str
    kind: str
    status: int = 200
    seconds: float = 0.05
    answered: bool = True  # False: the application gave no answer of its own
    dice: random.Random = field(default_factory=random.Random)


Behaviour = Callable[[Visit], None]
# kind, method, path, weight, usual seconds
PAGES = (
    ("portal", "GET", "/", 30, 0.05),
    ("list", "GET", "/audits/", 22, 0.08),
    ("detail", "GET", "/audits/{id}/", 20, 0.04),
    ("form", "GET", "/audits/{id}/findings/new/", 9, 0.03),
    ("post", "POST", "/audits/{id}/findings/", 9, 0.06),
    ("report", "GET", "/reports/slow/", 4, 3.0),
    ("static", "GET", "/static/portal.1a2b3c4d5e6f.css", 6, 0.0),
)


def well(visit: Visit) -> None:
    """A release without faults of its own."""


@dataclass(frozen=True)
class Scenario:
    """What happens around one switch. Times are seconds since it; a rate is requests per second."""

    name: str
    after: Behaviour = well
    before: Behaviour = well
    rate: Callable[[float], float] = lambda at: 6.0
    seconds: float = 60.0
    history_seconds: int = 100
    clients: int = 30
    restarts: Callable[[str, float], int] = lambda process, at: 0
    failed_unit: Callable[[float], bool] = lambda at: False
    journal_before: Sequence[tuple[float, str, str]] = ()  # when, process, line
    journal_after: Sequence[tuple[float, str, str]] = ()
    probe: Callable[[float], tuple[int | None, float]] = lambda at: (
        200,
        0.02,
    )  # status, None: no answer, 0: closed; seconds
    rotate_at: float | None = None
    policy: dict[str, Any] = field(default_factory=dict)
    because: str = ""  # for bad ones: what the reasons must say


class World:
    """Plays a scenario on a clock of its own, through the same files and commands as on a host."""

    def __init__(self, scenario: Scenario, directory: Path, seed: int = 20261121) -> None:
        self.scenario = scenario
        self.dice = random.Random(f"{seed} {scenario.name}")
        self.layout = Layout(NAME, directory)
        self.log = directory / "var" / "log" / "nginx" / f"{NAME}.access.log"
        self.log.parent.mkdir(parents=True)
        self.layout.units.mkdir(parents=True)
        for release in (PREVIOUS, CANDIDATE):
            for process in PROCESSES:
                (self.layout.units / self.layout.unit(release, process)).touch()
        self.now = float(-scenario.history_seconds)
        self.next_visit = self.now
        self.next_probe = -10.0
        self.under_way: list[tuple[float, int, str]] = []
        self.count = 0
        self.said: list[str] = []
        self.rotated = False
        self.prober = Prober(
            Target.tcp("127.0.0.1", 443, tls=True, server_name="portal.test", verify=False),
            "/healthz/",
            ask=self.ask,
            clock=lambda: self.now,
        )
        self.file = self.log.open("a", encoding="utf-8")
        self.advance(0.0)
        # `verify` leaves lines of the candidate: the health check's, which count for nothing.
        self.write(self.line(Visit(0.0, "GET", "/healthz/", "127.0.0.1", "health"), CANDIDATE, "backstay-health"))

    # time

    def sleep(self, seconds: float) -> None:
        self.advance(self.now + seconds)

    def advance(self, until: float) -> None:
        while True:
            probe = min(until, self.next_probe)
            visit = min(until, self.next_visit)
            self.now = min(probe, visit, until)
            self._finish(self.now)
            if self.now >= until:
                break
            if visit <= probe:
                self._visit()
                rate = self.scenario.rate(self.now)
                self.next_visit += self.dice.expovariate(rate) if rate > 0 else 5.0
            else:
                began = self.now
                self.prober.probe()
                self.next_probe = max(began + 0.5, self.now)
        self.file.flush()
        if self.scenario.rotate_at is not None and self.now >= self.scenario.rotate_at and not self.rotated:
            self._rotate()

    def _rotate(self) -> None:
        """What logrotate does: rename, then tell nginx, which goes on in the old file for a moment."""
        self.rotated = True
        self.log.rename(self.log.with_name(self.log.name + ".1"))
        self.write(self.line(Visit(self.now, "GET", "/", "10.0.0.1", "portal"), self.release(self.now)))
        self.file.close()
        self.file = self.log.open("a", encoding="utf-8")

    def _finish(self, until: float) -> None:
        while self.under_way and self.under_way[0][0] <= until:
            self.write(heapq.heappop(self.under_way)[2])

    # visitors

    @staticmethod
    def release(at: float) -> str:
        return PREVIOUS if at < 0 else CANDIDATE

    def _visit(self) -> None:
        kind, method, path, _weight, usual = self.dice.choices(PAGES, weights=[page[3] for page in PAGES])[0]
        visit = Visit(
            self.now,
            method,
            path.format(id=self.dice.randint(1, 10000)),
            f"10.1.0.{self.dice.randint(1, self.scenario.clients)}",
            kind,
            status=302 if method == "POST" else 200,
            seconds=usual * self.dice.lognormvariate(0.0, 0.35),
            dice=self.dice,
        )
        if kind != "static":
            (self.scenario.before if self.now < 0 else self.scenario.after)(visit)
        self.count += 1
        line = self.line(visit, self.release(self.now))
        heapq.heappush(self.under_way, (self.now + visit.seconds, self.count, line))

    def line(self, visit: Visit, release: str, agent: str = "Mozilla/5.0 (X11; Linux x86_64)") -> str:
        application = visit.kind not in {"static", "nginx"}
        stamp = datetime.fromtimestamp(int(BEGAN + visit.at + visit.seconds), UTC)
        return nginx_line(
            time_iso8601=stamp.isoformat(),
            request_id=f"{self.count:032x}",
            remote_addr=visit.client,
            host="portal.test",
            request_method=visit.method,
            backstay_path=visit.path,
            server_protocol="HTTP/2.0",
            status=visit.status,
            body_bytes_sent=4321,
            request_time=f"{visit.seconds:.3f}",
            upstream_response_time=f"{visit.seconds:.3f}" if application else "",
            upstream_addr=f"unix:/opt/{NAME}/active" if application else "",
            upstream_status=visit.status if application else "",
            upstream_http_x_release_id=release if application and visit.answered else "",
            http_referer="https://portal.test/",
            http_user_agent=agent,
        )

    def write(self, line: str) -> None:
        self.file.write(line + "\n")

    # the host

    def ask(self, target: Target, path: str, **_options: Any) -> Answer:
        status, seconds = self.scenario.probe(self.now)
        self.now += seconds
        if status is None:
            raise BackstayError(f"no answer from {target.peer} within 5 s")
        if status == 0:  # the maintenance page
            return Answer(503, {"retry-after": "120"}, b"", seconds, target.peer)
        return Answer(status, {"x-release-id": self.release(self.now)}, b"", seconds, target.peer)

    def runner(self, arguments: Sequence[str], **_options: Any) -> Completed:
        answer = self._systemctl(arguments) if arguments[0] == "systemctl" else self._journalctl(arguments)
        return Completed(tuple(arguments), 0, answer, "")

    def _systemctl(self, arguments: Sequence[str]) -> str:
        blocks = []
        for unit in arguments[arguments.index("--") + 1 :]:
            process = unit.removesuffix(".service").rpartition("-")[2]
            failed = process == "web" and self.scenario.failed_unit(self.now)
            state = "failed" if failed else "active"
            blocks.append(f"Id={unit}\nActiveState={state}\nNRestarts={self.scenario.restarts(process, self.now)}\n")
        return "\n".join(blocks)

    def _journalctl(self, arguments: Sequence[str]) -> str:
        units = {argument.partition("=")[2] for argument in arguments if argument.startswith("--unit=")}
        entries = []
        for release, lines in ((PREVIOUS, self.scenario.journal_before), (CANDIDATE, self.scenario.journal_after)):
            for at, process, text in lines:
                unit = self.layout.unit(release, process)
                if unit in units and at <= self.now:
                    stamp = str(int((BEGAN + at) * 1e6))
                    entry = {"__REALTIME_TIMESTAMP": stamp, "MESSAGE": text, "PRIORITY": "6", "_SYSTEMD_UNIT": unit}
                    entries.append((at, json.dumps(entry)))
        return "\n".join(text for _at, text in sorted(entries))

    def watch(self) -> Judgement:
        """The watch of the library, through this world's files, commands and clock."""
        policy = Watch(**{"seconds": self.scenario.seconds, **self.scenario.policy})
        try:
            return watch(
                self.layout,
                candidate=CANDIDATE,
                previous=PREVIOUS,
                policy=policy,
                prober=self.prober,
                switched_at=0.0,
                runner=self.runner,
                say=self.said.append,
                sleep=self.sleep,
                clock=lambda: self.now,
            )
        finally:
            self.file.close()


def django_error(logger: str, message: str, exception: str, *, line: int = 40, release: str = CANDIDATE) -> str:
    """A line as the example application's formatter writes it."""
    trace = (
        "Traceback (most recent call last):\n"
        f'  File "/opt/portal/environments/ab12/lib/python3.13/site-packages/django/core/handlers/base.py", line 197,'
        " in _get_response\n    response = wrapped_callback(request)\n"
        f'  File "/opt/portal/releases/{release}/code/audits/views.py", line {line}, in finding_create\n'
        f"    raise ValueError\n{exception}"
    )
    return json.dumps({"level": "error", "logger": logger, "message": message, "exception": trace})
