"""A timer strikes while a host is being set up: nothing was released, and that fails nothing and wakes nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _cli, _own_units
from ansible_collections.backstay.ops.plugins.module_utils import _cli_data as verbs
from ansible_collections.backstay.ops.plugins.module_utils._application import parse, to_dict
from ansible_collections.backstay.ops.plugins.module_utils._catalogue import catalogue
from ansible_collections.backstay.ops.plugins.module_utils._host import Host
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage, canonical

from .portal import described

DATABASE = {"databases": [{"name": "default", "engine": "sqlite", "path": "db/portal.sqlite3"}]}
UNITS = ("backstay-backup@.service", "backstay-verify@.service")


class Reached(Exception):
    """What the verb is for began."""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host that was provisioned, and no more; what begins a backup or a proof raises Reached."""

    def reached(*_arguments: Any, **_options: Any) -> None:
        raise Reached

    monkeypatch.setattr("ansible_collections.backstay.ops.plugins.module_utils._backup.backup", reached)
    monkeypatch.setattr(verbs, "prove_point", reached)
    layout = Layout("portal", tmp_path)
    layout.application_file.parent.mkdir(parents=True)
    layout.backups.parent.mkdir(parents=True)
    file = described({"repositories": {"disk": {"location": "/srv/backup/portal"}}}) | DATABASE
    layout.application_file.write_bytes(canonical(to_dict(parse(file, file="p"))))
    return Host(layout, storage=Storage())


def typed(host: Host, command: str) -> dict[str, Any]:
    """What a command of the host, `backup` or `verify`, tells."""
    told: dict[str, Any] = {}
    words = command.split()
    options = _cli._parser().parse_args(words)
    assert getattr(verbs, words[0])(options, host, lambda _options, result, _text: told.update(result)) == 0
    return told


@pytest.mark.parametrize("unit", UNITS)
def test_the_timers_command_has_nothing_to_do_and_is_not_failed(host: Host, unit: str) -> None:
    started = next(line for line in _own_units.UNIT_TEXTS[unit].splitlines() if line.startswith("ExecStart="))
    command = started.removeprefix("ExecStart=/usr/bin/backstay ").replace("%i", "portal")
    assert typed(host, command) == {"ok": True, "changed": False}


@pytest.mark.parametrize("verb", ["backup", "verify"])
def test_whoever_types_it_is_not_sent_away_with_that(host: Host, verb: str) -> None:
    with pytest.raises(Reached):
        typed(host, f"{verb} portal")


def test_from_the_first_release_on_it_is_done(host: Host) -> None:
    host.ledger.append("staged", "0001-1.0.0")
    assert typed(host, "verify --scheduled portal") == {"ok": True, "changed": False}, "there is nothing to prove"
    with pytest.raises(Reached):
        typed(host, "backup --scheduled portal")


def test_a_backup_that_failed_is_nothing_that_a_proof_passes_over(host: Host) -> None:
    chain = catalogue(host.layout, host.storage, host.now)
    chain.append("begun", "one", repositories=["disk"], release="", version="", at=host.now())
    chain.append("failed", "one", reason="the disk was full")
    with pytest.raises(Reached):
        typed(host, "verify --scheduled portal")


def test_data_that_were_brought_before_it_are_backed_up(host: Host) -> None:
    database = host.layout.data / "db" / "portal.sqlite3"
    database.parent.mkdir(parents=True)
    database.write_bytes(b"brought")
    with pytest.raises(Reached):
        typed(host, "backup --scheduled portal")
