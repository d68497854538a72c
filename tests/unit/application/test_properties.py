"""Whatever is changed in a file is refused in a sentence, or makes an application that is written and read as it is."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.backstay.ops.plugins.module_utils import _application as application
from ansible_collections.backstay.ops.plugins.module_utils._errors import InputError

from .test__application import FILE, FULL, changed


def paths(value: Any, at: str = "") -> Iterator[str]:
    """Every key of a file, written as a.b.0.c."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        here = f"{at}.{key}" if at else str(key)
        yield here
        yield from paths(item, here)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["/", "..", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200)
@given(path=st.sampled_from(sorted(paths(FULL))), value=anything)
def test_any_changed_key_is_refused_in_a_sentence_or_makes_a_valid_application(path: str, value: Any) -> None:
    try:
        made = application.parse(changed(path, value), file=FILE)
    except InputError:
        return
    assert application.parse(application.to_dict(made), file=FILE) == made
    json.dumps(application.to_dict(made), allow_nan=False)


@settings(max_examples=100)
@given(path=st.sampled_from(sorted(paths(FULL))), key=st.text(min_size=1, max_size=12))
def test_any_removed_or_renamed_key_is_handled(path: str, key: str) -> None:
    data = copy.deepcopy(FULL)
    at: Any = data
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parents:
        at = at[part]
    value = at.pop(last)
    if isinstance(at, dict):
        at[key] = value
    try:
        made = application.parse(data, file=FILE)
    except InputError:
        return
    assert application.parse(application.to_dict(made), file=FILE) == made
