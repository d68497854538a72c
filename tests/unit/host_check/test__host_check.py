"""A host that is not fit is refused with every reason, before anything is touched."""

from __future__ import annotations

import json
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
            replace(FIT, listeners={80: ["apache2"]}),
            "Port 80 is taken by apache2, where nginx is to listen: stop apache2, or move it to another port.",
        ),
        (
            replace(FIT, listeners={443: ["haproxy", "nginx"]}),
            "Port 443 is taken by haproxy, where nginx is to listen: stop haproxy, or move it to another port.",
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
        replace(FIT, listeners={80: ["nginx"], 443: ["nginx"]}),
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
    said = _host_check.problems(WANTED, replace(FIT, is_root=False, listeners={80: ["apache2"], 443: ["haproxy"]}))
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


HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
IPV4, IPV6 = "00000000", "0" * 32


def listening(address: str, port: int, inode: int, state: str = "0A") -> str:
    """A line of /proc/net/tcp or tcp6."""
    other = f"{'0' * len(address)}:0000"
    times = "00000000:00000000 00:00000000 00000000     0        0"
    return f"   0: {address}:{port:04X} {other} {state} {times} {inode} 1 0 100 0 0 10 0\n"


def table(root: Path, name: str, *lines: str) -> None:
    (root / "proc/net").mkdir(parents=True, exist_ok=True)
    (root / "proc/net" / name).write_text(HEADER + "".join(lines))


def process(root: Path, pid: int, name: str, *inodes: int) -> None:
    (root / f"proc/{pid}/fd").mkdir(parents=True)
    (root / f"proc/{pid}/comm").write_text(f"{name}\n")
    for number, inode in enumerate(inodes):
        (root / f"proc/{pid}/fd/{number}").symlink_to(f"socket:[{inode}]")


@pytest.mark.parametrize(
    ("ipv4", "ipv6", "holders"),
    [
        ("nginx", "haproxy", ["haproxy", "nginx"]),
        ("haproxy", "nginx", ["haproxy", "nginx"]),
        ("nginx", "nginx", ["nginx"]),
        ("nginx", None, ["another program", "nginx"]),  # in a namespace of its own, say: nobody here has it open
    ],
)
def test_a_port_has_a_holder_for_each_of_its_addresses(
    tmp_path: Path, ipv4: str, ipv6: str | None, holders: list[str]
) -> None:
    table(tmp_path, "tcp", listening(IPV4, 443, 4711), listening(IPV4, 443, 4799, state="06"))
    table(tmp_path, "tcp6", listening(IPV6, 443, 4712), listening(IPV6, 8443, 4713))
    process(tmp_path, 7, ipv4, 4711)
    process(tmp_path, 8, "python3", 4713)
    if ipv6 is not None:
        process(tmp_path, 9, ipv6, 4712)
    found = Host(root=tmp_path).look(WANTED, is_root=True)
    assert found.listeners == {443: holders}
    others = [holder for holder in holders if holder != "nginx"]
    said = _host_check.problems(replace(WANTED, supported=("unknown ",)), found)
    assert [sentence.split(",")[0] for sentence in said] == [f"Port 443 is taken by {other}" for other in others]


def test_two_programs_on_two_addresses_of_a_port_are_both_seen(tmp_path: Path) -> None:
    table(tmp_path, "tcp", listening("0100007F", 80, 1), listening("0200007F", 80, 2))
    process(tmp_path, 7, "nginx", 1)
    process(tmp_path, 8, "varnishd", 2)
    assert Host(root=tmp_path).look(WANTED, is_root=True).listeners == {80: ["nginx", "varnishd"]}


# As dpkg-query prints them: name, architecture, version, state, what it provides.
PACKAGES = (
    "nginx\tamd64\t1.26.3-3\tinstalled\thttpd, httpd-cgi, nginx-abi-1.26.3-1\n"
    "mawk\tamd64\t1.3.4\tinstalled\tawk (= 2)\n"
    "libpq5\tamd64\t17.2\tinstalled\t\n"
    "tree\tamd64\t2.2.1\tconfig-files\t\n"
    "postfix\tamd64\t\tnot-installed\tmail-transport-agent\n"
)


@pytest.mark.parametrize(
    ("asked", "missing"),
    [
        ("nginx", False),
        ("httpd", False),
        ("awk", False),
        ("libpq5:amd64", False),
        ("libpq5:i386", True),
        ("nginx=1.26*", False),
        ("nginx=1.26.3-3", False),
        ("nginx:amd64=1.26*", False),
        ("nginx=1.27*", True),
        ("awk=1*", True),
        ("tree", True),
        ("mail-transport-agent", True),
        ("nginx/trixie-backports", True),
        ("nginx>=1.2", True),
    ],
)
def test_a_package_is_there_by_every_name_that_apt_knows_it_by(asked: str, missing: bool) -> None:
    installed, versions = _host_check.parse_packages(PACKAGES)
    found = replace(FIT, installed=installed, versions=versions)
    assert bool(_host_check.missing_packages(replace(WANTED, packages=(asked,)), found)) is missing


@pytest.mark.parametrize("name", ["ada", "Ada.Lovelace", "_ada", "ada-2", "a" * 32])
def test_a_name_that_can_be_a_user_is_fine(name: str) -> None:
    assert _host_check.problems(replace(WANTED, users=(name,)), FIT) == ()


@pytest.mark.parametrize("name", ["", "ada smith", "-ada", "ada:x", "ada/x", "2ada", "ada\n", "adä", "a" * 33])
def test_a_name_that_cannot_be_a_user_is_refused_unless_it_is_one(name: str) -> None:
    wanted = replace(WANTED, users=(name,))
    (said,) = _host_check.problems(wanted, FIT)
    assert said.startswith(f"The name {name!r} cannot be that of a user: give at most 32 letters")
    assert _host_check.problems(wanted, replace(FIT, users=frozenset({name}))) == ()


def test_who_exists_is_asked_of_the_host(tmp_path: Path) -> None:
    wanted = replace(WANTED, users=("root", "backstay-unit-test", "a\0b"))
    found = Host(root=tmp_path).look(wanted, is_root=True)
    assert _host_check.missing_users(wanted, found) == ("backstay-unit-test", "a\0b")


def test_a_host_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "etc/nginx/sites-enabled").mkdir(parents=True)
    (tmp_path / "etc/nginx/conf.d").mkdir()
    (tmp_path / "etc/os-release").write_text(TRIXIE)
    (tmp_path / "etc/nginx/conf.d/a.conf").write_text("server { server_name a.test; }")
    table(tmp_path, "tcp", listening("00000000", 80, 4711), listening("0100007F", 8080, 4712))
    table(tmp_path, "tcp6")
    process(tmp_path, 7, "apache2", 4711)
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/dpkg-query").touch()

    def dpkg(arguments: Sequence[str], **_: object) -> Completed:
        return Completed(tuple(arguments), 1, PACKAGES, "no packages found")

    found = Host(root=tmp_path, runner=dpkg).look(WANTED, is_root=os.geteuid() == 0)
    assert found.system.version == "13"
    assert found.listeners == {80: ["apache2"]}
    assert found.installed == {"nginx", "mawk", "libpq5"}
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


def test_an_application_that_nobody_names_any_more_is_told(tmp_path: Path) -> None:
    book = tmp_path / "var/lib/backstay/files.json"
    book.parent.mkdir(parents=True)
    ours = ("/etc/nginx/sites-enabled/portal.conf", "/etc/nginx/sites-enabled/shop.conf", "/etc/nginx/conf.d/x.conf")
    book.write_text(json.dumps({"format": 1, "files": dict.fromkeys(ours, "link:x")}), encoding="utf-8")
    (line,) = _host_check.left_behind(WANTED, Host(root=tmp_path).look(WANTED, is_root=True))
    assert line.startswith("shop is on this host and no longer among its applications: it stays as it is")
    other = replace(WANTED, sites=())
    assert _host_check.left_behind(other, Host(root=tmp_path).look(other, is_root=True)) == (), "nobody asked for sites"
