"""The worst day without Vault: what it told is read from a restore point that the offline key vouches for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _manifest
from ansible_collections.backstay.ops.plugins.module_utils._errors import GateRefused, InputError
from ansible_collections.backstay.ops.plugins.module_utils._rebuild import Recalled, recall

from .points import DAYS, NAME, PASSWORD, Place, Shape

RUN = "20260304T020000000-14"
SECRET = "of the application, and of nobody else"


@pytest.fixture
def kept(place: Place) -> Place:
    """A place whose newest point knows a secret, and its offline key."""
    stage(place, SECRET)
    before = _manifest.digest((place.layout.backup_run(DAYS[2]) / "manifest.json").read_bytes())
    place.store(RUN, _manifest.to_bytes(place.manifest(RUN, before)))
    key = {
        "format": 1,
        "application": NAME,
        "at": "2026-03-04T03:00:00Z",
        "manifest_key": place.public_key.strip(),
        "repositories": {
            "disk": {
                "location": str(place.repository_path),
                "settings": {"own_disk": False},
                "secrets": {"password": PASSWORD},
            }
        },
    }
    (place.top / "portal.key").write_text(json.dumps(key))
    return place


def stage(place: Place, secret: str) -> None:
    place.write_stage(Shape(), 7, 4)
    values = {"format": 1, "values": {"SECRET_KEY": secret}}
    (place.stage / "configuration" / "secrets.json").write_text(json.dumps(values))


def ask(place: Place, name: str = NAME) -> Recalled:
    """On a host that knows nothing."""
    return recall(place.top / "portal.key", name, say=lambda line: None, root=place.top / "another")


def test_the_secrets_come_from_the_newest_point_and_what_opens_the_repositories_from_the_key(kept: Place) -> None:
    assert ask(kept).to_variables(NAME) == {
        "backstay_secrets": {NAME: {"SECRET_KEY": SECRET}},
        "backstay_backup_secrets": {NAME: {"disk": {"password": PASSWORD}}},
    }
    assert SECRET not in repr(ask(kept))
    assert not (kept.top / "another" / "etc").exists(), "nothing is declared there"


def test_secrets_that_the_host_did_not_store_are_not_believed(kept: Place) -> None:
    sworn = (kept.layout.backup_run(RUN) / "manifest.json").read_bytes()
    stage(kept, "a stranger's")
    kept.store(RUN, sworn)  # under the manifest of before, sealed with the very key
    with pytest.raises(GateRefused, match="are not those that its manifest names") as refused:
        ask(kept)
    assert "stranger" not in str(refused.value)


def test_a_seal_of_a_stranger_is_not_believed(kept: Place, tmp_path: Path) -> None:
    key = json.loads((kept.top / "portal.key").read_text())
    key["manifest_key"] = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ4EPVW1Wk1zWUKWYFOWkjP0mVIt8dzm8iRzXpEGyYvH nobody"
    (kept.top / "portal.key").write_text(json.dumps(key))
    with pytest.raises(GateRefused, match="Its secrets are not believed"):
        ask(kept)


def test_the_key_of_another_application_is_refused(kept: Place) -> None:
    with pytest.raises(InputError, match=f"is the offline key of {NAME}, and this is shop"):
        ask(kept, "shop")
