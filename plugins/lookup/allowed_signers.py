# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Read who may vouch for payloads."""

from __future__ import annotations

DOCUMENTATION = r"""
name: allowed_signers
short_description: Read who may vouch for payloads
version_added: 0.1.0
author:
  - Backstay contributors (@backstay)
description:
  - Returns the text of the inventory's file of allowed signers, in the format that B(ssh-keygen) describes under
    ALLOWED SIGNERS. Hosts release only what one of them signed.
  - A line can be limited with C(namespaces="backstay-attestation") to those who build, and with
    C(namespaces="backstay-promotion") to the controller of a stage that proves payloads.
options:
  _terms:
    description: The file; without it, or where it is empty, C(allowed_signers) beside the inventory.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Show them
  ansible.builtin.debug:
    msg: "{{ lookup('backstay.ops.allowed_signers', backstay_allowed_signers | default('')) }}"
"""

RETURN = r"""
_raw:
  description: The text of the file.
  type: list
  elements: str
"""

from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

from ansible_collections.backstay.ops.plugins.module_utils._attestation import (
    check_allowed_signers,
    signers_of,
)
from ansible_collections.backstay.ops.plugins.module_utils._errors import InputError


class LookupModule(LookupBase):
    """What Ansible asks for."""

    def run(self, terms: list[Any], variables: Any = None, **kwargs: Any) -> list[str]:
        """The text. Raises AnsibleError, with how to make one, where there is none."""
        self.set_options(var_options=variables, direct=kwargs)
        given = str(terms[0]) if terms else ""
        file = signers_of(given, variables or {})
        try:
            text = file.read_text(encoding="utf-8")
            check_allowed_signers(text, origin=str(file))
        except (OSError, UnicodeDecodeError) as missing:
            raise AnsibleError(
                f"{file} cannot be read ({getattr(missing, 'strerror', None) or missing}), and hosts release only what "
                f"somebody it names has signed: make it, and a key, with `python tools/make_secrets.py {file.parent}`, "
                "or set backstay_allowed_signers to yours."
            ) from None
        except InputError as wrong:
            raise AnsibleError(wrong.message) from None
        return [text]
