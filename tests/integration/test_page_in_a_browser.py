"""The one-look page in a real browser, at a desk, on a phone, in the dark and on paper; and a real host's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import status_picture
from backstay_lab.browser import Browser
from backstay_lab.keys import ensure_ca
from backstay_lab.layout import CHECKOUT, LabLayout
from backstay_lab.scene import APPLICATION, Scene

from ansible_collections.backstay.ops.plugins.module_utils._page import page

PICTURES = CHECKOUT / ".lab" / "screenshots"
STATE = "/var/lib/backstay/.host"
# What would make a reader scroll sideways, and what is cut off: neither may be.
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
SMALL = (
    "[...document.querySelectorAll('h1, h2, .what, .v, .m, td, th')]"
    ".filter(each => each.checkVisibility() && parseFloat(getComputedStyle(each).fontSize) < 11).length"
)
# The contrast of each cell's text with what is behind it, as WCAG reckons; the lowest of all.
CONTRAST = """
(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgb = colour => { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
                          return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3); };
  const light = colour => rgb(colour).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = each => { for (let at = each; at; at = at.parentElement) {
    const found = getComputedStyle(at).backgroundColor; if (found !== 'rgba(0, 0, 0, 0)') return found; }
    return 'white'; };
  const texts = 'h1, h2, header p, .what, .far, .say, .m, code, time, td, th, summary';
  return Math.min(...[...document.querySelectorAll(texts)]
    .filter(each => each.checkVisibility() && each.textContent.trim())
    .map(each => { const [a, b] = [light(getComputedStyle(each).color), light(behind(each))].sort((x, y) => y - x);
                   return (a + .05) / (b + .05); }));
})()
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    authority, _key = ensure_ca(LabLayout("page", tmp_path_factory.mktemp("authority")))
    with Browser(ca=authority, names={}) as window:
        yield window


@pytest.fixture
def made(tmp_path: Path) -> str:
    """The page of the made-up fleet, as a file."""
    file = tmp_path / "status.html"
    file.write_text(page(status_picture.fleet(), now=status_picture.NOW, title="a made-up fleet"), encoding="utf-8")
    return file.as_uri()


def test_nothing_is_wider_than_a_desk_or_a_phone(browser: Browser, made: str) -> None:
    for width in (1600, 1280, 701, 390, 320):
        browser.emulate(width, 900)
        seen = browser.open(made)
        assert seen.problems == (), seen
        assert browser.ask(OVERFLOW) <= 0, f"at {width} pixels one has to scroll sideways"
        assert browser.ask(SMALL) == 0, f"at {width} pixels something is too small to be read"


def test_a_phone_has_cards_and_a_desk_a_table(browser: Browser, made: str) -> None:
    browser.emulate(1440, 900)
    browser.open(made)
    assert browser.ask("getComputedStyle(document.querySelector('.matrix thead')).display") == "table-header-group"
    browser.screenshot(PICTURES / "status-page-desk.png")
    browser.emulate(390, 900)
    browser.open(made)
    assert browser.ask("getComputedStyle(document.querySelector('.matrix thead')).display") == "none"
    assert browser.ask("getComputedStyle(document.querySelector('.matrix td'), '::before').content") == '"Host"'
    browser.screenshot(PICTURES / "status-page-phone.png")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_the_light_and_in_the_dark(browser: Browser, made: str, scheme: str) -> None:
    browser.emulate(1440, 900, scheme=scheme)
    browser.open(made)
    assert browser.ask(f"matchMedia('(prefers-color-scheme: {scheme})').matches")
    assert browser.ask(CONTRAST) >= 4.5, f"in the {scheme} some text can hardly be told from what is behind it"


def test_on_paper_everything_is_there(browser: Browser, made: str) -> None:
    browser.emulate(1000, 900, media="print")
    browser.open(made)
    hidden = (
        "[...document.querySelectorAll('.facts')].filter(each => !each.checkVisibility({contentVisibilityAuto: true}))"
    )
    assert browser.ask(f"{hidden}.length") == 0, "what is behind the rows is not printed"


def test_shapes_are_drawn_and_links_lead_to_their_rows(browser: Browser, made: str) -> None:
    browser.emulate(1440, 900)
    browser.open(made)
    assert browser.ask("[...document.querySelectorAll('svg.s')].every(each => each.getBoundingClientRect().width > 8)")
    assert browser.ask("document.querySelectorAll('.needs li').length") == 5
    assert browser.ask("[...document.querySelectorAll('a[href^=\"#\"]')].every(a => document.querySelector(a.hash))")
    assert browser.ask("document.scripts.length") == 0


def test_a_hosts_own_page_is_what_its_status_says(standing: Scene, browser: Browser, tmp_path: Path) -> None:
    looks = "backstay-observe.timer backstay-page.timer"
    standing.lab.ssh("app1", f"systemctl stop {looks} backstay-observe.service backstay-page.service")
    try:  # no look of a timer comes between the two
        standing.lab.ssh("app1", "systemctl start backstay-page.service")
        assert standing.lab.ssh("app1", "systemctl is-enabled backstay-page.timer").stdout.strip() == "enabled"
        told = json.loads(standing.lab.ssh("app1", f"cat {STATE}/status.json").stdout)
        status = standing.status()
    finally:
        standing.lab.ssh("app1", f"systemctl start {looks}")
    mine = next(row for row in told["rows"] if row["application"] == APPLICATION)
    assert mine["release"]["id"] == status["live"]["id"]
    colours = {cell["name"]: cell["state"] for cell in mine["cells"]}
    assert colours == {cell["name"]: cell["state"] for cell in status["cells"]}
    assert colours["health"] == "green", mine
    file = tmp_path / "host.html"
    file.write_text(standing.lab.ssh("app1", f"cat {STATE}/status.html").stdout, encoding="utf-8")
    browser.emulate(1440, 900)
    browser.open(file.as_uri())
    assert APPLICATION in browser.ask("document.querySelector('.matrix tbody th').textContent")
    browser.screenshot(PICTURES / "status-page-host.png")


def test_the_playbook_writes_one_page_for_all_hosts(standing: Scene, tmp_path: Path) -> None:
    done = standing.play("status", directory=str(tmp_path / "wall"), title="the lab")
    assert done.ok, done.output
    told = json.loads((tmp_path / "wall" / "status.json").read_text())
    assert (APPLICATION, "app1") in {(row["application"], row["host"]) for row in told["rows"]}
    assert "the lab" in (tmp_path / "wall" / "status.html").read_text()
