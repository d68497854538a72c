"""Each known cause from its facts: its evidence, the one command, and which of several is blamed first."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _causes, _cli
from ansible_collections.backstay.ops.plugins.module_utils._causes import (
    Answer,
    Certificate,
    Database,
    Disk,
    Facts,
    Said,
    Traffic,
    Unit,
    causes,
    summary,
)

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = _cli._parser()
GIB = 1 << 30
WEB = Unit("portal-0002-1.1.0-web.service", "web", "active", memory_bytes=100 << 20, memory_max_bytes=400 << 20)
WORKER = Unit("portal-0002-1.1.0-worker.service", "worker", "active")
NGINX = Unit("nginx.service", "nginx", "active")
UNITS = (WEB, WORKER, NGINX)
DISK = Disk("/", 20 * GIB, 9 * GIB, 1_000_000, 700_000)
WELL = Facts(
    application="portal",
    host="app1",
    at="2026-11-21T12:00:00.000Z",
    live="0002-1.1.0",
    live_since="2026-11-01T08:00:00.000Z",
    warm="0001-1.0.0",
    rollback_target="0001-1.0.0",
    front_door=Answer(200, 0.02, release="0002-1.1.0"),
    socket=Answer(200, 0.01, release="0002-1.1.0"),
    units=UNITS,
    certificate=Certificate("2026-10-01T00:00:00+00:00", "2027-01-01T00:00:00+00:00", ("portal.test",)),
    disks=(DISK,),
    memory_bytes=2 * GIB,
    free_memory_bytes=GIB,
    cores=2,
    load=0.3,
    databases=(Database("default", "/opt/portal/data/db/portal.sqlite3"),),
    traffic=Traffic(200, 0, 0.1),
)


def units(**changed: Unit) -> tuple[Unit, ...]:
    return tuple(changed.get(unit.process, unit) for unit in UNITS)


def certificate(**changed: Any) -> dict[str, Any]:
    assert WELL.certificate is not None
    return {"certificate": replace(WELL.certificate, **changed)}


DEAD = replace(WEB, state="failed", result="exit-code", restarts=5)
# Key of the cause that must be blamed first: the facts that differ, a part of its evidence, and of its command.
KNOWN: Mapping[str, tuple[dict[str, Any], str, str]] = {
    "disk_full": (
        {"disks": (replace(DISK, path="/opt", free_bytes=1 << 20),)},
        "/opt: 1.0 MiB of 20.0 GiB are free",
        "du -xh",
    ),
    "inodes_full": ({"disks": (replace(DISK, path="/var", free_inodes=3),)}, "3 of 1000000 inodes", "du -x --inodes"),
    "read_only_disk": ({"disks": (replace(DISK, read_only=True),)}, "/ is mounted read-only", "dmesg"),
    "web_dead": (
        {"units": units(web=DEAD), "socket": Answer(problem="there is no socket"), "front_door": Answer(502)},
        "web.service is failed, its last result exit-code",
        "backstay recover portal",
    ),
    "web_hung": (
        {"socket": Answer(problem="no answer within 4 s", late=True), "front_door": Answer(504)},
        "is active; no answer within 4 s",
        "systemctl restart portal-0002-1.1.0-web.service",
    ),
    "database_locked": (
        {"databases": (Database("default", "/db", holder="process 77 (python)", holder_pid=77),)},
        "/db is held by process 77 (python)",
        "ps -o pid,user,etime,args -p 77",
    ),
    "database_missing": (
        {"databases": (Database("default", "/db", missing=True),), "health_failing": ("database: no such table",)},
        "/db is missing",
        "backstay restore --plan portal",
    ),
    "database_wrong": (
        {"databases": (Database("default", "/db", wrong="/db: file is not a database"),)},
        "not a database",
        "backstay restore --plan portal",
    ),
    "migrations_pending": (
        {"migrations_pending": ("audits.0007_x",), "health_failing": ("migrations: Not applied",)},
        "audits.0007_x",
        "backstay release --again portal",
    ),
    "certificate_expired": (
        certificate(not_after="2026-11-20T12:00:00+00:00"),
        "it was valid until 2026-11-20",
        "playbooks/site.yml",
    ),
    "certificate_ends": (certificate(not_after="2026-11-24T13:00:00+00:00"), "2026-11-24", "playbooks/site.yml"),
    "certificate_early": (certificate(not_before="2026-12-01T00:00:00+00:00"), "this host's clock", "timedatectl"),
    "certificate_name": (certificate(fits=False), "it is for portal.test", "playbooks/site.yml"),
    "certificate_unreadable": ({"certificate": Certificate(problem="no such file")}, "no such file", "site.yml"),
    "nginx_down": (
        {"units": units(nginx=replace(NGINX, state="inactive")), "front_door": Answer(problem="connection refused")},
        "connection refused",
        "systemctl start nginx",
    ),
    "nginx_configuration": ({"nginx_refuses": 'unknown directive "wrong"'}, "unknown directive", "nginx -t"),
    "memory_kill": (
        {"said": {"killed for memory": Said(2, "Out of memory: Killed process 9 (gunicorn)")}},
        "in the logs 2 times, last: Out of memory: Killed process 9",
        "backstay logs --process web --lines 200 portal",
    ),
    "configuration_drift": ({"configuration_changed": True}, "differ from those", "backstay release --plan portal"),
    "secret_missing": (
        {"missing_keys": "SECRET_KEY: declared as required", "configuration_changed": True},
        "SECRET_KEY",
        "playbooks/site.yml",
    ),
    "configuration_broken": ({"configuration_problem": "line 3"}, "line 3", "playbooks/site.yml"),
    "transaction_open": (
        {"transaction_open": True, "transaction_running": True, "transaction": "release of 0003-1.2.0 by ada"},
        "release of 0003-1.2.0 by ada",
        "backstay abort portal",
    ),
    "transaction_unfinished": (
        {"transaction_open": True, "transaction": "release of 0003-1.2.0", "maintenance": True},
        "its door is closed",
        "backstay recover portal",
    ),
    "maintenance": ({"maintenance": True}, "maintenance.on", "backstay maintenance off portal"),
    "rebuilding": (
        {"maintenance": True, "rebuilding": "backstay restore --point=latest --repository=disk portal"},
        "a rebuild waits for",
        "backstay restore --point=latest --repository=disk portal",
    ),
    "repository_unreachable": (
        {"repositories_unreachable": {"offsite": "connection refused"}, "backup_problems": ("offsite lacks it",)},
        "connection refused",
        "backstay backup --plan portal",
    ),
    "backup": ({"backup_problems": ("there is no restore point",)}, "no restore point", "backstay backups portal"),
    "permissions": (
        {"wrong_permissions": ("/opt/portal/data/media/x is root:root 0600",), "wrong_owner": "portal:www-data"},
        "root:root 0600",
        "chown -R portal:www-data /opt/portal/data/media/x",
    ),
    "open_files": ({"said": {"files": Said(3, "[24] Too many open files")}}, "in the logs 3 times", "recover"),
    "worker_dead": (
        {"units": units(worker=replace(WORKER, state="failed", result="exit-code"))},
        "worker.service is failed",
        "backstay recover portal",
    ),
    "restarts": ({"units": units(worker=replace(WORKER, restarts=9))}, "restarted 9 times", "--process worker"),
    "release": (
        {"live_since": "2026-11-21T11:00:00.000Z", "traffic": Traffic(100, 30, 0.1)},
        "30 of the last 100 requests failed",
        "backstay rollback --plan portal",
    ),
    "errors": ({"traffic": Traffic(100, 30, 0.1)}, "30 of the last 100", "backstay logs"),
    "health": ({"health_failing": ("cache: it is away",)}, "cache: it is away", "backstay health portal"),
    "ledger": ({"ledger": "tampered: line 3 was changed"}, "line 3", "backstay history --verify portal"),
    "nothing_live": ({"live": None, "units": (NGINX,)}, "no link", "backstay history portal"),
    "slow": ({"traffic": Traffic(100, 0, 4.5)}, "4.5 s", "backstay logs"),
    "load": ({"load": 9.0}, "load 9.0 on 2 cores", "ps -eo"),
    "memory_short": ({"free_memory_bytes": 10 << 20}, "10.0 MiB of 2.0 GiB", "ps -eo"),
}


def test_a_host_that_is_well_has_no_cause() -> None:
    assert causes(WELL) == ()
    lines = summary(WELL, ())
    assert "visitors are served" in lines[0]
    assert any("no known cause" in line for line in lines)


@pytest.mark.parametrize("key", KNOWN)
def test_facts_lead_to_their_cause(key: str) -> None:
    changed, evidence, command = KNOWN[key]
    found = causes(replace(WELL, **changed))
    assert found, "no cause was found"
    assert found[0].key == key, [cause.key for cause in found]
    assert evidence in "\n".join(found[0].evidence)
    assert command in found[0].command
    text = summary(replace(WELL, **changed), found, archive="/var/x.tar.gz")
    assert len(text) <= _causes.LINES
    assert max(map(len, text)) <= _causes.WIDTH
    assert f"likely cause: {found[0].sentence}"[: _causes.WIDTH] in text
    assert text[-1] == "for the ticket: /var/x.tar.gz"


def test_every_cause_that_can_be_found_is_in_this_table() -> None:
    source = Path(_causes.__file__).read_text(encoding="utf-8")
    lines = source.splitlines()
    named = {lines[i + 1].strip().strip('",') for i, line in enumerate(lines) if line.strip() == "yield Cause("}
    assert named == set(KNOWN)
    assert source.count("Cause(") == source.count("yield Cause(") + source.count("class Cause("), "one that is missed"


@pytest.mark.parametrize("key", KNOWN)
def test_its_command_exists_and_its_runbook_too(key: str) -> None:
    for cause in causes(replace(WELL, **KNOWN[key][0])):
        assert (ROOT / "docs" / "runbooks" / cause.runbook).is_file(), cause.runbook
        words = shlex.split(cause.command)
        if words[0] == "backstay":
            assert callable(COMMANDS.parse_args(words[1:]).verb)
        elif words[0] == "ansible-playbook":
            assert (ROOT / words[1]).is_file()
        else:
            assert words[0] in ("du", "dmesg", "ps", "systemctl", "chown", "nginx", "timedatectl"), words


BLAME = (
    ("disk_full", "web_dead"),
    ("inodes_full", "database_missing"),
    ("memory_kill", "web_dead"),
    ("nginx_configuration", "nginx_down"),
    ("nginx_down", "memory_kill"),
    ("database_missing", "web_dead"),
    ("database_locked", "web_hung"),
    ("permissions", "web_dead"),
    ("web_dead", "worker_dead"),
    ("web_dead", "configuration_drift"),
    ("web_hung", "errors"),
    ("certificate_expired", "repository_unreachable"),
)


@pytest.mark.parametrize(("first", "second"), BLAME)
def test_what_makes_the_other_happen_is_blamed_first(first: str, second: str) -> None:
    both = {**KNOWN[second][0], **KNOWN[first][0]}
    if "units" in KNOWN[first][0] and "units" in KNOWN[second][0]:
        both["units"] = tuple(
            one if one not in UNITS else other
            for one, other in zip(KNOWN[first][0]["units"], KNOWN[second][0]["units"], strict=True)
        )
    found = [cause.key for cause in causes(replace(WELL, **both))]
    assert found[0] == first, found
    assert second in found, found


def test_memory_that_perhaps_ran_out_is_only_said_to_have() -> None:
    said = {"perhaps killed for memory": Said(1, "Worker (pid:9) was sent SIGKILL! Perhaps out of memory?")}
    found = causes(replace(WELL, said=said))
    assert found[0].key == "memory_kill"
    assert "usually means" in found[0].sentence
    killed = replace(WEB, result="oom-kill", memory_bytes=390 << 20)
    sure = causes(replace(WELL, units=units(web=killed)))
    assert sure[0].sentence == "A process was killed because memory ran out."
    assert "web.service ended with oom-kill" in sure[0].evidence[0]
    assert "uses 390.0 MiB of 400.0 MiB" in sure[0].evidence[1]


def test_a_log_line_alone_blames_no_disk_that_has_room_again() -> None:
    assert causes(replace(WELL, said={"no room": Said(5, "No space left on device")})) == ()


@pytest.mark.parametrize(
    ("size", "free", "full"),
    [
        (20 * GIB, GIB, False),
        (20 * GIB, 150 << 20, True),
        (64 << 20, 60 << 20, False),
        (64 << 20, 3 << 20, True),
        (4 << 20, 3 << 20, False),
        (4 << 20, 0, True),
        (0, 0, False),
    ],
)
def test_when_a_disk_is_full(size: int, free: int, full: bool) -> None:
    assert Disk("/", size, free).full is full


def test_maintenance_is_what_visitors_see_although_the_host_itself_gets_an_answer() -> None:
    closed = replace(WELL, maintenance=True)
    assert not closed.served
    assert "visitors get 503" in summary(closed, causes(closed))[0]


def test_a_maintenance_release_closes_its_door_itself() -> None:
    changed = {"maintenance": True, "transaction_open": True, "transaction_running": True}
    assert [cause.key for cause in causes(replace(WELL, **changed))] == ["transaction_open"]


def test_everything_at_once_still_fits_one_screen() -> None:
    together: dict[str, Any] = {}
    for changed, _unused, _unused in reversed(KNOWN.values()):
        together |= changed
    facts = replace(WELL, **{**together, "live": "0002-1.1.0", "unseen": ("x" * 500,)})
    lines = summary(facts, causes(facts), archive="/var/lib/x.tar.gz")
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 160
    assert lines[-1].startswith("for the ticket")


def test_facts_are_whole_in_json() -> None:
    assert set(WELL.to_dict()) == {field.name for field in fields(Facts)}
