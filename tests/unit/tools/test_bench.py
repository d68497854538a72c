"""`make bench` ends with 1 for what no machine is too slow for, and for a missed budget where that was asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

HERE = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    """tests/bench/run.py, whose neighbours have names that others may want."""
    monkeypatch.syspath_prepend(str(HERE))
    module = importlib.import_module("run")
    monkeypatch.setattr(module, "RESULT", tmp_path / "bench.json")
    monkeypatch.setattr(module, "close_connections", lambda lab: None)
    yield module
    for name, loaded in list(sys.modules.items()):
        if str(getattr(loaded, "__file__", "")).startswith(str(HERE)):
            del sys.modules[name]


def measured(module: ModuleType, **found: float) -> type:
    """A bench that has measured nothing but a release, its failed requests and a lost write."""

    class Measured:
        def __init__(self, options: Any, certificates: Path) -> None:
            self.scene = SimpleNamespace(remove=lambda: None)
            self.figures = module.Figures()
            self.figures.of(module.RELEASE, "s", 10.0).ours.append(found.get("seconds", 5.0))
            for name, key in ((module.LONG_FAILED, "failed"), (module.LONG_LOST, "lost")):
                self.figures.of(name, "", 0.0).ours.append(found.get(key, 0.0))

        def set_up(self) -> None:
            pass

        save = long = set_up

        def summary(self) -> str:
            return str(self.figures.table())

    return Measured


@pytest.mark.parametrize(
    ("found", "options", "code"),
    [
        ({}, [], 0),
        ({}, ["--strict"], 0),
        ({"seconds": 11.0}, [], 0),
        ({"seconds": 11.0}, ["--strict"], 1),
        ({"failed": 1.0}, [], 1),
        ({"lost": 1.0}, [], 1),
    ],
)
def test_its_exit_code(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, found: dict[str, float], options: list[str], code: int
) -> None:
    monkeypatch.setattr(bench, "Bench", measured(bench, **found))
    assert bench.main(["--only", "long", *options]) == code
