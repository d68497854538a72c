"""Each fault of the issue: one message when it begins, by its declared route, and one when it is over."""

from __future__ import annotations

import datetime as dt
import errno
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _incidents, _notify, _observe, _samples
from ansible_collections.backstay.ops.plugins.module_utils._application import Application
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._job_results import Run, closed, declaration, record, stamp
from ansible_collections.backstay.ops.plugins.module_utils._lock import Lock
from ansible_collections.backstay.ops.plugins.module_utils._observe import Answered
from ansible_collections.backstay.ops.plugins.module_utils._samples import ApplicationSample, HostSample, Sample

from .world import ALERTS, SECRET, START, Disk, MailServer, Webhook, World

Change = Callable[[World], None]
FAULTS: dict[str, tuple[dict[str, Any], tuple[Change, Change], tuple[int, int], str, str]] = {}


def fault(name: str, key: str, way: str, minutes: tuple[int, int], **objectives: Any) -> Callable[[Any], Any]:
    """Registers a pair (break it, mend it); `key` is the incident's, `way` how its messages go, `minutes` how long it
    takes at most until they go."""

    def register(pair: Any) -> Any:
        FAULTS[name] = ({"objectives": objectives} if objectives else {}, pair(), minutes, key, way)
        return pair

    return register


def setting(**values: Any) -> Callable[[World], None]:
    def change(world: World) -> None:
        for name, value in values.items():
            setattr(world, name, value)

    return change


Pair = tuple[Change, Change]


@fault("cpu", "host/cpu", "chat", (5, 5))
def cpu() -> Pair:
    return setting(cpu=0.95), setting(cpu=0.1)


@fault("disk", "host/disk:/", "mail", (2, 2))
def disk() -> Pair:
    return setting(used=0.9), setting(used=0.5)


@fault("memory", "host/memory", "mail", (5, 5))
def memory() -> Pair:
    def proc(available: int) -> Callable[[World], None]:
        text = f"MemTotal: 1000 kB\nMemAvailable: {available} kB\n"
        return lambda world: (world.root / "proc/meminfo").write_text(text) and None

    return proc(100), proc(700)


@fault("no digest", "host/digest:late", "both", (1, 1))
def digest() -> Pair:
    def asked(world: World) -> None:
        timer = world.house.digest_timer
        timer.parent.mkdir(parents=True, exist_ok=True)
        timer.touch()
        world.house.digest.unlink(missing_ok=True)
        os.utime(timer, (world.now.timestamp() - 27 * 3600,) * 2)

    def sent(world: World) -> None:
        world.house.state.mkdir(parents=True, exist_ok=True)
        world.house.digest.write_text(json.dumps({"format": 1, "at": world.now.isoformat()}))

    return asked, sent


@fault("a failed unit", "host/units:portal-sync.service", "mail", (2, 1))
def unit() -> Pair:
    return setting(failed=["portal-sync.service"]), setting(failed=[])


@fault("a page that nobody writes", "host/units:backstay-page.timer", "mail", (2, 1))
def page() -> Pair:
    states = ("LoadState=loaded\nActiveState=inactive", "LoadState=loaded\nActiveState=active")
    return setting(page_timer=states[0]), setting(page_timer=states[1])


@fault("a process that died", "host/units:portal-0001-1.0.0-web.service", "mail", (1, 10))
def died() -> Pair:
    def once(world: World) -> None:
        world.restarts["portal-0001-1.0.0-web.service"] = 1

    return once, lambda _world: None


@fault("unwell", "portal/health", "both", (1, 2))
def unwell() -> Pair:
    return setting(why="/healthz/ answered 503, expected 200"), setting(why="")


def renewed(**left: float) -> Change:
    """It is looked at each quarter of an hour."""

    def change(world: World) -> None:
        world.now += dt.timedelta(minutes=15)
        world.until = START + dt.timedelta(**left)

    return change


@fault("certificate", "portal/certificate", "mail", (1, 1))
def certificate() -> Pair:
    return renewed(days=12), renewed(days=89)


@fault("certificate that ends", "portal/certificate", "mail", (1, 1))
def ending() -> Pair:
    return renewed(hours=30), renewed(days=89)


@fault("5xx", "portal/server_errors", "chat", (3, 4))
def server_errors() -> Pair:
    def answers(errors: int) -> Callable[[World], None]:
        def change(world: World) -> None:
            world.visit(errors, status=502)
            world.visit(100 - errors)

        return change

    return answers(20), answers(0)


@fault("errors", "portal/errors", "mail", (4, 9))
def errors() -> Pair:
    def answers(count: int) -> Callable[[World], None]:
        def change(world: World) -> None:
            world.visit(count, status=500)
            world.visit(100 - count)

        return change

    return answers(3), answers(0)


@fault("slow answers", "portal/response", "mail", (4, 3), p95_seconds=60.0)
def slow() -> Pair:
    return lambda world: world.visit(30, seconds=1.6), lambda world: world.visit(30, seconds=0.1)


@fault("some slow answers", "portal/p95", "mail", (4, 5))
def p95() -> Pair:
    def some(world: World) -> None:
        world.visit(90, seconds=0.1)
        world.visit(10, seconds=4.0)

    return some, lambda world: world.visit(100, seconds=0.1)


@fault("many requests", "portal/requests", "mail", (7, 7), requests_per_minute=50)
def requests() -> Pair:
    return lambda world: world.visit(80), lambda world: world.visit(5)


@fault("many users", "portal/users", "mail", (3, 4), users=40)
def users() -> Pair:
    return lambda world: world.visit(80), lambda world: world.visit(5)


@fault("a slow API", "portal/api", "mail", (4, 3), api_seconds=0.5)
def api() -> Pair:
    return (
        lambda world: world.visit(30, seconds=0.8, path="/api/messages/"),
        lambda world: world.visit(30, seconds=0.05, path="/api/messages/"),
    )


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_once_when_it_begins_and_once_when_it_is_over(name: str, tmp_path: Path) -> None:
    more, (break_it, mend_it), (begins, ends), key, way = FAULTS[name]
    world = World(tmp_path, **more)
    assert world.minutes(5, lambda: mend_it(world)) == [], "nothing is wrong yet"
    assert (world.texts(), world.mailed) == ([], [])
    world.minutes(begins, lambda: break_it(world))
    begun = world.texts(), world.subjects()
    world.minutes(2, lambda: break_it(world))
    world.minutes(ends + 1, lambda: mend_it(world))
    by_chat, by_mail = world.texts(), world.subjects()
    shown = f"by chat: {by_chat}\nby mail: {by_mail}\nopen: {_incidents.opened(world.house, world.storage)}"
    chats, mails = int(way != "mail"), int(way != "chat")
    assert (len(begun[0]), len(begun[1])) == (chats, mails), f"when it began, {name}: {shown}"
    assert (len(by_chat), len(by_mail)) == (2 * chats, 2 * mails), f"in all, {name}: {shown}"
    for texts in (by_chat, by_mail):
        assert not texts or ("OVER" not in texts[0] and "OVER" in texts[1]), shown
    told = [row["key"] for row in _incidents.history(world.house, world.storage, 1, world.now)]
    assert told == [key, key], shown


@pytest.mark.parametrize("name", ["cpu", "memory", "disk", "a failed unit", "unwell"])
def test_who_looks_every_other_minute_sees_the_same(name: str, tmp_path: Path) -> None:
    """Applications that hang are waited for, one after another: the next look comes later."""
    more, (break_it, mend_it), _minutes, key, way = FAULTS[name]
    world = World(tmp_path, **more)
    world.pace = 125
    assert world.minutes(5, lambda: mend_it(world)) == []
    assert key in world.minutes(4, lambda: break_it(world))
    world.minutes(5, lambda: mend_it(world))
    told = world.subjects() if way == "mail" else world.texts()
    assert ["OVER" in text for text in told] == [False, True], told


@pytest.mark.parametrize("name", ["cpu", "memory", "disk", "a failed unit", "unwell"])
def test_a_look_that_was_missed_ends_no_incident(name: str, tmp_path: Path) -> None:
    more, (break_it, _mend_it), _minutes, key, _way = FAULTS[name]
    world = World(tmp_path, **more)
    world.minutes(6, lambda: break_it(world))
    begun = [*world.texts(), *world.subjects()]
    assert begun
    world.pace = 420
    world.observe()
    world.pace = 60
    assert key in world.minutes(5)
    assert [*world.texts(), *world.subjects()] == begun


def test_what_began_ends_with_the_objective_that_the_file_declares_no_more(tmp_path: Path) -> None:
    world = World(
        tmp_path,
        objectives={"users": 40, "api_seconds": 0.5},
        backup={"repositories": {"disk": {"location": "/srv/backup"}}},
    )
    crossed = world.minutes(4, lambda: world.visit(80, seconds=0.8, path="/api/messages/"))
    assert {"portal/users", "portal/api", "portal/backup"} <= set(crossed)
    world.describe()
    world.minutes(2, lambda: world.visit(80, seconds=0.8, path="/api/messages/"))
    assert _open(world) == ()
    assert sum("any more" in text for text in world.mailed) == 3, world.mailed


def test_a_job_that_failed_and_runs_again_is_not_well_before_it_succeeds(tmp_path: Path) -> None:
    jobs = {"sync": {"command": ["true"], "when": "hourly"}}
    world = World(tmp_path, schedules={"scheduler": "systemd", "jobs": jobs})
    lock = Lock(world.layout.job_lock("sync"))

    def begun() -> Run:
        run = Run("sync", stamp(world.now))
        record(world.layout, world.storage, run)
        assert lock.take()
        return run

    def ended(run: Run, code: int) -> None:
        record(world.layout, world.storage, closed(run, world.now, code=code))
        lock.release()

    for directory in (world.layout.jobs, world.layout.job_lock("sync").parent):
        directory.mkdir(parents=True, exist_ok=True)
    world.layout.declared_jobs.write_bytes(declaration(world.application.schedules, None, START))
    for _unused in range(3):
        run = begun()
        world.minutes(2)
        ended(run, 1)
        world.minutes(2)
    assert len(world.mailed) == 1, world.subjects()
    assert "The job sync of portal is failed" in world.subjects()[0]
    run = begun()
    world.minutes(2)
    ended(run, 0)
    world.minutes(1)
    assert ["OVER" in subject for subject in world.subjects()] == [False, True]


def test_what_begins_is_told_at_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.minutes(3, lambda: world.visit(100))
    world.visit(100, status=500)
    assert "portal/server_errors" in world.minutes(1)
    assert len(world.texts()) == 1, world.texts()
    world.why = "connection refused"
    assert "portal/health" in world.minutes(1)
    assert len(world.texts()) == 2, world.texts()


def test_a_disk_that_fills_up_is_one_incident_which_becomes_worse(tmp_path: Path) -> None:
    world = World(tmp_path)
    for used, minutes in ((0.5, 3), (0.9, 3), (0.97, 3), (0.94, 3), (0.97, 3), (0.5, 3)):
        world.used = used
        world.minutes(minutes)
    assert [subject.partition("]")[0] for subject in world.subjects()] == ["[WARN", "[NOW PAGE", "[OVER"]
    sudden = World(tmp_path / "sudden")
    sudden.minutes(3)
    sudden.used = 1.0
    sudden.minutes(3)
    assert [subject.partition("]")[0] for subject in sudden.subjects()] == ["[PAGE"], "one message, though two marks"


class Full(Disk):
    """A disk on which there is room again once what was kept back is given away."""

    def __init__(self, kept_back: Path) -> None:
        super().__init__()
        self.kept_back, self.full = kept_back, False

    def _refuse(self) -> None:
        if self.full and self.kept_back.exists():
            raise OSError(errno.ENOSPC, "No space left on device")

    def _create(self, path: Path, content: bytes, mode: int) -> None:
        self._refuse()
        super()._create(path, content, mode)

    def _append(self, path: Path, content: bytes, mode: int) -> None:
        self._refuse()
        super()._append(path, content, mode)


def test_a_disk_that_is_full_keeps_nobody_from_being_told_of_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.storage = disk = Full(world.house.reserve)
    world.minutes(3)
    assert world.house.reserve.stat().st_size == 256 << 10
    disk.full, world.used = True, 1.0
    done = world.observe()
    assert [subject.partition("]")[0] for subject in world.subjects()] == ["[PAGE"], "at once, in the first minute"
    assert any("free some space" in note for note in done.notes)
    assert not world.house.reserve.exists()
    world.minutes(3)
    disk.full, world.used = False, 0.4
    world.minutes(3)
    assert [subject.partition("]")[0] for subject in world.subjects()] == ["[PAGE", "[OVER"]
    assert world.house.reserve.exists(), "kept back for the next time"


def test_a_backup_that_fails_is_one_message_though_its_unit_fails_too(tmp_path: Path) -> None:
    world = World(tmp_path, backup={"repositories": {"disk": {"location": "/srv/backup"}}})
    world.failed = ["backstay-backup@portal.service", "backstay-verify@portal.service"]
    assert world.minutes(3) == ["portal/backup"]
    assert len(world.mailed) == 1
    world.failed = ["backstay-backup@other.service"]
    assert sorted(world.minutes(3)) == ["host/units:backstay-backup@other.service", "portal/backup"]


def test_what_a_transaction_starts_again_did_not_die(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.minutes(2)
    world.layout.journal.write_text("{}\n")
    world.restarts["portal-0001-1.0.0-web.service"] = 1
    world.restarts = {unit: count for unit, count in world.restarts.items() if unit == "nginx.service"}
    world.minutes(2)
    world.layout.journal.unlink()
    world.restarts["portal-0002-1.1.0-web.service"] = 3
    world.minutes(2)
    assert (world.mailed, world.texts()) == ([], [])


def test_one_answer_that_is_lost_is_no_outage(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.minutes(2)
    answers = iter(["no answer", "", ""])

    def ask(_unused: object) -> Any:
        world.why = next(answers, "")
        return type(world).ask(world, world.application)

    world.ask = ask  # type: ignore[method-assign] - the same question, asked of a door that is lost once
    world.minutes(3)
    assert world.texts() == []


def test_applications_that_all_hang_are_asked_at_once(tmp_path: Path) -> None:
    """One after the other they would take a minute and more, and systemd ends a look after 55 seconds: nobody would be
    told that all are away."""
    world = World(tmp_path)
    for name in ("messenger", "rails"):
        world.neighbour(name)
    at_once = threading.Barrier(3)

    def hangs(_application: Application) -> Answered:
        at_once.wait(20)
        return Answered(5.0, "no answer within 5 s", silent=True)

    world.ask = hangs  # type: ignore[method-assign]  # the world of this test
    done = world.observe()
    found = {name: (each.healthy, each.why) for name, each in done.sample.applications.items()}
    assert found == dict.fromkeys(("messenger", "portal", "rails"), (False, "no answer within 5 s"))


def test_few_answers_say_nothing_about_errors_or_times(tmp_path: Path) -> None:
    world = World(tmp_path)
    for _unused in range(4):
        world.visit(2, status=500)
        world.visit(1, seconds=30.0)
        world.observe()
    assert world.texts() == []


def test_our_own_questions_are_no_visitors(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.minutes(1)
    world.visit(50, status=503, agent="backstay-health")
    world.visit(50, status=503, agent="backstay-probe/1")
    done = world.observe()
    assert done.sample.applications["portal"].requests == 0
    assert world.texts() == []


def test_what_was_slow_or_wrong_is_over_when_nobody_comes_any_more(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.minutes(6, lambda: world.visit(50, status=500))
    assert len(world.texts()) == 1
    assert world.minutes(36) == []
    assert len(world.texts()) == 2, world.texts()


def test_an_application_can_ask_for_less_errors_and_more_uptime(tmp_path: Path) -> None:
    world = World(tmp_path, objectives={"error_ratio": 0.001, "uptime": 0.995})

    def day() -> None:
        world.visit(999)
        world.visit(1, status=500)

    world.minutes(10, day)
    assert world.minutes(1, lambda: world.visit(990) or world.visit(2, status=500)) == ["portal/errors"]


def test_the_uptimes_budget_is_told_by_mail_before_it_is_gone(tmp_path: Path) -> None:
    world = World(tmp_path, objectives={"uptime": 0.9999})
    world.minutes(1)
    world.why = "no answer"
    world.minutes(3)  # of 4.3 minutes in 30 days
    before = world.subjects()
    world.minutes(1)
    after = world.subjects()
    assert not any("is spent" in subject for subject in before), before
    assert sum("is spent" in subject for subject in after) == 1, after
    assert not any("is spent" in text for text in world.texts()), "uptime goes by mail"
    world.minutes(6)
    worse = [subject.partition("]")[0] for subject in world.subjects() if "is spent" in subject]
    assert worse == ["[WARN", "[NOW PAGE"], "that all of it is spent is told too, once"


def test_backup_and_proof_that_never_were_are_told(tmp_path: Path) -> None:
    world = World(tmp_path, backup={"repositories": {"disk": {"location": "/srv/backup"}}})
    assert world.minutes(2) == ["portal/backup"]
    assert "there is no restore point" in json.dumps([each.incident.sentence for each in _open(world)])


def _open(world: World) -> tuple[_incidents.Open, ...]:
    return _incidents.opened(world.house, world.storage)


# --- held back


def test_a_release_is_no_incident_and_what_it_leaves_behind_is_told_after_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.minutes(6, lambda: world.visit(50))
    world.layout.journal.write_text("{}\n")
    world.why, world.cpu, world.failed = "/healthz/ answered 503", 0.99, ["portal-0002-web.service"]
    world.minutes(10, lambda: world.visit(50, status=503))
    assert world.texts() == [], "while the transaction is open"
    world.layout.journal.unlink()
    world.minutes(1)
    told = world.texts()
    assert sum("answered 503" in text for text in told) == 1, told
    assert not any("were errors" in text for text in told), "what came during the release counts for nothing"


def test_twenty_releases_send_nothing_but_that_they_were(tmp_path: Path) -> None:
    world = World(tmp_path, alerts={**ALERTS, "routes": {"release": ["mail"]}})
    world.minutes(6, lambda: world.visit(50))
    for number in range(20):
        world.layout.journal.write_text("{}\n")
        world.cpu, world.why = 0.95, "/healthz/ answered 503"
        world.minutes(1, lambda: world.visit(50, status=503))
        world.ledger.append("live", f"{number + 2:04}-1.0.{number}", transaction=f"t{number}", before="0001-1.0.0")
        world.layout.journal.unlink()
        world.cpu, world.why = 0.1, ""
        world.minutes(1, lambda: world.visit(50))
    assert world.texts() == []


def test_nothing_is_sent_during_maintenance_and_it_costs_no_budget(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.minutes(3)
    world.layout.maintenance_flag.write_text("ada\n")
    world.why = "/healthz/ answered 503"
    world.minutes(10)
    assert world.texts() == []
    world.layout.maintenance_flag.unlink()
    world.why = ""
    world.minutes(3)
    assert world.texts() == []
    counts = json.loads(world.house.observed.read_text())["uptime"]["portal"]["2026-11-21"]
    assert counts == {"up": 6, "maintenance": 10}


@pytest.mark.parametrize("door_is_closed", [False, True])
def test_a_transaction_that_is_open_for_hours_is_itself_what_is_wrong(tmp_path: Path, door_is_closed: bool) -> None:
    world = World(tmp_path)
    world.layout.journal.write_text("{}\n")
    if door_is_closed:
        world.layout.maintenance_flag.write_text("transaction t1\n")
    world.minutes(2)
    world.now += dt.timedelta(minutes=116)
    world.minutes(1)
    assert world.texts() == []
    world.minutes(2)
    assert sum("A transaction of portal is open" in text for text in world.texts()) == 1, world.texts()


# --- events


def test_releases_rollbacks_and_restores_are_told_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.ledger.append("live", "0001-1.0.0", transaction="t1")
    world.minutes(2)
    assert world.texts() == [], "what was before nobody looked is no news"
    world.ledger.append(
        "live", "0002-1.1.0", transaction="t2", before="0001-1.0.0", live_by="ada", live_why="ticket 12"
    )
    world.ledger.append("failed", "0003-1.2.0", reason=f"it said {SECRET}", transaction="t3")
    world.minutes(2)
    world.ledger.append("withdrawn", "0002-1.1.0", transaction="t4")
    world.ledger.append("live", "0001-1.0.0", transaction="t4", before="0002-1.1.0")
    restored = {"transaction": "t5", "point": "20261121T020000", "generation": "0002", "before": "0001", "by": "ada"}
    world.ledger.append("restored", "0001-1.0.0", restored=restored)
    world.ledger.append("live", "0001-1.0.0", transaction="t5", before="0001-1.0.0")
    world.minutes(3)
    firsts = [text.splitlines()[0] for text in world.texts()]
    kinds = ["0002-1.1.0 is live", "0003-1.2.0 failed", "rolled back to 0001-1.0.0", "data restored"]
    assert len(firsts) == 4, firsts
    for first, wanted in zip(firsts, kinds, strict=True):
        assert wanted in first, firsts
    assert SECRET not in "\n".join(world.texts())
    assert "ticket 12" in world.texts()[0]


def test_a_proof_that_failed_is_told(tmp_path: Path) -> None:
    from ansible_collections.backstay.ops.plugins.module_utils._catalogue import catalogue

    world = World(tmp_path)
    world.minutes(2)
    chain = catalogue(world.layout, world.storage, world.now.isoformat)
    chain.append("refuted", "20261121T020000", repository="disk", level=4, reason="12 rows are missing")
    world.minutes(2)
    assert [("a proof failed" in text, "12 rows are missing" in text) for text in world.texts()] == [(True, True)]


# --- the ways


def test_chat_and_mail_get_their_messages_over_the_wire(tmp_path: Path) -> None:
    world = World(tmp_path)
    with MailServer() as server, Webhook() as hook:
        server.sendmail(world.house, sys.executable)
        world.know(hook.url)
        world.chat = _notify.post_json
        world.minutes(3)
        world.why = f"it said {SECRET} and <b> & more"
        world.minutes(2)
    assert len(hook.got) == 1
    path, body = hook.got[0]
    assert path.endswith("/very-secret-path")
    assert "[PAGE] portal on" in body["text"]
    assert "&lt;b&gt; &amp; more" in body["text"]
    to, text = server.messages[0]
    assert to == ["ops@example.org"]
    assert "Auto-Submitted: auto-generated" in text
    assert "First: backstay health portal" in text
    for told in (body["text"], text):
        assert SECRET not in told
        assert "very-secret-path" not in told


def test_what_a_chat_or_a_relay_that_is_away_did_not_take_comes_later_and_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    with MailServer() as server, Webhook() as hook:
        server.sendmail(world.house, sys.executable)
        world.know(hook.url)
        world.chat = _notify.post_json
        hook.status, server.refuses = 503, True
        world.minutes(2)
        world.why = "no answer"
        done = [world.observe() for _unused in range(3)][-1]
        assert hook.got == [] == server.messages
        kept = "".join(path.read_text() for path in _notify.waiting(world.house))
        assert "very-secret-path" not in kept
        facts = _notify.path_facts(world.house, world.storage, {"portal": _alerts(world)})
        assert facts["waiting"] == 2, done.delivered
        assert all(each["failing_since"] for each in facts["destinations"].values()), facts
        assert "very-secret-path" not in json.dumps(facts)
        hook.status, server.refuses = 200, False
        world.minutes(15)
        assert len(hook.got) == 1
        assert len(server.messages) == 1
    facts = _notify.path_facts(world.house, world.storage, {"portal": _alerts(world)})
    assert facts["waiting"] == 0
    assert all(each["sent_at"] and not each["failing_since"] for each in facts["destinations"].values()), facts


def _alerts(world: World) -> Any:
    return world.application.alerts


def test_a_chat_that_is_away_keeps_no_mail_waiting(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.minutes(2)
    for number in range(30):
        world.ledger.append("live", f"{number + 2:04}-1.0.{number}", transaction=f"t{number}", before="0001-1.0.0")

    def away(_url: str, _body: bytes) -> None:
        raise BackstayError("connection refused")

    world.chat = away
    world.minutes(2)
    assert len(world.mailed) == 30


def test_a_webhook_that_refuses_for_good_is_given_up_and_remembered(tmp_path: Path) -> None:
    world = World(tmp_path)
    with Webhook() as hook:
        world.know(hook.url)
        world.chat = _notify.post_json
        hook.status = 404
        world.minutes(2)
        world.cpu = 0.99
        world.minutes(6)
    facts = _notify.path_facts(world.house, world.storage, {"portal": _alerts(world)})
    chat = facts["destinations"]["the chat of portal"]
    assert facts["waiting"] == 0
    assert chat["given_up"] == 1
    assert "404" in chat["why"]


def test_a_message_without_a_way_is_kept_quiet_and_shown(tmp_path: Path) -> None:
    world = World(tmp_path, alerts={**ALERTS, "routes": {"cpu": []}})
    world.cpu = 0.99
    assert world.minutes(8) == ["host/cpu"]
    assert world.texts() == []
    assert [each.incident.key for each in _open(world)] == ["host/cpu"]


def test_one_chat_of_two_applications_hears_once_what_is_wrong_with_the_host(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.neighbour("shop")
    secrets = world.house.layout("shop").secrets_file
    secrets.write_bytes(world.layout.secrets_file.read_bytes())
    world.cpu = 0.99
    world.minutes(6)
    world.cpu = 0.1
    world.minutes(6)
    assert len(world.texts()) == 2, world.texts()
    values = {"CHAT_URL": "https://chat.example.org/hook/another"}
    secrets.write_text(json.dumps({"format": 1, "values": values}))
    world.cpu = 0.99
    world.minutes(6)
    assert len(world.texts()) == 4, "each chat is told"


def test_what_began_while_nobody_was_declared_is_told_when_somebody_is(tmp_path: Path) -> None:
    world = World(tmp_path, alerts=None)
    world.used = 0.9
    world.minutes(3)
    assert _open(world)
    assert not world.texts() + world.mailed
    world.describe()
    world.minutes(2)
    assert sum("/ is 90% full" in text for text in world.mailed) == 1, world.mailed


def test_where_there_is_only_mail_everything_goes_by_mail(tmp_path: Path) -> None:
    world = World(tmp_path, alerts={"mail": ["ops@example.org", "night@example.org"]})
    world.cpu = 0.99
    world.minutes(6)
    assert sorted(text.splitlines()[0] for text in world.mailed) == ["To: night@example.org", "To: ops@example.org"]


def test_each_of_four_faults_goes_over_the_wire_once_when_it_begins_and_once_when_it_is_over(tmp_path: Path) -> None:
    names = ("cpu", "disk", "certificate", "5xx")
    world = World(tmp_path)
    with MailServer() as server, Webhook() as hook:
        server.sendmail(world.house, sys.executable)
        world.know(hook.url)
        world.chat = _notify.post_json
        for which in (1, 0, 1):
            for minute in range(6):
                for name in names[: None if minute == 0 else -2] + names[-1:]:
                    FAULTS[name][1][which](world)
                world.observe()
    chats = [body["text"].splitlines()[0].split("]")[0] for _path, body in hook.got]
    mails = [subject.split("]")[0] for subject in server.subjects()]
    shown = f"chat: {hook.got}\nmail: {server.subjects()}"
    assert sorted(chats) == sorted(["*[WARN", "*[PAGE", "*[OVER", "*[OVER"]), f"of cpu and 5xx: {shown}"
    assert sorted(mails) == sorted(["[WARN", "[WARN", "[OVER", "[OVER"]), f"of disk and certificate: {shown}"


# --- errors that spend the budget


def passed(world: World, minutes: int, errors: int = 0, *, held: bool = False) -> None:
    """So many minutes with 130 requests each, as they were observed."""
    world.house.samples.mkdir(parents=True, exist_ok=True)
    for _unused in range(minutes):
        world.now += dt.timedelta(minutes=1)
        seen = ApplicationSample(requests=130, errors=errors, live="0001-1.0.0", healthy=True, maintenance=held)
        minute = Sample(world.now.isoformat(), 60.0, HostSample(failed_units=()), {"portal": seen})
        _samples.append(world.house, world.storage, minute)


def burning(world: World, errors: int, minutes: int = 6) -> None:
    """So many minutes with errors in which the observer looks."""
    world.minutes(minutes, lambda: world.visit(errors, status=500) or world.visit(130 - errors))


def events(world: World) -> list[tuple[str, str]]:
    found = _incidents.history(world.house, world.storage, 1, world.now)
    return [(event["event"], event["key"]) for event in found]


def test_errors_within_every_limit_that_burn_the_budget_are_one_message(tmp_path: Path) -> None:
    world = World(tmp_path)
    burning(world, 1)
    assert _open(world) == (), "too little was seen"
    passed(world, 60, 1)  # 0.77 %, where 0.1 % may fail
    burning(world, 1)
    assert [(each.incident.key, each.incident.severity) for each in _open(world)] == [("portal/uptime:burn", "page")]
    (subject,) = world.subjects()
    assert "errors that spend its budget" in subject
    assert world.texts() == [], "uptime goes by mail"
    for _unused in range(2):  # it comes and goes
        passed(world, 10)
        burning(world, 0)
        burning(world, 1)
    assert len(world.mailed) == 1, world.subjects()
    for _unused in range(2):
        passed(world, 360)
        burning(world, 0)
    assert events(world) == [("begin", "portal/uptime:burn"), ("over", "portal/uptime:burn")]
    assert len(world.mailed) == 2


def test_an_outage_that_people_know_of_is_not_told_again_for_its_budget(tmp_path: Path) -> None:
    world = World(tmp_path)
    passed(world, 70)
    burning(world, 26, minutes=10)
    for _unused in range(15):
        burning(world, 0)
    assert events(world) == [("begin", "portal/server_errors"), ("over", "portal/server_errors")]


def test_what_warned_for_an_hour_and_burns_the_budget_becomes_a_page(tmp_path: Path) -> None:
    world = World(tmp_path)
    burning(world, 3, minutes=12)
    passed(world, 30, 3)
    burning(world, 3)
    assert events(world) == [("begin", "portal/errors")]
    passed(world, 20, 3)
    burning(world, 3)
    assert events(world) == [("begin", "portal/errors"), ("begin", "portal/uptime:burn")]
    assert [subject.partition("]")[0] for subject in world.subjects()] == ["[WARN", "[PAGE"]


def test_errors_of_a_declared_maintenance_burn_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    passed(world, 5)
    passed(world, 65, 60, held=True)
    burning(world, 1)
    assert events(world) == []


# --- what would keep the observer itself silent


@pytest.mark.parametrize("content", ["", '{"format": 1, "open": []}', '{"format": 99, "open": {}}'])
def test_a_list_of_incidents_that_cannot_be_read_is_put_aside_and_told_of(content: str, tmp_path: Path) -> None:
    world = World(tmp_path)
    world.why = "no answer"
    world.minutes(2)
    before = len(world.texts())
    world.house.incidents.write_text(content)
    world.minutes(2)
    aside = world.house.incidents.with_name("incidents.damaged.json")
    assert aside.read_text() == content
    told = world.texts()[before:]
    assert sorted("could not be read" in text for text in told) == [False, True], "and what is wrong, anew"
    aside.unlink()
    world.minutes(1)
    assert world.texts()[-1].startswith("*[OVER]")


def test_a_minute_in_which_nobody_could_be_told_is_no_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    world.minutes(2)

    def refuse(*_unused: Any, **_given: Any) -> None:
        raise BackstayError("it cannot be told")

    monkeypatch.setattr(_observe, "tell", refuse)
    with pytest.raises(BackstayError, match="cannot be told"):
        world.observe()
    newest = _observe.series(world.house, None, 1, world.now)[-1]
    assert (world.now - newest.time).total_seconds() >= 60


@pytest.mark.parametrize("content", ["", "[]", '{"format": 99}'])
def test_an_application_whose_file_cannot_be_read_is_told_of_and_watched_all_the_same(
    content: str, tmp_path: Path
) -> None:
    world = World(tmp_path)
    world.minutes(2)
    file = world.layout.application_file
    good = file.read_text()
    live = world.layout.release_configuration("0001-1.0.0") / "application.json"
    live.parent.mkdir(parents=True)
    live.write_text(good)
    file.write_text(content)
    assert world.minutes(3) == ["portal/declared"]
    (text,) = world.texts()
    assert "portal is watched as its live release was declared: " in text
    world.why = "no answer"
    assert "portal/health" in world.minutes(1)
    world.why = ""
    world.minutes(2)
    file.write_text(good)
    assert world.minutes(1) == []
    assert "The file of portal can be read" in world.texts()[-1]


def test_of_an_application_that_nobody_can_watch_those_are_told_whom_the_others_name(tmp_path: Path) -> None:
    world = World(tmp_path)
    harbour = world.house.layout("harbour")
    harbour.configuration.mkdir(parents=True)
    harbour.application_file.write_text("")
    assert world.minutes(2) == ["harbour/declared"]
    (text,) = world.texts()
    assert "harbour is not watched" in text


def test_a_link_that_is_lost_where_something_was_live_is_an_outage(tmp_path: Path) -> None:
    world = World(tmp_path, alerts={**ALERTS, "routes": {"release": []}})
    target = world.layout.active.readlink()
    world.layout.active.unlink()
    assert world.minutes(2) == [], "nothing was ever released"
    world.ledger.append("live", "0001-1.0.0", transaction="t1")
    assert world.minutes(2) == ["portal/health"]
    (text,) = world.texts()
    assert "is gone, and 0001-1.0.0 was live: release a version" in text
    world.layout.active.symlink_to(target)
    assert world.minutes(2) == []
    assert len(world.texts()) == 2


@pytest.mark.parametrize(
    "state", ["LoadState=not-found\nActiveState=inactive", "LoadState=masked\nActiveState=inactive"]
)
def test_a_page_that_nobody_asked_for_is_missed_by_nobody(state: str, tmp_path: Path) -> None:
    world = World(tmp_path)
    world.page_timer = state
    assert world.minutes(3) == []


def uptime(world: World, seconds: float) -> None:
    (world.root / "proc/uptime").write_text(f"{seconds:.2f} 1.00\n")


@pytest.mark.parametrize(
    ("minutes", "up_before", "up_after", "told"),
    [
        (20, 5000, 6200, 20),  # its timer was stopped
        (8, 5000, 5480, None),
        (1440, 5000, 30, None),  # the host was away
        (1440, 5000, 1200, 20),  # and nobody looked when it was back
        (240, 5000, 5060, None),  # its clock was put ahead
        (-60, 5000, 5900, None),  # and back
    ],
)
def test_a_time_in_which_nobody_looked_is_told_once(
    tmp_path: Path, minutes: int, up_before: int, up_after: int, told: int | None
) -> None:
    world = World(tmp_path)
    world.minutes(2)
    uptime(world, up_before)
    world.minutes(1)
    world.now += dt.timedelta(minutes=minutes - 1)
    uptime(world, up_after)
    world.layout.journal.write_text("{}\n")
    world.minutes(1)
    assert world.mailed == [], "not while a transaction is open"
    until = world.now
    world.layout.journal.unlink()
    world.minutes(2)
    if told is None:
        assert world.mailed == []
        return
    (text,) = world.mailed
    since = until - dt.timedelta(minutes=told)
    assert f"from {since.isoformat()} until {until.isoformat()}" in text
