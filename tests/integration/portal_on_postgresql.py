"""The example application on PostgreSQL: a server on its own host; a second host builds, and keeps restore points."""

from __future__ import annotations

import json
import time
from typing import Any

from backstay_lab.database import ask_database
from backstay_lab.load import LoadProcess
from backstay_lab.scene import APPLICATION, Played, Scene
from backstay_lab.stores import SftpStore

HOST, BUILDER = "app1", "build1"
DATABASE = "portal"
AUDITS = 2000
# The server asks for none over its socket; it is here to be looked for where it must not be.
PASSWORD = "a-word-that-nobody-may-see"
REPOSITORIES = "for this test alone, and long enough"


class Portal(Scene):
    """The stage: what differs in this inventory from the example's."""

    databases: tuple[dict[str, Any], ...] = ({"name": DATABASE, "owner": APPLICATION},)

    def play(self, playbook: str, *arguments: str, **given: Any) -> Played:
        given.setdefault("postgresql_databases", list(self.databases))
        return super().play(playbook, "-e", f"@{self.directory / 'secrets.json'}", *arguments, **given)

    def ask(self, sql: str, database: str = DATABASE) -> list[str]:
        """Rows, as the server's administrator."""
        return ask_database(self.lab, HOST, database, sql)

    def names(self) -> list[str]:
        return self.ask("SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1", "postgres")

    def tokens(self, database: str = DATABASE) -> set[str]:
        """What visitors wrote, as the database has it."""
        return set(self.ask("SELECT token FROM audits_finding WHERE token <> ''", database))

    def shell(self, command: str, *, check: bool = True) -> str:
        return self.lab.ssh(HOST, command, check=check).stdout.strip()

    def told(self, *arguments: str) -> dict[str, Any]:
        """What a verb answers, which must have gone well."""
        found = dict(self.backstay(*arguments, "--json", APPLICATION, check=False))
        assert found["ok"], json.dumps(found)
        self.settled()
        return found

    def visited(self) -> LoadProcess:
        """Visitors of as many audits as there are."""
        file = self.directory / "profile.json"
        file.write_text(json.dumps({"ranges": {"id": [1, AUDITS], "page": [1, 5]}}), encoding="utf-8")
        return self.load("--slow", "0", "--profile", str(file), rate=20.0)

    def written(self, seconds: float = 6.0) -> set[str]:
        """Rows that visitors wrote and that were acknowledged."""
        with self.visited() as visitors:
            time.sleep(seconds)
            result = visitors.stop()
        found = {write.token for write in result.writes}
        assert found, f"nobody wrote anything: {result.failures}"
        return found

    def stage(self, *, offsite: bool = True) -> None:
        """From nothing to a host that serves 1.1.0, provisioned as an operator does. With `offsite`, restore points go
        to the second host too."""
        secrets = self.directory / "secrets.json"
        secrets.parent.mkdir(parents=True, exist_ok=True)
        secrets.touch(mode=0o600)
        url = f"postgresql://{APPLICATION}:{PASSWORD}@/{DATABASE}?host=/var/run/postgresql"
        values = {
            "SECRET_KEY": "for this lab alone, and longer than fifty letters are, as Django asks",
            "DATABASE_URL": url,
        }
        secrets.write_text(json.dumps({"backstay_secrets": {APPLICATION: values}}), encoding="utf-8")
        self.prepare((HOST, BUILDER), image="prepared")
        opens: dict[str, dict[str, Any]] = {"disk": {"password": REPOSITORIES}}
        repositories = {}
        if offsite:
            store = SftpStore(self.lab, BUILDER)
            store.start()
            place = store.place("portal")
            opens["offsite"] = {"password": REPOSITORIES, **place.secrets}
            repositories["offsite"] = {"location": place.location}
        self.backup_secrets = {APPLICATION: opens}
        self.declare(
            databases=[{"name": "default", "engine": "postgresql", "url_key": "DATABASE_URL"}],
            environment={
                "required": ["SECRET_KEY", "ALLOWED_HOSTS", "DATABASE_URL"],
                "secret": ["SECRET_KEY", "DATABASE_URL"],
            },
            backup={
                "repositories": repositories,
                "files": [{"database": "default", "query": "SELECT image FROM audits_photo"}],
                "newest": [{"database": "default", "query": "SELECT max(created_at) FROM audits_finding"}],
            },
        )
        self.play("site")
        self.build("1.1.0")
        self.release("1.1.0", why="the first")
        self.manage("seed", "--audits", str(AUDITS))
