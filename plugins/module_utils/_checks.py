"""The kinds of health checks: what each asks, what it expects, and the sentence that says what was seen instead.

A check is a frozen dataclass (`_check_options.py` makes it from a dictionary); `run_check` asks once and never raises
for a failing check. What a check is not allowed to print, it does not keep
where it could be printed: secret headers, a command's environment, the query of a path.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from ._errors import BackstayError
from ._http import Answer, Connection, Target, peer_certificate, request
from ._run import Runner, run

_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
_MIB = 1 << 20


class Request(Protocol):
    """What `_http.request` does; tests pass their own."""

    def __call__(
        self,
        target: Target,
        path: str,
        *,
        timeout_seconds: float,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
    ) -> Answer: ...


@dataclass(frozen=True)
class Adapters:
    """The outside world of the checks, each part replaceable in a test. `clock` counts seconds, `now` is UTC."""

    request: Request = request
    certificate: Callable[[Target, float], bytes] = peer_certificate
    run: Runner = run
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)
    statvfs: Callable[[str], os.statvfs_result] = os.statvfs
    root: Path = Path("/")  # below which /proc and /sys/fs/cgroup are read


@dataclass(frozen=True)
class Seen:
    """What one look saw: `reason` says in one clause why it is not well; empty when it is."""

    observed: str
    reason: str = ""
    skipped: bool = False


@dataclass(frozen=True)
class Result:
    """One check, asked once. `ok` is true for a check that was skipped because there is nothing to ask yet."""

    name: str
    kind: str
    ok: bool
    seconds: float
    observed: str
    expected: str
    reason: str
    skipped: bool = False

    def line(self, width: int = 24) -> str:
        """One line for people: verdict, name in `width` letters, milliseconds, and what was seen."""
        verdict = "skipped" if self.skipped and self.ok else "ok" if self.ok else "FAILED"
        return f"{verdict:<7}  {self.name:<{width}}  {self.seconds * 1000:6.0f} ms  {self.reason or self.observed}"


@dataclass(frozen=True)
class HttpCheck:
    """One request and all that is expected of its answer."""

    kind = "http"
    name: str
    target: Target
    path: str = "/"
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    secret_headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    status: tuple[int, ...] = (200,)
    contains: tuple[str, ...] = ()
    matches: str | None = None
    header_equals: tuple[tuple[str, str], ...] = ()
    json_equals: tuple[tuple[str, Any], ...] = ()
    latency_seconds: float | None = None
    release_id: str | None = None
    release_link: str | None = None
    file_below: str | None = None
    timeout_seconds: float = 5.0

    @property
    def expected(self) -> str:
        parts = [" or ".join(map(str, self.status))]
        parts += [f"text {text!r}" for text in self.contains]
        parts += [f"text like {self.matches!r}"] if self.matches else []
        parts += [f"header {name}: {value}" for name, value in self.header_equals]
        parts += [f"{path} = {json.dumps(value)}" for path, value in self.json_equals]
        parts += [f"release {self.release_id}"] if self.release_id else []
        parts += [f"the release {self.release_link} points to"] if self.release_link else []
        parts += [f"within {self.latency_seconds:.3g} s"] if self.latency_seconds else []
        return ", ".join(parts)

    def look(self, adapters: Adapters) -> Seen:
        path = self.path
        if self.file_below is not None:
            found = first_file(Path(self.file_below))
            if found is None:
                return Seen(f"there is no file below {self.file_below} yet", skipped=True)
            path = path.rstrip("/") + "/" + quoted(found)
        release = _release_of_link(self.release_link) if self.release_link else self.release_id
        answer = adapters.request(
            self.target,
            path,
            timeout_seconds=self.timeout_seconds,
            method=self.method,
            headers=dict(self.headers + self.secret_headers),
        )
        observed = f"{answer.status} in {answer.seconds * 1000:.0f} ms"
        observed += f" from {answer.release_id}" if answer.release_id else ""
        return Seen(observed, "; ".join(self._complaints(answer, path, release)))

    def _complaints(self, answer: Answer, path: str, release: str | None) -> Iterator[str]:
        shown = path.partition("?")[0]
        if answer.status not in self.status:
            yield f"{shown} answered {_status(answer)}, expected {' or '.join(map(str, self.status))}{_because(answer)}"
        if release is not None and answer.release_id != release:
            yield f"{shown} was answered by {answer.release_id or 'no release (no X-Release-Id)'}, expected {release}"
        if answer.status in self.status:
            yield from self._content(answer, shown)
        if self.latency_seconds is not None and answer.seconds > self.latency_seconds:
            yield f"{shown} took {answer.seconds:.2f} s, expected at most {self.latency_seconds:g} s"

    def _content(self, answer: Answer, shown: str) -> Iterator[str]:
        for name, value in self.header_equals:
            seen = answer.headers.get(name.lower())
            if seen != value:
                told = "none" if seen is None else _short(seen) if name.lower() != "set-cookie" else "another"
                yield f"{shown} has the header {name}: {told}, expected {value}"
        if not (self.contains or self.matches or self.json_equals):
            return
        text = answer.body.decode("utf-8", "replace")
        part = "" if answer.complete else f" in its first {len(answer.body)} bytes"
        for wanted in self.contains:
            if wanted not in text:
                yield f"{shown} does not contain {wanted!r}{part}"
        if self.matches is not None and re.search(self.matches, text) is None:
            yield f"{shown} has nothing that matches {self.matches!r}{part}"
        if self.json_equals:
            yield from self._values(text, shown)

    def _values(self, text: str, shown: str) -> Iterator[str]:
        try:
            document = json.loads(text)
        except ValueError:
            yield f"{shown} did not answer JSON"
            return
        for path, value in self.json_equals:
            found, seen = _at(document, path)
            if not found:
                yield f"{shown} has no {path}, expected {json.dumps(value)}"
            elif seen != value or isinstance(seen, bool) != isinstance(value, bool):
                yield f"{shown} has {path} = {_short(json.dumps(seen))}, expected {json.dumps(value)}"


@dataclass(frozen=True)
class TcpCheck:
    """A port or a unix socket that accepts a connection."""

    kind = "tcp"
    name: str
    target: Target
    timeout_seconds: float = 5.0

    @property
    def expected(self) -> str:
        return f"a connection to {self.target.peer}"

    def look(self, _unused: Adapters) -> Seen:
        with Connection(replace(self.target, tls=False), self.timeout_seconds):
            return Seen(f"connected to {self.target.peer}")


@dataclass(frozen=True)
class UnitCheck:
    """A systemd unit in the state it should have, and not in a loop of restarts."""

    kind = "unit"
    name: str
    unit: str
    state: str = "active"
    sub_state: str | None = None
    restarts_max: int | None = None
    up_seconds: float | None = None
    timeout_seconds: float = 5.0

    @property
    def expected(self) -> str:
        parts = [f"{self.unit} {self.state}" + (f" ({self.sub_state})" if self.sub_state else "")]
        parts += [f"at most {self.restarts_max} restarts"] if self.restarts_max is not None else []
        parts += [f"up for {self.up_seconds:g} s"] if self.up_seconds is not None else []
        return ", ".join(parts)

    def look(self, adapters: Adapters) -> Seen:
        names = "LoadState,ActiveState,SubState,NRestarts,Result,ActiveEnterTimestampMonotonic"
        shown = adapters.run(
            ["systemctl", "show", f"--property={names}", "--", self.unit], timeout_seconds=self.timeout_seconds
        )
        seen = {name: value for name, _unused, value in (line.partition("=") for line in shown.stdout.splitlines())}
        state, sub = seen.get("ActiveState", "unknown"), seen.get("SubState", "unknown")
        restarts = int(seen.get("NRestarts") or 0)
        observed = f"{self.unit} is {state} ({sub})" + (f" after {restarts} restarts" if restarts else "")
        if seen.get("LoadState") == "not-found" and self.state != "inactive":
            return Seen(observed, f"systemd knows no unit {self.unit}: correct the name, or install it")
        wanted = f"{self.state} ({self.sub_state})" if self.sub_state else self.state
        if state != self.state or (self.sub_state is not None and sub != self.sub_state):
            result = seen.get("Result", "success")
            why = f", its last run ended with {result!r}" if result not in ("success", "") else ""
            return Seen(observed, f"{observed}{why}, expected {wanted}; see journalctl -u {self.unit}")
        if self.restarts_max is not None and restarts > self.restarts_max:
            return Seen(observed, f"{self.unit} was restarted {restarts} times, expected at most {self.restarts_max}")
        if self.up_seconds is not None:
            up = adapters.clock() - int(seen.get("ActiveEnterTimestampMonotonic") or 0) / 1e6
            if up < self.up_seconds:
                return Seen(observed, f"{self.unit} is up for {up:.1f} s only, expected {self.up_seconds:g} s")
        return Seen(observed)


@dataclass(frozen=True)
class ProcessCheck:
    """Processes by name, by pid file, or in a control group; zombies do not count."""

    kind = "process"
    name: str
    process: str | None = None
    pid_file: str | None = None
    cgroup: str | None = None
    count_min: int = 1
    count_max: int | None = None
    timeout_seconds: float = 5.0

    @property
    def expected(self) -> str:
        most = "" if self.count_max is None else f" and at most {self.count_max}"
        return f"at least {self.count_min}{most} of {self._what()}"

    def _what(self) -> str:
        if self.process is not None:
            return f"processes named {self.process}"
        return f"processes in {self.cgroup}" if self.cgroup is not None else f"the process in {self.pid_file}"

    def look(self, adapters: Adapters) -> Seen:
        proc = adapters.root / "proc"
        if self.pid_file is not None:
            return self._by_pid_file(proc)
        if self.cgroup is not None:
            directory = adapters.root / "sys/fs/cgroup" / self.cgroup.lstrip("/")
            if not directory.is_dir():
                return Seen("no such control group", f"there is no control group {self.cgroup}: nothing runs in it")
            count = sum(len(path.read_text().split()) for path in directory.rglob("cgroup.procs"))
        else:
            count = sum(_is_named(path, self.process or "") for path in proc.iterdir() if path.name.isdigit())
        observed = f"{count} {self._what()}"
        if count < self.count_min:
            return Seen(observed, f"{observed}, expected at least {self.count_min}")
        if self.count_max is not None and count > self.count_max:
            return Seen(observed, f"{observed}, expected at most {self.count_max}")
        return Seen(observed)

    def _by_pid_file(self, proc: Path) -> Seen:
        try:
            text = Path(self.pid_file or "").read_text(encoding="ascii", errors="replace").strip()
        except OSError as unreadable:
            return Seen("no pid file", f"{self.pid_file} cannot be read ({unreadable.strerror}): it does not run")
        if not (text.isascii() and text.isdigit()):
            return Seen("no pid", f"{self.pid_file} holds {_short(text)!r}, which is no process id")
        if not _lives(proc / text):
            return Seen(f"process {text} is gone", f"{self.pid_file} names process {text}, which does not run")
        return Seen(f"process {text} runs")


@dataclass(frozen=True)
class DiskCheck:
    """Room on the file system that holds `path`, for those who are not root."""

    kind = "disk"
    name: str
    path: str = "/"
    free_bytes: int | None = None
    free_percent: float | None = None
    free_inodes: int | None = None
    timeout_seconds: float = 5.0

    @property
    def expected(self) -> str:
        parts = [f"{_size(self.free_bytes)} free"] if self.free_bytes is not None else []
        parts += [f"{self.free_percent:g} % free"] if self.free_percent is not None else []
        parts += [f"{self.free_inodes} inodes free"] if self.free_inodes is not None else []
        return ", ".join(parts)

    def look(self, adapters: Adapters) -> Seen:
        try:
            disk = adapters.statvfs(self.path)
        except OSError as refused:
            return Seen("unknown", f"the room at {self.path} cannot be read: {refused.strerror or refused}")
        free = disk.f_bavail * disk.f_frsize
        usable = (disk.f_blocks - disk.f_bfree + disk.f_bavail) * disk.f_frsize
        percent = 100.0 * free / usable if usable else 0.0
        observed = f"{self.path} has {_size(free)} ({percent:.0f} %) free"
        if self.free_bytes is not None and free < self.free_bytes:
            return Seen(observed, f"{observed}, expected at least {_size(self.free_bytes)}")
        if self.free_percent is not None and percent < self.free_percent:
            return Seen(observed, f"{self.path} has {percent:.1f} % free, expected at least {self.free_percent:g} %")
        # A file system without a fixed number of inodes reports none at all.
        if self.free_inodes is not None and disk.f_files and disk.f_favail < self.free_inodes:
            return Seen(observed, f"{self.path} has {disk.f_favail} inodes free, expected at least {self.free_inodes}")
        return Seen(observed)


@dataclass(frozen=True)
class CertificateCheck:
    """A certificate, as a port shows it or in a PEM file: time left, names, and whether its chain is trusted."""

    kind = "certificate"
    name: str
    target: Target | None = None
    file: str | None = None
    days_left: float = 14.0
    names: tuple[str, ...] = ()
    chain: bool = True
    timeout_seconds: float = 5.0

    @property
    def expected(self) -> str:
        parts = [f"{self.days_left:g} days left"]
        parts += [f"for {', '.join(self.names)}"] if self.names else []
        parts += ["a trusted chain"] if self.chain and self.target else []
        return ", ".join(parts)

    def look(self, adapters: Adapters) -> Seen:
        from ._certificate import read

        where = self.target.peer if self.target is not None else str(self.file)
        if self.target is not None:
            shown = read(adapters.certificate(self.target, self.timeout_seconds))
        else:
            shown = read(_der(Path(str(self.file))))
        now = adapters.now()
        days = (shown.not_after - now).total_seconds() / 86400
        observed = f"{days:.0f} days left (until {shown.not_after:%Y-%m-%d}), issued by {shown.issuer}"
        if days < 0:
            return Seen(observed, f"the certificate of {where} expired on {shown.not_after:%Y-%m-%d}: renew it")
        if shown.not_before > now:
            return Seen(observed, f"the certificate of {where} is valid from {shown.not_before:%Y-%m-%d} only")
        missing = [name for name in self.names if not shown.is_for(name)]
        if missing:
            have = ", ".join(shown.names) or "no name"
            return Seen(observed, f"the certificate of {where} is for {have}, not for {missing[0]}")
        if days < self.days_left:
            return Seen(
                observed,
                f"the certificate of {where} expires on {shown.not_after:%Y-%m-%d}, in {days:.0f} days, "
                f"expected at least {self.days_left:g}: renew it",
            )
        if self.chain and self.target is not None:
            with Connection(replace(self.target, tls=True, verify=True), self.timeout_seconds):
                pass
        return Seen(observed)


@dataclass(frozen=True)
class CommandCheck:
    """A command that ends in time, with an expected exit code and output."""

    kind = "command"
    name: str
    arguments: tuple[str, ...]
    exit_codes: tuple[int, ...] = (0,)
    contains: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    secret_environment: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    directory: str | None = None
    timeout_seconds: float = 10.0

    @property
    def expected(self) -> str:
        parts = [f"exit code {' or '.join(map(str, self.exit_codes))}", *(f"output {text!r}" for text in self.contains)]
        return ", ".join(parts)

    def look(self, adapters: Adapters) -> Seen:
        done = adapters.run(
            self.arguments,
            timeout_seconds=self.timeout_seconds,
            cwd=Path(self.directory) if self.directory else None,
            environment={**os.environ, **dict(self.environment + self.secret_environment)},
            check=False,
        )
        observed = f"exit code {done.returncode}"
        command = Path(self.arguments[0]).name
        last = done.last_lines(1)
        said = f": {self._clean(last[0])}" if last else ""
        if done.returncode not in self.exit_codes:
            codes = " or ".join(map(str, self.exit_codes))
            return Seen(observed, f"{command} ended with exit code {done.returncode}, expected {codes}{said}")
        for wanted in self.contains:
            if wanted not in done.stdout and wanted not in done.stderr:
                return Seen(observed, f"{command} did not print {wanted!r}{said}")
        return Seen(observed)

    def _clean(self, line: str) -> str:
        for _unused, value in self.secret_environment:
            if len(value) >= 4:
                line = line.replace(value, "***")
        return _short(line)


Check: TypeAlias = "HttpCheck | TcpCheck | UnitCheck | ProcessCheck | DiskCheck | CertificateCheck | CommandCheck"


def run_check(check: Check, adapters: Adapters | None = None, *, limit_seconds: float | None = None) -> Result:
    """Look once. A failing check is a result, never an exception; `limit_seconds` shortens the check's own limit."""
    adapters = adapters or Adapters()
    if limit_seconds is not None and limit_seconds < check.timeout_seconds:
        check = replace(check, timeout_seconds=max(limit_seconds, 0.05))
    began = adapters.clock()
    try:
        seen = check.look(adapters)
    except BackstayError as failed:
        reason = _USERINFO.sub("", failed.message.rstrip("."))
        seen = Seen(reason, reason)
    seconds = adapters.clock() - began
    return Result(
        check.name, check.kind, not seen.reason, seconds, seen.observed, check.expected, seen.reason, seen.skipped
    )


# small things


def first_file(directory: Path, *, looked_at: int = 2000) -> str | None:
    """The first file below a directory, as a relative path: a style sheet where one is among the first, else by name.

    Hidden files do not count. None where there is no file that the reader may see.
    """
    first: str | None = None
    for root, folders, files in os.walk(directory):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        seen = sorted(name for name in files if not name.startswith("."))
        chosen = next((name for name in seen if name.endswith(".css")), None)
        if chosen is not None or (first is None and seen):
            first = str((Path(root) / (chosen or seen[0])).relative_to(directory))
        looked_at -= len(files) + 1
        if chosen is not None or (first is not None and looked_at <= 0):
            break
    return first


def quoted(path: str) -> str:
    """A path of the disk as a path of a URL."""
    safe = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/"
    return "".join(chr(byte) if byte in safe else f"%{byte:02X}" for byte in os.fsencode(path))


def _release_of_link(link: str) -> str:
    """The release id in the target of a link such as /opt/x/active -> /run/x/0007-1.1.0/web.sock."""
    try:
        return Path(link).readlink().parent.name
    except OSError as missing:
        raise BackstayError(f"no release is live: the link {link} cannot be read ({missing.strerror})") from missing


def _status(answer: Answer) -> str:
    location = answer.headers.get("location", "") if 300 <= answer.status < 400 else ""
    return f"{answer.status} to {_short(location.partition('?')[0])}" if location else str(answer.status)


def _because(answer: Answer) -> str:
    """What the answer itself says is wrong: failing checks of health+json, or the one line of a plain text."""
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    text = answer.body[:65536].decode("utf-8", "replace")
    if kind == "text/plain" and text.strip():
        return f" ({_short(text.strip().splitlines()[0])})"
    if not kind.endswith("json"):
        return ""
    try:
        document = json.loads(text)
    except ValueError:
        return ""
    checks = document.get("checks") if isinstance(document, dict) else None
    said = [*_failing(checks)] if isinstance(checks, dict) else []
    return f" ({'; '.join(said[:3])})" if said else ""


def _failing(checks: Mapping[str, Any]) -> Iterator[str]:
    for name, found in checks.items():
        for entry in found if isinstance(found, list) else [found]:
            status = entry.get("status") if isinstance(entry, dict) else entry
            if status in ("pass", "ok", "up", "warn", True):
                continue
            output = entry.get("output") if isinstance(entry, dict) else None
            yield f"{name}: {_short(str(output or status))}"


def _at(document: Any, path: str) -> tuple[bool, Any]:
    """(whether it exists, the value) at a dotted path; a number is an index of a list."""
    value = document
    for part in path.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return False, None
    return True, value


def _lives(process: Path) -> bool:
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (OSError, IndexError):
        return False


def _is_named(process: Path, name: str) -> bool:
    try:
        short = (process / "comm").read_text(errors="replace").rstrip("\n")
        if short != name:
            if short != name[:15]:
                return False
            first = (process / "cmdline").read_bytes().partition(b"\0")[0].decode("utf-8", "replace")
            if Path(first).name != name:
                return False
    except OSError:
        return False
    return _lives(process)


def _der(file: Path) -> bytes:
    import ssl

    try:
        text = file.read_text(encoding="ascii")
        begin, end = text.index("-----BEGIN CERTIFICATE-----"), text.index("-----END CERTIFICATE-----")
        return ssl.PEM_cert_to_DER_cert(text[begin:end] + "-----END CERTIFICATE-----\n")
    except OSError as unreadable:
        raise BackstayError(f"the certificate {file} cannot be read: {unreadable.strerror}") from unreadable
    except ValueError as damaged:
        raise BackstayError(f"{file} holds no certificate in PEM") from damaged


def _size(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 30):.1f} GiB" if size_bytes >= 1 << 30 else f"{size_bytes / _MIB:.0f} MiB"


def _short(text: str) -> str:
    text = _USERINFO.sub("", " ".join(text.split()))
    return text if len(text) <= 120 else text[:117] + "..."
