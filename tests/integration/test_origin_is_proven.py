"""A host takes only what somebody whom it knows has built, for a host like it; production only what staging proved."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from backstay_lab.scene import APPLICATION, Scene

from ansible_collections.backstay.ops.plugins.module_utils._artifact import Manifest, pack, read_manifest
from ansible_collections.backstay.ops.plugins.module_utils._attestation import ATTESTATION, sign

ETC, STATE = f"/etc/backstay/{APPLICATION}", f"/var/lib/backstay/{APPLICATION}"
VERSION = "1.3.0"
# Everything a release leaves on a host, but for a payload that waits there to be judged, with what lies beside it.
WITNESS = (
    f"cat {STATE}/ledger.jsonl; ls {STATE}/journal.jsonl 2>&1; readlink /opt/{APPLICATION}/active;"
    f" ls /opt/{APPLICATION}/releases {ETC}/releases; systemctl list-units --no-legend '{APPLICATION}-*' | sort;"
)


def witness(scene: Scene) -> str:
    live = scene.status()["live"]["payload"]
    return scene.lab.ssh("app1", f"{WITNESS} sha256sum {STATE}/artifacts/{live}.*").stdout


def told(output: str) -> str:
    """The output with its line breaks folded, so that a sentence is found wherever it was broken."""
    return " ".join(output.split())


@dataclass(frozen=True)
class Store:
    """Artifacts of a controller, where somebody has been at one version."""

    directory: Path

    @property
    def room(self) -> Path:
        return self.directory / APPLICATION / VERSION

    @property
    def payload(self) -> Path:
        return self.room / f"{APPLICATION}-{VERSION}.tar"

    @property
    def attestation(self) -> Path:
        return self.room / f"{APPLICATION}-{VERSION}.attestation.json"

    @property
    def signature(self) -> Path:
        return self.attestation.with_name(f"{self.attestation.name}.sig")

    def replace_payload(self, key: Path, **changed: str) -> None:
        """Another payload, attested and signed as it should be, whose manifest differs."""
        manifest = json.loads(read_manifest(self.payload).to_json()) | changed
        tree = self.directory / "tree"
        tree.mkdir()
        (tree / "manifest.json").write_bytes(Manifest(**manifest).to_json())
        self.payload.unlink()
        packed = pack(tree, self.payload, 1_790_000_000)
        attested = json.loads(self.attestation.read_text()) | {"payload_sha256": packed.sha256}
        self.attestation.write_text(json.dumps(attested))
        sign(self.attestation, key, ATTESTATION)


def copy(scene: Scene, directory: Path, version: str = VERSION) -> Store:
    room = directory / APPLICATION / version
    room.mkdir(parents=True)
    for path in (scene.artifacts / APPLICATION / version).glob(f"{APPLICATION}-{version}.*"):
        shutil.copyfile(path, room / path.name)
    return Store(directory)


def unsigned(store: Store, _key: Path, _stranger: Path) -> None:
    store.signature.unlink()


def by_a_stranger(store: Store, _key: Path, stranger: Path) -> None:
    sign(store.attestation, stranger, ATTESTATION)


def altered(store: Store, _key: Path, _stranger: Path) -> None:
    store.attestation.write_text(store.attestation.read_text().replace('"builder": "', '"builder": "not-'))


def with_an_altered_signature(store: Store, _key: Path, _stranger: Path) -> None:
    lines = store.signature.read_text().splitlines(keepends=True)
    lines[-2] = ("A" if lines[-2][0] != "A" else "B") + lines[-2][1:]
    store.signature.write_text("".join(lines))


def truncated(store: Store, _key: Path, _stranger: Path) -> None:
    with store.payload.open("rb+") as file:
        file.truncate(file.seek(0, 2) - 100_000)


def for_another_system(store: Store, key: Path, _stranger: Path) -> None:
    store.replace_payload(key, system="debian-12")


def for_another_python(store: Store, key: Path, _stranger: Path) -> None:
    store.replace_payload(key, python="3.9")


CASES: list[tuple[Callable[[Store, Path, Path], None], str]] = [
    (unsigned, f"The attestation of {APPLICATION} {VERSION} is not signed, and this host takes nothing unsigned"),
    (by_a_stranger, f"The attestation of {APPLICATION} {VERSION} is signed by a stranger: build it with"),
    (altered, f"The attestation of {APPLICATION} {VERSION} was altered since example signed it: build it with"),
    (with_an_altered_signature, f"The attestation of {APPLICATION} {VERSION} was altered since example signed it"),
    (truncated, "is cut short: its digest is"),
    (for_another_system, "was built for the operating system debian-12 and this host has debian-13: build it on a"),
    (for_another_python, "was built for the Python 3.9 and this host has 3.13: build it on a host with 3.13"),
]


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = tmp_path_factory.mktemp("stranger") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    return key


@pytest.mark.parametrize(("spoil", "sentence"), CASES, ids=[case[0].__name__ for case in CASES])
def test_what_is_not_proven_is_refused_and_nothing_is_touched(
    standing: Scene, tmp_path: Path, stranger: Path, spoil: Callable[[Store, Path, Path], None], sentence: str
) -> None:
    store = copy(standing, tmp_path)
    spoil(store, Path(standing.inventory).absolute() / "signing_key", stranger)
    before = witness(standing)
    refused = standing.release(VERSION, check=False, backstay_artifacts=str(tmp_path))
    assert not refused.ok, refused.output
    assert sentence in told(refused.output), refused.output
    assert "Traceback" not in refused.output
    assert witness(standing) == before, "the refusal touched something"


def test_what_lies_on_the_host_is_judged_by_the_host_itself(standing: Scene) -> None:
    """No playbook, no module: root lays a payload there and asks the command."""
    digest = standing.payload(VERSION)
    for source, name in standing.payload_files(VERSION):
        if name.endswith(".tar"):
            standing.lab.copy("app1", source, f"{STATE}/artifacts/{name}")
    standing.lab.ssh("app1", f"rm -f {STATE}/artifacts/{digest}.*json*")
    before = witness(standing)
    answer = standing.backstay(
        "release",
        "--json",
        "--version",
        VERSION,
        "--payload",
        f"{STATE}/artifacts/{digest}.tar",
        APPLICATION,
        check=False,
    )
    assert not answer["ok"]
    assert answer["message"].startswith(f"There is no attestation of {APPLICATION} {VERSION} beside its payload")
    assert witness(standing) == before


# staging proves, production takes


class Stage(Scene):
    """A host of one of the two inventories; both take their payloads from one controller."""

    payloads: Path
    host: str

    @property
    def artifacts(self) -> Path:
        return self.payloads

    def staged(self) -> list[dict[str, Any]]:
        """What the host's ledger says of each release when it was begun."""
        lines = self.lab.ssh(self.host, f"cat {STATE}/ledger.jsonl").stdout.splitlines()
        return [entry for entry in map(json.loads, lines) if entry["event"] == "staged"]


@dataclass(frozen=True)
class Stages:
    staging: Stage
    production: Stage


@pytest.fixture(scope="module")
def stages(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    """A bare host for staging and one for production, from the two inventories of the checkout."""
    payloads = tmp_path_factory.mktemp("payloads")
    made = []
    for name, host in (("staging", "app2"), ("production", "app3")):
        stage = Stage(f"{scene.name}-stages", print)
        stage.inventory, stage.host, stage.payloads = f"inventories/{name}", host, payloads
        if not made:
            stage.remove()
        made.append(stage)
    try:
        for stage in made:
            stage.prepare((stage.host,), image="prepared")
            stage.play("site", "--limit", f"{stage.host},localhost")
        for version in ("1.0.0", "1.1.0"):
            copy(scene, payloads, version)
            attestation = payloads / APPLICATION / version / f"{APPLICATION}-{version}.attestation.json"
            sign(attestation, Path("inventories/staging/signing_key").absolute(), ATTESTATION)
        yield Stages(*made)
    finally:
        made[0].remove()


def test_production_takes_what_staging_proved_and_nothing_else(stages: Stages) -> None:
    staging, production = stages.staging, stages.production
    refused = production.release("1.0.0", check=False)
    assert not refused.ok
    assert "was not proven live in staging" in told(refused.output), refused.output
    assert "release 1.0.0 in staging first, or say why it cannot wait with -e 'override_promotion=" in told(
        refused.output
    )
    assert production.status("app3")["releases"] == []

    staging.release("1.0.0", why="to be proven", by="ada")
    statement = staging.payloads / APPLICATION / "1.0.0" / f"{APPLICATION}-1.0.0.proven-staging.json"
    proof = json.loads(statement.read_text())
    assert proof["payload_sha256"] == staging.payload("1.0.0")
    assert proof["releases"] == {"app2": "0001-1.0.0"}
    assert proof["by"] == "ada"

    production.release("1.0.0", why="proven")
    live = production.settled("app3")["live"]
    assert (live["version"], live["payload"]) == ("1.0.0", proof["payload_sha256"])
    assert production.staged()[-1]["data"]["override_promotion"] == ""

    again = staging.release("1.0.0")
    assert again.ok
    assert json.loads(statement.read_text()) == proof, "what stands is not signed anew"


def test_a_reason_overrides_the_proof_and_is_recorded(stages: Stages) -> None:
    production = stages.production
    assert not production.release("1.1.0", check=False).ok
    production.release("1.1.0", override_promotion="the lift at the hospital stands still")
    assert production.settled("app3")["live"]["version"] == "1.1.0"
    assert production.staged()[-1]["data"]["override_promotion"] == "the lift at the hospital stands still"


def test_production_takes_no_proof_that_staging_did_not_sign(stages: Stages, stranger: Path) -> None:
    production = stages.production
    room = production.payloads / APPLICATION / "1.1.0"
    genuine = production.payloads / APPLICATION / "1.0.0" / f"{APPLICATION}-1.0.0.proven-staging.json"
    forged = room / f"{APPLICATION}-1.1.0.proven-staging.json"
    claim = json.loads(genuine.read_text()) | {"version": "1.1.0", "payload_sha256": production.payload("1.1.0")}
    forged.write_text(json.dumps(claim))
    sign(forged, stranger, "backstay-promotion")
    try:
        refused = production.release("1.1.0", check=False, again=True)
    finally:
        for path in room.glob("*.proven-staging.json*"):
            path.unlink()
    assert not refused.ok
    assert "was live in staging is signed by a stranger" in told(refused.output), refused.output
