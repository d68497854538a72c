"""A dump is proven by loading it into a cluster that is thrown away: real PostgreSQL, no network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _postgresql, _restored
from ansible_collections.backstay.ops.plugins.module_utils._application import Application
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, InputError
from ansible_collections.backstay.ops.plugins.module_utils._manifest import CanaryAnswer, Manifest, MediaFile
from ansible_collections.backstay.ops.plugins.module_utils._postgresql import Server, Unanswered
from ansible_collections.backstay.ops.plugins.module_utils._restore import aside
from ansible_collections.backstay.ops.plugins.module_utils._restored import check_restored, examine

from .points import application_of

CANARY = "SELECT count(*), max(title) FROM report"
APPLICATION = application_of(
    databases=[{"name": "main", "engine": "postgresql", "url_key": "DATABASE_URL"}],
    environment={"secret": ["DATABASE_URL"]},
    backup={
        "repositories": {"disk": {"location": "/backup/portal", "own_disk": False}},
        "canaries": [{"name": "reports", "database": "main", "query": CANARY}],
        "files": [{"database": "main", "query": "SELECT photograph FROM report"}],
        "newest": [{"database": "main", "query": "SELECT max(made) FROM report"}],
    },
)


@pytest.fixture(scope="module")
def restored(tmp_path_factory: pytest.TempPathFactory, server: Server) -> tuple[Path, Manifest]:
    top = tmp_path_factory.mktemp("dump")
    (top / "databases").mkdir()
    (top / "media").mkdir()
    (top / "media" / "a.jpg").write_bytes(b"x")
    server.create("portal")
    server.query(
        "CREATE TABLE report(id serial PRIMARY KEY, title text, photograph text, made timestamptz);"
        "INSERT INTO report(title, photograph, made) SELECT 'Größe ' || n, 'a.jpg', '2026-03-03 01:00+00' FROM "
        "generate_series(1, 2000) n",
        name="portal",
    )
    source = dataclasses.replace(server, url=server.url_of("portal"))
    queries = {"reports": CANARY}
    dump = top / "databases" / "main.pgdump"
    copied = source.copy(dump, of="main", file="databases/main.pgdump", queries=queries)
    manifest = Manifest(
        run="20260303T020000000-1",
        application="portal",
        host="host",
        release="0001-1.0.0",
        version="1.0.0",
        payload="",
        migrations=(),
        began="2026-03-03T02:00:00Z",
        ended="2026-03-03T02:00:00Z",
        tools={},
        databases={"main": copied.facts},
        media={"a.jpg": MediaFile(1, "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881", 0)},
        configuration={},
        artifacts={},
        canaries=(CanaryAnswer("reports", "main", copied.answers["reports"]),),
    )
    return top, manifest


def test_a_sound_dump_equals_its_manifest_also_beyond_a_thousand_named_files(
    restored: tuple[Path, Manifest],
) -> None:
    directory, manifest = restored
    seen = examine(directory, manifest, APPLICATION)
    assert seen.differences == ()
    assert dict(seen.newest) == {"main": "2026-03-03T01:00:00+00:00"}


def test_a_dump_that_was_cut_off_is_seen(restored: tuple[Path, Manifest], tmp_path: Path) -> None:
    directory, manifest = restored
    (tmp_path / "databases").mkdir()
    content = (directory / "databases" / "main.pgdump").read_bytes()
    (tmp_path / "databases" / "main.pgdump").write_bytes(content[: len(content) * 6 // 10])
    (found,) = check_restored(tmp_path, manifest, APPLICATION, parts=("databases",))
    assert "main.pgdump has" in found.sentence
    blind = dataclasses.replace(manifest.databases["main"], sha256="")
    (found,) = check_restored(
        tmp_path, dataclasses.replace(manifest, databases={"main": blind}), APPLICATION, parts=("databases",)
    )
    assert "could not be looked at" in found.sentence


def test_another_content_and_another_answer_are_seen(restored: tuple[Path, Manifest]) -> None:
    directory, manifest = restored
    facts = manifest.databases["main"]
    table = next(iter(facts.tables))
    wrong = dataclasses.replace(facts.tables[table], sha256="0" * 64)
    changed = dataclasses.replace(
        manifest,
        databases={"main": dataclasses.replace(facts, tables={**facts.tables, table: wrong})},
        canaries=(CanaryAnswer("reports", "main", "[[1]]"),),
    )
    sentences = [each.sentence for each in check_restored(directory, changed, APPLICATION, parts=("databases",))]
    assert any("content of the table" in sentence for sentence in sentences)
    assert any("The canary 'reports'" in sentence for sentence in sentences)


def test_a_server_that_cannot_be_made_hinders_the_proof_and_says_nothing_about_the_dump(
    restored: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, manifest = restored

    def none(version: int | None = None) -> Path:
        raise BackstayError("The server programs of PostgreSQL are not on this host.")

    monkeypatch.setattr(_postgresql, "programs", none)
    with pytest.raises(BackstayError, match="are not on this host"):
        check_restored(directory, manifest, APPLICATION, parts=("databases",))


def test_a_server_without_room_hinders_the_proof_too(
    restored: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, manifest = restored

    def full(server: Server, dump: Path, name: str, **_unused: float) -> None:
        raise BackstayError("It was not loaded.", lines=("ERROR:  could not extend file: No space left on device",))

    monkeypatch.setattr(Server, "load", full)
    with pytest.raises(BackstayError, match="was not loaded"):
        check_restored(directory, manifest, APPLICATION, parts=("databases",))


def test_a_database_that_does_not_fit_beside_the_live_one_is_not_loaded(
    restored: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dump is compressed, and its indexes are made when it is loaded: what it takes then was asked of the server."""
    directory, manifest = restored
    facts = manifest.databases["main"]
    assert _restored.loaded_bytes(facts) > 5_000_000, "also an empty database takes some"
    huge = dataclasses.replace(facts, properties={**facts.properties, "size_bytes": 1 << 50})
    monkeypatch.setattr(Server, "load", lambda *_unused, **_more: pytest.fail("it was loaded"))
    with pytest.raises(BackstayError, match=r"The database main, loaded to be looked at, needs .* are free"):
        check_restored(
            directory, dataclasses.replace(manifest, databases={"main": huge}), APPLICATION, parts=("databases",)
        )


@pytest.mark.parametrize("when", ["it is loaded", "it is read"])
def test_a_server_that_is_too_slow_hinders_the_proof_too(
    restored: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """A dump of minutes may take hours to be loaded, with its indexes: that is no fault of the dump."""
    directory, manifest = restored
    load = Server.load
    if when == "it is loaded":
        monkeypatch.setattr(Server, "load", lambda self, dump, name, **_: load(self, dump, name, seconds=0.01))
    else:
        facts = Server.facts
        monkeypatch.setattr(
            Server, "facts", lambda self, *given, **more: facts(self, *given, **more | {"seconds": 0.0})
        )
    with pytest.raises(Unanswered, match=r"did not end within|was not read within"):
        check_restored(directory, manifest, APPLICATION, parts=("databases",))


def test_a_load_may_take_as_long_as_the_proof() -> None:
    policy = APPLICATION.backup
    assert policy is not None
    patient = dataclasses.replace(policy, proof=dataclasses.replace(policy.proof, seconds=80_000.0))
    assert _restored.load_seconds(dataclasses.replace(APPLICATION, backup=patient)) == 80_000.0
    assert _restored.load_seconds(dataclasses.replace(APPLICATION, backup=None)) == _postgresql.LOAD_SECONDS


def test_a_name_that_the_server_would_cut_off_is_refused_before_anything_is_dropped(server: Server) -> None:
    """Of 63 bytes it keeps all, and of what is called after it, for the next generation, the same 63."""
    name = "d" * 63
    server.create(name)
    try:
        for change in (server.drop, server.create):
            with pytest.raises(InputError, match="has 69 bytes, and PostgreSQL takes 63"):
                change(f"{name}_g0002")
        with pytest.raises(InputError, match="give the database a shorter name"):
            aside(name, "0002")
        assert name in server.databases()
    finally:
        server.drop(name)
    assert len(aside("d" * 57, "0002")) == 63


def asked_wrongly(part: str) -> Application:
    """With a query, of those of that part of `backup`, that no database of ours answers."""
    policy = APPLICATION.backup
    assert policy is not None
    (question,) = getattr(policy, part)
    wrong = dataclasses.replace(question, query="SELECT photograph FROM reports")
    return dataclasses.replace(APPLICATION, backup=dataclasses.replace(policy, **{part: (wrong,)}))


@pytest.mark.parametrize(
    ("part", "remedy"),
    [("files", "correct it in the application's file"), ("canaries", "prove it again where there is time")],
)
def test_a_question_of_the_settings_that_is_wrong_refutes_no_point_and_hides_no_difference(
    restored: tuple[Path, Manifest], part: str, remedy: str
) -> None:
    directory, manifest = restored
    wrong = asked_wrongly(part)
    with pytest.raises(InputError, match=rf'"reports" does not exist.*{remedy}'):
        examine(directory, manifest, wrong)
    facts = manifest.databases["main"]
    changed = dataclasses.replace(manifest, databases={"main": dataclasses.replace(facts, schema_sha256="0" * 64)})
    assert "schema of the database" in examine(directory, changed, wrong).differences[0].sentence


def test_the_functions_of_a_dump_run_as_the_application_and_never_as_the_servers_administrator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    users = {"portal": 990, "toor": 0}
    monkeypatch.setattr(_restored.pwd, "getpwnam", lambda name: SimpleNamespace(pw_uid=users[name]))
    assert [_restored._least(name) for name in ("portal", "toor", "unknown", "")] == ["portal"] + ["nobody"] * 3
