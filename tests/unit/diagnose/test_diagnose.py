"""The archive for a ticket: what is in it, what never is, and that it is there whole or not at all."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import (
    _application,
    _cli,
    _diagnose,
    _diagnose_facts,
    _ledger,
)
from ansible_collections.backstay.ops.plugins.module_utils._diagnose import Bundle, Diagnosis, diagnose
from ansible_collections.backstay.ops.plugins.module_utils._engine import Engine
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, InputError
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed
from ansible_collections.backstay.ops.plugins.module_utils._scrub import Scrubber
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage

NAME, LIVE, OLD = "portal", "0002-1.1.0", "0001-1.0.0"
NOW = "2026-11-21T12:00:00.000Z"
# Declared, of a release that is kept (it was changed since), of a repository, and four that nobody declared.
DECLARED, ROTATED, REPOSITORY = "declared/secret+value", "the-one-before-it-was-changed", "opens the repository"
NESTED = "an access key of the store"
IN_URL, IN_HEADER, ASSIGNED, IN_KEY = (
    "Pl4nted-in-url",
    "Pl4nted-in-header",
    "Pl4nted-assigned",
    "Pl4ntedInAPrivateKeyAAAA",
)
SECRETS = (DECLARED, ROTATED, REPOSITORY, NESTED, IN_URL, IN_HEADER, ASSIGNED, IN_KEY)
PLANTED = "\n".join(
    (
        "an innocent line",
        f"value {DECLARED} in the middle, {json.dumps(DECLARED)} and {ROTATED}",
        f"{REPOSITORY} and {NESTED}",
        f"postgres://portal:{IN_URL}@db.test/portal",
        f"Authorization: Bearer {IN_HEADER}",
        f'{{"api_token": "{ASSIGNED}"}} DB_PASSWORD={ASSIGNED}',
        "-----BEGIN PRIVATE KEY-----",
        IN_KEY,
        "-----END PRIVATE KEY-----",
        "2026/11/21 12:00:01 [error] an innocent end",
        "",
    )
)
APPLICATION: dict[str, Any] = {
    "format": 1,
    "name": NAME,
    "domain": "portal.example.org",
    "source": {"repository": "https://git.example.org/portal.git"},
    "runtime": {"settings": "portal.settings", "wsgi": "portal.wsgi:application"},
    "processes": {"web": {}},
    "databases": [{"name": "default", "engine": "sqlite", "path": "db/portal.sqlite3"}],
    "media": "media",
    "environment": {
        "values": {"BANNER": "hello", "CACHE": f"redis://:{IN_URL}@cache.test/0"},
        "required": ["SECRET_KEY"],
        "secret": ["SECRET_KEY"],
    },
}


class Machine:
    """Whatever is asked says what was planted, and is remembered."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, arguments: Sequence[str], **_: Any) -> Completed:
        self.asked.append(tuple(arguments))
        return Completed(tuple(arguments), 0, PLANTED, PLANTED)


class Quick(Storage):
    """A real disk that nobody waits for; with `full`, the state directory takes nothing."""

    full: Path | None = None

    def _create(self, path: Path, content: bytes, mode: int) -> None:
        if self.full is not None and self.full in path.parents:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        super()._create(path, content, mode)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """A host in a directory, where everything that is collected holds secrets."""
    layout = Layout(NAME, tmp_path)
    house = layout.state.parent / ".host"
    nginx, front = tmp_path / "etc" / "nginx", tmp_path / "var" / "log" / "nginx"
    directories = [layout.old_journals, layout.state / "jobs", house, layout.logs, front, layout.releases, layout.data]
    directories += [nginx / name for name in ("conf.d", "sites-enabled", "snippets")]
    directories += [tmp_path / "usr" / "lib", tmp_path / "run" / "backstay", tmp_path / "etc" / "backstay-tls" / NAME]
    for directory in (*directories, *(layout.release_configuration(release) for release in (LIVE, OLD))):
        directory.mkdir(parents=True)
    declared = json.dumps(_application.to_dict(_application.parse(APPLICATION, file="portal.yml")))
    layout.application_file.write_text(declared)
    for release, value in ((LIVE, DECLARED), (OLD, ROTATED)):
        (layout.release_configuration(release) / "application.json").write_text(declared)
        layout.environment_file(release).write_text(f'BANNER="hello"\nSECRET_KEY="{value}"\n')
    layout.secrets_file.write_text(json.dumps({"format": 1, "values": {"SECRET_KEY": DECLARED}}))
    opens = {"password": REPOSITORY, "prune": {"secret_access_key": NESTED}}
    layout.backup_secrets.write_text(json.dumps({"format": 1, "repositories": {"disk": opens}}))
    for path in (
        layout.ledger,
        layout.journal,
        layout.old_journals / "20261121-release.jsonl",
        layout.backups,
        layout.freeze,
        layout.lock,
        layout.data_lock,
        layout.state / "jobs" / "cleanup.jsonl",
        house / "samples.jsonl",
        house / "incidents.json",
        layout.logs / "gunicorn.log",
        nginx / "nginx.conf",
        nginx / "conf.d" / "own.conf",
        nginx / "sites-enabled" / "portal.conf",
        nginx / "snippets" / "headers.conf",
        front / "error.log",
        front / "portal.error.log",
        front / "portal.access.log",
        tmp_path / "usr" / "lib" / "os-release",
    ):
        path.write_text(PLANTED)
    layout.active.symlink_to(layout.socket(LIVE))
    monkeypatch.setattr(_diagnose_facts.Looker, "_door", lambda self, application: _diagnose_facts.causes.Answer(502))
    failing = [{"status": "fail", "output": f"cannot reach postgres://u:{IN_URL}@h/d"}]
    answer = _diagnose_facts.causes.Answer(503), json.dumps({"checks": {"cache": failing}, "note": PLANTED})
    monkeypatch.setattr(_diagnose_facts.Looker, "_ask", lambda self, *_: answer)
    monkeypatch.setattr(_ledger, "_LOOKS", 1)  # it is damaged, and will be when it is looked at again
    return Engine(layout, storage=Quick(), runner=Machine(), now=lambda: NOW)


def unpacked(done: Diagnosis) -> dict[str, str]:
    with tarfile.open(done.archive) as archive:
        found = {}
        for entry in archive.getmembers():
            assert entry.isfile()
            assert entry.mode == 0o600
            file = archive.extractfile(entry)
            assert file is not None
            found[entry.name.partition("/")[2]] = file.read().decode()
    return found


WITH_PLANTED = (
    "health.json",
    "journal/application.log",
    "journal/backstay.log",
    "journal/warnings.log",
    "nginx/errors-around.log",
    "ledger.jsonl",
    "transaction/open.jsonl",
    "transaction/20261121-release.jsonl",
    "backups.jsonl",
    "state/freeze.json",
    "state/lock",
    "state/data.lock",
    "jobs/cleanup.jsonl",
    "host/samples.jsonl",
    "host/incidents.json",
    "application/gunicorn.log",
    "configuration/nginx.conf",
    "configuration/nginx/conf.d/own.conf",
    "configuration/nginx/sites-enabled/portal.conf",
    "configuration/nginx/snippets/headers.conf",
    "nginx/error.log",
    "nginx/portal.error.log",
    "nginx/portal.access.log",
    "nginx/test.txt",
    "units/status.txt",
    "units/show.txt",
    "units/text.txt",
    "units/failed.txt",
    "units/timers.txt",
    "machine/disks.txt",
    "machine/inodes.txt",
    "machine/mounts.txt",
    "machine/memory.txt",
    "machine/processes.txt",
    "machine/listening.txt",
    "machine/kernel.txt",
    "machine/time.txt",
    "versions/packages.txt",
    "versions/kernel.txt",
    "versions/nginx.txt",
    "versions/system.txt",
)
WITHOUT = (
    "summary.txt",
    "causes.json",
    "facts.json",
    "status.json",
    "configuration/declared.json",
    "configuration/live.json",
    "configuration/environment-keys.txt",
    "configuration/secret-keys.txt",
    "versions/backstay.txt",
)


def test_no_secret_is_in_any_file_of_the_archive(engine: Engine) -> None:
    done = diagnose(engine)
    files = unpacked(done)
    assert sorted(files) == sorted((*WITH_PLANTED, *WITHOUT)), "a file that this test does not plant anything in"
    for name, text in files.items():
        for secret in SECRETS:
            assert secret not in text, f"{name} holds a secret of the kind {secret!r}"
            assert json.dumps(secret)[1:-1] not in text
    for name in WITH_PLANTED:
        if name != "nginx/errors-around.log":
            assert "an innocent line" in files[name], f"{name} was not collected: {files[name][:200]}"
            assert "[secret]" in files[name]
        assert "an innocent end" in files[name]
    assert files["configuration/secret-keys.txt"] == "SECRET_KEY\n"
    assert files["configuration/environment-keys.txt"] == "BANNER\nSECRET_KEY\n"
    assert "hello" in files["configuration/declared.json"]
    raw = done.archive.read_bytes()
    assert not any(secret.encode() in gzip.decompress(raw) for secret in SECRETS)


def test_nor_is_one_in_what_is_printed(engine: Engine) -> None:
    done = diagnose(engine)
    printed = "\n".join(done.lines) + json.dumps(done.to_dict()) + repr(done.scrub)
    assert not [secret for secret in SECRETS if secret in printed]
    assert "cannot reach postgres://[secret]@h/d" in printed
    assert set(done.to_dict()) >= {"archive", "causes", "facts", "summary", "files"}


def test_it_is_roots_alone_and_old_ones_go(engine: Engine) -> None:
    directory = engine.layout.state / "diagnoses"
    directory.mkdir()
    for day in range(10, 20):
        (directory / f"portal-app1-202611{day}T000000Z.tar.gz").touch()
    done = diagnose(engine)
    assert done.archive.parent == directory
    assert done.archive.stat().st_mode & 0o777 == 0o600
    assert done.size_bytes == done.archive.stat().st_size
    left = sorted(path.name for path in directory.iterdir())
    assert len(left) == _diagnose.KEEP
    assert left[-1] == done.archive.name
    assert left[0] == "portal-app1-20261116T000000Z.tar.gz"


def test_on_a_full_disk_it_lies_in_memory(engine: Engine) -> None:
    assert isinstance(engine.storage, Quick)
    engine.storage.full = engine.layout.state
    done = diagnose(engine)
    assert done.archive.parent == engine.layout.root / "run" / "backstay" / "diagnoses"
    assert done.archive.stat().st_mode & 0o777 == 0o600
    assert list((engine.layout.state / "diagnoses").iterdir()) == [], "half an archive"
    again = diagnose(engine)
    assert list(again.archive.parent.iterdir()) == [again.archive], "memory is not filled with old ones"


def test_it_goes_where_somebody_says_or_nowhere(engine: Engine, tmp_path: Path) -> None:
    done = diagnose(engine, to=str(tmp_path / "mine.tar.gz"))
    assert done.archive == tmp_path / "mine.tar.gz"
    (tmp_path / "there").mkdir()
    assert diagnose(engine, to=str(tmp_path / "there")).archive.parent == tmp_path / "there"
    with pytest.raises(BackstayError):
        diagnose(engine, to=str(tmp_path / "nowhere" / "x.tar.gz"))


def test_logs_are_read_around_the_event(engine: Engine) -> None:
    diagnose(engine, around="2026-11-20T08:15", minutes=15)
    assert isinstance(engine.runner, Machine)
    asked = [words for words in engine.runner.asked if words[0] == "journalctl"]
    assert asked
    for words in asked:
        assert "--since=2026-11-20 08:00:00 UTC" in words
        assert "--until=2026-11-20 08:30:00 UTC" in words


@pytest.mark.parametrize("given", [{"around": "yesterday"}, {"minutes": 0.0}, {"minutes": 1e9}, {"minutes": -1.0}])
def test_a_time_that_is_none_is_refused(engine: Engine, given: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        diagnose(engine, **given)


@pytest.mark.parametrize("harm", ["nothing", "application", "ledger", "secrets", "everything"])
def test_a_damaged_host_is_diagnosed_all_the_same(engine: Engine, harm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = engine.layout
    if harm == "application":
        layout.application_file.write_text("{")
    elif harm == "ledger":
        layout.ledger.unlink()
    elif harm == "secrets":
        layout.secrets_file.write_text("[]")
    elif harm == "everything":

        def fails(arguments: Sequence[str], **_: Any) -> Completed:
            raise BackstayError("The program was not found.")

        monkeypatch.setattr(engine, "runner", fails)
        for path in sorted(layout.configuration.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
    done = diagnose(engine)
    assert done.archive.is_file()
    assert done.lines[0].startswith("portal on ")
    assert "facts.json" in done.files


def test_what_the_application_put_in_the_place_of_its_log_is_not_followed(engine: Engine, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.write_text("somebody else's file\n")
    (engine.layout.logs / "gunicorn.log").unlink()
    (engine.layout.logs / "gunicorn.log").symlink_to(foreign)
    os.mkfifo(engine.layout.logs / "pipe.log")
    (engine.layout.logs / "second.log").hardlink_to(foreign)
    text = "".join(unpacked(diagnose(engine)).values())
    assert "somebody else's file" not in text


def test_a_bundle_is_bounded_and_keeps_the_end() -> None:
    bundle = Bundle(Scrubber(["topsecret"]), file_bytes=100, all_bytes=250)
    bundle.add("long.log", "first\n" + "middle of it\n" * 50 + "the end\n")
    assert len(bundle.files["long.log"]) < 140
    assert bundle.files["long.log"].endswith(b"the end\n")
    assert bundle.files["long.log"].startswith(b"(the beginning was left out)\nmiddle")
    bundle.add("two.log", "x" * 90 + "\n")
    bundle.add("three.log", "x" * 90 + "\n")
    assert bundle.left_out == ["three.log"]
    bundle.add("empty.log", "  \n")
    bundle.add("../../etc/topsecret", "x")
    packed = bundle.packed("folder", 0.0)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        names = archive.getnames()
    assert "folder/left-out.txt" in names
    assert "folder/empty.log" not in names
    assert not [name for name in names if ".." in name or name.startswith("/") or "topsecret" in name]


def test_a_secret_at_the_cut_goes_whole() -> None:
    """Secrets go before anything is cut: of a text cut in the middle of one, half would stay."""
    secret = "abcdefghijklmnopqrstuvwxyz"
    for size in range(40, 80):
        bundle = Bundle(Scrubber([secret]), file_bytes=size)
        bundle.add("x", f"{'.' * 60}\n{secret}\n{'.' * 30}\n")
        assert not [part for part in (secret[:8], secret[-8:]) if part.encode() in bundle.files["x"]]


def test_the_verb_asks_for_every_application_and_prints_json(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_cli, "applications", lambda: (NAME, "other"))
    monkeypatch.setattr(_cli, "_engine", lambda options: engine)
    assert _cli.main(["diagnose", "--json", NAME]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["application"] == NAME
    assert _cli.main(["diagnose"]) == 0
    assert capsys.readouterr().out.count("for the ticket:") == 2
    assert _cli.main(["diagnose", "--around", "soon", NAME]) == 2
