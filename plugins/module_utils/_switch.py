"""The steps that bring visitors to the candidate, and watch it beside the release before."""

from __future__ import annotations

from ._host import Host, front_door
from ._steps import CLOSED, RELEASES, ROLLBACKS, steps_of
from ._transaction import Transaction


class Switch(Host):
    """Visitors go to the candidate, and it is watched."""

    def do_flip(self, transaction: Transaction) -> str:
        before = self.clock()
        self.switched_at = self.prober.now() if self.prober else None
        self.storage.link(self.layout.active, self.layout.socket(transaction.candidate))
        return f"{(self.clock() - before) * 1000:.1f} ms"

    def undo_flip(self, transaction: Transaction, reason: str) -> None:
        if transaction.previous is None:
            self.storage.remove(self.layout.active)
            return
        unit = self.web_unit(transaction.previous)
        # Behind a closed door nothing is asked of it yet, and it must not open data that are about to be put back.
        if transaction.operation not in CLOSED and self.systemd.states([unit]).get(unit) != "active":
            self.systemd.start([unit])
        self.storage.link(self.layout.active, self.layout.socket(transaction.previous))

    def do_verify(self, transaction: Transaction) -> str:
        """Ask through the front door until the right release answers: what nginx says, not what we believe."""
        from ._health import run_until

        application = self.application(transaction.candidate)
        report = run_until(
            self._checks(application, front_door(application), "front_door", transaction),
            consecutive=1 if transaction.operation in ROLLBACKS else application.health.consecutive,
            interval_seconds=application.health.interval_seconds,
            deadline_seconds=min(15.0, application.health.deadline_seconds),
            clock=self.clock,
            sleep=self.sleep,
            on_attempt=lambda _: None,
        )
        if not report.ok and not (transaction.request.force and transaction.operation in ROLLBACKS):
            raise self._candidate_failed(
                transaction, f"The front door does not answer well with {transaction.candidate}: {report.reason}"
            )
        return f"{transaction.candidate} answers" if report.ok else f"not well ({report.reason}), forced"

    def undo_verify(self, transaction: Transaction, reason: str) -> None:
        """Asking changed nothing."""

    def do_handover(self, transaction: Transaction) -> str:
        """The old release's workers stop and the new one's start; a singleton waits for the old one on its lock. Behind
        a closed door none starts: what it wrote would be lost with the data if they were put back, so they come with
        what must run, once nothing can be undone."""
        if transaction.operation in CLOSED:
            return "they come when the door is open"
        return self._hand_over(transaction.previous, transaction.candidate)

    def undo_handover(self, transaction: Transaction, reason: str) -> None:
        if transaction.operation in CLOSED:  # the data are still to be put back: what must run starts after that
            self.systemd.stop(self._units(transaction.candidate, web=False))
            return
        self._hand_over(transaction.candidate, transaction.previous)

    def watch_seconds(self, transaction: Transaction) -> float:
        """How long this transaction watches what it flipped to; 0 when it does not."""
        if transaction.previous is None or not steps_of(transaction.operation, "watch"):
            return 0.0
        return self.application(transaction.candidate).releases.watch.seconds

    def do_watch(self, transaction: Transaction) -> str:
        seconds = self.watch_seconds(transaction)
        if seconds == 0:
            return "nothing to compare with" if transaction.previous is None else "not asked for"
        from ._watch import watch

        policy = self.application(transaction.candidate).releases.watch
        judgement = watch(
            self.layout,
            candidate=transaction.candidate,
            previous=str(transaction.previous),
            policy=policy,
            prober=self.prober,
            switched_at=self.switched_at,
            runner=self.runner,
            secrets=tuple(self.secrets().values()),
            say=self.say,
            sleep=self.sleep,
            clock=self.clock,
            should_stop=self.aborted,
        )
        self.ledger.append("watched", transaction.candidate, watch=judgement.to_dict())
        if self.aborted():
            return "cut short"
        if not judgement.reverts(policy):
            return f"{judgement.outcome}: {judgement.sentence}"
        why = "is worse than" if judgement.outcome == "bad" else "could not be compared with"
        raise self._candidate_failed(
            transaction, f"{transaction.candidate} {why} {transaction.previous}: {judgement.sentence}"
        )

    def start_prober(self, transaction: Transaction) -> None:
        """One visitor of our own through a release, from its first step to its last."""
        if transaction.previous is None or transaction.operation not in RELEASES:
            return
        from ._prober import Prober

        application = self.application()
        self.prober = Prober(
            front_door(application),
            application.health.path,
            interval_seconds=application.releases.watch.probe_interval_seconds,
            expected_status=application.health.status,
        )
        self.prober.start()

    def stop_prober(self) -> None:
        if self.prober is not None:
            self.prober.stop()
        self.prober = self.switched_at = None

    def undo_watch(self, transaction: Transaction, reason: str) -> None:
        """Looking changed nothing."""
