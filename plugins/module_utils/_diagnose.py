"""`backstay diagnose`: one archive for a ticket, and one screen that says what the likely cause is.

The archive is root's alone, of bounded size, there whole or not at all, and has no secret in it: every text passes one
door, `Bundle.add`, which takes secrets out before it cuts anything to size. On a full disk it goes to /run, in memory.
"""

from __future__ import annotations

import datetime as dt
import gzip
import io
import json
import re
import socket
import tarfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._causes import Cause, Facts, causes, summary
from ._diagnose_facts import Looker, Window, tail
from ._errors import BackstayError, InputError
from ._layout import Layout
from ._scrub import Scrubber, values_of
from ._storage import Storage
from ._version import PROTOCOL, VERSION

if TYPE_CHECKING:
    from ._engine import Engine

FORMAT = 1
MINUTES = 30.0
FILE_BYTES = 1 << 20
ALL_BYTES = 24 << 20
READ_BYTES = 1 << 20
KEEP = 5
_SECRET_KEY = re.compile(r"PASS|SECRET|TOKEN|KEY|CREDENTIAL|DSN|URL", re.IGNORECASE)
_PACKAGES = ("nginx", "openssl", "python3", "restic", "sqlite3", "systemd", "postgresql", "msmtp", "monit", "cron")


class Bundle:
    """Texts by name, without secrets and of bounded size."""

    def __init__(self, scrub: Scrubber, *, file_bytes: int = FILE_BYTES, all_bytes: int = ALL_BYTES) -> None:
        self._scrub = scrub
        self._file_bytes = file_bytes
        self._room = all_bytes
        self.files: dict[str, bytes] = {}
        self.left_out: list[str] = []

    def add(self, name: str, text: str) -> None:
        """Take a text in; of one that is too long, the last lines. Empty ones are left out."""
        clean = re.sub(r"[^A-Za-z0-9._@/-]", "_", self._scrub(name)).replace("..", "_").strip("/")
        content = self._scrub(text).encode("utf-8", "replace")
        if not content.strip():
            return
        if len(content) > self._file_bytes:
            content = b"(the beginning was left out)\n" + content[-self._file_bytes :].partition(b"\n")[2]
        if len(content) > self._room:
            self.left_out.append(clean)
            return
        self._room -= len(content)
        self.files[clean] = content

    def packed(self, folder: str, at: float) -> bytes:
        """The archive: a tar, compressed, its files root's alone."""
        if self.left_out:
            self.files["left-out.txt"] = "\n".join(["there was no room for:", *self.left_out, ""]).encode()
        raw = io.BytesIO()
        with (
            gzip.GzipFile(fileobj=raw, mode="wb", mtime=int(at)) as compressed,
            tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for name, content in sorted(self.files.items()):
                entry = tarfile.TarInfo(f"{folder}/{name}")
                entry.size, entry.mode, entry.mtime = len(content), 0o600, int(at)
                archive.addfile(entry, io.BytesIO(content))
        return raw.getvalue()


@dataclass(frozen=True)
class Diagnosis:
    """What came of it: the facts, the causes, the screen, and where the archive lies (mode 0600)."""

    facts: Facts
    causes: tuple[Cause, ...]
    lines: tuple[str, ...]
    archive: Path
    size_bytes: int
    files: tuple[str, ...]
    scrub: Scrubber

    def to_dict(self) -> dict[str, Any]:
        """For JSON, without secrets."""
        found: dict[str, Any] = self.scrub.value(
            {
                "format": FORMAT,
                "ok": True,
                "application": self.facts.application,
                "host": self.facts.host,
                "at": self.facts.at,
                "archive": str(self.archive),
                "size_bytes": self.size_bytes,
                "files": list(self.files),
                "summary": list(self.lines),
                "causes": [cause.to_dict() for cause in self.causes],
                "facts": self.facts.to_dict(),
            }
        )
        return found


def moment(text: str) -> dt.datetime:
    """A time that somebody typed, such as 2026-11-21T08:15 (UTC unless it says another zone). Raises InputError."""
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError as wrong:
        raise InputError(f"{text!r} is no time: write it as 2026-11-21T08:15:00Z (UTC).") from wrong
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)


def diagnose(
    engine: Engine,
    *,
    around: str = "",
    minutes: float = MINUTES,
    to: str = "",
    sleep: Callable[[float], None] = time.sleep,
) -> Diagnosis:
    """Look at one application, write the archive, and say what is likely the cause.

    `around` is when it happened (now, where it is empty), `minutes` how far around it the logs are read. `to` is the
    archive's file; without it, it lies in the application's state directory, beside at most four older ones. Raises
    InputError for a time that is none, BackstayError where the archive can be written nowhere.
    """
    if not 0 < minutes <= 7 * 24 * 60:
        raise InputError(f"{minutes:g} minutes are not possible: give up to 10080, which is a week.")
    now = dt.datetime.fromisoformat(engine.now())
    looker = Looker(engine, Window(moment(around) if around else now, minutes), sleep=sleep)
    facts = looker.look()
    found = causes(facts)
    scrub = Scrubber(secrets_of(engine.layout, engine.storage))
    bundle = Bundle(scrub)
    stamp = now.astimezone(dt.UTC).strftime("%Y%m%dT%H%M%SZ")
    name = f"{facts.application}-{_plain(facts.host)}-{stamp}"
    bundle.add("summary.txt", "\n".join(summary(facts, found)) + "\n")
    bundle.add("causes.json", json.dumps([cause.to_dict() for cause in found], indent=2))
    bundle.add("facts.json", json.dumps(scrub.value(facts.to_dict()), indent=2))
    for file, text in _texts(engine, looker, facts):
        bundle.add(file, text)
    content = bundle.packed(name, now.timestamp())
    archive = _write(engine, content, f"{name}.tar.gz", to)
    lines = tuple(scrub(line) for line in summary(facts, found, archive=str(archive)))
    return Diagnosis(facts, found, lines, archive, len(content), tuple(sorted(bundle.files)), scrub)


def _write(engine: Engine, content: bytes, name: str, to: str) -> Path:
    storage, layout = engine.storage, engine.layout
    if to:
        path = Path(to).absolute()
        if path.is_dir():
            path = path / name
        storage.write(path, content, mode=0o600)
        return path
    directory = layout.state / "diagnoses"
    try:
        storage.make_directory(directory, mode=0o700)
        for old in sorted(directory.glob("*.tar.gz"))[: -(KEEP - 1)]:
            storage.remove(old)
        storage.write(directory / name, content, mode=0o600)
        return directory / name
    except BackstayError:
        # A full or read-only disk is what is most often diagnosed.
        directory = layout.root / "run" / "backstay" / "diagnoses"
        storage.make_directory(directory, mode=0o700)
        for old in directory.glob(f"{layout.name}-*.tar.gz"):
            storage.remove(old)
        storage.write(directory / name, content, mode=0o600)
        return directory / name


def secrets_of(layout: Layout, storage: Storage) -> tuple[str, ...]:
    """Every secret that this host knows of an application: those declared, those of releases that are kept, and what
    opens its repositories. A file that cannot be read here cannot be read into the archive either."""
    from ._environment import parse

    known: list[str] = []
    for path in (layout.secrets_file, layout.backup_secrets):
        known += values_of(_json(storage, path))
    declared = _json(storage, layout.application_file)
    keys = set(((declared or {}).get("environment") or {}).get("secret") or ())
    for path in sorted(layout.configuration.glob("releases/*/environment")):
        own = _json(storage, path.with_name("application.json"))
        secret = keys | set(((own or {}).get("environment") or {}).get("secret") or ())
        try:
            values = parse((storage.read(path) or b"").decode("utf-8", "replace"), file=str(path))
        except (BackstayError, OSError):
            continue
        known += [value for key, value in values.items() if key in secret or _SECRET_KEY.search(key)]
    for path in (layout.backup_key, layout.root / "etc" / "backstay-tls" / layout.name / "bundle.pem"):
        known += _key_lines(storage, path)
    return tuple(known)


def _json(storage: Storage, path: Path) -> Any:
    try:
        return json.loads(storage.read(path) or b"null")
    except (ValueError, OSError):
        return None


def _key_lines(storage: Storage, path: Path) -> tuple[str, ...]:
    """The lines of a private key: one alone must not get out either."""
    try:
        text = (storage.read(path) or b"").decode("ascii", "replace")
    except OSError:
        return ()
    blocks = re.findall(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(.*?)-----END", text, re.DOTALL)
    return tuple(line.strip() for block in blocks for line in block.splitlines() if len(line.strip()) >= 16)


def _texts(engine: Engine, looker: Looker, facts: Facts) -> Iterable[tuple[str, str]]:
    """Name and text of everything that goes in, the most telling first: where room is short, the rest is left out."""
    layout = engine.layout
    yield "health.json", looker.health_body
    yield "status.json", _tried(lambda: _status(engine))
    yield "journal/application.log", looker.journal
    yield "nginx/errors-around.log", looker.nginx_log
    yield "ledger.jsonl", tail(layout.ledger, READ_BYTES)
    yield "transaction/open.jsonl", tail(layout.journal, READ_BYTES)
    for path in _newest(layout.old_journals, "*.jsonl", 3):
        yield f"transaction/{path.name}", tail(path, READ_BYTES)
    yield "backups.jsonl", tail(layout.backups, READ_BYTES)
    for name in ("freeze.json", "lock", "data.lock"):
        yield f"state/{name}", tail(layout.state / name, READ_BYTES)
    for path in _newest(layout.state / "jobs", "*.jsonl", 20):
        yield f"jobs/{path.name}", tail(path, READ_BYTES // 4)
    house = layout.state.parent / ".host"
    for path in [*_newest(house, "*.json", 10), *_newest(house, "*.jsonl", 10)]:
        yield f"host/{path.name}", tail(path, READ_BYTES // 2)
    yield from _configuration(layout, facts, engine.storage)
    units = [f"{layout.name}-{facts.live}-*.service"] if facts.live else []
    units += [layout.transaction_unit, layout.transaction_socket_unit, layout.recover_unit, "nginx.service"]
    units += [f"backstay-*@{layout.name}.*"]
    for file, command in (
        ("units/status.txt", ["systemctl", "status", "--no-pager", "--full", "--lines=20", *units]),
        ("units/show.txt", ["systemctl", "show", "--no-pager", *units]),
        ("units/text.txt", ["systemctl", "cat", "--no-pager", *units]),
        ("units/failed.txt", ["systemctl", "list-units", "--failed", "--all", "--no-pager", "--plain"]),
        ("units/timers.txt", ["systemctl", "list-timers", "--all", "--no-pager"]),
        ("machine/disks.txt", ["df", "-hT"]),
        ("machine/inodes.txt", ["df", "-i"]),
        ("machine/mounts.txt", ["findmnt", "--real"]),
        ("machine/memory.txt", ["free", "-m"]),
        ("machine/processes.txt", ["ps", "-eo", "pid,ppid,user,stat,etime,rss,pcpu,args", "--sort=-rss"]),
        ("machine/listening.txt", ["ss", "-lntxp"]),
        ("machine/kernel.txt", ["dmesg", "--ctime", "--level=emerg,alert,crit,err,warn"]),
        ("machine/time.txt", ["timedatectl"]),
        ("nginx/test.txt", ["nginx", "-t"]),
        ("versions/packages.txt", ["dpkg-query", "--show", *(f"{name}*" for name in _PACKAGES)]),
        ("versions/kernel.txt", ["uname", "-a"]),
        ("versions/nginx.txt", ["nginx", "-V"]),
    ):
        yield file, _output(engine, command)
    yield "versions/backstay.txt", f"backstay {VERSION} (protocol {PROTOCOL})\n"
    yield "versions/system.txt", tail(layout.root / "usr" / "lib" / "os-release", READ_BYTES)
    yield "journal/backstay.log", looker.journal_of(f"--unit=backstay-*@{layout.name}.*", lines=3000)
    yield "journal/warnings.log", looker.journal_of("--priority=warning", lines=2000)
    for path in _newest(layout.logs, "*.log", 8):
        yield f"application/{path.name}", tail(path, READ_BYTES)
    front = layout.root / "var" / "log" / "nginx"
    for name in (f"{layout.name}.error.log", "error.log", f"{layout.name}.access.log"):
        yield f"nginx/{name}", tail(front / name, READ_BYTES)


def _configuration(layout: Layout, facts: Facts, storage: Storage) -> Iterable[tuple[str, str]]:
    """What was declared and what the live release runs with; of the environment, the names of its keys."""
    yield "configuration/declared.json", tail(layout.application_file, READ_BYTES)
    if facts.live:
        yield (
            "configuration/live.json",
            tail(layout.release_configuration(facts.live) / "application.json", READ_BYTES),
        )
        text = tail(layout.environment_file(facts.live), READ_BYTES)
        keys = sorted(set(re.findall(r"^([A-Za-z_][A-Za-z0-9_]*)=", text, re.MULTILINE)))
        yield "configuration/environment-keys.txt", "".join(f"{key}\n" for key in keys)
    values = (_json(storage, layout.secrets_file) or {}).get("values") or {}
    yield "configuration/secret-keys.txt", "".join(f"{key}\n" for key in sorted(values))
    nginx = layout.root / "etc" / "nginx"
    yield "configuration/nginx.conf", tail(nginx / "nginx.conf", READ_BYTES)
    for folder in ("conf.d", "sites-enabled", "sites-available", "snippets"):
        for path in _newest(nginx / folder, "*", 20):
            yield f"configuration/nginx/{folder}/{path.name}", tail(path, READ_BYTES // 4)


def _status(engine: Engine) -> str:
    from ._status import facts as status_facts

    return json.dumps(status_facts(engine), indent=2)


def _output(engine: Engine, command: Sequence[str]) -> str:
    def ask() -> str:
        done = engine.runner(command, timeout_seconds=20.0, check=False)
        return f"$ {' '.join(command)}\n{done.stdout}{done.stderr}"

    return _tried(ask)


def _tried(ask: Callable[[], str]) -> str:
    """What it says, or why it says nothing: one thing that cannot be asked must not hide the rest."""
    try:
        return ask()
    except (BackstayError, OSError, ValueError, KeyError) as failed:
        return f"(not to be had: {failed.message if isinstance(failed, BackstayError) else failed})\n"


def _newest(directory: Path, pattern: str, count: int) -> list[Path]:
    """The files of a directory that changed last; links are none."""
    try:
        found = [path for path in directory.glob(pattern) if path.is_file() and not path.is_symlink()]
        return sorted(found, key=lambda path: path.lstat().st_mtime, reverse=True)[:count]
    except OSError:
        return []


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", name.partition(".")[0] or socket.gethostname())[:60]
