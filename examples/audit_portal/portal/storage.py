"""Where uploaded files are kept."""

from __future__ import annotations

from django.core.files import File
from django.core.files.storage import FileSystemStorage


class MediaStorage(FileSystemStorage):
    """Media that nginx may read.

    Django moves a large upload from the temporary directory into place, and a moved file keeps its group, so
    that nginx, which reads media/ by the group that directory hands down, would answer 403. A copied file is
    born in its directory and inherits the group.
    """

    def _save(self, name: str, content: File) -> str:
        if hasattr(content, "temporary_file_path"):
            content = File(content.file, name=content.name)
        return super()._save(name, content)
