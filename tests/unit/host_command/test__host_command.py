"""The host's command is the very library that was carried here, whole, and never replaced under a transaction."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from ansible_collections.backstay.ops.plugins.module_utils import _host_command, _own_units, _version
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._host_command import HostCommand
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed

CHECKOUT = Path(__file__).parents[3]
LIBRARY = CHECKOUT / "plugins/module_utils"


class Commands:
    """Notes each command; none is run."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def __call__(self, arguments: Sequence[str], **_: object) -> Completed:
        self.ran.append(" ".join(arguments))
        return Completed(tuple(arguments), 0, "", "")


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture
def host(tmp_path: Path, commands: Commands) -> HostCommand:
    return HostCommand(_host_command.library(), root=tmp_path, runner=commands)


def install(host: HostCommand) -> _host_command.Plan:
    planned = host.plan()
    if planned.changed:
        host.apply(planned)
    return planned


def room(tmp_path: Path) -> Path:
    return tmp_path / "usr/lib/backstay"


def test_the_version_is_the_collections() -> None:
    galaxy = yaml.safe_load((CHECKOUT / "galaxy.yml").read_text())
    assert galaxy["version"] == _version.VERSION


def test_a_bare_host_gets_the_whole_library_the_launcher_and_the_units(
    host: HostCommand, commands: Commands, tmp_path: Path
) -> None:
    planned = install(host)
    assert (planned.before, planned.changed) == (None, True)
    installed = room(tmp_path) / "current" / "backstay"
    assert {file.name for file in installed.glob("*.py")} == {file.name for file in LIBRARY.glob("_*.py")} | {
        "__init__.py"
    }
    assert all((installed / file.name).read_bytes() == file.read_bytes() for file in LIBRARY.glob("_*.py"))
    assert (room(tmp_path) / "current").readlink() == Path(planned.name), "the link is relative"
    assert re.fullmatch(re.escape(_version.VERSION) + r"\+[0-9a-f]{8}", planned.name)
    assert (tmp_path / "usr/bin/backstay").stat().st_mode & 0o777 == 0o755
    assert {file.name for file in (tmp_path / "etc/systemd/system").iterdir()} == set(_own_units.UNIT_TEXTS)
    assert commands.ran[-1] == "systemctl daemon-reload"


def test_a_second_time_changes_nothing(host: HostCommand) -> None:
    install(host)
    assert not host.plan().changed


def test_a_new_version_leaves_units_that_are_the_same_alone(
    host: HostCommand, commands: Commands, tmp_path: Path
) -> None:
    install(host)
    commands.ran.clear()
    newer = HostCommand(_host_command.library(), name=f"{_version.VERSION}+ffffffff", root=tmp_path, runner=commands)
    planned = install(newer)
    assert planned.texts == ()
    assert not [line for line in commands.ran if "daemon-reload" in line]
    assert (room(tmp_path) / "current").readlink() == Path(newer.name)


def test_a_changed_unit_is_put_right_and_systemd_told(host: HostCommand, commands: Commands, tmp_path: Path) -> None:
    install(host)
    commands.ran.clear()
    unit = tmp_path / "etc/systemd/system/backstay-recover@.service"
    unit.write_text("edited")
    assert install(host).texts == ("etc/systemd/system/backstay-recover@.service",)
    assert unit.read_text() == _own_units.RECOVER_UNIT
    assert commands.ran == ["systemctl daemon-reload"]


@pytest.mark.parametrize("damage", ["changed", "missing", "gone"])
def test_a_damaged_library_is_installed_again(host: HostCommand, tmp_path: Path, damage: str) -> None:
    planned = install(host)
    package = room(tmp_path) / planned.name / "backstay"
    if damage == "changed":
        (package / "_engine.py").write_text("")
    elif damage == "missing":
        (package / "_engine.py").unlink()
    else:
        package.rename(tmp_path / "elsewhere")
    assert host.plan().before is None
    install(host)
    assert not host.plan().changed


def test_two_old_versions_are_kept_and_what_was_cut_off_goes(
    host: HostCommand, commands: Commands, tmp_path: Path
) -> None:
    for number in range(4):
        old = room(tmp_path) / f"0.0.{number}+00000000"
        old.mkdir(parents=True)
        os.utime(old, (number, number))
    (room(tmp_path) / ".0.0.9+00000000.partial").mkdir()
    planned = install(host)
    left = {path.name for path in room(tmp_path).iterdir()}
    assert left == {planned.name, "current", "0.0.2+00000000", "0.0.3+00000000"}


def test_an_upgrade_waits_for_a_transaction_that_is_open(host: HostCommand, tmp_path: Path) -> None:
    state = tmp_path / "var/lib/backstay/portal"
    state.mkdir(parents=True)
    with (state / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BackstayError, match="A transaction of portal is open") as refused:
            install(host)
    assert "backstay abort portal" in refused.value.message
    assert not room(tmp_path).exists(), "nothing was touched"


def test_an_upgrade_waits_for_a_transaction_that_was_left_unfinished(host: HostCommand, tmp_path: Path) -> None:
    state = tmp_path / "var/lib/backstay/portal"
    state.mkdir(parents=True)
    (state / "lock").touch()
    (state / "journal.jsonl").write_text("{}\n")
    with pytest.raises(BackstayError, match="run `backstay recover portal` on the host"):
        install(host)
    assert not room(tmp_path).exists(), "nothing was touched"


def test_applications_at_rest_do_not_stand_in_the_way(host: HostCommand, tmp_path: Path) -> None:
    state = tmp_path / "var/lib/backstay/portal"
    state.mkdir(parents=True)
    (state / "lock").touch()
    assert install(host).changed


def test_a_host_that_has_the_library_is_asked_without_sending_it(
    host: HostCommand, commands: Commands, tmp_path: Path
) -> None:
    asked = HostCommand({}, name=host.name, root=tmp_path, runner=commands)
    assert asked.plan().renewed
    install(host)
    assert not asked.plan().changed


def test_what_arrives_is_what_was_sent(tmp_path: Path) -> None:
    files = _host_command.library()
    assert set(files) == {file.name for file in LIBRARY.glob("_*.py")}
    archive = tmp_path / "library.zip"
    archive.write_bytes(_host_command.pack(files))
    assert _host_command.unpack(archive, _host_command.release_name(files)) == files


def test_what_arrives_damaged_or_is_another_is_refused(tmp_path: Path) -> None:
    files = _host_command.library()
    archive = tmp_path / "library.zip"
    for content in (_host_command.pack(files)[:-40], b"", _host_command.pack({**files, "_engine.py": b""})):
        archive.write_bytes(content)
        with pytest.raises(BackstayError, match=r"arrive.*run it again"):
            _host_command.unpack(archive, _host_command.release_name(files))


def test_the_launcher_starts_without_site_packages_and_keeps_to_one_version() -> None:
    assert _host_command.LAUNCHER_TEXT.startswith("#!/usr/bin/python3 -IS\n")
    compile(_host_command.LAUNCHER_TEXT, "backstay", "exec")
    assert 'realpath("/usr/lib/backstay/current")' in _host_command.LAUNCHER_TEXT


def test_no_refusal_of_systemd_closes_the_door() -> None:
    assert "TriggerLimitIntervalSec=0" in _own_units.SOCKET_UNIT
    assert "StartLimitIntervalSec=0" in _own_units.SERVICE_UNIT
    assert "OnFailure=backstay-recover@%i.service" in _own_units.SERVICE_UNIT


def test_nothing_of_the_library_needs_more_than_python() -> None:
    foreign = re.compile(r"^\s*(?:from|import) (?:ansible|yaml|jinja2|requests)\b", flags=re.MULTILINE)
    assert not [file.name for file in LIBRARY.glob("_*.py") if foreign.search(file.read_text())]


def test_what_comes_each_hour_comes_also_in_the_hour_that_the_clock_shows_twice() -> None:
    times = [
        line.partition("=")[2]
        for text in _own_units.UNIT_TEXTS.values()
        for line in text.splitlines()
        if line.startswith("OnCalendar=")
    ]
    assert len(times) >= 8
    often = [time for time in times if not re.fullmatch(r"\*-\*-\* \d\d:\d\d:\d\d", time)]
    assert often, "the observer's at least"
    assert [time for time in often if not re.fullmatch(r"\*-\*-\* \*:\S+ UTC", time)] == [], "systemd passes over it"
