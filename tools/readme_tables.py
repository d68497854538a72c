"""Write the table of a role's variables into its README, from its meta/argument_specs.yml.

    python tools/readme_tables.py           write them
    python tools/readme_tables.py --check   only say which are not current

The table stands between the two marker lines below; the rest of the README is for people.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
BEGIN = "<!-- variables: generated from meta/argument_specs.yml by `make docs` -->"
END = "<!-- end of variables -->"


def roles() -> list[Path]:
    """The directories of all roles, sorted."""
    return sorted(path for path in (ROOT / "roles").glob("*") if path.is_dir())


def entry_points(role: Path) -> dict[str, dict[str, Any]]:
    """The role's argument specifications by entry point; empty where it has none."""
    path = role / "meta" / "argument_specs.yml"
    document = yaml.safe_load(path.read_text()) if path.exists() else None
    specifications: dict[str, dict[str, Any]] = (document or {}).get("argument_specs") or {}
    return specifications


def options(role: Path) -> dict[str, dict[str, Any]]:
    """Every variable of the role, whichever entry point takes it."""
    merged: dict[str, dict[str, Any]] = {}
    for specification in entry_points(role).values():
        merged |= specification.get("options") or {}
    return merged


def rows(described: Mapping[str, Mapping[str, Any]], prefix: str = "") -> Iterator[str]:
    """One row per variable; the keys of a dictionary follow it, with its name before theirs."""
    for name, option in described.items():
        kind = str(option.get("type", "str"))
        if kind == "list" and "elements" in option:
            kind = f"list of {option['elements']}"
        text = option.get("description", "")
        sentences = text if isinstance(text, str) else " ".join(map(str, text))
        if "choices" in option:
            sentences += " One of " + ", ".join(f"`{choice}`" for choice in option["choices"]) + "."
        cells = [f"`{prefix}{name}`", kind, default_of(option), " ".join(sentences.split()).replace("|", "\\|")]
        yield f"| {' | '.join(cells)} |"
        if inner := option.get("options"):
            yield from rows(inner, f"{prefix}{name}{'[]' if option.get('type') == 'list' else ''}.")


def default_of(option: Mapping[str, Any]) -> str:
    """What stands in the column of defaults."""
    if option.get("required"):
        return "**required**"
    if "default" not in option:
        return "none"
    value = option["default"]
    written = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return f"`{written}`".replace("|", "\\|")


def table(role: Path) -> str:
    """The generated part of the role's README, markers included."""
    described = options(role)
    body = ["| variable | type | default | meaning |", "|---|---|---|---|", *rows(described)]
    return "\n".join([BEGIN, *(body if described else ["This role takes no variables."]), END])


def current_and_wanted(role: Path) -> tuple[str, str]:
    """The role's README as it is, and as it should be."""
    readme = role / "README.md"
    text = readme.read_text() if readme.exists() else f"# {role.name}\n"
    if BEGIN in text and END in text:
        before, _begin, rest = text.partition(BEGIN)
        _table, _end, after = rest.partition(END)
        return text, f"{before}{table(role)}{after}"
    return text, f"{text.rstrip()}\n\n## Variables\n\n{table(role)}\n"


def main(arguments: list[str]) -> int:
    """Write or check all tables; exit code 1 when a check found one that is not current."""
    stale = []
    for role in roles():
        current, wanted = current_and_wanted(role)
        if current != wanted or not (role / "README.md").exists():
            stale.append(role)
            if "--check" not in arguments:
                (role / "README.md").write_text(wanted)
                print(f"wrote roles/{role.name}/README.md")
    if stale and "--check" in arguments:
        print(f"not current: {', '.join(role.name for role in stale)}. Run: make docs")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
