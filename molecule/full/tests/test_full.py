"""One bare host became a server with the example application 1.0.0: asked as visitor, neighbour, operator and owner."""

from __future__ import annotations

import http.client
import json
import re
import secrets
import shlex
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from testinfra.host import Host

ADDRESS, NAME = "10.89.12.85", "portal.lab.test"
APPLICATION = "audit-portal"
PROCESSES = ("web", "worker", "scheduler")
# The command's own services; the digest, which reaches devices, is not among them.
OWN = (
    *(f"backstay-{name}@{APPLICATION}.service" for name in ("backup", "heal", "jobs", "recover", "review")),
    *(f"backstay-{name}@{APPLICATION}.service" for name in ("skipped", "transaction", "verify")),
    f"backstay-job@{APPLICATION}:any.service",
    "backstay-observe.service",
    "backstay-page.service",
    "backstay-probe.service",
)
NEIGHBOUR = "neighbour"
RUN = f"backstay run -a {APPLICATION}"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: str

    @property
    def cookies(self) -> str:
        return "; ".join(value.split(";")[0] for value in self.headers.get_all("Set-Cookie") or [])


Ask = Callable[..., Answer]


@pytest.fixture(scope="module")
def ask(lab_directory: Path) -> Ask:
    """One request over HTTPS from here, which is no declared address; the certificate is the lab authority's."""
    context = ssl.create_default_context(cafile=str(lab_directory / "ca" / "ca.crt"))

    def request(path: str, *, form: Mapping[str, str] | None = None, cookies: str = "") -> Answer:
        connection = http.client.HTTPSConnection(NAME, context=context)
        plain = socket.create_connection((ADDRESS, 443), timeout=10)
        connection.sock = context.wrap_socket(plain, server_hostname=NAME)
        headers = {"Cookie": cookies, "Referer": f"https://{NAME}{path}"}
        if form is None:
            connection.request("GET", path, headers=headers)
        else:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            connection.request("POST", path, body=urlencode(form), headers=headers)
        answer = connection.getresponse()
        body = answer.read().decode(errors="replace")
        connection.close()
        return Answer(answer.status, answer.headers, body)

    return request


def told(host: Host, command: str) -> str:
    """What a command prints; it has to succeed."""
    done = host.run(command)
    assert done.rc == 0, f"{command}: {done.stdout}{done.stderr}"
    return str(done.stdout)


def status(host: Host) -> dict[str, Any]:
    """What the host says of the application; its exit code is 1 while a transaction is open."""
    return dict(json.loads(host.run(f"backstay status --json {APPLICATION}").stdout))


def settled(host: Host, seconds: float = 90.0) -> dict[str, Any]:
    """The status once no transaction is open: drained, and old processes stopped."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = status(host)
        if not found["transaction_open"]:
            return found
        time.sleep(0.5)
    raise AssertionError(f"a transaction is still open: {found['verdict']}")


@pytest.fixture(scope="module")
def live(host: Host) -> str:
    return str(settled(host)["live"]["id"])


# visitors


def test_the_front_door_answers_with_the_release_that_the_ledger_says_is_live(ask: Ask, live: str) -> None:
    answer = ask("/")
    assert (answer.status, answer.headers["X-Release-Id"]) == (200, live)
    assert live.endswith("-1.0.0")
    assert "Audits" in answer.body


def test_its_static_files_are_served(ask: Ask) -> None:
    link = re.search(r'href="(/static/[^"]+\.css)"', ask("/").body)
    assert link is not None
    assert ask(link[1]).status == 200


def test_plain_http_leads_to_https(host: Host) -> None:
    connection = http.client.HTTPConnection(ADDRESS, timeout=10)
    connection.request("GET", "/", headers={"Host": NAME})
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Location"]) == (301, f"https://{NAME}/")


def test_what_is_measured_is_not_for_visitors(ask: Ask) -> None:
    answer = ask("/metrics")
    assert answer.status in (403, 404)
    assert "portal_" not in answer.body
    assert sorted(json.loads(ask("/healthz/").body)) == ["releaseId", "status"]


def test_maintenance_closes_the_door_and_opens_it_again(host: Host, ask: Ask, live: str) -> None:
    told(host, f"backstay maintenance on {APPLICATION}")
    try:
        closed = ask("/")
        assert closed.status == 503
        assert int(closed.headers["Retry-After"]) > 0
    finally:
        told(host, f"backstay maintenance off {APPLICATION}")
    opened = ask("/")
    assert (opened.status, opened.headers["X-Release-Id"]) == (200, live)


# what runs


@pytest.mark.parametrize("process", PROCESSES)
def test_each_process_runs_as_the_application_and_is_hardened(host: Host, live: str, process: str) -> None:
    unit = f"{APPLICATION}-{live}-{process}.service"
    assert host.service(unit).is_running
    pid = told(host, f"systemctl show --property MainPID --value {unit}").strip()
    assert told(host, f"ps -o user= -p {pid}").strip() == APPLICATION
    assert exposure(host, unit) <= 3.0, told(host, f"systemd-analyze security --no-pager {unit}")


@pytest.mark.parametrize("unit", OWN)
def test_what_works_as_root_gives_up_what_it_does_not_need(host: Host, unit: str) -> None:
    assert exposure(host, unit) <= 3.0, told(host, f"systemd-analyze security --no-pager {unit}")


def exposure(host: Host, unit: str) -> float:
    """systemd's own judgement, from 0 (nothing to attack) to 10."""
    said = told(host, f"systemd-analyze security --no-pager {unit}").splitlines()[-1]
    found = re.search(r"exposure level for \S+: (\d+\.\d+)", said)
    assert found is not None, said
    return float(found[1])


def test_memory_has_the_limit_of_the_application_file(host: Host, live: str) -> None:
    for process, limit in zip(PROCESSES, (419430400, 209715200, 209715200), strict=True):
        unit = f"{APPLICATION}-{live}-{process}.service"
        assert told(host, f"systemctl show --property MemoryMax --value {unit}").strip() == str(limit)


def schedulers(host: Host) -> list[str]:
    """The releases whose scheduler is at work, one entry for each process of the Python program."""
    found = told(host, f"pgrep --full --list-full --uid {APPLICATION} 'python.*run_scheduler' || :").splitlines()
    at_work = [line for line in found if "flock" not in line]
    return [environment_of(host, line.split()[0]) for line in at_work]


def environment_of(host: Host, pid: str) -> str:
    read = f"tr '\\0' '\\n' < /proc/{pid}/environ | sed -n 's/^BACKSTAY_RELEASE_ID=//p'"
    return told(host, read).strip()


def test_a_singleton_runs_once_whatever_systemd_is_asked_to_start(host: Host) -> None:
    first = settled(host)["live"]["id"]
    assert schedulers(host) == [first]
    second = json.loads(told(host, f"backstay release --json --again {APPLICATION}"))["release"]
    settled(host)
    assert schedulers(host) == [second]
    other = f"{APPLICATION}-{first}-scheduler.service"
    told(host, f"systemctl start {other}")
    try:
        assert host.service(other).is_running, "it waits for the one that runs"
        time.sleep(1.0)
        assert schedulers(host) == [second]
    finally:
        told(host, f"systemctl stop {other}")
    back = json.loads(told(host, f"backstay rollback --json {APPLICATION}"))
    assert back["release"] == first
    settled(host)
    assert schedulers(host) == [first]


# neighbours


@pytest.fixture(scope="module")
def neighbour(host: Host) -> Iterator[Callable[[str], Any]]:
    """Runs a shell command as the user of another application of this host."""
    told(host, f"useradd --system --shell /usr/sbin/nologin {NEIGHBOUR}")
    as_neighbour = f"setpriv --reuid={NEIGHBOUR} --regid={NEIGHBOUR} --clear-groups sh -c"
    yield lambda command: host.run(f"{as_neighbour} {shlex.quote(command)}")
    told(host, f"userdel {NEIGHBOUR}")


@pytest.mark.parametrize(
    "secret",
    [
        f"/opt/{APPLICATION}/data/db/portal.sqlite3",
        f"/etc/backstay/{APPLICATION}/secrets.json",
        f"/etc/backstay/{APPLICATION}/releases/0001-1.0.0/environment",
        f"/var/lib/backstay/{APPLICATION}/ledger.jsonl",
        f"/var/log/{APPLICATION}/gunicorn.log",
        f"/opt/{APPLICATION}/releases/0001-1.0.0/code/manage.py",
    ],
)
def test_another_application_reads_nothing_of_it(host: Host, neighbour: Callable[[str], Any], secret: str) -> None:
    assert host.file(secret).exists, "there is nothing to protect"
    tried = neighbour(f"cat {secret}")
    assert tried.rc != 0
    assert "Permission denied" in tried.stderr


def test_another_application_sees_no_process_environment(host: Host, neighbour: Callable[[str], Any]) -> None:
    pid = told(host, f"pgrep --oldest --uid {APPLICATION}").strip()
    assert "Permission denied" in neighbour(f"cat /proc/{pid}/environ").stderr


@pytest.mark.parametrize("end", [f"/opt/{APPLICATION}/active", f"/run/backstay/{APPLICATION}.sock"])
def test_another_application_connects_to_nothing_of_it(host: Host, neighbour: Callable[[str], Any], end: str) -> None:
    connect = f"import socket; socket.socket(socket.AF_UNIX).connect('{end}')"
    assert host.run(f'python3 -c "{connect}"').rc == 0, "nobody listens there, which proves nothing"
    tried = neighbour(f'python3 -c "{connect}"')
    assert "PermissionError" in tried.stderr


# operators


def test_logs_are_in_the_journal_and_in_files(host: Host, ask: Ask) -> None:
    release = settled(host)["live"]["id"]
    page = f"/no-such-page-{secrets.token_hex(4)}/"
    answer = ask(page)
    assert answer.status == 404
    journal = told(host, f"journalctl --no-pager -u {APPLICATION}-{release}-web.service -n 200")
    assert page in journal
    assert page in told(host, f"cat /var/log/{APPLICATION}/*.log")
    directory = host.file(f"/var/log/{APPLICATION}")
    assert (directory.user, directory.group, directory.mode) == (APPLICATION, "adm", 0o2750)
    front = told(host, f"grep -h {page} /var/log/nginx/{APPLICATION}.access.log")
    entry = json.loads(front)
    assert (entry["status"], entry["release"]) == (404, release)


def test_the_first_administrator_is_made_without_a_terminal_and_logs_in(host: Host, ask: Ask) -> None:
    name, password = f"chief{secrets.token_hex(4)}", secrets.token_urlsafe(20)
    # Django takes the password from its environment; ours gets there through standard input.
    program = (
        "import os, sys; os.environ['DJANGO_SUPERUSER_PASSWORD'] = sys.stdin.readline().strip(); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    manage = f"manage.py createsuperuser --noinput --username {name} --email {name}@lab.test"
    command = f"{RUN} python -c {shlex.quote(program)} {manage}"
    said = told(host, f"echo {password} | {command}")
    assert "Superuser created" in said
    login = "/admin/login/?next=/admin/"
    page = ask(login)
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.body)
    assert token is not None, page.body[:500]
    form = {"csrfmiddlewaretoken": token[1], "username": name, "password": password, "next": "/admin/"}
    entered = ask(login, form=form, cookies=page.cookies)
    assert (entered.status, entered.headers["Location"]) == (302, "/admin/"), entered.body[:500]
    inside = ask("/admin/", cookies=entered.cookies)
    assert inside.status == 200
    assert "Site administration" in inside.body


# what is kept


@pytest.fixture(scope="module")
def point(host: Host) -> str:
    """A restore point in every repository."""
    made = json.loads(told(host, f"backstay backup --json {APPLICATION}"))
    assert made["ok"], made
    return str(made["run"])


@pytest.mark.parametrize("repository", ["disk", "sftp", "s3"])
def test_a_backup_is_restored_and_compared_from_every_kind_of_store(host: Host, point: str, repository: str) -> None:
    command = f"backstay verify --json --level L4 --point {point} --repository {repository} {APPLICATION}"
    proof = json.loads(told(host, command))
    assert (proof["ok"], proof["level"], proof["repository"]) == (True, 4, repository), proof


# the host


def test_nothing_failed_and_a_reboot_would_bring_it_back(host: Host) -> None:
    failed = told(host, "systemctl list-units --failed --plain --no-legend")
    ours = [line.split()[0] for line in failed.splitlines() if APPLICATION in line or "backstay" in line]
    assert not ours, "\n".join([failed, *(told(host, f"journalctl --no-pager -n 20 -u {unit}") for unit in ours)])
    for unit in (
        f"backstay-recover@{APPLICATION}.service",
        f"backstay-transaction@{APPLICATION}.socket",
        "nginx.service",
    ):
        assert host.service(unit).is_enabled, unit
    assert host.file("/run/backstay-lab/boot").exists


def test_the_ledger_is_sound(host: Host) -> None:
    assert json.loads(told(host, f"backstay history --verify --json {APPLICATION}"))["ledger"] == "sound"
