# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A phase of a transaction, asked of the host's own command; of the module where there is no command that knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.backstay.ops.plugins.module_utils._release_client import (
    PHASE_COMMAND,
    phase_input,
    phase_result,
)


def reach(
    action: Any, module: str, options: Mapping[str, Any], request: Mapping[str, Any], task_vars: Any
) -> dict[str, Any]:
    """The result of the module `module`, whose validated options these are.

    Both ways end in the same function (`_release_client.ask`). Raises AnsibleConnectionFailure where the host cannot be
    reached, as a module does.
    """
    asked = {
        "application": options["application"],
        "state": options["state"],
        "request": dict(request),
        "deadlines": {},
        "check_mode": bool(action._task.check_mode),
        "transaction": options["transaction"],
    }
    # On standard input, as a module comes: so there is no terminal, which would mix the answer with complaints.
    done = action._low_level_execute_command(PHASE_COMMAND, in_data=phase_input(asked))
    answered = phase_result(done["stdout"], done["stderr"])
    if answered is not None:
        return answered
    result: dict[str, Any] = action._execute_module(module, dict(action._task.args), task_vars=task_vars)
    return result
