"""Images of hosts, made from Debian's packages and cached by the content of their recipe."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

from .commands import as_root, podman, run
from .errors import LabError
from .layout import CHECKOUT, locked

RECIPE = CHECKOUT / "lab" / "images.toml"
GUEST = CHECKOUT / "lab" / "guest"
REPOSITORY = "localhost/backstay-lab"
INIT = "/usr/local/sbin/backstay-lab-init"
_LOCKS = Path("/run/lock")

# Inside the image: one key less to know, one unit less to fail, nothing two hosts could share.
_HOOKS = (
    'rm -f "$1"/etc/ssh/ssh_host_*',
    ': > "$1/etc/machine-id"; rm -f "$1/var/lib/dbus/machine-id"',
    'chroot "$1" systemctl mask systemd-modules-load.service systemd-firstboot.service',
    'chroot "$1" systemctl disable apt-daily.timer apt-daily-upgrade.timer',  # else apt's lock is taken at 6 and 18 h
    'rm -f "$1/etc/hostname" "$1/etc/resolv.conf"; : > "$1/etc/resolv.conf"',
)
_VERSION = "1"


@dataclass(frozen=True)
class Recipe:
    """One image: a Debian release and a list of packages."""

    release: str
    kind: str
    suite: str
    packages: tuple[str, ...]
    digest: str

    @property
    def tag(self) -> str:
        return f"{REPOSITORY}:{self.release}-{self.kind}-{self.digest[:12]}"


def guest_files(root: Path) -> list[tuple[str, int, bytes]]:
    """Path, mode and content of every file laid over the image, sorted."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return [
        (str(path.relative_to(root)), 0o755 if os.access(path, os.X_OK) else 0o644, path.read_bytes()) for path in files
    ]


def load_recipe(release: str, kind: str, recipe: Path = RECIPE, guest: Path = GUEST) -> Recipe:
    """Read a recipe. Raises `LabError` for a release or kind it does not have."""
    described = tomllib.loads(recipe.read_text(encoding="utf-8"))
    releases, images = described["releases"], described["images"]
    if release not in releases:
        raise LabError(f"The lab has no Debian release {release!r}: choose one of {', '.join(sorted(releases))}.")
    if kind not in images:
        raise LabError(f"The lab has no image {kind!r}: choose one of {', '.join(sorted(images))}.")
    suite, packages = str(releases[release]["suite"]), tuple(sorted(images[kind]["packages"]))
    digest = hashlib.sha256(repr((_VERSION, suite, packages, _HOOKS, guest_files(guest))).encode()).hexdigest()
    return Recipe(release, kind, suite, packages, digest)


def machine_apt_options() -> list[str]:
    """The machine's settings of apt without which its packages may not be reachable: proxy and date checks."""
    wanted = ("Acquire::http::Proxy ", "Acquire::https::Proxy ", "Acquire::Check-Date ", "Acquire::Check-Valid-Until ")
    try:
        dumped = run(["apt-config", "dump"], check=False).stdout
    except LabError:
        return []
    lines = [line for line in dumped.splitlines() if line.startswith(wanted)]
    return [line for line in lines if "127.0.0.1" not in line and "localhost" not in line]


def ensure_image(recipe: Recipe) -> str:
    """Build the image unless it is there, one builder at a time; returns its tag."""
    if podman("image", "exists", recipe.tag, check=False).ok:
        return recipe.tag
    with locked(_LOCKS / f"backstay-lab-{recipe.digest[:12]}.lock"):
        if not podman("image", "exists", recipe.tag, check=False).ok:
            _build(recipe)
    return recipe.tag


def prune() -> list[str]:
    """Remove images of recipes that are no more; those a host still uses stay. Returns the tags removed."""
    described = tomllib.loads(RECIPE.read_text(encoding="utf-8"))
    current = {load_recipe(release, kind).tag for release in described["releases"] for kind in described["images"]}
    listed = podman("images", "--format", "{{.Repository}}:{{.Tag}}", REPOSITORY).stdout.split()
    return [tag for tag in listed if tag not in current and podman("rmi", tag, check=False).ok]


def _build(recipe: Recipe) -> None:
    print(
        f"Building the image {recipe.tag} ({len(recipe.packages)} packages; about a minute, once) ...", file=sys.stderr
    )
    with tempfile.TemporaryDirectory(prefix="backstay-lab-", dir="/var/tmp") as workspace:
        overlay, tree = Path(workspace, "guest.tar"), Path(workspace, "tree.tar")
        with tarfile.open(overlay, "w") as archive:
            for name, mode, content in guest_files(GUEST):
                add_file(archive, name, mode, content)
        options = [f"--aptopt={line}" for line in machine_apt_options()]
        hooks = [f"--customize-hook={hook}" for hook in (f"tar-in {overlay} /", *_HOOKS)]
        command = [
            "mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(recipe.packages)}", *options, *hooks,
            recipe.suite, str(tree),
        ]  # fmt: skip
        log = Path(workspace, "log")
        with log.open("wb") as stream:
            done = subprocess.run(
                as_root(command), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, timeout=1500, check=False
            )
        if done.returncode != 0:
            evidence = " / ".join(log.read_text(errors="replace").splitlines()[-6:])
            raise LabError(f"mmdebstrap could not build the image {recipe.tag}: {evidence}")
        podman("import", "--change", f'CMD ["{INIT}"]', str(tree), recipe.tag, timeout_seconds=600)


def add_file(archive: tarfile.TarFile, name: str, mode: int, content: bytes) -> None:
    """Add a file that belongs to root."""
    member = tarfile.TarInfo(name)
    member.mode, member.size, member.mtime = mode, len(content), int(time.time())
    archive.addfile(member, io.BytesIO(content))
