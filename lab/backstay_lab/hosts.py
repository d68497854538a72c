"""Hosts: boot, wait for, reboot, cut off, fill up and remove them."""

from __future__ import annotations

import io
import json
import re
import shutil
import socket
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from configparser import ConfigParser
from configparser import Error as ConfigError
from dataclasses import asdict, dataclass
from os import cpu_count, environ, nice
from pathlib import Path

from . import images
from .addresses import Addresses
from .commands import Completed, as_root, file_limit, podman, process_limit, run
from .errors import LabError
from .keys import ensure_ssh_key, known_hosts_text, ssh_config_text
from .layout import CHECKOUT, LabLayout, locked
from .network import LABEL_LAB, ensure_network, remove_network

LABEL_CHECKOUT, LABEL_HOST, LABEL_RELEASE, LABEL_KIND = (
    "backstay.checkout",
    "backstay.host",
    "backstay.release",
    "backstay.image",
)
BOOT_FILE = "/run/backstay-lab/boot"
SLOW_CORES, SLOW_CABLE = 0.25, "2mbit"
FILL_FILE = ".backstay-lab-fill"
_CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_READY_SECONDS = 90.0


@dataclass(frozen=True)
class Disk:
    """A small file system of a host's own, so that filling it never fills the machine."""

    path: str
    size: str

    @classmethod
    def parse(cls, text: str) -> Disk:
        """`/opt:2g`. Raises `LabError` for anything else."""
        match = re.fullmatch(r"(/[A-Za-z0-9._/-]+):([1-9][0-9]*[kmg])", text)
        if match is None:
            raise LabError(f"A disk is written PATH:SIZE, like /opt:2g; {text!r} is not.")
        return cls(match[1].rstrip("/"), match[2])


@dataclass(frozen=True)
class Host:
    """A host as podman knows it."""

    name: str
    address: str
    container: str
    release: str
    image: str
    state: str


def share(niceness: int) -> int:
    """A host's share of the cores, for `podman --cpu-shares` (1024 is the usual one): as nice as whoever boots it. A
    step is a factor of 1.25, as the kernel's table of weights has it."""
    return max(2, round(1024 / 1.25**niceness))


@dataclass(frozen=True)
class _Order:
    """What `up` was asked for, the same for each of its hosts."""

    release: str
    image: str
    tag: str
    neighbours: dict[str, str]
    disks: tuple[Disk, ...]


def pip_configuration(config_files: Sequence[Path], environment: dict[str, str]) -> str:
    """The `/etc/pip.conf` a host needs to reach the index this machine uses; empty when pip's defaults serve.

    Only index addresses and the certificate bundle are taken over, never what names a path of this machine.
    """
    parser = ConfigParser(interpolation=None)
    for path in config_files:
        try:
            parser.read(path, encoding="utf-8")
        except (ConfigError, UnicodeDecodeError):
            continue
    values = dict(parser["global"]) if parser.has_section("global") else {}
    for key in ("index-url", "extra-index-url", "cert", "timeout"):
        values[key] = environ_value(environment, key) or values.get(key, "")
    lines = []
    for key in ("index-url", "extra-index-url"):
        urls = [url for url in values[key].split() if url.startswith(("https://", "http://"))]
        urls = [url for url in urls if not re.match(r"https?://(localhost|127\.)", url)]
        if urls:
            lines.append(f"{key} = {' '.join(urls)}\n")
    if values["cert"]:
        lines.append(f"cert = {_CA_BUNDLE}\n")
    if values["timeout"].isdigit():
        lines.append(f"timeout = {values['timeout']}\n")
    return "[global]\n" + "".join(lines) if lines else ""


def environ_value(environment: dict[str, str], key: str) -> str:
    """pip's own way of naming an option in the environment."""
    names = [f"PIP_{key.upper().replace('-', '_')}"]
    if key == "timeout":
        names.append("PIP_DEFAULT_TIMEOUT")
    return next((environment[name] for name in names if environment.get(name)), "")


class Lab:
    """One lab: its network, its hosts, its directory. Raises `LabError` for whatever goes wrong."""

    def __init__(self, name: str, *, checkout: Path = CHECKOUT, say: Callable[[str], None] | None = None) -> None:
        self.addresses = Addresses(name)
        self.addresses.subnet  # noqa: B018 - an impossible name is refused here, before anything is made
        self.layout = LabLayout(name, checkout)
        self.name = name
        self._say = say or (lambda line: print(line, file=sys.stderr, flush=True))

    # What there is

    def hosts(self) -> list[Host]:
        """All hosts of this lab, running or not, by address."""
        listed = podman("ps", "-a", "--filter", f"label={LABEL_LAB}={self.name}", "--format", "json").stdout
        found = []
        for entry in json.loads(listed or "[]"):
            labels = entry.get("Labels") or {}
            name = labels.get(LABEL_HOST, "")
            self._refuse_foreign(labels.get(LABEL_CHECKOUT, ""))
            found.append(
                Host(
                    name=name,
                    address=self.addresses.address(name),
                    container=self.addresses.container(name),
                    release=labels.get(LABEL_RELEASE, ""),
                    image=labels.get(LABEL_KIND, ""),
                    state=entry.get("State", "unknown"),
                )
            )
        return sorted(found, key=lambda host: int(host.address.rsplit(".", 1)[1]))

    def host(self, name: str) -> Host:
        for host in self.hosts():
            if host.name == name:
                return host
        raise LabError(f"The lab {self.name!r} has no host {name!r}: boot it with lab/lab --lab {self.name} up {name}.")

    def _refuse_foreign(self, checkout: str) -> None:
        if checkout != str(self.layout.checkout):
            raise LabError(
                f"The lab {self.name!r} on this machine was made by the checkout {checkout}: "
                "use another name with --lab, or remove it from there."
            )

    # Up and down

    def up(self, names: Sequence[str], *, release: str, image: str, disks: Sequence[Disk] = ()) -> list[Host]:
        """Boot what is not running yet and wait until ssh answers and systemd is up."""
        wanted = list(dict.fromkeys(names))
        self.addresses.neighbours(wanted)  # impossible names are refused before anything is made
        tag = images.ensure_image(images.load_recipe(release, image))
        with locked(self.layout.lock):
            present = {host.name: host for host in self.hosts()}
            neighbours = self.addresses.neighbours([*wanted, *present])
            order = _Order(release, image, tag, neighbours, tuple(disks))
            for name in wanted:
                self._refuse_other(present.get(name), release, image)
            ensure_network(self.addresses)
            ensure_ssh_key(self.layout.identity, f"backstay-lab-{self.name}")
            for name in wanted:
                ensure_ssh_key(self.layout.host_key(name), f"backstay-lab-{self.name}-{name}")
            self._write_files([*present, *wanted])
            with ThreadPoolExecutor(max_workers=4) as pool:
                boots = [pool.submit(self._boot, name, order, present.get(name)) for name in wanted]
                for boot in boots:
                    boot.result()
            hosts = self.hosts()
            self._write_hosts(hosts)
        with ThreadPoolExecutor(max_workers=4) as pool:
            list(pool.map(self.wait, wanted))
        return [host for host in hosts if host.name in wanted]

    def _refuse_other(self, host: Host | None, release: str, image: str) -> None:
        if host is not None and (host.release, host.image) != (release, image):
            raise LabError(
                f"{host.name} is already there as {host.release}/{host.image}, asked for {release}/{image}: "
                f"run lab/lab --lab {self.name} down {host.name} first."
            )

    def _boot(self, name: str, order: _Order, present: Host | None) -> None:
        if present is None:
            self._create(name, order)
        for disk in order.disks:
            self._make_disk(name, disk)  # it is gone when the machine itself was restarted
        if present is None or present.state != "running":
            podman("start", self.addresses.container(name))

    def _create(self, name: str, order: _Order) -> None:
        container = self.addresses.container(name)
        soft, hard = file_limit()
        processes = process_limit()
        labels = {
            LABEL_LAB: self.name,
            LABEL_HOST: name,
            LABEL_CHECKOUT: str(self.layout.checkout),
            LABEL_RELEASE: order.release,
            LABEL_KIND: order.image,
        }
        options = [f"--label={key}={value}" for key, value in labels.items()]
        options += [f"--add-host={other}:{address}" for other, address in order.neighbours.items() if other != name]
        if _CA_BUNDLE.exists():
            options.append(f"--volume={_CA_BUNDLE}:{_CA_BUNDLE}:ro")
        options += [f"--volume={self._make_disk(name, disk)}:{disk.path}" for disk in order.disks]
        podman(
            "create", f"--name={container}", f"--hostname={name}", "--systemd=always", "--restart=always",
            "--cap-add=ALL", "--cap-drop=SYS_TIME",
            "--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined",
            f"--ulimit=nofile={soft}:{hard}", f"--ulimit=nproc={processes}:{processes}",
            f"--cpu-shares={share(nice(0))}",
            f"--network={self.addresses.network}", f"--ip={self.addresses.address(name)}",
            f"--mac-address={self.addresses.mac(name)}",
            *options, order.tag, images.INIT,
        )  # fmt: skip
        podman("cp", "-", f"{container}:/", stdin=self._own_files(name))

    def _own_files(self, name: str) -> bytes:
        """A tar of what makes one host differ from another: its host key, who may log in, how packages are reached."""
        key = self.layout.host_key(name)
        public = key.with_name(key.name + ".pub")
        identity = self.layout.identity
        files = {
            "etc/ssh/ssh_host_ed25519_key": (0o600, key.read_bytes()),
            "etc/ssh/ssh_host_ed25519_key.pub": (0o644, public.read_bytes()),
            "root/.ssh/authorized_keys": (0o600, identity.with_name(identity.name + ".pub").read_bytes()),
        }
        apt = images.machine_apt_options()
        if apt:
            files["etc/apt/apt.conf.d/99backstay-lab"] = (0o644, ("\n".join(apt) + "\n").encode())
        config_files = [Path("/etc/pip.conf"), Path.home() / ".config/pip/pip.conf", Path.home() / ".pip/pip.conf"]
        pip = pip_configuration(config_files, dict(environ))
        if pip:
            files["etc/pip.conf"] = (0o644, pip.encode())
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            home = tarfile.TarInfo("root/.ssh")
            home.type, home.mode, home.mtime = tarfile.DIRTYPE, 0o700, int(time.time())
            archive.addfile(home)
            for path, (mode, content) in files.items():
                images.add_file(archive, path, mode, content)
        return packed.getvalue()

    def _make_disk(self, name: str, disk: Disk) -> Path:
        """A tmpfs on the machine, bound into the host: small, and it survives the host's reboots."""
        place = self.layout.disks / name / disk.path.strip("/").replace("/", "-")
        place.mkdir(parents=True, exist_ok=True)
        if not place.is_mount():
            run(["mount", "-t", "tmpfs", "-o", f"size={disk.size},mode=0755", "backstay-lab", str(place)], root=True)
        return place

    def _drop_disks(self, name: str) -> None:
        own = self.layout.disks / name
        for place in sorted(own.glob("*")) if own.exists() else []:
            if place.is_mount():
                run(["umount", str(place)], root=True)
            place.rmdir()
        if own.exists():
            own.rmdir()

    def _write_files(self, names: Sequence[str]) -> None:
        hosts = sorted(set(names))
        keys = {host: self.layout.host_key(host) for host in hosts}
        public = {
            host: key.with_name(key.name + ".pub").read_text(encoding="ascii")
            for host, key in keys.items()
            if key.exists()
        }
        _replace(self.layout.known_hosts, known_hosts_text(self.addresses, public))
        _replace(self.layout.ssh_config, ssh_config_text(self.addresses, self.layout, hosts))

    def _write_hosts(self, hosts: Sequence[Host]) -> None:
        content = {
            "lab": self.name,
            "network": self.addresses.network,
            "subnet": self.addresses.subnet,
            "ssh_config": str(self.layout.ssh_config),
            "identity": str(self.layout.identity),
            "known_hosts": str(self.layout.known_hosts),
            "hosts": {host.name: asdict(host) for host in hosts},
        }
        _replace(self.layout.hosts, json.dumps(content, indent=2) + "\n")

    def down(self, names: Sequence[str] = ()) -> list[str]:
        """Remove these hosts, or without a name everything this lab made; returns the hosts removed."""
        with locked(self.layout.lock):
            present = {host.name: host for host in self.hosts()}
            unknown = [name for name in names if name not in present]
            doomed = [name for name in names if name in present] or ([] if names else list(present))
            if unknown:
                self._say(f"Not there, nothing to remove: {', '.join(unknown)}.")
            if doomed:
                podman("rm", "--force", "--time=0", *(present[name].container for name in doomed))
            for name in doomed:
                self._drop_disks(name)
            left = [host for name, host in present.items() if name not in doomed]
            if left:
                self._write_files([host.name for host in left])
                self._write_hosts(left)
            else:
                remove_network(self.addresses)
            if not names:
                self._remove_directory()
        return doomed

    def _remove_directory(self) -> None:
        layout = self.layout
        for path in (layout.known_hosts, layout.ssh_config, layout.hosts):
            path.unlink(missing_ok=True)
        for directory in (layout.identity.parent, layout.ca, layout.disks, layout.stores):
            if directory.exists():
                shutil.rmtree(directory)
        layout.lock.unlink(missing_ok=True)
        if not any(layout.root.iterdir()):  # what others put there stays
            layout.root.rmdir()

    # Talking to a host

    def ssh_command(self, name: str, *command: str) -> list[str]:
        return ["ssh", "-F", str(self.layout.ssh_config), name, *command]

    def ssh(self, name: str, *command: str, check: bool = True, timeout_seconds: float = 120.0) -> Completed:
        return run(self.ssh_command(name, *command), check=check, timeout_seconds=timeout_seconds)

    def exec(self, name: str, *command: str, check: bool = True, timeout_seconds: float = 120.0) -> Completed:
        """Run a command in the host without its network (podman exec)."""
        container = self.addresses.container(name)
        return podman("exec", container, *command, check=check, timeout_seconds=timeout_seconds)

    def copy(self, name: str, source: Path, target: str) -> None:
        """Put a file into the host, without its network; it is root's and for root alone."""
        container = self.host(name).container
        podman("cp", str(source), f"{container}:{target}")
        podman("exec", container, "chown", "root:root", target)
        podman("exec", container, "chmod", "0600", target)

    def exec_command(self, name: str, *command: str, tty: bool) -> list[str]:
        return as_root(["podman", "exec", "-it" if tty else "-i", self.addresses.container(name), *command])

    def wait(self, name: str, *, seconds: float = _READY_SECONDS) -> None:
        """Wait until ssh answers with the host's own key and systemd says running or degraded."""
        deadline = time.monotonic() + seconds
        seen = "no answer on port 22"
        while time.monotonic() < deadline:
            if not _port_answers(self.addresses.address(name)):
                time.sleep(0.1)
                continue
            asked = self.ssh(name, "systemctl", "is-system-running", "--wait", check=False, timeout_seconds=seconds)
            state = asked.stdout.strip()
            if state in {"running", "degraded"}:
                return
            seen = state or asked.stderr.strip()
            if "host key" in seen.lower():
                break
            time.sleep(0.3)
        raise LabError(
            f"{name} was not up within {seconds:.0f} s, seen last: {seen}; "
            f"look with podman logs {self.addresses.container(name)}."
        )

    def boot_id(self, name: str) -> str:
        """A random text, new at every boot; empty when the host cannot say (it is down, or about to be)."""
        return self.exec(name, "cat", BOOT_FILE, check=False).stdout.strip()

    # Faults

    def reboot(self, name: str, *, seconds: float = _READY_SECONDS) -> None:
        """`systemctl reboot` inside, and wait for another boot."""
        self.host(name)
        before = self.boot_id(name)
        if not before:
            raise LabError(f"{name} is not running: start it with lab/lab --lab {self.name} start {name}.")
        self.exec(name, "systemctl", "reboot", check=False)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            now = self.boot_id(name)
            if now and now != before:
                self.wait(name, seconds=max(1.0, deadline - time.monotonic()))
                return
            time.sleep(0.4)
        raise LabError(
            f"{name} did not boot again within {seconds:.0f} s: lab/lab --lab {self.name} list shows its state."
        )

    def kill(self, name: str) -> None:
        """The power cord pulled: SIGKILL for every process, no restart until `start`."""
        podman("kill", "--signal=KILL", self.host(name).container)
        podman("wait", "--condition=exited", self.host(name).container, check=False, timeout_seconds=30)

    def start(self, name: str) -> None:
        podman("start", self.host(name).container)
        self.wait(name)

    def cut(self, name: str) -> None:
        """The network cable pulled; processes inside go on."""
        self.host(name)
        self.exec(name, "ip", "link", "set", "eth0", "down")

    def heal(self, name: str) -> None:
        """The cable back in: same address, same route."""
        self.host(name)
        self.exec(name, "ip", "link", "set", "eth0", "up")
        self.exec(name, "ip", "route", "replace", "default", "via", self.addresses.gateway)

    def slow(self, name: str) -> None:
        """A host that has little: a quarter of one core, and a cable through which two megabits a second leave it."""
        podman("update", f"--cpus={SLOW_CORES}", self.host(name).container)
        self.exec(name, *f"tc qdisc replace dev eth0 root tbf rate {SLOW_CABLE} burst 32kb latency 400ms".split())

    def quick(self, name: str) -> None:
        """All cores and the whole cable again."""
        podman("update", f"--cpus={cpu_count()}", self.host(name).container)
        self.exec(name, "tc", "qdisc", "del", "dev", "eth0", "root", check=False)

    def fill(self, name: str, path: str, *, leave_bytes: int = 0) -> int:
        """Fill the disk under `path` but for `leave_bytes`; returns the bytes taken.

        Only a disk of the host's own (`up --disk PATH:SIZE`) is ever filled: the rest is the machine's.
        """
        mount = self._own_mount(name, path)
        told = self.exec(name, "sh", "-c", _FILL, "fill", mount, f"{mount}/{FILL_FILE}", str(leave_bytes))
        return int(told.stdout)

    def unfill(self, name: str, path: str) -> None:
        self.exec(name, "rm", "-f", f"{self._own_mount(name, path)}/{FILL_FILE}")

    def _own_mount(self, name: str, path: str) -> str:
        self.host(name)
        told = self.exec(name, "findmnt", "--noheadings", "--output", "FSTYPE,TARGET", "--target", path, check=False)
        if not told.ok:
            raise LabError(f"{path} is not there on {name}: name a directory that exists.")
        kind, mount = told.stdout.strip().split(maxsplit=1)
        if mount == "/" or kind != "tmpfs":
            raise LabError(
                f"{path} on {name} is on the machine's own disk, which the lab never fills: "
                f"boot the host with a disk of its own, lab/lab --lab {self.name} up {name} --disk {path}:512m."
            )
        return mount


# What runs on the host may write between look and deed, so that a little less is free than was seen: it looks again.
_FILL = """
for try in $(seq 200); do
  taken=$(($(stat --file-system --format='%a * %S' "$1") - $3))
  [ $taken -gt 0 ] || { echo 0; exit 0; }
  if fallocate --length $taken "$2" 2>/dev/null; then echo $taken; exit 0; fi
done
fallocate --length $taken "$2"
"""


def _replace(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


def _port_answers(address: str) -> bool:
    """Whether sshd greets; a bare connection is not enough while it starts."""
    try:
        with socket.create_connection((address, 22), timeout=2) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
