"""Environments: what is written is what systemd reads, and no secret is in any sentence."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _application, _environment
from ansible_collections.backstay.ops.plugins.module_utils._errors import InputError

SECRET = "correct horse battery staple"


def portal(**environment: Any) -> _application.Application:
    return _application.parse(
        {
            "format": 1,
            "name": "portal",
            "domain": "portal.example.org",
            "source": {"repository": "https://git.example.org/portal.git"},
            "runtime": {"settings": "portal.settings", "wsgi": "portal.wsgi:application"},
            "processes": {"web": {}},
            "environment": environment,
        },
        file="portal.yml",
    )


def refusal_of_file(values: dict[str, str]) -> str:
    with pytest.raises(InputError) as refused:
        _environment.environment_file(values)
    return refused.value.message


def refusal_of(application: _application.Application, secrets: dict[str, Any]) -> str:
    with pytest.raises(InputError) as refused:
        _environment.compose(application, secrets, {"BACKSTAY_VERSION": "1.0.0"})
    return refused.value.message


@pytest.mark.parametrize(
    "value", ["a\0b", "\ud800", "\ufffe", "\ufdd0", "\U0010ffff", "x" * 140_000], ids=lambda value: ascii(value)[:20]
)
def test_what_systemd_would_refuse_is_refused_without_showing_it(value: str) -> None:
    message = refusal_of_file({"TOKEN": SECRET + value})
    assert message.startswith("The value of TOKEN holds a byte zero or a broken letter, or is longer than 128 KB")
    assert SECRET not in message


@pytest.mark.parametrize("key", ["A B", "1A", "", "A-B", "É"])
def test_a_name_that_systemd_would_refuse_is_refused(key: str) -> None:
    assert f"The environment's key {key!r} is no name systemd takes" in refusal_of_file({key: "x"})


ENV_FILE = """\
# a comment
SECRET_KEY=            # make one
export ALLOWED_HOSTS=a.example.org,b.example.org   # with a comment
URL=postgres://u:p#w@h/db
SINGLE='as it is \\n $HOME # no comment'
DOUBLE="a \\"quoted\\" line\\nand a second # no comment"
MULTI="one
two"

  SPACED = value with spaces\x20\x20
BARE
TWICE=1
TWICE=2
"""


def test_an_env_file_is_read() -> None:
    assert _environment.parse(ENV_FILE, file=".env") == {
        "SECRET_KEY": "",
        "ALLOWED_HOSTS": "a.example.org,b.example.org",
        "URL": "postgres://u:p#w@h/db",
        "SINGLE": "as it is \\n $HOME # no comment",
        "DOUBLE": 'a "quoted" line\nand a second # no comment',
        "MULTI": "one\ntwo",
        "SPACED": "value with spaces",
        "BARE": "",
        "TWICE": "2",
    }


def test_an_env_file_from_windows_is_read() -> None:
    assert _environment.parse("\ufeffA=1\r\nB='2'\r\n", file=".env") == {"A": "1", "B": "2"}


@pytest.mark.parametrize("line", ['A="never closed', "A='never closed", "two words = 3", "=x", "A='x'y"])
def test_a_line_that_cannot_be_read_is_named_and_not_shown(line: str) -> None:
    with pytest.raises(InputError) as refused:
        _environment.parse(f"# first\nGOOD=1\n{line}\n", file="the.env")
    assert refused.value.message == (
        "Line 3 of the.env is neither KEY=value nor a comment: correct it, or close its quotes."
    )


def test_what_we_write_can_be_imported_again() -> None:
    values = {"A": "a b # c", "B": 'q"\\'}
    assert _environment.parse(_environment.environment_file(values), file=".env") == values


def test_an_environment_is_values_secrets_and_what_backstay_provides() -> None:
    made = portal(values={"BANNER": "hi"}, secret=["SECRET_KEY", "OPTIONAL"], required=["SECRET_KEY", "BANNER"])
    composed = _environment.compose(made, {"SECRET_KEY": SECRET, "UNNAMED": "x"}, {"BACKSTAY_COMMIT": ""})
    assert composed == {"BANNER": "hi", "SECRET_KEY": SECRET, "BACKSTAY_COMMIT": ""}
    assert _environment.unused(made, {"SECRET_KEY": SECRET, "UNNAMED": "x"}) == ("UNNAMED",)


@pytest.mark.parametrize("secrets", [{}, {"SECRET_KEY": ""}, {"SECRET_KEY": " \n"}])
def test_a_required_secret_that_is_missing_or_empty_is_named_with_its_place(secrets: dict[str, str]) -> None:
    made = portal(values={"BANNER": "hi"}, secret=["SECRET_KEY", "TOKEN"], required=["SECRET_KEY", "BANNER", "TOKEN"])
    assert refusal_of(made, secrets) == (
        "portal requires SECRET_KEY and TOKEN, missing or empty: "
        "set the Vault variable backstay_secrets['portal']['SECRET_KEY']; "
        "set the Vault variable backstay_secrets['portal']['TOKEN']."
    )


@pytest.mark.parametrize(("value", "said"), [(8000, "is not text"), (f"{SECRET}\0", "holds a byte zero")])
def test_a_secret_that_no_environment_can_carry_is_named_and_not_shown(value: Any, said: str) -> None:
    message = refusal_of(portal(secret=["SECRET_KEY"]), {"SECRET_KEY": value})
    assert message.startswith(f"backstay_secrets['portal']['SECRET_KEY'] {said}")
    assert SECRET not in message


def test_an_example_shows_what_the_file_forgot() -> None:
    made = portal(values={"ALLOWED_HOSTS": "x"}, secret=["SECRET_KEY"])
    assert _environment.missing_from_example(made, ENV_FILE + "BACKSTAY_DATA_DIR=\n") == (
        "URL",
        "SINGLE",
        "DOUBLE",
        "MULTI",
        "SPACED",
        "BARE",
        "TWICE",
    )


def test_secrets_do_not_show_themselves() -> None:
    secrets = _environment.Secrets(SECRET_KEY=SECRET)
    assert secrets["SECRET_KEY"] == SECRET
    assert f"{secrets!r} {secrets} {secrets:>3}" == " ".join(["Secrets(SECRET_KEY)"] * 3)


@pytest.mark.parametrize(
    "text",
    [
        f"key={SECRET}",
        json.dumps({"key": 'quo"te\nand more of it'}),
        f"GET /?token={quote(SECRET)}",
        "repr: " + repr('quo"te\nand more of it'),
        "only a line: and more of it",
        "password is pa55word!",
    ],
)
def test_no_shape_of_a_secret_stays_in_a_text(text: str) -> None:
    secrets = (SECRET, 'quo"te\nand more of it', "postgres://user:pa55word!@db/portal", "", "x")
    clean = _environment.redact(text, secrets)
    assert _environment.REDACTED in clean
    assert not any(part in clean for part in ("horse", "more", "pa55")), clean


def test_what_is_no_secret_stays() -> None:
    assert _environment.redact("the exit code was 1", ("1", "", " ")) == "the exit code was 1"
