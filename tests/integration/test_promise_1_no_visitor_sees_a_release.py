"""Promise 1: no visitor sees a release. Every step under load: nobody fails, nothing acknowledged is lost."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from backstay_lab.load_result import LoadResult
from backstay_lab.scene import APPLICATION, Scene


@contextmanager
def visitors(scene: Scene) -> Iterator[SimpleNamespace]:
    """Visitors of every kind around what the test does; `.result` when they are gone."""
    seen = SimpleNamespace(result=None)
    with scene.load(rate=30.0) as load:
        time.sleep(3.0)
        yield seen
        time.sleep(3.0)
        seen.result = load.stop()


def unharmed(scene: Scene, result: LoadResult) -> None:
    assert result.requests > 200, "there were too few visitors to prove anything"
    assert result.failed == 0, result.failures
    assert result.closed_keepalive == 0, "a kept connection was closed under a client"
    assert result.by_kind["slow"]["requests"] > 0, result.by_kind
    assert scene.missing_writes([write.token for write in result.writes]) == []


@contextmanager
def first_media_file(scene: Scene, name: str, *, owner: str = f"{APPLICATION}:www-data") -> Iterator[None]:
    """A file that sorts before all others, so that the check of one media file through the front door asks for it."""
    path = shlex.quote(f"/opt/{APPLICATION}/data/media/{name}")
    scene.lab.ssh("app1", f"echo uploaded > {path} && chown {owner} {path} && chmod 0640 {path}")
    try:
        yield
    finally:
        scene.lab.ssh("app1", f"rm -f {path}")


def test_release_rollback_and_release_again(at_1_0: Scene) -> None:
    with first_media_file(at_1_0, "0 100% #1?.jpg"), visitors(at_1_0) as seen:
        first = at_1_0.live()
        at_1_0.release("1.1.0")
        second = at_1_0.live()
        at_1_0.rollback()
        assert at_1_0.live() == first
        at_1_0.release("1.1.0")
        third = at_1_0.live()
    assert second != third, "a withdrawn version that is released again is a new id"
    unharmed(at_1_0, seen.result)
    assert set(seen.result.by_release) - {"-"} == {first, second, third}


def test_a_changed_configuration_is_a_release_of_its_own_and_can_be_rolled_back(at_1_1: Scene) -> None:
    before = at_1_1.live()
    with visitors(at_1_1) as seen:
        at_1_1.declare(environment={"values": {"PORTAL_BANNER": "Mind the gap"}})
        at_1_1.release()
        after = at_1_1.live()
        page = at_1_1.get().body
        at_1_1.rollback()
        again = at_1_1.get().body
    at_1_1.declare()
    unharmed(at_1_1, seen.result)
    assert after != before
    assert after is not None
    assert after.endswith("-1.1.0")
    assert "Mind the gap" in page
    assert "Mind the gap" not in again
    assert at_1_1.live() == before


@pytest.mark.parametrize(
    ("version", "reason"), [("1.2.0", "is not well"), ("1.3.0", "died while it was starting")], ids=["sick", "dead"]
)
def test_a_broken_release_is_refused_and_nobody_notices(at_1_1: Scene, version: str, reason: str) -> None:
    before = at_1_1.status()
    with visitors(at_1_1) as seen:
        refused = at_1_1.release(version, check=False)
    after = at_1_1.status()
    unharmed(at_1_1, seen.result)
    assert refused.exit_code != 0
    assert reason in refused.output, refused.output
    assert f"{before['live']['id']} still serves" in refused.output.replace("\n", " "), refused.output
    assert after["live"] == before["live"]
    assert after["warm"] == before["warm"]
    assert after["warm_running"]
    assert after["last_failed"]["version"] == version
    assert after["last_failed"]["reason"]


@pytest.mark.long
def test_what_only_the_front_door_shows_is_seen_after_the_switch_and_taken_back(at_1_1: Scene) -> None:
    """The candidate is well on its own socket; a file that nginx may not read is found where visitors come in."""
    before = at_1_1.status()
    with first_media_file(at_1_1, "0.jpg", owner="root:root"), visitors(at_1_1) as seen:
        refused = at_1_1.release(check=False, again=True)
    after = at_1_1.status()
    unharmed(at_1_1, seen.result)
    assert refused.exit_code != 0
    told = " ".join(refused.output.split())
    assert "The front door does not answer well" in told, refused.output
    assert "403" in told, refused.output
    assert (after["live"], after["warm"]) == (before["live"], before["warm"])


def test_a_renewed_certificate_is_served_without_a_reload_or_a_lost_request(at_1_1: Scene) -> None:
    before = at_1_1.get().certificate
    pids = at_1_1.lab.ssh("app1", "pgrep --exact --euid www-data nginx").stdout
    with visitors(at_1_1) as seen:
        for file in (at_1_1.directory / "certificates" / APPLICATION).iterdir():
            file.unlink()  # what is missing is issued anew, as what is due would be
        at_1_1.play("site")
    assert at_1_1.get().certificate != before
    assert at_1_1.lab.ssh("app1", "pgrep --exact --euid www-data nginx").stdout == pids, "nginx was reloaded"
    unharmed(at_1_1, seen.result)


def test_a_killed_worker_of_the_live_release_is_back_by_itself(at_1_1: Scene) -> None:
    live = at_1_1.live()
    unit = f"audit-portal-{live}-web.service"
    at_1_1.lab.ssh("app1", f"systemctl kill --signal=KILL {unit}")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and at_1_1.get("/healthz/").release != live:
        time.sleep(0.2)
    assert at_1_1.get("/healthz/").release == live
