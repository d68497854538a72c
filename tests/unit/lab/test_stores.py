"""What the lab's stores are told, without a host."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from backstay_lab.stores import _identities, _written

KEYS = {who: {"access_key_id": who, "secret_access_key": f"{who}-secret"} for who in ("admin", "writer")}


def test_the_writer_may_delete_nothing_but_locks() -> None:
    told = _identities(KEYS)
    writer = next(each for each in told["identities"] if each["name"] == "writer")
    assert "actions" not in writer, "actions would allow what the policy does not"
    (policy,) = (each for each in told["policies"] if each["name"] in writer["policyNames"])
    deletes = [each for each in json.loads(policy["content"])["Statement"] if "s3:DeleteObject" in each["Action"]]
    assert [each["Resource"] for each in deletes] == [["arn:aws:s3:::*/locks/*"]]


def test_a_file_is_written_whole_whatever_is_in_it(tmp_path: Path) -> None:
    content = 'it\'s $HOME; `id`\n%s "quoted"\n'
    subprocess.run(["sh", "-eu", "-c", _written(str(tmp_path / "file"), content, mode="0600")], check=True)
    assert (tmp_path / "file").read_text() == content
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
