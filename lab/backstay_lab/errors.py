"""The one error of the lab."""

from __future__ import annotations


class LabError(Exception):
    """What failed, what was seen, what to do next: in one sentence."""
