"""What an application's file says about its backups, under the key `backup`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from ._schema import (
    each,
    flag,
    fraction,
    named,
    one_of,
    optional,
    seconds,
    section,
    texts,
    whole,
    words,
)

_TIME = texts(r"([01]\d|2[0-3]):[0-5]\d", "a time of day in the server's zone, in quotes, such as '02:00'")
_QUERY = texts(r"(?i)\s*(select|with)\b[^;]*;?\s*", "one SELECT of one line, without a semicolon inside")
_DATABASE = texts(r"[a-z][a-z0-9_]{0,29}", "the name of one of `databases`")


@dataclass(frozen=True)
class Keep:
    """How many restore points stay in a repository: the newest good one of so many days, weeks and months, and all
    that are younger than `within_days`. A point counts as good when it was stored whole and never refuted."""

    daily: Annotated[int, whole(1, 3650)] = 7
    weekly: Annotated[int, whole(0, 520)] = 4
    monthly: Annotated[int, whole(0, 240)] = 0
    within_days: Annotated[int, whole(0, 3650)] = 0


@dataclass(frozen=True)
class RepositorySettings:
    """Where restore points go: a directory, `sftp:user@host:/path`, or `s3:https://host/bucket/path`.

    What it is opened with is in Vault: `backstay_backup_secrets['<application>']['<repository>']`. A repository that
    is `append_only` is never pruned with the credentials that write to it: only where `prune` credentials are.
    `expire_uploads_days` is a declared choice: the bucket's own lifecycle removes objects after so many days.
    """

    location: Annotated[
        str,
        texts(
            r"(/[!-~]+|sftp:[!-~]+:[!-~]+|s3:https?://[!-~]+/[!-~]+)",
            "a path from / on, sftp:user@host:/path or s3:https://host/bucket/path",
        ),
    ]
    keep: Annotated[Keep | None, optional(section(Keep))] = None  # None: as `backup.keep` says
    append_only: Annotated[bool, flag] = False
    own_disk: Annotated[bool, flag] = True  # a directory must be on another file system than the data
    read_back: Annotated[bool, flag] = False  # read all data back (L3) after each backup, also where that is not cheap
    expire_uploads_days: Annotated[int | None, optional(whole(1, 36500))] = None

    @property
    def kind(self) -> Literal["local", "sftp", "s3"]:
        """What lies behind the location."""
        if self.location.startswith("sftp:"):
            return "sftp"
        return "s3" if self.location.startswith("s3:") else "local"


@dataclass(frozen=True)
class Canary:
    """A question about the data whose answer must survive: one row, or a few, read from one database."""

    name: Annotated[str, texts(r".{1,60}", "a name of at most 60 letters")]
    database: Annotated[str, _DATABASE]
    query: Annotated[str, _QUERY]


@dataclass(frozen=True)
class Question:
    """One query of one database."""

    database: Annotated[str, _DATABASE]
    query: Annotated[str, _QUERY]


@dataclass(frozen=True)
class ProofPolicy:
    """How restore points are proven on this host, and when `status` calls a proof too old."""

    nightly: Annotated[str | None, optional(_TIME)] = "03:30"  # L4 of the newest point
    memory_max_bytes: Annotated[int, whole(64 << 20, 1 << 50)] = 1 << 30
    seconds: Annotated[float, seconds(1, 86400)] = 7200.0
    level4_max_age_hours: Annotated[int, whole(1, 10000)] = 26
    level5_max_age_days: Annotated[int, whole(1, 3650)] = 35


@dataclass(frozen=True)
class BackupPolicy:
    """What is kept, where, when, and what proves it.

    `files` are queries whose first column is the path of an uploaded file below the media; each must be in the restore
    point. `newest` asks for the time of the newest row (ISO 8601, or seconds since 1970): from it the recovery point is
    measured. `retention` is the application's own command that deletes what is too old; a restore runs it before it
    opens the door, so that deleted data do not come back.
    """

    repositories: Annotated[Mapping[str, RepositorySettings], named(RepositorySettings, of="repositories", least=1)]
    at: Annotated[str, _TIME] = "02:00"
    scheduler: Annotated[Literal["systemd", "cron"], one_of("systemd", "cron")] = "systemd"
    before_release: Annotated[bool, flag] = True
    keep: Annotated[Keep, section(Keep)] = field(default_factory=Keep)
    shrink_ratio: Annotated[float, fraction] = 0.5  # a point with less than this share of the last one's rows or bytes
    copy_seconds: Annotated[float, seconds(1, 86400)] = 900.0  # the deadline of one database's copy
    seconds: Annotated[float, seconds(10, 86400)] = 14400.0  # that of a whole run
    max_age_hours: Annotated[int, whole(1, 10000)] = 26
    canaries: Annotated[tuple[Canary, ...], each(section(Canary), of="canary")] = ()
    files: Annotated[tuple[Question, ...], each(section(Question), of="query")] = ()
    newest: Annotated[tuple[Question, ...], each(section(Question), of="query")] = ()
    retention: Annotated[tuple[str, ...] | None, optional(words)] = None
    proof: Annotated[ProofPolicy, section(ProofPolicy)] = field(default_factory=ProofPolicy)
    keep_generations: Annotated[int, whole(1, 20)] = 2  # earlier generations of the data that stay beside the live one
