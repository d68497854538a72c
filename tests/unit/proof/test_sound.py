"""Sound points of every shape, on which a proof never cries wolf. `BACKSTAY_ALL=1` tries fifty of SQLite's files, and a
dump of each kind of content of a server."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._postgresql import Server

from .points import DAYS, Place, Shape, photographs
from .server_contents import SERVER_CONTENTS
from .server_points import ServerPlace

ALL = os.environ.get("BACKSTAY_ALL") == "1"
POINTS = 50
SAMPLE = 5

UNICODE = {
    "Bericht Größe.pdf": b"1",
    "żółw/ñandú 🐢.jpg": b"\xff\xd8",
    "日本語/写真.jpg": b"3" * 5000,
    "new\nline.txt": b"4",
    " leading and trailing ": b"5",
    "quote'\"$(x)`.txt": b"6",
    "[star]*?.txt": b"7",
}
STATEMENTS = {
    "empty tables": ("DELETE FROM report; DELETE FROM setting; DELETE FROM author;",),
    "full-text search": (
        "CREATE VIRTUAL TABLE words USING fts5(title, body);",
        "INSERT INTO words VALUES ('a report', 'of many words'), ('another', 'Größe');",
        "CREATE TABLE note(id INTEGER PRIMARY KEY, text TEXT);",
        "CREATE VIRTUAL TABLE noted USING fts5(text, content='note', content_rowid='id');",
        "CREATE TRIGGER t AFTER INSERT ON note BEGIN INSERT INTO noted(rowid, text) VALUES (new.id, new.text); END;",
        "INSERT INTO note(text) VALUES ('flood in March'), ('fire in May');",
    ),
    "without rowid": (
        "CREATE TABLE pair(a TEXT, b INT, c BLOB, PRIMARY KEY(b, a)) WITHOUT ROWID;",
        "INSERT INTO pair VALUES ('x', 1, x'00ff'), ('', 2, NULL), ('ü', -9223372036854775808, x'');",
    ),
    "blobs and odd values": (
        "CREATE TABLE odd(a, b, c);",
        "INSERT INTO odd VALUES (zeroblob(300000), 1e308, -0.0), (NULL, 'a' || char(0) || 'b', 9e999);",
        "INSERT INTO odd VALUES (randomblob(70000), CAST(x'ff' AS TEXT), 0.1 + 0.2);",
    ),
    "odd names": (
        'CREATE TABLE "sélect ""from"" x"("order" INT, "a b" TEXT);',
        'INSERT INTO "sélect ""from"" x" VALUES (1, \'x\');',
    ),
    "generated columns, views, triggers": (
        "CREATE TABLE made(a INT, b INT AS (a * 2) STORED, c INT AS (a + 1) VIRTUAL);",
        "INSERT INTO made(a) VALUES (1), (2);",
        "CREATE VIEW v AS SELECT * FROM made;",
        "CREATE TRIGGER t AFTER INSERT ON made BEGIN DELETE FROM setting; END;",
    ),
    "properties": ("PRAGMA user_version = 77; PRAGMA application_id = 12345;",),
    "a log as its mode": ("PRAGMA journal_mode = WAL;",),
    "autovacuum and gaps": ("PRAGMA auto_vacuum = FULL; DELETE FROM report WHERE id % 3 = 0;",),
    "plain": (),
}
AT_ONCE = "all of it at once"
MEDIA = {
    "photographs": photographs(3),
    "none": {},
    "unicode names": UNICODE,
    "files of zero bytes": {"empty": b"", "deep/er/empty": b"", "full": b"x"},
    "one large": {"film.mp4": random.Random(1).randbytes(3_000_000)},
}


def _cases() -> list[tuple[str, str]]:
    whole = [(statements, media) for statements in STATEMENTS for media in MEDIA]
    assert len(whole) == POINTS
    if ALL:
        return whole
    # Each kind of media once, and so many kinds of content.
    names, kinds = list(STATEMENTS), list(MEDIA)
    return [(names[number * 2], kinds[(number + 1) % len(kinds)]) for number in range(SAMPLE)]


@pytest.mark.parametrize(("content", "files"), _cases())
def test_a_sound_point_is_never_called_a_liar(content: str, files: str, tmp_path: Path) -> None:
    place = Place(tmp_path)
    _is_never_called_a_liar(place, Shape(reports=30, media=MEDIA[files], statements=STATEMENTS[content]))
    again = place.prove(read_back="point")
    assert again.ok, again.sentence


@pytest.mark.parametrize("content", [AT_ONCE, *(SERVER_CONTENTS if ALL else ())])
def test_a_sound_dump_is_never_called_a_liar(content: str, server: Server, tmp_path: Path) -> None:
    chosen = SERVER_CONTENTS if content == AT_ONCE else [content]
    statements = tuple(SERVER_CONTENTS[name] for name in chosen)
    shape = Shape(reports=30, media=MEDIA["unicode names"], statements=statements)
    _is_never_called_a_liar(ServerPlace(tmp_path, server), shape)


def _is_never_called_a_liar(place: Place, shape: Shape) -> None:
    place.begin()
    place.run(DAYS[2], shape, 5, 3, None)
    proof = place.prove()
    assert proof.ok, proof.sentence
    assert proof.level == 4
