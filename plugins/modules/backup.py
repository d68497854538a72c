#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Back an application up now: a thin client of the host's own command."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup
short_description: Back an application up now
version_added: 0.1.0
author:
  - Backstay contributors (@backstay)
description:
  - Asks C(backstay backup) on the host for a restore point in every repository of the application, beside those that
    the schedule makes.
  - Fails where one repository could not be written; the others have the restore point then, and the message says which
    has not.

options:
  application:
    description: Name of the application.
    type: str
    required: true
  prune:
    description: Remove what retention no longer keeps from the repositories, and give the space back.
    type: bool
    default: false
  accept_shrink:
    description:
      - The data have become much smaller, and that is meant. Otherwise such a restore point holds retention back, so
        that no older one expires because of it.
    type: bool
    default: false
attributes:
  check_mode:
    description: Says what would be backed up, and where to; refuses what would be refused.
    support: full
  diff_mode:
    description: A backup changes nothing of the application.
    support: none
seealso:
  - module: backstay.ops.restore_point_verify
  - module: backstay.ops.restore
"""

EXAMPLES = r"""
- name: Back the portal up before something daring
  backstay.ops.backup:
    application: audit-portal
"""

RETURN = r"""
run:
  description: Id of the restore point.
  type: str
  returned: when one was made
  sample: 20261121T081500123-814
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
            "prune": {"type": "bool", "default": False},
            "accept_shrink": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    given = module.params
    ask(module, "backup", {key: given[key] for key in ("prune", "accept_shrink")})


if __name__ == "__main__":
    main()
