"""What a backup collects on a host: copies of the databases, links to the media, and what is in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from . import _media, _sqlite_copy
from ._backup_settings import Question
from ._manifest import CanaryAnswer, DatabaseFacts, MediaFile

if TYPE_CHECKING:
    from ._application import Database
    from ._backup import Source
    from ._postgresql import Copied, Server

MEDIA = "media"


class HostCollector:
    """Of the live data, with the application's own accounts."""

    def __init__(self, source: Source, *, account: _sqlite_copy.Account | str | None = "") -> None:
        """`account`: whose process opens the databases; "" stands for the application's user."""
        self.source = source
        self._account = account
        self._told: dict[str, Copied] = {}  # what a server said in the dump's own moment

    @property
    def account(self) -> _sqlite_copy.Account | None:
        if isinstance(self._account, str):
            return _sqlite_copy.Account.of(self._account or self.source.layout.name)
        return self._account

    def freeze(self, stage: Path, *, first: bool) -> tuple[str, ...]:
        media = self.source.application.media
        if media is None:
            return ()
        data = self.source.layout.data
        skipped = _media.freeze(data / media, stage / MEDIA, first=first, data=data).skipped
        if not skipped:
            return ()
        path, kind = skipped[0]
        return (f"{len(skipped)} entries of the media are no files and are not backed up, such as {path} (a {kind}).",)

    def copy(self, stage: Path) -> None:
        for database in self.source.application.databases:
            target = stage / "databases" / file_of(database)
            if database.path is not None:
                _sqlite_copy.copy(
                    self.source.layout.data / database.path,
                    target,
                    account=self.account,
                    deadline_seconds=self.source.policy.copy_seconds,
                    storage=self.source.storage,
                    runner=self.source.runner,
                )
            else:
                self._told[database.name] = self._server(database).copy(
                    target,
                    of=database.name,
                    file=f"databases/{file_of(database)}",
                    queries={query: query for query in self._queries(database.name)},
                    seconds=self.source.policy.copy_seconds,
                    storage=self.source.storage,
                )

    def databases(self, stage: Path) -> Mapping[str, DatabaseFacts]:
        found = {}
        for database in self.source.application.databases:
            file = f"databases/{file_of(database)}"
            if database.path is not None:
                found[database.name] = _sqlite_copy.facts(stage / file, name=database.name, file=file)
            else:
                found[database.name] = self._told[database.name].facts
        return found

    def media(
        self, stage: Path, known: Mapping[str, MediaFile], stop: Callable[[], bool] = lambda: False
    ) -> Mapping[str, MediaFile]:
        return _media.hash_tree(stage / MEDIA, known=known, stop=stop)

    def answers(self, stage: Path) -> tuple[tuple[CanaryAnswer, ...], Mapping[str, str | None]]:
        policy = self.source.policy
        canaries = tuple(
            CanaryAnswer(canary.name, canary.database, self._ask(stage, canary.database, canary.query))
            for canary in policy.canaries
        )
        newest: dict[str, str | None] = {}
        for question in policy.newest:
            when = self._newest(stage, question)
            earlier = newest.get(question.database)
            newest[question.database] = max(filter(None, (when, earlier)), default=None)
        for question in policy.files:
            self._ask(stage, question.database, _tried(question.query))
        return canaries, newest

    def _queries(self, name: str) -> tuple[str, ...]:
        """Everything that the settings ask of one database."""
        policy = self.source.policy
        asked = [(each.database, each.query) for each in policy.canaries]
        asked += [(each.database, each.query) for each in policy.newest]
        asked += [(each.database, _tried(each.query)) for each in policy.files]
        return tuple(query for database, query in asked if database == name)

    def _ask(self, stage: Path, name: str, query: str) -> str:
        database = next(each for each in self.source.application.databases if each.name == name)
        if database.path is not None:
            return _sqlite_copy.answer(stage / "databases" / file_of(database), query)
        return self._told[name].answers[query]

    def _newest(self, stage: Path, question: Question) -> str | None:
        from ._restored import utc_of

        rows = json.loads(self._ask(stage, question.database, question.query))
        times = [when for row in rows for each in row[:1] if (when := utc_of(each)) is not None]
        return max(times).isoformat() if times else None

    def _server(self, database: Database) -> Server:
        from ._postgresql import Server

        return Server.of(database, self.source.environment, self.source.layout.name, runner=self.source.runner)


def _tried(query: str) -> str:
    """A query that a proof will ask, asked for one row: a mistake in it is told by the backup, and not at night."""
    return f"SELECT 1 FROM ({query.strip().rstrip('; ')}) q LIMIT 1"  # noqa: S608 - declared, and it can only read


def file_of(database: Database) -> str:
    """The name of a database's copy in the stage."""
    return f"{database.name}.{'sqlite3' if database.engine == 'sqlite' else 'pgdump'}"
