"""The controller's half: what build.yml signs, what the lookups find, and when a stage has proven something."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleError

from ansible_collections.backstay.ops.plugins.action import artifact_build, promotion
from ansible_collections.backstay.ops.plugins.lookup.allowed_signers import LookupModule as AllowedSigners
from ansible_collections.backstay.ops.plugins.lookup.payload import LookupModule as Payload
from ansible_collections.backstay.ops.plugins.module_utils import _attestation
from ansible_collections.backstay.ops.plugins.module_utils._artifact import sha256_of
from ansible_collections.backstay.ops.plugins.module_utils._attestation import ATTESTATION, Proof

from .conftest import Signer

COMMIT = "c" * 40


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    path = tmp_path / "artifacts" / "portal" / "1.0.0" / "portal-1.0.0.tar"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"payload")
    attested = {"commit": COMMIT, "payload_sha256": sha256_of(path)}
    artifact_build.attestation(path).write_text(json.dumps(attested))
    return path


def told(kind: type[Any], **options: str) -> Any:
    """A lookup whose options are these: Ansible reads them from the documentation of what it has loaded."""

    class Told(kind):  # type: ignore[misc]  # ansible-core comes without types
        def set_options(self, **_unused: Any) -> None:
            """They are known."""

        def get_option(self, name: str) -> str | None:
            return options.get(name)

    return Told()


def find(payload: Path) -> dict[str, Any]:
    return told(Payload, backstay_artifacts=str(payload.parents[2])).run(["portal", "1.0.0"])[0]


def test_what_was_altered_after_it_was_signed_is_built_again(payload: Path, builder: Signer) -> None:
    nowhere = payload.with_name("allowed_signers")
    assert artifact_build._attested(payload, COMMIT, nowhere) is None, "who signed it would vouch for what he never saw"
    _attestation.sign(artifact_build.attestation(payload), builder.key, ATTESTATION)
    assert artifact_build._attested(payload, COMMIT, nowhere)
    known = json.loads(artifact_build.attestation(payload).read_text())
    artifact_build.attestation(payload).write_text(json.dumps({**known, "checks": []}))
    assert artifact_build._attested(payload, COMMIT, nowhere) is None


def test_what_a_stranger_signed_is_built_again(payload: Path, builder: Signer, stranger: Signer) -> None:
    """Hosts would refuse it, and go on refusing it however often it is released."""
    believed = payload.with_name("allowed_signers")
    believed.write_text(f"builder {builder.public}\n")
    _attestation.sign(artifact_build.attestation(payload), stranger.key, ATTESTATION)
    assert artifact_build._attested(payload, COMMIT, believed) is None
    _attestation.sign(artifact_build.attestation(payload), builder.key, ATTESTATION)
    assert artifact_build._attested(payload, COMMIT, believed)


def test_the_lookup_hands_over_what_vouches_for_a_payload(payload: Path, builder: Signer) -> None:
    unsigned = find(payload)
    assert list(unsigned["proofs"]) == ["attestation.json"]
    _attestation.sign(artifact_build.attestation(payload), builder.key, ATTESTATION)
    found = find(payload)
    assert sorted(found["proofs"]) == ["attestation.json", "attestation.json.sig"]
    assert Path(found["signature"]).read_text() == found["proofs"]["attestation.json.sig"]
    assert Path(found["attestation"]).read_text() == found["proofs"]["attestation.json"]


def signers(**variables: str) -> str:
    given = [variables.pop("given")] if "given" in variables else []
    return str(told(AllowedSigners).run(given, variables=variables)[0])


def test_the_signers_of_an_inventory_are_found_or_it_is_said_how_to_make_them(tmp_path: Path, builder: Signer) -> None:
    with pytest.raises(AnsibleError, match=r"allowed_signers cannot be read .* tools/make_secrets.py "):
        signers(inventory_dir=str(tmp_path))
    (tmp_path / "allowed_signers").write_text(builder.line())
    assert signers(inventory_dir=str(tmp_path)) == builder.line()
    assert signers(inventory_dir=str(tmp_path), given="") == builder.line()
    (tmp_path / "other").write_text("nobody\n")
    with pytest.raises(AnsibleError, match="names no key"):
        signers(inventory_dir=str(tmp_path), given=str(tmp_path / "other"))


# a stage proves


PREPARED = {"release": "0003-1.0.0", "transaction": "t1", "changed": True}
CONFIRMED = {"release": "0003-1.0.0", "changed": True}
WOULD_BE_PREPARED = ({"release": "0003-1.0.0", "changed": True}, {"changed": False})  # check mode
LIVE_ALREADY = ({"release": "0002-1.0.0", "changed": False}, {"changed": False, "msg": "nothing was prepared"})


@pytest.mark.parametrize(
    ("answers", "releases"),
    [
        ([(PREPARED, CONFIRMED)], {"app1": "0003-1.0.0"}),
        ([(PREPARED, CONFIRMED), LIVE_ALREADY], {"app1": "0003-1.0.0", "app2": "0002-1.0.0"}),
        ([(PREPARED, CONFIRMED), (PREPARED, {"failed": True, "msg": "x"})], None),
        ([(PREPARED, CONFIRMED), (PREPARED, {"unreachable": True})], None),
        ([(PREPARED, CONFIRMED), (PREPARED, {"skipped": True})], None),
        ([(PREPARED, CONFIRMED), (PREPARED, None)], None),
        ([(PREPARED, CONFIRMED), (None, None)], None),
        ([WOULD_BE_PREPARED], None),
        ([({"failed": True}, CONFIRMED)], None),
        ([], None),
    ],
)
def test_a_stage_proves_what_every_host_has_confirmed(
    answers: list[tuple[dict[str, Any] | None, dict[str, Any] | None]], releases: dict[str, str] | None
) -> None:
    hostvars = {
        f"app{number}": {"my_prepared": prepared, "my_confirmed": confirmed}
        for number, (prepared, confirmed) in enumerate(answers, start=1)
    }
    assert promotion.proven(list(hostvars), hostvars, "my_") == releases


def test_a_host_that_said_nothing_proves_nothing() -> None:
    hostvars = {"app1": {"my_prepared": PREPARED, "my_confirmed": CONFIRMED}}
    assert promotion.proven(["app1", "app2"], hostvars, "my_") is None


def test_a_stage_is_all_its_hosts_whatever_a_run_was_limited_to() -> None:
    hostvars: dict[str, Any] = {
        "app1": {"backstay_applications": ["portal"]},
        "app2": {"backstay_applications": ["portal", "shop"]},
        "app3": {"backstay_applications": ["shop"]},
        "app4": {},
        "build1": {"backstay_applications": ["portal"]},
    }
    known: dict[str, Any] = {"groups": {"app_servers": ["app1", "app2", "app3", "app4"]}, "hostvars": hostvars}
    assert promotion.meant("portal", known) == ["app1", "app2"]
    assert promotion.meant("portal", {**known, "backstay_hosts": "app_servers:&blue"}) == [], "no plain group"


def test_a_proof_stands_until_the_payload_or_the_proof_changes(tmp_path: Path, builder: Signer) -> None:
    file, nobody = tmp_path / "portal-1.0.0.proven-staging.json", tmp_path / "allowed_signers"
    proof = Proof("portal", "1.0.0", "ab" * 32, "staging", {"app1": "0003-1.0.0"}, "2026-11-21T10:00:00Z", "ada")
    assert not promotion.stands(file, proof, nobody)
    promotion.write(file, proof, builder.key)
    later = Proof("portal", "1.0.0", "ab" * 32, "staging", {"app1": "0004-1.0.0"}, "2026-11-22T10:00:00Z", "eve")
    assert promotion.stands(file, later, nobody), "the same payload in the same stage needs no other proof"
    rebuilt = Proof("portal", "1.0.0", "cd" * 32, "staging", {"app1": "0004-1.0.0"}, "2026-11-22T10:00:00Z", "eve")
    assert not promotion.stands(file, rebuilt, nobody)
    file.write_bytes(later.to_json())
    assert not promotion.stands(file, later, nobody), "it was altered since it was signed"
