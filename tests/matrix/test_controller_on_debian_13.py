"""A newcomer's Debian 13 as the controller: Python 3.13, and the newest ansible-core that the pins name."""

from __future__ import annotations

import re

from tests.matrix.stage import CHECKOUT_THERE, Controller, Step, changed


def test_setup_gave_it_the_newer_ansible_core(controller: Controller) -> None:
    said = controller.run(".venv/bin/ansible --version")
    assert re.match(r"ansible \[core 2\.21\.\d+", said), said
    assert "python version = 3.13." in said


def test_setup_again_does_nothing(controller: Controller) -> None:
    assert "making .venv" not in controller.run("make setup")


def test_site_twice_and_the_second_changes_nothing(controller: Controller, step: Step) -> None:
    with step("controller: site.yml"):
        first = controller.play("site")
    assert changed(first)["app1"] > 0, first
    assert "DEPRECATION WARNING" not in first, first
    with step("controller: site.yml again"):
        second = controller.play("site")
    assert changed(second) == {"app1": 0, "build1": 0}, second


def test_build_release_and_rollback_under_load(controller: Controller, step: Step) -> None:
    scene = controller.scene
    for version in ("1.0.0", "1.1.0"):
        with step(f"controller: build {version}"):
            controller.play("build", version=version)
    with step("controller: release 1.0.0"):
        controller.play("release", version="1.0.0")
    scene.manage("seed", "--audits", "10000")
    with scene.load(rate=30.0) as load:
        with step("controller: release 1.1.0 under load"):
            said = controller.play("release", version="1.1.0")
        assert "DEPRECATION WARNING" not in said, said
        assert scene.status()["live"]["version"] == "1.1.0"
        with step("controller: roll back"):
            controller.play("rollback")
        result = load.stop()
    assert scene.settled()["live"]["version"] == "1.0.0"
    assert result.requests > 100
    assert result.failed == 0, result.failures


def test_health_is_asked_from_there_too(controller: Controller) -> None:
    address = controller.scene.address()
    ca = f"{CHECKOUT_THERE}/.lab/{controller.scene.name}/ca/ca.crt"
    said = controller.play("health", from_here=True, ca_file=ca, address=address)
    assert "front door" in said
    assert changed(said)["app1"] == 0


def test_a_failure_is_told_in_a_sentence_there_too(controller: Controller) -> None:
    values = '{"lab": "matrix13", "version": "7.7.7"}'
    said = controller.run(
        f".venv/bin/ansible-playbook playbooks/release.yml -i inventories/example -e '{values}'", check=False
    )
    assert "There is no payload of audit-portal 7.7.7" in " ".join(said.split()), said
    assert "Traceback" not in said
