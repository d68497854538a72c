#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Write the one-look page of all hosts of a play; the work is done by the action of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: status_page
short_description: Write the one-look page of all hosts of a play, on the controller
version_added: 0.1.0
author:
  - Backstay contributors (@backstay)
description:
  - Makes the page, its JSON and its text from what M(backstay.ops.status_facts) registered on each host. It
    contacts none of them. Give it C(run_once).
  - A host that could not be reached is on the page as such, with the applications that the inventory puts there.
options:
  asked:
    description: The name of the variable in which each host registered what it was asked.
    type: str
    required: true
  directory:
    description: Where C(status.html) and C(status.json) are written, on the controller. It is made where it is missing.
    type: path
    required: true
  title:
    description: Whose hosts these are, for the page.
    type: str
    default: ""
  runbooks:
    description: Where runbooks are read; their links begin with it. Without it, their files are named.
    type: str
    default: ""
  fail_on:
    description: From which verdict on the task fails, once the page is written.
    type: str
    choices: [never, yellow, grey, red]
    default: never
attributes:
  check_mode:
    description: Tells and writes nothing.
    support: full
  diff_mode:
    description: Shows no difference.
    support: none
seealso:
  - module: backstay.ops.status_facts
"""

EXAMPLES = r"""
- name: Write the page
  backstay.ops.status_page:
    asked: my_asked
    directory: /srv/status
    title: production
  run_once: true
"""

RETURN = r"""
verdict:
  description: The worst row as C(state), C(exit_code) (0 well, 1 look, 2 act now, 3 unknown) and C(sentence).
  type: dict
  returned: success
needs:
  description: What somebody must do, at most five, the most urgent first.
  type: list
  elements: dict
  returned: success
files:
  description: What was written.
  type: list
  elements: str
  returned: success
backstay_lines:
  description: The page in at most twenty lines.
  type: list
  elements: str
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Only the action knows all hosts."""
    module = AnsibleModule(
        argument_spec={
            "asked": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "title": {"type": "str", "default": ""},
            "runbooks": {"type": "str", "default": ""},
            "fail_on": {"type": "str", "choices": ["never", "yellow", "grey", "red"], "default": "never"},
        },
        supports_check_mode=True,
    )
    module.fail_json(msg="Run this as the task backstay.ops.status_page: its work is done on the controller.")


if __name__ == "__main__":
    main()
