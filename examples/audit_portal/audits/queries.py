"""What the pages read, in few and small queries."""

from __future__ import annotations

from dataclasses import dataclass

from django.core.paginator import Paginator
from django.db.models import Count, Q, QuerySet

from audits.models import Audit, Finding, Photo

PAGE_SIZE = 25


@dataclass(frozen=True)
class AuditPage:
    audits: list[Audit]
    number: int
    pages: int
    total: int

    @property
    def previous(self) -> int | None:
        return self.number - 1 if self.number > 1 else None

    @property
    def next(self) -> int | None:
        return self.number + 1 if self.number < self.pages else None


def search(words: str) -> QuerySet[Audit]:
    """Audits whose reference, building, city or lift contains each of the words."""
    found = Audit.objects.all()
    for word in words.split()[:6]:
        found = found.filter(
            Q(reference__icontains=word)
            | Q(lift__serial__icontains=word)
            | Q(lift__building__name__icontains=word)
            | Q(lift__building__city__icontains=word)
        )
    return found


def audit_page(words: str, number: str | int | None) -> AuditPage:
    """One page of audits, newest first; a page out of range is the nearest there is.

    Two steps: the ids of the page from the index alone, then the rows of these ids with lift, building and
    inspector. In one step the database would join every row it skips.
    """
    paginator = Paginator(search(words).values_list("id", flat=True), PAGE_SIZE)
    page = paginator.get_page(number)
    rows = Audit.objects.filter(id__in=list(page.object_list)).select_related("lift__building", "inspector")
    return AuditPage(
        audits=list(rows.defer("summary", "created_at")),
        number=page.number,
        pages=paginator.num_pages,
        total=paginator.count,
    )


def open_findings() -> dict[str, int]:
    """How many findings are not resolved, by severity; answered by an index."""
    rows = Finding.objects.filter(resolved=False).order_by().values_list("severity").annotate(n=Count("id"))
    return dict.fromkeys(Finding.Severity.values, 0) | dict(rows)


def latest_photos() -> list[Photo]:
    return list(Photo.objects.select_related("finding")[:6])


def findings_by_city() -> list[dict[str, object]]:
    """The report: a walk through all findings, on purpose."""
    return list(
        Finding.objects.order_by()
        .values("audit__lift__building__city")
        .annotate(
            audits=Count("audit", distinct=True),
            low=Count("id", filter=Q(severity="low")),
            medium=Count("id", filter=Q(severity="medium")),
            high=Count("id", filter=Q(severity="high")),
            still_open=Count("id", filter=Q(resolved=False)),
        )
        .order_by("-high", "audit__lift__building__city")
    )
