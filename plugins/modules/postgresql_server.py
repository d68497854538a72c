#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Bring the roles and databases of a PostgreSQL server on the host to their state."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_server
short_description: Bring the roles and databases of a PostgreSQL server on the host to their state
version_added: 0.1.0
author:
  - Backstay contributors (@backstay)
description:
  - Makes a role and a database for each application that asks for one, on the cluster C(<version>/main) of the host, as
    the server's own user and over its socket. Only the owner, and whoever it lets, may connect to a database.
  - Drops nothing, and changes nothing of what it was not asked about.
  - A server without any database of anybody is restarted where a setting waits for that. Any other is never restarted;
    what waits is in RV(restart_pending).
  - Starts a server that does not run.
  - Needs nothing on the host but PostgreSQL itself. Where that is not installed yet, says what would be made.
options:
  version:
    description: The major version of the cluster, such as V(17).
    type: str
    required: true
  databases:
    description: The databases that must be there.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the database.
        type: str
        required: true
      owner:
        description: The role that owns it. With peer authentication it is called like the user that connects.
        type: str
        required: true
      createdb:
        description: Whether the owner may make further databases.
        type: bool
        default: false
  settings:
    description:
      - The settings the server is to have, as the file that is read last. What is not in place yet is tried on a server
        that is thrown away, and refused where none starts with it. Placing them is for M(backstay.ops.file_set).
    type: str
    default: ""
  adopt:
    description: What to do with a server that holds databases and was not set up by Backstay.
    type: str
    choices:
      refuse: Change nothing and say so.
      keep: Add roles and databases to it.
    default: refuse
attributes:
  check_mode:
    description: Says what would change, and refuses what would be refused.
    support: full
  diff_mode:
    description: Shows the statements.
    support: full
"""

EXAMPLES = r"""
- name: Give the portal a database
  backstay.ops.postgresql_server:
    version: "17"
    databases:
      - name: portal
        owner: audit-portal
"""

RETURN = r"""
cluster:
  description: Whether the cluster is there; packages can be installed without one.
  type: bool
  returned: success
foreign:
  description: Databases of a server that was not set up by Backstay; empty where it was, or where there is none.
  type: list
  elements: str
  returned: success
restart_pending:
  description: Settings that wait for a restart of the server.
  type: list
  elements: str
  returned: success
backstay_lines:
  description: What a person should know.
  type: list
  elements: str
  returned: success
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.backstay.ops.plugins.module_utils._module import conclude
from ansible_collections.backstay.ops.plugins.module_utils._postgresql_server import CLUSTER, DatabaseServer, Wanted


def bring(options: dict[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Plan, apply unless only asked what would happen, and say what changed. Raises BackstayError."""
    server = DatabaseServer(options["version"])
    wanted = [Wanted(given["name"], given["owner"], given["createdb"]) for given in options["databases"]]
    carry = server.plan if check_mode else server.bring
    seen, planned = carry(wanted, adopt=options["adopt"] == "keep", settings=options["settings"])
    units = [f"{verb}\n" for verb, asked in (("start", planned.start), ("restart", planned.restart)) if asked]
    statements = [*units, *(f"{statement}\n" for statement in planned.statements)]
    return {
        "changed": planned.changed,
        "cluster": (options["version"], CLUSTER) in seen.clusters,
        "foreign": list(seen.foreign),
        "restart_pending": [] if planned.restart else list(seen.waiting),
        "diff": {"before": "", "after": "".join(statements)} if statements else {},
        "backstay_lines": list(planned.lines),
    }


def main() -> None:
    database_options = {
        "name": {"type": "str", "required": True},
        "owner": {"type": "str", "required": True},
        "createdb": {"type": "bool", "default": False},
    }
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "str", "required": True},
            "databases": {"type": "list", "elements": "dict", "default": [], "options": database_options},
            "settings": {"type": "str", "default": ""},
            "adopt": {"type": "str", "choices": ["refuse", "keep"], "default": "refuse"},
        },
        supports_check_mode=True,
    )
    conclude(module, lambda: bring(module.params, check_mode=module.check_mode))


if __name__ == "__main__":
    main()
