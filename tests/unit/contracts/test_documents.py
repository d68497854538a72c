"""What the documents say is what the code does: the table of the application's file, the verbs, the playbooks."""

from __future__ import annotations

import re
from pathlib import Path

import application_keys

from ansible_collections.backstay.ops.plugins.module_utils import _cli

ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs" / "operator-guide.md").read_text(encoding="utf-8")


def test_every_key_of_the_applications_file_is_in_the_guide_as_it_is_in_the_schema() -> None:
    assert application_keys.wanted_guide(GUIDE) == GUIDE, "run: python tools/application_keys.py"


def test_every_verb_of_the_host_is_in_the_guide() -> None:
    parser = _cli._parser()
    verbs = set(next(action.choices for action in parser._actions if isinstance(action.choices, dict)))
    missing = sorted(verb for verb in verbs - {"transaction"} if f"backstay {verb}" not in GUIDE)
    assert missing == [], "docs/operator-guide.md does not show these verbs of the command"


def test_every_playbook_is_in_the_guide() -> None:
    missing = sorted(file.name for file in (ROOT / "playbooks").glob("*.yml") if file.name not in GUIDE)
    assert missing == [], "docs/operator-guide.md does not show these playbooks"


def test_every_file_of_the_library_is_on_the_map() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `(_\w+\.py)` \|", text, re.MULTILINE))
    there = {file.name for file in (ROOT / "plugins" / "module_utils").glob("_*.py")}
    assert sorted(there - named) == [], "docs/architecture.md has no line for these files"
    assert sorted(named - there) == [], "docs/architecture.md names files that are not there"
