#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Let sshd take keys alone, until a second session confirms that one can still come in."""

from __future__ import annotations

DOCUMENTATION = r"""
module: sshd
short_description: Let sshd take keys alone, without locking anybody out
version_added: 0.1.0
author:
  - Backstay contributors (@backstay)
description:
  - Places a file in C(/etc/ssh/sshd_config.d) that sorts before all others, and makes sure that C(sshd -T) says the
    same. sshd is reloaded; sessions that are open stay.
  - Refuses when nobody could come in afterwards, because no administrator has a key on the host.
  - The change undoes itself after O(seconds) and at the next boot, unless O(state=confirmed) is asked for by a session
    over ssh that began after the change.
options:
  state:
    description: What is wanted.
    type: str
    choices:
      present: sshd takes keys alone; a change waits for its confirmation.
      confirmed: The change that waits is kept.
    default: present
  admins:
    description: People who administer the host; at least one of them, or whoever runs this, must have a key on it.
    type: list
    elements: str
    default: []
  root_login:
    description: Whether root may come in, with a key.
    type: str
    choices: ["no", prohibit-password]
    default: prohibit-password
  forwarding:
    description: Whether sessions may forward connections and agents.
    type: bool
    default: false
  seconds:
    description: After how many seconds a change undoes itself.
    type: int
    default: 60
attributes:
  check_mode:
    description: Says what would change, and refuses what would be refused.
    support: full
  diff_mode:
    description: Shows how the file changes.
    support: full
"""

EXAMPLES = r"""
- name: Let sshd take keys alone
  backstay.ops.sshd:
    admins: [ada]

- name: Come in anew
  ansible.builtin.meta: reset_connection

- name: Confirm
  backstay.ops.sshd:
    state: confirmed
"""

RETURN = r"""
backstay_lines:
  description: What a person should know, such as where a copy of a file edited by hand was kept.
  type: list
  elements: str
  returned: success
waits:
  description: Whether the change waits for its confirmation.
  type: bool
  returned: success
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.backstay.ops.plugins.module_utils._module import conclude
from ansible_collections.backstay.ops.plugins.module_utils._sshd import Door, Sshd


def close(options: dict[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Do what the state says, unless only asked what would happen. Raises BackstayError."""
    sshd = Sshd()
    if options["state"] == "confirmed":
        if not check_mode:
            sshd.confirm()
        return {"changed": False, "waits": check_mode}
    door = Door(root_login=options["root_login"], forwarding=options["forwarding"])
    verb, shown = sshd.planned(door, options["admins"])
    lines = sshd.place(door, seconds=options["seconds"]) if verb == "place" and not check_mode else ()
    return {
        "changed": verb == "place",
        "waits": verb == "confirm" or (verb == "place" and not check_mode),
        "diff": [{"prepared": shown}] if shown else [],
        "backstay_lines": list(lines),
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "confirmed"], "default": "present"},
            "admins": {"type": "list", "elements": "str", "default": []},
            "root_login": {"type": "str", "choices": ["no", "prohibit-password"], "default": "prohibit-password"},
            "forwarding": {"type": "bool", "default": False},
            "seconds": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    conclude(module, lambda: close(module.params, check_mode=module.check_mode))


if __name__ == "__main__":
    main()
