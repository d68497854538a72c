"""Reading the environment: the only source of the portal's configuration."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

TRUE = {"1", "true", "yes", "on"}
FALSE = {"", "0", "false", "no", "off"}


def boolean(name: str, value: str) -> bool:
    """Return the truth of `value`; `name` is the variable it came from."""
    word = value.strip().lower()
    if word in TRUE:
        return True
    if word in FALSE:
        return False
    raise ImproperlyConfigured(f"{name} is {value!r}, which is neither true nor false: write true or false.")


def names(value: str) -> list[str]:
    """Split a comma-separated value, dropping blanks."""
    return [part.strip() for part in value.split(",") if part.strip()]


def database(url: str) -> dict[str, object]:
    """Turn DATABASE_URL into one entry of Django's DATABASES."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        # sqlite:////absolute/path has an empty host and a path of two slashes; one is the separator.
        return sqlite(Path(unquote(parts.path[1:])))
    if parts.scheme in {"postgres", "postgresql"}:
        options: dict[str, object] = dict(parse_qsl(parts.query))
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": unquote(parts.path.lstrip("/")),
            "USER": unquote(parts.username or ""),
            "PASSWORD": unquote(parts.password or ""),
            # A directory as host means a unix socket: postgres:///portal?host=/var/run/postgresql
            "HOST": str(options.pop("host", parts.hostname or "")),
            "PORT": str(parts.port or ""),
            "CONN_MAX_AGE": 60,
            "CONN_HEALTH_CHECKS": True,
            "OPTIONS": options,
        }
    # The URL holds a password, so only its scheme is repeated.
    raise ImproperlyConfigured(
        f"DATABASE_URL begins with {parts.scheme!r}: write sqlite:////absolute/path or postgres://user:password@host/name."
    )


def sqlite(path: Path) -> dict[str, object]:
    """SQLite for a server: readers never wait, writers queue, an acknowledged write is on the disk."""
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(path),
        "CONN_MAX_AGE": 60,
        "OPTIONS": {
            # A transaction that begins as a reader and then writes cannot wait for another writer: SQLite
            # answers "database is locked" at once, whatever the timeout. IMMEDIATE queues at the beginning.
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            # FULL, not the usual NORMAL: in WAL mode NORMAL may lose the last commits at a power cut, and an
            # inspector whose finding was acknowledged has left the shaft. It costs one fsync for each write.
            "init_command": (
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; "
                "PRAGMA cache_size=-8000; PRAGMA temp_store=MEMORY;"
            ),
        },
    }
