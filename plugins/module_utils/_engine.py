"""Does and undoes each step of a transaction on the host.

The engine is an adapter: what to do is decided in `_steps.py` and `_releases.py`; here it is done, through storage,
systemd and the runtime. Every method `do_<step>` can be called twice, and `undo_<step>` from any point in it. Each
phase has a room of its own.
"""

from __future__ import annotations

from collections.abc import Callable

from ._admission import Admission
from ._closed_door import ClosedDoor
from ._housekeeping import Housekeeping
from ._preparation import Preparation
from ._restore import Restore
from ._schema_changes import SchemaChanges
from ._steps import RESTORES
from ._switch import Switch
from ._transaction import Request, Transaction


class Engine(Admission, Preparation, SchemaChanges, Switch, ClosedDoor, Restore, Housekeeping):
    """All steps of all operations, on one application's host."""

    def open(self, request: Request) -> Transaction:
        """Check everything that can be checked without touching anything, and fix what the transaction will do.

        Raises InputError or GateRefused; nothing has changed then.
        """
        return self.open_restore(request) if request.operation == "restore" else self.open_release(request)

    def do_confirm(self, transaction: Transaction) -> str:
        """Write down what is live now."""
        if transaction.operation not in RESTORES:
            return self.confirm_release(transaction)
        if transaction.candidate != transaction.previous:
            self.confirm_release(transaction)
        return self.confirm_restore(transaction)

    def do_prune(self, transaction: Transaction) -> str:
        """Remove what is beyond what is kept."""
        done = self.prune_releases(transaction)
        if transaction.operation not in RESTORES:
            return done
        return f"{done}, {self.prune_generations(transaction)} generations"

    def done_sentence(self, transaction: Transaction) -> str:
        """What was done, for people."""
        restoring = transaction.restore
        if restoring is None:
            return f"{transaction.candidate} is live; {transaction.previous} was."
        what = "the data from before the restore are live again" if restoring.undo else f"{restoring.point} is live"
        return f"{what} under {transaction.candidate}; the data before it stay in {restoring.before}."

    def _hook_unit(self, transaction: Transaction) -> str:
        return f"backstay-hook-{self.layout.name}-{transaction.id}.service"

    def stop_hooks(self, transaction: Transaction) -> None:
        """End a hook that outlived the transaction it belongs to."""
        self.systemd.stop([self._hook_unit(transaction)])

    def run_hooks(
        self, transaction: Transaction, when: str, *, error: str = "", say: Callable[[str], None] | None = None
    ) -> None:
        """Run what the application declares for `when`, in the candidate's environment, or in the live one's as long as
        the candidate has none. `say` hears how long each took; without it, whoever follows the transaction. Raises
        GateRefused when a command fails."""
        from ._hooks import run_hooks

        release = next(
            (
                each
                for each in (transaction.candidate, self.live())
                if each and self.layout.environment_file(each).exists() and self.layout.release(each).is_dir()
            ),
            None,
        )
        if release is None:
            return
        configured = self.layout.release_configuration(transaction.candidate).is_dir()
        application = self.application(transaction.candidate if configured else None)
        facts = {
            "operation": transaction.operation,
            "release": transaction.candidate,
            "version": transaction.version,
            "previous": transaction.previous or "",
            "transaction": transaction.id,
            "by": transaction.request.by,
            "notes": self.notes(transaction.candidate)[:2000],
            "error": " ".join(error.split())[:400],
        }
        run_hooks(
            application,
            when,
            release=release,
            unit=self._hook_unit(transaction),
            facts=facts,
            runner=self.runner,
            secrets=tuple(self.secrets().values()),
            environment=self.layout.release(release) / "venv",
            say=say or self.say,
        )
