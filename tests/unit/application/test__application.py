"""The application's file: what is good is kept, what is wrong is named with its key, its file and a remedy."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.backstay.ops.plugins.module_utils import _application as application
from ansible_collections.backstay.ops.plugins.module_utils._errors import InputError

FILE = "applications/audit-portal.yml"
EXAMPLE = Path(__file__).parents[3] / "inventories/example/applications/audit-portal.yml"

LEAST: dict[str, Any] = {
    "format": 1,
    "name": "portal",
    "domain": "portal.example.org",
    "source": {"repository": "https://git.example.org/portal.git"},
    "runtime": {"settings": "portal.settings", "wsgi": "portal.wsgi:application"},
    "processes": {"web": {}},
}
FULL: dict[str, Any] = {
    **LEAST,
    "aliases": ["www.example.org", "192.0.2.7", "2001:db8::7"],
    "runtime": {
        **LEAST["runtime"],
        "checks": [["python", "-m", "pytest"], ["ruff", "check", "."]],
        "checks_requirements": "requirements-dev.lock",
        "changelog": "CHANGELOG.md",
    },
    "processes": {
        "web": {"workers": 3, "graceful_seconds": 20, "stop_seconds": 25.5},
        "worker": {"command": ["python", "manage.py", "work"]},
        "scheduler": {"command": ["python", "manage.py", "schedule"], "singleton": True},
    },
    "network": False,
    "databases": [
        {"name": "default", "engine": "sqlite", "path": "db/portal.sqlite3"},
        {"name": "reports", "engine": "postgresql", "url_key": "REPORTS_URL"},
    ],
    "media": "media",
    "environment": {
        "values": {"BANNER": "Hello, $USER", "EMPTY": ""},
        "required": ["SECRET_KEY", "BANNER"],
        "secret": ["SECRET_KEY", "REPORTS_URL"],
        "example": ".env.example",
    },
    "health": {"path": "/healthz/?full=1", "consecutive": 2},
    "smoke": [
        {"name": "portal", "path": "/", "contains": "Audits"},
        {"name": "a file", "path": "auto:media", "through": ["front_door"]},
    ],
    "internal_addresses": ["10.0.0.0/8", "::1"],
    "releases": {"keep": 3},
}


def changed(path: str, value: Any, base: dict[str, Any] = FULL) -> dict[str, Any]:
    """A copy of a file with one key, written as a.b.0.c, set to a value."""
    data = copy.deepcopy(base)
    at: Any = data
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parents:
        at = at[part] if isinstance(part, int) else at.setdefault(part, {})
    at[last] = value
    return data


def problems(data: Any) -> tuple[str, ...]:
    with pytest.raises(InputError) as refused:
        application.parse(data, file=FILE)
    assert refused.value.exit_code == 2, "bad input has its own exit code"
    assert refused.value.message.startswith(refused.value.lines[0]), "the sentence begins with the first problem"
    return refused.value.lines


def test_the_least_file_gets_every_default() -> None:
    made = application.parse(LEAST, file=FILE)
    assert made.web.workers == 2
    assert made.web.memory_max_bytes == 400 * 2**20
    assert made.web.stop_seconds == made.web.graceful_seconds + 10
    assert made.health.path == "/healthz/"
    assert made.releases.keep == 5
    assert made.network is True
    assert made.internal_addresses == ("127.0.0.1", "::1")


def test_the_example_of_the_inventory_is_valid() -> None:
    made = application.parse(yaml.safe_load(EXAMPLE.read_text()), file=str(EXAMPLE))
    assert made.name == "audit-portal"
    assert made.processes["scheduler"].singleton
    assert made.environment.secret == ("SECRET_KEY",)


def test_kinds_follow_from_names() -> None:
    made = application.parse(FULL, file=FILE)
    assert {process.name: process.kind for process in made.processes.values()} == {
        "web": "web",
        "worker": "worker",
        "scheduler": "worker",
    }


def test_a_smoke_test_of_a_file_goes_through_the_front_door_by_itself() -> None:
    made = application.parse(changed("smoke.0", {"name": "file", "path": "auto:static"}), file=FILE)
    assert made.smoke[0].through == ("front_door",)


@pytest.mark.parametrize("data", [LEAST, FULL])
def test_what_is_written_is_read_back_equal(data: dict[str, Any]) -> None:
    made = application.parse(data, file=FILE)
    written = json.dumps(application.to_dict(made))
    assert application.from_dict(json.loads(written), file="application.json") == made


def refusal(data: Any) -> str:
    with pytest.raises(InputError) as refused:
        application.parse(data, file=FILE)
    return refused.value.message


def test_a_newer_format_is_refused_before_anything_else() -> None:
    expected = f"{FILE} has format 2 and this backstay knows 1: use the newer backstay that wrote it."
    assert refusal({"format": 2, "new": 1}) == expected


WRONG = [
    ("domian", "x", "unknown key `domian` in {file}: did you mean `domain`?"),
    ("health.pathh", "/", "unknown key `health.pathh` in {file}: did you mean `health.path`?"),
    ("releases.zzz", 1, "unknown key `releases.zzz` in {file}: known here are keep, keep_restore_points"),
    ("name", "Audit", "`name` in {file} is 'Audit': write at most 30 lower-case letters"),
    ("name", "a" * 31, "`name` in {file} is"),
    ("name", "nginx", "`name` in {file} is 'nginx', which means something else on a Debian host"),
    ("name", "portal-", "end it with a letter or digit"),
    ("domain", "Portal.example.org", "write a host name in lower case"),
    ("domain", "portal.example.org;", "write a host name"),
    ("domain", "-portal.example.org", "write a host name"),
    ("domain", "192.0.2.7", "write a host name"),
    ("domain", None, "`domain` in {file} is empty: write a host name"),
    ("aliases", "www.example.org", "`aliases` in {file} is 'www.example.org': write a list"),
    ("aliases", ["portal.example.org"], "`aliases` in {file} repeats the domain"),
    ("aliases", ["a.example.org", "a.example.org"], "names 'a.example.org' twice"),
    ("aliases.0", "a b", "`aliases[0]` in {file}"),
    ("source.repository", "--upload-pack=evil", "`source.repository` in {file}"),
    ("source.path", "../other", "write a relative path without `..`"),
    ("source.tag", "release", "`source.tag` in {file} is 'release': write a tag's name with {{version}} in it"),
    ("runtime.type", "djagno", "`runtime.type` in {file} is 'djagno': write django."),
    ("runtime.wsgi", "portal.wsgi", "write module:object"),
    ("runtime.checks", [["ruff"], "pytest"], "`runtime.checks[1]` in {file} is 'pytest': write a list"),
    ("runtime.checks", [[]], "`runtime.checks[0]` in {file} is a list: write at least 1 word."),
    ("processes", {"worker": {"command": ["x"]}}, "`processes` in {file} has no `web`"),
    ("processes.web.singleton", True, "is not for the web process, for two releases overlap in it"),
    ("processes.web.command", ["x"], "the runtime starts the web process"),
    ("processes.web.stop_seconds", 20, "is 20 and graceful_seconds 20, which would kill requests: make it larger"),
    ("processes.web.workers", True, "is true: write a whole number from 1 to 64"),
    ("processes.web.workers", "2", "is '2': write a whole number from 1 to 64, without quotes"),
    ("processes.web.memory_max_bytes", 1024, "write a whole number from 33554432"),
    ("processes.worker", {}, "`processes.worker` in {file} has no `command`"),
    ("processes.worker.threads", 2, "`processes.worker.threads` in {file} is for the web process only"),
    ("processes.Bad-Name", {"command": ["x"]}, "The process 'Bad-Name' in {file} has no good name"),
    ("network", "yes", "`network` in {file} is 'yes': write true or false"),
    ("databases.0.path", "/var/lib/x.sqlite3", "`databases[0].path` in {file} is '/var/lib/x.sqlite3'"),
    ("databases.0.path", "../x.sqlite3", "write a relative path without `..`"),
    ("databases.0.path", "db/../../x", "write a relative path without `..`"),
    ("databases.0.path", ".", "write a path below the data directory"),
    ("databases.0.path", None, "has engine sqlite and no `path`"),
    ("databases.0.path", "media/db.sqlite3", "inside the media that nginx gives to everybody"),
    ("databases.0.url_key", "X", "`databases[0].url_key` in {file} is not for engine sqlite"),
    ("databases.1.name", "default", "is 'default' for the second time"),
    ("databases.1.url_key", "NOWHERE", "which is in neither environment.values nor environment.secret"),
    ("databases.1.engine", "mysql", "write one of sqlite, postgresql"),
    ("media", "db/media", "and its directory holds the media"),
    ("media", "/srv/media", "write a relative path"),
    ("environment.values.SECRET_KEY", "hunter2", "remove the value from this file and put it into Vault"),
    ("environment.values.PORT", 8000, "`environment.values.PORT` in {file} is not text: write its value in quotes."),
    ("environment.values.BACKSTAY_VERSION", "1", "would replace what Backstay provides"),
    ("environment.values.BAD-KEY", "1", "write a name of letters, digits and underscores"),
    ("environment.values.NUL", "a\0b", "holds a byte zero"),
    ("environment.values.BANNER", " ", "`environment.values.BANNER` in {file} is empty and required"),
    ("environment.required", ["NOWHERE"], "names NOWHERE, which is in neither"),
    ("environment.required", ["BANNER", "BANNER"], "names 'BANNER' twice"),
    ("environment.secret.0", "BACKSTAY_X", "which Backstay provides"),
    ("health.path", "healthz", "write a path that begins with /"),
    ("health.path", "/health%7A/", "letters, digits and . _ ~ - / alone, and its query"),
    ("media", "up loads", "a path without blanks and without any of"),
    ("health.status", 99, "write a whole number from 100 to 599"),
    ("health.deadline_seconds", float("nan"), "write a number of seconds"),
    ("health", {"consecutive": 100, "interval_seconds": 1, "deadline_seconds": 60}, "100 answers take 99 s"),
    ("smoke.0.path", "admin/", "write a path from / on, auto:static or auto:media"),
    ("smoke.1.name", "portal", "is 'portal' for the second time"),
    ("smoke.1.through", ["candidate"], "auto:media is served by nginx alone"),
    ("smoke.1.through", ["frontdoor"], "write front_door"),
    ("media", None, "is auto:media, and the application has no media"),
    ("internal_addresses", ["10.0.0.1/8"], "write an IP address or network"),
    ("uploads_max_bytes", "50m", "without quotes"),
    ("log_level", "loud", "write one of debug, info"),
    ("releases.keep", 1, "write a whole number from 2"),
    ("releases", None, "`releases` in {file} is empty: write a mapping with the keys keep"),
    ("format", "1", "`format` in {file} is '1'"),
]


@pytest.mark.parametrize(("path", "value", "said"), WRONG, ids=[f"{path}={value!r}"[:60] for path, value, _ in WRONG])
def test_what_is_wrong_is_named(path: str, value: Any, said: str) -> None:
    found = problems(changed(path, value))
    assert any(said.format(file=FILE) in line for line in found), f"not said: {said}\nbut: {found}"
    assert all(FILE in line for line in found), f"a sentence without the file: {found}"
    assert "hunter2" not in str(found), "a secret put into the wrong place is not repeated"


@pytest.mark.parametrize("key", list(LEAST))
def test_what_is_missing_is_named(key: str) -> None:
    data = {name: value for name, value in LEAST.items() if name != key}
    assert f"`{key}` is missing in {FILE}" in problems(data)[0]


def test_all_problems_of_a_file_are_told_at_once() -> None:
    data = changed("health.status", "200", changed("domian", 1, changed("network", 3)))
    found = problems(data)
    assert len(found) == 3, found
    message = refusal(data)
    assert message.endswith("(2 more in this file.)"), message


@pytest.mark.parametrize("data", [None, [], "x", 3])
def test_a_file_that_is_no_mapping_is_refused(data: Any) -> None:
    assert "no mapping" in refusal(data)


def test_an_override_merges_mappings_and_replaces_lists() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 1}
    assert application.merge(base, {"a": {"c": [3]}, "d": {"e": 1}}) == {"a": {"b": 1, "c": [3]}, "d": {"e": 1}}
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": 1}, "merging changes nothing that was given"
