"""The rehearsal of the worst day: a restore point is proven on a host that never had the application.

Nothing is known here but the offline key: the repositories are those that it names, the application's file is read from
the restore point, the release is built anew from the payload that lies in it. Nothing of it stays.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import _escrow, _evidence
from ._application import Application, from_dict
from ._catalogue import Copy, Point, from_repository
from ._errors import BackstayError, InputError
from ._layout import Layout
from ._points import choose
from ._proof import Proof, prove
from ._repository import Repository
from ._run import Runner, run
from ._sandbox import Limits, SystemdSandbox, sweep
from ._storage import Storage
from ._transaction import utc_now


def drill(
    offline_key: Path,
    *,
    level: int,
    wanted: str,
    repository: str | None,
    by: str,
    say: Callable[[str], None],
    runner: Runner = run,
    root: Path = Path("/"),
) -> tuple[Proof, Path]:
    """Prove a point from a repository and the offline key alone; returns the proof and its evidence on this host.

    Raises InputError for a repository that the key does not name, BackstayError where none can be opened.
    """
    storage = Storage()
    opened = open_with(offline_key, wanted=wanted, repository=repository, say=say, runner=runner, root=root)
    layout, store, point, application = opened.layout, opened.store, opened.point, opened.application
    policy = application.backup
    limits = (
        Limits(memory_max_bytes=policy.proof.memory_max_bytes, seconds=policy.proof.seconds) if policy else Limits()
    )
    hidden = (Path(store.settings.location),) if store.settings.kind == "local" else ()
    sandbox = SystemdSandbox(application, hidden=hidden, runner=runner)
    for directory in (layout.state.parent, layout.state, layout.proof_scratch):
        storage.make_directory(directory, mode=0o700)
    sweep(layout.proof_scratch, stop=sandbox.stop)
    proof = prove(
        point.run,
        store,
        level,
        layout=layout,
        application=application,
        sandbox=sandbox,
        public_keys=opened.key.manifest_keys,
        limits=limits,
        runner=runner,
        say=say,
    )
    restic = runner(["restic", "version"], check=False).stdout
    evidence = _evidence.record(
        layout,
        storage,
        proof,
        host=os.uname().nodename,
        by=by,
        versions=_evidence.tools(" ".join(restic.split()[1:2])),
        now=utc_now,
    )
    return proof, evidence


@dataclass(frozen=True)
class Opened:
    """What an offline key opens: a repository, a restore point in it, and the application as that point knows it."""

    key: _escrow.OfflineKey
    layout: Layout
    store: Repository
    point: Point
    copy: Copy
    application: Application


def open_with(
    offline_key: Path,
    *,
    wanted: str,
    repository: str | None = None,
    say: Callable[[str], None],
    runner: Runner = run,
    root: Path = Path("/"),
) -> Opened:
    """The first repository of the key that opens (or the one that is named), and a point in it; nothing is proven yet.

    Raises InputError for a repository that the key does not name, BackstayError where none can be opened.
    """
    key = _escrow.read(offline_key, Storage())
    layout = Layout(key.application, root)
    if repository is not None and repository not in key.repositories:
        raise InputError(f"The key names no repository {repository!r}; it names: {', '.join(key.repositories)}.")
    store, found = _first_that_opens(key, layout, repository, runner, say)
    point, copy = choose(found, wanted, of_releases={})
    content = store.read(copy.snapshot, "/configuration/application.json")
    application = from_dict(json.loads(content), file=f"application.json of {point.run}")
    return Opened(key, layout, store, point, copy, application)


def _first_that_opens(
    key: _escrow.OfflineKey, layout: Layout, wanted: str | None, runner: Runner, say: Callable[[str], None]
) -> tuple[Repository, tuple[Point, ...]]:
    """The first repository that tells of restore points, and which; what cannot be read there is told."""
    lost = []
    for name, settings in _escrow.settings_of(key).items():
        if wanted not in (None, name):
            continue
        store = Repository(
            name=name,
            application=key.application,
            settings=settings,
            secrets=dict(key.repositories[name]["secrets"]),
            private=layout.root / "run" / "backstay",
            runner=runner,
        )
        try:
            if store.identity() is not None:
                found = from_repository(store, damaged=say)
                if found:
                    return store, found
                lost.append(f"{name}: there is no restore point at {settings.location} that can be read")
            else:
                lost.append(f"{name}: there is no repository at {settings.location}")
        except BackstayError as refused:
            lost.append(f"{name}: {refused.message}")
        say(lost[-1])
    raise BackstayError(f"No repository of {key.application} can be opened with this key: {lost[0]}", lines=tuple(lost))
