"""The `lab/lab` command."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from . import images, load
from .commands import run
from .errors import LabError
from .hosts import Disk, Lab
from .keys import ensure_ca

_NEEDED = {
    "podman": "podman",
    "runc": "runc",
    "mmdebstrap": "mmdebstrap",
    "ssh": "openssh-client",
    "openssl": "openssl",
    "ip": "iproute2",
    "iptables": "iptables",
}
# What the tests need beside it: a browser, the tool that tells it whom to trust, and the engine of backups.
_NEEDED_BY_TESTS = {"chromium": "chromium", "certutil": "libnss3-tools", "restic": "restic"}


def install(*, tests: bool = False) -> list[str]:
    """Install what the lab, or with `tests` also the tests, need and the machine lacks; the packages installed."""
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin:/sbin"
    needed = {**_NEEDED, **(_NEEDED_BY_TESTS if tests else {})}
    missing = [package for command, package in needed.items() if shutil.which(command, path=path) is None]
    if not any(Path(place).exists() for place in ("/usr/lib/cni/bridge", "/usr/lib/podman/netavark")):
        # Until podman 4 its networks were CNI's plugins; since podman 5 they are netavark's.
        bookworm = "VERSION_CODENAME=bookworm" in Path("/etc/os-release").read_text(encoding="utf-8")
        missing.append("containernetworking-plugins" if bookworm else "netavark")
    if not Path("/usr/share/keyrings/debian-archive-keyring.gpg").exists():
        missing.append("debian-archive-keyring")
    if tests and not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        # Its programs are needed, and no server: without this the package makes and starts one.
        run(["mkdir", "-p", "/etc/postgresql-common/createcluster.d"], root=True)
        setting = "create_main_cluster = false\n"
        run(["tee", "/etc/postgresql-common/createcluster.d/backstay.conf"], root=True, stdin=setting.encode())
        missing.append("postgresql")
    if missing:
        print(f"Installing {' '.join(missing)} with apt-get ...", file=sys.stderr, flush=True)
        env = ["env", "DEBIAN_FRONTEND=noninteractive"]
        run([*env, "apt-get", "update", "-qq"], root=True, timeout_seconds=300)
        packages = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
        run([*env, *packages], root=True, timeout_seconds=900)
    return missing


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def _install(options: argparse.Namespace) -> int:
    installed = install(tests=options.tests)
    if options.json:
        print(json.dumps({"installed": installed}))
    else:
        print(f"Installed {' '.join(installed)}." if installed else "Everything the lab needs is present.")
    return 0


def _up(options: argparse.Namespace) -> int:
    began = time.monotonic()
    lab = Lab(options.lab)
    disks = [Disk.parse(text) for text in options.disk]
    hosts = lab.up(options.hosts, release=options.release, image=options.image, disks=disks)
    if options.json:
        print(json.dumps({"lab": lab.name, "hosts": {host.name: asdict(host) for host in hosts}}, indent=2))
    else:
        named = ", ".join(f"{host.name} ({host.address})" for host in hosts)
        print(f"Up in {time.monotonic() - began:.1f} s: {named}; ssh -F {lab.layout.ssh_config} {hosts[0].name}")
    return 0


def _down(options: argparse.Namespace) -> int:
    removed = Lab(options.lab).down(options.hosts)
    if options.json:
        print(json.dumps({"removed": removed}))
    else:
        print(f"Removed {', '.join(removed)}." if removed else "Nothing of this lab was there.")
    return 0


def _list(options: argparse.Namespace) -> int:
    hosts = Lab(options.lab).hosts()
    if options.json:
        print(json.dumps([asdict(host) for host in hosts], indent=2))
    elif hosts:
        rows = [("HOST", "ADDRESS", "STATE", "IMAGE", "CONTAINER")]
        rows += [(h.name, h.address, h.state, f"{h.release}/{h.image}", h.container) for h in hosts]
        print(_table(rows))
    else:
        print(f"The lab {options.lab!r} has no hosts.")
    return 0


def _ssh(options: argparse.Namespace) -> int:
    command = Lab(options.lab).ssh_command(options.host, *options.command)
    os.execvp(command[0], command)  # noqa: S606 - a list, no shell


def _exec(options: argparse.Namespace) -> int:
    command = Lab(options.lab).exec_command(options.host, *options.command, tty=sys.stdin.isatty())
    os.execvp(command[0], command)  # noqa: S606 - a list, no shell


def _simple(done: str, action: Callable[[Lab, str], None]) -> Callable[[argparse.Namespace], int]:
    def run_it(options: argparse.Namespace) -> int:
        began = time.monotonic()
        action(Lab(options.lab), options.host)
        seconds = round(time.monotonic() - began, 2)
        if options.json:
            print(json.dumps({"host": options.host, "done": done, "seconds": seconds}))
        else:
            print(f"{options.host} {done} ({seconds:.1f} s).")
        return 0

    return run_it


def _fill(options: argparse.Namespace) -> int:
    taken = Lab(options.lab).fill(options.host, options.path, leave_bytes=options.leave_bytes)
    print(json.dumps({"taken_bytes": taken}) if options.json else f"{taken} bytes taken under {options.path}.")
    return 0


def _unfill(options: argparse.Namespace) -> int:
    Lab(options.lab).unfill(options.host, options.path)
    print(json.dumps({"done": "unfilled"}) if options.json else f"{options.path} has its room back.")
    return 0


def _prune(options: argparse.Namespace) -> int:
    removed = images.prune()
    if options.json:
        print(json.dumps({"removed": removed}))
    else:
        print(f"Removed {', '.join(removed)}." if removed else "No image is out of date.")
    return 0


def _ca(options: argparse.Namespace) -> int:
    certificate, key = ensure_ca(Lab(options.lab).layout)
    if options.json:
        print(json.dumps({"certificate": str(certificate), "key": str(key)}))
    else:
        print(f"{certificate}\n{key}")
    return 0


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--lab", default=argparse.SUPPRESS, help="name of the lab (else BACKSTAY_LAB, else demo)")
    shared.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print the result as JSON")
    parser = argparse.ArgumentParser(prog="lab/lab", description=__doc__, parents=[shared])
    commands = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    def add(name: str, action: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, parents=[shared])
        command.set_defaults(action=action)
        return command

    fresh = add("install", _install, "install what the lab needs and the machine lacks")
    fresh.add_argument("--tests", action="store_true", help="and what the tests need beside it: a browser")
    up = add("up", _up, "boot hosts and wait until they are up")
    up.add_argument("hosts", nargs="+", metavar="HOST")
    up.add_argument("--release", default="trixie", help="Debian release: trixie (default) or bookworm")
    up.add_argument(
        "--image",
        default="bare",
        help="bare (default), prepared (the roles' packages) or database (PostgreSQL)",
    )
    up.add_argument(
        "--disk", action="append", default=[], metavar="PATH:SIZE", help="a small disk of its own, like /opt:2g"
    )
    down = add("down", _down, "remove hosts, or without a name everything this lab made")
    down.add_argument("hosts", nargs="*", metavar="HOST")
    add("list", _list, "list the hosts of this lab")
    for name, action, text in (
        ("ssh", _ssh, "log in over ssh, or run a command"),
        ("exec", _exec, "run without the network"),
    ):
        command = add(name, action, text)
        command.add_argument("host", metavar="HOST")
        command.add_argument("command", nargs=argparse.REMAINDER, metavar="CMD")
    for name, done, method, text in (
        ("wait", "is up", Lab.wait, "wait until a host is up"),
        ("kill", "was killed", Lab.kill, "pull the power cord"),
        ("start", "is up", Lab.start, "boot a killed host again"),
        ("reboot", "booted again", Lab.reboot, "reboot from inside and wait for the new boot"),
        ("cut", "is cut off", Lab.cut, "pull the network cable"),
        ("heal", "is connected", Lab.heal, "put the cable back in"),
        ("slow", "is slow", Lab.slow, "leave it a quarter of a core and a narrow cable"),
        ("quick", "is as quick as before", Lab.quick, "give it all cores and the whole cable back"),
    ):
        add(name, _simple(done, method), text).add_argument("host", metavar="HOST")
    fill = add("fill", _fill, "fill a disk of the host's own")
    unfill = add("unfill", _unfill, "give the room back")
    for command in (fill, unfill):
        command.add_argument("host", metavar="HOST")
        command.add_argument("path", metavar="PATH")
    fill.add_argument("--leave-bytes", type=int, default=0, metavar="N")
    add("ca", _ca, "make the lab's certificate authority on first use and print where it is")
    add("prune", _prune, "remove images whose recipe is no more")
    load.add_arguments(add("load", load.main, "send requests and count what comes back"))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    options.lab = getattr(options, "lab", os.environ.get("BACKSTAY_LAB") or "demo")
    options.json = getattr(options, "json", False)
    try:
        status = int(options.action(options))
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever read our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
