"""What a look at a host finds: in /proc, in apt's simulation, in the ledger, and in what others observed."""

from __future__ import annotations

import datetime as dt
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import (
    _application,
    _cells,
    _checks,
    _look,
    _samples,
    _status,
    _updates,
)
from ansible_collections.backstay.ops.plugins.module_utils._cells import Cell, Row
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._house import House
from ansible_collections.backstay.ops.plugins.module_utils._incidents import Incident, raise_, settle
from ansible_collections.backstay.ops.plugins.module_utils._ledger import Entry, Ledger
from ansible_collections.backstay.ops.plugins.module_utils._look import Looker
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed
from ansible_collections.backstay.ops.plugins.module_utils._samples import (
    ApplicationSample,
    HostSample,
    Mount,
    Sample,
    Times,
)
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage, canonical
from ansible_collections.backstay.ops.plugins.module_utils._thresholds import Severity

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


LISTING = """\
table inet backstay {
	chain declared {
		iifname "lo" accept
		udp dport 51820 accept comment "wireguard"
		tcp dport 22 accept comment "ssh"
		tcp dport 443 accept comment "https"
		ip saddr 10.0.0.0/8 tcp dport 9100 accept
		drop
	}
}
"""


def test_the_kernel_says_which_ports_the_firewall_declares() -> None:
    assert _look.declared_ports(LISTING) == {22: True, 443: True, 9100: False}


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
        ([(at, 1000, 2) for at, _requests, _errors in minutes(3 * 1440, 0, 0)], "ticket"),  # twice for three days
        ([(at, 1000, 2) for at, *_none in minutes(3 * 1440, 0, 0)[360:]], None),  # it is over
        ([*minutes(1440, 1000, 2), *minutes(3 * 1440, 1000, 0)[1440:]], None),  # for a day only
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


def test_an_attempt_that_reached_no_mirror_makes_no_list_new(tmp_path: Path) -> None:
    """apt ends well then, and touches `lists/partial`."""
    lists = tmp_path / "var/lib/apt/lists"
    (lists / "partial").mkdir(parents=True)
    old = (NOW - dt.timedelta(days=10)).timestamp()
    os.utime(lists, (old, old))
    apt, path = Apt(), tmp_path / "updates.json"
    _updates.refresh(path, Storage(), apt, now=NOW, root=tmp_path)
    told = _updates.told(_updates.read(path, Storage()), now=NOW, system=("debian", "12"), reboot=False)
    assert told["security"] is None


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


# --- a host in a directory: real facts, a systemd of our own

DECLARED: dict[str, Any] = {
    "format": 1,
    "name": "portal",
    "domain": "portal.example.org",
    "source": {"repository": "https://git.example.org/portal.git"},
    "runtime": {"settings": "portal.settings", "wsgi": "portal.wsgi:application"},
    "processes": {"web": {}},
    "databases": [{"name": "default", "engine": "sqlite", "path": "db/portal.sqlite3"}],
    "backup": {"repositories": {"disk": {"location": "/srv/backup"}}},
}


class Systemd:
    """Knows what runs; the rest is apt."""

    def __init__(self, *running: str) -> None:
        self.running = running

    def __call__(self, arguments: Any, **_: object) -> Completed:
        said = ""
        if "list-units" in arguments:
            said = "\n".join(f"{unit} loaded active running" for unit in self.running)
        elif "is-active" in arguments:
            names = [word for word in arguments[2:] if not word.startswith("-")]
            said = "\n".join("active" if name in self.running else "inactive" for name in names)
        return Completed(tuple(arguments), 0, said, "")


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A host on which two releases of the portal were made, and the second is live."""
    house = House(tmp_path)
    layout = house.layout("portal")
    content = canonical(_application.to_dict(_application.from_dict(DECLARED, file="portal.yml")))
    layout.state.mkdir(parents=True)
    layout.home.mkdir(parents=True)
    ledger = Ledger(layout.ledger, Storage(), lambda: "2026-11-01T08:00:00.000Z")
    for release in ("0001-1.0.0", "0002-1.1.0"):
        layout.release_configuration(release).mkdir(parents=True)
        (layout.release_configuration(release) / "application.json").write_bytes(content)
        ledger.append("staged", release, by="ada", commit="c" * 40)
        ledger.append("live", release, live_by="ada", live_why="made")
    layout.application_file.write_bytes(content)
    layout.active.symlink_to(layout.socket("0002-1.1.0"))
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/self").mkdir()
    (tmp_path / "proc/net/tcp").write_text(TCP)
    (tmp_path / "proc/self/mountinfo").write_text("21 1 8:1 / / rw - ext4 /dev/vda1 rw\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 600 kB\n")
    (tmp_path / "proc/loadavg").write_text("0.10 0.20 0.30 1/100 4711\n")
    return house


def looked(house: House, *running: str) -> Row:
    return Looker(house, runner=Systemd(*running), now=NOW, sleep=lambda _seconds: None).rows()[0]


def colours(found: Row) -> dict[str, str]:
    return {cell.name: cell.state for cell in found.cells}


def test_what_never_happened_is_red_and_what_nobody_watches_is_grey(house: House) -> None:
    told = colours(looked(house, "portal-0002-1.1.0-web.service", "portal-0001-1.0.0-web.service"))
    assert (told["host"], told["exposure"]) == ("green", "green")
    assert (told["backup"], told["restore"]) == ("red", "red")
    assert (told["objective"], told["certificate"], told["alerts"], told["updates"]) == ("grey",) * 4


class Nft(Systemd):
    """A kernel with our table in it, or without."""

    def __init__(self, listing: str) -> None:
        super().__init__()
        self.listing = listing

    def __call__(self, arguments: Any, **options: object) -> Completed:
        if arguments[0] != "/usr/sbin/nft":
            return super().__call__(arguments, **options)
        if not self.listing:
            raise BackstayError("`nft list table` ended with exit code 1: No such file or directory")
        return Completed(tuple(arguments), 0, self.listing, "")


@pytest.mark.parametrize(
    ("listing", "state", "value", "why"),
    [
        (None, "red", "22 80 443 6379 open", "Redis listens to the world on 6379"),
        (LISTING, "green", "22 443 open, 80 6379 closed by the firewall", ""),
        (
            LISTING.replace("443", "6379"),
            "red",
            "22 6379 open, 80 443 closed by the firewall",
            "Redis answers everybody",
        ),
        (LISTING.replace("9100", "6379"), "green", "22 443 6379 open, 80 closed by the firewall", ""),
        ("", "red", "22 80 443 6379 open", "the firewall that is declared does not hold"),
    ],
    ids=["no firewall", "it holds", "to everybody", "to some", "it does not hold"],
)
def test_what_answers_from_outside_is_held_against_what_the_firewall_declares(
    house: House, listing: str | None, state: str, value: str, why: str
) -> None:
    (house.root / "proc/net/tcp6").write_text(TCP6)
    (house.root / "proc/net/tcp").write_text(TCP + TCP.splitlines()[1].replace("0016", "18EB") + "\n")
    if listing is not None:
        (house.root / "etc/backstay-firewall.nft").touch()
    found = Looker(house, runner=Nft(listing or ""), now=NOW, sleep=lambda _seconds: None).rows()[0]
    cell = next(cell for cell in found.cells if cell.name == "exposure")
    assert (cell.state, cell.value) == (state, f"{value}, unit and warnings and accounts unknown")
    assert why in cell.why


def test_a_backup_that_runs_has_not_failed(house: House) -> None:
    chain = Ledger(house.layout("portal").backups, Storage(), lambda: "2026-11-21T02:00:00.000Z")

    def begun(run: str, hours: float) -> None:
        chain.append("begun", run, at=(NOW - dt.timedelta(hours=hours)).isoformat())

    def told() -> tuple[str, bool]:
        cell = cell_of(later(house, 0).rows()[0], "backup")
        return cell.state, "failed" in cell.why

    begun("good", 5)
    chain.append("made", "good", manifest="a" * 64, rows=1, size_bytes=1)
    parts = dict.fromkeys(("id", "snapshot", "tree", "manifest_snapshot"), "b" * 64)
    chain.append("stored", "good", repository="disk", **parts)
    well = told()
    assert not well[1]
    begun("running", 0.01)
    assert told() == well
    chain.append("failed", "running", reason="the disk is full")
    assert told() == ("yellow", True)
    begun("again", 0.005)
    assert told() == ("yellow", True), "while it is tried again, one has failed"
    begun("killed", 100)
    begun("and the next", 0)
    assert told() == ("red", True)


def test_what_was_told_and_is_not_over_is_on_the_page(house: House) -> None:
    def raised(key: str, application: str | None, severity: Severity = "warn") -> None:
        raise_(house, Storage(), Incident(key, severity, application, f"{key} is wrong", "see it"), NOW)

    assert {colours(later(house, 0).rows()[0])[name] for name in ("host", "jobs")} == {"green"}
    raised("host/load", None)
    raised("portal/jobs:sync", "portal")
    raised("portal/requests", "portal", "advice")
    raised("other/health", "other", "page")
    found = later(house, 1).rows()[0]
    said = {cell.name: (cell.state, cell.why) for cell in found.cells if cell.why.endswith("is wrong")}
    assert said == {"host": ("yellow", "host/load is wrong"), "jobs": ("yellow", "portal/jobs:sync is wrong")}
    settle(house, Storage(), "host/load", NOW, "it is over")
    assert colours(later(house, 2).rows()[0])["host"] == "green"


def test_health_is_asked_of_the_release_itself(house: House) -> None:
    running = ("portal-0002-1.1.0-web.service", "portal-0001-1.0.0-web.service")
    found = looked(house, *running)
    health = next(cell for cell in found.cells if cell.name == "health")
    assert health.state == "red", "nobody answers on its socket, three times"
    assert "3 times in a row" in health.why
    assert health.command == "backstay health portal"


def test_a_web_process_that_does_not_run_needs_no_question(house: House) -> None:
    health = next(cell for cell in looked(house).cells if cell.name == "health")
    assert (health.state, health.source, health.command) == ("red", "systemd", "backstay rollback portal")


def test_the_row_of_a_host_in_maintenance_is_blue(house: House) -> None:
    flag = house.layout("portal").maintenance_flag
    flag.write_text("ada\n")
    os.utime(flag, (NOW.timestamp() - 600, NOW.timestamp() - 600))
    assert looked(house, "portal-0002-1.1.0-web.service", "portal-0001-1.0.0-web.service").state == "blue"


def test_a_page_remembers_since_when(house: House) -> None:
    running = Systemd("portal-0002-1.1.0-web.service", "portal-0001-1.0.0-web.service")
    first = NOW - dt.timedelta(hours=3)
    Looker(house, runner=running, now=first, sleep=lambda _seconds: None).write_page()
    later = Looker(house, runner=running, now=NOW, sleep=lambda _seconds: None)
    backup = next(cell for cell in later.rows()[0].cells if cell.name == "backup")
    assert backup.since == first.isoformat(timespec="seconds")
    written = later.write_page()
    assert "there is no restore point" in written.read_text()
    told = json.loads((written.parent / "status.json").read_text())
    assert (told["verdict"]["exit_code"], told["rows"][0]["application"]) == (2, "portal")


def observed(house: House, at: dt.datetime, used: int, errors: int = 0, *, healthy: bool = True) -> None:
    """A minute in which a hundred visitors came."""
    seen = ApplicationSample(
        requests=100, errors=errors, times=Times.of([0.2] * 100), p95_seconds=0.24, healthy=healthy
    )
    house.samples.mkdir(parents=True, exist_ok=True)
    mount = Mount("/", 1000 << 20, (1000 - used) << 20, used / 1000, 0.1)
    host = HostSample(memory=0.4, mounts=(mount,))
    _samples.append(house, Storage(), Sample(at.isoformat(), 60.0, host, {"portal": seen}))


RUNNING = ("portal-0002-1.1.0-web.service", "portal-0001-1.0.0-web.service")


def later(house: House, minutes: float) -> Looker:
    """Somebody who looks some minutes after the page of NOW, and writes nothing."""
    now = NOW + dt.timedelta(minutes=minutes)
    return Looker(house, runner=Systemd(*RUNNING), now=now, sleep=lambda _seconds: None)


def cell_of(found: Row, name: str) -> Cell:
    return next(cell for cell in found.cells if cell.name == name)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Whether release and front door answer well; a test changes it."""
    well = {"ok": True}

    def ask(check: Any, **_limit: float) -> SimpleNamespace:
        return SimpleNamespace(name=check.name, ok=well["ok"], seconds=0.03, reason="503")

    monkeypatch.setattr(_checks, "run_check", ask)
    return well


def test_after_a_recovery_one_good_sample_and_one_good_look_are_enough(house: House, answers: dict[str, bool]) -> None:
    memory = house.root / "proc/meminfo"
    answers["ok"], well = False, memory.read_text()
    memory.write_text("MemTotal: 1000 kB\nMemAvailable: 20 kB\n")
    observed(house, NOW - dt.timedelta(seconds=20), 500, healthy=False)
    later(house, 0).write_page()
    answers["ok"] = True
    memory.write_text(well)
    for minutes in (0.5, 0.6, 0.7):
        health = cell_of(later(house, minutes).rows()[0], "health")
        assert health.state == "red", "nobody but those who look now saw it well, and they are not remembered"
        assert "it stays red until it is twice" in health.why
    observed(house, NOW + dt.timedelta(minutes=1), 500)
    told = colours(later(house, 1.2).rows()[0])
    assert (told["health"], told["host"]) == ("green", "green")


def test_an_unwell_sample_between_two_good_looks_keeps_it_red(house: House, answers: dict[str, bool]) -> None:
    answers["ok"] = False
    later(house, 0).write_page()
    observed(house, NOW + dt.timedelta(minutes=1), 500)
    observed(house, NOW + dt.timedelta(minutes=2), 500, healthy=False)
    answers["ok"] = True
    assert cell_of(later(house, 2.5).rows()[0], "health").state == "red"


def test_charts_budget_and_forecast_come_from_what_was_observed(house: House) -> None:
    for days, used in ((3, 500), (2, 600), (1, 700)):
        observed(house, NOW - dt.timedelta(days=days), used)
    observed(house, NOW - dt.timedelta(minutes=1), 800, errors=4)
    looker = later(house, 0)
    looker.write_page()
    told = looker.kept["trends"]
    assert [figure for _at, figure in told["applications"]["portal"]["latency"]] == [0.24] * 4
    assert [figure for _at, figure in told["applications"]["portal"]["errors"]] == [0.0, 0.0, 0.0, 0.04]
    engine = looker.engine("portal")
    assert looker.facts(engine)["look"]["traffic"]["budget_left"] == pytest.approx(-9)
    objective = cell_of(looker.rows()[0], "objective")
    assert objective.state == "red", objective
    assert "budget of 30 days is used up" in objective.why


def test_budget_and_burn_are_as_new_as_the_newest_sample(house: House) -> None:
    for hours in range(60):
        observed(house, NOW - dt.timedelta(hours=59 - hours), 500)
    later(house, 0).write_page()
    assert cell_of(later(house, 1).rows()[0], "objective").value.endswith("100 % budget left")
    at = NOW + dt.timedelta(minutes=30)
    observed(house, at, 500, errors=90)
    found = cell_of(later(house, 31).rows()[0], "objective")
    assert (found.state, found.observed_at) == ("red", at.isoformat())
    assert "budget of 30 days is used up" in found.why


def test_a_budget_of_which_some_time_is_missing_is_as_old_as_it_is(house: House) -> None:
    for minutes in (-60, -1, 200):
        observed(house, NOW + dt.timedelta(minutes=minutes), 500)
    later(house, 0).write_page()
    found = later(house, 201).rows()[0]
    assert cell_of(found, "objective").observed_at == NOW.isoformat()
    assert cell_of(found, "objective").state == "grey"
    assert "no forecast yet" in cell_of(found, "disk").value


def test_an_hour_of_errors_is_not_taken_for_six(house: House) -> None:
    for minutes in range(290):
        observed(house, NOW - dt.timedelta(minutes=290 - minutes), 500)
    later(house, 0).write_page()
    for minutes in range(60):
        observed(house, NOW + dt.timedelta(minutes=minutes), 500, errors=1)
    looker = later(house, 60)
    burns = looker.facts(looker.engine("portal"))["look"]["traffic"]["burn"]
    assert burns == "ticket", "ten times in an hour, and nothing in the five hours before: 1.7 times in six hours"


def test_the_forecast_is_of_what_is_free_now(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for days in (3, 2, 1, 0):
        observed(house, NOW - dt.timedelta(days=days, minutes=1), 600 - 100 * days)

    def told(used: int) -> tuple[str, bool]:
        now = Mount("/", 1000 << 20, (1000 - used) << 20, used / 1000, 0.1)
        monkeypatch.setattr(_look, "mount", lambda _path: now)
        looker = later(house, 30)
        seen = looker.shared
        return _cells.spoken(seen["mounts"][0]["full_seconds"]), seen["forecast"]

    later(house, 0).write_page()
    assert told(600) == ("4 d", True)
    assert told(790) == ("32 h", True), "what was filled since then counts, in what is free and in how fast it grows"


def test_the_page_that_a_timer_wrote_is_believed_for_a_quarter_of_an_hour(house: House) -> None:
    later(house, 0).write_page()
    assert [each.name for each in later(house, 15).written()] == [later(house, 0).rows()[0].name]
    assert later(house, 16).written() == []
    assert later(house, -1).written() == []
    (house.state / "status.json").write_text("{")
    assert later(house, 1).written() == []


def test_the_time_within_which_a_restore_must_be_done_is_the_applications() -> None:
    declared = _application.from_dict(DECLARED, file="portal.yml")
    assert _look.limits(declared).recovery_seconds is None
    objectives: Any = SimpleNamespace(**{**vars(declared.objectives), "recovery_seconds": 30.0})
    assert _look.limits(replace(declared, objectives=objectives)).recovery_seconds == 30.0


def test_the_text_has_at_most_twenty_lines_and_says_what_to_type(house: House) -> None:
    looker = Looker(house, runner=Systemd("portal-0002-1.1.0-web.service"), now=NOW, sleep=lambda _seconds: None)
    engine = looker.engine("portal")
    found = looker.facts(engine)
    text = _status.status_text(found, looker.row(engine, found), now=NOW)
    lines = text.splitlines()
    assert len(lines) <= 20, text
    assert lines[0].startswith("portal: act now: "), text
    for said in ("live     0002-1.1.0", "by ada", "rollback goes to 0001-1.0.0", "backstay backup portal"):
        assert said in text, text


def test_the_history_has_the_restores_too(house: House) -> None:
    from ansible_collections.backstay.ops.plugins.module_utils._engine import Engine

    engine = Engine(house.layout("portal"), runner=Systemd())
    before = _status.history_text(_status.facts(engine))
    assert "DATA" not in before
    restored = {"point": "20261120T020000Z", "generation": "0002", "before": "0001", "by": "ada", "why": "emptied"}
    engine.ledger.append("restored", "0002-1.1.0", restored=restored)
    engine.ledger.append("returned", "0002-1.1.0", restored={**restored, "generation": "0001", "before": "0002"})
    found = _status.facts(engine)
    assert [(each["event"], each["generation"]) for each in found["restores"]] == [
        ("restored", "0002"),
        ("returned", "0001"),
    ]
    told = _status.history_text(found).removeprefix(before).strip().splitlines()
    assert [line.split()[:2] for line in told] == [["DATA", "CAME"], ["0001", "back"], ["0002", "20261120T020000Z"]]
    assert told[2].endswith("ada  emptied")


def test_the_month_of_a_host_has_its_releases(house: House) -> None:
    events = looked(house).events
    assert [each["kind"] for each in events] == ["release", "release"]
    assert events[1]["sentence"] == "0002-1.1.0 went live by ada: made"
