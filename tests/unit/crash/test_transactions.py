"""Promise 2 over a disk that forgets: a whole transaction of the real engine, cut off after every single write.

Every operation of `_steps.OPERATIONS` runs once on a lossy disk. At each effect (a write, a sync, a rename ...) what a
power cut may leave is kept: every prefix of what was not synced, and what a reordering disk adds. On each survivor the
host boots and recovers, and then: `active` names one whole release, old or new as the journal promised; the
journal is put away and the ledger is good; the data fit the release; what must run, runs; the door is open; and the
next release gets an id of its own and all its assets. A recovery is cut off in the same way.

For a restore and its undoing that means: the generation that is live is whole, the old one with the rows that were only
in its log, the new one with those of the point and none of another's log; what is not live is whole or gone; and the
next restore works.

By default a seeded sample runs, in which no step of any operation is missing. BACKSTAY_ALL=1 (`make chaos`) boots what
each crash point may leave at least once, in minutes; BACKSTAY_ALL=states every distinct state, in hours.
"""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _generations, _runtime
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._releases import must_run
from ansible_collections.backstay.ops.plugins.module_utils._service import recover
from ansible_collections.backstay.ops.plugins.module_utils._steps import (
    CLOSED,
    OPERATIONS,
    POINT_OF_NO_RETURN,
    RESTORES,
    all_steps,
)
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage
from ansible_collections.backstay.ops.plugins.module_utils._transaction import Request

from .full_disk import FullDisk
from .host import (
    LIVE_MEDIA,
    NAME,
    POINT_MEDIA,
    SINCE,
    CrashEngine,
    Host,
    Payloads,
    Quick,
    conduct,
    database,
    declare,
    engine_on,
    live_for_a_while,
    media,
    play,
)
from .lossy_storage import LossyStorage, Tree, fingerprint, lay

Tell = Callable[[str, object], None]
EVERY_STATE = os.environ.get("BACKSTAY_ALL") == "states"
ALL = EVERY_STATE or os.environ.get("BACKSTAY_ALL") == "1"
SEED = 20261121


@dataclass(frozen=True)
class Scenario:
    """An operation on a host: one on which nothing is live yet, or one that has released twice."""

    name: str
    operation: str
    first: bool = False
    configuration: bool = False  # the payload that is live, configured anew
    only: tuple[str, ...] = ()  # of a restore
    pair: bool = False  # of a restore that brings its release along, or the undoing of one

    @property
    def start(self) -> str:
        """What the host has been through."""
        if self.operation in RESTORES:
            restored = "restored with its release" if self.pair else "restored"
            return "with a restore point" if self.operation == "restore" else restored
        return "declared" if self.first else "released twice"

    @property
    def generation(self) -> str:
        """The one that is live when it went through."""
        return "0002" if self.operation == "restore" else "0001"

    @property
    def old(self) -> str | None:
        if self.pair and self.operation == "undo":
            return "0001-1.0.0"
        return None if self.first else "0002-1.1.0"

    @property
    def new(self) -> str:
        if self.operation in RESTORES:
            return "0001-1.0.0" if self.pair and self.operation == "restore" else "0002-1.1.0"
        if "reserve" not in all_steps(self.operation):
            return "0001-1.0.0"
        return "0001-1.2.0" if self.first else "0003-1.1.0" if self.configuration else "0003-1.2.0"

    def request(self, world: World) -> Request:
        """Those that reserve an id release a payload; the others go back."""
        if self.operation in RESTORES:
            undo = self.operation == "undo"
            return Request(
                "restore", by="tests", point="latest", undo=undo, only=self.only, with_release=self.pair and not undo
            )
        if "reserve" not in all_steps(self.operation):
            return Request("rollback", by="tests")
        if self.configuration:
            return Request("release", by="tests")
        return world.request()


# Enumerated, so that a new operation is swept without anyone remembering.
SCENARIOS = {operation: Scenario(operation, operation) for operation in OPERATIONS}
MORE = [
    Scenario("first release", "release", first=True),
    Scenario("configuration", "release", configuration=True),
    Scenario("restore of some media", "restore", only=("media:2026",)),
    Scenario("restore of the database", "restore", only=("database:default",)),
    Scenario("restore of data and release", "restore", pair=True),
    Scenario("undo of data and release", "undo", pair=True),
]
SCENARIOS |= {scenario.name: scenario for scenario in MORE}


@dataclass(frozen=True)
class Survivor:
    """What may be found after a power cut: `step` was being done, or recovery was at work after it."""

    step: str
    label: str
    tree: Tree


@dataclass(frozen=True)
class Sweep:
    """Distinct survivors, the disk they come from, and how many states there were in each step."""

    survivors: list[Survivor]
    storage: LossyStorage
    states: Counter[str]


# The rows of the point, migrated to the live schema, and without what the retention deletes.
RESTORED = ["note: in the point", "portal.0001", "portal.0002"]
# The same under the release that made the point: nothing is migrated.
PAIR = ["note: in the point", "portal.0001"]


def brought_by(scenario: Scenario) -> tuple[list[str], dict[str, bytes]]:
    """The rows and the media that are live after a restore or its undoing."""
    if scenario.operation == "undo":
        return SINCE, LIVE_MEDIA
    if scenario.pair:
        return PAIR, POINT_MEDIA
    whole = not scenario.only
    rows = RESTORED if whole or "database:default" in scenario.only else SINCE
    if whole or "database:default" in scenario.only:
        return rows, POINT_MEDIA if whole else LIVE_MEDIA
    kept = {path: content for path, content in LIVE_MEDIA.items() if not path.startswith("2026/")}
    return rows, kept | {path: content for path, content in POINT_MEDIA.items() if path.startswith("2026/")}


class Killed(BaseException):
    """The process is gone: nothing that catches errors may catch this."""


class World:
    """One place in which hosts boot, and what is known to be whole."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = directory / "host"
        self.layout = Layout(NAME, self.root)
        self.payloads = Payloads(directory / "payloads")
        self.lossy: LossyStorage | None = None
        self.whole: dict[str, Tree] = {}
        self.swept: dict[tuple[str, bool], Sweep] = {}
        self.after: dict[str, list[str]] = {}  # the data when an operation went through
        self.media: dict[str, dict[str, bytes]] = {}
        play(monkeypatch, directory)
        monkeypatch.setattr(os, "fsync", self._fsync)
        self.quick = Quick()
        monkeypatch.setattr(_runtime, "Storage", lambda: self.lossy or self.quick)
        declare(self.layout)
        engine, _host = engine_on(self.layout, self.quick)
        self.starts = {"declared": self.read()}
        self.before = {"declared": database(self.layout)}
        for version in ("1.0.0", "1.1.0"):
            conduct(engine, self.request(version))
        self.starts["released twice"] = self.read()
        self.before["released twice"] = database(self.layout)
        self.remember()
        live_for_a_while(self.layout)
        self.starts["with a restore point"] = self.read()
        self.before["with a restore point"] = SINCE
        conduct(engine, Request("restore", by="tests", point="latest"))
        self.starts["restored"] = self.read()
        self.before["restored"] = database(self.layout)
        assert self.before["restored"] == RESTORED
        lay(self.starts["with a restore point"], self.root)
        again = Request("restore", by="tests", point="latest", with_release=True)
        conduct(engine_on(self.layout, self.quick)[0], again)
        self.starts["restored with its release"] = self.read()
        self.before["restored with its release"] = database(self.layout)
        assert self.before["restored with its release"] == PAIR
        lay(self.starts["released twice"], self.root)
        conduct(engine_on(self.layout, self.quick)[0], self.request())
        self.remember()

    def request(self, version: str = "1.2.0") -> Request:
        """To release a version, also one that is live; its payload was sent."""
        payload = self.payloads.send(version, self.layout)
        return Request("release", by="tests", version=version, payload=payload, again=True)

    def _fsync(self, descriptor: int) -> None:
        if self.lossy is not None:
            self.lossy.fsynced(descriptor)

    def read(self) -> Tree:
        return next(iter(LossyStorage(self.root).survivors(thorough=False)))

    def remember(self) -> None:
        """The files of each release that is complete here now."""
        tree = self.read()
        for path in tree:
            if path.startswith(f"opt/{NAME}/releases/") and path.endswith("/manifest.json"):
                release = path.split("/")[3]
                self.whole.setdefault(release, self.files_of(release, tree))

    def files_of(self, release: str, tree: Tree) -> Tree:
        """All that a release needs to run: files, virtualenv, configuration, units, and its assets."""
        home, etc = f"opt/{NAME}", f"etc/backstay/{NAME}/releases/{release}"
        link = tree.get(f"{home}/releases/{release}/venv")
        environment = f"{home}/environments/{str(link).rpartition('/')[2]}"
        static = f"{home}/releases/{release}/static/"
        wanted = {
            f"{home}/static/{path.removeprefix(static)}"
            for path, content in tree.items()
            if path.startswith(static) and content is not None and not path.endswith("staticfiles.json")
        }
        prefixes = (f"{home}/releases/{release}", etc, environment, f"etc/systemd/system/{NAME}-{release}-")
        return {path: content for path, content in tree.items() if path.startswith(prefixes) or path in wanted}

    def boot(self, tree: Tree, storage: Callable[[], Storage]) -> tuple[CrashEngine, Host]:
        lay(tree, self.root)
        return engine_on(self.layout, storage())

    def sweep(
        self,
        work: Callable[[LossyStorage], None],
        *,
        thorough: bool,
        step: str = "",
        chance: random.Random | None = None,
    ) -> Sweep:
        """Do `work` on a lossy disk beneath what lies here, and keep what a power cut leaves at each effect, or with
        `chance` at a fifth of them: each distinct state once for each step."""
        found: dict[tuple[str, int], Survivor] = {}
        states: Counter[str] = Counter()

        def at(label: str) -> None:
            if chance is not None and chance.random() > 0.2:
                return
            for survivor in storage.survivors(thorough=thorough):
                where = step or storage.context
                states[where] += 1
                found.setdefault((where, fingerprint(survivor)), Survivor(where, label, survivor))

        storage = self.lossy = LossyStorage(self.root, at)
        try:
            work(storage)
        finally:
            self.lossy = None
        return Sweep(list(found.values()), storage, states)

    def conducted(self, scenario: Scenario, *, thorough: bool) -> Sweep:
        """An operation, from the beginning to its end; swept once in one manner."""
        key = (scenario.name, thorough)
        if key in self.swept:
            return self.swept[key]
        lay(self.starts[scenario.start], self.root)
        request = scenario.request(self)

        def work(storage: LossyStorage) -> None:
            storage.context = "begin"
            conduct(engine_on(self.layout, storage)[0], request, operation=scenario.operation)

        self.swept[key] = self.sweep(work, thorough=thorough)
        self.after[scenario.name] = database(self.layout)
        self.media[scenario.name] = media(self.layout)
        if scenario.operation in RESTORES:
            found = self.after[scenario.name], self.media[scenario.name]
            assert found == brought_by(scenario), f"{scenario.name} brings something else"
        self.remember()
        return self.swept[key]

    def after_of(self, scenario: Scenario) -> list[str]:
        """The data when it went through."""
        if scenario.name not in self.after:
            self.conducted(scenario, thorough=False)
        return self.after[scenario.name]

    def recovered(self, survivor: Survivor, *, thorough: bool) -> Sweep:
        """The recovery of what survived a power cut, itself cut off."""
        lay(survivor.tree, self.root)

        def work(storage: LossyStorage) -> None:
            storage.context = f"recovery after {survivor.label}"
            recover(engine_on(self.layout, storage)[0])

        return self.sweep(work, thorough=thorough, step=survivor.step)

    def killed(self, scenario: Scenario, point: int, *, thorough: bool) -> tuple[str, Sweep] | None:
        """An operation whose process is killed at a point, and then a power cut in the recovery that follows on the
        running host: what was written is in memory, and not all of it on the disk. None when it ended before that."""
        lay(self.starts[scenario.start], self.root)
        request = scenario.request(self)
        killed_in = ""

        def work(storage: LossyStorage) -> None:
            nonlocal killed_in
            storage.context = "begin"
            keep, left = storage.at, [point]

            def strike(_label: str) -> None:
                left[0] -= 1
                if left[0] < 0:
                    raise Killed

            storage.at = strike
            engine, host = engine_on(self.layout, storage)
            try:
                conduct(engine, request, operation=scenario.operation)
            except Killed:
                killed_in = storage.context
                storage.at = keep
                engine.data_lock.release()  # the kernel does that
                next_engine, next_host = engine_on(self.layout, storage)
                next_host.running = host.running
                recover(next_engine)

        swept = self.sweep(work, thorough=thorough, chance=random.Random(point))
        return (killed_in, swept) if killed_in else None


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield World(tmp_path_factory.mktemp("world"), monkeypatch)


def allowed(operation: str, step: str) -> tuple[bool, ...]:
    """Which ends are right after a power cut in a step: forward, back, or whichever the journal has on the disk."""
    order = all_steps(operation)
    if step == POINT_OF_NO_RETURN:
        return (True, False)
    return (step in order and order.index(step) > order.index(POINT_OF_NO_RETURN),)


def check(world: World, scenario: Scenario, survivor: Survivor) -> None:
    """Boot what survived, recover, and look at all that was promised; then release once more."""
    where, operation = scenario.name, scenario.operation
    engine, host = world.boot(survivor.tree, Quick)
    layout = world.layout
    verdict, sentence = engine.ledger.verify()
    assert verdict in ("sound", "torn"), f"{where}: the ledger is called {verdict}: {sentence}"
    records = engine.journal.read()
    opened = operation in CLOSED and {("close", "undone"), ("open", "done")} & {(r.step, r.state) for r in records}
    visitor = ["visitor"] if opened else []
    if visitor:  # the door was open when the power failed: somebody may have written something
        database(layout, [*database(layout), *visitor])
    told = recover(engine)
    live = engine.live()
    forward = live == scenario.new
    assert live in (scenario.new, scenario.old), f"{where}: {live} is live; {told['message']}"
    if operation in RESTORES:
        forward = _generations.live(layout) == scenario.generation
        assert live == (scenario.new if forward else scenario.old), f"{where}: {live} is live on the other's data"
    assert forward in allowed(operation, survivor.step), f"{where}: {live} is live; {told['message']}"
    look(world, engine, host, where)
    rows = database(layout)
    if operation in RESTORES:
        look_at_generations(world, scenario, forward=forward)
    before, after = world.before[scenario.start], world.after[scenario.name]
    right = [after] if forward else [before] if operation in CLOSED else [before, after]
    assert rows in [[*each, *visitor] for each in right], f"{where}: {live} has the data {rows}; {told['message']}"
    assert recover(engine)["found"] == "nothing", f"{where}: recovery is not done with it"
    if operation in RESTORES:
        conduct(engine, SCENARIOS["restore"].request(world))
        brought = PAIR if live == "0001-1.0.0" else RESTORED
        assert database(layout) == brought, f"{where}: the next restore brings something else"
        look(world, engine, host, f"{where}, and the restore after it")
    used = set(engine.history().releases)
    transaction = conduct(engine, world.request())
    assert transaction.candidate not in used, f"{where}: the id {transaction.candidate} was given before"
    assert engine.live() == transaction.candidate
    look(world, engine, host, f"{where}, and the release after it")
    assert engine.ledger.verify()[0] == "sound", where
    left = [path for path in world.root.rglob(".*") if path.name.endswith(LEFT)]
    assert not left, f"{where}: {left} stay for ever"
    states = {release.id: release.state for release in engine.history().ordered()}
    units = {unit.name.removeprefix(f"{NAME}-").rpartition("-")[0] for unit in layout.units.iterdir()}
    for place in (layout.releases, layout.configuration / "releases"):
        there = {path.name for path in place.iterdir()}
        gone = [name for name in there | units if states.get(name) in (None, "failed", "pruned")]
        assert not gone, f"{where}: files of {gone} stay for ever"


LEFT = (".new", ".partial", ".restored", ".carried")


def look_at_generations(world: World, scenario: Scenario, *, forward: bool) -> None:
    """Before anybody has opened a database: which generations there are, that each is whole, and what they serve."""
    layout, where = world.layout, scenario.name
    there = sorted(path.name for path in layout.generations.iterdir())
    both = forward or scenario.operation == "undo"
    assert there == (["0001", "0002"] if both else ["0001"]), f"{where}: {there} lie in data.d"
    data = f"opt/{NAME}/data.d/"
    tree, start = world.read(), world.starts[scenario.start]
    for name in there if scenario.operation == "undo" else ["0001"]:
        if f"{data}{name}" == f"{data}{_generations.live(layout)}" and not (layout.data / "db").is_dir():
            raise AssertionError(f"{where}: what is live has no databases")
        found, wanted = (
            {path: content for path, content in each.items() if path.startswith(f"{data}{name}/uploads")}
            for each in (tree, start)
        )
        assert found == wanted, f"{where}: the media of {name} are not what they were"
    right = world.media[where] if forward else LIVE_MEDIA if scenario.operation == "restore" else POINT_MEDIA
    assert media(layout) == right, f"{where}: the media are {sorted(media(layout))}"


def faults_of(world: World, scenario: Scenario, survivors: list[Survivor]) -> list[str]:
    faults = []
    for survivor in survivors:
        try:
            check(world, scenario, survivor)
        except (AssertionError, BackstayError, OSError) as fault:
            told = str(fault).splitlines()[0].replace(f"{world.root}/", "")
            faults.append(f"{survivor.label}: {type(fault).__name__}: {told[:240]}")
    return faults


def look(world: World, engine: CrashEngine, host: Host, where: str) -> None:
    """What must hold at any time at which no transaction is open."""
    layout = world.layout
    assert not layout.journal.exists(), f"{where}: a transaction still looks open"
    assert not layout.maintenance_flag.exists(), f"{where}: the door is still closed"
    history = engine.history()
    live = engine.live()
    running = must_run(history, live)
    units = set()
    if live is not None:
        assert history.get(live) is not None, f"{where}: the ledger does not know {live}"
        units = {engine.web_unit(live), layout.unit(live, "scheduler")}
    if running.warm:
        units.add(engine.web_unit(running.warm))
    assert host.running == units, f"{where}: {sorted(host.running)} run, and {sorted(units)} must"
    tree = world.read()
    for release in filter(None, (running.live, running.warm)):
        found = world.files_of(release, tree)
        if release in world.whole:
            wanted = world.whole[release]
        else:  # a later release of the same version: as the one that is known, but for its own name
            wanted = named(world.whole["0003-1.2.0"], "0003-1.2.0", release)
            assert sorted(found) == sorted(wanted), f"{where}: {release} has other files than are right"
        for path, content in wanted.items():
            assert path in found, f"{where}: {path} of {release} is gone"
            assert found[path] == content, f"{where}: {path} of {release} is not what was written"


def named(tree: Tree, old: str, new: str) -> Tree:
    """The files of a release as another id would have them."""
    return {
        path.replace(old, new): content.replace(old.encode(), new.encode()) if isinstance(content, bytes) else content
        for path, content in tree.items()
    }


def sample(survivors: list[Survivor]) -> list[Survivor]:
    """One of each step's; one of each crash point's, or every one, where that is asked for."""
    if EVERY_STATE:
        return survivors
    among: dict[str, list[Survivor]] = {}
    for survivor in survivors:
        among.setdefault(f"{survivor.step}: {survivor.label}" if ALL else survivor.step, []).append(survivor)
    chance = random.Random(SEED)
    return [chance.choice(each) for each in among.values()]


def verdict(faults: list[str], checked: int) -> str:
    shown = list(dict.fromkeys(faults))[:20]
    return f"{len(faults)} of {checked} survivors are not well:\n" + "\n".join(shown)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_power_cut_at_any_write_leaves_one_whole_release(world: World, record_property: Tell, name: str) -> None:
    scenario = SCENARIOS[name]
    swept = world.conducted(scenario, thorough=EVERY_STATE)
    assert set(swept.states) >= set(all_steps(scenario.operation)), "a step that was never cut off"
    chosen = sample(swept.survivors)
    faults = faults_of(world, scenario, chosen)
    record_property(
        "told",
        f"crash: {name}: {swept.storage.points} crash points in {len(swept.states)} steps, "
        f"{swept.states.total()} surviving states, {len(swept.survivors)} distinct; {len(chosen)} booted, "
        "recovered and released on",
    )
    assert not faults, verdict(faults, len(chosen))


@pytest.mark.parametrize("name", [name for name, scenario in SCENARIOS.items() if scenario.operation in RESTORES])
def test_data_become_live_when_every_byte_and_every_name_of_them_is_on_the_disk(world: World, name: str) -> None:
    """Also what was written with raw system calls, which no primitive of the storage has seen."""
    scenario = SCENARIOS[name]
    lay(world.starts[scenario.start], world.root)
    seen = []

    def at(label: str) -> None:
        if label == f"swap: renamed to opt/{NAME}/data":
            seen.append(storage.on_its_way(world.layout.generation(scenario.generation)))

    storage = world.lossy = LossyStorage(world.root, at)
    try:
        conduct(engine_on(world.layout, storage)[0], scenario.request(world), operation=scenario.operation)
    finally:
        world.lossy = None
    assert seen == [[]], f"{name}: this could still be lost: {seen}"


# What the steps write without the storage, and why its loss harms nobody.
PAST_THE_STORAGE = {
    "stage": (f"opt/{NAME}/releases/.", "unpacked aside; the mount is synced before the step is done, or it is undone"),
    "environment": (f"opt/{NAME}/environments/", "marked unfinished until the mount is synced"),
    "publish": (f"opt/{NAME}/static/", "the mount is synced before the rename, and after it"),
    "snapshot": (f"var/lib/backstay/{NAME}/restore-points", "the mount is synced before it gets its name"),
    "fetch": (f"opt/{NAME}/data.d/.", "made aside; the mount is synced before it gets its name"),
    "place": (f"opt/{NAME}/data.d/.", "made aside; the mount is synced before it gets its name"),
    "convert": (f"opt/{NAME}/data.d/0002/db", "a database syncs what it commits"),
    "carry": (f"opt/{NAME}/data.d/0002/", "the mount is synced before that generation is live"),
    "expire": (f"opt/{NAME}/data.d/0002/db", "a database syncs what it commits"),
    "migrate": (f"opt/{NAME}/data.d/", "a database syncs what it commits"),
    "reverse": (f"opt/{NAME}/data.d/", "a database syncs what it commits"),
    "prune": (
        "",
        "removals alone: of trees whose names are gone, of assets that the next sweep finds again",
    ),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_whatever_is_written_past_the_storage_is_known_with_the_reason_why_it_may_be_lost(
    world: World, name: str
) -> None:
    scenario = SCENARIOS[name]
    for seen in world.conducted(scenario, thorough=EVERY_STATE).storage.outside:
        if seen.path == f"var/lib/backstay/{NAME}/data.lock":
            continue  # what holds is the lock on it; what is written in it is for people
        place, why = PAST_THE_STORAGE.get(seen.context, ("nowhere", ""))
        told = f"{seen.context} {seen.what}, {seen.path}, past the storage: write it through it, or say why not here"
        assert seen.path.startswith(place), told
        assert "removals alone" not in why or seen.what == "removed", told


@pytest.mark.parametrize("name", SCENARIOS if ALL else OPERATIONS)
def test_a_recovery_that_is_cut_off_itself_is_taken_up_by_the_next(
    world: World, record_property: Tell, name: str
) -> None:
    scenario = SCENARIOS[name]
    swept = world.conducted(scenario, thorough=False)
    chance = random.Random(SEED)
    order = all_steps(scenario.operation)
    steps = order if ALL else chance.sample(order, 2)
    points = states = checked = 0
    faults = []
    for step in steps:
        first = chance.choice([survivor for survivor in swept.survivors if survivor.step == step])
        again = world.recovered(first, thorough=EVERY_STATE)
        points += again.storage.points
        states += again.states.total()
        chosen = chance.sample(again.survivors, min(40 if EVERY_STATE else 2, len(again.survivors)))
        checked += len(chosen)
        faults += faults_of(world, scenario, chosen)
    record_property(
        "told",
        f"crash: recovery of {name}: {points} crash points after cuts in {len(steps)} steps, {states} "
        f"surviving states; {checked} booted, recovered and released on",
    )
    assert not faults, verdict(faults, checked)


@dataclass(frozen=True)
class Filled:
    """An operation on a disk that became full: whether it did (there are only so many writes), how the operation
    failed, and the host as it is then."""

    full: bool
    failed: str
    engine: CrashEngine
    host: Host

    @property
    def finished(self) -> bool:
        """It failed past the point of no return, and was done all the same."""
        return "finished all the same" in self.failed


def filled(world: World, scenario: Scenario, at: int) -> Filled:
    """The disk is full from the write of this number on; what is removed makes room again."""
    lay(world.starts[scenario.start], world.root)
    storage = FullDisk()
    engine, host = engine_on(world.layout, storage)
    request = scenario.request(world)
    engine.settle()
    writes = itertools.count()

    def full(_path: Path) -> None:
        if next(writes) == at:
            storage.blocks = 0

    storage.before = full
    failed = ""
    try:
        conduct(engine, request, operation=scenario.operation)
    except BackstayError as refused:
        failed = refused.message
    return Filled(next(writes) > at, failed, engine, host)


@pytest.mark.parametrize("name", ["rollback", "reversal", "undo"])
def test_a_way_back_goes_through_on_a_disk_that_is_full_to_its_last_block(
    world: World, record_property: Tell, name: str
) -> None:
    """Also where it becomes full in the middle of it: then it may be given up, and the next one goes through."""
    scenario, again = SCENARIOS[name], 0
    for at in range(0, 10_000, 1 if ALL else 7):
        found = filled(world, scenario, at)
        if not found.full:
            break
        if found.failed:
            again += 1
            assert at > 0, f"{name} on a full disk: {found.failed}"
            assert "No space left" in found.failed
            look(world, found.engine, found.host, f"{name}, full from write {at} on, given up")
            if not found.finished:
                conduct(found.engine, scenario.request(world), operation=scenario.operation)
        look(world, found.engine, found.host, f"{name}, full from write {at} on")
        assert (found.engine.live(), database(world.layout)) == (scenario.new, world.after_of(scenario))
    record_property("told", f"full disk: {name} from each of {at} writes on; {again} were given up and begun again")
    assert at > 10, "it writes more than that"


@pytest.mark.parametrize("name", ["restore", "release", "maintenance"])
def test_a_disk_that_becomes_full_at_any_write_leaves_all_as_it_was_or_as_it_was_to_be(
    world: World, record_property: Tell, name: str
) -> None:
    scenario, given_up = SCENARIOS[name], 0
    before = world.before[scenario.start]
    for at in range(0, 10_000, 1 if ALL else 7):
        found = filled(world, scenario, at)
        if not found.full:
            break
        look(world, found.engine, found.host, f"{name}, full from write {at} on")
        forward = found.finished or not found.failed
        live = scenario.new if forward else scenario.old
        assert found.engine.live() == live, f"full from write {at} on: {found.failed}"
        if found.failed:
            given_up += 1
            assert "No space left" in found.failed
        if scenario.operation in CLOSED:
            rows = world.after_of(scenario) if forward else before
            assert database(world.layout) == rows, f"full from write {at} on: {found.failed}"
    record_property("told", f"full disk: {name} from each of {at} writes on; {given_up} were given up")
    assert given_up > 3, "it fits nowhere"


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_kill_followed_by_a_power_cut_leaves_one_whole_release(
    world: World, record_property: Tell, name: str
) -> None:
    scenario = SCENARIOS[name]
    count = world.conducted(scenario, thorough=False).storage.points
    chance = random.Random(SEED)
    kills = range(count) if EVERY_STATE else sorted(chance.sample(range(count), 12 if ALL else 2))
    states = checked = 0
    faults = []
    for point in kills:
        found = world.killed(scenario, point, thorough=False)
        assert found is not None, "the transaction ended before it was killed"
        step, swept = found
        states += swept.states.total()
        chosen = [
            Survivor(step, f"killed in {step}, then {each.label}", each.tree)
            for each in chance.sample(swept.survivors, min(3 if EVERY_STATE else 2, len(swept.survivors)))
        ]
        checked += len(chosen)
        faults += faults_of(world, scenario, chosen)
    record_property(
        "told",
        f"crash: {name} killed at {len(kills)} of {count} points, then cut off in its recovery: {states} "
        f"surviving states; {checked} booted, recovered and released on",
    )
    assert not faults, verdict(faults, checked)
