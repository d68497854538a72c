"""Commands, always as lists, always with a time limit; those that need root go through sudo for anybody else."""

from __future__ import annotations

import functools
import os
import resource
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import LabError


@dataclass(frozen=True)
class Completed:
    returncode: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        return self.returncode == 0


def as_root(arguments: Sequence[str]) -> list[str]:
    """The command, through sudo unless this already is root."""
    if os.geteuid() == 0:
        return list(arguments)
    if shutil.which("sudo") is None:
        raise LabError(f"{arguments[0]} needs root and sudo is not installed: run this as root, or install sudo.")
    return ["sudo", *arguments]


def run(
    arguments: Sequence[str],
    *,
    root: bool = False,
    check: bool = True,
    stdin: bytes | None = None,
    timeout_seconds: float = 120.0,
) -> Completed:
    """Run a command to its end. Raises `LabError` when it fails (unless `check` is off), is missing or too slow."""
    command = as_root(arguments) if root else list(arguments)
    shown = " ".join(arguments[:4])
    try:
        done = subprocess.run(
            command,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=timeout_seconds,
            check=False,
        )
    except FileNotFoundError:
        raise LabError(f"{arguments[0]} is not installed: run lab/lab install.") from None
    except subprocess.TimeoutExpired:
        raise LabError(f"`{shown} ...` did not end within {timeout_seconds:.0f} s.") from None
    result = Completed(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
    if check and not result.ok:
        evidence = (result.stderr.strip() or result.stdout.strip()).splitlines()[-5:]
        raise LabError(f"`{shown} ...` ended with {result.returncode}: {' / '.join(evidence)}")
    return result


@functools.cache
def podman_command() -> tuple[str, ...]:
    """podman with the runtime this machine needs: crun refuses cgroups version 1 and the hybrid of both."""
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    return ("podman",) if unified else ("podman", "--runtime", "runc")


def podman(
    *arguments: str, check: bool = True, stdin: bytes | None = None, timeout_seconds: float = 120.0
) -> Completed:
    return run([*podman_command(), *arguments], root=True, check=check, stdin=stdin, timeout_seconds=timeout_seconds)


def file_limit() -> tuple[int, int]:
    """Open files a host may have, soft and hard; never more than this machine lets us give."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 524288 if hard == resource.RLIM_INFINITY else min(hard, 524288)
    return min(1024, most), most


def process_limit() -> int:
    """Processes a host may have; never more than this machine lets us give (podman caps itself at pid_max)."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    most = min(65536, int(Path("/proc/sys/kernel/pid_max").read_text(encoding="ascii")))
    return most if hard == resource.RLIM_INFINITY else min(hard, most)
