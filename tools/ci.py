"""Run one verb of Backstay as a CI job, through ansible-runner, and report it where people and CI look.

    python tools/ci.py build    -i inventories/production --version 1.2.0
    python tools/ci.py release  -i inventories/production --version 1.2.0 --why "the audit of May"
    python tools/ci.py rollback -i inventories/production
    python tools/ci.py undo     -i inventories/production     what a cancelled job of the same CI run has left open

It writes summary.md and junit.xml to runner/report/<verb>/, adds the summary to the job's page on GitHub, and ends with

    0  as asked         1  refused or failed, and the release before it serves
    2  wrong usage      3  a person must look                                       128 + signal  cancelled

A cancelled release (SIGINT, SIGTERM) is undone at once where it has not been confirmed. A job that is killed cannot do
that: `undo` in a step that runs after it does, and where nothing runs any more, the deadline on the host.

Ansible sees the environment's harmless variables only, because ansible-runner writes its whole environment to disk.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools import ci_report
from tools.ci_report import Report, Run

RUNNER = ROOT / "runner"
USAGE = 2
KEPT_RUNS = 30
UNDO_SECONDS = 120.0
LOOK_TASK, END_TASK = "Read the journal of an open transaction", "Read whose transaction is open"
# A job that was killed between two phases is undone by its hosts after this long (seconds).
DEADLINES = {"prepare_seconds": 300, "confirm_seconds": 60}

# What Ansible, ssh and git need to run. Whatever else it needs is named with --pass.
HARMLESS = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_\w+|TZ|TERM|TMPDIR|CI|SSH_AUTH_SOCK|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE"
    r"|ANSIBLE_(CONFIG|COLLECTIONS_PATH|VAULT_PASSWORD_FILE|VAULT_IDENTITY_LIST|PRIVATE_KEY_FILE|REMOTE_USER|FORKS"
    r"|REMOTE_TEMP|LOCAL_TEMP|HOME|TIMEOUT|SSH_CONTROL_PATH_DIR)|BACKSTAY_LAB"
)


@dataclass
class Cancellation:
    """Remembers the first signal that asked the job to end, and passes it on to what runs."""

    number: int | None = None
    running: subprocess.Popen[bytes] | None = None
    heeded: bool = True
    signals: tuple[signal.Signals, ...] = field(default=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP))

    def listen(self) -> None:
        for number in self.signals:
            signal.signal(number, self._asked)

    def _asked(self, number: int, _frame: object) -> None:
        if self.number is None:
            self.number = number
        if self.heeded and self.running is not None:
            self.running.send_signal(signal.SIGTERM)


def who(environment: Mapping[str, str]) -> str:
    """Who releases, for the ledger: person and job, the same in all its steps. Empty outside GitHub and GitLab."""

    def value(name: str) -> str:
        return environment.get(name, "-")

    if environment.get("GITHUB_ACTIONS") == "true":
        run = f"run {value('GITHUB_RUN_ID')}.{value('GITHUB_RUN_ATTEMPT')} {value('GITHUB_JOB')}"
        return f"{value('GITHUB_ACTOR')} (GitHub {value('GITHUB_REPOSITORY')} {run})"
    if environment.get("GITLAB_CI") == "true":
        return f"{value('GITLAB_USER_LOGIN')} (GitLab {value('CI_PROJECT_PATH')} job {value('CI_JOB_ID')})"
    return ""


def narrowed(environment: Mapping[str, str], passed: Sequence[str] = ()) -> dict[str, str]:
    """The part of the environment that Ansible gets: no secret of the job is among it unless it was named."""
    kept = {name: value for name, value in environment.items() if HARMLESS.fullmatch(name) or name in passed}
    kept["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', os.defpath)}"
    kept.setdefault("ANSIBLE_CONFIG", str(ROOT / "ansible.cfg"))
    return kept


def ansible_options(options: argparse.Namespace, by: str) -> list[str]:
    """What ansible-playbook is given: inventories, the deadlines, and variables, of which the last win."""
    given: list[str] = []
    for inventory in options.inventory:
        given += ["-i", str(Path(inventory).resolve()) if Path(inventory).exists() else inventory]
    named = {name: getattr(options, name) for name in ("version", "app", "to") if getattr(options, name)}
    # What a person typed is text: as a template it would run on this machine, beside its keys.
    typed = {name: {"__ansible_unsafe": value} for name, value in {**named, "by": by, "why": options.why}.items()}
    given += ["-e", json.dumps({**DEADLINES, **typed})]
    for variable in options.extra_vars:
        given += ["-e", variable]
    return [*given, *(["--check"] if options.check else [])]


def runner_command(playbook: str, ident: str, arguments: Sequence[str]) -> list[str]:
    """The command line of ansible-runner, with `runner/` as its private data directory."""
    beside = Path(sys.executable).with_name("ansible-runner")
    program = str(beside) if beside.exists() else "ansible-runner"
    command = [program, "run", str(RUNNER), "--project-dir", str(ROOT)]
    command += ["--playbook", playbook, "--ident", ident, "--rotate-artifacts", str(KEPT_RUNS)]
    return [*command, f"--cmdline={shlex.join(arguments)}"]


def play(
    playbook: str,
    ident: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    cancellation: Cancellation,
    *,
    quiet: bool = False,
    seconds: float | None = None,
) -> Run:
    """Run a playbook to its end, its cancellation, or `seconds`; returns what was recorded of it."""
    command = runner_command(playbook, ident, arguments) + (["--quiet"] if quiet else [])
    # It ends with us where it may be cancelled: a job that was killed must not go on releasing. It has a session of its
    # own: whoever signals the whole group must not end the undoing.
    if cancellation.heeded and shutil.which("setpriv"):
        command = ["setpriv", "--pdeathsig", "TERM", "--", *command]
    with subprocess.Popen(
        command, cwd=ROOT, env=dict(environment), stdin=subprocess.DEVNULL, start_new_session=True
    ) as process:
        cancellation.running = process
        if cancellation.heeded and cancellation.number is not None:
            process.terminate()
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
        finally:
            cancellation.running = None
    run = ci_report.read_run(RUNNER / "artifacts" / ident)
    if run.status != "canceled" and cancellation.heeded and cancellation.number is not None:
        # It ended by itself in the very moment; whoever cancelled must be told what is, all the same.
        return Run("canceled", run.exit_code, run.finished, run.tasks)
    return run


# -- what a cancelled job left open


def journals(directory: Path, task: str) -> dict[str, list[dict[str, Any]]]:
    """By host, the records of the open transaction's journal that this task read; empty where none was open."""
    found: dict[str, list[dict[str, Any]]] = {}
    for event in ci_report.read_events(directory):
        data = event.get("event_data") or {}
        if event.get("event") == "runner_on_ok" and data.get("task") == task:
            found[data["host"]] = [json.loads(line) for line in _whole_lines(str(data["res"].get("stdout") or ""))]
    return found


def _whole_lines(text: str) -> list[str]:
    """The lines of a journal; the last is left out where it was read while it was written."""
    return [line for line in text.splitlines() if line.startswith("{") and line.endswith("}")]


def begun_by(records: Sequence[Mapping[str, Any]], by: str) -> dict[str, Any] | None:
    """The transaction that these records open, where `by` began it."""
    if not records or records[0].get("step") != "begin":
        return None
    data = dict(records[0].get("data") or {})
    return data if by and (data.get("request") or {}).get("by") == by else None


def endings(
    opened: Mapping[str, Sequence[Mapping[str, Any]]], looks: Mapping[str, Mapping[str, Any]], by: str
) -> dict[str, str]:
    """By host, how to end what `by` left open: `confirmed` where a host of the same release has confirmed it, else
    `aborted`. A transaction that is past its confirmation ends by itself, and so does one of somebody else.
    """
    mine = {host: begun for host, records in opened.items() if (begun := begun_by(records, by))}
    past = {host for host in mine if any(record.get("step") == "confirm" for record in opened[host])}
    confirmed = {(mine[host]["version"], mine[host]["payload"]) for host in past}
    for host, look in looks.items():
        live = look.get("live") or {}
        if host not in mine and live.get("by") == by:
            confirmed.add((live.get("version"), live.get("payload")))
    return {
        host: "confirmed" if (begun["version"], begun["payload"]) in confirmed else "aborted"
        for host, begun in mine.items()
        if host not in past
    }


def none_confirmed(run: Run, directory: Path) -> bool:
    """Whether no host can have confirmed: on none of them did the flip end, which comes first on all of them, and every
    event that Ansible wrote was read."""
    flipped = any("release" in task.facts and task.facts["release"] == task.facts.get("live") for task in run.tasks)
    return not flipped and not any(directory.glob("job_events/*-partial.json"))


@dataclass(frozen=True)
class Aftermath:
    """What the hosts said after a verb: their state, what was ended there, and where something of ours is open, or may
    be, because the host did not answer."""

    looks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    ended: Mapping[str, str] = field(default_factory=dict)
    left_open: tuple[str, ...] = ()


class Hosts:
    """Asks the hosts of a verb what they serve, and ends what a cancelled job left open there. Nothing cancels this."""

    def __init__(self, ident: str, arguments: Sequence[str], environment: Mapping[str, str], by: str) -> None:
        self._ident = ident
        self._arguments = arguments
        self._environment = environment
        self._by = by

    def look(self) -> Aftermath:
        run, directory = self._play("look")
        return self._after(run, directory, {})

    def undo(self, *, at_once: bool) -> Aftermath:
        """Undo what is open, `at_once` where no host can have confirmed it: CI gives a cancelled job few seconds."""
        wanted: dict[str, str] | None = None
        if not at_once:
            run, directory = self._play("look")
            opened, looks = journals(directory, LOOK_TASK), ci_report.looks_of(run)
            wanted = endings(opened, looks, self._by)
            if not wanted:
                return self._after(run, directory, {})
        run, directory = self._play("end", *([] if wanted is None else ["-e", json.dumps({"endings": wanted})]))
        return self._after(
            run, directory, endings(journals(directory, END_TASK), {}, self._by) if wanted is None else wanted
        )

    def _after(self, run: Run, directory: Path, planned: Mapping[str, str]) -> Aftermath:
        looks = ci_report.looks_of(run)
        left = set(endings(journals(directory, LOOK_TASK), looks, self._by))
        words = {"aborted": "undone", "confirmed": "finished: another host had confirmed it"}
        return Aftermath(
            looks=looks,
            ended={host: "still open" if host in left else words[state] for host, state in planned.items()},
            left_open=tuple(sorted({*left, *(host for host in run.hosts if host not in looks)})),
        )

    def _play(self, name: str, *more: str) -> tuple[Run, Path]:
        directory = RUNNER / "artifacts" / f"{self._ident}-{name}"
        calm = Cancellation(heeded=False)
        arguments = [*self._arguments, *more]
        playbook = f"runner/{name}.yml"
        run = play(playbook, directory.name, arguments, self._environment, calm, quiet=True, seconds=UNDO_SECONDS)
        return run, directory


# -- the job


def tell(report: Report, environment: Mapping[str, str], directory: Path) -> None:
    """Write the report; show it on GitHub's page of the job, and a failure as its annotation."""
    ci_report.write(report, directory)
    code, sentence = report.verdict
    if page := environment.get("GITHUB_STEP_SUMMARY"):
        with Path(page).open("a", encoding="utf-8") as summary:
            summary.write(ci_report.markdown(report) + "\n")
    reasons = [f"{task.host}: {task.message}" for task in report.run.failures()]
    if code and environment.get("GITHUB_ACTIONS") == "true":
        for reason in reasons or [sentence]:
            print(f"::error title=backstay {report.verb}::{_annotation(reason)}")
    live = ", ".join(f"{host} serves {report.live(host)}" for host in report.hosts if report.live(host))
    print(f"{report.verb}: {sentence}{f' {live}.' if live else ''} Report: {directory}/summary.md", flush=True)


def _annotation(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _given(value: str) -> str:
    """A value that a CI variable gave; an empty one is a mistake, not a release without a version."""
    if not value.strip():
        raise argparse.ArgumentTypeError("it is empty: is the variable of the job set?")
    return value.strip()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description="Run one verb of Backstay as a CI job, and report it.")
    found.add_argument("verb", choices=[*sorted(file.stem for file in (ROOT / "playbooks").glob("*.yml")), "undo"])
    found.add_argument("-i", "--inventory", action="append", required=True, help="an inventory; may be repeated")
    found.add_argument(
        "-e", "--extra-vars", action="append", default=[], help="as for ansible-playbook; never a secret"
    )
    found.add_argument("--version", type=_given, help="which version")
    found.add_argument("--app", type=_given, help="which application, where the inventory has several")
    found.add_argument("--to", type=_given, help="which release or version a rollback goes to")
    found.add_argument("--check", action="store_true", help="say what would happen, change nothing")
    found.add_argument("--why", default="", help="why, for the ledger")
    found.add_argument("--by", default="", help="who, for the ledger; on GitHub and GitLab the person and the job")
    found.add_argument(
        "--pass", dest="passed", action="append", default=[], metavar="NAME", help="a variable Ansible gets too"
    )
    found.add_argument("--report", type=Path, help="where summary.md and junit.xml go; else runner/report/<verb>")
    return found


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the verb; returns the job's exit code."""
    command_line = parser()
    options = command_line.parse_args(arguments)
    cancellation = Cancellation()
    cancellation.listen()
    ident = f"{options.verb}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
    by = options.by or who(environment)
    if not by and options.verb == "undo":
        command_line.error("outside GitHub and GitLab, name with --by whose release is to be undone.")
    by = by or f"{environment.get('USER', 'unknown')} ({ident})"
    given, clean = ansible_options(options, by), narrowed(environment, options.passed)
    began = time.monotonic()
    if options.verb == "undo":
        run = Run("successful", 0, finished=True)
    else:
        run = play(f"playbooks/{options.verb}.yml", ident, given, clean, cancellation)
    seconds = time.monotonic() - began
    cancelled = cancellation.number is not None
    hosts = Hosts(ident, given, clean, by)
    asked = options.verb in ("release", "rollback", "undo") or (
        cancelled and options.verb in ("restore", "recover", "rebuild")  # nobody heard how those ended
    )
    after = Aftermath()
    if options.verb == "undo" or (options.verb in ("release", "rollback") and (cancelled or run.exit_code != 0)):
        # What failed has undone itself as a rule, but a playbook that broke has not.
        after = hosts.undo(at_once=options.verb != "undo" and none_confirmed(run, RUNNER / "artifacts" / ident))
    elif asked:
        after = hosts.look()
    report = Report(
        verb=options.verb,
        run=run,
        looks=after.looks,
        ended=after.ended,
        by=by,
        why=options.why,
        inventory=" -i ".join(options.inventory),
        looked=asked,
        seconds=seconds,
        left_open=after.left_open,
        check=options.check,
    )
    tell(report, environment, options.report or RUNNER / "report" / options.verb)
    if cancelled and cancellation.number is not None:
        return 128 + cancellation.number
    return report.verdict[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
