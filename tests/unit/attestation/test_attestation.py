"""Who vouches for a payload: real signatures, and every way in which one can be none."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.backstay.ops.plugins.module_utils import _attestation as attestation
from ansible_collections.backstay.ops.plugins.module_utils._attestation import ATTESTATION, PROMOTION, Proof
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, GateRefused, InputError
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._run import run
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage

from .conftest import Signer

SHA = "ab" * 32
CONTENT = {"format": 1, "application": "portal", "version": "1.1.0", "payload_sha256": SHA, "builder": "build1"}
ASKED = {"application": "portal", "version": "1.1.0", "payload": SHA}


def attested(**changed: Any) -> bytes:
    return json.dumps({**CONTENT, **changed}, indent=1, sort_keys=True).encode() + b"\n"


@pytest.fixture
def allowed(tmp_path: Path, builder: Signer) -> Path:
    path = tmp_path / "allowed_signers"
    path.write_text(builder.line())
    return path


def signed(directory: Path, content: bytes, signer: Signer, namespace: str = ATTESTATION) -> bytes:
    file = directory / "signed.json"
    file.write_bytes(content)
    return attestation.sign(file, signer.key, namespace).read_bytes()


def refused(content: bytes | None, signature: bytes | None, allowed: Path, **asked: str) -> str:
    with pytest.raises(GateRefused) as caught:
        attestation.check_attestation(content, signature, allowed, **{**ASKED, **asked})
    assert caught.value.exit_code == 3
    assert re.search(r": (build|run|update|send) ", caught.value.message), "it does not say what to do"
    return caught.value.message


# what is good


def test_what_the_builder_signed_is_taken_under_the_name_that_the_host_knows(
    tmp_path: Path, allowed: Path, builder: Signer
) -> None:
    signature = signed(tmp_path, attested(), builder)
    allowed.write_text("# who builds\n" + builder.line("ci@example.org,ci"))
    assert attestation.check_attestation(attested(), signature, allowed, **ASKED) == "ci@example.org"


def test_a_signature_made_by_hand_is_as_good(tmp_path: Path, allowed: Path, builder: Signer) -> None:
    file = tmp_path / "by-hand.json"
    file.write_bytes(attested())
    subprocess.run(
        ["ssh-keygen", "-q", "-Y", "sign", "-f", str(builder.key), "-n", ATTESTATION, str(file)],
        check=True,
        capture_output=True,
    )
    signature = (tmp_path / "by-hand.json.sig").read_bytes()
    assert attestation.check_attestation(attested(), signature, allowed, **ASKED) == "builder"


def test_a_key_may_be_limited_to_what_it_is_for(tmp_path: Path, allowed: Path, builder: Signer) -> None:
    signature = signed(tmp_path, attested(), builder)
    allowed.write_text(builder.line(options=f'namespaces="{ATTESTATION}"'))
    assert attestation.check_attestation(attested(), signature, allowed, **ASKED) == "builder"
    allowed.write_text(builder.line(options=f'namespaces="{PROMOTION}"'))
    message = refused(attested(), signature, allowed)
    assert "is signed by builder, who may not sign it (" in message
    assert ATTESTATION in message


def test_the_signature_is_written_beside_in_one_piece(tmp_path: Path, builder: Signer) -> None:
    file = tmp_path / "portal-1.1.0.attestation.json"
    file.write_bytes(attested())
    path = attestation.sign(file, builder.key, ATTESTATION)
    assert path.name == "portal-1.1.0.attestation.json.sig"
    assert sorted(each.name for each in tmp_path.iterdir()) == [file.name, path.name]
    assert attestation.is_whole(file.read_bytes(), path.read_bytes(), ATTESTATION)
    assert not attestation.is_whole(file.read_bytes(), path.read_bytes(), PROMOTION)
    assert not attestation.is_whole(attested(builder="me"), path.read_bytes(), ATTESTATION)
    assert not attestation.is_whole(file.read_bytes(), b"", ATTESTATION)


# what is refused


def test_nothing_is_taken_where_nobody_is_allowed_to_vouch(tmp_path: Path, builder: Signer) -> None:
    signature = signed(tmp_path, attested(), builder)
    message = refused(attested(), signature, tmp_path / "missing")
    assert message.startswith("No allowed signers are declared on this host (")
    assert "run playbooks/site.yml" in message


def test_a_payload_without_an_attestation_is_refused(allowed: Path) -> None:
    assert refused(None, None, allowed).startswith("There is no attestation of portal 1.1.0 beside its payload")


def test_an_unsigned_attestation_is_refused(allowed: Path) -> None:
    assert refused(attested(), None, allowed).startswith("The attestation of portal 1.1.0 is not signed")


def test_a_strangers_signature_is_refused(tmp_path: Path, allowed: Path, stranger: Signer) -> None:
    message = refused(attested(), signed(tmp_path, attested(), stranger), allowed)
    assert message.startswith("The attestation of portal 1.1.0 is signed by a stranger: build it")
    assert "add the signer to the inventory's allowed_signers" in message


@pytest.mark.parametrize(
    ("options", "why"),
    [('valid-before="20200101"', "expired"), ('valid-after="29990101"', "not yet valid")],
)
def test_a_key_counts_only_in_its_time(tmp_path: Path, allowed: Path, builder: Signer, options: str, why: str) -> None:
    allowed.write_text(builder.line(options=options))
    message = refused(attested(), signed(tmp_path, attested(), builder), allowed)
    assert "is signed by a stranger (" in message, message
    assert why in message, message


def test_an_altered_attestation_is_refused(tmp_path: Path, allowed: Path, builder: Signer) -> None:
    signature = signed(tmp_path, attested(), builder)
    message = refused(attested(builder="elsewhere"), signature, allowed)
    assert message.startswith("The attestation of portal 1.1.0 was altered since builder signed it: build it")


def test_an_altered_signature_is_refused(tmp_path: Path, allowed: Path, builder: Signer) -> None:
    signature = signed(tmp_path, attested(), builder)
    assert refused(attested(), signature[:-40], allowed).startswith(
        "The signature of the attestation of portal 1.1.0 was altered"
    )
    assert "was altered" in refused(attested(), b"", allowed)
    assert "was altered" in refused(attested(), b"\xff\xfe", allowed)


def test_a_signature_for_another_purpose_is_refused(tmp_path: Path, allowed: Path, builder: Signer) -> None:
    signature = signed(tmp_path, attested(), builder, PROMOTION)
    assert "has a signature of builder that was made for something else" in refused(attested(), signature, allowed)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"payload_sha256": "cd" * 32}, "is about the payload cdcdcdcdcdcd… and this is abababababab…"),
        ({"application": "blog"}, "is about the application blog and this is portal"),
        ({"version": "1.2.0"}, "is about the version 1.2.0 and this is 1.1.0"),
        ({"format": 2}, "has format 2 and this backstay knows 1"),
        ({"format": None}, "cannot be read"),
    ],
)
def test_a_good_signature_under_something_else_is_refused(
    tmp_path: Path, allowed: Path, builder: Signer, changed: dict[str, Any], told: str
) -> None:
    content = attested(**changed)
    assert told in refused(content, signed(tmp_path, content, builder), allowed)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"null", b"{"])
def test_a_good_signature_under_nonsense_is_refused(
    tmp_path: Path, allowed: Path, builder: Signer, content: bytes
) -> None:
    assert "cannot be read" in refused(content, signed(tmp_path, content, builder), allowed)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, builder: Signer) -> tuple[bytes, bytes, Path]:
    directory = tmp_path_factory.mktemp("good")
    path = directory / "allowed_signers"
    path.write_text(builder.line())
    return attested(), signed(directory, attested(), builder), path


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), byte=st.integers(0, 255))
def test_any_single_changed_byte_is_refused(good: tuple[bytes, bytes, Path], data: st.DataObject, byte: int) -> None:
    content, signature, allowed = good
    which = data.draw(st.sampled_from(["attestation", "signature"]))
    before = content if which == "attestation" else signature
    place = data.draw(st.integers(0, len(before) - 1))
    after = before[:place] + bytes([byte]) + before[place + 1 :]
    if after == before:
        return
    pair = (after, signature) if which == "attestation" else (content, after)
    assert "altered" in (told := refused(*pair, allowed)) or "stranger" in told or "something else" in told


def test_every_place_of_the_signature_counts(good: tuple[bytes, bytes, Path]) -> None:
    """What ssh-keygen would overlook: white space, padding, what follows the end, and the version number."""
    content, signature, _allowed = good
    accepted = []
    for place in range(len(signature)):
        for byte in (b" ", b"\n", b"A", b"B"):
            after = signature[:place] + byte + signature[place + 1 :]
            same = attestation._blob(after.decode()) == attestation._blob(signature.decode())
            # The same signature in another armour: nothing else would tell it from the good one.
            if same and after != signature:
                asked = attestation._ask(["check-novalidate", "-n", ATTESTATION], content.decode(), after, run)
                accepted += [] if asked is None else [(place, byte)]
    assert accepted == [], "changed and taken all the same"


# keys


def test_without_a_key_the_sentence_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no signing key .*: make one with `python tools/make_secrets.py "):
        attestation.signing_key(tmp_path / "signing_key")


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked(tmp_path: Path) -> None:
    key = tmp_path / "locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "hunter2hunter2", "-f", str(key)], check=True)
    file = tmp_path / "a.json"
    file.write_bytes(attested())
    with pytest.raises(BackstayError, match="without a passphrase") as caught:
        attestation.sign(file, key, ATTESTATION)
    assert "hunter2" not in caught.value.message
    assert not (tmp_path / "a.json.sig").exists()


def test_an_agent_may_hold_the_private_half(tmp_path: Path, builder: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    public = tmp_path / "signing_key.pub"
    public.write_text(builder.key.with_suffix(".pub").read_text())
    assert attestation.signing_key(tmp_path / "signing_key") == public
    file = tmp_path / "a.json"
    file.write_bytes(attested())
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(BackstayError, match="ssh-agent must hold its private half"):
        attestation.sign(file, tmp_path / "signing_key", ATTESTATION)
    socket = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL) as agent:
        try:
            monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
            while subprocess.run(["ssh-add", "-q", str(builder.key)], capture_output=True, check=False).returncode == 2:
                assert agent.poll() is None, "the agent ended"
            path = attestation.sign(file, tmp_path / "signing_key", ATTESTATION)
        finally:
            agent.terminate()
    assert attestation.is_whole(file.read_bytes(), path.read_bytes(), ATTESTATION)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "names nobody"),
        ("# a comment\n\n", "names nobody"),
        ("ada\n", "names no key"),
        ("ada not-a-key AAAA\n", "names no key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nx\n", "holds a private key"),
    ],
)
def test_a_list_of_signers_that_is_none_is_refused(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        attestation.check_allowed_signers(text, origin="The list")


def test_lists_of_signers_as_ssh_keygen_takes_them(builder: Signer) -> None:
    for options in ("", 'namespaces="a,b"', 'cert-authority,valid-before="20300101"'):
        attestation.check_allowed_signers(builder.line(options=options), origin="The list")


@pytest.mark.parametrize(
    ("made", "found"),
    [
        ((), "two/signing_key"),
        (("one/signing_key",), "one/signing_key"),
        (("three/signing_key.pub",), "three/signing_key"),
    ],
)
def test_files_are_found_beside_any_inventory_of_the_run(tmp_path: Path, made: tuple[str, ...], found: str) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    (tmp_path / "three" / "hosts.yml").touch()
    for name in made:
        (tmp_path / name).touch()
    variables = {
        "inventory_dir": str(tmp_path / "two"),
        "ansible_inventory_sources": [str(tmp_path / "one"), str(tmp_path / "three" / "hosts.yml")],
    }
    assert attestation.beside_inventories(variables, "signing_key") == tmp_path / found


# promotion


def proof(**changed: Any) -> bytes:
    values = {"application": "portal", "version": "1.1.0", "payload_sha256": SHA, "stage": "staging"}
    return Proof(
        **{**values, "releases": {"app1": "0003-1.1.0"}, "at": "2026-11-21T10:00:00Z", "by": "ada", **changed}
    ).to_json()


def promote(content: bytes | None, signature: bytes | None, allowed: Path) -> str:
    return attestation.check_promotion(content, signature, allowed, stage="staging", **ASKED)


def test_what_was_proven_is_let_in(tmp_path: Path, allowed: Path, builder: Signer) -> None:
    assert promote(proof(), signed(tmp_path, proof(), builder, PROMOTION), allowed) == "builder"


def test_what_was_not_proven_is_told_what_to_do(allowed: Path) -> None:
    with pytest.raises(GateRefused) as caught:
        promote(None, None, allowed)
    assert caught.value.message == (
        "portal 1.1.0 (payload abababababab…) was not proven live in staging, and only what was may be released here: "
        "release 1.1.0 in staging first, or say why it cannot wait with -e 'override_promotion=\"...\"' "
        "(--override-promotion)."
    )


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"payload_sha256": "cd" * 32}, "is about the payload cdcdcdcdcdcd…"),
        ({"version": "1.0.0"}, "is about the version 1.0.0"),
        ({"application": "blog"}, "is about the application blog"),
        ({"stage": "testing"}, "is about the stage testing and this is staging"),
        ({"kind": "wish"}, "is about the kind wish"),
        ({"format": 2}, "has format 2"),
    ],
)
def test_a_proof_of_something_else_is_none(
    tmp_path: Path, allowed: Path, builder: Signer, changed: dict[str, Any], told: str
) -> None:
    content = proof(**changed)
    with pytest.raises(GateRefused, match=told) as caught:
        promote(content, signed(tmp_path, content, builder, PROMOTION), allowed)
    assert "release 1.1.0 in staging first, or say why" in caught.value.message or "format" in told


def test_a_proof_unsigned_altered_a_strangers_or_an_attestation_is_none(
    tmp_path: Path, allowed: Path, builder: Signer, stranger: Signer
) -> None:
    good = signed(tmp_path, proof(), builder, PROMOTION)
    for content, signature, told in (
        (proof(), None, "is not signed"),
        (proof(by="eve"), good, "was altered since builder signed it"),
        (proof(), signed(tmp_path, proof(), stranger, PROMOTION), "is signed by a stranger"),
        (proof(), signed(tmp_path, proof(), builder, ATTESTATION), "made for something else"),
    ):
        with pytest.raises(GateRefused, match=told):
            promote(content, signature, allowed)


# beside the payload


def laid_out(directory: Path, builder: Signer) -> tuple[Path, dict[str, str]]:
    payload = directory / "portal-1.1.0.tar"
    payload.touch()
    for name, content, namespace in (
        ("attestation.json", attested(), ATTESTATION),
        ("proven-staging.json", proof(), PROMOTION),
    ):
        file = directory / f"portal-1.1.0.{name}"
        file.write_bytes(content)
        attestation.sign(file, builder.key, namespace)
    return payload, attestation.proofs_beside(payload)


def host(root: Path, builder: Signer) -> Layout:
    layout = Layout("portal", root)
    layout.artifacts.mkdir(parents=True)
    layout.configuration.mkdir(parents=True)
    layout.allowed_signers.write_text(builder.line())
    return layout


def place(layout: Layout, proofs: Mapping[str, Any], *, dry: bool = False) -> list[str]:
    written = attestation.place(layout, proofs, storage=Storage(), dry=dry, **ASKED)
    return sorted(path.name for path in written)


NAMES = ["attestation.json", "attestation.json.sig", "proven-staging.json", "proven-staging.json.sig"]


def test_what_lies_beside_a_payload_reaches_the_host_once(tmp_path: Path, builder: Signer) -> None:
    for other in ("portal-1.1.0.notes.json", "portal-1.1.0-2.attestation.json", "portal-1.1.0.attestation.json.bak"):
        (tmp_path / other).write_text("{}")
    _payload, proofs = laid_out(tmp_path, builder)
    assert sorted(proofs) == NAMES
    layout = host(tmp_path / "host", builder)
    assert place(layout, proofs, dry=True) == [f"{SHA}.{name}" for name in NAMES]
    assert list(layout.artifacts.iterdir()) == [], "check mode wrote"
    assert place(layout, proofs) == [f"{SHA}.{name}" for name in NAMES]
    assert place(layout, proofs) == []
    assert {path.stat().st_mode & 0o777 for path in layout.artifacts.iterdir()} == {0o600}


def test_what_is_refused_replaces_nothing_that_is_good(tmp_path: Path, builder: Signer, stranger: Signer) -> None:
    _payload, proofs = laid_out(tmp_path, builder)
    layout = host(tmp_path / "host", builder)
    place(layout, proofs)
    before = {path: path.read_bytes() for path in layout.artifacts.iterdir()}
    strange = tmp_path / "strange"
    strange.mkdir()
    for bad in (
        {**proofs, "attestation.json": proofs["attestation.json"] + " "},
        {name: text for name, text in proofs.items() if not name.endswith(".sig")},
        laid_out(strange, stranger)[1],
    ):
        with pytest.raises(GateRefused):
            place(layout, bad)
        assert {path: path.read_bytes() for path in layout.artifacts.iterdir()} == before


@pytest.mark.parametrize("name", ["../../etc/passwd", "attestation.json/x", "proven-.json", "attestation.json.sig.sig"])
def test_no_other_file_can_be_placed(tmp_path: Path, builder: Signer, name: str) -> None:
    _payload, proofs = laid_out(tmp_path, builder)
    layout = host(tmp_path / "host", builder)
    with pytest.raises(InputError, match="no file that vouches for a payload"):
        place(layout, {**proofs, name: "x"})
    assert list(layout.artifacts.iterdir()) == []
