"""Who may sign is a variable like any other: the list is found also where an inventory names it by a template."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.backstay.ops.plugins.action import promotion
from ansible_collections.backstay.ops.plugins.action.artifact_build import attestation
from ansible_collections.backstay.ops.plugins.module_utils._artifact import sha256_of
from ansible_collections.backstay.ops.plugins.module_utils._attestation import ATTESTATION, Proof, sign

from .conftest import Signer

ROOT = Path(__file__).resolve().parents[3]
HERE = "ansible_connection: local, ansible_become: false, ansible_python_interpreter: '{{ ansible_playbook_python }}'"
HOSTS = f"""
all:
  children:
    app_servers: {{hosts: {{web1: {{}}}}}}
    build_hosts: {{hosts: {{web1: {{}}}}}}
  vars: {{backstay_applications: [shop], {HERE}, backstay_allowed_signers: "{{{{ inventory_dir }}}}/who/may"}}
"""
SHOP = """
format: 1
name: shop
domain: shop.example.org
stage: staging
source: {repository: SOURCE}
runtime: {settings: shop.settings, wsgi: "shop.wsgi:application"}
processes: {web: {}}
databases: [{name: default, engine: postgresql, url_key: DATABASE_URL}]
environment: {required: [DATABASE_URL], secret: [DATABASE_URL]}
"""
PROVE = """
- hosts: app_servers
  gather_facts: false
  tasks:
    - ansible.builtin.set_fact:
        __release_prepared: {release: 0003-1.0.0, transaction: t1}
        __release_confirmed: {release: 0003-1.0.0}
    - backstay.ops.promotion:
        application: "{{ lookup('backstay.ops.application', 'shop') }}"
        version: 1.0.0
        payload: {path: "{{ payload }}", sha256: "{{ digest }}"}
      run_once: true
"""


@pytest.fixture
def payload(tmp_path: Path, builder: Signer) -> Path:
    """Version 1.0.0 of a tagged source, as a build would have left it, and an inventory that believes the builder."""
    source = tmp_path / "source"
    git = ["git", "-C", str(source), "-c", "user.name=ada", "-c", "user.email=ada@example.org"]
    subprocess.run(["git", "init", "-q", str(source)], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    subprocess.run([*git, "tag", "v1.0.0"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    for directory in ("applications", "who", "artifacts/shop/1.0.0"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "hosts.yml").write_text(HOSTS)
    (tmp_path / "prove.yml").write_text(PROVE)
    (tmp_path / "applications" / "shop.yml").write_text(SHOP.replace("SOURCE", str(source)))
    (tmp_path / "who" / "may").write_text(builder.line())
    path = tmp_path / "artifacts" / "shop" / "1.0.0" / "shop-1.0.0.tar"
    path.write_bytes(b"payload")
    attestation(path).write_text(json.dumps({"commit": commit, "payload_sha256": sha256_of(path)}))
    return path


def play(playbook: Path, payload: Path, key: Signer) -> str:
    """What a playbook would do, run here and in check mode."""
    inventory = payload.parents[3]
    given = {
        "version": "1.0.0",
        "payload": str(payload),
        "digest": sha256_of(payload),
        "backstay_artifacts": str(inventory / "artifacts"),
        "backstay_signing_key": str(key.key),
    }
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            *(str(playbook), "-i", str(inventory / "hosts.yml"), "--check", "-e", json.dumps(given)),
        ],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join(done.stdout.split())


def test_what_a_stranger_signed_is_built_again_by_the_list_that_a_template_names(
    payload: Path, builder: Signer, stranger: Signer
) -> None:
    build = ROOT / "playbooks" / "build.yml"
    sign(attestation(payload), stranger.key, ATTESTATION)
    assert "shop-1.0.0.tar would be built from tag v1.0.0" in play(build, payload, builder)
    sign(attestation(payload), builder.key, ATTESTATION)
    assert "shop-1.0.0.tar was already built from" in play(build, payload, builder)


def test_what_a_stranger_proved_is_proven_again_by_the_list_that_a_template_names(
    payload: Path, builder: Signer, stranger: Signer
) -> None:
    proof = Proof("shop", "1.0.0", sha256_of(payload), "staging", {"web1": "0003-1.0.0"}, "2026-11-21T10:00:00Z", "ada")
    file = payload.with_name("shop-1.0.0.proven-staging.json")
    prove = payload.parents[3] / "prove.yml"
    promotion.write(file, proof, stranger.key)
    assert "shop 1.0.0 would be proven in staging" in play(prove, payload, builder)
    promotion.write(file, proof, builder.key)
    assert "would be proven" not in play(prove, payload, builder)
