# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Load an application's file, validated, from beside the inventory."""

from __future__ import annotations

DOCUMENTATION = r"""
name: application
short_description: Load the file that describes an application
version_added: 0.1.0
author:
  - Backstay contributors (@backstay)
description:
  - Reads C(applications/<name>.yml) from beside the inventory, lets C(applications/<name>.override.yml) of the same or
    of any other inventory of the run override keys, validates the whole, and fills in the defaults.
  - A repository that begins with a dot is taken from the directory of the file that names it. So is
    C(environment.example), an C(.env.example) whose every key the application's file must then know.
  - Every problem of a file is told at once, before anything is touched.
options:
  _terms:
    description: Names of applications.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Show the domain
  ansible.builtin.debug:
    msg: "{{ lookup('backstay.ops.application', 'audit-portal').domain }}"
"""

RETURN = r"""
_raw:
  description: One dictionary for each name, complete and valid.
  type: list
  elements: dict
"""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

from ansible_collections.backstay.ops.plugins.module_utils._application import (
    Application,
    merge,
    parse,
    to_dict,
)
from ansible_collections.backstay.ops.plugins.module_utils._environment import missing_from_example
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, InputError


class LookupModule(LookupBase):
    """What Ansible asks for."""

    def run(self, terms: list[Any], variables: Any = None, **kwargs: Any) -> list[dict[str, Any]]:
        """One validated dictionary for each name. Raises AnsibleError with the one sentence that says what to do."""
        rooms = _rooms(variables or {})
        try:
            return [to_dict(_load(str(term), rooms)) for term in terms]
        except BackstayError as refused:
            raise AnsibleError("\n".join([refused.message, *refused.lines[1:]])) from None


def _rooms(variables: Mapping[str, Any]) -> list[Path]:
    """The directories beside the inventories of this run, in their order."""
    sources = [Path(str(source)) for source in variables.get("ansible_inventory_sources") or []]
    directories = [source if source.is_dir() else source.parent for source in sources]
    if variables.get("inventory_dir"):
        directories.append(Path(str(variables["inventory_dir"])))
    return list(dict.fromkeys(directory.resolve() / "applications" for directory in directories))


def _load(name: str, rooms: list[Path]) -> Application:
    file = _file(name, rooms)
    data = _from(file, _read(file))
    for override in (room / f"{name}.override.yml" for room in rooms):
        if override.is_file():
            data = merge(data, _from(override, _read(override)))
    application = parse(data, file=str(file))
    if application.name != name:
        raise InputError(f"`name` in {file} is {application.name!r}: the file must be called after it, so rename one.")
    _check_example(application, file)
    return application


def _file(name: str, rooms: list[Path]) -> Path:
    """The one file that describes an application."""
    found = [room / f"{name}.yml" for room in rooms if (room / f"{name}.yml").is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(
            f"{name} is described twice, in {found[0]} and in {found[1]}: keep one, and call the other "
            f"{name}.override.yml with the keys that differ."
        )
    known = {file.stem for room in rooms for file in room.glob("*.yml") if not file.stem.endswith(".override")}
    near = get_close_matches(name, known, n=1)
    remedy = f"did you mean {near[0]}?" if near else "write one, or correct the name."
    looked = ", ".join(str(room) for room in rooms) or "no inventory"
    raise InputError(f"The application {name!r} has no file {name}.yml in {looked}: {remedy}")


class _Loader(yaml.SafeLoader):
    """YAML in which a key may be there once only; Ansible would let the last one win."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _unused in node.value:
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else key_node
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is there twice", key_node.start_mark)
        seen.add(key)
    return dict(loader.construct_mapping(node, deep=True))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _read(file: Path) -> dict[str, Any]:
    """Raises InputError for what is no YAML, no mapping, or has a key twice."""
    try:
        data = _Loader(file.read_text(encoding="utf-8")).get_single_data()
    except (OSError, UnicodeDecodeError) as broken:
        raise InputError(f"{file} cannot be read ({broken}): correct it.") from None
    except yaml.MarkedYAMLError as broken:
        mark = broken.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InputError(f"{file} is no good YAML, {broken.problem or broken.context}{where}: correct it.") from None
    except (yaml.YAMLError, ValueError) as broken:
        raise InputError(f"{file} is no good YAML, {str(broken).splitlines()[0]}: correct it.") from None
    if not isinstance(data, dict):
        raise InputError(f"{file} holds no mapping: describe one application in it, by keys.")
    return data


def _from(file: Path, data: dict[str, Any]) -> dict[str, Any]:
    """The data with relative paths made absolute, from the file that names them."""
    for section, key in (("source", "repository"), ("environment", "example")):
        inner = data.get(section)
        path = inner.get(key) if isinstance(inner, dict) else None
        if isinstance(inner, dict) and isinstance(path, str) and path.startswith("."):
            data = {**data, section: {**inner, key: str((file.parent / path).resolve())}}
    return data


def _check_example(application: Application, file: Path) -> None:
    """Raises InputError for keys that the `.env.example` names and the application's file does not know."""
    if application.environment.example is None:
        return
    example = file.parent / application.environment.example
    try:
        text = example.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InputError(
            f"`environment.example` in {file} names {example}, which cannot be read: correct the path, or remove it."
        ) from None
    missing = missing_from_example(application, text, file=str(example))
    if missing:
        raise InputError(
            f"{example} names {', '.join(missing)}, which {file} does not: add each to environment.values, "
            "or to environment.secret."
        )
