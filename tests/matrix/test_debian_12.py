"""Debian 12 (Python 3.11, systemd 252) as application server and build host."""

from __future__ import annotations

from pathlib import Path

from backstay_lab.scene import Scene

from tests.matrix.stage import Controller, Step, changed


def test_it_is_debian_12(bookworm: Scene) -> None:
    for host in ("app1", "build1"):
        assert 'VERSION_ID="12"' in bookworm.lab.ssh(host, "cat /etc/os-release").stdout


def test_a_second_site_changes_nothing(bookworm: Scene, step: Step) -> None:
    with step("Debian 12: site.yml again"):
        played = bookworm.play("site")
    assert changed(played.output) == {"app1": 0, "build1": 0}, played.output


def test_release_and_rollback_under_load(bookworm: Scene, step: Step) -> None:
    with step("Debian 12: release 1.0.0"):
        bookworm.release("1.0.0", why="the first")
    first = bookworm.settled()["live"]
    assert first["version"] == "1.0.0"
    bookworm.manage("seed", "--audits", "10000")
    with bookworm.load(rate=30.0) as load:
        with step("Debian 12: release 1.1.0 under load"):
            bookworm.release("1.1.0", why="the second")
        assert bookworm.status()["live"]["version"] == "1.1.0"
        with step("Debian 12: roll back"):
            bookworm.rollback(why="the matrix")
        result = load.stop()
    assert bookworm.live() == first["id"]
    assert result.requests > 100
    assert result.failed == 0, result.failures
    assert bookworm.missing_writes([write.token for write in result.writes]) == []
    assert len(result.by_release) >= 2, result.by_release


def test_a_second_release_of_what_is_live_changes_nothing(bookworm: Scene, step: Step) -> None:
    live = bookworm.settled()["live"]
    with step("Debian 12: release what is live"):
        played = bookworm.release(live["version"])
    assert changed(played.output) == {"app1": 0}, played.output
    assert bookworm.live() == live["id"]


def test_after_a_reboot_the_live_release_answers(bookworm: Scene, step: Step) -> None:
    before = bookworm.settled()
    with step("Debian 12: reboot app1"):
        bookworm.lab.reboot("app1")
        after = bookworm.settled()
    assert (after["live"]["id"], after["warm"]) == (before["live"]["id"], before["warm"])
    with bookworm.load("--requests", "50", rate=30.0) as load:
        result = load.wait()
    assert result.failed == 0, result.failures


def test_a_payload_for_debian_13_is_refused_in_a_sentence(
    bookworm: Scene, controller: Controller, newer_payloads: Path
) -> None:
    before = bookworm.settled()["live"]["id"]
    refused = bookworm.release("1.1.0", check=False, backstay_artifacts=str(newer_payloads))
    assert not refused.ok
    said = " ".join(refused.output.split())
    assert "was built for the operating system debian-13 and this host has debian-12" in said, refused.output
    assert "Traceback" not in said
    assert bookworm.settled()["live"]["id"] == before
