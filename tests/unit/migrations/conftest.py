"""What these tests share: see tests/django_project.py."""

from __future__ import annotations

from tests.django_project import django, project, python

__all__ = ["django", "project", "python"]
