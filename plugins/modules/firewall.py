#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Let only declared ports answer, until a second session confirms that one can still come in."""

from __future__ import annotations

DOCUMENTATION = r"""
module: firewall
short_description: Let only declared ports of a host answer, without locking anybody out
version_added: 0.1.0
author:
  - Backstay contributors (@backstay)
description:
  - Rules of nftables in one table of our own, replaced in one step; the tables of others stay as they are. The ports
    of sshd are always open. A port that Docker publishes is closed as well, unless it is declared.
  - New rules hold in the kernel only, and undo themselves after O(seconds) and at the next boot, unless
    O(state=confirmed) is asked for by a session over ssh that began after the change. Only then do they hold at boot.
options:
  state:
    description: What is wanted.
    type: str
    choices:
      present: The rules hold; new ones wait for their confirmation.
      confirmed: The rules that wait are kept.
      absent: Every port answers, as if there had never been a firewall of ours.
    default: present
  ports:
    description: The ports that answer, beside those of sshd.
    type: list
    elements: dict
    default: []
    suboptions:
      port:
        description: Number of the port.
        type: int
        required: true
      protocol:
        description: Its protocol.
        type: str
        choices: [tcp, udp]
        default: tcp
      sources:
        description: Addresses and networks that it answers to; none means everybody.
        type: list
        elements: str
        default: []
      why:
        description: What it is for; stands beside its rule.
        type: str
        default: ""
  ssh_sources:
    description: Addresses and networks that sshd answers to; none means everybody. Your own must be among them.
    type: list
    elements: str
    default: []
  seconds:
    description: After how many seconds new rules undo themselves.
    type: int
    default: 60
attributes:
  check_mode:
    description: Says what would change, and refuses what would be refused. nft does not check the rules.
    support: full
  diff_mode:
    description: Shows how the rules change.
    support: full
"""

EXAMPLES = r"""
- name: Let only the web answer
  backstay.ops.firewall:
    ports:
      - {port: 80, why: http}
      - {port: 443, why: https}
  register: firewall

- name: Come in anew
  ansible.builtin.meta: reset_connection

- name: Confirm
  backstay.ops.firewall:
    state: confirmed
"""

RETURN = r"""
backstay_lines:
  description: What a person should know, such as where a copy of a file edited by hand was kept.
  type: list
  elements: str
  returned: success
waits:
  description: Whether the rules wait for their confirmation.
  type: bool
  returned: success
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.backstay.ops.plugins.module_utils._firewall import Firewall, policy
from ansible_collections.backstay.ops.plugins.module_utils._module import conclude


def shut(options: dict[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Do what the state says, unless only asked what would happen. Raises BackstayError."""
    firewall = Firewall()
    if options["state"] == "absent":
        live = firewall.live()
        there = live.listing is not None or live.file is not None
        return {"changed": there if check_mode else firewall.remove(), "waits": False}
    if options["state"] == "confirmed":
        lines = () if check_mode else firewall.confirm()
        return {"changed": False, "waits": check_mode, "backstay_lines": list(lines)}
    wanted = policy(options["ports"], firewall.ssh_ports(), options["ssh_sources"])
    verb, shown = firewall.planned(wanted)
    if verb == "load" and not check_mode:
        firewall.load(wanted, seconds=options["seconds"])
    diff = [{"prepared": shown}] if shown else []
    return {
        "changed": verb == "load",
        "waits": verb == "confirm" or (verb == "load" and not check_mode),
        "diff": diff,
    }


def main() -> None:
    port = {
        "port": {"type": "int", "required": True},
        "protocol": {"type": "str", "choices": ["tcp", "udp"], "default": "tcp"},
        "sources": {"type": "list", "elements": "str", "default": []},
        "why": {"type": "str", "default": ""},
    }
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "confirmed", "absent"], "default": "present"},
            "ports": {"type": "list", "elements": "dict", "default": [], "options": port},
            "ssh_sources": {"type": "list", "elements": "str", "default": []},
            "seconds": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    conclude(module, lambda: shut(module.params, check_mode=module.check_mode))


if __name__ == "__main__":
    main()
