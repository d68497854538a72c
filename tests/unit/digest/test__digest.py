"""The daily digest says what happened and what needs somebody; silence is a failure."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import status_picture

from ansible_collections.backstay.ops.plugins.module_utils import _digest, _page
from ansible_collections.backstay.ops.plugins.module_utils._cells import needs, row
from ansible_collections.backstay.ops.plugins.module_utils._digest import Digest, Logs, Section, compose, logs
from ansible_collections.backstay.ops.plugins.module_utils._digest_host import Gatherer, hours_to_tell, send
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._events import Event
from ansible_collections.backstay.ops.plugins.module_utils._house import House
from ansible_collections.backstay.ops.plugins.module_utils._incidents import opened
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage

NOW = dt.datetime(2026, 11, 21, 6, 30, tzinfo=dt.UTC)
SAID = """
 ################### Logwatch 7.7 (07/22/22) ####################
        Processing Initiated: Sat Nov 21 06:30:00 2026
 --------------------- SSHD Begin ------------------------

 Users logging in through sshd:
    root:
       10.0.0.1: 2 Times

 ---------------------- SSHD End -------------------------
 --------------------- Disk Space Begin ------------------------

 /dev/vda        252G   32G   70G  32% /

 ---------------------- Disk Space End -------------------------
 ###################### Logwatch End #########################
"""
ONLY_DISK = SAID[SAID.index(" --------------------- Disk") :]


def test_the_worst_comes_first_and_the_subject_says_how_many() -> None:
    made = compose("app1", NOW, 24, [Section("UNITS", ("a.service: failed",), ("a.service has failed",))])
    assert made.subject == "app1: 1 need you (digest of 2026-11-21)"
    assert made.lines[:4] == (
        "app1, the 24 hours until 2026-11-21 06:30Z",
        "",
        "NEEDS YOU (1)",
        "  a.service has failed",
    )
    assert made.problems == ()


def test_a_good_day_says_so() -> None:
    made = compose("app1", NOW, 24, [Section("UNITS", ("none failed",))])
    assert made.subject == "app1: all is well (digest of 2026-11-21)"
    assert "Nothing needs you." in made.lines


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ([], "nothing could be read at all"),
        ([Section("UNITS")], "nothing could be read at all"),
        ([Section("DISK", ("/: 1%",)), Section("UPDATES", unread=("apt is away",))], "UPDATES: apt is away"),
    ],
)
def test_an_empty_digest_or_one_that_lacks_a_part_is_a_failure(sections: list[Section], said: str) -> None:
    made = compose("app1", NOW, 24, sections)
    assert said in made.problems[0]
    assert "INCOMPLETE" in made.subject
    assert said in made.text


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Logs("yesterday", entries=0), "the journal has no line of yesterday"),
        (Logs("yesterday", "", entries=812), "logwatch made nothing of 812 lines"),
        (Logs("yesterday", ONLY_DISK, entries=812), "logwatch made nothing of 812 lines"),
        (Logs("yesterday", "", entries=None), "logwatch made nothing of the logs"),
        (Logs("yesterday", problem="logwatch is not there"), "logwatch is not there"),
    ],
)
def test_logs_about_which_nothing_is_said_are_a_failure(found: Logs, said: str) -> None:
    section = logs(found)
    assert said in section.unread[0]
    assert section.lines == ()


def test_logs_are_told_and_bounded() -> None:
    assert "    root:" in logs(Logs("yesterday", SAID, entries=2)).lines
    long = SAID.replace("10.0.0.1: 2 Times", "\n".join(f"10.0.0.{n}: 1 Times" for n in range(600)))
    told = logs(Logs("yesterday", long, entries=600)).lines
    assert len(told) == _digest.LOG_LINES + 1
    assert "more lines" in told[-1]


def test_on_the_first_day_there_is_nothing_to_say_and_nothing_wrong() -> None:
    assert logs(Logs("yesterday", entries=0, young=True)).unread == ()


def test_only_what_happened_meanwhile_is_told() -> None:
    found = [
        Event("1", "release", "2026-11-21T05:00:00+00:00", "portal: 7 is live", ("7 is live after 6.",)),
        Event("2", "release", "2026-11-20T05:00:00+00:00", "portal: 6 is live", ()),
    ]
    section = _digest.news("RELEASES", _digest.events(found), "2026-11-20T06:30:00+00:00")
    assert section.lines == ("2026-11-21T05:00Z  portal: 7 is live. 7 is live after 6.",)
    assert _digest.news("RELEASES", [], "").lines == ("nothing",)


def test_jobs_disks_updates_and_backups_that_need_somebody_say_what_to_type() -> None:
    job = {"job": "retention", "state": "missing", "last_end": "2026-11-19T03:00:07+00:00", "why": "due at 03:00"}
    assert "backstay jobs portal" in _digest.jobs("portal", [job]).needs[0]
    assert _digest.jobs("portal", [{**job, "state": "ok"}]).needs == ()
    full = _digest.disk([("/", 0.81, 0.1, 10**9), ("/opt", 0.1, 0.97, 10**9), ("/srv", 0.8, 0.1, 10**9)])
    assert [need.split()[0] for need in full.needs] == ["/", "/opt"]
    assert "(inodes)" in full.needs[1]
    assert _digest.disk([]).unread
    late = {"security": 2, "other": 1, "oldest_seconds": 8 * 86400.0, "reboot_required": True, "system": "Debian 13"}
    assert len(_digest.updates(late).needs) == 2
    assert _digest.updates({**late, "oldest_seconds": 3600.0, "reboot_required": False}).needs == ()
    assert _digest.updates({"security": None, "problem": "lists are old"}).unread == ("lists are old",)
    never = {"newest": None, "last_proven": None, "problems": ["there is no restore point: run `backstay backup`"]}
    assert _digest.backups("portal", never).needs == ("portal: there is no restore point: run `backstay backup`",)
    assert _digest.backups("portal", None).needs == ()


def ill(name: str = "portal", **look: Any) -> dict[str, Any]:
    found = status_picture.well(name, "app1")
    return {**found, "look": {**found["look"], **look}}


def test_what_the_page_says_is_not_well_needs_somebody_once() -> None:
    full = [{"path": "/srv", "used_ratio": 0.86, "inodes_ratio": 0.1, "full_seconds": None}]
    late = [{"job": "retention", "state": "late"}]
    portal = row(ill(exposure={"open": [8080]}, mounts=full, jobs=late), now=status_picture.NOW, host="app1")
    shop = row(ill("shop", jobs=late), now=status_picture.NOW, host="app1")
    others = [Section("DISK", ("/srv: 86%",), ("/srv is 86% full",)), Section("JOBS OF portal", (), ("late",))]
    section = _digest.page(needs([portal, shop], most=None), others)
    assert section.lines == (
        "look     portal@app1: disk: /srv is 86 % full",
        "look     portal@app1 and 1 more: jobs: retention: is late",
        "look     portal@app1: exposure: not declared: 8080",
    )
    assert section.needs == (
        "portal@app1 and 1 more: jobs: retention: is late: `backstay job retention portal`",
        "portal@app1: exposure: not declared: 8080: `ss -lntp`",
    ), "of the disk another section asks already, of the shop's job none"
    assert _digest.page([], others) == Section("THE PAGE", ("all is well",))


def test_a_log_that_was_moved_away_and_is_still_written_to_is_named() -> None:
    lines = [f'"/var/log/portal/{log}" 2026-11-21-0:0:7' for log in ("app.log", "own.log")]
    status = "\n".join(["logrotate state -- version 2", *lines, ""])
    at = _digest.rotated(status)["/var/log/portal/app.log"]
    moved = {"/var/log/portal/app.log": at + 1, "/var/log/portal/own.log": at + 3600, "/var/log/portal/new.log": at}
    section = _digest.not_reopened("portal", status, moved)
    assert len(section.needs) == 1
    assert "/var/log/portal/own.log.1" in section.needs[0]
    assert "WatchedFileHandler" in section.needs[0]
    assert _digest.not_reopened("portal", "", moved).needs == ()


class Host:
    """journalctl, logwatch, apt, systemctl and sendmail of a host, and what they were asked."""

    def __init__(self, root: Path) -> None:
        self.root, self.house, self.storage = root, House(root), Storage()
        self.journal = {"SYSLOG_FACILITY=3": "Nov 20 10:00:00 app1 systemd[1]: Started.\n"}
        self.older, self.rsyslog, self.sends = "", False, True
        self.said = SAID
        self.asked: list[list[str]] = []
        self.given: dict[str, str] = {}
        self.mails: list[str] = []
        for path in ("proc/self/mountinfo", "etc/os-release", "usr/sbin/sendmail"):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).touch()
        (root / "proc/self/mountinfo").write_text("21 1 8:1 / / rw - ext4 /dev/vda rw\n")
        (root / "etc/os-release").write_text("ID=debian\nVERSION_ID=13\n")
        (root / "var/lib/apt/periodic").mkdir(parents=True)
        (root / "var/lib/apt/periodic/update-success-stamp").touch()
        (root / "var/lib/backstay").mkdir()

    def __call__(self, arguments: Sequence[str], **options: Any) -> Completed:
        given = list(arguments)
        self.asked.append(given)
        code, out = 0, ""
        if given[:2] == ["systemctl", "is-active"]:
            code = 0 if self.rsyslog else 3
        elif given[0] == "journalctl":
            out = self.older if "--lines=1" in given else "".join(self.journal.get(each, "") for each in given)
        elif given[0].endswith("logwatch"):
            out = self.said
            if "--logdir" in given:
                directory = Path(given[given.index("--logdir") + 1])
                self.given = {file.name: file.read_text() for file in directory.iterdir()}
        elif given[0].endswith("sendmail"):
            code = 0 if self.sends else 75
            self.mails.append(str(options.get("stdin")))
        return Completed(tuple(given), code, out, "" if code == 0 else "queue is full")

    def digest(self, hours: float = 24.0) -> Digest:
        now = dt.datetime.now(dt.UTC)
        return Gatherer(self.house, storage=self.storage, runner=self, now=now).digest(hours=hours)

    def send(self, made: Digest) -> None:
        send(self.house, self.storage, made, ["ada@example.org"], now=NOW, runner=self)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_the_journal_goes_to_logwatch_by_facility(host: Host) -> None:
    host.journal |= {"SYSLOG_FACILITY=10": "Nov 20 10:00:00 app1 sshd-session[7]: Accepted publickey for ada\n"}
    made = host.digest()
    assert made.problems == ()
    assert host.given["auth.log"] == "Nov 20 10:00:00 app1 sshd[7]: Accepted publickey for ada\n", "as parsers know it"
    assert "systemd[1]" in host.given["messages"]
    assert host.given["maillog"] == ""
    facilities = [part for asked in host.asked for part in asked if part.startswith("SYSLOG_FACILITY=")]
    assert len(facilities) == len(set(facilities)) == 24, "each line goes to one file"
    assert "10.0.0.1: 2 Times" in made.text


def test_where_files_are_written_they_are_read(host: Host) -> None:
    host.rsyslog = True
    assert host.digest().problems == ()
    assert not any(asked[0] == "journalctl" for asked in host.asked)


def test_a_journal_without_a_line_is_a_failure_unless_it_is_young(host: Host) -> None:
    host.journal, host.older = {}, "Nov 11 10:00:00 app1 systemd[1]: Started.\n"
    assert "no line of yesterday" in host.digest().problems[0]
    host.older = ""
    assert host.digest().problems == ()


def test_an_application_that_cannot_be_read_is_named_and_hides_no_other_part(host: Host) -> None:
    (host.root / "etc/backstay/portal").mkdir(parents=True)
    (host.root / "etc/backstay/portal/application.json").write_text("{")
    made = host.digest()
    assert any("OF portal" in problem for problem in made.problems)
    assert "DISK" in made.text


def test_yellow_on_the_page_goes_into_the_mail(host: Host) -> None:
    (host.root / "etc/backstay/portal").mkdir(parents=True)
    (host.root / "etc/backstay/portal/application.json").write_text("{")
    now = dt.datetime.now(dt.UTC)
    rows = [row(ill(exposure={"open": [22, 8080]}), now=status_picture.NOW, host="app1")]
    host.house.state.mkdir(parents=True)
    page = host.house.state / "status.json"
    page.write_text(json.dumps(_page.document(rows, now - dt.timedelta(minutes=4))))
    made = host.digest()
    assert "portal@app1: exposure: not declared: 8080: `ss -lntp`" in made.needs
    assert "look     portal@app1: exposure: not declared: 8080" in made.text
    page.write_text(json.dumps(_page.document(rows, now - dt.timedelta(minutes=40))))
    made = host.digest()
    assert "8080" not in made.text, "nobody wrote that page since"
    assert [need.partition(": ")[2][:8] for need in made.needs] == ["release:"], "so it is looked at now"


def test_no_secret_is_mailed(host: Host) -> None:
    (host.root / "etc/backstay/portal").mkdir(parents=True)
    (host.root / "etc/backstay/portal/application.json").write_text("{}")
    (host.root / "etc/backstay/portal/secrets.json").write_text('{"TOKEN": "planted-and-long-enough"}')
    host.said = SAID.replace("root:", "root planted-and-long-enough:")
    assert "planted-and-long-enough" not in host.digest().text


def test_it_is_mailed_and_remembered(host: Host) -> None:
    host.send(compose("app1", NOW, 24, [Section("UNITS", ("none failed",))]))
    assert "To: ada@example.org" in host.mails[0]
    assert "Subject: app1: all is well (digest of 2026-11-21)" in host.mails[0]
    assert "Nothing needs you." in host.mails[0]
    assert opened(host.house, host.storage) == ()


def test_a_digest_goes_back_to_the_last_one_that_reached_the_same_people(host: Host) -> None:
    """A host that was off over the weekend; a night that is 25 hours away from the one before; one that is 23."""
    people, whole = ["ada@example.org"], compose("app1", NOW, 24, [Section("UNITS", ("none failed",))])

    def hours(after: float, to: Sequence[str] = people) -> float:
        return hours_to_tell(host.house, host.storage, to, NOW + dt.timedelta(hours=after))

    assert hours(0.0) == 24.0, "nothing was sent yet"
    host.send(whole)
    assert [hours(after) for after in (23.0, 25.0, 74.0)] == [23.0, 25.0, 74.0]
    assert hours(2000.0) == 7 * 24.0
    assert hours(74.0, ["bob@example.org"]) == 24.0, "a test to somebody else moves nothing"
    host.sends = False
    with pytest.raises(BackstayError, match="could not be sent"):
        send(host.house, host.storage, whole, people, now=NOW + dt.timedelta(hours=24), runner=host)
    assert hours(48.0) == 48.0, "what did not reach them is told with the next one"


def test_the_logs_go_back_as_far_as_the_digest(host: Host) -> None:
    host.digest(hours=74.0)
    first = (dt.datetime.now(dt.UTC) - dt.timedelta(hours=74.0)).astimezone().date()
    since = {part for asked in host.asked for part in asked if part.startswith("--since=")}
    assert since == {f"--since={first}"}
    (asked,) = (each for each in host.asked if each[0].endswith("logwatch"))
    assert asked[asked.index("--range") + 1] == "all", "it is given no other days"


def test_an_empty_digest_is_mailed_and_is_an_incident_until_one_is_whole(host: Host) -> None:
    with pytest.raises(BackstayError, match="nothing could be read at all"):
        host.send(compose("app1", NOW, 24, []))
    assert "INCOMPLETE" in host.mails[0]
    assert [each.incident.key for each in opened(host.house, host.storage)] == ["host/digest"]
    host.send(compose("app1", NOW, 24, [Section("UNITS", ("none failed",))]))
    assert [each for each in opened(host.house, host.storage) if each.over is None] == []


def test_a_digest_that_cannot_be_sent_is_an_incident(host: Host) -> None:
    host.sends = False
    with pytest.raises(BackstayError, match="could not be sent to ada@"):
        host.send(compose("app1", NOW, 24, [Section("UNITS", ("none failed",))]))
    assert [each.incident.key for each in opened(host.house, host.storage)] == ["host/digest"]
