#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Judge, compare and tell of several hosts of one application; the work is done by the action of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet
short_description: Judge, compare and tell of all hosts of a run together
version_added: 0.1.0
author:
  - Backstay contributors (@backstay)
description:
  - Looks at all hosts of the play at once, on the controller; it contacts none of them. Give it C(run_once).
  - What other tasks found is read from what they registered for each host, under names that begin with O(prefix).
options:
  do:
    description: What to do.
    type: str
    required: true
    choices:
      judge: >-
        Refuse O(applications) that cannot be on several hosts (an SQLite database, media, a singleton, another
        strategy), and return a name for this run and the hosts that go first.
      agree: Refuse to go on where C(<prefix>prepared) of the hosts are different releases, payload or configuration.
      decide: >-
        Return where all hosts are to be, from the facts in C(<prefix>asked); in check mode tell how each would get
        there.
      report: Tell what became of each host, one line each, and fail unless all are where they were to be.
  applications:
    description: Applications as the lookup P(backstay.ops.application#lookup) gives them, for O(do=judge).
    type: list
    elements: dict
    default: []
  strategy:
    description: The release's strategy, for O(do=judge).
    type: str
    default: live
  canary:
    description: The hosts that are to flip first, for O(do=judge).
    type: list
    elements: str
    default: []
  prefix:
    description: How the names of registered variables begin.
    type: str
    default: ""
  application:
    description: Name of the application, for O(do=report), and for O(do=decide) in check mode.
    type: str
  verb:
    description: What was done, for O(do=report).
    type: str
    choices: [release, rollback, recover]
  run:
    description: The RV(run) that O(do=judge) returned, for O(do=report).
    type: str
    default: ""
  phases:
    description: >-
      The names of registered variables without O(prefix), in their order, for O(do=report). What C(<prefix>after)
      holds is what a host said afterwards.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Looks only.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
seealso:
  - module: backstay.ops.release
  - module: backstay.ops.rollback
"""

EXAMPLES = r"""
- name: Judge the application for all its hosts
  backstay.ops.fleet:
    do: judge
    applications: "{{ query('backstay.ops.application', 'audit-portal') }}"
    canary: "{{ groups['canary'] | default([]) }}"
  run_once: true
  register: together

- name: Tell what became of each host
  backstay.ops.fleet:
    do: report
    verb: release
    application: audit-portal
    run: "{{ together.run }}"
    prefix: my_release_
    phases: [prepared, flipped, confirmed]
  run_once: true
"""

RETURN = r"""
run:
  description: A name for this run, for the option C(run) of M(backstay.ops.release) and M(backstay.ops.rollback).
  returned: O(do=judge)
  type: str
  sample: 20261121T104500Z-1f2e3d
canary:
  description: The hosts of the play that flip first; none where that would be all of them.
  returned: O(do=judge)
  type: list
  elements: str
goal:
  description: Where all hosts are to be, for C(backstay recover --towards).
  returned: O(do=decide)
  type: str
fleet:
  description: What became of each host, as data; also among the statistics of the run, as C(backstay_fleet).
  returned: O(do=report)
  type: dict
backstay_lines:
  description: The same for people.
  returned: O(do=decide) and O(do=report)
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Only the action knows all hosts."""
    module = AnsibleModule(
        argument_spec={
            "do": {"type": "str", "required": True, "choices": ["judge", "agree", "decide", "report"]},
            "applications": {"type": "list", "elements": "dict", "default": []},
            "strategy": {"type": "str", "default": "live"},
            "canary": {"type": "list", "elements": "str", "default": []},
            "prefix": {"type": "str", "default": ""},
            "application": {"type": "str"},
            "verb": {"type": "str", "choices": ["release", "rollback", "recover"]},
            "run": {"type": "str", "default": ""},
            "phases": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    module.fail_json(msg="Run this as the task backstay.ops.fleet: its work is done on the controller.")


if __name__ == "__main__":
    main()
