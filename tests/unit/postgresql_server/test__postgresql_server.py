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
    """Stands in for psql and systemctl. `down`: it does not run until it is started, and `broken` not even then."""

    def __init__(self, code: int = 0, *, down: bool = False, broken: bool = False) -> None:
        self.code = code
        self.down = down
        self.broken = broken
        self.ran: list[str] = []
        self.told: list[str] = []

    def __call__(self, arguments: Sequence[str], *, stdin: str = "", **_: Any) -> Completed:
        command = " ".join(arguments)
        if command.startswith("systemctl is-active"):
            return Completed(tuple(arguments), 3 if self.down else 0, "", "")
        self.ran.append(command)
        self.told.append(stdin)
        if command.startswith("systemctl"):
            self.down = self.down and self.broken
            return Completed(tuple(arguments), int(self.down), "", "")
        if command.startswith("journalctl"):
            return Completed(tuple(arguments), 0, "FATAL:  could not map anonymous shared memory", "")
        facts = {"roles": {}, "databases": {}, "waiting": ["shared_buffers"], "checksums": True}
        return Completed(tuple(arguments), self.code, json.dumps(facts), "psql: error: no such socket" * self.code)


@pytest.fixture
def host(tmp_path: Path) -> Path:
    (tmp_path / "etc/postgresql/17/main/conf.d").mkdir(parents=True)
    (tmp_path / "etc/postgresql/17/main/postgresql.conf").touch()
    return tmp_path


@pytest.fixture
def placed(host: Path) -> Path:
    """A host with settings of ours."""
    (host / "etc/postgresql/17/main/conf.d/backstay.conf").write_text("work_mem = 4MB\n")
    (host / "etc/postgresql/17/main/conf.d/somebodys.conf").touch()
    return host


def test_the_restart_comes_before_the_databases(host: Path) -> None:
    runner = Server()
    DatabaseServer("17", root=host, runner=runner).bring([PORTAL], adopt=False)
    assert runner.ran[1] == "systemctl restart postgresql@17-main.service"
    assert runner.told[2].startswith('CREATE ROLE "audit-portal"')
    assert all("CREATE" not in command for command in runner.ran), "statements go in on standard input"


def test_a_server_that_does_not_answer_is_told_with_what_to_look_at(host: Path) -> None:
    with pytest.raises(BackstayError, match=r"no such socket.*systemctl status postgresql@17-main"):
        DatabaseServer("17", root=host, runner=Server(code=1)).see()


def test_a_refusal_asks_nothing_further(host: Path) -> None:
    runner = Server()
    with pytest.raises(InputError, match="Nothing was changed"):
        DatabaseServer("17", root=host, runner=runner).plan([Wanted("x", 'y"')], adopt=False)
    assert len(runner.ran) == 1


def test_a_server_that_is_down_is_started_and_then_asked(placed: Path) -> None:
    runner = Server(down=True)
    server = DatabaseServer("17", root=placed, runner=runner)
    _seen, planned = server.plan([PORTAL], adopt=False)
    assert (planned.start, runner.ran) == (True, []), "who only looks starts nothing"
    _seen, done = server.bring([PORTAL], adopt=False)
    assert runner.ran[0] == "systemctl start postgresql@17-main.service"
    assert done.start
    assert "CREATE ROLE" in done.statements[0]


def test_a_server_that_cannot_be_started_says_why(placed: Path) -> None:
    with pytest.raises(BackstayError, match="did not start") as refused:
        DatabaseServer("17", root=placed, runner=Server(down=True, broken=True)).bring([PORTAL], adopt=False)
    assert refused.value.lines == ("FATAL:  could not map anonymous shared memory",)


def test_a_server_of_somebody_else_that_is_down_is_left_alone(host: Path) -> None:
    runner = Server(down=True)
    with pytest.raises(InputError, match="nobody can say what it holds: start it"):
        DatabaseServer("17", root=host, runner=runner).bring([PORTAL], adopt=True)
    assert runner.ran == []


def test_settings_that_are_not_in_place_are_tried_before_anything_is_touched(placed: Path) -> None:
    tried: list[str] = []

    def trial(version: str, configuration: Path) -> None:
        tried.append((configuration.parent / "conf.d/backstay.conf").read_text())
        assert (configuration.parent / "conf.d/somebodys.conf").exists()
        assert configuration.exists()
        raise BackstayError("it said FATAL.", lines=("FATAL",))

    runner = Server()
    server = DatabaseServer("17", root=placed, runner=runner, trial=trial)
    server.plan([PORTAL], adopt=False, settings="work_mem = 4MB\n")
    assert tried == [], "what the server has already is not tried again"
    with pytest.raises(InputError, match="would not start with the settings it is to have: it said FATAL"):
        server.bring([PORTAL], adopt=False, settings="work_mem = 8MB\n")
    assert tried == ["work_mem = 8MB\n"]
    assert not any("CREATE" in told for told in runner.told)


def test_the_settings_of_a_server_of_somebody_else_are_nobodys_business(host: Path) -> None:
    class Somebodys(Server):
        def __call__(self, arguments: Sequence[str], *, stdin: str = "", **options: Any) -> Completed:
            done = super().__call__(arguments, stdin=stdin, **options)
            shop = {"shop": {"owner": "shop", "encoding": "UTF8", "open": False}}
            facts = {"roles": {}, "databases": shop, "waiting": [], "checksums": True}
            return Completed(done.arguments, done.returncode, json.dumps(facts), "") if "psql" in arguments else done

    def trial(version: str, configuration: Path) -> None:
        pytest.fail("its settings stay as they are")

    server = DatabaseServer("17", root=host, runner=Somebodys(), trial=trial)
    assert server.plan([PORTAL], adopt=True, settings="work_mem = 8MB\n")[0].foreign == ("shop",)
