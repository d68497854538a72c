#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Place a set of files together: all or none."""

from __future__ import annotations

DOCUMENTATION = r"""
module: file_set
short_description: Place a set of files together, all or none
version_added: 0.1.0
author:
  - Backstay contributors (@backstay)
description:
  - Places files, links and directories, or removes them, as one set. When O(validate) refuses the placed set, or the
    unit of O(service) cannot use it, everything is put back as it was, and the message carries the last lines of what
    refused.
  - Nothing that is not ours is overwritten. The host remembers what was written in C(/var/lib/backstay/files.json);
    anything else in the way is refused by name, unless O(adopt=keep). A configuration file that is exactly as its
    Debian package shipped it counts as nobody's. A file of ours that was edited by hand is replaced, with a copy kept
    and reported.
  - systemd reads its units again where one of them, or a drop-in, is in the set and changed.
  - Writes are atomic and synced. A run that was cut off is put back by the next.
options:
  files:
    description: The set.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      state:
        description:
          - What is to be there. V(absent) removes a file or link of ours.
        type: str
        choices: [file, link, directory, absent]
        default: file
      content:
        description: Content of a file that is no secret.
        type: str
      target:
        description: Where a link points to.
        type: str
      mode:
        description: Permissions, as an octal number in quotes. The default is V(0644), for a directory V(0755).
        type: str
      owner:
        description: User that owns it.
        type: str
        default: root
      group:
        description: Group that owns it.
        type: str
        default: root
      secret:
        description: Take the content from O(secrets), and never show it, not even in a diff.
        type: bool
        default: false
      reload:
        description:
          - Whether O(service) and O(restart) must be told of a change of this file. V(false) for a file that is read at
            each use, such as a certificate whose path holds a variable.
        type: bool
        default: true
      serves:
        description:
          - A directory whose pages visitors are shown by this file, a site. With more in it than the pages that nginx
            and Apache greet with, the site counts as somebody's, even where it is as its Debian package shipped it.
        type: path
  secrets:
    description: Content of the files marked as secret, by path.
    type: dict
    default: {}
  adopt:
    description: What to do with a file in the way that Backstay did not write.
    type: str
    choices:
      refuse: Change nothing and name it.
      keep: Keep a dated copy in C(/var/lib/backstay/replaced/) and take it over.
    default: refuse
  validate:
    description: A command, as a list, that is run against the placed set and must end with 0.
    type: list
    elements: str
    default: []
  service:
    description:
      - A unit that uses these files. It is enabled and started where it is not, and reloaded after a change; never
        restarted.
    type: str
  error_log:
    description:
      - Where O(service) writes why it did not take a reload, as nginx does, which says nothing of it to systemd. With
        it, the new workers that a reload brings are waited for; where none come, the files are put back.
    type: path
  restart:
    description:
      - A unit that is restarted after a change, because it cannot reload and loses nothing by it, such as journald.
    type: str
attributes:
  check_mode:
    description: Says what would change, including what would be refused. O(validate) is not run.
    support: full
  diff_mode:
    description: Shows each file that changes; secrets never.
    support: full
"""

EXAMPLES = r"""
- name: Place a site, and let nginx use it only when nginx finds it good
  backstay.ops.file_set:
    files:
      - path: /etc/nginx/sites-available/portal.conf
        content: "{{ lookup('ansible.builtin.template', 'portal.conf.j2') }}"
      - path: /etc/nginx/sites-enabled/portal.conf
        state: link
        target: ../sites-available/portal.conf
      - path: /etc/ssl/portal.key
        secret: true
        mode: "0640"
        group: www-data
    secrets:
      /etc/ssl/portal.key: "{{ portal_key }}"
    validate: [nginx, -t]
    service: nginx.service
    error_log: /var/log/nginx/error.log
"""

RETURN = r"""
changes:
  description: What was done, or would be in check mode.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: The path.
      type: str
      returned: always
    verb:
      description: What happened to it.
      type: str
      returned: always
      sample: replace
kept:
  description: Copies kept of what others wrote, by path.
  returned: success
  type: dict
  sample: {"/etc/motd": "/var/lib/backstay/replaced/2026-11-21T065302Z/etc/motd"}
backstay_lines:
  description: What a person should know, such as the copies kept; and the last lines of a command that refused.
  returned: when there is something to say
  type: list
  elements: str
"""

import re
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.backstay.ops.plugins.module_utils._errors import InputError
from ansible_collections.backstay.ops.plugins.module_utils._file_set import Entry, FileSet, Outcome, diff, ids
from ansible_collections.backstay.ops.plugins.module_utils._module import conclude


def entry(given: dict[str, Any], secrets: dict[str, Any]) -> Entry:
    """One file of the set as the library knows it. Raises InputError, naming path and option."""
    path, kind = str(given["path"]), given["state"]
    content, target = given["content"], given["target"]
    if given["secret"]:
        if content is not None or not isinstance(secrets.get(path), str):
            raise InputError(f"{path} is marked secret: put its content into `secrets`, not into `content`.")
        content = secrets[path]
    if (content is not None) != (kind == "file"):
        raise InputError(f"{path} has state {kind}: `content` is for files, and a file needs it.")
    if (target is not None) != (kind == "link"):
        raise InputError(f"{path} has state {kind}: `target` is for links, and a link needs it.")
    mode = given["mode"] or ("0755" if kind == "directory" else "0644")
    if not re.fullmatch(r"[0-7]{3,4}", mode):
        raise InputError(f"{path} has mode {mode!r}: write it as an octal number in quotes, such as '0644'.")
    return Entry(
        path=path,
        kind=kind,
        content=(content or "").encode(),
        target=target or "",
        mode=int(mode, 8),
        owner=(0, 0) if kind in ("absent", "link") else ids(given["owner"], given["group"]),
        secret=given["secret"],
        reload=given["reload"],
        serves=given["serves"] or "",
    )


def place(options: dict[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Plan, place unless only asked what would happen, and say what changed. Raises BackstayError."""
    adopt = options["adopt"] == "keep"
    entries = [entry(given, options["secrets"]) for given in options["files"]]
    file_set = FileSet()
    planned = file_set.plan(entries, adopt=adopt)
    if check_mode:
        changes = [(change.entry.path, change.verb) for change in planned.changes]
        outcome = Outcome(planned.changed, tuple(changes))
    else:
        outcome = file_set.place(
            entries,
            adopt=adopt,
            validate=options["validate"],
            service=options["service"] or "",
            error_log=options["error_log"] or "",
            restart=options["restart"] or "",
        )
    result: dict[str, Any] = {
        "changed": outcome.changed,
        "changes": [{"path": path, "verb": verb} for path, verb in outcome.changes],
        "kept": dict(outcome.kept),
        "diff": diff(planned),
    }
    if outcome.lines:
        result["backstay_lines"] = list(outcome.lines)
    return result


def main() -> None:
    file_options = {
        "path": {"type": "path", "required": True},
        "state": {"type": "str", "choices": ["file", "link", "directory", "absent"], "default": "file"},
        "content": {"type": "str"},
        "target": {"type": "str"},
        "mode": {"type": "str"},
        "owner": {"type": "str", "default": "root"},
        "group": {"type": "str", "default": "root"},
        "secret": {"type": "bool", "default": False, "no_log": False},
        "reload": {"type": "bool", "default": True},
        "serves": {"type": "path"},
    }
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "list", "elements": "dict", "required": True, "options": file_options},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "adopt": {"type": "str", "choices": ["refuse", "keep"], "default": "refuse"},
            "validate": {"type": "list", "elements": "str", "default": []},
            "service": {"type": "str"},
            "error_log": {"type": "path"},
            "restart": {"type": "str"},
        },
        supports_check_mode=True,
    )
    conclude(module, lambda: place(module.params, check_mode=module.check_mode))


if __name__ == "__main__":
    main()
