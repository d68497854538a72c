from __future__ import annotations

import logging
import os
from datetime import timedelta

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import OperationalError, close_old_connections
from django.utils import timezone

from audits.models import Job, SchedulerTick
from audits.stopping import stop_event

logger = logging.getLogger(__name__)
TICK_SECONDS = 1.0
HOUSEKEEPING_TICKS = 3600
KEEP_JOBS = timedelta(days=7)
KEEP_TICKS = timedelta(days=30)


class Command(BaseCommand):
    help = "The clock of the portal, of which one may run at a time. Writes down every second that it runs."
    requires_migrations_checks = False

    def handle(self, *args: object, **options: object) -> None:
        # It takes no lock of its own: that one runs at a time is the host's promise, and the rows it leaves
        # are how a test finds out whether the promise was kept.
        stop = stop_event()
        now = timezone.now()
        tick = SchedulerTick.objects.create(
            release_id=settings.RELEASE_ID, pid=os.getpid(), started=now, last_seen=now
        )
        logger.info("scheduler started")
        while not stop.wait(TICK_SECONDS):
            try:
                close_old_connections()
                tick.last_seen = timezone.now()
                tick.ticks += 1
                tick.save(update_fields=["last_seen", "ticks"])
                if tick.ticks % HOUSEKEEPING_TICKS == 0:
                    self.keep_house()
            except OperationalError:
                logger.exception("the database does not answer; trying again")
        tick.last_seen = timezone.now()
        tick.save(update_fields=["last_seen", "ticks"])
        logger.info("scheduler stopped", extra={"data": {"ticks": tick.ticks}})

    def keep_house(self) -> None:
        call_command("clearsessions")
        now = timezone.now()
        Job.objects.filter(state=Job.State.DONE, changed_at__lt=now - KEEP_JOBS).delete()
        SchedulerTick.objects.filter(last_seen__lt=now - KEEP_TICKS).delete()
