"""Whatever names and links an archive holds, what is unpacked stays in its directory."""

from __future__ import annotations

import contextlib
import shutil
import tarfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.backstay.ops.plugins.module_utils import _artifact as artifact
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError

from .test_artifact import by_hand, member

NAMES = st.lists(st.sampled_from(["a", "b", "..", ".", "code", "static", ""]), min_size=1, max_size=5).map("/".join)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=st.lists(st.tuples(NAMES, st.one_of(st.none(), NAMES)), max_size=4))
def test_whatever_is_unpacked_resolves_inside_the_target(tmp_path: Path, found: list[tuple[str, str | None]]) -> None:
    members = [
        member(f"code/{name}") if link is None else member(f"code/{name}", tarfile.SYMTYPE, link)
        for name, link in found
    ]
    path = by_hand(tmp_path / "p.tar", *members)
    target = tmp_path / "deep" / "release"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    with contextlib.suppress(BackstayError):
        artifact.unpack(path, target)
    for unpacked in target.rglob("*"):
        try:
            resolved = unpacked.resolve(strict=True)
        except (OSError, RuntimeError):  # a link to nothing, or to itself
            continue
        assert resolved == target / "code" or target in resolved.parents, f"{unpacked} leads to {resolved}"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "p.tar"]
