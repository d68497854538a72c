"""tools/import_environment.py: what it prints is what the application's file takes, and no secret is among it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ansible_collections.backstay.ops.plugins.lookup.application import LookupModule
from tools import import_environment

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = """\
# for development
export SECRET_KEY=change-me
DATABASE_URL='postgres://shop:hunter2@db/shop'
SENTRY_DSN=
DEBUG=false
BANNER="two words" # shown on top
KEYBOARD=
BACKSTAY_DATA_DIR=/tmp
"""


def printed(example: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert import_environment.main([str(example)]) == 0
    return capsys.readouterr().out


def test_secrets_are_named_and_their_values_left_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = tmp_path / ".env.example"
    example.write_text(EXAMPLE)
    text = printed(example, capsys)
    secret = ["SECRET_KEY", "DATABASE_URL", "SENTRY_DSN"]
    assert yaml.safe_load(text)["environment"] == {
        "values": {"DEBUG": "false", "BANNER": "two words", "KEYBOARD": ""},
        "required": secret,
        "secret": secret,
    }
    assert "change-me" not in text
    assert "hunter2" not in text


def test_the_applications_file_takes_it_and_then_knows_every_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = ROOT / "examples" / "audit_portal" / ".env.example"
    file = tmp_path / "applications" / "audit-portal.yml"
    file.parent.mkdir()
    described = yaml.safe_load((ROOT / "inventories/example/applications/audit-portal.yml").read_text())
    imported = yaml.safe_load(printed(example, capsys))["environment"]
    file.write_text(yaml.safe_dump({**described, "environment": {**imported, "example": str(example)}}))
    [found] = LookupModule().run(["audit-portal"], {"inventory_dir": str(tmp_path)})
    assert found["environment"]["secret"] == ["SECRET_KEY"]
    assert "HSTS_SECONDS" in found["environment"]["values"]


@pytest.mark.parametrize(
    ("text", "said"), [(None, "cannot be read"), ("what?\n", "Line 1 of .* is neither KEY=value nor a comment")]
)
def test_a_broken_example_is_refused_in_a_sentence(tmp_path: Path, text: str | None, said: str) -> None:
    example = tmp_path / ".env.example"
    if text is not None:
        example.write_text(text)
    with pytest.raises(SystemExit, match=f"import_environment: .*{said}"):
        import_environment.main([str(example)])
