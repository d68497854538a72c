"""Questions to an SQLite database that is in use, asked by a process that has become the application's user.

Root never opens such a file: it would follow what the application put there, and leave files of root's beside it, which
the application could then not open. The process only reads, and ends at its deadline.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ._errors import BackstayError
from ._run import Runner, run
from ._sqlite_copy import ANSWER_BYTES, ANSWER_ROWS, BECOME, Account
from ._storage import canonical

_CHILD = """\
ended = time.monotonic() + job["seconds"]
os.chdir("/")
reads = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE, sqlite3.SQLITE_FUNCTION}
refused = {"load_extension", "fts3_tokenizer", "writefile", "readfile", "edit"}
def allow(action, first, second, schema, trigger):
    if action == sqlite3.SQLITE_PRAGMA and first in ("data_version", "page_size") and second is None:
        return sqlite3.SQLITE_OK  # search indexes ask them whenever they read
    good = action in reads and not (action == sqlite3.SQLITE_FUNCTION and str(second).lower() in refused)
    return sqlite3.SQLITE_OK if good else sqlite3.SQLITE_DENY
def form(value):
    if isinstance(value, bytes):
        return {"blob": value.hex()}
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return {"real": repr(value)}
    return value
def tell(**event):
    print(json.dumps(event), flush=True)
try:
    found = sqlite3.connect(job["uri"], uri=True, timeout=job["seconds"], isolation_level=None)
    found.text_factory = lambda content: content.decode(errors="backslashreplace")
    found.set_progress_handler(lambda: int(time.monotonic() > ended), 10000)
    if job["count"]:
        names = [row[0] for row in found.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0 AND name NOT LIKE 'sqlite!_%' "
            "ESCAPE '!' ORDER BY name")]
    else:
        names = []
    for row in found.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage = 0").fetchall():
        try:  # SQLite declares the columns of a search index by statements that are refused afterwards
            found.execute('PRAGMA table_info("' + row[0].replace('"', '""') + '")')
        except sqlite3.Error:
            pass  # of a kind that is unknown here: left to the query that asks for it
    found.set_authorizer(allow)
    for name, query in job["queries"].items():
        rows, size = [], 0
        for row in found.execute(query):
            rows.append([form(value) for value in row])
            size += sum(len(value) for value in row if isinstance(value, (str, bytes)))
            if len(rows) > job["rows"] or size > job["bytes"]:
                raise sqlite3.DatabaseError("it answers with too much: ask for less")
        tell(query=name, rows=rows)
    for name in names:
        quoted = '"' + name.replace('"', '""') + '"'
        tell(table=name, count=found.execute(f"SELECT count(*) FROM {quoted}").fetchone()[0])
    tell(done=True)
except (sqlite3.Error, sqlite3.Warning, OSError) as error:
    tell(late=time.monotonic() > ended, error=str(error))
"""


@dataclass(frozen=True)
class Told:
    """What a database said before its time was up: rows by table, answers by query. `problem` is why there is no more;
    empty where everything was asked, "late" where time was up."""

    counts: Mapping[str, int] = field(default_factory=dict)
    answers: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""


def ask(
    path: Path,
    *,
    account: Account | None,
    queries: Mapping[str, str] | None = None,
    count: bool = False,
    seconds: float = 30.0,
    runner: Runner = run,
) -> Told:
    """Ask queries of a live database, in the form that `_sqlite_copy.answer` gives, and with `count` the rows of every
    table. `account` is whom the process becomes (None: it stays who this is). Raises nothing but for lack of Python."""
    job = {
        "uri": f"file:{quote(str(path.absolute()))}?mode=ro",
        "account": None if account is None else [account.uid, account.gid, list(account.groups)],
        "parent": os.getpid(),
        "queries": dict(queries or {}),
        "count": count,
        "seconds": seconds,
        "rows": ANSWER_ROWS,
        "bytes": ANSWER_BYTES,
    }
    try:
        done = runner(
            [sys.executable, "-I", "-S", "-c", BECOME + _CHILD],
            stdin=json.dumps(job),
            timeout_seconds=seconds + 5,
            environment={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            check=False,
        )
    except BackstayError as late:
        return Told(problem="late" if "did not end" in late.message else late.message)
    counts: dict[str, int] = {}
    answers: dict[str, str] = {}
    problem = (done.last_lines(1) or ("the process that reads it ended",))[0]
    for line in done.stdout.splitlines():
        try:
            event: dict[str, Any] = json.loads(line)
        except ValueError:
            continue
        if "table" in event:
            counts[str(event["table"])] = int(event["count"])
        elif "query" in event:
            answers[str(event["query"])] = canonical(event["rows"]).decode()
        elif event.get("done"):
            problem = ""
        elif "error" in event:
            problem = "late" if event.get("late") else str(event["error"])[:200]
    return Told(counts, answers, problem)
