"""Kinds of error: the same fault is one kind in every release and with every id, and no secret is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.backstay.ops.plugins.module_utils._error_kinds import (
    ErrorKind,
    Line,
    closing_summary,
    errors_in,
    journal_lines,
    kinds,
    kinds_since,
    new_kinds,
    normalise,
    restarts_in,
)
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed

from .world import CANDIDATE, PREVIOUS, Scenario, World, django_error


def lines(*texts: str, unit: str = "web", at: float = 0.0) -> list[Line]:
    return [Line(at + number, unit, text) for number, text in enumerate(texts)]


def kinds_of(*texts: str) -> tuple[ErrorKind, ...]:
    return kinds(errors_in(lines(*texts)))


TRACE = (
    "Traceback (most recent call last):",
    '  File "/opt/portal/releases/0002-1.1.0/code/audits/worker.py", line 31, in work',
    "    job.run()",
    '  File "/opt/portal/releases/0002-1.1.0/code/audits/models.py", line 90, in run',
    "    raise OSError(5)",
    "OSError: [Errno 5] Input/output error: '/opt/portal/data/media/17.jpg'",
)


def test_the_same_fault_is_one_kind_whatever_page_line_and_release() -> None:
    seen = kinds_of(
        django_error("django.request", "Internal Server Error: /audits/1/", "KeyError: 'risk'", line=40),
        django_error("django.request", "Internal Server Error: /audits/2/", "KeyError: 'risk'", line=47),
        django_error("django.request", "Internal Server Error: /x/", "KeyError: 'risk'", release="0001-1.0.0"),
    )
    assert [(kind.what, kind.count, kind.where) for kind in seen] == [("KeyError", 3, "audits/views.py:finding_create")]
    assert seen[0].source == "django.request"


def test_faults_that_differ_are_kinds_apart() -> None:
    seen = kinds_of(
        django_error("django.request", "Internal Server Error: /a/", "KeyError: 'risk'"),
        django_error("django.request", "Internal Server Error: /a/", "KeyError: 'price'"),
        django_error("django.request", "Internal Server Error: /a/", "ValueError: 'risk'"),
        django_error("audits.worker", "job failed", "KeyError: 'risk'"),
    )
    assert len(seen) == 4


@pytest.mark.parametrize("level", ["debug", "info", "warning"])
def test_what_is_no_error_is_no_kind(level: str) -> None:
    assert kinds_of(json.dumps({"level": level, "logger": "x", "message": "went well"})) == ()


def test_a_traceback_in_the_journal_is_one_error_of_what_was_raised() -> None:
    seen = kinds_of("starting", *TRACE, "going on")
    assert [(kind.what, kind.where, kind.count) for kind in seen] == [("OSError", "audits/models.py:run", 1)]


def test_the_line_that_introduces_a_traceback_is_no_error_of_its_own() -> None:
    seen = kinds_of("ERROR 4711 Exception in worker process", *TRACE)
    assert [(kind.source, kind.what) for kind in seen] == [("Exception in worker process", "OSError")]


def test_tracebacks_of_two_processes_that_write_at_once_stay_apart() -> None:
    one, two = lines(*TRACE, unit="web"), lines(*TRACE[:-1], "MemoryError", unit="worker")
    mixed = [line for pair in zip(one, two, strict=True) for line in pair]
    assert sorted(kind.what for kind in kinds(errors_in(mixed))) == ["MemoryError", "OSError"]


def test_a_line_of_gunicorn_is_understood() -> None:
    seen = kinds_of(
        "CRITICAL 812 WORKER TIMEOUT (pid:4711)", "CRITICAL 812 WORKER TIMEOUT (pid:4712)", "INFO 1 Booting"
    )
    assert [(kind.what, kind.count) for kind in seen] == [("critical", 2)]


def test_first_and_last_are_told_in_utc() -> None:
    seen = kinds(errors_in([Line(1795255200.5, "web", "ERROR 1 x"), Line(1795255260.0, "web", "ERROR 1 x")]))
    assert (seen[0].first_seen, seen[0].last_seen) == ("2026-11-21T10:00:00Z", "2026-11-21T10:01:00Z")
    assert seen[0].seconds == 2


@pytest.mark.parametrize(
    "text",
    [
        "login with hunter22hunter failed",
        "DATABASE_URL=postgres://portal:hunter22hunter@db/portal",
        "Authorization: Bearer hunter22hunter",
        "password='hunter22hunter'",
    ],
)
def test_no_secret_is_told(text: str) -> None:
    seen = kinds(
        errors_in(lines(f"ERROR 1 {text}", django_error("x", text, f"ValueError: {text}"))), ("hunter22hunter",)
    )
    assert seen
    assert "hunter22" not in json.dumps([kind.to_dict() for kind in seen])


@pytest.mark.parametrize("text", ["password=geheim1234", "api_key: geheim1234", "sessionid=geheim1234; path=/"])
def test_what_calls_itself_a_secret_is_not_told_either(text: str) -> None:
    assert "geheim1234" not in json.dumps([kind.to_dict() for kind in kinds_of(f"ERROR 1 refused {text}")])


def test_new_is_what_the_other_did_not_have() -> None:
    before = kinds_of("ERROR 1 a fault", "ERROR 2 a common fault")
    after = kinds_of("ERROR 3 a common fault", "ERROR 4 a rare fault")
    assert [kind.example for kind in new_kinds(before, after)] == ["a rare fault"]


@given(st.lists(st.text(max_size=200), max_size=30))
def test_no_line_breaks_it(texts: list[str]) -> None:
    kinds(errors_in([Line(float(at), "web", text, at % 8) for at, text in enumerate(texts)]))


@given(st.text(max_size=400))
def test_what_was_normalised_stays_as_it_is(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_thousands_of_kinds_are_bounded() -> None:
    letters = "abcdefghijklmnop"
    texts = [f"ERROR 1 fault {a}{b}{c}" for a in letters for b in letters for c in "xyz"]
    seen = kinds_of(*texts)
    assert len(seen) <= 201
    assert sum(kind.count for kind in seen) == len(texts)


def entry(message: Any, **values: Any) -> str:
    return json.dumps({"__REALTIME_TIMESTAMP": "1795255200000000", "MESSAGE": message, "PRIORITY": "6", **values})


def test_the_journal_is_read_whatever_it_holds() -> None:
    asked: list[Sequence[str]] = []

    def runner(arguments: Sequence[str], **_: Any) -> Completed:
        asked.append(arguments)
        texts = [
            entry("one\ntwo", _SYSTEMD_UNIT="a.service"),
            entry([104, 105, 255], _SYSTEMD_UNIT="a.service"),
            entry(None),
            entry("x.service: Scheduled restart job, restart counter is at 2.", UNIT="a.service"),
            "not JSON",
            "[]",
        ]
        return Completed(tuple(arguments), 0, "\n".join(texts), "")

    found = journal_lines(runner, ["a.service"], since="2026-11-21T10:00:00.123Z")
    assert [line.text for line in found][:3] == ["one", "two", "hi\ufffd"]
    assert restarts_in(found) == {"a.service": 1}
    assert "--since=2026-11-21 10:00:00 UTC" in asked[0]
    assert any(argument.startswith("--lines=") for argument in asked[0]), "a journal must be bounded"
    assert journal_lines(runner, []) == []


def test_the_kinds_of_a_release_come_from_journal_and_log(tmp_path: Path) -> None:
    failing = django_error("django.request", "Internal Server Error: /", "KeyError: 'risk'")

    def fails(visit: Any) -> None:
        visit.status = 500 if visit.kind == "post" else visit.status

    world = World(Scenario("kinds", after=fails, journal_after=((1.0, "web", failing),)), tmp_path)
    world.sleep(30.0)
    found = kinds_since(world.layout, CANDIDATE, "2026-11-21T10:00:00.000Z", world.runner)
    assert {(kind.source, kind.what) for kind in found} == {("django.request", "KeyError"), ("front door", "500")}
    assert kinds_since(world.layout, PREVIOUS, None, world.runner) == ()
    assert kinds_since(Layout("gone", tmp_path), CANDIDATE, None, world.runner) == ()
    world.file.close()


@pytest.mark.parametrize("count", [0, 1, 12, 13, 14, 40])
def test_a_closing_summary_has_at_most_twenty_lines(count: int) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    texts = [f"ERROR 1 fault {letters[at // 26]}{letters[at % 26]}" for at in range(count)]
    text = closing_summary(
        "portal",
        CANDIDATE,
        PREVIOUS,
        by="ada",
        why="a reason",
        since="2026-11-21T10:00:00.000Z",
        verdict="good: 400 requests with 0.0 % 5xx",
        probes={"requests": 100, "failed": 1, "longest_gap_seconds": 1.5, "p99_seconds": 0.04},
        restarts={"web": 1, "worker": 0},
        fresh=kinds_of(*texts),
        known=2,
    )
    assert len(text.splitlines()) <= 20
    assert text.startswith("portal 0002-1.1.0: 24 hours after its release by ada (2026-11-21T10:00:00Z)")
    assert "web once" in text
    assert "worker" not in text
    told = sum("fault" in line for line in text.splitlines())
    assert told == count or f"and {count - told} more" in text
