"""Whatever a value holds, systemd reads what was written; whatever a file holds, it is read or refused."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.backstay.ops.plugins.module_utils import _application, _environment
from ansible_collections.backstay.ops.plugins.module_utils._errors import InputError


def systemd_reads(text: str) -> dict[str, str]:
    """What systemd makes of an EnvironmentFile: its parser (env-file.c), the states that our form can reach.

    The form itself was checked against systemd 252 and 257 on real hosts, with every kind of character.
    """
    found: dict[str, str] = {}
    letters = iter(text)
    key, value, state = "", "", "key"
    for letter in letters:
        if state == "key" and letter == "=":
            state = "before the value"
        elif state == "key":
            assert letter not in "#;\n\r\t ", f"systemd would not see a key in {key + letter!r}"
            key += letter
        elif state == "before the value":
            assert letter == '"', "an unquoted value is changed by systemd"
            state = "value"
        elif state == "value" and letter == "\\":
            following = next(letters)
            value += following if following in '"\\`$' else "" if following == "\n" else "\\" + following
        elif state == "value" and letter == '"':
            state = "end"
        elif state == "value":
            value += letter
        else:
            assert letter == "\n", f"{letter!r} follows the closing quote"
            found[key] = value
            key, value, state = "", "", "key"
    assert (state, key) == ("key", ""), "the file ends in the middle of a value"
    return found


keys = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
texts = st.text(alphabet=st.sampled_from(" '\"\\$`#;=%\n\r\té日x") | st.characters(), max_size=20)


@settings(max_examples=200)
@given(st.dictionaries(keys, texts.filter(_application.carried), max_size=4))
def test_what_is_written_is_what_systemd_reads(values: dict[str, str]) -> None:
    assert systemd_reads(_environment.environment_file(values)) == values


@settings(max_examples=200)
@given(st.text(alphabet=st.sampled_from("A='\"\\# \n\texport1") | st.characters(), max_size=40))
def test_any_text_is_read_or_refused_in_a_sentence(text: str) -> None:
    try:
        found = _environment.parse(text, file=".env")
    except InputError:
        return
    assert all(key.isidentifier() for key in found)
