#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Put a restore point back: a thin client of the host's own command."""

from __future__ import annotations

DOCUMENTATION = r"""
module: restore
short_description: Put a restore point back, or undo that
version_added: 0.1.0
author:
  - Backstay contributors (@backstay)
description:
  - Asks C(backstay restore) on the host. The restore point is restored beside the live data and compared with its
    manifest; only then is the door closed and the link to the data moved.
  - Nothing is destroyed. The data as they were stay beside the restored ones, and O(undo=true) goes back to them.

options:
  application:
    description: Name of the application.
    type: str
    required: true
  point:
    description: V(latest), the id of a run, or a time; the newest restore point that is not younger is taken.
    type: str
    default: latest
  only:
    description:
      - Only a part, such as V(database:default) or V(media:photos/2026). The rest stays as it is.
    type: str
    default: ""
  repository:
    description:
      - The repository to take it from. Without it, of those that have the restore point the one that is proven best and
        answers.
    type: str
  undo:
    description: Go back to the data as they were before the last restore.
    type: bool
    default: false
  with_release:
    description:
      - The release that made the restore point comes back together with its data, in the same transaction. It must
        still be on the host. Undoing brings both back.
    type: bool
    default: false
  offline_key:
    description:
      - Path, on the host, of the file that C(backstay escrow) wrote. The application is declared here and was never
        released; the release that made the restore point is released from the repository, then the point restored.
    type: path
  isolated:
    description:
      - With O(offline_key). The host is of another environment and gets a copy of the data. Only the web process runs
        here, with the values of C(environment.isolated); no worker, no job and no backup does, until somebody ends it.
    type: bool
    default: false
  secrets_to:
    description:
      - With O(offline_key). Nothing is rebuilt, and the application need not be declared there. What Vault would tell
        is read from the restore point and the key, and written to this new file on the host, which only root reads, as
        JSON with the keys C(backstay_secrets) and C(backstay_backup_secrets).
    type: path
  by:
    description: Who restores; goes into the ledger.
    type: str
    default: ""
  why:
    description: Why; goes into the ledger.
    type: str
    default: ""
attributes:
  check_mode:
    description: Says what would be restored and what would be lost by it.
    support: full
  diff_mode:
    description: The plan says what would be lost; data are not shown.
    support: none
seealso:
  - module: backstay.ops.backup
  - module: backstay.ops.restore_point_verify
"""

EXAMPLES = r"""
- name: See what restoring the newest restore point would lose
  backstay.ops.restore:
    application: audit-portal
  check_mode: true

- name: Put last night's database back, and leave the uploaded files
  backstay.ops.restore:
    application: audit-portal
    point: "2026-11-21T02:30:00Z"
    only: database:default
    why: somebody deleted the audits of October
"""

RETURN = r"""
run:
  description: Id of the restore point.
  type: str
  returned: success
  sample: 20261121T081500123-814
backstay_lines:
  description: The same for people, line by line; after a failure, what led to it.
  type: list
  elements: str
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.backstay.ops.plugins.module_utils._backup_client import ask


def main() -> None:
    """Translate the options into one command, and its JSON into a result."""
    module = AnsibleModule(
        argument_spec={
            "application": {"type": "str", "required": True},
            "point": {"type": "str", "default": "latest"},
            "only": {"type": "str", "default": ""},
            "repository": {"type": "str"},
            "undo": {"type": "bool", "default": False},
            "with_release": {"type": "bool", "default": False},
            "offline_key": {"type": "path"},
            "isolated": {"type": "bool", "default": False},
            "secrets_to": {"type": "path", "no_log": False},
            "by": {"type": "str", "default": ""},
            "why": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
        required_by={"secrets_to": "offline_key"},
    )
    given = module.params
    options = {key: given[key] for key in ("point", "only", "repository", "undo", "with_release", "by", "why")}
    if options["undo"]:
        if options["only"] or options["with_release"] or options["repository"] or options["point"] != "latest":
            module.fail_json(
                msg="`undo` goes back to the data and the release from before: leave `point`, `only`, `repository` and "
                "`with_release` out, or leave it out."
            )
        del options["point"]
    verb = "restore"
    if given["offline_key"]:
        if module.check_mode:
            module.exit_json(
                changed=True, msg=f"{given['application']}: would be rebuilt from a repository (only planned)"
            )
        verb, options = (
            "rebuild",
            {key: given[key] for key in ("offline_key", "point", "repository", "isolated", "secrets_to", "why")},
        )
    ask(module, verb, options)


if __name__ == "__main__":
    main()
