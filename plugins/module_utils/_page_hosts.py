"""The page of several hosts: what each of them said, and that some said nothing. Pure.

A host that does not answer never stops the page. It is unknown when it is silent for the first time, and red when it
stays so: what the page before knew says how long it has been.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ._cells import RANK, Cell, Row, broken, from_dict, unreachable, unseen, uptime, with_uptime
from ._page import document

ROW = ("application", "host", "state", "why", "cells", "observed_at", "release", "events", "series")
Facts = Mapping[str, Any]


def rows_of(
    said: Mapping[str, Facts],
    declared: Mapping[str, Sequence[str]],
    before: Facts,
    *,
    now: dt.datetime,
    probes: Mapping[str, Sequence[str]] | None = None,
) -> tuple[list[Row], dict[str, int]]:
    """The rows of all hosts, and how often in a row each silent one said nothing.

    `said` has for each host what module `status_facts` returned, or why it did not; `declared` which applications the
    inventory puts there; `before` is the JSON of the page before, empty where there was none. `probes` has for each
    host which others are to watch it from outside.
    """
    rows: list[Row] = []
    silent: dict[str, int] = {}
    earlier = {(str(row["host"]), str(row["application"])): row for row in before.get("rows") or ()}
    looked = before.get("silent") or {}
    for host, answer in said.items():
        reason = _silence(answer)
        names = list(declared.get(host) or ()) or [""]
        if reason is None:
            rows += _told(host, answer, names, now)
            continue
        silent[host] = int(looked.get(host) or 0) + 1
        for name in names:
            known = earlier.get((host, name)) or {}
            rows.append(
                unreachable(host, name, reason, now=now, looks=silent[host], last_seen=_last_seen(known, host, looked))
            )
    return [_from_outside(row, said, (probes or {}).get(row.host) or (), now) for row in rows], silent


def _from_outside(row: Row, said: Mapping[str, Facts], probes: Sequence[str], now: dt.datetime) -> Row:
    """The row with what the hosts that watch it saw; of several that one counts which knows, and saw the worst."""
    if not probes or not row.application:
        return row

    def seen(probe: str) -> tuple[Cell, Sequence[Facts]]:
        silent = _silence(said.get(probe) or {}) is not None
        for facts in () if silent else said[probe].get("outside") or ():
            if (facts["application"], facts["host"]) == (row.application, row.host):
                return uptime({**facts, "probe": probe}, now=now), facts.get("events") or ()
        return unseen(probe, silent=silent), ()

    cell, events = max(map(seen, probes), key=lambda each: (each[0].state != "grey", RANK[each[0].state]))
    return with_uptime(row, cell, events)


def _last_seen(known: Facts, host: str, looked: Facts) -> str | None:
    """When the page before saw this row, or knew when it had been seen; None where it never was."""
    if not known or (looked.get(host) and known["cells"][0].get("observed_at") is None):
        return None
    return str(known["observed_at"])


def _silence(answer: Facts) -> str | None:
    """Why a host said nothing; None where it did."""
    if answer.get("unreachable"):
        # Ansible's own words come first, and what ssh said at the end is what helps.
        said = str(answer.get("msg") or "it cannot be reached").strip()
        return said.rpartition("reached over ssh: ")[2].removeprefix("ssh: ")
    if answer.get("failed"):
        return str(answer.get("msg") or "the question failed")
    return None if "rows" in answer else "it was not asked"


def _told(host: str, answer: Facts, names: Sequence[str], now: dt.datetime) -> list[Row]:
    """The rows that a host told of, and one for each application that ought to be there and of which it did not."""
    found = [replace(from_dict(row), host=host) for row in answer["rows"]]
    there = {row.application for row in found}
    why = str(answer.get("problem") or "it is not declared on this host: run playbooks/site.yml")
    found += [broken(host, name, why, now=now) for name in names if name and name not in there]
    return found


def document_of(rows: Sequence[Row], silent: Mapping[str, int], now: dt.datetime) -> dict[str, Any]:
    """The JSON of the page, with what the next one must know of hosts that are silent."""
    return {**document(rows, now), "silent": dict(silent)}
