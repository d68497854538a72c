"""Whether a transaction may begin: everything that can be checked without touching anything."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ._errors import BackstayError, GateRefused, InputError
from ._host import Host
from ._migrations import WayBack
from ._releases import (
    History,
    Release,
    check_version,
    is_release_id,
    must_run,
    named_target,
    release_id,
    rollback_target,
    sequence_of,
    way_back,
)
from ._room import Room, disk_refusal
from ._steps import CLOSED, ROLLBACKS
from ._transaction import Request, Transaction

if TYPE_CHECKING:
    from ._application import Application


class Admission(Host):
    """What is checked before anything is touched."""

    def open_release(self, request: Request, proofs: Mapping[str, str] | None = None) -> Transaction:
        """Check everything that can be checked without touching anything, and fix what the transaction will do.
        `proofs`: what would come with a payload that need not be here yet, where only a plan is made.

        Raises InputError or GateRefused; nothing has changed then.
        """
        live = self.live()
        history = self.history()
        stamp = self.now()
        identifier = stamp.replace("-", "").replace(":", "").replace(".", "").rstrip("Z") + f"-{os.getpid()}"
        if request.operation == "rollback":
            target = self._target(request, history, live)
            operation = self._way_back(request, history, str(live), target)
            if operation in CLOSED:
                self._check_disks(operation, self.application(), 0)
            return Transaction(
                identifier,
                self.layout.name,
                operation,
                target.id,
                live,
                target.version,
                str(target.data.get("payload", "")),
                request,
                stamp,
            )
        application = self.application()
        self._environment(application, "0000-0.0.0", "", "")
        from . import _freeze

        frozen = None if request.override_freeze else _freeze.read(self.layout, self.storage)
        refused = _freeze.refusal(frozen, now=stamp, name=self.layout.name)
        if refused:
            raise GateRefused(refused)
        version, payload, only = self._what(request, history, live)
        sequence = self._next_sequence(history, live)
        transaction = Transaction(
            identifier,
            self.layout.name,
            {"live": "release", "maintenance": "maintenance"}[request.strategy],
            release_id(sequence, version),
            live,
            version,
            payload,
            request,
            stamp,
            only,
        )
        transaction = replace(transaction, signed_by=self._check_payload(transaction, proofs))
        self._check_promotion(transaction, application, proofs)
        self._check_room(transaction, application, history)
        return transaction

    def is_live(self, request: Request) -> bool:
        """Whether a release asks for what is live already, payload and configuration alike."""
        if request.operation != "release" or request.again:
            return False
        current = self.history().get(self.live())
        if current is None or self.configuration_changed():
            return False
        return request.payload in (None, current.data.get("payload")) and request.version in (None, current.version)

    def _next_sequence(self, history: History, live: str | None) -> int:
        """The number of the next release: above every one in the ledger, and above those on the disk, so that a lost
        ledger cannot make a new release take the id of one that serves."""
        found = [path.name for path in self.layout.releases.iterdir()]
        taken = [sequence_of(name) for name in (*found, live) if name and is_release_id(name)]
        return max([history.next_sequence, *(number + 1 for number in taken)])

    def way_back(self, request: Request, history: History) -> WayBack:
        """What a rollback needs. Raises InputError where there is nothing to go back to."""
        live = self.live()
        return self._way_to(history, live, self._target(request, history, live))

    def _way_to(self, history: History, live: str | None, target: Release) -> WayBack:
        from . import _restore_point

        if live is not None and target.sequence > sequence_of(live):
            # A reversal, or a restore of an older release's data, took back what it needs: the database alone knows.
            missing = self.migrations(target.id, "state").pending
            if missing:
                names = ", ".join(missing)
                return WayBack("unmigrated", f"{target.id} needs migrations that are not in the database now: {names}")
        there = [point.id for point in _restore_point.points(self.layout, self.storage)]
        return way_back(history, live, target.id, now=self.now(), points=there)

    def _way_back(self, request: Request, history: History, live: str, target: Release) -> str:
        """Which operation leads back to a release. Raises GateRefused where it cannot live with migrations made since,
        unless it was asked to reverse them, or to go all the same; or with migrations that were taken back."""
        if request.force and not request.reverse:
            return "rollback"
        way = self._way_to(history, live, target)
        if way.kind == "reverse" and request.reverse:
            return "reversal"  # also with force, which is then about its gates
        if way.kind == "code" or request.force:
            return "rollback"
        remedy = {
            "reverse": "run it with reverse=true (--reverse), which shows the maintenance page meanwhile",
            "irreversible": "mend forward with a new release, or insist with --force if you know that it can be served",
            "unmigrated": f"release {target.version} again, which makes them",
        }[way.kind]
        raise GateRefused(
            f"Going back to {target.id} is not safe: {way.sentence}; {live} still serves; {remedy}.", lines=way.reasons
        )

    def _target(self, request: Request, history: History, live: str | None) -> Release:
        if live is None:
            raise InputError(
                f"Nothing of {self.layout.name} is live: there is nothing to roll back; release a version."
            )
        if request.target:
            target = named_target(history, live, request.target)
        else:
            found = rollback_target(history, live)
            if found is None:
                raise InputError(
                    f"There is nothing to roll back to: {live} is live and no older release was proven and is still "
                    "good; see `backstay history`."
                )
            target = found
        if not (self.layout.release(target.id) / "manifest.json").exists():
            raise BackstayError(f"The files of {target.id} are missing from {self.layout.releases}: release it again.")
        return target

    def _what(self, request: Request, history: History, live: str | None) -> tuple[str, str, bool]:
        """(version, payload digest, whether this is the live payload with another configuration)."""
        if request.payload is None:
            current = history.get(live)
            if current is None:
                raise InputError("A configuration release needs a live release: release a version first.")
            version = request.version or current.version
            if version != current.version:
                raise InputError(
                    f"No payload was given for {version}, and {current.version} is live: give the payload of {version}."
                )
            return version, str(current.data["payload"]), True
        return check_version(request.version or ""), request.payload, False

    def _check_payload(self, transaction: Transaction, proofs: Mapping[str, str] | None) -> str:
        """Who vouches for the payload of a release. Raises InputError or GateRefused for one that may not run here."""
        from ._artifact import host_facts, verify
        from ._attestation import ATTESTATION_NAME, check_attestation

        path = self.layout.payload(transaction.payload)
        if not path.exists() and not proofs:
            raise InputError(
                f"The payload {transaction.payload[:12]} of {transaction.version} is not on this host ({path}): "
                f"send it first."
            )
        signer = ""
        if not transaction.configuration_only:  # what is live was vouched for when it came
            signer = check_attestation(
                *self._proof(transaction, ATTESTATION_NAME, proofs),
                self.layout.allowed_signers,
                application=transaction.application,
                version=transaction.version,
                payload=transaction.payload,
                runner=self.runner,
            )
        if not path.exists():
            return signer
        facts = host_facts()
        manifest = verify(
            path,
            sha256=transaction.payload,
            application=transaction.application,
            system=facts.system,
            python=facts.python,
            architecture=facts.architecture,
        )
        if manifest.version != transaction.version:
            raise InputError(
                f"The payload {transaction.payload[:12]} holds version {manifest.version} and "
                f"{transaction.version} was "
                "asked for: send the right payload."
            )
        return signer

    def _proof(
        self, transaction: Transaction, name: str, proofs: Mapping[str, str] | None
    ) -> tuple[bytes | None, bytes | None]:
        """What lies beside the payload, or would come with it, to vouch for it, and its signature."""
        if proofs:
            brought = [proofs.get(each) for each in (name, f"{name}.sig")]
            content, signature = (None if text is None else text.encode() for text in brought)
            return content, signature
        path = self.layout.proof(transaction.payload, name)
        return self.storage.read(path), self.storage.read(path.with_name(f"{path.name}.sig"))

    def _check_promotion(
        self, transaction: Transaction, application: Application, proofs: Mapping[str, str] | None
    ) -> None:
        """Only what was live and proven in the stage before, where the application's file asks for that."""
        from ._attestation import check_promotion, promotion_name

        stage = application.releases.promoted_from
        if stage is None or transaction.configuration_only or transaction.request.override_promotion:
            return
        check_promotion(
            *self._proof(transaction, promotion_name(stage), proofs),
            self.layout.allowed_signers,
            application=transaction.application,
            version=transaction.version,
            payload=transaction.payload,
            stage=stage,
            runner=self.runner,
        )

    def _check_room(self, transaction: Transaction, application: Application, history: History) -> None:
        from ._artifact import read_manifest, unpacked_bytes
        from ._runtime import runtime_of

        payload = self.layout.payload(transaction.payload)
        size = inodes = 0
        if payload.exists():  # not yet, where only a plan is made
            size, inodes = unpacked_bytes(payload)
            key = runtime_of(application).environment_key(read_manifest(payload))
            if not (self.layout.environments / key).exists():
                # A virtualenv unpacks to about four times its wheels, bytecode included.
                size += 4 * payload.stat().st_size
                inodes += 12000
        self._check_disks(transaction.operation, application, 2 * size)
        disk = os.statvfs(self.layout.home)
        policy = application.releases
        room = Room(
            inodes_needed=2 * inodes + policy.free_inodes,
            # A file system without a fixed number of inodes reports none at all.
            inodes_free=disk.f_favail if disk.f_files else 1 << 62,
            memory_needed=self._memory_estimate(application, transaction.previous) + policy.free_memory_bytes,
            memory_available=self._memory_available(),
        )
        warm = must_run(history, transaction.previous).warm
        if warm and not transaction.request.keep_warm:
            freed = self._memory_of_unit(self.web_unit(warm))
            room = Room(**{**asdict(room), "memory_available": room.memory_available + freed})
        refusal = room.refusal(warm=warm if transaction.request.keep_warm else None)
        if refusal:
            raise GateRefused(refusal)

    def _check_disks(self, operation: str, application: Application, size: int) -> None:
        """`size` bytes below the home; and where the data change behind a closed door, room for the copy of them, and
        for bringing that back: what was begun must be able to be undone. Raises GateRefused."""
        data = 0
        if operation in CLOSED:
            from . import _restore_point

            data = _restore_point.size_needed(self.layout, application)
        needs = ((self.layout.home, size + data), (self.layout.state, data))
        what = "The rollback" if operation in ROLLBACKS else "The release"
        refusal = disk_refusal(what, needs, spare=application.releases.free_bytes)
        if refusal:
            raise GateRefused(refusal)

    def _memory_estimate(self, application: Application, live: str | None) -> int:
        """What the live release's web process uses now; where none runs, the limit it was given."""
        measured = self._memory_of_unit(self.web_unit(live)) if live else 0
        return measured or application.processes["web"].memory_max_bytes

    def _memory_available(self) -> int:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        raise BackstayError(
            "The kernel does not tell the available memory (/proc/meminfo): check that /proc is mounted."
        )
