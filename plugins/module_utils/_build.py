"""Building a payload, on a host like the ones it will run on.

What belongs to the application (its checks, its static files, the building of its dependencies) runs as a user of its
own, confined, and never sees a secret: required keys get made-up values. The payload follows from the source alone;
what was seen while building goes into the attestation beside it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import pwd
import re
import shutil
import socket
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ._artifact import (
    MANIFEST,
    Manifest,
    Packed,
    attestation,
    host_facts,
    iso_time,
    pack,
    sha256_of,
    tree_digest,
    unpack_source,
)
from ._errors import BackstayError, InputError
from ._run import Completed, Runner
from ._run import run as on_host
from ._runtime import REQUIREMENTS, pip_program, runtime_of
from ._storage import canonical

if TYPE_CHECKING:
    from ._application import Application

CACHE = Path("/var/cache/backstay/build")
USER = "backstay-build"
VARIABLES = Path("/run")  # memory, never a disk

_CHECK_SECONDS = 1800.0
_KEPT_UNUSED_SECONDS = 60 * 86400.0
_PASSED_ON = re.compile(r"PIP_\w+|(https?|all|no)_proxy|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE", re.IGNORECASE)


@dataclass(frozen=True)
class Request:
    """What to build: an exported source, and what it is. `source_time` is seconds since 1970."""

    archive: Path
    application: Application
    version: str
    commit: str
    source_time: int
    destination: Path


@dataclass(frozen=True)
class Step:
    """One step of a build and the seconds it took."""

    name: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.name} {self.seconds:.1f} s"


@dataclass(frozen=True)
class Built:
    """A payload and what was seen while it was built."""

    packed: Packed
    manifest: Manifest
    attestation: dict[str, Any]
    steps: tuple[Step, ...]


class Sandbox(Protocol):
    """Where the application's own code runs while building; tests pass their own."""

    def own(self, path: Path) -> None:
        """Give a tree to the user of the sandbox."""

    def run(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        writable: Sequence[Path],
        variables: Mapping[str, str],
        network: bool,
        timeout_seconds: float,
    ) -> Completed:
        """Run one command; the exit code is not checked."""


@dataclass(frozen=True)
class SystemdSandbox:
    """A transient unit per command: a user that owns nothing, a file system that is read-only but for `writable`."""

    user: str = USER
    runner: Runner = on_host

    def ensure_user(self) -> None:
        """Make the user where it is missing. Raises BackstayError when this is not root."""
        if os.geteuid() != 0:
            raise InputError("A build needs root, to run the application's checks as somebody else: use become.")
        try:
            pwd.getpwnam(self.user)
        except KeyError:
            home = ["--home-dir", "/nonexistent", "--no-create-home", "--shell", "/usr/sbin/nologin"]
            self.runner(["/usr/sbin/useradd", "--system", "--user-group", *home, self.user])

    def own(self, path: Path) -> None:
        entry = pwd.getpwnam(self.user)
        os.lchown(path, entry.pw_uid, entry.pw_gid)
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                os.lchown(Path(folder) / name, entry.pw_uid, entry.pw_gid)

    def run(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        writable: Sequence[Path],
        variables: Mapping[str, str],
        network: bool,
        timeout_seconds: float,
    ) -> Completed:
        from ._environment import environment_file

        properties = [
            f"User={self.user}",
            f"Group={self.user}",
            "UMask=0022",
            f"WorkingDirectory={cwd}",
            "NoNewPrivileges=yes",
            "ProtectSystem=strict",
            "ProtectHome=yes",
            "PrivateTmp=yes",
            "PrivateDevices=yes",
            "ProtectKernelTunables=yes",
            "ProtectKernelModules=yes",
            "ProtectControlGroups=yes",
            "RestrictSUIDSGID=yes",
            "InaccessiblePaths=-/etc/backstay -/var/lib/backstay",
            "ReadWritePaths=" + " ".join(str(path) for path in writable),
            f"RuntimeMaxSec={timeout_seconds:g}",
            *([] if network else ["PrivateNetwork=yes"]),
        ]
        # A file, because anybody may read the variables that a unit was given by name; pip's may hold a password.
        with tempfile.NamedTemporaryFile("w", prefix="backstay-build-", dir=VARIABLES, encoding="utf-8") as file:
            file.write(environment_file(dict(variables)))
            file.flush()
            properties.append(f"EnvironmentFile={file.name}")
            return self.runner(
                [
                    "systemd-run",
                    "--quiet",
                    "--wait",
                    "--pipe",
                    "--collect",
                    *(f"--property={line}" for line in properties),
                    "--",
                    *arguments,
                ],
                timeout_seconds=timeout_seconds + 30,
                check=False,
            )


# pure


def changelog_entry(text: str, version: str) -> str | None:
    """The entry of a version under its heading (`## [1.2.3]`, `## 1.2.3`, also with a date), or None."""
    heading = re.compile(r"^##\s+\[?v?" + re.escape(version) + r"\]?(?![\w.+-])[^\n]*$", re.MULTILINE)
    found = heading.search(text)
    if found is None:
        return None
    rest = text[found.end() :]
    end = re.search(r"^##?\s|^\[[^\]]+\]:\s", rest, re.MULTILINE)
    return (rest[: end.start()] if end else rest).strip()


def declared_version(source: Path) -> tuple[str, str] | None:
    """(file, version) where a source says its own version: VERSION, else pyproject.toml; None where it does not."""
    plain = source / "VERSION"
    if plain.is_file():
        return "VERSION", plain.read_text(encoding="utf-8").strip()
    project = source / "pyproject.toml"
    if project.is_file():
        try:
            found = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {}).get("version")
        except tomllib.TOMLDecodeError as wrong:
            raise InputError(f"pyproject.toml of the source cannot be read ({wrong}): correct it.") from wrong
        if isinstance(found, str):
            return "pyproject.toml", found
    return None


def made_up(application: Application) -> dict[str, str]:
    """A value for each key that the application requires and its file does not give: well formed, and worth nothing."""
    settings = application.environment
    urls = {database.url_key for database in application.databases if database.url_key}
    values: dict[str, str] = {}
    for key in sorted({*settings.required, *settings.secret, *urls} - set(settings.values)):
        if key in urls:
            values[key] = "postgresql://build:build@127.0.0.1:1/build"
        elif key.endswith("_URL"):
            values[key] = "http://build.invalid/"
        else:
            values[key] = hashlib.sha256(f"made up for a build: {key}".encode()).hexdigest()
    return values


def requirement(wheel: Path) -> str:
    """A wheel as a line of a requirements file, with its digest."""
    name, version = wheel.name.split("-")[:2]
    return f"{name}=={version} --hash=sha256:{sha256_of(wheel)}"


# the build


@dataclass
class Bench:
    """One build's workshop: the directories it works in, what it keeps for the next, and what it measured."""

    request: Request
    sandbox: Sandbox
    work: Path
    cache: Path
    clock: Callable[[], float] = time.monotonic
    steps: list[Step] = field(default_factory=list)

    @property
    def tree(self) -> Path:
        return self.work / "tree"

    @property
    def source(self) -> Path:
        return self.tree / "code"

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = self.clock()
        yield
        self.steps.append(Step(name, round(self.clock() - began, 3)))

    def room(self, name: str) -> Path:
        room = self.work / name
        room.mkdir()
        shutil.copytree(self.source, room / "source", symlinks=True)
        application = self.request.application
        for folder in ("home", "static", "logs", f"data/{application.media or ''}"):
            (room / folder).mkdir(parents=True, exist_ok=True)
        collected = self.tree / "static"
        if collected.exists():
            shutil.copytree(collected, room / "static", symlinks=True, dirs_exist_ok=True)
        for database in application.databases:
            if database.path:
                (room / "data" / database.path).parent.mkdir(parents=True, exist_ok=True)
        self.sandbox.own(room)
        return room / "source"

    def kept(self, kind: str, key: str, make: Callable[[Path], None]) -> Path:
        shelf = self.cache / kind
        shelf.mkdir(parents=True, exist_ok=True, mode=0o755)
        folder = shelf / key
        finished = shelf / f"{key}.finished"  # beside it, where the sandbox cannot write
        if not finished.exists():
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(mode=0o755)
            self.sandbox.own(folder)
            make(folder)
        finished.touch()
        return folder

    def run(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        writable: Sequence[Path],
        environment: Path | None = None,
        network: bool = False,
    ) -> Completed:
        variables = {"LC_ALL": "C.UTF-8", "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent"}
        writable = list(writable)
        if environment is not None:
            variables |= self._application_variables(writable[0])
            network = self.request.application.network  # as when it will run
            variables |= {"VIRTUAL_ENV": str(environment), "PATH": f"{environment / 'bin'}:{variables['PATH']}"}
        elif network:
            downloads = self.cache / "pip"
            if not downloads.exists():
                downloads.mkdir(mode=0o755)
                self.sandbox.own(downloads)
            writable.append(downloads)
            variables |= {name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)}
            # A wheel built from a source package gets this time, so that it is the same next time.
            variables |= {"PIP_CACHE_DIR": str(downloads), "SOURCE_DATE_EPOCH": "315532800"}
        return self.sandbox.run(
            arguments,
            cwd=cwd,
            writable=writable,
            variables=variables,
            network=network,
            timeout_seconds=_CHECK_SECONDS,
        )

    def _application_variables(self, room: Path) -> dict[str, str]:
        application = self.request.application
        return {
            **made_up(application),
            **application.environment.values,
            "HOME": str(room / "home"),
            "BACKSTAY_APPLICATION": application.name,
            "BACKSTAY_RELEASE_ID": f"0000-{self.request.version}",
            "BACKSTAY_VERSION": self.request.version,
            "BACKSTAY_COMMIT": self.request.commit,
            "BACKSTAY_DATA_DIR": str(room / "data"),
            "BACKSTAY_STATIC_DIR": str(room / "static"),
            "BACKSTAY_LOG_DIR": str(room / "logs"),
            "BACKSTAY_LOG_LEVEL": application.log_level,
        }


def examine(source: Path, application: Application, version: str) -> str:
    """What the source must say about itself; the changelog's entry. Raises InputError naming the file to correct."""
    declared = declared_version(source)
    if declared is not None and declared[1] != version:
        file, found = declared
        raise InputError(
            f"{file} of the source says {found} and {version} was to be built: correct {file}, or build {found}."
        )
    changelog = application.runtime.changelog
    if changelog is None:
        return ""
    path = source / changelog
    if not path.is_file():
        raise InputError(f"The source has no {changelog}, which runtime.changelog names: write it, or set it to null.")
    entry = changelog_entry(path.read_text(encoding="utf-8"), version)
    if not entry:
        what = "no entry" if entry is None else "an empty entry"
        raise InputError(f"{changelog} has {what} for {version}: write what changed under `## [{version}]`.")
    return entry


def build(
    request: Request,
    *,
    sandbox: Sandbox,
    cache: Path = CACHE,
    now: Callable[[], float] = time.time,
    clock: Callable[[], float] = time.monotonic,
) -> Built:
    """Build a payload and its attestation into the request's destination.

    Raises InputError for a source that does not say what it must, and BackstayError for a check that fails, with its
    last lines. Nothing is left behind but what the next build can use.
    """
    cache.mkdir(parents=True, exist_ok=True, mode=0o755)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        work = Path(tempfile.mkdtemp(prefix="work-", dir=cache))
        work.chmod(0o755)
        bench = Bench(request, sandbox, work, cache, clock)
        try:
            built = _build(bench, now)
            _forget_unused(cache, now())
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return built


def _build(bench: Bench, now: Callable[[], float]) -> Built:
    request = bench.request
    application = request.application
    runtime = runtime_of(application)
    with bench.step("source"):
        bench.source.mkdir(parents=True)
        unpack_source(request.archive, bench.source)
        notes = examine(bench.source, application, request.version)
        digest = tree_digest(bench.source)
    with bench.step("dependencies"):
        prepared = runtime.prepare(bench)
    with bench.step("static files"):
        static = runtime.assets(bench, prepared)
        if static is not None:
            shutil.copytree(static, bench.tree / "static", symlinks=True)
    checks = [_check(bench, words, prepared.environment) for words in application.runtime.checks]
    with bench.step("migrations"):
        verdicts = runtime.verdicts(bench, prepared)
    with bench.step("payload"):
        lock = _take_wheels(prepared.wheels, bench.tree / "wheels")
        facts = host_facts()
        manifest = Manifest(
            application=application.name,
            version=request.version,
            commit=request.commit,
            source_digest=digest,
            source_time=iso_time(request.source_time),
            runtime=application.runtime.type,
            python=facts.python,
            system=facts.system,
            architecture=facts.architecture,
            lock_sha256=hashlib.sha256(lock).hexdigest(),
            notes=notes,
        )
        (bench.tree / MANIFEST).write_bytes(manifest.to_json())
        name = f"{application.name}-{request.version}"
        packed = pack(bench.tree, request.destination / f"{name}.tar", request.source_time)
        packed.path.chmod(0o644)
    seen = attestation(
        packed,
        manifest,
        built_at=iso_time(int(now())),
        builder=socket.gethostname(),
        tools={
            "python": platform.python_version(),
            "pip": pip_program().parent.name.split("-")[1],
            "system": facts.system,
        },
        checks=checks,
    )
    seen["migrations"] = verdicts
    beside = request.destination / f"{name}.attestation.json"
    beside.write_bytes(canonical(seen) + b"\n")
    beside.chmod(0o644)
    return Built(packed, manifest, seen, tuple(bench.steps))


def _check(bench: Bench, words: Sequence[str], environment: Path) -> dict[str, Any]:
    """Run one of the application's checks in a scratch copy of its own. Raises BackstayError when it fails."""
    command = " ".join(words)
    room = bench.room(f"check-{len(bench.steps)}")
    with bench.step(f"check: {command}"):
        # env(1), because systemd would look the program up on its own path.
        done = bench.run(["/usr/bin/env", *words], cwd=room, writable=[room.parent], environment=environment)
    seconds = bench.steps[-1].seconds
    if not done.ok:
        lines = tuple(line for text in (done.stdout, done.stderr) for line in text.splitlines() if line.strip())[-20:]
        if done.returncode == 127:
            raise BackstayError(
                f"The check `{command}` needs the program {words[0]!r}, which is not installed: add it to "
                f"{bench.request.application.runtime.checks_requirements or 'runtime.checks_requirements'}.",
                lines=lines,
            )
        raise BackstayError(
            f"The check `{command}` failed with exit code {done.returncode} after {seconds:.1f} s: "
            f"{lines[-1].strip() if lines else 'it printed nothing'}; nothing was built; mend it and build again.",
            lines=lines,
        )
    return {"command": command, "seconds": seconds, "ok": True}


def _take_wheels(wheels: Path, target: Path) -> bytes:
    """Copy the wheels and list them with their digests; the list."""
    target.mkdir()
    found = sorted(wheels.glob("*.whl"))
    for wheel in found:
        shutil.copyfile(wheel, target / wheel.name, follow_symlinks=False)
    lock = "".join(f"{requirement(target / wheel.name)}\n" for wheel in found).encode()
    (target / REQUIREMENTS).write_bytes(lock)
    return lock


def _forget_unused(cache: Path, now: float) -> None:
    """Remove what no build has used for sixty days."""
    for finished in cache.glob("*/*.finished"):
        if now - finished.stat().st_mtime > _KEPT_UNUSED_SECONDS:
            finished.unlink()
            shutil.rmtree(finished.with_suffix(""), ignore_errors=True)
