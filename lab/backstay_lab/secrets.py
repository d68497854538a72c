"""The Vault password of a checkout."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path

from .errors import LabError


def vault_password(path: Path) -> str:
    """The password kept in `path`, created on first use; two first users at once read the same one.

    Raises `LabError` when the file is there but empty.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # its owner's alone
        fresh = Path(name)
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(secrets.token_urlsafe(32) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(fresh, path)  # fails when somebody else was first: theirs counts
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    password = path.read_text(encoding="ascii").strip()
    if not password:
        raise LabError(f"{path} is empty: put the Vault password of this checkout into it, or remove the file.")
    return password
