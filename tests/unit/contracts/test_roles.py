"""A role's defaults, its argument specification and its README say the same.

Each test looks at all roles and lists what is wrong, so that it holds from the first role on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import readme_tables
import yaml

ROOT = Path(__file__).resolve().parents[3]

Options = dict[str, dict[str, Any]]


def defaults_text(role: Path) -> str:
    path = role / "defaults" / "main.yml"
    return path.read_text() if path.exists() else ""


def defaults(role: Path) -> dict[str, Any]:
    return yaml.safe_load(defaults_text(role)) or {}


def test_every_role_describes_its_arguments() -> None:
    missing = [role.name for role in readme_tables.roles() if "main" not in readme_tables.entry_points(role)]
    assert missing == [], "roles without meta/argument_specs.yml (entry point main)"


def test_defaults_are_those_of_the_specification() -> None:
    wrong = [
        f"{role.name}: {problem}"
        for role in readme_tables.roles()
        for problem in differences(readme_tables.options(role), defaults(role), defaults_text(role))
    ]
    assert wrong == [], "\n".join(wrong)


def is_template(value: object) -> bool:
    """A computed default cannot stand in a specification: its type is known only when it is evaluated."""
    return isinstance(value, str) and "{{" in value


def differences(options: Options, values: dict[str, Any], text: str) -> Iterator[str]:
    """Where defaults/main.yml and meta/argument_specs.yml disagree."""
    for name in values.keys() - options.keys():
        yield f"{name} is in defaults/main.yml and not in meta/argument_specs.yml"
    for name, option in options.items():
        if "default" in option:
            if option.get("required"):
                yield f"{name} is required and has a default"
            if name not in values:
                yield f"{name} has a default in meta/argument_specs.yml and none in defaults/main.yml"
            elif values[name] != option["default"]:
                yield f"{name} is {values[name]!r} in defaults/main.yml, {option['default']!r} in the specification"
        elif name in values and not is_template(values[name]):
            yield f"{name} has a value in defaults/main.yml and no default in meta/argument_specs.yml"
        elif name not in values and not re.search(rf"^# *{name}:", text, re.MULTILINE):
            yield f"{name} has no default: name it in a comment of defaults/main.yml, as `# {name}:`"


def test_the_comparison_finds_each_kind_of_difference() -> None:
    options: Options = {
        "a": {"default": 1},
        "b": {"default": 1},
        "c": {"required": True},
        "d": {},
        "e": {"required": True},
        "g": {"type": "dict"},
        "f": {"default": "x", "required": True},
    }
    found = sorted(
        differences(options, {"a": 2, "d": 0, "f": "x", "g": "{{ h | default({}) }}", "z": 1}, "# e: something\n")
    )
    assert [line.split()[0] for line in found] == ["a", "b", "c", "d", "f", "z"]


def test_every_option_is_named_after_its_role_and_described() -> None:
    wrong = [
        f"{role.name}: {problem}"
        for role in readme_tables.roles()
        for name, option in readme_tables.options(role).items()
        for problem in shortcomings(role.name, name, option)
    ]
    assert wrong == [], "\n".join(wrong)


def shortcomings(role: str, name: str, option: dict[str, Any]) -> Iterator[str]:
    if not name.startswith((f"{role}_", "backstay_")):
        yield f"{name} does not begin with {role}_ (or backstay_, for what all roles share)"
    if not option.get("description"):
        yield f"{name} has no description"
    if "type" not in option:
        yield f"{name} has no type"
    if option.get("type") == "list" and "elements" not in option:
        yield f"{name} is a list and does not say of what (elements)"


def test_readme_tables_are_current() -> None:
    stale = []
    for role in readme_tables.roles():
        current, wanted = readme_tables.current_and_wanted(role)
        if current != wanted:
            stale.append(role.name)
    assert stale == [], "READMEs of these roles are not current; run: make docs"


def test_every_role_has_a_molecule_scenario() -> None:
    scenarios, house = ROOT / "molecule", ROOT / "molecule" / "house" / "tests"
    missing = [
        role.name
        for role in readme_tables.roles()
        if not (scenarios / role.name).is_dir() and not (house / f"test_{role.name}.py").is_file()
    ]
    assert missing == [], "roles without molecule/<role>/ or molecule/house/tests/test_<role>.py"


def test_the_table_shows_nested_keys_choices_and_required(tmp_path: Path) -> None:
    role = tmp_path / "door"
    (role / "meta").mkdir(parents=True)
    (role / "meta" / "argument_specs.yml").write_text(
        """
argument_specs:
  main:
    options:
      door_kind: {type: str, required: true, choices: [oak, iron], description: What it is made of.}
      door_locks:
        type: list
        elements: dict
        default: []
        description: [Its locks., A | b.]
        options:
          key: {type: str, description: Opens it.}
"""
    )
    assert readme_tables.table(role).splitlines()[3:-1] == [
        "| `door_kind` | str | **required** | What it is made of. One of `oak`, `iron`. |",
        "| `door_locks` | list of dict | `[]` | Its locks. A \\| b. |",
        "| `door_locks[].key` | str | none | Opens it. |",
    ]
