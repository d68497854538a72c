"""How a module ends: with what its work returned, or with the one sentence of what stopped it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ._errors import BackstayError


class Module(Protocol):
    """What is used of AnsibleModule. The library itself knows no Ansible."""

    params: dict[str, Any]
    check_mode: bool

    def fail_json(self, msg: str, **result: Any) -> Any:
        """End in failure."""

    def exit_json(self, **result: Any) -> Any:
        """End well."""


class Commanding(Module, Protocol):
    """A module that runs a program of the host."""

    def get_bin_path(self, arg: str) -> str | None:
        """Where a program is; None where it is not installed."""

    def run_command(self, args: list[str]) -> tuple[int, str, str]:
        """Exit code, standard output and standard error of a program."""


def conclude(module: Module, work: Callable[[], Mapping[str, Any]]) -> None:
    """Do the work and end with the result that it returns, or with the BackstayError that it raises."""
    try:
        result = work()
    except BackstayError as refused:
        result = failure(refused)
    end(module, result)


def end(module: Module, result: Mapping[str, Any]) -> None:
    """End with a result. As in Ansible, `failed` in it says that it is a failure; then it has `msg`."""
    said = {name: value for name, value in result.items() if name != "failed"}
    if result.get("failed"):
        module.fail_json(**said)
    else:
        module.exit_json(**said)


def failure(refused: BackstayError, lines: Sequence[str] | None = None) -> dict[str, Any]:
    """The result of a module that was stopped. `lines` are for people, those of the error unless given."""
    return {
        "failed": True,
        "changed": False,
        "msg": refused.message,
        "exit_code": refused.exit_code,
        "backstay_lines": list(refused.lines if lines is None else lines),
    }


def backstay(module: Commanding, arguments: list[str]) -> tuple[int, str, str]:
    """Run the host's command. Ends the module where there is none."""
    program = module.get_bin_path("backstay")
    if program is None:
        module.fail_json(msg="The command backstay is not installed on this host: run playbooks/site.yml.")
        return 127, "", ""  # for a reader; fail_json does not return
    return module.run_command([program, *arguments])
