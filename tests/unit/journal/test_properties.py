"""A journal is cut at any byte, whatever is in it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.backstay.ops.plugins.module_utils._journal import parse

from .test_journal import _lines

_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "stage", "flip", "confirm"]),
        st.sampled_from(["begin", "done", "undo"]),
        st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=2),
    ),
    min_size=1,
    max_size=6,
)


@given(_STEPS, st.data())
def test_a_journal_cut_at_any_byte_yields_exactly_the_records_that_were_whole(steps, data):
    lines = _lines(steps)
    content = b"".join(lines)
    cut = data.draw(st.integers(0, len(content)))
    records, good = parse(content[:cut], path="journal")
    whole = [line for index, line in enumerate(lines) if sum(map(len, lines[: index + 1])) <= cut]
    assert len(records) == len(whole)
    assert good == sum(map(len, whole))
