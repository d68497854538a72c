"""Lines of the log that somebody must look into: counted, opened once for each cause, without secrets."""

from __future__ import annotations

import json
import logging
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _incidents, _tickets
from ansible_collections.backstay.ops.plugins.module_utils._application import parse
from ansible_collections.backstay.ops.plugins.module_utils._errors import InputError
from ansible_collections.backstay.ops.plugins.module_utils._notify import post_json

from .world import ALERTS, SECRET, MailServer, Webhook, World, described

URL = "https://tracker.example.org/issues"
PATTERNS = [
    {"name": "offline-sync", "match": "offline package .* failed"},
    {"name": "worker", "match": "job failed", "file": "worker.log"},
]


def tickets(**settings: Any) -> dict[str, Any]:
    return {**ALERTS, "patterns": PATTERNS, "tickets": {"kind": "webhook", "url": URL, **settings}}


def fails(
    world: World, package: str, *, why: str = "the checksum differs", file: str = "app.log", times: int = 1
) -> None:
    world.layout.logs.mkdir(parents=True, exist_ok=True)
    with (world.layout.logs / file).open("a") as log:
        for number in range(times):
            row = {
                "time": world.now.isoformat(),
                "logger": "portal.sync",
                "message": f"offline package {package} failed: {why}",
            }
            log.write(json.dumps({"message": f"request {number} of token={SECRET}"}) + "\n" + json.dumps(row) + "\n")


class Tracker:
    """Takes issues, unless it is away, or does not want those with words in their title."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.away = False
        self.refuses = ""

    def __call__(self, _url: str, body: bytes, *, headers: dict[str, str]) -> bytes:
        if self.away or (self.refuses and self.refuses in json.loads(body)["title"]):
            raise InputError(f"refused by the tracker with 401: the token is {SECRET}")
        self.got.append({**json.loads(body), "headers": headers})
        return b'{"url": "https://tracker.example.org/issues/1", "key": "OPS-1"}'


@pytest.fixture
def world(tmp_path: Path) -> World:
    return prepared(tmp_path)


def prepared(root: Path, **settings: Any) -> World:
    found = World(root, alerts=tickets(**settings))
    found.tracker = Tracker()
    fails(found, "0")
    found.minutes(1)
    assert found.tracker.got == [], "what was before nobody looked is no news"
    return found


def test_a_cause_becomes_one_ticket_with_its_excerpt_and_count(world: World) -> None:
    fails(world, "4711", times=3)
    world.minutes(3, lambda: fails(world, "4712"))
    (ticket,) = world.tracker.got
    assert ticket["title"].startswith("portal: offline-sync: portal.sync offline package 4711 failed")
    assert "4 times in the log of portal" in ticket["text"]
    assert "request 0 of" in ticket["text"], "what stood before it"
    assert SECRET not in json.dumps(ticket)
    known = json.loads(world.house.observed.read_text())["tickets"]["portal"]["causes"]
    assert [each["count"] for each in known.values()] == [6]
    assert SECRET not in world.house.observed.read_text()


def test_another_cause_is_another_ticket(world: World) -> None:
    fails(world, "1")
    fails(world, "2", why="the disk is full")
    world.minutes(2)
    assert len(world.tracker.got) == 2


def test_a_tracker_that_is_away_gets_it_later_and_once(world: World) -> None:
    world.tracker.away = True
    fails(world, "1")
    world.minutes(3)
    world.tracker.away = False
    world.minutes(3)
    assert len(world.tracker.got) == 1


def test_a_ticket_that_cannot_be_opened_is_told_once_and_that_it_works_again(world: World) -> None:
    world.tracker.away = True
    fails(world, "1")
    world.minutes(9)
    assert world.mailed == [], "a tracker may be away for a while"
    assert world.minutes(6) == ["portal/tickets"]
    assert len(world.texts()) == len(world.mailed) == 1, "both ways, for no way is declared"
    assert "Tickets of portal cannot be opened: refused by the tracker with 401" in world.texts()[0]
    assert SECRET not in world.texts()[0]
    world.tracker.away = False
    assert world.minutes(3) == []
    assert [text.partition("]")[0] for text in world.texts()] == ["*[WARN", "*[OVER"]


def test_who_wants_no_tickets_any_more_waits_for_none(world: World) -> None:
    world.tracker.away = True
    fails(world, "1")
    assert world.minutes(12) == ["portal/tickets"]
    world.describe(alerts=ALERTS)
    assert world.minutes(2) == []
    assert [each.incident.key for each in _incidents.opened(world.house, world.storage)] == []


def test_what_a_tracker_refuses_keeps_no_other_cause_from_being_opened(world: World) -> None:
    world.tracker.refuses = "the checksum"
    for why in ("the checksum differs", "the checksum is missing", "the disk is full", "it is too large"):
        fails(world, "1", why=why)
    world.minutes(4)
    assert len(world.tracker.got) == 2, [ticket["title"] for ticket in world.tracker.got]


def test_how_often_each_cause_was_seen_is_shown(world: World) -> None:
    assert _tickets.counted(world.house, world.storage) == []
    fails(world, "1", times=3)
    fails(world, "2", why="the disk is full")
    world.minutes(1)
    causes = _tickets.counted(world.house, world.storage, "portal")
    assert [(each["count"], each["pattern"]) for each in causes] == [(3, "offline-sync"), (1, "offline-sync")]
    line = _tickets.line_of(causes[0])
    assert line.startswith("3 times until ")
    assert line.endswith("offline package 1 failed: the checksum differs (https://tracker.example.org/issues/1)")
    assert _tickets.counted(world.house, world.storage, "harbour") == []
    world.house.observed.write_text("")
    assert _tickets.counted(world.house, world.storage) == []


# --- the example's own lines

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


@pytest.fixture
def portal_log(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes what the portal's `fail()` says (1.5.0.patch), by its own formatter."""
    settings = SimpleNamespace(RELEASE_ID="0002-1.5.0", VERSION="1.5.0")
    monkeypatch.setitem(sys.modules, "django.conf", ModuleType("django.conf"))
    monkeypatch.setattr(sys.modules["django.conf"], "settings", settings, raising=False)
    formatter = runpy.run_path(str(EXAMPLES / "audit_portal/portal/logs.py"))["JsonFormatter"]()

    def write(reason: str, package: str, detail: str = "", raised: Exception | None = None) -> None:
        trouble = None if raised is None else (type(raised), raised, None)
        record = logging.LogRecord("audits.offline", logging.ERROR, "", 0, "offline package failed", None, trouble)
        data = {"event": "offline_package_failed", "package": package, "device": f"device of {package}"}
        record.data = {**data, "reason": reason, "detail": detail}
        with (world.layout.logs / "app.log").open("a") as log:
            log.write(formatter.format(record) + "\n")

    world.describe(alerts={**tickets(), "patterns": [{"name": "offline-sync", "match": "offline package failed"}]})
    return write


def test_each_reason_for_which_a_package_of_the_portal_fails_is_a_ticket(
    world: World, portal_log: Callable[..., None]
) -> None:
    patch = (EXAMPLES / "audit_portal_versions/1.5.0.patch").read_text()
    (listed,) = re.findall(r"^\+`reason` \((.+?)\) and `detail`", patch, re.MULTILINE)
    reasons = re.findall(r"`([a-z-]+)`", listed)
    assert len(reasons) == 8
    for reason in reasons:
        portal_log(reason, "tablet-7-0001", "it says why")
        portal_log(reason, "another", "it says so in other words, and at length: " + "x y " * 70)
    world.minutes(3)
    titles = [ticket["title"] for ticket in world.tracker.got]
    wanted = [f"portal: offline-sync: audits.offline offline package failed {reason}" for reason in reasons]
    assert sorted(titles) == sorted(wanted)
    assert {each["count"] for each in _tickets.counted(world.house, world.storage)} == {2}


def test_what_the_portal_raised_tells_one_fault_of_its_own_from_another(
    world: World, portal_log: Callable[..., None]
) -> None:
    for raised in (OSError("disk full"), OSError("disk full"), ZeroDivisionError("division by zero")):
        portal_log("fault", "tablet-7-0001", "x" * 600, raised)
    world.minutes(1)
    ends = sorted(ticket["title"].partition(" failed ")[2] for ticket in world.tracker.got)
    assert ends == ["fault OSError: disk full", "fault ZeroDivisionError: division by zero"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"message": "it failed", "reason": "quota"}', "it failed quota"),
        ('{"message": "it failed", "data": {"reason": 7}, "logger": "sync"}', "sync it failed 7"),
        ('{"message": "it failed", "data": {"reason": {"a": "b"}}}', "it failed"),
        ('{"message": "it failed", "data": "quota"}', "it failed"),
        ('{"data": {"reason": "quota"}}', '{"data": {"reason": "quota"}}'),
        ("plain text", "plain text"),
    ],
)
def test_what_a_line_says(line: str, said: str) -> None:
    assert _tickets.message_of(line) == said


def test_a_secret_at_the_end_of_what_is_shown_of_a_line_is_not_half_there(world: World) -> None:
    with (world.layout.logs / "app.log").open("a") as log:
        log.write("offline package 1 failed: " + "x" * 460 + f" {SECRET}\n")
    world.minutes(1)
    assert SECRET[:8] not in json.dumps(world.tracker.got)


def test_each_file_has_its_own_patterns(world: World) -> None:
    (world.layout.logs / "worker.log").write_text("")
    world.minutes(1)
    (world.layout.logs / "worker.log").write_text("offline package 1 failed\njob failed: thumbnail\n")
    world.minutes(1)
    assert [ticket["title"] for ticket in world.tracker.got] == ["portal: worker: job failed: thumbnail"]


def test_a_storm_of_causes_does_not_flood_the_tracker(world: World) -> None:
    for number in range(40):
        fails(world, "1", why="".join(chr(97 + int(digit)) for digit in str(number)))
    world.minutes(1)
    assert len(world.tracker.got) == 5


SHAPES: dict[str, tuple[dict[str, Any], tuple[str, ...], tuple[str, str]]] = {
    "github": ({}, ("title", "body", "labels"), ("Authorization", f"Bearer {SECRET}")),
    "gitlab": ({}, ("title", "description", "labels"), ("PRIVATE-TOKEN", SECRET)),
    "jira": ({"project": "OPS"}, ("fields",), ("Authorization", f"Bearer {SECRET}")),
    "webhook": ({}, ("title", "text"), ("Authorization", f"Bearer {SECRET}")),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_each_tracker_gets_the_shape_that_it_knows(kind: str, tmp_path: Path) -> None:
    more, keys, (header, value) = SHAPES[kind]
    world = prepared(tmp_path, kind=kind, token="KEY", **more)
    fails(world, "1")
    world.minutes(1)
    (ticket,) = world.tracker.got
    assert ticket["headers"][header] == value
    assert set(ticket) == {*keys, "headers"}
    if kind == "jira":
        assert ticket["fields"]["project"] == {"key": "OPS"}
        assert ticket["fields"]["issuetype"] == {"name": "Bug"}


def test_tickets_go_over_the_wire_to_a_real_receiver(tmp_path: Path) -> None:
    with Webhook() as hook:
        world = World(tmp_path, alerts=tickets(kind="github", url=hook.url, token="KEY"))
        world.tracker = post_json
        fails(world, "0")
        world.minutes(1)
        fails(world, "1")
        world.minutes(2)
    assert [body["labels"] for _path, body in hook.got] == [["backstay"]]


def test_tickets_go_by_mail(tmp_path: Path) -> None:
    with MailServer() as server:
        world = World(tmp_path, alerts=tickets(kind="mail", url=None, mail="desk@example.org"))
        server.sendmail(world.house, sys.executable)
        fails(world, "0")
        world.minutes(1)
        fails(world, "1")
        world.minutes(2)
    assert [to for to, _text in server.messages] == [["desk@example.org"]]


@pytest.mark.parametrize(
    ("alerts", "sentence"),
    [
        ({**ALERTS, "patterns": PATTERNS}, "has nowhere to open a ticket"),
        (tickets(kind="jira"), "Jira asks for it"),
        (tickets(kind="mail", url=None), "has no `mail`"),
        (tickets(url=None), "has no `url`"),
        ({**tickets(), "patterns": [{"name": "x", "match": "("}]}, "a regular expression"),
        ({**tickets(), "patterns": [*PATTERNS, PATTERNS[0]]}, "for the second time"),
        ({**tickets(), "patterns": [{"name": "x", "match": "y", "file": "../auth.log"}]}, "a relative path without"),
        ({}, "names nobody"),
    ],
)
def test_what_could_not_work_is_refused(alerts: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        parse(described(alerts=alerts), file="portal.yml")
    assert sentence in "\n".join(refused.value.lines)
