"""Promise 5: a restore destroys nothing; what is there is kept first, and the swap can itself be undone."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

from backstay_lab.scene import APPLICATION, Scene

HOME = f"/opt/{APPLICATION}"


def shell(scene: Scene, command: str, *, check: bool = True) -> str:
    return scene.lab.ssh("app1", command, check=check).stdout.strip()


def written(scene: Scene, seconds: float = 3.0) -> list[str]:
    """Rows that visitors wrote and that were acknowledged."""
    with scene.load(rate=25.0, seconds=60.0) as visitors:
        time.sleep(seconds)
        result = visitors.stop()
    assert result.failed == 0, result.failures
    tokens = [write.token for write in result.writes]
    assert tokens, "nobody wrote anything"
    return tokens


def restored(scene: Scene, *options: str) -> dict[str, Any]:
    told = dict(scene.backstay("restore", *options, "--json", APPLICATION, check=False))
    assert told["ok"], told
    scene.settled()
    return told


def there(scene: Scene, tokens: Sequence[str]) -> int:
    return len(tokens) - len(scene.missing_writes(list(tokens)))


def test_a_restore_brings_the_point_back_and_its_undo_everything_written_since(at_1_1: Scene) -> None:
    before = written(at_1_1)
    made = at_1_1.backstay("backup", "--json", APPLICATION)
    after = written(at_1_1)
    live = at_1_1.live()
    planned = at_1_1.backstay("restore", "--plan", "--json", APPLICATION)
    assert planned["point"]["run"] == made["run"]
    assert f"{len(after)} audits_finding" in " ".join(planned["lines"]), planned["lines"]

    restored(at_1_1, "--why=a-test")
    assert at_1_1.live() == live
    assert at_1_1.get("/").status == 200
    assert there(at_1_1, before) == len(before)
    assert there(at_1_1, after) == 0

    since = written(at_1_1)
    brought = shell(at_1_1, f"readlink {HOME}/data").rpartition("/")[2]
    restored(at_1_1, "--undo")
    assert there(at_1_1, before) == len(before)
    assert there(at_1_1, after) == len(after), "the undo lost what was written before the restore"
    assert there(at_1_1, since) == 0
    # What was written between the two is not gone either: its generation lies beside, and is one undo away.
    restored(at_1_1, "--undo")
    assert (there(at_1_1, after), there(at_1_1, since)) == (0, len(since))
    restored(at_1_1, "--undo")
    assert there(at_1_1, after) == len(after)
    assert shell(at_1_1, f"readlink {HOME}/data").rpartition("/")[2] != brought
    assert brought in shell(at_1_1, f"ls {HOME}/data.d").split()
    owners = set(shell(at_1_1, f"find {HOME}/data/ -type f -printf '%u:%m\\n'").splitlines())
    assert owners <= {f"{APPLICATION}:640", f"{APPLICATION}:644", f"{APPLICATION}:660"}


def test_visitors_see_the_maintenance_page_and_then_the_portal_and_nothing_else(at_1_1: Scene) -> None:
    at_1_1.backstay("backup", "--json", APPLICATION)
    with at_1_1.load(rate=20.0, seconds=120.0) as visitors:
        time.sleep(2.0)
        restored(at_1_1)
        time.sleep(2.0)
        result = visitors.stop()
    assert result.succeeded > 0
    # What is not the portal is the page that asks them to come back.
    assert {failure["status"] for failure in result.failures} <= {503}, result.failures


def test_only_the_media_asked_for_come_back_and_everything_else_stays(at_1_1: Scene) -> None:
    media = f"{HOME}/data/media"
    folder = shell(at_1_1, f"cd {media} && find . -type f | head -1 | xargs dirname").removeprefix("./")
    lost = shell(at_1_1, f"ls {media}/{folder} | head -1")
    digest = shell(at_1_1, f"sha256sum < {media}/{folder}/{lost}")
    at_1_1.backstay("backup", "--json", APPLICATION)
    since = written(at_1_1)
    shell(at_1_1, f"rm {media}/{folder}/{lost}; runuser -u {APPLICATION} -- sh -c 'echo new > {media}/new.txt'")
    restored(at_1_1, f"--only=media:{folder}")
    assert shell(at_1_1, f"sha256sum < {media}/{folder}/{lost}") == digest
    assert shell(at_1_1, f"cat {media}/new.txt") == "new"
    assert there(at_1_1, since) == len(since), "the database was not asked for and changed"
    assert at_1_1.get(f"/media/{folder}/{lost}").status == 200
    later = written(at_1_1)
    restored(at_1_1, "--undo")
    assert shell(at_1_1, f"test -e {media}/{folder}/{lost} || echo gone") == "gone"
    assert there(at_1_1, later) == len(later), "the undo of media took the database back too"


def test_what_is_here_unharmed_is_not_fetched_again_and_what_is_harmed_is(at_1_1: Scene) -> None:
    """A hundred gigabytes of photographs need not come from a bucket because one was lost."""
    media = f"{HOME}/data/media"
    size = 20_000_000
    shell(at_1_1, f"runuser -u {APPLICATION} -- sh -c 'head -c {size} /dev/urandom > {media}/large.bin'")
    lost, harmed = shell(at_1_1, f"find {media}/ -type f -size -1000k | sort | head -2").splitlines()
    all_of_them = f"cd {media}/ && find . -type f | sort | xargs sha256sum"
    digests = shell(at_1_1, all_of_them)
    at_1_1.backstay("backup", "--json", APPLICATION)
    since = written(at_1_1)
    rot = "printf x | dd bs=1 seek=200 conv=notrunc status=none"
    shell(at_1_1, f"rm {lost}; touch -r {harmed} /root/time; {rot} of={harmed}; touch -r /root/time {harmed}")
    assert shell(at_1_1, f"sha256sum {harmed}").split()[0] not in digests

    told = restored(at_1_1)
    fetched = next(step["detail"] for step in told["steps"] if step["step"] == "fetch")
    assert shell(at_1_1, all_of_them) == digests
    assert there(at_1_1, since) == 0
    here = re.search(r"; ([0-9.]+) MiB of it were here unharmed", fetched)
    assert here, fetched
    assert float(here[1]) > size / (1 << 20) - 1, fetched
    shell(at_1_1, f"rm {media}/large.bin")


def test_data_older_than_the_live_code_are_migrated_before_anybody_sees_them(at_1_0: Scene) -> None:
    """The point was made by 1.0.0; 1.1.0 adds columns."""
    before = written(at_1_0)
    made = at_1_0.backstay("backup", "--json", APPLICATION)
    at_1_0.release("1.1.0")
    at_1_0.settled()
    told = restored(at_1_0, f"--point={made['run']}")
    converted = next(step for step in told["steps"] if step["step"] == "convert")
    assert converted["detail"] in ("1 migrations applied to the copy", "as new as the live code")
    assert at_1_0.get("/").status == 200
    assert there(at_1_0, before) == len(before)
    assert written(at_1_0)


def test_data_and_the_release_that_made_them_come_back_together_and_an_undo_takes_both_back(at_1_0: Scene) -> None:
    old = at_1_0.live()
    before = written(at_1_0)
    made = at_1_0.backstay("backup", "--json", APPLICATION)
    at_1_0.release("1.1.0")
    at_1_0.settled()
    new, since = at_1_0.live(), written(at_1_0)
    told = restored(at_1_0, f"--point={made['run']}", "--with-release")
    assert (told["release"], at_1_0.live(), at_1_0.get("/").status) == (old, old, 200)
    assert (there(at_1_0, before), there(at_1_0, since)) == (len(before), 0)
    restored(at_1_0, "--undo")
    assert (at_1_0.live(), at_1_0.get("/").status) == (new, 200)
    assert there(at_1_0, since) == len(since)


def test_a_point_that_cannot_be_read_back_is_refused_and_nothing_changes(at_1_1: Scene) -> None:
    at_1_1.backstay("backup", "--json", APPLICATION)
    generation = shell(at_1_1, f"readlink {HOME}/data")
    disk = f"/srv/backup/{APPLICATION}"
    flip = "printf x | dd of=$pack bs=1 seek=100 conv=notrunc status=none"
    media = f"{HOME}/data/media"
    shell(at_1_1, f"cp -a {disk} /root/disk && for pack in {disk}/data/*/*; do {flip}; done")
    shell(at_1_1, f"cp -a {media} /root/media && find {media}/ -type f -delete")  # what is here would not be fetched
    try:
        told = at_1_1.backstay("restore", "--json", APPLICATION, check=False)
        assert not told["ok"]
        assert shell(at_1_1, f"readlink {HOME}/data") == generation
        assert at_1_1.get("/").status == 200
    finally:
        shell(at_1_1, f"rm -rf {disk} && mv /root/disk {disk}")
        shell(at_1_1, f"cp -a /root/media/. {media}/ && rm -r /root/media")
    assert "partial" not in shell(at_1_1, f"ls -A {HOME}/data.d"), "what was fetched was left behind"


def test_a_stale_log_of_another_database_never_comes_beside_a_restored_one(at_1_1: Scene) -> None:
    """SQLite would lay it over the restored file, and its own check would say ok."""
    before = written(at_1_1)
    at_1_1.backstay("backup", "--json", APPLICATION)
    after = written(at_1_1)
    assert shell(at_1_1, f"ls {HOME}/data/db").split() != ["portal.sqlite3"], "there is no log to be left over"
    restored(at_1_1)
    assert there(at_1_1, before) == len(before)
    assert there(at_1_1, after) == 0
    restored(at_1_1, "--undo")
