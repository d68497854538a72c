"""SSH keys and the certificate authority of a lab."""

from __future__ import annotations

from pathlib import Path

from .addresses import Addresses
from .commands import run
from .errors import LabError
from .layout import LabLayout


def ensure_ssh_key(path: Path, comment: str) -> None:
    """Make an ed25519 key pair at `path` unless there is one."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])


def known_hosts_text(addresses: Addresses, public_keys: dict[str, str]) -> str:
    """The `known_hosts` of the lab: each host by name and by address, with its real key."""
    lines = []
    for host in sorted(public_keys):
        kind, key = public_keys[host].split()[:2]
        lines.append(f"{host},{addresses.address(host)} {kind} {key}\n")
    return "".join(lines)


def ssh_config_text(addresses: Addresses, layout: LabLayout, hosts: list[str]) -> str:
    """The `ssh_config` of the lab: `ssh -F .lab/demo/ssh_config app1` works from anywhere."""
    blocks = [f"Host {host}\n  HostName {addresses.address(host)}\n" for host in sorted(hosts)]
    common = (
        "Host *\n  User root\n"
        f'  IdentityFile "{layout.identity}"\n  IdentitiesOnly yes\n'
        f'  UserKnownHostsFile "{layout.known_hosts}"\n  GlobalKnownHostsFile /dev/null\n'
        "  StrictHostKeyChecking yes\n  ConnectTimeout 10\n"
    )
    return "".join([*blocks, common])


def ensure_ca(layout: LabLayout) -> tuple[Path, Path]:
    """Certificate and key of the lab's own authority, made on first use; the key is its owner's alone."""
    certificate, key = layout.ca / "ca.crt", layout.ca / "ca.key"
    if certificate.exists() and key.exists():
        return certificate, key
    if certificate.exists() or key.exists():
        raise LabError(f"{layout.ca} holds only one of ca.crt and ca.key: remove the directory and try again.")
    layout.ca.mkdir(parents=True, exist_ok=True)
    layout.ca.chmod(0o700)
    fresh_certificate, fresh_key = layout.ca / ".ca.crt", layout.ca / ".ca.key"
    run([
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-sha256",
        "-days", "3650", "-subj", f"/O=Backstay lab/CN=Backstay lab {layout.lab}",
        "-addext", "basicConstraints=critical,CA:TRUE,pathlen:0", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        "-keyout", str(fresh_key), "-out", str(fresh_certificate),
    ])  # fmt: skip
    fresh_key.chmod(0o600)
    fresh_key.rename(key)
    fresh_certificate.rename(certificate)
    return certificate, key
