#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Say whether a host is fit, before anything on it is touched."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_check
short_description: Say whether a host is fit, before anything on it is touched
version_added: 0.1.0
author:
  - Backstay contributors (@backstay)
description:
  - Looks at the operating system, at the people, at who holds the ports that will be needed, and at the names nginx
    already serves. Where something is in the way it fails with one sentence for each reason, and its remedy. It changes
    nothing.
options:
  supported:
    description: Systems that are fit, each as the C(ID) and C(VERSION_ID) of C(/etc/os-release).
    type: list
    elements: str
    default: [debian 12, debian 13]
  packages:
    description:
      - Debian packages to look for, as apt is asked for them - also with an architecture (V(libpq5:amd64)), with a
        version (V(nginx=1.26*)), or by a name that other packages provide.
    type: list
    elements: str
    default: []
  users:
    description: Users that are to be on the host; a name that is missing must be one that a user can have.
    type: list
    elements: str
    default: []
  ports:
    description: TCP ports that must be free, or held by O(process).
    type: list
    elements: int
    default: []
  process:
    description: The program that may hold O(ports).
    type: str
    default: nginx
  sites:
    description: Sites that are to be served; no other site of nginx may claim their names.
    type: list
    elements: dict
    default: []
    suboptions:
      file:
        description: The file of nginx that describes, or will describe, the site.
        type: path
        required: true
      names:
        description: The names it answers to.
        type: list
        elements: str
        required: true
attributes:
  check_mode:
    description: It changes nothing anyway.
    support: full
  diff_mode:
    description: It changes nothing.
    support: none
"""

EXAMPLES = r"""
- name: Stop unless nginx can serve the portal here
  backstay.ops.host_check:
    packages: [nginx]
    ports: [80, 443]
    process: nginx
    sites:
      - file: /etc/nginx/sites-enabled/portal.conf
        names: [portal.example.org]
"""

RETURN = r"""
backstay_lines:
  description: What a person should know, such as a site of Backstay's that is there and is none of O(sites) any more.
  returned: success
  type: list
  elements: str
system:
  description: The operating system.
  returned: success
  type: dict
  sample: {"id": "debian", "version": "13", "name": "Debian GNU/Linux 13 (trixie)"}
missing_packages:
  description: Those of O(packages) that are not installed.
  returned: success
  type: list
  elements: str
  sample: [nginx]
missing_users:
  description: Those of O(users) that do not exist.
  returned: success
  type: list
  elements: str
  sample: [ada]
installed_packages:
  description: Every package that is installed, so that one question serves all roles of a play.
  returned: success
  type: list
  elements: str
  sample: [adduser, apt, nginx]
new_sites:
  description: The files of O(sites) that Backstay has not written on this host yet.
  returned: success
  type: list
  elements: str
  sample: [/etc/nginx/sites-enabled/portal.conf]
"""

import os
from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.backstay.ops.plugins.module_utils._host_check import (
    Host,
    Site,
    Wanted,
    left_behind,
    missing_packages,
    missing_users,
    new_sites,
    problems,
    refuse,
)
from ansible_collections.backstay.ops.plugins.module_utils._module import conclude


def look(options: dict[str, Any]) -> dict[str, Any]:
    """What was found out about the host. Raises BackstayError where it cannot be provisioned."""
    wanted = Wanted(
        supported=tuple(options["supported"]),
        packages=tuple(options["packages"]),
        users=tuple(options["users"]),
        ports=tuple(options["ports"]),
        process=options["process"],
        sites=tuple(Site(site["file"], tuple(site["names"])) for site in options["sites"]),
    )
    found = Host().look(wanted, is_root=os.geteuid() == 0)
    refuse(problems(wanted, found))
    return {
        "changed": False,
        "system": asdict(found.system),
        "missing_packages": list(missing_packages(wanted, found)),
        "missing_users": list(missing_users(wanted, found)),
        "installed_packages": sorted(found.installed),
        "new_sites": list(new_sites(wanted, found)),
        "backstay_lines": list(left_behind(wanted, found)),
    }


def main() -> None:
    site_options = {
        "file": {"type": "path", "required": True},
        "names": {"type": "list", "elements": "str", "required": True},
    }
    module = AnsibleModule(
        argument_spec={
            "supported": {"type": "list", "elements": "str", "default": ["debian 12", "debian 13"]},
            "packages": {"type": "list", "elements": "str", "default": []},
            "users": {"type": "list", "elements": "str", "default": []},
            "ports": {"type": "list", "elements": "int", "default": []},
            "process": {"type": "str", "default": "nginx"},
            "sites": {"type": "list", "elements": "dict", "default": [], "options": site_options},
        },
        supports_check_mode=True,
    )
    conclude(module, lambda: look(module.params))


if __name__ == "__main__":
    main()
