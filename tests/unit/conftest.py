"""What all tests without a host share."""

from __future__ import annotations

from hypothesis import settings

# No test asserts on the clock, property tests neither: by default Hypothesis fails what takes longer than 200 ms once.
settings.register_profile("unclocked", settings.default, deadline=None)
settings.load_profile("unclocked")
