#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""See to it that the applications of a host are backed up at their time."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_host
short_description: See to it that the applications of a host are backed up at their time
version_added: 0.1.0
author:
  - Backstay contributors (@backstay)
description:
  - For each application whose file has C(backup), makes the key that signs its manifests where there is none, makes and
    checks the directories of its local repositories, and sets up systemd's timers or cron. Exactly one of the two is
    active; changing C(backup.scheduler) removes the other.
  - An application whose file has no C(backup) is taken off the schedule. Its repositories and its key stay.
  - Makes no backup and opens no repository.
  - A local repository must be on another file system than the data, unless C(own_disk) of it is V(false).
options:
  applications:
    description: The applications, as the lookup P(backstay.ops.application#lookup) returns them.
    type: list
    elements: dict
    required: true
  adopt:
    description: What to do with a file in the way that Backstay did not write.
    type: str
    choices:
      refuse: Change nothing and name it.
      keep: Keep a dated copy in C(/var/lib/backstay/replaced/) and take it over.
    default: refuse
attributes:
  check_mode:
    description: Says what would change, and refuses what would be refused.
    support: full
  diff_mode:
    description: Shows each file of the schedule that changes, and names keys, directories and units.
    support: full
seealso:
  - module: backstay.ops.backup
"""

EXAMPLES = r"""
- name: Have the portal backed up
  backstay.ops.backup_host:
    applications: "{{ query('backstay.ops.application', 'audit-portal') }}"
"""

RETURN = r"""
to_do:
  description: Whether anything is, or in check mode would be, changed, or buckets asked for rules of their own.
  type: bool
  returned: success
backstay_lines:
  description: What a person should know, such as the copies kept of what others wrote.
  type: list
  elements: str
  returned: success
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.backstay.ops.plugins.module_utils._backup_host import BackupHost
from ansible_collections.backstay.ops.plugins.module_utils._module import conclude
from ansible_collections.backstay.ops.plugins.module_utils._transaction import utc_now


def arrange(options: dict[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Plan, apply unless only asked what would happen, and say what changed. Raises BackstayError."""
    host = BackupHost(options["applications"], adopt=options["adopt"] == "keep")
    planned = host.plan()
    lines = host.apply(planned) if planned.changed and not check_mode else ()
    told = () if check_mode else host.ask_buckets(utc_now())
    return {
        "changed": planned.changed,
        "to_do": planned.changed or host.has_buckets,
        "diff": host.diff(planned),
        "backstay_lines": [*lines, *told],
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "applications": {"type": "list", "elements": "dict", "required": True},
            "adopt": {"type": "str", "choices": ["refuse", "keep"], "default": "refuse"},
        },
        supports_check_mode=True,
    )
    conclude(module, lambda: arrange(module.params, check_mode=module.check_mode))


if __name__ == "__main__":
    main()
