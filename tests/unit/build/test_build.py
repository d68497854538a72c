"""The build: what stops it, in which words, and that the payload follows from the source alone."""

from __future__ import annotations

import dataclasses
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _artifact as artifact
from ansible_collections.backstay.ops.plugins.module_utils import _build as build
from ansible_collections.backstay.ops.plugins.module_utils._application import Application, parse
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, InputError
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed, run
from ansible_collections.backstay.ops.plugins.module_utils._runtime import Prepared, Workshop

TIME = 1_790_000_000
SOURCE = {
    "VERSION": "1.1.0\n",
    "CHANGELOG.md": "# Changes\n\n## [1.1.0] - 2026-09-02\n\n- A new page.\n\n## [1.0.0] - 2026-09-01\n\n- First.\n",
    "portal/__init__.py": "",
}


def application(*checks: Sequence[str]) -> Application:
    return parse(
        {
            "format": 1,
            "name": "portal",
            "domain": "portal.lab.test",
            "source": {"repository": "/srv/portal.git"},
            "runtime": {
                "settings": "portal.settings",
                "wsgi": "portal.wsgi:application",
                "checks_requirements": "requirements-dev.lock",
                "checks": [list(check) for check in checks],
                "changelog": "CHANGELOG.md",
            },
            "processes": {"web": {}},
            "databases": [
                {"name": "default", "engine": "sqlite", "path": "db/portal.sqlite3"},
                {"name": "reports", "engine": "postgresql", "url_key": "REPORTS_URL"},
            ],
            "media": "media",
            "environment": {
                "values": {"ALLOWED_HOSTS": "portal.lab.test"},
                "required": ["SECRET_KEY", "ALLOWED_HOSTS", "REPORTS_URL", "PAYMENT_URL"],
                "secret": ["SECRET_KEY", "REPORTS_URL", "PAYMENT_URL"],
            },
        },
        file="portal.yml",
    )


class PlainSandbox:
    """Runs commands as they are, and remembers with what."""

    def __init__(self) -> None:
        self.seen: list[dict[str, object]] = []

    def own(self, path: Path) -> None:
        assert path.exists()

    def run(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        writable: Sequence[Path],
        variables: Mapping[str, str],
        network: bool,
        timeout_seconds: float,
    ) -> Completed:
        self.seen.append(
            {"arguments": list(arguments), "variables": dict(variables), "network": network, "writable": list(writable)}
        )
        return run(arguments, cwd=cwd, environment=variables, timeout_seconds=timeout_seconds, check=False)


class PaperRuntime:
    """A runtime that needs no network: one wheel, one asset."""

    def __init__(self) -> None:
        self.made = 0

    def prepare(self, workshop: Workshop) -> Prepared:
        def make(folder: Path) -> None:
            self.made += 1
            (folder / "django-5.2-py3-none-any.whl").write_bytes(b"wheel")

        wheels = workshop.kept("wheels", "key", make)
        return Prepared(wheels, workshop.kept("environments", "key", lambda _: None))

    def assets(self, workshop: Workshop, prepared: Prepared) -> Path | None:
        room = workshop.room("assets")
        (room.parent / "static/staticfiles.json").write_text("{}")
        return room.parent / "static"

    def verdicts(self, workshop: Workshop, prepared: Prepared) -> dict[str, object] | None:
        return {"format": 1, "verdict": "additive"}


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> PaperRuntime:
    runtime = PaperRuntime()
    monkeypatch.setattr(build, "runtime_of", lambda _: runtime)
    monkeypatch.setattr(build, "pip_program", lambda: Path("/wheels/pip-25.1.1-py3-none-any.whl/pip"))
    monkeypatch.setattr(build, "host_facts", lambda: artifact.HostFacts("debian-13", "3.13", "x86_64"))
    return runtime


def request_for(tmp_path: Path, *checks: Sequence[str], source: dict[str, str] | None = None) -> build.Request:
    folder = tmp_path / "source"
    for name, content in (SOURCE if source is None else source).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    archive = tmp_path / "source.tar"
    with tarfile.open(archive, "w") as opened:
        for path in sorted(folder.rglob("*")):
            opened.add(path, path.relative_to(folder).as_posix(), recursive=False)
    destination = tmp_path / "out"
    destination.mkdir(exist_ok=True)
    return build.Request(archive, application(*checks), "1.1.0", "c" * 40, TIME, destination)


def do(request: build.Request, tmp_path: Path, sandbox: PlainSandbox | None = None) -> build.Built:
    return build.build(request, sandbox=sandbox or PlainSandbox(), cache=tmp_path / "cache", now=lambda: TIME + 60.0)


def test_the_same_source_gives_the_same_payload_twice_and_on_another_host(paper: PaperRuntime, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    first = do(request_for(one), one)
    again = do(request_for(one), one)
    elsewhere = do(request_for(two), two)
    assert first.packed.sha256 == again.packed.sha256 == elsewhere.packed.sha256
    assert paper.made == 2, "the dependencies were not kept for the second build"


def test_a_payload_says_what_it_is_and_holds_code_wheels_and_static_files(paper: PaperRuntime, tmp_path: Path) -> None:
    done = do(request_for(tmp_path), tmp_path)
    manifest = artifact.read_manifest(done.packed.path)
    assert (manifest.version, manifest.commit, manifest.notes) == ("1.1.0", "c" * 40, "- A new page.")
    assert manifest.source_time == "2026-09-21T14:13:20Z"
    with tarfile.open(done.packed.path) as archive:
        assert archive.getnames() == [
            "manifest.json",
            "code/CHANGELOG.md",
            "code/VERSION",
            "code/portal/__init__.py",
            "static/staticfiles.json",
            "wheels/django-5.2-py3-none-any.whl",
            "wheels/requirements.txt",
        ]


def test_the_attestation_lies_beside_and_tells_who_when_with_what_and_how_checks_went(
    paper: PaperRuntime, tmp_path: Path
) -> None:
    done = do(request_for(tmp_path, ["true"]), tmp_path)
    attested = json.loads((tmp_path / "out/portal-1.1.0.attestation.json").read_bytes())
    assert attested == done.attestation
    assert attested["payload_sha256"] == artifact.sha256_of(tmp_path / "out/portal-1.1.0.tar")
    assert attested["migrations"] == {"format": 1, "verdict": "additive"}
    assert attested["built_at"] == "2026-09-21T14:14:20Z"
    assert [(check["command"], check["ok"]) for check in attested["checks"]] == [("true", True)]


def test_a_failing_check_stops_the_build_with_its_last_lines(paper: PaperRuntime, tmp_path: Path) -> None:
    script = "for n in $(seq 1 30); do echo line $n; done; echo it broke; exit 3"
    with pytest.raises(
        BackstayError, match=r"failed with exit code 3 after .* s: it broke; nothing was built"
    ) as stopped:
        do(request_for(tmp_path, ["sh", "-c", script]), tmp_path)
    assert stopped.value.lines == (*(f"line {n}" for n in range(12, 31)), "it broke")
    assert not list((tmp_path / "out").iterdir())
    assert not list((tmp_path / "cache").glob("work-*")), "the failed build left its scratch directory"


def test_a_check_that_is_not_installed_names_where_to_add_it(paper: PaperRuntime, tmp_path: Path) -> None:
    with pytest.raises(BackstayError, match=r"needs the program 'no-such-linter'.*requirements-dev.lock"):
        do(request_for(tmp_path, ["no-such-linter", "."]), tmp_path)


def test_what_a_check_writes_is_not_in_the_payload_and_not_seen_by_the_next(
    paper: PaperRuntime, tmp_path: Path
) -> None:
    clean = do(request_for(tmp_path), tmp_path).packed.sha256
    write = ["sh", "-c", "test ! -e left && echo 1 > left && echo 2 > VERSION && test -e ../static/staticfiles.json"]
    assert do(request_for(tmp_path, write, write), tmp_path).packed.sha256 == clean


def test_checks_get_the_environment_of_a_release_with_made_up_secrets_and_nothing_of_pip(
    paper: PaperRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:password@index.example/")
    sandbox = PlainSandbox()
    probe = 'test -d "$BACKSTAY_DATA_DIR/db" && test -d "$BACKSTAY_DATA_DIR/media" && test -w "$BACKSTAY_LOG_DIR"'
    do(request_for(tmp_path, ["sh", "-c", probe]), tmp_path, sandbox)
    variables = sandbox.seen[-1]["variables"]
    assert isinstance(variables, dict)
    assert variables["ALLOWED_HOSTS"] == "portal.lab.test"
    assert len(variables["SECRET_KEY"]) >= 50
    assert variables["REPORTS_URL"] == "postgresql://build:build@127.0.0.1:1/build"
    assert variables["PAYMENT_URL"] == "http://build.invalid/"
    assert variables["BACKSTAY_VERSION"] == "1.1.0"
    assert not [name for name in variables if name.startswith("PIP_")]
    assert sandbox.seen[-1]["network"] is True


def test_an_application_without_network_is_checked_without_network(paper: PaperRuntime, tmp_path: Path) -> None:
    sandbox, request = PlainSandbox(), request_for(tmp_path, ["true"])
    do(
        dataclasses.replace(request, application=dataclasses.replace(request.application, network=False)),
        tmp_path,
        sandbox,
    )
    assert sandbox.seen[-1]["network"] is False


def test_pip_gets_the_hosts_own_client_configuration_and_nothing_of_the_application(
    paper: PaperRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example/")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    sandbox = PlainSandbox()
    (tmp_path / "cache").mkdir()
    bench = build.Bench(request_for(tmp_path), sandbox, tmp_path / "work", tmp_path / "cache")
    bench.run(["true"], cwd=tmp_path, writable=[tmp_path / "cache"], network=True)
    variables = sandbox.seen[-1]["variables"]
    assert isinstance(variables, dict)
    assert variables["PIP_INDEX_URL"] == "https://index.example/"
    assert not {"AWS_SECRET_ACCESS_KEY", "SECRET_KEY", "ALLOWED_HOSTS"} & set(variables)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"VERSION": "1.0.9"}, "VERSION of the source says 1.0.9 and 1.1.0 was to be built"),
        ({"CHANGELOG.md": "## [1.0.0]\n\n- First.\n"}, r"CHANGELOG.md has no entry for 1.1.0.*under `## \[1.1.0\]`"),
        ({"CHANGELOG.md": "## [1.1.0]\n\n## [1.0.0]\n- First.\n"}, "CHANGELOG.md has an empty entry for 1.1.0"),
        ({"CHANGELOG.md": None}, "has no CHANGELOG.md, which runtime.changelog names"),
    ],
)
def test_a_source_that_does_not_say_what_it_must_is_refused(
    paper: PaperRuntime, tmp_path: Path, change: dict[str, str | None], expected: str
) -> None:
    source = {name: content for name, content in {**SOURCE, **change}.items() if content is not None}
    with pytest.raises(InputError, match=expected):
        do(request_for(tmp_path, source=source), tmp_path)


def test_without_a_declared_changelog_none_is_needed(paper: PaperRuntime, tmp_path: Path) -> None:
    request = request_for(tmp_path, source={"portal.py": ""})
    plain = dataclasses.replace(request.application.runtime, changelog=None)
    request = dataclasses.replace(request, application=dataclasses.replace(request.application, runtime=plain))
    assert do(request, tmp_path).manifest.notes == ""


def test_what_was_half_made_for_the_cache_is_made_again(paper: PaperRuntime, tmp_path: Path) -> None:
    half = tmp_path / "cache/wheels/key"
    half.mkdir(parents=True)
    (half / "rubbish-1-py3-none-any.whl").write_bytes(b"")
    done = do(request_for(tmp_path), tmp_path)
    with tarfile.open(done.packed.path) as archive:
        assert not [name for name in archive.getnames() if "rubbish" in name]


@pytest.mark.parametrize(
    "heading", ["## [1.1.0]", "## 1.1.0", "## v1.1.0 (2026-09-02)", "## [1.1.0] - 2026-09-02", "##  [v1.1.0]"]
)
def test_a_changelogs_entry_is_found_under_the_usual_headings(heading: str) -> None:
    text = f"# Changes\n\n## [1.1.0-rc.1]\n\n- Early.\n\n{heading}\n\n### Added\n\n- Page.\n\n## [1.0.0]\n\n- Old.\n"
    assert build.changelog_entry(text, "1.1.0") == "### Added\n\n- Page."


@pytest.mark.parametrize("text", ["", "## [11.1.0]\n- x", "## [1.1.0-rc.1]\n- x", "## 1.1.01\n- x", "1.1.0\n- x"])
def test_another_versions_entry_is_not_taken(text: str) -> None:
    assert build.changelog_entry(text, "1.1.0") is None


def test_the_links_below_the_last_entry_do_not_belong_to_it() -> None:
    assert build.changelog_entry("## [1.1.0]\n\n- Page.\n\n[1.1.0]: https://example.org\n", "1.1.0") == "- Page."


def test_a_source_may_say_its_version_in_pyproject(tmp_path: Path) -> None:
    assert build.declared_version(tmp_path) is None
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\ndynamic = ["version"]\n')
    assert build.declared_version(tmp_path) is None
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "1.1.0"\n')
    assert build.declared_version(tmp_path) == ("pyproject.toml", "1.1.0")
    (tmp_path / "VERSION").write_text("1.2.0\n")
    assert build.declared_version(tmp_path) == ("VERSION", "1.2.0")


def test_the_sandbox_confines_and_hides_variables_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[list[str]] = []
    written: list[str] = []

    def runner(arguments: Sequence[str], **_: object) -> Completed:
        asked.append(list(arguments))
        file = next(word for word in arguments if word.startswith("--property=EnvironmentFile="))
        path = Path(file.partition("EnvironmentFile=")[2])
        assert path.stat().st_mode & 0o777 == 0o600
        written.append(path.read_text())
        return Completed(tuple(arguments), 0, "", "")

    monkeypatch.setattr(build, "VARIABLES", tmp_path)
    build.SystemdSandbox(runner=runner).run(
        ["pip", "wheel"],
        cwd=tmp_path,
        writable=[tmp_path],
        variables={"PIP_INDEX_URL": "https://user:password@index.example/"},
        network=False,
        timeout_seconds=5,
    )
    command = " ".join(asked[0])
    assert "password" not in command
    assert "password" in written[0]
    for line in ("User=backstay-build", "ProtectSystem=strict", "PrivateNetwork=yes", f"ReadWritePaths={tmp_path}"):
        assert f"--property={line}" in asked[0]
    assert not list(tmp_path.iterdir()), "the variables were left behind"
