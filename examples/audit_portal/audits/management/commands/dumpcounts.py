from __future__ import annotations

import hashlib
import json

from django.core.management.base import BaseCommand
from django.db.models import Max

from audits.models import Audit, Building, Finding, Inspector, Lift, Photo


class Command(BaseCommand):
    help = "Print how much of everything there is, as JSON, to compare two databases."

    def handle(self, *args: object, **options: object) -> None:
        counts: dict[str, object] = {
            str(model._meta.verbose_name_plural): model.objects.count()
            for model in (Inspector, Building, Lift, Audit, Finding, Photo)
        }
        digest = hashlib.sha256()
        for row in (
            Finding.objects.order_by("id")
            .values_list("id", "audit_id", "severity", "note", "token")
            .iterator()
        ):
            digest.update(json.dumps(row).encode())
        missing = [
            photo.image.name
            for photo in Photo.objects.iterator()
            if not photo.image.storage.exists(photo.image.name)
        ]
        counts |= {
            "last_finding": Finding.objects.aggregate(last=Max("id"))["last"],
            "findings_sha256": digest.hexdigest(),
            "media_missing": missing,
        }
        self.stdout.write(json.dumps(counts, sort_keys=True))
