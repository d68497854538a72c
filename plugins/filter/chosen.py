# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which application a verb is about."""

from __future__ import annotations

DOCUMENTATION = r"""
name: chosen
short_description: Which application a playbook is about
version_added: 0.1.0
author:
  - Backstay contributors (@backstay)
description:
  - The application that was named, or the only one there is.
options:
  _input:
    description: Names of the applications of a host.
    type: list
    elements: str
    required: true
  named:
    description: The name that was given, such as by C(-e app=audit-portal); empty when none was.
    type: str
    default: ""
positional: named
"""

EXAMPLES = r"""
- name: Choose
  ansible.builtin.debug:
    msg: "{{ ['audit-portal'] | backstay.ops.chosen('') }}"
"""

RETURN = r"""
_value:
  description: The name of one application.
  type: str
"""

from collections.abc import Callable, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError


def chosen(applications: Sequence[str], named: str = "") -> str:
    """The application meant. Raises AnsibleFilterError, naming those there are, when that is not clear."""
    known = ", ".join(applications) or "none (set backstay_applications in the inventory)"
    if named:
        if named not in applications:
            raise AnsibleFilterError(f"There is no application {named!r} in this inventory; there is: {known}.")
        return named
    if len(applications) != 1:
        raise AnsibleFilterError(f"Name the application with -e app=NAME; this inventory has: {known}.")
    return applications[0]


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"chosen": chosen}
