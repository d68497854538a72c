from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
from pytest_django import DjangoAssertNumQueries, Settings

from audits import queries
from audits.models import Audit, Finding


def test_portal_lists_audits_with_lift_and_result(browser: Client, audit: Audit) -> None:
    page = browser.get("/").text
    for words in ("LA-000001", "Mill Tower", "Ghent", "NO-40000", "Ada Holm", "1 Sep 2026", "Passed"):
        assert words in page, f"{words!r} is missing"
    assert f'href="/audits/{audit.pk}/"' in page


def test_portal_needs_the_same_few_queries_however_many_audits(
    browser: Client, db: None, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    call_command("seed", "--audits", "260")
    with django_assert_num_queries(5):
        page = browser.get("/").text
    assert page.count("badge ") == queries.PAGE_SIZE


def test_newest_audits_come_first_and_pages_do_not_overlap(browser: Client, db: None) -> None:
    call_command("seed", "--audits", "60")
    rows = [row["reference"] for n in (1, 2, 3) for row in queries.audit_page("", n).audits]
    assert rows == sorted(rows, reverse=True)
    assert len(set(rows)) == 60


@pytest.mark.parametrize(
    ("asked", "given"), [("2", 2), ("0", 3), ("99", 3), ("nonsense", 1), (None, 1), ("-1", 3)]
)
def test_a_page_out_of_range_is_the_nearest_one(db: None, asked: str | None, given: int) -> None:
    call_command("seed", "--audits", "60")
    assert queries.audit_page("", asked).number == given


@pytest.mark.parametrize("words", ["LA-000001", "mill", "ghent tower", "no-40"])
def test_search_finds_by_reference_building_city_and_serial(
    browser: Client, audit: Audit, words: str
) -> None:
    assert "LA-000001" in browser.get("/audits/", {"q": words}).text
    assert "No audit matches" in browser.get("/audits/", {"q": f"{words} elsewhere"}).text


def test_banner_is_shown_when_configured(browser: Client, db: None, settings: Settings) -> None:
    assert 'class="banner"' not in browser.get("/").text
    settings.PORTAL_BANNER = "Office closed <Friday>"
    assert "Office closed &lt;Friday&gt;" in browser.get("/").text


def test_audit_page_shows_findings_newest_first(browser: Client, audit: Audit) -> None:
    Finding.objects.create(audit=audit, note="First thing")
    Finding.objects.create(audit=audit, note="Second thing", severity="high")
    page = browser.get(audit.get_absolute_url()).text
    assert page.index("Second thing") < page.index("First thing")


def test_report_waits_no_longer_than_asked_and_adds_up(browser: Client, audit: Audit) -> None:
    Finding.objects.create(audit=audit, note="a", severity="high")
    Finding.objects.create(audit=audit, note="b", severity="low", resolved=True)
    page = browser.get("/reports/slow/?seconds=0").text
    assert "Ghent" in page
    assert (
        queries.findings_by_city()[0] | {"audits": 1, "high": 1, "medium": 0, "low": 1, "still_open": 1}
        == (queries.findings_by_city()[0])
    )


def test_footer_names_version_and_release(browser: Client, db: None, settings: Settings) -> None:
    page = browser.get("/").text
    assert f"<b>{settings.VERSION}</b>" in page
    assert "<code>0007-test</code>" in page


def test_unknown_page_and_own_fault_have_pages_of_their_own(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(raise_request_exception=False, headers={"X-Forwarded-Proto": "https"})
    lost = client.get("/nowhere/")
    assert (lost.status_code, lost["X-Release-Id"]) == (404, "0007-test")
    assert "This floor does not exist" in lost.text

    monkeypatch.setattr(queries, "audit_page", lambda *_: 1 / 0)
    fault = client.get("/")
    assert (fault.status_code, fault["X-Release-Id"]) == (500, "0007-test")
    assert "Stuck between floors" in fault.text


def test_planning_an_audit_needs_a_login(browser: Client, client: Client, audit: Audit) -> None:
    assert browser.get("/audits/new/")["Location"] == "/login/?next=/audits/new/"
    client.force_login(User.objects.create_user("ada"))
    fields = {
        "reference": "LA-2",
        "lift": audit.lift_id,
        "inspector": audit.inspector_id,
        "performed_on": "2026-10-01",
        "status": "planned",
    }
    answer = client.post("/audits/new/", fields, secure=True)
    assert answer.status_code == 302
    assert Audit.objects.get(reference="LA-2").status == "planned"


def test_administration_lists_every_model(db: None) -> None:
    client = Client(headers={"X-Forwarded-Proto": "https"})
    client.force_login(User.objects.create_superuser("root"))
    assert client.get("/admin/").status_code == 200
    call_command("seed", "--audits", "10")
    for name in [
        "inspector",
        "building",
        "lift",
        "audit",
        "finding",
        "job",
        "workerheartbeat",
        "schedulertick",
    ]:
        assert client.get(f"/admin/audits/{name}/").status_code == 200, name


def test_numbers_can_be_read(browser: Client, audit: Audit) -> None:
    Finding.objects.bulk_create(Finding(audit=audit, note="x", severity="medium") for _ in range(1234))
    Finding.objects.create(audit=audit, note="x", severity="high", resolved=True)
    page = browser.get("/").text
    assert "<dd>1,234</dd>" in page
    assert page.count("<dd>0</dd>") == 2, "what is resolved is not open"
