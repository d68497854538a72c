from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from backstay_lab.addresses import Addresses
from backstay_lab.errors import LabError
from backstay_lab.hosts import Disk, pip_configuration, share
from backstay_lab.images import load_recipe
from backstay_lab.keys import known_hosts_text, ssh_config_text
from backstay_lab.layout import LabLayout
from backstay_lab.network import network_of
from backstay_lab.secrets import vault_password


def test_disk() -> None:
    assert Disk.parse("/opt/:2g") == Disk("/opt", "2g")


@pytest.mark.parametrize("text", ["/opt", "opt:2g", "/opt:2", "/opt:-1g", "/:2g", "/a,b:2g"])
def test_what_is_no_disk_is_refused(text: str) -> None:
    with pytest.raises(LabError, match="A disk is written"):
        Disk.parse(text)


def test_a_host_is_as_nice_as_whoever_boots_it() -> None:
    assert [share(niceness) for niceness in (0, 5, 19)] == [1024, 336, 15]


@pytest.mark.parametrize(
    ("file", "environment", "expected"),
    [
        ("", {}, ""),
        ("[global]\nfind-links = /opt/wheels\nextra-index-url = file:///opt/simple\n", {}, ""),
        (
            "[global]\nextra-index-url = file:///a https://b.example/simple\n",
            {},
            "extra-index-url = https://b.example/simple",
        ),
        ("[global]\nindex-url = http://localhost:3141/simple\n", {}, ""),
        ("[global]\ncert = /somewhere/else.pem\n", {}, "cert = /etc/ssl/certs/ca-certificates.crt"),
        ("", {"PIP_INDEX_URL": "https://c.example/simple"}, "index-url = https://c.example/simple"),
        ("", {"PIP_DEFAULT_TIMEOUT": "180"}, "timeout = 180"),
        ("not an ini file", {}, ""),
    ],
)
def test_a_host_gets_what_reaches_the_index_and_no_path_of_the_machine(
    tmp_path: Path, file: str, environment: dict[str, str], expected: str
) -> None:
    path = tmp_path / "pip.conf"
    path.write_text(file)
    written = pip_configuration([path, tmp_path / "absent"], environment)
    assert written == (f"[global]\n{expected}\n" if expected else "")


def test_the_recipe_is_the_tag(tmp_path: Path) -> None:
    recipe, guest = tmp_path / "images.toml", tmp_path / "guest"
    (guest / "etc").mkdir(parents=True)
    (guest / "etc" / "a").write_text("1")
    recipe.write_text('[releases.trixie]\nsuite = "trixie"\n[images.bare]\npackages = ["b", "a"]\n')
    first = load_recipe("trixie", "bare", recipe, guest)
    assert first.tag.startswith("localhost/backstay-lab:trixie-bare-")
    recipe.write_text('# said\n[releases.trixie]\nsuite = "trixie"\n[images.bare]\npackages = ["a", "b"]\n')
    assert load_recipe("trixie", "bare", recipe, guest) == first, "comments and order build nothing anew"
    (guest / "etc" / "a").write_text("2")
    assert load_recipe("trixie", "bare", recipe, guest).tag != first.tag


def test_unknown_images_are_refused_with_the_known_ones() -> None:
    with pytest.raises(LabError, match="choose one of bookworm, trixie"):
        load_recipe("sid", "bare")
    with pytest.raises(LabError, match="choose one of bare, database, prepared"):
        load_recipe("trixie", "full")


def test_known_hosts_by_name_and_address() -> None:
    text = known_hosts_text(Addresses("demo"), {"app1": "ssh-ed25519 AAAA backstay-lab-demo-app1\n"})
    assert text == "app1,10.89.10.11 ssh-ed25519 AAAA\n"


def test_ssh_config_checks_host_keys(tmp_path: Path) -> None:
    text = ssh_config_text(Addresses("demo"), LabLayout("demo", tmp_path), ["app1"])
    assert "Host app1\n  HostName 10.89.10.11\n" in text
    assert "StrictHostKeyChecking yes" in text
    assert f'UserKnownHostsFile "{tmp_path}/.lab/demo/known_hosts"' in text


def test_subnets_of_a_network() -> None:
    assert network_of({"name": "a", "subnets": [{"subnet": "10.89.10.0/24"}]}) == ("a", {"10.89.10.0/24"})
    assert network_of({"name": "b", "subnets": None}) == ("b", set())


def test_the_vault_password_is_made_once_and_kept_from_others(tmp_path: Path) -> None:
    path = tmp_path / ".lab" / "vault-password"
    with ThreadPoolExecutor(4) as pool:
        seen = set(pool.map(vault_password, [path] * 8))
    assert len(seen) == 1, "all first users read the same password"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_an_empty_vault_password_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vault-password"
    path.write_text("\n")
    with pytest.raises(LabError, match="is empty"):
        vault_password(path)
