# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The health checks that an application's file asks for."""

from __future__ import annotations

DOCUMENTATION = r"""
name: health_checks
short_description: The health checks that applications' files ask for
version_added: 0.1.0
author:
  - Backstay contributors (@backstay)
description:
  - Turns applications, as P(backstay.ops.application#lookup) gives them, into checks for M(backstay.ops.health_check).
  - On the host, the live release is asked on its own socket, then the front door as nginx serves it there; the
    certificate is looked at, and one static and one media file are fetched if the application's file asks for them.
  - From outside, the front door is asked under its name.
options:
  _input:
    description: One application, or a list of them.
    type: raw
    required: true
  view:
    description: Where the checks will run.
    type: str
    choices:
      host: On the application's host, as root.
      outside: Anywhere else.
    default: host
  address:
    description: From outside, connect to this address instead of looking up the name.
    type: str
  ca_file:
    description:
      - PEM file, where the checks run, of the authority that issued the certificates. On the host, the chain is looked
        at only where this is given; from outside, always.
    type: str
"""

EXAMPLES = r"""
- name: Ask an application on its host
  backstay.ops.health_check:
    checks: "{{ lookup('backstay.ops.application', 'audit-portal') | backstay.ops.health_checks }}"

- name: Ask it from here
  backstay.ops.health_check:
    checks: "{{ lookup('backstay.ops.application', 'audit-portal') | backstay.ops.health_checks(view='outside') }}"
  delegate_to: localhost
"""

RETURN = r"""
_value:
  description: Checks for M(backstay.ops.health_check).
  type: list
  elements: dict
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.backstay.ops.plugins.module_utils._application import from_dict
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._health import host_options, outside_options
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout


def health_checks(
    applications: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    view: str = "host",
    address: str | None = None,
    ca_file: str | None = None,
) -> list[dict[str, Any]]:
    """Checks for the module. Raises AnsibleFilterError when an application or an option is wrong."""
    if view not in ("host", "outside"):
        raise AnsibleFilterError(f"health_checks knows the views host and outside, not {view!r}.")
    several = [applications] if isinstance(applications, Mapping) else list(applications)
    checks: list[dict[str, Any]] = []
    for data in several:
        try:
            application = from_dict(data, file=f"the application {data.get('name', '?')}")
        except BackstayError as refused:
            raise AnsibleFilterError(refused.message) from refused
        prefix = f"{application.name}: " if len(several) > 1 else ""
        checks += (
            host_options(application, Layout(application.name), ca_file=ca_file or None, prefix=prefix)
            if view == "host"
            else outside_options(application, address=address or None, ca_file=ca_file or None, prefix=prefix)
        )
    return checks


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"health_checks": health_checks}
