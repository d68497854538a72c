#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Build the payload of an application's version."""

from __future__ import annotations

DOCUMENTATION = r"""
module: artifact_build
short_description: Build the payload of an application's version
version_added: 0.1.0
author:
  - Backstay contributors (@backstay)
description:
  - Exports the source on the controller, builds the payload on the host of the task, and brings it back to
    O(artifacts), with an attestation beside it that says who built it when, with what, and how the checks went.
  - The same commit gives the same bytes. What O(artifacts) already has from the same commit is not built again.
  - The host must have the operating system, the Python and the architecture of the hosts that will run it, and the
    package C(python3-venv).
  - The application's checks, its C(collectstatic) and pip run as the user C(backstay-build), which is made when it is
    missing, in a sandbox of systemd and with made-up values for the keys that the application requires.
  - The build stops when a check fails, when the changelog has no entry for the version, and when the source says
    another version of itself (in C(VERSION) or C(pyproject.toml)).
options:
  application:
    description: The application as the lookup P(backstay.ops.application#lookup) gives it.
    type: dict
    required: true
  version:
    description: The version to build.
    type: str
    required: true
  ref:
    description: A branch or commit to build, instead of the version's tag.
    type: str
  source_directory:
    description: A directory of the controller to build as it is, instead of anything committed.
    type: path
  artifacts:
    description: Directory of the controller for all payloads; relative to the directory Ansible was started in.
    type: path
    default: artifacts
  signing_key:
    description:
      - The private OpenSSH key of the controller that signs the attestation, without a passphrase; where only its
        C(.pub) is there, B(ssh-agent) holds the private half. What was built and has no signature yet is signed without
        being built again. Without it, C(signing_key) beside the inventory.
    type: path
  rebuild:
    description: Build again what is already there.
    type: bool
    default: false
  cache:
    description: Directory of the host for what the next build can use again.
    type: path
    default: /var/cache/backstay/build
  export:
    description: What the controller hands to the host; filled in by the action, never by hand.
    type: dict
    suboptions:
      directory:
        description: Directory of the host with C(source.tar), for the payload.
        type: path
        required: true
      commit:
        description: The commit, empty for a plain directory.
        type: str
        required: true
      source_time:
        description: Seconds since 1970.
        type: int
        required: true
attributes:
  check_mode:
    description: Says whether it would build. Nothing is exported, sent or run.
    support: full
  diff_mode:
    description: A payload has no text to compare.
    support: none
"""

EXAMPLES = r"""
- name: Build 1.1.0 from its tag
  backstay.ops.artifact_build:
    application: "{{ lookup('backstay.ops.application', 'audit-portal') }}"
    version: 1.1.0

- name: Build what lies in a directory
  backstay.ops.artifact_build:
    application: "{{ lookup('backstay.ops.application', 'audit-portal') }}"
    version: 1.2.0
    source_directory: ../portal
"""

RETURN = r"""
payload:
  description: Path of the payload on the controller.
  returned: success
  type: str
sha256:
  description: Digest of the payload.
  returned: when it is known
  type: str
commit:
  description: The commit it was built from; empty for a plain directory.
  returned: success
  type: str
attestation:
  description: The attestation's content.
  returned: when it is known
  type: dict
seconds:
  description: Seconds of each step that was done, by its name.
  returned: when it was built
  type: dict
backstay_lines:
  description: What was done, for people; the last lines of a check that failed.
  returned: always
  type: list
  elements: str
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.backstay.ops.plugins.module_utils._application import parse
from ansible_collections.backstay.ops.plugins.module_utils._build import Request, SystemdSandbox, build
from ansible_collections.backstay.ops.plugins.module_utils._errors import InputError
from ansible_collections.backstay.ops.plugins.module_utils._module import conclude
from ansible_collections.backstay.ops.plugins.module_utils._runtime import pip_program


def built(options: dict[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Build what the controller handed over, unless only asked. Raises BackstayError."""
    export = options["export"]
    if export is None:
        raise InputError("There is no exported source: run this as the task backstay.ops.artifact_build.")
    application = parse(options["application"], file="the application's file")
    if check_mode:
        return {"changed": True}
    pip_program()
    sandbox = SystemdSandbox()
    sandbox.ensure_user()
    directory = Path(export["directory"])
    done = build(
        Request(
            archive=directory / "source.tar",
            application=application,
            version=options["version"],
            commit=export["commit"],
            source_time=export["source_time"],
            destination=directory,
        ),
        sandbox=sandbox,
        cache=Path(options["cache"]),
    )
    return {
        "changed": True,
        "payload": str(done.packed.path),
        "sha256": done.packed.sha256,
        "commit": done.manifest.commit,
        "attestation": done.attestation,
        "seconds": {step.name: step.seconds for step in done.steps},
        "backstay_lines": [
            *(str(step) for step in done.steps),
            f"{done.packed.path.name}: {done.packed.size_bytes / 1048576:.1f} MiB, sha256 {done.packed.sha256}",
        ],
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "application": {"type": "dict", "required": True},
            "version": {"type": "str", "required": True},
            "ref": {"type": "str"},
            "source_directory": {"type": "path"},
            "artifacts": {"type": "path", "default": "artifacts"},
            "signing_key": {"type": "path", "no_log": False},
            "rebuild": {"type": "bool", "default": False},
            "cache": {"type": "path", "default": "/var/cache/backstay/build"},
            "export": {
                "type": "dict",
                "options": {
                    "directory": {"type": "path", "required": True},
                    "commit": {"type": "str", "required": True},
                    "source_time": {"type": "int", "required": True},
                },
            },
        },
        mutually_exclusive=[("ref", "source_directory")],
        supports_check_mode=True,
    )
    conclude(module, lambda: built(module.params, check_mode=module.check_mode))


if __name__ == "__main__":
    main()
