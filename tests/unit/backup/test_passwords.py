"""`backstay rekey`, and then site.yml with what Vault has: no repository is locked out of its own host."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _escrow
from ansible_collections.backstay.ops.plugins.module_utils._application import to_dict
from ansible_collections.backstay.ops.plugins.module_utils._catalogue import catalogue
from ansible_collections.backstay.ops.plugins.module_utils._declare import Declaration
from ansible_collections.backstay.ops.plugins.module_utils._errors import InputError
from ansible_collections.backstay.ops.plugins.module_utils._passwords import completed, retire, retired_at
from ansible_collections.backstay.ops.plugins.module_utils._repository import read_secrets
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed, run
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage

from .host import Host
from .stores import PASSWORD

NEXT = "the next password"


@pytest.fixture
def one(tmp_path: Path) -> Host:
    host = Host(tmp_path, {"repositories": {"disk": {"location": str(tmp_path / "disk"), "own_disk": False}}}).build()
    chain = catalogue(host.layout, Storage(), host.now)
    chain.append("stored", "run", repository="disk", id="r", location=str(tmp_path / "disk"))
    return host


def _runner(arguments: Sequence[str], **given: Any) -> Completed:
    """restic is the real one; systemd is not asked."""
    if arguments[0] == "systemctl":
        return Completed(tuple(arguments), 0, "", "")
    return run(arguments, **given)


def _declared(host: Host, password: str) -> Declaration:
    return Declaration(
        to_dict(host.application),
        {},
        backup_secrets={"disk": {"password": password}},
        root=host.layout.root,
        runner=_runner,
    )


def test_the_password_that_was_replaced_here_is_refused_with_what_to_do(one):
    _escrow.rotate(one.repositories()["disk"], NEXT, one.layout, Storage())
    with pytest.raises(InputError, match=r"replaced on this host .* put the new one into Vault") as refused:
        _declared(one, PASSWORD).plan()
    assert PASSWORD not in refused.value.message
    assert PASSWORD.encode() not in one.layout.replaced_passwords.read_bytes()
    assert one.layout.replaced_passwords.stat().st_mode & 0o777 == 0o600
    with_new = _declared(one, NEXT)
    assert one.layout.backup_secrets not in with_new.plan().files, "what rekey wrote is what is declared"
    assert read_secrets(one.layout, Storage())["disk"] == {"password": NEXT}
    (known,) = json.loads(one.layout.replaced_passwords.read_bytes())["repositories"]["disk"]
    assert sorted(known) == ["at", "digest", "salt"]


def test_a_password_that_does_not_open_the_repository_is_refused_before_it_is_written(one):
    before = one.layout.backup_secrets.read_bytes()
    with pytest.raises(InputError, match="does not open the repository"):
        _declared(one, NEXT).plan()
    (one.home / "disk").rename(one.home / "unmounted")
    with pytest.raises(InputError, match="no repository at"):
        _declared(one, NEXT).plan()
    assert one.layout.backup_secrets.read_bytes() == before


def test_a_second_password_that_opens_it_may_be_declared(one):
    one.repositories()["disk"].add_key(NEXT)
    assert one.layout.backup_secrets in _declared(one, NEXT).plan().files


def test_what_was_never_stored_in_may_have_another_password(tmp_path):
    fresh = Host(tmp_path, {"repositories": {"disk": {"location": str(tmp_path / "disk"), "own_disk": False}}}).build()
    assert fresh.layout.backup_secrets in _declared(fresh, NEXT).plan().files


def test_going_back_to_an_older_password_makes_it_a_good_one_again(one):
    for old, new in ((PASSWORD, NEXT), (NEXT, PASSWORD)):
        retire(one.layout, Storage(), "disk", old=old, new=new, at="2026-01-01T00:00:00Z")
    assert retired_at(one.layout, Storage(), "disk", PASSWORD) is None
    assert retired_at(one.layout, Storage(), "disk", NEXT) == "2026-01-01T00:00:00Z"
    assert retired_at(one.layout, Storage(), "another", NEXT) is None


def test_a_change_that_was_cut_short_can_be_finished_after_the_declaration():
    here = {"disk": {"password": "a", "next_password": "b", "previous_key": "k"}, "other": {"password": "c"}}
    given = {"disk": {"password": "a", "region": "eu"}, "other": {"password": "d"}}
    assert completed(here, given) == {
        "disk": {"password": "a", "region": "eu", "next_password": "b", "previous_key": "k"},
        "other": {"password": "d"},
    }
    assert completed(here, {"disk": {"password": "b"}}) == {"disk": {"password": "b"}}
