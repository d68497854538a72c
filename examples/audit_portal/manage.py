#!/usr/bin/env python3
"""Django's command line for the audit portal."""

from __future__ import annotations

import os
import sys

# These commands are services: their log belongs on standard output, as the web process's does. Every other
# command may print an answer there (dumpcounts prints JSON), so its log goes to standard error.
SERVICES = {"run_worker", "run_scheduler", "runserver"}


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    if not SERVICES & set(sys.argv[1:2]):
        os.environ.setdefault("PORTAL_LOG_STREAM", "stderr")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
