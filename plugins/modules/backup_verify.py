#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Prove that a restic repository, by whomever it was written, can bring the data back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_verify
short_description: Prove that a restic repository can bring the data back
version_added: 0.1.0
author:
  - Backstay contributors (@backstay)
description:
  - Proves one snapshot of any restic repository, by whomever it was written, on a level that is named.
  - V(1) the snapshot is listed, fresh, and holds every path asked for. V(2) restic's own check of the structure. V(3)
    all data are read back. V(4) the databases are restored beside, are sound (integrity and foreign keys), have rows
    enough and give the right answers. Each level includes those below, and the first that fails ends the proof.
  - What is restored lies in a directory of its own and is removed again. It changes nothing in the repository.
  - It needs restic and Python on the host, and can be used without the rest of Backstay.
requirements:
  - restic (0.14 or newer)
options:
  repository:
    description: Where the repository is, as C(restic -r) takes it.
    type: str
    required: true
  password:
    description: The password that opens it. It reaches restic by its environment only.
    type: str
    required: true
  environment:
    description: Credentials of the store, as restic reads them from its environment, such as C(AWS_ACCESS_KEY_ID).
    type: dict
    default: {}
  snapshot:
    description: The snapshot's id, or its beginning; V(latest) is the newest.
    type: str
    default: latest
  level:
    description: How much to prove.
    type: int
    choices: [1, 2, 3, 4]
    default: 4
  max_age_hours:
    description: How old the newest snapshot may be. Not asked by default.
    type: float
  databases:
    description: SQLite databases in the snapshot, and what must be true of them.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Its path in the snapshot, from / on, as C(restic ls) shows it.
        type: str
        required: true
      least_rows:
        description: How many rows a table must have at least, by its name.
        type: dict
        default: {}
      canaries:
        description: Queries that only read, and the answers they must give.
        type: list
        elements: dict
        default: []
        suboptions:
          query:
            description: One SELECT.
            type: str
            required: true
          answer:
            description: The one value it must answer with; several values or rows as JSON, a list of lists.
            type: str
            required: true
  paths:
    description: Paths that the snapshot must hold, from / on.
    type: list
    elements: str
    default: []
  scratch:
    description: Directory to restore into, with room for the databases. The default is the system's for such files.
    type: path
  timeout_seconds:
    description: How long one command of restic may take.
    type: float
    default: 14400.0
attributes:
  check_mode:
    description: Proves just the same, as it changes nothing.
    support: full
  diff_mode:
    description: There is no difference to show.
    support: none
"""

EXAMPLES = r"""
- name: Prove last night's backup
  backstay.ops.backup_verify:
    repository: /backup/portal
    password: "{{ backup_password }}"
    max_age_hours: 26
    paths: [/media]
    databases:
      - path: /databases/main.sqlite3
        least_rows: {auth_user: 1, reports_report: 100}
        canaries:
          - query: SELECT count(*) FROM django_migrations WHERE app = 'reports'
            answer: "12"

- name: Look whether a bucket is backed up to at all
  backstay.ops.backup_verify:
    repository: s3:https://s3.example.org/bucket
    password: "{{ backup_password }}"
    environment:
      AWS_ACCESS_KEY_ID: "{{ key_id }}"
      AWS_SECRET_ACCESS_KEY: "{{ key }}"
    level: 1
    max_age_hours: 26
"""

RETURN = r"""
level:
  description: The highest level that holds; 0 where none does.
  returned: always, unless the options are refused
  type: int
  sample: 4
snapshot:
  description: The id of the snapshot.
  returned: always, unless the options are refused
  type: str
  sample: 4a0b1c2d4a0b1c2d4a0b1c2d4a0b1c2d4a0b1c2d4a0b1c2d4a0b1c2d4a0b1c2d
made:
  description: When it was made, in UTC.
  returned: always, unless the options are refused
  type: str
  sample: "2026-03-03T02:00:09Z"
findings:
  description: A sentence per failure; empty when the level holds.
  returned: always, unless the options are refused
  type: list
  elements: str
  sample: []
seconds:
  description: How long each level took, by its number.
  returned: always, unless the options are refused
  type: dict
  sample: {"1": 0.4, "2": 0.9}
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.backstay.ops.plugins.module_utils._errors import InputError
from ansible_collections.backstay.ops.plugins.module_utils._foreign_repository import (
    Expected,
    ForeignRepository,
    Verdict,
    verify,
)
from ansible_collections.backstay.ops.plugins.module_utils._module import conclude

CANARY = {"query": {"type": "str", "required": True}, "answer": {"type": "str", "required": True}}
DATABASE = {
    "path": {"type": "str", "required": True},
    "least_rows": {"type": "dict", "default": {}},
    "canaries": {"type": "list", "elements": "dict", "options": CANARY, "default": []},
}


def prove(options: Mapping[str, Any]) -> Verdict:
    """The verdict on the module's options. Raises InputError for those that make no sense."""
    repository = ForeignRepository(
        options["repository"],
        options["password"],
        {str(name): str(value) for name, value in options["environment"].items()},
        seconds=options["timeout_seconds"],
    )
    age = options["max_age_hours"]
    return verify(
        repository,
        options["level"],
        snapshot=options["snapshot"],
        max_age_seconds=None if age is None else age * 3600,
        databases=[_expected(each) for each in options["databases"]],
        paths=options["paths"],
        scratch=None if options["scratch"] is None else Path(options["scratch"]),
    )


def _expected(given: Mapping[str, Any]) -> Expected:
    try:
        rows = {str(table): int(least) for table, least in given["least_rows"].items()}
    except (TypeError, ValueError) as wrong:
        raise InputError(f"least_rows of {given['path']} must be whole numbers by table: correct them.") from wrong
    return Expected(given["path"], rows, {each["query"]: each["answer"] for each in given["canaries"]})


def judge(options: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict as the module's result. Raises BackstayError."""
    verdict = prove(options)
    found: dict[str, Any] = {
        "changed": False,
        "level": verdict.level,
        "snapshot": verdict.snapshot,
        "made": verdict.made,
        "findings": list(verdict.findings),
        "seconds": {str(level): seconds for level, seconds in verdict.seconds.items()},
    }
    if not verdict.ok:
        more = f" (and {len(verdict.findings) - 1} more)" if len(verdict.findings) > 1 else ""
        msg = f"Level {verdict.level + 1} does not hold: {verdict.findings[0]}{more}"
        found |= {"failed": True, "msg": msg}
    return found


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "repository": {"type": "str", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
            "environment": {"type": "dict", "default": {}, "no_log": True},
            "snapshot": {"type": "str", "default": "latest"},
            "level": {"type": "int", "choices": [1, 2, 3, 4], "default": 4},
            "max_age_hours": {"type": "float"},
            "databases": {"type": "list", "elements": "dict", "options": DATABASE, "default": []},
            "paths": {"type": "list", "elements": "str", "default": []},
            "scratch": {"type": "path"},
            "timeout_seconds": {"type": "float", "default": 14400.0},
        },
        supports_check_mode=True,
    )
    conclude(module, lambda: judge(module.params))


if __name__ == "__main__":
    main()
