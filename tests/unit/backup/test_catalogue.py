"""The catalogue: what its events come to, and that a repository alone is enough to write it anew."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._catalogue import (
    Tried,
    candidates,
    catalogue,
    fold,
    from_repository,
    held_since,
    points,
    rebuild,
    restored,
)
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._ledger import Entry
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage

from .host import Host

STORED = {"id": "r", "snapshot": "s", "tree": "t", "manifest_snapshot": "m"}


def _events(*events: tuple[str, str, dict[str, object]]) -> list[Entry]:
    return [Entry(number, f"t{number}", *event) for number, event in enumerate(events, start=1)]


def _made(run: str = "a") -> list[tuple[str, str, dict[str, object]]]:
    made = {"manifest": "d" + run, "rows": 5, "size_bytes": 50, "release": "0001-1.0.0", "version": "1.0.0"}
    return [
        ("begun", run, {"at": "2026-01-01T00:00:00Z", "release": "0001-1.0.0"}),
        ("made", run, made),
        ("stored", run, {"repository": "disk", **STORED}),
    ]


def test_a_run_counts_when_it_is_stored_and_not_before():
    events = _events(*_made())
    assert not fold(events[:1])[0].good
    assert not fold(events[:2])[0].good
    (point,) = fold(events)
    assert point.good
    assert (point.run, point.level, point.rows, point.size_bytes) == ("a", 1, 5, 50)
    assert (point.release, point.version, point.manifest) == ("0001-1.0.0", "1.0.0", "da")


def test_how_much_is_in_each_database_is_known_since_it_is_written_down():
    begun, made, stored = _made()
    counted = (*made[:2], {**made[2], "databases": {"default": 2, "events": 3}, "files": 7})
    (point,) = fold(_events(begun, counted, stored))
    assert (point.databases, point.files) == ({"default": 2, "events": 3}, 7)
    (candidate,) = candidates([point], "disk", {})
    assert (candidate.databases, candidate.files) == ({"default": 2, "events": 3}, 7)
    (before,) = fold(_events(begun, made, stored))
    assert (before.databases, before.files) == (None, None)


def test_a_proof_raises_the_level_of_its_copy():
    both = [*_made(), ("stored", "a", {"repository": "offsite", **STORED})]
    proven = ("proven", "a", {"repository": "offsite", "level": 4, "seconds": 9.5})
    (point,) = fold(_events(*both, proven))
    assert (point.level, point.proven_seconds, point.best and point.best.repository) == (4, 9.5, "offsite")
    assert point.repositories["disk"].level == 1


def test_a_weaker_proof_takes_nothing_away():
    strong = ("proven", "a", {"repository": "disk", "level": 4, "seconds": 9})
    weak = ("proven", "a", {"repository": "disk", "level": 2, "seconds": 1})
    (point,) = fold(_events(*_made(), strong, weak))
    assert point.level == 4


def test_a_refuted_copy_does_not_count_and_the_other_does():
    refuted = ("refuted", "a", {"repository": "disk", "level": 3, "reason": "a bit is wrong"})
    (point,) = fold(_events(*_made(), refuted))
    assert (point.good, point.level, point.refuted) == (False, 0, "a bit is wrong")
    (point,) = fold(_events(*_made(), ("stored", "a", {"repository": "offsite", **STORED}), refuted))
    assert (point.good, point.refuted) == (True, None)
    assert [each.good for each in candidates([point], "disk", {})] == [False]


def test_a_later_proof_of_that_level_ends_a_refutation():
    refuted = ("refuted", "a", {"repository": "disk", "level": 3, "reason": "a bit is wrong"})
    lower = ("proven", "a", {"repository": "disk", "level": 2})
    same = ("proven", "a", {"repository": "disk", "level": 3})
    assert not fold(_events(*_made(), refuted, lower))[0].good
    assert fold(_events(*_made(), refuted, same))[0].level == 3


def test_when_a_repository_was_restored_from_outlives_the_copy_and_the_turn_of_one_that_failed():
    held = ("proven", "a", {"repository": "disk", "level": 5, "asked": 5})
    failed = ("refuted", "b", {"repository": "disk", "level": 2, "asked": 4})
    read = ("proven", "b", {"repository": "disk", "level": 3, "asked": 3})
    away = ("unproven", "b", {"repository": "disk", "level": 1, "asked": 4})
    found = fold(_events(*_made(), held, ("expired", "a", {"repository": "disk"}), *_made("b"), failed, read))
    assert restored(found, "disk") == Tried("t9", 5, "t4")
    assert restored(fold(_events(*_made("b"), read)), "disk") == Tried()
    assert restored(fold(_events(*_made("b"), away)), "disk") == Tried("t4")
    elsewhere = ("proven", "a", {"repository": "disk", "level": 4, "asked": 4, "at": "t0"})
    assert restored(fold(_events(*_made(), held, elsewhere)), "disk") == Tried("t4", 5, "t4")
    assert held_since(found, "disk") == "t1"
    assert held_since(found, "bucket") is None


def test_what_expired_is_no_longer_there():
    (point,) = fold(_events(*_made(), ("expired", "a", {"repository": "disk"})))
    assert (point.good, point.expired, dict(point.repositories)) == (False, ("disk",), {})


def test_an_accepted_shrink_covers_all_that_came_before():
    found = fold(_events(*_made("a"), *_made("b"), ("accepted", "b", {}), *_made("c")))
    assert [point.accepted for point in found] == [True, True, False]


def test_events_that_nobody_knows_are_passed_over():
    assert fold(_events(*_made(), ("unproven", "a", {}), ("kept_back", "z", {"repository": "disk"})))[0].good


def test_a_failure_in_one_repository_is_told_beside_the_others():
    (point,) = fold(_events(*_made(), ("failed", "a", {"repository": "offsite", "reason": "away"})))
    assert (point.good, dict(point.failed_in), point.failed) == (True, {"offsite": "away"}, None)


def test_a_catalogue_that_was_changed_is_not_believed(tmp_path):
    layout = Layout("portal", tmp_path)
    layout.state.mkdir(parents=True)
    chain = catalogue(layout, Storage(), lambda: "t")
    for event, run, data in _made():
        chain.append(event, run, **data)
    layout.backups.write_text(layout.backups.read_text().replace('"rows":5', '"rows":9'))
    with pytest.raises(BackstayError, match="cannot be trusted"):
        points(layout, Storage())


def test_the_catalogue_comes_back_from_a_repository_alone(tmp_path):
    host = Host(tmp_path).build()
    for _day in range(2):
        host.run()
    known = host.points()
    alone = from_repository(host.repositories()["disk"])
    assert [point.run for point in alone] == [point.run for point in known]
    host.layout.backups.unlink()
    host.layout.backups.with_suffix(".head").unlink()
    again = rebuild(host.layout, Storage(), host.now, list(host.repositories().values()))
    for before, after in zip(known, again, strict=True):
        assert (after.run, after.at, after.manifest, after.rows) == (
            before.run,
            before.at,
            before.manifest,
            before.rows,
        )
        assert (after.release, after.version, after.payload) == (before.release, before.version, before.payload)
        assert after.size_bytes == before.size_bytes
        for name, copy in after.repositories.items():
            plain = replace(before.repositories[name], level=1, proven_at=None, proven_seconds=None, stored_at="")
            assert replace(copy, stored_at="") == plain
    with pytest.raises(BackstayError, match="There is a catalogue already"):
        rebuild(host.layout, Storage(), host.now, [])
    outcome = host.run()  # and the next run goes on from there
    assert (outcome.exit_code, outcome.point.level) == (0, 3)


def test_a_drill_of_another_hosts_points_is_no_catalogue_in_the_way_of_rebuilding(tmp_path):
    host = Host(tmp_path).build()
    host.run()
    (known,) = host.points()
    host.layout.backups.unlink()
    host.layout.backups.with_suffix(".head").unlink()
    drill = {"repository": "disk", "level": 3, "snapshot": "s", "seconds": 1.0}
    catalogue(host.layout, Storage(), host.now).append("proven", "20250101T000000Z-elsewhere", **drill)
    (again,) = rebuild(host.layout, Storage(), host.now, list(host.repositories().values()))
    assert (again.run, again.manifest) == (known.run, known.manifest)
