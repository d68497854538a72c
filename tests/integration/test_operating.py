"""What an operator does between releases: look, read logs, run a command, close the door, and keep secrets secret."""

from __future__ import annotations

import http.client
import json
import os
import pty
import re
import select
import shlex
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml
from backstay_lab.layout import CHECKOUT
from backstay_lab.scene import APPLICATION, DOMAIN, Scene

STATE = f"/var/lib/backstay/{APPLICATION}"
LEDGER = f"{STATE}/ledger.jsonl"
PASSWORD = "a lift for 13 persons"


def ask(
    scene: Scene, path: str, *, form: Mapping[str, str] | None = None, cookies: str = ""
) -> tuple[int, http.client.HTTPMessage, str]:
    """One request over HTTPS from here, which is no declared address: status, headers, body."""
    context = ssl.create_default_context(cafile=str(scene.ca))
    plain = socket.create_connection((scene.address(), 443), timeout=10)
    connection = http.client.HTTPSConnection(DOMAIN, context=context)
    connection.sock = context.wrap_socket(plain, server_hostname=DOMAIN)
    headers = {"Cookie": cookies, "Referer": f"https://{DOMAIN}{path}"}
    if form is None:
        connection.request("GET", path, headers=headers)
    else:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection.request("POST", path, body=urlencode(form), headers=headers)
    answer = connection.getresponse()
    body = answer.read().decode(errors="replace")
    connection.close()
    return answer.status, answer.headers, body


def on_the_host(scene: Scene, path: str) -> str:
    """The body of an answer that the host itself gets, whose address is declared."""
    program = (
        "import http.client, ssl, sys\n"
        "asked = http.client.HTTPSConnection('127.0.0.1', context=ssl._create_unverified_context())\n"
        f"asked.request('GET', sys.argv[1], headers={{'Host': '{DOMAIN}'}})\n"
        "print(asked.getresponse().read().decode())\n"
    )
    return scene.lab.ssh("app1", f"python3 -c {shlex.quote(program)} {path}").stdout


def cookies_of(headers: http.client.HTTPMessage) -> str:
    return "; ".join(value.split(";")[0] for value in headers.get_all("Set-Cookie") or [])


def typed(scene: Scene, command: str, answers: Mapping[str, str], seconds: float = 60.0) -> str:
    """Run a command on the host in a terminal, as a person would, and type an answer at each prompt."""
    leader, follower = pty.openpty()
    ssh = scene.lab.ssh_command("app1", command)
    process = subprocess.Popen([*ssh[:1], "-tt", *ssh[1:]], stdin=follower, stdout=follower, stderr=follower)
    os.close(follower)
    shown, waiting = "", dict(answers)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if select.select([leader], [], [], 0.2)[0]:
            try:
                read = os.read(leader, 4096).decode(errors="replace")
            except OSError:  # the other end is closed
                break
            if not read:
                break
            shown += read
            prompt = next((prompt for prompt in waiting if shown.rstrip().endswith(prompt)), None)
            if prompt is not None:
                os.write(leader, f"{waiting.pop(prompt)}\n".encode())
        elif process.poll() is not None:
            break
    os.close(leader)
    assert process.wait(timeout=10) == 0, shown
    return shown


# looking


def test_status_says_what_is_live_since_when_by_whom_from_which_commit_and_what_failed(standing: Scene) -> None:
    done = standing.backstay("release", "--json", "--again", "--by", "ada", "--why", "'ticket 7'", APPLICATION)
    status = standing.status()
    live = status["live"]
    assert live["id"] == done["release"] == status["releases"][-1]["id"]
    assert (live["by"], live["why"]) == ("ada", "ticket 7")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", live["since"])
    assert re.fullmatch(r"[0-9a-f]{40}", live["commit"])
    assert status["rollback_target"] == done["previous"] == status["warm"]["id"]
    refused = standing.release("1.3.0", check=False, why="it cannot live")
    assert not refused.ok
    history = standing.backstay("history", "--json", APPLICATION)
    failed = history["last_failed"]
    assert (failed["version"], failed["state"], failed["why"]) == ("1.3.0", "failed", "it cannot live")
    assert "died while it was starting" in failed["reason"]
    text = standing.backstay("status", APPLICATION, check=False)
    for said in (live["id"], "by ada", live["commit"][:10], failed["id"]):
        assert said in text, text
    assert standing.status()["live"] == live


def test_a_ledger_that_was_changed_is_told_from_a_sound_one(standing: Scene) -> None:
    sound = standing.backstay("history", "--verify", "--json", APPLICATION)
    assert sound["ledger"] == "sound", sound
    copy = f"cp -p {LEDGER} /root/ledger.jsonl"
    changed = f'sed -i \'1s/"by":"./"by":"X/\' {LEDGER}'
    shorter = f"sed -i '$d' {LEDGER} && sed -i '$d' {LEDGER}"
    restore = f"cp -p /root/ledger.jsonl {LEDGER}"
    standing.lab.ssh("app1", copy)
    for harm, expected in ((changed, "was changed after it was written"), (shorter, "it was truncated")):
        try:
            standing.lab.ssh("app1", harm)
            told = standing.lab.ssh("app1", f"backstay history --verify --json {APPLICATION}", check=False)
        finally:
            standing.lab.ssh("app1", restore)
        verdict = json.loads(told.stdout)
        assert verdict["ledger"] == "tampered", verdict
        assert expected in verdict["message"]
        assert told.returncode != 0
    assert standing.backstay("history", "--verify", "--json", APPLICATION) == sound


def test_logs_are_in_the_journal_and_in_files(standing: Scene) -> None:
    live = standing.live()
    page = f"/no-such-page-{time.monotonic_ns()}/"
    status, headers, _ = ask(standing, page)
    assert status == 404
    lines = standing.backstay("logs", "--lines", "200", "--process", "web", APPLICATION)
    told = next(line for line in lines.splitlines() if page in line)
    assert f'"release_id": "{live}"' in told
    worker = standing.backstay("logs", "--lines", "50", "--process", "worker", APPLICATION)
    assert "worker started" in worker
    assert "Booting worker" not in worker, "lines of another process"
    files = standing.lab.ssh(
        "app1", f"stat -c '%U:%G %a' /var/log/{APPLICATION}; tail -n 50 /var/log/{APPLICATION}/*.log"
    )
    assert files.stdout.startswith(f"{APPLICATION}:adm 2750"), files.stdout[:200]
    assert page in files.stdout, files.stdout[-2000:]
    assert "gunicorn.log" in files.stdout
    front = standing.lab.ssh("app1", f"grep {headers['X-Request-Id']} /var/log/nginx/{APPLICATION}.access.log").stdout
    entry = json.loads(front)
    assert (entry["status"], entry["release"]) == (404, live)


def test_the_log_level_reaches_the_processes_with_the_next_release(standing: Scene) -> None:
    try:
        standing.declare(log_level="warning")
        standing.release(why="fewer lines")
        live = standing.settled()["live"]["id"]
        environment = standing.lab.ssh("app1", f"cat /etc/backstay/{APPLICATION}/releases/{live}/environment").stdout
        assert 'BACKSTAY_LOG_LEVEL="warning"' in environment.splitlines(), "the release's environment is another"
        unit = f"{APPLICATION}-{live}-web.service"
        given = f"tr '\\0' '\\n' < /proc/$(systemctl show -p MainPID --value {unit})/environ"
        assert "BACKSTAY_LOG_LEVEL=warning" in standing.lab.ssh("app1", given).stdout.splitlines()
        told = standing.lab.ssh("app1", f"journalctl --no-pager -o cat -u {unit}").stdout
        assert "Booting worker" not in told, "gunicorn says that at the level info"
    finally:
        standing.declare()
        standing.release(why="as many lines as before")


# doing


def test_the_first_administrator_is_made_on_the_host_and_logs_in_over_https(standing: Scene) -> None:
    name = f"chief{time.monotonic_ns()}"
    shown = typed(
        standing,
        f"backstay run -a {APPLICATION} python manage.py createsuperuser --username {name} --email chief@lab.test",
        {"Password:": PASSWORD, "Password (again):": PASSWORD},
    )
    assert "Superuser created successfully." in shown
    assert PASSWORD not in shown
    login = "/admin/login/?next=/admin/"
    status, headers, page = ask(standing, login)
    assert status == 200
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    assert token is not None
    form = {"csrfmiddlewaretoken": token[1], "username": name, "password": PASSWORD, "next": "/admin/"}
    status, headers, page = ask(standing, login, form=form, cookies=cookies_of(headers))
    assert (status, headers["Location"]) == (302, "/admin/"), page[:500]
    status, _, page = ask(standing, "/admin/", cookies=cookies_of(headers))
    assert status == 200
    assert "Site administration" in page


def test_a_command_gets_its_input_its_exit_code_and_no_more_rights_than_the_application(standing: Scene) -> None:
    run = f"backstay run -a {APPLICATION}"
    said = standing.lab.ssh("app1", f"echo 'through the pipe' | {run} cat").stdout
    assert said == "through the pipe\n"
    assert standing.lab.ssh("app1", f"{run} sh -c 'exit 7'", check=False).returncode == 7
    user = standing.lab.ssh("app1", f"{run} sh -c 'id -un; echo $BACKSTAY_RELEASE_ID'").stdout.split()
    assert user == [APPLICATION, standing.live()]
    for forbidden in ("cat /etc/backstay/*/secrets.json", f"ls {STATE}", f"touch /opt/{APPLICATION}/x", "ls /root"):
        tried = standing.lab.ssh("app1", f"{run} sh -c {shlex.quote(forbidden)}", check=False)
        assert tried.returncode != 0, f"the application may {forbidden}: {tried.stdout[:100]}"


def test_maintenance_closes_the_door_to_visitors_and_opens_it_again(standing: Scene) -> None:
    standing.play("maintenance", state="on")
    try:
        for path in ("/", "/admin/login/", "/healthz/"):
            status, headers, page = ask(standing, path)
            assert status == 503, f"{path} answered {status}"
            assert int(headers["Retry-After"]) > 0
            assert "We will be right back" in page
        assert json.loads(on_the_host(standing, "/healthz/"))["status"] == "pass"
        assert standing.status()["maintenance"]
        again = standing.backstay("maintenance", "on", APPLICATION, "--json")
        assert not again["changed"]
    finally:
        standing.play("maintenance", state="off")
    status, headers, _ = ask(standing, "/")
    assert (status, headers["X-Release-Id"]) == (200, standing.live())
    assert not standing.status()["maintenance"]


def test_what_is_measured_is_told_to_declared_addresses_only(standing: Scene) -> None:
    status, _, body = ask(standing, "/metrics")
    assert status == 403
    assert "portal_audits" not in body
    status, _, body = ask(standing, "/healthz/")
    assert (status, sorted(json.loads(body))) == (200, ["releaseId", "status"])
    assert "portal_audits 10000" in on_the_host(standing, "/metrics")
    assert {"database", "migrations", "media:writable"} <= set(json.loads(on_the_host(standing, "/healthz/"))["checks"])


def test_a_singleton_never_runs_twice(standing: Scene) -> None:
    standing.backstay("release", "--json", "--again", APPLICATION)
    standing.backstay("rollback", "--json", APPLICATION)
    time.sleep(2.0)  # its last run writes down that it was there
    query = "from audits.models import SchedulerTick\n"
    query += "for row in SchedulerTick.objects.order_by('started', 'id'):\n"
    query += "    print(row.release_id, row.started.timestamp(), row.last_seen.timestamp(), row.ticks)\n"
    done = standing.lab.ssh(
        "app1", f"echo {shlex.quote(query)} | backstay run -a {APPLICATION} python manage.py shell -v 0"
    )
    rows = [(row[0], float(row[1]), float(row[2])) for row in map(str.split, done.stdout.splitlines())]
    assert len({release for release, _, _ in rows}) >= 2, rows
    overlaps = [(one, two) for one, two in pairwise(rows) if two[1] < one[2]]
    assert overlaps == []
    assert rows[-1][0] == standing.live(), "the live release's scheduler runs"


# health


def test_health_answers_for_each_check_on_the_host_and_from_here(standing: Scene) -> None:
    played = standing.play("health", from_here=True, ca_file=str(standing.ca), address=standing.address())
    lines = [line.strip().removeprefix("app1: ") for line in played.output.splitlines()]
    for name in (
        "release: health",
        "front door: health",
        "front door: a static file",
        "certificate",
        "health",
        "portal",
    ):
        assert any(line.startswith("ok") and f" {name} " in line for line in lines), played.output


def test_the_portals_own_smoke_tests_read_what_was_deployed(standing: Scene) -> None:
    live = standing.status()["live"]
    front_door = ["--base", f"https://{DOMAIN}", "--connect", standing.address(), "--ca", str(standing.ca)]
    done = subprocess.run(
        [sys.executable, "-m", "smoke", *front_door, "--release-id", live["id"], "--version", live["version"]],
        cwd=CHECKOUT / "examples" / "audit_portal",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert answer["release_ids"] == [live["id"]]
    assert {check["name"] for check in answer["checks"] if check["status"] == "pass"} >= {"portal", "audit", "static"}


def test_a_sick_target_fails_with_a_sentence_for_each_check(standing: Scene, tmp_path: Path) -> None:
    checks = [
        {"type": "tcp", "host": "127.0.0.1", "port": 1, "name": "nobody listens"},
        {"type": "unit", "unit": "no-such-thing.service"},
        {"type": "http", "url": f"https://{DOMAIN}/there-is-no-such-page/", "address": "127.0.0.1", "verify": False},
        {"type": "disk", "path": "/", "free_bytes": 1},
    ]
    task = {"name": "Ask", "backstay.ops.health_check": {"checks": checks, "deadline_seconds": 1}}
    play = [{"name": "Ask", "hosts": "app1", "gather_facts": False, "tasks": [task]}]
    file = tmp_path / "ask.yml"
    file.write_text(yaml.safe_dump(play), encoding="utf-8")
    played = standing.play(str(file), check=False)
    assert not played.ok
    said = " ".join(played.output.split())
    for reason in ("nobody listens", "refused", "no-such-thing.service", "404"):
        assert reason in said, played.output


# secrets


def secret_of() -> str:
    """The application's secret as Vault keeps it."""
    vault = CHECKOUT / "inventories" / "example" / "group_vars" / "app_servers" / "vault.yml"
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-vault")), "view", str(vault)],
        cwd=CHECKOUT,
        env={**os.environ, "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=True,
    )
    return str(yaml.safe_load(done.stdout)["backstay_secrets"][APPLICATION]["SECRET_KEY"])


@contextmanager
def watched_by_another_user(scene: Scene) -> Iterator[None]:
    """While this lasts, a user without rights keeps looking at processes and units; what it saw is in /run/watched."""
    look = (
        "while sleep 0.3; do ps -eo user,args; cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n';"
        f" systemctl show '{APPLICATION}-*' 'backstay-*' --no-pager; done"
    )
    scene.lab.ssh(
        "app1",
        "systemd-run --quiet --unit=watcher --property=User=nobody"
        f" --property=StandardOutput=file:/run/watched sh -c {shlex.quote(look)}",
    )
    try:
        yield
    finally:
        scene.lab.ssh("app1", "systemctl stop watcher")


def found_on_the_host(scene: Scene, secret: str, command: str) -> str:
    """What a search for the secret prints; the secret goes through standard input."""
    done = subprocess.run(
        scene.lab.ssh_command("app1", command), input=secret, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode in (0, 1), f"{command} did not search: {done.stderr}"
    return done.stdout.replace(secret, "[the secret]")


def test_a_secret_is_seen_nowhere(standing: Scene) -> None:
    secret = secret_of()
    with watched_by_another_user(standing):
        outputs = [
            standing.play("site", "--diff", "-vvv").output,
            standing.play("release", "--diff", "-vvv", again=True, why="nobody may see it").output,
            json.dumps(standing.status()),
            json.dumps(standing.backstay("history", "--json", APPLICATION)),
        ]
    for output in outputs:
        assert secret not in output, f"it is in an output of {len(output)} bytes"
        assert "PRIVATE KEY" not in output
    assert "module_args" in outputs[0], "nothing was shown that could have held it"
    assert "gunicorn" in standing.lab.ssh("app1", "cat /run/watched").stdout, "the watcher saw nothing"
    # It is where it belongs, so the search does find it.
    assert found_on_the_host(standing, secret, "grep -rlF -f - /etc/backstay") != ""
    unprivileged = "setpriv --reuid=nobody --regid=nogroup --clear-groups"
    readable = "/etc /opt /run /var /usr/lib/backstay /usr/lib/systemd /tmp /home"
    for searched in (
        "grep -cF -f - /run/watched | grep -v '^0$'",
        f"grep -rlF -f - {STATE} /var/log",
        "{ cat > /run/pattern; journalctl --no-pager -o verbose | grep -F -f /run/pattern; rm /run/pattern; } || :",
        "{ cat > /run/pattern; systemctl show '*' | grep -F -f /run/pattern; rm /run/pattern; } || :",
        f"{unprivileged} grep -rlsF -f - --exclude-dir=proc {readable} || :",
    ):
        assert found_on_the_host(standing, secret, searched) == "", f"found by: {searched}"


def test_who_is_not_root_is_told_so_in_one_sentence(standing: Scene) -> None:
    unprivileged = "setpriv --reuid=nobody --regid=nogroup --clear-groups"
    for verb in ("status", "rollback", "backups", "health"):
        told = standing.lab.ssh("app1", f"{unprivileged} backstay {verb} 2>&1 || :").stdout
        assert "run it with sudo" in told, told
        assert "Traceback" not in told, told


@pytest.fixture
def ada(standing: Scene) -> Iterator[str]:
    """Whom a provider's image lets in: a user with a key, and sudo without a password; root's key is of no use."""
    key = (standing.directory / "ssh" / "id_ed25519.pub").read_text().strip()
    arrive = (
        "useradd --create-home --shell /bin/bash ada; install -d -o ada -g ada -m 0700 ~ada/.ssh; "
        f"echo {shlex.quote(key)} > ~ada/.ssh/authorized_keys; "
        "echo 'ada ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/ada"
    )
    for host in ("app1", "build1"):
        standing.lab.ssh(host, arrive)
    yield "ada"
    for host in ("app1", "build1"):
        standing.lab.ssh(host, "rm /etc/sudoers.d/ada; pkill --uid ada; userdel --force --remove ada 2>&1", check=False)


def test_who_comes_with_sudo_can_do_what_root_can(standing: Scene, ada: str, tmp_path: Path) -> None:
    again = standing.play("site", ansible_user=ada).output
    assert [line.split()[2] for line in again.splitlines() if line.startswith(("app1 ", "build1 "))] == ["0", "0"], (
        again
    )
    version = standing.status()["live"]["version"]
    mine: dict[str, Any] = {"ansible_user": ada, "backstay_artifacts": str(tmp_path)}
    standing.play("build", version=version, rebuild=True, **mine)
    before = standing.live()
    standing.release(version, again=True, why="by ada", **mine)
    assert standing.live() != before
    standing.rollback(ansible_user=ada)
    assert standing.live() == before
    left = standing.lab.ssh("app1", "find ~ada/.ansible /tmp /var/tmp -user ada -type f 2>/dev/null || :").stdout
    assert left == "", "what was sent stays nowhere"
