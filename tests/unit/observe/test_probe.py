"""A host watches others: minutes up and down, one message when one is away and one when it is back, never flapping."""

from __future__ import annotations

import datetime as dt
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import (
    _cli,
    _cli_watch,
    _house,
    _observe,
    _outside,
    _probe,
)
from ansible_collections.backstay.ops.plugins.module_utils._cells import uptime
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, Busy, InputError
from ansible_collections.backstay.ops.plugins.module_utils._house import House, ProbeHouse
from ansible_collections.backstay.ops.plugins.module_utils._http import Answer, Target
from ansible_collections.backstay.ops.plugins.module_utils._incidents import acknowledge, opened, raise_
from ansible_collections.backstay.ops.plugins.module_utils._lock import Lock
from ansible_collections.backstay.ops.plugins.module_utils._notify import SPOOL, relay_trouble
from ansible_collections.backstay.ops.plugins.module_utils._outside import Record, Seen, Watched, minutes, noted
from ansible_collections.backstay.ops.plugins.module_utils._probe import Probe
from ansible_collections.backstay.ops.plugins.module_utils._prober import USER_AGENT
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed

from .world import START, Disk, Webhook, World, _subject, incident

CHAT = "https://chat.example.org/hook/very-secret-path"
UP, DOWN = Seen("up", seconds=0.02, answered=True), Seen("down", "no answer from portal.example.org:443 within 4 s")
ILL = Seen("down", "/healthz/ answered 502, expected 200", answered=True)
CLOSED = Seen("maintenance", "it answers with the maintenance page", answered=True)


def target(application: str = "portal", host: str = "app1", **more: Any) -> dict[str, Any]:
    return {
        "application": application,
        "host": host,
        "address": f"{host}.internal",
        "domain": f"{application}.example.org",
        "path": "/healthz/",
        "alerts": {"mail": [f"{application}@example.org"]},
        **more,
    }


class Post:
    """A probe's host in a directory; what it sees is what a test says."""

    def __init__(self, root: Path, *targets: dict[str, Any], **more: Any) -> None:
        self.house, self.disk, self.now = ProbeHouse(root), Disk(), START
        self.seen: dict[str, Seen] = {}
        self.away = ""
        self.mailed: list[str] = []
        self.post: Callable[[str, bytes], object] | None = None
        self.house.sendmail.parent.mkdir(parents=True)
        self.house.sendmail.touch()
        self.declare(*(targets or (target(),)), **more)

    def declare(self, *targets: dict[str, Any], **more: Any) -> None:
        self.house.targets.parent.mkdir(parents=True, exist_ok=True)
        self.house.targets.write_text(json.dumps({"format": 1, "probe": "probe1", "targets": targets, **more}))

    def _sendmail(self, arguments: Any, **given: Any) -> Completed:
        self.mailed.append(given["stdin"])
        return Completed(tuple(arguments), 0, "", "")

    @property
    def probe(self) -> Probe:
        return Probe(
            self.house,
            self.disk,
            runner=self._sendmail,
            now=lambda: self.now,
            ask=lambda watched: self.seen[watched.name],
            away=lambda: self.away,
            post=self.post,
        )

    def rounds(self, *seen: Seen, minutes: float = 1) -> _probe.Round:
        """A round each minute in which every target is so."""
        done = None
        for each in seen:
            self.now += dt.timedelta(minutes=minutes)
            names = [watched.name for watched in self.probe.declared().targets]
            self.seen = dict.fromkeys(names, each)
            done = self.probe.round()
        assert done is not None
        return done

    def subjects(self) -> list[str]:
        return [_subject(text) for text in self.mailed]

    def open(self) -> list[str]:
        return [each.incident.key for each in opened(self.house, self.disk)]

    def only(self) -> dict[str, Any]:
        return self.probe.facts()[0]


# --- incidents and messages


def test_one_message_when_it_is_away_and_one_when_it_is_back(tmp_path: Path) -> None:
    post = Post(tmp_path)
    post.rounds(UP, UP)
    assert post.mailed == []
    post.rounds(DOWN)
    assert len(post.mailed) == 1, "the round that saw it tells it"
    assert "[PAGE]" in post.subjects()[0]
    assert "portal@app1 is not there for visitors: no answer" in post.subjects()[0]
    assert "First: ping -c3 app1.internal" in post.mailed[0]
    post.rounds(DOWN, DOWN, UP)
    assert len(post.mailed) == 1, "once up may be an accident"
    post.rounds(UP, UP)
    assert len(post.mailed) == 2
    assert "[OVER]" in post.subjects()[1]
    assert "portal@app1 answers again." in post.mailed[1]


def test_what_comes_and_goes_is_one_incident(tmp_path: Path) -> None:
    post = Post(tmp_path)
    post.rounds(UP, *(DOWN, UP) * 10)
    assert post.open() == ["portal@app1/health:outside"]
    assert len(post.mailed) == 1


def test_the_incidents_of_the_host_itself_are_left_alone(tmp_path: Path) -> None:
    post = Post(tmp_path)
    post.rounds(UP, DOWN)
    assert opened(House(tmp_path), post.disk) == ()
    assert House(tmp_path).outbox != post.house.outbox


def test_a_list_of_incidents_that_cannot_be_read_silences_nobody(tmp_path: Path) -> None:
    post = Post(tmp_path)
    post.rounds(UP, DOWN)
    post.house.incidents.write_text("")
    post.rounds(DOWN)
    assert sorted(post.open()) == ["host/incidents:damaged", "portal@app1/health:outside"]
    assert sum("could not be read" in subject for subject in post.subjects()) == 1, post.subjects()


def test_a_round_that_could_tell_nobody_is_no_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    post = Post(tmp_path)
    before = post.rounds(UP).targets[0]["at"]

    def refuse(*_unused: Any, **_given: Any) -> None:
        raise BackstayError("it cannot be told")

    monkeypatch.setattr(_probe, "tell", refuse)
    with pytest.raises(BackstayError, match="cannot be told"):
        post.rounds(DOWN)
    assert post.only()["at"] == before


def test_maintenance_is_no_outage_and_counted_apart(tmp_path: Path) -> None:
    post = Post(tmp_path)
    post.rounds(UP, CLOSED, CLOSED, CLOSED, UP)
    assert post.mailed == []
    assert post.only()["minutes"] == {"up": 2, "down": 0, "maintenance": 3, "unknown": 0}
    assert post.only()["uptime"] == 1.0


def test_what_never_answered_is_red_and_told_to_nobody(tmp_path: Path) -> None:
    post = Post(tmp_path)
    post.rounds(ILL, ILL, CLOSED)
    assert (post.mailed, post.open()) == ([], [])
    assert post.only()["minutes"]["down"] == 0, "nothing was promised yet"
    cell = uptime(post.only(), now=post.now)
    assert (cell.state, cell.value) == ("red", "never answered")


def test_a_host_on_which_all_are_silent_is_one_trouble_told_to_all_of_them_once(tmp_path: Path) -> None:
    both = ["ops@example.org"]
    post = Post(
        tmp_path,
        target("portal", alerts={"mail": both}),
        target("shop", alerts={"mail": [*both, "shop@example.org"]}),
        target("blog", "app2"),
    )
    post.rounds(UP)
    post.now += dt.timedelta(minutes=1)
    post.seen = {"portal@app1": DOWN, "shop@app1": DOWN, "blog@app2": UP}
    post.probe.round()
    assert post.open() == ["app1/health:outside"]
    to = sorted(line for text in post.mailed for line in text.splitlines() if line.startswith("To: "))
    assert to == ["To: ops@example.org", "To: shop@example.org"]
    assert "app1 (portal, shop)" in post.subjects()[0]
    post.seen["shop@app1"] = UP
    post.now += dt.timedelta(minutes=1)
    post.probe.round()
    assert "portal@app1/health:outside" in post.open(), "the host is back, and this one is not"
    post.rounds(UP, UP)
    assert post.open() == []


def test_what_is_answered_badly_on_one_host_is_told_of_each(tmp_path: Path) -> None:
    post = Post(tmp_path, target("portal"), target("shop"))
    post.rounds(UP, ILL)
    assert sorted(post.open()) == ["portal@app1/health:outside", "shop@app1/health:outside"]


def test_a_probe_without_a_network_says_so_and_counts_nothing(tmp_path: Path) -> None:
    post = Post(tmp_path, target("portal"), target("shop", "app2"))
    post.rounds(UP, UP)
    post.away = "it has no route to anywhere"
    post.rounds(DOWN)
    assert post.open() == [], "once may be an accident"
    post.rounds(DOWN, DOWN)
    assert post.open() == ["host/network"]
    assert post.only()["minutes"] == {"up": 2, "down": 0, "maintenance": 0, "unknown": 3}
    assert uptime(post.only(), now=post.now).state == "grey"
    assert all("probe1 reaches nobody (it has no route to anywhere)" in subject for subject in post.subjects())
    post.away = ""
    post.rounds(UP, UP)
    assert post.open() == []


def test_whether_it_has_a_network_is_asked_only_where_nobody_answers(tmp_path: Path) -> None:
    post = Post(tmp_path)
    post.away = "it has no route to anywhere"
    post.rounds(UP, ILL)
    assert post.open() == ["portal@app1/health:outside"]


def test_what_is_watched_no_more_is_over_and_its_minutes_stay_for_a_while(tmp_path: Path) -> None:
    post = Post(tmp_path, target("portal"), target("shop", "app2"))
    post.rounds(UP, DOWN)
    post.declare(target("portal"))
    post.rounds(DOWN)
    assert post.open() == ["portal@app1/health:outside"]
    assert "shop@app2" in json.loads(post.house.minutes.read_text())["targets"]
    post.rounds(UP, minutes=41 * 1440)
    assert "shop@app2" not in json.loads(post.house.minutes.read_text())["targets"]


def test_whoever_acknowledged_it_is_on_the_page(tmp_path: Path) -> None:
    post = Post(tmp_path)
    post.rounds(UP, DOWN)
    key, until = post.open()[0], post.now + dt.timedelta(hours=4)
    acknowledge(post.house, post.disk, key, by="ada", until=until, why="known", now=post.now)
    assert uptime(post.only(), now=post.now).acknowledged == {"by": "ada", "until": "2026-11-21T12:02:00Z"}


def test_its_incidents_are_among_the_events_of_the_month(tmp_path: Path) -> None:
    post = Post(tmp_path)
    post.rounds(UP, DOWN, DOWN, UP, UP)
    assert [event["sentence"].split(",")[0] for event in post.only()["events"]] == [
        "portal@app1 is not there for visitors: no answer from portal.example.org:443 within 4 s"
    ]


def test_a_chat_is_told_by_an_address_that_is_shown_nowhere(tmp_path: Path) -> None:
    with Webhook() as chat:
        alerts = {"chat": "CHAT_URL"}
        post = Post(tmp_path, target(alerts=alerts), chats={"portal": chat.url})
        post.post = None  # a real one
        done = post.rounds(UP, DOWN)
        assert [text["text"].count("portal@app1 is not there") for _path, text in chat.got] == [2]
        kept = b"".join(path.read_bytes() for path in post.house.state.rglob("*") if path.is_file())
        assert b"very-secret-path" not in kept + repr(done).encode() + json.dumps(post.only()).encode()


def test_messages_that_do_not_arrive_are_on_the_page(tmp_path: Path) -> None:
    post = Post(tmp_path)
    post.rounds(UP, DOWN)
    post.house.sendmail.unlink()
    post.rounds(UP, UP, UP)
    cell = uptime({**post.only(), "spent": 0.0}, now=post.now)
    assert cell.state == "yellow"
    assert "do not arrive" in cell.why


# --- minutes and budget


def test_a_minute_counts_once_and_one_in_which_nobody_looked_is_unknown(tmp_path: Path) -> None:
    post = Post(tmp_path)
    post.rounds(UP, UP)
    post.rounds(DOWN, UP, minutes=0.01)
    assert post.only()["minutes"] == {"up": 2, "down": 0, "maintenance": 0, "unknown": 0}
    post.now += dt.timedelta(minutes=9)
    post.rounds(UP)
    assert post.only()["minutes"] == {"up": 3, "down": 0, "maintenance": 0, "unknown": 9}


def test_the_series_is_bounded_and_holds_thirty_five_days() -> None:
    record, now = Record(), START
    for _unused in range(60):
        record, now = noted(record, UP, now), now + dt.timedelta(days=1)
    assert 35 <= len(record.days) <= 41
    assert len(minutes(record, now)) == 30


def test_a_day_has_as_many_minutes_as_it_has() -> None:
    record, now = noted(Record(), UP, START), START + dt.timedelta(days=3)
    told = minutes(noted(record, UP, now), now)
    assert told["2026-11-22"] == {"up": 0, "down": 0, "maintenance": 0, "unknown": 1440}
    assert told["2026-11-21"]["unknown"] == 16 * 60 - 1, "it is watched since eight"
    assert told["2026-11-24"] == {"up": 1, "down": 0, "maintenance": 0, "unknown": 8 * 60}


def test_a_clock_that_was_put_back_loses_no_minute() -> None:
    record = noted(noted(Record(), UP, START), UP, START + dt.timedelta(hours=5))
    again = noted(record, DOWN, START + dt.timedelta(hours=1))
    assert again.days["2026-11-21"] == {"up": 2, "down": 1}


def test_minutes_that_it_was_down_spend_the_budget_and_that_is_told_once(tmp_path: Path) -> None:
    post = Post(tmp_path, target(uptime=0.9999))  # 4.3 minutes in 30 days
    post.rounds(UP, DOWN, DOWN, DOWN)
    assert post.only()["spent"] == pytest.approx(3 / 4.32, abs=0.001)
    assert "portal@app1/uptime" not in post.open()
    post.rounds(DOWN)
    assert "portal@app1/uptime" in post.open()
    warned = [subject for subject in post.subjects() if "may be away" in subject]
    assert len(warned) == 1, warned
    assert "[WARN]" in warned[0]
    post.rounds(DOWN, DOWN, DOWN)
    severity = {each.incident.key: each.incident.severity for each in opened(post.house, post.disk)}
    assert severity["portal@app1/uptime"] == "page"
    post.rounds(*[UP] * 5)
    assert uptime(post.only(), now=post.now).state == "red", "the budget is gone, although it is up"


def test_the_budget_is_that_of_thirty_days(tmp_path: Path) -> None:
    post = Post(tmp_path)
    post.rounds(UP, DOWN, DOWN)
    post.now += dt.timedelta(days=31)
    post.rounds(UP)
    assert post.only()["minutes"]["down"] == 0
    assert post.only()["spent"] == 0.0


def test_counting_begins_anew_where_the_file_is_damaged(tmp_path: Path) -> None:
    post = Post(tmp_path)
    post.rounds(UP)
    post.house.minutes.write_text('{"format":1,"targets":{"portal@app1":{"days"')
    assert "counting begins anew" in post.rounds(UP).notes[0]
    assert post.only()["minutes"]["up"] == 1


# --- the cell


def test_what_was_seen_grows_old_and_what_never_was_is_red(tmp_path: Path) -> None:
    post = Post(tmp_path)
    assert uptime(post.only(), now=post.now).value == "never looked"
    assert uptime(post.only(), now=post.now).state == "red"
    post.rounds(UP)
    assert uptime(post.only(), now=post.now).state == "green"
    assert uptime(post.only(), now=post.now + dt.timedelta(minutes=4)).state == "grey"


def test_colours_follow_state_and_budget(tmp_path: Path) -> None:
    post = Post(tmp_path)
    post.rounds(UP, DOWN, DOWN)
    down = uptime(post.only(), now=post.now)
    assert (down.state, down.value.split(",")[0]) == ("red", "down for 60 s")
    post.rounds(CLOSED)
    assert uptime(post.only(), now=post.now).state == "blue"
    post.rounds(UP)
    assert uptime({**post.only(), "spent": 0.8}, now=post.now).state == "yellow"
    assert uptime({**post.only(), "spent": 1.2}, now=post.now).state == "red"


def test_the_lines_for_people_have_the_worst_first(tmp_path: Path) -> None:
    post = Post(tmp_path, target("blog"), target("portal", "app2"))
    post.rounds(UP)
    post.now += dt.timedelta(minutes=1)
    post.seen = {"blog@app1": UP, "portal@app2": DOWN}
    state, rows = _outside.lines(post.probe.round().targets, post.now)
    assert state == "red"
    assert rows[0].startswith("  act now  portal@app2  down for 0 s")
    assert rows[1].startswith("  well     blog@app1    100 % of 30 d, 100 % of 43 min left")


# --- the command


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Post:
    """The command works on this probe, which has no application of its own."""
    post = Post(tmp_path)
    for module in (_cli_watch, _house):
        monkeypatch.setattr(module, "House", lambda: House(tmp_path))
        monkeypatch.setattr(module, "ProbeHouse", lambda: post.house)
    monkeypatch.setattr(_probe, "Probe", lambda: post.probe)
    monkeypatch.setattr(_cli, "applications", tuple)
    monkeypatch.setattr(_cli_watch, "Storage", lambda: post.disk)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return post


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = _cli.main(arguments)
    said = capsys.readouterr()
    return code, said.out + said.err


def test_a_round_by_hand_says_what_it_saw(host: Post, capsys: pytest.CaptureFixture[str]) -> None:
    host.rounds(UP, DOWN)
    code, said = run("probe", capsys=capsys)
    assert code == 0, "a unit that found an outage has not failed"
    assert said.startswith("0 of 1 applications on other hosts answer")
    assert "no answer from portal.example.org" in said
    assert run("probe", "--check", capsys=capsys) == (0, "to be watched on other hosts: 1\n")


def test_status_tells_what_it_watches_and_its_exit_code_is_the_colour(
    host: Post, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = run("status", "--json", capsys=capsys)
    assert (code, json.loads(said)["state"]) == (2, "red"), "it never looked"
    host.rounds(UP)
    code, said = run("status", "--json", capsys=capsys)
    assert (code, json.loads(said)["outside"][0]["application"]) == (0, "portal")
    host.rounds(DOWN)
    code, said = run("status", capsys=capsys)
    assert code == 2
    assert "act now  portal@app1" in said


def test_its_incidents_are_shown_and_acknowledged_with_those_of_the_host(
    host: Post, capsys: pytest.CaptureFixture[str]
) -> None:
    host.rounds(UP, DOWN)
    raise_(House(host.house.root), host.disk, incident(), host.now)
    code, said = run("incidents", capsys=capsys)
    assert code == 1
    assert "portal@app1/health:outside" in said
    assert "portal/jobs:retention" in said
    assert "health:outside" in run("incidents", "portal", capsys=capsys)[1]
    assert "health:outside" not in run("incidents", "shop", capsys=capsys)[1]
    assert run("incidents", "--ack", "portal@app1/health:outside", "--why", "known", capsys=capsys)[0] == 0
    assert run("incidents", "--ack", incident().key, "--why", "known", capsys=capsys)[0] == 0
    assert run("incidents", "--ack", "shop/none", "--why", "known", capsys=capsys)[0] == 2


def test_whether_its_messages_arrive_can_be_tried(
    host: Post, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = host.house.root / "sent"
    host.house.sendmail.write_text(f"#!/bin/sh\ncat > {kept}\n")
    host.house.sendmail.chmod(0o755)
    for given in (("portal",), ()):
        code, said = run("notify", "test", *given, capsys=capsys)
        assert code == 0, said
        assert "portal: everybody was told" in said
        assert "To: portal@example.org" in kept.read_text()
        kept.unlink()
    code, said = run("notify", "test", "shop", capsys=capsys)
    assert code == 2, said


def test_mail_that_this_host_took_and_no_relay_is_not_told_as_sent(
    host: Post, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_cli_watch, "MAIL_SECONDS", 0.3)
    queue = host.house.root / SPOOL / "queue"
    queue.mkdir(parents=True)
    (queue / "yesterday's").touch()
    os.utime(queue / "yesterday's", (time.time() - 86400,) * 2)
    host.house.sendmail.write_text("#!/bin/sh\ncat > /dev/null\n")
    host.house.sendmail.chmod(0o755)
    code, said = run("notify", "test", "portal", capsys=capsys)
    assert (code, "everybody was told" in said) == (0, True), said
    host.house.sendmail.write_text(f"#!/bin/sh\ncat > {queue}/new\n")
    code, said = run("notify", "test", "portal", capsys=capsys)
    assert (code, "its relay has not" in said) == (1, True), said


def test_a_relay_that_is_away_for_long_or_refuses_is_trouble(tmp_path: Path) -> None:
    def put(name: str, minutes: float) -> None:
        path = tmp_path / SPOOL / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (START.timestamp() - 60 * minutes,) * 2)

    assert relay_trouble(tmp_path, START) == "", "another sendmail"
    put("queue/1", 14)
    put("failed/1", 9 * 1440)
    assert relay_trouble(tmp_path, START) == ""
    put("failed/2", 1440)
    assert "refused mail for good: read and remove 1 in" in relay_trouble(tmp_path, START)
    put("queue/2", 40)
    assert "mail waits 40 min for its relay (2 in `mailq`)" in relay_trouble(tmp_path, START)


# --- asking


class Front:
    """A front door that answers as told, path by path; a text is a failure."""

    def __init__(self, **said: list[Any]) -> None:
        self.said = {"/healthz/": said.get("health", []), "/": said.get("first", [])}
        self.asked: list[tuple[Target, str, dict[str, Any]]] = []
        self.clock = 0.0

    def __call__(self, where: Target, path: str, **given: Any) -> Answer:
        self.asked.append((where, path, given))
        answers = self.said[path]
        said = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(said, str):
            self.clock += given["timeout_seconds"]
            raise BackstayError(said)
        status, headers = said
        return Answer(status, headers, b"", 0.02, where.peer)

    def look(self, **more: Any) -> Seen:
        def sleep(seconds: float) -> None:
            self.clock += seconds

        watched = Watched("portal", "app1", "192.0.2.7", "portal.example.org", "/healthz/", **more)
        return _probe.look(watched, ask=self, sleep=sleep, clock=lambda: self.clock)


LIVE, PAGE = {"x-release-id": "0001-1.0.0"}, (503, {"retry-after": "120"})


def test_it_asks_as_a_visitor_of_that_host_and_counts_as_no_visit() -> None:
    front = Front(health=[(200, LIVE)])
    assert front.look(ca_file="/etc/backstay/probe-ca.pem").state == "up"
    where, _path, given = front.asked[0]
    assert (where.host, where.address, where.port, where.tls) == ("portal.example.org", "192.0.2.7", 443, True)
    assert (where.verify, where.ca_file) == (True, "/etc/backstay/probe-ca.pem")
    assert given["headers"] == {"User-Agent": USER_AGENT}


def test_an_answer_that_was_lost_is_no_outage() -> None:
    front = Front(health=["no answer", (502, {}), (200, LIVE)], first=[(502, {})])
    assert front.look().state == "up"


def test_a_dead_host_is_down_in_less_than_twenty_seconds() -> None:
    front = Front(health=["no answer"])
    seen = front.look()
    assert (seen.state, seen.answered, seen.why) == ("down", False, "no answer")
    assert len(front.asked) == 3
    assert front.clock + _probe.GATEWAY_SECONDS < 20


@pytest.mark.parametrize(
    ("health", "first", "state"),
    [
        (PAGE, PAGE, "maintenance"),
        ((200, LIVE), PAGE, "up"),  # health answers declared addresses meanwhile
        ((502, {"retry-after": "5"}), PAGE, "maintenance"),  # so does this one, while everything is stopped
        ((503, {"retry-after": "5", **LIVE}), (200, LIVE), "down"),  # the application's own
        ((503, {}), (503, {}), "down"),
        ((502, {"retry-after": "5"}), (502, {"retry-after": "5"}), "down"),
    ],
)
def test_a_declared_maintenance_is_told_from_an_outage(health: Any, first: Any, state: str) -> None:
    seen = Front(health=[health], first=[first]).look()
    assert seen.state == state, seen
    assert seen.answered


# --- the probe's own network

ROUTES = "Iface\tDestination\tGateway\tFlags\n"
DEFAULT = "eth0\t00000000\t010A590A\t0003\n"
NEIGHBOURS = "IP address       HW type     Flags       HW address            Mask     Device\n"


@pytest.mark.parametrize(
    ("route", "neighbours", "route6", "why"),
    [
        ("", "", "", "it has no route to anywhere"),
        (DEFAULT, "127.0.0.9 0x1 0x0 00:00:00:00:00:00 * eth0\n", "", ""),  # nobody can tell
        ("eth0\t0000590A\t00000000\t0001\n", "", "", ""),  # a network without a gateway
        ("", "", f"{'0' * 32} 00 {'0' * 32} 00 {'0' * 32} 00000400 0 0 00000003     eth0\n", ""),
        (
            "",
            "",
            f"{'0' * 31}1 80 {'0' * 32} 00 {'0' * 32} 00000400 0 0 80200001       lo\n",
            "it has no route to anywhere",
        ),
    ],
)
def test_why_a_host_reaches_nobody_is_read_from_the_kernel(
    tmp_path: Path, route: str, neighbours: str, route6: str, why: str
) -> None:
    place = tmp_path / "proc/net"
    place.mkdir(parents=True)
    (place / "route").write_text(ROUTES + route)
    (place / "arp").write_text(NEIGHBOURS + neighbours)
    (place / "ipv6_route").write_text(route6)
    assert _probe.own_network_away(tmp_path, sleep=lambda _seconds: None) == why


@pytest.mark.parametrize(("flags", "why"), [("0x2", ""), ("0x0", "its gateway 127.0.0.9 does not answer")])
def test_a_gateway_that_is_silent_is_named(tmp_path: Path, flags: str, why: str) -> None:
    place = tmp_path / "proc/net"
    place.mkdir(parents=True)
    (place / "route").write_text(f"{ROUTES}eth0\t00000000\t0900007F\t0003\n")
    (place / "arp").write_text(f"{NEIGHBOURS}127.0.0.9 0x1 {flags} 00:00:00:00:00:00 * eth0\n")
    assert _probe.own_network_away(tmp_path, sleep=lambda _seconds: None) == why


# --- its file


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"targets": [target(path="healthz")]}, "`targets[0].path`"),
        ({"targets": [target(), target()]}, "portal@app1 is in"),
        ({"format": 2}, "`format`"),
        ({"chats": {"portal": 7}}, "`chats`"),
        ({"chats": {"portal": "very-secret"}}, "`chats`"),
        ({"targets": [target(alerts={"chat": "CHAT_URL"})]}, "has no address for it: put CHAT_URL"),
    ],
)
def test_a_file_that_is_wrong_is_refused_and_shows_no_secret(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    post = Post(tmp_path)
    value = {"format": 1, "probe": "probe1", "targets": [target()], "chats": {"shop": CHAT}, **change}
    post.house.targets.write_text(json.dumps(value))
    with pytest.raises(InputError) as refused:
        post.probe.declared()
    assert said in refused.value.message
    assert "very-secret" not in str(refused.value.message) + str(refused.value.lines)


def test_a_file_that_is_no_json_shows_none_of_it(tmp_path: Path) -> None:
    post = Post(tmp_path)
    post.house.targets.write_text(f'{{"chats": {CHAT}')
    with pytest.raises(InputError) as refused:
        post.probe.round()
    assert "very-secret" not in refused.value.message
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("who", ["probe", "observer"])
def test_who_asks_by_hand_waits_for_the_timers_look(tmp_path: Path, who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing answers, a round takes a quarter of each minute: nobody is sent away for that at 3 a.m."""
    look: Callable[[], object]
    house: House
    if who == "probe":
        post = Post(tmp_path)
        house, module, look = post.house, _probe, lambda: post.rounds(UP)
    else:
        world = World(tmp_path)
        house, module, look = world.house, _observe, world.observe
    house.observer_lock.parent.mkdir(parents=True, exist_ok=True)
    timers = Lock(house.observer_lock)
    assert timers.take(what="the timer's look")
    ends = threading.Timer(0.2, timers.release)
    ends.start()
    assert look() is not None
    ends.join()

    monkeypatch.setattr(module, "LOOK_SECONDS", 0.1)
    assert timers.take(what="the timer's look")
    with pytest.raises(Busy, match="while this is under way: the timer's look"):
        look()
    timers.release()


def test_a_host_that_watches_nobody_says_how_it_would(tmp_path: Path) -> None:
    probe = Probe(ProbeHouse(tmp_path), Disk())
    assert probe.facts() == []
    with pytest.raises(InputError, match="group `probes`"):
        probe.round()
