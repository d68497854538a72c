"""The front door, asked from outside as visitors ask it, and from inside."""

from __future__ import annotations

import datetime as dt
import http.client
import ipaddress
import json
import socket
import ssl
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from testinfra.host import Host

ADDRESS, NAME = "10.89.12.84", "harbour.lab.test"
OLD, NEW = "0001-1.0.0", "0002-1.1.0"
Play = Callable[..., "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, list[str]]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Connection(http.client.HTTPSConnection):
    """To the lab's address, verified by the lab's authority for the name asked."""

    def __init__(self, name: str, context: ssl.SSLContext) -> None:
        super().__init__(name, context=context, timeout=10)
        self._name = name
        self._verified = context

    def connect(self) -> None:
        raw = socket.create_connection((ADDRESS, 443), timeout=10)
        self.sock = self._verified.wrap_socket(raw, server_hostname=self._name)


Ask = Callable[..., Answer]


@pytest.fixture(scope="module")
def context(lab_directory: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(lab_directory / "ca" / "ca.crt"))


@pytest.fixture(scope="module")
def ask(context: ssl.SSLContext) -> Ask:
    def request(path: str, *, method: str = "GET", name: str = NAME, body: bytes = b"", **headers: str) -> Answer:
        connection = Connection(name, context)
        try:
            named = {key.replace("_", "-"): value for key, value in headers.items()}
            connection.request(method, path, body=body or None, headers=named)
            response = connection.getresponse()
            collected: dict[str, list[str]] = {}
            for key, value in response.getheaders():
                collected.setdefault(key.lower(), []).append(value)
            return Answer(response.status, collected, response.read())
        finally:
            connection.close()

    return request


def inside(host: Host, path: str) -> dict[str, Any]:
    """The same from the host itself, which is a declared address."""
    script = (
        "import http.client, json, ssl; anyone = ssl._create_unverified_context();"
        "c = http.client.HTTPSConnection('127.0.0.1', context=anyone);"
        f"c.request('GET', '{path}', headers={{'Host': '{NAME}'}}); r = c.getresponse();"
        "b = r.read().decode(); print(json.dumps({'status': r.status, 'body': b}))"
    )
    done = host.run("python3 -c %s", script)
    assert done.rc == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture
def maintenance(host: Host) -> Iterator[None]:
    host.run("touch /opt/harbour/maintenance.on")
    yield
    host.run("rm /opt/harbour/maintenance.on")


def test_a_page_comes_from_the_live_release(ask: Ask) -> None:
    answer = ask("/lifts/?page=2")
    assert (answer.status, answer.headers["x-release-id"], answer.json["path"]) == (200, [OLD], "/lifts/?page=2")


@pytest.mark.parametrize("name", [NAME, "www.harbour.lab.test", ADDRESS])
def test_the_certificate_is_good_for_every_name(ask: Ask, name: str) -> None:
    assert ask("/", name=name).status == 200


def test_what_a_client_says_about_itself_counts_for_nothing(ask: Ask) -> None:
    lies = {
        "X_Forwarded_For": "1.2.3.4",
        "X_Forwarded_Proto": "http",
        "X_Backstay_Internal": "yes",
        "Proxy": "http://evil",
        "Forwarded": "for=1.2.3.4",
        "X_Request_Id": "mine",
    }
    answer = ask("/", **lies)
    seen = {key.lower(): value for key, value in answer.json["headers"].items()}
    assert seen["x-forwarded-for"] == "10.89.12.1"
    assert seen["x-forwarded-proto"] == "https"
    assert seen["x-backstay-internal"] == "no"
    assert seen["host"] == NAME
    assert "proxy" not in seen
    assert "forwarded" not in seen
    assert [seen["x-request-id"]] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "header", ["strict-transport-security", "x-content-type-options", "x-frame-options", "referrer-policy"]
)
@pytest.mark.parametrize("path", ["/", "/static/site.0a1b2c3d.css", "/media/lift.png", "/metrics"])
def test_security_headers_come_once(ask: Ask, path: str, header: str) -> None:
    assert len(ask(path).headers.get(header, [])) == 1


def test_the_applications_own_header_counts(ask: Ask) -> None:
    assert ask("/").headers["x-frame-options"] == ["SAMEORIGIN"]


def test_the_version_of_nginx_is_not_told(ask: Ask) -> None:
    assert ask("/").headers["server"] == ["nginx"]


def test_plain_http_is_sent_to_https() -> None:
    connection = http.client.HTTPConnection(ADDRESS, timeout=10)
    connection.request("GET", "/lifts/?page=2", headers={"Host": NAME})
    response = connection.getresponse()
    assert (response.status, response.getheader("Location")) == (301, f"https://{NAME}/lifts/?page=2")


def test_acme_challenges_stay_on_plain_http(host: Host) -> None:
    host.run("mkdir -p /var/www/backstay/acme/.well-known/acme-challenge")
    host.run("echo proof > /var/www/backstay/acme/.well-known/acme-challenge/token")
    connection = http.client.HTTPConnection(ADDRESS, timeout=10)
    connection.request("GET", "/.well-known/acme-challenge/token", headers={"Host": NAME})
    assert connection.getresponse().read() == b"proof\n"


def test_unknown_names_get_no_application(ask: Ask) -> None:
    assert ask("/", Host="other.example").status == 421
    connection = http.client.HTTPConnection(ADDRESS, timeout=10)
    connection.request("GET", "/", headers={"Host": "other.example"})
    with pytest.raises(http.client.RemoteDisconnected):
        connection.getresponse()


@pytest.mark.parametrize(("version", "accepted"), [(ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_1, False)])
def test_tls_versions(lab_directory: Path, version: ssl.TLSVersion, accepted: bool) -> None:
    context = ssl.create_default_context(cafile=str(lab_directory / "ca" / "ca.crt"))
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.maximum_version = version
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with socket.create_connection((ADDRESS, 443), timeout=10) as raw:
        if accepted:
            context.wrap_socket(raw, server_hostname=NAME).close()
        else:
            with pytest.raises((ssl.SSLError, ConnectionResetError)):
                context.wrap_socket(raw, server_hostname=NAME)


def test_static_files_are_cached_for_good(ask: Ask) -> None:
    answer = ask("/static/site.0a1b2c3d.css")
    assert answer.headers["cache-control"] == ["public, max-age=31536000, immutable"]
    assert answer.headers["content-type"] == ["text/css"]


def test_a_missing_static_file_is_not_cached_for_good(ask: Ask) -> None:
    answer = ask("/static/none.css")
    assert (answer.status, answer.headers.get("cache-control")) == (404, None)


@pytest.mark.parametrize(
    ("file", "disposition"), [("lift.png", None), ("evil.svg", ["attachment"]), ("evil.html", ["attachment"])]
)
def test_uploads_never_run_as_ours(ask: Ask, file: str, disposition: list[str] | None) -> None:
    answer = ask(f"/media/{file}")
    assert answer.status == 200
    assert answer.headers.get("content-disposition") == disposition
    assert "sandbox" in answer.headers["content-security-policy"][0]
    assert answer.headers["x-content-type-options"] == ["nosniff"]


def test_metrics_are_for_declared_addresses(host: Host, ask: Ask) -> None:
    assert ask("/metrics").status == 403
    assert ask("/metrics/x").status == 403
    assert inside(host, "/metrics")["status"] == 200


def test_the_application_learns_who_is_inside(host: Host, ask: Ask) -> None:
    assert ask("/healthz/").json["headers"]["X-Backstay-Internal"] == "no"
    assert json.loads(inside(host, "/healthz/")["body"])["headers"]["X-Backstay-Internal"] == "yes"


def test_an_upload_of_50_mb_arrives_and_a_larger_one_does_not(ask: Ask) -> None:
    assert ask("/upload", method="POST", body=bytes(52428800)).json["received"] == 52428800
    try:
        status = ask("/upload", method="POST", body=bytes(60_000_000)).status
    except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
        status = 413  # nginx answered and closed before all of it was sent
    assert status == 413


@pytest.mark.usefixtures("maintenance")
def test_maintenance_closes_the_door_politely(host: Host, ask: Ask) -> None:
    answer = ask("/", method="POST", body=b"x=1")
    assert (answer.status, answer.headers["retry-after"]) == (503, ["120"])
    assert b"right back" in answer.body
    assert ask("/media/lift.png").status == 503
    assert ask("/static/site.0a1b2c3d.css").status == 200, "the assets of pages already open"
    assert ask("/healthz/").status == 503
    assert inside(host, "/healthz/")["status"] == 200
    assert inside(host, "/")["status"] == 503


def test_an_error_of_the_application_is_its_own(ask: Ask) -> None:
    answer = ask("/sick")
    assert (answer.status, answer.json["path"]) == (503, "/sick")


def test_a_dead_application_gets_a_page_that_says_so(host: Host, ask: Ask) -> None:
    host.run("mv /opt/harbour/active /opt/harbour/aside")
    try:
        answer = ask("/")
    finally:
        host.run("mv /opt/harbour/aside /opt/harbour/active")
    assert answer.status == 502
    assert b"One moment" in answer.body


def point_to(host: Host, release: str) -> None:
    done = host.run(
        f"ln -s /run/harbour/{release}/web.sock /opt/harbour/.next && mv -T /opt/harbour/.next /opt/harbour/active"
    )
    assert done.rc == 0, done.stderr


def test_moving_the_link_moves_new_requests_and_loses_none(host: Host, context: ssl.SSLContext) -> None:
    stop, seen, failed = threading.Event(), set(), []

    def visit() -> None:
        connection = Connection(NAME, context)
        while not stop.is_set():
            try:
                connection.request("GET", "/")
                response = connection.getresponse()
                response.read()
                seen.add(response.getheader("X-Release-Id"))
                if response.status != 200:
                    failed.append(response.status)
            except (OSError, http.client.HTTPException) as error:
                failed.append(repr(error))
                return

    visitors = [threading.Thread(target=visit) for _ in range(4)]
    for visitor in visitors:
        visitor.start()
    for release in (NEW, OLD, NEW, OLD):
        time.sleep(0.3)
        point_to(host, release)
    time.sleep(0.3)
    stop.set()
    for visitor in visitors:
        visitor.join(20)
    assert failed == [], "on keep-alive connections, without a retry"
    assert seen == {OLD, NEW}


def test_a_request_in_flight_ends_where_it_began(host: Host, ask: Ask) -> None:
    answers: list[Answer] = []
    slow = threading.Thread(target=lambda: answers.append(ask("/slow")))
    slow.start()
    time.sleep(0.7)
    point_to(host, NEW)
    try:
        assert ask("/").headers["x-release-id"] == [NEW]
        slow.join(20)
    finally:
        point_to(host, OLD)
    assert answers[0].headers["x-release-id"] == [OLD]


def serial(context: ssl.SSLContext) -> str:
    with (
        socket.create_connection((ADDRESS, 443), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname=NAME) as tls,
    ):
        certificate = tls.getpeercert()
    assert certificate is not None
    return str(certificate["serialNumber"])


def test_a_renewed_certificate_is_served_without_a_reload(
    host: Host, play: Play, context: ssl.SSLContext, lab_directory: Path
) -> None:
    connection = Connection(NAME, context)
    connection.request("GET", "/")
    connection.getresponse().read()
    workers, before = host.run("pgrep -f 'nginx: worker'").stdout, serial(context)
    for file in ("fullchain.pem", "privkey.pem"):
        (lab_directory / "certificates" / "harbour" / file).unlink()
    done = play()
    assert done.returncode == 0, done.stdout
    assert serial(context) != before
    connection.request("GET", "/")
    assert connection.getresponse().status == 200, "the connection that was open goes on"
    assert host.run("pgrep -f 'nginx: worker'").stdout == workers, "no reload"


def test_the_access_log_says_who_answered_and_hides_queries(host: Host, ask: Ask) -> None:
    identity = ask("/lifts/?token=hush").headers["x-request-id"][0]
    line = json.loads(host.run(f"grep {identity} /var/log/nginx/harbour.access.log").stdout)
    assert line["uri"] == "/lifts/"
    assert (line["status"], line["release"], line["method"], line["host"]) == (200, OLD, "GET", NAME)
    assert line["upstream_addr"] == "unix:/opt/harbour/active"
    assert float(line["upstream_seconds"]) >= 0
    assert "hush" not in json.dumps(line)


def test_another_user_cannot_read_the_key(host: Host) -> None:
    assert host.run("runuser --user nobody -- cat /etc/backstay-tls/harbour/bundle.pem").rc != 0
    assert host.run("runuser --user www-data -- cat /etc/backstay-tls/harbour/bundle.pem").rc == 0


def test_a_change_is_reloaded_and_never_restarts(host: Host, play: Play, ask: Ask) -> None:
    master = host.run("cat /run/nginx.pid").stdout
    done = play("-e", "nginx_hsts_seconds=300")
    assert done.returncode == 0, done.stdout
    deadline = time.monotonic() + 10
    while ask("/").headers["strict-transport-security"] != ["max-age=300"] and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ask("/").headers["strict-transport-security"] == ["max-age=300"]
    assert play().returncode == 0
    assert host.run("cat /run/nginx.pid").stdout == master


def test_a_configuration_that_nginx_refuses_is_put_back(host: Host, play: Play, ask: Ask) -> None:
    host.run("echo 'wibble on;' > /etc/nginx/conf.d/theirs.conf")
    try:
        done = play("-e", "nginx_hsts_seconds=301")
    finally:
        host.run("rm /etc/nginx/conf.d/theirs.conf")
    assert done.returncode != 0
    assert 'unknown directive "wibble"' in done.stdout
    assert "max-age=301" not in host.file("/etc/nginx/conf.d/backstay.conf").content_string
    assert ask("/").status == 200


def test_a_reload_that_nginx_silently_did_not_take_is_no_success(host: Host, play: Play, ask: Ask) -> None:
    zone = "limit_req_zone {key} zone=theirs:1m rate=9r/s; server {{ listen 127.0.0.1:7; limit_req zone=theirs; }}"
    theirs = "/etc/nginx/conf.d/theirs.conf"
    host.run(f"echo '{zone.format(key='$uri')}' > {theirs}; nginx -s reload; sleep 1")
    # nginx -t finds it good; the master that runs has the zone with another key.
    host.run(f"echo '{zone.format(key='$binary_remote_addr')}' > {theirs}")
    try:
        assert host.run("nginx -t").rc == 0
        done = play("-e", "nginx_hsts_seconds=302")
    finally:
        host.run(f"rm {theirs}; nginx -s reload")
    assert done.returncode != 0
    assert "nginx.service goes on with the configuration that it had" in done.stdout
    assert 'while previously it used the "$uri" key' in done.stdout
    assert "max-age=302" not in host.file("/etc/nginx/conf.d/backstay.conf").content_string
    assert ask("/").status == 200


def test_a_name_claimed_by_another_site_is_refused(host: Host, play: Play) -> None:
    host.run(f"echo 'server {{ server_name {NAME}; }}' > /etc/nginx/conf.d/theirs.conf")
    try:
        done = play()
    finally:
        host.run("rm /etc/nginx/conf.d/theirs.conf")
    assert done.returncode != 0
    assert f"The name {NAME} is already claimed by /etc/nginx/conf.d/theirs.conf" in done.stdout


def test_a_port_taken_by_something_else_is_refused_and_named(host: Host, play: Play) -> None:
    host.run("systemctl stop nginx; systemd-run --unit=squatter python3 -m http.server 80")
    try:
        deadline = time.monotonic() + 10
        while not host.socket("tcp://0.0.0.0:80").is_listening and time.monotonic() < deadline:
            time.sleep(0.2)
        done = play()
    finally:
        host.run("systemctl stop squatter; systemctl start nginx")
    assert done.returncode != 0
    assert "Port 80 is taken by python3, where nginx is to listen" in done.stdout


def test_check_mode_changes_nothing_and_shows_no_key(host: Host, play: Play, lab_directory: Path) -> None:
    host.run("cp -a /etc/backstay-tls/harbour/bundle.pem /root/key; echo >> /etc/backstay-tls/harbour/bundle.pem")
    try:
        done = play("--check", "--diff", "-vvv", "-e", "nginx_retry_after_seconds=7")
    finally:
        host.run("cp -a /root/key /etc/backstay-tls/harbour/bundle.pem")
    assert done.returncode == 0, done.stdout
    assert "+        add_header Retry-After 7 always;" in done.stdout
    key = (lab_directory / "certificates" / "harbour" / "privkey.pem").read_text()
    assert key.splitlines()[1] not in done.stdout
    assert "Retry-After 120" in host.file("/etc/nginx/sites-available/harbour.conf").content_string


def test_no_key_is_in_the_hosts_journal(host: Host, lab_directory: Path) -> None:
    key = (lab_directory / "certificates" / "harbour" / "privkey.pem").read_text().splitlines()[1]
    assert host.run(f"journalctl --no-pager --output=cat | grep -c -F '{key}'").stdout.strip() == "0"


def certified(path: Path, key: Path, *names: x509.GeneralName, year: int | None = None) -> dict[str, str]:
    """A certificate for the right key and these names; that of a year is valid for its first quarter alone."""
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "harbour.lab.test")])
    began = (
        dt.datetime.now(tz=dt.UTC) - dt.timedelta(days=1) if year is None else dt.datetime(year, 1, 1, tzinfo=dt.UTC)
    )
    made = (
        x509.CertificateBuilder(name, name, private.public_key(), 1, began, began + dt.timedelta(days=90))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(private, hashes.SHA256())
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return {"certificate": str(path), "key": str(key)}


def test_certificates_that_are_given_are_compared_first(
    host: Host, play: Play, lab_directory: Path, tmp_path: Path
) -> None:
    issued = lab_directory / "certificates" / "harbour"
    wrong = {"certificate": str(lab_directory / "ca" / "ca.crt"), "key": str(issued / "privkey.pem")}
    own, address = x509.DNSName("harbour.lab.test"), x509.IPAddress(ipaddress.ip_address("10.89.12.84"))
    key = issued / "privkey.pem"
    old = certified(tmp_path / "ended.pem", key, own, year=2021)
    one = certified(tmp_path / "one.pem", key, own)
    any_of_it = certified(tmp_path / "any.pem", key, own, x509.DNSName("*.harbour.lab.test"), address)
    right = {"certificate": str(issued / "fullchain.pem"), "key": str(issued / "privkey.pem")}
    before = host.file("/etc/backstay-tls/harbour/bundle.pem").sha256sum

    def given(files: dict[str, dict[str, str]]) -> subprocess.CompletedProcess[str]:
        return play("-e", json.dumps({"nginx_certificate_mode": "files", "nginx_certificate_files": files}))

    for files, said in (
        ({}, "harbour is given no certificate"),
        ({"harbour": wrong}, "it must be for harbour.lab.test"),
        (
            {"harbour": old},
            "until 20210401000000Z (UTC, as YYYYMMDDhhmmss); it must be for harbour.lab.test,",
        ),
        (
            {"harbour": one},
            "is for DNS:harbour.lab.test until",
        ),
    ):
        done = given(files)
        assert done.returncode != 0
        assert said in " ".join(done.stdout.split())
    assert host.file("/etc/backstay-tls/harbour/bundle.pem").sha256sum == before
    done = given({"harbour": any_of_it})
    assert done.returncode == 0, done.stdout
    assert given({"harbour": right}).returncode == 0


def test_an_authority_that_is_not_there_is_named(play: Play) -> None:
    done = play("-e", "nginx_ca_certificate=/nowhere/ca.crt")
    assert done.returncode != 0
    assert "needs the files nginx_ca_certificate (/nowhere/ca.crt)" in " ".join(done.stdout.split())


def test_debians_default_site_stays_where_somebody_changed_it(host: Host, play: Play) -> None:
    host.run("echo '# tuned by hand' >> /etc/nginx/sites-available/default")
    host.run("ln -s /etc/nginx/sites-available/default /etc/nginx/sites-enabled/default")
    try:
        done = play()
        assert done.returncode != 0
        assert "/etc/nginx/sites-enabled/default exists and was not written by Backstay" in " ".join(
            done.stdout.split()
        )
        assert host.file("/etc/nginx/sites-enabled/default").exists
        host.run("sed -i '$d' /etc/nginx/sites-available/default")
        assert play().returncode == 0, "as Debian shipped it, it is nobody's"
        assert not host.file("/etc/nginx/sites-enabled/default").exists
    finally:
        host.run("rm -f /etc/nginx/sites-enabled/default")


def test_debians_default_site_stays_where_it_shows_somebodys_pages(host: Host, play: Play) -> None:
    enabled, page = "/etc/nginx/sites-enabled/default", "/var/www/html/prices.html"
    host.run(f"ln -s /etc/nginx/sites-available/default {enabled} && echo theirs > {page}")
    try:
        done = play()
        assert done.returncode != 0
        said = f"{enabled} shows visitors what lies in /var/www/html (prices.html) and was not written by Backstay"
        assert said in " ".join(done.stdout.split())
        assert host.file(enabled).exists
        taken = play("-e", "nginx_adopt=keep")
        assert taken.returncode == 0, taken.stdout
        assert not host.file(enabled).exists
        assert host.file(page).content_string == "theirs\n"
        assert host.run(f"find /var/lib/backstay/replaced -path '*{enabled}' -type l").stdout, "the link is kept"
    finally:
        host.run(f"rm -f {enabled} {page}")


def test_an_application_that_is_taken_from_the_list_is_served_as_before(host: Host, play: Play, ask: Ask) -> None:
    before = ask("/").status
    try:
        done = play("-e", '{"nginx_applications": ["lighthouse"]}')
        assert done.returncode == 0, done.stdout
        assert "harbour is on this host and no longer among its applications" in " ".join(done.stdout.split())
        assert ask("/").status == before, "with its own certificate, or nobody would have been answered"
    finally:
        host.run("rm /etc/nginx/sites-enabled/lighthouse.conf")
        assert play().returncode == 0
