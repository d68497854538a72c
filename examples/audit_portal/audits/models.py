"""Buildings have lifts, inspectors audit them, audits have findings, findings have photographs."""

from __future__ import annotations

from django.db import models
from django.urls import reverse
from django.utils import timezone


class Inspector(models.Model):
    badge = models.CharField(max_length=12, unique=True)
    name = models.CharField(max_length=80)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return f"{self.name} ({self.badge})"


class Building(models.Model):
    name = models.CharField(max_length=80, unique=True)
    street = models.CharField(max_length=120)
    city = models.CharField(max_length=60)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return f"{self.name}, {self.city}"


class Lift(models.Model):
    building = models.ForeignKey(Building, on_delete=models.PROTECT, related_name="lifts")
    serial = models.CharField(max_length=20, unique=True)
    label = models.CharField(max_length=40)
    manufacturer = models.CharField(max_length=40)
    floors = models.PositiveSmallIntegerField()

    class Meta:
        ordering = ["serial"]

    def __str__(self) -> str:
        return f"{self.label} ({self.serial})"


class Audit(models.Model):
    class Status(models.TextChoices):
        PLANNED = "planned", "Planned"
        PASSED = "passed", "Passed"
        ATTENTION = "attention", "Needs attention"
        STOPPED = "stopped", "Out of service"

    reference = models.CharField(max_length=20, unique=True)
    lift = models.ForeignKey(Lift, on_delete=models.PROTECT, related_name="audits")
    inspector = models.ForeignKey(Inspector, on_delete=models.PROTECT, related_name="audits")
    performed_on = models.DateField()
    status = models.CharField(max_length=10, choices=Status, default=Status.PLANNED)
    summary = models.TextField(blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["-performed_on", "-id"]
        indexes = [
            # The portal page walks this index and nothing else to find its 25 rows.
            models.Index(fields=["-performed_on", "-id"], name="audit_newest_first"),
        ]

    def __str__(self) -> str:
        return self.reference

    def get_absolute_url(self) -> str:
        return reverse("audit-detail", args=[self.pk])


class Finding(models.Model):
    class Severity(models.TextChoices):
        LOW = "low", "Low"
        MEDIUM = "medium", "Medium"
        HIGH = "high", "High"

    audit = models.ForeignKey(Audit, on_delete=models.CASCADE, related_name="findings")
    severity = models.CharField(max_length=6, choices=Severity, default=Severity.LOW)
    note = models.TextField(max_length=2000)
    resolved = models.BooleanField(default=False)
    # Made up by the client, so that a finding sent twice (the kiosk lost the answer) is kept once.
    token = models.CharField(max_length=64, unique=True, null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["resolved", "severity"], name="finding_open_severity")]

    def __str__(self) -> str:
        return f"{self.get_severity_display()}: {self.note[:60]}"


class Photo(models.Model):
    finding = models.ForeignKey(Finding, on_delete=models.CASCADE, related_name="photos")
    image = models.ImageField(upload_to="photos/%Y/%m")
    # Made by the worker; until then the page shows the image itself.
    thumbnail = models.ImageField(upload_to="thumbnails/%Y/%m", blank=True)
    caption = models.CharField(max_length=120, blank=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.caption or self.image.name

    @property
    def small(self) -> str:
        """Address of the picture to show on a page."""
        return (self.thumbnail or self.image).url


class Job(models.Model):
    """Work for `manage.py run_worker`."""

    class State(models.TextChoices):
        QUEUED = "queued", "Queued"
        RUNNING = "running", "Running"
        DONE = "done", "Done"
        FAILED = "failed", "Failed"

    kind = models.CharField(max_length=20)
    target = models.PositiveBigIntegerField(help_text="Id of the row the job is about")
    state = models.CharField(max_length=8, choices=State, default=State.QUEUED)
    attempts = models.PositiveSmallIntegerField(default=0)
    error = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    changed_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["id"]
        indexes = [models.Index(fields=["state", "id"], name="job_next")]

    def __str__(self) -> str:
        return f"{self.kind} of {self.target}: {self.state}"


class WorkerHeartbeat(models.Model):
    """One row for each run of a worker, written every few seconds."""

    release_id = models.CharField(max_length=60)
    pid = models.PositiveIntegerField()
    started = models.DateTimeField()
    last_seen = models.DateTimeField(db_index=True)
    stopped = models.DateTimeField(null=True)
    jobs_done = models.PositiveIntegerField(default=0)

    def __str__(self) -> str:
        return f"worker {self.pid} of {self.release_id}"


class SchedulerTick(models.Model):
    """One row for each run of the scheduler, written every second: overlapping rows prove two at once."""

    release_id = models.CharField(max_length=60)
    pid = models.PositiveIntegerField()
    started = models.DateTimeField()
    last_seen = models.DateTimeField(db_index=True)
    ticks = models.PositiveIntegerField(default=0)

    def __str__(self) -> str:
        return f"scheduler {self.pid} of {self.release_id}"
