"""The front door's files: what does not need a host to be seen. What does is in molecule/nginx."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml

Render = Callable[..., str]


def an_application(name: str = "portal", **changed: Any) -> dict[str, Any]:
    return {
        "name": name,
        "domain": f"{name}.test",
        "aliases": [],
        "internal_addresses": ["127.0.0.1"],
        "uploads_max_bytes": 1000,
        "media": "media",
        "health": {"path": "/healthz/"},
        "processes": {"web": {"timeout_seconds": 30.0}},
        **changed,
    }


def door(
    *applications: dict[str, Any], version: str = "13", missing: tuple[str, ...] = (), **changed: Any
) -> dict[str, Any]:
    host = {"system": {"version": version}, "missing_packages": list(missing)}
    return {"__nginx_applications": list(applications), "__nginx_host": host, **changed}


def files(render: Render, **variables: Any) -> dict[str, dict[str, Any]]:
    listed = yaml.safe_load(render("nginx", "files.yml.j2", **variables))
    return {entry["path"]: entry for entry in listed}


def site(render: Render, application: dict[str, Any], **variables: Any) -> str:
    return str(
        files(render, **door(application, **variables))[f"/etc/nginx/sites-available/{application['name']}.conf"][
            "content"
        ]
    )


def test_each_application_has_a_site_that_is_enabled(render: Render) -> None:
    placed = files(render, **door(an_application("portal"), an_application("shop")))
    for name in ("portal", "shop"):
        assert f"server unix:/opt/{name}/active" in placed[f"/etc/nginx/sites-available/{name}.conf"]["content"]
        assert placed[f"/etc/nginx/sites-enabled/{name}.conf"]["target"] == f"../sites-available/{name}.conf"


def test_applications_cannot_share_anything_by_their_names(render: Render) -> None:
    placed = files(render, **door(an_application("audit-portal"), an_application("audit")))
    one = placed["/etc/nginx/sites-available/audit-portal.conf"]["content"]
    assert "$backstay_internal_audit_portal" in one
    assert "/opt/audit/" not in one


@pytest.mark.parametrize(
    ("version", "wanted", "listen", "directive"),
    [
        ("13", True, "listen 443 ssl;", True),
        ("12", True, "listen 443 ssl http2;", False),
        ("13", False, "listen 443 ssl;", False),
    ],
)
def test_http2_is_said_as_each_nginx_understands_it(
    render: Render, version: str, wanted: bool, listen: str, directive: bool
) -> None:
    text = site(render, an_application(), version=version, nginx_http2=wanted)
    assert listen in text
    assert ("http2 on;" in text) is directive


def test_without_ipv6_nothing_listens_on_it(render: Render) -> None:
    placed = files(render, **door(an_application(), nginx_ipv6=False))
    assert "[::]" not in json.dumps(placed)


def test_without_media_nothing_is_served_there(render: Render) -> None:
    assert "/media/" not in site(render, an_application(media=None))


def test_a_form_fits_around_the_largest_upload(render: Render) -> None:
    assert "client_max_body_size 1049576;" in site(render, an_application())


@pytest.mark.parametrize(("timeout", "read"), [(30.0, 60), (120.0, 125)])
def test_nginx_waits_longer_than_the_application_may_take(render: Render, timeout: float, read: int) -> None:
    application = an_application(processes={"web": {"timeout_seconds": timeout}})
    assert f"proxy_read_timeout {read}s;" in site(render, application)


def test_where_another_site_is_the_default_ours_is_not(render: Render) -> None:
    placed = files(render, **door(an_application(), nginx_default_server=False))
    assert "default_server" not in placed["/etc/nginx/conf.d/backstay.conf"]["content"]
    assert "/etc/nginx/sites-enabled/default" not in placed


def test_debians_site_may_be_somebodys_only_where_nginx_was_there_before_this_role(render: Render) -> None:
    """Pages in /var/www/html that another web server shows are in nobody's way."""
    path = "/etc/nginx/sites-enabled/default"
    there = files(render, **door(an_application()))[path]
    assert there == {"path": path, "state": "absent", "serves": "/var/www/html"}
    comes = files(render, **door(an_application(), missing=("nginx",)))[path]
    assert comes == {"path": path, "state": "absent"}


def test_a_client_that_comes_by_address_gets_the_certificate_of_that_address(render: Render) -> None:
    applications = [an_application("portal"), an_application("shop", aliases=["192.0.2.7", "www.shop.test"])]
    text = files(render, **door(*applications))["/etc/nginx/conf.d/backstay.conf"]["content"]
    assert "    192.0.2.7 shop;\n" in text
    assert "    default portal;\n" in text


def test_a_site_has_its_own_certificate_whatever_else_is_declared(render: Render) -> None:
    """So one that is taken from the inventory is not served with that of another."""
    text = site(render, an_application("shop-two"))
    assert '    "" $backstay_address;\n    default shop-two;\n' in text
    assert "ssl_certificate /etc/backstay-tls/$backstay_certificate_shop_two/bundle.pem;" in text


def test_no_key_is_among_the_contents(render: Render) -> None:
    placed = files(render, **door(an_application()))
    bundle = placed["/etc/backstay-tls/portal/bundle.pem"]
    assert (bundle["secret"], bundle["mode"], bundle["reload"]) == (True, "0640", False)
    assert "content" not in bundle


@pytest.mark.parametrize("page", ["maintenance.html.j2", "unavailable.html.j2"])
def test_the_pages_need_nothing_else(render: Render, page: str) -> None:
    text = render("nginx", page)
    assert "<!doctype html>" in text
    for outside in ("http://", "https://", "src=", "<script", "<link"):
        assert outside not in text


def test_an_address_of_ipv6_is_named_as_browsers_send_it_and_health_without_its_query(render: Render) -> None:
    shown = site(render, an_application(aliases=["fd00::1", "192.0.2.1"], health={"path": "/healthz/?full=1"}))
    assert shown.count("server_name portal.test [fd00::1] 192.0.2.1;") == 2
    assert "location = /healthz/ {" in shown
