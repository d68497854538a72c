"""Runs on a host, from standard input: makes data of a size, and times a command. Prints one JSON object.

python3 - fill BYTES SEED      so many bytes of rows, and of photographs, wholly new for each seed
python3 - load BYTES SEED      so many bytes of rows in PostgreSQL's database `portal`, wholly new for each seed
python3 - ready DIRECTORY      a snapshot as somebody else would have made it, for the engine alone
python3 - time COMMAND...      seconds, CPU seconds and the memory of the largest process (bytes)
"""

import json
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

DATA = Path("/opt/audit-portal/data").resolve()
DATABASE = DATA / "db" / "portal.sqlite3"
MEDIA = DATA / "media" / "bench"
ROW_BYTES = 1950  # two of them, with their addresses, fill a page: a gigabyte of rows is one on the disk
PHOTOGRAPH_BYTES = 1 << 20


def fill(size_bytes: int, seed: int) -> dict[str, float]:
    """Rows half of which is text, in transactions so short that visitors' writes get in between."""
    chance = random.Random(seed)
    words = [chance.randbytes(6).hex() for _unused in range(5000)]
    owner = DATABASE.stat()
    connection = sqlite3.connect(DATABASE, timeout=60, isolation_level=None)
    connection.execute("DROP TABLE IF EXISTS bench_rows")
    connection.execute("CREATE TABLE bench_rows (id INTEGER PRIMARY KEY, url TEXT, body TEXT, thumbnail BLOB)")
    for first in range(0, size_bytes // ROW_BYTES, 2000):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO bench_rows (url, body, thumbnail) VALUES (?, ?, ?)",
            [
                (
                    f"/audits/{first + number}/",
                    " ".join(chance.choices(words, k=ROW_BYTES // 26)),
                    chance.randbytes(ROW_BYTES // 2),
                )
                for number in range(2000)
            ],
        )
        connection.execute("COMMIT")
    connection.execute("VACUUM")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    shutil.rmtree(MEDIA, ignore_errors=True)
    MEDIA.mkdir()
    for number in range(size_bytes // PHOTOGRAPH_BYTES):
        photograph = MEDIA / f"{number % 32:02}" / f"{number}.jpg"
        photograph.parent.mkdir(parents=True, exist_ok=True)
        photograph.write_bytes(chance.randbytes(PHOTOGRAPH_BYTES))
        taken = time.time() - 3600  # of the last minute is little on any day: whoever still writes to it may go on
        os.utime(photograph, (taken, taken))
    for path in (*DATABASE.parent.iterdir(), MEDIA, *MEDIA.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)
    os.sync()
    return {"database_bytes": DATABASE.stat().st_size, "media_bytes": size_bytes}


def load(size_bytes: int, seed: int) -> dict[str, float]:
    """Rows that compress to half, as those of `fill` do."""
    chance = random.Random(seed)
    psql = ["runuser", "-u", "postgres", "--", "psql", "-q", "-v", "ON_ERROR_STOP=1", "-d", "portal"]
    table = "DROP TABLE IF EXISTS bench_rows; CREATE TABLE bench_rows (id bigint PRIMARY KEY, body text); "
    owner = 'ALTER TABLE bench_rows OWNER TO "audit-portal"; '
    command = [*psql, "-c", f"{table}{owner}", "-c", "COPY bench_rows FROM STDIN"]
    copying = subprocess.Popen(command, stdin=subprocess.PIPE)
    for number in range(size_bytes // ROW_BYTES):
        copying.stdin.write(f"{number}\t{chance.randbytes(ROW_BYTES // 2).hex()}\n".encode())
    copying.stdin.close()
    if copying.wait() != 0:
        sys.exit(f"psql ended with {copying.returncode}")
    subprocess.run([*psql, "-c", "VACUUM FULL bench_rows", "-c", "CHECKPOINT"], check=True)
    return {}


def ready(directory: Path) -> dict[str, float]:
    """The database copied by SQLite's own backup, the media linked."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    source, target = sqlite3.connect(DATABASE), sqlite3.connect(directory / "portal.sqlite3")
    source.backup(target)
    target.close()
    source.close()
    subprocess.run(["cp", "-al", str(DATA / "media"), str(directory / "media")], check=True)
    os.sync()
    return {}


def timed(command: list[str]) -> dict[str, float]:
    """What it says goes to standard error, its end is awaited, and a failure is ours."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True, stdout=sys.stderr)
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu_seconds": cpu, "memory_bytes": after.ru_maxrss * 1024}


if sys.argv[1] == "fill":
    found = fill(int(sys.argv[2]), int(sys.argv[3]))
elif sys.argv[1] == "load":
    found = load(int(sys.argv[2]), int(sys.argv[3]))
elif sys.argv[1] == "ready":
    found = ready(Path(sys.argv[2]))
else:
    found = timed(sys.argv[2:])
print(json.dumps(found))
