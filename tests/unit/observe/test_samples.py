"""Samples are kept in bounds, survive what a power cut leaves, and fold to hours."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.backstay.ops.plugins.module_utils import _samples
from ansible_collections.backstay.ops.plugins.module_utils._house import House
from ansible_collections.backstay.ops.plugins.module_utils._mounts import mount_points
from ansible_collections.backstay.ops.plugins.module_utils._observe import cpu_times, memory_share, series
from ansible_collections.backstay.ops.plugins.module_utils._samples import (
    ApplicationSample,
    HostSample,
    Mount,
    Sample,
    Times,
)

from .world import START, Disk


def sample(at: dt.datetime, **application: object) -> Sample:
    host = HostSample(cpu=0.5, memory=0.4, mounts=(Mount("/", 100, 50, 0.5, 0.1),), failed_units=())
    return Sample(at.isoformat(), 60.0, host, {"portal": ApplicationSample(**application)})  # type: ignore[arg-type] - a test's words


@pytest.fixture
def house(tmp_path: Path) -> House:
    found = House(tmp_path)
    found.samples.mkdir(parents=True)
    return found


def test_a_sample_is_read_as_it_was_written() -> None:
    one = sample(
        START, requests=3, times=Times.of([0.1, 7.0]), backup_problems=("none",), job_problems=(("a", "late"),)
    )
    assert _samples.from_line(_samples.to_line(one)) == one


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"format":2}', b'{"format":1,"at":"2026"}', b"\xff"])
def test_what_is_no_sample_is_passed_over(line: bytes) -> None:
    assert _samples.from_line(line) is None


def test_a_line_that_a_power_cut_cut_off_costs_itself_alone(house: House) -> None:
    disk = Disk()
    _samples.append(house, disk, sample(START))
    path = _samples.day_file(house, START.date())
    path.write_bytes(path.read_bytes() + _samples.to_line(sample(START))[:40])
    _samples.append(house, disk, sample(START + dt.timedelta(minutes=2)))
    found = _samples.recent(house, START + dt.timedelta(minutes=2), 10)
    assert [each.time for each in found] == [START, START + dt.timedelta(minutes=2)]


def test_the_series_is_bounded_and_nothing_is_counted_twice(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_samples, "HOURS_DAYS", 31)  # each day writes all hours anew
    disk, now = Disk(), START
    for hour in range(0, 24 * (_samples.HOURS_DAYS + 15), 24):
        now = START + dt.timedelta(hours=hour)
        _samples.append(house, disk, sample(now, requests=1))
        _samples.append(house, disk, sample(now + dt.timedelta(minutes=1), requests=2))
        _samples.fold_old_days(house, disk, now)
    days = list(house.samples.iterdir())
    assert len(days) <= _samples.MINUTES_DAYS + 1
    hours = house.hours.read_bytes().splitlines()
    assert len(hours) <= _samples.HOURS_DAYS + 2
    found = series(house, "portal", 24 * 30, now + dt.timedelta(minutes=2))
    assert sum(each.applications["portal"].requests for each in found) == 30 * 3
    assert [each.at for each in found] == sorted({each.at for each in found})


def test_a_fold_that_was_cut_short_counts_nothing_twice(house: House) -> None:
    disk = Disk()
    _samples.append(house, disk, sample(START, requests=5))
    content = _samples.day_file(house, START.date()).read_bytes()
    now = START + dt.timedelta(days=10)
    _samples.fold_old_days(house, disk, now)
    _samples.day_file(house, START.date()).write_bytes(content)  # the removal was not on the disk
    _samples.fold_old_days(house, disk, now)
    assert [each.applications["portal"].requests for each in series(house, "portal", 24 * 20, now)] == [5]


def test_an_hour_is_as_bad_as_its_worst_minute() -> None:
    folded = _samples.fold(
        [
            sample(START, requests=1, healthy=True, times=Times.of([0.1])),
            sample(START, requests=2, healthy=False, why="no answer", times=Times.of([3.0, 4.0])),
            sample(START, requests=3, healthy=True),
        ]
    ).applications["portal"]
    assert (folded.requests, folded.healthy, folded.why, folded.times.count) == (6, False, "no answer", 3)


@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=60), st.sampled_from([0.5, 0.95]))
def test_a_quantile_lies_in_the_class_of_the_true_one(values: list[float], share: float) -> None:
    import math

    found = Times.of(values).quantile(share)
    true = sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
    bounds = (0.0, *_samples.BOUNDS, 2 * _samples.BOUNDS[-1])
    place = next((n for n in range(1, len(bounds)) if true <= bounds[n]), len(bounds) - 1)
    assert found is not None
    assert bounds[place - 1] - 1e-9 <= found <= bounds[place] + 1e-9


# --- /proc


def test_waiting_for_a_disk_is_not_being_busy() -> None:
    assert cpu_times("cpu  100 10 50 800 40 5 5 0 0 0\ncpu0 1 2 3\n") == (170, 1010)


def test_memory_that_can_be_had_is_not_in_use() -> None:
    assert memory_share("MemTotal: 1000 kB\nMemFree: 10 kB\nMemAvailable: 600 kB\n") == 0.4
    assert memory_share("") is None


def test_each_file_system_is_asked_once_and_none_that_cannot_fill_up() -> None:
    text = (
        "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "22 21 8:1 /opt /mnt/a\\040bind rw - ext4 /dev/sda1 rw\n"
        "23 21 8:2 / /srv rw - xfs /dev/sdb1 rw\n"
        "24 21 0:5 / /proc rw - proc proc rw\n"
        "25 21 0:6 / /run rw - tmpfs tmpfs rw\n"
        "26 21 0:7 / /tmp rw - tmpfs tmpfs rw\n"
        "27 21 7:0 / /snap/core ro - squashfs /dev/loop0 ro\n"
        "28 21 0:9 / /mnt/share rw - nfs4 server:/ rw\n"
        "29 21 8:9 / /mnt/read ro,relatime - ext4 /dev/sdc ro\n"
        "nonsense\n"
    )
    assert mount_points(text, lambda _path: True) == ["/", "/srv", "/tmp"]


def test_nothing_that_could_keep_the_observer_waiting_is_asked() -> None:
    text = (
        "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "22 21 0:9 / /mnt/nfs rw - nfs4 server:/ rw\n"
        "23 21 0:10 / /mnt/cifs rw - cifs //server/share rw\n"
        "24 21 0:11 / /mnt/sshfs rw - fuse.sshfs user@server:/ rw\n"
        "25 22 8:3 / /mnt/nfs/local rw - ext4 /dev/sdc1 rw\n"  # the way to it leads through the server
        "26 21 8:4 / /srv rw - xfs /dev/sdd1 rw\n"
        "27 26 0:12 / /srv rw - nfs server:/srv rw\n"  # over it: who asks /srv asks the server
        "28 26 8:5 / /srv/kept rw - xfs /dev/sde1 rw\n"
        "29 21 8:6 / /mnt/nfs2 rw - ext4 /dev/sdf1 rw\n"  # only its name begins so
        "30 21 0:13 / /mnt/new rw - something-new server rw\n"
    )
    asked: list[str] = []
    assert mount_points(text, lambda path: asked.append(path) is None) == ["/", "/mnt/nfs2"]
    assert asked == ["/", "/mnt/nfs2"]


def test_a_single_file_that_is_mounted_is_no_mount_and_hides_none() -> None:
    text = (
        "21 1 0:50 / / rw - overlay overlay rw\n"
        "22 21 8:1 /c/hosts /etc/hosts rw - ext4 /dev/sda1 rw\n"
        "23 21 8:1 /c/data /var/lib/volume rw - ext4 /dev/sda1 rw\n"
        "24 21 8:2 /c/name /etc/hostname rw - ext4 /dev/sdb1 rw\n"
    )
    assert mount_points(text, lambda path: not path.startswith("/etc/")) == ["/", "/var/lib/volume"]
