"""Promise 2: whatever dies at whatever moment, recovery knows what to do from the journal alone."""

from __future__ import annotations

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._engine import Engine
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._journal import Record
from ansible_collections.backstay.ops.plugins.module_utils._steps import (
    OPERATIONS,
    TITLES,
    all_steps,
    recovery,
    steps_of,
)


def _records(operation: str, *marks: tuple[str, str]) -> list[Record]:
    begin = Record(1, "t", "begin", "begin", {"operation": operation})
    return [begin, *(Record(n, "t", step, state) for n, (step, state) in enumerate(marks, start=2))]


def _until(operation: str, stop: str) -> list[tuple[str, str]]:
    """The journal of a transaction that died inside the step `stop`."""
    marks: list[tuple[str, str]] = []
    for step in all_steps(operation):
        marks.append((step, "begin"))
        if step == stop:
            return marks
        marks.append((step, "done"))
    raise AssertionError(stop)


CASES = [(operation, step) for operation in OPERATIONS for step in all_steps(operation)]


@pytest.mark.parametrize(("operation", "step"), CASES)
def test_dying_in_any_step_goes_back_before_the_point_of_no_return_and_forward_from_it(operation, step):
    found = recovery(_records(operation, *_until(operation, step)))
    order = all_steps(operation)
    here = order.index(step)
    if here >= order.index("confirm"):
        assert (found.direction, found.steps) == ("forward", order[here:])
    else:
        assert (found.direction, found.steps) == ("back", tuple(reversed(order[: here + 1])))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_confirmed_fleet_takes_a_flipped_host_forward_and_an_unflipped_one_back(operation):
    flipped = _records(operation, *_until(operation, "confirm")[:-1])
    assert recovery(flipped).direction == "back"
    assert recovery(flipped, forward=True).direction == "forward"
    assert recovery(_records(operation, *_until(operation, "gate")), forward=True).direction == "back"


def test_dying_while_undoing_goes_on_undoing():
    marks = [*_until("release", "handover"), ("handover", "done"), ("handover", "undo")]
    found = recovery(_records("release", *marks), forward=True)
    assert found.direction == "back"
    assert found.steps[0] == "handover"


def test_nothing_open_and_already_ended_need_nothing():
    assert recovery([]).direction == "none"
    assert recovery(_records("release", ("end", "done"))).direction == "none"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_step_can_be_done_and_undone_before_the_point_of_no_return(operation):
    for step in all_steps(operation):
        assert hasattr(Engine, f"do_{step}"), step
        assert step in TITLES
    for phase in ("prepare", "flip"):
        for step in steps_of(operation, phase):
            assert hasattr(Engine, f"undo_{step}"), step


def test_an_operation_of_a_newer_version_is_refused_with_the_remedy():
    with pytest.raises(BackstayError, match=r"unknown to this backstay: update .*site\.yml"):
        recovery(_records("teleport"))
