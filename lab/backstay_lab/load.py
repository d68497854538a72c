"""The load generator (to come)."""

from __future__ import annotations

import argparse

from .errors import LabError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url")


def main(_options: argparse.Namespace) -> int:
    raise LabError("The load generator is not written yet.")
