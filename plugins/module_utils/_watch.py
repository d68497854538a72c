"""The watch: is the release that was just put in front worse than the one before it?

Its rule must never undo a good release because of ordinary noise, and never leave a burning one in front. So it
compares route by route with what the release before did in the same log, asks that the difference be far beyond chance
(and be tried again each second, so far means four standard deviations), that it be left when the worst five seconds are
taken away (a burst is no trend), that it still goes on, and that it be not one client alone that meets it.
"""

from __future__ import annotations

import datetime as dt
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from ._access_log import OURS, Follower, Hit, access_log
from ._error_kinds import (
    ErrorKind,
    errors_in,
    journal_lines,
    kinds,
    new_kinds,
    restarts_in,
    units_of_release,
)
from ._errors import BackstayError
from ._layout import Layout
from ._prober import Prober
from ._run import Runner, run

if TYPE_CHECKING:
    from ._application import Watch

Outcome = Literal["good", "bad", "inconclusive"]

MOST_HITS = 60_000  # of each release; the newest count
BASELINE_SECONDS = 3600
RECENT_SECONDS = 60
BURST_SECONDS = 5
DEVIATIONS = 4.0
_LEAST_EVENTS = 5
_LEAST_IN_ROUTE = 10
_LEAST_TIMES = 20
_SUPPOSED_GOOD = 50  # without any baseline the release before is supposed to have answered so many well
_MANY_ERRORS = 20
_SAY_SECONDS = 10.0
_UNIT_SECONDS = 2.0
_ERROR_SECONDS = 10.0


class Sample:
    """Requests of one release, in the order of the log; what is reckoned from them is reckoned once."""

    def __init__(self, hits: Iterable[Hit] = ()) -> None:
        self.hits = tuple(hits)
        self._limits: dict[tuple[float, float], dict[str, float]] = {}
        self._last: dict[int, Sample] = {}

    @cached_property
    def by_route(self) -> dict[str, list[Hit]]:
        return _group(self.hits)

    @property
    def requests(self) -> int:
        return len(self.hits)

    @cached_property
    def failed(self) -> int:
        """Answers 5xx."""
        return sum(map(_failed, self.hits))

    @cached_property
    def p95_seconds(self) -> float | None:
        """95th percentile of the time of answers that are no errors; None without any."""
        return _percentile(_times(self.hits), 0.95)

    @cached_property
    def newest(self) -> int:
        """The second of the newest line; 0 without any."""
        return max((hit.second for hit in self.hits), default=0)

    def last(self, seconds: int) -> Sample:
        """What came in the last `seconds` of it."""
        if seconds not in self._last:
            after = self.newest - seconds
            self._last[seconds] = Sample(hit for hit in self.hits if hit.second > after)
        return self._last[seconds]

    def limits(self, factor: float, seconds: float) -> dict[str, float]:
        """By route, from how many seconds on an answer is slow beside this release; only where there is enough."""
        if (factor, seconds) not in self._limits:
            found = {}
            for route, hits in self.by_route.items():
                times = _times(hits)
                p95 = _percentile(times, 0.95)
                if p95 is not None and len(times) >= _LEAST_TIMES:
                    found[route] = max(p95 * factor, p95 + seconds)
            self._limits[factor, seconds] = found
        return self._limits[factor, seconds]


def _failed(hit: Hit) -> bool:
    return hit.status >= 500


def _times(hits: Iterable[Hit]) -> list[float]:
    return [hit.seconds for hit in hits if hit.seconds is not None and hit.status < 500]


def _percentile(values: list[float], share: float) -> float | None:
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


@dataclass(frozen=True)
class Evidence:
    """What was seen. Probes are our own questions, as hits of one route. Restarts count those that systemd made by
    itself since the switch, by process; kinds of error come from the journal."""

    candidate: Sample
    previous: Sample
    candidate_probes: Sample = field(default_factory=Sample)
    previous_probes: Sample = field(default_factory=Sample)
    restarts: Mapping[str, int] = field(default_factory=dict)
    previous_restarts: Mapping[str, int] = field(default_factory=dict)
    dead: Sequence[str] = ()  # units of the candidate that systemd gave up
    fresh_errors: Sequence[ErrorKind] = ()  # kinds that the previous release did not have
    notes: Sequence[str] = ()  # what could not be read


@dataclass(frozen=True)
class Judgement:
    """What the watch found; `reasons` are sentences with numbers, `fresh` kinds of error that are new."""

    outcome: Outcome
    reasons: tuple[str, ...]
    seconds: float = 0.0
    numbers: Mapping[str, Any] = field(default_factory=dict)
    fresh: tuple[ErrorKind, ...] = ()

    @property
    def sentence(self) -> str:
        return "; ".join(self.reasons)

    def reverts(self, policy: Watch) -> bool:
        """Whether the release before is to be put back."""
        return self.outcome == "bad" or (self.outcome == "inconclusive" and policy.inconclusive == "revert")

    def to_dict(self) -> dict[str, Any]:
        """For the ledger."""
        return {
            "outcome": self.outcome,
            "reasons": list(self.reasons),
            "seconds": round(self.seconds, 1),
            "numbers": dict(self.numbers),
            "fresh": [kind.to_dict() for kind in self.fresh[:10]],
        }


# the rule: pure


@dataclass(frozen=True)
class _Excess:
    """How much more often something happened than the previous release lets expect."""

    requests: int
    events: int
    expected: float
    deviations: float

    @property
    def share(self) -> float:
        return (self.events - self.expected) / self.requests if self.requests else 0.0


_Event = Callable[[Hit], bool]


def _excess(candidate: Mapping[str, list[Hit]], previous: Mapping[str, list[Hit]], event: _Event) -> _Excess:
    """Stratified by route (Mantel and Haenszel): a route that always failed, or that is asked more than before,
    condemns nobody. Routes that the baseline hardly knows are compared with all of it together."""
    strata: list[tuple[int, int, int, int]] = []
    requests = events = other_requests = other_events = 0
    for route, hits in candidate.items():
        count, happened = len(hits), sum(map(event, hits))
        requests, events = requests + count, events + happened
        before = previous.get(route, ())
        if len(before) >= _LEAST_IN_ROUTE:
            strata.append((count, happened, len(before), sum(map(event, before))))
        else:
            other_requests, other_events = other_requests + count, other_events + happened
    if other_requests:
        whole = [hit for hits in previous.values() for hit in hits]
        known, failed = max(len(whole), _SUPPOSED_GOOD), sum(map(event, whole))
        strata.append((other_requests, other_events, known, failed))
    surplus = variance = expected = 0.0
    for count, happened, count_before, happened_before in strata:
        total, all_events = count + count_before, happened + happened_before
        surplus += happened - count * all_events / total
        variance += count * count_before * all_events * (total - all_events) / (total * total * max(total - 1, 1))
        expected += count * happened_before / count_before
    deviations = max(0.0, surplus - 0.5) / math.sqrt(variance) if variance else 0.0
    return _Excess(requests, events, expected, deviations)


def _group(hits: Iterable[Hit]) -> dict[str, list[Hit]]:
    grouped: dict[str, list[Hit]] = {}
    for hit in hits:
        grouped.setdefault(hit.route, []).append(hit)
    return grouped


def _without_burst(hits: Sequence[Hit], event: _Event, seconds: int) -> list[Hit]:
    """All but the `seconds` in which most of it happened."""
    per_second = Counter(hit.second for hit in hits if event(hit))
    if not per_second or seconds < 1:
        return list(hits)
    worst = max(per_second, key=lambda start: sum(per_second.get(start + offset, 0) for offset in range(seconds)))
    return [hit for hit in hits if not worst <= hit.second < worst + seconds]


def _without_odd_client(hits: Sequence[Hit], event: _Event, previous: Mapping[str, list[Hit]]) -> list[Hit]:
    """Without what one client alone meets: on a route that serves others well, or that this client never asked the
    release before while others are about. It is that client's fault, or a robot's."""
    odd: set[tuple[str, str]] = set()
    clients = {hit.client for hit in hits}
    for route, asked in _group(hits).items():
        met = Counter(hit.client for hit in asked if event(hit))
        if len(met) != 1 or sum(met.values()) < 3:
            continue
        client = next(iter(met))
        others = Counter(hit.client for hit in asked if hit.client != client)
        well = len(others) >= 2 and sum(others.values()) >= _LEAST_EVENTS
        if well or ((others or len(clients) > 3) and all(hit.client != client for hit in previous.get(route, ()))):
            odd.add((route, client))
    return [hit for hit in hits if (hit.route, hit.client) not in odd] if odd else list(hits)


def _goes_on(hits: Sequence[Hit], event: _Event, share: float) -> bool:
    """Whether it still happens, in the last quarter of what was seen, at half of the share that counts as bad."""
    first, newest = hits[0].second, max(hit.second for hit in hits)
    late = [hit for hit in hits if hit.second > newest - max(BURST_SECONDS, (newest - first) / 4)]
    return sum(map(event, late)) >= max(1.0, len(late) * share / 2)


@dataclass(frozen=True)
class _Rule:
    event: _Event
    share: float  # of requests, above what the previous release lets expect
    least: int  # requests
    burst_seconds: int
    deviations: float = DEVIATIONS


def _worse(candidate: Sample, previous: Sample, rule: _Rule) -> _Excess | None:
    """The excess by which the candidate is worse, in all that was seen or lately; None when it is not.

    It must hold against the whole baseline, its last minutes and its last one: what was sick already is no new fault.
    """
    if sum(map(rule.event, candidate.hits)) < _LEAST_EVENTS:
        return None
    recents = (previous.last(RECENT_SECONDS), previous.last(5 * RECENT_SECONDS))
    before = [previous, *(each for each in recents if _LEAST_TIMES <= each.requests < previous.requests)]
    # What began lately is not lost among what was well before; there, more of it is asked for.
    lately = [candidate.last(seconds) for seconds in (RECENT_SECONDS, RECENT_SECONDS // 3)]
    spans = [(candidate, 1), *((span, 2) for span in lately if span.requests < candidate.requests)]
    for span, strict in spans:
        found = [_worse_than(span, each, rule, least_events=_LEAST_EVENTS * strict) for each in before]
        if all(found):
            return found[0]
    return None


def _worse_than(candidate: Sample, previous: Sample, rule: _Rule, *, least_events: int) -> _Excess | None:
    hits = _without_odd_client(candidate.hits, rule.event, previous.by_route)
    hits = _without_burst(hits, rule.event, rule.burst_seconds)
    few = candidate.requests < rule.least
    if not hits or sum(map(rule.event, hits)) < least_events * (2 if few else 1):
        return None
    found = _excess(_group(hits), previous.by_route, rule.event)
    limit = max(0.5, rule.share) if few else rule.share
    surplus = found.events - found.expected
    if found.share < limit or surplus < _LEAST_EVENTS or found.deviations < rule.deviations:
        return None
    if not _goes_on(hits, rule.event, rule.share):
        return None
    return _excess(candidate.by_route, previous.by_route, rule.event)


def judge_watch(evidence: Evidence, policy: Watch, *, burst_seconds: int = BURST_SECONDS) -> Judgement:
    """Pure: whether the candidate is worse than the release before it by this evidence.

    `bad` is certain whenever it is said; `good` and `inconclusive` (too few requests and probes) count at the end.
    `burst_seconds` is how long a burst may be that counts as noise.
    """
    reasons = [*_restart_reasons(evidence), *_request_reasons(evidence, policy, burst_seconds)]
    reasons += _probe_reasons(evidence, policy, burst_seconds)
    reasons += _error_reasons(evidence, policy, burst_seconds)
    numbers = _numbers(evidence)
    fresh = tuple(evidence.fresh_errors)
    if reasons:
        return Judgement("bad", tuple(reasons), numbers=numbers, fresh=fresh)
    seen = evidence.candidate.requests + evidence.candidate_probes.requests
    notes = tuple(evidence.notes)
    if seen < policy.least_requests:
        told = (
            f"too little was seen: {evidence.candidate.requests} requests and {evidence.candidate_probes.requests} "
            f"probes, and releases.watch.least_requests is {policy.least_requests}"
        )
        return Judgement("inconclusive", (told, *notes), numbers=numbers, fresh=fresh)
    extra = (f"{len(fresh)} new kinds of error, too rare to count",) if fresh else ()
    return Judgement("good", (_compared(evidence), *extra, *notes), numbers=numbers, fresh=fresh)


def _restart_reasons(evidence: Evidence) -> list[str]:
    reasons = [f"{unit} failed and systemd gave it up" for unit in evidence.dead]
    for process, count in evidence.restarts.items():
        before = evidence.previous_restarts.get(process, 0)
        # Whoever restarted now and then in the last hour may go on so, and no oftener.
        if count > 0 and (before < 3 or count > before):
            times = "once" if count == 1 else f"{count} times"
            reasons.append(f"the process {process} ended and was restarted by systemd {times} since the switch")
    return reasons


def _request_reasons(evidence: Evidence, policy: Watch, burst_seconds: int) -> list[str]:
    candidate, previous = evidence.candidate, evidence.previous
    least = policy.least_requests
    rule = _Rule(_failed, policy.error_ratio, least, burst_seconds)
    reasons = []
    worse = _worse(candidate, previous, rule)
    if worse:
        reasons.append(
            f"{worse.events} of {worse.requests} requests failed ({_percent(worse.events, worse.requests)} 5xx"
            f"{_where(candidate)}), and {previous.failed} of {previous.requests} "
            f"({_percent(previous.failed, previous.requests)}) before the switch"
        )
    else:
        share = 0.5 if candidate.requests < least else min(0.5, max(0.2, 4 * policy.error_ratio))
        reasons += _broken_route(candidate, previous, replace(rule, share=share))
    slow = _slower(candidate, previous, policy, least, burst_seconds)
    if slow:
        reasons.append(slow)
    return reasons


def _broken_route(candidate: Sample, previous: Sample, rule: _Rule) -> list[str]:
    """One route among many that broke; the previous release must have served it, or going back helps nobody."""
    for route, hits in candidate.by_route.items():
        before = previous.by_route.get(route, [])
        if sum(map(_failed, hits)) < _LEAST_EVENTS or len(before) < _LEAST_IN_ROUTE:
            continue
        worse = _worse(Sample(hits), Sample(before), replace(rule, least=_LEAST_IN_ROUTE))
        if worse:
            failed = sum(map(_failed, before))
            return [
                (
                    f"{worse.events} of {worse.requests} requests failed at {route}, and {failed} of {len(before)} "
                    "before the switch"
                )
            ]
    return []


def _slower(candidate: Sample, previous: Sample, policy: Watch, least: int, burst_seconds: int) -> str | None:
    """Whether the 95th percentile went beyond both limits of the policy, each route beside itself."""
    limits = previous.limits(policy.slower_factor, policy.slower_seconds)

    def slow(hit: Hit) -> bool:
        return hit.seconds is not None and hit.status < 500 and hit.seconds > limits.get(hit.route, math.inf)

    if sum(map(slow, candidate.hits)) < _LEAST_EVENTS:
        return None
    comparable = Sample(hit for hit in candidate.hits if hit.route in limits and hit.status < 500)
    before = Sample(hit for hit in previous.hits if hit.route in limits and hit.status < 500)
    # Slower than the limit must be more than one in twenty: then the 95th percentile is beyond it.
    worse = _worse(comparable, before, _Rule(slow, 0.05, least, burst_seconds))
    if worse is None:
        return None
    route, hits = max(comparable.by_route.items(), key=lambda item: sum(map(slow, item[1])))
    now, then = _percentile(_times(hits), 0.95), _percentile(_times(before.by_route[route]), 0.95)
    return (
        f"{worse.events} of {worse.requests} answers took far longer than before the switch; at {route} the 95th "
        f"percentile is {now or 0:.2f} s and was {then or 0:.2f} s"
    )


def _probe_reasons(evidence: Evidence, policy: Watch, burst_seconds: int) -> list[str]:
    candidate, previous = evidence.candidate_probes, evidence.previous_probes
    worse = _worse(candidate, previous, _Rule(_failed, max(0.2, policy.error_ratio), 1, burst_seconds))
    if worse:
        return [
            (
                f"{worse.events} of {worse.requests} probes through the front door failed, and {previous.failed} of "
                f"{previous.requests} before the switch"
            )
        ]
    limits = previous.limits(policy.slower_factor, policy.slower_seconds)

    def slow(hit: Hit) -> bool:
        return hit.seconds is not None and hit.seconds > limits.get(hit.route, math.inf)

    worse = _worse(candidate, previous, _Rule(slow, 0.25, 1, burst_seconds))
    if worse:
        return [
            (
                f"{worse.events} of {worse.requests} probes took far longer than before the switch: their 95th "
                f"percentile is {candidate.p95_seconds or 0:.2f} s and was {previous.p95_seconds or 0:.2f} s"
            )
        ]
    return []


def _error_reasons(evidence: Evidence, policy: Watch, burst_seconds: int) -> list[str]:
    """New kinds of error count when there are many, over more than a burst, or when requests fail with them."""
    reasons = []
    half = _Rule(_failed, policy.error_ratio / 2, policy.least_requests, burst_seconds, deviations=3.0)
    failing = bool(evidence.fresh_errors) and _worse(evidence.candidate, evidence.previous, half) is not None
    for kind in evidence.fresh_errors:
        many = kind.count >= _MANY_ERRORS and kind.seconds > burst_seconds
        if many or (failing and kind.count >= _LEAST_EVENTS):
            reasons.append(
                f"an error that the release before did not have: {kind.sentence}{_where(evidence.candidate)}"
            )
    return reasons[:3]


def _where(sample: Sample) -> str:
    """The routes that fail most, for people."""
    failed = Counter(hit.route for hit in sample.hits if hit.failed)
    return f", mostly {failed.most_common(1)[0][0]}" if failed else ""


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "none"


def _compared(evidence: Evidence) -> str:
    candidate, previous = evidence.candidate, evidence.previous
    told = [
        (
            f"{candidate.requests} requests with {_percent(candidate.failed, candidate.requests)} 5xx "
            f"(before the switch {_percent(previous.failed, previous.requests)} of {previous.requests})"
        )
    ]
    now, then = candidate.p95_seconds, previous.p95_seconds
    if now is not None:
        told.append(f"p95 {now:.2f} s" + (f" (before {then:.2f} s)" if then is not None else ""))
    if evidence.candidate_probes.requests:
        told.append(f"{evidence.candidate_probes.requests} probes, {evidence.candidate_probes.failed} failed")
    return ", ".join(told)


def _numbers(evidence: Evidence) -> dict[str, Any]:
    def of(sample: Sample) -> dict[str, Any]:
        p95 = sample.p95_seconds
        return {
            "requests": sample.requests,
            "failed": sample.failed,
            "p95_seconds": None if p95 is None else round(p95, 3),
        }

    return {
        "candidate": of(evidence.candidate),
        "previous": of(evidence.previous),
        "probes": of(evidence.candidate_probes),
        "restarts": dict(evidence.restarts),
        "new_error_kinds": len(evidence.fresh_errors),
    }


# the adapter


@dataclass
class Watcher:
    """Gathers evidence on one host. Made right before the watch; `units` are the candidate's and `previous_units`
    those of the release before, as unit names."""

    layout: Layout
    candidate: str
    previous: str
    prober: Prober | None = None
    switched_at: float | None = None  # on the prober's clock; None: when the watch began
    runner: Runner = run
    secrets: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.units = tuple(unit for unit in units_of_release(self.layout, self.candidate) if "-migrate." not in unit)
        self.follower = Follower(access_log(self.layout.root, self.layout.name))
        self.hits: deque[Hit] = deque(maxlen=MOST_HITS)
        self.baseline = Sample()
        self.known: tuple[ErrorKind, ...] = ()
        self.fresh: tuple[ErrorKind, ...] = ()
        self.restarts: dict[str, int] = {}
        self.previous_restarts: dict[str, int] = {}
        self.dead: tuple[str, ...] = ()
        self.notes: dict[str, str] = {}
        self._restarted_before: dict[str, int] = {}
        self._front = ""
        self._grace_until: int | None = None
        self.grace_seconds = 0

    def begin(self, seconds: float) -> None:
        """Read what the previous release did, and where the counters stand."""
        self.grace_seconds = int(min(3.0, seconds / 10))
        before: deque[Hit] = deque(maxlen=MOST_HITS)
        for hit in self.follower.past():
            if self._whose(hit) == self.previous:
                if hit.route != OURS:
                    before.append(hit)
            else:
                self._take(hit)
        # From here on the candidate is in front, whatever came in late.
        self._front = self.candidate
        self.baseline = Sample(before).last(BASELINE_SECONDS)
        lines = journal_lines(self.runner, units_of_release(self.layout, self.previous))
        self.known = kinds(errors_in(lines), self.secrets)
        # Not of its whole life: an outage of last month excuses nothing.
        since = (dt.datetime.now(dt.UTC) - dt.timedelta(seconds=BASELINE_SECONDS)).isoformat(timespec="seconds")
        told = restarts_in(
            journal_lines(self.runner, units_of_release(self.layout, self.previous), since=since.partition("+")[0])
        )
        self.previous_restarts = {self._process(unit, self.previous): count for unit, count in told.items()}
        # What restarted while it was gated is the gate's business; workers came with the switch.
        counts, _unused = self._counters()
        web = self.layout.unit(self.candidate, "web")
        self._restarted_before = {unit: count if unit == web else 0 for unit, count in counts.items()}
        if self.prober is not None and self.switched_at is None:
            self.switched_at = self.prober.now()

    def _whose(self, hit: Hit) -> str:
        """Which release a line is of; one that names none is of whoever was named last: our probes see to that."""
        if hit.release:
            self._front = hit.release
        return hit.release or self._front

    def _take(self, hit: Hit) -> None:
        if hit.route == OURS or (hit.release or self._front) != self.candidate:
            return
        if self._grace_until is None:
            self._grace_until = hit.second + self.grace_seconds
        if hit.second >= self._grace_until:
            self.hits.append(hit)

    def read_log(self) -> None:
        for hit in self.follower.fresh():
            self._take(hit)
        if self.follower.skipped_bytes:
            self.notes["log"] = "the front door's log grew faster than it was read: the newest lines count"

    def _process(self, unit: str, release: str) -> str:
        return unit.removeprefix(f"{self.layout.name}-{release}-").removesuffix(".service")

    def _counters(self) -> tuple[dict[str, int], tuple[str, ...]]:
        """(restarts by unit, units that failed); one call for all units."""
        restarts: dict[str, int] = {}
        dead = []
        if not self.units:
            return {}, ()
        arguments = ["systemctl", "show", "--property=Id,NRestarts,ActiveState", "--", *self.units]
        for block in self.runner(arguments, check=False).stdout.split("\n\n"):
            found = dict(line.partition("=")[::2] for line in block.splitlines())
            unit = found.get("Id", "")
            if unit:
                restarts[unit] = int(found.get("NRestarts") or 0)
            if found.get("ActiveState") == "failed":
                dead.append(unit)
        return restarts, tuple(dead)

    def read_units(self) -> None:
        counts, self.dead = self._counters()
        self.restarts = {
            self._process(unit, self.candidate): count - self._restarted_before.get(unit, 0)
            for unit, count in counts.items()
        }

    def read_errors(self) -> None:
        found = errors_in(journal_lines(self.runner, self.units))
        self.fresh = new_kinds(self.known, kinds(found, self.secrets))

    def evidence(self) -> Evidence:
        now, then = self._probes()
        return Evidence(
            candidate=Sample(self.hits),
            previous=self.baseline,
            candidate_probes=now,
            previous_probes=then,
            restarts=self.restarts,
            previous_restarts=self.previous_restarts,
            dead=self.dead,
            fresh_errors=self.fresh,
            notes=tuple(self.notes.values()),
        )

    def _probes(self) -> tuple[Sample, Sample]:
        if self.prober is None or self.switched_at is None:
            return Sample(), Sample()
        hits: tuple[list[Hit], list[Hit]] = ([], [])
        for probe in self.prober.probes():
            if probe.closed:
                continue
            status = 200 if probe.ok else 503
            later = probe.at >= self.switched_at
            hits[later].append(Hit(int(probe.at), probe.release, "probe", status, probe.seconds, "probe"))
        return Sample(hits[True]), Sample(hits[False])


def watch(
    layout: Layout,
    *,
    candidate: str,
    previous: str,
    policy: Watch,
    prober: Prober | None = None,
    switched_at: float | None = None,
    runner: Runner = run,
    secrets: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    should_stop: Callable[[], bool] = lambda: False,
) -> Judgement:
    """Watch the candidate, which is in front already, for `policy.seconds` beside what `previous` did before.

    Ends at once when it is certainly worse, and when `should_stop` says so (then the judgement is of what was seen so
    far). `prober` runs already and goes on; `switched_at` is when the switch was, on its clock (`prober.now()`), to
    tell its questions before from those after. Raises nothing for what it cannot read: that becomes a note.
    """
    watcher = Watcher(layout, candidate, previous, prober, switched_at, runner, secrets)
    burst_seconds = max(1, min(BURST_SECONDS, int(policy.seconds / 8)))
    began = clock()
    _read(watcher, "the release before", lambda: watcher.begin(policy.seconds))
    said = units_at = errors_at = began
    judgement = judge_watch(watcher.evidence(), policy, burst_seconds=burst_seconds)
    bad_before = False
    try:
        while True:
            now = clock()
            last = now - began >= policy.seconds or should_stop()
            _read(watcher, "the front door's log", watcher.read_log)
            if last or now - units_at >= _UNIT_SECONDS:
                units_at = now
                _read(watcher, "the state of the units", watcher.read_units)
            if last or now - errors_at >= min(_ERROR_SECONDS, policy.seconds / 4):
                errors_at = now
                _read(watcher, "the journal", watcher.read_errors)
            judgement = replace(
                judge_watch(watcher.evidence(), policy, burst_seconds=burst_seconds), seconds=clock() - began
            )
            bad = judgement.outcome == "bad"
            if last or (bad and bad_before):
                return judgement
            bad_before = bad
            if now - said >= _SAY_SECONDS:
                said = now
                say(f"watched {now - began:.0f} of {policy.seconds:g} s: {_compared(watcher.evidence())}")
            # A long look (tens of thousands of requests) is taken less often: at most a tenth of the time.
            sleep(max(0.2, min(1.0, policy.seconds - (now - began)), 10 * (clock() - now)))
    finally:
        watcher.follower.close()


def _read(watcher: Watcher, what: str, read: Callable[[], None]) -> None:
    try:
        read()
    except (BackstayError, OSError, ValueError) as failed:
        watcher.notes[what] = f"{what} could not be read ({failed})"
    else:
        watcher.notes.pop(what, None)
