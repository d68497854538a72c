"""What the runbooks tell somebody to type at night is typed on a real host: all that only looks, word for word."""

from __future__ import annotations

import shlex

from backstay_lab.scene import APPLICATION, Scene
from runbook_commands import fenced

# 1 says "look at it"; whatever else ends with 1 has failed.
MAY_SAY_LOOK = ("backstay status", "backstay health")
MARK = "=== ended with"


def test_what_only_looks_works_word_for_word(standing: Scene) -> None:
    commands = sorted({typed.command for typed in fenced() if typed.looks_only})
    assert len(commands) > 25, commands
    if not standing.backstay("backups", "--json", APPLICATION, check=False).get("points"):
        standing.backstay("backup", "--json", APPLICATION)
    before = standing.status()
    # One shell for all of them: what counts is what each says, not how long a login takes.
    script = "\n".join(
        f'{{ {command}; }} 2>&1 </dev/null | tail -n 15; echo "{MARK} ${{PIPESTATUS[0]}}"' for command in commands
    )
    done = standing.lab.ssh("app1", f"bash -c {shlex.quote(script)}", timeout_seconds=300.0)
    parts = done.stdout.split(f"{MARK} ")
    said = [parts[0], *(part.partition("\n")[2] for part in parts[1:])]
    codes = [int(part.partition("\n")[0]) for part in parts[1:]]
    assert len(codes) == len(commands), done.stdout[-2000:]
    wrong = [
        f"{command} ended with {code}:\n{text}"
        for command, code, text in zip(commands, codes, said, strict=False)
        if code and not (code == 1 and command in MAY_SAY_LOOK)
    ]
    assert wrong == [], "\n".join(wrong)
    silent = [command for command, text in zip(commands, said, strict=False) if not text.strip()]
    assert silent == [], "they say nothing"
    after = standing.status()
    assert [after[key] for key in ("live", "warm", "transaction_open", "maintenance")] == [
        before[key] for key in ("live", "warm", "transaction_open", "maintenance")
    ]
