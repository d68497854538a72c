"""The offline key, and passwords that change: whenever it is killed, a password that is written down opens it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _escrow
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, InputError
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._repository import (
    Repository,
    RepositoryError,
    read_secrets,
    repositories_of,
)
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage

from .stores import PASSWORD, made, repository, tree

NEXT = "the next password"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout("portal", tmp_path / "host")
    layout.configuration.mkdir(parents=True)
    layout.state.mkdir(parents=True)
    secrets = {"disk": {"password": PASSWORD}, "bucket": {"password": "b", "secret_access_key": "s"}}
    layout.backup_secrets.write_text(json.dumps({"format": 1, "repositories": secrets}))
    layout.backup_key.with_name("backup_key.pub").write_text("ssh-ed25519 AAAA host\n")
    return layout


@pytest.fixture
def disk(tmp_path: Path) -> Repository:
    return made(tmp_path)


def test_the_offline_key_alone_opens_the_repository(tmp_path, layout, disk):
    stored = disk.store(tree(tmp_path / "stage", {"media/a": b"1"}), ("media",), ("run=1", "part=data"))
    path = tmp_path / "portal.key"
    _escrow.write(path, layout, {"disk": disk.settings}, Storage(), at="2026-01-01T00:00:00Z")
    assert path.stat().st_mode & 0o777 == 0o600
    key = _escrow.read(path, Storage())
    assert (key.application, key.manifest_key) == ("portal", "ssh-ed25519 AAAA host")
    settings = _escrow.settings_of(key)["disk"]
    elsewhere = Repository(
        name="disk",
        application=key.application,
        settings=settings,
        secrets=key.repositories["disk"]["secrets"],
        private=tmp_path / "elsewhere",
    )
    assert elsewhere.read(stored.id, "/media/a") == b"1"
    assert PASSWORD not in repr(key)


def test_the_offline_key_says_how_it_is_used(tmp_path, layout, disk):
    path = tmp_path / "portal.key"
    _escrow.write(path, layout, {"disk": disk.settings}, Storage(), at="2026-01-01T00:00:00Z")
    assert "restic restore" in " ".join(json.loads(path.read_text())["how"])


def test_the_offline_key_holds_all_keys_that_are_believed_here_and_older_files_the_one(tmp_path, layout, disk):
    path, trusted = tmp_path / "portal.key", ("ssh-ed25519 BBBB before", "ssh-ed25519 AAAA host")
    _escrow.write(path, layout, {"disk": disk.settings}, Storage(), at="2026-01-01T00:00:00Z", trusted=trusted)
    key = _escrow.read(path, Storage())
    assert key.manifest_keys == ("ssh-ed25519 AAAA host", "ssh-ed25519 BBBB before")
    older = json.loads(path.read_text())
    del older["manifest_keys"]
    path.write_text(json.dumps(older))
    assert _escrow.read(path, Storage()).manifest_keys == ("ssh-ed25519 AAAA host",)


def test_a_host_that_was_rebuilt_asks_for_a_new_offline_key_until_one_is_written(tmp_path, layout, disk):
    assert _escrow.out_of_date(layout, Storage()) is None, "nobody can tell whether one lies in the safe"
    layout.trusted_keys.write_text("ssh-ed25519 BBBB before\n")
    for content in (None, "{}", "no JSON"):
        if content is not None:
            layout.escrowed.write_text(content)
        assert "run `backstay escrow --to FILE`" in str(_escrow.out_of_date(layout, Storage()))
    layout.isolated.touch()
    assert _escrow.out_of_date(layout, Storage()) is None, "nothing is backed up from there"
    layout.isolated.unlink()
    _escrow.write(tmp_path / "portal.key", layout, {"disk": disk.settings}, Storage(), at="2026-01-01T00:00:00Z")
    assert _escrow.out_of_date(layout, Storage()) is None


def test_an_offline_key_is_never_written_over(tmp_path, layout, disk):
    path = tmp_path / "portal.key"
    path.write_text("older")
    with pytest.raises(InputError, match="there already"):
        _escrow.write(path, layout, {"disk": disk.settings}, Storage(), at="2026-01-01T00:00:00Z")
    assert path.read_text() == "older"


def test_what_is_no_offline_key_is_refused_without_showing_it(tmp_path):
    path = tmp_path / "key"
    with pytest.raises(InputError, match="no offline key"):
        _escrow.read(path, Storage())
    path.write_text('{"format": 1, "secret": "hunter2"}')
    with pytest.raises(InputError, match="is no offline key") as caught:
        _escrow.read(path, Storage())
    assert "hunter2" not in caught.value.message
    good = {"format": 9, "application": "a", "at": "t", "manifest_key": "k", "repositories": {}}
    path.write_text(json.dumps(good))
    with pytest.raises(BackstayError, match="format 9"):
        _escrow.read(path, Storage())


def _opens(disk: Repository, password: str) -> bool:
    try:
        return disk.with_password(password).identity() is not None
    except RepositoryError:
        return False


def test_a_changed_password_opens_and_the_old_one_no_longer(layout, disk):
    assert _opens(_escrow.rotate(disk, NEXT, layout, Storage()), NEXT)
    assert not _opens(disk, PASSWORD)
    assert read_secrets(layout, Storage())["disk"] == {"password": NEXT}
    assert read_secrets(layout, Storage())["bucket"] == {"password": "b", "secret_access_key": "s"}
    assert layout.backup_secrets.stat().st_mode & 0o777 == 0o600


class Killed(BaseException):
    """The process ends here."""


class Restic:
    """Its keys, in memory: what it answers was looked up with the real one, which takes half a second for each."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.keys = {"key1": PASSWORD}
        self.made = itertools.count(2)
        self.before = before

    def __call__(self, arguments: Sequence[str], **given: Any) -> Completed:
        self.before()
        words = list(arguments[arguments.index("-r") + 2 :])
        used = Path(given["environment"]["RESTIC_PASSWORD_FILE"]).read_text()
        if used not in self.keys.values():
            return Completed(tuple(arguments), 12, "", "Fatal: wrong password or no key found")
        output = '{"id": "r"}'
        if words[:2] == ["key", "list"]:
            output = json.dumps([{"id": key, "current": word == used} for key, word in self.keys.items()])
        elif words[:2] == ["key", "add"]:
            self.keys[f"key{next(self.made)}"] = Path(words[3]).read_text()
        elif words[:2] == ["key", "remove"]:
            del self.keys[words[2]]
        self.before()
        return Completed(tuple(arguments), 0, output, "")


class Dying(Storage):
    """A disk whose process may end before a new content is in place, and after."""

    def __init__(self, step: Callable[[], None]) -> None:
        self.step = step

    def _rename(self, source: Path, target: Path) -> None:
        self.step()
        super()._rename(source, target)
        self.step()


def _killed_before(steps: int, disk: Repository, restic: Restic, layout: Layout) -> bool:
    """Whether the process ended before the step of this number (a command or a write, and what comes after it)."""
    counter = itertools.count()

    def step() -> None:
        if next(counter) >= steps:
            raise Killed

    restic.before = step
    try:
        _escrow.rotate(replace(disk, runner=restic), NEXT, layout, Dying(step))
    except Killed:
        return True
    finally:
        restic.before = lambda: None
    return False


def test_whenever_it_is_killed_a_stored_password_opens_and_doing_it_again_finishes(tmp_path, layout):
    before = layout.backup_secrets.read_bytes()
    killed, steps = True, -1
    while killed:
        steps += 1
        layout.backup_secrets.write_bytes(before)
        restic, disk = Restic(), repository(tmp_path)
        killed = _killed_before(steps, disk, restic, layout)
        stored = read_secrets(layout, Storage())["disk"]
        assert {stored["password"], stored.get("next_password")} & set(restic.keys.values()), f"before step {steps}"
        _escrow.rotate(replace(disk, runner=restic).with_password(stored["password"]), NEXT, layout, Storage())
        assert read_secrets(layout, Storage())["disk"] == {"password": NEXT}
        assert list(restic.keys.values()) == [NEXT]
    assert steps > 15


def test_one_that_was_begun_with_another_password_is_finished_first(tmp_path, layout):
    restic, disk = Restic(), repository(tmp_path)
    assert _killed_before(5, disk, restic, layout)
    assert read_secrets(layout, Storage())["disk"].get("next_password") == NEXT
    _escrow.rotate(replace(disk, runner=restic), "a third password", layout, Storage())
    assert list(restic.keys.values()) == ["a third password"]


def test_a_password_of_two_lines_is_refused(layout, disk):
    with pytest.raises(InputError, match="one line"):
        _escrow.rotate(disk, "a\nb", layout, Storage())


def test_repositories_are_opened_with_the_password_that_is_written_down(layout, disk):
    _escrow.rotate(disk, NEXT, layout, Storage())
    found = repositories_of(layout, {"disk": disk.settings}, Storage())
    assert found["disk"].identity() == disk.with_password(NEXT).identity()
