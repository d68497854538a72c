# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The controller's half of the module rollback: nothing has to be brought along, so the host's command is asked."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.backstay.ops.plugins.modules.rollback import ARGUMENTS, request
from ansible_collections.backstay.ops.plugins.plugin_utils.phase import reach


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core comes without types
    """What Ansible asks for."""

    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _valid, options = self.validate_argument_spec(ARGUMENTS)
        return {**result, **reach(self, "backstay.ops.rollback", options, request(options), task_vars)}
