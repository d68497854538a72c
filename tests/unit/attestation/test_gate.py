"""The host's gate: what nobody vouches for, and what the stage before has not proven, is refused before anything is
touched; what was live already, and the way back, ask nobody."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _attestation, _run
from ansible_collections.backstay.ops.plugins.module_utils._attestation import ATTESTATION, PROMOTION, Proof
from ansible_collections.backstay.ops.plugins.module_utils._errors import GateRefused, InputError
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._plan import plan
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed
from ansible_collections.backstay.ops.plugins.module_utils._storage import canonical
from ansible_collections.backstay.ops.plugins.module_utils._transaction import Request

from ..crash.host import NAME, CrashEngine, Payloads, Quick, conduct, declare, engine_on, play
from .conftest import Signer

REAL_CHECK = _attestation.check_attestation


@dataclass
class Standing:
    """A host that trusts the builder, with 1.0.0 and 1.1.0 released."""

    engine: CrashEngine
    payloads: Payloads
    builder: Signer

    @property
    def layout(self) -> Layout:
        return self.engine.layout

    def send(self, version: str) -> str:
        """A payload with nothing beside it."""
        return self.payloads.send(version, self.layout)

    def attest(self, version: str, signer: Signer | None = None, **changed: Any) -> str:
        """A payload with its attestation."""
        sha256 = self.send(version)
        content = {"format": 1, "application": NAME, "version": version, "payload_sha256": sha256, **changed}
        self._signed(sha256, "attestation.json", json.dumps(content).encode(), ATTESTATION, signer)
        return sha256

    def prove(self, version: str, sha256: str, signer: Signer | None = None, stage: str = "staging") -> None:
        proof = Proof(NAME, version, sha256, stage, {"app1": "0001"}, "2026-11-21T10:00:00Z", "ada")
        self._signed(sha256, "proven-staging.json", proof.to_json(), PROMOTION, signer)

    def _signed(self, sha256: str, name: str, content: bytes, namespace: str, signer: Signer | None) -> None:
        file = self.layout.proof(sha256, name)
        file.write_bytes(content)
        _attestation.sign(file, (signer or self.builder).key, namespace)

    def ask(self, version: str, sha256: str, **more: Any) -> None:
        self.engine.open(Request("release", by="tests", version=version, payload=sha256, again=True, **more))

    def refused(self, version: str, sha256: str, **more: Any) -> str:
        before = self.everything()
        with pytest.raises(GateRefused) as caught:
            self.ask(version, sha256, **more)
        assert self.everything() == before, "the refusal touched something"
        return caught.value.message

    def everything(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.layout.root.rglob("*") if path.is_file()}

    def promoted_only(self) -> None:
        declared = json.loads(self.layout.application_file.read_bytes())
        declared["releases"]["promoted_from"] = "staging"
        self.layout.application_file.write_bytes(canonical(declared))


@pytest.fixture
def standing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, builder: Signer) -> Standing:
    play(monkeypatch, tmp_path)
    monkeypatch.setattr(_attestation, "check_attestation", REAL_CHECK)
    layout = Layout(NAME, tmp_path / "host")
    declare(layout)
    layout.allowed_signers.write_text(builder.line())
    engine, host = engine_on(layout, Quick())

    def runner(arguments: Sequence[str], **options: Any) -> Completed:
        return (_run.run if arguments[0] == "ssh-keygen" else host)(arguments, **options)

    engine.runner = runner
    found = Standing(engine, Payloads(tmp_path / "payloads"), builder)
    for version in ("1.0.0", "1.1.0"):
        conduct(engine, Request("release", by="tests", version=version, payload=found.attest(version)))
    return found


def test_what_nobody_vouches_for_is_refused(standing: Standing, stranger: Signer) -> None:
    sha256 = standing.send("1.2.0")
    assert "There is no attestation of portal 1.2.0" in standing.refused("1.2.0", sha256)
    standing.attest("1.2.0", stranger)
    assert "signed by a stranger" in standing.refused("1.2.0", sha256)
    standing.attest("1.2.0")
    standing.layout.proof(sha256, "attestation.json.sig").unlink()
    assert "is not signed" in standing.refused("1.2.0", sha256)
    standing.attest("1.2.0", payload_sha256="0" * 64)
    assert "is about the payload 000000000000…" in standing.refused("1.2.0", sha256)
    standing.attest("1.2.0")
    standing.ask("1.2.0", sha256)


def test_a_plan_judges_what_would_come_along_and_says_what_only_the_payload_can_show(
    standing: Standing, stranger: Signer
) -> None:
    def proofs(signer: Signer | None = None) -> tuple[str, dict[str, str]]:
        """What lies beside a payload, and would be sent with it; here neither it nor they are."""
        sha256 = standing.attest("1.2.0", signer)
        files = {"": standing.layout.payload(sha256)}
        files |= {name: standing.layout.proof(sha256, name) for name in ("attestation.json", "attestation.json.sig")}
        texts = {name: path.read_text() for name, path in files.items() if name}
        for path in files.values():
            path.unlink()
        return sha256, texts

    sha256, brought = proofs(stranger)
    request = Request("release", by="tests", version="1.2.0", payload=sha256)
    with pytest.raises(GateRefused, match="signed by a stranger"):
        plan(standing.engine, request, brought)
    sha256, brought = proofs()
    before = standing.everything()
    told = plan(standing.engine, request, brought)
    assert "would release 0003-1.2.0" in told["message"]
    assert "its payload is not on this host yet" in told["lines"][0]
    assert standing.everything() == before
    with pytest.raises(InputError, match="is not on this host"):
        standing.ask("1.2.0", sha256)  # what is no plan needs all of it


def test_a_configuration_release_and_the_way_back_ask_nobody(standing: Standing) -> None:
    for path in (*standing.layout.artifacts.glob("*.json*"), standing.layout.allowed_signers):
        path.unlink()
    standing.promoted_only()
    conduct(standing.engine, Request("release", by="tests", why="a banner"))
    conduct(standing.engine, Request("rollback", by="tests"))


def test_only_what_was_proven_is_promoted(standing: Standing, stranger: Signer) -> None:
    standing.promoted_only()
    sha256 = standing.attest("1.2.0")
    assert "was not proven live in staging" in standing.refused("1.2.0", sha256)
    standing.prove("1.2.0", sha256, stranger)
    assert "signed by a stranger" in standing.refused("1.2.0", sha256)
    standing.prove("1.2.0", sha256, stage="testing")
    assert "is about the stage testing and this is staging" in standing.refused("1.2.0", sha256)
    standing.prove("1.1.0", sha256)
    assert "is about the version 1.1.0 and this is 1.2.0" in standing.refused("1.2.0", sha256)
    standing.prove("1.2.0", sha256)
    standing.ask("1.2.0", sha256)


def test_an_override_lets_it_in_is_recorded_and_overrides_nothing_else(standing: Standing) -> None:
    standing.promoted_only()
    sha256 = standing.send("1.2.0")
    assert "no attestation" in standing.refused("1.2.0", sha256, override_promotion="the lift stands still")
    standing.attest("1.2.0")
    request = Request(
        "release", by="tests", version="1.2.0", payload=sha256, override_promotion="the lift stands still"
    )
    released = conduct(standing.engine, request)
    known = standing.engine.history().get(released.candidate)
    assert known is not None
    assert known.data["override_promotion"] == "the lift stands still"


def test_what_vouched_for_a_payload_goes_with_it(standing: Standing) -> None:
    orphan = "ef" * 32
    for name in ("tar", "attestation.json", "attestation.json.sig", "proven-staging.json", "proven-staging.json.sig"):
        path = standing.layout.proof(orphan, name)
        path.write_bytes(b"of a payload that no release refers to")
        os.utime(path, (time.time() - 7200, time.time() - 7200))  # of one sent now, a release may come
    kept = {path for path in standing.layout.artifacts.iterdir() if not path.name.startswith(orphan)}
    standing.engine._sweep()
    assert set(standing.layout.artifacts.iterdir()) == kept
