# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Find the payload of a version on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
name: payload
short_description: Find the payload of a version that build.yml made
version_added: 0.1.0
author:
  - Backstay contributors (@backstay)
description:
  - Returns where the payload of an application's version lies on the controller, the digest that its attestation names,
    and what vouches for it. The host checks the digest and the signatures before it touches anything.
options:
  _terms:
    description: Name of the application, and the version.
    type: list
    elements: str
    required: true
  backstay_artifacts:
    description: Directory of all payloads, below the directory that Ansible was started in unless it is absolute.
    type: str
    default: artifacts
    vars:
      - name: backstay_artifacts
"""

EXAMPLES = r"""
- name: Show the digest
  ansible.builtin.debug:
    msg: "{{ lookup('backstay.ops.payload', 'audit-portal', '1.1.0').sha256 }}"
"""

RETURN = r"""
_raw:
  description:
    - A dictionary with V(path), V(sha256) and V(commit), the paths V(attestation) and V(signature), and V(proofs),
      which is what the option O(backstay.ops.release#module:proofs) takes.
  type: list
  elements: dict
"""

import json
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

from ansible_collections.backstay.ops.plugins.module_utils._attestation import SIGNATURE, proofs_beside
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError


class LookupModule(LookupBase):
    """What Ansible asks for."""

    def run(self, terms: list[Any], variables: Any = None, **kwargs: Any) -> list[dict[str, Any]]:
        """The payload of `terms` = [application, version]; raises AnsibleError, naming what was built, when absent."""
        self.set_options(var_options=variables, direct=kwargs)
        application, version = (str(term) for term in terms)
        room = Path.cwd() / Path(self.get_option("backstay_artifacts")).expanduser() / application
        payload = room / version / f"{application}-{version}.tar"
        attestation = payload.with_suffix("").with_name(f"{application}-{version}.attestation.json")
        try:
            attested = json.loads(attestation.read_text(encoding="utf-8"))
            sha256, commit = str(attested["payload_sha256"]), str(attested["commit"])
        except FileNotFoundError:
            sha256, commit = "", ""
        except (OSError, ValueError, KeyError) as broken:
            raise AnsibleError(f"{attestation} cannot be read ({broken}): build {version} again.") from broken
        if not sha256 or not payload.exists():
            built = ", ".join(sorted(path.name for path in room.iterdir() if path.is_dir())) if room.is_dir() else ""
            raise AnsibleError(
                f"There is no payload of {application} {version} in {room}: build it with playbooks/build.yml "
                f"-e version={version}; built so far: {built or 'none'}."
            )
        try:
            proofs = proofs_beside(payload)
        except BackstayError as unreadable:
            raise AnsibleError(unreadable.message) from None
        signature = f"{attestation}{SIGNATURE}"
        found = {"path": str(payload), "sha256": sha256, "commit": commit, "attestation": str(attestation)}
        return [{**found, "signature": signature, "proofs": proofs}]
