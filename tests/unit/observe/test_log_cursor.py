"""A log is read once, line by line, whatever rotates it, cuts it, or ends in the middle of a line."""

from __future__ import annotations

import random
from pathlib import Path

from ansible_collections.backstay.ops.plugins.module_utils._log_cursor import Place, Since


class Reader:
    """Reads as the observer does: each time another process, with nothing but the places."""

    def __init__(self, path: Path, limit_bytes: int = 1 << 20) -> None:
        self.path = path
        self.limit_bytes = limit_bytes
        self.places: tuple[Place, ...] = ()
        self.scale = 1.0

    def __call__(self) -> list[str]:
        since = Since(self.path, self.places, limit_bytes=self.limit_bytes)
        lines = [line.decode() for line in since]
        self.places = Place.read([place.to_dict() for place in since.places])
        self.scale = since.scale
        return lines


def write(path: Path, text: str) -> None:
    with path.open("a") as log:
        log.write(text)


def test_what_was_there_before_the_first_look_is_passed_over(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write(log, "old\nhal")
    read = Reader(log)
    assert read() == []
    write(log, "f\nnew\n")
    assert read() == ["half", "new"]
    assert read() == []


def test_a_log_that_is_not_there_yet_is_no_fault(tmp_path: Path) -> None:
    log = tmp_path / "log"
    read = Reader(log)
    assert read() == []
    write(log, "the first, and the only one for days\n")
    assert read() == ["the first, and the only one for days"]
    assert read() == []


def test_half_a_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write(log, "")
    read = Reader(log)
    assert read() == []
    write(log, "one\ntw")
    assert read() == ["one"]
    assert read() == []
    write(log, "o\n")
    assert read() == ["two"]


def test_a_rotation_loses_nothing_also_of_what_is_written_into_the_old_file_after_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write(log, "")
    read = Reader(log)
    read()
    write(log, "one\n")
    with log.open("a") as writer:  # nginx keeps it open until it is told
        log.rename(tmp_path / "log.1")
        log.touch()
        writer.write("two\n")
        writer.flush()
        assert read() == ["one", "two"]
        writer.write("three\n")
    write(log, "four\n")
    assert read() == ["three", "four"]


def test_a_log_that_is_truncated_in_place_is_read_from_its_beginning(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write(log, "one\n" * 10)
    read = Reader(log)
    read()
    log.write_text("two\n")
    assert read() == ["two"]


def test_a_file_that_is_given_the_number_of_one_that_was_removed_is_another(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write(log, "first\n")
    read = Reader(log)
    read()
    read.places = (Place(log.stat().st_ino, 3, "of another"),)
    write(log, "second\n")
    assert read() == ["first", "second"]


def test_of_too_much_the_newest_is_read_and_stands_for_all(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write(log, "")
    read = Reader(log, limit_bytes=1000)
    read()
    write(log, "".join(f"line {number:04}\n" for number in range(1000)))
    lines = read()
    assert lines[-1] == "line 0999"
    assert all(len(line) == 9 for line in lines), "none is cut"
    assert 950 < len(lines) * read.scale < 1050


def test_any_row_of_writes_and_rotations_is_read_once(tmp_path: Path) -> None:
    for seed in range(40):
        dice = random.Random(seed)
        room = tmp_path / str(seed)
        room.mkdir()
        log = room / "log"
        log.touch()
        read, written, seen, rest = Reader(log), "", [], ""
        read()
        number = 1000
        for _unused in range(40):
            match dice.choice("wwwwrrR"):
                case "w":
                    number += 1  # no two lines are the same, as none of a log are
                    text = "".join(dice.choice(f"{number}\n") for _unused in range(dice.randint(1, 9)))
                    write(log, text)
                    written += text
                case "r":
                    seen += read()
                case "R" if written.endswith("\n"):  # nginx ends its lines before it takes the next file
                    seen += read()
                    log.rename(room / "log.1")
                    log.touch()
        seen += read()
        lines = written.split("\n")
        rest = lines.pop()
        assert seen == lines, f"seed {seed}, half a line {rest!r}"
