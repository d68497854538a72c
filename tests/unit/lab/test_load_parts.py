from __future__ import annotations

import random
from pathlib import Path

import pytest
from backstay_lab.errors import LabError
from backstay_lab.load_connection import dechunk, parse_head
from backstay_lab.load_profile import Profile, Target


@pytest.mark.parametrize(
    ("url", "connect", "endpoint", "origin"),
    [
        ("https://a.example", None, ("a.example", 443), "https://a.example"),
        ("https://a.example/", "10.0.0.1", ("10.0.0.1", 443), "https://a.example"),
        ("https://a.example:8443", "10.0.0.1", ("10.0.0.1", 8443), "https://a.example:8443"),
        ("https://a.example", "10.0.0.1:8443", ("10.0.0.1", 8443), "https://a.example"),
        ("http://a.example:80", None, ("a.example", 80), "http://a.example"),
    ],
)
def test_the_name_asked_for_and_the_address_connected_to_are_two_things(
    url: str, connect: str | None, endpoint: tuple[str, int], origin: str
) -> None:
    target = Target.parse(url, connect=connect)
    assert (target.endpoint, target.origin) == (endpoint, origin)


@pytest.mark.parametrize("url", ["a.example", "ftp://a", "https://", "https://a/path"])
def test_what_is_no_target_is_refused(url: str) -> None:
    with pytest.raises(LabError, match="A target is written"):
        Target.parse(url)


def test_a_profile_from_json(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text('{"reads": ["/a/{n}"], "ranges": {"n": [3, 3]}, "limit_seconds": 2}')
    profile = Profile.read(path)
    assert profile.reads == ("/a/{n}",)
    assert profile.numbers(random.Random(1)) == {"n": 3}


def test_an_unknown_key_of_a_profile_is_named() -> None:
    with pytest.raises(LabError, match="no key 'limit'"):
        Profile.from_mapping({"limit": 3})


def test_assets_are_asked_for_only_once_a_page_named_some() -> None:
    dice, profile = random.Random(1), Profile()
    assert "asset" not in {profile.kind(dice, assets_known=False) for _ in range(200)}
    assert {profile.kind(dice, assets_known=True) for _ in range(200)} == {"read", "write", "asset"}


def test_shares_of_zero_leave_a_kind_out() -> None:
    profile = Profile(write_share=0.0, asset_share=0.0)
    assert {profile.kind(random.Random(1), assets_known=True) for _ in range(50)} == {"read"}


def test_head_of_an_answer() -> None:
    head = b"HTTP/1.1 302 Found\r\nX-Release-Id: r1\r\nSet-Cookie: csrftoken=abc; Path=/\r\nSet-Cookie: messages=x"
    version, status, headers, cookies = parse_head(head)
    assert (version, status, headers["x-release-id"]) == ("HTTP/1.1", 302, "r1")
    assert cookies == {"csrftoken": "abc", "messages": "x"}


@pytest.mark.parametrize("head", [b"", b"SSH-2.0-OpenSSH", b"HTTP/2 200"])
def test_what_is_not_http_is_refused(head: bytes) -> None:
    with pytest.raises(ValueError, match="not an HTTP/1 answer"):
        parse_head(head)


@pytest.mark.parametrize(
    ("body", "content"),
    [
        (b"", None),
        (b"3\r\nab", None),
        (b"3\r\nabc\r\n", None),
        (b"3\r\nabc\r\n0\r\n", None),
        (b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n", b"abc0123456789"),
    ],
)
def test_chunks(body: bytes, content: bytes | None) -> None:
    assert dechunk(bytearray(body)) == content
