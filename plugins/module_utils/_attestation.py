"""Who vouches for a payload: OpenSSH signatures beside what they sign, judged by the host's own list of signers.

    <application>-<version>.attestation.json      who built it and what the checks said; names the digest
    <application>-<version>.proven-<stage>.json   that this digest was live and proven in a stage; names the hosts
    <either>.sig                                  its signature (`ssh-keygen -Y sign`), each in a namespace of its own

On a host they lie beside the payload, under its digest instead of its name. Hosts judge by
/etc/backstay/<application>/allowed_signers, in the format that ssh-keygen(1) describes.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ._errors import BackstayError, GateRefused, InputError
from ._layout import Layout
from ._run import Completed, Runner, run
from ._storage import Storage

ATTESTATION = "backstay-attestation"
PROMOTION = "backstay-promotion"
FORMAT = 1
KIND = "proven-live"

SIGNATURE = ".sig"
ATTESTATION_NAME = "attestation.json"
_PROOF = re.compile(r"(attestation|proven-[a-z][a-z0-9-]{0,29})\.json(\.sig)?")
_KEY_TYPES = re.compile(r"(ssh-|ecdsa-sha2-|sk-ssh-|sk-ecdsa-)[A-Za-z0-9@.-]+")
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----\n", "\n-----END SSH SIGNATURE-----"
_MAGIC = b"SSHSIG\0\0\0\1"  # with the one version that exists
_ARMOR_COLUMNS = 70


def promotion_name(stage: str) -> str:
    return f"proven-{stage}.json"


# signing, on the controller


def beside_inventories(variables: Mapping[str, Any], name: str) -> Path:
    """Where `name` lies beside the inventories of a run, from Ansible's variables: in the host's own inventory, or else
    in the first that has it (or its public half)."""
    sources = [Path(str(source)) for source in variables.get("ansible_inventory_sources") or []]
    directories = [Path(str(variables["inventory_dir"]))] if variables.get("inventory_dir") else []
    directories += [source if source.is_dir() else source.parent for source in sources]
    found = [directory / name for directory in directories]
    there = [path for path in found if path.exists() or path.with_name(f"{name}.pub").exists()]
    return (there or found or [Path(name)])[0].absolute()


def signing_key(path: Path) -> Path:
    """The private key at `path`, or its public half where an agent holds the private one.

    Raises InputError, with how to make one, when there is neither.
    """
    if path.is_file():
        return path
    public = path.with_name(f"{path.name}.pub")
    if public.is_file():
        return public
    raise InputError(
        f"There is no signing key {path}, and hosts take nothing unsigned: make one with `python tools/make_secrets.py "
        f"{path.parent}`, or with `ssh-keygen -t ed25519 -N '' -f {path}` and a line for it in allowed_signers."
    )


def sign(file: Path, key: Path, namespace: str, *, runner: Runner = run) -> Path:
    """Write the signature of a file beside it and return its path; nobody is asked for a passphrase.

    Raises InputError when there is no key, BackstayError when ssh-keygen cannot sign with it.
    """
    held = signing_key(key)
    quiet = {**os.environ, "SSH_ASKPASS": "/bin/false", "SSH_ASKPASS_REQUIRE": "force"}
    done = runner(
        ["ssh-keygen", "-Y", "sign", "-f", str(held), "-n", namespace],
        stdin=_text(file.read_bytes(), file.name),
        environment=quiet,
        check=False,
    )
    blob = _blob(done.stdout)
    if not done.ok or blob is None:
        said = done.last_lines(1)
        remedy = (
            "ssh-agent must hold its private half (`ssh-add`)"
            if held.suffix == ".pub"
            else "give one without a passphrase, or leave only its .pub there and the private half to ssh-agent"
        )
        raise BackstayError(
            f"{file.name} could not be signed with {held} ({said[0] if said else 'ssh-keygen said nothing'}): "
            f"{remedy}; then run this again."
        )
    target = file.with_name(file.name + SIGNATURE)
    partial = target.with_name(f".{target.name}.partial")
    partial.write_text(_armored(blob), encoding="ascii")
    partial.replace(target)
    return target


def is_whole(content: bytes, signature: bytes, namespace: str, *, runner: Runner = run) -> bool:
    """Whether a signature is one of this content, whoever made it."""
    try:
        text = _text(content, "it")
        done = _ask(["check-novalidate", "-n", namespace], text, signature, runner)
    except GateRefused:
        return False
    return done is not None and done.ok


def is_vouched_for(content: bytes, signature: bytes, allowed_signers: Path, namespace: str) -> bool:
    """Whether hosts would believe a signature of this content, by the list that the controller declares to them; where
    it has none, whether it is one at all."""
    if not allowed_signers.is_file():
        return is_whole(content, signature, namespace)
    try:
        verify(content, signature, allowed_signers, namespace, what="it", remedy="sign it")
    except GateRefused:
        return False
    return True


def signers_of(given: str, variables: Mapping[str, Any]) -> Path:
    """Where the list of those who may sign lies on the controller: at `backstay_allowed_signers`, whose templates
    Ansible has filled in, or beside the inventories of a run."""
    return Path(given).expanduser().absolute() if given else beside_inventories(variables, "allowed_signers")


# judging


def check_allowed_signers(text: str, *, origin: str) -> None:
    """Raises InputError for a list of signers that names nobody, or that holds what is not one."""
    if "PRIVATE KEY" in text:
        raise InputError(f"{origin} holds a private key: put the public keys of those who may sign there.")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    if not lines:
        raise InputError(f"{origin} names nobody: write a line for each key that may sign, `NAME ssh-ed25519 AAAA...`.")
    for line in lines:
        if not any(_KEY_TYPES.fullmatch(word) for word in line.split()[1:]):
            raise InputError(
                f"{origin} has a line that names no key ({line[:40]!r}): write it as `NAME ssh-ed25519 AAAA...`."
            )


def verify(
    content: bytes,
    signature: bytes | None,
    allowed_signers: Path,
    namespace: str,
    *,
    what: str,
    remedy: str,
    runner: Runner = run,
) -> str:
    """The name under which the host knows who signed `content`.

    `what` names the content in a sentence ("the attestation of portal 1.1.0"), `remedy` says how to come by a good one.
    The list of signers decides: its namespaces, and its valid-after and valid-before at this moment. Raises GateRefused
    for what is unsigned, altered, or signed by somebody who may not.
    """
    if not allowed_signers.is_file():
        raise GateRefused(
            f"No allowed signers are declared on this host ({allowed_signers} is missing), so nobody can vouch for "
            f"{what}: run playbooks/site.yml."
        )
    if signature is None:
        raise GateRefused(f"{_capital(what)} is not signed, and this host takes nothing unsigned: {remedy}.")
    text = _text(content, what, remedy)
    found = _ask(["find-principals", "-f", str(allowed_signers)], None, signature, runner)
    if found is None:
        raise GateRefused(f"The signature of {what} was altered since it was made: {remedy}.")
    names = found.stdout.split()
    if not found.ok or not names:
        raise GateRefused(
            f"{_capital(what)} is signed by a stranger{_reason(found.stderr)}: {remedy}, or add the signer to the "
            "inventory's allowed_signers and run playbooks/site.yml."
        )
    name = names[0].split(",")[0]
    done = _ask(["verify", "-f", str(allowed_signers), "-I", name, "-n", namespace], text, signature, runner)
    if done is None or not done.ok:
        said = "" if done is None else done.stderr + done.stdout
        if "namespace does not match" in said:
            raise GateRefused(f"{_capital(what)} has a signature of {name} that was made for something else: {remedy}.")
        why = _reason(said)
        if why:
            raise GateRefused(
                f"{_capital(what)} is signed by {name}, who may not sign it{why}: {remedy}, or let them in the "
                "inventory's allowed_signers and run playbooks/site.yml."
            )
        raise GateRefused(f"{_capital(what)} was altered since {name} signed it: {remedy}.")
    return name


def _reason(said: str) -> str:
    """Why ssh-keygen refuses a signer that it found, in brackets; nothing where it merely does not know the key."""
    for line in said.splitlines():
        for known in ("has expired", "is not yet valid", "not permitted for use", "namespace"):
            if known in line:
                return f" ({line.rpartition('allowed_signers:')[2].strip(' .')})"
    return ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _text(content: bytes, what: str, remedy: str = "write it again") -> str:
    """What is signed is JSON in ASCII, so that it reaches ssh-keygen byte for byte in every locale."""
    try:
        return content.decode("ascii")
    except UnicodeDecodeError as altered:
        raise GateRefused(f"{_capital(what)} was altered since it was signed: {remedy}.") from altered


def _ask(action: list[str], text: str | None, signature: bytes, runner: Runner) -> Completed | None:
    """What ssh-keygen says to a signature; None for one that is not written as ssh-keygen writes it."""
    blob = _blob(signature.decode("ascii", errors="replace"))
    if blob is None or signature.decode("ascii", errors="replace").removesuffix("\n") != _armored(blob).rstrip("\n"):
        return None
    import tempfile  # with its random numbers, for what only a release does

    verb, *options = action
    with tempfile.NamedTemporaryFile(prefix="backstay-", suffix=SIGNATURE) as file:
        file.write(signature)
        file.flush()
        return runner(["ssh-keygen", "-Y", verb, "-s", file.name, *options], stdin=text, check=False)


def _blob(armored: str) -> bytes | None:
    """The signature inside its armour. ssh-keygen would also take other white space, other padding and another version
    number: then a changed byte could go unseen."""
    if not armored.startswith(_BEGIN):
        return None
    body = armored.removeprefix(_BEGIN).partition(_END)[0]
    try:
        blob = base64.b64decode(body.replace("\n", ""), validate=True)
    except (binascii.Error, ValueError):
        return None
    return blob if blob.startswith(_MAGIC) else None


def _armored(blob: bytes) -> str:
    body = base64.b64encode(blob).decode("ascii")
    lines = [body[start : start + _ARMOR_COLUMNS] for start in range(0, len(body), _ARMOR_COLUMNS)]
    return _BEGIN + "\n".join(lines) + _END + "\n"


# the attestation of a payload


def check_attestation(
    content: bytes | None,
    signature: bytes | None,
    allowed_signers: Path,
    *,
    application: str,
    version: str,
    payload: str,
    runner: Runner = run,
) -> str:
    """Who vouches for having built this payload, of this application and version. Raises GateRefused."""
    what = f"the attestation of {application} {version}"
    remedy = "build it with playbooks/build.yml, which signs it, and release with playbooks/release.yml"
    if content is None:
        raise GateRefused(
            f"There is no attestation of {application} {version} beside its payload, and this host takes nothing that "
            f"nobody vouches for: {remedy}."
        )
    signer = verify(content, signature, allowed_signers, ATTESTATION, what=what, remedy=remedy, runner=runner)
    _check_content(content, what, remedy, payload_sha256=payload, application=application, version=version)
    return signer


def _check_content(content: bytes, what: str, remedy: str, **expected: str) -> None:
    """Raises GateRefused when what was signed is about something else."""
    try:
        found = json.loads(content)
        number = int(found["format"])
        seen = {name: str(found[name]) for name in expected}
    except (ValueError, KeyError, TypeError) as broken:
        raise GateRefused(f"{_capital(what)} cannot be read ({broken}): {remedy}.") from broken
    if number > FORMAT:
        raise GateRefused(
            f"{_capital(what)} has format {number} and this backstay knows {FORMAT}: update the host's command with "
            "playbooks/site.yml."
        )
    for name, value in expected.items():
        if seen[name] != value:
            short = name == "payload_sha256"
            raise GateRefused(
                f"{_capital(what)} is about {'the payload' if short else f'the {name}'} "
                f"{seen[name][:12] + '…' if short else seen[name]} and this is {value[:12] + '…' if short else value}: "
                f"{remedy}."
            )


# the proof that a payload was live elsewhere


@dataclass(frozen=True)
class Proof:
    """That a payload was live and proven in a stage: `releases` by host; `at` is UTC ISO 8601."""

    application: str
    version: str
    payload_sha256: str
    stage: str
    releases: Mapping[str, str]
    at: str
    by: str
    kind: str = KIND
    format: int = FORMAT

    def to_json(self) -> bytes:
        """In ASCII."""
        return json.dumps(asdict(self), indent=1, sort_keys=True).encode("ascii") + b"\n"


def check_promotion(
    content: bytes | None,
    signature: bytes | None,
    allowed_signers: Path,
    *,
    application: str,
    version: str,
    payload: str,
    stage: str,
    runner: Runner = run,
) -> str:
    """Who vouches for this payload having been live in `stage`. Raises GateRefused, saying what to do."""
    remedy = f"release {version} in {stage} first"
    override = "or say why it cannot wait with -e 'override_promotion=\"...\"' (--override-promotion)"
    what = f"the proof that {application} {version} was live in {stage}"
    if content is None:
        raise GateRefused(
            f"{application} {version} (payload {payload[:12]}…) was not proven live in {stage}, and only what was may "
            f"be released here: {remedy}, {override}."
        )
    remedy = f"{remedy}, {override}"
    signer = verify(content, signature, allowed_signers, PROMOTION, what=what, remedy=remedy, runner=runner)
    _check_content(
        content, what, remedy, kind=KIND, application=application, version=version, stage=stage, payload_sha256=payload
    )
    return signer


# beside the payload


def proofs_beside(payload: Path) -> dict[str, str]:
    """What lies beside a payload `<name>.tar` for hosts to judge it by: text by name, without the payload's own.

    Raises BackstayError for a file that cannot be read.
    """
    stem = payload.name.removesuffix(".tar") + "."
    found: dict[str, str] = {}
    for path in sorted(payload.parent.glob("*.json*")):
        name = path.name.removeprefix(stem)
        if path.name.startswith(stem) and _PROOF.fullmatch(name):
            try:
                found[name] = path.read_text(encoding="ascii")
            except (OSError, UnicodeDecodeError) as wrong:
                raise BackstayError(f"{path} cannot be read ({wrong}): build it again.") from wrong
    return found


def place(
    layout: Layout,
    proofs: Mapping[str, Any],
    *,
    application: str,
    version: str,
    payload: str,
    storage: Storage,
    runner: Runner = run,
    dry: bool = False,
) -> list[Path]:
    """Put what vouches for a payload beside it on the host, once it was judged; returns what was written.

    Nothing is written when the attestation is refused, so that what lies there stays good; with `dry` nothing is
    written at all. Raises GateRefused as `check_attestation` does, and InputError for a name that is none of ours.
    """
    contents: dict[str, bytes] = {}
    for name, text in proofs.items():
        if not _PROOF.fullmatch(str(name)):
            raise InputError(f"{name!r} is no file that vouches for a payload: give those that build.yml made.")
        contents[str(name)] = str(text).encode()
    check_attestation(
        contents.get(ATTESTATION_NAME),
        contents.get(ATTESTATION_NAME + SIGNATURE),
        layout.allowed_signers,
        application=application,
        version=version,
        payload=payload,
        runner=runner,
    )
    targets = {layout.proof(payload, name): content for name, content in contents.items()}
    fresh = {path: content for path, content in targets.items() if storage.read(path) != content}
    if not dry:
        for path, content in fresh.items():
            storage.write(path, content, mode=0o600)
    return list(fresh)
