"""Promise 7: nothing is merely absent. The ledger tells a crash from tampering and truncation."""

from __future__ import annotations

import itertools
import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._ledger import Ledger
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage


def _ledger(directory: Path) -> Ledger:
    clock = itertools.count()
    return Ledger(directory / "ledger.jsonl", Storage(), lambda: f"t{next(clock)}")


def _filled(directory: Path, count: int = 4) -> Ledger:
    ledger = _ledger(directory)
    for n in range(1, count + 1):
        ledger.append("live", f"{n:04d}-1.{n}.0", by="ops")
    return ledger


def test_entries_come_back_in_order_with_what_they_carried(tmp_path):
    ledger = _filled(tmp_path)
    assert [(e.number, e.event, e.release) for e in ledger.read()] == [
        (n, "live", f"{n:04d}-1.{n}.0") for n in range(1, 5)
    ]
    assert ledger.verify()[0] == "sound"


def test_an_empty_ledger_is_sound(tmp_path):
    assert _ledger(tmp_path).read() == ()


def test_a_torn_last_line_is_called_torn_and_the_next_entry_replaces_it(tmp_path):
    ledger = _filled(tmp_path)
    with (tmp_path / "ledger.jsonl").open("ab") as file:
        file.write(b'{"format":1,"number":5,"ev')
    assert ledger.verify()[0] == "torn"
    ledger.append("failed", "0005-1.5.0")
    assert [e.number for e in ledger.read()] == [1, 2, 3, 4, 5]


def test_a_crash_between_the_entry_and_its_anchor_is_sound(tmp_path):
    ledger = _filled(tmp_path)
    anchor = (tmp_path / "ledger.head").read_bytes()
    ledger.append("failed", "0005-1.5.0")
    (tmp_path / "ledger.head").write_bytes(anchor)
    verdict, sentence = ledger.verify()
    assert (verdict, "before the last was anchored" in sentence) == ("sound", True)
    ledger.append("live", "0006-1.6.0")
    assert len(ledger.read()) == 6


def test_crashes_in_a_row_between_entry_and_anchor_are_sound(tmp_path):
    """Each next entry brings the anchor up first, or a second crash would look like an old anchor put back."""

    class Cut(Storage):
        """The power fails as soon as an entry is on the disk."""

        def append(self, path, line, *, mode=0o600):
            super().append(path, line, mode=mode)
            raise KeyboardInterrupt

    ledger = _filled(tmp_path, 2)
    for number in range(3, 6):
        with pytest.raises(KeyboardInterrupt):
            Ledger(tmp_path / "ledger.jsonl", Cut(), lambda: "t").append("live", f"{number:04d}-1.0.0")
        assert ledger.verify()[0] == "sound"
        assert len(ledger.read()) == number


def test_a_ledger_cut_after_a_whole_line_was_truncated(tmp_path):
    ledger = _filled(tmp_path)
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    verdict, sentence = ledger.verify()
    assert (verdict, "truncated" in sentence) == ("tampered", True)
    with pytest.raises(BackstayError, match="cannot be trusted"):
        ledger.read()


def test_a_reader_without_the_lock_never_mistakes_an_entry_being_added_for_tampering(tmp_path):
    """A reader may see the ledger before an append and the anchor after it."""
    ledger = _filled(tmp_path)
    path, anchor = tmp_path / "ledger.jsonl", tmp_path / "ledger.head"
    before = path.read_bytes()
    ledger.append("live", "0005-1.5.0")
    after = path.read_bytes()

    class Late(Storage):
        """The first look at the ledger still finds the old content."""

        looked = False

        def read(self, asked: Path) -> bytes | None:
            if asked == path and not self.looked:
                self.looked = True
                return before
            return super().read(asked)

    assert (path.read_bytes(), anchor.exists()) == (after, True)
    assert len(Ledger(path, Late(), lambda: "t").read()) == 5


# Tampering and truncation; any of it is in test_properties.py.


def test_an_anchor_that_is_gone_is_noticed_once_there_are_two_entries(tmp_path):
    ledger = _filled(tmp_path, 2)
    (tmp_path / "ledger.head").unlink()
    assert ledger.verify() == ("tampered", "Its anchor ledger.head is missing.")


def test_a_ledger_that_is_gone_while_its_anchor_stays_was_truncated(tmp_path):
    ledger = _filled(tmp_path)
    (tmp_path / "ledger.jsonl").unlink()
    assert ledger.verify()[0] == "tampered"


def test_two_who_write_at_once_leave_one_sound_ledger(tmp_path: Path) -> None:
    """A proof tells of itself while a backup does."""
    start = multiprocessing.Barrier(2)
    writers = [multiprocessing.Process(target=_write_many, args=(tmp_path, start)) for _unused in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert _ledger(tmp_path).verify() == ("sound", "100 entries, each following the one before it.")


def _write_many(directory: Path, start: Barrier) -> None:
    ledger = _ledger(directory)
    start.wait(30)
    for _unused in range(50):
        ledger.append("live", "0001-1.0.0")
