"""Those who lie about the dump of a PostgreSQL server. Most of them sign: the manifest then has the dump's own digest,
as that of a host has that dumped wrongly, and what was counted when it was right. So only who loads the dump sees it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from .liars import Liar, Lie, canary_changed, changed, flip, named_file_missing
from .points import Shape
from .server_points import ServerPlace, script_of

Tell = Callable[[ServerPlace, random.Random], Lie]

ROWS = 40  # of the reports, as points.py makes them
# Letters and digits of the table of contents that mean something: a number that is set, and names.
TELLING = (
    rb"setval\('public\.report_id_seq', (\d+)",
    rb"setval\('public\.author_id_seq', (\d+)",
    rb"CREATE INDEX (report_title)",
    rb"ADD CONSTRAINT (setting_pkey)",
    rb"ADD CONSTRAINT (report_author_fkey)",
    rb"CREATE TABLE public\.setting \(\n    (key) text",
)


def _on(change: Callable[[ServerPlace, random.Random], str], *, signed: bool = True) -> Tell:
    """One who changes the dump in the stage."""

    def tell(place: ServerPlace, chance: random.Random) -> Lie:
        return changed(place, lambda _stage: change(place, chance), "", signed=signed)

    return tell


def _sql(statement: Callable[[random.Random], str], *, empty: bool = False) -> Tell:
    """One whose dump is of a database that is another by a statement."""

    def change(place: ServerPlace, chance: random.Random) -> str:
        text = statement(chance)
        place.dump_anew(text, empty=empty)
        return text[:80]

    return _on(change)


def _any(*statements: str) -> Tell:
    return _sql(lambda chance: chance.choice(statements))


# the file


def cut_short(place: ServerPlace, chance: random.Random) -> str:
    content = place.dump.read_bytes()
    place.dump.write_bytes(content[: len(content) * 6 // 10 - chance.randrange(500)])
    return f"cut from {len(content)} to {place.dump.stat().st_size}"


def bit_in_data(place: ServerPlace, chance: random.Random) -> str:
    """In the rows of the largest table, which is neither the first nor the last one."""
    content = place.dump.read_bytes()
    return flip(place.dump, chance, position=chance.randrange(data_begins(content) + 1000, len(content) - 1000))


def bit_in_contents(place: ServerPlace, chance: random.Random) -> str:
    """Most bits there mean nothing to who loads it, such as those of the owner's name."""
    found = re.search(chance.choice(TELLING), place.dump.read_bytes())
    assert found is not None
    # The higher bits would make another case of a letter, which means the same.
    return flip(place.dump, chance, position=chance.randrange(*found.span(1)), bits=5)


def data_begins(content: bytes) -> int:
    """Where the first table's rows begin: each is a stream of zlib's."""
    return content.index(b"\x78\x9c")


def emptied(place: ServerPlace, chance: random.Random) -> str:
    place.dump.write_bytes(b"")
    return "no bytes"


def removed(place: ServerPlace, chance: random.Random) -> str:
    place.dump.unlink()
    return "removed"


def text_instead(place: ServerPlace, chance: random.Random) -> str:
    """All that is in it, as text: it can be read, and not be loaded."""
    place.dump.write_text(script_of(Shape(), chance.randrange(1000), 3))
    return "text"


# what is in it


def another_database(place: ServerPlace, chance: random.Random) -> str:
    """With the same tables, and as many rows."""
    seed = chance.randrange(100, 10_000)
    place.dump_anew(script_of(Shape(), seed, 3), empty=True)
    return f"another one, by seed {seed}"


def _row(chance: random.Random) -> int:
    return chance.randrange(1, ROWS + 1)


def row_changed(chance: random.Random) -> str:
    column, value = chance.choice(
        [
            ("title", "title || ' '"),
            ("body", r"'\x00' || body"),
            ("made", "made + interval '1 microsecond'"),
            ("author", "1 + author % 3"),
            ("photograph", "NULL"),
        ]
    )
    return f"UPDATE report SET {column} = {value} WHERE id = {_row(chance)}"


def set_back(chance: random.Random) -> str:
    """The next row would get the id of one that there is."""
    return chance.choice(
        [
            f"SELECT setval('report_id_seq', {chance.randrange(1, ROWS)})",
            f"SELECT setval('report_id_seq', {ROWS}, false)",
            "SELECT setval('author_id_seq', 2)",
            "SELECT setval('author_id_seq', 3, false)",
        ]
    )


SERVER_LIARS: tuple[Liar[ServerPlace], ...] = (
    Liar("a dump cut at 60 %", 4, _on(cut_short)),
    Liar("a bit flipped in a dump's data", 4, _on(bit_in_data)),
    Liar("a bit flipped in a dump's table of contents", 4, _on(bit_in_contents)),
    Liar("a bit flipped anywhere in a dump", 4, _on(lambda place, chance: flip(place.dump, chance), signed=False)),
    Liar("a dump of no bytes", 4, _on(emptied)),
    Liar("a dump missing", 4, _on(removed)),
    Liar("a text in a dump's place", 4, _on(text_instead)),
    Liar("another database's dump", 4, _on(another_database)),
    Liar("the dump of an empty database", 4, _sql(lambda chance: "SELECT 1", empty=True)),
    Liar(
        "a table missing from a dump", 4, _any("DROP TABLE setting", "DROP TABLE report", "DROP TABLE author CASCADE")
    ),
    Liar("one row changed in a dump", 4, _sql(row_changed)),
    Liar("one row missing from a dump", 4, _sql(lambda chance: f"DELETE FROM report WHERE id = {_row(chance)}")),
    Liar(
        "a large object changed or missing in a dump",
        4,
        _any(
            "SELECT lo_unlink(4711)",
            "SELECT lo_put(4711, 3, 'E')",
            r"SELECT lo_put(4712, 17999, '\x00')",
            "SELECT lo_put(4712, 18000, 'more')",
            "SELECT lo_from_bytea(4713, '')",
        ),
    ),
    Liar("a sequence set back in a dump", 4, _sql(set_back)),
    Liar(
        "a column missing from a dump",
        4,
        _any("ALTER TABLE report DROP body", "ALTER TABLE report DROP author", "ALTER TABLE setting DROP value"),
    ),
    Liar("an index missing from a dump", 4, _any("DROP INDEX report_title")),
    Liar(
        "a constraint missing from a dump",
        4,
        _any(
            "ALTER TABLE report DROP CONSTRAINT report_author_fkey",
            "ALTER TABLE setting DROP CONSTRAINT setting_pkey",
            "ALTER TABLE author ALTER name DROP NOT NULL",
        ),
    ),
    Liar("a canary's answer changed, of a server", 4, canary_changed),
    Liar("a named file missing, of a server", 4, named_file_missing),
)
