from __future__ import annotations

import io
import json
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import call_command
from django.utils import timezone

from audits import worker
from audits.models import Audit, Finding, Job, Photo


def run(*arguments: str) -> dict[str, object]:
    out = io.StringIO()
    call_command(*arguments, stdout=out)
    return json.loads(out.getvalue())


def test_seed_is_the_same_every_time_and_adds_nothing_twice(db: None) -> None:
    assert run("seed", "--audits", "250")["added"] == 250
    first = run("dumpcounts")
    assert run("seed", "--audits", "250")["added"] == 0
    assert run("dumpcounts") == first
    assert (first["audits"], first["media_missing"]) == (250, [])
    assert Photo.objects.exclude(thumbnail="").exists()


def test_seed_grows_what_is_there_and_leaves_others_alone(db: None, audit: Audit) -> None:
    Finding.objects.create(audit=audit, note="Mine")
    assert run("seed", "--audits", "40")["added"] == 39, "LA-000001 is there already"
    assert run("seed", "--audits", "50")["added"] == 10
    assert list(audit.findings.values_list("note", flat=True)) == ["Mine"]


def test_dumpcounts_notices_a_missing_photograph_and_a_changed_finding(db: None, media: Path) -> None:
    run("seed", "--audits", "250")
    before = run("dumpcounts")
    photo = Photo.objects.first()
    assert photo is not None
    (media / photo.image.name).unlink()
    Finding.objects.filter(pk=photo.finding_id).update(note="Forged")
    after = run("dumpcounts")
    assert after["media_missing"] == [photo.image.name]
    assert after["findings_sha256"] != before["findings_sha256"]


def test_jobs_are_done_once_in_order(audit: Audit) -> None:
    finding = Finding.objects.create(audit=audit, note="Rope", severity="high")
    first = Job.objects.create(kind="notification", target=finding.pk)
    second = Job.objects.create(kind="notification", target=finding.pk)
    assert [worker.take_job(), worker.take_job(), worker.take_job()] == [first, second, None]


def test_a_job_that_fails_is_tried_three_times(db: None) -> None:
    job = Job.objects.create(kind="unheard-of", target=1)
    for state in ("queued", "queued", "failed"):
        taken = worker.take_job()
        assert taken is not None
        worker.do_job(taken)
        job.refresh_from_db()
        assert job.state == state
    assert "KeyError" in job.error
    assert worker.take_job() is None


@pytest.mark.parametrize(("silent_for", "taken_again"), [(10, False), (61, True)])
def test_a_job_whose_worker_was_killed_goes_back(db: None, silent_for: int, taken_again: bool) -> None:
    job = Job.objects.create(kind="notification", target=1)
    assert worker.take_job() == job
    Job.objects.update(changed_at=timezone.now() - timedelta(seconds=silent_for))
    assert (worker.take_job() == job) is taken_again
