"""What the library has written is there after a power cut at any moment, and what it was writing is old or new.

Journal, ledger, link, files and units each over a disk that forgets what was not synced (`lossy_storage.py`): the power
fails after every single effect, every survivor is booted, looked at and written to again. BACKSTAY_ALL=1 tears each
line at every byte.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._journal import Journal
from ansible_collections.backstay.ops.plugins.module_utils._ledger import Ledger
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage

from .lossy_storage import LossyStorage, Tree, lay

Work = Callable[[Storage, Path, Callable[[], None]], None]
Tell = Callable[[str, object], None]
ALL = os.environ.get("BACKSTAY_ALL") in ("1", "states")


def visible(tree: Tree) -> Tree:
    """Without what a write that was cut short leaves beside its target."""
    return {name: content for name, content in tree.items() if not any(p.endswith(".new") for p in name.split("/"))}


class Killed(BaseException):
    """The process is gone: nothing that catches errors may catch this."""


class Sweep:
    """Runs something over a lossy disk and keeps each distinct survivor, with what had been promised by then."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.points = 0
        self.states = 0
        self.booted = 0

    def run(
        self, start: Tree, work: Work, *, killed_at: int | None = None, again: Work | None = None
    ) -> list[tuple[int, Tree]]:
        """`work(storage, root, promised)` calls `promised` when something it did must survive from now on. Returns the
        survivors, each with the number of promises that were given before the power failed.

        With `killed_at`, the process of `work` dies at that point, its unsynced writes still in memory; `again` then
        takes over on the same running host, and the power fails during that.
        """
        root = lay(start, self.directory / "running")
        found: dict[tuple[int, frozenset[tuple[str, bytes | str | None]]], Tree] = {}
        promises = 0

        def promised() -> None:
            nonlocal promises
            promises += 1
            at("promised")

        left = killed_at

        def at(_label: str) -> None:
            nonlocal left
            if left is not None:
                if left == 0:
                    left = None
                    raise Killed
                left -= 1
                return
            self.points += 1
            for tree in storage.survivors(thorough=True):
                self.states += 1
                seen = visible(tree)
                found.setdefault((promises, frozenset(seen.items())), seen)

        storage = LossyStorage(root, at)
        storage.every_byte = ALL
        try:
            work(storage, root, promised)
        except Killed:
            if again is None:
                raise
            again(storage, root, promised)
        return [(count, tree) for (count, _key), tree in found.items()]

    def boot(self, tree: Tree) -> Path:
        self.booted += 1
        return lay(tree, self.directory / "booted")

    def __str__(self) -> str:
        return f"{self.points} crash points, {self.states} surviving states, {self.booted} distinct ones booted"


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path)


# the journal

STEPS = [("begin", "begin"), ("reserve", "begin"), ("reserve", "done"), ("flip", "begin"), ("flip", "done")]
HOME: Tree = {"var": None, "var/journal.d": None}


def journal_at(root: Path, storage: Storage) -> Journal:
    return Journal(root / "var/journal.jsonl", root / "var/journal.d", storage, lambda: "t")


def test_a_journal_holds_every_record_that_was_promised_and_none_that_was_not_begun(
    sweep: Sweep, record_property: Tell
) -> None:
    def work(storage: Storage, root: Path, promised: Callable[[], None]) -> None:
        journal = journal_at(root, storage)
        for step, state in STEPS:
            journal.write(step, state, detail="größer" * 3)
            promised()
        journal.close("t-1")
        promised()

    for promises, tree in sweep.run(HOME, work):
        root = sweep.boot(tree)
        storage = LossyStorage(root)
        journal = journal_at(root, storage)
        records = [(record.step, record.state) for record in journal.read()]
        archived = (root / "var/journal.d/t-1.jsonl").exists()
        if promises > len(STEPS):
            assert archived, f"a journal that was put away is gone: {tree}"
            assert not (root / "var/journal.jsonl").exists(), "a finished transaction looks unfinished"
            continue
        if not records and archived:
            continue  # being put away: it had ended
        assert records == STEPS[: len(records)], f"records out of order: {records}"
        assert promises <= len(records) <= promises + 1, f"{promises} were promised, {len(records)} are there"
        written = journal.write("recover", "begin")
        assert written.number == len(records) + 1
        again = journal_at(root, storage).read()
        assert [(r.step, r.state) for r in again] == [*records, ("recover", "begin")], "recovery cannot write on"
    record_property("told", f"crash: journal: {sweep}")


# the ledger

ENTRIES = 4


def ledger_at(root: Path, storage: Storage) -> Ledger:
    return Ledger(root / "var/ledger.jsonl", storage, lambda: "t")


def test_a_ledger_is_sound_or_torn_after_any_row_of_crashes_and_never_called_tampered(
    sweep: Sweep, record_property: Tell
) -> None:
    """Not one crash but any number of them: whatever a crash leaves is written on, under a crash at every effect again,
    until nothing new turns up."""
    open_states: list[Tree] = [{"var": None}]
    known = {frozenset(open_states[0].items())}
    torn = lagging = 0
    while open_states:
        start = open_states.pop()
        before = len(ledger_at(sweep.boot(start), Storage()).read())

        def work(storage: Storage, root: Path, promised: Callable[[], None], number: int = before + 1) -> None:
            ledger_at(root, storage).append("live", f"{number:04d}-1.0.0", by="ops")
            promised()

        for promises, tree in sweep.run(start, work):
            key = frozenset(tree.items())
            if (promises, key) in known:
                continue
            known.add((promises, key))
            root = sweep.boot(tree)
            ledger = ledger_at(root, Storage())
            verdict, sentence = ledger.verify()
            assert verdict in ("sound", "torn"), f"a crash was told as {verdict}: {sentence} {tree}"
            torn += verdict == "torn"
            entries = ledger.read()
            assert [entry.number for entry in entries] == list(range(1, len(entries) + 1))
            assert before + promises <= len(entries) <= before + 1, f"{len(entries)} entries of {before} + {promises}"
            anchor = tree.get("var/ledger.head")
            lagging += isinstance(anchor, bytes) and json.loads(anchor)["number"] < len(entries)
            if key not in known and len(entries) < ENTRIES:
                known.add(key)
                open_states.append(tree)
    assert torn
    assert lagging, "a crash between an entry and its anchor must be among the survivors"
    record_property("told", f"crash: ledger: {sweep}; {torn} torn, {lagging} ahead of their anchor")


def test_an_entry_whose_writer_was_killed_before_its_sync_is_synced_before_it_is_anchored(
    sweep: Sweep, record_property: Tell
) -> None:
    """The next process reads the entry from memory; were its anchor on the disk first, a power cut would then leave an
    anchor without its entry, which is what a truncated ledger looks like."""

    def append(storage: Storage, root: Path, promised: Callable[[], None]) -> None:
        ledger = ledger_at(root, storage)
        ledger.append("live", f"{len(ledger.read()) + 1:04d}-1.0.0")
        promised()

    root = lay({"var": None}, sweep.directory / "before")
    for _unused in range(2):
        append(Storage(), root, lambda: None)
    start: Tree = {
        "var": None,
        "var/ledger.jsonl": (root / "var/ledger.jsonl").read_bytes(),
        "var/ledger.head": (root / "var/ledger.head").read_bytes(),
    }
    kills = 0
    for begin in ({"var": None}, start):
        for point in itertools.count():
            survivors = sweep.run(begin, append, killed_at=point, again=append)
            if not survivors:
                break  # it had ended before that point
            kills += 1
            for _promises, tree in survivors:
                ledger = ledger_at(sweep.boot(tree), Storage())
                verdict, sentence = ledger.verify()
                assert verdict in ("sound", "torn"), f"killed at {point}, then the power failed: {sentence}"
                ledger.append("live", "0009-1.0.0")
                assert ledger.verify()[0] == "sound"
    assert kills > 15, "every effect of two appends is struck"
    record_property("told", f"crash: ledger, killed at {kills} points and then cut off: {sweep}")


# links, files, directories

OLD, NEW = "/run/portal/0001-1.0.0/web.sock", "/run/portal/0002-1.1.0/web.sock"
PLACE: Tree = {
    "opt": None,
    "opt/active": OLD,
    "opt/unit.service": b"[Service]\nExecStart=/old\n",
    "opt/tree": None,
    "opt/tree/one": b"1",
    "opt/tree/two": None,
    "opt/tree/two/three": b"3",
    "opt/elsewhere": None,
}


def _link(storage: Storage, root: Path) -> None:
    storage.link(root / "opt/active", NEW)


def _first_link(storage: Storage, root: Path) -> None:
    storage.link(root / "opt/first", NEW)


def _replace(storage: Storage, root: Path) -> None:
    storage.write(root / "opt/unit.service", b"[Service]\nExecStart=/new\n")


def _write(storage: Storage, root: Path) -> None:
    storage.write(root / "opt/fresh", b"all of it\n")


def _remove(storage: Storage, root: Path) -> None:
    storage.remove(root / "opt/unit.service")


def _rename(storage: Storage, root: Path) -> None:
    storage.rename(root / "opt/unit.service", root / "opt/elsewhere/unit.service")


def _remove_tree(storage: Storage, root: Path) -> None:
    storage.remove_tree(root / "opt/tree")


def _make_directory(storage: Storage, root: Path) -> None:
    storage.make_directory(root / "opt/deep/er", mode=0o700)
    storage.write(root / "opt/deep/er/file", b"kept\n")


def _removed_tree(tree: Tree) -> None:
    for name in ("opt/tree", "opt/tree/one", "opt/tree/two", "opt/tree/two/three"):
        tree.pop(name)


CHANGES: dict[str, tuple[Callable[[Storage, Path], None], Callable[[Tree], None]]] = {
    "a link is moved": (_link, lambda tree: tree.update({"opt/active": NEW})),
    "a link is made": (_first_link, lambda tree: tree.update({"opt/first": NEW})),
    "a unit is replaced": (_replace, lambda tree: tree.update({"opt/unit.service": b"[Service]\nExecStart=/new\n"})),
    "a file is written": (_write, lambda tree: tree.update({"opt/fresh": b"all of it\n"})),
    "a unit is removed": (_remove, lambda tree: tree.pop("opt/unit.service") and None),
    "a tree is removed": (_remove_tree, _removed_tree),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_whole_or_not_there_and_stays_when_it_was_promised(
    sweep: Sweep, record_property: Tell, name: str
) -> None:
    change, effect = CHANGES[name]
    new = dict(PLACE)
    effect(new)

    def work(storage: Storage, root: Path, promised: Callable[[], None]) -> None:
        change(storage, root)
        promised()

    seen = set()
    for promises, tree in sweep.run(PLACE, work):
        kept = visible(tree)
        assert kept in ([new] if promises else [PLACE, new]), f"{name}: neither old nor new, after {promises} promises"
        seen.add(tree == new)
        root = sweep.boot(tree)
        change(Storage(), root)  # whoever recovers does it again
        assert all((root / path).exists() or (root / path).is_symlink() for path in new)
    assert seen == {True, False}, "both the old and the new must be among the survivors"
    record_property("told", f"crash: {name}: {sweep}")


def test_a_file_that_moves_is_never_nowhere(sweep: Sweep) -> None:
    def work(storage: Storage, root: Path, promised: Callable[[], None]) -> None:
        _rename(storage, root)
        promised()

    for promises, tree in sweep.run(PLACE, work):
        here, there = tree.get("opt/unit.service"), tree.get("opt/elsewhere/unit.service")
        assert PLACE["opt/unit.service"] in (here, there)
        if promises:
            assert (here, there) == (None, PLACE["opt/unit.service"])


def test_a_directory_and_what_was_written_into_it_stay_when_they_were_promised(sweep: Sweep) -> None:
    """A sync of a new directory says nothing about its own name in its parent."""

    def work(storage: Storage, root: Path, promised: Callable[[], None]) -> None:
        _make_directory(storage, root)
        promised()

    for promises, tree in sweep.run(PLACE, work):
        if promises:
            assert tree.get("opt/deep/er/file") == b"kept\n", f"the file is gone with its directory: {sorted(tree)}"


def test_what_is_synced_before_it_gets_its_name_is_whole_under_that_name(sweep: Sweep) -> None:
    """Also where neither was done by a primitive of the storage, as for a release's static files."""

    def work(storage: Storage, root: Path, promised: Callable[[], None]) -> None:
        beside = root / "opt" / ".asset.new"
        beside.write_bytes(b"every byte of it\n")
        storage.sync_tree(root / "opt")
        beside.rename(root / "opt" / "asset")
        storage.sync_tree(root / "opt")
        promised()

    seen = set()
    for promises, tree in sweep.run(PLACE, work):
        seen.add(tree.get("opt/asset"))
        if promises:
            assert tree["opt/asset"] == b"every byte of it\n"
    assert seen == {None, b"every byte of it\n"}, "it is there whole, or not there"
