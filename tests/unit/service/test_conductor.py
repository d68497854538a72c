"""Promise 2 without a host: a transaction that dies at any record of its journal is finished or undone by recovery.

The engine is a stand-in that remembers what is done; journal, steps, conductor and recovery are the real ones. Every
step of every operation is struck in each of its moments, also a second time while recovery is at work.
"""

from __future__ import annotations

import errno
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _service
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, InputError
from ansible_collections.backstay.ops.plugins.module_utils._fleet import configuration_digest
from ansible_collections.backstay.ops.plugins.module_utils._journal import Journal
from ansible_collections.backstay.ops.plugins.module_utils._lock import Lock
from ansible_collections.backstay.ops.plugins.module_utils._service import Conductor, Service, recover, recover_all
from ansible_collections.backstay.ops.plugins.module_utils._steps import (
    CLOSED,
    OPERATIONS,
    PHASES,
    POINT_OF_NO_RETURN,
    all_steps,
)
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage
from ansible_collections.backstay.ops.plugins.module_utils._transaction import Request, Transaction


class Died(BaseException):
    """The process is gone: nothing that catches errors may catch this."""


class Engine:
    """Remembers which steps are done; a step may be told to fail or to die."""

    def __init__(self, directory: Path, operation: str) -> None:
        (directory / "journal.d").mkdir(exist_ok=True)
        clock = itertools.count()
        self.storage = Storage()
        self.layout = SimpleNamespace(
            name="portal",
            journal=directory / "journal.jsonl",
            lock=directory / "lock",
            release_configuration=lambda release: directory / release,
        )
        self.journal = Journal(
            directory / "journal.jsonl", directory / "journal.d", self.storage, lambda: f"t{next(clock)}"
        )
        self.operation = operation
        self.data_lock = SimpleNamespace(release=lambda: None)
        self.done: set[str] = set()
        self.undone: list[str] = []
        self.fails: str | None = None
        self.dies_undoing: str | None = None
        self.breaks_undoing: str | None = None
        self.settled = 0
        self.hooks: list[str] = []
        self.failing_hook: str | None = None
        self.undone_when_hooks_ended: list[str] | None = None
        self.afterwards: list[Callable[[], None]] = []

    def due_afterwards(self) -> list[Callable[[], None]]:
        due, self.afterwards = self.afterwards, []
        return due

    def watch_seconds(self, transaction: Transaction) -> float:
        return 0.0

    def drop_ballast(self) -> bool:
        return False

    def make_room(self) -> None:
        """There is plenty."""

    def stop_prober(self) -> None:
        """There is none."""

    def notes(self, release: str) -> str:
        return ""

    def done_sentence(self, transaction: Transaction) -> str:
        return f"{transaction.candidate} is live"

    def stop_hooks(self, transaction: Transaction) -> None:
        self.undone_when_hooks_ended = list(self.undone)

    def run_hooks(self, transaction: Transaction, when: str, *, error: str = "", say: Any = None) -> None:
        self.hooks.append(when)
        if when == self.failing_hook:
            raise BackstayError(f"The hook {when} ended with exit code 3: no")

    def open(self, request: Request) -> Transaction:
        return Transaction("t-1", "portal", self.operation, "0002-1.1.0", "0001-1.0.0", "1.1.0", "abc", request, "now")

    def live(self) -> str:
        return "0002-1.1.0" if "flip" in self.done else "0001-1.0.0"

    def settle(self) -> str:
        self.settled += 1
        return "nothing to settle"

    def __getattr__(self, name: str) -> Any:
        verb, _, step = name.partition("_")
        if verb == "do":
            return lambda transaction: self._do(step)
        if verb == "undo":
            return lambda transaction, reason: self._undo(step)
        raise AttributeError(name)

    def _do(self, step: str) -> str:
        if step == self.fails:
            raise BackstayError(f"{step} failed; mend it.")
        self.done.add(step)
        return step

    def _undo(self, step: str) -> None:
        if step == self.dies_undoing:
            self.dies_undoing = None
            raise Died
        if step == self.breaks_undoing:
            self.breaks_undoing = None
            raise OSError(errno.ENOSPC, "No space left on device")
        self.done.discard(step)
        self.undone.append(step)


def conduct(engine: Engine) -> Conductor:
    """From begin to end, as the service does it."""
    conductor = Conductor(engine, lambda event: None)  # type: ignore[arg-type]  # a stand-in for the host
    conductor.begin(Request(operation=engine.operation))
    for phase in PHASES:
        conductor.phase(phase)
    conductor.end("confirmed")
    return conductor


POINTS = [
    (operation, step, moment)
    for operation in OPERATIONS
    for step in all_steps(operation)
    for moment in ("begin", "work", "done")
]


@pytest.fixture
def strike(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Die at one record of the journal, once."""

    def arm(at: tuple[str, str]) -> None:
        armed = [at]

        def failpoint(step: str, moment: str) -> None:
            if armed and armed[0] == (step, moment):
                armed.clear()
                raise Died

        monkeypatch.setattr(_service, "_failpoint", failpoint)

    return arm


@pytest.mark.parametrize(("operation", "step", "moment"), POINTS)
def test_dying_at_a_record_is_undone_before_the_point_of_no_return_and_finished_after(
    tmp_path: Path, strike: Any, operation: str, step: str, moment: str
) -> None:
    engine = Engine(tmp_path, operation)
    strike((step, moment))
    with pytest.raises(Died):
        conduct(engine)
    assert engine.layout.journal.exists(), "what is unfinished is told by the journal"
    found = recover(engine)  # type: ignore[arg-type]  # a stand-in for the host
    order = all_steps(operation)
    if order.index(step) >= order.index(POINT_OF_NO_RETURN):
        assert engine.done == set(order)
        assert found["found"] == "forward"
    else:
        assert engine.done == set()
        assert found["found"] == "back"
    assert not engine.layout.journal.exists()
    assert recover(engine)["found"] == "nothing"  # type: ignore[arg-type]  # as above


@pytest.mark.parametrize(
    ("operation", "step"),
    [(operation, step) for operation in OPERATIONS for phase in PHASES[:2] for step in OPERATIONS[operation][phase]],
)
def test_a_recovery_that_dies_itself_is_taken_up_by_the_next(
    tmp_path: Path, strike: Any, operation: str, step: str
) -> None:
    engine = Engine(tmp_path, operation)
    strike(("handover", "done"))
    with pytest.raises(Died):
        conduct(engine)
    engine.dies_undoing = step
    with pytest.raises(Died):
        recover(engine)  # type: ignore[arg-type]  # a stand-in for the host
    recover(engine)  # type: ignore[arg-type]  # a stand-in for the host
    assert engine.done == set()
    assert not engine.layout.journal.exists()


@pytest.mark.parametrize(
    ("operation", "step"),
    [(operation, step) for operation in OPERATIONS for phase in PHASES[:2] for step in OPERATIONS[operation][phase]],
)
def test_a_step_that_fails_undoes_all_before_it_the_last_first(tmp_path: Path, operation: str, step: str) -> None:
    engine = Engine(tmp_path, operation)
    engine.fails = step
    with pytest.raises(BackstayError, match=f"{step} failed"):
        conduct(engine)
    order = all_steps(operation)
    assert engine.done == set()
    assert engine.undone == list(reversed(order[: order.index(step) + 1]))
    assert not engine.layout.journal.exists()


def test_every_journal_of_a_finished_transaction_is_kept(tmp_path: Path) -> None:
    engine = Engine(tmp_path, "release")
    conduct(engine)
    assert (tmp_path / "journal.d" / "t-1.jsonl").exists()
    assert engine.done == set(all_steps("release"))


def afterwards(engine: Engine) -> None:
    """What waited until the lock is free."""
    for work in engine.due_afterwards():
        work()


def test_hooks_run_around_each_phase_that_has_steps(tmp_path: Path) -> None:
    engine = Engine(tmp_path, "release")
    conduct(engine)
    phases = [phase for phase in PHASES if OPERATIONS["release"][phase]]
    assert engine.hooks == [f"{moment}_{phase}" for phase in phases for moment in ("before", "after")]


@pytest.mark.parametrize("when", ["before_prepare", "after_prepare", "before_flip", "after_flip", "after_watch"])
def test_a_hook_that_fails_before_the_point_of_no_return_undoes_everything(tmp_path: Path, when: str) -> None:
    engine = Engine(tmp_path, "release")
    engine.failing_hook = when
    with pytest.raises(BackstayError, match=f"The hook {when} ended"):
        conduct(engine)
    assert engine.done == set(), f"not undone: {engine.done}"
    afterwards(engine)
    assert engine.hooks[-1] == "on_failure"
    assert not engine.layout.journal.exists()


@pytest.mark.parametrize("who", ["recovery", "a person or a deadline"])
def test_the_hooks_of_a_failure_run_whoever_undoes_it(tmp_path: Path, strike: Any, who: str) -> None:
    engine = Engine(tmp_path, "release")
    conductor = Conductor(engine, lambda event: None)  # type: ignore[arg-type]  # a stand-in for the host
    if who == "recovery":
        strike(("flip", "work"))
        with pytest.raises(Died):
            conduct(engine)
        recover(engine)  # type: ignore[arg-type]  # as above
    else:
        conductor.begin(Request(operation="release"))
        conductor.phase("prepare")
        conductor.undo("nobody flipped it before its deadline")
    assert "on_failure" not in engine.hooks, "the lock is held"
    afterwards(engine)
    assert engine.hooks.count("on_failure") == 1
    assert engine.done == set()


def test_the_hooks_of_a_failure_do_not_run_for_what_is_finished(tmp_path: Path, strike: Any) -> None:
    engine = Engine(tmp_path, "release")
    strike((POINT_OF_NO_RETURN, "done"))
    with pytest.raises(Died):
        conduct(engine)
    recover(engine)  # type: ignore[arg-type]  # a stand-in for the host
    afterwards(engine)
    assert "on_failure" not in engine.hooks


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """The service over a maintenance release, whose worker the test drives."""
    with socket.socket(socket.AF_UNIX) as listener:
        made = Service(Engine(tmp_path, "maintenance"), listener)  # type: ignore[arg-type]  # a stand-in for the host
        assert made.lock.take()
        made.conductor.begin(Request(operation="release"))
        yield made
        made.wake_read.close()
        made.wake_write.close()


@pytest.mark.parametrize("asked", ["by a failure", "by a person", "by a deadline"])
def test_what_cannot_be_undone_now_holds_no_lock_and_is_left_to_recovery(service: Service, asked: str) -> None:
    """A full disk while the old data are put back: the door is closed, so nobody may wait for a worker that is dead."""
    engine: Any = service.engine
    engine.breaks_undoing = "halt"
    if asked == "by a failure":
        engine.fails = "migrate"
        service.settings = {"auto": True}
        service._work("prepare")
    else:
        service.conductor.phase("prepare")
        service.conductor.phase("close")
        service.state = "closed"
        if asked == "by a person":
            service._work("abort")
        else:
            service._expire()
            assert service.worker is not None
            service.worker.join(20)
    answer = service.inbox.queue[-1][1]
    if asked != "by a deadline":
        assert "No space left on device" in answer["message"]
        assert "Run `backstay recover portal`" in answer["message"]
        assert ("migrate failed; mend it. Undoing it failed too" in answer["message"]) == (asked == "by a failure")
    service._collect()
    assert service.state == "idle"
    assert engine.layout.journal.exists(), "what is unfinished is told by the journal"
    other = Lock(engine.layout.lock)
    assert other.take(), "the lock is free"
    other.release()
    assert recover(engine)["found"] == "back"
    assert engine.done == set()


def confirmed(service: Service) -> dict[str, Any]:
    """Up to the confirmation, by the service's own worker; what it answers."""
    for phase in ("prepare", "close", "flip"):
        service.conductor.phase(phase)
    service.state = "working"
    service._work("confirm")
    return dict(service.inbox.queue[0][1])


@pytest.mark.parametrize(
    ("file", "told"), [('{"name": "portal"}', configuration_digest({"name": "portal"})), ("{", ""), (None, "")]
)
def test_the_answer_tells_the_configuration_by_which_hosts_are_compared(
    service: Service, tmp_path: Path, file: str | None, told: str
) -> None:
    """What cannot be read is not told: the release is confirmed all the same."""
    (tmp_path / "0002-1.1.0").mkdir()
    if file is not None:
        (tmp_path / "0002-1.1.0" / "application.json").write_text(file)
    answer = confirmed(service)
    assert (answer["ok"], answer["configuration"]) == (True, told), answer


class Peer:
    """Somebody who asks the service, and what it answers."""

    def __init__(self) -> None:
        self.answers: list[dict[str, Any]] = []

    def send(self, value: dict[str, Any]) -> None:
        self.answers.append(value)

    def close(self) -> None:
        """It has what it wanted."""


def test_a_hook_that_fails_after_the_confirmation_is_told_in_the_log_of_the_service(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who followed has had the answer by then."""
    engine: Any = service.engine
    engine.failing_hook = "after_confirm"
    answer = confirmed(service)
    assert answer["ok"], answer
    assert engine.done == set(all_steps("maintenance"))
    service._collect()
    for thread in service.beside:
        thread.join(30)
    assert "The hook after_confirm ended with exit code 3" in capsys.readouterr().err


@pytest.mark.parametrize("last", ["after_confirm", "on_failure"])
def test_who_goes_back_does_not_wait_for_the_last_hooks(service: Service, last: str) -> None:
    engine: Any = service.engine
    at_work, enough = threading.Event(), threading.Event()

    def hooks(transaction: Transaction, when: str, **_more: Any) -> None:
        if when == last:
            at_work.set()
            assert enough.wait(30)

    engine.run_hooks = hooks
    if last == "on_failure":
        engine.fails = "migrate"
        service.settings = {"auto": True}
        service._work("prepare")
    else:
        assert confirmed(service)["ok"]
    service._collect()
    try:
        assert at_work.wait(30)
        assert (service.state, engine.layout.journal.exists()) == ("idle", False)
        other = Lock(engine.layout.lock)
        assert other.take(), "the lock is free"
        other.release()
        assert service.beside[0].is_alive(), "the service waits for it before it ends"
    finally:
        enough.set()


def test_what_dies_while_recovery_runs_the_last_hooks_is_recovered_by_it(tmp_path: Path, strike: Any) -> None:
    """systemd does not start the unit of a recovery a second time while it is at work."""
    engine: Any = Engine(tmp_path, "release")
    told: list[str] = []
    lock = Lock(engine.layout.lock)

    def hooks(transaction: Transaction, when: str, **_more: Any) -> None:
        if when == "on_failure" and len(told) == 1:
            another = Lock(engine.layout.lock)
            assert another.take(wait_seconds=20)
            with pytest.raises(Died):
                conduct(engine)
            another.release()
            until = time.monotonic() + 30
            while len(told) < 2 and time.monotonic() < until:
                time.sleep(0.01)

    engine.run_hooks = hooks
    strike(("gate", "work"))
    with pytest.raises(Died):
        conduct(engine)
    strike(("flip", "work"))
    assert lock.take()
    recover_all(engine, lock, forward=False, patience_seconds=0.0, tell=lambda result: told.append(result["message"]))
    assert ["gate" in told[0], "flip" in told[1], len(told)] == [True, True, 2], told
    assert engine.done == set()
    assert lock.take(), "the lock is free"
    lock.release()


def test_a_hook_that_outlived_its_transaction_is_ended_before_anything_is_undone(tmp_path: Path, strike: Any) -> None:
    engine = Engine(tmp_path, "maintenance")
    strike(("migrate", "work"))
    with pytest.raises(Died):
        conduct(engine)
    assert recover(engine)["found"] == "back"  # type: ignore[arg-type]  # a stand-in for the host
    assert engine.undone
    assert engine.undone_when_hooks_ended == []


def test_an_abort_before_it_is_confirmed_is_kept_also_where_hooks_take_their_time(service: Service) -> None:
    engine: Any = service.engine
    peer, ran = Peer(), engine.run_hooks

    def hooks(transaction: Transaction, when: str, **more: Any) -> None:
        ran(transaction, when, **more)
        if when == "before_confirm":
            service._dispatch(peer, {"command": "abort"})  # type: ignore[arg-type]  # a stand-in for a connection

    engine.run_hooks = hooks
    answer = confirmed(service)
    assert peer.answers[0]["ok"], "it was promised"
    assert (answer["ok"], answer["message"]) == (False, "The transaction was aborted on request.")
    assert engine.done == set()


def test_who_aborts_while_it_is_confirmed_is_told_that_it_is_too_late(service: Service) -> None:
    engine: Any = service.engine
    refused: list[str] = []

    def confirm(_transaction: Transaction) -> str:
        with pytest.raises(InputError) as told:
            service._dispatch(Peer(), {"command": "abort"})  # type: ignore[arg-type]  # a stand-in for a connection
        refused.append(str(told.value))
        engine.done.add("confirm")
        return "confirm"

    engine.do_confirm = confirm
    answer = confirmed(service)
    assert answer["ok"], answer
    assert refused == [
        "It is too late to abort: 0002-1.1.0 is being confirmed; to go back, run `backstay rollback portal`."
    ]
    assert engine.done == set(all_steps("maintenance"))


def test_behind_a_closed_door_nothing_opens_before_the_point_of_no_return() -> None:
    kept_and_changed = {
        "maintenance": ("snapshot", "migrate"),
        "reversal": ("snapshot", "reverse"),
        "restore": ("carry", "swap"),
        "undo": ("halt", "swap"),
    }
    assert set(kept_and_changed) == set(CLOSED)
    for operation, (kept, changed) in kept_and_changed.items():
        order = all_steps(operation)
        assert order.index("close") < order.index("halt") <= order.index(kept) < order.index(changed)
        assert order.index(POINT_OF_NO_RETURN) < order.index("open") < order.index("settle")
