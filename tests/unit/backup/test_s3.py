"""What is asked of an S3 store besides restic: lifecycle rules that would take pieces out of restore points."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from pathlib import Path
from xml.etree.ElementTree import fromstring

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._s3 import (
    Rule,
    lifecycle,
    lifecycle_findings,
    place_of,
    rules_of,
    sign,
    versioning,
)

from .stores import s3_store

PLACE = "s3:https://s3.example/bucket/portal"
DOCUMENT = """<LifecycleConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
  <Rule><ID>old</ID><Status>Enabled</Status><Filter><Prefix>portal/</Prefix></Filter><Expiration><Days>90</Days>
  </Expiration></Rule>
  <Rule><ID>off</ID><Status>Disabled</Status><Filter/><Expiration><Days>1</Days></Expiration></Rule>
  <Rule><ID>date</ID><Status>Enabled</Status><Filter><And><Prefix>port</Prefix></And></Filter><Expiration>
  <Date>2027-01-01T00:00:00Z</Date></Expiration></Rule>
  <Rule><ID>versions</ID><Status>Enabled</Status><Filter/><NoncurrentVersionExpiration><NoncurrentDays>30</NoncurrentDays>
  </NoncurrentVersionExpiration></Rule>
  <Rule><ID>parts</ID><Status>Enabled</Status><Filter/><AbortIncompleteMultipartUpload><DaysAfterInitiation>7
  </DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>
</LifecycleConfiguration>"""


def test_rules_that_remove_objects_are_read():
    assert rules_of(fromstring(DOCUMENT)) == (
        Rule("old", "portal/", 90),
        Rule("date", "port", None, "2027-01-01T00:00:00Z"),
        Rule("versions", "", 30, old_versions=True),
    )


@pytest.mark.parametrize(
    ("filter_", "newer", "partly"),
    [
        ("<Prefix>portal/</Prefix>", "", False),
        ("<Prefix>portal/</Prefix>", "<NewerNoncurrentVersions>1</NewerNoncurrentVersions>", True),
        ("<And><Prefix>portal/</Prefix><Tag><Key>k</Key><Value>v</Value></Tag></And>", "", True),
        ("<And><Prefix>portal/</Prefix><ObjectSizeGreaterThan>9</ObjectSizeGreaterThan></And>", "", True),
    ],
)
def test_a_rule_that_is_about_some_old_versions_only_says_so(filter_, newer, partly):
    rule = (
        f"<L><Rule><ID>v</ID><Status>Enabled</Status><Filter>{filter_}</Filter><NoncurrentVersionExpiration>{newer}"
        "<NoncurrentDays>30</NoncurrentDays></NoncurrentVersionExpiration></Rule></L>"
    )
    assert rules_of(fromstring(rule)) == (Rule("v", "portal/", 30, old_versions=True, partly=partly),)


@pytest.mark.parametrize(
    ("rule", "declared", "count"),
    [
        (Rule("r", "", 90), None, 1),  # the whole bucket
        (Rule("r", "portal/data/", 90), None, 1),  # a part of the repository
        (Rule("r", "other/", 90), None, 0),
        (Rule("r", "portal-two/", 90), None, 0),
        (Rule("r", "", 90), 90, 0),  # the declared choice
        (Rule("r", "", 30), 90, 2),  # another one than was declared
        (Rule("r", "", 30, old_versions=True), None, 0),
    ],
)
def test_a_rule_that_takes_pieces_out_of_restore_points_is_told(rule, declared, count):
    found = lifecycle_findings(PLACE, (rule,), expire_uploads_days=declared)
    assert len(found) == count
    assert all("expire_uploads_days" in sentence for sentence in found)


def test_a_declaration_without_a_rule_is_told():
    (sentence,) = lifecycle_findings(PLACE, (), expire_uploads_days=30)
    assert "no rule" in sentence


def test_a_place_has_its_parts():
    place = place_of("s3:http://127.0.0.1:8333/bucket/a/b/")
    assert (place.scheme, place.host, place.bucket, place.prefix) == ("http", "127.0.0.1:8333", "bucket", "a/b")


def test_a_request_is_signed_as_the_standard_says():
    """The example of the AWS documentation: GET ?lifecycle of examplebucket."""
    secrets = {
        "access_key_id": "AKIAIOSFODNN7EXAMPLE",
        "secret_access_key": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    }
    host = "examplebucket.s3.amazonaws.com"
    headers = sign("GET", host, "/", "lifecycle=", secrets=secrets, at="20130524T000000Z")
    assert headers["authorization"].endswith(
        "Signature=fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
    )


def test_a_real_store_answers_about_its_rules():
    with s3_store() as store:
        assert lifecycle(store.location("nothing-here"), store.secrets) == ()
        assert not versioning(store.location("nothing-here"), store.secrets)


def test_a_store_whose_authority_nobody_knows_is_told_from_one_that_is_silent(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def serve(listening: socket.socket) -> None:
        connection, _address = listening.accept()
        with connection, pytest.raises(ssl.SSLError):
            context.wrap_socket(connection, server_side=True)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = threading.Thread(target=serve, args=(listening,))
        serving.start()
        place = f"s3:https://localhost:{listening.getsockname()[1]}/bucket/portal"
        with pytest.raises(BackstayError, match="put the authority that signed its certificate into `ca`"):
            lifecycle(place, {"access_key_id": "a", "secret_access_key": "b"})
        serving.join()
