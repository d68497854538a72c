"""A backup's timer that strikes while a host is being set up: nobody is woken for nothing, and no data are left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _application
from ansible_collections.backstay.ops.plugins.module_utils._backup_source import source_of
from ansible_collections.backstay.ops.plugins.module_utils._cli_data import _nothing_yet
from ansible_collections.backstay.ops.plugins.module_utils._host import Host
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed
from ansible_collections.backstay.ops.plugins.module_utils._storage import canonical

DECLARED: dict[str, Any] = {
    "format": 1,
    "name": "portal",
    "domain": "portal.example.org",
    "source": {"repository": "https://git.example.org/portal.git"},
    "runtime": {"settings": "portal.settings", "wsgi": "portal.wsgi:application"},
    "processes": {"web": {}},
    "databases": [{"name": "default", "engine": "postgresql", "url_key": "DATABASE_URL"}],
    "environment": {"required": ["DATABASE_URL"], "secret": ["DATABASE_URL"]},
    "backup": {"repositories": {"disk": {"location": "/srv/backup"}}},
}
URL = "postgresql://portal:secret@127.0.0.1/portal"


def host(top: Path, url: str, *, answer: str = "", code: int = 0) -> Host:
    layout = Layout("portal", top)
    for directory in (layout.configuration, layout.state):
        directory.mkdir(parents=True)
    layout.application_file.write_bytes(canonical(_application.to_dict(_application.from_dict(DECLARED, file="f"))))
    layout.secrets_file.write_bytes(canonical({"format": 1, "values": {"DATABASE_URL": url} if url else {}}))

    def answers(command: Any, **_options: Any) -> Completed:
        return Completed(tuple(command), code, answer, "could not connect" if code else "")

    return Host(layout, runner=answers)


def test_a_server_database_that_role_postgresql_has_just_made_is_nothing_yet(tmp_path: Path) -> None:
    assert _nothing_yet(host(tmp_path, URL))


@pytest.mark.parametrize(
    ("url", "answer", "code"),
    [(URL, '"public.orders"\n', 0), (URL, "", 2), ("", "", 0)],
    ids=["brought before the first release", "does not answer", "nobody knows where it is"],
)
def test_what_holds_data_or_cannot_be_asked_is_not_passed_over(
    tmp_path: Path, url: str, answer: str, code: int
) -> None:
    assert not _nothing_yet(host(tmp_path, url, answer=answer, code=code))


def test_what_was_brought_before_the_first_release_is_backed_up_from_where_it_is(tmp_path: Path) -> None:
    """What finds the data and what copies them look at the same server."""
    found = source_of(host(tmp_path, URL, answer='"public.orders"\n'))
    assert found.environment["DATABASE_URL"] == URL
