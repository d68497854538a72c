from __future__ import annotations

import logging
import time
import uuid

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db import IntegrityError, transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST, require_safe

from audits import queries
from audits.forms import AuditForm, FindingForm
from audits.models import Audit, Finding, Job, Photo
from portal.middleware import is_internal

logger = logging.getLogger(__name__)


@require_safe
def portal(request: HttpRequest) -> HttpResponse:
    context = {
        "page": queries.audit_page("", request.GET.get("page")),
        "open": queries.open_findings(),
        "photos": queries.latest_photos(),
        "banner": settings.PORTAL_BANNER,
    }
    return render(request, "audits/portal.html", context)


@require_safe
def audit_list(request: HttpRequest) -> HttpResponse:
    words = request.GET.get("q", "").strip()[:100]
    context = {"page": queries.audit_page(words, request.GET.get("page")), "q": words}
    return render(request, "audits/audit_list.html", context | {"nav": "audits"})


@login_required
def audit_new(request: HttpRequest) -> HttpResponseBase:
    form = AuditForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        audit = form.save()
        messages.success(request, f"Audit {audit.reference} is planned.")
        return redirect(audit)
    return render(request, "audits/audit_form.html", {"form": form}, status=422 if form.errors else 200)


@require_safe
def audit_detail(request: HttpRequest, audit_id: int) -> HttpResponse:
    audit = get_object_or_404(Audit.objects.select_related("lift__building", "inspector"), pk=audit_id)
    findings = list(audit.findings.prefetch_related("photos")[:200])
    return render(request, "audits/audit_detail.html", {"audit": audit, "findings": findings})


@require_GET
def finding_new(request: HttpRequest, audit_id: int) -> HttpResponse:
    audit = get_object_or_404(Audit.objects.select_related("lift__building"), pk=audit_id)
    form = FindingForm(initial={"token": uuid.uuid4().hex})
    return render(request, "audits/finding_form.html", {"audit": audit, "form": form})


# No login on purpose: this is the kiosk in the machine room, a tablet on the wall that whoever stands before
# it may write on, with gloves on and no password at hand. It can add a finding and do nothing else; what it
# added is reviewed by people who did log in. The CSRF check stays: no other site can write through it.
@require_POST
def finding_create(request: HttpRequest, audit_id: int) -> HttpResponseBase:
    audit = get_object_or_404(Audit.objects.select_related("lift__building"), pk=audit_id)
    form = FindingForm(request.POST, request.FILES)
    if not form.is_valid():
        return render(request, "audits/finding_form.html", {"audit": audit, "form": form}, status=422)
    finding, created = save_finding(audit, form)
    if created:
        messages.success(request, "Thank you, the finding is kept.")
    response = redirect(audit)
    response["X-Finding-Id"] = str(finding.pk)
    return response


def save_finding(audit: Audit, form: FindingForm) -> tuple[Finding, bool]:
    """Keep the finding, its photograph and their jobs, all or nothing. A known token adds nothing."""
    finding = form.save(commit=False)
    finding.audit = audit
    photo = form.cleaned_data.get("photo")
    try:
        with transaction.atomic():
            finding.save()
            if photo:
                kept = Photo.objects.create(finding=finding, image=photo, caption=finding.note[:120])
                Job.objects.create(kind="thumbnail", target=kept.pk)
            if finding.severity == Finding.Severity.HIGH:
                Job.objects.create(kind="notification", target=finding.pk)
    except IntegrityError:
        known = Finding.objects.filter(token=finding.token).first() if finding.token else None
        if known is None:
            raise
        return known, False
    logger.info(
        "finding kept", extra={"data": {"finding": finding.pk, "audit": audit.pk, "photo": bool(photo)}}
    )
    return finding, True


@require_safe
def finding_token(request: HttpRequest, token: str) -> JsonResponse:
    """Whether an acknowledged finding is there: asked by tests, answered to declared addresses only."""
    if not is_internal(request):
        raise Http404
    finding = Finding.objects.filter(token=token).values("id", "audit_id", "severity", "created_at").first()
    return JsonResponse({"exists": finding is not None, "token": token, **(finding or {})})


@require_safe
def report_slow(request: HttpRequest) -> HttpResponse:
    """The report that takes its time: `?seconds=` of waiting, then a walk through all findings."""
    try:
        seconds = min(max(float(request.GET.get("seconds", "3")), 0.0), 10.0)
    except ValueError:
        seconds = 3.0
    started = time.monotonic()
    while (left := started + seconds - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))
    rows = queries.findings_by_city()
    totals = {key: sum(row[key] for row in rows) for key in ("audits", "low", "medium", "high", "still_open")}
    taken = time.monotonic() - started
    return render(
        request, "audits/report.html", {"rows": rows, "totals": totals, "taken": taken, "nav": "report"}
    )


def server_error(request: HttpRequest) -> HttpResponse:
    """The page for our own faults. It must not fail itself, whatever is broken."""
    try:
        return render(request, "500.html", status=500)
    except Exception:  # the page is a courtesy; the first error is in the log already
        logger.exception("the error page failed too")
        return HttpResponse(
            "Something went wrong on our side. Please try again.", status=500, content_type="text/plain"
        )
