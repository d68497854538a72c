"""The module as Ansible runs it: a real play on this machine, its results and its words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]

PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - name: All is well
      backstay.ops.health_check:
        consecutive: 3
        interval_seconds: 0.01
        deadline_seconds: 30
        checks:
          - {type: http, name: site, url: "{{ site }}/", status: 200, contains: hello, json_equals: {up: true}}
          - type: command
            argv: [sh, -c, 'test "$PASSWORD" = swordfish && echo $PASSWORD']
            contains: swordfish
            secret_environment: {PASSWORD: swordfish}
          - {type: disk, path: "{{ playbook_dir }}", free_bytes: 1}
      register: well
      check_mode: true
    - name: Something is not
      backstay.ops.health_check:
        checks:
          - type: http
            name: site
            url: "{{ site }}/"
            secret_headers: {Authorization: Bearer marlin}
            release_id: 0008-1.2.0
          - {type: http, name: gone, socket: "{{ playbook_dir }}/web.sock"}
          - {type: process, process: bash, count_min: 0}
      register: unwell
      ignore_errors: true
    - name: A key of another type
      backstay.ops.health_check:
        checks:
          - {type: disk, name: root, free_bytes: 1, url: "http://x/"}
      register: wrong
      ignore_errors: true
    - name: Ask for what an application's file says
      backstay.ops.health_check:
        checks: "{{ portal | backstay.ops.health_checks }}"
      register: application
      ignore_errors: true
    - name: Keep the results
      ansible.builtin.copy:
        content: "{{ {'well': well, 'unwell': unwell, 'wrong': wrong, 'application': application} | to_json }}"
        dest: "{{ playbook_dir }}/results.json"
        mode: "0600"
"""

PORTAL = {
    "format": 1,
    "name": "no-such-portal",
    "domain": "no-such-portal.invalid",
    "source": {"repository": "x.git"},
    "runtime": {"type": "django", "settings": "portal.settings", "wsgi": "portal.wsgi:application"},
    "processes": {"web": {}},
    "smoke": [{"name": "start", "path": "/"}],
}


class Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Release-Id", "0007-1.1.0")
        self.end_headers()
        self.wfile.write(b'{"up": true, "text": "hello"}')

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name it has in the standard library
        """Say nothing."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The results of the play by task, and all that it printed at the highest useful verbosity."""
    folder = tmp_path_factory.mktemp("play")
    server = HTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    (folder / "play.yml").write_text(PLAY)
    (folder / "ansible.cfg").write_text("[connection]\npipelining = true\n")
    variables = {
        "site": f"http://127.0.0.1:{server.server_port}",
        "portal": PORTAL,
        "ansible_python_interpreter": sys.executable,
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    done = subprocess.run(
        [
            *[str(Path(sys.executable).with_name("ansible-playbook")), "-i", "app1,", "-c", "local", "-vvv"],
            *["-e", json.dumps(variables), "play.yml"],
        ],
        cwd=folder,
        env=kept
        | {
            "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".ansible/collections"),
            "ANSIBLE_HOME": str(folder / "home"),
            "LC_ALL": "C.UTF-8",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    server.shutdown()
    thread.join(10)
    server.server_close()
    assert (folder / "results.json").exists(), f"the play ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return json.loads((folder / "results.json").read_text()), done.stdout + done.stderr


def test_three_passes_in_a_row_are_well_and_change_nothing_in_check_mode_too(run: tuple[dict[str, Any], str]) -> None:
    well = run[0]["well"]
    assert (well["failed"], well["changed"], well["attempts"]) == (False, False, 3), well.get("msg")
    assert well["reason"] == "all 3 checks passed 3 times in a row"
    assert [(check["name"], check["kind"], check["ok"], check["skipped"]) for check in well["results"]] == [
        ("site", "http", True, False),
        ("sh", "command", True, False),
        (well["results"][2]["name"], "disk", True, False),
    ]
    assert all(check["seconds"] >= 0 and check["reason"] == "" for check in well["results"])
    assert len(well["backstay_lines"]) == 3


def test_what_is_not_well_fails_with_the_first_reason_and_all_results(run: tuple[dict[str, Any], str]) -> None:
    unwell = run[0]["unwell"]
    assert unwell["failed"]
    assert unwell["msg"] == "Not well: site: / was answered by 0007-1.1.0, expected 0008-1.2.0 (and 1 more)."
    assert [check["ok"] for check in unwell["results"]] == [False, False, True]
    assert unwell["results"][1]["reason"].startswith("there is no socket at unix:/")
    assert [line.split()[0] for line in unwell["backstay_lines"]] == ["FAILED", "FAILED", "ok"]


def test_a_wrong_option_is_refused_in_one_sentence(run: tuple[dict[str, Any], str]) -> None:
    assert run[0]["wrong"]["msg"] == (
        "checks[0] (root): unknown key 'url' for a check of type disk: "
        "known are free_bytes, free_inodes, free_percent, name, path, timeout_seconds, type."
    )


def test_an_application_that_was_never_released_is_not_well_and_says_so(run: tuple[dict[str, Any], str]) -> None:
    results = {check["name"]: check for check in run[0]["application"]["results"]}
    assert list(results) == [
        "release: health",
        "release: start",
        "front door: health",
        "front door: start",
        "certificate",
    ]
    assert results["release: health"]["reason"] == (
        "no release is live: the link /opt/no-such-portal/active cannot be read (No such file or directory)"
    )


def test_no_secret_is_printed_however_much_is_asked_for(run: tuple[dict[str, Any], str]) -> None:
    told = [line for line in run[1].splitlines() if "marlin" in line]
    assert told == [], "a secret header was printed"
    # The check of the play itself spells this one in `argv`; the value of the variable must be masked there as well.
    told = [line for line in run[1].splitlines() if "swordfish" in line]
    assert told == [], "a secret variable was printed"
