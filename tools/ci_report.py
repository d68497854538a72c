"""Turn what ansible-runner recorded of one verb into what people and CI read: Markdown, JUnit XML, an exit code.

    python tools/ci_report.py runner/artifacts/<ident> [--look runner/artifacts/<ident>-look] [--to runner/report]

`tools/ci.py` calls it after each verb; by hand it reads again what a job has kept. Only named fields of a result are
read (its sentence, its lines, its steps): arguments, environments and results hidden by no_log go nowhere.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

DONE, FAILED, LOOK_AT_IT, CANCELLED = 0, 1, 3, 130
LINES_SHOWN = 30
LINE_LENGTH = 400

# A line of a module's result that tells of a step: its title, its seconds, a detail.
STEP_LINE = re.compile(r"(?P<title>\S.*?) {2,}(?P<seconds>\d+\.\d+) s(?:  (?P<detail>.*))?")
NOT_IN_XML = re.compile(r"[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Step:
    """One step of a release, a rollback or a build, with its time."""

    title: str
    seconds: float
    detail: str = ""


@dataclass(frozen=True)
class Task:
    """What became of one task on one host: ok, changed, failed, ignored, unreachable or skipped."""

    host: str
    name: str
    outcome: str
    seconds: float = 0.0
    message: str = ""
    lines: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def broken(self) -> bool:
        return self.outcome in ("failed", "unreachable")


@dataclass(frozen=True)
class Run:
    """One run of ansible-runner: its status, its exit code, whether the playbook came to its end, and its tasks."""

    status: str
    exit_code: int | None
    finished: bool
    tasks: tuple[Task, ...] = ()

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(sorted({task.host for task in self.tasks}))

    def failures(self, host: str | None = None) -> tuple[Task, ...]:
        """What failed, each sentence once per host: a rescue that says the reason again adds none."""
        seen: set[tuple[str, str]] = set()
        found = []
        for task in self.tasks:
            if not task.broken or host not in (None, task.host):
                continue
            if (task.host, task.message) not in seen:
                found.append(task)
            seen.add((task.host, task.message))
        return tuple(found)

    def steps(self, host: str) -> tuple[Step, ...]:
        """The steps of a host, in order; a result repeats those of the phases before it, the newest counts."""
        found: dict[str, Step] = {}
        for task in self.tasks:
            if task.host == host:
                found.update({step.title: step for step in task.steps})
        return tuple(found.values())

    def fact(self, host: str, name: str) -> str:
        """What the last task of a host that told this said, such as the id of a release; empty where none did."""
        told = (task.facts.get(name) for task in reversed(self.tasks) if task.host == host)
        return next((value for value in told if isinstance(value, str)), "")


@dataclass(frozen=True)
class Report:
    """A verb, what became of it, and what the hosts said afterwards (`looks`, by host; absent where one is silent)."""

    verb: str
    run: Run
    looks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    ended: Mapping[str, str] = field(default_factory=dict)  # by host: what was done with what a cancelled job left open
    by: str = ""
    why: str = ""
    inventory: str = ""
    looked: bool = True
    seconds: float = 0.0
    left_open: tuple[str, ...] = ()  # hosts where a transaction of this job is still open
    check: bool = False  # only what would be done was asked for

    @property
    def cancelled(self) -> bool:
        return self.run.status == "canceled"

    @property
    def interrupted(self) -> bool:
        """Whether the run was ended from outside, so that its playbook could not clean up."""
        return self.run.status in ("canceled", "killed", "timeout")

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(sorted({*self.run.hosts, *self.looks}))

    def live(self, host: str) -> str:
        """The id of the release that a host serves; empty where nothing is known."""
        live = (self.looks.get(host) or {}).get("live")
        return str(live["id"]) if live else str(self.run.fact(host, "live") or "")

    def candidate(self, host: str) -> Mapping[str, Any]:
        """The release this verb was about on a host, as `status` describes it; empty where it left no trace."""
        look = self.looks.get(host) or {}
        made = self.run.fact(host, "release")
        for release in (look.get("live"), look.get("last_failed")):
            if release and (release.get("id") == made or (not made and self.by and release.get("by") == self.by)):
                return dict(release)
        return {}

    @property
    def verdict(self) -> tuple[int, str]:
        """(exit code, sentence): 0 as asked, 1 not, 3 a person must look, 130 cancelled."""
        if self.cancelled:
            return CANCELLED, self._after_cancelling("Cancelled")
        if self.interrupted:
            ended = self.looks and not self.left_open
            return (FAILED if ended else LOOK_AT_IT), self._after_cancelling("ansible-runner ended without a result")
        if self.verb == "undo":
            ended = self.looks and not self.left_open
            return (DONE if ended else LOOK_AT_IT), self._after_cancelling("Asked for what a cancelled job left")
        if self.run.failures() or self.run.exit_code != 0:
            return self._after_failing()
        if not self.run.finished:
            return LOOK_AT_IT, "The playbook ended without its last word: look at what the hosts say."
        if not self.run.hosts:
            return FAILED, "No host of the inventory was meant: nothing was done."
        if self.check:
            return DONE, "Checked; nothing was changed."
        if self.verb in ("release", "rollback"):
            wrong = [host for host in self.run.hosts if self.run.fact(host, "live") and self._serves_another(host)]
            silent = [host for host in self.run.hosts if self.run.fact(host, "live") and self._unknown(host)]
            if silent:
                told = f"Done, and {', '.join(silent)} did not say afterwards what is live there: look at it."
                return LOOK_AT_IT, told
            if wrong or self._differ():
                return (
                    LOOK_AT_IT,
                    f"Done, yet {', '.join(wrong) or 'the hosts'} serve another release than asked: look at it.",
                )
        return DONE, "Done."

    def _after_failing(self) -> tuple[int, str]:
        failures = self.run.failures()
        nobody = next((task.message for task in failures if task.name == "Stop unless hosts are meant"), "")
        if nobody:
            return FAILED, nobody
        failed = sorted({task.host for task in failures})
        unknown = [host for host in failed if self._unknown(host)]
        if unknown:
            return LOOK_AT_IT, f"Failed, and {', '.join(unknown)} did not say what is live there: look at it."
        if self.left_open:
            return LOOK_AT_IT, self._after_cancelling("Failed")
        if self._differ():
            told = "Failed, and the hosts serve different versions: run playbooks/recover.yml, then look at it."
            return LOOK_AT_IT, told
        return FAILED, f"Failed on {', '.join(failed)}." if failed else "Failed before any host was asked; see the log."

    def _after_cancelling(self, what: str) -> str:
        if self.left_open or (self.looked and not self.looks):
            where = ", ".join(self.left_open) or "the hosts, which did not answer,"
            if not self._of_releases:  # the others wait for nobody's confirmation
                told = "may still be at work: see `backstay status` there, and run it again when that is at rest"
                return f"{what}; on {where} this job's {self.verb} {told}."
            return (
                f"{what}; on {where} a release of this job may still be open: it is undone at its deadline, "
                "or at once by `tools/ci.py undo`."
            )
        if done := self.confirmed:
            return f"{what}; the release of this job was confirmed before, and is live on {', '.join(done)}."
        if not self.looked:
            return f"{what}; no host was asked what it still does: see `backstay status` there."
        undone = sorted(host for host, how in self.ended.items() if how == "undone")
        return f"{what}; undone on {', '.join(undone)}." if undone else f"{what}; nothing of this job is open."

    @property
    def _of_releases(self) -> bool:
        return self.verb in ("release", "rollback", "undo")

    @property
    def confirmed(self) -> list[str]:
        """Hosts on which the release of this job is live; where it is still open none counts."""
        if not self._of_releases:
            return []  # whoever restores may have released it, too
        live = {host: look.get("live") or {} for host, look in self.looks.items()}
        return [host for host, release in sorted(live.items()) if self.by and release.get("by") == self.by]

    def _unknown(self, host: str) -> bool:
        return self.looked and self.verb in ("release", "rollback") and host not in self.looks

    def _serves_another(self, host: str) -> bool:
        asked = self.run.fact(host, "release") or self.run.fact(host, "live")
        return self.looked and self.live(host) != asked

    def _differ(self) -> bool:
        versions = {str((look.get("live") or {}).get("payload", "")) for look in self.looks.values()}
        return self.verb in ("release", "rollback") and len(versions) > 1


# -- reading what ansible-runner wrote


def read_run(directory: Path) -> Run:
    """The run that lies in one of ansible-runner's artifact directories; without a status it was killed."""
    events = read_events(directory)
    exit_code = _read(directory / "rc")
    return Run(
        status=_read(directory / "status") or "killed",
        exit_code=int(exit_code) if exit_code.lstrip("-").isdigit() else None,
        finished=any(event.get("event") == "playbook_on_stats" for event in events),
        tasks=tuple(tasks_of(events)),
    )


def read_events(directory: Path) -> list[dict[str, Any]]:
    """The events in their order; what a killed run left half written is passed over."""
    found: list[tuple[int, dict[str, Any]]] = []
    for file in (directory / "job_events").glob("*.json"):
        number = file.name.partition("-")[0]
        if not number.isdigit() or file.name.endswith("-partial.json"):
            continue
        try:
            event = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(event, dict):
            found.append((int(number), event))
    return [event for _number, event in sorted(found, key=lambda pair: pair[0])]


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


OUTCOMES = {"runner_on_ok": "ok", "runner_on_failed": "failed", "runner_on_unreachable": "unreachable"}
FACTS = (
    *("application", "version", "release", "previous", "live", "transaction", "commit", "sha256", "rollback_target"),
    *("last_failed", "transaction_open", "verdict"),
)


def tasks_of(events: Iterable[Mapping[str, Any]]) -> Iterable[Task]:
    """The tasks that ended on a host, in order; skipped ones are no news."""
    for event in events:
        outcome = OUTCOMES.get(str(event.get("event")))
        data = event.get("event_data")
        if outcome is None or not isinstance(data, Mapping):
            continue
        result = data.get("res")
        result = result if isinstance(result, Mapping) else {}
        if outcome == "ok" and result.get("changed"):
            outcome = "changed"
        if outcome == "failed" and data.get("ignore_errors"):
            outcome = "ignored"
        hidden = "censored" in result or bool(result.get("_ansible_no_log"))
        lines = [] if hidden else _strings(result.get("backstay_lines"))
        yield Task(
            host=str(data.get("host", "")),
            name=str(data.get("task", "")),
            outcome=outcome,
            seconds=float(data.get("duration") or 0.0),
            message="hidden, because the task has no_log" if hidden else str(result.get("msg") or "").strip(),
            lines=tuple(lines),
            steps=() if hidden else tuple(_steps(result, lines)),
            facts={} if hidden else {name: result[name] for name in FACTS if result.get(name) is not None},
        )


def _strings(value: Any) -> list[str]:
    return [str(line) for line in value] if isinstance(value, Sequence) and not isinstance(value, str) else []


def _steps(result: Mapping[str, Any], lines: Sequence[str]) -> Iterable[Step]:
    """From a release's `steps`, a build's `seconds`, or, where a failure kept neither, from its lines."""
    steps, seconds = result.get("steps"), result.get("seconds")
    if isinstance(steps, Sequence) and not isinstance(steps, str):
        for step in steps:
            if isinstance(step, Mapping) and "title" in step:
                yield Step(str(step["title"]), float(step.get("seconds") or 0.0), str(step.get("detail") or ""))
    elif isinstance(seconds, Mapping):
        for title, value in seconds.items():
            yield Step(str(title), float(value))
    else:
        for line in lines:
            found = STEP_LINE.fullmatch(line)
            if found:
                yield Step(found["title"], float(found["seconds"]), found["detail"] or "")


def looks_of(run: Run) -> dict[str, dict[str, Any]]:
    """What each host said of itself in a run of runner/look.yml."""
    return {task.host: dict(task.facts) for task in run.tasks if not task.broken and "verdict" in task.facts}


# -- Markdown, for the job's page


def plain(text: object) -> str:
    """Text that Markdown and HTML leave alone, on one line, for a cell of a table."""
    folded = " ".join(str(text).split())[:LINE_LENGTH]
    return re.sub(r"([\\`*\[\]<>|~]|^[#+-]|(?<!\w)_|_(?!\w))", r"\\\1", folded).replace("&", "&amp;")


def fenced(lines: Sequence[str]) -> list[str]:
    """The last lines as they are, in a fence that none of them can close."""
    shown = [line.replace("\r", "")[:LINE_LENGTH] for line in lines[-LINES_SHOWN:]]
    longest = max((len(run) for line in shown for run in re.findall(r"`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}text", *shown, fence]


def markdown(report: Report) -> str:
    """What a person reads in the job's page: what was released where, why not, each step's time, the way back."""
    _code, sentence = report.verdict
    parts = [f"## {plain(_title(report))}", "", plain(sentence), ""]
    parts += _about(report)
    parts += _hosts_table(report)
    for task in report.run.failures():
        parts += [f"### Why: {plain(task.host)}, {plain(task.name)}", "", plain(task.message or task.outcome), ""]
        said = [line for line in task.lines if not STEP_LINE.fullmatch(line)]
        parts += [*fenced(said), ""] if said else []
    parts += _steps_table(report)
    parts += _way_back(report)
    return "\n".join(parts).rstrip() + "\n"


def _title(report: Report) -> str:
    code, _sentence = report.verdict
    ending = {DONE: "done", FAILED: "failed", LOOK_AT_IT: "look at it", CANCELLED: "cancelled"}[code]
    about = {task.facts["application"] for task in report.run.tasks if "application" in task.facts}
    about |= {str(look["application"]) for look in report.looks.values() if "application" in look}
    versions = {str(report.candidate(host).get("version") or "") for host in report.hosts}
    versions |= {str(task.facts["version"]) for task in report.run.tasks if "version" in task.facts}
    words = [report.verb.capitalize(), *sorted(map(str, about)), *sorted(versions - {""})]
    return f"{' '.join(words)}: {ending}"


def _about(report: Report) -> list[str]:
    commits = {str(report.candidate(host).get("commit") or "") for host in report.hosts}
    commits |= {str(task.facts["commit"]) for task in report.run.tasks if task.facts.get("commit")}
    payloads = {str(report.candidate(host).get("payload") or "") for host in report.hosts}
    payloads |= {str(task.facts["sha256"]) for task in report.run.tasks if task.facts.get("sha256")}
    rows = (
        ("Commit", " ".join(sorted(commits - {""}))),
        ("Payload", " ".join(f"sha256:{digest[:16]}" for digest in sorted(payloads - {""}))),
        ("By", report.by),
        ("Why", report.why),
        ("Took", f"{report.seconds:.1f} s" if report.seconds else ""),
    )
    return [*(f"- {name}: {plain(value)}" for name, value in rows if value), ""]


def _hosts_table(report: Report) -> list[str]:
    if not report.hosts:
        return []
    rows = ["| host | became | live now | a rollback goes to |", "|---|---|---|---|"]
    for host in report.hosts:
        look = report.looks.get(host) or {}
        live = report.live(host) or ("not known" if report.verb in ("release", "rollback", "undo") else "")
        cells = (host, became(report, host), live, look.get("rollback_target") or "")
        rows.append(f"| {' | '.join(plain(cell) for cell in cells)} |")
    return [*rows, ""]


def became(report: Report, host: str) -> str:
    """What became of the verb on one host, in a word or two."""
    if host in report.ended:
        return report.ended[host]
    failed = report.run.failures(host)
    if failed:
        return failed[0].outcome
    if report.interrupted:
        return "done" if host in report.confirmed else "cancelled" if report.cancelled else "interrupted"
    if host not in report.run.hosts:
        return "not asked"
    changed = any(task.outcome == "changed" and task.steps for task in report.run.tasks if task.host == host)
    return "done" if changed or report.verb not in ("build", "release", "rollback") else "nothing to do"


def _steps_table(report: Report) -> list[str]:
    hosts = [host for host in report.run.hosts if report.run.steps(host)]
    titles = list(dict.fromkeys(step.title for host in hosts for step in report.run.steps(host)))
    if not titles:
        return []
    rows = [f"| step, seconds | {' | '.join(map(plain, hosts))} |", f"|---|{'---:|' * len(hosts)}"]
    times = {(host, step.title): step.seconds for host in hosts for step in report.run.steps(host)}
    for title in titles:
        cells = [f"{times[host, title]:.2f}" if (host, title) in times else "" for host in hosts]
        rows.append(f"| {plain(title)} | {' | '.join(cells)} |")
    return ["### Steps", "", *rows, ""]


def _way_back(report: Report) -> list[str]:
    code, _sentence = report.verdict
    targets = sorted({str(look["rollback_target"]) for look in report.looks.values() if look.get("rollback_target")})
    if report.verb == "build" or not report.looks:
        return []
    if code == DONE and report.verb == "release" and targets:
        inventory = f" -i {report.inventory}" if report.inventory else ""
        return [
            "### The way back",
            "",
            f"To {plain(', '.join(targets))}, at once: run the rollback job, or",
            "",
            *fenced(
                [f"ansible-playbook playbooks/rollback.yml{inventory}", "backstay rollback    # on the host itself"]
            ),
        ]
    if code in (FAILED, CANCELLED) and not report.left_open:
        serving = sorted({report.live(host) for host in report.hosts} - {""})
        return [f"Nothing has to be rolled back: {plain(', '.join(serving))} serves."] if serving else []
    return []


# -- JUnit XML, for the reporters of GitLab and GitHub


def junit(report: Report) -> str:
    """A suite per host, a case per step or task; what failed carries its sentence and the candidate's last lines."""
    root = ElementTree.Element("testsuites", name=f"backstay {report.verb}")
    code, sentence = report.verdict
    for host in report.hosts:
        _suite(root, host, [case for task in report.run.tasks if task.host == host for case in _cases(report, task)])
    if code != DONE and not report.run.failures():
        case = ElementTree.Element("testcase", classname=f"backstay.{report.verb}", name="the job", time="0")
        ElementTree.SubElement(
            case, "error", message=_clean(sentence), type="cancelled" if report.cancelled else "error"
        )
        _suite(root, "the job", [case])
    for total in ("tests", "failures", "errors"):
        root.set(total, str(sum(int(suite.get(total, "0")) for suite in root)))
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _suite(root: ElementTree.Element, name: str, cases: Sequence[ElementTree.Element]) -> None:
    unique = {str(case.get("name")): case for case in cases}  # a later phase repeats the steps of those before it
    suite = ElementTree.SubElement(root, "testsuite", name=_clean(name), tests=str(len(unique)))
    suite.set("failures", str(sum(case.find("failure") is not None for case in unique.values())))
    suite.set("errors", str(sum(case.find("error") is not None for case in unique.values())))
    suite.set("time", f"{sum(float(case.get('time', '0')) for case in unique.values()):.3f}")
    suite.extend(unique.values())


def _cases(report: Report, task: Task) -> Iterable[ElementTree.Element]:
    if task.broken and task not in report.run.failures():
        return
    classname = f"backstay.{report.verb}.{_clean(task.host)}"
    for step in task.steps:
        case = ElementTree.Element("testcase", classname=classname, name=_clean(step.title), time=f"{step.seconds:.3f}")
        if step.detail:
            ElementTree.SubElement(case, "system-out").text = _clean(step.detail)
        yield case
    if task.broken or not task.steps:
        seconds = max(0.0, task.seconds - sum(step.seconds for step in task.steps))
        case = ElementTree.Element("testcase", classname=classname, name=_clean(task.name), time=f"{seconds:.3f}")
        if task.broken:
            kind = "failure" if task.outcome == "failed" else "error"
            broken = ElementTree.SubElement(case, kind, message=_clean(task.message), type=task.outcome)
            broken.text = _clean("\n".join([task.message, *task.lines[-LINES_SHOWN:]]))
        yield case


def _clean(text: str) -> str:
    return NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text)


# -- as a command


def write(report: Report, directory: Path) -> None:
    """summary.md and junit.xml, each written whole."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in (("summary.md", markdown(report)), ("junit.xml", junit(report))):
        fresh = directory / f".{name}.new"
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(directory / name)


def main(arguments: Sequence[str]) -> int:
    """Read artifacts, write the report, print the summary; returns the exit code that the verb deserves."""
    parser = argparse.ArgumentParser(description="Report what ansible-runner recorded of one verb.")
    parser.add_argument("artifacts", type=Path, help="ansible-runner's directory of the run")
    parser.add_argument("--look", type=Path, help="that of the run of runner/look.yml after it")
    parser.add_argument("--to", type=Path, help="where summary.md and junit.xml go")
    parser.add_argument("--verb", help="release, rollback, build ...; else as the directory is called")
    options = parser.parse_args(arguments)
    if not (options.artifacts / "job_events").is_dir():
        parser.error(f"{options.artifacts} holds no job_events: it is no artifact directory of ansible-runner.")
    report = Report(
        verb=options.verb or options.artifacts.resolve().name.partition("-")[0],
        run=read_run(options.artifacts),
        looks=looks_of(read_run(options.look)) if options.look else {},
        looked=options.look is not None,
    )
    if options.to:
        write(report, options.to)
    sys.stdout.write(markdown(report))
    return report.verdict[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
