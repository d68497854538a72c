"""The version of Backstay, and of the protocol between its clients and the transaction's service."""

from __future__ import annotations

import re
from pathlib import Path

from ._errors import InputError

VERSION = "0.1.0"
PROTOCOL = 4
ROOM = Path("usr/lib/backstay")  # below it lie the library's versions on a host

_PROTOCOL = re.compile(rb"^PROTOCOL = (\d+)$", re.MULTILINE)


def check_protocol(root: Path = Path("/")) -> None:
    """Raises InputError where the installed command is of another protocol: it could not read what is declared by this
    library, and a person alone on the host would find that out at the worst moment."""
    try:
        content = (root / ROOM / "current" / "backstay" / "_version.py").read_bytes()
    except OSError:
        return  # nothing is installed yet, so nothing can misread it
    found = _PROTOCOL.search(content)
    if found is None or int(found[1]) != PROTOCOL:
        raise InputError(
            f"The backstay on this host speaks protocol {int(found[1]) if found else 'unknown'} and this collection "
            f"{PROTOCOL}: bring the host to this version with playbooks/site.yml first; nothing was changed."
        )
