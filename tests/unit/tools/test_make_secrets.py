"""tools/make_secrets.py: what is there stays, what is missing is made."""

from __future__ import annotations

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
