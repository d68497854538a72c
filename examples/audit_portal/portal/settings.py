"""Settings of the audit portal. What differs between hosts comes from the environment (.env.example)."""

from __future__ import annotations

import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured
from django.core.management.utils import get_random_secret_key

from portal import environment

BASE_DIR = Path(__file__).resolve().parent.parent

# --- Which release this is ---
RELEASE_ID = os.environ.get("BACKSTAY_RELEASE_ID", "")
VERSION = os.environ.get("BACKSTAY_VERSION") or (BASE_DIR / "VERSION").read_text(encoding="utf-8").strip()
PORTAL_BANNER = os.environ.get("PORTAL_BANNER", "")

# --- Where things are ---
_data = os.environ.get("BACKSTAY_DATA_DIR")
DATA_DIR = Path(_data) if _data else BASE_DIR / ".local"
if not _data:  # on a developer's machine nobody has laid out the directory
    for _name in ("db", "media"):
        (DATA_DIR / _name).mkdir(parents=True, exist_ok=True)

STATIC_URL = "/static/"
STATIC_ROOT = Path(os.environ.get("BACKSTAY_STATIC_DIR") or DATA_DIR / "static")
MEDIA_URL = "/media/"
MEDIA_ROOT = DATA_DIR / "media"

_database_url = os.environ.get("DATABASE_URL")
DATABASES = {
    "default": environment.database(_database_url)
    if _database_url
    else environment.sqlite(DATA_DIR / "db" / "portal.sqlite3")
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- Security ---
DEBUG = environment.boolean("DEBUG", os.environ.get("DEBUG", "false"))

SECRET_KEY = os.environ.get("SECRET_KEY", "")
if not SECRET_KEY:
    if RELEASE_ID:
        raise ImproperlyConfigured(
            f"SECRET_KEY is empty in release {RELEASE_ID}: set it among the application's secrets "
            "and release again."
        )
    # Nothing is deployed here (a checkout, a build): a key that nobody knows and that dies with the process.
    SECRET_KEY = get_random_secret_key()

ALLOWED_HOSTS = environment.names(os.environ.get("ALLOWED_HOSTS", "")) or ["localhost", "127.0.0.1", "[::1]"]
CSRF_TRUSTED_ORIGINS = environment.names(os.environ.get("CSRF_TRUSTED_ORIGINS", ""))

# nginx ends TLS and says so; it overwrites whatever a client sends under this name.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_SSL_REDIRECT = not DEBUG
SECURE_HSTS_SECONDS = 0 if DEBUG else int(os.environ.get("HSTS_SECONDS", "31536000"))
SESSION_COOKIE_SECURE = not DEBUG
CSRF_COOKIE_SECURE = not DEBUG
CSRF_COOKIE_HTTPONLY = True
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
# The portal speaks for its own host only: neighbours under the same domain (W005) and the browsers' preload
# list (W021) are for the owner of the domain to decide.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]

# --- The application ---
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "audits",
]

MIDDLEWARE = [
    "portal.middleware.ReleaseMiddleware",  # outermost, so that refusals and errors name their release too
    "portal.middleware.HealthMiddleware",  # before the checks of host and scheme: a probe comes over a socket
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "portal.urls"
WSGI_APPLICATION = "portal.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "portal.middleware.release_context",
            ],
        },
    },
]

LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "portal"
LOGOUT_REDIRECT_URL = "portal"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]

LANGUAGE_CODE = "en-gb"
USE_I18N = False
TIME_ZONE = "UTC"
USE_TZ = True

# --- Files ---
STORAGES = {
    "default": {"BACKEND": "portal.storage.MediaStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"},
}
# Photographs are files of one host: where several hosts share a database, turn them off.
PHOTOS = environment.boolean("PORTAL_PHOTOS", os.environ.get("PORTAL_PHOTOS", "true"))
UPLOAD_LIMIT_BYTES = 50 * 1024 * 1024
DATA_UPLOAD_MAX_MEMORY_SIZE = UPLOAD_LIMIT_BYTES
FILE_UPLOAD_PERMISSIONS = 0o640
# FILE_UPLOAD_DIRECTORY_PERMISSIONS stays unset: with it Django sets a new directory's mode itself and takes
# away the set-group-id bit inherited from media/, by which nginx may read it; the umask (0027) does the rest.

# --- Logging: one JSON object on each line, to the journal and to a file ---
LOG_LEVEL = (os.environ.get("BACKSTAY_LOG_LEVEL") or "INFO").upper()
_log_dir = os.environ.get("BACKSTAY_LOG_DIR")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "portal.logs.JsonFormatter"}},
    "handlers": {
        "stream": {
            "class": "logging.StreamHandler",
            "formatter": "json",
            "stream": f"ext://sys.{os.environ.get('PORTAL_LOG_STREAM', 'stdout')}",
        },
    },
    "root": {"handlers": ["stream"], "level": LOG_LEVEL},
    # Django's own handlers print to the console or mail the administrators; ours are enough.
    "loggers": {"django": {"handlers": [], "level": LOG_LEVEL, "propagate": True}},
}
if _log_dir:
    LOGGING["handlers"]["file"] = {
        # Reopens the file when logrotate has moved it away; opened late: reading settings writes nothing.
        "class": "logging.handlers.WatchedFileHandler",
        "filename": str(Path(_log_dir) / "app.log"),
        "formatter": "json",
        "delay": True,
    }
    LOGGING["root"]["handlers"].append("file")
