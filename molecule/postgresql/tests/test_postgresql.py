"""A bare host that became a database server: who may connect, from where, and what a change does not do to it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest
from testinfra.host import Host

Play = Callable[..., "subprocess.CompletedProcess[str]"]


def ask(host: Host, sql: str, *, user: str = "postgres", database: str = "postgres") -> str:
    """What psql prints, or its error."""
    done = host.run(f"cd / && runuser -u {user} -- psql -XqAt -d {database} -c %s 2>&1", sql)
    return str(done.stdout).strip()


def started(host: Host) -> str:
    """When the server was started."""
    return ask(host, "SELECT pg_postmaster_start_time()")


@pytest.fixture(scope="module", autouse=True)
def _users(host: Host) -> None:
    for name in ("harbour", "quay", "stranger"):
        host.run(f"id {name} || useradd --system {name}")


def test_an_application_connects_as_itself_without_a_password(host: Host) -> None:
    made = ask(host, "CREATE TABLE berths (n int); SELECT current_user", user="harbour", database="harbour")
    assert made == "harbour"


def test_it_connects_from_inside_the_confinement_of_a_release_without_network(host: Host) -> None:
    done = host.run(
        "systemd-run --wait --pipe --collect --quiet -p User=harbour -p PrivateNetwork=yes -p PrivateUsers=yes "
        "-p RestrictAddressFamilies=AF_UNIX -p ProtectSystem=strict psql -XqAt "
        "'postgresql:///harbour?host=/var/run/postgresql' -c 'SELECT current_user'"
    )
    assert done.stdout.strip() == "harbour", done.stderr


@pytest.mark.parametrize(
    ("user", "database", "said"),
    [
        ("quay", "harbour", "permission denied for database"),
        ("stranger", "harbour", 'role "stranger" does not exist'),
        ("stranger", "postgres", 'role "stranger" does not exist'),
    ],
)
def test_nobody_else_gets_in(host: Host, user: str, database: str, said: str) -> None:
    assert said in ask(host, "SELECT 1", user=user, database=database)


def test_a_role_is_only_what_it_says_it_is(host: Host) -> None:
    refused = ask(host, "SET ROLE quay; SELECT 1", user="harbour", database="harbour")
    assert "permission denied to set role" in refused


def test_only_whoever_was_allowed_to_makes_databases(host: Host) -> None:
    assert "permission denied to create database" in ask(
        host, "CREATE DATABASE more", user="harbour", database="harbour"
    )
    assert ask(host, "CREATE DATABASE more", user="quay", database="quay") == ""
    assert ask(host, "DROP DATABASE more", user="quay", database="quay") == ""


def test_nobody_reaches_it_over_the_network(host: Host) -> None:
    listening = host.run("ss -H -ltn")
    assert ":22 " in listening.stdout, listening
    assert ":5432 " not in listening.stdout
    assert ask(host, "SHOW listen_addresses") == ""


def test_data_have_checksums_and_sort_alike_on_every_host(host: Host) -> None:
    assert ask(host, "SHOW data_checksums") == "on"
    assert ask(host, "SELECT datcollate, pg_encoding_to_char(encoding) FROM pg_database WHERE datname = 'harbour'") == (
        "C.UTF-8|UTF8"
    )


def test_nothing_waits_for_a_restart(host: Host) -> None:
    assert ask(host, "SELECT name FROM pg_settings WHERE pending_restart") == ""
    assert ask(host, "SHOW shared_buffers") == "64MB"


def test_it_is_there_after_a_boot(host: Host) -> None:
    assert host.service("postgresql.service").is_enabled


def test_a_reload_is_enough_where_it_is_and_a_restart_is_left_to_people(host: Host, play: Play) -> None:
    before = started(host)
    done = play("-e", "postgresql_slow_statement_ms=2500")
    assert done.returncode == 0, done.stdout
    assert ask(host, "SHOW log_min_duration_statement") == "2500ms"
    done = play("-e", "postgresql_max_connections=60")
    assert done.returncode == 0, done.stdout
    assert "max_connections wait for a restart, which only you decide on" in done.stdout
    assert (ask(host, "SHOW max_connections"), started(host)) == ("50", before)
    assert play().returncode == 0


def test_what_the_server_does_not_understand_is_put_back(host: Host, play: Play) -> None:
    done = play("-e", '{"postgresql_settings": {"shared_bufers": "1GB"}}')
    assert done.returncode != 0
    assert "shared_bufers" in done.stdout
    listed = host.run("grep -rc shared_bufers /etc/postgresql --include=backstay.conf").stdout
    assert ":0" in listed or listed.strip() == "0"
    assert ask(host, "SELECT 1", user="harbour", database="harbour") == "1"


def test_settings_no_server_starts_with_are_refused_before_anything_is_touched(host: Host, play: Play) -> None:
    before = started(host)
    for setting, said in (("shared_preload_libraries", "no_such_library"), ("shared_buffers", "7TB")):
        done = play("-e", f'{{"postgresql_settings": {{"{setting}": "{said}"}}}}')
        assert done.returncode != 0
        assert "would not start with the settings it is to have" in done.stdout
        assert "Nothing was changed" in done.stdout
        assert not host.run(f"grep -r {said} /etc/postgresql").succeeded
    assert started(host) == before


def test_a_server_that_is_down_is_started_also_where_its_settings_are_what_it_failed_of(host: Host, play: Play) -> None:
    unit = host.run("systemctl list-units --plain --no-legend 'postgresql@*'").stdout.split()[0]
    place = "/etc/postgresql/*/main/conf.d/backstay.conf"
    broken = host.run(f"echo \"shared_preload_libraries = 'gone'\" >> $(echo {place}); systemctl restart {unit}")
    assert not broken.succeeded
    done = play("--check")
    assert done.returncode == 0, done.stdout
    assert not host.run(f"systemctl is-active {unit}").succeeded, "who only looks starts nothing"
    done = play()
    assert done.returncode == 0, done.stdout
    assert ask(host, "SELECT 1", user="harbour", database="harbour") == "1"


def test_check_mode_shows_the_statements_and_runs_none(host: Host, play: Play) -> None:
    extra = '{"postgresql_databases": [{"name": "dock", "owner": "dock"}]}'
    done = play("--check", "--diff", "-e", extra)
    assert done.returncode == 0, done.stdout
    assert '+CREATE ROLE "dock" LOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB;' in done.stdout
    assert ask(host, "SELECT 1 FROM pg_roles WHERE rolname = 'dock'") == ""


def test_a_database_of_somebody_else_is_not_taken(host: Host, play: Play) -> None:
    done = play("-e", '{"postgresql_databases": [{"name": "quay", "owner": "harbour"}]}')
    assert done.returncode != 0
    assert "The database quay belongs to quay and not to harbour" in done.stdout


@pytest.fixture
def somebodys(host: Host) -> Iterator[None]:
    """A server as somebody else left it: with a database, and without anything of ours."""
    place = "/etc/postgresql/*/main/conf.d/backstay.conf"
    host.run(f"for f in {place}; do cp $f /root/backstay.conf; echo $f > /root/where; rm $f; done")
    ask(host, "CREATE DATABASE shop")
    yield
    ask(host, "DROP DATABASE shop")
    host.run("cp /root/backstay.conf $(cat /root/where); systemctl reload postgresql")


def test_a_server_that_is_in_use_is_refused_or_used_as_it_is(host: Host, play: Play, somebodys: None) -> None:
    before = started(host)
    done = play()
    assert done.returncode != 0
    assert "and was not set up by Backstay: say postgresql_adopt: keep" in done.stdout
    extra = '{"postgresql_adopt": "keep", "postgresql_databases": [{"name": "jetty", "owner": "jetty"}]}'
    done = play("-e", extra)
    assert done.returncode == 0, done.stdout
    assert not host.run("ls /etc/postgresql/*/main/conf.d/backstay.conf").succeeded, "its settings stay"
    assert ask(host, "SELECT datname FROM pg_database WHERE datname IN ('shop', 'jetty') ORDER BY 1") == "jetty\nshop"
    assert started(host) == before
