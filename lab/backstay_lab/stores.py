"""Stores for backups on hosts of the lab: an SFTP and an S3 server that can be stopped, killed and started again.

    store = SftpStore(lab, "s3"); store.start(); place = store.place("portal")
    # place.location for the application's file, place.secrets beside the repository's password in Vault

Both are units of their own, apart from the host's sshd, so that the lab still reaches a host whose store is away.
"""

from __future__ import annotations

import json
import re
import secrets
import shlex
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .commands import run
from .errors import LabError
from .hosts import Lab
from .keys import ensure_ca, ensure_ssh_key
from .layout import CHECKOUT

SFTP_PORT, S3_PORT = 2222, 8334
_READY_SECONDS = 90.0  # after a restart the S3 server takes its time


@dataclass(frozen=True)
class Place:
    """Where a repository may lie, and what opens the store; `secrets` hold no password of the repository."""

    location: str
    secrets: dict[str, Any]


class _Store(ABC):
    """What both have in common: a unit on a host."""

    unit: str

    def __init__(self, lab: Lab, host: str) -> None:
        self.lab = lab
        self.host = host
        self.directory = lab.layout.stores / host

    def stop(self) -> None:
        """Shut the store down; its files stay."""
        self._systemctl("stop")

    def kill(self) -> None:
        """End it where it stands, connections and all; it stays away until `restart`."""
        self.lab.exec(self.host, "systemctl", "kill", "--signal=KILL", self.unit, check=False)
        self._systemctl("stop")

    def restart(self) -> None:
        """Start it, or start it anew, and wait until it answers."""
        self._systemctl("restart")
        self.wait()

    def wait(self) -> None:
        """Wait until it answers. Raises LabError with what it said last."""
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline:
            if self._answers():
                return
            time.sleep(0.3)
        told = self.lab.exec(self.host, "journalctl", "--no-pager", "--lines=5", f"--unit={self.unit}", check=False)
        raise LabError(f"{self.unit} on {self.host} did not answer within {_READY_SECONDS:.0f} s: {told.stdout[-800:]}")

    @abstractmethod
    def _answers(self) -> bool:
        """Whether it can be spoken to."""

    def _systemctl(self, verb: str) -> None:
        self.lab.exec(self.host, "systemctl", verb, self.unit)  # podman exec: works while the host is cut off

    def _script(self, text: str) -> None:
        run(self.lab.ssh_command(self.host, "sh", "-eu"), stdin=text.encode(), timeout_seconds=180.0)


_SFTP_CONFIGURATION = """\
Port PORT
HostKey /etc/ssh/ssh_host_ed25519_key
AuthorizedKeysFile /etc/backstay-lab-sftp/%u.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
AllowTcpForwarding no
AllowStreamLocalForwarding no
PermitTTY no
PermitTunnel no
MaxStartups 50
PidFile none
ChrootDirectory /srv/sftp/%u
Subsystem sftp internal-sftp
ForceCommand internal-sftpDENIED
"""
_SFTP_UNIT = """\
[Unit]
Description=SFTP store of the lab

[Service]
RuntimeDirectory=sshd
RuntimeDirectoryPreserve=yes
ExecStart=/usr/sbin/sshd -D -e -f /etc/backstay-lab-sftp/sshd_config

[Install]
WantedBy=multi-user.target
"""


class SftpStore(_Store):
    """An sshd of its own on port 2222 that speaks SFTP alone, each account locked into its own directory."""

    unit = "backstay-lab-sftp.service"

    def start(self, *accounts: str, deny: Sequence[str] = ()) -> None:
        """Make the accounts (`keeper` where none is named), each with a key of its own, and serve them.

        `deny` are requests that are refused to all, by their names in sftp-server(8): `("remove", "rmdir")` for a store
        in which nothing can be deleted, not even a lock; `("write", "open")` for one that refuses to be used.
        """
        names = accounts or ("keeper",)
        for name in (*names, *deny):
            if not re.fullmatch(r"[a-z][a-z-]{0,29}", name):
                raise LabError(f"{name!r} is no name of an account or request: use small letters and dashes.")
        denied = f" -P {','.join(deny)}" if deny else ""
        configuration = _SFTP_CONFIGURATION.replace("PORT", str(SFTP_PORT)).replace("DENIED", denied)
        steps = [
            "install -d -m 0755 /etc/backstay-lab-sftp /srv/sftp",
            _written("/etc/backstay-lab-sftp/sshd_config", configuration),
            _written(f"/etc/systemd/system/{self.unit}", _SFTP_UNIT),
        ]
        for name in names:
            key = self._key(name)
            ensure_ssh_key(key, f"backstay-lab-{self.lab.name}-{name}")
            public = key.with_name(f"{key.name}.pub").read_text(encoding="ascii")
            steps += [
                # No password, and not locked either: sshd refuses an account that is.
                f"getent passwd {name} >/dev/null || useradd -M --shell /usr/sbin/nologin --password '*' {name}",
                f"install -d -m 0755 /srv/sftp/{name}",
                f"install -d -m 0700 -o {name} -g {name} /srv/sftp/{name}/data",
                _written(f"/etc/backstay-lab-sftp/{name}.pub", public),
            ]
        steps += ["systemctl daemon-reload", f"systemctl enable --quiet {self.unit}"]
        self._script("\n".join(steps) + "\n")
        self.restart()

    def place(self, directory: str, account: str = "keeper") -> Place:
        """A directory for a repository (the client makes it), and what opens the account."""
        address = self.lab.addresses.address(self.host)
        public = self.lab.layout.host_key(self.host)
        kind, key = public.with_name(f"{public.name}.pub").read_text(encoding="ascii").split()[:2]
        return Place(
            f"sftp://{account}@{address}:{SFTP_PORT}//data/{directory}",
            {
                "private_key": self._key(account).read_text(encoding="ascii"),
                "known_hosts": f"[{address}]:{SFTP_PORT} {kind} {key}\n",
            },
        )

    def path(self, directory: str, account: str = "keeper") -> str:
        """The same directory as the store's own host sees it: to count, damage or remove what is in it."""
        return f"/srv/sftp/{account}/data/{directory}"

    def _key(self, account: str) -> Path:
        return self.directory / f"sftp-{account}"

    def _answers(self) -> bool:
        asked = f"exec 3<>/dev/tcp/127.0.0.1/{SFTP_PORT} && head -c 4 <&3"
        return self.lab.exec(self.host, "timeout", "2", "bash", "-c", asked, check=False).stdout == "SSH-"


_S3_UNIT = """\
[Unit]
Description=S3 store of the lab (SeaweedFS)

[Service]
DynamicUser=yes
StateDirectory=backstay-lab-s3
LoadCredential=s3.json:/etc/backstay-lab-s3/s3.json
LoadCredential=tls.crt:/etc/backstay-lab-s3/tls.crt
LoadCredential=tls.key:/etc/backstay-lab-s3/tls.key
ExecStart=/usr/local/bin/weed server -dir=/var/lib/backstay-lab-s3 -ip=127.0.0.1 -ip.bind=127.0.0.1 -volume.max=100 \\
  -master.volumeSizeLimitMB=64 -s3 -s3.ip.bind=0.0.0.0 -s3.port=8333 -s3.port.https=PORT -s3.port.iceberg=0 \\
  -s3.port.lance=0 -s3.config=${CREDENTIALS_DIRECTORY}/s3.json -s3.cert.file=${CREDENTIALS_DIRECTORY}/tls.crt \\
  -s3.key.file=${CREDENTIALS_DIRECTORY}/tls.key

[Install]
WantedBy=multi-user.target
"""

# Whoever writes may add and read, and delete nothing but restic's locks: a server that was broken into can do no more.
_APPEND_ONLY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": ["s3:GetObject", "s3:PutObject", "s3:ListBucket", "s3:GetBucketLocation"],
            "Resource": ["arn:aws:s3:::*", "arn:aws:s3:::*/*"],
        },
        {"Effect": "Allow", "Action": ["s3:DeleteObject"], "Resource": ["arn:aws:s3:::*/locks/*"]},
    ],
}


class S3Store(_Store):
    """SeaweedFS over TLS, by a certificate of the lab's own authority, under the host's name and address.

    It knows two: `writer`, who may delete nothing but locks, and `admin`, who may do everything.
    """

    unit = "backstay-lab-s3.service"

    def start(self, *buckets: str) -> None:
        """Serve these buckets (`backstay` where none is named)."""
        names = buckets or ("backstay",)
        for name in names:
            if not re.fullmatch(r"[a-z][a-z0-9-]{2,62}", name):
                raise LabError(f"{name!r} is no name of a bucket: use 3 to 63 small letters, digits and dashes.")
        keys = self._keys()
        certificate, key = self._certificate()
        program = _weed()
        self._script("install -d -m 0700 /etc/backstay-lab-s3\n")
        if not self.lab.exec(self.host, "test", "-x", "/usr/local/bin/weed", check=False).ok:
            self.lab.copy(self.host, program, "/usr/local/bin/weed")
        steps = [
            "chmod 0755 /usr/local/bin/weed",
            _written("/etc/backstay-lab-s3/s3.json", json.dumps(_identities(keys)), mode="0600"),
            _written("/etc/backstay-lab-s3/tls.crt", certificate.read_text(encoding="ascii"), mode="0600"),
            _written("/etc/backstay-lab-s3/tls.key", key.read_text(encoding="ascii"), mode="0600"),
            _written(f"/etc/systemd/system/{self.unit}", _S3_UNIT.replace("PORT", str(S3_PORT))),
            "systemctl daemon-reload",
            f"systemctl enable --quiet {self.unit}",
        ]
        self._script("\n".join(steps) + "\n")
        self._systemctl("start")  # what it reads never changes, and a restart takes it 20 seconds
        self.wait()
        there = set(re.findall(r"^\s*([a-z][a-z0-9-]+)\s", self._shell("s3.bucket.list"), re.MULTILINE))
        for name in names:
            if name not in there:
                self._shell(f"s3.bucket.create -name {name}")

    def place(self, prefix: str, bucket: str = "backstay", who: str = "writer") -> Place:
        """A prefix of a bucket for a repository, and what opens it; `prune` is who may delete."""
        keys = self._keys()
        certificate, _key = ensure_ca(self.lab.layout)
        return Place(
            f"s3:https://{self.lab.addresses.address(self.host)}:{S3_PORT}/{bucket}/{prefix}",
            {
                **keys[who],
                "ca": certificate.read_text(encoding="ascii"),
                "prune": keys["admin"],
            },
        )

    def _shell(self, command: str) -> str:
        shell = ["timeout", "60", "weed", "shell", "-master=127.0.0.1:9333"]
        return run(self.lab.ssh_command(self.host, *shell), stdin=f"{command}\n".encode()).stdout

    def _keys(self) -> dict[str, dict[str, str]]:
        """The keys of both, made once."""
        file = self.directory / "s3-keys.json"
        if not file.exists():
            made = {
                who: {"access_key_id": f"{who}{secrets.token_hex(6)}", "secret_access_key": secrets.token_urlsafe(30)}
                for who in ("admin", "writer")
            }
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)
            file.write_text(json.dumps(made), encoding="ascii")
        found: dict[str, dict[str, str]] = json.loads(file.read_text(encoding="ascii"))
        return found

    def _certificate(self) -> tuple[Path, Path]:
        """Certificate and key for the host's name and address, made once by the lab's authority."""
        certificate, key = self.directory / "tls.crt", self.directory / "tls.key"
        if certificate.exists() and key.exists():
            return certificate, key
        authority, authority_key = ensure_ca(self.lab.layout)
        self.directory.mkdir(parents=True, exist_ok=True)
        names = f"DNS:{self.host},IP:{self.lab.addresses.address(self.host)}"
        run([
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-sha256",
            "-days", "3650", "-subj", f"/O=Backstay lab/CN={self.host}", "-addext", f"subjectAltName={names}",
            "-addext", "basicConstraints=critical,CA:FALSE", "-addext", "extendedKeyUsage=serverAuth",
            "-CA", str(authority), "-CAkey", str(authority_key), "-keyout", str(key), "-out", str(certificate),
        ])  # fmt: skip
        key.chmod(0o600)
        return certificate, key

    def _answers(self) -> bool:
        """Whether it listens, and its master and filer do too."""
        asked = " && ".join(f"exec 3<>/dev/tcp/127.0.0.1/{port}" for port in (S3_PORT, 9333, 8888))
        return self.lab.exec(self.host, "timeout", "2", "bash", "-c", asked, check=False).ok


def _identities(keys: dict[str, dict[str, str]]) -> dict[str, Any]:
    credentials = {
        who: [{"accessKey": key["access_key_id"], "secretKey": key["secret_access_key"]}] for who, key in keys.items()
    }
    return {
        "identities": [
            {
                "name": "admin",
                "credentials": credentials["admin"],
                "actions": ["Admin", "Read", "Write", "List", "Tagging"],
            },
            {"name": "writer", "credentials": credentials["writer"], "policyNames": ["append-only"]},
        ],
        "policies": [{"name": "append-only", "content": json.dumps(_APPEND_ONLY)}],
    }


def _weed() -> Path:
    """The program: static, and pinned with what the tests need. Raises LabError where that is not installed."""
    program = CHECKOUT / ".venv" / "bin" / "weed"
    if not program.exists():
        raise LabError(f"{program} is missing: run make setup.")
    return program


def _written(path: str, content: str, *, mode: str = "0644") -> str:
    """A step of a script that writes a file; the content is on standard input of the shell, never in a process list."""
    return f"(umask 077; printf %s {shlex.quote(content)} > {path}.new); chmod {mode} {path}.new; mv {path}.new {path}"
