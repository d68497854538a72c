"""The targets that remove something, in a checkout of paper."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_clean_removes_caches_and_keeps_what_an_operator_made(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    caches = [".venv/bin/python", ".cache/mypy/x", ".ruff_cache/x", "lab/__pycache__/x.pyc"]
    kept = ["artifacts/portal/1.0.0/portal-1.0.0.tar", "diagnoses/x.tar", "inventories/mine/signing_key", ".lab/x"]
    for name in [*caches, *kept]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"Makefile", *kept}
