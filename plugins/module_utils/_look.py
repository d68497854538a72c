"""A look at this host: everything that the cells of the one-look page are made of, gathered without changing anything.

What is dear (the trends of a month, apt's simulation, the accounts) is gathered by the timer and kept; a person at a
shell waits for what is cheap alone. A room that cannot tell something leaves it out, and the cell is grey: one that is
damaged must not hide the rest.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import os
import re
import socket
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import _certificate, _exposure, _updates
from ._application import Application
from ._cells import DAY, HOUR, MINUTE, PAGE_SECONDS, Limits, Row, age, broken, from_dict, row, web_state
from ._charts import thinned
from ._engine import Engine
from ._errors import BackstayError
from ._house import House
from ._ledger import Entry
from ._mounts import mount, mount_points
from ._run import Runner, run
from ._samples import PROBES, Mount, Sample, recent
from ._samples import series as samples_of
from ._storage import Storage, canonical
from ._thresholds import DIED_MINUTES

FORMAT = 2  # of what is kept for the next look
_TRENDS_SECONDS = 3600
_RECENT_MINUTES = 75  # longer than trends are kept and a page takes to be written: so the two of them leave no gap
_FEW_SAMPLES = 180  # on a young host they are cheap, and somebody waits for the first chart
_DAYS = 30
_EVENTS = 60
_ENOUGH_REQUESTS, _ENOUGH_ERRORS = 20, 3
# How many times too fast, over which two windows that must agree, and what it is then (the SRE workbook's).
_BURNS = (
    (14.4, HOUR, 5 * MINUTE, "page"),
    (6.0, 6 * HOUR, 30 * MINUTE, "page"),
    (3.0, DAY, 2 * HOUR, "ticket"),
    (1.0, 3 * DAY, 6 * HOUR, "ticket"),
)
_FIRST = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)

# Which cell shows what is open in the list of incidents.
_CELL_OF: Mapping[str, str] = {
    "cpu": "host",
    "memory": "host",
    "load": "host",
    "units": "host",
    "disk": "disk",
    "health": "health",
    "response": "objective",
    "p95": "objective",
    "errors": "objective",
    "server_errors": "objective",
    "requests": "objective",
    "users": "objective",
    "api": "objective",
    "uptime": "objective",
    "certificate": "certificate",
    "backup": "backup",
    "proof": "restore",
    "jobs": "jobs",
    "tickets": "alerts",
    "incidents": "alerts",
    "digest": "alerts",
    "declared": "release",
    "release": "release",
    "rollback": "release",
    "restore": "release",
}


# --- pure parts


def listening(table: str) -> set[int]:
    """The ports on which somebody listens for others than this host, from /proc/net/tcp or tcp6. Pure."""
    ports = set()
    for line in table.splitlines()[1:]:
        parts = line.split()
        if len(parts) > 3 and parts[3] == "0A":
            address, _colon, port = parts[1].partition(":")
            own = address.endswith("7F") if len(address) == 8 else address == "0" * 24 + "01000000"
            mapped = len(address) == 32 and address[:24] == "0000000000000000FFFF0000" and address.endswith("7F")
            if not own and not mapped:
                ports.add(int(port, 16))
    return ports


def declared_ports(listing: str) -> dict[int, bool]:
    """The ports that the firewall lets others ask, and whether everybody may: from the kernel's listing of its table.
    Pure."""
    found: dict[int, bool] = {}
    for before, port in re.findall(r"^(.*)\btcp dport (\d+) accept\b", listing, re.MULTILINE):
        found[int(port)] = found.get(int(port), False) or " saddr " not in before
    return found


def forecast(peaks: Sequence[tuple[float, float]], free_bytes: float) -> float | None:
    """In how many seconds a file system is full, from the peaks of its days (time, bytes used), as a straight line.
    None where it does not grow, or where less than a day of peaks says nothing. Pure."""
    if len(peaks) < 2 or peaks[-1][0] - peaks[0][0] < DAY:
        return None
    mean_at = statistics.fmean(at for at, _used in peaks)
    mean_used = statistics.fmean(used for _at, used in peaks)
    spread = sum((at - mean_at) ** 2 for at, _used in peaks)
    slope = sum((at - mean_at) * (used - mean_used) for at, used in peaks) / spread
    return round(free_bytes / slope, 0) if slope > 1.0 else None


def burn(samples: Sequence[tuple[float, int, int]], now: float, objective: float) -> str | None:
    """How fast the budget burns, from (time, requests, errors): `page` at 14.4 times in an hour and still in the last
    five minutes, or 6 times in six hours and the last half hour; `ticket` at 3 times in a day and the last two hours,
    or once in three days and the last six hours. Both windows must agree; with too few requests nothing is said. Pure.
    """

    def rate(seconds: float) -> float:
        window = [each for each in samples if each[0] > now - seconds]
        requests, errors = sum(each[1] for each in window), sum(each[2] for each in window)
        if requests < _ENOUGH_REQUESTS or errors < _ENOUGH_ERRORS:
            return 0.0
        return errors / requests / max(1 - objective, 1e-9)

    return next((what for times, *both, what in _BURNS if all(rate(window) >= times for window in both)), None)


def month(entries: Sequence[Any], after: str) -> list[dict[str, Any]]:
    """What became of releases and data since `after`, the oldest first, from the ledger. Pure."""
    said: Mapping[str, Callable[[Any], tuple[str, str]]] = {
        "live": lambda entry: ("release", f"{entry.release} went live{_of(entry.data, 'live_by', 'live_why')}"),
        "failed": lambda entry: ("release", f"{entry.release} failed: {str(entry.data.get('reason', ''))[:160]}"),
        "withdrawn": lambda entry: ("release", f"{entry.release} was left{_of(entry.data, 'withdrawn_by', 'reason')}"),
        "restored": lambda entry: ("restore", f"{_restored(entry)} was brought back{_of(_data(entry), 'by', 'why')}"),
        "returned": lambda entry: ("restore", f"the data from before it came back{_of(_data(entry), 'by', 'why')}"),
    }  # fmt: skip
    found = []
    for entry in entries:
        if entry.event in said and entry.time >= after:
            kind, sentence = said[entry.event](entry)
            found.append({"at": entry.time, "kind": kind, "sentence": sentence})
    return found[-_EVENTS:]


def _data(entry: Any) -> Mapping[str, Any]:
    inner = entry.data.get("restored")
    return inner if isinstance(inner, Mapping) else {}


def _restored(entry: Any) -> str:
    return f"the restore point {_data(entry).get('point', '')}".strip()


def _of(data: Mapping[str, Any], by: str, why: str) -> str:
    who, reason = str(data.get(by) or ""), str(data.get(why) or "")
    return (f" by {who}" if who else "") + (f": {reason[:120]}" if reason else "")


def began_and_ended(events: Sequence[Mapping[str, Any]], application: str) -> list[dict[str, Any]]:
    """Incidents of this application and of its host as events of the month, from the log of incidents. Pure."""
    ends: dict[tuple[str, str], str] = {}
    for event in events:
        if event.get("event") == "over":
            ends[str(event["key"]), str(event["since"])] = str(event["at"])
    found = []
    for event in events:
        if event.get("event") != "begin" or event.get("application") not in (None, application):
            continue
        end = ends.get((str(event["key"]), str(event["since"])))
        length = f", for {_minutes(str(event['since']), end)}" if end else ", not over yet"
        found.append({"at": str(event["at"]), "kind": "incident", "sentence": f"{event['sentence']}{length}"})
    return found[-_EVENTS:]


def _minutes(since: str, until: str) -> str:
    from ._cells import spoken

    return spoken((dt.datetime.fromisoformat(until) - dt.datetime.fromisoformat(since)).total_seconds())


# --- the look itself


class Looker:
    """Looks at one host, once. What all applications share is looked at once."""

    def __init__(
        self,
        house: House,
        *,
        storage: Storage | None = None,
        runner: Runner | None = None,
        now: dt.datetime | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.house = house
        self.storage = storage or Storage()
        self.runner = runner or run
        self.now = now or dt.datetime.now(dt.UTC)
        self.sleep = sleep
        self.hostname = socket.gethostname()
        self._shared: dict[str, Any] | None = None
        self._kept: dict[str, Any] | None = None
        self._asked_before: dict[str, Any] | None = None
        self._seen: list[Sample] | None = None
        self._declared: dict[str, Application] = {}
        self._writing = False

    # what was kept by the last page

    @property
    def kept(self) -> dict[str, Any]:
        """What the timer wrote down for the next look: {"cells": {app: memory}, "trends": {...}}."""
        if self._kept is None:
            try:
                value = json.loads(self.storage.read(self.house.state / "page.json") or b"")
                self._kept = dict(value) if value["format"] == FORMAT else {}
            except (ValueError, KeyError, TypeError):
                self._kept = {}
        return self._kept

    @property
    def _trends(self) -> dict[str, Any]:
        return dict(self.kept.get("trends") or {})

    # facts

    def facts(self, engine: Engine) -> dict[str, Any]:
        """The facts of `backstay status` about one application, with `look`: what else the cells need."""
        from ._review import watched
        from ._status import facts

        found = {**facts(engine), "watched": watched(engine)}
        return {**found, "look": self.look(engine, found)}

    def row(self, engine: Engine, found: Mapping[str, Any] | None = None) -> Row:
        """The row of one application."""
        found = found if found is not None else self.facts(engine)
        memory = dict(self.kept.get("cells") or {}).get(engine.layout.name)
        return row(found, now=self.now, limits=limits(self._application(engine)), memory=memory, host=self.hostname)

    def rows(self) -> list[Row]:
        """A row for each application that is declared here; one that cannot be looked at says so."""
        found = []
        for name in self.house.applications():
            try:
                found.append(self.row(self.engine(name)))
            except (BackstayError, OSError, ValueError, KeyError, TypeError) as failed:
                why = failed.message if isinstance(failed, BackstayError) else f"{type(failed).__name__}: {failed}"
                found.append(broken(self.hostname, name, why, now=self.now))
        return found

    def written(self) -> list[Row]:
        """The rows of the page as its timer wrote it; none where there is no page that is to be believed."""
        try:
            told = json.loads(self.storage.read(self.house.state / "status.json") or b"")
            fresh = 0 <= age(told["at"], self.now) <= PAGE_SECONDS
            return [from_dict(each) for each in told["rows"]] if fresh else []
        except (ValueError, KeyError, TypeError):
            return []

    def engine(self, name: str) -> Engine:
        return Engine(self.house.layout(name), storage=self.storage, runner=self.runner)

    def _application(self, engine: Engine) -> Application:
        """What is declared, read once: it does not change during a look."""
        name = engine.layout.name
        if name not in self._declared:
            self._declared[name] = engine.application()
        return self._declared[name]

    def look(self, engine: Engine, found: Mapping[str, Any]) -> dict[str, Any]:
        layout, name = engine.layout, engine.layout.name
        trends = dict(self._trends.get("applications") or {}).get(name) or {}
        entries = engine.ledger.read()
        samples, most = self._recent(name), limits(self._application(engine))
        backup, series = self._backups(engine, found)
        told: dict[str, Any] = {
            **self.shared,
            "exposure": self._exposed(engine, entries),
            "at": self.now.isoformat(timespec="seconds"),
            "hostname": self.hostname,
            "probe": self._probe(engine, found, samples),
            "well_at": _well_at(name, samples, most),
            "traffic": self._traffic(engine, samples, trends),
            "certificate": self._certificate(engine),
            "backup": backup,
            "jobs": self._jobs(engine),
            "alerts": self._alerts(engine),
            **self._incidents(name),
            "events": self._events(engine, entries),
            "series": {
                "latency": trends.get("latency") or [],
                "errors": trends.get("errors") or [],
                **series,
                "limits": {
                    "p95_seconds": most.response_seconds,
                    "error_ratio": most.error_ratio,
                    "recovery_seconds": most.recovery_seconds,
                },
            },
        }
        if found.get("maintenance"):
            told["maintenance_since"] = self._written(layout.maintenance_flag)
        if found.get("transaction_open"):
            told["transaction_since"] = self._written(layout.journal)
        return told

    @property
    def shared(self) -> dict[str, Any]:
        """What is so about the host, for all its applications."""
        if self._shared is None:
            reboot = (self.house.root / "run" / "reboot-required").exists()
            system = _updates.system_of(self.house.root)
            kept = _updates.read(self.house.state / "updates.json", self.storage)
            self._shared = {
                "host": self._host(),
                **self._mounts(),
                "updates": _updates.told(kept, now=self.now, system=system, reboot=reboot),
                "exposure": self._exposure(),
            }
        return self._shared

    def _written(self, path: Path) -> str | None:
        try:
            return dt.datetime.fromtimestamp(int(path.stat().st_mtime), dt.UTC).isoformat()
        except OSError:
            return None

    def _proc(self, *names: str) -> str:
        try:
            return self.house.root.joinpath("proc", *names).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def _host(self) -> dict[str, Any] | None:
        memory = dict(line.split(":", 1) for line in self._proc("meminfo").splitlines() if ":" in line)
        load = self._proc("loadavg").split()
        if "MemTotal" not in memory or not load:
            return None
        total, free = (int(memory[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
        latest = self._recent(None)[-1:]
        lately = [each for each in self._recent(None) if (self.now - each.time).total_seconds() < DIED_MINUTES * MINUTE]
        return {
            "memory_ratio": round(1 - free / total, 4),
            "load": float(load[0]),
            "cores": os.cpu_count() or 1,
            "cpu_ratio": latest[0].host.cpu if latest else None,
            "failed_units": list(latest[0].host.failed_units or ()) if latest else [],
            "died_units": sorted({unit for each in lately for unit in each.host.died}),
            "page_at": None if self._writing else self._written(self.house.state / "status.html"),
        }

    def _mounts(self) -> dict[str, Any]:
        # How fast they grow is told by days; peaks that nobody adds to any more tell nothing of today.
        grown: Mapping[str, Any] = self._trends.get("mounts") or {} if self._joined else {}
        found = []
        for place in mount_points(self._proc("self", "mountinfo")):
            seen = mount(place)
            if seen is None or not seen.size_bytes:
                continue
            found.append(
                {
                    "path": place,
                    "used_ratio": seen.used,
                    "inodes_ratio": seen.inodes,
                    "size_bytes": seen.size_bytes,
                    "free_bytes": seen.free_bytes,
                    "full_seconds": forecast(_peaked(grown.get(place) or (), self.now, seen), seen.free_bytes),
                }
            )
        return {"mounts": found, "forecast": any(len(days) > 1 for days in grown.values())}

    @property
    def _joined(self) -> bool:
        """Whether what was kept reaches up to the samples that are read at each look."""
        return age(self._trends.get("at"), self.now) < _RECENT_MINUTES * MINUTE

    def _exposure(self) -> dict[str, Any] | None:
        """The ports that answer to others, and which of them are declared. Role firewall declares them, and closes the
        rest: then who listens on another one is heard by nobody. Of UDP nothing is said."""
        tables = [self._proc("net", name) for name in ("tcp", "tcp6")]
        if not tables[0]:
            return None
        heard = sorted(set().union(*map(listening, tables)))
        from ._firewall import NFT, RULES, TABLE

        if not self.house.root.joinpath(RULES.lstrip("/")).exists():
            return {"open": heard}
        try:
            listed = self.runner([NFT, "list", "table", *TABLE.split()], timeout_seconds=5.0)
        except BackstayError as failed:
            return {"open": heard, "problems": [f"the firewall that is declared does not hold: {failed.message}"]}
        declared = declared_ports(listed.stdout)
        return {
            "open": [port for port in heard if port in declared],
            "closed": [port for port in heard if port not in declared],
            "declared": sorted(declared),
            "everybody": [port for port in heard if declared.get(port)],
        }

    @property
    def _asked(self) -> dict[str, Any]:
        """What systemd and the applications were asked about exposure, seldom, by the timer."""
        if self._asked_before is None:
            self._asked_before = _exposure.read(self.house.state / "exposure.json", self.storage)
        return self._asked_before

    def _exposed(self, engine: Engine, entries: Sequence[Entry]) -> dict[str, Any]:
        """What of this application is open to others, with the ports of its host."""
        found = dict(self.shared["exposure"] or {})
        application, live = self._application(engine), engine.live()
        try:
            values = engine.environment_of(live) if live else engine.secrets()
        except BackstayError:
            values = engine.secrets()
        found["weak_secrets"] = _exposure.default_secrets(application.name, values, application.environment.secret)
        if live is None:
            return found
        kept = self._asked.get(application.name) or {}
        found |= _exposure.told(kept, engine.web_unit(live), self.now)
        mine = [each.data for each in entries if each.release == live and "warnings" in each.data]
        found["warnings"] = mine[-1]["warnings"] if mine else None
        if found["warnings"] is None:
            found["unknown"]["warnings"] = "they were not written down with the release"
        return found

    # what others observed

    def _recent(self, application: str | None) -> list[Sample]:
        """The samples of the last hours, as far as they are cheap to read."""
        if self._seen is None:
            self._seen = recent(self.house, self.now, _RECENT_MINUTES)
        found = self._seen
        return [each for each in found if application is None or application in each.applications]

    def _probe(self, engine: Engine, found: Mapping[str, Any], samples: Sequence[Sample]) -> dict[str, Any] | None:
        """Ask the live release on its own socket, then the front door. Where that fails, what the last minutes saw
        says for how long; where nobody watched, it is asked three times."""
        if not found.get("live") or found.get("maintenance") or web_state(found) != "active":
            return None
        from ._checks import run_check
        from ._health import host_options, parse_checks

        options = [
            each for each in host_options(self._application(engine), engine.layout) if each["name"].endswith(": health")
        ]
        checks = parse_checks(options, f"the checks of {engine.layout.name}")
        before = _unwell(engine.layout.name, samples)
        failures, reason, seconds = 0, "", 0.0
        for attempt in range(3):
            results = [run_check(check, limit_seconds=2.0) for check in checks]
            seconds = max((result.seconds for result in results), default=0.0)
            bad = [result for result in results if not result.ok]
            if not bad:
                failures = 0
                break
            failures, reason = failures + 1, f"{bad[0].name}: {bad[0].reason}"
            if before or attempt == 2 or found.get("transaction_open"):
                break
            self.sleep(0.3)
        length = (self.now - before[0].time).total_seconds() if before and failures else 0.0
        return {
            "ok": failures == 0,
            "failures": failures + (PROBES * len(before) if failures else 0),
            "for_seconds": length,
            "seconds": round(seconds, 4),
            "reason": reason,
            "at": self.now.isoformat(timespec="seconds"),
            "source": "the release and the front door",
        }

    def _traffic(self, engine: Engine, samples: Sequence[Sample], trends: Mapping[str, Any]) -> dict[str, Any] | None:
        if not samples:
            return None
        name = engine.layout.name
        window = [each.applications[name] for each in samples if (self.now - each.time).total_seconds() <= 15 * MINUTE]
        times = None
        for each in window:
            times = each.times if times is None else times + each.times
        requests, errors = sum(each.requests for each in window), sum(each.errors for each in window)
        p95 = times.quantile(0.95) if times is not None and times.count >= _ENOUGH_REQUESTS else None
        return {
            "at": samples[-1].at,
            # A budget of which some time is missing is as old as the figures from before that time.
            "budget_at": samples[-1].at if self._joined or not trends else self._trends["at"],
            "requests": requests,
            "error_ratio": errors / requests if requests and errors >= _ENOUGH_ERRORS else 0.0,
            "p95_seconds": None if p95 is None else round(p95, 4),
            **self._budget([_counts(each, name) for each in samples], trends, self._application(engine)),
        }

    def _budget(
        self, minutes: Sequence[tuple[float, int, int]], trends: Mapping[str, Any], application: Application
    ) -> dict[str, Any]:
        """What is left of the budget and how fast it burns: from what was kept, and each minute since."""
        objective, now = application.objectives.uptime, self.now.timestamp()
        kept, until = trends.get("month") or (0, 0), age(self._trends.get("at"), self.now)
        since = [each for each in minutes if now - each[0] < until]
        requests, errors = (kept[place] + sum(each[place + 1] for each in since) for place in (0, 1))
        left = None
        if requests and trends:
            left = 1 - errors / requests / max(1 - objective, 1e-9) if errors >= _ENOUGH_ERRORS else 1.0
        before = [(at, asked, failed) for at, asked, failed in trends.get("counts") or () if at < minutes[0][0]]
        return {
            "objective_ratio": objective,
            "budget_left": left,
            "burn": burn([*before, *minutes], now, objective),
        }

    def _certificate(self, engine: Engine) -> dict[str, Any] | None:
        path = engine.layout.root / "etc" / "backstay-tls" / engine.layout.name / "bundle.pem"
        content = self.storage.read(path)
        if content is None:
            return None
        found = _FIRST.search(content)
        at = self.now.isoformat(timespec="seconds")
        try:
            read = _certificate.read(base64.b64decode(found[1]) if found else b"")
        except (BackstayError, ValueError) as damaged:
            return {"at": at, "problem": str(damaged)}
        domain = self._application(engine).domain
        return {
            "at": at,
            "path": str(path),
            "domain": domain,
            "is_for": read.is_for(domain),
            "issuer": read.issuer,
            "not_before": read.not_before.isoformat(),
            "not_after": read.not_after.isoformat(),
        }

    def _backups(self, engine: Engine, found: Mapping[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """What the catalogue says beyond the newest point; and the series of sizes and of recovery times."""
        from ._catalogue import points

        try:
            policy = self._application(engine).backup
            if policy is None:
                return None, {}
            known = points(engine.layout, self.storage)
        except BackstayError:
            return None, {}
        good = [point for point in known if point.good]
        failures = 0
        for point in reversed(known):
            if point.good or point.expired:
                break
            ended = point.failed or point.refuted or len(point.failed_in) >= len(policy.repositories)
            failures += bool(ended) or age(point.at, self.now) > policy.seconds  # else it runs
        sizes = [point.size_bytes for point in good[-11:-1]]
        after = (self.now - dt.timedelta(days=_DAYS)).isoformat()
        proven = sorted((p for p in known if p.level >= 4 and p.proven_at), key=lambda p: p.proven_at or "")
        newest = max((p for p in known if p.refuted), key=lambda p: p.sequence, default=None)
        refuted = newest.refuted if newest and not any(p.sequence > newest.sequence for p in proven) else None
        nightly = policy.proof.nightly is not None
        told = {
            "max_age_seconds": policy.max_age_hours * HOUR,
            "proof_max_age_seconds": policy.proof.level4_max_age_hours * HOUR if nightly else 35 * DAY,
            "repositories": len(policy.repositories),
            "failures": failures,
            "median_bytes": statistics.median(sizes) if sizes else None,
            "refuted": refuted,
        }
        if proven:
            told["recovery_point_seconds"] = self._recovery_point(engine, proven[-1].run)
        stamp = dt.datetime.fromisoformat
        return told, {
            "backup": thinned([(stamp(p.at).timestamp(), p.size_bytes) for p in good if p.at >= after]),
            "recovery": thinned(
                [
                    (stamp(p.proven_at).timestamp(), p.proven_seconds)
                    for p in proven
                    if p.proven_at and p.proven_at >= after and p.proven_seconds is not None
                ]
            ),
        }

    def _recovery_point(self, engine: Engine, run: str) -> float | None:
        """How much of the newest data the last proof found missing, from its evidence."""
        files = sorted(engine.layout.proofs.glob(f"{run}.*.json"), key=lambda path: path.stat().st_mtime)
        for path in reversed(files):
            try:
                value = json.loads(path.read_bytes()).get("recovery_point_seconds")
            except (OSError, ValueError, AttributeError):
                continue
            if value is not None:
                return float(value)
        return None

    def _jobs(self, engine: Engine) -> list[dict[str, Any]] | None:
        from ._job_results import facts

        try:
            return facts(engine.layout, self._application(engine).schedules, self.storage, self.now)
        except BackstayError:
            return None

    def _alerts(self, engine: Engine) -> dict[str, Any] | None:
        from ._notify import path_facts, relay_trouble

        samples, policy = self._recent(None), self._application(engine).alerts
        if policy is None:
            return None
        known = path_facts(self.house, self.storage, {engine.layout.name: policy})
        ways: Mapping[str, Mapping[str, Any]] = known.get("destinations") or {}
        failing = [
            f"{name} cannot be reached: {way.get('why') or 'see its log'}"
            for name, way in ways.items()
            if way.get("failing_since")
        ]
        tests = [way.get("test_at") for way in ways.values()]
        return {
            "heartbeat_at": samples[-1].at if samples else None,
            "tested_at": min((str(test) for test in tests), default=None) if all(tests) else None,
            "routes": sorted(ways),
            "stuck": failing[0] if failing else relay_trouble(self.house.root, self.now) if policy.mail else "",
        }

    def _incidents(self, name: str) -> dict[str, Any]:
        """What is open of the application and of its host, by the cell that shows it, and what of it is known."""
        from ._incidents import opened

        try:
            found = opened(self.house, self.storage)
        except BackstayError:
            return {}
        now = self.now.strftime("%Y-%m-%dT%H:%M:%SZ")
        mine = [
            each
            for each in found
            if not each.over and each.incident.application in (None, name) and each.incident.kind in _CELL_OF
        ]
        return {
            "acknowledged": {
                _CELL_OF[each.incident.kind]: {"by": each.acknowledged_by, "until": each.acknowledged_until}
                for each in mine
                if each.silenced(now)
            },
            "incidents": [
                {"cell": _CELL_OF[each.incident.kind], **asdict(each.incident)}
                for each in mine
                if each.incident.severity in ("page", "warn")
            ],
        }

    def _events(self, engine: Engine, entries: Sequence[Entry]) -> list[dict[str, Any]]:
        from ._incidents import history

        after = (self.now - dt.timedelta(days=_DAYS)).strftime("%Y-%m-%dT%H:%M:%S")
        found = month(entries, after)
        found += began_and_ended(history(self.house, self.storage, _DAYS, self.now), engine.layout.name)
        return sorted(found, key=lambda event: str(event["at"]))

    # what is kept for the next look

    def trends(self) -> dict[str, Any]:
        """The month of each application, and the growth of each mount: dear, so once an hour. What it comes to is
        reckoned at each look, with what was seen since."""
        kept = self._trends
        if age(kept.get("at"), self.now) < _TRENDS_SECONDS and kept.get("samples", 0) >= _FEW_SAMPLES:
            return kept
        series = samples_of(self.house, None, _DAYS * 24, self.now)
        found = {name: self._month_of(name, series) for name in self.house.applications()}
        told = {"applications": found, "mounts": _growth(series), "samples": len(series)}
        return {"at": self.now.isoformat(), **told}

    def _month_of(self, name: str, series: Sequence[Sample]) -> dict[str, Any]:
        known = [each for each in series if name in each.applications]
        mine = [(each.time.timestamp(), each.applications[name]) for each in known]
        counts = [_counts(each, name) for each in known]
        return {
            "latency": thinned([(at, each.p95_seconds) for at, each in mine if each.p95_seconds is not None]),
            "errors": thinned([(at, each.errors / each.requests) for at, each in mine if each.requests]),
            "month": [sum(each[place] for each in counts) for place in (1, 2)],
            "counts": _summed([each for each in counts if each[0] > self.now.timestamp() - _BURNS[-1][1]]),
        }

    def write_page(self) -> Path:
        """Write the page, its JSON, and what the next look must remember."""
        from ._page import document, page

        self._writing = True  # this page is as new as can be
        self.storage.make_directory(self.house.state, mode=0o700)
        _updates.refresh(
            self.house.state / "updates.json", self.storage, self.runner, now=self.now, root=self.house.root
        )
        engines = [self.engine(name) for name in self.house.applications()]
        _exposure.refresh(self.house.state / "exposure.json", self.storage, engines, self.now)
        self._kept = {**self.kept, "trends": self.trends()}
        rows = self.rows()
        target = self.house.state / "status.html"
        self.storage.write(target, page(rows, now=self.now, title=self.hostname).encode(), mode=0o600)
        told = document(rows, self.now)
        self.storage.write(self.house.state / "status.json", canonical(told), mode=0o600)
        memory = {found.application: found.memory for found in rows if found.memory is not None}
        kept = {"format": FORMAT, "cells": memory, "trends": self._kept["trends"]}
        self.storage.write(self.house.state / "page.json", canonical(kept), mode=0o600)
        return target


def limits(application: Application) -> Limits:
    """The thresholds of an application, as its file sets them."""
    objectives = application.objectives
    return Limits(
        response_seconds=objectives.p95_seconds,
        error_ratio=objectives.error_ratio,
        used_ratio=objectives.disk,
        memory_ratio=objectives.memory,
        cpu_ratio=objectives.cpu,
        load_per_core=objectives.load_per_core,
        recovery_seconds=objectives.recovery_seconds,
    )


def _unwell(name: str, samples: Sequence[Sample]) -> list[Sample]:
    """The newest samples in a row in which the application was not well."""
    found: list[Sample] = []
    for each in reversed(samples):
        seen = each.applications[name]
        if seen.healthy is not False or seen.held:
            break
        found.insert(0, each)
    return found


def _well_at(name: str, samples: Sequence[Sample], most: Limits) -> dict[str, str]:
    """Of what the observer asks too: when it saw it last, where that was not red."""
    if not samples:
        return {}
    newest, memory = samples[-1], samples[-1].host.memory
    well = {
        "health": newest.applications[name].healthy is True,
        "host": memory is not None and memory <= most.used_ratio_red,
    }
    return {cell: newest.at for cell, is_well in well.items() if is_well}


def _counts(each: Sample, name: str) -> tuple[float, int, int]:
    """When, how many requests, how many errors."""
    return each.time.timestamp(), each.applications[name].requests, each.applications[name].errors


def _summed(counts: Sequence[tuple[float, int, int]]) -> list[tuple[float, int, int]]:
    """A sum for each five minutes, at the time of its newest: so few that they are read at each look."""
    found: dict[float, tuple[float, int, int]] = {}
    for at, requests, errors in counts:
        _at, asked, failed = found.get(at // 300, (0.0, 0, 0))
        found[at // 300] = (at, asked + requests, failed + errors)
    return list(found.values())


def _growth(series: Sequence[Sample]) -> dict[str, list[tuple[float, float]]]:
    """The peaks of the last fourteen days of each mount: when, and how many bytes were used."""
    peaks: dict[str, list[tuple[float, float]]] = {}
    for each in series:
        if (series[-1].time - each.time).days < 14:
            for disk in each.host.mounts:
                peaks[disk.path] = _peaked(peaks.get(disk.path) or (), each.time, disk)
    return peaks


def _peaked(peaks: Sequence[Sequence[float]], at: dt.datetime, disk: Mount) -> list[tuple[float, float]]:
    """The peaks of its days with what is used of a mount now."""
    days = [(float(when), float(used)) for when, used in peaks]  # of JSON, where a pair is a list
    now = (at.timestamp(), float(disk.size_bytes - disk.free_bytes))
    if days and days[-1][0] // DAY == now[0] // DAY:
        return [*days[:-1], max(days[-1], now, key=lambda peak: (peak[1], peak[0]))]
    return [*days, now]
