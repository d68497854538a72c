"""The stages run every test there is."""

from __future__ import annotations

from pathlib import Path

from tools import stages

# The portal's own tests are run by its builds, those of the roles by Molecule.
ELSEWHERE = ("examples/audit_portal", "molecule")


def test_no_test_is_run_by_nobody() -> None:
    words = [word for steps in stages.STAGES.values() for step in steps for word in step.command]
    named = [Path(word) for word in words if word.startswith(("tests/", "examples/"))]
    files = [
        path.relative_to(stages.ROOT)
        for room in ("examples", "molecule", "tests")
        for path in (stages.ROOT / room).rglob("test_*.py")
    ]
    assert len(files) > 100
    idle = [
        str(file)
        for file in files
        if not str(file).startswith(ELSEWHERE) and not any(file.is_relative_to(name) for name in named)
    ]
    assert idle == [], "name these in tools/stages.py"
