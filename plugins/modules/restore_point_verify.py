#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Prove that a restore point can be restored: a thin client of the host's own command."""

from __future__ import annotations

DOCUMENTATION = r"""
module: restore_point_verify
short_description: Prove that a restore point can be restored
version_added: 0.1.0
author:
  - Backstay contributors (@backstay)
description:
  - Asks C(backstay verify) on the host. What is live is not touched, and a restored copy never leaves its sandbox.
  - Fails when the restore point is not what its manifest says; the difference is in the message.

options:
  application:
    description: Name of the application.
    type: str
    required: true
  level:
    description: How far the proof goes.
    type: str
    choices:
      L1: It is listed and fresh.
      L2: Its structure is sound; manifest and seal are signed and belong together.
      L3: All its data were read back.
      L4: It was restored in isolation and is equal to its manifest.
      L5: The release that made it runs on the restored data and answers.
    default: L4
  point:
    description: V(latest), the id of a run, or a time; the newest restore point that is not younger is taken.
    type: str
    default: latest
  repository:
    description: The repository to take it from. Without it, the one where that was done longest ago.
    type: str
  offline_key:
    description:
      - Path on the host of the file that C(backstay escrow) wrote. With it the proof needs nothing else of the host
        that made the restore point; the application need not be declared here.
    type: path
  evidence:
    description:
      - Path on the host of the evidence that a drill on another host has written. Nothing is proven then; what was
        found is written down here, where C(backstay status) goes by it.
    type: path
attributes:
  check_mode:
    description: Proves just the same, as it changes nothing of the application.
    support: full
  diff_mode:
    description: It changes nothing of the application.
    support: none
seealso:
  - module: backstay.ops.backup
  - module: backstay.ops.restore
"""

EXAMPLES = r"""
- name: Restore the newest restore point in isolation and compare
  backstay.ops.restore_point_verify:
    application: audit-portal
"""

RETURN = r"""
run:
  description: Id of the restore point.
  type: str
  returned: when there is one
  sample: 20261121T081500123-814
repository:
  description: The repository it was taken from.
  type: str
  returned: when there is one
evidence:
  description: Where the evidence of the proof is on the host.
  type: str
  returned: when something was proven
level:
  description: The highest level that holds.
  type: int
  returned: when there is one
seconds:
  description: How long each level took.
  type: dict
  returned: when there is one
  sample: {"L1": 0.4, "L2": 0.9}
backstay_lines:
  description: The same for people, line by line; after a failure, what led to it.
  type: list
  elements: str
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.backstay.ops.plugins.module_utils._backup_client import ask


def main() -> None:
    """Translate the options into one command, and its JSON into a result."""
    module = AnsibleModule(
        argument_spec={
            "application": {"type": "str", "required": True},
            "level": {"type": "str", "choices": ["L1", "L2", "L3", "L4", "L5"], "default": "L4"},
            "point": {"type": "str", "default": "latest"},
            "repository": {"type": "str"},
            "offline_key": {"type": "path", "no_log": False},
            "evidence": {"type": "path"},
        },
        supports_check_mode=True,
    )
    given = module.params
    asked = ("level", "point", "repository", "offline_key", "evidence")
    ask(module, "verify", {key: given[key] for key in asked}, reads=True)


if __name__ == "__main__":
    main()
