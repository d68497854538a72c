"""Stores for repositories on the loopback: an SFTP server and an S3 store, and restic repositories made in them."""

from __future__ import annotations

import asyncio
import atexit
import base64
import contextlib
import datetime
import hashlib
import json
import os
import random
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import asyncssh
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.poly1305 import Poly1305

from ansible_collections.backstay.ops.plugins.module_utils import _s3
from ansible_collections.backstay.ops.plugins.module_utils._backup_settings import RepositorySettings
from ansible_collections.backstay.ops.plugins.module_utils._repository import Repository
from ansible_collections.backstay.ops.plugins.module_utils._run import run

PASSWORD = "correct horse battery staple"


_RESERVED: list[socket.socket] = []


def free_port() -> int:
    """A port of the loopback that is given out once. A store's ten are known before one of them is open: they lie below
    those that Linux gives to outgoing connections, and each is reserved by a name that ends with this process, so that
    neither a process beside this one nor a second call comes upon it."""
    while True:
        port = random.randrange(10_000, 32_000)
        name = socket.socket(socket.AF_UNIX)
        try:
            name.bind(f"\0backstay-test-port-{port}")
            with socket.socket() as listening:
                listening.bind(("127.0.0.1", port))
        except OSError:
            name.close()
            continue
        _RESERVED.append(name)
        return port


def repository(directory: Path, location: str | None = None, **changed: Any) -> Repository:
    """A repository of the application `portal`: below a test's directory, or at a location."""
    secrets = {"password": PASSWORD, **changed.pop("secrets", {})}
    settings = RepositorySettings(
        location=location or str(directory / "repository"), own_disk=False, **changed.pop("settings", {})
    )
    given: dict[str, Any] = {"name": "disk", "application": "portal", "private": directory / "run", "runner": run}
    return Repository(settings=settings, secrets=secrets, **{**given, **changed})


# restic takes half a second to try a password, on purpose; a test opens a repository a dozen times


def cheap_key(directory: Path, password: str = PASSWORD) -> None:
    """Give the one key of a fresh local repository a password check that costs nothing. What a key file holds is the
    repository's own key, encrypted with AES-256 (CTR) and authenticated with Poly1305-AES by keys from scrypt."""
    (path,) = (directory / "keys").iterdir()
    value = json.loads(path.read_bytes())
    cost = {name: int(value[name]) for name in ("N", "r", "p")}
    sealed = base64.b64decode(value["data"])
    plain = _aes(_scrypt(password, value["salt"], cost)[:32], sealed[:16], sealed[16:-16])
    cost = {"N": 2, "r": 1, "p": 1}
    keys, nonce = _scrypt(password, value["salt"], cost), os.urandom(16)
    hidden = _aes(keys[:32], nonce, plain)
    once = Cipher(algorithms.AES(keys[32:48]), modes.ECB()).encryptor().update(nonce)
    mac = Poly1305.generate_tag(keys[48:64] + once, hidden)
    content = json.dumps({**value, **cost, "data": base64.b64encode(nonce + hidden + mac).decode()}).encode()
    path.unlink()
    (directory / "keys" / hashlib.sha256(content).hexdigest()).write_bytes(content)


def _scrypt(password: str, salt: str, cost: dict[str, int]) -> bytes:
    return hashlib.scrypt(
        password.encode(), salt=base64.b64decode(salt), n=cost["N"], r=cost["r"], p=cost["p"], maxmem=1 << 30, dklen=64
    )


def _aes(key: bytes, nonce: bytes, content: bytes) -> bytes:
    return Cipher(algorithms.AES(key), modes.CTR(nonce)).encryptor().update(content)


@cache
def _template() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="backstay-template-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    repository(directory).initialize()
    cheap_key(directory / "repository")
    return directory / "repository"


def made(directory: Path, location: str | None = None, **changed: Any) -> Repository:
    """A local repository that is there already, and opens at once."""
    found = repository(directory, location, **changed)
    shutil.copytree(_template(), found.settings.location, dirs_exist_ok=True)
    return found


# SFTP


@dataclass
class Sftp:
    """An SFTP server of this process. `location(path)` is how restic names a directory on it."""

    port: int
    private_key: str
    known_hosts: str
    loop: asyncio.AbstractEventLoop
    stopping: asyncio.Event

    def location(self, path: Path) -> str:
        return f"sftp://backup@127.0.0.1:{self.port}/{path}"

    @property
    def secrets(self) -> dict[str, str]:
        return {"private_key": self.private_key, "known_hosts": self.known_hosts}

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.stopping.set)


class _Files(asyncssh.SFTPServer):
    def exit(self) -> None:
        """As OpenSSH's ends; without a status the client calls its end a failure."""
        self.channel.exit(0)


@contextlib.contextmanager
def sftp_server() -> Iterator[Sftp]:
    host_key, client_key = asyncssh.generate_private_key("ssh-ed25519"), asyncssh.generate_private_key("ssh-ed25519")
    ready = threading.Event()
    server: list[Sftp] = []

    class Known(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            return True

        def public_key_auth_supported(self) -> bool:
            return True

        def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
            return username == "backup" and key.public_data == client_key.public_data

    async def serve() -> None:
        stopping = asyncio.Event()
        acceptor = await asyncssh.create_server(
            Known, "127.0.0.1", 0, server_host_keys=[host_key], sftp_factory=_Files, allow_scp=False
        )
        port = acceptor.get_port()
        public = host_key.export_public_key().decode().strip()
        server.append(
            Sftp(
                port,
                client_key.export_private_key("openssh").decode(),
                f"[127.0.0.1]:{port} {public}\n",
                asyncio.get_running_loop(),
                stopping,
            )
        )
        ready.set()
        await stopping.wait()
        acceptor.close()
        await acceptor.wait_closed()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    if not ready.wait(20):
        raise RuntimeError("the SFTP server did not start")
    try:
        yield server[0]
    finally:
        with contextlib.suppress(RuntimeError):
            server[0].stop()
        thread.join(10)


# S3

# Where its parts talk to each other.
_INNER = (
    "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
    "s3.port.grpc",
)  # fmt: skip


@dataclass
class S3:
    """An S3 store in a process of its own."""

    http: int
    https: int
    ca: str
    directory: Path
    secrets: dict[str, str] = field(default_factory=dict)
    writer: dict[str, str] = field(default_factory=dict)  # may not delete
    process: subprocess.Popen[bytes] | None = None
    buckets: set[str] = field(default_factory=set)
    inner: dict[str, int] = field(default_factory=lambda: {part: free_port() for part in _INNER})

    def put(self, path: str, query: str = "", body: bytes = b"") -> None:
        """Write a bucket, an object, or something about them; the library itself only reads."""
        digest = hashlib.sha256(body).hexdigest()
        at = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        host = f"127.0.0.1:{self.http}"
        with mock.patch.object(_s3, "_EMPTY", digest):
            headers = _s3.sign("PUT", host, f"/{path}", query, secrets=self.secrets, at=at)
        address = f"http://{host}/{path}{'?' if query else ''}{query}"
        urllib.request.urlopen(urllib.request.Request(address, data=body, headers=headers, method="PUT"), timeout=10)

    def made(self, bucket: str, path: str = "portal") -> str:
        """The location of a repository that is there already, and opens at once."""
        return self.filled(bucket, _template(), path)

    def filled(self, bucket: str, repository: Path, path: str = "portal") -> str:
        """The location of a copy of a local repository. A bucket takes a share of the store: one has many paths."""
        if bucket not in self.buckets:
            self.put(bucket)
            self.buckets.add(bucket)
        for part in sorted(repository.rglob("*")):
            if part.is_file():
                self.put(f"{bucket}/{path}/{part.relative_to(repository)}", body=part.read_bytes())
        return self.location(bucket, path)

    def start(self) -> None:
        """As it was when it was stopped, with all that it holds."""
        weed = Path(sysconfig.get_path("scripts")) / "weed"
        inner = [f"-{part}={port}" for part, port in self.inner.items()]
        command = [
            str(weed), "server", f"-dir={self.directory / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *inner,
            "-volume.max=30", "-master.volumeSizeLimitMB=64", "-master.telemetry=false", "-filer", "-s3",
            "-master.electionTimeout=500ms",  # there is one: by default it waits ten seconds for others to come back
            f"-s3.port={self.http}",
            "-s3.port.iceberg=0", "-s3.port.lance=0",  # at fixed ports: of two stores one would not start
            f"-s3.port.https={self.https}", f"-s3.cert.file={self.directory / 'c.pem'}",
            f"-s3.key.file={self.directory / 'k.pem'}", f"-s3.config={self.directory / 's3.json'}",
        ]  # fmt: skip
        with (self.directory / "log").open("wb") as log:
            self.process = subprocess.Popen(["nice", "-n", "10", *command], stdout=log, stderr=log, cwd=self.directory)
        _wait(self.process, self, self.directory / "log")

    def stop(self) -> None:
        """It is gone from one moment to the next."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def location(self, bucket: str, path: str = "portal", *, tls: bool = False) -> str:
        scheme, port = ("https", self.https) if tls else ("http", self.http)
        return f"s3:{scheme}://127.0.0.1:{port}/{bucket}/{path}"


def _certificate(directory: Path) -> tuple[Path, Path]:
    key, certificate = directory / "k.pem", directory / "c.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=store",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return key, certificate


@contextlib.contextmanager
def s3_store() -> Iterator[S3]:
    directory = Path(tempfile.mkdtemp(prefix="backstay-s3-"))
    _key, certificate = _certificate(directory)
    admin = {"access_key_id": "admin-key", "secret_access_key": "admin-secret"}
    writer = {"access_key_id": "writer-key", "secret_access_key": "writer-secret"}

    def identity(name: str, who: dict[str, str], actions: list[str]) -> dict[str, Any]:
        credentials = [{"accessKey": who["access_key_id"], "secretKey": who["secret_access_key"]}]
        return {"name": name, "credentials": credentials, "actions": actions}

    everything = ["Admin", "Read", "Write", "List", "Tagging"]
    (directory / "s3.json").write_text(
        json.dumps({"identities": [identity("a", admin, everything), identity("w", writer, ["Read", "List"])]})
    )
    (directory / "data").mkdir()
    store = S3(free_port(), free_port(), certificate.read_text(), directory, admin, writer)
    try:
        store.start()
        yield store
    finally:
        if store.process is not None:
            store.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                store.process.wait(1)
        store.stop()
        shutil.rmtree(directory, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], store: S3, log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{store.http}/", timeout=2)
        except urllib.error.HTTPError:
            return  # it answers: nobody may list buckets without a name
        except OSError:
            time.sleep(0.3)
        else:
            return
    raise RuntimeError(f"the S3 store did not start:\n{log.read_text()[-3000:]}")


def tree(directory: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory


def all_bytes(directory: Path) -> bytes:
    """The content of every file below a directory, to look for what must not be there."""
    found = b""
    for here, _below, names in os.walk(directory):
        for name in names:
            found += Path(here, name).read_bytes()
    return found
