"""What a host tells of itself to be compared, from its ledger, its journal and its files; the journal decides."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _fleet_host
from ansible_collections.backstay.ops.plugins.module_utils._application import parse, to_dict
from ansible_collections.backstay.ops.plugins.module_utils._fleet import configuration_digest, seen
from ansible_collections.backstay.ops.plugins.module_utils._journal import Journal
from ansible_collections.backstay.ops.plugins.module_utils._ledger import Ledger
from ansible_collections.backstay.ops.plugins.module_utils._releases import fold
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage
from ansible_collections.backstay.ops.plugins.module_utils._transaction import Request, Transaction

OLD, NEW = "0001-1.0.0", "0002-1.1.0"
PORTAL: dict[str, Any] = {
    "format": 1,
    "name": "portal",
    "domain": "portal.example.org",
    "source": {"repository": "https://git.example.org/portal.git"},
    "runtime": {"settings": "portal.settings", "wsgi": "portal.wsgi:application"},
    "processes": {"web": {}},
    "databases": [{"name": "default", "engine": "postgresql", "url_key": "DATABASE_URL"}],
    "environment": {"secret": ["DATABASE_URL"]},
}


class Engine:
    """Real ledger, journal and storage in a directory; nothing runs."""

    def __init__(self, root: Path) -> None:
        clock = itertools.count(10)
        self.storage = Storage()
        (root / "journal.d").mkdir()
        self.layout = SimpleNamespace(
            name="portal",
            journal=root / "journal.jsonl",
            application_file=root / "application.json",
            release=lambda release: root / "releases" / release,
            release_configuration=lambda release: root / "configuration" / release,
        )
        self.ledger = Ledger(root / "ledger.jsonl", self.storage, lambda: f"2026-11-21T10:00:{next(clock)}.000Z")
        self.journal = Journal(self.layout.journal, root / "journal.d", self.storage, lambda: "now")
        self.layout.application_file.write_text(json.dumps({"name": "portal", "domain": "new.example.org"}))
        for release in (OLD, NEW):
            self.layout.release(release).mkdir(parents=True)
            (self.layout.release(release) / "manifest.json").write_text("{}")
            self.layout.release_configuration(release).mkdir(parents=True)
            file = self.layout.release_configuration(release) / "application.json"
            file.write_text(json.dumps({"name": "portal", "domain": f"{release}.example.org", "source": str(root)}))
        self.ledger.append("staged", OLD, payload="aa", run="r1")
        self.ledger.append("live", OLD, run="r1")

    def history(self) -> Any:
        return fold(self.ledger.read())

    def live(self) -> str:
        return OLD

    def begin(self, *records: tuple[str, str]) -> None:
        request = Request("release", run="r2")
        transaction = Transaction(
            "t2", "portal", "release", NEW, OLD, "1.1.0", "bb", request, "2026-11-21T11:00:00.000Z"
        )
        self.ledger.append("staged", NEW, payload="bb", run="r2")
        self.journal.write("begin", "begin", **transaction.to_dict())
        for step, state in records:
            self.journal.write(step, state)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path)


def found(engine: Engine) -> Any:
    facts = json.loads(json.dumps(_fleet_host.facts(engine)))  # type: ignore[arg-type]  # a stand-in
    return seen({"live": engine.live(), "fleet": facts})


def test_with_nothing_open_the_ledger_tells(engine: Engine) -> None:
    told = found(engine)
    assert told.opened is None
    assert (told.confirmed.release, told.confirmed.payload, told.confirmed.run) == (OLD, "aa", "r1")
    assert told.confirmed.configuration == configuration_digest({"name": "portal", "domain": f"{OLD}.example.org"})
    assert told.declared == configuration_digest({"name": "portal", "domain": "new.example.org"})
    assert [held.release for held in told.retained] == [OLD]


def test_the_ledger_tells_every_run_in_its_order_also_of_a_release_that_came_back(engine: Engine) -> None:
    engine.ledger.append("live", NEW, run="r2")
    engine.ledger.append("withdrawn", NEW, by="ada")
    engine.ledger.append("live", OLD, run="r3")
    engine.ledger.append("live", OLD)  # by hand: it is of no run
    assert found(engine).runs == ("r1", "r2", "r3")


def test_what_a_release_of_before_an_update_does_not_say_is_no_difference(engine: Engine) -> None:
    """The host where it is live already is asked for nothing: it would differ from a new one for ever."""
    now = to_dict(parse(PORTAL, file="portal.yml"))
    before = {**now, "releases": {key: value for key, value in now["releases"].items() if key != "free_inodes"}}
    engine.layout.application_file.write_text(json.dumps(now))
    file = engine.layout.release_configuration(OLD) / "application.json"
    for held, same in ((before, True), ({**before, "domain": "other.example.org"}, False)):
        file.write_text(json.dumps(held))
        told = found(engine)
        assert (told.confirmed.configuration == told.declared) is same


@pytest.mark.parametrize(
    ("records", "flipped"),
    [
        ([("gate", "begin"), ("gate", "done")], False),
        ([("flip", "begin"), ("flip", "done"), ("handover", "begin")], False),
        ([("flip", "done"), ("handover", "done")], True),
        ([("handover", "done"), ("watch", "begin"), ("watch", "undo")], False),
    ],
)
def test_what_is_open_may_go_forward_once_it_was_flipped_and_while_nothing_is_undone(
    engine: Engine, records: list[tuple[str, str]], flipped: bool
) -> None:
    engine.begin(*records)
    told = found(engine)
    assert told.confirmed.release == OLD
    assert (told.opened.transaction, told.opened.run, told.opened.flipped) == ("t2", "r2", flipped)


def test_past_the_point_of_no_return_the_journal_counts_before_the_ledger_knows(engine: Engine) -> None:
    engine.begin(("handover", "done"), ("confirm", "begin"))
    told = found(engine)
    assert (told.confirmed.release, told.confirmed.run, told.confirmed.payload) == (NEW, "r2", "bb")
    assert told.opened.flipped


def test_a_release_that_is_confirmed_and_only_settles_is_not_open(engine: Engine) -> None:
    engine.begin(("handover", "done"), ("confirm", "begin"), ("confirm", "done"), ("settle", "begin"))
    assert found(engine).opened is None


def test_looking_never_cuts_a_line_that_is_being_written(engine: Engine) -> None:
    engine.begin(("handover", "done"))
    with engine.layout.journal.open("ab") as file:
        file.write(b'{"format": 1, "number"')
    before = engine.layout.journal.read_bytes()
    assert found(engine).opened.flipped
    assert engine.layout.journal.read_bytes() == before
