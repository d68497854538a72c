"""Several hosts of one application: what may run on them, and which release all of them must end on. All pure.

Each host owns its transaction. What belongs together carries the id of the run of a playbook that asked for it: once
one host has confirmed what a run wanted, all others go forward to it; while none has, all go back.

Release ids are a host's own. Hosts run one release when its payload and its configuration are the same.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from ._errors import BackstayError, InputError
from ._releases import running_part
from ._steps import RESTORES
from ._storage import canonical

if TYPE_CHECKING:
    from ._application import Application

FORWARD, BACK, NOTHING = "forward", "back", "nothing"
_FLIP_SECONDS = 15.0  # from the first host's flip to the last one's, and what a run needs between its tasks


def names(hosts: Iterable[str], most: int = 5) -> str:
    """Hosts in a sentence: all of them while they are few."""
    known = list(hosts)
    return ", ".join(known[:most]) + (f" and {len(known) - most} more" if len(known) > most else "")


def refusal(application: Application, hosts: Sequence[str]) -> str | None:
    """Why an application cannot be released to these hosts at once, in one sentence with the remedy; None when it
    can, as it always can to one host."""
    if len(hosts) < 2:
        return None
    where = f"{application.name} is meant for {len(hosts)} hosts ({names(hosts)})"
    alone = "or take one host, with --limit"
    for database in application.databases:
        if database.engine == "sqlite":
            return (
                f"{where}, and its database {database.name!r} is an SQLite file, of which each host would have its "
                f"own: use PostgreSQL (engine: postgresql, with url_key), {alone}."
            )
    if application.media is not None:
        return (
            f"{where}, and `media` is a directory of one host, so an upload would be found there and nowhere else: "
            f"remove `media` from an application that takes no uploads, {alone}; media on shared storage come later."
        )
    for name, process in application.processes.items():
        if process.singleton:
            return (
                f"{where}, and processes.{name} is a singleton, which a host can promise for itself alone: it would "
                f"run {len(hosts)} times; declare it without `singleton` if that does no harm, {alone}."
            )
    return None


def strategy_refusal(strategy: str, hosts: Sequence[str]) -> str | None:
    """Why a strategy that goes back by restoring data is refused over several hosts; None where it is not."""
    if strategy == "live" or len(hosts) < 2:
        return None
    return (
        f"{strategy} over {len(hosts)} hosts ({names(hosts)}) would go back by restoring the database they share, and "
        "a host that lost contact would do so under the others: change the schema in steps that the release before can "
        "live with; or close the others (playbooks/maintenance.yml) and take one host, with --limit, then the others."
    )


def forks_refusal(hosts: Sequence[str], forks: int, watch_seconds: float, confirm_seconds: float) -> str | None:
    """Why hosts that are watched in turns, as many at once as there are forks, would not be there to be confirmed; None
    where they would. A host that flipped goes back by itself after `confirm_seconds` in which nobody asked for it."""
    turns = math.ceil(len(hosts) / max(1, forks))
    waiting = (turns - 1) * watch_seconds + _FLIP_SECONDS
    if turns < 2 or watch_seconds <= 0 or waiting < confirm_seconds:
        return None
    return (
        f"{len(hosts)} hosts would be watched {forks} at a time, {watch_seconds:g} s each, so the last would wait "
        f"{waiting:g} s and go back by themselves after {confirm_seconds:g} (releases.confirm_seconds): run it with "
        f"--forks {len(hosts)}, or watch for less (releases.watch.seconds)."
    )


def configuration_digest(application: Mapping[str, Any]) -> str:
    """What two hosts compare of an application's file: what a release runs with. Where its source comes from is the
    controller's own affair."""
    compared = {key: value for key, value in running_part(application).items() if key != "source"}
    return hashlib.sha256(canonical(compared)).hexdigest()


# --- what hosts say, from `backstay status --json`


@dataclass(frozen=True)
class Held:
    """A release that a host confirmed, and when (UTC, ISO 8601)."""

    release: str
    version: str
    payload: str
    configuration: str  # digest of its application's file; secrets are not in it
    run: str
    since: str

    @property
    def same_as(self) -> tuple[str, str]:
        """What two hosts compare."""
        return self.payload, self.configuration

    @property
    def order(self) -> str:
        """By the clock of the controller where a run made it, else by the host's own."""
        stamp = self.run or self.since
        return "".join(letter for letter in stamp if letter.isdigit())[:14]


@dataclass(frozen=True)
class Open:
    """A transaction that has not ended."""

    transaction: str
    operation: str
    release: str
    run: str
    flipped: bool


@dataclass(frozen=True)
class Seen:
    """What one host said of one application."""

    live: str
    confirmed: Held | None
    opened: Open | None
    declared: str  # digest of the application's file that a release would take
    retained: tuple[Held, ...]  # proven, and still on the disk: the oldest first
    runs: tuple[str, ...] = ()  # confirmed here, whatever is kept of them: the oldest first

    @property
    def before(self) -> frozenset[str]:
        """The runs that this host went on from to what it confirmed last."""
        last = self.confirmed.run if self.confirmed else ""
        return frozenset((*self.runs, *(held.run for held in self.retained))) - {"", last}


def seen(facts: Mapping[str, Any]) -> Seen:
    """From the facts of `backstay status --json`. Raises InputError for those of a backstay that is too old."""
    if "fleet" not in facts:
        raise InputError("The backstay of this host knows nothing of fleets: bring it up to date with site.yml.")
    fleet = facts["fleet"]
    confirmed, opened = fleet["confirmed"], fleet["open"]
    return Seen(
        live=_id_of(facts.get("live")),
        confirmed=Held(**confirmed) if confirmed else None,
        opened=Open(**opened) if opened else None,
        declared=str(fleet["declared"]),
        retained=tuple(Held(**each) for each in fleet["retained"]),
        runs=tuple(map(str, fleet.get("runs") or ())),  # an older backstay tells none
    )


def _id_of(live: Any) -> str:
    """`status` describes the live release, other answers name it."""
    return str(live.get("id", "")) if isinstance(live, Mapping) else str(live or "")


# --- deciding, on the controller


@dataclass(frozen=True)
class Goal:
    """Where all hosts are to be. Without a payload each host only ends what it has open."""

    run: str = ""
    version: str = ""
    payload: str = ""
    configuration: str = ""
    why: str = ""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Goal:
        return cls(**{name: str(data.get(name, "")) for name in cls.__dataclass_fields__})

    def met_by(self, held: Held | None) -> bool:
        return held is not None and (self.payload, self.configuration) == held.same_as


def decide(hosts: Mapping[str, Seen | None]) -> Goal:
    """What the newest confirmation anywhere wants everywhere; None stands for a host that did not answer.

    A release that somebody made or undid on one host alone, by hand, is nobody else's: then nothing is wanted but
    that whatever is open ends.
    """
    last = _last_confirmed({host: found for host, found in hosts.items() if found})
    if not last:
        return Goal(why="no host has confirmed anything: what is open goes back")
    host, newest = last[-1]
    clocks = _by_clocks(newest, last[:-1])
    if not newest.run:
        return Goal(why=f"{newest.release} was made on {host} alone, by hand: what is open goes back{clocks}")
    answered = [found for found in hosts.values() if found]
    waiting = any(found.opened and found.opened.run == newest.run for found in answered)
    others = any(found.confirmed and found.confirmed.same_as != newest.same_as for found in answered)
    if not waiting and not others:
        why = f"all run {newest.version}"
    else:
        why = f"{host} confirmed {newest.version}: all go forward to it{clocks}"
    if any(found.opened and found.opened.run != newest.run for found in answered):
        why += "; what is open besides was confirmed by nobody and goes back"
    return Goal(newest.run, newest.version, newest.payload, newest.configuration, why)


def _last_confirmed(hosts: Mapping[str, Seen]) -> list[tuple[str, Held]]:
    """What was confirmed by a host and gone on from by none, with that host: the newest by the clocks is the last.

    A host knows in which order it did things, whatever the clocks of two controllers say: what it went on from is
    older, and so is what it had when it began a run. Where two contradict each other, neither is believed.
    """
    confirmed = {host: found.confirmed for host, found in hosts.items() if found.confirmed}
    called = {host: held.run or host for host, held in confirmed.items()}  # what was made by hand is the host's own
    went = {(run, called[host]) for host in confirmed for run in hosts[host].before}
    for host, name in called.items():
        opened = hosts[host].opened
        if opened and opened.run in called.values() and opened.run != name:
            went.add((name, opened.run))
    left = {older for older, newer in went if (newer, older) not in went}
    last = {host: held for host, held in confirmed.items() if called[host] not in left}
    return sorted((last or confirmed).items(), key=lambda item: (item[1].order, item[0]))


def _by_clocks(newest: Held, older: Sequence[tuple[str, Held]]) -> str:
    """What people are told where no host did both, so that clocks had to decide between different releases."""
    for host, held in reversed(older):
        if held.run != newest.run and held.same_as != newest.same_as:
            return f"; newer than {held.version} on {host} by the clocks alone"
    return ""


# --- acting, on a host: one step after another, until nothing is left


@dataclass(frozen=True)
class Step:
    """What to do next: nothing, forward or back (end what is open), rollback (to a release that is here) or release
    (a payload that is here)."""

    action: str
    transaction: str = ""
    release: str = ""


def step_towards(goal: Goal, found: Seen, *, application: str, has_payload: bool) -> Step:
    """The next step of a host. Raises BackstayError, with the one command to run, where the host alone cannot do it."""
    opened = found.opened
    if opened:
        forward = bool(goal.run) and opened.run == goal.run and opened.flipped
        return Step(FORWARD if forward else BACK, opened.transaction, opened.release)
    if not goal.payload or goal.met_by(found.confirmed):
        return Step(NOTHING)
    for held in reversed(found.retained):
        if goal.met_by(held):
            return Step("rollback", release=held.release)
    if has_payload and found.declared == goal.configuration:
        return Step("release")
    lacks = "its payload is not here" if not has_payload else "another configuration is declared here"
    raise BackstayError(
        f"The other hosts of {application} run {goal.version} and this one does not, and {lacks}: run "
        f"playbooks/release.yml -e version={goal.version} --limit with this host."
    )


def would(goal: Goal, found: Seen, *, application: str) -> str:
    """What a host would do to get there, in a few words. Whether a payload is there, it alone knows."""
    told = []
    if found.opened:
        forward = step_towards(goal, found, application=application, has_payload=True).action == FORWARD
        if found.opened.operation in RESTORES:  # of data: what is confirmed says nothing of it, the release stays
            told.append(
                f"would finish or undo the {found.opened.operation} of {found.opened.release}, as its journal says"
            )
        elif forward or (found.confirmed is not None and found.confirmed.release == found.opened.release):
            return f"would confirm {found.opened.release}"  # past its confirmation, whoever asked for it
        else:
            told.append(f"would undo {found.opened.release}")
        found = replace(found, opened=None)
    try:
        step = step_towards(goal, found, application=application, has_payload=True)
    except BackstayError as alone:
        return "; ".join([*told, alone.message])
    if step.action == "rollback":
        told.append(f"would go to {step.release}")
    elif step.action == "release":
        told.append(f"would release {goal.version}, where its payload is here")
    return "; ".join(told) or f"would stay on {found.live or 'nothing'}"


# --- before the flip, on the controller


def canaries(hosts: Sequence[str], wanted: Iterable[str]) -> tuple[str, ...]:
    """The hosts that flip first, in their order; none where that would be all of them."""
    asked = set(wanted)
    first = tuple(host for host in hosts if host in asked)
    return first if len(first) < len(hosts) else ()


def agreed(prepared: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise InputError when hosts prepared different releases, as a rollback of hosts with different pasts does."""
    apart = _apart({host: _runs(said) for host, said in prepared.items() if said.get("payload")})
    if len(apart) < 2:
        return
    one_payload = len({payload for payload, _unused in apart}) == 1
    told = "; ".join(
        f"{names(hosts)} on {prepared[hosts[0]].get('version')} "
        f"({f'configuration {configuration[:12]}' if one_payload else f'payload {payload[:12]}'})"
        for (payload, configuration), hosts in apart.items()
    )
    if one_payload:
        raise InputError(
            f"The hosts would end on the same payload with different configurations: {told}; take one host after the "
            "other, with --limit, then run playbooks/release.yml without -e version=, which brings all of them the "
            "declared one."
        )
    raise InputError(
        f"The hosts would not end on one release: {told}; name one version (-e to=VERSION or -e version=VERSION), "
        "or bring them together first with playbooks/recover.yml."
    )


def _runs(said: Mapping[str, Any]) -> tuple[str, str]:
    """Payload and configuration of a release, as a host answers of it."""
    return str(said.get("payload") or ""), str(said.get("configuration") or "")


def _apart(runs: Mapping[str, tuple[str, str]]) -> dict[tuple[str, str], list[str]]:
    """Hosts by what they run. Where one does not tell its configuration, as with an older backstay, payloads count."""
    told = all(configuration for _unused, configuration in runs.values())
    found: dict[tuple[str, str], list[str]] = {}
    for host, (payload, configuration) in runs.items():
        found.setdefault((payload, configuration if told else ""), []).append(host)
    return found


# --- what became of each host, at the end of a run

WHEN = {
    "asked": "before anything was touched",
    "prepared": "while it prepared",
    "closed": "between prepare and flip",
    "first": "while the first hosts flipped",
    "flipped": "while it flipped",
    "watched": "between flip and confirm",
    "confirmed": "while it confirmed",
    "done": "while it recovered",
}
DONE = {"release": "released", "rollback": "rolled back"}


@dataclass(frozen=True)
class Phase:
    """How one task ended on one host: absent where it never ran."""

    name: str
    state: str  # ok, failed, unreachable, skipped, absent
    said: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, said: Mapping[str, Any]) -> Phase:
        state = next((word for word in ("unreachable", "failed", "skipped") if said.get(word)), "ok")
        return cls(name, state if said else "absent", said)

    @property
    def bad(self) -> bool:
        return self.state in ("failed", "unreachable")

    @property
    def why(self) -> str:
        return " ".join(str(self.said.get("message") or self.said.get("msg") or "it failed without a reason").split())


@dataclass(frozen=True)
class Row:
    """What is true of one host: the live release (empty where nothing is, None where it is unknown), what happened."""

    host: str
    live: str | None
    happened: str
    why: str = ""
    runs: tuple[str, str] | None = None  # payload and configuration, where they are known
    good: bool = False


@dataclass(frozen=True)
class Outcome:
    """The end of a run over several hosts."""

    rows: tuple[Row, ...]
    ok: bool
    message: str
    one_release: bool | None  # None where a host is unknown

    @property
    def lines(self) -> list[str]:
        """The table, where there are several hosts: one line for each, with a headline."""
        if len(self.rows) < 2:
            return []
        cells = [("HOST", "LIVE", "WHAT HAPPENED")]
        cells += [(row.host, "?" if row.live is None else row.live or "nothing", _happened(row)) for row in self.rows]
        widths = [max(len(row[column]) for row in cells) for column in range(2)]
        told = [f"{host:<{widths[0]}}  {live:<{widths[1]}}  {what}" for host, live, what in cells]
        return [self.message if self.ok else "not all ended where they were to end", *told]

    def to_dict(self) -> dict[str, Any]:
        hosts = {row.host: {"live": row.live, "happened": row.happened, "why": row.why} for row in self.rows}
        return {"ok": self.ok, "one_release": self.one_release, "message": self.message, "hosts": hosts}


def _happened(row: Row) -> str:
    return f"{row.happened}: {row.why}" if row.why else row.happened


def outcome(
    *,
    application: str,
    verb: str,
    run: str,
    hosts: Mapping[str, Sequence[Phase]],
    after: Mapping[str, Mapping[str, Any]],
) -> Outcome:
    """What became of each host. `hosts` are the tasks in their order, `after` the facts that a host told when not all
    had gone well."""
    rows = tuple(
        _recovered(host, phases) if verb == "recover" else _row(host, verb, run, phases, after.get(host) or {})
        for host, phases in hosts.items()
    )
    known = {row.host: row.runs for row in rows if row.runs}
    one = None if len(known) < len(rows) else len(_apart(known)) == 1
    if one is False and _one_payload(rows):
        rows = tuple(_with_configuration(row) for row in rows)
    good = all(row.good for row in rows) and one is not False
    return Outcome(rows, good, _conclusion(application, verb, rows, hosts, one), one)


def _one_payload(rows: Sequence[Row]) -> bool:
    return len({row.runs[0] for row in rows if row.runs}) == 1


def _with_configuration(row: Row) -> Row:
    """The row of a host that runs the payload of the others, and differs from them all the same."""
    configuration = f"same payload, configuration {row.runs[1][:12] if row.runs else '?'}"
    return replace(row, why="; ".join(part for part in (row.why, configuration) if part))


def _row(host: str, verb: str, run: str, phases: Sequence[Phase], after: Mapping[str, Any]) -> Row:
    by_name = {phase.name: phase for phase in phases}
    prepared, confirmed = (by_name.get(name, Phase(name, "absent", {})) for name in ("prepared", "confirmed"))
    begun = bool(prepared.said.get("transaction"))
    if confirmed.state == "ok":
        said = {**prepared.said, **confirmed.said}
        live = str(confirmed.said.get("live") or prepared.said.get("live") or "")
        happened = DONE[verb] if begun else "as it was, this release is live already"
        return Row(host, live, happened, "", _runs(said), good=True)
    bad = next((phase for phase in phases if phase.bad), None)
    told = Phase.of("after", after)
    when = WHEN[bad.name] if bad else "at the end"
    if told.state != "ok" or "fleet" not in after:
        return Row(host, None, "unreachable" if (bad or told).state != "failed" else "unknown", f"{when}; {_UNKNOWN}")
    found = seen(after)
    runs = None if found.confirmed is None else found.confirmed.same_as
    if run and found.confirmed and found.confirmed.run == run:
        return Row(host, found.live, DONE[verb], "", runs, good=True)
    if found.opened:
        return Row(host, found.live, "not ended", "run playbooks/recover.yml", runs)
    why = (_short(bad.why) if bad.state == "failed" else f"unreachable {when}") if bad else ""
    lines = bad.said.get("backstay_lines") or [] if bad else []
    undone = begun or any(str(line).startswith("undone") for line in lines)
    return Row(host, found.live, "undone" if undone else "untouched", why, runs)


def _short(sentence: str, most: int = 100) -> str:
    """The whole sentence is told below the table."""
    return sentence if len(sentence) <= most else f"{sentence[: most - 1].rstrip()}…"


_UNKNOWN = "what it runs is unknown until playbooks/recover.yml reaches it"


def _recovered(host: str, phases: Sequence[Phase]) -> Row:
    done = phases[-1]
    bad = next((phase for phase in phases if phase.bad), None)
    if bad is not None and bad.state == "unreachable":
        return Row(host, None, "unreachable", "run playbooks/recover.yml again when it answers")
    if bad is not None or done.state != "ok":
        return Row(host, None, "failed", bad.why if bad else "it was not asked")
    confirmed = seen(done.said).confirmed if "fleet" in done.said else None
    runs = None if confirmed is None else confirmed.same_as
    message = str(done.said.get("message") or "nothing to do")
    did = "; ".join(map(str, done.said.get("did") or [])) or message.rpartition(": ")[2]
    return Row(host, str(done.said.get("live") or ""), did, "", runs or ("", ""), good=True)


def _conclusion(
    application: str, verb: str, rows: Sequence[Row], hosts: Mapping[str, Sequence[Phase]], one: bool | None
) -> str:
    """One sentence, or a few: why, and where that leaves the hosts."""
    failures = {row.host: bad for row in rows if (bad := next((phase for phase in hosts[row.host] if phase.bad), None))}
    if len(rows) == 1:
        return failures[rows[0].host].why if failures else f"{application}: {rows[0].happened}."
    good = [row.host for row in rows if row.good]
    if one is not False and len(good) == len(rows):
        return f"{application}: {len(rows)} hosts run one release."
    reasons: dict[str, list[str]] = {}
    for host, bad in failures.items():
        reason = bad.why if bad.state == "failed" else f"unreachable {WHEN[bad.name]}."
        reasons.setdefault(reason, []).append(host)
    told = [f"{names(where)}: {reason}" for reason, where in reasons.items()]
    unknown = [row.host for row in rows if row.live is None]
    other = [row.host for row in rows if not row.good and row.live is not None]
    if one is False and len(good) == len(rows) and _one_payload(rows):
        told.append(
            "The hosts run one payload with different configurations: run playbooks/release.yml without -e version=, "
            "which brings all of them the declared one."
        )
    elif one is False and len(good) == len(rows):
        told.append("The hosts run different releases, made by hand: name one with release.yml or rollback.yml.")
    elif good and (other or unknown):
        told.append(f"{names(good)} ended there, {names([*other, *unknown])} did not: run playbooks/recover.yml.")
    elif unknown:
        told.append(f"Nothing was {DONE.get(verb, 'done')}; run playbooks/recover.yml when {names(unknown)} answers.")
    else:
        told.append(f"Nothing was {DONE.get(verb, 'done')}.")
    return " ".join(told)
