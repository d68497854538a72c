"""The day after a release is summed up once, also of one that did not last a day; and told like the release was."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _cli, _review, _runtime
from ansible_collections.backstay.ops.plugins.module_utils._error_kinds import ErrorKind
from ansible_collections.backstay.ops.plugins.module_utils._events import of_ledger
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._lock import Lock
from ansible_collections.backstay.ops.plugins.module_utils._releases import Release
from ansible_collections.backstay.ops.plugins.module_utils._transaction import Request

from .host import NAME, CrashEngine, Payloads, Quick, conduct, declare, engine_on, play

GRACE = "grace@example.org"


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CrashEngine:
    """1.0.0, then 1.1.0, then 1.2.0 within the hour."""
    play(monkeypatch, tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(_runtime, "Storage", Quick)
    monkeypatch.setattr(_review, "_errors", lambda engine, release: ((), 3))
    monkeypatch.setattr(_review, "_restarts", lambda engine, release: {})
    sendmail = tmp_path / "sendmail"
    sendmail.write_text(f"#!/bin/sh\ncat >> {tmp_path}/sent\n")
    sendmail.chmod(0o700)
    monkeypatch.setattr(_review, "SENDMAIL", sendmail)
    layout, payloads = Layout(NAME, tmp_path / "host"), Payloads(tmp_path / "payloads")
    declare(layout)
    made, _host = engine_on(layout, Quick())
    for version, by in (("1.0.0", "Ada"), ("1.1.0", GRACE), ("1.2.0", "Ada")):
        payload = payloads.send(version, layout)
        conduct(made, Request("release", by=by, why="a reason", version=version, payload=payload))
    return made


def test_one_that_was_replaced_within_its_day_is_summed_up_and_then_the_live_one(
    engine: CrashEngine, tmp_path: Path
) -> None:
    told = _review.review(engine)
    assert told["changed"]
    assert told["summary"].startswith(f"{NAME} 0002-1.1.0: replaced, after its release by {GRACE} (")
    mail = (tmp_path / "sent").read_text()
    assert mail.startswith(f"To: {GRACE}\nSubject: {NAME} 0002-1.1.0: replaced")
    assert not _review.review(engine)["changed"], "the live one has its day before it"
    engine.now = lambda: "2026-11-22T06:30:00.000Z"
    told = _review.review(engine)
    assert told["summary"].startswith(f"{NAME} 0003-1.2.0: 24 hours after its release by Ada (")
    assert not _review.review(engine)["changed"], "each once"
    assert (tmp_path / "sent").read_text() == mail, "Ada gave no address"


def test_it_is_made_beside_a_transaction_and_once_at_a_time(
    engine: CrashEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own hooks may take ten minutes: no rollback may be refused for them."""
    monkeypatch.setattr(_cli, "_engine", lambda options: engine)
    monkeypatch.setattr(Lock, "take", functools.partialmethod(_at_once, Lock.take))
    transaction, another = Lock(engine.layout.lock), Lock(engine.layout.review_lock)
    assert transaction.take()
    assert another.take()
    assert _cli.main(["review", NAME]) == 4
    assert f"The review of {NAME} is under way" in capsys.readouterr().err
    another.release()
    assert _cli.main(["review", NAME]) == 0
    assert "0002-1.1.0: replaced" in capsys.readouterr().out
    transaction.release()


def _at_once(self: Lock, take: Callable[..., bool], **given: Any) -> bool:
    return take(self, **{**given, "wait_seconds": 0.0})


def test_it_is_told_as_the_release_was_with_the_changelogs_entry(engine: CrashEngine) -> None:
    _review.review(engine)
    found = list(of_ledger(NAME, engine.ledger.read()))
    assert [event.subject.partition(" (")[0] for event in found] == [
        f"{NAME}: 0001-1.0.0 is live",
        f"{NAME}: 0002-1.1.0 is live",
        f"{NAME}: 0003-1.2.0 is live",
        f"{NAME} 0002-1.1.0: replaced, after its release by {GRACE}",
    ]
    assert all(event.kind == "release" for event in found)
    assert "First." in found[0].lines, "the notes of the payload"
    assert any("none of a new kind; 3 kinds" in line for line in found[-1].lines)


def test_status_lists_what_the_release_before_did_not_have_and_reads_the_logs_once_a_minute(
    engine: CrashEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = "portal/faults.py:__call__"
    kind = ErrorKind("k", "portal", "LookupError", "no lift #", where, 3, "t1", "t2", "no lift 7")
    asked: list[str] = []

    def errors(_engine: object, release: Release) -> tuple[tuple[ErrorKind, ...], int]:
        asked.append(release.id)
        return (kind,), 2

    monkeypatch.setattr(_review, "_errors", errors)
    engine.layout.seen_errors.parent.mkdir(parents=True, exist_ok=True)
    for _look in range(3):
        day = _review.watched(engine)
        assert day is not None
        assert (day["before"], day["until"]) == ("0002-1.1.0", "2026-11-22T06:00:00Z")
        (told,) = day["new_errors"]
        assert (told["what"], told["count"]) == ("LookupError", 3)
        assert "LookupError" in told["sentence"]
    assert asked == ["0003-1.2.0"]
    engine.now = lambda: "2026-11-22T06:30:00.000Z"
    assert _review.watched(engine) is None, "its day is over"
