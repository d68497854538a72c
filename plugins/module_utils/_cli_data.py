"""The verbs of the `backstay` command that are about data: backups, proofs, restores and the offline key."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._errors import BackstayError, InputError

if TYPE_CHECKING:
    from ._application import Database
    from ._closed_door import ClosedDoor
    from ._host import Host
    from ._proof import Proof
    from ._restore import Restore

Tell = Callable[[argparse.Namespace, dict[str, Any], str], None]


def backup(options: argparse.Namespace, host: Host, tell: Tell) -> int:
    """Back up now; with `--if-missed`, only where the scheduled run did not take place."""
    from ._backup import backup as back_up
    from ._backup_source import source_of
    from ._catalogue import points

    source = source_of(host)
    policy = source.policy
    name = host.layout.name
    if options.scheduled and _nothing_yet(host):
        tell(options, {"ok": True, "changed": False}, f"{name}: there are no data yet.")
        return 0
    if options.if_missed:
        from ._job_results import server_zone
        from ._schedule import missed

        known = points(host.layout, host.storage)
        last = dt.datetime.fromisoformat(known[-1].at) if known else None
        if not missed(policy.at, last, dt.datetime.now(server_zone(host.layout.root)[0])):
            tell(options, {"ok": True, "changed": False}, f"{name}: no backup was missed.")
            return 0
    if options.prune:
        return _prune(options, host, tell)
    if options.plan:
        places = {each: settings.location for each, settings in policy.repositories.items()}
        message = f"{name}: would back up to {', '.join(f'{each} ({where})' for each, where in places.items())}."
        tell(options, {"ok": True, "changed": True, "message": message, "repositories": places}, message)
        return 0
    outcome = back_up(source, accept_shrink=options.accept_shrink, wait_seconds=0.0 if options.json else 5.0)
    point = outcome.point
    where = ", ".join(sorted(point.repositories))
    message = f"{name}: the restore point {point.run} is in {where} ({point.size_bytes / 1e6:.1f} MB, L{point.level})."
    if outcome.problems:
        message = f"{message} {outcome.problems[0]}"
    result = {
        "ok": not outcome.problems,
        "changed": True,
        "run": point.run,
        "repositories": sorted(point.repositories),
        "size_bytes": point.size_bytes,
        "level": point.level,
        "message": message,
        "lines": [*outcome.problems, *outcome.notes],
    }
    write_metrics(host)
    tell(options, result, "\n".join([message, *(f"  {line}" for line in (*outcome.problems[1:], *outcome.notes))]))
    return outcome.exit_code


def _prune(options: argparse.Namespace, host: Host, tell: Tell) -> int:
    """Let go of what the policy no longer keeps, and make no backup: for the host that has the right to remove."""
    from ._backup_source import source_of
    from ._expiry import retain
    from ._lock import holding
    from ._repository import repositories_of

    source = source_of(host)
    stores = repositories_of(host.layout, source.policy.repositories, host.storage, runner=host.runner, say=host.say)
    notes: list[str] = []
    lost: list[BackstayError] = []
    with holding(host.layout.data_lock, "removal of old restore points", wait_seconds=5.0):
        for store in stores.values():
            try:
                notes += retain(source, store, accept_shrink=options.accept_shrink)
            except BackstayError as failed:  # what is wrong with one keeps nothing in the others
                lost.append(failed)
    if lost:
        raise BackstayError(lost[0].message, lines=(*(each.message for each in lost[1:]), *notes))
    message = f"{host.layout.name}: {'; '.join(notes) or 'nothing is too many, nothing expired'}"
    tell(options, {"ok": True, "changed": bool(notes), "message": message, "lines": notes}, message)
    return 0


def _catch_up(options: argparse.Namespace, host: Host, tell: Tell) -> int:
    """Start the units of the backup and of the proof whose time the clock skipped; systemd passes over such a time."""
    from ._catalogue import points
    from ._job_results import server_zone
    from ._schedule import passed_over

    name, policy = host.layout.name, host.application().backup
    now = dt.datetime.now(server_zone(host.layout.root)[0])
    asked: list[tuple[str | None, str, str | None]] = []
    if policy is not None and policy.scheduler == "systemd" and not host.layout.resting():
        known = points(host.layout, host.storage)
        asked = [
            (policy.at, host.layout.backup_timer, known[-1].at if known else None),
            (policy.proof.nightly, host.layout.verify_timer, _last_proof(host)),
        ]
    started = [
        timer.replace(".timer", ".service")
        for at, timer, last in asked
        if at is not None and passed_over(at, None if last is None else dt.datetime.fromisoformat(last), now)
    ]
    host.systemd.start(started, wait=False)
    text = f"{name}: {'started ' + ', '.join(started) if started else 'the clock skipped nothing'}."
    tell(options, {"ok": True, "changed": bool(started), "started": started, "message": text}, text)
    return 0


def backups(options: argparse.Namespace, host: Host, tell: Tell) -> int:
    """All restore points, the newest first; or the evidence of their proofs."""
    from . import _evidence
    from ._catalogue import catalogue, points

    if options.evidence:
        entries = catalogue(host.layout, host.storage, host.now).read()
        found = _evidence.read(host.layout, host.storage, entries)
        faults = _evidence.verify(found)
        text = _evidence.report(host.layout.name, found, at=host.now())
        tell(options, {"ok": not faults, "proofs": len(found), "faults": list(faults), "report": text}, text)
        return 1 if faults else 0
    if options.catch_up:
        return _catch_up(options, host, tell)
    known = points(host.layout, host.storage)
    rows = [("RESTORE POINT", "RELEASE", "SIZE", "LEVEL", "IN", "WHAT BECAME OF IT")]
    for point in reversed(known):
        fate = point.refuted or point.failed or ("" if point.repositories else "expired")
        size = f"{point.size_bytes / 1e6:.1f} MB" if point.manifest else "-"
        level = f"L{point.level}" if point.good else "-"
        rows.append(
            (point.run, point.release or "-", size, level, ",".join(sorted(point.repositories)) or "-", fate[:100])
        )
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ["  ".join([*(row[i].ljust(widths[i]) for i in range(5)), row[5]]).rstrip() for row in rows]
    listed = [
        {
            "run": point.run,
            "at": point.at,
            "release": point.release,
            "size_bytes": point.size_bytes,
            "level": point.level,
            "good": point.good,
            "repositories": sorted(point.repositories),
            "proven_at": point.proven_at,
            "proof_seconds": point.proven_seconds,
            "failed": point.failed,
            "refuted": point.refuted,
        }
        for point in known
    ]
    tell(options, {"ok": True, "points": listed}, "\n".join(lines))
    return 0


def verify(options: argparse.Namespace, host: Host, tell: Tell) -> int:
    """Prove a restore point, and write down what was found."""
    if options.evidence:
        return _adopt(options, host, tell)
    if options.scheduled and _never_backed_up(host):
        tell(options, {"ok": True, "changed": False}, f"{host.layout.name}: nothing was ever backed up.")
        return 0
    if options.if_missed and not _proof_missed(host):
        tell(options, {"ok": True, "changed": False}, f"{host.layout.name}: no proof was missed.")
        return 0
    proof, evidence = prove_point(
        host, level=_level(options.level), wanted=options.point, repository=options.repository, by=options.by
    )
    write_metrics(host)
    return _tell_proof(options, host.layout.name, proof, evidence, tell)


def _nothing_yet(host: Host) -> bool:
    """Whether there is nothing that could be backed up: a timer may strike while a host is being set up or rebuilt, and
    nobody is to be woken for that. Data may come before the first release: files that were brought, or a server's
    database. One that role postgresql has just made has no table yet, and its point would be the newest that a rebuild
    finds."""
    if host.layout.rebuilding.exists():
        return True
    if host.live() is not None or host.history().releases or not _never_backed_up(host):
        return False
    return not any(_may_hold_data(host, database) for database in host.application().databases)


def _may_hold_data(host: Host, database: Database) -> bool:
    """Where nobody can tell, as where a server's URL is not known, it does: the backup says then what is wrong."""
    if database.path is not None:
        return (host.layout.data / database.path).exists()
    from ._postgresql import Server
    from ._restore_plan import TABLES

    try:
        server = Server.of(database, host.declared_values(), host.layout.name, runner=host.runner)
        return bool(server.query(TABLES))
    except BackstayError:
        return True


def _never_backed_up(host: Host) -> bool:
    """Whether no backup was ever tried, so there is nothing to prove; `status` is red for that until there is one."""
    from ._catalogue import points

    return not points(host.layout, host.storage)


def _proof_missed(host: Host) -> bool:
    """Whether the nightly proof did not take place, by the catalogue; where there is nothing to prove, that is said
    elsewhere."""
    from ._catalogue import points
    from ._job_results import server_zone
    from ._schedule import missed

    policy, last = host.application().backup, _last_proof(host)
    if policy is None or policy.proof.nightly is None:
        return False
    if not any(point.good for point in points(host.layout, host.storage)):
        return False
    now = dt.datetime.now(server_zone(host.layout.root)[0])
    return missed(policy.proof.nightly, None if last is None else dt.datetime.fromisoformat(last), now)


def _last_proof(host: Host) -> str | None:
    """When a restore point was last restored and compared, whatever came of it; UTC ISO 8601."""
    from ._catalogue import RESTORED, catalogue
    from ._evidence import EVENTS

    proofs = [
        entry.time
        for entry in catalogue(host.layout, host.storage, host.now).read()
        if entry.event in EVENTS and int(entry.data.get("asked", 0)) >= RESTORED
    ]
    return proofs[-1] if proofs else None


def _adopt(options: argparse.Namespace, host: Host, tell: Tell) -> int:
    """Write down what a drill on another host found: `status` here goes by it."""
    from . import _evidence
    from ._catalogue import points

    content = host.storage.read(Path(options.evidence))
    if content is None:
        raise InputError(f"There is no evidence {options.evidence}: give the file that the drill has written.")
    found, fresh = _evidence.adopt(host.layout, host.storage, content, points(host.layout, host.storage), now=host.now)
    write_metrics(host)
    verdict = f"holds to L{found.level}" if found.ok else f"was {found.event}"
    message = f"{host.layout.name}: {found.run} in {found.repository} {verdict} on {found.host} at {found.at}."
    told = {"ok": True, "changed": fresh, "run": found.run, "repository": found.repository, "level": found.level}
    tell(options, {**told, "message": message, "lines": found.findings()}, message)
    return 0


def drill(options: argparse.Namespace, tell: Tell) -> int:
    """Prove a restore point on a host that never had the application: from a repository and the offline key alone."""
    from ._drill import drill as rehearse

    proof, evidence = rehearse(
        Path(options.offline_key),
        level=_level(options.level),
        wanted=options.point,
        repository=options.repository,
        by=options.by,
        say=_follower(options),
    )
    return _tell_proof(options, options.application or "drill", proof, evidence, tell)


def _follower(options: argparse.Namespace) -> Callable[[str], None]:
    return (lambda line: None) if options.json else (lambda line: _line(f"  {line}"))


def _line(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _tell_proof(options: argparse.Namespace, name: str, proof: Proof, evidence: Path, tell: Tell) -> int:
    findings = [finding.sentence for finding in proof.findings]
    result = {
        "ok": proof.ok,
        "changed": False,
        "run": proof.run,
        "repository": proof.repository,
        "level": proof.level,
        "asked": proof.asked,
        "seconds": {f"L{level}": round(seconds, 3) for level, seconds in proof.seconds.items()},
        "recovery_time_seconds": proof.recovery_time_seconds,
        "recovery_point_seconds": proof.recovery_point_seconds,
        "evidence": str(evidence),
        "message": f"{name}: {proof.sentence}",
        "lines": findings,
    }
    times = ", ".join(f"L{level} {seconds:.1f} s" for level, seconds in proof.seconds.items())
    tell(options, result, "\n".join([f"{result['message']} ({times})", *(f"  {line}" for line in findings[1:])]))
    return 0 if proof.ok else 1


def _level(text: str) -> int:
    if text.upper() not in ("L1", "L2", "L3", "L4", "L5"):
        raise InputError(f"There is no level {text!r}: write one of L1, L2, L3, L4, L5 (docs/backups.md).")
    return int(text[1])


def prove_point(host: Host, *, level: int, wanted: str, repository: str | None, by: str) -> tuple[Proof, Path]:
    """Prove one point in one repository; without a name, in the one where that was done longest ago."""
    from . import _evidence
    from ._catalogue import points
    from ._points import choose, to_prove
    from ._proof import chain_of, prove
    from ._repository import repositories_of
    from ._sandbox import Limits, SystemdSandbox, sweep

    application = host.application()
    policy = application.backup
    if policy is None:
        raise InputError(f"The file of {application.name} has no `backup`: there is nothing to prove.")
    stores = repositories_of(
        host.layout, policy.repositories, host.storage, runner=host.runner, cached=False, say=host.say
    )
    if repository is not None and repository not in stores:
        raise InputError(f"There is no repository {repository!r}; there is: {', '.join(stores)}.")
    known = points(host.layout, host.storage)
    newest = next((point.run for point in reversed(known) if point.good), None)
    meant: Sequence[tuple[str | None, str]] = [(None, repository or next(iter(stores)))]
    if newest is not None and repository:
        mine = [point for point in known if repository in point.repositories and point.repositories[repository].good]
        meant = [(choose(mine if wanted == "latest" and mine else known, wanted, of_releases={})[0].run, repository)]
    elif newest is not None:
        meant = to_prove(known, wanted, tuple(stores))
    elif wanted != "latest":
        raise InputError(f"{wanted!r} is no restore point: there is none yet; run `backstay backup`.")
    local = tuple(Path(each.location) for each in policy.repositories.values() if each.kind == "local")
    sandbox = SystemdSandbox(application, hidden=local, runner=host.runner)
    host.storage.make_directory(host.layout.proof_scratch, mode=0o700)
    sweep(host.layout.proof_scratch, stop=sandbox.stop)

    def prove_in(run: str | None, name: str) -> Proof:
        # That a repository lacks the newest is told by `status`; what it has is to be proven all the same.
        fresh = wanted == "latest" and run == newest
        return prove(
            run,
            stores[name],
            level,
            layout=host.layout,
            application=application,
            sandbox=sandbox,
            public_keys=host.manifest_keys(),
            chain=chain_of(host.layout, host.storage, name),
            max_age_seconds=policy.max_age_hours * 3600.0 if fresh else None,
            limits=Limits(memory_max_bytes=policy.proof.memory_max_bytes, seconds=policy.proof.seconds),
            runner=host.runner,
            say=host.say,
        )

    proof = first_that_answers(meant, prove_in, host.say)
    restic = host.runner(["restic", "version"], check=False).stdout
    evidence = _evidence.record(
        host.layout,
        host.storage,
        proof,
        host=os.uname().nodename,
        by=by,
        versions=_evidence.tools(" ".join(restic.split()[1:2])),
        now=host.now,
        secrets=tuple(host.secrets().values()),
    )
    return proof, evidence


def first_that_answers(
    meant: Sequence[tuple[str | None, str]], prove_in: Callable[[str | None, str], Proof], say: Callable[[str], None]
) -> Proof:
    """The proof of the first whose store answers: one that is away, or refuses its credentials, leaves no trace in the
    catalogue, so it would be the first one every night, and no other be proven."""
    from ._repository import RepositoryError

    for (run, name), (_run, other) in pairwise(meant):
        try:
            return prove_in(run, name)
        except RepositoryError as away:
            if away.kind not in ("unreachable", "refused", "locked"):
                raise
            say(f"{away.message.rstrip('.')}; {other} is proven instead")
    return prove_in(*meant[-1])


def export(options: argparse.Namespace, host: Restore, tell: Tell) -> int:
    """A restore point as files that one can look at."""
    from ._export import export as write_out

    only = tuple(options.only)
    made = write_out(host, options.point, Path(options.to), only, options.repository or "")
    tell(options, {"ok": True, "changed": True, "directory": str(made)}, f"{host.layout.name}: see {made}")
    return 0


def escrow(options: argparse.Namespace, host: Host, tell: Tell) -> int:
    """The offline key, in a file that only root reads."""
    from . import _escrow

    application = host.application()
    if application.backup is None:
        raise InputError(f"The file of {application.name} has no `backup`: there is no key to keep.")
    path = Path(options.to)
    keys = host.manifest_keys()
    _escrow.write(path, host.layout, application.backup.repositories, host.storage, at=host.now(), trusted=keys)
    text = f"{application.name}: the offline key is in {path}; bring it where this host's fire does not reach."
    tell(options, {"ok": True, "changed": True, "file": str(path)}, text)
    return 0


def rekey(options: argparse.Namespace, host: Host, tell: Tell) -> int:
    """Another password for a repository, read from standard input."""
    from . import _escrow
    from ._lock import holding
    from ._repository import repositories_of

    application = host.application()
    known = application.backup.repositories if application.backup else {}
    if options.repository not in known:
        raise InputError(f"There is no repository {options.repository!r}; there is: {', '.join(known) or 'none'}.")
    if sys.stdin.isatty():
        raise InputError("Give the new password on standard input: a terminal would show it.")
    password = sys.stdin.readline().rstrip("\n")
    stores = repositories_of(host.layout, known, host.storage, runner=host.runner, say=host.say)
    with holding(host.layout.data_lock, "change of a repository's password", wait_seconds=5.0):
        _escrow.rotate(stores[options.repository], password, host.layout, host.storage)
    text = (
        f"{application.name}: {options.repository} opens with the new password and no longer with the old one; put the "
        "new one into Vault, and write a new offline key (backstay escrow)."
    )
    tell(options, {"ok": True, "changed": True, "repository": options.repository}, text)
    return 0


def rebuild(options: argparse.Namespace, host: ClosedDoor, tell: Tell) -> int:
    """The host before this one burned down: its newest restore point, from a repository and the offline key alone. The
    door is closed until the data are there: a release alone would show visitors an empty application."""
    from ._client import call
    from ._rebuild import learn

    began = time.monotonic()
    if options.isolated and host.live() is None:
        # Before anything of it runs here, and for good: a person ends it. Where something is live, nothing is rebuilt.
        host.storage.write(host.layout.isolated, f"{host.now()} {options.by}\n".encode(), mode=0o600)
    told: list[str] = []

    def say(line: str) -> None:
        told.append(line)
        host.say(line)

    learnt = learn(host, Path(options.offline_key), wanted=options.point, repository=options.repository, say=say)
    host.say(f"{learnt.points} restore points; {learnt.run} was made by {learnt.release}")
    why = options.why or f"rebuilt from {learnt.run}"
    release = {
        "operation": "release",
        "version": learnt.version,
        "payload": learnt.payload,
        "by": options.by,
        "why": why,
        "override_freeze": why,
        "override_promotion": why,
    }
    how = f"backstay restore --point={learnt.run} --repository={learnt.repository} {host.layout.name}"
    host.close_for_rebuild(how)
    with _behind_the_door("run this again"):
        released = call(host.layout, "begin", request=release, auto=True)
    host.say(f"{released['release']} is live, on empty data and behind the closed door")
    request = {"operation": "restore", "point": learnt.run, "by": options.by, "why": why}
    with _behind_the_door(f"run `{how}`, which opens it"):
        call(host.layout, "begin", request={**request, "repository": learnt.repository}, auto=True)
    seconds = round(time.monotonic() - began, 1)
    message = f"{host.layout.name}: {released['release']} is live on the data of {learnt.run}, after {seconds:g} s."
    if not options.isolated:
        message += (
            " What is backed up from now on is signed by this host's own key, and the offline key in the safe does not "
            "vouch for that: write a new one now (`backstay escrow --to FILE`), and put it into the safe."
        )
    result = {"ok": True, "changed": True, "run": learnt.run, "release": released["release"], "seconds": seconds}
    tell(options, {**result, "repository": learnt.repository, "message": message, "lines": told}, message)
    return 0


@contextlib.contextmanager
def _behind_the_door(remedy: str) -> Iterator[None]:
    """What fails of a rebuild leaves the door closed, and says how to go on."""
    try:
        yield
    except BackstayError as failed:
        raise BackstayError(
            f"{failed.message} Until the data are back the door stays closed: see to that, then {remedy}.",
            exit_code=failed.exit_code,
            lines=failed.lines,
        ) from failed


def recall(options: argparse.Namespace, tell: Tell) -> int:
    """What Vault would tell, from a repository and the offline key, on a host that may know nothing yet: a file."""
    from ._rebuild import recall as recalled
    from ._storage import Storage

    target = Path(options.secrets_to)
    if target.exists() or target.is_symlink():
        raise InputError(f"{target} is there already: name another file.")
    if not options.application:
        raise InputError("Name the application: backstay rebuild --offline-key FILE --secrets-to FILE APP.")
    found = recalled(
        Path(options.offline_key),
        options.application,
        wanted=options.point,
        repository=options.repository,
        say=_follower(options),
    )
    variables = found.to_variables(options.application)
    Storage().write(target, json.dumps(variables, indent=1, sort_keys=True).encode() + b"\n", mode=0o600)
    message = (
        f"{options.application}: the secrets of {found.run} are in {target}, for root alone: put them into Vault, and "
        "remove the file."
    )
    tell(options, {"ok": True, "changed": True, "run": found.run, "message": message}, message)
    return 0


def write_metrics(host: Host, directory: Path = Path("/var/lib/prometheus/node-exporter")) -> None:
    """Facts for the textfile collector of Prometheus's node exporter, where there is one."""
    if not directory.is_dir():
        return
    from ._backup_status import backup_facts, metrics

    found = backup_facts(host.layout, host.storage, host.application())
    text = metrics(host.layout.name, found, dt.datetime.now(dt.UTC))
    host.storage.write(directory / f"backstay-{host.layout.name}.prom", text.encode(), mode=0o644)


def restore_request(options: argparse.Namespace) -> Mapping[str, Any]:
    """What the transaction's service is asked for."""
    if options.undo and (options.point != "latest" or options.only or options.with_release or options.repository):
        raise InputError(
            "--undo goes back to the data from before the last restore, and to their release: give neither --point nor "
            "--only nor --with-release nor --repository."
        )
    return {
        "operation": "restore",
        "point": options.point,
        "only": list(options.only),
        "undo": options.undo,
        "with_release": options.with_release,
        "repository": options.repository or "",
        "by": options.by,
        "why": options.why,
    }
