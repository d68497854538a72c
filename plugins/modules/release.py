#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Take one phase of a release: a thin client of the transaction's service on the host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Release an application, phase by phase
version_added: 0.1.0
author:
  - Backstay contributors (@backstay)
description:
  - Asks the transaction's service on the host for one phase of a release. The service owns the transaction; when
    this module, its connection or the controller dies, the service finishes the phase and, at its deadline, undoes
    what nobody confirmed.
  - A payload that is live already, with the configuration declared on the host, changes nothing.
options:
  application:
    description: Name of the application.
    type: str
    required: true
  state:
    description: Which phase to reach.
    type: str
    choices:
      prepared: Staged, migrated, started beside the live release, and found well.
      closed: Visitors see the maintenance page and everything has stopped; for O(strategy=maintenance) only.
      flipped: Serves every new request, and was seen through the front door.
      watched: Was compared with the release before for as long as C(releases.watch) of the application's file says.
      confirmed: Written down as live; the one before stays warm.
      live: All of it in one call.
      aborted: Undone; where no transaction is open nothing happens.
    default: live
  version:
    description: The version; required with O(payload).
    type: str
  payload:
    description:
      - SHA-256 of the payload, which lies on the host in C(/var/lib/backstay/<application>/artifacts/<sha256>.tar).
      - Without it the live payload is released again with the configuration that is declared now.
    type: str
  src:
    description:
      - The payload on the controller. It is sent first, to hosts that do not have it as O(payload) says. For the states
        V(prepared) and V(live).
    type: str
  declaration:
    description:
      - The application as the inventory describes it, as the lookup P(backstay.ops.application#lookup) returns it. It
        is declared on the host first, as M(backstay.ops.application) does. For the states V(prepared) and V(live).
      - Without it the release goes by what was declared there before.
    type: dict
  secrets:
    description: With O(declaration), its secrets, as in M(backstay.ops.application).
    type: dict
    default: {}
  backup_secrets:
    description: With O(declaration), what its repositories are opened with, as in M(backstay.ops.application).
    type: dict
  allowed_signers:
    description: With O(declaration), who may vouch for payloads, as in M(backstay.ops.application).
    type: str
  proofs:
    description:
      - What vouches for the payload, as RV(backstay.ops.payload#lookup:_raw) returns it, text by name - the attestation
        and its signature, and the proofs that it was live in other stages. For the states V(prepared) and V(live).
      - They are put beside the payload once the host has found that one of its allowed signers signed the attestation.
        Without it the host goes by what lies there already.
    type: dict
  override_backup:
    description:
      - Why the release is made although no restore point can be made before it, where the application's file asks for
        one (C(backup.before_release)). The reason goes into the ledger.
    type: str
    default: ""
  override_promotion:
    description:
      - Why a payload is released that was not proven live in the stage that C(releases.promoted_from) of the
        application's file names; goes into the ledger.
    type: str
    default: ""
  again:
    description: Release although this very payload and configuration are live.
    type: bool
    default: false
  keep_warm:
    description: Keep the release before the live one running meanwhile. V(false) stops it first, where memory is short.
    type: bool
    default: true
  strategy:
    description:
      - V(live) starts the release beside the one before and moves the link; visitors notice nothing. It refuses
        migrations that the release before cannot live with.
      - V(maintenance) closes the door meanwhile, makes a restore point, and undoes everything if it does not end well.
    type: str
    choices: [live, maintenance]
    default: live
  override_freeze:
    description: Why it is released although releases are frozen; goes into the ledger.
    type: str
    default: ""
  transaction:
    description:
      - The RV(transaction) that O(state=prepared) returned, for the states after it and for
        O(state=aborted). Only that one is touched, never somebody else's.
      - Empty means that nothing was prepared; then nothing happens. Without it, whichever is open is meant.
    type: str
  run:
    description:
      - What the hosts of one run have in common, as M(backstay.ops.fleet) returns it. It goes into the ledger, and
        tells C(recover) which hosts belong together.
    type: str
  by:
    description: Who releases; goes into the ledger.
    type: str
    default: ""
  why:
    description: Why; goes into the ledger.
    type: str
    default: ""
  prepare_seconds:
    description: How long a prepared release waits to be flipped before it is undone.
    type: float
    default: 900
  confirm_seconds:
    description:
      - How long a flipped release waits to be confirmed before it flips back by itself. Without it, as
        C(releases.confirm_seconds) of the application's file says.
    type: float
attributes:
  check_mode:
    description: Runs every check that comes before the first change, and says what would happen.
    support: full
  diff_mode:
    description: Shows which release is live before and after.
    support: full
seealso:
  - module: backstay.ops.rollback
  - module: backstay.ops.release_info
"""

EXAMPLES = r"""
- name: Release 1.1.0 in one call
  backstay.ops.release:
    application: audit-portal
    version: 1.1.0
    payload: "{{ payload_sha256 }}"
    by: "{{ lookup('env', 'USER') }}"

- name: Apply a changed configuration to what is live
  backstay.ops.release:
    application: audit-portal
    why: a new banner
"""

RETURN = r"""
transaction:
  description: Id of the transaction; absent where there was nothing to do.
  type: str
  returned: when something was done
  sample: 20261121T081500123-814
release:
  description: Id of the release.
  type: str
  returned: success
  sample: 0007-1.1.0
previous:
  description: Id of the release that was live before; empty for the first.
  type: str
  returned: success
live:
  description: Id of the release that is live now.
  type: str
  returned: always
steps:
  description: What was done, with seconds and a detail for each step.
  type: list
  elements: dict
  returned: success
seconds:
  description: Time of all steps of the transaction so far.
  type: float
  returned: success
backstay_lines:
  description: The same for people, or the candidate's last log lines when it was refused.
  type: list
  elements: str
  returned: always
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.backstay.ops.plugins.module_utils._module import conclude
from ansible_collections.backstay.ops.plugins.module_utils._release_client import ask

ARGUMENTS: dict[str, Any] = {
    "application": {"type": "str", "required": True},
    "state": {
        "type": "str",
        "choices": ["prepared", "closed", "flipped", "watched", "confirmed", "live", "aborted"],
        "default": "live",
    },
    "version": {"type": "str"},
    "payload": {"type": "str"},
    "src": {"type": "str"},
    "proofs": {"type": "dict"},
    "declaration": {"type": "dict"},
    "secrets": {"type": "dict", "default": {}, "no_log": True},
    "backup_secrets": {"type": "dict", "no_log": True},
    "allowed_signers": {"type": "str"},
    "override_promotion": {"type": "str", "default": ""},
    "override_backup": {"type": "str", "default": ""},
    "again": {"type": "bool", "default": False},
    "keep_warm": {"type": "bool", "default": True},
    "strategy": {"type": "str", "choices": ["live", "maintenance"], "default": "live"},
    "override_freeze": {"type": "str", "default": ""},
    "transaction": {"type": "str"},
    "run": {"type": "str"},
    "by": {"type": "str", "default": ""},
    "why": {"type": "str", "default": ""},
    "prepare_seconds": {"type": "float", "default": 900},
    "confirm_seconds": {"type": "float"},
}
_REQUEST = ("version", "payload", "again", "keep_warm", "strategy", "override_freeze", "by", "why")


def reach(options: dict[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Have the service bring the application to the state asked for. Raises BackstayError."""
    request = {"operation": "release", **{name: options[name] for name in _REQUEST}}
    request.update({name: options[name] for name in ("run", "override_promotion", "override_backup") if options[name]})
    deadlines = {name: options[name] for name in ("prepare_seconds", "confirm_seconds") if options[name]}
    carried = {}
    if options["declaration"]:
        told = {name: options[name] for name in ("secrets", "backup_secrets", "allowed_signers")}
        carried["declaration"] = {"application": options["declaration"], **told}
    if options["proofs"]:
        carried["proofs"] = options["proofs"]
    return ask(
        options["application"],
        options["state"],
        request,
        deadlines,
        check_mode=check_mode,
        transaction=options["transaction"],
        carried=carried,
    )


def main() -> None:
    """Translate the options into one command of the service."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        required_by={"payload": ("version",)},
        supports_check_mode=True,
    )
    conclude(module, lambda: reach(module.params, check_mode=module.check_mode))


if __name__ == "__main__":
    main()
