"""Looks at one application on its host until `_causes.Facts` are whole.

Nothing is changed, and nothing is waited for long: what cannot be looked at is said in `Facts.unseen`, and the rest is
looked at all the same.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import pwd
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _causes as causes
from ._errors import BackstayError
from ._host import Host, front_door, local_time
from ._releases import must_run, rollback_target

if TYPE_CHECKING:
    from ._application import Application

ASK_SECONDS = 4.0
MIGRATION_SECONDS = 25.0
REPOSITORY_SECONDS = 25.0
ENTRIES = 3000  # of uploaded files whose owner is looked at
LOG_BYTES = 2 << 20
_GROUP = "www-data"
_LOCKED_LOOKS = 5
_NGINX_STAMP = re.compile(r"^(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) ")


class Window:
    """From when to when the logs are read, in UTC."""

    def __init__(self, around: dt.datetime, minutes: float) -> None:
        self.since = around - dt.timedelta(minutes=minutes)
        self.until = around + dt.timedelta(minutes=minutes)

    def arguments(self) -> list[str]:
        """For journalctl."""
        return [f"--since={local_time(_stamp(self.since))}", f"--until={local_time(_stamp(self.until))}"]

    def holds(self, moment: dt.datetime) -> bool:
        return self.since <= moment <= self.until


class Looker:
    """Looks at one application. `journal` and `nginx_log` are what it read of the logs, for whoever keeps them."""

    def __init__(self, host: Host, window: Window, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.host = host
        self.layout = host.layout
        self.window = window
        self.sleep = sleep
        self.unseen: list[str] = []
        self.journal = ""
        self.nginx_log = ""
        self.health_body = ""

    def look(self) -> causes.Facts:
        """Everything, once."""
        live = self._try("the live release", self.host.live, None)
        application = self._try("the application's file", self.host.application, None)
        running = self._try("the live release's settings", lambda: self.host.application(live), None) if live else None
        serving = running or application
        self.read_logs(live)
        own, details = self._socket(serving)
        found: dict[str, Any] = {
            **self._releases(live),
            **self._configuration(application),
            "transaction_open": self.layout.journal.exists(),
            "transaction_running": self._running(),
            "transaction": self._transaction(),
            "maintenance": self.layout.maintenance_flag.exists(),
            "rebuilding": (self.host.storage.read(self.layout.rebuilding) or b"").decode().strip(),
            "front_door": self._door(serving),
            "socket": own,
            "health_failing": failing_checks(details),
            "units": self._units(live, running),
            "nginx_refuses": self._try("nginx -t", self._nginx, ""),
            "certificate": self._try("the certificate", lambda: self._certificate(serving), None),
            "disks": self._disks(),
            "databases": self._databases(serving),
            **self._try("ownership", lambda: self._permissions(serving), {}),
            **self._backups(application),
            **self._machine(),
            "said": said(f"{self.journal}\n{self.nginx_log}"),
            "traffic": self._try("the access log", self._traffic, causes.Traffic()),
        }
        if live and running and not any(each.missing or each.empty or each.holder for each in found["databases"]):
            found["migrations_pending"] = self._try("migrations", partial(self._pending, live, running), ())
        return causes.Facts(
            application=self.layout.name,
            host=socket.gethostname(),
            at=self.host.now(),
            live=live,
            unseen=tuple(self.unseen),
            **found,
        )

    def _try(self, what: str, ask: Callable[[], Any], instead: Any) -> Any:
        try:
            return ask()
        except (BackstayError, OSError, ValueError, KeyError, TypeError) as failed:
            reason = failed.message if isinstance(failed, BackstayError) else f"{type(failed).__name__}: {failed}"
            self.unseen.append(f"{what} ({reason[:200]})")
            return instead

    def _said_by(self, what: str, command: Sequence[str]) -> str:
        def ask() -> str:
            return self.host.runner(command, timeout_seconds=30.0, check=False).stdout

        return str(self._try(what, ask, ""))

    # logs

    def read_logs(self, live: str | None) -> None:
        """The journal of the application's units and nginx's errors, both around the event."""
        ids = [live] if live else []
        history = self._try("the ledger", self.host.history, None)
        if history is not None:
            ids = sorted({*list(history.releases)[-12:], *ids})
        units = [f"--unit={self.layout.name}-{release}-*.service" for release in ids]
        units += [
            f"--unit={self.layout.transaction_unit}",
            f"--unit={self.layout.recover_unit}",
            "--unit=nginx.service",
        ]
        self.journal = self.journal_of(*units, lines=6000)
        self.journal += self.journal_of("--dmesg", "--priority=warning", lines=500)
        logs = self.layout.root / "var" / "log" / "nginx"
        for name in ("error.log", f"{self.layout.name}.error.log"):
            lines = tail(logs / name, LOG_BYTES).splitlines()
            self.nginx_log += "".join(f"{line}\n" for line in lines if self._in_window(line))

    def journal_of(self, *which: str, lines: int) -> str:
        """Lines of the journal around the event."""
        asked = ["journalctl", "--no-pager", "--quiet", "--utc", "--output=short-iso", f"--lines={lines}"]
        return self._said_by("the journal", [*asked, *self.window.arguments(), *which])

    def _in_window(self, line: str) -> bool:
        found = _NGINX_STAMP.match(line)
        if found is None:
            return False
        return self.window.holds(dt.datetime.strptime(found[1], "%Y/%m/%d %H:%M:%S").astimezone(dt.UTC))

    # releases and configuration

    def _releases(self, live: str | None) -> dict[str, Any]:
        def ask() -> dict[str, Any]:
            verdict, sentence = self.host.ledger.verify()
            history = self.host.history()
            known = history.get(live) if live else None
            running = must_run(history, live)
            target = rollback_target(history, live)
            return {
                "ledger": verdict if verdict != "tampered" else f"{verdict}: {sentence}",
                "live_since": known.since if known else None,
                "warm": running.warm,
                "rollback_target": target.id if target else None,
            }

        try:
            return ask()
        except BackstayError as broken:
            return {"ledger": broken.message}

    def _configuration(self, application: Application | None) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if application is None:
            return {"configuration_problem": self.unseen[-1] if self.unseen else "it cannot be read"}
        found["configuration_changed"] = self._try("configuration drift", self.host.configuration_changed, False)
        secrets = self._try("the secrets", self.host.secrets, {})
        given = {**application.environment.values, **secrets}
        missing = [key for key in application.environment.required if not str(given.get(key, "")).strip()]
        from ._application import PROVIDED

        missing = [key for key in missing if key not in PROVIDED and not key.startswith("BACKSTAY_")]
        if missing:
            found["missing_keys"] = f"{', '.join(missing)}: declared as required, missing or empty on this host"
        return found

    def _transaction(self) -> str:
        content = self.host.storage.read(self.layout.journal)
        if not content:
            return ""
        from ._journal import parse

        def ask() -> str:
            records, _unused = parse(content, path=str(self.layout.journal))
            if not records:
                return "a transaction that has not begun its first step"
            first, last = records[0], records[-1]
            asked = first.data.get("request") or {}
            who = f" by {asked['by']}" if asked.get("by") else ""
            what = f"{first.data.get('operation') or 'operation'} of {first.data.get('candidate') or 'a release'}"
            return f"{what}{who} since {first.time}, at step {last.step}"

        return str(self._try("the transaction's journal", ask, "its journal cannot be read"))

    def _running(self) -> bool:
        unit = self.layout.transaction_unit
        states = self._try("the transaction's service", lambda: self.host.systemd.states([unit]), {})
        return states.get(unit) in ("active", "activating", "deactivating")

    # what answers

    def _door(self, application: Application | None) -> causes.Answer:
        if application is None:
            return causes.Answer(problem="the application's file cannot be read")
        return self._ask(front_door(application), application.health.path)[0]

    def _socket(self, application: Application | None) -> tuple[causes.Answer, str]:
        from ._http import Target

        if application is None or not os.path.lexists(self.layout.active):
            return causes.Answer(problem="nothing is live"), ""
        headers = {"X-Forwarded-Proto": "https", "X-Backstay-Internal": "yes"}
        target = Target.unix(self.layout.active, application.domain)
        answer, body = self._ask(target, application.health.path, headers)
        self.health_body = body
        return answer, body

    def _ask(self, target: Any, path: str, headers: Mapping[str, str] | None = None) -> tuple[causes.Answer, str]:
        from ._http import request

        began = time.monotonic()
        try:
            got = request(target, path, timeout_seconds=ASK_SECONDS, headers=headers, body_bytes=1 << 16)
        except BackstayError as failed:
            took = time.monotonic() - began
            late = "within" in failed.message or "queue of" in failed.message
            return causes.Answer(problem=failed.message, seconds=took, late=late), ""
        answer = causes.Answer(status=got.status, seconds=got.seconds, release=got.release_id or "")
        return answer, got.body.decode(errors="replace")

    def _units(self, live: str | None, running: Application | None) -> tuple[causes.Unit, ...]:
        names = {"nginx.service": "nginx"}
        if live and running:
            names |= {self.layout.unit(live, process.name): process.name for process in running.processes.values()}
        names |= {self.layout.unit(live, "web"): "web"} if live else {}
        wanted = "Id,ActiveState,Result,NRestarts,MemoryCurrent,MemoryMax"
        shown = self._said_by("systemd", ["systemctl", "show", f"--property={wanted}", "--", *names])
        return tuple(units(shown, names))

    def _nginx(self) -> str:
        done = self.host.runner(["nginx", "-t", "-q"], timeout_seconds=20.0, check=False)
        if done.ok:
            return ""
        lines = [line for line in done.stderr.splitlines() if "[emerg]" in line or "[error]" in line]
        return (lines or list(done.last_lines(1)) or ["it says nothing"])[0]

    def _certificate(self, application: Application | None) -> causes.Certificate | None:
        from ._certificate import read
        from ._http import peer_certificate

        if application is None:
            return None
        file = self.layout.root / "etc" / "backstay-tls" / self.layout.name / "bundle.pem"
        try:
            der = peer_certificate(front_door(application), ASK_SECONDS)
        except BackstayError as refused:
            why = refused.message
            try:
                der = first_certificate(file.read_text(encoding="ascii", errors="replace"))
            except (OSError, ValueError) as unreadable:
                return causes.Certificate(problem=f"{file}: {unreadable}; {why}")
        shown = read(der)
        return causes.Certificate(
            not_before=shown.not_before.isoformat(),
            not_after=shown.not_after.isoformat(),
            names=shown.names,
            fits=shown.is_for(application.domain),
        )

    # what it stands on

    def _disks(self) -> tuple[causes.Disk, ...]:
        root, layout = self.layout.root, self.layout
        paths = [root, layout.home, layout.generations, layout.state, root / "var" / "log", layout.logs]
        paths += [root / "tmp", root / "run", root / "var" / "log" / "nginx", layout.data]
        data = self._try("the data directory", lambda: sorted(layout.data.iterdir()), [])
        found: dict[int, causes.Disk] = {}
        for path in [*paths, *(each for each in data if each.is_dir() and not each.is_symlink())]:
            try:
                device, disk = path.stat().st_dev, os.statvfs(path)
            except OSError:
                continue
            if device not in found:
                found[device] = causes.Disk(
                    path=str(path),
                    size_bytes=disk.f_blocks * disk.f_frsize,
                    free_bytes=disk.f_bavail * disk.f_frsize,
                    inodes=disk.f_files,
                    free_inodes=disk.f_favail,
                    read_only=bool(disk.f_flag & os.ST_RDONLY),
                )
        return tuple(found.values())

    def _machine(self) -> dict[str, Any]:
        def ask() -> dict[str, Any]:
            proc = self.layout.root / "proc"
            rows = (line.split() for line in (proc / "meminfo").read_text().splitlines())
            memory = {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) > 1}
            return {
                "memory_bytes": memory["MemTotal"],
                "free_memory_bytes": memory["MemAvailable"],
                "cores": os.cpu_count() or 1,
                "load": float((proc / "loadavg").read_text().split()[0]),
            }

        return dict(self._try("memory and load", ask, {}))

    def _databases(self, application: Application | None) -> tuple[causes.Database, ...]:
        if application is None:
            return ()
        found = []
        for database in application.databases:
            if database.engine != "sqlite" or not database.path:
                continue  # what a server says is told by the application's own health answer
            path = self.layout.data / database.path
            instead = causes.Database(database.name, str(path))
            found.append(
                self._try(f"the database {database.name}", partial(self._sqlite, database.name, path), instead)
            )
        return tuple(found)

    def _sqlite(self, name: str, path: Path) -> causes.Database:
        from ._sqlite_copy import Account
        from ._sqlite_live import ask

        try:
            seen = path.stat()
        except FileNotFoundError:
            return causes.Database(name, str(path), missing=True)
        if seen.st_size == 0:
            return causes.Database(name, str(path), empty=True)
        held = self._holder(path)
        if held is not None:
            return causes.Database(name, str(path), holder=held[0], holder_pid=held[1])
        told = ask(
            path,
            account=Account.of(self.layout.name),
            queries={"schema": "SELECT count(*) FROM sqlite_master"},
            seconds=ASK_SECONDS,
            runner=self.host.runner,
        )
        if "locked" in told.problem or told.problem == "late":
            return causes.Database(name, str(path), holder="a process that this host does not show")
        return causes.Database(name, str(path), wrong=f"{path}: {told.problem}" if told.problem else "")

    def _holder(self, path: Path) -> tuple[str, int] | None:
        """Who holds a lock that keeps others from writing, the same at each of some looks: a short write is none."""
        files = [path, path.with_name(f"{path.name}-shm")]
        known: set[int] | None = None
        for look in range(_LOCKED_LOOKS):
            if look:
                self.sleep(0.4)
            inodes = {file.stat().st_ino: file == path for file in files if file.exists()}
            table = (self.layout.root / "proc" / "locks").read_text()
            now = set(writers(table, inodes))
            known = now if known is None else known & now
            if not known:
                return None
        pid = min(known or ())
        try:
            words = (self.layout.root / "proc" / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ")
            what = words.decode(errors="replace").strip()[:80]
        except OSError:
            what = "unknown"
        return f"process {pid} ({what})", pid

    def _permissions(self, application: Application | None) -> dict[str, Any]:
        if application is None:
            return {}
        owner = pwd.getpwnam(self.layout.name).pw_uid
        data = Path(os.path.realpath(self.layout.data))
        wrong: list[str] = []
        for database in application.databases:
            if database.path:
                file = data / database.path
                wrong += [
                    f"{path} is {_mode(path.lstat())}, expected to be {self.layout.name}'s"
                    for path in (file.parent, file, file.with_name(f"{file.name}-wal"))
                    if path.exists() and path.lstat().st_uid != owner
                ]
        if wrong:
            return {"wrong_permissions": tuple(wrong[:20]), "wrong_owner": f"{self.layout.name}:{self.layout.name}"}
        if application.media:
            wrong += wrong_media(data / application.media, owner, self.layout.name)
        wanted = f"{self.layout.name}:{_GROUP}"
        return {"wrong_permissions": tuple(wrong[:20]), "wrong_owner": wanted if wrong else ""}

    def _pending(self, live: str, running: Application) -> tuple[str, ...]:
        from ._runtime import runtime_of
        from ._units import one_off

        runtime = runtime_of(running)
        done = self.host.runner(
            [
                "systemd-run",
                "--quiet",
                "--wait",
                "--pipe",
                "--collect",
                f"--unit={self.layout.unit(live, 'diagnose')}",
                *one_off(running, live, seconds=MIGRATION_SECONDS),
                *runtime.agent_command(self.layout.release(live), "state"),
            ],
            timeout_seconds=MIGRATION_SECONDS + 10,
            check=False,
        )
        if not done.ok:
            raise BackstayError((done.last_lines(1) or ("its process ended without a reason",))[0])
        return tuple(runtime.parse_agent(done.stdout).pending)

    # backups and visitors

    def _backups(self, application: Application | None) -> dict[str, Any]:
        if application is None or application.backup is None:
            return {}
        from ._backup_status import backup_facts
        from ._repository import repositories_of

        declared = application
        facts = self._try("restore points", lambda: backup_facts(self.layout, self.host.storage, declared), None) or {}
        unreachable: dict[str, str] = {}
        try:
            repositories = repositories_of(
                self.layout,
                application.backup.repositories,
                self.host.storage,
                runner=self.host.runner,
                seconds=REPOSITORY_SECONDS,
            )
        except BackstayError as closed:
            unreachable = dict.fromkeys(application.backup.repositories, closed.message)
            repositories = {}
        for name, repository in repositories.items():
            stored = (facts.get("repositories") or {}).get(name, {}).get("points", 0)
            try:
                if repository.identity() is None and stored:
                    unreachable[name] = f"there is none at its place any more, and {stored} restore points were in it"
            except (BackstayError, OSError) as refused:
                unreachable[name] = refused.message if isinstance(refused, BackstayError) else str(refused)
        return {"backup_problems": tuple(facts.get("problems", ())), "repositories_unreachable": unreachable}

    def _traffic(self) -> causes.Traffic:
        from ._access_log import Follower, access_log

        follower = Follower(access_log(self.layout.root, self.layout.name), tail_bytes=LOG_BYTES)
        try:
            hits = list(follower.past())
        finally:
            follower.close()
        since, until = self.window.since.timestamp(), self.window.until.timestamp()
        return traffic((hit.status, hit.seconds) for hit in hits if since <= hit.second <= until)


# pure parts


def traffic(hits: Iterable[tuple[int, float | None]]) -> causes.Traffic:
    """What (status, seconds) of the last 500 requests come to."""
    last = list(hits)[-500:]
    times = sorted(seconds for _unused, seconds in last if seconds is not None)
    slow = times[min(len(times) - 1, int(0.95 * len(times)))] if times else None
    return causes.Traffic(len(last), sum(status >= 500 for status, _unused in last), slow)


def said(text: str) -> dict[str, causes.Said]:
    """How often each of the known phrases stands in the logs."""
    found: dict[str, causes.Said] = {}
    for line in text.splitlines():
        low = line.lower()
        for key, phrases in causes.PHRASES.items():
            if any(phrase in low for phrase in phrases):
                before = found.get(key)
                found[key] = causes.Said(before.count + 1 if before else 1, line[:400])
    return found


def units(shown: str, names: Mapping[str, str]) -> Iterator[causes.Unit]:
    """From what `systemctl show` prints of several units."""
    for block in shown.split("\n\n"):
        row = dict(line.partition("=")[::2] for line in block.splitlines())
        if row.get("Id") in names:
            yield causes.Unit(
                name=row["Id"],
                process=names[row["Id"]],
                state=row.get("ActiveState", "unknown"),
                result=row.get("Result", "success"),
                restarts=int(row.get("NRestarts") or 0),
                memory_bytes=_number(row.get("MemoryCurrent", "")),
                memory_max_bytes=_number(row.get("MemoryMax", "")),
            )


def _number(text: str) -> int | None:
    """Bytes; None for `infinity`, `[not set]` and the largest number, which says the same."""
    return int(text) if text.isdigit() and int(text) < 1 << 60 else None


def failing_checks(body: str) -> tuple[str, ...]:
    """What an application's health answer (application/health+json) says is not well."""
    try:
        checks = json.loads(body)["checks"]
        rows = [(str(name), entry) for name, entries in checks.items() for entry in entries]
        return tuple(
            f"{name}: {entry.get('output') or entry.get('status')}"[:300]
            for name, entry in rows
            if str(entry.get("status", "pass")) not in ("pass", "ok", "up", "warn")
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return ()


def writers(table: str, inodes: Mapping[int, bool]) -> Iterator[int]:
    """The processes that keep others from writing an SQLite database, from the text of /proc/locks.

    `inodes` are those of the database (True) and of its -shm file (False). A writer of a database with a rollback
    journal holds byte 2**30 or those above it; of one with a write-ahead log, byte 120 of the -shm file.
    """
    for line in table.splitlines():
        fields = line.split()
        if len(fields) < 8 or fields[1] == "->" or fields[3] != "WRITE":
            continue
        inode = fields[5].rpartition(":")[2]
        if not inode.isdigit() or int(inode) not in inodes or int(fields[4]) <= 0:
            continue
        first, last = int(fields[6]), 1 << 62 if fields[7] == "EOF" else int(fields[7])
        if (inodes[int(inode)] and last >= 1 << 30) or (not inodes[int(inode)] and first <= 120 <= last):
            yield int(fields[4])


def first_certificate(text: str) -> bytes:
    """The first certificate (DER) of a PEM file. Raises ValueError where there is none."""
    import ssl

    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    if begin not in text or end not in text:
        raise ValueError("there is no certificate in it")
    return ssl.PEM_cert_to_DER_cert(text[text.index(begin) : text.index(end)] + end + "\n")


def wrong_media(directory: Path, owner: int, name: str) -> list[str]:
    """Uploaded files and directories that the application does not own or that nginx may not read; follows no link."""
    import grp

    group = grp.getgrnam(_GROUP).gr_gid
    wrong: list[str] = []
    looked = 0
    expected = f"expected {name}:{_GROUP} and readable by its group"

    def judge(path: Path, seen: os.stat_result, bits: int) -> None:
        # What everybody may read, nginx may too.
        readable = seen.st_mode & bits == bits if seen.st_gid == group else seen.st_mode & bits >> 3 == bits >> 3
        if seen.st_uid != owner or not readable:
            wrong.append(f"{path} is {_mode(seen)}, {expected}")

    if not directory.is_dir():
        return [f"{directory} is missing, expected {name}:{_GROUP} 2750"]
    for root, folders, files, descriptor in os.fwalk(directory, follow_symlinks=False):
        judge(Path(root), os.fstat(descriptor), 0o050)
        for file in files:
            looked += 1
            try:
                seen = os.stat(file, dir_fd=descriptor, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if not os.path.islink(f"{root}/{file}"):
                judge(Path(root) / file, seen, 0o040)
        if looked > ENTRIES or len(wrong) >= 20:
            folders.clear()
            break
    return wrong


def _mode(seen: os.stat_result) -> str:
    import grp

    def named(ask: Callable[[int], Any], number: int) -> str:
        try:
            return str(ask(number)[0])
        except KeyError:
            return str(number)

    return f"{named(pwd.getpwuid, seen.st_uid)}:{named(grp.getgrgid, seen.st_gid)} {seen.st_mode & 0o7777:04o}"


def tail(path: Path, size_bytes: int) -> str:
    """The whole lines among the last bytes of a regular file. Follows no link and waits for no pipe: some of them lie
    in directories that the application may write to."""
    import stat

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        seen = os.fstat(descriptor)
        if not stat.S_ISREG(seen.st_mode) or seen.st_nlink > 1:
            return ""
        begin = max(0, seen.st_size - size_bytes)
        content = b""
        # It may grow meanwhile: what is read is what there was.
        while len(content) < seen.st_size - begin:
            part = os.pread(descriptor, seen.st_size - begin - len(content), begin + len(content))
            if not part:
                break
            content += part
    except OSError:
        return ""
    finally:
        os.close(descriptor)
    if begin:
        content = content.partition(b"\n")[2]
    return content.decode("utf-8", "replace")


def _stamp(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
