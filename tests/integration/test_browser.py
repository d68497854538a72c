"""The portal looked at in a real browser: whole before, during and after a release, for who was there all the time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from backstay_lab.browser import Browser, Seen
from backstay_lab.errors import LabError
from backstay_lab.keys import ensure_ca
from backstay_lab.layout import CHECKOUT, LabLayout
from backstay_lab.scene import DOMAIN, Scene

PICTURES = CHECKOUT / ".lab" / "screenshots"
PORTAL = f"https://{DOMAIN}/"
VERSION_SHOWN = "document.querySelector('footer b').textContent"
ROWS = "document.querySelectorAll('table.audits tbody tr').length"
ASSETS_AGAIN = (
    "Promise.all([...document.querySelectorAll('link[rel=stylesheet], link[rel=icon]')]"
    # Once more where the machine's network changed meanwhile, as other labs come and go.
    ".map(link => fetch(link.href, {cache: 'reload'}).catch(() => fetch(link.href, {cache: 'reload'}))"
    ".then(answer => answer.status)))"
)


@pytest.fixture
def browser(scene: Scene) -> Iterator[Browser]:
    """A browser that trusts the lab's authority and finds the portal on the lab's host."""
    with Browser(ca=scene.ca, names={DOMAIN: scene.address()}) as window:
        yield window


@pytest.fixture
def left_open(scene: Scene) -> Iterator[Browser]:
    """Another window, of somebody who reads on while a release comes."""
    with Browser(ca=scene.ca, names={DOMAIN: scene.address()}) as window:
        yield window


def whole(browser: Browser, seen: Seen) -> None:
    """The page is what a visitor should see: styled, with its rows and its pictures, and nothing failed to load."""
    assert seen.status == 200, seen
    assert seen.problems == (), seen
    assert browser.ask("document.querySelector('h1').textContent") == "Lift audits"
    assert browser.ask(ROWS) == 25
    sheets = [url for url in seen.requests if urlsplit(url).path.endswith(".css")]
    assert sheets, seen.requests
    # What only the style sheet says; without it the header has no colour of its own.
    assert browser.ask("getComputedStyle(document.querySelector('header.top')).backgroundColor") != "rgba(0, 0, 0, 0)"
    assert browser.ask("document.styleSheets[0].cssRules.length") > 20
    photographs = {url: width for url, width in seen.images.items() if "/media/" in url}
    assert len(photographs) >= 3, seen.images
    assert all(seen.images.values()), f"pictures that were not shown: {seen.images}"


def test_the_portal_is_whole_before_during_and_after_a_release(
    at_1_0: Scene, browser: Browser, left_open: Browser
) -> None:
    left_open.open(PORTAL)
    whole(browser, browser.open(PORTAL))
    assert browser.ask(VERSION_SHOWN) == "1.0.0"
    browser.screenshot(PICTURES / "portal-1.0.png")
    answered = []
    with ThreadPoolExecutor(1) as pool:
        release = pool.submit(at_1_0.release, "1.1.0", why="watched in a browser")
        while not release.done() or not answered:
            seen = browser.open(PORTAL)
            whole(browser, seen)
            time.sleep(0.2)
            answered.append((browser.ask(VERSION_SHOWN), seen.headers["x-release-id"]))
        release.result()
    after = browser.open(PORTAL)
    whole(browser, after)
    assert browser.ask(VERSION_SHOWN) == "1.1.0"
    assert after.headers["x-release-id"] == at_1_0.live()
    browser.screenshot(PICTURES / "portal-1.1.png")
    assert answered[0][0] == "1.0.0", answered
    assert len(answered) >= 3, "the release was not watched"
    versions = [version for version, _ in answered]
    assert versions == sorted(versions), f"once the new release has answered, the old one must not: {answered}"
    assert all(release_id.endswith(f"-{version}") for version, release_id in answered), answered
    assert left_open.ask(VERSION_SHOWN) == "1.0.0"
    statuses = left_open.ask(ASSETS_AGAIN)
    assert len(statuses) >= 2
    assert set(statuses) == {200}, f"a page that was open before the release lost its assets: {statuses}"


def test_administration_and_an_audit_are_styled_and_whole(at_1_1: Scene, browser: Browser) -> None:
    login = browser.open(f"{PORTAL}admin/login/")
    assert (login.status, login.problems) == (200, ()), login
    assert browser.ask("document.styleSheets.length") >= 3
    assert browser.ask("document.querySelector('input[name=password]') !== null")
    browser.open(PORTAL)
    address = browser.ask("document.querySelector('.strip a').href")
    audit = browser.open(address)
    assert (audit.status, audit.problems) == (200, ()), audit
    photographs = {url: width for url, width in audit.images.items() if "/media/" in url}
    assert photographs
    assert all(photographs.values()), f"photographs that were not shown: {photographs}"


def test_a_browser_that_does_not_know_the_authority_refuses(scene: Scene, tmp_path: Path) -> None:
    """So that the tests above prove the certificate too: this browser trusts another authority."""
    other, _ = ensure_ca(LabLayout("other", tmp_path))
    with (
        Browser(ca=other, names={DOMAIN: scene.address()}) as window,
        pytest.raises(LabError, match="ERR_CERT_AUTHORITY_INVALID"),
    ):
        window.open(PORTAL)
