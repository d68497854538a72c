"""Addresses. /healthz/, /livez/ and /metrics are answered by portal.middleware.HealthMiddleware."""

from __future__ import annotations

from django.conf import settings
from django.conf.urls.static import static
from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from audits import views

urlpatterns = [
    path("", views.portal, name="portal"),
    path("audits/", views.audit_list, name="audit-list"),
    path("audits/new/", views.audit_new, name="audit-new"),
    path("audits/<int:audit_id>/", views.audit_detail, name="audit-detail"),
    path("audits/<int:audit_id>/findings/new/", views.finding_new, name="finding-new"),
    path("audits/<int:audit_id>/findings/", views.finding_create, name="finding-create"),
    path("findings/tokens/<str:token>/", views.finding_token, name="finding-token"),
    path("reports/slow/", views.report_slow, name="report-slow"),
    path("login/", LoginView.as_view(template_name="audits/login.html"), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("admin/", admin.site.urls),
]

# nginx serves media on a host; runserver has only Django (this adds nothing unless DEBUG is true).
urlpatterns += static(settings.MEDIA_URL, document_root=settings.MEDIA_ROOT)

handler500 = "audits.views.server_error"
