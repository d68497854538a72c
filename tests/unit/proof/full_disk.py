"""Proofs that meet a full disk; called on a small disk by test_full_disk.py."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from ansible_collections.backstay.ops.plugins.module_utils import _sandbox
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed, run
from ansible_collections.backstay.ops.plugins.module_utils._sandbox import DirectSandbox, Scratch, Task

from ..backup.small_disk import empty, fill
from .points import DAYS, Place, three_days


@dataclass(frozen=True)
class Filling(DirectSandbox):
    """The disk becomes full when what was restored is to be looked at."""

    small: Path = Path()

    def run(self, scratch: Scratch, task: Task) -> Completed:
        fill(self.small)
        return super().run(scratch, task)


def struck(directory: Path) -> list[dict[str, Any]]:
    """The host's disk is full from some command of restic's on, or when the copy is looked at."""
    small = directory / "small"
    place = three_days(directory / "place")
    shutil.copytree(place.layout.root, small / "host")
    place.layout = replace(place.layout, root=small / "host")
    with mock.patch.object(_sandbox, "SPARE_BYTES", 0):
        return [_one(small, place, moment) for moment in ("fetch", "look")]


def _one(small: Path, place: Place, moment: str) -> dict[str, Any]:
    def runner(arguments: Sequence[str], **given: Any) -> Completed:
        if moment in arguments or (moment == "fetch" and str(place.layout.proof_scratch) in " ".join(arguments)):
            fill(small)
        return run(arguments, **given)

    sandbox = Filling(small=small) if moment == "look" else DirectSandbox()
    level, refutes = 0, False
    try:
        proof = place.prove(DAYS[2], repository=replace(place.repository, runner=runner), sandbox=sandbox)
        level, refutes, said = proof.level, any(finding.refutes for finding in proof.findings), proof.sentence
    except BackstayError as failed:
        said = failed.message
    scratch = place.layout.proof_scratch
    left = sorted(path.name for path in scratch.iterdir()) if scratch.is_dir() else []
    empty(small)
    then = place.prove(DAYS[2]).level
    return {"moment": moment, "said": said, "level": level, "refutes": refutes, "left": left, "then": then}
