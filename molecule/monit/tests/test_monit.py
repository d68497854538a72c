"""A host that watches itself: what hangs is restarted and told of, what a transaction owns is left alone."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

HERE = Path(__file__).parent
RELAY = HERE.parent.parent / "mail" / "tests" / "relay.py"
ROOM, INBOX = "/var/tmp/watched", "/var/tmp/watched/inbox"
UNIT = "lighthouse-0001-1.0.0-web.service"
SOCKET = "/run/lighthouse/0001-1.0.0/web.sock"
JOURNAL = "/var/lib/backstay/lighthouse/journal.jsonl"
HOUSE = "/var/lib/backstay/.host"
SAMPLES = f"{HOUSE}/samples"
WEB_UNIT = f"""[Service]
ExecStartPre=install -d -o lighthouse -g www-data -m 2710 /run/lighthouse /run/lighthouse/0001-1.0.0
ExecStart=python3 {ROOM}/web.py {SOCKET}
TimeoutStopSec=3
Restart=always
"""


def place(host: Host, path: str, content: bytes) -> None:
    done = host.run("sh -c %s", f"echo {base64.b64encode(content).decode()} | base64 -d > {path}")
    assert done.rc == 0, done.stderr


def does(host: Host, command: str) -> str:
    done = host.run("sh -c %s", command)
    assert done.rc == 0, f"{command}: {done.stdout}{done.stderr}"
    return str(done.stdout).strip()


@pytest.fixture(scope="module", autouse=True)
def live(host: Host) -> Iterator[None]:
    """A release that answers, and a relay that takes mail."""
    does(host, f"install -d {ROOM}")
    place(host, f"{ROOM}/web.py", (HERE / "web.py").read_bytes())
    place(host, f"{ROOM}/relay.py", RELAY.read_bytes())
    place(host, f"/etc/systemd/system/{UNIT}", WEB_UNIT.encode())
    does(host, f"systemctl daemon-reload && systemctl restart {UNIT}")
    does(host, f"systemd-run --quiet --collect --unit=relay python3 {ROOM}/relay.py 2465 {INBOX}")
    does(host, f"ln -sfn {SOCKET} /opt/lighthouse/active")
    becomes(lambda: host.run("backstay watch-check lighthouse").rc == 0, 20, "the application answers")
    yield
    does(host, f"systemctl stop relay {UNIT} && rm -f /opt/lighthouse/active")


@pytest.fixture(autouse=True)
def fresh(host: Host) -> Iterator[None]:
    """Each test may restart three times again, and leaves nothing that hangs. The timer's look may have seen what hung
    in the test before: it ends, and its mail has arrived, before its traces are removed."""
    does(host, "systemctl stop backstay-observe.service")
    on_its_way = "find /var/spool/nullmailer/queue -type f"
    becomes(lambda: not does(host, on_its_way), 90, "what was sent before has arrived")
    does(host, f"rm -f {INBOX}/* {HOUSE}/healed.json {HOUSE}/incidents.json {HOUSE}/outbox/* {SAMPLES}/*")
    yield
    does(host, f"rm -f {JOURNAL} {ROOM}/unwell {ROOM}/hung")
    becomes(lambda: host.run("backstay watch-check lighthouse").rc == 0, 60, "the application answers again")


def becomes(good: Callable[[], Any], seconds: float, what: str, seen: Callable[[], object] = lambda: "") -> None:
    deadline = time.monotonic() + seconds
    while not good():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s {seen()}"
        time.sleep(0.5)


def pid(host: Host, unit: str) -> int:
    return int(does(host, f"systemctl show --value -p MainPID {unit}"))


def look(host: Host) -> dict[str, Any]:
    """What the timer does each minute."""
    deadline = time.monotonic() + 30
    while True:
        done = host.run("backstay observe --json")
        if done.rc != 4 or time.monotonic() > deadline:
            found: dict[str, Any] = json.loads(done.stdout)
            return found


def subjects(host: Host) -> list[str]:
    text = host.run(f"sh -c 'cat {INBOX}/*.json 2>/dev/null'").stdout
    return [line.split("\\")[0] for line in text.split("Subject: ")[1:]]


def told(host: Host) -> list[str]:
    """What began and what is over, without what was restarted."""
    return [subject for subject in subjects(host) if subject.startswith("[")]


def test_a_web_process_that_hangs_is_restarted(host: Host) -> None:
    before = pid(host, UNIT)
    does(host, f"kill -STOP {before}")
    becomes(lambda: pid(host, UNIT) not in (0, before), 90, "another process serves")
    healed = json.loads(does(host, "cat /var/lib/backstay/.host/healed.json"))["restarts"]["lighthouse"]
    assert [row["unit"] for row in healed] == [UNIT]


def test_an_nginx_that_hangs_is_restarted_and_the_release_is_not(host: Host) -> None:
    before, release = pid(host, "nginx.service"), pid(host, UNIT)
    does(host, "pkill -STOP -x nginx")
    becomes(lambda: pid(host, "nginx.service") not in (0, before), 90, "another nginx serves")
    assert pid(host, UNIT) == release


def test_what_a_transaction_owns_is_left_alone(host: Host) -> None:
    before = pid(host, UNIT)
    place(host, JOURNAL, b"")
    does(host, f"kill -STOP {before}")
    assert "left alone" in does(host, "backstay heal lighthouse")
    time.sleep(12)  # four cycles of monit
    assert pid(host, UNIT) == before, "nobody restarted it"
    assert look(host)["told"] == 0
    assert subjects(host) == []
    does(host, f"rm {JOURNAL}")
    becomes(lambda: pid(host, UNIT) not in (0, before), 90, "it is restarted when the transaction has ended")


def test_what_says_itself_that_it_is_not_well_is_told_of_and_not_restarted(host: Host) -> None:
    before, front = pid(host, UNIT), pid(host, "nginx.service")
    said = f"journalctl --quiet --no-pager -o cat -u backstay-heal@lighthouse.service --since=@{does(host, 'date +%s')}"
    does(host, f"touch {ROOM}/unwell")
    look(host)
    assert "a restart would mend nothing: /healthz/ answered 503" in does(host, "backstay heal lighthouse")
    becomes(lambda: "a restart would mend nothing" in does(host, said), 60, "monit had it looked at")
    assert (pid(host, UNIT), pid(host, "nginx.service")) == (before, front), "nobody restarted it"
    assert host.run(f"ls {HOUSE}/healed.json").rc != 0
    becomes(lambda: len(told(host)) == 1, 20, f"the message arrived: {told(host)}")
    assert "answered 503" in told(host)[0], told(host)


def test_what_stays_hung_is_told_once_and_restarted_three_times_at_most(host: Host) -> None:
    does(host, f"touch {ROOM}/hung")
    look(host)
    becomes(lambda: host.run("backstay heal lighthouse").rc == 3, 240, "it is given up")
    healed = json.loads(does(host, "cat /var/lib/backstay/.host/healed.json"))["restarts"]["lighthouse"]
    assert len(healed) == 3, healed
    does(host, "systemctl start backstay-heal@lighthouse.service")  # as monit does; a failed unit would be told, too
    look(host)
    becomes(lambda: len(told(host)) == 2, 20, f"both messages arrived: {told(host)}")
    assert sorted("still hangs" in subject for subject in told(host)) == [False, True], told(host)
    assert host.run("backstay incidents").rc == 1
    does(host, f"rm {ROOM}/hung")
    becomes(lambda: host.run("backstay watch-check lighthouse").rc == 0, 20, "it answers well")

    def over() -> bool:
        # Instead of the two minutes that it must be well; again, as the timer's look may have begun while it was not.
        does(host, f"rm -f {SAMPLES}/*")
        look(host)
        look(host)
        return len(told(host)) == 4

    becomes(over, 120, "both are over", lambda: (told(host), host.run("backstay incidents --json").stdout))
    assert sum("[OVER]" in subject for subject in told(host)) == 2, told(host)


def test_whoever_watches_is_watched(host: Host) -> None:
    does(host, f"systemctl stop backstay-observe.timer backstay-observe.service && mv {SAMPLES} {SAMPLES}.away")
    assert host.run("backstay watch-check").rc == 1
    becomes(lambda: host.run("systemctl is-active backstay-observe.timer").rc == 0, 40, "the timer runs again")
    does(host, f"rm -rf {SAMPLES} && mv {SAMPLES}.away {SAMPLES}")


def test_a_message_on_demand_says_who_was_not_reached(host: Host) -> None:
    done = host.run("backstay notify test lighthouse")  # nobody listens at the webhook
    assert done.rc == 1
    assert "sent     ops@example.org" in done.stdout
    assert "connection refused" in done.stdout
    assert "not-to-be-seen" not in done.stdout
    becomes(lambda: len(subjects(host)) == 1, 20, "the mail arrived")


def test_the_watch_is_cheap(host: Host) -> None:
    before = does(host, "cat /proc/$(systemctl show --value -p MainPID monit.service)/status | grep VmRSS")
    assert int(before.split()[1]) < 20_000, f"monit's memory: {before}"
    took = does(
        host,
        'python3 -c \'import resource, subprocess; subprocess.run(["backstay", "observe"], check=False); '
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); print(used.ru_maxrss)'",
    )
    assert int(took.splitlines()[-1]) < 60_000, f"memory of one look, in KiB: {took}"
