"""sshd takes keys alone; nobody who has none is left outside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, GateRefused
from ansible_collections.backstay.ops.plugins.module_utils._file_set import Entry, FileSet, Outcome, Plan
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed
from ansible_collections.backstay.ops.plugins.module_utils._second_session import Doorkeeper, Session
from ansible_collections.backstay.ops.plugins.module_utils._sshd import (
    DROP_IN,
    Door,
    Sshd,
    has_key,
    overridden,
    plan,
    refusals,
    settings,
    text,
)

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0kq ada@desk"
ADA, ROOT = Session(50.0, "ada", "203.0.113.7", 22), Session(50.0, "root", "203.0.113.7", 22)
NO_ROOT = Door(root_login="no")


def effective(door: Door, **other: str) -> str:
    """What `sshd -T` prints."""
    told = {keyword.lower(): value for keyword, value in settings(door).items()} | other
    return "port 22\nauthorizedkeysfile .ssh/authorized_keys\n" + "".join(f"{k} {v}\n" for k, v in told.items())


def test_it_sorts_before_the_file_that_clouds_ship() -> None:
    assert min(Path(DROP_IN).name, "50-cloud-init.conf", "01-other.conf") == Path(DROP_IN).name
    assert "PasswordAuthentication no\n" in text(Door())
    assert "PermitRootLogin prohibit-password\n" in text(Door())


def test_what_another_file_says_otherwise_is_named() -> None:
    assert overridden(Door(), effective(Door())) == ()
    assert overridden(Door(), effective(Door(), permitrootlogin="without-password")) == (), "its older name"
    assert overridden(Door(), effective(Door(), passwordauthentication="yes")) == ("passwordauthentication yes",)
    assert overridden(Door(), "port 22\n")[0] == "passwordauthentication not told"


@pytest.mark.parametrize(
    ("authorized", "lets_in"),
    [
        (f"{KEY}\n", True),
        (f'from="10.0.0.0/8",command="x" {KEY}\n', True),
        ("sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIA\n", True),
        (f"# {KEY}\n", False),
        ("ssh-ed25519 AAAA\n", False),
        ("", False),
    ],
)
def test_a_key_is_a_key(authorized: str, lets_in: bool) -> None:
    assert has_key(authorized) is lets_in


def test_nobody_who_has_no_key_is_left_outside() -> None:
    assert refusals(Door(), ADA, [], {"ada": True}) == ()
    assert refusals(Door(), None, ["ada"], {"ada": True}) == (), "from a console, for an administrator"
    assert "ada, as whom you came in, has no key" in refusals(Door(), ADA, ["bob"], {"bob": True})[0]
    assert "no administrator has a key" in refusals(Door(), None, ["ada"], {"ada": False})[0]
    assert "looked at: nobody" in refusals(Door(), None, [], {})[0]
    assert refusals(Door(), ROOT, [], {"root": True}) == ()
    assert "your own session is root's" in refusals(NO_ROOT, ROOT, ["ada"], {"root": True, "ada": True})[0]
    assert "no administrator has a key" in refusals(NO_ROOT, None, ["root"], {"root": True})[0]


def test_a_file_that_is_there_and_does_not_hold_is_placed_again() -> None:
    wanted = text(Door())
    assert plan(wanted, wanted, waits=False, holds=True) == "nothing"
    assert plan(wanted, wanted, waits=True, holds=True) == "confirm"
    assert plan(wanted, wanted, waits=False, holds=False) == "place"
    assert plan(wanted, None, waits=False, holds=True) == "place"


class Host:
    """An sshd that does as its drop-in says, unless `stubborn`; a person who comes in."""

    def __init__(self, root: Path) -> None:
        self.file = root / DROP_IN.lstrip("/")
        for directory in (self.file.parent, root / "etc/systemd/system", root / "home/ada/.ssh"):
            directory.mkdir(parents=True)
        (root / "home/ada/.ssh/authorized_keys").write_text(KEY)
        self.session: Session | None = ADA
        self.stubborn = self.broken = False
        self.commands: list[list[str]] = []
        self.registered: list[Entry] = []
        host = self

        class Files(FileSet):
            def plan(self, entries: Sequence[Entry], *, adopt: bool) -> Plan:
                return Plan()

            def keep(self, entries: Sequence[Entry]) -> tuple[str, ...]:
                return tuple(f"kept {host.file.read_text()}" for entry in entries if host.file.exists())

            def place(
                self,
                entries: Sequence[Entry],
                *,
                adopt: bool = False,
                validate: Sequence[str] = (),
                service: str = "",
                restart: str = "",
            ) -> Outcome:
                host.registered += entries
                return Outcome(changed=False)

        door = Doorkeeper("sshd", root=root, runner=self, session=lambda: self.session, uptime=lambda: 100.0)
        people = {"ada": root / "home/ada", "eve": root / "home/eve"}
        self.sshd = Sshd(root=root, runner=self, doorkeeper=door, file_set=Files(), home=people.get)

    def __call__(self, arguments: Sequence[str], **options: Any) -> Completed:
        given = list(arguments)
        self.commands.append(given)
        if given[0] == "/usr/sbin/sshd" and given[1] == "-T":
            obeys = self.file.exists() and not self.stubborn
            return Completed(
                tuple(given), 0, effective(Door(), **({} if obeys else {"passwordauthentication": "yes"})), ""
            )
        if given == ["/usr/sbin/sshd", "-t"] and self.broken:
            raise BackstayError("sshd refuses its configuration")
        if given[1:] == ["start", "backstay-undo-sshd.service"]:
            self.file.unlink()
        return Completed(tuple(given), 0, "", "")

    @property
    def reloads(self) -> int:
        return self.commands.count(["systemctl", "try-reload-or-restart", "ssh.service"])


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_second_session_keeps_the_change_and_the_first_does_not(host: Host) -> None:
    assert host.sshd.planned(Door(), [])[0] == "place"
    host.sshd.place(Door(), seconds=60)
    assert host.reloads == 1, "reloaded, never restarted: sessions stay"
    assert ["systemctl", "restart", "backstay-undo-sshd.timer"] in host.commands
    assert host.sshd.planned(Door(), [])[0] == "confirm"
    with pytest.raises(GateRefused, match="before the change"):
        host.sshd.confirm()
    assert not host.registered
    host.session = Session(150.0, "ada", "203.0.113.7", 22)
    host.sshd.confirm()
    assert [entry.path for entry in host.registered] == [DROP_IN], "ours from now on"
    assert host.sshd.planned(Door(), [])[0] == "nothing", "a second run changes nothing"


@pytest.mark.parametrize("fault", ["stubborn", "broken"])
def test_what_sshd_does_not_do_is_taken_back_at_once(host: Host, fault: str) -> None:
    setattr(host, fault, True)
    with pytest.raises(BackstayError):
        host.sshd.place(Door(), seconds=60)
    assert not host.file.exists()
    assert host.reloads == 0, "sshd never heard of it"


def test_the_way_back_is_what_was_there(host: Host) -> None:
    host.file.write_text("# what was there\n")
    said = host.sshd.place(Door(), seconds=60)
    assert said == ("kept # what was there\n",), "before it is written over"
    state = host.file.parents[3] / "var/lib/backstay/.host"
    assert (state / "sshd.former.conf").read_text() == "# what was there\n"
    unit = (host.file.parents[2] / "systemd/system/backstay-undo-sshd.service").read_text()
    assert f'"{state}/sshd.former.conf" "{DROP_IN}"' in unit
    assert '"--no-block" "try-reload-or-restart" "ssh.service"' in unit, "at boot sshd waits for us, not we for it"


def test_without_a_key_nothing_is_changed(host: Host) -> None:
    host.session = Session(50.0, "eve", "203.0.113.7", 22)
    with pytest.raises(GateRefused, match="eve, as whom you came in"):
        host.sshd.planned(Door(), ["ada"])
    assert not host.file.exists()
