"""A host may carry several applications: they can neither disturb nor read one another."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
import yaml
from backstay_lab.layout import CHECKOUT
from backstay_lab.scene import APPLICATION, Scene

SECOND = "second-portal"
BOTH = [APPLICATION, SECOND]


@pytest.fixture(scope="module")
def both(scene: Scene) -> Iterator[Scene]:
    """The host with a second application beside the first, released once while visitors are at the first."""
    scene.backstay("recover", APPLICATION, check=False)
    file = CHECKOUT / "inventories" / "example" / "applications" / f"{APPLICATION}.yml"
    described: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    described.pop("backup")  # the first one's repository is no other application's
    described.pop("schedules")  # and without a proven backup nothing may be deleted for good
    described |= {"name": SECOND, "domain": "second.lab.test", "aliases": []}
    described["source"]["repository"] = str(CHECKOUT / ".lab" / "portal.git")
    described["environment"] = {
        "values": {
            "ALLOWED_HOSTS": "second.lab.test",
            "SECRET_KEY": "a key for tests only, known to everybody 0123456789 abcdefghij",
        },
        "required": ["SECRET_KEY", "ALLOWED_HOSTS"],
    }
    scene.declare()
    beside = scene.directory / "inventory" / "applications" / f"{SECOND}.yml"
    beside.write_text(yaml.safe_dump(described), encoding="utf-8")
    with scene.load(rate=20.0) as load:
        scene.play("site", backstay_applications=BOTH)
        scene.play("build", backstay_applications=BOTH, app=SECOND, version="1.0.0")
        scene.play("release", backstay_applications=BOTH, app=SECOND, version="1.0.0")
        scene.unharmed = load.stop()  # type: ignore[attr-defined]  # what the first application's visitors saw
    yield scene
    beside.unlink()


def test_the_first_application_is_untouched_by_the_arrival_of_the_second(both: Scene) -> None:
    result = both.unharmed  # type: ignore[attr-defined]  # set by the fixture
    assert result.requests > 100
    assert result.failed == 0, result.failures


def test_the_second_application_is_untouched_by_a_release_a_rollback_and_a_refusal_of_the_first(
    both: Scene, tmp_path: Path
) -> None:
    profile = tmp_path / "profile.json"  # it has no audits
    profile.write_text(json.dumps({"reads": ["/", "/healthz/"], "write_share": 0.0}), encoding="utf-8")
    before, second = both.live(), both.backstay("status", "--json", SECOND, check=False)["live"]["id"]
    with both.load(*("--url", "https://second.lab.test", "--profile", str(profile), "--slow", "0"), rate=20.0) as load:
        both.release(again=True, why="beside the second")
        both.rollback(why="beside the second")
        assert not both.release("1.2.0", check=False, why="sick, beside the second").ok
        result = load.stop()
    assert both.settled()["live"]["id"] == before
    assert result.requests > 100
    assert (result.failed, result.closed_keepalive) == (0, 0), result.failures
    assert set(result.by_release) <= {second, "-"}, "another release answered than its own"


def test_both_answer_under_their_own_names(both: Scene) -> None:
    ids = {name: both.get("/healthz/", name=name).release for name in ("portal.lab.test", "second.lab.test")}
    assert ids["portal.lab.test"] == both.status()["live"]["id"]
    second = both.backstay("status", "--json", SECOND, check=False)["live"]["id"]
    assert second == "0001-1.0.0"
    assert ids["second.lab.test"] == second


@pytest.mark.parametrize(
    "attempt",
    [
        f"python3 -c \"import socket; socket.socket(socket.AF_UNIX).connect('/opt/{APPLICATION}/active')\"",
        f"ls /opt/{APPLICATION}/data/",
        f"cat /opt/{APPLICATION}/data/db/portal.sqlite3",
        f"ls /opt/{APPLICATION}/releases/*/code",
        f"ls /etc/backstay/{APPLICATION}",
        f"ls /var/lib/backstay/{APPLICATION}",
        f"cat /var/log/{APPLICATION}/*.log",
        "cat /proc/$(pgrep -u audit-portal -o)/environ",
    ],
)
def test_one_application_cannot_read_or_reach_the_other(both: Scene, attempt: str) -> None:
    as_the_second = f"setpriv --reuid={SECOND} --regid={SECOND} --clear-groups sh -c {shlex.quote(attempt)}"
    tried = both.lab.ssh("app1", as_the_second, check=False)
    assert not tried.ok, f"{SECOND} could: {tried.stdout[:200]}"


def test_with_nothing_to_roll_back_to_that_is_what_it_says(both: Scene) -> None:
    refused = both.backstay("rollback", "--json", SECOND, check=False)
    assert "There is nothing to roll back to: 0001-1.0.0 is live" in refused["message"]


def test_the_name_may_not_be_left_out_where_there_are_two(both: Scene) -> None:
    asked = both.backstay("history", "--json", check=False)
    assert "Name the application; on this host there is: audit-portal, second-portal." in asked["message"]


def test_a_reboot_brings_back_what_each_of_them_served(both: Scene) -> None:
    names = ("portal.lab.test", "second.lab.test")
    before = [both.get("/healthz/", name=name).release for name in names]
    assert all(before)
    both.lab.reboot("app1")
    deadline = time.monotonic() + 60
    while (after := served(both, names)) != before and time.monotonic() < deadline:
        time.sleep(0.5)
    assert after == before


def served(scene: Scene, names: Sequence[str]) -> list[str]:
    """The release that answers under each name; nothing, as long as the door is closed."""
    found = []
    for name in names:
        try:
            found.append(scene.get("/healthz/", name=name).release)
        except (OSError, HTTPException):
            found.append("")
    return found
