"""The application that these tests back up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def described(backup: Mapping[str, Any] | None) -> dict[str, Any]:
    """Its file as a mapping, with the section `backup` where one is given."""
    found: dict[str, Any] = {
        "format": 1,
        "name": "portal",
        "domain": "portal.example.org",
        "source": {"repository": "/srv/portal.git"},
        "runtime": {
            "type": "django",
            "settings": "portal.settings",
            "wsgi": "portal.wsgi:application",
            "requirements": "requirements.lock",
        },
        "processes": {"web": {"workers": 1, "threads": 2}},
    }
    return found if backup is None else found | {"backup": dict(backup)}
