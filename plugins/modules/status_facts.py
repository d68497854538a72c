#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is so about all applications of a host, as the host's own command tells it, for the one-look page."""

from __future__ import annotations

DOCUMENTATION = r"""
module: status_facts
short_description: Tell what is so about all applications of a host, for the one-look page
version_added: 0.1.0
author:
  - Backstay contributors (@backstay)
description:
  - Asks C(backstay status) on the host, once for all its applications, and returns the rows of the page.
  - It does not fail where the host has nothing to tell; RV(problem) then says why, and the page shows it.
attributes:
  check_mode:
    description: Reads only.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
seealso:
  - module: backstay.ops.status_page
  - module: backstay.ops.release_info
"""

EXAMPLES = r"""
- name: Ask each host what is so
  backstay.ops.status_facts:
  ignore_unreachable: true
  register: my_asked
"""

RETURN = r"""
rows:
  description: A row for each application, with its cells, the events of 30 days and the series of its charts.
  type: list
  elements: dict
  returned: success
outside:
  description: What this host, where it is a probe, saw of applications on other hosts, a dictionary for each.
  type: list
  elements: dict
  returned: success
problem:
  description: Why nothing was told; empty where all was.
  type: str
  returned: success
"""

import json
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.backstay.ops.plugins.module_utils._page_hosts import ROW


def main() -> None:
    """Run the host's command and hand on its rows."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    program = module.get_bin_path("backstay")
    if program is None:
        problem = "the command backstay is not installed on this host: run playbooks/site.yml"
        module.exit_json(changed=False, rows=[], outside=[], problem=problem)
    _code, output, error = module.run_command([program, "status", "--json"])
    rows: list[dict[str, Any]] = []
    outside: list[dict[str, Any]] = []
    problem = ""
    for line in output.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            problem = f"`backstay status` did not answer in JSON: {line[-200:]}"
            continue
        if "cells" in found:
            rows.append({key: found[key] for key in ROW if key in found})
        elif "outside" in found:
            outside += found["outside"]
        else:
            problem = str(found.get("message") or "`backstay status` gave no cells: bring the host up with site.yml")
    if not rows and not outside and not problem:
        problem = f"`backstay status` said nothing: {error.strip()[-200:]}"
    module.exit_json(changed=False, rows=rows, outside=outside, problem=problem)


if __name__ == "__main__":
    main()
