"""The steps of a restore: a transaction like a release, over a generation of the data instead of a release of the code.

The point is fetched beside the live data, compared with its manifest, given to the application and, where it is older
than the live code, migrated there, before anybody notices anything. Only then the door is closed; what is not restored
is carried over, one rename makes the next generation the live one, and the door opens when the application has answered
on it. The generation before stays whole: `backstay restore --undo` is the same transaction towards it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from . import _generations as generations
from . import _restore_point
from ._errors import BackstayError, GateRefused, InputError
from ._host import Host
from ._room import mib
from ._transaction import Request, Restoring, Transaction
from ._units import one_off

if TYPE_CHECKING:
    from ._application import Application, BackupPolicy, Database
    from ._catalogue import Copy, Point
    from ._manifest import Manifest
    from ._postgresql import Server
    from ._repository import Repository

DATABASES, MEDIA, MANIFEST = "databases", "media", "manifest.json"
_BESIDE = ("", "-wal", "-journal")
_RETENTION_SECONDS = 3600.0


class Restore(Host):
    """The next generation of the data is made, proven and put in the place of the live one."""

    # before anything is touched

    def open_restore(self, request: Request) -> Transaction:
        """Check what can be checked without touching anything, and fix what the restore will do.

        Raises InputError or GateRefused; nothing has changed then.
        """
        live = self.live()
        if live is None:
            raise InputError(
                f"Nothing of {self.layout.name} is live, so there is nothing to restore under: release a version first."
            )
        application = self.application()
        present = generations.live(self.layout)
        restoring = (
            self._undoing(live, present) if request.undo else self._restoring(request, application, live, present)
        )
        stamp = self.now()
        known = self.history().get(live)
        return Transaction(
            stamp.replace("-", "").replace(":", "").replace(".", "").rstrip("Z") + f"-{os.getpid()}",
            self.layout.name,
            "undo" if request.undo else "restore",
            live,
            live,
            known.version if known else "",
            str(known.data.get("payload", "")) if known else "",
            request,
            stamp,
            restore=restoring,
        )

    def _undoing(self, live: str, present: str) -> Restoring:
        last = next((entry for entry in reversed(self.ledger.read()) if entry.event == "restored"), None)
        if last is None or last.data["generation"] != present:
            raise InputError(f"There is no restore of {self.layout.name} to undo: the live data were not restored.")
        before = str(last.data["before"])
        if before not in generations.known(self.layout):
            raise InputError(
                f"The data before that restore ({before}) are not here any more: restore a point from before it."
            )
        if last.release != live:
            raise GateRefused(
                f"{live} was released since the restore, and the data of {before} belong to {last.release}: go back to "
                f"{last.release} first, then run this again."
            )
        return Restoring(generation=before, before=present, undo=True, only=tuple(last.data.get("only", ())))

    def _restoring(self, request: Request, application: Application, live: str, present: str) -> Restoring:
        only = checked_parts(request.only, application)
        point, copy = self.choose_point(request.point)
        name = generations.following(self.layout)
        self._check_disk(point, application)
        return Restoring(
            point=point.run,
            at=point.at,
            repository=copy.repository,
            snapshot=copy.snapshot,
            manifest_snapshot=copy.manifest_snapshot,
            release=point.release,
            generation=name,
            before=present,
            only=only,
        )

    def choose_point(self, wanted: str) -> tuple[Point, Copy]:
        """The restore point that somebody means, and the copy of it that is proven best."""
        from ._catalogue import points
        from ._points import choose

        found = points(self.layout, self.storage)
        named = {
            entry.release: str(entry.data["point"])
            for entry in self.ledger.read()
            if entry.event == "backed_up" and entry.data.get("point")
        }
        return choose(found, wanted or "latest", of_releases=named)

    def _check_disk(self, point: Point, application: Application) -> None:
        disk = os.statvfs(self.layout.generations)
        free = disk.f_bavail * disk.f_frsize
        # Fetched once and kept beside the live data; a database that is migrated is written a second time.
        needed = int(point.size_bytes * 1.2) + application.releases.free_bytes
        if free < needed:
            raise GateRefused(
                f"Restoring {point.run} needs {mib(needed)} in {self.layout.generations} and {mib(free)} are free: "
                "free some, or keep fewer generations (backup.keep_generations)."
            )

    # prepare

    def do_fetch(self, transaction: Transaction) -> str:
        restoring = _restoring_of(transaction)
        self.take_data(f"restore of {restoring.point}")
        target = generations.partial(self.layout, restoring.generation)
        self.storage.remove_tree(target)
        target.mkdir(mode=0o700)
        wanted = fetched_paths(restoring, self.application())
        self._repository(restoring).restore(restoring.snapshot, target / "fetched", wanted)
        files = sum(len(names) for _directory, _folders, names in os.walk(target / "fetched"))
        return f"{files} files from {restoring.repository}"

    def undo_fetch(self, transaction: Transaction, reason: str) -> None:
        name = _restoring_of(transaction).generation
        self.storage.remove_tree(generations.partial(self.layout, name))
        if generations.live(self.layout) != name:
            self.storage.remove_tree(self.layout.generation(name))

    def do_prove(self, transaction: Transaction) -> str:
        """The point is sealed and signed, and what came of it equals its manifest. Raises GateRefused."""
        from ._proof import check_restored, prove
        from ._sandbox import SystemdSandbox

        restoring = _restoring_of(transaction)
        application = self.application()
        repository = self._repository(restoring)
        proof = prove(
            restoring.point,
            repository,
            2,
            layout=self.layout,
            application=application,
            sandbox=SystemdSandbox(application),
            public_keys=self._manifest_keys(),
            runner=self.runner,
            say=self.say,
        )
        if proof.level < 2:
            raise GateRefused(f"{proof.sentence} Nothing was changed: choose another point (--point).")
        found = check_restored(
            generations.partial(self.layout, restoring.generation) / "fetched",
            part_of(self._manifest(restoring), restoring, application),
            application,
            parts=parts_of(restoring),
            scratch=generations.partial(self.layout, restoring.generation),
            runner=self.runner,
        )
        if found:
            raise GateRefused(
                f"What came from {restoring.repository} is not what {restoring.point} was: {found[0].sentence} Nothing "
                "was changed: choose another point (--point).",
                lines=tuple(each.sentence for each in found),
            )
        return f"{restoring.point} equals its manifest"

    def undo_prove(self, transaction: Transaction, reason: str) -> None:
        """Looking changed nothing."""

    def do_place(self, transaction: Transaction) -> str:
        """Give the fetched files their places, owners and modes, and bring along what is not restored."""
        restoring = _restoring_of(transaction)
        application = self.application()
        partial = generations.partial(self.layout, restoring.generation)
        final = self.layout.generation(restoring.generation)
        if not final.exists():
            tree = partial / "tree"
            tree.mkdir(mode=0o700, exist_ok=True)
            for source, target in placed(restoring, application):
                origin, place = partial / "fetched" / source, tree / target
                if os.path.lexists(origin) and not os.path.lexists(place):
                    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    origin.rename(place)
            self._carry(restoring, application, tree, running=True)
            generations.give_away(application, tree)
            generations.prepare(application, tree)
            wrong = generations.wrong_owners(application, tree)
            if wrong:
                raise BackstayError(f"What was restored does not belong to the application: {wrong[0]}.", lines=wrong)
            self.storage.sync_tree(tree)
            self.storage.rename(tree, final)
        self._load_databases(restoring, application, partial)
        self.storage.remove_tree(partial)
        return f"generation {restoring.generation}"

    def undo_place(self, transaction: Transaction, reason: str) -> None:
        restoring = _restoring_of(transaction)
        for database in restored_servers(restoring, self.application()):
            server = self._server(database)
            server.drop(aside(server.database, restoring.generation))

    def _carry(self, restoring: Restoring, application: Application, tree: Path, *, running: bool) -> int:
        """Carry over what is not restored. While the application runs only media: a database is copied when nobody has
        it open."""
        source = self.layout.generation(restoring.before)
        files = 0
        if application.media:
            kept = kept_media(restoring, application)
            if kept is not None:
                (tree / application.media).mkdir(mode=0o700, parents=True, exist_ok=True)
                files += generations.carry(source, tree, (application.media,), leave=kept).files
        if not running:
            for database in application.databases:
                if database.path and not restores_database(restoring, database.name):
                    parts = tuple(f"{database.path}{suffix}" for suffix in _BESIDE)
                    (tree / database.path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    files += generations.carry(source, tree, parts).files
        return files

    def do_convert(self, transaction: Transaction) -> str:
        """Migrate the copy where it is older than the live code. Raises GateRefused where it is newer than it."""
        restoring = _restoring_of(transaction)
        application = self.application()
        if not restored_databases(restoring, application):
            return "no database is restored"
        live = transaction.candidate
        with self._beside(restoring, application, live) as properties:
            state = self.migrations(live, "state", properties=properties)
            if state.unknown:
                raise GateRefused(
                    f"The data of {restoring.point} were written by {restoring.release}, which knows "
                    f"{state.unknown[0]} and {live} does not: release {restoring.release.partition('-')[2]} again "
                    "first, or choose an older point."
                )
            if not state.pending:
                return "as new as the live code"
            done = self.migrations(live, "migrate", properties=properties)
        if done.pending:
            raise BackstayError(f"The copy was migrated and {done.pending[0]} is still pending: see `backstay logs`.")
        return f"{len(done.seconds)} migrations applied to the copy"

    def undo_convert(self, transaction: Transaction, reason: str) -> None:
        self._stop_migrating(transaction.candidate)

    # behind the closed door

    def do_carry(self, transaction: Transaction) -> str:
        restoring = _restoring_of(transaction)
        application = self.application()
        for database in application.databases:
            if database.path is not None:
                path = self.layout.generation(restoring.before) / database.path
                users = _restore_point.opened_by(path) if path.exists() else []
                if users:
                    raise BackstayError(
                        f"{path} is still open in {users[0]}, which would go on writing to the old data: end that "
                        "process, then restore again."
                    )
        tree = self.layout.generation(restoring.generation)
        files = self._carry(restoring, application, tree, running=False)
        self.storage.sync_tree(tree)
        return f"{files} files"

    def undo_carry(self, transaction: Transaction, reason: str) -> None:
        """It is in a generation that goes."""

    def do_swap(self, transaction: Transaction) -> str:
        restoring = _restoring_of(transaction)
        self.take_data(f"restore of {restoring.generation}")
        for database in restored_servers(restoring, self.application()):
            server = self._server(database)
            exchange(server, server.database, aside(server.database, restoring.generation), restoring.before)
        generations.switch(self.layout, self.storage, restoring.generation)
        return f"{restoring.before} to {restoring.generation}"

    def undo_swap(self, transaction: Transaction, reason: str) -> None:
        """Nobody wrote to the next generation: the door was closed."""
        restoring = _restoring_of(transaction)
        self.systemd.stop(self.systemd.units_of(self.layout.name))
        for database in restored_servers(restoring, self.application()):
            server = self._server(database)
            exchange(server, server.database, aside(server.database, restoring.before), restoring.generation)
        generations.switch(self.layout, self.storage, restoring.before)

    def do_ask(self, transaction: Transaction) -> str:
        """The canaries, asked of the data where they now are."""
        restoring = _restoring_of(transaction)
        application = self.application()
        policy = _policy(application)
        expected = {answer.name: answer.answer for answer in self._manifest(restoring).canaries}
        differs = []
        for canary in policy.canaries:
            database = next(each for each in application.databases if each.name == canary.database)
            if not restores_database(restoring, database.name):
                continue
            answer = self._answer(database, canary.query, restoring)
            if answer != expected.get(canary.name, answer):
                differs.append(canary.name)
        if differs:
            self.say(f"after its migrations the copy answers {', '.join(differs)} differently than when it was made")
        return f"{len(policy.canaries)} answers"

    def undo_ask(self, transaction: Transaction, reason: str) -> None:
        """Asking changed nothing."""

    def do_expire(self, transaction: Transaction) -> str:
        """The application's own retention: what was deleted because it was too old must not come back to visitors."""
        command = _policy(self.application()).retention
        if not command:
            return "no retention is declared (backup.retention)"
        done = self.run_in(transaction.candidate, command, unit="retention", seconds=_RETENTION_SECONDS)
        if not done.ok:
            lines = self._clean(done.last_lines(12))
            raise GateRefused(
                f"The application's retention ({' '.join(command)[:60]}) ended with exit code {done.returncode} on the "
                f"restored data: {lines[-1] if lines else 'it printed nothing'}",
                lines=lines,
            )
        last = self._clean(done.last_lines(1))
        return last[0][:100] if last else "done"

    def undo_expire(self, transaction: Transaction, reason: str) -> None:
        """It changed a generation that goes."""
        unit = self.layout.unit(transaction.candidate, "retention")
        if self.systemd.states([unit]).get(unit) not in ("inactive", "unknown", None):
            self.systemd.stop([unit])

    # afterwards

    def confirm_restore(self, transaction: Transaction) -> str:
        """Write down which data are live, and which lie beside them."""
        restoring = _restoring_of(transaction)
        last = next((entry for entry in reversed(self.ledger.read()) if entry.event in ("restored", "returned")), None)
        if last is None or last.data.get("restore") != transaction.id:
            self.ledger.append(
                "returned" if restoring.undo else "restored",
                transaction.candidate,
                restore=transaction.id,
                point=restoring.point,
                only=list(restoring.only),
                generation=restoring.generation,
                before=restoring.before,
                restored_by=transaction.request.by,
                restored_why=transaction.request.why,
            )
        return f"generation {restoring.generation} is live; {restoring.before} stays beside it"

    def prune_generations(self) -> int:
        """Remove generations beyond those that are kept, with the databases that belong to them."""
        application = self.application()
        policy = application.backup
        if policy is None:
            return 0
        gone = generations.prune(self.layout, self.storage, policy.keep_generations)
        for database in application.databases:
            if database.engine == "postgresql":
                server = self._server(database)
                for name in gone:
                    server.drop(aside(server.database, name))
        return len(gone)

    # what they need

    def run_in(
        self, release: str, command: tuple[str, ...], *, unit: str, seconds: float, properties: tuple[str, ...] = ()
    ) -> Any:
        """Run one command as a unit with a known name, in the environment and sandbox of a release."""
        python = str(self.layout.release(release) / "venv" / "bin" / "python")
        words = [python if index == 0 and word == "python" else word for index, word in enumerate(command)]
        return self.runner(
            [
                "systemd-run",
                "--quiet",
                "--wait",
                "--pipe",
                "--collect",
                f"--unit={self.layout.unit(release, unit)}",
                *one_off(self.application(release), release, seconds=seconds),
                *properties,
                *words,
            ],
            timeout_seconds=seconds + 30,
            check=False,
        )

    def _repository(self, restoring: Restoring) -> Repository:
        from ._repository import repositories_of

        policy = _policy(self.application())
        found = repositories_of(self.layout, policy.repositories, self.storage, runner=self.runner)
        if restoring.repository not in found:
            raise InputError(f"The application's file names no repository {restoring.repository!r} any more: add it.")
        return found[restoring.repository]

    def _manifest(self, restoring: Restoring) -> Manifest:
        from ._manifest import from_bytes

        local = self.storage.read(self.layout.backup_run(restoring.point) / MANIFEST)
        content = local or self._repository(restoring).read(restoring.manifest_snapshot, f"/{MANIFEST}")
        return from_bytes(content, origin=f"the manifest of {restoring.point}")

    def _manifest_keys(self) -> tuple[str, ...]:
        path = self.layout.backup_key.with_name(f"{self.layout.backup_key.name}.pub")
        content = self.storage.read(path)
        if content is None:
            raise BackstayError(f"{path} is missing, so no manifest can be believed: run playbooks/site.yml.")
        return (content.decode().strip(),)

    def _server(self, database: Database) -> Server:
        from ._postgresql import Server

        environment = self._environment_of(str(self.live()))
        return Server.of(database, environment, self.layout.name, runner=self.runner)

    def _answer(self, database: Database, query: str, restoring: Restoring) -> str:
        if database.path is not None:
            from . import _sqlite_copy

            return _sqlite_copy.answer(self.layout.generation(restoring.generation) / database.path, query)
        return self._server(database).answer(query)

    def _load_databases(self, restoring: Restoring, application: Application, partial: Path) -> None:
        """Load the dumps beside the live databases, each into a new database that bears the generation's name."""
        for database in restored_servers(restoring, application):
            server = self._server(database)
            name = aside(server.database, restoring.generation)
            server.drop(name)
            server.load(partial / "fetched" / "databases" / f"{database.name}.pgdump", name)

    def _beside(self, restoring: Restoring, application: Application, release: str) -> _Beside:
        return _Beside(self, restoring, application, release)


class _Beside:
    """Properties that show a unit the next generation in the place of the live one: it can neither see nor touch what
    visitors use."""

    def __init__(self, host: Restore, restoring: Restoring, application: Application, release: str) -> None:
        self._host, self._restoring, self._application, self._release = host, restoring, application, release
        self._file: Path | None = None

    def __enter__(self) -> tuple[str, ...]:
        layout = self._host.layout
        live, fresh = layout.generation(self._restoring.before), layout.generation(self._restoring.generation)
        found = [f"--property=BindPaths={fresh}:{live}"]
        urls = {}
        for database in restored_servers(self._restoring, self._application):
            server = self._host._server(database)
            urls[str(database.url_key)] = server.url_of(aside(server.database, self._restoring.generation))
        if urls:
            from ._environment import environment_file

            with tempfile.NamedTemporaryFile(
                "w", dir=layout.control_socket.parent, prefix=f"{layout.name}.", suffix=".environment", delete=False
            ) as file:
                self._file = Path(file.name)
                file.write(environment_file(urls))
            found.append(f"--property=EnvironmentFile={self._file}")
        return tuple(found)

    def __exit__(self, *_unused: object) -> None:
        if self._file is not None:
            self._file.unlink(missing_ok=True)


# pure


def _restoring_of(transaction: Transaction) -> Restoring:
    if transaction.restore is None:
        raise BackstayError(f"The transaction {transaction.id} restores nothing: run `backstay recover`.")
    return transaction.restore


def _policy(application: Application) -> BackupPolicy:
    if application.backup is None:
        raise InputError(
            f"The file of {application.name} has no `backup`: say there where its restore points are, then run "
            "playbooks/site.yml."
        )
    return application.backup


def checked_parts(only: tuple[str, ...], application: Application) -> tuple[str, ...]:
    """What is to be restored: nothing named means everything. `database:<name>` or `media:<path>` (`media:` is all).

    Raises InputError for what the application does not have.
    """
    for part in only:
        kind, _colon, name = part.partition(":")
        if kind == "database":
            known = [database.name for database in application.databases]
            if name not in known:
                raise InputError(f"There is no database {name!r} here; there is: {', '.join(known) or 'none'}.")
        elif kind == "media":
            if application.media is None:
                raise InputError(f"{application.name} has no media: restore a database, or everything.")
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise InputError(f"{name!r} is no path below the media: write one such as media:photographs/2026.")
        else:
            raise InputError(f"{part!r} cannot be restored alone: write database:<name> or media:<path>.")
    return tuple(str(part) for part in only)


def restores_database(restoring: Restoring, name: str) -> bool:
    return not restoring.only or f"database:{name}" in restoring.only


def restored_databases(restoring: Restoring, application: Application) -> tuple[Database, ...]:
    return tuple(each for each in application.databases if restores_database(restoring, each.name))


def restored_servers(restoring: Restoring, application: Application) -> tuple[Database, ...]:
    return tuple(each for each in restored_databases(restoring, application) if each.engine == "postgresql")


def _media_paths(restoring: Restoring) -> tuple[PurePosixPath, ...]:
    """What of the media is restored, relative to them; `.` is all."""
    if not restoring.only:
        return (PurePosixPath(),)
    return tuple(PurePosixPath(part.partition(":")[2]) for part in restoring.only if part.startswith("media:"))


def kept_media(restoring: Restoring, application: Application) -> Any:
    """Which media stay as the point has them when the rest is carried over; None when nothing is carried over."""
    paths = _media_paths(restoring)
    if PurePosixPath() in paths:
        return None
    restored = [PurePosixPath(str(application.media)) / path for path in paths]
    return lambda path: any(path == each or path.is_relative_to(each) for each in restored)


def fetched_paths(restoring: Restoring, application: Application) -> tuple[str, ...]:
    """The paths in the repository that a restore needs."""
    found = [f"/databases/{file_of(database)}" for database in restored_databases(restoring, application)]
    if application.media:
        found += [f"/media/{path}" if path.parts else "/media" for path in _media_paths(restoring)]
    return tuple(found)


def placed(restoring: Restoring, application: Application) -> tuple[tuple[str, str], ...]:
    """(path as fetched, path in the generation)."""
    found = [
        (f"databases/{file_of(database)}", str(database.path))
        for database in restored_databases(restoring, application)
        if database.path is not None
    ]
    if application.media:
        media = PurePosixPath(application.media)
        found += [(str(PurePosixPath("media") / path), str(media / path)) for path in _media_paths(restoring)]
    return tuple(found)


def parts_of(restoring: Restoring) -> tuple[str, ...]:
    """Which parts of the manifest speak about what was fetched."""
    if not restoring.only:
        return (DATABASES, MEDIA)
    kinds = {part.partition(":")[0] for part in restoring.only}
    return tuple(part for part, kind in ((DATABASES, "database"), (MEDIA, "media")) if kind in kinds)


def part_of(manifest: Manifest, restoring: Restoring, application: Application) -> Manifest:
    """The manifest as far as it speaks about what is restored."""
    if not restoring.only:
        return manifest
    wanted = {database.name for database in restored_databases(restoring, application)}
    paths = _media_paths(restoring)
    media: Mapping[str, Any] = {
        name: file
        for name, file in manifest.media.items()
        if any(PurePosixPath(name) == path or PurePosixPath(name).is_relative_to(path) for path in paths)
    }
    return replace(
        manifest,
        databases=tuple(facts for facts in manifest.databases if facts.name in wanted),
        canaries=tuple(answer for answer in manifest.canaries if answer.database in wanted),
        media=media,
    )


def file_of(database: Database) -> str:
    """The name of a database's copy in the stage."""
    return f"{database.name}.{'sqlite3' if database.engine == 'sqlite' else 'pgdump'}"


def aside(database: str, generation: str) -> str:
    """What a server's database is called while it is not the live one."""
    return f"{database}_g{generation}"


def exchange(server: Any, live: str, fresh: str, before: str) -> None:
    """Put the database `fresh` in the place of `live`, which is kept as of the generation `before`. Each step can be
    found again: which of the three names exist says how far it came."""
    kept = aside(live, before)
    present = server.databases()
    if fresh not in present:
        return  # it is live already
    if live in present and kept not in present:
        server.rename(live, kept)
    server.rename(fresh, live)
