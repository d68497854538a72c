"""A host brought to its schedules: the files of timers and cron, and which units run. For all applications at once."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ._file_set import Entry
from ._run import Runner
from ._schedule import Plan, Schedule

_US = (os.geteuid(), os.getegid())  # root, on a host
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


def carry_out(plans: Sequence[Plan], runner: Runner) -> None:
    """Start and stop, once the files are placed. What is off goes last: for a moment both would run, and one of them
    would wait for the other; never none. Raises BackstayError."""
    for verb in (("enable", "--quiet"), ("start",), ("restart",)):
        if wanted := units(plans, verb[0]):
            runner(["systemctl", *verb, *wanted])
    if surplus := units(plans, "disable"):
        runner(["systemctl", "disable", "--quiet", "--now", *surplus])
