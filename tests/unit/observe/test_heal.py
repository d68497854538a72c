"""What hangs is restarted: the right one, a few times, and never what a transaction owns."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _complaint, _heal, _incidents
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, InputError
from ansible_collections.backstay.ops.plugins.module_utils._lock import Lock
from ansible_collections.backstay.ops.plugins.module_utils._observe import Answered
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed

from .world import World

WEB = "portal-0001-1.0.0-web.service"


class Host(World):
    """With a front door and a release behind it that answer or not."""

    door = "no answer"
    inner = ""
    states = "active\nactive\n"
    nginx_good = True

    def healed(self) -> str:
        self.commands: list[list[str]] = []
        self.now += dt.timedelta(minutes=1)
        done = _heal.heal(
            self.house,
            self.storage,
            self.application,
            self.now,
            runner=self.note,
            ask=lambda _application: Answered(0.1, self.door),
            ask_live=lambda *_unused: Answered(0.1, self.inner),
            sleep=lambda _seconds: None,
        )
        return done.unit

    def note(self, arguments: Sequence[str], **_given: Any) -> Completed:
        self.commands.append(list(arguments))
        if arguments[0] == "nginx" and not self.nginx_good:
            raise BackstayError("nginx: configuration file test failed")
        return Completed(tuple(arguments), 0, self.states, "")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_the_release_that_does_not_answer_is_restarted(host: Host) -> None:
    host.inner = "no answer"
    assert host.healed() == WEB
    assert ["systemctl", "restart", "--no-block", WEB] in host.commands


def test_nginx_is_restarted_where_the_release_answers_behind_it(host: Host) -> None:
    assert host.healed() == "nginx.service"


def test_an_nginx_that_could_not_start_again_is_left_as_it_is(host: Host) -> None:
    host.nginx_good = False
    with pytest.raises(BackstayError, match="test failed"):
        host.healed()
    assert not any("restart" in command for command in host.commands)


def test_what_answers_again_needs_nothing(host: Host) -> None:
    host.door = ""
    assert host.healed() == ""
    assert host.commands == []


def test_what_a_transaction_owns_is_left_alone(host: Host) -> None:
    lock = Lock(host.layout.lock)
    assert lock.take(what="a release")
    assert host.healed() == ""
    lock.release()
    host.layout.journal.write_text("")
    assert host.healed() == ""
    host.layout.journal.unlink()
    host.layout.maintenance_flag.touch()
    assert host.healed() == ""
    assert host.commands == []
    host.layout.maintenance_flag.unlink()
    assert host.healed() == "nginx.service"


def test_a_release_may_begin_as_soon_as_it_is_restarted(host: Host) -> None:
    assert host.healed()
    assert Lock(host.layout.lock).take()


def test_three_times_an_hour_and_then_a_person_is_told_once(host: Host) -> None:
    host.inner = "no answer"
    assert [host.healed() for _unused in range(3)] == [WEB] * 3
    for _unused in range(3):
        with pytest.raises(BackstayError, match="3 times within an hour"):
            host.healed()
        assert host.commands == []
    assert [each.incident.key for each in _incidents.opened(host.house, host.storage)] == ["portal/health:restarts"]
    host.now += dt.timedelta(hours=1)
    assert host.healed() == WEB
    host.why = ""
    host.minutes(2)
    assert _incidents.opened(host.house, host.storage) == (), "it answers well again"


def test_a_restart_is_told_once(host: Host) -> None:
    host.inner = "no answer within 5 s"
    assert host.healed() == WEB
    host.minutes(3)
    (text,) = host.texts()
    assert f"{WEB} hung and was restarted" in text
    assert "no answer within 5 s" in text


def test_a_restart_of_what_people_know_of_is_told_when_it_is_over(host: Host) -> None:
    host.inner = host.why = "no answer within 5 s"
    host.minutes(2)
    assert host.healed() == WEB
    host.minutes(1)
    host.inner = host.why = ""
    host.minutes(3)
    begun, over = host.texts()
    assert begun.startswith("*[PAGE]")
    assert over.startswith("*[OVER]")
    assert f"{WEB} was restarted, for it hung" in over


def test_monit_is_told_what_does_not_run_or_answer(host: Host) -> None:
    asked: list[tuple[object, ...]] = []

    def complaint(why: str = "") -> tuple[bool, str]:
        host.commands = []

        def ask(*question: object) -> str:
            asked.append(question)
            return why

        return _complaint.of_an_application(host.house, "portal", runner=host.note, ask=ask)

    assert complaint()[0]
    assert asked == [("portal.example.org", "/healthz/", 200, 5.0)]
    assert complaint("no answer") == (False, "no answer")
    host.states = "failed\nactive\n"
    assert complaint() == (False, f"{WEB} is failed")
    host.layout.journal.write_text("")
    assert complaint()[0], "a transaction knows why"
    with pytest.raises(InputError, match="there is: portal"):
        _complaint.of_an_application(host.house, "harbour")


def test_monit_is_told_when_nobody_observes(host: Host) -> None:
    assert not _complaint.of_the_observer(host.house, host.now)[0]
    host.observe()
    assert _complaint.of_the_observer(host.house, host.now)[0]
    path = next(host.house.samples.iterdir())
    path.write_bytes(path.read_bytes() + b'{"at"')
    well, sentence = _complaint.of_the_observer(host.house, host.now + dt.timedelta(minutes=4))
    assert not well
    assert "240 s old" in sentence
