"""Promise 2: a release is a transaction; its journal survives a crash at any byte."""

from __future__ import annotations

import errno
import itertools
from pathlib import Path

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._journal import KEEP, Journal, parse
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage, canonical


def _journal(directory: Path) -> Journal:
    (directory / "journal.d").mkdir(exist_ok=True)
    clock = itertools.count()
    return Journal(directory / "journal.jsonl", directory / "journal.d", Storage(), lambda: f"t{next(clock)}")


def _lines(steps: list[tuple[str, str, dict[str, str]]]) -> list[bytes]:
    return [
        canonical({"format": 1, "number": n, "time": "t", "step": step, "state": state, "data": data}) + b"\n"
        for n, (step, state, data) in enumerate(steps, start=1)
    ]


def test_what_was_written_is_read_back_and_the_next_record_follows(tmp_path):
    journal = _journal(tmp_path)
    journal.write("begin", "begin", operation="release")
    journal.write("stage", "begin")
    again = _journal(tmp_path)
    assert [(r.step, r.state) for r in again.read()] == [("begin", "begin"), ("stage", "begin")]
    assert again.write("stage", "done").number == 3


def test_a_torn_line_is_cut_off_so_that_the_next_record_stands_alone(tmp_path):
    journal = _journal(tmp_path)
    journal.write("begin", "begin", operation="release")
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b'{"format":1,"numb')
    again = _journal(tmp_path)
    assert len(again.read()) == 1
    again.write("stage", "begin")
    assert [r.step for r in _journal(tmp_path).read()] == ["begin", "stage"]


def test_damage_in_the_middle_is_not_taken_for_a_torn_line():
    lines = _lines([("begin", "begin", {}), ("stage", "begin", {}), ("stage", "done", {})])
    with pytest.raises(BackstayError, match="cannot be read at line 2"):
        parse(lines[0] + b"rubbish\n" + lines[2], path="journal")


def test_a_newer_format_is_refused_with_the_remedy():
    line = canonical({"format": 9, "number": 1, "time": "t", "step": "begin", "state": "begin", "data": {}}) + b"\n"
    with pytest.raises(BackstayError, match=r"has format 9 and this backstay knows 1: update .*site\.yml"):
        parse(line + line, path="journal")


def test_closing_puts_the_journal_away_under_its_name(tmp_path):
    journal = _journal(tmp_path)
    journal.write("begin", "begin", operation="release")
    journal.close("20261121-1")
    assert not (tmp_path / "journal.jsonl").exists()
    assert (tmp_path / "journal.d" / "20261121-1.jsonl").exists()


def test_a_full_disk_leaves_no_empty_journal_that_looks_like_an_open_transaction(tmp_path):
    class Full(Storage):
        def _append(self, path, content, mode):
            path.touch()
            raise OSError(errno.ENOSPC, "No space left on device")

    journal = Journal(tmp_path / "journal.jsonl", tmp_path / "journal.d", Full(), lambda: "now")
    with pytest.raises(BackstayError, match=r"No space left on device; free some space"):
        journal.write("begin", "begin")
    assert not (tmp_path / "journal.jsonl").exists()


def test_a_clock_that_jumps_back_costs_neither_the_order_of_records_nor_the_newest_journal(tmp_path):
    """The name of a finished journal is a time: ten minutes back, it sorts before all that are there."""
    (tmp_path / "journal.d").mkdir()
    for minute in range(KEEP):
        (tmp_path / "journal.d" / f"20261121T12{minute:02d}00.jsonl").write_bytes(b"")
    times = itertools.cycle(["2026-11-21T12:10:00Z", "2026-11-21T12:00:00Z", "2026-11-21T12:05:00Z"])
    journal = Journal(tmp_path / "journal.jsonl", tmp_path / "journal.d", Storage(), lambda: next(times))
    steps = ["begin", "reserve", "stage", "flip", "confirm"]
    for step in steps:
        journal.write(step, "begin")
    assert [(record.number, record.step) for record in journal.read()] == list(enumerate(steps, start=1))
    journal.close("20261121T115000")
    kept = sorted(path.stem for path in (tmp_path / "journal.d").iterdir())
    assert len(kept) == KEEP
    assert kept[0] == "20261121T115000"
