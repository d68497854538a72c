"""What the runbooks tell a tired person to type exists: verbs, options, playbooks, their variables, programs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.parsing.splitter import parse_kv
from runbook_commands import PAGES, RUNBOOKS, Typed, blocks, fenced, inline

from ansible_collections.backstay.ops.plugins.module_utils import _cli

ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs" / "operator-guide.md").read_text(encoding="utf-8")
# Programs of any Debian host that the runbooks may name.
SYSTEM = frozenset(
    (
        "apt-get",
        "chown",
        "date",
        "df",
        "du",
        "free",
        "install",
        "journalctl",
        "nginx",
        "ps",
        "ss",
        "systemctl",
        "uptime",
    )
)
WANTED = (
    "site-down",
    "errors",
    "slow",
    "disk",
    "database",
    "certificate",
    "backup-failed",
    "data-leak",
    "rollback",
    "after-a-rollback",
    "release-checklist",
    "migration-checklist",
    "smoke-list",
    "security-checklist",
    "reproduce",
    "incident-report",
    "on-call",
    "support",
    "responsibilities",
    "care",
    "go-live",
    "drills",
)


def check(command: str) -> str:
    """Why a command cannot be typed; empty when it can."""
    words = shlex.split(command)
    if words[0] == "backstay":
        try:
            _cli._parser().parse_args(words[1:])
        except SystemExit:
            return "backstay does not understand it"
        return ""
    if words[0] == "ansible-playbook":
        return check_playbook(words[1:])
    return "" if words[0] in SYSTEM else f"{words[0]} is no program that this test knows"


def check_playbook(words: list[str]) -> str:
    file = ROOT / words[0]
    if not file.is_file():
        return f"there is no {words[0]}"
    text = file.read_text(encoding="utf-8")
    header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    rest = iter(words[1:])
    for word in rest:
        if word == "-i":
            if not (ROOT / next(rest)).is_dir():
                return "there is no such inventory"
        elif word == "-e":
            given = next(rest)
            name = given.partition("=")[0]
            if "_raw_params" in parse_kv(given):
                return f"Ansible takes one word of {given}: write -e '{name}=\"...\"'"
            if not re.search(rf"\b{name}=", header) and not re.search(rf"`{name}=", GUIDE):
                return f"the variable {name} is documented neither in {file.name} nor in the operator's guide"
            if not re.search(rf"\b{name}\b", "".join(text_of(file))):
                return f"{file.name} does not read the variable {name}"
        elif word not in ("--check", "--diff", "-v"):
            return f"the option {word} is not known to this test"
    return ""


def text_of(file: Path) -> Iterator[str]:
    """A playbook and the tasks that it includes, without their comments."""
    for path in (file, *sorted((file.parent / "tasks").glob("*.yml"))):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        yield from (line for line in lines if not line.lstrip().startswith("#"))


@pytest.mark.parametrize("name", WANTED)
def test_each_runbook_is_there_and_in_the_index(name: str) -> None:
    index = (RUNBOOKS / "README.md").read_text(encoding="utf-8")
    assert (RUNBOOKS / f"{name}.md").is_file()
    assert f"]({name}.md" in index


def test_no_runbook_is_hidden() -> None:
    assert sorted(page.stem for page in RUNBOOKS.glob("*.md")) == sorted((*WANTED, "README"))


def test_commands_can_be_typed() -> None:
    wrong = [f"{page}: {command}: {why}" for page, command in (*fenced(), *inline()) if (why := check(command))]
    assert wrong == [], "\n".join(wrong)


def test_blocks_say_what_they_are() -> None:
    """A block without a language is a text to be copied; one with a command in it must not hide there."""
    wrong = [
        f"{page.name}: {line}"
        for page in PAGES
        for language, text in blocks(page)
        for line in text.splitlines()
        if language not in ("sh", "console")
        and re.match(r"(backstay|ansible-playbook|systemctl|journalctl) ", line.strip())
    ]
    assert wrong == [], "\n".join(wrong)


def test_there_are_commands_to_check() -> None:
    assert len(list(fenced())) > 80
    assert len(list(inline())) > 10


@pytest.mark.parametrize(
    "command",
    [
        "backstay restart",
        "backstay rollback --now",
        "ansible-playbook playbooks/no-such.yml",
        "ansible-playbook playbooks/health.yml -e no_such_variable=1",
        "ansible-playbook playbooks/health.yml -i inventories/nowhere",
        'ansible-playbook playbooks/release.yml -e why="ticket 123"',
        "rm -rf /opt",
    ],
)
def test_what_cannot_be_typed_is_seen(command: str) -> None:
    assert check(command) != ""


NIGHT = ("site-down", "errors", "slow", "disk", "database", "certificate", "backup-failed")


@pytest.mark.parametrize("name", NIGHT)
def test_a_runbook_of_the_night_has_its_five_parts_and_is_short(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings == ["First", "Decide", "Do", "Afterwards"]
    assert "**You see**" in text.split("## First")[0]
    assert len(text.splitlines()) <= 70


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("data-leak", "72 hours"),
        ("release-checklist", "**3 working days**"),
        ("release-checklist", "At least one release each quarter"),
        ("release-checklist", "Signed off by development"),
        ("release-checklist", "24 hours"),
        ("release-checklist", "Tracker closed"),
        ("release-checklist", "`X.Y.(Z+1)`"),
        ("support", "2 hours, round the clock"),
        ("support", "4 hours, in working hours"),
        ("support", "one working day"),
        ("support", "within **24 hours**"),
        ("support", "critical (P0)"),
        ("support", "Back to the roadmap"),
        ("support", "Close when the user says so"),
        ("on-call", "**Every line has a second person**"),
    ],
)
def test_what_was_promised_stands_there(page: str, said: str) -> None:
    assert said in (RUNBOOKS / f"{page}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("command", "looks"),
    [
        ("backstay status", True),
        ("backstay rollback --plan", True),
        ("backstay rollback", False),
        ("backstay backup --prune", False),
        ("backstay run python manage.py clearsessions", False),
        ("journalctl --no-pager --lines=3", True),
        ("journalctl --vacuum-size=200M", False),
        ("systemctl start nginx", False),
        ("nginx -t", True),
        ("ansible-playbook playbooks/health.yml", True),
        ("ansible-playbook playbooks/release.yml -e version=1.1.0 --check", True),
        ("ansible-playbook playbooks/release.yml -e version=1.1.0", False),
        ("ansible-playbook playbooks/site.yml", False),
    ],
)
def test_what_only_looks_is_told_from_what_does(command: str, looks: bool) -> None:
    assert Typed("x.md", command).looks_only is looks


def test_what_is_typed_on_the_controller_is_told_from_what_is_typed_on_a_host() -> None:
    assert Typed("x.md", "ansible-playbook playbooks/site.yml").on_controller
    assert not Typed("x.md", "backstay status").on_controller
