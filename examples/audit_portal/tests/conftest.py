from __future__ import annotations

import io
from pathlib import Path

import pytest
from django.test import Client
from PIL import Image
from pytest_django import Settings

from audits.models import Audit, Building, Inspector, Lift


@pytest.fixture(autouse=True)
def media(settings: Settings, tmp_path: Path) -> Path:
    """Media of each test in its own directory."""
    settings.MEDIA_ROOT = tmp_path / "media"
    settings.MEDIA_ROOT.mkdir()
    return settings.MEDIA_ROOT


@pytest.fixture
def browser() -> Client:
    """A visitor whose request came through nginx, with the CSRF check in force."""
    return Client(enforce_csrf_checks=True, headers={"Host": "testserver", "X-Forwarded-Proto": "https"})


@pytest.fixture
def audit(db: None) -> Audit:
    building = Building.objects.create(name="Mill Tower", street="Mill Lane 3", city="Ghent")
    lift = Lift.objects.create(
        building=building, serial="NO-40000", label="Main lift", manufacturer="Nordlift", floors=7
    )
    inspector = Inspector.objects.create(badge="INS-001", name="Ada Holm")
    return Audit.objects.create(
        reference="LA-000001", lift=lift, inspector=inspector, performed_on="2026-09-01", status="passed"
    )


@pytest.fixture
def picture() -> bytes:
    out = io.BytesIO()
    Image.effect_noise((1600, 1200), 90).convert("RGB").save(out, "JPEG", quality=95)
    return out.getvalue()
