"""The steps that make a release beside the one that serves, up to its being well."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ._errors import BackstayError
from ._host import Host
from ._releases import Release, must_run
from ._steps import ROLLBACKS
from ._storage import canonical
from ._transaction import Transaction
from ._units import unit_text

GUNICORN_CONFIGURATION = Path("/etc/backstay/gunicorn.conf.py")


class Preparation(Host):
    """A release is made beside the one that serves."""

    def do_reserve(self, transaction: Transaction) -> str:
        from ._artifact import read_manifest

        if self.history().get(transaction.candidate) is None:
            manifest = read_manifest(self.layout.payload(transaction.payload))
            self.ledger.append(
                "staged",
                transaction.candidate,
                version=transaction.version,
                commit=manifest.commit,
                payload=transaction.payload,
                notes=manifest.notes,
                by=transaction.request.by,
                why=transaction.request.why,
                run=transaction.request.run,
                transaction=transaction.id,
                configuration_only=transaction.configuration_only,
                override_promotion=transaction.request.override_promotion,
                override_freeze=transaction.request.override_freeze,
                override_backup=transaction.request.override_backup,
                signed_by=transaction.signed_by,
            )
        return transaction.candidate

    def undo_reserve(self, transaction: Transaction, reason: str) -> None:
        """The id stays, marked failed: nothing that was tried is forgotten."""
        known = self.history().get(transaction.candidate)
        if known and known.state == "staged":
            self.ledger.append(
                "failed", transaction.candidate, reason=reason, transaction=transaction.id, probes=self.probed()
            )

    def do_stage(self, transaction: Transaction) -> str:
        from ._artifact import unpack
        from ._runtime import runtime_of

        target = self.layout.release(transaction.candidate)
        partial = target.with_name(f".{target.name}.partial")
        self.storage.remove_tree(partial)
        self.storage.remove_tree(target)
        partial.mkdir(mode=0o750)
        os.chown(partial, 0, self._gid())
        try:
            unpack(self.layout.payload(transaction.payload), partial)
            shutil.copyfile(GUNICORN_CONFIGURATION, partial / "gunicorn.conf.py")
            self.storage.rename(partial, target)
            runtime_of(self.application()).compile_code(target, self.runner)
            self.storage.sync_tree(target)
        except OSError as refused:
            raise BackstayError(
                f"{transaction.candidate} could not be unpacked into {self.layout.releases}: "
                f"{refused.strerror or refused}; "
                "free some space, then release again."
            ) from refused
        return f"{sum(1 for _unused in target.rglob('*'))} files"

    def undo_stage(self, transaction: Transaction, reason: str) -> None:
        target = self.layout.release(transaction.candidate)
        self.storage.remove_tree(target.with_name(f".{target.name}.partial"))
        self.storage.remove_tree(target)

    def do_environment(self, transaction: Transaction) -> str:
        from ._artifact import read_manifest
        from ._runtime import UNFINISHED, runtime_of

        payload = self.layout.payload(transaction.payload)
        manifest = read_manifest(payload)
        runtime = runtime_of(self.application())
        key = runtime.environment_key(manifest)
        target = self.layout.environments / key
        made = not target.exists() or (target / UNFINISHED).exists()
        try:
            runtime.create_environment(payload, manifest, target, self.runner)
        except OSError as refused:
            raise BackstayError(
                f"The virtualenv of {transaction.candidate} could not be made in {self.layout.environments}: "
                f"{refused.strerror or refused}; free some space, then release again."
            ) from refused
        self.storage.link(self.layout.release(transaction.candidate) / "venv", f"../../environments/{key}")
        return f"{key[:8]} {'built' if made else 'shared'}"

    def undo_environment(self, transaction: Transaction, reason: str) -> None:
        """The link goes with the release's directory, a finished environment that nobody refers to when releases are
        pruned; a half-made one goes now: it may be what filled the disk."""
        from ._runtime import UNFINISHED

        for marker in self.layout.environments.glob(f"*/{UNFINISHED}"):
            self.storage.remove_tree(marker.parent)

    def do_configure(self, transaction: Transaction) -> str:
        from ._application import to_dict
        from ._environment import environment_file
        from ._runtime import runtime_of

        application = self.application()
        candidate = transaction.candidate
        target = self.layout.release_configuration(candidate)
        self.storage.make_directory(target, mode=0o700)
        commit = str((self.history().get(candidate) or Release(candidate, "", "", "")).data.get("commit", ""))
        values = self._environment(application, candidate, transaction.version, commit)
        self.storage.write(target / "application.json", canonical(to_dict(application)) + b"\n", mode=0o600)
        self.storage.write(target / "environment", environment_file(values).encode(), mode=0o600)
        runtime = runtime_of(application)
        release = self.layout.release(candidate)
        for process in application.processes.values():
            command = runtime.process_command(
                application, process.name, release, self.layout.socket(candidate), release / "gunicorn.conf.py"
            )
            text = unit_text(application, candidate, process, command)
            self.storage.write(self.layout.units / self.layout.unit(candidate, process.name), text.encode())
        self.systemd.reload()
        return f"{len(application.processes)} units"

    def undo_configure(self, transaction: Transaction, reason: str) -> None:
        self._forget_units(transaction.candidate)
        self.storage.remove_tree(self.layout.release_configuration(transaction.candidate))

    def do_publish(self, transaction: Transaction) -> str:
        """Copy the hashed files into the shared directory: only new names, so no page ever loses an asset."""
        source = self.layout.release(transaction.candidate) / "static"
        names = self._hashed(source)
        fresh = []
        for name in names:
            target = self.layout.static / name
            if target.exists() and target.stat().st_size == (source / name).stat().st_size:
                continue
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            temporary = target.with_name(f".{target.name}.new")
            temporary.unlink(missing_ok=True)
            shutil.copyfile(source / name, temporary)
            temporary.chmod(0o644)
            fresh.append((temporary, target))
        # The content is on the disk before its name is: every later release takes a name for the whole file.
        if fresh:
            self.storage.sync_tree(self.layout.static)
        for temporary, target in fresh:
            os.rename(temporary, target)
        self.storage.sync_tree(self.layout.static)  # also names from a transaction that was killed before this
        return f"{len(fresh)} new of {len(names)}"

    def undo_publish(self, transaction: Transaction, reason: str) -> None:
        """Added assets harm nobody and go when releases are pruned."""

    def do_start(self, transaction: Transaction) -> str:
        unit = self.web_unit(transaction.candidate)
        if not transaction.request.keep_warm and transaction.operation == "release":
            warm = must_run(self.history(), transaction.previous).warm
            if warm:
                self.systemd.stop([self.web_unit(warm)])
        if self.systemd.states([unit]).get(unit) == "active":
            return "runs already"
        try:
            self.systemd.start([unit])
        except BackstayError as refused:
            raise self._candidate_failed(transaction, f"{transaction.candidate} did not start") from refused
        return unit

    def undo_start(self, transaction: Transaction, reason: str) -> None:
        """Stop the candidate once nobody is connected to it, unless it is to run anyway (a rollback's warm target)."""
        running = must_run(self.history(), self.live())
        if transaction.candidate in (running.live, running.warm):
            return
        self.drain(transaction.candidate)
        self.systemd.stop([self.web_unit(transaction.candidate)])

    def do_gate(self, transaction: Transaction) -> str:
        from ._health import run_until
        from ._http import Target

        application = self.application(transaction.candidate)
        target = Target.unix(self.layout.socket(transaction.candidate), application.domain)
        checks = self._checks(application, target, "candidate", transaction)
        health = application.health
        unit = self.web_unit(transaction.candidate)

        def died(_unused: object) -> None:
            seen = self.systemd.properties(unit, "ActiveState", "NRestarts")
            if seen.get("ActiveState") == "failed" or int(seen.get("NRestarts") or 0) > 1:
                raise self._candidate_failed(transaction, f"{transaction.candidate} died while it was starting")

        quick = transaction.operation in ROLLBACKS
        report = run_until(
            checks,
            consecutive=1 if quick else health.consecutive,
            interval_seconds=health.interval_seconds,
            deadline_seconds=min(5.0, health.deadline_seconds) if quick else health.deadline_seconds,
            clock=self.clock,
            sleep=self.sleep,
            on_attempt=died,
        )
        if not report.ok:
            if transaction.request.force and quick:
                return f"not well ({report.reason}), forced"
            raise self._candidate_failed(transaction, f"{transaction.candidate} is not well: {report.reason}")
        return f"well after {report.attempts} answers"

    def undo_gate(self, transaction: Transaction, reason: str) -> None:
        """Asking changed nothing."""
