# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The controller's half of the module release: send the payload, but only to a host that does not have it; ask for a
phase that brings nothing along without a module."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.backstay.ops.plugins.module_utils._artifact import check_whole
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._release_client import begins
from ansible_collections.backstay.ops.plugins.modules.release import ARGUMENTS
from ansible_collections.backstay.ops.plugins.plugin_utils.phase import reach


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core comes without types
    """What Ansible asks for."""

    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _valid, options = self.validate_argument_spec(ARGUMENTS)
        if not begins(options["state"]):
            return {**result, **reach(self, "backstay.ops.release", options, {}, task_vars)}
        source, payload = options["src"], options["payload"]
        if source and payload:
            self._judge(source, payload)
        if source and payload and not self._task.check_mode:
            self._send(source, str(Layout(options["application"]).payload(payload)), payload)
        return {**result, **self._execute_module("backstay.ops.release", dict(self._task.args), task_vars=task_vars)}

    def _judge(self, source: str, digest: str) -> None:
        """One that is damaged here is no payload, whatever the host has."""
        try:
            check_whole(Path(source), digest, remedy="build it again with playbooks/build.yml")
        except (BackstayError, OSError) as broken:
            raise AnsibleActionFail(str(broken)) from broken

    def _send(self, source: str, target: str, digest: str) -> None:
        """Have the payload at `target`, whole, or as it was before. Whether it is whole is asked by its digest, so that
        one that was damaged there is sent again."""
        there, partial = shlex.quote(target), shlex.quote(f"{target}.partial")
        whole = f"printf '%s  %s' {shlex.quote(digest)} {there} | sha256sum --check --status"
        # As one that was sent now: the host removes those of no release, and this has none yet.
        if self._command(f"{whole} && touch {there}")["rc"] == 0:
            return
        directory = self._make_tmp_path()
        try:
            sent = shlex.quote(self._transfer_file(source, self._connection._shell.join_path(directory, "payload.tar")))
            placed = self._command(
                f"install --owner=root --group=root --mode=0600 {sent} {partial} && mv {partial} {there}"
            )
        finally:
            self._remove_tmp_path(directory)
        if placed["rc"] != 0:
            self._command(f"rm --force {partial}")
            raise AnsibleActionFail(
                f"The payload could not be stored as {target} ({placed['stderr'].strip()}): make room there, or run "
                "playbooks/site.yml if the application was never declared on this host, then run this again."
            )

    def _command(self, command: str) -> dict[str, Any]:
        done: dict[str, Any] = self._low_level_execute_command(command)
        return done
