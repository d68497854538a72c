"""The little that is asked of an S3 store besides restic: whether a place is empty, the bucket's lifecycle rules, and
whether it keeps versions.

Signed by hand (Signature Version 4, path style); reads only.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import http.client
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit
from xml.etree.ElementTree import Element, ParseError, fromstring

from ._errors import BackstayError

SECONDS = 20.0
_EMPTY = hashlib.sha256(b"").hexdigest()
_MOST = 1 << 20  # bytes of an answer that are read


@dataclass(frozen=True)
class Rule:
    """A lifecycle rule that is in force and removes objects below `prefix`: `days` after they were written, or on a
    `date`. `old_versions`: only those that something else replaced or removed; `partly`: not all of these."""

    name: str
    prefix: str
    days: int | None
    date: str | None = None
    old_versions: bool = False
    partly: bool = False


@dataclass(frozen=True)
class Place:
    """`s3:https://host/bucket/prefix` in its parts."""

    scheme: str
    host: str  # with the port where one is named
    bucket: str
    prefix: str


def place_of(location: str) -> Place:
    parts = urlsplit(location.removeprefix("s3:"))
    bucket, _slash, prefix = parts.path.strip("/").partition("/")
    return Place(parts.scheme, parts.netloc, bucket, prefix)


def holds_something(location: str, secrets: Mapping[str, Any]) -> bool:
    """Whether any object lies at a place; False for a bucket that does not exist. Raises BackstayError."""
    place = place_of(location)
    query = {"list-type": "2", "max-keys": "1", "prefix": f"{place.prefix}/" if place.prefix else ""}
    status, body = _get(place, query, secrets)
    if status == 404:
        return False
    if status != 200:
        raise _refused(location, status)
    return any(_local(element.tag) == "Contents" for element in _parsed(location, body).iter())


def lifecycle(location: str, secrets: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The rules of a bucket that remove objects; none where it has no lifecycle. Raises BackstayError."""
    status, body = _get(place_of(location), {"lifecycle": ""}, secrets)
    if status == 404:
        return ()
    if status != 200:
        raise _refused(location, status)
    return rules_of(_parsed(location, body))


def versioning(location: str, secrets: Mapping[str, Any]) -> bool:
    """Whether a bucket keeps what is removed from it, as a version; also where it no longer begins to: those that there
    were stay. Raises BackstayError."""
    status, body = _get(place_of(location), {"versioning": ""}, secrets)
    if status == 404:
        return False
    if status != 200:
        raise _refused(location, status)
    return _text(_parsed(location, body), "Status") in ("Enabled", "Suspended")


def rules_of(document: Element) -> tuple[Rule, ...]:
    """The rules of a lifecycle document that are in force and remove objects."""
    found = []
    for rule in document:
        if _local(rule.tag) != "Rule" or _text(rule, "Status") != "Enabled":
            continue
        name = _text(rule, "ID") or "without a name"
        prefix = _text(rule, "Prefix") or ""
        for element in rule:
            kind = _local(element.tag)
            if kind == "Expiration" and (_text(element, "Days") or _text(element, "Date")):
                days = _text(element, "Days")
                found.append(Rule(name, prefix, int(days) if days else None, _text(element, "Date")))
            elif kind == "NoncurrentVersionExpiration":
                days = _text(element, "NoncurrentDays")
                partly = _text(element, "NewerNoncurrentVersions") not in (None, "0") or _chosen(rule)
                found.append(Rule(name, prefix, int(days or 0), old_versions=True, partly=partly))
    return tuple(found)


def _chosen(rule: Element) -> bool:
    """Whether a rule is about some objects only, by their size or what they are tagged with."""
    return any(_local(inner.tag) in ("Tag", "ObjectSizeGreaterThan", "ObjectSizeLessThan") for inner in rule.iter())


def old_version_days(location: str, rules: tuple[Rule, ...]) -> int | None:
    """How many days a bucket that keeps versions keeps what was removed from a repository at `location`; None where no
    rule ends that. Pure."""
    prefix = place_of(location).prefix
    own = f"{prefix}/" if prefix else ""
    whole = [rule for rule in rules if rule.old_versions and not rule.partly and own.startswith(rule.prefix)]
    return min((rule.days or 0 for rule in whole), default=None)


def lifecycle_findings(location: str, rules: tuple[Rule, ...], *, expire_uploads_days: int | None) -> tuple[str, ...]:
    """Sentences about rules that would remove what a repository at `location` needs. Pure.

    A rule that removes objects takes pieces out of restore points that are kept, for restic stores each piece once and
    uses it for years. `expire_uploads_days` is the declared choice that this is meant, after so many days.
    """
    place = place_of(location)
    own = f"{place.prefix}/" if place.prefix else ""
    found = []
    for rule in rules:
        if rule.old_versions or not (own.startswith(rule.prefix) or rule.prefix.startswith(own)):
            continue
        if rule.days is not None and rule.days == expire_uploads_days:
            continue
        when = f"{rule.days} days after they were written" if rule.days is not None else f"on {rule.date}"
        declared = (
            f"declared are {expire_uploads_days} days"
            if expire_uploads_days is not None
            else "restore points that are kept need them for as long as they are kept"
        )
        found.append(
            f"The lifecycle rule {rule.name!r} of the bucket {place.bucket} removes objects below "
            f"{rule.prefix or 'its root'!r} {when}, and {declared}: remove that rule, or declare it as "
            "expire_uploads_days."
        )
    if expire_uploads_days is not None and not any(rule.days == expire_uploads_days for rule in rules):
        found.append(
            f"expire_uploads_days is {expire_uploads_days} and the bucket {place.bucket} has no rule that removes "
            "objects after so many days: make the rule, or remove the declaration."
        )
    return tuple(found)


def _get(place: Place, query: Mapping[str, str], secrets: Mapping[str, Any]) -> tuple[int, bytes]:
    path = quote(f"/{place.bucket}")
    asked = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted(query.items()))
    headers = sign(
        "GET",
        place.host,
        path,
        asked,
        secrets=secrets,
        at=datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ"),
    )
    connection: http.client.HTTPConnection
    if place.scheme == "https":
        trust = ssl.create_default_context(cadata=str(secrets["ca"]) if secrets.get("ca") else None)
        connection = http.client.HTTPSConnection(place.host, timeout=SECONDS, context=trust)
    else:
        connection = http.client.HTTPConnection(place.host, timeout=SECONDS)
    try:
        connection.request("GET", f"{path}?{asked}", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(_MOST)
    except ssl.SSLCertVerificationError as stranger:
        raise BackstayError(
            f"The store {place.scheme}://{place.host} cannot be trusted ({stranger.verify_message}): put the authority "
            "that signed its certificate into `ca`, or correct the location."
        ) from stranger
    except (OSError, http.client.HTTPException) as refused:
        raise BackstayError(
            f"The store {place.scheme}://{place.host} does not answer ({refused}): check the network and the location."
        ) from refused
    finally:
        connection.close()


def sign(method: str, host: str, path: str, query: str, *, secrets: Mapping[str, Any], at: str) -> dict[str, str]:
    """The headers of a request without a body. `query` is sorted and quoted, `at` like 20260131T235959Z."""
    region, day = str(secrets.get("region") or "us-east-1"), at[:8]
    headers = {"host": host, "x-amz-content-sha256": _EMPTY, "x-amz-date": at}
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    request = "\n".join((method, path, query, lines, names, _EMPTY))
    scope = f"{day}/{region}/s3/aws4_request"
    text = "\n".join(("AWS4-HMAC-SHA256", at, scope, hashlib.sha256(request.encode()).hexdigest()))
    key = f"AWS4{secrets.get('secret_access_key', '')}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    credential = f"{secrets.get('access_key_id', '')}/{scope}"
    headers["authorization"] = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
    return headers


def _refused(location: str, status: int) -> BackstayError:
    return BackstayError(
        f"The store of {location} answered {status}: 403 means that its credentials may not ask this; correct them, or "
        "the rights that they have."
    )


def _parsed(location: str, body: bytes) -> Element:
    try:
        return fromstring(body)  # noqa: S314 - from the store that we trust with the data; expat bounds entities
    except ParseError as broken:
        raise BackstayError(f"The store of {location} answered no XML: check the location.") from broken


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _text(element: Element, name: str) -> str | None:
    """The text of the first element of that name below, wherever: a prefix may stand in a filter, or in an And."""
    for inner in element.iter():
        if _local(inner.tag) == name and inner is not element:
            return (inner.text or "").strip()
    return None
