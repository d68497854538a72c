from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile, TemporaryUploadedFile
from django.http import HttpResponse
from django.test import Client
from pytest_django import Settings

from audits import worker
from audits.models import Audit, Finding, Job, Photo

ORIGIN = {"Origin": "https://testserver"}


def keep(browser: Client, audit: Audit, **fields: object) -> HttpResponse:
    """Fill in the form as a browser does: get it, send it back with its token."""
    form = browser.get(f"/audits/{audit.pk}/findings/new/").text
    csrf = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form)
    token = re.search(r'name="token" value="(\w+)"', form)
    assert csrf, "the form has no CSRF token"
    assert token, "the form has no token of its own"
    fields = {"csrfmiddlewaretoken": csrf[1], "token": token[1], "severity": "low", "note": "A note"} | fields
    return browser.post(f"/audits/{audit.pk}/findings/", fields, headers=ORIGIN)


def test_a_finding_is_kept_and_acknowledged(browser: Client, audit: Audit) -> None:
    answer = keep(browser, audit, severity="medium", note="Door knocks")
    assert (answer.status_code, answer["Location"]) == (302, f"/audits/{audit.pk}/")
    finding = Finding.objects.get(pk=answer["X-Finding-Id"])
    assert (finding.audit, finding.severity, finding.note) == (audit, "medium", "Door knocks")
    assert "Thank you" in browser.get(answer["Location"]).text


def test_the_same_token_twice_is_one_finding(browser: Client, audit: Audit) -> None:
    first = keep(browser, audit, token="kiosk-7_0001", severity="high")
    second = keep(browser, audit, token="kiosk-7_0001", severity="high")
    assert first["X-Finding-Id"] == second["X-Finding-Id"]
    assert Finding.objects.count() == 1
    assert Job.objects.count() == 1


def test_findings_without_a_token_are_all_kept(browser: Client, audit: Audit) -> None:
    assert keep(browser, audit, token="")["X-Finding-Id"] != keep(browser, audit, token="")["X-Finding-Id"]


def test_without_the_csrf_token_nothing_is_kept(browser: Client, audit: Audit) -> None:
    answer = browser.post(f"/audits/{audit.pk}/findings/", {"severity": "low", "note": "x"}, headers=ORIGIN)
    assert (answer.status_code, Finding.objects.count()) == (403, 0)


@pytest.mark.parametrize(
    "fields",
    [{"note": ""}, {"severity": "terrible"}, {"token": "a b"}, {"token": "x" * 65}, {"note": "x" * 2001}],
)
def test_a_wrong_form_is_shown_again(browser: Client, audit: Audit, fields: dict[str, str]) -> None:
    answer = keep(browser, audit, **fields)
    assert answer.status_code == 422
    assert "errorlist" in answer.text
    assert Finding.objects.count() == 0


def test_without_photographs_the_form_offers_none_and_takes_none(
    browser: Client, audit: Audit, picture: bytes, settings: Settings
) -> None:
    settings.PHOTOS = False
    assert 'name="photo"' not in browser.get(f"/audits/{audit.pk}/findings/new/").text
    keep(browser, audit, photo=SimpleUploadedFile("Shaft 1.jpg", picture, "image/jpeg"))
    assert (Finding.objects.count(), Photo.objects.count()) == (1, 0)


def test_a_photograph_is_kept_and_gets_a_thumbnail(
    browser: Client, audit: Audit, picture: bytes, media: Path
) -> None:
    answer = keep(browser, audit, photo=SimpleUploadedFile("Shaft 1.jpg", picture, "image/jpeg"))
    photo = Photo.objects.get(finding=answer["X-Finding-Id"])
    kept = media / photo.image.name
    assert kept.read_bytes() == picture
    assert stat.S_IMODE(kept.stat().st_mode) == 0o640
    assert photo.image.url in browser.get(audit.get_absolute_url()).text

    job = worker.take_job()
    assert job is not None
    worker.do_job(job)
    assert (job.state, job.error) == ("done", "")
    photo.refresh_from_db()
    assert 0 < photo.thumbnail.size < len(picture) / 5
    assert photo.thumbnail.url in browser.get("/").text


def test_a_large_upload_is_born_in_its_directory(picture: bytes, media: Path, audit: Audit) -> None:
    """A file moved from the temporary directory would keep a group that nginx is not in."""
    upload = TemporaryUploadedFile("large.jpg", "image/jpeg", len(picture), None)
    upload.write(picture)
    upload.seek(0)
    moved = os.stat(upload.temporary_file_path()).st_ino
    photo = Photo.objects.create(finding=Finding.objects.create(audit=audit, note="x"), image=upload)
    assert (media / photo.image.name).stat().st_ino != moved
    assert (media / photo.image.name).read_bytes() == picture
    upload.close()


def test_what_is_not_a_picture_is_refused(browser: Client, audit: Audit) -> None:
    answer = keep(browser, audit, photo=SimpleUploadedFile("x.jpg", b"MZ not a picture", "image/jpeg"))
    assert (answer.status_code, Photo.objects.count(), Finding.objects.count()) == (422, 0, 0)


def test_tokens_are_answered_to_declared_addresses_only(browser: Client, audit: Audit) -> None:
    kept = keep(browser, audit, token="known-1")
    internal = {"X-Backstay-Internal": "yes"}
    found = browser.get("/findings/tokens/known-1/", headers=internal).json()
    assert (found["exists"], str(found["id"])) == (True, kept["X-Finding-Id"])
    assert browser.get("/findings/tokens/unknown/", headers=internal).json()["exists"] is False
    assert browser.get("/findings/tokens/known-1/").status_code == 404
    refused = browser.get("/findings/tokens/known-1/", headers={"X-Backstay-Internal": "no"})
    assert refused.status_code == 404
