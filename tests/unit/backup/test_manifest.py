"""The manifest: one form for ever, nothing taken on trust, and differences that a person understands."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._manifest import (
    CanaryAnswer,
    DatabaseFacts,
    Manifest,
    MediaFile,
    TableFacts,
    compare,
    database_from_dict,
    database_to_dict,
    digest,
    from_bytes,
    to_bytes,
)

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
FACTS = DatabaseFacts(
    name="portal",
    engine="sqlite",
    file="databases/portal.sqlite3",
    size_bytes=4096,
    sha256=A,
    schema_sha256=B,
    tables={"audits": TableFacts(10_000, A), "findings": TableFacts(1, B)},
    sequences={"audits": "10000"},
    properties={"user_version": 3, "encoding": "UTF-8", "page_count": 1},
)
MANIFEST = Manifest(
    run="20261121T020000123-4711",
    application="portal",
    host="web1.example.org",
    release="0003-1.2.0",
    version="1.2.0",
    payload=C,
    migrations=("audits.0001_initial",),
    began="2026-11-21T02:00:00Z",
    ended="2026-11-21T02:00:09Z",
    tools={"restic": "0.18.0"},
    databases={"portal": FACTS},
    media={"x.jpg": MediaFile(10, A, 5), "2026/Bäume.jpg": MediaFile(0, B, -1)},
    configuration={"application.json": MediaFile(3, A, 1)},
    artifacts={},
    canaries=(CanaryAnswer("audits", "portal", "[[10000]]"),),
    newest={"portal": "2026-11-21T01:59:58Z", "other": None},
    previous=B,
)
BYTES = to_bytes(MANIFEST)


def changed(**fields: Any) -> dict[str, Any]:
    return {**json.loads(BYTES), **fields}


def read(value: Any) -> Manifest:
    return from_bytes(json.dumps(value).encode(), origin="the manifest of run 1 in disk")


def seen(**fields: Any) -> dict[str, DatabaseFacts]:
    return {"portal": dataclasses.replace(FACTS, **fields)}


def test_a_manifest_comes_back_as_it_was_and_equal_ones_give_equal_bytes() -> None:
    assert from_bytes(BYTES, origin="it") == MANIFEST
    shuffled = dataclasses.replace(MANIFEST, media=dict(reversed(MANIFEST.media.items())))
    assert to_bytes(shuffled) == BYTES
    assert to_bytes(from_bytes(BYTES, origin="it")) == BYTES
    assert BYTES.endswith(b"}\n")
    assert database_from_dict(json.loads(json.dumps(database_to_dict(FACTS))), origin="it") == FACTS


def test_the_chain_names_the_manifest_before_by_its_digest() -> None:
    following = dataclasses.replace(MANIFEST, run="20261122T020000123-4711", previous=digest(BYTES))
    assert from_bytes(to_bytes(following), origin="it").previous == digest(BYTES)
    assert len(digest(BYTES)) == 64
    assert digest(BYTES) != digest(to_bytes(following))


def test_a_file_whose_name_is_no_utf8_is_kept_under_that_name() -> None:
    odd = dataclasses.replace(MANIFEST, media={"a/\udcff.jpg": MediaFile(1, A, 1), "b": MediaFile(2, B, 2)})
    content = to_bytes(odd)
    content.decode()
    assert from_bytes(content, origin="it") == odd


def test_a_newer_format_is_refused_with_what_to_do() -> None:
    with pytest.raises(BackstayError, match=r"has format 2 and this backstay knows 1: update the host's command"):
        read({"format": 2, "anything": 1})


HOSTILE = [
    ("format", "1", "`format` in the manifest of run 1 in disk is 1 and must be 1"),
    ("format", True, "`format`"),
    ("run", "../../etc", "`run` in the manifest of run 1 in disk is ../../etc and must be a run"),
    ("application", "a b", "`application`"),
    ("payload", "x", "must be a SHA-256"),
    ("began", "yesterday", "must be a time in UTC"),
    ("migrations", {"a": 1}, "must be a list"),
    ("tools", [], "must be an object"),
    ("previous", "", "`previous`"),
    ("previous", 0, "`previous`"),
    ("newest", {"portal": 5}, "`newest.portal`"),
    ("canaries", [{"name": "a", "database": "b"}], "`canaries.answer`.*is missing and must be there"),
    ("media", [], "`media`"),
    ("media", {"/etc/passwd": {"size_bytes": 1, "sha256": A, "mtime_ns": 1}}, "must be a relative path without .."),
    ("media", {"a/../../b": {"size_bytes": 1, "sha256": A, "mtime_ns": 1}}, "must be a relative path without .."),
    ("media", {"..": {"size_bytes": 1, "sha256": A, "mtime_ns": 1}}, "relative path"),
    ("media", {"": {"size_bytes": 1, "sha256": A, "mtime_ns": 1}}, "relative path"),
    ("media", {"a//b": {"size_bytes": 1, "sha256": A, "mtime_ns": 1}}, "relative path"),
    ("media", {"a/": {"size_bytes": 1, "sha256": A, "mtime_ns": 1}}, "relative path"),
    ("media", {"a\0b": {"size_bytes": 1, "sha256": A, "mtime_ns": 1}}, "relative path"),
    ("media", {"a\n/..": {"size_bytes": 1, "sha256": A, "mtime_ns": 1}}, "relative path"),
    ("media", {"\udcff": {"size_bytes": 1, "sha256": A, "mtime_ns": 1}}, "a path of whole letters"),
    ("media", {"a": {"size_bytes": -1, "sha256": A, "mtime_ns": 1}}, "a whole number from 0 on"),
    ("media", {"a": {"size_bytes": 1.5, "sha256": A, "mtime_ns": 1}}, "a whole number"),
    ("media", {"a": {"size_bytes": 1 << 63, "sha256": A, "mtime_ns": 1}}, "a whole number"),
    ("media", {"a": {"size_bytes": 1, "sha256": A.upper(), "mtime_ns": 1}}, "a SHA-256"),
    ("media", {"a": {"size_bytes": 1, "sha256": A, "mtime_ns": 1, "more": 1}}, "an object with size_bytes"),
    ("media", {"a": None}, "an object with size_bytes"),
    ("media_raw", {"2e2e": {"size_bytes": 1, "sha256": A, "mtime_ns": 1}}, "relative path"),
    ("media_raw", {"zz": {"size_bytes": 1, "sha256": A, "mtime_ns": 1}}, "bytes in hexadecimal"),
    ("databases", {"portal": 1}, "`databases.portal`"),
    ("extra", 1, "`extra` in the manifest of run 1 in disk is unknown"),
]


@pytest.mark.parametrize(("key", "value", "sentence"), HOSTILE)
def test_a_field_that_is_not_as_it_must_be_is_refused_by_name(key: str, value: Any, sentence: str) -> None:
    with pytest.raises(BackstayError, match=sentence) as refused:
        read(changed(**{key: value}))
    assert refused.value.message.isprintable()


@pytest.mark.parametrize("key", list(Manifest.__dataclass_fields__))
def test_a_field_that_is_missing_is_refused_by_name(key: str) -> None:
    value = changed()
    del value[key]
    with pytest.raises(BackstayError, match=rf"`{key}` in the manifest of run 1 in disk is missing"):
        read(value)


@pytest.mark.parametrize("path", ["../secrets.json", "/etc/shadow", "databases/../../x", ""])
def test_the_file_of_a_database_stays_below_the_stage(path: str) -> None:
    value = changed()
    value["databases"]["portal"]["file"] = path
    with pytest.raises(BackstayError, match=r"`databases\.portal\.file`"):
        read(value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        BYTES[: len(BYTES) // 2],
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"format": 1, "format": 1}',
        b'{"format": NaN}',
    ],
)
def test_what_is_no_json_is_refused(content: bytes) -> None:
    with pytest.raises(
        BackstayError, match=r"The manifest of run 1 cannot be read as JSON .*: it was cut off or is damaged"
    ):
        from_bytes(content, origin="the manifest of run 1")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(Manifest.__dataclass_fields__)), JSON)
def test_whatever_stands_in_a_field_it_is_read_or_refused_with_a_sentence(key: str, value: Any) -> None:
    message = ""
    try:
        read(changed(**{key: value}))
    except BackstayError as refused:
        message = refused.message
    assert message.isprintable()


# comparing


def sentences(**found: Any) -> list[str]:
    return [difference.sentence for difference in compare(MANIFEST, **found)]


def test_what_is_equal_has_no_difference_and_what_was_not_looked_at_has_none() -> None:
    assert compare(MANIFEST) == ()
    assert (
        compare(
            MANIFEST,
            databases={"portal": FACTS},
            media=MANIFEST.media,
            configuration=MANIFEST.configuration,
            artifacts={},
            canaries=MANIFEST.canaries,
        )
        == ()
    )


def test_a_lost_row_changed_content_and_a_lost_table_are_told_in_words() -> None:
    tables = {"audits": TableFacts(9_999, C), "findings": TableFacts(1, C), "odd\x1b[2J": TableFacts(2, C)}
    assert sentences(databases=seen(tables=tables)) == [
        "The table audits of the database portal has 9,999 rows and the manifest says 10,000.",
        (
            "The content of the table findings of the database portal differs from the manifest, though it has the "
            "same 1 row."
        ),
        "The table odd\ufffd[2J of the database portal is there and the manifest does not know it.",
    ]
    assert sentences(databases=seen(tables={"audits": FACTS.tables["audits"]})) == [
        "The table findings of the database portal is missing and had 1 row."
    ]


def test_schema_sequences_versions_and_the_file_itself_are_compared() -> None:
    found = sentences(
        databases=seen(
            schema_sha256=C,
            sequences={"audits": "7", "new": "1"},
            properties={"user_version": 4, "encoding": "UTF-8", "page_count": 99},
            sha256=C,
        )
    )
    assert [each.split(" and ")[0] for each in found] == [
        "The file databases/portal.sqlite3 has 4,096 bytes with the digest cccccccccccccccc…",
        (
            "The schema of the database portal is another than in the manifest: its tables, columns, indexes or "
            "triggers differ."
        ),
        "The sequence audits of the database portal stands at 7",
        "The sequence new of the database portal stands at 1",
        "The property user_version of the database portal is 4",
    ]


def test_a_database_whose_file_nobody_looked_at_is_compared_by_its_content() -> None:
    assert sentences(databases=seen(sha256="", size_bytes=0, file="")) == []


def test_a_missing_database_and_one_of_another_engine_are_told() -> None:
    assert sentences(databases={}) == ["The database portal is missing."]
    assert sentences(databases=seen(engine="postgresql")) == ["The database portal is postgresql and was sqlite."]
    assert "does not know it" in sentences(databases={"portal": FACTS, "more": FACTS})[0]


def test_photographs_are_compared_by_size_and_content_and_not_by_time() -> None:
    found = sentences(media={"x.jpg": MediaFile(10, A, 99), "2026/Bäume.jpg": MediaFile(0, C, -1)})
    assert found == [
        "The content of the photograph media/2026/Bäume.jpg differs from the manifest, though its size is the same."
    ]
    assert sentences(media={"2026/Bäume.jpg": MediaFile(1, B, -1), "y": MediaFile(1, B, 1)}) == [
        "The photograph media/x.jpg is missing.",
        "The photograph media/2026/Bäume.jpg has 1 byte and the manifest says 0.",
        "The photograph media/y is there and the manifest does not know it.",
    ]
    assert sentences(configuration={}) == ["The file configuration/application.json is missing."]


def test_an_answer_that_changed_and_one_that_is_missing_are_told() -> None:
    assert sentences(canaries=[CanaryAnswer("audits", "portal", "[[9999]]")]) == [
        "The canary audits answers [[9999]] and the manifest says [[10000]]."
    ]
    assert sentences(canaries=[]) == ["The canary audits was not asked and the manifest says [[10000]]."]


def test_of_many_differences_some_twenty_are_told_and_the_rest_counted() -> None:
    large = dataclasses.replace(MANIFEST, media={f"{number}.jpg": MediaFile(1, A, 1) for number in range(1000)})
    found = compare(large, media={})
    assert len(found) == 21
    assert found[-1].sentence == "There are 980 more differences beside these."
    assert compare(large, media={f"{number}.jpg": MediaFile(1, A, 1) for number in range(979)})[-1].sentence == (
        "There is one more difference beside these."
    )


def test_a_hundred_thousand_photographs_are_read_within_seconds() -> None:
    files = {f"2026/11/{number:06d}.jpg": MediaFile(number, A, number) for number in range(100_000)}
    large = dataclasses.replace(MANIFEST, media=files)
    assert from_bytes(to_bytes(large), origin="it") == large
