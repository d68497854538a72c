"""The lookup finds the one file of an application beside the inventories, and refuses in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleError

from ansible_collections.backstay.ops.plugins.lookup.application import LookupModule

PORTAL = """\
format: 1
name: portal
domain: portal.example.org
source: {repository: ../../portal.git}
runtime: {settings: portal.settings, wsgi: "portal.wsgi:application"}
processes: {web: {workers: 2, threads: 4}}
aliases: [a.example.org, b.example.org]
environment: {values: {BANNER: "one"}, secret: [SECRET_KEY], example: ./env.example}
"""


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    return write(tmp_path / "inventory", portal=PORTAL)


def write(inventory: Path, **files: str) -> Path:
    room = inventory / "applications"
    room.mkdir(parents=True, exist_ok=True)
    (room / "env.example").write_text("SECRET_KEY=\nBANNER=\n")
    for name, text in files.items():
        (room / f"{name.replace('_', '.')}.yml").write_text(text)
    return inventory


def look(name: str, *inventories: Path) -> dict[str, Any]:
    variables = {"ansible_inventory_sources": [str(inventory) for inventory in inventories]}
    found: list[dict[str, Any]] = LookupModule().run([name], variables)
    return found[0]


def refusal(name: str, *inventories: Path) -> str:
    with pytest.raises(AnsibleError) as refused:
        look(name, *inventories)
    return str(refused.value.message)


def test_a_file_is_loaded_with_its_defaults_and_its_repository_made_absolute(inventory: Path) -> None:
    found = look("portal", inventory)
    assert found["health"]["path"] == "/healthz/"
    assert found["source"]["repository"] == str(inventory.parent / "portal.git")


def test_it_is_found_beside_an_inventory_that_is_a_file(inventory: Path) -> None:
    (inventory / "hosts.yml").write_text("all: {}\n")
    assert look("portal", inventory / "hosts.yml")["name"] == "portal"


def test_it_is_found_beside_the_inventory_of_the_host(inventory: Path) -> None:
    assert LookupModule().run(["portal"], {"inventory_dir": str(inventory)})[0]["name"] == "portal"


def test_a_second_inventory_overrides_mappings_key_by_key_and_lists_whole(inventory: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "staging", portal_override="processes: {web: {workers: 8}}\naliases: [c.example.org]\n")
    found = look("portal", inventory, other)
    assert found["processes"]["web"]["workers"] == 8
    assert found["processes"]["web"]["threads"] == 4
    assert found["aliases"] == ["c.example.org"]


def test_a_wrong_key_in_an_override_is_refused_too(inventory: Path) -> None:
    write(inventory, portal_override="domian: x.example.org\n")
    assert refusal("portal", inventory).startswith("unknown key `domian` in ")


def test_a_file_that_is_not_there_is_named_with_what_was_meant(inventory: Path) -> None:
    assert refusal("portl", inventory) == (
        f"The application 'portl' has no file portl.yml in {inventory}/applications: did you mean portal?"
    )


def test_two_files_of_one_application_are_refused(inventory: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", portal=PORTAL)
    assert "portal is described twice, in " in refusal("portal", inventory, other)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PORTAL + "name: portal\n", "is no good YAML, the key 'name' is there twice in line 9, column 1: correct it."),
        ("name: [\n", "is no good YAML, "),
        ("{}: {[1]: 2}\n", "is no good YAML, "),
        ("a: \x00\n", "is no good YAML, "),
        ("a: 2026-13-45\n", "is no good YAML, "),
        ("- portal\n", "holds no mapping: describe one application in it, by keys."),
        (PORTAL.replace("name: portal", "name: other"), "is 'other': the file must be called after it"),
    ],
)
def test_a_broken_file_is_refused_in_a_sentence(inventory: Path, text: str, said: str) -> None:
    write(inventory, portal=text)
    message = refusal("portal", inventory)
    assert said in message
    assert str(inventory / "applications/portal.yml") in message
    assert len(message.splitlines()) == 1


def test_all_problems_are_told_a_line_each(inventory: Path) -> None:
    write(inventory, portal=PORTAL.replace("workers: 2", "workers: 0") + "domian: x\n")
    lines = refusal("portal", inventory).splitlines()
    assert len(lines) == 2, lines
    assert lines[0].endswith("(1 more in this file.)"), lines


def test_what_an_example_names_must_be_known(inventory: Path) -> None:
    (inventory / "applications/env.example").write_text("SECRET_KEY=\nEMAIL_URL=\n")
    message = refusal("portal", inventory)
    assert "env.example names EMAIL_URL, which " in message
    assert message.endswith("add each to environment.values, or to environment.secret.")


def test_an_example_that_is_not_there_is_named(inventory: Path) -> None:
    (inventory / "applications/env.example").unlink()
    assert "`environment.example` in " in refusal("portal", inventory)
