"""When enough answers in a row are well, what an application's file asks for, and what people read of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.backstay.ops.plugins.module_utils import _application, _health
from ansible_collections.backstay.ops.plugins.module_utils._checks import HttpCheck
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, InputError
from ansible_collections.backstay.ops.plugins.module_utils._health import Adapters, Attempt, decide, run_until
from ansible_collections.backstay.ops.plugins.module_utils._host import any_media, plain_asset
from ansible_collections.backstay.ops.plugins.module_utils._http import Answer, Target
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout

# deciding


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(1, 6), st.booleans())
def test_well_means_that_the_newest_attempts_all_passed(outcomes: list[bool], consecutive: int, late: bool) -> None:
    verdict = decide(outcomes, consecutive=consecutive, late=late)
    newest = outcomes[-consecutive:]
    assert (verdict == "well") == (len(newest) == consecutive and all(newest))
    if verdict != "well":
        assert verdict == ("late" if late else "again")


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 6), st.booleans())
def test_one_failure_takes_all_earlier_passes_away(outcomes: list[bool], consecutive: int, late: bool) -> None:
    assert decide([*outcomes, False], consecutive=consecutive, late=late) != "well"


# asking again and again, on a clock of our own


@dataclass
class World:
    """A server that answers from a script of statuses (the last one for ever), and time that passes when asked."""

    script: list[int]
    takes: float = 0.1
    time: float = 100.0
    asked: list[float] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)

    def clock(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.slept.append(seconds)
        self.time += seconds

    def request(
        self,
        target: Target,
        path: str,
        *,
        timeout_seconds: float,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        status = self.script[min(len(self.asked), len(self.script) - 1)]
        self.asked.append(timeout_seconds)
        self.time += min(self.takes, timeout_seconds)
        if self.takes > timeout_seconds:
            raise BackstayError(f"no answer from {target.peer} within {timeout_seconds:g} s")
        return Answer(status, {}, b"", self.takes, target.peer)

    def ask(self, *checks: HttpCheck, **options: Any) -> _health.Report:
        return run_until(
            checks or (CHECK,),
            clock=self.clock,
            sleep=self.sleep,
            adapters=Adapters(request=self.request, clock=self.clock),
            **options,
        )


CHECK = HttpCheck("health", Target.unix("/run/x/web.sock", "x.test"), "/healthz/")
MANY = {"consecutive": 3, "interval_seconds": 0.5, "deadline_seconds": 10.0}


@pytest.mark.parametrize(
    ("script", "options", "ok", "attempts", "reason"),
    [
        ([200], {}, True, 1, "the check passed"),
        ([503], {}, False, 1, "health: /healthz/ answered 503, expected 200"),
        ([200], MANY, True, 3, "the check passed 3 times in a row"),
        ([503, 503, 200], MANY, True, 5, "the check passed 3 times in a row"),
        ([200, 200, 503, 200], MANY, True, 6, "the check passed 3 times in a row"),
        (
            [200, 503, 502],
            {**MANY, "deadline_seconds": 2.0},
            False,
            4,
            "health: /healthz/ answered 502, expected 200; asked 4 times in 2 s",
        ),
        (
            [503, 503, 200],
            {**MANY, "deadline_seconds": 2.0},
            False,
            4,
            (
                "passed 2 times in a row within 2 s, 3 are needed; "
                "before that, health: /healthz/ answered 503, expected 200"
            ),
        ),
    ],
)
def test_the_verdict_and_its_reason(
    script: list[int], options: dict[str, Any], ok: bool, attempts: int, reason: str
) -> None:
    report = World(script).ask(**options)
    assert (report.ok, report.attempts, report.reason) == (ok, attempts, reason)


def test_the_deadline_holds_however_long_an_answer_takes() -> None:
    world = World([200], takes=60.0)
    report = world.ask(replace(CHECK, timeout_seconds=5.0), consecutive=1, interval_seconds=0.5, deadline_seconds=7.0)
    assert not report.ok
    assert world.time == pytest.approx(107.0)
    assert world.asked == pytest.approx([5.0, 1.5]), "the last request was not shortened to what was left"


def test_a_check_whose_turn_did_not_come_is_reported_as_such() -> None:
    world = World([200], takes=60.0)
    first = replace(CHECK, timeout_seconds=5.0)
    report = world.ask(first, replace(first, name="portal"), replace(first, name="admin"), deadline_seconds=4.0)
    verdicts = [(result.ok, result.skipped) for result in report.results]
    assert verdicts == [(False, False), (False, True), (False, True)]
    assert report.results[2].reason == "its turn did not come before the deadline"
    assert report.reason == "health: no answer from unix:/run/x/web.sock within 4 s (and 2 more)"


def test_without_a_deadline_each_check_has_its_own_limit() -> None:
    world = World([200])
    world.ask(replace(CHECK, timeout_seconds=33.0))
    assert (world.asked, world.slept) == ([33.0], [])


def test_each_attempt_is_told_and_can_end_it() -> None:
    seen: list[Attempt] = []

    def told(attempt: Attempt) -> None:
        seen.append(attempt)
        if attempt.number == 3:
            raise BackstayError("it died")

    with pytest.raises(BackstayError, match="it died"):
        World([200, 503, 200]).ask(on_attempt=told, **{**MANY, "consecutive": 5})
    told_of = [(attempt.number, attempt.ok, attempt.streak) for attempt in seen]
    assert told_of == [(1, True, 1), (2, False, 0), (3, True, 1)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"consecutive": 3},
            "consecutive above 1 needs deadline_seconds: say how long to go on asking.",
        ),
        (
            {"consecutive": 0},
            "consecutive must be at least 1, interval_seconds and deadline_seconds not negative.",
        ),
    ],
)
def test_impossible_demands_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        World([200]).ask(**options)
    assert caught.value.message == message


# an application


APPLICATION = _application.parse(
    {
        "format": 1,
        "name": "portal",
        "domain": "portal.lab.test",
        "source": {"repository": "x.git"},
        "runtime": {"type": "django", "settings": "portal.settings", "wsgi": "portal.wsgi:application"},
        "processes": {"web": {}},
        "media": "media",
        "health": {"path": "/healthz/", "latency_seconds": 2.0},
        "smoke": [
            {"name": "start", "path": "/", "contains": "Audits"},
            {"name": "style", "path": "auto:static", "through": ["front_door"]},
            {"name": "photograph", "path": "auto:media", "through": ["front_door"]},
        ],
    },
    file="portal.yml",
)
DOOR = Target.tcp("127.0.0.1", 443, tls=True, server_name="portal.lab.test", verify=False)


def checks(through: Any, target: Target, static: str | None, media: str | None) -> list[HttpCheck]:
    found = _health.application_checks(
        APPLICATION, target, through=through, release_id="0007-1.1.0", static_path=static, media_path=media
    )
    assert all(isinstance(check, HttpCheck) for check in found)
    return [check for check in found if isinstance(check, HttpCheck)]


def test_a_candidate_is_asked_on_its_own_socket_as_nginx_would_ask() -> None:
    socket = Target.unix("/run/portal/0007-1.1.0/web.sock", "portal.lab.test")
    health, start = checks("candidate", socket, "/static/a.css", "/media/a.jpg")
    assert (health.name, health.path, health.latency_seconds) == ("health", "/healthz/", 2.0)
    assert (start.name, start.path, start.contains) == ("start", "/", ("Audits",))
    for check in (health, start):
        assert check.target == socket
        assert check.release_id == "0007-1.1.0"
        assert dict(check.headers) == {"X-Forwarded-Proto": "https", "X-Backstay-Internal": "yes"}


def test_the_front_door_is_asked_for_files_too_which_carry_no_release() -> None:
    found = checks("front_door", DOOR, "/static/a.css", "/media/a.jpg")
    assert [(check.name, check.path, check.release_id) for check in found] == [
        ("health", "/healthz/", "0007-1.1.0"),
        ("start", "/", "0007-1.1.0"),
        ("style", "/static/a.css", None),
        ("photograph", "/media/a.jpg", None),
    ]
    assert {check.target for check in found} == {DOOR}
    assert all(check.headers == () for check in found), "nginx decides what is internal"


def test_a_file_that_is_not_there_yet_is_not_asked_for() -> None:
    assert [check.name for check in checks("front_door", DOOR, None, None)] == ["health", "start"]


def test_the_checks_of_a_host_read_what_is_live_when_they_are_asked() -> None:
    options = _health.host_options(APPLICATION, Layout("portal"))
    assert [item["name"] for item in options] == [
        "release: health",
        "release: start",
        "front door: health",
        "front door: start",
        "front door: style",
        "front door: photograph",
        "certificate",
    ]
    own = {item["release_link"] for item in options if "release_link" in item}
    assert own == {"/opt/portal/active"}
    assert options[0]["socket"] == "/opt/portal/active"
    assert options[4]["file_below"] == "/opt/portal/static"
    assert options[5]["file_below"] == "/opt/portal/data/media"
    assert options[5]["url"] == "https://portal.lab.test/media/"
    assert (options[6]["address"], options[6]["chain"]) == ("127.0.0.1", False)
    assert len(_health.parse_checks(options)) == 7


def test_from_outside_the_chain_must_be_trusted() -> None:
    options = _health.outside_options(APPLICATION, address="10.0.0.1", ca_file="/ca.pem", prefix="p: ")
    assert [item["name"] for item in options] == ["p: health", "p: start", "p: certificate"]
    parsed = _health.parse_checks(options)
    assert isinstance(parsed[0], HttpCheck)
    assert parsed[0].target == Target.tcp("portal.lab.test", tls=True, address="10.0.0.1", ca_file="/ca.pem")
    assert options[2]["chain"] is True


# the host's command


def answering(status: int) -> Adapters:
    def request(
        target: Target,
        path: str,
        *,
        timeout_seconds: float,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        return Answer(status, {"x-release-id": "0007-1.1.0"}, b"Audits", 0.012, target.peer)

    def certificate(target: Target, _seconds: float) -> bytes:
        raise BackstayError(f"connection refused at {target.peer}: nothing listens there")

    return Adapters(request=request, certificate=certificate)


def test_the_command_prints_a_line_per_check_and_ends_with_1_when_one_is_not_well(tmp_path: Path) -> None:
    layout = Layout("portal", tmp_path)
    layout.home.mkdir(parents=True)
    layout.active.symlink_to(layout.socket("0007-1.1.0"))
    code, text = _health.health_command(layout, APPLICATION, "0007-1.1.0", adapters=answering(200))
    lines = text.splitlines()
    refused = "connection refused at portal.lab.test:443 at 127.0.0.1: nothing listens there"
    assert code == 1
    assert lines[0].startswith(f"portal 0007-1.1.0: NOT WELL: certificate: {refused} (")
    assert [(line.split()[0], line[11:33].strip(), line.partition(" ms  ")[2]) for line in lines[1:]] == [
        ("ok", "release: health", "200 in 12 ms from 0007-1.1.0"),
        ("ok", "release: start", "200 in 12 ms from 0007-1.1.0"),
        ("ok", "front door: health", "200 in 12 ms from 0007-1.1.0"),
        ("ok", "front door: start", "200 in 12 ms from 0007-1.1.0"),
        ("skipped", "front door: style", f"there is no file below {layout.static} yet"),
        ("skipped", "front door: photograph", f"there is no file below {layout.data}/media yet"),
        ("FAILED", "certificate", refused),
    ]
    code, text = _health.health_command(layout, APPLICATION, "0007-1.1.0", as_json=True, adapters=answering(502))
    found = json.loads(text)
    assert (code, found["ok"], found["application"], found["release_id"]) == (1, False, "portal", "0007-1.1.0")
    assert found["results"][0]["reason"] == "/healthz/ answered 502, expected 200"


def test_the_command_says_when_nothing_is_live(tmp_path: Path) -> None:
    code, text = _health.health_command(Layout("portal", tmp_path), APPLICATION, None)
    assert (code, text) == (1, "portal: nothing of portal is live: release a version")
    code, text = _health.health_command(Layout("portal", tmp_path), APPLICATION, None, as_json=True)
    assert (code, json.loads(text)["ok"]) == (1, False)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("Building 7/lift.jpg", "/media/Building%207/lift.jpg"),
        ("100% ok #3?.jpg", "/media/100%25%20ok%20%233%3F.jpg"),
        ("Aufzüge/tür.jpg", "/media/Aufz%C3%BCge/t%C3%BCr.jpg"),
        ("plain.jpg", "/media/plain.jpg"),
    ],
)
def test_a_media_file_is_asked_for_whatever_it_is_called(tmp_path: Path, name: str, path: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    (tmp_path / ".hidden").touch()
    found = any_media(tmp_path)
    assert found == path
    static = plain_asset([name, f"{name}.css"])
    assert static == f"{path.replace('/media/', '/static/')}.css"
    assert [check.path for check in checks("front_door", DOOR, static, found)][-2:] == [static, path]
