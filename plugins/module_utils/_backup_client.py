"""What `backup`, `restore_point_verify` and `restore` (modules) share: options become a command, its JSON a result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ._module import Commanding, backstay, end


def ask(module: Commanding, verb: str, options: Mapping[str, Any], *, reads: bool = False) -> None:
    """Run a verb of the host's command for the application of the module's options, and end with its answer.

    In check mode it is asked for its plan; a verb that only reads does the same in both, and changes nothing.
    """
    name = module.params["application"]
    only_planned = module.check_mode and not reads
    answer = backstay(module, arguments(verb, name, options, plan=only_planned))
    told = result(verb, name, answer, check_mode=only_planned)
    end(module, told | {"changed": False} if reads else told)


def arguments(verb: str, application: str, given: Mapping[str, Any], *, plan: bool = False) -> list[str]:
    """Pure: the words after `backstay`. An option is left out where it is empty or false, and bare where it is true."""
    found = [verb, "--json", *(["--plan"] if plan else [])]
    for name, value in given.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            found.append(flag)
        elif value not in (None, False, ""):
            # One word: a value that begins with a dash is a value all the same.
            found.append(f"{flag}={value}")
    return [*found, application]


def result(verb: str, application: str, answer: tuple[int, str, str], *, check_mode: bool) -> dict[str, Any]:
    """Pure: the module's result (see _module.py) from exit code, standard output and standard error.

    The command may have said lines while it worked; its answer is the last object.
    """
    code, output, error = answer
    found = _last_object(output)
    if found is None:
        said = (error.strip() or output.strip() or "nothing")[-200:]
        said = f"backstay {verb} on {application} ended with {code} and no answer in JSON, but: {said}"
        return {"failed": True, "msg": said}
    failed = code != 0 or found.get("ok") is False
    kept = {name: value for name, value in found.items() if name not in ("format", "ok", "message", "lines", "changed")}
    kept["msg"] = str(found.get("message") or f"{application}: {verb} {'failed' if failed else 'is done'}.")
    kept["backstay_lines"] = [str(line) for line in found.get("lines") or []]
    if failed:
        kept |= {"failed": True, "exit_code": code}
    else:
        kept["backstay_lines"].insert(0, kept["msg"])  # what was done is what a person wants to read
    # A verb that failed may have changed something; one that was only asked for its plan never has.
    kept["changed"] = bool(found.get("changed", not failed))
    if check_mode and not failed:
        kept["msg"] = f"{kept['msg']} (only planned)"
    return kept


def _last_object(output: str) -> dict[str, Any] | None:
    for line in reversed(output.strip().splitlines()):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    try:
        value = json.loads(output)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
