"""What hangs is restarted: the right one, a few times, and never what a transaction owns."""

from __future__ import annotations

import datetime as dt
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _complaint, _heal, _incidents, _observe
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, GateRefused, InputError
from ansible_collections.backstay.ops.plugins.module_utils._http import Target
from ansible_collections.backstay.ops.plugins.module_utils._lock import Lock
from ansible_collections.backstay.ops.plugins.module_utils._observe import Answered
from ansible_collections.backstay.ops.plugins.module_utils._own_units import UNIT_TEXTS
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed

from .world import World

WEB = "portal-0001-1.0.0-web.service"


class Host(World):
    """With a front door and a release behind it that answer or not."""

    door = "no answer"
    inner = ""
    states = "active\nactive\n"
    nginx_good = True
    meanwhile: Callable[[str], object]  # what happens while one of them is asked

    def healed(self) -> str:
        self.commands: list[list[str]] = []
        self.asked_for: list[tuple[str, float]] = []
        self.now += dt.timedelta(minutes=1)
        done = _heal.heal(
            self.house,
            self.storage,
            self.application,
            self.now,
            runner=self.note,
            ask=lambda *question: self.answer("door", question),
            ask_live=lambda *question: self.answer("inner", question),
            sleep=lambda _seconds: None,
        )
        self.sentence = done.sentence
        return done.unit

    def answer(self, who: str, question: Sequence[Any]) -> Answered:
        self.asked_for.append((who, question[-1]))
        self.meanwhile(who)
        why = getattr(self, who)
        return Answered(0.1, why, silent=why.startswith("no answer"))

    def note(self, arguments: Sequence[str], **_given: Any) -> Completed:
        self.commands.append(list(arguments))
        if arguments[0] == "nginx" and not self.nginx_good:
            raise BackstayError("nginx: configuration file test failed")
        return Completed(tuple(arguments), 0, self.states, "")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    found = Host(tmp_path)
    found.meanwhile = lambda _who: None
    return found


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


def test_what_answers_by_itself_that_it_is_not_well_does_not_hang(host: Host) -> None:
    host.door = host.inner = "/healthz/ answered 503, expected 200"
    assert [host.healed() for _unused in range(5)] == [""] * 5, "and nobody says that it was restarted too often"
    assert host.commands == []
    assert "a restart would mend nothing: /healthz/ answered 503" in host.sentence
    host.door = "/healthz/ answered 502, expected 200"
    host.inner = ""
    assert host.healed() == "", "a front door that answers does not hang either"
    host.door, host.inner = "no answer", "/healthz/ answered 503, expected 200"
    assert host.healed() == "nginx.service", "it is nginx that hangs"


def test_a_transaction_that_begins_while_it_is_asked_gets_the_lock_at_once(host: Host) -> None:
    host.inner = "no answer"
    begun: list[bool] = []

    def begins(_who: str) -> None:
        lock = Lock(host.layout.lock)
        begun.append(lock.take())
        lock.release()

    host.meanwhile = begins
    assert host.healed() == WEB
    assert begun == [True] * 4 + [False], "and waits for no more than one short question"
    assert host.asked_for[-1] == ("inner", 2.0)

    kept = Lock(host.layout.lock)
    host.meanwhile = lambda _who: kept.take()
    assert host.healed() == ""
    assert host.commands == []
    assert "a transaction has begun" in host.sentence


def moved(host: Host) -> None:
    host.layout.active.unlink()
    host.layout.active.symlink_to("/run/portal/0002-1.1.0/web.sock")


CHANGES: dict[str, Callable[[Host], Any]] = {
    "another release is live": moved,
    "maintenance is on": lambda host: host.layout.maintenance_flag.touch(),
    "a transaction was left": lambda host: host.layout.journal.write_text(""),
    "somebody else restarted it": lambda host: _heal._note(
        host.house, host.storage, "portal", host.now, unit=WEB, why="no answer"
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_while_it_was_asked_is_not_restarted(host: Host, change: str) -> None:
    host.inner = "no answer"
    host.meanwhile = lambda who: who == "inner" and len(host.asked_for) == 4 and CHANGES[change](host)
    assert host.healed() == ""
    assert host.commands == []


@pytest.mark.parametrize(
    ("answer", "silent"), [(b"", True), (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", False)]
)
def test_whoever_takes_a_question_and_never_answers_it_hangs(host: Host, answer: bytes, silent: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = Target.tcp("127.0.0.1", server.getsockname()[1])
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(_observe.ask_health, target, host.application, 0.5)
            channel, _peer = server.accept()
            channel.sendall(answer)
            found = asked.result()
            channel.close()
    assert found.why
    assert found.silent is silent


def test_whoever_refuses_in_tls_does_not_hang(host: Host) -> None:
    """nginx that may not read a certificate says so in the handshake, and serves everybody else."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = Target.tcp("127.0.0.1", server.getsockname()[1], tls=True, verify=False)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(_observe.ask_health, target, host.application, 0.5)
            channel, _peer = server.accept()
            channel.recv(1024)
            channel.sendall(b"\x15\x03\x03\x00\x02\x02\x50")  # an alert: fatal, internal error
            found = asked.result()
            channel.close()
    assert "internal error" in found.why
    assert not found.silent


def test_nginx_is_left_alone_while_a_neighbour_has_a_transaction(host: Host) -> None:
    host.neighbour("shop")
    shop = host.house.layout("shop")
    shop.journal.write_text("")
    assert host.healed() == ""
    assert "nginx serves shop as well" in host.sentence
    shop.journal.unlink()
    lock = Lock(shop.lock)
    assert lock.take(what="a release")
    assert host.healed() == ""
    host.inner = "no answer"
    assert host.healed() == WEB, "its own release is nobody else's"
    lock.release()
    host.inner = ""
    assert host.healed() == "nginx.service"


def test_what_answers_the_last_short_question_is_not_restarted(host: Host) -> None:
    host.meanwhile = lambda _who: setattr(host, "inner", "no answer" if len(host.asked_for) < 5 else "")
    assert host.healed() == ""
    assert host.commands == []


def test_a_release_may_begin_as_soon_as_it_is_restarted(host: Host) -> None:
    assert host.healed()
    assert Lock(host.layout.lock).take()


def test_three_times_an_hour_and_then_a_person_is_told_once(host: Host) -> None:
    host.inner = "no answer"
    assert [host.healed() for _unused in range(3)] == [WEB] * 3
    for _unused in range(3):
        with pytest.raises(GateRefused, match="3 times within an hour") as refused:
            host.healed()
        assert host.commands == []
        assert f"SuccessExitStatus={refused.value.exit_code}\n" in UNIT_TEXTS["backstay-heal@.service"], "told once"
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
