#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is live, what is warm, what failed and why, as the host's own command tells it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_info
short_description: Tell what is live, what is warm, what failed and why
version_added: 0.1.0
author:
  - Backstay contributors (@backstay)
description:
  - Asks C(backstay status) on the host, so that the answer is the very one a person gets there.
options:
  application:
    description: Name of the application.
    type: str
    required: true
attributes:
  check_mode:
    description: Reads only.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
seealso:
  - module: backstay.ops.release
"""

EXAMPLES = r"""
- name: Ask what is live
  backstay.ops.release_info:
    application: audit-portal
  register: portal

- name: Say it
  ansible.builtin.debug:
    msg: "{{ portal.live.id }} since {{ portal.live.since }}"
"""

RETURN = r"""
live:
  description: The live release (id, version, since, by, why, commit, payload); null where nothing is live.
  type: dict
  returned: success
warm:
  description: The release a bare rollback would go to; null where there is none.
  type: dict
  returned: success
rollback_target:
  description: Its id.
  type: str
  returned: success
last_failed:
  description: The newest release that failed, with the reason.
  type: dict
  returned: success
configuration_changed:
  description: Whether what is declared on the host differs from what the live release runs with.
  type: bool
  returned: success
releases:
  description: All releases, the oldest first, each with its state.
  type: list
  elements: dict
  returned: success
verdict:
  description: One sentence on the state of the application.
  type: str
  returned: success
state:
  description: The colour of the application's row of the one-look page.
  type: str
  returned: success
cells:
  description: The cells of that row, each with value, threshold, since, source and the command that helps.
  type: list
  elements: dict
  returned: success
"""

import json
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.backstay.ops.plugins.module_utils._module import backstay


def main() -> None:
    """Run the host's command and hand on its JSON."""
    module = AnsibleModule(argument_spec={"application": {"type": "str", "required": True}}, supports_check_mode=True)
    _code, output, error = backstay(module, ["status", "--json", module.params["application"]])
    found: dict[str, Any] = {}
    try:
        found = json.loads(output)
    except ValueError:
        module.fail_json(msg=f"`backstay status` did not answer in JSON: {error.strip()[-200:] or output[-200:]}")
    if "application" not in found:
        module.fail_json(msg=found.get("message", "`backstay status` gave no facts."))
    lines = [f"{found['application']}: {found['verdict']}"]
    # What only charts and lists of the page need would make each result a long one.
    dropped = ("format", "look", "events", "series")
    module.exit_json(changed=False, backstay_lines=lines, **{key: found[key] for key in found if key not in dropped})


if __name__ == "__main__":
    main()
