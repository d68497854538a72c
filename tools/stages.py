"""Run the stages of the suite in order, with the time of each; stop at the first that fails, its reason last.

    python tools/stages.py lint unit

A quiet step's output is kept and shown only when it fails; quiet steps of a stage run two at a time. A loud step prints
as it goes. Nothing is printed after the last step of a green run: its own closing line is the verdict, for people and
for CI.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
PYTEST = (PYTHON, "-m", "pytest")
SEVERAL_HOSTS = ("tests/integration/fleet", "tests/integration/test_migrations_on_postgresql.py")
# Visitors come all the time there, and none may wait five seconds: their hosts come before all others on the machine.
VISITED = tuple(
    f"tests/integration/test_{name}.py"
    for name in (
        "from_ci",
        "full_disk",
        "gates_of_a_release",
        "installed_collection",
        "logs_are_rotated",
        "promise_1_no_visitor_sees_a_release",
        "promise_2_a_release_is_a_transaction",
        "promise_3_rollback_needs_nothing",
        "promise_4_a_backup_counts_when_it_was_restored",
        "promise_5_a_restore_destroys_nothing",
        "several_applications_on_one_host",
        "watch",
    )
)
ELSEWHERE = (*SEVERAL_HOSTS, *VISITED)
SPREAD = ("--dist", "worksteal")
ALL = {"BACKSTAY_ALL": "1"}  # not a sample of a model's tests
INTEGRATION = (*PYTEST, "-v", "-m", "not long", "--durations=25")
# Needs no host either, and takes longer than an inner loop may: power cuts, all kinds of migration, restic, Ansible.
SLOW = (
    "attestation",
    "backup",
    "callback",
    "ci",
    "crash",
    "lab",
    "migrations",
    "playbooks",
    "proof",
    "restore",
    "templates",
)
SLOW_FILES = (
    "application/test_lookup_application",
    "application/test_properties",
    "artifact/test_properties",
    "build/test_action",
    "environment/test_properties",
    "health/test_health_check",
    "jobs/test_killed_or_cut_off",
    "journal/test_properties",
    "ledger/test_properties",
    "observe/test_faults",
    "releases/test_properties",
    "service/test_conductor",
    "tools/test_import_environment",
    "watch/test_ground_truth",
)
MODELS = (*(f"tests/unit/{name}" for name in SLOW), *(f"tests/unit/{name}.py" for name in SLOW_FILES))
SCRIPTS = sorted(str(path.relative_to(ROOT)) for room in ("tools", "lab") for path in (ROOT / room).glob("*.py"))


DOCS_LINT = ("antsibull-docs", "lint-collection-docs", "--plugin-docs", "--validate-collection-refs", "dependent", ".")


@dataclass(frozen=True)
class Step:
    """One command of a stage. `loud`: prints as it goes, for what takes minutes or has a closing line of its own."""

    name: str
    command: tuple[str, ...]
    loud: bool = False
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How one step ended."""

    step: Step
    exit_code: int
    seconds: float
    output: str


def gently(step: Step) -> Step:
    """The same where others come first, also before the hosts that it boots; quiet, as it runs beside them."""
    return replace(step, command=("nice", "-n", "5", *step.command), loud=False)


# Half of their time they wait for programs, so there are more of them than cores.
MODELS_STEPS = (
    Step("pytest, models", (*PYTEST, "-q", "-n", "4", *SPREAD, *MODELS), loud=True),
    # What its versions check of themselves, their builds run.
    Step("pytest, the example", (*PYTEST, "-q", "examples/tests", "-k", "not passes_its_own_release_checks")),
)
MOLECULE = Step(
    "molecule test",
    # Molecule remembers hosts that somebody else may have removed: forget them, then make them. -v: workers are silent
    # otherwise, also about why a test failed.
    ("sh", "-c", "molecule reset && molecule -v test --all --report --workers 2"),
    loud=True,
    environment={"MOLECULE_GLOB": "molecule/*/molecule.yml"},
)
BOOKWORM = {"BACKSTAY_DEBIAN": "bookworm", "BACKSTAY_ARTIFACTS": "artifacts-bookworm"}

STAGES: dict[str, tuple[Step, ...]] = {
    "lint": (
        Step("ansible-lint", ("ansible-lint", "--strict", "--offline", "-q")),
        Step("mypy", ("mypy",)),
        Step("mypy, scripts", ("mypy", *SCRIPTS)),
        Step("ruff check", ("ruff", "check", "--quiet")),
        Step("ruff format", ("ruff", "format", "--check", "--quiet", "--diff")),
        Step("yamllint", ("yamllint", "--strict", ".")),
        Step("antsibull-docs", DOCS_LINT),
        Step("antsibull-changelog", ("antsibull-changelog", "lint")),
        Step("contracts", (*PYTEST, "-q", "tests/unit/contracts")),
    ),
    "unit": (
        Step(
            "pytest tests/unit",
            # The contracts belong to lint.
            (
                *PYTEST,
                "-q",
                "-n",
                "2",
                "tests/unit",
                *(f"--ignore={path}" for path in (*MODELS, "tests/unit/contracts")),
            ),
            loud=True,
        ),
    ),
    "models": MODELS_STEPS,
    # Molecule waits a third of its time; what needs no host is computed in it.
    "molecule": (MOLECULE, *map(gently, MODELS_STEPS)),
    "matrix": (Step("pytest tests/matrix", (*PYTEST, "-v", "tests/matrix"), loud=True),),
    "bookworm": (replace(MOLECULE, environment={**MOLECULE.environment, **BOOKWORM}),),
    # Of the two lanes the visitors' goes first: what waits there fails, and the other takes what it leaves.
    "hosts": (
        Step("pytest, under visitors", (*INTEGRATION, *VISITED), loud=True, environment={"BACKSTAY_LAB": "visitors"}),
        gently(Step("pytest, one host", (*INTEGRATION, "tests/integration", *map("--ignore={}".format, ELSEWHERE)))),
        gently(Step("ansible-test sanity", ("tools/sanity",))),
        gently(Step("pytest, several hosts", (*INTEGRATION, *SEVERAL_HOSTS))),
    ),
    "cuts": (
        Step("pytest, power cuts", (*PYTEST, "-q", "-n", "2", *SPREAD, "tests/unit/crash"), loud=True, environment=ALL),
    ),
    "lies": (
        Step("pytest, lies", (*PYTEST, "-q", "-n", "4", *SPREAD, "tests/unit/proof"), loud=True, environment=ALL),
    ),
    # What a strike found is said as it goes. One lab after the other: together they are slower than that.
    "chaos": (Step("pytest tests/chaos", (*PYTEST, "-q", "-s", "tests/chaos"), loud=True),),
    "long": (Step("pytest, what takes long", (*PYTEST, "-v", "-m", "long", "tests/integration"), loud=True),),
}


def run(step: Step) -> Outcome:
    """Run one step to its end; a program that is missing is a failure like any other."""
    started = time.monotonic()
    environment = {**os.environ, **step.environment}
    try:
        done = subprocess.run(
            step.command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=None if step.loud else subprocess.PIPE,
            stderr=None if step.loud else subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        return Outcome(
            step, 127, time.monotonic() - started, f"{step.command[0]} could not be started: {error.strerror}"
        )
    return Outcome(step, done.returncode, time.monotonic() - started, done.stdout or "")


def say(text: str) -> None:
    print(text, flush=True)


def closing_line(outcome: Outcome) -> str:
    """How many tests a step of pytest ran, in pytest's own words; "" for other steps."""
    lines = outcome.output.split("\n") if "pytest" in outcome.step.command else []
    return next((line.strip("= ") for line in reversed(lines) if " in " in line and "passed" in line), "")


def run_stage(name: str) -> Outcome | None:
    """Run all steps of a stage; return the first that failed, after telling about all of them."""
    steps = STAGES[name]
    failed: list[Outcome] = []
    with ThreadPoolExecutor(max_workers=2) as pool:
        for done in as_completed([pool.submit(run, step) for step in steps]):
            outcome = done.result()
            if not outcome.step.loud:
                verdict = "ok    " if outcome.exit_code == 0 else "FAILED"
                say(f"   {verdict} {outcome.step.name:<22}{outcome.seconds:7.1f} s   {closing_line(outcome)}".rstrip())
            if outcome.exit_code != 0:
                failed.append(outcome)
    for outcome in failed:
        if outcome.output:
            say(f"\n-- {outcome.step.name}\n{outcome.output.rstrip()}")
    return failed[0] if failed else None


def main(names: Sequence[str]) -> int:
    unknown = [name for name in names if name not in STAGES]
    if unknown or not names:
        say(f"stages: name some of {', '.join(STAGES)}" + (f"; {unknown[0]!r} is none of them" if unknown else ""))
        return 2
    times: list[str] = []
    for number, name in enumerate(names, start=1):
        say(f"== {number}/{len(names)} {name}" + (f"   (done: {', '.join(times)})" if times else ""))
        started = time.monotonic()
        failed = run_stage(name)
        times.append(f"{name} {time.monotonic() - started:.0f} s")
        if failed is not None:
            again = " ".join(failed.step.command).replace(PYTHON, ".venv/bin/python")
            say(f"\nFAILED: stage {name}, step {failed.step.name}, exit code {failed.exit_code}. Again: {again}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
