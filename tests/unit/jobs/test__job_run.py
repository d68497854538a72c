"""One run of a job: its turn, its limits, its result, whom it tells; and what is left when it is killed anywhere."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _catalogue
from ansible_collections.backstay.ops.plugins.module_utils import _job_ping as pings
from ansible_collections.backstay.ops.plugins.module_utils._catalogue import Copy, Point
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, Busy, InputError
from ansible_collections.backstay.ops.plugins.module_utils._job_results import runs, stamp
from ansible_collections.backstay.ops.plugins.module_utils._lock import Lock

from .house import LIVE, PING, House, job, shell, unconfined


def free(path: Path) -> bool:
    """Whether a migration could have the lock."""
    lock = Lock(path)
    taken = lock.take()
    lock.release()
    return taken


def house_of(root: Path, text: str = "echo done", **settings: Any) -> House:
    return House(root, {"tidy": shell(text, **settings)})


def test_a_run_leaves_its_result(tmp_path: Path) -> None:
    house = house_of(tmp_path, "echo going; echo '{\"messages\": 3}' >&2")
    done = house.run("tidy").go(asked=True)
    assert done is not None
    assert (done.ok, done.exit, done.lines, done.counts) == (True, 0, ("going", '{"messages": 3}'), {"messages": 3})
    assert runs(house.layout, house.storage, "tidy") == (done,)
    assert house.state("tidy") == "ok"


def test_a_failing_command_is_a_failure_with_its_last_words(tmp_path: Path) -> None:
    house = house_of(tmp_path, "seq 100; exit 3")
    done = house.run("tidy").go(asked=True)
    assert done is not None
    assert (done.exit, done.why, done.lines[-1], len(done.lines)) == (3, "it ended with exit code 3", "100", 20)
    assert house.fact("tidy")["state"] == "failed"


@pytest.mark.parametrize(
    ("properties", "said"),
    [
        ({"Result": "timeout"}, "longer than 3600 s"),
        ({"Result": "oom-kill"}, "bytes of memory"),
        ({"Result": "signal", "ExecMainStatus": "9"}, "ended by signal 9"),
    ],
)
def test_what_systemd_ended_is_told(tmp_path: Path, properties: dict[str, str], said: str) -> None:
    house = house_of(tmp_path, "exit 1")
    house.properties = properties
    done = house.run("tidy").go(asked=True)
    assert done is not None
    assert done.exit is None
    assert said in done.why


def test_the_command_runs_in_the_live_releases_confinement_and_limits(tmp_path: Path) -> None:
    house = House(tmp_path, {"tidy": job("python", "tidy.py", timeout_seconds=90, memory_max_bytes=64 << 20)})
    seen: list[str] = []

    def look(arguments: Sequence[str], on_line: Callable[[str], None], seconds: float) -> int:
        seen.extend(arguments)
        return 0

    house.run("tidy", spawner=look).go(asked=True)
    assert f"--unit={house.layout.job_process('tidy')}" in seen
    for line in (
        "User=portal",
        "NoNewPrivileges=yes",
        "RuntimeMaxSec=90",
        f"MemoryMax={64 << 20}",
        "TimeoutStopSec=10",
    ):
        assert f"--property={line}" in seen
    assert any(word.startswith("--property=EnvironmentFile=") and LIVE in word for word in seen)
    assert seen[seen.index("--") + 1 :] == [str(house.layout.release(LIVE) / "venv/bin/python"), "tidy.py"]


def test_a_command_that_floods_is_read_in_bounded_memory(tmp_path: Path) -> None:
    house = house_of(tmp_path, "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo end")
    done = house.run("tidy").go(asked=True)
    assert done is not None
    assert (done.lines[-1], max(map(len, done.lines)) <= 2000, len(done.lines)) == ("end", True, 2)


def test_secrets_are_in_no_result(tmp_path: Path) -> None:
    house = house_of(tmp_path, "echo key=hunter22hunter22")
    house.secrets(SECRET_KEY="hunter22hunter22")
    house.run("tidy").go(asked=True)
    assert "hunter22" not in house.layout.job_results("tidy").read_text()


def test_nothing_live_is_a_failure_that_says_so(tmp_path: Path) -> None:
    house = house_of(tmp_path)
    house.layout.active.unlink()
    done = house.run("tidy").go(asked=True)
    assert done is not None
    assert "nothing is live" in done.why


def test_an_unknown_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it has: tidy"):
        house_of(tmp_path).run("tidi")


def test_it_runs_once_for_each_time_that_it_is_due(tmp_path: Path) -> None:
    house = house_of(tmp_path)
    assert house.run("tidy").go() is not None, "it was due this night"
    assert house.run("tidy").go() is None, "whoever starts it once more"
    house.now += timedelta(days=1)
    assert house.run("tidy").go() is not None
    assert len(runs(house.layout, house.storage, "tidy")) == 2


def test_somebody_may_ask_for_a_run_that_is_not_due(tmp_path: Path) -> None:
    house = house_of(tmp_path)
    house.run("tidy").go()
    house.layout.job_asked("tidy").touch()
    house.now += timedelta(seconds=5)
    assert house.run("tidy").go() is not None
    assert not house.layout.job_asked("tidy").exists()
    assert house.run("tidy").go() is None


def test_two_at_once_are_one(tmp_path: Path) -> None:
    house = house_of(tmp_path)
    other = Lock(house.layout.job_lock("tidy"))
    assert other.take(what="job tidy")
    with pytest.raises(Busy, match=r"under way \(job tidy"):
        house.run("tidy").go(asked=True, wait_seconds=0)
    other.release()
    assert runs(house.layout, house.storage, "tidy") == ()
    assert house.run("tidy").go(asked=True) is not None


def test_two_that_really_start_at_once_run_once(tmp_path: Path) -> None:
    house = house_of(tmp_path, "sleep 0.3; echo once")
    outcomes: list[str] = []

    def begin() -> None:
        try:
            outcomes.append("ran" if house.run("tidy").go(wait_seconds=0) else "not due")
        except Busy:
            outcomes.append("busy")

    threads = [threading.Thread(target=begin) for _unused in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("ran") == 1, outcomes
    assert len(runs(house.layout, house.storage, "tidy")) == 1


def test_a_time_that_came_during_the_run_follows_with_overlap_wait(tmp_path: Path) -> None:
    house = house_of(tmp_path, overlap="wait")
    ran: list[str] = []

    def long(arguments: Sequence[str], on_line: Callable[[str], None], seconds: float) -> int:
        ran.append(stamp(house.now))
        if len(ran) < 2:
            house.now += timedelta(days=1)
        return 0

    house.run("tidy", spawner=long).go()
    assert len(ran) == 2


def test_nothing_begins_while_a_release_or_a_restore_is_open(tmp_path: Path) -> None:
    house = house_of(tmp_path)
    house.layout.journal.touch()
    with pytest.raises(Busy, match="tried again each minute"):
        house.run("tidy").go(asked=True, wait_seconds=0)
    house.layout.journal.unlink()
    migration = Lock(house.layout.data_lock)
    assert migration.take(what="migration of 0002-1.1.0")
    with pytest.raises(Busy, match=r"migration of 0002-1\.1\.0"):
        house.run("tidy").go(asked=True, wait_seconds=0)
    assert runs(house.layout, house.storage, "tidy") == (), "it did not even begin"
    migration.release()
    assert house.run("tidy").go(asked=True) is not None


def test_a_release_that_begins_while_it_waits_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    house = house_of(tmp_path)
    host = house.host()
    take = host.data_lock.take

    def late(**options: Any) -> bool:
        house.layout.journal.touch()
        return take(**options)

    monkeypatch.setattr(host.data_lock, "take", late)
    with pytest.raises(Busy, match="just began"):
        house.run("tidy", host=host).go(asked=True, wait_seconds=0)
    assert runs(house.layout, house.storage, "tidy") == ()
    assert free(house.layout.data_lock), "the release is not kept waiting"


def test_it_waits_a_moment_for_its_turn(tmp_path: Path) -> None:
    house = house_of(tmp_path)
    migration = Lock(house.layout.data_lock)
    assert migration.take()
    threading.Timer(0.2, migration.release).start()
    assert house.run("tidy").go(asked=True, wait_seconds=10) is not None


def test_a_migration_waits_for_a_job_and_jobs_do_not_wait_for_each_other(tmp_path: Path) -> None:
    house = House(tmp_path, {"tidy": job(), "count": job()})
    beside: list[bool] = []

    def look(arguments: Sequence[str], on_line: Callable[[str], None], seconds: float) -> int:
        beside.append(free(house.layout.data_lock))
        house.run("count").go(asked=True, wait_seconds=0)
        return 0

    house.run("tidy", spawner=look).go(asked=True)
    assert beside == [False]
    assert house.state("count") == "ok"
    assert free(house.layout.data_lock), "afterwards it is"


def test_a_job_rests_while_a_version_without_its_command_is_live(tmp_path: Path) -> None:
    house = house_of(tmp_path, from_version="1.5.0")
    assert house.run("tidy").go() is None
    assert house.facts() == []
    house.layout.active.unlink()
    house.layout.active.symlink_to(house.layout.socket("0002-1.10.0"))
    flipped = house.now + timedelta(hours=2)
    os.utime(house.layout.active, (flipped.timestamp(),) * 2, follow_symlinks=False)
    assert house.run("tidy").go() is None, "what was due before that version was live is not made up for"
    assert house.state("tidy") == "never"
    release = house.layout.release_configuration("0002-1.10.0") / "application.json"
    release.parent.mkdir()
    release.write_bytes(house.layout.application_file.read_bytes())
    house.now += timedelta(days=1, hours=2)
    assert house.run("tidy").go() is not None
    assert house.state("tidy") == "ok"


# only with a proven restore point

BACKUP = {"repositories": {"offsite": {"location": "sftp:b@store:/portal"}}, "proof": {"nightly": "02:30"}}


@pytest.mark.parametrize(
    ("hours", "level", "said"),
    [
        (None, 0, "no restore point was ever proven"),
        (3, 3, "no restore point was ever proven"),
        (25, 4, "is 25.0 h old"),
        (-2, 4, "is -2.0 h old"),
        (1, 4, ""),
        (23, 5, ""),
    ],
)
def test_what_cannot_be_undone_needs_a_young_proven_restore_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: float | None, level: int, said: str
) -> None:
    jobs = {"tidy": shell("touch deleted", when="daily 03:00", needs_proof_hours=24)}
    house = House(tmp_path, jobs, backup=BACKUP)
    monkeypatch.chdir(tmp_path)
    points = [] if hours is None else [point(stamp(house.now - timedelta(hours=hours)), level)]
    monkeypatch.setattr(_catalogue, "points", lambda layout, storage: tuple(points))
    done = house.run("tidy").go(asked=True)
    assert done is not None
    assert said in done.why
    assert (tmp_path / "deleted").exists() is (said == "")
    assert house.state("tidy") == ("failed" if said else "ok")


def test_what_was_refused_is_told_once_and_made_up_for_when_the_proof_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(tmp_path, {"tidy": shell("true", when="daily 03:00", needs_proof_hours=24)}, backup=BACKUP)
    found: list[Point] = []
    monkeypatch.setattr(_catalogue, "points", lambda layout, storage: tuple(found))
    house.now += timedelta(hours=1)
    first = house.run("tidy").go()
    assert first is not None
    assert first.refused
    for _hour in range(3):
        house.now += timedelta(hours=1)
        assert house.run("tidy").go() is None, "it would be refused again"
        assert house.state("tidy") == "failed", "and that stands"
    found.append(point(stamp(house.now - timedelta(minutes=30)), 4))
    second = house.run("tidy").go()
    assert second is not None
    assert second.ok
    assert house.run("tidy").go() is None, "once"
    assert house.state("tidy") == "ok"
    found.clear()
    house.now += timedelta(days=2)
    assert house.run("tidy").go() is not None, "another night is another refusal"
    assert "no restore point" in house.fact("tidy")["why"]


def test_a_refuted_restore_point_is_no_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = {"tidy": shell("touch deleted", when="daily 03:00", needs_proof_hours=24)}
    house = House(tmp_path, jobs, backup=BACKUP)
    monkeypatch.chdir(tmp_path)
    refuted = point(stamp(house.now - timedelta(hours=1)), 4, refuted="a page is not what it was")
    monkeypatch.setattr(_catalogue, "points", lambda layout, storage: (refuted,))
    house.run("tidy").go(asked=True)
    assert not (tmp_path / "deleted").exists()


def test_a_catalogue_that_cannot_be_trusted_deletes_nothing(tmp_path: Path) -> None:
    house = House(tmp_path, {"tidy": shell("echo deleted", when="daily 03:00", needs_proof_hours=24)}, backup=BACKUP)
    house.layout.backups.write_text('{"number": 1}\n{"number": 7}\nnonsense\n')
    done = house.run("tidy").go(asked=True)
    assert done is not None
    assert not done.ok
    assert done.lines == ()


def point(at: str, level: int, *, refuted: str | None = None) -> Point:
    copy = Copy("disk", "id", "s", "t", "m", at, level=level, refuted=refuted)
    return Point("run", at, 1, repositories={"disk": copy})


# killed at any moment


class Killed(BaseException):
    """Nobody catches it: in the child it stands for the end of the process."""


MOMENTS = ("take turn", "record start", "ping start", "command", "record end", "ping end")
# After which moments there is a run that began, and one that ended well.
BEGUN, ENDED = MOMENTS.index("ping start"), MOMENTS.index("ping end")


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment_the_result_says_so_and_the_next_run_works(tmp_path: Path, moment: str) -> None:
    house = house_of(tmp_path, "echo done", ping=PING)
    house.secrets(**{PING: "http://127.0.0.1:9/x"})
    child = os.fork()
    if child == 0:
        die_in(house, moment)
        os._exit(1)  # it was not killed where it should have been
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    number = MOMENTS.index(moment)
    wanted = "never" if number < BEGUN else "failed" if number < ENDED else "ok"
    assert house.state("tidy") == wanted, house.fact("tidy")
    assert free(house.layout.data_lock), "no lock outlives whoever held it"
    house.now += timedelta(days=1)
    done = house.run("tidy", pinger=lambda url, what: "").go()
    assert done is not None
    assert done.ok
    assert house.state("tidy") == "ok"


def die_in(house: House, moment: str) -> None:
    """Run the job, and kill this process at the beginning of a step."""

    def die(*_arguments: Any, **_options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    host = house.host()
    calls = {"ping": 0, "append": 0}
    append = house.storage.append

    def ping(url: str, what: str) -> str:
        calls["ping"] += 1
        if moment == ("ping start" if what == "/start" else "ping end"):
            die()
        return ""

    def write(path: Path, line: bytes, **options: Any) -> None:
        calls["append"] += 1
        if moment == ("record start" if calls["append"] == 1 else "record end"):
            with path.open("ab") as file:
                file.write(line[: len(line) // 2])  # torn
            die()
        append(path, line, **options)

    house.storage.append = write  # type: ignore[method-assign]  # - the disk of this child alone
    if moment == "take turn":
        host.systemd.stop = die  # type: ignore[method-assign]  # - the step right after it
    spawner = die if moment == "command" else unconfined
    house.run("tidy", host=host, pinger=ping, spawner=spawner).go()


def test_a_runner_that_cannot_start_the_command_still_writes_an_end(tmp_path: Path) -> None:
    house = house_of(tmp_path)

    def refuse(arguments: Sequence[str], on_line: Callable[[str], None], seconds: float) -> int:
        raise BackstayError("`systemd-run` could not be started (No such file or directory): install it.")

    done = house.run("tidy", spawner=refuse).go(asked=True)
    assert done is not None
    assert "could not be started" in done.why


def test_the_belt_ends_a_command_that_systemd_did_not(tmp_path: Path) -> None:
    lines: list[str] = []
    began = time.monotonic()
    code = unconfined(["--", "sh", "-c", "echo on; exec sleep 60"], lines.append, 0.2)
    assert (code, lines) == (-signal.SIGKILL, ["on"])
    assert time.monotonic() - began < 30


# whom it tells


class Receiver:
    """A small real receiver, as healthchecks.io is one."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.answers: list[int] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.seen.append(self.path)
                self.send_response(outer.answers.pop(0) if outer.answers else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_arguments: Any) -> None:
                """Silence."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/ping/5d2a"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.server.shutdown()
    found.server.server_close()


def tell(url: str, what: str) -> str:
    return pings.ping(url, what, sleep=lambda seconds: None, timeout_seconds=2.0)


@pytest.mark.parametrize(
    ("text", "properties", "last"),
    [
        ("exit 0", {}, "/ping/5d2a"),
        ("exit 3", {"Result": "exit-code"}, "/ping/5d2a/3"),
        ("exit 1", {"Result": "timeout"}, "/ping/5d2a/fail"),
    ],
)
def test_start_and_end_are_told(
    tmp_path: Path, receiver: Receiver, text: str, properties: dict[str, str], last: str
) -> None:
    house = house_of(tmp_path, text, ping=PING)
    house.secrets(**{PING: receiver.url})
    house.properties = properties
    house.run("tidy", pinger=tell).go(asked=True)
    assert receiver.seen == ["/ping/5d2a/start", last]


def test_it_is_told_again_where_the_receiver_stumbles(receiver: Receiver) -> None:
    receiver.answers = [503, 500, 200]
    assert tell(receiver.url, "/start") == ""
    assert len(receiver.seen) == 3


def test_a_receiver_that_is_away_fails_no_job_and_its_url_is_shown_to_nobody(
    tmp_path: Path, receiver: Receiver
) -> None:
    house = house_of(tmp_path, ping=PING)
    house.secrets(**{PING: receiver.url})
    receiver.server.shutdown()
    receiver.server.server_close()
    said: list[str] = []
    done = house.run("tidy", host=house.host(said.append), pinger=tell).go(asked=True)
    assert done is not None
    assert done.ok
    assert len(said) == 2
    assert "5d2a" not in " ".join(said) + house.layout.job_results("tidy").read_text()


@pytest.mark.parametrize("url", ["", "https://", "http://[::1", "https://host:notaport/x"])
def test_a_url_that_makes_no_sense_is_only_said(url: str) -> None:
    assert tell(url, "/start") != ""


def test_a_job_without_a_url_tells_nobody(tmp_path: Path) -> None:
    told: list[str] = []
    house_of(tmp_path).run("tidy", pinger=lambda url, what: told.append(what) or "").go(asked=True)
    assert told == []


def test_units_that_are_left_of_a_killed_run_are_ended_first(tmp_path: Path) -> None:
    house = house_of(tmp_path)
    house.run("tidy").go(asked=True)
    assert re.match(r"systemctl stop backstay-running-portal:tidy\.service", house.ran[0])
