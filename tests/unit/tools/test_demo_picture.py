"""tools/demo_picture.py: the README's figures are those that the demo printed."""

from __future__ import annotations

import demo_picture

LOG = f"""make[1]: noise
\x1b[1mBackstay demo\x1b[0m - real hosts

  release 1.1.0, with a migration                              15.7 s   0003-1.1.0

  releases                                 15.7 s, 9.9 s
  failed                                   \x1b[32m0\x1b[0m
  answered by 0003-1.1.0                   560
  refused                                  app1: 0006-1.2.0 is not well

  audit-portal runs at https://10.89.10.11/  (trust {demo_picture.ROOT}/.lab/demo/ca/ca.crt)
  make demo-down removes it all

real 3m46
"""


def test_the_table_is_what_the_demo_printed() -> None:
    assert demo_picture.figures(demo_picture.lines_of(LOG)) == [("releases", "15.7 s, 9.9 s"), ("failed", "0")]


def test_the_picture_shows_the_demo_only_and_no_path_of_the_machine() -> None:
    lines = demo_picture.lines_of(LOG)
    assert (lines[0], lines[-1]) == ("Backstay demo - real hosts", "  make demo-down removes it all")
    assert not any(str(demo_picture.ROOT) in line or "\x1b" in line for line in lines)


def test_the_readme_keeps_everything_but_its_figures() -> None:
    text = f"before\n{demo_picture.BEGIN}\nold\n{demo_picture.END}\nafter\n"
    new = demo_picture.with_figures(text, demo_picture.lines_of(LOG))
    table = "| `make demo` | measured |\n|---|---|\n| releases | 15.7 s, 9.9 s |\n| failed | 0 |"
    assert new == f"before\n{demo_picture.BEGIN}\n{table}\n{demo_picture.END}\nafter\n"
