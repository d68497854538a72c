"""The controller's half of a build: what is already there, whole and from the same commit, is not built again."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ansible_collections.backstay.ops.plugins.action import artifact_build as action
from ansible_collections.backstay.ops.plugins.module_utils._artifact import sha256_of
from ansible_collections.backstay.ops.plugins.module_utils._attestation import ATTESTATION, sign

COMMIT = "c" * 40
NOWHERE = Path("/nonexistent/allowed_signers")  # this controller has no list: then a signature must be whole


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    path = tmp_path / "portal-1.0.0.tar"
    path.write_bytes(b"payload")
    attested = {"commit": COMMIT, "payload_sha256": sha256_of(path)}
    (tmp_path / "portal-1.0.0.attestation.json").write_text(json.dumps(attested))
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    sign(action.attestation(path), tmp_path / "key", ATTESTATION)
    return path


def test_a_payload_of_the_same_commit_is_known(payload: Path) -> None:
    known = action._attested(payload, COMMIT, NOWHERE)
    assert known is not None
    assert known["commit"] == COMMIT


@pytest.mark.parametrize("commit", ["d" * 40, ""])
def test_another_commit_and_a_plain_directory_are_built(payload: Path, commit: str) -> None:
    assert action._attested(payload, commit, NOWHERE) is None


def test_a_payload_that_was_damaged_or_lost_is_built_again(payload: Path) -> None:
    payload.write_bytes(b"paylaod")
    assert action._attested(payload, COMMIT, NOWHERE) is None
    payload.unlink()
    assert action._attested(payload, COMMIT, NOWHERE) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", "{"])
def test_an_attestation_that_cannot_be_read_is_no_reason_to_stop(payload: Path, content: str) -> None:
    action.attestation(payload).write_text(content)
    assert action._attested(payload, COMMIT, NOWHERE) is None
