"""What both files of this directory share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _ledger as _ledger_module


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Nobody adds to these ledgers while they are looked at again, and no power is cut (tests/unit/crash does that)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_ledger_module, "time", SimpleNamespace(sleep=lambda seconds: None))
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
