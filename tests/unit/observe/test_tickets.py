"""Lines of the log that somebody must look into: counted, opened once for each cause, without secrets."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._application import parse
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, InputError
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
    """Takes issues, unless it is away."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.away = False

    def __call__(self, _url: str, body: bytes, *, headers: dict[str, str]) -> bytes:
        if self.away:
            raise BackstayError("the tracker answered 503")
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
