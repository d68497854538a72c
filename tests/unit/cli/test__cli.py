"""The command's line: what it takes, and that no message sends a tired person to an option that does not exist."""

from __future__ import annotations

import ast
import hashlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _cli, _client, _layout

LIBRARY = Path(_cli.__file__).parent


def sentences(source: str) -> list[str]:
    """The texts of a module, as they are when their parts are joined; what is filled in is `x`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


def advice() -> list[str]:
    """The commands that messages name."""
    return sorted(
        {
            said
            for source in (file.read_text(encoding="utf-8") for file in LIBRARY.glob("_*.py"))
            if "`backstay" in source  # most modules name no command, and each takes a while to parse
            for text in sentences(source)
            for said in re.findall(r"`backstay ([^`]+)`", text)
            if "VERB" not in said and said != "run CMD"
        }
    )


def test_each_command_that_a_message_names_is_understood(capsys: pytest.CaptureFixture[str]) -> None:
    told, strange, parser = advice(), {}, _cli._parser()
    for said in told:
        try:
            assert callable(parser.parse_args(shlex.split(said)).verb)
        except SystemExit:
            strange[said] = capsys.readouterr().err.splitlines()[-1:]
    assert not strange
    assert len(told) > 5, told


def test_release_asks_the_service_for_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def call(layout: Any, command: str, **message: Any) -> dict[str, Any]:
        asked.update(message["request"], command=command)
        return {"release": "0002-1.0.0", "previous": "0001-1.0.0", "seconds": 1.0}

    monkeypatch.setattr(_client, "call", call)
    monkeypatch.setattr(_cli, "_layout", lambda options: _layout.Layout("shop"))
    assert _cli.main(["release", "--again", "--without-warm", "--why", "tried", "--by", "ada", "shop"]) == 0
    expected = {
        "operation": "release",
        "command": "begin",
        "again": True,
        "keep_warm": False,
        "why": "tried",
        "by": "ada",
    }
    assert expected.items() <= asked.items()
    assert _cli.main(["release", "shop"]) == 0
    assert asked["again"] is False


def test_a_payload_that_lies_damaged_on_the_host_is_put_there_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    layout = _layout.Layout("shop", tmp_path)
    layout.artifacts.mkdir(parents=True)
    given = tmp_path / "shop-1.0.0.tar"
    given.write_bytes(b"whole")
    there = layout.payload(hashlib.sha256(b"whole").hexdigest())
    there.write_bytes(b"who")  # as a power cut may leave it
    answer = {"release": "0001-1.0.0", "previous": None, "seconds": 1.0}
    monkeypatch.setattr(_client, "call", lambda *_a, **_b: answer)
    monkeypatch.setattr(_cli, "_layout", lambda options: layout)
    assert _cli.main(["release", "--payload", str(given), "--version", "1.0.0", "shop"]) == 0
    assert (there.read_bytes(), there.stat().st_mode & 0o777) == (b"whole", 0o600)
