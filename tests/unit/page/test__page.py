"""The page as a browser, a reader of screens, a printer and a thief see it; and the same as text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest
import status_picture
from status_picture import NOW, ago, well

from ansible_collections.backstay.ops.plugins.module_utils import _cells, _charts
from ansible_collections.backstay.ops.plugins.module_utils._cells import row, unreachable
from ansible_collections.backstay.ops.plugins.module_utils._charts import Chart, described, svg, thinned
from ansible_collections.backstay.ops.plugins.module_utils._page import document, page, text
from ansible_collections.backstay.ops.plugins.module_utils._page_style import STYLE

VOID = {"meta", "br", "link", "img", "use", "path", "circle", "rect", "line", "polyline", "polygon"}


class Tree(HTMLParser):
    """The elements of a page; every one that was opened must be closed, in the right order."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.wrong: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)

    def all(self, *tags: str) -> Iterator[dict[str, str]]:
        return (attributes for tag, attributes in self.elements if tag in tags)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).replace("\u00a0", " ").split())


@pytest.fixture(scope="module")
def source() -> str:
    return page(status_picture.fleet(), now=NOW, title="a fleet")


@pytest.fixture(scope="module")
def tree(source: str) -> Tree:
    return Tree(source)


def test_it_is_well_formed(tree: Tree) -> None:
    assert tree.wrong == []
    assert tree.open == []


def test_identities_are_given_once_and_what_is_referred_to_is_there(tree: Tree) -> None:
    given = [attributes["id"] for _tag, attributes in tree.elements if "id" in attributes]
    assert len(given) == len(set(given))
    wanted = {name for _tag, each in tree.elements for name in each.get("aria-labelledby", "").split()}
    wanted |= {each["href"][1:] for each in tree.all("a", "use") if each["href"].startswith("#")}
    assert wanted - set(given) == set()


def test_it_runs_nothing_and_loads_nothing(tree: Tree, source: str) -> None:
    tags = {tag for tag, _attributes in tree.elements}
    assert tags & {"script", "link", "img", "iframe", "object", "embed", "form", "base", "foreignobject"} == set()
    assert not [name for _tag, each in tree.elements for name in each if name.startswith("on") or name == "src"]
    assert "url(" not in STYLE
    assert "@import" not in STYLE
    policy = next(each["content"] for each in tree.all("meta") if each.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert "javascript:" not in source


def test_it_says_its_language_its_title_and_one_heading_of_the_first_rank(tree: Tree, source: str) -> None:
    assert next(tree.all("html"))["lang"] == "en"
    assert "<title>act now: 2 of 9 need somebody now - Backstay</title>" in source.replace("\u00a0", " ")
    assert len(list(tree.all("h1"))) == 1
    assert len(list(tree.all("h2"))) >= 4


def test_the_matrix_has_a_heading_for_each_row_and_column(tree: Tree) -> None:
    scopes = [each.get("scope") for each in tree.all("th")]
    assert set(scopes) == {"row", "col"}
    assert "caption" in [tag for tag, _each in tree.elements]
    labels = {each["data-label"] for each in tree.all("td") if "data-label" in each}
    assert labels == {title for _name, title, _age, _book in _cells.COLUMNS}


def test_there_is_a_column_for_what_another_host_saw_where_one_watches() -> None:
    *rest, first, silent = sorted(status_picture.fleet(), key=lambda row: row.cells[0].value.startswith("no answer"))
    cell = _cells.Cell("uptime", "green", "99.98 % of 30 d")
    rows = [_cells.with_uptime(first, cell), _cells.with_uptime(silent, cell), *rest]
    watched = Tree(page(rows, now=NOW))
    assert watched.wrong == []
    labels = {each["data-label"] for each in watched.all("td") if "data-label" in each}
    assert "Uptime from outside" in labels
    table = page(rows, now=NOW).partition("<tbody>")[2].partition("</tbody>")[0]
    for line in table.split("<tr>")[1:]:
        wide = sum(int(found or 1) for found in re.findall(r'<td(?:[^>]*?colspan="(\d+)")?', line))
        assert wide == len(_cells.WITH_OUTSIDE), line
    assert table.count("Uptime from outside") == 2
    before = re.search(r'<td class="grey because" colspan="2">.*?</td><td class="green" data-label="Uptime', table)
    assert before, "of a host that is silent it stands in its own column"


def test_every_colour_has_a_shape_and_a_word(tree: Tree, source: str) -> None:
    shapes = re.findall(r'<symbol id="s-(\w+)"[^>]*>(.*?)</symbol>', source)
    assert {name for name, _drawn in shapes} == set(_cells.WORDS)
    assert len({drawn for _name, drawn in shapes}) == len(shapes), "two colours have the same shape"
    for cell in re.findall(r'<td class="(\w+)" data-label.*?</td>', source):
        assert cell in _cells.WORDS
    for state, inner in re.findall(r'<td class="(\w+)" data-label[^>]*>(.*?)</td>', source):
        assert f'href="#s-{state}"' in inner, inner
        assert _cells.WORDS[state] in inner.replace("\u00a0", " "), inner


def test_charts_say_in_words_what_they_show(tree: Tree, source: str) -> None:
    charts = re.findall(r'<svg class="chart".*?</svg>', source)
    assert len(charts) == 9 * 4
    assert all("<title" in chart and "<desc" in chart and 'role="img"' in chart for chart in charts)


def test_the_worst_is_first(source: str) -> None:
    states = re.findall(r'<th scope="row" class="(\w+)"><a', source)
    assert [_cells.RANK[state] for state in states] == sorted((_cells.RANK[state] for state in states), reverse=True)


def test_an_unreachable_host_is_shown_as_such(tree: Tree) -> None:
    assert "app7 did not answer: ssh: connect to host app7 port 22: No route to host" in tree.words
    assert "unknown, because app7 does not answer" in tree.words


def test_thresholds_stand_beside_their_values(tree: Tree) -> None:
    assert "< 80 %, > 14 d" in tree.words
    assert "≤ 26 h, 2 copies" in tree.words


def test_it_says_when_it_was_made_and_until_when_it_is_to_be_believed(tree: Tree) -> None:
    assert "Looked at 2026-11-21 07:05 UTC ; not to be believed after 2026-11-21 07:20 UTC" in tree.words


def test_the_month_shows_incidents_releases_and_restores(tree: Tree) -> None:
    for said in ("Incident messenger@app3", "Release messenger@app1: 0022-1.5.0 went live", "Restore helpdesk@app4"):
        assert said in tree.words
    assert "2 incidents, 3 releases, 1 restore" in tree.words


def test_it_has_a_style_for_phones_for_print_and_for_the_dark() -> None:
    for query in ("(max-width:700px)", "@media print", "(prefers-color-scheme:dark)"):
        assert query in STYLE


def test_everything_that_comes_from_a_host_is_escaped() -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    facts = well("portal", "app1")
    look = facts["look"]
    look["exposure"] = {"open": [22], "problems": [evil]}
    look["probe"] = {**look["probe"], "ok": False, "failures": 3, "reason": evil, "source": evil}
    look["jobs"] = [{"job": evil, "state": "late", "why": evil}]
    look["events"] = [{"at": ago(days=1), "kind": "release", "sentence": evil}]
    look["acknowledged"] = {"jobs": {"by": evil, "until": evil}}
    facts["live"] = {"id": evil, "version": evil, "commit": evil, "by": evil, "since": ago(days=2)}
    facts["processes"] = {f"portal-{evil}-web.service": "active"}
    facts["rollback_target"] = evil
    rows = [row(facts, now=NOW, host=evil), unreachable(evil, evil, evil, now=NOW)]
    tree = Tree(page(rows, now=NOW, title=evil, runbooks=evil))
    assert tree.wrong == []
    assert {tag for tag, _each in tree.elements} & {"script", "img"} == set()
    assert not [name for _tag, each in tree.elements for name in each if name.startswith("on")]
    assert tree.words.count("alert(1)") > 10, "what was escaped is still shown"


def test_a_runbook_is_a_link_only_where_somebody_said_where_it_is_read() -> None:
    facts = well("portal", "app1")
    facts["look"]["exposure"] = {"open": [8080]}
    rows = [row(facts, now=NOW)]
    plain = Tree(page(rows, now=NOW))
    assert "Runbook: docs/runbooks/security-checklist.md" in plain.words
    assert [each["href"] for each in plain.all("a") if not each["href"].startswith("#")] == []
    linked = Tree(page(rows, now=NOW, runbooks="https://wiki.example.org/"))
    assert "https://wiki.example.org/security-checklist.md" in [each["href"] for each in linked.all("a")]


def test_a_quiet_day_is_said_to_be_one() -> None:
    facts = well("portal", "app1")
    facts["look"]["events"] = []
    tree = Tree(page([row(facts, now=NOW)], now=NOW))
    assert "Nothing. Enjoy the day." in tree.words
    assert "No incident, no release, no restore in 30 days." in tree.words
    assert not tree.wrong
    assert any("open" in each for each in tree.all("details")), "the details of a single row are there at once"


def test_a_page_without_rows_claims_nothing() -> None:
    tree = Tree(page([], now=NOW))
    assert "nothing is declared here, so nothing is known" in tree.words.lower()
    assert not tree.wrong


def test_the_same_as_text_has_at_most_twenty_lines() -> None:
    rows = status_picture.fleet()
    told = text(rows).splitlines()
    assert told[0] == "ACT NOW: 2 of 9 need somebody now"
    assert len(told) == 1 + 5 + 9
    assert "messenger@app3: backup: there is no restore point; backstay backup messenger" in told[1]
    many = [row(well("portal", f"app{number}"), now=NOW, host=f"app{number}") for number in range(100)]
    long = text([*many, *rows]).splitlines()
    assert len(long) == 20
    assert long[-1] == "  and 96 more"


def test_the_same_as_json() -> None:
    told = json.loads(json.dumps(document(status_picture.fleet(), NOW)))
    assert told["verdict"]["exit_code"] == 2
    assert [each["cell"] for each in told["needs"]][:2] == ["backup", "restore"]
    cell = told["rows"][0]["cells"][0]
    seen = {
        "name",
        "state",
        "value",
        "threshold",
        "since",
        "observed_at",
        "max_age_seconds",
        "source",
        "why",
        "command",
    }
    assert seen <= set(cell)


# --- charts


def chart(points: list[tuple[float, float]], **more: object) -> Chart:
    return Chart("Latency", points, _cells.spoken, **more)  # type: ignore[arg-type]  # whatever the test says


def test_a_chart_tells_its_figures_in_a_sentence() -> None:
    said = described(chart([(0, 0.2), (60, 2.5), (120, 0.4)], limit=2.0))
    assert said == (
        "Latency: 3 figures, the last 400 ms, lowest 200 ms, highest 2.5 s; the limit is 2.0 s, 1 are above it."
    )


def test_a_chart_without_figures_says_so() -> None:
    assert "nothing was measured yet" in svg(chart([]))


def test_one_figure_and_equal_figures_are_drawn() -> None:
    for points in ([(5.0, 1.0)], [(5.0, 0.0), (9.0, 0.0)]):
        for bars in (True, False):
            assert "nan" not in svg(chart(points, bars=bars)).lower()


def test_a_limit_is_a_line_within_the_picture() -> None:
    drawn = svg(chart([(0, 0.1), (60, 0.1)], limit=2.0))
    height = float(re.search(r'class="limit"[^>]*y1="([\d.]+)"', drawn)[1])  # type: ignore[index]  # it is there
    assert 0 <= height < _charts.HEIGHT / 2


def test_thinning_keeps_the_peaks_and_the_order() -> None:
    points = [(float(place), 9.0 if place == 777 else 1.0) for place in range(1000)]
    thin = thinned(points, 50)
    assert len(thin) == 50
    assert (777.0, 9.0) in thin
    assert thin == sorted(thin)
