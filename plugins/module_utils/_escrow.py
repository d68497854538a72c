"""The offline key: all that opens the repositories when this host and its Vault are gone; and changing their passwords.

Changing a password keeps what is written down ahead of what is true: /etc/backstay/<app>/backup.json has the next
password before the repository knows it, and the previous key's id until the repository has forgotten it. So whenever
this is killed, a password that is written down opens the repository, and doing it again finishes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ._backup_settings import RepositorySettings
from ._errors import BackstayError, InputError
from ._layout import Layout
from ._passwords import retire
from ._repository import FORMAT as SECRETS_FORMAT
from ._repository import Repository, RepositoryError, read_secrets
from ._storage import Storage, canonical
from ._transaction import utc_now

FORMAT = 1
HOW = (
    "This file opens every backup of the application. Keep it offline, twice, away from its servers; tell nobody.",
    "1. On any Debian host: apt install restic, or install Backstay, and copy this file there (mode 0600).",
    "2. With Backstay: playbooks/rebuild.yml -e key=FILE, or backstay rebuild --offline-key FILE.",
    "   Either checks the manifests with `manifest_keys`.",
    "3. Without: put `password` into a file, RESTIC_PASSWORD_FILE names it, and RESTIC_REPOSITORY is `location`.",
    "   For S3 also set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; for SFTP use `private_key` with ssh.",
    "   Then `restic snapshots`, and `restic restore ID --target DIRECTORY` for a snapshot tagged part=data.",
    "4. What comes out has databases/, media/, configuration/ (with the application's secrets) and artifacts/.",
)


@dataclass(frozen=True)
class OfflineKey:
    """What an offline key holds. `repositories`: by name `location`, `settings` and `secrets`; `manifest_key` is the
    public half of the key that signs manifests, `manifest_keys` are all by which they are believed: that one, and those
    of the hosts before this one; `at` is UTC ISO 8601."""

    application: str
    at: str
    manifest_key: str
    repositories: Mapping[str, Mapping[str, Any]] = field(repr=False)
    manifest_keys: tuple[str, ...] = ()
    how: tuple[str, ...] = HOW
    format: int = FORMAT


def write(
    path: Path,
    layout: Layout,
    repositories: Mapping[str, RepositorySettings],
    storage: Storage,
    *,
    at: str,
    trusted: Sequence[str] = (),
) -> None:
    """Write the offline key of an application to a new file, which only its owner reads. `trusted` are the public keys
    by which manifests are believed here.

    Raises InputError where the file is there already or a repository has no secrets, BackstayError when it cannot be
    written. What it holds is never shown.
    """
    if path.exists() or path.is_symlink():
        raise InputError(f"{path} is there already, and may be the only key to older backups: name another file.")
    secrets = read_secrets(layout, storage)
    public = storage.read(layout.backup_key.with_name(f"{layout.backup_key.name}.pub"))
    if public is None:
        raise InputError(f"{layout.backup_key}.pub is missing: run playbooks/site.yml, which makes it.")
    found = {}
    for name, settings in repositories.items():
        if not secrets.get(name, {}).get("password"):
            raise InputError(
                f"The repository {name} has no password in {layout.backup_secrets}: put it into Vault and run "
                "playbooks/site.yml."
            )
        found[name] = {"location": settings.location, "settings": _settings(settings), "secrets": secrets[name]}
    own = public.decode().strip()
    key = OfflineKey(layout.name, at, own, found, manifest_keys=tuple(dict.fromkeys((own, *trusted))))
    storage.write(path, json.dumps(asdict(key), indent=1, sort_keys=True).encode() + b"\n", mode=0o600)
    storage.write(layout.escrowed, canonical({"at": at, "manifest_keys": list(key.manifest_keys)}) + b"\n", mode=0o600)


def out_of_date(layout: Layout, storage: Storage) -> str | None:
    """Why no offline key vouches for what this host signs; None where one may. Only a host that was rebuilt knows: its
    key is another than that of the host before it, for which the one in the safe was written."""
    public = storage.read(layout.backup_key.with_name(f"{layout.backup_key.name}.pub"))
    if public is None or not storage.read(layout.trusted_keys) or layout.isolated.exists():
        return None
    try:
        known = json.loads(storage.read(layout.escrowed) or b"{}").get("manifest_keys", ())
    except (ValueError, AttributeError):
        known = ()
    if public.decode().strip() in known:
        return None
    return (
        "no offline key vouches for what was backed up since this host was rebuilt: run `backstay escrow --to FILE`, "
        "and put that file into the safe"
    )


def _settings(settings: RepositorySettings) -> dict[str, Any]:
    return {"append_only": settings.append_only, "own_disk": settings.own_disk, "read_back": settings.read_back}


def read(path: Path, storage: Storage) -> OfflineKey:
    """An offline key. Raises InputError for what is none, BackstayError for a newer format."""
    content = storage.read(path)
    if content is None:
        raise InputError(f"There is no offline key {path}: bring the file from where it is kept.")
    try:
        value = json.loads(content)
        number = int(value["format"])
        key = OfflineKey(
            application=str(value["application"]),
            at=str(value["at"]),
            manifest_key=str(value["manifest_key"]),
            # One that was written before hosts had several knows one.
            manifest_keys=tuple(dict.fromkeys(map(str, (value["manifest_key"], *value.get("manifest_keys", ()))))),
            repositories={
                str(name): {
                    "location": str(each["location"]),
                    "settings": dict(each["settings"]),
                    "secrets": dict(each["secrets"]),
                }
                for name, each in value["repositories"].items()
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError) as broken:
        raise InputError(f"{path} is no offline key ({type(broken).__name__}): bring the file whole.") from broken
    if number > FORMAT:
        raise BackstayError(f"{path} has format {number} and this backstay knows {FORMAT}: use a newer one.")
    return key


def settings_of(key: OfflineKey) -> dict[str, RepositorySettings]:
    """The repositories that an offline key names, as settings."""
    return {
        name: RepositorySettings(location=each["location"], **each["settings"])
        for name, each in key.repositories.items()
    }


# changing a password


def rotate(repository: Repository, new_password: str, layout: Layout, storage: Storage) -> Repository:
    """Give a repository another password and take the old one away; returns it opened with the new one.

    Killed at any point, a password in backup.json opens the repository, and the same call finishes. One that was begun
    with another new password is finished first. Raises InputError for a password that is none, RepositoryError.
    """
    if not new_password or new_password != new_password.strip() or "\n" in new_password:
        raise InputError("A repository's password is one line without spaces around it: give another.")
    secrets = read_secrets(layout, storage).get(repository.name, {})
    if "next_password" in secrets or "previous_key" in secrets:
        repository = _finish(repository, layout, storage)
        secrets = read_secrets(layout, storage)[repository.name]
    if secrets.get("password") == new_password:
        return repository.with_password(new_password)
    _note(repository.name, layout, storage, next_password=new_password)
    return _finish(repository, layout, storage)


def _finish(repository: Repository, layout: Layout, storage: Storage) -> Repository:
    secrets = read_secrets(layout, storage)[repository.name]
    following = secrets.get("next_password")
    if following is not None:
        current = repository.with_password(str(secrets["password"]))
        old = next(identifier for identifier, in_use in current.listed_keys() if in_use)
        renewed = repository.with_password(str(following))
        if not _opens(renewed):
            current.add_key(str(following))
            if not _opens(renewed):
                raise RepositoryError(
                    "failed",
                    f"The repository {repository.name} took a new password and does not open with it: the old one "
                    "still does, and nothing else was changed; run it again.",
                )
        # First: from now on nobody writes the old one back, also when this ends here.
        replaced = str(secrets["password"])
        retire(layout, storage, repository.name, old=replaced, new=str(following), at=utc_now())
        _note(repository.name, layout, storage, password=following, previous_key=old, next_password=None)
    secrets = read_secrets(layout, storage)[repository.name]
    renewed = repository.with_password(str(secrets["password"]))
    previous = secrets.get("previous_key")
    if previous is not None:
        mighty = renewed.for_pruning() or renewed
        if any(identifier == previous for identifier, _in_use in mighty.listed_keys()):
            mighty.remove_key(str(previous))
        _note(repository.name, layout, storage, previous_key=None)
    return renewed


def _opens(repository: Repository) -> bool:
    try:
        return repository.identity() is not None
    except RepositoryError as refused:
        if refused.kind == "wrong key":
            return False
        raise


def _note(name: str, layout: Layout, storage: Storage, **changed: Any) -> None:
    """Change one repository's secrets in backup.json, in one atomic write; None removes."""
    everything = read_secrets(layout, storage)
    mine = {**everything.get(name, {}), **changed}
    everything[name] = {key: value for key, value in mine.items() if value is not None}
    # As declaring writes it: nothing is to change there when Vault has the new password.
    content = canonical({"format": SECRETS_FORMAT, "repositories": everything})
    storage.write(layout.backup_secrets, content + b"\n", mode=0o600)
