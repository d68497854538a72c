# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The controller's half of the module host_command: send the library, but only to a host that does not have it."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._host_command import library, pack, release_name


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core comes without types
    """What Ansible asks for."""

    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        try:
            files = library()
        except BackstayError as error:
            raise AnsibleActionFail(error.message) from error
        asked = self._ask({"name": release_name(files)}, task_vars)
        if not asked.get("needs_library"):
            return {**result, **asked}
        directory = self._make_tmp_path()
        try:
            archive = self._connection._shell.join_path(directory, "library.zip")
            self._transfer_data(archive, pack(files))
            return {**result, **self._ask({"name": release_name(files), "library": archive}, task_vars)}
        finally:
            self._remove_tmp_path(directory)

    def _ask(self, options: dict[str, Any], task_vars: Any) -> dict[str, Any]:
        done: dict[str, Any] = self._execute_module("backstay.ops.host_command", options, task_vars=task_vars)
        return done
