"""Promise 7: nothing is merely absent. The ledger tells a crash from tampering and truncation."""

from __future__ import annotations

import datetime
import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.backstay.ops.plugins.module_utils import _ledger as _ledger_module
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._ledger import Entry, Ledger, read_entries
from ansible_collections.backstay.ops.plugins.module_utils._releases import fold
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage, canonical


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Nobody adds to these ledgers while they are looked at again, and no power is cut (tests/unit/crash does that)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_ledger_module, "time", SimpleNamespace(sleep=lambda seconds: None))
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


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


@settings(max_examples=30)
@given(st.data())
def test_any_changed_entry_is_noticed(tmp_path_factory, data):
    directory = tmp_path_factory.mktemp("ledger")
    ledger = _filled(directory)
    path = directory / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    index = data.draw(st.integers(0, len(lines) - 1))
    value = json.loads(lines[index])
    key = data.draw(st.sampled_from(["number", "time", "event", "release", "previous", "hash"]))
    value[key] = 99 if key == "number" else "another"
    lines[index] = json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    path.write_bytes(b"".join(lines))
    assert ledger.verify()[0] == "tampered"
    with pytest.raises(BackstayError):
        ledger.append("live", "0009-9.0.0")


@settings(max_examples=50)
@given(st.data())
def test_a_ledger_cut_at_any_byte_is_read_up_to_its_last_whole_line(tmp_path_factory, data):
    directory = tmp_path_factory.mktemp("ledger")
    _filled(directory, 3)
    content = (directory / "ledger.jsonl").read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    reading = read_entries(content[:cut])
    assert reading.fault is None
    assert len(reading.entries) == content[:cut].count(b"\n")
    assert reading.torn == (not content[:cut].endswith(b"\n") and cut > 0)


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


# Tampering and truncation. The states that a crash can leave are swept in tests/unit/crash: none is called tampered.


def _lines(directory: Path) -> list[bytes]:
    return (directory / "ledger.jsonl").read_bytes().splitlines(keepends=True)


def _put(directory: Path, lines: list[bytes]) -> None:
    (directory / "ledger.jsonl").write_bytes(b"".join(lines))


def _forged(lines: list[bytes], start: int) -> list[bytes]:
    """The lines from `start` written anew, each with a correct hash of what it now says."""
    made = lines[:start]
    for line in lines[start:]:
        value = json.loads(line)
        value.pop("hash")
        value["previous"] = json.loads(made[-1])["hash"] if made else "0" * 64
        value["data"] = {"by": "somebody else"}
        digest = hashlib.sha256(canonical(value)).hexdigest()
        made.append(canonical({**value, "hash": digest}) + b"\n")
    return made


@settings(max_examples=25)
@given(st.data())
def test_a_ledger_that_lost_whole_lines_at_its_end_was_truncated_torn_or_not(tmp_path_factory, data):
    directory = tmp_path_factory.mktemp("ledger")
    ledger = _filled(directory, 5)
    lines = _lines(directory)
    kept = data.draw(st.integers(0, 4))
    rest = lines[kept][: data.draw(st.integers(0, len(lines[kept]) - 1))]
    _put(directory, [*lines[:kept], rest])
    verdict, sentence = ledger.verify()
    assert (verdict, "truncated" in sentence) == ("tampered", True), sentence
    with pytest.raises(BackstayError, match="cannot be trusted"):
        ledger.append("live", "0009-9.0.0")
    assert _lines(directory) == [line for line in [*lines[:kept], rest] if line], "what is not trusted is left alone"


@settings(max_examples=25)
@given(st.data())
def test_a_line_taken_out_put_in_twice_or_exchanged_is_noticed(tmp_path_factory, data):
    directory = tmp_path_factory.mktemp("ledger")
    ledger = _filled(directory, 5)
    lines = _lines(directory)
    here = data.draw(st.integers(0, 3))
    there = data.draw(st.integers(here + 1, 4))
    changed = data.draw(st.sampled_from(["out", "twice", "exchanged"]))
    if changed == "out":
        del lines[here]
    elif changed == "twice":
        lines.insert(there, lines[here])
    else:
        lines[here], lines[there] = lines[there], lines[here]
    _put(directory, lines)
    assert ledger.verify()[0] == "tampered", changed


@pytest.mark.parametrize("behind", [0, 1], ids=["anchored", "a crash before the last was anchored"])
@settings(max_examples=10)
@given(start=st.integers(0, 4))
def test_entries_written_anew_with_correct_hashes_are_noticed_by_the_anchor(tmp_path_factory, behind, start):
    """Whoever changes an entry and all hashes after it has to change the anchor too; also while it lags by one."""
    directory = tmp_path_factory.mktemp("ledger")
    ledger = _filled(directory, 4)
    anchor = (directory / "ledger.head").read_bytes()
    ledger.append("live", "0005-1.5.0", by="ops")
    if behind:
        (directory / "ledger.head").write_bytes(anchor)
    _put(directory, _forged(_lines(directory), start))
    expected = "sound" if behind and start == 4 else "tampered"  # one entry ahead of the anchor is what a crash leaves
    assert ledger.verify()[0] == expected


@settings(max_examples=25)
@given(st.data())
def test_any_byte_changed_in_an_anchored_ledger_is_noticed(tmp_path_factory, data):
    directory = tmp_path_factory.mktemp("ledger")
    ledger = _filled(directory, 3)
    path = directory / data.draw(st.sampled_from(["ledger.jsonl", "ledger.head"]))
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[at]))
    path.write_bytes(bytes(content))
    if ledger.verify()[0] == "sound":  # only where what the anchor says is the same: its format, a space
        assert path.suffix == ".head"
        assert len(ledger.read()) == 3
    else:
        assert ledger.verify()[0] == "tampered"


def test_an_anchor_that_is_gone_is_noticed_once_there_are_two_entries(tmp_path):
    ledger = _filled(tmp_path, 2)
    (tmp_path / "ledger.head").unlink()
    assert ledger.verify() == ("tampered", "Its anchor ledger.head is missing.")


def test_a_ledger_that_is_gone_while_its_anchor_stays_was_truncated(tmp_path):
    ledger = _filled(tmp_path)
    (tmp_path / "ledger.jsonl").unlink()
    assert ledger.verify()[0] == "tampered"


# The clock


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(-600, 600), st.sampled_from(["staged", "live", "withdrawn"])), max_size=12))
def test_order_is_that_of_the_lines_however_the_clock_jumps(tmp_path_factory, jumps):
    """Ten minutes off, forth and back: what became of each release follows from the order of writing alone."""
    directory = tmp_path_factory.mktemp("ledger")
    now = 1_795_000_000

    def clock() -> str:
        return datetime.datetime.fromtimestamp(now, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    ledger = Ledger(directory / "ledger.jsonl", Storage(), clock)
    steady = []
    for number, (jump, event) in enumerate(jumps, start=1):
        now += jump
        ledger.append(event, f"{number % 3 + 1:04d}-1.0.0", by="ops")
        steady.append((number, event, f"{number % 3 + 1:04d}-1.0.0"))
    entries = ledger.read()
    assert [(entry.number, entry.event, entry.release) for entry in entries] == steady
    assert ledger.verify()[0] == "sound"
    states = {name: (release.state, release.proven) for name, release in fold(entries).releases.items()}
    level = [Entry(entry.number, "t", entry.event, entry.release, entry.data) for entry in entries]
    assert states == {name: (release.state, release.proven) for name, release in fold(level).releases.items()}
