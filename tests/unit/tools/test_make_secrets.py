"""tools/make_secrets.py: what is there stays, what is missing is made."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tools import make_secrets


@pytest.mark.parametrize(
    ("present", "new"),
    [
        ({}, [("portal", "SECRET_KEY"), ("portal", "TOKEN")]),
        ({"portal": {"SECRET_KEY": "kept"}}, [("portal", "TOKEN")]),
        ({"portal": {"SECRET_KEY": "kept", "TOKEN": ""}}, [("portal", "TOKEN")]),
        ({"portal": {"SECRET_KEY": "kept", "TOKEN": "kept"}, "other": {}}, []),
    ],
)
def test_only_what_is_missing_is_made(present: dict[str, dict[str, str]], new: list[tuple[str, str]]) -> None:
    assert make_secrets.missing({"portal": ["SECRET_KEY", "TOKEN"]}, present) == new


def test_the_applications_files_say_what_is_secret(tmp_path: Path) -> None:
    (tmp_path / "applications").mkdir()
    (tmp_path / "applications" / "portal.yml").write_text("environment: {secret: [SECRET_KEY]}\n")
    (tmp_path / "applications" / "portal.override.yml").write_text("environment: {values: {A: b}}\n")
    (tmp_path / "applications" / "plain.yml").write_text("name: plain\n")
    assert make_secrets.wanted_by(tmp_path) == {"plain": [], "portal": ["SECRET_KEY"]}


def test_a_repository_without_a_password_gets_one_and_what_else_opens_it_stays(tmp_path: Path) -> None:
    (tmp_path / "applications").mkdir()
    places = "{disk: {location: /srv/backup}, bucket: {location: 's3:https://s3/b/p'}}"
    (tmp_path / "applications" / "portal.yml").write_text(f"backup: {{repositories: {places}}}\n")
    (tmp_path / "applications" / "plain.yml").write_text("name: plain\n")
    (tmp_path / "applications" / "none.yml").write_text("backup: null\n")
    wanted = make_secrets.repositories_of(tmp_path)
    assert wanted == {"portal": ["disk", "bucket"]}
    present: dict[str, dict[str, dict[str, str]]] = {"portal": {"bucket": {"access_key_id": "given"}}}
    assert make_secrets.without_password(wanted, present) == [("portal", "disk"), ("portal", "bucket")]
    present["portal"] = {"disk": {"password": "kept"}, "bucket": {"password": "kept", "access_key_id": "given"}}
    assert make_secrets.without_password(wanted, present) == []


def test_an_inventory_gets_a_key_and_a_list_that_names_it_once(tmp_path: Path) -> None:
    assert make_secrets.make_signer(tmp_path) == ["signing_key", "allowed_signers"]
    key, signers = tmp_path / "signing_key", tmp_path / "allowed_signers"
    assert key.stat().st_mode & 0o777 == 0o600
    public = key.with_suffix(".pub").read_text().split()[:2]
    assert public[0] == "ssh-ed25519"
    assert signers.read_text().splitlines()[-1].split() == [
        tmp_path.name,
        'namespaces="backstay-attestation,backstay-promotion"',
        *public,
    ]
    before = key.read_bytes(), signers.read_bytes()
    assert make_secrets.make_signer(tmp_path) == []
    key.with_suffix(".pub").unlink()
    signers.unlink()
    assert make_secrets.make_signer(tmp_path) == ["allowed_signers"]
    assert (key.read_bytes(), signers.read_bytes()) == before


def test_a_key_that_an_agent_holds_is_named_and_not_replaced(tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "signing_key")], check=True)
    (tmp_path / "signing_key").unlink()
    assert make_secrets.make_signer(tmp_path) == ["allowed_signers"]
    assert not (tmp_path / "signing_key").exists()


@pytest.mark.parametrize("name", ["backstay_signing_key", "backstay_allowed_signers"])
def test_an_inventory_that_names_the_files_of_another_gets_none(tmp_path: Path, name: str) -> None:
    (tmp_path / "group_vars" / "all").mkdir(parents=True)
    (tmp_path / "group_vars" / "all" / "trust.yml").write_text(f"{name}: ../staging/{name}\n")
    assert make_secrets.make_signer(tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["group_vars"]
