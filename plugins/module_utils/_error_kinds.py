"""Kinds of error: the same fault written a thousand times is one kind with a count, and two releases can be compared.

A kind does not depend on ids, paths of a release, or line numbers, so that it is the same in the next release.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ._access_log import OURS, Follower, Hit, access_log
from ._environment import redact
from ._layout import Layout
from ._run import Runner, run

JOURNAL_LINES = 5000
LOG_BYTES = 16 << 20
MOST_KINDS = 200
_EXAMPLE_LETTERS = 300
_SEVERE = ("error", "critical", "fatal", "emergency", "alert")
_PLAIN = re.compile(r"^(?:\[[^\]]*\] )*\[?(ERROR|CRITICAL|FATAL)\]?:?\s+(?:\[?\d+\]?\s+)?(.*)$")
_RAISED = re.compile(r"^(?P<name>[A-Za-z_][\w.]*)(?:: (?P<message>.*))?$")
_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line \d+, in (?P<function>\S+)')
_TRACEBACK = "Traceback (most recent call last):"
_RESTART = re.compile(r"Scheduled restart job, restart counter is at \d+")
_VARIABLE = (
    (re.compile(r"\b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F-]{22}\b"), "#"),
    (re.compile(r"0x[0-9a-fA-F]+"), "#"),
    (re.compile(r"\b(?=[0-9a-fA-F]*\d)[0-9a-fA-F]{8,}\b"), "#"),
    (re.compile(r"\b(?=\w*\d)\w{16,}\b"), "#"),
    (re.compile(r"\d+"), "#"),
    (re.compile(r"\s+"), " "),
)
_TOLD = re.compile(
    r"(?i)([\w-]*(?:password|passwd|secret|token|api[_-]?key|authorization|cookie|sessionid)[\w-]*[\"']?\s*[=:]\s*)"
    r"(?:(?:bearer|basic|token)\s+)?[\"']?[^\s\"',;&}]+"
)


class Line(NamedTuple):
    """One line of the journal; `at` in seconds since 1970, `priority` as syslog counts (3 is an error)."""

    at: float
    unit: str
    text: str
    priority: int = 6


@dataclass(frozen=True)
class ErrorKind:
    """One kind of error: where it comes from, what was raised, how often, when (UTC), and one example."""

    key: str
    source: str  # the logger, or `front door`
    what: str  # exception class, or status
    message: str  # without what varies
    where: str  # file and function of the last frame of the application's own code; "" where nobody says
    count: int
    first_seen: str
    last_seen: str
    example: str
    seconds: int = 1  # in how many different seconds it was seen

    @property
    def sentence(self) -> str:
        """For people: `OperationalError in audits/views.py:save_finding, 12 times: no such column`."""
        place = f" in {self.where}" if self.where else f" from {self.source}"
        times = "once" if self.count == 1 else f"{self.count} times"
        return f"{self.what}{place}, {times}: {self.example[:160]}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class _Found(NamedTuple):
    at: float
    source: str
    what: str
    message: str
    where: str


def normalise(text: str) -> str:
    """A message without numbers, ids and addresses, so that the same fault reads the same each time."""
    for pattern, stands_for in _VARIABLE:
        text = pattern.sub(stands_for, text)
    return text.strip()[:200]


def top_frame(traceback: str) -> str:
    """`file:function` of the innermost frame of the application's own code, below its release; of any code without."""
    frames = [match.groups() for match in map(_FRAME.match, traceback.splitlines()) if match]
    own = [frame for frame in frames if not re.search(r"/(?:site|dist)-packages/|/lib/python\d|^<", frame[0])]
    if not frames:
        return ""
    file, function = (own or frames)[-1]
    file = re.sub(r"^.*/(?:releases/[^/]+/(?:code/)?|site-packages/|lib/python[\d.]+/)", "", file)
    return f"{file}:{function}"


def _raised(traceback: str) -> tuple[str, str]:
    """(class, message) of what a traceback ends with."""
    for line in reversed(traceback.strip().splitlines()):
        match = _RAISED.match(line)
        if match and not line.startswith((" ", "During ", "The above ")):
            return match["name"].rpartition(".")[2], match["message"] or ""
    return "", ""


def errors_in(lines: Iterable[Line]) -> list[_Found]:
    """The errors among lines of a journal: JSON records (level error and above), tracebacks, `ERROR pid message`."""
    found: list[_Found | None] = []
    traces: dict[str, tuple[float, str, list[str]]] = {}  # by unit: when it began, what introduced it, its lines
    headers: dict[str, int] = {}  # by unit: the place of an `ERROR pid message` in the line before
    for line in lines:
        trace = traces.get(line.unit)
        if trace is not None:
            at, source, told = trace
            told.append(line.text)
            if line.text[:1] not in (" ", "\t", "") or len(told) > 400:
                del traces[line.unit]
                text = "\n".join(told)
                what, message = _raised(text)
                found.append(_Found(at, source, what or "exception", message, top_frame(text)))
            continue
        header = headers.pop(line.unit, None)
        if line.text.startswith(_TRACEBACK):
            # The line that introduces a traceback says where it comes from and is no error of its own.
            introduced = found[header] if header is not None else None
            if header is not None:
                found[header] = None
            traces[line.unit] = (line.at, normalise(introduced.message) if introduced else "process", [line.text])
            continue
        one = _error_of(line)
        if one is not None:
            if one.source == "process":
                headers[line.unit] = len(found)
            found.append(one)
    return [one for one in found if one is not None]


def _error_of(line: Line) -> _Found | None:
    text = line.text
    if text.startswith("{"):
        try:
            row = json.loads(text)
        except ValueError:
            row = None
        if isinstance(row, dict):
            return _error_of_record(line, row)
    plain = _PLAIN.match(text)
    if plain:
        return _Found(line.at, "process", plain[1].lower(), plain[2], "")
    return _Found(line.at, "system", "error", text, "") if line.priority <= 3 and text.strip() else None


def _error_of_record(line: Line, row: Mapping[str, Any]) -> _Found | None:
    level = str(row.get("level") or row.get("levelname") or row.get("severity") or "").lower()
    if level not in _SEVERE:
        return None
    traceback = str(row.get("exception") or row.get("exc_info") or row.get("traceback") or "")
    what, raised = _raised(traceback) if traceback else ("", "")
    message = str(row.get("message") or row.get("msg") or "")
    source = str(row.get("logger") or row.get("name") or "log")
    # `Internal Server Error: /audits/7/` names the page; what was raised says more, and is the same on every page.
    return _Found(line.at, source, what or level, raised or message, top_frame(traceback))


def errors_of(hits: Iterable[Hit]) -> list[_Found]:
    """5xx answers of the front door, by status and route."""
    return [
        _Found(hit.second, "front door", str(hit.status), hit.route, "")
        for hit in hits
        if hit.failed and hit.route != OURS
    ]


def kinds(found: Iterable[_Found], secrets: Sequence[str] = ()) -> tuple[ErrorKind, ...]:
    """Errors grouped, the commonest first; at most 200 kinds, what comes after them counts as one more."""
    groups: dict[str, list[Any]] = {}
    for each in found:
        key = " | ".join((each.source, each.what, normalise(each.message), each.where))
        if key not in groups and len(groups) >= MOST_KINDS:
            key, each = "other", each._replace(source="many", what="other errors", where="")  # noqa: PLW2901  # one place
        group = groups.setdefault(key, [each, 0, each.at, each.at, set()])
        group[1] += 1
        group[2], group[3] = min(group[2], each.at), max(group[3], each.at)
        if len(group[4]) < 1000:
            group[4].add(int(each.at))
    made = [
        ErrorKind(
            clean(key, secrets),
            first.source,
            first.what,
            clean(normalise(first.message), secrets),
            first.where,
            count,
            _stamp(begin),
            _stamp(end),
            clean(" ".join(first.message.split()), secrets)[:_EXAMPLE_LETTERS],
            len(seconds),
        )
        for key, (first, count, begin, end, seconds) in groups.items()
    ]
    return tuple(sorted(made, key=lambda kind: (-kind.count, kind.key)))


def clean(text: str, secrets: Sequence[str]) -> str:
    """Without the application's secrets, and without what calls itself one (password=..., Authorization: ...)."""
    return _TOLD.sub(r"\1[removed]", redact(text, secrets))


def new_kinds(before: Iterable[ErrorKind], after: Iterable[ErrorKind]) -> tuple[ErrorKind, ...]:
    """Those of `after` that `before` did not have."""
    known = {kind.key for kind in before}
    return tuple(kind for kind in after if kind.key not in known)


# adapters


def units_of_release(layout: Layout, release: str) -> tuple[str, ...]:
    """The units written for a release; none when it was pruned."""
    prefix = f"{layout.name}-{release}-"
    return tuple(sorted(path.name for path in layout.units.glob(f"{prefix}*.service")))


def journal_lines(
    runner: Runner, units: Sequence[str], *, since: str | None = None, count: int = JOURNAL_LINES
) -> list[Line]:
    """The last lines that units wrote, and what systemd said of them; `since` is a UTC stamp like the ledger's."""
    if not units:
        return []
    arguments = ["journalctl", "--no-pager", "--quiet", "--all", "--output=json", f"--lines={count}"]
    arguments.append("--output-fields=MESSAGE,PRIORITY,_SYSTEMD_UNIT,UNIT")
    if since:
        arguments.append(f"--since={since.replace('T', ' ').partition('.')[0].rstrip('Z')} UTC")
    arguments += [f"--unit={unit}" for unit in units]
    return [
        line
        for text in runner(arguments, check=False, timeout_seconds=30.0).stdout.splitlines()
        for line in _line(text)
    ]


def _line(text: str) -> list[Line]:
    """An entry of the journal as lines: what a process wrote at once may be several."""
    try:
        row = json.loads(text)
        message = row.get("MESSAGE")
        if isinstance(message, list):  # bytes that are no text
            message = bytes(message).decode(errors="replace")
        unit = row.get("UNIT") or row.get("_SYSTEMD_UNIT") or ""
        at, priority = int(row["__REALTIME_TIMESTAMP"]) / 1e6, int(row.get("PRIORITY", 6))
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
    return [Line(at, str(unit), each, priority) for each in str(message or "").splitlines()]


def restarts_in(lines: Iterable[Line]) -> dict[str, int]:
    """How often systemd restarted each unit by itself, by what it wrote."""
    counted: dict[str, int] = {}
    for line in lines:
        if _RESTART.search(line.text):
            counted[line.unit] = counted.get(line.unit, 0) + 1
    return counted


def kinds_since(
    layout: Layout, release: str, since: str | None = None, runner: Runner = run, *, secrets: Sequence[str] = ()
) -> tuple[ErrorKind, ...]:
    """The kinds of error of a release since a moment (UTC stamp): from the journal of its units (the last 5,000 lines)
    and from the front door's log (its last 16 MiB)."""
    found = errors_in(journal_lines(runner, units_of_release(layout, release), since=since))
    follower = Follower(access_log(layout.root, layout.name), tail_bytes=LOG_BYTES)
    begin = datetime.fromisoformat(since).timestamp() if since else 0.0
    found += errors_of(hit for hit in follower.past() if hit.release == release and hit.second >= int(begin))
    follower.close()
    return kinds(found, secrets)


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def closing_summary(
    application: str,
    release: str,
    previous: str | None,
    *,
    by: str,
    why: str,
    since: str,
    verdict: str,
    left: bool = False,
    probes: Mapping[str, Any] | None = None,
    restarts: Mapping[str, int] | None = None,
    fresh: Sequence[ErrorKind] = (),
    known: int = 0,
) -> str:
    """What who released reads when the 24 hours are over: at most 20 lines. `left`: another release replaced it before.

    `verdict` is what the watch said, `fresh` the kinds of error that the previous release did not have, `known` how
    many other kinds there were, `probes` the numbers of the prober, `restarts` by unit.
    """
    over = "replaced, after its release" if left else "24 hours after its release"
    lines = [f"{application} {release}: {over} by {by or 'somebody'} ({since[:19].rstrip('Z')}Z)"]
    if why:
        lines.append(f"  why       {' '.join(why.split())[:120]}")
    lines.append(f"  before    {previous or 'nothing'}")
    lines.append(f"  watch     {' '.join(verdict.split())[:200] or 'none'}")
    if probes:
        lines.append(
            f"  prober    {probes.get('requests', 0)} requests during the release, {probes.get('failed', 0)} failed, "
            f"longest gap {probes.get('longest_gap_seconds', 0):g} s, p99 {probes.get('p99_seconds', 0):g} s"
        )
    again = {unit: count for unit, count in (restarts or {}).items() if count}
    told = ", ".join(
        f"{unit} {'once' if count == 1 else f'{count} times'}" for unit, count in sorted(again.items())[:4]
    )
    lines.append(f"  restarts  {told or 'none'}")
    if not fresh:
        lines.append(f"  errors    none of a new kind{f'; {known} kinds that were known' if known else ''}")
        return "\n".join(lines)
    lines.append(
        f"  errors    {len(fresh)} of a kind that {previous or 'no release'} did not have, {known} known ones:"
    )
    room = 20 - len(lines) - (len(fresh) > 20 - len(lines))
    lines += [f"    {kind.sentence[:200]}" for kind in fresh[:room]]
    if len(fresh) > room:
        lines.append(f"    and {len(fresh) - room} more: `backstay status`")
    return "\n".join(lines)
