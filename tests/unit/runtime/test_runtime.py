"""The runtime: what is executed, what an environment is keyed by, and that a half-made one is made again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _artifact as artifact
from ansible_collections.backstay.ops.plugins.module_utils import _runtime as runtime
from ansible_collections.backstay.ops.plugins.module_utils._application import Application, parse
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, InputError
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed

RELEASE = Path("/opt/portal/releases/0001-1.0.0")
MANIFEST = artifact.Manifest(
    application="portal",
    version="1.0.0",
    commit="",
    source_digest="d" * 64,
    source_time="2026-09-21T14:13:20Z",
    runtime="django",
    python="3.13",
    system="debian-13",
    architecture="x86_64",
    lock_sha256="e" * 64,
)


@pytest.fixture
def application() -> Application:
    return parse(
        {
            "format": 1,
            "name": "portal",
            "domain": "portal.lab.test",
            "source": {"repository": "/srv/portal.git"},
            "runtime": {"settings": "portal.settings", "wsgi": "portal.wsgi:application"},
            "processes": {
                "web": {"workers": 3, "threads": 5, "timeout_seconds": 20, "graceful_seconds": 25},
                "worker": {"command": ["python", "manage.py", "run_worker"]},
                "celery": {"command": ["celery", "-A", "portal"]},
                "shell": {"command": ["/usr/bin/env", "true"]},
            },
            "databases": [
                {"name": "default", "engine": "sqlite", "path": "db/portal.sqlite3"},
                {"name": "archive", "engine": "sqlite", "path": "db/archive.sqlite3"},
            ],
        },
        file="portal.yml",
    )


class Commands:
    """A runner that makes what `python -m venv` and pip would, and remembers what it was asked."""

    def __init__(self, *, fail: str = "") -> None:
        self.asked: list[list[str]] = []
        self.fail = fail

    def __call__(self, arguments: Sequence[str], *, check: bool = True, **_: Any) -> Completed:
        self.asked.append(list(arguments))
        if "venv" in arguments:
            python = Path(arguments[-1]) / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.write_text("")
        if self.fail and self.fail in arguments:
            return Completed(tuple(arguments), 1, "", "Looking\nERROR: hashes do not match\n")
        return Completed(tuple(arguments), 0, "", "")


@pytest.fixture
def payload(tmp_path: Path) -> tuple[Path, artifact.Manifest]:
    lock = b"django==5.2 --hash=sha256:00\n"
    manifest = dataclasses.replace(MANIFEST, lock_sha256=hashlib.sha256(lock).hexdigest())
    tree = tmp_path / "tree"
    (tree / "wheels").mkdir(parents=True)
    (tree / "wheels/requirements.txt").write_bytes(lock)
    (tree / "manifest.json").write_bytes(manifest.to_json())
    return artifact.pack(tree, tmp_path / "p.tar", 1).path, manifest


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    wheel = tmp_path / "pip-25.1-py3-none-any.whl"
    wheel.write_bytes(b"")
    monkeypatch.setattr(runtime, "pip_program", lambda: wheel / "pip")
    return wheel / "pip"


def test_web_listens_on_its_own_socket_which_the_directory_guards(application: Application) -> None:
    command = runtime.runtime_of(application).process_command(
        application, "web", RELEASE, Path("/run/portal/0001-1.0.0/web.sock"), RELEASE / "gunicorn.conf.py"
    )
    assert command == [
        f"{RELEASE}/venv/bin/python",
        "-m",
        "gunicorn",
        f"--config={RELEASE}/gunicorn.conf.py",
        "--workers=3",
        "--threads=5",
        "--timeout=20",
        "--graceful-timeout=25",
        "--bind=unix:/run/portal/0001-1.0.0/web.sock",
        "--umask=0111",
        "--no-control-socket",
        "portal.wsgi:application",
    ]


@pytest.mark.parametrize(
    ("process", "expected"),
    [
        ("worker", [f"{RELEASE}/venv/bin/python", "manage.py", "run_worker"]),
        ("celery", ["celery", "-A", "portal"]),
        ("shell", ["/usr/bin/env", "true"]),
    ],
)
def test_a_worker_runs_what_its_release_installed(application: Application, process: str, expected: list[str]) -> None:
    """This one has installed nothing; test_first_word.py has one that has."""
    found = runtime.runtime_of(application).process_command(application, process, RELEASE, Path("/s"), Path("/g"))
    assert found == expected


def test_the_agent_is_asked_about_the_declared_databases(application: Application) -> None:
    python, agent, *rest = runtime.runtime_of(application).agent_command(RELEASE, "migrate")
    assert python == f"{RELEASE}/venv/bin/python"
    assert Path(agent).name == "_django_agent.py"
    assert Path(agent).is_file()
    assert rest[:2] == ["portal.settings", "migrate"]
    assert json.loads(rest[2]) == {
        "databases": ["default", "archive"],
        "lock_seconds": 5.0,
        "statement_seconds": 300.0,
        "wait_seconds": 1770.0,
    }
    assert len(rest) == 3


def test_the_agent_is_told_what_to_take_back(application: Application) -> None:
    command = runtime.runtime_of(application).agent_command(RELEASE, "reverse", reverse=("a.2", "a.3"))
    assert json.loads(command[-1])["reverse"] == ["a.2", "a.3"]
    command = runtime.runtime_of(application).agent_command(RELEASE, "describe", known=("a.1",))
    assert json.loads(command[-1])["known"] == ["a.1"]


def test_the_agents_answer_is_its_last_line_with_the_seconds_of_those_before(application: Application) -> None:
    state = {"event": "state", "applied": ["a.1", "a.2"], "known": ["a.1"], "pending": [], "unknown": ["a.2"]}
    output = json.dumps({"event": "migration", "name": "a.1", "seconds": 0.5}) + "\n" + json.dumps(state) + "\n"
    assert runtime.runtime_of(application).parse_agent(output) == runtime.MigrationState(
        applied=("a.1", "a.2"), known=("a.1",), unknown=("a.2",), seconds=(("a.1", 0.5),)
    )


@pytest.mark.parametrize(
    ("told", "warnings"),
    [
        ({"warnings": [{"id": "a.W1", "said": "mind the gap"}]}, (("a.W1", "mind the gap"),)),
        ({"warnings": []}, ()),
        ({"warnings": None, "failed": "they hang"}, None),
        ({"warnings": [7]}, None),
        ({}, None),
    ],
)
def test_what_checks_warn_about_is_told_and_never_a_reason_to_fail(
    application: Application, told: dict[str, object], warnings: object
) -> None:
    state = {"event": "state", "applied": [], "known": [], "pending": [], "unknown": []}
    output = "\n".join(json.dumps(each) for each in ({"event": "checks", **told}, state))
    assert runtime.runtime_of(application).parse_agent(output).warnings == warnings


def test_the_agent_is_told_which_passwords_were_tried(application: Application) -> None:
    command = runtime.runtime_of(application).accounts_command(RELEASE, tried=["aa", "bb"], seconds=30.0)
    assert command[2:4] == ["portal.settings", "accounts"]
    options = json.loads(command[4])
    assert (options["tried"], options["seconds"]) == (["aa", "bb"], 30.0)


def test_what_was_tried_counts_although_the_agent_was_cut_off(application: Application) -> None:
    parse = runtime.runtime_of(application).parse_accounts
    told = [
        {"event": "accounts", "present": ["aa", "bb", "cc"], "more": False},
        {"event": "tried", "account": "aa", "weak": "ada"},
        {"event": "tried", "account": "bb", "weak": ""},
    ]
    output = "\n".join(map(json.dumps, told)) + '\n{"event": "tried", "acc'
    assert parse(output) == runtime.Accounts(("aa", "bb", "cc"), {"aa": "ada", "bb": ""})
    assert parse("") is None
    assert parse("Traceback\n") is None


@pytest.mark.parametrize("output", ["", "hello\n", "[1]\n", '{"event": "migration"}\n', '{"event": "state"}\n'])
def test_an_agent_that_did_not_finish_is_an_error_not_an_empty_state(application: Application, output: str) -> None:
    with pytest.raises(BackstayError, match="journal of the migration's unit"):
        runtime.runtime_of(application).parse_agent(output)


@pytest.mark.parametrize("name", ["lock_sha256", "python", "system", "architecture"])
def test_an_environment_is_shared_only_when_all_it_depends_on_is_the_same(application: Application, name: str) -> None:
    key = runtime.runtime_of(application).environment_key
    assert key(MANIFEST) == key(dataclasses.replace(MANIFEST, version="2.0.0", commit="c" * 40, notes="Other."))
    assert key(MANIFEST) != key(dataclasses.replace(MANIFEST, **{name: "other"}))
    assert len(key(MANIFEST)) == 16


def test_an_environment_is_made_offline_with_digests_and_then_left_alone(
    application: Application, payload: tuple[Path, artifact.Manifest], pip: Path, tmp_path: Path
) -> None:
    commands, target = Commands(), tmp_path / "environments" / "key"
    create = runtime.runtime_of(application).create_environment
    create(*payload, target, commands)
    install = commands.asked[1]
    assert install[:3] == [str(target / "bin/python"), str(pip), "install"]
    assert {"--no-index", "--require-hashes", "--no-deps"} <= set(install)
    assert sorted(path.name for path in target.iterdir()) == ["bin"]
    create(*payload, target, commands)
    assert len(commands.asked) == 2, "a finished environment was touched"


def test_an_environment_that_was_cut_off_is_made_again(
    application: Application, payload: tuple[Path, artifact.Manifest], pip: Path, tmp_path: Path
) -> None:
    target = tmp_path / "environments" / "key"
    create = runtime.runtime_of(application).create_environment
    with pytest.raises(BackstayError, match=r"could not be made: ERROR: hashes do not match") as refused:
        create(*payload, target, Commands(fail="install"))
    assert refused.value.lines == ("Looking", "ERROR: hashes do not match")
    assert (target / ".unfinished").exists()
    (target / "bin" / "rubbish").write_text("")
    create(*payload, target, Commands())
    assert not (target / ".unfinished").exists()
    assert not (target / "bin" / "rubbish").exists()


def test_an_environment_without_its_interpreter_is_made_again(
    application: Application, payload: tuple[Path, artifact.Manifest], pip: Path, tmp_path: Path
) -> None:
    target = tmp_path / "environments" / "key"
    target.mkdir(parents=True)
    commands = Commands()
    runtime.runtime_of(application).create_environment(*payload, target, commands)
    assert len(commands.asked) == 2


def test_an_environment_can_be_read_by_all_and_written_by_its_owner_whatever_the_umask(
    application: Application, payload: tuple[Path, artifact.Manifest], pip: Path, tmp_path: Path
) -> None:
    target = tmp_path / "environments" / "key"
    before = os.umask(0o077)
    try:
        runtime.runtime_of(application).create_environment(*payload, target, Commands())
    finally:
        os.umask(before)
    assert oct((target / "bin").stat().st_mode & 0o777) == "0o755"
    assert oct((target / "bin/python").stat().st_mode & 0o777) == "0o644"


def test_wheels_that_are_not_those_of_the_manifest_are_refused(
    application: Application, payload: tuple[Path, artifact.Manifest], pip: Path, tmp_path: Path
) -> None:
    path, manifest = payload
    commands = Commands()
    with pytest.raises(BackstayError, match="not those of its manifest"):
        runtime.runtime_of(application).create_environment(
            path, dataclasses.replace(manifest, lock_sha256="0" * 64), tmp_path / "e", commands
        )
    assert len(commands.asked) == 1, "something was installed"


def test_code_is_compiled_ahead_and_readable(application: Application, tmp_path: Path) -> None:
    from ansible_collections.backstay.ops.plugins.module_utils._run import run

    (tmp_path / "code/portal").mkdir(parents=True)
    (tmp_path / "code/portal/good.py").write_text("x = 1\n")
    (tmp_path / "code/portal/template.py").write_text("{{ no python }} !\n")
    before = os.umask(0o077)
    try:
        runtime.runtime_of(application).compile_code(tmp_path, run)
    finally:
        os.umask(before)
    compiled = list((tmp_path / "code").rglob("*.pyc"))
    assert [path.name.partition(".")[0] for path in compiled] == ["good"]
    assert oct(compiled[0].stat().st_mode & 0o777) == "0o644"


def test_a_missing_pip_names_the_package(tmp_path: Path) -> None:
    with pytest.raises(BackstayError, match="install the package python3-venv"):
        runtime.pip_program(tmp_path)


class Paper:
    """A workshop whose commands print what they are told to, and are remembered."""

    def __init__(self, home: Path, output: str, *, code: int = 0) -> None:
        self.home, self.output, self.code = home, output, code
        self.asked: list[str] = []

    def room(self, name: str) -> Path:
        (self.home / name / "source").mkdir(parents=True)
        return self.home / name / "source"

    def run(self, arguments: Sequence[str], **_: Any) -> Completed:
        self.asked = list(arguments)
        compile(Path(arguments[1]).read_text(), arguments[1], "exec")
        return Completed(tuple(arguments), self.code, self.output, "noise\nshop has two last migrations\n")


def test_a_build_records_a_verdict_on_each_migration(application: Application, tmp_path: Path) -> None:
    facts = {"name": "a.1", "engine": "sqlite", "operations": [{"kind": "x.Unknown", "state_only": False}]}
    paper = Paper(tmp_path, json.dumps({"event": "operations", "migrations": [facts]}) + "\n")
    prepared = runtime.Prepared(tmp_path / "wheels", tmp_path / "environment")
    verdicts = runtime.runtime_of(application).verdicts(paper, prepared)  # type: ignore[arg-type]  # a part of one
    assert verdicts is not None
    assert sorted(verdicts) == ["format", "migrations"]
    assert [(each["name"], each["verdict"]) for each in verdicts["migrations"]] == [("a.1", "breaking")]
    assert paper.asked[0] == f"{tmp_path}/environment/bin/python"
    assert paper.asked[2:] == ["portal.settings", "operations", '{"databases": ["default"]}']


def test_a_build_stops_where_the_migrations_cannot_be_read(application: Application, tmp_path: Path) -> None:
    prepared = runtime.Prepared(tmp_path / "wheels", tmp_path / "environment")
    with pytest.raises(BackstayError, match="could not be judged: shop has two last migrations"):
        runtime.runtime_of(application).verdicts(Paper(tmp_path, "", code=2), prepared)  # type: ignore[arg-type]  # same


def test_an_unknown_runtime_is_refused_by_name(application: Application) -> None:
    other = dataclasses.replace(application, runtime=dataclasses.replace(application.runtime, type="cobol"))
    with pytest.raises(InputError, match="the runtime 'cobol'"):
        runtime.runtime_of(other)
