"""What the pages read, in few and small queries."""

from __future__ import annotations

from dataclasses import dataclass

from django.core.paginator import Paginator
from django.db.models import Count, F, Q, QuerySet
from django.urls import reverse

from audits.models import Audit, Finding, Photo

PAGE_SIZE = 25
RESULTS = dict(Audit.Status.choices)
COLUMNS = {
    "building": F("lift__building__name"),
    "city": F("lift__building__city"),
    "label": F("lift__label"),
    "manufacturer": F("lift__manufacturer"),
    "serial": F("lift__serial"),
    "inspected_by": F("inspector__name"),
}


@dataclass(frozen=True)
class AuditPage:
    audits: list[dict[str, object]]
    number: int
    pages: int
    total: int

    @property
    def total_text(self) -> str:
        return f"{self.total:,}"

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
    inspector. In one step the database would join every row it skips. Rows are plain dictionaries, which cost
    a page that only shows them half of what model instances cost.
    """
    paginator = Paginator(search(words).values_list("id", flat=True), PAGE_SIZE)
    page = paginator.get_page(number)
    return AuditPage(
        audits=audit_rows(list(page.object_list)),
        number=page.number,
        pages=paginator.num_pages,
        total=paginator.count,
    )


def audit_rows(ids: list[int]) -> list[dict[str, object]]:
    rows = list(
        Audit.objects.filter(id__in=ids).values("id", "reference", "performed_on", "status", **COLUMNS)
    )
    address = reverse("audit-detail", args=[0])
    for row in rows:
        row["address"] = address.replace("0", str(row["id"]))
        row["day"] = f"{row['performed_on']:%-d %b %Y}"
        row["result"] = RESULTS[row["status"]]
    return rows


def open_findings() -> dict[str, str]:
    """How many findings are not resolved, by severity, as text; answered by an index."""
    # "IN (false)", because Django writes "= false" as NOT, for which SQLite does not use the index.
    rows = (
        Finding.objects.filter(resolved__in=[False])
        .order_by()
        .values_list("severity")
        .annotate(n=Count("id"))
    )
    counts = dict.fromkeys(Finding.Severity.values, 0) | dict(rows)
    return {severity: f"{count:,}" for severity, count in counts.items()}


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
