"""tools/ci_report.py: what ansible-runner recorded becomes a summary, JUnit XML and an exit code; never a secret."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tools import ci_report
from tools.ci_report import Report, Run, Step, Task

SECRET = "hunter2-planted"
PREPARE = "Prepare it beside the live release"
STEPS = [
    {"step": "stage", "title": "unpack the payload", "seconds": 0.5, "detail": "12 MiB"},
    {"step": "gate", "title": "ask it whether it is well", "seconds": 1.25, "detail": "3 of 3"},
]


def ended(host: str, task: str, result: Mapping[str, Any], event: str = "runner_on_ok", **more: Any) -> dict[str, Any]:
    return {"event": event, "event_data": {"host": host, "task": task, "duration": 2.0, "res": dict(result), **more}}


STATS = {"event": "playbook_on_stats", "event_data": {}}


def released(host: str) -> list[dict[str, Any]]:
    done = {"changed": True, "release": "0002-1.1.0", "previous": "0001-1.0.0", "transaction": "t1", "msg": "is there"}
    flip = [*STEPS, {"step": "flip", "title": "move the link", "seconds": 0.001, "detail": ""}]
    return [
        ended(host, PREPARE, {**done, "live": "0001-1.0.0", "steps": STEPS}),
        ended(host, "Confirm it", {**done, "live": "0002-1.1.0", "steps": flip}),
    ]


def refused(host: str) -> list[dict[str, Any]]:
    msg = "The candidate died while it was starting. 0001-1.0.0 still serves."
    lines = ["unpack the payload                      0.50 s  12 MiB", "undone: unpack the payload"]
    result = {"msg": msg, "backstay_lines": [*lines, "| ImportError: no module named lifts"]}
    return [ended(host, PREPARE, result, "runner_on_failed"), ended(host, "Say why", {"msg": msg}, "runner_on_failed")]


def look(live: str, by: str = "ci", **more: Any) -> dict[str, Any]:
    described = {"id": live, "version": live.partition("-")[2], "commit": "c0ffee", "payload": f"sha-{live}", "by": by}
    return {"application": "portal", "live": described, "rollback_target": "0001-1.0.0", "verdict": "well", **more}


def run_of(events: Sequence[Mapping[str, Any]], status: str = "successful", rc: int | None = 0) -> Run:
    return Run(status, rc, any(event is STATS for event in events), tuple(ci_report.tasks_of(events)))


def cases(report: Report) -> dict[str, str]:
    """By `host: case`, what became of it, as a reporter of a CI reads it."""
    suites = ElementTree.fromstring(ci_report.junit(report))
    found = {}
    for suite in suites:
        assert int(suite.get("tests", "-1")) == len(suite.findall("testcase"))
        for case in suite.iter("testcase"):
            broken = next((child for child in case if child.tag in ("failure", "error")), None)
            found[f"{suite.get('name')}: {case.get('name')}"] = "ok" if broken is None else broken.tag
    return found


def test_a_release_is_told_with_commit_hosts_steps_and_the_way_back() -> None:
    run = run_of([*released("app1"), *released("app2"), STATS])
    looks = {"app1": look("0002-1.1.0"), "app2": look("0002-1.1.0")}
    report = Report("release", run, looks, by="ci", why="the audit", inventory="inventories/production", seconds=12.0)
    text = ci_report.markdown(report)
    assert report.verdict == (0, "Done.")
    for told in (
        "## Release portal 1.1.0: done",
        "- Commit: c0ffee",
        "- Why: the audit",
        "| app1 | done | 0002-1.1.0 | 0001-1.0.0 |",
        "| step, seconds | app1 | app2 |",
        "| ask it whether it is well | 1.25 | 1.25 |",
        "ansible-playbook playbooks/rollback.yml -i inventories/production",
    ):
        assert told in text, f"{told!r} is missing in:\n{text}"
    assert cases(report) == {
        f"{host}: {step}": "ok"
        for host in ("app1", "app2")
        for step in ("unpack the payload", "ask it whether it is well", "move the link")
    }


def test_a_refusal_is_told_once_with_its_reason_and_the_candidates_last_lines() -> None:
    run = run_of([*refused("app1"), STATS], "failed", 2)
    report = Report("release", run, {"app1": look("0001-1.0.0", by="somebody")}, by="ci")
    text = ci_report.markdown(report)
    assert report.verdict == (1, "Failed on app1.")
    assert text.count("died while it was starting") == 1, text
    assert "| ImportError: no module named lifts" in text
    assert "| unpack the payload | 0.50 |" in text, "the steps before the failure have their time too"
    assert "Nothing has to be rolled back: 0001-1.0.0 serves." in text
    assert cases(report) == {"app1: unpack the payload": "ok", f"app1: {PREPARE}": "failure"}
    failure = ElementTree.fromstring(ci_report.junit(report)).find(".//failure")
    assert failure is not None
    assert "no module named lifts" in (failure.text or "")


@pytest.mark.parametrize(
    ("report", "code", "said"),
    [
        (Report("release", run_of([STATS])), 1, "No host"),
        (Report("release", run_of([], "failed", 4)), 1, "before any host"),
        (Report("release", run_of(released("a"))), 3, "last word"),
        (Report("release", run_of([*released("a"), STATS]), {"a": look("0003-9")}), 3, "another release"),
        (Report("release", run_of([*released("a"), STATS])), 3, "a did not say afterwards"),
        (Report("restore", run_of([], "canceled", 254), looked=False), 130, "no host was asked"),
        (Report("release", run_of([*released("a"), STATS], rc=2), {"a": look("0002-1.1.0")}), 1, "Failed"),
        (Report("release", run_of([*refused("a"), STATS], "failed", 2)), 3, "did not say"),
        (Report("release", run_of(refused("a"), "failed", 2), {"a": look("1-1"), "b": look("2-2")}), 3, "different"),
        (Report("release", run_of([], "canceled", 254), {"a": look("1-1")}, by="ci me"), 130, "nothing of this job"),
        (Report("release", run_of([], "canceled", 254), {"a": look("1-1")}, by="ci"), 130, "was confirmed before"),
        (Report("release", run_of([], "killed", None), left_open=("a",)), 3, "on a a release"),
        (Report("release", run_of([], "killed", None), {"a": look("1-1")}), 1, "without a result"),
        (
            Report("release", run_of(refused("a"), "failed", 2), {"a": look("1-1")}, left_open=("a",)),
            3,
            "on a a release",
        ),
        (Report("release", run_of([], "canceled", 254)), 130, "did not answer"),
        (
            Report("restore", run_of([], "canceled", 254), {"a": look("1-1")}, left_open=("a",)),
            130,
            "Cancelled; on a this job's restore may still be at work: see",
        ),
        (Report("recover", run_of([], "canceled", 254)), 130, "which did not answer, this job's recover may still be"),
        (Report("restore", run_of([], "canceled", 254), {"a": look("1-1")}, by="ci"), 130, "nothing of this job"),
        (Report("undo", run_of([STATS]), {"a": look("1-1")}, left_open=("a",)), 3, "may still be open"),
        (Report("undo", run_of([STATS])), 3, "did not answer"),
        (
            Report("build", run_of([ended("b", "Build", {"msg": "x"}, "runner_on_failed")], rc=2), looked=False),
            1,
            "on b",
        ),
    ],
)
def test_every_ending_has_its_exit_code_and_a_case_that_is_red(report: Report, code: int, said: str) -> None:
    assert report.verdict[0] == code, report.verdict
    assert said in report.verdict[1]
    assert said in ci_report.markdown(report)
    assert {"failure", "error"} & set(cases(report).values()), "a reporter that reads the XML alone must see it"


def test_a_cancelled_restore_is_not_done_because_the_same_person_released() -> None:
    report = Report("restore", run_of([], "canceled", 254), {"a": look("1-1")}, by="ci")
    assert ci_report.became(report, "a") == "cancelled"
    assert "| a | cancelled | 1-1 |" in ci_report.markdown(report)


def test_a_build_is_told_with_its_steps() -> None:
    result = {"changed": True, "commit": "c0ffee", "sha256": "ab" * 32, "seconds": {"wheels": 3.5, "checks": 9.25}}
    report = Report("build", run_of([ended("build1", "Build", result), STATS]), looked=False)
    assert report.verdict[0] == 0
    assert "| checks | 9.25 |" in ci_report.markdown(report)
    assert "sha256:abababababababab" in ci_report.markdown(report)


def test_nothing_of_a_hidden_result_of_arguments_or_of_an_environment_is_told() -> None:
    hidden = {"censored": "x", "msg": SECRET, "backstay_lines": [SECRET], "steps": [{"title": SECRET}], "live": SECRET}
    plain = {
        "msg": "It failed.",
        "invocation": {"module_args": {"secrets": SECRET}},
        "environment": {"TOKEN": SECRET},
        "diff": SECRET,
        "stdout": SECRET,
    }
    events = [
        ended("app1", "Declare", hidden, "runner_on_failed", task_args=f"secrets={SECRET}"),
        ended("app1", "Release", plain, "runner_on_failed", task_args=f"secrets={SECRET}"),
    ]
    report = Report("release", run_of(events, "failed", 2))
    assert SECRET not in ci_report.markdown(report)
    assert SECRET not in ci_report.junit(report)
    assert "no_log" in ci_report.markdown(report), "that something is hidden is told"


def test_text_of_the_application_breaks_neither_the_page_nor_the_xml() -> None:
    nasty = "<script>a</script> | `x` ]]> \x1b[31mred\x00 &amp; ## no heading"
    lines = ["````", "| ```", nasty, "x" * 5000]
    task = Task("app1", nasty, "failed", 1.0, nasty, tuple(lines), (Step(nasty, 1.0, nasty),))
    report = Report("release", Run("failed", 2, finished=True, tasks=(task,)), by=nasty, why=nasty)
    outside, *_fenced = ci_report.markdown(report).split("`````text")
    assert "<script>" not in outside
    assert len(_fenced) == 1, "the fence is longer than any in the text"
    assert "x" * 401 not in _fenced[0]
    ElementTree.fromstring(ci_report.junit(report))


def test_a_killed_runs_directory_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    directory = tmp_path / "job_events"
    directory.mkdir()
    for number, event in enumerate(released("app1"), start=9):  # 9 and 10: the order is that of numbers
        (directory / f"{number}-uuid.json").write_text(json.dumps(event))
    (directory / "11-uuid.json").write_text('{"event": "runner_on')
    (directory / "uuid-partial.json").write_text("{}")
    run = ci_report.read_run(tmp_path)
    assert (run.status, run.exit_code, run.finished) == ("killed", None, False)
    assert [task.name for task in run.tasks] == [PREPARE, "Confirm it"]


def test_the_command_writes_both_files_and_ends_with_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifacts = tmp_path / "release-20261121-abc"
    (artifacts / "job_events").mkdir(parents=True)
    for number, event in enumerate([*refused("app1"), STATS]):
        (artifacts / "job_events" / f"{number}-u.json").write_text(json.dumps(event))
    (artifacts / "status").write_text("failed")
    (artifacts / "rc").write_text("2")
    code = ci_report.main([str(artifacts), "--to", str(tmp_path / "report")])
    assert code == 1
    assert (tmp_path / "report" / "summary.md").read_text() == capsys.readouterr().out
    ElementTree.parse(tmp_path / "report" / "junit.xml")
    with pytest.raises(SystemExit) as wrong:
        ci_report.main([str(tmp_path / "nowhere")])
    assert wrong.value.code == 2


def test_what_was_undone_is_told() -> None:
    looks = {"app1": look("0001-1.0.0", by="somebody")}
    report = Report("undo", run_of([STATS]), looks, ended={"app1": "undone"}, by="ci")
    assert report.verdict == (0, "Asked for what a cancelled job left; undone on app1.")
    assert "| app1 | undone | 0001-1.0.0 |" in ci_report.markdown(report)
    nothing = Report("undo", run_of([STATS]), looks, by="ci")
    assert nothing.verdict == (0, "Asked for what a cancelled job left; nothing of this job is open.")


def test_what_was_only_checked_is_done_although_the_hosts_serve_what_they_served() -> None:
    report = Report("release", run_of([*released("a"), STATS]), {"a": look("0001-1.0.0")}, check=True)
    assert report.verdict == (0, "Checked; nothing was changed.")
