"""What somebody asks of a host, and the transaction that comes of it: fixed before its first step."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ._errors import BackstayError, InputError

FORMAT = 1


def utc_now() -> str:
    """The time as UTC ISO 8601 with milliseconds: 2026-11-21T06:14:23.123Z."""
    now = datetime.datetime.now(datetime.UTC)
    return now.strftime("%Y-%m-%dT%H:%M:%S.") + f"{now.microsecond // 1000:03d}Z"


@dataclass(frozen=True)
class Request:
    """What somebody asks for. `by` and `why` go into the ledger; sizes are bytes, times are seconds."""

    operation: str
    by: str = "unknown"
    why: str = ""
    version: str | None = None
    payload: str | None = None  # sha256 of a payload that lies in the artifacts directory
    target: str | None = None  # a rollback's named target: id or version
    keep_warm: bool = True
    force: bool = False
    again: bool = False  # release although this very payload and configuration are live
    strategy: str = "live"  # or maintenance: the door is closed while the data change
    reverse: bool = False  # a rollback may close the door and reverse migrations
    override_freeze: str = ""  # why a release is made although releases are frozen
    override_backup: str = ""  # why a release is made although no restore point could be made before it
    override_promotion: str = ""  # why a payload is released that was not proven live in the stage before
    point: str = ""  # a restore's point: latest, a run, a time, or release:<id>
    only: tuple[str, ...] = ()  # a restore of parts alone: database:<name>, media:<path>
    undo: bool = False  # go back to the data from before the last restore
    with_release: bool = False  # a restore brings the release that made the point back too
    repository: str = ""  # a restore's repository; empty: of those that answer, the one that is proven best
    run: str = ""  # what the hosts of one run of a playbook have in common, made by that run

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Request:
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise InputError(f"The request has the unknown key {unknown[0]!r}: use a client of this host's version.")
        return cls(**{**known, "only": tuple(known.get("only", ()))})


@dataclass(frozen=True)
class Restoring:
    """What a restore brings back: from which point in which repository, into which generation of the data, and which
    was live `before` it. `release` made the point. An `undo` goes to a generation that lies beside and has no point.
    `away` are the better proven repositories that did not answer, each a sentence."""

    generation: str
    before: str
    point: str = ""
    at: str = ""
    repository: str = ""
    snapshot: str = ""
    manifest_snapshot: str = ""
    release: str = ""
    only: tuple[str, ...] = ()
    undo: bool = False
    with_release: bool = False  # the release changes together with the data: it was another before
    away: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Restoring:
        return cls(**{**data, "only": tuple(data.get("only", ())), "away": tuple(data.get("away", ()))})


@dataclass(frozen=True)
class Transaction:
    """All that the steps need to know, fixed before the first of them and written into the journal's first record."""

    id: str
    application: str
    operation: str
    candidate: str
    previous: str | None  # what was live when it began
    version: str
    payload: str
    request: Request
    began: str
    configuration_only: bool = False
    signed_by: str = ""  # who vouches for having built the payload; empty for a configuration release
    restore: Restoring | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Transaction:
        if data["format"] > FORMAT:
            raise BackstayError(
                f"The open transaction has format {data['format']} and this backstay knows {FORMAT}: "
                "update the host's command with playbooks/site.yml."
            )
        fields = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        restore = fields.get("restore")
        return cls(
            **{
                **fields,
                "request": Request.from_dict(fields["request"]),
                "restore": Restoring.from_dict(restore) if restore else None,
            }
        )
