"""The callback is judged by what a person sees: a real play on this machine, its text compared."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

PLAY = """
- name: Only asks
  hosts: all
  gather_facts: false
  tasks:
    - name: Ask
      ansible.builtin.fail:
        msg: nobody will see this
      when: false
- name: Show everything
  hosts: all
  gather_facts: false
  tasks:
    - name: Say something
      ansible.builtin.debug:
        msg: "good morning"
    - name: Never runs
      ansible.builtin.command: /bin/true
      when: false
    - name: Write a file
      ansible.builtin.copy:
        content: "one\\n"
        dest: "{{ playbook_dir }}/written"
        mode: "0644"
      tags: details
    - name: Report steps
      ansible.builtin.import_role:
        name: steps
      tags: details
    - name: Fail with a secret
      ansible.builtin.command: sh -c "echo swordfish >&2; exit 1"
      loop: [swordfish, another]
      no_log: true
      tags: details
      ignore_errors: true
    - name: Run a command that fails
      ansible.builtin.command: sh -c "echo the disk is full >&2; exit 3"
      ignore_errors: true
    - name: Refuse
      ansible.builtin.fail:
        msg: The key domain is missing in applications/portal.yml; add it.
"""

MODULE = """#!/usr/bin/python
import json
print(json.dumps({"changed": True, "backstay_lines": ["stage    1.2 s", "migrate  0.3 s"]}))
"""


def play(directory: Path, *options: str) -> tuple[int, str]:
    """Run the play on this machine; return exit code and what was printed."""
    (directory / "play.yml").write_text(PLAY)
    (directory / "roles/steps/tasks").mkdir(parents=True)
    (directory / "roles/steps/tasks/main.yml").write_text("- name: Take the steps\n  report_steps:\n")
    (directory / "roles/steps/library").mkdir()
    (directory / "roles/steps/library/report_steps.py").write_text(MODULE)
    (directory / "ansible.cfg").write_text(
        "[defaults]\nstdout_callback = backstay.ops.progress\n[connection]\npipelining = true\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            *("-i", "app1,", "-c", "local", "-e", json.dumps({"ansible_python_interpreter": sys.executable})),
            *options,
            "play.yml",
        ],
        cwd=directory,
        env=environment
        | {
            "ANSIBLE_CONFIG": str(directory / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".ansible/collections"),
            "ANSIBLE_HOME": str(directory / "home"),
            "LC_ALL": "C.UTF-8",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    code, text = play(tmp_path_factory.mktemp("progress"))
    assert code == 2, text
    return text


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param(r"^Show everything$", id="the play by its name"),
        pytest.param(r"^ +\d+\.\d s  Say something +ok app1\n +app1: good morning$", id="debug says its message"),
        pytest.param(r"^ +\d+\.\d s  Write a file +changed app1$", id="a change, its time and its host"),
        pytest.param(
            r"Take the steps +changed app1\n +app1: stage    1.2 s\n +migrate  0.3 s$", id="a module's own lines"
        ),
        pytest.param(
            r"failed, ignored app1\n +app1: hidden, because the task has no_log", id="its failure says why not"
        ),
        pytest.param(r"app1: `sh -c .*` ended with exit code 3\.\n +\| the disk is full$", id="a command's last lines"),
        pytest.param(
            r"Refuse +FAILED app1\n +app1: The key domain is missing in applications/portal\.yml; add it\.\n"
            r" +in .*play\.yml:\d+$",
            id="a failure is a sentence, with its place",
        ),
        pytest.param(r"^host +ok +changed +failed +unreachable +skipped\napp1 +\d+ +\d+ +1 +0 +2$", id="the table"),
        pytest.param(r"^failed on app1 in \d+\.\d s$", id="the verdict"),
    ],
)
def test_it_prints(output: str, pattern: str) -> None:
    assert re.search(pattern, output, re.MULTILINE), f"no line like {pattern!r} in:\n{output}"


@pytest.mark.parametrize("unwanted", ["swordfish", "another", "\x1b", "Never runs", "Only asks", '"msg"', "fatal:"])
def test_it_never_prints(output: str, unwanted: str) -> None:
    assert unwanted not in output, f"{unwanted!r} was printed:\n{output}"


def test_verbose_diff_and_check_mode_add_details_but_no_secret(tmp_path: Path) -> None:
    _, text = play(tmp_path, "-v", "--diff", "--check", "--tags=details")
    assert "Show everything  (check mode: nothing is changed)" in text
    assert not (tmp_path / "written").exists()
    assert "+one" in text, f"--diff did not show the difference:\n{text}"
    assert '"backstay_lines":' in text, f"-v did not show the result:\n{text}"
    assert "swordfish" not in text
    assert "another" not in text
