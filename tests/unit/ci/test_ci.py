"""tools/ci.py: what Ansible is given, and what is done with what a cancelled job left open."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools import ci
from tools.ci_report import Run, Task

GITHUB = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_ACTOR": "ada",
    "GITHUB_REPOSITORY": "lifts/portal",
    "GITHUB_RUN_ID": "77",
    "GITHUB_RUN_ATTEMPT": "2",
    "GITHUB_JOB": "release",
}
GITLAB = {"GITLAB_CI": "true", "GITLAB_USER_LOGIN": "ada", "CI_PROJECT_PATH": "lifts/portal", "CI_JOB_ID": "9"}


def test_a_job_tells_who_and_which_run_it_is() -> None:
    assert ci.who(GITHUB) == "ada (GitHub lifts/portal run 77.2 release)"
    assert ci.who(GITLAB) == "ada (GitLab lifts/portal job 9)"
    assert ci.who({"USER": "ada"}) == "", "somewhere else nothing tells one run from another"


def test_the_jobs_secrets_do_not_reach_the_environment_that_is_written_down() -> None:
    given = {
        "PATH": "/usr/bin",
        "HOME": "/root",
        "LC_ALL": "C",
        "SSH_AUTH_SOCK": "/tmp/agent",
        "ANSIBLE_VAULT_PASSWORD_FILE": "/run/vault",
        "VAULT_PASSWORD": "hunter2",
        "GITHUB_TOKEN": "hunter2",
        "SSH_KEY": "hunter2",
        "ANSIBLE_BECOME_PASSWORD": "hunter2",
        "MY_PATH": "hunter2",
    }
    kept = ci.narrowed(given)
    assert "hunter2" not in json.dumps(kept)
    assert kept["ANSIBLE_VAULT_PASSWORD_FILE"] == "/run/vault"
    assert kept["ANSIBLE_CONFIG"].endswith("ansible.cfg")
    assert kept["PATH"].endswith(":/usr/bin")
    assert ci.narrowed(given, ["MY_PATH"])["MY_PATH"] == "hunter2", "what is named with --pass goes through"


def test_ansible_runner_hands_on_exactly_what_was_given() -> None:
    arguments = ["-i", "an inventory", "-e", '{"why": "it\'s \\"the\\" one; $HOME `id`"}', "--check"]
    command = ci.runner_command("playbooks/release.yml", "ident", arguments)
    cmdline = next(word for word in command if word.startswith("--cmdline="))
    assert shlex.split(cmdline.removeprefix("--cmdline=")) == arguments


def test_a_variable_that_is_given_wins_over_the_deadlines_of_ci() -> None:
    options = ci.parser().parse_args(
        ["release", "-i", "inventories/example", "--version", " 1.1.0 ", "-e", "confirm_seconds=5", "--why", "so"]
    )
    given = ci.ansible_options(options, "ada")
    variables = [given[index + 1] for index, word in enumerate(given) if word == "-e"]
    typed = {"version": "1.1.0", "by": "ada", "why": "so"}
    assert json.loads(variables[0]) == {**ci.DEADLINES, **{name: {"__ansible_unsafe": typed[name]} for name in typed}}
    assert variables[1:] == ["confirm_seconds=5"]


def test_what_a_person_typed_is_no_template(tmp_path: Path) -> None:
    """It would run beside the keys of the job."""
    typed = "{{ lookup('pipe', 'touch " + str(tmp_path / "ran") + "') }} it's \"so\""
    options = ci.parser().parse_args(["release", "-i", "localhost,", "--version", "1.1.0", "--why", typed])
    play = tmp_path / "play.yml"
    told = f"{{content: '{{{{ why }}}} by {{{{ by }}}}', dest: '{tmp_path}/told'}}"
    play.write_text(f"[{{hosts: localhost, gather_facts: false, tasks: [{{ansible.builtin.copy: {told}}}]}}]\n")
    ansible = Path(sys.executable).with_name("ansible-playbook")
    command = [str(ansible), str(play), *ci.ansible_options(options, "ada"), "-c", "local"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "told").read_text() == f"{typed} by ada"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["release", "-i", "x", "--version", ""], "it is empty"),
        (["release", "--version", "1"], "-i/--inventory"),
        (["undo", "-i", "x"], "--by"),
        (["fly", "-i", "x"], "invalid choice"),
    ],
)
def test_wrong_usage_is_refused_before_anything_runs(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ci.Cancellation, "listen", lambda _self: None)
    with pytest.raises(SystemExit) as refused:
        ci.main(arguments, {})
    assert refused.value.code == 2
    assert said in capsys.readouterr().err


def journal(by: str = "me", *steps: str, version: str = "1.1.0") -> list[dict[str, Any]]:
    data = {"id": "t1", "operation": "release", "version": version, "payload": "p", "request": {"by": by}}
    return [{"step": "begin", "data": data}, *({"step": step, "state": "begin"} for step in steps)]


def live(by: str, version: str = "1.1.0") -> dict[str, Any]:
    return {"live": {"by": by, "version": version, "payload": "p"}}


BACK, ON = "aborted", "confirmed"


@pytest.mark.parametrize(
    ("opened", "looks", "wanted"),
    [
        ({"a": []}, {"a": live("me")}, {}),
        ({"a": journal("me", "stage")}, {"a": live("she", "1.0.0")}, {"a": BACK}),
        ({"a": journal("me", "stage", "flip", "verify")}, {"a": live("me")}, {"a": BACK}),
        ({"a": journal("she", "stage")}, {"a": live("she")}, {}),
        ({"a": journal("me", "flip", "confirm", "settle")}, {"a": live("me")}, {}),
        ({"a": journal("me"), "b": journal("me")}, {"a": live("she", "1.0.0")}, {"a": BACK, "b": BACK}),
        ({"a": journal("me", "flip"), "b": []}, {"a": live("me"), "b": live("me")}, {"a": ON}),
        ({"a": journal("me", "flip"), "b": journal("me", "flip", "confirm")}, {"b": live("me")}, {"a": ON}),
        ({"a": journal("me", "flip"), "b": []}, {"b": live("me", "1.0.9")}, {"a": BACK}),
        ({"a": journal("me", "flip")}, {}, {"a": BACK}),
        ({"a": journal("", "flip")}, {}, {}),
    ],
    ids=[
        "nothing open",
        "preparing",
        "flipped: the link names it already, yet it is not confirmed",
        "somebody else's",
        "past its confirmation",
        "two hosts preparing",
        "another host has confirmed",
        "another host is confirming",
        "another host serves an earlier release of the same job",
        "a host that does not say what it serves",
        "nobody's",
    ],
)
def test_what_a_cancelled_job_left_open_is_undone_unless_a_host_of_the_fleet_confirmed(
    opened: dict[str, list[dict[str, Any]]], looks: dict[str, Any], wanted: dict[str, str]
) -> None:
    # with nobody named, nothing is touched
    assert ci.endings(opened, looks, "me") == wanted
    assert ci.endings(opened, looks, "") == {}


def test_no_host_can_have_confirmed_while_no_flip_has_ended_and_all_that_was_written_is_read(tmp_path: Path) -> None:
    prepared = Task("a", "Prepare it", "changed", facts={"release": "2-1.1", "live": "1-1.0"})
    flipped = Task("a", "Flip to it", "changed", facts={"release": "2-1.1", "live": "2-1.1"})
    assert ci.none_confirmed(Run("canceled", 254, False, (prepared,)), tmp_path)
    assert not ci.none_confirmed(Run("canceled", 254, False, (prepared, flipped)), tmp_path)
    (tmp_path / "job_events").mkdir()
    (tmp_path / "job_events" / "uuid-partial.json").write_text("{}")
    assert not ci.none_confirmed(Run("canceled", 254, False, (prepared,)), tmp_path)


@pytest.mark.parametrize(
    ("verb", "cancelled", "asks"),
    [
        ("restore", True, ["look"]),
        ("recover", True, ["look"]),
        ("restore", False, []),
        ("build", True, []),
        ("rollback", False, ["look"]),
        ("rollback", True, ["look", "end"]),
    ],
)
def test_a_cancelled_job_asks_the_hosts_what_became_of_it(
    verb: str, cancelled: bool, asks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def played(playbook: str, ident: str, given: Any, clean: Any, cancellation: ci.Cancellation, **_more: Any) -> Run:
        if playbook.startswith("runner/"):
            asked.append(Path(playbook).stem)
        elif cancelled:
            cancellation.number = 15
        return Run("canceled" if cancelled else "successful", 254 if cancelled else 0, finished=True)

    monkeypatch.setattr(ci, "play", played)
    monkeypatch.setattr(ci, "RUNNER", tmp_path)
    monkeypatch.setattr(ci.Cancellation, "listen", lambda _self: None)
    monkeypatch.setattr(ci, "journals", lambda _directory, _task: {"app1": []})
    monkeypatch.setattr(ci, "endings", lambda *_given: {"app1": "aborted"})
    monkeypatch.setattr(ci, "none_confirmed", lambda *_given: False)
    code = ci.main([verb, "-i", str(tmp_path), "--by", "ada", "--report", str(tmp_path / "report")], {})
    assert asked == asks
    assert (code == 143) is cancelled


def test_a_line_that_was_read_while_it_was_written_is_left_out() -> None:
    assert ci._whole_lines('{"a": 1}\n{"b": 2}\n{"c"') == ['{"a": 1}', '{"b": 2}']
