"""Pure: from what was seen on a host to what is likely the cause, with its evidence and the one command to begin with.

The order of `_RULES` is the order of blame: what makes the others happen comes first. A full disk kills web processes,
so the dead process is told too, and second.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

_MIB = 1 << 20
FULL_SHARE = 0.01  # less of a disk than this is full, whatever its size
FULL_BYTES = 4 * _MIB
FULL_INODES = 200
WARN_CERTIFICATE_DAYS = 7
SLOW_SECONDS = 2.0
FAILED_SHARE = 0.05
ENOUGH_REQUESTS = 20
FRESH_RELEASE_SECONDS = 24 * 3600.0
LINES = 24
WIDTH = 160


@dataclass(frozen=True)
class Disk:
    """One file system, by the first of the paths that lie on it. Sizes in bytes; `inodes` 0 where it does not count."""

    path: str
    size_bytes: int
    free_bytes: int
    inodes: int = 0
    free_inodes: int = 0
    read_only: bool = False

    @property
    def full(self) -> bool:
        """A tiny file system is full by share only."""
        return self.size_bytes > 0 and self.free_bytes < min(
            max(FULL_BYTES, FULL_SHARE * self.size_bytes), self.size_bytes / 20
        )

    @property
    def out_of_inodes(self) -> bool:
        return self.inodes > 0 and self.free_inodes < min(FULL_INODES, self.inodes / 20)


@dataclass(frozen=True)
class Unit:
    """A unit of systemd. `process` is what it is to the application: web, worker, ... or nginx."""

    name: str
    process: str
    state: str
    result: str = "success"
    restarts: int = 0
    memory_bytes: int | None = None
    memory_max_bytes: int | None = None


@dataclass(frozen=True)
class Answer:
    """What a request was answered: `problem` is why there was no answer; `late` where there was none in time."""

    status: int | None = None
    seconds: float = 0.0
    problem: str = ""
    late: bool = False
    release: str = ""


@dataclass(frozen=True)
class Database:
    """A database of the application. `wrong` is what is wrong with the file itself; `holder` who holds it locked."""

    name: str
    path: str = ""
    missing: bool = False
    empty: bool = False
    wrong: str = ""
    holder: str = ""
    holder_pid: int | None = None


@dataclass(frozen=True)
class Certificate:
    """The certificate that visitors see; times UTC, ISO 8601. `problem`: why it could not be read."""

    not_before: str = ""
    not_after: str = ""
    names: tuple[str, ...] = ()
    fits: bool = True
    problem: str = ""


@dataclass(frozen=True)
class Said:
    """How often something stood in the logs around the event, and the last such line."""

    count: int
    last: str


@dataclass(frozen=True)
class Traffic:
    """What visitors got lately, from the front door's log."""

    requests: int = 0
    failed: int = 0
    p95_seconds: float | None = None


@dataclass(frozen=True)
class Facts:
    """What was seen of one application on its host. What could not be looked at is in `unseen`, as sentences."""

    application: str
    host: str
    at: str
    live: str | None = None
    live_since: str | None = None
    warm: str | None = None
    rollback_target: str | None = None
    maintenance: bool = False
    rebuilding: str = ""  # the command that ends it
    transaction_open: bool = False
    transaction_running: bool = False
    transaction: str = ""
    configuration_changed: bool = False
    configuration_problem: str = ""
    missing_keys: str = ""
    ledger: str = "sound"
    front_door: Answer = field(default_factory=Answer)
    socket: Answer = field(default_factory=Answer)
    health_failing: tuple[str, ...] = ()
    units: tuple[Unit, ...] = ()
    nginx_refuses: str = ""
    certificate: Certificate | None = None
    disks: tuple[Disk, ...] = ()
    memory_bytes: int = 0
    free_memory_bytes: int = 0
    cores: int = 1
    load: float = 0.0
    databases: tuple[Database, ...] = ()
    migrations_pending: tuple[str, ...] = ()
    wrong_permissions: tuple[str, ...] = ()
    wrong_owner: str = ""
    backup_problems: tuple[str, ...] = ()
    repositories_unreachable: Mapping[str, str] = field(default_factory=dict)
    said: Mapping[str, Said] = field(default_factory=dict)
    traffic: Traffic = field(default_factory=Traffic)
    unseen: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def unit(self, process: str) -> Unit | None:
        return next((unit for unit in self.units if unit.process == process), None)

    @property
    def served(self) -> bool:
        """Whether a visitor gets the live release's own, good answer. The health question, asked from the host itself,
        passes through maintenance; visitors do not."""
        return self.front_door.status == 200 and bool(self.front_door.release) and not self.maintenance


@dataclass(frozen=True)
class Cause:
    """What is likely wrong, how that was seen, what to type first, and the runbook that goes on from there."""

    key: str
    sentence: str
    evidence: tuple[str, ...]
    command: str
    runbook: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


# What is looked for in the logs: key of `Facts.said`, and the words, in lower case.
PHRASES: Mapping[str, tuple[str, ...]] = {
    "no room": ("no space left on device", "database or disk is full", "disk quota exceeded"),
    "killed for memory": ("oom-kill", "oom killer", "out of memory: killed", "memory cgroup out of memory"),
    "perhaps killed for memory": ("perhaps out of memory",),
    "locked": ("database is locked", "lock timeout", "deadlock detected"),
    "damaged": ("disk image is malformed", "file is not a database", "integrity check failed"),
    "no database": ("unable to open database file", "no such table", "connection refused\n\tis the server running"),
    "refused by permissions": ("permission denied", "readonly database"),
    "read-only": ("read-only file system",),
    "worker timeout": ("worker timeout",),
    "files": ("too many open files",),
    "does not start": ("modulenotfounderror", "improperlyconfigured", "worker failed to boot"),
}


def causes(facts: Facts) -> tuple[Cause, ...]:
    """All likely causes, the likeliest first; none where all is well."""
    return tuple(found for rule in _RULES for found in rule(facts))


def _read_only(facts: Facts) -> Iterator[Cause]:
    for disk in facts.disks:
        if disk.read_only:
            yield Cause(
                "read_only_disk",
                f"The file system of {disk.path} is read-only: the disk fails, or was mounted so.",
                (f"{disk.path} is mounted read-only", *_quoted(facts, "read-only")),
                "dmesg --level=err,warn --ctime",
                "disk.md",
            )


def _disk_full(facts: Facts) -> Iterator[Cause]:
    for disk in facts.disks:
        if disk.full:
            free = f"{_size(disk.free_bytes)} of {_size(disk.size_bytes)} are free"
            yield Cause(
                "disk_full",
                f"The disk of {disk.path} is full.",
                (f"{disk.path}: {free}", *_quoted(facts, "no room")),
                f"du -xh --max-depth=3 --threshold=50M {disk.path}",
                "disk.md",
            )


def _inodes(facts: Facts) -> Iterator[Cause]:
    for disk in facts.disks:
        if disk.out_of_inodes:
            yield Cause(
                "inodes_full",
                f"The file system of {disk.path} has no room for another file: its inodes are used up.",
                (
                    f"{disk.path}: {disk.free_inodes} of {disk.inodes} inodes and {_size(disk.free_bytes)} are free",
                    *_quoted(facts, "no room"),
                ),
                f"du -x --inodes --max-depth=3 --threshold=1000 {disk.path}",
                "disk.md",
            )


def _memory_kill(facts: Facts) -> Iterator[Cause]:
    killed = tuple(f"{unit.name} ended with {unit.result}" for unit in facts.units if unit.result == "oom-kill")
    if killed:
        yield from _memory(facts, "A process was killed because memory ran out.", killed)


def _memory_said(facts: Facts) -> Iterator[Cause]:
    """From the logs alone: it may be over, so what is wrong now is blamed before it."""
    if any(unit.result == "oom-kill" for unit in facts.units):
        return
    if _quoted(facts, "killed for memory"):
        yield from _memory(facts, "A process was killed because memory ran out.", ())
    elif _quoted(facts, "perhaps killed for memory"):
        sentence = "A web worker was killed from outside, which usually means that memory ran out."
        yield from _memory(facts, sentence, _quoted(facts, "perhaps killed for memory"))


def _memory(facts: Facts, sentence: str, evidence: tuple[str, ...]) -> Iterator[Cause]:
    limits = [
        f"{unit.name} uses {_size(unit.memory_bytes)} of {_size(unit.memory_max_bytes)}"
        for unit in facts.units
        if unit.memory_bytes and unit.memory_max_bytes and unit.memory_bytes > 0.8 * unit.memory_max_bytes
    ]
    free = f"{_size(facts.free_memory_bytes)} of {_size(facts.memory_bytes)} of the host's memory are free"
    yield Cause(
        "memory_kill",
        sentence,
        (*evidence, *_quoted(facts, "killed for memory"), *limits, free),
        f"backstay logs --process web --lines 200 {facts.application}",
        "slow.md",
    )


def _nginx_configuration(facts: Facts) -> Iterator[Cause]:
    if facts.nginx_refuses:
        unit = facts.unit("nginx")
        still = unit is not None and unit.state == "active"
        more = "it still serves with the configuration before" if still else "so it cannot start"
        yield Cause(
            "nginx_configuration",
            f"The configuration of nginx is refused, {more}.",
            (facts.nginx_refuses,),
            "nginx -t",
            "site-down.md",
        )


def _nginx_down(facts: Facts) -> Iterator[Cause]:
    unit = facts.unit("nginx")
    if unit is not None and unit.state != "active":
        door = (facts.front_door.problem,) if facts.front_door.problem else ()
        yield Cause(
            "nginx_down",
            f"nginx does not run ({unit.state}): nobody reaches the site.",
            (f"{unit.name} is {unit.state}, its last result {unit.result}", *door),
            "systemctl start nginx" if not facts.nginx_refuses else "nginx -t",
            "site-down.md",
        )


def _certificate(facts: Facts) -> Iterator[Cause]:
    found = facts.certificate
    if found is None:
        return
    renew = "ansible-playbook playbooks/site.yml"
    if found.problem:
        yield Cause(
            "certificate_unreadable",
            "The certificate cannot be read, so no browser gets a connection.",
            (found.problem,),
            renew,
            "certificate.md",
        )
        return
    now = dt.datetime.fromisoformat(facts.at)
    left = dt.datetime.fromisoformat(found.not_after) - now
    if left.total_seconds() < 0:
        yield Cause(
            "certificate_expired",
            "The certificate has expired: every browser warns.",
            (f"it was valid until {found.not_after}, {-left.days} days ago",),
            renew,
            "certificate.md",
        )
    elif dt.datetime.fromisoformat(found.not_before) > now:
        yield Cause(
            "certificate_early",
            "The certificate is not valid yet: a clock is wrong.",
            (f"it is valid from {found.not_before}, this host's clock says {facts.at}",),
            "timedatectl",
            "certificate.md",
        )
    elif not found.fits:
        yield Cause(
            "certificate_name",
            "The certificate is for another name: every browser warns.",
            (f"it is for {', '.join(found.names) or 'no name'}",),
            renew,
            "certificate.md",
        )
    elif left.days < WARN_CERTIFICATE_DAYS:
        yield Cause(
            "certificate_ends",
            f"The certificate ends in {left.days} days.",
            (f"it is valid until {found.not_after}",),
            renew,
            "certificate.md",
        )


def _maintenance(facts: Facts) -> Iterator[Cause]:
    if facts.rebuilding and not facts.transaction_running:
        yield Cause(
            "rebuilding",
            "It is being rebuilt and its data are still to come: visitors get the maintenance page until then.",
            (f"a rebuild waits for `{facts.rebuilding}`",),
            facts.rebuilding,
            "database.md",
        )
    elif facts.maintenance and not facts.transaction_running:
        yield Cause(
            "maintenance",
            "Maintenance is on: visitors get 503 and the maintenance page, as somebody asked.",
            ("maintenance.on is there",),
            f"backstay maintenance off {facts.application}",
            "site-down.md",
        )


def _transaction(facts: Facts) -> Iterator[Cause]:
    if not facts.transaction_open:
        return
    what = facts.transaction or "a transaction"
    closed = ("its door is closed: visitors get the maintenance page",) if facts.maintenance else ()
    if facts.transaction_running:
        yield Cause(
            "transaction_open",
            f"A transaction is under way or waits for its next phase: {what}.",
            (what, *closed),
            f"backstay abort {facts.application}",
            "after-a-rollback.md",
        )
    else:
        yield Cause(
            "transaction_unfinished",
            f"A transaction was left unfinished, and nothing works at it: {what}.",
            (what, *closed),
            f"backstay recover {facts.application}",
            "after-a-rollback.md",
        )


def _configuration(facts: Facts) -> Iterator[Cause]:
    if facts.configuration_problem:
        yield Cause(
            "configuration_broken",
            "What is declared on this host cannot be read.",
            (facts.configuration_problem,),
            "ansible-playbook playbooks/site.yml",
            "errors.md",
        )
    if facts.missing_keys:
        yield Cause(
            "secret_missing",
            "A required key of the environment has no value: the next release or restart of a release fails.",
            (facts.missing_keys,),
            "ansible-playbook playbooks/site.yml",
            "errors.md",
        )
    elif facts.configuration_changed:
        yield Cause(
            "configuration_drift",
            "The configuration declared here is not what the live release runs with.",
            ("environment, secrets or settings differ from those that were released",),
            f"backstay release --plan {facts.application}",
            "errors.md",
        )


def _permissions(facts: Facts) -> Iterator[Cause]:
    if facts.wrong_permissions:
        first = facts.wrong_permissions[0].partition(" ")[0]
        yield Cause(
            "permissions",
            "Files of the application have an owner or a mode that the application or nginx cannot work with.",
            (*facts.wrong_permissions[:4], *_quoted(facts, "refused by permissions")),
            f"chown -R {facts.wrong_owner or facts.application} {first}",
            "errors.md",
        )


def _database(facts: Facts) -> Iterator[Cause]:
    for database in facts.databases:
        if database.missing or database.empty:
            what = "is missing" if database.missing else "is empty"
            yield Cause(
                "database_missing",
                f"The database {database.name} {what}.",
                (f"{database.path} {what}", *_quoted(facts, "no database")),
                f"backstay restore --plan {facts.application}",
                "database.md",
            )
        elif database.wrong:
            yield Cause(
                "database_wrong",
                f"The database {database.name} does not answer as it should.",
                (database.wrong, *_quoted(facts, "damaged")),
                f"backstay restore --plan {facts.application}",
                "database.md",
            )
    held = [database for database in facts.databases if database.holder]
    ill = [line for line in facts.health_failing if "locked" in line]
    if held or ill:
        pid = next((database.holder_pid for database in held if database.holder_pid), None)
        yield Cause(
            "database_locked",
            "A database is held locked: whoever wants to write waits, then fails.",
            (
                *(f"{database.path} is held by {database.holder}" for database in held),
                *ill,
                *_quoted(facts, "locked"),
            ),
            f"ps -o pid,user,etime,args -p {pid}" if pid else f"backstay logs --lines 200 {facts.application}",
            "database.md",
        )


def _migrations(facts: Facts) -> Iterator[Cause]:
    if facts.migrations_pending:
        yield Cause(
            "migrations_pending",
            f"The database lacks {len(facts.migrations_pending)} migrations that the live release needs.",
            (f"pending: {', '.join(facts.migrations_pending[:6])}",),
            f"backstay release --again {facts.application}",
            "database.md",
        )


def _ledger(facts: Facts) -> Iterator[Cause]:
    if facts.ledger not in ("sound", "torn"):
        yield Cause(
            "ledger",
            "The ledger of releases is not trusted: the site serves on, and nothing can be released or rolled back.",
            (facts.ledger,),
            f"backstay history --verify {facts.application}",
            "errors.md",
        )


def _nothing_live(facts: Facts) -> Iterator[Cause]:
    if facts.live is None:
        yield Cause(
            "nothing_live",
            "Nothing is live on this host: nothing was released yet, or the link `active` is gone.",
            ("there is no link named active",),
            f"backstay history {facts.application}",
            "site-down.md",
        )


def _files(facts: Facts) -> Iterator[Cause]:
    said = _quoted(facts, "files")
    if said:
        yield Cause(
            "open_files",
            "A process has used up the files it may open.",
            said,
            f"backstay recover {facts.application}",
            "errors.md",
        )


def _web_dead(facts: Facts) -> Iterator[Cause]:
    unit = facts.unit("web")
    if facts.live is not None and (unit is None or unit.state not in ("active", "reloading")):
        name, state = (unit.name, unit.state) if unit else (f"the web process of {facts.live}", "gone")
        evidence = [f"{name} is {state}" + (f", its last result {unit.result}" if unit else "")]
        if unit is not None and unit.restarts:
            evidence.append(f"it was restarted {unit.restarts} times")
        yield Cause(
            "web_dead",
            "The web process of the live release does not run: visitors get 502.",
            (*evidence, *_quoted(facts, "does not start")),
            f"backstay recover {facts.application}",
            "site-down.md",
        )


def _web_hung(facts: Facts) -> Iterator[Cause]:
    unit = facts.unit("web")
    if unit is not None and unit.state == "active" and facts.socket.late:
        yield Cause(
            "web_hung",
            "The web process of the live release runs and does not answer: visitors wait, then get 504.",
            (f"{unit.name} is active; {facts.socket.problem}", *_quoted(facts, "worker timeout")),
            f"systemctl restart {unit.name}",
            "site-down.md",
        )


def _workers(facts: Facts) -> Iterator[Cause]:
    for unit in facts.units:
        if unit.process not in ("web", "nginx", "warm") and unit.state not in ("active", "activating", "reloading"):
            yield Cause(
                "worker_dead",
                f"The process {unit.process} of the live release does not run.",
                (f"{unit.name} is {unit.state}, its last result {unit.result}",),
                f"backstay recover {facts.application}",
                "errors.md",
            )


def _restarts(facts: Facts) -> Iterator[Cause]:
    for unit in facts.units:
        if unit.restarts >= 3 and unit.state in ("active", "activating"):
            yield Cause(
                "restarts",
                f"The process {unit.process} dies again and again.",
                (f"{unit.name} was restarted {unit.restarts} times", *_quoted(facts, "does not start")),
                f"backstay logs --process {unit.process} --lines 100 {facts.application}",
                "errors.md",
            )


def _fresh_release(facts: Facts) -> Iterator[Cause]:
    traffic = facts.traffic
    if not facts.live_since or traffic.requests < ENOUGH_REQUESTS:
        return
    age = (dt.datetime.fromisoformat(facts.at) - dt.datetime.fromisoformat(facts.live_since)).total_seconds()
    if traffic.failed / traffic.requests >= FAILED_SHARE and age < FRESH_RELEASE_SECONDS and facts.rollback_target:
        yield Cause(
            "release",
            f"Requests fail, and {facts.live} is live since {age / 3600:.1f} h only.",
            (f"{traffic.failed} of the last {traffic.requests} requests failed",),
            f"backstay rollback --plan {facts.application}",
            "rollback.md",
        )


def _health(facts: Facts) -> Iterator[Cause]:
    known = [line for line in facts.health_failing if "locked" not in line]
    if known:
        yield Cause(
            "health",
            "The application says of itself that it is not well.",
            tuple(known[:4]),
            f"backstay health {facts.application}",
            "errors.md",
        )


def _failing(facts: Facts) -> Iterator[Cause]:
    traffic = facts.traffic
    if traffic.requests >= ENOUGH_REQUESTS and traffic.failed / traffic.requests >= FAILED_SHARE:
        yield Cause(
            "errors",
            "Requests fail.",
            (f"{traffic.failed} of the last {traffic.requests} requests failed",),
            f"backstay logs --process web --lines 200 {facts.application}",
            "errors.md",
        )


def _slow(facts: Facts) -> Iterator[Cause]:
    if facts.load > 2.0 * facts.cores:
        yield Cause(
            "load",
            "The host has more to do than its cores can.",
            (f"load {facts.load:.1f} on {facts.cores} cores",),
            "ps -eo pid,user,pcpu,etime,args --sort=-pcpu",
            "slow.md",
        )
    if facts.memory_bytes and facts.free_memory_bytes < 0.05 * facts.memory_bytes:
        yield Cause(
            "memory_short",
            "Memory is short.",
            (f"{_size(facts.free_memory_bytes)} of {_size(facts.memory_bytes)} are free",),
            "ps -eo pid,user,rss,etime,args --sort=-rss",
            "slow.md",
        )
    p95 = facts.traffic.p95_seconds
    if p95 is not None and p95 > SLOW_SECONDS and facts.traffic.requests >= ENOUGH_REQUESTS:
        yield Cause(
            "slow",
            "The application answers slowly.",
            (f"one request in twenty takes longer than {p95:.1f} s",),
            f"backstay logs --process web --lines 200 {facts.application}",
            "slow.md",
        )


def _backups(facts: Facts) -> Iterator[Cause]:
    for name, why in facts.repositories_unreachable.items():
        yield Cause(
            "repository_unreachable",
            f"The backup repository {name} cannot be used: new restore points are not stored there.",
            (why,),
            f"backstay backup --plan {facts.application}",
            "backup-failed.md",
        )
    if facts.backup_problems and not facts.repositories_unreachable:
        yield Cause(
            "backup",
            "The restore points are not as they should be.",
            facts.backup_problems[:3],
            f"backstay backups {facts.application}",
            "backup-failed.md",
        )


_RULES: tuple[Callable[[Facts], Iterator[Cause]], ...] = (
    _read_only,
    _disk_full,
    _inodes,
    _memory_kill,
    _nginx_configuration,
    _nginx_down,
    _certificate,
    _transaction,
    _maintenance,
    _nothing_live,
    _permissions,
    _database,
    _migrations,
    _memory_said,
    _files,
    _web_hung,
    _web_dead,
    _restarts,
    _workers,
    _fresh_release,
    _health,
    _failing,
    _configuration,
    _ledger,
    _slow,
    _backups,
)


def _quoted(facts: Facts, key: str) -> tuple[str, ...]:
    said = facts.said.get(key)
    if said is None or not said.count:
        return ()
    times = "once" if said.count == 1 else f"{said.count} times"
    return (f"in the logs {times}, last: {said.last.strip()[:WIDTH]}",)


def _size(size_bytes: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (_MIB, "MiB"), (1 << 10, "KiB")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:.1f} {name}"
    return f"{size_bytes} B"


def summary(facts: Facts, found: tuple[Cause, ...], *, archive: str = "") -> tuple[str, ...]:
    """One screen for a person: what visitors see, the likely cause, what to type, what else is not as it should be."""
    lines = [f"{facts.application} on {facts.host} at {facts.at}: {_visitors(facts)}"]
    if found:
        first = found[0]
        lines += ["", f"likely cause: {first.sentence}"]
        lines += [f"  seen:  {line}" for line in first.evidence[:4]]
        lines += [f"  type:  {first.command}", f"  then:  docs/runbooks/{first.runbook}"]
        if found[1:]:
            lines += ["", "also:"]
            lines += [f"  - {cause.sentence} `{cause.command}`" for cause in found[1:6]]
            if found[6:]:
                lines.append(f"  - and {len(found) - 6} more, in the archive")
    else:
        lines += ["", "no known cause was found; the logs are in the archive"]
    tail = [""]
    warm = f"; warm: {facts.warm}" if facts.warm else ""
    tail.append(f"live: {facts.live or 'nothing'} since {facts.live_since or 'unknown'}{warm}")
    if facts.unseen:
        tail.append(f"not looked at: {'; '.join(facts.unseen)}")
    if archive:
        tail.append(f"for the ticket: {archive}")
    room = LINES - len(tail)
    return tuple(line[:WIDTH] for line in [*lines[:room], *tail])


def _visitors(facts: Facts) -> str:
    if facts.served:
        return f"visitors are served ({facts.front_door.seconds * 1000:.0f} ms)"
    if facts.maintenance:
        return "visitors get 503 and the maintenance page"
    if facts.front_door.status is not None:
        return f"the front door answers {facts.front_door.status}"
    return f"visitors get no answer: {facts.front_door.problem or 'nobody asked'}"
