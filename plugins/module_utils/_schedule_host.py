"""A host brought to its schedules: the files of timers and cron, and which units run. For all applications at once."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ._file_set import Entry, FileSet
from ._run import Runner
from ._schedule import Plan, Schedule

_US = (os.geteuid(), os.getegid())  # root, on a host
Lines = tuple[str, ...]
VALIDATE = ("systemctl", "daemon-reload")


def entries(wanted: Sequence[Schedule]) -> tuple[Entry, ...]:
    """The files of some schedules, those that must not be there among them."""
    return tuple(
        Entry(str(path), "absent" if text is None else "file", content=(text or "").encode(), owner=_US)
        for each in wanted
        for path, text in each.files.items()
    )


def units(plans: Sequence[Plan], verb: str) -> tuple[str, ...]:
    """The units of a verb (disable, enable, start, restart), each once."""
    return tuple(dict.fromkeys(unit for each in plans for unit in getattr(each, verb)))


def told(plans: Sequence[Plan]) -> list[str]:
    """What becomes of units, for people."""
    return [f"{verb} {unit}\n" for verb in ("disable", "enable", "start") for unit in units(plans, verb)]


def bring(wanted: Sequence[Entry], plans: Sequence[Plan], files: FileSet, runner: Runner, *, adopt: bool) -> Lines:
    """Place the files, start and stop. Returns lines for people. Raises BackstayError.

    What is off goes last: for a moment both would run, and one of them would wait for the other; never none. A timer
    that goes keeps its drop-in until it is stopped: with the template's time it could strike at once.
    """
    surplus = units(plans, "disable")
    lasting = {str(path) for each in plans for path, timer in each.read_by.items() if timer in surplus}
    goes = [entry for entry in wanted if entry.kind == "absent" and entry.path in lasting]
    placed = files.place([entry for entry in wanted if entry not in goes], adopt=adopt, validate=VALIDATE)
    for verb in (("enable", "--quiet"), ("start",), ("restart",)):
        if named := units(plans, verb[0]):
            runner(["systemctl", *verb, *named])
    if surplus:
        runner(["systemctl", "disable", "--quiet", "--now", *surplus])
    removed = files.place(goes, adopt=adopt, validate=VALIDATE).lines if goes else ()
    return (*placed.lines, *removed)
