# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What only the controller sees: several hosts of one application, judged, compared and told about together."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.backstay.ops.plugins.module_utils._application import Application, parse
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, InputError
from ansible_collections.backstay.ops.plugins.module_utils._fleet import (
    Goal,
    Phase,
    Seen,
    agreed,
    canaries,
    decide,
    forks_refusal,
    names,
    outcome,
    refusal,
    seen,
    strategy_refusal,
    would,
)

Facts = Mapping[str, Any]
DEFAULT_FORKS = 5  # Ansible's


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core comes without types
    """What Ansible asks for."""

    BYPASS_HOST_LOOP = True
    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        options = dict(self._task.args)
        known = task_vars or {}
        hosts = [str(host) for host in known.get("ansible_play_hosts_all") or []]
        do = {"judge": judge, "agree": agree, "decide": wanted, "report": report}.get(str(options.get("do")))
        if do is None:
            raise AnsibleActionFail("fleet needs the option `do`: judge, agree, decide or report.")
        try:
            options["check_mode"] = bool(self._task.check_mode)
            result.update(do(hosts, Variables(known.get("hostvars") or {}, str(options.get("prefix", ""))), options))
            if self._task.check_mode and do is report and not result.get("failed"):
                result.pop("backstay_lines", None)  # nothing happened, so there is nothing to tell
        except BackstayError as error:
            raise AnsibleActionFail(error.message, result={"backstay_lines": list(error.lines)}) from error
        return result


class Variables:
    """What the tasks of this play registered for each host, under names that begin alike."""

    def __init__(self, hostvars: Mapping[str, Any], prefix: str) -> None:
        self._hostvars = hostvars
        self._prefix = prefix

    def of(self, host: str, name: str) -> Mapping[str, Any]:
        found = self.plain(host, f"{self._prefix}{name}")
        return found if isinstance(found, Mapping) else {}

    def plain(self, host: str, name: str) -> Any:
        return self._hostvars[host].get(name) if host in self._hostvars else None


def judge(hosts: Sequence[str], known: Variables, options: Facts) -> dict[str, Any]:
    """Refuse what cannot be on several hosts; name this run, and the hosts that go first."""
    for described in options.get("applications") or []:
        application = parse(described, file="the application's file")
        mine = [host for host in hosts if application.name in (known.plain(host, "backstay_applications") or [])]
        refused = refusal(application, mine)
        refused = refused or _in_turns(application, mine, known, options)
        if refused:
            raise InputError(refused)
    refused = strategy_refusal(str(options.get("strategy") or "live"), hosts)
    if refused:
        raise InputError(refused)
    run = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    return {"changed": False, "run": run, "canary": list(canaries(hosts, options.get("canary") or []))}


def _in_turns(application: Application, hosts: Sequence[str], known: Variables, options: Facts) -> str | None:
    """Only a release beside visitors is watched."""
    if not options.get("strategy") or options["strategy"] != "live" or not hosts:
        return None
    releases, given = application.releases, known.plain(hosts[0], "confirm_seconds")
    forks = int(known.plain(hosts[0], "ansible_forks") or DEFAULT_FORKS)
    return forks_refusal(hosts, forks, releases.watch.seconds, float(given or releases.confirm_seconds))


def agree(hosts: Sequence[str], known: Variables, _unused: Facts) -> dict[str, Any]:
    """Refuse to flip hosts to different releases."""
    agreed({host: known.of(host, "prepared") for host in hosts})
    return {"changed": False}


def wanted(hosts: Sequence[str], known: Variables, options: Facts) -> dict[str, Any]:
    """Where all hosts are to be, from what each of them said; in check mode also how each would get there."""
    asked: dict[str, Seen | None] = {}
    for host in hosts:
        said = known.of(host, "asked")
        asked[host] = None if _silent(said) or said.get("failed") else seen(said)
    goal: Goal = decide(asked)
    lines = [goal.why]
    missing = [host for host, said in asked.items() if said is None]
    if missing:
        lines.append(f"{names(missing)} said nothing: decided without")
    if options.get("check_mode"):
        application = str(options.get("application") or "the application")
        lines += [f"{host}: {would(goal, said, application=application)}" for host, said in asked.items() if said]
    return {"changed": False, "goal": json.dumps(goal.to_dict()), "backstay_lines": lines}


def report(hosts: Sequence[str], known: Variables, options: Facts) -> dict[str, Any]:
    """What became of each host; fails unless all ended where they were to end."""
    phases = [str(phase) for phase in options["phases"]]
    ended = outcome(
        application=str(options["application"]),
        verb=str(options["verb"]),
        run=str(options.get("run") or ""),
        hosts={host: [Phase.of(phase, _said(known.of(host, phase))) for phase in phases] for host in hosts},
        after={host: known.of(host, "after") for host in hosts},
    )
    told = {"application": options["application"], **ended.to_dict()}
    return {
        "changed": False,
        "failed": not ended.ok,
        "msg": ended.message,
        # What a release did on a single host was told step by step.
        "backstay_lines": ended.lines or [row.happened for row in ended.rows if options["verb"] == "recover"],
        "fleet": told,
        "ansible_stats": {"data": {"backstay_fleet": told}, "per_host": False, "aggregate": False},
    }


def _said(registered: Facts) -> Facts:
    """A result, with what the host's own command answered in JSON."""
    try:
        return {**registered, **json.loads(str(registered.get("stdout") or "{}"))}
    except ValueError:
        return registered


def _silent(said: Facts) -> bool:
    return not said or bool(said.get("unreachable")) or bool(said.get("skipped"))
