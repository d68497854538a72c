"""When something is due: what may be written, what it means over a year, and over both changes of the clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._calendar import parse
from ansible_collections.backstay.ops.plugins.module_utils._errors import InputError

BERLIN = ZoneInfo("Europe/Berlin")
SPRING = datetime(2026, 3, 28, 12, tzinfo=UTC)  # the night after, the clock goes from 02:00 to 03:00
AUTUMN = datetime(2026, 10, 24, 12, tzinfo=UTC)  # the night after, from 03:00 back to 02:00


def moments(text: str, since: datetime, count: int) -> list[str]:
    """The next so many, in Berlin, with the offset."""
    found = []
    now = since
    for _unused in range(count):
        following = parse(text).after(now, BERLIN)
        assert following is not None
        now = following
        found.append(now.astimezone(BERLIN).strftime("%d.%m. %H:%M %z"))
    return found


@pytest.mark.parametrize(
    ("text", "systemd", "cron"),
    [
        ("hourly", "*-*-* *:00:00", "0 * * * *"),
        ("hourly :15", "*-*-* *:15:00", "15 * * * *"),
        ("daily", "*-*-* 00:00:00", "0 0 * * *"),
        ("daily 03:00", "*-*-* 03:00:00", "0 3 * * *"),
        ("weekly sun 04:30", "Sun *-*-* 04:30:00", "30 4 * * 0"),
        ("weekly 04:30", "Mon *-*-* 04:30:00", "30 4 * * 1"),
        ("monthly 1 05:00", "*-*-01 05:00:00", "0 5 1 * *"),
        ("Mon..Fri *-*-* 06,18:00", "Mon,Tue,Wed,Thu,Fri *-*-* 06,18:00:00", "0 6,18 * * 1,2,3,4,5"),
        ("*:0/20", "*-*-* *:00,20,40:00", "0,20,40 * * * *"),
        ("*-*-* 9..17:00:00", "*-*-* 09,10,11,12,13,14,15,16,17:00:00", "0 9,10,11,12,13,14,15,16,17 * * *"),
        ("quarterly", "*-01,04,07,10-01 00:00:00", "0 0 1 1,4,7,10 *"),
    ],
)
def test_what_may_be_written(text: str, systemd: str, cron: str) -> None:
    assert (parse(text).systemd, parse(text).cron) == (systemd, cron)
    assert parse(systemd) == parse(text), "what systemd is told means the same here"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("*:0/60", "the step 60"),
        ("*/60", "no time that is understood"),
        ("0/24:00", "the step 24"),
        ("*:0/0", "the step 0"),
        ("0 3 * * *", "cron's notation"),
        ("*/60 * * * *", "cron's notation"),
        ("@daily", "cron's notation"),
        ("daily\ndaily 03:00", "would add up"),
        ("daily; 03:00", "would add up"),
        ("*-*-* 00:00 *-*-* 02:00", "no time that is understood"),
        ("daily 25:00", "no time of day"),
        ("daily 3", "no time of day"),
        ("monthly 31 05:00", "some months lack"),
        ("*-02-30 03:00", "never comes"),
        ("2026-02-29 03:00", "never comes"),
        ("mon..sun 24:00", "as a hour"),
        ("sun..mon 03:00", "run backwards"),
        ("someday 03:00", "no day of the week"),
        ("03:00:30", "whole minutes"),
        ("03:00 Europe/Berlin", "server's zone"),
        ("17..9:00", "the smaller one first"),
        ("", "is empty"),
    ],
)
def test_what_is_wrong_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse(text)


@pytest.mark.parametrize("text", ["2026-*-* 03:00", "mon *-*-1..7 03:00"])
def test_what_cron_cannot_say_is_refused_for_cron(text: str) -> None:
    with pytest.raises(InputError, match="scheduler: systemd"):
        _unused = parse(text).cron


@pytest.mark.parametrize(
    ("text", "zone", "told"),
    [
        ("hourly :30", "Europe/Berlin", "*-*-* *:30:00 UTC"),
        ("*:0/20", "Europe/London", "*-*-* *:00,20,40:00 UTC"),
        ("hourly :30", "Australia/Adelaide", "*-*-* *:30:00"),
        ("hourly", "UTC", "*-*-* *:00:00"),
        ("mon *:30", "Europe/Berlin", "Mon *-*-* *:30:00"),
        ("daily 02:30", "Europe/Berlin", "*-*-* 02:30:00"),
    ],
)
def test_systemd_is_told_of_each_real_hour(text: str, zone: str, told: str) -> None:
    assert parse(text).systemd_in(ZoneInfo(zone)) == told


def test_a_time_that_the_clock_skips_comes_right_after_the_gap() -> None:
    assert moments("daily 02:30", SPRING, 2) == ["29.03. 03:00 +0200", "30.03. 02:30 +0200"]


def test_a_time_that_the_clock_shows_twice_counts_once() -> None:
    assert moments("daily 02:30", AUTUMN, 2) == ["25.10. 02:30 +0200", "26.10. 02:30 +0100"]


def test_each_hour_is_a_real_hour() -> None:
    assert moments("hourly", SPRING + timedelta(hours=11, minutes=45), 3) == [
        "29.03. 01:00 +0100",
        "29.03. 03:00 +0200",
        "29.03. 04:00 +0200",
    ]
    assert moments("hourly :30", AUTUMN + timedelta(hours=11, minutes=45), 3) == [
        "25.10. 02:30 +0200",
        "25.10. 02:30 +0100",
        "25.10. 03:30 +0100",
    ]


@pytest.mark.parametrize("at", ["00:00", "01:59", "02:00", "02:59", "03:00", "23:59"])
def test_a_daily_job_is_due_once_on_each_day_of_the_year(at: str) -> None:
    calendar = parse(f"daily {at}")
    now, days = datetime(2026, 1, 1, tzinfo=BERLIN) - timedelta(seconds=1), []
    for _unused in range(365):
        following = calendar.after(now, BERLIN)
        assert following is not None
        assert calendar.before(following, BERLIN) == following
        now = following
        days.append(now.astimezone(BERLIN).date())
    assert len(set(days)) == 365, "none is missing, none comes twice"


def test_before_is_the_other_side_of_after() -> None:
    calendar = parse("weekly sun 02:30")
    for at in (SPRING, AUTUMN, datetime(2026, 7, 1, tzinfo=UTC)):
        following = calendar.after(at, BERLIN)
        earlier = calendar.before(at, BERLIN)
        assert following is not None
        assert earlier is not None
        assert earlier < at < following
        assert calendar.before(following - timedelta(seconds=1), BERLIN) == earlier
