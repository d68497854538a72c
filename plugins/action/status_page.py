# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What only the controller sees: all hosts of a play on one page, those that are silent too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.backstay.ops.plugins.module_utils._cells import RANK, verdict
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._page import RUNBOOKS, page, text
from ansible_collections.backstay.ops.plugins.module_utils._page_hosts import document_of, rows_of
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core comes without types
    """What Ansible asks for."""

    BYPASS_HOST_LOOP = True
    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        options, known = dict(self._task.args), task_vars or {}
        if not options.get("asked") or not options.get("directory"):
            raise AnsibleActionFail("status_page needs the options `asked` and `directory`.")
        hosts = [str(host) for host in known.get("ansible_play_hosts_all") or []]
        directory = Path(str(options["directory"])).expanduser()
        try:
            result.update(self._page(hosts, known.get("hostvars") or {}, options, directory))
        except (BackstayError, OSError) as error:
            raise AnsibleActionFail(str(error)) from error
        return result

    def _page(
        self, hosts: list[str], hostvars: Mapping[str, Any], options: Mapping[str, Any], directory: Path
    ) -> dict[str, Any]:
        now = datetime.now(UTC)
        said = {host: _registered(hostvars, host, str(options["asked"])) for host in hosts}
        groups = {host: set(hostvars[host].get("group_names") or ()) for host in hosts if host in hostvars}
        serving = [host for host in groups if "probes" not in groups[host] or "app_servers" in groups[host]]
        declared = {host: list(hostvars[host].get("backstay_applications") or []) for host in serving}
        probes = {
            host: [probe for probe in groups if "probes" in groups[probe] and probe != host]
            for host in serving
            if "app_servers" in groups[host]
        }
        rows, silent = rows_of(said, declared, _before(directory / "status.json"), now=now, probes=probes)
        told = document_of(rows, silent, now)
        shown = page(
            rows, now=now, title=str(options.get("title") or ""), runbooks=str(options.get("runbooks") or RUNBOOKS)
        )
        files = {
            directory / "status.html": shown.encode(),
            directory / "status.json": json.dumps(told, indent=1).encode(),
        }
        if not self._task.check_mode:
            storage = Storage()
            storage.make_directory(directory)
            for path, content in files.items():
                storage.write(path, content)
        found = verdict(rows)
        worst = str(options.get("fail_on") or "never")
        failed = worst in RANK and RANK[found.state] >= RANK[worst]
        return {
            "changed": False,  # the page is a look, as a debug line is
            "failed": failed,
            "msg": f"{found.sentence}: see {directory / 'status.html'}",
            "verdict": found.to_dict(),
            "needs": told["needs"],
            "files": [] if self._task.check_mode else [str(path) for path in files],
            "backstay_lines": [
                *text(rows).splitlines(),
                *([] if self._task.check_mode else [f"wrote {directory}/status.html"]),
            ],
            "ansible_stats": {"data": {"backstay_status": found.to_dict()}, "per_host": False, "aggregate": False},
        }


def _registered(hostvars: Mapping[str, Any], host: str, name: str) -> Mapping[str, Any]:
    found = hostvars[host].get(name) if host in hostvars else None
    return found if isinstance(found, Mapping) else {}


def _before(path: Path) -> Mapping[str, Any]:
    """The page before; nothing where there was none, or none that can be read."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, Mapping) and value.get("format") == 1 else {}
