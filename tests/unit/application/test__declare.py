"""Declaring an application: what is wanted follows from its file, and nobody else's host is taken over."""

from __future__ import annotations

import json
import pwd
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _declare
from ansible_collections.backstay.ops.plugins.module_utils._application import Application, parse
from ansible_collections.backstay.ops.plugins.module_utils._declare import (
    Account,
    Current,
    Declaration,
    Desired,
    Directory,
    desired,
    make_directory,
    plan,
    refusal,
)
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, InputError
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._ledger import Ledger
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage

# A name that no machine has: reading a user of that name is harmless.
NAME = "backstay-unit-test"
LAYOUT = Layout(NAME)
SECRET = "correct horse battery staple"
FILE: dict[str, Any] = {
    "format": 1,
    "name": NAME,
    "domain": "portal.example.org",
    "source": {"repository": "https://git.example.org/portal.git"},
    "runtime": {"settings": "portal.settings", "wsgi": "portal.wsgi:application"},
    "processes": {"web": {}},
    "databases": [
        {"name": "default", "engine": "sqlite", "path": "db/inner/portal.sqlite3"},
        {"name": "other", "engine": "sqlite", "path": "db/other.sqlite3"},
        {"name": "top", "engine": "sqlite", "path": "top.sqlite3"},
    ],
    "media": "files/media",
    "environment": {"secret": ["SECRET_KEY", "OPTIONAL"], "required": ["SECRET_KEY"]},
}
NOLOGIN = Account(999, "/nonexistent", "/usr/sbin/nologin", f"backstay {NAME}")
THEIRS = Account(1000, "/home/x", "/bin/bash", "Ada Lovelace")
BARE = Current(
    ours=False,
    account=None,
    home_in_use=False,
    foreign=(),
    directories={},
    files={},
    generation=None,
    enabled=frozenset(),
    active=frozenset(),
)


def logs_of(owner: str) -> Current:
    """A bare host, but for the directory of the logs."""
    return replace(BARE, directories={LAYOUT.logs: Directory(LAYOUT.logs, owner, "adm", 0o755)})


def portal(**changes: Any) -> Application:
    return parse({**FILE, **changes}, file="portal.yml")


def wanted(generation: str = "0001", secrets: dict[str, str] | None = None, **changes: Any) -> Desired:
    return desired(LAYOUT, portal(**changes), secrets or {"SECRET_KEY": SECRET}, generation)


def after(current: Current, what: Desired) -> Current:
    """The host as it is once the plan was carried out."""
    planned = plan(current, what)
    return replace(
        current,
        ours=True,
        account=current.account or NOLOGIN,
        directories={**current.directories, **{directory.path: directory for directory in planned.directories}},
        files={**current.files, **{path: what.files[path] for path in planned.files}},
        generation=current.generation or what.generation,
        enabled=current.enabled | {*planned.enable},
        active=current.active | {*planned.start},
    )


def test_a_bare_host_gets_everything() -> None:
    planned = plan(BARE, wanted())
    assert planned.user
    assert planned.data_link
    socket, recover = f"backstay-transaction@{NAME}.socket", f"backstay-recover@{NAME}.service"
    timer = f"backstay-review@{NAME}.timer"
    hosts_own = ("backstay-page.timer", "backstay-observe.timer")
    assert planned.start == (socket, timer, *hosts_own), "recovery runs at boot, not now"
    assert planned.enable == (socket, recover, timer, *hosts_own)
    assert {path.name for path in planned.files} == {"application.json", "secrets.json"}


def test_a_second_time_changes_nothing() -> None:
    assert not plan(after(BARE, wanted()), wanted()).changed


@pytest.mark.parametrize("part", ["user", "directory", "file", "link", "unit"])
def test_what_was_taken_away_is_put_back_alone(part: str) -> None:
    whole = after(BARE, wanted())
    broken = {
        "user": replace(whole, account=None),
        "directory": replace(whole, directories={**whole.directories, LAYOUT.static: None}),
        "file": replace(whole, files={**whole.files, LAYOUT.secrets_file: None}),
        "link": replace(whole, generation=None),
        "unit": replace(whole, enabled=frozenset(), active=frozenset()),
    }[part]
    planned = plan(broken, wanted())
    assert planned.user is (part == "user")
    assert bool(planned.directories) is (part == "directory")
    assert bool(planned.files) is (part == "file")
    assert planned.data_link is (part == "link")
    assert bool(planned.enable) is (part == "unit")


def test_data_is_separate_and_only_media_is_reachable_for_nginx() -> None:
    generation = LAYOUT.generations / "0003"
    found = {str(d.path.relative_to(generation)): d for d in _declare.data_directories(portal(), generation)}
    assert {path: (d.owner, d.group, d.mode) for path, d in found.items()} == {
        ".": (NAME, "www-data", 0o710),
        "files": (NAME, "www-data", 0o710),
        "files/media": (NAME, "www-data", 0o2750),
        "db": (NAME, NAME, 0o700),
        "db/inner": (NAME, NAME, 0o700),
    }
    order = list(found)
    assert order.index("db") < order.index("db/inner"), "outermost first"


def test_a_database_may_not_stand_in_the_way_to_the_media() -> None:
    database = {"name": "default", "engine": "sqlite", "path": "files/portal.sqlite3"}
    made = portal(databases=[database], media=None)
    modes = {d.path.name: d.mode for d in _declare.data_directories(made, Path("/g"))}
    assert modes == {"g": 0o710, "files": 0o700}
    assert "its directory holds the media" in refused_file(databases=[database], media="files/media")


def refused_file(**changes: Any) -> str:
    with pytest.raises(InputError) as refused:
        portal(**changes)
    return refused.value.message


def test_data_that_a_restore_moved_is_followed_and_not_moved_back() -> None:
    restored = replace(after(BARE, wanted()), generation="0002", directories={})
    planned = plan(restored, wanted("0002"))
    assert not planned.data_link
    paths = {str(directory.path) for directory in planned.directories}
    assert f"/opt/{NAME}/data.d/0002/db" in paths
    assert not any("0001" in path for path in paths)


def test_configuration_comes_first_so_that_a_run_that_was_cut_off_is_recognised() -> None:
    first = [directory.path for directory in wanted().directories][:2]
    assert first == [Path("/etc/backstay"), Path(f"/etc/backstay/{NAME}")]


def test_secrets_that_the_file_does_not_name_stay_away_from_the_host() -> None:
    files = wanted(secrets={"SECRET_KEY": SECRET, "SECRT": "x"}).files
    assert json.loads(files[LAYOUT.secrets_file]) == {"format": 1, "values": {"SECRET_KEY": SECRET}}
    assert SECRET.encode() not in files[LAYOUT.application_file]


def test_a_required_secret_that_is_missing_is_refused() -> None:
    with pytest.raises(InputError, match=re.escape(f"backstay_secrets['{NAME}']['SECRET_KEY']")):
        desired(LAYOUT, portal(), {"OPTIONAL": "x"}, "0001")


@pytest.mark.parametrize(
    ("current", "said"),
    [
        (BARE, None),
        (replace(BARE, account=NOLOGIN), None),
        (replace(BARE, home_in_use=True), f"/opt/{NAME} exists and was not made by backstay"),
        (replace(BARE, account=THEIRS), "with the home /home/x and the shell /bin/bash"),
        (replace(BARE, account=replace(NOLOGIN, home="/home/x")), "is somebody else's"),
        (replace(BARE, account=replace(NOLOGIN, comment="")), f"The user {NAME} exists and was not made by backstay"),
        (replace(BARE, account=replace(NOLOGIN, comment="backstay other")), "was not made by backstay"),
        (replace(BARE, account=replace(NOLOGIN, uid=0)), "is root under another name"),
        (logs_of("syslog"), f"/var/log/{NAME} exists and belongs to syslog: move it away, or say adopt=keep"),
        (logs_of("root"), f"/var/log/{NAME} exists and belongs to root"),
        (logs_of(NAME), None),
        (replace(BARE, ours=True, home_in_use=True, account=THEIRS), None),
        (replace(BARE, ours=True, account=replace(NOLOGIN, comment="")), None),
        (replace(logs_of("root"), ours=True), None),
    ],
)
def test_what_is_somebody_elses_is_refused(current: Current, said: str | None) -> None:
    sentence = refusal(current, LAYOUT, adopt=False)
    assert sentence == said if said is None else said in (sentence or "")


def test_what_is_somebody_elses_can_be_adopted_but_never_root() -> None:
    taken = replace(logs_of("syslog"), home_in_use=True, account=THEIRS)
    assert refusal(taken, LAYOUT, adopt=True) is None
    assert refusal(replace(taken, account=replace(THEIRS, uid=0)), LAYOUT, adopt=True) is not None


def test_where_backstay_removes_what_no_release_refers_to_nobody_elses_files_are_taken_in() -> None:
    theirs = replace(BARE, home_in_use=True, foreign=(LAYOUT.static,))
    assert f"{LAYOUT.static} hold somebody's files" in (refusal(theirs, LAYOUT, adopt=True) or "")
    assert refusal(replace(theirs, ours=True), LAYOUT, adopt=True) is None


# the adapter, below a directory of the test's own


class Systemd:
    """Answers `systemctl show`; notes everything."""

    def __init__(self, answer: str = "") -> None:
        self.answer = answer
        self.ran: list[str] = []

    def __call__(self, arguments: Sequence[str], **_: object) -> Completed:
        self.ran.append(" ".join(arguments))
        return Completed(tuple(arguments), 0, self.answer if "show" in arguments else "", "")


def declaration(root: Path, secrets: dict[str, Any] | None = None, **options: Any) -> Declaration:
    options.setdefault("runner", Systemd())
    return Declaration(FILE, secrets or {"SECRET_KEY": SECRET}, root=root, **options)


def refusal_on(root: Path) -> str:
    with pytest.raises(InputError) as refused:
        declaration(root).plan()
    return refused.value.message


def test_units_are_asked_for_once_and_understood(tmp_path: Path) -> None:
    socket, recover = f"backstay-transaction@{NAME}.socket", f"backstay-recover@{NAME}.service"
    answer = (
        f"Id={socket}\nActiveState=active\nUnitFileState=enabled\n\n"
        f"Id={recover}\nActiveState=inactive\nUnitFileState=\n\n"
        f"Id=backstay-review@{NAME}.timer\nActiveState=active\nUnitFileState=enabled\n\n"
        "Id=backstay-page.timer\nActiveState=active\nUnitFileState=enabled\n\n"
        "Id=backstay-observe.timer\nActiveState=active\nUnitFileState=enabled\n"
    )
    systemd = Systemd(answer)
    planned = declaration(tmp_path, runner=systemd).plan()
    assert planned.enable == (recover,)
    assert planned.start == ()
    assert len(systemd.ran) == 1


def test_where_the_user_cannot_be_made_the_sentence_says_what_makes_it(tmp_path: Path) -> None:
    """As in the service of a transaction, which may not write to /etc."""

    def refusing(arguments: Sequence[str], **_: object) -> Completed:
        if arguments[0] == "useradd":
            raise BackstayError("useradd failed (exit code 1).", lines=("cannot lock /etc/passwd",))
        return Completed(tuple(arguments), 0, "", "")

    ours = declaration(tmp_path, runner=refusing)
    planned = replace(ours.plan(), directories=(), enable=(), start=())
    with pytest.raises(BackstayError, match=r"The user .* missing on this host .*playbooks/site\.yml") as refused:
        ours.apply(planned)
    assert refused.value.lines == ("useradd failed (exit code 1).", "cannot lock /etc/passwd")


def test_planning_touches_nothing(tmp_path: Path) -> None:
    assert declaration(tmp_path).plan().changed
    assert list(tmp_path.iterdir()) == []


def test_without_the_command_nothing_is_touched(tmp_path: Path) -> None:
    declared = declaration(tmp_path)
    with pytest.raises(BackstayError, match="run role base") as refused:
        declared.apply(declared.plan())
    assert "backstay-transaction@.socket is missing" in refused.value.message
    assert list(tmp_path.iterdir()) == []


def test_data_that_is_a_directory_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / f"opt/{NAME}/data").mkdir(parents=True)
    assert f"move it to {tmp_path}/opt/{NAME}/data.d/0001" in refusal_on(tmp_path)


def test_a_link_that_is_gone_is_made_anew_to_the_data_that_were_live(tmp_path: Path) -> None:
    layout = Layout(NAME, tmp_path)
    for name in ("0001", "0002", "0003"):
        (layout.generations / name).mkdir(parents=True)
    said = refusal_on(tmp_path)
    assert f"{layout.generations} holds 0001, 0002, 0003, and nothing says which of them was live" in said
    layout.ledger.parent.mkdir(parents=True)
    ledger = Ledger(layout.ledger, Storage(), lambda: "2026-11-21T12:00:00Z")
    ledger.append("restored", "0001-1.0.0", restored={"generation": "0003", "before": "0001"})
    ledger.append("returned", "0001-1.0.0", restored={"generation": "0001", "before": "0003"})
    ledger.append("restored", "0001-1.0.0", restored={"generation": "0002", "before": "0001"})
    assert declaration(tmp_path).desired.generation == "0002"
    (layout.generations / "0002").rmdir()
    assert "the last one restored, 0002, is not there: look, link the right one" in refusal_on(tmp_path)


def test_a_host_with_one_generation_needs_no_ledger_to_find_it(tmp_path: Path) -> None:
    (Layout(NAME, tmp_path).generations / "0004").mkdir(parents=True)
    assert declaration(tmp_path).desired.generation == "0004"


def test_a_file_where_a_directory_must_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "var/log").mkdir(parents=True)
    (tmp_path / f"var/log/{NAME}").touch()
    assert "is in the way and is no directory" in refusal_on(tmp_path)


def test_logs_of_somebody_else_are_refused_and_taken_over_only_where_that_was_said(tmp_path: Path) -> None:
    logs = tmp_path / f"var/log/{NAME}"
    logs.mkdir(parents=True)
    assert f"{logs} exists and belongs to {logs.owner()}" in refusal_on(tmp_path)
    adopted = declaration(tmp_path, adopt=True).plan()
    assert logs in [directory.path for directory in adopted.directories]
    (tmp_path / f"etc/backstay/{NAME}").mkdir(parents=True)
    assert declaration(tmp_path).plan().changed, "what is ours already is only put right"


@pytest.mark.parametrize(
    ("gecos", "known"),
    [(f"backstay {NAME}", True), (f"backstay {NAME},,,", True), ("", False), ("Web server", False)],
)
def test_an_account_is_recognised_by_the_comment_that_backstay_gives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gecos: str, known: bool
) -> None:
    systemd = Systemd()
    ours = declaration(tmp_path, runner=systemd)
    ours.apply(replace(ours.plan(), directories=(), data_link=False, files=(), enable=(), start=()))
    made = next(line for line in systemd.ran if line.startswith("useradd"))
    assert f"--comment backstay {NAME} {NAME}" in made
    entry = pwd.struct_passwd((NAME, "x", 999, 999, gecos, "/nonexistent", "/usr/sbin/nologin"))
    monkeypatch.setattr(_declare.pwd, "getpwnam", lambda _: entry)
    if known:
        assert not declaration(tmp_path).plan().user
    else:
        assert f"The user {NAME} exists and was not made by backstay" in refusal_on(tmp_path)


def test_files_of_a_newer_backstay_are_not_replaced(tmp_path: Path) -> None:
    room = tmp_path / f"etc/backstay/{NAME}"
    room.mkdir(parents=True)
    (room / "application.json").write_text('{"format": 2}')
    assert "application.json has format 2 and this backstay knows 1" in refusal_on(tmp_path)


@pytest.mark.parametrize("content", ["", "not json", "[]", '{"values": 3}'])
def test_a_damaged_file_is_replaced(tmp_path: Path, content: str) -> None:
    room = tmp_path / f"etc/backstay/{NAME}"
    room.mkdir(parents=True)
    (room / "secrets.json").write_text(content)
    declared = declaration(tmp_path)
    planned = declared.plan()
    assert room / "secrets.json" in planned.files
    assert declared.secrets_changed(planned) == ("SECRET_KEY",)


def test_the_diff_names_secrets_and_never_shows_them(tmp_path: Path) -> None:
    room = tmp_path / f"etc/backstay/{NAME}"
    room.mkdir(parents=True)
    (room / "secrets.json").write_text(
        json.dumps({"format": 1, "values": {"SECRET_KEY": "the old one", "OPTIONAL": "same", "GONE": "gone too"}})
    )
    declared = declaration(tmp_path, {"SECRET_KEY": SECRET, "OPTIONAL": "same"})
    planned = declared.plan()
    shown = {part.get("after_header"): part for part in declared.diff(planned)}
    secrets = shown[str(room / "secrets.json")]
    assert secrets["before"] == "GONE: (secret)\nOPTIONAL: (secret)\nSECRET_KEY: (secret)\n"
    assert secrets["after"] == "OPTIONAL: (secret)\nSECRET_KEY: (secret, changed)\n"
    assert declared.secrets_changed(planned) == ("GONE", "SECRET_KEY")
    assert not any(text in str(declared.diff(planned)) for text in (SECRET, "the old one", "gone too"))


def test_who_may_vouch_for_payloads_is_declared_shown_and_left_alone_where_nobody_says(tmp_path: Path) -> None:
    room = tmp_path / f"etc/backstay/{NAME}"
    room.mkdir(parents=True)
    (room / "allowed_signers").write_text("ada ssh-ed25519 AAAA\n")
    assert room / "allowed_signers" not in declaration(tmp_path).plan().files
    secrets = {"SECRET_KEY": SECRET}
    same = Declaration(FILE, secrets, allowed_signers="ada ssh-ed25519 AAAA\n\n", root=tmp_path, runner=Systemd(""))
    assert room / "allowed_signers" not in same.plan().files
    other = Declaration(FILE, secrets, allowed_signers="eve ssh-ed25519 BBBB\n", root=tmp_path, runner=Systemd(""))
    planned = other.plan()
    shown = {part.get("after_header"): part for part in other.diff(planned)}[str(room / "allowed_signers")]
    assert (shown["before"], shown["after"]) == ("ada ssh-ed25519 AAAA\n", "eve ssh-ed25519 BBBB\n")
    with pytest.raises(InputError, match="names nobody"):
        Declaration(FILE, secrets, allowed_signers="# nobody yet\n", root=tmp_path, runner=Systemd(""))


def test_what_the_live_release_runs_with_is_compared(tmp_path: Path) -> None:
    declared = declaration(tmp_path)
    room = tmp_path / f"etc/backstay/{NAME}/releases/0001-1.0.0"
    room.mkdir(parents=True)
    assert not declared.differs_from_live(None)
    (room / "application.json").write_bytes(declared.desired.files[declared.layout.application_file])
    assert not declared.differs_from_live("0001-1.0.0")
    (room / "application.json").write_bytes(b"{}")
    assert declared.differs_from_live("0001-1.0.0")


def test_no_link_that_the_application_put_there_is_followed(tmp_path: Path) -> None:
    """Root makes directories where the application may write: a link there must lead nowhere."""
    elsewhere = tmp_path / "etc"
    elsewhere.mkdir(mode=0o755)
    generation = tmp_path / f"opt/{NAME}/data.d/0001"
    generation.mkdir(parents=True)
    (generation / "db").symlink_to(elsewhere)
    declared = declaration(tmp_path)
    with pytest.raises(BackstayError, match="could not be made"):
        make_directory(
            Directory(generation / "db" / "inner", "root", "root", 0o777), trusted=declared.layout.generations
        )
    with pytest.raises(BackstayError, match="could not be made"):
        make_directory(Directory(generation / "db", "root", "root", 0o777), trusted=declared.layout.generations)
    assert list(elsewhere.iterdir()) == []
    assert elsewhere.stat().st_mode & 0o777 == 0o755


BACKUP = {"repositories": {"disk": {"location": "/srv/backup"}, "vault": {"location": "s3:https://s3.example.org/b/p"}}}
OPENED = {
    "disk": {"password": SECRET},
    "vault": {"password": SECRET, "access_key_id": "AK", "secret_access_key": SECRET},
}


def test_what_opens_the_repositories_is_kept_apart_from_the_applications_environment() -> None:
    asked = desired(LAYOUT, portal(backup=BACKUP), {"SECRET_KEY": "another"}, "0001", backup_secrets=OPENED)
    assert json.loads(asked.files[LAYOUT.backup_secrets])["repositories"] == OPENED
    assert LAYOUT.backup_secrets in asked.secret_files
    for path, content in asked.files.items():
        assert path == LAYOUT.backup_secrets or SECRET.encode() not in content


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"disk": OPENED["disk"]}, "'vault' have no `password`"),
        ({**OPENED, "disk": {"password": " "}}, "'disk' have no `password`"),
        ({**OPENED, "disk": {"password": SECRET, "pasword": SECRET}}, "unknown key 'pasword'"),
    ],
)
def test_a_repository_that_nothing_opens_is_refused_and_no_secret_is_shown(given: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=re.escape(sentence)) as refused:
        desired(LAYOUT, portal(backup=BACKUP), {"SECRET_KEY": "another"}, "0001", backup_secrets=given)
    assert SECRET not in refused.value.message


def test_another_backup_policy_is_no_reason_for_a_release(tmp_path: Path) -> None:
    declared = declaration(tmp_path)
    room = declared.layout.release_configuration("0001-1.0.0")
    room.mkdir(parents=True)
    (room / "application.json").write_bytes(declared.desired.files[declared.layout.application_file])
    changed = Declaration({**FILE, "backup": BACKUP}, {"SECRET_KEY": SECRET}, root=tmp_path, runner=Systemd())
    assert not changed.differs_from_live("0001-1.0.0")
