"""Logs are moved away under whoever writes them, and no line is lost."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable

from testinfra.host import Host

Play = Callable[..., "subprocess.CompletedProcess[str]"]

WRITERS, ROTATIONS = 3, 6
# As gunicorn, its workers and the application write: several processes, one file, the application's umask. Each writes
# until it is told to stop, and says then how many lines it wrote.
WRITER = """
import logging.handlers, os, signal, sys, time
os.umask(0o027)
told = []
signal.signal(signal.SIGTERM, lambda *_ignored: told.append("stop"))
log = logging.getLogger("load")
log.setLevel("INFO")
log.addHandler(logging.handlers.WatchedFileHandler("/var/log/harbour/load.log", delay=True))
number = 0
while not told:
    log.info("%s-%d", sys.argv[1], number)
    number += 1
    time.sleep(0.001)
print(sys.argv[1], number, flush=True)
"""
# Rotates under them, on the host itself; pkill ends with an error where a writer was gone or another process by then.
ROTATE = f"""
set -e
rm -f /var/log/harbour/load.log*
for name in $(seq {WRITERS}); do
    runuser --user harbour --group harbour -- python3 /tmp/writer.py writer$name > /tmp/writer$name & pids="$pids $!"
done
until test -s /var/log/harbour/load.log; do sleep 0.1; done
for turn in $(seq {ROTATIONS}); do sleep 0.7; logrotate --force /etc/logrotate.d/backstay; done
sleep 0.7
for pid in $pids; do pkill --parent $pid --full /tmp/writer.py; done
wait
cat /tmp/writer[0-9]*
"""


def test_no_line_is_lost_and_no_process_is_told(host: Host) -> None:
    host.run(f"cat > /tmp/writer.py <<'END'\n{WRITER}\nEND")
    host.run(f"cat > /tmp/rotate.sh <<'END'\n{ROTATE}\nEND")
    done = host.run("bash /tmp/rotate.sh")
    assert done.rc == 0, done.stderr
    counted = {name: int(count) for name, count in (line.split() for line in done.stdout.splitlines())}
    assert len(counted) == WRITERS, "each writer lived from the first rotation to after the last"
    written = {f"{name}-{number}" for name, count in counted.items() for number in range(count)}
    assert len(written) > 500, "too few lines were written to show anything"
    read = host.run("zcat --force /var/log/harbour/load.log*").stdout.split()
    missing = written - set(read)
    assert not missing, f"{len(missing)} of {len(written)} lines are lost, such as {sorted(missing)[:3]}"
    assert len(read) == len(written), "and none is there twice"
    files = host.run("ls /var/log/harbour | grep --count '^load.log'").stdout
    assert int(files) == ROTATIONS + 1


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
    refused = play("logrotate")
    host.run("rm /etc/logrotate.d/another")
    assert refused.returncode != 0
    assert "duplicate log entry" in refused.stdout
    assert "# altered" in host.file("/etc/logrotate.d/backstay").content_string, "what was there is there"
    assert play("logrotate").returncode == 0
