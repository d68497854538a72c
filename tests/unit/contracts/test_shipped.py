"""What a document of the collection tells people to type is installed with it, or is said to be of the checkout."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
# Rooms with what is typed: programs, playbooks, and what they are given. Of the others the documents only tell.
TYPED = re.compile(r"(?<![\w./<>~-])(?:examples|inventories|lab|playbooks|runner|tools)/[\w./<>*-]+")
SAID = re.compile(r"\b(?:from|in|of|to) (?:a|the|this) checkout\b|\bcheckout's\b", re.IGNORECASE)


def tree() -> list[str]:
    """The files of this checkout that are its own: what git knows, or would with the next commit."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def shipped(names: list[str]) -> set[str]:
    """Those that galaxy.yml ships, by the directives that it uses."""
    found: set[str] = set()
    for directive in yaml.safe_load((ROOT / "galaxy.yml").read_text())["manifest"]["directives"]:
        verb, *words = directive.split()
        if verb == "include":
            found |= {name for name in names if name in words}
        elif verb == "recursive-include":
            below = [name for name in names if name.startswith(f"{words[0]}/")]
            found |= {name for name in below if any(fnmatch(Path(name).name, word) for word in words[1:])}
        elif verb == "global-exclude":
            found -= {name for name in names if any(fnmatch(Path(name).name, word) for word in words)}
        else:
            raise AssertionError(f"This test does not know the directive {verb}: teach it.")
    return found


NAMES = tree()
SHIPPED = shipped(NAMES)
# The contributor's page is about the checkout, as its first lines show.
DOCUMENTS = sorted(name for name in SHIPPED if name.endswith(".md") and name != "CONTRIBUTING.md")


def sections(text: str) -> Iterator[tuple[str, str]]:
    """Each section of a document, with the words that hold for it too: those above the first heading below each of
    the headings that it is under."""
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    above: list[tuple[int, str]] = []
    fenced, level, lines = False, 0, list[str]()
    for line in [*text.splitlines(), "# "]:
        fenced ^= line.lstrip().startswith("```")
        heading = None if fenced else re.match(r"(#+) ", line)
        if heading is None:
            lines.append(line)
            continue
        above = [*(each for each in above if each[0] < level), (level, "\n".join(lines))]
        yield above[-1][1], "\n".join(words for _level, words in above)
        level, lines = len(heading[1]), [line]


def typed(section: str) -> Iterator[str]:
    """The paths in its code blocks and in its code."""
    blocks = re.findall(r"^```.*?^```|^(?: {4}.*\n?)+", section, re.MULTILINE | re.DOTALL)
    code = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", section, flags=re.MULTILINE | re.DOTALL))
    for words in (*blocks, *code):
        # An inventory that is given to a command is whose who types it.
        for path in TYPED.findall(re.sub(r"(?:-i|make_secrets\.py) inventories/\S+", "", words)):
            yield path.rstrip("./")


def wrong(text: str) -> list[str]:
    """Each path that a reader of the installed collection would look for in vain."""
    found = []
    for section, words in sections(text):
        for path in typed(section):
            if re.search(r"[<>*]", path) or path in SHIPPED:
                continue
            there = (ROOT / path).exists()
            mine = path.split("/")[0] in ("inventories", "runner") and not there
            if not there and not mine:
                found.append(f"{path}: there is no such file")
            elif there and not SAID.search(words):
                found.append(
                    f"{path}: is not shipped; ship it (`manifest:` in galaxy.yml), or say that it is of the checkout"
                )
    return found


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_a_shipped_document_tells_to_type_is_there(name: str) -> None:
    assert wrong((ROOT / name).read_text(encoding="utf-8")) == [], name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Run `python tools/make_secrets.py inventories/mine`.", ""),
        ("Run `tools/ci.py site`.", "tools/ci.py: is not shipped"),
        (
            "Run it.\n\n    .venv/bin/python tools/ci.py build -i inventories/production\n",
            "tools/ci.py: is not shipped",
        ),
        ("```\ncp -r inventories/example inventories/mine\n```\n", "inventories/example: is not shipped"),
        ("From a checkout `tools/ci.py site` does it.", ""),
        ("# CI\nIt is of the checkout.\n\n## Cancelled\n`tools/ci.py undo`\n", ""),
        ("# CI\n## Here\nIn the checkout.\n## There\n`tools/ci.py undo`\n", "tools/ci.py: is not shipped"),
        ("# CI\n## Here\n### Deep\n`tools/ci.py`\n## There\nIn the checkout.\n", "tools/ci.py: is not shipped"),
        ("`ansible-playbook playbooks/relaese.yml`", "playbooks/relaese.yml: there is no such file"),
        ("<!-- made by `python tools/bench_table.py` -->", ""),
        ("`playbooks/release.yml -i inventories/example`, and `~/x/tools/ci.py`", ""),
    ],
)
def test_this_test_sees_what_is_missing(text: str, said: str) -> None:
    found = wrong(text)
    assert len(found) == bool(said), found
    assert "".join(found).startswith(said)


def test_both_tools_that_every_build_needs_are_shipped() -> None:
    assert {name for name in SHIPPED if name.startswith("tools/")} == {
        "tools/import_environment.py",
        "tools/make_secrets.py",
    }
