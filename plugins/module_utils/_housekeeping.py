"""The steps after the point of no return: write it down, settle, remove what is old."""

from __future__ import annotations

import contextlib
import os
import time

from . import _generations as generations
from ._host import Host
from ._releases import prunable, withdrawn_by
from ._steps import RESTORES, ROLLBACKS
from ._systemd import is_release_unit
from ._transaction import Transaction

# What lies in the directory of payloads; `.partial` is one that is being placed, or what a host that died left of it.
PAYLOADS = ("*.tar", "*.tar.partial", "*.json", "*.sig")
SENT_SECONDS = 3600.0  # from when a payload was sent until its release begins, at most


class Housekeeping(Host):
    """What is written down when it is over, and what goes."""

    def confirm_release(self, transaction: Transaction) -> str:
        history = self.history()
        known = history.get(transaction.candidate)
        if transaction.operation in (*ROLLBACKS, *RESTORES):
            for left in withdrawn_by(history, transaction.previous, transaction.candidate):
                self.ledger.append(
                    "withdrawn",
                    left,
                    reason=transaction.request.why or f"rolled back to {transaction.candidate}",
                    withdrawn_by=transaction.request.by,
                    transaction=transaction.id,
                )
        if known is None or known.state != "live" or known.data.get("transaction") != transaction.id:
            self.ledger.append(
                "live",
                transaction.candidate,
                live_by=transaction.request.by,
                live_why=transaction.request.why,
                run=transaction.request.run,
                transaction=transaction.id,
                before=transaction.previous,
                probes=self.probed(),
            )
        return f"{transaction.candidate} is live"

    def do_settle(self, transaction: Transaction | None) -> str:
        """Make what runs be what must run. Without `keep_warm` it was the release before the last that made room: the
        one just left is warm now as ever."""
        return self.settle()

    def prune_releases(self, transaction: Transaction) -> str:
        from . import _restore_point

        application = self.application()
        history = self.history()
        made = [str(entry.data.get("restore_point")) for entry in self.ledger.read() if entry.event == "kept"]
        _restore_point.prune(self.layout, self.storage, application.releases.keep_restore_points, made)
        needed = frozenset(point.release for point in _restore_point.points(self.layout, self.storage))
        # A restore that brought its release along can be undone as long as both are here: the data and their release.
        changes = [entry.data["restored"] for entry in self.ledger.read() if entry.event in ("restored", "returned")]
        needed |= {str(each.get("left")) for each in changes if self.layout.generation(each["before"]).is_dir()}
        doomed = prunable(history, self.live(), keep=application.releases.keep, needed=needed)
        for release in doomed:
            self._forget_files(release)
            self.ledger.append("pruned", release, transaction=transaction.id)
        for past in history.ordered():
            if past.state in ("failed", "pruned") and self._files_of(past.id):
                self._forget_files(past.id)  # a power cut brought back what a killed transaction had removed
        self._sweep()
        return f"{len(doomed)} removed"

    def _files_of(self, release: str) -> bool:
        """Whether anything of a release lies on this host."""
        places = (self.layout.release(release), self.layout.release_configuration(release))
        return any(place.exists() for place in places) or bool(self._unit_files(release))

    def _forget_files(self, release: str) -> None:
        self._forget_units(release)
        self.storage.remove_tree(self.layout.release(release))
        self.storage.remove_tree(self.layout.release_configuration(release))

    def _sweep(self) -> None:
        """Remove environments, payloads and assets that no release on this host refers to any more."""
        kept = [path for path in self.layout.releases.iterdir() if not path.name.startswith(".")]
        environments = {os.readlink(path / "venv").rpartition("/")[2] for path in kept if (path / "venv").is_symlink()}
        for path in self.layout.environments.iterdir():
            if path.name not in environments:
                self.storage.remove_tree(path)
        history = self.history()
        payloads = {str(r.data.get("payload")) for r in history.ordered() if self.layout.release(r.id).exists()}
        for path in (each for kind in PAYLOADS for each in self.layout.artifacts.glob(kind)):
            # A release that comes next sends its payload before it asks for the lock that is held here.
            if path.suffix == ".partial" or path.name.partition(".")[0] not in payloads:
                with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
                    if time.time() - path.stat().st_mtime > SENT_SECONDS:
                        self.storage.remove(path)
        assets = {name for path in kept for name in self._hashed(path / "static")}
        for path in list(self.layout.static.rglob("*")):
            if path.is_file() and str(path.relative_to(self.layout.static)) not in assets:
                path.unlink()
        self._tidy()

    def _tidy(self) -> None:
        """Remove what a power cut left of writes and removals; all of these are made under the application's lock."""
        layout = self.layout
        for directory in (layout.releases, layout.configuration / "releases", layout.restore_points):
            self.storage.tidy(directory)
        head = layout.ledger.with_suffix(".head")
        for path in (layout.active, layout.data, layout.maintenance_flag, head, layout.ballast):
            self.storage.tidy(path.parent, path.name.__eq__)
        generations.tidy(layout, self.storage)
        self.storage.tidy(layout.units, lambda name: is_release_unit(layout.name, name))
