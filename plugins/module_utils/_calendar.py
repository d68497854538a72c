"""When something is due: a calendar in the server's zone, its moments, and its words for systemd and for cron. Pure.

A calendar is written as `hourly`, `daily 03:00`, `weekly sun 04:30`, `monthly 1 05:00`, or as one expression of
systemd's OnCalendar, to the minute. What the two changes of daylight-saving time do to it is decided here, once: a time
that the clock skips comes right after the gap, one that it shows twice counts the first time. What comes in every hour
goes by real hours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from itertools import product

from ._errors import InputError

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_NAMES = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_SHORT = {
    "hourly": "*-*-* *:00",
    "daily": "*-*-* 00:00",
    "weekly": "mon *-*-* 00:00",
    "monthly": "*-*-01 00:00",
    "quarterly": "*-01,04,07,10-01 00:00",
    "yearly": "*-01-01 00:00",
}
_PART = re.compile(r"(?:\*|(\d{1,4})(?:\.\.(\d{1,4}))?)(?:/(\d{1,4}))?")
_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
_LAST_SAFE_DAY = 28
_FARTHEST_DAYS = 366 * 28  # after so many days weekdays and leap years come as before
EXPECTED = (
    "hourly, `daily 03:00`, `weekly sun 04:30`, `monthly 1 05:00`, or one expression of systemd's OnCalendar such as "
    "`mon..fri *-*-* 06,18:00`"
)


@dataclass(frozen=True)
class Calendar:
    """Sets of values, each sorted; weekdays count from Monday = 0; no `years` are all years."""

    years: tuple[int, ...]
    months: tuple[int, ...]
    days: tuple[int, ...]
    weekdays: tuple[int, ...]
    hours: tuple[int, ...]
    minutes: tuple[int, ...]

    @property
    def each_hour(self) -> bool:
        """Whether it goes by real hours rather than by what the clock shows."""
        return len(self.hours) == 24

    @property
    def systemd(self) -> str:
        """The one expression for OnCalendar=."""
        weekdays = "" if len(self.weekdays) == 7 else ",".join(_DAYS[day].capitalize() for day in self.weekdays) + " "
        years = ",".join(map(str, self.years)) or "*"
        months, days = _listed(self.months, 12), _listed(self.days, 31)
        return f"{weekdays}{years}-{months}-{days} {_listed(self.hours, 24)}:{_listed(self.minutes, 60)}:00"

    def systemd_in(self, zone: tzinfo) -> str:
        """The same in a server's zone. systemd passes over the second of an hour that the clock shows twice, so what
        comes in every hour of every day is told in UTC, where that is the same minute."""
        every = (len(self.months), len(self.days), len(self.weekdays), len(self.years)) == (12, 31, 7, 0)
        offsets = {datetime(2026, month, 1, tzinfo=zone).utcoffset() or timedelta(0) for month in range(1, 13)}
        whole = not any(offset % timedelta(hours=1) for offset in offsets)
        return f"{self.systemd} UTC" if self.each_hour and every and whole and any(offsets) else self.systemd

    @property
    def cron(self) -> str:
        """The five fields of cron. Raises InputError for what cron cannot say."""
        if self.years:
            raise InputError("names a year, which cron does not know: leave it out, or say scheduler: systemd")
        if len(self.days) != 31 and len(self.weekdays) != 7:
            raise InputError(
                "names days of the month and of the week, and cron would run it on either: name one of them, or say "
                "scheduler: systemd"
            )
        weekdays = tuple((day + 1) % 7 for day in self.weekdays)
        fields = ((self.minutes, 60), (self.hours, 24), (self.days, 31), (self.months, 12), (weekdays, 7))
        return " ".join(_listed(values, count, digits=1) for values, count in fields)

    def on(self, day: date, zone: tzinfo) -> tuple[datetime, ...]:
        """The moments of one day, in UTC, in their order."""
        matches = (
            (not self.years or day.year in self.years)
            and day.month in self.months
            and day.day in self.days
            and day.weekday() in self.weekdays
        )
        if not matches:
            return ()
        found: set[datetime] = set()
        for hour, minute in product(self.hours, self.minutes):
            found.update(self._moments(datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone)))
        return tuple(sorted(found))

    def _moments(self, shown: datetime) -> Iterator[datetime]:
        """When the clock shows this: once, twice, or never, and what then counts."""
        first, second = shown.astimezone(UTC), shown.replace(fold=1).astimezone(UTC)
        if first == second:
            yield first
        elif first < second:  # the clock shows it twice
            yield first
            if self.each_hour:
                yield second
        elif not self.each_hour:  # the clock skips it: the moment of the jump
            yield _jump(second, first, shown.tzinfo or UTC)

    def before(self, now: datetime, zone: tzinfo) -> datetime | None:
        """The last moment that is not after `now` (with a zone), in UTC; None where there was none in 28 years."""
        day = now.astimezone(zone).date() + timedelta(days=1)
        for _unused in range(_FARTHEST_DAYS):
            for moment in reversed(_on(self, day, zone)):
                if moment <= now:
                    return moment
            day -= timedelta(days=1)
        return None

    def after(self, now: datetime, zone: tzinfo) -> datetime | None:
        """The first moment after `now` (with a zone), in UTC; None where there is none in 28 years."""
        day = now.astimezone(zone).date() - timedelta(days=1)
        for _unused in range(_FARTHEST_DAYS):
            for moment in _on(self, day, zone):
                if moment > now:
                    return moment
            day += timedelta(days=1)
        return None


@lru_cache(maxsize=256)
def _on(calendar: Calendar, day: date, zone: tzinfo) -> tuple[datetime, ...]:
    """The moments of one day; a question about a job asks for the same days again and again."""
    return calendar.on(day, zone)


def _jump(before: datetime, after: datetime, zone: tzinfo) -> datetime:
    """The moment between two at which the zone's offset changes."""
    offset = before.astimezone(zone).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = (before + (after - before) / 2).replace(microsecond=0)
        if middle.astimezone(zone).utcoffset() == offset:
            before = middle
        else:
            after = middle
    return after


def _listed(values: Sequence[int], count: int, *, digits: int = 2) -> str:
    if len(values) == count:
        return "*"
    return ",".join(f"{value:0{digits}}" for value in sorted(values))


@lru_cache(maxsize=256)
def parse(text: str) -> Calendar:
    """The calendar that somebody wrote. Raises InputError with the end of a sentence: what is wrong, what to write."""
    words = text.lower().split()
    if "\n" in text or ";" in text:
        raise InputError(f"holds several times, which would add up: write one, {EXPECTED}")
    if not words:
        raise InputError(f"is empty: write {EXPECTED}")
    if words[0].startswith("@") or (len(words) == 5 and all(re.fullmatch(r"[\d*/,-]+", word) for word in words)):
        raise InputError(f"is cron's notation: write {EXPECTED}")
    if words[0] in _SHORT:
        words = _long(words).split()
    weekdays = tuple(range(7))
    if words and words[0][0].isalpha():
        weekdays = _weekdays(words.pop(0))
    dates = [word for word in words if "-" in word]
    times = [word for word in words if ":" in word]
    if len(dates) > 1 or len(times) > 1 or [*dates, *times] != words or not (times or dates):
        raise InputError(f"is no time that is understood here (all times are in the server's zone): write {EXPECTED}")
    years, months, days = _date(dates[0] if dates else "*-*-*")
    hours, minutes = _clock(times[0] if times else "00:00")
    found = Calendar(years, months, days, weekdays, hours, minutes)
    if not _comes(found):
        raise InputError(f"never comes: there is no such day; write {EXPECTED}")
    return found


def _long(words: list[str]) -> str:
    """The expression for `daily 03:00` and its like."""
    form, rest = words[0], words[1:]
    minute = re.fullmatch(r":([0-5]\d)", rest[0]) if len(rest) == 1 else None
    if form == "hourly" and minute:
        return f"*-*-* *:{minute[1]}"
    if not rest:
        return _SHORT[form]
    at = rest.pop()
    if not _TIME.fullmatch(at) or form not in ("daily", "weekly", "monthly"):
        raise InputError(f"is no time of day after `{form}`: write {EXPECTED}")
    if form == "daily" and not rest:
        return f"*-*-* {at}"
    if form == "weekly" and len(rest) <= 1:
        return f"{rest[0] if rest else 'mon'} *-*-* {at}"
    if form == "monthly" and len(rest) == 1 and rest[0].isdigit():
        if not 1 <= int(rest[0]) <= _LAST_SAFE_DAY:
            raise InputError("names a day that some months lack: write a day from 1 to 28, such as `monthly 1 05:00`")
        return f"*-*-{int(rest[0]):02} {at}"
    raise InputError(f"is not understood after `{form}`: write {EXPECTED}")


def _weekdays(word: str) -> tuple[int, ...]:
    found: set[int] = set()
    for part in word.split(","):
        first, dots, last = part.partition("..")
        known = [_day(name) for name in (first, *([last] if dots else []))]
        if None in known or not part:
            raise InputError(f"has the word {word!r}, which is no day of the week: write {EXPECTED}")
        numbers = [day for day in known if day is not None]
        if numbers[0] > numbers[-1]:
            raise InputError(f"has the days {part}, which run backwards: write them as a list, such as fri,sat,mon")
        found.update(range(numbers[0], numbers[-1] + 1))
    return tuple(sorted(found))


def _day(name: str) -> int | None:
    names = _DAYS if name in _DAYS else _NAMES
    return names.index(name) if name in names else None


def _date(word: str) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    parts = word.split("-")
    if len(parts) == 2:
        parts = ["*", *parts]
    if len(parts) != 3:
        raise InputError(f"has the date {word!r}: write year, month and day, such as *-*-01")
    years = () if parts[0] == "*" else _values(parts[0], 1970, 2199, "year")
    return years, _values(parts[1], 1, 12, "month"), _values(parts[2], 1, 31, "day")


def _clock(word: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    parts = word.split(":")
    if len(parts) == 3 and parts[2] not in ("0", "00"):
        raise InputError(f"has the time {word!r}: jobs begin at whole minutes, write hours and minutes such as 03:00")
    if len(parts) not in (2, 3):
        raise InputError(f"has the time {word!r}: write hours and minutes, such as 03:00")
    return _values(parts[0], 0, 23, "hour"), _values(parts[1], 0, 59, "minute")


def _values(text: str, least: int, most: int, what: str) -> tuple[int, ...]:
    """The values of one component: `*`, a number, a list, a range `a..b`, each perhaps with a step `/n`."""
    found: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise InputError(
                f"has {part!r} as a {what}: write *, a number, a list such as 6,18, or a range such as 9..17"
            )
        first = least if match[1] is None else int(match[1])
        last = int(match[2]) if match[2] else most if match[1] is None or match[3] else first
        step = int(match[3]) if match[3] else 1
        if not least <= first <= last <= most:
            raise InputError(f"has {part!r} as a {what}: write values from {least} to {most}, the smaller one first")
        if match[3] and not 0 < step <= last - first:
            raise InputError(
                f"has the step {match[3]} of {part!r}, which reaches no second {what}: every hour is `hourly`, every "
                "day `daily 03:00`"
            )
        found.update(range(first, last + 1, step))
    return tuple(sorted(found))


def _comes(calendar: Calendar) -> bool:
    """Whether there is any such day."""
    years = calendar.years or range(2000, 2028)
    for year, month, day in product(years, calendar.months, calendar.days):
        try:
            found = date(year, month, day)
        except ValueError:
            continue
        if found.weekday() in calendar.weekdays:
            return True
    return False
