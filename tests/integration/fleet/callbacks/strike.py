"""Strikes at exactly one place of a play: a command is run before a named task is sent to any host."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: strike
type: aggregate
short_description: Run a command before a task, for tests
description:
  - E(FLEET_STRIKE) is JSON, the name of a task and the command to run before it, as a list.
"""


class CallbackModule(CallbackBase):
    """The callback is told of a task before its first host is; whatever it does then has happened by then."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "strike"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._strike: dict[str, Any] | None = json.loads(os.environ.get("FLEET_STRIKE", "null"))

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        if self._strike and task.get_name().strip() == self._strike["before"]:
            subprocess.run(self._strike["command"], check=True, stdin=subprocess.DEVNULL, capture_output=True)
            self._strike = None
