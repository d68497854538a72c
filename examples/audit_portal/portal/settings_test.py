"""Settings of the test run: the same file, read in an environment of which nothing leaks in."""

from __future__ import annotations

import os
import tempfile

for _name in list(os.environ):
    if _name.startswith(("BACKSTAY_", "PORTAL_")):
        del os.environ[_name]
for _name in ("DEBUG", "CSRF_TRUSTED_ORIGINS", "DATABASE_URL", "HSTS_SECONDS"):
    os.environ.pop(_name, None)
_directory = tempfile.TemporaryDirectory(prefix="audit-portal-tests-")
os.environ.update(
    SECRET_KEY="a key for tests only, long enough and known to everybody: 0123456789",
    ALLOWED_HOSTS="testserver",
    BACKSTAY_RELEASE_ID="0007-test",
    BACKSTAY_DATA_DIR=_directory.name,
)

from portal.settings import *  # noqa: E402, F403 - the environment above comes first; all names are wanted
from portal.settings import STORAGES  # noqa: E402 - the environment above must be set first

# The manifest is written by collectstatic, which belongs to the build.
STORAGES["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
