"""The transaction's service: one per application, started by systemd when a client connects to its socket.

It holds the application's lock from `begin` to the end, so a lock is never stale: the kernel drops it with the process.
It answers one JSON line with a stream of events and one last object:

    {"protocol": 4, "command": "begin", "request": {...}, "auto": false, "prepare_seconds": 900, "confirm_seconds": 300}
    {"protocol": 4, "command": "close" | "flip" | "watch" | "confirm" | "abort", "transaction": "..."}
    {"protocol": 4, "command": "plan", "request": {...}}
    {"protocol": 4, "command": "status"}

`begin` and `plan` may carry what the controller knows and the host should: "declaration" (the options of the module
`application`) and "proofs" (what vouches for the payload); both are judged and stored before the transaction opens, and
a plan is made as if they had been.

Events: {"event": "step", "step": ..., "title": ..., "seconds": ..., "detail": ...}, {"event": "say", "line": ...} and
{"event": "declared", "changed": ..., "diff": [...], "lines": [...]}.
Last: {"event": "result", "ok": true, ...} or {"event": "result", "ok": false, "message": ..., "exit_code": ...}.

Between its phases it waits for the client, but only until its deadline: a release that was flipped and never confirmed
flips back by itself. A client that goes away changes nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ._engine import Engine
from ._errors import BackstayError, Busy, InputError
from ._fleet_host import digest
from ._lock import Lock
from ._plan import nothing_to_do, plan
from ._steps import CLOSED, POINT_OF_NO_RETURN, TITLES, WAYS_BACK, Recovery, recovery, steps_of
from ._storage import Supposing
from ._transaction import Request, Transaction
from ._version import PROTOCOL

# After which phase the transaction waits for its client, and how that is called.
REACHED = {"prepare": "prepared", "close": "closed", "flip": "flipped", "watch": "watched"}
WAITING = tuple(REACHED.values())
# What a client may ask for, and in which states.
_FROM = {
    "close": ("prepared",),
    "flip": ("prepared", "closed"),
    "watch": ("flipped",),
    "confirm": ("flipped", "watched"),
    "abort": WAITING,
}

_LINE_LIMIT = 1 << 20
_IDLE_SECONDS = 2.0
_SETTINGS = ("auto", "prepare_seconds", "confirm_seconds")
RECOVER_PAUSE_SECONDS = 10.0
DEFAULT_PREPARE_SECONDS = 900.0  # from prepared to flip: several hosts may still be preparing

Emit = Callable[[dict[str, Any]], None]


@dataclass
class Conductor:
    """Takes one transaction through its phases on an engine, with the journal written ahead of each step."""

    engine: Engine
    emit: Emit
    transaction: Transaction | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    _recovering: bool = False

    def begin(self, request: Request) -> Transaction:
        transaction = self.engine.open(request)
        self.transaction = transaction
        self.steps = []
        self._recovering = False
        way_back = transaction.operation in WAYS_BACK
        if way_back:
            self.engine.make_room()
        self._record("begin", "begin", spare=way_back, **transaction.to_dict())
        return transaction

    def phase(self, name: str, should_abort: Callable[[], bool] = lambda: False) -> None:
        """Do the steps of one phase, and the hooks around it. When one fails everything is undone and the error goes
        on."""
        transaction = self._open()
        steps = steps_of(transaction.operation, name)
        if steps:
            self._hooks(f"before_{name}")
        for step in steps:
            if should_abort():
                raise self._undone(BackstayError("The transaction was aborted on request."))
            try:
                self._do(step, transaction)
            except BackstayError as failed:
                if self._past_return():
                    # The release is live and written down; what is left is housekeeping that recovery repeats.
                    self.emit({"event": "say", "line": f"{TITLES[step]}: {failed.message}"})
                    continue
                raise self._undone(failed) from failed
            except Exception as unexpected:  # a bug must not leave half a release behind
                failure = BackstayError(f"The step {step!r} broke ({type(unexpected).__name__}: {unexpected}).")
                if self._past_return():
                    self.emit({"event": "say", "line": failure.message})
                    continue
                raise self._undone(failure) from unexpected
        if should_abort():
            raise self._undone(BackstayError("The transaction was aborted on request."))
        if steps:
            self._hooks(f"after_{name}")

    def _hooks(self, when: str) -> None:
        """One that fails undoes the release."""
        try:
            self.engine.run_hooks(self._open(), when)
        except BackstayError as failed:
            raise self._undone(failed) from failed

    def _open(self) -> Transaction:
        if self.transaction is None:
            raise InputError("No transaction is open.")
        return self.transaction

    def _past_return(self) -> bool:
        return any(step["step"] == POINT_OF_NO_RETURN for step in self.steps)

    def _do(self, step: str, transaction: Transaction) -> None:
        self.emit({"event": "begin", "step": step, "title": TITLES[step]})
        # A release that is written down must be able to end, or no rollback could begin.
        spare = transaction.operation in WAYS_BACK or self._past_return() or self._recovering
        if spare:
            self.engine.make_room()
        self._record(step, "begin", spare=spare)
        _failpoint(step, "begin")
        began = time.monotonic()
        detail = getattr(self.engine, f"do_{step}")(transaction)
        seconds = round(time.monotonic() - began, 3)
        _failpoint(step, "work")
        self._record(step, "done", spare=spare, seconds=seconds, detail=detail)
        _failpoint(step, "done")
        record = {"event": "step", "step": step, "title": TITLES[step], "seconds": seconds, "detail": detail}
        self.steps.append(record)
        self.emit(record)

    def _record(self, step: str, state: str, *, spare: bool, **data: Any) -> None:
        """Write the journal. On a full disk the way back (`spare`) uses the room that was put by for it."""
        try:
            self.engine.journal.write(step, state, **data)
        except BackstayError as refused:
            if not spare or not self.engine.drop_ballast():
                raise
            self.emit({"event": "say", "line": f"{refused.message} The room put by for this is used now."})
            self.engine.journal.write(step, state, **data)

    def _undone(self, failed: BackstayError) -> BackstayError:
        transaction = self.transaction
        try:
            found = self.undo(failed.message)
            if transaction is not None and found.direction == "forward":
                done = self.engine.done_sentence(transaction)
                return BackstayError(
                    f"{failed.message} It was past the point of no return and was finished all the same: {done}",
                    exit_code=failed.exit_code,
                    lines=failed.lines,
                )
        except Exception as worse:  # noqa: BLE001 - also a bug: whoever waits must hear of it, and recovery begin
            return BackstayError(
                f"{failed.message} Undoing it failed too: {_sentence(worse)} Run `backstay recover "
                f"{self.engine.layout.name}`.",
                exit_code=failed.exit_code,
                lines=failed.lines,
            )
        return failed

    def hooks_afterwards(self, transaction: Transaction, when: str, *, error: str = "") -> None:
        """The hooks that come last, `after_confirm` and `on_failure`: what serves, serves when they run, and theirs
        changes nothing. They may take ten minutes each, so they wait until the lock is free, and whoever goes back
        meanwhile does not wait for them. Whoever followed has had the answer: what they say is for the log."""

        def work() -> None:
            try:
                self.engine.run_hooks(transaction, when, error=error, say=_log)
            except Exception as failed:  # noqa: BLE001 - as above; the others are to run
                _log(_sentence(failed))

        self.engine.afterwards.append(work)

    def undo(self, reason: str) -> Recovery:
        """Undo whatever the journal says was begun, the last first, and put the journal away."""
        found = recovery(self.engine.journal.read())
        self.carry_out(found, reason)
        return found

    def carry_out(self, found: Recovery, reason: str) -> None:
        """Do what recovery decided: the rest of the steps forward, or the undoing of those that were begun."""
        engine = self.engine
        if found.begin is None:
            return
        transaction = Transaction.from_dict(found.begin)
        self.transaction = transaction
        self._recovering = True
        engine.stop_hooks(transaction)
        engine.make_room()
        for step in found.steps:
            if found.direction == "forward":
                self._do(step, transaction)
            else:
                self._record(step, "undo", spare=True)
                getattr(engine, f"undo_{step}")(transaction, reason)
                self._record(step, "undone", spare=True)
                self.emit({"event": "undone", "step": step, "title": TITLES[step]})
        if found.direction == "back":
            engine.settle()
        self.end(found.direction)
        if found.direction == "back":  # whoever undid it: a step that failed, a person, a deadline, or recovery
            self.hooks_afterwards(transaction, "on_failure", error=reason)

    def end(self, how: str) -> None:
        transaction = self._open()
        self._record("end", "done", spare=True, how=how)
        self.engine.journal.close(transaction.id)
        self.engine.data_lock.release()
        self.transaction = None

    def result(self) -> dict[str, Any]:
        transaction = self._open()
        return {
            "event": "result",
            "ok": True,
            "changed": True,
            "transaction": transaction.id,
            "operation": transaction.operation,
            "release": transaction.candidate,
            "previous": transaction.previous,
            "version": transaction.version,
            "payload": transaction.payload,
            "configuration": digest(self.engine, transaction.candidate),
            "live": self.engine.live(),
            "watch_seconds": self.engine.watch_seconds(transaction),
            "message": self.engine.done_sentence(transaction),
            "notes": self.engine.notes(transaction.candidate),
            "steps": list(self.steps),
            "seconds": round(sum(step["seconds"] for step in self.steps), 3),
        }


def _failpoint(step: str, moment: str) -> None:
    """Where the chaos tests strike. `BACKSTAY_FAILPOINT` is `<step>:<moment>:<signal>`, with the moments begin (the
    record is written, nothing is done), work (it is done, the record of that is not written) and done. The service
    then sends itself that signal, KILL or STOP, so that a sweep strikes at exactly one place, every time."""
    if os.environ.get("BACKSTAY_FAILPOINT", "").startswith(f"{step}:{moment}:"):
        name = os.environ["BACKSTAY_FAILPOINT"].rpartition(":")[2]
        os.kill(os.getpid(), signal.Signals[f"SIG{name}"])


def recover(engine: Engine, *, forward: bool = False, emit: Emit = lambda event: None) -> dict[str, Any]:
    """Finish or undo an unfinished transaction, then make what must run, run. The caller holds the lock.

    Says what it found. Safe to repeat, and to run when nothing is wrong. Where it fails, what the link names is run all
    the same, and the transaction stays open for the next.
    """
    try:
        return _recover(engine, forward=forward, emit=emit)
    except Exception:
        with contextlib.suppress(BackstayError):
            engine.serve()
        raise


def _recover(engine: Engine, *, forward: bool, emit: Emit) -> dict[str, Any]:
    conductor = Conductor(engine, emit)
    found = recovery(engine.journal.read(), forward=forward)
    name = engine.layout.name
    if found.begin is None:
        engine.storage.remove(engine.layout.journal)  # without a whole record it is of no transaction
        settled = engine.settle()
        return {"found": "nothing", "live": engine.live(), "message": f"{name}: no transaction was open; {settled}."}
    transaction = Transaction.from_dict(found.begin)
    reason = f"the transaction died: {found.reason}"
    if found.direction == "none":
        conductor.transaction = transaction
        engine.journal.close(transaction.id)
        conductor.transaction = None
        verb = "only its journal was left to put away"
    else:
        conductor.carry_out(found, reason)
        stays = "the data are as they were" if transaction.operation in CLOSED else "additive migrations stay"
        verb = "finished" if found.direction == "forward" else f"undone ({stays})"
    settled = engine.settle()
    live = engine.live()
    return {
        "found": found.direction,
        "operation": transaction.operation,
        "release": transaction.candidate,
        "transaction": transaction.id,
        "live": live,
        "message": (
            f"{name}: the {transaction.operation} of {transaction.candidate} was unfinished ({found.reason}) "
            f"and was {verb}; "
            f"live is {live or 'nothing'}; {settled}."
        ),
    }


def recover_all(
    engine: Engine,
    lock: Lock,
    *,
    forward: bool,
    patience_seconds: float,
    tell: Callable[[dict[str, Any]], None],
) -> None:
    """Recover until nothing is left to, and give up the lock, which the caller holds; then wait for the last hooks.

    What recovery needs may not be there yet, at boot a database for one: it is tried again for `patience_seconds`. A
    transaction that dies while the hooks run is recovered here too, for systemd does not start a second time what is at
    work. Raises BackstayError where it fails.
    """
    beside: list[threading.Thread] = []
    while True:
        tell(_recover_patiently(engine, forward=forward, seconds=patience_seconds))
        lock.release()
        for work in engine.due_afterwards():
            beside.append(threading.Thread(target=work, daemon=True))
            beside[-1].start()
        while not (engine.layout.journal.exists() and lock.take()):
            if not any(thread.is_alive() for thread in beside):
                return
            time.sleep(0.5)


def _recover_patiently(engine: Engine, *, forward: bool, seconds: float) -> dict[str, Any]:
    until = time.monotonic() + seconds
    while True:
        try:
            return recover(engine, forward=forward)
        except BackstayError as failed:
            if time.monotonic() >= until:
                raise
            engine.say(f"{failed.message} It is tried again for {until - time.monotonic():.0f} s.")
            time.sleep(RECOVER_PAUSE_SECONDS)


class _Peer:
    """One connection: a line in, lines out. A peer that went away is no error."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.buffer = b""
        connection.setblocking(False)

    def send(self, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode() + b"\n"
        with contextlib.suppress(OSError):
            self.connection.setblocking(True)
            self.connection.settimeout(2.0)
            self.connection.sendall(data)

    def close(self) -> None:
        self.connection.close()


class Service:
    """Listens, and gives one command after another to the worker thread that conducts."""

    def __init__(self, engine: Engine, listener: socket.socket) -> None:
        self.engine = engine
        self.listener = listener
        self.lock = Lock(engine.layout.lock)
        self.conductor = Conductor(engine, self._emit)
        self.state = "idle"  # idle, working, one of WAITING, settling
        self.settings: dict[str, Any] = {}
        self.deadline: float | None = None
        self.abort = threading.Event()
        self.deciding = threading.Lock()  # whoever aborts and whoever confirms: one of them is first
        self.decided = False
        self.waiting: list[tuple[_Peer, dict[str, Any]]] = []  # begins that wait for the settling to end
        self.beside: list[threading.Thread] = []  # what goes on whatever the state is
        self.follower: _Peer | None = None
        self.inbox: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
        self.wake_read, self.wake_write = socket.socketpair()
        self.worker: threading.Thread | None = None
        engine.aborted = self.abort.is_set
        engine.interrupted = lambda: bool(self.waiting)
        engine.say = lambda line: self._emit({"event": "say", "line": line})

    # the loop: the only place that accepts, so that deciding to end cannot race with a connection

    def serve(self) -> int:
        """Serve until nothing is open. Returns the exit code: 1 when a transaction was left unfinished."""
        selector = selectors.DefaultSelector()
        self.listener.setblocking(False)
        self.wake_read.setblocking(False)
        selector.register(self.listener, selectors.EVENT_READ, "listener")
        selector.register(self.wake_read, selectors.EVENT_READ, "wake")
        idle_since = time.monotonic()
        peers: set[_Peer] = set()
        while True:
            timeout = _IDLE_SECONDS
            if self.deadline is not None:
                timeout = max(0.0, min(timeout, self.deadline - time.monotonic()))
            for key, _unused in selector.select(timeout):
                if key.data == "listener":
                    with contextlib.suppress(BlockingIOError):
                        connection, _address = self.listener.accept()
                        peer = _Peer(connection)
                        peers.add(peer)
                        selector.register(connection, selectors.EVENT_READ, peer)
                elif key.data == "wake":
                    with contextlib.suppress(BlockingIOError):
                        self.wake_read.recv(4096)
                else:
                    peer = key.data
                    message = self._receive(peer)
                    if message is not None:
                        selector.unregister(peer.connection)
                        peers.discard(peer)
                        if message:
                            self._command(peer, message)
                        else:
                            peer.close()
                    idle_since = time.monotonic()
            self._collect()
            if self.state in WAITING and self.deadline is not None and time.monotonic() >= self.deadline:
                self._expire()
            if self.state != "idle" or peers or self.waiting or any(each.is_alive() for each in self.beside):
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since >= _IDLE_SECONDS:
                return 1 if self.engine.layout.journal.exists() else 0

    def _receive(self, peer: _Peer) -> dict[str, Any] | None:
        """A whole message; {} when the peer went away or sent rubbish; None when the rest is still to come."""
        try:
            data = peer.connection.recv(65536)
        except BlockingIOError:
            return None
        except OSError:
            return {}
        if not data:
            return {}
        peer.buffer += data
        if b"\n" not in peer.buffer:
            return {} if len(peer.buffer) > _LINE_LIMIT else None
        try:
            message = json.loads(peer.buffer.partition(b"\n")[0])
        except ValueError:
            return {}
        return message if isinstance(message, dict) else {}

    # commands

    def _command(self, peer: _Peer, message: dict[str, Any]) -> None:
        try:
            if message.get("protocol") != PROTOCOL:
                raise InputError(
                    f"The backstay on this host speaks protocol {PROTOCOL} and the caller {message.get('protocol')}: "
                    "bring both to one version with playbooks/site.yml."
                )
            self._dispatch(peer, message)
        except BackstayError as refused:
            _answer_error(peer, refused)

    def _dispatch(self, peer: _Peer, message: dict[str, Any]) -> None:
        command = message.get("command")
        if command == "status":
            peer.send({"event": "result", "ok": True, **self.snapshot()})
            peer.close()
            return
        if command == "plan":
            # Counting what would be lost takes its time, and meanwhile somebody may want to abort.
            self._go_beside(self._plan, peer, message)
            return
        if command == "begin":
            if self.state == "settling":
                self.waiting.append((peer, message))  # the settling sees it and cuts itself short
                return
            if self.state != "idle":
                raise Busy(self._busy())
            self._begin(peer, message)
            return
        if command not in _FROM:
            raise InputError(f"The command {command!r} is unknown to this backstay: bring both sides to one version.")
        transaction = self.conductor.transaction
        if transaction is None or (message.get("transaction") not in (None, transaction.id)):
            raise InputError(
                f"There is no open transaction {message.get('transaction') or ''} of {self.engine.layout.name}: "
                f"it ended, or "
                "its deadline passed; see `backstay history`."
            )
        if command == "abort" and self.state == "working":
            with self.deciding:
                if self.decided:
                    raise InputError(
                        f"It is too late to abort: {transaction.candidate} is being confirmed; to go back, run "
                        f"`backstay rollback {self.engine.layout.name}`."
                    )
                self.abort.set()
            peer.send({"event": "result", "ok": True, "message": "It is undone after the present step."})
            peer.close()
            return
        skipped = command == "flip" and self.state == "prepared" and steps_of(transaction.operation, "close")
        if self.state not in _FROM[command] or skipped:
            raise InputError(
                f"{command!r} does not fit now: the transaction of {transaction.candidate} is {self.state}."
            )
        self._start(peer, command)

    def _plan(self, peer: _Peer, message: dict[str, Any]) -> None:
        try:
            request = Request.from_dict(message.get("request") or {})
            supposed = self._take_over(peer, message, request, dry=True)
            engine = replace(self.engine, storage=Supposing(supposed)) if supposed else self.engine
            brought = {"proofs": message["proofs"]} if message.get("proofs") else {}
            peer.send(plan(engine, request, **brought))
            peer.close()
        except BackstayError as refused:
            _answer_error(peer, refused)
        except Exception as unexpected:  # noqa: BLE001 - whoever asked must have an answer, and nothing was touched
            _answer_error(peer, BackstayError(f"The plan broke ({type(unexpected).__name__}: {unexpected})."))

    def _begin(self, peer: _Peer, message: dict[str, Any]) -> None:
        # Recovery holds the same lock for a moment after a crash; waiting a little is kinder than refusing.
        if not self.lock.take(wait_seconds=20.0):
            raise Busy(
                f"{self.engine.layout.name} is being recovered or restored just now: wait for `backstay status` "
                f"to say that "
                "it is done, then run it again."
            )
        try:
            if self.engine.layout.journal.exists():
                peer.send({"event": "say", "line": recover(self.engine)["message"]})
                self._go_afterwards()
            request = Request.from_dict(message.get("request") or {})
            self._take_over(peer, message, request, dry=False)
            if self.engine.is_live(request):
                self.lock.release()
                peer.send(nothing_to_do(self.engine))
                peer.close()
                return
            self.settings = {name: message[name] for name in _SETTINGS if name in message}
            self.abort.clear()
            self.decided = False
            self.engine.start_prober(self.conductor.begin(request))
        except BaseException:
            self.lock.release()
            raise
        self._start(peer, "prepare")

    def _take_over(
        self, peer: _Peer, message: dict[str, Any], request: Request, *, dry: bool
    ) -> Mapping[Path, bytes] | None:
        """Take over what the message carries beside the request; with `dry` it is only judged, and the files that it
        would write are returned, by their paths. Raises BackstayError."""
        layout = self.engine.layout
        files: Mapping[Path, bytes] | None = None
        declaration, proofs = message.get("declaration"), message.get("proofs")
        if declaration:
            from ._declare import declare

            if declaration["application"].get("name") != layout.name:
                raise InputError(f"What was declared with this release is not {layout.name}: run it again.")
            try:
                declared, planned = declare(declaration, check_mode=dry)
            except OSError as refused:  # whoever asked must have an answer; declaring can be done again
                raise BackstayError(
                    f"{layout.name} could not be declared ({refused}): run playbooks/site.yml, then release again."
                ) from refused
            told = {"changed": planned.changed, "diff": declared.diff(planned), "lines": list(declared.remarks)}
            peer.send({"event": "declared", **told})
            files = declared.desired.files
        if proofs and request.payload:
            from ._attestation import place

            place(
                layout,
                proofs,
                application=layout.name,
                version=request.version or "",
                payload=request.payload,
                storage=self.engine.storage,
                runner=self.engine.runner,
                dry=dry,
            )
        return files

    def _start(self, peer: _Peer | None, command: str) -> None:
        self.state = "working"
        self.deadline = None
        self.follower = peer
        self.worker = threading.Thread(target=self._work, args=(command,), daemon=True)
        self.worker.start()

    # the worker thread

    def _work(self, command: str) -> None:
        conductor = self.conductor
        try:
            if command == "abort":
                transaction = conductor.transaction
                conductor.undo("aborted on request")
                self._post(
                    "ended",
                    {"event": "result", "ok": True, "message": f"{transaction and transaction.candidate} undone"},
                )
                return
            phases = list(REACHED) if command == "prepare" and self.settings.get("auto") else [command]
            for phase in phases:
                if phase != "confirm":
                    conductor.phase(phase, self.abort.is_set)
            if command == "confirm" or self.settings.get("auto"):
                self._confirm()
                return
            self._post(REACHED[command], conductor.result())
        except Exception as broken:  # noqa: BLE001 - a worker that dies silently would hold lock and door for ever
            failed = broken if isinstance(broken, BackstayError) else self._broken(broken)
            conductor.transaction = None
            self._post(
                "ended",
                {
                    "event": "result",
                    "ok": False,
                    "message": failed.message,
                    "exit_code": failed.exit_code,
                    "lines": list(failed.lines),
                    "live": self.engine.live(),
                    "steps": list(conductor.steps),
                },
            )

    def _broken(self, broken: Exception) -> BackstayError:
        """What is a bug, or a disk that refuses: recovery begins when the service ends, and can be asked for."""
        return BackstayError(f"{_sentence(broken)} Run `backstay recover {self.engine.layout.name}`, then look at it.")

    def _confirm(self) -> None:
        """Confirm, answer, and only then settle: nobody waits for old connections to drain."""
        conductor = self.conductor
        transaction = conductor._open()
        steps = steps_of(transaction.operation, "confirm")
        answered = steps.index("settle")
        conductor._hooks("before_confirm")
        with self.deciding:
            self.decided = not self.abort.is_set()
        if not self.decided:
            raise conductor._undone(BackstayError("The transaction was aborted on request."))
        for step in steps[:answered]:
            try:
                conductor._do(step, transaction)
            except BackstayError as failed:
                if step == POINT_OF_NO_RETURN:
                    raise conductor._undone(failed) from failed
                self._not_done(step, failed)
        self._post("settling", conductor.result())
        for step in steps[answered:]:
            try:
                conductor._do(step, transaction)
            except (BackstayError, OSError) as failed:
                self._not_done(step, failed)
        conductor.end("confirmed")
        conductor.hooks_afterwards(transaction, "after_confirm")
        self._post("ended", {})

    def _not_done(self, step: str, failed: Exception) -> None:
        """It is live and written down; whoever settles next does the rest."""
        _log(f"{step}: {failed}")
        self.conductor._record(step, "failed", spare=True, message=str(failed))

    def _post(self, state: str, answer: dict[str, Any]) -> None:
        self.inbox.put((state, answer))
        self.wake_write.send(b".")

    def _emit(self, event: dict[str, Any]) -> None:
        follower = self.follower
        if follower is not None:
            follower.send(event)

    def _collect(self) -> None:
        """What the worker says goes to the client that follows, and decides what may come next."""
        while True:
            try:
                state, answer = self.inbox.get_nowait()
            except queue.Empty:
                return
            if answer and self.follower is not None:
                self.follower.send(answer)
                self.follower.close()
                self.follower = None
            self.state = "idle" if state == "ended" else state
            if self.state in WAITING and self.abort.is_set():
                # It was asked for while the last step of the phase was at work.
                self._start(None, "abort")
                continue
            waits_for_others = state == "closed" and not steps_of(self._operation(), "close")
            if state == "prepared" or waits_for_others:
                self.deadline = time.monotonic() + float(
                    self.settings.get("prepare_seconds") or DEFAULT_PREPARE_SECONDS
                )
            elif state in WAITING:
                self.deadline = time.monotonic() + float(
                    self.settings.get("confirm_seconds") or self.engine.application().releases.confirm_seconds
                )
            elif state == "ended":
                self.deadline = None
                self.engine.stop_prober()
                self.lock.release()
                self._go_afterwards()
                while self.waiting and self.state == "idle":
                    peer, message = self.waiting.pop(0)
                    self._command(peer, message)
                for peer, _unused in self.waiting:
                    _answer_error(peer, Busy(self._busy()))
                self.waiting.clear()

    def _operation(self) -> str:
        transaction = self.conductor.transaction
        return transaction.operation if transaction else "release"

    def _expire(self) -> None:
        """The dead-man switch: nobody flipped, or nobody confirmed, in time."""
        what = "flipped" if self.state in ("prepared", "closed") else "confirmed"
        self.state = "working"
        self.deadline = None

        def work() -> None:
            try:
                self.conductor.undo(f"nobody {what} it before its deadline")
            except Exception as failed:  # noqa: BLE001 - recovery goes on where this ended
                _log(_sentence(failed))
            self.conductor.transaction = None
            self._post("ended", {})

        self.worker = threading.Thread(target=work, daemon=True)
        self.worker.start()

    def _go_afterwards(self) -> None:
        """What waited until nothing is open goes on beside whatever comes next."""
        for work in self.engine.due_afterwards():
            self._go_beside(work)

    def _go_beside(self, work: Callable[..., None], *arguments: Any) -> None:
        self.beside = [each for each in self.beside if each.is_alive()]
        self.beside.append(threading.Thread(target=work, args=arguments, daemon=True))
        self.beside[-1].start()

    # what others are told

    def snapshot(self) -> dict[str, Any]:
        transaction = self.conductor.transaction
        if transaction is None:
            return {"state": "idle"}
        return {
            "state": self.state,
            "transaction": transaction.id,
            "operation": transaction.operation,
            "release": transaction.candidate,
            "by": transaction.request.by,
            "began": transaction.began,
            "deadline_seconds": None if self.deadline is None else round(self.deadline - time.monotonic(), 1),
        }

    def _busy(self) -> str:
        seen = self.snapshot()
        remedy = (
            f"`backstay confirm {self.engine.layout.name}` keeps it, `backstay abort {self.engine.layout.name}` "
            f"undoes it"
            if self.state in WAITING
            else f"wait for it, or undo it with `backstay abort {self.engine.layout.name}`"
        )
        return (
            f"Another transaction of {self.engine.layout.name} is open: the {seen.get('operation')} of "
            f"{seen.get('release')} "
            f"by {seen.get('by')} since {seen.get('began')} ({self.state}); {remedy}."
        )


def _sentence(failed: Exception) -> str:
    """What failed, also where it is a bug."""
    return failed.message if isinstance(failed, BackstayError) else f"It broke ({type(failed).__name__}: {failed})."


def _log(line: str) -> None:
    """To the journal, through the service's standard error."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _answer_error(peer: _Peer, refused: BackstayError) -> None:
    peer.send(
        {
            "event": "result",
            "ok": False,
            "message": refused.message,
            "exit_code": refused.exit_code,
            "lines": list(refused.lines),
        }
    )
    peer.close()


def inherited_listener() -> socket.socket:
    """The socket that systemd hands over (sd_listen_fds(3)). Raises BackstayError when there is none."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        raise BackstayError(
            "The transaction's service is started by systemd through its socket, not by hand: use `backstay "
            "release` or "
            "`backstay rollback`."
        )
    return socket.socket(fileno=3)
