"""What a sentence of the library tells a tired person to type, `backstay ...` in backticks, can be typed."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _cli

PARSER = _cli._parser()
LIBRARY = Path(_cli.__file__).parent
FILLED_IN = "word"
COMMAND = re.compile(r"`(?:sudo )?backstay ([^`]+)`")


def sentences(tree: ast.AST) -> Iterator[str]:
    """All text of a module as it would be printed; what is filled in is a word."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(each.value) if isinstance(each, ast.Constant) else FILLED_IN for each in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def named() -> list[tuple[str, str]]:
    found = {
        (path.name, " ".join(command.split()))
        for path in LIBRARY.glob("*.py")
        for text in sentences(ast.parse(path.read_text(encoding="utf-8")))
        for command in COMMAND.findall(text)
    }
    return sorted(found)


def test_there_are_such_sentences() -> None:
    assert len(named()) > 50


@pytest.mark.parametrize(("file", "command"), named(), ids=str)
def test_the_command_can_be_typed(file: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        understood = PARSER.parse_args(shlex.split(command))
    except SystemExit:
        pytest.fail(f"{file} names `backstay {command}`: {capsys.readouterr().err}")
    # A verb that there is not would be taken for the name of an application.
    assert getattr(understood, "application", None) in (None, "", FILLED_IN), f"{file} names `backstay {command}`"
