"""A host whose application is backed up to a disk of its own: when, by whom, and what a backup may do there."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from testinfra.host import Host

SECRET = "not-to-be-seen-anywhere"
VARIANTS = Path(__file__).resolve().parent.parent / "variants"
BACKUP, VERIFY = "backstay-backup@pier", "backstay-verify@pier"
CRON = "/etc/cron.d/backstay-backup-pier"
KEY = "/etc/backstay/pier/backup_key"

Play = Callable[..., "subprocess.CompletedProcess[str]"]


def another(name: str) -> tuple[str, str]:
    """The inventory in which the application's file says something else."""
    return "-i", str(VARIANTS / name)


@pytest.fixture
def back_again(play: Play) -> Iterator[None]:
    """Whatever a test changed, the host ends as the inventory says."""
    yield
    assert play().returncode == 0


def changes(done: subprocess.CompletedProcess[str]) -> int:
    """How many tasks changed something, from the table at the end."""
    found = re.search(r"^molecule-backup +(\d+) +(\d+) ", done.stdout, re.MULTILINE)
    assert found is not None, done.stdout
    return int(found[2])


def shown(host: Host, unit: str, name: str) -> str:
    return str(host.run(f"systemctl show --value -p {name} {unit}").stdout).strip()


def test_restic_is_there(host: Host) -> None:
    assert host.run("restic version").succeeded


@pytest.mark.parametrize(("unit", "at"), [(BACKUP, "02:40:00"), (VERIFY, "03:30:00")])
def test_systemd_runs_it_at_its_time_and_makes_up_for_what_was_missed(host: Host, unit: str, at: str) -> None:
    timer = f"{unit}.timer"
    assert host.service(timer).is_running
    assert host.service(timer).is_enabled
    calendar = shown(host, timer, "TimersCalendar")
    assert f"OnCalendar=*-*-* {at}" in calendar
    assert calendar.count("OnCalendar=") == 1, "the template's own time is gone"
    assert shown(host, timer, "Persistent") == "yes"


def test_units_are_written_without_a_mistake(host: Host) -> None:
    done = host.run(f"systemd-analyze verify {BACKUP}.service {VERIFY}.service {BACKUP}.timer {VERIFY}.timer")
    assert (done.rc, done.stdout + done.stderr) == (0, "")


def test_visitors_come_first(host: Host) -> None:
    assert (shown(host, f"{BACKUP}.service", "Nice"), shown(host, f"{BACKUP}.service", "IOSchedulingClass")) == (
        "10",
        "3",
    )


def test_the_key_is_roots_alone_and_stays(host: Host, play: Play) -> None:
    assert (host.file(KEY).mode, host.file(KEY).user) == (0o600, "root")
    before = host.file(KEY).sha256sum
    assert play().returncode == 0
    assert host.file(KEY).sha256sum == before
    assert host.run(f"runuser -u pier -- cat {KEY}").failed


def test_the_repository_is_roots_alone_on_another_disk(host: Host) -> None:
    directory = host.file("/srv/backup/pier")
    assert (directory.is_directory, directory.mode, directory.user) == (True, 0o700, "root")
    assert host.run("stat -c %d /srv/backup/pier").stdout != host.run("stat -c %d /opt/pier/data/").stdout


# Each step of a backup, and of putting one back, in the confinement of the very unit.
_STEPS = """
set -eu
export RESTIC_PASSWORD=of-no-worth RESTIC_REPOSITORY=/srv/backup/pier RESTIC_CACHE_DIR=/var/cache/backstay/pier
mkdir -p -m 0700 /opt/pier/data.d/.backup/media
ln -f /opt/pier/data/media/photo /opt/pier/data.d/.backup/media/photo
setpriv --reuid=pier --regid=pier --init-groups touch /opt/pier/data/db/proof
restic cat config >/dev/null 2>&1 || restic -q init
restic -q backup /opt/pier/data.d/.backup
echo sealed > /var/lib/backstay/pier/proof
rm -f /var/lib/backstay/pier/proof.sig
ssh-keygen -q -Y sign -f /etc/backstay/pier/backup_key -n backstay-manifest /var/lib/backstay/pier/proof
mkdir -p -m 0700 /var/lib/backstay/pier/scratch
restic -q restore latest --target /var/lib/backstay/pier/scratch
install -d -o pier -g www-data -m 2750 /var/lib/backstay/pier/scratch/media
systemd-run --wait --pipe --collect --quiet -p PrivateNetwork=yes true
test ! -w /etc/passwd && test ! -e /home/ada && test -z "$(ls -A /root 2>/dev/null)"
touch /usr/proof 2>/dev/null && exit 9
exit 0
"""


@pytest.fixture
def rehearsal(host: Host) -> Iterator[None]:
    """The unit runs the steps instead of the command."""
    host.run("install -o pier -g www-data -m 0640 /dev/null /opt/pier/data/media/photo")
    host.run("printf %s > /usr/local/sbin/steps", _STEPS)
    drop_in = f"/run/systemd/system/{BACKUP}.service.d"
    other = "[Service]\nExecStart=\nExecStart=/bin/sh /usr/local/sbin/steps\n"
    host.run(f"mkdir -p {drop_in}")
    host.run(f"printf %s > {drop_in}/steps.conf", other)
    host.run("systemctl daemon-reload")
    yield
    host.run(f"rm -rf {drop_in} /opt/pier/data.d/.backup /var/lib/backstay/pier/scratch; systemctl daemon-reload")


def test_every_step_of_a_backup_is_possible_in_the_confinement_of_its_unit(host: Host, rehearsal: None) -> None:
    done = host.run(f"systemctl start {BACKUP}.service")
    journal = host.run(f"journalctl --no-pager -n 20 -u {BACKUP}.service").stdout
    assert done.rc == 0, journal
    assert host.file("/srv/backup/pier/config").exists
    assert host.file("/var/lib/backstay/pier/proof.sig").exists


@pytest.mark.usefixtures("back_again")
def test_switching_to_cron_leaves_exactly_one_and_back_again(host: Host, play: Play) -> None:
    done = play(*another("cron"))
    assert done.returncode == 0, done.stdout
    assert not host.service(f"{BACKUP}.timer").is_running
    assert not host.service(f"{VERIFY}.timer").is_enabled
    assert host.service("cron").is_running
    lines = host.file(CRON).content_string
    assert "40 2 * * * root" in lines
    assert "backup --scheduled --if-missed pier" in lines
    assert (host.file(CRON).mode, host.file(CRON).user) == (0o644, "root"), "else cron does not read it"
    assert changes(play(*another("cron"))) == 0, "a second run changes nothing"
    assert play().returncode == 0
    assert not host.file(CRON).exists
    assert host.service(f"{BACKUP}.timer").is_running


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("late", "`backup.at` in"),
        ("elsewhere", "on the same file system as the data, and would be lost with it"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_touched(host: Host, play: Play, name: str, said: str) -> None:
    look = "find /etc/backstay /etc/cron.d /etc/systemd/system /srv -printf '%p %T@\\n' | sort | sha256sum"
    before = host.run(look).stdout
    done = play(*another(name))
    assert done.returncode != 0
    assert said in done.stdout
    assert host.run(look).stdout == before
    assert not host.file("/srv/same-disk").exists


def test_check_mode_says_what_would_change_and_changes_nothing(host: Host, play: Play) -> None:
    done = play("--check", "--diff", *another("cron"))
    assert done.returncode == 0, done.stdout
    assert "+40 2 * * * root" in done.stdout
    assert not host.file(CRON).exists


@pytest.mark.usefixtures("back_again")
def test_an_application_without_backups_is_taken_off_the_schedule(host: Host, play: Play) -> None:
    done = play(*another("none"))
    assert done.returncode == 0, done.stdout
    assert not host.service(f"{BACKUP}.timer").is_running
    assert host.file(KEY).exists
    assert host.file("/srv/backup/pier").exists


@pytest.mark.parametrize("extra", [["-vvv"], ["--check", "--diff", "-vvv"]])
def test_what_opens_a_repository_is_in_no_output(play: Play, extra: list[str]) -> None:
    done = play(*extra)
    assert done.returncode == 0, done.stdout
    assert SECRET not in done.stdout + done.stderr
