"""Several hosts on one page: what each said, who said nothing, and what was expected of them."""

from __future__ import annotations

import datetime as dt
from typing import Any

from status_picture import NOW, well

from ansible_collections.backstay.ops.plugins.module_utils._cells import row
from ansible_collections.backstay.ops.plugins.module_utils._page_hosts import document_of, rows_of

DECLARED = {"app1": ["portal"], "app2": ["portal"]}
GONE = {"unreachable": True, "msg": "No route to host"}


def answer(*names: str) -> dict[str, Any]:
    return {"rows": [row(well(name, "some-machine"), now=NOW).to_dict() for name in names], "problem": ""}


def test_hosts_are_called_as_the_inventory_calls_them() -> None:
    rows, silent = rows_of({"app1": answer("portal"), "app2": answer("portal")}, DECLARED, {}, now=NOW)
    assert [(each.name, each.state) for each in rows] == [("portal@app1", "green"), ("portal@app2", "green")]
    assert silent == {}


def test_a_silent_host_is_unknown_and_red_when_it_stays_so() -> None:
    first, silent = rows_of({"app1": answer("portal"), "app2": GONE}, DECLARED, {}, now=NOW)
    assert [each.state for each in first] == ["green", "grey"]
    before = document_of(first, silent, NOW)
    later = NOW + dt.timedelta(minutes=1)
    again, silent = rows_of({"app1": answer("portal"), "app2": GONE}, DECLARED, before, now=later)
    assert ([each.state for each in again], silent) == (["green", "red"], {"app2": 2})
    back, silent = rows_of(
        {"app1": answer("portal"), "app2": answer("portal")}, DECLARED, document_of(again, silent, later), now=later
    )
    assert ([each.state for each in back], silent) == (["green", "green"], {})


def test_when_a_silent_host_was_last_seen_is_known_from_the_page_before() -> None:
    rows, silent = rows_of({"app1": answer("portal")}, DECLARED, {}, now=NOW)
    before = document_of(rows, silent, NOW)
    for minutes, state in ((3, "grey"), (30, "red")):
        now = NOW + dt.timedelta(minutes=minutes)
        found, _silent = rows_of({"app1": GONE}, DECLARED, before, now=now)
        assert found[0].state == state
        assert f"last seen {minutes} min ago" in found[0].cells[0].value


def test_one_that_was_never_seen_says_so_again_and_again() -> None:
    rows, silent = rows_of({"app1": GONE}, DECLARED, {}, now=NOW)
    again, _silent = rows_of({"app1": GONE}, DECLARED, document_of(rows, silent, NOW), now=NOW)
    assert "never seen" in again[0].cells[0].value


def test_what_ought_to_be_there_and_is_not_is_red() -> None:
    rows, _silent = rows_of({"app1": {"rows": [], "problem": "backstay is not installed"}}, DECLARED, {}, now=NOW)
    assert [(each.name, each.state) for each in rows] == [("portal@app1", "red")]
    assert "backstay is not installed" in rows[0].why
    rows, _silent = rows_of({"app1": answer("shop")}, DECLARED, {}, now=NOW)
    assert [(each.name, each.state) for each in rows] == [("shop@app1", "green"), ("portal@app1", "red")]


def test_a_question_that_failed_is_no_answer() -> None:
    rows, _silent = rows_of(
        {"app1": {"failed": True, "msg": "Missing sudo password"}, "app2": {}}, DECLARED, {}, now=NOW
    )
    assert [each.state for each in rows] == ["grey", "grey"]
    assert "Missing sudo password" in rows[0].why


PROBES = {"app1": ["probe1"], "app2": ["probe1"]}


def outside(host: str = "app1", **more: Any) -> dict[str, Any]:
    """What `backstay status` on a probe tells of one application."""
    at = (NOW - dt.timedelta(seconds=30)).isoformat()
    told = {"state": "up", "why": "", "at": at, "since": at, "changed": at, "objective": 0.999, "spent": 0.1}
    return {"application": "portal", "host": host, "probe": "probe1", "uptime": 0.9999, "events": [], **told, **more}


def probed(*seen: dict[str, Any]) -> dict[str, Any]:
    return {"rows": [], "outside": list(seen), "problem": ""}


def test_what_another_host_saw_is_in_the_row() -> None:
    events = [{"at": NOW.isoformat(), "kind": "incident", "sentence": "portal@app2 was away"}]
    down = outside("app2", state="down", why="no answer", events=events)
    said = {"app1": answer("portal"), "app2": answer("portal"), "probe1": probed(outside(), down)}
    rows, silent = rows_of(said, DECLARED, {}, now=NOW, probes=PROBES)
    assert silent == {}
    assert [(each.name, each.state, each.cells[3].name) for each in rows] == [
        ("portal@app1", "green", "uptime"),
        ("portal@app2", "red", "uptime"),
    ], "and none for the probe itself"
    assert rows[1].why == "uptime from outside: no answer"
    assert rows[1].events[-1]["sentence"] == "portal@app2 was away"


def test_a_host_that_is_silent_has_what_another_saw() -> None:
    said = {"app1": GONE, "probe1": probed(outside(state="down", why="no route"))}
    rows, _silent = rows_of(said, {"app1": ["portal"]}, {}, now=NOW, probes=PROBES)
    assert (rows[0].state, rows[0].cells[3].state) == ("red", "red"), "ssh alone would leave it unknown at first"


def test_a_probe_that_is_silent_or_was_told_nothing_is_seen() -> None:
    said = {"app1": answer("portal"), "app2": answer("portal"), "probe1": GONE}
    rows, _silent = rows_of(said, DECLARED, {}, now=NOW, probes=PROBES)
    assert [(each.name, each.state) for each in rows] == [
        ("portal@app1", "yellow"),
        ("portal@app2", "yellow"),
        ("probe1", "grey"),
    ]
    assert rows[0].cells[3].why == "because probe1 does not answer"
    rows, _silent = rows_of({**said, "probe1": probed()}, DECLARED, {}, now=NOW, probes=PROBES)
    assert [each.state for each in rows] == ["red", "red"]
    assert "never told to watch it" in rows[0].why


def test_of_several_probes_the_one_that_knows_and_saw_the_worst_counts() -> None:
    old = (NOW - dt.timedelta(hours=1)).isoformat()
    said = {
        "app1": answer("portal"),
        "probe1": probed(outside()),
        "probe2": probed(outside(spent=0.9)),
        "probe3": probed(outside(at=old)),
    }
    rows, _silent = rows_of(said, {"app1": ["portal"]}, {}, now=NOW, probes={"app1": ["probe1", "probe2", "probe3"]})
    assert (rows[0].cells[3].state, rows[0].cells[3].source) == ("yellow", "probe2")
