"""What a host must be before anything on it is touched: its system, its ports, the names its sites claim.

Kept readable for Python 3.8, so that an unsupported host is refused in a sentence and not by a syntax error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ._errors import InputError
from ._run import Runner, run

_LISTEN = "0A"


@dataclass(frozen=True)
class System:
    """The operating system, as /etc/os-release tells."""

    id: str
    version: str
    name: str


@dataclass(frozen=True)
class Site:
    """A site of ours: the file that describes it and the names it answers to."""

    file: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Wanted:
    """What is asked of a host. `ports` may be held by the program `process` only."""

    supported: tuple[str, ...]
    packages: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    process: str = ""
    sites: tuple[Site, ...] = ()


@dataclass(frozen=True)
class Found:
    """What is there. `listeners`: program by port; `claims`: names by the file of nginx that claims them; `placed`: the
    files that Backstay wrote."""

    system: System
    is_root: bool
    installed: frozenset[str] = frozenset()
    listeners: Mapping[int, str] = field(default_factory=dict)
    claims: Mapping[str, Sequence[str]] = field(default_factory=dict)
    placed: frozenset[str] = frozenset()


def problems(wanted: Wanted, found: Found) -> tuple[str, ...]:
    """Every reason to stop, each a sentence with its remedy."""
    said: list[str] = []
    if f"{found.system.id} {found.system.version}" not in wanted.supported:
        known = " and ".join(word.title() for word in wanted.supported)
        said.append(f"The host runs {found.system.name}; Backstay supports {known}: use a host with one of these.")
    if not found.is_root:
        said.append(
            "The play is not root on the host: connect as root, or as a user who may use sudo without a password."
        )
    for port in wanted.ports:
        holder = found.listeners.get(port)
        if holder is not None and holder != wanted.process:
            said.append(
                f"Port {port} is taken by {holder}, where {wanted.process} is to listen: stop {holder}, or move it to "
                "another port."
            )
    return tuple(said) + _clashes(wanted, found)


def _clashes(wanted: Wanted, found: Found) -> tuple[str, ...]:
    said: list[str] = []
    owner: dict[str, str] = {}
    for site in wanted.sites:
        for name in site.names:
            other = owner.setdefault(name, site.file)
            if other != site.file:
                said.append(
                    f"The name {name} is claimed by {Path(other).stem} and by {Path(site.file).stem}: drop one."
                )
    for file, names in sorted(found.claims.items()):
        for name in names:
            ours = owner.get(name)
            if ours is not None and Path(ours).name != Path(file).name:
                said.append(
                    f"The name {name} is already claimed by {file} on the host: remove it there, or drop it from "
                    f"{Path(ours).stem}."
                )
    return tuple(said)


def missing_packages(wanted: Wanted, found: Found) -> tuple[str, ...]:
    return tuple(name for name in wanted.packages if name not in found.installed)


def new_sites(wanted: Wanted, found: Found) -> tuple[str, ...]:
    """The files of sites that Backstay did not write yet: what is in their way must be judged first."""
    return tuple(site.file for site in wanted.sites if site.file not in found.placed)


def refuse(said: Sequence[str]) -> None:
    """Raise InputError with every reason, unless there is none."""
    if said:
        raise InputError(f"{' '.join(said)} Nothing was touched.")


def parse_os_release(text: str) -> System:
    values = dict(re.findall(r'^([A-Z_]+)="?([^"\n]*)"?$', text, flags=re.MULTILINE))
    system, version = values.get("ID", "unknown"), values.get("VERSION_ID", "")
    return System(system, version, values.get("PRETTY_NAME", f"{system} {version}".strip()))


def parse_server_names(text: str) -> tuple[str, ...]:
    """The names in the `server_name` directives of one file of nginx."""
    bare = re.sub(r"#.*", "", text)
    names = {name for said in re.findall(r"\bserver_name\s+([^;]+);", bare) for name in said.split()}
    return tuple(sorted(name.strip("\"'") for name in names if name not in ("_", '""')))


def parse_listeners(text: str) -> dict[int, str]:
    """Inode of the socket by port, for each that listens, from /proc/net/tcp or tcp6."""
    found: dict[int, str] = {}
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == _LISTEN:
            found[int(fields[1].rpartition(":")[2], 16)] = fields[9]
    return found


class Host:
    """Reads what is there, below `root` (which tests move)."""

    def __init__(self, *, root: Path = Path("/"), runner: Runner = run) -> None:
        self._root = root
        self._run = runner

    def look(self, wanted: Wanted, *, is_root: bool) -> Found:
        return Found(
            system=parse_os_release(self._read("etc/os-release")),
            is_root=is_root,
            installed=self._installed(),
            listeners=self._listeners(wanted.ports),
            claims=self._claims() if wanted.sites else {},
            placed=self._placed() if wanted.sites else frozenset(),
        )

    def _read(self, path: str) -> str:
        try:
            return (self._root / path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def _installed(self) -> frozenset[str]:
        if not (self._root / "usr/bin/dpkg-query").exists():
            return frozenset()
        done = self._run(["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n"], check=False)
        pairs = (line.split() for line in done.stdout.splitlines())
        return frozenset(pair[0] for pair in pairs if len(pair) == 2 and pair[1] == "installed")

    def _listeners(self, ports: Sequence[int]) -> dict[int, str]:
        listening = {**parse_listeners(self._read("proc/net/tcp6")), **parse_listeners(self._read("proc/net/tcp"))}
        wanted = {f"socket:[{inode}]": port for port, inode in listening.items() if port in ports}
        holders = dict.fromkeys(wanted.values(), "another program")
        for process in (self._root / "proc").glob("[0-9]*") if wanted else ():
            try:
                links = [str(link.readlink()) for link in (process / "fd").iterdir()]
            except OSError:
                continue  # it ended meanwhile
            for link in links:
                if link in wanted:
                    holders[wanted[link]] = self._read(f"proc/{process.name}/comm").strip() or "another program"
        return holders

    def _claims(self) -> dict[str, Sequence[str]]:
        nginx = self._root / "etc/nginx"
        files = sorted([*nginx.glob("sites-enabled/*"), *nginx.glob("conf.d/*.conf")])
        named = {str(file): parse_server_names(self._read(str(file.relative_to(self._root)))) for file in files}
        return {file: names for file, names in named.items() if names}

    def _placed(self) -> frozenset[str]:
        """The files that Backstay remembers to have written here (`_file_set.py` keeps the book)."""
        try:
            return frozenset(json.loads(self._read("var/lib/backstay/files.json") or "{}").get("files", {}))
        except (ValueError, AttributeError):
            return frozenset()
