"""`backstay backups --catch-up` and `backup --if-missed` in nights in which the clock skips or repeats an hour."""

from __future__ import annotations

import argparse
import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _cli_data as verbs
from ansible_collections.backstay.ops.plugins.module_utils._application import parse, to_dict
from ansible_collections.backstay.ops.plugins.module_utils._catalogue import catalogue
from ansible_collections.backstay.ops.plugins.module_utils._host import Host
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage, canonical

from .portal import described

BACKUP, VERIFY = "backstay-backup@portal.service", "backstay-verify@portal.service"
REPOSITORIES = {"repositories": {"disk": {"location": "/srv/backup/portal"}}}


class Desk:
    """A host in Berlin with one restore point, proven right after it was made; `now` is a moment in UTC."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, **backup: Any) -> None:
        self.layout = Layout("portal", root)
        self.started: list[str] = []
        self.told: dict[str, Any] = {}
        self.now = dt.datetime(2026, 3, 29, tzinfo=dt.UTC)
        desk = self

        class Clock(dt.datetime):
            @classmethod
            def now(cls, tz: dt.tzinfo | None = None) -> Any:
                return desk.now.astimezone(tz)

        monkeypatch.setattr(verbs, "dt", SimpleNamespace(datetime=Clock, UTC=dt.UTC))
        (root / "etc").mkdir(parents=True)
        (root / "etc" / "localtime").symlink_to("/usr/share/zoneinfo/Europe/Berlin")
        self.layout.application_file.parent.mkdir(parents=True)
        application = parse(
            described({**REPOSITORIES, "at": "02:00", "proof": {"nightly": "02:30"}, **backup}), file="p"
        )
        self.layout.application_file.write_bytes(canonical(to_dict(application)))
        self.layout.backups.parent.mkdir(parents=True)
        self.host = Host(self.layout, storage=Storage(), runner=self.systemctl)

    def systemctl(self, arguments: Sequence[str], **_options: Any) -> Completed:
        self.started += [word for word in arguments if word.endswith(".service")]
        return Completed(tuple(arguments), 0, "", "")

    def made(self, run: str, at: str, proven: str | None = None) -> None:
        chain = catalogue(self.layout, Storage(), lambda: at)
        chain.append("made", run, at=at, release="0001-1.0.0", manifest="e" * 64, size_bytes=1)
        chain.append("stored", run, repository="disk", id="r", snapshot="s", tree="t", manifest_snapshot="m")
        if proven:
            chain = catalogue(self.layout, Storage(), lambda: proven)
            chain.append("proven", run, repository="disk", level=4, asked=4, at=proven, seconds=1.0)

    def catch_up(self, now: str) -> list[str]:
        self.started.clear()
        self.now = dt.datetime.fromisoformat(now)
        options = argparse.Namespace(evidence=False, catch_up=True, json=True)
        assert verbs.backups(options, self.host, lambda _options, told, _text: self.told.update(told)) == 0
        return list(self.started)


def test_what_the_clock_skipped_is_started_within_the_hour_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path, monkeypatch)
    desk.made("one", "2026-03-28T01:00:30.000Z", "2026-03-28T01:31:00.000Z")
    assert desk.catch_up("2026-03-29T00:11:00Z") == [], "a quarter past one: nothing is due"
    assert desk.catch_up("2026-03-29T01:11:00Z") == [BACKUP, VERIFY]
    desk.made("two", "2026-03-29T01:11:01.000Z")
    assert desk.catch_up("2026-03-29T02:11:00Z") == [VERIFY], "it was not proven yet"
    desk.made("three", "2026-03-29T02:11:01.000Z", "2026-03-29T02:12:00.000Z")
    assert desk.catch_up("2026-03-29T03:11:00Z") == []
    assert desk.told == {
        "ok": True,
        "changed": False,
        "started": [],
        "message": "portal: the clock skipped nothing.",
    }


@pytest.mark.parametrize("now", ["2026-03-28T05:11:00Z", "2026-10-25T00:40:00Z", "2026-10-25T01:40:00Z"])
def test_on_any_other_night_nothing_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: str) -> None:
    assert Desk(tmp_path, monkeypatch).catch_up(now) == []


@pytest.mark.parametrize("why", ["cron", "a copy"])
def test_what_systemd_has_no_timer_for_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    desk = Desk(tmp_path, monkeypatch, scheduler="cron" if why == "cron" else "systemd")
    if why == "a copy":
        desk.layout.isolated.write_text("somebody")
    assert desk.catch_up("2026-03-29T01:11:00Z") == []


@pytest.mark.parametrize(
    ("last", "now"),
    [
        # cron made the one of this night right after the gap; and, in autumn, when the clock first showed two.
        ("2026-03-29T01:00:01.000Z", "2026-03-29T01:20:00Z"),
        ("2026-10-25T00:00:01.000Z", "2026-10-25T01:20:00Z"),
    ],
)
def test_cron_asks_each_hour_and_makes_no_second_backup_in_such_a_night(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str, now: str
) -> None:
    desk = Desk(tmp_path, monkeypatch, scheduler="cron")
    desk.made("one", last)
    desk.now = dt.datetime.fromisoformat(now)
    monkeypatch.setattr("ansible_collections.backstay.ops.plugins.module_utils._backup_source.source_of", source)
    options = argparse.Namespace(if_missed=True, scheduled=False, json=True)
    assert verbs.backup(options, desk.host, lambda _options, told, _text: desk.told.update(told)) == 0
    assert desk.told == {"ok": True, "changed": False}


@pytest.mark.parametrize(
    ("proven", "now", "missed"),
    [
        ("2026-03-27T01:31:00.000Z", "2026-03-28T01:20:00Z", False),  # it is due ten minutes later
        ("2026-03-27T01:31:00.000Z", "2026-03-28T05:20:00Z", True),
        ("2026-03-28T01:31:00.000Z", "2026-03-28T05:20:00Z", False),
        (None, "2026-03-28T05:20:00Z", True),
    ],
)
def test_cron_makes_up_for_a_proof_that_was_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proven: str | None, now: str, missed: bool
) -> None:
    desk = Desk(tmp_path, monkeypatch, scheduler="cron")
    desk.now = dt.datetime.fromisoformat(now)
    assert not verbs._proof_missed(desk.host), "there is nothing to prove"
    desk.made("one", "2026-03-27T01:00:01.000Z", proven)
    desk.now = dt.datetime.fromisoformat(now)
    assert verbs._proof_missed(desk.host) is missed
    if not missed:
        options = argparse.Namespace(if_missed=True, scheduled=False, evidence=None, json=True)
        assert verbs.verify(options, desk.host, lambda _options, told, _text: desk.told.update(told)) == 0
        assert desk.told == {"ok": True, "changed": False}


def source(host: Host) -> Any:
    return SimpleNamespace(policy=host.application().backup)
