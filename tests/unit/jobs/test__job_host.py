"""Timers or cron's file for the jobs: exactly one of both, what goes goes, a second run changes nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _jobs
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._file_set import FileSet
from ansible_collections.backstay.ops.plugins.module_utils._job_host import JobHost, Plan
from ansible_collections.backstay.ops.plugins.module_utils._job_results import declared_since
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._own_units import UNIT_TEXTS
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed

from .house import described, job

TIDY, COUNT = "backstay-job@portal:tidy.timer", "backstay-job@portal:count.timer"
CATCH_UP = "backstay-jobs@portal.timer"
BOTH = {"tidy": job(), "count": job(when="weekly sun 04:30", catch_up=False)}


class Systemd:
    """Stands in for systemctl and remembers."""

    def __init__(self, root: Path) -> None:
        self.wants = root / "etc/systemd/system/timers.target.wants"
        self.wants.mkdir(parents=True)
        self.active: set[str] = set()
        self.ran: list[str] = []

    def __call__(self, arguments: Sequence[str], **_options: Any) -> Completed:
        verb, units = arguments[1], [word for word in arguments[2:] if not word.startswith("-")]
        if verb == "show":
            blocks = [
                f"Id={unit}\nUnitFileState={'enabled' if (self.wants / unit).exists() else 'disabled'}\n"
                f"ActiveState={'active' if unit in self.active else 'inactive'}"
                for unit in units
            ]
            return Completed(tuple(arguments), 0, "\n\n".join(blocks) + "\n", "")
        self.ran.append(f"{verb} {' '.join(sorted(units))}".strip())
        for unit in units:
            if verb == "enable":
                (self.wants / unit).touch()
            if verb == "start":
                self.active.add(unit)
            if verb == "disable":
                (self.wants / unit).unlink(missing_ok=True)
                self.active.discard(unit)
        return Completed(tuple(arguments), 0, "", "")


class House:
    """A host below a temporary directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.layout = Layout("portal", root)
        self.systemd = Systemd(root)
        self.cron = root / "etc/cron.d/backstay-jobs-portal"
        self.now = datetime(2026, 11, 21, 12, tzinfo=UTC)
        (self.layout.units / "backstay-job@.timer").touch()

    def host(self, *applications: dict[str, Any]) -> JobHost:
        files = FileSet(state=self.root / "state", runner=self.systemd)
        return JobHost(applications, root=self.root, runner=self.systemd, files=files, clock=lambda: self.now)

    def arrange(self, *applications: dict[str, Any]) -> Plan:
        host = self.host(*applications)
        planned = host.plan()
        if planned.changed:
            host.apply(planned)
        return planned


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_each_job_gets_a_timer_with_its_own_time_alone(house: House) -> None:
    house.arrange(described(BOTH))
    assert house.systemd.active == {TIDY, COUNT, CATCH_UP}
    text = _jobs.drop_in(house.layout, "count").read_text()
    assert text.splitlines()[1:] == ["[Timer]", "OnCalendar=", "OnCalendar=Sun *-*-* 04:30:00", "Persistent=false"]
    assert "Persistent=true" in _jobs.drop_in(house.layout, "tidy").read_text()


def test_a_second_run_changes_nothing(house: House) -> None:
    assert house.arrange(described(BOTH)).changed
    house.now = datetime(2026, 11, 22, 12, tzinfo=UTC)
    assert not house.arrange(described(BOTH)).changed


def test_a_job_that_goes_loses_its_timer_and_others_keep_theirs(house: House) -> None:
    house.arrange(described(BOTH))
    house.systemd.ran.clear()
    house.arrange(described({"tidy": job()}))
    assert house.systemd.active == {TIDY, CATCH_UP}
    assert not _jobs.drop_in(house.layout, "count").exists()
    # Without its drop-in the timer would have the template's time, and could strike at once.
    assert house.systemd.ran == [f"disable {COUNT}", "daemon-reload"]
    assert not house.arrange(described({"tidy": job()})).changed
    house.arrange(described())
    assert house.systemd.active == set()
    assert not house.arrange(described()).changed


def test_jobs_of_an_application_whose_name_begins_alike_are_left_alone(house: House) -> None:
    other = described({"tidy": job()}) | {"name": "portal-2", "domain": "two.example.org"}
    house.arrange(described({"tidy": job()}), other)
    house.arrange(described())
    assert house.systemd.active == {"backstay-job@portal-2:tidy.timer", "backstay-jobs@portal-2.timer"}


def test_switching_the_scheduler_leaves_exactly_one(house: House) -> None:
    house.arrange(described(BOTH))
    house.arrange(described(BOTH, scheduler="cron"))
    assert (house.systemd.active, house.cron.exists()) == ({"cron.service"}, True)
    assert not house.arrange(described(BOTH, scheduler="cron")).changed
    house.arrange(described(BOTH))
    assert (house.systemd.active - {"cron.service"}, house.cron.exists()) == ({TIDY, COUNT, CATCH_UP}, False)


def test_cron_starts_the_same_services(house: House) -> None:
    house.arrange(described(BOTH, scheduler="cron"))
    lines = house.cron.read_text().splitlines()
    assert "0 3 * * * root systemctl start --no-block backstay-job@portal:tidy.service" in lines
    assert "30 4 * * 0 root systemctl start --no-block backstay-job@portal:count.service" in lines
    assert any(line.endswith("root /usr/bin/backstay jobs --catch-up portal >/dev/null") for line in lines)
    assert not any("%" in line for line in lines), "cron reads a % as a line's end"


def test_a_new_time_is_read_before_its_timer_is_restarted_and_counts_from_now_on(house: House) -> None:
    house.arrange(described(BOTH))
    house.systemd.ran.clear()
    house.now = datetime(2026, 11, 22, 12, tzinfo=UTC)
    house.arrange(described(BOTH | {"tidy": job(when="daily 05:00")}))
    assert house.systemd.ran == ["daemon-reload", f"restart {TIDY}"]
    since = declared_since(house.layout.declared_jobs.read_bytes())
    assert since["tidy"] == ("daily 05:00", house.now)
    assert since["count"][1] < house.now


def test_check_mode_says_what_would_change_and_changes_nothing(house: House) -> None:
    host = house.host(described(BOTH))
    told = json.dumps(host.diff(host.plan()))
    assert "OnCalendar=Sun *-*-* 04:30:00" in told
    assert f"enable {TIDY}" in told
    assert not house.layout.jobs.exists()
    assert house.systemd.ran == []


def test_without_the_command_nothing_is_started(house: House) -> None:
    (house.layout.units / "backstay-job@.timer").unlink()
    with pytest.raises(BackstayError, match="run role base"):
        house.arrange(described(BOTH))
    assert house.systemd.ran == []


def test_the_command_never_outlives_the_service_that_runs_it() -> None:
    text = UNIT_TEXTS["backstay-job@.service"]
    assert "ExecStopPost=-/usr/bin/systemctl stop --quiet backstay-running-%i.service" in text
    layout = Layout("portal")
    assert layout.job_process("tidy") == f"backstay-running-{instance(layout.job_unit('tidy'))}.service"


def test_only_busy_is_tried_again() -> None:
    lines = UNIT_TEXTS["backstay-job@.service"].splitlines()
    prevented = next(line for line in lines if line.startswith("RestartPreventExitStatus=")).partition("=")[2].split()
    assert {"1", "2", "3", "SIGKILL", "SIGTERM"} <= set(prevented)
    assert "4" not in prevented


def instance(unit: str) -> str:
    return unit.partition("@")[2].removesuffix(".service")
