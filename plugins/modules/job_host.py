#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""See to it that the scheduled commands of the applications of a host run at their time."""

from __future__ import annotations

DOCUMENTATION = r"""
module: job_host
short_description: See to it that the scheduled commands of the applications of a host run at their time
version_added: 0.1.0
author:
  - Backstay contributors (@backstay)
description:
  - For each job of C(schedules) of an application's file, sets up a timer of systemd or a line for cron. Exactly one
    of the two is active; changing C(schedules.scheduler) removes the other. A job that the file no longer has loses it.
  - Both start the same service, which runs the command in the environment and confinement of the live release, and
    writes down what became of it.
  - Runs no job. One that is new counts from then on, so nothing is made up for that was due before.
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
    description: Shows each file that changes, and names units.
    support: full
seealso:
  - module: backstay.ops.backup_host
"""

EXAMPLES = r"""
- name: Have the portal's commands run at their time
  backstay.ops.job_host:
    applications: "{{ query('backstay.ops.application', 'audit-portal') }}"
"""

RETURN = r"""
to_do:
  description: Whether anything is, or in check mode would be, done; for who asks first and acts later.
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

from ansible_collections.backstay.ops.plugins.module_utils._job_host import JobHost
from ansible_collections.backstay.ops.plugins.module_utils._module import conclude


def arrange(options: dict[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Plan, apply unless only asked what would happen, and say what changed. Raises BackstayError."""
    host = JobHost(options["applications"], adopt=options["adopt"] == "keep")
    planned = host.plan()
    lines = host.apply(planned) if planned.changed and not check_mode else ()
    return {
        "changed": planned.changed,
        "to_do": planned.changed,
        "diff": host.diff(planned),
        "backstay_lines": list(lines),
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
