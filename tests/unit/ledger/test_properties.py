"""Whatever is changed in a ledger, taken out or cut off is noticed, and nothing else is."""

from __future__ import annotations

import datetime
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._ledger import Entry, Ledger, read_entries
from ansible_collections.backstay.ops.plugins.module_utils._releases import fold
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage, canonical

from .test_ledger import _filled


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


# The states that a crash can leave are swept in tests/unit/crash: none is called tampered.


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
