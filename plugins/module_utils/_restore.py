"""The steps of a restore: a transaction like a release, over a generation of the data instead of a release of the code.

The point is fetched beside the live data, compared with its manifest, given to the application and, where it is older
than the live code, migrated there, before anybody notices anything. Only then the door is closed; what is not restored
is carried over, one rename makes the next generation the live one, and the door opens when the application has answered
on it. The generation before stays whole: `backstay restore --undo` is the same transaction towards it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from . import _generations as generations
from . import _restore_point
from ._errors import BackstayError, GateRefused, InputError
from ._host import Host
from ._room import disk_refusal, mib
from ._transaction import Request, Restoring, Transaction
from ._units import one_off

if TYPE_CHECKING:
    from ._application import Application, Database
    from ._backup_settings import BackupPolicy
    from ._catalogue import Copy, Point
    from ._layout import Layout
    from ._ledger import Entry
    from ._manifest import Manifest
    from ._postgresql import Server
    from ._repository import Repository
    from ._sqlite_copy import Account

DATABASES, MEDIA, MANIFEST = "databases", "media", "manifest.json"
# What belongs to an SQLite file. Of these the index is made anew from the log by whoever opens the file next.
_LOG, _INDEX = ("", "-wal", "-journal"), "-shm"
_RETENTION_SECONDS = 3600.0
_BACK_SECONDS = 60.0
CHANGES = ("restored", "returned")  # of the data, in the ledger
_AFTER_EVERY_CLOCK = dt.datetime(9000, 1, 1, tzinfo=dt.UTC)


class Restore(Host):
    """The next generation of the data is made, proven and put in the place of the live one."""

    _read_manifest: Manifest | None = None  # the one that was proven, for the steps after it

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
        restoring, release = (
            self._undoing(live, present) if request.undo else self._restoring(request, application, live, present)
        )
        stamp = self.now()
        known = self.history().get(release)
        return Transaction(
            stamp.replace("-", "").replace(":", "").replace(".", "").rstrip("Z") + f"-{os.getpid()}",
            self.layout.name,
            "undo" if request.undo else "restore",
            release,
            live,
            known.version if known else "",
            str(known.data.get("payload", "")) if known else "",
            request,
            stamp,
            restore=restoring,
        )

    def _undoing(self, live: str, present: str) -> tuple[Restoring, str]:
        """What an undo does, and the release that is live after it. An undo can be undone like a restore: what was
        written between the two is not lost."""
        last = last_change(self.ledger.read())
        if last is None or last.data["restored"]["generation"] != present:
            raise InputError(f"There is no restore of {self.layout.name} to undo: the live data were not restored.")
        before = str(last.data["restored"]["before"])
        if before not in generations.known(self.layout):
            raise InputError(
                f"The data before that restore ({before}) are not here any more: restore a point from before it."
            )
        if last.release != live:
            raise GateRefused(
                f"{live} was released since the restore, and the data of {before} belong to {last.release}: go back to "
                f"{last.release} first, then run this again."
            )
        release = str(last.data["restored"].get("left") or live)
        if release != live:
            self._check_release(release, live)
        only = tuple(last.data["restored"]["only"])
        return Restoring(generation=before, before=present, undo=True, only=only, with_release=release != live), release

    def _restoring(self, request: Request, application: Application, live: str, present: str) -> tuple[Restoring, str]:
        """What a restore does, and the release that is live after it."""
        only = checked_parts(request.only, application)
        point, copy, away = self.choose_point(request.point, request.repository)
        release = live
        if request.with_release:
            if only:
                raise InputError("The release comes back with all its data: leave --only out, or --with-release.")
            release = point.release or live
            if release != live:
                self._check_release(release, live)
        restoring = Restoring(
            point=point.run,
            at=point.at,
            repository=copy.repository,
            snapshot=copy.snapshot,
            manifest_snapshot=copy.manifest_snapshot,
            release=point.release,
            generation=generations.following(self.layout),
            before=present,
            only=only,
            with_release=release != live,
            away=away,
        )
        if not fetched_paths(restoring, application):
            raise InputError(f"{application.name} has neither databases nor media, so there is nothing to restore.")
        self._check_disk(restoring, application, point)
        return restoring, release

    def _check_release(self, release: str, live: str) -> None:
        """Raises InputError where a release cannot come back with its data: the host must have it, and it was live."""
        from ._releases import named_target

        target = named_target(self.history(), live, release)
        if not (self.layout.release(target.id) / "manifest.json").exists():
            raise InputError(
                f"The files of {target.id} are not on this host any more: release {target.version} again, then restore "
                "the data under it."
            )

    def choose_point(self, wanted: str, repository: str = "") -> tuple[Point, Copy, tuple[str, ...]]:
        """The restore point that somebody means; the copy of it in the repository that is named, or of those whose
        repository answers the one that is proven best; and which better ones do not, each a sentence."""
        from ._catalogue import points
        from ._points import choose

        known = _policy(self.application()).repositories
        if repository and repository not in known:
            raise InputError(f"There is no repository {repository!r}; there is: {', '.join(known)}.")
        found = points(self.layout, self.storage)
        named = {
            entry.release: str(entry.data["backup_run"])
            for entry in self.ledger.read()
            if entry.event == "backed_up" and entry.data.get("backup_run")
        }
        point, copy = choose(found, wanted or "latest", of_releases=named, repository=repository)
        if repository or len(point.good_copies) == 1:
            return point, copy, ()  # there is nothing to choose, so whether it is away is found by fetching
        return point, *self._that_answers(point)

    def _that_answers(self, point: Point) -> tuple[Copy, tuple[str, ...]]:
        """Of the good copies the one proven best whose repository answers; why those before it do not. Raises
        GateRefused where none does."""
        away: list[str] = []
        for copy in point.good_copies:
            try:
                found = self.store(copy.repository).identity()
            except BackstayError as refused:
                away.append(refused.message)
                continue
            if found == copy.id:
                return copy, tuple(away)
            there = "no repository" if found is None else f"another repository ({found[:8]})"
            away.append(f"The repository {copy.repository}: {there} is in the place of {copy.id[:8]}: mount its disk.")
        raise GateRefused(
            f"The restore point {point.run} is in {len(away)} repositories, and none of them answers: {away[0]}",
            lines=tuple(away),
        )

    def room(self, restoring: Restoring, application: Application, point: Point) -> tuple[int, int]:
        """(bytes that a restore needs beside the live data, bytes that are free)."""
        manifest = self.known_manifest(restoring.point)
        fetched = point.size_bytes
        if manifest is not None:
            part = part_of(manifest, restoring, application)
            fetched = sum(facts.size_bytes for facts in part.databases.values())
            fetched += sum(file.size_bytes for file in part.media.values())
        source = self.layout.generation(restoring.before)
        carried = 0
        leave = kept_media(restoring, application)
        if application.media and leave is not None:
            media = PurePosixPath(application.media)
            carried += sum(
                size
                for path, size in generations.files_of(source, application.media)
                if not any((media / path).is_relative_to(each) for each in leave)
            )
        for database in application.databases:
            if database.path and not restores_database(restoring, database.name):
                carried += sum(generations.size_of(source, f"{database.path}{suffix}") for suffix in _LOG)
        disk = os.statvfs(self.layout.generations)
        # A database that is migrated may be written a second time.
        return int(fetched * 1.2) + carried + application.releases.free_bytes, disk.f_bavail * disk.f_frsize

    def _check_disk(self, restoring: Restoring, application: Application, point: Point) -> None:
        needed, free = self.room(restoring, application, point)
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
        for sentence in restoring.away:
            self.say(f"{sentence.rstrip('.')}; {restoring.repository} is taken instead")
        fetched, repository = target / "fetched", self.repository_of(restoring)
        fetched.mkdir(mode=0o700)
        if repository.fetches_what_differs():
            self._lend(restoring, fetched)
        here = repository.restore(restoring.snapshot, fetched, fetched_paths(restoring, self.application()))
        files = sum(len(names) for _directory, _folders, names in os.walk(fetched))
        return f"{files} files from {restoring.repository}" + (f"; {here} of it were here unharmed" if here else "")

    def _lend(self, restoring: Restoring, fetched: Path) -> None:
        """Lay what is here where the point is fetched to: the engine looks at it and brings only what differs, so that
        a hundred gigabytes of unharmed photographs need not come from a bucket."""
        manifest = self.known_manifest(restoring.point)
        if manifest is None:
            return
        self.say("Copying what is here and may be as it was then")
        application = self.application()
        with self._disk("laid out"):
            generations.lend(
                self.layout.generation(restoring.before),
                fetched,
                loans(part_of(manifest, restoring, application), restoring, application),
            )

    def undo_fetch(self, transaction: Transaction, reason: str) -> None:
        generations.remove(self.layout, self.storage, _restoring_of(transaction).generation)

    def do_prove(self, transaction: Transaction) -> str:
        restoring = _restoring_of(transaction)
        partial = generations.partial(self.layout, restoring.generation)
        self.check_fetched(restoring, partial / "fetched", scratch=partial)
        return f"{restoring.point} equals its manifest"

    def check_fetched(self, restoring: Restoring, fetched: Path, *, scratch: Path) -> Manifest:
        """The point is sealed and signed, and what was fetched of it equals its manifest, which is returned. `scratch`
        is where a throw-away cluster of PostgreSQL may lie. Raises GateRefused."""
        from ._proof import chain_of, prove
        from ._restored import check_restored
        from ._sandbox import SystemdSandbox

        application = self.application()
        proof = prove(
            restoring.point,
            self.repository_of(restoring),
            2,
            layout=self.layout,
            application=application,
            sandbox=SystemdSandbox(application),
            public_keys=self.manifest_keys(),
            chain=chain_of(self.layout, self.storage, restoring.repository),
            # A clock that is wrong says nothing about the data, and must not stand between somebody and them.
            now=lambda: _AFTER_EVERY_CLOCK,
            runner=self.runner,
            say=self.say,
            alone=True,  # all that was fetched is compared below
        )
        if proof.level < 2:
            raise GateRefused(f"{proof.sentence} Nothing was changed: choose another point (--point).")
        manifest = self.manifest_of(restoring, proof.manifest_sha256)
        part = part_of(manifest, restoring, application)
        empty = missing_media(part, restoring)
        if empty is not None:
            raise GateRefused(
                f"{restoring.point} holds nothing in media:{empty}, and restoring that would only remove what is there "
                "now: correct the path, or choose another point (--point)."
            )
        found = check_restored(
            fetched,
            part,
            looked_at(restoring, application),
            parts=parts_of(restoring),
            scratch=scratch,
            runner=self.runner,
        )
        if found:
            raise GateRefused(
                f"What came from {restoring.repository} is not what {restoring.point} was: {found[0].sentence} Nothing "
                "was changed: choose another point (--point).",
                lines=tuple(each.sentence for each in found),
            )
        return manifest

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
            with self._disk("laid out"):
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
        if partial.exists():
            self._load_databases(restoring, application, partial)
            self.storage.remove_tree(partial)
        return f"generation {restoring.generation}"

    @contextlib.contextmanager
    def _disk(self, what: str) -> Iterator[None]:
        """What the disk refuses, as a sentence."""
        try:
            yield
        except OSError as refused:
            raise BackstayError(
                f"The next generation could not be {what} in {self.layout.generations} "
                f"({refused.strerror or refused}): free some space or see `dmesg`, then restore again."
            ) from refused

    def undo_place(self, transaction: Transaction, reason: str) -> None:
        restoring = _restoring_of(transaction)
        for database in restored_servers(restoring, self.application()):
            server = self.server_of(database)
            server.drop(aside(server.database, restoring.generation))

    def _carry(self, restoring: Restoring, application: Application, tree: Path, *, running: bool) -> int:
        """Carry over what is not restored. While the application runs only media: a database is copied when nobody has
        it open."""
        source = self.layout.generation(restoring.before)
        leave = kept_media(restoring, application)
        files = 0
        if application.media and leave is not None:
            files += generations.carry(source, tree, (application.media,), leave=leave).files
        if running:
            return files
        for database in application.databases:
            if database.path is None or restores_database(restoring, database.name):
                continue
            if generations.kind_of(source, database.path) not in ("file", "nothing"):
                raise BackstayError(
                    f"The database {database.name} cannot be carried over: {source / database.path} is no file, or "
                    "lies behind a link; put the file there, then restore again."
                )
            # Of what a migration of the copy may have made under its name nothing stays: a log of another file would
            # be laid over this one.
            for suffix in (_INDEX, *_LOG):
                generations.discard(tree, f"{database.path}{suffix}")
            files += generations.carry(source, tree, tuple(f"{database.path}{suffix}" for suffix in _LOG)).files
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
            newer = self._never_served_on(state.unknown, restoring, live)
            if newer:
                raise GateRefused(
                    f"The data of {restoring.point} were written by {restoring.release}, which knows "
                    f"{newer[0]} and {live} does not: bring both back (--with-release), release "
                    f"{restoring.release.partition('-')[2]} again first, or choose an older point."
                )
            if not state.pending:
                return "as new as the live code"
            done = self.migrations(live, "migrate", properties=properties)
        if done.pending:
            raise BackstayError(f"The copy was migrated and {done.pending[0]} is still pending: see `backstay logs`.")
        return f"{len(done.seconds)} migrations applied to the copy"

    def _never_served_on(self, unknown: tuple[str, ...], restoring: Restoring, release: str) -> tuple[str, ...]:
        """Of the migrations that a release does not know, those that it never served on. After a rollback additive ones
        stay: the release that came back made its points on them, and what is live now may serve on them too. The point
        says of which payload it is: a host that was rebuilt counts its releases anew."""
        if not unknown or self.manifest_of(restoring).payload == self._payload_of(release):
            return ()
        try:
            served = self.migrations(release, "state").unknown
        except BackstayError:
            served = ()  # the live database cannot be asked, which may be why somebody restores
        return tuple(name for name in unknown if name not in served)

    def _payload_of(self, release: str) -> str:
        known = self.history().get(release)
        return str(known.data.get("payload") or release) if known else release

    def undo_convert(self, transaction: Transaction, reason: str) -> None:
        self._stop_migrating(transaction.candidate)
        self.storage.remove(_environment_beside(self.layout, _restoring_of(transaction).generation))

    # behind the closed door

    def do_carry(self, transaction: Transaction) -> str:
        restoring = _restoring_of(transaction)
        application = self.application()
        for database in application.databases:
            # The way back is in nobody's way: who has a database open that is left has it open afterwards.
            if database.path is not None and not (restoring.undo and restores_database(restoring, database.name)):
                path = self.layout.generation(restoring.before) / database.path
                users = _restore_point.opened_by(path) if path.exists() else []
                if users:
                    raise BackstayError(
                        f"{path} is still open in {users[0]}, which would go on writing to the old data: end that "
                        "process, then restore again."
                    )
        if not restoring.only:
            return "everything comes from there" if restoring.undo else "everything is restored"
        tree = self.layout.generation(restoring.generation)
        with self._disk("completed"):
            files = self._carry(restoring, application, tree, running=False)
        self.storage.sync_tree(tree)
        return f"{files} files"

    def undo_carry(self, transaction: Transaction, reason: str) -> None:
        """It is in a generation that goes; or, on the way back, in one that has it newer now than it had it before."""

    def do_swap(self, transaction: Transaction) -> str:
        restoring = _restoring_of(transaction)
        self.take_data(f"restore of {restoring.generation}")
        if not self.layout.generation(restoring.generation).is_dir():
            raise BackstayError(f"The generation {restoring.generation} is gone: restore a point instead.")
        for database in restored_servers(restoring, self.application()):
            server = self.server_of(database)
            fresh = aside(server.database, restoring.generation)
            if not {fresh, aside(server.database, restoring.before)} & set(server.databases()):
                raise BackstayError(
                    f"The database {fresh} is gone from its server, so {restoring.generation} is not whole: restore a "
                    "point instead."
                )
            exchange(server, server.database, fresh, restoring.before)
        generations.switch(self.layout, self.storage, restoring.generation)
        return f"{restoring.before} to {restoring.generation}"

    def undo_swap(self, transaction: Transaction, reason: str) -> None:
        """Nobody wrote to the next generation: the door was closed. Once it is written that the one before is live
        again, it may serve, and is left alone."""
        restoring = _restoring_of(transaction)
        if any((record.step, record.state) == ("swap", "undone") for record in self.journal.read()):
            return
        # A backup that began after the transaction died would see two generations; but the door waits for no upload.
        self.data_lock.take(wait_seconds=_BACK_SECONDS, what=f"return to {restoring.before}")
        self.systemd.stop(self.systemd.units_of(self.layout.name))
        for database in restored_servers(restoring, self.application()):
            server = self.server_of(database)
            exchange(server, server.database, aside(server.database, restoring.before), restoring.generation)
        generations.switch(self.layout, self.storage, restoring.before)

    def do_ask(self, transaction: Transaction) -> str:
        """The canaries, asked of the data where they now are."""
        restoring = _restoring_of(transaction)
        application = self.application()
        policy = _policy(application)
        expected = {answer.name: answer.answer for answer in self.manifest_of(restoring).canaries}
        asked = 0
        differs = []
        for database in restored_databases(restoring, application):
            queries = {each.name: each.query for each in policy.canaries if each.database == database.name}
            for name, answer in self._answers(database, queries, restoring).items():
                asked += 1
                if answer != expected.get(name, answer):
                    differs.append(name)
        if differs:
            self.say(f"after its migrations the copy answers {', '.join(differs)} differently than when it was made")
        return f"{asked} answers"

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
        last = last_change(self.ledger.read())
        if last is None or last.data["restored"]["transaction"] != transaction.id:
            self.ledger.append(
                "returned" if restoring.undo else "restored",
                transaction.candidate,
                # In one: what a release says of itself must not be overwritten.
                restored={
                    "transaction": transaction.id,
                    "point": restoring.point,
                    "only": list(restoring.only),
                    "generation": restoring.generation,
                    "before": restoring.before,
                    # The release that the data before belong to: an undo brings both back.
                    "left": transaction.previous,
                    "by": transaction.request.by,
                    "why": transaction.request.why,
                },
            )
        return f"generation {restoring.generation} is live; {restoring.before} stays beside it"

    def prune_generations(self, transaction: Transaction) -> int:
        """Remove generations beyond those that are kept, with the databases that belong to them. The one from before
        this restore stays in any case: `--undo` goes there."""
        application = self.application()
        policy = application.backup
        if policy is None:
            return 0
        needed = frozenset({_restoring_of(transaction).before})
        gone = generations.doomed(self.layout, policy.keep_generations, needed=needed)
        for name in gone:
            for database in application.databases:
                if database.engine == "postgresql":
                    server = self.server_of(database)
                    server.drop(aside(server.database, name))
            generations.remove(self.layout, self.storage, name)
        generations.tidy(self.layout, self.storage)
        return len(gone)

    # what they need

    def run_in(
        self, release: str, command: tuple[str, ...], *, unit: str, seconds: float, properties: tuple[str, ...] = ()
    ) -> Any:
        """Run one command as a unit with a known name, in the environment and sandbox of a release."""
        from ._runtime import program

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
                *program(command, self.layout.release(release) / "venv"),
            ],
            timeout_seconds=seconds + 30,
            check=False,
        )

    def repository_of(self, restoring: Restoring) -> Repository:
        return self.store(restoring.repository)

    def store(self, name: str) -> Repository:
        from ._repository import repositories_of

        policy = _policy(self.application())
        found = repositories_of(self.layout, policy.repositories, self.storage, runner=self.runner, say=self.say)
        if name not in found:
            raise InputError(f"The application's file names no repository {name!r} any more: add it.")
        return found[name]

    def known_manifest(self, run: str) -> Manifest | None:
        """The manifest of a run as this host keeps it."""
        from ._manifest import from_bytes

        content = self.storage.read(self.layout.backup_run(run) / MANIFEST)
        return None if content is None else from_bytes(content, origin=f"the manifest of {run}")

    def manifest_of(self, restoring: Restoring, sha256: str = "") -> Manifest:
        """The manifest, of which `sha256` was proven. It is kept: behind the closed door no repository is asked."""
        from ._manifest import digest, from_bytes

        known = self._read_manifest
        if known is not None and known.run == restoring.point:
            return known
        content = self.storage.read(self.layout.backup_run(restoring.point) / MANIFEST)
        if content is None or (sha256 and digest(content) != sha256):
            content = self.repository_of(restoring).read(restoring.manifest_snapshot, f"/{MANIFEST}")
        if sha256 and digest(content) != sha256:
            raise GateRefused(
                f"The manifest of {restoring.point} in {restoring.repository} is not the one that was proven a moment "
                "ago: look at who writes to that repository; nothing was changed."
            )
        self._read_manifest = from_bytes(content, origin=f"the manifest of {restoring.point}")
        return self._read_manifest

    def server_of(self, database: Database) -> Server:
        from ._postgresql import Server

        environment = self.environment_of(str(self.live()))
        return Server.of(database, environment, self.layout.name, runner=self.runner)

    def _answers(self, database: Database, queries: Mapping[str, str], restoring: Restoring) -> Mapping[str, str]:
        """What the database answers where it now is; of queries by name."""
        if not queries:
            return {}
        if database.path is None:
            server = self.server_of(database)
            return {name: server.answer(query) for name, query in queries.items()}
        from ._sqlite_live import ask

        path = self.layout.generation(restoring.generation) / database.path
        told = ask(path, account=self.account(), queries=queries, runner=self.runner)
        if told.problem:
            raise BackstayError(
                f"The canaries of the database {database.name} were not answered ({told.problem}): look at it, or "
                "choose another point."
            )
        return told.answers

    def account(self) -> Account:
        """The application's user."""
        from ._sqlite_copy import Account

        return Account.of(self.layout.name)

    def _load_databases(self, restoring: Restoring, application: Application, partial: Path) -> None:
        """Load the dumps beside the live databases, each into a new database that bears the generation's name."""
        from ._restored import load_seconds, loaded_bytes

        for database in restored_servers(restoring, application):
            server = self.server_of(database)
            name = aside(server.database, restoring.generation)
            server.drop(name)
            place = self.layout.root / "var" / "lib" / "postgresql"  # where Debian's clusters lie
            needs = [(place, loaded_bytes(self.manifest_of(restoring).databases[database.name]))]
            spare = application.releases.free_bytes
            full = disk_refusal(f"The database {name}", needs, spare=spare) if server.local and place.is_dir() else None
            if full:
                raise GateRefused(full)
            dump = partial / "fetched" / "databases" / f"{database.name}.pgdump"
            server.load(dump, name, seconds=load_seconds(application))

    def _beside(self, restoring: Restoring, application: Application, release: str) -> _Beside:
        return _Beside(self, restoring, application, release)


class _Beside:
    """Properties that show a unit the next generation in the place of the live one: it can neither see nor touch what
    visitors use."""

    def __init__(self, host: Restore, restoring: Restoring, application: Application, release: str) -> None:
        self._host, self._restoring, self._application, self._release = host, restoring, application, release
        self._file = _environment_beside(host.layout, restoring.generation)

    def __enter__(self) -> tuple[str, ...]:
        layout = self._host.layout
        live, fresh = layout.generation(self._restoring.before), layout.generation(self._restoring.generation)
        found = [f"--property=BindPaths={fresh}:{live}"]
        urls = {}
        for database in restored_servers(self._restoring, self._application):
            server = self._host.server_of(database)
            urls[str(database.url_key)] = server.url_of(aside(server.database, self._restoring.generation))
        if urls:
            from ._environment import environment_file

            self._host.storage.write(self._file, environment_file(urls).encode(), mode=0o600)
            found.append(f"--property=EnvironmentFile={self._file}")
        return tuple(found)

    def __exit__(self, *_unused: object) -> None:
        self._host.storage.remove(self._file)


def _environment_beside(layout: Layout, generation: str) -> Path:
    """In memory, and root's: it names the databases of the next generation, with their passwords."""
    return layout.control_socket.with_name(f"{layout.name}.{generation}.environment")


# pure


def _restoring_of(transaction: Transaction) -> Restoring:
    if transaction.restore is None:
        raise BackstayError(f"The transaction {transaction.id} restores nothing: run `backstay recover`.")
    return transaction.restore


def last_change(entries: Sequence[Entry]) -> Entry | None:
    """The restore, or the undoing of one, that made the live data what they are; None where there was none."""
    return next((entry for entry in reversed(entries) if entry.event in CHANGES), None)


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
    found = []
    for part in only:
        kind, _colon, name = part.partition(":")
        if kind == "database":
            known = [database.name for database in application.databases]
            if name not in known:
                raise InputError(f"There is no database {name!r} here; there is: {', '.join(known) or 'none'}.")
            found.append(f"database:{name}")
        elif kind == "media":
            if application.media is None:
                raise InputError(f"{application.name} has no media: restore a database, or everything.")
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not name.isprintable():
                raise InputError(f"{name!r} is no path below the media: write one such as media:photographs/2026.")
            found.append(f"media:{path if path.parts else ''}")
        else:
            raise InputError(f"{part!r} cannot be restored alone: write database:<name> or media:<path>.")
    return tuple(dict.fromkeys(found))


def restores_database(restoring: Restoring, name: str) -> bool:
    return not restoring.only or f"database:{name}" in restoring.only


def restored_databases(restoring: Restoring, application: Application) -> tuple[Database, ...]:
    return tuple(each for each in application.databases if restores_database(restoring, each.name))


def restored_servers(restoring: Restoring, application: Application) -> tuple[Database, ...]:
    return tuple(each for each in restored_databases(restoring, application) if each.engine == "postgresql")


def media_paths(restoring: Restoring) -> tuple[PurePosixPath, ...]:
    """What of the media is restored, relative to them; `.` is all. None of them lies in another."""
    if not restoring.only:
        return (PurePosixPath(),)
    asked = [PurePosixPath(part.partition(":")[2]) for part in restoring.only if part.startswith("media:")]
    return tuple(path for path in asked if not any(path != each and path.is_relative_to(each) for each in asked))


def kept_media(restoring: Restoring, application: Application) -> tuple[PurePosixPath, ...] | None:
    """Which paths of a generation stay as the point has them when the other media are carried over; None when nothing
    is carried over."""
    paths = media_paths(restoring)
    if PurePosixPath() in paths:
        return None
    return tuple(PurePosixPath(str(application.media)) / path for path in paths)


def missing_media(part: Manifest, restoring: Restoring) -> PurePosixPath | None:
    """A path that is to be restored alone and of which the point holds nothing. `part` is that part of its manifest."""
    for path in media_paths(restoring):
        if path.parts and not any(PurePosixPath(name).is_relative_to(path) for name in part.media):
            return path
    return None


def looked_at(restoring: Restoring, application: Application) -> Application:
    """The application as far as what was fetched can be compared with it: what is not restored is not missing there,
    and the files that a database names are all there only where all media are restored."""
    if not restoring.only:
        return application
    found = replace(application, databases=restored_databases(restoring, application))
    if found.backup is not None and PurePosixPath() not in media_paths(restoring):
        found = replace(found, backup=replace(found.backup, files=()))
    return found


def fetched_paths(restoring: Restoring, application: Application) -> tuple[str, ...]:
    """The paths in the repository that a restore needs."""
    found = [f"/databases/{file_of(database)}" for database in restored_databases(restoring, application)]
    if application.media:
        found += [f"/media/{path}" if path.parts else "/media" for path in media_paths(restoring)]
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
        found += [(str(PurePosixPath("media") / path), str(media / path)) for path in media_paths(restoring)]
    return tuple(found)


def loans(part: Manifest, restoring: Restoring, application: Application) -> Iterator[generations.Loan]:
    """What of the live generation may be as the point has it: media of the same size and time, and the files of
    databases, much of which is the same. `part` is what is restored of the manifest."""
    for database in restored_databases(restoring, application):
        if database.path is not None:
            facts = part.databases.get(database.name)
            # It may have grown since, and only as much room was looked for as the point needs.
            most = facts.size_bytes if facts else 0
            yield generations.Loan(database.path, f"databases/{file_of(database)}", most=most)
    for path, file in part.media.items():
        yield generations.Loan(f"{application.media}/{path}", f"media/{path}", (file.size_bytes, file.mtime_ns))


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
    paths = media_paths(restoring)
    media: Mapping[str, Any] = {
        name: file
        for name, file in manifest.media.items()
        if any(PurePosixPath(name) == path or PurePosixPath(name).is_relative_to(path) for path in paths)
    }
    return replace(
        manifest,
        databases={name: facts for name, facts in manifest.databases.items() if name in wanted},
        canaries=tuple(answer for answer in manifest.canaries if answer.database in wanted),
        media=media,
    )


def file_of(database: Database) -> str:
    """The name of a database's copy in the stage."""
    return f"{database.name}.{'sqlite3' if database.engine == 'sqlite' else 'pgdump'}"


def aside(database: str, generation: str) -> str:
    """What a server's database is called while it is not the live one. Raises InputError where PostgreSQL would cut
    that off: to the name of the live one, in the end."""
    from ._postgresql import NAME_BYTES

    name = f"{database}_g{generation}"
    if len(name.encode()) > NAME_BYTES:
        raise InputError(
            f"The database {database} is restored beside itself as {name}, which has {len(name.encode())} bytes, and "
            f"PostgreSQL takes {NAME_BYTES}: give the database a shorter name, release that, then restore."
        )
    return name


def exchange(server: Any, live: str, fresh: str, before: str) -> None:
    """Put the database `fresh` in the place of `live`, which is kept as of the generation `before`. Each step can be
    found again: which of the three names exist says how far it came."""
    kept = aside(live, before)
    present = server.databases()
    if fresh not in present:
        return  # it is live already
    if live in present and kept not in present:
        server.rename(live, kept)
        present = server.databases()
    if live in present:
        raise BackstayError(
            f"The server has {live}, {fresh} and {kept} at once, and nobody can tell which of them was live: rename or "
            "drop the one that is not needed, then run `backstay recover`."
        )
    server.rename(fresh, live)
