"""No text leaves the host with a secret in it, whatever it looks like and wherever it stands."""

from __future__ import annotations

import json

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._scrub import Scrubber, values_of

VALUE = "s3cr3t-Value_0815/x"
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAA\nQyNTUxOQAAACDplantedplantedplanted\n"
END = "-----END OPENSSH PRIVATE KEY-----\n"

PLANTED = {
    "an assignment": f"PASSWORD={VALUE}",
    "in quotes": f'DB_PASSWORD="{VALUE} more"',
    "YAML": f"  api_key: {VALUE}",
    "JSON": json.dumps({"secret_access_key": VALUE}),
    "JSON inside JSON": json.dumps({"line": json.dumps({"auth_token": VALUE})}),
    "Python": f"{{'password': '{VALUE}'}}",
    "a URL": f"connecting to postgres://portal:{VALUE}@db.test:5432/portal failed",
    "a URL without a user": f"redis://:{VALUE}@cache.test/0",
    "a URL with a token alone": "cloning https://" + "x" * 8 + "planted" * 3 + "@git.test/a.git",
    "an authorization header": f"Authorization: Digest {VALUE}",
    "a bearer": f"sent Bearer {VALUE}abcdef to it",
    "a cookie": f"Cookie: sessionid={VALUE}; csrftoken={VALUE}",
    "a cookie that is set": f"'Set-Cookie': 'sessionid={VALUE}; Path=/'",
    "an option": f"restic --password {VALUE} backup",
    "a header in curl": f"curl -H 'X-Api-Key: {VALUE}'",
    "an escaped quote": 'password="planted\\"planted"',
}


@pytest.mark.parametrize("where", PLANTED)
def test_a_secret_that_nobody_declared_goes_by_how_it_looks(where: str) -> None:
    clean = Scrubber()(f"before\n{PLANTED[where]}\nafter\n")
    assert VALUE not in clean
    assert "planted" not in clean
    assert "[secret]" in clean
    assert clean.startswith("before\n")
    assert clean.endswith("after\n")


@pytest.mark.parametrize("text", [KEY + END, KEY, "\n".join(f"Nov 21 app1 x[1]: {line}" for line in KEY.split("\n"))])
def test_a_private_key_goes_whole(text: str) -> None:
    clean = Scrubber()(f"before\n{text}")
    assert "planted" not in clean
    assert "b3Blbn" not in clean


def test_the_end_of_a_key_whose_beginning_is_cut_off_goes_too() -> None:
    middle = KEY.split("\n", 1)[1]
    clean = Scrubber()(f"{middle}{END}after\n")
    assert "planted" not in clean
    assert "b3Blbn" not in clean
    assert clean.endswith("after\n")
    prefixed = "".join(f"2026-11-21T08:00:00 app1 web[7]: {line}\n" for line in (middle + END).splitlines())
    assert "planted" not in Scrubber()(prefixed)


@pytest.mark.parametrize(
    "shape",
    [
        "{}",
        "x{}y",
        "postgres://u:{}@h/d",
    ],
)
def test_a_secret_that_is_known_goes_by_its_value(shape: str) -> None:
    known = 'quote" and \\ and ü and %'
    for text in (shape.format(known), json.dumps(shape.format(known)), repr(shape.format(known))):
        clean = Scrubber([known])(text)
        assert known not in clean
        assert json.dumps(known)[1:-1] not in clean


def test_lines_of_a_known_secret_go_one_by_one() -> None:
    known = "first line of it\nsecond line of it"
    assert "second line" not in Scrubber([known])("saw: second line of it")


def test_what_is_no_secret_stays() -> None:
    plain = (
        '{"environment": {"secret": ["SECRET_KEY"], "required": []}, "token_seconds": 300}\n'
        "2026-11-21T08:00:00 app1 audit-portal[7]: GET /audits/ 200\n"
        "PASSWORD=\nsecret: null\nhttps://portal.test:443/path?x=1 and user@host\n"
        "journal: backstay-transaction@portal.service: Main process exited\n"
    )
    assert Scrubber(["abc"])(plain) == plain, "a value of three letters is no secret"


def test_under_a_telling_key_everything_goes() -> None:
    clean = Scrubber([VALUE]).value({"a": [VALUE, {"db_password": "short"}], "count": 3, "ok": True, "none": None})
    assert clean == {"a": ["[secret]", {"db_password": "[secret]"}], "count": 3, "ok": True, "none": None}


def test_values_of_a_document_of_secrets() -> None:
    assert values_of({"format": 1, "values": {"A": "one", "B": ["two", {"c": "three"}]}}) == ("one", "two", "three")
    assert values_of(None) == ()


def test_it_shows_none_of_what_it_knows() -> None:
    assert VALUE not in repr(Scrubber([VALUE]))


def test_long_lines_take_no_long_time() -> None:
    """No pattern may try a long line again from each of its letters; without that this would not end."""
    for letter in ("a", "a-", "=", "a.b_", "https://"):
        Scrubber([VALUE])(letter * 5_000)
