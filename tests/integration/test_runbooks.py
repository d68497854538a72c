"""What the runbooks tell somebody to type at night is typed on a real host, word for word.

What is typed on the controller is typed there: test_runbooks_on_the_controller.py.
"""

from __future__ import annotations

import subprocess

import pytest
from backstay_lab.scene import APPLICATION, Scene
from runbook_commands import fenced, inline

HOST = [typed for typed in (*fenced(), *inline()) if not typed.on_controller]
# These say by it that something is to be looked at (1) or done (2); whatever else does not end with 0 has failed.
SPEAKING = {"backstay status": (0, 1, 2), "backstay health": (0, 1)}
MARK = "===ended-with"
AROUND = "backstay diagnose --around 2026-11-21T08:15:00Z --minutes 15"


def test_what_only_looks_works_word_for_word(standing: Scene) -> None:
    commands = sorted({typed.command for typed in HOST if typed.looks_only})
    # Each of these takes seconds, and their options are read by the parser in another test.
    commands = [each for each in commands if not each.startswith("backstay diagnose --")] + [AROUND]
    assert len(commands) > 25, commands
    if not standing.backstay("backups", "--json", APPLICATION, check=False).get("points"):
        standing.backstay("backup", "--json", APPLICATION)
    before = standing.status()
    # One shell for all of them: what counts is what each says, not how long a login takes. It reads them, so that `ps`
    # shows none of them.
    script = "\n".join(
        f"{{ {each}; }} 2>&1 </dev/null | tail -n 15; echo {MARK} ${{PIPESTATUS[0]}}" for each in commands
    )
    done = subprocess.run(
        standing.lab.ssh_command("app1", "bash", "-s"), input=script, capture_output=True, text=True, check=False
    )
    parts = done.stdout.split(f"{MARK} ")
    said = [parts[0], *(part.partition("\n")[2] for part in parts[1:])]
    codes = [int(part.partition("\n")[0]) for part in parts[1:]]
    assert len(codes) == len(commands), done.stdout[-2000:]
    wrong = [
        f"{command} ended with {code}:\n{text}"
        for command, code, text in zip(commands, codes, said, strict=False)
        if code not in SPEAKING.get(command, (0,))
    ]
    assert wrong == [], "\n".join(wrong)
    silent = [command for command, text in zip(commands, said, strict=False) if not text.strip()]
    assert silent == [], "they say nothing"
    after = standing.status()
    assert [after[key] for key in ("live", "warm", "transaction_open", "maintenance")] == [
        before[key] for key in ("live", "warm", "transaction_open", "maintenance")
    ]


# What a host without that trouble answers: there is no transaction to confirm or abort, no such release or repository,
# nobody to watch, no server of PostgreSQL; and from a lab no mail leaves.
REFUSED = {
    "backstay notify test": "not everybody was told",
    "backstay abort": "There is no open transaction",
    "backstay confirm": "There is no open transaction",
    "backstay probe": "this host watches no other",
    "backstay rekey --repository NAME": "There is no repository 'NAME'",
    "backstay restore --repository offsite": "There is no repository 'offsite'",
    "backstay rollback --to 0007-1.2.0": "There is no release",
    "systemctl start postgresql": "postgresql",
}


@pytest.mark.long
def test_what_does_something_works_word_for_word_too(standing: Scene) -> None:
    commands = list(dict.fromkeys(typed.command for typed in HOST if not typed.looks_only))
    assert len(commands) > 20, commands
    wrong = []
    for command in commands:
        while standing.status()["warm"] is None:
            standing.backstay("release", "--again", APPLICATION)
        done = standing.lab.ssh("app1", command, check=False, timeout_seconds=300.0)
        expected = next((text for start, text in REFUSED.items() if command.startswith(start)), None)
        told = done.stdout + done.stderr
        if command == "backstay maintenance on":
            standing.backstay("maintenance", "off")
        if (expected is None and not done.ok) or (expected is not None and (done.ok or expected not in told)):
            wrong.append(f"{command} ended with {done.returncode}:\n{told[-600:]}")
    assert wrong == [], "\n".join(wrong)
    standing.backstay("recover", APPLICATION)
    assert standing.settled()["maintenance"] is False
