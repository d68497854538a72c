"""The one-look page: one HTML file, no scripts, readable on a phone, in print, in the dark and without colours. Pure.

What is said by a colour is said by a shape and a word too. Everything that comes from a host is escaped; the file loads
nothing, and forbids itself to. `write` is the one adapter: it looks at this host and puts the page beside its facts.
"""

from __future__ import annotations

import datetime as dt
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._cells import (
    COLUMNS,
    OUTSIDE,
    PAGE_SECONDS,
    TITLES,
    WITH_OUTSIDE,
    WORDS,
    Cell,
    Row,
    needs,
    percent,
    size,
    spoken,
    verdict,
    worst_first,
)
from ._charts import Chart, described, svg
from ._page_style import STYLE

if TYPE_CHECKING:
    from ._house import House
    from ._run import Runner
    from ._storage import Storage

FORMAT = 1
RUNBOOKS = ""  # nobody knows where they are read unless it is said: a link that leads nowhere is worse than none
DAYS = 30
REFRESH_SECONDS = 300
_OPEN_ROWS = 3  # so few rows show their details at once
_EVENTS = 14

_MEANS: Mapping[str, str] = {
    "green": "seen lately, within its threshold",
    "blue": "meant to be so: a release in its first day, a declared maintenance",
    "yellow": "to be looked at today",
    "red": "somebody is needed now; what never happened is red too",
    "grey": "nobody knows: not watched, or seen too long ago. Never counted as well",
}
_SHAPES: Mapping[str, str] = {
    "green": '<circle cx="8" cy="8" r="7"/><path class="k" d="M4.6 8.3l2.4 2.4 4.4-5"/>',
    "blue": '<path d="M8 .6L15.4 8 8 15.4.6 8z"/><path class="k" d="M8 5v6"/>',
    "yellow": '<path d="M8 1.2l7.2 13.2H.8z"/><path class="k" d="M8 6v3.6M8 11.6v.6"/>',
    "red": '<path d="M4.8.8h6.4l4 4v6.4l-4 4H4.8l-4-4V4.8z"/><path class="k" d="M8 4v5M8 11.3v.7"/>',
    "grey": '<circle class="o" cx="8" cy="8" r="7"/>'
    '<path class="o" d="M5.7 6.2c0-3.2 4.8-3 4.6-.1C10.2 7.9 8 7.6 8 9.6M8 11.6v.6"/>',
}  # fmt: skip


_UNITS = re.compile(r"(\d) (%|[a-zA-Z]{1,3}\b)")


def text_of(value: object) -> str:
    """Whatever came from a host, as text of HTML. A figure stays beside its unit."""
    return _UNITS.sub("\\1\u00a0\\2", html.escape(" ".join(str(value).split()), quote=True))


def _shape(state: str, word: str = "") -> str:
    label = f"<title>{text_of(word)}</title>" if word else ""
    role = 'role="img"' if word else 'aria-hidden="true"'
    return f'<svg class="s {state}" viewBox="0 0 16 16" {role}>{label}<use href="#s-{state}"/></svg>'


def _moment(stamp: Any, *, short: bool = False) -> str:
    """A time as people read it, in UTC."""
    if not stamp:
        return ""
    moment = dt.datetime.fromisoformat(str(stamp)).astimezone(dt.UTC)
    shown = f"{moment:%d %b %H:%M}" if short else f"{moment:%Y-%m-%d %H:%M} UTC"
    return f'<time datetime="{moment:%Y-%m-%dT%H:%M:%SZ}">{shown}</time>'


def page(rows: Sequence[Row], *, now: dt.datetime, title: str = "", runbooks: str = RUNBOOKS) -> str:
    """The whole file. `title` says whose hosts these are; `runbooks` is what links to runbooks begin with: without it,
    their files are named."""
    ordered = worst_first(rows)
    found = verdict(ordered)
    of = f" of {text_of(title)}" if title else ""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="robots" content="noindex"><meta name="referrer" content="no-referrer">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}"><meta name="color-scheme" content="light dark">',
        f"<title>{WORDS[found.state]}: {text_of(found.sentence)} - Backstay</title>",
        f"<style>{STYLE}</style></head><body>",
        _symbols(),
        '<div class="wrap">',
        _header(ordered, now, of),
        "<main>",
        _needs(ordered, runbooks),
        _matrix(ordered),
        _month(ordered, now),
        _details(ordered),
        "</main>",
        _footer(now),
        "</div></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _symbols() -> str:
    each = "".join(f'<symbol id="s-{state}" viewBox="0 0 16 16">{shape}</symbol>' for state, shape in _SHAPES.items())
    return f'<svg width="0" height="0" style="position:absolute" aria-hidden="true">{each}</svg>'


def _header(rows: Sequence[Row], now: dt.datetime, of: str) -> str:
    found = verdict(rows)
    until = now + dt.timedelta(seconds=PAGE_SECONDS)
    counts = "".join(
        f'<li class="{state}{"" if number else " none"}"><b>{number}</b>{_shape(state)} {WORDS[state]}</li>'
        for state, number in found.counts.items()
        if number or state in ("red", "yellow", "green")
    )
    beats = [cell for row in rows for cell in row.cells if cell.name == "alerts" and not _because(row)]
    worst = max(beats, key=lambda cell: ("green", "blue", "yellow", "grey", "red").index(cell.state), default=None)
    alerts = f" Alert path: {text_of(worst.value)}." if worst else ""
    return (
        f'<header class="{found.state}">{_shape(found.state, WORDS[found.state])}<div>'
        f"<h1>{text_of(_begun(found.sentence, rows))}</h1>"
        f"<p>{_count(rows)}{of}. Looked at {_moment(now.isoformat())}; not to be believed after "
        f"{_moment(until.isoformat())}.{alerts}</p></div>"
        f'<ul class="counts" aria-label="Rows by state">{counts}</ul></header>'
    )


def _begun(sentence: str, rows: Sequence[Row]) -> str:
    """With a capital, but where a name begins it."""
    return sentence if any(sentence.startswith(row.name) for row in rows) else sentence[:1].upper() + sentence[1:]


def _count(rows: Sequence[Row]) -> str:
    hosts, names = {row.host for row in rows}, {row.application for row in rows if row.application}
    return (
        f"{len(names)} {'application' if len(names) == 1 else 'applications'} on "
        f"{len(hosts)} {'host' if len(hosts) == 1 else 'hosts'}"
    )


def _needs(rows: Sequence[Row], runbooks: str) -> str:
    wanted = needs(rows)
    if not wanted:
        return '<section><h2 id="needs">Needs you</h2><p class="calm">Nothing. Enjoy the day.</p></section>'
    places = {row.name: number for number, row in enumerate(rows)}
    items = []
    for each in wanted:
        state = str(each["state"])
        since = f"<br>Since {_moment(each['since'])}" if each["since"] else ""
        command = f"<code>{text_of(each['command'])}</code>" if each["command"] else ""
        known = each["acknowledged"]
        quiet = f"Known to {text_of(known.get('by', ''))} until {text_of(known.get('until', ''))}. " if known else ""
        book = text_of(each["runbook"])
        link = f'<a href="{text_of(runbooks)}{book}">Runbook: {text_of(each["title"].lower())}</a>'
        link = link if runbooks else f"Runbook: docs/runbooks/{book}"
        place = places[each["rows"][0]]
        items.append(
            f'<li class="{state}"><div class="where">{_shape(state)}<span><span class="say">{WORDS[state]}</span> '
            f'<a href="#r{place}">{text_of(each["where"])}</a></span></div>'
            f'<p class="what">{text_of(each["title"])}: {text_of(each["why"])}</p>'
            f'<p class="far">Seen: {text_of(each["evidence"])}{since}</p>{command}'
            f'<p class="foot">{quiet}{link}</p></li>'
        )
    listed = f'<ol class="needs">{"".join(items)}</ol>'
    return f'<section aria-labelledby="needs"><h2 id="needs">Needs you</h2>{listed}</section>'


def _matrix(rows: Sequence[Row]) -> str:
    watched = any(cell.name == OUTSIDE[0] for row in rows for cell in row.cells)
    columns = WITH_OUTSIDE if watched else COLUMNS
    heads = "".join(f'<th scope="col">{text_of(title)}</th>' for _name, title, _age, _book in columns)
    names = [name for name, *_rest in columns]
    body = "".join(_line(row, number, names) for number, row in enumerate(rows))
    return (
        '<section aria-labelledby="hosts"><h2 id="hosts">Applications and hosts</h2><div class="matrix" tabindex="0" '
        'role="region" aria-labelledby="hosts"><table><caption>Each application on each host, the worst first'
        f'</caption><thead><tr><th scope="col">Where</th>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
        "</section>"
    )


def _line(row: Row, number: int, columns: Sequence[str]) -> str:
    name = f"{text_of(row.application)}<small>@{text_of(row.host)}</small>" if row.application else text_of(row.host)
    because, there = _because(row), {cell.name: cell for cell in row.cells}

    def folded(column: str) -> bool:
        return bool(because) and column != "host" and column in there and there[column].state == "grey"

    cells = []
    for fold, group in groupby(columns, folded):
        run = list(group)
        if fold:
            cells.append(f'<td class="grey because" colspan="{len(run)}">{_shape("grey")} {because}</td>')
        else:  # what is not there no other host watches
            cells += [_cell(there[column]) if column in there else "<td></td>" for column in run]
    return (
        f'<tr><th scope="row" class="{row.state}"><a href="#r{number}">{name}</a>'
        f'<small class="say">{_shape(row.state)} {WORDS[row.state]}</small></th>{"".join(cells)}</tr>'
    )


def _parts(value: str) -> str:
    """A value with each of its parts on a line of its own, where there is room for that."""
    return '<span class="c">, </span>'.join(f'<span class="p">{text_of(part)}</span>' for part in value.split(", "))


def _because(row: Row) -> str:
    """Why all else about a row is unknown, where it is."""
    unknown = [cell for cell in row.cells if cell.state == "grey" and cell.why.startswith("because ")]
    return f"unknown, {text_of(unknown[0].why)}" if len(unknown) > len(row.cells) // 2 else ""


def _cell(cell: Cell) -> str:
    state = cell.state
    said = "" if state == "green" else f"{cell.why}" if state != "grey" or cell.observed_at else ""
    known = ", known" if cell.acknowledged else ""
    under = f'<span class="m">{text_of(said[:140])}</span>' if said else ""
    most = f'<span class="m">{text_of(cell.threshold)}</span>' if cell.threshold and not said else ""
    return (
        f'<td class="{state}" data-label="{text_of(TITLES[cell.name])}"><span class="v">{_shape(state)}<span>'
        f'<span class="say">{WORDS[state]}{known}: </span>{_parts(cell.value)}</span></span>{under}{most}</td>'
    )


# --- the last 30 days


_KINDS: Mapping[str, str] = {"incident": "Incident", "release": "Release", "restore": "Restore"}


def _month(rows: Sequence[Row], now: dt.datetime) -> str:
    seen: dict[tuple[str, str, str], tuple[Mapping[str, Any], list[str]]] = {}
    begin = now - dt.timedelta(days=DAYS)
    for row in rows:
        for event in row.events:
            if dt.datetime.fromisoformat(str(event["at"])) < begin:
                continue
            key = (str(event["at"])[:16], str(event["kind"]), str(event["sentence"]))
            seen.setdefault(key, (event, []))[1].append(row.name)
    events = sorted(seen.values(), key=lambda each: str(each[0]["at"]), reverse=True)
    if not events:
        body = '<p class="calm">No incident, no release, no restore in 30 days.</p>'
    else:
        shown, rest = events[:_EVENTS], events[_EVENTS:]
        more = f'<details><summary>{len(rest)} more</summary><div class="inside">{_events(rest)}</div></details>'
        body = f'<div class="month">{_days(events, now)}{_events(shown)}{more if rest else ""}</div>'
    return f'<section aria-labelledby="month"><h2 id="month">The last {DAYS} days</h2>{body}</section>'


def _events(events: Iterable[tuple[Mapping[str, Any], list[str]]]) -> str:
    items = []
    for event, where in events:
        kind, more = str(event["kind"]), f" and {len(where) - 1} more" if where[1:] else ""
        items.append(
            f'<li class="{kind}">{_moment(event["at"], short=True)}<span><span class="kind">{_KINDS.get(kind, "Event")}'
            f"</span> {text_of(where[0])}{more}: {text_of(event['sentence'])}</span></li>"
        )
    return f'<ul class="events">{"".join(items)}</ul>'


def _days(events: Sequence[tuple[Mapping[str, Any], list[str]]], now: dt.datetime) -> str:
    """A strip of days: a square for each incident, a disc for a release, a triangle for a restore."""
    today, wide = now.date(), 30
    counts: dict[int, dict[str, int]] = {}
    for event, _where in events:
        day = DAYS - 1 - (today - dt.datetime.fromisoformat(str(event["at"])).astimezone(dt.UTC).date()).days
        kinds = counts.setdefault(max(day, 0), {})
        kinds[str(event["kind"])] = kinds.get(str(event["kind"]), 0) + 1
    drawn = []
    for day in range(DAYS):
        left, date = day * wide, today - dt.timedelta(days=DAYS - 1 - day)
        drawn.append(f'<rect class="day" x="{left + 1}" y="0" width="{wide - 2}" height="40" rx="3"/>')
        for place, kind in enumerate(_KINDS):
            number = counts.get(day, {}).get(kind, 0)
            drawn.append(_mark(kind, left + wide / 2, 8 + place * 12, number) if number else "")
        if day % 5 == 4:
            drawn.append(f'<text x="{left + wide / 2}" y="51" text-anchor="middle">{date:%d %b}</text>')
    sums = {kind: sum(kinds.get(kind, 0) for kinds in counts.values()) for kind in _KINDS}
    totals = ", ".join(f"{sums[kind]} {word.lower()}{'' if sums[kind] == 1 else 's'}" for kind, word in _KINDS.items())
    key = " · ".join(f"{shape} {word.lower()}" for shape, word in zip("■●▲", _KINDS.values(), strict=True))
    return (
        f'<svg class="days" viewBox="0 0 {DAYS * wide} 54" role="img" aria-labelledby="days-t"><title id="days-t">'
        f"The last {DAYS} days: {totals}</title>{''.join(drawn)}</svg>"
        f'<p class="m">{key}; {totals}</p>'
    )


def _mark(kind: str, across: float, down: float, number: int) -> str:
    shapes = {
        "incident": f'<rect class="incident" x="{across - 4}" y="{down - 4}" width="8" height="8"/>',
        "release": f'<circle class="release" cx="{across}" cy="{down}" r="4"/>',
        "restore": f'<path class="restore" d="M{across} {down - 4.5}l5 9h-10z"/>',
    }
    many = f'<text x="{across + 7}" y="{down + 3}">{number}</text>' if number > 1 else ""
    return shapes[kind] + many


# --- what is behind each row


def _details(rows: Sequence[Row]) -> str:
    opened = _OPEN_ROWS if len(rows) <= _OPEN_ROWS else 1
    told = "".join(
        f'<details id="r{number}"{" open" if number < opened else ""}><summary>{_shape(row.state, WORDS[row.state])}'
        f"<span>{text_of(row.name)}</span>"
        f"<small>{text_of(row.why or 'all is well')}</small></summary>"
        f'<div class="inside">{_release(row)}{_charts(row, number)}{_facts(row)}</div></details>'
        for number, row in enumerate(rows)
    )
    return f'<section aria-labelledby="behind"><h2 id="behind">Behind each row</h2>{told}</section>' if rows else ""


def _release(row: Row) -> str:
    """Version, commit, when, who, and the way back, in a line."""
    live = row.release
    if not live.get("id"):
        return ""
    commit = f", commit <code>{text_of(live['commit'])[:12]}</code>" if live.get("commit") else ""
    since = f", since {_moment(live['since'])}" if live.get("since") else ""
    who = f" by {text_of(live['by'])}" if live.get("by") else ""
    back = f"; rollback goes to {text_of(live['rollback_target'])}" if live.get("rollback_target") else ""
    return f'<p class="m release">Live: <b>{text_of(live["id"])}</b>{commit}{since}{who}{back}.</p>'


_SERIES = (
    ("latency", "Latency, p95", "p95_seconds", False),
    ("errors", "Requests that failed", "error_ratio", False),
    ("backup", "Size of restore points", "", True),
    ("recovery", "Time of proven restores", "recovery_seconds", True),
)


def _charts(row: Row, number: int) -> str:
    series = row.series
    found = series.get("limits")
    limits: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    drawn = []
    for name, title, limit, bars in _SERIES:
        told = {"latency": spoken, "errors": percent, "backup": size, "recovery": spoken}[name]
        points = [(float(at), float(figure)) for at, figure in series.get(name) or ()]
        most = limits.get(limit) if limit else None
        chart = Chart(title, points, told, float(most) if most is not None else None, bars, f"c{number}-{name}")
        last = told(points[-1][1]) if points else "nothing measured yet"
        drawn.append(
            f"<figure><figcaption><span>{title}</span><b>{text_of(last)}</b></figcaption>{svg(chart)}"
            f'<span class="m">{text_of(_summary(chart))}</span></figure>'
        )
    return f'<div class="charts">{"".join(drawn)}</div>'


def _summary(chart: Chart) -> str:
    """What is written under a chart: its sentence without its title."""
    if not chart.points:
        return ""
    said = described(chart).removeprefix(f"{chart.title}: ")
    first, last = (dt.datetime.fromtimestamp(chart.points[place][0], dt.UTC) for place in (0, -1))
    span = f"{first:%d %b %H:%M}" + (f" to {last:%d %b %H:%M}" if last > first else "")
    return f"{span}: {said}"


def _facts(row: Row) -> str:
    heads = "".join(
        f'<th scope="col">{head}</th>' for head in ("", "Seen", "Well is", "Since", "Why, and what to type", "By")
    )
    lines = []
    for cell in row.cells:
        command = f"<br><code>{text_of(cell.command)}</code>" if cell.command and cell.state != "green" else ""
        was = f" (was {WORDS.get(cell.was, cell.was)})" if cell.was else ""
        seen = f"{text_of(cell.source)} {_moment(cell.observed_at)}" if cell.observed_at else text_of(cell.source)
        lines.append(
            f'<tr class="{cell.state}"><th scope="row">{_shape(cell.state, WORDS[cell.state])} '
            f"{text_of(TITLES[cell.name])}</th><td>{text_of(cell.value)}{text_of(was)}</td><td>{text_of(cell.threshold)}</td>"
            f"<td>{_moment(cell.since)}</td><td>{text_of(cell.why)}{command}</td><td>{seen}</td></tr>"
        )
    return f'<table class="facts"><thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table>'


def _footer(now: dt.datetime) -> str:
    legend = "".join(
        f'<li class="{state}">{_shape(state)} <b>{word}</b> {text_of(_MEANS[state])}</li>'
        for state, word in WORDS.items()
    )
    return (
        f'<footer><ul class="legend" aria-label="What the shapes mean">{legend}</ul>'
        f"<p>Written by Backstay {_moment(now.isoformat())}. Times are UTC. The same facts: "
        "<code>backstay status</code> on the host, <code>playbooks/status.yml</code> for all.</p></footer>"
    )


# --- text


def text(rows: Sequence[Row], lines: int = 20) -> str:
    """The same in at most so many lines, for a terminal, a mail or a chat."""
    ordered = worst_first(rows)
    found = verdict(ordered)
    told = [f"{WORDS[found.state].upper()}: {found.sentence}"]
    for each in needs(ordered):
        command = f"; {each['command']}" if each["command"] else ""
        told.append(f"  {WORDS[each['state']]}: {each['where']}: {each['title'].lower()}: {each['why'][:150]}{command}")
    width = max((len(row.name) for row in ordered), default=0)
    room = lines - len(told)
    shown = ordered if len(ordered) <= room else ordered[: room - 1]
    told += [
        f"  {WORDS[row.state]:<8} {row.name:<{width}}  {row.release.get('id') or '-'}  {row.why[:110] or 'all is well'}"
        for row in shown
    ]
    if len(ordered) > len(shown):
        told.append(f"  and {len(ordered) - len(shown)} more")
    return "\n".join(told)


def document(rows: Sequence[Row], now: dt.datetime) -> dict[str, Any]:
    """The page as JSON: {"format","at","verdict","needs","rows"}. Pure."""
    ordered = worst_first(rows)
    return {
        "format": FORMAT,
        "at": now.isoformat(timespec="seconds"),
        "verdict": verdict(ordered).to_dict(),
        "needs": needs(ordered),
        "rows": [found.to_dict() for found in ordered],
    }


def write(house: House, *, storage: Storage | None = None, runner: Runner | None = None) -> Path:
    """Look at this host and write its page, its JSON, and what the next look must remember. Returns the page's path.

    A timer calls it each five minutes. Raises BackstayError when the disk refuses.
    """
    from ._look import Looker

    return Looker(house, storage=storage, runner=runner).write_page()
