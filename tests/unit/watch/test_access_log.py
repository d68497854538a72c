"""The front door's log is read in bounded memory, through rotation, truncation and whatever stands in it."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._access_log import OURS, Follower, parse_hit, route_of

from .world import nginx_line


def line(path: str = "/", *, status: int = 200, release: str = "0001-1.0.0", **values: object) -> str:
    given = {
        "time_iso8601": "2026-11-21T10:00:00+00:00",
        "remote_addr": "10.0.0.1",
        "request_method": "GET",
        "backstay_path": path,
        "status": status,
        "body_bytes_sent": 10,
        "request_time": "0.010",
        "upstream_response_time": "0.010",
        "upstream_addr": "unix:/opt/portal/active",
        "upstream_http_x_release_id": release,
        "http_user_agent": "Mozilla/5.0",
    }
    return nginx_line(**{**given, **values}) + "\n"


def test_a_line_in_the_format_of_the_role_is_understood() -> None:
    hit = parse_hit(line("/audits/17/", status=500).encode())
    assert hit is not None
    assert (hit.route, hit.status, hit.release, hit.seconds, hit.client) == (
        "GET /audits/#/",
        500,
        "0001-1.0.0",
        0.01,
        "10.0.0.1",
    )
    assert hit.second == 1795255200
    assert hit.failed


@pytest.mark.parametrize(
    ("text", "seconds"), [("0.004", 0.004), ("0.100, 0.200", 0.3), ("0.100 : 0.200", 0.3), ("", None), ("-", None)]
)
def test_times_of_several_attempts_are_added(text: str, seconds: float | None) -> None:
    hit = parse_hit(line(upstream_response_time=text).encode())
    assert hit is not None
    assert hit.seconds == pytest.approx(seconds) if seconds is not None else hit.seconds is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not JSON",
        '{"time":"2026-11-21T10:0',
        "[]",
        "{}",
        '{"time":3,"upstream_addr":"x","user_agent":"y"}',
        line(upstream_addr=""),  # nginx answered itself
    ],
)
def test_what_says_nothing_about_the_application_is_left_out(text: str) -> None:
    assert parse_hit(text.encode()) is None


@pytest.mark.parametrize("agent", ["backstay-probe/1.0", "backstay-health"])
def test_our_own_questions_are_told_from_those_of_visitors(agent: str) -> None:
    hit = parse_hit(line(http_user_agent=agent).encode())
    assert hit is not None
    assert (hit.route, hit.release) == (OURS, "0001-1.0.0")


def test_a_connection_that_lasts_says_nothing_about_speed() -> None:
    hit = parse_hit(line(status=101, upstream_response_time="3600.0").encode())
    assert hit is not None
    assert hit.seconds is None


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/", "GET /"),
        ("/audits/12/findings/", "GET /audits/#/findings/"),
        ("/x/3fa85f64-5717-4562-b3fc-2c963f66afa6", "GET /x/#"),
        ("/findings/tokens/0123456789abcdef0123456789abcdef/", "GET /findings/tokens/#/"),
        ("/audits/new/", "GET /audits/new/"),
        ("/administration-of-everything/", "GET /administration-of-everything/"),
    ],
)
def test_a_route_has_no_ids(path: str, route: str) -> None:
    assert route_of("GET", path) == route


def routes(follower: Follower) -> list[str]:
    return [hit.route for hit in follower.fresh()]


def test_what_is_written_later_is_read_once(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text(line("/a"))
    follower = Follower(log)
    assert [hit.route for hit in follower.past()] == ["GET /a"]
    with log.open("a") as file:
        whole = line("/b")
        file.write(whole[:40])
        file.flush()
        assert routes(follower) == []
        file.write(whole[40:] + line("/c"))
        file.flush()
        assert routes(follower) == ["GET /b", "GET /c"]
    assert routes(follower) == []


def test_nothing_is_lost_when_the_log_is_rotated(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text(line("/a"))
    follower = Follower(log)
    list(follower.past())
    with log.open("a") as old:
        log.rename(tmp_path / "access.log.1")
        old.write(line("/late"))
        old.flush()
        assert routes(follower) == ["GET /late"]
        log.write_text("")
        old.write(line("/later"))
        old.flush()
        assert routes(follower) == ["GET /later"]
        with log.open("a") as new:
            new.write(line("/new"))
        assert routes(follower) == ["GET /new"]
    with log.open("a") as new:
        new.write(line("/newer"))
    assert routes(follower) == ["GET /newer"]


def test_a_log_truncated_in_place_is_read_from_its_beginning(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text(line("/a") * 10)
    follower = Follower(log)
    list(follower.past())
    log.write_text(line("/b"))
    assert routes(follower) == ["GET /b"]


def test_the_log_before_the_last_rotation_belongs_to_the_past(tmp_path: Path) -> None:
    (tmp_path / "access.log.1").write_text(line("/old"))
    (tmp_path / "access.log").write_text(line("/new"))
    assert [hit.route for hit in Follower(tmp_path / "access.log").past()] == ["GET /old", "GET /new"]


def test_a_log_that_comes_later_is_found(tmp_path: Path) -> None:
    follower = Follower(tmp_path / "access.log")
    assert list(follower.past()) == []
    (tmp_path / "access.log").write_text(line("/first"))
    assert routes(follower) == ["GET /first"]


def test_of_a_huge_log_only_the_end_is_read(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    with log.open("w") as file:
        file.truncate(1 << 30)  # a hole: a gigabyte that costs no disk
        file.seek(1 << 30)
        file.write("\n" + "".join(line(f"/page-{letter}") for letter in "abc"))
    follower = Follower(log, tail_bytes=1 << 20)
    tracemalloc.start()
    found = [hit.route for hit in follower.past()]
    _now, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == ["GET /page-a", "GET /page-b", "GET /page-c"]
    assert most < 8 << 20
    assert follower.skipped_bytes > 1000 << 20


def test_the_first_line_after_a_cut_is_no_half_line(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text(line("/a") * 100)
    follower = Follower(log, tail_bytes=len(line("/a")) * 3 + 10)
    assert len(list(follower.past())) == 3


def test_a_line_without_an_end_costs_bounded_memory(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_bytes(b"x" * (3 << 20) + b"\n" + line("/a").encode())
    assert [hit.route for hit in Follower(log).past()] == ["GET /a"]


def test_the_format_is_json_whatever_the_values() -> None:
    assert json.loads(line())["uri"] == "/"
