"""Which password of a repository may be written down on a host: never one that locks it out.

Rekeying changes a repository's password on the host, and Vault has the old one until somebody puts the new one
there. So what was replaced here is remembered, as a salted hash, and declaring it again is refused; any other change of
a password that this host has used must be proven to open the repository first.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ._errors import BackstayError
from ._storage import Storage, canonical

if TYPE_CHECKING:
    from ._backup_settings import RepositorySettings
    from ._layout import Layout
    from ._run import Runner

FORMAT = 1
_COST = {"n": 1 << 12, "r": 8, "p": 1}
_UNFINISHED = ("next_password", "previous_key")  # what a change that was cut short needs to be finished


def retire(layout: Layout, storage: Storage, name: str, *, old: str, new: str, at: str) -> None:
    """Remember that `old` was replaced by `new` at `at` (UTC ISO 8601). Raises BackstayError where it cannot be."""
    known = _read(layout, storage)
    mine = [each for each in known.get(name, ()) if not _is(old, each) and not _is(new, each)]
    salt = os.urandom(16)
    mine.append({"at": at, "salt": salt.hex(), "digest": _digest(old, salt)})
    content = {"format": FORMAT, "repositories": {**known, name: mine}}
    storage.write(layout.replaced_passwords, canonical(content) + b"\n", mode=0o600)


def retired_at(layout: Layout, storage: Storage, name: str, password: str) -> str | None:
    """When rekeying replaced a password on this host; None where it did not."""
    return next((str(each["at"]) for each in _read(layout, storage).get(name, ()) if _is(password, each)), None)


def refusals(
    layout: Layout,
    storage: Storage,
    repositories: Mapping[str, RepositorySettings],
    given: Mapping[str, Mapping[str, Any]],
    *,
    runner: Runner,
) -> tuple[str, ...]:
    """Why the passwords in `given` (secrets by repository) must not be written down here, never showing one.

    A repository is opened only where its password differs from the one that this host has, and the host has stored
    there: what nobody ever used may be corrected.
    """
    here = present(layout, storage)
    found = []
    for name, settings in repositories.items():
        old, new = here.get(name, {}).get("password"), given.get(name, {}).get("password")
        if old is None or new is None or old == new:
            continue
        where = f"The password of the repository {name} of {layout.name} in Vault"
        replaced = retired_at(layout, storage, name, str(new))
        if replaced is not None:
            found.append(
                f"{where} is the one that was replaced on this host at {replaced[:16]}Z (rekeyed), and would lock "
                "the repository out: put the new one into Vault (backstay_backup_secrets), then run this again."
            )
        elif _used(layout, storage, name, settings.location):
            problem = _why_not(layout, name, settings, given[name], runner)
            if problem:
                found.append(
                    f"{where} is another than the one that opens it on this host, and {problem}. To change it, leave "
                    f"Vault as it was and run `backstay rekey --repository {name}` on the host, then put the new one "
                    "into Vault."
                )
    return tuple(found)


def completed(here: Mapping[str, Mapping[str, Any]], given: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Pure: the secrets to write down, with what an unfinished change of a password needs where it is the same."""
    return {
        name: {
            **secrets,
            **(
                {key: here[name][key] for key in _UNFINISHED if key in here[name]}
                if name in here and here[name].get("password") == secrets.get("password")
                else {}
            ),
        }
        for name, secrets in given.items()
    }


def present(layout: Layout, storage: Storage) -> dict[str, dict[str, Any]]:
    """The secrets that are on the host; nothing where there are none, or where they cannot be read."""
    from ._repository import read_secrets

    try:
        return read_secrets(layout, storage)
    except BackstayError:
        return {}


def _used(layout: Layout, storage: Storage, name: str, location: str) -> bool:
    """Whether this host has stored something in that very place."""
    from ._catalogue import catalogue

    return any(
        entry.event == "stored"
        and entry.data.get("repository") == name
        and entry.data.get("location") in (None, location)
        for entry in catalogue(layout, storage, lambda: "").read()
    )


def _why_not(
    layout: Layout, name: str, settings: RepositorySettings, secrets: Mapping[str, Any], runner: Runner
) -> str:
    """Why a password is not known to open a repository; empty where it does."""
    from ._repository import Repository, RepositoryError

    store = Repository(
        name=name,
        application=layout.name,
        settings=settings,
        secrets=secrets,
        private=layout.root / "run" / "backstay",
        runner=runner,
    )
    try:
        return "" if store.identity() is not None else f"there is no repository at {settings.location} now to try it on"
    except RepositoryError as refused:
        if refused.kind == "wrong key":
            return "it does not open the repository"
        return f"whether it opens the repository cannot be told ({refused.message.rstrip('.')})"


def _read(layout: Layout, storage: Storage) -> dict[str, list[dict[str, str]]]:
    """What was replaced; nothing where that cannot be read: then the repository itself is asked."""
    try:
        value = json.loads(storage.read(layout.replaced_passwords) or b"{}")
        if value.get("format") != FORMAT:
            return {}
        return {
            str(name): [{key: str(each[key]) for key in ("at", "salt", "digest")} for each in entries]
            for name, entries in value["repositories"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _is(password: str, known: Mapping[str, str]) -> bool:
    return hmac.compare_digest(_digest(password, bytes.fromhex(known["salt"])), known["digest"])


def _digest(password: str, salt: bytes) -> str:
    return hashlib.scrypt(password.encode(), salt=salt, dklen=32, **_COST).hex()
