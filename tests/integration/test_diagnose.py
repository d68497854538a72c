"""Known causes, made on a real host: `backstay diagnose` names each, and blames what makes the others happen.

Several faults at a time, as real nights have them, and because each look takes seconds. Its archive holds what a ticket
needs and no secret.
"""

from __future__ import annotations

import json
import shlex
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from backstay_lab.scene import APPLICATION, Scene
from test_operating import secret_of

HOME = f"/opt/{APPLICATION}"
STATE = f"/var/lib/backstay/{APPLICATION}"
SECRETS = f"/etc/backstay/{APPLICATION}/secrets.json"
BUNDLE = f"/etc/backstay-tls/{APPLICATION}/bundle.pem"
DATABASE = f"{HOME}/data/db/portal.sqlite3"
REPOSITORY = f"/srv/backup/{APPLICATION}"
BROKEN = "/etc/nginx/conf.d/zz-broken.conf"
LOGS = f"/var/log/{APPLICATION}"
# What a busy machine and the tests before may add to any host; they come after what is wrong now.
NOISE = {"load", "memory_short", "slow", "backup", "errors", "release", "health", "restarts"}
SECONDS = 6  # how far around now the logs are read: the tests before left theirs


def diagnosed(scene: Scene) -> dict[str, Any]:
    return dict(scene.backstay("diagnose", "--json", f"--minutes={SECONDS / 60}", APPLICATION))


def keys(found: dict[str, Any]) -> list[str]:
    return [cause["key"] for cause in found["causes"]]


def evidence(found: dict[str, Any], key: str) -> str:
    return "\n".join(next(cause for cause in found["causes"] if cause["key"] == key)["evidence"])


def telling(found: dict[str, Any]) -> str:
    return json.dumps({name: found[name] for name in ("causes", "facts")}, indent=1)[:6000]


@contextmanager
def harmed(scene: Scene, *harms: tuple[str, str]) -> Iterator[None]:
    """Each harm is a shell command, and the one that heals it; healing is done in reverse, whatever happens."""
    with ExitStack() as healing:
        for harm, heal in harms:
            healing.callback(scene.lab.ssh, "app1", heal, check=False)
            scene.lab.ssh("app1", f"set -e; {harm}")
        yield


def blamed(found: dict[str, Any], first: str, *others: str) -> None:
    names = keys(found)
    assert names, telling(found)
    assert names[0] == first, telling(found)
    assert not set(others) - set(names), telling(found)
    screen = found["summary"]
    assert len(screen) <= 24
    assert any(line.startswith("likely cause:") for line in screen), screen


def unit_of(scene: Scene, process: str) -> str:
    return f"{APPLICATION}-{scene.live()}-{process}.service"


def as_the_application(program: str) -> str:
    return f"runuser -u {APPLICATION} -- python3 -c {shlex.quote(program)}"


def test_a_host_that_is_well_is_not_blamed(standing: Scene) -> None:
    found = diagnosed(standing)
    assert not set(keys(found)) - NOISE - {"repository_unreachable"}, telling(found)
    assert "visitors are served" in found["summary"][0]
    assert found["facts"]["unseen"] == [], found["facts"]["unseen"]
    assert found["facts"]["live"] == standing.live()


def test_the_front_door_the_certificate_the_configuration_and_the_backups(standing: Scene) -> None:
    days = "-not_before 20240101000000Z -not_after 20240301000000Z"
    expired = (
        f"cp -p {BUNDLE} /root/bundle.pem; openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=portal.lab.test "
        f"-addext subjectAltName=DNS:portal.lab.test {days} -keyout /root/key.pem -out /root/crt.pem 2>/dev/null; "
        f"cat /root/crt.pem /root/key.pem > {BUNDLE}"
    )
    without = f"import json; p={SECRETS!r}; d=json.load(open(p)); d['values'].clear(); json.dump(d, open(p, 'w'))"
    newest = f"ls -t {STATE}/journal.d/*.jsonl | head -n 1"
    with harmed(
        standing,
        (f"echo 'wrong_directive on;' > {BROKEN}", f"rm -f {BROKEN}"),
        (expired, f"cat /root/bundle.pem > {BUNDLE}; rm -f /root/bundle.pem /root/key.pem /root/crt.pem"),
        (f"cp -p {SECRETS} /root/secrets.json; python3 -c {shlex.quote(without)}", f"mv /root/secrets.json {SECRETS}"),
        (
            f"install -m 0600 /dev/null {HOME}/data/media/planted.jpg",
            f"rm -f {HOME}/data/media/planted.jpg",
        ),
        (f"cp $({newest}) {STATE}/journal.jsonl", f"rm -f {STATE}/journal.jsonl"),
        (
            f"mkdir -p /srv/backup; [ ! -e {REPOSITORY} ] || mv {REPOSITORY} {REPOSITORY}.away; touch {REPOSITORY}",
            f"rm -f {REPOSITORY}; [ ! -e {REPOSITORY}.away ] || mv {REPOSITORY}.away {REPOSITORY}",
        ),
    ):
        found = diagnosed(standing)
    blamed(
        found,
        "nginx_configuration",
        "certificate_expired",
        "transaction_unfinished",
        "permissions",
        "secret_missing",
        "repository_unreachable",
    )
    assert "wrong_directive" in evidence(found, "nginx_configuration")
    assert "2024-03-01" in evidence(found, "certificate_expired")
    assert "planted.jpg is root:" in evidence(found, "permissions")
    assert "SECRET_KEY" in evidence(found, "secret_missing")
    assert "release of" in evidence(found, "transaction_unfinished")


def test_nginx_stopped_the_web_process_hung_and_a_migration_missing(standing: Scene) -> None:
    web = unit_of(standing, "web")
    rows = "SELECT app, name, applied FROM django_migrations WHERE app = 'audits' ORDER BY id DESC LIMIT 1"
    take = (
        f"import json, sqlite3; c = sqlite3.connect({DATABASE!r}, timeout=20); r = c.execute({rows!r}).fetchone(); "
        "json.dump(r, open('/tmp/migration.json', 'w')); "
        "c.execute('DELETE FROM django_migrations WHERE app = ? AND name = ?', r[:2]); c.commit()"
    )
    give = (
        f"import json, sqlite3; c = sqlite3.connect({DATABASE!r}, timeout=20); "
        "r = json.load(open('/tmp/migration.json')); "
        "c.execute('INSERT INTO django_migrations (app, name, applied) VALUES (?, ?, ?)', r); c.commit()"
    )
    with harmed(
        standing,
        (as_the_application(take), f"{as_the_application(give)}; rm -f /tmp/migration.json"),
        ("systemctl stop nginx", "systemctl start nginx"),
        (f"systemctl kill --signal=STOP {web}", f"systemctl kill --signal=CONT {web}"),
    ):
        found = diagnosed(standing)
    blamed(found, "nginx_down", "web_hung", "migrations_pending")
    assert "audits." in evidence(found, "migrations_pending")
    assert "no answer" in evidence(found, "web_hung")
    assert "visitors get no answer" in found["summary"][0]


def test_a_full_disk_is_blamed_for_a_web_process_that_died(standing: Scene) -> None:
    web = unit_of(standing, "web")
    with harmed(
        standing,
        (
            f"mount -t tmpfs -o size=4m none {LOGS}; dd if=/dev/zero of={LOGS}/large bs=64k 2>/dev/null || :",
            f"umount {LOGS}",
        ),
        (f"systemctl stop {web}", f"systemctl start {web}"),
    ):
        found = diagnosed(standing)
        there = standing.lab.ssh("app1", f"stat -c %a:%U {found['archive']}").stdout.strip()
    assert there == "600:root"
    blamed(found, "disk_full", "web_dead")
    assert LOGS in evidence(found, "disk_full")
    assert "the front door answers 502" in found["summary"][0]


def test_inodes_used_up_and_the_database_gone(standing: Scene) -> None:
    media = f"{HOME}/data/media"
    units = " ".join(unit_of(standing, process) for process in ("web", "worker", "scheduler"))
    with harmed(
        standing,
        # Whoever writes to the database ends first: it must be whole when it comes back.
        (f"systemctl stop {units}", f"backstay recover {APPLICATION}"),
        (
            f"mkdir /root/db; mv {DATABASE}* /root/db/",
            f"rm -f {DATABASE}*; mv /root/db/* {HOME}/data/db/; rmdir /root/db",
        ),
        (
            f"mount -t tmpfs -o size=8m,nr_inodes=32 none {media}; cd {media}; touch $(seq 40) || :",
            f"umount {media}",
        ),
    ):
        found = diagnosed(standing)
    blamed(found, "inodes_full", "database_missing", "web_dead", "worker_dead")
    assert "/media: 0 of 32 inodes and" in evidence(found, "inodes_full")
    assert standing.settled()["verdict"] is not None


def test_a_database_that_is_held_locked_and_a_door_that_is_closed(standing: Scene) -> None:
    hold = f"import sqlite3, time; c = sqlite3.connect({DATABASE!r}); c.execute('BEGIN IMMEDIATE'); time.sleep(120)"
    start = f"systemd-run --quiet --unit=holder --property=User={APPLICATION} python3 -c {shlex.quote(hold)}; sleep 0.5"
    with harmed(
        standing,
        (f"backstay maintenance on {APPLICATION}", f"backstay maintenance off {APPLICATION}"),
        (start, "systemctl stop holder"),
    ):
        pid = standing.lab.ssh("app1", "systemctl show -P MainPID holder").stdout.strip()
        found = diagnosed(standing)
    blamed(found, "maintenance", "database_locked")
    assert f"process {pid} (" in evidence(found, "database_locked")
    locked = next(cause for cause in found["causes"] if cause["key"] == "database_locked")
    assert locked["command"] == f"ps -o pid,user,etime,args -p {pid}"
    assert "visitors get 503" in found["summary"][0]


def test_a_worker_of_the_web_process_that_was_killed_and_a_process_that_is_gone(standing: Scene) -> None:
    web, scheduler = unit_of(standing, "web"), unit_of(standing, "scheduler")
    kill = f"kill -KILL $(pgrep -P $(systemctl show -P MainPID {web}) | tail -n 1); sleep 1.5"
    with harmed(standing, (f"systemctl stop {scheduler}", f"systemctl start {scheduler}"), (kill, ":")):
        found = diagnosed(standing)
    blamed(found, "memory_kill", "worker_dead")
    assert "Perhaps out of memory?" in evidence(found, "memory_kill")
    assert scheduler in evidence(found, "worker_dead")


def members(archive: Path) -> dict[str, str]:
    found = {}
    with tarfile.open(archive) as packed:
        for entry in packed.getmembers():
            file = packed.extractfile(entry)
            assert file is not None, entry.name
            found[entry.name.partition("/")[2]] = file.read().decode()
    return found


def whole(names: Sequence[str]) -> set[str]:
    return {"summary.txt", "facts.json", "causes.json", "health.json", "status.json", "ledger.jsonl"} - set(names)


def test_the_playbook_brings_the_archive_and_no_secret(standing: Scene, tmp_path: Path) -> None:
    secret = secret_of()
    # Somebody's carelessness: the application's log holds it, and a password nobody declared.
    careless = f'echo "SECRET_KEY is $SECRET_KEY and postgres://u:Pl4nted-by-test@db/x" >> {LOGS}/careless.log'
    standing.lab.ssh("app1", f"backstay run -a {APPLICATION} sh -c {shlex.quote(careless)}")
    assert standing.lab.ssh("app1", f"grep -c Pl4nted-by-test {LOGS}/careless.log").stdout.strip() == "1"
    try:
        played = standing.play("diagnose", to=str(tmp_path / "here"), app=APPLICATION)
    finally:
        standing.lab.ssh("app1", f"rm -f {LOGS}/careless.log")
    (archive,) = (tmp_path / "here").iterdir()
    assert archive.stat().st_mode & 0o777 == 0o600
    assert archive.parent.stat().st_mode & 0o777 == 0o700
    files = members(archive)
    assert whole(list(files)) == set(), sorted(files)
    assert "is [secret]" in files["application/careless.log"], files["application/careless.log"]
    holding = [
        name for name, text in files.items() if secret in text or "Pl4nted-by-test" in text or "PRIVATE KEY-" in text
    ]
    assert holding == []
    for name in ("units/status.txt", "machine/disks.txt", "configuration/live.json", "journal/application.log"):
        assert len(files[name]) > 100, f"{name}: {files[name]!r}"
    assert APPLICATION in played.output
    assert secret not in played.output
