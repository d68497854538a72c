"""Give each application of an inventory a random value for every secret it names and does not have yet, each of its
repositories a password, and the inventory a key that signs what it builds.

    python tools/make_secrets.py [inventories/example]

Writes `group_vars/app_servers/vault.yml`, encrypted with the Vault password that ansible.cfg names: the checkout's own,
or from an installed collection, which has no example, the one that Ansible finds where you are. Values that are there
stay as they are. No secret is ever written in plain text, and no value is printed. What somebody else gives, such as
the keys of a bucket, is for you to add (`ansible-vault edit`). Without its password nobody opens a repository: keep a
copy of it where no fire, thief or administrator of your servers reaches it (`backstay escrow`).

Makes `signing_key` (OpenSSH, ed25519, its owner's alone, kept out of git) and `allowed_signers`, which names it to the
hosts, where they are missing; not where the inventory names others (backstay_signing_key, backstay_allowed_signers).
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
Secrets = dict[str, dict[str, str]]
RepositorySecrets = dict[str, dict[str, dict[str, Any]]]


def missing(wanted: Mapping[str, Iterable[str]], present: Secrets) -> list[tuple[str, str]]:
    """Application and key of every secret that has no value, in order. Pure."""
    return [(name, key) for name, keys in wanted.items() for key in keys if not present.get(name, {}).get(key)]


def without_password(wanted: Mapping[str, Iterable[str]], present: RepositorySecrets) -> list[tuple[str, str]]:
    """Application and name of every repository that has no password, in order. Pure."""
    return [
        (name, repository)
        for name, repositories in wanted.items()
        for repository in repositories
        if not present.get(name, {}).get(repository, {}).get("password")
    ]


def described_by(inventory: Path) -> dict[str, dict[str, Any]]:
    """What the files of the inventory's applications say, by name."""
    files = sorted((inventory / "applications").glob("*.yml"))
    return {
        file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        for file in files
        if not file.name.endswith(".override.yml")
    }


def wanted_by(inventory: Path) -> dict[str, list[str]]:
    """The secrets each application of the inventory names."""
    return {
        name: list(described.get("environment", {}).get("secret", []))
        for name, described in described_by(inventory).items()
    }


def repositories_of(inventory: Path) -> dict[str, list[str]]:
    """The repositories that each application of the inventory is backed up to; no entry for one without backups."""
    found = {
        name: list((described.get("backup") or {}).get("repositories") or {})
        for name, described in described_by(inventory).items()
    }
    return {name: repositories for name, repositories in found.items() if repositories}


def vault(*arguments: str, stdin: str | None = None) -> str:
    """Run ansible-vault, in a checkout with its configuration, else with the caller's; what it prints."""
    beside = Path(sys.executable).parent
    program = shutil.which("ansible-vault", path=f"{beside}{os.pathsep}{os.environ.get('PATH', os.defpath)}")
    if program is None:
        sys.exit(
            f"make_secrets: there is no ansible-vault in {beside} or in PATH: use the Python that Ansible runs with."
        )
    own = ROOT / "ansible.cfg"
    environment = {**os.environ, "ANSIBLE_CONFIG": str(own)} if own.exists() else None
    cwd = ROOT if own.exists() else None
    done = subprocess.run(
        [program, *arguments], input=stdin, capture_output=True, text=True, check=False, cwd=cwd, env=environment
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["it printed nothing"]
        sys.exit(f"make_secrets: ansible-vault {arguments[0]} failed: {said[-1]}")
    return done.stdout


def keygen(*arguments: str) -> str:
    """Run ssh-keygen; what it prints."""
    done = subprocess.run(
        ["ssh-keygen", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(f"make_secrets: ssh-keygen failed: {(done.stderr.strip().splitlines() or ['it printed nothing'])[-1]}")
    return done.stdout


def declared_elsewhere(inventory: Path, name: str) -> bool:
    """Whether a variables file of the inventory names a file of its own for `name`."""
    files = [*inventory.glob("*.yml"), *inventory.glob("group_vars/**/*.yml"), *inventory.glob("host_vars/**/*.yml")]
    return any(re.search(rf"^\s*{name}:", file.read_text(encoding="utf-8"), re.MULTILINE) for file in files)


def make_signer(inventory: Path) -> list[str]:
    """Make the inventory's key and its list of allowed signers where they are missing; the names of what was made."""
    key, signers = inventory / "signing_key", inventory / "allowed_signers"
    made: list[str] = []
    if any(declared_elsewhere(inventory, name) for name in ("backstay_signing_key", "backstay_allowed_signers")):
        return made
    if not key.exists() and not key.with_suffix(".pub").exists():
        keygen("-q", "-t", "ed25519", "-N", "", "-C", f"backstay {inventory.name}", "-f", str(key))
        key.chmod(0o600)
        made.append(key.name)
    if not signers.exists():
        public = key.with_suffix(".pub")
        words = (public.read_text(encoding="ascii") if public.exists() else keygen("-y", "-f", str(key))).split()
        namespaces = 'namespaces="backstay-attestation,backstay-promotion"'
        signers.write_text(
            "# Who may vouch for payloads: see ssh-keygen(1), ALLOWED SIGNERS.\n"
            f"{inventory.name} {namespaces} {words[0]} {words[1]}\n",
            encoding="ascii",
        )
        made.append(signers.name)
    return made


def main(arguments: list[str]) -> int:
    example = ROOT / "inventories" / "example"
    if not arguments and not example.is_dir():
        sys.exit("make_secrets: name the inventory, such as inventories/mine.")
    inventory = Path(arguments[0] if arguments else example).resolve()
    file = inventory / "group_vars" / "app_servers" / "vault.yml"
    wanted = wanted_by(inventory)
    if not wanted:
        sys.exit(f"make_secrets: {inventory / 'applications'} holds no application's file (<name>.yml).")
    content: dict[str, Any] = yaml.safe_load(vault("view", str(file))) if file.exists() else {}
    present: Secrets = content.setdefault("backstay_secrets", {})
    new = missing(wanted, present)
    for name, key in new:
        present.setdefault(name, {})[key] = secrets.token_urlsafe(50)
    repositories = repositories_of(inventory)
    opened: RepositorySecrets = content.setdefault("backstay_backup_secrets", {}) if repositories else {}
    unopened = without_password(repositories, opened)
    for name, repository in unopened:
        opened.setdefault(name, {}).setdefault(repository, {})["password"] = secrets.token_urlsafe(50)
    if new or unopened:
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_name(".vault.yml.new")
        vault("encrypt", "--output", str(fresh), "-", stdin=yaml.safe_dump(content))
        fresh.replace(file)
    made = make_signer(inventory)
    if made:
        print(f"{inventory}: made {' and '.join(made)}.")
    named = [f"{name}: {key}" for name, key in new] + [f"{name}: the password of {place}" for name, place in unopened]
    print(f"{file}: made {', '.join(named)}." if named else f"{file}: every secret has a value.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
