"""Files are placed together, nothing of others is overwritten, and a refusal leaves no trace."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import stat
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _file_set, _workers
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, InputError
from ansible_collections.backstay.ops.plugins.module_utils._file_set import ABSENT, Entry, FileSet, Seen
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed

ME = (os.getuid(), os.getgid())
NOON = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


class Host:
    """Commands as a host would answer them; each is noted."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.refuses: dict[str, str] = {}
        self.inactive = False
        self.conffiles = ""
        self.master: subprocess.Popen[bytes] | None = None

    def __call__(self, arguments: Sequence[str], **_: object) -> Completed:
        command = " ".join(arguments)
        self.ran.append(command)
        if command.startswith("dpkg-query"):
            return Completed(tuple(arguments), 0, self.conffiles, "")
        if "MainPID" in command:
            return Completed(tuple(arguments), 0, f"{self.master.pid if self.master else 0}\n", "")
        if command.startswith("systemctl reload") and self.master:
            self.master.send_signal(signal.SIGUSR1)
        if "is-active" in command:
            return Completed(tuple(arguments), 3 if self.inactive else 0, "", "")
        said = next((text for start, text in self.refuses.items() if command.startswith(start)), None)
        return Completed(tuple(arguments), 0 if said is None else 1, "", said or "")

    @property
    def units_touched(self) -> list[str]:
        return [
            line for line in self.ran if line.startswith("systemctl") and " is-" not in line and "status" not in line
        ]


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def file_set(tmp_path: Path, host: Host) -> FileSet:
    return FileSet(state=tmp_path / "state", runner=host, now=lambda: NOON)


def a_file(path: Path, content: str, mode: int = 0o644) -> Entry:
    return Entry(str(path), "file", content=content.encode(), owner=ME, mode=mode)


def a_link(path: Path, target: str) -> Entry:
    return Entry(str(path), "link", target=target)


WANTED = Entry("/x", "file", content=b"new", mode=0o644)
OLD = Seen("file", content=b"old", mode=0o644)
SAME = Seen("file", content=b"new", mode=0o644)


def sha(content: bytes) -> str:
    return _file_set.mark("file", content, "")


@pytest.mark.parametrize(
    ("entry", "seen", "written", "adopt", "verb", "kept"),
    [
        pytest.param(WANTED, ABSENT, None, False, "create", "", id="nothing there"),
        pytest.param(WANTED, SAME, None, False, None, "", id="the same is there already, whoever wrote it"),
        pytest.param(WANTED, OLD, sha(b"old"), False, "replace", "", id="ours, untouched"),
        pytest.param(
            WANTED, OLD, sha(b"older"), False, "replace", "it was ours and had been edited by hand", id="ours, edited"
        ),
        pytest.param(WANTED, replace(SAME, mode=0o666), sha(b"new"), False, "permissions", "", id="other permissions"),
        pytest.param(WANTED, replace(SAME, owner=(7, 7)), sha(b"new"), False, "permissions", "", id="other owner"),
        pytest.param(
            WANTED,
            replace(OLD, packaged=True),
            None,
            False,
            "replace",
            "it was as its Debian package shipped it",
            id="pristine",
        ),
        pytest.param(
            WANTED,
            OLD,
            None,
            True,
            "replace",
            "it was there before Backstay and was taken over",
            id="of others, taken over",
        ),
        pytest.param(
            Entry("/x", "absent"),
            Seen("link", target="/y", packaged=True),
            None,
            False,
            "remove",
            "",
            id="default site",
        ),
        pytest.param(Entry("/x", "absent"), ABSENT, "link:/y", False, None, "", id="gone already"),
        pytest.param(Entry("/x", "absent"), OLD, sha(b"old"), False, "remove", "", id="ours, to be removed"),
        pytest.param(
            Entry("/x", "link", target="/z"), Seen("link", target="/y"), "link:/y", False, "replace", "", id="link"
        ),
        pytest.param(
            Entry("/x", "link", target="/y"), Seen("link", target="/y"), None, False, None, "", id="same link"
        ),
        pytest.param(Entry("/x", "directory", mode=0o755), ABSENT, None, False, "create", "", id="directory"),
        pytest.param(
            Entry("/x", "directory", mode=0o755),
            Seen("directory", mode=0o755),
            None,
            False,
            None,
            "",
            id="same directory",
        ),
    ],
)
def test_what_is_done(  # noqa: PLR0917 - the columns of the table
    entry: Entry, seen: Seen, written: str | None, adopt: bool, verb: str | None, kept: str
) -> None:
    planned = _file_set.plan([entry], {"/x": seen}, {} if written is None else {"/x": written}, adopt=adopt)
    assert planned.refused == ()
    assert [(change.verb, change.kept) for change in planned.changes] == ([] if verb is None else [(verb, kept)])


@pytest.mark.parametrize(
    ("entry", "seen", "said"),
    [
        (WANTED, OLD, "/x exists and was not written by Backstay."),
        (Entry("/x", "absent"), OLD, "/x exists and was not written by Backstay."),
        (Entry("/x", "link", target="/z"), Seen("link", target="/y"), "/x exists and was not written by Backstay."),
        (WANTED, Seen("directory"), "/x is a directory where a file is to be: move it away first."),
        (WANTED, Seen("other"), "/x is a device, socket or pipe where a file is to be: move it away first."),
        (Entry("/x", "directory"), OLD, "/x is a file where a directory is to be: move it away first."),
        (
            Entry("/x", "directory", mode=0o755),
            Seen("directory", mode=0o700),
            "The directory /x exists with other permissions (0700, not 0755).",
        ),
    ],
)
def test_what_is_refused(entry: Entry, seen: Seen, said: str) -> None:
    planned = _file_set.plan([entry], {"/x": seen}, {}, adopt=False)
    assert planned.refused == (said,)
    assert planned.changes == ()


def test_a_set_is_placed_once_and_a_second_run_changes_nothing(file_set: FileSet, tmp_path: Path, host: Host) -> None:
    site = tmp_path / "nginx" / "site.conf"
    entries = [a_file(site, "server {}\n", 0o640), a_link(tmp_path / "nginx" / "enabled", "site.conf")]
    first = file_set.place(entries, validate=["nginx", "-t"], service="nginx.service")
    assert first.changed
    assert site.read_text() == "server {}\n"
    assert stat.S_IMODE(site.stat().st_mode) == 0o640
    assert (tmp_path / "nginx" / "enabled").read_text() == "server {}\n"
    assert host.units_touched == ["systemctl reload nginx.service"]
    host.ran.clear()
    second = file_set.place(entries, validate=["nginx", "-t"], service="nginx.service")
    assert not second.changed
    assert host.units_touched == []
    assert "nginx -t" not in host.ran


def test_a_file_that_is_read_at_each_use_needs_no_reload(file_set: FileSet, tmp_path: Path, host: Host) -> None:
    site, certificate = a_file(tmp_path / "site", "x"), tmp_path / "certificate"
    file_set.place([site, a_file(certificate, "old")], service="nginx.service")
    host.ran.clear()
    outcome = file_set.place([site, replace(a_file(certificate, "new"), reload=False)], service="nginx.service")
    assert outcome.changed
    assert host.units_touched == []


def test_systemd_reads_units_again_that_changed_and_no_others(
    file_set: FileSet, tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_file_set, "UNITS", f"{tmp_path}/units/")
    entries = [a_file(tmp_path / "units" / "a.service.d" / "b.conf", "[Service]"), a_file(tmp_path / "c", "d")]
    file_set.place(entries)
    assert host.units_touched == ["systemctl daemon-reload"]
    file_set.place([entries[0], a_file(tmp_path / "c", "e")])
    assert host.units_touched == ["systemctl daemon-reload"], "no unit changed this time"


def test_systemd_forgets_units_that_were_put_back(
    file_set: FileSet, tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_file_set, "UNITS", f"{tmp_path}/units/")
    host.refuses["systemctl start"] = "no such timer"
    host.inactive = True
    with pytest.raises(BackstayError, match="put back"):
        file_set.place([a_file(tmp_path / "units" / "a.timer", "[Timer]")], service="a.timer")
    assert not (tmp_path / "units" / "a.timer").exists()
    assert host.units_touched.count("systemctl daemon-reload") == 2


def test_a_refused_set_is_put_back_whole_and_no_unit_is_touched(file_set: FileSet, tmp_path: Path, host: Host) -> None:
    old, fresh, link = tmp_path / "old.conf", tmp_path / "deep" / "er" / "new.conf", tmp_path / "link"
    file_set.place([a_file(old, "before\n", 0o600), a_link(link, "old.conf")])
    registry = file_set.registry()
    host.refuses["nginx -t"] = 'nginx: [emerg] unknown directive "wibble" in new.conf:1\nnginx: test failed'
    with pytest.raises(BackstayError, match="unknown directive") as refused:
        file_set.place(
            [a_file(old, "after\n"), a_file(fresh, "wibble\n"), a_link(link, "deep")],
            validate=["nginx", "-t"],
            service="nginx.service",
        )
    assert refused.value.lines[-1] == "nginx: test failed"
    assert (old.read_text(), stat.S_IMODE(old.stat().st_mode)) == ("before\n", 0o600)
    assert str(link.readlink()) == "old.conf"
    assert not (tmp_path / "deep").exists(), "the directories made for the set are gone too"
    assert file_set.registry() == registry
    assert host.units_touched == []


def test_a_unit_that_cannot_use_the_set_gets_the_old_one_back(file_set: FileSet, tmp_path: Path, host: Host) -> None:
    path = tmp_path / "a.conf"
    file_set.place([a_file(path, "old")])
    host.refuses["systemctl reload"] = "Job failed."
    with pytest.raises(BackstayError, match=r"could not reload nginx\.service, so all files were put back"):
        file_set.place([a_file(path, "new")], service="nginx.service")
    assert path.read_text() == "old"


# A master as nginx has one, with a worker; on each reload it does as it is told, and says nothing to systemd. By USR1,
# as whoever runs this under nohup ignores HUP, which no shell can take back.
MASTER = """
trap '{on_reload}' USR1
trap 'kill $(jobs -p); exit' TERM
sleep 60 &
echo ready
while :; do wait; done
"""


@contextmanager
def reloading(host: Host, on_reload: str) -> Iterator[None]:
    program = ["bash", "-c", MASTER.format(on_reload=on_reload)]
    with subprocess.Popen(program, stdout=subprocess.PIPE) as host.master:
        assert host.master.stdout is not None
        assert host.master.stdout.readline() == b"ready\n"
        try:
            yield
        finally:
            host.master.terminate()
            host.master.wait()


def test_a_reload_counts_when_new_workers_came(file_set: FileSet, tmp_path: Path, host: Host) -> None:
    path, log = tmp_path / "a.conf", tmp_path / "error.log"
    log.write_text("[emerg] of long ago\n")
    file_set.place([a_file(path, "old")])
    with reloading(host, "sleep 60 &"):
        assert file_set.place([a_file(path, "new")], service="nginx.service", error_log=str(log)).changed
    assert path.read_text() == "new"


@pytest.mark.parametrize(
    ("on_reload", "said"),
    [
        ('echo "nginx: [emerg] zone x uses another key" >> {log}', r"nginx: \[emerg\] zone x uses another key"),
        (': > {log}; echo "[emerg] rotated meanwhile" > {log}', r"\[emerg\] rotated meanwhile"),
        (":", r"no new worker came within 0\.5 s, and \S+error\.log does not say why"),
    ],
)
def test_a_reload_that_the_service_silently_did_not_take_is_no_success(
    tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch, on_reload: str, said: str
) -> None:
    if on_reload == ":":
        monkeypatch.setattr(_workers, "PATIENCE_SECONDS", 0.5)
    file_set = FileSet(state=tmp_path / "state", runner=host)
    path, log = tmp_path / "a.conf", tmp_path / "error.log"
    log.write_text("[emerg] of long ago, and something more that makes this line as long as it is\n")
    file_set.place([a_file(path, "old")])
    goes_on = rf"nginx\.service goes on with the configuration that it had, .*put back as they were: {said}"
    with reloading(host, on_reload.format(log=log)), pytest.raises(BackstayError, match=goes_on):
        file_set.place([a_file(path, "new")], service="nginx.service", error_log=str(log))
    assert path.read_text() == "old"


def test_a_unit_that_is_down_is_enabled_and_started_even_without_a_change(
    file_set: FileSet, tmp_path: Path, host: Host
) -> None:
    entries = [a_file(tmp_path / "a.conf", "x")]
    file_set.place(entries)
    host.inactive, host.refuses = True, {"systemctl is-enabled": ""}
    outcome = file_set.place(entries, service="nginx.service")
    assert outcome.changed
    assert host.units_touched == ["systemctl enable nginx.service", "systemctl start nginx.service"]


def test_what_others_wrote_is_refused_by_name_and_nothing_is_placed(file_set: FileSet, tmp_path: Path) -> None:
    theirs, fresh = tmp_path / "theirs", tmp_path / "fresh"
    theirs.write_text("by hand")
    with pytest.raises(InputError, match=r"theirs exists and was not written by Backstay.*adopt=keep") as refused:
        file_set.place([a_file(fresh, "x"), a_file(theirs, "ours")])
    assert refused.value.exit_code == 2
    assert theirs.read_text() == "by hand"
    assert not fresh.exists()


def test_taking_over_keeps_a_dated_copy_and_says_where(file_set: FileSet, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_text("by hand")
    outcome = file_set.place([a_file(theirs, "ours")], adopt=True)
    copy = Path(outcome.kept[str(theirs)])
    assert copy.read_text() == "by hand"
    assert "replaced/2026-11-21T120000Z/" in str(copy)
    assert outcome.lines == (f"kept {theirs} as {copy}: it was there before Backstay and was taken over",)
    assert theirs.read_text() == "ours"


def test_an_edit_by_hand_is_kept_and_reported(file_set: FileSet, tmp_path: Path) -> None:
    path = tmp_path / "a.conf"
    file_set.place([a_file(path, "ours")])
    path.write_text("an edit")
    outcome = file_set.place([a_file(path, "ours")])
    assert path.read_text() == "ours"
    assert Path(outcome.kept[str(path)]).read_text() == "an edit"
    assert "edited by hand" in outcome.lines[0]


def test_copies_can_be_kept_of_what_another_hand_is_about_to_write_over(file_set: FileSet, tmp_path: Path) -> None:
    path = tmp_path / "a"
    file_set.place([Entry(str(path), "file", content=b"ours\n", owner=ME)])
    assert file_set.keep([Entry(str(path), "file", content=b"newer\n", owner=ME)]) == (), "nobody's work but ours"
    path.write_bytes(b"edited\n")
    (line,) = file_set.keep([Entry(str(path), "file", content=b"newer\n", owner=ME)])
    assert "edited by hand" in line
    copy = Path(line.split(" as ")[1].partition(": ")[0])
    assert (copy.read_bytes(), path.read_bytes()) == (b"edited\n", b"edited\n")


@pytest.mark.parametrize(("content", "removed"), [("as shipped\n", True), ("tuned by hand\n", False)])
def test_a_packages_default_goes_only_while_nobody_changed_it(
    file_set: FileSet, tmp_path: Path, host: Host, content: str, removed: bool
) -> None:
    available, enabled = tmp_path / "sites-available-default", tmp_path / "enabled"
    available.write_text(content)
    enabled.symlink_to(available)
    digest = hashlib.md5(b"as shipped\n").hexdigest()
    host.conffiles = f"\n {available} {digest}\n"
    entry = Entry(str(enabled), "absent")
    if removed:
        file_set.place([entry])
        assert not enabled.is_symlink()
    else:
        with pytest.raises(InputError, match="not written by Backstay"):
            file_set.place([entry])
        assert enabled.is_symlink()
    assert available.read_text() == content


WELCOME = {
    "index.nginx-debian.html": "<title>Welcome to nginx!</title>",
    "index.html": "<head>\n<title>Apache2 Debian Default Page: It works</title>",
}


@pytest.mark.parametrize(
    ("pages", "page"),
    [
        ({}, ""),
        ({"index.nginx-debian.html": WELCOME["index.nginx-debian.html"]}, ""),
        (WELCOME, ""),
        ({**WELCOME, "prices.pdf": "x"}, "prices.pdf"),
        ({**WELCOME, "index.html": "<title>Harbour of Ada</title>"}, "index.html"),
        ({**WELCOME, ".well-known/token": "x"}, ".well-known"),
    ],
)
def test_a_packages_default_site_is_somebodys_where_it_shows_their_pages(
    file_set: FileSet, tmp_path: Path, host: Host, pages: dict[str, str], page: str
) -> None:
    available, enabled, served = tmp_path / "available-default", tmp_path / "enabled", tmp_path / "html"
    available.write_text("as shipped\n")
    enabled.symlink_to(available)
    digest = hashlib.md5(b"as shipped\n").hexdigest()
    host.conffiles = f" {available} {digest}\n"
    for name, text in pages.items():
        (served / name).parent.mkdir(parents=True, exist_ok=True)
        (served / name).write_text(text)
    entry = Entry(str(enabled), "absent", serves=str(served))
    if page:
        said = f"{enabled} shows visitors what lies in {served} ({page}) and was not written by Backstay. Nothing was"
        with pytest.raises(InputError, match=re.escape(said)) as refused:
            file_set.place([entry])
        assert "adopt=keep" in refused.value.message
        assert enabled.is_symlink()
    outcome = file_set.place([entry], adopt=True)
    assert not enabled.is_symlink()
    assert [Path(copy).readlink() for copy in outcome.kept.values()] == ([available] if page else [])
    for name, text in pages.items():
        assert (served / name).read_text() == text
    assert not file_set.place([entry]).changed, "what is gone shows nothing"


class PowerCut(Exception):
    """The moment the machine stops."""


def test_a_power_cut_while_placing_is_put_back_by_the_next_run(tmp_path: Path, host: Host) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    steady = FileSet(state=tmp_path / "state", runner=host, now=lambda: NOON)
    steady.place([a_file(first, "old")])

    def cut(arguments: Sequence[str], **_: object) -> Completed:
        raise PowerCut

    with pytest.raises(PowerCut):
        FileSet(state=tmp_path / "state", runner=cut, now=lambda: NOON).place(
            [a_file(first, "new"), a_file(second, "new")], validate=["nginx", "-t"]
        )
    assert first.read_text() == "new", "the cut came after placing"
    outcome = steady.place([a_file(tmp_path / "third", "x")])
    assert first.read_text() == "old"
    assert not second.exists()
    assert "cut off" in outcome.lines[0]


def test_what_a_power_cut_left_half_placed_is_nobody_elses_also_where_something_else_is_wanted_now(
    tmp_path: Path, host: Host
) -> None:
    """The module plans before it places, and in check mode only that."""
    changed, fresh = tmp_path / "changed", tmp_path / "fresh"
    steady = FileSet(state=tmp_path / "state", runner=host, now=lambda: NOON)
    steady.place([a_file(changed, "old")])

    def cut(arguments: Sequence[str], **_: object) -> Completed:
        raise PowerCut

    with pytest.raises(PowerCut):
        FileSet(state=tmp_path / "state", runner=cut, now=lambda: NOON).place(
            [a_file(changed, "new"), a_file(fresh, "new")], validate=["nginx", "-t"]
        )
    wanted = [a_file(changed, "newer"), a_file(fresh, "newer")]
    planned = steady.plan(wanted, adopt=False)
    assert [(change.verb, change.kept) for change in planned.changes] == [("replace", ""), ("create", "")]
    assert [change.before.content for change in planned.changes] == [b"old", b""]
    assert steady.place(wanted).changed
    assert (changed.read_text(), fresh.read_text()) == ("newer", "newer")
    assert not steady.place(wanted).changed


def test_secrets_are_in_no_diff() -> None:
    entry = Entry("/key", "file", content=b"PRIVATE", mode=0o640, secret=True)
    planned = _file_set.plan([entry], {"/key": Seen("file", content=b"FORMER")}, {"/key": "edited"}, adopt=False)
    shown = json.dumps(_file_set.diff(planned))
    assert "PRIVATE" not in shown
    assert "FORMER" not in shown
    assert "(secret)" in shown


def test_a_registry_of_a_newer_backstay_is_refused(file_set: FileSet, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "files.json").write_text('{"format": 2}')
    with pytest.raises(BackstayError, match="a format this Backstay does not know"):
        file_set.place([a_file(tmp_path / "a", "x")])
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("path", ["relative", "/a/../b"])
def test_a_path_that_is_not_absolute_is_refused(file_set: FileSet, path: str) -> None:
    with pytest.raises(InputError, match="not absolute"):
        file_set.place([Entry(path, "file", content=b"")])


def test_a_path_named_twice_is_refused(file_set: FileSet) -> None:
    with pytest.raises(InputError, match="twice"):
        file_set.place([Entry("/a", "absent"), Entry("/a", "absent")])
