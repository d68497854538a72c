from __future__ import annotations

import json
from pathlib import Path

import pytest
from django.db import DatabaseError, connection
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client
from pytest_django import DjangoAssertNumQueries, Settings

from portal import health

INTERNAL = {"X-Backstay-Internal": "yes"}


@pytest.fixture
def probe() -> Client:
    """A probe over the unix socket: no TLS, a Host nobody configured."""
    return Client(headers={"Host": "unknown.example"})


def test_health_is_bare_for_strangers(probe: Client, db: None) -> None:
    answer = probe.get("/healthz/")
    assert answer.status_code == 200
    assert answer["Content-Type"] == "application/health+json"
    assert answer["X-Release-Id"] == "0007-test"
    assert json.loads(answer.content) == {"status": "pass", "releaseId": "0007-test"}


def test_health_tells_declared_addresses_what_was_checked(
    probe: Client, db: None, settings: Settings
) -> None:
    body = json.loads(probe.get("/healthz/", headers=INTERNAL).content)
    assert body["version"] == settings.VERSION
    assert {"database", "migrations", "media:writable"} <= set(body["checks"])
    assert all(entry["status"] == "pass" for entries in body["checks"].values() for entry in entries), body


def test_without_photographs_the_directory_of_the_media_is_no_matter(
    probe: Client, db: None, settings: Settings
) -> None:
    settings.PHOTOS = False
    settings.MEDIA_ROOT = "/nowhere"
    answer = probe.get("/healthz/", headers=INTERNAL)
    assert answer.status_code == 200
    assert "media:writable" not in json.loads(answer.content)["checks"]


def failing(probe: Client, check: str) -> str:
    answer = probe.get("/healthz/", headers=INTERNAL)
    body = json.loads(answer.content)
    assert (answer.status_code, body["status"]) == (503, "fail")
    assert json.loads(probe.get("/healthz/").content) == {"status": "fail", "releaseId": "0007-test"}
    assert body["checks"][check][0]["status"] == "fail", body
    return body["checks"][check][0]["output"]


def test_health_fails_while_a_migration_of_this_code_is_missing(probe: Client, db: None) -> None:
    MigrationRecorder(connection).record_unapplied("audits", "0001_initial")
    assert "audits.0001_initial" in failing(probe, "migrations")


def test_health_does_not_mind_a_newer_schema(probe: Client, db: None) -> None:
    MigrationRecorder(connection).record_applied("audits", "0999_of_a_later_release")
    assert probe.get("/healthz/").status_code == 200


@pytest.mark.parametrize(
    ("applied", "pending"),
    [
        (set(), ["a.1", "a.2", "a.squashed"]),
        ({("a", "1"), ("a", "2")}, []),
        ({("a", "squashed")}, []),
        ({("a", "1")}, ["a.2", "a.squashed"]),
    ],
)
def test_a_squashed_migration_stands_for_those_it_replaces(
    monkeypatch: pytest.MonkeyPatch, applied: set[tuple[str, str]], pending: list[str]
) -> None:
    known = {("a", "1"): [], ("a", "2"): [], ("a", "squashed"): [("a", "1"), ("a", "2")]}
    monkeypatch.setattr(health, "known_migrations", lambda: known)
    assert health.pending_migrations(applied) == pending


def test_health_fails_when_a_migration_cannot_be_imported(
    probe: Client, db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise ImportError("no module named nowhere")

    monkeypatch.setattr(health, "known_migrations", broken)
    assert "no module named nowhere" in failing(probe, "migrations")


def test_health_fails_when_the_database_does_not_answer(
    probe: Client, db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent:
        def cursor(self) -> None:
            raise DatabaseError("unable to open database file")

    monkeypatch.setattr(health, "connection", Silent())
    assert "unable to open database file" in failing(probe, "database")
    assert probe.get("/livez/").status_code == 200


def test_health_fails_when_media_is_not_writable(
    probe: Client, db: None, settings: Settings, tmp_path: Path
) -> None:
    settings.MEDIA_ROOT = tmp_path / "absent"
    assert "absent is not writable" in failing(probe, "media:writable")


def test_health_leaves_nothing_in_media(probe: Client, db: None, media: Path) -> None:
    probe.get("/healthz/")
    assert list(media.iterdir()) == []


def test_health_warns_when_an_upload_would_not_fit(probe: Client, db: None, settings: Settings) -> None:
    settings.UPLOAD_LIMIT_BYTES = 2**80
    answer = probe.get("/healthz/")
    assert (answer.status_code, json.loads(answer.content)["status"]) == (200, "warn")


def test_liveness_asks_nothing_of_the_database(probe: Client) -> None:
    # No `db` fixture: pytest-django refuses every query.
    answer = probe.get("/livez/")
    assert (answer.status_code, answer["X-Release-Id"]) == (200, "0007-test")


def test_metrics_are_for_declared_addresses(browser: Client, db: None) -> None:
    assert browser.get("/metrics").status_code == 404
    lines = browser.get("/metrics", headers=INTERNAL).text.splitlines()
    assert 'portal_info{release_id="0007-test",version="' in "".join(lines)
    assert "portal_audits 0" in lines


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", {"Host": "evil.example"}, 400),
        ("/", {"Host": "testserver"}, 301),
        ("/audits/1/", {"X-Forwarded-Proto": "https"}, 404),
        ("/audits/1/findings/", {"X-Forwarded-Proto": "https"}, 405),
        ("/livez/", {}, 200),
    ],
)
def test_every_answer_names_its_release(db: None, path: str, headers: dict[str, str], status: int) -> None:
    answer = Client().get(path, headers=headers)
    assert (answer.status_code, answer["X-Release-Id"]) == (status, "0007-test")


def test_health_is_cheap(probe: Client, db: None, django_assert_num_queries: DjangoAssertNumQueries) -> None:
    probe.get("/healthz/")
    with django_assert_num_queries(1):
        probe.get("/healthz/")
