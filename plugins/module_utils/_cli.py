"""The `backstay` command: the library's door for a person with one shell on one host.

Imports that only one verb needs stand inside that verb: at 3 a.m. the rollback must not wait for the rest.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TextIO

from ._errors import BackstayError, Busy, GateRefused, InputError
from ._layout import Layout, applications
from ._version import PROTOCOL, VERSION

if TYPE_CHECKING:
    import argparse

    from ._engine import Engine
    from ._look import Looker

SERVE = ["transaction", "serve"]
# After a power cut a database plays back its log and refuses everybody; nobody is there to recover by hand.
RECOVER_SECONDS = 120.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit code: 0 done, 1 failed, 2 bad input, 3 refused by a gate, 4 busy."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = False
    try:
        options = _serving(given) or _parser().parse_args(given)
        as_json = getattr(options, "json", False)
        return int(options.verb(options))
    except BackstayError as failed:
        return _failed(failed, as_json=as_json)
    except PermissionError as denied:
        if os.geteuid() == 0:
            raise
        return _failed(BackstayError(f"Only root may read {denied.filename}: run it with sudo."), as_json=as_json)
    except KeyboardInterrupt:
        _say("backstay: interrupted; an open transaction goes on or undoes itself, see `backstay status`", sys.stderr)
        return 130
    except BrokenPipeError:
        return 0


def _failed(failed: BackstayError, *, as_json: bool) -> int:
    """Say what failed, to a person or a program. Returns the exit code."""
    if as_json:
        told = {"ok": False, "message": failed.message, "lines": failed.lines, "exit_code": failed.exit_code}
        _say(json.dumps(told))
    else:
        for line in failed.lines:
            _say(f"  | {line}", sys.stderr)
        _say(f"backstay: {failed.message}", sys.stderr)
    return failed.exit_code


def _serving(given: Sequence[str]) -> Any:
    """The arguments with which systemd starts the service, read without the parser: somebody waits."""
    return SimpleNamespace(verb=_serve, application=given[2]) if given[:2] == SERVE and len(given) == 3 else None


def _say(text: str, stream: TextIO | None = None) -> None:
    """A line for a person or a program, at once: whoever follows a release must not wait for a buffer."""
    out = stream or sys.stdout
    out.write(f"{text}\n")
    out.flush()


class _Verbs:
    """Adds verbs to the command line."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    def __call__(self, name: str, function: Any, text: str, *, application: bool = True) -> argparse.ArgumentParser:
        added = self.bare(name, function, text)
        added.add_argument("--json", action="store_true", help="one JSON object instead of text")
        if application:
            added.add_argument("application", nargs="?", metavar="APPLICATION")
        return added

    def bare(self, name: str, function: Any, text: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = self._verbs.add_parser(name, help=text, description=text)
        added.set_defaults(verb=function, name=name)
        return added


def _parser() -> argparse.ArgumentParser:
    import argparse

    parser = argparse.ArgumentParser(
        prog="backstay",
        description="Keep an application standing on this host. APPLICATION may be left out where there is one.",
    )
    parser.add_argument("--version", action="version", version=f"backstay {VERSION} (protocol {PROTOCOL})")
    verb = _Verbs(parser)
    _verbs_that_look(verb)
    _verbs_of_the_day(verb)
    _verbs_of_releases(verb)
    _verbs_of_data(verb)
    _verbs_of_the_house(verb)
    _verbs_of_the_watch(verb)
    return parser


def _verbs_that_look(verb: _Verbs) -> None:
    status = verb("status", _status, "what is live since when, by whom; what is warm; what failed; what needs somebody")
    status.add_argument("--html", metavar="FILE", help="write the one-look page of this host there")
    status.add_argument("--page", action="store_true", help="keep this host's own page, as its timer does")
    history = verb("history", _history, "all releases and what became of them")
    history.add_argument("--verify", action="store_true", help="check the ledger's hash chain")
    verb("health", _health, "ask the live release and the front door whether they are well")
    logs = verb("logs", _logs, "the application's lines in the journal")
    logs.add_argument("--lines", type=int, default=50)
    logs.add_argument("--follow", action="store_true")
    logs.add_argument("--process", help="only this process, such as web or worker")
    diagnose = verb("diagnose", _diagnose, "say what is likely the cause, and make one archive for a ticket")
    diagnose.add_argument(
        "--around", default="", metavar="TIME", help="when it happened (UTC), such as 2026-11-21T08:15"
    )
    diagnose.add_argument("--minutes", type=float, default=30.0, help="how far around it the logs are read")
    diagnose.add_argument("--to", default="", metavar="FILE", help="where the archive is to lie")


def _verbs_of_the_day(verb: _Verbs) -> None:
    digest = verb("digest", _digest, "what happened in a day and what the logs say, as it is mailed", application=False)
    digest.add_argument("--to", action="append", default=[], metavar="ADDRESS", help="mail it; without, it is printed")
    digest.add_argument(
        "--hours", type=float, help="how far back events are told (default: to the last one sent, or 24)"
    )
    digest.add_argument("--logs", choices=("yesterday", "today", "none"), default="yesterday", help="of which day")
    digest.add_argument("--detail", choices=("Low", "Med", "High"), default="Low", help="how much logwatch says")


def _verbs_of_releases(verb: _Verbs) -> None:
    release = verb(
        "release", _release, "release a payload that lies on this host, or the live one with a changed configuration"
    )
    release.add_argument("--version", dest="release_version", metavar="VERSION")
    release.add_argument("--payload", metavar="FILE", help="the payload; without it: a configuration release")
    release.add_argument(
        "--without-warm", action="store_true", help="stop the warm release first, where memory is short"
    )
    release.add_argument(
        "--maintenance", action="store_true", help="close the door meanwhile, for migrations that break what is live"
    )
    release.add_argument("--override-freeze", default="", metavar="REASON", help="although releases are frozen")
    release.add_argument(
        "--override-promotion", default="", metavar="REASON", help="although the stage before did not prove it"
    )
    release.add_argument(
        "--override-backup", default="", metavar="REASON", help="although no restore point can be made before it"
    )
    release.add_argument("--again", action="store_true", help="also when this very release is live already")
    rollback = verb("rollback", _rollback, "go back to the release before, at once")
    rollback.add_argument("--to", metavar="RELEASE", help="a release id or a version instead of the one before")
    rollback.add_argument(
        "--reverse", action="store_true", help="close the door and reverse migrations that it cannot live with"
    )
    rollback.add_argument("--force", action="store_true", help="also to a release that does not answer well")
    for added in (release, rollback):
        added.add_argument("--plan", action="store_true", help="only say what would happen")
        added.add_argument("--why", default="", help="goes into the ledger")
        added.add_argument("--by", default=_who(), help="goes into the ledger")
    verb("confirm", _confirm, "keep the release that was flipped and waits for its confirmation")
    verb("abort", _abort, "undo the transaction that is open")
    recover = verb("recover", _recover, "finish or undo an unfinished transaction, and run what must run")
    recover.add_argument("--boot", action="store_true", help="as systemd calls it when the host starts")
    recover.add_argument("--forward", action="store_true", help="another host of the fleet has confirmed: go forward")
    recover.add_argument("--towards", metavar="JSON", help="where all hosts of a fleet are to be, as recover.yml found")
    transaction = verb.bare("transaction", _serve, "the service behind release and rollback; systemd starts it")
    transaction.add_argument("action", choices=("serve",))
    transaction.add_argument("application")


def _verbs_of_data(verb: _Verbs) -> None:
    backup = verb("backup", _data, "make a restore point in every repository")
    backup.add_argument("--plan", action="store_true", help="only say what would happen")
    backup.add_argument("--prune", action="store_true", help="make none, and let go of what is not kept any more")
    backup.add_argument("--if-missed", action="store_true", help="only where the scheduled run did not take place")
    backup.add_argument("--scheduled", action="store_true", help="nobody asks: before the first release, do nothing")
    backup.add_argument("--accept-shrink", action="store_true", help="the data are meant to be as small as they are")
    backups = verb("backups", _data, "all restore points, and what is proven about them")
    backups.add_argument(
        "--catch-up", action="store_true", help="start what the clock skipped in spring; a timer asks each hour"
    )
    backups.add_argument("--evidence", action="store_true", help="what each proof found, as a report")
    verify = verb("verify", _data, "prove a restore point, up to a level (docs/backups.md)")
    verify.add_argument("--level", default="L4", metavar="L1..L5")
    verify.add_argument("--point", default="latest", help="latest, a run, or a time")
    verify.add_argument("--repository", help="in this one; without it, in the one where that was done longest ago")
    verify.add_argument("--offline-key", metavar="FILE", help="on another host, with nothing but this and a repository")
    verify.add_argument("--evidence", metavar="FILE", help="prove nothing, and write down what a drill elsewhere found")
    verify.add_argument("--if-missed", action="store_true", help="only where the nightly proof did not take place")
    verify.add_argument("--scheduled", action="store_true", help="nobody asks: before the first release, do nothing")
    verify.add_argument("--by", default=_who(), help="goes into the evidence")
    restore = verb("restore", _restore, "bring a restore point back; what is here stays beside it")
    restore.add_argument("--undo", action="store_true", help="go back to the data from before the last restore")
    restore.add_argument("--plan", action="store_true", help="only say what would happen, and what would be lost")
    restore.add_argument("--with-release", action="store_true", help="the release that made the point comes back too")
    restore.add_argument("--why", default="", help="goes into the ledger")
    restore.add_argument("--by", default=_who(), help="goes into the ledger")
    export = verb("export", _data, "write a restore point out as a dated directory of files")
    export.add_argument("--to", required=True, metavar="DIRECTORY")
    for added in (restore, export):
        added.add_argument("--point", default="latest", help="latest, a run, a time, or release:<id>")
        added.add_argument(
            "--only", action="append", default=[], metavar="PART", help="database:<name> or media:<path>"
        )
        added.add_argument("--repository", help="from this one; without it, the best proven one that answers")
    escrow = verb("escrow", _data, "write the offline key: all that a restore needs when this host is gone")
    escrow.add_argument("--to", required=True, metavar="FILE")
    rebuild = verb("rebuild", _data, "on a new host: bring back all of it from a repository and the offline key alone")
    rebuild.add_argument("--offline-key", required=True, metavar="FILE", help="what `backstay escrow --to FILE` wrote")
    rebuild.add_argument("--point", default="latest", help="latest, a run, or a time")
    rebuild.add_argument("--repository", help="from this one; without it, the first that holds the point whole")
    rebuild.add_argument("--isolated", action="store_true", help="a copy elsewhere: nothing of it is let out")
    rebuild.add_argument("--secrets-to", metavar="FILE", help="only write down what Vault would know, for root alone")
    rebuild.add_argument("--why", default="", help="goes into the ledger")
    rebuild.add_argument("--by", default=_who(), help="goes into the ledger")
    rekey = verb("rekey", _data, "give a repository another password, read from standard input")
    rekey.add_argument("--repository", required=True)


def _verbs_of_the_house(verb: _Verbs) -> None:
    freeze = verb("freeze", _freeze, "make no releases for a while; rollbacks are never frozen")
    freeze.add_argument("--until", required=True, metavar="TIME", help="such as 2026-12-27 or 2026-12-27T08:00:00Z")
    freeze.add_argument("--why", required=True)
    freeze.add_argument("--by", default=_who())
    verb("thaw", _thaw, "end a freeze")
    backfill = verb("backfill", _backfill, "change old rows a batch at a time, until none is left", application=False)
    backfill.add_argument("application", metavar="APPLICATION")
    backfill.add_argument("name", metavar="NAME")
    review = verb("review", _review, "sum up the day after a release, once it is over; a timer asks each hour")
    review.add_argument("--now", action="store_true", help="although the day is not over")
    maintenance = verb(
        "maintenance", _maintenance, "answer 503 with the maintenance page, or open again", application=False
    )
    maintenance.add_argument("switch", choices=("on", "off"))
    maintenance.add_argument("application", nargs="?", metavar="APPLICATION")
    job = verb("job", _job, "run a scheduled command now, as its timer would", application=False)
    job.add_argument("--scheduled", action="store_true", help="as systemd calls it: only where a run is due")
    job.add_argument("job", metavar="JOB", help="its name in the application's file, or <application>:<job>")
    job.add_argument("application", nargs="?", metavar="APPLICATION")
    jobs = verb("jobs", _jobs, "the scheduled commands: when each ran last, how that ended, when it is due")
    jobs.add_argument("--catch-up", action="store_true", help="start what was missed; a timer asks each hour")
    run = verb("run", _run, "run a command in the live release's environment and confinement", application=False)
    run.add_argument("-a", "--application")
    run.add_argument("command", nargs="...", metavar="COMMAND")


def _verbs_of_the_watch(verb: _Verbs) -> None:
    verb("observe", _watching, "take a sample, see what is wrong, tell whoever is to know; a timer runs it each minute")
    probe = verb(
        "probe",
        _watching,
        "ask once for the applications that this host watches on others; a timer asks each minute",
        application=False,
    )
    probe.add_argument("--check", action="store_true", help="ask nobody: only whether its file is well written")
    incidents = verb("incidents", _watching, "what is wrong since when; acknowledge one of it")
    incidents.add_argument("--ack", default="", metavar="KEY", help="send no more messages about this one for a while")
    incidents.add_argument("--for", dest="duration", default="4h", metavar="TIME", help="such as 30m, 4h or 2d")
    incidents.add_argument("--why", default="", help="why nobody needs to hear of it")
    incidents.add_argument("--by", default=_who())
    incidents.add_argument("--days", type=float, default=0.0, help="also what began and ended in so many days")
    notify = verb(
        "notify", _watching, "send a test message to everybody whom the application's file names", application=False
    )
    notify.add_argument("what", choices=("test",))
    notify.add_argument("application", nargs="?", metavar="APPLICATION")
    notify.add_argument("--by", default=_who(), help="goes into the message")
    verb("watch-check", _watch_check, "whether the host is observed, or what serves an application runs; for monit")
    verb("heal", _watching, "restart what runs and answers nobody; never during a release, a few times and no more")


def _who() -> str:
    return os.environ.get("SUDO_USER") or os.environ.get("LOGNAME") or _user()


def _user() -> str:
    import getpass

    return getpass.getuser()


def _layout(options: argparse.Namespace) -> Layout:
    """The application that was meant. Raises InputError, naming those there are, when that is not clear."""
    known = applications()
    if options.application:
        if options.application in known:
            return Layout(options.application)
        raise InputError(f"There is no application {options.application!r} on this host; there is: {_list(known)}.")
    if len(known) == 1:
        return Layout(known[0])
    raise InputError(f"Name the application; on this host there is: {_list(known)}.")


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) or "none yet (run playbooks/site.yml)"


def _engine(options: argparse.Namespace) -> Any:
    from ._engine import Engine

    layout = _layout(options)
    if os.geteuid() != 0:
        raise BackstayError(f"Only root may look into {layout.name}: run it with sudo.")
    return Engine(layout)


def _tell(options: argparse.Namespace, value: dict[str, Any], text: str) -> None:
    _say(json.dumps(value) if options.json else text)


def _status(options: argparse.Namespace) -> int:
    """0 well, 1 look at it, 2 somebody is needed, 3 unknown: the facts could not be had."""
    try:
        return _page_of_the_host(options) if options.html or options.page else _status_of(options)
    except InputError:
        raise
    except BackstayError as unknown:
        raise BackstayError(unknown.message, exit_code=3, lines=unknown.lines) from unknown


def _page_of_the_host(options: argparse.Namespace) -> int:
    from ._cells import verdict
    from ._house import House
    from ._look import Looker
    from ._page import page, text, write

    _root_alone()
    if options.page:
        write(House())
        return 0
    looker = Looker(House())
    rows = looker.rows()
    looker.storage.write(Path(options.html), page(rows, now=looker.now, title=looker.hostname).encode())
    found = verdict(rows)
    _tell(options, {**found.to_dict(), "page": options.html}, text(rows))
    return found.exit_code


def _root_alone() -> None:
    if os.geteuid() != 0:
        raise BackstayError("Only root may look into the applications of this host: run it with sudo.")


def _status_of(options: argparse.Namespace) -> int:
    from ._cells import EXIT_CODES, RANK, verdict
    from ._house import House, ProbeHouse
    from ._look import Looker
    from ._status import sentence, status_text

    names = applications()
    looker = Looker(House())
    watches = not options.application and ProbeHouse().targets.exists()
    worst, ends = "green", 0
    asked = [options.application] if options.application or not (watches or names[1:]) else list(names)
    if asked[1:] and not options.json:
        worst, ends = _all_of_them(looker)
        asked = []
    for name in asked:
        options.application = name
        engine = _engine(options)
        found = looker.facts(engine)
        row = looker.row(engine, found)
        code, said = verdict([row]).exit_code, sentence(found, row)
        look = {name: value for name, value in found["look"].items() if name not in ("events", "series")}
        told = {**found, "look": look, **row.to_dict(), "verdict": said, "exit_code": code}
        _tell(options, told, status_text(found, row))
        if RANK[row.state] >= RANK[worst]:
            worst, ends = row.state, code
    if watches:
        state = _outside(options)
        ends = ends if RANK[worst] >= RANK[state] else EXIT_CODES[state]
    return ends


def _all_of_them(looker: Looker) -> tuple[str, int]:
    """Several applications in one text that is read at one look; returns the worst colour, and its exit code."""
    from ._cells import verdict
    from ._page import text

    _root_alone()
    rows = looker.rows()
    _say(text(rows))
    found = verdict(rows)
    return found.state, found.exit_code


def _outside(options: argparse.Namespace) -> str:
    """What this host watches on others; returns the worst colour."""
    from ._outside import lines
    from ._probe import Probe

    if os.geteuid() != 0:
        raise BackstayError("Only root may look into what this host watches on others: run it with sudo.")
    probe = Probe()
    found = probe.facts()
    state, rows = lines(found, probe.now())
    _tell(options, {"outside": found, "state": state}, "\n".join(["watched on other hosts:", *rows]))
    return state


def _history(options: argparse.Namespace) -> int:
    from ._status import facts, history_text

    engine = _engine(options)
    if options.verify:
        verdict, sentence = engine.ledger.verify()
        _tell(
            options,
            {"ledger": verdict, "message": sentence},
            f"{engine.layout.name}: the ledger is {verdict}. {sentence}",
        )
        return 0 if verdict != "tampered" else 1
    found = facts(engine)
    _tell(options, found, history_text(found))
    return 0


def _diagnose(options: argparse.Namespace) -> int:
    from ._diagnose import diagnose

    names = applications()
    if not options.application and len(names) > 1 and not options.to:
        for name in names:
            options.application = name
            _diagnose(options)
        return 0
    done = diagnose(_engine(options), around=options.around, minutes=options.minutes, to=options.to)
    _tell(options, done.to_dict() if options.json else {}, "\n".join(done.lines))
    return 0


class _Follow:
    """Prints the events of a transaction as they come: a line for each step, with its time."""

    def __init__(self, *, silent: bool) -> None:
        self._silent = silent

    def __call__(self, event: dict[str, Any]) -> None:
        if self._silent:
            return
        kind = event.get("event")
        if kind == "step":
            _say(f"  {event['title']:<36} {event['seconds']:>7.2f} s  {event['detail']}")
        elif kind == "undone":
            _say(f"  undone: {event['title']}")
        elif kind == "say":
            _say(f"  {event['line']}")


def _release(options: argparse.Namespace) -> int:
    from ._client import call

    layout = _layout(options)
    request: dict[str, Any] = {
        "operation": "release",
        "version": options.release_version,
        "by": options.by,
        "why": options.why,
        "keep_warm": not options.without_warm,
        "again": options.again,
        "strategy": "maintenance" if options.maintenance else "live",
        "override_freeze": options.override_freeze,
        "override_promotion": options.override_promotion,
        "override_backup": options.override_backup,
    }
    if options.payload:
        request["payload"] = _take_payload(layout, options.payload)
    if options.plan:
        return _planned(options, call(layout, "plan", request=request))
    result = call(layout, "begin", on_event=_Follow(silent=options.json), request=request, auto=True)
    _tell(
        options,
        result,
        f"{layout.name}: {result['release']} is live ({result['seconds']:.2f} s); {result['previous']} was.",
    )
    return 0


def _take_payload(layout: Layout, name: str) -> str:
    """Put a payload, and what vouches for it, where transactions look for them; returns its digest."""
    import shutil

    from ._artifact import read_manifest, sha256_of
    from ._attestation import place, proofs_beside
    from ._storage import Storage

    source, storage = Path(name), Storage()
    if not source.is_file():
        raise InputError(f"There is no payload {name}: give the .tar that build.yml made.")
    digest = sha256_of(source)
    proofs = proofs_beside(source)
    if proofs:  # without any, those that lie on the host already count
        version = read_manifest(source).version
        place(layout, proofs, application=layout.name, version=version, payload=digest, storage=storage)
    target = layout.payload(digest)
    if not target.exists() or sha256_of(target) != digest:  # one that a power cut cut short is sent again
        temporary = target.with_suffix(".new")
        shutil.copyfile(source, temporary)
        temporary.chmod(0o600)
        storage.sync(temporary)
        storage.rename(temporary, target)
    return digest


def _digest(options: argparse.Namespace) -> int:
    from ._digest_host import command

    return command(options, _tell)


def _rollback(options: argparse.Namespace) -> int:
    if options.plan:
        from ._plan import plan
        from ._transaction import Request

        return _planned(options, plan(_engine(options), Request(operation="rollback", target=options.to)))
    from ._client import call

    layout = _layout(options)

    request = {
        "operation": "rollback",
        "target": options.to,
        "by": options.by,
        "why": options.why,
        "force": options.force,
        "reverse": options.reverse,
    }
    result = call(layout, "begin", on_event=_Follow(silent=options.json), request=request, auto=True)
    _tell(options, result, f"{layout.name}: {result['release']} is live again ({result['seconds']:.2f} s).")
    return 0


def _planned(options: argparse.Namespace, found: dict[str, Any]) -> int:
    _tell(options, found, "\n".join([found["message"], *(f"  {line}" for line in found["lines"])]))
    return 0


def _confirm(options: argparse.Namespace) -> int:
    return _command(options, "confirm")


def _abort(options: argparse.Namespace) -> int:
    return _command(options, "abort")


def _command(options: argparse.Namespace, command: str) -> int:
    from ._client import call

    layout = _layout(options)
    result = call(layout, command, on_event=_Follow(silent=options.json))
    _tell(options, result, f"{layout.name}: {result.get('message') or str(result.get('release')) + ' is live'}")
    return 0


def _recover(options: argparse.Namespace) -> int:
    from ._lock import Lock
    from ._service import recover_all

    engine = _engine(options)
    if options.towards:
        from ._fleet import Goal
        from ._fleet_host import go

        gone = go(engine, Goal.from_dict(json.loads(options.towards)), by=_who())
        _tell(options, {"ok": True, **gone}, gone["message"])
        for work in engine.due_afterwards():
            work()
        return 0
    engine.say = lambda line: _say(f"  {line}")
    lock = Lock(engine.layout.lock)
    if not lock.take(wait_seconds=0.0 if not options.boot else 30.0):
        raise BackstayError(
            f"A transaction of {engine.layout.name} is under way and owns the lock: nothing needs recovery; see "
            f"`backstay status`, or undo it with `backstay abort {engine.layout.name}`.",
            exit_code=4,
        )
    recover_all(
        engine,
        lock,
        forward=options.forward,
        patience_seconds=RECOVER_SECONDS if options.boot else 0.0,
        tell=lambda result: _tell(options, {"ok": True, **result}, result["message"]),
    )
    return 0


def _health(options: argparse.Namespace) -> int:
    from ._health import health_command

    engine = _engine(options)
    live = engine.live()
    if live is None:
        raise BackstayError(f"Nothing of {engine.layout.name} is live: release a version.")
    code, text = health_command(engine.layout, engine.application(live), live, as_json=options.json)
    _say(text)
    return int(code)


def _data(options: argparse.Namespace) -> int:
    """The verbs of `_cli_data.py`, each by its own name."""
    from . import _cli_data

    if getattr(options, "offline_key", None) and options.name == "verify":
        return _cli_data.drill(options, _tell)
    if getattr(options, "secrets_to", None):
        return _cli_data.recall(options, _tell)
    engine = _engine(options)
    if not options.json:
        engine.say = lambda line: _say(f"  {line}")
    verbs: dict[str, Callable[[argparse.Namespace, Engine, _cli_data.Tell], int]] = {
        "backup": _cli_data.backup,
        "backups": _cli_data.backups,
        "verify": _cli_data.verify,
        "export": _cli_data.export,
        "escrow": _cli_data.escrow,
        "rekey": _cli_data.rekey,
        "rebuild": _cli_data.rebuild,
    }
    return verbs[options.name](options, engine, _tell)


def _restore(options: argparse.Namespace) -> int:
    from ._cli_data import restore_request
    from ._client import call

    layout = _layout(options)
    request = restore_request(options)
    if options.plan:
        return _planned(options, call(layout, "plan", request=request))
    result = call(layout, "begin", on_event=_Follow(silent=options.json), request=request, auto=True)
    _tell(options, result, f"{layout.name}: {result['message']} ({result['seconds']:.2f} s)")
    return 0


def _watching(options: argparse.Namespace) -> int:
    """The verbs of `_cli_watch.py`, each by its own name."""
    from . import _cli_watch

    verbs = {
        "observe": _cli_watch.observe,
        "probe": _cli_watch.probe,
        "incidents": _cli_watch.incidents,
        "notify": _cli_watch.notify,
        "heal": _cli_watch.heal,
    }
    return verbs[options.name](options, _tell)


def _watch_check(options: argparse.Namespace) -> int:
    """Twice a minute for each application: so nothing is imported that it does not need."""
    import datetime

    from . import _complaint
    from ._house import House

    if options.application:
        well, sentence = _complaint.of_an_application(House(), options.application)
    else:
        well, sentence = _complaint.of_the_observer(House(), datetime.datetime.now(datetime.UTC))
    _tell(options, {"ok": well, "message": sentence}, sentence)
    return 0 if well else 1


def _freeze(options: argparse.Namespace) -> int:
    from . import _freeze as freezes

    engine = _engine(options)
    freeze = freezes.Freeze(freezes.moment(options.until), options.why, options.by, engine.now())
    changed = freezes.declare(engine.layout, engine.storage, freeze)
    text = f"{engine.layout.name}: no releases until {freeze.until} ({freeze.why}){'' if changed else ' (as before)'}."
    _tell(options, {"ok": True, "changed": changed, "until": freeze.until, "why": freeze.why}, text)
    return 0


def _thaw(options: argparse.Namespace) -> int:
    from . import _freeze as freezes

    engine = _engine(options)
    changed = freezes.end(engine.layout, engine.storage)
    text = f"{engine.layout.name}: {'releases may be made again' if changed else 'there was no freeze'}."
    _tell(options, {"ok": True, "changed": changed}, text)
    return 0


def _backfill(options: argparse.Namespace) -> int:
    from . import _backfill as backfills

    engine = _engine(options)
    say = (lambda line: None) if options.json else _say
    batches = backfills.run(engine, options.name, say=say)
    text = f"{engine.layout.name}: the backfill {options.name} is done, in {batches} batches."
    _tell(options, {"ok": True, "batches": batches}, text)
    return 0


def _review(options: argparse.Namespace) -> int:
    from ._lock import Lock
    from ._review import SECONDS, review

    engine = _engine(options)
    engine.say = lambda line: _say(f"  {line}", sys.stderr)
    lock = Lock(engine.layout.review_lock)  # not the application's: its own hooks may take minutes
    if not lock.take(wait_seconds=5.0):
        raise Busy(f"The review of {engine.layout.name} is under way: see `backstay history` in a few minutes.")
    done = review(engine, after_seconds=0.0 if options.now else SECONDS)
    _tell(options, {"ok": True, **done}, done["summary"] or done["message"])
    return 0


def _maintenance(options: argparse.Namespace) -> int:
    engine = _engine(options)
    flag, name = engine.layout.maintenance_flag, engine.layout.name
    was, on, shut_by = flag.exists(), options.switch == "on", engine.shut_by()
    if was and not on and shut_by is not None:
        raise Busy(
            f"The {shut_by.operation} of {name} to {shut_by.candidate} ({shut_by.id}) changes data behind the closed "
            f"door, and what visitors wrote now could be lost: wait until it has ended (`backstay status {name}`), or "
            f"undo it with `backstay abort {name}`."
        )
    coming = (engine.storage.read(engine.layout.rebuilding) or b"").decode().strip()
    if was and not on and coming:
        raise GateRefused(
            f"{name} is being rebuilt, and what visitors wrote now would be replaced: run `{coming}`, which opens the "
            f"door; to let them in on what is here, remove {engine.layout.rebuilding}, then run this and `backstay "
            f"recover {name}`."
        )
    if on and (not was or shut_by is not None or coming):
        # Whoever says so while something else has it closed wants it closed when that has ended, too.
        engine.storage.write(flag, f"{_who()}\n".encode(), mode=0o644)
    elif was and not on:
        engine.storage.remove(flag)
    state = "on: visitors get 503 and the maintenance page" if on else "off: the door is open"
    ends = f"the {shut_by.operation} that is under way" if shut_by is not None else "the rebuild" if coming else ""
    state += f", also after {ends}" if on and ends else ""
    _tell(
        options,
        {"ok": True, "changed": was != on, "maintenance": on},
        f"{name}: maintenance is {state}{'' if was != on else ' (as before)'}.",
    )
    return 0


def _logs(options: argparse.Namespace) -> int:
    engine = _engine(options)
    name = engine.layout.name
    # By id: a pattern such as portal-[0-9]* would also match the units of an application named portal-2.
    units = [f"--unit={name}-{release}-{options.process or '*'}.service" for release in engine.history().releases]
    if not units:
        raise BackstayError(f"Nothing of {name} was released yet, so there are no logs: release a version.")
    arguments = ["journalctl", "--no-pager", f"--lines={options.lines}", *units]
    arguments.append("--output=json" if options.json else "--output=short-iso")
    if options.follow:
        arguments.append("--follow")
    os.execvp(arguments[0], arguments)  # noqa: S606 - a list, no shell


def _job(options: argparse.Namespace) -> int:
    from . import _cli_jobs

    _cli_jobs.instance(options)
    return _cli_jobs.job(options, _engine(options), _tell)


def _jobs(options: argparse.Namespace) -> int:
    from . import _cli_jobs

    names = applications()
    if options.application or len(names) < 2:
        return _cli_jobs.jobs(options, _engine(options), _tell)
    worst = 0
    for name in names:
        options.application = name
        worst = max(worst, _cli_jobs.jobs(options, _engine(options), _tell))
    return worst


def _run(options: argparse.Namespace) -> int:
    import subprocess

    from ._runtime import program
    from ._units import one_off

    command = [part for index, part in enumerate(options.command) if not (index == 0 and part == "--")]
    if not command:
        raise InputError("Say what to run, such as `backstay run python manage.py createsuperuser`.")
    engine = _engine(options)
    live = engine.live()
    if live is None:
        raise BackstayError(
            f"Nothing of {engine.layout.name} is live, so there is no environment to run in: release first."
        )
    terminal = "--pty" if sys.stdin.isatty() and sys.stdout.isatty() else "--pipe"
    arguments = [
        "systemd-run",
        "--quiet",
        "--wait",
        "--collect",
        terminal,
        *one_off(engine.application(live), live),
        *program(command, engine.layout.release(live) / "venv"),
    ]
    return subprocess.run(arguments, check=False).returncode


def _serve(options: argparse.Namespace) -> int:
    from ._engine import Engine
    from ._service import Service, inherited_listener

    return Service(Engine(Layout(options.application)), inherited_listener()).serve()


if __name__ == "__main__":
    raise SystemExit(main())
