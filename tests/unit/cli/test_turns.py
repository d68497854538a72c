"""Whose turn it is to be proven, where the store of one is away."""

from __future__ import annotations

from typing import Any, cast

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._cli_data import first_that_answers
from ansible_collections.backstay.ops.plugins.module_utils._proof import Proof
from ansible_collections.backstay.ops.plugins.module_utils._repository import Kind, RepositoryError

MEANT = (("r1", "bucket"), ("r2", "disk"), ("r2", "far"))


def _proving(kind: Kind, *away: str) -> tuple[list[str], list[str], Any]:
    """What was asked, what was said, and what came of it: the name of the repository stands for its proof."""
    asked: list[str] = []
    said: list[str] = []

    def prove_in(run: str | None, name: str) -> Proof:
        asked.append(f"{run} in {name}")
        if name in away:
            raise RepositoryError(kind, f"The repository {name} does not answer.")
        return cast("Proof", name)

    return asked, said, first_that_answers(MEANT, prove_in, said.append)


@pytest.mark.parametrize("kind", ["unreachable", "refused", "locked"])
def test_where_the_first_one_is_away_the_next_is_proven_and_that_is_said(kind: Kind) -> None:
    assert _proving(kind) == (["r1 in bucket"], [], "bucket")
    asked, said, proof = _proving(kind, "bucket", "disk")
    assert (asked, proof) == (["r1 in bucket", "r2 in disk", "r2 in far"], "far")
    assert said[0] == "The repository bucket does not answer; disk is proven instead"


def test_where_none_answers_or_something_else_is_wrong_it_is_an_error() -> None:
    with pytest.raises(RepositoryError, match="far does not answer"):
        _proving("unreachable", *(name for _run, name in MEANT))
    with pytest.raises(RepositoryError, match="bucket does not answer"):
        _proving("full", "bucket")
