#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Write down and sign what was proven live in a stage; the work is done by the action of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: promotion
short_description: Write down and sign that a payload was proven live in a stage
version_added: 0.1.0
author:
  - Backstay contributors (@backstay)
description:
  - Once every host of the play has confirmed a release in a stage before production, writes
    C(<application>-<version>.proven-<stage>.json) beside the payload on the controller and signs it. Hosts whose
    application's file says C(releases.promoted_from) release nothing without it.
  - It runs on the controller and contacts no host. Give it C(run_once).
options:
  state:
    description:
      - C(proven) writes down and signs what the hosts confirmed; nothing where a host of the inventory that runs the
        application had no part in the run (C(--limit)).
      - C(ready) only sees that the key is there, before anything is released.
    type: str
    choices: [ready, proven]
    default: proven
  application:
    description: The application as the lookup P(backstay.ops.application#lookup) gives it; it names its C(stage).
    type: dict
    required: true
  version:
    description: The version that was released.
    type: str
    required: true
  payload:
    description: The payload as the lookup P(backstay.ops.payload#lookup) gives it.
    type: dict
    required: true
  signing_key:
    description:
      - The private OpenSSH key of the controller, or its name where B(ssh-agent) holds it beside a C(.pub); without it
        C(signing_key) beside the inventory.
    type: path
  prefix:
    description: How the variables begin that the tasks of the release registered, C(prepared) and C(confirmed).
    type: str
    default: __release_
  by:
    description: Who released it.
    type: str
    default: ""
attributes:
  check_mode:
    description: Says whether it would write. Nothing is written or signed.
    support: full
  diff_mode:
    description: What is written is a statement of its own, not a change to one.
    support: none
seealso:
  - module: backstay.ops.release
"""

EXAMPLES = r"""
- name: Write down and sign that it was proven here
  backstay.ops.promotion:
    application: "{{ lookup('backstay.ops.application', 'audit-portal') }}"
    version: 1.1.0
    payload: "{{ lookup('backstay.ops.payload', 'audit-portal', '1.1.0') }}"
  run_once: true
"""

RETURN = r"""
statement:
  description: Path of the statement on the controller.
  returned: when the stage proves something
  type: str
backstay_lines:
  description: What was done, for people.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Only the controller knows all hosts of a play, and only it holds the key."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["ready", "proven"], "default": "proven"},
            "application": {"type": "dict", "required": True},
            "version": {"type": "str", "required": True},
            "payload": {"type": "dict", "required": True},
            "signing_key": {"type": "path", "no_log": False},
            "prefix": {"type": "str", "default": "__release_"},
            "by": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    module.fail_json(msg="promotion runs on the controller: call it as backstay.ops.promotion from a playbook.")


if __name__ == "__main__":
    main()
