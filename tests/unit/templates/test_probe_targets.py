"""Whom a probe watches: computed from the inventory, each application of every other host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.backstay.ops.plugins.module_utils._outside import Declared, parse

Render = Callable[..., str]
URL = "https://chat.example.org/hook/secret"


def told(render: Render, here: str = "app2", **changed: Any) -> Declared:
    application = {
        "name": "portal",
        "domain": "portal.example.org",
        "health": {"path": "/up/", "status": 200},
        "objectives": {"uptime": 0.995},
        "alerts": {"mail": ["ops@example.org"], "chat": "CHAT_URL"},
    }
    serving = {"backstay_applications": ["portal"], "backstay_secrets": {"portal": {"CHAT_URL": URL}}}
    variables = {
        "inventory_hostname": here,
        "groups": {"app_servers": ["app1", "app2", "app3"]},
        "hostvars": {
            "app1": {**serving, "ansible_host": "192.0.2.1"},
            "app2": serving,
            "app3": {**serving, "ansible_host": "10.0.0.3", "probe_address": "192.0.2.3"},
        },
        "__probe_applications": {"portal": application},
        **changed,
    }
    return parse(render("probe", "probe.json.j2", **variables).encode(), "probe.json")


def test_every_application_of_every_other_host_is_watched(render: Render) -> None:
    declared = told(render)
    assert [(each.name, each.address) for each in declared.targets] == [
        ("portal@app1", "192.0.2.1"),
        ("portal@app3", "192.0.2.3"),
    ], "not its own, and each at the address that is meant for it"
    first = declared.targets[0]
    assert (first.domain, first.path, first.uptime, first.ca_file) == ("portal.example.org", "/up/", 0.995, None)
    assert (declared.probe, declared.chats) == ("app2", {"portal": URL})
    assert first.alerts is not None
    assert first.alerts.mail == ("ops@example.org",)


def test_an_authority_and_no_trust_are_passed_on(render: Render) -> None:
    declared = told(render, here="build1", probe_ca_certificate="/ca.crt", probe_verify=False)
    assert [each.host for each in declared.targets] == ["app1", "app2", "app3"]
    assert {each.ca_file for each in declared.targets} == {"/etc/backstay/probe-ca.pem"}
    assert {each.verify for each in declared.targets} == {False}


def test_an_inventory_without_application_servers_is_no_error(render: Render) -> None:
    assert told(render, groups={}).targets == ()
