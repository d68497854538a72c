"""Logs are moved away under whoever writes them, and no line is lost."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable

from testinfra.host import Host

Play = Callable[..., "subprocess.CompletedProcess[str]"]

LINES, WRITERS = 2000, 3
# As gunicorn, its workers and the application write: several processes, one file, the application's umask.
WRITER = f"""
import logging.handlers, os, sys, time
os.umask(0o027)
log = logging.getLogger("load")
log.setLevel("INFO")
log.addHandler(logging.handlers.WatchedFileHandler("/var/log/harbour/load.log", delay=True))
for number in range({LINES}):
    log.info("%s-%d", sys.argv[1], number)
    time.sleep(0.001)
"""


def test_no_line_is_lost_and_no_process_is_told(host: Host) -> None:
    host.run("rm -f /var/log/harbour/load.log*")
    host.run(f"cat > /tmp/writer.py <<'END'\n{WRITER}\nEND")
    units = [f"load-{number}" for number in range(WRITERS)]
    for unit in units:
        started = host.run(
            f"systemd-run --quiet --unit={unit} --property=User=harbour --property=RemainAfterExit=yes "
            f"python3 /tmp/writer.py {unit}"
        )
        assert started.rc == 0, started.stderr
    pids = [host.run(f"systemctl show --value -p MainPID {unit}").stdout for unit in units]
    rotated = 0
    while host.run("pgrep --full /tmp/writer.py").rc == 0 and rotated < 8:
        done = host.run("logrotate --force /etc/logrotate.d/backstay")
        assert done.rc == 0, done.stderr
        rotated += 1
        after = [host.run(f"systemctl show --value -p MainPID {unit}").stdout for unit in units]
        assert all(now.strip() in (was.strip(), "0") for was, now in zip(pids, after, strict=True)), "nothing restarted"
    assert rotated >= 3, f"it was rotated {rotated} times while it was written: too few to show anything"
    host.run("while pgrep --full /tmp/writer.py > /dev/null; do sleep 0.2; done")
    read = host.run("zcat --force /var/log/harbour/load.log*").stdout.split()
    missing = {f"{unit}-{number}" for unit in units for number in range(LINES)} - set(read)
    assert not missing, f"{len(missing)} of {LINES * WRITERS} lines are lost, such as {sorted(missing)[:3]}"
    assert len(read) == LINES * WRITERS, "and none is there twice"
    for unit in units:
        host.run(f"systemctl stop {unit}")


def test_what_was_moved_away_is_the_applications_and_compressed_a_day_later(host: Host) -> None:
    listed = host.run("stat --format='%n %U %G %a' /var/log/harbour/load.log*").stdout.splitlines()
    seen = {line.split()[0].rpartition("/")[2]: line.split()[1:] for line in listed}
    assert {"load.log.1", "load.log.2.gz", "load.log.3.gz"} <= seen.keys(), seen
    assert "load.log.1.gz" not in seen, "a line that was on its way may still arrive"
    assert {tuple(owner) for owner in seen.values()} == {("harbour", "adm", "640")}, seen


def test_the_timer_does_it_each_day(host: Host) -> None:
    assert host.service("logrotate.timer").is_enabled
    assert host.service("logrotate.timer").is_running
    done = host.run("systemctl start logrotate.service && systemctl show --value -p Result logrotate.service")
    assert done.stdout.strip() == "success", host.run("journalctl -u logrotate --no-pager -n 20").stdout


def test_the_access_log_is_covered_once_for_14_days(host: Host) -> None:
    host.run("touch /var/log/nginx/harbour.access.log")
    told = host.run("logrotate --debug /etc/logrotate.conf 2>&1").stdout
    assert len(re.findall(r"considering log /var/log/nginx/harbour\.access\.log$", told, re.MULTILINE)) == 1, told
    assert "duplicate log entry" not in told
    for pattern in (r"/var/log/nginx/\*\.log", r"/var/log/harbour/\*\.log"):
        assert re.search(rf"rotating pattern: {pattern} .*\(14 rotations\)", told), told


def test_a_log_that_two_rules_claim_refuses_the_run(host: Host, play: Play) -> None:
    host.run("printf '/var/log/harbour/*.log {\\n  copytruncate\\n}\\n' > /etc/logrotate.d/another")
    host.run("sed -i 's/^# Written by Backstay.$/# altered/' /etc/logrotate.d/backstay")
    refused = play()
    host.run("rm /etc/logrotate.d/another")
    assert refused.returncode != 0
    assert "duplicate log entry" in refused.stdout
    assert "# altered" in host.file("/etc/logrotate.d/backstay").content_string, "what was there is there"
    assert play().returncode == 0
