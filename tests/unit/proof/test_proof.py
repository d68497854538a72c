"""What each level of a proof says, and what it never says."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _manifest, _proof
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._manifest import Manifest
from ansible_collections.backstay.ops.plugins.module_utils._proof import MANIFEST, Chain, check_restored
from ansible_collections.backstay.ops.plugins.module_utils._repository import RepositoryError
from ansible_collections.backstay.ops.plugins.module_utils._restored import utc_of
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed
from ansible_collections.backstay.ops.plugins.module_utils._sandbox import DirectSandbox, Scratch, Task

from .points import DAYS, NOW, Place

OLD, BEFORE, RUN = DAYS


def sentence(place: Place, *given: Any, **options: Any) -> str:
    proof = place.prove(*given, **options)
    assert not proof.ok
    return proof.findings[0].sentence


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_a_sound_point_holds_on_every_level_and_takes_time_on_each(original: Place, level: int) -> None:
    proof = original.prove(level=level)
    assert (proof.ok, proof.level, proof.asked) == (True, level, level)
    assert sorted(proof.seconds) == list(range(1, level + 1))
    assert proof.sentence.endswith(f"holds on level {level} of 5.")
    if level == 4:
        assert proof.recovery_time_seconds is not None
        assert proof.recovery_time_seconds >= sum(proof.seconds.values()) * 0.9
        # The newest row of that day is of 01:42, and now it is 03:00.
        assert proof.recovery_point_seconds == 4680.0
        assert proof.release == "0001-1.0.0"
        assert set(proof.snapshots) == {"data", "manifest"}


def test_the_newest_point_is_meant_where_none_is_named(original: Place) -> None:
    assert original.prove(None, 1).run == RUN


def test_a_repository_that_was_never_backed_up_to_is_a_failure(place: Place) -> None:
    for path in (place.repository_path / "snapshots").iterdir():
        path.unlink()
    assert "never backed up" in sentence(place, None, 1)


def test_a_newest_point_that_is_too_old_is_told_and_refutes_nothing(original: Place) -> None:
    proof = original.prove(level=4, now=lambda: NOW + dt.timedelta(days=2))
    assert proof.level == 0
    assert "is 2 days old" in proof.sentence
    assert not proof.findings[0].refutes
    assert original.prove(OLD, 1, max_age_seconds=None, now=lambda: NOW + dt.timedelta(days=400)).ok


def test_a_clock_that_is_slow_is_told_and_refutes_nothing(original: Place) -> None:
    proof = original.prove(level=1, now=lambda: NOW - dt.timedelta(days=1))
    assert "in the future of this host's clock" in proof.sentence
    assert not proof.findings[0].refutes


def test_a_point_that_is_not_there_is_named(original: Place) -> None:
    assert "There is no restore point 20200101T000000000-1" in sentence(original, "20200101T000000000-1", 1)


def test_a_manifest_that_this_host_did_not_write_is_refuted(original: Place) -> None:
    chain = Chain({"0" * 64: RUN}, complete=True)
    assert "is not the one that this host wrote" in sentence(original, level=2, chain=chain)


def test_a_point_that_expired_breaks_no_chain(place: Place) -> None:
    chain = place.chain()
    for snapshot in place.known[BEFORE].values():
        (place.repository_path / "snapshots" / snapshot.id).unlink()
    assert place.prove(level=2, chain=Chain(chain.runs, frozenset({BEFORE}), complete=True)).ok
    # A host that lost its catalogue cannot tell what expired from what was taken away.
    assert place.prove(level=2, chain=Chain()).ok
    assert "the chain is broken" in sentence(place, level=2, chain=chain)


def test_of_a_store_that_was_tried_twice_the_sealed_one_counts(place: Place) -> None:
    (place.stage / "media" / "of the second try").write_bytes(b"x")
    place.add(place.stage, place.parts(), RUN, "data")
    assert place.prove().ok


class Unreachable:
    """A repository behind a cable that was pulled."""

    name = "offsite"

    def __getattr__(self, asked: str) -> Callable[..., Any]:
        def fail(*given: Any, **options: Any) -> Any:
            raise RepositoryError("unreachable", "The repository offsite cannot be reached: see the network.")

        return fail


def test_a_repository_that_cannot_be_reached_proves_nothing_and_refutes_nothing(original: Place) -> None:
    from ansible_collections.backstay.ops.plugins.module_utils._proof import prove

    repository: Any = Unreachable()
    with pytest.raises(RepositoryError, match="cannot be reached"):
        prove(
            RUN,
            repository,
            4,
            layout=original.layout,
            application=original.application,
            sandbox=DirectSandbox(),
            public_keys=[original.public_key],
        )


class Killed(DirectSandbox):
    def run(self, scratch: Scratch, task: Task) -> Completed:
        return Completed(task.arguments, -9, "", "Killed")


def test_a_check_that_was_killed_proves_nothing_and_leaves_nothing(original: Place) -> None:
    with pytest.raises(BackstayError, match="no answer"):
        original.prove(sandbox=Killed())
    assert [path.name for path in original.layout.proof_scratch.iterdir()] == [".guard"]


class Watching(DirectSandbox):
    """Tells what the sandbox was given."""

    seen: list[str] = []  # noqa: RUF012 - the dataclass is frozen, and one test looks

    def run(self, scratch: Scratch, task: Task) -> Completed:
        self.seen[:] = sorted(path.name for path in scratch.open.iterdir())
        assert not any("hunter2" in path.read_text(errors="replace") for path in scratch.open.rglob("*.json"))
        return super().run(scratch, task)


def test_no_secret_of_the_point_gets_into_the_sandbox(original: Place) -> None:
    assert original.prove(sandbox=Watching()).ok
    assert Watching.seen == ["databases", "job.json", "manifest.json", "media"]


def test_what_the_point_needs_is_read_back_where_it_is_restored_anyway(original: Place) -> None:
    """Level 3 is then the restore itself: every pack of the point is read and decrypted once."""
    proof = original.prove(read_back="point")
    assert proof.ok
    assert proof.level == 4


def restored(place: Place, target: Path) -> Manifest:
    shutil.copytree(place.stage, target)
    return _manifest.from_bytes((place.layout.backup_run(RUN) / MANIFEST).read_bytes(), origin="the manifest")


def test_a_restore_is_compared_by_the_same_check(place: Place, tmp_path: Path) -> None:
    target = tmp_path / "restored"
    manifest = restored(place, target)
    assert check_restored(target, manifest, place.application) == ()
    photograph = min(path for path in (target / "media").rglob("*") if path.is_file())
    photograph.unlink()
    (target / "configuration" / "application.json").write_text("{}")
    (target / "artifacts" / "left over").write_text("x")
    found = check_restored(target, manifest, place.application)
    assert {each.where.partition("/")[0] for each in found} == {"media", "configuration", "artifacts"}
    assert any("names the file" in each.sentence for each in found), [each.sentence for each in found]
    only = check_restored(target, manifest, place.application, parts=("databases",))
    assert only == ()


def test_all_differences_are_listed_up_to_twenty_and_the_rest_is_counted(place: Place, tmp_path: Path) -> None:
    target = tmp_path / "restored"
    manifest = restored(place, target)
    for number in range(40):
        (target / "media" / f"extra-{number}").write_text("x")
    assert len(check_restored(target, manifest, place.application)) == 20


def test_a_database_that_kills_its_reader_is_a_finding(place: Place, tmp_path: Path) -> None:
    target = tmp_path / "restored"
    manifest = restored(place, target)

    def runner(arguments: Any, **given: Any) -> Completed:
        return Completed(tuple(arguments), -11, "", "")

    found = check_restored(target, manifest, place.application, parts=("databases",), runner=runner)
    assert {each.sentence for each in found} == {
        "The database main cannot be read (exit code -11): choose another restore point."
    }


def test_a_canary_without_an_answer_refutes_no_point_and_hides_no_difference(place: Place, tmp_path: Path) -> None:
    target = tmp_path / "restored"
    manifest = restored(place, target)
    policy = place.application.backup
    assert policy is not None
    (canary,) = policy.canaries
    unanswered = replace(policy, canaries=(replace(canary, query="SELECT count(*) FROM reports"),))
    application = replace(place.application, backup=unanswered)
    with pytest.raises(BackstayError, match=r"canary 'reports'.*no such table.*nothing was proven, and nothing refut"):
        check_restored(target, manifest, application, parts=("databases",))
    facts = manifest.databases["main"]
    changed = replace(manifest, databases={"main": replace(facts, schema_sha256="0" * 64)})
    (found,) = check_restored(target, changed, application, parts=("databases",))
    assert "schema of the database" in found.sentence


@pytest.mark.parametrize("ending", ["-wal", "-journal"])
def test_a_stale_log_is_seen_though_sqlite_calls_the_database_sound(place: Place, tmp_path: Path, ending: str) -> None:
    target = tmp_path / "restored"
    manifest = restored(place, target)
    (target / "databases" / f"main.sqlite3{ending}").write_bytes(b"")
    (found,) = check_restored(target, manifest, place.application)
    assert f"a stale main.sqlite3{ending}" in found.sentence


def test_the_job_of_the_sandbox_is_refused_by_an_older_library(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ansible_collections.backstay.ops.plugins.module_utils._proof import inner_main

    job = tmp_path / "job.json"
    job.write_text(json.dumps({"format": 99}))
    assert inner_main([str(job)]) == 1
    told = capsys.readouterr()
    assert "newer backstay" in told.err
    assert json.loads(told.out)["event"] == "hindered"


def test_what_hinders_the_look_inside_is_told_in_its_own_words_and_refutes_nothing(
    original: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = original.application
    assert declared.backup is not None
    asked = replace(declared.backup.files[0], query="SELECT photograph FROM reports")
    wrong = replace(declared, backup=replace(declared.backup, files=(asked,)))
    monkeypatch.setattr(_proof._Proving, "_application_of", lambda _self, _stage: wrong)
    with pytest.raises(BackstayError, match=r"no such table: reports.*nothing was proven, and nothing refuted"):
        original.prove(level=4)


def test_a_wrong_password_or_a_disk_that_is_not_mounted_refutes_no_point(place: Place) -> None:
    locked = place.prove(level=2, password="another")
    place.repository_path.rename(place.top / "unmounted")
    gone = place.prove(level=2)
    for proof in (locked, gone):
        assert (proof.ok, proof.level) == (False, 0)
        assert not proof.findings[0].refutes


@pytest.mark.parametrize("value", [1732190000, 1732190000.0, "1732190000", "1732190000.000000", "2024-11-21T11:53:20Z"])
def test_a_time_is_one_however_a_database_writes_it(value: object) -> None:
    assert utc_of(value) == dt.datetime(2024, 11, 21, 11, 53, 20, tzinfo=dt.UTC)
