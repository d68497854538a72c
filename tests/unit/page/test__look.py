"""What a look at a host finds: in /proc, in apt's simulation, in the ledger, and in what others observed."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _look, _updates
from ansible_collections.backstay.ops.plugins.module_utils._house import House
from ansible_collections.backstay.ops.plugins.module_utils._ledger import Entry
from ansible_collections.backstay.ops.plugins.module_utils._look import Looker
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage

NOW = dt.datetime(2026, 11, 21, 7, 5, tzinfo=dt.UTC)
DAY = 86400.0

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 0100007F:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2
   2: 0200000A:01BB 0300000A:D431 01 00000000:00000000 00:00000000 00000000     0        0 3
   3: 0200000A:01BB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4
"""
TCP6 = """\
  sl  local_address                         remote_address                        st
   0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 0
   1: 00000000000000000000000001000000:18EB 00000000000000000000000000000000:0000 0A 0
   2: 0000000000000000FFFF00000100007F:18EC 00000000000000000000000000000000:0000 0A 0
"""


def test_who_listens_for_others_is_told_from_who_listens_for_the_host() -> None:
    assert _look.listening(TCP) == {22, 443}
    assert _look.listening(TCP6) == {80}


def test_mounts_that_can_fill_up_are_looked_at_once() -> None:
    table = (
        "/dev/vda1 / ext4 rw,relatime 0 0\n/dev/vda1 /var/tmp ext4 rw 0 0\nproc /proc proc rw 0 0\n"
        "/dev/vdb1 /srv/my\\040data xfs rw 0 0\n/dev/sr0 /media iso9660 ro 0 0\ntmpfs /run tmpfs rw 0 0\n"
        "/dev/vdc1 /frozen ext4 ro 0 0\n"
    )
    assert _look.mount_points(table) == ["/", "/srv/my data"]


def test_a_disk_that_grows_steadily_is_full_when_it_will_be() -> None:
    peaks = [(day * DAY, 1e9 * day) for day in range(5)]
    assert _look.forecast(peaks, 6e9) == pytest.approx(6 * DAY)


@pytest.mark.parametrize(
    "peaks", [[], [(0.0, 1.0)], [(0.0, 1.0), (DAY / 2, 9e9)], [(0.0, 5e9), (DAY, 4e9)], [(0.0, 5e9), (2 * DAY, 5e9)]]
)
def test_too_little_or_no_growth_is_no_forecast(peaks: list[tuple[float, float]]) -> None:
    assert _look.forecast(peaks, 1e9) is None


def minutes(count: int, requests: int, errors: int) -> list[tuple[float, int, int]]:
    return [(10 * DAY - 60.0 * place, requests, errors) for place in range(count)]


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (minutes(75, 100, 2), "page"),  # 2 % of 0.1 % is 20 times
        (minutes(75, 100, 0), None),
        (minutes(75, 0, 0), None),
        ([*minutes(35, 100, 0), *minutes(70, 100, 20)[35:]], "ticket"),  # it is over, and was much
        ([*minutes(6 * 60, 100, 1)], "page"),  # 10 times for six hours
        ([(at, 1000, 4) for at, _requests, _errors in minutes(1440, 0, 0)], "ticket"),  # 4 times for a day
        (minutes(10, 1, 1), None),  # too few to say anything
    ],
)
def test_the_budget_burns_when_both_windows_agree(samples: list[tuple[float, int, int]], said: str | None) -> None:
    assert _look.burn(samples, 10 * DAY, 0.999) == said


def test_the_month_comes_from_the_ledger() -> None:
    restored = {"restored": {"point": "20261120T020000Z", "by": "ada", "why": "a table was emptied"}}
    entries = [
        Entry(1, "2026-09-01T00:00:00Z", "live", "0001-1.0.0", {"live_by": "ada"}),
        Entry(2, "2026-11-20T08:00:00Z", "live", "0002-1.1.0", {"live_by": "ada", "live_why": "a fix"}),
        Entry(3, "2026-11-20T09:00:00Z", "failed", "0003-1.2.0", {"reason": "it died"}),
        Entry(4, "2026-11-20T10:00:00Z", "pruned", "0001-1.0.0", {}),
        Entry(5, "2026-11-20T11:00:00Z", "restored", "0002-1.1.0", restored),
    ]
    told = _look.month(entries, "2026-10-22T00:00:00Z")
    assert [(each["kind"], each["sentence"]) for each in told] == [
        ("release", "0002-1.1.0 went live by ada: a fix"),
        ("release", "0003-1.2.0 failed: it died"),
        ("restore", "the restore point 20261120T020000Z was brought back by ada: a table was emptied"),
    ]


def test_incidents_say_how_long_they_lasted() -> None:
    since = "2026-11-20T08:00:00Z"
    log: list[dict[str, Any]] = [
        {
            "event": "begin",
            "key": "host/disk:/",
            "since": since,
            "at": since,
            "application": None,
            "sentence": "/ is full",
        },
        {"event": "over", "key": "host/disk:/", "since": since, "at": "2026-11-20T11:00:00Z"},
        {"event": "begin", "key": "shop/p95", "since": since, "at": since, "application": "shop", "sentence": "slow"},
        {
            "event": "begin",
            "key": "portal/p95",
            "since": since,
            "at": since,
            "application": "portal",
            "sentence": "slow",
        },
    ]
    told = [each["sentence"] for each in _look.began_and_ended(log, "portal")]
    assert told == ["/ is full, for 3 h", "slow, not over yet"]


# --- updates

SIMULATED = """\
NOTE: this is only a simulation
Inst openssl [3.0.14-1] (3.0.15-1~deb12u1 Debian-Security:12/stable-security [amd64])
Inst base-files [12.4] (12.4+deb12u8 Debian:12.8/stable [amd64]) []
Inst linux-image-6.1.0-28 (6.1.119-1 Debian-Security:12/stable-security [amd64])
Conf openssl (3.0.15-1~deb12u1 Debian-Security:12/stable-security [amd64])
"""


def test_what_waits_is_read_from_apts_simulation() -> None:
    assert _updates.waiting(SIMULATED) == {"openssl=3.0.15-1~deb12u1": True, "base-files=12.4+deb12u8": False}


def test_an_update_waits_since_any_version_of_it_was_first_seen() -> None:
    first = _updates.folded(SIMULATED, {}, now=NOW - dt.timedelta(days=9), lists_at=NOW)
    newer = SIMULATED.replace("3.0.15-1~deb12u1", "3.0.16-1")
    told = _updates.told(
        _updates.folded(newer, first, now=NOW, lists_at=NOW), now=NOW, system=("debian", "12"), reboot=True
    )
    assert (told["security"], told["other"], told["oldest_seconds"]) == (1, 1, 9 * DAY)
    assert (told["reboot_required"], told["system"]) == (True, "Debian 12")


def test_old_lists_of_packages_prove_nothing() -> None:
    kept = _updates.folded("", {}, now=NOW, lists_at=NOW - dt.timedelta(days=8))
    assert _updates.told(kept, now=NOW, system=("debian", "12"), reboot=False)["security"] is None
    assert _updates.told(None, now=NOW, system=("debian", "12"), reboot=False)["security"] is None


class Apt:
    """Answers as apt does, and counts."""

    def __init__(self) -> None:
        self.ran: list[list[str]] = []

    def __call__(self, arguments: Any, **_: object) -> Completed:
        self.ran.append(list(arguments))
        return Completed(tuple(arguments), 0, SIMULATED, "")


def test_apt_is_asked_once_a_day_and_never_to_change_anything(tmp_path: Path) -> None:
    (tmp_path / "var/lib/apt/lists").mkdir(parents=True)
    apt, path = Apt(), tmp_path / "updates.json"
    for hours in (0, 1, 19, 21):
        _updates.refresh(path, Storage(), apt, now=NOW + dt.timedelta(hours=hours), root=tmp_path)
    assert len(apt.ran) == 2
    assert all("--simulate" in arguments for arguments in apt.ran)


# --- a whole page of an empty host


def test_a_host_without_applications_claims_nothing(tmp_path: Path) -> None:
    written = Looker(House(tmp_path), runner=Apt(), now=NOW).write_page()
    assert written == tmp_path / "var/lib/backstay/.host/status.html"
    assert "nothing is declared here" in written.read_text().lower()
    assert written.stat().st_mode & 0o777 == 0o600
    assert (written.parent / "status.json").exists()


def test_an_application_that_cannot_be_read_is_red_and_hides_no_other(tmp_path: Path) -> None:
    for name in ("portal", "shop"):
        (tmp_path / "etc/backstay" / name).mkdir(parents=True)
        (tmp_path / "etc/backstay" / name / "application.json").write_text("{")
    rows = Looker(House(tmp_path), runner=Apt(), now=NOW).rows()
    assert [(each.application, each.state) for each in rows] == [("portal", "red"), ("shop", "red")]
