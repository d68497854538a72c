#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Go back to the release before: a thin client of the transaction's service on the host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rollback
short_description: Go back to the release before, at once
version_added: 0.1.0
author:
  - Backstay contributors (@backstay)
description:
  - Goes to the newest release before the live one that was live and proven and is neither failed nor withdrawn, or to a
    named one. It is warm, so this is one rename; no network, no build and no start of a process lie in the way.
  - The release left behind becomes withdrawn; a second rollback goes one further back.
options:
  application:
    description: Name of the application.
    type: str
    required: true
  to:
    description: Release id or version to go to, instead of the one before.
    type: str
  reverse:
    description:
      - Where the release gone to cannot live with migrations made since, close the door, reverse them, and open it
        again. Without it such a rollback is refused.
    type: bool
    default: false
  force:
    description: Go also to a release that does not answer well.
    type: bool
    default: false
  state:
    description: Which phase to reach.
    type: str
    choices:
      prepared: The release gone to runs and is well.
      closed: The door is closed and data are changed, where O(reverse) needs it; nothing otherwise.
      flipped: It serves every new request.
      confirmed: Written down as live.
      live: All of it in one call, as for a single host.
      aborted: Undone; where no transaction is open nothing happens.
    default: live
  transaction:
    description:
      - The RV(transaction) that O(state=prepared) returned, for the states after it. Only that one is touched. Empty
        means that nothing was prepared; then nothing happens.
    type: str
  run:
    description:
      - What the hosts of one run have in common, as M(backstay.ops.fleet) returns it. It goes into the ledger, and
        tells C(recover) which hosts belong together.
    type: str
  by:
    description: Who rolls back; goes into the ledger.
    type: str
    default: ""
  why:
    description: Why; goes into the ledger.
    type: str
    default: ""
attributes:
  check_mode:
    description: Says where it would go, whether that release is warm, and which migrations stay.
    support: full
  diff_mode:
    description: Shows which release is live before and after.
    support: full
seealso:
  - module: backstay.ops.release
"""

EXAMPLES = r"""
- name: Go back
  backstay.ops.rollback:
    application: audit-portal
    why: errors after the release

- name: Go to a named release
  backstay.ops.rollback:
    application: audit-portal
    to: 0003-1.0.0
"""

RETURN = r"""
transaction:
  description: Id of the transaction.
  type: str
  returned: when something was done
release:
  description: Id of the release that is live now.
  type: str
  returned: success
  sample: 0003-1.0.0
previous:
  description: Id of the release left behind.
  type: str
  returned: success
seconds:
  description: Time of all steps.
  type: float
  returned: success
steps:
  description: What was done, with seconds and a detail for each step.
  type: list
  elements: dict
  returned: success
backstay_lines:
  description: The same for people.
  type: list
  elements: str
  returned: always
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.backstay.ops.plugins.module_utils._module import conclude
from ansible_collections.backstay.ops.plugins.module_utils._release_client import ask

ARGUMENTS: dict[str, Any] = {
    "application": {"type": "str", "required": True},
    "to": {"type": "str"},
    "reverse": {"type": "bool", "default": False},
    "force": {"type": "bool", "default": False},
    "state": {
        "type": "str",
        "choices": ["prepared", "closed", "flipped", "confirmed", "live", "aborted"],
        "default": "live",
    },
    "transaction": {"type": "str"},
    "run": {"type": "str"},
    "by": {"type": "str", "default": ""},
    "why": {"type": "str", "default": ""},
}


def request(options: dict[str, Any]) -> dict[str, Any]:
    """What the service is asked for, from the module's options."""
    wanted = {name: options[name] for name in ("reverse", "force", "by", "why")}
    asked = {"operation": "rollback", "target": options["to"], **wanted}
    return {**asked, "run": options["run"]} if options["run"] else asked


def reach(options: dict[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Have the service bring the application to the state asked for."""
    return ask(
        options["application"],
        options["state"],
        request(options),
        {},
        check_mode=check_mode,
        transaction=options["transaction"],
    )


def main() -> None:
    """Translate the options into one command of the service."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        supports_check_mode=True,
    )
    conclude(module, lambda: reach(module.params, check_mode=module.check_mode))


if __name__ == "__main__":
    main()
