"""A host whose application has scheduled commands: by systemd or cron they run, fail, are ended and made up for."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

VARIANTS = Path(__file__).resolve().parent.parent / "variants"
CRON = "/etc/cron.d/backstay-jobs-crane"
JOBS = ("minutely", "nightly", "failing", "slow", "long")
RELEASE = "0001-1.0.0"

Play = Callable[..., "subprocess.CompletedProcess[str]"]

# What a release leaves on a host, as far as a job needs it.
_LIVE = f"""
set -eu
install -d -o root -g crane -m 0750 /opt/crane/releases/{RELEASE}/code
install -d -m 0700 /etc/backstay/crane/releases/{RELEASE}
cp /etc/backstay/crane/application.json /etc/backstay/crane/releases/{RELEASE}/
echo BACKSTAY_RELEASE_ID={RELEASE} > /etc/backstay/crane/releases/{RELEASE}/environment
ln -sfn /run/crane/{RELEASE}/web.sock /opt/crane/active
"""


def another(name: str) -> tuple[str, str]:
    """The inventory in which the application's file says something else."""
    return "-i", str(VARIANTS / name)


@pytest.fixture(scope="module", autouse=True)
def live(host: Host) -> None:
    """The jobs find a release."""
    done = host.run(f"sh -c '{_LIVE}'")
    assert done.rc == 0, done.stderr


def changes(done: subprocess.CompletedProcess[str]) -> int:
    """How many tasks changed something, from the table at the end."""
    found = re.search(r"^molecule-cron +(\d+) +(\d+) ", done.stdout, re.MULTILINE)
    assert found is not None, done.stdout
    return int(found[2])


def fact(host: Host, job: str) -> dict[str, Any]:
    found = json.loads(host.run("backstay jobs --json crane").stdout)["jobs"]
    return next(each for each in found if each["job"] == job)


def eventually(host: Host, job: str, good: Callable[[dict[str, Any]], bool], seconds: float = 75.0) -> dict[str, Any]:
    """What is told of a job as soon as it is so, else at last."""
    deadline = time.monotonic() + seconds
    while True:
        found = fact(host, job)
        if good(found) or time.monotonic() >= deadline:
            return found
        time.sleep(1)


def timer(job: str) -> str:
    return f"backstay-job@crane:{job}.timer"


def shown(host: Host, unit: str, name: str) -> str:
    return str(host.run(f"systemctl show --value -p {name} {unit}").stdout).strip()


def still_there(host: Host) -> str:
    """Processes of the application's commands."""
    return str(host.run("pgrep -u crane -a sleep").stdout).strip()


def missed_since_a_week(host: Host, job: str) -> None:
    """As if the job had been declared long ago, and the host been off."""
    file = "/var/lib/backstay/crane/jobs/declared.json"
    host.run(f'sed -i -E \'s/("{job}":\\{{"since":")[^"]*/\\12026-01-01T00:00:00.000Z/\' {file}')
    assert "2026-01-01" in host.file(file).content_string


def test_units_are_written_without_a_mistake(host: Host) -> None:
    # The templates: systemd-analyze takes a colon in a name for something else.
    units = [f"{template}@.{kind}" for template in ("backstay-job", "backstay-jobs") for kind in ("service", "timer")]
    done = host.run(f"systemd-analyze verify {' '.join(units)}")
    assert (done.rc, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("job", "at"), [("nightly", "*-*-* 03:00:00"), ("failing", "Sun *-*-* 04:30:00"), ("slow", "*-*-01 05:00:00")]
)
def test_each_job_has_a_timer_with_its_own_time_alone(host: Host, job: str, at: str) -> None:
    assert host.service(timer(job)).is_running
    assert host.service(timer(job)).is_enabled
    calendar = shown(host, timer(job), "TimersCalendar")
    assert f"OnCalendar={at}" in calendar
    assert calendar.count("OnCalendar=") == 1


def test_a_job_that_never_ran_is_no_good_news(host: Host) -> None:
    host.run("rm -f /var/lib/backstay/crane/jobs/long.jsonl")
    done = host.run("backstay jobs crane")
    assert done.rc == 1
    assert re.search(r"^long +never ", done.stdout, re.MULTILINE), done.stdout


def test_systemd_runs_a_job_at_its_time_as_the_applications_user_in_the_live_release(host: Host) -> None:
    found = eventually(host, "minutely", lambda seen: bool(seen["state"] == "ok"))
    assert (found["state"], found["exit"]) == ("ok", 0), found
    assert found["lines"][:2] == ["crane", f"in {RELEASE}"]
    assert found["counts"] == {"lifted": 3}


def test_a_person_runs_a_job_at_once(host: Host) -> None:
    done = host.run("backstay job nightly crane")
    assert (done.rc, "counted" in done.stdout) == (0, True), done.stdout + done.stderr
    assert fact(host, "nightly")["state"] == "ok"


def test_a_job_that_fails_has_failed(host: Host) -> None:
    done = host.run("backstay job crane:failing")
    assert done.rc == 1
    assert "exit code 3" in done.stdout
    assert "the hook is open" in done.stdout
    assert fact(host, "failing")["state"] == "failed"


def test_what_takes_too_long_is_ended_as_a_whole(host: Host) -> None:
    done = host.run("backstay job slow crane")
    assert done.rc == 1
    assert "took longer than 3 s" in done.stdout
    assert still_there(host) == ""


@pytest.mark.parametrize("signal", ["KILL", "TERM"])
def test_a_run_that_is_killed_is_a_failure_and_leaves_nothing_behind(host: Host, signal: str) -> None:
    host.run("touch /run/backstay/crane.long.asked; systemctl start --no-block backstay-job@crane:long.service")
    assert eventually(host, "long", lambda seen: bool(seen["state"] == "running"), 20)["state"] == "running"
    again = host.run("backstay job long crane")
    assert (again.rc, "under way" in again.stderr) == (4, True), "two at once are one"
    host.run(f"systemctl kill --kill-whom=main --signal={signal} backstay-job@crane:long.service")
    found = eventually(host, "long", lambda seen: bool(seen["state"] == "failed"), 20)
    assert (found["state"], "killed" in found["why"]) == ("failed", True), found
    deadline = time.monotonic() + 20
    while still_there(host) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert still_there(host) == ""
    assert shown(host, "backstay-job@crane:long.service", "ActiveState") == "failed", "it is not tried again"
    assert host.run("backstay job nightly crane").rc == 0


@pytest.fixture
def impatient(host: Host) -> Iterator[None]:
    """What is busy is tried again after seconds, not after a minute."""
    directory = "/run/systemd/system/backstay-job@crane:nightly.service.d"
    host.run(f"mkdir -p {directory}")
    host.run("printf '[Service]\\nRestartSec=2\\n' > " + directory + "/soon.conf; systemctl daemon-reload")
    yield
    host.run(f"rm -r {directory}; systemctl daemon-reload")


@pytest.mark.usefixtures("impatient")
def test_nothing_begins_while_somebody_changes_the_data(host: Host) -> None:
    before = fact(host, "nightly")["last_start"]
    host.run("systemd-run --unit=migration --collect flock /var/lib/backstay/crane/data.lock sleep 40")
    done = host.run("backstay job nightly crane")
    assert done.rc == 4, done.stdout + done.stderr
    assert fact(host, "nightly")["last_start"] == before
    host.run("systemctl stop migration.service")
    found = eventually(host, "nightly", lambda seen: bool(seen["last_start"] != before), 90)
    assert found["last_start"] != before, "it begins by itself when its turn comes"


def test_what_was_missed_is_made_up_for_within_the_hour(host: Host) -> None:
    host.run("rm -f /var/lib/backstay/crane/jobs/nightly.jsonl")
    missed_since_a_week(host, "nightly")
    assert fact(host, "nightly")["state"] == "never"
    done = host.run("systemctl start backstay-jobs@crane.service")
    assert done.rc == 0, done.stderr
    found = eventually(host, "nightly", lambda seen: bool(seen["state"] == "ok"), 20)
    assert found["state"] == "ok", found
    again = host.run("backstay jobs --catch-up crane")
    assert "nightly" not in again.stdout


def test_results_are_roots_alone(host: Host) -> None:
    assert host.file("/var/lib/backstay/crane/jobs/nightly.jsonl").mode == 0o600
    assert host.run("runuser -u crane -- ls /var/lib/backstay/crane/jobs").failed


@pytest.fixture
def by_cron(host: Host, play: Play) -> Iterator[None]:
    """The application's file asks for cron; afterwards for systemd again, and nothing of cron's is left."""
    done = play("--check", "--diff", *another("cron"))
    assert done.returncode == 0, done.stdout
    assert "+0 3 * * * root systemctl start --no-block backstay-job@crane:nightly.service" in done.stdout
    assert not host.file(CRON).exists
    done = play(*another("cron"))
    assert done.returncode == 0, done.stdout
    yield
    done = play()
    assert done.returncode == 0, done.stdout
    assert not host.file(CRON).exists
    assert host.service(timer("nightly")).is_running


@pytest.mark.usefixtures("by_cron")
def test_cron_runs_the_same_jobs_and_exactly_one_of_both_is_active(host: Host, play: Play) -> None:
    assert changes(play(*another("cron"))) == 0, "a second run changes nothing"
    assert not [job for job in JOBS if host.service(timer(job)).is_running or host.service(timer(job)).is_enabled]
    assert host.service("cron").is_running
    assert (host.file(CRON).mode, host.file(CRON).user) == (0o644, "root"), "else cron does not read it"
    before = fact(host, "minutely")["last_start"]
    found = eventually(host, "minutely", lambda seen: bool(seen["last_start"] != before and seen["last_end"]), 130)
    assert found["last_start"] != before, host.run("journalctl --no-pager -n 20 -u cron").stdout
    assert found["state"] == "ok", found


def test_a_timer_that_goes_does_not_strike(host: Host, play: Play) -> None:
    # Once its own time is gone, a timer counts by the template's from when it struck last: 03:00 was since then.
    slow, service = timer("slow"), timer("slow").replace(".timer", ".service")
    host.run(f"touch -d '26 hours ago' /var/lib/systemd/timers/stamp-{slow}; systemctl restart {slow}")
    before = shown(host, service, "InactiveExitTimestampMonotonic")
    done = play(*another("cron"))
    assert done.returncode == 0, done.stdout
    assert not host.service(slow).is_running
    assert shown(host, service, "InactiveExitTimestampMonotonic") == before
    assert play().returncode == 0


def test_a_wrong_time_is_refused_before_anything_is_touched(host: Host, play: Play) -> None:
    look = "find /etc/backstay /etc/cron.d /etc/systemd/system -printf '%p %T@\\n' | sort | sha256sum"
    before = host.run(look).stdout
    done = play(*another("wrong"))
    assert done.returncode != 0
    assert "the step 60" in done.stdout
    assert host.run(look).stdout == before
