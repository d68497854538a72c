"""What an operator asks for reaches the host's command word for word, and its answer comes back as a sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._backup_client import arguments, result


@pytest.mark.parametrize(
    ("given", "plan", "expected"),
    [
        ({}, False, ["restore", "--json", "portal"]),
        ({"point": "latest", "only": "", "undo": False}, False, ["restore", "--json", "--point=latest", "portal"]),
        ({"undo": True, "why": "it was the wrong one"}, True, None),
        ({"why": "--undo"}, False, ["restore", "--json", "--why=--undo", "portal"]),
        ({"accept_shrink": True, "repository": None}, False, ["restore", "--json", "--accept-shrink", "portal"]),
    ],
)
def test_options_become_words(given: dict[str, Any], plan: bool, expected: list[str] | None) -> None:
    wanted = expected or ["restore", "--json", "--plan", "--undo", "--why=it was the wrong one", "portal"]
    assert arguments("restore", "portal", given, plan=plan) == wanted


def test_the_answer_is_the_last_object() -> None:
    output = "looking\n" + json.dumps({"line": "1 of 2"}) + "\n" + json.dumps({"ok": True, "run": "r1", "format": 1})
    told = result("backup", "portal", (0, output, ""), check_mode=False)
    said = "portal: backup is done."
    assert told == {"run": "r1", "msg": said, "backstay_lines": [said], "changed": True}


def test_an_answer_over_several_lines_is_read_too() -> None:
    told = result("backup", "portal", (0, json.dumps({"run": "r1"}, indent=2), ""), check_mode=False)
    assert "failed" not in told
    assert told["run"] == "r1"


def test_nothing_to_do_is_no_change_and_a_plan_says_that_it_is_one() -> None:
    answer = json.dumps({"ok": True, "changed": False, "message": "portal: nothing is to be done."})
    assert result("restore", "portal", (0, answer, ""), check_mode=True) == {
        "msg": "portal: nothing is to be done. (only planned)",
        "backstay_lines": ["portal: nothing is to be done."],
        "changed": False,
    }


def test_a_failure_is_the_commands_own_sentence() -> None:
    answer = json.dumps(
        {"ok": False, "message": "offsite cannot be reached.", "lines": ["ssh: timeout"], "exit_code": 1}
    )
    told = result("backup", "portal", (1, answer, ""), check_mode=False)
    assert told == {
        "failed": True,
        "msg": "offsite cannot be reached.",
        "backstay_lines": ["ssh: timeout"],
        "changed": False,
        "exit_code": 1,
    }


def test_an_exit_code_counts_more_than_a_kind_word() -> None:
    assert result("verify", "portal", (1, json.dumps({"ok": True}), ""), check_mode=False)["failed"]


@pytest.mark.parametrize(
    ("output", "error", "said"), [("", "Traceback: no", "Traceback: no"), ("[1]", "", "[1]"), ("", "", "nothing")]
)
def test_an_answer_that_is_none_is_shown_as_it_is(output: str, error: str, said: str) -> None:
    told = result("backup", "portal", (127, output, error), check_mode=False)
    assert told["failed"]
    assert told["msg"] == f"backstay backup on portal ended with 127 and no answer in JSON, but: {said}"
