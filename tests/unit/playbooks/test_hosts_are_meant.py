"""A wrong -i or --limit is refused by every verb: a run that did nothing must not look like what was asked for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
VERBS = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml"))
HOSTS = """
app_servers: {hosts: {web1: {}, web2: {}}}
build_hosts: {hosts: {build1: {}}}
"""


def play(
    playbook: str, hosts: str, directory: Path, *options: str, callback: str = "backstay.ops.progress"
) -> tuple[int, str]:
    """Run a playbook with these hosts; return its exit code and what was printed, with the line breaks folded."""
    inventory = directory / "hosts.yml"
    inventory.write_text(hosts, encoding="utf-8")
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            f"playbooks/{playbook}.yml",
            *("-i", str(inventory), *options),
        ],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_STDOUT_CALLBACK": callback, "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_ends_well_without_a_host(verb: str, tmp_path: Path) -> None:
    code, said = play(verb, "all: {}\n", tmp_path, "-e", "version=1.1.0")
    assert code == 2, said
    group = "build_hosts" if verb == "build" else "app_servers"
    assert f"Nothing was done, because {tmp_path}/hosts.yml has no host in {group}; name your inventory with -i" in said


SHOP = """
format: 1
name: shop
domain: shop.example.org
source: {repository: https://git.example.org/shop.git}
runtime: {settings: shop.settings, wsgi: "shop.wsgi:application"}
processes: {web: {}}
databases: [{name: default, engine: postgresql, url_key: DATABASE_URL}]
environment: {required: [DATABASE_URL], secret: [DATABASE_URL]}
"""


@pytest.mark.parametrize("what", ["point=latest", "undo=true"])
def test_one_database_is_restored_by_one_host(what: str, tmp_path: Path) -> None:
    """Each would exchange it, also under the visitors whom another has let in again."""
    (tmp_path / "applications").mkdir()
    (tmp_path / "applications" / "shop.yml").write_text(SHOP, encoding="utf-8")
    nowhere = "ansible_host: 127.0.0.1, ansible_port: 1"
    one = f"app_servers: {{hosts: {{web1: {{}}}}, vars: {{backstay_applications: [shop], {nowhere}}}}}\n"
    two = one.replace("web1: {}", "web1: {}, web2: {}")
    refusal = "shop has one database on 2 hosts, so nothing was restored: close the door of the others"
    code, said = play("restore", two, tmp_path, "-e", what)
    assert (code, refusal in said) == (2, True), said
    for hosts, options in ((one, ()), (two, ("--limit", "web2")), (two, ("-e", "plan=true"))):
        code, said = play("restore", hosts, tmp_path, "-e", what, *options)
        assert refusal not in said
        assert "Connection refused" in said, "the first question to the host comes after it"


def test_all_hosts_of_an_application_are_recovered_together(tmp_path: Path) -> None:
    """One alone would go back, though others have confirmed what it flipped to."""
    (tmp_path / "applications").mkdir()
    (tmp_path / "applications" / "shop.yml").write_text(SHOP, encoding="utf-8")
    nowhere = "ansible_host: 127.0.0.1, ansible_port: 1"
    hosts = f"app_servers: {{hosts: {{web1: {{}}, web2: {{}}}}, vars: {{backstay_applications: [shop], {nowhere}}}}}\n"
    refusal = "shop also runs on web1, and only all its hosts together tell which release it is to be"
    code, said = play("recover", hosts, tmp_path, "--limit", "web2")
    assert (code, refusal in said) == (2, True), said
    alone = hosts.replace("web1: {}", "web1: {backstay_applications: [blog]}")
    for inventory, options in ((hosts, ()), (alone, ("--limit", "web2")), (hosts, ("--check",))):
        code, said = play("recover", inventory, tmp_path, *options)
        assert "only all its hosts together" not in said
        assert "Connection refused" in said, "the first question to the host comes after it"


@pytest.mark.parametrize("verb", ["release", "rollback"])
def test_one_host_of_several_is_told_which_run_it_has_part_in(verb: str, tmp_path: Path) -> None:
    """A host that was released to alone with --limit is no host that somebody changed by hand: the others follow it."""
    (tmp_path / "applications").mkdir()
    (tmp_path / "applications" / "shop.yml").write_text(SHOP, encoding="utf-8")
    (tmp_path / "allowed_signers").write_text(f"ada ssh-ed25519 {'A' * 68}\n", encoding="utf-8")
    here = (
        "ansible_connection: local, ansible_become: false, ansible_python_interpreter: '{{ ansible_playbook_python }}'"
    )
    hosts = f"app_servers: {{hosts: {{web1: {{}}, web2: {{}}}}, vars: {{backstay_applications: [shop], {here}}}}}\n"
    options = ("--limit", "web2", "--check", "-vvv")
    _code, said = play(verb, hosts, tmp_path, *options, callback="ansible.builtin.default")
    assert re.search(r'"run": "\d{8}T\d{6}Z-[0-9a-f]{6}", .*"state": "(prepared|live)"', said), said


def test_the_usual_output_says_it_too(tmp_path: Path) -> None:
    code, said = play("rollback", "all: {}\n", tmp_path, callback="ansible.builtin.default")
    assert code == 2, said
    assert "Nothing was done, because" in said


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        pytest.param((), False, id="all of them"),
        pytest.param(("--limit", "web2"), False, id="one of them, and this machine is not named"),
        pytest.param(("--limit", "build1"), True, id="a limit to others"),
        pytest.param(
            ("--limit", "build1", "-e", "backstay_beside=:build_hosts"), False, id="others that are meant, too"
        ),
        pytest.param(("-e", "backstay_hosts=web_servers"), True, id="a group that is not there"),
        pytest.param(("-e", "backstay_hosts=app_servers:&canary"), True, id="groups that have no host in common"),
        pytest.param(("-e", "backstay_hosts=build_hosts"), False, id="another group"),
    ],
)
def test_what_counts_is_who_is_left(options: tuple[str, ...], refused: bool, tmp_path: Path) -> None:
    code, said = play("plays/hosts", HOSTS, tmp_path, *options)
    assert (code, "Nothing was done" in said) == ((2, True) if refused else (0, False)), said
