"""What a host must be before anything on it is touched: its system, its people, its ports, the names its sites claim.

Kept readable for Python 3.8, so that an unsupported host is refused in a sentence and not by a syntax error.
"""

from __future__ import annotations

import json
import pwd
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from ._errors import InputError
from ._run import Runner, run

_LISTEN = "0A"
# What useradd of every supported system makes, and systemd, sudo and ssh take.
_USER = r"[A-Za-z_][A-Za-z0-9_.-]{0,31}"


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
    users: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    process: str = ""
    sites: tuple[Site, ...] = ()


@dataclass(frozen=True)
class Found:
    """What is there. `versions`: the version by each name that apt knows an installed package by; `users`: those asked
    for that exist; `listeners`: programs by port; `claims`: names by the file of nginx that claims them; `placed`: the
    files that Backstay wrote."""

    system: System
    is_root: bool
    installed: frozenset[str] = frozenset()
    versions: Mapping[str, str] = field(default_factory=dict)
    users: frozenset[str] = frozenset()
    listeners: Mapping[int, Sequence[str]] = field(default_factory=dict)
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
    said += [
        f"The name {name!r} cannot be that of a user: give at most 32 letters, digits, `_`, `-` and `.`, and begin "
        "with a letter or `_`."
        for name in missing_users(wanted, found)
        if not re.fullmatch(_USER, name)
    ]
    return (*said, *_taken_ports(wanted, found), *_clashes(wanted, found))


def _taken_ports(wanted: Wanted, found: Found) -> tuple[str, ...]:
    return tuple(
        f"Port {port} is taken by {holder}, where {wanted.process} is to listen: stop {holder}, or move it to another "
        "port."
        for port in wanted.ports
        for holder in found.listeners.get(port, ())
        if holder != wanted.process
    )


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
    """Those that apt is to be asked for. What is in its language and not in ours, such as `name/release`, always is."""
    return tuple(asked for asked in wanted.packages if not _is_there(asked, found))


def _is_there(asked: str, found: Found) -> bool:
    name, _equals, version = asked.partition("=")
    there = found.versions.get(name)
    return there is not None and (not version or fnmatchcase(there, version))


def missing_users(wanted: Wanted, found: Found) -> tuple[str, ...]:
    return tuple(name for name in wanted.users if name not in found.users)


def new_sites(wanted: Wanted, found: Found) -> tuple[str, ...]:
    """The files of sites that Backstay did not write yet: what is in their way must be judged first."""
    return tuple(site.file for site in wanted.sites if site.file not in found.placed)


_SITES = "/etc/nginx/sites-enabled"


def left_behind(wanted: Wanted, found: Found) -> tuple[str, ...]:
    """A line about each application that Backstay placed a site for and that nobody asks for any more."""
    named = {site.file for site in wanted.sites}
    gone = sorted(file for file in found.placed - named if str(Path(file).parent) == _SITES and wanted.sites)
    return tuple(
        f"{Path(file).stem} is on this host and no longer among its applications: it stays as it is, served and "
        f"watched. Name it in backstay_applications again, or take it off the host: {file} first."
        for file in gone
    )


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


def parse_listeners(text: str) -> dict[str, int]:
    """Port by inode of the socket, for each that listens, from /proc/net/tcp or tcp6. One port can have several: each
    address its own, and each of IPv4 and IPv6."""
    found: dict[str, int] = {}
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == _LISTEN:
            found[fields[9]] = int(fields[1].rpartition(":")[2], 16)
    return found


# As `parse_packages` reads it; a field may be empty.
_PACKAGE = "${Package}\t${Architecture}\t${Version}\t${db:Status-Status}\t${Provides}\n"


def parse_packages(text: str) -> tuple[frozenset[str], dict[str, str]]:
    """The names of what is installed, and the version by each name that apt knows it by: its own, that with its
    architecture, and those that it provides, which have no version of their own."""
    rows = [fields for fields in (line.split("\t") for line in text.splitlines()) if len(fields) == 5]
    there = [fields for fields in rows if fields[3] == "installed"]
    versions = {name.split()[0]: "" for fields in there for name in fields[4].split(",") if name.strip()}
    for name, architecture, version, _state, _provided in there:
        versions[name] = versions[f"{name}:{architecture}"] = version
    return frozenset(fields[0] for fields in there), versions


class Host:
    """Reads what is there, below `root` (which tests move)."""

    def __init__(self, *, root: Path = Path("/"), runner: Runner = run) -> None:
        self._root = root
        self._run = runner

    def look(self, wanted: Wanted, *, is_root: bool) -> Found:
        installed, versions = self._packages()
        return Found(
            system=parse_os_release(self._read("etc/os-release")),
            is_root=is_root,
            installed=installed,
            versions=versions,
            users=frozenset(name for name in wanted.users if _exists(name)),
            listeners=self._listeners(wanted.ports),
            claims=self._claims() if wanted.sites else {},
            placed=self._placed() if wanted.sites else frozenset(),
        )

    def _read(self, path: str) -> str:
        try:
            return (self._root / path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def _packages(self) -> tuple[frozenset[str], dict[str, str]]:
        if not (self._root / "usr/bin/dpkg-query").exists():
            return frozenset(), {}
        return parse_packages(self._run(["dpkg-query", "--show", f"--showformat={_PACKAGE}"], check=False).stdout)

    def _listeners(self, ports: Sequence[int]) -> dict[int, Sequence[str]]:
        listening = {**parse_listeners(self._read("proc/net/tcp6")), **parse_listeners(self._read("proc/net/tcp"))}
        wanted = {f"socket:[{inode}]": port for inode, port in listening.items() if port in ports}
        holders: dict[str, set[str]] = {socket: set() for socket in wanted}
        for process in (self._root / "proc").glob("[0-9]*") if wanted else ():
            try:
                links = {str(link.readlink()) for link in (process / "fd").iterdir()}
            except OSError:
                continue  # it ended meanwhile
            for socket in links & wanted.keys():
                holders[socket].add(self._read(f"proc/{process.name}/comm").strip() or "another program")
        found: dict[int, set[str]] = {}
        for socket, names in holders.items():
            found.setdefault(wanted[socket], set()).update(names or {"another program"})
        return {port: sorted(names) for port, names in found.items()}

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


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except (KeyError, ValueError):  # ValueError: a zero byte, which no name has
        return False
    return True
