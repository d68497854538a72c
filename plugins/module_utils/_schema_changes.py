"""The steps that change the schema of the data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _restore_point
from ._errors import BackstayError, GateRefused
from ._exposure import recorded
from ._host import DATA_SECONDS, Host
from ._migrations import judge
from ._releases import way_back
from ._room import mib
from ._steps import CLOSED
from ._transaction import Transaction

if TYPE_CHECKING:
    from ._application import Application
    from ._releases import Release
    from ._runtime import MigrationState

_PASSING = ("/dev/shm/", "/run/", "/tmp/", "/var/cache/", "/var/tmp/")  # noqa: S108 - told apart, nothing is made there


def not_kept(application: Application, data: Path, files: Mapping[str, str], media: str) -> tuple[str, ...]:
    """Which SQLite files and which uploads of a release the application's file does not name, as sentences. `files` are
    those that the release uses, by alias; what lies where things do not last needs no backup."""
    declared = {os.path.realpath(data / each.path) for each in application.databases if each.path}
    found = [
        f"its database {alias!r} is {path}, which `databases` does not name"
        for alias, path in files.items()
        if os.path.realpath(path) not in declared and not path.startswith(_PASSING)
    ]
    if application.media and media and os.path.realpath(media) != os.path.realpath(data / application.media):
        found.append(f"what is uploaded goes to {media}, and `media` names {data / application.media}")
    return tuple(found)


class SchemaChanges(Host):
    """Migrations: judged, made, reversed; and the restore point behind a closed door."""

    def do_judge(self, transaction: Transaction) -> str:
        """Ask what the pending migrations would do to the release that serves, and refuse what it cannot live with."""
        candidate = transaction.candidate
        previous = self.history().get(transaction.previous)
        # Also those that another host of this database, or an earlier attempt, has applied since the release before.
        known = tuple(previous.data.get("migrations_known", ())) if previous else ()
        state = self.migrations(candidate, "describe", known=known)
        application = self.application(candidate)
        self._check_places(application, state)
        limit = application.releases.migrations.rebuild_seconds
        verdict = judge(state.facts, rebuild_seconds=limit)
        # What a release knows, and what it did, decide later what a rollback needs.
        self.ledger.append(
            "schema",
            candidate,
            migrations_known=list(state.known),
            migrations_pending=list(state.pending),
            verdict=verdict.to_dict(),
            **self._warnings(state, previous),
        )
        for each in verdict.migrations:
            self.say(f"{each.name} is {each.verdict}{': ' if each.reasons else ''}{'; '.join(each.reasons)}")
        needs = verdict.needs_maintenance
        if transaction.operation == "release" and transaction.previous and needs:
            raise GateRefused(
                f"{transaction.version} cannot be released beside {transaction.previous}: {needs[0]}; change the "
                "migration, or release with maintenance=true (--maintenance): visitors see the maintenance page "
                "meanwhile, and a restore point is made.",
                lines=needs,
            )
        return f"{len(state.pending)} pending, {verdict.verdict}" if state.pending else "none is pending"

    def _warnings(self, state: MigrationState, previous: Release | None) -> dict[str, Any]:
        """What the checks for a deployment warn about; they judge no release."""
        found = state.warnings
        cleaned = None if found is None else [(name, self._clean((said,))[0]) for name, said in found]
        return recorded(cleaned, previous.data if previous else None)

    def _check_places(self, application: Application, state: MigrationState) -> None:
        """Refuse a release whose data lie where no backup looks. Raises GateRefused."""
        found = not_kept(application, self.layout.data, state.files, state.media)
        if found:
            raise GateRefused(
                f"This release keeps data that no backup would hold: {found[0]}; correct the application's file or the "
                "release's settings.",
                lines=found,
            )
        if application.media is None and state.media:
            self.say(f"The application's file names no `media`: what is uploaded to {state.media} is in no backup")

    def undo_judge(self, transaction: Transaction, reason: str) -> None:
        """Judging changed nothing."""

    def do_backup(self, transaction: Transaction) -> str:
        """The release names the restore point that was made before it. Raises GateRefused where none could be made."""
        policy = self.application().backup
        if policy is None or not policy.before_release:
            return "not asked for"
        if transaction.previous is None:
            return "nothing is live: there is nothing to keep"
        if self.layout.isolated.exists():
            return "isolated: its repositories belong to another host"
        from ._backup import backup
        from ._backup_source import source_of

        try:
            outcome = backup(source_of(self), wait_seconds=DATA_SECONDS)
        except BackstayError as failed:
            reason = transaction.request.override_backup
            if reason:
                self.say(f"{failed.message} The release goes on all the same: {reason}")
                return "none could be made, overridden"
            raise GateRefused(
                f"No restore point could be made before {transaction.candidate}: {failed.message} "
                f"{transaction.previous} still serves; mend it and release again, or say why it cannot wait with "
                "-e 'override_backup=\"...\"' (--override-backup).",
                lines=failed.lines,
            ) from failed
        for line in outcome.problems:
            self.say(line)  # another repository has it
        point = outcome.point
        self.ledger.append("backed_up", transaction.candidate, backup_run=point.run, backup_at=point.at)
        return f"{point.run} in {', '.join(sorted(point.repositories))}, {mib(point.size_bytes)}"

    def undo_backup(self, transaction: Transaction, reason: str) -> None:
        """A restore point harms nobody."""

    def do_migrate(self, transaction: Transaction) -> str:
        known = self.history().get(transaction.candidate)
        if known is not None and known.data.get("migrations_pending") == []:
            return "nothing to migrate"
        self.take_data(f"migration of {transaction.candidate}")
        state = self.migrations(transaction.candidate, "migrate")
        if state.pending:
            raise BackstayError(
                f"Migrations ended and {state.pending[0]} is still pending: see `journalctl -u "
                f"{self._migration_unit(transaction.candidate)}`."
            )
        if transaction.operation not in CLOSED:
            self.data_lock.release()
        applied = [name for name, _seconds in state.seconds]
        self.ledger.append("migrated", transaction.candidate, migrations_applied=applied)
        return f"{len(applied)} applied: {', '.join(applied)}" if applied else "nothing to migrate"

    def undo_migrate(self, transaction: Transaction, reason: str) -> None:
        """A migration that still runs is stopped. What was applied stays where the release before lives with it;
        behind a closed door the data are put back."""
        self._stop_migrating(transaction.candidate)
        if transaction.operation in CLOSED:
            self._put_back(transaction)

    def do_reverse(self, transaction: Transaction) -> str:
        """Take back what the target cannot live with, in the code of the release being left, which knows how."""
        way = way_back(self.history(), transaction.previous, transaction.candidate)
        self.take_data(f"reversal to {transaction.candidate}")
        done = self.migrations(str(transaction.previous), "reverse", reverse=way.reverse)
        return f"{len(done.seconds)} reversed: {', '.join(name for name, _seconds in done.seconds) or 'none was left'}"

    def undo_reverse(self, transaction: Transaction, reason: str) -> None:
        self._stop_migrating(str(transaction.previous))
        self._put_back(transaction)

    def do_snapshot(self, transaction: Transaction) -> str:
        previous = transaction.previous
        if previous is None:
            return "nothing was live: there is nothing to keep"
        point = _restore_point.make(
            self.layout,
            self.storage,
            self.application(previous),
            identifier=transaction.id,
            release=previous,
            at=self.now(),
            environment=self.environment_of(previous),
            runner=self.runner,
        )
        self.ledger.append("kept", transaction.candidate, restore_point=point.id, restore_point_at=point.at)
        return f"{point.id}, {mib(point.size_bytes)}"

    def undo_snapshot(self, transaction: Transaction, reason: str) -> None:
        """What it held was put back, or never changed."""
        for name in (transaction.id, f".{transaction.id}.partial"):
            self.storage.remove_tree(self.layout.restore_points / name)

    def _put_back(self, transaction: Transaction) -> None:
        """Bring the data back to the restore point of this very transaction, once: when it is written that they are
        back, the release before it may serve again, and what visitors wrote since must stay."""
        put_back = any(r.step in ("migrate", "reverse") and r.state == "undone" for r in self.journal.read())
        if transaction.previous is None or put_back:
            return
        self.systemd.stop(self.systemd.units_of(self.layout.name))
        _restore_point.restore(
            self.layout,
            self.storage,
            self.application(transaction.previous),
            transaction.id,
            environment=self.environment_of(transaction.previous),
            runner=self.runner,
        )
        self.say(f"the data are as they were at the restore point {transaction.id}")
