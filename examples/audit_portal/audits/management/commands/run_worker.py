from __future__ import annotations

import logging
import os
import time

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import OperationalError, close_old_connections
from django.utils import timezone

from audits import worker
from audits.models import WorkerHeartbeat
from audits.stopping import stop_event

logger = logging.getLogger(__name__)
HEARTBEAT_SECONDS = 5.0
IDLE_SECONDS = 0.5


class Command(BaseCommand):
    help = "Do the queued jobs (thumbnails, notifications) until SIGTERM; the job at hand is finished first."
    requires_migrations_checks = False

    def handle(self, *args: object, **options: object) -> None:
        stop = stop_event()
        now = timezone.now()
        beat = WorkerHeartbeat.objects.create(
            release_id=settings.RELEASE_ID, pid=os.getpid(), started=now, last_seen=now
        )
        logger.info("worker started")
        beaten = time.monotonic()
        while not stop.is_set():
            try:
                close_old_connections()
                if time.monotonic() - beaten >= HEARTBEAT_SECONDS:
                    beat.last_seen = timezone.now()
                    beat.save(update_fields=["last_seen", "jobs_done"])
                    beaten = time.monotonic()
                job = worker.take_job()
                if job is not None:
                    worker.do_job(job)
                    beat.jobs_done += 1
                    continue
            except OperationalError:
                logger.exception("the database does not answer; trying again")
            stop.wait(IDLE_SECONDS)
        beat.last_seen = beat.stopped = timezone.now()
        beat.save(update_fields=["last_seen", "stopped", "jobs_done"])
        logger.info("worker stopped", extra={"data": {"jobs_done": beat.jobs_done}})
