from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from backstay_lab.errors import LabError
from backstay_lab.load import Clients, Load, LoadProcess
from backstay_lab.load_profile import Profile, Target

from .conftest import Portal

FEW = Clients(keepalive=2, single=1, slow=1)


def test_a_healthy_portal_loses_nothing(portal: Portal, profile: Profile) -> None:
    result = Load(portal.target, profile, requests=400, seconds=20, rate=2000, clients=FEW).start().wait()
    assert result.failed == 0, result.failures
    assert result.requests == result.succeeded == 400
    assert result.closed_keepalive == 0
    assert set(result.by_kind) == {"read", "asset", "form", "write", "slow"}
    assert result.by_release == {"r1": 400}


def test_every_acknowledged_write_was_written(portal: Portal, profile: Profile) -> None:
    result = Load(portal.target, profile, requests=200, seconds=20, rate=2000, clients=FEW).start().wait()
    assert result.failed == 0, result.failures
    assert sorted(write.token for write in result.writes) == sorted(portal.tokens)
    assert len(result.writes) == result.by_kind["write"]["requests"] > 0


def test_requests_are_a_bound_and_so_is_time(portal: Portal, profile: Profile) -> None:
    assert Load(portal.target, profile, requests=7, seconds=20, rate=2000).start().wait().requests == 7
    quiet = Load(portal.target, profile, seconds=0.3, rate=10, clients=Clients(4, 0, 0)).start().wait()
    assert 1 <= quiet.requests <= 4, "10 a second for 0.3 s"


def test_stop_ends_a_run_early(portal: Portal, profile: Profile) -> None:
    with Load(portal.target, profile, seconds=600, rate=50, clients=FEW) as load:
        assert load.running
        result = load.stop()
    assert not load.running
    assert result.failed == 0, result.failures


def test_an_unexpected_status_is_a_failure_with_its_reason(portal: Portal, profile: Profile) -> None:
    portal.sick_paths["/healthz/"] = 503
    only = replace(profile, reads=("/healthz/",), write_share=0.0)
    result = Load(portal.target, only, requests=30, seconds=20, rate=2000, clients=Clients(2, 0, 0)).start().wait()
    assert result.failed == result.requests == 30
    assert result.failures[0]["reason"] == "503 instead of 200"
    assert len(result.failures) == 20


def test_an_asset_of_a_served_page_that_is_gone_is_a_failure(portal: Portal, profile: Profile) -> None:
    portal.sick_paths["/static/site.1a2b.css"] = 404
    result = Load(portal.target, profile, requests=200, seconds=20, rate=2000, clients=FEW).start().wait()
    assert result.failed > 0
    assert {(told["path"], told["reason"]) for told in result.failures} == {
        ("/static/site.1a2b.css", "404 instead of 200")
    }


def test_a_refused_write_is_not_acknowledged(portal: Portal, profile: Profile) -> None:
    replies = replace(profile, post_fields={"severity": "unheard of", "note": ""}, read_share=0.0, asset_share=0.0)
    result = Load(portal.target, replies, requests=20, seconds=20, rate=2000, clients=Clients(1, 0, 0)).start().wait()
    assert result.writes == ()
    assert result.writes_in_doubt == (), "a refusal leaves no doubt"
    assert result.failures[0]["reason"] == "403 instead of 302"


def test_connections_closed_under_a_client_are_counted_apart(portal: Portal, profile: Profile) -> None:
    portal.stop_after = 3
    result = Load(portal.target, profile, requests=90, seconds=20, rate=2000, clients=Clients(2, 0, 0)).start().wait()
    assert result.failed == 0, result.failures
    assert result.closed_keepalive >= 25, "one for every three answers, idle or racing"
    assert result.closed_keepalive == result.closed_idle + result.closed_racing
    assert result.succeeded + result.closed_racing == 90


def test_a_close_that_was_announced_is_none(portal: Portal, profile: Profile) -> None:
    portal.stop_after, portal.announce = 3, True
    result = Load(portal.target, profile, requests=60, seconds=20, rate=2000, clients=Clients(2, 0, 0)).start().wait()
    assert (result.failed, result.closed_keepalive, result.succeeded) == (0, 0, 60)


def test_another_name_than_the_certificates_is_a_failure(portal: Portal, profile: Profile) -> None:
    other = replace(portal.target, host="other.lab")
    result = Load(other, profile, requests=3, seconds=20, rate=2000, clients=FEW).start().wait()
    assert result.failed == 3
    assert "certificate refused: Hostname mismatch" in result.failures[0]["reason"]


@contextmanager
def _raw_server(answer: bytes | None) -> Iterator[Target]:
    """Accepts, reads, says `answer` (nothing at all for None) and closes only for an answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                held.append(connection)
                connection.recv(65536)
                if answer is not None:
                    connection.sendall(answer)
                    connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Target.parse(f"http://127.0.0.1:{listener.getsockname()[1]}")
        listener.shutdown(socket.SHUT_RDWR)
        for connection in held:
            connection.close()
    thread.join()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "connection closed without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "connection closed after 27 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1234", "connection closed after 4 of 9 bytes"),
        (b"220 mail.example ESMTP\r\n\r\n", "not an HTTP/1 answer"),
        (None, "no answer in time"),
    ],
)
def test_half_an_answer_is_a_failure(answer: bytes | None, reason: str) -> None:
    only = Profile(reads=("/",), write_share=0.0, asset_share=0.0, limit_seconds=0.3)
    with _raw_server(answer) as target:
        result = Load(target, only, requests=2, seconds=20, rate=2000, clients=Clients(1, 0, 0)).start().wait()
    assert result.failed == 2
    assert result.closed_keepalive == 0, "a new connection is no kept one"
    assert reason in result.failures[0]["reason"]


def test_nobody_there_is_a_failure_and_one_long_gap() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    target = Target.parse(f"http://127.0.0.1:{port}")
    result = Load(target, seconds=0.5, rate=20, clients=FEW).start().wait()
    assert result.failed == result.requests > 0
    assert "refused" in result.failures[0]["reason"]
    assert result.longest_gap_seconds == pytest.approx(0.5, abs=0.01)


def test_a_process_of_its_own_gives_the_same_result(portal: Portal, tmp_path: Path) -> None:
    records = tmp_path / "records"
    host, port = portal.target.endpoint
    options = ["--url", portal.target.origin, "--connect", f"{host}:{port}", "--ca", str(portal.target.ca)]
    options += ["--requests", "150", "--rate", "1000", "--records", str(records)]
    result = LoadProcess(options).start().wait()
    assert result.failed == 0, result.failures
    assert result.requests == len(records.read_text().splitlines()) == 150
    assert sorted(write.token for write in result.writes) == sorted(portal.tokens)


def test_a_process_that_cannot_begin_says_why() -> None:
    with pytest.raises(LabError, match="A target is written"):
        LoadProcess(["--url", "nonsense"]).start().wait()


def test_bounds_that_leave_nothing_to_do_are_refused(portal: Portal) -> None:
    with pytest.raises(LabError, match="at least one request"):
        Load(portal.target, requests=0)


def test_a_process_stopped_early_still_gives_its_result(portal: Portal) -> None:
    host, port = portal.target.endpoint
    options = [
        "--url",
        portal.target.origin,
        "--connect",
        f"{host}:{port}",
        "--ca",
        str(portal.target.ca),
        "--rate",
        "50",
    ]
    with LoadProcess(options) as load:
        while not portal.tokens and load.running:
            threading.Event().wait(0.02)
        result = load.stop()
    assert not load.running
    assert result.failed == 0, result.failures
    assert sorted(write.token for write in result.writes) == sorted(portal.tokens)
