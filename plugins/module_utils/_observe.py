"""What is so on this host each minute: a sample of it and of its applications, and what follows from that.

A timer runs this each minute; it costs a small part of one core, and what one part cannot read hinders no other. From
the samples the thresholds are judged, incidents begin and end, and whoever is to know is told.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._access_log import OURS, Hit, access_log, parse_hit
from ._alert_settings import AlertPolicy, strictest
from ._application import Application, from_dict
from ._complaint import NGINX, live_release
from ._errors import BackstayError
from ._house import House
from ._incidents import Incident, Told, raise_, readable, settle, tell
from ._incidents import opened as open_incidents
from ._layout import Layout
from ._ledger import Ledger
from ._lock import LOOK_SECONDS, holding
from ._log_cursor import Place, Since
from ._mounts import mount, mount_points
from ._notify import Message, Outcome, Secrets, addressed, deliver, destinations, post_json, secrets_of, send
from ._run import Runner
from ._run import run as run_program
from ._samples import (
    PROBES,
    ApplicationSample,
    HostSample,
    Sample,
    Times,
    append,
    counts,
    fold_old_days,
    recent,
    series,
)
from ._storage import Storage, canonical
from ._thresholds import (
    BUDGET_DAYS,
    QUIET_MINUTES,
    Verdict,
    application_verdicts,
    burn_verdict,
    digest_verdict,
    host_verdicts,
    spent_share,
)

if TYPE_CHECKING:
    from ._http import Target

__all__ = ["Observer", "Sample", "incident_message", "series"]  # the reader too: others know it by this name
FORMAT = 1
LOG_BYTES = 4 << 20  # of a log in one minute; more is reckoned from so much
RESERVE_BYTES = 256 << 10
PROBE_PAUSE_SECONDS = 3.0
CERTIFICATE_SECONDS = 900.0
BACKUP_SECONDS = 600.0
BURN_SECONDS = 600.0
BURN_HOURS = 72.0  # so far its longest window reaches back
BURN_MINUTES = 60  # of fewer nothing is said
LONGEST_HOLD_SECONDS = 7200.0
_PROBE_SECONDS = 5.0
_GAP_SECONDS = 180.0
_HOUR_SECONDS = 3600.0
_UNWATCHED_SECONDS = 600.0
PAGE_TIMER = "backstay-page.timer"
ALL_JOBS = "all"  # of which nothing is known


@dataclass(frozen=True)
class Answered:
    """What the front door said. `why` is empty where it answered well; `silent` where no answer came in time, which is
    more than a bad one."""

    seconds: float
    why: str = ""
    silent: bool = False


@dataclass(frozen=True)
class Heard:
    """What came of asking one application. `certificate` is from when until when it holds, where that was asked for;
    `trouble` why there is none."""

    answered: Answered
    certificate: tuple[str, str] | None = None
    trouble: str = ""


@dataclass(frozen=True)
class Outline:
    """What one run did, for people and for tests."""

    sample: Sample
    crossed: tuple[Verdict, ...]
    told: tuple[Told, ...]
    delivered: tuple[Outcome, ...]
    notes: tuple[str, ...] = ()


# --- the host


def cpu_times(text: str) -> tuple[int, int]:
    """(busy, all) since boot, in ticks, from /proc/stat. Waiting for a disk is not being busy."""
    fields = [int(each) for each in text.splitlines()[0].split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)


def memory_share(text: str) -> float | None:
    """The share of memory that nobody could have, from /proc/meminfo."""
    found = {
        name: int(rest.split()[0]) for name, _unused, rest in (row.partition(":") for row in text.splitlines()) if rest
    }
    if not found.get("MemTotal") or "MemAvailable" not in found:
        return None
    return round(1 - found["MemAvailable"] / found["MemTotal"], 4)


# --- applications


def summarise(lines: Sequence[Hit], *, scale: float, api_path: str) -> ApplicationSample:
    """What came in, without our own questions. Pure."""
    hits = [hit for hit in lines if hit.route != OURS]
    times = sorted(hit.seconds for hit in hits if hit.seconds is not None and hit.status < 500)
    api = [
        hit.seconds
        for hit in hits
        if hit.seconds is not None and hit.status < 500 and hit.route.partition(" ")[2].startswith(api_path)
    ]

    def whole(count: int) -> int:
        return round(count * scale)

    def at(share: float) -> float | None:
        return times[min(len(times) - 1, int(share * len(times)))] if times else None

    return ApplicationSample(
        requests=whole(len(hits)),
        errors=whole(sum(hit.status >= 500 for hit in hits)),
        refused=whole(sum(400 <= hit.status < 500 for hit in hits)),
        users=whole(len({hit.client for hit in hits})),
        times=Times.of(times),
        api=Times.of(api),
        p50_seconds=at(0.5),
        p95_seconds=at(0.95),
    )


def said_elsewhere(sample: Sample) -> set[str]:
    """The keys of failed units whose failure is an incident of the application already: one trouble is one message."""
    found = set()
    for name, each in sample.applications.items():
        found |= {f"backstay-job@{name}:{job}.service" for job, _sentence in each.job_problems}
        if each.backup_problems:
            found |= {f"backstay-backup@{name}.service", f"backstay-verify@{name}.service"}
    return {f"host/units:{unit}" for unit in found}


def ask_front_door(application: Application, seconds: float = 0.0) -> Answered:
    """One question, as a visitor's, to this host's own nginx."""
    from ._host import front_door

    return ask_health(front_door(application), application, seconds)


def ask_health(target: Target, application: Application, seconds: float = 0.0) -> Answered:
    """One question there; an answer may take so long, or without that as long as it may for visitors."""
    from ._http import request

    health = application.health
    began = time.monotonic()
    try:
        answer = request(target, health.path, timeout_seconds=seconds or max(_PROBE_SECONDS, health.latency_seconds))
    except BackstayError as failed:
        return Answered(round(time.monotonic() - began, 3), failed.message, silent=not _refused_in_words(failed))
    why = "" if answer.status == health.status else f"{health.path} answered {answer.status}, expected {health.status}"
    return Answered(round(answer.seconds, 3), why)


def _refused_in_words(failed: BackstayError) -> bool:
    """Whether a living server said no: in TLS, before there was any HTTP. It serves others meanwhile."""
    import ssl

    cause = failed.__cause__
    return isinstance(cause, ssl.SSLError) and not isinstance(cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError))


def certificate_dates(application: Application) -> tuple[str, str]:
    """From when until when the certificate that visitors see is valid, UTC ISO 8601. Raises BackstayError."""
    from ._certificate import read
    from ._host import front_door
    from ._http import peer_certificate

    shown = read(peer_certificate(front_door(application), _PROBE_SECONDS))
    return shown.not_before.isoformat(), shown.not_after.isoformat()


# --- one run


@dataclass
class _State:
    """Where the observer was."""

    value: dict[str, Any] = field(default_factory=dict)

    def part(self, name: str) -> dict[str, Any]:
        found = self.value.setdefault(name, {})
        if not isinstance(found, dict):
            found = self.value[name] = {}
        return found


class Observer:
    """Looks once. Everything it asks of the world can be replaced by tests."""

    def __init__(
        self,
        house: House,
        storage: Storage | None = None,
        *,
        runner: Runner = run_program,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
        ask: Callable[[Application], Answered] = ask_front_door,
        certificate: Callable[[Application], tuple[str, str]] = certificate_dates,
        sleep: Callable[[float], None] = time.sleep,
        statvfs: Callable[[str], os.statvfs_result] = os.statvfs,
        post: Callable[[str, bytes], object] | None = None,
        post_ticket: Callable[..., bytes] = post_json,
    ) -> None:
        self.house = house
        self.storage = storage or Storage()
        self._run = runner
        self._now = now
        self._ask = ask
        self._certificate = certificate
        self._sleep = sleep
        self._statvfs = statvfs
        self._post = post
        self._post_ticket = post_ticket
        self._notes: list[str] = []
        self._unreadable: dict[str, str] = {}  # why, of an application's file

    def run(self) -> Outline:
        """Take a sample, judge, tell; after the timer's look, where that is at work. Raises Busy where it takes too
        long, BackstayError for a full disk."""
        self.storage.make_directory(self.house.samples, mode=0o700)
        with holding(self.house.observer_lock, "look at the host", wait_seconds=LOOK_SECONDS):
            try:
                return self._observe()
            except BackstayError as refused:
                if not self.house.reserve.exists():
                    raise
                # A disk that is full: what was kept back for this gives the sample, and all messages, room.
                self._notes.append(refused.message)
                self.storage.remove(self.house.reserve)
                return self._observe()

    def _observe(self) -> Outline:
        now = self._now()
        state = _State(self._read())
        self._unwatched(now, state)
        described = self._applications()
        sample = self._sample(now, state, described)
        self._count_uptime(state, sample)
        verdicts = self._judge(now, state, described, sample)
        policies = {name: each.alerts for name, each in described.items() if each.alerts is not None}
        secrets = secrets_of(self.house, self.storage, described, policies)
        held = self._held(now, state, sample)
        told = self._tell(now, policies, secrets, held)
        self._tell_events(state, described, policies, secrets, held)
        self._tell_healed(state, described, policies, secrets)
        self._tell_unwatched(state, policies, secrets, held)
        self._tickets(now, state, policies, secrets)
        self._fold(now, state)
        # Not before: the newest sample is what others take for a sign that what there was to tell was put out.
        append(self.house, self.storage, sample)
        state.value |= {"format": FORMAT, "at": sample.at}
        self.storage.write(self.house.observed, canonical(state.value), mode=0o600)
        delivered = deliver(self.house, self.storage, secrets, now, runner=self._run, post=self._post)
        self._reserve()
        crossed = tuple(each for each in verdicts if each.crossed)
        return Outline(sample, crossed, told, delivered, tuple(self._notes))

    def _reserve(self) -> None:
        """Keep room back again, once there is enough of it; random bytes, which no file system makes smaller."""
        if self.house.reserve.exists():
            return
        with contextlib.suppress(OSError, BackstayError):
            disk = self._statvfs(str(self.house.state))
            if disk.f_bavail * disk.f_frsize > 8 * RESERVE_BYTES:
                self.storage.write(self.house.reserve, os.urandom(RESERVE_BYTES), mode=0o600)

    def _read(self) -> dict[str, Any]:
        try:
            value = json.loads(self.storage.read(self.house.observed) or b"{}")
            return dict(value) if value.get("format", FORMAT) == FORMAT else {}
        except (ValueError, AttributeError):
            self._notes.append(f"{self.house.observed} could not be read: counting begins anew")
            return {}

    def _applications(self) -> dict[str, Application]:
        """Those that can be watched. One whose file cannot be read is watched as its live release was declared: whoever
        is to know of it stands there, too."""
        found = {}
        for name in self.house.applications():
            layout = self.house.layout(name)
            try:
                found[name] = self._declared(layout.application_file)
            except BackstayError as broken:
                self._unreadable[name] = broken.message.rstrip(".")
                with contextlib.suppress(BackstayError):
                    live = live_release(layout.active) or ""
                    found[name] = self._declared(layout.release_configuration(live) / "application.json")
        return found

    def _declared(self, path: Path) -> Application:
        try:
            return from_dict(json.loads(self.storage.read(path) or b""), file=str(path))
        except ValueError as broken:
            raise BackstayError(f"{path} is no JSON: run playbooks/site.yml, which writes it.") from broken

    # sampling

    def _sample(self, now: dt.datetime, state: _State, described: Mapping[str, Application]) -> Sample:
        before = state.value.get("at")
        seconds = None
        if isinstance(before, str):
            gap = (now - dt.datetime.fromisoformat(before)).total_seconds()
            seconds = round(gap, 1) if 0 < gap <= _GAP_SECONDS else None
        host = self._host(state)
        died, stopped = self._processes(state, described)
        failed = None if host.failed_units is None else (*host.failed_units, *stopped)
        host = replace(host, died=died, failed_units=failed)
        seen = {name: self._seen(name, each, state) for name, each in described.items()}
        heard = self._hear({name: described[name] for name, each in seen.items() if each.live}, seen, now, state)
        applications = {
            name: self._application(name, described[name], found, heard.get(name), now=now, state=state)
            for name, found in seen.items()
        }
        return Sample(now.astimezone(dt.UTC).isoformat(timespec="seconds"), seconds, host, applications)

    def _unwatched(self, now: dt.datetime, state: _State) -> None:
        """Note from when until when nobody looked though the host was up. Both clocks have to say so: one that was set,
        or a host that was away, is no observer that was stopped."""
        words, before, was = self._proc("uptime").split(), state.value.get("at"), state.value.get("up")
        if not words:
            return
        up = state.value["up"] = float(words[0])
        if not isinstance(before, str) or not isinstance(was, float):
            return
        seconds = min((now - dt.datetime.fromisoformat(before)).total_seconds(), up - was if up >= was else up)
        if seconds > _UNWATCHED_SECONDS:
            since = (now - dt.timedelta(seconds=seconds)).astimezone(dt.UTC)
            state.value["unwatched"] = [since.isoformat(timespec="seconds"), now.isoformat(timespec="seconds")]

    def _proc(self, name: str) -> str:
        try:
            return (self.house.root / "proc" / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def _host(self, state: _State) -> HostSample:
        cpu = None
        stat = self._proc("stat")
        if stat:
            busy, total = cpu_times(stat)
            known = state.value.get("cpu")
            if isinstance(known, list) and len(known) == 2 and total > known[1] and busy >= known[0]:
                cpu = round((busy - known[0]) / (total - known[1]), 4)
            state.value["cpu"] = [busy, total]
        loads = self._proc("loadavg").split()
        seen = (mount(path, self._statvfs) for path in mount_points(self._proc("self/mountinfo")))
        return HostSample(
            cpu=cpu,
            memory=memory_share(self._proc("meminfo")),
            load=float(loads[0]) if loads else 0.0,
            cores=os.cpu_count() or 1,
            mounts=tuple(each for each in seen if each is not None and each.size_bytes > 0),
            failed_units=self._failed_units(),
            reboot_required=(self.house.root / "run" / "reboot-required").exists(),
        )

    def _failed_units(self) -> tuple[str, ...] | None:
        try:
            found = self._run(
                [
                    "systemctl",
                    "list-units",
                    "--state=failed",
                    "--all",
                    "--plain",
                    "--no-legend",
                    "--full",
                    "--no-pager",
                ],
                timeout_seconds=10.0,
            )
        except BackstayError as silent:
            self._notes.append(f"failed units are unknown: {silent.message}")
            return None
        return tuple(row.split()[0] for row in found.stdout.splitlines() if row.split())

    def _processes(
        self, state: _State, described: Mapping[str, Application]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What serves, ended by itself since the last look, and was started again by systemd; what a transaction starts
        and stops is its own affair. And the page's timer where it is installed and does not run: that fails no unit."""
        known = state.value.get("restarts")
        wanted = [NGINX]
        for name in described:
            layout = self.house.layout(name)
            live = live_release(layout.active)
            if live is not None and not layout.journal.exists():
                wanted.append(layout.unit(live, "*"))
        try:
            properties = "--property=Id,NRestarts,LoadState,ActiveState"
            told = self._run(["systemctl", "show", properties, *wanted, PAGE_TIMER], timeout_seconds=10.0).stdout
        except BackstayError as silent:
            self._notes.append(f"whether a process died is unknown: {silent.message}")
            return (), ()
        units = [dict(row.partition("=")[::2] for row in part.splitlines()) for part in told.split("\n\n")]
        after = {each["Id"]: int(each["NRestarts"]) for each in units if each.get("NRestarts", "").isdigit()}
        before = known if isinstance(known, dict) else {}
        state.value["restarts"] = after
        timer = {"Id": PAGE_TIMER, "LoadState": "loaded", "ActiveState": "inactive"}
        stopped = tuple(each["Id"] for each in units if timer.items() <= each.items())
        return tuple(sorted(unit for unit, count in after.items() if count > before.get(unit, count))), stopped

    def _seen(self, name: str, application: Application, state: _State) -> ApplicationSample:
        """What can be told of it without asking it."""
        layout = self.house.layout(name)
        found = self._requests(name, application, state)
        maintenance, transaction = layout.maintenance_flag.exists(), layout.journal.exists()
        return replace(found, live=live_release(layout.active), maintenance=maintenance, transaction=transaction)

    def _hear(
        self,
        live: Mapping[str, Application],
        seen: Mapping[str, ApplicationSample],
        now: dt.datetime,
        state: _State,
    ) -> dict[str, Heard]:
        """All are asked at once: one that hangs is given twenty seconds, and where all hang, whoever is to know of it
        hears of it in this minute."""
        if not live:
            return {}
        from concurrent.futures import ThreadPoolExecutor

        known = state.part("certificates")

        def hear(name: str) -> Heard:
            answered = self._healthy(live[name], patient=not seen[name].held)
            each = known.get(name)
            if isinstance(each, dict) and not _older(each.get("at"), now, CERTIFICATE_SECONDS):
                return Heard(answered)
            try:
                return Heard(answered, self._certificate(live[name]))
            except BackstayError as failed:
                return Heard(answered, trouble=failed.message)

        with ThreadPoolExecutor(max_workers=len(live)) as pool:
            return dict(zip(live, pool.map(hear, live), strict=True))

    def _application(
        self,
        name: str,
        application: Application,
        found: ApplicationSample,
        heard: Heard | None,
        *,
        now: dt.datetime,
        state: _State,
    ) -> ApplicationSample:
        layout = self.house.layout(name)
        if heard is not None:
            answered = heard.answered
            found = replace(found, healthy=not answered.why, health_seconds=answered.seconds, why=answered.why[:300])
            found = self._with_certificate(found, heard, name, now, state)
        elif not found.held and (lost := self._lost(layout)):
            found = replace(found, healthy=False, why=lost[:300])
        found = self._with_backup(found, name, application, now, state)
        return self._with_jobs(found, name, application, now)

    def _lost(self, layout: Layout) -> str:
        """Why nothing is live though something was; empty where nothing ever was."""
        try:
            entries = Ledger(layout.ledger, self.storage, lambda: "").read()
        except BackstayError as broken:
            return broken.message
        last = next((entry.release for entry in reversed(entries) if entry.event == "live"), None)
        return f"the link {layout.active} is gone, and {last} was live: release a version" if last else ""

    def _requests(self, name: str, application: Application, state: _State) -> ApplicationSample:
        places = state.part("logs")
        since = Since(access_log(self.house.root, name), Place.read(places.get(name) or ()), limit_bytes=LOG_BYTES)
        times: dict[bytes, int] = {}
        hits = [hit for line in since if (hit := parse_hit(line, times)) is not None]
        places[name] = [place.to_dict() for place in since.places]
        return summarise(hits, scale=since.scale, api_path=application.objectives.api_path)

    def _healthy(self, application: Application, *, patient: bool) -> Answered:
        """Asked again before it counts as unwell: one answer that was lost is no outage."""
        answered = self._ask(application)
        for _unused in range(PROBES - 1 if patient else 0):
            if not answered.why:
                break
            self._sleep(PROBE_PAUSE_SECONDS)
            answered = self._ask(application)
        return answered

    def _with_certificate(
        self, found: ApplicationSample, heard: Heard, name: str, now: dt.datetime, state: _State
    ) -> ApplicationSample:
        known = state.part("certificates")
        if heard.certificate is not None:
            begins, ends = heard.certificate
            known[name] = {"at": now.isoformat(), "from": begins, "until": ends}
        elif heard.trouble:
            self._notes.append(f"{name}: its certificate could not be read: {heard.trouble}")
        each = known.get(name)
        if not isinstance(each, dict):
            return found
        return replace(found, certificate_from=each.get("from"), certificate_until=each.get("until"))

    def _with_backup(
        self, found: ApplicationSample, name: str, application: Application, now: dt.datetime, state: _State
    ) -> ApplicationSample:
        if application.backup is None:
            return found
        layout, known = self.house.layout(name), state.part("backups")
        each = known.get(name)
        stamp = _stamp_of(layout.backups)
        if not isinstance(each, dict) or each.get("stamp") != stamp or _older(each.get("at"), now, BACKUP_SECONDS):
            from ._backup_status import REFUTED, fold
            from ._catalogue import points

            each = {"stamp": stamp, "at": now.isoformat()}
            try:
                all_points = points(layout, self.storage)
                facts = fold(all_points, application.backup, now)
                after = (now - dt.timedelta(days=30)).isoformat()
                runs = [point for point in all_points if point.at >= after]
                proven = facts["last_proven"]
                each |= {
                    "backup_at": facts["newest"] and facts["newest"]["at"],
                    "proven_at": proven and proven["proven_at"],
                    "proof_level": facts["newest"]["level"] if facts["newest"] else 0,
                    # That a proof refuted a point is told from the catalogue, by the way of proofs.
                    "problems": [said for said in facts["problems"] if f" {REFUTED} " not in said],
                    "runs": len(runs),
                    "failed": sum(1 for point in runs if point.failed),
                }
            except BackstayError as broken:
                each |= {"backup_at": None, "proven_at": None, "proof_level": 0, "problems": [broken.message]}
            known[name] = each
        return replace(
            found,
            backup_at=each.get("backup_at"),
            proven_at=each.get("proven_at"),
            proof_level=int(each.get("proof_level") or 0),
            backup_problems=tuple(str(problem)[:300] for problem in each.get("problems") or ()),
            backup_runs=int(each.get("runs") or 0),
            backup_failed=int(each.get("failed") or 0),
        )

    def _with_jobs(
        self, found: ApplicationSample, name: str, application: Application, now: dt.datetime
    ) -> ApplicationSample:
        from ._job_results import facts

        try:
            jobs = facts(self.house.layout(name), application.schedules, self.storage, now)
        except BackstayError as broken:
            return replace(found, job_problems=((ALL_JOBS, broken.message),))
        # A job that never ran counts from the moment at which it was due. While one runs, nobody knows how that ends.
        problems = [
            (str(job["job"]), f"The job {job['job']} of {name} is {job['state']}: {job['why']}"[:300])
            for job in jobs
            if job["state"] in ("late", "missing", "failed") or (job["state"] == "never" and "due" in job["why"])
        ]
        problems += [(str(job["job"]), "") for job in jobs if job["state"] == "running"]
        return replace(found, job_problems=tuple(problems))

    # judging

    def _judge(
        self, now: dt.datetime, state: _State, described: Mapping[str, Application], sample: Sample
    ) -> list[Verdict]:
        samples = [*recent(self.house, now, QUIET_MINUTES + 15), sample]
        limits = strictest(each.objectives for each in described.values())
        said = said_elsewhere(sample)
        verdicts = [each for each in host_verdicts(samples, limits) if each.key not in said]
        verdicts += [readable(self.house, self.storage), *self._declarations(described)]
        burning = self._reckon_burning(state, described, samples)
        for name, application in described.items():
            spent = spent_share(state.part("uptime").get(name) or {}, application.objectives.uptime)
            verdicts += application_verdicts(name, samples, application.objectives, spent=spent)
            verdicts += _open_too_long(name, now, state)
            if name in burning:
                verdicts.append(self._burning(now, burning, application, verdicts))
        verdicts += [self._digest(now), *self._stuck_tickets(state, described)]
        self._apply(now, verdicts, sample)
        return verdicts

    def _reckon_burning(
        self, state: _State, described: Mapping[str, Application], samples: Sequence[Sample]
    ) -> dict[str, dict[str, Any]]:
        """Of each application with errors what the page's cell says of its budget. Without errors nothing is read."""
        known, now = state.part("burn"), samples[-1].time
        for name in {name for each in samples for name, seen in each.applications.items() if seen.errors}:
            known.setdefault(name, {"said": None, "last": "", "told": ""})
        for name in set(known) - set(described):
            del known[name]
        if known and _older(state.value.get("burned"), now, BURN_SECONDS):
            from ._look import burn

            state.value["burned"] = now.isoformat()
            minutes = counts(self.house, BURN_HOURS, now)
            for name, mine in known.items():
                seen, objective = minutes.get(name, []), described[name].objectives.uptime
                mine["said"] = burn(seen, now.timestamp(), objective) if len(seen) >= BURN_MINUTES else None
                mine["last"] = now.isoformat() if mine["said"] else mine["last"]
        return known

    def _burning(
        self, now: dt.datetime, known: dict[str, dict[str, Any]], application: Application, verdicts: Sequence[Verdict]
    ) -> Verdict:
        """Nothing is said of it while people know of the errors anyhow, nor after it as long as those are in its short
        windows; only what warned for an hour and is a page by now is told as one."""
        name, mine = application.name, known[application.name]
        said = mine["said"]
        since = {each.key: now.isoformat() for each in verdicts if each.crossed}
        since |= {each.incident.key: each.since for each in open_incidents(self.house, self.storage)}
        page, warning = since.get(f"{name}/server_errors"), since.get(f"{name}/errors")
        if page or warning:
            mine["told"] = now.isoformat()
        told = not _older(mine["told"], now, (1 if said == "page" else 6) * _HOUR_SECONDS)
        if said == "page" and warning and not page and _older(warning, now, _HOUR_SECONDS):
            told = False
        quiet = _older(mine["last"], now, QUIET_MINUTES * 60.0)
        if quiet and not told:
            del known[name]
        return burn_verdict(name, said, application.objectives.uptime, told=told, quiet=quiet)

    def _declarations(self, described: Mapping[str, Application]) -> Iterator[Verdict]:
        """Of a file that cannot be read everybody of the host is told where nobody knows who is to be told of it."""
        for name in self.house.applications():
            why, known = self._unreadable.get(name), name if name in described else None
            sentence = f"The file of {name} can be read"
            if why:
                watched = "is watched as its live release was declared" if known else "is not watched"
                sentence = f"{name} {watched}: {why}"
            yield Verdict(
                f"{name}/declared", "page", known, sentence, "ansible-playbook playbooks/site.yml", why is not None
            )

    def _digest(self, now: dt.datetime) -> Verdict:
        """Who is on duty waits for one a day; a timer that is dead fails no unit."""
        asked = sent = None
        with contextlib.suppress(OSError):
            asked = dt.datetime.fromtimestamp(self.house.digest_timer.stat().st_mtime, dt.UTC)
        with contextlib.suppress(ValueError, KeyError, TypeError):
            sent = dt.datetime.fromisoformat(json.loads(self.storage.read(self.house.digest) or b"")["at"])
        return digest_verdict(asked, sent, now)

    def _apply(self, now: dt.datetime, verdicts: Sequence[Verdict], sample: Sample) -> None:
        known = {each.incident.key for each in open_incidents(self.house, self.storage)}
        for each in verdicts:
            if each.crossed:
                incident = Incident(each.key, each.severity, each.application, each.sentence, each.command)
                raise_(self.house, self.storage, incident, now)
            elif each.crossed is False and each.key in known:
                settle(self.house, self.storage, each.key, now, each.sentence + self._after_restarts(each.key))
        # What is not there any more cannot be wrong: a unit that no longer fails, a mount, a job, an application.
        judged = {each.key for each in verdicts}
        for key in known - judged:
            subject, _slash, rest = key.partition("/")
            kind = rest.partition(":")[0]
            gone = subject != "host" and subject not in self.house.applications()
            unit = subject == "host" and kind == "units" and sample.host.failed_units is not None
            place = subject == "host" and kind == "disk" and bool(sample.host.mounts)
            here = sample.applications.get(subject)
            job = kind == "jobs" and here is not None and ALL_JOBS not in dict(here.job_problems)
            well = rest == "health:restarts" and here is not None and here.healthy is True
            if gone or unit or place or job or well:
                settle(self.house, self.storage, key, now, _gone(kind, rest.partition(":")[2], subject))

    def _after_restarts(self, key: str) -> str:
        """What was restarted while an application was not well, as the end of a sentence."""
        name, _slash, kind = key.partition("/")
        if kind != "health" or not self.house.healed.exists():
            return ""
        from ._heal import restarts

        since = next(each.since for each in open_incidents(self.house, self.storage) if each.incident.key == key)
        began = dt.datetime.fromisoformat(since)
        rows = restarts(self.house, self.storage).get(name, ())
        units = dict.fromkeys(str(row["unit"]) for row in rows if dt.datetime.fromisoformat(row["at"]) >= began)
        return f"; {' and '.join(units)} was restarted, for it hung" if units else ""

    def _held(self, now: dt.datetime, state: _State, sample: Sample) -> Callable[[str | None], bool]:
        """Whether nothing may be sent about an application, or about the host (None). A transaction that is open for
        hours holds nothing back any more, nor does the door that it closed: then it is what is wrong."""
        since = state.part("transactions")
        moving, stuck = set(), set()
        for name, each in sample.applications.items():
            if not each.transaction:
                since.pop(name, None)
            elif _older(since.setdefault(name, now.isoformat()), now, LONGEST_HOLD_SECONDS):
                stuck.add(name)
            else:
                moving.add(name)

        def held(application: str | None) -> bool:
            if application is None:
                return bool(moving)
            there = sample.applications.get(application)
            declared = there is not None and there.maintenance and application not in stuck
            return application in moving or declared

        return held

    def _count_uptime(self, state: _State, sample: Sample) -> None:
        """Minutes in which an application was well, and in which it was not. A declared maintenance is no outage, and
        nothing is known of the minutes in which nobody looked."""
        days = state.part("uptime")
        today = sample.time.date()
        oldest = (today - dt.timedelta(days=BUDGET_DAYS - 1)).isoformat()
        for name, each in sample.applications.items():
            if each.healthy is None:
                continue
            mine = {day: dict(counts) for day, counts in (days.get(name) or {}).items() if day >= oldest}
            counts = mine.setdefault(today.isoformat(), {})
            what = "maintenance" if each.maintenance else ("up" if each.healthy else "down")
            counts[what] = int(counts.get(what, 0)) + 1
            days[name] = mine

    # telling

    def _tell(
        self,
        now: dt.datetime,
        policies: Mapping[str, AlertPolicy],
        secrets: Secrets,
        held: Callable[[str | None], bool],
    ) -> tuple[Told, ...]:
        def put_out(due: Sequence[Told]) -> None:
            for each in due:
                to = destinations(each.incident.kind, each.incident.application, policies)
                send(self.house, self.storage, incident_message(each), to, secrets)

        def waits(incident: Incident) -> bool:
            return held(incident.application) or not addressed(incident.application, policies)

        return tell(self.house, self.storage, now, held=waits, put_out=put_out)

    def _tell_events(
        self,
        state: _State,
        described: Mapping[str, Application],
        policies: Mapping[str, AlertPolicy],
        secrets: Secrets,
        held: Callable[[str | None], bool],
    ) -> None:
        """Releases, restores and proofs since the last look. Whatever was there before the first is nobody's news."""
        from ._events import of_catalogue, of_ledger

        seen = state.part("events")
        for name in described:
            layout = self.house.layout(name)
            for path, kind, find in (
                (layout.ledger, "ledger", of_ledger),
                (layout.backups, "catalogue", of_catalogue),
            ):
                mine = seen.setdefault(name, {}).setdefault(kind, {})
                stamp = _stamp_of(path)
                if mine.get("stamp") == stamp or held(name):
                    continue
                try:
                    entries = Ledger(path, self.storage, lambda: "").read()
                except BackstayError as broken:
                    self._notes.append(broken.message)
                    continue
                last = mine.get("number")
                if last is not None:
                    self._send_events(name, find(name, entries), int(last), policies, secrets)
                mine |= {"stamp": stamp, "number": len(entries)}

    def _send_events(
        self, name: str, found: Any, last: int, policies: Mapping[str, AlertPolicy], secrets: Secrets
    ) -> None:
        for event in found:
            if int(event.id.rpartition("-")[2]) <= last:
                continue
            message = Message(event.id, event.kind, name, f"{event.subject} on {_here()}", event.lines, event.at)
            send(self.house, self.storage, message, destinations(event.kind, name, policies), secrets)

    def _tell_healed(
        self,
        state: _State,
        described: Mapping[str, Application],
        policies: Mapping[str, AlertPolicy],
        secrets: Secrets,
    ) -> None:
        """What was restarted because it hung, each restart once; not where people know that it is not well: that it is
        over will say what was restarted."""
        if not self.house.healed.exists():
            return
        from ._heal import restarts

        told = state.part("healed")
        known = {each.incident.key for each in open_incidents(self.house, self.storage) if each.told}
        for name, rows in restarts(self.house, self.storage).items():
            for row in rows if name in described else ():
                if row["at"] <= told.get(name, ""):
                    continue
                if f"{name}/health" in known:
                    told[name] = row["at"]
                    continue
                identifier = re.sub(r"[^0-9A-Za-z]", "-", f"{name}-healed-{row['at']}")
                lines = (f"Nobody answered: {row['why']}", f"First: backstay diagnose {name}")
                subject = f"{name}: {row['unit']} hung and was restarted on {_here()}"
                message = Message(identifier, "health", name, subject, lines, str(row["at"]))
                send(self.house, self.storage, message, destinations("health", name, policies), secrets)
                told[name] = row["at"]

    def _tell_unwatched(
        self,
        state: _State,
        policies: Mapping[str, AlertPolicy],
        secrets: Secrets,
        held: Callable[[str | None], bool],
    ) -> None:
        """That nobody looked for a while: who was to tell of it was the one who did not."""
        if "unwatched" not in state.value or held(None):
            return
        since, until = state.value.pop("unwatched")
        lines = (
            f"Nobody looked at this host from {since} until {until}, though it was up.",
            "What was wrong only meanwhile was told to nobody; what still is, is told now.",
            "First: journalctl -u backstay-observe.timer -u backstay-observe.service -n 50",
        )
        identifier = re.sub(r"[^0-9A-Za-z]", "-", f"unwatched-{until}")
        message = Message(identifier, "units", None, f"[WARN] {_here()}: it was not watched for a while", lines, until)
        send(self.house, self.storage, message, destinations("units", None, policies), secrets)

    def _tickets(self, now: dt.datetime, state: _State, policies: Mapping[str, AlertPolicy], secrets: Secrets) -> None:
        """Lines of the log that somebody must look into become tickets."""
        wanted = {name: policy for name, policy in policies.items() if policy.patterns and policy.tickets}
        if not wanted:
            return
        from ._tickets import Desk

        known = state.part("tickets")
        for name, policy in wanted.items():
            if policy.tickets is None:
                continue
            desk = Desk(self.house, name, self.storage, secrets, runner=self._run, post=self._post_ticket)
            mine = known.setdefault(name, {})
            for each in desk.look(policy.patterns, policy.tickets, mine, now):
                self._notes.append(f"{name}: a ticket for {each.pattern}: {each.ticket}")

    def _stuck_tickets(self, state: _State, described: Mapping[str, Application]) -> Iterator[Verdict]:
        known = state.part("tickets")
        if not known:
            return
        from ._tickets import stuck

        for name, application in described.items():
            wanted = application.alerts is not None and bool(application.alerts.patterns)
            yield stuck(name, known.get(name) or {}, wanted=wanted)

    def _fold(self, now: dt.datetime, state: _State) -> None:
        today = now.date().isoformat()
        if state.value.get("folded") != today:
            fold_old_days(self.house, self.storage, now)
            state.value["folded"] = today


def incident_message(told: Told) -> Message:
    """The text about an incident."""
    incident = told.incident
    where = f"{incident.application} on {_here()}" if incident.application else _here()
    severity = incident.severity.upper()
    words = {"begin": severity, "worse": f"NOW {severity}", "still": f"STILL {severity}", "over": "OVER"}
    subject = f"[{words[told.moment]}] {where}: {incident.sentence}"
    if told.moment == "over":
        lasted = (dt.datetime.fromisoformat(told.at) - dt.datetime.fromisoformat(told.since)).total_seconds()
        lines = [
            f"{told.sentence or incident.sentence}.",
            f"It began {told.since} and was over {told.at}, after {_spoken(lasted)}.",
        ]
    else:
        lines = [f"{incident.sentence}.", f"Since {told.since}."]
        if incident.command:
            lines.append(f"First: {incident.command}")
        lines.append(f"You know of it: backstay incidents --ack {incident.key} --for 4h --why '...'")
    return Message(told.id, incident.kind, incident.application, subject[:300], tuple(lines), told.at)


def _here() -> str:
    return os.uname().nodename


def _spoken(seconds: float) -> str:
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{max(seconds, 0):.0f} seconds"


def _open_too_long(name: str, now: dt.datetime, state: _State) -> list[Verdict]:
    since = state.part("transactions").get(name)
    long = isinstance(since, str) and _older(since, now, LONGEST_HOLD_SECONDS)
    sentence = f"A transaction of {name} is open since {since}" if since else f"No transaction of {name} is open"
    return [Verdict(f"{name}/release:open", "page", name, sentence, f"backstay status {name}", long)]


def _gone(kind: str, what: str, subject: str) -> str:
    if kind == "units":
        return f"The unit {what} is well again"
    if kind == "disk":
        return f"{what} is no mount any more"
    if kind == "health":
        return f"{subject} answers well again"
    if kind == "jobs":
        return f"The job {what} of {subject} is well again"
    return f"{subject} is not on this host any more"


def _older(at: Any, now: dt.datetime, seconds: float) -> bool:
    """Whether a stamp is that old, in the future, or none."""
    try:
        age = (now - dt.datetime.fromisoformat(at)).total_seconds()
    except (TypeError, ValueError):
        return True
    return not -60 <= age < seconds


def _stamp_of(path: Path) -> list[int]:
    try:
        found = path.stat()
    except OSError:
        return [0, 0]
    return [found.st_mtime_ns, found.st_size]
