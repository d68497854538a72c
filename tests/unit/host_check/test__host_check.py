"""A host that is not fit is refused with every reason, before anything is touched."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _host_check
from ansible_collections.backstay.ops.plugins.module_utils._errors import InputError
from ansible_collections.backstay.ops.plugins.module_utils._host_check import Found, Host, Site, System, Wanted
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed

TRIXIE = 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nNAME="Debian GNU/Linux"\nVERSION_ID="13"\nID=debian\n'
WANTED = Wanted(
    supported=("debian 12", "debian 13"),
    packages=("nginx", "tree"),
    ports=(80, 443),
    process="nginx",
    sites=(Site("/etc/nginx/sites-enabled/portal.conf", ("portal.test", "www.portal.test")),),
)
FIT = Found(system=System("debian", "13", "Debian GNU/Linux 13 (trixie)"), is_root=True)


def test_a_fit_host_is_fit() -> None:
    assert _host_check.problems(WANTED, FIT) == ()


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            replace(FIT, system=System("ubuntu", "24.04", "Ubuntu 24.04 LTS")),
            "The host runs Ubuntu 24.04 LTS; Backstay supports Debian 12 and Debian 13: use a host with one of these.",
        ),
        (
            replace(FIT, is_root=False),
            "The play is not root on the host: connect as root, or as a user who may use sudo without a password.",
        ),
        (
            replace(FIT, listeners={80: "apache2"}),
            "Port 80 is taken by apache2, where nginx is to listen: stop apache2, or move it to another port.",
        ),
        (
            replace(FIT, claims={"/etc/nginx/conf.d/old.conf": ["portal.test"]}),
            (
                "The name portal.test is already claimed by /etc/nginx/conf.d/old.conf on the host: "
                "remove it there, or drop it from portal."
            ),
        ),
    ],
)
def test_what_is_refused(found: Found, said: str) -> None:
    assert _host_check.problems(WANTED, found) == (said,)


@pytest.mark.parametrize(
    "found",
    [
        replace(FIT, listeners={80: "nginx", 443: "nginx"}),
        replace(FIT, claims={"/etc/nginx/sites-enabled/portal.conf": ["portal.test"]}),
        replace(FIT, claims={"/etc/nginx/conf.d/other.conf": ["other.test"]}),
    ],
)
def test_what_is_ours_is_in_nobodys_way(found: Found) -> None:
    assert _host_check.problems(WANTED, found) == ()


def test_two_of_our_sites_cannot_claim_one_name() -> None:
    wanted = replace(WANTED, sites=(*WANTED.sites, Site("/etc/nginx/sites-enabled/shop.conf", ("portal.test",))))
    assert _host_check.problems(wanted, FIT) == ("The name portal.test is claimed by portal and by shop: drop one.",)


def test_every_reason_is_told_at_once() -> None:
    said = _host_check.problems(WANTED, replace(FIT, is_root=False, listeners={80: "apache2", 443: "haproxy"}))
    assert len(said) == 3
    with pytest.raises(InputError, match=r"haproxy.*Nothing was touched\.$"):
        _host_check.refuse(said)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("server { server_name a.test b.test; }", ("a.test", "b.test")),
        ("server {\n  server_name\n    a.test\n    b.test;\n}", ("a.test", "b.test")),
        ('server { server_name "a.test"; }', ("a.test",)),
        ("# server_name a.test;\nserver { listen 80; }", ()),
        ("server { server_name _; }", ()),
        ("server_name_in_redirect off;", ()),
    ],
)
def test_the_names_a_site_claims(text: str, names: tuple[str, ...]) -> None:
    assert _host_check.parse_server_names(text) == names


def test_the_system_is_read_from_os_release() -> None:
    assert _host_check.parse_os_release(TRIXIE) == System("debian", "13", "Debian GNU/Linux 13 (trixie)")
    assert _host_check.parse_os_release("") == System("unknown", "", "unknown")


def test_a_host_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "etc/nginx/sites-enabled").mkdir(parents=True)
    (tmp_path / "etc/nginx/conf.d").mkdir()
    (tmp_path / "etc/os-release").write_text(TRIXIE)
    (tmp_path / "etc/nginx/conf.d/a.conf").write_text("server { server_name a.test; }")
    (tmp_path / "proc/net").mkdir(parents=True)
    header = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    (tmp_path / "proc/net/tcp").write_text(
        header
        + "   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n"
        + "   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1\n"
    )
    (tmp_path / "proc/net/tcp6").write_text(header)
    (tmp_path / "proc/7/fd").mkdir(parents=True)
    (tmp_path / "proc/7/comm").write_text("apache2\n")
    (tmp_path / "proc/7/fd/3").symlink_to("socket:[4711]")
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/dpkg-query").touch()

    def dpkg(arguments: Sequence[str], **_: object) -> Completed:
        return Completed(tuple(arguments), 1, "nginx installed\ntree config-files\n", "no packages found")

    found = Host(root=tmp_path, runner=dpkg).look(WANTED, is_root=os.geteuid() == 0)
    assert found.system.version == "13"
    assert found.listeners == {80: "apache2"}
    assert found.claims == {str(tmp_path / "etc/nginx/conf.d/a.conf"): ("a.test",)}
    assert _host_check.missing_packages(WANTED, found) == ("tree",)


def test_sites_that_were_never_placed_are_new(tmp_path: Path) -> None:
    assert _host_check.new_sites(WANTED, Host(root=tmp_path).look(WANTED, is_root=True)) == (WANTED.sites[0].file,)
    book = tmp_path / "var/lib/backstay/files.json"
    book.parent.mkdir(parents=True)
    book.write_text('{"format": 1, "files": {"/etc/nginx/sites-enabled/portal.conf": "link:x"}}', encoding="utf-8")
    assert _host_check.new_sites(WANTED, Host(root=tmp_path).look(WANTED, is_root=True)) == ()
    book.write_text("[", encoding="utf-8")
    assert _host_check.new_sites(WANTED, Host(root=tmp_path).look(WANTED, is_root=True)) == (WANTED.sites[0].file,)
