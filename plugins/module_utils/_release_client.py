"""What the modules `release` and `rollback` share: a state becomes a command, an answer becomes a module's result.

The verb `phase` of the host's command is the same by another door (`main`): a phase that brings nothing along needs no
module, which costs several times as much; with many hosts that is how long they differ from each other.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from ._client import call
from ._errors import BackstayError
from ._layout import Layout
from ._module import failure
from ._version import PROTOCOL

_COMMANDS = {
    "prepared": "begin",
    "live": "begin",
    "closed": "close",
    "flipped": "flip",
    "watched": "watch",
    "confirmed": "confirm",
    "aborted": "abort",
}
PHASE_COMMAND = "/usr/bin/backstay phase"
_KNOWN = "backstay phase 1"  # said before anything is asked: a command that is missing or older never says it


def begins(state: str) -> bool:
    """Whether a state is reached by beginning a transaction, which may bring an application and a payload along."""
    return _COMMANDS[state] == "begin"


def main() -> int:
    """The verb `phase`: what `ask` takes as JSON on standard input; its result as `phase_result` reads it.

    For whoever speaks another protocol nothing is asked: the module then says what to do."""
    asked = json.load(sys.stdin)
    if asked.pop("protocol", None) != PROTOCOL:
        return 2
    sys.stdout.write(f"{_KNOWN}\n")
    sys.stdout.flush()
    sys.stdout.write(json.dumps(ask(**asked)) + "\n")
    return 0


def phase_input(asked: Mapping[str, Any]) -> bytes:
    """What the verb `phase` reads: what `ask` takes, without anything that is carried along."""
    return json.dumps({"protocol": PROTOCOL, **asked}).encode()


def phase_result(said: str, complaint: str) -> dict[str, Any] | None:
    """The module's result from what the verb `phase` said on standard output and error; None where nothing was asked,
    because the host has no such command."""
    _before, known, answer = said.replace("\r", "").partition(f"{_KNOWN}\n")
    if not known:
        return None
    try:
        return dict(json.loads(answer))
    except (ValueError, TypeError):
        last = [line.strip() for line in complaint.splitlines() if line.strip()][-1:] or ["it said nothing"]
        sentence = f"The command backstay ended before it answered ({last[0]}): see `backstay status` on the host."
        return failure(BackstayError(sentence))


def ask(
    application: str,
    state: str,
    request: Mapping[str, Any],
    deadlines: Mapping[str, float],
    *,
    check_mode: bool,
    transaction: str | None = None,
    carried: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The module's result (see _module.py). Nothing is changed in check mode.

    `transaction` is the one that `prepared` returned: only that one is flipped, confirmed or aborted, never somebody
    else's. Empty means that nothing was prepared, so that nothing has to be done. `carried` goes with the request
    (see _service.py).
    """
    layout = Layout(application)
    said: list[str] = []
    declared: dict[str, Any] = {}

    def follow(event: Mapping[str, Any]) -> None:
        if event.get("event") == "declared":
            declared.update(event)
        said.extend(_lines(event))

    try:
        if transaction == "":
            return {"changed": False, "backstay_lines": [], "msg": f"{application}: nothing was prepared."}
        if check_mode:
            if not begins(state):
                return {"changed": True, "backstay_lines": [], "msg": f"{application}: would be {state}."}
            answer = call(layout, "plan", on_event=follow, request=dict(request), **(carried or {}))
            said.extend([str(answer["message"]), *(str(line) for line in answer["lines"])])
        elif begins(state):
            answer = call(
                layout,
                "begin",
                on_event=follow,
                request=dict(request),
                auto=state == "live",
                **deadlines,
                **(carried or {}),
            )
        elif state == "aborted" and call(layout, "status")["state"] == "idle":
            return {"changed": False, "backstay_lines": [], "msg": f"{application}: no transaction is open."}
        else:
            answer = call(
                layout,
                _COMMANDS[state],
                on_event=follow,
                transaction=transaction,
            )
    except BackstayError as failed:
        return failure(failed, [*said, *(f"| {line}" for line in failed.lines)])
    result = {name: value for name, value in answer.items() if name not in ("event", "ok", "lines", "message")}
    released = bool(answer.get("changed", True))
    result["changed"] = released or bool(declared.get("changed"))
    result["backstay_lines"] = said or list(answer.get("lines", []))
    if state in ("confirmed", "live") and answer.get("operation") in ("release", "maintenance"):
        result["backstay_lines"] += [line for line in str(answer.get("notes") or "").splitlines() if line.strip()][:12]
    result["msg"] = answer.get("message") or f"{application}: {answer.get('release')} is {state}."
    goes = released and state != "prepared"
    switched = {
        "before": f"live: {answer.get('previous')}\n",
        "after": f"live: {answer.get('release' if goes else 'previous')}\n",
    }
    result["diff"] = [*declared.get("diff", []), switched]
    return result


def _lines(event: Mapping[str, Any]) -> list[str]:
    """An event of the service as lines for people; most have none."""
    if event.get("event") == "declared":
        return [str(line) for line in event["lines"]]
    if event.get("event") == "step":
        return [f"{event['title']:<36} {event['seconds']:>7.2f} s  {event['detail']}"]
    if event.get("event") == "undone":
        return [f"undone: {event['title']}"]
    if event.get("event") == "say":
        return [str(event["line"])]
    return []
