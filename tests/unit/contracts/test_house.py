"""The front of the house: links that lead somewhere, complete pins, a Makefile that explains itself."""

from __future__ import annotations

import configparser
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]


def documents() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).exists()]


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as the usual renderers make them, and those it names itself."""
    text = document.read_text()
    headings = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
    return made | set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))


def test_links_of_the_documents_lead_somewhere() -> None:
    broken = []
    for document in documents():
        prose = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", prose):
            if re.match(r"[a-z]+:", target):
                continue
            file, _, anchor = target.partition("#")
            path = (document.parent / file).resolve() if file else document
            name = f"{document.relative_to(ROOT)}: {target}"
            if not path.exists():
                broken.append(f"{name}: there is no such file")
            elif anchor and path.suffix == ".md" and anchor not in anchors(path):
                broken.append(f"{name}: there is no such heading")
    assert broken == [], "\n".join(broken)


@pytest.mark.parametrize("lock", ["controller", "development"])
def test_every_requirement_is_pinned_and_hashed(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    requirements = re.split(r"\n(?=[a-z])", re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE).strip())
    loose = [entry.split()[0] for entry in requirements if "==" not in entry or "--hash=sha256:" not in entry]
    assert loose == [], "not pinned with ==, or without a hash; run: make lock"
    assert "://" not in text, "a lock names no host"


@pytest.mark.parametrize("lock", ["controller", "development"])
def test_every_named_requirement_is_in_its_lock(lock: str) -> None:
    named = re.findall(r"^([A-Za-z][\w-]*)", (ROOT / "requirements" / f"{lock}.in").read_text(), re.MULTILINE)
    locked = re.findall(r"^([a-z][\w-]*)==", (ROOT / "requirements" / f"{lock}.txt").read_text(), re.MULTILINE)
    assert sorted({name.lower() for name in named} - set(locked)) == [], "run: make lock"


@pytest.mark.parametrize(("below", "core"), [("<", "2.19"), (">=", "2.21")])
def test_each_python_gets_its_ansible_core(below: str, core: str) -> None:
    text = (ROOT / "requirements" / "controller.txt").read_text()
    assert re.search(
        rf"^ansible-core=={re.escape(core)}\.\d+ ; python_full_version {below} '3\.12'", text, re.MULTILINE
    )


def test_the_controller_lock_is_part_of_the_development_lock() -> None:
    pins = [
        set(re.findall(r"^[a-z][\w-]*==\S+", (ROOT / "requirements" / f"{lock}.txt").read_text(), re.MULTILINE))
        for lock in ("controller", "development")
    ]
    assert sorted(pins[0] - pins[1]) == [], "the two locks disagree; run: make lock"


def test_help_names_each_target_on_a_line_of_its_own() -> None:
    text = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    wanted = ["setup", "demo", "demo-down", "test", "test-unit", "test-full", "chaos", "lint", "bench", "docs", "clean"]
    assert re.findall(r"^  make ([a-z-]+) +\S", text, re.MULTILINE) == wanted


def test_the_checkouts_configuration_keeps_its_promises() -> None:
    configuration = configparser.ConfigParser()
    configuration.read(ROOT / "ansible.cfg")
    defaults = configuration["defaults"]
    assert defaults.getboolean("host_key_checking")
    assert not defaults.getboolean("inject_facts_as_vars")
    assert defaults["gathering"] == "explicit"
    assert defaults["collections_path"].split(":")[0] == ".ansible/collections"
    assert (ROOT / ".ansible/collections/ansible_collections/backstay/ops").resolve() == ROOT
    assert (ROOT / defaults["vault_password_file"]).exists()


def test_versions_agree() -> None:
    galaxy = yaml.safe_load((ROOT / "galaxy.yml").read_text())
    changelog = yaml.safe_load((ROOT / "changelogs/changelog.yaml").read_text())
    assert galaxy["version"] in changelog["releases"], "antsibull-changelog release has not been run for this version"
    assert galaxy["license"] == ["GPL-3.0-or-later"]


def test_the_linter_has_its_strictest_profile() -> None:
    settings = yaml.safe_load((ROOT / ".ansible-lint").read_text())
    assert settings["profile"] == "production"
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]
    assert {"B", "BLE", "E", "F", "I", "S", "UP"} <= set(ruff["lint"]["select"])
