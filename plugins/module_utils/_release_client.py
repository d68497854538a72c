"""What the modules `release` and `rollback` share: a state becomes a command, an answer becomes a module's result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._client import call
from ._errors import BackstayError
from ._layout import Layout
from ._module import failure

_COMMANDS = {
    "prepared": "begin",
    "live": "begin",
    "closed": "close",
    "flipped": "flip",
    "watched": "watch",
    "confirmed": "confirm",
    "aborted": "abort",
}


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
            if _COMMANDS[state] != "begin":
                return {"changed": True, "backstay_lines": [], "msg": f"{application}: would be {state}."}
            answer = call(layout, "plan", on_event=follow, request=dict(request), **(carried or {}))
            said.extend([str(answer["message"]), *(str(line) for line in answer["lines"])])
        elif _COMMANDS[state] == "begin":
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
