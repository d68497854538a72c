"""A host that lost everything, or a new one in its place: what it must learn from the repositories and the offline key.

`recall` says what Vault would, where that is lost too. After `learn` the catalogue knows the restore points, their
signatures are believed, and the payload of the newest point's release lies where releases look for it. What follows is
an ordinary release and an ordinary restore.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _escrow
from ._catalogue import Copy, Point, points, rebuild
from ._errors import BackstayError, GateRefused, InputError
from ._host import Host
from ._manifest import digest, from_bytes
from ._points import choose
from ._proof import prove
from ._repository import FORMAT as SECRETS_FORMAT
from ._repository import Repository, RepositoryError, read_secrets, repositories_of
from ._run import Runner, run
from ._sandbox import SystemdSandbox
from ._storage import canonical

if TYPE_CHECKING:
    from ._backup_settings import BackupPolicy

_SECRETS = "secrets.json"  # among the configuration in a restore point


@dataclass(frozen=True)
class Learnt:
    """What the repositories told: how many restore points, and the newest one's release, version and payload;
    `repository` is the one whose copy of it was believed."""

    points: int
    run: str
    release: str
    version: str
    payload: str
    repository: str


@dataclass(frozen=True)
class Recalled:
    """What Vault would tell: the application's `secrets` by key, and what its repositories are opened with, by name."""

    run: str
    secrets: Mapping[str, Any] = field(repr=False)
    repositories: Mapping[str, Any] = field(repr=False)

    def to_variables(self, application: str) -> dict[str, Any]:
        """As the inventory calls them."""
        return {
            "backstay_secrets": {application: dict(self.secrets)},
            "backstay_backup_secrets": {application: dict(self.repositories)},
        }


def recall(
    offline_key: Path,
    name: str,
    *,
    wanted: str = "latest",
    repository: str | None = None,
    say: Callable[[str], None],
    runner: Runner = run,
    root: Path = Path("/"),
) -> Recalled:
    """The secrets of an application of which this host may know nothing yet, from a restore point that the key vouches
    for. Nothing is written down here.

    Raises InputError for a key of another application, GateRefused where the point cannot be believed, BackstayError.
    """
    from ._drill import open_with

    opened = open_with(offline_key, wanted=wanted, repository=repository, say=say, runner=runner, root=root)
    _refuse_another(opened.key, name, offline_key)
    run_, store = opened.point.run, opened.store
    proof = prove(
        run_,
        store,
        2,
        layout=opened.layout,
        application=opened.application,
        sandbox=SystemdSandbox(opened.application),
        public_keys=opened.key.manifest_keys,
        runner=runner,
        say=say,
        alone=True,  # what is taken is held against the manifest
    )
    if not proof.ok:
        raise GateRefused(f"{proof.sentence} Its secrets are not believed: choose another point (--point).")
    content = store.read(opened.copy.manifest_snapshot, "/manifest.json")
    known = from_bytes(content, origin=f"the manifest of {run_}").configuration.get(_SECRETS)
    secrets = store.read(opened.copy.snapshot, f"/configuration/{_SECRETS}") if known else b""
    if digest(content) != proof.manifest_sha256 or known is None or digest(secrets) != known.sha256:
        raise GateRefused(
            f"The secrets in {run_} are not those that its manifest names: choose another point (--point), or give "
            "them by Vault."
        )
    repositories = {each: dict(kept["secrets"]) for each, kept in opened.key.repositories.items()}
    return Recalled(run_, json.loads(secrets)["values"], repositories)


def _refuse_another(key: _escrow.OfflineKey, name: str, origin: Path) -> None:
    if key.application != name:
        raise InputError(f"{origin} is the offline key of {key.application}, and this is {name}.")


def learn(
    host: Host,
    offline_key: Path,
    *,
    wanted: str = "latest",
    repository: str | None = None,
    say: Callable[[str], None],
) -> Learnt:
    """Make this host know the restore points of an application that was declared here and never released. The point is
    taken from `repository`; without a name, from the first one that has it as the key vouches for it.

    Raises InputError where something is live here, GateRefused where the point cannot be believed, BackstayError.
    """
    layout, storage = host.layout, host.storage
    if host.live() is not None:
        unfinished = storage.read(layout.rebuilding)
        if unfinished:
            raise InputError(
                f"{host.live()} is live here behind the closed door, and its data are still to come: run "
                f"`{unfinished.decode().strip()}`, which opens it."
            )
        raise InputError(f"{host.live()} is live here, so nothing needs to be rebuilt: use `backstay restore`.")
    key = _escrow.read(offline_key, storage)
    _refuse_another(key, layout.name, offline_key)
    application = host.application()
    if application.backup is None:
        raise InputError(f"The file of {layout.name} has no `backup`: declare its repositories, then run this again.")
    storage.write(layout.trusted_keys, "".join(f"{each}\n" for each in key.manifest_keys).encode(), mode=0o600)
    stores = _opened(host, application.backup, {name: dict(each["secrets"]) for name, each in key.repositories.items()})
    if repository is not None and repository not in stores:
        raise InputError(f"There is no repository {repository!r} to learn from; there is: {', '.join(stores)}.")
    found = points(layout, storage)
    if not any(point.good for point in found):  # of a run that came before anything was brought back
        found = _catalogue_of(host, stores, offline_key, say)
    point, copy = choose(found, wanted, of_releases={}, repository=repository)
    copy = _believed(host, stores, point, (copy,) if repository else point.good_copies, keys=key.manifest_keys, say=say)
    manifest = from_bytes(
        stores[copy.repository].read(copy.manifest_snapshot, "/manifest.json"), origin=f"the manifest of {point.run}"
    )
    if not manifest.payload:
        raise BackstayError(f"The point {point.run} was made before anything was live: it holds no release.")
    _fetch_payloads(host, stores[copy.repository], copy.snapshot)
    if not layout.payload(manifest.payload).exists():
        raise BackstayError(f"The point {point.run} lacks the payload {manifest.payload[:12]} of {manifest.release}.")
    return Learnt(len(found), point.run, manifest.release, manifest.version, manifest.payload, copy.repository)


def _opened(host: Host, policy: BackupPolicy, kept: Mapping[str, Mapping[str, Any]]) -> dict[str, Repository]:
    """The repositories that something opens, with Vault's secrets and those that the key has kept. Where both have one,
    Vault's is newer; but what a store refuses is worth nothing, and then the key's counts. What was found stays."""
    layout, storage = host.layout, host.storage
    given = read_secrets(layout, storage) if layout.backup_secrets.exists() else {}
    found = {name: {**kept.get(name, {}), **given.get(name, {})} for name in {**given, **kept}}

    def written() -> dict[str, Repository]:
        content = canonical({"format": SECRETS_FORMAT, "repositories": found})
        storage.write(layout.backup_secrets, content + b"\n", mode=0o600)
        return repositories_of(layout, policy.repositories, storage, runner=host.runner, cached=False)

    for name, store in written().items():
        if found.get(name) != kept.get(name) and name in kept and _refuses(store):
            found[name] = dict(kept[name])
    return {name: store for name, store in written().items() if name in found}


def _refuses(store: Repository) -> bool:
    """Whether a store is there and lets nobody in with these secrets."""
    try:
        store.identity()
    except RepositoryError as refused:
        return refused.kind in ("wrong key", "refused")
    return False


def _believed(
    host: Host,
    stores: Mapping[str, Repository],
    point: Point,
    copies: Sequence[Copy],
    *,
    keys: Sequence[str],
    say: Callable[[str], None],
) -> Copy:
    """The first of the copies that is as the key vouches for it; why another is not, is told. Raises GateRefused."""
    lost = []
    application = host.application()
    for copy in copies:
        if copy.repository not in stores:
            lost.append(f"The key does not open {copy.repository}, which has {point.run}.")
            continue
        try:
            proof = prove(
                point.run,
                stores[copy.repository],
                2,
                layout=host.layout,
                application=application,
                sandbox=SystemdSandbox(application),
                public_keys=keys,
                runner=host.runner,
                say=say,
                alone=True,  # what is taken is held against the manifest
            )
        except BackstayError as away:
            lost.append(away.message)
        else:
            if proof.ok:
                return copy
            lost.append(proof.sentence)
        say(lost[-1])
    raise GateRefused(f"{lost[0]} Nothing was released or restored: choose another point (--point).", lines=tuple(lost))


def _catalogue_of(
    host: Host, stores: Mapping[str, Repository], offline_key: Path, say: Callable[[str], None]
) -> tuple[Point, ...]:
    """The catalogue, written anew from the repositories that open and the runs that can be read; others are told."""
    reachable = []
    for name, store in stores.items():
        try:
            if store.identity() is not None:
                reachable.append(store)
        except BackstayError as lost:
            say(f"{name}: {lost.message}")
    if not reachable:
        raise BackstayError(
            f"None of the repositories of {host.layout.name} can be opened with {offline_key}: see the lines above."
        )
    found = rebuild(host.layout, host.storage, host.now, reachable, damaged=say)
    if not found:
        raise BackstayError(
            f"The repositories that open with {offline_key} hold no restore point of {host.layout.name} that can be "
            "read: see the lines above."
        )
    return found


def _fetch_payloads(host: Host, store: Repository, snapshot: str) -> None:
    """Put the point's payloads, and what vouches for them, where releases look for them."""
    fetched = host.layout.state / "rebuilt"
    host.storage.remove_tree(fetched)
    try:
        store.restore(snapshot, fetched, ("/artifacts",))
        for path in sorted((fetched / "artifacts").iterdir()):
            os.chown(path, 0, 0, follow_symlinks=False)
            path.chmod(0o600)
            host.storage.sync(path)
            host.storage.rename(path, host.layout.artifacts / path.name)
    finally:
        host.storage.remove_tree(fetched)
