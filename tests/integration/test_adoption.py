"""A server that somebody uses already: nothing of theirs is overwritten silently, and a refusal changes nothing."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest
from backstay_lab.scene import APPLICATION, DOMAIN, Played, Scene

HOME = f"/opt/{APPLICATION}"
ON_IT = ("--limit", "app1,localhost")  # it has no build host
KEEP = {"app_adopt": "keep", "nginx_adopt": "keep"}

OWN_SITE = """\
server {
    listen 80;
    server_name own.lab.test;
    location / { default_type text/plain; return 200 "the administrator's own site"; }
}
"""
EDITED_DEFAULT = """\
server {
    listen 80 default_server;
    location / { default_type text/plain; return 200 "an edited default site"; }
}
"""
# Everything that a run of site.yml may touch: paths, owners, modes, contents; not nginx's own pid and logs.
STATE = (
    "for d in /etc /opt /usr/bin /usr/lib/backstay /var/lib/backstay /var/www /var/log; do"
    " [ -e $d ] && find $d -xdev -printf '%p %u:%g %m %l\\n'; done | grep -v /var/log/ | sort;"
    " find /etc /opt /var/lib/backstay -xdev -type f -exec sha256sum {} + 2>/dev/null | sort;"
    " dpkg-query --show | sha256sum"
)


@pytest.fixture(scope="module")
def used(scene: Scene) -> Iterator[Scene]:
    """A host in a lab of its own, where an administrator runs nginx with two sites and keeps files in /opt."""
    stage = Scene(f"{scene.name}-adoption", print)
    stage.remove()
    stage.prepare(("app1",), image="prepared")  # nginx is installed there, by nobody we know
    put(stage, "/etc/nginx/sites-available/own.conf", OWN_SITE)
    put(stage, "/etc/nginx/sites-available/default", EDITED_DEFAULT)
    put(stage, f"{HOME}/notes.txt", "do not lose me\n")
    put(stage, f"{HOME}/shared/upload.bin", "an upload\n")
    stage.lab.ssh(
        "app1",
        "ln -s ../sites-available/own.conf /etc/nginx/sites-enabled/own.conf && nginx -t -q && systemctl restart nginx",
    )
    assert answers(stage) == {"own": "the administrator's own site", "other": "an edited default site"}
    yield stage
    stage.remove()


def put(scene: Scene, path: str, content: str) -> None:
    scene.lab.ssh("app1", f"mkdir -p $(dirname {path}) && printf %s {shlex.quote(content)} > {path}")


def answers(scene: Scene) -> dict[str, str]:
    """What a visitor gets from the administrator's two sites."""
    asked = "curl -s --max-time 5 -H 'Host: {}' http://127.0.0.1/"
    return {
        name: scene.lab.ssh("app1", asked.format(host), check=False).stdout
        for name, host in (("own", "own.lab.test"), ("other", "whoever.lab.test"))
    }


def state(scene: Scene) -> list[str]:
    return scene.lab.ssh("app1", STATE).stdout.splitlines()


def refused(scene: Scene, **adopt: str) -> str:
    """Run site.yml, which must refuse and must have changed nothing; what it said, its line breaks folded."""
    before, served = state(scene), answers(scene)
    played: Played = scene.play("site", *ON_IT, check=False, **adopt)
    assert not played.ok, played.output
    after = state(scene)
    assert sorted(set(after) ^ set(before)) == [], played.output
    assert answers(scene) == served
    return " ".join(played.output.split())


def test_an_application_directory_of_somebody_else_is_refused(used: Scene) -> None:
    assert f"{HOME} exists and was not made by backstay: move it away, or say adopt=keep" in refused(used)


def test_files_where_backstay_removes_what_is_old_are_never_taken_in(used: Scene) -> None:
    put(used, f"{HOME}/static/theirs.css", "body {}\n")
    try:
        assert f"{HOME}/static hold somebody's files" in refused(used, **KEEP)
    finally:
        used.lab.ssh("app1", f"rm -r {HOME}/static")


def test_an_edited_default_site_is_refused(used: Scene) -> None:
    said = refused(used, app_adopt="keep")
    assert "/etc/nginx/sites-enabled/default exists and was not written by Backstay." in said
    assert "adopt=keep" in said


def test_a_name_that_another_site_claims_is_refused_even_where_all_is_adopted(used: Scene) -> None:
    put(used, "/etc/nginx/conf.d/theirs.conf", OWN_SITE.replace("own.lab.test", DOMAIN))
    try:
        assert f"The name {DOMAIN} is already claimed by /etc/nginx/conf.d/theirs.conf" in refused(used, **KEEP)
    finally:
        used.lab.ssh("app1", "rm /etc/nginx/conf.d/theirs.conf")


def test_a_port_that_another_program_holds_is_refused_by_the_name_of_the_program(used: Scene) -> None:
    used.lab.ssh("app1", "systemd-run --quiet --unit=theirs python3 -m http.server --directory /srv 443")
    try:
        said = refused(used, **KEEP)
        assert "Port 443 is taken by python3, where nginx is to listen: stop python3" in said
    finally:
        used.lab.ssh("app1", "systemctl stop theirs")


def test_another_operating_system_is_refused(used: Scene) -> None:
    fake = 'ID=ubuntu\\nVERSION_ID="24.04"\\nPRETTY_NAME="Ubuntu 24.04 LTS"\\n'
    used.lab.ssh("app1", f"printf '{fake}' > /run/os-release && mount --bind /run/os-release /usr/lib/os-release")
    try:
        assert "The host runs Ubuntu 24.04 LTS; Backstay supports Debian 12 and Debian 13" in refused(used, **KEEP)
    finally:
        used.lab.ssh("app1", "umount /usr/lib/os-release")


def test_what_is_adopted_is_kept_in_a_copy_and_the_rest_stays(used: Scene) -> None:
    check = used.play("site", *ON_IT, "--check", "--diff", **KEEP)
    assert "/etc/nginx/sites-enabled/default" in check.output
    assert answers(used)["other"] == "an edited default site", "check mode changed something"
    used.play("site", *ON_IT, **KEEP)
    assert answers(used) == {"own": "the administrator's own site", "other": ""}
    read = used.lab.ssh("app1", f"cat {HOME}/notes.txt {HOME}/shared/upload.bin /etc/nginx/sites-available/default")
    assert read.stdout == f"do not lose me\nan upload\n{EDITED_DEFAULT}"
    copies = used.lab.ssh("app1", "ls -R /var/lib/backstay/replaced").stdout
    assert "default" in copies, copies
    again = used.play("site", *ON_IT)
    assert "changed app1" not in again.output, "a host that was adopted is ours: " + again.output
