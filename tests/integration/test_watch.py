"""After the switch: a release that is worse than the one before goes back by itself and says why; a good one stays."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from backstay_lab.layout import CHECKOUT
from backstay_lab.scene import APPLICATION, Played, Scene

STATE = f"/var/lib/backstay/{APPLICATION}"
VERSION = "1.1.7"
RATE = 25.0
# Healthy until told otherwise by its environment, and always healthy where the gate asks: it fails after the switch,
# under visitors, and nowhere else.
FAULTS = '''"""Faults on request, for tests."""

import os
import random
import signal
import time

FAULT = os.environ.get("PORTAL_FAULT", "")
hoard = []


class FaultMiddleware:
    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        if FAULT == "posts" and request.method == "POST" and random.random() < 0.4:
            raise LookupError(f"no price for finding {random.randint(1, 10**6)}")
        if FAULT == "slow" and request.path == "/":
            time.sleep(2.5)
        if FAULT == "descriptors":
            hoard.extend(open("/dev/null") for _ in range(40))
        if FAULT == "leak":
            hoard.append(bytearray(os.urandom(1 << 20)) * 4)
            if len(hoard) > 25:
                os.kill(os.getppid(), signal.SIGKILL)  # what the kernel does when memory is short
        return self.get_response(request)
'''


AT_START = """
if os.environ.get("PORTAL_FAULT") == "id":
    RELEASE_ID = "0001-0.0.1"
if os.environ.get("PORTAL_FAULT") == "start":
    import time

    time.sleep(8)
"""


def folded(text: str) -> str:
    return " ".join(text.split())


def ledger(scene: Scene, event: str, release: str) -> list[dict[str, Any]]:
    lines = scene.lab.ssh("app1", f"cat {STATE}/ledger.jsonl").stdout.splitlines()
    entries = [json.loads(line) for line in lines]
    return [entry["data"] for entry in entries if (entry["event"], entry["release"]) == (event, release)]


def kinds_on_host(scene: Scene, release: str) -> list[dict[str, Any]]:
    """The kinds of error of a release, as the library on the host finds them."""
    program = (
        "import glob, json, sys\n"
        "sys.path.insert(0, sorted(glob.glob('/usr/lib/backstay/*/'))[-1])\n"
        "from backstay._error_kinds import kinds_since\n"
        "from backstay._layout import Layout\n"
        f"print(json.dumps([k.to_dict() for k in kinds_since(Layout({APPLICATION!r}), sys.argv[1])]))\n"
    )
    return list(json.loads(scene.lab.ssh("app1", f"python3 -c {shlex.quote(program)} {release}").stdout))


@pytest.fixture(scope="module")
def faulty(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The host with a version live that has faults on request, and none requested."""
    tree = tmp_path_factory.mktemp("faulty") / "portal"
    repository = CHECKOUT / ".lab" / "portal.git"
    subprocess.run(["git", "clone", "-q", "-b", "v1.1.0", str(repository), str(tree)], check=True, capture_output=True)
    shutil.rmtree(tree / ".git")
    break_on_request(tree)
    scene.declare(runtime={"checks": []})
    scene.play("build", version=VERSION, source_directory=str(tree), rebuild=True)
    scene.declare()
    scene.backstay("recover", APPLICATION, check=False)
    scene.release(VERSION, why="faults on request, none requested")
    scene.settled()
    yield scene
    scene.declare()
    scene.release("1.1.0", why="without faults")
    scene.settled()
    shutil.rmtree(scene.artifacts / APPLICATION / VERSION)


def break_on_request(tree: Path) -> None:
    (tree / "VERSION").write_text(f"{VERSION}\n", encoding="utf-8")
    changelog = tree / "CHANGELOG.md"
    text = changelog.read_text(encoding="utf-8")
    entry = f"## [{VERSION}] - 2026-11-21\n\n- Faults on request.\n\n"
    changelog.write_text(text.replace("## [1.1.0]", f"{entry}## [1.1.0]"), encoding="utf-8")
    (tree / "portal" / "faults.py").write_text(FAULTS, encoding="utf-8")
    settings = tree / "portal" / "settings.py"
    health = '    "portal.middleware.HealthMiddleware",'
    text = settings.read_text(encoding="utf-8")
    assert health in text
    text = text.replace(health, f'{health}\n    "portal.faults.FaultMiddleware",')
    settings.write_text(text + AT_START, encoding="utf-8")


def release_watched(scene: Scene, fault: str, **watch: Any) -> Played:
    """A configuration release of the same version, with a fault or without one, watched as declared."""
    policy = {"seconds": 20, "least_requests": 30, "slower_seconds": 0.5, **watch}
    values = {"PORTAL_FAULT": fault, "PORTAL_BANNER": f"watched at {time.time():.0f}"}
    scene.declare(environment={"values": values}, releases={"watch": policy})
    try:
        return scene.release(check=False, why=f"fault {fault or 'none'}")
    finally:
        scene.declare()


@pytest.mark.parametrize(
    ("fault", "rate", "reason"),
    [
        ("posts", RATE, "POST /audits/#/findings/"),
        pytest.param("leak", RATE, "the process web ended and was restarted", marks=pytest.mark.long),
        # slow, and not so busy that nobody gets in
        pytest.param("slow", 6.0, "at GET / the 95th percentile", marks=pytest.mark.long),
        pytest.param("descriptors", RATE, "failed", marks=pytest.mark.long),
    ],
)
def test_a_release_that_fails_after_the_switch_goes_back_by_itself_and_says_why(
    faulty: Scene, fault: str, rate: float, reason: str
) -> None:
    before = faulty.settled()["live"]["id"]
    with faulty.load(rate=rate) as load:
        time.sleep(25.0)
        refused = release_watched(faulty, fault, seconds=60, slower_factor=1.5)
        load.stop()
    told = folded(refused.output)
    assert not refused.ok, refused.output
    assert reason in told, refused.output
    after = faulty.settled()
    assert after["live"]["id"] == before
    failed = after["last_failed"]
    assert failed["id"] in told
    assert reason in failed["reason"]
    watched = ledger(faulty, "watched", failed["id"])[-1]["watch"]
    assert watched["outcome"] == "bad"
    assert watched["seconds"] < 60, "it waited to the end although the site was burning"
    assert ledger(faulty, "failed", failed["id"])[-1]["probes"]["requests"] > 0
    assert faulty.get("/").release == before


@pytest.mark.long
def test_a_new_kind_of_error_is_named(faulty: Scene) -> None:
    """The one before did not raise it; digits that differ each time make it no other kind."""
    before = faulty.settled()["live"]["id"]
    with faulty.load(rate=RATE) as load:
        time.sleep(8.0)
        refused = release_watched(faulty, "posts", seconds=40)
        load.stop()
    assert not refused.ok
    failed = faulty.settled()["last_failed"]["id"]
    fresh = ledger(faulty, "watched", failed)[-1]["watch"]["fresh"]
    assert [kind["what"] for kind in fresh] == ["LookupError"], fresh
    assert fresh[0]["where"] == "portal/faults.py:__call__"
    assert fresh[0]["count"] > 1
    seen = kinds_on_host(faulty, failed)
    assert ("front door", "500", "POST /audits/#/findings/") in [
        (kind["source"], kind["what"], kind["example"]) for kind in seen
    ], seen
    assert faulty.live() == before


def test_a_good_release_stays_and_its_numbers_are_kept(faulty: Scene) -> None:
    before = faulty.settled()["live"]["id"]
    with faulty.load(rate=RATE) as load:
        time.sleep(5.0)
        played = release_watched(faulty, "", seconds=12)
        result = load.stop()
    assert played.ok, played.output
    live = faulty.settled()["live"]["id"]
    assert live != before
    assert result.failed == 0, result.failures
    watched = ledger(faulty, "watched", live)[-1]["watch"]
    assert watched["outcome"] == "good", watched
    assert watched["numbers"]["candidate"]["requests"] > 50
    assert kinds_on_host(faulty, live) == []
    probes = ledger(faulty, "live", live)[-1]["probes"]
    assert probes["requests"] > 10
    assert probes["failed"] == 0, probes
    assert 0 < probes["p99_seconds"] < 5


def test_where_nobody_comes_it_is_probed(faulty: Scene) -> None:
    played = release_watched(faulty, "", seconds=10, probe_interval_seconds=0.1)
    assert played.ok, played.output
    watched = ledger(faulty, "watched", faulty.settled()["live"]["id"])[-1]["watch"]
    assert watched["outcome"] == "good", watched
    assert watched["numbers"]["probes"]["requests"] >= 30


@pytest.mark.long
@pytest.mark.parametrize("choice", ["keep", "revert"])
def test_too_little_is_inconclusive_and_does_what_is_declared(faulty: Scene, choice: str) -> None:
    before = faulty.settled()["live"]["id"]
    played = release_watched(faulty, "", seconds=3, least_requests=1000, inconclusive=choice)
    after = faulty.settled()
    assert played.ok == (choice == "keep"), played.output
    if choice == "keep":
        assert after["live"]["id"] != before
        watched = ledger(faulty, "watched", after["live"]["id"])[-1]["watch"]
        assert watched["outcome"] == "inconclusive"
    else:
        assert after["live"]["id"] == before
        assert "too little was seen" in folded(played.output), played.output
        assert "too little was seen" in after["last_failed"]["reason"]


def test_a_release_that_answers_well_under_another_name_is_refused(faulty: Scene) -> None:
    before = faulty.settled()["live"]["id"]
    refused = release_watched(faulty, "id", seconds=0)
    assert not refused.ok
    assert "0001-0.0.1" in folded(refused.output), refused.output
    assert faulty.settled()["live"]["id"] == before
    assert faulty.get("/").release == before


@pytest.mark.long
def test_a_release_that_starts_slowly_is_waited_for_and_nobody_notices(faulty: Scene) -> None:
    before = faulty.settled()["live"]["id"]
    with faulty.load(rate=RATE) as load:
        played = release_watched(faulty, "start", seconds=0)
        result = load.stop()
    assert played.ok, played.output
    assert faulty.settled()["live"]["id"] != before
    assert result.failed == 0, result.failures
