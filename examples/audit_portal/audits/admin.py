from __future__ import annotations

from django.contrib import admin

from audits.models import (
    Audit,
    Building,
    Finding,
    Inspector,
    Job,
    Lift,
    Photo,
    SchedulerTick,
    WorkerHeartbeat,
)

admin.site.site_header = "Audit portal"
admin.site.site_title = "Audit portal"


@admin.register(Inspector)
class InspectorAdmin(admin.ModelAdmin):
    list_display = ["badge", "name"]
    search_fields = ["badge", "name"]


@admin.register(Building)
class BuildingAdmin(admin.ModelAdmin):
    list_display = ["name", "street", "city"]
    list_filter = ["city"]
    search_fields = ["name", "street"]


@admin.register(Lift)
class LiftAdmin(admin.ModelAdmin):
    list_display = ["serial", "label", "building", "manufacturer", "floors"]
    list_select_related = ["building"]
    search_fields = ["serial", "building__name"]
    autocomplete_fields = ["building"]


@admin.register(Audit)
class AuditAdmin(admin.ModelAdmin):
    list_display = ["reference", "performed_on", "lift", "inspector", "status"]
    list_filter = ["status"]
    list_select_related = ["lift", "inspector"]
    search_fields = ["reference", "lift__serial"]
    autocomplete_fields = ["lift", "inspector"]
    show_full_result_count = False


class PhotoInline(admin.TabularInline):
    model = Photo
    extra = 0


@admin.register(Finding)
class FindingAdmin(admin.ModelAdmin):
    list_display = ["id", "audit", "severity", "note", "resolved", "created_at"]
    list_filter = ["severity", "resolved"]
    list_select_related = ["audit"]
    autocomplete_fields = ["audit"]
    inlines = [PhotoInline]
    show_full_result_count = False


@admin.register(Job)
class JobAdmin(admin.ModelAdmin):
    list_display = ["id", "kind", "target", "state", "attempts", "changed_at"]
    list_filter = ["state", "kind"]


@admin.register(WorkerHeartbeat, SchedulerTick)
class RunAdmin(admin.ModelAdmin):
    list_display = ["release_id", "pid", "started", "last_seen"]
