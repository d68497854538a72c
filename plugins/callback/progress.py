# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Output of a play that a person can read: a line per task, a failure as a sentence."""

from __future__ import annotations

DOCUMENTATION = r"""
name: progress
type: stdout
short_description: One line per task with its time, failures as sentences
description:
  - Prints one line per task when it has ended, with its seconds and what became of each host, in words and, on a
    terminal, in colour. The task that runs is shown meanwhile on a terminal.
  - A failure is printed as the sentence in C(msg) of its result, not as JSON. What a command printed last follows.
  - A list of strings C(backstay_lines) in any result is printed as indented lines, for example the steps of a release.
  - Tasks that were skipped on all hosts are left out, and so is a play that only asserts and found nothing wrong.
  - With C(-v) the result of each task follows its line, as with the callback P(ansible.builtin.default#callback).
  - A result of a task with C(no_log) is never printed.
version_added: 0.1.0
author:
  - Backstay contributors (@backstay)
extends_documentation_fragment:
  - ansible.builtin.result_format_callback
requirements:
  - Set C(stdout_callback=backstay.ops.progress) in the section C([defaults]) of C(ansible.cfg).
"""

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible import constants as C  # noqa: N812 - the name it has everywhere in Ansible
from ansible.playbook.task_include import TaskInclude
from ansible.plugins.callback import CallbackBase
from ansible.utils.color import stringc

NAMED_HOSTS = 6
COMMAND_LINES = 10
ITEM_FAILURES = 10
INSTANT = ("fail", "assert")  # what takes no time needs no heading above it while it runs
HIDDEN = "hidden, because the task has no_log: its result may hold secrets"

OUTCOMES = ("unreachable", "FAILED", "failed, ignored", "changed", "ok", "skipped")
COLOURS = {
    "unreachable": C.COLOR_UNREACHABLE,
    "FAILED": C.COLOR_ERROR,
    "failed, ignored": C.COLOR_WARN,
    "changed": C.COLOR_CHANGED,
    "ok": C.COLOR_OK,
    "skipped": C.COLOR_SKIP,
}

Colourer = Callable[[str, str], str]


@dataclass
class TaskLine:
    """What is known of the task that runs: printed as one line, and its details, when it has ended."""

    identity: str
    name: str
    started: float
    ended: float
    hosts: dict[str, str] = field(default_factory=dict)
    details: list[tuple[str, str | None]] = field(default_factory=list)
    where: str = ""

    def headline(self, colour: Colourer) -> str:
        """Seconds, name, and the hosts by what became of them."""
        verdict = ", ".join(
            f"{colour(outcome, COLOURS[outcome])} {names_of(hosts)}" for outcome, hosts in self._by_outcome()
        )
        return f"{self.ended - self.started:7.1f} s  {self.name:<58}  {verdict}".rstrip()

    def worth_a_line(self) -> bool:
        """Whether anything but skipping happened."""
        return any(outcome != "skipped" for outcome in self.hosts.values())

    def _by_outcome(self) -> Iterable[tuple[str, list[str]]]:
        for outcome in OUTCOMES:
            hosts = sorted(host for host, became in self.hosts.items() if became == outcome)
            if hosts and (outcome != "skipped" or not self.worth_a_line()):
                yield outcome, hosts


def names_of(hosts: Sequence[str]) -> str:
    """The hosts by name while they are few, else their number."""
    return " ".join(hosts) if len(hosts) <= NAMED_HOSTS else f"{len(hosts)} hosts"


def is_hidden(result: Mapping[str, Any]) -> bool:
    """Whether Ansible has emptied this result because of no_log."""
    return bool(result.get("_ansible_no_log")) or "censored" in result


def reason(result: Mapping[str, Any]) -> list[str]:
    """Why a task (or one item of it) failed: a sentence, then what its command printed last."""
    if is_hidden(result):
        return [HIDDEN]
    sentence = str(result.get("msg") or "").strip()
    printed = str(result.get("stderr") or result.get("module_stderr") or "").strip()
    printed = printed or str(result.get("stdout") or result.get("module_stdout") or "").strip()
    if "rc" in result and "non-zero return code" in sentence:
        command = result.get("cmd")
        words = " ".join(map(str, command)) if isinstance(command, list) else str(command)
        sentence = f"`{words}` ended with exit code {result.get('rc')}."
    lines = sentence.splitlines() or ["It failed without saying why; -v shows all that is known."]
    last = [line for line in printed.splitlines() if line.strip()][-COMMAND_LINES:]
    return lines + [f"  | {line}" for line in last]


def extra_lines(result: Mapping[str, Any]) -> list[str]:
    """The lines a module wants a person to read."""
    lines = result.get("backstay_lines")
    return [str(line) for line in lines] if isinstance(lines, Sequence) and not isinstance(lines, str) else []


class CallbackModule(CallbackBase):
    """Collects what becomes of each host, prints a task's line when it has ended."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "backstay.ops.progress"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._began = time.monotonic()
        self._task: TaskLine | None = None
        self._live = sys.stdout.isatty() and not C.ANSIBLE_NOCOLOR
        self._transient = False
        self._heading = ""  # of the play that runs, until it is printed

    # -- printing

    def _say(self, text: str, colour: str | None = None) -> None:
        self._say_heading()
        self._wipe()
        self._display.display(text, color=colour)

    def _say_heading(self) -> None:
        heading, self._heading = self._heading, ""
        if heading:
            self._say(heading, C.COLOR_HIGHLIGHT)

    def _wipe(self) -> None:
        if self._transient:
            sys.stdout.write("\r\x1b[2K")
            sys.stdout.flush()
            self._transient = False

    def _show_running(self, text: str) -> None:
        """Show what runs, on a terminal only; the next line takes its place."""
        if self._live:
            self._wipe()
            sys.stdout.write(f"        …  {text}"[:100])
            sys.stdout.flush()
            self._transient = True

    def _finish_task(self) -> None:
        task, self._task = self._task, None
        self._wipe()
        if task is None or not task.hosts:
            return
        if task.worth_a_line() or task.details or self._display.verbosity > 0:
            self._say(task.headline(stringc))
        for text, colour in task.details:
            self._say(text, colour)
        if task.where:
            self._say(f"           in {task.where.removeprefix(f'{Path.cwd()}/')}", C.COLOR_VERBOSE)

    def _detail(self, result: Any, lines: Iterable[str], colour: str | None = None) -> None:
        """Keep lines for after the task's line, under the name of their host."""
        indent = " " * 11
        host = result.host.get_name()
        for number, line in enumerate(lines):
            prefix = f"{host}: " if number == 0 else ""
            self._of(result).details.append((f"{indent}{prefix}{line}", colour))

    def _of(self, result: Any) -> TaskLine:
        """The line of this result's task; with strategy free another task may have begun meanwhile."""
        task = self._task
        if task is None or task.identity != result.task._uuid:
            task = self._begin(result.task)
        task.ended = time.monotonic()
        return task

    def _begin(self, task: Any, kind: str = "") -> TaskLine:
        self._finish_task()
        now = time.monotonic()
        line = TaskLine(task._uuid, kind + (task.get_name().strip() or task.action), started=now, ended=now)
        self._task = line
        self._show_running(line.name)
        return line

    # -- what Ansible tells

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self._finish_task()
        mode = "  (check mode: nothing is changed)" if play.check_mode else ""
        self._heading = f"\n{play.get_name().strip() or 'Play'}{mode}"

    def v2_playbook_on_no_hosts_matched(self) -> None:
        self._say("           no host of the inventory is meant by this play", C.COLOR_SKIP)

    def v2_playbook_on_no_hosts_remaining(self) -> None:
        self._finish_task()
        self._say("           stopped: no host is left to go on with", C.COLOR_ERROR)

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        if task.action.removeprefix("ansible.builtin.") not in INSTANT:
            self._say_heading()
        self._begin(task)

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        self._begin(task, "handler: ")

    def v2_runner_retry(self, result: Any) -> None:
        left = result.result.get("retries", 0) - result.result.get("attempts", 0)
        self._show_running(f"{result.task.get_name().strip()} ({result.host.get_name()}: {left} more tries)")

    def v2_on_file_diff(self, result: Any) -> None:
        results = result.result["results"] if result.task.loop and "results" in result.result else [result.result]
        for one in results:
            if one.get("diff") and one.get("changed") and not is_hidden(one):
                self._of(result).details.append((self._get_diff(one["diff"]).rstrip("\n"), None))

    def v2_runner_on_ok(self, result: Any) -> None:
        if isinstance(result.task, TaskInclude):
            return
        data = result.result
        self._handle_warnings(data)
        outcome = "changed" if data.get("changed") else "ok"
        self._of(result).hosts[result.host.get_name()] = outcome
        if not is_hidden(data):
            self._detail(result, extra_lines(data))
        self._verbose(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        data = result.result
        outcome = "failed, ignored" if ignore_errors else "FAILED"
        self._of(result).hosts[result.host.get_name()] = outcome
        if self._display.verbosity > 0:
            self._handle_warnings_and_exception(result)
        else:
            self._handle_warnings(data)
        self._detail(result, self._reasons(data), COLOURS[outcome])
        if not is_hidden(data):
            self._detail(result, extra_lines(data))
        self._of(result).where = result.task.get_path() or ""
        self._verbose(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._of(result).hosts[result.host.get_name()] = "unreachable"
        self._detail(result, reason(result.result), C.COLOR_UNREACHABLE)
        self._verbose(result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._of(result).hosts[result.host.get_name()] = "skipped"

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self._finish_task()
        self._heading = ""
        hosts = sorted(stats.processed)
        self._say("")
        width = max([4, *(len(host) for host in hosts)])
        if hosts:
            self._say(f"{'host':<{width}}       ok  changed   failed  unreachable  skipped")
        for host in hosts:
            counts = stats.summarize(host)
            columns = (
                (counts["ok"] - counts["changed"], 9, C.COLOR_OK),
                (counts["changed"], 9, C.COLOR_CHANGED),
                (counts["failures"], 9, C.COLOR_ERROR),
                (counts["unreachable"], 13, C.COLOR_UNREACHABLE),
                (counts["skipped"], 9, C.COLOR_SKIP),
            )
            cells = (
                stringc(f"{count:>{cell}}", colour) if count else f"{count:>{cell}}" for count, cell, colour in columns
            )
            self._say(f"{host:<{width}}{''.join(cells)}")
        bad = [host for host in hosts if stats.failures.get(host) or stats.dark.get(host)]
        verdict = f"failed on {names_of(bad)}" if bad else "done"
        seconds = time.monotonic() - self._began
        self._say(f"{verdict} in {seconds:.1f} s", C.COLOR_ERROR if bad else C.COLOR_OK)

    # -- what a result says

    def _reasons(self, data: Mapping[str, Any]) -> list[str]:
        items = data.get("results")
        if not isinstance(items, list):
            return reason(data)
        failed = [
            item for item in items if isinstance(item, Mapping) and (item.get("failed") or item.get("unreachable"))
        ]
        lines = [
            line
            for item in failed[:ITEM_FAILURES]
            for line in [f"{self._get_item_label(item)}: {reason(item)[0]}", *reason(item)[1:]]
        ]
        if len(failed) > ITEM_FAILURES:
            lines.append(f"and {len(failed) - ITEM_FAILURES} more")
        return lines or reason(data)

    def _verbose(self, result: Any) -> None:
        """What `debug` was asked to print, always; any result with -v."""
        data = result.result
        if is_hidden(data):
            return
        if result.task.action in C._ACTION_DEBUG and "results" not in data:
            self._clean_results(data, result.task.action)
            shown = data.get("msg")
            if isinstance(shown, str):
                self._detail(result, shown.splitlines())
            elif isinstance(shown, Sequence):
                self._detail(result, map(str, shown))
            else:
                self._detail(result, (f"{key} = {value}" for key, value in data.items() if not key.startswith("_")))
        elif self._run_is_verbose(result):
            self._detail(result, [self._dump_results(data)], C.COLOR_VERBOSE)
