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
  - A repository that begins with a dot is taken from the directory of the file that names it.
  - Every problem is told before anything is touched.
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
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError


class LookupModule(LookupBase):
    """What Ansible asks for."""

    def run(self, terms: list[Any], variables: Any = None, **kwargs: Any) -> list[dict[str, Any]]:
        """One validated dictionary for each name. Raises AnsibleError with the one sentence that says what to do."""
        rooms = _rooms(variables or {})
        try:
            return [to_dict(_load(str(term), rooms)) for term in terms]
        except BackstayError as refused:
            raise AnsibleError(refused.message) from refused


def _rooms(variables: Mapping[str, Any]) -> list[Path]:
    """The directories beside the inventories of this run, in their order."""
    sources = [Path(str(source)) for source in variables.get("ansible_inventory_sources") or []]
    directories = [source if source.is_dir() else source.parent for source in sources]
    if variables.get("inventory_dir"):
        directories.append(Path(str(variables["inventory_dir"])))
    return list(dict.fromkeys(directory.resolve() / "applications" for directory in directories))


def _load(name: str, rooms: list[Path]) -> Application:
    file = next((room / f"{name}.yml" for room in rooms if (room / f"{name}.yml").is_file()), None)
    if file is None:
        looked = ", ".join(str(room) for room in rooms) or "no inventory"
        raise AnsibleError(
            f"The application {name!r} has no file {name}.yml in {looked}: write one, or correct the name."
        )
    data = _from(file, _read(file))
    for override in (room / f"{name}.override.yml" for room in rooms):
        if override.is_file():
            data = merge(data, _from(override, _read(override)))
    return parse(data, file=str(file))


def _read(file: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as broken:
        raise AnsibleError(f"{file} cannot be read: {broken}") from broken
    if not isinstance(data, dict):
        raise AnsibleError(f"{file} holds no mapping: describe one application in it, by keys.")
    return data


def _from(file: Path, data: dict[str, Any]) -> dict[str, Any]:
    """The data with a relative repository path made absolute, from the file that names it."""
    source = data.get("source")
    repository = source.get("repository") if isinstance(source, dict) else None
    if isinstance(source, dict) and isinstance(repository, str) and repository.startswith("."):
        return {**data, "source": {**source, "repository": str((file.parent / repository).resolve())}}
    return data
