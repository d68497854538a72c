"""Put the summary that `make bench` wrote last (.lab/bench.md) into docs/bench.md, as it is.

    python tools/bench_table.py

Every figure of that page comes from there; nothing is typed by hand.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUMMARY = ROOT / ".lab" / "bench.md"
PAGE = ROOT / "docs" / "bench.md"
BEGIN = "<!-- bench: from the output of `make bench`, by `python tools/bench_table.py` -->"
END = "<!-- end of bench -->"


def main() -> int:
    if not SUMMARY.exists():
        sys.exit(f"bench_table: {SUMMARY.relative_to(ROOT)} is missing: run `make bench` first.")
    before, _begin, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _table, _end, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{SUMMARY.read_text(encoding='utf-8').strip()}\n{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
