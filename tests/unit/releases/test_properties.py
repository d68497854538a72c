"""Whatever happened on a host before: where a rollback goes, what is live and warm, and what may be pruned."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ansible_collections.backstay.ops.plugins.module_utils._ledger import Entry
from ansible_collections.backstay.ops.plugins.module_utils._releases import (
    fold,
    must_run,
    prunable,
    release_id,
    rollback_target,
    withdrawn_by,
)

from .test_releases import ONE, _history


@settings(max_examples=60)
@given(
    lives=st.lists(st.sampled_from(["good", "good", "good", "failed", "never finished", "back"]), max_size=14),
    keep=st.integers(2, 6),
    data=st.data(),
)
def test_retention_whatever_happened_before(lives, keep, data):
    """Good releases alone are counted; never pruned are the live one, the warm one, where a rollback goes, and one that
    a kept restore point needs; all else that is older goes, and goes once."""
    entries: list[Entry] = []
    live: str | None = None

    def add(event: str, release: str) -> None:
        entries.append(Entry(len(entries) + 1, "t", event, release))

    for what in lives:
        history = fold(entries)
        if what == "back":
            target = rollback_target(history, live)
            if target is not None:
                for left in withdrawn_by(history, live, target.id):
                    add("withdrawn", left)
                add("live", target.id)
                live = target.id
            continue
        new = release_id(history.next_sequence, "1.0.0")
        add("staged", new)
        if what == "good":
            add("live", new)
            live = new
        elif what == "failed":
            add("failed", new)
    history = fold(entries)
    needed = (
        frozenset(data.draw(st.sets(st.sampled_from(sorted(history.releases))))) if history.releases else frozenset()
    )
    doomed = prunable(history, live, keep=keep, needed=needed)
    good = [release.id for release in history.ordered() if release.state == "live"]
    target = rollback_target(history, live)
    protected = {live, must_run(history, live).warm, target and target.id} | needed | set(good[-keep:])
    assert not protected & set(doomed)
    assert list(doomed) == sorted(doomed), "oldest first"
    assert {release for release in good if release not in protected} <= set(doomed), (
        "a failed one took a good one's place"
    )
    unfinished = {release.id for release in history.ordered() if release.state == "staged"}
    assert unfinished - needed <= set(doomed)
    for release in doomed:
        add("pruned", release)
    assert prunable(fold(entries), live, keep=keep, needed=needed) == ()
    assert must_run(fold(entries), live) == must_run(history, live)


class Life(RuleBasedStateMachine):
    """A host's life in any order: what is live and warm is always something good."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[Entry] = []
        self.history = fold([])
        self.live: str | None = None

    def add(self, event: str, release: str) -> None:
        self.entries.append(Entry(len(self.entries) + 1, f"t{len(self.entries)}", event, release))
        self.history = fold(self.entries)

    @rule(minor=st.integers(0, 3))
    def release(self, minor):
        new = release_id(self.history.next_sequence, f"1.{minor}.0")
        self.add("staged", new)
        self.add("live", new)
        self.live = new

    @rule()
    def refused(self):
        new = release_id(self.history.next_sequence, "6.6.6")
        self.add("staged", new)
        self.add("failed", new)

    def go(self, target: str) -> None:
        for left in withdrawn_by(self.history, self.live, target):
            self.add("withdrawn", left)
        self.add("live", target)
        self.live = target

    @precondition(lambda self: rollback_target(self.history, self.live) is not None)
    @rule()
    def rollback(self):
        before = self.live
        self.go(rollback_target(self.history, self.live).id)
        assert self.history.get(before).state == "withdrawn"

    @rule(data=st.data())
    def named(self, data):
        usable = [
            r.id for r in self.history.ordered() if r.proven and r.state in ("live", "withdrawn") and r.id != self.live
        ]
        if usable:
            self.go(data.draw(st.sampled_from(usable)))

    @rule(keep=st.integers(0, 4))
    def prune(self, keep):
        running = must_run(self.history, self.live)
        for doomed in prunable(self.history, self.live, keep=keep):
            assert doomed not in (running.live, running.warm)
            self.add("pruned", doomed)
        assert must_run(self.history, self.live) == running

    @invariant()
    def warm_is_older_good_and_not_live(self):
        warm = must_run(self.history, self.live).warm
        if warm is not None:
            release = self.history.get(warm)
            assert warm < self.live
            assert release.proven
            assert release.state == "live"

    @invariant()
    def live_is_never_failed_withdrawn_or_pruned(self):
        if self.live is not None:
            assert self.history.get(self.live).state == "live"


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=25)


@given(st.lists(st.sampled_from(["staged", "live", "failed", "withdrawn", "pruned", "undrained"]), max_size=12))
def test_folding_never_forgets_that_a_release_was_proven(events):
    history = _history(*[(event, ONE) for event in events])
    release = history.get(ONE)
    assert (release is not None and release.proven) == ("live" in events)
