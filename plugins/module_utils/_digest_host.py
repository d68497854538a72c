"""The daily digest of this host: gathers what it is made of, sends it, and remembers that it was sent."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import re
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from . import _digest, _events, _updates
from ._backup_status import backup_facts
from ._digest import Digest, Logs, Section
from ._engine import Engine
from ._errors import BackstayError, InputError
from ._house import House
from ._incidents import Incident, raise_, settle
from ._job_results import facts as job_facts
from ._ledger import Ledger
from ._mounts import mount, mount_points
from ._notify import Destination, mail, secrets_of
from ._run import Runner, run
from ._storage import Storage, canonical

FORMAT = 1
KEY = "host/digest"
_JOURNAL_LINES = 200_000
_USUAL_HOURS = 24.0
_MOST_HOURS = 7 * 24.0  # of a host that was off for longer, the journal and `backstay history` tell the rest
_ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._%+-]*(@[A-Za-z0-9][A-Za-z0-9.-]*)?")
# The files that logwatch's parsers look for, by the facilities of syslog that go there; the journal has them all.
_FILES = {
    "auth.log": (4, 10),
    "cron": (9,),
    "maillog": (2,),
    "messages": (0, 1, 3, 5, 6, 7, 8, *range(11, 24)),
}

Tell = Callable[[argparse.Namespace, dict[str, Any], str], None]


class Gatherer:
    """Looks at one host, once."""

    def __init__(
        self,
        house: House,
        *,
        storage: Storage | None = None,
        runner: Runner = run,
        now: dt.datetime | None = None,
    ) -> None:
        self.house = house
        self.storage = storage or Storage()
        self.runner = runner
        self.now = now or dt.datetime.now(dt.UTC)

    def digest(self, *, hours: float = _USUAL_HOURS, day: str = "yesterday", detail: str = "Low") -> Digest:
        """The digest; no part of it that cannot be read keeps the others from it. `day` is that of the logs, with those
        before it where `hours` reach further back."""
        names = self.house.applications()
        sections = [section for name in names for section in self._application(name, hours)]
        sections += [self._guarded(*part) for part in self._parts()]
        if names:
            others = tuple(sections)
            sections.insert(0, self._guarded("THE PAGE", lambda: self._page(others)))
        if day != "none":
            sections.append(_digest.logs(self.logs(day, detail, hours)))
        secrets = secrets_of(self.house, self.storage, names)
        made = _digest.compose(socket.gethostname(), self.now, hours, sections)
        return Digest(
            secrets.redact(made.subject),
            tuple(secrets.redact(line) for line in made.lines),
            tuple(secrets.redact(line) for line in made.needs),
            tuple(secrets.redact(line) for line in made.problems),
        )

    def _page(self, others: Sequence[Section]) -> Section:
        """As the page's timer wrote it; where it does not, looked at now, which says that it does not."""
        from ._cells import needs
        from ._look import Looker

        looker = Looker(self.house, storage=self.storage, runner=self.runner, now=self.now)
        return _digest.page(needs(looker.written() or looker.rows(), most=None), others)

    def _parts(self) -> Iterator[tuple[str, Callable[[], Section]]]:
        yield "DISK", lambda: _digest.disk(list(self._mounts()))
        yield "UPDATES", self._updates
        yield "UNITS", lambda: _digest.units(self._failed_units())

    def _guarded(self, title: str, part: Callable[[], Section]) -> Section:
        try:
            return part()
        except BackstayError as unread:
            return Section(title, unread=(unread.message,))
        except (OSError, ValueError, KeyError, TypeError) as broken:
            return Section(title, unread=(f"it could not be read ({type(broken).__name__}: {broken})",))

    def _application(self, name: str, hours: float) -> Iterator[Section]:
        engine = Engine(self.house.layout(name), storage=self.storage, runner=self.runner)
        since = (self.now - dt.timedelta(hours=hours)).astimezone(dt.UTC).isoformat()
        catalogue = Ledger(engine.layout.backups, self.storage, lambda: "")

        def happened() -> Section:
            found = [*_events.of_ledger(name, engine.ledger.read()), *_events.of_catalogue(name, catalogue.read())]
            return _digest.news(f"RELEASES, RESTORES, FAILED PROOFS OF {name}", _digest.events(found), since)

        def backed_up() -> Section:
            facts = backup_facts(engine.layout, self.storage, engine.application(), now=self.now)
            return _digest.backups(name, facts)

        def worked() -> Section:
            settings = engine.application().schedules
            return _digest.jobs(name, job_facts(engine.layout, settings, self.storage, self.now))

        yield self._guarded(f"RELEASES OF {name}", happened)
        yield self._guarded(f"BACKUPS OF {name}", backed_up)
        yield self._guarded(f"JOBS OF {name}", worked)
        yield self._guarded(f"ROTATED LOGS OF {name}", lambda: self._rotated(name, engine.layout.logs))

    def _rotated(self, name: str, logs: Path) -> Section:
        status = self.storage.read(self.house.root / "var/lib/logrotate/status") or b""
        moved = {str(path).removesuffix(".1"): path.stat().st_mtime for path in logs.glob("*.log.1")}
        return _digest.not_reopened(name, status.decode(errors="replace"), moved)

    def _mounts(self) -> Iterator[tuple[str, float, float, int]]:
        table = self.house.root / "proc/self/mountinfo"
        for path in mount_points(table.read_text(encoding="utf-8") if table.exists() else ""):
            seen = mount(path)
            if seen is not None and seen.size_bytes:
                yield path, seen.used, seen.inodes, seen.free_bytes

    def _updates(self) -> Section:
        kept, root = self.house.state / "updates.json", self.house.root
        self.storage.make_directory(self.house.state, mode=0o700)
        _updates.refresh(kept, self.storage, self.runner, now=self.now, root=root)
        reboot = (root / "run/reboot-required").exists()
        system = _updates.system_of(root)
        return _digest.updates(
            _updates.told(_updates.read(kept, self.storage), now=self.now, system=system, reboot=reboot)
        )

    def _failed_units(self) -> list[str]:
        listed = self.runner(["systemctl", "list-units", "--state=failed", "--plain", "--no-legend", "--no-pager"])
        return [line.split()[0] for line in listed.stdout.splitlines() if line.strip()]

    def logs(self, day: str, detail: str, hours: float = _USUAL_HOURS) -> Logs:
        """What logwatch makes of a day, `yesterday` or `today`: of the journal, where no files are written. Then of the
        days before as well, in which so many hours began: for whoever reads what came while the host was off."""
        until = ["--until=today"] if day == "yesterday" else []
        first = (self.now - dt.timedelta(hours=hours)).astimezone().date()
        yesterday = self.now.astimezone().date() - dt.timedelta(days=1)
        since, span = (f"{first}", "all") if day == "yesterday" and first < yesterday else (day, day)
        try:
            if self.runner(["systemctl", "is-active", "--quiet", "rsyslog.service"], check=False).ok:
                return Logs(day, self._logwatch(day, detail, None))
            with tempfile.TemporaryDirectory(prefix="backstay-digest-") as directory:
                entries = sum(
                    self._export(Path(directory) / name, since, until, facilities)
                    for name, facilities in _FILES.items()
                )
                if not entries:
                    older = self.runner(["journalctl", "--quiet", "--lines=1", f"--until={since}"], check=False)
                    return Logs(day, entries=0, young=not older.stdout.strip())
                return Logs(day, self._logwatch(span, detail, directory), entries)
        except BackstayError as unread:
            return Logs(day, problem=unread.message)

    def _export(self, to: Path, since: str, until: Sequence[str], facilities: Sequence[int]) -> int:
        """Write the journal's lines as files of syslog, which logwatch's parsers understand; how many there are."""
        given = [f"SYSLOG_FACILITY={number}" for number in facilities]
        arguments = ["journalctl", "--quiet", "--no-pager", "--output=short", f"--lines={_JOURNAL_LINES}"]
        told = self.runner([*arguments, f"--since={since}", *until, *given], timeout_seconds=120.0, check=False)
        if not told.ok and told.stderr.strip():
            raise BackstayError(f"the journal could not be read: {' '.join(told.last_lines(1))}")
        # OpenSSH 9.8 split its sessions off; parsers know them by the older name.
        text = told.stdout.replace(" sshd-session[", " sshd[")
        self.storage.write(to, text.encode(), mode=0o600)
        return text.count("\n")

    def _logwatch(self, span: str, detail: str, directory: str | None) -> str:
        where = ["--logdir", directory] if directory else []
        asked = ["/usr/sbin/logwatch", "--output", "stdout", "--format", "text", "--range", span, "--detail", detail]
        return self.runner([*asked, *where], timeout_seconds=600.0).stdout


def hours_to_tell(house: House, storage: Storage, to: Sequence[str], now: dt.datetime) -> float:
    """How far back a digest for these people goes: to the last one that reached them all, within seven days; a day
    where none did. So nothing is missed while a host is off, and no hour of a change of the clock is told twice."""
    covered = _covered(house, storage, to)
    if covered is None:
        return _USUAL_HOURS
    return min(max((now - covered).total_seconds() / 3600, 0.0), _MOST_HOURS)


def _covered(house: House, storage: Storage, to: Sequence[str]) -> dt.datetime | None:
    """Until when these people were told everything."""
    try:
        value = json.loads(storage.read(house.digest) or b"")
        return dt.datetime.fromisoformat(value["covered"]) if value["to"] == list(to) else None
    except (ValueError, KeyError, TypeError):
        return None


def send(house: House, storage: Storage, made: Digest, to: Sequence[str], *, now: dt.datetime, runner: Runner) -> None:
    """Mail a digest, and remember it; where it is incomplete or cannot be sent, an incident is open until one is
    whole. Raises BackstayError then."""
    problems, covered = list(made.problems), now
    for address in to:
        name = f"digest-{now:%Y%m%dT%H%M%SZ}"
        try:
            mail(
                house.sendmail,
                Destination("mail", address),
                made.subject,
                made.lines,
                name=name,
                now=now,
                runner=runner,
            )
        except BackstayError as unsent:
            problems.append(f"it could not be sent to {address}: {unsent.message}")
            covered = _covered(house, storage, to) or now - dt.timedelta(hours=_USUAL_HOURS)
    value = {
        "format": FORMAT,
        "at": now.isoformat(timespec="seconds"),
        "covered": covered.isoformat(timespec="seconds"),
        "to": list(to),
        "problems": problems,
    }
    storage.make_directory(house.state, mode=0o700)
    storage.write(house.digest, canonical(value) + b"\n", mode=0o600)
    if not problems:
        settle(house, storage, KEY, now, "The daily digest is whole again.")
        return
    sentence = f"The daily digest failed: {problems[0]}"
    raise_(house, storage, Incident(KEY, "warn", None, sentence, "backstay digest"), now)
    raise BackstayError(sentence, lines=tuple(problems))


def command(options: argparse.Namespace, tell: Tell) -> int:
    """The verb `digest`: say it, or send it."""
    if os.geteuid() != 0:
        raise BackstayError("Only root may read the logs of the whole host: run it with sudo.")
    wrong = [address for address in options.to if not _ADDRESS.fullmatch(address)]
    if wrong:
        raise InputError(f"{wrong[0]!r} is no address that mail goes to: write it as somebody@example.org, or root.")
    house, storage, now = House(), Storage(), dt.datetime.now(dt.UTC)
    hours = hours_to_tell(house, storage, options.to, now) if options.hours is None else options.hours
    made = Gatherer(house, storage=storage, now=now).digest(hours=hours, day=options.logs, detail=options.detail)
    if options.to:
        send(house, storage, made, options.to, now=now, runner=run)
    text = f"sent to {', '.join(options.to)}: {made.subject}" if options.to else f"{made.subject}\n\n{made.text}"
    told = {"ok": not made.problems, "subject": made.subject, "needs": made.needs, "problems": made.problems}
    tell(options, {**told, "text": made.text}, text)
    return 1 if made.problems else 0
