"""From which of several repositories a restore point comes: the best proven one that answers, or the one that is
named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _application
from ansible_collections.backstay.ops.plugins.module_utils._catalogue import catalogue
from ansible_collections.backstay.ops.plugins.module_utils._errors import GateRefused, InputError
from ansible_collections.backstay.ops.plugins.module_utils._export import export
from ansible_collections.backstay.ops.plugins.module_utils._plan import plan
from ansible_collections.backstay.ops.plugins.module_utils._restore import Restore
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage, canonical
from ansible_collections.backstay.ops.plugins.module_utils._transaction import Request, Transaction

from ..backup.host import Host
from .test_restore_plan import engine  # noqa: F401 - a fixture

Become = Callable[..., None]
NOT_MOUNTED = "no repository"


@pytest.fixture
def kept(tmp_path: Path) -> Host:
    """A host with two points in `disk` and in `second`, of which `second` has the newest on the higher level."""
    host = Host(tmp_path).build()
    host.layout.application_file.write_bytes(canonical(_application.to_dict(host.application)))
    host.run()
    host.write("one more")
    host.run()
    newest = host.points()[-1]
    chain = catalogue(host.layout, Storage(), host.now)
    chain.append("proven", newest.run, repository="second", level=4, seconds=1.0)
    return host


def restoring_host(host: Host, said: list[str] | None = None) -> Restore:
    found = Restore(host.layout, Storage())
    found.say = (lambda line: None) if said is None else said.append
    return found


def exported(host: Host, tmp_path: Path, **given: Any) -> tuple[Path, list[str]]:
    place = tmp_path / "exports"
    place.mkdir(mode=0o700, exist_ok=True)
    said: list[str] = []
    return export(restoring_host(host, said), "latest", place, **given), said


def test_the_best_proven_one_is_taken_and_the_next_where_that_one_is_away(kept: Host, tmp_path: Path) -> None:
    assert restoring_host(kept).choose_point("latest")[1].repository == "second"
    (tmp_path / "second").rename(tmp_path / "unmounted")
    made, said = exported(kept, tmp_path)
    assert (made / "databases" / "main.sqlite3").is_file(), "what it was proven by is the copy in disk"
    assert (made / "media" / "two.jpg").is_file()
    assert NOT_MOUNTED in said[0]
    assert said[0].endswith("; disk is taken instead")
    assert "\n" not in said[0]


def test_the_one_that_is_named_is_taken_whatever_is_proven(kept: Host, tmp_path: Path) -> None:
    made, said = exported(kept, tmp_path, repository="disk")
    assert (made / "manifest.json").is_file()
    assert not [line for line in said if "taken instead" in line]


def test_one_that_is_away_is_named_and_nothing_else_is_taken(kept: Host, tmp_path: Path) -> None:
    (tmp_path / "second").rename(tmp_path / "unmounted")
    with pytest.raises(Exception, match=NOT_MOUNTED):
        exported(kept, tmp_path, repository="second")
    assert not list((tmp_path / "exports").iterdir())


def test_one_that_nobody_declared_and_one_without_the_point_are_refused_with_what_there_is(kept: Host) -> None:
    with pytest.raises(InputError, match=r"There is no repository 'bucket'; there is: disk, second\."):
        restoring_host(kept).choose_point("latest", "bucket")
    first, newest = (point.run for point in kept.points())
    chain = catalogue(kept.layout, Storage(), kept.now)
    chain.append("refuted", newest, repository="second", level=4, reason="a row is gone.")
    with pytest.raises(InputError) as refused:
        restoring_host(kept).choose_point("latest", "second")
    assert refused.value.message == (
        f"The repository second does not hold the restore point {newest} (a row is gone), which is in disk: name that "
        f"one, or another point; the newest that counts there is {first}."
    )
    assert restoring_host(kept).choose_point(first, "second")[1].repository == "second"


# a transaction


class Answers:
    """A repository that is there, and holds what the engine's catalogue says."""

    def identity(self) -> str:
        return "i"


@pytest.fixture
def two(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: F811 - the fixture
    """An engine whose newest point is in `disk`, and on a higher level in `offsite`, which is away."""
    from ansible_collections.backstay.ops.plugins.module_utils._repository import RepositoryError

    from .conftest import RUN, declared

    repositories = {"disk": {"location": "/srv/backup"}, "offsite": {"location": "/mnt/offsite"}}
    stored = declared(backup={"repositories": repositories})
    engine.layout.application_file.write_bytes(canonical(_application.to_dict(stored)))
    chain = catalogue(engine.layout, engine.storage, engine.now)
    chain.append("stored", RUN, repository="offsite", id="j", snapshot="s2", tree="t", manifest_snapshot="m2")
    chain.append("proven", RUN, repository="offsite", level=4, seconds=1.0)

    def store(name: str) -> Answers:
        if name == "offsite":
            raise RepositoryError("unreachable", "The repository offsite: the store cannot be reached: look at it.")
        return Answers()

    monkeypatch.setattr(engine, "store", store)
    return engine


def test_the_copy_that_was_chosen_is_in_the_transaction_and_outlives_a_crash(two: Any) -> None:
    opened = two.open_restore(Request("restore", point="latest"))
    again = Transaction.from_dict(opened.to_dict())
    assert again == opened
    assert again.restore is not None
    assert (again.restore.repository, again.restore.snapshot, again.restore.manifest_snapshot) == ("disk", "s", "m")
    assert again.restore.away == ("The repository offsite: the store cannot be reached: look at it.",)
    named = two.open_restore(Request("restore", point="latest", repository="offsite")).restore
    assert (named.repository, named.snapshot, named.away) == ("offsite", "s2", ()), "whether it answers is seen later"
    old = {key: value for key, value in opened.to_dict()["restore"].items() if key != "away"}
    assert Transaction.from_dict({**opened.to_dict(), "restore": old}).restore == replace(again.restore, away=())


def test_another_repository_at_its_place_is_not_taken_for_it(two: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Answers, "identity", lambda self: "another")
    with pytest.raises(GateRefused, match="is in 2 repositories, and none of them answers: The rep") as refused:
        two.open_restore(Request("restore", point="latest"))
    assert refused.value.lines[1] == (
        "The repository disk: another repository (another) is in the place of i: mount its disk."
    )


def test_the_plan_says_which_repository_is_away_and_which_is_taken(two: Any) -> None:
    found = plan(two, Request("restore", point="latest"))
    assert "The repository offsite: the store cannot be reached: look at it; disk is taken instead" in found["lines"]
    assert "the point is 3 h old, L1 listed, of 0001-1.0.0 in disk" in found["lines"], "not the level of the other copy"
    assert (found["point"]["repository"], found["point"]["level"]) == ("disk", 1)
