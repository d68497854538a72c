"""A PostgreSQL database on a host of the lab, for applications that several hosts share."""

from __future__ import annotations

import re

from .commands import run
from .errors import LabError
from .hosts import Lab

# The rule is what a second run looks for.
_LISTEN = """
set -eu
cluster=$(pg_lsclusters --no-header | awk '{ print $1 "/" $2; exit }')
directory=/etc/postgresql/$cluster
rule='host all all SUBNET scram-sha-256'
grep -qxF "$rule" "$directory/pg_hba.conf" && exit 0
printf '%s\\n' "listen_addresses = '*'" 'max_connections = 200' > "$directory/conf.d/backstay-lab.conf"
echo "$rule" >> "$directory/pg_hba.conf"
systemctl restart "postgresql@${cluster%/*}-${cluster#*/}.service"
"""
_MAKE = """
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'NAME') THEN CREATE ROLE NAME LOGIN; END IF;
END $$;
ALTER ROLE NAME PASSWORD 'SECRET';
SELECT 'CREATE DATABASE NAME OWNER NAME TEMPLATE template0 ENCODING ''UTF8'' LOCALE ''C.UTF-8'''
  WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'NAME') \\gexec
"""


def make_database(lab: Lab, host: str, name: str, password: str) -> str:
    """Make a role and a database, both called `name`, in UTF-8, reached from every host of the lab with a password;
    what is there stays. Returns the URL, which holds the password.

    The host must have been booted with `--image database`. Raises LabError when PostgreSQL refuses.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,30}", name) or not re.fullmatch(r"[A-Za-z0-9_-]{16,}", password):
        raise LabError("A database of the lab has a name of small letters and a password of 16 letters or digits.")
    listen = _LISTEN.replace("SUBNET", lab.addresses.subnet)
    run(lab.ssh_command(host, "sh", "-s"), stdin=listen.encode(), timeout_seconds=60.0)
    ask_database(lab, host, "postgres", _MAKE.replace("NAME", name).replace("SECRET", password))
    return f"postgresql://{name}:{password}@{lab.addresses.address(host)}:5432/{name}"


def ask_database(lab: Lab, host: str, database: str, sql: str) -> list[str]:
    """The rows that statements give, columns apart by `|`.

    They go in on standard input, so that no password is in a process list.
    """
    command = ["runuser", "-u", "postgres", "--", "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", database]
    return run(lab.ssh_command(host, *command), stdin=sql.encode(), timeout_seconds=60.0).stdout.splitlines()
