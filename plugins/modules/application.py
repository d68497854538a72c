#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Declare an application on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: application
short_description: Declare an application on a host
version_added: 0.1.0
author:
  - Backstay contributors (@backstay)
description:
  - Brings the host to the state in which the application can be released - its user without shell, its directories, its
    validated file, its secrets, the socket of its transactions and its recovery at boot.
  - Never restarts an application. Where the declaration differs from what the live release runs with,
    RV(configuration_changed) says so, and a release applies it.
options:
  application:
    description: The application, as the lookup P(backstay.ops.application#lookup) returns it.
    type: dict
    required: true
  secrets:
    description:
      - Values of the keys that the application's file names as secret, each a text. What it does not name is not kept
        on the host, and is reported, because it usually is a misspelt key.
    type: dict
    default: {}
  backup_secrets:
    description:
      - What the repositories of C(backup) are opened with, by their names - C(password), and as their kind asks for,
        C(private_key) and C(known_hosts), or C(access_key_id), C(secret_access_key) and C(ca); C(prune) holds the
        credentials that may remove. They never reach the application's environment.
      - Without it what is on the host stays as it is.
    type: dict
  allowed_signers:
    description:
      - Who may vouch for payloads and for their having been proven, as the text of a file of allowed signers
        (B(ssh-keygen) describes the format). The host releases nothing that nobody of them signed.
      - Without it the list that is on the host stays as it is.
    type: str
  adopt:
    description: What to do where the application's directory or user exists and was not made by Backstay.
    type: str
    choices:
      refuse: Change nothing and say so.
      keep: Build beside what is there. No file of it is changed or removed; a directory that the layout needs gets the
        owner and mode of the layout, and a user that exists stays as it is.
    default: refuse
attributes:
  check_mode:
    description: Says what would change, and refuses what would be refused.
    support: full
  diff_mode:
    description: Shows what changes; of secrets only the names of their keys.
    support: full
seealso:
  - module: backstay.ops.release
"""

EXAMPLES = r"""
- name: Declare the portal
  backstay.ops.application:
    application: "{{ lookup('backstay.ops.application', 'audit-portal') }}"
    secrets: "{{ backstay_secrets['audit-portal'] }}"
    backup_secrets: "{{ (backstay_backup_secrets | default({}))['audit-portal'] | default(omit) }}"
    allowed_signers: "{{ lookup('backstay.ops.allowed_signers', backstay_allowed_signers | default('')) }}"
"""

RETURN = r"""
configuration_changed:
  description: Whether what is declared differs from what the live release runs with.
  type: bool
  returned: success
secrets_changed:
  description: Names of secrets that were added, removed or changed.
  type: list
  elements: str
  returned: success
to_do:
  description: Whether anything is, or in check mode would be, done; for who asks first and acts later.
  type: bool
  returned: success
backstay_lines:
  description: What a person should know.
  type: list
  elements: str
  returned: success
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.backstay.ops.plugins.module_utils._declare import declare
from ansible_collections.backstay.ops.plugins.module_utils._host import Host
from ansible_collections.backstay.ops.plugins.module_utils._module import conclude
from ansible_collections.backstay.ops.plugins.module_utils._version import check_protocol

APPLY = "the live release runs with another configuration; playbooks/release.yml applies this one"


def bring(options: dict[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Declare, and say how what is live differs from it. Raises BackstayError."""
    if not check_mode:  # site.yml asks what is to be done before it brings the command to this version
        check_protocol()
    declaration, planned = declare(options, check_mode=check_mode)
    layout, changed_secrets = declaration.layout, declaration.secrets_changed(planned)
    host = Host(layout)
    if check_mode and set(planned.files) - {layout.allowed_signers, layout.backup_secrets}:
        # What is declared on the host is the old; so compare what would be declared.
        live = host.live()
        differs = declaration.differs_from_live(live) or (live is not None and bool(changed_secrets))
    else:
        differs = host.configuration_changed()
    return {
        "changed": planned.changed,
        "to_do": planned.changed,
        "configuration_changed": differs,
        "secrets_changed": list(changed_secrets),
        "diff": declaration.diff(planned),
        "backstay_lines": [*([f"{layout.name}: {APPLY}"] if differs else []), *declaration.remarks],
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "application": {"type": "dict", "required": True},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "backup_secrets": {"type": "dict", "no_log": True},
            "allowed_signers": {"type": "str"},
            "adopt": {"type": "str", "choices": ["refuse", "keep"], "default": "refuse"},
        },
        supports_check_mode=True,
    )
    conclude(module, lambda: bring(module.params, check_mode=module.check_mode))


if __name__ == "__main__":
    main()
