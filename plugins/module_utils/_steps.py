"""Which steps an operation has, in which phase, and what recovery must do with a journal. All pure.

The chaos tests enumerate these tables, so that a step added here is swept without anyone remembering.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ._errors import BackstayError
from ._journal import Record

PHASES = ("prepare", "close", "flip", "watch", "confirm")

# In order. Every step can be done twice, and undone from any point in it.
#
# A release that runs beside the one before it never closes the door. Where the schema changes under that one's feet the
# door is closed first, and opened after the point of no return: whatever is undone before it takes back no visitor's
# write, because there was none.
OPERATIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "release": {
        "prepare": (
            "reserve",
            "stage",
            "environment",
            "configure",
            "publish",
            "judge",
            "backup",
            "migrate",
            "start",
            "gate",
        ),
        "close": (),
        "flip": ("flip", "verify", "handover"),
        "watch": ("watch",),
        "confirm": ("confirm", "settle", "prune"),
    },
    "maintenance": {
        "prepare": ("reserve", "stage", "environment", "configure", "publish", "judge", "backup"),
        "close": ("close", "halt", "snapshot"),
        "flip": ("migrate", "start", "gate", "flip", "verify", "handover"),
        "watch": (),
        "confirm": ("confirm", "open", "settle", "prune"),
    },
    "rollback": {
        "prepare": ("start", "gate"),
        "close": (),
        "flip": ("flip", "verify", "handover"),
        "watch": (),
        "confirm": ("confirm", "settle"),
    },
    # A rollback over a migration that its target cannot live with, and that can be reversed.
    "reversal": {
        "prepare": (),
        "close": ("close", "halt", "snapshot"),
        "flip": ("reverse", "start", "gate", "flip", "verify", "handover"),
        "watch": (),
        "confirm": ("confirm", "open", "settle"),
    },
    # The next generation of the data is made beside the live one; the release stays.
    "restore": {
        "prepare": ("fetch", "prove", "place", "convert"),
        "close": ("close", "halt", "carry"),
        "flip": ("swap", "ask", "expire", "start", "gate", "flip", "verify", "handover"),
        "watch": (),
        "confirm": ("confirm", "open", "settle", "prune"),
    },
    # Back to the generation from before a restore; the one left behind stays.
    "undo": {
        "prepare": (),
        "close": ("close", "halt", "carry"),
        "flip": ("swap", "start", "gate", "flip", "verify", "handover"),
        "watch": (),
        "confirm": ("confirm", "open", "settle"),
    },
}

RELEASES = ("release", "maintenance")
ROLLBACKS = ("rollback", "reversal")
WAYS_BACK = (*ROLLBACKS, "undo")  # they must go through on a full disk: room is put by for them
RESTORES = ("restore", "undo")
CLOSED = ("maintenance", "reversal", *RESTORES)  # the door is closed and everything stopped while the data change

# What a person reads while it happens.
TITLES = {
    "reserve": "give it an id",
    "stage": "unpack the payload",
    "environment": "make its virtualenv ready",
    "configure": "write its configuration and units",
    "publish": "add its static files",
    "judge": "judge its migrations",
    "backup": "back the data up",
    "close": "close the door: maintenance page",
    "halt": "let requests end, stop everything",
    "snapshot": "make a restore point",
    "fetch": "fetch the restore point",
    "prove": "compare it with its manifest",
    "place": "put it beside the live data",
    "convert": "bring the copy to the live schema",
    "carry": "carry over what is not restored",
    "swap": "make it the live data",
    "ask": "ask the canaries",
    "expire": "apply the retention",
    "migrate": "migrate the database",
    "reverse": "reverse migrations",
    "start": "start it",
    "gate": "ask it whether it is well",
    "flip": "move the link",
    "verify": "look through the front door",
    "handover": "hand over the workers",
    "watch": "watch it beside the one before",
    "confirm": "write it down",
    "open": "open the door",
    "settle": "drain and stop what is not needed",
    "prune": "remove old releases",
}

POINT_OF_NO_RETURN = "confirm"


def steps_of(operation: str, phase: str) -> tuple[str, ...]:
    """The steps of one phase. Raises BackstayError for an operation that this version does not know."""
    if operation not in OPERATIONS:
        raise BackstayError(
            f"The operation {operation!r} is unknown to this backstay: update the host's command with "
            f"playbooks/site.yml."
        )
    return OPERATIONS[operation][phase]


def all_steps(operation: str) -> tuple[str, ...]:
    return tuple(step for phase in PHASES for step in steps_of(operation, phase))


@dataclass(frozen=True)
class Recovery:
    """What to do with an unfinished transaction.

    `direction` is forward (do the rest of the steps, `steps`), back (undo `steps`, in this order) or none. `begin` is
    the record that opened the transaction, with its arguments; None where not even that was written.
    """

    direction: str
    steps: tuple[str, ...]
    begin: dict[str, Any] | None
    reason: str


def recovery(records: Iterable[Record], *, forward: bool = False) -> Recovery:
    """Decide from the journal alone. `forward` is asked for when another host of the fleet has confirmed: it holds
    only where this host had already flipped."""
    records = tuple(records)
    if not records:
        return Recovery("none", (), None, "no transaction was open")
    begin = records[0]
    if begin.step != "begin":
        raise BackstayError(
            "The journal does not begin with its transaction: move it away, then run `backstay recover`."
        )
    operation = str(begin.data["operation"])
    order = all_steps(operation)
    begun = [record.step for record in records if record.state == "begin" and record.step in order]
    done = {record.step for record in records if record.state == "done"}
    if any(record.step == "end" for record in records):
        return Recovery("none", (), dict(begin.data), "it had ended and only its journal was left to put away")
    flipped = "handover" in done
    undoing = any(record.state in ("undo", "undone") for record in records)
    if POINT_OF_NO_RETURN in begun or (forward and flipped and not undoing):
        first = order.index(POINT_OF_NO_RETURN)
        rest = tuple(step for step in order[first:] if step not in done)
        return Recovery("forward", rest, dict(begin.data), "it was past the point of no return")
    back = tuple(step for step in reversed(order) if step in begun)
    reason = f"it stopped at {begun[-1]!r}" if begun else "it stopped before its first step"
    return Recovery("back", back, dict(begin.data), reason)
