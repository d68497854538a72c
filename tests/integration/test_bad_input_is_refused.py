"""Bad input stops in one sentence before anything is touched: which key, which file, what to do."""

from __future__ import annotations

from typing import Any

import pytest
from backstay_lab.scene import APPLICATION, Scene


def told(output: str) -> str:
    """The output with its line breaks folded, so that a sentence is found wherever it was broken."""
    return " ".join(output.split())


def ids(status: dict[str, Any]) -> list[str]:
    return [release["id"] for release in status["releases"]]


FILES: list[tuple[str, dict[str, Any], str]] = [
    ("an unknown key", {"domian": "portal.lab.test"}, "unknown key"),
    ("a wrong type", {"uploads_max_bytes": "50M"}, "uploads_max_bytes"),
    ("a required key nobody gives", {"environment": {"required": ["SECRET_KEY", "MAIL_TOKEN"]}}, "MAIL_TOKEN"),
    (
        "a secret that Vault lacks",
        {"environment": {"required": ["API_KEY"], "secret": ["SECRET_KEY", "API_KEY"]}},
        "API_KEY",
    ),
]


@pytest.mark.parametrize(("override", "named"), [row[1:] for row in FILES], ids=[row[0] for row in FILES])
def test_a_wrong_file_is_refused_by_site_and_by_release(standing: Scene, override: dict[str, Any], named: str) -> None:
    before = standing.status()
    standing.declare(**override)
    try:
        for verb in ("site", "release"):
            refused = standing.play(verb, check=False)
            assert not refused.ok, f"{verb} accepted it"
            assert named in told(refused.output), refused.output
            assert "changed=1" not in refused.output
    finally:
        standing.declare()
    assert ids(standing.status()) == ids(before)
    assert not standing.status()["configuration_changed"]


def test_an_application_without_a_file_is_refused_with_where_it_was_looked_for(standing: Scene) -> None:
    refused = standing.play("site", check=False, backstay_applications=["nobody"])
    assert not refused.ok
    assert "nobody" in refused.output
    assert "applications" in refused.output


def test_a_limit_that_leaves_no_host_is_refused(standing: Scene) -> None:
    """An inventory without hosts: tests/unit/playbooks."""
    before = standing.status()
    refused = standing.play("rollback", "--limit", "build1", check=False)
    assert not refused.ok, refused.output
    assert "has no host in app_servers that --limit build1 leaves" in told(refused.output), refused.output
    assert standing.status()["live"]["id"] == before["live"]["id"]


def test_a_candidate_that_does_not_fit_in_memory_is_refused_with_the_way_out(standing: Scene) -> None:
    before = standing.status()
    standing.declare(releases={"free_memory_bytes": 1 << 48})
    try:
        refused = standing.release(check=False)
    finally:
        standing.declare()
    assert not refused.ok
    sentence = told(refused.output)
    assert "do not fit in memory" in sentence, refused.output
    assert "keep_warm=false" in sentence
    assert before["warm"]["id"] in sentence
    assert ids(standing.status()) == ids(before), "nothing was begun"


def test_without_the_warm_release_a_candidate_needs_less_and_the_new_warm_one_runs_after(standing: Scene) -> None:
    before = standing.status()
    standing.release(again=True, keep_warm=False, why="memory is short")
    after = standing.status()
    assert after["live"]["id"] != before["live"]["id"]
    assert after["warm"]["id"] == before["live"]["id"]


def test_a_candidate_that_does_not_fit_on_the_disk_is_refused(standing: Scene) -> None:
    before = standing.status()
    standing.declare(releases={"free_bytes": 1 << 49})
    try:
        refused = standing.release(check=False)
    finally:
        standing.declare()
    assert not refused.ok
    assert "of disk in /opt/" in told(refused.output), refused.output
    assert ids(standing.status()) == ids(before)


def test_a_named_application_that_is_not_there_is_refused(standing: Scene) -> None:
    refused = standing.play("rollback", check=False, app="nobody")
    assert not refused.ok
    assert "There is no application 'nobody' in this inventory; there is: audit-portal" in told(refused.output)
    asked = standing.backstay("status", "nobody", "--json", check=False)
    assert f"there is: {APPLICATION}" in asked["message"]
