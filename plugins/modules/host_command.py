#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Install the library that this module was carried with as the host's command."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_command
short_description: Install the backstay command on a host
version_added: 0.1.0
author:
  - Backstay contributors (@backstay)
description:
  - Installs the very library that Ansible carries inside this module as C(/usr/bin/backstay), with the units of its
    service, so that no behaviour exists twice. The new version lies complete beside the old one before one link moves.
  - While a transaction of any application is open, nothing is changed and the module fails.
attributes:
  check_mode:
    description: Says which version would replace which.
    support: full
  diff_mode:
    description: Shows the version before and after.
    support: full
"""

EXAMPLES = r"""
- name: Install the backstay command
  backstay.ops.host_command:
"""

RETURN = r"""
version:
  description: The version that is installed now, with the digest of its files.
  type: str
  returned: success
  sample: 0.1.0+1f0a33c2
previous:
  description: The version that was installed before; null for the first.
  type: str
  returned: success
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.backstay.ops.plugins.module_utils import _cli, _django_agent, _host_command
from ansible_collections.backstay.ops.plugins.module_utils._module import conclude

# Imported so that Ansible carries the whole library (nothing else imports the agent, which runs inside applications),
# and so that a Python that cannot run it says so here.
CARRIED = (_cli, _django_agent, _host_command)


def install(*, check_mode: bool) -> dict[str, Any]:
    """Plan, and unless only asked apply. Raises BackstayError."""
    command = _host_command.HostCommand()
    planned = command.plan()
    if planned.changed and not check_mode:
        command.apply(planned)
    after = "".join([f"backstay {planned.name}\n", *(f"/{path}\n" for path in planned.texts)])
    return {
        "changed": planned.changed,
        "version": planned.name,
        "previous": planned.before,
        "diff": {"before": f"backstay {planned.before}\n", "after": after} if planned.changed else {},
    }


def main() -> None:
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    conclude(module, lambda: install(check_mode=module.check_mode))


if __name__ == "__main__":
    main()
