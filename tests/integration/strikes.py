"""Death at a step: what promise 2 is tested with. The steps come from `_steps.py`, so a new one is struck by itself.

A strike stops the transaction's service at exactly one record of its journal, kills something there, lets the rest go
on, and then asks: was every request answered by one whole release, did recovery heal, does the next run end where
asked?
"""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from backstay_lab.layout import CHECKOUT
from backstay_lab.scene import APPLICATION, Scene

from ansible_collections.backstay.ops.plugins.module_utils._steps import (
    CLOSED,
    OPERATIONS,
    PHASES,
    POINT_OF_NO_RETURN,
    RESTORES,
    ROLLBACKS,
    all_steps,
)
from ansible_collections.backstay.ops.plugins.module_utils._version import PROTOCOL

UNIT = f"backstay-transaction@{APPLICATION}.service"
STATE = f"/var/lib/backstay/{APPLICATION}"
DEATHS = ("service", "connection", "controller", "host")

# The version whose migration the one before it cannot live with, and which can be reversed.
BEFORE, CHANGING = "1.1.0", "1.6.0"
# What is released by the way: any version that the schema of BEFORE carries.
ORDINARY = "1.0.0"

# What is struck: a configuration release is a release whose payload is live already.
KINDS = {"release": "release", "configuration": "release", "maintenance": "maintenance"} | {
    "rollback": "rollback",
    "reversal": "reversal",
    "restore": "restore",
    "undo": "undo",
}


@dataclass(frozen=True)
class Strike:
    """Who dies, in which kind of run, at which step and moment (begin: recorded, not done; work: done, not told)."""

    death: str
    kind: str
    step: str
    moment: str

    def __str__(self) -> str:
        return f"{self.death}-{self.kind}-{self.step}-{self.moment}"

    @property
    def operation(self) -> str:
        return KINDS[self.kind]

    @property
    def goes_forward(self) -> bool:
        if self.death == "controller" and self.operation in (*ROLLBACKS, *RESTORES):
            return True  # the whole of it was asked for in one call, which needs nobody any more
        order = all_steps(self.operation)
        return order.index(self.step) >= order.index(POINT_OF_NO_RETURN)


def every_strike() -> list[Strike]:
    """Each of the four dies at each step of each kind of run, in turns before the step was done and after it."""
    assert set(KINDS.values()) == set(OPERATIONS), "an operation is not struck by any kind of run"
    return [
        Strike(death, kind, step, ("begin", "work")[(number + row) % 2])
        for kind, operation in KINDS.items()
        for number, step in enumerate(all_steps(operation))
        for row, death in enumerate(DEATHS)
    ]


def sample(count: int, *, seed: int) -> list[Strike]:
    """Some of them, the same for the same seed: every kind of death and of run at least once."""
    everything = every_strike()
    picker = random.Random(seed)
    picked = [
        picker.choice([s for s in everything if (s.death, s.kind) == pair])
        for pair in zip(DEATHS * 2, list(KINDS) * 2, strict=False)
    ]
    rest = [s for s in everything if s not in picked]
    return picked + picker.sample(rest, max(0, count - len(picked)))


@contextmanager
def failpoint(scene: Scene, point: str, host: str = "app1") -> Iterator[None]:
    """The transaction's service sends itself a signal at this record of its journal."""
    directory = f"/run/systemd/system/{UNIT}.d"
    text = f"[Service]\\nEnvironment=BACKSTAY_FAILPOINT={point}\\n"
    # One that is idle from the run before would go on without it.
    arm = f"mkdir -p {directory} && printf '{text}' > {directory}/failpoint.conf && systemctl daemon-reload"
    scene.lab.ssh(host, f"{arm} && systemctl stop {UNIT}")
    try:
        yield
    finally:
        scene.lab.exec(host, "sh", "-c", f"rm -rf {directory} && systemctl daemon-reload")


# A controller that speaks the phases through one SSH connection, as Ansible's modules do through theirs.
_CLIENT = """
import json, socket, sys
def ask(**message):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(sys.argv[1])
        s.sendall(json.dumps({"protocol": int(sys.argv[2]), **message}).encode() + b"\\n")
        answer = json.loads(s.makefile().readlines()[-1])
    print(json.dumps(answer), flush=True)
    if not answer["ok"]:
        sys.exit(1)
    return answer
request = json.loads(sys.argv[3])
done = ask(command="begin", prepare_seconds=3, confirm_seconds=3, request=request)
for command in sys.argv[4:]:
    ask(command=command, transaction=done["transaction"])
"""
_COMMANDS = {"prepare": "begin", "close": "close", "flip": "flip", "watch": "watch", "confirm": "confirm"}


class Run:
    """One release or rollback under way, from this machine: through Ansible, or through a bare SSH connection."""

    def __init__(self, scene: Scene, strike: Strike, host: str = "app1") -> None:
        self.strike = strike
        request = _request(scene, strike)
        if strike.death == "controller":
            command = scene.command(_playbook(strike), **_extra(strike))
        else:
            phases = [_COMMANDS[phase] for phase in PHASES[1:] if OPERATIONS[strike.operation][phase]]
            words = ["python3", "-c", _CLIENT, f"/run/backstay/{APPLICATION}.sock", str(PROTOCOL), json.dumps(request)]
            command = scene.lab.ssh_command(host, shlex.join([*words, *phases]))
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            cwd=CHECKOUT,
            env={**os.environ, "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg")},
        )

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def end(self) -> str:
        """What it said. Waits at most two minutes."""
        try:
            output, _unused = self.process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            self.kill()
            output, _unused = self.process.communicate()
        return output


def _playbook(strike: Strike) -> str:
    if strike.operation in RESTORES:
        return "restore"
    return "rollback" if strike.operation in ROLLBACKS else "release"


def _request(scene: Scene, strike: Strike) -> dict[str, Any]:
    by = {"by": "strike", "why": str(strike)}
    if strike.operation in RESTORES:
        return {"operation": "restore", **_what_is_restored(strike), **by}
    if strike.operation in ROLLBACKS:
        return {"operation": "rollback", "reverse": strike.operation == "reversal", **by}
    if strike.operation == "maintenance":
        payload = {"version": CHANGING, "payload": scene.payload(CHANGING)}
        return {"operation": "release", "strategy": "maintenance", **payload, **by}
    if strike.kind == "release":
        return {"operation": "release", "version": ORDINARY, "payload": scene.payload(ORDINARY), "again": True, **by}
    return {"operation": "release", "again": True, **by}


def _what_is_restored(strike: Strike) -> dict[str, Any]:
    return {"undo": True} if strike.operation == "undo" else {"point": "latest"}


def _extra(strike: Strike) -> dict[str, Any]:
    """The same request as a playbook takes it."""
    if strike.operation in RESTORES:
        return {"why": str(strike), "by": "strike", **_what_is_restored(strike)}
    given = {"why": str(strike), "by": "strike", "again": True, "prepare_seconds": 3, "confirm_seconds": 3}
    if strike.operation == "maintenance":
        return {**given, "version": CHANGING, "maintenance": True}
    if strike.kind == "release":
        return {**given, "version": ORDINARY}
    return {**given, "reverse": True} if strike.operation == "reversal" else given


@dataclass(frozen=True)
class Written:
    """Writes that were acknowledged before a restore or its undoing is struck, by when their rows must be there: in any
    case, only when it went back, only when it went forward."""

    always: tuple[str, ...] = ()
    back: tuple[str, ...] = ()
    forward: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a strike ended: what recovery said last, and how many requests were answered meanwhile."""

    said: str
    requests: int


def carry_out(scene: Scene, strike: Strike, host: str = "app1") -> Outcome:
    """Strike, and check everything that promise 2 says. Raises AssertionError."""
    written = prepare(scene, strike, host)
    before, generation = scene.status(host), _generation(scene, host)
    closed = strike.operation in CLOSED
    since = scene.lab.ssh(host, "date +%s").stdout.strip()
    with TemporaryDirectory(prefix="backstay-strike-") as directory:
        records = Path(directory) / "records.jsonl"
        with scene.load("--records", str(records), "--slow", "0", host=host, rate=20.0) as load:
            time.sleep(0.5)
            said = _strike(scene, strike, host)
            status = scene.settled(host)
            _wait_until_open(scene, host)
            result = load.stop()
        answers = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]
    live, was = status["live"]["id"], before["live"]["id"]
    context = f"{strike}: live was {was} and is {live}; the run said:\n{said[-2000:]}"
    there, gone = [write.token for write in result.writes], []
    if strike.operation in RESTORES:
        assert live == was, context
        now = _generation(scene, host)
        assert (now != generation) == strike.goes_forward, f"{context}\nthe data were {generation} and are {now}"
        if strike.goes_forward:
            # What was acknowledged before the door was closed stays beside, in the data that were left.
            opened = max(answer["at"] for answer in answers if answer["status"] == 503)
            there = [write.token for write in result.writes if write.at > opened]
            gone = [write.token for write in result.writes if write.at < opened]
        there += [*written.always, *(written.forward if strike.goes_forward else written.back)]
        gone += [*(written.back if strike.goes_forward else written.forward)]
    else:
        assert (live != was) == strike.goes_forward, context
    lost = scene.missing_writes(there, host)
    assert not lost, f"{context}\n{len(lost)} of {len(there)} acknowledged writes are gone"
    absent = scene.missing_writes(gone, host)
    assert sorted(absent) == sorted(gone), f"{context}\n{len(gone) - len(absent)} rows are there that are of other data"
    known = {release["id"] for release in status["releases"]}
    wrong = [
        answer
        for answer in answers
        if answer["reason"]
        and not (closed and answer["status"] == 503)
        and not (strike.death == "host" and answer["status"] in (0, 502))  # gone, then nginx is up first
    ]
    assert not wrong, f"{context}\n{len(wrong)} of {len(answers)} requests went wrong, the first: {wrong[:3]}"
    served = set(result.by_release) - {"-"}  # what nginx answers itself names none
    assert served <= known | {live, was}, f"{context}\nanswered by {served}"
    # Where the service lives on, it ends the transaction itself: there is nothing to recover.
    healed = _recovery_said(scene, strike, host, since, context) if strike.death in ("service", "host") else ""
    return Outcome(healed, len(answers))


def next_run_ends_where_asked(scene: Scene, host: str = "app1") -> None:
    """No lock needs a human."""
    after = scene.backstay("release", "--json", "--again", APPLICATION, host=host, check=False)
    assert after["ok"], f"the next release said {after['message']}"
    assert scene.settled(host)["live"]["id"] == after["release"]


def _strike(scene: Scene, strike: Strike, host: str) -> str:
    signal_name = "KILL" if strike.death == "service" else "STOP"
    with failpoint(scene, f"{strike.step}:{strike.moment}:{signal_name}", host):
        run = Run(scene, strike, host)
        if strike.death != "service":
            try:
                _wait_until_stopped(scene, host, run)
            except AssertionError:
                scene.lab.exec(host, "systemctl", "kill", "--signal=CONT", UNIT, check=False)
                raise
            if strike.death == "host":
                scene.lab.kill(host)
                scene.lab.start(host)
                run.kill()
            else:
                run.kill()
                time.sleep(0.3)
                scene.lab.exec(host, "systemctl", "kill", "--signal=CONT", UNIT)
        return run.end()


def _wait_until_stopped(scene: Scene, host: str, run: Run) -> None:
    if stopped(scene, host, run.process):
        return
    ended = run.process.poll() is not None
    run.kill()
    how = "the run ended before it came to that step" if ended else "the service did not come to that step"
    raise AssertionError(f"{run.strike}: {how}:\n{run.end()[-3000:]}")


def stopped(scene: Scene, host: str, run: subprocess.Popen[str]) -> bool:
    """Whether the service stopped itself at the failpoint. Waits a minute and a half, or until the run failed."""
    deadline = time.monotonic() + 90
    asked = f"cat /proc/$(systemctl show -p MainPID --value {UNIT})/stat 2>/dev/null"
    while time.monotonic() < deadline:
        told = scene.lab.exec(host, "sh", "-c", asked, check=False).stdout
        if told and told.rpartition(")")[2].split()[:1] == ["T"]:
            return True
        # A run has its answer at `confirm`, before it settles; one that failed never comes to its step.
        if run.poll() not in (None, 0):
            return False
        time.sleep(0.1)
    return False


def _wait_until_open(scene: Scene, host: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and scene.status(host)["maintenance"]:
        time.sleep(0.2)
    assert not scene.status(host)["maintenance"], "the door stayed closed"


def _recovery_said(scene: Scene, strike: Strike, host: str, since: str, context: str) -> str:
    """What recovery found of this strike: it says so last, after its journal is put away and what must run, runs."""
    asked = f"journalctl --no-pager -o cat -u backstay-recover@{APPLICATION} --since @{since}"
    sentence = f"{APPLICATION}: the {strike.operation} of "
    deadline = time.monotonic() + 30
    while True:
        told = scene.lab.ssh(host, asked).stdout
        found = [line for line in told.splitlines() if line.startswith(sentence) and "was unfinished" in line]
        if found:
            return found[-1]
        assert time.monotonic() < deadline, f"{context}\nsince the strike recovery said: {told or 'nothing'}"
        time.sleep(0.5)


def _generation(scene: Scene, host: str) -> str:
    """Which data are live."""
    return str(scene.lab.ssh(host, f"readlink /opt/{APPLICATION}/data").stdout.strip())


def _write_a_little(scene: Scene, host: str) -> tuple[str, ...]:
    """Writes that were acknowledged, by their tokens."""
    with scene.load("--slow", "0", host=host, rate=30.0) as load:
        time.sleep(2.5)
        written = tuple(write.token for write in load.stop().writes)
    assert written, "nobody wrote anything: there is nothing to be told apart by"
    return written


def _restorable(scene: Scene, strike: Strike, host: str) -> Written:
    """A restore point with rows of its own, and rows that came after it; for an undoing also the restore."""
    scene.settled(host)
    of_the_point = _write_a_little(scene, host)
    scene.backstay("backup", "--json", APPLICATION, host=host)
    since = _write_a_little(scene, host)
    if strike.operation == "restore":
        return Written(always=of_the_point, back=since)
    scene.backstay("restore", "--point", "latest", "--json", APPLICATION, host=host)
    scene.settled(host)
    return Written(always=of_the_point, forward=since)


def prepare(scene: Scene, strike: Strike, host: str = "app1") -> Written:
    """What the strike needs: something live that was proven, something older to go back to, the right schema; and for a
    restore a point, with rows before and after it, which are returned."""
    if strike.operation in RESTORES:
        return _restorable(scene, strike, host)
    status = scene.settled(host)
    if strike.operation in CLOSED:
        if status["live"]["version"] == CHANGING and strike.operation == "maintenance":
            scene.backstay("rollback", "--json", "--reverse", APPLICATION, host=host)
        elif status["live"]["version"] != BEFORE and status["live"]["version"] != CHANGING:
            scene.release(BEFORE, why="before the schema changes")
        scene.settled(host)
        if strike.operation == "reversal" and scene.status(host)["live"]["version"] != CHANGING:
            scene.release(CHANGING, maintenance=True, why="to be reversed")
    elif status["live"]["version"] == CHANGING:
        scene.backstay("rollback", "--json", "--reverse", APPLICATION, host=host)
    status = scene.settled(host)
    while strike.operation != "reversal" and status["rollback_target"] is None:
        scene.backstay("release", "--json", "--again", APPLICATION, host=host)
        status = scene.settled(host)
    if strike.kind in ("release", "maintenance"):
        _offer(scene, ORDINARY if strike.kind == "release" else CHANGING, host)
    return Written()


def _offer(scene: Scene, version: str, host: str) -> None:
    """Lay a payload where a release finds it; one that no release refers to may go with old releases."""
    for source, name in scene.payload_files(version):
        scene.lab.copy(host, source, f"{STATE}/artifacts/{name}")


def ids(strikes: Sequence[Strike]) -> list[str]:
    return [str(strike) for strike in strikes]


if __name__ == "__main__":
    sys.stdout.write(f"{len(every_strike())} strikes\n")
