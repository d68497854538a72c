"""The README says of `make bench` what docs/bench.md says, with what was missed."""

from __future__ import annotations

import re
from pathlib import Path

import bench_table

README = (bench_table.ROOT / "README.md").read_text(encoding="utf-8")


def rows(page: Path) -> dict[str, list[str]]:
    """The table of the last run: the cells after the name of each row."""
    table = page.read_text(encoding="utf-8").partition(bench_table.BEGIN)[2].partition(bench_table.END)[0]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    return {name: cells for name, *cells in lines}


def test_its_figures_are_those_of_the_last_run_and_every_budget_that_was_missed_is_named() -> None:
    bench = rows(bench_table.PAGE)
    told = re.search(r"^In the last `make bench`.+?\n\n", README, re.MULTILINE | re.DOTALL)
    assert told, "README.md says nothing about `make bench`"
    requests = int(bench["long run: requests"][0].replace(" ", ""))
    wanted = [f"none of {requests:,} requests", f"{bench['long run: longest gap between two successes, ms'][0]} ms"]
    wanted += [
        cells[0].split(" / ")[1] if "/" in cells[0] else cells[0] for cells in bench.values() if "missed" in cells[-1]
    ]
    absent = [figure for figure in wanted if figure not in told[0]]
    assert absent == [], "README.md does not name these figures of docs/bench.md"
    assert bench["long run: failed requests"][0] == "0"
