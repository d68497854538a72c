"""What all tests without a host share."""

from __future__ import annotations

import pytest
from hypothesis import settings

# No test asserts on the clock, property tests neither: by default Hypothesis fails what takes longer than 200 ms once.
settings.register_profile("unclocked", settings.default, deadline=None)
settings.load_profile("unclocked")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests counted (`record_property("told", ...)`), also from other processes, before the closing line."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    lines = sorted({str(value) for report in reports for name, value in report.user_properties if name == "told"})
    if lines:
        terminalreporter.section("counted")
    for line in lines:
        terminalreporter.write_line(line)
