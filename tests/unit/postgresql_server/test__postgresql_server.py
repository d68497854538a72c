"""Each application gets its role and database; nothing of anybody's is dropped, given away or restarted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, InputError
from ansible_collections.backstay.ops.plugins.module_utils._postgresql_server import (
    DatabaseServer,
    Existing,
    Role,
    Seen,
    Wanted,
    plan,
    refusals,
)
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed

PORTAL = Wanted("portal", "audit-portal")
SERVERS_OWN = {name: Existing("postgres", open=True) for name in ("postgres", "template0", "template1")}
FRESH = Seen((("17", "main"),), roles={"postgres": Role(superuser=True, createrole=True)}, databases=SERVERS_OWN)
READY = replace(
    FRESH,
    configured=True,
    roles={**FRESH.roles, "audit-portal": Role()},
    databases={**SERVERS_OWN, "portal": Existing("audit-portal")},
)
SOMEBODYS = replace(FRESH, databases={**SERVERS_OWN, "shop": Existing("shop")})


def test_where_nothing_is_installed_everything_would_be_made() -> None:
    assert refusals([PORTAL], Seen(), "17", adopt=False) == ()
    made = plan([PORTAL], Seen(), "17").statements
    assert [statement.split('"')[0] for statement in made] == [
        "CREATE ROLE ",
        "CREATE DATABASE ",
        "REVOKE ALL ON DATABASE ",
    ]


def test_a_second_time_changes_nothing() -> None:
    assert not plan([PORTAL], READY, "17").changed


def test_the_owner_may_make_databases_only_where_that_is_asked_for() -> None:
    assert plan([replace(PORTAL, createdb=True)], READY, "17").statements == (
        'ALTER ROLE "audit-portal" LOGIN CREATEDB;',
    )
    taken = replace(READY, roles={"audit-portal": Role(createdb=True)})
    assert plan([PORTAL], taken, "17").statements == ('ALTER ROLE "audit-portal" LOGIN NOCREATEDB;',)
    assert "NOCREATEDB" in plan([PORTAL], FRESH, "17").statements[0]


def test_a_database_that_everybody_may_connect_to_is_closed() -> None:
    opened = replace(READY, databases={**SERVERS_OWN, "portal": Existing("audit-portal", open=True)})
    assert plan([PORTAL], opened, "17").statements == ('REVOKE ALL ON DATABASE "portal" FROM PUBLIC;',)


def test_one_owner_of_two_databases_is_made_once() -> None:
    made = plan([PORTAL, Wanted("archive", "audit-portal")], FRESH, "17").statements
    assert sum(statement.startswith("CREATE ROLE") for statement in made) == 1


def test_what_nobody_asks_for_any_more_stays() -> None:
    assert not plan([], READY, "17").changed


def test_a_new_server_is_restarted_and_one_with_databases_never() -> None:
    waiting = ("listen_addresses", "shared_buffers")
    assert plan([PORTAL], replace(FRESH, waiting=waiting), "17").restart
    planned = plan([PORTAL], replace(READY, waiting=waiting), "17")
    assert not planned.changed
    (line,) = planned.lines
    assert "listen_addresses, shared_buffers wait for a restart, which only you decide on" in line
    assert line.endswith("systemctl restart postgresql@17-main.service")


def test_missing_checksums_are_said_and_not_added() -> None:
    planned = plan([PORTAL], replace(READY, checksums=False), "17")
    assert not planned.changed
    assert "has no data checksums" in planned.lines[0]


def test_a_server_of_somebody_else_is_refused_unless_it_is_kept_as_it_is() -> None:
    (said,) = refusals([PORTAL], SOMEBODYS, "17", adopt=False)
    assert "holds shop and was not set up by Backstay: say postgresql_adopt: keep" in said
    assert refusals([PORTAL], SOMEBODYS, "17", adopt=True) == ()
    assert SOMEBODYS.foreign == ("shop",)
    assert READY.foreign == ()


@pytest.mark.parametrize(
    ("wanted", "seen", "said"),
    [
        (Wanted('a"b', "x"), FRESH, "is no name for a database"),
        (Wanted("postgres", "x"), FRESH, "is the server's own"),
        (Wanted("portal", "postgres"), FRESH, "may do anything on the server"),
        (Wanted("portal", "harbour"), READY, 'ALTER DATABASE "portal" OWNER TO "harbour"'),
        (
            PORTAL,
            replace(READY, databases={"portal": Existing("audit-portal", encoding="SQL_ASCII")}),
            "is in SQL_ASCII and not in UTF8",
        ),
        (PORTAL, replace(FRESH, clusters=(("16", "main"),)), "has PostgreSQL 16/main and no 17/main"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(wanted: Wanted, seen: Seen, said: str) -> None:
    assert any(said in sentence for sentence in refusals([wanted], seen, "17", adopt=False))


def test_contradictions_of_the_inventory_are_refused() -> None:
    assert refusals([PORTAL, PORTAL], FRESH, "17", adopt=False) == (
        "The database portal is asked for twice: remove one.",
    )
    both = [PORTAL, Wanted("archive", "audit-portal", createdb=True)]
    assert "createdb is not the same for all" in refusals(both, FRESH, "17", adopt=False)[0]


class Server:
    """Stands in for psql and systemctl."""

    def __init__(self, code: int = 0) -> None:
        self.code = code
        self.ran: list[str] = []
        self.told: list[str] = []

    def __call__(self, arguments: Sequence[str], *, stdin: str = "", **_: Any) -> Completed:
        self.ran.append(" ".join(arguments))
        self.told.append(stdin)
        facts = {"roles": {}, "databases": {}, "waiting": ["shared_buffers"], "checksums": True}
        return Completed(tuple(arguments), self.code, json.dumps(facts), "psql: error: no such socket" * self.code)


@pytest.fixture
def host(tmp_path: Path) -> Path:
    (tmp_path / "etc/postgresql/17/main/conf.d").mkdir(parents=True)
    (tmp_path / "etc/postgresql/17/main/postgresql.conf").touch()
    return tmp_path


def test_the_restart_comes_before_the_databases(host: Path) -> None:
    runner = Server()
    server = DatabaseServer("17", root=host, runner=runner)
    _seen, planned = server.plan([PORTAL], adopt=False)
    server.apply(planned)
    assert runner.ran[1] == "systemctl restart postgresql@17-main.service"
    assert runner.told[2].startswith('CREATE ROLE "audit-portal"')
    assert all("CREATE" not in command for command in runner.ran), "statements go in on standard input"


def test_a_server_that_is_down_is_told_with_what_to_look_at(host: Path) -> None:
    with pytest.raises(BackstayError, match=r"no such socket.*systemctl status postgresql@17-main"):
        DatabaseServer("17", root=host, runner=Server(code=1)).see()


def test_a_refusal_asks_nothing_further(host: Path) -> None:
    runner = Server()
    with pytest.raises(InputError, match="Nothing was changed"):
        DatabaseServer("17", root=host, runner=runner).plan([Wanted("x", 'y"')], adopt=False)
    assert len(runner.ran) == 1
