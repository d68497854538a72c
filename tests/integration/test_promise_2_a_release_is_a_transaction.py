"""Promise 2: whatever dies at whatever moment, every request is answered by one whole release, and recovery heals."""

from __future__ import annotations

import json
import shlex
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from backstay_lab.scene import APPLICATION, Scene
from strikes import STATE, Strike, carry_out, failpoint, ids, next_run_ends_where_asked, sample

from ansible_collections.backstay.ops.plugins.module_utils._version import PROTOCOL


def say(scene: Scene, message: dict[str, object]) -> dict[str, object]:
    """One command to the transaction's service, spoken by a client of our own; its last answer."""
    line = json.dumps({"protocol": PROTOCOL, **message})
    program = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        f"s.connect('/run/backstay/{APPLICATION}.sock')\n"
        "s.sendall(sys.argv[1].encode() + b'\\n')\n"
        "print(s.makefile().readlines()[-1])\n"
    )
    done = scene.lab.ssh("app1", f"python3 -c {shlex.quote(program)} {shlex.quote(line)}")
    return dict(json.loads(done.stdout))


# `make chaos` strikes everywhere; here some of all strikes, the same ones every time.
SAMPLE = sample(5, seed=20261121)


@pytest.mark.parametrize("strike", SAMPLE, ids=ids(SAMPLE))
def test_whatever_dies_at_a_step_one_whole_release_answers_and_recovery_heals(standing: Scene, strike: Strike) -> None:
    carry_out(standing, strike)
    next_run_ends_where_asked(standing)


def test_a_release_that_nobody_confirms_flips_back_by_itself(standing: Scene) -> None:
    before = standing.status()["live"]["id"]
    begin = {"command": "begin", "confirm_seconds": 8, "request": {"operation": "release", "again": True}}
    assert say(standing, begin)["ok"]
    flipped = say(standing, {"command": "flip"})
    assert flipped["ok"], flipped
    assert standing.status()["live"]["id"] == flipped["release"] != before
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline and standing.status()["live"]["id"] != before:
        time.sleep(0.3)
    status = standing.settled()
    assert status["live"]["id"] == before
    assert "deadline" in status["last_failed"]["reason"]


def test_two_releases_at_once_end_as_one_after_the_other_or_one_refused(standing: Scene) -> None:
    before = standing.status()["live"]["id"]
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: standing.release(check=False, again=True), range(2)))
    standing.settled()
    live = standing.status()["live"]["id"]
    refused = [played for played in both if not played.ok]
    assert len(refused) <= 1, "\n".join(played.output for played in both)
    assert live != before
    for played in refused:
        assert "Another transaction of audit-portal is open" in played.output.replace("\n", " "), played.output


def test_a_backstay_of_another_protocol_is_refused_before_anything_is_touched(standing: Scene) -> None:
    before = standing.lab.ssh("app1", f"cat {STATE}/ledger.jsonl | wc -l").stdout
    answer = say(standing, {"command": "begin", "request": {"operation": "rollback"}, "protocol": 0})
    assert not answer["ok"]
    assert f"speaks protocol {PROTOCOL} and the caller 0" in answer["message"]
    assert standing.lab.ssh("app1", f"cat {STATE}/ledger.jsonl | wc -l").stdout == before


def test_a_damaged_payload_is_refused_before_anything_is_touched(standing: Scene) -> None:
    status = standing.status()
    payload = f"{STATE}/artifacts/{status['live']['payload']}.tar"
    standing.lab.ssh(
        "app1",
        f"cp {payload} /root/payload.tar && printf 'x' | dd of={payload} bs=1 seek=100000 conv=notrunc status=none",
    )
    try:
        refused = standing.backstay("release", "--json", "--again", APPLICATION, check=False)
    finally:
        standing.lab.ssh("app1", f"cp /root/payload.tar {payload}")
    assert not refused["ok"]
    assert "damaged" in refused["message"], refused
    assert [release["id"] for release in standing.status()["releases"]] == [
        release["id"] for release in status["releases"]
    ]


def test_an_unknown_version_is_refused_on_the_controller_with_what_there_is(standing: Scene) -> None:
    refused = standing.release("9.9.9", check=False)
    assert not refused.ok
    told = refused.output.replace("\n", " ")
    assert "There is no payload of audit-portal 9.9.9" in told, refused.output
    assert "built so far: " in told


def test_a_reboot_brings_the_live_and_the_warm_release_back(standing: Scene) -> None:
    before = standing.status()
    standing.lab.reboot("app1")
    deadline = time.monotonic() + 60
    after = standing.status()
    while time.monotonic() < deadline and not (
        after["warm_running"] and set(after["processes"].values()) == {"active"}
    ):
        time.sleep(0.5)
        after = standing.status()
    assert after["live"] == before["live"]
    assert after["warm"] == before["warm"]
    assert after["warm_running"]
    assert set(after["processes"].values()) == {"active"}, after["processes"]
    result = standing.backstay("rollback", "--json", APPLICATION)
    assert result["release"] == before["warm"]["id"]


def test_a_host_killed_in_the_middle_of_a_release_comes_back_on_one_whole_release(standing: Scene) -> None:
    before = standing.status()
    with failpoint(standing, "verify:begin:STOP"), ThreadPoolExecutor(1) as pool:
        release = pool.submit(standing.release, check=False, again=True, why="the host dies")
        deadline = time.monotonic() + 60
        while (
            time.monotonic() < deadline
            and '"verify"' not in standing.lab.exec("app1", "cat", f"{STATE}/journal.jsonl", check=False).stdout
        ):
            time.sleep(0.2)
        standing.lab.kill("app1")
        standing.lab.start("app1")
        played = release.result()
    after = standing.settled()
    assert not played.ok
    assert after["live"]["id"] == before["live"]["id"]
    assert "died" in after["last_failed"]["reason"], after["last_failed"]


@pytest.mark.parametrize("protocol", [PROTOCOL - 1, PROTOCOL + 1], ids=["older", "newer"])
def test_an_older_or_newer_backstay_on_the_host_is_refused_before_anything_is_declared_and_site_mends_it(
    standing: Scene, protocol: int
) -> None:
    version = "/usr/lib/backstay/current/backstay/_version.py"
    declared = f"/etc/backstay/{APPLICATION}/application.json"
    before = standing.lab.ssh("app1", f"sha256sum {declared} {STATE}/ledger.jsonl").stdout
    compiled = "python3 -m compileall -q -f --invalidation-mode unchecked-hash"
    standing.lab.ssh("app1", f"sed -i 's/^PROTOCOL = .*/PROTOCOL = {protocol}/' {version} && {compiled} {version}")
    try:
        standing.declare(environment={"values": {"PORTAL_BANNER": "of another time"}})
        refused = standing.release(check=False)
        told = " ".join(refused.output.split())
        assert not refused.ok
        assert f"The backstay on this host speaks protocol {protocol} and the caller {PROTOCOL}" in told, refused.output
        assert "site.yml" in told, refused.output
        assert standing.lab.ssh("app1", f"sha256sum {declared} {STATE}/ledger.jsonl").stdout == before
        assert standing.get("/").status == 200
    finally:
        standing.declare()
        standing.play("site")
    standing.release(again=True, why="of one protocol again")
    standing.settled()


@pytest.mark.parametrize("offset", ["-10m", "+10m"])
def test_a_clock_that_is_ten_minutes_off_misleads_nobody(standing: Scene, offset: str) -> None:
    """Only the service's own clock: a host has no way to set the machine's."""
    standing.lab.ssh("app1", "apt-get install -q -y libfaketime >/dev/null", timeout_seconds=300.0)
    library = standing.lab.ssh("app1", "ls /usr/lib/*/faketime/libfaketimeMT.so.1").stdout.strip()
    directory = f"/run/systemd/system/backstay-transaction@{APPLICATION}.service.d"
    settings = f"LD_PRELOAD={library} FAKETIME={offset} DONT_FAKE_MONOTONIC=1 FAKETIME_ONLY_CMDS=python3"
    before = standing.status()["live"]["id"]
    standing.lab.ssh(
        "app1",
        f"mkdir -p {directory} && printf '[Service]\\nEnvironment={settings}\\n' > {directory}/clock.conf "
        f"&& systemctl daemon-reload && systemctl stop backstay-transaction@{APPLICATION}.service",
    )
    try:
        with standing.load(rate=20.0) as load:
            released = standing.backstay("release", "--json", "--again", APPLICATION)
            standing.settled()
            back = standing.backstay("rollback", "--json", APPLICATION)
            standing.settled()
            result = load.stop()
    finally:
        standing.lab.ssh("app1", f"rm -rf {directory} && systemctl daemon-reload")
        standing.lab.ssh("app1", f"systemctl stop backstay-transaction@{APPLICATION}.service")
    assert result.failed == 0, result.failures
    assert released["live"] != before
    assert back["live"] == before
    assert standing.backstay("history", "--verify", "--json", APPLICATION)["ledger"] == "sound"
    after = standing.backstay("release", "--json", "--again", APPLICATION)
    assert after["previous"] == before
    assert standing.settled()["live"]["id"] == after["release"]


@pytest.mark.long
def test_a_slow_host_releases_and_goes_back_slowly_and_whole(standing: Scene) -> None:
    """A quarter of a core and a narrow cable: everything takes its time, and nothing is left half done for it."""
    before = standing.settled()["live"]["id"]
    standing.lab.slow("app1")
    try:
        standing.release(again=True, why="on a slow host")
        released = standing.live()
        standing.rollback()
        back = standing.live()
    finally:
        standing.lab.quick("app1")
    assert released != before
    assert back == before
    status = standing.settled()
    assert status["live"]["id"] == before
    assert standing.get("/").release == before
    assert standing.backstay("history", "--verify", "--json", APPLICATION)["ledger"] == "sound"
