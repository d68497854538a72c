"""The application's file: one description of one application, validated as a whole, defaults computed here only.

The dataclasses are the schema, as `_schema.py` reads it; what no single field can know is in `_RULES`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from ._alert_settings import AlertPolicy, Objectives, problems_of_tickets
from ._backup_settings import BackupPolicy
from ._errors import InputError
from ._job_settings import Schedules
from ._job_settings import problems as problems_of_jobs
from ._schema import (
    BAD,
    At,
    address,
    build,
    commands,
    domain,
    each,
    factor,
    flag,
    fraction,
    host_name,
    inner_path,
    keys_of,
    location,
    named,
    one_of,
    optional,
    plain,
    relative_path,
    seconds,
    section,
    served_directory,
    shown,
    texts,
    whole,
    words,
)

FORMAT = 1

# execve(2) takes no longer string; the rest of the page is for the name.
LONGEST_VALUE_BYTES = 131_072 - 256

# What every process of every application is given; the values come with each release.
PROVIDED = frozenset(
    f"BACKSTAY_{name}"
    for name in (
        "APPLICATION",
        "RELEASE_ID",
        "VERSION",
        "COMMIT",
        "DATA_DIR",
        "STATIC_DIR",
        "LOG_DIR",
        "LOG_LEVEL",
        "PROCESS",
        "ISOLATED",
    )
)

# Users and directories (/run, /var/log, /var/lib/backstay) that a Debian host or Backstay itself already means.
_RESERVED = re.compile(
    "adm|apt|audit|backstay|backup|bin|credentials|cron|daemon|dbus|disk|games|initctl|irc|journal|list|lock|log|lp|mail|"
    "man|messagebus|mount|news|nginx|nobody|openvpn|postgres|postgresql|private|proxy|redis|replaced|root|sshd|sudo|sync|"
    "sys|syslog|systemd.*|tty|udev|user|users|utmp|uucp|www-data"
)

_MIB = 1 << 20
_LEAST_MEMORY_BYTES = 32 * _MIB
_STOP_MARGIN_SECONDS = 10.0

Through = Literal["candidate", "front_door"]


_NAME_OF_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _environment_key(value: Any, at: At) -> Any:
    if not isinstance(value, str) or not _NAME_OF_KEY.fullmatch(value):
        return at.refuse(value, "a name of letters, digits and underscores, such as SECRET_KEY")
    return str(value)


def _environment_values(value: Any, at: At) -> Any:
    """Texts by key. What is refused is not shown: somebody may have put a secret there."""
    if not isinstance(value, Mapping):
        return at.refuse(value, "a mapping of names to texts")
    good = True
    for key, text in value.items():
        here = at.below(str(key))
        if _environment_key(key, here) is BAD:
            good = False
        elif key.startswith("BACKSTAY_"):
            here.say(f"`{here.key}` in {at.file} would replace what Backstay provides: choose another name.")
            good = False
        elif not isinstance(text, str):
            here.say(f"`{here.key}` in {at.file} is not text: write its value in quotes.")
            good = False
        elif not carried(text):
            here.say(
                f"`{here.key}` in {at.file} holds a byte zero or a broken letter, or is longer than 128 KB: mend it."
            )
            good = False
    return {str(key): str(text) for key, text in value.items()} if good else BAD


# What systemd takes for broken UTF-8 (surrogates and the noncharacters), and the end of a C string.
_UNREADABLE = re.compile(
    "[\0\ud800-\udfff\ufdd0-\ufdef"
    + "".join(f"{chr(end - 1)}{chr(end)}" for end in range(0xFFFF, 0x110000, 0x10000))
    + "]"
)


def carried(text: str) -> bool:
    """Whether systemd hands such a value on: it refuses what it takes for broken UTF-8, and no string may be longer."""
    return not _UNREADABLE.search(text) and len(text.encode()) <= LONGEST_VALUE_BYTES


def _processes(value: Any, at: At) -> Any:
    if not isinstance(value, Mapping):
        return at.refuse(value, "a mapping of process names, with at least `web`")
    found: dict[str, Any] = {}
    for name, given in value.items():
        here = at.below(str(name))
        if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,29}", name):
            here.say(f"The process {shown(name)} in {at.file} has no good name: use lower-case letters and digits.")
            found[str(name)] = BAD
            continue
        kind = "web" if name == "web" else "worker"
        found[name] = _process(name, kind, given, here)
    return BAD if BAD in found.values() else found


def _process(name: str, kind: str, given: Any, at: At) -> Any:
    if not isinstance(given, Mapping):
        return at.refuse(given, "a mapping of its settings, which may be {}")
    foreign = [key for key in (_WORKER_ONLY if kind == "web" else _WEB_ONLY) if key in given]
    for key in foreign:
        if kind == "web":
            reason = "the runtime starts the web process" if key == "command" else "two releases overlap in it"
            at.say(f"`{at.key}.{key}` in {at.file} is not for the web process, for {reason}: remove it.")
        else:
            at.say(f"`{at.key}.{key}` in {at.file} is for the web process only: remove it.")
    if foreign:
        return BAD
    settings = dict(given)
    if kind == "web":
        graceful = settings.get("graceful_seconds", Process.graceful_seconds)
        if isinstance(graceful, (int, float)) and not isinstance(graceful, bool):
            settings.setdefault("stop_seconds", min(float(graceful) + _STOP_MARGIN_SECONDS, 3600.0))
        settings.setdefault("memory_max_bytes", 400 * _MIB)
    elif "command" not in given:
        return at.say(f"`{at.key}` in {at.file} has no `command`: write a list, such as [python, manage.py, work].")
    return build(Process, settings, at, name=name, kind=kind)


_WEB_ONLY = ("workers", "threads", "timeout_seconds", "graceful_seconds")
_WORKER_ONLY = ("command", "singleton")


# --- the schema


@dataclass(frozen=True)
class Source:
    """Where builds come from. `path` is a directory inside the repository; `tag` holds `{version}`."""

    repository: Annotated[str, texts(r"[^\s-].*", "a git URL or a path")]
    path: Annotated[str, relative_path] = "."
    tag: Annotated[str, texts(r"[^\s{}]*\{version\}[^\s{}]*", "a tag's name with {version} in it")] = "v{version}"


@dataclass(frozen=True)
class RuntimeSettings:
    """What the runtime must know; paths are relative to the source's directory."""

    settings: Annotated[str, texts(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", "a Python module, such as portal.settings")]
    wsgi: Annotated[
        str,
        texts(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", "module:object, such as portal.wsgi:application"),
    ]
    type: Annotated[str, one_of("django")] = "django"
    requirements: Annotated[str, relative_path] = "requirements.lock"
    checks_requirements: Annotated[str | None, optional(relative_path)] = None
    checks: Annotated[tuple[tuple[str, ...], ...], each(words, of="command")] = ()
    changelog: Annotated[str | None, optional(relative_path)] = None


@dataclass(frozen=True)
class Process:
    """One process of the application. The web process is the one named `web`; all others are workers.

    `workers`, `threads`, `timeout_seconds` and `graceful_seconds` are the web process's; `command` and `singleton` a
    worker's. `stop_seconds` is what it gets before it is killed.
    """

    name: str
    kind: Literal["web", "worker"]
    command: Annotated[tuple[str, ...], words] = ()
    workers: Annotated[int, whole(1, 64)] = 2
    threads: Annotated[int, whole(1, 256)] = 4
    timeout_seconds: Annotated[float, seconds(1, 3600)] = 30.0
    graceful_seconds: Annotated[float, seconds(1, 3600)] = 30.0
    stop_seconds: Annotated[float, seconds(1, 3600)] = 30.0
    memory_max_bytes: Annotated[int, whole(_LEAST_MEMORY_BYTES, 1 << 50)] = 200 * _MIB
    singleton: Annotated[bool, flag] = False

    @property
    def left_out(self) -> tuple[str, ...]:
        return _WORKER_ONLY if self.kind == "web" else _WEB_ONLY


@dataclass(frozen=True)
class Database:
    """SQLite at `path` below the data directory, or PostgreSQL at the URL in the environment's `url_key`."""

    name: Annotated[str, texts(r"[a-z][a-z0-9_]{0,29}", "a name of lower-case letters, digits and underscores")]
    engine: Annotated[Literal["sqlite", "postgresql"], one_of("sqlite", "postgresql")]
    path: Annotated[str | None, optional(inner_path)] = None
    url_key: Annotated[str | None, optional(_environment_key)] = None


@dataclass(frozen=True)
class EnvironmentSettings:
    """The application's environment. The values of `secret` keys come from Vault, never from the file.

    `isolated` are values that take the place of others, secrets too, where a host holds a copy of another environment's
    data (see docs/backups.md): whatever lets mail and other messages out. `example` is the path of an
    `.env.example` whose every key must be known here; relative to the application's file.
    """

    values: Annotated[Mapping[str, str], _environment_values] = field(default_factory=dict)
    isolated: Annotated[Mapping[str, str], _environment_values] = field(default_factory=dict)
    required: Annotated[tuple[str, ...], each(_environment_key, of="key", unique=True)] = ()
    secret: Annotated[tuple[str, ...], each(_environment_key, of="key", unique=True)] = ()
    example: Annotated[str | None, optional(texts(r".+", "the path of an .env.example"))] = None


@dataclass(frozen=True)
class Health:
    """What counts as well: `consecutive` good answers within the deadline, each within the latency."""

    path: Annotated[str, location] = "/healthz/"
    status: Annotated[int, whole(100, 599)] = 200
    consecutive: Annotated[int, whole(1, 100)] = 3
    interval_seconds: Annotated[float, seconds(0.05, 60)] = 0.2
    deadline_seconds: Annotated[float, seconds(1, 3600)] = 60.0
    latency_seconds: Annotated[float, seconds(0.05, 600)] = 2.0


@dataclass(frozen=True)
class Smoke:
    """One read-only request. `auto:static` and `auto:media` stand for a file that the release really has."""

    name: Annotated[str, texts(r".{1,60}", "a name of at most 60 letters")]
    path: Annotated[str, texts(r"(/[!-~]*|auto:(static|media))", "a path from / on, auto:static or auto:media")]
    status: Annotated[int, whole(100, 599)] = 200
    contains: Annotated[str | None, optional(texts(r".+", "text that the answer must hold"))] = None
    through: Annotated[tuple[Through, ...], each(one_of("candidate", "front_door"), least=1, of="way", unique=True)] = (
        "candidate",
        "front_door",
    )

    @staticmethod
    def completed(values: dict[str, Any]) -> dict[str, Any]:
        """nginx alone serves the files that `auto:` stands for."""
        return {"through": ("front_door",), **values} if values["path"].startswith("auto:") else values


@dataclass(frozen=True)
class Watch:
    """How long a new release is watched before it is confirmed, and what counts as worse than the one before.

    It is bad when its share of 5xx answers is `error_ratio` above the other's, when its 95th percentile is both
    `slower_factor` times and `slower_seconds` above it, or when it restarts or writes new errors; `least_requests` are
    needed to judge, and every `probe_interval_seconds` one is made. Without enough of them `inconclusive` decides.
    """

    seconds: Annotated[float, seconds(0, 86400)] = 300.0
    least_requests: Annotated[int, whole(1, 1_000_000)] = 50
    error_ratio: Annotated[float, fraction] = 0.05
    slower_factor: Annotated[float, factor] = 2.0
    slower_seconds: Annotated[float, seconds(0, 600)] = 0.5
    probe_interval_seconds: Annotated[float, seconds(0.05, 3600)] = 0.5
    inconclusive: Annotated[Literal["keep", "revert"], one_of("keep", "revert")] = "keep"


@dataclass(frozen=True)
class MigrationPolicy:
    """How long migrations may wait for a lock, one statement and all of them may take, and how long rewriting a whole
    table (SQLite) may take beside a live release; longer asks for maintenance."""

    lock_seconds: Annotated[float, seconds(0.1, 3600)] = 5.0
    statement_seconds: Annotated[float, seconds(1, 86400)] = 300.0
    seconds: Annotated[float, seconds(1, 86400)] = 1800.0
    rebuild_seconds: Annotated[float, seconds(0, 3600)] = 3.0  # visitors wait five seconds, at most


@dataclass(frozen=True)
class Backfill:
    """A command that changes old rows a batch at a time, after the release: it ends with exit code 0 when nothing is
    left and 75 (EX_TEMPFAIL) when it did a batch and wants to be called again."""

    command: Annotated[tuple[str, ...], words]
    pause_seconds: Annotated[float, seconds(0, 3600)] = 0.2


@dataclass(frozen=True)
class Hooks:
    """The application's own commands around the phases of a release; one that fails before `confirm` undoes it."""

    before_prepare: Annotated[tuple[tuple[str, ...], ...], commands] = ()
    after_prepare: Annotated[tuple[tuple[str, ...], ...], commands] = ()
    before_close: Annotated[tuple[tuple[str, ...], ...], commands] = ()
    after_close: Annotated[tuple[tuple[str, ...], ...], commands] = ()
    before_flip: Annotated[tuple[tuple[str, ...], ...], commands] = ()
    after_flip: Annotated[tuple[tuple[str, ...], ...], commands] = ()
    before_watch: Annotated[tuple[tuple[str, ...], ...], commands] = ()
    after_watch: Annotated[tuple[tuple[str, ...], ...], commands] = ()
    before_confirm: Annotated[tuple[tuple[str, ...], ...], commands] = ()
    after_confirm: Annotated[tuple[tuple[str, ...], ...], commands] = ()
    on_failure: Annotated[tuple[tuple[str, ...], ...], commands] = ()
    on_review: Annotated[tuple[tuple[str, ...], ...], commands] = ()


@dataclass(frozen=True)
class ReleasePolicy:
    """How releases are made and kept; what must stay free on the host beside a new one. With `promoted_from`, only a
    payload that was proven live in that stage may be released here."""

    keep: Annotated[int, whole(2, 100)] = 5
    keep_restore_points: Annotated[int, whole(1, 100)] = 3
    promoted_from: Annotated[str | None, optional(texts(r"[a-z][a-z0-9-]{0,29}", "a stage, such as staging"))] = None
    watch: Annotated[Watch, section(Watch)] = field(default_factory=Watch)
    migrations: Annotated[MigrationPolicy, section(MigrationPolicy)] = field(default_factory=MigrationPolicy)
    drain_seconds: Annotated[float, seconds(0, 3600)] = 30.0
    confirm_seconds: Annotated[float, seconds(5, 86400)] = 300.0
    free_bytes: Annotated[int, whole(0, 1 << 50)] = 200 * _MIB
    free_inodes: Annotated[int, whole(0, 1 << 40)] = 10_000
    free_memory_bytes: Annotated[int, whole(0, 1 << 50)] = 64 * _MIB


@dataclass(frozen=True)
class Application:
    """One application, complete and valid: what `parse` returns is what every other part of the library relies on."""

    name: Annotated[
        str,
        texts(r"[a-z][a-z0-9-]{0,29}", "at most 30 lower-case letters, digits and hyphens, such as audit-portal"),
    ]
    domain: Annotated[str, domain]
    source: Annotated[Source, section(Source)]
    runtime: Annotated[RuntimeSettings, section(RuntimeSettings)]
    processes: Annotated[Mapping[str, Process], _processes]
    aliases: Annotated[tuple[str, ...], each(host_name, of="name", unique=True)] = ()
    network: Annotated[bool, flag] = True
    databases: Annotated[tuple[Database, ...], each(section(Database), of="database")] = ()
    media: Annotated[str | None, optional(served_directory)] = None
    environment: Annotated[EnvironmentSettings, section(EnvironmentSettings)] = field(
        default_factory=EnvironmentSettings
    )
    health: Annotated[Health, section(Health)] = field(default_factory=Health)
    smoke: Annotated[tuple[Smoke, ...], each(section(Smoke), of="request")] = ()
    internal_addresses: Annotated[tuple[str, ...], each(address, of="address", unique=True)] = ("127.0.0.1", "::1")
    uploads_max_bytes: Annotated[int, whole(1024, 1 << 40)] = 50 * _MIB
    log_level: Annotated[str, one_of("debug", "info", "warning", "error", "critical")] = "info"
    stage: Annotated[str, texts(r"[a-z][a-z0-9-]{0,29}", "the name of a stage, such as staging")] = "production"
    releases: Annotated[ReleasePolicy, section(ReleasePolicy)] = field(default_factory=ReleasePolicy)
    hooks: Annotated[Hooks, section(Hooks)] = field(default_factory=Hooks)
    backfills: Annotated[Mapping[str, Backfill], named(Backfill, of="commands")] = field(default_factory=dict)
    backup: Annotated[BackupPolicy | None, optional(section(BackupPolicy))] = None
    schedules: Annotated[Schedules, section(Schedules)] = field(default_factory=Schedules)
    objectives: Annotated[Objectives, section(Objectives)] = field(default_factory=Objectives)
    alerts: Annotated[AlertPolicy | None, optional(section(AlertPolicy))] = None
    format: Annotated[int, whole(1, FORMAT)] = FORMAT

    @property
    def web(self) -> Process:
        return self.processes["web"]


# --- rules that no single key can know; each yields the end of a sentence that names key and remedy

Rule = Callable[[Application], Iterator[tuple[str, str]]]


def _name_is_free(application: Application) -> Iterator[tuple[str, str]]:
    if _RESERVED.fullmatch(application.name):
        yield "name", f"is {application.name!r}, which means something else on a Debian host: choose another"
    if application.name.endswith("-"):
        yield "name", f"is {application.name!r}: end it with a letter or digit"


def _aliases_differ(application: Application) -> Iterator[tuple[str, str]]:
    if application.domain in application.aliases:
        yield "aliases", f"repeats the domain {application.domain}: remove it from the aliases"


def _processes_can_stop(application: Application) -> Iterator[tuple[str, str]]:
    web = application.processes.get("web")
    if web is None:
        yield "processes", "has no `web`: add it; {} is enough"
    elif web.stop_seconds <= web.graceful_seconds:
        sentence = f"is {web.stop_seconds:g} and graceful_seconds {web.graceful_seconds:g}, which would kill requests"
        yield "processes.web.stop_seconds", f"{sentence}: make it larger, or remove it"


def _databases_are_apart(application: Application) -> Iterator[tuple[str, str]]:
    known = (*application.environment.values, *application.environment.secret)
    for number, database in enumerate(application.databases):
        key, earlier = f"databases[{number}]", application.databases[:number]
        if database.name in (other.name for other in earlier):
            yield f"{key}.name", f"is {database.name!r} for the second time: name each database once"
        wanted, unwanted = ("path", "url_key") if database.engine == "sqlite" else ("url_key", "path")
        if getattr(database, wanted) is None:
            yield key, f"has engine {database.engine} and no `{wanted}`: add it"
        if getattr(database, unwanted) is not None:
            yield f"{key}.{unwanted}", f"is not for engine {database.engine}: remove it"
        if database.path is not None:
            if database.path in (other.path for other in earlier):
                yield f"{key}.path", f"is {database.path!r} for the second time: give each database its own file"
            yield from _media_apart(application.media, database.path, f"{key}.path")
        if database.url_key is not None and database.url_key not in known:
            missing = f"is {database.url_key!r}, which is in neither environment.values nor environment.secret"
            yield f"{key}.url_key", f"{missing}: add it to environment.secret"


def _media_apart(media: str | None, path: str, key: str) -> Iterator[tuple[str, str]]:
    if media is None:
        return
    published, database = PurePosixPath(media), PurePosixPath(path)
    private = database.parent
    if database.is_relative_to(published):
        yield key, f"is {path!r}, inside the media that nginx gives to everybody: move it, for example to db/"
    elif private != PurePosixPath() and published.is_relative_to(private):
        yield key, f"is {path!r}, and its directory holds the media, which nginx must reach: move one of them"


def _environment_is_clear(application: Application) -> Iterator[tuple[str, str]]:
    environment = application.environment
    for key in environment.secret:
        if key.startswith("BACKSTAY_"):
            yield "environment.secret", f"names {key}, which Backstay provides: remove it"
        if key in environment.values:
            yield (
                f"environment.values.{key}",
                "is also named in environment.secret: remove the value from this file and put it into Vault",
            )
    for key in environment.required:
        if key in environment.secret or key in PROVIDED:
            continue
        if key not in environment.values:
            yield (
                "environment.required",
                f"names {key}, which is in neither environment.values nor environment.secret: add it to one of them",
            )
        elif not environment.values[key].strip():
            yield f"environment.values.{key}", "is empty and required: give it a value"


def _health_can_pass(application: Application) -> Iterator[tuple[str, str]]:
    health = application.health
    least = (health.consecutive - 1) * health.interval_seconds
    if health.deadline_seconds <= least:
        yield (
            "health.deadline_seconds",
            f"is {health.deadline_seconds:g} and {health.consecutive} answers take {least:g} s: make it larger",
        )


def _smoke_is_possible(application: Application) -> Iterator[tuple[str, str]]:
    for number, smoke in enumerate(application.smoke):
        key = f"smoke[{number}]"
        if smoke.name in (other.name for other in application.smoke[:number]):
            yield f"{key}.name", f"is {smoke.name!r} for the second time: name each request once"
        if smoke.path.startswith("auto:") and "candidate" in smoke.through:
            yield f"{key}.through", f"holds candidate, and {smoke.path} is served by nginx alone: write [front_door]"
        if smoke.path == "auto:media" and application.media is None:
            yield f"{key}.path", "is auto:media, and the application has no media: set `media`, or remove this request"


def _promotion_leads_somewhere(application: Application) -> Iterator[tuple[str, str]]:
    if application.releases.promoted_from == application.stage:
        yield "releases.promoted_from", f"is {application.stage}, which is this very stage: name the one before it"


def _backup_is_possible(application: Application) -> Iterator[tuple[str, str]]:
    backup = application.backup
    if backup is None:
        return
    known = {database.name for database in application.databases}
    for key in ("canaries", "files", "newest"):
        for number, question in enumerate(getattr(backup, key)):
            if question.database not in known:
                sentence = f"is {question.database!r}, which is none of `databases`: name one of them"
                yield f"backup.{key}[{number}].database", sentence
    if backup.files and application.media is None:
        yield "backup.files", "asks for uploaded files, and the application has no `media`: set it, or remove this"
    expiring = {name: each.kind for name, each in backup.repositories.items() if each.expire_uploads_days is not None}
    for name, kind in expiring.items():
        if kind != "s3":
            sentence = "is for buckets, and nothing expires by itself here: remove it"
            yield f"backup.repositories.{name}.expire_uploads_days", sentence
    if len(expiring) == len(backup.repositories):
        # A bucket that removes old objects takes pieces out of younger restore points, which share them.
        yield (
            "backup.repositories",
            "all have expire_uploads_days, so no restore point stays whole: keep one without it",
        )
    places = [repository.location.rstrip("/") for repository in backup.repositories.values()]
    for number, name in enumerate(backup.repositories):
        if places[number] in places[:number]:
            yield f"backup.repositories.{name}.location", "is that of another repository: a second copy lies elsewhere"


def _alerts_reach_somebody(application: Application) -> Iterator[tuple[str, str]]:
    alerts, objectives = application.alerts, application.objectives
    if alerts is not None and not alerts.mail and not alerts.chat:
        yield "alerts", "names nobody: add `mail` with an address, or `chat` with the name of a key in Vault"
    if alerts is not None:
        yield from problems_of_tickets(alerts)
    if objectives.server_error_ratio < objectives.error_ratio:
        sentence = f"is {objectives.server_error_ratio:g}, below error_ratio ({objectives.error_ratio:g}), which warns"
        yield "objectives.server_error_ratio", f"{sentence}: make it larger"


def _jobs_are_possible(application: Application) -> Iterator[tuple[str, str]]:
    yield from problems_of_jobs(application.schedules, application.backup)


_RULES: tuple[Rule, ...] = (
    _name_is_free,
    _aliases_differ,
    _processes_can_stop,
    _databases_are_apart,
    _environment_is_clear,
    _health_can_pass,
    _smoke_is_possible,
    _promotion_leads_somewhere,
    _backup_is_possible,
    _jobs_are_possible,
    _alerts_reach_somebody,
)


# --- what others call


def parse(data: Mapping[str, Any], *, file: str) -> Application:
    """Validate a whole application's file and fill in the defaults.

    `file` is named in every sentence. Raises InputError: its message is the first problem, its lines are all of them.
    """
    problems: list[str] = []
    at = At(file, "", problems)
    if not isinstance(data, Mapping):
        raise InputError(f"{file} holds {shown(data)} and no mapping: describe one application in it, by keys.")
    found_format = data.get("format")
    if isinstance(found_format, int) and not isinstance(found_format, bool) and found_format > FORMAT:
        raise InputError(
            f"{file} has format {found_format} and this backstay knows {FORMAT}: use the newer backstay that wrote it."
        )
    if "format" not in data:
        at.say(f"`format` is missing in {file}: add `format: {FORMAT}`.")
    application = build(Application, data, at)
    if isinstance(application, Application):
        for rule in _RULES:
            problems.extend(f"`{key}` in {file} {sentence}." for key, sentence in rule(application))
    if problems or not isinstance(application, Application):
        more = f" ({len(problems) - 1} more in this file.)" if len(problems) > 1 else ""
        raise InputError(problems[0] + more, lines=tuple(problems))
    return application


def to_dict(application: Application) -> dict[str, Any]:
    """The application as JSON, in the shape of its file, with every default written out."""
    return {name: plain(getattr(application, name)) for name in keys_of(Application)}


def from_dict(data: Mapping[str, Any], *, file: str) -> Application:
    """What `to_dict` wrote. Raises InputError as `parse` does, also for a format that is newer than this library."""
    return parse(data, file=file)


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `override`: mappings are merged, everything else, lists too, is replaced."""
    merged = dict(base)
    for key, value in override.items():
        before = merged.get(key)
        merged[key] = merge(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return merged
