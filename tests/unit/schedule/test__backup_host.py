"""A host is made ready for backups: keys, directories of local repositories, the schedule; nothing foreign is taken."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._backup_host import BackupHost, Place, Plan, refusal
from ansible_collections.backstay.ops.plugins.module_utils._backup_settings import RepositorySettings
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, InputError
from ansible_collections.backstay.ops.plugins.module_utils._file_set import FileSet
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed, run

from .portal import described

DATA_DISK, OTHER_DISK = 1, 2
FREE = Place("absent", private=False, foreign=False, device=OTHER_DISK)
LAYOUT = Layout("portal")


def judged(place: str = "/srv/backup/portal", seen: Place = FREE, **settings: Any) -> str | None:
    wanted = RepositorySettings(location=place, **settings)
    return refusal("disk", Path(place), wanted, seen, layout=LAYOUT, data_device=DATA_DISK)


def test_a_directory_on_another_disk_is_good() -> None:
    assert judged() is None
    assert judged(seen=Place("directory", private=False, foreign=False, device=OTHER_DISK)) is None


def test_a_repository_on_the_disk_of_the_data_is_refused_unless_that_is_meant() -> None:
    seen = replace(FREE, device=DATA_DISK)
    said = judged(seen=seen)
    assert said is not None
    assert "on the same file system as the data" in said
    assert "own_disk: false" in said
    assert judged(seen=seen, own_disk=False) is None


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("/home/backup", "/home is out of reach of a backup"),
        ("/root", "/root is out of reach"),
        ("/tmp/portal", "/tmp is out of reach"),
        ("/etc/backstay/portal/repository", "/etc is out of reach"),
        ("/opt/portal/data.d/backup", "where the application's own data are"),
        ("/opt", "where the application's own data are"),
        ("/var/lib/backstay/portal/repository", "where the application's own data are"),
        ("/var/cache/backstay/portal", "where the application's own data are"),
    ],
)
def test_a_place_where_a_repository_would_be_lost_or_unseen_is_refused(place: str, said: str) -> None:
    assert said in (judged(place) or "")


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (Place("other", private=False, foreign=False, device=OTHER_DISK), "where a file is"),
        (Place("directory", private=True, foreign=True, device=OTHER_DISK), "is no repository of restic's"),
    ],
)
def test_what_is_somebody_elses_is_never_taken(seen: Place, said: str) -> None:
    assert said in (judged(seen=seen) or "")


class Systemd:
    """Stands in for systemctl and remembers; every other command is run."""

    def __init__(self) -> None:
        self.enabled: set[str] = set()
        self.active: set[str] = set()
        self.ran: list[str] = []

    def __call__(self, arguments: Sequence[str], **given: Any) -> Completed:
        if arguments[0] != "systemctl":
            return run(arguments, **given)
        verb, units = arguments[1], {word for word in arguments[2:] if not word.startswith("-")}
        if verb == "show":
            blocks = [
                f"Id={unit}\nUnitFileState={'enabled' if unit in self.enabled else 'disabled'}\n"
                f"ActiveState={'active' if unit in self.active else 'inactive'}"
                for unit in units
            ]
            return Completed(tuple(arguments), 0, "\n\n".join(blocks) + "\n", "")
        self.ran.append(f"{verb} {' '.join(sorted(units))}".strip())
        self.enabled |= units if verb == "enable" else set()
        self.active |= units if verb == "start" else set()
        if verb == "disable":
            self.enabled -= units
            self.active -= units
        return Completed(tuple(arguments), 0, "", "")


def portal(**backup: Any) -> dict[str, Any]:
    # The tests' own directories lie where a backup could not see them; the offsite store is never asked.
    return described({"repositories": {"offsite": {"location": "sftp:b@store:/portal"}}} | backup)


class House:
    """A host below a temporary directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.layout = Layout("portal", root)
        self.systemd = Systemd()
        self.layout.units.mkdir(parents=True)
        (self.layout.units / "backstay-backup@.timer").touch()

    def host(self, application: dict[str, Any]) -> BackupHost:
        files = FileSet(state=self.root / "state", runner=self.systemd)
        return BackupHost([application], root=self.root, runner=self.systemd, files=files)

    def arrange(self, application: dict[str, Any]) -> Plan:
        host = self.host(application)
        planned = host.plan()
        if planned.changed:
            host.apply(planned)
        return planned


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_a_second_run_changes_nothing(house: House) -> None:
    application = portal()
    assert house.arrange(application).changed
    assert not house.arrange(application).changed


def test_the_key_is_made_once_and_is_roots_alone(house: House) -> None:
    house.arrange(portal())
    key = house.layout.backup_key
    assert key.stat().st_mode & 0o777 == 0o600
    derived = subprocess.run(["ssh-keygen", "-y", "-f", str(key)], capture_output=True, text=True, check=True).stdout
    assert derived.split()[:2] == key.with_name("backup_key.pub").read_text().split()[:2]
    before = key.read_bytes()
    house.arrange(portal(at="05:00"))
    assert key.read_bytes() == before
    assert sorted(path.name for path in key.parent.iterdir()) == ["backup_key", "backup_key.pub"], (
        "nothing is left over"
    )


def test_a_public_half_that_is_missing_is_derived(house: House) -> None:
    house.arrange(portal())
    public = house.layout.backup_key.with_name("backup_key.pub")
    before = public.read_text().split()[:2]
    public.unlink()
    house.arrange(portal())
    assert public.read_text().split()[:2] == before


def test_a_private_half_that_was_lost_is_not_replaced_silently(house: House) -> None:
    house.arrange(portal())
    house.layout.backup_key.unlink()
    with pytest.raises(InputError, match=r"backup_key\.pub is there and its private half backup_key is not"):
        house.host(portal()).plan()


def test_no_key_is_shown_in_a_diff(house: House) -> None:
    host = house.host(portal())
    planned = host.plan()
    host.apply(planned)
    secret = house.layout.backup_key.read_text().splitlines()[1]
    assert secret not in json.dumps(host.diff(planned))


def test_switching_the_scheduler_leaves_exactly_one(house: House) -> None:
    timers = {house.layout.backup_timer, house.layout.verify_timer, house.layout.skipped_timer}
    cron = house.root / "etc/cron.d/backstay-backup-portal"
    house.arrange(portal())
    assert (house.systemd.active, cron.exists()) == (timers, False)
    house.arrange(portal(scheduler="cron"))
    assert (house.systemd.active, house.systemd.enabled, cron.exists()) == ({"cron.service"}, {"cron.service"}, True)
    house.arrange(portal())
    assert (house.systemd.active - {"cron.service"}, cron.exists()) == (timers, False)


def test_systemd_reads_a_new_time_before_its_timer_is_restarted(house: House) -> None:
    house.arrange(portal())
    house.systemd.ran.clear()
    house.arrange(portal(at="05:00"))
    assert house.systemd.ran == ["daemon-reload", f"restart {house.layout.backup_timer}"]


def test_an_application_that_drops_its_backups_keeps_its_key(house: House) -> None:
    house.arrange(portal())
    application = portal()
    del application["backup"]
    assert house.arrange(application).changed
    assert house.systemd.active == set()
    assert house.layout.backup_key.exists()
    assert not house.arrange(application).changed


def test_a_file_of_somebody_elses_for_cron_is_refused(house: House) -> None:
    theirs = house.root / "etc/cron.d/backstay-backup-portal"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("0 3 * * * root /usr/local/bin/backup\n")
    with pytest.raises(InputError, match="was not written by Backstay"):
        house.host(portal()).plan()


def test_a_wrong_time_touches_nothing(house: House) -> None:
    with pytest.raises(InputError, match=r"backup\.at"):
        house.arrange(portal(at="26:00"))
    assert not house.layout.configuration.exists()


def test_without_the_command_the_remedy_is_named(house: House) -> None:
    (house.layout.units / "backstay-backup@.timer").unlink()
    with pytest.raises(BackstayError, match="run role base"):
        house.arrange(portal())
    assert not house.layout.backup_key.exists()
