"""The commands that the runbooks and the questions and answers tell somebody to type.

    python tools/runbook_commands.py    print them, with their page

Tests check that each of them can be typed, and type them: on a host, or where Ansible runs from.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
RUNBOOKS = ROOT / "docs" / "runbooks"
PAGES = [*sorted(RUNBOOKS.glob("*.md")), ROOT / "docs" / "faq.md"]

_LOOKING = {"status", "history", "health", "logs", "backups", "diagnose"}
_LOOKING_PLAYBOOKS = {"diagnose", "health", "status"}
_LOOKING_PROGRAMS = {"date", "df", "du", "free", "ps", "ss", "uptime"}
_LOOKING_COMMANDS = (
    ("nginx", "-t"),
    ("systemctl", "list-timers"),
    ("systemctl", "list-units"),
    ("backstay", "run", "python", "manage.py", "check"),
    ("backstay", "run", "python", "manage.py", "showmigrations"),
)


class Typed(NamedTuple):
    """A command, and the page that names it."""

    page: str
    command: str

    @property
    def on_controller(self) -> bool:
        """Whether it is typed where Ansible runs from, in the checkout, and not on a host."""
        return self.command.startswith("ansible-playbook ")

    @property
    def looks_only(self) -> bool:
        """Whether it changes nothing on a host, beside an archive of `diagnose`."""
        words = shlex.split(self.command)
        if self.on_controller:
            return "--check" in words or Path(words[1]).stem in _LOOKING_PLAYBOOKS
        if words[0] == "backstay" and (words[1] in _LOOKING or "--plan" in words):
            return True
        if words[0] == "journalctl":
            return not any(word.startswith(("--vacuum", "--rotate", "--flush")) for word in words)
        return words[0] in _LOOKING_PROGRAMS or any(tuple(words[: len(each)]) == each for each in _LOOKING_COMMANDS)


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each fenced block of a page."""
    return re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def fenced() -> Iterator[Typed]:
    """Every line of the blocks that are meant to be typed: `sh`, and of `console` what follows the prompt."""
    for page in PAGES:
        for language, text in blocks(page):
            for line in map(str.strip, text.splitlines()):
                if language == "sh" and line:
                    yield Typed(page.name, line)
                elif language == "console" and line.startswith(("$ ", "# ")):
                    yield Typed(page.name, line[2:])


def inline() -> Iterator[Typed]:
    """Every command in backticks."""
    for page in PAGES:
        prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for said in re.findall(r"`((?:backstay|ansible-playbook) [^`]+)`", prose):
            yield Typed(page.name, said)


if __name__ == "__main__":
    for typed in fenced():
        print(f"{'looks ' if typed.looks_only else 'does  '} {typed.page:<24} {typed.command}")
