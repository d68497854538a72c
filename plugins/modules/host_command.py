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
  - Installs the library of this collection as C(/usr/bin/backstay), with the units of its service, so that no behaviour
    exists twice. The new version lies complete beside the old one before one link moves.
  - While a transaction of any application is open, nothing is changed and the module fails.
options:
  name:
    description: The library's version and digest. The controller's half of this module reckons it.
    type: str
  library:
    description: An archive of the library's files on the host. The controller's half sends it where it is missing.
    type: path
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
needs_library:
  description: Whether nothing was changed because the library has to be sent first.
  type: bool
  returned: success
previous:
  description: The version that was installed before; null for the first.
  type: str
  returned: success
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.backstay.ops.plugins.module_utils._errors import InputError
from ansible_collections.backstay.ops.plugins.module_utils._host_command import HostCommand, unpack
from ansible_collections.backstay.ops.plugins.module_utils._module import conclude


def install(options: dict[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Plan, and apply unless only asked, or unless the library must come first. Raises BackstayError."""
    if not options["name"]:
        raise InputError("host_command was not told which library: call it as a task of a playbook, on a controller.")
    archive = options["library"]
    command = HostCommand(unpack(archive, options["name"]) if archive else {}, name=options["name"])
    planned = command.plan()
    missing = planned.renewed and not archive and not check_mode
    if planned.changed and not check_mode and not missing:
        command.apply(planned)
    after = "".join([f"backstay {planned.name}\n", *(f"/{path}\n" for path in planned.texts)])
    return {
        "changed": planned.changed and not missing,
        "needs_library": missing,
        "version": planned.name,
        "previous": planned.before,
        "diff": {"before": f"backstay {planned.before}\n", "after": after} if planned.changed else {},
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={"name": {"type": "str"}, "library": {"type": "path"}}, supports_check_mode=True
    )
    conclude(module, lambda: install(module.params, check_mode=module.check_mode))


if __name__ == "__main__":
    main()
