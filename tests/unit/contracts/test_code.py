"""What every room promises the others: dependencies point down, contracts are written, nothing is silenced."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
LIBRARY = "ansible_collections.backstay.ops.plugins.module_utils"
LONGEST_PLAYBOOK = 60


def files(*patterns: str) -> list[Path]:
    """What git keeps, or would keep, of these patterns."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = [ROOT / name for name in listed.split("\0") if name]
    return [path for path in found if path.is_file() and not path.is_symlink()]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Each imported module of a Python file, with its line; a relative one begins with a dot."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")


def test_the_library_knows_only_the_standard_library_and_itself() -> None:
    wrong = [
        f"{name_of(path)}:{line}: imports {module}"
        for path in files("plugins/module_utils/*.py")
        for line, module in imports(path)
        if not module.startswith(".")
        and module.split(".")[0] not in sys.stdlib_module_names
        # The agent runs inside the application's own interpreter, where Django is.
        and not (path.name == "_django_agent.py" and module.split(".")[0] == "django")
    ]
    assert wrong == [], "\n".join(wrong)


def test_the_library_is_one_flat_private_package() -> None:
    wrong = [
        name_of(path)
        for path in files("plugins/module_utils/*.py")
        if path.parent.name != "module_utils" or not path.name.startswith("_")
    ]
    assert wrong == [], "files of the library lie flat and begin with an underscore"


def test_modules_know_only_ansible_and_the_library() -> None:
    allowed = ("ansible.module_utils", LIBRARY)
    wrong = [
        f"{name_of(path)}:{line}: imports {module}"
        for path in files("plugins/modules/*.py")
        for line, module in imports(path)
        if not module.startswith(allowed) and module.split(".")[0] not in sys.stdlib_module_names
    ]
    assert wrong == [], "\n".join(wrong)


def documentation(path: Path) -> dict[str, Any]:
    """The DOCUMENTATION of a module, with the fragments of this collection merged in."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "DOCUMENTATION":
            document: dict[str, Any] = yaml.safe_load(ast.literal_eval(node.value))
            break
    else:
        return {}
    fragments = document.get("extends_documentation_fragment") or []
    for fragment in [fragments] if isinstance(fragments, str) else fragments:
        source = ROOT / "plugins/doc_fragments" / f"{fragment.removeprefix('backstay.ops.').split('.')[0]}.py"
        if fragment.startswith("backstay.ops.") and source.exists():
            for node in ast.walk(ast.parse(source.read_text())):
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                    part = yaml.safe_load(str(node.value.value))
                    if isinstance(part, dict) and "attributes" in part:
                        document["attributes"] = part["attributes"] | document.get("attributes", {})
    return document


@pytest.mark.parametrize("attribute", ["check_mode", "diff_mode"])
def test_every_module_says_what_it_does_in(attribute: str) -> None:
    silent = [
        name_of(path)
        for path in files("plugins/modules/*.py")
        if "support" not in documentation(path).get("attributes", {}).get(attribute, {})
    ]
    assert silent == [], f"modules whose DOCUMENTATION lacks attributes.{attribute}.support"


def test_every_module_says_whether_it_supports_check_mode() -> None:
    silent = [name_of(path) for path in files("plugins/modules/*.py") if "supports_check_mode=" not in path.read_text()]
    assert silent == [], "modules without supports_check_mode in their AnsibleModule"


def test_playbooks_are_thin() -> None:
    long = [
        f"{name_of(path)}: {count} lines"
        for path in files("playbooks/*.yml")
        if (count := len(path.read_text().splitlines())) > LONGEST_PLAYBOOK
    ]
    assert long == [], f"playbooks of more than {LONGEST_PLAYBOOK} lines: the logic belongs in a role or a module"


def test_playbooks_decide_nothing() -> None:
    wrong = [name_of(path) for path in files("playbooks/*.yml") if re.search(r"\bset_fact:", path.read_text())]
    assert wrong == [], "playbooks with set_fact"


SILENCERS = {
    r"ignore_errors:": ("*.yml", "*.yaml"),
    r"failed_when: *false\b": ("*.yml", "*.yaml"),
    r"(skip_list|warn_list):": (".ansible-lint", "*.yml"),
    r"# *noqa(?!: *[A-Z]+[0-9]+.* [-#] )": ("*.py", "lab/lab"),
    r"# *type: *ignore(?!\[[a-z-]+\].* [-#] )": ("*.py", "lab/lab"),
    r"# *ruff: *noqa|# *mypy: *ignore": ("*.py",),
    r"# *pylint: *disable": ("plugins/*.py",),
    r"pytest\.(mark\.)?(skip|skipif|xfail|importorskip)\b": ("tests/*.py", "molecule/*.py"),
}


@pytest.mark.parametrize("pattern", SILENCERS)
def test_nothing_is_silenced(pattern: str) -> None:
    wrong = [
        f"{name_of(path)}:{number}: {line.strip()}"
        for path in files(*SILENCERS[pattern])
        if path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if re.search(pattern, line)
    ]
    assert wrong == [], "\n".join(["a failure hidden, or a rule ignored without its name and a reason:", *wrong])


def test_sanity_ignores_nothing() -> None:
    assert [name_of(path) for path in files("tests/sanity/ignore*")] == []
