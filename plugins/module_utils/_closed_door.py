"""The steps that close the door and open it again."""

from __future__ import annotations

from ._errors import BackstayError
from ._host import Host
from ._journal import parse
from ._transaction import Transaction

_TRANSACTION = b"transaction "  # so begins a flag that is no person's
_REBUILD = b"rebuild\n"


class ClosedDoor(Host):
    """Nobody is let in while the data change."""

    def _our_door(self, transaction: Transaction) -> bytes:
        """What the maintenance flag holds when this transaction closed the door: another's stays closed after it."""
        return _TRANSACTION + f"{transaction.id}\n".encode()

    def shut_by(self) -> Transaction | None:
        """The transaction that changes data behind the closed door: from when it closed it until it opens it again.

        Reads only, also while the transaction's service is at work. Raises BackstayError where nobody can know.
        """
        content = self.storage.read(self.layout.journal) or b""
        records, _size = parse(content, path=str(self.layout.journal))
        states = {(record.step, record.state) for record in records}
        shut = ("close", "begin") in states and not states & {("close", "undone"), ("open", "done")}
        return Transaction.from_dict(records[0].data) if shut else None

    def do_close(self, transaction: Transaction) -> str:
        # A backup that is under way is waited for while the door is still open.
        self.take_data(f"{transaction.operation} of {transaction.candidate}")
        if self.layout.maintenance_flag.exists():
            return "closed already"
        self.storage.write(self.layout.maintenance_flag, self._our_door(transaction))
        return "visitors get 503 and when to come back"

    def undo_close(self, transaction: Transaction, reason: str) -> None:
        flag = self.storage.read(self.layout.maintenance_flag)
        if flag == self._our_door(transaction):
            self._wait_until_served(transaction.previous)
        if flag in (None, self._our_door(transaction)):
            self._open_door()

    def _open_door(self) -> None:
        """Also where no flag is seen: whoever removed it may have been killed before that was on the disk."""
        self.storage.remove(self.layout.maintenance_flag)

    def _wait_until_served(self, release: str | None) -> None:
        """The door opens when somebody is behind it; after 30 s anyhow, for then the page would say less than the
        error does."""
        if release is None:
            return
        from ._health import application_checks, run_until
        from ._http import Target

        application = self.application(release)
        checks = application_checks(
            application,
            Target.unix(self.layout.socket(release), application.domain),
            through="candidate",
            release_id=release,
            static_path=None,
            media_path=None,
        )
        report = run_until(
            list(checks)[:1],
            consecutive=1,
            interval_seconds=0.1,
            deadline_seconds=30.0,
            clock=self.clock,
            sleep=self.sleep,
            on_attempt=lambda _: None,
        )
        if not report.ok:
            self.say(f"{release} does not answer well behind the closed door ({report.reason}); the door opens anyhow")

    def close_for_rebuild(self, how: str) -> None:
        """Nobody is let in, and no worker, job or backup begins, until all data are restored; `how` is the command that
        does it."""
        self.storage.write(self.layout.rebuilding, f"{how}\n".encode(), mode=0o600)
        if not self.layout.maintenance_flag.exists():
            self.storage.write(self.layout.maintenance_flag, _REBUILD)

    def do_open(self, transaction: Transaction) -> str:
        ours = [None, self._our_door(transaction)]
        if transaction.restore is not None and not (transaction.restore.only or transaction.restore.undo):
            self.storage.remove(self.layout.rebuilding)
            ours.append(_REBUILD)
        flag = self.storage.read(self.layout.maintenance_flag)
        if flag == _REBUILD and flag not in ours:
            return "left closed, until all data are restored"
        if flag not in ours:
            return "left closed, as somebody wants it"
        self._open_door()
        return "open"

    def undo_open(self, transaction: Transaction, reason: str) -> None:
        """Past the point of no return nothing is undone."""

    def serve(self) -> None:
        """Run what the link names where nothing else could be done: visitors need no recovery to have succeeded. Not
        behind a door that a transaction has closed, nor where that found it closed by a person: the data are on their
        way there."""
        live, flag = self.live(), self.storage.read(self.layout.maintenance_flag) or b""
        if live and not flag.startswith(_TRANSACTION) and not (flag and self._changes_data()):
            self._start_missing([self.web_unit(live), *self._units(live, web=False)])

    def _changes_data(self) -> bool:
        """Whether a transaction is open that changes data behind the door; also where nobody can know."""
        try:
            return self.shut_by() is not None
        except BackstayError:
            return True

    def do_halt(self, transaction: Transaction) -> str:
        """Requests that were begun end; then every process of the application stops, of whichever release."""
        units = self.systemd.units_of(self.layout.name)
        for unit in units:
            if unit.endswith("-web.service"):
                self.drain(unit.removeprefix(f"{self.layout.name}-").removesuffix("-web.service"), patient=True)
        self.systemd.stop(units)
        left = [unit for unit in self.systemd.units_of(self.layout.name) if unit in units]
        if left:
            raise BackstayError(
                f"{left[0]} did not stop, so the data cannot be changed safely: see `journalctl -u {left[0]}`, end it, "
                "then release again."
            )
        return f"{len(units)} units"

    def undo_halt(self, transaction: Transaction, reason: str) -> None:
        """Start what must run; the door opens after it."""
        live = self.live()
        if live:
            self._start_missing([self.web_unit(live), *self._units(live, web=False)])
