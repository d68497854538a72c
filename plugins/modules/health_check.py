#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ask whether services are well, until they are, or until a deadline."""

from __future__ import annotations

DOCUMENTATION = r"""
module: health_check
short_description: Ask whether services are well, until they are or a deadline has passed
version_added: 0.1.0
author:
  - Backstay contributors (@backstay)
description:
  - Asks a list of checks on the host it runs on. They look at HTTP over TCP, TLS or a unix socket, at a port, a systemd
    unit, processes, disk, a certificate, or run a command.
  - All checks must pass O(consecutive) times in a row before O(deadline_seconds) have passed, so that a worker that is
    up does not hide another that is not.
  - Each check has its own time limit, which holds for the whole of it, from the name lookup to the last byte.
  - The result has an entry per check, with its time and the reason in a sentence. It fails when not all are well.
  - It needs nothing on the host but Python, and changes nothing. It can be used without the rest of Backstay.
options:
  checks:
    description:
      - What to ask. Each type takes the keys named for it; any other is refused.
      - O(checks[].name), O(checks[].type) and O(checks[].timeout_seconds) are for all.
    type: list
    elements: dict
    required: true
    suboptions:
      type:
        description: What kind of check it is.
        type: str
        required: true
        choices:
          http: One request, and what is expected of its answer. Redirects are not followed.
          tcp: A port or unix socket that accepts a connection.
          unit: A systemd unit.
          process: Processes by name, pid file or control group.
          disk: Room on a file system.
          certificate: A certificate, shown by a port or in a file.
          command: A command that ends in time.
      name:
        description: What to call it in messages. The default says what is asked.
        type: str
      timeout_seconds:
        description: Time limit of this check. The default is 5, for a command 10.
        type: float
      url:
        description: "http: where to ask, V(https://name:port/path). Users and passwords in it are refused."
        type: str
      socket:
        description: "http, tcp: path of a unix socket to ask instead of O(checks[].url) or O(checks[].host)."
        type: path
      host:
        description:
          - "http: with O(checks[].socket), the Host header. tcp, certificate: the name or address to connect to."
          - "certificate: it is also the name asked for (SNI)."
        type: str
      port:
        description: "tcp, certificate: the port. The default for a certificate is 443."
        type: int
      address:
        description: "http, tcp, certificate: connect to this address instead of looking up the name."
        type: str
      path:
        description:
          - "http: with O(checks[].socket), the path to ask for. disk: a path on the file system. The default is V(/)."
        type: str
      method:
        description: "http: the method. The default is V(GET)."
        type: str
      headers:
        description: "http: headers to send. Authorization and Cookie are refused here."
        type: dict
      secret_headers:
        description: "http: headers to send and never to print."
        type: dict
      verify:
        description: "http: whether the certificate must be trusted. The default is V(true)."
        type: bool
      ca_file:
        description: "http, certificate: PEM file of the authorities to trust instead of the system's."
        type: path
      status:
        description: "http: the expected status, or several. The default is 200."
        type: list
        elements: int
      contains:
        description: "http, command: texts that the first MiB of the body, or the output, must hold."
        type: list
        elements: str
      matches:
        description: "http: a regular expression (Python) that must be found in the body."
        type: str
      header_equals:
        description: "http: headers the answer must have, with these values."
        type: dict
      json_equals:
        description: "http: values the answer's JSON must have, by dotted path; a number in a path is an index."
        type: dict
      latency_seconds:
        description: "http: the answer must be there within this time."
        type: float
      release_id:
        description: "http: the header X-Release-Id of the answer must be this."
        type: str
      release_link:
        description:
          - "http: path of a link to a socket such as C(/run/portal/0007-1.1.0/web.sock). The header X-Release-Id must
            be the name of that socket's directory, here V(0007-1.1.0). It is read anew at each attempt."
        type: path
      file_below:
        description:
          - "http: ask for the first file below this directory of the host, under the path given. Where there is no file
            yet, the check is skipped."
        type: path
      unit:
        description: "unit: its name; C(.service) is added where it has no ending."
        type: str
      state:
        description: "unit: the expected ActiveState. The default is V(active)."
        type: str
      sub_state:
        description: "unit: the expected SubState, such as V(running)."
        type: str
      restarts_max:
        description: "unit: how often systemd may have restarted it since it was started by hand."
        type: int
      up_seconds:
        description: "unit: how long it must have been active, which finds a unit that restarts all the time."
        type: float
      process:
        description: "process: name of a process, as C(ps -o comm) shows it."
        type: str
      pid_file:
        description: "process: a file with the number of a process that must run."
        type: path
      cgroup:
        description: "process: a control group below C(/sys/fs/cgroup), such as V(system.slice/nginx.service)."
        type: str
      count_min:
        description: "process: how many there must be at least. The default is 1."
        type: int
      count_max:
        description: "process: how many there may be at most."
        type: int
      free_bytes:
        description: "disk: how many bytes must be free."
        type: int
      free_percent:
        description: "disk: how much must be free, in percent of what can be used."
        type: float
      free_inodes:
        description: "disk: how many inodes must be free. Passes where the file system has no fixed number of them."
        type: int
      file:
        description: "certificate: a PEM file, whose first certificate is looked at."
        type: path
      days_left:
        description: "certificate: how many days it must be valid still. The default is 14."
        type: float
      names:
        description: "certificate: names and addresses it must be for. The default is O(checks[].host)."
        type: list
        elements: str
      chain:
        description: "certificate: whether its chain must be trusted. The default is V(true) for a port."
        type: bool
      argv:
        description: "command: the command as a list. No shell reads it."
        type: list
        elements: str
      exit_codes:
        description: "command: the expected exit code, or several. The default is 0."
        type: list
        elements: int
      directory:
        description: "command: directory to run it in."
        type: path
      environment:
        description: "command: variables added to its environment."
        type: dict
      secret_environment:
        description: "command: variables added to its environment, and never printed."
        type: dict
  consecutive:
    description: How many times in a row all checks must pass. More than once needs O(deadline_seconds).
    type: int
    default: 1
  interval_seconds:
    description: Pause between two attempts.
    type: float
    default: 1.0
  deadline_seconds:
    description: How long to go on asking. V(0) asks once and does not wait.
    type: float
    default: 0.0
attributes:
  check_mode:
    description: Asks just the same, as it changes nothing.
    support: full
  diff_mode:
    description: There is no difference to show.
    support: none
"""

EXAMPLES = r"""
- name: Wait until the portal has been well three times in a row
  backstay.ops.health_check:
    consecutive: 3
    interval_seconds: 0.5
    deadline_seconds: 60
    checks:
      - type: http
        name: portal
        url: https://portal.example.org/healthz/
        address: 127.0.0.1
        status: 200
        json_equals: {status: pass, checks.database.0.status: pass}
        latency_seconds: 1

- name: Ask an application on its own socket, and for a page that needs a login
  backstay.ops.health_check:
    checks:
      - type: http
        socket: /run/portal/0007-1.1.0/web.sock
        host: portal.example.org
        path: /healthz/
        release_id: 0007-1.1.0
      - type: http
        name: the report
        url: https://portal.example.org/report/
        secret_headers:
          Authorization: "Bearer {{ report_token }}"
        header_equals: {Content-Type: application/pdf}
      - type: http
        name: an uploaded file
        url: https://portal.example.org/media/
        file_below: /opt/portal/data/media

- name: A port and a socket
  backstay.ops.health_check:
    checks:
      - {type: tcp, host: 127.0.0.1, port: 5432}
      - {type: tcp, socket: /run/postgresql/.s.PGSQL.5432}

- name: Units that run, and have not just been restarted
  backstay.ops.health_check:
    checks:
      - {type: unit, unit: nginx, sub_state: running, up_seconds: 10}
      - {type: unit, unit: cron, restarts_max: 0}

- name: Processes by name, pid file and control group
  backstay.ops.health_check:
    checks:
      - {type: process, process: nginx, count_min: 2}
      - {type: process, pid_file: /run/nginx.pid}
      - {type: process, cgroup: system.slice/cron.service, count_max: 20}

- name: Room for a release
  backstay.ops.health_check:
    checks:
      - {type: disk, path: /opt, free_bytes: 1073741824, free_percent: 10, free_inodes: 20000}

- name: Certificates that last another three weeks
  backstay.ops.health_check:
    checks:
      - {type: certificate, host: portal.example.org, address: 127.0.0.1, days_left: 21}
      - {type: certificate, file: /etc/ssl/portal.pem, days_left: 21, names: [portal.example.org]}

- name: A command that knows better
  backstay.ops.health_check:
    checks:
      - type: command
        name: the database answers
        argv: [psql, --tuples-only, --command, select 1]
        contains: "1"
        timeout_seconds: 3
        secret_environment:
          PGPASSWORD: "{{ database_password }}"
"""

RETURN = r"""
results:
  description: What each check saw, at the last attempt.
  returned: always, unless the options are refused
  type: list
  elements: dict
  contains:
    name:
      description: The check's name.
      type: str
      returned: always
      sample: portal
    kind:
      description: Its type.
      type: str
      returned: always
      sample: http
    ok:
      description: Whether it passed. A check that had nothing to ask yet passes.
      type: bool
      returned: always
    seconds:
      description: How long it took.
      type: float
      returned: always
      sample: 0.012
    observed:
      description: What was seen.
      type: str
      returned: always
      sample: 200 in 12 ms from 0007-1.1.0
    expected:
      description: What would have been well.
      type: str
      returned: always
      sample: 200, release 0007-1.1.0
    reason:
      description: Why it is not well; empty when it is.
      type: str
      returned: always
      sample: "/healthz/ answered 503, expected 200 (database: unable to open database file)"
    skipped:
      description: Whether nothing was asked, because there was nothing to ask yet or no time was left.
      type: bool
      returned: always
attempts:
  description: How many times the checks were asked.
  returned: always, unless the options are refused
  type: int
  sample: 3
seconds:
  description: How long it took altogether.
  returned: always, unless the options are refused
  type: float
  sample: 1.07
reason:
  description: The verdict in one clause.
  returned: always, unless the options are refused
  type: str
  sample: all 4 checks passed 3 times in a row
backstay_lines:
  description: A line per check, for people.
  returned: always, unless the options are refused
  type: list
  elements: str
"""

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.backstay.ops.plugins.module_utils._health import parse_checks, run_until
from ansible_collections.backstay.ops.plugins.module_utils._module import conclude

_TEXT = {"type": "str"}
_PATH = {"type": "path"}
_DICT = {"type": "dict"}
_WHOLE = {"type": "int"}
_NUMBER = {"type": "float"}
_FLAG = {"type": "bool"}
_TEXTS = {"type": "list", "elements": "str"}
_WHOLES = {"type": "list", "elements": "int"}
_SECRETS = {"type": "dict", "no_log": True}

CHECK = {
    "type": {
        "type": "str",
        "required": True,
        "choices": ["http", "tcp", "unit", "process", "disk", "certificate", "command"],
    },
    **dict.fromkeys(("name", "url", "host", "address", "path", "method", "matches", "release_id"), _TEXT),
    **dict.fromkeys(("unit", "state", "sub_state", "process", "cgroup"), _TEXT),
    **dict.fromkeys(("socket", "ca_file", "release_link", "file_below", "pid_file", "file", "directory"), _PATH),
    **dict.fromkeys(("headers", "header_equals", "json_equals", "environment"), _DICT),
    **dict.fromkeys(("secret_headers", "secret_environment"), _SECRETS),
    **dict.fromkeys(("port", "restarts_max", "count_min", "count_max", "free_bytes", "free_inodes"), _WHOLE),
    **dict.fromkeys(("timeout_seconds", "latency_seconds", "up_seconds", "free_percent", "days_left"), _NUMBER),
    **dict.fromkeys(("verify", "chain"), _FLAG),
    **dict.fromkeys(("contains", "names", "argv"), _TEXTS),
    **dict.fromkeys(("status", "exit_codes"), _WHOLES),
}


def ask(options: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict on the checks of the module's options. Raises BackstayError."""
    report = run_until(
        parse_checks(options["checks"]),
        consecutive=options["consecutive"],
        interval_seconds=options["interval_seconds"],
        deadline_seconds=options["deadline_seconds"],
    )
    found = {key: value for key, value in report.to_dict().items() if key != "ok"}
    if not report.ok:
        found |= {"failed": True, "msg": f"Not well: {report.reason}."}
    return {"changed": False, **found, "backstay_lines": report.lines()}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "checks": {"type": "list", "elements": "dict", "required": True, "options": CHECK},
            "consecutive": {"type": "int", "default": 1},
            "interval_seconds": {"type": "float", "default": 1.0},
            "deadline_seconds": {"type": "float", "default": 0.0},
        },
        supports_check_mode=True,
    )
    conclude(module, lambda: ask(module.params))


if __name__ == "__main__":
    main()
