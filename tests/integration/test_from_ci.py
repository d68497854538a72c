"""From CI: the example job for GitHub, step by step as its runner does it, cancelled and killed at several moments."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from backstay_lab.layout import CHECKOUT
from backstay_lab.scene import APPLICATION, Scene

UNIT = f"backstay-transaction@{APPLICATION}.service"
JOURNAL = f"/var/lib/backstay/{APPLICATION}/journal.jsonl"
EXAMPLE = yaml.safe_load((CHECKOUT / "examples" / "ci" / "github-release.yml").read_text())
SCRIPTS = {step["name"]: step["run"] for step in EXAMPLE["jobs"]["production"]["steps"] if "run" in step}
RUNNER = CHECKOUT / "runner"
PLANTED = "planted-hunter2-token"
PATIENCE_SECONDS = 120.0


@dataclass
class Step:
    """A step of a job that runs."""

    process: subprocess.Popen[bytes]
    log: Path

    def ended(self) -> int:
        return self.process.wait(timeout=PATIENCE_SECONDS)

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def cancel(self, number: signal.Signals = signal.SIGINT) -> None:
        """As GitHub does first: the step's own process alone is told."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """As GitHub does at last: the whole tree of processes, also those with a session of their own."""
        tree = [self.process.pid]
        for process in tree:
            for status in Path("/proc").glob("[0-9]*/stat"):
                with contextlib.suppress(OSError):
                    if int(status.read_text().rpartition(")")[2].split()[1]) == process:
                        tree.append(int(status.parent.name))
        for process in tree:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait(timeout=PATIENCE_SECONDS)


class Job:
    """A job of the example: its steps share a page, a checkout, an environment with secrets, and who they are."""

    def __init__(self, scene: Scene, directory: Path, number: str) -> None:
        self.scene = scene
        self.directory = directory
        self.page = directory / "page.md"
        self.environment = {
            **os.environ,
            "GITHUB_ACTIONS": "true",
            "GITHUB_ACTOR": "ada",
            "GITHUB_REPOSITORY": "lifts/portal",
            "GITHUB_RUN_ID": number,
            "GITHUB_RUN_ATTEMPT": "1",
            "GITHUB_JOB": "production",
            "GITHUB_STEP_SUMMARY": str(self.page),
            "DEPLOY_TOKEN": PLANTED,
            "INVENTORY": str(inventory_of(scene)),
        }

    def start(self, name: str, **variables: str) -> Step:
        return self._start(["bash", "-e", "-c", SCRIPTS[name]], variables)

    def run(self, name: str, **variables: str) -> tuple[int, str]:
        step = self.start(name, **variables)
        return step.ended(), step.said

    def release(self, *options: str) -> Step:
        """The same release with options of our own, such as short deadlines."""
        python = str(CHECKOUT / ".venv" / "bin" / "python")
        command = [python, "tools/ci.py", "release", "-i", self.environment["INVENTORY"]]
        return self._start([*command, "--version", "1.1.0", *options], {})

    def _start(self, command: Sequence[str], variables: Mapping[str, str]) -> Step:
        log = self.directory / f"{time.monotonic_ns()}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=CHECKOUT,
                env={**self.environment, "WHY": "a test", **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return Step(process, log)


def inventory_of(scene: Scene) -> Path:
    """The example's inventory, for this lab. Its files name others relatively: it lies as deep as the original."""
    directory = CHECKOUT / ".lab" / "ci-inventory"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(CHECKOUT / "inventories" / "example", directory)
    declared = scene.directory / "inventory" / "applications"
    if declared.is_dir():
        shutil.copytree(declared, directory / "applications", dirs_exist_ok=True)
    told = {"lab": scene.name, "backstay_artifacts": str(scene.artifacts)}
    (directory / "group_vars" / "all" / "this_lab.yml").write_text(json.dumps(told))
    return directory


@pytest.fixture
def job(scene: Scene, tmp_path: Path) -> Job:
    return Job(scene, tmp_path, f"{time.time_ns()}")


def until(what: Callable[[], Any], why: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert time.monotonic() < deadline, f"{why} did not happen within {PATIENCE_SECONDS:g} s"
        time.sleep(0.2)


def begun(scene: Scene, step: str) -> bool:
    """Whether the open transaction has begun this step."""
    return f'"step":"{step}"' in scene.lab.exec("app1", "cat", JOURNAL, check=False).stdout


def report(verb: str) -> ElementTree.Element:
    return ElementTree.parse(RUNNER / "report" / verb / "junit.xml").getroot()


@contextlib.contextmanager
def stopped_at(scene: Scene, point: str) -> Iterator[None]:
    """The transaction's service stops at this point of its journal, and goes on at the end."""
    directory = f"/run/systemd/system/{UNIT}.d"
    text = f"[Service]\\nEnvironment=BACKSTAY_FAILPOINT={point}:STOP\\n"
    scene.lab.exec(
        "app1",
        *("sh", "-c"),
        f"mkdir -p {directory} && printf '{text}' > {directory}/failpoint.conf && systemctl daemon-reload",
    )
    try:
        yield
    finally:
        goes_on = f"rm -rf {directory} && systemctl daemon-reload && systemctl kill --signal=CONT {UNIT}"
        scene.lab.exec("app1", "sh", "-c", goes_on)


def whole(scene: Scene, before: Mapping[str, Any]) -> None:
    """One whole release serves, the one of before; nothing is open; no lock is left."""
    status = scene.settled()
    for what in ("live", "warm", "warm_running"):
        assert status[what] == before[what], status
    assert status["maintenance"] is False
    recovered = scene.backstay("recover", "--json", APPLICATION)
    assert recovered["found"] == "nothing", recovered


def test_a_killed_job_is_undone_by_the_host_and_the_next_one_works_and_its_page_tells_it(
    at_1_0: Scene, job: Job, tmp_path: Path
) -> None:
    status = at_1_0.status()
    before = status["live"]["id"]
    with at_1_0.load(rate=20.0) as load:
        killed = Job(at_1_0, tmp_path, "one-before").release("-e", "prepare_seconds=2")
        until(lambda: begun(at_1_0, "stage"), "the preparation")
        killed.kill()
        # Nothing runs after it: its host does without.
        assert "deadline" in at_1_0.settled()["last_failed"]["reason"]
        result = load.stop()
    assert result.failed == 0, result.failures
    whole(at_1_0, status)

    recorded = {path.name for path in (RUNNER / "artifacts").glob("*")}
    code, said = job.run("Build", VERSION="1.1.0")
    assert code == 0, said
    code, said = job.run("Release", VERSION="1.1.0", WHY="lifts; $(id) `id`")
    assert code == 0, said
    released = at_1_0.status()["live"]
    assert released["version"] == "1.1.0"
    assert (released["by"], released["why"]) == (
        f"ada (GitHub lifts/portal run {job.environment['GITHUB_RUN_ID']}.1 production)",
        "lifts; $(id) `id`",
    )
    page = job.page.read_text()
    for told in (
        released["id"],
        released["commit"],
        "ask it whether it is well",
        f"| app1 | done | {released['id']} |",
    ):
        assert told in page, page
    assert report("release").get("failures") == report("release").get("errors") == "0"
    assert "move the link" in {case.get("name") for case in report("release").iter("testcase")}

    code, said = job.run("Roll back")
    assert code == 0, said
    assert at_1_0.live() == before
    assert "## Rollback audit-portal 1.0.0: done" in job.page.read_text()

    # Of the job's secrets and the application's nothing is in what ansible-runner recorded, nor in what is shown.
    vault = CHECKOUT / "inventories" / "example" / "group_vars" / "app_servers" / "vault.yml"
    opened = subprocess.run(
        ["ansible-vault", "view", str(vault)], cwd=CHECKOUT, capture_output=True, text=True, check=True
    ).stdout
    secrets = [PLANTED, *(str(value) for value in yaml.safe_load(opened)["backstay_secrets"][APPLICATION].values())]
    secrets.append((inventory_of(at_1_0) / "signing_key").read_text().splitlines()[1])
    fresh = [path for path in (RUNNER / "artifacts").iterdir() if path.name not in recorded]
    assert len(fresh) == 5, "build, release and rollback, the last two with a look after them"
    files = [file for room in (*fresh, RUNNER / "report", job.directory) for file in room.rglob("*") if file.is_file()]
    assert any(file.name == "command" for file in files)
    leaked = [str(file) for file in files for secret in secrets if secret.encode() in file.read_bytes()]
    assert leaked == []


@pytest.mark.long
def test_a_refused_release_fails_the_job_and_the_page_says_why(at_1_0: Scene, job: Job) -> None:
    before = at_1_0.status()
    code, said = job.run("Release", VERSION="1.3.0")
    assert code == 1, said
    status = at_1_0.settled()
    assert status["live"] == before["live"]
    why = status["last_failed"]["reason"].partition(";")[0]
    assert why.startswith(status["last_failed"]["id"]), "such as: 0007-1.3.0 died while it was starting"
    page = job.page.read_text()
    assert "## Release audit-portal 1.3.0: failed" in page
    assert page.count(why) == 1, page
    assert "Worker failed to boot" in page, "the candidate's last lines"
    assert f"Nothing has to be rolled back: {before['live']['id']} serves." in page
    assert f"::error title=backstay release::app1: {why}" in said
    failure = report("release").find(".//failure")
    assert failure is not None
    assert why in str(failure.get("message"))


def test_a_job_cancelled_while_it_prepares_undoes_it_before_it_ends(at_1_0: Scene, job: Job) -> None:
    before = at_1_0.status()
    with at_1_0.load(rate=20.0) as load:
        step = job.start("Release", VERSION="1.1.0")
        until(lambda: begun(at_1_0, "stage"), "the preparation")
        step.cancel(signal.SIGINT)
        code = step.ended()
        opened = at_1_0.status()["transaction_open"]
        result = load.stop()
    assert code == 130, step.said
    assert not opened, "when the job has ended nothing is open"
    assert result.failed == 0, result.failures
    whole(at_1_0, before)
    assert "## Release audit-portal 1.1.0: cancelled" in job.page.read_text()
    assert "| app1 | undone |" in job.page.read_text()
    assert report("release").get("errors") == "1"


@pytest.mark.long
def test_a_job_killed_after_the_flip_is_undone_by_the_step_after_it(at_1_0: Scene, job: Job) -> None:
    before = at_1_0.status()
    with at_1_0.load(rate=20.0) as load:
        with stopped_at(at_1_0, "handover:begin"):
            step = job.start("Release", VERSION="1.1.0")
            until(lambda: begun(at_1_0, "handover"), "the flip")
            assert at_1_0.live() != before["live"]["id"], "it is killed after the flip"
            step.kill()
        code, said = job.run("Undo what is left")
        opened = at_1_0.status()["transaction_open"]
        result = load.stop()
    assert code == 0, said
    assert not opened, said
    assert result.failed == 0, result.failures
    whole(at_1_0, before)
    assert "undone on app1" in job.page.read_text()
