"""The jobs of the worker, apart from its loop."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import PurePosixPath

from django.core.files.base import ContentFile
from django.db.models import F
from django.utils import timezone
from PIL import Image, ImageOps

from audits.models import Finding, Job, Photo

logger = logging.getLogger(__name__)

THUMBNAIL_PIXELS = (480, 360)
ATTEMPTS = 3
LEASE = timedelta(minutes=1)


def thumbnail_of(picture: io.BufferedIOBase) -> bytes:
    """A small JPEG of a picture, upright, without the camera's notes on where it was taken."""
    with Image.open(picture) as image:
        small = ImageOps.exif_transpose(image).convert("RGB")
        small.thumbnail(THUMBNAIL_PIXELS)
        out = io.BytesIO()
        small.save(out, "JPEG", quality=78, optimize=True)
    return out.getvalue()


def make_thumbnail(photo_id: int) -> None:
    photo = Photo.objects.filter(pk=photo_id).first()
    if photo is None or photo.thumbnail:
        return
    with photo.image.open("rb") as picture:
        content = thumbnail_of(picture)
    photo.thumbnail.save(f"{PurePosixPath(photo.image.name).stem}.jpg", ContentFile(content), save=False)
    photo.save(update_fields=["thumbnail"])


def notify(finding_id: int) -> None:
    """Tell the office of a grave finding. A real portal would send mail; this one writes it in the log."""
    finding = Finding.objects.filter(pk=finding_id).select_related("audit").first()
    if finding is not None:
        logger.warning(
            "grave finding", extra={"data": {"finding": finding.pk, "audit": finding.audit.reference}}
        )


KINDS: dict[str, Callable[[int], None]] = {"thumbnail": make_thumbnail, "notification": notify}


def take_job() -> Job | None:
    """Take the oldest job; of two workers (an old and a new release for a moment) only one gets it."""
    now = timezone.now()
    # What a worker took and never finished (it was killed) goes back.
    Job.objects.filter(state=Job.State.RUNNING, changed_at__lt=now - LEASE).update(state=Job.State.QUEUED)
    job = Job.objects.filter(state=Job.State.QUEUED).first()
    if job is None:
        return None
    taken = Job.objects.filter(pk=job.pk, state=Job.State.QUEUED).update(
        state=Job.State.RUNNING, attempts=F("attempts") + 1, changed_at=now
    )
    if not taken:
        return take_job()
    job.refresh_from_db()
    return job


def do_job(job: Job) -> None:
    """Do one job and write down how it went."""
    try:
        KINDS[job.kind](job.target)
    except Exception as error:  # whatever one job does, the worker goes on to the next
        logger.exception(
            "job failed", extra={"data": {"job": job.pk, "kind": job.kind, "attempt": job.attempts}}
        )
        job.error = f"{type(error).__name__}: {error}"
        job.state = Job.State.FAILED if job.attempts >= ATTEMPTS else Job.State.QUEUED
    else:
        job.error = ""
        job.state = Job.State.DONE
    job.save(update_fields=["state", "error", "changed_at"])
