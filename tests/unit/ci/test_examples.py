"""The example jobs are jobs: tools/ci.py takes their commands, and nothing typed becomes part of a script."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools import ci

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples" / "ci"
GITHUB: dict[str, Any] = yaml.safe_load((EXAMPLES / "github-release.yml").read_text())
GITLAB: dict[str, Any] = yaml.safe_load((EXAMPLES / "gitlab-ci.yml").read_text())
JOB = GITHUB["jobs"]["production"]


def scripts() -> dict[str, str]:
    found = {f"GitHub: {step['name']}": step["run"] for step in JOB["steps"] if "run" in step}
    for name, job in GITLAB.items():
        for part in ("before_script", "script", "after_script"):
            if isinstance(job, dict) and part in job:
                found[f"GitLab: {name}, {part}"] = "\n".join(job[part])
    return found


@pytest.mark.parametrize("name", scripts())
def test_a_script_is_one(name: str) -> None:
    script = scripts()[name]
    checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "${{" not in script, "what a person typed would become part of the script"
    for words in re.findall(r"tools/ci\.py ([^;\n]*)", script):
        ci.parser().parse_args([word.replace("$", "given") for word in shlex.split(words)])


def test_each_verb_is_in_both_examples() -> None:
    for where in ("GitHub", "GitLab"):
        told = "\n".join(script for name, script in scripts().items() if name.startswith(where))
        assert set(re.findall(r"tools/ci\.py (\w+)", told)) == {"build", "release", "rollback", "undo"}, where


def test_a_release_is_not_cancelled_by_the_next_one() -> None:
    assert GITHUB["concurrency"]["cancel-in-progress"] is False
    assert GITLAB[".backstay"]["interruptible"] is False
    assert {GITLAB[job]["resource_group"] for job in ("release", "rollback")} == {"production"}


def test_github_signals_the_verb_itself_and_what_is_left_is_undone() -> None:
    for step in JOB["steps"]:
        if "tools/ci.py" in step.get("run", ""):
            assert step["run"].startswith("exec "), f"{step['name']}: a shell in between gets the signal and keeps it"
    undo = next(step for step in JOB["steps"] if "ci.py undo" in step.get("run", ""))
    assert undo["if"].startswith("cancelled()")
    assert GITLAB["release"]["after_script"][-1].startswith('if [ "$CI_JOB_STATUS" = canceled ]')


def test_reports_are_kept_and_the_recordings_of_ansible_runner_are_not() -> None:
    kept = next(step for step in JOB["steps"] if "upload-artifact" in step.get("uses", ""))
    assert (kept["if"], kept["with"]["path"]) == ("always()", "runner/report/")
    assert GITLAB[".backstay"]["artifacts"]["reports"]["junit"] == "runner/report/*/junit.xml"
    assert GITLAB[".backstay"]["artifacts"]["paths"] == ["runner/report/"]


def test_ansible_runner_checks_host_keys() -> None:
    # Untold, it switches the check off.
    told = yaml.safe_load((ROOT / "runner" / "env" / "envvars").read_text())
    assert told["ANSIBLE_HOST_KEY_CHECKING"] == "True"


def test_ansible_builder_makes_a_context_with_the_locked_tools(tmp_path: Path) -> None:
    definition = ["--file", str(ROOT / "execution-environment.yml"), "--context", str(tmp_path)]
    done = subprocess.run(["ansible-builder", "create", *definition], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lock = (ROOT / "requirements" / "controller.txt").read_text()
    assert (tmp_path / "_build" / "requirements" / "controller.txt").read_text() == lock
    assert "--require-hashes" in (tmp_path / "Containerfile").read_text()
    assert re.search(r"^ansible-runner==", lock, re.MULTILINE)
