"""Backup, proof and restore of a PostgreSQL database, against pg_dump, pg_restore and the engine alone, in turns."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

from sides import ROOT, close_connections

sys.path.insert(0, str(ROOT / "tests" / "integration"))

from backstay_lab.scene import APPLICATION
from data import BARE, GIGABYTE, PASSWORD, RESTIC, Against, OnHost
from portal_on_postgresql import Portal

if TYPE_CHECKING:
    from run import Bench

DUMP, PLAIN = "/srv/bench/portal.dump", "bench_plain"
AS_SERVER = "runuser -u postgres --"


class PostgresqlBench:
    """One gigabyte of rows, wholly new in each round, in a lab of its own."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def run(self) -> None:
        portal = Portal("benchpg", self.bench.say)
        portal.remove()
        try:
            portal.stage(offsite=False)
            self._measure(OnHost(portal))
        finally:
            close_connections("benchpg")
            portal.remove()

    def _measure(self, host: OnHost) -> None:
        against = Against(self.bench, host)
        prepare = "install -d -o postgres -g postgres /srv/bench"
        host.time("sh", "-c", f"{prepare} && head -c 24 /dev/urandom | base64 > {PASSWORD}")
        host.time(*RESTIC, "init")
        dump = f"{AS_SERVER} pg_dump -Fc -f {DUMP} portal"
        store = shlex.join((*RESTIC, "backup", DUMP))
        fetch = shlex.join((*RESTIC, "restore", "latest", "--target", f"{BARE}.out"))
        load = f"{AS_SERVER} createdb {PLAIN} && {AS_SERVER} pg_restore -d {PLAIN} {DUMP}"
        for round_ in range(self.bench.rounds):
            first = round_ % 2 == 0
            self.bench.say(f"round {round_ + 1} of {self.bench.rounds}: a gigabyte of rows in PostgreSQL")
            host.run("load", str(GIGABYTE), str(round_))
            against.both(
                "backup of 1 GB of PostgreSQL",
                lambda: host.time("backstay", "backup", APPLICATION)["seconds"],
                lambda: host.time("sh", "-ec", f"{dump}; exec {store}")["seconds"],
                first=first,
                most=1.3,
            )
            against.both(
                "proof L4 of PostgreSQL",
                lambda: host.time("backstay", "verify", "--level", "L4", APPLICATION)["seconds"],
                lambda: self._plain(host, f"{fetch}; {load}"),
                first=first,
                most=2.0,
            )
            against.both(
                "restore of PostgreSQL, proof and switch included",
                lambda: host.time("backstay", "restore", APPLICATION, "--point", "latest", "--why", "bench")["seconds"],
                lambda: self._plain(host, f"{fetch}; {load}"),
                first=first,
                most=4.0,
            )

    @staticmethod
    def _plain(host: OnHost, commands: str) -> float:
        """The dump fetched and loaded into a database beside, which goes again."""
        seconds = host.time("sh", "-ec", commands)["seconds"]
        host.time("sh", "-ec", f"{AS_SERVER} dropdb {PLAIN}; rm -rf {BARE}.out")
        return seconds
