"""Promise 5: a data generation is swapped and swapped back in one rename while a process holds the old one open."""

from __future__ import annotations

from backstay_lab.scene import APPLICATION, Scene

HOME = f"/opt/{APPLICATION}"


def test_a_generation_swaps_and_swaps_back_while_the_old_database_is_open(standing: Scene) -> None:
    first = standing.lab.ssh("app1", f"readlink {HOME}/data").stdout.strip()
    program = f"""
import os, sqlite3
path = "{HOME}/data/db/portal.sqlite3"
held = sqlite3.connect(path)
held.execute("pragma journal_mode=wal")
before = held.execute("select count(*) from audits_audit").fetchone()[0]
os.makedirs("{HOME}/data.d/spike/db")
copy = sqlite3.connect("{HOME}/data.d/spike/db/portal.sqlite3")
held.backup(copy)
copy.execute("create table spike(mark)")
copy.commit()
copy.close()
def swap(target):
    os.symlink(target, "{HOME}/data.new")
    os.rename("{HOME}/data.new", "{HOME}/data")
def marked():
    fresh = sqlite3.connect(path)
    try:
        return bool(fresh.execute("select 1 from sqlite_master where name='spike'").fetchone())
    finally:
        fresh.close()
swap("data.d/spike")
inside = marked()
still = held.execute("select count(*) from audits_audit").fetchone()[0]
held_sees = bool(held.execute("select 1 from sqlite_master where name='spike'").fetchone())
swap("{first}")
back = marked()
print(before > 0, inside, still == before, held_sees, back)
"""
    try:
        told = standing.lab.ssh("app1", f"python3 - <<'EOF'\n{program}\nEOF").stdout.split()
    finally:
        standing.lab.ssh("app1", f"ln -sfn {first} {HOME}/data && rm -rf {HOME}/data.d/spike")
    # rows there; the new one seen by a new connection; the old connection undisturbed and blind to it; back again
    assert told == ["True", "True", "True", "False", "False"]
    assert standing.backstay("health", APPLICATION)
