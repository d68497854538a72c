"""What all tests without a host share."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

from tools import stages

# No test asserts on the clock, property tests neither: by default Hypothesis fails what takes longer than 200 ms once.
settings.register_profile("unclocked", settings.default, deadline=None)
settings.load_profile("unclocked")

MEMORY = Path("/dev/shm")
ROOM_BYTES = 1 << 30


def pytest_configure(config: pytest.Config) -> None:
    """The inner loop's files lie in memory where that is possible: nobody waits for a disk to sync thousands of times.

    Those of the models lie on a disk, as on hosts: what is copied there, linked and kept from others depends on it.
    """
    wanted = [Path(config.invocation_params.dir, arg.partition("::")[0]).resolve() for arg in config.args]
    left_out = [Path(path).resolve() for path in config.option.ignore or ()]
    models = [model for model in map(stages.ROOT.joinpath, stages.MODELS) if model not in left_out]
    if not any(model.is_relative_to(path) or path.is_relative_to(model) for path in wanted for model in models):
        _lie_in_memory()


def _lie_in_memory() -> None:
    try:
        usable = shutil.disk_usage(MEMORY).free > ROOM_BYTES and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC
    except OSError:
        return
    if usable and os.access(MEMORY, os.W_OK):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: the collector need not look through it again and again."""
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests counted (`record_property("told", ...)`), also from other processes, before the closing line."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    lines = sorted({str(value) for report in reports for name, value in report.user_properties if name == "told"})
    if lines:
        terminalreporter.section("counted")
    for line in lines:
        terminalreporter.write_line(line)
